//! Tells ahead of what ends: keys and trials, 30, 7 and 1 days before, each at most once.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::{
    QueryableByName,
    sql_types::{self, BigInt, Integer, Nullable, Text, Timestamptz},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::time::Instant;
use uuid::Uuid;

use super::outbox::{self, Event, Origin};
use crate::{
    db::Role,
    error::{Result, causes},
    keys::secret::KeyRef,
    pb,
    rpc::permit::json_of,
    server::Shared,
    wire::timestamp,
};

/// How often it is looked what ends.
const LOOK_EVERY: Duration = Duration::from_mins(10);

/// How long one step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// How much one step tells at most.
const ROWS_MAX: i64 = 500;

/// What ends: what events call it, and where it is found. `$1` is the time.
///
/// What had less time left when it was made is not told of: whoever made it knows. And of what several
/// notices are due for, the last one is told.
const ENDING: &[(&str, &str)] = &[
    (
        "api_key",
        "select key.route || '/' || key.number as resource, key.route, key.number, key.expire_time,
                key.create_time, coalesce(tenants.account_id, key.account_id) as account_id,
                tenants.uid, tenants.tenant_id
             from api_keys as key left join tenants on tenants.uid = key.tenant_uid
             where key.expire_time > $1 and key.expire_time <= $1 + interval '30 days'
                 and key.revoke_time is null",
    ),
    (
        "external_key",
        "select key.route || '/' || key.number as resource, key.route, key.number, key.expire_time,
                key.create_time, tenants.account_id, tenants.uid, tenants.tenant_id
             from external_keys as key join tenants on tenants.uid = key.tenant_uid
             where key.expire_time > $1 and key.expire_time <= $1 + interval '30 days'
                 and key.revoke_time is null",
    ),
    (
        "tenant",
        "select uid::text as resource, null::bigint as route, null::bigint as number,
                trial_expire_time as expire_time, create_time, account_id, uid, tenant_id
             from tenants
             where trial_expire_time > $1 and trial_expire_time <= $1 + interval '30 days'
                 and state <> 'DELETED'",
    ),
];

#[derive(QueryableByName)]
struct Ending {
    #[diesel(sql_type = Text)]
    resource: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    route: Option<i64>,
    #[diesel(sql_type = Nullable<BigInt>)]
    number: Option<i64>,
    #[diesel(sql_type = Timestamptz)]
    expire_time: DateTime<Utc>,
    #[diesel(sql_type = Integer)]
    days_ahead: i32,
    #[diesel(sql_type = Nullable<Text>)]
    account_id: Option<String>,
    #[diesel(sql_type = Nullable<sql_types::Uuid>)]
    uid: Option<Uuid>,
    #[diesel(sql_type = Nullable<Text>)]
    tenant_id: Option<String>,
}

/// Tells ahead of what ends, until it is dropped.
pub async fn run(shared: std::sync::Arc<Shared>) {
    loop {
        if let Err(error) = round(&shared).await {
            tracing::warn!(error = causes(&error), "what ends soon could not be told");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Tells of everything that is due to be told; answers how much that was.
///
/// # Errors
///
/// What the database reports.
pub async fn round(shared: &Shared) -> Result<usize> {
    let mut told = 0;
    for (resource_type, sql) in ENDING {
        loop {
            let now = shared.clock.now();
            let mut transaction =
                shared.database.begin_as(Role::Expiry, Instant::now() + STEP_TIMEOUT).await?;
            let due = due(transaction.conn(), resource_type, sql, now).await?;
            let is_all = i64::try_from(due.len()).is_ok_and(|rows| rows < ROWS_MAX);
            for ending in due {
                told += usize::from(
                    tell(shared, transaction.conn(), resource_type, &ending, now).await?,
                );
            }
            transaction.commit().await?;
            if is_all {
                break;
            }
        }
    }
    forget(shared).await?;
    Ok(told)
}

async fn due(
    conn: &mut AsyncPgConnection,
    resource_type: &str,
    sql: &str,
    now: DateTime<Utc>,
) -> Result<Vec<Ending>> {
    Ok(diesel::sql_query(format!(
        "select ending.*, days_ahead
             from ({sql}) as ending
             cross join lateral (select case
                 when expire_time <= $1 + interval '1 day' then 1
                 when expire_time <= $1 + interval '7 days' then 7
                 else 30 end as days_ahead) as notice
             where create_time <= expire_time - make_interval(days => days_ahead)
                 and not exists (
                     select from expiry_notices as given
                     where given.resource_type = $2 and given.resource = ending.resource
                         and given.expire_time = ending.expire_time
                         and given.days_ahead <= notice.days_ahead)
             order by expire_time
             limit $3"
    ))
    .bind::<Timestamptz, _>(now)
    .bind::<Text, _>(resource_type)
    .bind::<BigInt, _>(ROWS_MAX)
    .load(conn)
    .await?)
}

/// Tells of one end, unless another node has; answers whether it did.
async fn tell(
    shared: &Shared,
    conn: &mut AsyncPgConnection,
    resource_type: &'static str,
    ending: &Ending,
    now: DateTime<Utc>,
) -> Result<bool> {
    let Ending { resource, route, number, expire_time, days_ahead, account_id, uid, tenant_id } =
        ending;
    let given = diesel::sql_query(
        "insert into expiry_notices (resource_type, resource, expire_time, days_ahead, notice_time)
             values ($1, $2, $3, $4, $5)
             on conflict do nothing",
    )
    .bind::<Text, _>(resource_type)
    .bind::<Text, _>(resource)
    .bind::<Timestamptz, _>(expire_time)
    .bind::<Integer, _>(days_ahead)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .await?;
    if given == 0 {
        return Ok(false);
    }
    let resource_id = match (route, number, tenant_id) {
        (Some(route), Some(number), _) => {
            KeyRef { route: *route, number: *number }.public_id(&shared.master).to_string()
        }
        (_, _, Some(tenant_id)) => tenant_id.clone(),
        _ => resource.clone(),
    };
    let kind = match resource_type {
        "api_key" => "api_key.expiring",
        "external_key" => "external_key.expiring",
        _ => "tenant.expiring",
    };
    let expiry = pb::Expiry { expire_time: Some(timestamp(*expire_time)), days_ahead: *days_ahead };
    let correlation_id = shared.clock.uuid().to_string();
    let origin = Origin {
        method: "expiry",
        actor: "system",
        on_behalf_of: None,
        correlation_id: &correlation_id,
    };
    let event = Event {
        kind,
        account_id: account_id.as_deref(),
        tenant: uid.zip(tenant_id.as_deref()),
        resource_type,
        resource_id: &resource_id,
        before: None,
        after: Some(json_of(&expiry)),
    };
    outbox::append(conn, shared.clock.uuid(), origin, now, event).await?;
    Ok(true)
}

/// Forgets what was told of ends that have passed.
async fn forget(shared: &Shared) -> Result<()> {
    let mut transaction =
        shared.database.begin_as(Role::Expiry, Instant::now() + STEP_TIMEOUT).await?;
    diesel::sql_query("delete from expiry_notices where expire_time < $1 - interval '1 day'")
        .bind::<Timestamptz, _>(shared.clock.now())
        .execute(transaction.conn())
        .await?;
    transaction.commit().await
}
