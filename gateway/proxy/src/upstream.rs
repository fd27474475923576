//! Where requests go: clusters at run time, their endpoints, and the choice of one endpoint.
//!
//! It owns what survives a Snapshot (active requests and counters by address, DNS answers, cursors) and the load
//! balancing over it. It does not connect, pool or speak any protocol.
//!
//! Invariants: choosing an endpoint takes no lock and allocates nothing; an address that stays in its cluster keeps its
//! counters whatever else is swapped; a DNS answer touches its own cluster only; nothing outlives its last handle.

mod balance;
mod cluster;
mod dns;
mod endpoint_set;
mod host;
mod registry;
mod resolver;
mod status;
#[cfg(test)]
pub(crate) mod testing;

pub(crate) use cluster::ClusterHandle;
pub(crate) use host::{ClusterTotals, ConnectionGuard, ConnectionOrigin, HostId, HostState, PickedHost};
pub(crate) use registry::ClusterRegistry;
pub use resolver::DnsOptions;
pub use status::{ClusterStatus, DnsStatus, EndpointStatus};
