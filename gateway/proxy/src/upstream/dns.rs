//! Endpoints that come from names.
//!
//! Each name is followed on its own, each address family too: an answer is used as soon as it is there and asked for
//! again when it has expired. All addresses of all names are endpoints (Envoy's STRICT_DNS).
//!
//! Rules: answers are kept for their TTL, 1 s at least; a failure is asked again after 1 s, then 2 s, and so on up to
//! 60 s; the last good addresses stay on every failure and on an empty answer; an empty answer for one family removes
//! its addresses only while the other family is answered.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, Guard};
use futures::future;
use parking_lot::Mutex;
use tidegate_snapshot::{Cluster, DestinationService, DnsTarget, EndpointAddress, Health, LoadBalancing};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::HostState;
use super::cluster::ClusterRuntime;
use super::endpoint_set::EndpointSet;
use super::resolver::{Answer, Family, Resolver, has_route};
use super::status::DnsStatus;
use crate::telemetry::{Destination, Destinations};

/// Shortest time between two queries for one name; answers with a smaller TTL are kept that long.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// Longest time between two queries after a failure.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// The resolver caches until the very instant at which an answer expires: ask just after it.
const EXPIRY_MARGIN: Duration = Duration::from_millis(5);

/// The names of one cluster and what they resolve to. Following them ends when this is dropped.
#[derive(Debug)]
pub(super) struct DnsDiscovery {
    state: Arc<State>,
    task: Option<AbortHandle>,
}

#[derive(Debug)]
struct State {
    runtime: Arc<ClusterRuntime>,
    service: DestinationService,
    load_balancing: LoadBalancing,
    targets: Box<[Target]>,
    set: ArcSwap<EndpointSet>,
    answers: Mutex<Answers>,
    /// Whether every name has addresses or was asked for in vain.
    answered: watch::Sender<bool>,
}

/// A name with what its addresses inherit.
#[derive(Debug)]
struct Target {
    spec: DnsTarget,
    hostname: Arc<str>,
    destination: Arc<Destination>,
}

#[derive(Debug, Default)]
struct Answers {
    /// By target, then family.
    slots: Vec<[Slot; 2]>,
    last_success: Option<SystemTime>,
}

/// What is known of one family of one name.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// Of the last answer that had any.
    addresses: Vec<IpAddr>,
    latest: Outcome,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Outcome {
    #[default]
    NotAsked,
    Answered,
    NoData,
    Failed(String),
}

impl DnsDiscovery {
    /// The discovery of a cluster's names: the one that follows the same names already, or a new one, which starts with
    /// the addresses that its names last had.
    pub(super) fn take_over(
        runtime: &Arc<ClusterRuntime>,
        cluster: &Cluster,
        targets: &[DnsTarget],
        destinations: &Destinations,
        resolver: &Arc<Resolver>,
        control: &Handle,
    ) -> Arc<Self> {
        let mut latest = runtime.latest().lock();
        let former = latest.dns.upgrade();
        if let Some(former) = &former
            && former.state.follows(targets, &cluster.service, cluster.load_balancing)
        {
            return former.clone();
        }
        let slots = targets
            .iter()
            .map(|target| match target.host.parse() {
                Ok(literal) => literal_slots(literal),
                Err(_) => former.as_ref().and_then(|it| it.state.known(&target.host)).unwrap_or_default(),
            })
            .collect();
        let targets = targets
            .iter()
            .map(|spec| Target {
                hostname: spec.host.as_str().into(),
                destination: destinations.intern(&cluster.service, &spec.workload),
                spec: spec.clone(),
            })
            .collect();
        let state = Arc::new(State {
            runtime: runtime.clone(),
            service: cluster.service.clone(),
            load_balancing: cluster.load_balancing,
            targets,
            set: ArcSwap::from_pointee(EndpointSet::new(Vec::new(), cluster.load_balancing)),
            answers: Mutex::new(Answers { slots, last_success: None }),
            answered: watch::Sender::new(false),
        });
        state.refresh_set(&state.answers.lock());
        let names: Vec<usize> =
            (0..state.targets.len()).filter(|at| state.targets[*at].spec.host.parse::<IpAddr>().is_err()).collect();
        let task = (!names.is_empty())
            .then(|| control.spawn(follow_all(state.clone(), names, resolver.clone())).abort_handle());
        let discovery = Arc::new(Self { state, task });
        latest.dns = Arc::downgrade(&discovery);
        discovery
    }

    /// The endpoints as they are now.
    pub(super) fn set(&self) -> Guard<Arc<EndpointSet>> {
        self.state.set.load()
    }

    /// Waits for the first answers. Cancel safe.
    pub(super) async fn answered(&self) {
        // The sender lives in `self`.
        let _ = self.state.answered.subscribe().wait_for(|answered| *answered).await;
    }

    pub(super) fn status(&self) -> DnsStatus {
        let answers = self.state.answers.lock();
        let last_error = self.state.targets.iter().zip(&answers.slots).find_map(|(target, slots)| {
            let why = failure(slots)?;
            Some(format!("{}: {why}", target.spec.host))
        });
        DnsStatus { last_success: answers.last_success, last_error }
    }
}

