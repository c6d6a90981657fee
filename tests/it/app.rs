//! A Tenantry of a test's own: a database of its own on one shared private cluster, served on a port of
//! its own, and clients that call it as different callers.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use bytes::{Buf as _, BufMut as _};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use prost_reflect::{DynamicMessage, SerializeOptions, prost::Message as _};
use secrecy::SecretString;
use serde_json::{Value, json};
use tenantry::{
    clock::Clock,
    config::Settings,
    db::{
        Database,
        cluster::{Cluster, SUPERUSER},
        migrate,
    },
    edge::Edge,
    events::feed,
    keys::master::MasterKey,
    longrunning::operations_client::OperationsClient,
    mail::Mailer,
    operations::worker,
    pb::{
        self, directory_service_client::DirectoryServiceClient,
        event_service_client::EventServiceClient, key_service_client::KeyServiceClient,
        tenant_service_client::TenantServiceClient,
    },
    rpc::permit::Method,
    server::{self, Shared},
    start,
    telemetry::{Metrics, Sampling},
};
use tokio::{
    sync::{Mutex, OnceCell, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tonic::{
    Request, Status,
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

/// The database that each test's own is copied from.
const TEMPLATE: &str = "template_of_tests";

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
static COPYING: Mutex<()> = Mutex::const_new(());
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The cluster that all tests of this process share; it ends with the process.
pub async fn cluster() -> &'static Cluster {
    CLUSTER
        .get_or_init(|| async {
            // On a runtime that outlives the test that happens to come first; migrations need one
            // with several threads besides.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let started = runtime.spawn(async {
                sweep();
                let dir = folder(std::process::id());
                let cluster = Cluster::start_throwaway(&dir).await.unwrap();
                let (owner, service) = start::create_database(&cluster, TEMPLATE).await.unwrap();
                migrate::migrate(&owner, &service).await.unwrap();
                cluster
            });
            std::mem::forget(runtime);
            started.await.unwrap()
        })
        .await
}

fn folder(process: u32) -> PathBuf {
    std::env::temp_dir().join(format!("tenantry-it-{process}"))
}

/// Removes what tests of processes left behind that are no more.
fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.strip_prefix("tenantry-it-").and_then(|id| id.parse::<i32>().ok());
        if let Some(process) = process
            && nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), None).is_err()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A running Tenantry.
pub struct App {
    pub shared: Arc<Shared>,
    pub address: std::net::SocketAddr,
    /// The text of the first key, which may do everything.
    pub root: String,
    database: String,
    channel: Channel,
    _stop: oneshot::Sender<()>,
    work: watch::Sender<bool>,
    following: JoinHandle<()>,
}

impl App {
    /// Waits until the node trusts what it knows.
    pub async fn follows(&self) {
        while !self.shared.keys.lease().holds() {
            let polls = self.shared.feed.polls();
            let soon = Instant::now() + std::time::Duration::from_secs(1);
            self.shared.feed.polled(polls + 1, soon).await;
        }
    }

