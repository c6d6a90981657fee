//! API keys: the methods on them, and what they do (4-15).

use std::collections::HashMap;

use chrono::TimeDelta;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use uuid::Uuid;

use super::{
    issue::{Grants, Owner, check_grants, issue, tell},
    limits, list,
    model::{ApiKey, KeyRecord, KeyScope},
    patch::Patch,
    roles::SYSTEM_ADMIN,
    secret::{self, KeySecret, KeyText},
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
    wire::{Fields, text},
};

/// How long the secret before a rotation stays good where nothing is said.
const OVERLAP_DEFAULT: TimeDelta = TimeDelta::hours(24);
const OVERLAP_MAX: TimeDelta = TimeDelta::days(30);

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
    shared: &Shared,
    call: &Call,
    request: &pb::GetApiKeyRequest,
) -> Result<pb::GetApiKeyResponse> {
    let id = read_id("api_key_id", &request.api_key_id)?;

    let keys = shared
        .read(call, async |conn| {
            let key = store::find(conn, call, &shared.master, id).await?;
            messages(shared, conn, vec![key]).await
        })
        .await?;

    Ok(pb::GetApiKeyResponse { api_key: keys.into_iter().next() })
}

/// Changes a key.
///
/// # Errors
///
/// What the method says.
pub async fn update(
    shared: &Shared,
    call: &Call,
    request: &pb::UpdateApiKeyRequest,
) -> Result<pb::UpdateApiKeyResponse> {
    let pb = request.api_key.as_ref().ok_or(Error::invalid("api_key", "is required"))?;
    let id = read_id("api_key.api_key_id", &pb.api_key_id)?;
    let patch = Patch::read(pb, request.update_mask.as_ref(), shared.clock.now())?;
    let etag = if request.etag.is_empty() { &pb.etag } else { &request.etag };

    shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let key = update_one(shared, change, id, &patch, etag).await?;
            let revision = change.revision().await?;
            Ok(pb::UpdateApiKeyResponse { api_key: Some(key), revision })
        })
        .await
}

/// Gives a key a new secret.
///
/// # Errors
///
/// What the method says.
pub async fn rotate(
    shared: &Shared,
    call: &Call,
    request: &pb::RotateApiKeyRequest,
) -> Result<pb::RotateApiKeyResponse> {
    let mut fields = Fields::default();
    let id = fields.take("api_key_id", id_of(&request.api_key_id));
    let overlap = fields.take("overlap", read_overlap(request.overlap.as_ref()));
    fields.finish()?;
    let (Some(id), Some(overlap)) = (id, overlap) else {
        return Err(Error::internal("a field was refused without a violation"));
    };

    let mut answer = shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let (key, text) = rotate_one(shared, change, id, overlap, &request.etag).await?;
            let revision = change.revision().await?;
            let secret = text.reveal().to_owned();
            Ok(pb::RotateApiKeyResponse { key: Some(key), secret, revision })
        })
        .await?;
    if request.validate_only {
        // It is not the key's, or was told to whoever asked in earnest.
        answer.secret.clear();
    }

    Ok(answer)
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
    let id = read_id("api_key_id", &request.api_key_id)?;
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
    let own = call.within(call.caller.own_scope());
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

/// A key that a change holds.
struct Held {
    record: KeyRecord,
    /// Its tenant, by UUID and by id.
    tenant: Option<(Uuid, String)>,
    /// As it was found.
    before: pb::ApiKey,
    /// Whether the system would be left without a key that administers it for ever.
    is_last_admin: bool,
}

/// Finds a key as the caller has read it, and keeps others from changing it until the transaction ends.
async fn hold(shared: &Shared, change: &mut Change<'_>, id: Uuid, etag: &str) -> Result<Held> {
    let (call, master, now) = (change.call, &shared.master, change.now);
    // Before the key itself: admins are always held in one order.
    let admins = if call.scope == Scope::System {
        store::hold_system_admins(change.conn(), now).await?
    } else {
        Vec::new()
    };
    let record = store::find_for_update(change.conn(), call, master, id).await?;
    check_etag(etag, record.key.version, Kind::ApiKey, &id.to_string())?;
    call.check_environment(record.key.environment.as_deref())?;
    let is_last_admin = admins == [record.key.key_ref()];
    let tenant_ids = tenant_ids(change.conn(), std::slice::from_ref(&record)).await?;
    let tenant = record.key.tenant_uid.and_then(|uid| Some((uid, tenant_ids.get(&uid)?.clone())));
    let tenant_id = tenant.as_ref().map_or("", |(_, id)| id);
    let before = message(record.clone(), tenant_id, master, now);
    Ok(Held { record, tenant, before, is_last_admin })
}

