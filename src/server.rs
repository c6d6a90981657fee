//! The stack that every call goes through, on one page, and what its rooms share.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::get,
};
use diesel_async::AsyncPgConnection;
use tonic::{Status, server::NamedService, service::Routes};
use tonic_health::server::HealthReporter;
use tonic_web::GrpcWebLayer;
use tower::{ServiceBuilder, ServiceExt as _};

use crate::{
    clock::Clock,
    config::Settings,
    db::Database,
    directory::service::Directory,
    error::{Error, Result},
    events::{feed::Feed, service::Events},
    keys::{cache::KeyCache, master::MasterKey, meter::Meter, service, usage::Usage},
    longrunning::operations_server::OperationsServer,
    operations::{Signals, service::Operations},
    pb::{
        directory_service_server::DirectoryServiceServer, event_service_server::EventServiceServer,
        key_service_server::KeyServiceServer, tenant_service_server::TenantServiceServer,
    },
    rpc::{
        Call,
        identify::{Identifier, identify},
        mutate::Mutator,
        observe::{Observer, is_grpc, observe},
        permit::DESCRIPTORS,
    },
    telemetry::{Metrics, Sampling},
    tenants::service::Tenants,
};

/// What the services share.
pub struct Shared {
    /// Where everything is kept.
    pub database: Database,
    /// Makes changes.
    pub mutator: Mutator,
    /// Reads and makes keys.
    pub master: Arc<MasterKey>,
    /// Tells the time.
    pub clock: Arc<Clock>,
    /// What the operator decided.
    pub settings: Arc<Settings>,
    /// Wakes those who wait for operations.
    pub operations: Signals,
    /// Tells what is new.
    pub feed: Arc<Feed>,
    /// What this node knows of keys.
    pub keys: Arc<KeyCache>,
    /// Counts how often keys are used that have limits.
    pub meter: Arc<Meter>,
    /// Notes when keys are used.
    pub usage: Arc<Usage>,
}

impl Shared {
    /// Puts together what the services share.
    ///
    /// # Errors
    ///
    /// When settings contradict each other.
    pub fn new(
        database: Database,
        master: Arc<MasterKey>,
        clock: Arc<Clock>,
        settings: Arc<Settings>,
    ) -> Result<Self> {
        let (lease, bytes) = (settings.keys.lease, settings.keys.cache_bytes);
        let keys = Arc::new(KeyCache::new(&database, master.clone(), lease, bytes)?);
        let mutator = Mutator {
            database: database.clone(),
            master: master.clone(),
            clock: clock.clone(),
            retention: settings.idempotency.retention,
            keys: keys.clone(),
        };
        let (operations, feed) = (Signals::default(), Arc::default());
        let (meter, usage) = (Arc::default(), Arc::default());
        Ok(Self {
            database,
            mutator,
            master,
            clock,
            settings,
            operations,
            feed,
            keys,
            meter,
            usage,
        })
    }

    /// What finds out who calls.
    pub fn identifier(&self) -> Identifier {
        Identifier {
            database: self.database.clone(),
            keys: self.keys.clone(),
            usage: self.usage.clone(),
            master: self.master.clone(),
            clock: self.clock.clone(),
            strict_metadata: self.settings.strict_metadata,
        }
    }

    /// Reads within the scope of a call, in one transaction.
    ///
    /// # Errors
    ///
    /// What `act` refuses or the database reports.
    pub async fn read<T>(
        &self,
        call: &Call,
        act: impl AsyncFnOnce(&mut AsyncPgConnection) -> Result<T>,
    ) -> Result<T> {
        self.database.read(&call.scope, call.deadline, act).await
    }
}

/// Everything that answers on the port, and what tells its health.
pub async fn router(
    shared: Arc<Shared>,
    metrics: Metrics,
    sampling: Sampling,
) -> Result<(Router, HealthReporter)> {
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in SERVICES {
        health.set_service_status(*service, tonic_health::ServingStatus::Serving).await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // What errors carry, so that grpcurl can show it.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let observer = Observer {
        clock: shared.clock.clone(),
        metrics,
        sampling,
        trusted_proxies: shared.settings.trusted_proxies.clone(),
    };
    let identifier = shared.identifier();

    let router = Routes::new(health_service)
        .add_service(reflection().build_v1().map_err(Error::internal)?)
        .add_service(reflection().build_v1alpha().map_err(Error::internal)?)
        .add_service(TenantServiceServer::new(Tenants(shared.clone())))
        .add_service(DirectoryServiceServer::new(Directory(shared.clone())))
        .add_service(KeyServiceServer::new(service::Keys(shared.clone())))
        .add_service(EventServiceServer::new(Events(shared.clone())))
        .add_service(OperationsServer::new(Operations(shared)))
        .prepare()
        .into_axum_router()
        .route("/", get(|| async { WELCOME }))
        .fallback(unknown)
        .layer(from_fn_with_state(Arc::new(identifier), identify))
        // Outermost, so that it sees the refusals of everything below it.
        .layer(from_fn_with_state(Arc::new(observer), observe));
    Ok((with_grpc_web(router), health))
}

/// The services whose health is told; the empty name is the server as a whole.
pub const SERVICES: &[&str] = &[
    "",
    <TenantServiceServer<Tenants> as NamedService>::NAME,
    <DirectoryServiceServer<Directory> as NamedService>::NAME,
    <KeyServiceServer<service::Keys> as NamedService>::NAME,
    <EventServiceServer<Events> as NamedService>::NAME,
    <OperationsServer<Operations> as NamedService>::NAME,
];

const WELCOME: &str = "\
This is Tenantry, the control plane for tenants. It speaks gRPC on this port:
list its services with `grpcurl -plaintext <address> list`.
";

/// Answers what is neither a service nor a page, in the language it was asked in.
async fn unknown(request: Request) -> Response {
    if is_grpc(request.headers()) {
        Status::from(Error::MethodUnknown).into_http()
    } else {
        http::StatusCode::NOT_FOUND.into_response()
    }
}

/// Translates for browsers, whose calls are then like others.
///
/// Only what says that it is gRPC-Web goes through tonic's layer, which refuses every other request
/// over HTTP/1.1.
fn with_grpc_web(router: Router) -> Router {
    let web = router.clone().layer(
        ServiceBuilder::new()
            .layer(GrpcWebLayer::new())
            .map_request(|request: http::Request<tonic::body::Body>| request.map(Body::new)),
    );
    router.layer(from_fn(move |request: Request, next: Next| {
        let kind = request.headers().get(http::header::CONTENT_TYPE);
        let is_web = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc-web"));
        let web = is_web.then(|| web.clone());
        async move {
            match web {
                Some(web) => web.oneshot(request).await.into_response(),
                None => next.run(request).await,
            }
        }
    }))
}
