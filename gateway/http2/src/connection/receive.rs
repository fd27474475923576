//! Bytes into frames, frames into events.

use super::{Connection, DRAIN_PING, PREFACE};
use crate::error::{ConnectionError, ErrorCode, Malformed};
use crate::event::{ClientEvent, Event, ResetBy};
use crate::frame::{self, FrameHeader, flag, kind};
use crate::role::{Client, Role, Server};
use crate::stream_id::StreamId;
use crate::streams::{Ended, Half};

/// Memory for the beginning of a frame that is kept when the frame is through.
const KEPT: usize = 1024;

/// What [`Connection::receive`] did with its input.
#[derive(Debug)]
pub struct Received<E> {
    /// How much of the input it took. The rest is to be offered again, together with what comes behind it.
    pub consumed: usize,
    /// What happened. None if all input was taken and nothing happened that the application has to know.
    pub event: Option<E>,
}

/// Where in the bytes of the peer we are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    /// So many bytes of the preface came.
    Preface(usize),
    /// The frame that comes must be SETTINGS.
    FirstHeader,
    Header,
    /// The payload of a frame that is looked at as a whole.
    Payload(FrameHeader),
    /// The first byte of a padded DATA frame.
    PadLength(FrameHeader),
    Data(InData),
    /// Bytes that nobody needs.
    Skip(usize),
}

impl Reading {
    fn skip(length: usize) -> Self {
        if length == 0 { Self::Header } else { Self::Skip(length) }
    }
}

/// Where in a DATA frame we are. Flow control has counted all of it already.
#[derive(Clone, Copy, Debug)]
pub(super) struct InData {
    pub(super) stream: StreamId,
    /// Data that is still to come.
    pub(super) data: usize,
    /// Padding behind it.
    pub(super) padding: usize,
    pub(super) end_stream: bool,
}

/// What a frame, or a piece of one, came to; [`Event`] without what it borrows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    None,
    Request {
        stream: StreamId,
        end_stream: bool,
    },
    Malformed {
        stream: StreamId,
        reason: Malformed,
    },
    TooLarge {
        stream: StreamId,
    },
    Response {
        stream: StreamId,
        end_stream: bool,
    },
    Interim {
        stream: StreamId,
    },
    /// So many bytes of the input, up to the place that was reached.
    Data {
        stream: StreamId,
        length: usize,
        end_stream: bool,
    },
    Trailers {
        stream: StreamId,
    },
    Reset {
        stream: StreamId,
        code: ErrorCode,
        by: ResetBy,
    },
    Writable {
        stream: StreamId,
    },
    GoAway {
        last_stream: StreamId,
        code: ErrorCode,
    },
    Pong([u8; 8]),
}

impl Connection<Server> {
    /// Takes bytes that the peer sent, up to and including the first that make an event, and returns that event. Call it
    /// again with what is left until there is none: then everything was taken, and what is incomplete is kept inside.
    /// (So one buffer serves all connections of a worker, and idle ones hold none.) DATA is not gathered: a frame may
    /// become several events.
    ///
    /// Call it only while [`Self::should_read`] says so, at least once for each read.
    ///
    /// # Errors
    /// The connection is over: write what [`Self::output`] has, and close. The same error is returned from then on.
    #[inline]
    pub fn receive<'a>(&'a mut self, input: &'a [u8]) -> Result<Received<Event<'a>>, ConnectionError> {
        let (consumed, step) = self.take(input)?;
        Ok(Received { consumed, event: self.event(step, &input[..consumed]) })
    }

    #[inline]
    fn event<'a>(&'a mut self, step: Step, taken: &'a [u8]) -> Option<Event<'a>> {
        Some(match step {
            Step::None | Step::Response { .. } | Step::Interim { .. } => return None,
            Step::Request { stream, end_stream } => Event::Request { stream, head: &mut self.head, end_stream },
            Step::Malformed { stream, reason } => Event::Malformed { stream, reason, head: &mut self.head },
            Step::TooLarge { stream } => Event::TooLarge { stream, head: &mut self.head },
            Step::Data { stream, length, end_stream } => {
                Event::Data { stream, bytes: &taken[taken.len() - length..], end_stream }
            }
            Step::Trailers { stream } => Event::Trailers { stream, fields: self.fields() },
            Step::Reset { stream, code, by } => Event::Reset { stream, code, by },
            Step::Writable { stream } => Event::Writable { stream },
            Step::GoAway { last_stream, code } => Event::GoAway { last_stream, code },
            Step::Pong(payload) => Event::Pong { payload },
        })
    }
}

