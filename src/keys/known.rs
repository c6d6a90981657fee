//! What is known of a key: all that a verdict needs, read once from its row and what that hangs on.
//!
//! Whatever time alone changes stays as it is stored, with its instant: an end, the end of an overlap, of a
//! trial or of a lock is compared with the clock at each verification, so nothing has to be dropped when one
//! of them comes.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock, OnceLock},
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    limits::Limits,
    master::MasterKey,
    model::KeyScope,
    roles::{PERMISSIONS, ROLES, Role},
    rules::{DeviceRules, GeoRules},
    secret::{Digest, KeyRef},
    usage::Noted,
};
use crate::{
    allowlist::model::Enforced, authorizations::known::Granted, rpc::Caller,
    tenants::model::Standing,
};

/// A key, as far as it has to be known.
#[derive(Debug)]
pub struct Known {
    /// Where its row is.
    pub key_ref: KeyRef,
    /// The id that people and logs call it by.
    pub id: Uuid,
    /// What is stored of its secret.
    pub secret: Stored,
    /// What was stored before the last rotation, and until when that is good.
    pub old_secret: Option<Box<(Stored, DateTime<Utc>)>>,
    /// Whose it is.
    pub owner: Arc<Owner>,
    /// What kind of key it is, and what only such a key has.
    pub kind: KeyKind,
    /// The only environment that it is good in.
    pub environment: Option<Arc<str>>,
    /// Whether it is good at all.
    pub enabled: bool,
    /// Its end.
    pub expire_time: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoke_time: Option<DateTime<Utc>>,
    /// How often it may be used, where that is limited, and how often that was set.
    pub limits: Option<Box<(Limits, i64)>>,
    /// The key as its calls know it, put together by the first of them.
    pub caller: OnceLock<Arc<Caller>>,
    /// When it was noted last that it was used.
    pub noted: Noted,
}

/// What is stored of a secret.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// Its digest.
    pub digest: Digest,
    /// The version of the master key that made it.
    pub version: i16,
}

/// Whose keys they are. All keys of one owner share it.
#[derive(Debug, PartialEq, Eq)]
pub struct Owner {
    /// The account, unless it is the system.
    pub account_id: Option<String>,
    /// The tenant, if it is one.
    pub tenant: Option<KnownTenant>,
    /// From where its API keys may be used.
    pub allowlist: Enforced,
}

/// What is known of a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTenant {
    /// Its UUID.
    pub uid: Uuid,
    /// Its id.
    pub tenant_id: String,
    /// Its account.
    pub account_id: String,
    /// All tenants above it.
    pub ancestors: Vec<Uuid>,
    /// Whether its keys work.
    pub standing: Standing,
}

/// The two kinds of keys.
#[derive(Debug)]
pub enum KeyKind {
    /// One with roles.
    Api(ApiGrants),
    /// One that clients of an installation send.
    External(Box<External>),
}

/// What an API key is good for.
#[derive(Debug)]
pub struct ApiGrants {
    /// Whose key it is.
    pub scope: KeyScope,
    /// What it may do.
    pub roles: Vec<&'static Role>,
    /// What the roles grant, a bit for each of [`PERMISSIONS`].
    permissions: u64,
    /// The reseller that its role is bound to.
    pub reseller_id: Option<String>,
    /// The backends that its role is bound to.
    pub backend_ids: Vec<String>,
}

/// What an external key is good for.
#[derive(Debug)]
pub struct External {
    /// What it hangs on.
    pub app: Arc<App>,
    /// From where it may be used.
    pub geo: GeoRules,
    /// From which devices it may be used.
    pub devices: DeviceRules,
    /// How much all this takes, about.
    pub bytes: usize,
}

/// What external keys of an app key in an environment hang on. They share it.
#[derive(PartialEq)]
pub struct App {
    /// The app key.
    pub app_key_id: String,
    /// Its installation.
    pub installation_id: String,
    /// What is installed.
    pub product_code: String,
    /// The package of that, alone.
    pub package_code: String,
    /// For how many hours verifiers may keep what a key resolves to, who hear of changes.
    pub ttl_hours: i16,
    /// What it says to services in the environment.
    pub config: serde_json::Value,
    /// The application that the installation is bound to.
    pub bound: Option<Bound>,
}

