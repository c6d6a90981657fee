//! The RPCs of `google.longrunning.Operations`, and how an operation begins and its result is given.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use prost::Message as _;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    end_of,
    model::{Operation, OperationState},
    store,
    vault::{DataKey, cipher_of},
    wire::{error_of, plain, read_name},
};
use crate::{
    config::Settings,
    error::{Error, Result},
    events::outbox::Event,
    longrunning::{
        self, CancelOperationRequest, DeleteOperationRequest, GetOperationRequest,
        ListOperationsRequest, ListOperationsResponse, WaitOperationRequest,
    },
    pb,
    rpc::{
        Call,
        mutate::{Change, Mutation},
        permit::json_of,
    },
    server::Shared,
    tenants::create,
};

/// How often one who waits looks what other nodes have done.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long before the deadline of its call one who waits is answered.
const ANSWER_BEFORE: Duration = Duration::from_millis(250);

/// Serves `google.longrunning.Operations`.
pub struct Operations(pub Arc<Shared>);

#[tonic::async_trait]
impl longrunning::operations_server::Operations for Operations {
    async fn get_operation(
        &self,
        request: Request<GetOperationRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        let (call, request) = Call::of(request)?;
        let id = read_name("name", &request.name)?;

        let operation = self.find(&call, id).await?;

        Ok(Response::new((&operation).into()))
    }

    async fn list_operations(
        &self,
        request: Request<ListOperationsRequest>,
    ) -> Result<Response<ListOperationsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let query = store::Query::read(&call, &request)?;

        let (operations, next_page_token) =
            self.0.read(&call, async |conn| query.run(conn, &call.scope).await).await?;

        let operations = operations.iter().map(longrunning::Operation::from).collect();
        let unreachable = Vec::new();
        Ok(Response::new(ListOperationsResponse { operations, next_page_token, unreachable }))
    }

    async fn wait_operation(
        &self,
        request: Request<WaitOperationRequest>,
    ) -> Result<Response<longrunning::Operation>, Status> {
        let (call, request) = Call::of(request)?;
        let id = read_name("name", &request.name)?;
        let last_look = last_look(&call, request.timeout)?;

        let operation = self.wait(&call, id, last_look).await?;

        Ok(Response::new((&operation).into()))
    }

    async fn cancel_operation(
        &self,
        request: Request<CancelOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let (call, request) = Call::of(request)?;
        let id = read_name("name", &request.name)?;

        self.0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                cancel(change, id, kept(&self.0.settings)?).await
            })
            .await?;
        self.0.operations.tell_end(id);

        Ok(Response::new(()))
    }

    async fn delete_operation(
        &self,
        request: Request<DeleteOperationRequest>,
    ) -> Result<Response<()>, Status> {
        let (call, request) = Call::of(request)?;
        let id = read_name("name", &request.name)?;

        self.0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| delete(change, id).await)
            .await?;

        Ok(Response::new(()))
    }
}

impl Operations {
    async fn find(&self, call: &Call, id: Uuid) -> Result<Operation> {
        self.0.read(call, async |conn| store::find(conn, &call.scope, id).await).await
    }

    /// Looks until the operation is done, for the last time at `last_look`.
    async fn wait(&self, call: &Call, id: Uuid, last_look: Instant) -> Result<Operation> {
        loop {
            // What ends between the look and the wait is heard.
            let mut ends = self.0.operations.listen();
            let operation = self.find(call, id).await?;
            if operation.is_done() || Instant::now() >= last_look {
                return Ok(operation);
            }
            let next_look = last_look.min(Instant::now() + LOOK_EVERY);
            let _ = timeout_at(next_look, end_of(id, &mut ends)).await;
        }
    }
}

/// Until when a caller wants to wait, or can.
fn last_look(call: &Call, timeout: Option<prost_types::Duration>) -> Result<Instant> {
    let possible = call.deadline.checked_sub(ANSWER_BEFORE).unwrap_or(call.deadline);
    let Some(timeout) = timeout else {
        return Ok(possible);
    };
    let timeout = Duration::try_from(timeout)
        .map_err(|_| Error::invalid("timeout", "is negative: leave it out or send how long"))?;
    Ok(Instant::now().checked_add(timeout).map_or(possible, |asked| asked.min(possible)))
}

/// How long an operation that is done is kept.
pub(super) fn kept(settings: &Settings) -> Result<TimeDelta> {
    TimeDelta::from_std(settings.operations.retention).map_err(Error::internal)
}

/// Google's requests carry neither `request_id` nor `validate_only`, and need none: to cancel or delete
/// twice does no more than once.
macro_rules! mutation_without_id {
    ($request:ty) => {
        impl Mutation for $request {
            fn request_id(&self) -> &str {
                ""
            }
            fn validate_only(&self) -> bool {
                false
            }
            fn effective(&self) -> Self {
                self.clone()
            }
        }
    };
}

mutation_without_id!(CancelOperationRequest);
mutation_without_id!(DeleteOperationRequest);

