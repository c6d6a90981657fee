//! The RPCs on tenants. Each reads, acts and replies; what it acts by stands below in this file or in
//! the rooms beside it.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    deletion, life, list,
    model::{
        ContractMode, History, LockColumns, Tenant, TenantRecord, TenantState, TenantType,
        generated_code, generated_id,
    },
    store::{self, Claim},
    wire::{NewTenant, TenantPatch, with_defaults},
};
use crate::{
    allowlist, app_data, directory, entitlements,
    error::{Error, Kind, Result, Violation},
    events::outbox::Event,
    groups,
    keys::model::KeyScope,
    pb::{self, ErrorReason, tenant_service_server::TenantService},
    rpc::{
        Call, TenantOfCall,
        mutate::{Change, check_etag},
        permit::json_of,
    },
    server::Shared,
    settings, usage,
    wire::reference,
};

/// Serves `TenantService`.
pub struct Tenants(pub Arc<Shared>);

#[tonic::async_trait]
impl TenantService for Tenants {
    async fn create_tenant(
        &self,
        request: Request<pb::CreateTenantRequest>,
    ) -> Result<Response<pb::CreateTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let account = request.tenant.as_ref().map(|tenant| &*tenant.account_id);
        call.check_account("tenant.account_id", account.unwrap_or_default())?;
        // What a template leaves out is known only where the template is.
        let new = match &*request.template_id {
            "" => Some(NewTenant::try_from(&request)?),
            id => reference("template_id", id).map(|_| None)?,
        };

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let from_template;
                let new = match &new {
                    Some(new) => new,
                    None => {
                        from_template = self.with_template(change, &request).await?;
                        &from_template
                    }
                };
                let tenant = Some(self.create(change, new).await?.into());
                Ok(pb::CreateTenantResponse { tenant })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn get_tenant(
        &self,
        request: Request<pb::GetTenantRequest>,
    ) -> Result<Response<pb::GetTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = call.tenant_id("tenant_id", &request.tenant_id)?;

        let record = self
            .0
            .read(&call, async |conn| {
                let tenant = store::find(conn, &call.scope, id).await?;
                store::complete_one(conn, self.0.clock.now(), tenant).await
            })
            .await?;

