//! Programs that others wrote: grpcio and websockets from PyPI, curl and h2load from Debian.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::process::local;
use crate::wait;

/// The Python of the virtual environment that `make peers` makes.
///
/// # Panics
/// If it is not there, with the command that makes it.
fn python() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/bin/python");
    assert!(python.exists(), "the Python peers are missing: run `make peers`");
    python
}

fn script(name: &str) -> Command {
    let mut command = Command::new(python());
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name))
        // Loopback only, whatever the machine is set up to do.
        .env_remove("http_proxy")
        .env_remove("https_proxy")
        .env_remove("HTTP_PROXY")
        .env_remove("HTTPS_PROXY")
        .env("NO_PROXY", "*")
        .env("GRPC_VERBOSITY", "ERROR")
        .kill_on_drop(true);
    command
}

/// Runs a script of `tests/peers` to its end, and reads the JSON that it prints.
pub async fn run_script(name: &str, args: &[&str]) -> Value {
    let output = output(script(name).args(args), name).await;
    serde_json::from_slice(&output.stdout).expect("a line of JSON")
}

/// Runs a module of the Python environment to its end, whatever it says with its exit code.
pub async fn python_module(module: &str, args: &[&str]) -> String {
    let mut command = Command::new(python());
    let command = command.args(["-m", module]).args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(wait::PATIENCE * 6, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{module} hangs")).expect("a Python that starts");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Runs a program that may take minutes and that says by its exit code what it found.
pub async fn run_long(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    let command = command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(std::time::Duration::from_secs(900), command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{program} hangs"));
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}; `make peers` installs it"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program to its end.
///
/// # Panics
/// If it is not installed, with the command that installs it; and if it fails.
pub async fn run(program: &str, args: &[&str]) -> String {
    let package = if program == "h2load" { "nghttp2-client" } else { program };
    let installed = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().await;
    assert!(
        installed.is_ok_and(|found| found.status.success()),
        "{program} is missing: apt-get install {package}, or `make peers`"
    );
    let output = output(Command::new(program).args(args).kill_on_drop(true), program).await;
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn output(command: &mut Command, name: &str) -> Output {
    let output = tokio::time::timeout(wait::PATIENCE * 4, command.stdin(Stdio::null()).output())
        .await
        .unwrap_or_else(|_| panic!("{name} hangs"))
        .expect("a program that starts");
    assert!(output.status.success(), "{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// A script that goes on while the test does other things.
struct Running {
    child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(name: &str, args: &[&str]) -> Self {
        let mut child =
            script(name).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a Python that starts");
        let input = child.stdin.take().expect("a piped stdin");
        let lines = BufReader::new(child.stdout.take().expect("a piped stdout")).lines();
        Self { child, input, lines }
    }

    async fn line(&mut self) -> String {
        let line = wait::within("a line of a peer", self.lines.next_line()).await.expect("text");
        line.unwrap_or_else(|| panic!("the peer ended: {:?}", self.child.try_wait()))
    }
}

/// A WebSocket server (websockets) and a gRPC server (grpcio), both echoing.
pub struct PythonBackend {
    _running: Running,
    pub websocket: std::net::SocketAddr,
    pub grpc: std::net::SocketAddr,
}

impl PythonBackend {
    pub async fn start() -> Self {
        let mut running = Running::start("backend.py", &[]);
        let ports: Value = serde_json::from_str(&running.line().await).expect("a line of JSON");
        let port = |name: &str| local(u16::try_from(ports[name].as_u64().expect("a port")).expect("a port"));
        Self { websocket: port("websocket"), grpc: port("grpc"), _running: running }
    }
}

/// Long-lived WebSockets and gRPC streams through a gateway, each with a message going round.
pub struct HeldStreams(Running);

impl HeldStreams {
    /// Returns when all are open: `streams` WebSockets and as many gRPC calls.
    pub async fn open(gateway: std::net::SocketAddr, websocket_host: &str, grpc_host: &str, streams: usize) -> Self {
        let (ip, port) = (gateway.ip().to_string(), gateway.port().to_string());
        let mut running = Running::start("hold.py", &[&ip, &port, websocket_host, grpc_host, &streams.to_string()]);
        assert_eq!(running.line().await, "open");
        Self(running)
    }

    /// One more echo on each, and a clean end; gives how many streams there were and the errors they met.
    pub async fn finish(mut self) -> (u64, Vec<Value>) {
        self.0.input.write_all(b"stop\n").await.expect("a peer that still runs");
        let found: Value = serde_json::from_str(&self.0.line().await).expect("a line of JSON");
        (found["streams"].as_u64().expect("a number"), found["errors"].as_array().expect("a list").clone())
    }
}
