//! The keys that clients of an installation send (1-25, 1-29 to 1-37).
//!
//! Each is good in one environment, and carries rules of from where and how often it may be used. What
//! stands beside its row is joined for messages only: whose it is, what it is of, when it was used last and
//! what is left of its credits.

mod list;
mod rules;

use std::collections::HashMap;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use diesel::{
    dsl::Filter,
    pg::Pg,
    prelude::*,
    result::{DatabaseErrorKind, Error as DieselError},
};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;
use uuid::Uuid;

use self::{list::Query, rules::check_rules};
use super::{
    app_keys,
    installations::{Installation, check_fixed, said, tell},
    limits::{self, Credits, Limits, Rate},
    master::MasterKey,
    model::{new_ref, route_of_tenant},
    secret::{self, KeyRef, KeySecret, KeyText},
};
use crate::{
    db::Scope,
    directory::{environments, service::masked},
    error::{Error, Kind, Result},
    filter::Condition,
    nodes,
    pb::{self, ErrorReason},
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag, etag},
        permit::{json_of, message_of},
    },
    schema::{
        external_keys, key_credits, key_rate_windows, key_usage, tenant_app_keys,
        tenant_installations, tenants,
    },
    server::Shared,
    tenants::{life::check_protection_of_keys, store},
    text_enum,
    wire::{Fields, id, text, time, timestamp},
};

const LABEL_MAX: usize = 80;
const REASON_MAX: usize = 500;
const OVERLAP_DEFAULT: TimeDelta = TimeDelta::days(1);
const OVERLAP_MAX: TimeDelta = TimeDelta::days(30);

text_enum! {
    /// Where an external key is in its life.
    pub enum KeyState {
        /// Good.
        Active = "ACTIVE",
        /// Not enabled.
        Disabled = "DISABLED",
        /// Good, with two secrets.
        Rotating = "ROTATING",
        /// Its end has passed.
        Expired = "EXPIRED",
        /// Revoked for good.
        Revoked = "REVOKED",
    }
}

/// A key that clients of an installation send.
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable)]
#[diesel(table_name = external_keys, primary_key(route, number))]
#[diesel(check_for_backend(Pg))]
pub struct ExternalKey {
    /// Leads to the tenant; with `number` the primary key.
    pub route: i64,
    /// The key's own number.
    pub number: i64,
    /// Whose it is.
    pub tenant_uid: Uuid,
    /// The app key that it is of.
    pub app_key_id: String,
    /// What people call it.
    pub label: String,
    /// The only environment that it is good in.
    pub environment: String,
    /// Its end.
    pub expire_time: Option<DateTime<Utc>>,
    /// From which devices it may be used, as JSON of `DeviceRules`.
    pub device: Option<Value>,
    /// From where it may be used, as JSON of `GeoRules`.
    pub geo: Option<Value>,
    /// Whether it is good at all.
    pub enabled: bool,
    /// What is stored of the secret.
    pub digest: Vec<u8>,
    /// The version of the master key that made the digest.
    pub master_key_version: i16,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub create_time: DateTime<Utc>,
    /// When it was changed last.
    pub update_time: DateTime<Utc>,
    /// When it was revoked.
    pub revoke_time: Option<DateTime<Utc>>,
    /// Who revoked it.
    pub revoked_by: Option<String>,
    /// Why it was revoked.
    pub revoke_reason: Option<String>,
    /// Counts the changes.
    pub version: i64,
    /// What was stored of the secret before the last rotation.
    pub old_digest: Option<Vec<u8>>,
    /// The version of the master key that made that.
    pub old_master_key_version: Option<i16>,
    /// Until when the old secret is good.
    pub old_end_time: Option<DateTime<Utc>>,
    /// How many uses of a window there are.
    pub rate_requests: Option<i64>,
    /// How long a window is.
    pub rate_window_seconds: Option<i32>,
    /// How many uses there are altogether, or after a refill.
    pub credits_amount: Option<i64>,
    /// How many a refill adds.
    pub credits_refill_amount: Option<i64>,
    /// How often it is refilled.
    pub credits_refill_seconds: Option<i32>,
    /// Counts how often the limits were set.
    pub limits_version: i64,
}

