//! What happens to a tenant besides being created and changed: it is approved or rejected, locked and
//! unlocked, promoted, and moved in the tree.

use chrono::{DateTime, Utc};
use diesel_async::AsyncPgConnection;
use uuid::Uuid;

use super::{
    model::{
        ContractMode, DEPTH_MAX, LockColumns, LockMode, Tenant, TenantRecord, TenantState,
        TenantType,
    },
    placement,
    service::tell,
    store,
};
use crate::{
    authorizations::publishers,
    db::Scope,
    entitlements,
    error::{Error, Kind, Result, Violation},
    keys::model::KeyScope,
    pb::{self, ErrorReason},
    purge,
    rpc::{
        Call,
        mutate::{Change, check_etag},
    },
    wire::{Fields, text, time},
};

/// How long a reason may be, in characters.
const REASON_MAX: usize = 500;

/// Reads a reason, which is never optional.
pub(super) fn read_reason(reason: &str) -> Result<String> {
    text(reason, 1, REASON_MAX).map_err(|why| Error::invalid("reason", why))
}

/// A lock that a caller asks for.
pub(super) struct NewLock {
    mode: LockMode,
    reason: String,
    end: Option<DateTime<Utc>>,
}

impl NewLock {
    /// Reads a request at a time.
    pub(super) fn read(request: &pb::LockTenantRequest, now: DateTime<Utc>) -> Result<Self> {
        let mut fields = Fields::default();
        let mode = fields.take("mode", read_mode(request.mode()));
        let reason = fields.take("reason", text(&request.reason, 1, REASON_MAX));
        let end = request.unlock_time.as_ref().map(time).transpose();
        let end = fields.take(
            "unlock_time",
            end.and_then(|end| match end {
                Some(end) if end <= now => Err("does not lie ahead".to_owned()),
                end => Ok(end),
            }),
        );
        fields.finish()?;
        let (Some(mode), Some(reason), Some(end)) = (mode, reason, end) else {
            return Err(Error::internal("a field was refused without a violation"));
        };
        Ok(Self { mode, reason, end })
    }
}

fn read_mode(mode: pb::LockMode) -> Result<LockMode, String> {
    match mode {
        pb::LockMode::ReadOnly => Ok(LockMode::ReadOnly),
        pb::LockMode::Full => Ok(LockMode::Full),
        pb::LockMode::Unspecified => Err("is LOCK_MODE_READ_ONLY or LOCK_MODE_FULL".to_owned()),
    }
}

/// Finds a tenant that is to be changed by a key from above it, and holds it.
async fn hold_from_above(
    change: &mut Change<'_>,
    id: &str,
    etag: &str,
    permission: &str,
) -> Result<TenantRecord> {
    let call = change.call;
    let tenant = store::find_for_update(change.conn(), &call.scope, id).await?;
    check_above(call, tenant.uid, permission)?;
    check_etag(etag, tenant.version, Kind::Tenant, id)?;
    check_protection(change, &tenant).await?;
    let now = change.now;
    store::complete_one(change.conn(), now, tenant).await
}

/// Checks that the key does not belong to the tenant itself: no tenant raises itself.
pub(super) fn check_above(call: &Call, uid: Uuid, permission: &str) -> Result<()> {
    if call.caller.tenant.as_ref().is_none_or(|own| own.uid != uid) {
        return Ok(());
    }
    Err(Error::Forbidden {
        permission: permission.to_owned(),
        message: "a key cannot do this to its own tenant: use a key from above it".to_owned(),
    })
}

/// Checks that a protected tenant is changed by a protected caller only (1-46).
pub(super) async fn check_protection(change: &mut Change<'_>, tenant: &Tenant) -> Result<()> {
    let call = change.call;
    if !tenant.protected || is_protected(change.conn(), call).await? {
        return Ok(());
    }
    Err(Error::WrongState {
        reason: ErrorReason::RecordProtected,
        kind: Kind::Tenant,
        id: tenant.tenant_id.clone(),
        message: format!(
            "the tenant \"{}\" is protected: only a key of the system, or of a protected tenant \
             above it, may change it",
            tenant.tenant_id
        ),
    })
}

/// Checks that the keys of a protected tenant are made and revoked by its own keys and protected callers
/// only: whoever makes a key of it could change it with that (1-46).
///
/// # Errors
///
/// `RECORD_PROTECTED`.
pub async fn check_protection_of_keys(change: &mut Change<'_>, uid: Uuid) -> Result<()> {
    let call = change.call;
    if call.caller.tenant.as_ref().is_some_and(|own| own.uid == uid) {
        return Ok(());
    }
    match store::by_uid(change.conn(), &call.scope, uid).await? {
        Some(tenant) => check_protection(change, &tenant).await,
        None => Ok(()),
    }
}

