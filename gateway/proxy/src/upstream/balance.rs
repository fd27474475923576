//! Choosing one of several hosts.
//!
//! Everything that weights ask for is worked out when the set is built; a choice reads shared memory and, for round
//! robin, moves one cursor. Source of the rules: Envoy, "Supported load balancers".

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tidegate_snapshot::{Health, LoadBalancing};

use super::{HostId, HostState};

/// How often a choice that was tried before is made again (Envoy's `host_selection_retry_max_attempts` as Istio sets it).
const REPICKS: usize = 5;

/// Longest exact round-robin schedule. Weights that need a longer one are spread by a low-discrepancy sequence.
const MAX_SCHEDULE: u64 = 2048;

/// 2^64 divided by the golden ratio, made odd: steps of it visit the unit interval as evenly as any fixed step can.
const GOLDEN_STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a choice among the healthy hosts of one set needs.
#[derive(Debug)]
pub(super) struct Balancer {
    policy: LoadBalancing,
    /// Numbers of the healthy hosts; none if all are healthy, so that the usual case stores nothing.
    healthy: Option<Box<[u32]>>,
    count: usize,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    Equal,
    Unequal {
        /// Running sums of the healthy hosts' weights.
        sums: Box<[u64]>,
        /// Order of a whole round of round robin, smooth; empty if it would be too long or is not needed.
        schedule: Box<[u32]>,
    },
}

impl Balancer {
    pub(super) fn new(hosts: &[Arc<HostState>], policy: LoadBalancing) -> Self {
        let numbers: Vec<u32> =
            (0u32..).zip(hosts).filter(|(_, host)| host.health == Health::Healthy).map(|(number, _)| number).collect();
        let weights: Vec<u64> = numbers.iter().map(|number| hosts[*number as usize].weight.max(1).into()).collect();
        let count = numbers.len();
        let weights = if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            Weights::Equal
        } else {
            let schedule = match policy {
                LoadBalancing::RoundRobin => smooth_schedule(&weights),
                LoadBalancing::LeastRequest | LoadBalancing::Random => Box::default(),
            };
            let sums = weights
                .iter()
                .scan(0, |sum, weight| {
                    *sum += weight;
                    Some(*sum)
                })
                .collect();
            Weights::Unequal { sums, schedule }
        };
        let healthy = (count < hosts.len()).then(|| numbers.into_boxed_slice());
        Self { policy, healthy, count, weights }
    }

    pub(super) fn policy(&self) -> LoadBalancing {
        self.policy
    }

    /// A healthy host of `hosts`, the slice that the balancer was made for. Hosts in `tried` are avoided while there
    /// are others; none if no host is healthy.
    pub(super) fn pick<'a>(
        &self,
        hosts: &'a [Arc<HostState>],
        cursor: &AtomicUsize,
        tried: &[HostId],
    ) -> Option<&'a Arc<HostState>> {
        if self.count <= 1 {
            return (self.count == 1).then(|| self.host(hosts, 0));
        }
        let mut host = self.pick_any(hosts, cursor);
        if tried.is_empty() {
            return Some(host);
        }
        for _ in 0..REPICKS {
            if !tried.contains(&host.id()) {
                return Some(host);
            }
            host = self.pick_any(hosts, cursor);
        }
        // Envoy would take the last choice now. A retry that goes where the first try failed helps nobody, so look for
        // a host that is new; with few tries this ends after as many steps.
        let start = fastrand::usize(..self.count);
        (0..self.count.min(tried.len() + 1))
            .map(|step| self.host(hosts, (start + step) % self.count))
            .find(|host| !tried.contains(&host.id()))
            .or(Some(host))
    }

    fn pick_any<'a>(&self, hosts: &'a [Arc<HostState>], cursor: &AtomicUsize) -> &'a Arc<HostState> {
        let at = match self.policy {
            LoadBalancing::LeastRequest => return self.pick_less_loaded(hosts),
            LoadBalancing::RoundRobin => self.next(cursor.fetch_add(1, Relaxed)),
            LoadBalancing::Random => self.random(),
        };
        self.host(hosts, at)
    }

    /// The better of two choices. The first of two that are as good is taken, so that idle hosts get requests by their
    /// weights alone.
    fn pick_less_loaded<'a>(&self, hosts: &'a [Arc<HostState>]) -> &'a Arc<HostState> {
        let first = self.random();
        let second = match self.weights {
            // Never the same one twice: with two hosts the idle one is always seen.
            Weights::Equal => (first + 1 + fastrand::usize(..self.count - 1)) % self.count,
            Weights::Unequal { .. } => self.random(),
        };
        let (first, second) = (self.host(hosts, first), self.host(hosts, second));
        // Requests per unit of weight, compared without division.
        let load = |host: &HostState, other: &HostState| u64::from(host.active_requests()) * u64::from(other.weight);
        if load(second, first) < load(first, second) { second } else { first }
    }

    /// Place of a random healthy host, by weight.
    fn random(&self) -> usize {
        match &self.weights {
            Weights::Equal => fastrand::usize(..self.count),
            Weights::Unequal { sums, .. } => by_weight(sums, fastrand::u64(..)),
        }
    }

    /// Place of the healthy host whose turn it is.
    fn next(&self, turn: usize) -> usize {
        match &self.weights {
            Weights::Equal => turn % self.count,
            Weights::Unequal { schedule, .. } if !schedule.is_empty() => schedule[turn % schedule.len()] as usize,
            Weights::Unequal { sums, .. } => by_weight(sums, (turn as u64).wrapping_mul(GOLDEN_STEP)),
        }
    }

    fn host<'a>(&self, hosts: &'a [Arc<HostState>], at: usize) -> &'a Arc<HostState> {
        &hosts[self.healthy.as_ref().map_or(at, |healthy| healthy[at] as usize)]
    }
}

