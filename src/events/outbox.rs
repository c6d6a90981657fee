//! What happened, written in the transaction in which it happened: the audit log and, later, the feed.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use crate::{error::Result, schema::events};

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
    let Event { kind, account_id, tenant, resource_type, resource_id, before, after } = event;
    diesel::insert_into(events::table)
        .values((
            events::event_id.eq(id),
            events::type_.eq(kind),
            events::method.eq(origin.method),
            events::account_id.eq(account_id),
            events::tenant_uid.eq(tenant.map(|(uid, _)| uid)),
            events::tenant_id.eq(tenant.map(|(_, id)| id)),
            events::resource_type.eq(resource_type),
            events::resource_id.eq(resource_id),
            events::actor.eq(origin.actor),
            events::correlation_id.eq(origin.correlation_id),
            events::before.eq(before),
            events::after.eq(after),
            events::event_time.eq(now),
        ))
        .execute(conn)
        .await?;
    Ok(())
}
