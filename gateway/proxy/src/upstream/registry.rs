use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use ahash::AHashMap;
use futures::future;
use parking_lot::Mutex;
use tidegate_snapshot::{Cluster, Discovery, Snapshot};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::ClusterHandle;
use super::cluster::{ClusterRuntime, Endpoints};
use super::dns::DnsDiscovery;
use super::resolver::{DnsOptions, Resolver};
use crate::telemetry::Destinations;

/// Source of identities that are never used twice.
#[derive(Debug, Default)]
pub(super) struct Identities(AtomicU64);

impl Identities {
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
}

/// The clusters that any Snapshot in use has, by name. Survives Snapshots; used by the control plane only.
///
/// It holds nothing alive: a cluster's runtime, its counters and its DNS task end when the last handle is dropped.
#[derive(Debug)]
pub(crate) struct ClusterRegistry {
    runtimes: Mutex<AHashMap<Arc<str>, Weak<ClusterRuntime>>>,
    identities: Arc<Identities>,
    destinations: Arc<Destinations>,
    resolver: Arc<Resolver>,
    control: Handle,
}

impl ClusterRegistry {
    /// A registry without clusters. DNS tasks run on `control`, whose runtime must outlive the registry's handles and
    /// have time and I/O enabled; `destinations` are those of the metrics that requests are counted in.
    pub(crate) fn new(destinations: Arc<Destinations>, dns: DnsOptions, control: Handle) -> Self {
        Self {
            runtimes: Mutex::default(),
            identities: Arc::default(),
            destinations,
            resolver: Arc::new(Resolver::new(dns)),
            control,
        }
    }

    /// Handles for a Snapshot's clusters, in the order of [`Snapshot::clusters`].
    ///
    /// Counters are taken over by cluster name and address, DNS answers by cluster name and target. What is new starts
    /// (a DNS task resolves at once); nothing of other Snapshots changes. A Snapshot that is not served after all costs
    /// nothing: drop the handles.
    pub(crate) fn prepare(&self, snapshot: &Snapshot) -> Vec<Arc<ClusterHandle>> {
        let mut runtimes = self.runtimes.lock();
        runtimes.retain(|_, runtime| runtime.strong_count() > 0);
        snapshot
            .clusters()
            .iter()
            .map(|cluster| {
                let runtime = runtimes.get(&cluster.name).and_then(Weak::upgrade).unwrap_or_else(|| {
                    let runtime = Arc::new(ClusterRuntime::new(self.identities.clone()));
                    runtimes.insert(cluster.name.clone(), Arc::downgrade(&runtime));
                    runtime
                });
                Arc::new(self.handle(cluster, runtime))
            })
            .collect()
    }

    fn handle(&self, cluster: &Arc<Cluster>, runtime: Arc<ClusterRuntime>) -> ClusterHandle {
        let destination = self.destinations.intern(&cluster.service, &Default::default());
        let endpoints = match &cluster.discovery {
            Discovery::Static(endpoints) => Endpoints::Pinned(runtime.static_set(
                endpoints,
                &destination,
                cluster.load_balancing,
                &self.destinations,
            )),
            Discovery::Dns(targets) => Endpoints::Live(DnsDiscovery::take_over(
                &runtime,
                cluster,
                targets,
                &self.destinations,
                &self.resolver,
                &self.control,
            )),
        };
        ClusterHandle::new(cluster.clone(), runtime, destination, endpoints)
    }

    /// Waits until every DNS cluster of `handles` has endpoints or has failed to get some, but not beyond `deadline`.
    /// Clusters that already had an answer cost no time. Cancel safe.
    pub(crate) async fn warm(&self, handles: &[Arc<ClusterHandle>], deadline: Instant) {
        let waiting = handles.iter().filter_map(|handle| handle.dns()).map(|dns| dns.answered());
        if timeout_at(deadline, future::join_all(waiting)).await.is_err() {
            tracing::warn!("some names are not resolved yet; their clusters have no endpoints until they are");
        }
    }

    /// Forgets clusters that no Snapshot in use has any more. Call it after an old Snapshot was let go; without it
    /// they are forgotten at the next [`ClusterRegistry::prepare`].
    pub(crate) fn retire(&self) {
        self.runtimes.lock().retain(|_, runtime| runtime.strong_count() > 0);
        self.destinations.sweep();
    }
}