        Ok(Response::new(pb::GetTenantResponse { tenant: Some(record.into()) }))
    }

    async fn lookup_tenant(
        &self,
        request: Request<pb::LookupTenantRequest>,
    ) -> Result<Response<pb::LookupTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let selector = request
            .selector
            .ok_or(Error::invalid("selector", "is required: uid, code, hostname or external_id"))?;

        let record = self
            .0
            .read(&call, async |conn| {
                let tenant = look_up(conn, &call, &selector).await?;
                store::complete_one(conn, self.0.clock.now(), tenant).await
            })
            .await?;

        Ok(Response::new(pb::LookupTenantResponse { tenant: Some(record.into()) }))
    }

    async fn list_tenants(
        &self,
        request: Request<pb::ListTenantsRequest>,
    ) -> Result<Response<pb::ListTenantsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let query = list::TenantQuery::read(&call, &request)?;

        let (tenants, next_page_token) = self
            .0
            .read(&call, async |conn| query.run(conn, &call.scope, self.0.clock.now()).await)
            .await?;

        Ok(Response::new(pb::ListTenantsResponse { tenants, next_page_token }))
    }

    async fn update_tenant(
        &self,
        request: Request<pb::UpdateTenantRequest>,
    ) -> Result<Response<pb::UpdateTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let named = request.tenant.as_ref().map(|tenant| (&*tenant.tenant_id, &*tenant.etag));
        let (id, own_etag) = named.unwrap_or_default();
        let id = call.tenant_id("tenant.tenant_id", id)?;
        let patch = TenantPatch::try_from(&request)?;
        let etag = if request.etag.is_empty() { own_etag } else { &request.etag };

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let create_domain = request.auto_create_domain;
                let record = self.update(change, id, etag, &patch, create_domain).await?;
                Ok(pb::UpdateTenantResponse { tenant: Some(record.into()) })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn delete_tenant(
        &self,
        request: Request<pb::DeleteTenantRequest>,
    ) -> Result<Response<pb::DeleteTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = call.tenant_id("tenant_id", &request.tenant_id)?;
        app_data::check_excluded(&request.excluded_app_ids)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                deletion::delete(change, id, &request, self.0.settings.deletion.retention).await
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn undelete_tenant(
        &self,
        request: Request<pb::UndeleteTenantRequest>,
    ) -> Result<Response<pb::UndeleteTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = call.tenant_id("tenant_id", &request.tenant_id)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let tenant = Some(self.undelete(change, id, &request.etag).await?.into());
                Ok(pb::UndeleteTenantResponse { tenant })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn approve_tenant(
        &self,
        request: Request<pb::ApproveTenantRequest>,
    ) -> Result<Response<pb::ApproveTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = call.tenant_id("tenant_id", &request.tenant_id)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let tenant = Some(life::approve(change, id, &request.etag).await?.into());
                Ok(pb::ApproveTenantResponse { tenant })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn reject_tenant(
        &self,
        request: Request<pb::RejectTenantRequest>,
    ) -> Result<Response<pb::RejectTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = call.tenant_id("tenant_id", &request.tenant_id)?;
        let reason = life::read_reason(&request.reason)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let tenant = Some(life::reject(change, id, &request.etag, &reason).await?.into());
                Ok(pb::RejectTenantResponse { tenant })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn lock_tenant(
        &self,
        request: Request<pb::LockTenantRequest>,
    ) -> Result<Response<pb::LockTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = call.tenant_id("tenant_id", &request.tenant_id)?;
        let lock = life::NewLock::read(&request, self.0.clock.now())?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let tenant = Some(life::lock(change, id, &request.etag, &lock).await?.into());
                Ok(pb::LockTenantResponse { tenant })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn unlock_tenant(
        &self,
        request: Request<pb::UnlockTenantRequest>,
    ) -> Result<Response<pb::UnlockTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = call.tenant_id("tenant_id", &request.tenant_id)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let tenant = Some(life::unlock(change, id, &request.etag).await?.into());
                Ok(pb::UnlockTenantResponse { tenant })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn move_tenant(
        &self,
        request: Request<pb::MoveTenantRequest>,
    ) -> Result<Response<pb::MoveTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = call.tenant_id("tenant_id", &request.tenant_id)?;
        let parent = match &*request.parent_tenant_id {
            "" => "",
            named => reference("parent_tenant_id", named)?,
        };

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let tenant =
                    Some(life::move_below(change, id, &request.etag, parent).await?.into());
                Ok(pb::MoveTenantResponse { tenant })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn promote_tenant(
        &self,
        request: Request<pb::PromoteTenantRequest>,
    ) -> Result<Response<pb::PromoteTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = call.tenant_id("tenant_id", &request.tenant_id)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let tenant = Some(life::promote(change, id, &request.etag).await?.into());
                Ok(pb::PromoteTenantResponse { tenant })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn get_ip_allowlist(
        &self,
        request: Request<pb::GetIpAllowlistRequest>,
    ) -> Result<Response<pb::GetIpAllowlistResponse>, Status> {
        let (call, _) = Call::of(request)?;

        let list =
            self.0.read(&call, async |conn| allowlist::store::get(conn, &call).await).await?;

        Ok(Response::new(pb::GetIpAllowlistResponse { ip_allowlist: Some(list) }))
    }

    async fn update_ip_allowlist(
        &self,
        request: Request<pb::UpdateIpAllowlistRequest>,
    ) -> Result<Response<pb::UpdateIpAllowlistResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let new = allowlist::store::NewList::try_from(&request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let list = allowlist::store::replace(change, &new, &request.etag).await?;
                Ok(pb::UpdateIpAllowlistResponse { ip_allowlist: Some(list) })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn test_ip_allowlist(
        &self,
        request: Request<pb::TestIpAllowlistRequest>,
    ) -> Result<Response<pb::TestIpAllowlistResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let answer = self
            .0
            .read(&call, async |conn| allowlist::store::test(conn, &call, &request.ip).await)
            .await?;

        Ok(Response::new(answer))
    }

    async fn create_group(
        &self,
        request: Request<pb::CreateGroupRequest>,
    ) -> Result<Response<pb::CreateGroupResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.own_tenant()?;
        let new = groups::read_new(&request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let group = Some(groups::create(change, tenant, &new).await?.into());
                Ok(pb::CreateGroupResponse { group })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn get_group(
        &self,
        request: Request<pb::GetGroupRequest>,
    ) -> Result<Response<pb::GetGroupResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.own_tenant()?;
        let group_id = reference("group_id", &request.group_id)?;

        let group = self
            .0
            .read(&call, async |conn| groups::find(conn, &call.scope, tenant, group_id).await)
            .await?;

        Ok(Response::new(pb::GetGroupResponse { group: Some(group.into()) }))
    }

    async fn list_groups(
        &self,
        request: Request<pb::ListGroupsRequest>,
    ) -> Result<Response<pb::ListGroupsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.own_tenant()?;
        let query = groups::Query::read(&call, &request)?;

        let (groups, next_page_token) =
            self.0.read(&call, async |conn| query.run(conn, &call.scope, tenant).await).await?;

        let groups = groups.into_iter().map(pb::Group::from).collect();
        Ok(Response::new(pb::ListGroupsResponse { groups, next_page_token }))
    }

    async fn update_group(
        &self,
        request: Request<pb::UpdateGroupRequest>,
    ) -> Result<Response<pb::UpdateGroupResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.own_tenant()?;
        let patch = groups::Patch::read(&request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let group = Some(groups::update(change, tenant, &patch).await?.into());
                Ok(pb::UpdateGroupResponse { group })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn delete_group(
        &self,
        request: Request<pb::DeleteGroupRequest>,
    ) -> Result<Response<pb::DeleteGroupResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.own_tenant()?;
        let group_id = reference("group_id", &request.group_id)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                groups::delete(change, tenant, group_id, &request.etag).await?;
                Ok(pb::DeleteGroupResponse {})
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn list_service_settings(
        &self,
        request: Request<pb::ListServiceSettingsRequest>,
    ) -> Result<Response<pb::ListServiceSettingsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.own_tenant()?;
        let query = settings::Query::read(&call, &request)?;

        let answer = self.0.read(&call, async |conn| query.run(conn, tenant).await).await?;

        Ok(Response::new(answer))
    }

    async fn update_service_settings(
        &self,
        request: Request<pb::UpdateServiceSettingsRequest>,
    ) -> Result<Response<pb::UpdateServiceSettingsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.tenant_below("SETTINGS:EDIT")?;
        let named = settings::read(tenant, &request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let others = request.remove_others;
                settings::update(change, tenant, &named, others, &request.etag).await
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn record_usage(
        &self,
        request: Request<pb::RecordUsageRequest>,
    ) -> Result<Response<pb::RecordUsageResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.tenant_below("USAGE:RECORD")?;
        let new = usage::NewUsage::try_from(&request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let usage_record = Some(usage::record(change, tenant, &new).await?);
                Ok(pb::RecordUsageResponse { usage_record })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn list_usage(
        &self,
        request: Request<pb::ListUsageRequest>,
    ) -> Result<Response<pb::ListUsageResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let query = usage::Query::read(&call, &request)?;

        let (usage_records, next_page_token) =
            self.0.read(&call, async |conn| query.run(conn, &call.scope).await).await?;

        Ok(Response::new(pb::ListUsageResponse { usage_records, next_page_token }))
    }

    async fn set_entitlement(
        &self,
        request: Request<pb::SetEntitlementRequest>,
    ) -> Result<Response<pb::SetEntitlementResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.tenant_below("ENTITLEMENTS:EDIT")?;
        let new = entitlements::NewEntitlement::try_from(&request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let tenant = entitlements::hold_tenant(change, tenant).await?;
                let entitlement = Some(entitlements::set(change, &tenant, &new).await?.into());
                Ok(pb::SetEntitlementResponse { entitlement })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn list_entitlements(
        &self,
        request: Request<pb::ListEntitlementsRequest>,
    ) -> Result<Response<pb::ListEntitlementsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.own_tenant()?.clone();
        let query = entitlements::Query::read(&call, &request)?;
        let call = entitlements::seeing_children(call);

        let (held, next_page_token) =
            self.0.read(&call, async |conn| query.run(conn, &tenant).await).await?;

        let entitlements = held.into_iter().map(pb::Entitlement::from).collect();
        Ok(Response::new(pb::ListEntitlementsResponse { entitlements, next_page_token }))
    }

    async fn put_end_user_app_data(
        &self,
        request: Request<pb::PutEndUserAppDataRequest>,
    ) -> Result<Response<pb::PutEndUserAppDataResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.own_tenant()?;
        let new = app_data::NewDocument::try_from(&request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let end_user_app_data = Some(app_data::put(change, tenant, &new).await?.into());
                Ok(pb::PutEndUserAppDataResponse { end_user_app_data })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn list_end_user_app_data(
        &self,
        request: Request<pb::ListEndUserAppDataRequest>,
    ) -> Result<Response<pb::ListEndUserAppDataResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.own_tenant()?;
        let query = app_data::Query::read(&call, &request)?;

        let (found, next_page_token) =
            self.0.read(&call, async |conn| query.run(conn, tenant).await).await?;

        let end_user_app_data = found.into_iter().map(pb::EndUserAppData::from).collect();
        Ok(Response::new(pb::ListEndUserAppDataResponse { end_user_app_data, next_page_token }))
    }

    async fn delete_end_user_app_data(
        &self,
        request: Request<pb::DeleteEndUserAppDataRequest>,
    ) -> Result<Response<pb::DeleteEndUserAppDataResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let tenant = call.own_tenant()?;
        let name = app_data::read_deletion(&request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                app_data::delete(change, tenant, &name, &request.etag).await?;
                Ok(pb::DeleteEndUserAppDataResponse {})
            })
            .await?;

        Ok(Response::new(answer))
    }
}

