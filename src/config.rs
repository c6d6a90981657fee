//! The settings: what an operator may choose, and where each choice was made.
//!
//! One struct, [`Settings`], whose nesting gives the dotted names (`pool.size`). A value comes
//! from, later ones winning: the defaults here, a TOML file, the environment, the command line. Nothing
//! is read silently: a name that no setting has, in the file or after `TENANTRY_` in the
//! environment, stops the start, for a misspelt limit that is ignored is worse than no limit.
//!
//! Passwords are held in [`SecretString`] and every way out ([`Settings::render`], `Debug`, error
//! messages) masks them.
//!
//! To add a setting: a field, its value in `Settings::defaults`, and what it accepts in
//! `expected`. Names, their use in the environment, and printing follow from the field.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt::Write as _,
    io::IsTerminal as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use figment::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

pub use self::cidr::{Cidr, NotACidr};
use self::mask::{MASK, mask_url, masked};
use crate::cli::Cli;

pub mod cidr;
mod mask;

/// Everything an operator may choose.
///
/// Serialized it is masked, so that it can be printed; it cannot be read back from that.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Address and port to serve on.
    pub listen: SocketAddr,
    /// Postgres to use, as the service's role; without one, a private cluster in `data_dir`.
    #[serde(serialize_with = "masked")]
    pub database_url: Option<SecretString>,
    /// Folder of the private cluster, the root key, the master key and mails; always absolute.
    pub data_dir: PathBuf,
    /// What links in mails begin with; without it, `http://` or, with `tls.cert`, `https://` and where it listens.
    pub public_url: Option<String>,
    /// In which environments customers may be asked to authorize an application (0-10).
    pub request_environments: Vec<String>,
    /// Longest time that one SQL statement may take.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// Whether a call must name its account and tenant even where its key alone decides.
    pub strict_metadata: bool,
    /// Peers whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// How the schema is brought up to date.
    pub migrate: Migrate,
    /// How keys are derived, and for how long and how much is known of them.
    pub keys: Keys,
    /// How long a repeated request is recognised.
    pub idempotency: Idempotency,
    /// The database connections.
    pub pool: Pool,
    /// How the server stops.
    pub shutdown: Shutdown,
    /// What is logged, and in which form.
    pub log: Log,
    /// The server's certificate, and whether clients need one.
    pub tls: Tls,
    /// What is made along with a tenant.
    pub auto_create: AutoCreate,
    /// What lists tell.
    pub list: List,
    /// Soft deletion.
    pub deletion: Deletion,
    /// What goes on after the call that asked for it.
    pub operations: Operations,
    /// What happened.
    pub events: Events,
    /// How nodes hear of what happened.
    pub feed: Feed,
    /// Where traces and metrics go.
    pub otlp: Otlp,
    /// How mails are sent.
    pub mail: Mail,

    /// Where each setting came from, by dotted name; a name that is absent is a default.
    #[serde(skip)]
    sources: BTreeMap<String, String>,
}

/// The settings of `migrate`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    /// Postgres as the schema's owner; read it by [`Settings::migrate_database_url`].
    #[serde(serialize_with = "masked")]
    pub database_url: Option<SecretString>,
}

/// The settings of `keys`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    /// File of the master key, from which the digests of all keys derive.
    pub master_key_file: PathBuf,
    /// For how long a node trusts what it knows of keys after it last heard what happened.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How many bytes what a node knows of keys may take, about.
    pub cache_bytes: u64,
}

/// The settings of `idempotency`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idempotency {
    /// How long the answer to a request id is kept.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
}

/// The settings of `pool`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Most database connections at a time.
    pub size: usize,
}

/// The settings of `shutdown`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// How long running calls may go on after the signal to stop.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

/// The settings of `log`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Text for people, or JSON for machines.
    pub format: LogFormat,
    /// What is logged, in the language of `RUST_LOG`.
    pub filter: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// A line that a person reads.
    Text,
    /// A JSON object a line.
    Json,
}

/// The settings of `tls`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM file of the server's certificate chain.
    pub cert: Option<PathBuf>,
    /// PEM file of the certificate's private key.
    pub key: Option<PathBuf>,
    /// PEM file of the authorities whose client certificates are demanded.
    pub client_ca: Option<PathBuf>,
}

/// The settings of `auto_create`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoCreate {
    /// Whether a new tenant gets a default domain (2-19).
    pub tenant_default_domain: bool,
    /// Whether a reseller that a tenant names and that is not there is made (2-16).
    pub reseller: bool,
    /// Whether every tenant has the external ids of the telephony platform, empty where nothing else is
    /// said (2-17).
    pub tenant_data: bool,
}

/// The settings of `list`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Whether lists of tenants tell where each is placed, to those who place them (2-28).
    pub return_backend: bool,
}

/// The settings of `deletion`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deletion {
    /// How long a deleted record can be brought back.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// How often what can no longer be brought back is removed.
    #[serde(with = "humantime_serde")]
    pub purge_interval: Duration,
}

