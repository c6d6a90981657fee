//! How a tenant comes to be, in one transaction with all that comes with it.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use super::{
    life,
    model::{History, LockColumns, Tenant, TenantState, TenantType, generated_code, generated_id},
    placement,
    service::{refuse_to_protect, tell},
    store::{self, Claim},
    wire::{NewTenant, with_defaults},
};
use crate::{
    config::Settings,
    directory,
    error::{Error, Kind, Result, Violation},
    keys::model::KeyScope,
    pb::{self, ErrorReason},
    rpc::{Call, TenantOfCall, mutate::Change},
    server::Shared,
    wire::reference,
};

/// Creates a tenant with everything that the request has; its secrets are in the answer, once.
pub(crate) async fn create(
    shared: &Shared,
    change: &mut Change<'_>,
    request: &pb::CreateTenantRequest,
) -> Result<pb::CreateTenantResponse> {
    let request = match &*request.template_id {
        "" => Cow::Borrowed(request),
        _ => Cow::Owned(with_template(change, request).await?),
    };
    let new = &NewTenant::read(&request, change.now)?;
    let settings = &*shared.settings;
    let call = change.call;
    let account_id = account_of(change, &new.account_id).await?;
    let parent = parent_of(change, new).await?;
    let service_line = match &parent {
        Some(parent) if parent.is_provider() => parent.service_line,
        _ => new.service_line,
    };
    if let Some(parent) = &parent
        && parent.account_id != account_id
    {
        return Err(Error::not_found(Kind::ParentTenant, &parent.tenant_id));
    }

    let contract_mode = life::contract_below(
        parent.as_ref(),
        new.contract_mode.or_else(|| new.companions.contract_mode()),
    )?;
    new.companions.check_below(parent.as_ref())?;
    placement::check(call, None, new.backend_id.as_deref())?;
    if new.protected && !life::is_protected(change.conn(), call).await? {
        return Err(refuse_to_protect());
    }
    let (waits, max_tenants) = directory::accounts::terms(change.conn(), &account_id).await?;
    store::check_limit(change.conn(), &account_id, max_tenants).await?;

    let now = change.now;
    let approved = (!waits).then(|| (now, call.actor()));
    let (approve_time, approved_by) = approved.unzip();
    let mut tenant = Tenant {
        uid: change.uuid(),
        account_id,
        tenant_id: new.tenant_id.clone().unwrap_or_else(generated_id),
        code: new.code.clone().unwrap_or_else(|| generated_code(5)),
        name: new.name.clone(),
        description: new.description.clone(),
        tenant_type: new.tenant_type,
        organization_kind: new.organization_kind,
        service_line,
        parent_uid: parent.as_ref().map(|parent| parent.uid),
        ancestors: parent.as_ref().map(Tenant::path).unwrap_or_default(),
        console: new.console,
        tag: new.tag.clone(),
        state: if waits { TenantState::PendingApproval } else { TenantState::Active },
        state_before_delete: None,
        lock: LockColumns::default(),
        protected: new.protected,
        contract_mode,
        trial_expire_time: None,
        hostname: new.hostname.clone(),
        default_domain: new.default_domain.clone(),
        support_email: new.support_email.clone(),
        contact: new.contact.clone(),
        address: new.address.clone(),
        reseller_id: new.reseller_id.clone(),
        backend_id: new.backend_id.clone(),
        admin_user: new.companions.admin_user.clone(),
        use_custom_routing_profile: new.use_custom_routing_profile,
        use_tenant_languages: new.use_tenant_languages,
        sp_idp: new.sp_idp,
        profile: new.profile.clone(),
        labels: new.labels.clone(),
        history: History {
            created_by: call.actor(),
            approve_time,
            approved_by,
            ..Default::default()
        },
        purge_time: None,
        create_time: now,
        update_time: now,
        version: 1,
    };
    tenant.set_contract(contract_mode, now);
    bring_domain(settings, change, new.default_domain.as_deref(), new.auto_create_domain).await?;
    bring_reseller(settings, change, &tenant).await?;
    store::insert(change.conn(), &tenant).await?;
    claim_names(change, new, &mut tenant).await?;
    let mut record = store::complete_one(change.conn(), now, tenant).await?;
    record.external_ids.clone_from(&new.external_ids);
    let record = record.with_data(settings.auto_create.tenant_data);
    store::replace_external_ids(change.conn(), record.tenant.uid, &record.external_ids).await?;

    tell(change, "tenant.created", None, &record).await?;
    placement::tell(change, None, &record.tenant).await?;
    let made = new.companions.create(change, &shared.master, &record.tenant).await?;
    Ok(pb::CreateTenantResponse { tenant: Some(record.seen_by(call, settings)), ..made })
}