/// Whether a caller may change what is protected: keys of the system are those who protect, and a
/// protected tenant's keys are under the same protection (1-46).
pub(super) async fn is_protected(conn: &mut AsyncPgConnection, call: &Call) -> Result<bool> {
    match (&call.caller.scope, &call.caller.tenant) {
        (KeyScope::System, _) => Ok(true),
        (_, Some(own)) => {
            let own = store::by_uid(conn, &call.scope, own.uid).await?;
            Ok(own.is_some_and(|own| own.protected))
        }
        (_, None) => Ok(false),
    }
}

/// Stores a tenant that has changed, and tells of it.
async fn keep(
    change: &mut Change<'_>,
    kind: &'static str,
    before: &TenantRecord,
    tenant: Tenant,
) -> Result<TenantRecord> {
    store::update(change.conn(), &tenant).await?;
    let after = before.with(tenant);
    tell(change, kind, Some(before), &after).await?;
    Ok(after)
}

/// Approves a tenant that waits.
pub(super) async fn approve(change: &mut Change<'_>, id: &str, etag: &str) -> Result<TenantRecord> {
    let before = hold_from_above(change, id, etag, "TENANTS:APPROVE").await?;
    let mut tenant = before.tenant.clone();
    tenant.approve(change.call.actor(), change.now)?;
    keep(change, "tenant.approved", &before, tenant).await
}

/// Rejects a tenant that waits.
pub(super) async fn reject(
    change: &mut Change<'_>,
    id: &str,
    etag: &str,
    reason: &str,
) -> Result<TenantRecord> {
    let before = hold_from_above(change, id, etag, "TENANTS:APPROVE").await?;
    let mut tenant = before.tenant.clone();
    tenant.reject(change.call.actor(), reason.to_owned(), change.now)?;
    keep(change, "tenant.rejected", &before, tenant).await
}

/// Locks a tenant, or changes its lock.
pub(super) async fn lock(
    change: &mut Change<'_>,
    id: &str,
    etag: &str,
    new: &NewLock,
) -> Result<TenantRecord> {
    let before = hold_from_above(change, id, etag, "TENANTS:LOCK").await?;
    let mut tenant = before.tenant.clone();
    if tenant.state == TenantState::Deleted {
        return Err(tenant.not_active("undelete it first"));
    }
    tenant.lock = LockColumns {
        mode: Some(new.mode),
        reason: Some(new.reason.clone()),
        time: Some(change.now),
        by: Some(change.call.actor()),
        end: new.end,
    };
    tenant.touch(change.now);
    let after = keep(change, "tenant.locked", &before, tenant).await?;
    publishers::tell_standing(change, after.tenant.uid).await?;
    Ok(after)
}

/// Ends a tenant's own lock.
pub(super) async fn unlock(change: &mut Change<'_>, id: &str, etag: &str) -> Result<TenantRecord> {
    let before = hold_from_above(change, id, etag, "TENANTS:LOCK").await?;
    let mut tenant = before.tenant.clone();
    tenant.unlock(change.now)?;
    let after = keep(change, "tenant.unlocked", &before, tenant).await?;
    publishers::tell_standing(change, after.tenant.uid).await?;
    Ok(after)
}

/// Makes a tenant a service provider, of what is below it already too.
pub(super) async fn promote(change: &mut Change<'_>, id: &str, etag: &str) -> Result<TenantRecord> {
    let before = hold_from_above(change, id, etag, "TENANTS:EDIT").await?;
    placement::check_edits(change.call)?;
    let mut tenant = before.tenant.clone();
    tenant.promote(change.now)?;
    for child in store::children(change.conn(), tenant.uid).await? {
        check_line(&tenant, &child, "tenant_id")?;
        tenant.check_contract_of(child.contract_mode)?;
    }
    entitlements::check_provider(change, &tenant).await?;
    keep(change, "tenant.promoted", &before, tenant).await
}