/// The place that a uniform number falls on.
fn by_weight(sums: &[u64], uniform: u64) -> usize {
    let total = sums.last().copied().unwrap_or(0);
    let point = ((u128::from(uniform) * u128::from(total)) >> 64) as u64;
    sums.partition_point(|sum| *sum <= point)
}

/// One round in which every place comes up as often as its weight says, the light ones spread between the heavy: each
/// turn every place gains its weight, and the richest one is taken and pays for all. Empty if a round is too long.
fn smooth_schedule(weights: &[u64]) -> Box<[u32]> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let length: u64 = weights.iter().map(|weight| weight / divisor).sum();
    if length > MAX_SCHEDULE {
        return Box::default();
    }
    let mut wealth = vec![0i64; weights.len()];
    (0..length)
        .map(|_| {
            let mut richest = 0;
            for (place, weight) in weights.iter().enumerate() {
                wealth[place] += (weight / divisor) as i64;
                if wealth[place] > wealth[richest] {
                    richest = place;
                }
            }
            wealth[richest] -= length as i64;
            richest as u32
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidegate_snapshot::{Discovery, Endpoint};

    use super::*;
    use crate::upstream::testing::{cluster, endpoint, port, snapshot};
    use crate::upstream::{ClusterHandle, ClusterRegistry, DnsOptions, PickedHost};

    /// A cluster with one host for each weight; ports count from 1. Endpoints of weight 0 are unhealthy.
    fn handle(policy: LoadBalancing, weights: &[u32]) -> Arc<ClusterHandle> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let registry = ClusterRegistry::new(Arc::default(), DnsOptions::default(), runtime.handle().clone());
        let endpoints: Vec<Endpoint> = (1u16..)
            .zip(weights)
            .map(|(port, weight)| {
                let health = if *weight == 0 { Health::Unhealthy } else { Health::Healthy };
                Endpoint { health, ..endpoint(port, *weight) }
            })
            .collect();
        registry.prepare(&snapshot(vec![cluster("a", policy, Discovery::Static(endpoints))])).remove(0)
    }

    fn pick(handle: &ClusterHandle) -> PickedHost {
        handle.pick(&[]).unwrap()
    }

    /// How often each port is picked by requests that end at once.
    fn counts(handle: &ClusterHandle, picks: usize) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        (0..picks).for_each(|_| *counts.entry(port(pick(handle).address())).or_default() += 1);
        counts
    }

    #[test]
    fn every_policy_obeys_weights() {
        for policy in [LoadBalancing::LeastRequest, LoadBalancing::RoundRobin, LoadBalancing::Random] {
            for weights in [&[1, 1, 1, 1][..], &[1, 2, 3], &[90, 10], &[1, 0, 1], &[7, 100_003, 30_011]] {
                let handle = handle(policy, weights);
                let (picks, total) = (60_000.0, weights.iter().sum::<u32>());
                let counts = counts(&handle, 60_000);
                for (port, weight) in (1u16..).zip(weights) {
                    let expected = picks * f64::from(*weight) / f64::from(total);
                    let found = counts.get(&port).copied().unwrap_or(0) as f64;
                    let tolerance = 5.0 * expected.sqrt() + if *weight == 0 { 0.0 } else { 5.0 };
                    assert!((found - expected).abs() <= tolerance, "{policy:?} {weights:?}: {counts:?}");
                }
            }
        }
    }

    #[test]
    fn round_robin_is_exact_and_smooth() {
        let handle = handle(LoadBalancing::RoundRobin, &[5, 1, 1]);
        for _ in 0..3 {
            assert_eq!(counts(&handle, 7), BTreeMap::from([(1, 5), (2, 1), (3, 1)]));
        }
        assert_eq!(*smooth_schedule(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(*smooth_schedule(&[2, 2]), [0, 1]);
        assert_eq!(*smooth_schedule(&[20, 10]), [0, 1, 0]);
        assert!(smooth_schedule(&[1, 4_000_000_000]).is_empty());
    }

    #[test]
    fn the_less_loaded_of_two_choices_is_taken() {
        let two = handle(LoadBalancing::LeastRequest, &[1, 1]);
        let busy = pick(&two);
        for _ in 0..100 {
            assert_ne!(pick(&two).id(), busy.id(), "with two hosts the idle one always wins");
        }

        let ten = handle(LoadBalancing::LeastRequest, &[1; 10]);
        let open: Vec<PickedHost> = (0..1000).map(|_| pick(&ten)).collect();
        let active: Vec<u32> = (1u16..=10)
            .map(|number| open.iter().find(|host| port(host.address()) == number).unwrap().active_requests())
            .collect();
        assert!(active.iter().all(|active| (90..=110).contains(active)), "{active:?}");

        let weighted = handle(LoadBalancing::LeastRequest, &[3, 1]);
        let open: Vec<PickedHost> = (0..400).map(|_| pick(&weighted)).collect();
        let heavy = open.iter().filter(|host| port(host.address()) == 1).count();
        assert!((280..=320).contains(&heavy), "{heavy} of 400 go to the host of three quarters of the weight");
    }

    #[test]
    fn without_healthy_hosts_there_is_none() {
        assert!(handle(LoadBalancing::LeastRequest, &[]).pick(&[]).is_none());
        assert!(handle(LoadBalancing::RoundRobin, &[0, 0]).pick(&[]).is_none());
        let one = handle(LoadBalancing::Random, &[0, 1, 0]);
        assert_eq!(counts(&one, 10), BTreeMap::from([(2, 10)]));
    }

    #[test]
    fn a_retry_goes_to_another_host_if_there_is_one() {
        for policy in [LoadBalancing::LeastRequest, LoadBalancing::RoundRobin, LoadBalancing::Random] {
            // The first host has nearly all of the weight, so picking again alone would hardly ever leave it.
            let handle = handle(policy, &[1_000_000, 1, 1]);
            for _ in 0..200 {
                let mut tried = Vec::new();
                for _ in 0..3 {
                    let host = handle.pick(&tried).unwrap();
                    assert!(!tried.contains(&host.id()), "{policy:?}");
                    tried.push(host.id());
                }
                assert!(handle.pick(&tried).is_some(), "all tried: any will do");
            }
        }
    }
}
