//! The built binary with real peers: what a user of the gateway can see, one module for each promise.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod abuse;
mod access_log;
mod acme;
mod admin;
mod as_envoy;
mod bad_input;
mod demo;
mod edge;
mod folders;
mod framing;
mod listeners;
mod local_replies;
mod metrics;
mod path_normalization;
mod peers;
mod restart;
mod routing;
mod samples;
mod shutdown;
mod tls;
mod upstreams;
