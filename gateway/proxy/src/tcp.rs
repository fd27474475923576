//! Connections whose bytes are passed on as they are: TCP servers, TLS that is terminated to TCP, TLS passed through.
//!
//! It owns the way of a connection from its first byte to its log line: the choice of a cluster and a host, one attempt
//! to connect, the bytes in both directions, metrics. It does not own accepting, PROXY headers or the TLS of clients.
//!
//! Source: Envoy, `tcp_proxy` as Istio configures it (`max_connect_attempts` 1); Istio, "Istio Standard Metrics".

mod tunnel;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use socket2::{SockRef, TcpKeepalive};
use tidegate_snapshot::{ClusterRef, ListenerProtocol, TcpProxy};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_rustls::client::TlsStream;

use self::tunnel::{End, Side};
pub(crate) use self::tunnel::{Progress, Tunnel};
use crate::app::HttpApp;
use crate::client_stream::ClientStream;
use crate::connection::Connection;
use crate::failure::plain;
use crate::published::Published;
use crate::shared::Shared;
use crate::telemetry::{Destination, RequestFacts, ResponseFlags, TcpCounters};
use crate::upstream::{ClusterHandle, ConnectionGuard, ConnectionOrigin, PickedHost, Socket};

/// Silence after which TCP asks whether the host is still there.
const KEEPALIVE: Duration = Duration::from_secs(300);

/// A connection to a host, ready for bytes.
trait Upstream: AsyncRead + AsyncWrite + Unpin + Send {
    fn socket(&self) -> &Socket;
}

impl Upstream for Socket {
    fn socket(&self) -> &Socket {
        self
    }
}

impl Upstream for TlsStream<Socket> {
    fn socket(&self) -> &Socket {
        self.get_ref().0
    }
}

/// Proxies an accepted connection until it ends; counts and logs it, also if this is dropped before.
///
/// Bytes that `client` has sent already go upstream first. Returns when both directions are over, when nothing has
/// moved for the filter's idle timeout, or when there is no way to a host. A reset of one side is passed on to the
/// other, as Envoy does: what was cut must not look like an end.
pub(crate) async fn proxy(
    mut client: ClientStream,
    connection: Arc<Connection>,
    published: Arc<Published>,
    filter: &TcpProxy,
    app: &Arc<HttpApp>,
) {
    let mut session = Session::new(connection, published, filter, app.shared().clone());
    let Some(mut upstream) = session.connect(filter).await else { return };
    let early = std::mem::take(&mut client.read);
    let progress = session.progress.clone();
    let tunnel = Tunnel::new(&mut client.io, &mut *upstream, early.to_vec(), filter.idle_timeout, &progress);
    drop(early);
    let end = tunnel.run(|| session.report()).await;
    match end {
        End::Reset(Side::Upstream) => client.io.reset_on_drop(),
        End::Reset(Side::Client) => upstream.socket().reset_on_drop(),
        End::Complete | End::Broken | End::Idle => {}
    }
    session.finish(end);
}

/// One connection, as far as it has come. Logged when it is dropped.
struct Session<'a> {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    published: Arc<Published>,
    route_name: &'a str,
    start: SystemTime,
    started: Instant,
    cluster: Option<Arc<ClusterHandle>>,
    cluster_name: Option<Arc<str>>,
    picked: Option<PickedHost>,
    upstream_address: Option<SocketAddr>,
    /// Set, with the next, once there is a connection to a host.
    open: Option<ConnectionGuard>,
    counters: Option<Arc<TcpCounters>>,
    /// What has moved.
    progress: Arc<Progress>,
    /// What of it the metrics know: received, sent.
    reported: (u64, u64),
    flags: ResponseFlags,
    transport_failure: Option<Cow<'static, str>>,
    details: Option<&'static str>,
    termination_details: Option<&'static str>,
    /// The connection ended by itself, or was not let begin.
    is_over: bool,
    attempts: u32,
}

impl<'a> Session<'a> {
    fn new(connection: Arc<Connection>, published: Arc<Published>, filter: &'a TcpProxy, shared: Arc<Shared>) -> Self {
        Self {
            shared,
            connection,
            published,
            route_name: &filter.name,
            start: SystemTime::now(),
            started: Instant::now(),
            cluster: None,
            cluster_name: None,
            picked: None,
            upstream_address: None,
            open: None,
            counters: None,
            progress: Arc::default(),
            reported: (0, 0),
            flags: ResponseFlags::NONE,
            transport_failure: None,
            details: None,
            termination_details: None,
            is_over: false,
            attempts: 0,
        }
    }

