//! How tenants are kept: all SQL on them and on what is unique about them.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{Filter, exists},
    pg::Pg,
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
    sql_types::{self, Bool},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::model::{LockMode, Tenant, TenantRecord, TenantState, strictest};
use super::placement;
use crate::{
    db::Scope,
    error::{Error, Kind, Result},
    pb::ErrorReason,
    rpc::TenantOfCall,
    schema::{tenant_directory, tenant_external_ids, tenants},
};

/// A condition on tenants.
pub type Condition = Box<dyn BoxableExpression<tenants::table, Pg, SqlType = Bool>>;

/// The tenants within a scope. Every query of this file on tenants starts from it; the policies of
/// the table say the same once more.
pub fn tenants_in(scope: &Scope) -> Filter<tenants::table, Condition> {
    let within: Condition = match scope.clone() {
        Scope::System => Box::new(tenants::uid.eq(tenants::uid)),
        Scope::Account(account) => Box::new(tenants::account_id.eq(account)),
        Scope::Tenant(uid) => Box::new(tenants::uid.eq(uid)),
        Scope::Tenants(uids) => Box::new(tenants::uid.eq_any(uids)),
        Scope::Provider(uid) => {
            Box::new(tenants::uid.eq(uid).or(tenants::ancestors.contains(vec![Some(uid)])))
        }
        Scope::Reseller { account, reseller } => Box::new(
            tenants::account_id
                .eq(account)
                .and(tenants::reseller_id.is_not_distinct_from(Some(reseller))),
        ),
        Scope::Publisher(_) => Box::new(tenants::uid.ne(tenants::uid)),
    };
    QueryDsl::filter(tenants::table, within)
}

/// What must be unique across tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Never given twice.
    TenantId,
    /// Free again after a purge.
    Code,
    /// Free again after a purge.
    Hostname,
    /// Of a tenant that was created without a code (1-05).
    Name,
}

impl Claim {
    /// The kind as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TenantId => "TENANT_ID",
            Self::Code => "CODE",
            Self::Hostname => "HOSTNAME",
            Self::Name => "NAME",
        }
    }
}

#[diesel::dsl::auto_type]
fn holder<'a>(kind: &'a str, key: &'a str) -> _ {
    tenant_directory::table
        .filter(tenant_directory::kind.eq(kind))
        .filter(tenant_directory::key.eq(key))
        .select(tenant_directory::tenant_uid)
}

/// Finds a tenant by its id.
///
/// # Errors
///
/// Not found within the scope, or what the database reports.
pub async fn find(conn: &mut AsyncPgConnection, scope: &Scope, id: &str) -> Result<Tenant> {
    by_claim(conn, scope, Claim::TenantId, id)
        .await?
        .ok_or_else(|| Error::not_found(Kind::Tenant, id))
}

/// Finds a tenant by its id, and keeps others from changing it until the transaction ends.
///
/// # Errors
///
/// As [`find`].
pub async fn find_for_update(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    id: &str,
) -> Result<Tenant> {
    tenants_in(scope)
        .filter(tenants::uid.eq_any(holder(Claim::TenantId.as_str(), id)))
        .select(Tenant::as_select())
        .for_update()
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::Tenant, id))
}

/// Finds a tenant that is to be a parent, and keeps it from being deleted until the transaction ends.
///
/// # Errors
///
/// As [`find`], but of the parent.
pub async fn find_parent(conn: &mut AsyncPgConnection, scope: &Scope, id: &str) -> Result<Tenant> {
    tenants_in(scope)
        .filter(tenants::uid.eq_any(holder(Claim::TenantId.as_str(), id)))
        .select(Tenant::as_select())
        .for_share()
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::ParentTenant, id))
}

/// Finds tenants by their UUIDs and keeps others from changing them until the transaction ends.
///
/// # Errors
///
/// What the database reports.
pub async fn hold_all(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    uids: &[Uuid],
) -> Result<HashMap<Uuid, Tenant>> {
    let held: Vec<Tenant> = tenants_in(scope)
        .filter(tenants::uid.eq_any(uids))
        .select(Tenant::as_select())
        .order((array_length(tenants::ancestors), tenants::uid))
        .for_update()
        .load(conn)
        .await?;
    Ok(held.into_iter().map(|tenant| (tenant.uid, tenant)).collect())
}

