//! Which VirtualServices bind to which servers, for which hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashSet;
use tidegate_core::{Code, Host, Origin, ResourceKey};
use tidegate_resources::{Object, Spec, VirtualService};

use crate::compile::CompileOptions;
use crate::findings::{Findings, Unit};
use crate::gateways::{GatewayPort, GatewayServer, Gateways, Run, Serving};
use crate::mesh::Mesh;
use crate::names::{GatewayName, GatewayRef, expand_host};
use crate::routes::is_reachable;
use crate::tcp_routes::{BoundRule, RuleBinder, RuleUsage};
use crate::visibility::{Visibility, visibility};

/// Most pairs of a server's host and a VirtualService on one port. Wildcards multiply, and memory must not.
pub(crate) const MAX_PAIRS: usize = 1_000_000;

/// A VirtualService that this gateway may see.
#[derive(Debug)]
pub(crate) struct BoundService<'a> {
    pub(crate) object: &'a Object,
    pub(crate) spec: &'a VirtualService,
    /// In the order of the object, short names expanded.
    pub(crate) hosts: Vec<Host>,
}

/// A VirtualService's rules as they apply to one Gateway on one port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Use {
    /// Place among [`Bindings::services`].
    pub(crate) service: usize,
    /// Place among [`Bindings::gateways`].
    pub(crate) gateway: usize,
    pub(crate) port: u16,
}

/// A [`Use`] with what it stands for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding<'b, 'a> {
    pub(crate) key: Use,
    pub(crate) object: &'a Object,
    pub(crate) spec: &'a VirtualService,
    pub(crate) gateway: &'b GatewayName,
}

/// A virtual host before its routes are made.
#[derive(Debug, Default)]
pub(crate) struct BoundHost {
    pub(crate) https_redirect: bool,
    /// In order of precedence, each once.
    pub(crate) uses: Vec<Use>,
    /// Places among the servers of the port that admit it.
    servers: BTreeSet<usize>,
}

/// The virtual hosts of one route table, the most specific first.
pub(crate) type BoundHosts = BTreeMap<Host, BoundHost>;

/// A port with what its servers serve.
#[derive(Debug)]
pub(crate) struct BoundPort<'a> {
    pub(crate) port: &'a GatewayPort,
    /// One table for all servers of plaintext HTTP, or one for each server of HTTPS.
    pub(crate) tables: Vec<BoundHosts>,
    /// Place of each server's table among `tables`; none for servers that route no requests.
    pub(crate) table_of: Vec<Option<usize>>,
    /// What servers that route connections do with them, in order of precedence.
    pub(crate) rules: Vec<BoundRule>,
}

impl<'a> BoundPort<'a> {
    fn new(port: &'a GatewayPort) -> Self {
        let (table_of, count) = tables_of(port);
        Self { port, tables: (0..count).map(|_| BoundHosts::new()).collect(), table_of, rules: Vec::new() }
    }
}

/// Which of a port's tables each of its servers has, and how many tables there are: one for all servers of plaintext
/// HTTP, one for each server of HTTPS.
pub(crate) fn tables_of(port: &GatewayPort) -> (Vec<Option<usize>>, usize) {
    let mut count = 0;
    let mut shared = None;
    let mut own_table = || {
        count += 1;
        count - 1
    };
    let table_of = port
        .servers
        .iter()
        .map(|server| match server.serving {
            Serving::Http => Some(*shared.get_or_insert_with(&mut own_table)),
            Serving::Https(_) => Some(own_table()),
            Serving::Tls(_) | Serving::Passthrough | Serving::Tcp | Serving::Nothing => None,
        })
        .collect();
    (table_of, count)
}

/// Whether rules for connections are bound. They compete over all VirtualServices that have some, so that all of these
/// must be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ConnectionRules {
    Bind,
    LeaveOut,
}

#[derive(Debug)]
pub(crate) struct Bindings<'a> {
    pub(crate) services: Vec<BoundService<'a>>,
    pub(crate) gateways: Vec<GatewayName>,
    pub(crate) ports: Vec<BoundPort<'a>>,
    /// Pairs of a server's host and a VirtualService, over all ports.
    pub(crate) pairs: usize,
    /// Whether a port had more of them than it may have.
    pub(crate) is_cut: bool,
}

