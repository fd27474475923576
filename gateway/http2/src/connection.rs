//! One connection: its state, and what an application may ask of it beside sending.

mod client;
mod frames;
mod headers;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;

use crate::error::{ConnectionError, ErrorCode, Flood, Malformed};
use crate::event::ResetBy;
use crate::flood::Counters;
use crate::frame::{self, flag, kind};
use crate::hpack::{Decoder, Encoder};
use crate::output::Output;
use crate::request::RequestHead;
use crate::response::ResponseHead;
use crate::role::{Role, Server};
use crate::settings::{DEFAULT_WINDOW, Settings};
use crate::stream_id::StreamId;
use crate::streams::{Ended, Half, Streams};
pub use client::RequestLine;
pub use receive::Received;
use receive::{Reading, Step};
pub use send::Then;

/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the PING of [`Connection::drain`] carries.
const DRAIN_PING: [u8; 8] = *b"draining";

/// Streams that a client opens before it knows how many the server allows: what RFC 9113 section 6.5.2 asks servers to allow
/// at least.
const EARLY_STREAMS: u32 = 100;

/// Ended streams that are remembered, at least.
const REMEMBERED: u32 = 32;

/// One connection: the server's side of it, unless it says [`Client`](crate::Client).
#[derive(Debug)]
pub struct Connection<R: Role = Server> {
    role: PhantomData<R>,
    settings: Settings,
    /// The peer acknowledged our settings.
    is_acknowledged: bool,
    peer: Peer,
    reading: Reading,
    /// The beginning of a frame whose rest is to come.
    partial: Vec<u8>,
    /// A header block whose rest is to come.
    block: Block,
    decoder: Decoder,
    encoder: Encoder,
    head: RequestHead,
    response: ResponseHead,
    streams: Streams,
    /// The highest number of a stream that the client opened.
    last_stream: StreamId,
    /// Bytes that the peer may send on all streams together.
    receive_window: u32,
    /// Bytes that were released and that the peer was not told of.
    released: u32,
    /// Bytes that we may send on all streams together.
    send_window: u32,
    /// An application wanted to send more than that. Those streams are blocked, too.
    is_blocked: bool,
    output: Output,
    counters: Counters,
    /// PINGs that the peer has not answered.
    pings: u32,
    leaving: Leaving,
    error: Option<ConnectionError>,
}

/// What the peer's SETTINGS said.
#[derive(Clone, Copy, Debug)]
struct Peer {
    initial_window: u32,
    max_frame_size: usize,
    /// Streams that we may open, as a client.
    max_concurrent_streams: u32,
}

/// HEADERS and CONTINUATION frames up to the one that ends the block.
#[derive(Default, Debug)]
struct Block {
    is_open: bool,
    stream: StreamId,
    end_stream: bool,
    depends_on_itself: bool,
    continuations: u32,
    bytes: Vec<u8>,
}

/// How far a connection's end was announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Leaving {
    No,
    /// A GOAWAY said that it will end. Streams are still accepted: the peer may have opened them before it knew.
    Announced,
    /// The last GOAWAY, of either side, said that nothing behind the streams of then is served.
    Told,
}

impl Connection {
    /// A server's connection on which nothing was received. Its first frames are in the output already.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut connection = Self::with_settings(settings, Reading::Preface(0));
        connection.settings.announce(connection.output.bytes());
        connection
    }

    /// Announces that the connection will end, and goes on serving. A GOAWAY that excludes nothing is followed by a PING; when
    /// that is answered, everything that the peer had sent before it knew is here, and the last GOAWAY follows by itself
    /// (RFC 9113 section 6.8). A caller that does not want to wait so long calls [`Self::go_away`].
    pub fn drain(&mut self) {
        if self.leaving == Leaving::No && self.error.is_none() {
            self.leaving = Leaving::Announced;
            self.write_go_away(StreamId::new(u32::MAX), ErrorCode::NO_ERROR);
            self.ping(DRAIN_PING);
        }
    }
}

