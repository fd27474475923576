//! The built binary as a process.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::interval;

use crate::client::{self, Response};
use crate::folder::ConfigFolder;
use crate::wait::{self, PATIENCE};

/// The binary that [`use_binary`] chose.
static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// Has this program run another binary than it would by itself. Only the first call counts.
pub fn use_binary(file: PathBuf) {
    let _ = CHOSEN.set(file);
}

/// Cargo's folder of what is built, where the harness keeps what it installs and writes.
pub fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// The binary under test: the one of [`use_binary`], else `TIDEGATE_BIN`, else the one that was built beside this test.
///
/// # Panics
/// If it is not there, with the command that builds it.
pub fn binary() -> PathBuf {
    if let Some(path) = CHOSEN.get() {
        return path.clone();
    }
    if let Some(path) = std::env::var_os("TIDEGATE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of the running test");
    // target/<profile>/deps/<test>, or target/<profile>/<program>.
    let folders = || test.ancestors().skip(1).take(2);
    let binary = folders().map(|folder| folder.join("tidegate")).find(|binary| binary.is_file());
    let binary = binary.unwrap_or_else(|| folders().last().expect("a folder").join("tidegate"));
    assert!(binary.is_file(), "{} is missing: run `cargo build -p tidegate` or `make test`", binary.display());
    binary
}

/// A port of 127.0.0.1 that nobody uses, below the range that outgoing connections take theirs from.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut taken = TAKEN.lock().expect("no panic under the lock");
    let taken = taken.get_or_insert_default();
    // Programs that run side by side have numbers side by side, and begin at places that are not.
    let first = 10_000 + u16::try_from(std::process::id().wrapping_mul(97) % 18_000).expect("below 18,000");
    let port = (first..32_000)
        .chain(10_000..first)
        .find(|port| {
            // Istio's own ports are what programs take by default.
            !(15_000..15_100).contains(port)
                && !taken.contains(port)
                && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()
                && TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok()
        })
        .expect("a free port");
    taken.insert(port);
    port
}

/// `127.0.0.1:port`.
pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// CPU time of a process so far, user and system; nothing if it has ended.
pub fn cpu(pid: u32) -> Duration {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return Duration::ZERO };
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a stat line").split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number of ticks")).sum();
    // USER_HZ is 100 on every Linux that we build for.
    Duration::from_millis(ticks * 10)
}

/// How a process is started, apart from its configuration.
#[derive(Default)]
pub struct Options {
    args: Vec<OsString>,
    state: Option<PathBuf>,
    no_state: bool,
}

impl Options {
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// MeshConfig as YAML text, in a file beside the configuration; kept for the life of the process.
    pub fn mesh_config(self, file: &Path) -> Self {
        self.arg("--mesh-config").arg(file)
    }

    /// A state folder that outlives the process. By default each process has its own.
    pub fn state(mut self, folder: &Path) -> Self {
        self.state = Some(folder.to_owned());
        self
    }

    pub fn without_state(mut self) -> Self {
        self.no_state = true;
        self
    }

    /// Starts `tidegate run --config <folder>` and waits until it is ready.
    pub async fn start(self, config: &ConfigFolder) -> Tidegate {
        let mut tidegate = self.spawn(&["--config".into(), config.path().into()]);
        tidegate.ready().await;
        tidegate
    }

    /// Starts `tidegate run <source>` and does not wait.
    pub fn spawn(self, source: &[OsString]) -> Tidegate {
        let home = tempfile::tempdir().expect("a temporary folder");
        let state: OsString = match (self.no_state, self.state) {
            (true, _) => "none".into(),
            (false, Some(folder)) => folder.into(),
            (false, None) => home.path().join("state").into(),
        };
        let mut args: Vec<OsString> = vec!["run".into()];
        args.extend_from_slice(source);
        args.extend(["--state-dir".into(), state]);
        if !self.args.iter().any(|arg| arg == "--drain-delay") {
            args.extend(["--drain-delay".into(), "0s".into()]);
        }
        args.extend(self.args);
        Tidegate::launch(home, &args)
    }
}

/// A running gateway; killed when dropped.
pub struct Tidegate {
    child: Child,
    home: TempDir,
    pub admin: SocketAddr,
    pub stats: SocketAddr,
    pub health: SocketAddr,
}

