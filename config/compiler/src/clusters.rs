//! The clusters that routes refer to: from a destination to a service, a port and a subset, to what is served.
//!
//! Only clusters that a bound route names are built, as istiod does with `PILOT_FILTER_GATEWAY_CLUSTER_CONFIG`: ten
//! thousand services of a mesh cost nothing at a gateway that routes to ten of them.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use tidegate_core::{ClusterName, Code, Diagnostic, ResourceKey};
use tidegate_resources::{Destination, H2UpgradePolicy, Object, SimpleLb};
use tidegate_snapshot::{Cluster, DestinationService, Discovery, LoadBalancing, UpstreamProtocol};

use crate::client_tls::client_tls;
use crate::destination_rules::{Blocks, DestinationRules, EffectiveRule};
use crate::findings::{Findings, Unit};
use crate::mesh::Mesh;
use crate::names::expand_host;
use crate::registry::{Absent, Member, MemberAddress, Port, Registry, Service, port_number};
use crate::secrets::Secrets;

/// What a destination refers to, and why nothing answers there if nothing does.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: ClusterName,
    pub(crate) problem: Option<Problem>,
    /// The host that the destination names, if it stands for another.
    alias: Option<Box<Aliases>>,
}

/// Hosts that stand for others, the first named by a destination.
#[derive(Clone, Debug)]
struct Aliases(Vec<String>);

/// What the routes of one owner refer to, each once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Targets {
    /// Host, port and subset of clusters that exist.
    pub(crate) wanted: BTreeSet<(String, u16, String)>,
    /// Every host that was looked at.
    pub(crate) hosts: BTreeSet<String>,
}

impl Targets {
    pub(crate) fn add(&mut self, target: &Target) {
        let ClusterName { host, port, subset, .. } = &target.name;
        if !self.hosts.contains(host) {
            self.hosts.insert(host.clone());
        }
        self.hosts.extend(target.alias.iter().flat_map(|aliases| &aliases.0).cloned());
        if target.problem.is_none() {
            self.wanted.insert((host.clone(), *port, subset.clone()));
        }
    }
}

/// What routes depend on of a host. As long as it is the same, what changes of the host concerns its clusters alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    Absent(Absent),
    Known { ports: Box<[u16]>, alias: Option<String>, subsets: Box<[String]> },
}

/// Why a destination has no cluster. Requests are answered 503 NC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Problem {
    UnknownHost,
    NotExported(ResourceKey),
    UnknownPort { known: Vec<u16> },
    UnknownSubset { known: Vec<String> },
}

/// A service with the rule that applies to it.
#[derive(Debug)]
struct Known<'a> {
    service: Service<'a>,
    rule: EffectiveRule<'a>,
}

/// Finds what destinations refer to and remembers which clusters are wanted.
#[derive(Debug)]
pub(crate) struct Clusters<'a> {
    registry: &'a Registry<'a>,
    rules: &'a DestinationRules<'a>,
    mesh: &'a Mesh,
    cluster_domain: &'a str,
    secrets: Secrets<'a>,
    known: AHashMap<String, Rc<Result<Known<'a>, Absent>>>,
}

impl<'a> Clusters<'a> {
    pub(crate) fn new(
        registry: &'a Registry<'a>,
        rules: &'a DestinationRules<'a>,
        mesh: &'a Mesh,
        cluster_domain: &'a str,
        secrets: Secrets<'a>,
    ) -> Self {
        Self { registry, rules, mesh, cluster_domain, secrets, known: AHashMap::new() }
    }

