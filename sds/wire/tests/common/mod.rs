//! Secrets, servers and clients for the tests of this crate.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

pub(crate) mod envoy;
pub(crate) mod provider;
pub(crate) mod raw;
pub(crate) mod tls;

use std::fs::Permissions;
use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use tempfile::TempDir;
use tidegate_core::{Origin, SecretBytes, SecretName};
use tidegate_sds::{Offer, Payload, SecretStore, SourceKind};
use tidegate_sds_wire::{
    BackOff, Monitor, ProviderAddress, ProviderOptions, SdsClient, SdsServer, ServerOptions, UnixOptions,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits, with patience.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// A folder that only its owner can write to.
pub(crate) fn folder() -> TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap()
}

/// A certificate and its key, PEM.
pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
    pub(crate) leaf: Vec<u8>,
}

impl Pair {
    pub(crate) fn payload(&self) -> Payload {
        Payload::Certificate {
            chain: SecretBytes::new(self.chain.clone().into_bytes()),
            key: SecretBytes::new(self.key.clone().into_bytes()),
            ocsp_staple: None,
        }
    }

    /// Writes `<name>.pem` and `<name>.key`.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (chain, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&chain, &self.chain).unwrap();
        std::fs::write(&key, &self.key).unwrap();
        (chain, key)
    }
}

/// An authority that issues certificates.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Another name than what it issues: Envoy takes a leaf with its issuer's name for self-signed.
        params.distinguished_name.push(DnType::CommonName, "test authority");
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    /// A certificate for a host.
    pub(crate) fn server(&self, host: &str) -> Pair {
        self.issue(CertificateParams::new(vec![host.to_owned()]).unwrap(), KeyPair::generate().unwrap())
    }

    /// The same with another type of key.
    pub(crate) fn server_with(&self, host: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Pair {
        let key = KeyPair::generate_for(algorithm).unwrap();
        self.issue(CertificateParams::new(vec![host.to_owned()]).unwrap(), key)
    }

    /// A certificate for a workload.
    pub(crate) fn client(&self, spiffe: &str) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::URI(spiffe.try_into().unwrap())];
        self.issue(params, KeyPair::generate().unwrap())
    }

    /// The answer "good" about a certificate of this authority, DER.
    ///
    /// # Panics
    /// If openssl is not installed, with the command that installs it.
    pub(crate) fn staple(&self, pair: &Pair) -> Vec<u8> {
        let folder = folder();
        let path = |name: &str| folder.path().join(name);
        let (leaf, _) = pair.write(folder.path(), "leaf");
        std::fs::write(path("ca.pem"), self.pem()).unwrap();
        std::fs::write(path("ca.key"), self.issuer.key().serialize_pem()).unwrap();
        let openssl = |args: &[&str]| {
            let output = std::process::Command::new("openssl").args(args).current_dir(folder.path()).output();
            let output = output.expect("openssl is missing: apt-get install openssl");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let leaf = leaf.to_str().unwrap();
        let serial = openssl(&["x509", "-in", leaf, "-noout", "-serial"]);
        let serial = serial.trim().strip_prefix("serial=").unwrap().to_owned();
        std::fs::write(path("index"), format!("V\t491231235959Z\t\t{serial}\tunknown\t/CN=leaf\n")).unwrap();
        let signer = ["-rsigner", "ca.pem", "-rkey", "ca.key", "-CA", "ca.pem", "-ndays", "1"];
        let asked = ["-issuer", "ca.pem", "-cert", leaf, "-index", "index", "-respout", "staple"];
        openssl(&[&["ocsp"], &signer[..], &asked[..]].concat());
        std::fs::read(path("staple")).unwrap()
    }

    /// A revocation list, PEM.
    pub(crate) fn revokes_nothing(&self) -> String {
        let params = CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2020, 1, 1),
            next_update: rcgen::date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn issue(&self, params: CertificateParams, key: KeyPair) -> Pair {
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { chain: certificate.pem(), key: key.serialize_pem(), leaf: certificate.der().to_vec() }
    }
}

