//! What the application sends.

use super::Connection;
use crate::error::{ErrorCode, SendError};
use crate::fields::{Field, Letter, Marks, TOKEN, has_only_field_bytes, value_marks};
use crate::frame::{self, FrameHeader, flag, kind};
use crate::hpack::Keep;
use crate::known::Known;
use crate::role::{Role, Server};
use crate::stream_id::StreamId;
use crate::streams::{Ended, Half};

/// Larger DATA frames would save nobody anything: peers that allow them are fine with these.
const MAX_DATA: usize = frame::DEFAULT_MAX_SIZE;

/// What follows what is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// Something else of the same message.
    More,
    /// Nothing: the message is complete. If a response is complete and its request is not, the stream stays open until the
    /// client ends it, too; a server that does not want the rest [resets](Connection::reset) it with
    /// [`ErrorCode::NO_ERROR`] (RFC 9113 section 8.1).
    End,
}

impl Connection<Server> {
    /// Sends the head of a response; with a status below 200 and [`Then::More`], one before it. Names may have capitals, which
    /// become small letters. Fields that HTTP/2 does not have (of one connection, RFC 9113 section 8.2.2) and fields with
    /// bytes that none may have are left out; the count of the latter is returned, so that nobody has to be silent about it.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the stream is not open, [`SendError::Order`] if a response was sent on it already.
    pub fn send_headers<'f>(
        &mut self,
        id: StreamId,
        status: u16,
        fields: impl IntoIterator<Item = Field<'f>>,
        then: Then,
    ) -> Result<usize, SendError> {
        let stream = self.streams.get_mut(id).filter(|_| self.error.is_none()).ok_or(SendError::Closed)?;
        match stream.local {
            Half::Idle => {}
            Half::Open => return Err(SendError::Order("a second head")),
            Half::Ended => return Err(SendError::Closed),
        }
        let is_interim = status < 200;
        if is_interim && then == Then::End || status == 101 || !(100..1000).contains(&status) {
            return Err(SendError::Order("a status that cannot be sent so"));
        }
        if !is_interim {
            stream.local = Half::Open;
        }
        let start = self.begin_block();
        self.encoder.status(status, self.output.bytes());
        let left_out = self.encode(fields);
        self.end_block(start, id, then);
        Ok(left_out)
    }
}