impl Connection<Client> {
    /// As [`receive`](Connection::receive) of a server.
    ///
    /// # Errors
    /// The connection is over, and with it all its streams.
    #[inline]
    pub fn receive<'a>(&'a mut self, input: &'a [u8]) -> Result<Received<ClientEvent<'a>>, ConnectionError> {
        let (consumed, step) = self.take(input)?;
        Ok(Received { consumed, event: self.event(step, &input[..consumed]) })
    }

    #[inline]
    fn event<'a>(&'a mut self, step: Step, taken: &'a [u8]) -> Option<ClientEvent<'a>> {
        Some(match step {
            Step::None | Step::Request { .. } | Step::Malformed { .. } | Step::TooLarge { .. } => return None,
            Step::Response { stream, end_stream } => {
                ClientEvent::Response { stream, head: &mut self.response, end_stream }
            }
            Step::Interim { stream } => ClientEvent::Interim { stream, head: &mut self.response },
            Step::Data { stream, length, end_stream } => {
                ClientEvent::Data { stream, bytes: &taken[taken.len() - length..], end_stream }
            }
            Step::Trailers { stream } => ClientEvent::Trailers { stream, fields: self.fields() },
            Step::Reset { stream, code, by } => ClientEvent::Reset { stream, code, by },
            Step::Writable { stream } => ClientEvent::Writable { stream },
            Step::GoAway { last_stream, code } => ClientEvent::GoAway { last_stream, code },
            Step::Pong(payload) => ClientEvent::Pong { payload },
        })
    }
}

impl<R: Role> Connection<R> {
    /// Says that nothing will follow, and what that means: a connection may end between frames only if it has no streams
    /// whose messages are not complete.
    #[must_use]
    pub fn end_of_input(&self) -> bool {
        let between_frames = matches!(self.reading, Reading::Header | Reading::FirstHeader) && self.partial.is_empty();
        between_frames && !self.block.is_open && self.streams.iter().all(|stream| stream.remote == Half::Ended)
    }

