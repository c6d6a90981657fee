//! Whether a key is good: the checks of `VerifyKey` in their order, pure.
//!
//! Each check answers yes or no at once; what there is to say of it is put into words only for those who
//! ask for an explanation.

use std::net::IpAddr;

use chrono::{DateTime, Utc};

use super::{
    known::{KeyKind, Known},
    rules::Device,
};
use crate::{
    pb::VerifyCode,
    tenants::model::{LockMode, Standing},
};

/// What a bearer's key is checked for.
#[derive(Debug)]
pub struct Question<'a> {
    /// The environment that the verifier runs in.
    pub environment: &'a str,
    /// The address that the bearer called from.
    pub client_ip: Option<IpAddr>,
    /// What the bearer called from, as far as rules of the key ask for it.
    pub device: Option<&'a Device>,
    /// The application that must be authorized.
    pub application_id: &'a str,
    /// The permissions that the bearer needs.
    pub required_permissions: &'a [String],
    /// The scopes that the bearer needs.
    pub required_scopes: &'a [String],
    /// The time.
    pub now: DateTime<Utc>,
}

/// One check and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which one.
    pub name: &'static str,
    /// The code of its failure.
    pub code: VerifyCode,
    /// Whether it passed.
    pub passed: bool,
    /// What was compared with what.
    pub message: String,
}

/// The checks of what is known of a key. What is used up comes after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Revoked,
    Enabled,
    Expired,
    Environment,
    Tenant,
    Lock,
    Ip,
    GeoDeny,
    GeoAllow,
    DeviceDeny,
    DeviceAllow,
    Authorization,
    Permissions,
    Scopes,
}

/// In the order in which they are made (1-38).
const CHECKS: &[Check] = &[
    Check::Revoked,
    Check::Enabled,
    Check::Expired,
    Check::Environment,
    Check::Tenant,
    Check::Lock,
    Check::Ip,
    Check::GeoDeny,
    Check::GeoAllow,
    Check::DeviceDeny,
    Check::DeviceAllow,
    Check::Authorization,
    Check::Permissions,
    Check::Scopes,
];

/// The code of the first check that a key fails; nothing where it passes them all.
pub fn failure(known: &Known, question: &Question<'_>) -> Option<VerifyCode> {
    CHECKS.iter().find(|check| !check.passes(known, question)).map(|check| check.code())
}

/// Every check, in order, with its outcome.
pub fn explain(known: &Known, question: &Question<'_>) -> Vec<Outcome> {
    let found = Outcome {
        name: "found",
        code: VerifyCode::NotFound,
        passed: true,
        message: "the key exists and its secret is right".to_owned(),
    };
    let told = CHECKS.iter().map(|check| Outcome {
        name: check.name(),
        code: check.code(),
        passed: check.passes(known, question),
        message: check.words(known, question),
    });
    std::iter::once(found).chain(told).collect()
}

fn standing(known: &Known) -> Option<&Standing> {
    known.owner.tenant.as_ref().map(|tenant| &tenant.standing)
}

/// Whether a lock lets a bearer go on who asks for these permissions.
fn lets_through(lock: Option<LockMode>, permissions: &[String]) -> bool {
    match lock {
        None => true,
        Some(LockMode::ReadOnly) => permissions.iter().all(|name| name.ends_with(":VIEW")),
        Some(LockMode::Full) => false,
    }
}

impl Check {
    fn passes(self, known: &Known, question: &Question<'_>) -> bool {
        let now = question.now;
        match (self, &known.kind) {
            (Self::Revoked, _) => known.revoke_time.is_none(),
            (Self::Enabled, _) => known.enabled,
            (Self::Expired, _) => known.expire_time.is_none_or(|end| now < end),
            (Self::Environment, _) => {
                known.environment.as_deref().is_none_or(|bound| bound == question.environment)
            }
            (Self::Tenant, _) => standing(known).is_none_or(|it| it.inactive(now).is_none()),
            (Self::Lock, _) => {
                let lock = standing(known).and_then(|standing| standing.lock(now));
                lets_through(lock, question.required_permissions)
            }
            // It binds API keys; external keys have rules of their own.
            (Self::Ip, KeyKind::Api(_)) => known.owner.allowlist.admits(question.client_ip),
            (Self::GeoDeny, KeyKind::External(of)) => !of.geo.denies(question.client_ip),
            (Self::GeoAllow, KeyKind::External(of)) => of.geo.allows(question.client_ip),
            (Self::DeviceDeny, KeyKind::External(of)) => !of.devices.denies(question.device),
            (Self::DeviceAllow, KeyKind::External(of)) => of.devices.allows(question.device),
            (Self::Authorization, _) => question.application_id.is_empty(),
            (Self::Permissions, KeyKind::Api(grants)) => {
                question.required_permissions.iter().all(|permission| grants.grants(permission))
            }
            (Self::Permissions, KeyKind::External(_)) => question.required_permissions.is_empty(),
            (Self::Scopes, _) => question.required_scopes.is_empty(),
            (Self::Ip, KeyKind::External(_))
            | (
                Self::GeoDeny | Self::GeoAllow | Self::DeviceDeny | Self::DeviceAllow,
                KeyKind::Api(_),
            ) => true,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Enabled => "enabled",
            Self::Expired => "expired",
            Self::Environment => "environment",
            Self::Tenant => "tenant",
            Self::Lock => "lock",
            Self::Ip => "ip",
            Self::GeoDeny => "geo_deny",
            Self::GeoAllow => "geo_allow",
            Self::DeviceDeny => "device_deny",
            Self::DeviceAllow => "device_allow",
            Self::Authorization => "authorization",
            Self::Permissions => "permissions",
            Self::Scopes => "scopes",
        }
    }

