//! How a key comes to be.

use uuid::Uuid;

use super::{
    master::MasterKey,
    model::{ApiKey, KeyScope, ROUTE_OF_SYSTEM, new_ref, route_of_account, route_of_tenant},
    roles::permissions_of,
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
    check_grants(change.call, new, owner)?;
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
    let version = master.current_version();
    let digest = master
        .digest(version, &secret)
        .ok_or_else(|| Error::internal("the current version of the master key is missing"))?;
    let key_ref = new_ref(owner.route(), change.now);
    let id = key_ref.public_id(master).to_string();
    let key = ApiKey {
        route: key_ref.route,
        number: key_ref.number,
        scope: owner.scope(),
        account_id: owner.account().map(str::to_owned),
        tenant_uid: owner.tenant().map(|tenant| tenant.uid),
        description: new.description.clone(),
        name: new.name.clone().unwrap_or_else(|| format!("key-{}", &id[..8])),
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
        enabled: true,
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
    if !store::insert(change.conn(), &key).await? {
        return Err(Error::internal("two keys of one owner have met in one number"));
    }
    let text = secret::mint(master, new.environment.as_deref(), key_ref, &secret);
    let tenant = owner.tenant().map(|tenant| (tenant.uid, tenant.tenant_id.clone()));
    let told = message(key, tenant.as_ref().map_or("", |(_, id)| id), master, change.now);
    tell(change, "api_key.created", tenant, None, &told).await?;
    Ok((told, text))
}

/// Checks that a new key grants nothing that its creator does not have, within its creator's scope.
fn check_grants(call: &Call, new: &NewApiKey, owner: &Owner) -> Result<()> {
    let scope = owner.scope();
    let wider = match call.caller.scope {
        KeyScope::System => false,
        KeyScope::Account => scope == KeyScope::System,
        KeyScope::Tenant => scope != KeyScope::Tenant,
    };
    if wider {
        return Err(Error::Forbidden {
            permission: "KEYS:ADD".to_owned(),
            message: format!(
                "a key with the scope {} cannot create one with the wider scope {}",
                call.caller.scope.as_str(),
                scope.as_str()
            ),
        });
    }
    if let Some(bound) = &call.caller.environment
        && new.environment.as_ref() != Some(bound)
    {
        return Err(Error::Forbidden {
            permission: "KEYS:ADD".to_owned(),
            message: format!(
                "the creating key is bound to the environment \"{bound}\": set api_key.environment to it"
            ),
        });
    }
    if let Some(end) = call.caller.expire_time
        && new.expire_time.is_none_or(|asked| asked > end)
    {
        return Err(Error::Forbidden {
            permission: "KEYS:ADD".to_owned(),
            message: format!(
                "the creating key ends at {end}: set api_key.expire_time to that time or before"
            ),
        });
    }
    for role in &new.roles {
        if !role.scopes.contains(&scope) {
            let scopes = role.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>();
            let text = format!(
                "has {:?}, which a key with the scope {} cannot hold; it is for {}",
                role.id,
                scope.as_str(),
                scopes.join(", ")
            );
            return Err(Error::invalid("api_key.roles", text));
        }
        let own = permissions_of(&call.caller.roles);
        if let Some(missing) = role.permissions().find(|permission| !own.contains(permission)) {
            return Err(Error::Forbidden {
                permission: missing.to_owned(),
                message: format!(
                    "the role {} grants {missing}, which the creating key does not have itself",
                    role.id
                ),
            });
        }
        // A key of a tenant that sees its own tenant only must not create one that sees below it.
        let creator_reaches = call.caller.scope != KeyScope::Tenant
            || call.caller.roles.iter().any(|role| role.reaches_below);
        if role.reaches_below && !creator_reaches {
            return Err(Error::Forbidden {
                permission: "KEYS:ADD".to_owned(),
                message: format!(
                    "the role {} reaches the tenants below, which the creating key does not",
                    role.id
                ),
            });
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
