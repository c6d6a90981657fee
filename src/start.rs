//! From nothing to running: finds or makes what serving needs, serves, and takes it down again.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use diesel_async::{
    AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _,
};
use secrecy::SecretString;
use tokio::{sync::watch, time::Instant};

use crate::{
    authorizations,
    clock::Clock,
    config::Settings,
    db::{
        Database, Role, Scope,
        cluster::{Cluster, ClusterError, SUPERUSER},
        migrate::{self, MigrateError},
    },
    edge::{Drained, Edge, EdgeError, TlsFiles},
    error::{Error, Result, causes},
    events::{
        self, expiry, feed,
        outbox::{self, Event, Origin},
    },
    keys::{
        self,
        master::{MasterKey, MasterKeyError},
        model::{ApiKey, KeyScope, ROUTE_OF_SYSTEM, new_ref},
        roles::SYSTEM_ADMIN,
        secret::{self, KeySecret, KeyText},
    },
    mail::{self, MailError, Mailer},
    operations, purge,
    rpc::{mutate, permit::json_of},
    server::{self, Shared},
    telemetry::{Metrics, Sampling, TelemetryError},
};

/// How long the database has to answer the questions of a start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How often answers that are kept no longer are cleared away.
const SWEEP_EVERY: Duration = Duration::from_mins(10);

/// How often it is tried at once to lock what others read.
const SWEEP_ATTEMPTS: u32 = 5;

