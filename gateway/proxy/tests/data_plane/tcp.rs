//! TCP servers: bytes to backends, by weight, with TLS at either end or passed through.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tidegate_core::{Host, Kind, Origin, ResourceKey};
use tidegate_proxy::{GatewayOptions, Limits};
use tidegate_sds::SecretStore;
use tidegate_snapshot::{
    AccessLog, AccessLogFormat, ClientTls, ClusterRef, EndpointAddress, FilterChain, ListenerProtocol, NetworkFilter,
    SecretRef, ServerTls, ServerTlsMode, ServerTrust, TcpDestination, TcpProxy, Template, TlsParameters,
    UpstreamProtocol, UpstreamServerName,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::backend::Count;
use crate::certificates::{self, Authority, offer, offer_trust};
use crate::harness::{Config, Edge, endpoint, missing, nobody};
use crate::secure_backend::{self, leaf, server};

const PATIENCE: Duration = Duration::from_secs(10);

/// Istio's default format.
const FORMAT: &str = "\"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
    %BYTES_RECEIVED% %BYTES_SENT% \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
    %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

fn proxy(destinations: &[(&ClusterRef, u32)]) -> TcpProxy {
    let clusters = destinations
        .iter()
        .map(|(cluster, weight)| TcpDestination { cluster: (*cluster).clone(), weight: *weight })
        .collect();
    TcpProxy::new("tcp-route".into(), clusters, None)
}

fn chain(proxy: TcpProxy) -> FilterChain {
    FilterChain::new("tcp".into(), NetworkFilter::Tcp(proxy))
}

fn to(backend: SocketAddr) -> (Config, ClusterRef) {
    let mut config = Config::new();
    let cluster = config.cluster("backend", &[backend]);
    (config, cluster)
}

async fn serving(config: Config, proxy: TcpProxy) -> Edge {
    Edge::start(config.snapshot_with(ListenerProtocol::Tcp, vec![chain(proxy)])).await
}

/// Sends everything back, and ends when the client has said all.
async fn echo() -> SocketAddr {
    backend(|mut tcp| async move {
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

async fn backend<F, R>(then: F) -> SocketAddr
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(then(tcp));
        }
    });
    address
}

/// A backend that says its name and closes.
async fn named(name: &'static str) -> SocketAddr {
    backend(move |mut tcp| async move {
        let _ = tcp.write_all(name.as_bytes()).await;
    })
    .await
}

/// All that the gateway says on a connection on which nothing is asked.
async fn listen(edge: &Edge) -> String {
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    let mut text = Vec::new();
    let _ = timeout(PATIENCE, tcp.read_to_end(&mut text)).await.unwrap();
    String::from_utf8(text).unwrap()
}

