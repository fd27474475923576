//! Harness of the end-to-end tests: the built binary as a process, folders of configuration that are edited as an editor
//! does it, backends that tell what they received, clients that hide nothing (no retries), and the peers from PyPI and
//! Debian.
//!
//! A failure of the harness is a failure of the test: everything here panics with what was awaited, and until when.

pub mod client;
pub mod dns;
pub mod echo;
pub mod folder;
pub mod frames;
pub mod h2spec;
pub mod load;
pub mod machine;
pub mod memory;
pub mod pebble;
pub mod peers;
pub mod pki;
pub mod process;
pub mod raw;
pub mod shared;
pub mod sut;
pub mod tls;
pub mod tls_front;
pub mod wait;
pub mod yaml;

pub use client::{BOTH, Client, Protocol, Response};
pub use echo::EchoBackend;
pub use folder::ConfigFolder;
pub use process::{Options, Tidegate};