    fn known(&mut self, host: &str, findings: &mut Findings) -> Rc<Result<Known<'a>, Absent>> {
        if let Some(known) = self.known.get(host) {
            return Rc::clone(known);
        }
        let known = self.registry.service(host).map(|service| {
            let rule = findings.within(Unit::Service(host.to_owned()), |findings| {
                self.rules.effective(host, service.namespace, findings)
            });
            Known { service, rule }
        });
        let known = Rc::new(known);
        self.known.insert(host.to_owned(), Rc::clone(&known));
        known
    }

    /// What routes depend on of a host.
    pub(crate) fn shape(&mut self, host: &str, findings: &mut Findings) -> Shape {
        match &*self.known(host, findings) {
            Err(absent) => Shape::Absent(absent.clone()),
            Ok(Known { service, rule }) => Shape::Known {
                ports: service.ports.iter().map(|port| port.number).collect(),
                alias: service.alias.clone(),
                subsets: rule.subset_names().map(str::to_owned).collect(),
            },
        }
    }

    /// What a destination in an object of `namespace` refers to for requests on the server port `listener_port`.
    ///
    /// Without a port it is the service's only one, else the listener's. A Service of type ExternalName stands for the
    /// service that it names (istio `GetDestinationCluster`).
    pub(crate) fn locate(
        &mut self,
        destination: &Destination,
        namespace: &str,
        listener_port: u16,
        findings: &mut Findings,
    ) -> Target {
        let host = expand_host(&destination.host, namespace, self.cluster_domain);
        let named = self.known(&host, findings);
        let only_port = match &*named {
            Ok(Known { service, .. }) if service.ports.len() == 1 => service.ports.first().map(|port| port.number),
            _ => None,
        };
        let port = match &destination.port {
            Some(selector) => port_number(selector.number).unwrap_or(0),
            None => only_port.unwrap_or(listener_port),
        };
        let (host, known, alias) = self.follow_aliases(host, named, findings);
        let problem = match &*known {
            Err(Absent::Unknown) => Some(Problem::UnknownHost),
            Err(Absent::NotExported(key)) => Some(Problem::NotExported(key.clone())),
            Ok(Known { service, .. }) if service.port(port).is_none() => {
                Some(Problem::UnknownPort { known: service.ports.iter().map(|port| port.number).collect() })
            }
            Ok(Known { rule, .. }) if !destination.subset.is_empty() && rule.subset(&destination.subset).is_none() => {
                Some(Problem::UnknownSubset { known: rule.subset_names().map(str::to_owned).collect() })
            }
            Ok(_) => None,
        };
        Target { name: ClusterName::outbound(port, &destination.subset, &host), problem, alias }
    }

    fn follow_aliases(
        &mut self,
        mut host: String,
        mut known: Rc<Result<Known<'a>, Absent>>,
        findings: &mut Findings,
    ) -> (String, Rc<Result<Known<'a>, Absent>>, Option<Box<Aliases>>) {
        let mut aliases: Option<Box<Aliases>> = None;
        // Aliases of aliases are followed; a ring of them ends at the limit, as a service without endpoints.
        for _ in 0..8 {
            let Ok(Known { service: Service { alias: Some(alias), .. }, .. }) = &*known else { break };
            let named = std::mem::replace(&mut host, alias.clone());
            aliases.get_or_insert_with(|| Box::new(Aliases(Vec::new()))).0.push(named);
            known = self.known(&host, findings);
        }
        (host, known, aliases)
    }

    /// After how long a quiet connection to a target ends: `Some(None)` for never, none if nothing says.
    #[expect(clippy::option_option, reason = "no limit and nothing said differ")]
    pub(crate) fn idle_timeout(&mut self, target: &Target, findings: &mut Findings) -> Option<Option<Duration>> {
        let ClusterName { host, port, subset, .. } = &target.name;
        let known = self.known(host, findings);
        let Ok(Known { rule, .. }) = &*known else { return None };
        let blocks = self.rules.blocks(rule, rule.subset(subset), *port);
        let timeout = blocks.connection_pool?.tcp.as_ref()?.idle_timeout?.get();
        Some((!timeout.is_zero()).then_some(timeout))
    }

    /// Builds the clusters of a host and port.
    pub(crate) fn build(
        &mut self,
        host: &str,
        port: u16,
        subsets: &[&String],
        findings: &mut Findings,
    ) -> Vec<Arc<Cluster>> {
        let known = self.known(host, findings);
        let Ok(Known { service, rule }) = &*known else { return Vec::new() };
        let Some(port) = service.port(port) else { return Vec::new() };
        findings.within(Unit::Clusters(host.to_owned(), port.number), |findings| {
            let members = self.registry.members(service, port, findings);
            refuse_names(service, &members, findings);
            if members.is_empty() {
                self.registry.report_no_endpoints(service, port, findings);
            }
            let build = |subset: &&String| {
                if let Some(of_rule) = rule.subset(subset)
                    && !members.is_empty()
                    && !members.iter().any(|member| member.is_in(of_rule.labels))
                {
                    of_rule.report_empty(subset, &service.host, findings);
                }
                Arc::new(self.cluster(service, rule, port, subset, &members, findings))
            };
            subsets.iter().map(build).collect()
        })
    }

    fn cluster(
        &self,
        service: &Service<'a>,
        rule: &EffectiveRule<'a>,
        port: &Port,
        subset_name: &str,
        members: &[Member],
        findings: &mut Findings,
    ) -> Cluster {
        let subset = rule.subset(subset_name);
        let blocks = self.rules.blocks(rule, subset, port.number);
        let members = members.iter().filter(|member| subset.is_none_or(|subset| member.is_in(subset.labels)));
        let discovery = if service.is_dns() {
            Discovery::Dns(compact(members.filter_map(Member::dns_target)))
        } else {
            Discovery::Static(compact(members.filter_map(Member::endpoint)))
        };
        let timeout = blocks.connection_pool.and_then(|pool| pool.tcp.as_ref()?.connect_timeout);
        Cluster {
            name: ClusterName::outbound(port.number, subset_name, &service.host).to_string().into(),
            protocol: self.protocol(port, &blocks),
            load_balancing: load_balancing(&blocks),
            connect_timeout: timeout
                .map(tidegate_resources::Duration::get)
                .filter(|timeout| !timeout.is_zero())
                .unwrap_or(self.mesh.connect_timeout),
            tls: blocks
                .tls
                .and_then(|tls| {
                    let names = service.subject_alt_names();
                    client_tls(&tls, names, &self.secrets, &self.mesh.tls_defaults, findings)
                })
                .map(Arc::new),
            discovery,
            service: DestinationService {
                host: service.host.clone(),
                name: service.name.clone(),
                namespace: service.namespace.to_owned(),
            },
            sources: compact(service.sources().chain(rule.sources.iter().cloned())),
        }
    }

    /// `useClientProtocol` goes before what the port declares. A DestinationRule's `UPGRADE` holds for every port, the
    /// mesh's only for ports that declare HTTP (istio `shouldH2Upgrade`).
    fn protocol(&self, port: &Port, blocks: &Blocks<'_>) -> UpstreamProtocol {
        let http = blocks.connection_pool.and_then(|pool| pool.http.as_ref());
        if http.is_some_and(|http| http.use_client_protocol) {
            return UpstreamProtocol::AsDownstream;
        }
        let upgrade = match http.map(|http| http.h2_upgrade_policy).unwrap_or_default() {
            H2UpgradePolicy::Upgrade => true,
            H2UpgradePolicy::DoNotUpgrade => false,
            H2UpgradePolicy::Default => self.mesh.h2_upgrade && port.protocol.is_http(),
        };
        if upgrade || port.protocol.is_http2() { UpstreamProtocol::Http2 } else { UpstreamProtocol::Http1 }
    }
}

