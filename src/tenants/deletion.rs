//! How a tenant is deleted: so that it can be brought back for a while, or expunged, which is for good and
//! at once.

use std::time::Duration;

use chrono::TimeDelta;

use super::{
    life,
    model::{Tenant, TenantRecord, TenantState},
    service::tell,
    store,
};
use crate::{
    app_data,
    authorizations::publishers::{self, Turn},
    config::Settings,
    db::Role,
    error::{Error, Kind, Result},
    events::outbox::Event,
    groups,
    pb::{self, ErrorReason},
    purge,
    rpc::{
        TenantOfCall,
        mutate::{Change, check_etag},
    },
};

/// Deletes a tenant as a request asks; it can be undeleted for the time of the retention.
pub(super) async fn delete(
    change: &mut Change<'_>,
    id: &str,
    request: &pb::DeleteTenantRequest,
    settings: &Settings,
) -> Result<pb::DeleteTenantResponse> {
    let expunge = request.expunge;
    let scope = &change.call.scope;
    let tenant = store::find_for_update(change.conn(), scope, id).await?;
    check_etag(&request.etag, tenant.version, Kind::Tenant, id)?;
    check_may_go(change, &tenant).await?;
    let now = change.now;
    let before = store::complete_one(change.conn(), now, tenant).await?;
    let after = before.with(deleted(change, &before.tenant, expunge, settings.deletion.retention)?);
    check_nothing_below(change, &after.tenant, expunge).await?;

    let owner = TenantOfCall {
        uid: after.tenant.uid,
        tenant_id: after.tenant.tenant_id.clone(),
        account_id: after.tenant.account_id.clone(),
        named: false,
    };
    let deleted_group_ids = if request.delete_even_if_non_empty {
        groups::delete_all(change, &owner).await?
    } else {
        groups::check_none(change, &owner).await?;
        Vec::new()
    };
    let deleted_app_data = app_data::delete_all(change, &owner, &request.excluded_app_ids).await?;

    store::update(change.conn(), &after.tenant).await?;
    if expunge {
        publishers::tell_turn(change, after.tenant.uid, Turn::Expunged).await?;
        remove(change, &after).await?;
    } else {
        tell(change, "tenant.deleted", Some(&before), &after).await?;
        publishers::tell_turn(change, after.tenant.uid, Turn::Deleted).await?;
    }
    Ok(pb::DeleteTenantResponse {
        tenant: Some(after.seen_by(change.call, settings)),
        deleted_group_ids,
        deleted_app_data,
    })
}

/// The tenant as it is once deleted. Only what is deleted already and is to be expunged stays as it is.
fn deleted(
    change: &Change<'_>,
    tenant: &Tenant,
    expunge: bool,
    retention: Duration,
) -> Result<Tenant> {
    let mut tenant = tenant.clone();
    if expunge && tenant.state == TenantState::Deleted {
        return Ok(tenant);
    }
    let retention = if expunge { Duration::ZERO } else { retention };
    let retention = TimeDelta::from_std(retention)
        .map_err(|_| Error::internal("deletion.retention is out of range"))?;
    tenant.delete(change.call.actor(), change.now, change.now + retention)?;
    Ok(tenant)
}

/// Checks that a tenant is neither the caller's own nor protected from it nor a service provider (1-46,
/// 3-23).
async fn check_may_go(change: &mut Change<'_>, tenant: &Tenant) -> Result<()> {
    let id = &tenant.tenant_id;
    if change.call.caller.tenant.as_ref().is_some_and(|own| own.uid == tenant.uid) {
        return Err(refuse(
            ErrorReason::CannotDeleteSelf,
            tenant,
            "a key cannot delete its own tenant: use a key from above it".to_owned(),
        ));
    }
    life::check_protection(change, tenant).await?;
    if tenant.is_provider() && tenant.state != TenantState::Deleted {
        return Err(refuse(
            ErrorReason::ServiceProviderNotDeletable,
            tenant,
            format!("the tenant \"{id}\" is a SERVICE_PROVIDER: those stay"),
        ));
    }
    Ok(())
}

/// Checks that no tenant below it would be left behind (1-47): one that could still be undeleted would have
/// nothing to come back under when the one above is gone for good.
async fn check_nothing_below(
    change: &mut Change<'_>,
    tenant: &Tenant,
    expunge: bool,
) -> Result<()> {
    let id = &tenant.tenant_id;
    if store::has_children(change.conn(), tenant.uid).await? {
        let message = format!("the tenant \"{id}\" has tenants below it: delete those first");
        return Err(refuse(ErrorReason::HasChildTenants, tenant, message));
    }
    if expunge && store::has_any_children(change.conn(), tenant.uid).await? {
        let message = format!(
            "the tenant \"{id}\" has deleted tenants below it: expunge those first, or wait for \
             their purge_time"
        );
        return Err(refuse(ErrorReason::HasChildTenants, tenant, message));
    }
    Ok(())
}

fn refuse(reason: ErrorReason, tenant: &Tenant, message: String) -> Error {
    Error::WrongState { reason, kind: Kind::Tenant, id: tenant.tenant_id.clone(), message }
}

/// Checks that the purge of a deleted tenant, which the change holds, has not begun.
pub(super) async fn check_not_begun(change: &mut Change<'_>, tenant: &Tenant) -> Result<()> {
    if purge::has_begun(change.conn(), tenant.uid).await? {
        return Err(tenant.refuse_transition("is being purged: it cannot be brought back"));
    }
    Ok(())
}

/// Expunges a deleted tenant, and tells of it without a word about anybody.
async fn remove(change: &mut Change<'_>, record: &TenantRecord) -> Result<()> {
    let Tenant { uid, tenant_id, account_id, .. } = &record.tenant;
    let now = change.now;
    // The service itself removes no tenant and changes no event.
    change.take_on(Role::Purger).await?;
    purge::begin(change.conn(), *uid, now).await?;
    while !purge::remove_some(change.conn(), *uid).await? {}
    // Last, when all who were changing something of the tenant have been waited for.
    purge::scrub(change.conn(), *uid).await?;
    change.take_on(Role::Service).await?;
    change
        .record(Event {
            kind: "tenant.expunged",
            account_id: Some(account_id),
            tenant: Some((*uid, tenant_id)),
            resource_type: "tenant",
            resource_id: tenant_id,
            before: None,
            after: None,
        })
        .await?;
    purge::forget(change.conn(), *uid).await
}