/// The settings of `operations`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operations {
    /// How long an operation that is done is kept.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
}

/// The settings of `events`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    /// How long events are kept; they go by whole weeks.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// How long a watcher may leave unread what it is told.
    #[serde(with = "humantime_serde")]
    pub watcher_timeout: Duration,
}

/// The settings of `feed`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feed {
    /// How often each node looks for what happened.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
}

/// The settings of `mail`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// Server that mails go to, with user and password; without one, each is a file in `data_dir`.
    #[serde(serialize_with = "masked")]
    pub smtp_url: Option<SecretString>,
    /// PEM file of the authorities that its certificate is trusted by, besides those of the system.
    pub smtp_ca: Option<PathBuf>,
    /// From whom mails are.
    pub from: Option<String>,
}

/// The settings of `otlp`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// Collector that takes OTLP over gRPC; without one, no trace or metric leaves.
    pub endpoint: Option<String>,
}

impl Settings {
    /// Reads the settings file, the environment and the command line, and checks the whole.
    pub fn load(cli: &Cli) -> Result<Self, ConfigError> {
        Self::load_with(cli, std::env::vars_os())
    }

    /// Gives the defaults for a test that keeps its data in a folder of its own.
    ///
    /// It listens on any free port of the loopback address and reads neither file nor environment.
    pub fn default_for_tests(data_dir: &Path) -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), ..Self::defaults(data_dir) }
    }

    /// Gives the database as the schema's owner: `migrate.database_url`, else `database_url`.
    pub fn migrate_database_url(&self) -> Option<&SecretString> {
        self.migrate.database_url.as_ref().or(self.database_url.as_ref())
    }

    /// Prints every setting as TOML, passwords masked, each with where it came from.
    ///
    /// A file again, but for the masked passwords.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (name, value) in flatten(&self.to_dict()) {
            let line = if matches!(value, Value::Empty(..)) {
                format!("# {name} is not set: {}", meaning_of_absence(&name))
            } else {
                format!("{name} = {} # {}", toml_text(&value), self.source_of(&name))
            };
            writeln!(text, "{line}").expect("a string can be written to");
        }
        text
    }

    fn defaults(data_dir: &Path) -> Self {
        const DAY: Duration = Duration::from_hours(24);
        let log_format =
            if std::io::stderr().is_terminal() { LogFormat::Text } else { LogFormat::Json };

        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 50051)),
            database_url: None,
            data_dir: data_dir.to_owned(),
            public_url: None,
            request_environments: vec!["production".to_owned()],
            statement_timeout: Duration::from_secs(5),
            strict_metadata: false,
            trusted_proxies: Vec::new(),
            migrate: Migrate { database_url: None },
            keys: Keys {
                master_key_file: data_dir.join("master.key"),
                lease: Duration::from_secs(5),
                cache_bytes: 256 << 20,
            },
            idempotency: Idempotency { retention: DAY },
            pool: Pool { size: 12 },
            shutdown: Shutdown { drain: Duration::from_secs(15) },
            log: Log { format: log_format, filter: "info".to_owned() },
            tls: Tls { cert: None, key: None, client_ca: None },
            auto_create: AutoCreate {
                tenant_default_domain: false,
                reseller: false,
                tenant_data: false,
            },
            list: List { return_backend: false },
            deletion: Deletion { retention: 30 * DAY, purge_interval: Duration::from_mins(1) },
            operations: Operations { retention: 30 * DAY },
            events: Events { retention: 90 * DAY, watcher_timeout: Duration::from_secs(30) },
            feed: Feed { poll_interval: Duration::from_millis(50) },
            otlp: Otlp { endpoint: None },
            mail: Mail { smtp_url: None, smtp_ca: None, from: None },
            sources: BTreeMap::new(),
        }
    }

    /// Loads with the given environment, since a test cannot safely change the process's own.
    fn load_with(
        cli: &Cli,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let environment = readable(environment);
        let known = flatten(&Self::defaults(Path::new("")).to_dict());
        let layers = given_layers(cli, &environment, &known)?;
        refuse_unknown(&layers, &known)?;
        let given = layers.into_iter().fold(Figment::new(), Figment::merge);

        let data_dir = chosen_data_dir(&given)?;
        let defaults = Self::defaults(&data_dir).to_dict();
        let all = given.join(Layer { source: DEFAULT.to_owned(), values: defaults });

        let mut settings: Self = all.extract().map_err(|error| wrong_value(&all, &known, error))?;
        settings.data_dir = data_dir;
        settings.sources = known
            .keys()
            .filter_map(|name| Some((name.clone(), all.find_metadata(name)?.name.to_string())))
            .collect();
        settings.check()?;

        Ok(settings)
    }

    fn to_dict(&self) -> Dict {
        Value::serialize(self)
            .ok()
            .and_then(Value::into_dict)
            .expect("a struct of text, numbers and UTF-8 paths becomes a table")
    }

    fn source_of(&self, name: &str) -> &str {
        self.sources.get(name).map_or(DEFAULT, String::as_str)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let durations = [
            ("statement_timeout", self.statement_timeout, LONGEST_STATEMENT),
            ("shutdown.drain", self.shutdown.drain, LONGEST),
            ("idempotency.retention", self.idempotency.retention, LONGEST),
            ("deletion.retention", self.deletion.retention, LONGEST),
            ("operations.retention", self.operations.retention, LONGEST),
            ("deletion.purge_interval", self.deletion.purge_interval, LONGEST),
            ("events.watcher_timeout", self.events.watcher_timeout, LONGEST),
        ];
        for (name, value, longest) in durations {
            self.demand(name, (SHORTEST..=longest).contains(&value))?;
        }
        self.demand("events.retention", RETENTIONS_OF_EVENTS.contains(&self.events.retention))?;
        self.demand("feed.poll_interval", POLL_INTERVALS.contains(&self.feed.poll_interval))?;
        self.demand("keys.lease", LEASES.contains(&self.keys.lease))?;
        self.demand("keys.cache_bytes", CACHE_BYTES.contains(&self.keys.cache_bytes))?;
        self.demand("pool.size", POOL_SIZES.contains(&self.pool.size))?;
        self.demand("database_url", self.database_url.as_ref().is_none_or(is_postgres_url))?;
        let owner = self.migrate.database_url.as_ref();
        self.demand("migrate.database_url", owner.is_none_or(is_postgres_url))?;
        self.demand("log.filter", is_filter(&self.log.filter))?;
        self.demand("otlp.endpoint", self.otlp.endpoint.as_deref().is_none_or(is_collector))?;

        self.demand("public_url", self.public_url.as_deref().is_none_or(is_web_address))?;
        let environments = &self.request_environments;
        let are_ids = environments.iter().all(|id| crate::wire::check_id(id).is_ok());
        self.demand("request_environments", are_ids)?;
        let Mail { smtp_url, smtp_ca, from } = &self.mail;
        self.demand(
            "mail.smtp_url",
            smtp_url.as_ref().is_none_or(|url| crate::mail::is_server(url.expose_secret())),
        )?;
        let is_mailbox = |from: &String| from.parse::<lettre::message::Mailbox>().is_ok();
        self.demand("mail.from", from.as_ref().is_none_or(is_mailbox))?;
        self.demand_together("mail.smtp_url", smtp_url.is_some(), "mail.from", from.is_some())?;
        self.demand_together(
            "mail.smtp_ca",
            smtp_ca.is_some(),
            "mail.smtp_url",
            smtp_url.is_some(),
        )?;

        let Tls { cert, key, client_ca } = &self.tls;
        self.demand_together("tls.cert", cert.is_some(), "tls.key", key.is_some())?;
        self.demand_together("tls.key", key.is_some(), "tls.cert", cert.is_some())?;
        self.demand_together("tls.client_ca", client_ca.is_some(), "tls.cert", cert.is_some())
    }

    fn demand(&self, name: &str, good: bool) -> Result<(), ConfigError> {
        if good {
            return Ok(());
        }
        let values = flatten(&self.to_dict());

        Err(ConfigError::Wrong {
            name: name.to_owned(),
            found: values.get(name).map(toml_text).unwrap_or_default(),
            source_name: self.source_of(name).to_owned(),
            expected: expected(name),
        })
    }

    fn demand_together(
        &self,
        given: &'static str,
        is_given: bool,
        needed: &'static str,
        is_there: bool,
    ) -> Result<(), ConfigError> {
        if !is_given || is_there {
            return Ok(());
        }
        let source_name = self.source_of(given).to_owned();
        Err(ConfigError::Lone { given, source_name, needed })
    }
}

