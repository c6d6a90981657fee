//! What a verification costs, and how long a revocation takes: see `docs/performance.md`.
//!
//! The services run in processes of their own, on the first core; the callers are in this one, on the second.
//! What is compared alternates, round by round, and is told as ratios: absolute times do not carry from one
//! machine to the next.

#![expect(clippy::unwrap_used, reason = "a benchmark ends where it cannot go on")]
#![expect(clippy::cast_precision_loss, reason = "times and counts are small")]

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::{Body, to_bytes};
use bytes::{BufMut as _, BytesMut};
use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use futures_util::future::join_all;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost_reflect::prost::Message as _;
use tenantry::{
    config::Settings,
    db::cluster::SUPERUSER,
    edge::Edge,
    events::feed,
    keys::{
        master::MasterKey,
        model::{new_ref, route_of_tenant},
        secret::{self, KeySecret},
    },
    pb::{
        self, authorization_service_client::AuthorizationServiceClient,
        key_service_client::KeyServiceClient, tenant_service_client::TenantServiceClient,
    },
    server, start,
    telemetry::{self, Metrics, Sampling},
};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};

/// As the service has it, and for the no-op as well: what is compared is what is done, not with what.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CONNECTIONS: usize = 8;
const CALLERS: usize = 64;
const VERIFY: &str = "/tenantry.v1.KeyService/VerifyKey";
const BATCH: &str = "/tenantry.v1.KeyService/BatchVerifyKeys";
const CHECK: &str = "/tenantry.v1.AuthorizationService/CheckAuthorization";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

fn main() {
    let mut arguments = env::args().skip(1);
    match arguments.next().as_deref() {
        Some("serve-noop") => serve_noop(&fs::read(arguments.next().unwrap()).unwrap()),
        Some("serve") => serve(Path::new(&arguments.next().unwrap()), None),
        Some("serve-observed") => {
            // A collector that is not there takes as little of the processor as one can take.
            serve(Path::new(&arguments.next().unwrap()), Some("http://127.0.0.1:9".to_owned()));
        }
        _ => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
            runtime.unwrap().block_on(measure());
        }
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Keeps this process on a core, where there is more than one.
fn pin(core: &str) {
    let id = std::process::id().to_string();
    let _ = Command::new("taskset").args(["-cp", core, &id]).stdout(Stdio::null()).status();
}

/// Lets processes run on all cores again, for what is compared with what does so too.
fn unpin(ids: &[u32]) {
    for id in ids {
        let _ = Command::new("taskset").args(["-acp", "0-1023", &id.to_string()]).output();
    }
}

/// A service that does nothing: it answers what it was given, whatever is asked.
fn serve_noop(answer: &[u8]) {
    pin("0");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.unwrap().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let answer = pb::VerifyKeyResponse::decode(answer).unwrap();
        let router =
            tonic::service::Routes::new(Noop(Arc::new(answer))).prepare().into_axum_router();
        axum::serve(tonic_nodelay::NoDelay(listener), router).await.unwrap();
    });
}

/// A listener whose connections do not wait for more to send.
mod tonic_nodelay {
    use axum::serve::Listener;
    use tokio::net::{TcpListener, TcpStream};

    pub(crate) struct NoDelay(pub TcpListener);

    impl Listener for NoDelay {
        type Io = TcpStream;
        type Addr = std::net::SocketAddr;

        async fn accept(&mut self) -> (TcpStream, Self::Addr) {
            let (stream, address) = Listener::accept(&mut self.0).await;
            stream.set_nodelay(true).unwrap();
            (stream, address)
        }

        fn local_addr(&self) -> std::io::Result<Self::Addr> {
            self.0.local_addr()
        }
    }
}

#[derive(Clone)]
struct Noop(Arc<pb::VerifyKeyResponse>);

impl tonic::server::NamedService for Noop {
    const NAME: &'static str = "tenantry.v1.KeyService";
}

impl tonic::server::UnaryService<pb::VerifyKeyRequest> for Noop {
    type Response = pb::VerifyKeyResponse;
    type Future = std::future::Ready<Result<Response<Self::Response>, Status>>;

