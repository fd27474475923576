//! One request on one connection to a backend: what is left of it goes there, and the answer comes back.

use std::io::{self, IoSlice, Write};
use std::task::{Context, Poll};

use super::answer;
use super::client::{Client, ClientError, Encoding};
use super::http1_upstream::Upstream;
use super::patience::Patience;
use super::response_head::{self, Framing, Malformed};
use super::timer::Timer;
use crate::chunked::ChunkedScan;
use crate::edge;
use crate::local_reply::{ResetReason, may_have_body};
use crate::message::Known;
use crate::request_context::RequestContext;
use crate::telemetry::append_number;

/// A request's body up to this size can be sent again.
const REPLAYED: usize = 64 * 1024;

/// Why a request was not answered by a backend, or not wholly.
#[derive(Debug)]
pub(super) enum RelayError {
    Client(ClientError),
    Upstream(UpstreamError),
    /// The answer says that another try may be made.
    AskedAgain,
    /// The request's time is over.
    Expired,
    /// Nothing has moved for too long.
    Stalled,
}

#[derive(Debug)]
pub(super) enum UpstreamError {
    /// The connection ended or broke.
    Broken(Option<io::Error>),
    Malformed,
    /// The backend has reset the stream.
    Reset,
    /// The backend has not looked at the request, and says so: by a reset, or by leaving.
    Refused(ResetReason),
}

impl From<ClientError> for RelayError {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<Malformed> for RelayError {
    fn from(_: Malformed) -> Self {
        Self::Upstream(UpstreamError::Malformed)
    }
}

/// What of a request has passed, over all tries.
#[derive(Default)]
pub(super) struct Transfer {
    /// Bytes of the request's body.
    pub(super) received: u64,
    /// Bytes of the answer's body.
    pub(super) sent: u64,
    /// The body so far, as it was sent, while it can be sent again.
    replay: Vec<u8>,
    /// The body has outgrown what is kept of it.
    truncated: bool,
    /// The head of the final answer was passed on.
    pub(super) started: bool,
    /// It said that no other request is served on the client's connection.
    pub(super) closes: bool,
}

impl Transfer {
    /// Whether the request can be sent again from its beginning.
    pub(super) fn can_resend(&self) -> bool {
        !self.truncated && !self.started
    }

    /// The body so far, to be sent again.
    pub(super) fn replay(&self) -> &[u8] {
        &self.replay
    }

    /// Keeps what was sent of the body, while it is short.
    pub(super) fn keep(&mut self, parts: &[&[u8]]) {
        if self.truncated {
            return;
        }
        if self.replay.len() + parts.iter().map(|part| part.len()).sum::<usize>() > REPLAYED {
            self.truncated = true;
            self.replay = Vec::new();
            return;
        }
        parts.iter().for_each(|part| self.replay.extend_from_slice(part));
    }
}

/// What is read at least while the head of the answer is to come, and so what may wait of its body behind it.
pub(super) const BESIDE_HEAD: usize = 16 * 1024;
/// What is read at least of a body that there is some room for.
pub(super) const LEAST: usize = 1024;

/// Where in the answer the backend is.
enum Answer {
    /// What has come of a head that is not complete.
    Head(Vec<u8>),
    Length(u64),
    Chunked(ChunkedScan),
    /// Until the connection ends.
    Close,
    Done,
}

/// How an exchange ended that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Relayed {
    /// The connection may be used again.
    Reusable,
    Spent,
    /// Both sides have agreed on a tunnel.
    Tunnel,
}

pub(super) struct Relay<'a, C> {
    pub(super) down: &'a mut C,
    pub(super) up: &'a mut Upstream,
    pub(super) context: &'a mut RequestContext,
    pub(super) transfer: &'a mut Transfer,
    pub(super) timer: &'a mut Timer,
    /// What the backend's socket has not taken.
    output: Vec<u8>,
    written: usize,
    unflushed: bool,
    /// The backend takes no more. It may have answered all the same.
    broken: Option<io::Error>,
    answer: Answer,
    /// The connection may be used again.
    keeps: bool,
    /// 101 was sent: what follows is no HTTP.
    tunnels: bool,
    /// Bytes of the answer have come.
    pub(super) heard: bool,
    patience: Patience,
}

impl<'a, C: Client> Relay<'a, C> {
    pub(super) fn new(
        down: &'a mut C,
        up: &'a mut Upstream,
        context: &'a mut RequestContext,
        transfer: &'a mut Transfer,
        timer: &'a mut Timer,
        stall: std::time::Duration,
    ) -> Self {
        let mut output = Vec::new();
        write_head(down, context, &mut output);
        output.extend_from_slice(&transfer.replay);
        let patience = Patience::new(context.upstream_start.unwrap_or(context.started), stall);
        Self {
            down,
            up,
            context,
            transfer,
            timer,
            output,
            written: 0,
            unflushed: false,
            broken: None,
            answer: Answer::Head(Vec::new()),
            keeps: false,
            tunnels: false,
            heard: false,
            patience,
        }
    }