impl<R: Role> Connection<R> {
    /// Sends fields behind the body, which end the message. As [`Self::send_headers`] otherwise.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the stream is not open, [`SendError::Order`] before the head.
    pub fn send_trailers<'f>(
        &mut self,
        id: StreamId,
        fields: impl IntoIterator<Item = Field<'f>>,
    ) -> Result<usize, SendError> {
        self.check_body(id)?;
        let start = self.begin_block();
        let left_out = self.encode(fields);
        self.end_block(start, id, Then::End);
        Ok(left_out)
    }

    /// How many bytes of a body can be sent now.
    #[must_use]
    pub fn capacity(&self, id: StreamId) -> usize {
        let Some(stream) = self.streams.get(id) else { return 0 };
        let mark = self.settings.limits.max_pending_output as usize;
        let window = u32::try_from(stream.send_window).unwrap_or(0).min(self.send_window);
        (window as usize).min(mark.saturating_sub(self.output.len()))
    }

    /// Sends as much of a body as flow control and the mark of waiting output allow, and returns how much that was. The rest
    /// is to be offered again: after [`Writable`](crate::Event::Writable) if a window was the reason, after
    /// [`Self::advance_output`] if the output was. `then` is about the last of `bytes`; a message whose body is empty ends
    /// with an empty one, which always fits.
    ///
    /// # Errors
    /// [`SendError::Closed`] if the stream is not open, [`SendError::Order`] before the head.
    pub fn send_data(&mut self, id: StreamId, bytes: &[u8], then: Then) -> Result<usize, SendError> {
        self.check_body(id)?;
        let count = bytes.len().min(self.capacity(id));
        let is_all = count == bytes.len();
        let ends = is_all && then == Then::End;
        let largest = self.peer.max_frame_size.min(MAX_DATA);
        let mut rest = &bytes[..count];
        loop {
            let (piece, after) = rest.split_at(rest.len().min(largest));
            rest = after;
            let is_last = ends && rest.is_empty();
            if !piece.is_empty() || is_last {
                self.output.frame(kind::DATA, if is_last { flag::END_STREAM } else { 0 }, id, piece);
                self.counters.data_frame_sent();
            }
            if rest.is_empty() {
                break;
            }
        }
        self.count_data(id, count, is_all);
        if ends {
            self.end(id);
        }
        Ok(count)
    }

    /// Sends one DATA frame whose bytes `read` writes into the output itself, for bodies that come from a socket: they are not
    /// copied once more. `read` gets as much room as can be sent now, and no more than `most` bytes or one frame; it returns
    /// how much of it it filled, and what follows. It is not called when nothing can be sent; then, and when it filled
    /// nothing and says that more follows, no frame is sent. Returns what was sent.
    ///
    /// # Errors
    /// As [`Self::send_data`].
    pub fn send_data_from(
        &mut self,
        id: StreamId,
        most: usize,
        read: impl FnOnce(&mut [u8]) -> (usize, Then),
    ) -> Result<usize, SendError> {
        self.check_body(id)?;
        let room = self.capacity(id).min(most).min(self.peer.max_frame_size).min(MAX_DATA);
        if room == 0 {
            self.count_data(id, 0, most == 0);
            return Ok(0);
        }
        let out = self.output.bytes();
        let start = out.len();
        out.resize(start + frame::HEADER + room, 0);
        let (filled, then) = read(&mut out[start + frame::HEADER..]);
        let length = filled.min(room);
        let ends = then == Then::End;
        if length == 0 && !ends {
            out.truncate(start);
            return Ok(0);
        }
        out.truncate(start + frame::HEADER + length);
        let flags = if ends { flag::END_STREAM } else { 0 };
        let header = FrameHeader { length, kind: kind::DATA, flags, stream: id };
        out[start..start + frame::HEADER].copy_from_slice(&header.bytes());
        self.counters.data_frame_sent();
        self.count_data(id, length, true);
        if ends {
            self.end(id);
        }
        Ok(length)
    }

    /// Takes data out of the windows, which have at least so much; `is_all` says whether the application had no more.
    fn count_data(&mut self, id: StreamId, count: usize, is_all: bool) {
        self.send_window -= count as u32;
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.send_window -= count as i32;
        if !is_all {
            // Where neither is used up, the output was the reason, and the caller knows when that is written.
            stream.is_blocked = stream.send_window <= 0 || self.send_window == 0;
            self.is_blocked |= self.send_window == 0;
        }
    }

    /// Ends a stream at once. Nothing happens if it ended already.
    pub fn reset(&mut self, id: StreamId, code: ErrorCode) {
        if self.error.is_none() && self.streams.get(id).is_some() {
            self.write_reset(id, code);
            self.close(id, Ended::ByUs);
        }
    }

    /// Says that the application is done with `count` bytes of [`Data`](crate::Event::Data), so that the peer may send as many
    /// again. The peer is told in pieces of half a window. What a stream holds when it closes is released by itself.
    pub fn release(&mut self, id: StreamId, count: usize) {
        let Some(stream) = self.streams.get_mut(id).filter(|_| self.error.is_none()) else { return };
        // What is held is bounded by the window.
        let count = count.min(stream.held as usize) as u32;
        stream.held -= count;
        self.release_to_stream(id, count);
        self.release_to_connection(count);
    }

    fn check_body(&self, id: StreamId) -> Result<(), SendError> {
        let stream = self.streams.get(id).filter(|_| self.error.is_none()).ok_or(SendError::Closed)?;
        match stream.local {
            Half::Idle => Err(SendError::Order("a body before its head")),
            Half::Open => Ok(()),
            Half::Ended => Err(SendError::Closed),
        }
    }

    /// Leaves room for the frame's header and says where.
    pub(super) fn begin_block(&mut self) -> usize {
        let out = self.output.bytes();
        let start = out.len();
        out.extend_from_slice(&[0; frame::HEADER]);
        self.encoder.begin(out);
        start
    }

    pub(super) fn encode<'f>(&mut self, fields: impl IntoIterator<Item = Field<'f>>) -> usize {
        let mut left_out = 0;
        let out = self.output.bytes();
        for field in fields {
            let mut value = field.value;
            if value_marks(value).has(Marks::BAD_VALUE) {
                value = value.trim_ascii();
                if !has_only_field_bytes(value) {
                    left_out += 1;
                    continue;
                }
            }
            let keep = if field.never_indexed { Keep::Never } else { Keep::IfWorthIt };
            match field.known {
                Some(known) if known.is_connection_specific() => {}
                Some(known) if known.is_pseudo() => left_out += 1,
                Some(known) => self.encoder.field(Some(known), known.name(), value, keep, out),
                None => match worst(field.name) {
                    Letter::Lower => self.encoder.field(None, field.name, value, keep, out),
                    Letter::Upper => {
                        let name = field.name.to_ascii_lowercase();
                        let known = Known::of(&name);
                        if !known.is_some_and(Known::is_connection_specific) {
                            self.encoder.field(known, &name, value, keep, out);
                        }
                    }
                    Letter::No => left_out += 1,
                },
            }
        }
        left_out
    }

    /// Writes pseudo-header fields, which were checked.
    pub(super) fn encode_parts<'f>(&mut self, parts: impl Iterator<Item = (Known, &'f [u8])>) {
        let out = self.output.bytes();
        for (part, value) in parts {
            self.encoder.part(part, value, out);
        }
    }

    /// Writes the frame's header in front of the block, and cuts the block where the peer's frames end.
    pub(super) fn end_block(&mut self, start: usize, id: StreamId, then: Then) {
        let out = self.output.bytes();
        let length = out.len() - start - frame::HEADER;
        let end_stream = if then == Then::End { flag::END_STREAM } else { 0 };
        let largest = self.peer.max_frame_size;
        let header = |kind, flags, length| FrameHeader { length, kind, flags, stream: id }.bytes();
        if length <= largest {
            let bytes = header(kind::HEADERS, flag::END_HEADERS | end_stream, length);
            out[start..start + frame::HEADER].copy_from_slice(&bytes);
        } else {
            let block = out.split_off(start + frame::HEADER);
            out.truncate(start);
            let pieces = block.len().div_ceil(largest);
            for (at, piece) in block.chunks(largest).enumerate() {
                let is_last = at + 1 == pieces;
                let end_headers = if is_last { flag::END_HEADERS } else { 0 };
                let (kind, flags) = if at == 0 { (kind::HEADERS, end_stream) } else { (kind::CONTINUATION, 0) };
                out.extend_from_slice(&header(kind, flags | end_headers, piece.len()));
                out.extend_from_slice(piece);
            }
        }
        if then == Then::End {
            self.end(id);
        }
    }

    /// Our side of a stream said all.
    fn end(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.local = Half::Ended;
        stream.is_blocked = false;
        if stream.remote == Half::Ended {
            self.close(id, Ended::Complete);
        } else if stream.is_bad {
            // Nobody wants the rest of it (RFC 9113 section 8.1).
            self.write_reset(id, ErrorCode::NO_ERROR);
            self.close(id, Ended::ByUs);
        }
    }
}

/// The letter of a name that makes most trouble. An empty name is no name.
fn worst(name: &[u8]) -> Letter {
    let mut worst = if name.is_empty() { Letter::No } else { Letter::Lower };
    for byte in name {
        match TOKEN[usize::from(*byte)] {
            Letter::Lower => {}
            Letter::Upper if worst == Letter::Lower => worst = Letter::Upper,
            Letter::Upper => {}
            Letter::No => worst = Letter::No,
        }
    }
    worst
}
