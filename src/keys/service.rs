//! The RPCs on keys.

use std::{collections::HashMap, sync::Arc};

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    list,
    model::{
        ApiKey, KeyScope, ROUTE_OF_SYSTEM, ResolvedKey, is_secret_of, new_ref, roles_named,
        route_of_account, route_of_tenant,
    },
    roles::permissions_of,
    secret::{self, KeySecret, KeyText},
    store::{self, Resolved, ResolvedTenant},
    verdict::{self, Check, Question},
    wire::{NewApiKey, message},
};
use crate::{
    allowlist::model::address,
    db::{Role as DatabaseRole, Scope},
    directory,
    error::{Error, Kind, Result},
    events::outbox::Event,
    pb::{self, ErrorReason, VerifyCode, key_service_server::KeyService},
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag},
        permit::json_of,
    },
    schema::tenants as tenants_table,
    server::Shared,
    tenants,
    wire::{text, timestamp},
};

/// Serves `KeyService`.
pub struct Keys(pub Arc<Shared>);

#[tonic::async_trait]
impl KeyService for Keys {
    async fn create_api_key(
        &self,
        request: Request<pb::CreateApiKeyRequest>,
    ) -> Result<Response<pb::CreateApiKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let new = NewApiKey::read(&request, self.0.clock.now())?;

        let mut answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let (api_key, text) = self.create(change, &new).await?;
                let secret = text.reveal().to_owned();
                Ok(pb::CreateApiKeyResponse { api_key: Some(api_key), secret })
            })
            .await?;
        if request.validate_only {
            // Nobody has the key, or its secret was told to whoever asked in earnest.
            answer.secret.clear();
        }

        Ok(Response::new(answer))
    }

    async fn list_api_keys(
        &self,
        request: Request<pb::ListApiKeysRequest>,
    ) -> Result<Response<pb::ListApiKeysResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let query = list::KeyQuery::read(&call, &request, self.0.clock.now())?;

        let (api_keys, next_page_token) = self
            .0
            .read(&call, async |conn| {
                let (keys, token) = query.run(conn, &call, &self.0.master).await?;
                Ok((self.messages(conn, keys).await?, token))
            })
            .await?;

        Ok(Response::new(pb::ListApiKeysResponse { api_keys, next_page_token }))
    }

    async fn revoke_api_key(
        &self,
        request: Request<pb::RevokeApiKeyRequest>,
    ) -> Result<Response<pb::RevokeApiKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = read_id(&request.api_key_id)?;
        let reason = text(&request.reason, 1, 500).map_err(|why| Error::invalid("reason", why))?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let api_key = self.revoke(change, id, &reason, &request.etag).await?;
                Ok(pb::RevokeApiKeyResponse { key: Some(api_key) })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn verify_key(
        &self,
        request: Request<pb::VerifyKeyRequest>,
    ) -> Result<Response<pb::VerifyKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let environment = crate::wire::id(&request.environment)
            .map_err(|why| Error::invalid("environment", why))?;
        let client_ip = match &*request.client_ip {
            "" => None,
            ip => Some(address(ip).map_err(|why| Error::invalid("client_ip", why))?),
        };
        let question = Question {
            environment: &environment,
            client_ip,
            required_permissions: &request.required_permissions,
            now: self.0.clock.now(),
        };

        let found = self.resolve(&call, &request.key).await?;

        Ok(Response::new(match found {
            Ok(resolved) => self.verdict(resolved, &question, request.explain),
            Err(why) => not_found(why, request.explain),
        }))
    }

    async fn who_am_i(
        &self,
        request: Request<pb::WhoAmIRequest>,
    ) -> Result<Response<pb::WhoAmIResponse>, Status> {
        let (call, _) = Call::of(request)?;

        // Within the scope of the key itself, however far or near the call reaches.
        let own = Call { scope: call.caller.own_scope(), ..call.clone() };
        let own = self
            .0
            .read(&own, async |conn| store::find_own(conn, &call, &self.0.master).await)
            .await?;

        let tenant_id = call.caller.tenant.as_ref().map_or("", |tenant| &tenant.tenant_id);
        let key =
            own.ok_or_else(|| Error::not_found(Kind::ApiKey, call.caller.key_id.to_string()))?;
        Ok(Response::new(pb::WhoAmIResponse {
            api_key: Some(message(key, tenant_id, &self.0.master, self.0.clock.now())),
            account_id: call.account.clone().unwrap_or_default(),
            tenant_id: call.tenant.map(|tenant| tenant.tenant_id).unwrap_or_default(),
        }))
    }

    async fn list_roles(
        &self,
        request: Request<pb::ListRolesRequest>,
    ) -> Result<Response<pb::ListRolesResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let (roles, next_page_token) = list::roles(&call, &request)?;

        Ok(Response::new(pb::ListRolesResponse { roles, next_page_token }))
    }
}

