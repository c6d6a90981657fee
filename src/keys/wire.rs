//! How keys look from outside: requests read, records told.

use chrono::{DateTime, Utc};

use super::{
    limits::{Limits, read_credits, read_rate},
    master::MasterKey,
    model::{ApiKey, KeyRecord, KeyScope, KeyState},
    roles::{MULTI_BACKEND_ADMIN, RESELLER, ROLES, Role},
    verdict::Outcome,
};
use crate::{
    error::{Error, Result},
    pb,
    rpc::mutate::etag,
    wire::{Fields, id, prose, request_id, text, time, timestamp},
};

/// How many backends a key may be bound to.
const BACKENDS_MAX: usize = 100;

/// What a caller may say of a new key. Whose it is and what its secret is are joined later.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is a field of ApiKey, documented there")]
pub struct NewApiKey {
    pub name: Option<String>,
    pub description: String,
    pub scope: Option<KeyScope>,
    pub account_id: Option<String>,
    pub tenant_id: Option<String>,
    pub roles: Vec<&'static Role>,
    pub environment: Option<String>,
    pub reseller_id: Option<String>,
    pub backend_ids: Vec<String>,
    pub expire_time: Option<DateTime<Utc>>,
    pub enabled: bool,
    pub limits: Limits,
}

impl NewApiKey {
    /// Reads a request at a time, which the end of the key must lie after.
    ///
    /// # Errors
    ///
    /// All violations of it.
    pub fn read(request: &pb::CreateApiKeyRequest, now: DateTime<Utc>) -> Result<Self> {
        let pb = request.api_key.as_ref().ok_or(Error::invalid("api_key", "is required"))?;
        let mut fields = Fields::default();
        fields.take("request_id", request_id(&request.request_id));
        let optional = |value: &str, read: fn(&str) -> Result<String, String>| {
            if value.is_empty() { Ok(None) } else { read(value).map(Some) }
        };
        let name = fields.take("api_key.name", optional(&pb.name, |value| text(value, 1, 80)));
        let description = fields.take("api_key.description", prose(&pb.description, 1_000));
        let scope = fields.take("api_key.scope", read_scope(pb.scope));
        let account_id = fields.take("api_key.account_id", optional(&pb.account_id, id));
        let tenant_id = fields.take("api_key.tenant_id", optional(&pb.tenant_id, id));
        let roles = fields.take("api_key.roles", read_roles(&pb.roles));
        let environment =
            fields.take("api_key.environment", optional(&pb.environment.to_ascii_lowercase(), id));
        let reseller_id = fields.take("api_key.reseller_id", optional(&pb.reseller_id, id));
        let expire_time =
            fields.take("api_key.expire_time", read_end(pb.expire_time.as_ref(), now));
        let backend_ids = fields.take("api_key.backend_ids", read_backends(&pb.backend_ids));
        let names = pb.roles.iter().map(String::as_str).collect::<Vec<_>>();
        let (is_bound, places) = (!pb.reseller_id.is_empty(), !pb.backend_ids.is_empty());
        check_bindings(&names, is_bound, places, &mut fields);
        let rate = read_rate(pb.rate_limit.as_ref(), "api_key.rate_limit", &mut fields);
        let credits = read_credits(pb.credits.as_ref(), "api_key.credits", &mut fields);
        fields.finish()?;
        let (Some(name), Some(scope), Some(account_id), Some(tenant_id)) =
            (name, scope, account_id, tenant_id)
        else {
            return Err(Error::internal("a field was refused without a violation"));
        };
        Ok(Self {
            name,
            description: description.unwrap_or_default(),
            scope,
            account_id,
            tenant_id,
            roles: roles.unwrap_or_default(),
            environment: environment.flatten(),
            reseller_id: reseller_id.flatten(),
            backend_ids: backend_ids.unwrap_or_default(),
            expire_time: expire_time.flatten(),
            enabled: pb.enabled.unwrap_or(true),
            limits: Limits { rate, credits },
        })
    }
}

/// Checks that a key is bound to a reseller and to backends where its roles ask for that, and nowhere
/// else.
pub(super) fn check_bindings(
    roles: &[&str],
    has_reseller: bool,
    has_backends: bool,
    fields: &mut Fields,
) {
    let is_reseller = roles.contains(&RESELLER);
    if is_reseller && roles.len() > 1 {
        fields.refuse("api_key.roles", "has reseller beside others: that role stands alone");
    } else if is_reseller && !has_reseller {
        fields.refuse("api_key.reseller_id", "is required for the role reseller");
    } else if !is_reseller && has_reseller {
        fields.refuse("api_key.reseller_id", "is for the role reseller only");
    }
    let places = roles.contains(&MULTI_BACKEND_ADMIN);
    if places && !has_backends {
        fields.refuse("api_key.backend_ids", "is required for the role multi-backend-admin");
    } else if !places && has_backends {
        fields.refuse("api_key.backend_ids", "is for the role multi-backend-admin only");
    }
}