/// Checks of a request what can be told without the database.
pub(crate) fn check(
    call: &Call,
    request: &pb::CreateTenantRequest,
    now: DateTime<Utc>,
) -> Result<()> {
    let account = request.tenant.as_ref().map(|tenant| &*tenant.account_id);
    call.check_account("tenant.account_id", account.unwrap_or_default())?;
    let placed = request.tenant.as_ref().is_some_and(|tenant| tenant.backend_id.is_some());
    placement::check_right(call, "tenant.backend_id", placed)?;
    // What a template leaves out is known only where the template is.
    match &*request.template_id {
        "" => NewTenant::read(request, now).map(|_| ()),
        id => reference("template_id", id).map(|_| ()),
    }
}

/// An answer without what is told once.
pub(crate) fn without_secrets(answer: pb::CreateTenantResponse) -> pb::CreateTenantResponse {
    let pb::CreateTenantResponse {
        tenant,
        installation,
        external_key,
        external_key_secret: _,
        admin_api_key,
        admin_api_key_secret: _,
        oauth_client_secret: _,
    } = answer;
    let (external_key_secret, admin_api_key_secret, oauth_client_secret) = <_>::default();
    pb::CreateTenantResponse {
        tenant,
        installation,
        external_key,
        external_key_secret,
        admin_api_key,
        admin_api_key_secret,
        oauth_client_secret,
    }
}

/// A request with what its template gives (2-18).
async fn with_template(
    change: &mut Change<'_>,
    request: &pb::CreateTenantRequest,
) -> Result<pb::CreateTenantRequest> {
    let tenant = request.tenant.as_ref().ok_or(Error::invalid("tenant", "is required"))?;
    if !tenant.account_id.is_empty() {
        reference("tenant.account_id", &tenant.account_id)?;
    }
    let account = account_of(change, &tenant.account_id).await?;
    let template = &request.template_id;
    let defaults = directory::templates::defaults(change.conn(), &account, template).await?;
    let tenant = Some(with_defaults(tenant, defaults));
    Ok(pb::CreateTenantRequest { tenant, ..request.clone() })
}

/// Creates the domain that a tenant is to have, if that was asked for (2-19).
pub(super) async fn bring_domain(
    settings: &Settings,
    change: &mut Change<'_>,
    domain: Option<&str>,
    asked: Option<bool>,
) -> Result<()> {
    match domain {
        Some(domain) if asked.unwrap_or(settings.auto_create.tenant_default_domain) => {
            directory::domains::ensure(change, domain).await
        }
        _ => Ok(()),
    }
}

/// Sees to it that there is the reseller that a tenant is to have (2-16).
pub(super) async fn bring_reseller(
    settings: &Settings,
    change: &mut Change<'_>,
    tenant: &Tenant,
) -> Result<()> {
    match &tenant.reseller_id {
        None => Ok(()),
        Some(reseller) if settings.auto_create.reseller => {
            directory::resellers::ensure(change, &tenant.account_id, reseller).await
        }
        Some(reseller) => {
            directory::resellers::require(change.conn(), &tenant.account_id, reseller).await
        }
    }
}