/// Why the settings cannot be used; its text is what the operator reads.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The settings file cannot be read.
    #[error("the settings file {} cannot be read: {cause}", path.display())]
    UnreadableFile {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        cause: std::io::Error,
    },
    /// The settings file is not TOML.
    #[error("the settings file {} is not valid TOML, at line {line}: {problem}", path.display())]
    NotToml {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there; never the line itself, which may hold a password.
        problem: String,
    },
    /// Something was set that no setting is named.
    #[error("{}; remove or rename: the settings are {}", unknown_list(.unknown), known.join(", "))]
    Unknown {
        /// Each unknown name, and where it stands.
        unknown: Vec<(String, String)>,
        /// The names that exist.
        known: Vec<String>,
    },
    /// A setting has a value that it does not accept.
    #[error("`{name}` is {found} (from {source_name}), but must be {expected}")]
    Wrong {
        /// The setting.
        name: String,
        /// The value, masked.
        found: String,
        /// Where the value came from.
        source_name: String,
        /// What it accepts.
        expected: &'static str,
    },
    /// A setting was given that means nothing without another.
    #[error("`{given}` is set (from {source_name}) but `{needed}` is not: set both, or neither")]
    Lone {
        /// The setting that was given.
        given: &'static str,
        /// Where it was given.
        source_name: String,
        /// The one that is missing.
        needed: &'static str,
    },
    /// There is no place to keep data.
    #[error("no home folder to keep data in: set `data_dir` (--data-dir, or TENANTRY_DATA_DIR)")]
    NoDataDir,
    /// The settings cannot be read for a reason that no single setting has.
    #[error("the settings cannot be read: {0}")]
    Unreadable(Box<figment::Error>),
}

