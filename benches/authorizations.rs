//! What it costs to count and to list the tenants that authorize an application, when a million do: see
//! `docs/performance.md`.
//!
//! A service in this process, with a private Postgres of its own, called over loopback. The tenants are those of
//! `tenantry seed`, and what they authorize is written by one statement as the owner. Printed are ratios of calls that
//! alternate within one round. At the end many grant and revoke at once, while others count, and the counters are
//! compared with a full count.

#![expect(clippy::unwrap_used, reason = "a benchmark ends where it cannot go on")]
#![expect(clippy::cast_precision_loss, reason = "times and counts are small")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use diesel::{QueryableByName, sql_query, sql_types};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use futures_util::future::join_all;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use secrecy::ExposeSecret as _;
use tenantry::{
    config::Settings,
    db::connect,
    pb::{
        self, authorization_service_client::AuthorizationServiceClient,
        key_service_client::KeyServiceClient, tenant_service_client::TenantServiceClient,
    },
    seed::{self, Plan},
    start,
};
use tokio::sync::oneshot;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

/// The account that publishes.
const ACCOUNT: &str = "default";
const APPLICATION: &str = "bench";
const ENVIRONMENT: &str = "production";

/// Every tenant of the seed authorizes the application, and every hundredth once revoked it.
const AUTHORIZE: &str = "
    insert into tenant_authorizations (
        tenant_uid, authorization_id, tenant_id, application_id, publisher_account_id, environment, state,
        granted_scopes, path, authorizer_name, authorizer_email, authorizer, grant_time, valid_until, revoke_time,
        revoked_by, revoke_reason, revoke_contact, update_time, version
    )
    select uid, gen_random_uuid(), tenant_id, 'bench', 'default', 'production', had.state, '{read}', 'OPERATOR', '', '',
        'bench', create_time, case when had.state = 'ACTIVE' and number % 10 = 0 then timestamptz '2199-01-01Z' end,
        had.revoke_time, who, who, who, create_time, 1
    from (select uid, tenant_id, create_time, row_number() over () as number from tenants) as numbered
    cross join lateral (values
        ('ACTIVE', null::timestamptz, null),
        ('REVOKED', create_time, 'bench')
    ) as had (state, revoke_time, who)
    where had.state = 'ACTIVE' or number % 100 = 0;

    insert into authorized_tenants
    select tenant_uid, publisher_account_id, place.application_id, environment, tenant_id,
        count(*) filter (where state = 'ACTIVE'), bool_or(state = 'REVOKED')
    from tenant_authorizations as had
    cross join lateral (values (''), (had.application_id)) as place (application_id)
    group by 1, 2, 3, 4, 5;

    insert into authorized_tenant_counts
    select publisher_account_id, application_id, environment, get_byte(uuid_send(tenant_uid), 15) % 32, count(*)
    from authorized_tenants where live > 0
    group by 1, 2, 3, 4;";

/// Where the counters are not what there is.
const DIFFERENCES: &str = "
    select count(*) as number from (
        select publisher_account_id, place.application_id, environment, count(distinct tenant_uid) as tenants
        from tenant_authorizations as had
        cross join lateral (values (''), (had.application_id)) as place (application_id)
        where state = 'ACTIVE'
        group by 1, 2, 3
    ) as had
    full join (
        select publisher_account_id, application_id, environment, sum(tenants) as tenants
        from authorized_tenant_counts group by 1, 2, 3
    ) as booked using (publisher_account_id, application_id, environment)
    where coalesce(had.tenants, 0) <> coalesce(booked.tenants, 0)";

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = sql_types::BigInt)]
    number: i64,
}

async fn number(owner: &mut AsyncPgConnection, query: &str) -> i64 {
    sql_query(query).get_result::<Number>(owner).await.unwrap().number
}

#[tokio::main]
async fn main() {
    let number_of =
        |name: &str, otherwise: u32| env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let tenants = number_of("TENANTRY_BENCH_TENANTS", 1_000_000);
    let rounds = number_of("TENANTRY_BENCH_ROUNDS", 5);
    let calls = number_of("TENANTRY_BENCH_CALLS", 200);
    let folder = env::var_os("TENANTRY_BENCH_DIR")
        .map_or_else(|| env::temp_dir().join("tenantry-bench"), PathBuf::from);
    let mut server =
        Server::start(&folder.join(format!("authorizations-{tenants}")), tenants).await;
    println!(
        "{tenants} tenants authorize an application; {rounds} rounds of {calls} calls of each\n"
    );
    println!("{:58} {:>7} {:>7} {:>9} {:>9}", "A beside B", "ratio", "worst", "A", "B");

    Bench { rounds, calls }.run(&server).await;
    storm(&mut server).await;

    server.stop.send(()).unwrap();
    server.stopped.await.unwrap();
}

/// A service on a database of its own.
struct Server {
    root: Caller,
    publisher: Caller,
    sample: Vec<pb::AuthorizedTenant>,
    /// Behind half of all pages.
    deep: String,
    owner: AsyncPgConnection,
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
        let (url, _) = start::create_database(cluster, start::PRIVATE_DATABASE).await.unwrap();
        let plan = Plan { tenants, seed: 1, beside_others: false };
        let before = Instant::now();
        seed::fill(&url, plan, |_| {}).await.unwrap();
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