impl ExternalKey {
    /// Where its row lies.
    pub fn key_ref(&self) -> KeyRef {
        KeyRef { route: self.route, number: self.number }
    }

    /// The limits that it has.
    pub fn limits(&self) -> Limits {
        Limits::of_columns(
            (self.rate_requests, self.rate_window_seconds),
            (self.credits_amount, self.credits_refill_amount, self.credits_refill_seconds),
        )
    }

    /// Sets the limits, of which what was handed out before counts for nothing.
    fn limit(&mut self, limits: Limits) {
        let Limits { rate, credits } = limits;
        self.rate_requests = rate.map(|rate| rate.requests);
        self.rate_window_seconds = rate.map(|rate| rate.window_seconds);
        self.credits_amount = credits.map(|credits| credits.amount);
        let refill = credits.and_then(|credits| credits.refill);
        self.credits_refill_amount = refill.map(|(added, _)| added);
        self.credits_refill_seconds = refill.map(|(_, interval)| interval);
        self.limits_version += 1;
    }

    /// Where it is in its life.
    pub fn state(&self, now: DateTime<Utc>) -> KeyState {
        if self.revoke_time.is_some() {
            KeyState::Revoked
        } else if !self.enabled {
            KeyState::Disabled
        } else if self.expire_time.is_some_and(|end| end <= now) {
            KeyState::Expired
        } else if self.old_end_time.is_some_and(|end| end > now) {
            KeyState::Rotating
        } else {
            KeyState::Active
        }
    }

    /// Refuses a change of a key that was revoked for good.
    fn check_not_revoked(&self, public_id: &Uuid) -> Result<()> {
        if self.revoke_time.is_none() {
            return Ok(());
        }
        Err(Error::WrongState {
            reason: ErrorReason::InvalidStateTransition,
            kind: Kind::ExternalKey,
            id: public_id.to_string(),
            message: format!("the key \"{public_id}\" is REVOKED for good: create another"),
        })
    }
}

/// What stands beside the row of a key.
#[derive(Clone, Debug)]
pub(super) struct Beside {
    tenant_id: String,
    installation_id: String,
    product_code: String,
    package_code: String,
    /// What is left of its credits; none where it was never said.
    remaining: Option<i64>,
    last_used_time: Option<DateTime<Utc>>,
}

impl Beside {
    /// What stands beside a new key.
    fn new(tenant: &TenantOfCall, installation: &Installation) -> Self {
        let Installation { installation_id, product_code, package_code, .. } = installation.clone();
        Self::of(&tenant.tenant_id, (installation_id, product_code, package_code))
    }

    /// The same of an installation's id, its product and the package of that.
    pub(super) fn of(
        tenant_id: &str,
        (installation_id, product_code, package_code): (String, String, String),
    ) -> Self {
        Self {
            tenant_id: tenant_id.to_owned(),
            installation_id,
            product_code,
            package_code,
            remaining: None,
            last_used_time: None,
        }
    }
}

/// The key as messages carry it.
pub(super) fn message(
    key: ExternalKey,
    beside: Beside,
    master: &MasterKey,
    now: DateTime<Utc>,
) -> Result<pb::ExternalKey> {
    let external_key_id = key.key_ref().public_id(master).to_string();
    let state = key.state(now);
    let (rate_limit, credits) = key.limits().messages(beside.remaining);
    let ExternalKey {
        route: _,
        number: _,
        tenant_uid: _,
        app_key_id,
        label,
        environment,
        expire_time,
        device,
        geo,
        enabled,
        digest: _,
        master_key_version: _,
        created_by,
        create_time,
        update_time,
        revoke_time,
        revoked_by,
        revoke_reason,
        version,
        old_digest: _,
        old_master_key_version: _,
        old_end_time,
        rate_requests: _,
        rate_window_seconds: _,
        credits_amount: _,
        credits_refill_amount: _,
        credits_refill_seconds: _,
        limits_version: _,
    } = key;
    let Beside {
        tenant_id,
        installation_id,
        product_code,
        package_code,
        remaining: _,
        last_used_time,
    } = beside;
    Ok(pb::ExternalKey {
        external_key_id,
        app_key_id,
        label,
        environment,
        expire_time: expire_time.map(timestamp),
        device: device.map(message_of).transpose()?,
        geo: geo.map(message_of).transpose()?,
        enabled: Some(enabled),
        created_by,
        create_time: Some(timestamp(create_time)),
        etag: etag(version),
        exp_date: String::new(),
        state: pb::ExternalKeyState::from(state).into(),
        last_used_time: last_used_time.map(timestamp),
        rate_limit,
        credits,
        overlap_end_time: old_end_time.filter(|_| state == KeyState::Rotating).map(timestamp),
        update_time: Some(timestamp(update_time)),
        revoke_time: revoke_time.map(timestamp),
        revoked_by: revoked_by.unwrap_or_default(),
        revoke_reason: revoke_reason.unwrap_or_default(),
        tenant_id,
        installation_id,
        product_code,
        package_code,
    })
}

