//! What comes first on a client's connection, and what is left of it at the end.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, timeout};

use super::downstream::Downstream;
use crate::Limits;
use crate::chunked::{BadChunk, ChunkedScan};
use crate::exchange::Client;
use crate::exchange::Timer;
use crate::exchange::with_scratch;
use crate::local_reply::LocalReply;
use crate::message::RequestHead;
use crate::request_head::{FramedHead, Framing, HeadScan};
use crate::telemetry::ParseError;

/// RFC 9113 section 3.4.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How much of an unread request is thrown away, and how long, so that the answer is not lost to a TCP reset.
const LINGER_BYTES: usize = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(1);
/// How much is read at once of a head that did not come in one piece.
const MORE: usize = 8 * 1024;

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
    /// A request head, which is the front of the input.
    Request(FramedHead),
    /// HTTP/2's preface.
    Http2,
    /// No request, and none will come.
    End,
    /// No request that may be served.
    Refused(LocalReply),
}

impl Downstream {
    /// Reads what there is and adds it to the input; 0 at the end.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        with_scratch(|room| {
            let mut out = ReadBuf::new(&mut room[..MORE]);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut out))?;
            self.input.extend_from_slice(out.filled());
            Poll::Ready(Ok(out.filled().len()))
        })
    }

    /// Reads a request head into `request`, within `limits.header_timeout` of its first byte, which has come.
    pub(crate) async fn read_head(
        &mut self,
        limits: &Limits,
        expected: Expected,
        timer: &mut Timer,
        request: &mut RequestHead,
    ) -> Incoming {
        let mut scan = HeadScan::default();
        let mut found = None;
        let mut late = None;
        loop {
            match self.look(limits, expected, &mut scan, &mut found, request) {
                Ok(Some(incoming)) => return incoming,
                Ok(None) => {}
                Err(reply) => return Incoming::Refused(reply),
            }
            // Most heads come in one piece, and no time is asked for them.
            let late = *late.get_or_insert_with(|| Instant::now() + limits.header_timeout);
            let more = poll_fn(|cx| match self.poll_fill(cx) {
                Poll::Ready(read) => Poll::Ready(Some(read)),
                Poll::Pending => timer.poll_until(cx, late).map(|()| None),
            });
            match more.await {
                Some(Ok(0) | Err(_)) => return Incoming::End,
                Some(Ok(_)) => {}
                None if self.input.is_empty() => return Incoming::End,
                None => return Incoming::Refused(LocalReply::HEADER_TIMEOUT),
            }
        }
    }

    /// What the input is, if that can be told already.
    fn look(
        &mut self,
        limits: &Limits,
        expected: Expected,
        scan: &mut HeadScan,
        found: &mut Option<FramedHead>,
        request: &mut RequestHead,
    ) -> Result<Option<Incoming>, LocalReply> {
        if expected != Expected::Http1
            && !self.input.is_empty()
            && self.input.starts_with(&PREFACE[..PREFACE.len().min(self.input.len())])
        {
            let whole = self.input.len() >= PREFACE.len();
            if self.input.len() > PREFACE.len() {
                self.connection.hear();
            }
            return Ok(whole.then_some(Incoming::Http2));
        }
        if expected == Expected::Http2 {
            // What ALPN promised has not come, and there is no protocol to say so in.
            self.connection.listener.metrics.parse_error(ParseError::Malformed);
            return Ok(Some(Incoming::End));
        }
        // RFC 9112 section 2.2: an empty line before the request is ignored; more than one is no accident.
        if self.input.starts_with(b"\r") {
            match self.input.get(1) {
                Some(b'\n') if !self.input[2..].starts_with(b"\r") => self.input.advance(2),
                Some(_) => return Err(LocalReply::BAD_REQUEST),
                None => {}
            }
            if self.input.len() < 2 {
                return Ok(None);
            }
        }
        if found.is_none() {
            *found = scan.advance(&self.input, limits, request)?;
        }
        let Some(head) = *found else { return Ok(None) };
        match self.judge_body(head) {
            Ok(enough) => Ok(enough.then_some(Incoming::Request(head))),
            Err(BadChunk) => Err(LocalReply::BAD_REQUEST),
        }
    }

    /// Judges what came of a chunked body together with its head, so that a backend hears nothing of a request that is
    /// malformed from the start; false if its first line has begun and not ended. What has not come is not waited for:
    /// the client may wait for us.
    fn judge_body(&self, head: FramedHead) -> Result<bool, BadChunk> {
        if head.framing != Framing::Chunked {
            return Ok(true);
        }
        let mut scan = ChunkedScan::default();
        scan.advance(&self.input[head.length..])?;
        Ok(!scan.is_inside_first_line())
    }

    /// Sends `reply` to a client whose request could not be read, and closes.
    pub(crate) async fn refuse(mut self, reply: &LocalReply) {
        let text = reply.raw();
        let sent = timeout(LINGER_TIME, async {
            self.io.write_all(text.as_bytes()).await?;
            self.io.flush().await
        });
        if matches!(sent.await, Ok(Ok(()))) {
            self.linger().await;
        }
    }

    /// Reads the rest of a request's body if it comes soon and is short; whether that is so.
    pub(crate) async fn skip_body(&mut self) -> bool {
        let mut left = LINGER_BYTES;
        let skip = poll_fn(|cx| {
            while !self.body_is_over() {
                match ready!(with_scratch(|room| self.poll_body(cx, room))) {
                    Ok(part) => left = left.saturating_sub(part.length),
                    Err(_) => return Poll::Ready(false),
                }
                if left == 0 {
                    return Poll::Ready(false);
                }
            }
            Poll::Ready(true)
        });
        timeout(LINGER_TIME, skip).await.unwrap_or(false)
    }

    /// Closes so that the answer before it arrives: a socket that is closed with unread bytes is reset, which can
    /// overtake what was sent.
    pub(crate) async fn linger(mut self) {
        let drain = async {
            self.io.shutdown().await?;
            let mut left = LINGER_BYTES;
            poll_fn(|cx| {
                while left > 0 {
                    let read = ready!(with_scratch(|room| {
                        let mut out = ReadBuf::new(room);
                        ready!(Pin::new(&mut self.io).poll_read(cx, &mut out))?;
                        Poll::Ready(io::Result::Ok(out.filled().len()))
                    }))?;
                    left = if read == 0 { 0 } else { left.saturating_sub(read) };
                }
                Poll::Ready(io::Result::Ok(()))
            })
            .await
        };
        // Whether it worked changes nothing: the connection is over.
        let _ = timeout(LINGER_TIME, drain).await;
    }

    /// Whether part of what the client sent is still unread.
    pub(crate) fn has_unread_input(&self) -> bool {
        !self.body_is_over() || !self.input.is_empty()
    }
}