        let mut owner = connect(url.expose_secret()).await.unwrap();
        owner.batch_execute("set role tenantry_owner").await.unwrap();
        if number(&mut owner, "select count(*) as number from tenant_authorizations").await == 0 {
            root.publish().await;
            owner.batch_execute(AUTHORIZE).await.unwrap();
            let tables = "tenant_authorizations, authorized_tenants, authorized_tenant_counts";
            owner.batch_execute(&format!("vacuum (analyze) {tables}")).await.unwrap();
        }
        eprintln!("{tenants} tenants authorize an application after {:.0?}", before.elapsed());

        let publisher = root.publishers_key().await;
        let (mut sample, mut token, mut deep) = (Vec::new(), String::new(), String::new());
        for page in 0.. {
            let (found, next) = publisher.list(1000, "", &token).await;
            sample.extend(found.into_iter().step_by(101));
            if page == tenants / 2000 {
                deep.clone_from(&next);
            }
            if next.is_empty() {
                break;
            }
            token = next;
        }
        Self { root, publisher, sample, deep, owner, stop, stopped }
    }

    fn any<'a>(&'a self, chance: &mut StdRng) -> &'a pb::AuthorizedTenant {
        &self.sample[chance.random_range(0..self.sample.len())]
    }
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

    fn authorizations(&self) -> AuthorizationServiceClient<Channel> {
        AuthorizationServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    async fn publish(&self) {
        let application = pb::Application {
            application_id: APPLICATION.to_owned(),
            account_id: ACCOUNT.to_owned(),
            name: Some("Benchmark".to_owned()),
            environments: vec![ENVIRONMENT.to_owned()],
            scopes: vec!["read".to_owned()],
            ..Default::default()
        };
        let message =
            pb::CreateApplicationRequest { application: Some(application), ..Default::default() };
        self.authorizations().create_application(self.request(message)).await.unwrap();
    }

    async fn publishers_key(&self) -> Self {
        let api_key = pb::ApiKey { roles: vec!["app-publisher".to_owned()], ..Default::default() };
        let message = pb::CreateApiKeyRequest { api_key: Some(api_key), ..Default::default() };
        let mut request = self.request(message);
        request.metadata_mut().insert("x-account-id", ACCOUNT.parse().unwrap());
        let mut keys = KeyServiceClient::new(self.channel.clone());
        let made = keys.create_api_key(request).await.unwrap().into_inner();
        Self { channel: self.channel.clone(), key: made.secret }
    }

    async fn get(&self, tenant_id: &str) {
        let message = pb::GetTenantRequest { tenant_id: tenant_id.to_owned() };
        let mut tenants = TenantServiceClient::new(self.channel.clone());
        tenants.get_tenant(self.request(message)).await.unwrap();
    }

    /// How many tenants there are in the environment, for the application or for its account.
    async fn count(&self, application_id: &str) -> i64 {
        let message = pb::CountAuthorizedTenantsRequest {
            application_id: application_id.to_owned(),
            ..Default::default()
        };
        let request = self.request(message);
        let answer = self.authorizations().count_authorized_tenants(request).await.unwrap();
        let counts = answer.into_inner().counts;
        counts.iter().find(|count| count.environment == ENVIRONMENT).unwrap().tenant_count
    }

    async fn list(
        &self,
        size: i32,
        filter: &str,
        token: &str,
    ) -> (Vec<pb::AuthorizedTenant>, String) {
        let message = pb::ListAuthorizedTenantsRequest {
            page_size: size,
            page_token: token.to_owned(),
            filter: filter.to_owned(),
            environment: ENVIRONMENT.to_owned(),
            application_id: APPLICATION.to_owned(),
            ..Default::default()
        };
        let request = self.request(message);
        let answer = self.authorizations().list_authorized_tenants(request).await.unwrap();
        let answer = answer.into_inner();
        (answer.authorized_tenants, answer.next_page_token)
    }

    /// Ends what a tenant authorizes, and grants it anew.
    async fn renew(&self, tenant_id: &str) -> Result<(), Status> {
        let filter = format!("tenant_id = \"{tenant_id}\" AND state = ACTIVE");
        let message = pb::ListAuthorizationsRequest { filter, ..Default::default() };
        let found = self.authorizations().list_authorizations(self.request(message)).await?;
        for authorization in found.into_inner().authorizations {
            let message = pb::RevokeAuthorizationRequest {
                authorization_id: authorization.authorization_id,
                contact_email: "bench@example.com".to_owned(),
                reason: "benchmark".to_owned(),
                ..Default::default()
            };
            self.authorizations().revoke_authorization(self.request(message)).await?;
        }
        self.grant(tenant_id).await
    }

    async fn grant(&self, tenant_id: &str) -> Result<(), Status> {
        let message = pb::GrantAuthorizationRequest {
            tenant_id: tenant_id.to_owned(),
            application_id: APPLICATION.to_owned(),
            environment: ENVIRONMENT.to_owned(),
            ..Default::default()
        };
        self.authorizations().grant_authorization(self.request(message)).await.map(drop)
    }
}

