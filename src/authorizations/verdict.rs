//! Whether an application may act on a tenant: the checks of `CheckAuthorization` in their order, pure.

use chrono::{DateTime, Utc};

use super::known::{End, KnownAuthorization};
use crate::{
    pb::{self, CheckCode},
    tenants::model::LockMode,
};

/// What an authorization is checked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    /// What the application is about to do.
    pub(super) scopes: &'a [String],
    /// The time.
    pub(super) now: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Authorization,
    Tenant,
    Lock,
    Scopes,
}

/// In the order in which they are made.
const CHECKS: &[Check] = &[Check::Authorization, Check::Tenant, Check::Lock, Check::Scopes];

/// The code of the first check that an authorization fails; ALLOWED where it passes them all.
pub(super) fn code(known: &KnownAuthorization, question: Question<'_>) -> CheckCode {
    let failed = CHECKS.iter().find(|check| !check.passes(known, question));
    failed.map_or(CheckCode::Allowed, |check| check.code(known, question))
}

/// Every check, in order, with its outcome. Of an authorization that has ended that alone: its other side has nothing
/// to learn of the tenant any more.
pub(super) fn explain(
    known: &KnownAuthorization,
    question: Question<'_>,
) -> Vec<pb::AuthorizationCheck> {
    let is_live = known.granted.is_live(question.now);
    let shown = if is_live { CHECKS } else { &CHECKS[..1] };
    let told = |check: &Check| pb::AuthorizationCheck {
        check: check.name().to_owned(),
        passed: check.passes(known, question),
        code: check.code(known, question).into(),
        message: check.words(known, question),
    };
    shown.iter().map(told).collect()
}

/// What is explained where there is no authorization, or none that the caller sees.
pub(super) fn nothing() -> pb::AuthorizationCheck {
    pb::AuthorizationCheck {
        check: Check::Authorization.name().to_owned(),
        passed: false,
        code: CheckCode::NotAuthorized.into(),
        message: "no such authorization within the reach of the caller".to_owned(),
    }
}

/// The scopes that are asked for and not granted.
pub(super) fn missing_scopes<'a>(
    known: &'a KnownAuthorization,
    question: Question<'a>,
) -> impl Iterator<Item = &'a String> {
    question.scopes.iter().filter(|scope| !known.granted.grants(scope))
}

