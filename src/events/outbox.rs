//! What happened, written in the transaction in which it happened.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use super::kinds::KINDS;
use crate::{
    error::{Error, Result},
    schema::{events, tenant_tombstones, tenants},
};

/// One thing that happened.
#[derive(Debug)]
pub struct Event<'a> {
    /// Resource and what happened to it, such as `tenant.created`.
    pub kind: &'static str,
    /// The account concerned, if any.
    pub account_id: Option<&'a str>,
    /// The tenant concerned, by UUID and by id, if any.
    pub tenant: Option<(Uuid, &'a str)>,
    /// The resource, such as `tenant`.
    pub resource_type: &'static str,
    /// Its id.
    pub resource_id: &'a str,
    /// It before the change, without secrets.
    pub before: Option<Value>,
    /// It after the change, without secrets.
    pub after: Option<Value>,
}

/// Where a change came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The RPC, or the command.
    pub method: &'a str,
    /// Who did it: a key, or `system`.
    pub actor: &'a str,
    /// For whom, where it was not for itself.
    pub on_behalf_of: Option<&'a str>,
    /// What ties it to its cause.
    pub correlation_id: &'a str,
}

/// Writes an event.
///
/// # Errors
///
/// What the database reports.
pub async fn append(
    conn: &mut AsyncPgConnection,
    id: Uuid,
    origin: Origin<'_>,
    now: DateTime<Utc>,
    event: Event<'_>,
) -> Result<()> {
    append_below(conn, id, origin, now, event, &[]).await
}

/// As [`append`], for what also concerns tenants that are not above the tenant any more.
///
/// # Errors
///
/// As [`append`].
pub async fn append_below(
    conn: &mut AsyncPgConnection,
    id: Uuid,
    origin: Origin<'_>,
    now: DateTime<Utc>,
    event: Event<'_>,
    before: &[Option<Uuid>],
) -> Result<()> {
    let Event { kind, account_id, tenant, resource_type, resource_id, before: was, after } = event;
    if !KINDS.contains(&kind) {
        return Err(Error::internal(format!("no type of events is {kind}")));
    }
    let ancestors = match tenant {
        None => None,
        Some((uid, _)) => Some(merge(ancestors_of(conn, uid).await?, before)),
    };
    diesel::insert_into(events::table)
        .values((
            events::event_id.eq(id),
            events::type_.eq(kind),
            events::method.eq(origin.method),
            events::account_id.eq(account_id),
            events::tenant_uid.eq(tenant.map(|(uid, _)| uid)),
            events::tenant_id.eq(tenant.map(|(_, id)| id)),
            events::ancestors.eq(ancestors),
            events::resource_type.eq(resource_type),
            events::resource_id.eq(resource_id),
            events::actor.eq(origin.actor),
            events::on_behalf_of.eq(origin.on_behalf_of),
            events::correlation_id.eq(origin.correlation_id),
            events::before.eq(was),
            events::after.eq(after),
            events::event_time.eq(now),
        ))
        .execute(conn)
        .await?;
    Ok(())
}

/// Writes an event that an account is told of a tenant whose id it knows, which need not be one of its own: the event
/// is not one of the tenant.
///
/// # Errors
///
/// As [`append`].
pub async fn append_aside(
    conn: &mut AsyncPgConnection,
    id: Uuid,
    origin: Origin<'_>,
    now: DateTime<Utc>,
    event: Event<'_>,
    tenant_id: &str,
) -> Result<()> {
    let Event { kind, account_id, tenant, resource_type, resource_id, before, after } = event;
    if !KINDS.contains(&kind) || tenant.is_some() {
        return Err(Error::internal(format!("no event {kind} beside a tenant")));
    }
    diesel::insert_into(events::table)
        .values((
            events::event_id.eq(id),
            events::type_.eq(kind),
            events::method.eq(origin.method),
            events::account_id.eq(account_id),
            events::tenant_id.eq(tenant_id),
            events::resource_type.eq(resource_type),
            events::resource_id.eq(resource_id),
            events::actor.eq(origin.actor),
            events::on_behalf_of.eq(origin.on_behalf_of),
            events::correlation_id.eq(origin.correlation_id),
            events::before.eq(before),
            events::after.eq(after),
            events::event_time.eq(now),
        ))
        .execute(conn)
        .await?;
    Ok(())
}

/// Writes several events of one change, which concern one tenant, in their order.
///
/// # Errors
///
/// As [`append`].
pub async fn append_all(
    conn: &mut AsyncPgConnection,
    origin: Origin<'_>,
    now: DateTime<Utc>,
    tenant: (Uuid, &str),
    events: Vec<(Uuid, Event<'_>)>,
) -> Result<()> {
    let (uid, tenant_id) = tenant;
    let ancestors = ancestors_of(conn, uid).await?;
    let mut rows = Vec::with_capacity(events.len());
    for (id, event) in events {
        let Event { kind, account_id, tenant: of, resource_type, resource_id, before, after } =
            event;
        if !KINDS.contains(&kind) || of.is_none_or(|(of, _)| of != uid) {
            return Err(Error::internal(format!("no event {kind} of the tenant")));
        }
        rows.push((
            events::event_id.eq(id),
            events::type_.eq(kind),
            events::method.eq(origin.method),
            events::account_id.eq(account_id),
            events::tenant_uid.eq(uid),
            events::tenant_id.eq(tenant_id),
            events::ancestors.eq(ancestors.clone()),
            events::resource_type.eq(resource_type),
            events::resource_id.eq(resource_id),
            events::actor.eq(origin.actor),
            events::on_behalf_of.eq(origin.on_behalf_of),
            events::correlation_id.eq(origin.correlation_id),
            events::before.eq(before),
            events::after.eq(after),
            events::event_time.eq(now),
        ));
    }
    diesel::insert_into(events::table).values(rows).execute(conn).await?;
    Ok(())
}

/// The tenants above a tenant, which may be one of which nothing is left but that.
async fn ancestors_of(conn: &mut AsyncPgConnection, uid: Uuid) -> Result<Vec<Option<Uuid>>> {
    let there = tenants::table.find(uid).select(tenants::ancestors);
    let found = there.get_result(conn).await.optional()?;
    if let Some(ancestors) = found {
        return Ok(ancestors);
    }
    let left = tenant_tombstones::table.find(uid).select(tenant_tombstones::ancestors);
    Ok(left.get_result(conn).await.optional()?.unwrap_or_default())
}

fn merge(mut ancestors: Vec<Option<Uuid>>, before: &[Option<Uuid>]) -> Vec<Option<Uuid>> {
    for uid in before {
        if !ancestors.contains(uid) {
            ancestors.push(*uid);
        }
    }
    ancestors
}
