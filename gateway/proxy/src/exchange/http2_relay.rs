//! One request on a stream of an HTTP/2 connection to a backend: it goes there, and the answer comes back.

use std::io::Write;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::Response;

use super::answer;
use super::client::{Client, ClientError, Encoding};
use super::http1_relay::{BESIDE_HEAD, LEAST, RelayError, Transfer, UpstreamError};
use super::http2_message;
use super::http2_upstream::Lease;
use super::patience::Patience;
use super::response_head::Malformed;
use super::timer::Timer;
use crate::local_reply::{self, ResetReason, may_have_body};
use crate::message::{Fields, Known, Protocol};
use crate::request_context::RequestContext;
use crate::request_head::decimal;
use crate::telemetry::GrpcStatus;

/// Where in the answer the backend is.
enum Answer {
    Head(ResponseFuture),
    Body(Body),
    Done,
}

struct Body {
    stream: RecvStream,
    /// Data that came with what was sent last and found no room beside it.
    next: Bytes,
    /// Bytes that the client has not been known to have taken: flow control waits for these.
    unreleased: usize,
    /// All data have come; trailers may follow.
    is_over: bool,
}

pub(super) struct Http2Relay<'a, C> {
    down: &'a mut C,
    context: &'a mut RequestContext,
    transfer: &'a mut Transfer,
    timer: &'a mut Timer,
    lease: &'a Lease,
    /// How often something had come on the connection when the request was sent.
    reads: u64,
    request: SendStream<Bytes>,
    /// The backend takes no more. It may have answered all the same.
    is_broken: bool,
    answer: Answer,
    /// The head of the answer has come.
    pub(super) heard: bool,
    patience: Patience,
}

impl<'a, C: Client> Http2Relay<'a, C> {
    /// Sends the head of the request, and what is known of its body from an earlier try.
    ///
    /// # Errors
    /// The connection has ended, or HTTP/2 cannot express the request.
    pub(super) fn begin(
        down: &'a mut C,
        lease: &'a Lease,
        context: &'a mut RequestContext,
        transfer: &'a mut Transfer,
        timer: &'a mut Timer,
        stall: std::time::Duration,
    ) -> Result<Self, RelayError> {
        let attempts = context.attempts;
        // Writing to memory does not fail.
        context.request.fields.set_with(Known::AttemptCount, |text| _ = write!(text, "{attempts}"));
        let is_secure = context.cluster.as_ref().is_some_and(|cluster| cluster.tls().is_some());
        let head = http2_message::request(&context.request, is_secure).map_err(|_| ClientError::Malformed)?;
        let is_over = down.body_is_over();
        let body = transfer.replay();
        let (answer, mut request) = lease.send(head, is_over && body.is_empty()).map_err(|error| of(error, false))?;
        if !body.is_empty() {
            request.send_data(Bytes::copy_from_slice(body), is_over).map_err(|error| of(error, false))?;
        }
        let patience = Patience::new(context.upstream_start.unwrap_or(context.started), stall);
        let (reads, answer) = (lease.reads(), Answer::Head(answer));
        Ok(Self {
            down,
            context,
            transfer,
            timer,
            lease,
            reads,
            request,
            is_broken: false,
            answer,
            heard: false,
            patience,
        })
    }