/// The account of a new tenant: that of the call, else the one named, else the default.
async fn account_of(change: &mut Change<'_>, named: &str) -> Result<String> {
    if let Some(account) = &change.call.account {
        return Ok(account.clone());
    }
    let account = if named.is_empty() { directory::DEFAULT_ACCOUNT } else { named };
    directory::accounts::require(change.conn(), account).await?;
    Ok(account.to_owned())
}

/// The parent of a new tenant, held until the transaction ends (1-09, 1-10).
async fn parent_of(change: &mut Change<'_>, new: &NewTenant) -> Result<Option<Tenant>> {
    let call = change.call;
    let own = call
        .tenant
        .as_ref()
        .filter(|_| new.tenant_type == TenantType::Client || call.caller.scope == KeyScope::Tenant);
    let id = match (&*new.parent_tenant_id, own) {
        ("", Some(own)) => parent_by_call(change, own).await?,
        ("", None) if new.tenant_type == TenantType::Client => {
            return Err(Error::Invalid(vec![Violation::of(
                ErrorReason::ParentRequired,
                "tenant.parent_tenant_id",
                "is required for a CLIENT, since the call has no tenant to take it from",
            )]));
        }
        ("", None) => return Ok(None),
        (named, _) => named.to_owned(),
    };
    let parent = store::find_parent(change.conn(), &call.scope, &id).await?;
    parent.check_parent_of("tenant.parent_tenant_id", new.tenant_type)?;
    Ok(Some(parent))
}

/// The parent that the tenant of the call stands for: a client's own, else itself (1-09). A tenant's own
/// key always creates below that tenant.
async fn parent_by_call(change: &mut Change<'_>, own: &TenantOfCall) -> Result<String> {
    let call = change.call;
    let tenant = store::find(change.conn(), &call.scope, &own.tenant_id).await?;
    let is_provider = tenant.is_provider();
    match tenant.parent_uid {
        Some(parent)
            if tenant.tenant_type == TenantType::Client
                && !is_provider
                && call.caller.scope != KeyScope::Tenant =>
        {
            let parent = store::by_uid(change.conn(), &call.scope, parent).await?;
            let parent = parent.ok_or_else(|| Error::not_found(Kind::ParentTenant, ""))?;
            Ok(parent.tenant_id)
        }
        _ => Ok(tenant.tenant_id),
    }
}

/// Claims what is unique about a new tenant.
///
/// What was not chosen is made anew, and longer, when it is taken (1-04).
async fn claim_names(change: &mut Change<'_>, new: &NewTenant, tenant: &mut Tenant) -> Result<()> {
    let now = change.now;
    let taken = |what: &'static str, id: &str| {
        Err(Error::AlreadyExists { kind: Kind::Tenant, what, id: id.to_owned() })
    };
    while !store::claim(change.conn(), Claim::TenantId, &tenant.tenant_id, tenant, now).await? {
        if new.tenant_id.is_some() {
            return taken("tenant_id", &tenant.tenant_id);
        }
        tenant.tenant_id = generated_id();
        store::update(change.conn(), tenant).await?;
    }
    while !store::claim(change.conn(), Claim::Code, &tenant.code, tenant, now).await? {
        if new.code.is_some() {
            return taken("code", &tenant.code);
        }
        tenant.code = generated_code(tenant.code.len() + 5);
        store::update(change.conn(), tenant).await?;
    }
    claim_hostname(change, tenant).await?;
    if new.code.is_none() {
        let scope = change.call.scope.clone();
        let key = store::name_key(tenant);
        if !store::claim(change.conn(), Claim::Name, &key, tenant, now).await?
            || store::name_is_taken(change.conn(), &scope, tenant).await?
        {
            return taken("name", &tenant.name);
        }
    }
    Ok(())
}

pub(super) async fn claim_hostname(change: &mut Change<'_>, tenant: &Tenant) -> Result<()> {
    let now = change.now;
    if tenant.hostname.is_empty()
        || store::claim(change.conn(), Claim::Hostname, &tenant.hostname, tenant, now).await?
    {
        return Ok(());
    }
    let id = tenant.hostname.clone();
    Err(Error::AlreadyExists { kind: Kind::Tenant, what: "hostname", id })
}