/// What the source of a default is called.
const DEFAULT: &str = "default";

/// Below a millisecond Postgres would take a timeout for 0, which means none.
const SHORTEST: Duration = Duration::from_millis(1);

/// Keeps sums of a time and a setting within what calendars can hold.
const LONGEST: Duration = Duration::from_hours(24 * 36_500);

/// Postgres holds `statement_timeout` in 31 bits of milliseconds, which is a little more.
const LONGEST_STATEMENT: Duration = Duration::from_hours(24 * 24);

/// For how long events may be kept: a partition holds a week of them.
const RETENTIONS_OF_EVENTS: std::ops::RangeInclusive<Duration> =
    Duration::from_hours(24)..=Duration::from_hours(24 * 3650);

/// How often the feed may be polled: more often costs more than it brings, and less often lets what
/// watchers know grow old.
const POLL_INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(5)..=Duration::from_secs(1);

/// A lease must outlast some polls, and bounds how long a revocation may take where a node is cut off.
const LEASES: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(250)..=crate::nodes::LEASE_MAX;

/// How much may be known of keys.
const CACHE_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 40);

/// More connections than Postgres allows by default help no one.
const POOL_SIZES: std::ops::RangeInclusive<usize> = 1..=100;

/// Environment variables that begin like settings and are none.
const NOT_SETTINGS: [&str; 2] = ["TENANTRY_CONFIG", "TENANTRY_PG_BIN"];

/// Variables that other programs use too, and the settings that they stand for.
const BORROWED: [(&str, &str); 3] = [
    ("DATABASE_URL", "database_url"),
    ("RUST_LOG", "log.filter"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp.endpoint"),
];

/// Says what a setting accepts, to follow "must be".
fn expected(name: &str) -> &'static str {
    match name {
        "listen" => "an IP address and a port, such as \"127.0.0.1:50051\"",
        "database_url" | "migrate.database_url" => {
            "a URL that begins with postgres:// or postgresql://"
        }
        "data_dir"
        | "keys.master_key_file"
        | "tls.cert"
        | "tls.key"
        | "tls.client_ca"
        | "mail.smtp_ca" => "a path",
        "public_url" => "a URL with http:// or https://, such as \"https://tenants.example.com\"",
        "request_environments" => "a list of ids of environments, such as [\"production\"]",
        "mail.smtp_url" => {
            "a URL such as \"smtp://user:password@host:587?tls=required\", or with smtps://; only a server on \
             this machine may be reached without TLS"
        }
        "mail.from" => "an e-mail address, such as \"Tenantry <tenantry@example.com>\"",
        "statement_timeout" => "a duration from \"1ms\" to \"24days\", such as \"5s\"",
        "shutdown.drain" | "deletion.purge_interval" | "events.watcher_timeout" => {
            "a duration from \"1ms\" to 100 years, such as \"15s\""
        }
        "idempotency.retention" | "deletion.retention" | "operations.retention" => {
            "a duration from \"1ms\" to 100 years, such as \"24h\" or \"30days\""
        }
        "strict_metadata"
        | "auto_create.tenant_default_domain"
        | "auto_create.reseller"
        | "auto_create.tenant_data"
        | "list.return_backend" => "true or false",
        "trusted_proxies" => {
            "a list of IP addresses or ranges, such as [\"10.0.0.0/8\"] (in the environment and \
             in --set with commas: 10.0.0.0/8,::1)"
        }
        "events.retention" => "a duration from \"1day\" to 10 years, such as \"90days\"",
        "feed.poll_interval" => "a duration from \"5ms\" to \"1s\", such as \"50ms\"",
        "keys.lease" => "a duration from \"250ms\" to \"1min\", such as \"5s\"",
        "keys.cache_bytes" => "a whole number from 1048576 (1 MiB) to 1099511627776 (1 TiB)",
        "pool.size" => "a whole number from 1 to 100",
        "log.format" => "\"text\" or \"json\"",
        "log.filter" => "a filter such as \"info\" or \"warn,tenantry=debug\"",
        "otlp.endpoint" => {
            "an http:// URL without user and password, such as \"http://127.0.0.1:4317\" (for a \
             collector behind TLS, run an OpenTelemetry collector beside Tenantry)"
        }
        _ => "a value of another kind",
    }
}

