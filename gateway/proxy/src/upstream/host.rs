use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use tidegate_snapshot::{EndpointAddress, Health, Locality};

use super::cluster::ClusterRuntime;
use crate::telemetry::Destination;

/// Identity of an address within its cluster for as long as its counters live. Never used twice by one registry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct HostId(pub(super) u64);

/// Counters in the shape that Envoy's `/clusters` shows. All only grow but the two gauges.
///
/// Aligned so that two busy hosts never share a cache line.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct HostCounters {
    pub(super) rq_active: AtomicU32,
    pub(super) cx_active: AtomicU32,
    pub(super) rq_total: AtomicU64,
    pub(super) rq_success: AtomicU64,
    pub(super) rq_error: AtomicU64,
    pub(super) rq_timeout: AtomicU64,
    pub(super) cx_total: AtomicU64,
    pub(super) cx_connect_fail: AtomicU64,
}

/// What a cluster has counted over all of its hosts, those that left included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ClusterTotals {
    /// Requests under way.
    pub(crate) rq_active: u64,
    /// Open connections.
    pub(crate) cx_active: u64,
    pub(crate) rq_total: u64,
    pub(crate) rq_success: u64,
    pub(crate) rq_error: u64,
    pub(crate) rq_timeout: u64,
    pub(crate) cx_total: u64,
    pub(crate) cx_connect_fail: u64,
}

impl ClusterTotals {
    pub(super) fn add(&mut self, counters: &HostCounters) {
        self.rq_active += u64::from(counters.rq_active.load(Relaxed));
        self.cx_active += u64::from(counters.cx_active.load(Relaxed));
        self.rq_total += counters.rq_total.load(Relaxed);
        self.rq_success += counters.rq_success.load(Relaxed);
        self.rq_error += counters.rq_error.load(Relaxed);
        self.rq_timeout += counters.rq_timeout.load(Relaxed);
        self.cx_total += counters.cx_total.load(Relaxed);
        self.cx_connect_fail += counters.cx_connect_fail.load(Relaxed);
    }
}

/// The part of a host that survives Snapshots and DNS answers: one for each address of a cluster.
#[derive(Debug)]
pub(super) struct HostRecord {
    pub(super) id: HostId,
    pub(super) address: EndpointAddress,
    pub(super) counters: HostCounters,
    pub(super) runtime: Arc<ClusterRuntime>,
}

/// A host that goes leaves its counts with its cluster, so that the cluster's sums never fall.
impl Drop for HostRecord {
    fn drop(&mut self) {
        self.runtime.host_left(&self.counters);
    }
}

/// One endpoint as one endpoint set describes it, over counters that outlive the set.
#[derive(Debug)]
pub(crate) struct HostState {
    /// The DNS name that gave the address.
    pub(super) hostname: Option<Arc<str>>,
    pub(super) weight: u32,
    pub(super) health: Health,
    pub(super) locality: Locality,
    pub(super) destination: Arc<Destination>,
    pub(super) record: Arc<HostRecord>,
}

impl HostState {
    pub(crate) fn id(&self) -> HostId {
        self.record.id
    }

    pub(crate) fn address(&self) -> &EndpointAddress {
        &self.record.address
    }

    /// What metrics call this destination.
    pub(crate) fn destination(&self) -> &Arc<Destination> {
        &self.destination
    }

    /// Requests that are under way to the address, over all Snapshots and workers.
    pub(crate) fn active_requests(&self) -> u32 {
        self.record.counters.rq_active.load(Relaxed)
    }

    /// The request got a connection: a new one, or one from the pool.
    pub(crate) fn connected(&self, origin: ConnectionOrigin) {
        let counters = &self.record.counters;
        counters.rq_total.fetch_add(1, Relaxed);
        if origin == ConnectionOrigin::New {
            counters.cx_total.fetch_add(1, Relaxed);
        }
    }

    /// An attempt to connect failed or timed out.
    pub(crate) fn connect_failed(&self) {
        let counters = &self.record.counters;
        counters.cx_total.fetch_add(1, Relaxed);
        counters.cx_connect_fail.fetch_add(1, Relaxed);
        counters.rq_error.fetch_add(1, Relaxed);
    }

    /// The host answered. As in Envoy a 5xx is an error and all else a success.
    pub(crate) fn answered(&self, status: u16) {
        let counters = &self.record.counters;
        if status >= 500 { &counters.rq_error } else { &counters.rq_success }.fetch_add(1, Relaxed);
    }

    /// The request to the host ended without an answer: reset, closed, broken protocol.
    pub(crate) fn failed(&self) {
        self.record.counters.rq_error.fetch_add(1, Relaxed);
    }

    /// The host did not answer in time.
    pub(crate) fn timed_out(&self) {
        self.record.counters.rq_timeout.fetch_add(1, Relaxed);
        self.record.counters.rq_error.fetch_add(1, Relaxed);
    }

    /// Counts a connection to the host as open until the guard is dropped.
    pub(crate) fn connection_opened(&self) -> ConnectionGuard {
        self.record.counters.cx_active.fetch_add(1, Relaxed);
        ConnectionGuard(self.record.clone())
    }
}

/// Whether a request's connection was made for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ConnectionOrigin {
    New,
    Pooled,
}

/// An open connection; see [`HostState::connection_opened`].
#[derive(Debug)]
pub(crate) struct ConnectionGuard(Arc<HostRecord>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.counters.cx_active.fetch_sub(1, Relaxed);
    }
}

/// The host chosen for one try of a request. The host counts one active request until this is dropped.
#[derive(Debug)]
pub(crate) struct PickedHost(Arc<HostState>);

impl PickedHost {
    pub(super) fn new(host: Arc<HostState>) -> Self {
        host.record.counters.rq_active.fetch_add(1, Relaxed);
        let picked = Self(host);
        tidegate_core::panic_point("request", |subject| picked.address().to_string() == subject);
        picked
    }

    /// The host alone, to keep beyond the request.
    pub(crate) fn host(&self) -> &Arc<HostState> {
        &self.0
    }
}

impl Deref for PickedHost {
    type Target = HostState;

    fn deref(&self) -> &HostState {
        &self.0
    }
}

impl Drop for PickedHost {
    fn drop(&mut self) {
        self.0.record.counters.rq_active.fetch_sub(1, Relaxed);
    }
}