impl<'a> Bindings<'a> {
    /// Binds `objects`, in order of creation, by the rules of the reference, 2.1: visible to the gateway's namespace,
    /// naming the Gateway, with a host that overlaps one of the server's and is admitted from the VirtualService's
    /// namespace.
    pub(crate) fn new(
        objects: &[&'a Arc<Object>],
        mesh: &Mesh,
        options: &CompileOptions,
        gateways: &'a Gateways,
        connections: ConnectionRules,
        findings: &mut Findings,
    ) -> Self {
        let mut candidates = Candidates::default();
        for object in objects {
            let Spec::VirtualService(spec) = &object.spec else { continue };
            findings.within(Unit::VirtualService(object.key.clone()), |findings| {
                candidates.add(object, spec, mesh, options, gateways, findings);
            });
        }
        let mut bindings = Self {
            services: candidates.services,
            gateways: candidates.by_gateway.keys().cloned().collect(),
            ports: Vec::new(),
            pairs: 0,
            is_cut: false,
        };
        // Groups in order of visibility, each by creation: sorting keeps the order within a group.
        for services in candidates.by_gateway.values_mut() {
            services.sort_by_key(|(visibility, _)| *visibility);
        }
        let mut usage = RuleUsage::default();
        for port in &gateways.ports {
            let mut port = BoundPort::new(port);
            bindings.bind_port(&mut port, &candidates.by_gateway, options, connections, &mut usage, findings);
            bindings.ports.push(port);
        }
        usage.report(&bindings, findings);
        bindings
    }

    fn bind_port(
        &mut self,
        bound: &mut BoundPort<'a>,
        by_gateway: &BTreeMap<GatewayName, Vec<(Visibility, usize)>>,
        options: &CompileOptions,
        connections: ConnectionRules,
        usage: &mut RuleUsage,
        findings: &mut Findings,
    ) {
        let port = bound.port;
        let mut uses_of_runs = Vec::new();
        // The servers of one Gateway stand together, so each run of them is one search.
        for run in &port.runs {
            let mut uses = Vec::new();
            if let (Ok(gateway), Some(services)) =
                (self.gateways.binary_search(&run.gateway), by_gateway.get(&run.gateway))
            {
                let found = self.pairs(port, run, gateway, services, options, usage, findings);
                bind_pairs(bound, gateway, services, &found);
                self.pairs += found.len();
                for (server, order, _) in found {
                    let Some((_, service)) = services.get(order) else { continue };
                    uses.push((server, Use { service: *service, gateway, port: port.number }));
                }
                uses.dedup();
            }
            uses_of_runs.push(uses);
            for (number, server) in port.servers.iter().enumerate().take(run.servers.end).skip(run.servers.start) {
                if !server.https_redirect {
                    continue;
                }
                let Some(hosts) = bound.table_of.get(number).copied().flatten().and_then(|at| bound.tables.get_mut(at))
                else {
                    continue;
                };
                for host in &server.hosts {
                    let bound = hosts.entry(host.host.clone()).or_default();
                    bound.https_redirect = true;
                    bound.servers.insert(number);
                }
            }
        }
        if connections == ConnectionRules::Bind {
            findings.within(Unit::Connections, |findings| {
                let mut rules = RuleBinder::new(self, options);
                for (run, uses) in port.runs.iter().zip(&uses_of_runs) {
                    rules.bind(port, run.servers.clone(), uses, usage, findings);
                }
                bound.rules = rules.finish(port, findings);
            });
        }
    }

    /// Which servers admit which hosts of which VirtualServices that have rules for them: server by server, in each the
    /// VirtualServices in order, as istiod appends their routes.
    #[expect(clippy::too_many_arguments, reason = "the search draws on all of them")]
    fn pairs(
        &mut self,
        port: &GatewayPort,
        run: &Run,
        gateway: usize,
        services: &[(Visibility, usize)],
        options: &CompileOptions,
        usage: &mut RuleUsage,
        findings: &mut Findings,
    ) -> Vec<Pair> {
        let index = run.hosts(&port.servers);
        let mut found: Vec<Pair> = Vec::new();
        let mut is_cut = false;
        for (order, (_, service)) in services.iter().enumerate() {
            let key = Use { service: *service, gateway, port: port.number };
            let Some(binding) = self.binding(key) else { continue };
            let routes_requests = is_reachable(&binding, options);
            let before = found.len();
            for host in self.services.get(*service).into_iter().flat_map(|service| &service.hosts) {
                index.overlapping(host, |intersection, (server, at)| {
                    let Some((serving, admitted)) =
                        port.servers.get(*server).and_then(|server| Some((&server.serving, server.hosts.get(*at)?)))
                    else {
                        return;
                    };
                    if found.len() > MAX_PAIRS || !admitted.admits(&binding.object.key.namespace) {
                        return;
                    }
                    let has_rules = match serving {
                        Serving::Http | Serving::Https(_) => routes_requests,
                        Serving::Tls(_) | Serving::Tcp => !binding.spec.tcp.is_empty(),
                        Serving::Passthrough => !binding.spec.tls.is_empty(),
                        Serving::Nothing => false,
                    };
                    usage.note(*service, serving);
                    if has_rules {
                        found.push((*server, order, intersection.clone()));
                    }
                });
            }
            if found.len() > MAX_PAIRS {
                found.truncate(before);
                is_cut = true;
                let message = format!(
                    "port {} has more than {MAX_PAIRS} pairs of a host and a VirtualService; this one is left out",
                    port.number
                );
                let object = binding.object;
                findings.within(Unit::VirtualService(object.key.clone()), |findings| {
                    findings.error(Code::ENVIRONMENT, object, "spec.hosts", message);
                });
            }
        }
        self.is_cut |= is_cut;
        found.sort();
        found.dedup();
        found
    }

    /// Every use of a VirtualService that a virtual host has, in a fixed order, with the number of those hosts.
    pub(crate) fn uses(&self) -> BTreeMap<Use, usize> {
        let mut uses = BTreeMap::new();
        for key in
            self.ports.iter().flat_map(|port| port.tables.iter().flat_map(BTreeMap::values).flat_map(|host| &host.uses))
        {
            *uses.entry(*key).or_default() += 1;
        }
        uses
    }

    /// The servers that admit a host, then the VirtualServices whose routes it has.
    pub(crate) fn sources(&self, port: &BoundPort<'_>, host: &BoundHost) -> Vec<(ResourceKey, Origin)> {
        let servers = host.servers.iter().filter_map(|number| port.port.servers.get(*number));
        let mut seen = AHashSet::new();
        let services = host.uses.iter().filter(|key| seen.insert(key.service));
        let services = services.filter_map(|key| self.services.get(key.service));
        let services = services.map(|service| (service.object.key.clone(), service.object.origin.clone()));
        let mut sources: Vec<_> = servers.map(GatewayServer::source).chain(services).collect();
        sources.shrink_to_fit();
        sources
    }

    pub(crate) fn binding(&self, key: Use) -> Option<Binding<'_, 'a>> {
        let service = self.services.get(key.service)?;
        let gateway = self.gateways.get(key.gateway)?;
        Some(Binding { key, object: service.object, spec: service.spec, gateway })
    }
}

/// Place of a server on its port, place of a VirtualService in its Gateway's order, the host that both have.
type Pair = (usize, usize, Host);

fn bind_pairs(bound: &mut BoundPort<'_>, gateway: usize, services: &[(Visibility, usize)], found: &[Pair]) {
    let mut bound_before = AHashSet::new();
    for (server, order, host) in found {
        let (Some((_, service)), Some(table)) = (services.get(*order), bound.table_of.get(*server).copied().flatten())
        else {
            continue;
        };
        let Some(hosts) = bound.tables.get_mut(table) else { continue };
        let virtual_host = hosts.entry(host.clone()).or_default();
        virtual_host.https_redirect |= bound.port.servers.get(*server).is_some_and(|server| server.https_redirect);
        virtual_host.servers.insert(*server);
        // A host that two servers of one Gateway admit has its routes once.
        if bound_before.insert((table, *order, host)) {
            virtual_host.uses.push(Use { service: *service, gateway, port: bound.port.number });
        }
    }
}

/// VirtualServices by the Gateways that they name.
#[derive(Debug, Default)]
struct Candidates<'a> {
    services: Vec<BoundService<'a>>,
    by_gateway: BTreeMap<GatewayName, Vec<(Visibility, usize)>>,
}

