//! The SDS server: its sockets, its connections, its end.

mod connection;
mod unix;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::SecretDiscoveryServiceServer;
use futures::stream::poll_fn;
use tidegate_core::SecretName;
use tidegate_sds::SecretStore;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use self::connection::Peer;
use self::connection::{Acceptor, Connection};
use self::unix::UnixSocket;
use crate::authorization::{Authorization, Who};
use crate::monitor::Monitor;
use crate::service::{Context, Service};
use crate::tls::ServerIdentity;

/// What a server listens on, who may read what, and its limits.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    pub unix: Option<UnixOptions>,
    pub tcp: Option<TcpOptions>,
    pub authorization: Authorization,
    /// Names that clients may use instead of the store's: `webapp` for `kubernetes://istio-system/webapp`. An alias
    /// hides a secret of that name, and grants nothing: rules are about the store's names.
    pub aliases: BTreeMap<String, SecretName>,
    pub limits: Limits,
}

impl Default for ServerOptions {
    /// No sockets, and the default [`Authorization`].
    fn default() -> Self {
        Self {
            unix: None,
            tcp: None,
            authorization: Authorization::default(),
            aliases: BTreeMap::new(),
            limits: Limits::default(),
        }
    }
}

/// A Unix socket.
#[derive(Clone, Debug)]
pub struct UnixOptions {
    /// Where the socket's file is made. Its folder is made if it does not exist (0700, or 0755 if others than the owner
    /// may connect); one that others than its owner can write to is refused. A file `<path>.lock` beside it tells that
    /// a server has it, and stays.
    pub path: PathBuf,
    /// Permissions of the socket's file. With 0600 only the server's own user can connect.
    pub mode: u32,
}

impl UnixOptions {
    /// A socket for the server's own user.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o600 }
    }

    /// A socket that everybody can connect to (0666) if a rule is for other users, as the rules decide then, by the
    /// kernel's word; else one for the server's own user.
    pub fn for_clients_of(rules: &Authorization, path: impl Into<PathBuf>) -> Self {
        let own = rustix::process::geteuid().as_raw();
        let is_for_others = |who: &Who| match who {
            Who::Any => true,
            Who::Uid(uid) => *uid != own,
            Who::SameUser | Who::Uri(_) | Who::Dns(_) => false,
        };
        let mode = if rules.rules().iter().any(|rule| is_for_others(&rule.who)) { 0o666 } else { 0o600 };
        Self { path: path.into(), mode }
    }

    fn is_for_others(&self) -> bool {
        self.mode & 0o006 != 0
    }

    /// Of a folder that is made for the socket.
    fn folder_mode(&self) -> u32 {
        if self.is_for_others() { 0o755 } else { 0o700 }
    }
}

/// A TCP socket.
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// Port 0 takes a free one; see [`SdsServer::tcp_address`].
    pub address: SocketAddr,
    pub security: TcpSecurity,
}

/// What protects a TCP socket.
#[derive(Clone, Debug)]
pub enum TcpSecurity {
    /// Nothing: keys cross in the clear, and clients are [`crate::Identity::Anonymous`]. Only on loopback addresses.
    PlaintextOnLoopback,
    /// The same on any address: for networks that others protect.
    PlaintextAnywhere,
    /// TLS 1.2 or 1.3 with a certificate of the store. It is looked up at each handshake, so it rotates like all
    /// others; while it is missing, handshakes fail.
    Tls {
        /// Tried in order, the first that holds a certificate is shown.
        certificate: Vec<SecretName>,
        /// Authorities for client certificates, tried in order: clients must show one that verifies, and its names are
        /// their identity. While none of the names holds authorities, handshakes fail. When other authorities or
        /// revocation lists come, the clients from before are cut off and must prove themselves anew. Empty: clients
        /// are not asked, and are anonymous.
        client_authorities: Vec<SecretName>,
    },
}

/// Bounds on what clients can make the server hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections, on the Unix socket and on TCP each.
    pub connections: usize,
    /// Open streams. Envoy opens one for each secret that a listener or cluster names.
    pub streams: usize,
    /// Names in one stream.
    pub names_per_stream: usize,
    /// Names in all streams.
    pub names: usize,
    /// Bytes of one request.
    pub request_bytes: usize,
    /// Bytes of the secrets in one answer of `FetchSecrets`.
    pub fetch_bytes: usize,
    /// How long a TLS handshake, and after it the start of HTTP/2, may take.
    pub handshake: Duration,
    /// How often a silent connection is pinged, and how long its answer may take.
    pub keepalive: (Duration, Duration),
    /// How long clients have to leave when the server drains; then they are cut off.
    pub drain: Duration,
}

