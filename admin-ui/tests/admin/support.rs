//! A gateway that serves nothing, with a configuration that has one of everything, and a client of few words.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use http::{HeaderName, HeaderValue};
use tidegate_admin::{
    AdminServer, AllowedHosts, Backend, BoundServer, ClusterStatus, ConfigStatus, EndpointStatus, HealthServer,
    ListenerStatus, NodeInfo, ObjectCount, ReloadStatus, SecretStatus, StatsServer,
};
use tidegate_core::{Code, Diagnostic, Host, Kind, Lifecycle, Origin, Phase, ResourceKey};
use tidegate_snapshot::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const V1: &str = "outbound|9080|v1|reviews.default.svc.cluster.local";
pub(crate) const V2: &str = "outbound|9080|v2|reviews.default.svc.cluster.local";
pub(crate) const DNS: &str = "outbound|443||example.com";
const MISSING: &str = "outbound|80||nowhere.default.svc.cluster.local";

fn key(kind: Kind, name: &str) -> ResourceKey {
    ResourceKey::local(kind, "default", name)
}

fn origin(line: u32) -> Origin {
    Origin::new("bookinfo.yaml", line, 3)
}

fn literal(name: &'static str, value: &'static str) -> (HeaderName, HeaderValueTemplate) {
    (HeaderName::from_static(name), HeaderValueTemplate::Literal(HeaderValue::from_static(value)))
}

fn template(name: &'static str, value: &str) -> (HeaderName, HeaderValueTemplate) {
    (HeaderName::from_static(name), HeaderValueTemplate::Template(Template::parse(value).unwrap()))
}

fn endpoint(address: EndpointAddress, health: Health, zone: &str) -> Endpoint {
    Endpoint {
        address,
        weight: 1,
        health,
        locality: Locality { region: "eu".into(), zone: zone.into(), subzone: String::new() },
        workload: Workload {
            name: "reviews-v1".into(),
            namespace: "default".into(),
            app: "reviews".into(),
            version: "v1".into(),
            canonical_service: "reviews".into(),
            canonical_revision: "v1".into(),
            cluster: "Kubernetes".into(),
        },
        origin: origin(90),
    }
}

fn socket(text: &str) -> EndpointAddress {
    EndpointAddress::Socket(text.parse().unwrap())
}

fn cluster(name: &str, protocol: UpstreamProtocol, discovery: Discovery, sources: &[ResourceKey]) -> Arc<Cluster> {
    let host = name.rsplit('|').next().unwrap().to_owned();
    Arc::new(Cluster {
        name: name.into(),
        protocol,
        load_balancing: LoadBalancing::LeastRequest,
        connect_timeout: Duration::from_secs(10),
        tls: None,
        discovery,
        service: DestinationService { name: host.split('.').next().unwrap().into(), host, namespace: "default".into() },
        sources: sources.iter().map(|key| (key.clone(), origin(80))).collect(),
    })
}

fn clusters() -> Vec<Arc<Cluster>> {
    let service = key(Kind::Service, "reviews");
    let rule = key(Kind::DestinationRule, "reviews");
    let target = DnsTarget {
        host: "example.com".into(),
        port: 443,
        weight: 1,
        locality: Locality::default(),
        workload: Workload::default(),
        origin: origin(95),
    };
    vec![
        cluster(DNS, UpstreamProtocol::AsDownstream, Discovery::Dns(vec![target]), &[key(Kind::ServiceEntry, "ext")]),
        cluster(
            V1,
            UpstreamProtocol::Http1,
            Discovery::Static(vec![
                endpoint(socket("10.0.0.1:9080"), Health::Healthy, "a"),
                endpoint(socket("10.0.0.2:9080"), Health::Unhealthy, "b"),
                endpoint(socket("[2001:db8::1]:9080"), Health::Healthy, "a"),
            ]),
            &[service.clone(), rule.clone()],
        ),
        cluster(
            V2,
            UpstreamProtocol::Http2,
            Discovery::Static(vec![endpoint(EndpointAddress::Unix("/run/v2.sock".into()), Health::Healthy, "a")]),
            &[service, rule],
        ),
    ]
}

fn weighted(name: &str, weight: u32) -> WeightedCluster {
    let index = match name {
        DNS => Some(0),
        V1 => Some(1),
        V2 => Some(2),
        _ => None,
    };
    WeightedCluster {
        cluster: match index {
            Some(index) => ClusterRef::Found { index: ClusterIndex(index), name: name.into() },
            None => ClusterRef::Missing { name: name.into() },
        },
        weight,
        request_headers: HeaderOperations::default(),
        response_headers: HeaderOperations::default(),
    }
}