    /// Relays until the answer has passed.
    ///
    /// # Errors
    /// The exchange failed; what was passed on is in the transfer and the context.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<Result<(), RelayError>> {
        loop {
            let mut moved = self.pass_body(cx, room)?;
            moved |= self.pass_answer(cx, room)?;
            if let Answer::Done = self.answer
                && self.down.is_drained()
            {
                return Poll::Ready(Ok(()));
            }
            if !moved {
                break;
            }
            self.patience.renew();
        }
        if self.down.body_is_over() && self.down.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(ClientError::Gone.into()));
        }
        let over = self.patience.poll(cx, self.timer, self.down, self.context.expires);
        if over.is_ready() && self.down.is_drained() && self.down.body_is_over() {
            // All has waited for the backend.
            self.lease.suspect(self.reads);
        }
        over.map(Err)
    }

    /// Passes a part of the request's body on, once there is room for more than the one before.
    fn pass_body(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Result<bool, RelayError> {
        if self.is_broken || self.down.body_is_over() {
            return Ok(false);
        }
        if self.request.capacity() == 0 {
            // One byte more than what waits: what is reserved for a client that sends nothing, others cannot have.
            self.request.reserve_capacity(1);
            while self.request.capacity() == 0 {
                match self.request.poll_capacity(cx) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(Some(Err(_)) | None) => {
                        self.is_broken = true;
                        return Ok(false);
                    }
                }
            }
        }
        let Poll::Ready(part) = self.down.poll_body(cx, room) else { return Ok(false) };
        let part = part?;
        self.transfer.received += part.length as u64;
        if part.end {
            self.context.request_is_over();
        }
        let data = &room[..part.length];
        self.transfer.keep(&[data]);
        self.is_broken = self.request.send_data(Bytes::copy_from_slice(data), part.end).is_err();
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
        match &mut self.answer {
            Answer::Done => Ok(false),
            Answer::Head(response) => match poll_head(response, cx) {
                Poll::Pending => Ok(false),
                Poll::Ready(head) => {
                    self.take_head(cx, head.map_err(|error| of(error, false))?, room)?;
                    Ok(true)
                }
            },
            Answer::Body(body) => {
                let Poll::Ready(most) = self.down.poll_room(cx) else { return Ok(false) };
                let most = most.max(LEAST).min(room.len());
                let room = &mut room[..most];
                body.release();
                let step = match body.poll_next(cx, room) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(step) => step.map_err(|error| of(error, true))?,
                };
                self.take_body(cx, step, room)?;
                Ok(true)
            }
        }
    }

    fn take_head(&mut self, cx: &mut Context<'_>, head: Head, room: &mut [u8]) -> Result<(), RelayError> {
        let context = &mut *self.context;
        let (stream, head) = match head {
            Head::Interim(head) => (None, head.into_parts().0),
            Head::Final(head) => {
                let (head, stream) = head.into_parts();
                (Some(stream), head)
            }
        };
        http2_message::read(&head.headers, &mut context.response.fields, room)?;
        context.response.status = head.status.as_u16();
        let Some(stream) = stream else {
            if !context.response.is_interim() {
                return Err(Malformed.into());
            }
            return answer::pass_interim(self.down, context);
        };
        self.heard = true;
        let length = content_length(&context.response.fields)?;
        answer::judge(context, self.transfer)?;
        let has_body = may_have_body(context.response.status) && !context.request.is_head();
        let ends = stream.is_end_stream();
        if has_body && ends && length.is_some_and(|length| length > 0) {
            return Err(Malformed.into());
        }
        if has_body && ends && length.is_none() && context.request.protocol == Protocol::Http11 {
            // Without it only the connection's end would be the answer's.
            context.response.fields.set_known(Known::ContentLength, b"0");
        }
        let encoding = match length {
            _ if context.request.is_head() => Encoding::Head,
            _ if !has_body || ends => Encoding::Nothing,
            Some(_) => Encoding::Length,
            None => Encoding::Open,
        };
        answer::begin(self.down, context, self.transfer, encoding);
        if encoding == Encoding::Nothing {
            self.answer = Answer::Done;
            return self.down.send(cx, b"", true).map_err(|_| ClientError::Gone.into());
        }
        let mut body = Body { stream, next: Bytes::new(), unreleased: 0, is_over: false };
        // What has come already leaves together with the head.
        let most = BESIDE_HEAD.min(room.len());
        let step = match body.poll_next(cx, &mut room[..most]) {
            Poll::Ready(step) => step.map_err(|error| of(error, true)),
            Poll::Pending => Ok(Step::Data { length: 0, end: false }),
        };
        self.answer = Answer::Body(body);
        match step {
            Ok(step) => self.take_body(cx, step, room),
            Err(error) => {
                self.down.send(cx, b"", false).map_err(|_| ClientError::Gone)?;
                Err(error)
            }
        }
    }

    fn take_body(&mut self, cx: &mut Context<'_>, step: Step, room: &mut [u8]) -> Result<(), RelayError> {
        let sent = match step {
            Step::Data { length, end } => {
                self.transfer.sent += length as u64;
                if end {
                    self.answer = Answer::Done;
                }
                self.down.send(cx, &room[..length], end)
            }
            Step::Trailers(trailers) => {
                self.answer = Answer::Done;
                let mut fields = Fields::default();
                http2_message::read(&trailers, &mut fields, room)?;
                if self.context.client == local_reply::Client::Grpc
                    && let Some(status) = fields.get(Known::GrpcStatus)
                {
                    self.context.grpc_status = Some(GrpcStatus::from_header(status));
                }
                self.down.send_trailers(cx, &fields)
            }
        };
        sent.map_err(|_| ClientError::Gone.into())
    }
}

