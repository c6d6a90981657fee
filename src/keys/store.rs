//! How API keys are kept: all SQL on them.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{Filter, exists},
    pg::Pg,
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
    sql_types::Bool,
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{
    master::MasterKey,
    model::{ApiKey, KeyRecord, KeyScope},
    roles::SYSTEM_ADMIN,
    secret::KeyRef,
};
use crate::{
    db::Scope,
    error::{Error, Kind, Result},
    rpc::Call,
    schema::{api_keys, key_credits, key_usage, master_key_checks},
};

/// A condition on API keys.
pub type Condition = Box<dyn BoxableExpression<api_keys::table, Pg, SqlType = Bool>>;

/// The API keys that a call acts on: those of its tenant, else of its account, else of its scope.
/// Every query of this file on behalf of a call starts from it; the policies of the table say once
/// more what is within the scope.
pub fn keys_of(call: &Call) -> Filter<api_keys::table, Condition> {
    let within: Condition = match (&call.tenant, &call.account, &call.scope) {
        (Some(tenant), ..) => Box::new(api_keys::tenant_uid.is_not_distinct_from(Some(tenant.uid))),
        (None, Some(account), _) => {
            Box::new(api_keys::account_id.is_not_distinct_from(Some(account.clone())))
        }
        (None, None, Scope::System) => Box::new(api_keys::route.eq(api_keys::route)),
        (None, None, _) => Box::new(api_keys::route.ne(api_keys::route)),
    };
    QueryDsl::filter(api_keys::table, within)
}

/// What is left of the credits of a key.
#[diesel::dsl::auto_type(no_type_alias)]
pub fn remaining() -> _ {
    key_credits::table
        .filter(key_credits::route.eq(api_keys::route))
        .filter(key_credits::number.eq(api_keys::number))
        .select(key_credits::remaining)
        .single_value()
}

/// When a key was used last.
#[diesel::dsl::auto_type(no_type_alias)]
pub fn last_used_time() -> _ {
    key_usage::table
        .filter(key_usage::route.eq(api_keys::route))
        .filter(key_usage::number.eq(api_keys::number))
        .select(key_usage::last_used_time)
        .single_value()
}

/// A row as [`KeyRecord`] holds it: the key, what is left of its credits, and when it was used last.
pub type Row = (ApiKey, Option<i64>, Option<DateTime<Utc>>);

impl From<Row> for KeyRecord {
    fn from((key, remaining, last_used_time): Row) -> Self {
        Self { key, remaining, last_used_time }
    }
}

/// Whether there is a key where a text leads to, whoever has it. For the verifier alone.
///
/// # Errors
///
/// What the database reports.
pub async fn is_there(conn: &mut AsyncPgConnection, key_ref: KeyRef) -> Result<bool> {
    let row = api_keys::table.find((key_ref.route, key_ref.number)).select(api_keys::route);
    Ok(diesel::select(exists(row)).get_result(conn).await?)
}

/// Stores a new key.
///
/// # Errors
///
/// [`Error::Contended`] where two keys of one owner have met in a number in one millisecond; what else the
/// database reports.
pub async fn insert(conn: &mut AsyncPgConnection, key: &ApiKey) -> Result<()> {
    diesel::insert_into(api_keys::table).values(key).execute(conn).await.map_err(|error| {
        match &error {
            DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, _) => {
                Error::Contended(error)
            }
            _ => error.into(),
        }
    })?;
    Ok(())
}

/// Finds a key of the call.
///
/// # Errors
///
/// Not found, or what the database reports.
pub async fn find(
    conn: &mut AsyncPgConnection,
    call: &Call,
    master: &MasterKey,
    id: Uuid,
) -> Result<KeyRecord> {
    let key_ref = KeyRef::from_public_id(id, master);
    keys_of(call)
        .filter(api_keys::route.eq(key_ref.route))
        .filter(api_keys::number.eq(key_ref.number))
        .select((ApiKey::as_select(), remaining(), last_used_time()))
        .get_result::<Row>(conn)
        .await
        .optional()?
        .map(KeyRecord::from)
        .ok_or_else(|| Error::not_found(Kind::ApiKey, id.to_string()))
}