impl Limits {
    /// Bytes that one connection may have sent and no stream has read yet. The h2 library closes connections whose
    /// small frames, counted as 256 bytes each, take more than half of it; and a client that (re)connects sends the
    /// small first requests of all its streams at once.
    fn connection_window(&self) -> u32 {
        u32::try_from(self.streams.saturating_mul(2 * 256)).unwrap_or(u32::MAX).clamp(1 << 20, 16 << 20)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            streams: 32_768,
            names_per_stream: 16_384,
            names: 131_072,
            request_bytes: 4 << 20,
            fetch_bytes: 16 << 20,
            handshake: Duration::from_secs(10),
            keepalive: (Duration::from_secs(30), Duration::from_secs(10)),
            drain: Duration::from_secs(5),
        }
    }
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{path}: another server listens on this socket", path = .0.display())]
    InUse(PathBuf),
    #[error("{path} exists and is no socket; the SDS server does not replace it", path = .0.display())]
    NotASocket(PathBuf),
    #[error(
        "{path}: others than its owner (who must be this user or root) can write to this folder, and so could put \
         another socket in the place of ours; `chmod go-w` it or choose another folder",
        path = .0.display()
    )]
    FolderNotPrivate(PathBuf),
    #[error("cannot {doing} {path}: {source}", path = .path.display())]
    Unix { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot listen on {address}: {source}")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("{0} is no loopback address: keys would cross the network in the clear; use TLS or a loopback address")]
    Plaintext(SocketAddr),
    #[error("TLS on {0} needs the name of a certificate")]
    NoCertificate(SocketAddr),
}

/// Why a server stopped without being told to.
#[derive(Debug, thiserror::Error)]
#[error("the SDS server failed: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// An SDS server whose sockets are bound.
#[derive(Debug)]
pub struct SdsServer {
    unix: Option<(UnixListener, UnixSocket)>,
    tcp: Option<(TcpListener, TcpSecurity)>,
    options: ServerOptions,
    store: Arc<SecretStore>,
    monitor: Monitor,
}

impl SdsServer {
    /// Binds the sockets. Clients that connect from now on wait until [`Self::serve`] runs. Must be called in a Tokio
    /// runtime.
    ///
    /// # Errors
    /// A socket that cannot be had, or must not be: see [`BindError`].
    pub fn bind(options: ServerOptions, store: Arc<SecretStore>) -> Result<Self, BindError> {
        warn_of_idle_sockets(&options);
        let unix = options.unix.as_ref().map(bind_unix).transpose()?;
        let tcp = options.tcp.as_ref().map(bind_tcp).transpose()?;
        Ok(Self { unix, tcp, options, store, monitor: Monitor::default() })
    }

    /// The TCP socket's address, with the port that it got.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// The Unix socket's file.
    pub fn unix_path(&self) -> Option<&Path> {
        self.unix.as_ref().map(|(_, socket)| socket.path())
    }

    /// For status and metrics; works on after the server's end.
    pub fn monitor(&self) -> Monitor {
        self.monitor.clone()
    }