impl Held {
    /// Refuses to change a key that is revoked, or that is of a tenant that is deleted or protected.
    async fn check(&self, change: &mut Change<'_>) -> Result<()> {
        if self.record.key.revoke_time.is_some() {
            let message = "the key is revoked for good: create another".to_owned();
            return Err(self.wrong_state(ErrorReason::InvalidStateTransition, message));
        }
        if let Some((uid, tenant_id)) = &self.tenant
            && let Some(state) = tenants::store::hold_state(change.conn(), *uid).await?
        {
            tenants::store::refuse_deleted(tenant_id, state)?;
        }
        self.check_protection(change).await
    }

    async fn check_protection(&self, change: &mut Change<'_>) -> Result<()> {
        match self.record.key.tenant_uid {
            Some(uid) => tenants::life::check_protection_of_keys(change, uid).await,
            None => Ok(()),
        }
    }

    /// Refuses to end what the last key may do that administers the system.
    fn check_admins(&self) -> Result<()> {
        if !self.is_last_admin {
            return Ok(());
        }
        let message = "it is the last key with the role system-admin that is enabled, does not end and \
                       is bound to no environment: create another first";
        Err(self.wrong_state(ErrorReason::LastAdminKey, message.to_owned()))
    }

    fn wrong_state(&self, reason: ErrorReason, message: String) -> Error {
        Error::WrongState {
            reason,
            kind: Kind::ApiKey,
            id: self.before.api_key_id.clone(),
            message,
        }
    }

    /// Stores the key as it has changed, and tells of it.
    async fn keep(
        mut self,
        shared: &Shared,
        change: &mut Change<'_>,
        kind: &'static str,
    ) -> Result<pb::ApiKey> {
        self.record.key.version += 1;
        store::update(change.conn(), &self.record.key).await?;
        let tenant_id = self.tenant.as_ref().map_or("", |(_, id)| id);
        let after = message(self.record, tenant_id, &shared.master, change.now);
        tell(change, kind, self.tenant, Some(&self.before), &after).await?;
        Ok(after)
    }
}

/// What a key grants.
fn check_grants_of(call: &Call, key: &ApiKey) -> Result<()> {
    let grants = Grants {
        scope: key.scope,
        roles: &key.roles(),
        environment: key.environment.as_deref(),
        expire_time: key.expire_time,
    };
    check_grants(call, "KEYS:EDIT", &grants)
}

async fn update_one(
    shared: &Shared,
    change: &mut Change<'_>,
    id: Uuid,
    patch: &Patch,
    etag: &str,
) -> Result<pb::ApiKey> {
    let mut held = hold(shared, change, id, etag).await?;
    held.check(change).await?;
    let before = held.record.key.clone();
    patch.apply(&mut held.record.key, &held.before)?;
    let key = &held.record.key;
    if *key == before {
        return Ok(held.before);
    }

    // Also of one that is not good, where that changes: somebody else may enable it, unsuspecting.
    if key.is_good(change.now) || grants_of(key) != grants_of(&before) {
        check_grants_of(change.call, key)?;
    }
    let administers = key.roles.contains(&Some(SYSTEM_ADMIN.to_owned()));
    if !(administers && key.enabled && key.expire_time.is_none()) {
        held.check_admins()?;
    }
    if let (Some(reseller), Some(account)) = (&key.reseller_id, &key.account_id)
        && key.reseller_id != before.reseller_id
    {
        directory::resellers::require(change.conn(), account, reseller).await?;
    }
    if key.backend_ids != before.backend_ids {
        let ids = key.backend_ids.iter().flatten().cloned().collect::<Vec<_>>();
        directory::backends::hold_all(change.conn(), &ids).await?;
    }
    if patch.sets_limits() {
        limits::begin(
            change,
            key.key_ref(),
            key.tenant_uid,
            (key.limits_version, key.limits().credits),
        )
        .await?;
        held.record.remaining = None;
    }
    held.keep(shared, change, "api_key.updated").await
}

/// What of a key decides what it grants.
fn grants_of(key: &ApiKey) -> impl PartialEq {
    (&key.roles, &key.reseller_id, &key.backend_ids, key.expire_time)
}

