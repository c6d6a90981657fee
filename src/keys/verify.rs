//! Whether keys are good: the methods that tell.

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::future::try_join_all;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{
    app_keys::effective,
    cache::Answer,
    known::{KeyKind, Known},
    meter::{MeteredKey, Taken},
    roles::Role,
    rules::Device,
    secret::{self, Malformed},
    verdict::{self, Outcome, Question},
};
use crate::{
    allowlist::model::address,
    authorizations::known::{Granted, KnownAuthorization, PlaceRef},
    db::Scope,
    error::{Error, Result},
    pb::{self, VerifyCode},
    revision::{Revision, Snapshot},
    rpc::Call,
    server::Shared,
    wire::{Fields, check_id, struct_of_json, text, timestamp},
};

/// How many keys one call verifies.
const BATCH_MAX: usize = 100;

/// How many permissions or scopes one verification asks for.
const REQUIRED_MAX: usize = 100;

const NAME_MAX: usize = 80;
const USER_AGENT_MAX: usize = 1_024;

/// How long the text of a key is that was made elsewhere.
const FOREIGN_TEXT_MAX: usize = 4_096;

/// Tells whether a key is good.
///
/// # Errors
///
/// What the method says.
pub async fn verify(
    shared: &Shared,
    call: &Call,
    request: &pb::VerifyKeyRequest,
) -> Result<pb::VerifyKeyResponse> {
    let mut fields = Fields::default();
    let asked = Asked::read(request, "", &mut fields);
    fields.finish()?;
    call.check_environment(Some(&asked.environment))?;

    again(shared, call, &asked, None).await
}

/// Tells whether each of several keys is good.
///
/// # Errors
///
/// What the method says.
pub async fn batch(
    shared: &Shared,
    call: &Call,
    request: &pb::BatchVerifyKeysRequest,
) -> Result<pb::BatchVerifyKeysResponse> {
    let number = request.requests.len();
    if !(1..=BATCH_MAX).contains(&number) {
        let why = format!("are {number}, and must be 1 to {BATCH_MAX}");
        return Err(Error::invalid("requests", why));
    }
    let mut fields = Fields::default();
    let places = request.requests.iter().enumerate();
    let asked = places
        .map(|(place, one)| Asked::read(one, &format!("requests[{place}]."), &mut fields))
        .collect::<Vec<_>>();
    fields.finish()?;
    for one in &asked {
        call.check_environment(Some(&one.environment))?;
    }

    let first = asked.iter().enumerate().map(async |(place, one)| {
        settle(shared, call, one, None).await.map_err(|error| match error {
            Error::RevisionAhead(field) => {
                Error::RevisionAhead(format!("requests[{place}].{field}"))
            }
            other => other,
        })
    });
    let mut settled = try_join_all(first).await?;
    if settled.iter().any(|one| one.spent.is_some()) {
        // Uses were waited for, and of what was read for this call alone nobody hears whether it still holds.
        let second = asked.iter().zip(settled).map(async |(one, settled)| {
            if settled.is_followed() {
                Ok(settled)
            } else {
                settle(shared, call, one, settled.spent).await
            }
        });
        settled = try_join_all(second).await?;
    }
    let mut responses = Vec::with_capacity(number);
    for (one, settled) in asked.iter().zip(settled) {
        // All were waited for: what was found first may not hold any more, and is found anew.
        responses.push(match tell(shared, call, one, &settled) {
            Some(response) => response,
            None => again(shared, call, one, settled.spent).await?,
        });
    }

    Ok(pb::BatchVerifyKeysResponse { responses })
}

/// What a caller asks of a key.
struct Asked<'a> {
    request: &'a pb::VerifyKeyRequest,
    environment: Cow<'a, str>,
    client_ip: Option<IpAddr>,
    device: Option<Device>,
    at_least: Option<Revision>,
}

