//! Whether applications may act on tenants: the methods that tell.

use std::{borrow::Cow, time::Duration};

use futures_util::future::try_join_all;

use super::{
    known::{KnownAuthorization, PlaceRef},
    verdict::{self, Question},
    wire::{SCOPES_MAX, check_scope},
};
use crate::{
    db::Scope,
    error::{Error, Result},
    keys::{cache::Answer, roles::APP_PUBLISHER, verify::duration},
    pb::{self, CheckCode},
    revision::Revision,
    rpc::Call,
    server::Shared,
    tenants::model::LockMode,
    wire::{Fields, check_id, timestamp},
};

/// How many authorizations one call checks.
const BATCH_MAX: usize = 100;

/// How often an authorization is found anew of which something new is heard while it is checked.
const ATTEMPTS: usize = 5;

/// Tells whether an application may.
pub(super) async fn check(
    shared: &Shared,
    call: &Call,
    request: &pb::CheckAuthorizationRequest,
) -> Result<pb::CheckAuthorizationResponse> {
    let mut fields = Fields::default();
    let asked = Asked::read(call, request, "", &mut fields)?;
    fields.finish()?;
    call.check_environment(Some(&asked.environment))?;

    again(shared, call, &asked).await
}

/// Tells of each of several whether it may.
pub(super) async fn batch(
    shared: &Shared,
    call: &Call,
    request: &pb::BatchCheckAuthorizationsRequest,
) -> Result<pb::BatchCheckAuthorizationsResponse> {
    let number = request.requests.len();
    if !(1..=BATCH_MAX).contains(&number) {
        let why = format!("are {number}, and must be 1 to {BATCH_MAX}");
        return Err(Error::invalid("requests", why));
    }
    let mut fields = Fields::default();
    let places = request.requests.iter().enumerate();
    let asked = places
        .map(|(place, one)| Asked::read(call, one, &format!("requests[{place}]."), &mut fields))
        .collect::<Result<Vec<_>>>()?;
    fields.finish()?;
    for one in &asked {
        call.check_environment(Some(&one.environment))?;
    }

    let found = asked.iter().enumerate().map(async |(place, one)| {
        find(shared, call, one).await.map_err(|error| match error {
            Error::RevisionAhead(field) => {
                Error::RevisionAhead(format!("requests[{place}].{field}"))
            }
            other => other,
        })
    });
    let found = try_join_all(found).await?;
    let mut responses = Vec::with_capacity(number);
    for (one, answer) in asked.iter().zip(found) {
        // All were waited for: what was found first may not hold any more, and is found anew.
        responses.push(match tell(shared, call, one, &answer) {
            Some(response) => response,
            None => again(shared, call, one).await?,
        });
    }

    Ok(pb::BatchCheckAuthorizationsResponse { responses })
}

/// What a caller asks.
struct Asked<'a> {
    request: &'a pb::CheckAuthorizationRequest,
    tenant_id: &'a str,
    environment: Cow<'a, str>,
    at_least: Option<Revision>,
}

impl<'a> Asked<'a> {
    /// Reads a request whose fields stand behind a prefix, noting what is wrong with it.
    fn read(
        call: &'a Call,
        request: &'a pb::CheckAuthorizationRequest,
        prefix: &str,
        fields: &mut Fields,
    ) -> Result<Self> {
        let at = |field: &str| format!("{prefix}{field}");
        let tenant_id = match call.tenant_id(&at("tenant_id"), &request.tenant_id) {
            Ok(tenant_id) => tenant_id,
            Err(Error::Invalid(violations)) => {
                fields.add(violations);
                ""
            }
            Err(other) => return Err(other),
        };
        if let Err(why) = check_id(&request.application_id) {
            fields.refuse(&at("application_id"), why);
        }
        let mut environment = Cow::Borrowed(&*request.environment);
        if environment.bytes().any(|byte| byte.is_ascii_uppercase()) {
            environment = environment.to_ascii_lowercase().into();
        }
        if let Err(why) = check_id(&environment) {
            fields.refuse(&at("environment"), why);
        }
        let number = request.scopes.len();
        if number > SCOPES_MAX {
            let why = format!("are {number}, of which at most {SCOPES_MAX} are allowed");
            fields.refuse(&at("scopes"), why);
        }
        for (place, scope) in request.scopes.iter().take(SCOPES_MAX).enumerate() {
            if let Err(why) = check_scope(scope) {
                fields.refuse(&at(&format!("scopes[{place}]")), why);
            }
        }
        let at_least = match Revision::read(&request.min_revision) {
            Ok(revision) => revision,
            Err(why) => {
                fields.refuse(&at("min_revision"), why.to_string());
                None
            }
        };
        Ok(Self { request, tenant_id, environment, at_least })
    }
}

