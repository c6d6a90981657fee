//! App keys, and what they say to services (1-25 to 1-28).

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
    _request: &pb::CreateAppKeyRequest,
) -> Result<pb::CreateAppKeyResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn list(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::ListAppKeysRequest,
) -> Result<pb::ListAppKeysResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn delete(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::DeleteAppKeyRequest,
) -> Result<pb::DeleteAppKeyResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn get_config(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::GetKeyConfigRequest,
) -> Result<pb::GetKeyConfigResponse> {
    Err(Error::MethodUnknown)
}

/// Not there yet.
pub async fn update_config(
    _shared: &Shared,
    _call: &Call,
    _request: &pb::UpdateKeyConfigRequest,
) -> Result<pb::UpdateKeyConfigResponse> {
    Err(Error::MethodUnknown)
}

/// What a service receives of what an app key says (1-27).
pub fn effective(config: &serde_json::Value, _service: &str) -> serde_json::Value {
    config.clone()
}