impl Check {
    fn passes(self, known: &KnownAuthorization, question: Question<'_>) -> bool {
        let (standing, now) = (&known.tenant.standing, question.now);
        match self {
            Self::Authorization => known.granted.is_live(now),
            Self::Tenant => standing.inactive(now).is_none(),
            // One that lets one read is told, for whoever asks to heed.
            Self::Lock => standing.lock(now) != Some(LockMode::Full),
            Self::Scopes => missing_scopes(known, question).next().is_none(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Tenant => "tenant",
            Self::Lock => "lock",
            Self::Scopes => "scopes",
        }
    }

    fn code(self, known: &KnownAuthorization, question: Question<'_>) -> CheckCode {
        match self {
            Self::Authorization => match known.granted.end_at(question.now) {
                End::None => CheckCode::NotAuthorized,
                End::Revoked => CheckCode::Revoked,
                End::Expired => CheckCode::Expired,
            },
            Self::Tenant => CheckCode::TenantInactive,
            Self::Lock => CheckCode::TenantLocked,
            Self::Scopes => CheckCode::InsufficientScope,
        }
    }

    fn words(self, known: &KnownAuthorization, question: Question<'_>) -> String {
        let (standing, now) = (&known.tenant.standing, question.now);
        match self {
            Self::Authorization => match (known.granted.end_at(now), known.granted.valid_until) {
                (End::Revoked, _) => "it was revoked".to_owned(),
                (End::None, None) => "it is good until it is revoked".to_owned(),
                (End::None, Some(until)) => format!("it is good until {until}"),
                (End::Expired, Some(until)) => format!("it was good until {until}"),
                (End::Expired, None) => "its time is over".to_owned(),
            },
            Self::Tenant => match standing.inactive(now) {
                None => "the tenant is ACTIVE".to_owned(),
                Some(why) => format!("the tenant is {why}"),
            },
            Self::Lock => match standing.lock(now) {
                None => "neither the tenant nor one above it is locked".to_owned(),
                Some(mode) => {
                    format!("the tenant, or one above it, is locked: {}", mode.as_str())
                }
            },
            Self::Scopes => {
                let missing = missing_scopes(known, question).map(String::as_str);
                match missing.collect::<Vec<_>>() {
                    none if none.is_empty() => {
                        "all scopes that are asked for are granted".to_owned()
                    }
                    missing => format!("not granted: {}", missing.join(", ")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::TimeDelta;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{
        authorizations::known::{Granted, Place},
        keys::{known::KnownTenant, usage::Noted},
        tenants::model::{Standing, TenantState},
    };

    fn now() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::days(1)
    }

    fn known() -> KnownAuthorization {
        let standing =
            Standing { state: TenantState::Active, trial_expire_time: None, locks: Vec::new() };
        KnownAuthorization {
            place: Arc::new(Place {
                tenant_id: "foo".into(),
                application_id: "crm".into(),
                environment: "production".into(),
            }),
            tenant: KnownTenant {
                uid: Uuid::from_u128(7),
                tenant_id: "foo".into(),
                account_id: "acme".into(),
                ancestors: Vec::new(),
                standing,
            },
            publisher_account_id: "acme".into(),
            granted: Granted {
                authorization_id: Uuid::nil(),
                end: End::None,
                valid_until: None,
                scopes: vec!["read".into()],
                noted: Noted::default(),
            },
        }
    }

    /// Everything is wrong with it at first, and is put right check by check.
    #[test]
    fn the_first_check_that_fails_is_the_code_in_the_fixed_order() {
        use CheckCode as Code;

        let write = ["read".to_owned(), "write".to_owned()];
        let asked = Question { scopes: &write, now: now() };
        let mut known = known();
        known.granted.end = End::Revoked;
        known.tenant.standing.state = TenantState::Deleted;
        known.tenant.standing.locks = vec![(LockMode::Full, None)];
        let mut seen = vec![code(&known, asked)];

        known.granted.end = End::Expired;
        seen.push(code(&known, asked));
        known.granted.end = End::None;
        seen.push(code(&known, asked));
        known.tenant.standing.state = TenantState::Active;
        seen.push(code(&known, asked));
        known.tenant.standing.locks = vec![(LockMode::ReadOnly, None)];
        seen.push(code(&known, asked));
        assert_eq!(missing_scopes(&known, asked).collect::<Vec<_>>(), ["write"]);
        known.granted.scopes.push("write".into());
        seen.push(code(&known, asked));

        let expected = [
            Code::Revoked,
            Code::Expired,
            Code::TenantInactive,
            Code::TenantLocked,
            Code::InsufficientScope,
            Code::Allowed,
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn of_an_authorization_that_has_ended_nothing_of_the_tenant_is_explained() {
        let mut known = known();
        let asked = Question { scopes: &[], now: now() };
        let names = |known: &KnownAuthorization| {
            explain(known, asked).into_iter().map(|check| check.check).collect::<Vec<_>>()
        };

        assert_eq!(names(&known), ["authorization", "tenant", "lock", "scopes"]);
        known.granted.valid_until = Some(now());
        assert_eq!(names(&known), ["authorization"]);
    }

    proptest! {
        /// What is told and what is explained never disagree.
        #[test]
        fn the_code_is_that_of_the_first_failure_that_is_explained(
            revoked: bool, ended: bool, deleted: bool, locked: bool, reads: bool, asks: bool,
        ) {
            let mut known = known();
            known.granted.end = if revoked { End::Revoked } else { End::None };
            known.granted.valid_until = ended.then_some(DateTime::UNIX_EPOCH);
            if deleted {
                known.tenant.standing.state = TenantState::Deleted;
            }
            let mode = if reads { LockMode::ReadOnly } else { LockMode::Full };
            known.tenant.standing.locks = locked.then_some((mode, None)).into_iter().collect();
            let scopes = if asks { vec!["write".to_owned()] } else { Vec::new() };
            let asked = Question { scopes: &scopes, now: now() };

            let explained = explain(&known, asked);
            let first = explained.iter().find(|check| !check.passed).map(pb::AuthorizationCheck::code);
            prop_assert_eq!(code(&known, asked), first.unwrap_or(CheckCode::Allowed));
        }
    }
}