impl From<KeyState> for pb::ExternalKeyState {
    fn from(state: KeyState) -> Self {
        match state {
            KeyState::Active => Self::Active,
            KeyState::Disabled => Self::Disabled,
            KeyState::Rotating => Self::Rotating,
            KeyState::Expired => Self::Expired,
            KeyState::Revoked => Self::Revoked,
        }
    }
}

/// What a caller says of a new external key.
#[derive(Clone, Debug)]
pub struct NewExternalKey {
    pub(super) label: String,
    /// The environment, whether or not it is there.
    pub(super) environment: String,
    pub(super) expire_time: Option<DateTime<Utc>>,
    pub(super) device: Option<pb::DeviceRules>,
    pub(super) geo: Option<pb::GeoRules>,
    pub(super) enabled: bool,
    pub(super) limits: Limits,
}

impl NewExternalKey {
    /// Reads the first key of an installation at a place of a request.
    pub(super) fn read_first(
        pb: &pb::NewExternalKey,
        at: &str,
        now: DateTime<Utc>,
        fields: &mut Fields,
    ) -> Option<Self> {
        let label = fields.take(&format!("{at}.label"), text(&pb.label, 1, LABEL_MAX));
        let environment = fields.take(&format!("{at}.env"), read_environment(&pb.env));
        let expire_time = fields.take(&format!("{at}.exp_date"), read_last_day(&pb.exp_date, now));
        check_rules(pb.device.as_ref(), pb.geo.as_ref(), at, fields);
        Some(Self {
            label: label?,
            environment: environment?,
            expire_time: expire_time?,
            device: pb.device.clone(),
            geo: pb.geo.clone(),
            enabled: true,
            limits: Limits::default(),
        })
    }

    /// Reads an external key at a place of a request, at a time that its end must lie after.
    pub fn read(
        pb: &pb::ExternalKey,
        at: &str,
        now: DateTime<Utc>,
        fields: &mut Fields,
    ) -> Option<Self> {
        let label = fields.take(&format!("{at}.label"), text(&pb.label, 1, LABEL_MAX));
        let environment =
            fields.take(&format!("{at}.environment"), read_environment(&pb.environment));
        let expire_time = fields.take(&place_of_end(pb, at), read_end(pb, now));
        check_rules(pb.device.as_ref(), pb.geo.as_ref(), at, fields);
        let rate = limits::read_rate(pb.rate_limit.as_ref(), &format!("{at}.rate_limit"), fields);
        let credits = limits::read_credits(pb.credits.as_ref(), &format!("{at}.credits"), fields);
        Some(Self {
            label: label?,
            environment: environment?,
            expire_time: expire_time?,
            device: pb.device.clone(),
            geo: pb.geo.clone(),
            enabled: pb.enabled.unwrap_or(true),
            limits: Limits { rate, credits },
        })
    }
}

fn read_environment(value: &str) -> Result<String, String> {
    id(&value.to_ascii_lowercase())
}

/// The field that says when a key ends.
fn place_of_end(pb: &pb::ExternalKey, at: &str) -> String {
    let field = if pb.exp_date.is_empty() { "expire_time" } else { "exp_date" };
    format!("{at}.{field}")
}