diesel::define_sql_function! {
    /// How many elements an array has.
    #[sql_name = "cardinality"]
    fn array_length(array: sql_types::Array<sql_types::Nullable<sql_types::Uuid>>) -> sql_types::Integer;
}

/// Keeps others from changing what is below a tenant until the transaction ends; answers how many
/// levels that is.
///
/// # Errors
///
/// What the database reports.
pub async fn hold_below(conn: &mut AsyncPgConnection, uid: Uuid) -> Result<usize> {
    let mut known = 0;
    loop {
        let below: Vec<Vec<Option<Uuid>>> = tenants::table
            .filter(tenants::ancestors.contains(vec![Some(uid)]))
            .select(tenants::ancestors)
            .order((array_length(tenants::ancestors), tenants::uid))
            .for_update()
            .load(conn)
            .await?;
        // Whoever was creating a tenant below one of them had to be waited for; it is seen only now.
        if below.len() == known {
            let depth = |path: &Vec<Option<Uuid>>| {
                let above = path.iter().position(|above| *above == Some(uid)).unwrap_or_default();
                path.len() - above
            };
            return Ok(below.iter().map(depth).max().unwrap_or_default());
        }
        known = below.len();
    }
}

/// The tenants directly below one that are not deleted.
///
/// # Errors
///
/// What the database reports.
pub async fn children(conn: &mut AsyncPgConnection, uid: Uuid) -> Result<Vec<Tenant>> {
    Ok(tenants::table
        .filter(tenants::parent_uid.eq(uid))
        .filter(tenants::state.ne(TenantState::Deleted))
        .select(Tenant::as_select())
        .load(conn)
        .await?)
}

/// Gives all below a tenant that was moved their new ancestors.
///
/// # Errors
///
/// What the database reports.
pub async fn move_below(
    conn: &mut AsyncPgConnection,
    before: &Tenant,
    after: &Tenant,
) -> Result<()> {
    diesel::sql_query(
        "update tenants set ancestors = $1 || ancestors[$2 : ] where ancestors @> array[$3]",
    )
    .bind::<sql_types::Array<sql_types::Nullable<sql_types::Uuid>>, _>(&after.ancestors)
    .bind::<sql_types::Integer, _>(i32::try_from(before.ancestors.len() + 1).unwrap_or(i32::MAX))
    .bind::<sql_types::Uuid, _>(before.uid)
    .execute(conn)
    .await?;
    Ok(())
}

/// Finds the tenant above one that the scope sees, and keeps it as it is until the transaction ends;
/// nothing where the scope does not see it.
///
/// # Errors
///
/// What the database reports.
pub async fn hold_parent(conn: &mut AsyncPgConnection, uid: Uuid) -> Result<Option<Tenant>> {
    Ok(tenants::table
        .find(uid)
        .select(Tenant::as_select())
        .for_share()
        .get_result(conn)
        .await
        .optional()?)
}

/// The tenants above one that is given by its UUID, and above one within a scope that is given by its id.
///
/// # Errors
///
/// What the database reports.
pub async fn above(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    uid: Option<Uuid>,
    tenant_id: Option<&str>,
) -> Result<Vec<Uuid>> {
    let mut above = Vec::new();
    if let Some(uid) = uid {
        let path: Vec<Vec<Option<Uuid>>> = tenants::table
            .filter(tenants::uid.eq(uid))
            .select(tenants::ancestors)
            .load(conn)
            .await?;
        above.extend(path.into_iter().flatten().flatten());
    }
    if let Some(tenant_id) = tenant_id
        && let Some(named) = by_claim(conn, scope, Claim::TenantId, tenant_id).await?
    {
        above.extend(named.ancestors.into_iter().flatten());
    }
    Ok(above)
}

/// Reads the state of a tenant and keeps it so until the transaction ends.
///
/// # Errors
///
/// What the database reports.
pub async fn hold_state(conn: &mut AsyncPgConnection, uid: Uuid) -> Result<Option<TenantState>> {
    Ok(tenants::table
        .find(uid)
        .select(tenants::state)
        .for_share()
        .get_result(conn)
        .await
        .optional()?)
}

