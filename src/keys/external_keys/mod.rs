//! The keys that clients of an installation send (1-25, 1-29 to 1-37).
//!
//! Each is good in one environment, and carries rules of from where and how often it may be used. What
//! stands beside its row is joined for messages only: whose it is, what it is of, when it was used last and
//! what is left of its credits.

mod issue;
mod list;
mod model;
mod patch;

mod store;
mod wire;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

pub use self::{
    issue::{NewExternalKey, issue},
    model::{Beside, ExternalKey, message},
    store::remove,
};
use self::{
    list::Query,
    patch::Patch,
    store::{beside, find, hold, store},
};
use super::{
    api_keys::read_overlap,
    app_keys,
    installations::tell,
    limits,
    master::MasterKey,
    secret::{self, KeySecret, KeyText},
};
use crate::{
    directory::environments,
    error::{Error, Kind, Result},
    nodes, pb,
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag},
        permit::json_of,
    },
    server::Shared,
    tenants::{self, life::check_protection_of_keys},
    wire::{Fields, text},
};

const LABEL_MAX: usize = 80;
const REASON_MAX: usize = 500;

fn read_id(field: &str, value: &str) -> Result<Uuid> {
    let what =
        if value.is_empty() { "is required: ListExternalKeys shows it" } else { "is not a UUID" };
    value.parse().map_err(|_| Error::invalid(field, what))
}

/// Records what happened to a key.
async fn tell_of(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    kind: &'static str,
    before: Option<&pb::ExternalKey>,
    after: &pb::ExternalKey,
) -> Result<()> {
    let told = (before.map(json_of), Some(json_of(after)));
    tell(change, tenant, kind, &after.external_key_id, told).await
}

/// Issues an external key.
///
/// # Errors
///
/// What the method says.
pub async fn create(
    shared: &Shared,
    call: &Call,
    request: &pb::CreateExternalKeyRequest,
) -> Result<pb::CreateExternalKeyResponse> {
    let tenant = call.own_tenant()?;
    let (app_key_id, new) = read_new(request, shared.clock.now())?;

    let mut answer = shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            tenants::store::hold(change.conn(), tenant).await?;
            check_protection_of_keys(change, tenant.uid).await?;
            let (app_key, installation) = app_keys::hold(change, tenant, &app_key_id).await?;
            let app_key_id = app_key.app_key_id;
            let (key, text) =
                issue(change, &shared.master, tenant, &installation, app_key_id, &new).await?;
            let secret = text.reveal().to_owned();
            Ok(pb::CreateExternalKeyResponse { external_key: Some(key), secret })
        })
        .await?;
    if request.validate_only {
        // Nobody has the key, or its secret was told to whoever asked in earnest.
        answer.secret.clear();
    }

    Ok(answer)
}

fn read_new(
    request: &pb::CreateExternalKeyRequest,
    now: DateTime<Utc>,
) -> Result<(String, NewExternalKey)> {
    let pb = request.external_key.as_ref().ok_or(Error::invalid("external_key", "is required"))?;
    let mut fields = Fields::default();
    let app_key_id = fields.take("external_key.app_key_id", app_keys::read_id(&pb.app_key_id));
    let new = NewExternalKey::read(pb, "external_key", now, &mut fields);
    fields.finish()?;
    app_key_id.zip(new).ok_or_else(|| Error::internal("a field was refused without a violation"))
}

/// Gets an external key.
///
/// # Errors
///
/// What the method says.
pub async fn get(
    shared: &Shared,
    call: &Call,
    request: &pb::GetExternalKeyRequest,
) -> Result<pb::GetExternalKeyResponse> {
    let id = read_id("external_key_id", &request.external_key_id)?;

    let (key, beside) =
        shared.read(call, async |conn| find(conn, call, &shared.master, id).await).await?;

    let external_key = Some(message(key, beside, &shared.master, shared.clock.now())?);
    Ok(pb::GetExternalKeyResponse { external_key })
}