/// The database within a private cluster.
pub const PRIVATE_DATABASE: &str = "tenantry";
/// The logins within a private cluster.
const PRIVATE_MIGRATOR: &str = "tenantry_migrator";
const PRIVATE_LOGIN: &str = "tenantry";

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says by its source what it is")]
pub enum StartError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    MasterKey(#[from] MasterKeyError),
    #[error(
        "the master key is not the one that the keys in the database were made with (version \
         {version}): set keys.master_key_file to the right file"
    )]
    WrongMasterKey { version: i16 },
    #[error(transparent)]
    Edge(#[from] EdgeError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    Mail(#[from] MailError),
    #[error("{path} cannot be written: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("the private database cannot be prepared: {0}")]
    PrivateDatabase(Box<dyn std::error::Error + Send + Sync>),
    #[error("the database cannot be used: {}", causes(.0))]
    Database(#[from] Error),
}

/// What is there once everything is found or made.
pub struct Started {
    /// Everything the services need.
    pub shared: Arc<Shared>,
    /// The private cluster, unless the database is somebody else's.
    pub cluster: Option<Cluster>,
    /// The file with the first key, where the service keeps one.
    pub root_key: Option<PathBuf>,
}

/// Finds or makes the database, the schema, the master key and the first key.
///
/// # Errors
///
/// What is missing, and how to get it.
pub async fn start(settings: Arc<Settings>) -> Result<Started, StartError> {
    // On somebody else's database, every node needs the same master key: none makes its own.
    let may_make = settings.database_url.is_none();
    bring_up(settings, may_make).await
}

/// As [`start`], for the first key of an installation: makes the master key where the database knows
/// none yet.
///
/// # Errors
///
/// As [`start`].
pub async fn prepare(settings: Arc<Settings>) -> Result<Started, StartError> {
    if let Some(folder) = settings.keys.master_key_file.parent() {
        let file = |source| StartError::File { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(file)?;
    }
    bring_up(settings, true).await
}

async fn bring_up(settings: Arc<Settings>, may_make: bool) -> Result<Started, StartError> {
    let mailer = Mailer::new(&settings)?;
    let clock = Arc::new(Clock::default());
    let deadline = || Instant::now() + START_TIMEOUT;
    let (url, cluster) = match &settings.database_url {
        Some(url) => (url.clone(), None),
        None => {
            let (url, cluster) = private_database(&settings.data_dir).await?;
            (url, Some(cluster))
        }
    };
    let database = Database::new(&url, settings.pool.size, settings.statement_timeout)?;
    migrate::check(&database, deadline()).await?;

    let master_key_file = &settings.keys.master_key_file;
    // Where keys were made already, a new master key would only hide that theirs is lost.
    let is_new = known_checks(&database, deadline()).await?.is_empty();
    let master = Arc::new(if may_make && is_new {
        MasterKey::load_or_create(master_key_file)?
    } else {
        MasterKey::load(master_key_file)?
    });
    recognise(&database, &master, &clock, deadline()).await?;

    let root_key = match &cluster {
        None => None,
        Some(_) => {
            let path = settings.data_dir.join("root.key");
            ensure_root_key(&database, &master, &clock, &path, deadline()).await?;
            Some(path)
        }
    };
    let shared = Arc::new(Shared::new(database, master, clock, settings, mailer)?);
    Ok(Started { shared, cluster, root_key })
}

/// Starts the private cluster and brings its schema up to date; answers the service's URL.
async fn private_database(data_dir: &Path) -> Result<(SecretString, Cluster), StartError> {
    let cluster = Cluster::start(data_dir).await?;
    let (owner, service) =
        create_database(&cluster, PRIVATE_DATABASE).await.map_err(StartError::PrivateDatabase)?;
    for name in migrate::migrate(&owner, &service).await? {
        tracing::info!(migration = name, "migrated");
    }
    Ok((service, cluster))
}

/// Makes a database within a private cluster, if it is not there; answers the URLs of its owner and of
/// the service.
///
/// # Errors
///
/// What Postgres reports.
pub async fn create_database(
    cluster: &Cluster,
    name: &str,
) -> Result<(SecretString, SecretString), Box<dyn std::error::Error + Send + Sync>> {
    let mut conn = AsyncPgConnection::establish(&cluster.url(SUPERUSER, "postgres")).await?;
    conn.batch_execute(&format!(
        "do $$ begin
             if not exists (select from pg_roles where rolname = '{PRIVATE_MIGRATOR}') then
                 create role {PRIVATE_MIGRATOR} login createrole nobypassrls;
             end if;
         end $$"
    ))
    .await?;
    let known = diesel::sql_query("select from pg_database where datname = $1")
        .bind::<diesel::sql_types::Text, _>(name)
        .execute(&mut conn)
        .await?;
    if known == 0 {
        conn.batch_execute(&format!("create database \"{name}\" owner {PRIVATE_MIGRATOR}")).await?;
    }
    let url = |role| SecretString::from(cluster.url(role, name));
    Ok((url(PRIVATE_MIGRATOR), url(PRIVATE_LOGIN)))
}

/// What the database knows of the master key that its keys were made with.
async fn known_checks(
    database: &Database,
    deadline: Instant,
) -> Result<Vec<(i16, Vec<u8>)>, StartError> {
    let mut transaction = database.begin(&Scope::System, None, deadline).await?;
    let known = keys::store::master_key_checks(transaction.conn()).await?;
    transaction.commit().await?;
    Ok(known)
}

/// Refuses a master key that is not the one the database knows; lets it know new versions.
async fn recognise(
    database: &Database,
    master: &MasterKey,
    clock: &Clock,
    deadline: Instant,
) -> Result<(), StartError> {
    let mut transaction = database.begin(&Scope::System, None, deadline).await?;
    let known = keys::store::master_key_checks(transaction.conn()).await?;
    let held = std::iter::once((0, master.permutation_check()))
        .chain(master.versions().filter_map(|version| Some((version, master.check(version)?))))
        .collect::<std::collections::BTreeMap<_, _>>();
    for (version, check) in &known {
        if held.get(version).is_none_or(|held| held[..] != check[..]) {
            return Err(StartError::WrongMasterKey { version: *version });
        }
    }
    for (version, check) in &held {
        let conn = transaction.conn();
        keys::store::insert_master_key_check(conn, *version, check, clock.now()).await?;
    }
    Ok(transaction.commit().await?)
}

/// Makes sure that a file has a key that the database knows.
async fn ensure_root_key(
    database: &Database,
    master: &MasterKey,
    clock: &Clock,
    path: &Path,
    deadline: Instant,
) -> Result<(), StartError> {
    if let Ok(text) = fs::read_to_string(path)
        && let Ok(parsed) = secret::parse(master, text.trim())
    {
        let mut transaction = database.begin_as(Role::Verifier, deadline).await?;
        let known = keys::store::is_there(transaction.conn(), parsed.key_ref).await?;
        transaction.commit().await?;
        // A key that was revoked stays where it is: whoever revoked it has another.
        if known {
            return Ok(());
        }
    }
    let text = create_admin_key(database, master, clock, deadline).await?;
    let file = |source| StartError::File { path: path.to_owned(), source };
    let draft = path.with_extension("key.new");
    let _ = fs::remove_file(&draft);
    let mut out = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(file)?;
    writeln!(out, "{}", text.reveal())
        .and_then(|()| out.sync_all())
        .and_then(|()| fs::rename(&draft, path))
        .map_err(file)
}

/// Makes a key of the system with the role system-admin, straight in the database.
///
/// # Errors
///
/// What the database reports.
pub async fn create_admin_key(
    database: &Database,
    master: &MasterKey,
    clock: &Clock,
    deadline: Instant,
) -> Result<KeyText> {
    let now = clock.now();
    let secret = KeySecret::generate();
    let (digest, version) = master.digest_now(&secret.sha256());
    let key_ref = new_ref(ROUTE_OF_SYSTEM, now);
    let key = ApiKey {
        route: key_ref.route,
        number: key_ref.number,
        scope: KeyScope::System,
        account_id: None,
        tenant_uid: None,
        name: "root".to_owned(),
        roles: vec![Some(SYSTEM_ADMIN.to_owned())],
        environment: None,
        reseller_id: None,
        backend_ids: Vec::new(),
        description: String::new(),
        digest: digest.as_bytes().to_vec(),
        master_key_version: version,
        expire_time: None,
        created_by: "system".to_owned(),
        create_time: now,
        revoke_time: None,
        revoked_by: None,
        revoke_reason: None,
        version: 1,
        enabled: true,
        old_digest: None,
        old_master_key_version: None,
        old_end_time: None,
        rate_requests: None,
        rate_window_seconds: None,
        credits_amount: None,
        credits_refill_amount: None,
        credits_refill_seconds: None,
        limits_version: 0,
    };
    let mut transaction = database.begin(&Scope::System, None, deadline).await?;
    keys::store::insert(transaction.conn(), &key).await?;
    let told = keys::wire::message(key, "", master, now);
    let correlation_id = clock.uuid().to_string();
    let origin = Origin {
        method: "tenantry key create",
        actor: "system",
        on_behalf_of: None,
        correlation_id: &correlation_id,
    };
    let event = Event {
        kind: "api_key.created",
        account_id: None,
        tenant: None,
        resource_type: "api_key",
        resource_id: &told.api_key_id,
        before: None,
        after: Some(json_of(&told)),
    };
    outbox::append(transaction.conn(), clock.uuid(), origin, now, event).await?;
    transaction.commit().await?;
    Ok(secret::mint(master, None, key_ref, &secret))
}

/// Serves until `shutdown`, then drains and takes everything down.
///
/// `ready` is told the address once calls are answered.
///
/// # Errors
///
/// When the port cannot be had.
pub async fn serve(
    started: Started,
    shutdown: impl Future<Output = ()> + Send + 'static,
    ready: impl FnOnce(std::net::SocketAddr, &Started),
) -> Result<(), StartError> {
    let settings = started.shared.settings.clone();
    let tls = tls_files(&settings);
    if tls.is_none() && !settings.listen.ip().is_loopback() {
        tracing::warn!("keys cross the network in clear: set tls.cert and tls.key");
    }
    if settings.listen.ip().is_unspecified() && settings.public_url.is_none() {
        let listen = settings.listen;
        tracing::warn!(%listen, "links in mails lead nowhere: set public_url to what people reach");
    }
    let edge = Edge::bind(settings.listen, tls, settings.shutdown.drain).await?;
    let metrics = Metrics::new(&settings);
    let sampling = Sampling::new(&settings)?;
    // What links begin with, where the port was left to the system.
    let _ = started.shared.address.set(edge.local_addr());
    let (stack, health) = server::stack(started.shared.clone(), metrics, sampling).await?;
    let sweeper = tokio::spawn(sweep(started.shared.clone()));
    let (stop, stopped) = watch::channel(false);
    let worker = tokio::spawn(operations::worker::work(started.shared.clone(), stopped));
    let purger = tokio::spawn(purge::run(started.shared.clone()));
    let follower = tokio::spawn(follow(started.shared.clone()));
    let herald = tokio::spawn(expiry::run(started.shared.clone()));
    let postman = tokio::spawn(mail::run(started.shared.clone()));
    let closer = tokio::spawn(authorizations::expiry::run(started.shared.clone()));
    let Shared { usage, authorization_usage, meter, database, .. } = &*started.shared;
    let noters = [
        tokio::spawn(keys::usage::run(usage.clone(), database.clone())),
        tokio::spawn(keys::usage::run(authorization_usage.clone(), database.clone())),
    ];
    let tidier = tokio::spawn(keys::meter::run(meter.clone(), database.clone()));
    let feed = started.shared.feed.clone();
    ready(edge.local_addr(), &started);

    let shutdown = async move {
        shutdown.await;
        tracing::info!("draining");
        let _ = stop.send(true);
        // What they were amid is undone and found again by the next start, or by another node now.
        sweeper.abort();
        purger.abort();
        herald.abort();
        closer.abort();
        postman.abort();
        // Streams never end by themselves.
        feed.close();
        for service in server::SERVICES {
            health.set_service_status(*service, tonic_health::ServingStatus::NotServing).await;
        }
    };
    match edge.serve(stack, shutdown).await {
        Drained::Clean => tracing::info!("drained"),
        Drained::Forced { connections } => {
            tracing::warn!(connections, "the drain deadline passed: connections were cut");
        }
    }
    // It was told to stop when the drain began, and does so no later than calls do.
    let _ = worker.await;
    for noter in noters {
        noter.abort();
    }
    tidier.abort();
    settle(&started.shared).await;
    follower.abort();
    let _ = follower.await;
    if let Err(error) = feed::leave(&started.shared).await {
        tracing::warn!(error = causes(&error), "others wait for this node until its lease is over");
    }
    if let Some(cluster) = started.cluster {
        cluster.stop().await;
    }
    Ok(())
}

/// Writes down what was only counted so far, and gives back what was not used up.
async fn settle(shared: &Shared) {
    if let Err(error) = shared.usage.flush(&shared.database).await {
        tracing::warn!(error = causes(&error), "when keys were used last was not written down");
    }
    if let Err(error) = shared.authorization_usage.flush(&shared.database).await {
        tracing::warn!(
            error = causes(&error),
            "when authorizations were used last was not written down"
        );
    }
    if let Err(error) = shared.meter.give_back(&shared.database).await {
        tracing::warn!(error = causes(&error), "unused credits were not given back");
    }
}

fn tls_files(settings: &Settings) -> Option<TlsFiles> {
    let tls = &settings.tls;
    Some(TlsFiles {
        cert: tls.cert.clone()?,
        key: tls.key.clone()?,
        client_ca: tls.client_ca.clone(),
    })
}

/// Follows the feed for the whole node.
async fn follow(shared: Arc<Shared>) {
    if let Err(error) = feed::run(shared).await {
        tracing::error!(error = causes(&error), "the feed cannot be followed");
    }
}

/// Clears away, from time to time, what is kept no longer, and makes room for the events to come.
async fn sweep(shared: Arc<Shared>) {
    loop {
        if let Err(error) = sweep_once(&shared).await {
            tracing::warn!(error = causes(&error), "what has expired could not be cleared away");
        }
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

/// Clears away what has expired.
///
/// # Errors
///
/// What the database reports.
pub async fn sweep_once(shared: &Shared) -> Result<()> {
    let deadline = Instant::now() + START_TIMEOUT;
    let mut transaction = shared.database.begin_as(Role::Worker, deadline).await?;
    let rows = mutate::delete_expired_records(transaction.conn()).await?;
    let operations = operations::store::delete_expired(transaction.conn()).await?;
    transaction.commit().await?;
    let weeks = keep_partitions(shared, deadline).await?;
    let mails = mail::forget(shared).await?;
    tracing::debug!(rows, operations, weeks, mails, "cleared away what has expired");
    Ok(())
}

/// Makes and drops the partitions of events. By itself, since it waits for whoever reads them, though not for long.
async fn keep_partitions(shared: &Shared, deadline: Instant) -> Result<i32> {
    let keep = shared.settings.events.retention;
    let mut attempt = 1;
    loop {
        let mut transaction = shared.database.begin_as(Role::Worker, deadline).await?;
        let now = shared.clock.now();
        match events::store::keep_partitions(transaction.conn(), now, keep).await {
            Err(Error::Contended(_)) if attempt < SWEEP_ATTEMPTS => attempt += 1,
            weeks => {
                let weeks = weeks?;
                transaction.commit().await?;
                return Ok(weeks);
            }
        }
    }
}
