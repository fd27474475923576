//! The data plane over real sockets: raw clients in front, small backends behind, Snapshots built by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backend;
mod client;
mod harness;
mod http2;
mod lifecycle;
mod limits;
mod proxying;
mod replies;
mod retries;
mod upgrades;