/// Lists external keys, page by page.
///
/// # Errors
///
/// What the method says.
pub async fn list(
    shared: &Shared,
    call: &Call,
    request: &pb::ListExternalKeysRequest,
) -> Result<pb::ListExternalKeysResponse> {
    let now = shared.clock.now();
    let query = Query::read(call, request, now)?;

    let (found, mut besides, next_page_token) = shared
        .read(call, async |conn| {
            let (found, token) = query.run(conn, call, &shared.master).await?;
            let besides = beside(conn, &found).await?;
            Ok((found, besides, token))
        })
        .await?;

    let external_keys = found
        .into_iter()
        // One that was deleted a moment ago is left out.
        .filter_map(|key| besides.remove(&key.key_ref()).map(|beside| (key, beside)))
        .map(|(key, beside)| message(key, beside, &shared.master, now))
        .collect::<Result<_>>()?;
    Ok(pb::ListExternalKeysResponse { external_keys, next_page_token })
}

/// Changes an external key.
///
/// # Errors
///
/// What the method says.
pub async fn update(
    shared: &Shared,
    call: &Call,
    request: &pb::UpdateExternalKeyRequest,
) -> Result<pb::UpdateExternalKeyResponse> {
    let tenant = call.own_tenant()?;
    let patch = Patch::read(request, shared.clock.now())?;

    shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let external_key = Some(update_one(change, tenant, &shared.master, &patch).await?);
            let revision = change.revision().await?;
            Ok(pb::UpdateExternalKeyResponse { external_key, revision })
        })
        .await
}

async fn update_one(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    master: &MasterKey,
    patch: &Patch,
) -> Result<pb::ExternalKey> {
    let (public_id, now) = (patch.public_id, change.now);
    tenants::store::hold(change.conn(), tenant).await?;
    check_protection_of_keys(change, tenant.uid).await?;
    let (key, mut beside) = hold(change, tenant, master, public_id).await?;
    check_etag(&patch.etag, key.version, Kind::ExternalKey, &public_id.to_string())?;
    key.check_not_revoked(&public_id)?;
    let before = message(key.clone(), beside.clone(), master, now)?;
    let mut after = key.clone();
    patch.apply(&mut after)?;
    if after == key {
        return Ok(before);
    }
    if after.expire_time != key.expire_time || (after.enabled && !key.enabled) {
        change.call.check_end(after.expire_time)?;
    }
    if after.environment != key.environment {
        change.call.check_environment(Some(&after.environment))?;
        environments::find(change.conn(), &after.environment).await?;
    }
    after.update_time = now;
    after.version += 1;
    store(change.conn(), &after).await?;
    if patch.sets_limits() {
        let credits = after.limits().credits;
        let limits = (after.limits_version, credits);
        limits::begin(change, key.key_ref(), Some(tenant.uid), limits).await?;
        beside.remaining = credits.map(|credits| credits.amount);
    }
    let after = message(after, beside, master, now)?;
    tell_of(change, tenant, "external_key.updated", Some(&before), &after).await?;
    Ok(after)
}

/// Gives an external key a new secret.
///
/// # Errors
///
/// What the method says.
pub async fn rotate(
    shared: &Shared,
    call: &Call,
    request: &pb::RotateExternalKeyRequest,
) -> Result<pb::RotateExternalKeyResponse> {
    let tenant = call.own_tenant()?;
    let id = read_id("external_key_id", &request.external_key_id)?;
    let overlap = read_overlap(request.overlap.as_ref());
    let overlap = overlap.map_err(|why| Error::invalid("overlap", why))?;

    let mut answer = shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let master = &shared.master;
            let (key, text) =
                rotate_one(change, tenant, master, id, (overlap, &request.etag)).await?;
            let (secret, revision) = (text.reveal().to_owned(), change.revision().await?);
            Ok(pb::RotateExternalKeyResponse { key: Some(key), secret, revision })
        })
        .await?;
    if request.validate_only {
        // Nobody has the secret, or it was told to whoever asked in earnest.
        answer.secret.clear();
    }

    Ok(answer)
}

