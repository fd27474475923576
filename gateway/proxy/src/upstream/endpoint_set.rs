use std::sync::Arc;

use tidegate_snapshot::{DestinationService, Endpoint, Health, LoadBalancing};

use super::HostState;
use super::balance::Balancer;

/// The endpoints of a cluster at one moment, ready to be chosen from. Never changed after it was built.
#[derive(Debug)]
pub(super) struct EndpointSet {
    /// Sorted by address, each address once; unhealthy ones included.
    hosts: Box<[Arc<HostState>]>,
    balancer: Balancer,
}

impl EndpointSet {
    /// A set of hosts that are sorted by address and have no address twice.
    pub(super) fn new(hosts: Vec<Arc<HostState>>, load_balancing: LoadBalancing) -> Self {
        let hosts = hosts.into_boxed_slice();
        let balancer = Balancer::new(&hosts, load_balancing);
        Self { hosts, balancer }
    }

    pub(super) fn hosts(&self) -> &[Arc<HostState>] {
        &self.hosts
    }

    pub(super) fn balancer(&self) -> &Balancer {
        &self.balancer
    }

    /// Whether a set made of `endpoints` (sorted, each address once) of `service` would be this one.
    pub(super) fn describes(
        &self,
        endpoints: &[&Endpoint],
        service: &DestinationService,
        load_balancing: LoadBalancing,
    ) -> bool {
        self.balancer.policy() == load_balancing
            && self.hosts.len() == endpoints.len()
            && self.hosts.iter().zip(endpoints).all(|(host, endpoint)| {
                *host.address() == endpoint.address
                    && host.weight == endpoint.weight.max(1)
                    && host.health == endpoint.health
                    && host.locality == endpoint.locality
                    && host.destination.is(service, &endpoint.workload)
            })
    }

    pub(super) fn healthy(&self) -> usize {
        self.hosts.iter().filter(|host| host.health == Health::Healthy).count()
    }
}
