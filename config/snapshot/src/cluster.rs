use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tidegate_core::{Origin, ResourceKey};

use crate::ClientTls;

/// A set of endpoints that are alike: one service, one port, one subset.
#[derive(Clone, Debug, Serialize)]
pub struct Cluster {
    /// `outbound|80|v1|reviews.default.svc.cluster.local`.
    pub name: Arc<str>,
    pub protocol: UpstreamProtocol,
    pub load_balancing: LoadBalancing,
    /// Limit for one attempt to connect.
    pub connect_timeout: Duration,
    /// How connections are secured; none is plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Arc<ClientTls>>,
    pub discovery: Discovery,
    pub service: DestinationService,
    /// The Service or ServiceEntry, then the DestinationRule.
    #[serde(skip)]
    pub sources: Vec<(ResourceKey, Origin)>,
}

/// What metrics call the destination.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DestinationService {
    /// FQDN or external host.
    pub host: String,
    pub name: String,
    pub namespace: String,
}

/// The protocol that endpoints of a cluster speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UpstreamProtocol {
    Http1,
    /// With prior knowledge.
    Http2,
    /// As the client speaks: `useClientProtocol`.
    AsDownstream,
}

/// How one endpoint of several is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LoadBalancing {
    /// The better of two random choices by active requests, weighted.
    #[default]
    LeastRequest,
    RoundRobin,
    Random,
}

/// Where the endpoints come from.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Discovery {
    /// Known when the Snapshot was compiled; sorted by address.
    Static(Vec<Endpoint>),
    /// Resolved by the data plane, all addresses of all names; the last good answer is kept.
    Dns(Vec<DnsTarget>),
}

/// A name to resolve.
#[derive(Clone, Debug, Serialize)]
pub struct DnsTarget {
    pub host: String,
    pub port: u16,
    /// What every address of the name inherits; its own `address` is not used.
    pub weight: u32,
    pub locality: Locality,
    pub workload: Workload,
    #[serde(skip)]
    pub origin: Origin,
}

/// One place to send requests to.
#[derive(Clone, Debug, Serialize)]
pub struct Endpoint {
    pub address: EndpointAddress,
    /// At least 1.
    pub weight: u32,
    pub health: Health,
    pub locality: Locality,
    pub workload: Workload,
    #[serde(skip)]
    pub origin: Origin,
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum EndpointAddress {
    Socket(SocketAddr),
    /// A Unix socket: `unix:///path`.
    Unix(PathBuf),
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl Serialize for EndpointAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Health {
    #[default]
    Healthy,
    /// Known and skipped: not ready, or withdrawn.
    Unhealthy,
}

/// `region/zone/subzone`; empty parts are unknown.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub subzone: String,
}

/// What metrics call the workload behind an endpoint. Empty means unknown.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize)]
pub struct Workload {
    pub name: String,
    pub namespace: String,
    pub app: String,
    pub version: String,
    pub canonical_service: String,
    pub canonical_revision: String,
    pub cluster: String,
}
