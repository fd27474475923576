//! HTTP/1.1 from clients: heads come in, bodies pass, answers leave.
//!
//! Invariants: nothing of a request goes on before its head was judged as a whole; a pipelined request waits for its turn;
//! an idle connection holds no buffer.

mod downstream;
mod reader;

pub(crate) use downstream::Downstream;
pub(crate) use reader::{Expected, Incoming};
