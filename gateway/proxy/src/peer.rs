//! How one try of a request that Pingora serves reaches its host. Such are upgrades, which are HTTP/1's: HTTP/2 has no
//! room for them, and so a cluster that speaks it is asked in HTTP/1 for once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use parking_lot::Mutex;
use pingora_core::upstreams::peer::{HttpPeer, Tracer, Tracing};
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;
use tidegate_snapshot::EndpointAddress;
use tokio::time::Instant;

use crate::local_reply::LocalReply;
use crate::request_context::RequestContext;
use crate::upstream::{ClusterTls, ConnectionGuard, HostState, Target, TransportFailure};

/// An idle connection is kept this long; backends that keep theirs for a minute, as many do, close after us.
pub(crate) const IDLE: Duration = Duration::from_secs(55);

/// The peer for the host that was picked, which may take `stall` to read what it is sent. `hashes` makes the pools' keys.
///
/// # Errors
/// The answer is in the context: there is no host, or no time left.
pub(crate) fn build(
    session: &Session,
    context: &mut RequestContext,
    stall: Duration,
    hashes: &RandomState,
) -> Result<Box<HttpPeer>> {
    let (Some(cluster), Some(host)) = (context.cluster.clone(), context.host().cloned()) else {
        context.reply = Some(LocalReply::NO_HEALTHY_UPSTREAM);
        return Error::e_explain(ErrorType::ConnectError, "no host");
    };
    let target = match cluster.tls() {
        Some(tls) => {
            let secured = secure(&context.request.authority, tls, &host);
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
    // endpoints share the pool too. What differs in trust must differ in the key.
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
    // While Pingora sends a body it does not look for an answer. A backend that has answered and reads no more would hold
    // the request for ever; after this time its answer is passed on.
    options.write_timeout = Some(stall).filter(|_| !session.is_upgrade_req());
    match target {
        Some(target) => target.attach(&mut peer, hashes),
        None => options.tracer = Some(Tracer(Box::new(ConnectionCount::new(host)))),
    }
    Ok(Box::new(peer))
}

fn secure(authority: &str, tls: &ClusterTls, host: &Arc<HostState>) -> Result<Target> {
    target(authority, tls, host, false).map_err(|failure| {
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
