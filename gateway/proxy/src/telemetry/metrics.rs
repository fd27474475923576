use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use tidegate_core::Lifecycle;
use tidegate_snapshot::{SnapshotHash, Workload};

use super::destination::DestinationNames;
use super::exposition::label;
use super::reload::Reloads;
use super::series::{SeriesKey, SeriesTable};
use super::tcp::{TcpCounters, TcpTable};
use super::{Destination, Destinations, ListenerMetrics, LogCounters, NodeInfo, ResponseFlags};

/// Label sets of request metrics that one gateway keeps. Beyond it requests are counted in
/// `tidegate_metrics_overflow_total` only.
const MAX_SERIES: usize = 16_384;

/// The same for connections: beyond it they are counted in `tidegate_tcp_metrics_overflow_total` only.
const MAX_TCP_SERIES: usize = 16_384;

/// All metrics of one gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(super) destinations: Arc<Destinations>,
    /// `reporter` and the `source_` labels.
    source_labels: String,
    pub(super) series: Arc<SeriesTable>,
    pub(super) tcp: TcpTable,
    pub(super) listeners: Mutex<BTreeMap<Arc<str>, Weak<ListenerMetrics>>>,
    pub(super) reloads: Mutex<Reloads>,
    pub(super) log: Arc<LogCounters>,
    pub(super) lifecycle: Lifecycle,
    pub(super) started: Instant,
    pub(super) started_at: SystemTime,
}

/// What requests metrics tell apart by protocol: `http`, or `grpc` with the status of the call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum RequestProtocol {
    Http,
    /// Without a status the call ended before the trailers.
    Grpc(Option<GrpcStatus>),
}

/// A gRPC status code. Codes that gRPC does not have count as 2, unknown, which is what gRPC clients make of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct GrpcStatus(u8);

impl GrpcStatus {
    /// The value of a `grpc-status` header or trailer.
    pub(crate) fn from_header(value: &[u8]) -> Self {
        let code = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        Self(code.filter(|code| *code <= 16).unwrap_or(2))
    }
}

/// A request that has ended, as metrics see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestOutcome<'a> {
    /// Of the host that was chosen last, else of the cluster; [`Metrics::unknown_destination`] if there was none.
    pub(crate) destination: &'a Arc<Destination>,
    /// Status sent to the client; 0 if there was none.
    pub(crate) code: u16,
    pub(crate) flags: ResponseFlags,
    pub(crate) protocol: RequestProtocol,
    /// From the first byte of the request to the last byte of the response.
    pub(crate) duration: Duration,
    /// Head and body.
    pub(crate) request_bytes: u64,
    /// Head and body.
    pub(crate) response_bytes: u64,
}

impl Metrics {
    /// Metrics that report `node` as the source of all requests.
    pub(crate) fn new(node: &NodeInfo, lifecycle: Lifecycle) -> Self {
        Self {
            destinations: Arc::default(),
            source_labels: source_labels(&node.workload()),
            series: Arc::new(SeriesTable::new(MAX_SERIES)),
            tcp: TcpTable::new(MAX_TCP_SERIES),
            listeners: Mutex::default(),
            reloads: Mutex::default(),
            log: Arc::default(),
            lifecycle,
            started: Instant::now(),
            started_at: SystemTime::now(),
        }
    }

    /// What the access logger counts its lines in.
    pub(crate) fn log_counters(&self) -> &Arc<LogCounters> {
        &self.log
    }

    /// What the cluster registry names destinations with.
    pub(crate) fn destinations(&self) -> &Arc<Destinations> {
        &self.destinations
    }

    /// The destination of requests that have no cluster.
    pub(crate) fn unknown_destination(&self) -> &Arc<Destination> {
        self.destinations.unknown()
    }

    /// Counts a request. Takes no lock once a thread has seen its labels, and never waits for a scrape longer than
    /// pointers are copied.
    pub(crate) fn record(&self, outcome: &RequestOutcome<'_>) {
        // HTTP has no other codes; what a backend makes up counts as none.
        let code = if outcome.code < 1000 { outcome.code } else { 0 };
        let key =
            SeriesKey { destination: outcome.destination.id(), flags: outcome.flags, code, protocol: outcome.protocol };
        self.series.with(key, outcome.destination, |series| {
            series.duration.record(u64::try_from(outcome.duration.as_micros()).unwrap_or(u64::MAX));
            series.request_bytes.record(outcome.request_bytes.saturating_mul(1000));
            series.response_bytes.record(outcome.response_bytes.saturating_mul(1000));
        });
    }

