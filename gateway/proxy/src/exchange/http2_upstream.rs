//! Connections to backends that speak HTTP/2: how one is opened and driven, and what a request does on it.
//!
//! The protocol is the `h2` crate's. One task drives a connection as long as it has streams or the pool holds it; requests
//! have no tasks of their own here.

mod pool;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, SendStream};
use http::Request;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::http1_upstream::{Link, Wanted};
use crate::upstream::{ConnectionGuard, OpenError, TransportFailure};

pub(super) use pool::{Http2Pool, Lease};

/// Requests that share one connection; one more opens another.
const MAX_STREAMS: usize = 100;
/// Flow control towards us: what a slow client may leave in our memory of one answer, and of one connection's.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Frames that a backend may send; larger ones cost less for each byte.
const MAX_FRAME: u32 = 64 * 1024;
/// How long a backend may take to say that it is still there.
const PING_TIME: Duration = Duration::from_secs(5);
/// Who asks a server of gRPC's more often than this is shut out for it (its `min_recv_ping_interval_without_data`).
const PING_PAUSE: Duration = Duration::from_secs(5 * 60);
/// What of a request's body waits for its backend beside the part that was read last.
const SEND_BUFFER: usize = 64 * 1024;
/// Envoy's `max_response_headers_kb` of 60, and what HTTP/2 counts on top of each field.
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// A connection that is driven by its own task. It closes when this is gone and its last stream has ended.
struct Http2Connection {
    /// Never waited for: all that use a connection are on one thread.
    sender: Mutex<SendRequest<Bytes>>,
    state: Arc<State>,
    /// Our own address.
    local: Option<SocketAddr>,
    driver: AbortHandle,
}

/// What is known of a connection outside of the task that drives it.
#[derive(Default)]
struct State {
    /// The task has ended: no request will be answered any more.
    is_over: AtomicBool,
    /// Nothing came for as long as a request was ready to wait, nor an answer to our question then.
    is_hung: AtomicBool,
    /// Reads that brought something.
    reads: AtomicU64,
    /// To ask whether the backend is still there; none while that is asked.
    ping: Mutex<Option<Asking>>,
}

struct Asking {
    ping: PingPong,
    /// When it was asked last.
    last: Option<Instant>,
}

/// Whether one more request can have a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Room {
    Free,
    Full,
    /// The connection is over, or ends with the streams that it has.
    Gone,
}

impl Http2Connection {
    /// Opens a connection. The caller limits the time.
    ///
    /// # Errors
    /// No connection, or one that could not be secured.
    async fn open(wanted: &Wanted) -> Result<Self, OpenError> {
        let Link { io, local, open } = wanted.connect().await?;
        // A server that chose no protocol has not heard of ALPN; that it speaks HTTP/2 is what the configuration says.
        let shaken = Self::over(io, local, open).await;
        shaken.map_err(|error| OpenError::Connect(error.into_io().unwrap_or_else(|| io::ErrorKind::Other.into())))
    }

    async fn over<T>(io: T, local: Option<SocketAddr>, open: Option<ConnectionGuard>) -> Result<Self, h2::Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let state = Arc::<State>::default();
        let transport = Transport { io, state: state.clone(), _open: open };
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(MAX_STREAMS)
            .max_frame_size(MAX_FRAME)
            .max_header_list_size(MAX_HEADER_LIST)
            .max_send_buffer_size(SEND_BUFFER)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        // Only the preface is written here; what the backend says of itself comes later.
        let (sender, mut connection) = builder.handshake(transport).await?;
        *state.ping.lock() = connection.ping_pong().map(|ping| Asking { ping, last: None });
        let driver = tokio::spawn(drive(connection, sender.clone(), state.clone())).abort_handle();
        Ok(Self { sender: Mutex::new(sender), state, local, driver })
    }

    /// Whether there is room beside `streams` that are under way.
    fn room(&self, streams: usize) -> Room {
        if self.state.is_over.load(Relaxed) || self.state.is_hung.load(Relaxed) {
            return Room::Gone;
        }
        let mut sender = self.sender.lock();
        match sender.poll_ready(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(Ok(())) if streams == 0 => Room::Free,
            Poll::Ready(Ok(())) if streams < MAX_STREAMS.min(sender.current_max_send_streams()) => Room::Free,
            Poll::Ready(Ok(())) | Poll::Pending => Room::Full,
            // Also when the backend has said that it goes away.
            Poll::Ready(Err(_)) => Room::Gone,
        }
    }

    fn is_gone(&self) -> bool {
        self.room(0) == Room::Gone
    }
}

async fn drive<T>(mut connection: h2::client::Connection<T, Bytes>, sender: SendRequest<Bytes>, state: Arc<State>)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // A connection that has lost all of its handles before it was polled first waits for ever (h2 0.4.20).
    let mut first = Some(sender);
    let ended = std::future::poll_fn(|cx| {
        let polled = Pin::new(&mut connection).poll(cx);
        first = None;
        polled
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "an HTTP/2 connection to a backend failed");
    }
    state.is_over.store(true, Relaxed);
}

/// Ends a connection whose backend does not answer a PING, with all that waits for it: it has died without a word.
async fn ask(mut asking: Asking, state: Arc<State>, driver: AbortHandle) {
    let reads = state.reads.load(Relaxed);
    asking.last = Some(Instant::now());
    let asked = timeout(PING_TIME, asking.ping.ping(Ping::opaque())).await;
    if asked.is_err() && state.reads.load(Relaxed) == reads {
        state.is_hung.store(true, Relaxed);
        driver.abort();
    }
    *state.ping.lock() = Some(asking);
}

/// The bytes of a connection.
struct Transport<T> {
    io: T,
    state: Arc<State>,
    _open: Option<ConnectionGuard>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Transport<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_read(cx, out);
        match &polled {
            Poll::Ready(Ok(())) => drop(self.state.reads.fetch_add(1, Relaxed)),
            // All that the library keeps of an error is its kind and its text, so that must be the one to show.
            Poll::Ready(Err(error)) if error.get_ref().is_some_and(|error| error.is::<rustls::Error>()) => {
                let failure = TransportFailure::of_io(error);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, failure)));
            }
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Transport<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What TLS said on a connection that was secured already, in Envoy's words: with TLS 1.3 a backend refuses a certificate
/// that late.
pub(super) fn tls_failure(error: &io::Error) -> Option<String> {
    // Nothing but TLS says that data are invalid, and the text is ours; see `Transport`.
    (error.kind() == io::ErrorKind::InvalidData).then(|| error.to_string())
}

impl Lease {
    /// Our own address.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.connection().local
    }

    /// Sends a request's head; `end` if it has no body.
    ///
    /// # Errors
    /// The connection has ended or goes away, or HTTP/2 cannot express the request.
    pub(super) fn send(
        &self,
        request: Request<()>,
        end: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        self.connection().sender.lock().send_request(request, end)
    }

    /// How often something came on the connection so far.
    pub(super) fn reads(&self) -> u64 {
        self.connection().state.reads.load(Relaxed)
    }

    /// Has the backend asked whether it is still there, if nothing came on the connection since `reads` was what is
    /// given, and it was not asked lately.
    pub(super) fn suspect(&self, reads: u64) {
        if self.reads() != reads {
            return;
        }
        let connection = self.connection();
        let may_ask = |asking: &mut Asking| asking.last.is_none_or(|last| last.elapsed() >= PING_PAUSE);
        if let Some(asking) = connection.state.ping.lock().take_if(may_ask) {
            tokio::spawn(ask(asking, connection.state.clone(), connection.driver.clone()));
        }
    }
}