fn route(name: &str, path: PathMatch, action: RouteAction, line: u32) -> Route {
    Route {
        name: name.into(),
        matcher: RouteMatch { path, ..RouteMatch::default() },
        action,
        request_headers: HeaderOperations::default(),
        response_headers: HeaderOperations::default(),
        source: Source { key: key(Kind::VirtualService, "bookinfo"), origin: origin(line) },
    }
}

fn prefix(value: &str) -> PathMatch {
    PathMatch::Prefix { value: value.into(), ignore_case: false }
}

fn redirect() -> Redirect {
    Redirect { status: 301, scheme: None, authority: None, path: RedirectPath::Keep, port: RedirectPort::Unset }
}

fn routes() -> Vec<Route> {
    let mut jason = route("jason", prefix("/reviews"), RouteAction::Forward(Forward::new(vec![weighted(V2, 1)])), 10);
    jason.matcher.method = Some(Box::new(StringMatch::Exact("GET".into())));
    jason.matcher.authority = Some(Box::new(StringMatch::Prefix("book".into())));
    jason.matcher.scheme = Some(Box::new(StringMatch::Regex(Pattern::full("https?").unwrap())));
    jason.matcher.headers = vec![
        HeaderMatch { name: "end-user".parse().unwrap(), value: StringMatch::Exact("jason".into()), invert: false },
        HeaderMatch { name: "x-debug".parse().unwrap(), value: StringMatch::Present, invert: true },
        HeaderMatch { name: "x-not".parse().unwrap(), value: StringMatch::Exact("a".into()), invert: true },
    ];
    jason.matcher.query = vec![
        QueryMatch { name: "q".into(), value: StringMatch::Prefix("1".into()) },
        QueryMatch { name: "p".into(), value: StringMatch::Present },
    ];
    jason.request_headers = HeaderOperations {
        remove: vec![HeaderName::from_static("x-drop")].into(),
        set: vec![literal("x-set", "100%"), literal("host", "inner.example")].into(),
        add: vec![template("x-add", "%REQ(x-in)%")].into(),
    };

    let mut split = Forward::new(vec![weighted(V1, 90), {
        let mut second = weighted(V2, 10);
        second.response_headers.add = vec![literal("x-version", "v2")].into();
        second.request_headers.set = vec![literal("host", "v2.example")].into();
        second
    }]);
    split.timeout = Some(Duration::from_millis(1_500));
    split.path_rewrite = Some(PathRewrite::Matched { with: "/v".into() });

    let mut rewritten = Forward::new(vec![weighted(MISSING, 1)]);
    rewritten.path_rewrite = Some(PathRewrite::Regex(RegexRewrite::new("^/a/(.*)$", r"/b/\1").unwrap()));
    rewritten.authority = Some("b.example".into());

    let moved = Redirect {
        status: 308,
        scheme: Some("https".into()),
        authority: Some("new.example".into()),
        path: RedirectPath::Prefix("/new".into()),
        port: RedirectPort::FromProtocolDefault,
    };
    let same_port = Redirect {
        path: RedirectPath::Full("/there".into()),
        port: RedirectPort::FromRequestPort,
        status: 302,
        ..redirect()
    };
    let said = |body: &[u8]| RouteAction::DirectResponse(DirectResponse { status: 418, body: Some(body.into()) });
    vec![
        jason,
        route("", prefix("/split"), RouteAction::Forward(split), 20),
        route("", PathMatch::Regex(Pattern::full("/a/.*").unwrap()), RouteAction::Forward(rewritten), 30),
        route("", prefix("/old"), RouteAction::Redirect(moved), 40),
        route("", prefix("/here"), RouteAction::Redirect(same_port), 50),
        route("", PathMatch::Exact { value: "/tea".into(), ignore_case: true }, said(b"teapot"), 60),
        route("", PathMatch::Exact { value: "/raw".into(), ignore_case: false }, said(&[0xff, 0xfe]), 65),
        route("", prefix("/"), RouteAction::Forward(Forward::new(vec![weighted(DNS, 1)])), 70),
    ]
}

fn listener(name: &str, bind: Option<&str>, port: u16, table: RouteTable) -> Listener {
    let chain = FilterChain::new(table.name.clone(), NetworkFilter::Http(Arc::new(table)));
    let bind = bind.map(|ip| ip.parse().unwrap());
    let mut listener = Listener::new(name.into(), bind, port, ListenerProtocol::Http, vec![chain]);
    listener.sources = vec![(key(Kind::Gateway, "bookinfo"), origin(1))];
    listener
}

fn virtual_host(host: &str, port: u16, routes: Vec<Route>) -> VirtualHost {
    VirtualHost::new(format!("{host}:{port}"), vec![Host::parse(host).unwrap()], routes)
}