    fn code(self) -> VerifyCode {
        match self {
            Self::Revoked => VerifyCode::Revoked,
            Self::Enabled => VerifyCode::Disabled,
            Self::Expired => VerifyCode::Expired,
            Self::Environment => VerifyCode::WrongEnvironment,
            Self::Tenant => VerifyCode::TenantInactive,
            Self::Lock => VerifyCode::TenantLocked,
            Self::Ip => VerifyCode::IpForbidden,
            Self::GeoDeny | Self::GeoAllow => VerifyCode::GeoForbidden,
            Self::DeviceDeny | Self::DeviceAllow => VerifyCode::DeviceForbidden,
            Self::Authorization => VerifyCode::NotAuthorized,
            Self::Permissions => VerifyCode::InsufficientPermission,
            Self::Scopes => VerifyCode::InsufficientScope,
        }
    }

    fn words(self, known: &Known, question: &Question<'_>) -> String {
        let now = question.now;
        let from = || match question.client_ip {
            None => "no client_ip is given".to_owned(),
            Some(ip) => format!("asked for {ip}"),
        };
        let rules = |what: &str, asked: String| format!("{what}; {asked}");
        match (self, &known.kind) {
            (Self::Revoked, _) => known
                .revoke_time
                .map_or("not revoked".to_owned(), |time| format!("revoked at {time}")),
            (Self::Enabled, _) if known.enabled => "enabled".to_owned(),
            (Self::Enabled, _) => "not enabled".to_owned(),
            (Self::Expired, _) => {
                known.expire_time.map_or("never ends".to_owned(), |time| format!("ends at {time}"))
            }
            (Self::Environment, _) => match known.environment.as_deref() {
                None => "good in any environment".to_owned(),
                Some(bound) => {
                    format!("bound to \"{bound}\", asked for \"{}\"", question.environment)
                }
            },
            (Self::Tenant, _) => match standing(known).map(|standing| standing.inactive(now)) {
                None => "not a tenant's key".to_owned(),
                Some(None) => "the tenant is ACTIVE".to_owned(),
                Some(Some(why)) => format!("the tenant is {why}"),
            },
            (Self::Lock, _) => match standing(known).and_then(|standing| standing.lock(now)) {
                None => "neither the tenant nor one above it is locked".to_owned(),
                Some(mode) => {
                    format!("the tenant, or one above it, is locked: {}", mode.as_str())
                }
            },
            (Self::Ip, KeyKind::Api(_)) if known.owner.allowlist.0.is_some() => {
                rules("an IP allow-list binds the key", from())
            }
            (Self::Ip, KeyKind::Api(_)) => "no IP allow-list binds the key".to_owned(),
            (Self::Ip, KeyKind::External(_)) => "an IP allow-list binds API keys alone".to_owned(),
            (Self::GeoDeny | Self::GeoAllow, KeyKind::External(of)) if !of.geo.is_empty() => {
                rules("the key has rules from where it may be used", from())
            }
            (Self::GeoDeny | Self::GeoAllow, _) => "the key may be used from anywhere".to_owned(),
            (Self::DeviceDeny | Self::DeviceAllow, KeyKind::External(of))
                if !of.devices.is_empty() =>
            {
                let device = match question.device {
                    None => "no device is given".to_owned(),
                    Some(_) => "asked for the one that is given".to_owned(),
                };
                rules("the key has rules from which devices it may be used", device)
            }
            (Self::DeviceDeny | Self::DeviceAllow, _) => {
                "the key may be used from any device".to_owned()
            }
            (Self::Authorization, _) if question.application_id.is_empty() => {
                "no application is asked for".to_owned()
            }
            (Self::Authorization, _) => {
                format!("the application \"{}\" is not authorized", question.application_id)
            }
            (Self::Permissions, kind) => {
                let lacks = |permission: &&String| match kind {
                    KeyKind::Api(grants) => !grants.grants(permission),
                    KeyKind::External(_) => true,
                };
                list_of(question.required_permissions.iter().filter(lacks), "permissions")
            }
            (Self::Scopes, _) => list_of(question.required_scopes.iter(), "scopes"),
        }
    }
}

fn list_of<'a>(missing: impl Iterator<Item = &'a String>, what: &str) -> String {
    let missing = missing.map(String::as_str).collect::<Vec<_>>();
    if missing.is_empty() {
        format!("all required {what} are granted")
    } else {
        format!("not granted: {}", missing.join(", "))
    }
}
