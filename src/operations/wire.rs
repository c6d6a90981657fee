//! How operations look from outside.

use prost::{Message, Name};
use prost_types::Any;
use uuid::Uuid;

use super::model::{Operation, OperationState};
use crate::{
    error::{Error, Result},
    longrunning::{self, operation::Result as Outcome},
    pb,
    wire::timestamp,
};

/// Reads the name of an operation.
///
/// # Errors
///
/// When it is none.
pub(crate) fn read_name(field: &str, name: &str) -> Result<Uuid> {
    name.strip_prefix("operations/")
        .and_then(|id| id.parse::<Uuid>().ok().filter(|uuid| uuid.to_string() == id))
        .ok_or_else(|| {
            let why = "is not the name of an operation: \"operations/\" and the UUID of one";
            Error::invalid(field, why)
        })
}

/// The request of `CreateTenant` that one of `CreateTenantAsync` stands for.
///
/// Both messages have the same fields; a test walks them.
///
/// # Errors
///
/// None, as long as that is so.
pub(crate) fn plain(request: &pb::CreateTenantAsyncRequest) -> Result<pb::CreateTenantRequest> {
    pb::CreateTenantRequest::decode(&*request.encode_to_vec()).map_err(Error::internal)
}

/// Why there is no tenant, as the operation tells it.
pub(super) fn error_of(error: Error, correlation_id: &str) -> Vec<u8> {
    // The details of a status are an encoded google.rpc.Status.
    crate::rpc::observe::dressed(&error.into(), correlation_id).details().to_vec()
}

impl From<&Operation> for longrunning::Operation {
    fn from(operation: &Operation) -> Self {
        let metadata = pb::CreateTenantMetadata {
            state: pb::OperationState::from(operation.state).into(),
            subject: operation.subject.clone(),
            init_time: Some(timestamp(operation.init_time)),
            processing_start_time: operation.processing_start_time.map(timestamp),
            processing_end_time: operation.processing_end_time.map(timestamp),
            tenant_id: operation.tenant_id.clone().unwrap_or_default(),
        };
        Self {
            name: operation.name(),
            metadata: Some(packed(&metadata)),
            done: operation.is_done(),
            result: outcome(operation),
        }
    }
}

fn outcome(operation: &Operation) -> Option<Outcome> {
    if !operation.is_done() {
        return None;
    }
    if let Some(error) = &operation.error {
        // What was stored here was encoded here.
        return Some(Outcome::Error(Message::decode(&**error).unwrap_or_default()));
    }
    let tenant = Some(pb::Tenant {
        tenant_id: operation.tenant_id.clone().unwrap_or_default(),
        account_id: operation.account_id.clone(),
        ..Default::default()
    });
    Some(Outcome::Response(packed(&pb::CreateTenantResponse { tenant, ..Default::default() })))
}

fn packed<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

impl From<OperationState> for pb::OperationState {
    fn from(state: OperationState) -> Self {
        match state {
            OperationState::Scheduled => Self::Scheduled,
            OperationState::Processing => Self::Processing,
            OperationState::Completed => Self::Completed,
            OperationState::Failed => Self::Failed,
            OperationState::Cancelled => Self::Cancelled,
        }
    }
}