async fn look_up(
    conn: &mut diesel_async::AsyncPgConnection,
    call: &Call,
    selector: &pb::lookup_tenant_request::Selector,
) -> Result<Tenant> {
    use pb::lookup_tenant_request::Selector;
    let scope = &call.scope;
    // An empty value never matches; neither does one that could not have been stored (2-10).
    let (found, sought) = match selector {
        Selector::Uid(uid) => match uid.parse::<Uuid>() {
            Ok(uid) => (store::by_uid(conn, scope, uid).await?, uid.to_string()),
            Err(_) => return Err(Error::invalid("uid", "is not a UUID")),
        },
        Selector::Code(code) if storable(code) => {
            (store::by_claim(conn, scope, Claim::Code, code).await?, code.clone())
        }
        Selector::Hostname(hostname) if storable(hostname) => {
            let key = hostname.to_ascii_lowercase();
            (store::by_claim(conn, scope, Claim::Hostname, &key).await?, key)
        }
        Selector::ExternalId(pb::ExternalId { key, value }) if storable(key) && storable(value) => {
            let mut found = store::by_external_id(conn, scope, key, value).await?;
            if found.len() > 1 {
                return Err(Error::WrongState {
                    reason: ErrorReason::Ambiguous,
                    kind: Kind::Tenant,
                    id: value.clone(),
                    message: format!(
                        "several tenants have \"{value}\" as external id \"{key}\": \
                         list them with the filter external_ids.{key} = \"{value}\""
                    ),
                });
            }
            (found.pop(), value.clone())
        }
        Selector::Code(_) => return Err(Error::invalid("code", "is empty or holds a NUL")),
        Selector::Hostname(_) => return Err(Error::invalid("hostname", "is empty or holds a NUL")),
        Selector::ExternalId(_) => {
            return Err(Error::invalid("external_id", "has an empty part or holds a NUL"));
        }
    };
    found.ok_or_else(|| Error::not_found(Kind::Tenant, sought))
}

