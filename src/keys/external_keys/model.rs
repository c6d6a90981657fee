//! What an external key is.

use chrono::{DateTime, Utc};
use diesel::{pg::Pg, prelude::*};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    error::{Error, Kind, Result},
    keys::{installations::Installation, limits::Limits, master::MasterKey, secret::KeyRef},
    pb::{self, ErrorReason},
    rpc::{TenantOfCall, mutate::etag, permit::message_of},
    schema::external_keys,
    text_enum,
    wire::timestamp,
};

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
    pub fn set_limits(&mut self, limits: Limits) {
        let ((requests, window), (amount, refill, interval)) = limits.columns();
        (self.rate_requests, self.rate_window_seconds) = (requests, window);
        self.credits_amount = amount;
        (self.credits_refill_amount, self.credits_refill_seconds) = (refill, interval);
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
    pub(super) fn check_not_revoked(&self, public_id: &Uuid) -> Result<()> {
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
pub struct Beside {
    pub(super) tenant_id: String,
    pub(super) installation_id: String,
    pub(super) product_code: String,
    pub(super) package_code: String,
    /// What is left of its credits; none where it was never said.
    pub(super) remaining: Option<i64>,
    pub(super) last_used_time: Option<DateTime<Utc>>,
}

impl Beside {
    /// What stands beside a new key.
    pub(super) fn new(tenant: &TenantOfCall, installation: &Installation) -> Self {
        let Installation { installation_id, product_code, package_code, .. } = installation.clone();
        Self::of(&tenant.tenant_id, (installation_id, product_code, package_code))
    }

    /// The same of an installation's id, its product and the package of that.
    pub fn of(
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
pub fn message(
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
