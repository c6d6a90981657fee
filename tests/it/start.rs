//! From nothing to running, as people do it: the real binary, started, killed and started again.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc::RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use tenantry::{db::migrate, pb, start};
use tonic::transport::{Channel, Endpoint};

use crate::{
    app::{Caller, cluster, tenant},
    events::run_of_secrets,
};

/// Longer than any start takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// A folder of a test's own, where the user `postgres` may go too.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("tenantry-start-{}-{name}", std::process::id()));
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running binary.
pub struct Running {
    child: Child,
    log: Option<JoinHandle<String>>,
    pub address: String,
    root_key: PathBuf,
}

pub fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenantry"));
    command
        .env("TENANTRY_LISTEN", "127.0.0.1:0")
        .arg("--data-dir")
        .arg(data_dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for variable in ["DATABASE_URL", "TENANTRY_DATABASE_URL", "TENANTRY_CONFIG"] {
        command.env_remove(variable);
    }
    command
}

/// Starts the binary and waits for the line that tells its address.
pub fn run(mut command: Command, data_dir: &Path) -> Running {
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Logs would fill their pipe.
    let mut errors = child.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = errors.read_to_string(&mut text);
        text
    });
    let address =
        lines.find_map(|line| line.ok()?.strip_prefix("tenantry serves on ").map(str::to_owned));
    let Some(address) = address else {
        panic!("it did not start: {}", log.join().unwrap());
    };
    let root_key = data_dir.join("root.key");
    Running { child, log: Some(log), address, root_key }
}

