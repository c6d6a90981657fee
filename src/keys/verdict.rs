//! Whether a key is good: the checks of `VerifyKey` in their order, pure.

use std::net::IpAddr;

use chrono::{DateTime, Utc};

use super::{
    model::{KeyState, ResolvedKey, roles_named, state},
    roles::permissions_of,
};
use crate::{
    allowlist::model::Enforced,
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
    /// The permissions that the bearer needs.
    pub required_permissions: &'a [String],
    /// The time.
    pub now: DateTime<Utc>,
}

/// One check and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Which one.
    pub name: &'static str,
    /// The code of its failure.
    pub code: VerifyCode,
    /// Whether it passed.
    pub passed: bool,
    /// What was compared with what.
    pub message: String,
}

/// Checks a key that was found and whose secret is right; every check, in order, the first failure of
/// which is the verdict.
pub fn checks(
    key: &ResolvedKey,
    tenant: Option<&Standing>,
    allowlist: &Enforced,
    question: &Question<'_>,
) -> Vec<Check> {
    let inactive = tenant.and_then(|tenant| tenant.inactive(question.now));
    let lock = tenant.and_then(|tenant| tenant.lock(question.now));
    let only_reads = question.required_permissions.iter().all(|name| name.ends_with(":VIEW"));
    let check = |name, code, passed, message: String| Check { name, code, passed, message };
    let state = state(key.revoke_time, key.expire_time, question.now);
    let environment = key.environment.as_deref();
    let granted = permissions_of(&roles_named(&key.roles));
    let missing = question
        .required_permissions
        .iter()
        .filter(|permission| !granted.contains(permission.as_str()))
        .map(String::as_str)
        .collect::<Vec<_>>();
    vec![
        check("found", VerifyCode::NotFound, true, "the key exists and its secret is right".into()),
        check(
            "revoked",
            VerifyCode::Revoked,
            state != KeyState::Revoked,
            key.revoke_time.map_or("not revoked".into(), |time| format!("revoked at {time}")),
        ),
        check(
            "expired",
            VerifyCode::Expired,
            key.expire_time.is_none_or(|end| question.now < end),
            key.expire_time.map_or("never ends".into(), |time| format!("ends at {time}")),
        ),
        check(
            "environment",
            VerifyCode::WrongEnvironment,
            environment.is_none_or(|bound| bound == question.environment),
            match environment {
                None => "good in any environment".into(),
                Some(bound) => {
                    format!("bound to \"{bound}\", asked for \"{}\"", question.environment)
                }
            },
        ),
        check(
            "tenant",
            VerifyCode::TenantInactive,
            inactive.is_none(),
            match (tenant, inactive) {
                (None, _) => "not a tenant's key".into(),
                (_, None) => "the tenant is ACTIVE".into(),
                (_, Some(why)) => format!("the tenant is {why}"),
            },
        ),
        check(
            "lock",
            VerifyCode::TenantLocked,
            match lock {
                None => true,
                Some(LockMode::ReadOnly) => only_reads,
                Some(LockMode::Full) => false,
            },
            match lock {
                None => "neither the tenant nor one above it is locked".into(),
                Some(mode) => {
                    format!("the tenant, or one above it, is locked: {}", mode.as_str())
                }
            },
        ),
        check(
            "ip",
            VerifyCode::IpForbidden,
            allowlist.admits(question.client_ip),
            match (&allowlist.0, question.client_ip) {
                (None, _) => "no IP allow-list binds the key".into(),
                (Some(_), None) => {
                    "an IP allow-list binds the key, and no client_ip is given".into()
                }
                (Some(_), Some(ip)) => format!("an IP allow-list binds the key; asked for {ip}"),
            },
        ),
        check(
            "permissions",
            VerifyCode::InsufficientPermission,
            missing.is_empty(),
            if missing.is_empty() {
                "all required permissions are granted".into()
            } else {
                format!("not granted: {}", missing.join(", "))
            },
        ),
    ]
}