fn storable(value: &str) -> bool {
    !value.is_empty() && !value.contains('\0')
}

impl Tenants {
    async fn create(&self, change: &mut Change<'_>, new: &NewTenant) -> Result<TenantRecord> {
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

        let contract_mode = life::contract_below(parent.as_ref(), new.contract_mode)?;
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
            reseller_id: None,
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
        self.bring_domain(change, new.default_domain.as_deref(), new.auto_create_domain).await?;
        store::insert(change.conn(), &tenant).await?;
        claim_names(change, new, &mut tenant).await?;
        store::replace_external_ids(change.conn(), tenant.uid, &new.external_ids).await?;

        let record = store::complete_one(change.conn(), now, tenant).await?;
        tell(change, "tenant.created", None, &record).await?;
        Ok(record)
    }

    /// Reads a request with what its template gives (2-18).
    async fn with_template(
        &self,
        change: &mut Change<'_>,
        request: &pb::CreateTenantRequest,
    ) -> Result<NewTenant> {
        let tenant = request.tenant.as_ref().ok_or(Error::invalid("tenant", "is required"))?;
        if !tenant.account_id.is_empty() {
            reference("tenant.account_id", &tenant.account_id)?;
        }
        let account = account_of(change, &tenant.account_id).await?;
        let template = &request.template_id;
        let defaults = directory::templates::defaults(change.conn(), &account, template).await?;
        let tenant = Some(with_defaults(tenant, defaults));
        NewTenant::try_from(&pb::CreateTenantRequest { tenant, ..request.clone() })
    }

