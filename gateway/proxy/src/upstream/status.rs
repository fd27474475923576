use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use tidegate_snapshot::{EndpointAddress, Health, LoadBalancing, Locality, UpstreamProtocol};

use super::HostState;

/// A cluster as the admin server's `/clusters` shows it.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// `outbound|80|v1|reviews.default.svc.cluster.local`.
    pub name: Arc<str>,
    pub protocol: UpstreamProtocol,
    pub load_balancing: LoadBalancing,
    /// State of name resolution; none for clusters whose endpoints are configured.
    pub dns: Option<DnsStatus>,
    /// Sorted by address.
    pub endpoints: Vec<EndpointStatus>,
}

/// How name resolution of a cluster goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsStatus {
    /// When an answer with addresses last came.
    pub last_success: Option<SystemTime>,
    /// Why the latest query of some name failed; none once its next one succeeds.
    pub last_error: Option<String>,
    /// Queries so far, one for each name and address family, and what became of them.
    pub attempts: u64,
    pub successes: u64,
    /// The name exists and has no address of the family.
    pub empty: u64,
    pub failures: u64,
}

/// An endpoint and its counters, named as Envoy names them.
#[derive(Clone, Debug)]
pub struct EndpointStatus {
    pub address: EndpointAddress,
    /// The DNS name that gave the address.
    pub hostname: Option<Arc<str>>,
    pub health: Health,
    /// At least 1.
    pub weight: u32,
    pub locality: Locality,
    pub cx_active: u64,
    pub cx_connect_fail: u64,
    pub cx_total: u64,
    pub rq_active: u64,
    pub rq_error: u64,
    pub rq_success: u64,
    pub rq_timeout: u64,
    pub rq_total: u64,
}

impl EndpointStatus {
    pub(super) fn new(host: &HostState) -> Self {
        let counters = &host.record.counters;
        Self {
            address: host.address().clone(),
            hostname: host.hostname.clone(),
            health: host.health,
            weight: host.weight,
            locality: host.locality.clone(),
            cx_active: counters.cx_active.load(Relaxed).into(),
            cx_connect_fail: counters.cx_connect_fail.load(Relaxed),
            cx_total: counters.cx_total.load(Relaxed),
            rq_active: counters.rq_active.load(Relaxed).into(),
            rq_error: counters.rq_error.load(Relaxed),
            rq_success: counters.rq_success.load(Relaxed),
            rq_timeout: counters.rq_timeout.load(Relaxed),
            rq_total: counters.rq_total.load(Relaxed),
        }
    }
}
