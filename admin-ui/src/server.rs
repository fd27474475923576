//! Sockets, connections and their bounds: what all three servers share.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tidegate_core::Lifecycle;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Backend;
use crate::endpoint::Admin;
use crate::guard::AllowedHosts;

/// Connections at once. One more ends the oldest, so that idle ones cannot keep a probe out.
const MAX_CONNECTIONS: usize = 128;
/// Bytes of one request's head, and of what is buffered per connection.
const MAX_HEAD: usize = 64 * 1024;
/// From the end of one request to the end of the next one's head: bounds slow clients and idle connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest life of a connection: bounds clients that never read their answer.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(600);
/// What requests in flight get once the server is asked to end.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// Pause after a failed accept: out of file descriptors, mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server cannot listen where it was told to. The text has the cause and its mend, so there is no source to print
/// after it.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for {purpose}: {error}{}", mend(error))]
pub struct BindError {
    pub address: SocketAddr,
    /// `admin`, `metrics` or `health checks`.
    pub purpose: &'static str,
    pub error: io::Error,
}

fn mend(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has the port: stop it, or choose another address",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege: choose a higher port",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has the address",
        _ => "",
    }
}

/// The admin server: every endpoint of `/help`.
pub struct AdminServer;

/// The metrics server: `/stats/prometheus`, `/metrics` and `/healthz/ready`.
pub struct StatsServer;

/// The health server: `/healthz/ready`.
pub struct HealthServer;

impl AdminServer {
    /// Binds the admin server, for [`AllowedHosts::Loopback`]. Port 0 takes any free port.
    ///
    /// # Errors
    /// The address is taken, is not this machine's, or needs a privilege.
    pub fn bind(
        address: SocketAddr,
        backend: Arc<dyn Backend>,
        lifecycle: Lifecycle,
    ) -> Result<BoundServer, BindError> {
        BoundServer::new(
            address,
            "admin",
            AllowedHosts::default(),
            Admin::new(backend, lifecycle),
            crate::routes::ADMIN,
        )
    }
}

impl StatsServer {
    /// Binds the metrics server, for any `Host`: scrapers use the names and addresses of pods.
    ///
    /// # Errors
    /// As [`AdminServer::bind`].
    pub fn bind(
        address: SocketAddr,
        backend: Arc<dyn Backend>,
        lifecycle: Lifecycle,
    ) -> Result<BoundServer, BindError> {
        BoundServer::new(address, "metrics", AllowedHosts::Any, Admin::new(backend, lifecycle), crate::routes::STATS)
    }
}

impl HealthServer {
    /// Binds the health server, for any `Host`: load balancers and kubelets choose it freely.
    ///
    /// # Errors
    /// As [`AdminServer::bind`].
    pub fn bind(
        address: SocketAddr,
        backend: Arc<dyn Backend>,
        lifecycle: Lifecycle,
    ) -> Result<BoundServer, BindError> {
        let admin = Admin::new(backend, lifecycle);
        BoundServer::new(address, "health checks", AllowedHosts::Any, admin, crate::routes::HEALTH)
    }
}

/// A server that has its socket and does not answer yet; connections wait in the backlog.
pub struct BoundServer {
    socket: TcpListener,
    local_addr: SocketAddr,
    purpose: &'static str,
    hosts: AllowedHosts,
    admin: Arc<Admin>,
    endpoints: crate::endpoint::Endpoints,
}

impl BoundServer {
    fn new(
        address: SocketAddr,
        purpose: &'static str,
        hosts: AllowedHosts,
        admin: Admin,
        endpoints: crate::endpoint::Endpoints,
    ) -> Result<Self, BindError> {
        let bound = || {
            let socket = TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            let local_addr = socket.local_addr()?;
            Ok((socket, local_addr))
        };
        let (socket, local_addr) = bound().map_err(|error| BindError { address, purpose, error })?;
        Ok(Self { socket, local_addr, purpose, hosts, admin: Arc::new(admin), endpoints })
    }

    /// Where it listens, with the port that was chosen for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers requests with these `Host` values only.
    #[must_use]
    pub fn allow_hosts(mut self, hosts: AllowedHosts) -> Self {
        self.hosts = hosts;
        self
    }

    /// Answers until `cancel`, then gives requests in flight five seconds. Must be called on a runtime with I/O and
    /// time; handlers run on its blocking threads. Dropping the future closes the socket and every connection.
    pub async fn serve(self, cancel: CancellationToken) -> io::Result<()> {
        if self.purpose == "admin" && !self.local_addr.ip().is_loopback() {
            tracing::warn!(address = %self.local_addr, "the admin port is reachable from other machines");
        }
        tracing::info!(address = %self.local_addr, purpose = self.purpose, "listening");
        let listener = tokio::net::TcpListener::from_std(self.socket)?;
        let router = crate::endpoint::router(&self.admin, self.endpoints, self.hosts);
        let tasks = TaskTracker::new();
        // Ends with this future, however it ends.
        let abort = CancellationToken::new();
        let _abort_on_drop = abort.clone().drop_guard();
        let mut connections = Connections::default();
        loop {
            let accepted = tokio::select! {
                () = cancel.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let admitted = connections.admit(&abort);
                    let (router, cancel) = (router.clone(), cancel.clone());
                    tasks.spawn(async move {
                        tokio::select! {
                            () = admitted.ended.cancelled() => {}
                            () = serve_connection(stream, router, cancel) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, purpose = self.purpose, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        tasks.close();
        if tokio::time::timeout(SHUTDOWN_GRACE, tasks.wait()).await.is_err() {
            abort.cancel();
            tasks.wait().await;
        }
        Ok(())
    }
}

/// The connections of a server, oldest first.
#[derive(Default)]
struct Connections {
    admitted: u64,
    live: Arc<Mutex<BTreeMap<u64, CancellationToken>>>,
}

/// A connection's place among the others, which it leaves when this is dropped.
struct Admitted {
    number: u64,
    ended: CancellationToken,
    live: Arc<Mutex<BTreeMap<u64, CancellationToken>>>,
}

impl Connections {
    /// Makes room for one more; `abort` ends it too.
    fn admit(&mut self, abort: &CancellationToken) -> Admitted {
        let ended = abort.child_token();
        let number = self.admitted;
        self.admitted += 1;
        // Nothing panics while it holds the lock.
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        while live.len() >= MAX_CONNECTIONS {
            let Some((_, oldest)) = live.pop_first() else { break };
            oldest.cancel();
        }
        live.insert(number, ended.clone());
        Admitted { number, ended, live: self.live.clone() }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

/// The address that a client connected to; an extension of each request.
#[derive(Clone, Copy)]
pub(crate) struct ServerAddress(pub(crate) SocketAddr);

async fn serve_connection(stream: TcpStream, router: Router, cancel: CancellationToken) {
    let Ok(local) = stream.local_addr() else { return };
    // Nagle only delays the last part of an answer; without the option it still arrives.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ServerAddress(local));
        let router = TowerToHyperService::new(router.clone());
        async move { Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = async {
        tokio::select! {
            result = connection.as_mut() => result,
            () = cancel.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    match tokio::time::timeout(CONNECTION_LIFETIME, ended).await {
        Ok(Ok(())) => {}
        // Clients go away and send rubbish: nothing that a human must act on.
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_) => tracing::debug!("admin connection was too old"),
    }
}
