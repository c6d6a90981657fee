//! How lists of tenants behave when there are a million of them: see `docs/performance.md`.
//!
//! Two services in this process, each with a private Postgres of its own: a large one and a small one. They
//! are called over loopback, one call at a time, as real callers do. Nothing here is a test: what is
//! printed are ratios of calls that alternate within one round, since absolute times do not carry from one
//! machine to the next.

#![expect(clippy::unwrap_used, reason = "a benchmark ends where it cannot go on")]
#![expect(clippy::cast_precision_loss, reason = "times and counts are small")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tenantry::{
    config::Settings,
    pb::{self, key_service_client::KeyServiceClient, tenant_service_client::TenantServiceClient},
    seed::{self, Plan},
    start,
};
use tokio::sync::oneshot;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

/// The account that the first tenant of a seed belongs to, which has more of them than any other.
const ACCOUNT: &str = "load-0000";

#[tokio::main]
async fn main() {
    let number =
        |name: &str, otherwise: u32| env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let tenants = number("TENANTRY_BENCH_TENANTS", 1_000_000);
    let rounds = number("TENANTRY_BENCH_ROUNDS", 5);
    let calls = number("TENANTRY_BENCH_CALLS", 200);
    let folder = env::var_os("TENANTRY_BENCH_DIR")
        .map_or_else(|| env::temp_dir().join("tenantry-bench"), PathBuf::from);
    let large = Server::start(&folder.join(format!("{tenants}")), tenants).await;
    let small = Server::start(&folder.join("1000"), 1000).await;
    println!("{tenants} tenants beside 1000; {rounds} rounds of {calls} calls of each\n");
    println!("{:58} {:>7} {:>7} {:>9} {:>9}", "A beside B", "ratio", "worst", "A", "B");

    let bench = Bench { rounds, calls };
    for reader in [&large.system, &large.account, &large.provider] {
        bench.pages(reader).await;
    }
    for reader in [&large.system, &large.account, &large.provider] {
        bench.filters(reader).await;
    }
    bench.sizes(&large.system, &small.system).await;

    large.stop().await;
    small.stop().await;
}

/// A service on a database of its own.
struct Server {
    system: Reader,
    account: Reader,
    provider: Reader,
    stop: oneshot::Sender<()>,
    stopped: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Starts a service in a folder, and fills its database if it is not yet.
    async fn start(folder: &Path, tenants: u32) -> Self {
        fs::create_dir_all(folder).unwrap();
        let settings = Arc::new(Settings::default_for_tests(folder));
        let started = start::start(settings).await.unwrap();
        let cluster = started.cluster.as_ref().unwrap();
        let (owner, _) = start::create_database(cluster, start::PRIVATE_DATABASE).await.unwrap();
        let plan = Plan { tenants, seed: 1, beside_others: false };
        let before = Instant::now();
        seed::fill(&owner, plan, |_| {}).await.unwrap();
        eprintln!("{tenants} tenants are there after {:.0?}", before.elapsed());
        let key = fs::read_to_string(started.root_key.as_ref().unwrap()).unwrap();

        let (stop, stopping) = oneshot::channel::<()>();
        let (ready, address) = oneshot::channel();
        let stopped = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopping.await;
            };
            let tell = move |address, _: &start::Started| ready.send(address).unwrap();
            start::serve(started, shutdown, tell).await.unwrap();
        });
        let endpoint = Endpoint::from_shared(format!("http://{}", address.await.unwrap())).unwrap();
        let channel = endpoint.tcp_nodelay(true).connect().await.unwrap();

        let root = Caller { channel, key: key.trim().to_owned() };
        let first = first_tenant(&root).await;
        let account = root.key_of("x-account-id", ACCOUNT, "account-admin").await;
        let provider = root.key_of("x-tenant-id", &first, "service-provider-admin").await;
        let (system, account, provider) = tokio::join!(
            Reader::new("system", root),
            Reader::new("account", account),
            Reader::new("provider", provider),
        );
        Self { system, account, provider, stop, stopped }
    }

    async fn stop(self) {
        let Self { stop, stopped, .. } = self;
        stop.send(()).unwrap();
        stopped.await.unwrap();
    }
}

