//! The RPCs on keys.

use std::{collections::HashMap, sync::Arc};

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    issue::{Owner, issue, tell},
    list,
    model::{ApiKey, KeyScope, ResolvedKey, is_secret_of, roles_named},
    roles::permissions_of,
    secret,
    store::{self, Resolved, ResolvedTenant},
    verdict::{self, Check, Question},
    wire::{NewApiKey, message},
};
use crate::{
    allowlist::model::address,
    db::{Role as DatabaseRole, Scope},
    directory,
    error::{Error, Kind, Result},
    pb::{self, ErrorReason, VerifyCode, key_service_server::KeyService},
    rpc::{
        Call,
        mutate::{Change, check_etag},
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
                let owner = self.owner(change, &new).await?;
                let (api_key, text) = issue(change, &self.0.master, &owner, &new).await?;
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
