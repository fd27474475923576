//! One request from its decision to its end: tries, relays, pools of connections to backends, answers of our own.
//!
//! Its client is a [`Client`]: an HTTP/1.1 connection while it serves the request, or a stream of an HTTP/2 connection. Its
//! backend is one try at a time, on HTTP/1.1 or HTTP/2, plaintext or TLS. What it decides (routes, headers, retries) is
//! decided by the same functions as everywhere. Bodies pass through one buffer of the worker's thread; a connection owns
//! memory only for what its peer did not take yet.
//!
//! Invariants:
//! - at most one read of a backend (64 KiB) waits for a client that does not take it, and the other way round;
//! - an upstream connection is used again only if request and answer ended where their framing says, and only for requests
//!   of the same trust;
//! - every request is counted and logged once, however it ends.

mod answer;
mod client;
mod date;
mod forward;
mod http1_relay;
mod http1_upstream;
mod http2_message;
mod http2_relay;
mod http2_upstream;
mod idle_pool;
mod patience;
mod response_head;
mod scratch;
mod timer;
mod tunnel;

pub(crate) use client::{Client, ClientError, Departure, Encoding, Part};
pub(crate) use forward::{Ended, forward, reply};
pub(crate) use http1_upstream::Upstreams;
pub(crate) use scratch::with_scratch;
pub(crate) use timer::Timer;
pub(crate) use tunnel::Upgraded;