/// Finds what is known of what is asked for.
async fn find(
    shared: &Shared,
    call: &Call,
    asked: &Asked<'_>,
) -> Result<Answer<KnownAuthorization>> {
    let at_least = asked.at_least.as_ref();
    if let Some(revision) = at_least {
        shared.keys.approach(revision, call.deadline).await;
    }
    let place = PlaceRef {
        tenant_id: asked.tenant_id,
        application_id: &asked.request.application_id,
        environment: &asked.environment,
    };
    shared.keys.find_authorization(place, at_least, call.deadline).await
}

/// Finds what is asked for, and tells of it.
async fn again(
    shared: &Shared,
    call: &Call,
    asked: &Asked<'_>,
) -> Result<pb::CheckAuthorizationResponse> {
    for _ in 0..ATTEMPTS {
        let answer = find(shared, call, asked).await?;
        if let Some(response) = tell(shared, call, asked, &answer) {
            return Ok(response);
        }
    }
    Err(Error::DatabaseAway("what is known of the authorization changes all the time".into()))
}

/// Tells what there is to say, by what holds now; nothing where there were news since it was found, or the lease is
/// over. Nothing is waited for here.
fn tell(
    shared: &Shared,
    call: &Call,
    asked: &Asked<'_>,
    answer: &Answer<KnownAuthorization>,
) -> Option<pb::CheckAuthorizationResponse> {
    // Of an answer that nothing was known for, only the moment is known that it was read at.
    let kept = match answer.known_until {
        Some(until) => shared.keys.left(until)?,
        None => Duration::ZERO,
    };
    let request = asked.request;
    let revision = answer.revision.as_deref().unwrap_or_default().to_owned();
    let Some(known) = answer.known.as_deref().filter(|known| covers(call, known)) else {
        let checks = if request.explain { vec![verdict::nothing()] } else { vec![] };
        let code = CheckCode::NotAuthorized.into();
        return Some(pb::CheckAuthorizationResponse {
            code,
            revision,
            checks,
            ..Default::default()
        });
    };
    let now = shared.clock.now();
    let question = Question { scopes: &request.scopes, now };
    let code = verdict::code(known, question);
    let allowed = code == CheckCode::Allowed;
    if allowed {
        shared.authorization_usage.note(&known.granted, known.tenant.uid, now);
    }

    let standing = &known.tenant.standing;
    let changes = known.granted.changes_at(now).into_iter().chain(standing.changes_at(now)).min();
    let until_change = changes.and_then(|instant| (instant - now).to_std().ok());
    let checks = if request.explain { verdict::explain(known, question) } else { vec![] };
    let is_live = known.granted.is_live(now);
    let missing = verdict::missing_scopes(known, question).filter(|_| is_live);
    Some(pb::CheckAuthorizationResponse {
        allowed,
        code: code.into(),
        missing_scopes: missing.cloned().collect(),
        authorization_id: known.granted.authorization_id.to_string(),
        valid_until: known.granted.valid_until.map(timestamp),
        cache_ttl: Some(duration(until_change.map_or(kept, |until| until.min(kept)))),
        revision,
        checks,
        read_only: allowed && standing.lock(now) == Some(LockMode::ReadOnly),
    })
}

/// Whether a call sees an authorization, from either of its sides: one that it does not see does not exist for it.
/// What the metadata names narrows that.
fn covers(call: &Call, known: &KnownAuthorization) -> bool {
    let tenant = &known.tenant;
    let named = call.tenant.as_ref().filter(|named| named.named);
    if named.is_some_and(|named| named.uid != tenant.uid) {
        return false;
    }
    match &call.scope {
        Scope::System => true,
        Scope::Publisher(account) => known.publisher_account_id == *account,
        Scope::Account(account) => {
            known.publisher_account_id == *account
                || (tenant.account_id == *account && !publishes_only(call))
        }
        Scope::Tenant(uid) => tenant.uid == *uid,
        Scope::Provider(uid) => tenant.uid == *uid || tenant.ancestors.contains(uid),
        Scope::Tenants(_) | Scope::Reseller { .. } => false,
    }
}

/// Whether the key of a call checks authorizations as a publisher alone, which sees of tenants of its account what they
/// let its applications do, and of others' nothing.
fn publishes_only(call: &Call) -> bool {
    let mut roles = call.caller.roles.iter().filter(|role| role.grants("AUTHORIZATIONS:CHECK"));
    roles.all(|role| role.id == APP_PUBLISHER)
}
