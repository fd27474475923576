//! HTTP/1.1 from client to backend without anything in between that costs: one task reads a request, edits its head where
//! it stands, writes it to a pooled connection and relays the answer.
//!
//! It serves every HTTP/1.1 request but upgrades whose backend speaks HTTP/1.1, plaintext or TLS. What it decides (routes,
//! headers, retries, answers) is decided by the same functions as everywhere. Bodies pass through one buffer of the
//! worker's thread; a connection owns memory only for what its peer did not take yet.
//!
//! Invariants:
//! - at most one read of a backend (64 KiB) waits for a client that does not take it, and the other way round;
//! - an upstream connection is used again only if request and answer ended where their framing says;
//! - nothing of a client's is sent before its head was judged as a whole.

mod answer;
mod client;
mod date;
mod downstream;
mod exchange;
mod http2_message;
mod http2_relay;
mod http2_upstream;
mod patience;
mod pool;
mod reader;
mod relay;
mod response_head;
mod scratch;
mod timer;
mod tunnel;
mod upstream;

pub(crate) use client::{Client, ClientError, Departure, Encoding, Part};
pub(crate) use downstream::Downstream;
pub(crate) use exchange::{Ended, forward, reply};
pub(crate) use reader::{Expected, Incoming};
pub(crate) use scratch::with_scratch;
pub(crate) use timer::Timer;
pub(crate) use tunnel::Upgraded;
pub(crate) use upstream::Upstreams;