    async fn update(
        &self,
        change: &mut Change<'_>,
        id: &str,
        etag: &str,
        patch: &TenantPatch,
        create_domain: Option<bool>,
    ) -> Result<TenantRecord> {
        let call = change.call;
        let tenant = store::find_for_update(change.conn(), &call.scope, id).await?;
        check_etag(etag, tenant.version, Kind::Tenant, id)?;
        if tenant.state == TenantState::Deleted {
            return Err(tenant.not_active("undelete it first"));
        }
        let now = change.now;
        let before = store::complete_one(change.conn(), now, tenant).await?;
        let mut after = before.clone();
        patch.apply(&mut after)?;
        if after == before {
            return Ok(before);
        }
        check_own(call, &before, &after)?;
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
                id: id.to_owned(),
                message: "a PRODUCTION tenant cannot become a TRIAL".to_owned(),
            });
        }
        if after.tenant.contract_mode != before.tenant.contract_mode
            && let Some(parent) = before.tenant.parent_uid
            && let Some(parent) = store::hold_parent(change.conn(), parent).await?
        {
            parent.check_contract_of(after.tenant.contract_mode)?;
        }

        after.tenant.touch(change.now);
        self.bring_domain(change, patch.default_domain(), create_domain).await?;
        if after.tenant.name != before.tenant.name {
            store::release(change.conn(), Claim::Name, &before.tenant).await?;
        }
        if after.tenant.hostname != before.tenant.hostname {
            store::release(change.conn(), Claim::Hostname, &before.tenant).await?;
            claim_hostname(change, &after.tenant).await?;
        }
        store::update(change.conn(), &after.tenant).await?;
        if after.external_ids != before.external_ids {
            let uid = after.tenant.uid;
            store::replace_external_ids(change.conn(), uid, &after.external_ids).await?;
        }
        tell(change, "tenant.updated", Some(&before), &after).await?;
        Ok(after)
    }

    async fn undelete(
        &self,
        change: &mut Change<'_>,
        id: &str,
        etag: &str,
    ) -> Result<TenantRecord> {
        let scope = &change.call.scope;
        // The account and the parent are held first: locks go from the root to the leaves.
        let Tenant { parent_uid: parent, account_id, .. } =
            store::find(change.conn(), scope, id).await?;
        let (_, max_tenants) = directory::accounts::terms(change.conn(), &account_id).await?;
        let room = store::check_limit(change.conn(), &account_id, max_tenants).await;
        let parent_state = match parent {
            Some(uid) => store::hold_state(change.conn(), uid).await?,
            None => None,
        };
        let mut tenant = store::find_for_update(change.conn(), scope, id).await?;
        check_etag(etag, tenant.version, Kind::Tenant, id)?;
        life::check_protection(change, &tenant).await?;
        let now = change.now;
        let before = store::complete_one(change.conn(), now, tenant.clone()).await?;
        tenant.undelete(now)?;
        deletion::check_not_begun(change, &tenant).await?;
        room?;
        entitlements::check_again(change, &tenant).await?;
        if parent_state == Some(TenantState::Deleted) {
            return Err(Error::WrongState {
                reason: ErrorReason::TenantNotActive,
                kind: Kind::ParentTenant,
                id: before.parent_tenant_id,
                message: "the tenant above is deleted: undelete that first".to_owned(),
            });
        }

        store::update(change.conn(), &tenant).await?;
        let after = before.with(tenant);
        tell(change, "tenant.undeleted", Some(&before), &after).await?;
        Ok(after)
    }

    /// Creates the domain that a tenant is to have, if that was asked for (2-19).
    async fn bring_domain(
        &self,
        change: &mut Change<'_>,
        domain: Option<&str>,
        asked: Option<bool>,
    ) -> Result<()> {
        match domain {
            Some(domain) if asked.unwrap_or(self.0.settings.auto_create.tenant_default_domain) => {
                directory::domains::ensure(change, domain).await
            }
            _ => Ok(()),
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

async fn claim_hostname(change: &mut Change<'_>, tenant: &Tenant) -> Result<()> {
    let now = change.now;
    if tenant.hostname.is_empty()
        || store::claim(change.conn(), Claim::Hostname, &tenant.hostname, tenant, now).await?
    {
        return Ok(());
    }
    let id = tenant.hostname.clone();
    Err(Error::AlreadyExists { kind: Kind::Tenant, what: "hostname", id })
}

/// Checks that a key changes of its own tenant's record only what raises it in nothing.
fn check_own(call: &Call, before: &TenantRecord, after: &TenantRecord) -> Result<()> {
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
    if permitted == *after {
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

fn refuse_to_protect() -> Error {
    Error::Forbidden {
        permission: "TENANTS:EDIT".to_owned(),
        message: "protected is set and taken off by a key of the system, or of a protected tenant \
                  above"
            .to_owned(),
    }
}

/// Records what happened to a tenant.
pub(super) async fn tell(
    change: &mut Change<'_>,
    kind: &'static str,
    before: Option<&TenantRecord>,
    after: &TenantRecord,
) -> Result<()> {
    let json = |record: &TenantRecord| json_of(&pb::Tenant::from(record.clone()));
    change
        .record(Event {
            kind,
            account_id: Some(&after.tenant.account_id),
            tenant: Some((after.tenant.uid, &after.tenant.tenant_id)),
            resource_type: "tenant",
            resource_id: &after.tenant.tenant_id,
            before: before.map(json),
            after: Some(json(after)),
        })
        .await
}