#[derive(Clone, Copy)]
enum Percentile {
    P50,
    P95,
}

struct Bench {
    rounds: u32,
    calls: u32,
}

impl Bench {
    async fn run(&self, server: &Server) {
        let Server { root, publisher, deep, .. } = server;
        let get = async |chance: &mut StdRng| root.get(&server.any(chance).tenant_id).await;
        let of_application = async |_: &mut StdRng| assert!(publisher.count(APPLICATION).await > 0);
        let of_account = async |_: &mut StdRng| assert!(publisher.count("").await > 0);
        let first = async |_: &mut StdRng| drop(publisher.list(50, "", "").await);
        let far = async |_: &mut StdRng| drop(publisher.list(50, "", deep).await);
        let by_id = async |chance: &mut StdRng| {
            let filter = format!("tenant_id = \"{}\"", server.any(chance).tenant_id);
            assert_eq!(publisher.list(50, &filter, "").await.0.len(), 1, "{filter}");
        };
        let by_name = async |chance: &mut StdRng| {
            let name = server.any(chance).name.replace('\\', "\\\\").replace('"', "\\\"");
            let filter = format!("name:\"{name}\"");
            assert!(!publisher.list(50, &filter, "").await.0.is_empty(), "{filter}");
        };
        for percentile in [Percentile::P50, Percentile::P95] {
            let p = percentile.name();
            let name = |what: &str, beside: &str| format!("{what} beside {beside}, {p}");
            let of = name("CountAuthorizedTenants of an application", "GetTenant");
            self.compare(&of, percentile, of_application, get).await;
            let of = name("CountAuthorizedTenants of an account", "GetTenant");
            self.compare(&of, percentile, of_account, get).await;
            let of = name("ListAuthorizedTenants: page 1", "GetTenant");
            self.compare(&of, percentile, first, get).await;
            let of = name("ListAuthorizedTenants: a deep page", "page 1");
            self.compare(&of, percentile, far, first).await;
            let of = name("ListAuthorizedTenants: by id", "GetTenant");
            self.compare(&of, percentile, by_id, get).await;
            let of = name("ListAuthorizedTenants: by name", "GetTenant");
            self.compare(&of, percentile, by_name, get).await;
        }
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
            let (of_a, of_b) = (percentile.of(of_a), percentile.of(of_b));
            results.push((of_a.as_secs_f64() / of_b.as_secs_f64(), of_a, of_b));
        }
        results.remove(0);
        results.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ratio, of_a, of_b) = results[results.len() / 2];
        let worst = results.last().unwrap().0;
        println!("{name:58} {ratio:>7.2} {worst:>7.2} {of_a:>9.2?} {of_b:>9.2?}");
    }
}

impl Percentile {
    fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P95 => "p95",
        }
    }

    fn of(self, mut times: Vec<Duration>) -> Duration {
        let share = match self {
            Self::P50 => 0.50,
            Self::P95 => 0.95,
        };
        times.sort();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = (times.len() as f64 * share) as usize;
        times[index.min(times.len() - 1)]
    }
}

/// Many end and grant what tenants authorize at once, while others count; then the counters are compared with what
/// there is.
async fn storm(server: &mut Server) {
    const WRITERS: usize = 16;
    const CHANGES: usize = 50;
    let mut chance = StdRng::seed_from_u64(2);
    let before = Instant::now();

    let writers = (0..WRITERS).map(|_| {
        let picked = (0..CHANGES).map(|_| server.any(&mut chance).tenant_id.clone());
        let (picked, root) = (picked.collect::<Vec<_>>(), server.root.clone());
        tokio::spawn(async move {
            let mut refused = 0;
            for tenant_id in picked {
                // Two may be at the same tenant: the other one's change is as good.
                refused += usize::from(root.renew(&tenant_id).await.is_err());
            }
            refused
        })
    });
    let writers = writers.collect::<Vec<_>>();
    let publisher = server.publisher.clone();
    let reader = tokio::spawn(async move {
        let mut times = Vec::new();
        for _ in 0..200 {
            let start = Instant::now();
            publisher.count(APPLICATION).await;
            times.push(start.elapsed());
        }
        times
    });
    let refused = join_all(writers).await.into_iter().map(Result::unwrap).sum::<usize>();
    let took = before.elapsed();
    let times = reader.await.unwrap();

    let changes = (WRITERS * CHANGES * 2) as f64;
    println!(
        "\n{WRITERS} callers made about {:.0} changes in a second ({refused} were refused); a count meanwhile took {:.2?}",
        changes / took.as_secs_f64(),
        Percentile::P50.of(times)
    );
    let counted = server.publisher.count(APPLICATION).await;
    let there = "select count(distinct tenant_uid) as number from tenant_authorizations
        where application_id = 'bench' and state = 'ACTIVE'";
    let there = number(&mut server.owner, there).await;
    let differences = number(&mut server.owner, DIFFERENCES).await;
    println!("the counters say {counted}, and there are {there}; {differences} sums differ");
    assert_eq!((counted, differences), (there, 0));
}
