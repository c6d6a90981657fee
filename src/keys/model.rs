//! What an API key is: its row, its states, and the pure rules of whether it is good.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use uuid::Uuid;

use super::{
    limits::Limits,
    master::MasterKey,
    roles::{Role, permissions_of},
    secret::KeyRef,
};
use crate::{schema::api_keys, text_enum};

text_enum! {
    /// Whose key it is.
    pub enum KeyScope {
        /// The platform's.
        System = "SYSTEM",
        /// An account's.
        Account = "ACCOUNT",
        /// A tenant's.
        Tenant = "TENANT",
    }
}

/// Where a key is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Good.
    Active,
    /// Not enabled.
    Disabled,
    /// Good, with the secret before the last rotation too.
    Rotating,
    /// Its end has passed.
    Expired,
    /// Revoked for good.
    Revoked,
}

/// A key with roles (4-15).
#[derive(Clone, Debug, PartialEq, Eq, HasQuery, Insertable, AsChangeset)]
#[diesel(table_name = api_keys, primary_key(route, number), treat_none_as_null = true)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct ApiKey {
    /// Leads to the owner; with `number` the primary key.
    pub route: i64,
    /// The key's own number.
    pub number: i64,
    /// Whose key it is.
    pub scope: KeyScope,
    /// The account, unless it is the system's.
    pub account_id: Option<String>,
    /// The tenant, if it is a tenant's.
    pub tenant_uid: Option<Uuid>,
    /// Display name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Names of roles.
    pub roles: Vec<Option<String>>,
    /// The only environment it is good in.
    pub environment: Option<String>,
    /// The reseller that its role `reseller` is bound to.
    pub reseller_id: Option<String>,
    /// The backends that its role `multi-backend-admin` is bound to.
    pub backend_ids: Vec<Option<String>>,
    /// What is stored of the secret.
    pub digest: Vec<u8>,
    /// The version of the master key that made the digest.
    pub master_key_version: i16,
    /// Its end.
    pub expire_time: Option<DateTime<Utc>>,
    /// Who issued it.
    pub created_by: String,
    /// When it was issued.
    pub create_time: DateTime<Utc>,
    /// When it was revoked.
    pub revoke_time: Option<DateTime<Utc>>,
    /// Who revoked it.
    pub revoked_by: Option<String>,
    /// Why it was revoked.
    pub revoke_reason: Option<String>,
    /// Counts the changes.
    pub version: i64,
    /// Whether it is good at all.
    pub enabled: bool,
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

impl ApiKey {
    /// Where its row lies.
    pub fn key_ref(&self) -> KeyRef {
        KeyRef { route: self.route, number: self.number }
    }

    /// The id that people and logs call it by.
    pub fn public_id(&self, master: &MasterKey) -> Uuid {
        self.key_ref().public_id(master)
    }

    /// Where it is in its life.
    pub fn state(&self, now: DateTime<Utc>) -> KeyState {
        match state(self.revoke_time, self.expire_time, now) {
            KeyState::Revoked => KeyState::Revoked,
            _ if !self.enabled => KeyState::Disabled,
            KeyState::Active if self.old_end_time.is_some_and(|end| end > now) => {
                KeyState::Rotating
            }
            state => state,
        }
    }

    /// Whether it is good, as far as the key itself goes.
    pub fn is_good(&self, now: DateTime<Utc>) -> bool {
        matches!(self.state(now), KeyState::Active | KeyState::Rotating)
    }

    /// How often it may be used.
    pub fn limits(&self) -> Limits {
        let credits =
            (self.credits_amount, self.credits_refill_amount, self.credits_refill_seconds);
        Limits::of_columns((self.rate_requests, self.rate_window_seconds), credits)
    }

    /// Says how often it may be used from now on: what was handed out of its limits before counts for
    /// nothing any more.
    pub fn set_limits(&mut self, limits: Limits) {
        let ((requests, window), (amount, refill, interval)) = limits.columns();
        (self.rate_requests, self.rate_window_seconds) = (requests, window);
        self.credits_amount = amount;
        (self.credits_refill_amount, self.credits_refill_seconds) = (refill, interval);
        self.limits_version += 1;
    }

    /// The roles it holds; a name that is no longer a role grants nothing.
    pub fn roles(&self) -> Vec<&'static Role> {
        roles_named(&self.roles)
    }

    /// What it grants, sorted.
    pub fn permissions(&self) -> Vec<String> {
        permissions_of(&self.roles()).into_iter().map(str::to_owned).collect()
    }
}

/// A key with what is kept of it beside its row.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// Its row.
    pub key: ApiKey,
    /// How many uses no node has taken yet; none where it has no credits, or all of them.
    pub remaining: Option<i64>,
    /// When it was used last.
    pub last_used_time: Option<DateTime<Utc>>,
}

impl From<ApiKey> for KeyRecord {
    /// A key of which nothing was used yet.
    fn from(key: ApiKey) -> Self {
        Self { key, remaining: None, last_used_time: None }
    }
}

/// Where a key is in its life, from what tells it.
pub fn state(
    revoke_time: Option<DateTime<Utc>>,
    expire_time: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> KeyState {
    if revoke_time.is_some() {
        KeyState::Revoked
    } else if expire_time.is_some_and(|end| end <= now) {
        KeyState::Expired
    } else {
        KeyState::Active
    }
}

/// The roles of these names.
pub fn roles_named(names: &[Option<String>]) -> Vec<&'static Role> {
    names.iter().flatten().filter_map(|name| Role::find(name)).collect()
}

