//! The private Postgres cluster: what serves the data when no database URL is set.
//!
//! Everything lies in the data folder: `postgres/` (the cluster, and the socket in it), `postgres.log`
//! and `tenantry.lock`, which is locked as long as a service uses the folder. There is no TCP port;
//! who may open the socket, which is the cluster's own user and root, is the superuser.
//!
//! Postgres must never outlive the service, however that ends, and must not stop before it. So a small
//! shell, the watcher, runs Postgres in a process group of its own (Ctrl-C reaches only the service)
//! and reads from a pipe, the leash, whose other end only the service holds. The kernel closes it even
//! after `kill -9`; then the watcher shuts Postgres down. In turn a task of the service starts Postgres
//! again whenever that ends by itself.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, PipeReader, PipeWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, os};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// The role that owns the cluster.
pub const SUPERUSER: &str = "postgres";

const OLDEST_VERSION: u32 = 15;
const NEWEST_VERSION: u32 = 18;

/// Where packages put the server's binaries; most of these are not on the `PATH`.
const USUAL_PLACES: [&str; 7] = [
    "/usr/lib/postgresql/NN/bin",
    "/usr/pgsql-NN/bin",
    "/usr/libexec/postgresqlNN",
    "/opt/homebrew/opt/postgresql@NN/bin",
    "/usr/local/opt/postgresql@NN/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@NN/bin",
    "/Applications/Postgres.app/Contents/Versions/NN/bin",
];

/// How long a start may take; recovery after a crash is part of it.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a start waits for the Postgres of a service that ended just before.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A Postgres that ran this long was sound: its end says nothing about the next start.
const SETTLED_AFTER: Duration = Duration::from_secs(60);
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
const LOG_TAIL_LINES: usize = 20;

const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// What fits into `sockaddr_un`, without the final zero byte.
const SOCKET_PATH_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Runs the command it is given until that ends, or until its standard input does.
///
/// A shell runs what it puts into the background without standard input, hence descriptor 3; and
/// ignoring interrupts until the program handles them, hence the repetition. It must not fall to the
/// signals that a service manager sends to all processes of a service.
const WATCHER: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null &
postgres=$!
trap '' HUP INT TERM
(
    read -r nothing <&3
    while kill -INT "$postgres" 2>/dev/null; do sleep 1; done
) &
reader=$!
wait "$postgres"
status=$?
kill -KILL "$reader"
exit "$status"
"#;

/// A running private cluster; Postgres stops when this is dropped or the process ends in any way.
#[derive(Debug)]
pub struct Cluster {
    socket_folder: PathBuf,
    // Dropped before the leash, so that the supervisor does not take the end for a crash.
    stop: oneshot::Sender<()>,
    leash: PipeWriter,
    supervisor: JoinHandle<()>,
    // Dropped last: the next service may come as soon as this one has let go of the rest.
    lock: Flock<File>,
}