    /// A connection to a host of the cluster that the weights choose. None if there is none; the flags say why.
    async fn connect(&mut self, filter: &TcpProxy) -> Option<Box<dyn Upstream>> {
        let Some(destination) = filter.choose(fastrand::u64(..)) else {
            // Here as in what explains it: a server without TLS that no rule made.
            if filter.source.is_none() && self.connection.tls.is_none() && self.is_on_tls_listener() {
                self.details = Some("server_not_served");
            }
            return self.refuse(ResponseFlags::NO_ROUTE_FOUND);
        };
        self.cluster_name = Some(destination.cluster.name().clone());
        let cluster = match destination.cluster {
            ClusterRef::Found { index, .. } => self.published.cluster(index).cloned(),
            ClusterRef::Missing { .. } => None,
        };
        let Some(cluster) = cluster else { return self.refuse(ResponseFlags::NO_CLUSTER_FOUND) };
        self.picked = cluster.pick(&[]);
        self.cluster = Some(cluster.clone());
        let Some(host) = self.picked.as_ref().map(|picked| picked.host().clone()) else {
            return self.refuse(ResponseFlags::NO_HEALTHY_UPSTREAM);
        };
        self.attempts = 1;
        let opening = self.open(&cluster, host.address());
        let opened = match timeout(cluster.cluster().connect_timeout, opening).await {
            Ok(Ok(opened)) => Ok(opened),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err("connection timeout".into()),
        };
        match opened {
            Ok((upstream, local)) => {
                host.connected(ConnectionOrigin::New);
                self.upstream_address = local;
                let counters = self.shared.metrics.tcp(host.destination(), ResponseFlags::NONE);
                counters.opened();
                self.counters = Some(counters);
                self.open = Some(host.connection_opened());
                Some(upstream)
            }
            Err(failure) => {
                host.connect_failed();
                self.transport_failure = Some(failure);
                self.refuse(ResponseFlags::UPSTREAM_CONNECTION_FAILURE | ResponseFlags::CONNECT_ATTEMPTS_EXCEEDED)
            }
        }
    }

    /// Connects and, if the cluster says so, secures the connection. The failure is in Envoy's words.
    async fn open(
        &self,
        cluster: &ClusterHandle,
        address: &tidegate_snapshot::EndpointAddress,
    ) -> Result<(Box<dyn Upstream>, Option<SocketAddr>), Cow<'static, str>> {
        // Before connecting: without its secrets the cluster has no use for a connection.
        let tls = match cluster.tls() {
            Some(tls) => {
                let secured = || Ok((tls.trust()?, tls.server_name(None)?));
                Some(secured().map_err(|failure: crate::upstream::TransportFailure| failure.to_string())?)
            }
            None => None,
        };
        let connected = Socket::connect(address).await;
        let socket = connected.map_err(|error| format!("delayed connect error: {}", plain(&error)))?;
        let local = socket.local_address();
        if let Socket::Tcp(tcp) = &socket {
            // Without it a host that died silently would hold the connection until the idle timeout.
            let _ = SockRef::from(tcp).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
        }
        match tls {
            None => Ok((Box::new(socket), local)),
            Some((trust, server_name)) => {
                let secured = trust.handshake(socket, server_name, &[]).await;
                Ok((Box::new(secured.map_err(|failure| failure.to_string())?), local))
            }
        }
    }

    fn is_on_tls_listener(&self) -> bool {
        let listener = self.published.listener(&self.connection.listener.name);
        listener.is_some_and(|listener| listener.protocol == ListenerProtocol::Tls)
    }

    fn refuse<T>(&mut self, flags: ResponseFlags) -> Option<T> {
        self.flags |= flags;
        self.is_over = true;
        None
    }

    /// Tells the metrics what has moved since the last call.
    fn report(&mut self) {
        let (received, sent) = self.progress.get();
        if let Some(counters) = &self.counters {
            counters.moved(received - self.reported.0, sent - self.reported.1);
        }
        self.reported = (received, sent);
    }

    fn finish(&mut self, end: End) {
        self.is_over = true;
        match end {
            End::Idle => self.termination_details = Some("tcp_session_idle_timeout"),
            End::Reset(Side::Upstream) => self.flags |= ResponseFlags::UPSTREAM_REMOTE_RESET,
            End::Complete | End::Reset(Side::Client) | End::Broken => {}
        }
    }

    fn destination(&self) -> &Arc<Destination> {
        match (&self.picked, &self.cluster) {
            (Some(host), _) => host.destination(),
            (None, Some(cluster)) => cluster.destination(),
            (None, None) => self.shared.metrics.unknown_destination(),
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            // Cut: the gateway stops.
            self.flags |= ResponseFlags::LOCAL_RESET;
        }
        self.report();
        let last = self.shared.metrics.tcp(self.destination(), self.flags);
        if self.counters.is_none() {
            // What never reached a host is told all at once.
            last.opened();
        }
        last.closed();
        let Some(sink) = self.published.access_log() else { return };
        let headers = HeaderMap::new();
        let mut facts = RequestFacts::new(self.start, "", "", &headers);
        facts.scheme = "";
        facts.flags = self.flags;
        facts.response_code_details = self.details;
        facts.connection_termination_details = self.termination_details;
        facts.upstream_transport_failure_reason = self.transport_failure.as_deref();
        (facts.bytes_received, facts.bytes_sent) = self.reported;
        facts.duration = Some(self.started.elapsed());
        facts.upstream_host = self.picked.as_ref().map(|host| host.address());
        facts.upstream_cluster = self.cluster_name.as_deref();
        facts.upstream_local_address = self.upstream_address;
        facts.route_name = Some(self.route_name);
        facts.hostname = Some(&self.shared.hostname);
        facts.attempt_count = self.attempts;
        self.connection.describe(&mut facts);
        sink.log(&facts);
    }
}