async fn rotate_one(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    master: &MasterKey,
    public_id: Uuid,
    (overlap, sent_etag): (TimeDelta, &str),
) -> Result<(pb::ExternalKey, KeyText)> {
    let now = change.now;
    tenants::store::hold(change.conn(), tenant).await?;
    check_protection_of_keys(change, tenant.uid).await?;
    let (mut key, beside) = hold(change, tenant, master, public_id).await?;
    check_etag(sent_etag, key.version, Kind::ExternalKey, &public_id.to_string())?;
    key.check_not_revoked(&public_id)?;
    change.call.check_end(key.expire_time)?;
    let before = message(key.clone(), beside.clone(), master, now)?;
    let secret = KeySecret::generate();
    let (digest, version) = master.digest_now(&secret.sha256());
    let digest = digest.as_bytes().to_vec();
    let old = (std::mem::replace(&mut key.digest, digest), key.master_key_version, now + overlap);
    let old = Some(old).filter(|(.., end)| *end > now);
    key.master_key_version = version;
    key.old_end_time = old.as_ref().map(|(.., end)| *end);
    key.old_master_key_version = old.as_ref().map(|(_, version, _)| *version);
    key.old_digest = old.map(|(digest, ..)| digest);
    key.update_time = now;
    key.version += 1;
    store(change.conn(), &key).await?;
    let text = secret::mint(master, Some(&key.environment), key.key_ref(), &secret);
    let after = message(key, beside, master, now)?;
    tell_of(change, tenant, "external_key.rotated", Some(&before), &after).await?;
    Ok((after, text))
}

/// Revokes an external key, and waits until that is in effect everywhere where the caller wants it so.
///
/// # Errors
///
/// What the method says.
pub async fn revoke(
    shared: &Shared,
    call: &Call,
    request: &pb::RevokeExternalKeyRequest,
) -> Result<pb::RevokeExternalKeyResponse> {
    let tenant = call.own_tenant()?;
    let id = read_id("external_key_id", &request.external_key_id)?;
    let reason =
        text(&request.reason, 1, REASON_MAX).map_err(|why| Error::invalid("reason", why))?;

    let mut answer = shared
        .mutator
        .mutate(call, request, async |change: &mut Change<'_>| {
            let master = &shared.master;
            let key = revoke_one(change, tenant, master, id, (&reason, &request.etag)).await?;
            let revision = change.revision().await?;
            Ok(pb::RevokeExternalKeyResponse { key: Some(key), revision, ..Default::default() })
        })
        .await?;
    if request.wait && !request.validate_only {
        let told = nodes::confirm(shared, &answer.revision, call.deadline).await?;
        (answer.confirmed, answer.silent_node_ids) = (told.confirmed, told.silent_node_ids);
    }

    Ok(answer)
}

async fn revoke_one(
    change: &mut Change<'_>,
    tenant: &TenantOfCall,
    master: &MasterKey,
    public_id: Uuid,
    (reason, sent_etag): (&str, &str),
) -> Result<pb::ExternalKey> {
    let now = change.now;
    check_protection_of_keys(change, tenant.uid).await?;
    let (mut key, beside) = hold(change, tenant, master, public_id).await?;
    check_etag(sent_etag, key.version, Kind::ExternalKey, &public_id.to_string())?;
    let before = message(key.clone(), beside.clone(), master, now)?;
    if key.revoke_time.is_some() {
        return Ok(before);
    }
    key.revoke_time = Some(now);
    key.revoked_by = Some(change.call.actor());
    key.revoke_reason = Some(reason.to_owned());
    key.update_time = now;
    key.version += 1;
    store(change.conn(), &key).await?;
    let after = message(key, beside, master, now)?;
    tell_of(change, tenant, "external_key.revoked", Some(&before), &after).await?;
    Ok(after)
}