/// Keeps a tenant from being deleted until the transaction ends, for what is added to it.
///
/// # Errors
///
/// Not found within the scope, deleted already, or what the database reports.
pub async fn hold(conn: &mut AsyncPgConnection, tenant: &TenantOfCall) -> Result<()> {
    match hold_state(conn, tenant.uid).await? {
        None => Err(Error::not_found(Kind::Tenant, &tenant.tenant_id)),
        Some(state) => refuse_deleted(&tenant.tenant_id, state),
    }
}

/// Refuses a change of what a deleted tenant owns.
///
/// # Errors
///
/// `TENANT_NOT_ACTIVE`.
pub fn refuse_deleted(tenant_id: &str, state: TenantState) -> Result<()> {
    if state != TenantState::Deleted {
        return Ok(());
    }
    Err(Error::WrongState {
        reason: ErrorReason::TenantNotActive,
        kind: Kind::Tenant,
        id: tenant_id.to_owned(),
        message: format!("the tenant \"{tenant_id}\" is DELETED: undelete it first"),
    })
}

/// Finds what a call needs of the tenant that it names.
///
/// # Errors
///
/// As [`find`].
pub async fn find_ref(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    id: &str,
) -> Result<TenantOfCall> {
    let Tenant { uid, tenant_id, account_id, .. } = find(conn, scope, id).await?;
    Ok(TenantOfCall { uid, tenant_id, account_id, named: true })
}

/// Finds the holder of a claim.
///
/// # Errors
///
/// What the database reports.
pub async fn by_claim(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    claim: Claim,
    key: &str,
) -> Result<Option<Tenant>> {
    Ok(tenants_in(scope)
        .filter(tenants::uid.eq_any(holder(claim.as_str(), key)))
        .select(Tenant::as_select())
        .get_result(conn)
        .await
        .optional()?)
}

/// Finds a tenant by its UUID.
///
/// # Errors
///
/// What the database reports.
pub async fn by_uid(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    uid: Uuid,
) -> Result<Option<Tenant>> {
    Ok(tenants_in(scope)
        .filter(tenants::uid.eq(uid))
        .select(Tenant::as_select())
        .get_result(conn)
        .await
        .optional()?)
}

/// Finds up to two tenants with an external id: enough to tell whether it is ambiguous.
///
/// # Errors
///
/// What the database reports.
pub async fn by_external_id(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    key: &str,
    value: &str,
) -> Result<Vec<Tenant>> {
    Ok(tenants_in(scope)
        .filter(
            tenants::uid.eq_any(
                tenant_external_ids::table
                    .filter(tenant_external_ids::key.eq(key))
                    .filter(tenant_external_ids::value.eq(value))
                    .select(tenant_external_ids::tenant_uid),
            ),
        )
        .select(Tenant::as_select())
        .order(tenants::uid)
        .limit(2)
        .load(conn)
        .await?)
}

/// Stores a new tenant.
///
/// # Errors
///
/// When its domain does not exist, or what the database reports.
pub async fn insert(conn: &mut AsyncPgConnection, tenant: &Tenant) -> Result<()> {
    diesel::insert_into(tenants::table)
        .values(tenant)
        .execute(conn)
        .await
        .map_err(|error| missing(error, tenant))?;
    Ok(())
}

/// Stores a changed tenant, whole.
///
/// # Errors
///
/// As [`insert`].
pub async fn update(conn: &mut AsyncPgConnection, tenant: &Tenant) -> Result<()> {
    diesel::update(tenants::table.find(tenant.uid))
        .set(tenant)
        .execute(conn)
        .await
        .map_err(|error| missing(error, tenant))?;
    Ok(())
}

/// Only the database knows of what the caller cannot see, and of what is gone by now.
fn missing(error: DieselError, tenant: &Tenant) -> Error {
    let DieselError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, information) = &error
    else {
        return error.into();
    };
    let id = |id: &Option<String>| id.clone().unwrap_or_default();
    match information.constraint_name() {
        Some("tenants_default_domain_fkey") => {
            Error::not_found(Kind::Domain, id(&tenant.default_domain))
        }
        Some("tenants_reseller_fkey") => Error::not_found(Kind::Reseller, id(&tenant.reseller_id)),
        Some("tenants_backend_id_fkey") => placement::no_backend(&id(&tenant.backend_id)),
        _ => error.into(),
    }
}

