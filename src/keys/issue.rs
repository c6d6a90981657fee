//! How a key comes to be.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    limits::{self, Limits},
    master::MasterKey,
    model::{ApiKey, KeyScope, ROUTE_OF_SYSTEM, new_ref, route_of_account, route_of_tenant},
    patch::name_of,
    roles::{Role, permissions_of},
    secret::{self, KeySecret, KeyText},
    store,
    wire::{NewApiKey, message},
};
use crate::{
    directory,
    error::{Error, Result},
    events::outbox::Event,
    pb,
    rpc::{Call, TenantOfCall, mutate::Change, permit::json_of},
    tenants,
};

/// Whose key a new key is to be.
#[derive(Clone, Debug)]
pub enum Owner {
    /// The system's.
    System,
    /// An account's.
    Account(String),
    /// A tenant's.
    Tenant(TenantOfCall),
}

impl Owner {
    fn scope(&self) -> KeyScope {
        match self {
            Self::System => KeyScope::System,
            Self::Account(_) => KeyScope::Account,
            Self::Tenant(_) => KeyScope::Tenant,
        }
    }

    fn account(&self) -> Option<&str> {
        match self {
            Self::System => None,
            Self::Account(account) => Some(account),
            Self::Tenant(tenant) => Some(&tenant.account_id),
        }
    }

    fn tenant(&self) -> Option<&TenantOfCall> {
        match self {
            Self::Tenant(tenant) => Some(tenant),
            _ => None,
        }
    }

    fn route(&self) -> i64 {
        match self {
            Self::System => ROUTE_OF_SYSTEM,
            Self::Account(account) => route_of_account(account),
            Self::Tenant(tenant) => route_of_tenant(tenant.uid),
        }
    }
}

/// Issues a key, whose text is told once.
///
/// # Errors
///
/// When it would grant more than its creator has, or names what is not there.
pub async fn issue(
    change: &mut Change<'_>,
    master: &MasterKey,
    owner: &Owner,
    new: &NewApiKey,
) -> Result<(pb::ApiKey, KeyText)> {
    let grants = Grants {
        scope: owner.scope(),
        roles: &new.roles,
        environment: new.environment.as_deref(),
        expire_time: new.expire_time,
    };
    check_grants(change.call, "KEYS:ADD", &grants)?;
    if let Some(tenant) = owner.tenant() {
        tenants::store::hold(change.conn(), tenant).await?;
    }
    grant(change, master, owner, new).await
}

/// Issues a key that may grant more than its creator has: of a tenant that comes to be with it.
///
/// # Errors
///
/// When it names what is not there.
pub async fn grant(
    change: &mut Change<'_>,
    master: &MasterKey,
    owner: &Owner,
    new: &NewApiKey,
) -> Result<(pb::ApiKey, KeyText)> {
    if let Some(tenant) = owner.tenant() {
        tenants::life::check_protection_of_keys(change, tenant.uid).await?;
    }
    if let Some(environment) = &new.environment {
        directory::environments::find(change.conn(), environment).await?;
    }

    if let (Some(reseller), Some(account)) = (&new.reseller_id, owner.account()) {
        directory::resellers::require(change.conn(), account, reseller).await?;
    }
    directory::backends::hold_all(change.conn(), &new.backend_ids).await?;

    let secret = KeySecret::generate();
    let (digest, version) = master.digest_now(&secret.sha256());
    let now = change.now;
    let key_ref = new_ref(owner.route(), now);
    let id = key_ref.public_id(master).to_string();
    let mut key = ApiKey {
        route: key_ref.route,
        number: key_ref.number,
        scope: owner.scope(),
        account_id: owner.account().map(str::to_owned),
        tenant_uid: owner.tenant().map(|tenant| tenant.uid),
        description: new.description.clone(),
        name: new.name.clone().unwrap_or_else(|| name_of(&id)),
        roles: new.roles.iter().map(|role| Some(role.id.to_owned())).collect(),
        environment: new.environment.clone(),
        reseller_id: new.reseller_id.clone(),
        backend_ids: new.backend_ids.iter().cloned().map(Some).collect(),
        digest: digest.as_bytes().to_vec(),
        master_key_version: version,
        expire_time: new.expire_time,
        created_by: change.call.actor(),
        create_time: change.now,
        revoke_time: None,
        revoked_by: None,
        revoke_reason: None,
        version: 1,
        enabled: new.enabled,
        old_digest: None,
        old_master_key_version: None,
        old_end_time: None,
        rate_requests: None,
        rate_window_seconds: None,
        credits_amount: None,
        credits_refill_amount: None,
        credits_refill_seconds: None,
        limits_version: 0,
    };
    if new.limits != Limits::default() {
        key.set_limits(new.limits);
    }
    store::insert(change.conn(), &key).await?;
    if new.limits.credits.is_some() {
        limits::begin(
            change,
            key.key_ref(),
            key.tenant_uid,
            (key.limits_version, key.limits().credits),
        )
        .await?;
    }
    let text = secret::mint(master, new.environment.as_deref(), key_ref, &secret);
    let tenant = owner.tenant().map(|tenant| (tenant.uid, tenant.tenant_id.clone()));
    let told = message(key, tenant.as_ref().map_or("", |(_, id)| id), master, change.now);
    tell(change, "api_key.created", tenant, None, &told).await?;
    Ok((told, text))
}

