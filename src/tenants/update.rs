//! How a tenant is changed: by a patch, and by what the patch brings with it.

use super::{
    create::{bring_domain, bring_reseller, claim_hostname},
    life,
    model::{ContractMode, Tenant, TenantRecord, TenantState},
    placement,
    service::{refuse_to_protect, tell},
    store::{self, Claim},
    wire::TenantPatch,
};
use crate::{
    config::Settings,
    directory,
    error::{Error, Kind, Result},
    groups::{self, Heirs},
    pb::{self, ErrorReason},
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag},
    },
    wire::reference,
};

/// What a request wants changed.
#[derive(Debug)]
pub(super) struct Update<'a> {
    id: &'a str,
    etag: &'a str,
    patch: TenantPatch,
    template_id: Option<&'a str>,
    create_domain: Option<bool>,
    heirs: Heirs,
}

impl<'a> Update<'a> {
    /// Reads a request.
    pub(super) fn read(call: &'a Call, request: &'a pb::UpdateTenantRequest) -> Result<Self> {
        let named = request.tenant.as_ref().map(|tenant| (&*tenant.tenant_id, &*tenant.etag));
        let (id, own_etag) = named.unwrap_or_default();
        let template_id = match &*request.template_id {
            "" => None,
            id => Some(reference("template_id", id)?),
        };
        Ok(Self {
            id: call.tenant_id("tenant.tenant_id", id)?,
            etag: if request.etag.is_empty() { own_etag } else { &request.etag },
            patch: TenantPatch::try_from(request)?,
            template_id,
            create_domain: request.auto_create_domain,
            heirs: match (request.no_reseller_id_to_groups, request.force_reseller_id_to_groups) {
                (true, _) => Heirs::None,
                (false, false) => Heirs::Alike,
                (false, true) => Heirs::All,
            },
        })
    }
}

/// Changes a tenant.
pub(super) async fn update(
    settings: &Settings,
    change: &mut Change<'_>,
    update: &Update<'_>,
) -> Result<TenantRecord> {
    let Update { id, etag, patch, template_id, create_domain, heirs } = update;
    let call = change.call;
    let tenant = store::find_for_update(change.conn(), &call.scope, id).await?;
    check_etag(etag, tenant.version, Kind::Tenant, id)?;
    if tenant.state == TenantState::Deleted {
        return Err(tenant.not_active("undelete it first"));
    }
    let now = change.now;
    let before = store::complete_one(change.conn(), now, tenant).await?;
    let mut after = before.clone();
    let mut domain = patch.default_domain().map(str::to_owned);
    if let Some(template) = template_id {
        let account = &before.tenant.account_id;
        let given = directory::templates::defaults(change.conn(), account, template).await?;
        let given = TenantPatch::of_template(given, patch)?;
        given.apply(&mut after)?;
        domain = domain.or_else(|| given.default_domain().map(str::to_owned));
    }
    patch.apply(&mut after)?;
    let names_reseller = patch.names("reseller_id");
    let is_given_reseller = names_reseller && after.tenant.reseller_id.is_some();
    // What it has already may still be new to its groups.
    let heirs = if names_reseller { *heirs } else { Heirs::None };
    // Read, it has all four external ids, though they may not be stored yet; and it keeps them.
    let of_all = settings.auto_create.tenant_data;
    let told = before.clone().with_data(of_all);
    if told.has_data(of_all) || after.has_data(of_all) {
        after.add_data();
    }
    check_own(call, &told, &after, heirs)?;
    let same = told.external_ids == after.external_ids && heirs != Heirs::All;
    placement::check_alone(call, &before.tenant, &after.tenant, same)?;
    // Refused for what it asks, also where the tenant is there already.
    if patch.names("backend_id") {
        let [from, to] = [&before, &after].map(|record| record.tenant.backend_id.as_deref());
        placement::check(call, from, to)?;
    }
    if after == before && heirs != Heirs::All {
        return Ok(before);
    }
    life::check_protection(change, &before.tenant).await?;
    if after.tenant.protected != before.tenant.protected
        && !life::is_protected(change.conn(), call).await?
    {
        return Err(refuse_to_protect());
    }
    if before.tenant.contract_mode == ContractMode::Production
        && after.tenant.contract_mode == ContractMode::Trial
    {
        return Err(Error::WrongState {
            reason: ErrorReason::ContractModeNotAllowed,
            kind: Kind::Tenant,
            id: before.tenant.tenant_id,
            message: "a PRODUCTION tenant cannot become a TRIAL".to_owned(),
        });
    }
    if after.tenant.contract_mode != before.tenant.contract_mode
        && let Some(parent) = before.tenant.parent_uid
        && let Some(parent) = store::hold_parent(change.conn(), parent).await?
    {
        parent.check_contract_of(after.tenant.contract_mode)?;
    }

    bring_domain(settings, change, domain.as_deref(), *create_domain).await?;
    if is_given_reseller {
        bring_reseller(settings, change, &after.tenant).await?;
    }
    if after != before {
        keep(change, &before, &mut after).await?;
    }
    let owner = TenantOfCall {
        uid: after.tenant.uid,
        tenant_id: after.tenant.tenant_id.clone(),
        account_id: after.tenant.account_id.clone(),
        named: false,
    };
    let [old, new] = [&before, &after].map(|record| record.tenant.reseller_id.as_deref());
    groups::pass_on_reseller(change, &owner, old, new, heirs).await?;
    Ok(after)
}

/// Stores a tenant that has changed, with what lies in other tables, and tells of it.
async fn keep(
    change: &mut Change<'_>,
    before: &TenantRecord,
    after: &mut TenantRecord,
) -> Result<()> {
    after.tenant.touch(change.now);
    if after.tenant.name != before.tenant.name {
        store::release(change.conn(), Claim::Name, &before.tenant).await?;
    }
    if after.tenant.hostname != before.tenant.hostname {
        store::release(change.conn(), Claim::Hostname, &before.tenant).await?;
        claim_hostname(change, &after.tenant).await?;
    }
    store::update(change.conn(), &after.tenant).await?;
    if after.external_ids != before.external_ids {
        store::replace_external_ids(change.conn(), after.tenant.uid, &after.external_ids).await?;
    }
    tell(change, "tenant.updated", Some(before), after).await?;
    placement::tell(change, Some(&before.tenant), &after.tenant).await
}

/// Checks that a key changes of its own tenant's record only what raises it in nothing.
fn check_own(call: &Call, before: &TenantRecord, after: &TenantRecord, heirs: Heirs) -> Result<()> {
    if call.caller.tenant.as_ref().is_none_or(|own| own.uid != before.tenant.uid) {
        return Ok(());
    }
    let permitted = TenantRecord {
        tenant: Tenant {
            name: after.tenant.name.clone(),
            description: after.tenant.description.clone(),
            tag: after.tenant.tag.clone(),
            address: after.tenant.address.clone(),
            contact: after.tenant.contact.clone(),
            support_email: after.tenant.support_email.clone(),
            profile: after.tenant.profile.clone(),
            labels: after.tenant.labels.clone(),
            use_tenant_languages: after.tenant.use_tenant_languages,
            ..before.tenant.clone()
        },
        ..before.clone()
    };
    if permitted == *after && heirs != Heirs::All {
        return Ok(());
    }
    Err(Error::Forbidden {
        permission: "TENANTS:EDIT".to_owned(),
        message: "a key of the tenant itself may change only name, description, tag, address, \
                  contact, support_email, profile, labels and use_tenant_languages: use a key from \
                  above the tenant for the rest"
            .to_owned(),
    })
}
