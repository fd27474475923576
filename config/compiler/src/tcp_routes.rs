//! Rules for connections, `tcp` and `tls`: which servers use them, and where they send what they take.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use ahash::{AHashMap, AHashSet};
use tidegate_core::{Code, Host, Origin, ResourceKey};
use tidegate_resources::{RouteDestination, VirtualService};
use tidegate_snapshot::{Source, TcpDestination, TcpProxy};

use crate::bindings::{Binding, Bindings, BoundService, Use};
use crate::cluster_table::ClusterTable;
use crate::clusters::{Clusters, Targets, Traffic, report};
use crate::compile::CompileOptions;
use crate::findings::{Findings, Unit};
use crate::gateways::{Family, GatewayPort, GatewayServer, Serving};
use crate::host_index::for_each_containing;
use crate::names::GatewayRef;
use crate::routes::Conditions;

/// Place of a rule in its VirtualService.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum RulePlace {
    Tcp(usize),
    /// A rule, and one of its match entries.
    Tls(usize, usize),
}

impl RulePlace {
    /// Path of the whole rule.
    fn rule_path(self) -> String {
        match self {
            Self::Tcp(rule) => format!("spec.tcp[{rule}]"),
            Self::Tls(rule, _) => format!("spec.tls[{rule}]"),
        }
    }

    fn path(self) -> String {
        match self {
            Self::Tcp(_) => self.rule_path(),
            Self::Tls(_, entry) => format!("{}.match[{entry}]", self.rule_path()),
        }
    }

    fn destinations(self, spec: &VirtualService) -> &[RouteDestination] {
        match self {
            Self::Tcp(rule) => spec.tcp.get(rule).map(|rule| rule.route.as_slice()),
            Self::Tls(rule, _) => spec.tls.get(rule).map(|rule| rule.route.as_slice()),
        }
        .unwrap_or_default()
    }
}

/// A rule that takes connections of a server.
#[derive(Debug)]
pub(crate) struct BoundRule {
    /// Place among the servers of the port.
    pub(crate) server: usize,
    pub(crate) key: Use,
    pub(crate) place: RulePlace,
    /// Server names that it takes; empty where those of its server count.
    pub(crate) server_names: Vec<Host>,
}

/// Which rules no server uses, and why.
#[derive(Debug, Default)]
pub(crate) struct RuleUsage {
    /// Kinds of servers that admit a VirtualService's hosts.
    admitted: BTreeMap<usize, AdmittedBy>,
    used: BTreeSet<(usize, RulePlace)>,
    /// Rules whose connections another one takes, with the winner.
    lost: BTreeMap<(usize, RulePlace), String>,
}

#[derive(Clone, Copy, Debug, Default)]
struct AdmittedBy {
    requests: bool,
    bytes: bool,
    passthrough: bool,
}

/// Finds the rules of the servers of one port.
pub(crate) struct RuleBinder<'b, 'a> {
    bindings: &'b Bindings<'a>,
    options: &'b CompileOptions,
    /// Who has a server name.
    claims: AHashMap<Host, Claimant>,
    rules: Vec<BoundRule>,
    /// VirtualServices whose `tls` rules were looked at for a Gateway, and whether it uses any.
    passed: AHashMap<Use, bool>,
    /// `tls` entries that are among `rules`.
    bound: AHashSet<(usize, RulePlace)>,
    /// `tcp` rules that apply, in order.
    applying: AHashMap<Use, Vec<usize>>,
    served: BTreeSet<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Claimant {
    Server(usize),
    Rule(usize, RulePlace),
}

impl<'b, 'a> RuleBinder<'b, 'a> {
    pub(crate) fn new(bindings: &'b Bindings<'a>, options: &'b CompileOptions) -> Self {
        Self {
            bindings,
            options,
            claims: AHashMap::new(),
            rules: Vec::new(),
            passed: AHashMap::new(),
            bound: AHashSet::new(),
            applying: AHashMap::new(),
            served: BTreeSet::new(),
        }
    }

    /// Binds the rules of the servers in `run`, which are of one Gateway. `uses` are the VirtualServices of each server,
    /// by server, in order of precedence.
    pub(crate) fn bind(
        &mut self,
        port: &GatewayPort,
        run: Range<usize>,
        uses: &[(usize, Use)],
        usage: &mut RuleUsage,
        findings: &mut Findings,
    ) {
        let mut rest = uses;
        for (number, server) in port.servers.iter().enumerate().take(run.end).skip(run.start) {
            let end = rest.partition_point(|(of, _)| *of <= number);
            let (of_server, others) = rest.split_at(end);
            rest = others;
            match server.serving {
                Serving::Http => {}
                Serving::Passthrough => {
                    for (_, key) in of_server {
                        self.bind_server_names(port, number, *key, usage, findings);
                    }
                }
                Serving::Https(_) | Serving::Tls(_) | Serving::Tcp | Serving::Nothing => {
                    if port.family == Family::Tls {
                        self.claim_hosts(port, number, server, findings);
                    }
                    if matches!(server.serving, Serving::Tls(_) | Serving::Tcp) {
                        self.bind_first(number, of_server, usage);
                    }
                }
            }
        }
    }

