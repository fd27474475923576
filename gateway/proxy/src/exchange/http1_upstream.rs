//! Connections to backends, and the pool of those of HTTP/1.1 that are idle.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use tidegate_snapshot::EndpointAddress;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::http2_upstream::Http2Pool;
use super::idle_pool::IdlePool;
use crate::upstream::{ConnectionGuard, HostState, OpenError, PoolKey, SecureStream, Socket, Target};

/// Idle HTTP/2 connections that one worker keeps at most. They cost more than those of HTTP/1 (some 50 KiB), one serves
/// many requests, and where the Host is the server name clients choose how many there are.
const MAX_IDLE_HTTP2: usize = 1024;
/// An idle connection is kept this long; backends that keep theirs for a minute, as many do, close after us.
pub(super) const IDLE: Duration = Duration::from_secs(55);
/// How often idle connections are looked at: whether their time is over or their backend has closed them.
const SWEEP: Duration = Duration::from_secs(1);

/// Which connections of others a request may have.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Key {
    /// Plaintext connections to one address are alike whichever cluster opened them, so subsets and services that share
    /// endpoints share them, too.
    Plain(EndpointAddress),
    Secure(Arc<PoolKey>),
}

/// What a request wants its connection to be.
pub(super) enum Wanted {
    Plain(Arc<HostState>),
    Secure(Target),
}

impl Wanted {
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Plain(host) => Key::Plain(host.address().clone()),
            Self::Secure(target) => Key::Secure(target.key().clone()),
        }
    }

    /// Opens a connection. The caller limits the time.
    ///
    /// # Errors
    /// No connection, or one that could not be secured.
    pub(super) async fn open(&self) -> Result<Upstream, OpenError> {
        let Link { io, local, open } = self.connect().await?;
        Ok(Upstream { io, key: self.key(), local, input: BytesMut::new(), _open: open })
    }

    /// As [`Wanted::open`], whatever will be spoken on it.
    ///
    /// # Errors
    /// No connection, or one that could not be secured.
    pub(super) async fn connect(&self) -> Result<Link, OpenError> {
        match self {
            Self::Plain(host) => {
                let socket = Socket::connect(host.address()).await.map_err(OpenError::Connect)?;
                let local = socket.local_address();
                Ok(Link { io: Io::Plain(socket), local, open: Some(host.connection_opened()) })
            }
            Self::Secure(target) => {
                let stream = target.open().await?;
                let local = stream.local_address();
                Ok(Link { io: Io::Secure(Box::new(stream)), local, open: None })
            }
        }
    }
}

/// The bytes of a connection, with nothing said on it.
pub(super) struct Link {
    pub(super) io: Io,
    /// Our own address.
    pub(super) local: Option<SocketAddr>,
    pub(super) open: Option<ConnectionGuard>,
}

pub(super) enum Io {
    Plain(Socket),
    /// Counts itself as open.
    Secure(Box<SecureStream>),
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, out),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_read(cx, out),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => match slices {
                [one] => Pin::new(socket).poll_write(cx, one),
                all => Pin::new(socket).poll_write_vectored(cx, all),
            },
            Self::Secure(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Secure(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

/// A connection to a backend, with what was read of it and not asked for yet.
pub(super) struct Upstream {
    io: Io,
    key: Key,
    /// Our own address.
    pub(super) local: Option<SocketAddr>,
    input: BytesMut,
    _open: Option<ConnectionGuard>,
}

impl Upstream {
    /// Reads into `room`; 0 at the end. What was put back comes first.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.input.is_empty() {
            let length = self.input.len().min(room.len());
            room[..length].copy_from_slice(&self.input[..length]);
            self.input.advance(length);
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
            return Poll::Ready(Ok(length));
        }
        let mut out = ReadBuf::new(room);
        Pin::new(&mut self.io).poll_read(cx, &mut out).map_ok(|()| out.filled().len())
    }

    /// Keeps `bytes` that were read, to be read again.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        // Only ever called with what `poll_read` has just given, so nothing stands before it.
        let rest = std::mem::take(&mut self.input);
        self.input.extend_from_slice(bytes);
        self.input.unsplit(rest);
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Io::Secure(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }

    /// Whether something came while nobody had asked: bytes that belong to no answer, or the connection's end.
    fn is_dead(&mut self) -> bool {
        if !self.input.is_empty() {
            return true;
        }
        // What the event queue has told already; the system is only asked if there is something.
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        self.poll_read(&mut cx, &mut byte).is_ready()
    }
}

/// The connections of one worker that requests may have: the idle ones, and of HTTP/2 those with room.
pub(crate) struct Upstreams {
    http2: Arc<Http2Pool>,
    /// Other threads never touch it, so the lock is never waited for.
    idle: Arc<Mutex<IdlePool<Key, Upstream>>>,
    is_swept: Arc<AtomicBool>,
}

impl Upstreams {
    /// Keeps at most `limit` idle connections of each protocol.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            http2: Arc::new(Http2Pool::new(limit.min(MAX_IDLE_HTTP2), IDLE)),
            idle: Arc::new(Mutex::new(IdlePool::new(limit))),
            is_swept: Arc::default(),
        }
    }

    pub(super) fn http2(&self) -> &Arc<Http2Pool> {
        &self.http2
    }

    /// An idle connection that is what `wanted` asks for and seems alive.
    pub(super) fn take(&self, wanted: &Wanted) -> Option<Upstream> {
        let key = wanted.key();
        loop {
            let mut found = self.idle.lock().take(&key)?;
            if !found.is_dead() {
                return Some(found);
            }
        }
    }

    /// Keeps a connection whose last answer was read whole.
    pub(super) fn put(&self, upstream: Upstream, now: Instant) {
        let key = upstream.key.clone();
        // Closed outside of the lock.
        let gone = self.idle.lock().put(key, upstream, now);
        drop(gone);
        if !self.is_swept.swap(true, Relaxed) {
            tokio::spawn(sweep(self.idle.clone(), self.is_swept.clone()));
        }
    }
}

/// Closes idle connections whose time is over, and those whose backend has closed them, until there are none.
async fn sweep(idle: Arc<Mutex<IdlePool<Key, Upstream>>>, is_swept: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let mut idle = idle.lock();
        let gone = idle.sweep(Instant::now(), IDLE, Upstream::is_dead);
        let over = idle.is_empty();
        drop(idle);
        drop(gone);
        if over {
            is_swept.store(false, Relaxed);
            return;
        }
    }
}
