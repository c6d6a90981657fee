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
    authorizations::known::Granted,
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
    /// What the tenant of the key lets that application do, where the key is not bound to one by itself.
    pub granted: Option<&'a Granted>,
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

/// What lets a bearer do something in the name of an application at the time of a question: what the tenant grants to
/// the application that the key is bound to, or else to the one that is asked for.
pub fn granted<'a>(known: &'a Known, question: &Question<'a>) -> Option<&'a Granted> {
    let granted = match known.bound() {
        Some(bound) => bound.granted.as_ref(),
        None => question.granted,
    };
    granted.filter(|granted| granted.is_live(question.now))
}

/// Whether a key is one of the application that is asked for, if any is, and that application is authorized.
fn is_authorized(known: &Known, question: &Question<'_>) -> bool {
    let asked = question.application_id;
    match known.bound() {
        None if asked.is_empty() => true,
        Some(bound) if !asked.is_empty() && bound.application_id != asked => false,
        _ => granted(known, question).is_some(),
    }
}

/// The scopes that are asked for and not granted.
fn missing_scopes<'a>(
    known: &'a Known,
    question: &Question<'a>,
) -> impl Iterator<Item = &'a String> {
    let granted = granted(known, question);
    let lacks = move |scope: &&String| granted.is_none_or(|granted| !granted.grants(scope));
    question.required_scopes.iter().filter(lacks)
}

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
            (Self::Authorization, _) => is_authorized(known, question),
            (Self::Permissions, KeyKind::Api(grants)) => {
                question.required_permissions.iter().all(|permission| grants.grants(permission))
            }
            (Self::Permissions, KeyKind::External(_)) => question.required_permissions.is_empty(),
            (Self::Scopes, _) => missing_scopes(known, question).next().is_none(),
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
        let is = |passed: &str, failed: &str| {
            if self.passes(known, question) { passed.to_owned() } else { failed.to_owned() }
        };
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
            (Self::GeoDeny, KeyKind::External(of)) if !of.geo.is_empty() => {
                rules(&is("not in a network of geo.deny", "geo.deny stands against it"), from())
            }
            (Self::GeoAllow, KeyKind::External(of)) if !of.geo.is_empty() => {
                rules(&is("geo.allow lets it pass", "in no network of geo.allow"), from())
            }
            (Self::GeoDeny | Self::GeoAllow, _) => "the key may be used from anywhere".to_owned(),
            (Self::DeviceDeny | Self::DeviceAllow, KeyKind::External(of))
                if !of.devices.is_empty() =>
            {
                let device = match question.device {
                    None => "no device is given".to_owned(),
                    Some(device) => format!("asked for {device}"),
                };
                let list = if self == Self::DeviceDeny { "device.deny" } else { "device.allow" };
                rules(&format!("{list} {}", is("lets it pass", "stands against it")), device)
            }
            (Self::DeviceDeny | Self::DeviceAllow, _) => {
                "the key may be used from any device".to_owned()
            }
            (Self::Authorization, _) => {
                let asked = question.application_id;
                let is = is("is authorized", "is not authorized");
                match known.bound() {
                    None if asked.is_empty() => "no application is asked for".to_owned(),
                    Some(bound) if !asked.is_empty() && bound.application_id != asked => format!(
                        "the key is one of the application \"{}\", asked for \"{asked}\"",
                        bound.application_id
                    ),
                    Some(bound) => {
                        format!("the application \"{}\" of the key {is}", bound.application_id)
                    }
                    None => format!("the application \"{asked}\" {is}"),
                }
            }
            (Self::Permissions, kind) => {
                let lacks = |permission: &&String| match kind {
                    KeyKind::Api(grants) => !grants.grants(permission),
                    KeyKind::External(_) => true,
                };
                list_of(question.required_permissions.iter().filter(lacks), "permissions")
            }
            (Self::Scopes, _) => list_of(missing_scopes(known, question), "scopes"),
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, OnceLock};

    use chrono::TimeDelta;
    use proptest::prelude::*;
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::{
        allowlist::model::{Enforced, Rule},
        authorizations::known::End,
        keys::{
            known::{ApiGrants, App, Bound, External, KnownTenant, Owner, Stored},
            model::{KeyScope, roles_named},
            rules::{DeviceRules, GeoRules},
            secret::{Digest, KeyRef},
            usage::Noted,
        },
        pb,
        tenants::model::TenantState,
        wire::Fields,
    };

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(1)
    }

    fn standing(state: TenantState, locks: Vec<(LockMode, Option<DateTime<Utc>>)>) -> Standing {
        Standing { state, trial_expire_time: None, locks }
    }

    fn owner(standing: Standing, allowlist: Enforced) -> Arc<Owner> {
        let tenant = KnownTenant {
            uid: Uuid::from_u128(7),
            tenant_id: "foo".into(),
            account_id: "acme".into(),
            ancestors: Vec::new(),
            standing,
        };
        Arc::new(Owner { account_id: Some("acme".into()), tenant: Some(tenant), allowlist })
    }

    fn known(kind: KeyKind) -> Known {
        let digest = Digest::from_slice(&[0; 32]).unwrap();
        Known {
            key_ref: KeyRef { route: 1, number: 1 },
            id: Uuid::nil(),
            secret: Stored { digest, version: 1 },
            old_secret: None,
            owner: owner(standing(TenantState::Active, Vec::new()), Enforced::default()),
            kind,
            environment: Some("production".into()),
            enabled: true,
            expire_time: None,
            revoke_time: None,
            limits: None,
            caller: OnceLock::new(),
            noted: Noted::default(),
        }
    }

    fn api() -> Known {
        let roles = roles_named(&[Some("tenant-management".into())]);
        known(KeyKind::Api(ApiGrants::new(KeyScope::Tenant, roles, None, Vec::new())))
    }

    fn external(geo: &serde_json::Value, devices: &serde_json::Value) -> Known {
        let app = App {
            app_key_id: "a".into(),
            installation_id: "i".into(),
            product_code: "PHONE".into(),
            package_code: "BASIC".into(),
            ttl_hours: 24,
            config: json!({}),
            bound: None,
        };
        let geo = GeoRules::of_stored(Some(geo)).unwrap();
        let devices = DeviceRules::of_stored(Some(devices)).unwrap();
        known(KeyKind::External(Box::new(External { app: Arc::new(app), geo, devices, bytes: 0 })))
    }

    fn question<'a>(permissions: &'a [String], scopes: &'a [String]) -> Question<'a> {
        Question {
            environment: "production",
            client_ip: None,
            device: None,
            application_id: "",
            granted: None,
            required_permissions: permissions,
            required_scopes: scopes,
            now: now(),
        }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// 1-38: everything is wrong with it at first, and is put right check by check.
    #[test]
    fn the_first_check_that_fails_is_the_code_in_the_fixed_order() {
        use VerifyCode as Code;

        let past = Some(DateTime::UNIX_EPOCH);
        let (permissions, scopes) = (names(&["KEYS:ADD"]), names(&["read"]));
        let mut asked = Question { application_id: "app", ..question(&permissions, &scopes) };
        let locked = vec![(LockMode::Full, None)];
        let nowhere = Enforced(Some(Vec::new()));
        let mut key = Known {
            revoke_time: past,
            enabled: false,
            expire_time: past,
            environment: Some("sod".into()),
            owner: owner(standing(TenantState::Deleted, locked.clone()), nowhere.clone()),
            ..api()
        };
        let mut seen = vec![failure(&key, &asked)];
        let mut step = |key: &Known, asked: &Question<'_>| seen.push(failure(key, asked));

        key.revoke_time = None;
        step(&key, &asked);
        key.enabled = true;
        step(&key, &asked);
        key.expire_time = None;
        step(&key, &asked);
        key.environment = None;
        step(&key, &asked);
        key.owner = owner(standing(TenantState::Active, locked), nowhere.clone());
        step(&key, &asked);
        key.owner = owner(standing(TenantState::Active, Vec::new()), nowhere);
        step(&key, &asked);
        key.owner = owner(standing(TenantState::Active, Vec::new()), Enforced::default());
        step(&key, &asked);
        asked.application_id = "";
        step(&key, &asked);
        asked.required_permissions = &[];
        step(&key, &asked);
        asked.required_scopes = &[];
        step(&key, &asked);

        let expected = [
            Code::Revoked,
            Code::Disabled,
            Code::Expired,
            Code::WrongEnvironment,
            Code::TenantInactive,
            Code::TenantLocked,
            Code::IpForbidden,
            Code::NotAuthorized,
            Code::InsufficientPermission,
            Code::InsufficientScope,
        ];
        assert_eq!(seen[..10], expected.map(Some));
        assert_eq!(seen[10], None);
    }

    /// 1-36, 1-37: of an external key, what is denied before what is allowed, places before devices.
    #[test]
    fn the_rules_of_an_external_key_are_checked_in_their_order() {
        use VerifyCode::{DeviceForbidden, GeoForbidden};

        let geo = json!({"allow": ["192.0.2.0/24"], "deny": ["192.0.2.7"]});
        let devices = json!({"allow": [{"family": "Chrome"}], "deny": [{"family": "Firefox"}]});
        let key = external(&geo, &devices);
        let device = |family: &str| {
            let device = pb::Device { family: family.into(), ..Default::default() };
            Device::read(&device, "", &mut Fields::default())
        };
        let told = |ip: Option<&str>, device: Option<Device>| {
            let asked = Question {
                client_ip: ip.map(|ip| ip.parse().unwrap()),
                device: device.as_ref(),
                ..question(&[], &[])
            };
            let failed = explain(&key, &asked).into_iter().filter(|check| !check.passed);
            let failed = failed.map(|check| check.name).collect::<Vec<_>>();
            (failure(&key, &asked), failed)
        };

        assert_eq!(told(Some("192.0.2.1"), device("Chrome")), (None, vec![]));
        assert_eq!(
            told(Some("192.0.2.7"), device("Chrome")),
            (Some(GeoForbidden), vec!["geo_deny"])
        );
        assert_eq!(
            told(Some("10.0.0.1"), device("chrome")),
            (Some(GeoForbidden), vec!["geo_allow"])
        );
        assert_eq!(
            told(Some("192.0.2.1"), device("Firefox")),
            (Some(DeviceForbidden), vec!["device_deny", "device_allow"])
        );
        assert_eq!(
            told(Some("192.0.2.1"), device("Safari")),
            (Some(DeviceForbidden), vec!["device_allow"])
        );
        assert_eq!(
            told(None, None),
            (Some(GeoForbidden), vec!["geo_deny", "geo_allow", "device_deny", "device_allow"])
        );
        let free = external(&json!({}), &json!({}));
        assert_eq!(failure(&free, &question(&[], &[])), None);
    }

    fn granted(scopes: &[&str], valid_until: Option<DateTime<Utc>>) -> Granted {
        Granted {
            authorization_id: Uuid::nil(),
            end: End::None,
            valid_until,
            scopes: names(scopes),
            noted: Noted::default(),
        }
    }

    /// A key whose installation is bound is one of its application alone, whatever else the tenant authorizes.
    #[test]
    fn a_key_of_an_application_is_good_while_that_is_authorized() {
        use VerifyCode::{InsufficientScope, NotAuthorized};

        let bound = |authorized: Option<Granted>| {
            let mut key = external(&json!({}), &json!({}));
            if let KeyKind::External(of) = &mut key.kind {
                let bound = Bound { application_id: "crm".into(), granted: authorized };
                Arc::get_mut(&mut of.app).unwrap().bound = Some(bound);
            }
            key
        };
        let (read, write) = (names(&["read"]), names(&["read", "write"]));
        let elsewhere = granted(&["write"], None);
        let told = |key: &Known, application_id, scopes| {
            let asked =
                Question { application_id, granted: Some(&elsewhere), ..question(&[], scopes) };
            failure(key, &asked)
        };

        let live = bound(Some(granted(&["read"], Some(now() + TimeDelta::seconds(1)))));
        assert_eq!(told(&live, "", &[]), None);
        assert_eq!(told(&live, "crm", &read), None);
        assert_eq!(told(&live, "crm", &write), Some(InsufficientScope));
        assert_eq!(told(&live, "erp", &[]), Some(NotAuthorized));
        assert_eq!(told(&bound(None), "", &[]), Some(NotAuthorized));
        let over = bound(Some(granted(&["read"], Some(now()))));
        assert_eq!(told(&over, "", &[]), Some(NotAuthorized));
        assert_eq!(told(&api(), "erp", &write[1..]), None, "what the tenant grants elsewhere");
    }

    #[test]
    fn explain_tells_of_every_check_in_the_order_of_the_checks() {
        let told = explain(&api(), &question(&[], &[]));

        let order = told.iter().map(|check| check.name).collect::<Vec<_>>();
        assert_eq!(
            order,
            [
                "found",
                "revoked",
                "enabled",
                "expired",
                "environment",
                "tenant",
                "lock",
                "ip",
                "geo_deny",
                "geo_allow",
                "device_deny",
                "device_allow",
                "authorization",
                "permissions",
                "scopes",
            ]
        );
        assert!(told.iter().all(|check| check.passed && !check.message.is_empty()));
    }

    /// 3-22, 3-14: what holds at one time may not hold at the next.
    #[test]
    fn a_lock_and_a_trial_bind_as_far_and_as_long_as_they_say() {
        let (view, edit) = (names(&["TENANTS:VIEW"]), names(&["TENANTS:EDIT"]));
        let told = |lock, end, permissions: &[String]| {
            let locks = vec![(LockMode::ReadOnly, Some(DateTime::UNIX_EPOCH)), (lock, end)];
            let owner = owner(standing(TenantState::Active, locks), Enforced::default());
            failure(&Known { owner, ..api() }, &question(permissions, &[]))
        };

        let later = Some(now() + TimeDelta::seconds(1));
        assert_eq!(told(LockMode::Full, later, &[]), Some(VerifyCode::TenantLocked));
        assert_eq!(told(LockMode::Full, Some(now()), &[]), None);
        assert_eq!(told(LockMode::ReadOnly, None, &view), None);
        assert_eq!(told(LockMode::ReadOnly, None, &edit), Some(VerifyCode::TenantLocked));
        let on_trial = |end| {
            let trial_expire_time = Some(end);
            let standing =
                Standing { trial_expire_time, ..standing(TenantState::Active, Vec::new()) };
            let owner = owner(standing, Enforced::default());
            failure(&Known { owner, ..api() }, &question(&[], &[]))
        };
        assert_eq!(on_trial(now() + TimeDelta::seconds(1)), None);
        assert_eq!(on_trial(now()), Some(VerifyCode::TenantInactive));
    }

    #[test]
    fn a_permission_that_does_not_exist_is_never_granted_nor_any_to_an_external_key() {
        let (made_up, view) = (names(&["TENANTS:FLY"]), names(&["TENANTS:VIEW"]));
        let lacks = Some(VerifyCode::InsufficientPermission);

        assert_eq!(failure(&api(), &question(&made_up, &[])), lacks);
        assert_eq!(failure(&api(), &question(&view, &[])), None);
        let free = external(&json!({}), &json!({}));
        assert_eq!(failure(&free, &question(&view, &[])), lacks);
    }

    #[test]
    fn an_allow_list_binds_api_keys_alone() {
        let rule = Rule {
            name: "office".into(),
            start: [192, 0, 2, 1].into(),
            end: [192, 0, 2, 9].into(),
        };
        let list = || Enforced(Some(vec![rule.clone()]));
        let bound = |key: Known| {
            let owner = owner(standing(TenantState::Active, Vec::new()), list());
            failure(&Known { owner, ..key }, &question(&[], &[]))
        };

        assert_eq!(bound(api()), Some(VerifyCode::IpForbidden), "no address is given");
        assert_eq!(bound(external(&json!({}), &json!({}))), None);
    }

    proptest! {
        /// What is told and what is explained never disagree.
        #[test]
        fn the_code_is_that_of_the_first_failure_that_is_explained(
            revoked: bool, enabled: bool, ended: bool, sod: bool, deleted: bool, locked: bool,
            asks: bool, scoped: bool,
        ) {
            let past = Some(DateTime::UNIX_EPOCH);
            let state = if deleted { TenantState::Deleted } else { TenantState::Active };
            let locks = if locked { vec![(LockMode::Full, None)] } else { Vec::new() };
            let key = Known {
                revoke_time: past.filter(|_| revoked),
                enabled,
                expire_time: past.filter(|_| ended),
                environment: sod.then(|| "sod".into()),
                owner: owner(standing(state, locks), Enforced::default()),
                ..api()
            };
            let permissions = if asks { names(&["KEYS:ADD"]) } else { Vec::new() };
            let scopes = if scoped { names(&["read"]) } else { Vec::new() };
            let asked = question(&permissions, &scopes);

            let explained = explain(&key, &asked);
            let first = explained.iter().find(|check| !check.passed).map(|check| check.code);
            prop_assert_eq!(failure(&key, &asked), first);
        }
    }
}