impl<'a> Candidates<'a> {
    fn add(
        &mut self,
        object: &'a Object,
        spec: &'a VirtualService,
        mesh: &Mesh,
        options: &CompileOptions,
        gateways: &Gateways,
        findings: &mut Findings,
    ) {
        let namespace = &*object.key.namespace;
        let mut selected: Vec<GatewayName> = Vec::new();
        let mut others = 0;
        for (at, reference) in spec.gateways.iter().enumerate() {
            let GatewayRef::Gateway(name) = GatewayRef::parse(reference, namespace) else { continue };
            match gateways.known.get(&name) {
                Some(gateway) if gateway.selected => {
                    if !selected.contains(&name) {
                        selected.push(name);
                    }
                }
                Some(_) => others += 1,
                None => report_missing_gateway(object, at, reference, &name, gateways, findings),
            }
        }
        if selected.is_empty() {
            report_unbound(object, spec, others, findings);
            return;
        }
        let Some(visibility) =
            visibility(&spec.export_to, &mesh.virtual_service_export_to, namespace, &options.namespace)
        else {
            let path = if spec.export_to.is_empty() { "spec.gateways" } else { "spec.exportTo" };
            let message = format!(
                "it names a Gateway that this gateway serves, and is not exported to the gateway's namespace `{}`: none of its routes apply",
                options.namespace
            );
            findings.warning(Code::IGNORED, object, path, message);
            return;
        };
        let hosts: Vec<_> = spec
            .hosts
            .iter()
            .map(|host| Host::new_unchecked(&expand_host(host, namespace, &options.cluster_domain)))
            .collect();
        for (at, (host, written)) in hosts.iter().zip(&spec.hosts).enumerate() {
            if !written.eq_ignore_ascii_case(host.as_str()) {
                let message =
                    format!("`{written}` is a short name and stands for `{host}`: a request has to ask for that");
                findings.info(Code::IGNORED, object, &format!("spec.hosts[{at}]"), message);
            }
        }
        let number = self.services.len();
        for name in selected {
            report_refused_hosts(object, spec, &hosts, &name, gateways, findings);
            self.by_gateway.entry(name).or_default().push((visibility, number));
        }
        self.services.push(BoundService { object, spec, hosts });
    }
}

