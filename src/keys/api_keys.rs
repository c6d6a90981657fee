//! API keys: the methods on them, and what they do (4-15).

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{
    issue::{Owner, issue, tell},
    list,
    model::{ApiKey, KeyScope},
    store,
    wire::{NewApiKey, message},
};
use crate::{
    db::Scope,
    directory,
    error::{Error, Kind, Result},
    nodes, pb,
    pb::ErrorReason,
    rpc::{
        Call,
        mutate::{Change, check_etag},
    },
    schema::tenants as tenants_table,
    server::Shared,
    tenants,
    wire::text,
};

/// Issues a key.
///
/// # Errors
///
/// What the method says.
pub async fn create(
    shared: &Shared,
    call: &Call,
    request: &pb::CreateApiKeyRequest,
) -> Result<pb::CreateApiKeyResponse> {
    let new = NewApiKey::read(request, shared.clock.now())?;

    let mut answer = shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let owner = owner(change, &new).await?;
            let (api_key, text) = issue(change, &shared.master, &owner, &new).await?;
            let secret = text.reveal().to_owned();
            Ok(pb::CreateApiKeyResponse { api_key: Some(api_key), secret })
        })
        .await?;
    if request.validate_only {
        // Nobody has the key, or its secret was told to whoever asked in earnest.
        answer.secret.clear();
    }

    Ok(answer)
}

/// Lists keys, page by page.
///
/// # Errors
///
/// What the method says.
pub async fn list(
    shared: &Shared,
    call: &Call,
    request: &pb::ListApiKeysRequest,
) -> Result<pb::ListApiKeysResponse> {
    let query = list::KeyQuery::read(call, request, shared.clock.now())?;

    let (api_keys, next_page_token) = shared
        .read(call, async |conn| {
            let (keys, token) = query.run(conn, call, &shared.master).await?;
            Ok((messages(shared, conn, keys).await?, token))
        })
        .await?;

    Ok(pb::ListApiKeysResponse { api_keys, next_page_token })
}

/// Gets a key.
///
/// # Errors
///
/// What the method says.
pub async fn get(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::GetApiKeyRequest,
) -> Result<pb::GetApiKeyResponse> {
    Err(Error::MethodUnknown)
}

/// Changes a key.
///
/// # Errors
///
/// What the method says.
pub async fn update(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::UpdateApiKeyRequest,
) -> Result<pb::UpdateApiKeyResponse> {
    Err(Error::MethodUnknown)
}

/// Gives a key a new secret.
///
/// # Errors
///
/// What the method says.
pub async fn rotate(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::RotateApiKeyRequest,
) -> Result<pb::RotateApiKeyResponse> {
    Err(Error::MethodUnknown)
}

/// Revokes a key, and waits until that is in effect everywhere where the caller wants it so.
///
/// # Errors
///
/// What the method says.
pub async fn revoke(
    shared: &Shared,
    call: &Call,
    request: &pb::RevokeApiKeyRequest,
) -> Result<pb::RevokeApiKeyResponse> {
    let id = read_id(&request.api_key_id)?;
    let reason = text(&request.reason, 1, 500).map_err(|why| Error::invalid("reason", why))?;

    let mut answer = shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let key = revoke_one(shared, change, id, &reason, &request.etag).await?;
            let revision = change.revision().await?;
            Ok(pb::RevokeApiKeyResponse { key: Some(key), revision, ..Default::default() })
        })
        .await?;
    if request.wait && !request.validate_only {
        let told = nodes::confirm(shared, &answer.revision, call.deadline).await?;
        (answer.confirmed, answer.silent_node_ids) = (told.confirmed, told.silent_node_ids);
    }

    Ok(answer)
}

/// Tells whose key a call carries.
///
/// # Errors
///
/// What the database reports.
pub async fn who_am_i(shared: &Shared, call: &Call) -> Result<pb::WhoAmIResponse> {
    // Within the scope of the key itself, however far or near the call reaches.
    let own = Call { scope: call.caller.own_scope(), ..call.clone() };
    let own =
        shared.read(&own, async |conn| store::find_own(conn, call, &shared.master).await).await?;
    let key = own.ok_or_else(|| Error::not_found(Kind::ApiKey, call.caller.key_id.to_string()))?;

    let tenant_id = call.caller.tenant.as_ref().map_or("", |tenant| &tenant.tenant_id);
    Ok(pb::WhoAmIResponse {
        api_key: Some(message(key, tenant_id, &shared.master, shared.clock.now())),
        account_id: call.account.clone().unwrap_or_default(),
        tenant_id: call.tenant.as_ref().map(|tenant| tenant.tenant_id.clone()).unwrap_or_default(),
    })
}

/// Whose key it is to be: the narrowest that the call names, unless the request says (4-15).
async fn owner(change: &mut Change<'_>, new: &NewApiKey) -> Result<Owner> {
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

async fn revoke_one(
    shared: &Shared,
    change: &mut Change<'_>,
    id: Uuid,
    reason: &str,
    etag: &str,
) -> Result<pb::ApiKey> {
    let (call, master, now) = (change.call, &shared.master, change.now);
    // Before the key itself: admins are always held in one order.
    let admins = if call.scope == Scope::System {
        store::hold_system_admins(change.conn(), now).await?
    } else {
        Vec::new()
    };
    let mut key = store::find_for_update(change.conn(), call, master, id).await?;
    check_etag(etag, key.version, Kind::ApiKey, &id.to_string())?;
    let tenant_ids = tenant_ids(change.conn(), std::slice::from_ref(&key)).await?;
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

async fn messages(
    shared: &Shared,
    conn: &mut AsyncPgConnection,
    keys: Vec<ApiKey>,
) -> Result<Vec<pb::ApiKey>> {
    let ids = tenant_ids(conn, &keys).await?;
    let now = shared.clock.now();
    let told = |key: ApiKey| {
        let tenant_id = key.tenant_uid.and_then(|uid| ids.get(&uid)).map_or("", |id| id);
        message(key, tenant_id, &shared.master, now)
    };
    Ok(keys.into_iter().map(told).collect())
}

/// The ids of the tenants of keys.
async fn tenant_ids(
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

fn read_id(id: &str) -> Result<Uuid> {
    let what = if id.is_empty() { "is required: ListApiKeys shows it" } else { "is not a UUID" };
    id.parse().map_err(|_| Error::invalid("api_key_id", what))
}
