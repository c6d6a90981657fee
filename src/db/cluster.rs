//! The private Postgres cluster: what serves the data when no database URL is set.
//!
//! Everything lies in the data folder: `postgres/` (the cluster, and the socket in it),
//! `postgres.log` and `tenantry.lock`, which is locked as long as a service uses the folder. There
//! is no TCP port; who may enter `postgres/`, which is its owner and root, may be any role.
//!
//! Postgres must never outlive the service, however that ends, and must not stop before it. So a
//! small shell, the watcher, runs Postgres in a process group of its own (Ctrl-C reaches only the
//! service) and reads from a pipe, the leash, whose other end only the service holds. The kernel
//! closes it even after `kill -9`; then the watcher shuts Postgres down. In turn a task of the
//! service starts Postgres again whenever that ends by itself.

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, PipeReader, PipeWriter, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::{
            DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown,
        },
    },
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag},
    sys::signal::{Signal, kill},
    unistd::{Pid, Uid, User},
};
use sha2::{Digest as _, Sha256};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// The role that owns the cluster, and that no policy binds: for migrations, never for calls.
pub const SUPERUSER: &str = "tenantry_root";

const VERSIONS: std::ops::RangeInclusive<u32> = 15..=18;

/// Where packages put the server's programs; most of these are not on the `PATH`.
const USUAL_PLACES: [&str; 6] = [
    "/usr/lib/postgresql/NN/bin",
    "/usr/pgsql-NN/bin",
    "/opt/homebrew/opt/postgresql@NN/bin",
    "/usr/local/opt/postgresql@NN/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@NN/bin",
    "/Applications/Postgres.app/Contents/Versions/NN/bin",
];

/// How long a start may take; recovery after a crash is part of it.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long a start waits for what is left of an earlier Postgres.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(20);
/// How long a start waits for the lock of a service that is just ending.
const LOCK_LIMIT: Duration = Duration::from_millis(500);
const POLL_INTERVAL: Duration = Duration::from_millis(15);
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A Postgres that ran this long was sound: its end says nothing about the next start.
const SETTLED_AFTER: Duration = Duration::from_mins(1);
const LOG_BYTES_MAX: u64 = 10 * 1024 * 1024;
const LOG_TAIL_BYTES: u64 = 4 * 1024;

const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// What the address of a Unix socket holds on macOS, without the final zero; Linux takes more.
const SOCKET_PATH_MAX: usize = 103;

/// Runs the command it is given until that ends, or until its standard input does.
///
/// A shell runs what it puts into the background without standard input, hence descriptor 3; and
/// ignoring interrupts until the program handles them, hence the repetition. It must not fall to
/// the signals that a service manager sends to all processes of a service.
const WATCHER: &str = r#"
exec 3<&0
"$@" 3<&- </dev/null &
program=$!
trap '' HUP INT TERM
(
    read -r nothing <&3
    while kill -INT "$program"; do sleep 1; done
) 2>/dev/null &
reader=$!
wait "$program"
status=$?
kill -KILL "$reader" 2>/dev/null
exit "$status"
"#;

/// Tries to enter one folder after the other, and prints the first that is closed.
///
/// Only trying tells: access control lists and security modules have a say besides the mode.
const ENTER_EACH: &str =
    r#"for folder; do cd "$folder" 2>/dev/null || { printf %s "$folder"; exit 1; }; done"#;

/// A running private cluster; Postgres stops when this is dropped or the process dies in any way.
#[derive(Debug)]
pub struct Cluster {
    socket_folder: PathBuf,
    // Dropped before the leash, so that the supervisor does not take the end for a crash.
    stop: oneshot::Sender<()>,
    leash: PipeWriter,
    supervisor: JoinHandle<()>,
    lock: Flock<File>,
}

impl Cluster {
    /// Starts the cluster in the data folder, creating both if need be, and waits until it answers.
    pub async fn start(data_dir: &Path) -> Result<Self, ClusterError> {
        Self::start_with(data_dir, Durability::Safe).await
    }

    /// Starts a cluster for tests: fast, open to many connections, lost if the machine crashes.
    pub async fn start_throwaway(data_dir: &Path) -> Result<Self, ClusterError> {
        Self::start_with(data_dir, Durability::Throwaway).await
    }

