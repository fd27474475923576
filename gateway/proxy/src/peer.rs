//! How one try of a request reaches its host.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use http::Version;
use parking_lot::Mutex;
use pingora_core::upstreams::peer::{HttpPeer, Tracer, Tracing};
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;
use tidegate_snapshot::{EndpointAddress, UpstreamProtocol};
use tokio::time::{Instant, timeout_at};

use crate::local_reply::LocalReply;
use crate::request_context::RequestContext;
use crate::upstream::{ClusterTls, ConnectionGuard, HostState, Target, TransportFailure};

/// An idle connection is kept this long; backends that keep theirs for a minute, as many do, close after us.
pub(crate) const IDLE: Duration = Duration::from_secs(55);
/// Requests that share one HTTP/2 connection; one more opens another connection.
const MAX_STREAMS: usize = 100;
/// Flow control towards us: what a slow client may leave in our memory of one answer, and of one connection's.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// How much of a request's body is waited for, and how long, before the request is sent on. Longer than the 40 ms by
/// which TCP may delay the second half of a small request (Nagle's algorithm meeting a delayed acknowledgement).
const SHORT_BODY: usize = 32 * 1024;
const SHORT_WAIT: Duration = Duration::from_millis(60);

/// The peer for the host that was picked, which may take `stall` to read what it is sent. `hashes` makes the pools' keys.
///
/// # Errors
/// The answer is in the context: there is no host, or no time left.
pub(crate) fn build(
    session: &mut Session,
    context: &mut RequestContext,
    stall: Duration,
    hashes: &RandomState,
) -> Result<Box<HttpPeer>> {
    let (Some(cluster), Some(host)) = (context.cluster.clone(), context.host().cloned()) else {
        context.reply = Some(LocalReply::NO_HEALTHY_UPSTREAM);
        return Error::e_explain(ErrorType::ConnectError, "no host");
    };
    let http2 = match cluster.cluster().protocol {
        UpstreamProtocol::Http1 => false,
        UpstreamProtocol::Http2 => true,
        UpstreamProtocol::AsDownstream => session.req_header().version == Version::HTTP_2,
    };
    // An upgrade is HTTP/1's; HTTP/2 has no room for it.
    let http2 = http2 && !session.is_upgrade_req();
    let target = match cluster.tls() {
        Some(tls) => {
            let secured = secure(&context.request.authority, tls, &host, http2);
            if secured.is_err() {
                // An earlier try may have failed for another reason.
                context.transport_failure = None;
            }
            Some(secured?)
        }
        None => None,
    };
    context.pool_key = target.as_ref().map(|target| target.key().clone());
    let mut peer = match host.address() {
        EndpointAddress::Socket(address) => HttpPeer::new(address, false, String::new()),
        EndpointAddress::Unix(path) => HttpPeer::new_uds(&path.to_string_lossy(), false, String::new())?,
    };
    // Plaintext connections to one address are alike whichever cluster opened them, so subsets and services that share
    // endpoints share the pool too. Only the protocol is not in Pingora's own key. What differs in trust must differ here.
    peer.group_key = u64::from(http2);
    let remaining = context.expires.map(|at| at - Instant::now());
    if remaining.is_some_and(|remaining| remaining.is_zero()) {
        context.reply = Some(LocalReply::REQUEST_TIMEOUT);
        return Error::e_explain(ErrorType::ReadTimedout, "no time left");
    }
    let connect = remaining.map_or(cluster.cluster().connect_timeout, |it| it.min(cluster.cluster().connect_timeout));
    let options = &mut peer.options;
    options.connection_timeout = Some(connect);
    options.total_connection_timeout = Some(connect);
    options.idle_timeout = Some(IDLE);
    // HTTP/1 clients have a clock of their own, which is exact and covers the whole answer.
    options.read_timeout = remaining.filter(|_| session.is_http2());
    // While Pingora sends a body over HTTP/1 it does not look for an answer. A backend that has answered and reads no
    // more would hold the request for ever; after this time its answer is passed on.
    // (With TLS it is the same over HTTP/2.)
    options.write_timeout = Some(stall).filter(|_| (!http2 || target.is_some()) && !session.is_upgrade_req());
    if http2 {
        options.set_http_version(2, 2);
        options.max_h2_streams = MAX_STREAMS;
        options.h2_stream_window_size = Some(STREAM_WINDOW);
        options.h2_connection_window_size = Some(CONNECTION_WINDOW);
    }
    match target {
        Some(target) => target.attach(&mut peer, hashes),
        None => options.tracer = Some(Tracer(Box::new(ConnectionCount::new(host)))),
    }
    Ok(Box::new(peer))
}

fn secure(authority: &str, tls: &ClusterTls, host: &Arc<HostState>, http2: bool) -> Result<Target> {
    target(authority, tls, host, http2).map_err(|failure| {
        host.connect_failed();
        Error::because(ErrorType::TLSHandshakeFailure, "before connecting", failure).into_up()
    })
}

/// What a connection that is secured must be.
///
/// # Errors
/// A secret is missing, or there is no name to verify.
pub(crate) fn target(
    authority: &str,
    tls: &ClusterTls,
    host: &Arc<HostState>,
    http2: bool,
) -> Result<Target, TransportFailure> {
    Ok(Target::new(host.clone(), tls.trust()?, tls.server_name(Some(authority))?, http2))
}

/// Waits for a short body of an HTTP/2 request that has a timeout, as every unary call's is.
///
/// The route's time begins when the client has sent all of its request. Pingora can answer an HTTP/2 request in time
/// only if that is known when the request goes upstream; what is read here is kept in its retry buffer and sent from
/// there. A stream that goes on is not waited for: it has a deadline all the same once it has ended, and is reset then.
pub(crate) async fn await_short_body(session: &mut Session, context: &mut RequestContext) -> Result<()> {
    let downstream = session.as_downstream_mut();
    if downstream.is_body_done() {
        return Ok(());
    }
    downstream.enable_retry_buffering();
    let mut length = 0;
    let end = Instant::now() + SHORT_WAIT;
    while length < SHORT_BODY {
        match timeout_at(end, downstream.read_request_body()).await {
            Ok(Ok(Some(bytes))) => length += bytes.len(),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return Err(error.into_down()),
            Err(_) => return Ok(()),
        }
        if downstream.is_body_done() {
            break;
        }
    }
    if downstream.is_body_done() {
        context.request_is_over();
    }
    Ok(())
}

/// Counts an upstream connection while it is open.
struct ConnectionCount {
    host: Arc<HostState>,
    open: Mutex<Option<ConnectionGuard>>,
}

impl ConnectionCount {
    fn new(host: Arc<HostState>) -> Self {
        Self { host, open: Mutex::default() }
    }
}

impl fmt::Debug for ConnectionCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectionCount({})", self.host.address())
    }
}

impl Tracing for ConnectionCount {
    fn on_connected(&self) {
        *self.open.lock() = Some(self.host.connection_opened());
    }

    fn on_disconnected(&self) {
        self.open.lock().take();
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(Self::new(self.host.clone()))
    }
}
