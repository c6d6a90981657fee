//! External keys in the database.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::{
    dsl::Filter,
    pg::Pg,
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::model::{Beside, ExternalKey};
use crate::{
    db::Scope,
    error::{Error, Kind, Result},
    filter::Condition,
    keys::{master::MasterKey, model::route_of_tenant, secret::KeyRef},
    rpc::{Call, TenantOfCall, mutate::Change},
    schema::{
        external_keys, key_credits, key_rate_windows, key_usage, tenant_app_keys,
        tenant_installations, tenants,
    },
    tenants::store::tenants_in,
};

/// The external keys that a call acts on: those of its tenant, else all within its scope. The policies of
/// the table say once more what is within the scope.
pub(super) fn keys_of(
    call: &Call,
) -> Filter<external_keys::table, Condition<external_keys::table>> {
    let within: Condition<external_keys::table> = match (&call.tenant, &call.scope) {
        // By the route, since that is where the primary key begins.
        (Some(tenant), _) => Box::new(
            external_keys::route
                .eq(route_of_tenant(tenant.uid))
                .and(external_keys::tenant_uid.eq(tenant.uid)),
        ),
        (None, Scope::System) => Box::new(external_keys::route.eq(external_keys::route)),
        (None, scope) => {
            let tenants = tenants_in(scope).into_boxed::<Pg>().select(tenants::uid);
            Box::new(external_keys::tenant_uid.eq_any(tenants))
        }
    };
    QueryDsl::filter(external_keys::table, within)
}

/// Finds a key, within what the call acts on, by its public id.
pub(super) async fn find(
    conn: &mut AsyncPgConnection,
    call: &Call,
    master: &MasterKey,
    public_id: Uuid,
) -> Result<(ExternalKey, Beside)> {
    let KeyRef { route, number } = KeyRef::from_public_id(public_id, master);
    let key: ExternalKey = keys_of(call)
        .filter(external_keys::route.eq(route))
        .filter(external_keys::number.eq(number))
        .select(ExternalKey::as_select())
        .get_result(conn)
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::ExternalKey, public_id.to_string()))?;
    let beside = beside(conn, std::slice::from_ref(&key)).await?.remove(&key.key_ref());
    let beside =
        beside.ok_or_else(|| Error::not_found(Kind::ExternalKey, public_id.to_string()))?;
    Ok((key, beside))
}

/// Finds a key of a tenant and keeps others from changing it until the transaction ends.
pub(super) async fn hold(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    master: &MasterKey,
    public_id: Uuid,
) -> Result<(ExternalKey, Beside)> {
    let KeyRef { route, number } = KeyRef::from_public_id(public_id, master);
    let key: ExternalKey = external_keys::table
        .find((route, number))
        .filter(external_keys::tenant_uid.eq(tenant.uid))
        .select(ExternalKey::as_select())
        .for_update()
        .get_result(change.conn())
        .await
        .optional()?
        .ok_or_else(|| Error::not_found(Kind::ExternalKey, public_id.to_string()))?;
    let mut found = beside(change.conn(), std::slice::from_ref(&key)).await?;
    let beside = found.remove(&key.key_ref());
    let beside = beside.ok_or_else(|| Error::internal("an external key hangs on nothing"))?;
    change.call.check_environment(Some(&key.environment))?;
    Ok((key, beside))
}

/// A row of what stands beside keys: the key, its tenant, its installation, product and
/// package, what is left of its credits, and when it was used last.
type BesideRow = ((i64, i64), String, (String, String, String), Option<i64>, Option<DateTime<Utc>>);

/// Finds what stands beside keys. What is no more is left out.
pub(super) async fn beside(
    conn: &mut AsyncPgConnection,
    keys: &[ExternalKey],
) -> Result<HashMap<KeyRef, Beside>> {
    let routes = keys.iter().map(|key| key.route).collect::<Vec<_>>();
    let numbers = keys.iter().map(|key| key.number).collect::<Vec<_>>();
    let app_key = tenant_app_keys::tenant_uid
        .eq(external_keys::tenant_uid)
        .and(tenant_app_keys::app_key_id.eq(external_keys::app_key_id));
    let installation = tenant_installations::tenant_uid
        .eq(tenant_app_keys::tenant_uid)
        .and(tenant_installations::installation_id.eq(tenant_app_keys::installation_id));
    let credits = key_credits::route
        .eq(external_keys::route)
        .and(key_credits::number.eq(external_keys::number));
    let usage =
        key_usage::route.eq(external_keys::route).and(key_usage::number.eq(external_keys::number));
    let rows: Vec<BesideRow> = external_keys::table
        .inner_join(tenant_app_keys::table.on(app_key))
        .inner_join(tenant_installations::table.on(installation))
        .inner_join(tenants::table.on(tenants::uid.eq(external_keys::tenant_uid)))
        .left_join(key_credits::table.on(credits))
        .left_join(key_usage::table.on(usage))
        // More than was asked for where keys of several tenants met in a number, which harms nobody.
        .filter(external_keys::route.eq_any(routes))
        .filter(external_keys::number.eq_any(numbers))
        .select((
            (external_keys::route, external_keys::number),
            tenants::tenant_id,
            (
                tenant_installations::installation_id,
                tenant_installations::product_code,
                tenant_installations::package_code,
            ),
            key_credits::remaining.nullable(),
            key_usage::last_used_time.nullable(),
        ))
        .load(conn)
        .await?;
    let read = |row: BesideRow| {
        let ((route, number), tenant_id, installation, remaining, last_used_time) = row;
        let (installation_id, product_code, package_code) = installation;
        let beside = Beside {
            tenant_id,
            installation_id,
            product_code,
            package_code,
            remaining,
            last_used_time,
        };
        (KeyRef { route, number }, beside)
    };
    Ok(rows.into_iter().map(read).collect())
}