impl Drop for DnsDiscovery {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Follows every name until it is aborted.
async fn follow_all(state: Arc<State>, names: Vec<usize>, resolver: Arc<Resolver>) {
    let followers = names.iter().flat_map(|name| Family::ALL.map(|family| follow(&state, *name, family, &resolver)));
    future::join_all(followers).await;
}

async fn follow(state: &State, name: usize, family: Family, resolver: &Resolver) {
    let host = &state.targets[name].spec.host;
    let mut failures = 0;
    loop {
        let answer = resolver.query(host, family).await;
        let pause = match &answer {
            Answer::Addresses { valid_until, .. } => {
                failures = 0;
                MIN_REFRESH.max(valid_until.saturating_duration_since(Instant::now()) + EXPIRY_MARGIN)
            }
            Answer::NoData | Answer::Failed(_) => {
                let backoff = MAX_BACKOFF.min(MIN_REFRESH * (1 << failures.min(6)));
                failures += 1;
                // Names that fail together should not all ask again at one moment.
                backoff.mul_f64(0.75 + 0.25 * fastrand::f64())
            }
        };
        state.learn(name, family, answer);
        tokio::time::sleep(pause).await;
    }
}

impl State {
    fn follows(&self, targets: &[DnsTarget], service: &DestinationService, load_balancing: LoadBalancing) -> bool {
        self.load_balancing == load_balancing
            && self.service == *service
            && self.targets.len() == targets.len()
            && self.targets.iter().zip(targets).all(|(own, other)| {
                let own = &own.spec;
                own.host == other.host
                    && own.port == other.port
                    && own.weight == other.weight
                    && own.locality == other.locality
                    && own.workload == other.workload
            })
    }

    /// What is known of a name, to begin with in a new discovery.
    fn known(&self, host: &str) -> Option<[Slot; 2]> {
        let at = self.targets.iter().position(|target| target.spec.host == host)?;
        self.answers.lock().slots.get(at).cloned()
    }

    fn learn(&self, name: usize, family: Family, answer: Answer) {
        let mut answers = self.answers.lock();
        let slots = &mut answers.slots[name];
        let failed_before = failure(slots).is_some();
        let other_answered = slots[1 - family as usize].latest == Outcome::Answered;
        let slot = &mut slots[family as usize];
        let mut changed = false;
        match answer {
            Answer::Addresses { mut addresses, .. } => {
                addresses.sort_unstable();
                addresses.dedup();
                changed = slot.addresses != addresses;
                slot.addresses = addresses;
                slot.latest = Outcome::Answered;
            }
            Answer::NoData => {
                if other_answered {
                    changed = !slot.addresses.is_empty();
                    slot.addresses.clear();
                }
                slot.latest = Outcome::NoData;
            }
            Answer::Failed(why) => slot.latest = Outcome::Failed(why),
        }
        let host = &self.targets[name].spec.host;
        match failure(slots) {
            Some(error) if !failed_before => {
                tracing::warn!(host, error, "name is not resolved, keeping what it last was")
            }
            None if failed_before => tracing::info!(host, "name is resolved again"),
            _ => {}
        }
        if answers.slots[name][family as usize].latest == Outcome::Answered {
            answers.last_success = Some(SystemTime::now());
        }
        if changed {
            self.refresh_set(&answers);
        }
        self.note_answered(&answers);
    }

    /// Makes the endpoint set anew. Endpoints that stay keep their counters.
    fn refresh_set(&self, answers: &Answers) {
        let mut found: Vec<(EndpointAddress, &Target)> = Vec::new();
        for (target, slots) in self.targets.iter().zip(&answers.slots) {
            let addresses = || slots.iter().flat_map(|slot| &slot.addresses).copied();
            // An IPv6 address is of no use on a host without IPv6. But if nothing has a route, trying shows why.
            let routed: Vec<IpAddr> = addresses().filter(|address| has_route(*address)).collect();
            let usable = if routed.is_empty() { addresses().collect() } else { routed };
            found.extend(
                usable.into_iter().map(|ip| (EndpointAddress::Socket(SocketAddr::new(ip, target.spec.port)), target)),
            );
        }
        // Stable: of two names with one address the first has it.
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found.dedup_by(|a, b| a.0 == b.0);
        self.runtime.sweep();
        let hosts = found
            .into_iter()
            .map(|(address, target)| {
                Arc::new(HostState {
                    record: self.runtime.record(&address),
                    address,
                    hostname: Some(target.hostname.clone()),
                    weight: target.spec.weight.max(1),
                    health: Health::Healthy,
                    locality: target.spec.locality.clone(),
                    destination: target.destination.clone(),
                })
            })
            .collect();
        self.set.store(Arc::new(EndpointSet::new(hosts, self.load_balancing)));
        self.note_answered(answers);
    }

    fn note_answered(&self, answers: &Answers) {
        let all = answers.slots.iter().all(|slots| {
            slots.iter().any(|slot| !slot.addresses.is_empty())
                || slots.iter().all(|slot| slot.latest != Outcome::NotAsked)
        });
        self.answered.send_if_modified(|answered| !std::mem::replace(answered, *answered || all) && all);
    }
}

/// Why a name has no current answer: none while one family has.
fn failure(slots: &[Slot; 2]) -> Option<&str> {
    if slots.iter().any(|slot| matches!(slot.latest, Outcome::Answered | Outcome::NotAsked)) {
        return None;
    }
    let why = slots.iter().find_map(|slot| match &slot.latest {
        Outcome::Failed(why) => Some(why.as_str()),
        _ => None,
    });
    Some(why.unwrap_or("the name has no address"))
}

fn literal_slots(address: IpAddr) -> [Slot; 2] {
    let mut slots = <[Slot; 2]>::default();
    slots[usize::from(address.is_ipv6())] = Slot { addresses: vec![address], latest: Outcome::Answered };
    slots
}
