//! The client's side: requests out, responses in.

use super::receive::{Reading, Step};
use super::{Connection, PREFACE, Then};
use crate::error::{ConnectionError, Malformed, OpenError};
use crate::fields::{Field, is_word};
use crate::hpack::Excess;
use crate::known::Known;
use crate::role::{Client, Role};
use crate::settings::Settings;
use crate::stream_id::StreamId;
use crate::streams::{Ended, Half, Stream};

/// The parts of a request to send that are no fields.
#[derive(Clone, Copy, Debug)]
pub struct RequestLine<'a> {
    /// A token. CONNECT is not for here.
    pub method: &'a [u8],
    pub scheme: &'a [u8],
    pub authority: Option<&'a [u8]>,
    /// Path and query, beginning with a slash; `*` for OPTIONS.
    pub path: &'a [u8],
}

impl Connection<Client> {
    /// A connection on which nothing was received. Its first bytes are in the output already. Requests may be sent at once.
    ///
    /// Of the settings, `max_concurrent_streams` is how many streams we open at most, whatever more the server allows.
    #[must_use]
    pub fn connect(settings: Settings) -> Self {
        let mut connection = Self::with_settings(settings, Reading::FirstHeader);
        connection.output.bytes().extend_from_slice(PREFACE);
        connection.settings.announce_as_client(connection.output.bytes());
        connection
    }

    /// Whether a stream can be opened now. If not, it may be possible when another one ends, unless the connection
    /// [is leaving](Self::is_leaving).
    #[must_use]
    pub fn can_open(&self) -> bool {
        let allowed = self.settings.max_concurrent_streams.min(self.peer.max_concurrent_streams);
        !self.is_leaving() && self.streams.len() < allowed as usize
    }

    /// Whether no stream will be opened any more: the server or we said GOAWAY, it failed, or numbers are used up.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.error.is_some() || self.is_told() || self.last_stream.get() >= (1 << 31) - 2
    }

    /// Sends the head of a request on a new stream. Names and values as in
    /// [`send_headers`](Connection::send_headers): what HTTP/2 does not have is left out.
    ///
    /// # Errors
    /// [`OpenError`], and nothing was sent.
    pub fn open<'f>(
        &mut self,
        line: RequestLine<'_>,
        fields: impl IntoIterator<Item = Field<'f>>,
        then: Then,
    ) -> Result<StreamId, OpenError> {
        if self.is_leaving() {
            return Err(OpenError::Leaving);
        }
        if !self.can_open() {
            return Err(OpenError::TooMany);
        }
        let parts = [
            Some((Known::PseudoMethod, line.method)),
            Some((Known::PseudoScheme, line.scheme)),
            line.authority.map(|authority| (Known::PseudoAuthority, authority)),
            Some((Known::PseudoPath, line.path)),
        ];
        if parts.iter().flatten().any(|(_, value)| !is_word(value)) || line.method.is_empty() || line.path.is_empty() {
            return Err(OpenError::Line);
        }
        let id = match self.last_stream.get() {
            0 => StreamId::new(1),
            last => StreamId::new(last + 2),
        };
        self.last_stream = id;
        self.counters.stream_opened();
        self.streams.insert(Stream {
            id,
            // Below 2^31.
            send_window: self.peer.initial_window as i32,
            receive_window: self.initial_receive_window() as i32,
            held: 0,
            released: 0,
            expected: None,
            remote: Half::Idle,
            local: Half::Open,
            is_blocked: false,
            is_bad: false,
            is_head: line.method == b"HEAD",
        });
        let start = self.begin_block();
        self.encode_parts(parts.into_iter().flatten());
        self.encode(fields);
        self.end_block(start, id, then);
        Ok(id)
    }
}

impl<R: Role> Connection<R> {
    /// A complete header block on a stream that has had none, which is one that we opened.
    pub(super) fn response(&mut self, id: StreamId, end_stream: bool, excess: Excess) -> Result<Step, ConnectionError> {
        let judged = self.response.judge();
        let (status, length) = (self.response.status(), self.response.content_length());
        let Some(stream) = self.streams.get_mut(id) else { return Ok(Step::None) };
        let is_interim = (100..200).contains(&status);
        // RFC 9110 section 6.4.1.
        let has_no_body = stream.is_head || matches!(status, 204 | 304);
        let wrong = match judged {
            Err(reason) => Some(reason),
            Ok(()) if excess != Excess::None => Some(Malformed::HeadTooLarge),
            Ok(()) if is_interim && (end_stream || status == 101) => Some(Malformed::Status),
            Ok(()) if end_stream && !has_no_body && length.is_some_and(|length| length > 0) => {
                Some(Malformed::BodyLength)
            }
            Ok(()) => None,
        };
        if let Some(reason) = wrong {
            return self.stream_error(id, reason);
        }
        if is_interim {
            // They need no answer and end nothing; so they are counted.
            self.unknown_frame()?;
            return Ok(Step::Interim { stream: id });
        }
        stream.expected = if has_no_body { Some(0) } else { length };
        stream.remote = if end_stream { Half::Ended } else { Half::Open };
        if end_stream && stream.local == Half::Ended {
            self.close(id, Ended::Complete);
        }
        Ok(Step::Response { stream: id, end_stream })
    }
}
