//! HTTP/2 (RFC 9113) and of its header compression (RFC 7541), without any I/O.
//!
//! A [`Connection`] takes bytes and gives events; it is told what to send and gives bytes. It reads no clock, opens no socket
//! and starts no task:
//!
//! ```
//! use tidegate_http2::{Connection, ConnectionError, Event, Field, Settings, Then};
//!
//! fn serve(connection: &mut Connection, mut read: &[u8]) -> Result<(), ConnectionError> {
//!     loop {
//!         let received = connection.receive(read)?;
//!         read = &read[received.consumed..];
//!         let Some(event) = received.event else { return Ok(()) };
//!         match event {
//!             Event::Request { stream, head, end_stream: _ } => {
//!                 let status = if head.path() == Some(b"/") { 200 } else { 404 };
//!                 let fields = [Field::new(b"server", b"tidegate")];
//!                 // An error means that the stream has ended meanwhile, which an event tells as well.
//!                 let _ = connection.send_headers(stream, status, fields, Then::End);
//!             }
//!             Event::Data { stream, bytes, .. } => {
//!                 let length = bytes.len();
//!                 connection.release(stream, length);
//!             }
//!             Event::Malformed { stream, reason, .. } => connection.reset(stream, reason.code()),
//!             Event::TooLarge { stream, .. } => {
//!                 let _ = connection.send_headers(stream, 431, [], Then::End);
//!             }
//!             _ => {}
//!         }
//!     }
//! }
//!
//! let mut connection = Connection::new(Settings::default());
//! serve(&mut connection, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
//! let to_write = connection.output().len();
//! connection.advance_output(to_write);
//! ```
//!
//! **What the caller does:** write [`Connection::output`] and say so by [`Connection::advance_output`]; read only while
//! [`Connection::should_read`]; feed each read to [`Connection::receive`] until it has no event; offer a body to
//! [`Connection::send_data`] again when a [`Writable`](Event::Writable) comes or output was written; release what it consumed;
//! keep time (an idle connection, one that does not acknowledge SETTINGS, streams that are stalled); close after an error or
//! when [`Connection::is_finished`]. It calls [`Connection::release_memory`] when a connection becomes idle, and
//! [`Connection::forgive`] now and then.
//!
//! **A client** is a [`Connection<Client>`], made by [`Connection::connect`]: it [opens](Connection::open) streams and gets
//! [`ClientEvent`]s. All else is as with a server.
//!
//! **What it owns:** frames, streams' states, flow control in both directions, header compression, the rules that make a
//! message well-formed, and bounds on everything that a peer controls ([`Limits`], [`Flood`]).
//!
//! **What it does not:** routing, normalization of paths, order of answers between streams, priorities (RFC 9113 section 5.3
//! deprecates them; the `priority` field of RFC 9218 is a field as any other), server push, and tunnels by CONNECT as a client.
//!
//! **Invariant:** nothing that a peer sends makes it panic, or hold more than its settings say.

mod connection;
mod error;
mod event;
mod fields;
mod flood;
mod frame;
mod hpack;
mod known;
mod output;
mod request;
mod response;
mod role;
mod settings;
mod stream_id;
mod streams;

pub use connection::{Connection, PREFACE, Received, RequestLine, Then};
pub use error::{ConnectionError, ErrorCode, Flood, Malformed, OpenError, SendError};
pub use event::{ClientEvent, Event, ResetBy};
pub use fields::{Field, Fields};
pub use hpack::HpackError;
pub use known::Known;
pub use request::RequestHead;
pub use response::ResponseHead;
pub use role::{Client, Role, Server};
pub use settings::{Limits, Settings};
pub use stream_id::StreamId;
