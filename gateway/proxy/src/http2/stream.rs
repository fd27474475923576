use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use tidegate_http2::{ErrorCode, Field, StreamId, Then};

use super::state::Shared;
use crate::connection::Connection;
use crate::exchange::{Client, ClientError, Departure, Encoding, Ended, Part};
use crate::message::{Fields, ResponseHead};

/// One request of an HTTP/2 connection. Dropping it ends its stream, however far it was.
pub(super) struct Http2Stream {
    shared: Arc<Shared>,
    id: StreamId,
    body_is_over: bool,
    /// What `content-length` says of what is left of the body.
    length: Option<u64>,
    /// What flow control keeps of the answer.
    waiting: Vec<u8>,
    sent: usize,
    /// Nothing follows what waits.
    ends: bool,
    /// An interim head was sent, and may not have left yet.
    is_ahead: bool,
    /// The answer was sent to its end.
    is_complete: bool,
}

impl Http2Stream {
    pub(super) fn new(shared: Arc<Shared>, id: StreamId, body_is_over: bool, length: Option<u64>) -> Self {
        let waiting = Vec::new();
        Self { shared, id, body_is_over, length, waiting, sent: 0, ends: false, is_ahead: false, is_complete: false }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.shared.connection
    }

    /// Ends the stream as its request did.
    pub(super) fn finish(mut self, ended: Ended) {
        self.is_complete &= !matches!(ended, Ended::Cut);
    }

    /// Offers what waits.
    fn offer(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.state.lock();
        let then = if self.ends { Then::End } else { Then::More };
        let rest = &self.waiting[self.sent..];
        let sent = state.codec.send_data(self.id, rest, then).map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.sent += sent;
        if sent > 0 {
            state.wake();
        }
        if self.sent < self.waiting.len() {
            state.streams.wait_for_room(self.id, cx);
            return Poll::Pending;
        }
        drop(state);
        self.waiting = Vec::new();
        self.sent = 0;
        self.is_complete |= self.ends;
        Poll::Ready(Ok(()))
    }
}

impl Client for Http2Stream {
    fn body_is_over(&self) -> bool {
        self.body_is_over
    }

    fn body_length(&self) -> Option<u64> {
        if self.body_is_over { Some(0) } else { self.length }
    }

    fn poll_body(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<Result<Part, ClientError>> {
        let mut state = self.shared.state.lock();
        let is_over = state.is_over;
        let Some(stream) = state.streams.get(self.id).filter(|stream| !stream.is_gone && !is_over) else {
            return Poll::Ready(Err(ClientError::Gone));
        };
        let rest = &stream.input[stream.taken..];
        let length = rest.len().min(room.len());
        room[..length].copy_from_slice(&rest[..length]);
        stream.taken += length;
        let end = stream.is_ended && stream.taken == stream.input.len();
        if stream.taken == stream.input.len() {
            stream.input.clear();
            stream.taken = 0;
        }
        if length == 0 && !end {
            state.streams.wait(self.id, cx);
            return Poll::Pending;
        }
        if length > 0 {
            state.codec.release(self.id, length);
            // The peer may have to be told of its window.
            state.wake();
        }
        self.body_is_over = end;
        self.length = self.length.map(|left| left.saturating_sub(length as u64));
        Poll::Ready(Ok(Part { length, end }))
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.shared.state.lock();
        let is_over = state.is_over;
        match state.streams.get(self.id) {
            Some(stream) if !stream.is_gone && !is_over => {
                state.streams.wait(self.id, cx);
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    fn departure(&self) -> Departure {
        let mut state = self.shared.state.lock();
        match state.streams.get(self.id) {
            Some(stream) if stream.is_malformed => Departure::Expelled,
            Some(stream) if stream.is_gone => Departure::Reset,
            _ => Departure::Disconnected,
        }
    }

    fn is_drained(&self) -> bool {
        self.waiting.is_empty() && !self.is_ahead
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let mut state = self.shared.state.lock();
        match state.codec.capacity(self.id) {
            0 => {
                // Nothing of it is taken; the codec then tells when something would be. A stream that is gone tells so
                // elsewhere.
                let _ = state.codec.send_data(self.id, b"?", Then::More);
                state.streams.wait_for_room(self.id, cx);
                Poll::Pending
            }
            room => Poll::Ready(room),
        }
    }

    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_drained() {
            return Poll::Ready(Ok(()));
        }
        if self.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.is_ahead {
            let mut state = self.shared.state.lock();
            if !state.codec.should_read() {
                state.streams.wait_for_room(self.id, cx);
                return Poll::Pending;
            }
            self.is_ahead = false;
        }
        if self.waiting.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.offer(cx)
    }

    fn send_interim(&mut self, head: &ResponseHead) {
        let mut state = self.shared.state.lock();
        // An error says that the stream is no more, which the next step sees.
        let _ = state.codec.send_headers(self.id, head.status, fields(&head.fields), Then::More);
        state.wake();
        // Flow control has no say in heads, so the next one waits for the output.
        self.is_ahead = true;
    }

    fn send_head(&mut self, head: &ResponseHead, encoding: Encoding, _closes: bool) {
        let is_whole = matches!(encoding, Encoding::Nothing | Encoding::Head);
        let then = if is_whole { Then::End } else { Then::More };
        let mut state = self.shared.state.lock();
        // As above.
        let sent = state.codec.send_headers(self.id, head.status, fields(&head.fields), then);
        self.is_complete = then == Then::End && sent.is_ok();
        state.wake();
    }

    fn send(&mut self, cx: &mut Context<'_>, data: &[u8], end: bool) -> io::Result<()> {
        if self.is_complete || data.is_empty() && !end {
            return Ok(());
        }
        let mut state = self.shared.state.lock();
        let then = if end { Then::End } else { Then::More };
        let sent = state.codec.send_data(self.id, data, then).map_err(|_| io::ErrorKind::BrokenPipe)?;
        state.wake();
        if sent == data.len() {
            self.is_complete = end;
            return Ok(());
        }
        state.streams.wait_for_room(self.id, cx);
        drop(state);
        self.waiting.extend_from_slice(&data[sent..]);
        self.ends = end;
        Ok(())
    }

    fn send_trailers(&mut self, _cx: &mut Context<'_>, trailers: &Fields) -> io::Result<()> {
        let mut state = self.shared.state.lock();
        state.codec.send_trailers(self.id, fields(trailers)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        state.wake();
        self.is_complete = true;
        Ok(())
    }

    fn tick(&self) -> Option<u64> {
        Some(self.shared.state.lock().tick)
    }

    fn is_leaving(&self) -> bool {
        false
    }
}

impl Drop for Http2Stream {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        // A stream that has ended on both sides is no more, and nothing happens. One whose answer is whole while its
        // request is not is told that nobody reads the rest (RFC 9113 section 8.1).
        let code = if self.is_complete { ErrorCode::NO_ERROR } else { ErrorCode::INTERNAL_ERROR };
        state.codec.reset(self.id, code);
        state.streams.remove(self.id);
        state.wake();
    }
}

fn fields(fields: &Fields) -> impl Iterator<Item = Field<'_>> {
    fields.iter().map(|(name, value)| Field::new(name, value))
}