    /// Lets the node hear of nothing any more, though it goes on answering.
    pub fn deafen(&self) {
        self.following.abort();
    }

    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts with settings other than the defaults.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let cluster = cluster().await;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let database = format!("test_{number}");
        {
            let _one_at_a_time = COPYING.lock().await;
            let mut conn = connect(&cluster.url(SUPERUSER, "postgres")).await;
            conn.batch_execute(&format!(
                "create database {database} template {TEMPLATE} owner tenantry_migrator"
            ))
            .await
            .unwrap();
        }
        let url = cluster.url("tenantry", &database);
        Self::node_of(database, &url, None, change).await
    }

    /// Another node on the same database, which it reaches by a URL of its own where there is one.
    pub async fn node(&self, url: Option<&str>, change: impl FnOnce(&mut Settings)) -> Self {
        let own = self.service_url().await;
        let url = url.unwrap_or(&own);
        Self::node_of(self.database.clone(), url, Some(&self.root), change).await
    }

    async fn node_of(
        database: String,
        url: &str,
        root: Option<&str>,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let data_dir = folder(std::process::id()).join(&database);
        fs::create_dir_all(&data_dir).unwrap();
        let mut settings = Settings::default_for_tests(&data_dir);
        change(&mut settings);
        let url = SecretString::from(url);
        let pool = Database::new(&url, settings.pool.size, settings.statement_timeout).unwrap();
        let master = Arc::new(MasterKey::load_or_create(&data_dir.join("master.key")).unwrap());
        let clock = Arc::new(Clock::default());
        let deadline = Instant::now() + std::time::Duration::from_secs(30);
        let root = match root {
            Some(root) => root.to_owned(),
            None => {
                let made = start::create_admin_key(&pool, &master, &clock, deadline).await;
                made.unwrap().reveal().to_owned()
            }
        };

        let edge = Edge::bind("127.0.0.1:0".parse().unwrap(), None, settings.shutdown.drain)
            .await
            .unwrap();
        let metrics = Metrics::new(&settings);
        let sampling = Sampling::new(&settings).unwrap();
        let mailer = Mailer::new(&settings).unwrap();
        let shared = Shared::new(pool, master, clock, Arc::new(settings), mailer).unwrap();
        let shared = Arc::new(shared);
        let (stack, _health) = server::stack(shared.clone(), metrics, sampling).await.unwrap();
        let address = edge.local_addr();
        let _ = shared.address.set(address);
        let follower = shared.clone();
        let following = tokio::spawn(async move {
            feed::run(follower).await.unwrap();
        });
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(edge.serve(stack, async {
            let _ = stopped.await;
        }));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let work = watch::Sender::new(false);
        let app = Self { shared, address, root, database, channel, _stop: stop, work, following };
        app.follows().await;
        app
    }

    /// Starts with somebody who works on operations. Without, they stay as they are scheduled.
    pub async fn start_working() -> Self {
        let app = Self::start().await;
        app.work();
        app
    }

    /// Lets somebody work on operations, one more each time.
    pub fn work(&self) -> JoinHandle<()> {
        self.work.send_replace(false);
        tokio::spawn(worker::work(self.shared.clone(), self.work.subscribe()))
    }

    /// Stops those who work on operations, as the end of the service does.
    pub fn rest(&self) {
        self.work.send_replace(true);
    }

    /// A connection that sees everything, to look at what the service did.
    pub async fn superuser(&self) -> AsyncPgConnection {
        connect(&cluster().await.url(SUPERUSER, &self.database)).await
    }

    /// A connection beside the database, for what cannot be done from within.
    pub async fn cluster_admin(&self) -> AsyncPgConnection {
        connect(&cluster().await.url(SUPERUSER, "postgres")).await
    }

    /// The URL of the service's own login on this database.
    pub async fn service_url(&self) -> String {
        cluster().await.url("tenantry", &self.database)
    }

    /// The URL of the login that may become the owner of this database's tables.
    pub async fn owner_url(&self) -> String {
        cluster().await.url("tenantry_migrator", &self.database)
    }

    /// The name of the database.
    pub fn database(&self) -> String {
        self.database.clone()
    }

    /// A caller with the first key.
    pub fn as_root(&self) -> Caller {
        self.as_key(&self.root)
    }

    /// A caller with a key.
    pub fn as_key(&self, key: &str) -> Caller {
        self.anonymous().with("authorization", &format!("Bearer {key}"))
    }

    /// A caller with a key, over a connection of its own.
    pub fn over_a_new_connection(&self, key: &str) -> Caller {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        Caller::over(endpoint.connect_lazy(), key)
    }

    /// A caller without a key.
    pub fn anonymous(&self) -> Caller {
        Caller { channel: self.channel.clone(), metadata: Metadata(Vec::new()) }
    }

    /// A channel to the port.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Makes an account and a caller with a key of it that may do everything in it.
    pub async fn account(&self, id: &str) -> Caller {
        let account = pb::Account {
            account_id: id.to_owned(),
            name: Some(id.to_owned()),
            ..Default::default()
        };
        let request = pb::CreateAccountRequest { account: Some(account), ..Default::default() };
        self.as_root().directory().create_account(request).await.unwrap();
        let key = self.as_root().with("x-account-id", id).create_key(&["account-admin"]).await;
        self.as_key(&key)
    }
}

