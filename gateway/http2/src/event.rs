//! What a connection tells the application.

use crate::error::{ErrorCode, Malformed};
use crate::fields::Fields;
use crate::request::RequestHead;
use crate::stream_id::StreamId;

/// Something that the peer did. Fields and data are borrowed until the next call.
#[derive(Debug)]
pub enum Event<'a> {
    /// A request opened a stream.
    Request { stream: StreamId, head: &'a mut RequestHead, end_stream: bool },
    /// A request opened a stream and cannot be served, because it is malformed. The stream is open: answer it (with 400), or
    /// [`reset`](crate::Connection::reset) it with [`Malformed::code`], which is what RFC 9113 section 8.1.1 asks for. Its
    /// body does not become events.
    Malformed { stream: StreamId, reason: Malformed, head: &'a mut RequestHead },
    /// The same for a request whose fields are more or larger than allowed (431). The head has what fitted; parts of the
    /// request that came behind are missing.
    TooLarge { stream: StreamId, head: &'a mut RequestHead },
    /// A piece of a request's body, not empty unless it is the last one. Its length counts against the peer's windows until
    /// it is [`release`](crate::Connection::release)d.
    Data { stream: StreamId, bytes: &'a [u8], end_stream: bool },
    /// The end of a request with fields behind its body.
    Trailers { stream: StreamId, fields: &'a mut Fields },
    /// A stream is no more. Nothing can be sent on it, nothing has to be released.
    Reset { stream: StreamId, code: ErrorCode, by: ResetBy },
    /// More can be sent on a stream that had been stopped by flow control, or, for [`StreamId::CONNECTION`], perhaps on each
    /// of them.
    Writable { stream: StreamId },
    /// The peer will not open streams with numbers above `last_stream` that it expects us to serve.
    GoAway { last_stream: StreamId, code: ErrorCode },
    /// The answer to a [`ping`](crate::Connection::ping).
    Pong { payload: [u8; 8] },
}

/// Who ended a stream before its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetBy {
    Peer,
    /// The connection, because of what the peer sent. RST_STREAM is in the output.
    Us(Malformed),
}