impl<'a> Asked<'a> {
    /// Reads a request whose fields stand behind a prefix, noting what is wrong with it.
    fn read(request: &'a pb::VerifyKeyRequest, prefix: &str, fields: &mut Fields) -> Self {
        let mut environment = Cow::Borrowed(&*request.environment);
        if environment.bytes().any(|byte| byte.is_ascii_uppercase()) {
            environment = environment.to_ascii_lowercase().into();
        }
        if let Err(why) = check_id(&environment) {
            fields.refuse(&format!("{prefix}environment"), why);
        }
        let client_ip = match &*request.client_ip {
            "" => None,
            ip => match address(ip) {
                Ok(ip) => Some(ip),
                Err(why) => {
                    fields.refuse(&format!("{prefix}client_ip"), why);
                    None
                }
            },
        };
        let device = match &request.device {
            Some(device) => Device::read(device, prefix, fields),
            // Only of keys whose rules ask for it is it read out of what the client says.
            None if request.user_agent.is_empty() => None,
            None => {
                if let Err(why) = text(&request.user_agent, 0, USER_AGENT_MAX) {
                    fields.refuse(&format!("{prefix}user_agent"), why);
                }
                None
            }
        };
        for (name, value) in
            [("application_id", &request.application_id), ("service_name", &request.service_name)]
        {
            if let Err(why) = text(value, 0, NAME_MAX) {
                fields.refuse(&format!("{prefix}{name}"), why);
            }
        }
        for (name, list) in [
            ("required_permissions", &request.required_permissions),
            ("required_scopes", &request.required_scopes),
        ] {
            if list.len() > REQUIRED_MAX {
                let why =
                    format!("are {}, of which at most {REQUIRED_MAX} are allowed", list.len());
                fields.refuse(&format!("{prefix}{name}"), why);
            }
        }
        let at_least = match Revision::read(&request.min_revision) {
            Ok(revision) => revision,
            Err(why) => {
                fields.refuse(&format!("{prefix}min_revision"), why.to_string());
                None
            }
        };
        Self { request, environment, client_ip, device, at_least }
    }
}

/// Verifies a key, which may have been used up for that before.
async fn again(
    shared: &Shared,
    call: &Call,
    asked: &Asked<'_>,
    mut spent: Option<Spent>,
) -> Result<pb::VerifyKeyResponse> {
    for _ in 0..ATTEMPTS {
        let settled = settle(shared, call, asked, spent).await?;
        if let Some(response) = tell(shared, call, asked, &settled) {
            return Ok(response);
        }
        spent = settled.spent;
    }
    Err(Error::DatabaseAway("what is known of the key changes all the time".into()))
}

/// How often a key is found anew of which something new is heard while it is verified.
const ATTEMPTS: usize = 5;

/// What there is to wait for of a verification: the key, and its use.
struct Settled {
    found: Result<(Answer, [u8; 32]), Malformed>,
    /// What the tenant of the key lets the application do that is asked for, where the key is not one of an
    /// application by itself.
    authorized: Option<Answer<KnownAuthorization>>,
    spent: Option<Spent>,
}

impl Settled {
    /// Whether there is word of whatever changes what was found.
    fn is_followed(&self) -> bool {
        self.found.as_ref().map_or(true, |(answer, _)| answer.known_until.is_some())
            && self.authorized.as_ref().is_none_or(|answer| answer.known_until.is_some())
    }
}

/// What an answer lets an application do.
fn granted_of(authorized: Option<&Answer<KnownAuthorization>>) -> Option<&Granted> {
    authorized?.known.as_deref().map(|known| &known.granted)
}

/// Finds a key, and uses it up by one where nothing else stands against it and it was not used up before.
async fn settle(
    shared: &Shared,
    call: &Call,
    asked: &Asked<'_>,
    mut spent: Option<Spent>,
) -> Result<Settled> {
    for _ in 0..ATTEMPTS {
        let found = find(shared, call, asked).await?;
        let Ok((answer, sha256)) = &found else {
            return Ok(Settled { found, authorized: None, spent });
        };
        let authorized = authorize(shared, call, asked, (answer, sha256)).await?;
        // First, since it is cheap, and true of nearly all.
        let is_limited = answer.known.as_ref().is_some_and(|known| known.limits.is_some());
        if spent.is_some() || !is_limited {
            return Ok(Settled { found, authorized, spent });
        }
        let Some(known) = known_of(shared, call, answer, sha256) else {
            return Ok(Settled { found, authorized, spent });
        };
        let said = asked.said_device(&known);
        let granted = granted_of(authorized.as_ref());
        let question = asked.question(said.as_ref(), granted, shared.clock.now());
        if verdict::failure(&known, &question).is_some() {
            return Ok(Settled { found, authorized, spent });
        }
        spent = spend(shared, &known, call.deadline).await?;
        if spent.is_none() {
            // The limits were changed, and this node is about to hear of that; or the database was put back
            // to a state before such a change.
            shared.keys.drop_key(known.key_ref);
            shared.meter.forget(known.key_ref);
        }
        // Waited for: what was found before may not hold any more.
    }
    Err(Error::DatabaseAway("the limits of the key change all the time".into()))
}