async fn connect(url: &str) -> AsyncPgConnection {
    AsyncPgConnection::establish(url).await.unwrap()
}

/// Somebody who calls, with metadata of its own.
#[derive(Clone)]
pub struct Caller {
    channel: Channel,
    metadata: Metadata,
}

#[derive(Clone)]
pub struct Metadata(Vec<(AsciiMetadataKey, AsciiMetadataValue)>);

impl Interceptor for Metadata {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (key, value) in &self.0 {
            request.metadata_mut().append(key.clone(), value.clone());
        }
        Ok(request)
    }
}

type Intercepted = InterceptedService<Channel, Metadata>;

impl Caller {
    /// A caller with a key.
    pub fn over(channel: Channel, key: &str) -> Self {
        Self { channel, metadata: Metadata::bearer(key) }
    }

    /// The same caller with one more metadata key; twice the same key is sent twice.
    pub fn with(&self, key: &str, value: &str) -> Self {
        let mut caller = self.clone();
        caller.metadata.0.push((key.parse().unwrap(), value.parse().unwrap()));
        caller
    }

    /// The same caller with another value of what it may have sent already.
    pub fn with_instead(&self, key: &str, value: &str) -> Self {
        let mut caller = self.clone();
        caller.metadata.0.retain(|(known, _)| known.as_str() != key);
        caller.with(key, value)
    }

    pub fn tenants(&self) -> TenantServiceClient<Intercepted> {
        TenantServiceClient::with_interceptor(self.channel.clone(), self.metadata.clone())
    }

    pub fn directory(&self) -> DirectoryServiceClient<Intercepted> {
        DirectoryServiceClient::with_interceptor(self.channel.clone(), self.metadata.clone())
    }

    pub fn operations(&self) -> OperationsClient<Intercepted> {
        OperationsClient::with_interceptor(self.channel.clone(), self.metadata.clone())
    }

    pub fn events(&self) -> EventServiceClient<Intercepted> {
        EventServiceClient::with_interceptor(self.channel.clone(), self.metadata.clone())
    }

    pub fn keys(&self) -> KeyServiceClient<Intercepted> {
        KeyServiceClient::with_interceptor(self.channel.clone(), self.metadata.clone())
    }

    /// Calls any method by its path with one encoded message; answers the encoded answer, of a stream the
    /// first.
    pub async fn raw(&self, path: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
        let inner = InterceptedService::new(self.channel.clone(), self.metadata.clone());
        let mut client = tonic::client::Grpc::new(inner);
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let streams = Method::find(path).is_some_and(|method| method.streams);
        let is_over_with_caller = path.ends_with("/ImportKeys");
        let path = path.parse().unwrap();
        if streams {
            // A stream of one message is what methods take too that take one message.
            let messages = tokio_stream::once(message);
            let answers = client.streaming(Request::new(messages), path, Bytes).await?;
            let mut answers = answers.into_inner();
            let mut last = answers.message().await?.unwrap_or_default();
            // Where the caller streams, the answers are over when the requests are; elsewhere perhaps never.
            while is_over_with_caller && let Some(answer) = answers.message().await? {
                last = answer;
            }
            return Ok(last);
        }
        Ok(client.unary(Request::new(message), path, Bytes).await?.into_inner())
    }