    #[inline]
    fn take(&mut self, input: &[u8]) -> Result<(usize, Step), ConnectionError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let mut consumed = 0;
        match self.advance(input, &mut consumed) {
            Ok(step) => Ok((consumed, step)),
            Err(error) => {
                self.fail(error);
                Err(error)
            }
        }
    }

    /// Goes on from `*at` until something happens or nothing is left.
    fn advance(&mut self, input: &[u8], at: &mut usize) -> Result<Step, ConnectionError> {
        self.check_replies()?;
        loop {
            let rest = &input[*at..];
            let step = match self.reading {
                // A frame of length 0 needs no input to be complete.
                Reading::Payload(FrameHeader { length: 0, .. }) | Reading::Data(InData { data: 0, padding: 0, .. }) => {
                    self.read(rest, at)?
                }
                _ if rest.is_empty() => return Ok(Step::None),
                _ => self.read(rest, at)?,
            };
            self.check_replies()?;
            if !matches!(step, Step::None) {
                return Ok(step);
            }
        }
    }

    #[inline]
    fn read(&mut self, rest: &[u8], at: &mut usize) -> Result<Step, ConnectionError> {
        match self.reading {
            Reading::Header | Reading::FirstHeader => {
                let header = match rest.first_chunk::<{ frame::HEADER }>() {
                    Some(bytes) if self.partial.is_empty() => {
                        *at += frame::HEADER;
                        FrameHeader::parse(bytes)
                    }
                    _ => {
                        *at += self.gather(rest, frame::HEADER);
                        let Some(bytes) = self.partial.first_chunk::<{ frame::HEADER }>() else {
                            return Ok(Step::None);
                        };
                        let header = FrameHeader::parse(bytes);
                        self.partial.clear();
                        header
                    }
                };
                self.begin_frame(header)
            }
            Reading::Payload(header) => {
                if self.partial.is_empty() && rest.len() >= header.length {
                    *at += header.length;
                    self.reading = Reading::Header;
                    return self.frame(header, &rest[..header.length]);
                }
                *at += self.gather(rest, header.length);
                if self.partial.len() < header.length {
                    return Ok(Step::None);
                }
                self.reading = Reading::Header;
                let mut payload = std::mem::take(&mut self.partial);
                let step = self.frame(header, &payload);
                payload.clear();
                payload.shrink_to(KEPT);
                self.partial = payload;
                step
            }
            Reading::PadLength(header) => {
                *at += 1;
                // The caller looked that there is a byte.
                self.begin_data(header, 1 + usize::from(rest.first().copied().unwrap_or_default()))
            }
            Reading::Data(frame) => Ok(self.data(frame, rest, at)),
            Reading::Skip(length) => {
                let count = length.min(rest.len());
                *at += count;
                self.reading = Reading::skip(length - count);
                Ok(Step::None)
            }
            Reading::Preface(seen) => {
                let expected = &PREFACE[seen..];
                let count = expected.len().min(rest.len());
                if expected[..count] != rest[..count] {
                    return Err(ConnectionError::Preface);
                }
                *at += count;
                let is_complete = count == expected.len();
                self.reading = if is_complete { Reading::FirstHeader } else { Reading::Preface(seen + count) };
                Ok(Step::None)
            }
        }
    }

    /// Moves bytes to the partial frame until it has `length` of them; says how many.
    fn gather(&mut self, rest: &[u8], length: usize) -> usize {
        let count = (length - self.partial.len()).min(rest.len());
        self.partial.extend_from_slice(&rest[..count]);
        count
    }

    /// Judges a frame by its first nine bytes.
    #[inline]
    fn begin_frame(&mut self, header: FrameHeader) -> Result<Step, ConnectionError> {
        if header.length > self.settings.max_frame_size as usize {
            return Err(ConnectionError::FrameSize("a frame is larger than SETTINGS_MAX_FRAME_SIZE"));
        }
        if matches!(self.reading, Reading::FirstHeader) && (header.kind != kind::SETTINGS || header.has(flag::ACK)) {
            return Err(ConnectionError::Protocol("the first frame is not SETTINGS"));
        }
        let continues = header.kind == kind::CONTINUATION && header.stream == self.block.stream;
        if self.block.is_open && !continues {
            return Err(ConnectionError::Protocol("a header block was interrupted"));
        }
        self.reading = Reading::Payload(header);
        match header.kind {
            kind::DATA => self.begin_padded_data(header),
            kind::HEADERS | kind::SETTINGS | kind::PING | kind::WINDOW_UPDATE | kind::RST_STREAM => Ok(Step::None),
            kind::CONTINUATION | kind::GOAWAY | kind::PRIORITY | kind::PUSH_PROMISE => Ok(Step::None),
            kind::PRIORITY_UPDATE => {
                self.reading = Reading::skip(header.length);
                self.counters.priority_frame(&self.settings.limits).map_err(ConnectionError::Flood)?;
                Ok(Step::None)
            }
            _ => {
                self.reading = Reading::skip(header.length);
                self.unknown_frame()
            }
        }
    }

    /// A frame that means nothing to us (RFC 9113 section 5.5).
    pub(super) fn unknown_frame(&mut self) -> Result<Step, ConnectionError> {
        self.counters.unknown_frame(&self.settings.limits).map_err(ConnectionError::Flood)?;
        Ok(Step::None)
    }

    #[inline]
    fn begin_padded_data(&mut self, header: FrameHeader) -> Result<Step, ConnectionError> {
        if !header.has(flag::PADDED) {
            return self.begin_data(header, 0);
        }
        if header.length == 0 {
            return Err(ConnectionError::FrameSize("a padded frame has no room for the length of its padding"));
        }
        self.reading = Reading::PadLength(header);
        Ok(Step::None)
    }

    /// Judges a DATA frame, with `padding` bytes that are no data, before any of its data is handed out.
    fn begin_data(&mut self, header: FrameHeader, padding: usize) -> Result<Step, ConnectionError> {
        let FrameHeader { stream: id, length, .. } = header;
        let end_stream = header.has(flag::END_STREAM);
        let Some(data) = length.checked_sub(padding) else {
            return Err(ConnectionError::Protocol("padding is longer than its frame"));
        };
        if id.is_connection() || !id.is_clients() || id > self.last_stream {
            return Err(ConnectionError::Protocol("DATA for a stream that is not open"));
        }
        self.counters.data_frame(data, end_stream, &self.settings.limits).map_err(ConnectionError::Flood)?;
        // Frames are at most 1 MiB long.
        let counted = length as u32;
        let Some(left) = self.receive_window.checked_sub(counted) else {
            return Err(ConnectionError::FlowControl("more data than the connection's window allows"));
        };
        self.receive_window = left;
        // The length of the padding was read already.
        let skipped = Reading::skip(if padding > 0 { length - 1 } else { length });
        let Some(stream) = self.streams.get_mut(id) else {
            self.reading = skipped;
            self.release_to_connection(counted);
            return self.frame_for_ended_stream(id);
        };
        let over = |limit: i64| limit < i64::from(counted);
        let wrong = if stream.remote == Half::Ended {
            Some(Malformed::AfterEnd)
        } else if stream.remote == Half::Idle {
            Some(Malformed::BodyBeforeHead)
        } else if over(i64::from(stream.receive_window)) {
            Some(Malformed::WindowExceeded)
        } else {
            match stream.expected {
                Some(expected) if (data as u64) > expected => Some(Malformed::BodyLength),
                Some(expected) if end_stream && (data as u64) < expected => Some(Malformed::BodyLength),
                _ => None,
            }
        };
        if let Some(reason) = wrong {
            self.reading = skipped;
            self.release_to_connection(counted);
            return self.stream_error(id, reason);
        }
        stream.receive_window -= counted as i32;
        stream.expected = stream.expected.map(|expected| expected - data as u64);
        // Of a bad request nothing is handed out, so nobody can release it.
        let handed_out = if stream.is_bad { 0 } else { data as u32 };
        stream.held += handed_out;
        if counted > handed_out {
            let is_bad = stream.is_bad;
            self.release_to_connection(counted - handed_out);
            if !is_bad {
                self.release_to_stream(id, counted - handed_out);
            }
        }
        let padding = padding.saturating_sub(1);
        self.reading = Reading::Data(InData { stream: id, data, padding, end_stream });
        Ok(Step::None)
    }

    /// Hands out what is there of a DATA frame.
    #[inline]
    fn data(&mut self, frame: InData, rest: &[u8], at: &mut usize) -> Step {
        let length = frame.data.min(rest.len());
        let is_last = length == frame.data;
        *at += length;
        self.reading = if is_last {
            Reading::skip(frame.padding)
        } else {
            Reading::Data(InData { data: frame.data - length, ..frame })
        };
        let end_stream = frame.end_stream && is_last;
        // The application may have reset the stream in the middle of the frame.
        let Some(stream) = self.streams.get_mut(frame.stream) else { return Step::None };
        let is_bad = stream.is_bad;
        if end_stream {
            stream.remote = Half::Ended;
            if stream.local == Half::Ended {
                self.close(frame.stream, Ended::Complete);
            }
        }
        if is_bad || length == 0 && !end_stream {
            return Step::None;
        }
        Step::Data { stream: frame.stream, length, end_stream }
    }

    /// DATA or trailers for a stream that is not open any more.
    pub(super) fn frame_for_ended_stream(&mut self, id: StreamId) -> Result<Step, ConnectionError> {
        match self.streams.ended(id) {
            // The peer did not know yet.
            Some(Ended::ByUs) => Ok(Step::None),
            // A client that resets a stream may open another one at once, so that more are on their way than are remembered.
            None if R::IS_CLIENT => self.unknown_frame(),
            _ => self.stream_error(id, Malformed::AfterEnd),
        }
    }

    pub(super) fn pong(&mut self, payload: [u8; 8]) -> Result<Step, ConnectionError> {
        let Some(waiting) = self.pings.checked_sub(1) else { return self.unknown_frame() };
        self.pings = waiting;
        if payload == DRAIN_PING {
            self.drained();
            return Ok(Step::None);
        }
        Ok(Step::Pong(payload))
    }
}