/// What the constraints of the table mean to a caller: what is missing was there a moment ago.
pub(super) fn refused(error: DieselError, key: &ExternalKey) -> Error {
    let DieselError::DatabaseError(kind, information) = &error else {
        return error.into();
    };
    match (kind, information.constraint_name()) {
        // Two keys of one millisecond have met in one number, and will not again.
        (DatabaseErrorKind::UniqueViolation, Some("external_keys_pkey")) => Error::Contended(error),
        (DatabaseErrorKind::ForeignKeyViolation, Some("external_keys_app_key_fkey")) => {
            Error::not_found(Kind::AppKey, &key.app_key_id)
        }
        (DatabaseErrorKind::ForeignKeyViolation, Some("external_keys_environment_fkey")) => {
            Error::not_found(Kind::Environment, &key.environment)
        }
        _ => error.into(),
    }
}

/// Stores a key that has changed: what may change of one.
pub(super) async fn store(conn: &mut AsyncPgConnection, key: &ExternalKey) -> Result<()> {
    diesel::update(external_keys::table.find((key.route, key.number)))
        .set((
            (
                external_keys::label.eq(&key.label),
                external_keys::environment.eq(&key.environment),
                external_keys::expire_time.eq(key.expire_time),
                external_keys::device.eq(&key.device),
                external_keys::geo.eq(&key.geo),
                external_keys::enabled.eq(key.enabled),
                external_keys::update_time.eq(key.update_time),
                external_keys::version.eq(key.version),
            ),
            (
                external_keys::digest.eq(&key.digest),
                external_keys::master_key_version.eq(key.master_key_version),
                external_keys::old_digest.eq(&key.old_digest),
                external_keys::old_master_key_version.eq(key.old_master_key_version),
                external_keys::old_end_time.eq(key.old_end_time),
            ),
            (
                external_keys::revoke_time.eq(key.revoke_time),
                external_keys::revoked_by.eq(&key.revoked_by),
                external_keys::revoke_reason.eq(&key.revoke_reason),
            ),
            (
                external_keys::rate_requests.eq(key.rate_requests),
                external_keys::rate_window_seconds.eq(key.rate_window_seconds),
                external_keys::credits_amount.eq(key.credits_amount),
                external_keys::credits_refill_amount.eq(key.credits_refill_amount),
                external_keys::credits_refill_seconds.eq(key.credits_refill_seconds),
                external_keys::limits_version.eq(key.limits_version),
            ),
        ))
        .execute(conn)
        .await
        .map_err(|error| refused(error, key))?;
    Ok(())
}

/// Deletes the external keys of app keys of a tenant, whose installation the change holds alone; answers
/// how many.
pub async fn remove(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    app_key_ids: &[String],
) -> Result<usize> {
    let route = route_of_tenant(tenant.uid);
    // Held first: whoever is changing one of them may be setting its credits.
    let numbers: Vec<i64> = external_keys::table
        .filter(external_keys::tenant_uid.eq(tenant.uid))
        .filter(external_keys::app_key_id.eq_any(app_key_ids))
        .order(external_keys::number)
        .select(external_keys::number)
        .for_update()
        .load(change.conn())
        .await?;
    // Before the keys: nothing but a key that is there lets anybody see what is counted of it.
    diesel::delete(
        key_usage::table
            .filter(key_usage::route.eq(route))
            .filter(key_usage::number.eq_any(&numbers)),
    )
    .execute(change.conn())
    .await?;
    diesel::delete(
        key_credits::table
            .filter(key_credits::route.eq(route))
            .filter(key_credits::number.eq_any(&numbers)),
    )
    .execute(change.conn())
    .await?;
    diesel::delete(
        key_rate_windows::table
            .filter(key_rate_windows::route.eq(route))
            .filter(key_rate_windows::number.eq_any(&numbers)),
    )
    .execute(change.conn())
    .await?;
    diesel::delete(
        external_keys::table
            .filter(external_keys::route.eq(route))
            .filter(external_keys::number.eq_any(&numbers)),
    )
    .execute(change.conn())
    .await?;
    Ok(numbers.len())
}
