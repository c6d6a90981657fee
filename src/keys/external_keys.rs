//! The keys that clients of an installation send (1-29 to 1-37).

use crate::{
    error::{Error, Result},
    pb,
    rpc::Call,
    server::Shared,
};

/// Not there yet.
pub async fn create(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::CreateExternalKeyRequest,
) -> Result<pb::CreateExternalKeyResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn get(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::GetExternalKeyRequest,
) -> Result<pb::GetExternalKeyResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn list(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::ListExternalKeysRequest,
) -> Result<pb::ListExternalKeysResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn update(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::UpdateExternalKeyRequest,
) -> Result<pb::UpdateExternalKeyResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn rotate(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::RotateExternalKeyRequest,
) -> Result<pb::RotateExternalKeyResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn revoke(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::RevokeExternalKeyRequest,
) -> Result<pb::RevokeExternalKeyResponse> {
    Err(Error::MethodUnknown)
}