impl<R: Role> Connection<R> {
    fn with_settings(settings: Settings, reading: Reading) -> Self {
        let settings = settings.in_range();
        let mut decoder = Decoder::default();
        decoder.allow_early(settings.header_table_size as usize);
        Self {
            role: PhantomData,
            settings,
            is_acknowledged: false,
            peer: Peer {
                initial_window: DEFAULT_WINDOW,
                max_frame_size: frame::DEFAULT_MAX_SIZE,
                max_concurrent_streams: EARLY_STREAMS,
            },
            reading,
            partial: Vec::new(),
            block: Block::default(),
            decoder,
            encoder: Encoder::default(),
            head: RequestHead::default(),
            response: ResponseHead::default(),
            streams: Streams::default(),
            last_stream: StreamId::CONNECTION,
            receive_window: settings.connection_window,
            released: 0,
            send_window: DEFAULT_WINDOW,
            is_blocked: false,
            output: Output::default(),
            counters: Counters::default(),
            pings: 0,
            leaving: Leaving::No,
            error: None,
        }
    }

    /// Bytes to be written to the peer. Call [`Self::advance_output`] with what was.
    #[must_use]
    #[inline]
    pub fn output(&self) -> &[u8] {
        self.output.waiting()
    }

    /// Says that the first `count` bytes of the output were written. Streams for which [`Self::send_data`] took nothing
    /// because of waiting output may be tried again.
    #[inline]
    pub fn advance_output(&mut self, count: usize) {
        self.output.advance(count);
    }

    /// Whether the peer may be read from. It may not while more than [`Limits::max_pending_output`](crate::Limits) waits: what
    /// a peer sends makes output, and one that does not read would make it grow. The most that waits is this mark, what
    /// one read provokes, and a response's head for each open stream.
    #[must_use]
    pub fn should_read(&self) -> bool {
        self.output.len() <= self.settings.limits.max_pending_output as usize
    }

    /// Streams that are open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether the peer's flow control keeps a stream from going on: data was offered and not taken, and no
    /// [`Writable`](crate::Event::Writable) has come. A peer that keeps windows closed for long holds memory that it does not pay
    /// for; time is the caller's.
    #[must_use]
    pub fn is_stalled(&self, id: StreamId) -> bool {
        self.streams.get(id).is_some_and(|stream| stream.is_blocked)
    }

    /// Whether the peer acknowledged our SETTINGS. One that does not for long may be told SETTINGS_TIMEOUT.
    #[must_use]
    pub fn is_acknowledged(&self) -> bool {
        self.is_acknowledged
    }