/// Takes a claim for a tenant that is stored already; false where somebody has it.
///
/// # Errors
///
/// What the database reports.
pub async fn claim(
    conn: &mut AsyncPgConnection,
    kind: Claim,
    key: &str,
    tenant: &Tenant,
    now: DateTime<Utc>,
) -> Result<bool> {
    let rows = diesel::insert_into(tenant_directory::table)
        .values((
            tenant_directory::kind.eq(kind.as_str()),
            tenant_directory::key.eq(key),
            tenant_directory::tenant_uid.eq(tenant.uid),
            tenant_directory::create_time.eq(now),
        ))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    Ok(rows == 1)
}

/// Gives up what a tenant claims of a kind.
///
/// # Errors
///
/// What the database reports.
pub async fn release(conn: &mut AsyncPgConnection, kind: Claim, tenant: &Tenant) -> Result<()> {
    diesel::delete(
        tenant_directory::table
            .filter(tenant_directory::tenant_uid.eq(tenant.uid))
            .filter(tenant_directory::kind.eq(kind.as_str())),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The key of the claim on a name: names are unique within an account and a console namespace.
pub fn name_key(tenant: &Tenant) -> String {
    format!("{}/{}/{}", tenant.account_id, tenant.console, tenant.name)
}

/// Whether another tenant of the account has the name already (1-05).
///
/// # Errors
///
/// What the database reports.
pub async fn name_is_taken(
    conn: &mut AsyncPgConnection,
    scope: &Scope,
    tenant: &Tenant,
) -> Result<bool> {
    let others = tenants_in(scope)
        .filter(tenants::account_id.eq(&tenant.account_id))
        .filter(tenants::name.eq(&tenant.name))
        .filter(tenants::console.eq(tenant.console))
        .filter(tenants::uid.ne(tenant.uid))
        .filter(tenants::state.ne(TenantState::Deleted));
    Ok(diesel::select(exists(others)).get_result(conn).await?)
}

/// Whether there are tenants directly below that are not deleted (1-47).
///
/// # Errors
///
/// What the database reports.
pub async fn has_children(conn: &mut AsyncPgConnection, uid: Uuid) -> Result<bool> {
    let children = tenants::table
        .filter(tenants::parent_uid.eq(uid))
        .filter(tenants::state.ne(TenantState::Deleted));
    Ok(diesel::select(exists(children)).get_result(conn).await?)
}

/// Whether there are tenants directly below, be they deleted.
///
/// # Errors
///
/// What the database reports.
pub async fn has_any_children(conn: &mut AsyncPgConnection, uid: Uuid) -> Result<bool> {
    let children = tenants::table.filter(tenants::parent_uid.eq(uid));
    Ok(diesel::select(exists(children)).get_result(conn).await?)
}

/// Makes these the external ids of a tenant, and no others.
///
/// # Errors
///
/// What the database reports.
pub async fn replace_external_ids(
    conn: &mut AsyncPgConnection,
    uid: Uuid,
    ids: &BTreeMap<String, String>,
) -> Result<()> {
    diesel::delete(tenant_external_ids::table.filter(tenant_external_ids::tenant_uid.eq(uid)))
        .execute(conn)
        .await?;
    let rows = ids
        .iter()
        .map(|(key, value)| {
            (
                tenant_external_ids::tenant_uid.eq(uid),
                tenant_external_ids::key.eq(key),
                tenant_external_ids::value.eq(value),
            )
        })
        .collect::<Vec<_>>();
    diesel::insert_into(tenant_external_ids::table).values(rows).execute(conn).await?;
    Ok(())
}

/// Adds what answers need and other tables have.
///
/// # Errors
///
/// What the database reports.
pub async fn complete(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    tenants: Vec<Tenant>,
) -> Result<Vec<TenantRecord>> {
    let uids = tenants.iter().map(|tenant| tenant.uid).collect::<Vec<_>>();
    let ids: Vec<(Uuid, String, String)> = tenant_external_ids::table
        .filter(tenant_external_ids::tenant_uid.eq_any(&uids))
        .load(conn)
        .await?;
    let mut external_ids = HashMap::<Uuid, BTreeMap<String, String>>::new();
    for (uid, key, value) in ids {
        external_ids.entry(uid).or_default().insert(key, value);
    }

    let parents = tenants.iter().filter_map(|tenant| tenant.parent_uid).collect::<Vec<_>>();
    // Who sees a tenant only as its own sees no parent, and then is not told of it.
    let parents: HashMap<Uuid, String> = if parents.is_empty() {
        HashMap::new()
    } else {
        tenants::table
            .filter(tenants::uid.eq_any(parents))
            .select((tenants::uid, tenants::tenant_id))
            .load(conn)
            .await?
            .into_iter()
            .collect()
    };
    let below = tenants.iter().filter(|tenant| tenant.parent_uid.is_some());
    let below = below.map(|tenant| tenant.uid).collect::<Vec<_>>();
    let locks = locks_above(conn, below, now).await?;
    let record = |tenant: Tenant| TenantRecord {
        lock_above: locks.get(&tenant.uid).and_then(|locks| strictest(locks, now)),
        as_of: now,
        parent_tenant_id: tenant
            .parent_uid
            .and_then(|uid| parents.get(&uid).cloned())
            .unwrap_or_default(),
        external_ids: external_ids.remove(&tenant.uid).unwrap_or_default(),
        tenant,
    };
    Ok(tenants.into_iter().map(record).collect())
}

/// A lock above a tenant: how far it goes and when it ends.
type LockAbove = (LockMode, Option<DateTime<Utc>>);

#[derive(QueryableByName)]
struct LockRow {
    #[diesel(sql_type = sql_types::Uuid)]
    tenant_uid: Uuid,
    #[diesel(sql_type = sql_types::Text)]
    mode: LockMode,
    #[diesel(sql_type = sql_types::Nullable<sql_types::Timestamptz>)]
    unlock_time: Option<DateTime<Utc>>,
}

/// The locks in force above tenants, also above what the scope sees.
async fn locks_above(
    conn: &mut AsyncPgConnection,
    uids: Vec<Uuid>,
    now: DateTime<Utc>,
) -> Result<HashMap<Uuid, Vec<LockAbove>>> {
    let mut locks = HashMap::<Uuid, Vec<LockAbove>>::new();
    if uids.is_empty() {
        return Ok(locks);
    }
    let rows: Vec<LockRow> = diesel::sql_query("select * from locks_above($1, $2)")
        .bind::<sql_types::Array<sql_types::Uuid>, _>(uids)
        .bind::<sql_types::Timestamptz, _>(now)
        .load(conn)
        .await?;
    for row in rows {
        locks.entry(row.tenant_uid).or_default().push((row.mode, row.unlock_time));
    }
    Ok(locks)
}

diesel::define_sql_function! {
    /// Counts the tenants of an account that are not deleted, and keeps others from counting until the
    /// transaction ends; whatever the scope sees of them.
    fn hold_tenants_of_account(account_id: sql_types::Text) -> sql_types::BigInt;
}

/// Checks that an account may have one tenant more (4-18); accounts without a limit are not held.
///
/// # Errors
///
/// [`Error::LimitReached`], or what the database reports.
pub async fn check_limit(
    conn: &mut AsyncPgConnection,
    account_id: &str,
    max_tenants: Option<i32>,
) -> Result<()> {
    let Some(max) = max_tenants else {
        return Ok(());
    };
    let number: i64 = diesel::select(hold_tenants_of_account(account_id)).get_result(conn).await?;
    if number < i64::from(max) {
        return Ok(());
    }
    Err(Error::LimitReached {
        reason: ErrorReason::TenantLimitExceeded,
        kind: Kind::Account,
        id: account_id.to_owned(),
        message: format!(
            "the account \"{account_id}\" has {number} tenants, of which at most {max} are allowed: \
             delete one, or let the operator raise max_tenants"
        ),
    })
}

/// Adds what an answer needs to one tenant.
///
/// # Errors
///
/// What the database reports.
pub async fn complete_one(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
    tenant: Tenant,
) -> Result<TenantRecord> {
    let record = complete(conn, now, vec![tenant]).await?.pop();
    record.ok_or_else(|| Error::internal("one tenant in, none out"))
}