    /// The counters of TCP connections to `destination` that have `flags`, to be held while a connection adds to them.
    /// Takes a lock.
    pub(crate) fn tcp(&self, destination: &Arc<Destination>, flags: ResponseFlags) -> Arc<TcpCounters> {
        self.tcp.counters(destination, flags)
    }

    /// The counters of a listener: those that exist under its name, or new ones.
    pub(crate) fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let mut listeners = self.listeners.lock();
        if let Some(found) = listeners.get(name).and_then(Weak::upgrade) {
            return found;
        }
        listeners.retain(|_, listener| listener.strong_count() > 0);
        let name: Arc<str> = name.into();
        let listener = Arc::new(ListenerMetrics::new(name.clone()));
        listeners.insert(name, Arc::downgrade(&listener));
        listener
    }

    /// A new Snapshot serves.
    pub(crate) fn config_published(&self, hash: SnapshotHash) {
        self.reloads.lock().succeeded(hash, SystemTime::now());
        self.series.sweep(Instant::now());
        self.tcp.sweep(Instant::now());
    }

    /// The sources were read again and say the same.
    pub(crate) fn config_unchanged(&self) {
        self.reloads.lock().unchanged(SystemTime::now());
    }

    /// The sources could not be used, wholly or in part; what was served before still is.
    pub(crate) fn config_rejected(&self) {
        self.reloads.lock().failed();
    }

    /// All labels of requests in Istio's order.
    pub(super) fn labels(&self, key: &SeriesKey, names: &DestinationNames) -> String {
        let mut out = self.ends(names);
        let (protocol, status) = match key.protocol {
            RequestProtocol::Http => ("http", String::new()),
            RequestProtocol::Grpc(status) => ("grpc", status.map_or_else(String::new, |status| status.0.to_string())),
        };
        label(&mut out, "request_protocol", protocol);
        label(&mut out, "response_code", &key.code.to_string());
        label(&mut out, "grpc_response_status", &status);
        label(&mut out, "response_flags", &key.flags.to_string());
        // Only the side that terminates a connection can say whether it was mutual TLS.
        label(&mut out, "connection_security_policy", "unknown");
        out
    }

    /// All labels of TCP connections in Istio's order.
    pub(super) fn tcp_labels(&self, flags: ResponseFlags, names: &DestinationNames) -> String {
        let mut out = self.ends(names);
        label(&mut out, "request_protocol", "tcp");
        label(&mut out, "response_flags", &flags.to_string());
        label(&mut out, "connection_security_policy", "unknown");
        out
    }

    /// Labels of the source and the destination.
    fn ends(&self, names: &DestinationNames) -> String {
        let mut out = String::with_capacity(1024);
        out.push_str(&self.source_labels);
        let nothing = Workload::default();
        let (service, workload) = (names.service(), names.workload().unwrap_or(&nothing));
        for (name, value) in [
            ("destination_workload", &workload.name),
            ("destination_workload_namespace", &workload.namespace),
            ("destination_principal", &String::new()),
            ("destination_app", &workload.app),
            ("destination_version", &workload.version),
            ("destination_service", &service.host),
            ("destination_canonical_service", &workload.canonical_service),
            ("destination_canonical_revision", &workload.canonical_revision),
            ("destination_service_name", &service.name),
            ("destination_service_namespace", &service.namespace),
            ("destination_cluster", &workload.cluster),
        ] {
            label(&mut out, name, known(value));
        }
        out
    }
}

fn source_labels(source: &Workload) -> String {
    let mut out = String::new();
    // A gateway is never anything else: who sums `source` and `destination` would count its requests twice.
    label(&mut out, "reporter", "source");
    for (name, value) in [
        ("source_workload", &source.name),
        ("source_canonical_service", &source.canonical_service),
        ("source_canonical_revision", &source.canonical_revision),
        ("source_workload_namespace", &source.namespace),
        ("source_principal", &String::new()),
        ("source_app", &source.app),
        ("source_version", &source.version),
        ("source_cluster", &source.cluster),
    ] {
        label(&mut out, name, known(value));
    }
    out
}

fn known(value: &str) -> &str {
    if value.is_empty() { "unknown" } else { value }
}