/// Offers a payload, which must be taken.
pub(crate) fn offer(store: &SecretStore, name: &str, payload: Payload) {
    let name = SecretName::new(name);
    let before = version(store, &name);
    let origin = Origin::new("test", 0, 0);
    let findings = store.offer(vec![Offer::new(name.clone(), SourceKind::File, origin, payload)]);
    assert!(version(store, &name) > before, "{name} is refused: {findings:?}");
}

pub(crate) fn version(store: &SecretStore, name: &SecretName) -> u64 {
    store.get(name).and_then(|slot| slot.current()).map_or(0, |secret| secret.version)
}

/// The leaf that a store serves.
pub(crate) fn leaf(store: &SecretStore, name: &str) -> Option<Vec<u8>> {
    match &store.get(&SecretName::new(name))?.current()?.content {
        tidegate_sds::Content::Certificate(material) => Some(material.chain()[0].to_vec()),
        _ => None,
    }
}

pub(crate) fn trust(authorities: &str) -> Payload {
    Payload::Trust { authorities: SecretBytes::new(authorities.as_bytes().to_vec()), crl: None }
}

/// Waits until a store serves a leaf under a name.
pub(crate) async fn until_leaf(store: &SecretStore, name: &str, expected: &[u8]) {
    let mut changes = store.subscribe();
    let serves = changes.wait_for(|_| leaf(store, name).as_deref() == Some(expected));
    soon(&format!("{name} arrives"), serves).await.unwrap();
}

/// A running server.
pub(crate) struct Running {
    pub(crate) store: Arc<SecretStore>,
    pub(crate) monitor: Monitor,
    pub(crate) tcp: Option<std::net::SocketAddr>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(options: ServerOptions, store: &Arc<SecretStore>) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let server = SdsServer::bind(options, store.clone()).unwrap();
        let (monitor, tcp) = (server.monitor(), server.tcp_address());
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let task = tokio::spawn(async move { server.serve(stop).await.unwrap() });
        Self { store: store.clone(), monitor, tcp, cancel, task }
    }

    /// On a Unix socket, for the same user.
    pub(crate) fn unix(path: &Path, store: &Arc<SecretStore>) -> Self {
        Self::start(ServerOptions { unix: Some(UnixOptions::new(path)), ..Default::default() }, store)
    }

    /// Waits until something holds of the server.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Monitor) -> bool) {
        let mut activity = self.monitor.subscribe();
        soon(what, activity.wait_for(|_| holds(&self.monitor))).await.unwrap();
    }

    /// Drops the server's future.
    pub(crate) fn abort(&self) {
        self.task.abort();
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        soon("the server ends", self.task).await.unwrap();
    }
}

/// Options that reconnect at once.
pub(crate) fn provider(name: &str, address: &str) -> ProviderOptions {
    let mut options = ProviderOptions::new(name, address.parse::<ProviderAddress>().unwrap());
    options.back_off = BackOff { base: Duration::from_millis(2), max: Duration::from_millis(20) };
    options
}

/// A client that wants some secrets, and its store.
pub(crate) fn client(options: ProviderOptions, names: &[&str]) -> (SdsClient, Arc<SecretStore>) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let store = Arc::new(SecretStore::default());
    let client = SdsClient::start(options, store.clone());
    let names: Vec<_> = names.iter().map(|name| SecretName::new(name)).collect();
    client.want(&names);
    (client, store)
}

/// Waits until something holds of a client.
pub(crate) async fn until_client(
    client: &SdsClient,
    what: &str,
    holds: impl Fn(&tidegate_sds_wire::SdsClientStatus) -> bool,
) -> tidegate_sds_wire::SdsClientStatus {
    let mut status = client.subscribe();
    soon(what, status.wait_for(|status| holds(status))).await.unwrap().clone()
}

/// Everything that is logged, of all levels, by the thread that captures.
pub(crate) struct Log {
    text: Arc<std::sync::Mutex<Vec<u8>>>,
    _guard: tracing::subscriber::DefaultGuard,
}

#[derive(Clone)]
struct Sink(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub(crate) fn capture() -> Self {
        let text = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = Sink(text.clone());
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(move || sink.clone())
            .finish();
        Self { text, _guard: tracing::subscriber::set_default(subscriber) }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }
}
