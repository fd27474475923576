//! Our own stream under Pingora's sessions.
//!
//! It owns a client's socket and the bytes that were read ahead. For HTTP/1 it delivers the body of the present request
//! and not one byte more, so that a pipelined request waits for its turn; it gathers writes so that a head and a small
//! body leave in one segment; and it gives the socket back when Pingora is done with the request, however that ended.
//! Idle connections hold no buffer.

mod client_io;
mod poll;

pub(crate) use client_io::{ClientStream, Io};

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use pingora_core::protocols::SocketDigest;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_http::ResponseHeader;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use crate::Limits;
use crate::chunked::{BadChunk, ChunkedScan};
use crate::connection::Connection;
use crate::local_reply::LocalReply;
use crate::request_head::{Framing, HeadScan, RequestHead};
use crate::telemetry::ParseError;

/// Writes are gathered up to this many bytes.
const WRITE_BUFFER: usize = 8 * 1024;
/// Room for the first read of a request head.
const READ_BUFFER: usize = 4 * 1024;
/// RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much of an unread request is thrown away, and how long, so that the answer is not lost to a TCP reset.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);

/// What the bytes that come next are.
#[derive(Clone, Copy, Debug)]
enum Input {
    /// The body of a request; nothing is left of it at 0.
    Length(u64),
    Chunked(ChunkedScan),
    /// No HTTP/1: HTTP/2, or a tunnel.
    Opaque,
}

/// A client's socket between two requests, with what was read of the next.
#[derive(Debug)]
pub(crate) struct Parked {
    io: Io,
    buffered: BytesMut,
    input: Input,
}

/// Which protocol the next request has to be of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Expected {
    /// Whichever its first bytes say.
    Either,
    Http1,
    Http2,
}

/// What came in on an idle connection.
pub(crate) enum Incoming {
    /// A request head, which is the front of the buffer.
    Request(RequestHead),
    /// HTTP/2's preface.
    Http2,
    /// No request, and none will come.
    End,
    /// No request that may be served.
    Refused(LocalReply),
}

/// Whether a request can be served with what is known of its body.
enum Look {
    Enough,
    /// Its first chunk's line has begun and not ended.
    InsideChunkLine,
}

pub(crate) struct EdgeStream {
    /// None only while it is being dropped.
    io: Option<Io>,
    buffered: BytesMut,
    input: Input,
    output: BytesMut,
    /// The next bytes that are written are the head of an HTTP/1 answer.
    answers: bool,
    connection: Arc<Connection>,
    digest: Arc<ProxyDigest>,
    socket: Arc<SocketDigest>,
    http2: bool,
}

impl fmt::Debug for EdgeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EdgeStream({})", self.connection.peer)
    }
}

impl EdgeStream {
    /// `client.read` is what was read ahead of the first request.
    pub(crate) fn new(client: ClientStream, connection: Arc<Connection>) -> pingora_error::Result<Self> {
        let socket = SocketDigest::from_raw_fd(client.io.as_raw_fd());
        // A digest that was just made is empty.
        let _ = socket.peer_addr.set(Some(connection.peer.into()));
        let _ = socket.local_addr.set(Some(connection.local.into()));
        // Any response will do: the digest is only the carrier of the connection to its requests.
        let carrier = Box::new(ResponseHeader::build(200, Some(0))?);
        let digest = ProxyDigest::new(carrier, Some(Box::new(connection.clone())));
        Ok(Self {
            io: Some(client.io),
            buffered: client.read,
            input: Input::Length(0),
            output: BytesMut::new(),
            answers: false,
            connection,
            digest: Arc::new(digest),
            socket: Arc::new(socket),
            http2: false,
        })
    }

    /// Takes the socket back that this connection's last stream left.
    pub(crate) fn revive(parked: Parked, digests: Digests, connection: Arc<Connection>) -> Self {
        Self {
            io: Some(parked.io),
            buffered: parked.buffered,
            input: parked.input,
            output: BytesMut::new(),
            answers: false,
            connection,
            digest: digests.0,
            socket: digests.1,
            http2: false,
        }
    }

