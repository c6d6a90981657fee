//! The purge: what is left of a deleted tenant goes when its time is over, or at once when it is expunged.
//!
//! A purge begins with a tombstone, from which on nobody brings the tenant back, and ends with the row of
//! the tenant, its claims on what others may have now, and an event, all in one transaction. What the
//! tenant owned goes between the two, a bounded number of rows at a time. Killed anywhere, it is found
//! again by the tenant that is still there, and goes on from what is left.
//!
//! Every node runs the worker, and they do not meet: each holds the tenant that it is at, and the others
//! pass by it. All of it runs as a database role of its own, which can remove a tenant that is deleted and
//! nothing else.
//!
//! Three things outlive a purge: the claim on the `tenant_id`, events, and the app data of applications
//! that the deletion excluded (2-27). As long as there is such data, the tombstone stays and says who may
//! reach it.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{exists, not},
    prelude::*,
    sql_types,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    authorizations::{counts, publishers},
    db::{Role, Scope, Transaction},
    error::{Error, Kind, Result, causes},
    events::outbox::{self, Event, Origin},
    filter::Condition,
    rpc::TenantOfCall,
    schema::{events, tenant_directory, tenant_end_user_app_data, tenant_tombstones, tenants},
    server::Shared,
    tenants::{model::TenantState, store::Claim},
};

/// How many rows of a table are removed at a time, so that no statement takes long.
const ROWS_MAX: i64 = 1_000;

/// How long one transaction of the worker may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// What a tenant owns: each table, and what tells its rows apart within the tenant. What rests on other
/// rows comes before them. What is missing here goes with the row of the tenant, at once.
const OWNED: &[(&str, &str)] = &[
    ("mails", "mail_id"),
    ("tenant_authorization_usage", "authorization_id"),
    (AUTHORIZATIONS, "authorization_id"),
    ("authorized_tenants", "publisher_account_id, application_id, environment"),
    ("imported_keys", "digest"),
    ("key_usage", "route, number"),
    ("key_credits", "route, number"),
    ("key_rate_windows", "route, number"),
    ("external_keys", "route, number"),
    ("tenant_app_key_configs", "app_key_id, environment"),
    ("tenant_app_keys", "app_key_id"),
    ("tenant_installations", "installation_id"),
    ("tenant_oauth_clients", "tenant_uid"),
    ("operations", "operation_id"),
    ("api_keys", "route, number"),
    ("tenant_external_ids", "key"),
    ("tenant_groups", "group_id"),
    ("tenant_service_settings", "name"),
    ("tenant_usage_records", "usage_id"),
    ("tenant_entitlements", "type"),
    ("tenant_ip_allowlists", "tenant_uid"),
];

/// What others have counted.
const AUTHORIZATIONS: &str = "tenant_authorizations";

/// The tombstones within a scope, for those above a tenant: it has no keys any more.
fn tombstones_in(
    scope: &Scope,
) -> diesel::dsl::Filter<tenant_tombstones::table, Condition<tenant_tombstones::table>> {
    let within: Condition<tenant_tombstones::table> = match scope.clone() {
        Scope::System => Box::new(tenant_tombstones::tenant_uid.eq(tenant_tombstones::tenant_uid)),
        Scope::Account(account) => Box::new(tenant_tombstones::account_id.eq(account)),
        Scope::Provider(uid) => Box::new(tenant_tombstones::ancestors.contains(vec![Some(uid)])),
        Scope::Tenant(_) | Scope::Tenants(_) | Scope::Reseller { .. } | Scope::Publisher(_) => {
            Box::new(tenant_tombstones::tenant_uid.ne(tenant_tombstones::tenant_uid))
        }
    };
    QueryDsl::filter(tenant_tombstones::table, within)
}

/// Finds what a call needs of a purged tenant of which app data is left.
///
/// # Errors
///
/// Not found within the scope, or what the database reports.
pub async fn find_ref(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    id: &str,
) -> Result<TenantOfCall> {
    let (uid, account_id) = tombstones_in(scope)
        .filter(tenant_tombstones::tenant_id.eq(id))
        .select((tenant_tombstones::tenant_uid, tenant_tombstones::account_id))
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Tenant, id))?;
    Ok(TenantOfCall { uid, tenant_id: id.to_owned(), account_id, named: true })
}

/// Whether the purge of a tenant has begun; nobody begins it while the tenant is held.
///
/// # Errors
///
/// What the database reports.
pub async fn has_begun(conn: &mut AsyncPgConnection, uid: Uuid) -> Result<bool> {
    Ok(diesel::select(exists(tenant_tombstones::table.find(uid))).get_result(conn).await?)
}

