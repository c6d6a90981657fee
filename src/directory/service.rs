//! The RPCs on what tenants point at.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{accounts, domains, environments};
use crate::{
    error::{Error, Result, Violation},
    pb::{self, ErrorReason, directory_service_server::DirectoryService},
    rpc::{Call, mutate::Change},
    server::Shared,
    wire::reference,
};

/// Serves `DirectoryService`.
pub struct Directory(pub Arc<Shared>);

#[tonic::async_trait]
impl DirectoryService for Directory {
    async fn create_account(
        &self,
        request: Request<pb::CreateAccountRequest>,
    ) -> Result<Response<pb::CreateAccountResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.on_system("accounts")?;
        let new = accounts::NewAccount::try_from(&request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let account = Some(accounts::create(change, &new).await?.into());
                Ok(pb::CreateAccountResponse { account })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn get_account(
        &self,
        request: Request<pb::GetAccountRequest>,
    ) -> Result<Response<pb::GetAccountResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let account_id = call.account_id("account_id", &request.account_id)?;

        let account =
            self.0.read(&call, async |conn| accounts::find(conn, &call, account_id).await).await?;

        let answer = pb::GetAccountResponse { account: Some(account.into()) };
        Ok(Response::new(answer))
    }

    async fn list_accounts(
        &self,
        request: Request<pb::ListAccountsRequest>,
    ) -> Result<Response<pb::ListAccountsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let query = accounts::Query::read(&call, &request)?;

        let (accounts, next_page_token) =
            self.0.read(&call, async |conn| query.run(conn, &call).await).await?;