/// Makes the primary key for a new key of an owner.
///
/// The number rises with time, so that keys of one owner lie in the order of their making; its lower
/// bits are chance, so that two keys of one owner in one millisecond do not meet.
pub fn new_ref(route: i64, now: DateTime<Utc>) -> KeyRef {
    let chance = i64::from(rand::random::<u16>());
    KeyRef { route, number: now.timestamp_millis() << 16 | chance }
}

/// As [`new_ref`], for several keys at once: none of their numbers meet, and all are in order.
///
/// There are no more numbers in a millisecond than two bytes tell apart.
pub fn new_refs(route: i64, now: DateTime<Utc>, count: u16) -> Vec<KeyRef> {
    let mut chances = BTreeSet::new();
    while chances.len() < usize::from(count) {
        chances.insert(rand::random::<u16>());
    }
    let time = now.timestamp_millis() << 16;
    chances.into_iter().map(|chance| KeyRef { route, number: time | i64::from(chance) }).collect()
}

/// The route to a tenant's keys.
pub fn route_of_tenant(uid: Uuid) -> i64 {
    i64::from_be_bytes(*uid.as_bytes().first_chunk().expect("a UUID has 16 bytes"))
}

/// The route to an account's keys.
pub fn route_of_account(account_id: &str) -> i64 {
    use sha2::{Digest as _, Sha256};
    let hash = Sha256::digest(format!("account {account_id}"));
    i64::from_be_bytes(*hash.first_chunk().expect("a hash has 32 bytes"))
}

/// The route to the system's keys.
pub const ROUTE_OF_SYSTEM: i64 = 0;

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::keys::limits::{Credits, Rate};

    #[test]
    fn a_key_ends_at_its_end_and_not_a_moment_before() {
        let end = DateTime::UNIX_EPOCH + TimeDelta::days(1);

        assert_eq!(state(None, Some(end), end - TimeDelta::microseconds(1)), KeyState::Active);
        assert_eq!(state(None, Some(end), end), KeyState::Expired);
        assert_eq!(state(None, None, end), KeyState::Active);
    }

    #[test]
    fn revoked_is_told_before_expired() {
        let then = DateTime::UNIX_EPOCH;

        assert_eq!(state(Some(then), Some(then), then), KeyState::Revoked);
    }

    fn key() -> ApiKey {
        ApiKey {
            route: ROUTE_OF_SYSTEM,
            number: 1,
            scope: KeyScope::System,
            account_id: None,
            tenant_uid: None,
            name: "one".into(),
            description: String::new(),
            roles: Vec::new(),
            environment: None,
            reseller_id: None,
            backend_ids: Vec::new(),
            digest: vec![0; 32],
            master_key_version: 1,
            expire_time: None,
            created_by: "system".into(),
            create_time: DateTime::UNIX_EPOCH,
            revoke_time: None,
            revoked_by: None,
            revoke_reason: None,
            version: 1,
            enabled: true,
            old_digest: None,
            old_master_key_version: None,
            old_end_time: None,
            rate_requests: None,
            rate_window_seconds: None,
            credits_amount: None,
            credits_refill_amount: None,
            credits_refill_seconds: None,
            limits_version: 0,
        }
    }

    #[test]
    fn the_state_that_lasts_longest_is_told() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let rotating = ApiKey { old_end_time: Some(now + TimeDelta::hours(1)), ..key() };
        let expired = ApiKey { expire_time: Some(now), ..rotating.clone() };
        let disabled = ApiKey { enabled: false, ..expired.clone() };
        let revoked = ApiKey { revoke_time: Some(now), ..disabled.clone() };

        assert_eq!(key().state(now), KeyState::Active);
        assert_eq!(rotating.state(now), KeyState::Rotating);
        assert_eq!(rotating.state(now + TimeDelta::hours(1)), KeyState::Active);
        assert_eq!(expired.state(now), KeyState::Expired);
        assert_eq!(disabled.state(now), KeyState::Disabled);
        assert_eq!(revoked.state(now), KeyState::Revoked);
        assert!(key().is_good(now) && rotating.is_good(now));
        assert!(!expired.is_good(now) && !disabled.is_good(now) && !revoked.is_good(now));
    }

    #[test]
    fn limits_that_are_set_are_those_that_are_read_and_begin_anew() {
        let rate = Some(Rate { requests: 5, window_seconds: 60 });
        let credits = Some(Credits { amount: 9, refill: Some((3, 3600)) });
        let mut key = key();

        key.set_limits(Limits { rate, credits });
        assert_eq!((key.limits(), key.limits_version), (Limits { rate, credits }, 1));
        key.set_limits(Limits { rate: None, ..key.limits() });

        assert_eq!((key.limits(), key.limits_version), (Limits { rate: None, credits }, 2));
    }

    #[test]
    fn keys_that_are_made_together_have_numbers_of_their_own_in_order() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);

        let refs = new_refs(7, now, 500);

        assert_eq!(refs.len(), 500);
        assert!(refs.windows(2).all(|pair| pair[0].number < pair[1].number));
        assert!(refs.iter().all(|one| one.route == 7));
        assert!(refs[499].number < new_ref(7, now + TimeDelta::milliseconds(1)).number);
    }

    #[test]
    fn later_keys_of_one_owner_have_higher_numbers() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);

        let first = new_ref(1, now);
        let second = new_ref(1, now + TimeDelta::milliseconds(1));

        assert!(first.number < second.number);
    }
}
