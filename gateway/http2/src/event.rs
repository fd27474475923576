//! What a connection tells the application.

use crate::error::{ErrorCode, Malformed};
use crate::fields::Fields;
use crate::request::RequestHead;
use crate::response::ResponseHead;
use crate::stream_id::StreamId;

/// Something that a client did. Fields and data are borrowed until the next call.
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
    /// The client will leave. `last_stream` is about pushes, and says nothing.
    GoAway { last_stream: StreamId, code: ErrorCode },
    /// The answer to a [`ping`](crate::Connection::ping).
    Pong { payload: [u8; 8] },
}

/// Something that a server did. Fields and data are borrowed until the next call.
#[derive(Debug)]
pub enum ClientEvent<'a> {
    /// A response began.
    Response { stream: StreamId, head: &'a mut ResponseHead, end_stream: bool },
    /// A response before the response: a status of 1xx.
    Interim { stream: StreamId, head: &'a mut ResponseHead },
    /// As [`Event::Data`].
    Data { stream: StreamId, bytes: &'a [u8], end_stream: bool },
    /// As [`Event::Trailers`].
    Trailers { stream: StreamId, fields: &'a mut Fields },
    /// As [`Event::Reset`]. A malformed response is one by us; after [`ErrorCode::REFUSED_STREAM`] the request may be sent again.
    Reset { stream: StreamId, code: ErrorCode, by: ResetBy },
    /// As [`Event::Writable`].
    Writable { stream: StreamId },
    /// No stream can be opened any more. Requests on streams above `last_stream` were not looked at and may be sent again
    /// elsewhere; these streams are closed already, without an event of their own.
    GoAway { last_stream: StreamId, code: ErrorCode },
    /// As [`Event::Pong`].
    Pong { payload: [u8; 8] },
}

/// Who ended a stream before its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetBy {
    Peer,
    /// The connection, because of what the peer sent. RST_STREAM is in the output.
    Us(Malformed),
}