fn read_scope(scope: i32) -> Result<Option<KeyScope>, String> {
    match pb::ApiKeyScope::try_from(scope) {
        Ok(pb::ApiKeyScope::Unspecified) => Ok(None),
        Ok(pb::ApiKeyScope::System) => Ok(Some(KeyScope::System)),
        Ok(pb::ApiKeyScope::Account) => Ok(Some(KeyScope::Account)),
        Ok(pb::ApiKeyScope::Tenant) => Ok(Some(KeyScope::Tenant)),
        Err(_) => {
            Err("is API_KEY_SCOPE_SYSTEM, API_KEY_SCOPE_ACCOUNT or API_KEY_SCOPE_TENANT".into())
        }
    }
}

/// Reads the names of roles, at least one of which there has to be; sorts them.
///
/// # Errors
///
/// What would be right.
pub fn read_roles(names: &[String]) -> Result<Vec<&'static Role>, String> {
    let known = || ROLES.iter().map(|role| role.id).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        return Err(format!("is required: at least one of {}", known()));
    }
    let mut roles = names
        .iter()
        .map(|name| {
            let shown = name.chars().take(40).collect::<String>();
            Role::find(name).ok_or_else(|| format!("has {shown:?}, which is none of {}", known()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    roles.sort_by_key(|role| role.id);
    roles.dedup_by_key(|role| role.id);
    Ok(roles)
}

pub(super) fn read_backends(ids: &[String]) -> Result<Vec<String>, String> {
    if ids.len() > BACKENDS_MAX {
        return Err(format!("are {}, of which at most {BACKENDS_MAX} are allowed", ids.len()));
    }
    let mut read = ids.iter().map(|one| id(one)).collect::<Result<Vec<_>, _>>()?;
    read.sort();
    read.dedup();
    Ok(read)
}

pub(super) fn read_end(
    end: Option<&prost_types::Timestamp>,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, String> {
    match end.map(time).transpose()? {
        Some(end) if end <= now => Err("does not lie ahead".to_owned()),
        end => Ok(end),
    }
}

/// A key as messages carry it; `tenant_id` is the id of its tenant, empty where it has none.
pub fn message(
    key: impl Into<KeyRecord>,
    tenant_id: &str,
    master: &MasterKey,
    now: DateTime<Utc>,
) -> pb::ApiKey {
    let KeyRecord { key, remaining, last_used_time } = key.into();
    let api_key_id = key.public_id(master).to_string();
    let state = key.state(now);
    let permissions = key.permissions();
    let (rate_limit, credits) = key.limits().messages(remaining);
    let ApiKey {
        route: _,
        number: _,
        scope,
        account_id,
        tenant_uid: _,
        name,
        description,
        roles,
        environment,
        reseller_id,
        backend_ids,
        digest: _,
        master_key_version: _,
        expire_time,
        created_by,
        create_time,
        revoke_time,
        revoked_by,
        revoke_reason,
        version,
        enabled,
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
    pb::ApiKey {
        api_key_id,
        name,
        description,
        scope: pb::ApiKeyScope::from(scope).into(),
        account_id: account_id.unwrap_or_default(),
        tenant_id: tenant_id.to_owned(),
        roles: roles.into_iter().flatten().collect(),
        environment: environment.unwrap_or_default(),
        reseller_id: reseller_id.unwrap_or_default(),
        backend_ids: backend_ids.into_iter().flatten().collect(),
        permissions,
        expire_time: expire_time.map(timestamp),
        state: pb::ApiKeyState::from(state).into(),
        created_by,
        create_time: Some(timestamp(create_time)),
        revoke_time: revoke_time.map(timestamp),
        revoked_by: revoked_by.unwrap_or_default(),
        revoke_reason: revoke_reason.unwrap_or_default(),
        etag: etag(version),
        enabled: Some(enabled),
        last_used_time: last_used_time.map(timestamp),
        rate_limit,
        credits,
        overlap_end_time: old_end_time.filter(|_| state == KeyState::Rotating).map(timestamp),
    }
}

impl From<KeyScope> for pb::ApiKeyScope {
    fn from(scope: KeyScope) -> Self {
        match scope {
            KeyScope::System => Self::System,
            KeyScope::Account => Self::Account,
            KeyScope::Tenant => Self::Tenant,
        }
    }
}

impl From<KeyState> for pb::ApiKeyState {
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

impl From<&'static Role> for pb::Role {
    fn from(role: &'static Role) -> Self {
        Self {
            role_id: role.id.to_owned(),
            description: role.description.to_owned(),
            permissions: role.permissions().map(str::to_owned).collect(),
            scopes: role.scopes.iter().map(|scope| pb::ApiKeyScope::from(*scope).into()).collect(),
            reaches_below: role.reaches_below,
        }
    }
}

impl From<Outcome> for pb::VerifyCheck {
    fn from(Outcome { name, code, passed, message }: Outcome) -> Self {
        Self { check: name.to_owned(), passed, code: code.into(), message }
    }
}