/// Two listeners, three clusters, and a route of every kind.
pub(crate) fn snapshot() -> Snapshot {
    let mut redirected = virtual_host("secure.example", 80, Vec::new());
    redirected.https_redirect = true;
    let hosts = vec![Arc::new(virtual_host("book.example", 80, routes())), Arc::new(redirected)];
    let empty = vec![Arc::new(virtual_host("*", 9000, Vec::new()))];
    let mesh = MeshSettings {
        path_normalization: PathNormalization::DecodeAndMergeSlashes,
        num_trusted_proxies: 2,
        access_log: Some(AccessLog {
            path: "/dev/stdout".into(),
            format: AccessLogFormat::Json(vec![("method".into(), Template::parse("%REQ(:METHOD)%").unwrap())]),
        }),
        server_header: ServerHeader::Default,
        ..MeshSettings::default()
    };
    Snapshot::new(
        vec![
            listener("0.0.0.0_80", None, 80, RouteTable::new("http.80".into(), hosts)),
            listener("127.0.0.1_9000", Some("127.0.0.1"), 9000, RouteTable::new("http.9000.127.0.0.1".into(), empty)),
        ],
        clusters(),
        mesh,
    )
}

/// As [`snapshot`], with `count` more virtual hosts on port 80.
pub(crate) fn large_snapshot(count: usize) -> Snapshot {
    let base = snapshot();
    let mut hosts = base.listeners()[0].filter_chains()[0].route_table().unwrap().virtual_hosts().to_vec();
    hosts.extend((0..count).map(|n| Arc::new(virtual_host(&format!("h{n}.example"), 80, routes()))));
    let first = listener("0.0.0.0_80", None, 80, RouteTable::new("http.80".into(), hosts));
    Snapshot::new(vec![first.into(), base.listeners()[1].clone()], base.clusters().to_vec(), base.mesh().clone())
}

/// The section of a dump with a type.
pub(crate) fn section<'a>(dump: &'a serde_json::Value, name: &str) -> &'a serde_json::Value {
    let wanted = format!("type.googleapis.com/envoy.admin.v3.{name}");
    let configs = dump["configs"].as_array().unwrap();
    configs.iter().find(|config| config["@type"] == wanted.as_str()).unwrap_or_else(|| panic!("no {name} in {dump:#}"))
}

pub(crate) fn node() -> NodeInfo {
    NodeInfo {
        id: NodeInfo::router_id("10.0.0.9", "gw-1", "istio-system", "cluster.local"),
        name: "gw-1".into(),
        namespace: "istio-system".into(),
        cluster_id: "Kubernetes".into(),
        labels: [("app".to_owned(), "istio-ingressgateway".to_owned())].into(),
        locality: Locality { region: "eu".into(), ..Locality::default() },
        version: "0.1.0".into(),
        revision: "abc<def>".into(),
        started: Some(SystemTime::now()),
    }
}

/// What was asked of the process, in words.
pub(crate) struct Fixture {
    snapshot: Arc<Snapshot>,
    pub(crate) asked: Mutex<Vec<String>>,
    metrics: String,
}

impl Fixture {
    pub(crate) fn new(snapshot: Snapshot) -> Arc<Self> {
        let metrics = "# HELP istio_requests_total Requests.\n# TYPE istio_requests_total counter\n\
                       istio_requests_total{reporter=\"source\",response_code=\"200\"} 7\n\
                       istio_requests_total{reporter=\"source\",response_code=\"503\"} 0\n\
                       # HELP istio_build Version.\n# TYPE istio_build gauge\nistio_build{component=\"proxy\"} 1\n";
        Arc::new(Self { snapshot: Arc::new(snapshot), asked: Mutex::default(), metrics: metrics.into() })
    }

    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }
}

