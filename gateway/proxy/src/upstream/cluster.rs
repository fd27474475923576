use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tidegate_snapshot::{Cluster, Endpoint, EndpointAddress};

use super::dns::DnsDiscovery;
use super::endpoint_set::EndpointSet;
use super::host::{ClusterTotals, HostCounters, HostRecord, HostState};
use super::registry::Identities;
use super::status::{ClusterStatus, DnsStatus, EndpointStatus};
use super::tls::{ClusterTls, TlsResources};
use super::{HostId, PickedHost};
use crate::telemetry::{Destination, Destinations};

/// What survives Snapshots of one cluster, keyed by its name.
#[derive(Debug)]
pub(super) struct ClusterRuntime {
    identities: Arc<Identities>,
    /// Whose turn it is under round robin.
    cursor: AtomicUsize,
    /// Sums of the hosts that are gone.
    departed: Mutex<ClusterTotals>,
    /// Sorted by address; hosts that nobody holds any more are forgotten later. Touched by the control plane only.
    records: Mutex<Vec<(EndpointAddress, Weak<HostRecord>)>>,
    /// The latest static set, DNS discovery and TLS, to be taken over by the next Snapshot if they are the same.
    latest: Mutex<Latest>,
}

#[derive(Debug, Default)]
pub(super) struct Latest {
    pub(super) set: Weak<EndpointSet>,
    pub(super) dns: Weak<DnsDiscovery>,
    pub(super) tls: Weak<ClusterTls>,
}

impl ClusterRuntime {
    pub(super) fn new(identities: Arc<Identities>) -> Self {
        Self {
            identities,
            // Gateways that start together should not all begin with the same host.
            cursor: AtomicUsize::new(fastrand::usize(..)),
            departed: Mutex::default(),
            records: Mutex::default(),
            latest: Mutex::default(),
        }
    }

    pub(super) fn latest(&self) -> &Mutex<Latest> {
        &self.latest
    }

    /// The counters of each address: those that exist, or new ones.
    pub(super) fn records(self: &Arc<Self>, addresses: &[&EndpointAddress]) -> Vec<Arc<HostRecord>> {
        let mut records = self.records.lock();
        records.retain(|(_, record)| record.strong_count() > 0);
        // Most clusters are small and stay as they are: no room for growth.
        let known = records.len();
        records.reserve_exact(addresses.len().saturating_sub(known));
        addresses
            .iter()
            .map(|address| {
                let at = records.binary_search_by(|(other, _)| other.cmp(address));
                if let Some(record) = at.ok().and_then(|at| records[at].1.upgrade()) {
                    return record;
                }
                let record = Arc::new(HostRecord {
                    id: HostId(self.identities.next()),
                    address: (*address).clone(),
                    counters: HostCounters::default(),
                    runtime: self.clone(),
                });
                let weak = Arc::downgrade(&record);
                match at {
                    Ok(at) => records[at].1 = weak,
                    Err(at) => records.insert(at, ((*address).clone(), weak)),
                }
                record
            })
            .collect()
    }

    /// TLS as `cluster` has it, which is the latest one if nothing changed.
    pub(super) fn tls(&self, cluster: &Cluster, resources: &TlsResources) -> Option<Arc<ClusterTls>> {
        let tls = cluster.tls.as_ref()?;
        let host = &cluster.service.host;
        let mut latest = self.latest.lock();
        if let Some(own) = latest.tls.upgrade().filter(|own| own.is(tls, host)) {
            return Some(own);
        }
        let own = Arc::new(ClusterTls::new(tls.clone(), host, resources.clone(), self.identities.clone()));
        latest.tls = Arc::downgrade(&own);
        Some(own)
    }

    /// Takes the counts of a host that is gone.
    pub(super) fn host_left(&self, counters: &HostCounters) {
        self.departed.lock().add(counters);
    }

    /// The set for `endpoints`, which is the latest one if nothing changed.
    pub(super) fn static_set(
        self: &Arc<Self>,
        endpoints: &[Endpoint],
        cluster: &Cluster,
        destinations: &Destinations,
    ) -> Arc<EndpointSet> {
        let mut sorted: Vec<&Endpoint> = endpoints.iter().collect();
        // The compiler sorts them; that no address comes twice is this crate's own need.
        sorted.sort_by(|a, b| a.address.cmp(&b.address));
        sorted.dedup_by(|a, b| a.address == b.address);
        let mut latest = self.latest.lock();
        if let Some(set) = latest.set.upgrade()
            && set.describes(&sorted, &cluster.service, cluster.load_balancing)
        {
            return set;
        }
        let addresses: Vec<_> = sorted.iter().map(|endpoint| &endpoint.address).collect();
        let hosts = sorted
            .iter()
            .zip(self.records(&addresses))
            .map(|(endpoint, record)| {
                Arc::new(HostState {
                    hostname: None,
                    weight: endpoint.weight.max(1),
                    health: endpoint.health,
                    locality: endpoint.locality.clone(),
                    destination: destinations.intern(&cluster.service, &endpoint.workload),
                    record,
                })
            })
            .collect();
        let set = Arc::new(EndpointSet::new(hosts, cluster.load_balancing));
        latest.set = Arc::downgrade(&set);
        set
    }
}

