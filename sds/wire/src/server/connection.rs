//! Connections of the server: who is at the other end, and how long it may take to say something.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tonic::transport::server::Connected;

use super::Limits;
use crate::authorization::{Authorization, Identity};
use crate::monitor::Monitor;
use crate::tls::{Handshake, ServerIdentity, identity_of};

/// What an HTTP/2 client sends first (RFC 9113 section 3.4): until it is here, HTTP/2's own pings do not watch.
const PREFACE: usize = 24;

/// How long to wait when the system has no more descriptors, say.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) identity: Identity,
    pub(crate) address: String,
}

/// Takes connections in.
pub(super) struct Acceptor {
    pub(super) authorization: Authorization,
    pub(super) limits: Limits,
    pub(super) monitor: Monitor,
    /// Cuts connections off.
    pub(super) kill: CancellationToken,
    /// Ends accepting.
    pub(super) drain: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) connections: mpsc::Sender<io::Result<Connection>>,
}

impl Acceptor {
    pub(super) async fn accept_unix(self: Arc<Self>, listener: UnixListener) {
        let room = Arc::new(Semaphore::new(self.limits.connections));
        let own = rustix::process::geteuid().as_raw();
        while let Some(accepted) = self.drain.run_until_cancelled(listener.accept()).await {
            let Some((stream, _)) = self.usable(accepted).await else { continue };
            let Ok(credentials) = stream.peer_cred() else {
                self.refuse("its user is not known");
                continue;
            };
            let uid = credentials.uid();
            let address = match credentials.pid() {
                Some(pid) => format!("unix pid {pid}"),
                None => "unix".to_owned(),
            };
            let identity = Identity::Unix { uid, same_user: uid == own };
            self.take(Transport::Unix(stream), Peer { identity, address }, &room).await;
        }
    }

    pub(super) async fn accept_tcp(self: Arc<Self>, listener: TcpListener, tls: Option<ServerIdentity>) {
        let room = Arc::new(Semaphore::new(self.limits.connections));
        let tls = tls.map(Arc::new);
        if let Some(tls) = tls.clone() {
            let drain = self.drain.clone();
            self.tasks.spawn(async move { drain.run_until_cancelled(follow(&tls)).await });
        }
        while let Some(accepted) = self.drain.run_until_cancelled(listener.accept()).await {
            let Some((stream, address)) = self.usable(accepted).await else { continue };
            // Rotations are small and must not wait for more to send.
            let _ = stream.set_nodelay(true);
            let address = address.to_string();
            let Some(tls) = tls.clone() else {
                self.take(Transport::Tcp(stream), Peer { identity: Identity::Anonymous, address }, &room).await;
                continue;
            };
            let Ok(permit) = room.clone().try_acquire_owned() else {
                self.refuse("the limit of connections is reached");
                continue;
            };
            let acceptor = self.clone();
            self.tasks.spawn(async move {
                // Short enough for a shutdown to wait for, but it need not.
                let drain = acceptor.drain.clone();
                drain.run_until_cancelled(acceptor.handshake(stream, address, tls, permit)).await;
            });
        }
    }

    async fn handshake(
        self: Arc<Self>,
        stream: TcpStream,
        address: String,
        tls: Arc<ServerIdentity>,
        permit: OwnedSemaphorePermit,
    ) {
        let ready = tls.handshake();
        tls.tell(&ready);
        let shaken = match ready {
            Ok(Handshake { config, kill }) => {
                let accepting = tokio_rustls::TlsAcceptor::from(config).accept(stream);
                match tokio::time::timeout(self.limits.handshake, accepting).await {
                    Ok(Ok(stream)) => Ok((stream, kill)),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("it takes too long".to_owned()),
                }
            }
            Err(error) => Err(error.to_string()),
        };
        match shaken {
            Ok((stream, kill)) => {
                let identity = identity_of(stream.get_ref().1.peer_certificates());
                self.admit(Transport::Tls(Box::new(stream)), Peer { identity, address }, permit, kill).await;
            }
            Err(error) => {
                self.monitor.count().handshake_failures.fetch_add(1, Relaxed);
                tracing::debug!(address, error, "a TLS handshake with the SDS server failed");
                self.monitor.moved();
            }
        }
    }