/// Finds what the tenant of a key lets the application do that is asked for, unless the key is one of an application:
/// that is known with the key.
async fn authorize(
    shared: &Shared,
    call: &Call,
    asked: &Asked<'_>,
    (answer, sha256): (&Answer, &[u8; 32]),
) -> Result<Option<Answer<KnownAuthorization>>> {
    let application_id = &*asked.request.application_id;
    // What can be no id is that of no application.
    if application_id.is_empty() || check_id(application_id).is_err() {
        return Ok(None);
    }
    let known = known_of(shared, call, answer, sha256).filter(|known| known.bound().is_none());
    let Some(tenant) = known.as_ref().and_then(|known| known.owner.tenant.as_ref()) else {
        return Ok(None);
    };
    let place =
        PlaceRef { tenant_id: &tenant.tenant_id, application_id, environment: &asked.environment };
    let at_least = asked.at_least.as_ref();
    shared.keys.find_authorization(place, at_least, call.deadline).await.map(Some)
}

/// The key that was found, if its secret was sent and it is within the scope of the caller.
fn known_of(
    shared: &Shared,
    call: &Call,
    answer: &Answer,
    sha256: &[u8; 32],
) -> Option<Arc<Known>> {
    let now = shared.clock.now();
    let known = answer.known.as_ref()?;
    let is_within = known.has_secret(&shared.master, sha256, now) && covers(call, known);
    is_within.then(|| known.clone())
}

impl Asked<'_> {
    /// What a bearer's client says that it is, where rules of the key ask for it and nothing better is there.
    fn said_device(&self, known: &Known) -> Option<Device> {
        match (&known.kind, &self.device) {
            (KeyKind::External(of), None) if !of.devices.is_empty() => {
                Device::of_user_agent(&self.request.user_agent)
            }
            _ => None,
        }
    }

    fn question<'q>(
        &'q self,
        said: Option<&'q Device>,
        granted: Option<&'q Granted>,
        now: DateTime<Utc>,
    ) -> Question<'q> {
        Question {
            environment: &self.environment,
            client_ip: self.client_ip,
            device: self.device.as_ref().or(said),
            application_id: &self.request.application_id,
            granted,
            required_permissions: &self.request.required_permissions,
            required_scopes: &self.request.required_scopes,
            now,
        }
    }
}

/// Tells what there is to say, by what holds now; nothing where there were news since the key was found, or the
/// lease is over, be it that the machine slept meanwhile. Nothing is waited for here.
fn tell(
    shared: &Shared,
    call: &Call,
    asked: &Asked<'_>,
    settled: &Settled,
) -> Option<pb::VerifyKeyResponse> {
    let request = asked.request;
    let (answer, sha256) = match &settled.found {
        Ok(found) => found,
        // What was never one of our keys may be one that somebody else has imported: no word of that.
        Err(Malformed::Form) => {
            let revision = shared.keys.revision();
            return Some(not_found(UNKNOWN, revision.as_deref(), request.explain));
        }
        Err(malformed) => {
            return Some(not_found(&malformed.to_string(), None, request.explain));
        }
    };
    // Of an answer that nothing was known for, only the moment is known that it was read at.
    let left = |until| match until {
        Some(until) => shared.keys.left(until),
        None => Some(Duration::ZERO),
    };
    let mut kept = left(answer.known_until)?;
    let mut revision = answer.revision.as_deref();
    if let Some(authorized) = &settled.authorized {
        kept = kept.min(left(authorized.known_until)?);
        revision = older(revision, authorized.revision.as_deref());
    }
    let Some(known) = known_of(shared, call, answer, sha256) else {
        return Some(not_found(UNKNOWN, revision, request.explain));
    };
    let now = shared.clock.now();
    let said = asked.said_device(&known);
    let question = asked.question(said.as_ref(), granted_of(settled.authorized.as_ref()), now);
    let granted = verdict::granted(&known, &question);
    let failure = verdict::failure(&known, &question);
    let code = failure.or(settled.spent.and_then(Spent::code)).unwrap_or(VerifyCode::Valid);
    if code == VerifyCode::Valid {
        shared.usage.note(&known, now);
        if let (Some(granted), Some(tenant)) = (granted, &known.owner.tenant) {
            shared.authorization_usage.note(granted, tenant.uid, now);
        }
    }

    let mut response = told(&known, granted, (kept, revision), code, request, now);
    let spent = settled.spent.filter(|_| failure.is_none());
    response.retry_after = spent.and_then(Spent::retry_after).map(duration);
    if request.explain {
        let mut outcomes = verdict::explain(&known, &question);
        outcomes.extend(explain_limits(&known, settled.spent));
        response.checks = outcomes.into_iter().map(Into::into).collect();
    }
    Some(response)
}

