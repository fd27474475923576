//! What the workspace's micro-benchmarks (`benches/micro`) call of the request path, and nothing else may: each type
//! holds what a request finds in place, and each method does what a request costs.
//!
//! Exists with the feature `bench` only. It promises nothing: names and meaning follow the code that is measured.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::BytesMut;
use futures::FutureExt;
use http::HeaderName;
use tidegate_core::Lifecycle;
use tidegate_snapshot::{
    AccessLog, AccessLogFormat, DestinationService, EndpointAddress, HeaderOperations, Headers, MeshSettings, Snapshot,
    Workload,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::edge::{Downstream, admit};
use crate::header_operations::apply_to_request;
use crate::message::{Fields, RequestHead};
use crate::published::Published;
use crate::request_context::RequestContext;
use crate::request_head::HeadScan;
use crate::shared::{Connections, Handshakes, Shared};
use crate::telemetry::{
    AccessLogSink, AccessLogger, Destination, Metrics, RequestFacts, RequestOutcome, RequestProtocol, ResponseFlags,
};
use crate::tls::Hello;
use crate::upstream::{ClusterHandle, ClusterRegistry};
use crate::{DnsOptions, Limits, NodeInfo};

/// The metrics of a gateway whose requests went to some destinations before.
#[derive(Debug)]
pub struct RequestCounters {
    metrics: Metrics,
    destinations: Vec<Arc<Destination>>,
}

impl RequestCounters {
    /// Metrics with `destinations` services, at least one, that this thread has met.
    pub fn new(destinations: usize) -> Self {
        let metrics = Metrics::new(&NodeInfo::default(), Lifecycle::default());
        let destination = |number: usize| {
            let name = format!("s{number}");
            let service = DestinationService { host: format!("{name}.bench.test"), name, namespace: "default".into() };
            metrics.destinations().intern(&service, &Workload::default())
        };
        let destinations = (0..destinations.max(1)).map(destination).collect();
        let counters = Self { metrics, destinations };
        (0..counters.destinations.len()).for_each(|number| counters.record(number));
        counters
    }

    /// Counts a request to one of the destinations.
    pub fn record(&self, number: usize) {
        self.metrics.record(&RequestOutcome {
            destination: &self.destinations[number % self.destinations.len()],
            code: 200,
            flags: ResponseFlags::NONE,
            protocol: RequestProtocol::Http,
            duration: Duration::from_micros(700),
            request_bytes: 400,
            response_bytes: 300,
        });
    }
}

/// An access log, and a usual request that has ended.
#[derive(Debug)]
pub struct RequestLog {
    logger: AccessLogger,
    sink: Arc<AccessLogSink>,
    request_headers: Fields,
    response_headers: Fields,
    upstream: EndpointAddress,
}

impl RequestLog {
    /// A log with lines of `format` that goes nowhere.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn new(format: &AccessLogFormat) -> io::Result<Self> {
        let logger = AccessLogger::start(Arc::default())?;
        let (sink, _) = logger.sink(&AccessLog { path: "/dev/null".into(), format: format.clone() });
        let headers = |pairs: &[(&str, &str)]| {
            let mut fields = Fields::default();
            pairs.iter().for_each(|(name, value)| fields.add(name, value.as_bytes()));
            fields
        };
        Ok(Self {
            logger,
            sink,
            request_headers: headers(&[
                ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
                ("accept", "*/*"),
                ("accept-encoding", "gzip, br"),
                ("cookie", "session=0123456789abcdef"),
                ("x-forwarded-for", "192.0.2.7"),
                ("x-forwarded-proto", "https"),
                ("x-request-id", "5e7f3a4c-2f4c-4c1e-9c64-6b7cf7b9a1f0"),
            ]),
            response_headers: headers(&[
                ("content-type", "application/json"),
                ("content-length", "100"),
                ("x-envoy-upstream-service-time", "3"),
                ("server", "istio-envoy"),
            ]),
            upstream: EndpointAddress::Socket(address(8080)),
        })
    }

    /// Appends the request's line to `line`.
    pub fn render(&self, line: &mut String) {
        self.sink.render(&self.facts(), line);
    }

    /// Renders the line and hands it to the writer.
    pub fn log(&self) {
        self.sink.log(&self.facts());
    }

    /// Waits until the writer has nothing to do; false if that takes it ten seconds.
    pub async fn flush(&self) -> bool {
        self.logger.flush(Duration::from_secs(10)).await
    }

    fn facts(&self) -> RequestFacts<'_> {
        // A clock would be measured, too.
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_000_000_123);
        let mut facts = RequestFacts::new(start, "GET", "/api/v1/items?page=2", &self.request_headers);
        facts.authority = "h00001.bench.test";
        facts.protocol = "HTTP/1.1";
        facts.response_headers = Some(&self.response_headers);
        facts.response_code = 200;
        facts.response_code_details = Some("via_upstream");
        facts.bytes_sent = 100;
        facts.duration = Some(Duration::from_millis(4));
        facts.upstream_host = Some(&self.upstream);
        facts.upstream_cluster = Some("outbound|80||s1.default.svc.cluster.local");
        facts.upstream_local_address = Some(address(40_000));
        facts.downstream_local_address = Some(address(8443));
        facts.downstream_remote_address = Some(address(50_000));
        facts.downstream_direct_remote_address = Some(address(50_000));
        facts.requested_server_name = Some("h00001.bench.test");
        facts.route_name = Some("default");
        facts.attempt_count = 1;
        facts
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), port))
}