/// The large service provider that a seed begins with.
async fn first_tenant(root: &Caller) -> String {
    let (tenants, _) = root.list(1, "", "").await;
    tenants[0].tenant_id.clone()
}

#[derive(Clone)]
struct Caller {
    channel: Channel,
    key: String,
}

impl Caller {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let value = format!("Bearer {}", self.key).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
        request
    }

    async fn key_of(&self, kind: &'static str, id: &str, role: &str) -> Self {
        let api_key = pb::ApiKey { roles: vec![role.to_owned()], ..Default::default() };
        let message = pb::CreateApiKeyRequest { api_key: Some(api_key), ..Default::default() };
        let mut request = self.request(message);
        request.metadata_mut().insert(kind, id.parse().unwrap());
        let mut keys = KeyServiceClient::new(self.channel.clone());
        let made = keys.create_api_key(request).await.unwrap().into_inner();
        Self { channel: self.channel.clone(), key: made.secret }
    }

    async fn get(&self, tenant_id: &str) {
        let message = pb::GetTenantRequest { tenant_id: tenant_id.to_owned() };
        let mut tenants = TenantServiceClient::new(self.channel.clone());
        tenants.get_tenant(self.request(message)).await.unwrap();
    }

    async fn list(&self, size: i32, filter: &str, token: &str) -> (Vec<pb::Tenant>, String) {
        let message = pb::ListTenantsRequest {
            page_size: size,
            page_token: token.to_owned(),
            filter: filter.to_owned(),
            ..Default::default()
        };
        let mut tenants =
            TenantServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        let answer = tenants.list_tenants(self.request(message)).await.unwrap().into_inner();
        (answer.tenants, answer.next_page_token)
    }
}

/// A caller of one kind of scope, and some of the tenants within it.
struct Reader {
    scope: &'static str,
    caller: Caller,
    /// The page behind which `token` leads.
    page: usize,
    token: String,
    sample: Vec<pb::Tenant>,
}

impl Reader {
    /// Walks the list up to page 10,000, or to the last but one, and keeps some of what it meets.
    async fn new(scope: &'static str, caller: Caller) -> Self {
        const SIZE: i32 = 1000;
        const PAGES_OF_FIFTY: usize = 20;
        let (mut sample, mut token, mut page) = (Vec::new(), String::new(), 0);
        while page < 10_000 {
            let (tenants, next) = caller.list(SIZE, "", &token).await;
            sample.extend(tenants.into_iter().step_by(101));
            if next.is_empty() {
                break;
            }
            (token, page) = (next, page + PAGES_OF_FIFTY);
        }
        Self { scope, caller, page, token, sample }
    }

