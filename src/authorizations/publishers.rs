//! What the account of an application is told of the tenants that authorize it (0-24), whichever account those are of.
//!
//! An event concerns one account. What happens to a tenant, and to what it authorizes, is told on its side; the account
//! of the application is told by an event of its own, which names the tenant by its id alone and says no more of it
//! than how it stands. However many tenants are below one that is locked, it is one statement.

use chrono::{DateTime, Utc};
use diesel::{
    sql_query,
    sql_types::{self, Nullable, Text, Timestamptz},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use crate::{
    error::Result,
    events::outbox::Event,
    pb,
    rpc::{mutate::Change, permit::json_of},
};

/// The id of one of many events that a statement writes: of the time of `$1`, an id from the clock, and random for the
/// rest.
pub(super) const EVENT_ID: &str = "(left($1, 15) || substr(gen_random_uuid()::text, 16))::uuid";

/// How JSON has a time.
pub(super) const TIME: &str = r#"'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"#;

/// What happened to a tenant that its publishers are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It was deleted.
    Deleted,
    /// It was brought back.
    Undeleted,
    /// It is expunged.
    Expunged,
}

impl Turn {
    fn kind(self) -> &'static str {
        match self {
            Self::Deleted => "authorization.tenant_deleted",
            Self::Undeleted => "authorization.tenant_undeleted",
            Self::Expunged => "authorization.tenant_expunged",
        }
    }
}

/// Tells how a tenant and all below it stand, after a lock that binds them has changed.
///
/// # Errors
///
/// What the database reports.
pub async fn tell_standing(change: &mut Change<'_>, tenant_uid: Uuid) -> Result<()> {
    tell(change, tenant_uid, None).await
}

/// Tells what has happened to a tenant.
///
/// # Errors
///
/// What the database reports.
pub async fn tell_turn(change: &mut Change<'_>, tenant_uid: Uuid, turn: Turn) -> Result<()> {
    tell(change, tenant_uid, Some(turn.kind())).await
}

async fn tell(change: &mut Change<'_>, tenant_uid: Uuid, kind: Option<&str>) -> Result<()> {
    let (id, now) = (change.uuid().to_string(), change.now);
    let call = change.call;
    sql_query(format!(
        "insert into events (event_id, type, method, account_id, tenant_id, resource_type, resource_id, actor,
                 correlation_id, after, event_time)
             select {EVENT_ID},
                 coalesce($2, case when suspended then 'authorization.tenant_suspended'
                     else 'authorization.tenant_resumed' end),
                 $3, publisher_account_id, tenant_id, 'authorization', authorization_id::text, $4, $5,
                 jsonb_strip_nulls(jsonb_build_object('authorization_id', authorization_id, 'tenant_id', tenant_id,
                     'application_id', application_id, 'environment', environment, 'suspended', suspended,
                     'resume_time', to_char(resume_time at time zone 'utc', {TIME}))),
                 $6
             from authorizations_below($7, $6)
             where case when $2 is null then not is_deleted else tenant_uid = $7 end"
    ))
    .bind::<Text, _>(id)
    .bind::<Nullable<Text>, _>(kind)
    .bind::<Text, _>(call.method)
    .bind::<Text, _>(call.actor())
    .bind::<Text, _>(&*call.correlation_id)
    .bind::<Timestamptz, _>(now)
    .bind::<sql_types::Uuid, _>(tenant_uid)
    .execute(change.conn())
    .await?;
    Ok(())
}

/// Tells that the purge of a tenant begins, as the role that purges.
///
/// # Errors
///
/// What the database reports.
pub async fn tell_purge(
    conn: &mut AsyncPgConnection,
    id: Uuid,
    correlation_id: &str,
    tenant_uid: Uuid,
    now: DateTime<Utc>,
) -> Result<()> {
    sql_query(format!(
        "insert into events (event_id, type, method, account_id, tenant_id, resource_type, resource_id, actor,
                 correlation_id, after, event_time)
             select {EVENT_ID}, 'authorization.tenant_purged', 'purge', publisher_account_id, tenant_id,
                 'authorization', authorization_id::text, 'system', $2,
                 jsonb_build_object('authorization_id', authorization_id, 'tenant_id', tenant_id,
                     'application_id', application_id, 'environment', environment),
                 $3
             from tenant_authorizations
             where tenant_uid = $4 and state = 'ACTIVE'
                 and (valid_until is null or valid_until > $3)"
    ))
    .bind::<Text, _>(id.to_string())
    .bind::<Text, _>(correlation_id)
    .bind::<Timestamptz, _>(now)
    .bind::<sql_types::Uuid, _>(tenant_uid)
    .execute(conn)
    .await?;
    Ok(())
}

/// Tells the account of an application what has happened to an authorization, where that of the tenant, which is told
/// of it by itself, is another.
pub(super) async fn copy(
    change: &mut Change<'_>,
    kind: &'static str,
    tenant_account_id: &str,
    before: Option<&pb::Authorization>,
    after: &pb::Authorization,
) -> Result<()> {
    if after.publisher_account_id == tenant_account_id {
        return Ok(());
    }
    let event = Event {
        kind,
        account_id: Some(&after.publisher_account_id),
        tenant: None,
        resource_type: "authorization",
        resource_id: &after.authorization_id,
        before: before.map(|it| json_of(&without_people(it))),
        after: Some(json_of(&without_people(after))),
    };
    change.record_aside(event, &after.tenant_id).await
}

/// An authorization without who gave and took it, and why: this outlives the tenant.
fn without_people(authorization: &pb::Authorization) -> pb::Authorization {
    pb::Authorization {
        authorized_by: None,
        revoked_by: String::new(),
        revoke_reason: String::new(),
        revoke_contact: String::new(),
        ..authorization.clone()
    }
}
