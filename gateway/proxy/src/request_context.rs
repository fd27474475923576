use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use smallvec::SmallVec;
use tidegate_snapshot::{Forward, Route, RouteAction, VirtualHost, WeightedCluster};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::edge::Admitted;
use crate::local_reply::Client;
use crate::message::{Known, RequestHead, ResponseHead};
use crate::published::Published;
use crate::shared::Shared;
use crate::telemetry::{GrpcStatus, RequestFacts, RequestOutcome, RequestProtocol, ResponseFlags};
use crate::upstream::{ClusterHandle, HostId, HostState, PickedHost};

/// The route of a request.
#[derive(Clone, Debug)]
pub(crate) struct Selected {
    virtual_host: Arc<VirtualHost>,
    route: usize,
    /// Which of a forwarding route's destinations was drawn.
    destination: usize,
}

impl Selected {
    pub(crate) fn new(virtual_host: Arc<VirtualHost>, route: usize) -> Self {
        Self { virtual_host, route, destination: 0 }
    }

    pub(crate) fn route(&self) -> &Route {
        &self.virtual_host.routes()[self.route]
    }

    pub(crate) fn forward(&self) -> Option<&Forward> {
        match &self.route().action {
            RouteAction::Forward(forward) => Some(forward),
            RouteAction::Redirect(_) | RouteAction::DirectResponse(_) => None,
        }
    }

    pub(crate) fn set_destination(&mut self, destination: usize) {
        self.destination = destination;
    }

    pub(crate) fn destination(&self) -> Option<&WeightedCluster> {
        self.forward()?.clusters().get(self.destination)
    }
}

/// All that the gateway keeps of a request while it runs.
pub(crate) struct RequestContext {
    shared: Arc<Shared>,
    pub(crate) start: SystemTime,
    pub(crate) started: Instant,
    /// As the client sent it, then as the backend gets it.
    pub(crate) request: RequestHead,
    /// As the client gets it; status 0 while there is none.
    pub(crate) response: ResponseHead,
    pub(crate) connection: Option<Arc<Connection>>,
    /// The one view of the configuration that this request has.
    pub(crate) published: Option<Arc<Published>>,
    pub(crate) client: Client,
    pub(crate) admitted: Option<Admitted>,
    /// Path and query before a rewrite.
    pub(crate) original_path: Option<String>,
    pub(crate) virtual_host: Option<Arc<VirtualHost>>,
    pub(crate) selected: Option<Selected>,
    pub(crate) cluster: Option<Arc<ClusterHandle>>,
    pub(crate) cluster_name: Option<Arc<str>>,
    pub(crate) timeout: Option<Duration>,
    /// When the request must be over; set once the client has sent all of it.
    pub(crate) expires: Option<Instant>,
    /// Holds the host of the present try; the host of the last one when the request has ended.
    pub(crate) picked: Option<PickedHost>,
    pub(crate) tried: SmallVec<[HostId; 4]>,
    /// Tries that were begun.
    pub(crate) attempts: u32,
    /// Tries that were repeated because a pooled connection turned out to be dead; the retry policy does not count
    /// them.
    pub(crate) replays: u32,
    pub(crate) interim_answers: u32,
    pub(crate) upstream_address: Option<std::net::SocketAddr>,
    pub(crate) connected: bool,
    pub(crate) request_end: Option<Instant>,
    pub(crate) upstream_start: Option<Instant>,
    pub(crate) response_start: Option<Instant>,
    pub(crate) flags: ResponseFlags,
    pub(crate) details: Cow<'static, str>,
    pub(crate) termination_details: Option<&'static str>,
    pub(crate) transport_failure: Option<String>,
    pub(crate) grpc_status: Option<GrpcStatus>,
    /// Status of the backend's answer, once its head was passed on.
    pub(crate) passed_on: u16,
    logged: bool,
}

