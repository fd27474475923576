//! The built binary on the command line: what it prints, how it ends.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod certs;
mod commands;
mod common;
mod demo;
mod explain;
mod validate;
