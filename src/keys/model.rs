//! What an API key is: its row, its states, and the pure rules of whether it is good.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use uuid::Uuid;

use super::{
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
    /// Its end has passed.
    Expired,
    /// Revoked for good.
    Revoked,
}

/// A key with roles (4-15).
#[derive(Clone, Debug, HasQuery, Insertable, AsChangeset)]
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
        state(self.revoke_time, self.expire_time, now)
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

    #[test]
    fn later_keys_of_one_owner_have_higher_numbers() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);

        let first = new_ref(1, now);
        let second = new_ref(1, now + TimeDelta::milliseconds(1));

        assert!(first.number < second.number);
    }
}