    /// Relays until the answer has passed, and tells what the backend's connection is good for then.
    ///
    /// # Errors
    /// The exchange failed; what was passed on is in the transfer and the context.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<Result<Relayed, RelayError>> {
        loop {
            let mut moved = self.send(cx)?;
            moved |= self.pass_body(cx, room)?;
            moved |= self.pass_answer(cx, room)?;
            if let Answer::Done = self.answer
                && self.down.is_drained()
            {
                let sent_all = self.written == self.output.len() && !self.unflushed && self.broken.is_none();
                return Poll::Ready(Ok(match self.keeps && sent_all && self.down.body_is_over() {
                    _ if self.tunnels => Relayed::Tunnel,
                    true => Relayed::Reusable,
                    false => Relayed::Spent,
                }));
            }
            if !moved {
                break;
            }
            self.patience.renew();
        }
        if self.down.body_is_over() && self.down.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(ClientError::Gone.into()));
        }
        self.patience.poll(cx, self.timer, self.down, self.context.expires).map(Err)
    }

    /// Sends what waits for the backend.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<bool, RelayError> {
        let mut moved = false;
        while self.written < self.output.len() && self.broken.is_none() {
            match self.up.poll_write(cx, &[IoSlice::new(&self.output[self.written..])]) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Ok(0)) => self.broken = Some(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => {
                    self.written += written;
                    self.unflushed = true;
                    moved = true;
                }
                Poll::Ready(Err(error)) => self.broken = Some(error),
            }
        }
        if self.unflushed && self.broken.is_none() {
            match self.up.poll_flush(cx) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => self.broken = Some(error),
            }
        }
        if self.written > 0 && self.written == self.output.len() {
            self.output.clear();
            self.written = 0;
        }
        Ok(moved)
    }

    /// Passes a part of the request's body on, once the one before has left.
    fn pass_body(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Result<bool, RelayError> {
        if !self.output.is_empty() || self.unflushed || self.broken.is_some() || self.down.body_is_over() {
            return Ok(false);
        }
        let chunked = self.down.body_length().is_none();
        let Poll::Ready(part) = self.down.poll_body(cx, room) else { return Ok(false) };
        let part = part?;
        self.transfer.received += part.length as u64;
        if part.end {
            self.context.request_is_over();
        }
        let data = &room[..part.length];
        let mut size_line = [0; 20];
        let mut rest = &mut size_line[..];
        let suffix: &[u8] = match (chunked, part.length, part.end) {
            (false, ..) => b"",
            (true, 0, _) => b"0\r\n\r\n",
            (true, length, end) => {
                // 16 digits and a line end fit.
                _ = write!(rest, "{length:x}\r\n");
                if end { b"\r\n0\r\n\r\n" } else { b"\r\n" }
            }
        };
        let left = rest.len();
        let parts = [&size_line[..20 - left], data, suffix];
        self.transfer.keep(&parts);
        let mut written = match self.up.poll_write(cx, &parts.map(IoSlice::new)) {
            Poll::Pending => 0,
            Poll::Ready(Ok(written)) => written,
            Poll::Ready(Err(error)) => {
                self.broken = Some(error);
                return Ok(true);
            }
        };
        self.unflushed = true;
        for part in parts {
            let skipped = written.min(part.len());
            written -= skipped;
            self.output.extend_from_slice(&part[skipped..]);
        }
        Ok(true)
    }

    /// Passes a part of the answer on, once the client has taken the one before.
    fn pass_answer(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Result<bool, RelayError> {
        if !self.down.is_drained() {
            return match self.down.poll_drained(cx) {
                Poll::Ready(Ok(())) => Ok(true),
                Poll::Ready(Err(_)) => Err(ClientError::Gone.into()),
                Poll::Pending => Ok(false),
            };
        }
        if let Answer::Done = self.answer {
            return Ok(false);
        }
        // What the client has no room for stays where it is, but for a little, so that nobody sends byte by byte.
        let most = match (self.down.poll_room(cx), &self.answer) {
            (Poll::Ready(most), Answer::Head(_)) => most.max(BESIDE_HEAD),
            (Poll::Ready(most), _) => most.max(LEAST),
            (Poll::Pending, Answer::Head(_)) => BESIDE_HEAD,
            (Poll::Pending, _) => return Ok(false),
        };
        let most = most.min(room.len());
        let room = &mut room[..most];
        let read = match self.up.poll_read(cx, room) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(error)) => return Err(self.broke(Some(error))),
        };
        if read == 0 {
            if let Answer::Close = self.answer {
                self.answer = Answer::Done;
                self.down.send(cx, b"", true).map_err(|_| ClientError::Gone)?;
                return Ok(true);
            }
            return Err(self.broke(None));
        }
        self.heard = true;
        let body = match &mut self.answer {
            Answer::Head(before) if before.is_empty() => {
                let Some(framed) = response_head::read(&room[..read], &mut self.context.response)? else {
                    before.extend_from_slice(&room[..read]);
                    return Ok(true);
                };
                self.take_head(framed)?;
                framed.length
            }
            Answer::Head(before) => {
                before.extend_from_slice(&room[..read]);
                let Some(framed) = response_head::read(before, &mut self.context.response)? else { return Ok(true) };
                let rest = before.split_off(framed.length);
                self.take_head(framed)?;
                self.up.put_back(&rest);
                read
            }
            _ => 0,
        };
        if let Answer::Head(_) = self.answer {
            // An interim answer, which has no body.
            self.up.put_back(&room[body..read]);
            return Ok(true);
        }
        if self.tunnels {
            self.up.put_back(&room[body..read]);
            self.down.send(cx, b"", true).map_err(|_| ClientError::Gone)?;
            return Ok(true);
        }
        self.take_body(cx, &mut room[body..read])?;
        Ok(true)
    }

    fn broke(&mut self, error: Option<io::Error>) -> RelayError {
        let is_between = match &self.answer {
            Answer::Head(before) => before.is_empty(),
            Answer::Length(_) | Answer::Chunked(_) | Answer::Close | Answer::Done => false,
        };
        // As Envoy: an answer that breaks off breaks the protocol, and no answer is a connection that has ended.
        RelayError::Upstream(match is_between {
            true => UpstreamError::Broken(self.broken.take().or(error)),
            false => UpstreamError::Malformed,
        })
    }

    fn take_head(&mut self, framed: response_head::FramedResponse) -> Result<(), RelayError> {
        if self.context.response.is_interim() {
            self.answer = Answer::Head(Vec::new());
            return answer::pass_interim(self.down, self.context);
        }
        answer::judge(self.context, self.transfer)?;
        self.tunnels = self.context.response.status == 101;
        let has_body = may_have_body(self.context.response.status) && !self.context.request.is_head();
        let encoding = match framed.framing {
            _ if self.context.request.is_head() => Encoding::Head,
            _ if !has_body => Encoding::Nothing,
            Framing::Length(0) => Encoding::Nothing,
            Framing::Length(_) => Encoding::Length,
            Framing::Chunked | Framing::Close => Encoding::Open,
        };
        self.keeps = framed.keeps && !(has_body && framed.framing == Framing::Close);
        self.answer = match framed.framing {
            _ if !has_body => Answer::Done,
            Framing::Length(0) => Answer::Done,
            Framing::Length(length) => Answer::Length(length),
            Framing::Chunked => Answer::Chunked(ChunkedScan::default()),
            Framing::Close => Answer::Close,
        };
        answer::begin(self.down, self.context, self.transfer, encoding);
        Ok(())
    }

    fn take_body(&mut self, cx: &mut Context<'_>, bytes: &mut [u8]) -> Result<(), RelayError> {
        let (taken, data, end) = match &mut self.answer {
            Answer::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                (taken, taken, *left == 0)
            }
            Answer::Chunked(scan) => {
                let Ok((taken, data)) = scan.decode(bytes) else {
                    // The head counts as passed on, so it leaves: all else that can be done is to cut the answer off.
                    self.down.send(cx, b"", false).map_err(|_| ClientError::Gone)?;
                    return Err(Malformed.into());
                };
                (taken, data, scan.is_done())
            }
            Answer::Close => (bytes.len(), bytes.len(), false),
            Answer::Done | Answer::Head(_) => (0, 0, true),
        };
        if end {
            // What comes behind an answer's end belongs to nobody.
            self.keeps &= taken == bytes.len();
            self.answer = Answer::Done;
        }
        self.transfer.sent += data as u64;
        self.down.send(cx, &bytes[..data], end).map_err(|_| ClientError::Gone.into())
    }
}