    fn any<'a>(&'a self, chance: &mut StdRng) -> &'a pb::Tenant {
        &self.sample[chance.random_range(0..self.sample.len())]
    }

    async fn get_any(&self, chance: &mut StdRng) {
        self.caller.get(&self.any(chance).tenant_id).await;
    }

    /// Reads the first page of a filter; answers what it found.
    async fn find(&self, filter: &str) -> usize {
        self.caller.list(50, filter, "").await.0.len()
    }

    /// Three letters or digits in a row out of the name of some tenant.
    fn three(&self, chance: &mut StdRng) -> String {
        loop {
            let name = self.any(chance).name().chars().collect::<Vec<_>>();
            let from = chance.random_range(0..name.len() - 2);
            let three = &name[from..from + 3];
            if three.iter().all(|c| c.is_alphanumeric()) {
                return three.iter().collect();
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Percentile {
    P50,
    P95,
    P99,
}

struct Bench {
    rounds: u32,
    calls: u32,
}

impl Bench {
    async fn pages(&self, reader: &Reader) {
        let name = format!("{}: page 1 beside GetTenant, p50", reader.scope);
        let get = async |chance: &mut StdRng| reader.get_any(chance).await;
        let first = async |_: &mut StdRng| drop(reader.caller.list(50, "", "").await);
        self.compare(&name, Percentile::P50, first, get).await;
        let name = format!("{}: page {} beside page 1, p50", reader.scope, reader.page + 1);
        let deep = async |_: &mut StdRng| drop(reader.caller.list(50, "", &reader.token).await);
        let first = async |_: &mut StdRng| drop(reader.caller.list(50, "", "").await);
        self.compare(&name, Percentile::P50, deep, first).await;
    }

    async fn filters(&self, reader: &Reader) {
        let get = async |chance: &mut StdRng| reader.get_any(chance).await;
        let contains = async |chance: &mut StdRng| {
            let filter = format!("name:\"{}\"", reader.three(chance));
            assert!(reader.find(&filter).await > 0, "{filter}");
        };
        let external = async |chance: &mut StdRng| {
            let tenant = loop {
                let tenant = reader.any(chance);
                if tenant.external_ids.contains_key("1") {
                    break tenant;
                }
            };
            let filter = format!("external_ids.1 = \"{}\"", tenant.external_ids["1"]);
            assert_eq!(reader.find(&filter).await, 1, "{filter}");
        };
        let hostname = async |chance: &mut StdRng| {
            let tenant = loop {
                let tenant = reader.any(chance);
                if !tenant.hostname().is_empty() {
                    break tenant;
                }
            };
            let filter = format!("hostname = \"{}\"", tenant.hostname());
            assert_eq!(reader.find(&filter).await, 1, "{filter}");
        };
        let code = async |chance: &mut StdRng| {
            let filter = format!("code = \"{}\"", reader.any(chance).code());
            assert_eq!(reader.find(&filter).await, 1, "{filter}");
        };
        let p95 = Percentile::P95;
        let name = |what| format!("{}: {what} beside GetTenant, p95", reader.scope);
        self.compare(&name("CONTAINS of three letters"), p95, contains, get).await;
        self.compare(&name("external id"), p95, external, get).await;
        self.compare(&name("hostname"), p95, hostname, get).await;
        self.compare(&name("code"), p95, code, get).await;
    }

    async fn sizes(&self, large: &Reader, small: &Reader) {
        let get_large = async |chance: &mut StdRng| large.get_any(chance).await;
        let get_small = async |chance: &mut StdRng| small.get_any(chance).await;
        let list_large = async |_: &mut StdRng| drop(large.caller.list(50, "", "").await);
        let list_small = async |_: &mut StdRng| drop(small.caller.list(50, "", "").await);
        // A percentile that rare needs more calls to say anything.
        let bench = Self { calls: self.calls * 5, ..*self };
        let p99 = Percentile::P99;
        bench.compare("GetTenant, large beside small, p99", p99, get_large, get_small).await;
        bench.compare("ListTenants, large beside small, p99", p99, list_large, list_small).await;
    }

    /// Calls both in turn, after a round that does not count; prints the median ratio and the worst.
    async fn compare(
        &self,
        name: &str,
        percentile: Percentile,
        a: impl AsyncFn(&mut StdRng),
        b: impl AsyncFn(&mut StdRng),
    ) {
        let mut chance = StdRng::seed_from_u64(1);
        let mut results = Vec::new();
        for _ in 0..=self.rounds {
            let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
            for _ in 0..self.calls {
                let start = Instant::now();
                a(&mut chance).await;
                let between = Instant::now();
                b(&mut chance).await;
                of_a.push(between - start);
                of_b.push(between.elapsed());
            }
            let (of_a, of_b) = (at(percentile, of_a), at(percentile, of_b));
            results.push((of_a.as_secs_f64() / of_b.as_secs_f64(), of_a, of_b));
        }
        results.remove(0);
        results.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, of_a, of_b) = results[results.len() / 2];
        let worst = results.last().unwrap().0;
        println!("{name:58} {ratio:>7.2} {worst:>7.2} {of_a:>9.2?} {of_b:>9.2?}");
    }
}

fn at(percentile: Percentile, mut times: Vec<Duration>) -> Duration {
    let share = match percentile {
        Percentile::P50 => 0.50,
        Percentile::P95 => 0.95,
        Percentile::P99 => 0.99,
    };
    times.sort();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
    let index = (times.len() as f64 * share) as usize;
    times[index.min(times.len() - 1)]
}