/// Moves a tenant, with all below it, below another or to the root.
///
/// Everything that the move rests on is held: the tenant, its new parent and all below the tenant.
/// Two moves that would make a circle of each other's ends want the same rows; one of them is tried
/// again when the other has moved.
pub(super) async fn move_below(
    change: &mut Change<'_>,
    id: &str,
    etag: &str,
    parent_id: &str,
) -> Result<TenantRecord> {
    let scope = change.call.scope.clone();
    let tenant = store::find(change.conn(), &scope, id).await?;
    check_above(change.call, tenant.uid, "TENANTS:MOVE")?;
    let parent = match parent_id {
        "" => None,
        id => Some(
            store::find(change.conn(), &scope, id)
                .await
                .map_err(|_| Error::not_found(Kind::ParentTenant, id))?,
        ),
    };
    let uids = [Some(tenant.uid), parent.map(|parent| parent.uid)];
    let mut held =
        store::hold_all(change.conn(), &scope, &uids.map(Option::unwrap_or_default)).await?;
    let mut take = |uid: Uuid| held.remove(&uid);
    let tenant = take(tenant.uid).ok_or_else(|| Error::not_found(Kind::Tenant, id))?;
    let parent = match uids[1] {
        None => None,
        Some(uid) if uid == tenant.uid => return Err(refuse_circle()),
        Some(uid) => {
            Some(take(uid).ok_or_else(|| Error::not_found(Kind::ParentTenant, parent_id))?)
        }
    };
    check_etag(etag, tenant.version, Kind::Tenant, id)?;
    check_protection(change, &tenant).await?;
    if tenant.state == TenantState::Deleted {
        return Err(tenant.not_active("undelete it first"));
    }
    let now = change.now;
    let before = store::complete_one(change.conn(), now, tenant).await?;
    if before.tenant.parent_uid == parent.as_ref().map(|parent| parent.uid) {
        return Ok(before);
    }
    let levels = store::hold_below(change.conn(), before.tenant.uid).await?;
    check_move(&before.tenant, parent.as_ref(), levels, &scope)?;

    let mut tenant = before.tenant.clone();
    tenant.parent_uid = parent.as_ref().map(|parent| parent.uid);
    tenant.ancestors = parent.as_ref().map(Tenant::path).unwrap_or_default();
    tenant.touch(now);
    // What it holds it now takes from the new provider (3-08).
    entitlements::check_again(change, &tenant, "parent_tenant_id").await?;
    store::update(change.conn(), &tenant).await?;
    store::move_below(change.conn(), &before.tenant, &tenant).await?;
    let levels_before = before.tenant.ancestors.len();
    purge::move_below(change.conn(), tenant.uid, levels_before, &tenant.ancestors).await?;
    let after = store::complete_one(change.conn(), now, tenant).await?;
    tell(change, "tenant.moved", Some(&before), &after).await?;
    if before.lock_above.is_some() || after.lock_above.is_some() {
        publishers::tell_standing(change, after.tenant.uid).await?;
    }
    Ok(after)
}

fn refuse_circle() -> Error {
    Error::invalid("parent_tenant_id", "names the tenant itself or one below it")
}

/// Checks that a tenant with `levels` of tenants below it may stand below another.
fn check_move(
    tenant: &Tenant,
    parent: Option<&Tenant>,
    levels: usize,
    scope: &Scope,
) -> Result<()> {
    let invalid = |why: String| Err(Error::invalid("parent_tenant_id", why));
    let Some(parent) = parent else {
        if tenant.tenant_type == TenantType::Client {
            return Err(Error::Invalid(vec![Violation::of(
                ErrorReason::ParentRequired,
                "parent_tenant_id",
                "is required for a CLIENT",
            )]));
        }
        return match scope {
            Scope::System | Scope::Account(_) => Ok(()),
            _ => Err(Error::Forbidden {
                permission: "TENANTS:MOVE".to_owned(),
                message: "only a key of the account or the system moves a tenant to the root"
                    .to_owned(),
            }),
        };
    };
    if parent.account_id != tenant.account_id {
        return Err(Error::not_found(Kind::ParentTenant, &parent.tenant_id));
    }
    if parent.ancestors.contains(&Some(tenant.uid)) {
        return Err(refuse_circle());
    }
    parent.check_parent_of("parent_tenant_id", tenant.tenant_type)?;
    if parent.path().len() + 1 + levels > DEPTH_MAX {
        return invalid(format!("the tree of tenants would have more than {DEPTH_MAX} levels"));
    }
    check_line(parent, tenant, "parent_tenant_id")?;
    parent.check_contract_of(tenant.contract_mode)
}

/// Checks that a service provider and a tenant directly below it are for the same (3-15).
pub(super) fn check_line(parent: &Tenant, tenant: &Tenant, field: &str) -> Result<()> {
    if !parent.is_provider() || parent.service_line == tenant.service_line {
        return Ok(());
    }
    let why = format!(
        "the SERVICE_PROVIDER \"{}\" is for {}, and \"{}\", directly below it, is for {}",
        parent.tenant_id,
        parent.service_line.as_str(),
        tenant.tenant_id,
        tenant.service_line.as_str()
    );
    Err(Error::invalid(field, why))
}

/// The contract of a new tenant below a parent (3-14): a provider on trial has tenants on trial only.
pub(super) fn contract_below(
    parent: Option<&Tenant>,
    asked: Option<ContractMode>,
) -> Result<ContractMode> {
    let Some(parent) = parent else {
        return Ok(asked.unwrap_or(ContractMode::Production));
    };
    let inherited =
        if parent.is_provider() { parent.contract_mode } else { ContractMode::Production };
    let mode = asked.unwrap_or(inherited);
    parent.check_contract_of(mode)?;
    Ok(mode)
}