/// Reads when a key ends, which is said in one of two ways.
fn read_end(pb: &pb::ExternalKey, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, String> {
    let Some(end) = &pb.expire_time else {
        return read_last_day(&pb.exp_date, now);
    };
    if !pb.exp_date.is_empty() {
        return Err("stands beside expire_time: send one of them".to_owned());
    }
    let end = time(end)?;
    if end <= now { Err("does not lie ahead".to_owned()) } else { Ok(Some(end)) }
}

/// Reads the last day of a key: the key ends with it, in UTC (1-30).
fn read_last_day(date: &str, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, String> {
    if date.is_empty() {
        return Ok(None);
    }
    let day = date
        .parse::<NaiveDate>()
        .ok()
        .or_else(|| DateTime::parse_from_rfc3339(date).ok().map(|time| time.to_utc().date_naive()))
        .ok_or("is not a day such as 2027-01-31")?;
    let end = day
        .checked_add_days(Days::new(1))
        .filter(|_| (0..10_000).contains(&chrono::Datelike::year(&day)))
        .and_then(|next| next.and_hms_opt(0, 0, 0))
        .ok_or("is not a day of the years up to 9999")?
        .and_utc();
    if end <= now { Err("is over".to_owned()) } else { Ok(Some(end)) }
}

/// Reads for how long the old secret of a key that is rotated stays good.
fn read_overlap(overlap: Option<&prost_types::Duration>) -> Result<TimeDelta, String> {
    let Some(overlap) = overlap else {
        return Ok(OVERLAP_DEFAULT);
    };
    u32::try_from(overlap.nanos)
        .ok()
        .and_then(|nanos| TimeDelta::new(overlap.seconds, nanos))
        .filter(|overlap| (TimeDelta::zero()..=OVERLAP_MAX).contains(overlap))
        .ok_or_else(|| "is not from 0 seconds to 30 days".to_owned())
}

fn read_id(field: &str, value: &str) -> Result<Uuid> {
    let what =
        if value.is_empty() { "is required: ListExternalKeys shows it" } else { "is not a UUID" };
    value.parse().map_err(|_| Error::invalid(field, what))
}

/// The external keys that a call acts on: those of its tenant, else all within its scope. The policies of
/// the table say once more what is within the scope.
fn keys_of(call: &Call) -> Filter<external_keys::table, Condition<external_keys::table>> {
    let within: Condition<external_keys::table> = match (&call.tenant, &call.scope) {
        // By the route, since that is where the primary key begins.
        (Some(tenant), _) => Box::new(
            external_keys::route
                .eq(route_of_tenant(tenant.uid))
                .and(external_keys::tenant_uid.eq(tenant.uid)),
        ),
        (None, Scope::System) => Box::new(external_keys::route.eq(external_keys::route)),
        (None, scope) => {
            let tenants = store::tenants_in(scope).into_boxed::<Pg>().select(tenants::uid);
            Box::new(external_keys::tenant_uid.eq_any(tenants))
        }
    };
    QueryDsl::filter(external_keys::table, within)
}

/// Finds a key, within what the call acts on, by its public id.
async fn find(
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
async fn hold(
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
async fn beside(
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

/// What is stored of a new secret, and under which version of the master key.
fn digest_of(master: &MasterKey, secret: &KeySecret) -> Result<(Vec<u8>, i16)> {
    let version = master.current_version();
    let digest = master
        .digest(version, secret)
        .ok_or_else(|| Error::internal("the current version of the master key is missing"))?;
    Ok((digest.as_bytes().to_vec(), version))
}

/// Issues an external key of an app key, whose installation the change holds.
///
/// # Errors
///
/// When the environment or the app key is unknown, or what the database reports.
pub async fn issue(
    change: &mut Change<'_>,
    master: &MasterKey,
    tenant: &TenantOfCall,
    installation: &Installation,
    app_key_id: String,
    new: &NewExternalKey,
) -> Result<(pb::ExternalKey, KeyText)> {
    change.call.check_environment(Some(&new.environment))?;
    change.call.check_end(new.expire_time)?;
    environments::find(change.conn(), &new.environment).await?;
    let secret = KeySecret::generate();
    let (digest, master_key_version) = digest_of(master, &secret)?;
    let key_ref = new_ref(route_of_tenant(tenant.uid), change.now);
    let mut key = ExternalKey {
        route: key_ref.route,
        number: key_ref.number,
        tenant_uid: tenant.uid,
        app_key_id,
        label: new.label.clone(),
        environment: new.environment.clone(),
        expire_time: new.expire_time,
        device: new.device.as_ref().map(json_of),
        geo: new.geo.as_ref().map(json_of),
        enabled: new.enabled,
        digest,
        master_key_version,
        created_by: change.call.actor(),
        create_time: change.now,
        update_time: change.now,
        revoke_time: None,
        revoked_by: None,
        revoke_reason: None,
        version: 1,
        old_digest: None,
        old_master_key_version: None,
        old_end_time: None,
        rate_requests: None,
        rate_window_seconds: None,
        credits_amount: None,
        credits_refill_amount: None,
        credits_refill_seconds: None,
        limits_version: 0,
    };
    if new.limits != Limits::default() {
        key.limit(new.limits);
    }
    diesel::insert_into(external_keys::table)
        .values(&key)
        .execute(change.conn())
        .await
        .map_err(|error| refused(error, &key))?;
    if new.limits.credits.is_some() {
        let limits = (key.limits_version, key.limits().credits);
        limits::begin(change, key_ref, Some(tenant.uid), limits).await?;
    }
    let text = secret::mint(master, Some(&new.environment), key_ref, &secret);
    let told = message(key, Beside::new(tenant, installation), master, change.now)?;
    tell_of(change, tenant, "external_key.created", None, &told).await?;
    Ok((told, text))
}

/// What the constraints of the table mean to a caller: what is missing was there a moment ago.
fn refused(error: DieselError, key: &ExternalKey) -> Error {
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
async fn store_key(conn: &mut AsyncPgConnection, key: &ExternalKey) -> Result<()> {
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
pub(super) async fn remove(
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

/// Records what happened to a key.
async fn tell_of(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    kind: &'static str,
    before: Option<&pb::ExternalKey>,
    after: &pb::ExternalKey,
) -> Result<()> {
    let told = (before.map(json_of), Some(json_of(after)));
    tell(change, tenant, kind, &after.external_key_id, told).await
}

/// Issues an external key.
///
/// # Errors
///
/// What the method says.
pub async fn create(
    shared: &Shared,
    call: &Call,
    request: &pb::CreateExternalKeyRequest,
) -> Result<pb::CreateExternalKeyResponse> {
    let tenant = call.own_tenant()?;
    let (app_key_id, new) = read_new(request, shared.clock.now())?;

    let mut answer = shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            store::hold(change.conn(), tenant).await?;
            check_protection_of_keys(change, tenant.uid).await?;
            let (app_key, installation) = app_keys::hold(change, tenant, &app_key_id).await?;
            let app_key_id = app_key.app_key_id;
            let (key, text) =
                issue(change, &shared.master, tenant, &installation, app_key_id, &new).await?;
            let secret = text.reveal().to_owned();
            Ok(pb::CreateExternalKeyResponse { external_key: Some(key), secret })
        })
        .await?;
    if request.validate_only {
        // Nobody has the key, or its secret was told to whoever asked in earnest.
        answer.secret.clear();
    }

    Ok(answer)
}

fn read_new(
    request: &pb::CreateExternalKeyRequest,
    now: DateTime<Utc>,
) -> Result<(String, NewExternalKey)> {
    let pb = request.external_key.as_ref().ok_or(Error::invalid("external_key", "is required"))?;
    let mut fields = Fields::default();
    let app_key_id = fields.take("external_key.app_key_id", app_keys::read_id(&pb.app_key_id));
    let new = NewExternalKey::read(pb, "external_key", now, &mut fields);
    fields.finish()?;
    app_key_id.zip(new).ok_or_else(|| Error::internal("a field was refused without a violation"))
}

/// Gets an external key.
///
/// # Errors
///
/// What the method says.
pub async fn get(
    shared: &Shared,
    call: &Call,
    request: &pb::GetExternalKeyRequest,
) -> Result<pb::GetExternalKeyResponse> {
    let id = read_id("external_key_id", &request.external_key_id)?;

    let (key, beside) =
        shared.read(call, async |conn| find(conn, call, &shared.master, id).await).await?;

    let external_key = Some(message(key, beside, &shared.master, shared.clock.now())?);
    Ok(pb::GetExternalKeyResponse { external_key })
}

/// Lists external keys, page by page.
///
/// # Errors
///
/// What the method says.
pub async fn list(
    shared: &Shared,
    call: &Call,
    request: &pb::ListExternalKeysRequest,
) -> Result<pb::ListExternalKeysResponse> {
    let now = shared.clock.now();
    let query = Query::read(call, request, now)?;

    let (found, mut besides, next_page_token) = shared
        .read(call, async |conn| {
            let (found, token) = query.run(conn, call, &shared.master).await?;
            let besides = beside(conn, &found).await?;
            Ok((found, besides, token))
        })
        .await?;

    let external_keys = found
        .into_iter()
        // One that was deleted a moment ago is left out.
        .filter_map(|key| besides.remove(&key.key_ref()).map(|beside| (key, beside)))
        .map(|(key, beside)| message(key, beside, &shared.master, now))
        .collect::<Result<_>>()?;
    Ok(pb::ListExternalKeysResponse { external_keys, next_page_token })
}

/// Changes an external key.
///
/// # Errors
///
/// What the method says.
pub async fn update(
    shared: &Shared,
    call: &Call,
    request: &pb::UpdateExternalKeyRequest,
) -> Result<pb::UpdateExternalKeyResponse> {
    let tenant = call.own_tenant()?;
    let patch = Patch::read(request, shared.clock.now())?;

    shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let external_key = Some(update_one(change, tenant, &shared.master, &patch).await?);
            let revision = change.revision().await?;
            Ok(pb::UpdateExternalKeyResponse { external_key, revision })
        })
        .await
}

/// What is to change of an external key.
struct Patch {
    public_id: Uuid,
    etag: String,
    named: Vec<&'static str>,
    /// Empty where it says nothing of the app key.
    app_key_id: String,
    label: String,
    environment: String,
    expire_time: Option<DateTime<Utc>>,
    device: Option<Value>,
    geo: Option<Value>,
    enabled: bool,
    rate: Option<Rate>,
    credits: Option<Credits>,
}

const FIXED: &[&str] = &[
    "external_key_id",
    "created_by",
    "create_time",
    "etag",
    "state",
    "last_used_time",
    "overlap_end_time",
    "update_time",
    "revoke_time",
    "revoked_by",
    "revoke_reason",
    "tenant_id",
    "installation_id",
    "product_code",
    "package_code",
];

impl Patch {
    /// Reads the fields that are named; the others are not checked, and stay (1-31).
    fn read(request: &pb::UpdateExternalKeyRequest, now: DateTime<Utc>) -> Result<Self> {
        let pb =
            request.external_key.as_ref().ok_or(Error::invalid("external_key", "is required"))?;
        let mask = request.update_mask.as_ref();
        let named = masked(mask, &present(pb), FIXED)?;
        let is_named = |path: &str| named.contains(&path);
        let at = "external_key";
        let mut fields = Fields::default();
        let label = text(&pb.label, usize::from(is_named("label")), LABEL_MAX);
        let label = fields.take("external_key.label", label);
        let environment = if is_named("environment") {
            read_environment(&pb.environment)
        } else {
            Ok(String::new())
        };
        let environment = fields.take("external_key.environment", environment);
        // Two names of one thing: which of them the mask has says nothing.
        let end = if is_named("expire_time") || is_named("exp_date") {
            read_end(pb, now)
        } else {
            Ok(None)
        };
        let expire_time = fields.take(&place_of_end(pb, at), end);
        let device = pb.device.as_ref().filter(|_| is_named("device"));
        let geo = pb.geo.as_ref().filter(|_| is_named("geo"));
        check_rules(device, geo, at, &mut fields);
        let rate = pb.rate_limit.as_ref().filter(|_| is_named("rate_limit"));
        let rate = limits::read_rate(rate, "external_key.rate_limit", &mut fields);
        let credits = pb.credits.as_ref().filter(|_| is_named("credits"));
        let credits = limits::read_credits(credits, "external_key.credits", &mut fields);
        fields.finish()?;
        let public_id = read_id("external_key.external_key_id", &pb.external_key_id)?;
        let etag = if request.etag.is_empty() { &pb.etag } else { &request.etag };
        Ok(Self {
            public_id,
            etag: etag.clone(),
            app_key_id: said(mask, &pb.app_key_id).to_ascii_lowercase(),
            label: label.unwrap_or_default(),
            environment: environment.unwrap_or_default(),
            expire_time: expire_time.flatten(),
            device: device.map(json_of),
            geo: geo.map(json_of),
            enabled: pb.enabled.unwrap_or(true),
            rate,
            credits,
            named,
        })
    }

    /// Whether it sets limits, which begins all of them anew.
    fn limits(&self) -> bool {
        self.named.iter().any(|path| ["rate_limit", "credits"].contains(path))
    }

    fn apply(&self, key: &mut ExternalKey) -> Result<()> {
        check_fixed("external_key.app_key_id", &self.app_key_id, &key.app_key_id)?;
        let mut limits = key.limits();
        for path in &self.named {
            match *path {
                "label" => key.label.clone_from(&self.label),
                "environment" => key.environment.clone_from(&self.environment),
                "device" => key.device.clone_from(&self.device),
                "geo" => key.geo.clone_from(&self.geo),
                "enabled" => key.enabled = self.enabled,
                "rate_limit" => limits.rate = self.rate,
                "credits" => limits.credits = self.credits,
                _ => key.expire_time = self.expire_time,
            }
        }
        if self.limits() {
            key.limit(limits);
        }
        Ok(())
    }
}

/// What can be said of an external key, and whether it is.
fn present(pb: &pb::ExternalKey) -> [(&'static str, bool); 9] {
    [
        ("label", !pb.label.is_empty()),
        ("environment", !pb.environment.is_empty()),
        ("expire_time", pb.expire_time.is_some()),
        ("exp_date", !pb.exp_date.is_empty()),
        ("device", pb.device.is_some()),
        ("geo", pb.geo.is_some()),
        ("enabled", pb.enabled.is_some()),
        ("rate_limit", pb.rate_limit.is_some()),
        ("credits", pb.credits.is_some()),
    ]
}

async fn update_one(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    master: &MasterKey,
    patch: &Patch,
) -> Result<pb::ExternalKey> {
    let (public_id, now) = (patch.public_id, change.now);
    store::hold(change.conn(), tenant).await?;
    check_protection_of_keys(change, tenant.uid).await?;
    let (key, mut beside) = hold(change, tenant, master, public_id).await?;
    check_etag(&patch.etag, key.version, Kind::ExternalKey, &public_id.to_string())?;
    key.check_not_revoked(&public_id)?;
    let before = message(key.clone(), beside.clone(), master, now)?;
    let mut after = key.clone();
    patch.apply(&mut after)?;
    if after == key {
        return Ok(before);
    }
    if after.expire_time != key.expire_time {
        change.call.check_end(after.expire_time)?;
    }
    if after.environment != key.environment {
        change.call.check_environment(Some(&after.environment))?;
        environments::find(change.conn(), &after.environment).await?;
    }
    after.update_time = now;
    after.version += 1;
    store_key(change.conn(), &after).await?;
    if patch.limits() {
        let credits = after.limits().credits;
        let limits = (after.limits_version, credits);
        limits::begin(change, key.key_ref(), Some(tenant.uid), limits).await?;
        beside.remaining = credits.map(|credits| credits.amount);
    }
    let after = message(after, beside, master, now)?;
    tell_of(change, tenant, "external_key.updated", Some(&before), &after).await?;
    Ok(after)
}

/// Gives an external key a new secret.
///
/// # Errors
///
/// What the method says.
pub async fn rotate(
    shared: &Shared,
    call: &Call,
    request: &pb::RotateExternalKeyRequest,
) -> Result<pb::RotateExternalKeyResponse> {
    let tenant = call.own_tenant()?;
    let id = read_id("external_key_id", &request.external_key_id)?;
    let overlap = read_overlap(request.overlap.as_ref());
    let overlap = overlap.map_err(|why| Error::invalid("overlap", why))?;

    let mut answer = shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let master = &shared.master;
            let (key, text) =
                rotate_one(change, tenant, master, id, (overlap, &request.etag)).await?;
            let (secret, revision) = (text.reveal().to_owned(), change.revision().await?);
            Ok(pb::RotateExternalKeyResponse { key: Some(key), secret, revision })
        })
        .await?;
    if request.validate_only {
        // Nobody has the secret, or it was told to whoever asked in earnest.
        answer.secret.clear();
    }

    Ok(answer)
}

async fn rotate_one(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    master: &MasterKey,
    public_id: Uuid,
    (overlap, sent_etag): (TimeDelta, &str),
) -> Result<(pb::ExternalKey, KeyText)> {
    let now = change.now;
    store::hold(change.conn(), tenant).await?;
    check_protection_of_keys(change, tenant.uid).await?;
    let (mut key, beside) = hold(change, tenant, master, public_id).await?;
    check_etag(sent_etag, key.version, Kind::ExternalKey, &public_id.to_string())?;
    key.check_not_revoked(&public_id)?;
    change.call.check_end(key.expire_time)?;
    let before = message(key.clone(), beside.clone(), master, now)?;
    let secret = KeySecret::generate();
    let (digest, version) = digest_of(master, &secret)?;
    let old = (std::mem::replace(&mut key.digest, digest), key.master_key_version, now + overlap);
    let old = Some(old).filter(|(.., end)| *end > now);
    key.master_key_version = version;
    key.old_end_time = old.as_ref().map(|(.., end)| *end);
    key.old_master_key_version = old.as_ref().map(|(_, version, _)| *version);
    key.old_digest = old.map(|(digest, ..)| digest);
    key.update_time = now;
    key.version += 1;
    store_key(change.conn(), &key).await?;
    let text = secret::mint(master, Some(&key.environment), key.key_ref(), &secret);
    let after = message(key, beside, master, now)?;
    tell_of(change, tenant, "external_key.rotated", Some(&before), &after).await?;
    Ok((after, text))
}

/// Revokes an external key, and waits until that is in effect everywhere where the caller wants it so.
///
/// # Errors
///
/// What the method says.
pub async fn revoke(
    shared: &Shared,
    call: &Call,
    request: &pb::RevokeExternalKeyRequest,
) -> Result<pb::RevokeExternalKeyResponse> {
    let tenant = call.own_tenant()?;
    let id = read_id("external_key_id", &request.external_key_id)?;
    let reason =
        text(&request.reason, 1, REASON_MAX).map_err(|why| Error::invalid("reason", why))?;

    let mut answer = shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let master = &shared.master;
            let key = revoke_one(change, tenant, master, id, (&reason, &request.etag)).await?;
            let revision = change.revision().await?;
            Ok(pb::RevokeExternalKeyResponse { key: Some(key), revision, ..Default::default() })
        })
        .await?;
    if request.wait && !request.validate_only {
        let told = nodes::confirm(shared, &answer.revision, call.deadline).await?;
        (answer.confirmed, answer.silent_node_ids) = (told.confirmed, told.silent_node_ids);
    }

    Ok(answer)
}

async fn revoke_one(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    master: &MasterKey,
    public_id: Uuid,
    (reason, sent_etag): (&str, &str),
) -> Result<pb::ExternalKey> {
    let now = change.now;
    check_protection_of_keys(change, tenant.uid).await?;
    let (mut key, beside) = hold(change, tenant, master, public_id).await?;
    check_etag(sent_etag, key.version, Kind::ExternalKey, &public_id.to_string())?;
    let before = message(key.clone(), beside.clone(), master, now)?;
    if key.revoke_time.is_some() {
        return Ok(before);
    }
    key.revoke_time = Some(now);
    key.revoked_by = Some(change.call.actor());
    key.revoke_reason = Some(reason.to_owned());
    key.update_time = now;
    key.version += 1;
    store_key(change.conn(), &key).await?;
    let after = message(key, beside, master, now)?;
    tell_of(change, tenant, "external_key.revoked", Some(&before), &after).await?;
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// 1-30
    #[test]
    fn a_key_is_good_until_the_end_of_its_last_day() {
        let now = at("2026-11-23T18:00:00Z");
        let end = |date: &str| read_last_day(date, now);

        assert_eq!(end("").unwrap(), None);
        assert_eq!(end("2026-11-23").unwrap(), Some(at("2026-11-24T00:00:00Z")));
        assert_eq!(end("2026-12-31").unwrap(), Some(at("2027-01-01T00:00:00Z")));
        assert_eq!(end("2027-01-31T23:30:00-02:00").unwrap(), Some(at("2027-02-02T00:00:00Z")));
        for wrong in ["2026-11-22", "tomorrow", "2026-13-01", "31.1.2027", "20270131", "\0"] {
            assert!(end(wrong).is_err(), "{wrong}");
        }
    }
}
