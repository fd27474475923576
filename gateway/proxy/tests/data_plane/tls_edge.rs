//! A gateway with TLS in front of small backends, and its clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tidegate_core::Host;
use tidegate_proxy::Limits;
use tidegate_sds::SecretStore;
use tidegate_snapshot::{
    ClientValidation, FilterChain, Forward, Listener, ListenerProtocol, NetworkFilter, RouteTable, SecretRef,
    ServerTls, ServerTlsMode, Snapshot, TlsParameters, VirtualHost,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::backend::Body;
use crate::certificates::{Authority, Identity, client_config, offer, secret};
use crate::client::Client;
use crate::harness::{Config, Edge, destination, forward};

/// A server of a Gateway: its hosts, how it terminates TLS, and the backend of each host that has a route.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) hosts: Vec<&'static str>,
    pub(crate) tls: ServerTls,
    pub(crate) routed: Vec<&'static str>,
    pub(crate) backend: SocketAddr,
    /// Of its routes.
    pub(crate) timeout: Option<Duration>,
}

impl Server {
    /// Shows the secret called `name`, asks nothing of clients and routes all of its hosts.
    pub(crate) fn new(name: &'static str, hosts: &[&'static str], backend: SocketAddr) -> Self {
        Self { name, hosts: hosts.to_vec(), tls: simple(name), routed: hosts.to_vec(), backend, timeout: None }
    }

    pub(crate) fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = tls;
        self
    }
}

pub(crate) fn reference(name: &str) -> SecretRef {
    SecretRef { names: vec![secret(name)], source: None }
}

pub(crate) fn simple(certificate: &str) -> ServerTls {
    ServerTls {
        mode: ServerTlsMode::Simple,
        certificates: vec![reference(certificate)],
        client_validation: None,
        parameters: TlsParameters::default(),
        alpn: vec!["h2".into(), "http/1.1".into()],
    }
}

pub(crate) fn validation(ca: &str) -> ClientValidation {
    ClientValidation {
        ca: Some(reference(ca)),
        crl: None,
        subject_alt_names: Vec::new(),
        spki_hashes: Vec::new(),
        certificate_hashes: Vec::new(),
        accept_untrusted: false,
    }
}

pub(crate) fn mutual(certificate: &str, ca: &str) -> ServerTls {
    ServerTls { mode: ServerTlsMode::Mutual, client_validation: Some(validation(ca)), ..simple(certificate) }
}

pub(crate) fn optional(certificate: &str, ca: &str) -> ServerTls {
    ServerTls { mode: ServerTlsMode::OptionalMutual, ..mutual(certificate, ca) }
}

/// A TLS listener on loopback with these servers.
pub(crate) fn listener(name: &str, config: &mut Config, servers: Vec<Server>) -> Listener {
    let chains: Vec<_> = servers
        .into_iter()
        .map(|server| {
            let cluster = config.cluster(server.name, &[server.backend]);
            let domains = server.routed.iter().map(|host| Host::new_unchecked(host)).collect();
            let mut route = Forward::new(vec![destination(&cluster)]);
            route.timeout = server.timeout;
            let routes = vec![forward(route)];
            let host = VirtualHost::new(format!("{}:443", server.name), domains, routes);
            let table = Arc::new(RouteTable::new(server.name.into(), vec![Arc::new(host)]));
            let mut chain = FilterChain::new(server.name.into(), NetworkFilter::Http(table));
            chain.server_names = server.hosts.iter().map(|host| Host::new_unchecked(host)).collect();
            chain.tls = Some(Arc::new(server.tls));
            chain
        })
        .collect();
    Listener::new(name.into(), Some([127, 0, 0, 1].into()), 0, ListenerProtocol::Tls, chains)
}

/// One listener with these servers.
pub(crate) fn snapshot(servers: Vec<Server>) -> Snapshot {
    snapshot_with(Config::new(), servers)
}

pub(crate) fn snapshot_with(mut config: Config, servers: Vec<Server>) -> Snapshot {
    let listener = listener("127.0.0.1_443", &mut config, servers);
    config.snapshot_of(vec![listener])
}