/// Says what it means that an optional setting is not set.
fn meaning_of_absence(name: &str) -> &'static str {
    match name {
        "database_url" => "a private Postgres in data_dir",
        "migrate.database_url" => "as database_url",
        "tls.cert" | "tls.key" => "no TLS",
        "tls.client_ca" => "clients need no certificate",
        "otlp.endpoint" => "no traces or metrics leave",
        "public_url" => "http:// or, with tls.cert, https:// and where it listens",
        "mail.smtp_url" => "each mail is a file in the folder mail of data_dir",
        "mail.smtp_ca" => "the mail server is trusted as the system trusts",
        "mail.from" => "needed with mail.smtp_url",
        _ => "none",
    }
}

/// Values from one place, which is named in messages.
struct Layer {
    source: String,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.source.clone())
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Profile::Default.collect(self.values.clone()))
    }
}

impl Layer {
    /// Makes a layer of one value that came as text.
    fn of_text(source: String, name: &str, text: &str, known: &BTreeMap<String, Value>) -> Self {
        let value = typed(text, known.get(name));
        let values = figment::util::nest(name, value).into_dict().unwrap_or_default();
        Self { source, values }
    }
}

/// Gives all that was set by someone, the weakest first.
fn given_layers(
    cli: &Cli,
    environment: &[(String, String)],
    known: &BTreeMap<String, Value>,
) -> Result<Vec<Layer>, ConfigError> {
    let flags = &cli.overrides;
    let from_environment = |variable: &str, name: &str, text: &str| {
        Layer::of_text(format!("environment variable {variable}"), name, text, known)
    };
    let from_flag = |flag: &str, name: &str, text: &str| {
        Layer::of_text(format!("flag {flag}"), name, text, known)
    };
    let mut layers = Vec::new();

    if let Some(path) = config_file(cli, environment) {
        layers.push(file_layer(&path)?);
    }
    for (variable, name) in BORROWED {
        if let Some(text) = variable_of(environment, variable) {
            layers.push(from_environment(variable, name, text));
        }
    }
    for (variable, text) in environment {
        if let Some(name) = setting_of(variable, environment) {
            layers.push(from_environment(variable, &name, text));
        }
    }
    if let Some(text) = &flags.listen {
        layers.push(from_flag("--listen", "listen", text));
    }
    if let Some(text) = &flags.data_dir {
        layers.push(from_flag("--data-dir", "data_dir", text));
    }
    if let Some(text) = &flags.database_url {
        layers.push(from_flag("--database-url", "database_url", text.expose_secret()));
    }
    for set in &flags.set {
        layers.push(from_flag("--set", &set.name, set.value.expose_secret()));
    }
    Ok(layers)
}

/// Keeps the variables that are text and not empty; an empty one counts as not set.
fn readable(environment: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(String, String)> {
    environment
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        })
        .collect()
}

fn variable_of<'a>(environment: &'a [(String, String)], variable: &str) -> Option<&'a str> {
    environment.iter().find(|(name, _)| name == variable).map(|(_, value)| value.as_str())
}

fn config_file(cli: &Cli, environment: &[(String, String)]) -> Option<PathBuf> {
    let from_environment = || variable_of(environment, "TENANTRY_CONFIG").map(PathBuf::from);
    cli.overrides.config.clone().or_else(from_environment)
}

fn file_layer(path: &Path) -> Result<Layer, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|cause| ConfigError::UnreadableFile { path: path.to_owned(), cause })?;
    let values = toml::from_str(&text).map_err(|error| {
        let position = error.span().map_or(0, |span| span.start.min(text.len()));
        ConfigError::NotToml {
            path: path.to_owned(),
            line: text.get(..position).unwrap_or_default().matches('\n').count() + 1,
            problem: error.message().to_owned(),
        }
    })?;

    Ok(Layer { source: path.display().to_string(), values })
}

/// Gives the setting that a variable of ours names: `TENANTRY_POOL__SIZE` is `pool.size`.
fn setting_of(variable: &str, environment: &[(String, String)]) -> Option<String> {
    let name = variable.strip_prefix("TENANTRY_")?;
    let in_kubernetes = variable_of(environment, "KUBERNETES_SERVICE_HOST").is_some();
    if NOT_SETTINGS.contains(&variable) || (in_kubernetes && is_service_link(name)) {
        return None;
    }
    Some(name.replace("__", ".").to_lowercase())
}

/// Recognises what Kubernetes puts into every pod beside a service called `tenantry` or
/// `tenantry-…`: nobody has set it, so it must not stop the start.
fn is_service_link(name: &str) -> bool {
    let bounded = format!("_{name}_");
    !name.contains("__")
        && ["_SERVICE_HOST_", "_SERVICE_PORT_", "_PORT_"].iter().any(|part| bounded.contains(part))
}

/// Reads text as what the setting's default is; what does not fit stays text and is refused later,
/// with its source.
fn typed(text: &str, default: Option<&Value>) -> Value {
    let as_text = || Value::from(text);
    match default {
        Some(Value::Bool(..)) => text.parse::<bool>().map_or_else(|_| as_text(), Value::from),
        Some(Value::Num(..)) => text.parse::<u64>().map_or_else(|_| as_text(), Value::from),
        Some(Value::Array(..)) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Value::from(items.collect::<Vec<_>>())
        }
        _ => as_text(),
    }
}

