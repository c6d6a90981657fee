//! The command line: arguments, settings, telemetry, and then the library.

use std::{io::Write as _, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser as _;
use indicatif::{ProgressBar, ProgressStyle};
use secrecy::SecretString;
use tenantry::{
    cli::{Cli, Command, KeyCommand},
    config::Settings,
    db::migrate,
    error::causes,
    seed::{self, Plan},
    start, telemetry,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

/// Many short-lived allocations on every call: this allocator is better at them than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenantry: {}", causes(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let settings = Settings::load(&cli)?;
    match cli.command() {
        Command::Config => {
            print!("{}", settings.render());
            Ok(())
        }
        Command::Health => health(&settings).await,
        Command::Migrate { down } => migrate_outside(&settings, down).await,
        Command::Key(KeyCommand::Create { .. }) => create_key(settings).await,
        Command::Seed { tenants, seed, beside_others } => {
            fill(settings, Plan { tenants, seed, beside_others }).await
        }
        Command::Serve => serve(settings).await,
    }
}

async fn serve(settings: Settings) -> Result<(), Failure> {
    let telemetry = telemetry::init(&settings)?;
    // Before anything is started, so that no signal finds the default, which is to die at once.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let started = start::start(Arc::new(settings)).await?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    start::serve(started, shutdown, greet).await?;
    telemetry.shutdown().await;
    Ok(())
}

/// Tells a person how to make the first call; nobody need be listening.
fn greet(address: std::net::SocketAddr, started: &start::Started) {
    let plaintext = if started.shared.settings.tls.cert.is_some() { "" } else { "-plaintext " };
    let (how, key) = match &started.root_key {
        Some(path) => {
            let path = path.display();
            (format!("the first key is in {path}; try:"), format!("$(cat '{path}')"))
        }
        None => (
            "make a key with `tenantry key create --role system-admin`, then try:".to_owned(),
            "$KEY".to_owned(),
        ),
    };
    let _ = writeln!(
        std::io::stdout(),
        "tenantry serves on {address}\n{how}\n  grpcurl {plaintext}-H \"authorization: Bearer {key}\" \
         {address} tenantry.v1.KeyService/WhoAmI"
    );
}

async fn migrate_outside(settings: &Settings, down: bool) -> Result<(), Failure> {
    let (Some(service), Some(owner)) = (&settings.database_url, settings.migrate_database_url())
    else {
        return Err("set DATABASE_URL to the database to migrate; a private one is migrated by \
                    `tenantry serve` itself"
            .into());
    };
    if down {
        println!("undone: {}", migrate::undo(owner).await?);
        return Ok(());
    }
    let done = migrate::migrate(owner, service).await?;
    for name in &done {
        println!("done: {name}");
    }
    if done.is_empty() {
        println!("the schema is up to date");
    }
    Ok(())
}

async fn create_key(settings: Settings) -> Result<(), Failure> {
    const TIMEOUT: Duration = Duration::from_secs(30);
    if settings.database_url.is_none() {
        // Starts the private cluster, which refuses while a service runs on it.
        let started = start::start(Arc::new(settings)).await?;
        let shared = &started.shared;
        let deadline = Instant::now() + TIMEOUT;
        let made =
            start::create_admin_key(&shared.database, &shared.master, &shared.clock, deadline)
                .await;
        if let Some(cluster) = started.cluster {
            cluster.stop().await;
        }
        println!("{}", made?.reveal());
        return Ok(());
    }
    // The first key may come before the first start: then this makes the master key too.
    let started = start::prepare(Arc::new(settings)).await?;
    let shared = &started.shared;
    let deadline = Instant::now() + TIMEOUT;
    let key =
        start::create_admin_key(&shared.database, &shared.master, &shared.clock, deadline).await?;
    println!("{}", key.reveal());
    Ok(())
}

async fn fill(settings: Settings, plan: Plan) -> Result<(), Failure> {
    if let Some(owner) = settings.migrate_database_url() {
        return fill_as(owner, plan).await;
    }
    // Starts the private cluster, which refuses while a service runs on it.
    let started = start::start(Arc::new(settings)).await?;
    let cluster = started.cluster.ok_or("there is no private database")?;
    let (owner, _service) = start::create_database(&cluster, start::PRIVATE_DATABASE)
        .await
        .map_err(|error| -> Failure { error })?;
    let filled = fill_as(&owner, plan).await;
    cluster.stop().await;
    filled
}

async fn fill_as(owner: &SecretString, plan: Plan) -> Result<(), Failure> {
    const BAR: &str = "{bar:40} {human_pos} of {human_len} tenants, {eta} left";
    let bar = ProgressBar::new(plan.tenants.into()).with_style(ProgressStyle::with_template(BAR)?);
    seed::fill(owner, plan, |done| bar.set_position(done.unsigned_abs())).await?;
    bar.finish_and_clear();
    println!("the database has the {} tenants of seed {}", plan.tenants, plan.seed);
    Ok(())
}

async fn health(settings: &Settings) -> Result<(), Failure> {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    if settings.tls.cert.is_some() {
        return Err("this probe speaks no TLS: probe grpc.health.v1.Health with a client that \
                    trusts the certificate"
            .into());
    }
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", settings.listen))?
        .connect_timeout(Duration::from_secs(2))
        .timeout(Duration::from_secs(2))
        .connect()
        .await
        .map_err(|_| format!("nothing answers on {}", settings.listen))?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await.map_err(
        |status| {
            format!(
                "{} answers, but not as tenantry without TLS: {}",
                settings.listen,
                status.code()
            )
        },
    )?;
    let answer = answer.into_inner();
    let status = answer.status();
    if status == tonic_health::pb::health_check_response::ServingStatus::Serving {
        println!("serving");
        Ok(())
    } else {
        Err(format!("{status:?}").into())
    }
}
