//! The data plane over real sockets: raw clients in front, small backends behind, Snapshots built by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod backend;
mod certificates;
mod challenges;
mod client;
mod harness;
mod http2;
mod http2_backends;
mod lifecycle;
mod limits;
mod proxy_protocol;
mod proxying;
mod replies;
mod retries;
mod secure_backend;
mod slow_clients;
mod tcp;
mod tls;
mod tls_abuse;
mod tls_edge;
mod tls_failures;
mod tls_identity;
mod tls_streams;
mod upgrades;
mod upstream_tls;
