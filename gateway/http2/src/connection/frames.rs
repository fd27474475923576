//! Frames that are looked at as a whole, but for header blocks.

use super::receive::Step;
use super::{Connection, Leaving};
use crate::error::{ConnectionError, ErrorCode, Malformed};
use crate::event::ResetBy;
use crate::frame::{FrameHeader, flag, kind};
use crate::role::Role;
use crate::settings::{DEFAULT_WINDOW, MAX_WINDOW, PeerSettings};
use crate::stream_id::StreamId;
use crate::streams::{Ended, Half};

impl<R: Role> Connection<R> {
    pub(super) fn frame(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Step, ConnectionError> {
        match header.kind {
            kind::HEADERS => self.headers(header, payload),
            kind::CONTINUATION => self.continuation(header, payload),
            kind::WINDOW_UPDATE => self.window_update(header, payload),
            kind::SETTINGS => self.settings(header, payload),
            kind::PING => self.ping_frame(header, payload),
            kind::RST_STREAM => self.rst_stream(header, payload),
            kind::PRIORITY => self.priority(header, payload),
            kind::GOAWAY => self.goaway(header, payload),
            kind::PUSH_PROMISE => Err(ConnectionError::Protocol("nobody may push anything")),
            // Only the kinds above are gathered.
            _ => self.unknown_frame(),
        }
    }

    /// RFC 9113 section 6.5.
    fn settings(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Step, ConnectionError> {
        if !header.stream.is_connection() {
            return Err(ConnectionError::Protocol("SETTINGS on a stream"));
        }
        if header.has(flag::ACK) {
            return self.settings_acknowledged(payload);
        }
        if !payload.len().is_multiple_of(6) {
            return Err(ConnectionError::FrameSize("SETTINGS is not a multiple of 6 bytes long"));
        }
        let said = PeerSettings::parse(payload, R::IS_CLIENT)?;
        if let Some(streams) = said.max_concurrent_streams {
            self.peer.max_concurrent_streams = streams;
        }
        if let (Some(least), Some(size)) = (said.least_header_table_size, said.header_table_size) {
            self.encoder.allow(least as usize);
            self.encoder.allow(size as usize);
        }
        if let Some(size) = said.max_frame_size {
            self.peer.max_frame_size = size as usize;
        }
        let mut step = Step::None;
        if let Some(window) = said.initial_window {
            // Both are below 2^31.
            let change = window as i32 - self.peer.initial_window as i32;
            self.peer.initial_window = window;
            for stream in self.streams.iter_mut() {
                stream.send_window = stream.send_window.checked_add(change).ok_or(WINDOW_OVERFLOW)?;
                if stream.unblock(self.send_window) {
                    step = Step::Writable { stream: StreamId::CONNECTION };
                }
            }
        }
        self.output.settings_ack();
        Ok(step)
    }

    /// The peer knows our settings now.
    fn settings_acknowledged(&mut self, payload: &[u8]) -> Result<Step, ConnectionError> {
        if !payload.is_empty() {
            return Err(ConnectionError::FrameSize("an acknowledgement of SETTINGS has a payload"));
        }
        if self.is_acknowledged {
            return Err(ConnectionError::Protocol("an acknowledgement of SETTINGS that were not sent"));
        }
        let before = self.initial_receive_window();
        self.is_acknowledged = true;
        let too_much = (before - self.initial_receive_window()) as i32;
        for stream in self.streams.iter_mut() {
            stream.receive_window -= too_much;
        }
        self.decoder.allow(self.settings.header_table_size as usize);
        Ok(Step::None)
    }

    /// RFC 9113 section 6.7.
    fn ping_frame(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Step, ConnectionError> {
        if !header.stream.is_connection() {
            return Err(ConnectionError::Protocol("PING on a stream"));
        }
        let Some(opaque) = payload.as_array::<8>() else {
            return Err(ConnectionError::FrameSize("PING is not 8 bytes long"));
        };
        if header.has(flag::ACK) {
            return self.pong(*opaque);
        }
        self.write_ping_reply(opaque);
        Ok(Step::None)
    }

    /// RFC 9113 section 6.4.
    fn rst_stream(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Step, ConnectionError> {
        let id = header.stream;
        let Some(code) = payload.as_array::<4>() else {
            return Err(ConnectionError::FrameSize("RST_STREAM is not 4 bytes long"));
        };
        if self.is_idle(id) {
            return Err(ConnectionError::Protocol("RST_STREAM for a stream that is not open"));
        }
        let Some(stream) = self.streams.get(id) else {
            // It crossed our end of the stream, or means nothing.
            return self.unknown_frame();
        };
        let is_premature = stream.local == Half::Idle;
        self.close(id, Ended::ByPeer);
        if is_premature {
            self.counters.premature_reset(&self.settings.limits).map_err(ConnectionError::Flood)?;
        }
        Ok(Step::Reset { stream: id, code: ErrorCode(u32::from_be_bytes(*code)), by: ResetBy::Peer })
    }

    /// RFC 9113 section 6.9.
    fn window_update(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Step, ConnectionError> {
        let id = header.stream;
        let Some(increment) = payload.as_array::<4>() else {
            return Err(ConnectionError::FrameSize("WINDOW_UPDATE is not 4 bytes long"));
        };
        self.counters.window_update(&self.settings.limits).map_err(ConnectionError::Flood)?;
        let increment = u32::from_be_bytes(*increment) & MAX_WINDOW;
        if id.is_connection() {
            if increment == 0 {
                return Err(ConnectionError::Protocol("a window update of nothing"));
            }
            let window = self.send_window.checked_add(increment).filter(|window| *window <= MAX_WINDOW);
            self.send_window = window.ok_or(WINDOW_OVERFLOW)?;
            if !std::mem::take(&mut self.is_blocked) {
                return Ok(Step::None);
            }
            let mut step = Step::None;
            for stream in self.streams.iter_mut() {
                if stream.unblock(self.send_window) {
                    step = Step::Writable { stream: id };
                }
            }
            return Ok(step);
        }
        if self.is_idle(id) {
            return Err(ConnectionError::Protocol("WINDOW_UPDATE for a stream that is not open"));
        }
        let Some(stream) = self.streams.get_mut(id) else { return Ok(Step::None) };
        if increment == 0 {
            return self.stream_error(id, Malformed::ZeroWindowUpdate);
        }
        // Below 2^31.
        let Some(window) = stream.send_window.checked_add(increment as i32) else {
            return self.stream_error(id, Malformed::WindowOverflow);
        };
        stream.send_window = window;
        Ok(if stream.unblock(self.send_window) { Step::Writable { stream: id } } else { Step::None })
    }

    /// RFC 9113 section 6.3: of priorities only the form is looked at.
    fn priority(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Step, ConnectionError> {
        let id = header.stream;
        if id.is_connection() {
            return Err(ConnectionError::Protocol("PRIORITY on no stream"));
        }
        self.counters.priority_frame(&self.settings.limits).map_err(ConnectionError::Flood)?;
        let is_open = self.streams.get(id).is_some();
        let Some((dependency, _)) = payload.split_first_chunk::<4>().filter(|_| payload.len() == 5) else {
            // An idle stream cannot be reset.
            return if is_open {
                self.stream_error(id, Malformed::PriorityLength)
            } else {
                Err(ConnectionError::FrameSize("PRIORITY is not 5 bytes long"))
            };
        };
        if StreamId::new(u32::from_be_bytes(*dependency)) != id {
            return Ok(Step::None);
        }
        if is_open {
            self.stream_error(id, Malformed::SelfDependency)
        } else {
            Err(ConnectionError::Protocol("a stream depends on itself"))
        }
    }

    /// RFC 9113 section 6.8. Once says it all; saying it again and again means nothing.
    fn goaway(&mut self, header: FrameHeader, payload: &[u8]) -> Result<Step, ConnectionError> {
        if !header.stream.is_connection() {
            return Err(ConnectionError::Protocol("GOAWAY on a stream"));
        }
        let Some(([a, b, c, d, e, f, g, h], _)) = payload.split_first_chunk::<8>().map(|(eight, rest)| (*eight, rest))
        else {
            return Err(ConnectionError::FrameSize("GOAWAY is shorter than 8 bytes"));
        };
        self.unknown_frame()?;
        let last_stream = StreamId::new(u32::from_be_bytes([a, b, c, d]));
        if R::IS_CLIENT {
            self.leaving = Leaving::Told;
            let unserved: Vec<StreamId> =
                self.streams.iter().map(|stream| stream.id).filter(|id| *id > last_stream).collect();
            for id in unserved {
                self.close(id, Ended::ByUs);
            }
        }
        Ok(Step::GoAway { last_stream, code: ErrorCode(u32::from_be_bytes([e, f, g, h])) })
    }

    /// Whether a stream was never opened. The server opens none, so that those with even numbers stay idle.
    pub(super) fn is_idle(&self, id: StreamId) -> bool {
        !id.is_clients() || id > self.last_stream
    }
}

const WINDOW_OVERFLOW: ConnectionError = ConnectionError::FlowControl("a window is larger than 2^31-1");

const _: () = assert!(DEFAULT_WINDOW <= MAX_WINDOW);
