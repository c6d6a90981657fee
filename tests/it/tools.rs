//! Programs that tests run beside the service: found where they are installed, ended with the test.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// Longer than any start takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs the program it is given until that ends, or until its standard input does, and then ends
/// all that the program has started.
///
/// Nothing of it is left over then, even where the tests are killed: the other end of its standard
/// input is held by the test alone, and the kernel closes it.
const LEASH: &str = r#"
{ "$@" </dev/null; kill -KILL 0; } &
read -r nothing
kill -KILL 0
"#;

/// A running program. It ends, with all that it started, when this is dropped.
pub struct Leashed {
    leash: Child,
    log: PathBuf,
}

impl Leashed {
    /// Starts it, in a process group of its own, with a log in this folder.
    pub fn start(program: &Path, arguments: &[OsString], folder: &TempDir) -> Self {
        let log = folder.path().join("log");
        let output = File::create(&log).unwrap();
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", LEASH, "leash"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            // What it leaves behind when it is killed goes with the folder.
            .env("TMPDIR", folder.path())
            .process_group(0);
        Self { leash: command.spawn().unwrap(), log }
    }

    /// Waits for what tells that it is ready; what it has said until then is told.
    pub async fn ready<T>(&mut self, mut sign: impl AsyncFnMut(&str) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let has_ended = self.leash.try_wait().unwrap().is_some();
            let said = String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned();
            assert!(!has_ended, "it ended instead of serving: {said}");
            if let Some(sign) = sign(&said).await {
                return sign;
            }
            assert!(start.elapsed() < PATIENCE, "it is not ready: {said}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        let _ = self.leash.wait();
    }
}

/// Finds a program: by a variable, among what `make` has installed, or on the `PATH`.
pub fn find(variable: &str, names: &[&str], script: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        return path.into();
    }
    // The tests themselves are some folders deep in the one that holds `tools`.
    let tests = env::current_exe().unwrap();
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let targets = tests.ancestors().chain([usual.as_path()]);
    let installed = targets.map(|target| target.join("tools/bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    let folders: Vec<_> = installed.chain(env::split_paths(&path)).collect();
    let files = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let found = files.into_iter().find(|file| file.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "{} is missing: `make test` installs it, as does {script}; or set {variable} to it",
            names[0]
        )
    })
}

#[tokio::test]
async fn what_a_program_started_ends_with_it() {
    let folder = TempDir::new().unwrap();
    let script = "sleep 600 & echo $!; wait".into();
    let mut shell = Leashed::start(Path::new("/bin/sh"), &["-c".into(), script], &folder);
    let process = shell.ready(async |said| said.trim().parse().ok()).await;

    drop(shell);

    assert!(has_ended(process), "{process} still runs");
}

/// Whether a process is no more, or only waits for its parent to take note.
fn has_ended(process: i32) -> bool {
    let state = Command::new("ps").args(["-o", "stat=", "-p", &process.to_string()]).output();
    let state = String::from_utf8(state.unwrap().stdout).unwrap();
    state.is_empty() || state.starts_with('Z')
}

#[test]
#[should_panic(expected = "`make test` installs it, as does scripts/ensure-nothing")]
fn a_program_that_is_missing_is_told_with_what_installs_it() {
    find("NOTHING_OF_THIS_NAME", &["nothing-of-this-name"], "scripts/ensure-nothing");
}
