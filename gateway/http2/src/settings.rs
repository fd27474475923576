//! What we ask of a peer, and what it asked of us.

use crate::error::ConnectionError;
use crate::frame::{self, FrameHeader, kind};
use crate::stream_id::StreamId;

/// The window that streams and connections have before anything is said (RFC 9113 section 6.9.2).
pub(crate) const DEFAULT_WINDOW: u32 = 65_535;

/// The largest window (RFC 9113 section 6.9.1).
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;

mod id {
    pub(super) const HEADER_TABLE_SIZE: u16 = 1;
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const MAX_FRAME_SIZE: u16 = 5;
    pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(super) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
    pub(super) const NO_RFC7540_PRIORITIES: u16 = 9;
}

/// What a connection grants its peer. The defaults are those that Envoy advises for an edge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Streams that may be open at once; further ones are refused. At least 1.
    pub max_concurrent_streams: u32,
    /// Bytes that a stream may send before the application has released some.
    pub initial_stream_window: u32,
    /// The same for all streams together; not below 65,535, from which a window cannot be taken back.
    pub connection_window: u32,
    /// The largest payload of a frame: 16,384 to 1 MiB. A frame that is no DATA is gathered before it is looked at.
    pub max_frame_size: u32,
    /// The size of a request's fields, as RFC 9113 section 6.5.2 counts it. Also the bound on the bytes of a header block.
    pub max_header_list_size: u32,
    /// The size of the table that the peer may refer to; at most 65,536.
    pub header_table_size: u32,
    /// Whether CONNECT may name a protocol, which is how WebSockets come over HTTP/2 (RFC 8441).
    pub connect_protocol: bool,
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 100,
            initial_stream_window: 65_536,
            connection_window: 1 << 20,
            max_frame_size: frame::DEFAULT_MAX_SIZE as u32,
            max_header_list_size: 60 * 1024,
            header_table_size: 4096,
            connect_protocol: false,
            limits: Limits::default(),
        }
    }
}

/// Bounds on what costs a peer little and us more. Going over one ends the connection with
/// [`Flood`](crate::Flood). Where Envoy has the same bound, the default is Envoy's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Fields of one message, without pseudo-header fields. Beyond it a request is [`Event::TooLarge`](crate::Event).
    pub max_fields: u32,
    /// CONTINUATION frames of one block.
    pub max_continuation_frames: u32,
    /// Frames that answer what the peer sent (acknowledgements, RST_STREAM) and wait because the peer does not read. Envoy's
    /// `max_outbound_control_frames`.
    pub max_outbound_control_frames: u32,
    /// DATA frames without data that do not end their stream, one after the other. Envoy's
    /// `max_consecutive_inbound_frames_with_empty_payload`.
    pub max_consecutive_empty_frames: u32,
    /// PRIORITY frames, and frames of unknown types, for each stream that was opened. Envoy's
    /// `max_inbound_priority_frames_per_stream`.
    pub max_priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames for each DATA frame that was sent. Envoy's
    /// `max_inbound_window_update_frames_per_data_frame_sent`.
    pub max_window_updates_per_data_frame: u32,
    /// How many more streams may be reset before their answer began, by the peer or because of what it sent, than were
    /// served to their end. Envoy looks at resets from 500 on.
    pub max_premature_resets: u32,
    /// The mark, in bytes of waiting output, above which no DATA is accepted for sending and the caller shall not read from
    /// the peer.
    pub max_pending_output: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_fields: 100,
            max_continuation_frames: 32,
            max_outbound_control_frames: 1000,
            max_consecutive_empty_frames: 1,
            max_priority_frames_per_stream: 100,
            max_window_updates_per_data_frame: 10,
            max_premature_resets: 500,
            max_pending_output: 64 * 1024,
        }
    }
}

impl Settings {
    /// The same with every value in the range that it says.
    pub(crate) fn in_range(mut self) -> Self {
        self.max_concurrent_streams = self.max_concurrent_streams.clamp(1, 1 << 20);
        self.initial_stream_window = self.initial_stream_window.min(MAX_WINDOW);
        self.connection_window = self.connection_window.clamp(DEFAULT_WINDOW, MAX_WINDOW);
        self.max_frame_size = self.max_frame_size.clamp(frame::DEFAULT_MAX_SIZE as u32, 1 << 20);
        self.max_header_list_size = self.max_header_list_size.min(1 << 24);
        self.header_table_size = self.header_table_size.min(1 << 16);
        self
    }