/// The older one of two states that were read one after the other, which both are not older than.
fn older<'a>(one: Option<&'a str>, other: Option<&'a str>) -> Option<&'a str> {
    let (one, other) = (one?, other?);
    let is_later = one.parse::<Snapshot>().is_ok_and(|state| {
        other.parse::<Snapshot>().is_ok_and(|other| state.covers(&Revision::State(other)))
    });
    Some(if is_later { other } else { one })
}

/// Why a key is not found, in one way for all of them: guesses learn nothing.
const UNKNOWN: &str = "no such key within the scope of the caller: neither one of this service, nor one that \
                       was imported";

/// Finds what is known of a key, and the SHA-256 by which its secret is compared; or why its text is that of no
/// key.
async fn find(
    shared: &Shared,
    call: &Call,
    asked: &Asked<'_>,
) -> Result<Result<(Answer, [u8; 32]), Malformed>> {
    let at_least = asked.at_least.as_ref();
    let parsed = secret::parse(&shared.master, &asked.request.key);
    if let (Some(revision), Ok(_) | Err(Malformed::Form)) = (at_least, &parsed) {
        shared.keys.approach(revision, call.deadline).await;
    }
    match parsed {
        Ok(parsed) => {
            let answer = shared.keys.find(parsed.key_ref, at_least, call.deadline).await?;
            Ok(Ok((answer, parsed.secret.sha256())))
        }
        // Perhaps of a key that was made elsewhere; what only looks like one of ours is none.
        Err(Malformed::Form) if (1..=FOREIGN_TEXT_MAX).contains(&asked.request.key.len()) => {
            let sha256 = Sha256::digest(&asked.request.key).into();
            let answer = shared.keys.find_by_hash(&sha256, at_least, call.deadline).await?;
            if answer.known.is_none() { Ok(Err(Malformed::Form)) } else { Ok(Ok((answer, sha256))) }
        }
        Err(malformed) => Ok(Err(malformed)),
    }
}

/// What came of using up a key that has limits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spent {
    Granted,
    RateLimited(Duration),
    UsageExceeded(Option<Duration>),
}

impl Spent {
    fn code(self) -> Option<VerifyCode> {
        match self {
            Self::Granted => None,
            Self::RateLimited(_) => Some(VerifyCode::RateLimited),
            Self::UsageExceeded(_) => Some(VerifyCode::UsageExceeded),
        }
    }

    fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Granted => None,
            Self::RateLimited(after) => Some(after),
            Self::UsageExceeded(after) => after,
        }
    }
}

/// Uses a key up by one; nothing where its limits are others by now.
async fn spend(shared: &Shared, known: &Known, deadline: Instant) -> Result<Option<Spent>> {
    let Some((limits, limits_version)) = known.limits.as_deref() else {
        return Ok(Some(Spent::Granted));
    };
    let key = MeteredKey {
        key_ref: known.key_ref,
        tenant_uid: known.owner.tenant.as_ref().map(|tenant| tenant.uid),
        limits,
        limits_version: *limits_version,
    };
    Ok(Some(match shared.meter.take(&shared.database, key, deadline).await? {
        Taken::Granted => Spent::Granted,
        Taken::RateLimited { retry_after } => Spent::RateLimited(retry_after),
        Taken::UsageExceeded { retry_after } => Spent::UsageExceeded(retry_after),
        Taken::Unknown => return Ok(None),
    }))
}

fn explain_limits(known: &Known, spent: Option<Spent>) -> [Outcome; 2] {
    let limits = known.limits.as_deref().map(|(limits, _)| *limits).unwrap_or_default();
    let code = spent.and_then(Spent::code);
    let outcome = |name, failure, is_limited| {
        let passed = code != Some(failure);
        let words = match (is_limited, passed, spent) {
            (false, ..) => "used any number of times",
            (true, false, _) => "used as often as the key allows",
            (true, true, Some(Spent::Granted)) => "used up by one",
            (true, true, _) => "not used up, since another check failed",
        };
        Outcome { name, code: failure, passed, message: words.to_owned() }
    };
    [
        outcome("rate", VerifyCode::RateLimited, limits.rate.is_some()),
        outcome("credits", VerifyCode::UsageExceeded, limits.credits.is_some()),
    ]
}

