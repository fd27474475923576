//! The admin interface over real sockets, in front of a configuration that has one of everything.

mod config_dump;
mod http;
mod support;
