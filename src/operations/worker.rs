//! Works on operations, one after the other, on every node.
//!
//! To claim one is to say, in a transaction of its own, that it is PROCESSING: that is for those who
//! look. What keeps others from it is the lock on its row, held by the transaction that creates the
//! tenant and completes the operation. So a row that is PROCESSING and not locked is one whose worker
//! stopped, and is anybody's after a while.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use prost::Message as _;
use tokio::{sync::watch, time::Instant};
use tracing::Instrument as _;

use super::{
    model::Operation,
    service::{event, kept, tell},
    store,
    vault::DataKey,
    wire::error_of,
};
use crate::{
    db::Role,
    error::{Error, Result, causes},
    events::outbox::{self, Origin},
    pb,
    rpc::{
        identify::{Earlier, Identifier},
        mutate::Change,
        permit::Method,
    },
    server::Shared,
    tenants::create,
};

/// How often the worker looks for what other nodes have scheduled, or left.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long one try may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long after it was begun an operation that nobody holds is taken for left. Too short would make two
/// begin what only one can do; too long only delays.
const LEFT_AFTER: TimeDelta = TimeDelta::seconds(5);

/// How often an operation is tried that fails by what may pass, or whose worker stops.
const ATTEMPTS: i32 = 10;

const METHOD: &str = "/tenantry.v1.TenantService/CreateTenantAsync";

/// Works until `stop` says so; then what is under way has as long as calls have to be drained, and is
/// left to the next worker if it takes longer.
pub async fn work(shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    // A panic ends what it happened in, as it does with calls, and not all work.
    while let Err(error) = tokio::spawn(work_on_all(shared.clone(), stop.clone())).await {
        tracing::error!(error = causes(&error), "work on an operation broke off");
    }
}

async fn work_on_all(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let drain = shared.settings.shutdown.drain;
    let worker = Worker::new(shared.clone());
    let mut cut = stop.clone();
    let cut = async {
        let _ = cut.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(drain).await;
    };
    tokio::pin!(cut);
    while !*stop.borrow() {
        let done = tokio::select! {
            done = worker.work_on_next() => done,
            () = &mut cut => return,
        };
        match done {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!(error = causes(&error), "work on operations failed"),
        }
        tokio::select! {
            () = shared.operations.scheduled.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stop.wait_for(|stopped| *stopped) => {}
        }
    }
}

struct Worker {
    identifier: Identifier,
    shared: Arc<Shared>,
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Self {
        Self { identifier: shared.identifier(), shared }
    }

    /// Works on one operation; false where there is none.
    async fn work_on_next(&self) -> Result<bool> {
        let Some(operation) = self.claim().await? else { return Ok(false) };
        let span = tracing::info_span!(
            "operation",
            operation.id = %operation.operation_id,
            correlation.id = operation.correlation_id,
        );
        self.work_on(&operation).instrument(span).await?;
        self.shared.operations.tell_end(operation.operation_id);
        Ok(true)
    }

    /// Says of the next operation that it is worked on.
    async fn claim(&self) -> Result<Option<Operation>> {
        let shared = &self.shared;
        let deadline = Instant::now() + PATIENCE;
        let mut transaction = shared.database.begin_as(Role::Operator, deadline).await?;
        let now = shared.clock.now();
        let mut next = store::next_open(transaction.conn(), now - LEFT_AFTER).await?;
        if let Some(operation) = &mut next {
            operation.begin(now);
            store::begin(transaction.conn(), operation).await?;
        }
        transaction.commit().await?;
        Ok(next)
    }

    async fn work_on(&self, operation: &Operation) -> Result<()> {
        let done = if operation.attempts > ATTEMPTS {
            Err(Error::internal("whoever worked on the operation stopped, each time"))
        } else {
            self.create(operation).await
        };
        match done {
            Ok(()) => {
                tracing::info!("operation worked on");
                Ok(())
            }
            // It stays as it is, for whoever comes next.
            Err(error) if error.may_pass() && operation.attempts < ATTEMPTS => Err(error),
            Err(error) => {
                match &error {
                    Error::Internal(_) => {
                        tracing::error!(error = causes(&error), "operation failed");
                    }
                    refusal => tracing::info!(error = %refusal, "operation refused"),
                }
                self.fail(operation, error).await
            }
        }
    }

    /// Creates the tenant, as whoever asked for it, and completes the operation with it.
    async fn create(&self, operation: &Operation) -> Result<()> {
        let shared = &self.shared;
        let earlier = Earlier {
            method: Method::find(METHOD).ok_or(Error::MethodUnknown)?,
            key_id: operation.credential_id,
            account: operation.names_account.as_deref(),
            tenant: operation.tenant_of_call.as_deref().filter(|_| operation.names_tenant),
            correlation_id: &operation.correlation_id,
            bearer: None,
        };
        let call = self.identifier.admit_again(earlier, None, Instant::now() + PATIENCE).await?;
        let (key, request) = self.open(operation).ok_or_else(|| {
            Error::internal(
                "the operation cannot be decrypted: it was made under another master key",
            )
        })?;
        create::check(&call, &request, shared.clock.now())?;

        let kept = kept(&shared.settings)?;
        let work = async |change: &mut Change<'_>| {
            let id = operation.operation_id;
            let Some(before) = store::take_processing(change.conn(), id).await? else {
                return Ok(pb::CreateTenantResponse::default());
            };
            let answer = Box::pin(create::create(shared, change, &request)).await?;
            let tenant_id = answer.tenant.as_ref().map(|tenant| tenant.tenant_id.clone());
            let result = key.seal_result(&answer.encode_to_vec());
            let mut after = before.clone();
            after.complete(tenant_id.unwrap_or_default(), result, change.now, kept);
            store::end(change.conn(), &after).await?;
            tell(change, "operation.completed", Some(&before), Some(&after)).await?;
            Ok(answer)
        };
        shared.mutator.mutate(&call, &request, work).await.map(drop)
    }

    fn open(&self, operation: &Operation) -> Option<(DataKey, pb::CreateTenantRequest)> {
        let cipher = self.shared.master.operation_cipher();
        let wrapped = operation.worker_key.as_deref()?;
        let key = DataKey::unwrap(cipher, operation.operation_id, wrapped)?;
        let request = key.open_request(operation.request.as_deref()?)?;
        Some((key, pb::CreateTenantRequest::decode(&*request).ok()?))
    }

    /// Says of an operation that it failed, unless somebody else has done it in the meantime.
    async fn fail(&self, operation: &Operation, error: Error) -> Result<()> {
        let shared = &self.shared;
        let deadline = Instant::now() + PATIENCE;
        let now = shared.clock.now();
        let mut transaction = shared.database.begin_as(Role::Operator, deadline).await?;
        let id = operation.operation_id;
        if let Some(before) = store::take_processing(transaction.conn(), id).await? {
            let mut after = before.clone();
            let error = error_of(error, &operation.correlation_id);
            after.fail(error, now, kept(&shared.settings)?);
            store::end(transaction.conn(), &after).await?;
            let name = after.name();
            let told = event("operation.failed", &after, &name, Some(&before), Some(&after));
            let actor = format!("api_key:{}", operation.credential_id);
            let origin = Origin {
                method: METHOD.trim_start_matches('/'),
                actor: &actor,
                on_behalf_of: None,
                correlation_id: &operation.correlation_id,
            };
            outbox::append(transaction.conn(), shared.clock.uuid(), origin, now, told).await?;
        }
        transaction.commit().await
    }
}
