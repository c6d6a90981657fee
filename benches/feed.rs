//! What the feed costs those who make changes: see `docs/performance.md`.
//!
//! Two services in this process, each with a private Postgres of its own. Behind one, nobody follows what
//! happens; behind the other a feed polls, and watchers are told of every change. Tenants are created in both
//! in turn, by as many callers at a time. The watchers are in this process too, but do not decode what they
//! are told: that is a cost of theirs.

#![expect(clippy::unwrap_used, reason = "a benchmark ends where it cannot go on")]
#![expect(clippy::cast_precision_loss, reason = "times and counts are small")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use bytes::{Buf as _, BufMut as _};
use futures_util::future::join_all;
use tenantry::{
    config::Settings,
    edge::Edge,
    events::feed,
    pb::{self, tenant_service_client::TenantServiceClient},
    server::{self, Shared},
    start,
    telemetry::{Metrics, Sampling},
};
use tonic::{
    Request, Status,
    codec::{DecodeBuf, EncodeBuf},
    transport::{Channel, Endpoint},
};

const CALLERS: u64 = 32;
const WATCHERS: usize = 100;

#[tokio::main]
async fn main() {
    let number =
        |name: &str, otherwise: u64| env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let rounds = number("TENANTRY_BENCH_ROUNDS", 5);
    let calls = number("TENANTRY_BENCH_CALLS", 40);
    let folder = env::var_os("TENANTRY_BENCH_DIR")
        .map_or_else(|| env::temp_dir().join("tenantry-bench"), PathBuf::from);
    let alone = Server::start(&folder.join("feed-off")).await;
    let followed = Server::start(&folder.join("feed-on")).await;
    followed.follow();
    let heard = Arc::new(AtomicU64::new(0));
    println!(
        "{CALLERS} callers, {WATCHERS} watchers; {rounds} rounds of {calls} calls of each caller\n"
    );
    println!("{:58} {:>7} {:>7} {:>9} {:>9}", "A beside B", "ratio", "worst", "A", "B");

    let mut watching = 0;
    for watchers in [0, 1, WATCHERS] {
        followed.watch(watchers - watching, &heard).await;
        watching = watchers;
        let mut results = Vec::new();
        for _ in 0..=rounds {
            let with = followed.create(calls).await;
            let without = alone.create(calls).await;
            results.push((with / without, with, without));
        }
        // The first round does not count.
        results.remove(0);
        results.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, with, without) = results[results.len() / 2];
        let worst = results[0].0;
        let name = format!("CreateTenant per second, with {watchers} watchers beside no feed");
        println!("{name:58} {ratio:>7.2} {worst:>7.2} {with:>9.0} {without:>9.0}");
    }
    println!("\n{} bytes were told", heard.load(Ordering::Relaxed));
    followed.stop().await;
    alone.stop().await;
}

/// Messages as they are on the wire; of answers, how large they are.
#[derive(Default)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = u64;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = u64;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<u64>, Status> {
        let bytes = buffer.remaining();
        buffer.advance(bytes);
        Ok(Some(bytes as u64))
    }
}

struct Server {
    shared: Arc<Shared>,
    cluster: tenantry::db::cluster::Cluster,
    channel: Channel,
    key: String,
    made: AtomicU64,
}

impl Server {
    /// Starts a service in a folder of its own, in which there was none, and which nobody follows.
    async fn start(folder: &Path) -> Self {
        let _ = fs::remove_dir_all(folder);
        fs::create_dir_all(folder).unwrap();
        let settings = Arc::new(Settings::default_for_tests(folder));
        let started = start::start(settings.clone()).await.unwrap();
        let key = fs::read_to_string(started.root_key.as_ref().unwrap()).unwrap();
        let edge = Edge::bind(settings.listen, None, settings.shutdown.drain).await.unwrap();
        let (metrics, sampling) = (Metrics::new(&settings), Sampling::new(&settings).unwrap());
        let shared = started.shared;
        let (stack, _health) = server::stack(shared.clone(), metrics, sampling).await.unwrap();
        let address = edge.local_addr();
        tokio::spawn(edge.serve(stack, std::future::pending()));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        let channel = endpoint.tcp_nodelay(true).connect().await.unwrap();
        let cluster = started.cluster.unwrap();
        Self { shared, cluster, channel, key: key.trim().to_owned(), made: AtomicU64::new(0) }
    }

    fn follow(&self) {
        let shared = self.shared.clone();
        tokio::spawn(async move {
            feed::run(shared).await.unwrap();
        });
    }

    /// Lets so many more watch, and counts the bytes that they are told.
    async fn watch(&self, watchers: usize, heard: &Arc<AtomicU64>) {
        for _ in 0..watchers {
            let mut client = tonic::client::Grpc::new(self.channel.clone());
            client.ready().await.unwrap();
            let path = "/tenantry.v1.EventService/WatchEvents".parse().unwrap();
            let answers = client.server_streaming(self.request(Vec::new()), path, Raw).await;
            let mut answers = answers.unwrap().into_inner();
            let heard = heard.clone();
            tokio::spawn(async move {
                while let Ok(Some(bytes)) = answers.message().await {
                    heard.fetch_add(bytes, Ordering::Relaxed);
                }
            });
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let value = format!("Bearer {}", self.key).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    }

    /// Lets all callers create tenants, so many each; answers how many there were in a second.
    async fn create(&self, calls: u64) -> f64 {
        let start = Instant::now();
        let callers = (0..CALLERS).map(|_| async {
            for _ in 0..calls {
                let number = self.made.fetch_add(1, Ordering::Relaxed);
                let tenant = pb::Tenant {
                    name: Some(format!("Tenant {number}")),
                    description: Some(String::new()),
                    r#type: pb::TenantType::Product.into(),
                    organization_kind: pb::OrganizationKind::Enterprise.into(),
                    ..Default::default()
                };
                let tenant = Some(tenant);
                let message = pb::CreateTenantRequest { tenant, ..Default::default() };
                let mut tenants = TenantServiceClient::new(self.channel.clone());
                tenants.create_tenant(self.request(message)).await.unwrap();
            }
        });
        join_all(callers).await;
        (CALLERS * calls) as f64 / start.elapsed().as_secs_f64()
    }

    async fn stop(self) {
        self.cluster.stop().await;
    }
}