        let accounts = accounts.into_iter().map(pb::Account::from).collect();
        let answer = pb::ListAccountsResponse { accounts, next_page_token };
        Ok(Response::new(answer))
    }

    async fn update_account(
        &self,
        request: Request<pb::UpdateAccountRequest>,
    ) -> Result<Response<pb::UpdateAccountResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let account = Some(accounts::update(change, &request).await?.into());
                Ok(pb::UpdateAccountResponse { account })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn delete_account(
        &self,
        request: Request<pb::DeleteAccountRequest>,
    ) -> Result<Response<pb::DeleteAccountResponse>, Status> {
        let (call, request) = Call::of(request)?;
        call.account_id("account_id", &request.account_id)?;
        let call = call.on_system("accounts")?;
        let account_id = reference("account_id", &request.account_id)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                accounts::delete(change, account_id, &request.etag).await?;
                Ok(pb::DeleteAccountResponse {})
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn create_environment(
        &self,
        request: Request<pb::CreateEnvironmentRequest>,
    ) -> Result<Response<pb::CreateEnvironmentResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.on_system("environments")?;
        let new = environments::NewEnvironment::try_from(&request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let environment = Some(environments::create(change, &new).await?.into());
                Ok(pb::CreateEnvironmentResponse { environment })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn get_environment(
        &self,
        request: Request<pb::GetEnvironmentRequest>,
    ) -> Result<Response<pb::GetEnvironmentResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let environment_id = reference("environment_id", &request.environment_id)?;

        let environment =
            self.0.read(&call, async |conn| environments::find(conn, environment_id).await).await?;

        let answer = pb::GetEnvironmentResponse { environment: Some(environment.into()) };
        Ok(Response::new(answer))
    }

    async fn list_environments(
        &self,
        request: Request<pb::ListEnvironmentsRequest>,
    ) -> Result<Response<pb::ListEnvironmentsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let query = environments::Query::read(&call, &request)?;

        let (environments, next_page_token) =
            self.0.read(&call, async |conn| query.run(conn, &call).await).await?;

        let environments = environments.into_iter().map(pb::Environment::from).collect();
        let answer = pb::ListEnvironmentsResponse { environments, next_page_token };
        Ok(Response::new(answer))
    }

    async fn update_environment(
        &self,
        request: Request<pb::UpdateEnvironmentRequest>,
    ) -> Result<Response<pb::UpdateEnvironmentResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.on_system("environments")?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let environment = Some(environments::update(change, &request).await?.into());
                Ok(pb::UpdateEnvironmentResponse { environment })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn delete_environment(
        &self,
        request: Request<pb::DeleteEnvironmentRequest>,
    ) -> Result<Response<pb::DeleteEnvironmentResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.on_system("environments")?;
        let environment_id = reference("environment_id", &request.environment_id)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                environments::delete(change, environment_id, &request.etag).await?;
                Ok(pb::DeleteEnvironmentResponse {})
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn create_domain(
        &self,
        request: Request<pb::CreateDomainRequest>,
    ) -> Result<Response<pb::CreateDomainResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.on_system("domains")?;
        let name = request.domain.as_ref().map_or("", |domain| &domain.domain_id);
        let new =
            domains::read_name(name).map_err(|why| Error::invalid("domain.domain_id", why))?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let domain = Some(domains::create(change, &new).await?.into());
                Ok(pb::CreateDomainResponse { domain })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn get_domain(
        &self,
        request: Request<pb::GetDomainRequest>,
    ) -> Result<Response<pb::GetDomainResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.unnarrowed();
        let domain_id = domains::read_name(&request.domain_id)
            .map_err(|why| Error::invalid("domain_id", why))?;

        let domain = self.0.read(&call, async |conn| domains::find(conn, &domain_id).await).await?;

        let answer = pb::GetDomainResponse { domain: Some(domain.into()) };
        Ok(Response::new(answer))
    }

    async fn list_domains(
        &self,
        request: Request<pb::ListDomainsRequest>,
    ) -> Result<Response<pb::ListDomainsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.unnarrowed();
        let query = domains::Query::read(&call, &request)?;

        let (domains, next_page_token) =
            self.0.read(&call, async |conn| query.run(conn, &call).await).await?;

        let domains = domains.into_iter().map(pb::Domain::from).collect();
        let answer = pb::ListDomainsResponse { domains, next_page_token };
        Ok(Response::new(answer))
    }

    async fn delete_domain(
        &self,
        request: Request<pb::DeleteDomainRequest>,
    ) -> Result<Response<pb::DeleteDomainResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.on_system("domains")?;
        let domain_id = domains::read_name(&request.domain_id)
            .map_err(|why| Error::invalid("domain_id", why))?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                domains::delete(change, &domain_id, &request.etag).await?;
                Ok(pb::DeleteDomainResponse {})
            })
            .await?;

        Ok(Response::new(answer))
    }
}

/// What an update mask names of the fields that can be changed; an empty mask names those present.
/// `fixed` are the id, which names the record, and the fields that only the service writes: a mask may
/// name them, to no effect.
pub(super) fn masked(
    mask: Option<&prost_types::FieldMask>,
    fields: &[(&'static str, bool)],
    fixed: &[&str],
) -> Result<Vec<&'static str>> {
    let paths = mask.map(|mask| &mask.paths[..]).unwrap_or_default();
    if paths.is_empty() {
        return Ok(fields.iter().filter(|(_, present)| *present).map(|(name, _)| *name).collect());
    }
    if paths.iter().any(|path| path == "*") {
        return Ok(fields.iter().map(|(name, _)| *name).collect());
    }
    let known = |path: &String| fields.iter().map(|(name, _)| *name).find(|name| name == path);
    let refused = |path: &String| {
        let names = fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let text = format!("names \"{path}\", which cannot be changed; what can: {names}");
        Violation::of(ErrorReason::ImmutableField, "update_mask", text)
    };
    let unknown = paths
        .iter()
        .filter(|path| known(path).is_none() && !fixed.contains(&path.as_str()))
        .map(refused)
        .collect::<Vec<_>>();
    if unknown.is_empty() {
        Ok(paths.iter().filter_map(known).collect())
    } else {
        Err(Error::Invalid(unknown))
    }
}
