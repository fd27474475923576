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
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use pingora_core::protocols::SocketDigest;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_http::ResponseHeader;
use tokio::io::AsyncWrite;

use crate::chunked::ChunkedScan;
use crate::connection::Connection;
use crate::request_head::{FramedHead, Framing};

/// Writes are gathered up to this many bytes.
const WRITE_BUFFER: usize = 8 * 1024;

/// What the bytes that come next are.
#[derive(Clone, Copy, Debug)]
enum Input {
    /// The body of a request; nothing is left of it at 0.
    Length(u64),
    Chunked(ChunkedScan),
    /// No HTTP/1 any more: a tunnel.
    Opaque,
}

/// A client's socket after a request, with what was read of the next.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) client: ClientStream,
    /// Part of the request is still unread.
    pub(crate) is_unread: bool,
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
}

impl fmt::Debug for EdgeStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EdgeStream({})", self.connection.peer)
    }
}

impl EdgeStream {
    /// A stream for HTTP/1, on which `head` was read and what follows is its body.
    pub(crate) fn http1(client: ClientStream, head: FramedHead, digests: Digests, connection: Arc<Connection>) -> Self {
        let input = match head.framing {
            Framing::Length(length) => Input::Length(length),
            Framing::Chunked => Input::Chunked(ChunkedScan::default()),
        };
        let mut stream = Self::new(client, input, digests, connection);
        stream.answers = true;
        stream
    }

    fn new(client: ClientStream, input: Input, digests: Digests, connection: Arc<Connection>) -> Self {
        Self {
            io: Some(client.io),
            buffered: client.read,
            input,
            output: BytesMut::new(),
            answers: false,
            connection,
            digest: digests.0,
            socket: digests.1,
        }
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
        !self.connection.is_admitted()
    }

    fn check(&self) -> io::Result<()> {
        if self.connection.deadline.is_expired() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

/// What sessions are told of a connection; the same for all of its requests.
#[derive(Clone)]
pub(crate) struct Digests(Arc<ProxyDigest>, Arc<SocketDigest>);

impl Digests {
    /// Those that were `made` already, or new ones; none if Pingora refuses them, which it has no reason to.
    pub(crate) fn of(made: &mut Option<Self>, io: &Io, connection: &Arc<Connection>) -> Option<Self> {
        if made.is_none() {
            match Self::new(io, connection) {
                Ok(fresh) => *made = Some(fresh),
                Err(error) => tracing::error!(%error, "cannot set up a connection"),
            }
        }
        made.clone()
    }

    fn new(io: &Io, connection: &Arc<Connection>) -> pingora_error::Result<Self> {
        let socket = SocketDigest::from_raw_fd(io.as_raw_fd());
        // A digest that was just made is empty.
        let _ = socket.peer_addr.set(Some(connection.peer.into()));
        let _ = socket.local_addr.set(Some(connection.local.into()));
        let carrier = Box::new(ResponseHeader::build(200, Some(0))?);
        let digest = ProxyDigest::new(carrier, Some(Box::new(connection.clone())));
        Ok(Self(Arc::new(digest), Arc::new(socket)))
    }
}

impl Drop for EdgeStream {
    fn drop(&mut self) {
        if let Some(io) = self.io.take() {
            let buffered = std::mem::take(&mut self.buffered);
            let is_unread = match self.input {
                Input::Length(left) => left > 0,
                Input::Chunked(scan) => !scan.is_done(),
                Input::Opaque => false,
            };
            self.connection.park(Parked { client: ClientStream { read: buffered, io }, is_unread });
        }
    }
}