/// Why a private cluster could not be started; each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There are no server binaries anywhere, or only of versions that are not supported.
    #[error(
        "no PostgreSQL server of version {OLDEST_VERSION} to {NEWEST_VERSION} found{}; \
         `make run` installs one, or do it yourself: `apt-get install postgresql` (Debian, Ubuntu), \
         `dnf install postgresql-server` (Fedora), `brew install postgresql@17` (macOS); \
         TENANTRY_PG_BIN names the folder of initdb and postgres if they are elsewhere",
        found_text(.found)
    )]
    NoServer {
        /// The unsupported versions that were found.
        found: BTreeSet<u32>,
    },
    /// The environment names a folder that is not one of server binaries.
    #[error("TENANTRY_PG_BIN is {0}, which does not hold working `initdb` and `postgres`")]
    NoServerThere(PathBuf),
    /// The cluster was made by a version that is not installed, or not supported.
    #[error(
        "the cluster in {folder} was made by PostgreSQL {version}, which is not installed or not \
         supported; install that version (`make run` says how) or set another data folder"
    )]
    NoServerForCluster {
        /// The cluster's folder.
        folder: PathBuf,
        /// What its `PG_VERSION` says.
        version: String,
    },
    /// Another service runs on the data folder.
    #[error(
        "another tenantry runs on the data folder {data_dir} (process {process}); \
         stop it or set another data folder"
    )]
    InUse {
        /// The data folder.
        data_dir: PathBuf,
        /// The other's process id, or `unknown`.
        process: String,
    },
    /// The Postgres of an earlier service does not stop.
    #[error(
        "an earlier Postgres (process {process}) still runs on {folder}; stop it and try again"
    )]
    StillRunning {
        /// The cluster's folder.
        folder: PathBuf,
        /// The process id of its Postgres.
        process: i32,
    },
    /// As root: there is no user to run Postgres as, which itself refuses to run as root.
    #[error(
        "Postgres cannot run as root: create a user `postgres`, or run tenantry as another user"
    )]
    NoUser,
    /// As root: the user that Postgres runs as cannot reach the data folder.
    #[error(
        "Postgres runs as the user {user}, who cannot enter {folder}; allow it with \
         `chmod o+x {folder}`, or set a data folder elsewhere, such as /var/lib/tenantry"
    )]
    Unreachable {
        /// The name of the user.
        user: String,
        /// The first folder on the way that is closed.
        folder: PathBuf,
    },
    /// The cluster's folder, or that of its socket, belongs to somebody else.
    #[error(
        "{folder} belongs to another user (user id {owner}) or is open to others, so Postgres \
         cannot use it; run tenantry as its owner, or give it to the user who runs Postgres"
    )]
    NotOurs {
        /// The folder.
        folder: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// `initdb` failed.
    #[error("initdb could not create a cluster in {folder}: {stderr}")]
    Initdb {
        /// The cluster's folder.
        folder: PathBuf,
        /// What it said.
        stderr: String,
    },
    /// Postgres ended, or was not ready in time.
    #[error("Postgres did not start ({reason}); its log, {log}, ends with:\n{tail}")]
    NotStarted {
        /// How it ended.
        reason: String,
        /// The log file.
        log: PathBuf,
        /// The last lines of this start.
        tail: String,
    },
    /// A file, folder or program cannot be used.
    #[error("cannot use {path}")]
    Io {
        /// The file, folder or program.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Cluster {
    /// Starts the cluster in the data folder, creating both if need be, and waits until it answers.
    pub async fn start(data_dir: &Path) -> Result<Self, ClusterError> {
        Self::start_with(data_dir, Durability::Safe).await
    }

    /// Starts a cluster for tests: faster, made for many connections, lost if the machine crashes.
    pub async fn start_throwaway(data_dir: &Path) -> Result<Self, ClusterError> {
        Self::start_with(data_dir, Durability::Throwaway).await
    }

    /// Starts the cluster with the given durability.
    pub async fn start_with(data_dir: &Path, durability: Durability) -> Result<Self, ClusterError> {
        let data_dir = create_data_dir(data_dir)?;
        let lock = lock(&data_dir)?;
        let folder = data_dir.join("postgres");
        let user = user_for(&folder)?;
        if let Some(user) = &user {
            check_reachable(&data_dir, user).await?;
        }
        let binaries = find_binaries(&folder).await?;
        if !folder.join("PG_VERSION").exists() {
            create_cluster(&folder, &binaries, user.as_ref(), durability).await?;
        }
        let socket_folder = create_socket_folder(&folder, user.as_ref())?;
        let (leash_end, leash) = io::pipe().map_err(at(&folder))?;
        let server = Server {
            log: data_dir.join("postgres.log"),
            socket_folder: socket_folder.clone(),
            folder,
            binaries,
            user,
            durability,
            leash_end,
        };

        let postgres = timeout(START_LIMIT, server.launch())
            .await
            .unwrap_or_else(|_| Err(server.not_started("not ready after 60 s".to_owned(), 0)))?;
        let (stop, stopped) = oneshot::channel();
        let supervisor = tokio::spawn(server.supervise(postgres, stopped));
        Ok(Self { socket_folder, stop, leash, supervisor, lock })
    }

    /// Makes the URL of a database for a role, for libpq and for `tokio-postgres`.
    pub fn url(&self, role: &str, database: &str) -> String {
        let host = percent_encode(self.socket_folder.as_os_str().as_bytes());
        let role = percent_encode(role.as_bytes());
        let database = percent_encode(database.as_bytes());
        format!("postgresql://{role}@{host}:5432/{database}")
    }

    /// Stops Postgres, which ends all sessions, and waits until it has written everything.
    pub async fn stop(self) {
        drop(self.stop);
        drop(self.leash);
        if let Err(error) = self.supervisor.await {
            tracing::warn!(%error, "the supervisor of Postgres failed");
        }
        drop(self.lock);
    }
}

/// What a crash of the machine may cost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// Nothing that was committed.
    Safe,
    /// Everything: only for tests.
    Throwaway,
}