    /// Serves until `cancel`. Then it takes no connections any more, ends every stream with `UNAVAILABLE` (Envoy keeps
    /// what it has, and reconnects), and returns when the clients are gone, at the latest after [`Limits::drain`]; the
    /// socket's file is removed. All tasks have ended by then.
    ///
    /// # Errors
    /// A failure of the HTTP/2 server as a whole; connections that fail are only counted.
    pub async fn serve(self, cancel: CancellationToken) -> Result<(), ServeError> {
        let Self { unix, tcp, options, store, monitor } = self;
        let limits = options.limits;
        let drain = cancel.child_token();
        let kill = CancellationToken::new();
        // Should this future be dropped, everything ends at once.
        let _guards = (drain.clone().drop_guard(), kill.clone().drop_guard());
        let tasks = TaskTracker::new();
        let (connections, mut accepted) = mpsc::channel::<Result<Connection, io::Error>>(1);
        let acceptor = Arc::new(Acceptor {
            authorization: options.authorization.clone(),
            limits,
            monitor: monitor.clone(),
            kill: kill.clone(),
            drain: drain.clone(),
            tasks: tasks.clone(),
            connections,
        });
        // Its file is removed when this is dropped: at the end.
        let mut socket_file = None;
        if let Some((listener, socket)) = unix {
            tasks.spawn(acceptor.clone().accept_unix(listener));
            socket_file = Some(socket);
        }
        if let Some((listener, security)) = tcp {
            let identity = match security {
                TcpSecurity::PlaintextOnLoopback | TcpSecurity::PlaintextAnywhere => None,
                TcpSecurity::Tls { certificate, client_authorities } => {
                    Some(ServerIdentity::new(store.clone(), certificate, client_authorities, kill.clone()))
                }
            };
            tasks.spawn(acceptor.clone().accept_tcp(listener, identity));
        }
        // From now on only the tasks have it, so that the stream of connections ends with them.
        drop(acceptor);

        let watched = monitor.clone();
        let mut activity = watched.subscribe();
        let service = Service(Arc::new(Context {
            store,
            authorization: options.authorization,
            aliases: options.aliases,
            limits,
            monitor,
            drain: drain.clone(),
            tasks: tasks.clone(),
        }));
        let (interval, timeout) = limits.keepalive;
        let serving = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(interval))
            .http2_keepalive_timeout(Some(timeout))
            .max_concurrent_streams(Some(u32::try_from(limits.streams).unwrap_or(u32::MAX)))
            .http2_max_header_list_size(Some(16 << 10))
            .initial_connection_window_size(Some(limits.connection_window()))
            .serve_with_incoming_shutdown(
                SecretDiscoveryServiceServer::new(service).max_decoding_message_size(limits.request_bytes),
                poll_fn(move |cx| accepted.poll_recv(cx)),
                drain.clone().cancelled_owned(),
            );
        let overdue = async {
            drain.cancelled().await;
            tokio::time::sleep(limits.drain).await;
        };
        let served = tokio::select! {
            served = serving => served.map_err(ServeError::from),
            () = overdue => Ok(()),
        };
        drain.cancel();
        kill.cancel();
        tasks.close();
        tasks.wait().await;
        // The connections' own tasks are tonic's, and end with their sockets.
        let _ = activity.wait_for(|_| watched.counters().connections_open == 0).await;
        drop(socket_file);
        served
    }
}

fn bind_unix(options: &UnixOptions) -> Result<(UnixListener, UnixSocket), BindError> {
    let (listener, socket) = UnixSocket::bind(options)?;
    let failed = |source| BindError::Unix { doing: "listen on", path: options.path.clone(), source };
    let listener: StdUnixListener = listener;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((UnixListener::from_std(listener).map_err(failed)?, socket))
}

fn bind_tcp(options: &TcpOptions) -> Result<(TcpListener, TcpSecurity), BindError> {
    let address = options.address;
    match &options.security {
        TcpSecurity::PlaintextOnLoopback if !address.ip().is_loopback() => return Err(BindError::Plaintext(address)),
        TcpSecurity::Tls { certificate, .. } if certificate.is_empty() => {
            return Err(BindError::NoCertificate(address));
        }
        _ => {}
    }
    let failed = |source| BindError::Tcp { address, source };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok((TcpListener::from_std(listener).map_err(failed)?, options.security.clone()))
}

/// Says it if no rule can be for anybody who comes through a socket.
fn warn_of_idle_sockets(options: &ServerOptions) {
    let rules = options.authorization.rules();
    let unix = |who: &Who| matches!(who, Who::Any | Who::SameUser | Who::Uid(_));
    if options.unix.is_some() && !rules.iter().any(|rule| unix(&rule.who)) {
        tracing::warn!("no rule of the SDS server is for clients of its Unix socket: all are turned away");
    }
    let Some(tcp) = &options.tcp else { return };
    let proves = matches!(&tcp.security, TcpSecurity::Tls { client_authorities, .. } if !client_authorities.is_empty());
    let reaches = |who: &Who| match who {
        Who::Any => true,
        Who::Uri(_) | Who::Dns(_) => proves,
        Who::SameUser | Who::Uid(_) => false,
    };
    if !rules.iter().any(|rule| reaches(&rule.who)) {
        tracing::warn!(address = %tcp.address, "no rule of the SDS server is for clients of its TCP socket: all are turned away");
    }
}
