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

/// One round in which every place comes up as often as its weight says and as evenly spread as possible: the k-th turn
/// of weight w is due at (2k + 1) / 2w of the round.
fn smooth_schedule(weights: &[u64]) -> Box<[u32]> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let length: u64 = weights.iter().map(|weight| weight / divisor).sum();
    if length > MAX_SCHEDULE {
        return Box::default();
    }
    let mut turns: Vec<(u64, u64, u32)> = (0u32..)
        .zip(weights)
        .flat_map(|(place, weight)| (0..weight / divisor).map(move |k| (2 * k + 1, weight / divisor, place)))
        .collect();
    turns.sort_by(|a, b| (a.0 * b.1).cmp(&(b.0 * a.1)).then(a.2.cmp(&b.2)));
    turns.into_iter().map(|(_, _, place)| place).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