    async fn take(&self, transport: Transport, peer: Peer, room: &Arc<Semaphore>) {
        match room.clone().try_acquire_owned() {
            Ok(permit) => self.admit(transport, peer, permit, self.kill.clone()).await,
            Err(_) => self.refuse("the limit of connections is reached"),
        }
    }

    /// Hands a connection to the HTTP/2 server if there is anything that its peer may read.
    async fn admit(&self, transport: Transport, peer: Peer, permit: OwnedSemaphorePermit, kill: CancellationToken) {
        if !self.authorization.admits(&peer.identity) {
            tracing::debug!(client = %peer.identity, address = peer.address, "no rule of the SDS server is for this client");
            self.refuse("no rule is for its client");
            return;
        }
        self.monitor.count().connections.fetch_add(1, Relaxed);
        self.monitor.count().connections_open.fetch_add(1, Relaxed);
        self.monitor.moved();
        let connection = Connection {
            transport,
            peer: Arc::new(peer),
            preface: Some(Preface { missing: PREFACE, deadline: Box::pin(sleep(self.limits.handshake)) }),
            kill: Box::pin(kill.cancelled_owned()),
            open: Open { monitor: self.monitor.clone(), _permit: permit },
        };
        // The receiver is gone only when the server ends.
        let _ = self.connections.send(Ok(connection)).await;
    }

    fn refuse(&self, reason: &'static str) {
        self.monitor.count().connections_refused.fetch_add(1, Relaxed);
        tracing::debug!(reason, "the SDS server closed a connection at once");
        self.monitor.moved();
    }

    async fn usable<T>(&self, accepted: io::Result<T>) -> Option<T> {
        match accepted {
            Ok(accepted) => Some(accepted),
            Err(error) => {
                tracing::warn!(%error, "the SDS server cannot accept a connection");
                let _ = self.drain.run_until_cancelled(sleep(ACCEPT_BACK_OFF)).await;
                None
            }
        }
    }
}

/// Looks at the server's secrets whenever one changes, so that clients of former authorities are cut off at once and
/// not when somebody else connects.
async fn follow(tls: &ServerIdentity) {
    let mut changes = tls.subscribe();
    while changes.changed().await.is_ok() {
        tls.tell(&tls.handshake());
    }
}

#[derive(Debug)]
enum Transport {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    fn pinned(&mut self) -> Pin<&mut dyn Duplex> {
        match self {
            Transport::Unix(stream) => Pin::new(stream),
            Transport::Tcp(stream) => Pin::new(stream),
            Transport::Tls(stream) => Pin::new(stream.as_mut()),
        }
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// The start of HTTP/2 that has not arrived yet.
#[derive(Debug)]
struct Preface {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

/// A connection that counts as open for as long as this lives.
#[derive(Debug)]
struct Open {
    monitor: Monitor,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.monitor.count().connections_open.fetch_sub(1, Relaxed);
        self.monitor.moved();
    }
}

/// An accepted connection, its peer known.
#[derive(Debug)]
pub(super) struct Connection {
    transport: Transport,
    peer: Arc<Peer>,
    preface: Option<Preface>,
    kill: Pin<Box<WaitForCancellationFutureOwned>>,
    #[expect(dead_code, reason = "it counts by being dropped")]
    open: Open,
}

impl Connection {
    /// Fails from the moment on at which the server cuts its connections off; until then `cx` is woken at it.
    fn check_killed(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.kill.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_killed(cx)?;
        if let Some(preface) = &mut self.preface
            && preface.deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        ready!(self.transport.pinned().poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        if let Some(preface) = &mut self.preface {
            preface.missing = preface.missing.saturating_sub(read);
            if preface.missing == 0 {
                self.preface = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_killed(cx)?;
        self.transport.pinned().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_killed(cx)?;
        self.transport.pinned().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.transport.pinned().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_killed(cx)?;
        self.transport.pinned().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Unix(stream) => stream.is_write_vectored(),
            Transport::Tcp(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