impl Backend for Fixture {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.clone()
    }

    fn write_metrics(&self, out: &mut dyn std::fmt::Write) {
        out.write_str(&self.metrics).unwrap();
    }

    fn clusters(&self) -> Vec<ClusterStatus> {
        let resolved = EndpointStatus {
            address: "93.184.215.14:443".into(),
            hostname: "example.com".into(),
            weight: 1,
            rq_total: 3,
            rq_success: 2,
            rq_error: 1,
            cx_active: 1,
            ..EndpointStatus::default()
        };
        let down = EndpointStatus {
            address: "10.0.0.2:9080".into(),
            health: Health::Unhealthy,
            weight: 1,
            locality: Locality { region: "eu".into(), zone: "b".into(), subzone: String::new() },
            ..EndpointStatus::default()
        };
        let unix = EndpointStatus { address: "unix:///run/v2.sock".into(), weight: 1, ..EndpointStatus::default() };
        // Out of order: the admin interface must not depend on it.
        vec![
            ClusterStatus { name: V2.into(), endpoints: vec![unix] },
            ClusterStatus { name: V1.into(), endpoints: vec![down] },
            ClusterStatus { name: DNS.into(), endpoints: vec![resolved] },
        ]
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        vec![
            ListenerStatus {
                name: "0.0.0.0_80".into(),
                port: 80,
                bound: vec!["[::]:8080".parse().unwrap(), "0.0.0.0:8080".parse().unwrap()],
                connections_active: 2,
                connections_total: 5,
                ..ListenerStatus::default()
            },
            ListenerStatus {
                name: "127.0.0.1_9000".into(),
                port: 9000,
                error: Some("address in use".into()),
                ..ListenerStatus::default()
            },
        ]
    }

    fn secrets(&self) -> Vec<SecretStatus> {
        crate::tls::secrets()
    }

    fn secret_standing(&self, _: &[String]) -> Option<SecretStanding> {
        None
    }

    fn secret_sources(&self) -> serde_json::Value {
        serde_json::json!({ "acme": [] })
    }

    fn config_status(&self) -> ConfigStatus {
        let diagnostic = Diagnostic::error(Code::REFERENCE_NOT_FOUND, origin(30), "there is no such host")
            .key(key(Kind::VirtualService, "bookinfo"))
            .path("spec.http[2].route[0].destination.host");
        ConfigStatus {
            generation: 4,
            hash: self.snapshot.hash().to_string(),
            published: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
            last_reload: Some(ReloadStatus {
                at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_001),
                success: false,
                milliseconds: 12,
            }),
            serving_last_good: Some("bookinfo.yaml does not parse".into()),
            sources: vec!["./config".into()],
            objects: vec![ObjectCount { kind: "VirtualService".into(), accepted: 1, last_good: 0, rejected: 0 }],
            diagnostics: vec![diagnostic].into(),
        }
    }

    fn drain(&self, graceful: bool, skip_exit: bool) {
        self.note(format!("drain graceful={graceful} skip_exit={skip_exit}"));
    }

    fn quit(&self) {
        self.note("quit");
    }

    fn log_levels(&self) -> Vec<(String, String)> {
        vec![("http".into(), "info".into()), ("router".into(), "warning".into())]
    }

    fn set_log_level(&self, spec: &str) -> Result<(), String> {
        if spec.contains("nobody") {
            return Err("unknown logger name".into());
        }
        self.note(format!("log {spec}"));
        Ok(())
    }

    fn node(&self) -> NodeInfo {
        node()
    }

    fn reopen_logs(&self) {
        self.note("reopen");
    }
}

/// Servers on free ports, and what they stand on.
pub(crate) struct Servers {
    pub(crate) backend: Arc<Fixture>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) admin: SocketAddr,
    pub(crate) stats: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) cancel: CancellationToken,
    pub(crate) tasks: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Servers {
    pub(crate) fn start() -> Self {
        Self::start_with(AllowedHosts::default())
    }

    pub(crate) fn start_with(hosts: AllowedHosts) -> Self {
        Self::start_over(snapshot(), hosts)
    }

    pub(crate) fn start_over(snapshot: Snapshot, hosts: AllowedHosts) -> Self {
        let backend = Fixture::new(snapshot);
        let lifecycle = Lifecycle::default();
        lifecycle.advance(Phase::Live);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let cancel = CancellationToken::new();
        let mut tasks = Vec::new();
        let mut serve = |server: BoundServer| {
            let address = server.local_addr();
            tasks.push(tokio::spawn(server.serve(cancel.clone())));
            address
        };
        let admin = AdminServer::bind(any, backend.clone(), lifecycle.clone()).unwrap().allow_hosts(hosts);
        let admin = serve(admin);
        let stats = serve(StatsServer::bind(any, backend.clone(), lifecycle.clone()).unwrap());
        let health = serve(HealthServer::bind(any, backend.clone(), lifecycle.clone()).unwrap());
        Self { backend, lifecycle, admin, stats, health, cancel, tasks }
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        ask(self.admin, "GET", target, &[]).await
    }

    pub(crate) async fn post(&self, target: &str) -> Answer {
        ask(self.admin, "POST", target, &[]).await
    }

    /// What the backend was asked since the last call.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.backend.asked.lock().unwrap())
    }
}

/// A response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        assert_eq!(self.headers["content-type"], "application/json", "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }
}

/// One request on a connection of its own. A `host` among `headers` replaces the address.
pub(crate) async fn ask(server: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = format!("{method} {target} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request.push_str(&format!("host: {server}\r\n"));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("content-length: 0\r\n\r\n");
    exchange(server, &request).await
}

/// Sends `request` and reads to the end.
pub(crate) async fn exchange(server: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await.unwrap().unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok()).unwrap_or(0);
    let headers: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let is_chunked = headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked");
    let body = if is_chunked { unchunked(body) } else { body.to_owned() };
    Answer { status, headers, body }
}

/// The text of a chunked body, which must be whole.
fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    loop {
        let (length, after) = rest.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.push_str(&after[..length]);
        rest = after[length..].strip_prefix("\r\n").unwrap();
    }
}