async fn rotate_one(
    shared: &Shared,
    change: &mut Change<'_>,
    id: Uuid,
    overlap: TimeDelta,
    etag: &str,
) -> Result<(pb::ApiKey, KeyText)> {
    let master = &shared.master;
    let mut held = hold(shared, change, id, etag).await?;
    held.check(change).await?;
    let key = &mut held.record.key;
    check_grants_of(change.call, key)?;

    let secret = KeySecret::generate();
    let (digest, version) = master.digest_now(&secret.sha256());
    let old = std::mem::replace(&mut key.digest, digest.as_bytes().to_vec());
    let old_version = std::mem::replace(&mut key.master_key_version, version);
    let stays = !overlap.is_zero();
    key.old_digest = stays.then_some(old);
    key.old_master_key_version = stays.then_some(old_version);
    key.old_end_time = stays.then(|| change.now + overlap);
    let text = secret::mint(master, key.environment.as_deref(), key.key_ref(), &secret);
    Ok((held.keep(shared, change, "api_key.rotated").await?, text))
}

async fn revoke_one(
    shared: &Shared,
    change: &mut Change<'_>,
    id: Uuid,
    reason: &str,
    etag: &str,
) -> Result<pb::ApiKey> {
    let mut held = hold(shared, change, id, etag).await?;
    if held.record.key.revoke_time.is_some() {
        return Ok(held.before);
    }
    held.check_protection(change).await?;
    held.check_admins()?;

    let key = &mut held.record.key;
    key.revoke_time = Some(change.now);
    key.revoked_by = Some(change.call.actor());
    key.revoke_reason = Some(reason.to_owned());
    held.keep(shared, change, "api_key.revoked").await
}

async fn messages(
    shared: &Shared,
    conn: &mut AsyncPgConnection,
    keys: Vec<KeyRecord>,
) -> Result<Vec<pb::ApiKey>> {
    let ids = tenant_ids(conn, &keys).await?;
    let now = shared.clock.now();
    let told = |record: KeyRecord| {
        let tenant_id = record.key.tenant_uid.and_then(|uid| ids.get(&uid)).map_or("", |id| id);
        message(record, tenant_id, &shared.master, now)
    };
    Ok(keys.into_iter().map(told).collect())
}

/// The ids of the tenants of keys.
async fn tenant_ids(
    conn: &mut AsyncPgConnection,
    keys: &[KeyRecord],
) -> Result<HashMap<Uuid, String>> {
    let uids = keys.iter().filter_map(|record| record.key.tenant_uid).collect::<Vec<_>>();
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

fn read_id(field: &str, id: &str) -> Result<Uuid> {
    id_of(id).map_err(|why| Error::invalid(field, why))
}

fn id_of(id: &str) -> Result<Uuid, String> {
    let what = if id.is_empty() { "is required: ListApiKeys shows it" } else { "is not a UUID" };
    id.parse().map_err(|_| what.to_owned())
}

/// Reads how long the secret before a rotation stays good.
pub(crate) fn read_overlap(overlap: Option<&prost_types::Duration>) -> Result<TimeDelta, String> {
    let Some(overlap) = overlap else {
        return Ok(OVERLAP_DEFAULT);
    };
    let nanos = u32::try_from(overlap.nanos).ok();
    nanos
        .and_then(|nanos| TimeDelta::new(overlap.seconds, nanos))
        .filter(|overlap| (TimeDelta::zero()..=OVERLAP_MAX).contains(overlap))
        // No finer than times are kept.
        .and_then(|overlap| overlap.num_microseconds())
        .map(TimeDelta::microseconds)
        .ok_or_else(|| "is not between 0 and 30 days".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_is_up_to_thirty_days_and_a_day_where_nothing_is_said() {
        let read = |seconds, nanos| read_overlap(Some(&prost_types::Duration { seconds, nanos }));
        let month = OVERLAP_MAX.num_seconds();

        assert_eq!(read_overlap(None), Ok(TimeDelta::hours(24)));
        assert_eq!(read(0, 0), Ok(TimeDelta::zero()));
        assert_eq!(read(1, 1_500), Ok(TimeDelta::microseconds(1_000_001)));
        assert_eq!(read(month, 0), Ok(OVERLAP_MAX));
        for (seconds, nanos) in [(month, 1), (-1, 0), (0, -1), (i64::MAX, 0), (0, i32::MAX)] {
            assert!(read(seconds, nanos).is_err(), "{seconds} {nanos}");
        }
    }
}