    /// The hosts of a server that terminates are server names that it takes. Two hosts that differ by the namespaces
    /// that they admit are one server name.
    fn claim_hosts(&mut self, port: &GatewayPort, number: usize, server: &GatewayServer, findings: &mut Findings) {
        for (at, host) in server.hosts.iter().enumerate() {
            if host.host.as_str().parse::<IpAddr>().is_ok() {
                let message = "clients send no server name for an IP address, so that no connection is for this host; \
                               a server for `*` takes connections without one";
                let path = format!("spec.servers[{}].hosts[{at}]", server.index);
                findings.warning(Code::IGNORED, &server.gateway, &path, message);
            }
            let claimant = *self.claims.entry(host.host.clone()).or_insert(Claimant::Server(number));
            if claimant != Claimant::Server(number) {
                let winner = self.shown(claimant, port);
                let message = format!("connections for `{}` go to {winner}, which stands before it", host.host);
                let path = format!("spec.servers[{}].hosts[{at}]", server.index);
                findings.warning(Code::SHADOWED, &server.gateway, &path, message);
            }
        }
    }

    /// The first `tcp` rule that applies of the first VirtualService that has one (istio
    /// `buildGatewayNetworkFiltersFromTCPRoutes`).
    fn bind_first(&mut self, number: usize, uses: &[(usize, Use)], usage: &mut RuleUsage) {
        let mut winner: Option<(usize, RulePlace)> = None;
        for (_, key) in uses {
            let Some(binding) = self.bindings.binding(*key) else { continue };
            let options = self.options;
            let applying = self.applying.entry(*key).or_insert_with(|| tcp_rules(&binding, options));
            for rule in applying {
                let place = RulePlace::Tcp(*rule);
                match winner {
                    None => {
                        winner = Some((key.service, place));
                        usage.used.insert((key.service, place));
                        self.served.insert(number);
                        self.rules.push(BoundRule { server: number, key: *key, place, server_names: Vec::new() });
                    }
                    Some((service, rule)) => {
                        usage.lost.entry((key.service, place)).or_insert_with(|| self.bindings.shown(service, rule));
                    }
                }
            }
        }
    }

    /// Each `tls` entry that applies takes its `sniHosts`, as far as nobody has them (istio
    /// `buildGatewayNetworkFiltersFromTLSRoutes`, which leaves out an entry as a whole if one of its names is taken).
    fn bind_server_names(
        &mut self,
        port: &GatewayPort,
        number: usize,
        key: Use,
        usage: &mut RuleUsage,
        findings: &mut Findings,
    ) {
        let Some(binding) = self.bindings.binding(key) else { return };
        if let Some(uses_any) = self.passed.get(&key) {
            // Another server of the Gateway brought the same rules: the hosts of servers are no filter.
            if *uses_any {
                self.served.insert(number);
            }
            return;
        }
        self.passed.insert(key, false);
        let hosts = self.bindings.services.get(key.service).map(|service| service.hosts.as_slice()).unwrap_or_default();
        let hosts: AHashSet<String> = hosts
            .iter()
            .map(|host| host.as_str().to_owned())
            .chain(binding.spec.hosts.iter().map(|host| host.to_ascii_lowercase()))
            .collect();
        for (rule, route) in binding.spec.tls.iter().enumerate() {
            for (entry, condition) in route.r#match.iter().enumerate() {
                let conditions = Conditions {
                    port: condition.port,
                    gateways: &condition.gateways,
                    source_labels: &condition.source_labels,
                    source_namespace: &condition.source_namespace,
                };
                if !conditions.hold(&binding, self.options) {
                    continue;
                }
                let place = RulePlace::Tls(rule, entry);
                let claimant = Claimant::Rule(key.service, place);
                let mut server_names = Vec::new();
                for (at, name) in condition.sni_hosts.iter().enumerate() {
                    let path = || format!("{}.sniHosts[{at}]", place.path());
                    let name = Host::new_unchecked(name);
                    let mut within = false;
                    for_each_containing(name.as_str(), |host| within |= hosts.contains(host));
                    if !within {
                        let message = format!("`{name}` is not within the hosts of the VirtualService; it is left out");
                        findings.error(Code::SCHEMA, binding.object, &path(), message);
                        continue;
                    }
                    let winner = *self.claims.entry(name.clone()).or_insert(claimant);
                    if winner != claimant {
                        let winner = self.shown(winner, port);
                        let message = format!("on port {} connections for `{name}` go to {winner}", port.number);
                        findings.warning(Code::SHADOWED, binding.object, &path(), message);
                        usage.lost.insert((key.service, place), String::new());
                    } else if !server_names.contains(&name) {
                        server_names.push(name);
                    }
                }
                if server_names.is_empty() {
                    continue;
                }
                usage.used.insert((key.service, place));
                self.served.insert(number);
                self.passed.insert(key, true);
                // Two Gateways may have the same VirtualService.
                if self.bound.insert((key.service, place)) {
                    self.rules.push(BoundRule { server: number, key, place, server_names });
                }
            }
        }
    }