/// Gives every value by its dotted name.
fn flatten(values: &Dict) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    for (name, value) in values {
        if let Value::Dict(_, inner) = value {
            let inner = flatten(inner);
            flat.extend(inner.into_iter().map(|(rest, leaf)| (format!("{name}.{rest}"), leaf)));
        } else {
            flat.insert(name.clone(), value.clone());
        }
    }
    flat
}

fn refuse_unknown(layers: &[Layer], known: &BTreeMap<String, Value>) -> Result<(), ConfigError> {
    let unknown: Vec<_> = layers
        .iter()
        .flat_map(|layer| flatten(&layer.values).into_keys().map(|name| (name, &layer.source)))
        .filter(|(name, _)| !known.contains_key(name))
        .map(|(name, source)| (name, source.clone()))
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(ConfigError::Unknown { unknown, known: known.keys().cloned().collect() })
}

fn unknown_list(unknown: &[(String, String)]) -> String {
    let each =
        unknown.iter().map(|(name, source)| format!("unknown setting `{name}` (in {source})"));
    each.collect::<Vec<_>>().join(", ")
}

/// Gives the data folder, absolute since the private Postgres runs in another working directory.
fn chosen_data_dir(given: &Figment) -> Result<PathBuf, ConfigError> {
    let chosen = if given.contains("data_dir") {
        let names = BTreeMap::from([("data_dir".to_owned(), Value::from(""))]);
        given.extract_inner("data_dir").map_err(|error| wrong_value(given, &names, error))?
    } else {
        platform_data_dir().ok_or(ConfigError::NoDataDir)?
    };

    std::path::absolute(chosen)
        .ok()
        .filter(|path| path.to_str().is_some())
        .ok_or(ConfigError::NoDataDir)
}

/// Gives the folder that the platform has for the data of programs.
fn platform_data_dir() -> Option<PathBuf> {
    // Postgres refuses to run as root, and the user that it runs as cannot reach root's home.
    if nix::unistd::Uid::effective().is_root() {
        return Some(PathBuf::from("/var/lib/tenantry"));
    }
    dirs::data_dir().map(|folder| folder.join("tenantry"))
}