    pub(crate) fn digests(&self) -> Digests {
        Digests(self.digest.clone(), self.socket.clone())
    }

    /// Waits for the first bytes of the next request; false if the client has gone. Holds no buffer while it waits.
    /// Cancel safe.
    pub(crate) async fn wait(&mut self) -> io::Result<bool> {
        while self.buffered.is_empty() {
            if self.fill().await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads a request head, within `limits.header_timeout` of its first byte; call it after [`Self::wait`].
    pub(crate) async fn read_head(&mut self, limits: &Limits, expected: Expected) -> Incoming {
        let deadline = Instant::now() + limits.header_timeout;
        let mut scan = HeadScan::default();
        let mut found = None;
        let mut fresh = true;
        loop {
            if !fresh || self.buffered.is_empty() {
                match timeout_at(deadline, self.fill()).await {
                    Ok(Ok(0)) | Ok(Err(_)) => return Incoming::End,
                    Ok(Ok(_)) => {}
                    Err(_) if self.buffered.is_empty() => return Incoming::End,
                    Err(_) => return Incoming::Refused(LocalReply::HEADER_TIMEOUT),
                }
            }
            fresh = false;
            if expected != Expected::Http1
                && self.buffered.starts_with(&PREFACE[..PREFACE.len().min(self.buffered.len())])
            {
                if self.buffered.len() < PREFACE.len() {
                    continue;
                }
                self.http2 = true;
                self.input = Input::Opaque;
                if self.buffered.len() > PREFACE.len() {
                    self.connection.hear();
                }
                return Incoming::Http2;
            }
            if expected == Expected::Http2 {
                // What ALPN promised has not come, and there is no protocol to say so in.
                self.connection.listener.metrics.parse_error(ParseError::Malformed);
                return Incoming::End;
            }
            // RFC 9112 section 2.2: an empty line before the request is ignored; more than one is no accident.
            if self.buffered.starts_with(b"\r") {
                match self.buffered.get(1) {
                    Some(b'\n') if !self.buffered[2..].starts_with(b"\r") => self.buffered.advance(2),
                    Some(_) => return Incoming::Refused(LocalReply::BAD_REQUEST),
                    None => {}
                }
                if self.buffered.len() < 2 {
                    continue;
                }
            }
            if found.is_none() {
                match scan.advance(&self.buffered, limits) {
                    Ok(Some(head)) => found = Some(head),
                    Ok(None) => {}
                    Err(reply) => return Incoming::Refused(reply),
                }
            }
            let Some(head) = found else { continue };
            match self.look_at_body(head) {
                Ok(Look::Enough) => return Incoming::Request(head),
                Ok(Look::InsideChunkLine) => {}
                Err(BadChunk) => return Incoming::Refused(LocalReply::BAD_REQUEST),
            }
        }
    }

    /// Judges what came of a chunked body together with its head, so that a backend hears nothing of a request that is
    /// malformed from the start. What has not come is not waited for: the client may wait for us.
    fn look_at_body(&self, head: RequestHead) -> Result<Look, BadChunk> {
        if head.framing != Framing::Chunked {
            return Ok(Look::Enough);
        }
        let mut scan = ChunkedScan::default();
        scan.advance(&self.buffered[head.length..])?;
        Ok(if scan.is_inside_first_line() { Look::InsideChunkLine } else { Look::Enough })
    }

    /// Takes the head that [`Self::read_head`] found; what follows is delivered as its body.
    pub(crate) fn take_head(&mut self, head: RequestHead) -> BytesMut {
        self.answers = true;
        self.input = match head.framing {
            Framing::Length(length) => Input::Length(length),
            Framing::Chunked => Input::Chunked(ChunkedScan::default()),
        };
        if self.buffered.len() == head.length {
            return std::mem::take(&mut self.buffered);
        }
        self.buffered.split_to(head.length)
    }

    /// The bytes that stand at the front of the buffer: what is known of a request that was refused.
    pub(crate) fn peeked(&self) -> &[u8] {
        &self.buffered
    }

    /// Sends `reply` to a client whose request could not be read, and closes.
    pub(crate) async fn refuse(mut self, reply: &LocalReply) {
        self.connection.admit();
        let text = reply.raw();
        let sent = timeout(LINGER_TIME, async {
            self.write_all(text.as_bytes()).await?;
            self.flush().await
        });
        if matches!(sent.await, Ok(Ok(()))) {
            self.linger().await;
        }
    }

    /// Closes so that the answer before it arrives: a socket that is closed with unread bytes is reset, which can
    /// overtake what was sent.
    pub(crate) async fn linger(mut self) {
        let Some(mut io) = self.io.take() else { return };
        let drain = async {
            io.shutdown().await?;
            let mut sink = [0; 2048];
            let mut left = LINGER_BYTES;
            loop {
                match tokio::io::AsyncReadExt::read(&mut io, &mut sink).await? {
                    0 => return io::Result::Ok(()),
                    read => left = left.saturating_sub(read),
                }
                if left == 0 {
                    return Ok(());
                }
            }
        };
        // Whether it worked changes nothing: the connection is over.
        let _ = timeout(LINGER_TIME, drain).await;
    }

    /// Whether part of a request is still unread.
    pub(crate) fn has_unread_input(&self) -> bool {
        let ended = match self.input {
            Input::Length(left) => left == 0,
            Input::Chunked(scan) => scan.is_done(),
            Input::Opaque => true,
        };
        !ended || !self.buffered.is_empty()
    }

    async fn fill(&mut self) -> io::Result<usize> {
        poll_fn(|cx| {
            let io = self.io.as_mut().ok_or(io::ErrorKind::NotConnected)?;
            io.poll_fill(cx, &mut self.buffered, READ_BUFFER)
        })
        .await
    }

    fn io_mut(&mut self) -> io::Result<Pin<&mut Io>> {
        self.io.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Counts `bytes` as part of the body and returns how many of them are.
    fn account(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.input {
            Input::Opaque => Ok(bytes.len()),
            Input::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Input::Chunked(scan) => scan.advance(bytes).map_err(|_| {
                self.connection.mark_bad_body();
                io::Error::new(io::ErrorKind::InvalidData, "malformed chunk")
            }),
        }
    }

    fn body_is_over(&self) -> bool {
        match self.input {
            Input::Length(left) => left == 0,
            Input::Chunked(scan) => scan.is_done(),
            Input::Opaque => false,
        }
    }

    /// Nothing more belongs to this request: only tells when the client goes away.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.buffered.is_empty() {
            return Poll::Pending;
        }
        let io = self.io.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        io.poll_closed(cx, &mut self.buffered)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let io = self.io.as_mut().map(Pin::new).ok_or(io::ErrorKind::NotConnected)?;
            match ready!(io.poll_write(cx, &self.output))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.output.advance(written),
            }
        }
        if self.output.capacity() > 0 {
            self.output = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Whether what Pingora writes must not reach the client: it refuses a head that was not admitted in its own words.
    fn swallows(&self) -> bool {
        !self.http2 && !self.connection.is_admitted()
    }

    fn check(&self) -> io::Result<()> {
        if !self.http2 && self.connection.deadline.is_expired() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

/// What sessions are told of a connection; the same for all of its requests.
#[derive(Clone)]
pub(crate) struct Digests(Arc<ProxyDigest>, Arc<SocketDigest>);

impl Drop for EdgeStream {
    fn drop(&mut self) {
        if self.http2 {
            return;
        }
        if let Some(io) = self.io.take() {
            let buffered = std::mem::take(&mut self.buffered);
            self.connection.park(Parked { io, buffered, input: self.input });
        }
    }
}