/// Keeps the tombstone of a tenant, if there is one, until the transaction ends.
///
/// # Errors
///
/// What the database reports.
pub async fn hold(conn: &mut AsyncPgConnection, uid: Uuid) -> Result<()> {
    let _: Option<Uuid> = tenant_tombstones::table
        .find(uid)
        .select(tenant_tombstones::tenant_uid)
        .for_update()
        .get_result(conn)
        .await
        .optional()?;
    Ok(())
}

/// Gives the tombstones below a tenant that was moved their new ancestors.
///
/// # Errors
///
/// What the database reports.
pub async fn move_below(
    conn: &mut AsyncPgConnection,
    uid: Uuid,
    levels_before: usize,
    ancestors: &[Option<Uuid>],
) -> Result<()> {
    diesel::sql_query(
        "update tenant_tombstones set ancestors = $1 || ancestors[$2 : ] where ancestors @> array[$3]",
    )
    .bind::<sql_types::Array<sql_types::Nullable<sql_types::Uuid>>, _>(ancestors)
    .bind::<sql_types::Integer, _>(i32::try_from(levels_before + 1).unwrap_or(i32::MAX))
    .bind::<sql_types::Uuid, _>(uid)
    .execute(conn)
    .await?;
    Ok(())
}

/// Begins the purge of a deleted tenant, which the transaction holds; answers whether it had not begun before.
///
/// # Errors
///
/// What the database reports.
pub async fn begin(conn: &mut AsyncPgConnection, uid: Uuid, now: DateTime<Utc>) -> Result<bool> {
    let begun = tenants::table
        .find(uid)
        .select((
            tenants::uid,
            tenants::tenant_id,
            tenants::account_id,
            tenants::ancestors,
            now.into_sql::<sql_types::Timestamptz>(),
        ))
        .insert_into(tenant_tombstones::table)
        .into_columns((
            tenant_tombstones::tenant_uid,
            tenant_tombstones::tenant_id,
            tenant_tombstones::account_id,
            tenant_tombstones::ancestors,
            tenant_tombstones::purge_begin_time,
        ))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    Ok(begun > 0)
}

/// Removes some of what a tenant owns whose purge has begun, and in the end the tenant itself, with its
/// claims on what others may have now. Answers whether that was the end.
///
/// # Errors
///
/// What the database reports.
pub async fn remove_some(conn: &mut AsyncPgConnection, uid: Uuid) -> Result<bool> {
    for (table, key) in OWNED {
        let removed = diesel::sql_query(format!(
            "delete from {table} where tenant_uid = $1 and ({key}) in \
             (select {key} from {table} where tenant_uid = $1 limit {ROWS_MAX})"
        ))
        .bind::<sql_types::Uuid, _>(uid)
        .execute(conn)
        .await?;
        if *table == AUTHORIZATIONS && removed > 0 {
            counts::book_tenant(conn, uid).await?;
        }
        if i64::try_from(removed).is_ok_and(|removed| removed == ROWS_MAX) {
            return Ok(false);
        }
    }
    // Who asked keeps the request, and what it was told of people of the tenant goes.
    diesel::sql_query(
        "update authorization_requests set decided_by = null, decider_name = null where tenant_uid = $1",
    )
    .bind::<sql_types::Uuid, _>(uid)
    .execute(conn)
    .await?;
    let freed = [Claim::Code, Claim::Hostname, Claim::Name].map(Claim::as_str);
    diesel::delete(
        tenant_directory::table
            .filter(tenant_directory::tenant_uid.eq(uid))
            .filter(tenant_directory::kind.eq_any(freed)),
    )
    .execute(conn)
    .await?;
    diesel::delete(tenants::table.find(uid)).execute(conn).await?;
    Ok(true)
}

/// Empties what events tell of a tenant and of what it owned, before and after each change; that they
/// happened stays.
///
/// # Errors
///
/// What the database reports.
pub async fn scrub(conn: &mut AsyncPgConnection, uid: Uuid) -> Result<()> {
    let mut after = Uuid::nil();
    loop {
        let ids: Vec<Uuid> = events::table
            .filter(events::tenant_uid.eq(uid))
            .filter(events::event_id.gt(after))
            .order(events::event_id)
            .limit(ROWS_MAX)
            .select(events::event_id)
            .load(conn)
            .await?;
        let Some(last) = ids.last() else {
            return Ok(());
        };
        after = *last;
        let nothing = None::<serde_json::Value>;
        diesel::update(events::table.filter(events::event_id.eq_any(ids)))
            .set((events::before.eq(&nothing), events::after.eq(&nothing)))
            .execute(conn)
            .await?;
    }
}