impl Running {
    pub fn root(&self) -> String {
        std::fs::read_to_string(&self.root_key).unwrap().trim().to_owned()
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    pub fn tenants(
        &self,
    ) -> pb::tenant_service_client::TenantServiceClient<
        tonic::service::interceptor::InterceptedService<Channel, crate::app::Metadata>,
    > {
        let metadata = crate::app::Metadata::bearer(&self.root());
        pb::tenant_service_client::TenantServiceClient::with_interceptor(self.channel(), metadata)
    }

    pub fn operations(
        &self,
    ) -> tenantry::longrunning::operations_client::OperationsClient<
        tonic::service::interceptor::InterceptedService<Channel, crate::app::Metadata>,
    > {
        let metadata = crate::app::Metadata::bearer(&self.root());
        tenantry::longrunning::operations_client::OperationsClient::with_interceptor(
            self.channel(),
            metadata,
        )
    }

    pub async fn create(&self, id: &str) {
        let request = pb::CreateTenantRequest { tenant: Some(tenant(id)), ..Default::default() };
        self.tenants().create_tenant(request).await.unwrap();
    }

    pub async fn has(&self, id: &str) -> Result<bool, tonic::Status> {
        let request = pb::GetTenantRequest { tenant_id: id.to_owned() };
        match self.tenants().get_tenant(request).await {
            Ok(_) => Ok(true),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(false),
            Err(status) => Err(status),
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Ends it in order and answers all that it has logged.
    async fn log(mut self) -> String {
        let log = self.log.take().unwrap();
        self.end(Signal::SIGTERM).await;
        tokio::task::spawn_blocking(|| log.join().unwrap()).await.unwrap()
    }

    /// Waits without blocking the runtime, on which clients have yet to close their connections.
    pub async fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        tokio::task::spawn_blocking(move || self.child.wait().unwrap()).await.unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process of the postmaster of a data folder.
fn postmaster(data_dir: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
}

fn is_alive(process: Pid) -> bool {
    kill(process, None).is_ok()
}

pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs the binary where it ends by itself; ends it if it does not.
pub fn output(mut command: Command) -> (ExitStatus, String, String) {
    let child = command.spawn().unwrap();
    let process = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (ended, waits) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        if waits.recv_timeout(PATIENCE).is_err_and(|error| error == RecvTimeoutError::Timeout) {
            kill(process, Signal::SIGTERM).unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    watch.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status, text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn it_starts_from_nothing_and_a_second_start_finds_everything_again() {
    let folder = Folder::new("twice");
    let first = run(command(&folder.0), &folder.0);
    first.create("foo").await;
    let root = first.root();

    let status = first.end(Signal::SIGTERM).await;
    let second = run(command(&folder.0), &folder.0);

    assert!(status.success(), "{status}");
    assert_eq!(second.root(), root);
    assert!(second.has("foo").await.unwrap());
}

#[tokio::test]
async fn it_starts_again_after_it_was_killed_and_loses_nothing() {
    let folder = Folder::new("killed");
    let first = run(command(&folder.0), &folder.0);
    first.create("foo").await;

    let status = first.end(Signal::SIGKILL).await;
    let second = run(command(&folder.0), &folder.0);

    assert_eq!(status.signal(), Some(9));
    assert!(second.has("foo").await.unwrap());
}

#[tokio::test]
async fn a_master_key_that_is_lost_is_missed_and_not_replaced() {
    let folder = Folder::new("lost-key");
    run(command(&folder.0), &folder.0).end(Signal::SIGTERM).await;
    let file = folder.0.join("master.key");
    std::fs::remove_file(&file).unwrap();

    let (status, _, told) = output(command(&folder.0));

    assert!(!status.success());
    assert!(told.contains("master.key"), "{told}");
    assert!(!file.exists(), "nothing took its place");
}

#[tokio::test]
async fn it_goes_on_after_its_postgres_was_killed() {
    let folder = Folder::new("postgres-killed");
    let running = run(command(&folder.0), &folder.0);
    running.create("foo").await;

    kill(postmaster(&folder.0).unwrap(), Signal::SIGKILL).unwrap();

    until("an answer", async || running.has("foo").await.is_ok_and(|found| found)).await;
}

#[tokio::test]
async fn a_second_service_on_one_data_folder_says_so_and_exits() {
    let folder = Folder::new("two");
    let first = run(command(&folder.0), &folder.0);

    let (status, _, told) = output(command(&folder.0));

    assert!(!status.success());
    assert!(told.contains(folder.0.to_str().unwrap()), "{told}");
    assert!(told.contains(&first.child.id().to_string()), "{told}");
    assert!(!first.has("foo").await.unwrap(), "the first goes on");
}

#[tokio::test]
async fn it_drains_on_sigterm_and_leaves_no_postgres_behind() {
    let folder = Folder::new("drained");
    let running = run(command(&folder.0), &folder.0);
    running.create("foo").await;
    let postgres = postmaster(&folder.0).unwrap();

    let status = running.end(Signal::SIGTERM).await;

    assert_eq!(status.code(), Some(0));
    until("the end of postgres", async || !is_alive(postgres)).await;
}

/// 4-02: what happened in a call is found by its correlation id, in one line.
#[tokio::test]
async fn each_call_is_logged_in_one_line_that_holds_no_secret() {
    let folder = Folder::new("logged");
    let mut command = command(&folder.0);
    command.env("TENANTRY_LOG__FORMAT", "json");
    let running = run(command, &folder.0);
    let root = running.root();
    let call = async |id: &'static str, key: &str, tenant: &str| {
        let mut request =
            tonic::Request::new(pb::GetTenantRequest { tenant_id: tenant.to_owned() });
        let metadata = request.metadata_mut();
        metadata.insert("x-correlation-id", id.parse().unwrap());
        metadata.insert("authorization", format!("Bearer {key}").parse().unwrap());
        let mut client = pb::tenant_service_client::TenantServiceClient::new(running.channel());
        let _ = client.get_tenant(request).await;
    };
    running.create("foo").await;

    call("good-call", &root, "foo").await;
    call("unknown-tenant", &root, "nobody").await;
    call("bad-key", "tk_any_made_up_key", "foo").await;
    let log = running.log().await;

    for (id, code, reason, tenant) in [
        ("good-call", "Ok", None, None),
        ("unknown-tenant", "NotFound", Some("TENANT_NOT_FOUND"), None),
        ("bad-key", "Unauthenticated", Some("CREDENTIAL_INVALID"), None::<&str>),
    ] {
        let lines: Vec<_> = log.lines().filter(|line| line.contains(id)).collect();
        assert_eq!(lines.len(), 1, "{id}: {lines:#?}");
        let line: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
        let fields = &line;
        assert_eq!(fields["rpc.method"], "tenantry.v1.TenantService/GetTenant", "{line}");
        assert_eq!(fields["rpc.code"], code, "{line}");
        assert_eq!(fields["error.reason"].as_str(), reason, "{line}");
        assert_eq!(fields["tenant.id"].as_str(), tenant, "{line}");
        assert_eq!(fields["client.ip"], "127.0.0.1", "{line}");
        assert!(fields["duration_ms"].as_f64().unwrap() >= 0.0, "{line}");
        assert_eq!(fields["key.id"].is_string(), id != "bad-key", "{line}");
    }
    let secret = root.split('_').nth(3).unwrap();
    assert!(!log.contains(secret) && !log.contains("made_up_key"), "{log}");
}

/// With all that can be logged, and every call traced, to a collector that keeps what it gets.
#[tokio::test]
async fn no_secret_is_in_logs_or_traces() {
    let collected = Arc::new(Mutex::new(Vec::new()));
    let keep = collected.clone();
    let collector = axum::Router::new().fallback(async move |bytes: axum::body::Bytes| {
        keep.lock().unwrap().extend_from_slice(&bytes);
        // An answer without fields.
        ([("content-type", "application/grpc"), ("grpc-status", "0")], vec![0; 5])
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, collector).await.unwrap() });
    let folder = Folder::new("secrets");
    let mut command = command(&folder.0);
    command
        .env("TENANTRY_LOG__FILTER", "trace")
        .env("TENANTRY_OTLP__ENDPOINT", endpoint)
        .env("OTEL_TRACES_SAMPLER_ARG", "1");
    let running = run(command, &folder.0);
    let root = Caller::over(running.channel(), &running.root());

    let mut secrets = run_of_secrets(&root).await;
    for secret in &secrets {
        root.call("VerifyKey", json!({"key": secret, "environment": "production"})).await.unwrap();
        let _ = Caller::over(running.channel(), secret).call("WhoAmI", json!({})).await;
    }
    secrets.push(running.root());
    let log = running.log().await;

    let traces = String::from_utf8_lossy(&collected.lock().unwrap()).into_owned();
    for (told, what) in [(&log, "log"), (&traces, "trace")] {
        assert!(told.contains("CreateTenant") && told.contains("VerifyKey"), "a {what} of it");
        for secret in &secrets {
            assert!(!told.contains(&secret[..secret.len().min(40)]), "a {what} has a secret");
        }
    }
}

#[test]
fn without_postgres_it_says_how_to_install_it() {
    let folder = Folder::new("nothing");
    let mut command = command(&folder.0);
    command.env("TENANTRY_PG_BIN", "/nowhere");

    let (status, _, told) = output(command);

    assert!(!status.success());
    assert!(told.contains("TENANTRY_PG_BIN") || told.contains("apt-get install"), "{told}");
}

#[test]
fn an_unknown_setting_is_refused_by_its_name() {
    let folder = Folder::new("unknown");
    let mut command = command(&folder.0);
    command.env("TENANTRY_POOL__SIZZE", "3");

    let (status, _, told) = output(command);

    assert!(!status.success());
    assert!(told.to_lowercase().contains("sizze"), "{told}");
}

#[test]
fn a_port_that_is_taken_is_told_by_its_number() {
    let folder = Folder::new("port");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    let mut command = command(&folder.0);
    command.env("TENANTRY_LISTEN", port.to_string());

    let (status, _, told) = output(command);

    assert!(!status.success());
    assert!(told.contains(&port.to_string()), "{told}");
}

/// A database outside: one on the tests' own cluster, reached by URL.
struct Outside {
    folder: Folder,
    owner: SecretString,
    service: SecretString,
}

impl Outside {
    async fn new(name: &str) -> Self {
        let database = format!("outside_{name}");
        let (owner, service) = start::create_database(cluster().await, &database).await.unwrap();
        let folder = Folder::new(name);
        std::fs::create_dir_all(&folder.0).unwrap();
        Self { folder, owner, service }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(&self.folder.0);
        command
            .env("DATABASE_URL", self.service.expose_secret())
            .env("TENANTRY_MIGRATE__DATABASE_URL", self.owner.expose_secret())
            .args(arguments);
        command
    }

    fn output(&self, arguments: &[&str]) -> (ExitStatus, String, String) {
        output(self.command(arguments))
    }
}

#[tokio::test]
async fn on_an_outside_database_migrate_key_create_and_serve_lead_to_a_first_call() {
    let outside = Outside::new("whole").await;

    let (refused, _, told) = outside.output(&["key", "create", "--role", "system-admin"]);
    let (migrated, _, _) = outside.output(&["migrate"]);
    let (again, up_to_date, _) = outside.output(&["migrate"]);
    let (created, key, why) = outside.output(&["key", "create", "--role", "system-admin"]);
    let mut running = run(outside.command(&["serve"]), &outside.folder.0);
    std::fs::write(&running.root_key, key.trim()).unwrap();

    assert!(!refused.success() && told.contains("tenantry migrate"), "{told}");
    assert!(migrated.success() && again.success());
    assert!(up_to_date.contains("up to date"), "{up_to_date}");
    assert!(created.success(), "{why}");
    running.create("foo").await;
    running.child.kill().unwrap();
}

#[tokio::test]
async fn a_schema_that_it_does_not_know_is_refused_with_what_to_run() {
    let outside = Outside::new("unknown_schema").await;

    let (never, _, never_migrated) = outside.output(&["serve"]);
    outside.output(&["migrate"]);
    outside.output(&["key", "create", "--role", "system-admin"]);
    outside.output(&["migrate", "--down"]);
    let (older, _, lacks) = outside.output(&["serve"]);

    assert!(!never.success() && never_migrated.contains("tenantry migrate"), "{never_migrated}");
    assert!(!older.success() && lacks.contains("tenantry migrate"), "{lacks}");
}

#[tokio::test]
async fn another_master_key_than_the_databases_own_is_refused() {
    let outside = Outside::new("master_key").await;
    outside.output(&["migrate"]);
    outside.output(&["key", "create", "--role", "system-admin"]);
    let file = outside.folder.0.join("master.key");
    std::fs::remove_file(&file).unwrap();
    tenantry::keys::master::MasterKey::load_or_create(&file).unwrap();

    let (status, _, told) = outside.output(&["serve"]);

    assert!(!status.success());
    assert!(told.contains("keys.master_key_file"), "{told}");
    std::fs::remove_file(&file).unwrap();
    let (status, _, told) = outside.output(&["key", "create", "--role", "system-admin"]);
    assert!(!status.success());
    assert!(told.contains("master.key"), "{told}");
    assert!(!file.exists(), "nothing takes the place of one that is lost");
}

/// What the database consists of: tables, columns, constraints, indexes, policies, rights, functions.
async fn shape(database: &SecretString) -> Vec<String> {
    #[derive(diesel::QueryableByName)]
    struct Part {
        #[diesel(sql_type = diesel::sql_types::Text)]
        part: String,
    }
    let query = "
        select format('%s %s %s', relkind, relname, relacl) as part from pg_class
        where relnamespace = 'public'::regnamespace
        union all select format('column %s.%s %s %s %s', attrelid::regclass, attname,
            atttypid::regtype, attnotnull, attacl) from pg_attribute join pg_class c on c.oid = attrelid
        where c.relnamespace = 'public'::regnamespace and attnum > 0 and not attisdropped
        union all select format('constraint %s %s', conname, pg_get_constraintdef(oid))
        from pg_constraint where connamespace = 'public'::regnamespace
        union all select format('index %s', indexdef) from pg_indexes where schemaname = 'public'
        union all select format('policy %s', p) from pg_policies p where schemaname = 'public'
        union all select format('function %s', oid::regprocedure) from pg_proc
        where pronamespace = 'public'::regnamespace
        union all select format('type %s', typname) from pg_type
        where typnamespace = 'public'::regnamespace
        order by 1";
    let mut conn = tenantry::db::connect(database.expose_secret()).await.unwrap();
    let parts: Vec<Part> =
        diesel_async::RunQueryDsl::load(diesel::sql_query(query), &mut conn).await.unwrap();
    parts.into_iter().map(|part| part.part).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_migration_can_be_undone_and_done_again() {
    let outside = Outside::new("up_and_down").await;
    let done = migrate::migrate(&outside.owner, &outside.service).await.unwrap();
    let up = shape(&outside.owner).await;

    for _ in &done {
        migrate::undo(&outside.owner).await.unwrap();
    }
    let down = shape(&outside.owner).await;
    let again = migrate::migrate(&outside.owner, &outside.service).await.unwrap();

    assert_eq!(again, done);
    assert_eq!(shape(&outside.owner).await, up);
    let left: Vec<_> =
        down.iter().filter(|part| !part.contains("__diesel_schema_migrations")).collect();
    assert_eq!(left, Vec::<&String>::new(), "what was undone leaves nothing behind");
}