/// Begins an operation that is to create a tenant, unless it is known already that it cannot be.
pub(crate) async fn schedule(
    change: &mut Change<'_>,
    shared: &Shared,
    request: &pb::CreateTenantAsyncRequest,
) -> Result<longrunning::Operation> {
    let call = change.call;
    let request = pb::CreateTenantRequest {
        request_id: String::new(),
        validate_only: false,
        ..plain(request)?
    };
    change.begin_rehearsal().await?;
    let would_be = Box::pin(create::create(shared, change, &request)).await;
    let would_be = change.end_rehearsal(would_be).await?;
    let tenant = would_be.tenant.unwrap_or_default();
    let asked_id = request.tenant.as_ref().map(|tenant| tenant.tenant_id.clone());

    let operation_id = change.uuid();
    let key = DataKey::generate();
    let (names_account, names_tenant) = call.named();
    let operation = Operation {
        operation_id,
        account_id: tenant.account_id,
        tenant_uid: call.tenant.as_ref().map(|tenant| tenant.uid),
        tenant_of_call: call.tenant.as_ref().map(|tenant| tenant.tenant_id.clone()),
        names_tenant: names_tenant.is_some(),
        names_account: names_account.map(str::to_owned),
        credential_id: call.caller.key_id,
        correlation_id: call.correlation_id.as_ref().to_owned(),
        state: OperationState::Scheduled,
        subject: tenant.name.unwrap_or_default(),
        // One that was not asked for is generated anew when the tenant is created.
        tenant_id: asked_id.filter(|id| !id.is_empty()),
        attempts: 0,
        attempt_time: None,
        init_time: change.now,
        processing_start_time: None,
        processing_end_time: None,
        error: None,
        creator_key: key.wrap(&cipher_of(call, operation_id), operation_id),
        worker_key: Some(key.wrap(shared.master.operation_cipher(), operation_id)),
        request: Some(key.seal_request(&request.encode_to_vec())),
        result: None,
        take_time: None,
        expire_time: None,
    };
    store::insert(change.conn(), &operation).await?;
    tell(change, "operation.created", None, Some(&operation)).await?;
    Ok((&operation).into())
}

/// Gives the result of an operation to its creator, once (3-03).
pub(crate) async fn take(change: &mut Change<'_>, id: Uuid) -> Result<pb::CreateTenantResponse> {
    let call = change.call;
    let mut operation = store::find_for_update(change.conn(), &call.scope, id).await?;
    if operation.credential_id != call.caller.key_id {
        return Err(refuse_to_give());
    }
    let before = operation.clone();
    let sealed = operation.take(change.now)?;
    let result = DataKey::unwrap(&cipher_of(call, id), id, &operation.creator_key)
        .ok_or_else(refuse_to_give)?
        .open_result(&sealed)
        .ok_or_else(|| Error::internal("the result of an operation cannot be decrypted"))?;
    store::end(change.conn(), &operation).await?;
    tell(change, "operation.result_taken", Some(&before), Some(&operation)).await?;
    pb::CreateTenantResponse::decode(&*result).map_err(Error::internal)
}

fn refuse_to_give() -> Error {
    Error::Forbidden {
        permission: "TENANTS:ADD".to_owned(),
        message:
            "the result of an operation is given to the very key that began it, with the secret \
                  that it had then: use that, or read the tenant with GetTenant"
                .to_owned(),
    }
}

async fn cancel(change: &mut Change<'_>, id: Uuid, kept: TimeDelta) -> Result<()> {
    let scope = &change.call.scope;
    let before = store::find_for_update(change.conn(), scope, id).await?;
    if before.is_done() {
        return Ok(());
    }
    let mut after = before.clone();
    let error = error_of(Error::Cancelled, &before.correlation_id);
    after.cancel(error, change.now, kept);
    store::end(change.conn(), &after).await?;
    tell(change, "operation.cancelled", Some(&before), Some(&after)).await
}

async fn delete(change: &mut Change<'_>, id: Uuid) -> Result<()> {
    let scope = &change.call.scope;
    let operation = store::find_for_update(change.conn(), scope, id).await?;
    operation.check_done()?;
    store::delete(change.conn(), id).await?;
    tell(change, "operation.deleted", Some(&operation), None).await
}

/// What happened to an operation, as it is told.
pub(super) fn event<'a>(
    kind: &'static str,
    operation: &'a Operation,
    name: &'a str,
    before: Option<&Operation>,
    after: Option<&Operation>,
) -> Event<'a> {
    let json = |operation: &Operation| json_of(&longrunning::Operation::from(operation));
    Event {
        kind,
        account_id: Some(&operation.account_id),
        tenant: operation.tenant_uid.zip(operation.tenant_of_call.as_deref()),
        resource_type: "operation",
        resource_id: name,
        before: before.map(json),
        after: after.map(json),
    }
}

/// Records what happened to an operation.
pub(super) async fn tell(
    change: &mut Change<'_>,
    kind: &'static str,
    before: Option<&Operation>,
    after: Option<&Operation>,
) -> Result<()> {
    let Some(operation) = after.or(before) else { return Ok(()) };
    change.record(event(kind, operation, &operation.name(), before, after)).await
}