impl Durability {
    fn settings(self) -> [&'static str; 4] {
        match self {
            Self::Safe => {
                ["max_connections=100", "fsync=on", "full_page_writes=on", "synchronous_commit=on"]
            }
            Self::Throwaway => [
                "max_connections=300",
                "fsync=off",
                "full_page_writes=off",
                "synchronous_commit=off",
            ],
        }
    }
}

/// All that is needed to start Postgres, again and again.
#[derive(Debug)]
struct Server {
    folder: PathBuf,
    socket_folder: PathBuf,
    log: PathBuf,
    binaries: PathBuf,
    user: Option<User>,
    durability: Durability,
    leash_end: PipeReader,
}

impl Server {
    /// Starts Postgres again whenever it ends, until the service stops it.
    async fn supervise(self, mut postgres: Child, mut stopped: oneshot::Receiver<()>) {
        let mut pause = RESTART_PAUSE_MIN;
        loop {
            let started = Instant::now();
            tokio::select! {
                biased;
                _ = &mut stopped => {
                    let _ = postgres.wait().await;
                    return;
                }
                status = postgres.wait() => tracing::warn!(?status, "Postgres ended, restarting it"),
            }
            if started.elapsed() > SETTLED_AFTER {
                pause = RESTART_PAUSE_MIN;
            }
            postgres = tokio::select! {
                biased;
                _ = &mut stopped => {
                    let _ = self.end_leftover().await;
                    return;
                }
                postgres = self.relaunch(&mut pause) => postgres,
            };
            tracing::info!("Postgres is back");
        }
    }

    async fn relaunch(&self, pause: &mut Duration) -> Child {
        loop {
            sleep(*pause).await;
            *pause = (*pause * 2).min(RESTART_PAUSE_MAX);
            match self.launch().await {
                Ok(postgres) => return postgres,
                Err(error) => tracing::warn!(%error, "Postgres could not be restarted"),
            }
        }
    }

