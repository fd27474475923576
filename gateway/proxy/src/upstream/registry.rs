use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use ahash::AHashMap;
use futures::future;
use parking_lot::Mutex;
use tidegate_sds::SecretStore;
use tidegate_snapshot::{Cluster, Discovery, Snapshot};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::ClusterHandle;
use super::cluster::{ClusterRuntime, Endpoints};
use super::dns::DnsDiscovery;
use super::resolver::{DnsOptions, Resolver};
use super::tls::TlsResources;
use crate::telemetry::Destinations;

/// Source of identities that are never used twice.
#[derive(Debug, Default)]
pub(super) struct Identities(AtomicU64);

impl Identities {
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed)
    }
}

/// What [`ClusterRegistry::prepare_after`] gives.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// In the order of the Snapshot's clusters.
    pub(crate) handles: Vec<Arc<ClusterHandle>>,
    /// Those that the previous Snapshot did not have.
    pub(crate) made: Vec<Arc<ClusterHandle>>,
    /// Whether any cluster came, went or changed.
    pub(crate) is_other: bool,
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
    tls: TlsResources,
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
            tls: TlsResources { secrets: Arc::default(), system_roots: Arc::default() },
            control,
        }
    }

    /// The registry with another store than an empty one to ask for what clusters name.
    pub(crate) fn with_secrets(mut self, secrets: Arc<SecretStore>) -> Self {
        self.tls.secrets = secrets;
        self
    }

    #[cfg(test)]
    pub(super) fn with_timing(mut self, timing: super::resolver::Timing) -> Self {
        Arc::get_mut(&mut self.resolver).expect("nothing resolves yet").timing = timing;
        self
    }

    /// Handles for a Snapshot's clusters, in the order of [`Snapshot::clusters`].
    ///
    /// Counters are taken over by cluster name and address, DNS answers by cluster name and target. What is new starts
    /// (a DNS task resolves at once); nothing of other Snapshots changes. A Snapshot that is not served after all costs
    /// nothing: drop the handles.
    #[cfg(test)]
    pub(crate) fn prepare(&self, snapshot: &Snapshot) -> Vec<Arc<ClusterHandle>> {
        self.runtimes.lock().retain(|_, runtime| runtime.strong_count() > 0);
        self.prepare_after(&[], snapshot).handles
    }

    /// As [`ClusterRegistry::prepare`], where `previous` are the handles of the Snapshot that serves: a cluster that is
    /// one allocation in both keeps its handle, so that the cost is that of the clusters that changed.
    pub(crate) fn prepare_after(&self, previous: &[Arc<ClusterHandle>], snapshot: &Snapshot) -> Prepared {
        let mut runtimes = self.runtimes.lock();
        let mut known = previous.iter().peekable();
        let mut made = Vec::new();
        let handle = |cluster: &Arc<Cluster>| {
            // Both are sorted by name; where they are not, a handle is made anew over the same runtime.
            while known.next_if(|known| *known.name() < cluster.name).is_some() {}
            if let Some(known) = known.peek().filter(|known| Arc::ptr_eq(known.cluster(), cluster)) {
                return Arc::clone(known);
            }
            let runtime = runtimes.get(&cluster.name).and_then(Weak::upgrade).unwrap_or_else(|| {
                let runtime = Arc::new(ClusterRuntime::new(self.identities.clone()));
                runtimes.insert(cluster.name.clone(), Arc::downgrade(&runtime));
                runtime
            });
            let handle = Arc::new(self.handle(cluster, runtime));
            made.push(handle.clone());
            handle
        };
        let handles: Vec<_> = snapshot.clusters().iter().map(handle).collect();
        let is_other = !made.is_empty() || handles.len() != previous.len();
        Prepared { handles, made, is_other }
    }

    fn handle(&self, cluster: &Arc<Cluster>, runtime: Arc<ClusterRuntime>) -> ClusterHandle {
        let destination = self.destinations.intern(&cluster.service, &Default::default());
        let endpoints = match &cluster.discovery {
            Discovery::Static(endpoints) => {
                Endpoints::Pinned(runtime.static_set(endpoints, cluster, &self.destinations))
            }
            Discovery::Dns(targets) => Endpoints::Live(DnsDiscovery::take_over(
                &runtime,
                cluster,
                targets,
                &self.destinations,
                &self.resolver,
                &self.control,
            )),
        };
        let tls = runtime.tls(cluster, &self.tls);
        ClusterHandle::new(cluster.clone(), runtime, destination, endpoints, tls)
    }

    /// Waits until every DNS cluster of `handles` has endpoints or has failed to get some, but not beyond `deadline`.
    /// Clusters that already had an answer cost no time. Cancel safe.
    pub(crate) async fn warm(&self, handles: &[Arc<ClusterHandle>], deadline: Instant) {
        let waiting = handles.iter().filter_map(|handle| handle.dns()).map(|dns| dns.answered());
        if timeout_at(deadline, future::join_all(waiting)).await.is_err() {
            tracing::warn!("some names are not resolved yet; their clusters have no endpoints until they are");
        }
    }

    /// Forgets clusters that no Snapshot in use has any more. Call it after an old Snapshot was let go.
    pub(crate) fn retire(&self) {
        self.runtimes.lock().retain(|_, runtime| runtime.strong_count() > 0);
        self.destinations.sweep();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use arc_swap::ArcSwap;
    use tidegate_snapshot::{Endpoint, LoadBalancing};

    use super::*;
    use crate::upstream::testing::{cluster, endpoint, port, snapshot};
    use crate::upstream::{ConnectionOrigin, EndpointStatus};

    fn registry() -> ClusterRegistry {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        ClusterRegistry::new(Arc::default(), DnsOptions::default(), runtime.handle().clone())
    }

    fn static_cluster(name: &str, ports: &[u16]) -> Cluster {
        let endpoints: Vec<Endpoint> = ports.iter().map(|port| endpoint(*port, 1)).collect();
        cluster(name, LoadBalancing::LeastRequest, Discovery::Static(endpoints))
    }

    fn endpoint_status(handle: &ClusterHandle, number: u16) -> EndpointStatus {
        handle.status().endpoints.into_iter().find(|it| port(&it.address) == number).unwrap()
    }

    #[test]
    fn counters_of_an_address_survive_snapshots() {
        let registry = registry();
        let old = registry.prepare(&snapshot(vec![static_cluster("a", &[1]), static_cluster("b", &[1])]));
        let picked = old[0].pick(&[]).unwrap();
        picked.connected(ConnectionOrigin::New);
        let _connection = picked.connection_opened();

        let new = registry.prepare(&snapshot(vec![static_cluster("b", &[1]), static_cluster("a", &[1, 2])]));
        assert_eq!([new[0].name().as_ref(), new[1].name().as_ref()], ["b", "a"], "in the Snapshot's order");
        let status = endpoint_status(&new[1], 1);
        assert_eq!((status.rq_active, status.cx_active, status.cx_total, status.rq_total), (1, 1, 1, 1));
        assert_eq!(endpoint_status(&new[0], 1).rq_total, 0, "the same address in another cluster is another host");

        assert_eq!(new[1].pick(&[]).map(|host| port(host.address())), Some(2), "the old request still counts");
        drop(picked);
        assert_eq!(endpoint_status(&new[1], 1).rq_active, 0);
    }

    #[test]
    fn clusters_that_did_not_change_keep_their_handles() {
        let registry = registry();
        let first = snapshot(vec![static_cluster("a", &[1]), static_cluster("b", &[2]), static_cluster("c", &[3])]);
        let old = registry.prepare_after(&[], &first);
        assert_eq!((old.made.len(), old.is_other), (3, true));
        let [a, c] = [0, 2].map(|at: usize| first.clusters()[at].clone());
        let all = vec![a, Arc::new(static_cluster("bb", &[2])), c];
        let listeners: Vec<Arc<tidegate_snapshot::Listener>> = Vec::new();
        let second = Snapshot::new(listeners, all, first.mesh().clone());
        let new = registry.prepare_after(&old.handles, &second);
        assert_eq!(new.made.iter().map(|made| &**made.name()).collect::<Vec<_>>(), ["bb"]);
        assert!(Arc::ptr_eq(&new.handles[0], &old.handles[0]) && Arc::ptr_eq(&new.handles[2], &old.handles[2]));
        assert!(!registry.prepare_after(&new.handles, &second).is_other);
        let fewer = Snapshot::new(second.listeners().iter().cloned(), Vec::new(), second.mesh().clone());
        assert!(registry.prepare_after(&new.handles, &fewer).is_other);
    }

    #[test]
    fn a_request_sees_the_endpoints_of_its_own_snapshot() {
        let registry = registry();
        let old = registry.prepare(&snapshot(vec![static_cluster("a", &[1])]));
        let new = registry.prepare(&snapshot(vec![static_cluster("a", &[2])]));
        assert_eq!(old[0].pick(&[]).map(|host| port(host.address())), Some(1));
        assert_eq!(new[0].pick(&[]).map(|host| port(host.address())), Some(2));
    }

    #[test]
    fn what_has_not_changed_is_shared_and_what_is_gone_is_forgotten() {
        let registry = registry();
        let one = registry.prepare(&snapshot(vec![static_cluster("a", &[2, 1, 2])]));
        let two = registry.prepare(&snapshot(vec![static_cluster("a", &[1, 2])]));
        assert_eq!(one[0].healthy_hosts(), 2, "an address counts once");
        assert!(Arc::ptr_eq(one[0].pinned().unwrap(), two[0].pinned().unwrap()));

        let heavier =
            cluster("a", LoadBalancing::LeastRequest, Discovery::Static(vec![endpoint(1, 1), endpoint(2, 9)]));
        let three = registry.prepare(&snapshot(vec![heavier]));
        assert_eq!(endpoint_status(&three[0], 2).weight, 9);

        drop((one, two, three));
        registry.retire();
        assert!(registry.runtimes.lock().is_empty());
    }

    #[test]
    fn a_cluster_keeps_the_counts_of_hosts_that_left() {
        let registry = registry();
        let old = registry.prepare(&snapshot(vec![static_cluster("a", &[1])]));
        let host = old[0].pick(&[]).unwrap();
        host.connected(ConnectionOrigin::New);
        host.answered(200);
        host.answered(503);
        host.timed_out();
        host.connect_failed();
        let new = registry.prepare(&snapshot(vec![static_cluster("a", &[2])]));
        let check = |requests_active| {
            let totals = new[0].totals();
            assert_eq!((totals.rq_total, totals.rq_success, totals.rq_error, totals.rq_timeout), (1, 1, 3, 1));
            assert_eq!((totals.cx_total, totals.cx_connect_fail, totals.rq_active), (2, 1, requests_active));
        };
        check(1);
        drop((old, host));
        check(0);
    }

    #[test]
    fn picking_from_many_threads_while_snapshots_change_loses_no_count() {
        let registry = registry();
        let make = |generation: u16| {
            let ports: Vec<u16> = (1..=8).filter(|port| *port == 1 || !(port + generation).is_multiple_of(3)).collect();
            registry.prepare(&snapshot(vec![static_cluster("a", &ports)])).remove(0)
        };
        let keep = make(0);
        let published = Arc::new(ArcSwap::new(make(1)));
        let stop = Arc::new(AtomicBool::new(false));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (published, stop) = (published.clone(), stop.clone());
                thread::spawn(move || {
                    let (mut picks, mut held) = (0u64, Vec::new());
                    while !stop.load(Ordering::Relaxed) || picks < 1000 {
                        let host = published.load().pick(&[]).unwrap();
                        host.connected(ConnectionOrigin::Pooled);
                        picks += 1;
                        held.push(host);
                        if held.len() > 20 {
                            held.clear();
                        }
                    }
                    picks
                })
            })
            .collect();
        (0..2000).for_each(|generation| published.store(make(generation)));
        stop.store(true, Ordering::Relaxed);
        let picks: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        let totals = keep.totals();
        assert_eq!((totals.rq_total, totals.rq_active), (picks, 0));
    }
}
