//! HTTP/2 from clients: one task drives a connection, one each of its requests.
//!
//! What the protocol is lies in `tidegate-http2`; here are its bytes, its time and its requests, which run through the same
//! exchange as those of HTTP/1.
//!
//! Invariants:
//! - answers of several streams that are ready at once leave in one write;
//! - what waits for one stream is bounded by its window (requests) and by one read of its backend (answers);
//! - a request's task never outlives its connection by more than one poll.

mod session;
mod state;
mod stream;

pub(crate) use session::serve;