/// An application that an installation is bound to.
#[derive(PartialEq)]
pub struct Bound {
    /// The application.
    pub application_id: String,
    /// What the tenant lets it do in the environment, unless it has ended.
    pub granted: Option<Granted>,
}

impl fmt::Debug for App {
    /// Without the configuration, in which services may keep their secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("app_key_id", &self.app_key_id).finish_non_exhaustive()
    }
}

impl ApiGrants {
    /// What roles grant, within what they are bound to.
    pub fn new(
        scope: KeyScope,
        roles: Vec<&'static Role>,
        reseller_id: Option<String>,
        backend_ids: Vec<String>,
    ) -> Self {
        let permissions = roles.iter().fold(0, |bits, role| bits | GRANTED[role.id]);
        Self { scope, roles, permissions, reseller_id, backend_ids }
    }

    /// Whether it grants a permission; one that does not exist is never granted.
    pub fn grants(&self, permission: &str) -> bool {
        PERMISSIONS
            .iter()
            .position(|known| *known == permission)
            .is_some_and(|place| self.permissions & 1 << place != 0)
    }

    /// What it grants, sorted.
    pub fn permissions(&self) -> impl Iterator<Item = &'static str> {
        SORTED
            .iter()
            .filter(|(place, _)| self.permissions & 1 << *place != 0)
            .map(|(_, name)| *name)
    }
}

/// What each role grants, by its id, a bit for each of [`PERMISSIONS`].
static GRANTED: LazyLock<HashMap<&str, u64>> = LazyLock::new(|| {
    let granted = |role: &Role| {
        let bits = PERMISSIONS.iter().enumerate().filter(|(_, name)| role.grants(name));
        bits.fold(0, |bits, (place, _)| bits | 1 << place)
    };
    ROLES.iter().map(|role| (role.id, granted(role))).collect()
});

/// The permissions with their bits, in the order in which they are told.
static SORTED: LazyLock<Vec<(usize, &str)>> = LazyLock::new(|| {
    let mut sorted = PERMISSIONS.iter().copied().enumerate().collect::<Vec<_>>();
    sorted.sort_by_key(|(_, name)| *name);
    sorted
});

/// Every permission has a bit.
const _: () = assert!(PERMISSIONS.len() <= 64);

impl Known {
    /// The application that its installation is bound to.
    pub fn bound(&self) -> Option<&Bound> {
        match &self.kind {
            KeyKind::External(external) => external.app.bound.as_ref(),
            KeyKind::Api(_) => None,
        }
    }

    /// Whether a secret, known by its SHA-256, is the key's at a time; compared in constant time.
    pub fn has_secret(&self, master: &MasterKey, sha256: &[u8; 32], now: DateTime<Utc>) -> bool {
        let is = |stored: &Stored| {
            master.digest_of_sha256(stored.version, sha256).is_some_and(|it| it == stored.digest)
        };
        is(&self.secret)
            || self.old_secret.as_deref().is_some_and(|(old, end)| now < *end && is(old))
    }

    /// Whether the key itself works at a time, whatever holds for its owner.
    pub fn is_good(&self, now: DateTime<Utc>) -> bool {
        self.enabled && self.revoke_time.is_none() && self.expire_time.is_none_or(|end| now < end)
    }

    /// The next instant after a time at which time alone changes what holds.
    pub fn changes_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let tenant = self.owner.tenant.as_ref();
        let of_tenant = tenant.and_then(|tenant| tenant.standing.changes_at(now));
        let overlap = self.old_secret.as_deref().map(|(_, end)| *end);
        let own = self.expire_time.into_iter().chain(overlap).filter(|instant| *instant > now);
        own.chain(of_tenant).min()
    }
}
