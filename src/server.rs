//! The stack that every call goes through, on one page, and what its rooms share.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use axum::{
    BoxError, Router,
    body::{Body, Bytes, HttpBody},
    extract::Request,
    response::{IntoResponse as _, Response},
    routing::get,
};
use diesel_async::AsyncPgConnection;
use http::HeaderValue;
use tonic::{Status, server::NamedService, service::Routes};
use tonic_health::server::HealthReporter;
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

use crate::{
    authorizations::{asking::Turns, consent, service::Authorizations},
    clock::Clock,
    config::Settings,
    db::Database,
    directory::service::Directory,
    error::{Error, Result},
    events::{feed::Feed, service::Events},
    keys::{
        cache::KeyCache,
        master::MasterKey,
        meter::Meter,
        service,
        usage::{AuthorizationRef, Usage},
    },
    longrunning::operations_server::OperationsServer,
    mail::Mailer,
    operations::{Signals, service::Operations},
    pb::{
        authorization_service_server::AuthorizationServiceServer,
        directory_service_server::DirectoryServiceServer, event_service_server::EventServiceServer,
        key_service_server::KeyServiceServer, tenant_service_server::TenantServiceServer,
    },
    rpc::{
        Call,
        identify::{Identifier, identify},
        metadata::is_grpc,
        mutate::Mutator,
        observe::{Observer, observe},
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
    /// What this node knows of keys, and of what tenants authorize.
    pub keys: Arc<KeyCache>,
    /// Counts how often keys are used that have limits.
    pub meter: Arc<Meter>,
    /// Notes when keys are used.
    pub usage: Arc<Usage>,
    /// Notes when what tenants authorize is used.
    pub authorization_usage: Arc<Usage<AuthorizationRef>>,
    /// Sends mails.
    pub mailer: Mailer,
    /// Where calls are answered, once they are.
    pub address: OnceLock<SocketAddr>,
    /// Whose turn it is to ask for an application.
    pub turns: Turns,
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
        mailer: Mailer,
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
        let (meter, usage, authorization_usage) = (Arc::default(), Arc::default(), Arc::default());
        let address = OnceLock::new();
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
            authorization_usage,
            mailer,
            address,
            turns: Turns::default(),
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

    /// What links to this service begin with.
    pub fn public_url(&self) -> String {
        let settings = &self.settings;
        let scheme = if settings.tls.cert.is_some() { "https" } else { "http" };
        let address = self.address.get().copied().unwrap_or(settings.listen);
        settings.public_url.clone().unwrap_or_else(|| format!("{scheme}://{address}"))
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
pub async fn stack(
    shared: Arc<Shared>,
    metrics: Metrics,
    sampling: Sampling,
) -> Result<(Stack, HealthReporter)> {
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
    let keys = KeyServiceServer::new(service::Keys(shared.clone()));

    let router = Routes::new(health_service)
        .add_service(reflection().build_v1().map_err(Error::internal)?)
        .add_service(reflection().build_v1alpha().map_err(Error::internal)?)
        .add_service(TenantServiceServer::new(Tenants(shared.clone())))
        .add_service(DirectoryServiceServer::new(Directory(shared.clone())))
        .add_service(AuthorizationServiceServer::new(Authorizations(shared.clone())))
        .add_service(EventServiceServer::new(Events(shared.clone())))
        .add_service(OperationsServer::new(Operations(shared.clone())))
        .prepare()
        .into_axum_router()
        .route("/", get(|| async { WELCOME }))
        .merge(consent::pages(shared))
        .fallback(unknown);
    Ok((Stack(Arc::new(Rooms { observer, identifier, keys, router })), health))
}

/// What every request goes through, outside to inside.
///
/// One service instead of layers around the router, which would wrap each of its routes and box every call
/// once for each of them.
#[derive(Clone)]
pub struct Stack(Arc<Rooms>);

struct Rooms {
    observer: Observer,
    identifier: Identifier,
    /// Asked past the router, whose way is a twentieth of that of a verification.
    keys: KeyServiceServer<service::Keys>,
    router: Router,
}

impl Stack {
    async fn answer(&self, request: Request) -> Response {
        if !is_grpc_web(&request) {
            return self.walk(request).await;
        }
        // Translates for browsers, whose calls are then like others. What the translation does not know it passes
        // on as it is: nothing may lead from there back to here.
        let stack = self.clone();
        let inner = service_fn(move |request: http::Request<tonic::body::Body>| {
            let stack = stack.clone();
            async move { Ok::<_, Infallible>(stack.walk(request.map(Body::new)).await) }
        });
        GrpcWebLayer::new().layer(inner).oneshot(request).await.into_response()
    }

    /// The way of a request that needs no translation.
    async fn walk(&self, request: Request) -> Response {
        let Rooms { observer, identifier, keys, router } = &*self.0;
        let serve = async |request: Request| match request.uri().path().strip_prefix(KEYS) {
            Some(_) => keys.clone().call(request).await.into_response(),
            None => router.clone().call(request).await.into_response(),
        };
        // Outermost, so that it sees the refusals of everything below it.
        observe(observer, request, |request, observed| {
            identify(identifier, request, observed, serve)
        })
        .await
    }
}

impl<B> Service<http::Request<B>> for Stack
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let stack = self.clone();
        let request = request.map(Body::new);
        Box::pin(async move { Ok(stack.answer(request).await) })
    }
}

/// The beginning of the paths of `KeyService`.
const KEYS: &str = "/tenantry.v1.KeyService/";

/// The services whose health is told; the empty name is the server as a whole.
pub const SERVICES: &[&str] = &[
    "",
    <TenantServiceServer<Tenants> as NamedService>::NAME,
    <DirectoryServiceServer<Directory> as NamedService>::NAME,
    <AuthorizationServiceServer<Authorizations> as NamedService>::NAME,
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
    if content_type(&request).is_some_and(is_grpc) {
        Status::from(Error::MethodUnknown).into_http()
    } else {
        http::StatusCode::NOT_FOUND.into_response()
    }
}

/// Whether a request is for tonic's translation, which refuses every other one over HTTP/1.1.
fn is_grpc_web(request: &Request) -> bool {
    let kind = content_type(request);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc-web"))
}

fn content_type(request: &Request) -> Option<&HeaderValue> {
    request.headers().get(http::header::CONTENT_TYPE)
}