/// The verdict: the code of the first check that failed.
pub fn code(checks: &[Check]) -> VerifyCode {
    checks.iter().find(|check| !check.passed).map_or(VerifyCode::Valid, |check| check.code)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::{keys::model::KeyScope, tenants::model::TenantState};

    fn key() -> ResolvedKey {
        ResolvedKey {
            route: 1,
            number: 1,
            scope: KeyScope::Tenant,
            account_id: Some("acme".into()),
            tenant_uid: Some(uuid::Uuid::nil()),
            roles: vec![Some("tenant-management".into())],
            environment: Some("production".into()),
            reseller_id: None,
            backend_ids: Vec::new(),
            digest: vec![0; 32],
            master_key_version: 1,
            expire_time: None,
            revoke_time: None,
        }
    }

    fn verdict(key: &ResolvedKey, state: TenantState, permissions: &[&str]) -> VerifyCode {
        let standing = Standing { state, trial_expire_time: None, locks: Vec::new() };
        verdict_in(key, &standing, permissions)
    }

    fn verdict_in(key: &ResolvedKey, tenant: &Standing, permissions: &[&str]) -> VerifyCode {
        let required = permissions.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        code(&checks(
            key,
            Some(tenant),
            &Enforced::default(),
            &Question {
                environment: "production",
                client_ip: None,
                required_permissions: &required,
                now: DateTime::UNIX_EPOCH + TimeDelta::days(1),
            },
        ))
    }

    #[test]
    fn a_good_key_is_valid() {
        assert_eq!(verdict(&key(), TenantState::Active, &["TENANTS:VIEW"]), VerifyCode::Valid);
    }

    #[test]
    fn the_first_failure_is_the_code() {
        let past = Some(DateTime::UNIX_EPOCH);
        let mut bad = ResolvedKey {
            revoke_time: past,
            expire_time: past,
            environment: Some("sod".into()),
            ..key()
        };
        let told = |key: &ResolvedKey| verdict(key, TenantState::Deleted, &["KEYS:ADD"]);

        assert_eq!(told(&bad), VerifyCode::Revoked);
        bad.revoke_time = None;
        assert_eq!(told(&bad), VerifyCode::Expired);
        bad.expire_time = None;
        assert_eq!(told(&bad), VerifyCode::WrongEnvironment);
        bad.environment = None;
        assert_eq!(told(&bad), VerifyCode::TenantInactive);
        assert_eq!(
            verdict(&bad, TenantState::Active, &["KEYS:ADD"]),
            VerifyCode::InsufficientPermission
        );
    }

    /// 3-22, 3-14: what holds at one time may not hold at the next.
    #[test]
    fn a_lock_and_a_trial_bind_as_far_and_as_long_as_they_say() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(1);
        let told = |lock, end, permissions: &[&str]| {
            let locks = vec![(LockMode::ReadOnly, Some(DateTime::UNIX_EPOCH)), (lock, end)];
            let state = TenantState::Active;
            verdict_in(&key(), &Standing { state, trial_expire_time: None, locks }, permissions)
        };

        let later = Some(now + TimeDelta::seconds(1));
        assert_eq!(told(LockMode::Full, later, &[]), VerifyCode::TenantLocked);
        assert_eq!(told(LockMode::Full, Some(now), &[]), VerifyCode::Valid);
        assert_eq!(told(LockMode::ReadOnly, None, &["TENANTS:VIEW"]), VerifyCode::Valid);
        assert_eq!(told(LockMode::ReadOnly, None, &["TENANTS:EDIT"]), VerifyCode::TenantLocked);
        let on_trial = |end| {
            let standing = Standing {
                state: TenantState::Active,
                trial_expire_time: Some(end),
                locks: Vec::new(),
            };
            verdict_in(&key(), &standing, &[])
        };
        assert_eq!(on_trial(now + TimeDelta::seconds(1)), VerifyCode::Valid);
        assert_eq!(on_trial(now), VerifyCode::TenantInactive);
    }

    #[test]
    fn a_permission_that_does_not_exist_is_never_granted() {
        assert_eq!(
            verdict(&key(), TenantState::Active, &["TENANTS:FLY"]),
            VerifyCode::InsufficientPermission
        );
    }
}