    fn shown(&self, claimant: Claimant, port: &GatewayPort) -> String {
        match claimant {
            Claimant::Rule(service, place) => self.bindings.shown(service, place),
            Claimant::Server(number) => match port.servers.get(number).map(GatewayServer::source) {
                Some((key, origin)) => format!("{key} at {origin}"),
                None => String::new(),
            },
        }
    }

    /// The rules in order of precedence. Reports servers that no rule routes for.
    pub(crate) fn finish(self, port: &GatewayPort, findings: &mut Findings) -> Vec<BoundRule> {
        let unserved = port.servers.iter().enumerate().filter(|(number, _)| !self.served.contains(number));
        for (_, server) in unserved {
            let message = match server.serving {
                Serving::Passthrough => {
                    "no VirtualService that names the Gateway has `tls` rules for its hosts: its connections are closed"
                }
                Serving::Tls(_) | Serving::Tcp => {
                    "no VirtualService that names the Gateway has a `tcp` rule for its hosts: its connections are closed"
                }
                Serving::Http | Serving::Https(_) | Serving::Nothing => continue,
            };
            findings.warning(Code::IGNORED, &server.gateway, &format!("spec.servers[{}]", server.index), message);
        }
        self.rules
    }
}

/// `tcp` rules that apply to a Gateway and port, in order.
fn tcp_rules(binding: &Binding<'_, '_>, options: &CompileOptions) -> Vec<usize> {
    let applies = |rule: &tidegate_resources::TcpRoute| {
        rule.r#match.is_empty()
            || rule.r#match.iter().any(|entry| {
                Conditions {
                    port: entry.port,
                    gateways: &entry.gateways,
                    source_labels: &entry.source_labels,
                    source_namespace: &entry.source_namespace,
                }
                .hold(binding, options)
            })
    };
    binding.spec.tcp.iter().enumerate().filter(|(_, rule)| applies(rule)).map(|(number, _)| number).collect()
}

impl Bindings<'_> {
    /// How a message names a rule.
    fn shown(&self, service: usize, place: RulePlace) -> String {
        match self.services.get(service) {
            Some(service) => format!("{} at {}", service.object.key, service.object.origin_of(&place.path())),
            None => String::new(),
        }
    }
}

impl RuleUsage {
    /// Notes that a server admits a host of a VirtualService.
    pub(crate) fn note(&mut self, service: usize, serving: &Serving) {
        let admitted = self.admitted.entry(service).or_default();
        match serving {
            Serving::Http | Serving::Https(_) => admitted.requests = true,
            Serving::Tls(_) | Serving::Tcp => admitted.bytes = true,
            Serving::Passthrough => admitted.passthrough = true,
            Serving::Nothing => {}
        }
    }

    /// Names the rules of bound VirtualServices that no server uses. Hosts that no server admits are named elsewhere.
    pub(crate) fn report(&self, bindings: &Bindings<'_>, findings: &mut Findings) {
        for (service, admitted) in &self.admitted {
            let Some(bound) = bindings.services.get(*service) else { continue };
            findings.within(Unit::VirtualService(bound.object.key.clone()), |findings| {
                self.report_service(*service, *admitted, bound, bindings, findings);
            });
        }
    }