    async fn start_with(data_dir: &Path, durability: Durability) -> Result<Self, ClusterError> {
        let data_dir = create_data_dir(data_dir)?;
        let lock = lock(&data_dir).await?;
        let folder = data_dir.join("postgres");
        let user = user_for(&folder)?;
        check_reachable(&data_dir, user.as_ref()).await?;
        let binaries = find_binaries(&folder).await?;
        let socket_folder = socket_folder_for(&folder, user.as_ref()).await?;
        let (leash_end, leash) = io::pipe().map_err(at(&folder))?;
        let log = data_dir.join("postgres.log");
        let server = Server { folder, socket_folder, log, binaries, user, durability, leash_end };

        server.create_if_missing(&data_dir).await?;
        let postgres = timeout(START_LIMIT, server.launch())
            .await
            .unwrap_or_else(|_| Err(server.not_started("it was not ready in time", 0)))?;
        let (stop, stopped) = oneshot::channel();
        let socket_folder = server.socket_folder.clone();
        let supervisor = tokio::spawn(server.supervise(postgres, stopped));
        Ok(Self { socket_folder, stop, leash, supervisor, lock })
    }

    /// Makes the URL by which a role reaches a database, for `tokio-postgres` and for `psql`.
    pub fn url(&self, role: &str, database: &str) -> String {
        let host = percent_encode(self.socket_folder.as_os_str().as_bytes());
        let role = percent_encode(role.as_bytes());
        let database = percent_encode(database.as_bytes());
        format!("postgres://{role}@{host}/{database}")
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

/// Why the private cluster could not be started; each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There are no programs of a Postgres server anywhere, or only of these unsupported versions.
    #[error(
        "no PostgreSQL server of version {} to {} found{}; `make run` installs one, or do it \
         yourself: `apt-get install postgresql` (Debian, Ubuntu), `dnf install postgresql-server` \
         (Fedora), `brew install postgresql@17` (macOS); if it is elsewhere, set TENANTRY_PG_BIN \
         to the folder that holds initdb and postgres",
        VERSIONS.start(), VERSIONS.end(), found_text(.0)
    )]
    NoServer(BTreeSet<u32>),
    /// `TENANTRY_PG_BIN` names this folder, which does not hold the programs of a server.
    #[error("TENANTRY_PG_BIN is {0}, which does not hold working initdb and postgres; correct it")]
    NoServerThere(PathBuf),
    /// The cluster in this folder was made by a version that is not installed or not supported.
    #[error(
        "the cluster in {0} was made by PostgreSQL {1}, which is not installed or not supported; \
         install that version, or name its folder in TENANTRY_PG_BIN, or set another --data-dir"
    )]
    NoServerForCluster(PathBuf, String),
    /// Another service, of this process id if it is known, runs on the data folder.
    #[error("another tenantry (process {1}) runs on {0}; stop it or set another --data-dir")]
    InUse(PathBuf, String),
    /// The Postgres of an earlier service, of this process id, does not stop.
    #[error("an earlier Postgres (process {1}) still runs on {0}; stop it and try again")]
    StillRunning(PathBuf, i32),
    /// As root: there is no user to run Postgres as, which itself refuses to run as root.
    #[error("postgres cannot run as root: create a user `postgres`, or run as another user")]
    NoUser,
    /// As root: the user that Postgres runs as cannot enter a folder on the way to the cluster.
    #[error(
        "postgres runs as the user {user}, who cannot enter {folder}; set a --data-dir elsewhere, \
         such as /var/lib/tenantry, or allow it with `chmod o+x {folder}`"
    )]
    Unreachable {
        /// The name of the user.
        user: String,
        /// The first folder on the way that is closed.
        folder: PathBuf,
    },
    /// This folder, of the cluster or its socket, is another user's or open to others.
    #[error(
        "{0} belongs to another user (user id {1}) or is open to others; run as its owner, or \
         set another --data-dir"
    )]
    NotOurs(PathBuf, Uid),
    /// `initdb` failed to create a cluster here, and said this.
    #[error("initdb could not create a cluster in {0}: {1}")]
    Initdb(PathBuf, String),
    /// Postgres ended, or was not ready in time.
    #[error("postgres did not start ({reason}); its log, {log}, ends with:\n{tail}")]
    NotStarted {
        /// How it ended.
        reason: String,
        /// The log file.
        log: PathBuf,
        /// The last lines of this start.
        tail: String,
    },
    /// A file, folder or program cannot be used.
    #[error("cannot use {path}: {error}")]
    Io {
        /// The file, folder or program.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What a crash of the machine may cost: nothing that was committed, or everything.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Durability {
    Safe,
    Throwaway,
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
    /// Creates the cluster beside its place and then moves it there: it is whole or absent.
    async fn create_if_missing(&self, data_dir: &Path) -> Result<(), ClusterError> {
        for entry in fs::read_dir(data_dir).map_err(at(data_dir))?.flatten() {
            if entry.file_name().as_bytes().starts_with(b"postgres.new.") {
                // Of no use to anybody; what cannot be removed now goes at the next start.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        if self.folder.join("PG_VERSION").exists() {
            return Ok(());
        }
        // Never a name used before: an initdb whose service was killed may still be cleaning up.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unfinished = self.folder.with_extension(format!("new.{}", now.as_nanos()));
        DirBuilder::new().mode(0o700).create(&unfinished).map_err(at(&unfinished))?;
        give_to(&unfinished, self.user.as_ref())?;
        self.run_initdb(&unfinished).await?;
        fs::rename(&unfinished, &self.folder).map_err(at(&self.folder))?;
        File::open(data_dir).and_then(|folder| folder.sync_all()).map_err(at(data_dir))
    }

    async fn run_initdb(&self, folder: &Path) -> Result<(), ClusterError> {
        // Byte order sorts alike everywhere; not every system has the variant that knows UTF-8.
        for locale in ["C.UTF-8", "C"] {
            let mut command = self.watched("initdb")?;
            command.args(["--encoding=UTF8", "--auth=trust", "-U", SUPERUSER]);
            command.arg(format!("--locale={locale}")).arg("-D").arg(folder);
            if self.durability == Durability::Throwaway {
                command.arg("--no-sync");
            }
            let output = command.output().await.map_err(at("/bin/sh"))?;
            if output.status.success() {
                return Ok(());
            }
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if locale == "C" || !stderr.contains("locale") {
                return Err(ClusterError::Initdb(self.folder.clone(), stderr));
            }
        }
        Ok(())
    }

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
                status = postgres.wait() => {
                    let status = status.map_or_else(|error| error.to_string(), |it| it.to_string());
                    tracing::warn!(status, "postgres ended, restarting it");
                }
            }
            if started.elapsed() > SETTLED_AFTER {
                pause = RESTART_PAUSE_MIN;
            }
            match self.relaunch(&mut pause, &mut stopped).await {
                Some(relaunched) => postgres = relaunched,
                None => return,
            }
            tracing::info!("postgres is back");
        }
    }

    /// Starts Postgres as often as it takes, or gives up because the service stops.
    ///
    /// A launch is never broken off: once the leash is gone, its Postgres ends by itself, and only
    /// a stop that has seen this end is complete.
    async fn relaunch(
        &self,
        pause: &mut Duration,
        stopped: &mut oneshot::Receiver<()>,
    ) -> Option<Child> {
        loop {
            tokio::select! {
                biased;
                _ = &mut *stopped => return None,
                () = sleep(*pause) => {}
            }
            *pause = (*pause * 2).min(RESTART_PAUSE_MAX);
            match self.launch().await {
                Ok(postgres) => return Some(postgres),
                Err(_) if stopped.try_recv() == Err(oneshot::error::TryRecvError::Closed) => {
                    return None;
                }
                Err(error) => tracing::warn!(%error, "postgres could not be restarted"),
            }
        }
    }

    /// Starts Postgres and waits until it accepts connections.
    async fn launch(&self) -> Result<Child, ClusterError> {
        let deadline = Instant::now() + LEFTOVER_LIMIT;
        loop {
            self.end_leftover().await?;
            let log = open_regular(&self.log)?;
            let mut log_start = log.metadata().map_err(at(&self.log))?.len();
            if log_start > LOG_BYTES_MAX {
                log.set_len(0).map_err(at(&self.log))?;
                log_start = 0;
            }
            let mut postgres = self.spawn(log)?;
            let Some(status) = self.until_ready(&mut postgres).await? else { return Ok(postgres) };
            let error = self.not_started(&status.to_string(), log_start);
            // The sessions of a Postgres that was killed need a moment to notice.
            let lingering = error.to_string().contains("shared memory block");
            if !lingering || Instant::now() > deadline {
                return Err(error);
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn spawn(&self, log: File) -> Result<Child, ClusterError> {
        let errors = log.try_clone().map_err(at(&self.log))?;
        let mut sockets = OsString::from("unix_socket_directories=");
        sockets.push(quote(&self.socket_folder));
        // What stands on the command line cannot be changed from inside the database.
        let mut command = self.watched("postgres")?;
        command.arg("-D").arg(&self.folder).arg("-c").arg(sockets);
        command.args(["-c", "listen_addresses=", "-c", "port=5432"]);
        command.args(["-c", "unix_socket_permissions=0700", "-c", "logging_collector=off"]);
        let settings: &[&str] = match self.durability {
            Durability::Safe => &["fsync=on", "full_page_writes=on", "synchronous_commit=on"],
            Durability::Throwaway => &[
                "fsync=off",
                "full_page_writes=off",
                "synchronous_commit=off",
                "max_connections=400",
                // Tests read from it what was asked of the database.
                "shared_preload_libraries=pg_stat_statements",
                // Of all of them: each has a database of its own.
                "pg_stat_statements.max=100000",
            ],
        };
        for setting in settings {
            command.args(["-c", setting]);
        }
        command.stdout(log).stderr(errors).spawn().map_err(at("/bin/sh"))
    }

    /// Prepares a program of the server to run under the watcher.
    fn watched(&self, program: &str) -> Result<Command, ClusterError> {
        let leash_end = self.leash_end.try_clone().map_err(at(&self.folder))?;
        let mut command = shell_as(WATCHER, self.user.as_ref());
        command.arg(self.binaries.join(program)).stdin(leash_end).process_group(0);
        Ok(command)
    }

    /// Waits until Postgres is ready, or tells how it ended.
    async fn until_ready(&self, postgres: &mut Child) -> Result<Option<ExitStatus>, ClusterError> {
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
    /// begin. Since a new Postgres writes its status before it opens its socket, both agree only
    /// when it is ready, if the file is read after the socket answered.
    async fn is_ready(&self) -> bool {
        self.has_status_ready()
            && UnixStream::connect(self.socket_folder.join(SOCKET_NAME)).await.is_ok()
            && self.has_status_ready()
    }

    fn has_status_ready(&self) -> bool {
        fs::read_to_string(self.status_file())
            .is_ok_and(|text| text.lines().nth(7).is_some_and(|line| line.trim() == "ready"))
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
                return Err(ClusterError::StillRunning(self.folder.clone(), process));
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Finds the process id of a Postgres that still runs on the folder.
    ///
    /// The id in the status file may meanwhile be that of another process, above all in a container
    /// that started again; Postgres would take it for a rival. Then it is replaced by an id that no
    /// process has. The rest must stay: by it Postgres finds out whether old sessions still live.
    fn find_leftover(&self) -> Option<i32> {
        let status = fs::read_to_string(self.status_file()).ok()?;
        let (process, rest) = status.split_once('\n')?;
        let process = process.trim().parse().ok().filter(|process| *process > 1)?;
        if kill(Pid::from_raw(process), None) == Err(Errno::ESRCH) {
            return None;
        }
        let ours = format!("postgres -D {} ", self.folder.display());
        if command_line_of(process).contains(&ours) {
            return Some(process);
        }
        let socket_lock = self.socket_folder.join(format!("{SOCKET_NAME}.lock"));
        let cleared = fs::write(self.status_file(), format!("{}\n{rest}", i32::MAX));
        if let Err(error) = cleared.and_then(|()| fs::remove_file(socket_lock)) {
            tracing::debug!(%error, "could not clear the status of an earlier Postgres");
        }
        None
    }

    fn not_started(&self, reason: &str, log_start: u64) -> ClusterError {
        let tail = read_tail(&self.log, log_start).unwrap_or_default();
        ClusterError::NotStarted { reason: reason.to_owned(), log: self.log.clone(), tail }
    }
}

fn create_data_dir(data_dir: &Path) -> Result<PathBuf, ClusterError> {
    if !data_dir.exists() {
        // As root, the user who runs Postgres must get through to the cluster, whatever the umask.
        let mode = if Uid::effective().is_root() { 0o755 } else { 0o700 };
        DirBuilder::new().recursive(true).mode(mode).create(data_dir).map_err(at(data_dir))?;
        fs::set_permissions(data_dir, Permissions::from_mode(mode)).map_err(at(data_dir))?;
    }
    data_dir.canonicalize().map_err(at(data_dir))
}

/// Locks the data folder for this service.
///
/// The lock of a service that was just killed lasts until the kernel has closed its files, and
/// those of a program that it was about to start; hence the little patience.
async fn lock(data_dir: &Path) -> Result<Flock<File>, ClusterError> {
    let path = data_dir.join("tenantry.lock");
    let deadline = Instant::now() + LOCK_LIMIT;
    loop {
        match Flock::lock(open_regular(&path)?, FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                let process = std::process::id();
                lock.set_len(0).and_then(|()| writeln!(lock, "{process}")).map_err(at(&path))?;
                return Ok(lock);
            }
            Err((_, Errno::EWOULDBLOCK)) if Instant::now() < deadline => sleep(POLL_INTERVAL).await,
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut process = String::new();
                let read = file.read_to_string(&mut process).unwrap_or(0);
                let process = if read == 0 { "unknown" } else { process.trim() };
                return Err(ClusterError::InUse(data_dir.to_owned(), process.to_owned()));
            }
            Err((_, errno)) => return Err(at(&path)(errno.into())),
        }
    }
}

/// Opens a file of the data folder for reading and appending; never what a link points to.
fn open_regular(path: &Path) -> Result<File, ClusterError> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(path)
        .map_err(at(path))
}

/// Finds the user to run Postgres as, if it is another than ours: as root, the cluster's owner.
fn user_for(folder: &Path) -> Result<Option<User>, ClusterError> {
    let ours = Uid::effective();
    let owner = fs::symlink_metadata(folder).ok().map(|found| Uid::from_raw(found.uid()));
    match owner {
        Some(owner) if owner.is_root() || (!ours.is_root() && owner != ours) => {
            Err(ClusterError::NotOurs(folder.to_owned(), owner))
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

async fn check_reachable(folder: &Path, user: Option<&User>) -> Result<(), ClusterError> {
    let Some(user) = user else { return Ok(()) };
    let mut way: Vec<&Path> = folder.ancestors().collect();
    way.reverse();
    let output =
        shell_as(ENTER_EACH, Some(user)).args(way).output().await.map_err(at("/bin/sh"))?;
    if output.status.success() {
        return Ok(());
    }
    let closed = PathBuf::from(OsString::from_vec(output.stdout));
    Err(ClusterError::Unreachable { user: user.name.clone(), folder: closed })
}

/// Finds the programs of the newest supported version, or of that which made the cluster.
async fn find_binaries(folder: &Path) -> Result<PathBuf, ClusterError> {
    let version_file = folder.join("PG_VERSION");
    let needed = match fs::read_to_string(&version_file) {
        Ok(version) => Some(version.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(at(version_file)(error)),
    };
    let mut best: Option<(u32, PathBuf)> = None;
    let mut unsupported = BTreeSet::new();
    for place in places_of_binaries().await? {
        let Some(version) = version_of(&place).await else { continue };
        if !VERSIONS.contains(&version) {
            unsupported.insert(version);
        } else if needed.as_ref().is_none_or(|needed| *needed == version.to_string())
            && best.as_ref().is_none_or(|(best, _)| *best < version)
        {
            best = Some((version, place));
        }
    }
    match (best, needed) {
        (Some((_, place)), _) => Ok(place),
        (None, Some(version)) => Err(ClusterError::NoServerForCluster(folder.to_owned(), version)),
        (None, None) => Err(ClusterError::NoServer(unsupported)),
    }
}

/// Lists the folders that hold the programs of a server, not only those of a client.
async fn places_of_binaries() -> Result<Vec<PathBuf>, ClusterError> {
    let is_server = |place: &Path| ["initdb", "postgres"].iter().all(|it| place.join(it).is_file());
    if let Some(place) = env::var_os("TENANTRY_PG_BIN").map(PathBuf::from) {
        if is_server(&place) && version_of(&place).await.is_some() {
            return Ok(vec![place]);
        }
        return Err(ClusterError::NoServerThere(place));
    }
    let mut places = Vec::new();
    for version in VERSIONS {
        let version = version.to_string();
        places.extend(USUAL_PLACES.iter().map(|it| PathBuf::from(it.replace("NN", &version))));
    }
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output().await {
        places.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    places.retain(|place| place.is_absolute() && is_server(place));
    Ok(places)
}

/// Asks the server's program for its major version.
async fn version_of(place: &Path) -> Option<u32> {
    let output = Command::new(place.join("postgres")).arg("--version").output().await.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.strip_prefix("postgres (PostgreSQL) ")?;
    version.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// Finds the folder of the socket: the cluster's own, or a short one if its path is too long.
async fn socket_folder_for(folder: &Path, user: Option<&User>) -> Result<PathBuf, ClusterError> {
    if folder.join(SOCKET_NAME).as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok(folder.to_owned());
    }
    let digest = Sha256::digest(folder.as_os_str().as_bytes());
    let short = env::temp_dir().join(format!("tenantry-{}", hex::encode(&digest[..8])));
    match DirBuilder::new().mode(0o700).create(&short) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(&short)(error))?,
        _ => {}
    }
    // Others can write to the temporary folder too, so what is there need not be ours.
    let found = fs::symlink_metadata(&short).map_err(at(&short))?;
    let owner = Uid::from_raw(found.uid());
    let ours = owner == Uid::effective() || user.is_some_and(|user| owner == user.uid);
    if !ours || !found.is_dir() || found.mode() & 0o077 != 0 {
        return Err(ClusterError::NotOurs(short, owner));
    }
    give_to(&short, user)?;
    check_reachable(&short, user).await?;
    Ok(short)
}

fn give_to(folder: &Path, user: Option<&User>) -> Result<(), ClusterError> {
    let Some(user) = user else { return Ok(()) };
    chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(at(folder))
}

/// Prepares a shell script to run as the user, or as ourselves.
///
/// It gets an empty environment: ours may hold secrets, and settings (`PGPORT`, `LC_ALL`) that must
/// not change what the cluster is.
fn shell_as(script: &str, user: Option<&User>) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, "sh"]).current_dir("/").stdin(Stdio::null());
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
    if let Some(user) = user {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

/// Reads the program and arguments of a process, with spaces between; nothing if it has ended.
fn command_line_of(process: i32) -> String {
    let bytes = fs::read(format!("/proc/{process}/cmdline")).or_else(|_| {
        let process = process.to_string();
        let arguments = ["-ww", "-o", "command=", "-p", &process];
        std::process::Command::new("ps").args(arguments).output().map(|output| output.stdout)
    });
    String::from_utf8_lossy(&bytes.unwrap_or_default()).replace('\0', " ")
}

/// Quotes a folder for a setting that is a list of folders.
fn quote(folder: &Path) -> OsString {
    let mut quoted = b"\"".to_vec();
    for byte in folder.as_os_str().as_bytes() {
        quoted.extend(std::iter::repeat_n(*byte, if *byte == b'"' { 2 } else { 1 }));
    }
    quoted.push(b'"');
    OsString::from_vec(quoted)
}

fn percent_encode(bytes: &[u8]) -> String {
    let mut encoded = String::new();
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) {
            encoded.push(char::from(*byte));
        } else {
            encoded.extend(["%", &hex::encode_upper([*byte])]);
        }
    }
    encoded
}

fn read_tail(log: &Path, start: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(length.saturating_sub(LOG_TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn found_text(found: &BTreeSet<u32>) -> String {
    let versions: Vec<String> = found.iter().map(u32::to_string).collect();
    if versions.is_empty() { String::new() } else { format!(" (only {})", versions.join(", ")) }
}

fn at(path: impl AsRef<OsStr>) -> impl FnOnce(io::Error) -> ClusterError {
    move |error| ClusterError::Io { path: PathBuf::from(&path), error }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream as BlockingStream;

    use tempfile::TempDir;

    use super::*;

    /// Makes a data folder that the user who runs Postgres can enter.
    fn data_dir() -> TempDir {
        let folder = tempfile::Builder::new().prefix("tenantry-test-").tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        folder
    }

    fn postmaster(data_dir: &Path) -> Option<Pid> {
        let status = fs::read_to_string(data_dir.join("postgres/postmaster.pid")).ok()?;
        Some(Pid::from_raw(status.lines().next()?.parse().ok()?))
    }

    fn accepts(cluster: &Cluster) -> bool {
        BlockingStream::connect(cluster.socket_folder.join(SOCKET_NAME)).is_ok()
    }

    async fn eventually(what: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while !what() {
            assert!(Instant::now() < deadline, "it did not come true within a minute");
            sleep(POLL_INTERVAL).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cluster_starts_from_nothing_and_again() {
        let data_dir = data_dir();

        Cluster::start(data_dir.path()).await.unwrap().stop().await;
        let stopped = postmaster(data_dir.path());
        let again = Cluster::start(data_dir.path()).await.unwrap();

        assert_eq!(stopped, None);
        assert!(accepts(&again));
        again.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_second_start_on_the_same_folder_is_refused() {
        let data_dir = data_dir();
        let first = Cluster::start_throwaway(data_dir.path()).await.unwrap();

        let error = Cluster::start_throwaway(data_dir.path()).await.unwrap_err();

        let ours = std::process::id().to_string();
        assert!(matches!(error, ClusterError::InUse(_, process) if process == ours));
        first.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_killed_postgres_comes_back() {
        let data_dir = data_dir();
        let cluster = Cluster::start_throwaway(data_dir.path()).await.unwrap();
        let killed = postmaster(data_dir.path()).unwrap();

        kill(killed, Signal::SIGKILL).unwrap();

        eventually(|| postmaster(data_dir.path()).is_some_and(|it| it != killed)).await;
        eventually(|| accepts(&cluster)).await;
        cluster.stop().await;
        assert_eq!(postmaster(data_dir.path()), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nothing_is_left_running_after_a_drop() {
        let data_dir = data_dir();
        let cluster = Cluster::start_throwaway(data_dir.path()).await.unwrap();
        let process = postmaster(data_dir.path()).unwrap();

        drop(cluster);

        eventually(|| kill(process, None) == Err(Errno::ESRCH)).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_start_right_after_a_drop_waits_for_the_earlier_postgres() {
        let data_dir = data_dir();
        drop(Cluster::start_throwaway(data_dir.path()).await.unwrap());

        let cluster = Cluster::start_throwaway(data_dir.path()).await.unwrap();

        assert!(accepts(&cluster));
        cluster.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_status_file_with_the_id_of_another_process_does_not_hinder() {
        let data_dir = data_dir();
        Cluster::start_throwaway(data_dir.path()).await.unwrap().stop().await;
        let folder = data_dir.path().join("postgres");
        let status = folder.join("postmaster.pid");
        let owner = fs::metadata(&folder).unwrap();
        let mut other = std::process::Command::new("sleep");
        std::os::unix::process::CommandExt::uid(&mut other, owner.uid());
        let mut other = other.arg("60").spawn().unwrap();
        fs::write(&status, format!("{}\nfolder\n0\n5432\n\n\n  1 1\nready\n", other.id())).unwrap();
        fs::set_permissions(&status, Permissions::from_mode(0o600)).unwrap();
        chown(&status, Some(owner.uid()), Some(owner.gid())).unwrap();

        let started = Cluster::start_throwaway(data_dir.path()).await;

        other.kill().unwrap();
        other.wait().unwrap();
        started.unwrap().stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_long_data_folder_has_its_socket_elsewhere() {
        let data_dir = data_dir();
        let long = data_dir.path().join("a, \"quoted\" folder".repeat(8));

        let cluster = Cluster::start_throwaway(&long).await.unwrap();

        assert!(cluster.socket_folder.join(SOCKET_NAME).as_os_str().len() <= SOCKET_PATH_MAX);
        assert!(accepts(&cluster));
        let socket_folder = cluster.socket_folder.clone();
        cluster.stop().await;
        fs::remove_dir(socket_folder).unwrap();
    }

    #[test]
    fn a_url_part_keeps_odd_characters_apart() {
        assert_eq!(percent_encode(b"/tmp/a b@c:d"), "%2Ftmp%2Fa%20b%40c%3Ad");
    }
}
