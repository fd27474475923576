//! What several test modules build clusters with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::Origin;
use tidegate_snapshot::{
    Cluster, DestinationService, Discovery, DnsTarget, Endpoint, EndpointAddress, Health, Listener, LoadBalancing,
    Locality, MeshSettings, Snapshot, UpstreamProtocol, Workload,
};

/// A healthy endpoint; `port` alone tells endpoints apart.
pub(crate) fn endpoint(port: u16, weight: u32) -> Endpoint {
    Endpoint {
        address: EndpointAddress::Socket(SocketAddr::from(([127, 0, 0, 1], port))),
        weight,
        health: Health::Healthy,
        locality: Locality::default(),
        workload: Workload::default(),
        origin: Origin::default(),
    }
}

pub(crate) fn target(host: &str, port: u16) -> DnsTarget {
    DnsTarget {
        host: host.into(),
        port,
        weight: 1,
        locality: Locality::default(),
        workload: Workload::default(),
        origin: Origin::default(),
    }
}

pub(crate) fn cluster(name: &str, load_balancing: LoadBalancing, discovery: Discovery) -> Cluster {
    Cluster {
        name: name.into(),
        protocol: UpstreamProtocol::Http1,
        load_balancing,
        connect_timeout: Duration::from_secs(10),
        tls: None,
        discovery,
        service: DestinationService { host: name.into(), name: name.into(), namespace: "default".into() },
        sources: Vec::new(),
    }
}

pub(crate) fn snapshot(clusters: Vec<Cluster>) -> Snapshot {
    Snapshot::new(Vec::<Listener>::new(), clusters.into_iter().map(Arc::new).collect(), MeshSettings::default())
}

/// The port of a socket address, by which tests name hosts.
pub(crate) fn port(address: &EndpointAddress) -> u16 {
    match address {
        EndpointAddress::Socket(address) => address.port(),
        EndpointAddress::Unix(_) => 0,
    }
}