impl RequestContext {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            start: SystemTime::now(),
            started: Instant::now(),
            request: RequestHead::default(),
            response: ResponseHead::default(),
            connection: None,
            published: None,
            client: Client::Http,
            admitted: None,
            original_path: None,
            virtual_host: None,
            selected: None,
            cluster: None,
            cluster_name: None,
            timeout: None,
            expires: None,
            picked: None,
            tried: SmallVec::new(),
            attempts: 0,
            replays: 0,
            interim_answers: 0,
            upstream_address: None,
            connected: false,
            request_end: None,
            upstream_start: None,
            response_start: None,
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed(""),
            termination_details: None,
            transport_failure: None,
            grpc_status: None,
            passed_on: 0,
            logged: false,
        }
    }

    pub(crate) fn host(&self) -> Option<&Arc<HostState>> {
        self.picked.as_ref().map(PickedHost::host)
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.expires.is_some_and(|at| at <= Instant::now())
    }

    /// The client has sent all of its request: the route's time begins.
    pub(crate) fn request_is_over(&mut self) {
        if self.request_end.is_some() {
            return;
        }
        let now = Instant::now();
        self.request_end = Some(now);
        if let Some(timeout) = self.timeout {
            self.expires = now.checked_add(timeout);
        }
    }

    /// Counts and logs the request, which ended with an answer of `code` (0 for none); `received` and `sent` are bytes
    /// of bodies. Only the first call does anything.
    pub(crate) fn log(&mut self, code: u16, received: u64, sent: u64) {
        if std::mem::replace(&mut self.logged, true) {
            return;
        }
        if self.client == Client::Grpc
            && self.grpc_status.is_none()
            && let Some(status) = self.response.fields.get(Known::GrpcStatus).filter(|_| code != 0)
        {
            self.grpc_status = Some(GrpcStatus::from_header(status));
        }
        let response = Some(&self.response).filter(|_| code != 0);
        let response_head = response.map_or(0, |response| response.fields.size());
        let duration = self.started.elapsed();
        self.count(code, received + self.request.size(), sent + response_head, duration);
        let Some(sink) = self.published.as_ref().and_then(|published| published.access_log()) else { return };
        let mut facts = self.facts(response);
        facts.duration = Some(duration);
        facts.response_code = code;
        facts.bytes_received = received;
        facts.bytes_sent = sent;
        sink.log(&facts);
    }

    fn count(&self, code: u16, request_bytes: u64, response_bytes: u64, duration: Duration) {
        let destination = match (self.host(), &self.cluster) {
            (Some(host), _) => host.destination(),
            (None, Some(cluster)) => cluster.destination(),
            (None, None) => self.shared.metrics.unknown_destination(),
        };
        let protocol = match self.client {
            Client::Http => RequestProtocol::Http,
            Client::Grpc => RequestProtocol::Grpc(self.grpc_status),
        };
        self.shared.metrics.record(&RequestOutcome {
            destination,
            code,
            flags: self.flags,
            protocol,
            duration,
            request_bytes,
            response_bytes,
        });
        if let Some(connection) = &self.connection {
            connection.listener.metrics.request_finished(code);
        }
    }
}

impl RequestContext {
    /// What there is to say of the request now, `response` being the answer as far as it is known.
    pub(crate) fn facts<'a>(&'a self, response: Option<&'a ResponseHead>) -> RequestFacts<'a> {
        let mut facts = RequestFacts::new(self.start, &self.request.method, &self.request.target, &self.request.fields);
        facts.request_headers = &self.request;
        facts.scheme = if self.admitted.is_some_and(|admitted| admitted.is_https) { "https" } else { "http" };
        facts.authority = &self.request.authority;
        facts.original_path = self.original_path.as_deref();
        facts.protocol = self.request.protocol.as_str();
        if let Some(response) = response {
            facts.response_headers = Some(&response.fields);
            facts.response_code = response.status;
        }
        facts.flags = self.flags;
        facts.response_code_details = Some(&*self.details);
        facts.connection_termination_details = self.termination_details;
        facts.upstream_transport_failure_reason = self.transport_failure.as_deref();
        facts.duration = Some(self.started.elapsed());
        facts.request_duration = self.request_end.map(|end| end - self.started);
        facts.response_duration = self.response_start.map(|start| start - self.started);
        facts.upstream_host = self.picked.as_ref().map(|host| host.address());
        facts.upstream_cluster = self.cluster_name.as_deref();
        facts.upstream_local_address = self.upstream_address;
        if let Some(connection) = &self.connection {
            connection.describe(&mut facts);
            if let Some(admitted) = self.admitted {
                facts.downstream_remote_address = Some(admitted.client);
            }
        }
        facts.route_name = self.selected.as_ref().map(|selected| selected.route().name.as_str());
        facts.virtual_host_name = self.virtual_host.as_ref().map(|host| host.name.as_str());
        facts.attempt_count = self.attempts;
        facts.hostname = Some(&self.shared.hostname);
        facts
    }
}

/// A request whose future is dropped, because its time was over or the gateway stops, is counted and logged all the
/// same.
impl Drop for RequestContext {
    fn drop(&mut self) {
        if self.logged || self.published.is_none() {
            return;
        }
        self.flags |=
            if self.is_expired() { ResponseFlags::UPSTREAM_REQUEST_TIMEOUT } else { ResponseFlags::LOCAL_RESET };
        self.log(self.passed_on, 0, 0);
    }
}