/// What there is to say of a key that was found.
fn told(
    known: &Known,
    granted: Option<&Granted>,
    (kept, revision): (Duration, Option<&str>),
    code: VerifyCode,
    request: &pb::VerifyKeyRequest,
    now: DateTime<Utc>,
) -> pb::VerifyKeyResponse {
    let valid = code == VerifyCode::Valid;
    let tenant = known.owner.tenant.as_ref();
    let is_locked = || tenant.is_some_and(|tenant| tenant.standing.lock(now).is_some());
    let ends = granted.and_then(|granted| granted.changes_at(now));
    let changes_at = known.changes_at(now).into_iter().chain(ends).min();
    let until_change = changes_at.and_then(|instant| (instant - now).to_std().ok());
    let at_most = |time: Duration| until_change.map_or(time, |until| until.min(time));
    // Of what is limited each use counts.
    let kept = if known.limits.is_none() { at_most(kept) } else { Duration::ZERO };
    let mut response = pb::VerifyKeyResponse {
        valid,
        code: code.into(),
        account_id: known.owner.account_id.clone().unwrap_or_default(),
        tenant_id: tenant.map(|tenant| tenant.tenant_id.clone()).unwrap_or_default(),
        tenant_uid: tenant.map(|tenant| tenant.uid.to_string()).unwrap_or_default(),
        environment: known.environment.as_deref().unwrap_or_default().to_owned(),
        credential_id: known.id.to_string(),
        read_only: valid && is_locked(),
        expire_time: known.expire_time.map(timestamp),
        cache_ttl: Some(duration(kept)),
        revision: revision.unwrap_or_default().to_owned(),
        scopes: granted.map(|granted| granted.scopes.clone()).unwrap_or_default(),
        ..Default::default()
    };
    match &known.kind {
        KeyKind::Api(grants) => {
            response.credential_kind = pb::CredentialKind::ApiKey.into();
            response.roles = grants.roles.iter().map(|role: &&Role| role.id.to_owned()).collect();
            response.permissions = grants.permissions().map(str::to_owned).collect();
        }
        KeyKind::External(external) => {
            let app = &external.app;
            response.credential_kind = pb::CredentialKind::ExternalKey.into();
            response.app_key_id.clone_from(&app.app_key_id);
            response.installation_id.clone_from(&app.installation_id);
            response.product_code.clone_from(&app.product_code);
            response.package_code.clone_from(&app.package_code);
            if let Some(bound) = &app.bound {
                response.application_id.clone_from(&bound.application_id);
            }
            if !kept.is_zero() {
                let hours = u64::try_from(app.ttl_hours).unwrap_or(0);
                response.watched_cache_ttl = Some(duration(at_most(Duration::from_hours(hours))));
            }
            if valid && !app.config.is_null() {
                response.config = struct_of_json(effective(&app.config, &request.service_name));
            }
        }
    }
    response
}

/// A length of time as messages carry it.
pub(crate) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

/// Whether a call covers a key: one that it does not cover does not exist for it. What the metadata names
/// narrows what the scope of the verifier has.
fn covers(call: &Call, known: &Known) -> bool {
    let tenant = known.owner.tenant.as_ref();
    let named = call.tenant.as_ref().filter(|named| named.named);
    if named.is_some_and(|named| tenant.is_none_or(|tenant| tenant.uid != named.uid)) {
        return false;
    }
    match &call.scope {
        Scope::System => true,
        Scope::Account(account) => known.owner.account_id.as_ref() == Some(account),
        Scope::Tenant(uid) => tenant.is_some_and(|tenant| tenant.uid == *uid),
        Scope::Provider(uid) => {
            tenant.is_some_and(|tenant| tenant.uid == *uid || tenant.ancestors.contains(uid))
        }
        Scope::Tenants(_) | Scope::Reseller { .. } | Scope::Publisher(_) => false,
    }
}

fn not_found(why: &str, revision: Option<&str>, explain: bool) -> pb::VerifyKeyResponse {
    let found = || Outcome {
        name: "found",
        code: VerifyCode::NotFound,
        passed: false,
        message: why.to_owned(),
    };
    pb::VerifyKeyResponse {
        code: VerifyCode::NotFound.into(),
        revision: revision.unwrap_or_default().to_owned(),
        checks: if explain { vec![found().into()] } else { vec![] },
        ..Default::default()
    }
}