    /// Whether the connection ended for its last stream: the last GOAWAY was sent and no stream is open, or it failed. What is
    /// in the output should be written before it is closed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.error.is_some() || self.leaving == Leaving::Told && self.streams.len() == 0
    }

    /// Sends the last GOAWAY: open streams are served to their end, later ones are ignored.
    pub fn go_away(&mut self, code: ErrorCode) {
        if self.leaving != Leaving::Told && self.error.is_none() {
            self.leaving = Leaving::Told;
            self.write_go_away(self.last_of_peer(), code);
        }
    }

    /// Asks the peer for a [`Pong`](crate::Event::Pong) with this payload.
    pub fn ping(&mut self, payload: [u8; 8]) {
        self.pings = self.pings.saturating_add(1);
        self.output.frame(kind::PING, 0, StreamId::CONNECTION, &payload);
    }

    /// Forgets half of what was counted against the peer. To be called now and then (once a minute), so that a connection of
    /// many days is not ended for what happens once an hour.
    pub fn forgive(&mut self) {
        self.counters.forgive();
    }

    /// Gives back memory that an idle connection does not need. The compression tables stay.
    pub fn release_memory(&mut self) {
        self.output.release();
        self.streams.release();
        if self.partial.is_empty() {
            self.partial = Vec::new();
        }
        if !self.block.is_open {
            self.block.bytes = Vec::new();
        }
        self.head = RequestHead::default();
        self.response = ResponseHead::default();
    }

    /// Bytes of memory that it holds, with those of the compression tables.
    #[must_use]
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + self.output.capacity()
            + self.streams.capacity()
            + self.partial.capacity()
            + self.block.bytes.capacity()
            + self.head.fields().capacity()
            + self.response.fields().capacity()
            + self.table_memory()
    }

    /// Bytes of memory that the compression tables hold.
    #[must_use]
    pub fn table_memory(&self) -> usize {
        self.decoder.capacity() + self.encoder.capacity()
    }

    /// How many ended streams are remembered: no fewer than can be open, because all of them may be reset at once while
    /// frames for each are on their way.
    fn remembered(&self) -> usize {
        self.settings.max_concurrent_streams.clamp(REMEMBERED, 1024) as usize
    }

    /// The window that a new stream of the peer has. Before the peer acknowledged our settings it may not know them, and may
    /// know them.
    fn initial_receive_window(&self) -> u32 {
        let window = self.settings.initial_stream_window;
        if self.is_acknowledged { window } else { window.max(DEFAULT_WINDOW) }
    }

    fn write_go_away(&mut self, last: StreamId, code: ErrorCode) {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&last.get().to_be_bytes());
        payload[4..].copy_from_slice(&code.0.to_be_bytes());
        self.output.frame(kind::GOAWAY, 0, StreamId::CONNECTION, &payload);
    }

    /// The highest number of a stream that the peer opened: servers open none.
    fn last_of_peer(&self) -> StreamId {
        if R::IS_CLIENT { StreamId::CONNECTION } else { self.last_stream }
    }

    fn is_told(&self) -> bool {
        self.leaving == Leaving::Told
    }

    /// Ends the connection for a reason.
    fn fail(&mut self, error: ConnectionError) {
        // To whom does not speak HTTP/2, GOAWAY says nothing.
        if error != ConnectionError::Preface {
            self.write_go_away(self.last_of_peer(), error.code());
        }
        self.error = Some(error);
    }

    /// Takes a stream out of those that are open. What the application still holds of it is given back to the connection's
    /// window: it will not be released any more.
    fn close(&mut self, id: StreamId, ended: Ended) {
        let remembered = self.remembered();
        if let Some(stream) = self.streams.remove(id, ended, remembered) {
            self.release_to_connection(stream.held);
            if ended == Ended::Complete && !stream.is_bad {
                self.counters.stream_served();
            }
        }
    }

    /// Ends a stream for what the peer did wrong on it, and counts that.
    fn stream_error(&mut self, id: StreamId, reason: Malformed) -> Result<Step, ConnectionError> {
        let was_open = self.streams.get(id).is_some();
        self.write_reset(id, reason.code());
        if was_open {
            self.close(id, Ended::ByUs);
        } else {
            self.streams.remember(id, Ended::ByUs, self.remembered());
        }
        self.counters.premature_reset(&self.settings.limits).map_err(ConnectionError::Flood)?;
        Ok(if was_open { Step::Reset { stream: id, code: reason.code(), by: ResetBy::Us(reason) } } else { Step::None })
    }

    fn write_reset(&mut self, id: StreamId, code: ErrorCode) {
        self.output.reply(kind::RST_STREAM, 0, id, &code.0.to_be_bytes());
    }

    fn check_replies(&self) -> Result<(), ConnectionError> {
        if self.output.replies() > self.settings.limits.max_outbound_control_frames {
            return Err(ConnectionError::Flood(Flood::ControlReplies));
        }
        Ok(())
    }

    /// Gives bytes back to the connection's window, and tells the peer when half of it is to be told.
    fn release_to_connection(&mut self, count: u32) {
        self.released += count;
        if self.released >= self.settings.connection_window / 2 {
            self.output.window_update(StreamId::CONNECTION, self.released);
            self.receive_window += std::mem::take(&mut self.released);
        }
    }

    /// Gives bytes back to a stream's window.
    fn release_to_stream(&mut self, id: StreamId, count: u32) {
        let half = self.settings.initial_stream_window / 2;
        let Some(stream) = self.streams.get_mut(id) else { return };
        stream.released += count;
        // Nobody needs a window for a stream that has ended.
        if stream.remote != Half::Ended && stream.released > 0 && stream.released >= half {
            let increment = std::mem::take(&mut stream.released);
            stream.receive_window = stream.receive_window.saturating_add_unsigned(increment);
            self.output.window_update(id, increment);
        }
    }

    /// The answer to a drain's PING came.
    fn drained(&mut self) {
        if self.leaving == Leaving::Announced {
            self.go_away(ErrorCode::NO_ERROR);
        }
    }

    fn write_ping_reply(&mut self, payload: &[u8]) {
        self.output.reply(kind::PING, flag::ACK, StreamId::CONNECTION, payload);
    }
}