    fn call(&mut self, _: Request<pb::VerifyKeyRequest>) -> Self::Future {
        std::future::ready(Ok(Response::new((*self.0).clone())))
    }
}

impl tower::Service<http::Request<tonic::body::Body>> for Noop {
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let codec =
                tonic_prost::ProstCodec::<pb::VerifyKeyResponse, pb::VerifyKeyRequest>::default();
            Ok(tonic::server::Grpc::new(codec).unary(service, request).await)
        })
    }
}

/// Tenantry itself, on a database that is there already.
fn serve(folder: &Path, collector: Option<String>) {
    pin("0");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.unwrap().block_on(async {
        let url = fs::read_to_string(folder.join("url")).unwrap();
        let mut settings = Settings::default_for_tests(folder);
        settings.database_url = Some(url.into());
        settings.otlp.endpoint = collector;
        let settings = Arc::new(settings);
        // As in service: counted, timed, and with its log lines.
        let _telemetry = telemetry::init(&settings).unwrap();
        let started = start::start(settings.clone()).await.unwrap();
        let edge = Edge::bind(settings.listen, None, settings.shutdown.drain).await.unwrap();
        let (metrics, sampling) = (Metrics::new(&settings), Sampling::new(&settings).unwrap());
        let shared = started.shared;
        let (stack, _health) = server::stack(shared.clone(), metrics, sampling).await.unwrap();
        println!("{}", edge.local_addr());
        tokio::spawn(async move { feed::run(shared).await.unwrap() });
        let _ = edge.serve(stack, std::future::pending()).await;
    });
}

/// The time that a process has had of the processor.
fn cpu_of(process: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().collect::<Vec<_>>();
    let ticks = [11, 12].map(|place| fields[place].parse::<u64>().unwrap());
    Duration::from_millis((ticks[0] + ticks[1]) * 10)
}

/// A process that serves.
struct Server {
    process: Child,
    /// For what comes before and beside.
    channels: Vec<Channel>,
    /// For what is measured: callers that take less of the processor than those of a library.
    connections: Vec<SendRequest<Body>>,
}