fn wrong_value(
    all: &Figment,
    known: &BTreeMap<String, Value>,
    error: figment::Error,
) -> ConfigError {
    let path = error.path.join(".");
    // An item of a list has a path below its setting's.
    let is_of = |name: &str| {
        path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let Some(name) = known.keys().find(|name| is_of(name)) else {
        return ConfigError::Unreadable(Box::new(error));
    };

    let found = match all.find_value(name) {
        Ok(_) if name.ends_with("database_url") || name == "mail.smtp_url" => MASK.to_owned(),
        Ok(value) => toml_text(&value),
        Err(_) => "missing".to_owned(),
    };
    let metadata = all.find_metadata(name);
    ConfigError::Wrong {
        name: name.clone(),
        found,
        source_name: metadata.map_or_else(|| DEFAULT.to_owned(), |found| found.name.to_string()),
        expected: expected(name),
    }
}

/// Writes a value as TOML has it, passwords in URLs masked.
fn toml_text(value: &Value) -> String {
    match value {
        Value::String(_, text) if text.contains("://") => {
            toml::Value::String(mask_url(text)).to_string()
        }
        other => toml::Value::try_from(other).map_or_else(|_| MASK.to_owned(), |it| it.to_string()),
    }
}

fn is_postgres_url(url: &SecretString) -> bool {
    let url = url.expose_secret();
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

fn is_web_address(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|url| {
        let is_web = matches!(url.scheme_str(), Some("http" | "https"));
        is_web
            && url.authority().is_some_and(|it| !it.as_str().contains('@'))
            && url.query().is_none()
    })
}

fn is_filter(text: &str) -> bool {
    EnvFilter::builder().parse(text).is_ok()
}

fn is_collector(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|url| {
        url.scheme_str() == Some("http")
            && url.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn load(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let program_and_arguments = std::iter::once(&"tenantry").chain(arguments);
        let cli = Cli::try_parse_from(program_and_arguments).unwrap();
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
        Settings::load_with(&cli, environment)
    }

    fn message(arguments: &[&str], environment: &[(&str, &str)]) -> String {
        load(arguments, environment).unwrap_err().to_string()
    }

    struct File(tempfile::NamedTempFile);

    impl File {
        fn with(text: &str) -> Self {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            Self(file)
        }

        fn path(&self) -> &str {
            self.0.path().to_str().unwrap()
        }
    }

    #[test]
    fn nothing_given_leaves_the_documented_defaults() {
        let settings = load(&["--data-dir", "/data"], &[]).unwrap();

        assert_eq!(settings.listen.to_string(), "127.0.0.1:50051");
        assert!(settings.database_url.is_none());
        assert_eq!(settings.keys.master_key_file, Path::new("/data/master.key"));
        assert_eq!(settings.idempotency.retention, Duration::from_hours(24));
        assert_eq!(settings.deletion.retention, Duration::from_hours(30 * 24));
        assert_eq!(settings.operations.retention, Duration::from_hours(30 * 24));
        assert_eq!(settings.deletion.purge_interval, Duration::from_mins(1));
        assert_eq!(settings.pool.size, 12);
        assert_eq!(settings.statement_timeout, Duration::from_secs(5));
        assert_eq!(settings.shutdown.drain, Duration::from_secs(15));
        assert_eq!(settings.log.filter, "info");
        assert!(!settings.strict_metadata);
        assert!(settings.trusted_proxies.is_empty());
    }

    #[test]
    fn file_beats_default_and_environment_beats_file_and_flag_beats_environment() {
        let file =
            File::with("listen = \"127.0.0.1:1\"\npool.size = 1\n[shutdown]\ndrain = \"1s\"");
        let arguments = ["--config", file.path(), "--listen", "127.0.0.1:3"];
        let environment = [("TENANTRY_LISTEN", "127.0.0.1:2"), ("TENANTRY_POOL__SIZE", "2")];

        let settings = load(&arguments, &environment).unwrap();

        assert_eq!(settings.listen.port(), 3);
        assert_eq!(settings.pool.size, 2);
        assert_eq!(settings.shutdown.drain, Duration::from_secs(1));
        assert_eq!(settings.statement_timeout, Duration::from_secs(5));
    }

    #[test]
    fn the_file_can_be_named_in_the_environment() {
        let file = File::with("pool.size = 7");

        let settings = load(&[], &[("TENANTRY_CONFIG", file.path())]).unwrap();

        assert_eq!(settings.pool.size, 7);
    }

    #[test]
    fn set_reaches_every_setting_by_name() {
        let arguments = ["--set", "pool.size=20", "--set", "strict_metadata=true"];

        let settings = load(&arguments, &[("TENANTRY_POOL__SIZE", "2")]).unwrap();

        assert_eq!(settings.pool.size, 20);
        assert!(settings.strict_metadata);
    }

    #[test]
    fn borrowed_variables_yield_to_ours() {
        let alone = load(&[], &[("DATABASE_URL", "postgres://theirs"), ("RUST_LOG", "warn")]);
        let both = load(
            &[],
            &[("TENANTRY_DATABASE_URL", "postgres://ours"), ("DATABASE_URL", "postgres://theirs")],
        );

        let alone = alone.unwrap();
        assert_eq!(alone.database_url.unwrap().expose_secret(), "postgres://theirs");
        assert_eq!(alone.log.filter, "warn");
        assert_eq!(both.unwrap().database_url.unwrap().expose_secret(), "postgres://ours");
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let settings = load(&[], &[("DATABASE_URL", ""), ("TENANTRY_POOL__SIZE", "")]).unwrap();

        assert!(settings.database_url.is_none());
        assert_eq!(settings.pool.size, 12);
    }

    #[test]
    fn text_that_looks_like_a_number_stays_text() {
        let settings = load(&["--set", "log.filter=5"], &[("TENANTRY_DATA_DIR", "123")]).unwrap();

        assert!(settings.data_dir.is_absolute() && settings.data_dir.ends_with("123"));
        assert_eq!(settings.log.filter, "5");
    }

    #[test]
    fn proxies_are_divided_by_commas_in_the_environment() {
        let settings = load(&[], &[("TENANTRY_TRUSTED_PROXIES", "10.0.0.0/8, ::1")]).unwrap();

        let texts: Vec<_> = settings.trusted_proxies.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.0.0.0/8", "::1/128"]);
    }

    #[test]
    fn every_unknown_name_is_named_with_its_source() {
        let file = File::with("sise = 1\n[pool]\nsize = 2\nsise = 3");

        let message = message(&["--config", file.path()], &[("TENANTRY_POOL_SIZE", "4")]);

        assert!(message.contains(&format!("`sise` (in {})", file.path())), "{message}");
        assert!(message.contains("`pool.sise`"), "{message}");
        let variable = "`pool_size` (in environment variable TENANTRY_POOL_SIZE)";
        assert!(message.contains(variable), "{message}");
        assert!(message.contains("pool.size,"), "{message}");
    }

    #[test]
    fn variables_that_are_no_settings_are_let_be() {
        let kubernetes = [
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("TENANTRY_SERVICE_HOST", "10.0.0.2"),
            ("TENANTRY_SERVICE_PORT_GRPC", "50051"),
            ("TENANTRY_PORT_50051_TCP_ADDR", "10.0.0.2"),
            ("TENANTRY_DB_PORT", "tcp://10.0.0.3:5432"),
            ("TENANTRY_PG_BIN", "/usr/bin"),
        ];

        assert!(load(&[], &kubernetes).is_ok());
        assert!(load(&[], &[("TENANTRY_PORT", "50051")]).is_err());
    }

    #[test]
    fn a_wrong_value_names_setting_source_and_remedy() {
        let file = File::with("statement_timeout = 5");
        let cases = [
            (
                message(&[], &[("TENANTRY_POOL__SIZE", "many")]),
                "`pool.size` is \"many\" (from environment variable TENANTRY_POOL__SIZE), \
                 but must be a whole number from 1 to 100"
                    .to_owned(),
            ),
            (
                message(&["--listen", "here"], &[]),
                "`listen` is \"here\" (from flag --listen), but must be an IP address and a port, \
                 such as \"127.0.0.1:50051\""
                    .to_owned(),
            ),
            (
                message(&["--config", file.path()], &[]),
                format!(
                    "`statement_timeout` is 5 (from {}), but must be a duration from \"1ms\" to \
                     \"24days\", such as \"5s\"",
                    file.path()
                ),
            ),
        ];

        for (message, expected) in cases {
            assert_eq!(message, expected);
        }
    }

    #[test]
    fn every_setting_refuses_a_wrong_value_by_its_own_name() {
        let known = flatten(&Settings::defaults(Path::new("/data")).to_dict());

        for name in known.keys() {
            let file = File::with(&format!("{name} = {{}}"));
            let message = message(&["--config", file.path()], &[]);
            assert!(message.starts_with(&format!("`{name}` is ")), "{message}");
            assert!(!message.contains("of another kind"), "{message}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let cases = [
            "pool.size=0",
            "pool.size=101",
            "pool.size=-1",
            "shutdown.drain=0s",
            "statement_timeout=0s",
            "statement_timeout=1us",
            "statement_timeout=25days",
            "deletion.retention=9000years",
            "idempotency.retention=0s",
            "trusted_proxies=10.0.0.0/8,10.0.0.0/33",
            "strict_metadata=yes",
            "log.format=xml",
            "log.filter=tenantry=loud",
            "otlp.endpoint=https://collector:4317",
            "otlp.endpoint=collector:4317",
            "database_url=mysql://h/d",
        ];

        for case in cases {
            let (name, _) = case.split_once('=').unwrap();
            let message = message(&["--set", case], &[]);
            assert!(message.starts_with(&format!("`{name}` is ")), "{case}: {message}");
            assert!(message.contains("(from flag --set), but must be "), "{case}: {message}");
        }
    }

    #[test]
    fn certificate_and_key_go_together() {
        let message = message(&["--set", "tls.cert=c.pem"], &[]);

        assert_eq!(
            message,
            "`tls.cert` is set (from flag --set) but `tls.key` is not: set both, or neither"
        );
        assert!(load(&["--set", "tls.key=k.pem"], &[]).is_err());
        assert!(load(&["--set", "tls.client_ca=a.pem"], &[]).is_err());
        assert!(load(&["--set", "tls.cert=c.pem", "--set", "tls.key=k.pem"], &[]).is_ok());
    }

    #[test]
    fn a_file_that_is_missing_or_broken_is_named() {
        let file = File::with("listen = \"127.0.0.1:1\"\ndatabase_url = \"postgres://u:hunter2");

        let broken = message(&["--config", file.path()], &[]);
        let missing = message(&["--config", "/no/such.toml"], &[]);

        assert!(broken.contains(file.path()) && broken.contains("line 2"), "{broken}");
        assert!(!broken.contains("hunter2"), "{broken}");
        assert!(missing.contains("/no/such.toml"), "{missing}");
    }

    #[test]
    fn no_way_out_shows_a_password() {
        let environment = [
            ("DATABASE_URL", "postgres://user:hunter2@host/db"),
            ("TENANTRY_MIGRATE__DATABASE_URL", "postgres://owner:hunter2@host/db"),
        ];

        let settings = load(&[], &environment).unwrap();
        let refusal = message(&[], &[("DATABASE_URL", "user=me password=hunter2")]);

        let rendered = settings.render();
        assert!(rendered.contains(
            "database_url = \"postgres://user:***@host/db\" # environment variable DATABASE_URL"
        ));
        for text in [rendered, format!("{settings:?}"), refusal] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }

    #[test]
    fn what_is_rendered_can_be_loaded_again() {
        let arguments = ["--data-dir", "/data", "--set", "trusted_proxies=10.0.0.0/8,::1"];
        let settings = load(&arguments, &[]).unwrap();
        let file = File::with(&settings.render());

        let again = load(&["--config", file.path()], &[]).unwrap();

        assert_eq!(again.to_dict(), settings.to_dict());
        assert!(settings.render().contains("pool.size = 12 # default\n"));
        assert!(settings.render().contains("# tls.cert is not set: no TLS\n"));
    }

    #[test]
    fn the_owner_is_the_service_unless_named() {
        let mut settings = Settings::default_for_tests(Path::new("/data"));
        settings.database_url = Some("postgres://service".into());

        assert_eq!(settings.migrate_database_url().unwrap().expose_secret(), "postgres://service");
        settings.migrate.database_url = Some("postgres://owner".into());
        assert_eq!(settings.migrate_database_url().unwrap().expose_secret(), "postgres://owner");
    }
}