impl Keys {
    async fn create(
        &self,
        change: &mut Change<'_>,
        new: &NewApiKey,
    ) -> Result<(pb::ApiKey, KeyText)> {
        let owner = self.owner(change, new).await?;
        check_grants(change.call, new, &owner)?;
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

        let master = &self.0.master;
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

    /// Whose key it is to be: the narrowest that the call names, unless the request says (4-15).
    async fn owner(&self, change: &mut Change<'_>, new: &NewApiKey) -> Result<Owner> {
        let call = change.call;
        call.check_account("api_key.account_id", new.account_id.as_deref().unwrap_or_default())?;
        let tenant = match (&new.tenant_id, &call.tenant) {
            (Some(named), Some(own)) if *named == own.tenant_id => Some(own.clone()),
            (Some(_), Some(own)) if own.named => {
                let what = "api_key.tenant_id names another tenant than x-tenant-id: send only one";
                return Err(Error::Mismatch(what.to_owned()));
            }
            (Some(named), _) => {
                Some(tenants::store::find_ref(change.conn(), &call.scope, named).await?)
            }
            (None, own) => own.clone(),
        };
        let account = new.account_id.clone().or_else(|| call.account.clone());
        let narrowest = match (&tenant, &account) {
            (Some(_), _) => KeyScope::Tenant,
            (None, Some(_)) => KeyScope::Account,
            (None, None) => KeyScope::System,
        };
        match (new.scope.unwrap_or(narrowest), tenant, account) {
            (KeyScope::Tenant, Some(tenant), account) => {
                if account.is_some_and(|account| account != tenant.account_id) {
                    return Err(Error::not_found(Kind::Tenant, tenant.tenant_id));
                }
                Ok(Owner::Tenant(tenant))
            }
            (KeyScope::Tenant, None, _) => Err(Error::invalid(
                "api_key.tenant_id",
                "is required for a key of a tenant: name it here or in x-tenant-id",
            )),
            (KeyScope::Account, _, Some(account)) => {
                if call.caller.scope == KeyScope::System {
                    directory::accounts::require(change.conn(), &account).await?;
                }
                Ok(Owner::Account(account))
            }
            (KeyScope::Account, _, None) => Err(Error::invalid(
                "api_key.account_id",
                "is required for a key of an account: name it here or in x-account-id",
            )),
            (KeyScope::System, _, Some(_)) if call.caller.scope == KeyScope::System => {
                Err(Error::Mismatch(
                    "api_key.scope is SYSTEM, and the metadata or the request names an account or \
                     tenant: send only one of them"
                        .to_owned(),
                ))
            }
            (KeyScope::System, ..) => Ok(Owner::System),
        }
    }

    async fn revoke(
        &self,
        change: &mut Change<'_>,
        id: Uuid,
        reason: &str,
        etag: &str,
    ) -> Result<pb::ApiKey> {
        let (call, master, now) = (change.call, &self.0.master, change.now);
        // Before the key itself: admins are always held in one order.
        let admins = if call.scope == Scope::System {
            store::hold_system_admins(change.conn(), now).await?
        } else {
            Vec::new()
        };
        let mut key = store::find_for_update(change.conn(), call, master, id).await?;
        check_etag(etag, key.version, Kind::ApiKey, &id.to_string())?;
        let tenant_ids = self.tenant_ids(change.conn(), std::slice::from_ref(&key)).await?;
        let tenant = key.tenant_uid.and_then(|uid| Some((uid, tenant_ids.get(&uid)?.clone())));
        let tenant_id = tenant.as_ref().map_or("", |(_, id)| id).to_owned();
        let before = message(key.clone(), &tenant_id, master, now);
        if key.revoke_time.is_some() {
            return Ok(before);
        }
        if let Some(uid) = key.tenant_uid {
            tenants::life::check_protection_of_keys(change, uid).await?;
        }
        if admins == [key.key_ref()] {
            return Err(Error::WrongState {
                reason: ErrorReason::LastAdminKey,
                kind: Kind::ApiKey,
                id: id.to_string(),
                message: "it is the last key with the role system-admin: create another first"
                    .to_owned(),
            });
        }

        key.revoke_time = Some(now);
        key.revoked_by = Some(call.actor());
        key.revoke_reason = Some(reason.to_owned());
        key.version += 1;
        store::update(change.conn(), &key).await?;
        let after = message(key, &tenant_id, master, now);
        tell(change, "api_key.revoked", tenant, Some(&before), &after).await?;
        Ok(after)
    }

    /// Finds the key that a text is of, if the caller's scope covers it; else why not.
    async fn resolve(&self, call: &Call, text: &str) -> Result<Result<Resolved, String>> {
        let master = &self.0.master;
        let parsed = match secret::parse(master, text) {
            Ok(parsed) => parsed,
            Err(malformed) => return Ok(Err(malformed.to_string())),
        };
        let mut transaction =
            self.0.database.begin_as(DatabaseRole::Verifier, call.deadline).await?;
        let found = store::resolve(transaction.conn(), parsed.key_ref).await?;
        transaction.commit().await?;

        let unknown = || "no such key within the scope of the caller".to_owned();
        Ok(found
            .filter(|found| is_secret_of(master, &found.key, &parsed.secret))
            .filter(|found| covers(&call.scope, &found.key, found.tenant.as_ref()))
            .ok_or_else(unknown))
    }

    fn verdict(
        &self,
        resolved: Resolved,
        question: &Question<'_>,
        explain: bool,
    ) -> pb::VerifyKeyResponse {
        let Resolved { key, tenant, allowlist } = resolved;
        let standing = tenant.as_ref().map(|tenant| &tenant.standing);
        let checks = verdict::checks(&key, standing, &allowlist, question);
        let code = verdict::code(&checks);
        let lock = tenant.as_ref().and_then(|tenant| tenant.standing.lock(question.now));
        let id = secret::KeyRef { route: key.route, number: key.number };
        let roles = roles_named(&key.roles);
        let (tenant_id, uid) =
            tenant.map(|tenant| (tenant.tenant_id, tenant.uid.to_string())).unwrap_or_default();
        pb::VerifyKeyResponse {
            valid: code == VerifyCode::Valid,
            code: code.into(),
            account_id: key.account_id.unwrap_or_default(),
            tenant_id,
            tenant_uid: uid,
            environment: key.environment.unwrap_or_default(),
            credential_kind: pb::CredentialKind::ApiKey.into(),
            credential_id: id.public_id(&self.0.master).to_string(),
            roles: roles.iter().map(|role| role.id.to_owned()).collect(),
            permissions: permissions_of(&roles).into_iter().map(str::to_owned).collect(),
            read_only: code == VerifyCode::Valid && lock.is_some(),
            expire_time: key.expire_time.map(timestamp),
            checks: if explain { checks.into_iter().map(Into::into).collect() } else { vec![] },
        }
    }

    async fn messages(
        &self,
        conn: &mut AsyncPgConnection,
        keys: Vec<ApiKey>,
    ) -> Result<Vec<pb::ApiKey>> {
        let ids = self.tenant_ids(conn, &keys).await?;
        let now = self.0.clock.now();
        let told = |key: ApiKey| {
            let tenant_id = key.tenant_uid.and_then(|uid| ids.get(&uid)).map_or("", |id| id);
            message(key, tenant_id, &self.0.master, now)
        };
        Ok(keys.into_iter().map(told).collect())
    }

    /// The ids of the tenants of keys.
    async fn tenant_ids(
        &self,
        conn: &mut AsyncPgConnection,
        keys: &[ApiKey],
    ) -> Result<HashMap<Uuid, String>> {
        let uids = keys.iter().filter_map(|key| key.tenant_uid).collect::<Vec<_>>();
        if uids.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<(Uuid, String)> = tenants_table::table
            .filter(tenants_table::uid.eq_any(uids))
            .select((tenants_table::uid, tenants_table::tenant_id))
            .load(conn)
            .await?;
        Ok(rows.into_iter().collect())
    }
}

/// Whose key a new key is to be.
enum Owner {
    System,
    Account(String),
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

/// Whether a verifier's scope covers a key: one that it does not cover does not exist for it.
fn covers(scope: &Scope, key: &ResolvedKey, tenant: Option<&ResolvedTenant>) -> bool {
    match scope {
        Scope::System => true,
        Scope::Account(account) => key.account_id.as_ref() == Some(account),
        Scope::Tenant(uid) => key.tenant_uid == Some(*uid),
        Scope::Provider(uid) => tenant
            .is_some_and(|tenant| tenant.uid == *uid || tenant.ancestors.contains(&Some(*uid))),
        Scope::Tenants(_) | Scope::Reseller { .. } | Scope::Publisher(_) => false,
    }
}

fn not_found(why: String, explain: bool) -> pb::VerifyKeyResponse {
    let check = Check { name: "found", code: VerifyCode::NotFound, passed: false, message: why };
    pb::VerifyKeyResponse {
        code: VerifyCode::NotFound.into(),
        checks: if explain { vec![check.into()] } else { vec![] },
        ..Default::default()
    }
}

fn read_id(id: &str) -> Result<Uuid> {
    let what = if id.is_empty() { "is required: ListApiKeys shows it" } else { "is not a UUID" };
    id.parse().map_err(|_| Error::invalid("api_key_id", what))
}

async fn tell(
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
