//! A client's connection as HTTP/1.1 uses it: heads come in, bodies pass, answers leave.

use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::chunked::ChunkedScan;
use crate::client_stream::{ClientStream, Io};
use crate::connection::Connection;
use crate::exchange::{Client, ClientError, Departure, Encoding, Part};
use crate::local_reply::may_have_body;
use crate::message::{Fields, Known, ResponseHead};
use crate::request_head::{FramedHead, Framing};

/// What of a request's body has not been read.
#[derive(Clone, Copy, Debug)]
enum Body {
    Length(u64),
    Chunked(ChunkedScan),
}

/// A client's connection between its bytes and its requests.
pub(crate) struct Downstream {
    pub(crate) io: Io,
    /// What was read ahead.
    pub(crate) input: BytesMut,
    pub(crate) connection: Arc<Connection>,
    body: Body,
    encoding: Encoding,
    /// What the socket has not taken.
    output: Vec<u8>,
    written: usize,
    /// TLS may hold bytes that the socket has not taken.
    unflushed: bool,
}

impl Downstream {
    pub(crate) fn new(client: ClientStream, connection: Arc<Connection>) -> Self {
        Self {
            io: client.io,
            input: client.read,
            connection,
            body: Body::Length(0),
            encoding: Encoding::Nothing,
            output: Vec::new(),
            written: 0,
            unflushed: false,
        }
    }