/// What a key grants, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grants<'a> {
    /// Whose key it is.
    pub(super) scope: KeyScope,
    /// What it may do.
    pub(super) roles: &'a [&'static Role],
    /// The only environment that it is good in.
    pub(super) environment: Option<&'a str>,
    /// Its end.
    pub(super) expire_time: Option<DateTime<Utc>>,
}

/// Checks that what a key grants is nothing that the key of the call does not have itself, within that
/// one's scope, environment and time. `permission` is the one that the call needs anyway.
///
/// Whoever gets the secret of a key, or makes it good, is given what it grants: this holds where a key
/// is created, changed and given a new secret.
pub(super) fn check_grants(call: &Call, permission: &str, grants: &Grants<'_>) -> Result<()> {
    let Grants { scope, roles, environment, expire_time } = *grants;
    let forbidden =
        |message: String| Err(Error::Forbidden { permission: permission.to_owned(), message });
    let wider = match call.caller.scope {
        KeyScope::System => false,
        KeyScope::Account => scope == KeyScope::System,
        KeyScope::Tenant => scope != KeyScope::Tenant,
    };
    if wider {
        return forbidden(format!(
            "a key with the scope {} has no say in one with the wider scope {}",
            call.caller.scope.as_str(),
            scope.as_str()
        ));
    }
    if let Some(bound) = &call.caller.environment
        && environment != Some(bound)
    {
        return forbidden(format!(
            "the calling key is bound to the environment \"{bound}\": api_key.environment has to be \
             that one too"
        ));
    }
    if let Some(end) = call.caller.expire_time
        && expire_time.is_none_or(|asked| asked > end)
    {
        return forbidden(format!(
            "the calling key ends at {end}: set api_key.expire_time to that time or before"
        ));
    }
    let own = permissions_of(&call.caller.roles);
    // A key of a tenant that sees its own tenant only must not give away what sees below it.
    let caller_reaches = call.caller.scope != KeyScope::Tenant
        || call.caller.roles.iter().any(|role| role.reaches_below);
    for role in roles {
        if !role.scopes.contains(&scope) {
            let scopes = role.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>();
            let text = format!(
                "has {:?}, which a key with the scope {} cannot hold; it is for {}: name an account or a \
                 tenant whose key it is to be, in the metadata or in api_key",
                role.id,
                scope.as_str(),
                scopes.join(", ")
            );
            return Err(Error::invalid("api_key.roles", text));
        }
        if let Some(missing) = role.permissions().find(|permission| !own.contains(permission)) {
            return Err(Error::Forbidden {
                permission: missing.to_owned(),
                message: format!(
                    "the role {} grants {missing}, which the calling key does not have itself",
                    role.id
                ),
            });
        }
        if role.reaches_below && !caller_reaches {
            return forbidden(format!(
                "the role {} reaches the tenants below, which the calling key does not",
                role.id
            ));
        }
    }
    Ok(())
}

/// Records what happened to a key.
pub(super) async fn tell(
    change: &mut Change<'_>,
    kind: &'static str,
    tenant: Option<(Uuid, String)>,
    before: Option<&pb::ApiKey>,
    after: &pb::ApiKey,
) -> Result<()> {
    let account = Some(&*after.account_id).filter(|id| !id.is_empty());
    change
        .record(Event {
            kind,
            account_id: account,
            tenant: tenant.as_ref().map(|(uid, id)| (*uid, &**id)),
            resource_type: "api_key",
            resource_id: &after.api_key_id,
            before: before.map(json_of),
            after: Some(json_of(after)),
        })
        .await
}
