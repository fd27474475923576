//! Endpoints that come from names.
//!
//! Each name is followed on its own, each address family too: an answer is used as soon as it is there and asked for
//! again when it has expired. All addresses of all names are endpoints (Envoy's STRICT_DNS).
//!
//! Rules: answers are kept for their TTL, at least 1 s and at most the day that the resolver allows; a failure is asked again after 1 s, then 2 s, and so on up to
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
use super::resolver::{Answer, Family, Resolver, Timing, has_route};
use super::status::DnsStatus;
use crate::telemetry::{Destination, Destinations};

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

#[derive(Debug)]
struct Answers {
    /// By target, then family.
    slots: Vec<[Slot; 2]>,
    /// Without `last_error`, which follows from the slots.
    status: DnsStatus,
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
            answers: Mutex::new(Answers { slots, status: DnsStatus::default() }),
            answered: watch::Sender::new(false),
        });
        let answers = state.answers.lock();
        state.refresh_set(&answers);
        state.note_answered(&answers);
        drop(answers);
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
        DnsStatus { last_error, ..answers.status.clone() }
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
    let Timing { min_refresh, max_backoff } = resolver.timing;
    let mut failures = 0u32;
    loop {
        let answer = resolver.query(host, family).await;
        let pause = match &answer {
            Answer::Addresses { valid_until, .. } => {
                failures = 0;
                min_refresh.max(valid_until.saturating_duration_since(Instant::now()) + EXPIRY_MARGIN)
            }
            Answer::NoData | Answer::Failed(_) => {
                let backoff = max_backoff.min(min_refresh * (1 << failures.min(6)));
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
        let Answers { slots, status } = &mut *answers;
        let slots = &mut slots[name];
        let failed_before = failure(slots).is_some();
        let other_answered = slots[1 - family as usize].latest == Outcome::Answered;
        let slot = &mut slots[family as usize];
        status.attempts += 1;
        slot.latest = match answer {
            Answer::Addresses { mut addresses, .. } => {
                addresses.sort_unstable();
                addresses.dedup();
                slot.addresses = addresses;
                status.successes += 1;
                status.last_success = Some(SystemTime::now());
                Outcome::Answered
            }
            Answer::NoData => {
                if other_answered {
                    slot.addresses.clear();
                }
                status.empty += 1;
                Outcome::NoData
            }
            Answer::Failed(why) => {
                status.failures += 1;
                Outcome::Failed(why)
            }
        };
        let host = &self.targets[name].spec.host;
        match failure(slots) {
            Some(error) if !failed_before => {
                tracing::warn!(host, error, "name is not resolved, keeping what it last was");
            }
            None if failed_before => tracing::info!(host, "name is resolved again"),
            _ => {}
        }
        self.refresh_set(&answers);
        self.note_answered(&answers);
    }

    /// Makes the endpoint set anew if it changes. Endpoints that stay keep their counters. Done after every answer, since
    /// the host's routes change, too.
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
        let current = self.set.load();
        let same = current.hosts().len() == found.len()
            && current.hosts().iter().zip(&found).all(|(host, (address, target))| {
                host.address() == address && host.hostname.as_deref() == Some(&*target.hostname)
            });
        if same {
            return;
        }
        let addresses: Vec<_> = found.iter().map(|(address, _)| address).collect();
        let records = self.runtime.records(&addresses);
        let hosts = found
            .iter()
            .zip(records)
            .map(|((_, target), record)| {
                Arc::new(HostState {
                    hostname: Some(target.hostname.clone()),
                    weight: target.spec.weight.max(1),
                    health: Health::Healthy,
                    locality: target.spec.locality.clone(),
                    destination: target.destination.clone(),
                    record,
                })
            })
            .collect();
        self.set.store(Arc::new(EndpointSet::new(hosts, self.load_balancing)));
    }

    /// Called after the set was made: who waits for answers finds them there.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{A, AAAA};
    use hickory_resolver::proto::rr::{RData, Record, RecordType};
    use tidegate_snapshot::Discovery;
    use tokio::net::UdpSocket;

    use super::super::testing::{cluster, snapshot, target};
    use super::super::{ClusterHandle, ClusterRegistry, DnsOptions};
    use super::*;

    /// What the name server of a test says to a query.
    #[derive(Clone, Debug)]
    enum Reply {
        Records(Vec<&'static str>, u32),
        NoData,
        NoSuchName,
        Refused,
        Silence,
    }

    type Zone = Arc<Mutex<BTreeMap<(String, RecordType), Reply>>>;

    /// A name server on loopback. Names that it does not know have no data.
    struct NameServer {
        address: SocketAddr,
        zone: Zone,
        queries: watch::Receiver<u64>,
    }

    impl NameServer {
        async fn start() -> Self {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = socket.local_addr().unwrap();
            let zone = Zone::default();
            let (count, queries) = watch::channel(0);
            let answers = zone.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 1500];
                loop {
                    let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
                    let request = Message::from_vec(&buffer[..length]).unwrap();
                    if let Some(response) = respond(&request, &answers) {
                        let _ = socket.send_to(&response.to_vec().unwrap(), peer).await;
                    }
                    count.send_modify(|count| *count += 1);
                }
            });
            Self { address, zone, queries }
        }

        fn set(&self, name: &str, kind: RecordType, reply: Reply) {
            self.zone.lock().insert((format!("{name}."), kind), reply);
        }

        /// Returns after some more rounds of questions.
        async fn asked_again(&self) {
            let mut queries = self.queries.clone();
            let goal = *queries.borrow() + 6;
            queries.wait_for(|count| *count >= goal).await.unwrap();
        }

        fn registry(&self, timing: Timing) -> ClusterRegistry {
            let dns = DnsOptions { name_servers: vec![self.address] };
            ClusterRegistry::new(Arc::default(), dns, Handle::current()).with_timing(timing)
        }
    }

    fn respond(request: &Message, zone: &Zone) -> Option<Message> {
        let query = request.queries.first()?;
        let mut response = Message::response(request.metadata.id, OpCode::Query);
        response.metadata.message_type = MessageType::Response;
        response.metadata.recursion_available = true;
        response.add_query(query.clone());
        let key = (query.name().to_ascii().to_ascii_lowercase(), query.query_type());
        let reply = zone.lock().get(&key).cloned().unwrap_or(Reply::NoData);
        match reply {
            Reply::Records(addresses, ttl) => {
                for address in addresses {
                    let data = match address.parse().unwrap() {
                        IpAddr::V4(ip) => RData::A(A(ip)),
                        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
                    };
                    response.add_answer(Record::from_rdata(query.name().clone(), ttl, data));
                }
            }
            Reply::NoData => {}
            Reply::NoSuchName => response.metadata.response_code = ResponseCode::NXDomain,
            Reply::Refused => response.metadata.response_code = ResponseCode::Refused,
            Reply::Silence => return None,
        }
        Some(response)
    }

    /// Pauses that let a test see many rounds.
    const FAST: Timing = Timing { min_refresh: Duration::from_millis(10), max_backoff: Duration::from_millis(20) };

    async fn warmed(registry: &ClusterRegistry, targets: Vec<DnsTarget>) -> Arc<ClusterHandle> {
        let dns = cluster("dns", LoadBalancing::RoundRobin, Discovery::Dns(targets));
        let handles = registry.prepare(&snapshot(vec![dns]));
        registry.warm(&handles, tokio::time::Instant::now() + Duration::from_secs(20)).await;
        handles.into_iter().next().unwrap()
    }

    fn addresses(handle: &ClusterHandle) -> Vec<String> {
        handle.status().endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    async fn eventually(handle: &ClusterHandle, expected: &[&str]) {
        let reached = async {
            while addresses(handle) != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), reached).await;
        assert!(in_time.is_ok(), "{:?} does not become {expected:?}", addresses(handle));
    }

    /// Waits until the latest queries have failed.
    async fn failed(handle: &ClusterHandle) -> String {
        let error = async {
            loop {
                if let Some(error) = handle.status().dns.unwrap().last_error {
                    return error;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), error).await.expect("resolution fails")
    }

    #[tokio::test]
    async fn all_addresses_of_all_names_are_endpoints() {
        let server = NameServer::start().await;
        server.set("a.test", RecordType::A, Reply::Records(vec!["127.0.0.3", "127.0.0.1", "127.0.0.3"], 300));
        server.set("b.test", RecordType::A, Reply::Records(vec!["127.0.0.1", "127.0.0.2"], 300));
        let targets = vec![target("a.test", 80), target("b.test", 80), target("b.test", 81), target("127.0.0.9", 80)];
        let handle = warmed(&server.registry(Timing::default()), targets).await;
        let expected = ["127.0.0.1:80", "127.0.0.1:81", "127.0.0.2:80", "127.0.0.2:81", "127.0.0.3:80", "127.0.0.9:80"];
        assert_eq!(addresses(&handle), expected);
        assert_eq!(handle.status().endpoints[0].hostname.as_deref(), Some("a.test"));
        assert_eq!(handle.status().dns.unwrap().last_error, None);
    }

    #[tokio::test]
    async fn address_literals_need_no_name_server() {
        let registry = ClusterRegistry::new(Arc::default(), DnsOptions::default(), Handle::current());
        let handle = warmed(&registry, vec![target("127.0.0.1", 80), target("::1", 80)]).await;
        assert!(handle.pick(&[]).is_some());
    }

    #[tokio::test]
    async fn changed_answers_change_the_endpoints_and_keep_counters() {
        let server = NameServer::start().await;
        server.set("a.test", RecordType::A, Reply::Records(vec!["127.0.0.1", "127.0.0.2"], 0));
        let handle = warmed(&server.registry(FAST), vec![target("a.test", 80)]).await;
        let picked = [handle.pick(&[]).unwrap(), handle.pick(&[]).unwrap()];
        server.set("a.test", RecordType::A, Reply::Records(vec!["127.0.0.2", "127.0.0.3"], 0));
        eventually(&handle, &["127.0.0.2:80", "127.0.0.3:80"]).await;
        let active: Vec<u64> = handle.status().endpoints.iter().map(|endpoint| endpoint.rq_active).collect();
        assert_eq!(active, [1, 0]);
        assert_eq!(handle.totals().rq_active, 2);
        drop(picked);
        assert_eq!(handle.totals().rq_active, 0);
    }

    #[tokio::test]
    async fn the_last_good_addresses_stay_whatever_goes_wrong() {
        let server = NameServer::start().await;
        for (number, wrong) in [Reply::NoSuchName, Reply::NoData, Reply::Refused].into_iter().enumerate() {
            let name = format!("name{number}.test");
            server.set(&name, RecordType::A, Reply::Records(vec!["127.0.0.1"], 0));
            let handle = warmed(&server.registry(FAST), vec![target(&name, 80)]).await;
            assert_eq!(addresses(&handle), ["127.0.0.1:80"]);
            for kind in [RecordType::A, RecordType::AAAA] {
                server.set(&name, kind, wrong.clone());
            }
            let error = failed(&handle).await;
            assert!(error.starts_with(&name), "{wrong:?}: {error}");
            server.asked_again().await;
            assert_eq!(addresses(&handle), ["127.0.0.1:80"], "{wrong:?}");
            server.set(&name, RecordType::A, Reply::Records(vec!["127.0.0.4"], 0));
            eventually(&handle, &["127.0.0.4:80"]).await;
            assert_eq!(handle.status().dns.unwrap().last_error, None);
        }
    }

    #[tokio::test]
    async fn a_family_goes_when_it_is_empty_and_the_other_is_not() {
        let server = NameServer::start().await;
        server.set("a.test", RecordType::A, Reply::Records(vec!["127.0.0.1"], 0));
        server.set("a.test", RecordType::AAAA, Reply::Records(vec!["::1"], 0));
        let handle = warmed(&server.registry(FAST), vec![target("a.test", 80)]).await;
        // Where the system has no IPv6 at all its loopback address is left out.
        let both: &[&str] =
            if has_route("::1".parse().unwrap()) { &["127.0.0.1:80", "[::1]:80"] } else { &["127.0.0.1:80"] };
        eventually(&handle, both).await;
        server.set("a.test", RecordType::AAAA, Reply::NoData);
        eventually(&handle, &["127.0.0.1:80"]).await;
    }

    #[tokio::test]
    async fn a_slow_family_does_not_hold_back_the_other() {
        let server = NameServer::start().await;
        server.set("a.test", RecordType::A, Reply::Records(vec!["127.0.0.1"], 300));
        server.set("a.test", RecordType::AAAA, Reply::Silence);
        let start = Instant::now();
        let handle = warmed(&server.registry(FAST), vec![target("a.test", 80)]).await;
        assert_eq!(addresses(&handle), ["127.0.0.1:80"]);
        assert!(start.elapsed() < Duration::from_secs(4), "the resolver gives up after 5 s");
    }

    #[tokio::test]
    async fn warming_is_bounded() {
        let server = NameServer::start().await;
        for kind in [RecordType::A, RecordType::AAAA] {
            server.set("a.test", kind, Reply::Silence);
        }
        let registry = server.registry(FAST);
        let dns = cluster("dns", LoadBalancing::Random, Discovery::Dns(vec![target("a.test", 80)]));
        let handles = registry.prepare(&snapshot(vec![dns]));
        let start = Instant::now();
        registry.warm(&handles, tokio::time::Instant::now() + Duration::from_millis(50)).await;
        assert!(start.elapsed() < Duration::from_secs(2));
        assert!(handles[0].pick(&[]).is_none());
    }

    #[tokio::test]
    async fn answers_are_kept_for_their_ttl() {
        let server = NameServer::start().await;
        server.set("a.test", RecordType::A, Reply::Records(vec!["127.0.0.1"], 1));
        server.set("a.test", RecordType::AAAA, Reply::Records(vec!["::1"], 1));
        let start = Instant::now();
        let handle = warmed(&server.registry(FAST), vec![target("a.test", 80)]).await;
        server.set("a.test", RecordType::A, Reply::Records(vec!["127.0.0.2"], 300));
        server.set("a.test", RecordType::AAAA, Reply::NoData);
        eventually(&handle, &["127.0.0.2:80"]).await;
        let elapsed = start.elapsed();
        assert!((Duration::from_millis(950)..Duration::from_secs(5)).contains(&elapsed), "{elapsed:?}");
    }

    #[tokio::test]
    async fn a_new_snapshot_takes_answers_over() {
        let server = NameServer::start().await;
        server.set("a.test", RecordType::A, Reply::Records(vec!["127.0.0.1"], 300));
        let registry = server.registry(Timing::default());
        let old = warmed(&registry, vec![target("a.test", 80)]).await;
        let queries = *server.queries.borrow();
        let same = warmed(&registry, vec![target("a.test", 80)]).await;
        assert!(Arc::ptr_eq(old.dns().unwrap(), same.dns().unwrap()));
        assert_eq!(*server.queries.borrow(), queries, "nothing is asked again");

        // Another port is another set; the name's addresses are there at once.
        server.set("a.test", RecordType::A, Reply::Silence);
        let dns = cluster("dns", LoadBalancing::RoundRobin, Discovery::Dns(vec![target("a.test", 81)]));
        let moved = registry.prepare(&snapshot(vec![dns]));
        assert_eq!(addresses(&moved[0]), ["127.0.0.1:81"]);
        assert_eq!(addresses(&old), ["127.0.0.1:80"], "requests on the old Snapshot keep their endpoints");
    }

    #[tokio::test]
    async fn nobody_is_asked_once_the_last_handle_is_gone() {
        let server = NameServer::start().await;
        server.set("a.test", RecordType::A, Reply::Records(vec!["127.0.0.1"], 0));
        let registry = server.registry(FAST);
        let handle = warmed(&registry, vec![target("a.test", 80)]).await;
        let state = Arc::downgrade(&handle.dns().unwrap().state);
        drop(handle);
        let gone = async {
            while state.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the task ends and lets its state go");
    }
}