    /// Appends the first frames of a server: SETTINGS, and the window of the connection.
    pub(crate) fn announce(&self, out: &mut Vec<u8>) {
        let mut settings = vec![(id::MAX_CONCURRENT_STREAMS, self.max_concurrent_streams)];
        if self.connect_protocol {
            settings.push((id::ENABLE_CONNECT_PROTOCOL, 1));
        }
        self.announce_with(settings, out);
    }

    /// The same for a client, whom nobody may push anything.
    pub(crate) fn announce_as_client(&self, out: &mut Vec<u8>) {
        self.announce_with(vec![(id::ENABLE_PUSH, 0)], out);
    }

    fn announce_with(&self, mut settings: Vec<(u16, u32)>, out: &mut Vec<u8>) {
        settings.push((id::INITIAL_WINDOW_SIZE, self.initial_stream_window));
        settings.push((id::MAX_HEADER_LIST_SIZE, self.max_header_list_size));
        if self.header_table_size != 4096 {
            settings.push((id::HEADER_TABLE_SIZE, self.header_table_size));
        }
        if self.max_frame_size != frame::DEFAULT_MAX_SIZE as u32 {
            settings.push((id::MAX_FRAME_SIZE, self.max_frame_size));
        }
        let stream = StreamId::CONNECTION;
        out.extend(FrameHeader { length: settings.len() * 6, kind: kind::SETTINGS, flags: 0, stream }.bytes());
        for (id, value) in settings {
            out.extend(id.to_be_bytes());
            out.extend(value.to_be_bytes());
        }
        let more = self.connection_window - DEFAULT_WINDOW;
        if more > 0 {
            out.extend(FrameHeader { length: 4, kind: kind::WINDOW_UPDATE, flags: 0, stream }.bytes());
            out.extend(more.to_be_bytes());
        }
    }
}

/// What one SETTINGS frame of the peer says; what it does not mention is none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct PeerSettings {
    pub(crate) header_table_size: Option<u32>,
    /// The smallest that the frame mentions: a table that went through it lost its entries.
    pub(crate) least_header_table_size: Option<u32>,
    pub(crate) initial_window: Option<u32>,
    pub(crate) max_frame_size: Option<u32>,
    /// For a client; a client's own is about pushes.
    pub(crate) max_concurrent_streams: Option<u32>,
}

impl PeerSettings {
    /// Reads the payload of a peer's SETTINGS (RFC 9113 section 6.5.2), whose length is a multiple of 6; `is_servers` says
    /// which peer it is.
    pub(crate) fn parse(payload: &[u8], is_servers: bool) -> Result<Self, ConnectionError> {
        let mut settings = Self::default();
        let (entries, _) = payload.as_chunks::<6>();
        for [a, b, value @ ..] in entries {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                id::HEADER_TABLE_SIZE => {
                    settings.header_table_size = Some(value);
                    settings.least_header_table_size =
                        Some(settings.least_header_table_size.map_or(value, |least| least.min(value)));
                }
                id::ENABLE_PUSH if value > 1 => return Err(ConnectionError::Protocol("ENABLE_PUSH is 0 or 1")),
                id::ENABLE_PUSH if value == 1 && is_servers => {
                    return Err(ConnectionError::Protocol("a server cannot be pushed anything"));
                }
                id::MAX_CONCURRENT_STREAMS => settings.max_concurrent_streams = Some(value),
                id::INITIAL_WINDOW_SIZE if value > MAX_WINDOW => {
                    return Err(ConnectionError::FlowControl("INITIAL_WINDOW_SIZE is above 2^31-1"));
                }
                id::INITIAL_WINDOW_SIZE => settings.initial_window = Some(value),
                id::MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return Err(ConnectionError::Protocol("MAX_FRAME_SIZE is below 2^14 or above 2^24-1"));
                }
                id::MAX_FRAME_SIZE => settings.max_frame_size = Some(value),
                id::ENABLE_CONNECT_PROTOCOL if value > 1 => {
                    return Err(ConnectionError::Protocol("ENABLE_CONNECT_PROTOCOL is 0 or 1"));
                }
                id::NO_RFC7540_PRIORITIES if value > 1 => {
                    return Err(ConnectionError::Protocol("NO_RFC7540_PRIORITIES is 0 or 1"));
                }
                // MAX_HEADER_LIST_SIZE is advice, and what nobody knows is to be ignored.
                _ => {}
            }
        }
        Ok(settings)
    }
}
