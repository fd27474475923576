//! Secret discovery over gRPC: Envoy's `SecretDiscoveryService`, as a server over our slots and as a client that fills
//! them. Protobuf stays in this crate.
//!
//! [`SdsServer`] lets Envoys, and other Tidegates, read the secrets of a [`tidegate_sds::SecretStore`]: the three
//! methods of the service, on a Unix socket and on TCP, to clients that an [`Authorization`] names. [`SdsClient`] keeps
//! secrets of a provider in the store.
//!
//! It does not own material: the store judges what the client offers, and the server sends what the store serves.
//!
//! Invariants: a client is never told apart what it may not read from what does not exist; what a peer controls
//! (connections, streams, names, message sizes, texts) is bounded; no key is logged or shown. Copies of keys that this
//! crate makes are wiped; the buffers of the gRPC stack are not its own, and are not.

mod authorization;
mod client;
mod monitor;
mod payload;
mod server;
mod service;
mod subscription;
mod time;
mod tls;

pub use authorization::{Authorization, Identity, NamePattern, Rule, RuleError, Who};
pub use client::{
    AddressError, BackOff, ClientTls, ConnectionState, NameState, NameStatus, ProviderAddress, ProviderOptions,
    SdsClient, SdsClientStatus, provider_and_resource,
};
pub use monitor::{Monitor, Nack, Protocol, ServerCounters, StreamStatus};
pub use server::{BindError, Limits, SdsServer, ServeError, ServerOptions, TcpOptions, TcpSecurity, UnixOptions};
pub use subscription::{ResourceState, ResourceStatus};
