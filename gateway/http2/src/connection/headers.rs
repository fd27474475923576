//! Header blocks: requests and trailers.

use super::receive::Step;
use super::{Connection, Leaving};
use crate::error::{ConnectionError, Flood, Malformed};
use crate::fields::Fields;
use crate::frame::{FrameHeader, flag};
use crate::hpack::{Bounds, Excess};
use crate::request::judge_trailers;
use crate::role::Role;
use crate::stream_id::StreamId;
use crate::streams::{Ended, Half, Stream};

/// Pseudo-header fields that a request has beside `Limits::max_fields`; one more where CONNECT may name a protocol.
const PSEUDO_FIELDS: u32 = 4;

/// What a HEADERS frame says beside its block.
#[derive(Clone, Copy)]
struct Opening {
    stream: StreamId,
    end_stream: bool,
    depends_on_itself: bool,
}

impl<R: Role> Connection<R> {
    /// RFC 9113 section 6.2.
    pub(super) fn headers(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Step, ConnectionError> {
        let mut fragment = payload;
        if header.has(flag::PADDED) {
            let Some((padding, rest)) = fragment.split_first() else {
                return Err(ConnectionError::FrameSize("a padded frame has no room for the length of its padding"));
            };
            let Some(length) = rest.len().checked_sub(usize::from(*padding)) else {
                return Err(ConnectionError::Protocol("padding is longer than its frame"));
            };
            fragment = &rest[..length];
        }
        let mut depends_on_itself = false;
        if header.has(flag::PRIORITY) {
            let Some((priority, rest)) = fragment.split_first_chunk::<5>() else {
                return Err(ConnectionError::FrameSize("HEADERS has no room for its priority"));
            };
            let [a, b, c, d, _] = *priority;
            depends_on_itself = StreamId::new(u32::from_be_bytes([a, b, c, d])) == header.stream;
            fragment = rest;
        }
        let opening = Opening { stream: header.stream, end_stream: header.has(flag::END_STREAM), depends_on_itself };
        if header.has(flag::END_HEADERS) {
            return self.block(opening, fragment);
        }
        self.check_block_size(fragment.len())?;
        self.block.is_open = true;
        self.block.stream = opening.stream;
        self.block.end_stream = opening.end_stream;
        self.block.depends_on_itself = opening.depends_on_itself;
        self.block.continuations = 0;
        self.block.bytes.clear();
        self.block.bytes.extend_from_slice(fragment);
        Ok(Step::None)
    }

    /// RFC 9113 section 6.10.
    pub(super) fn continuation(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Step, ConnectionError> {
        if !self.block.is_open {
            return Err(ConnectionError::Protocol("CONTINUATION of nothing"));
        }
        self.block.continuations += 1;
        if self.block.continuations > self.settings.limits.max_continuation_frames {
            return Err(ConnectionError::Flood(Flood::Continuation));
        }
        self.check_block_size(self.block.bytes.len() + payload.len())?;
        self.block.bytes.extend_from_slice(payload);
        if !header.has(flag::END_HEADERS) {
            return Ok(Step::None);
        }
        self.block.is_open = false;
        let opening = Opening {
            stream: self.block.stream,
            end_stream: self.block.end_stream,
            depends_on_itself: self.block.depends_on_itself,
        };
        // Rare enough that its memory need not be kept.
        let bytes = std::mem::take(&mut self.block.bytes);
        self.block(opening, &bytes)
    }

    /// A block that is larger than the largest list of fields has nothing that is worth gathering: no encoder needs more bytes
    /// for a field than the 32 beside its own that the list counts.
    fn check_block_size(&self, size: usize) -> Result<(), ConnectionError> {
        let most = self.settings.max_header_list_size.max(self.settings.max_frame_size) as usize;
        if size > most { Err(ConnectionError::Flood(Flood::HeaderBlock)) } else { Ok(()) }
    }

    /// The fields that were decoded last.
    pub(super) fn fields(&mut self) -> &mut Fields {
        if R::IS_CLIENT { self.response.fields_mut() } else { self.head.fields_mut() }
    }

    #[inline]
    fn decode(&mut self, block: &[u8]) -> Result<Excess, ConnectionError> {
        if R::IS_CLIENT {
            self.response.clear();
        } else {
            self.head.clear();
        }
        let pseudo_fields = PSEUDO_FIELDS + u32::from(self.settings.connect_protocol);
        let bounds = Bounds {
            size: self.settings.max_header_list_size as usize,
            fields: self.settings.limits.max_fields.saturating_add(pseudo_fields) as usize,
        };
        let fields = if R::IS_CLIENT { self.response.fields_mut() } else { self.head.fields_mut() };
        match self.decoder.decode(block, fields, bounds)? {
            Excess::Hopeless => Err(ConnectionError::Flood(Flood::HeaderBlock)),
            excess => Ok(excess),
        }
    }

    /// A complete header block. Whatever becomes of it, it is decoded: the tables of both sides must agree.
    fn block(&mut self, opening: Opening, block: &[u8]) -> Result<Step, ConnectionError> {
        let id = opening.stream;
        if !id.is_clients() {
            return Err(ConnectionError::Protocol("clients open streams with odd numbers"));
        }
        if id > self.last_stream {
            if R::IS_CLIENT {
                return Err(ConnectionError::Protocol("HEADERS for a stream that is not open"));
            }
            return self.request(opening, block);
        }
        if let Some(stream) = self.streams.get(id) {
            if stream.remote == Half::Idle {
                let excess = self.decode(block)?;
                return self.response(id, opening.end_stream, excess);
            }
            return self.trailers(opening, block);
        }
        match self.streams.ended(id) {
            Some(Ended::ByUs) => self.decode(block).map(|_| Step::None),
            Some(Ended::ByPeer) => {
                self.decode(block)?;
                self.stream_error(id, Malformed::AfterEnd)
            }
            Some(Ended::Complete) => Err(ConnectionError::StreamClosed),
            None if R::IS_CLIENT => {
                self.decode(block)?;
                self.unknown_frame()
            }
            None => Err(ConnectionError::Protocol("the number of a new stream is not above that of the last one")),
        }
    }

    fn request(&mut self, opening: Opening, block: &[u8]) -> Result<Step, ConnectionError> {
        let Opening { stream: id, end_stream, .. } = opening;
        self.last_stream = id;
        let excess = self.decode(block)?;
        if self.leaving == Leaving::Told {
            // The peer was told that it will not be served (RFC 9113 section 6.8).
            self.streams.remember(id, Ended::ByUs, self.remembered());
            return Ok(Step::None);
        }
        self.counters.stream_opened();
        if opening.depends_on_itself {
            return self.stream_error(id, Malformed::SelfDependency);
        }
        if self.streams.len() >= self.settings.max_concurrent_streams as usize {
            return self.stream_error(id, Malformed::TooManyStreams);
        }
        let mut judged = self.head.judge(self.settings.connect_protocol);
        let expected = self.head.content_length();
        if judged.is_ok() && end_stream && expected.is_some_and(|length| length > 0) {
            judged = Err(Malformed::BodyLength);
        }
        let is_bad = judged.is_err() || excess != Excess::None;
        self.streams.insert(Stream {
            id,
            // Below 2^31.
            send_window: self.peer.initial_window as i32,
            receive_window: self.initial_receive_window() as i32,
            held: 0,
            released: 0,
            expected: expected.filter(|_| !is_bad),
            remote: if end_stream { Half::Ended } else { Half::Open },
            local: Half::Idle,
            is_blocked: false,
            is_bad,
            is_head: false,
        });
        if is_bad {
            self.counters.premature_reset(&self.settings.limits).map_err(ConnectionError::Flood)?;
        }
        Ok(match judged {
            // What is missing may be behind what did not fit.
            _ if excess != Excess::None => Step::TooLarge { stream: id },
            Ok(()) => Step::Request { stream: id, end_stream },
            Err(reason) => Step::Malformed { stream: id, reason },
        })
    }

    fn trailers(&mut self, opening: Opening, block: &[u8]) -> Result<Step, ConnectionError> {
        let Opening { stream: id, end_stream, depends_on_itself } = opening;
        let excess = self.decode(block)?;
        let judged = judge_trailers(self.fields());
        let Some(stream) = self.streams.get_mut(id) else { return Ok(Step::None) };
        let wrong = match judged {
            _ if stream.remote == Half::Ended => Some(Malformed::AfterEnd),
            _ if !end_stream => Some(Malformed::TrailersWithoutEnd),
            _ if depends_on_itself => Some(Malformed::SelfDependency),
            _ if excess != Excess::None => Some(Malformed::TrailersTooLarge),
            _ if stream.expected.is_some_and(|expected| expected > 0) => Some(Malformed::BodyLength),
            judged => judged.err(),
        };
        if let Some(reason) = wrong {
            return self.stream_error(id, reason);
        }
        stream.remote = Half::Ended;
        let is_bad = stream.is_bad;
        if stream.local == Half::Ended {
            self.close(id, Ended::Complete);
        }
        Ok(if is_bad { Step::None } else { Step::Trailers { stream: id } })
    }
}
