//! Where requests go: clusters at run time, their endpoints, and the choice of one endpoint.
//!
//! It owns what survives a Snapshot (active requests and counters by address, DNS answers, cursors, what TLS was set up
//! with), the load balancing over it, and how connections are opened. Who keeps them is the exchange's affair.
//!
//! Invariants: choosing an endpoint takes no lock and allocates nothing; an address that stays in its cluster keeps its
//! counters whatever else is swapped; a DNS answer touches its own cluster only; nothing outlives its last handle; no
//! connection serves requests of different trust.

mod balance;
mod cluster;
mod connector;
mod dns;
mod endpoint_set;
mod host;
mod registry;
mod resolver;
mod socket;
mod status;
#[cfg(test)]
pub(crate) mod testing;
mod tls;

pub(crate) use cluster::ClusterHandle;
pub(crate) use connector::{OpenError, PoolKey, SecureStream, Target};
pub(crate) use host::{ClusterTotals, ConnectionGuard, ConnectionOrigin, HostId, HostState, PickedHost};
pub(crate) use registry::ClusterRegistry;
pub use resolver::DnsOptions;
pub(crate) use socket::Socket;
pub use status::{ClusterStatus, DnsStatus, EndpointStatus};
pub(crate) use tls::{ClusterTls, TransportFailure};