    /// Starts Postgres and waits until it accepts connections.
    async fn launch(&self) -> Result<Child, ClusterError> {
        let deadline = Instant::now() + LEFTOVER_LIMIT;
        loop {
            self.end_leftover().await?;
            let (log, log_start) = self.open_log()?;
            let mut postgres = self.spawn(log)?;
            let Some(status) = self.until_ready(&mut postgres).await? else { return Ok(postgres) };
            let error = self.not_started(status.to_string(), log_start);
            // The sessions of a Postgres that was killed need a moment to notice.
            let in_the_way = ["shared memory block", "lock file"];
            let lingering = in_the_way.iter().any(|text| error.to_string().contains(text));
            if !lingering || Instant::now() > deadline {
                return Err(error);
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn spawn(&self, log: File) -> Result<Child, ClusterError> {
        let input = self.leash_end.try_clone().map_err(at(&self.folder))?;
        let errors = log.try_clone().map_err(at(&self.log))?;
        let mut socket_setting = OsString::from("unix_socket_directories=");
        socket_setting.push(quote_folder(&self.socket_folder));
        // What stands on the command line cannot be changed from inside the database.
        let mut command = command_as("/bin/sh".as_ref(), self.user.as_ref());
        command.args(["-c", WATCHER, "sh"]);
        command.arg(self.binaries.join("postgres")).arg("-D").arg(&self.folder);
        command.args(["-c", "listen_addresses=", "-c", "port=5432"]);
        command.arg("-c").arg(socket_setting).args(["-c", "unix_socket_permissions=0700"]);
        command.args(["-c", "shared_buffers=128MB", "-c", "logging_collector=off"]);
        for setting in self.durability.settings() {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::from(input)).stdout(log).stderr(errors).process_group(0);
        command.spawn().map_err(at("/bin/sh"))
    }

    /// Waits until Postgres is ready, or tells how it ended.
    async fn until_ready(
        &self,
        postgres: &mut Child,
    ) -> Result<Option<std::process::ExitStatus>, ClusterError> {
        loop {
            if let Some(status) = postgres.try_wait().map_err(at(&self.folder))? {
                return Ok(Some(status));
            }
            if self.is_ready().await {
                return Ok(None);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Tells whether Postgres accepts connections.
    ///
    /// The status file may be that of a killed Postgres, and a socket accepts before sessions can
    /// begin. Since a new Postgres writes its status before it opens its socket, both agree only when
    /// it is ready, if the file is read after the socket answered.
    async fn is_ready(&self) -> bool {
        self.has_status_ready()
            && UnixStream::connect(self.socket_folder.join(SOCKET_NAME)).await.is_ok()
            && self.has_status_ready()
    }

    fn has_status_ready(&self) -> bool {
        fs::read_to_string(self.status_file())
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|status| status.trim() == "ready"))
    }

    fn status_file(&self) -> PathBuf {
        self.folder.join("postmaster.pid")
    }

    /// Ends the Postgres of an earlier service; this one has the lock, so nobody else needs it.
    async fn end_leftover(&self) -> Result<(), ClusterError> {
        let deadline = Instant::now() + LEFTOVER_LIMIT;
        let mut announced = false;
        while let Some(process) = self.find_leftover() {
            if !announced {
                tracing::info!(process, "waiting for an earlier Postgres to stop");
                // Only needed if its watcher was killed too; it may have ended meanwhile.
                let _ = kill(Pid::from_raw(process), Signal::SIGINT);
                announced = true;
            }
            if Instant::now() > deadline {
                return Err(ClusterError::StillRunning { folder: self.folder.clone(), process });
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    fn find_leftover(&self) -> Option<i32> {
        let status = fs::read_to_string(self.status_file()).ok()?;
        let (process, rest) = status.split_once('\n')?;
        let process = process.trim().parse().ok().filter(|process| *process > 1)?;
        let command_line = command_line_of(process);
        if command_line.is_empty() && is_gone(process) {
            return None;
        }
        let program = command_line.split(' ').next().unwrap_or_default();
        let is_postgres = Path::new(program).file_name() == Some("postgres".as_ref());
        if is_postgres && command_line.contains(&format!(" -D {} ", self.folder.display())) {
            return Some(process);
        }
        if !is_postgres {
            self.disown(rest);
        }
        None
    }

    /// Takes the number of a process that is not Postgres out of the status file.
    ///
    /// After a crash, most of all in a container that starts again, another process may have the
    /// number, and Postgres would believe that it still runs. The rest of the file must stay: by it
    /// Postgres finds out whether sessions of its predecessor still live.
    fn disown(&self, rest: &str) {
        let impossible_process = i32::MAX;
        let cleared = fs::write(self.status_file(), format!("{impossible_process}\n{rest}"))
            .and_then(|()| fs::remove_file(self.socket_folder.join(format!("{SOCKET_NAME}.lock"))));
        if let Err(error) = cleared
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "could not clear the status of an earlier Postgres");
        }
    }

    /// Opens the log for appending, and tells where this start begins in it.
    fn open_log(&self) -> Result<(File, u64), ClusterError> {
        if fs::metadata(&self.log).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX) {
            fs::rename(&self.log, self.log.with_extension("log.1")).map_err(at(&self.log))?;
        }
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.log)
            .map_err(at(&self.log))?;
        let length = log.metadata().map_err(at(&self.log))?.len();
        Ok((log, length))
    }

    fn not_started(&self, reason: String, log_start: u64) -> ClusterError {
        let tail = read_tail(&self.log, log_start).unwrap_or_default();
        ClusterError::NotStarted { reason, log: self.log.clone(), tail }
    }
}

fn create_data_dir(data_dir: &Path) -> Result<PathBuf, ClusterError> {
    // As root, the user who runs Postgres must get through to the cluster's folder, and no further.
    let mode = if Uid::effective().is_root() { 0o711 } else { 0o700 };
    DirBuilder::new().recursive(true).mode(mode).create(data_dir).map_err(at(data_dir))?;
    data_dir.canonicalize().map_err(at(data_dir))
}

fn lock(data_dir: &Path) -> Result<Flock<File>, ClusterError> {
    let path = data_dir.join("tenantry.lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(at(&path))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            lock.set_len(0)
                .and_then(|()| writeln!(lock, "{}", std::process::id()))
                .map_err(at(&path))?;
            Ok(lock)
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut process = String::new();
            let read = file.read_to_string(&mut process).unwrap_or(0);
            let process = if read == 0 { "unknown" } else { process.trim() }.to_owned();
            Err(ClusterError::InUse { data_dir: data_dir.to_owned(), process })
        }
        Err((_, errno)) => Err(at(&path)(errno.into())),
    }
}

/// Finds the user to run Postgres as, if it is another than ours: as root, the cluster's owner.
fn user_for(folder: &Path) -> Result<Option<User>, ClusterError> {
    let ours = Uid::effective();
    let owner = fs::metadata(folder).ok().map(|metadata| Uid::from_raw(metadata.uid()));
    match owner {
        Some(owner) if owner.is_root() || (!ours.is_root() && owner != ours) => {
            Err(ClusterError::NotOurs { folder: folder.to_owned(), owner: owner.as_raw() })
        }
        _ if !ours.is_root() => Ok(None),
        Some(owner) => User::from_uid(owner).ok().flatten().map(Some).ok_or(ClusterError::NoUser),
        None => ["postgres", "nobody"]
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(Some)
            .ok_or(ClusterError::NoUser),
    }
}

/// Lets the user try each folder on the way, since more than the mode bits may close one.
async fn check_reachable(data_dir: &Path, user: &User) -> Result<(), ClusterError> {
    let mut way: Vec<&Path> = data_dir.ancestors().collect();
    way.reverse();
    for folder in way {
        let mut command = command_as("/bin/sh".as_ref(), Some(user));
        command.args(["-c", r#"cd "$1""#, "sh"]).arg(folder).stderr(Stdio::null());
        if !command.status().await.map_err(at("/bin/sh"))?.success() {
            let user = user.name.clone();
            return Err(ClusterError::Unreachable { user, folder: folder.to_owned() });
        }
    }
    Ok(())
}

/// Finds the binaries of the newest supported version, or those that an existing cluster needs.
async fn find_binaries(folder: &Path) -> Result<PathBuf, ClusterError> {
    let needed = match fs::read_to_string(folder.join("PG_VERSION")) {
        Ok(version) => Some(version.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(at(folder)(error)),
    };
    let supported = OLDEST_VERSION..=NEWEST_VERSION;
    let mut best: Option<(u32, PathBuf)> = None;
    let mut unsupported = BTreeSet::new();
    for place in places_of_binaries().await? {
        let Some(version) = version_of(&place).await else { continue };
        if !supported.contains(&version) {
            unsupported.insert(version);
        } else if needed.as_ref().is_none_or(|needed| *needed == version.to_string())
            && best.as_ref().is_none_or(|(best, _)| *best < version)
        {
            best = Some((version, place));
        }
    }
    match (best, needed) {
        (Some((_, place)), _) => Ok(place),
        (None, Some(version)) => {
            Err(ClusterError::NoServerForCluster { folder: folder.to_owned(), version })
        }
        (None, None) => Err(ClusterError::NoServer { found: unsupported }),
    }
}

/// Lists the folders that hold the server's binaries, not only those of the client.
async fn places_of_binaries() -> Result<Vec<PathBuf>, ClusterError> {
    let is_server = |place: &Path| ["initdb", "postgres"].iter().all(|it| place.join(it).is_file());
    if let Some(place) = env::var_os("TENANTRY_PG_BIN").map(PathBuf::from) {
        if is_server(&place) && version_of(&place).await.is_some() {
            return Ok(vec![place]);
        }
        return Err(ClusterError::NoServerThere(place));
    }
    let mut places = Vec::new();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output().await {
        places.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    for version in OLDEST_VERSION..=NEWEST_VERSION {
        let version = version.to_string();
        places.extend(USUAL_PLACES.iter().map(|it| PathBuf::from(it.replace("NN", &version))));
    }
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    places.retain(|place| place.is_absolute() && is_server(place));
    Ok(places)
}

async fn version_of(place: &Path) -> Option<u32> {
    let output = Command::new(place.join("postgres")).arg("--version").output().await.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.strip_prefix("postgres (PostgreSQL) ")?;
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// Creates the cluster beside its place and then moves it there, so that it is whole or absent.
async fn create_cluster(
    folder: &Path,
    binaries: &Path,
    user: Option<&User>,
    durability: Durability,
) -> Result<(), ClusterError> {
    // Never a name used before: an initdb whose service was killed may still be writing there.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unfinished = folder.with_extension(format!("new.{}", now.as_nanos()));
    let result = run_initdb(&unfinished, binaries, user, durability)
        .await
        .and_then(|()| fs::rename(&unfinished, folder).map_err(at(folder)));
    let data_dir = folder.parent().unwrap_or(folder);
    for entry in fs::read_dir(data_dir).map_err(at(data_dir))?.flatten() {
        if entry.file_name().as_bytes().starts_with(b"postgres.new.") {
            // Of no use to anybody, and tried again when the next cluster is made.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    result
}

async fn run_initdb(
    folder: &Path,
    binaries: &Path,
    user: Option<&User>,
    durability: Durability,
) -> Result<(), ClusterError> {
    DirBuilder::new().mode(0o700).create(folder).map_err(at(folder))?;
    give_to(folder, user)?;
    let initdb = binaries.join("initdb");
    // Byte order sorts alike everywhere; not every system has its variant that knows UTF-8.
    for locale in ["C.UTF-8", "C"] {
        let mut command = command_as(&initdb, user);
        command.args(["--encoding=UTF8", "--auth=trust", "-U", SUPERUSER, "--no-instructions"]);
        command.arg(format!("--locale={locale}")).arg("-D").arg(folder);
        if durability == Durability::Throwaway {
            command.arg("--no-sync");
        }
        let output = command.output().await.map_err(at(&initdb))?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if locale == "C" || !stderr.contains("locale") {
            return Err(ClusterError::Initdb { folder: folder.to_owned(), stderr });
        }
    }
    Ok(())
}

/// Finds or creates the folder of the socket: the cluster's own, unless its path is too long.
fn create_socket_folder(folder: &Path, user: Option<&User>) -> Result<PathBuf, ClusterError> {
    if folder.join(SOCKET_NAME).as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok(folder.to_owned());
    }
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    let short = env::temp_dir().join(format!("tenantry-{:016x}", hasher.finish()));
    match DirBuilder::new().mode(0o700).create(&short) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(&short)(error))?,
        _ => {}
    }
    // Others can write to the temporary folder too, so what is there need not be ours.
    let found = fs::symlink_metadata(&short).map_err(at(&short))?;
    let owner = Uid::from_raw(found.uid());
    let ours = owner == Uid::effective() || user.is_some_and(|user| owner == user.uid);
    if !ours || !found.is_dir() || found.mode() & 0o077 != 0 {
        return Err(ClusterError::NotOurs { folder: short, owner: owner.as_raw() });
    }
    give_to(&short, user)?;
    Ok(short)
}

fn give_to(folder: &Path, user: Option<&User>) -> Result<(), ClusterError> {
    let Some(user) = user else { return Ok(()) };
    os::unix::fs::chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .map_err(at(folder))
}

/// Prepares a program to run as the user, or as ourselves.
///
/// It gets an empty environment: ours may hold secrets, and settings (`PGPORT`, `LC_ALL`) that must
/// not change what the cluster is.
fn command_as(program: &Path, user: Option<&User>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// Reads the arguments of a process, each followed by a space; nothing if there is none.
fn command_line_of(process: i32) -> String {
    let bytes = if cfg!(target_os = "linux") {
        fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default()
    } else {
        let process = process.to_string();
        std::process::Command::new("ps")
            .args(["-ww", "-o", "command=", "-p", &process])
            .output()
            .map(|output| output.stdout)
            .unwrap_or_default()
    };
    String::from_utf8_lossy(&bytes).replace(['\0', '\n'], " ")
}

fn is_gone(process: i32) -> bool {
    kill(Pid::from_raw(process), None) == Err(Errno::ESRCH)
}

/// Quotes a folder for a setting that is a list of folders.
fn quote_folder(folder: &Path) -> OsString {
    let mut quoted = b"\"".to_vec();
    for byte in folder.as_os_str().as_bytes() {
        quoted.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
    }
    quoted.push(b'"');
    os::unix::ffi::OsStringExt::from_vec(quoted)
}

fn percent_encode(bytes: &[u8]) -> String {
    let mut encoded = String::new();
    for byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(*byte));
            }
            _ => encoded.extend(["%", &format!("{byte:02X}")]),
        }
    }
    encoded
}

fn read_tail(log: &Path, start: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(length.saturating_sub(64 * 1024))))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n"))
}

fn found_text(found: &BTreeSet<u32>) -> String {
    if found.is_empty() {
        return String::new();
    }
    let versions: Vec<String> = found.iter().map(u32::to_string).collect();
    format!(" (only version {})", versions.join(", "))
}

fn at(path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> ClusterError {
    move |source| ClusterError::Io { path: path.as_ref().to_owned(), source }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal::SIGKILL;
    use tempfile::TempDir;

    use super::*;

    /// A data folder that the user who runs Postgres can reach.
    fn data_dir() -> TempDir {
        let folder = tempfile::Builder::new().prefix("tenantry").tempdir().unwrap();
        let open = os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(folder.path(), open).unwrap();
        folder
    }

    fn postmaster(data_dir: &Path) -> Option<Pid> {
        let status = fs::read_to_string(data_dir.join("postgres/postmaster.pid")).ok()?;
        Some(Pid::from_raw(status.lines().next()?.parse().ok()?))
    }

    async fn eventually(what: impl Fn() -> bool) {
        for _ in 0..1000 {
            if what() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("it did not come true within 20 s");
    }

    fn accepts(data_dir: &Path) -> bool {
        let socket = data_dir.join("postgres").join(SOCKET_NAME);
        os::unix::net::UnixStream::connect(socket).is_ok()
    }

    #[tokio::test]
    async fn a_cluster_starts_from_nothing_and_again() {
        let data_dir = data_dir();

        let first = Cluster::start(data_dir.path()).await.unwrap();
        first.stop().await;
        let stopped = postmaster(data_dir.path());
        let second = Cluster::start(data_dir.path()).await.unwrap();

        assert_eq!(stopped, None);
        assert!(accepts(data_dir.path()));
        second.stop().await;
    }

    #[tokio::test]
    async fn a_second_service_on_the_same_folder_is_refused() {
        let data_dir = data_dir();
        let first = Cluster::start_throwaway(data_dir.path()).await.unwrap();

        let error = Cluster::start_throwaway(data_dir.path()).await.unwrap_err();

        let ours = std::process::id().to_string();
        assert!(matches!(error, ClusterError::InUse { process, .. } if process == ours));
        first.stop().await;
    }

    #[tokio::test]
    async fn a_killed_postgres_comes_back() {
        let data_dir = data_dir();
        let cluster = Cluster::start_throwaway(data_dir.path()).await.unwrap();
        let killed = postmaster(data_dir.path()).unwrap();

        kill(killed, SIGKILL).unwrap();

        eventually(|| postmaster(data_dir.path()).is_some_and(|it| it != killed)).await;
        eventually(|| accepts(data_dir.path())).await;
        cluster.stop().await;
        assert_eq!(postmaster(data_dir.path()), None);
    }

    #[tokio::test]
    async fn nothing_is_left_running_after_a_drop() {
        let data_dir = data_dir();
        let cluster = Cluster::start_throwaway(data_dir.path()).await.unwrap();
        let process = postmaster(data_dir.path()).unwrap();

        drop(cluster);

        eventually(|| is_gone(process.as_raw())).await;
    }

    #[tokio::test]
    async fn a_start_waits_for_the_postgres_of_a_service_that_was_dropped() {
        let data_dir = data_dir();
        drop(Cluster::start_throwaway(data_dir.path()).await.unwrap());

        let cluster = Cluster::start_throwaway(data_dir.path()).await.unwrap();

        assert!(accepts(data_dir.path()));
        cluster.stop().await;
    }

    #[tokio::test]
    async fn a_status_file_with_the_number_of_another_process_does_not_hinder() {
        let data_dir = data_dir();
        Cluster::start_throwaway(data_dir.path()).await.unwrap().stop().await;
        let status = data_dir.path().join("postgres/postmaster.pid");
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(&status, format!("{}\nfolder\n0\n5432\n\n\n  1 1\nready\n", other.id())).unwrap();
        fs::set_permissions(&status, os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let owner = fs::metadata(data_dir.path().join("postgres")).unwrap();
        os::unix::fs::chown(&status, Some(owner.uid()), Some(owner.gid())).unwrap();

        let started = Cluster::start_throwaway(data_dir.path()).await;

        other.kill().unwrap();
        other.wait().unwrap();
        started.unwrap().stop().await;
    }

    #[tokio::test]
    async fn a_long_data_folder_has_its_socket_elsewhere() {
        let data_dir = data_dir();
        let long = data_dir.path().join("a, \"quoted\" folder".repeat(8));

        let cluster = Cluster::start_throwaway(&long).await.unwrap();

        let socket = cluster.socket_folder.join(SOCKET_NAME);
        assert!(socket.as_os_str().len() <= SOCKET_PATH_MAX);
        assert!(os::unix::net::UnixStream::connect(&socket).is_ok());
        let socket_folder = cluster.socket_folder.clone();
        cluster.stop().await;
        fs::remove_dir(socket_folder).unwrap();
    }

    #[test]
    fn a_url_keeps_odd_names_apart() {
        assert_eq!(percent_encode(b"/tmp/a b@c:d"), "%2Ftmp%2Fa%20b%40c%3Ad");
    }
}