#[derive(Debug)]
pub(super) enum Endpoints {
    /// As compiled: a request sees the endpoints of its own Snapshot.
    Pinned(Arc<EndpointSet>),
    /// As the last DNS answer has it.
    Live(Arc<DnsDiscovery>),
}

/// A cluster of one Snapshot over the runtime that it shares with the same cluster of other Snapshots.
#[derive(Debug)]
pub(crate) struct ClusterHandle {
    cluster: Arc<Cluster>,
    runtime: Arc<ClusterRuntime>,
    destination: Arc<Destination>,
    endpoints: Endpoints,
    tls: Option<Arc<ClusterTls>>,
}

impl ClusterHandle {
    pub(super) fn new(
        cluster: Arc<Cluster>,
        runtime: Arc<ClusterRuntime>,
        destination: Arc<Destination>,
        endpoints: Endpoints,
        tls: Option<Arc<ClusterTls>>,
    ) -> Self {
        Self { cluster, runtime, destination, endpoints, tls }
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.cluster.name
    }

    /// What metrics call the cluster while no host was chosen.
    pub(crate) fn destination(&self) -> &Arc<Destination> {
        &self.destination
    }

    /// A healthy host for the next try, which counts as one active request until the result is dropped.
    ///
    /// Hosts in `tried` are avoided while there are others. None if there is no healthy host: the request is answered
    /// 503 UH. Takes no lock and allocates nothing.
    pub(crate) fn pick(&self, tried: &[HostId]) -> Option<PickedHost> {
        let pick = |set: &EndpointSet| {
            set.balancer().pick(set.hosts(), &self.runtime.cursor, tried).cloned().map(PickedHost::new)
        };
        match &self.endpoints {
            Endpoints::Pinned(set) => pick(set),
            Endpoints::Live(dns) => pick(&dns.set()),
        }
    }

    /// How connections are secured; none if they are not.
    pub(crate) fn tls(&self) -> Option<&Arc<ClusterTls>> {
        self.tls.as_ref()
    }

    /// How many hosts could be chosen now.
    pub(crate) fn healthy_hosts(&self) -> usize {
        self.with_set(EndpointSet::healthy)
    }

    pub(super) fn dns(&self) -> Option<&Arc<DnsDiscovery>> {
        match &self.endpoints {
            Endpoints::Pinned(_) => None,
            Endpoints::Live(dns) => Some(dns),
        }
    }

    #[cfg(test)]
    pub(super) fn pinned(&self) -> Option<&Arc<EndpointSet>> {
        match &self.endpoints {
            Endpoints::Pinned(set) => Some(set),
            Endpoints::Live(_) => None,
        }
    }

    fn with_set<T>(&self, read: impl FnOnce(&EndpointSet) -> T) -> T {
        match &self.endpoints {
            Endpoints::Pinned(set) => read(set),
            Endpoints::Live(dns) => read(&dns.set()),
        }
    }

    /// The cluster's counts so far, hosts that left included.
    pub(crate) fn totals(&self) -> ClusterTotals {
        // Held while the departed are read, so that none is counted twice.
        let records: Vec<_> = self.runtime.records.lock().iter().filter_map(|(_, it)| it.upgrade()).collect();
        let mut totals = *self.runtime.departed.lock();
        records.iter().for_each(|record| totals.add(&record.counters));
        totals
    }

    /// How name resolution goes; none for clusters whose endpoints are configured.
    pub(crate) fn dns_status(&self) -> Option<DnsStatus> {
        self.dns().map(|dns| dns.status())
    }

    /// The cluster as the admin server shows it.
    pub(crate) fn status(&self) -> ClusterStatus {
        ClusterStatus {
            name: self.cluster.name.clone(),
            protocol: self.cluster.protocol,
            load_balancing: self.cluster.load_balancing,
            dns: self.dns_status(),
            endpoints: self.with_set(|set| set.hosts().iter().map(|host| EndpointStatus::new(host)).collect()),
        }
    }
}
