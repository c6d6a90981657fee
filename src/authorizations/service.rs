//! The RPCs on applications and on what tenants authorize.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{
    applications, asking, authorized, check, counts, deciding,
    deciding::Decider,
    grants, history, list,
    requests::{self, Side},
};
use crate::{
    db::Scope,
    error::{Error, Result},
    nodes,
    pb::{self, authorization_service_server::AuthorizationService},
    rpc::{Call, mutate::Change},
    server::Shared,
    wire::reference,
};

/// How long the id and the secret of a client can be that it is worth looking for.
const CLIENT_TEXT_MAX: usize = 200;

/// Serves `AuthorizationService`.
pub struct Authorizations(pub Arc<Shared>);

/// Takes the secrets out of the answer to a rehearsal: they are no client's, or were told to whoever asked in earnest.
fn silence(rehearses: bool, clients: &mut [pb::ApplicationClient]) {
    for client in clients.iter_mut().filter(|_| rehearses) {
        client.client_secret.clear();
    }
}

#[tonic::async_trait]
impl AuthorizationService for Authorizations {
    async fn create_application(
        &self,
        request: Request<pb::CreateApplicationRequest>,
    ) -> Result<Response<pb::CreateApplicationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let master = &self.0.master;

        let mut answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                applications::create(change, master, &request).await
            })
            .await?;
        silence(request.validate_only, &mut answer.clients);

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

        let (found, next_page_token) =
            self.0.read(&call, async |conn| list::list(conn, &call, &request).await).await?;

        let applications = found.into_iter().map(pb::Application::from).collect();
        Ok(Response::new(pb::ListApplicationsResponse { applications, next_page_token }))
    }

    async fn update_application(
        &self,
        request: Request<pb::UpdateApplicationRequest>,
    ) -> Result<Response<pb::UpdateApplicationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let master = &self.0.master;

        let mut answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                applications::update(change, master, &request).await
            })
            .await?;
        silence(request.validate_only, &mut answer.clients);

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

        let mut answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                applications::rotate(change, master, &request).await
            })
            .await?;
        silence(request.validate_only, answer.client.as_mut_slice());

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

    async fn grant_authorization(
        &self,
        request: Request<pb::GrantAuthorizationRequest>,
    ) -> Result<Response<pb::GrantAuthorizationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let new = grants::New::read(&call, &request, self.0.clock.now())?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let authorization = Some(grants::grant(change, &new).await?);
                let revision = change.revision().await?;
                Ok(pb::GrantAuthorizationResponse { authorization, revision })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn request_authorization(
        &self,
        request: Request<pb::RequestAuthorizationRequest>,
    ) -> Result<Response<pb::RequestAuthorizationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let Shared { master, settings, clock, .. } = &*self.0;
        let new = asking::New::read(&request, &settings.request_environments, clock.now())?;

        let _turn = self.0.turns.take(&new.application_id).await;
        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let authorization_request = Some(asking::ask(change, master, &new).await?);
                Ok(pb::RequestAuthorizationResponse { authorization_request })
            })
            .await?;
        self.0.mailer.wake();

        Ok(Response::new(answer))
    }

    async fn request_authorization_update(
        &self,
        request: Request<pb::RequestAuthorizationUpdateRequest>,
    ) -> Result<Response<pb::RequestAuthorizationUpdateResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let Shared { master, clock, .. } = &*self.0;
        let asked = asking::Update::read(&request, clock.now())?;

        // Once it is known to be its own side's, the change is one of its tenant.
        let find = async |conn: &mut _| asking::find_own(conn, &call, asked.authorization_id).await;
        let found = self.0.read(&call, find).await?;
        let call = call.within(Scope::Tenant(found.tenant_uid()));
        let _turn = self.0.turns.take(found.application_id()).await;
        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                asking::update(change, master, &found, &asked).await
            })
            .await?;
        self.0.mailer.wake();

        Ok(Response::new(answer))
    }

    async fn get_authorization_request(
        &self,
        request: Request<pb::GetAuthorizationRequestRequest>,
    ) -> Result<Response<pb::GetAuthorizationRequestResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = requests::read_id(&request.authorization_request_id)?;

        let find = async |conn: &mut _| requests::find(conn, &call, Side::Any, id).await;
        let found = self.0.read(&call, find).await?;

        let authorization_request = Some(found.told(self.0.clock.now()));
        Ok(Response::new(pb::GetAuthorizationRequestResponse { authorization_request }))
    }

    async fn list_authorization_requests(
        &self,
        request: Request<pb::ListAuthorizationRequestsRequest>,
    ) -> Result<Response<pb::ListAuthorizationRequestsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let now = self.0.clock.now();

        let list = async |conn: &mut _| requests::list(conn, &call, &request, now).await;
        let (found, next_page_token) = self.0.read(&call, list).await?;

        let authorization_requests = found.into_iter().map(|found| found.told(now)).collect();
        let answer =
            pb::ListAuthorizationRequestsResponse { authorization_requests, next_page_token };
        Ok(Response::new(answer))
    }

    async fn approve_authorization_request(
        &self,
        request: Request<pb::ApproveAuthorizationRequestRequest>,
    ) -> Result<Response<pb::ApproveAuthorizationRequestResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = requests::read_change(&request.authorization_request_id, &request.request_id)?;

        let find = async |conn: &mut _| deciding::find(conn, &call, id).await;
        let uid = self.0.read(&call, find).await?;
        let call = call.within(Scope::Tenant(uid));
        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let decider = Decider::of_key(change.call);
                deciding::approve(change, (id, uid), decider, &request.etag).await
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn decline_authorization_request(
        &self,
        request: Request<pb::DeclineAuthorizationRequestRequest>,
    ) -> Result<Response<pb::DeclineAuthorizationRequestResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let (id, reason) = deciding::read_decline(&request)?;

        let find = async |conn: &mut _| deciding::find(conn, &call, id).await;
        let uid = self.0.read(&call, find).await?;
        let call = call.within(Scope::Tenant(uid));
        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let (decider, etag) = (Decider::of_key(change.call), &request.etag);
                let declined = deciding::decline(change, (id, uid), decider, &reason, etag).await?;
                let authorization_request = Some(declined);
                Ok(pb::DeclineAuthorizationRequestResponse { authorization_request })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn cancel_authorization_request(
        &self,
        request: Request<pb::CancelAuthorizationRequestRequest>,
    ) -> Result<Response<pb::CancelAuthorizationRequestResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = requests::read_change(&request.authorization_request_id, &request.request_id)?;

        let find = async |conn: &mut _| requests::find(conn, &call, Side::Publisher, id).await;
        let found = self.0.read(&call, find).await?;
        let call = asking::scope_of(&call, &found);
        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let cancelled = asking::cancel(change, id, &request.etag).await?;
                let authorization_request = Some(cancelled);
                Ok(pb::CancelAuthorizationRequestResponse { authorization_request })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn resend_authorization_request(
        &self,
        request: Request<pb::ResendAuthorizationRequestRequest>,
    ) -> Result<Response<pb::ResendAuthorizationRequestResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = requests::read_change(&request.authorization_request_id, &request.request_id)?;
        let master = &self.0.master;

        let find = async |conn: &mut _| requests::find(conn, &call, Side::Publisher, id).await;
        self.0.read(&call, find).await?;
        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let sent = asking::resend(change, master, id, &request.etag).await?;
                Ok(pb::ResendAuthorizationRequestResponse { authorization_request: Some(sent) })
            })
            .await?;
        self.0.mailer.wake();

        Ok(Response::new(answer))
    }

    async fn get_authorization(
        &self,
        request: Request<pb::GetAuthorizationRequest>,
    ) -> Result<Response<pb::GetAuthorizationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let id = grants::read_id(&request.authorization_id)?;

        let (found, last_used) =
            self.0.read(&call, async |conn| grants::find(conn, &call, id).await).await?;

        let authorization = Some(found.told(last_used, self.0.clock.now()));
        Ok(Response::new(pb::GetAuthorizationResponse { authorization }))
    }

    async fn list_authorizations(
        &self,
        request: Request<pb::ListAuthorizationsRequest>,
    ) -> Result<Response<pb::ListAuthorizationsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let now = self.0.clock.now();
        let query = history::Query::read(&call, &request, now)?;

        let (found, next_page_token) =
            self.0.read(&call, async |conn| query.run(conn, &call).await).await?;

        let told = found.into_iter().map(|(found, last_used)| found.told(last_used, now));
        let authorizations = told.collect();
        Ok(Response::new(pb::ListAuthorizationsResponse { authorizations, next_page_token }))
    }

    async fn count_authorized_tenants(
        &self,
        request: Request<pb::CountAuthorizedTenantsRequest>,
    ) -> Result<Response<pb::CountAuthorizedTenantsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let now = self.0.clock.now();

        let count = async |conn: &mut _| counts::count(conn, &call, &request, now).await;
        let counts = self.0.read(&call, count).await?;

        Ok(Response::new(pb::CountAuthorizedTenantsResponse { counts }))
    }

    async fn list_authorized_tenants(
        &self,
        request: Request<pb::ListAuthorizedTenantsRequest>,
    ) -> Result<Response<pb::ListAuthorizedTenantsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let query = authorized::Query::read(&call, &request, self.0.clock.now())?;

        let (authorized_tenants, next_page_token) =
            self.0.read(&call, async |conn| query.run(conn, &call).await).await?;

        let answer = pb::ListAuthorizedTenantsResponse { authorized_tenants, next_page_token };
        Ok(Response::new(answer))
    }

    async fn revoke_authorization(
        &self,
        request: Request<pb::RevokeAuthorizationRequest>,
    ) -> Result<Response<pb::RevokeAuthorizationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let why = grants::Revocation::read(&request)?;

        // From whichever side it is revoked: once it is known to be in reach, the change is one of its tenant.
        let find = async |conn: &mut _| grants::find(conn, &call, why.authorization_id).await;
        let found = self.0.read(&call, find).await?;
        let call = call.within(Scope::Tenant(found.0.tenant_uid()));
        let mut answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let authorization = Some(grants::revoke(change, &found, &why).await?);
                let revision = change.revision().await?;
                let answer = pb::RevokeAuthorizationResponse::default();
                Ok(pb::RevokeAuthorizationResponse { authorization, revision, ..answer })
            })
            .await?;
        self.0.mailer.wake();
        if request.wait && !request.validate_only {
            let told = nodes::confirm(&self.0, &answer.revision, call.deadline).await?;
            (answer.confirmed, answer.silent_node_ids) = (told.confirmed, told.silent_node_ids);
        }

        Ok(Response::new(answer))
    }

    async fn check_authorization(
        &self,
        request: Request<pb::CheckAuthorizationRequest>,
    ) -> Result<Response<pb::CheckAuthorizationResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(check::check(&self.0, &call, &request).await?))
    }

    async fn batch_check_authorizations(
        &self,
        request: Request<pb::BatchCheckAuthorizationsRequest>,
    ) -> Result<Response<pb::BatchCheckAuthorizationsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        Ok(Response::new(check::batch(&self.0, &call, &request).await?))
    }
}