/// Finds the very key that calls, whatever the call acts on; nothing where its holder's role may not
/// see it.
///
/// # Errors
///
/// What the database reports.
pub async fn find_own(
    conn: &mut AsyncPgConnection,
    call: &Call,
    master: &MasterKey,
) -> Result<Option<KeyRecord>> {
    let key_ref = KeyRef::from_public_id(call.caller.key_id, master);
    Ok(api_keys::table
        .find((key_ref.route, key_ref.number))
        .select((ApiKey::as_select(), remaining(), last_used_time()))
        .get_result::<Row>(conn)
        .await
        .optional()?
        .map(KeyRecord::from))
}

/// Finds a key of the call and keeps others from changing it until the transaction ends.
///
/// # Errors
///
/// As [`find`].
pub async fn find_for_update(
    conn: &mut AsyncPgConnection,
    call: &Call,
    master: &MasterKey,
    id: Uuid,
) -> Result<KeyRecord> {
    let key_ref = KeyRef::from_public_id(id, master);
    keys_of(call)
        .filter(api_keys::route.eq(key_ref.route))
        .filter(api_keys::number.eq(key_ref.number))
        .select((ApiKey::as_select(), remaining(), last_used_time()))
        .for_update()
        .get_result::<Row>(conn)
        .await
        .optional()?
        .map(KeyRecord::from)
        .ok_or_else(|| Error::not_found(Kind::ApiKey, id.to_string()))
}

/// Stores a changed key.
///
/// # Errors
///
/// What the database reports.
pub async fn update(conn: &mut AsyncPgConnection, key: &ApiKey) -> Result<()> {
    diesel::update(api_keys::table.find((key.route, key.number))).set(key).execute(conn).await?;
    Ok(())
}

/// Holds all keys with the role system-admin until the transaction ends, always in one order, and
/// answers those that are good for ever.
///
/// Revoked and disabled ones are held too: whoever saw one of them before it was revoked holds it in its place, and
/// would wait for those who hold all others and now want that one.
///
/// # Errors
///
/// What the database reports.
pub async fn hold_system_admins(
    conn: &mut AsyncPgConnection,
    now: DateTime<Utc>,
) -> Result<Vec<KeyRef>> {
    let keys: Vec<ApiKey> = api_keys::table
        .filter(api_keys::scope.eq(KeyScope::System))
        .filter(api_keys::roles.contains(vec![Some(SYSTEM_ADMIN.to_owned())]))
        .order((api_keys::route, api_keys::number))
        .select(ApiKey::as_select())
        .for_update()
        .load(conn)
        .await?;
    // One that will end, or has a say in one environment alone, does not keep the system from being left without.
    let is_good =
        |key: &&ApiKey| key.is_good(now) && key.expire_time.is_none() && key.environment.is_none();
    Ok(keys.iter().filter(is_good).map(ApiKey::key_ref).collect())
}

/// Reads what the database knows the master key by.
///
/// # Errors
///
/// What the database reports.
pub async fn master_key_checks(conn: &mut AsyncPgConnection) -> Result<Vec<(i16, Vec<u8>)>> {
    Ok(master_key_checks::table
        .select((master_key_checks::version, master_key_checks::check_value))
        .load(conn)
        .await?)
}

/// Lets the database know a version of the master key.
///
/// # Errors
///
/// What the database reports.
pub async fn insert_master_key_check(
    conn: &mut AsyncPgConnection,
    version: i16,
    check: &[u8],
    now: DateTime<Utc>,
) -> Result<()> {
    diesel::insert_into(master_key_checks::table)
        .values((
            master_key_checks::version.eq(version),
            master_key_checks::check_value.eq(check),
            master_key_checks::create_time.eq(now),
        ))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    Ok(())
}