fn load_balancing(blocks: &Blocks<'_>) -> LoadBalancing {
    match blocks.load_balancer.and_then(|balancer| balancer.simple).unwrap_or_default() {
        SimpleLb::RoundRobin => LoadBalancing::RoundRobin,
        SimpleLb::Random => LoadBalancing::Random,
        // A gateway has no original destination to pass through to; Istio's default takes its place.
        SimpleLb::Passthrough | SimpleLb::Unspecified | SimpleLb::LeastConn | SimpleLb::LeastRequest => {
            LoadBalancing::LeastRequest
        }
    }
}

/// A name among the endpoints of a service that is not resolved by DNS is of no use, and said to be.
fn refuse_names(service: &Service<'_>, members: &[Member], findings: &mut Findings) {
    if service.is_dns() {
        return;
    }
    for member in members {
        if let MemberAddress::Name(name, _) = &member.address {
            let message =
                format!("`{name}` is a name and {} takes addresses only; the endpoint is not used", service.host);
            findings.push(
                Diagnostic::warning(Code::IGNORED, member.origin.clone(), message)
                    .help("use `resolution: DNS` in a ServiceEntry, or an IP address"),
            );
        }
    }
}

/// What a destination gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Traffic {
    Requests,
    Connections,
}

/// Says on the destination's line that nothing answers there.
pub(crate) fn report(
    problem: &Problem,
    target: &Target,
    destination: &Destination,
    traffic: Traffic,
    (object, path): (&Object, &str),
    findings: &mut Findings,
) {
    let host = &target.name.host;
    let outcome = match traffic {
        Traffic::Requests => "requests get 503 (NC)",
        Traffic::Connections => "connections are closed (NC)",
    };
    let (field, message) = match problem {
        Problem::UnknownHost => ("host", format!("no service has the host `{host}`; {outcome}")),
        Problem::NotExported(key) => (
            "host",
            format!("{key} has the host `{host}` and does not export it to the gateway's namespace; {outcome}"),
        ),
        Problem::UnknownPort { known } => {
            let field = if destination.port.is_some() { "port" } else { "host" };
            let known: Vec<_> = known.iter().map(ToString::to_string).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            (field, format!("`{host}` has no port {}; its ports: {known}; {outcome}", target.name.port))
        }
        Problem::UnknownSubset { known } if known.is_empty() => {
            ("subset", format!("no DestinationRule that applies here defines subsets of `{host}`; {outcome}"))
        }
        Problem::UnknownSubset { known } => (
            "subset",
            format!("`{host}` has no subset `{}`; its subsets: {}; {outcome}", destination.subset, known.join(", ")),
        ),
    };
    let mut diagnostic = crate::findings::finding(
        Code::REFERENCE_NOT_FOUND,
        tidegate_core::Level::Error,
        object,
        &format!("{path}.{field}"),
        message,
    );
    if *problem == Problem::UnknownHost {
        diagnostic = match destination.host.split_once('.') {
            Some((name, rest)) if !rest.contains('.') => diagnostic.help(format!(
                "a name with a dot is taken as it stands; for service `{name}` of namespace `{rest}` write `{name}.{rest}.svc.cluster.local`"
            )),
            None => diagnostic.help(format!(
                "a short name is looked up in the namespace of its object (`{}`)",
                object.key.namespace
            )),
            Some(_) => diagnostic.help("destinations must be Services or ServiceEntries"),
        };
    }
    findings.push(diagnostic);
}

/// A list without spare room: most lists of a cluster are short, and there may be ten thousand clusters.
fn compact<T>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<_> = items.collect();
    items.shrink_to_fit();
    items
}