    /// Calls a method by its name, with the JSON of its request; answers the JSON of its answer, with the
    /// names of the proto.
    pub async fn call(&self, method: &str, request: Value) -> Result<Value, Status> {
        let pool = &*tenantry::rpc::permit::POOL;
        let method = pool
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .find(|known| known.name() == method)
            .unwrap_or_else(|| panic!("there is no method {method}"));
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let request = DynamicMessage::deserialize(method.input(), request).unwrap();
        let answer = self.raw(&path, request.encode_to_vec()).await?;
        let answer = DynamicMessage::decode(method.output(), &*answer).unwrap();
        let options = SerializeOptions::new().use_proto_field_name(true);
        Ok(answer.serialize_with_options(serde_json::value::Serializer, &options).unwrap())
    }

    /// Creates a key with roles in whatever the call acts on; answers its text.
    pub async fn create_key(&self, roles: &[&str]) -> String {
        let api_key = pb::ApiKey {
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            ..Default::default()
        };
        let request = pb::CreateApiKeyRequest { api_key: Some(api_key), ..Default::default() };
        self.keys().create_api_key(request).await.unwrap().into_inner().secret
    }

    /// Creates a tenant, of [`tenant`] unless changed; below a service provider with an entitlement to
    /// nothing, which it needs there.
    pub async fn create(&self, tenant: pb::Tenant) -> Result<pb::Tenant, Status> {
        let contract = tenant.contract_mode();
        let request = pb::CreateTenantRequest { tenant: Some(tenant), ..Default::default() };
        match Box::pin(self.tenants().create_tenant(request.clone())).await {
            Err(refused) if fields(&refused) == ["entitlement"] => {
                let entitlement = Some(nothing_of_it(contract));
                let request = pb::CreateTenantRequest { entitlement, ..request };
                let answer = Box::pin(self.tenants().create_tenant(request)).await?;
                Ok(answer.into_inner().tenant.unwrap())
            }
            answer => Ok(answer?.into_inner().tenant.unwrap()),
        }
    }

    pub async fn get(&self, id: &str) -> Result<pb::Tenant, Status> {
        let request = pb::GetTenantRequest { tenant_id: id.to_owned() };
        Ok(self.tenants().get_tenant(request).await?.into_inner().tenant.unwrap())
    }

    /// Updates with an empty mask: what is present.
    pub async fn update(&self, tenant: pb::Tenant) -> Result<pb::Tenant, Status> {
        let request = pb::UpdateTenantRequest { tenant: Some(tenant), ..Default::default() };
        Ok(self.tenants().update_tenant(request).await?.into_inner().tenant.unwrap())
    }

    /// Updates the paths of a mask.
    pub async fn update_paths(
        &self,
        tenant: pb::Tenant,
        paths: &[&str],
    ) -> Result<pb::Tenant, Status> {
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        let request = pb::UpdateTenantRequest {
            tenant: Some(tenant),
            update_mask: Some(prost_types::FieldMask { paths }),
            ..Default::default()
        };
        Ok(self.tenants().update_tenant(request).await?.into_inner().tenant.unwrap())
    }

    pub async fn delete(&self, id: &str) -> Result<pb::Tenant, Status> {
        let request = pb::DeleteTenantRequest { tenant_id: id.to_owned(), ..Default::default() };
        Ok(self.tenants().delete_tenant(request).await?.into_inner().tenant.unwrap())
    }

    pub async fn undelete(&self, id: &str) -> Result<pb::Tenant, Status> {
        let request = pb::UndeleteTenantRequest { tenant_id: id.to_owned(), ..Default::default() };
        Ok(self.tenants().undelete_tenant(request).await?.into_inner().tenant.unwrap())
    }

    /// The ids of the tenants that a filter lists, in order.
    pub async fn list(&self, filter: &str, order_by: &str) -> Result<Vec<String>, Status> {
        let request = pb::ListTenantsRequest {
            filter: filter.to_owned(),
            order_by: order_by.to_owned(),
            ..Default::default()
        };
        let answer = self.tenants().list_tenants(request).await?.into_inner();
        Ok(answer.tenants.into_iter().map(|tenant| tenant.tenant_id).collect())
    }
}