enum Head {
    Interim(Response<()>),
    Final(Response<RecvStream>),
}

fn poll_head(response: &mut ResponseFuture, cx: &mut Context<'_>) -> Poll<Result<Head, h2::Error>> {
    match response.poll_informational(cx) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Some(interim)) => Poll::Ready(interim.map(Head::Interim)),
        // The final head has come, or none will.
        Poll::Ready(None) => std::pin::Pin::new(response).poll(cx).map_ok(Head::Final),
    }
}

/// What comes next of a body.
enum Step {
    /// Bytes that stand at the front of the room.
    Data {
        length: usize,
        /// Nothing follows.
        end: bool,
    },
    /// The end.
    Trailers(http::HeaderMap),
}

impl Body {
    /// The client has taken what it was given.
    fn release(&mut self) {
        let length = std::mem::take(&mut self.unreleased);
        if length > 0 {
            // Fails only for more than was received.
            let _ = self.stream.flow_control().release_capacity(length);
        }
    }

    /// Puts what has come into `room`, as far as it fits.
    fn poll_next(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<Result<Step, h2::Error>> {
        let mut length = 0;
        while !self.is_over {
            if self.next.is_empty() {
                match self.stream.poll_data(cx) {
                    // It is there the next time, too.
                    Poll::Ready(Some(Err(_))) if length > 0 => return self.give(length, false),
                    Poll::Ready(Some(data)) => self.next = data?,
                    Poll::Ready(None) => self.is_over = true,
                    Poll::Pending if length > 0 => return self.give(length, false),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let fits = self.next.len().min(room.len() - length);
            room[length..length + fits].copy_from_slice(&self.next.split_to(fits));
            length += fits;
            if !self.next.is_empty() {
                return self.give(length, false);
            }
        }
        if self.stream.is_end_stream() {
            return self.give(length, true);
        }
        if length > 0 {
            return self.give(length, false);
        }
        self.stream.poll_trailers(cx).map(|trailers| match trailers? {
            Some(trailers) => Ok(Step::Trailers(trailers)),
            None => Ok(Step::Data { length: 0, end: true }),
        })
    }

    fn give(&mut self, length: usize, end: bool) -> Poll<Result<Step, h2::Error>> {
        self.unreleased += length;
        Poll::Ready(Ok(Step::Data { length, end }))
    }
}

/// `content-length`, which stands there once if at all.
fn content_length(fields: &Fields) -> Result<Option<u64>, Malformed> {
    let mut lengths = fields.all(Known::ContentLength);
    let length = lengths.next().map(|length| decimal(length).ok_or(Malformed)).transpose()?;
    if lengths.next().is_some() { Err(Malformed) } else { Ok(length) }
}

/// What a failure of the library's means; `heard` if the head of the answer had come.
fn of(error: h2::Error, heard: bool) -> RelayError {
    RelayError::Upstream(match error.reason() {
        // Also for what the library has found wrong with what the backend sent.
        _ if error.is_library() => UpstreamError::Malformed,
        Some(Reason::REFUSED_STREAM) if error.is_reset() && !heard => UpstreamError::Refused(ResetReason::RemoteReset),
        _ if error.is_reset() => UpstreamError::Reset,
        // Streams that the backend may have looked at end with the connection (RFC 9113 section 6.8).
        _ if error.is_go_away() && !heard => UpstreamError::Refused(ResetReason::ConnectionTermination),
        _ => UpstreamError::Broken(error.into_io()),
    })
}
