//! The authority that Let's Encrypt tests with (Debian package `pebble`), and its name server.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;

use crate::process::free_port;
use crate::wait::PATIENCE;

/// Faults that pebble injects, by its environment variables.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Percent of good nonces that are refused.
    pub nonce_reject: u32,
    /// Percent of authorizations that a later order finds valid already.
    pub authz_reuse: u32,
    pub alternate_roots: u32,
    pub chain_length: u32,
    /// A validation waits at random up to so many seconds; none at zero.
    pub sleep: u32,
}

pub const NO_FAULTS: Faults = Faults { nonce_reject: 0, authz_reuse: 0, alternate_roots: 0, chain_length: 1, sleep: 0 };

/// A running pebble; ends when dropped.
pub struct Pebble {
    /// URL of the directory.
    pub directory: String,
    /// PEM file that vouches for the directory's own TLS.
    pub roots: PathBuf,
    port: u16,
    faults: Faults,
    names: Running,
    names_address: String,
    process: Option<Running>,
    folder: tempfile::TempDir,
}

/// Ends with its handle.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Pebble {
    /// Names resolve to loopback; HTTP-01 is looked for on `http`, TLS-ALPN-01 on `tls`.
    pub fn start(http: u16, tls: u16, faults: Faults) -> Self {
        let folder = tempfile::tempdir().expect("a file, a key or a process of pebble");
        let [port, management, dns, dns_management] = [(); 4].map(|()| free_port());
        let roots = own_tls(folder.path());
        let path = |name: &str| folder.path().join(name);
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("certificate.pem"),
            "privateKey": path("key.pem"),
            "httpPort": http,
            "tlsPort": tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": 90 * 86400,
        }});
        std::fs::write(path("pebble.json"), config.to_string()).expect("a file, a key or a process of pebble");
        let names_address = format!("127.0.0.1:{dns}");
        let mut command = Command::new("pebble-challtestsrv");
        command.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", &names_address]);
        command.args(["-http01", "", "-https01", "", "-tlsalpn01", ""]);
        command.args(["-management", &format!("127.0.0.1:{dns_management}")]);
        let names = start(command, "Starting challenge servers");
        let directory = format!("https://localhost:{port}/dir");
        let mut pebble = Self { directory, roots, port, faults, names, names_address, process: None, folder };
        pebble.restart();
        pebble
    }

    /// The process ends.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// A new process on the same port, which knows nothing of what the old one had.
    pub fn restart(&mut self) {
        self.stop();
        let Faults { nonce_reject, authz_reuse, alternate_roots, chain_length, sleep } = self.faults;
        let mut command = Command::new("pebble");
        command.arg("-config").arg(self.folder.path().join("pebble.json"));
        command.args(["-dnsserver", &self.names_address]);
        command.env("PEBBLE_WFE_NONCEREJECT", nonce_reject.to_string());
        command.env("PEBBLE_AUTHZREUSE", authz_reuse.to_string());
        command.env("PEBBLE_ALTERNATE_ROOTS", alternate_roots.to_string());
        command.env("PEBBLE_CHAIN_LENGTH", chain_length.to_string());
        match sleep {
            0 => command.env("PEBBLE_VA_NOSLEEP", "1"),
            seconds => command.env("PEBBLE_VA_SLEEPTIME", seconds.to_string()),
        };
        self.process = Some(start(command, "ACME directory available"));
        // It says so before it listens.
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < deadline, "pebble does not listen");
            std::thread::yield_now();
        }
        assert!(
            self.names.0.try_wait().expect("a file, a key or a process of pebble").is_none(),
            "pebble-challtestsrv ended"
        );
    }
}

/// Starts a program and waits for the line that says that it listens; the rest of its output is read and dropped.
fn start(mut command: Command, ready: &str) -> Running {
    let program = command.get_program().to_string_lossy().into_owned();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut running = match spawned {
        Ok(child) => Running(child),
        Err(error) => panic!("{program}: {error}; install it with: sudo apt-get install -y pebble"),
    };
    let mut lines = BufReader::new(running.0.stdout.take().expect("a file, a key or a process of pebble")).lines();
    let mut seen = String::new();
    loop {
        match lines.next() {
            Some(Ok(line)) if line.contains(ready) => break,
            Some(Ok(line)) => seen = format!("{seen}\n{line}"),
            _ => panic!("{program} ended:{seen}"),
        }
    }
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    running
}

/// Debian's pebble brings no certificate of its own.
fn own_tls(folder: &Path) -> PathBuf {
    let key = KeyPair::generate().expect("a file, a key or a process of pebble");
    let certificate = CertificateParams::new(["localhost".to_owned()])
        .expect("a file, a key or a process of pebble")
        .self_signed(&key)
        .expect("a file, a key or a process of pebble");
    let path = folder.join("certificate.pem");
    std::fs::write(&path, certificate.pem()).expect("a file, a key or a process of pebble");
    std::fs::write(folder.join("key.pem"), key.serialize_pem()).expect("a file, a key or a process of pebble");
    path
}
