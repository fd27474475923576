//! The admin interface over real sockets, in front of a configuration that has one of everything.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking; clippy exempts test functions, not their helpers")]

mod config_dump;
mod http;
mod support;
mod tls;