    /// Takes the head at the front of the input away; its body follows.
    pub(crate) fn begin(&mut self, head: FramedHead) {
        self.body = match head.framing {
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::Chunked(ChunkedScan::default()),
        };
        if self.input.len() == head.length {
            // An idle connection holds no buffer.
            self.input = BytesMut::new();
        } else {
            self.input.advance(head.length);
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Io::Tls(_) = self.io {
            self.unflushed = true;
        }
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    /// Gives back what only a request under way needs.
    pub(crate) fn rest(&mut self) {
        self.output = Vec::new();
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }
}

impl Client for Downstream {
    fn body_is_over(&self) -> bool {
        match self.body {
            Body::Length(left) => left == 0,
            Body::Chunked(scan) => scan.is_done(),
        }
    }

    fn body_length(&self) -> Option<u64> {
        match self.body {
            Body::Length(left) => Some(left),
            Body::Chunked(_) => None,
        }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<Result<Part, ClientError>> {
        loop {
            let room = match self.body {
                Body::Length(left) => {
                    let most = usize::try_from(left).unwrap_or(usize::MAX).min(room.len());
                    &mut room[..most]
                }
                Body::Chunked(_) => &mut *room,
            };
            let read = if self.input.is_empty() {
                let mut out = ReadBuf::new(room);
                ready!(Pin::new(&mut self.io).poll_read(cx, &mut out))?;
                out.filled().len()
            } else {
                let length = self.input.len().min(room.len());
                room[..length].copy_from_slice(&self.input[..length]);
                self.input.advance(length);
                length
            };
            if read == 0 {
                return Poll::Ready(Err(ClientError::Gone));
            }
            let length = match &mut self.body {
                Body::Length(left) => {
                    *left -= read as u64;
                    read
                }
                Body::Chunked(scan) => {
                    let (taken, length) = scan.decode(&mut room[..read]).map_err(|_| ClientError::Malformed)?;
                    if taken < read {
                        // The next request. It stands before what is in the input still.
                        let rest = std::mem::take(&mut self.input);
                        self.input.extend_from_slice(&room[taken..read]);
                        self.input.unsplit(rest);
                    }
                    length
                }
            };
            let end = self.body_is_over();
            if length > 0 || end {
                return Poll::Ready(Ok(Part { length, end }));
            }
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < READ_AHEAD {
            let mut room = [const { MaybeUninit::<u8>::uninit() }; 1024];
            let mut out = ReadBuf::uninit(&mut room);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut out)) {
                Ok(()) if out.filled().is_empty() => return Poll::Ready(()),
                Ok(()) => self.input.extend_from_slice(out.filled()),
                Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    fn departure(&self) -> Departure {
        Departure::Disconnected
    }

    fn is_drained(&self) -> bool {
        self.output.is_empty() && !self.unflushed
    }

    fn send_head(&mut self, head: &ResponseHead, encoding: Encoding, closes: bool) {
        self.encoding = encoding;
        head.write_http1(&mut self.output);
        // The framing stands before the empty line.
        self.output.truncate(self.output.len() - 2);
        let is_silent = may_have_body(head.status) && !head.fields.contains(Known::ContentLength);
        match encoding {
            Encoding::Nothing if is_silent => self.output.extend_from_slice(b"content-length: 0\r\n"),
            // What GET would be answered with (RFC 9110 section 9.3.2).
            Encoding::Head if is_silent => self.output.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Encoding::Open => self.output.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Encoding::Nothing | Encoding::Head | Encoding::Length => {}
        }
        if closes {
            self.output.extend_from_slice(b"connection: close\r\n");
        }
        self.output.extend_from_slice(b"\r\n");
    }

    fn send_interim(&mut self, head: &ResponseHead) {
        head.write_http1(&mut self.output);
    }

    fn send(&mut self, cx: &mut Context<'_>, data: &[u8], end: bool) -> io::Result<()> {
        let mut size_line = [0; 20];
        let (prefix, suffix): (&[u8], &[u8]) = match (self.encoding, data.is_empty(), end) {
            (Encoding::Nothing | Encoding::Head | Encoding::Length, ..) | (_, true, false) => (b"", b""),
            (Encoding::Open, true, true) => (b"", b"0\r\n\r\n"),
            (Encoding::Open, false, end) => {
                let mut rest = &mut size_line[..];
                // 16 digits and a line end fit.
                _ = write!(rest, "{:x}\r\n", data.len());
                let left = rest.len();
                (&size_line[..20 - left], if end { b"\r\n0\r\n\r\n" } else { b"\r\n" })
            }
        };
        let small = self.output.len() + data.len() <= COPIED;
        if small {
            self.output.extend_from_slice(prefix);
            self.output.extend_from_slice(data);
            self.output.extend_from_slice(suffix);
            return match self.poll_drained(cx) {
                Poll::Ready(Err(error)) => Err(error),
                _ => Ok(()),
            };
        }
        let head = std::mem::take(&mut self.output);
        let parts = [&head[self.written..], prefix, data, suffix];
        self.written = 0;
        let mut sent = match self.poll_write(cx, &parts.map(IoSlice::new)) {
            Poll::Ready(sent) => sent?,
            Poll::Pending => 0,
        };
        for part in parts {
            let skipped = sent.min(part.len());
            sent -= skipped;
            self.output.extend_from_slice(&part[skipped..]);
        }
        match self.poll_drained(cx) {
            Poll::Ready(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn poll_room(&mut self, _cx: &mut Context<'_>) -> Poll<usize> {
        Poll::Ready(usize::MAX)
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.output.len() {
            if let Io::Tls(_) = self.io {
                self.unflushed = true;
            }
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.output[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.written += sent,
            }
        }
        self.written = 0;
        if self.output.capacity() > KEPT {
            self.output = Vec::new();
        } else {
            self.output.clear();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn send_trailers(&mut self, cx: &mut Context<'_>, _trailers: &Fields) -> io::Result<()> {
        // As Envoy without `enable_trailers`.
        self.send(cx, b"", true)
    }

    fn tick(&self) -> Option<u64> {
        None
    }

    fn is_leaving(&self) -> bool {
        self.connection.is_leaving()
    }
}

/// A head and a body that are no longer than this together are copied into one piece rather than written from two.
const COPIED: usize = 4096;
/// How much of what follows is read while it is watched whether the client is still there.
const READ_AHEAD: usize = 8 * 1024;
/// An output buffer up to this size is used again for the next part.
const KEPT: usize = 16 * 1024;
