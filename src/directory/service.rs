//! The RPCs on what tenants point at.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::{accounts, backends, domains, environments, products, resellers, templates};
use crate::{
    error::{Error, Result},
    pb::{self, directory_service_server::DirectoryService},
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

    async fn create_reseller(
        &self,
        request: Request<pb::CreateResellerRequest>,
    ) -> Result<Response<pb::CreateResellerResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let reseller = Some(resellers::create(change, &request).await?);
                Ok(pb::CreateResellerResponse { reseller })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn get_reseller(
        &self,
        request: Request<pb::GetResellerRequest>,
    ) -> Result<Response<pb::GetResellerResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let found =
            self.0.read(&call, async |conn| resellers::find(conn, &call, &request).await).await?;

        Ok(Response::new(pb::GetResellerResponse { reseller: Some(found.into()) }))
    }

    async fn list_resellers(
        &self,
        request: Request<pb::ListResellersRequest>,
    ) -> Result<Response<pb::ListResellersResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let (found, next_page_token) =
            self.0.read(&call, async |conn| resellers::list(conn, &call, &request).await).await?;

        let resellers = found.into_iter().map(pb::Reseller::from).collect();
        Ok(Response::new(pb::ListResellersResponse { resellers, next_page_token }))
    }

    async fn update_reseller(
        &self,
        request: Request<pb::UpdateResellerRequest>,
    ) -> Result<Response<pb::UpdateResellerResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let reseller = Some(resellers::update(change, &request).await?);
                Ok(pb::UpdateResellerResponse { reseller })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn delete_reseller(
        &self,
        request: Request<pb::DeleteResellerRequest>,
    ) -> Result<Response<pb::DeleteResellerResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                resellers::delete(change, &request).await?;
                Ok(pb::DeleteResellerResponse {})
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn create_backend(
        &self,
        request: Request<pb::CreateBackendRequest>,
    ) -> Result<Response<pb::CreateBackendResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.on_system("backends")?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let backend = Some(backends::create(change, &request).await?);
                Ok(pb::CreateBackendResponse { backend })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn get_backend(
        &self,
        request: Request<pb::GetBackendRequest>,
    ) -> Result<Response<pb::GetBackendResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.on_system("backends")?;

        let found = self.0.read(&call, async |conn| backends::find(conn, &request).await).await?;

        Ok(Response::new(pb::GetBackendResponse { backend: Some(found.into()) }))
    }

    async fn list_backends(
        &self,
        request: Request<pb::ListBackendsRequest>,
    ) -> Result<Response<pb::ListBackendsResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.on_system("backends")?;

        let (found, next_page_token) =
            self.0.read(&call, async |conn| backends::list(conn, &call, &request).await).await?;

        let backends = found.into_iter().map(pb::Backend::from).collect();
        Ok(Response::new(pb::ListBackendsResponse { backends, next_page_token }))
    }

    async fn update_backend(
        &self,
        request: Request<pb::UpdateBackendRequest>,
    ) -> Result<Response<pb::UpdateBackendResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.on_system("backends")?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let backend = Some(backends::update(change, &request).await?);
                Ok(pb::UpdateBackendResponse { backend })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn delete_backend(
        &self,
        request: Request<pb::DeleteBackendRequest>,
    ) -> Result<Response<pb::DeleteBackendResponse>, Status> {
        let (call, request) = Call::of(request)?;
        let call = call.on_system("backends")?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                backends::delete(change, &request).await?;
                Ok(pb::DeleteBackendResponse {})
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn create_product(
        &self,
        request: Request<pb::CreateProductRequest>,
    ) -> Result<Response<pb::CreateProductResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let product = Some(products::create(change, &request).await?);
                Ok(pb::CreateProductResponse { product })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn get_product(
        &self,
        request: Request<pb::GetProductRequest>,
    ) -> Result<Response<pb::GetProductResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let found =
            self.0.read(&call, async |conn| products::find(conn, &call, &request).await).await?;

        Ok(Response::new(pb::GetProductResponse { product: Some(found.into()) }))
    }

    async fn list_products(
        &self,
        request: Request<pb::ListProductsRequest>,
    ) -> Result<Response<pb::ListProductsResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let (found, next_page_token) =
            self.0.read(&call, async |conn| products::list(conn, &call, &request).await).await?;

        let products = found.into_iter().map(pb::Product::from).collect();
        Ok(Response::new(pb::ListProductsResponse { products, next_page_token }))
    }

    async fn update_product(
        &self,
        request: Request<pb::UpdateProductRequest>,
    ) -> Result<Response<pb::UpdateProductResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let product = Some(products::update(change, &request).await?);
                Ok(pb::UpdateProductResponse { product })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn delete_product(
        &self,
        request: Request<pb::DeleteProductRequest>,
    ) -> Result<Response<pb::DeleteProductResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                products::delete(change, &request).await?;
                Ok(pb::DeleteProductResponse {})
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn create_tenant_template(
        &self,
        request: Request<pb::CreateTenantTemplateRequest>,
    ) -> Result<Response<pb::CreateTenantTemplateResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let tenant_template = Some(templates::create(change, &request).await?);
                Ok(pb::CreateTenantTemplateResponse { tenant_template })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn get_tenant_template(
        &self,
        request: Request<pb::GetTenantTemplateRequest>,
    ) -> Result<Response<pb::GetTenantTemplateResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let found =
            self.0.read(&call, async |conn| templates::find(conn, &call, &request).await).await?;

        Ok(Response::new(pb::GetTenantTemplateResponse { tenant_template: Some(found) }))
    }

    async fn list_tenant_templates(
        &self,
        request: Request<pb::ListTenantTemplatesRequest>,
    ) -> Result<Response<pb::ListTenantTemplatesResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let (found, next_page_token) =
            self.0.read(&call, async |conn| templates::list(conn, &call, &request).await).await?;

        let tenant_templates =
            found.into_iter().map(pb::TenantTemplate::try_from).collect::<Result<_>>()?;
        Ok(Response::new(pb::ListTenantTemplatesResponse { tenant_templates, next_page_token }))
    }

    async fn update_tenant_template(
        &self,
        request: Request<pb::UpdateTenantTemplateRequest>,
    ) -> Result<Response<pb::UpdateTenantTemplateResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                let tenant_template = Some(templates::update(change, &request).await?);
                Ok(pb::UpdateTenantTemplateResponse { tenant_template })
            })
            .await?;

        Ok(Response::new(answer))
    }

    async fn delete_tenant_template(
        &self,
        request: Request<pb::DeleteTenantTemplateRequest>,
    ) -> Result<Response<pb::DeleteTenantTemplateResponse>, Status> {
        let (call, request) = Call::of(request)?;

        let answer = self
            .0
            .mutator
            .mutate(&call, &request, async |change: &mut Change<'_>| {
                templates::delete(change, &request).await?;
                Ok(pb::DeleteTenantTemplateResponse {})
            })
            .await?;

        Ok(Response::new(answer))
    }
}