/// Sends and receives messages as they are.
#[derive(Clone, Copy)]
struct Bytes;

impl tonic::codec::Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(
        &mut self,
        item: Vec<u8>,
        buffer: &mut tonic::codec::EncodeBuf<'_>,
    ) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(
        &mut self,
        buffer: &mut tonic::codec::DecodeBuf<'_>,
    ) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; buffer.remaining()];
        buffer.copy_to_slice(&mut message);
        Ok(Some(message))
    }
}

/// How many rows each table has, to see that nothing changed.
pub async fn rows(app: &App) -> BTreeMap<String, i64> {
    #[derive(diesel::QueryableByName)]
    struct Table {
        #[diesel(sql_type = diesel::sql_types::Text)]
        name: String,
    }
    let mut conn = app.superuser().await;
    let query = diesel::sql_query(
        "select table_name::text as name from information_schema.tables \
         where table_schema = 'public' and table_type = 'BASE TABLE' \
             and table_name not like 'events\\_%'",
    );
    let tables: Vec<Table> = diesel_async::RunQueryDsl::load(query, &mut conn).await.unwrap();
    let mut rows = BTreeMap::new();
    for Table { name } in tables {
        let number = count(app, &format!("select count(*) as number from {name}")).await;
        rows.insert(name, number);
    }
    rows
}

/// A request for the product that [`application`] is of.
pub fn product() -> Value {
    let package = json!({"package_code": "BASIC", "name": "Basic"});
    json!({"product": {"product_code": "PHONE", "name": "Phones", "packages": [package]}})
}

/// An installation of [`product`], with an app key and an external key.
pub fn application() -> Value {
    json!({
        "product_code": "PHONE", "package_code": "BASIC", "ttl_hours": 24,
        "app_key": {
            "config": {"production": {"commonFields": {"region": "eu"}}},
            "ext_key": {"label": "web", "env": "production"},
        },
    })
}

/// An entitlement to no transactions, under the contract of the tenant: what one below a service provider
/// has at least.
pub fn nothing_of_it(contract: pb::ContractMode) -> pb::Entitlement {
    let contract = match contract {
        pb::ContractMode::Unspecified => pb::ContractMode::Production,
        said => said,
    };
    pb::Entitlement {
        r#type: pb::EntitlementType::Transactions.into(),
        contract_mode: contract.into(),
        quantity: Some(0),
        ..Default::default()
    }
}

/// A tenant with just what creating one requires; its name is made from its id.
pub fn tenant(id: &str) -> pb::Tenant {
    pb::Tenant {
        tenant_id: id.to_owned(),
        name: Some(format!("Tenant {id}")),
        description: Some(String::new()),
        r#type: pb::TenantType::Product.into(),
        organization_kind: pb::OrganizationKind::Enterprise.into(),
        ..Default::default()
    }
}

/// The code and the reason of a refusal, such as `NotFound TENANT_NOT_FOUND`.
pub fn told(status: &Status) -> String {
    let details = status.get_error_details();
    let reason = details.error_info().map_or("no reason", |info| &info.reason);
    format!("{:?} {reason}", status.code())
}

/// The fields that a refusal of bad input names.
pub fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone());
    violations.unwrap_or_default().into_iter().map(|violation| violation.field).collect()
}

/// How many rows a query of the form `select count(*) as number …` counts, seen by a superuser.
pub async fn count(app: &App, query: &str) -> i64 {
    #[derive(diesel::QueryableByName)]
    struct Count {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        number: i64,
    }
    let mut conn = app.superuser().await;
    diesel_async::RunQueryDsl::get_result::<Count>(diesel::sql_query(query), &mut conn)
        .await
        .unwrap()
        .number
}

impl Metadata {
    /// Just a key.
    pub fn bearer(key: &str) -> Self {
        let value = format!("Bearer {key}").parse().unwrap();
        Self(vec![("authorization".parse().unwrap(), value)])
    }
}
