//! From a set of resources to the configuration that is served.
//!
//! It owns what objects mean *together*: which servers share a port, which VirtualServices bind to them and in which
//! order their routes stand, which service and which endpoints a destination names, which DestinationRule applies. It
//! does not own what one object must keep by itself (`tidegate_resources::validate`), and does no I/O.
//!
//! Invariants: [`compile`] is pure and deterministic: equal resources give an equal Snapshot, whatever order they came
//! in. It never fails as a whole and never panics, whatever the objects say: an object that cannot be used costs its
//! own routes and nothing else, and is named in a diagnostic. What cannot be enforced is refused, not widened.
//!
//! The rules are those of istiod (`pilot/pkg/model/gateway.go`, `push_context.go`,
//! `pilot/pkg/networking/core/route`, `.../core/cluster_builder.go`), as Tidegate's semantics reference lists them.

mod bindings;
mod client_tls;
mod cluster_table;
mod clusters;
mod compile;
mod destination_rules;
mod findings;
mod gateways;
mod host_index;
mod listeners;
mod memory;
mod mesh;
mod names;
mod protocol;
mod registry;
mod routes;
mod secrets;
mod server_tls;
mod tables;
mod tcp_routes;
mod tls_parameters;
mod virtual_hosts;
mod visibility;

pub use compile::{Compilation, CompileOptions, Compiler, Work, compile};

#[cfg(test)]
mod tests;