/// Removes the tombstone of a purged tenant of which nothing is left.
///
/// # Errors
///
/// What the database reports.
pub async fn forget(conn: &mut AsyncPgConnection, uid: Uuid) -> Result<()> {
    let is_there = tenants::table.filter(tenants::uid.eq(uid)).select(tenants::uid);
    let left = tenant_end_user_app_data::table
        .filter(tenant_end_user_app_data::tenant_uid.eq(uid))
        .select(tenant_end_user_app_data::tenant_uid);
    diesel::delete(
        tenant_tombstones::table
            .filter(tenant_tombstones::tenant_uid.eq(uid))
            .filter(not(exists(is_there)))
            .filter(not(exists(left))),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A tenant whose time is over.
#[derive(Queryable)]
struct Due {
    uid: Uuid,
    tenant_id: String,
    account_id: String,
    purge_time: Option<DateTime<Utc>>,
}

/// Finds and holds the next tenant behind a place whose time is over, unless somebody is at it. Tenants
/// below come before the one above.
async fn next_due(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    (time, uid): (DateTime<Utc>, Uuid),
) -> Result<Option<Due>> {
    let below = diesel::alias!(tenants as below);
    let others = below.filter(below.field(tenants::parent_uid).eq(tenants::uid.nullable()));
    let behind = tenants::purge_time
        .gt(time)
        .assume_not_null()
        .or(tenants::purge_time.eq(time).assume_not_null().and(tenants::uid.gt(uid)));
    Ok(tenants::table
        .filter(tenants::state.eq(TenantState::Deleted))
        .filter(tenants::purge_time.le(now))
        .filter(behind)
        .filter(not(exists(others.select(below.field(tenants::uid)))))
        .order((tenants::purge_time, tenants::uid))
        .select((tenants::uid, tenants::tenant_id, tenants::account_id, tenants::purge_time))
        .for_update()
        .skip_locked()
        .first(conn)
        .await
        .optional()?)
}

/// Makes one step of the purge of a tenant; answers whether it was the last.
async fn step(
    shared: &Shared,
    transaction: &mut Transaction,
    now: DateTime<Utc>,
    due: &Due,
) -> Result<bool> {
    let conn = transaction.conn();
    let correlation_id = shared.clock.uuid().to_string();
    if begin(conn, due.uid, now).await? {
        let id = shared.clock.uuid();
        publishers::tell_purge(conn, id, &correlation_id, due.uid, now).await?;
    }
    if !remove_some(conn, due.uid).await? {
        return Ok(false);
    }
    let origin = Origin {
        method: "purge",
        actor: "system",
        on_behalf_of: None,
        correlation_id: &correlation_id,
    };
    let event = Event {
        kind: "tenant.purged",
        account_id: Some(&due.account_id),
        tenant: Some((due.uid, &due.tenant_id)),
        resource_type: "tenant",
        resource_id: &due.tenant_id,
        before: None,
        after: None,
    };
    outbox::append(conn, shared.clock.uuid(), origin, now, event).await?;
    forget(conn, due.uid).await?;
    Ok(true)
}

/// Purges the tenants whose time is over, but for those that somebody else is at; answers how many.
///
/// One that cannot be purged does not keep the others from it: it is told of and tried again in the next
/// round.
///
/// # Errors
///
/// When the database is away.
pub async fn round(shared: &Shared) -> Result<usize> {
    let now = shared.clock.now();
    let mut place = (DateTime::UNIX_EPOCH, Uuid::nil());
    let mut purged = 0;
    loop {
        let deadline = Instant::now() + STEP_TIMEOUT;
        let mut transaction = shared.database.begin_as(Role::Purger, deadline).await?;
        let Some(due) = next_due(transaction.conn(), now, place).await? else {
            transaction.commit().await?;
            return Ok(purged);
        };
        let done = match step(shared, &mut transaction, now, &due).await {
            Ok(is_last) => transaction.commit().await.map(|()| is_last),
            Err(error) => {
                // What failed is undone, whether or not the connection survives.
                let _ = transaction.rollback().await;
                Err(error)
            }
        };
        match done {
            Ok(false) => continue,
            Ok(true) => purged += 1,
            Err(error) => {
                let tenant = &*due.tenant_id;
                tracing::warn!(tenant.id = tenant, error = causes(&error), "purge failed");
            }
        }
        place = (due.purge_time.unwrap_or(place.0), due.uid);
    }
}

/// Purges round by round, as often as the settings say.
pub async fn run(shared: Arc<Shared>) {
    loop {
        match round(&shared).await {
            Ok(0) => {}
            Ok(tenants) => tracing::info!(tenants, "purged"),
            Err(error) => tracing::warn!(error = causes(&error), "the purge has to wait"),
        }
        tokio::time::sleep(shared.settings.deletion.purge_interval).await;
    }
}