/// Appends the head as this backend gets it.
fn write_head(down: &impl Client, context: &mut RequestContext, output: &mut Vec<u8>) {
    let fields = &mut context.request.fields;
    if !down.body_is_over() && down.body_length().is_none() {
        fields.set_known(Known::TransferEncoding, b"chunked");
    } else if means_a_body(&context.request.method)
        && !fields.contains(Known::ContentLength)
        && !fields.contains(Known::TransferEncoding)
    {
        // RFC 9110 section 8.6: some servers answer 411 to a POST that says nothing of its body.
        fields.set_known(Known::ContentLength, b"0");
    }
    if fields.contains(Known::Te) {
        match edge::accepts_trailers(fields.all(Known::Te)) {
            true => fields.set_known(Known::Te, b"trailers"),
            false => fields.remove_known(Known::Te),
        }
    }
    let attempts = context.attempts;
    fields.set_with(Known::AttemptCount, |text| append_number(attempts.into(), text));
    context.request.write_http1(output);
}

/// Whether a request of this method says what it has of a body even if that is nothing (Envoy's
/// `requestShouldHaveNoBody`, the other way round).
fn means_a_body(method: &str) -> bool {
    !matches!(method, "GET" | "HEAD" | "DELETE" | "TRACE" | "CONNECT")
}