/// A connection whose ClientHello has arrived.
#[derive(Debug)]
pub struct HelloReader {
    tcp: TcpStream,
}

impl HelloReader {
    /// A connection over the loopback; nothing is sent on it.
    ///
    /// # Errors
    /// The loopback cannot be used.
    pub async fn connect() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let tcp = TcpStream::connect(listener.local_addr()?).await?;
        Ok(Self { tcp })
    }

    /// The server name of the ClientHello `raw`, which is whole and no more than 4096 bytes; none if it is none.
    pub fn read(&mut self, raw: &[u8]) -> Option<Box<str>> {
        // Complete, so there is nothing to wait for.
        let hello = Hello::read(&mut self.tcp, BytesMut::from(raw)).now_or_never()?.ok()?;
        hello.server_name()
    }
}

/// The head of a request as selection sees it while it is served.
#[derive(Debug)]
pub struct ServedHead(RequestHead);

impl ServedHead {
    /// A head with these fields, whose names are in lower case.
    pub fn new<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut head = RequestHead::default();
        fields.into_iter().for_each(|(name, value)| head.fields.add(name, value.as_bytes()));
        Self(head)
    }
}

impl Headers for ServedHead {
    fn values<'a>(&'a self, name: &HeaderName, each: &mut dyn FnMut(&'a [u8])) {
        self.0.values(name, each);
    }
}

/// A request's head on its way from a client's bytes to a backend's.
pub struct HeadEditor {
    context: RequestContext,
    mesh: MeshSettings,
    limits: Limits,
    peer: SocketAddr,
    out: Vec<u8>,
}

impl HeadEditor {
    /// For requests of clients that came without TLS and without trusted proxies.
    pub fn new() -> Self {
        let metrics = Arc::new(Metrics::new(&NodeInfo::default(), Lifecycle::default()));
        let shared = Arc::new(Shared {
            published: ArcSwap::from_pointee(Published::new(Arc::new(Snapshot::empty()), Vec::new(), None, None)),
            limits: Limits::default(),
            metrics,
            secrets: Arc::default(),
            hostname: String::new(),
            connections: Connections::default(),
            handshakes: Handshakes::default(),
            kill: CancellationToken::new(),
        });
        Self {
            context: RequestContext::new(shared),
            mesh: MeshSettings::default(),
            limits: Limits::default(),
            peer: address(50_000),
            out: Vec::new(),
        }
    }

    /// Reads a head that is whole; whether it may be served.
    pub fn read(&mut self, raw: &[u8]) -> bool {
        matches!(HeadScan::default().advance(raw, &self.limits, &mut self.context.request), Ok(Some(_)))
    }

    /// Makes the head that was read canonical, as an edge does; whether it may be served.
    pub fn admit(&mut self) -> bool {
        let downstream = Downstream { peer: self.peer, tls: None };
        admit(&mut self.context.request, downstream, &self.mesh, &self.limits).is_ok()
    }

    /// Carries out the operations of a route.
    pub fn edit(&mut self, operations: &HeaderOperations) {
        apply_to_request(&mut self.context, operations);
    }

    /// The head as a backend gets it.
    pub fn write(&mut self) -> &[u8] {
        self.out.clear();
        self.context.request.write_http1(&mut self.out);
        &self.out
    }
}

impl Default for HeadEditor {
    fn default() -> Self {
        Self::new()
    }
}

/// A cluster whose endpoints requests take turns with.
pub struct Balancer {
    cluster: Arc<ClusterHandle>,
    /// What would look for endpoints if they had names.
    _registry: ClusterRegistry,
}

impl Balancer {
    /// The first cluster of a Snapshot; none if it has none. Its tasks run on `control`.
    pub fn new(snapshot: &Snapshot, control: Handle) -> Option<Self> {
        let registry = ClusterRegistry::new(Arc::default(), DnsOptions::default(), control);
        let cluster = registry.prepare_after(&[], snapshot).handles.into_iter().next()?;
        Some(Self { cluster, _registry: registry })
    }

    /// Chooses an endpoint and lets it go; whether there was one.
    pub fn pick(&self) -> bool {
        self.cluster.pick(&[]).is_some()
    }
}