    fn report_service(
        &self,
        service: usize,
        admitted: AdmittedBy,
        bound: &BoundService<'_>,
        bindings: &Bindings<'_>,
        findings: &mut Findings,
    ) {
        let (object, spec) = (bound.object, bound.spec);
        // What is of no use here may be meant for sidecars.
        if spec.gateways.iter().any(|reference| reference == "mesh") {
            return;
        }
        if !spec.http.is_empty() && !admitted.requests && (admitted.bytes || admitted.passthrough) {
            let message = if admitted.passthrough {
                "the servers that admit its hosts pass TLS through, where `tls` rules route by server name; \
                     `http` rules have no effect"
            } else {
                "the servers that admit its hosts forward bytes, as `tcp` rules say; `http` rules have no effect"
            };
            findings.warning(Code::IGNORED, object, "spec.http", message);
        }
        // An entry that names other gateways, or the mesh, is not meant for this one.
        let is_meant = |gateways: &[String]| {
            let names = |reference: &String| match GatewayRef::parse(reference, &object.key.namespace) {
                GatewayRef::Gateway(name) => bindings.gateways.binary_search(&name).is_ok(),
                GatewayRef::Mesh => false,
            };
            gateways.is_empty() || gateways.iter().any(names)
        };
        for (number, rule) in spec.tcp.iter().enumerate() {
            let is_meant = rule.r#match.is_empty() || rule.r#match.iter().any(|entry| is_meant(&entry.gateways));
            if is_meant {
                let nobody = "no TCP server, and no TLS server that terminates, of its Gateways admits its hosts";
                self.report_rule(service, RulePlace::Tcp(number), admitted.bytes, nobody, object, findings);
            }
        }
        for (number, rule) in spec.tls.iter().enumerate() {
            for (entry, condition) in rule.r#match.iter().enumerate() {
                if is_meant(&condition.gateways) {
                    let place = RulePlace::Tls(number, entry);
                    let nobody = "no server of its Gateways that admits its hosts passes TLS through";
                    self.report_rule(service, place, admitted.passthrough, nobody, object, findings);
                }
            }
        }
    }

    fn report_rule(
        &self,
        service: usize,
        place: RulePlace,
        admitted: bool,
        nobody: &str,
        object: &tidegate_resources::Object,
        findings: &mut Findings,
    ) {
        if self.used.contains(&(service, place)) {
            return;
        }
        let (code, message) = match self.lost.get(&(service, place)) {
            // Each of its names was reported.
            Some(winner) if winner.is_empty() => return,
            Some(winner) => (Code::SHADOWED, format!("the rule takes no connection: {winner} takes them before it")),
            None if admitted => {
                (Code::IGNORED, "the rule takes no connection: its conditions fit no server".to_owned())
            }
            None => (Code::IGNORED, format!("the rule takes no connection: {nobody}")),
        };
        findings.warning(code, object, &place.path(), message);
    }
}

/// The destinations that take part: one alone takes everything, of several those of weight 0 take nothing.
fn destinations(all: &[RouteDestination]) -> impl Iterator<Item = (usize, &RouteDestination)> {
    let several = all.len() > 1;
    all.iter().enumerate().filter(move |(_, destination)| !several || destination.weight > 0)
}

impl BoundRule {
    /// Notes the clusters that connections go to, and reports destinations that have none.
    pub(crate) fn collect_clusters(
        &self,
        bindings: &Bindings<'_>,
        clusters: &mut Clusters<'_>,
        targets: &mut Targets,
        findings: &mut Findings,
    ) {
        let Some(binding) = bindings.binding(self.key) else { return };
        for (number, route) in destinations(self.place.destinations(binding.spec)) {
            let path = format!("{}.route[{number}]", self.place.rule_path());
            let Some(destination) = &route.destination else {
                findings.error(Code::SCHEMA, binding.object, &path, "a destination is missing; it takes no connection");
                continue;
            };
            let target = clusters.locate(destination, &binding.object.key.namespace, self.key.port, findings);
            targets.add(&target);
            if let Some(problem) = &target.problem {
                let path = format!("{path}.destination");
                report(problem, &target, destination, Traffic::Connections, (binding.object, &path), findings);
            }
        }
    }

    /// Where connections go.
    pub(crate) fn proxy(
        &self,
        bindings: &Bindings<'_>,
        clusters: &mut Clusters<'_>,
        table: &ClusterTable,
        findings: &mut Findings,
    ) -> TcpProxy {
        let Some(binding) = bindings.binding(self.key) else { return TcpProxy::new(String::new(), Vec::new(), None) };
        let mut to = Vec::new();
        let mut idle_timeout = None;
        for (_, route) in destinations(self.place.destinations(binding.spec)) {
            let Some(destination) = &route.destination else { continue };
            let target = clusters.locate(destination, &binding.object.key.namespace, self.key.port, findings);
            if to.is_empty() {
                idle_timeout = clusters.idle_timeout(&target, findings);
            }
            to.push(TcpDestination {
                cluster: table.reference(&target),
                weight: u32::try_from(route.weight).unwrap_or_default(),
            });
        }
        to.shrink_to_fit();
        let origin = binding.object.origin_of(&self.place.path());
        let source = Source { key: binding.object.key.clone(), origin };
        let mut proxy = TcpProxy::new(String::new(), to, Some(source));
        if let Some(timeout) = idle_timeout {
            proxy.idle_timeout = timeout;
        }
        proxy
    }

    /// The VirtualService and the place of the rule.
    pub(crate) fn source(&self, bindings: &Bindings<'_>) -> Option<(ResourceKey, Origin)> {
        let object = bindings.binding(self.key)?.object;
        Some((object.key.clone(), object.origin_of(&self.place.path())))
    }
}
