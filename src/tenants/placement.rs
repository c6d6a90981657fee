//! Where a tenant is placed: on which backend of the platform, and who may say so (2-20 to 2-23).
//!
//! Nothing but the record changes with it. Backends are the system's: neither tenants nor accounts see
//! on which one a tenant is.

use serde_json::json;

use super::model::Tenant;
use crate::{
    db::Scope,
    directory::backends,
    error::{Error, Kind, Result},
    events::outbox::Event,
    keys::roles::{MULTI_BACKEND_ADMIN, Role, SYSTEM_ADMIN},
    pb::{self, ErrorReason},
    rpc::{Call, mutate::Change},
    server::Shared,
};

/// The permission to place tenants.
pub(super) const PLACE: &str = "BACKENDS:ASSIGN";

/// Checks that a caller that names a backend may place tenants at all (2-22).
pub(super) fn check_right(call: &Call, field: &'static str, named: bool) -> Result<()> {
    if !named || call.caller.may(PLACE) {
        return Ok(());
    }
    Err(Error::ParameterForbidden { field, permission: PLACE })
}

/// Puts the id of the backend that is named by its external name into an update, unless the update
/// names an id (2-21).
pub(super) async fn resolve(
    shared: &Shared,
    call: &Call,
    request: &mut pb::UpdateTenantRequest,
) -> Result<()> {
    let by_mask = request
        .update_mask
        .as_ref()
        .is_some_and(|mask| mask.paths.iter().any(|path| path == "backend_id"));
    let by_id =
        by_mask || request.tenant.as_ref().is_some_and(|tenant| tenant.backend_id.is_some());
    check_right(call, "tenant.backend_id", by_id)?;
    check_right(call, "backend_external_name", !request.backend_external_name.is_empty())?;
    let name = std::mem::take(&mut request.backend_external_name);
    if by_id || name.is_empty() {
        return Ok(());
    }
    let name = crate::wire::text(&name, 1, backends::NAME_MAX)
        .map_err(|why| Error::invalid("backend_external_name", why))?;
    // Whichever account the call acts on, backends are the system's.
    let find = async |conn: &mut _| backends::named(conn, &name).await;
    let found = shared.database.read(&Scope::System, call.deadline, find).await?;
    let backend = found.ok_or_else(|| no_backend(&name))?;
    request.tenant.get_or_insert_default().backend_id = Some(backend);
    match &mut request.update_mask {
        Some(mask) if !mask.paths.is_empty() => mask.paths.push("backend_id".to_owned()),
        _ => {}
    }
    Ok(())
}

/// Checks that a caller may take a tenant from one backend to another (2-23).
pub(super) fn check(call: &Call, from: Option<&str>, to: Option<&str>) -> Result<()> {
    let places_all = call.caller.roles.iter().any(|role| role.id == SYSTEM_ADMIN);
    let usable = |id: &str| places_all || call.caller.backends.iter().any(|own| own == id);
    match [from, to].into_iter().flatten().find(|id| !usable(id)) {
        Some(id) => Err(no_backend(id)),
        None => Ok(()),
    }
}

/// Checks that a key whose right to change tenants comes from the role `multi-backend-admin` changes
/// nothing of a tenant but where it is placed.
pub(super) fn check_alone(call: &Call, before: &Tenant, after: &Tenant, same: bool) -> Result<()> {
    let placed = Tenant { backend_id: after.backend_id.clone(), ..before.clone() };
    if same && placed == *after { Ok(()) } else { check_edits(call) }
}

/// Checks that a key may change more of tenants than where they are placed.
pub(super) fn check_edits(call: &Call) -> Result<()> {
    let edits = |role: &&Role| role.id != MULTI_BACKEND_ADMIN && role.grants("TENANTS:EDIT");
    if call.caller.roles.iter().any(edits) {
        return Ok(());
    }
    Err(Error::Forbidden {
        permission: "TENANTS:EDIT".to_owned(),
        message: format!(
            "the role {MULTI_BACKEND_ADMIN} changes of a tenant only backend_id: use a key with \
             another role for the rest"
        ),
    })
}

/// There is no such backend for a caller. Which of them there are is not told.
pub(super) fn no_backend(id: &str) -> Error {
    Error::WrongState {
        reason: ErrorReason::NoBackendAvailable,
        kind: Kind::Backend,
        id: id.to_owned(),
        message: format!(
            "the backend \"{id}\" is not there, or not for this key to place tenants on or take them \
             from: ListBackends shows those there are, WhoAmI the backend_ids of a key that has some"
        ),
    }
}

/// Tells the system, and nobody else, where a tenant is placed.
pub(super) async fn tell(
    change: &mut Change<'_>,
    before: Option<&Tenant>,
    after: &Tenant,
) -> Result<()> {
    let place =
        |tenant: &Tenant| json!({"tenant_id": tenant.tenant_id, "backend_id": tenant.backend_id});
    if before.and_then(|tenant| tenant.backend_id.as_ref()) == after.backend_id.as_ref() {
        return Ok(());
    }
    change
        .record(Event {
            kind: "tenant.placed",
            account_id: None,
            tenant: None,
            resource_type: "tenant",
            resource_id: &after.tenant_id,
            before: before.map(place),
            after: Some(place(after)),
        })
        .await
}