/// Names the hosts that no server of a Gateway admits.
fn report_refused_hosts(
    object: &Object,
    spec: &VirtualService,
    hosts: &[Host],
    name: &GatewayName,
    gateways: &Gateways,
    findings: &mut Findings,
) {
    let Some(known) = gateways.known.get(name) else { return };
    for (at, host) in hosts.iter().enumerate() {
        let (mut fits, mut only_for) = (false, None);
        known.admitted().overlapping(host, |_, server| {
            if server.admits(&object.key.namespace) {
                fits = true;
            } else {
                only_for.clone_from(&server.namespace);
            }
        });
        if fits {
            continue;
        }
        let written = spec.hosts.get(at).map(String::as_str).unwrap_or_default();
        let gateway = format!("Gateway {}/{}", name.namespace, name.name);
        let mut message = match only_for {
            Some(namespace) => {
                format!("{gateway} admits the host `{host}` only for VirtualServices of namespace `{namespace}`")
            }
            None => format!("no server of {gateway} admits the host `{host}`"),
        };
        if !written.eq_ignore_ascii_case(host.as_str()) {
            message.push_str(&format!(" (`{written}` is a short name and is expanded)"));
        }
        message.push_str("; its requests get 404 (NR)");
        findings.warning(Code::HOST_NOT_IN_GATEWAY, object, &format!("spec.hosts[{at}]"), message);
    }
}

fn report_missing_gateway(
    object: &Object,
    at: usize,
    reference: &str,
    name: &GatewayName,
    gateways: &Gateways,
    findings: &mut Findings,
) {
    let message = format!("there is no Gateway {}/{}", name.namespace, name.name);
    let path = format!("spec.gateways[{at}]");
    let mut diagnostic =
        crate::findings::finding(Code::REFERENCE_NOT_FOUND, tidegate_core::Level::Error, object, &path, message);
    let elsewhere: Vec<_> = gateways
        .known
        .keys()
        .filter(|other| other.name == name.name)
        .map(|other| format!("`{}/{}`", other.namespace, other.name))
        .take(3)
        .collect();
    if !elsewhere.is_empty() && !reference.contains('/') {
        diagnostic = diagnostic
            .help(format!("a bare name is of the VirtualService's own namespace; write {}", elsewhere.join(" or ")));
    }
    findings.push(diagnostic);
}

/// Says why a VirtualService concerns no server of this gateway at all.
fn report_unbound(object: &Object, spec: &VirtualService, others: usize, findings: &mut Findings) {
    if spec.hosts.is_empty() {
        let message =
            "without hosts only a `delegate` of another VirtualService can use it, and delegation is not enforced yet";
        findings.info(Code::NOT_ENFORCED, object, "spec", message);
        return;
    }
    let only_mesh = spec.gateways.iter().all(|reference| reference == "mesh");
    if only_mesh {
        let message = "it applies to sidecars (`mesh`) and names no Gateway: a gateway has no use for it";
        findings.info(Code::IGNORED, object, "spec.gateways", message);
    } else if others > 0 {
        let message = "the Gateways that it names do not select this gateway";
        findings.info(Code::IGNORED, object, "spec.gateways", message);
    }
}
