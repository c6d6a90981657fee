//! Marks the authorizations whose time is over, counts anew, and tells of it.
//!
//! Nothing waits for that: what is over is over at its moment, in every answer. But a row that is marked costs those who
//! count nothing any more, and both sides are told.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName, sql_query,
    sql_types::{self, Array, BigInt, Text, Timestamptz},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    counts, overdue,
    publishers::{EVENT_ID, TIME},
};
use crate::{
    db::Role,
    error::{Result, causes},
    server::Shared,
};

/// How often it is looked what is over.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// How long one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// How many are marked in one step.
const ROWS_MAX: i64 = 500;

/// Marks what is over, be it an authorization or a request, until it is dropped.
pub async fn run(shared: Arc<Shared>) {
    loop {
        match round(&shared).await {
            Ok(0) => {}
            Ok(authorizations) => tracing::info!(authorizations, "expired"),
            Err(error) => {
                tracing::warn!(error = causes(&error), "authorizations that are over have to wait");
            }
        }
        if let Err(error) = overdue::round(&shared).await {
            tracing::warn!(error = causes(&error), "requests that are over have to wait");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[derive(QueryableByName)]
struct Ended {
    #[diesel(sql_type = sql_types::Uuid)]
    tenant_uid: Uuid,
    #[diesel(sql_type = sql_types::Uuid)]
    authorization_id: Uuid,
    #[diesel(sql_type = Text)]
    publisher_account_id: String,
    #[diesel(sql_type = Text)]
    application_id: String,
    #[diesel(sql_type = Text)]
    environment: String,
}

/// Marks all that is over, but for what somebody else is at; answers how many.
///
/// # Errors
///
/// What the database reports.
pub async fn round(shared: &Shared) -> Result<usize> {
    let mut marked = 0;
    loop {
        let now = shared.clock.now();
        let deadline = Instant::now() + STEP_TIMEOUT;
        let mut transaction = shared.database.begin_as(Role::Expiry, deadline).await?;
        let ended = mark(transaction.conn(), now).await?;
        if !ended.is_empty() {
            book(transaction.conn(), &ended).await?;
            tell(transaction.conn(), shared, &ended, now).await?;
        }
        transaction.commit().await?;
        marked += ended.len();
        if i64::try_from(ended.len()).is_ok_and(|rows| rows < ROWS_MAX) {
            return Ok(marked);
        }
    }
}

async fn mark(conn: &mut AsyncPgConnection, now: DateTime<Utc>) -> Result<Vec<Ended>> {
    Ok(sql_query(
        "update tenant_authorizations as ending set state = 'EXPIRED'
             from (
                 select tenant_uid, authorization_id from tenant_authorizations
                 where state = 'ACTIVE' and valid_until <= $1
                 order by valid_until
                 limit $2
                 for update skip locked
             ) as due
             where ending.tenant_uid = due.tenant_uid and ending.authorization_id = due.authorization_id
             returning ending.tenant_uid, ending.authorization_id, ending.publisher_account_id,
                 ending.application_id, ending.environment",
    )
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(ROWS_MAX)
    .load(conn)
    .await?)
}

async fn book(conn: &mut AsyncPgConnection, ended: &[Ended]) -> Result<()> {
    let tenants = ended.iter().map(|it| it.tenant_uid).collect::<Vec<_>>();
    let of = |text: fn(&Ended) -> &str| ended.iter().map(text).collect::<Vec<_>>();
    let publishers = of(|it| &it.publisher_account_id);
    let applications = of(|it| &it.application_id);
    let environments = of(|it| &it.environment);
    counts::book_all(conn, &tenants, &publishers, &applications, &environments).await
}

/// Tells the tenants' side and, where that is another account, the application's.
async fn tell(
    conn: &mut AsyncPgConnection,
    shared: &Shared,
    ended: &[Ended],
    now: DateTime<Utc>,
) -> Result<()> {
    let tenants = ended.iter().map(|it| it.tenant_uid).collect::<Vec<_>>();
    let ids = ended.iter().map(|it| it.authorization_id).collect::<Vec<_>>();
    sql_query(format!(
        "insert into events (event_id, type, method, account_id, tenant_uid, tenant_id, ancestors, resource_type,
                 resource_id, actor, correlation_id, after, event_time)
             select {EVENT_ID}, 'authorization.expired', 'expiry', side.account_id, side.tenant_uid, had.tenant_id,
                 side.ancestors, 'authorization', had.authorization_id::text, 'system', $2,
                 jsonb_build_object('authorization_id', had.authorization_id, 'tenant_id', had.tenant_id,
                     'application_id', had.application_id, 'environment', had.environment,
                     'publisher_account_id', had.publisher_account_id, 'state', 'AUTHORIZATION_STATE_EXPIRED',
                     'valid_until', to_char(had.valid_until at time zone 'utc', {TIME})),
                 $3
             from unnest($4, $5) as ended (tenant_uid, authorization_id)
             join tenant_authorizations as had on had.tenant_uid = ended.tenant_uid
                 and had.authorization_id = ended.authorization_id
             join tenants on tenants.uid = had.tenant_uid
             cross join lateral (values
                 (tenants.account_id, tenants.uid, tenants.ancestors),
                 (had.publisher_account_id, null, null)
             ) as side (account_id, tenant_uid, ancestors)
             where side.tenant_uid is not null or side.account_id <> tenants.account_id"
    ))
    .bind::<Text, _>(shared.clock.uuid().to_string())
    .bind::<Text, _>(shared.clock.uuid().to_string())
    .bind::<Timestamptz, _>(now)
    .bind::<Array<sql_types::Uuid>, _>(tenants)
    .bind::<Array<sql_types::Uuid>, _>(ids)
    .execute(conn)
    .await?;
    Ok(())
}
