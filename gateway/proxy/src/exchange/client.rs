use std::io;
use std::task::{Context, Poll};

use crate::message::{Fields, ResponseHead};

/// How the answer under way ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    /// With its head.
    Nothing,
    /// With its head, since the client has asked for no more; an answer to GET may have a body.
    Head,
    /// With the bytes that its head has announced.
    Length,
    /// With an end that is said when it has come.
    Open,
}

/// How a client has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Departure {
    /// Its connection has ended.
    Disconnected,
    /// It took this request back, and its connection serves on.
    Reset,
    /// It broke the protocol in the middle of this request.
    Expelled,
}

/// Part of a request's body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) length: usize,
    /// Nothing follows.
    pub(crate) end: bool,
}

/// Why no more of a request comes.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// The client has gone, broke its connection off, or takes the request back.
    Gone,
    /// Its body is not framed as its protocol asks.
    Malformed,
}

impl From<io::Error> for ClientError {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// The client's side of one request: an HTTP/1.1 connection while it serves it, or a stream of an HTTP/2 connection.
pub(crate) trait Client {
    /// Whether all of the request's body has been read.
    fn body_is_over(&self) -> bool;

    /// The length that the client has announced of what is left of its body; none if only its end will tell.
    fn body_length(&self) -> Option<u64>;

    /// Reads a part of the body into `room`, without any framing. Call it only while the body is not over.
    fn poll_body(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<Result<Part, ClientError>>;

    /// Resolves when the client has gone, as far as that shows: bytes that it sends meanwhile are read ahead to a bound, and
    /// beyond that it counts as there.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// How the client has gone, once it has.
    fn departure(&self) -> Departure;

    /// Whether everything that was sent has left, as far as flow control knows.
    fn is_drained(&self) -> bool;

    /// How much of the answer's body could leave now; resolves when that is something. What is sent beyond it is kept here.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<usize>;

    /// Lets everything leave that was sent.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Sends an interim answer (1xx).
    fn send_interim(&mut self, head: &ResponseHead);

    /// Begins the final answer. Its head may wait for the first [`Client::send`], which always follows.
    fn send_head(&mut self, head: &ResponseHead, encoding: Encoding, closes: bool);

    /// Sends `data` of the answer's body, all of it: what cannot leave yet is kept. Call it when [`Client::is_drained`] or
    /// right after [`Client::send_head`].
    ///
    /// # Errors
    /// The client has gone.
    fn send(&mut self, cx: &mut Context<'_>, data: &[u8], end: bool) -> io::Result<()>;

    /// Ends the answer with trailers, if the client's protocol has them; as [`Client::send`] of nothing otherwise.
    ///
    /// # Errors
    /// The client has gone.
    fn send_trailers(&mut self, cx: &mut Context<'_>, trailers: &Fields) -> io::Result<()>;

    /// A number that changes as often as a request is looked at for whether anything moves; none if it must keep time by
    /// itself.
    fn tick(&self) -> Option<u64>;

    /// Whether its connection should not serve further requests.
    fn is_leaving(&self) -> bool;
}
