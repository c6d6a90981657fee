//! Marks requests that nobody decided on in time, and tells of them. Whoever reads one is told by the clock.

use std::time::Duration;

use diesel::{prelude::*, sql_types::Array};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::time::Instant;

use super::requests::{AuthorizationRequest, Outcome, Wish, told_of};
use crate::{
    db::Role,
    error::Result,
    events::outbox::{self, Origin},
    schema::{authorization_requests, tenant_authorizations},
    server::Shared,
};

/// How long one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// How many requests one step marks at most.
const ROWS_MAX: i64 = 200;

/// Marks everything that is over; answers how much that was.
///
/// # Errors
///
/// What the database reports.
pub async fn round(shared: &Shared) -> Result<usize> {
    let mut marked = 0;
    loop {
        let rows = step(shared).await?;
        marked += rows;
        if i64::try_from(rows).is_ok_and(|rows| rows < ROWS_MAX) {
            return Ok(marked);
        }
    }
}

async fn step(shared: &Shared) -> Result<usize> {
    let now = shared.clock.now();
    let deadline = Instant::now() + STEP_TIMEOUT;
    let mut transaction = shared.database.begin_as(Role::Expiry, deadline).await?;
    let conn = transaction.conn();
    // Another node's are passed by.
    let over: Vec<AuthorizationRequest> = authorization_requests::table
        .filter(authorization_requests::state.eq(Outcome::Pending))
        .filter(authorization_requests::expire_time.le(now))
        .order(authorization_requests::expire_time)
        .limit(ROWS_MAX)
        .select(AuthorizationRequest::as_select())
        .for_update()
        .skip_locked()
        .load(conn)
        .await?;
    for before in &over {
        let after = before.expired(now);
        mark(conn, &after).await?;
        let correlation_id = shared.clock.uuid().to_string();
        let origin = Origin {
            method: "expiry",
            actor: "system",
            on_behalf_of: None,
            correlation_id: &correlation_id,
        };
        let id = before.authorization_request_id.to_string();
        let event = told_of("authorization_request.expired", &id, Some(before), &after, now);
        outbox::append(conn, shared.clock.uuid(), origin, now, event).await?;
    }
    transaction.commit().await?;
    Ok(over.len())
}

async fn mark(conn: &mut AsyncPgConnection, after: &AuthorizationRequest) -> Result<()> {
    diesel::update(authorization_requests::table.find(after.authorization_request_id))
        .set((
            authorization_requests::state.eq(after.state),
            authorization_requests::update_time.eq(after.update_time),
            authorization_requests::version.eq(after.version),
        ))
        .execute(conn)
        .await?;
    let (Wish::Update, Some(uid), Some(id)) =
        (after.kind, after.tenant_uid, after.authorization_id)
    else {
        return Ok(());
    };
    // What it asked for is asked for no longer.
    let nothing =
        diesel::dsl::sql::<Array<diesel::sql_types::Nullable<diesel::sql_types::Text>>>("'{}'");
    diesel::update(tenant_authorizations::table.find((uid, id)))
        .set((
            tenant_authorizations::requested_scopes.eq(nothing),
            tenant_authorizations::update_time.eq(after.update_time),
            tenant_authorizations::version.eq(tenant_authorizations::version + 1),
        ))
        .execute(conn)
        .await?;
    Ok(())
}
