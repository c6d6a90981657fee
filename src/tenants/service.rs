//! The RPCs on tenants. Each reads, acts and replies; what it acts by stands below in this file or in
//! the rooms beside it.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    create, deletion, life, list,
    model::{Tenant, TenantRecord, TenantState},
    placement,
    store::{self, Claim},
    update::{self, Update},
};
use crate::{
    allowlist, app_data,
    authorizations::publishers::{self, Turn},
    directory, entitlements,
    error::{Error, Kind, Result},
    events::outbox::Event,
    groups, longrunning, operations,
    pb::{self, ErrorReason, tenant_service_server::TenantService},
    rpc::{
        Call,
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
        create::check(&call, &request, self.0.clock.now())?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                // Large, and there once for each call: not on the stack of the runtime.
                Box::pin(create::create(&self.0, change, &request)).await
            })
            .await?;

        // Nobody has them, or they were told to whoever asked in earnest.
        let answer = if request.validate_only { create::without_secrets(answer) } else { answer };
        Ok(Response::new(answer))
    }

    async fn create_tenant_async(
        &self,
        request: Request<pb::CreateTenantAsyncRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        let (call, request) = Call::of(request)?;
        create::check(&call, &operations::wire::plain(&request)?, self.0.clock.now())?;

        let mut answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                Box::pin(operations::schedule(change, &self.0, &request)).await
            })
            .await?;
        if request.validate_only {
            // There is none that could be asked for.
            answer.name.clear();
        }
        self.0.operations.scheduled.notify_one();

        Ok(Response::new(answer))
    }

    async fn take_tenant_result(
        &self,
        request: Request<pb::TakeTenantResultRequest>,
    ) -> Result<Response<pb::CreateTenantResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = operations::wire::read_name("operation", &request.operation)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                operations::take(change, id).await
            })
            .await?;

        let answer = if request.validate_only { create::without_secrets(answer) } else { answer };
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

        Ok(Response::new(pb::GetTenantResponse { tenant: Some(self.shown(&call, record)) }))
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

        Ok(Response::new(pb::LookupTenantResponse { tenant: Some(self.shown(&call, record)) }))
    }

    async fn list_tenants(
        &self,
        request: Request<pb::ListTenantsRequest>,
    ) -> Result<Response<pb::ListTenantsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let query = list::TenantQuery::read(&call, &request, &self.0.settings)?;

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
        let (call, mut request) = Call::of(request)?;
        placement::resolve(&self.0, &call, &mut request).await?;
        let asked = Update::read(&call, &request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let record = update::update(&self.0.settings, change, &asked).await?;
                Ok(pb::UpdateTenantResponse { tenant: Some(self.shown(&call, record)) })
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
                deletion::delete(change, id, &request, &self.0.settings).await
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
                let tenant = self.shown(&call, self.undelete(change, id, &request.etag).await?);
                Ok(pb::UndeleteTenantResponse { tenant: Some(tenant) })
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
                let tenant = self.shown(&call, life::approve(change, id, &request.etag).await?);
                Ok(pb::ApproveTenantResponse { tenant: Some(tenant) })
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
                let tenant =
                    self.shown(&call, life::reject(change, id, &request.etag, &reason).await?);
                Ok(pb::RejectTenantResponse { tenant: Some(tenant) })
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
                let tenant = self.shown(&call, life::lock(change, id, &request.etag, &lock).await?);
                Ok(pb::LockTenantResponse { tenant: Some(tenant) })
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
                let tenant = self.shown(&call, life::unlock(change, id, &request.etag).await?);
                Ok(pb::UnlockTenantResponse { tenant: Some(tenant) })
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
                    self.shown(&call, life::move_below(change, id, &request.etag, parent).await?);
                Ok(pb::MoveTenantResponse { tenant: Some(tenant) })
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
                let tenant = self.shown(&call, life::promote(change, id, &request.etag).await?);
                Ok(pb::PromoteTenantResponse { tenant: Some(tenant) })
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
    /// A tenant as the answer to a call shows it.
    fn shown(&self, call: &Call, record: TenantRecord) -> pb::Tenant {
        record.seen_by(call, &self.0.settings)
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
        entitlements::check_again(change, &tenant, "tenant_id").await?;
        if let Some(uid) = parent
            && let Some(parent) = store::by_uid(change.conn(), scope, uid).await?
        {
            life::check_line(&parent, &tenant, "tenant_id")?;
            parent.check_contract_of(tenant.contract_mode)?;
        }
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
        publishers::tell_turn(change, after.tenant.uid, Turn::Undeleted).await?;
        Ok(after)
    }
}

/// Refuses to set or take off a protection.
pub(super) fn refuse_to_protect() -> Error {
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
    let ancestors = before.map_or(&[][..], |before| &before.tenant.ancestors);
    let event = Event {
        kind,
        account_id: Some(&after.tenant.account_id),
        tenant: Some((after.tenant.uid, &after.tenant.tenant_id)),
        resource_type: "tenant",
        resource_id: &after.tenant.tenant_id,
        before: before.map(json),
        after: Some(json(after)),
    };
    // Of a move, those hear too whom it leaves.
    change.record_below(event, ancestors).await
}
