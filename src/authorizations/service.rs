//! The RPCs on applications.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::applications;
use crate::{
    error::{Error, Result},
    pb::{self, authorization_service_server::AuthorizationService},
    rpc::{Call, mutate::Change},
    server::Shared,
    wire::reference,
};

/// How long the id and the secret of a client can be that it is worth looking for.
const CLIENT_TEXT_MAX: usize = 200;

/// Serves `AuthorizationService`.
pub struct Authorizations(pub Arc<Shared>);

#[tonic::async_trait]
impl AuthorizationService for Authorizations {
    async fn create_application(
        &self,
        request: Request<pb::CreateApplicationRequest>,
    ) -> Result<Response<pb::CreateApplicationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let master = &self.0.master;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                applications::create(change, master, &request).await
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn get_application(
        &self,
        request: Request<pb::GetApplicationRequest>,
    ) -> Result<Response<pb::GetApplicationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = reference("application_id", &request.application_id)?;

        let application =
            self.0.read(&call, async |conn| applications::find(conn, &call, id).await).await?;

        let answer = pb::GetApplicationResponse { application: Some(application.into()) };
        Ok(Response::new(answer))
    }

    async fn list_applications(
        &self,
        request: Request<pb::ListApplicationsRequest>,
    ) -> Result<Response<pb::ListApplicationsResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let (found, next_page_token) = self
            .0
            .read(&call, async |conn| applications::list(conn, &call, &request).await)
            .await?;

        let applications = found.into_iter().map(pb::Application::from).collect();
        Ok(Response::new(pb::ListApplicationsResponse { applications, next_page_token }))
    }

    async fn update_application(
        &self,
        request: Request<pb::UpdateApplicationRequest>,
    ) -> Result<Response<pb::UpdateApplicationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let master = &self.0.master;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                applications::update(change, master, &request).await
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn delete_application(
        &self,
        request: Request<pb::DeleteApplicationRequest>,
    ) -> Result<Response<pb::DeleteApplicationResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                applications::delete(change, &request).await?;
                Ok(pb::DeleteApplicationResponse {})
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn rotate_application_client_secret(
        &self,
        request: Request<pb::RotateApplicationClientSecretRequest>,
    ) -> Result<Response<pb::RotateApplicationClientSecretResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let master = &self.0.master;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                applications::rotate(change, master, &request).await
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn verify_application_client(
        &self,
        request: Request<pb::VerifyApplicationClientRequest>,
    ) -> Result<Response<pb::VerifyApplicationClientResponse>, Status> {
        let (call, request) = Call::of(request)?;
        for (field, text) in
            [("client_id", &request.client_id), ("client_secret", &request.client_secret)]
        {
            if text.is_empty() {
                return Err(Error::invalid(field, "is required").into());
            }
        }
        let said = (&*request.client_id, &*request.client_secret);
        if said.0.len().max(said.1.len()) > CLIENT_TEXT_MAX || said.0.contains('\0') {
            return Ok(Response::new(pb::VerifyApplicationClientResponse::default()));
        }
        let (master, now) = (&self.0.master, self.0.clock.now());

        let proved = self
            .0
            .read(&call, async |conn| applications::prove(conn, &call, master, said, now).await)
            .await?;

        let answer = match proved {
            None => pb::VerifyApplicationClientResponse::default(),
            Some((application, environment)) => pb::VerifyApplicationClientResponse {
                valid: true,
                application: Some(application.into()),
                environment,
            },
        };
        Ok(Response::new(answer))
    }
}
