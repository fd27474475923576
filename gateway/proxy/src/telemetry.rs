//! What the gateway says about requests: response flags, metrics, access logs.
//!
//! It owns names, labels, formats and the machinery that keeps all of it off the request path's back. It decides
//! nothing about requests.
//!
//! Invariants: counting or logging a request takes no lock and never waits; no label and no table grows with what a
//! client sends; nothing that a client sends can start a line of a log or end a string in one.

mod access_log;
mod destination;
mod exposition;
mod facts;
mod flags;
mod histogram;
mod listener;
mod log_line;
mod log_writer;
mod metrics;
mod node;
mod reload;
mod scrape;
mod series;
mod tcp;
mod text;

pub(crate) use access_log::{AccessLogSink, AccessLogger, LogCounters};
pub(crate) use destination::{Destination, Destinations};
pub(crate) use facts::RequestFacts;
pub(crate) use flags::ResponseFlags;
pub(crate) use listener::{ListenerMetrics, ParseError};
pub(crate) use metrics::{GrpcStatus, Metrics, RequestOutcome, RequestProtocol};
pub use node::NodeInfo;
pub(crate) use tcp::TcpCounters;
pub(crate) use text::{append_ip, append_number};