/// A gateway, the secrets that it asks for, and the authority that its clients trust.
pub(crate) struct TlsEdge {
    pub(crate) edge: Edge,
    pub(crate) secrets: Arc<SecretStore>,
    pub(crate) authority: Authority,
}

impl TlsEdge {
    /// Offers a certificate for each server.
    pub(crate) async fn start(servers: Vec<Server>) -> Self {
        Self::with(Config::new(), servers, Limits::default()).await
    }

    pub(crate) async fn with(config: Config, servers: Vec<Server>, limits: Limits) -> Self {
        let (secrets, authority) = (Arc::new(SecretStore::default()), Authority::new("servers"));
        for server in &servers {
            offer(&secrets, server.name, authority.server(&server.hosts).payload());
        }
        let edge = Edge::with_secrets(snapshot_with(config, servers), limits, secrets.clone()).await;
        Self { edge, secrets, authority }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.edge.address()
    }

    pub(crate) fn client(&self, identity: Option<&Identity>) -> ClientConfig {
        client_config(&self.authority, identity)
    }

    pub(crate) async fn connect(&self, server_name: &str) -> TlsStream<TcpStream> {
        connect(self.address(), server_name, self.client(None)).await.unwrap()
    }

    /// One request over HTTP/1.
    pub(crate) async fn get(&self, server_name: &str, host: &str) -> crate::client::Answer {
        let mut client = Client::over(self.connect(server_name).await);
        client.send(get(host)).await;
        client.answer().await
    }

    /// Waits until a counter whose line begins with `series` has reached `count`.
    pub(crate) async fn await_count(&self, series: &str, count: u64) {
        let value = |metrics: &str| -> Option<u64> {
            metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
        };
        for _ in 0..500 {
            if value(&self.edge.metrics()) >= Some(count) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let metrics = self.edge.metrics();
        let related: Vec<&str> =
            metrics.lines().filter(|line| line.contains("tls_") && !line.ends_with(" 0")).collect();
        panic!("{series} has not reached {count}:\n{}", related.join("\n"));
    }

    pub(crate) async fn await_failure(&self, reason: &str, count: u64) {
        let series =
            format!("tidegate_tls_handshake_failures_total{{listener_address=\"127.0.0.1_443\",reason=\"{reason}\"}} ");
        self.await_count(&series, count).await;
    }
}

pub(crate) fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// A handshake. An address as `server_name` sends no SNI. In TLS 1.3 a client learns only later that its certificate is
/// refused.
pub(crate) async fn connect(
    address: SocketAddr,
    server_name: &str,
    config: ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    connect_shared(address, server_name, &Arc::new(config)).await
}

/// As [`connect`], with sessions to resume if `config` has some.
pub(crate) async fn connect_shared(
    address: SocketAddr,
    server_name: &str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(server_name.to_owned()).unwrap();
    TlsConnector::from(config.clone()).connect(name, tcp).await
}

/// Whether a client with `config` is served when it asks for `host`; what the client sees goes if it is not.
pub(crate) async fn is_served(address: SocketAddr, host: &str, config: ClientConfig) -> bool {
    let Ok(stream) = connect(address, host, config).await else { return false };
    is_answered(stream, host).await
}

pub(crate) async fn is_answered(mut stream: TlsStream<TcpStream>, host: &str) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    if stream.write_all(get(host).as_bytes()).await.is_err() || stream.flush().await.is_err() {
        return false;
    }
    let mut answer = [0; 12];
    match stream.read_exact(&mut answer).await {
        Ok(_) => answer.ends_with(b"200"),
        Err(_) => false,
    }
}

pub(crate) async fn http2(stream: TlsStream<TcpStream>) -> SendRequest<Body> {
    let (send, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    send
}

pub(crate) async fn get2(client: &mut SendRequest<Body>, host: &str) -> (StatusCode, String) {
    let request = Request::builder().uri(format!("https://{host}/")).body(crate::backend::full("")).unwrap();
    let answer: Response<_> = client.send_request(request).await.unwrap();
    let status = answer.status();
    (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().into()).unwrap())
}
