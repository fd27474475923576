use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use tidegate_core::Origin;
use tidegate_snapshot::{DnsTarget, Endpoint, EndpointAddress, Health, Locality, Workload};

use super::workloads::is_subset;

/// One endpoint of a service's port, before subsets are told apart.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) address: MemberAddress,
    pub(crate) weight: u32,
    pub(crate) health: Health,
    pub(crate) locality: Locality,
    pub(crate) labels: Arc<BTreeMap<String, String>>,
    pub(crate) workload: Workload,
    pub(crate) origin: Origin,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum MemberAddress {
    Known(EndpointAddress),
    /// A name to resolve, with its port.
    Name(String, u16),
}

impl MemberAddress {
    /// Reads an IP address, a `unix://` path or a host name; none for the empty text.
    pub(crate) fn parse(address: &str, port: u16) -> Option<Self> {
        if address.is_empty() {
            return None;
        }
        if let Some(path) = address.strip_prefix("unix://") {
            return Some(Self::Known(EndpointAddress::Unix(PathBuf::from(path))));
        }
        Some(match address.parse::<IpAddr>() {
            Ok(ip) => Self::Known(EndpointAddress::Socket(SocketAddr::new(ip, port))),
            Err(_) => Self::Name(address.trim_end_matches('.').to_ascii_lowercase(), port),
        })
    }
}

impl Member {
    /// Whether it belongs to the subset of some labels; empty labels are the whole service.
    pub(crate) fn is_in(&self, labels: &BTreeMap<String, String>) -> bool {
        is_subset(labels, &self.labels)
    }

    /// As an endpoint of a service whose addresses are known; none for a name.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        let MemberAddress::Known(address) = &self.address else { return None };
        Some(Endpoint {
            address: address.clone(),
            weight: self.weight.max(1),
            health: self.health,
            locality: self.locality.clone(),
            workload: self.workload.clone(),
            origin: self.origin.clone(),
        })
    }

    /// As a target of a service that is resolved by DNS; an address resolves to itself, a Unix socket has no name.
    pub(crate) fn dns_target(&self) -> Option<DnsTarget> {
        let (host, port) = match &self.address {
            MemberAddress::Name(host, port) => (host.clone(), *port),
            MemberAddress::Known(EndpointAddress::Socket(address)) => (address.ip().to_string(), address.port()),
            MemberAddress::Known(EndpointAddress::Unix(_)) => return None,
        };
        Some(DnsTarget {
            host,
            port,
            weight: self.weight.max(1),
            locality: self.locality.clone(),
            workload: self.workload.clone(),
            origin: self.origin.clone(),
        })
    }
}