impl Server {
    async fn start(arguments: &[&str]) -> Self {
        let mut process = Command::new(env::current_exe().unwrap())
            .args(arguments)
            .env("OTEL_TRACES_SAMPLER_ARG", "0.01")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        let endpoint = Endpoint::from_shared(format!("http://{}", address.trim())).unwrap();
        let connect = || async { endpoint.clone().tcp_nodelay(true).connect().await.unwrap() };
        let channels = join_all((0..CONNECTIONS).map(|_| connect())).await;
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            let stream = tokio::net::TcpStream::connect(address.trim()).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let shaken = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (sender, connection) = shaken.unwrap();
            tokio::spawn(connection);
            connections.push(sender);
        }
        Self { process, channels, connections }
    }

    /// The time that its process has had of the processor.
    fn cpu(&self) -> Duration {
        cpu_of(self.process.id())
    }

    /// Calls for a time; answers calls a second, and the processor's time for each in microseconds.
    async fn call(&self, work: &Work, time: Duration) -> (f64, f64) {
        let (start, cpu) = (Instant::now(), self.cpu());
        let done = AtomicU64::new(0);
        let callers = (0..CALLERS).map(|caller| {
            let (mut connection, done) = (self.connections[caller % CONNECTIONS].clone(), &done);
            async move {
                while start.elapsed() < time {
                    work.call(&mut connection).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        join_all(callers).await;
        let calls = done.load(Ordering::Relaxed) as f64;
        let cpu = self.cpu().checked_sub(cpu).unwrap();
        (calls / start.elapsed().as_secs_f64(), cpu.as_secs_f64() * 1e6 / calls)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What is called, again and again.
struct Work {
    path: &'static str,
    /// As it stands in the body.
    message: bytes::Bytes,
    authorization: http::HeaderValue,
}

impl Work {
    fn new(path: &'static str, message: &[u8], key: &str) -> Self {
        let mut framed = BytesMut::with_capacity(message.len() + 5);
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).unwrap());
        framed.put_slice(message);
        let authorization = format!("Bearer {key}").parse().unwrap();
        Self { path, message: framed.freeze(), authorization }
    }

    /// Calls, and answers the body.
    async fn call(&self, connection: &mut SendRequest<Body>) -> bytes::Bytes {
        let request = http::Request::post(format!("http://localhost{}", self.path))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", &self.authorization)
            .body(Body::from(self.message.clone()));
        connection.ready().await.unwrap();
        let response = connection.send_request(request.unwrap()).await.unwrap();
        let refused = response.headers().get("grpc-message");
        assert!(!response.headers().contains_key("grpc-status"), "it is refused: {refused:?}");
        to_bytes(Body::new(response.into_body()), usize::MAX).await.unwrap()
    }
}

async fn measure() {
    let rounds = number("TENANTRY_BENCH_ROUNDS", 5);
    let seconds = Duration::from_secs(number("TENANTRY_BENCH_SECONDS", 5));
    let many = number("TENANTRY_BENCH_KEYS", 200_000);
    let folder = env::var_os("TENANTRY_BENCH_DIR")
        .map_or_else(|| env::temp_dir().join("tenantry-bench"), PathBuf::from)
        .join("verify");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();

    // The database, and keys to verify.
    let settings = Arc::new(Settings::default_for_tests(&folder));
    let started = start::start(settings.clone()).await.unwrap();
    let root = fs::read_to_string(started.root_key.as_ref().unwrap()).unwrap().trim().to_owned();
    let cluster = started.cluster.as_ref().unwrap();
    // The database has all cores; the callers keep to one.
    pin("1");
    fs::write(folder.join("url"), cluster.url("tenantry", start::PRIVATE_DATABASE)).unwrap();
    let tenantry = Server::start(&["serve", &folder.to_string_lossy()]).await;
    let keys = Box::pin(keys(&tenantry, &root, many, cluster, &started.shared.master)).await;

    let ask = |key: &str| pb::VerifyKeyRequest {
        key: key.to_owned(),
        environment: "production".into(),
        client_ip: "192.0.2.1".into(),
        ..Default::default()
    };
    let work = |path, message: Vec<u8>| Work::new(path, &message, &keys.verifier);
    let hot = work(VERIFY, ask(&keys.texts[0]).encode_to_vec());
    let answer = hot.call(&mut tenantry.connections[0].clone()).await.split_off(5);
    assert!(pb::VerifyKeyResponse::decode(&*answer).unwrap().valid);
    let sample = folder.join("answer");
    fs::write(&sample, &answer).unwrap();
    let noop = Server::start(&["serve-noop", &sample.to_string_lossy()]).await;
    println!(
        "{CALLERS} callers on {CONNECTIONS} connections; {rounds} rounds of {seconds:?}; a request of {} and \
         an answer of {} bytes\n",
        hot.message.len() - 5,
        answer.len()
    );
    println!(
        "{:52} {:>8} {:>8} {:>8} {:>8} {:>8} {:>10}",
        "A beside a no-op", "calls/s", "worst", "CPU", "worst", "µs", "most/s"
    );

    let mut forged = keys.texts[0].clone().into_bytes();
    forged[20] = if forged[20] == b'A' { b'B' } else { b'A' };
    let forged = ask(&String::from_utf8(forged).unwrap());
    let hundred = pb::BatchVerifyKeysRequest {
        requests: keys.texts[..100].iter().map(|key| ask(key)).collect(),
    };
    let check = work(CHECK, authorize(&tenantry, &root).await.encode_to_vec());
    let answer = check.call(&mut tenantry.connections[0].clone()).await.split_off(5);
    assert!(pb::CheckAuthorizationResponse::decode(&*answer).unwrap().allowed);
    let rows = [
        ("VerifyKey, known", &hot, 1.0),
        ("CheckAuthorization, known", &check, 1.0),
        ("VerifyKey, forged", &work(VERIFY, forged.encode_to_vec()), 1.0),
        ("Health.Check, through the same layers", &work(HEALTH, Vec::new()), 1.0),
        ("BatchVerifyKeys of 100, for each key", &work(BATCH, hundred.encode_to_vec()), 100.0),
    ];
    for (name, work, items) in rows {
        compare(name, &tenantry, work, items, &noop, &hot, rounds, seconds).await;
    }
    let observed = Server::start(&["serve-observed", &folder.to_string_lossy()]).await;
    let name = "VerifyKey, known; measured, and 1 % traced";
    compare(name, &observed, &hot, 1.0, &noop, &hot, rounds, seconds).await;
    let name = "VerifyKey, known; the same beside that without";
    compare(name, &observed, &hot, 1.0, &tenantry, &hot, rounds, seconds).await;
    drop(observed);
    let hot = Arc::new(hot);
    tails(&tenantry, &hot, seconds, None).await;
    let writes = Writes { root: root.clone(), keys: &keys };
    tails(&tenantry, &hot, seconds, Some(writes)).await;
    unpin(&[std::process::id(), tenantry.process.id()]);
    misses(&tenantry, &keys, cluster, rounds).await;
    drop((tenantry, noop));
    revocations(&folder, &root, cluster).await;
    started.cluster.unwrap().stop().await;
}

/// Keys of a tenant.
struct Keys {
    /// The key of who verifies.
    verifier: String,
    texts: Vec<String>,
    ids: Vec<String>,
}

/// Makes a tenant and so many keys, straight in the database: what is measured is how they verify.
async fn keys(
    server: &Server,
    root: &str,
    many: u64,
    cluster: &tenantry::db::cluster::Cluster,
    master: &MasterKey,
) -> Keys {
    let tenant = pb::Tenant {
        tenant_id: "bench".into(),
        name: Some("Bench".into()),
        description: Some(String::new()),
        r#type: pb::TenantType::Product.into(),
        organization_kind: pb::OrganizationKind::Enterprise.into(),
        ..Default::default()
    };
    let mut tenants = TenantServiceClient::new(server.channels[0].clone());
    let request = pb::CreateTenantRequest { tenant: Some(tenant), ..Default::default() };
    let tenant = tenants.create_tenant(by(root, request)).await.unwrap().into_inner();
    let tenant = tenant.tenant.unwrap();
    let mut service = KeyServiceClient::new(server.channels[0].clone());
    let api_key = pb::ApiKey { roles: vec!["key-verifier".into()], ..Default::default() };
    let request = pb::CreateApiKeyRequest { api_key: Some(api_key), ..Default::default() };
    let verifier = service.create_api_key(by(root, request)).await.unwrap().into_inner().secret;

    let uid = tenant.uid.parse::<uuid::Uuid>().unwrap();
    let (mut texts, mut ids) = (Vec::new(), Vec::new());
    let url = cluster.url(SUPERUSER, start::PRIVATE_DATABASE);
    let mut conn = AsyncPgConnection::establish(&url).await.unwrap();
    let mut number = 0_i64;
    while (texts.len() as u64) < many {
        let rows = (0..5_000.min(many - texts.len() as u64)).map(|_| {
            let secret = KeySecret::generate();
            number += 1;
            let base = new_ref(route_of_tenant(uid), chrono::DateTime::UNIX_EPOCH);
            let key_ref = secret::KeyRef { number: 1_700_000_000_000_000 + number, ..base };
            texts.push(secret::mint(master, None, key_ref, &secret).reveal().to_owned());
            ids.push(key_ref.public_id(master).to_string());
            let digest = master.digest(1, &secret).unwrap();
            format!(
                "({}, {}, 'TENANT', 'default', '{uid}', 'k', '', '{{tenant-management}}', '{{}}', '\\x{}', 1, \
                 'bench', now(), 1)",
                key_ref.route,
                key_ref.number,
                hex::encode(digest.as_bytes())
            )
        });
        let rows = rows.collect::<Vec<_>>().join(",");
        conn.batch_execute(&format!(
            "insert into api_keys (route, number, scope, account_id, tenant_uid, name, description, roles, \
             backend_ids, digest, master_key_version, created_by, create_time, version) values {rows}"
        ))
        .await
        .unwrap();
    }
    conn.batch_execute("analyze api_keys").await.unwrap();
    Keys { verifier, texts, ids }
}

/// Lets an application act on the tenant; answers what asks whether it may.
async fn authorize(server: &Server, root: &str) -> pb::CheckAuthorizationRequest {
    let mut service = AuthorizationServiceClient::new(server.channels[0].clone());
    let application = pb::Application {
        application_id: "bench".into(),
        account_id: "default".into(),
        name: Some("Bench".into()),
        environments: vec!["production".into()],
        scopes: vec!["read".into()],
        ..Default::default()
    };
    let new = pb::CreateApplicationRequest { application: Some(application), ..Default::default() };
    service.create_application(by(root, new)).await.unwrap();
    let grant = pb::GrantAuthorizationRequest {
        tenant_id: "bench".into(),
        application_id: "bench".into(),
        environment: "production".into(),
        ..Default::default()
    };
    service.grant_authorization(by(root, grant)).await.unwrap();
    pb::CheckAuthorizationRequest {
        tenant_id: "bench".into(),
        application_id: "bench".into(),
        environment: "production".into(),
        scopes: vec!["read".into()],
        ..Default::default()
    }
}

#[expect(clippy::too_many_arguments, reason = "two sides of a comparison")]
async fn compare(
    name: &str,
    ours: &Server,
    work: &Work,
    items: f64,
    theirs: &Server,
    reference: &Work,
    rounds: u64,
    time: Duration,
) {
    let (mut calls, mut cpu, mut micros) = (Vec::new(), Vec::new(), Vec::new());
    let mut most = 0.0_f64;
    for round in 0..=rounds {
        let (our_calls, our_cpu) = ours.call(work, time).await;
        let (their_calls, their_cpu) = theirs.call(reference, time).await;
        // The first round does not count.
        if round > 0 {
            calls.push(our_calls * items / their_calls);
            cpu.push(our_cpu / items / their_cpu);
            micros.push(our_cpu / items);
            most = most.max(our_calls * items);
        }
    }
    for list in [&mut calls, &mut cpu, &mut micros] {
        list.sort_by(f64::total_cmp);
    }
    let middle = calls.len() / 2;
    println!(
        "{name:52} {:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8.1} {most:>10.0}",
        calls[middle],
        calls[0],
        cpu[middle],
        cpu[cpu.len() - 1],
        micros[middle]
    );
}

/// What is written while the tail is measured.
struct Writes<'a> {
    root: String,
    keys: &'a Keys,
}

/// How long calls take at half of what the service can do, the slowest of them too.
async fn tails(server: &Server, hot: &Arc<Work>, time: Duration, writes: Option<Writes<'_>>) {
    let (most, _) = server.call(hot, time).await;
    let between = Duration::from_secs_f64(1.0 / (most / 2.0));
    let stop = AtomicBool::new(false);
    let revoked = AtomicU64::new(0);
    let change = async {
        let Some(Writes { root, keys }) = &writes else { return };
        // A hundred revocations a second, of keys that nobody asks for here.
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let mut revocations = tokio::task::JoinSet::new();
        for id in keys.ids.iter().rev() {
            ticks.tick().await;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let revoke = pb::RevokeApiKeyRequest {
                api_key_id: id.clone(),
                reason: "bench".into(),
                ..Default::default()
            };
            let mut service = KeyServiceClient::new(server.channels[1].clone());
            let request = by(root, revoke);
            revocations.spawn(async move { service.revoke_api_key(request).await.is_ok() });
        }
        while let Some(done) = revocations.join_next().await {
            // Of more than it takes on at a time, the service refuses some.
            revoked.fetch_add(u64::from(done.unwrap()), Ordering::Relaxed);
        }
    };
    let reader = async {
        let start = Instant::now();
        let mut latencies = Vec::new();
        let mut calls = tokio::task::JoinSet::new();
        let mut due = start;
        let mut turn = 0;
        // To wake for each call alone would take the callers more than the calls.
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        while start.elapsed() < time {
            let now = ticks.tick().await.into_std();
            // Open loop: a call is due whether or not those before it are answered.
            while due <= now {
                let mut connection = server.connections[turn % CONNECTIONS].clone();
                let (hot, was_due) = (hot.clone(), now);
                calls.spawn(async move {
                    hot.call(&mut connection).await;
                    was_due.elapsed()
                });
                turn += 1;
                due += between;
            }
            while let Some(done) = calls.try_join_next() {
                latencies.push(done.unwrap());
            }
        }
        while let Some(done) = calls.join_next().await {
            latencies.push(done.unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        latencies
    };
    let (begun, before) = (Instant::now(), cpu_of(std::process::id()));
    let (mut latencies, ()) = tokio::join!(reader, change);
    let busy = cpu_of(std::process::id()).checked_sub(before).unwrap().as_secs_f64();
    let busy = busy / begun.elapsed().as_secs_f64() * 100.0;
    latencies.sort_unstable();
    let at = |part: f64| {
        let place = ((latencies.len() - 1) as f64 * part).round();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in a list"
        )]
        latencies[place as usize].as_secs_f64()
    };
    println!(
        "\nhalf of {most:.0} calls/s{}: p50 {:.0} µs, p99 {:.1} x p50 ({:.0} µs), p99.9 {:.1} x p50; callers \
         {busy:.0} % busy",
        if writes.is_some() {
            format!(", {} revocations beside", revoked.load(Ordering::Relaxed))
        } else {
            String::new()
        },
        at(0.5) * 1e6,
        at(0.99) / at(0.5),
        at(0.99) * 1e6,
        at(0.999) / at(0.5),
    );
}

/// Keys that are not known yet, beside what pgbench reads of the same table.
async fn misses(
    server: &Server,
    keys: &Keys,
    cluster: &tenantry::db::cluster::Cluster,
    rounds: u64,
) {
    let per_round = keys.texts.len() / usize::try_from(rounds + 1).unwrap() / 2;
    let script = env::temp_dir().join("tenantry-bench-misses.sql");
    fs::write(
        &script,
        format!(
            "\\set number random(1, {})\nselect route, number, digest from api_keys where route = (select \
             min(route) from api_keys where route <> 0) and number = 1700000000000000 + :number;\n",
            keys.texts.len()
        ),
    )
    .unwrap();
    let url = cluster.url(SUPERUSER, start::PRIVATE_DATABASE);
    let mut ratios = Vec::new();
    let mut figures = Vec::new();
    for round in 0..usize::try_from(rounds).unwrap() {
        let texts = &keys.texts[1000 + round * per_round..][..per_round];
        let next = AtomicU64::new(0);
        let start = Instant::now();
        let callers = (0..CALLERS).map(|caller| {
            let (mut connection, next) = (server.connections[caller % CONNECTIONS].clone(), &next);
            async move {
                loop {
                    let place = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap();
                    let Some(key) = texts.get(place) else { return };
                    let message = pb::VerifyKeyRequest {
                        key: key.clone(),
                        environment: "production".into(),
                        ..Default::default()
                    };
                    let work = Work::new(VERIFY, &message.encode_to_vec(), &keys.verifier);
                    work.call(&mut connection).await;
                }
            }
        });
        join_all(callers).await;
        let ours = texts.len() as f64 / start.elapsed().as_secs_f64();
        let output = Command::new("pgbench")
            .args(["-n", "-M", "prepared", "-c", "16", "-j", "2", "-T", "5", "-f"])
            .arg(&script)
            .arg(&url)
            .env("PATH", format!("{}:{}", env::var("PATH").unwrap(), pg_bin()))
            .output();
        let Ok(output) = output else {
            println!("\nmisses: {ours:.0} a second (pgbench is not there to compare with)");
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let tps = text.lines().find(|line| line.starts_with("tps")).and_then(|line| {
            line.split_whitespace().nth(2).and_then(|tps| tps.parse::<f64>().ok())
        });
        let Some(theirs) = tps else {
            println!("{}", String::from_utf8_lossy(&output.stderr));
            return;
        };
        ratios.push(ours / theirs);
        figures.push((ours, theirs));
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "\nVerifyKey of keys that are not known, beside pgbench -M prepared -c 16: {:.2} (worst {:.2}); {:.0?}",
        ratios[ratios.len() / 2],
        ratios[0],
        figures[0],
    );
}

fn pg_bin() -> String {
    let mut found = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin").to_string_lossy().into_owned())
        .collect::<Vec<_>>();
    found.sort();
    found.pop().unwrap_or_default()
}

/// Revokes a key with `wait`; answers whether all nodes said that they know.
async fn revoke_one(client: &mut KeyServiceClient<Channel>, root: &str) -> bool {
    let api_key = pb::ApiKey { roles: vec!["auditor".into()], ..Default::default() };
    let create = pb::CreateApiKeyRequest { api_key: Some(api_key), ..Default::default() };
    let made = client.create_api_key(by(root, create)).await.unwrap().into_inner();
    let revoke = pb::RevokeApiKeyRequest {
        api_key_id: made.api_key.unwrap().api_key_id,
        reason: "bench".into(),
        wait: true,
        ..Default::default()
    };
    client.revoke_api_key(by(root, revoke)).await.unwrap().into_inner().confirmed
}

/// Three nodes on one database: from the commit of a revocation on one until the others refuse.
async fn revocations(folder: &Path, root: &str, cluster: &tenantry::db::cluster::Cluster) {
    let url = cluster.url("tenantry", start::PRIVATE_DATABASE);
    fs::write(folder.join("url"), url).unwrap();
    let path = folder.to_string_lossy().into_owned();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(Server::start(&["serve", &path]).await);
    }
    let number = number("TENANTRY_BENCH_REVOCATIONS", 300);
    let client = |node: usize| KeyServiceClient::new(nodes[node].channels[0].clone());
    // The node before these was killed. Until its lease has run out, nobody can know that it verifies no more.
    while !revoke_one(&mut client(0), root).await {}
    let mut visible = Vec::new();
    let mut waits = Vec::new();
    let (mut accepted_after_wait, mut calls) = (0, 0);
    for turn in 0..number {
        let api_key = pb::ApiKey { roles: vec!["auditor".into()], ..Default::default() };
        let create = pb::CreateApiKeyRequest { api_key: Some(api_key), ..Default::default() };
        let made = client(0).create_api_key(by(root, create)).await.unwrap();
        let made = made.into_inner();
        let ask = || pb::VerifyKeyRequest {
            key: made.secret.clone(),
            environment: "production".into(),
            ..Default::default()
        };
        for node in 1..3 {
            let answer = client(node).verify_key(by(root, ask())).await.unwrap();
            assert!(answer.into_inner().valid);
        }
        let wait = turn % 2 == 0;
        let revoke = pb::RevokeApiKeyRequest {
            api_key_id: made.api_key.as_ref().unwrap().api_key_id.clone(),
            reason: "bench".into(),
            wait,
            ..Default::default()
        };
        let begun = Instant::now();
        client(0).revoke_api_key(by(root, revoke)).await.unwrap();
        let committed = Instant::now();
        if wait {
            waits.push(begun.elapsed());
        }
        for node in 1..3 {
            loop {
                let sent = Instant::now();
                let answer = client(node).verify_key(by(root, ask())).await.unwrap();
                calls += 1;
                if !answer.into_inner().valid {
                    break;
                }
                accepted_after_wait += u64::from(wait && sent >= committed);
            }
            if !wait {
                visible.push(committed.elapsed());
            }
        }
    }
    visible.sort_unstable();
    waits.sort_unstable();
    let at = |list: &[Duration], percent: usize| list[(list.len() - 1) * percent / 100];
    println!(
        "\nThree nodes, {number} revocations, {calls} verifications: refused everywhere after p50 {:?}, p99 {:?}, \
         max {:?}; with wait, answered after p50 {:?}, p99 {:?}, max {:?}; accepted after wait: \
         {accepted_after_wait}",
        at(&visible, 50),
        at(&visible, 99),
        visible[visible.len() - 1],
        at(&waits, 50),
        at(&waits, 99),
        waits[waits.len() - 1],
    );
}

/// A request with a key.
fn by<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}