impl Tidegate {
    fn launch(home: TempDir, args: &[OsString]) -> Self {
        let (admin, stats, health) = (local(free_port()), local(free_port()), local(free_port()));
        let mut command = Command::new(binary());
        command.args(args);
        for (flag, address) in [("--admin-address", admin), ("--stats-address", stats), ("--health-address", health)] {
            command.arg(flag).arg(address.to_string());
        }
        // Every option can be given as a variable: those of whoever runs the tests are not meant.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
            command.env_remove(name);
        }
        let file = |name: &str| File::create(home.path().join(name)).expect("a file in a temporary folder");
        let child = command
            .env("HOME", home.path())
            .env_remove("XDG_STATE_HOME")
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        Self { child, home, admin, stats, health }
    }

    /// Starts `tidegate demo`, with its files in `demo` below [`Tidegate::home`], and waits until it is ready.
    pub async fn demo(port: u16) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let mut demo = Self::launch(home, &["demo".into(), "--port".into(), port.to_string().into()]);
        demo.ready().await;
        demo
    }

    /// Runs over a folder with the default options, until it is ready.
    pub async fn start(config: &ConfigFolder) -> Self {
        Options::default().start(config).await
    }

    /// Waits until `/healthz/ready` says yes.
    ///
    /// # Panics
    /// If the process ends first or the deadline passes; with its log.
    pub async fn ready(&mut self) {
        let start = Instant::now();
        let mut ticks = interval(Duration::from_millis(4));
        loop {
            ticks.tick().await;
            if let Some(status) = self.child.try_wait().expect("a child process") {
                panic!("tidegate ended with {status}:\n{}", self.log());
            }
            if self.is_ready().await {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "not ready after {PATIENCE:?}:\n{}", self.log());
        }
    }

    pub async fn is_ready(&self) -> bool {
        client::try_get(self.health, "localhost", "/healthz/ready").await.is_ok_and(|answer| answer.status == 200)
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("a process that has not been waited for")
    }

    /// Every whole line on stderr so far.
    pub fn log(&self) -> String {
        self.captured("stderr")
    }

    /// Every whole line on stdout so far; access logs to `/dev/stdout` are here.
    pub fn stdout(&self) -> String {
        self.captured("stdout")
    }

    fn captured(&self, name: &str) -> String {
        let mut bytes = fs::read(self.home.path().join(name)).expect("captured output");
        bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A folder of this process for files of a test.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Waits for a log line that contains `needle`, and gives that line.
    pub async fn log_line(&self, needle: &str) -> String {
        wait::until(&format!("a log line with {needle:?}"), PATIENCE, || async {
            self.log().lines().find(|line| line.contains(needle)).map(str::to_owned)
        })
        .await
    }

    /// `GET` of the admin server; panics if it is not answered.
    pub async fn admin(&self, target: &str) -> Response {
        client::get(self.admin, "localhost", target).await
    }

    pub async fn admin_post(&self, target: &str) -> Response {
        client::send(self.admin, "POST", "localhost", target, &[], "").await
    }

    /// `/stats/prometheus` of the stats server.
    pub async fn metrics(&self) -> String {
        client::get(self.stats, "localhost", "/stats/prometheus").await.text()
    }

    /// Hash of the Snapshot that serves.
    pub async fn hash(&self) -> String {
        self.admin("/snapshot/hash").await.text().trim().to_owned()
    }

    /// `/config/status` of the Snapshot that serves.
    pub async fn status(&self) -> Value {
        wait::until("the status of what serves", PATIENCE, || async {
            let status = self.admin("/config/status").await.json();
            (status["hash"] == self.hash().await).then_some(status)
        })
        .await
    }

    /// Waits until another Snapshot than `old` serves, and gives its hash.
    pub async fn hash_after(&self, old: &str) -> String {
        wait::until(&format!("another snapshot than {old}\n{}", self.log()), PATIENCE, || async {
            let hash = self.hash().await;
            (hash != old).then_some(hash)
        })
        .await
    }

    /// Writes a file and waits until what it changed serves.
    pub async fn apply(&self, config: &ConfigFolder, name: &str, text: impl AsRef<[u8]>) -> String {
        let old = self.hash().await;
        config.write(name, text);
        self.hash_after(&old).await
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child process").is_none()
    }

    /// Sends a signal by name: `TERM`, `HUP`, `INT`.
    pub async fn signal(&self, name: &str) {
        let kill = format!("kill -s {name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &kill]).status().await.expect("sh");
        assert!(status.success(), "{kill}: {status}");
    }

    /// Waits for the end of the process.
    pub async fn exited(&mut self) -> ExitStatus {
        wait::within("the end of the process", self.child.wait()).await.expect("a child process")
    }

    /// `kill -9`, and waits until the process is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("a child process that can be killed");
    }

    /// Resident memory now, and at most so far, in KiB.
    pub fn memory(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a running process");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("a field of /proc/PID/status");
            line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// CPU time of the process so far, user and system.
    pub fn cpu(&self) -> Duration {
        cpu(self.pid())
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("a running process").count()
    }
}
