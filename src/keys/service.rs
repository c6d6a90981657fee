//! The RPCs on keys: a table of contents. What each does stands in the room that it names.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use super::{api_keys, app_keys, external_keys, import, installations, list, oauth, verify};
use crate::{
    pb::{self, key_service_server::KeyService},
    rpc::Call,
    server::Shared,
};

/// Serves `KeyService`.
pub struct Keys(pub Arc<Shared>);

#[tonic::async_trait]
impl KeyService for Keys {
    async fn create_installation(
        &self,
        request: Request<pb::CreateInstallationRequest>,
    ) -> Result<Response<pb::CreateInstallationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(installations::create(&self.0, &call, &request).await?))
    }

    async fn get_installation(
        &self,
        request: Request<pb::GetInstallationRequest>,
    ) -> Result<Response<pb::GetInstallationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(installations::get(&self.0, &call, &request).await?))
    }

    async fn list_installations(
        &self,
        request: Request<pb::ListInstallationsRequest>,
    ) -> Result<Response<pb::ListInstallationsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(installations::list(&self.0, &call, &request).await?))
    }

    async fn update_installation(
        &self,
        request: Request<pb::UpdateInstallationRequest>,
    ) -> Result<Response<pb::UpdateInstallationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(installations::update(&self.0, &call, &request).await?))
    }

    async fn delete_installation(
        &self,
        request: Request<pb::DeleteInstallationRequest>,
    ) -> Result<Response<pb::DeleteInstallationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(installations::delete(&self.0, &call, &request).await?))
    }

    async fn create_app_key(
        &self,
        request: Request<pb::CreateAppKeyRequest>,
    ) -> Result<Response<pb::CreateAppKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(app_keys::create(&self.0, &call, &request).await?))
    }

    async fn list_app_keys(
        &self,
        request: Request<pb::ListAppKeysRequest>,
    ) -> Result<Response<pb::ListAppKeysResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(app_keys::list(&self.0, &call, &request).await?))
    }

    async fn delete_app_key(
        &self,
        request: Request<pb::DeleteAppKeyRequest>,
    ) -> Result<Response<pb::DeleteAppKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(app_keys::delete(&self.0, &call, &request).await?))
    }

    async fn get_key_config(
        &self,
        request: Request<pb::GetKeyConfigRequest>,
    ) -> Result<Response<pb::GetKeyConfigResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(app_keys::get_config(&self.0, &call, &request).await?))
    }

    async fn update_key_config(
        &self,
        request: Request<pb::UpdateKeyConfigRequest>,
    ) -> Result<Response<pb::UpdateKeyConfigResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(app_keys::update_config(&self.0, &call, &request).await?))
    }

    async fn create_external_key(
        &self,
        request: Request<pb::CreateExternalKeyRequest>,
    ) -> Result<Response<pb::CreateExternalKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(external_keys::create(&self.0, &call, &request).await?))
    }

    async fn get_external_key(
        &self,
        request: Request<pb::GetExternalKeyRequest>,
    ) -> Result<Response<pb::GetExternalKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(external_keys::get(&self.0, &call, &request).await?))
    }

    async fn list_external_keys(
        &self,
        request: Request<pb::ListExternalKeysRequest>,
    ) -> Result<Response<pb::ListExternalKeysResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(external_keys::list(&self.0, &call, &request).await?))
    }

    async fn update_external_key(
        &self,
        request: Request<pb::UpdateExternalKeyRequest>,
    ) -> Result<Response<pb::UpdateExternalKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(external_keys::update(&self.0, &call, &request).await?))
    }

    async fn rotate_external_key(
        &self,
        request: Request<pb::RotateExternalKeyRequest>,
    ) -> Result<Response<pb::RotateExternalKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(external_keys::rotate(&self.0, &call, &request).await?))
    }

    async fn revoke_external_key(
        &self,
        request: Request<pb::RevokeExternalKeyRequest>,
    ) -> Result<Response<pb::RevokeExternalKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(external_keys::revoke(&self.0, &call, &request).await?))
    }

    async fn create_api_key(
        &self,
        request: Request<pb::CreateApiKeyRequest>,
    ) -> Result<Response<pb::CreateApiKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(api_keys::create(&self.0, &call, &request).await?))
    }

    async fn get_api_key(
        &self,
        request: Request<pb::GetApiKeyRequest>,
    ) -> Result<Response<pb::GetApiKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(api_keys::get(&self.0, &call, &request).await?))
    }

    async fn list_api_keys(
        &self,
        request: Request<pb::ListApiKeysRequest>,
    ) -> Result<Response<pb::ListApiKeysResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(api_keys::list(&self.0, &call, &request).await?))
    }

    async fn update_api_key(
        &self,
        request: Request<pb::UpdateApiKeyRequest>,
    ) -> Result<Response<pb::UpdateApiKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(api_keys::update(&self.0, &call, &request).await?))
    }

    async fn rotate_api_key(
        &self,
        request: Request<pb::RotateApiKeyRequest>,
    ) -> Result<Response<pb::RotateApiKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(api_keys::rotate(&self.0, &call, &request).await?))
    }

    async fn revoke_api_key(
        &self,
        request: Request<pb::RevokeApiKeyRequest>,
    ) -> Result<Response<pb::RevokeApiKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(api_keys::revoke(&self.0, &call, &request).await?))
    }

    async fn get_o_auth_client(
        &self,
        request: Request<pb::GetOAuthClientRequest>,
    ) -> Result<Response<pb::GetOAuthClientResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(oauth::get(&self.0, &call, &request).await?))
    }

    async fn update_o_auth_client(
        &self,
        request: Request<pb::UpdateOAuthClientRequest>,
    ) -> Result<Response<pb::UpdateOAuthClientResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(oauth::update(&self.0, &call, &request).await?))
    }

    async fn rotate_o_auth_client_secret(
        &self,
        request: Request<pb::RotateOAuthClientSecretRequest>,
    ) -> Result<Response<pb::RotateOAuthClientSecretResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(oauth::rotate(&self.0, &call, &request).await?))
    }

    async fn verify_key(
        &self,
        request: Request<pb::VerifyKeyRequest>,
    ) -> Result<Response<pb::VerifyKeyResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(verify::verify(&self.0, &call, &request).await?))
    }

    async fn batch_verify_keys(
        &self,
        request: Request<pb::BatchVerifyKeysRequest>,
    ) -> Result<Response<pb::BatchVerifyKeysResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(verify::batch(&self.0, &call, &request).await?))
    }

    type ImportKeysStream = import::Answers;

    async fn import_keys(
        &self,
        request: Request<Streaming<pb::ImportKeysRequest>>,
    ) -> Result<Response<Self::ImportKeysStream>, Status> {
        let (call, requests) = Call::of(request)?;
        Ok(Response::new(import::start(self.0.clone(), call, requests)))
    }

    async fn who_am_i(
        &self,
        request: Request<pb::WhoAmIRequest>,
    ) -> Result<Response<pb::WhoAmIResponse>, Status> {
        let (call, _) = Call::of(request)?;
        Ok(Response::new(api_keys::who_am_i(&self.0, &call).await?))
    }

    async fn list_roles(
        &self,
        request: Request<pb::ListRolesRequest>,
    ) -> Result<Response<pb::ListRolesResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let (roles, next_page_token) = list::roles(&call, &request)?;
        Ok(Response::new(pb::ListRolesResponse { roles, next_page_token }))
    }
}