/// Waits until the series of `name` that has `labels` is `value`.
async fn await_metric(edge: &Edge, name: &str, labels: &[&str], value: u64) {
    let mut text = String::new();
    for _ in 0..500 {
        text = edge.metrics();
        let found = text.lines().find(|line| {
            line.split(['{', ' ']).next() == Some(name) && labels.iter().all(|label| line.contains(label))
        });
        if found.and_then(|line| line.rsplit_once(' ')).is_some_and(|(_, number)| number == value.to_string()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let family: Vec<&str> = text.lines().filter(|line| line.starts_with(name)).collect();
    panic!("no {name} {labels:?} {value} in {family:#?}");
}

/// A config that logs to a file, and a way to read its first line.
struct Log {
    _folder: tempfile::TempDir,
    path: std::path::PathBuf,
}

impl Log {
    fn of(config: &mut Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        config.mesh.access_log = Some(AccessLog {
            path: path.to_str().unwrap().to_owned(),
            format: AccessLogFormat::Text(Template::parse(FORMAT).unwrap()),
        });
        Self { _folder: folder, path }
    }

    /// The first line.
    async fn line(&self) -> String {
        self.line_with("").await
    }

    async fn line_with(&self, part: &str) -> String {
        for _ in 0..500 {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            let complete = text.rsplit_once('\n').map_or("", |(complete, _)| complete);
            if let Some(line) = complete.lines().find(|line| line.contains(part)) {
                return line.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no line with {part} is logged in {}", std::fs::read_to_string(&self.path).unwrap_or_default());
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_and_are_counted_and_logged() {
    let backend = echo().await;
    let (mut config, cluster) = to(backend);
    let log = Log::of(&mut config);
    let edge = serving(config, proxy(&[(&cluster, 1)])).await;
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    let sent: Vec<u8> = (0..1_000_000u32).map(|at| (at % 251) as u8).collect();
    let (mut read, mut write) = tcp.split();
    let mut back = vec![0; sent.len()];
    let (wrote, came) = tokio::join!(write.write_all(&sent), read.read_exact(&mut back));
    wrote.unwrap();
    came.unwrap();
    assert!(back == sent);
    let opened = ["request_protocol=\"tcp\"", "response_flags=\"-\"", "destination_service=\"backend\""];
    await_metric(&edge, "istio_tcp_connections_opened_total", &opened, 1).await;
    let endpoint = edge.gateway.clusters()[0].endpoints[0].clone();
    assert_eq!((endpoint.cx_active, endpoint.cx_total, endpoint.rq_active), (1, 1, 1));
    drop(tcp);
    await_metric(&edge, "istio_tcp_connections_closed_total", &opened, 1).await;
    await_metric(&edge, "istio_tcp_received_bytes_total", &opened, 1_000_000).await;
    await_metric(&edge, "istio_tcp_sent_bytes_total", &opened, 1_000_000).await;
    let expected =
        format!("\"- - -\" 0 - - - \"-\" 1000000 1000000 \"-\" \"{backend}\" outbound|80||backend - tcp-route");
    assert_eq!(log.line().await, expected);
    let endpoint = edge.gateway.clusters()[0].endpoints[0].clone();
    assert_eq!((endpoint.cx_active, endpoint.rq_active), (0, 0));
    let labels: Vec<String> = edge
        .metrics()
        .lines()
        .filter(|line| line.starts_with("istio_tcp_connections_opened_total{"))
        .map(str::to_owned)
        .collect();
    assert!(!labels[0].contains("response_code=") && !labels[0].contains("grpc_response_status"), "{labels:?}");
    assert!(labels[0].contains("reporter=\"source\"") && labels[0].contains("connection_security_policy=\"unknown\""));
}

#[tokio::test]
async fn a_side_that_has_said_all_still_hears() {
    let backend = backend(|mut tcp| async move {
        let mut question = String::new();
        tcp.read_to_string(&mut question).await.unwrap();
        tcp.write_all(format!("you said {question}").as_bytes()).await.unwrap();
    })
    .await;
    let (config, cluster) = to(backend);
    let edge = serving(config, proxy(&[(&cluster, 1)])).await;
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    tcp.write_all(b"hello").await.unwrap();
    tcp.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, tcp.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "you said hello");

    // And the other way round.
    let quiet = self::backend(|mut tcp| async move {
        tcp.write_all(b"that is all").await.unwrap();
        tcp.shutdown().await.unwrap();
        let mut rest = String::new();
        tcp.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "thank you");
    })
    .await;
    let (config, cluster) = to(quiet);
    let edge = serving(config, proxy(&[(&cluster, 1)])).await;
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, tcp.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, "that is all");
    tcp.write_all(b"thank you").await.unwrap();
    drop(tcp);
    await_metric(&edge, "istio_tcp_received_bytes_total", &[], 9).await;
    await_metric(&edge, "istio_tcp_connections_closed_total", &[], 1).await;
}

#[tokio::test]
async fn connections_are_spread_by_weight() {
    let mut config = Config::new();
    let one = config.cluster("one", &[named("1").await]);
    let two = config.cluster("two", &[named("2").await]);
    let never = config.cluster("never", &[named("0").await]);
    let edge = serving(config, proxy(&[(&one, 1), (&never, 0), (&two, 3)])).await;
    let mut counts = [0; 3];
    for _ in 0..400 {
        counts[listen(&edge).await.parse::<usize>().unwrap()] += 1;
    }
    assert_eq!(counts[0], 0);
    assert!((60..=140).contains(&counts[1]), "{counts:?}");
}

#[tokio::test]
async fn without_a_way_to_a_host_the_connection_closes_and_says_why() {
    // Bound and not listened on: nobody else gets the port, and connections to it are refused.
    let taken = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    taken.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let refused = taken.local_addr().unwrap().as_socket().unwrap();
    for (case, flags, rest) in [
        ("no route", "NR", "\"-\" - - tcp-route"),
        ("no cluster", "NC", "\"-\" outbound|1||gone - tcp-route"),
        ("no host", "UH", "\"-\" outbound|80||backend - tcp-route"),
        ("refused", "UF,URX", &format!("\"{refused}\" outbound|80||backend - tcp-route")),
    ] {
        let mut config = Config::new();
        let log = Log::of(&mut config);
        let gone = missing("outbound|1||gone");
        let filter = match case {
            "no route" => proxy(&[]),
            "no cluster" => proxy(&[(&gone, 1)]),
            "no host" => proxy(&[(&config.cluster("backend", &[]), 1)]),
            _ => proxy(&[(&config.cluster("backend", &[refused]), 1)]),
        };
        let edge = serving(config, filter).await;
        assert_eq!(listen(&edge).await, "", "{case}");
        let reason = if case == "refused" { "delayed_connect_error:_Connection_refused" } else { "-" };
        assert_eq!(log.line().await, format!("\"- - -\" 0 {flags} - - \"{reason}\" 0 0 \"-\" {rest}"), "{case}");
        let label = format!("response_flags=\"{flags}\"");
        await_metric(&edge, "istio_tcp_connections_opened_total", &[&label], 1).await;
        await_metric(&edge, "istio_tcp_connections_closed_total", &[&label], 1).await;
    }
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_ends() {
    let backend = backend(|mut tcp| async move {
        let mut some = [0; 16];
        while matches!(tcp.read(&mut some).await, Ok(1..)) {
            let _ = tcp.write_all(b"x").await;
        }
    })
    .await;
    let (mut config, cluster) = to(backend);
    let log = Log::of(&mut config);
    let mut filter = proxy(&[(&cluster, 1)]);
    filter.idle_timeout = Some(Duration::from_millis(400));
    let edge = serving(config, filter).await;
    let start = std::time::Instant::now();
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    // What moves keeps it alive, in whichever direction.
    for _ in 0..6 {
        tcp.write_all(b"x").await.unwrap();
        assert_eq!(tcp.read_u8().await.unwrap(), b'x');
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(matches!(timeout(PATIENCE, tcp.read(&mut [0; 1])).await.unwrap(), Ok(0)));
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    let line = log.line().await;
    assert!(line.starts_with("\"- - -\" 0 - - tcp_session_idle_timeout \"-\" 6 6 "), "{line}");
}

#[tokio::test]
async fn a_backend_that_breaks_off_is_told_to_the_client() {
    let backend = backend(|tcp| async move {
        socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
        drop(tcp);
    })
    .await;
    let (mut config, cluster) = to(backend);
    let log = Log::of(&mut config);
    let edge = serving(config, proxy(&[(&cluster, 1)])).await;
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    let end = timeout(PATIENCE, tcp.read(&mut [0; 1])).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let line = log.line().await;
    assert!(line.starts_with("\"- - -\" 0 UR - - \"-\" 0 0 "), "{line}");
    await_metric(&edge, "istio_tcp_connections_closed_total", &["response_flags=\"UR\""], 1).await;
}

#[tokio::test]
async fn a_client_that_breaks_off_is_told_to_the_backend() {
    let (told, mut ends) = tokio::sync::mpsc::unbounded_channel();
    let backend = backend(move |mut tcp| {
        let told = told.clone();
        async move {
            tcp.write_all(b"x").await.unwrap();
            told.send(tcp.read(&mut [0; 1]).await.map_err(|error| error.kind())).unwrap();
        }
    })
    .await;
    let (mut config, cluster) = to(backend);
    let log = Log::of(&mut config);
    let edge = serving(config, proxy(&[(&cluster, 1)])).await;
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    assert_eq!(timeout(PATIENCE, tcp.read_u8()).await.unwrap().unwrap(), b'x');
    socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
    drop(tcp);
    assert_eq!(timeout(PATIENCE, ends.recv()).await.unwrap(), Some(Err(ErrorKind::ConnectionReset)));
    let line = log.line().await;
    assert!(line.starts_with("\"- - -\" 0 - - - \"-\" 0 1 "), "{line}");
}

#[tokio::test]
async fn draining_leaves_connections_until_its_deadline() {
    let (mut config, cluster) = to(echo().await);
    let log = Log::of(&mut config);
    let edge = Arc::new(serving(config, proxy(&[(&cluster, 1)])).await);
    let address = edge.address();
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"a").await.unwrap();
    assert_eq!(tcp.read_u8().await.unwrap(), b'a');
    let draining = tokio::spawn({
        let edge = edge.clone();
        async move { edge.gateway.drain(Duration::ZERO, Duration::from_millis(500)).await }
    });
    while TcpStream::connect(address).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tcp.write_all(b"b").await.unwrap();
    assert_eq!(tcp.read_u8().await.unwrap(), b'b', "what is open goes on");
    let end = timeout(PATIENCE, tcp.read(&mut [0; 1])).await.unwrap();
    assert!(!matches!(end, Ok(1..)));
    draining.await.unwrap();
    log.line_with("\"- - -\" 0 LR - - \"-\" 2 2 ").await;
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back() {
    let written = Count::default();
    let counter = written.clone();
    let (config, cluster) = to(backend(move |mut tcp| {
        let counter = counter.clone();
        async move {
            let chunk = vec![7; 64 * 1024];
            while tcp.write_all(&chunk).await.is_ok() {
                counter.add();
            }
        }
    })
    .await);
    let edge = serving(config, proxy(&[(&cluster, 1)])).await;
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    // The kernel's buffers take some megabytes, and then nothing moves.
    let mut before = usize::MAX;
    while written.get() != before {
        before = written.get();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(before < 512, "{before} chunks of 64 KiB went to nobody");
    let mut some = vec![0; 1024 * 1024];
    tcp.read_exact(&mut some).await.unwrap();
    assert!(some.iter().all(|byte| *byte == 7));
    drop(tcp);
    await_metric(&edge, "istio_tcp_connections_closed_total", &[], 1).await;
}

#[tokio::test]
async fn unix_sockets_are_endpoints_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backend.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut unix, _) = listener.accept().await.unwrap();
            unix.write_all(b"unix").await.unwrap();
        }
    });
    let mut config = Config::new();
    let mut unix = endpoint(nobody());
    unix.address = EndpointAddress::Unix(path);
    let cluster = config.cluster_with("backend", vec![unix], UpstreamProtocol::Http1);
    let edge = serving(config, proxy(&[(&cluster, 1)])).await;
    assert_eq!(listen(&edge).await, "unix");
}

fn reference(name: &str) -> SecretRef {
    SecretRef::new(
        vec![certificates::secret(name)],
        ResourceKey::local(Kind::DestinationRule, "default", "rule"),
        Origin::default(),
    )
}

fn secured(authorities: &str) -> ClientTls {
    ClientTls {
        trust: ServerTrust::Authorities(reference(authorities)),
        crl: None,
        certificate: None,
        server_name: UpstreamServerName::Fixed("backend.example.com".into()),
        subject_alt_names: Vec::new(),
        parameters: TlsParameters::default(),
    }
}

/// A backend over TLS that sends everything back.
async fn secure_echo(authority: &Authority, names: &[&str]) -> SocketAddr {
    secure_backend::accept(server(&leaf(authority, names), None, &[]), |stream, _| async move {
        let (mut read, mut write) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
    .await
}

#[tokio::test]
async fn plain_clients_reach_backends_over_tls() {
    let authority = Authority::new("ca");
    let store = Arc::new(SecretStore::default());
    offer_trust(&store, "ca", &[&authority], None);
    let (mut config, cluster) = to(secure_echo(&authority, &["backend.example.com"]).await);
    config.secure(&cluster, secured("ca"));
    let chains = vec![chain(proxy(&[(&cluster, 1)]))];
    let edge = Edge::trusting(config.snapshot_with(ListenerProtocol::Tcp, chains), &store).await;
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    let sent = vec![9; 300_000];
    let (mut read, mut write) = tcp.split();
    let mut back = Vec::new();
    let say = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let (_, heard) = timeout(PATIENCE, async { tokio::join!(say, read.read_to_end(&mut back)) }).await.unwrap();
    heard.unwrap();
    assert!(back == sent);

    // A backend whose name does not fit is none.
    let (mut config, cluster) = to(secure_echo(&authority, &["other.example.com"]).await);
    let log = Log::of(&mut config);
    config.secure(&cluster, secured("ca"));
    let chains = vec![chain(proxy(&[(&cluster, 1)]))];
    edge.publish(config.snapshot_with(ListenerProtocol::Tcp, chains)).await;
    assert_eq!(listen(&edge).await, "");
    let line = log.line().await;
    assert!(line.contains(" UF,URX ") && line.contains("verify_SAN_list"), "{line}");
}

/// A chain for `name` on a TLS listener.
fn tls_chain(name: &str, server_names: &[&str], tls: Option<ServerTls>, filter: TcpProxy) -> FilterChain {
    let mut chain = FilterChain::new(name.into(), NetworkFilter::Tcp(filter));
    chain.server_names = server_names.iter().map(|host| Host::new_unchecked(host)).collect();
    chain.tls = tls.map(Arc::new);
    chain
}

fn terminating(secret: &str) -> ServerTls {
    ServerTls {
        mode: ServerTlsMode::Simple,
        certificates: vec![reference(secret)],
        client_validation: None,
        parameters: TlsParameters::default(),
        alpn: Vec::new(),
    }
}

async fn connect(
    edge: &Edge,
    authority: &Authority,
    name: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let config = certificates::client_config(authority, None);
    let tcp = TcpStream::connect(edge.address()).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, tcp)).await.unwrap()
}

#[tokio::test]
async fn tls_is_passed_through_to_the_backend_of_its_name_or_ended_here() {
    let (edges, one, two) = (Authority::new("edges"), Authority::new("one"), Authority::new("two"));
    let store = Arc::new(SecretStore::default());
    offer(&store, "edge", leaf(&edges, &["ended.example.com"]).payload());
    let mut config = Config::new();
    let log = Log::of(&mut config);
    let first = config.cluster("first", &[secure_echo(&one, &["first.example.com"]).await]);
    let second = config.cluster("second", &[secure_echo(&two, &["x.second.example.com"]).await]);
    let plain = config.cluster("plain", &[echo().await]);
    let chains = vec![
        tls_chain("first", &["first.example.com"], None, proxy(&[(&first, 1)])),
        tls_chain("second", &["*.second.example.com"], None, proxy(&[(&second, 1)])),
        tls_chain("ended", &["ended.example.com"], Some(terminating("edge")), proxy(&[(&plain, 1)])),
    ];
    let snapshot = config.snapshot_with(ListenerProtocol::Tls, chains);
    let options = GatewayOptions { secrets: store, limits: Limits::default(), ..GatewayOptions::default() };
    let edge = Edge::with_secrets(snapshot, options.limits, options.secrets).await;
    for (name, authority) in
        [("first.example.com", &one), ("x.second.example.com", &two), ("ended.example.com", &edges)]
    {
        // Only the named authority signed what is shown: the certificate is the backend's own, or the edge's.
        for other in [&edges, &one, &two] {
            let connected = connect(&edge, other, name).await;
            assert_eq!(connected.is_ok(), std::ptr::eq(other, authority), "{name}");
        }
        let mut stream = connect(&edge, authority, name).await.unwrap();
        let sent = vec![3; 200_000];
        let (mut read, mut write) = tokio::io::split(&mut stream);
        let mut back = Vec::new();
        let say = async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let (_, heard) = timeout(PATIENCE, async { tokio::join!(say, read.read_to_end(&mut back)) }).await.unwrap();
        heard.unwrap();
        assert!(back == sent, "{name}");
    }
    let line = log.line().await;
    assert!(line.contains(" first.example.com tcp-route"), "{line}");
    assert!(connect(&edge, &one, "nobody.example.com").await.is_err());
}
