//! What a compilation leaves for the next, and how the next follows what changed.
//!
//! Everything that is made depends on some objects only: a virtual host on the VirtualServices that have its host, a
//! cluster on its service, rules and endpoints. A change makes anew what depends on the objects that changed, with the
//! same functions that make everything at first. Where it is not certain what else depends on a change (Gateways, mesh
//! settings, a service that came, went or got other ports while routes name it) everything is made anew.
//!
//! Invariant: what a followed compilation gives is what a whole one gives, to the byte. A test holds the two against each
//! other over thousands of random edits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashSet;
use tidegate_core::{Diagnostics, Host, Kind, ResourceKey};
use tidegate_resources::{Object, ObjectChange, ResourceSet, Spec, sort_by_creation};
use tidegate_snapshot::{MeshSettings, Snapshot};

use crate::bindings::{Bindings, ConnectionRules, MAX_PAIRS, Use};
use crate::cluster_table::{ClusterTable, Wanted, WantedChanges};
use crate::clusters::{Clusters, Targets};
use crate::compile::{Compilation, CompileOptions, Work};
use crate::destination_rules::{DestinationRules, RuleIndex};
use crate::findings::{ByUnit, Findings, Unit, sorted};
use crate::gateways::{Family, Gateways};
use crate::host_index::for_each_containing;
use crate::listeners;
use crate::mesh::Mesh;
use crate::registry::{Registry, ServiceIndex, Touched};
use crate::routes::{Patterns, RouteCompiler};
use crate::secrets::Secrets;
use crate::server_tls::ServerTlsCompiler;
use crate::tables::{MadePort, TableId};
use crate::virtual_hosts::{MAX_ROUTES, VirtualHosts};

/// A compilation with all that the next one can take over.
#[derive(Debug)]
pub(crate) struct Memory {
    set: ResourceSet,
    frame: Frame,
    made: Made,
    work: Work,
}

/// What everything else is made with.
#[derive(Debug)]
struct Frame {
    options: CompileOptions,
    mesh: Mesh,
    services: ServiceIndex,
    rules: RuleIndex,
    gateways: Gateways,
}

/// What was made.
#[derive(Debug)]
struct Made {
    /// In the order of the Gateways' ports.
    ports: Vec<MadePort>,
    wanted: Wanted,
    clusters: ClusterTable,
    /// VirtualServices with rules for connections, bound or not.
    connection_services: AHashSet<ResourceKey>,
    /// What those rules refer to.
    connection_targets: Targets,
    findings: ByUnit,
    /// Those that were taken out of `findings` in this revision.
    withdrawn: ByUnit,
    diagnostics: Arc<Diagnostics>,
    snapshot: Snapshot,
    /// Never less than what there is, of what may not be more than so many.
    pairs: usize,
    routes: usize,
    is_cut: bool,
}

/// What is to be made anew.
struct Revision<'r> {
    /// VirtualServices as they were and as they are; one that did not change may be among both.
    old: Vec<&'r Arc<Object>>,
    new: Vec<&'r Arc<Object>>,
    touched: Touched,
    connections: ConnectionRules,
    whole: bool,
}

impl Memory {
    /// Compiles everything.
    pub(crate) fn new(resources: &ResourceSet, options: &CompileOptions, patterns: &mut Patterns) -> Self {
        let mut findings = Findings::default();
        let mesh = Mesh::read(resources, &mut findings);
        let mut server_tls = ServerTlsCompiler::new(resources, &mesh.tls_defaults, options);
        let gateways = Gateways::select(resources, options, &mut server_tls, &mut findings);
        let frame = Frame {
            services: ServiceIndex::new(resources, &mesh, options),
            rules: RuleIndex::new(resources, &mesh, options),
            options: options.clone(),
            mesh,
            gateways,
        };
        let services = resources.by_creation(Kind::VirtualService);
        let connection_services =
            services.iter().filter(|object| routes_connections(object)).map(|object| object.key.clone());
        let mut made = Made {
            ports: MadePort::all(&frame.gateways),
            wanted: Wanted::default(),
            clusters: ClusterTable::default(),
            connection_services: connection_services.collect(),
            connection_targets: Targets::default(),
            findings: findings.into_units(),
            withdrawn: ByUnit::default(),
            diagnostics: Arc::default(),
            snapshot: Snapshot::empty(),
            pairs: 0,
            routes: 0,
            is_cut: false,
        };
        let revision = Revision {
            old: Vec::new(),
            new: services,
            touched: Touched::default(),
            connections: ConnectionRules::Bind,
            whole: true,
        };
        patterns.begin_generation();
        let work = made.revise(&frame, resources, &revision, patterns).unwrap_or_default();
        patterns.end_generation();
        Self { set: resources.clone(), frame, made, work }
    }

    pub(crate) fn is_for(&self, options: &CompileOptions) -> bool {
        self.frame.options == *options
    }

    /// Whether the next compilation may start from this one. Near a limit it depends on all objects together which of them
    /// are left out.
    pub(crate) fn can_be_followed(&self) -> bool {
        !self.made.is_cut
    }

    pub(crate) fn compilation(&self) -> Compilation {
        Compilation {
            snapshot: self.made.snapshot.clone(),
            diagnostics: self.made.diagnostics.clone(),
            work: self.work,
        }
    }

    /// Compiles what depends on what changed. None if that may be anything.
    pub(crate) fn follow(mut self, resources: &ResourceSet, patterns: &mut Patterns) -> Option<Self> {
        let changes = resources.changes_since(&self.set);
        if patterns.is_spent() || changes.iter().any(is_of_frame) {
            return None;
        }
        let Frame { options, mesh, services, rules, .. } = &mut self.frame;
        let mut touched = Touched::default();
        let (mut old, mut new) = (Vec::new(), Vec::new());
        let mut changed: AHashSet<&ResourceKey> = AHashSet::new();
        for change in &changes {
            services.follow(change, mesh, options, &mut touched);
            rules.follow(change, mesh, options, &mut touched);
            for (form, forms) in [(&change.old, &mut old), (&change.new, &mut new)] {
                match form {
                    Some(object) if object.key.kind == Kind::VirtualService => {
                        changed.insert(&object.key);
                        forms.push(object);
                    }
                    Some(object) if object.key.kind == Kind::DestinationRule => {
                        self.made.withdraw(Unit::Rule(object.key.clone()));
                    }
                    _ => {}
                }
            }
        }
        // What rules for connections do depends on all of them together, and a little on services.
        let known = &mut self.made.connection_services;
        let mut connections = ConnectionRules::LeaveOut;
        if old.iter().chain(&new).any(|object| routes_connections(object))
            || (!known.is_empty() && (!touched.hosts.is_empty() || touched.workloads))
        {
            connections = ConnectionRules::Bind;
            let others = known.iter().filter(|key| !changed.contains(key)).filter_map(|key| resources.get(key));
            for object in others {
                old.push(object);
                new.push(object);
            }
            for object in &old {
                known.remove(&object.key);
            }
            known.extend(new.iter().filter(|object| routes_connections(object)).map(|object| object.key.clone()));
        }
        sort_by_creation(&mut old);
        sort_by_creation(&mut new);
        let revision = Revision { old, new, touched, connections, whole: false };
        self.work = self.made.revise(&self.frame, resources, &revision, patterns)?;
        self.set = resources.clone();
        Some(self)
    }
}

/// Whether everything may depend on a change.
fn is_of_frame(change: &ObjectChange) -> bool {
    let kind = change.new.as_ref().or(change.old.as_ref()).map(|object| object.key.kind);
    matches!(kind, Some(Kind::Gateway | Kind::MeshConfig | Kind::ReferenceGrant))
}

fn routes_connections(object: &Object) -> bool {
    matches!(&object.spec, Spec::VirtualService(spec) if !spec.tcp.is_empty() || !spec.tls.is_empty())
}

impl Made {
    /// Takes out what was found with something that is made anew, or not at all any more.
    fn withdraw(&mut self, unit: Unit) {
        if let Some((unit, found)) = self.findings.remove_entry(&unit) {
            // What was there at first is what counts.
            self.withdrawn.entry(unit).or_insert(found);
        }
    }

    /// Makes anew what a revision asks for. None if it turns out that more depends on it; what is made is of no use then.
    fn revise(
        &mut self,
        frame: &Frame,
        resources: &ResourceSet,
        revision: &Revision<'_>,
        patterns: &mut Patterns,
    ) -> Option<Work> {
        let Frame { options, mesh, gateways, .. } = frame;
        let registry = Registry::new(resources, &frame.services, options);
        let rules = DestinationRules::new(&frame.rules, options, mesh);
        let secrets = Secrets::new(resources, options);
        let mut clusters = Clusters::new(&registry, &rules, mesh, &options.cluster_domain, secrets);
        let mut findings = Findings::default();
        self.report_rules(&rules, &registry, revision, &mut findings);
        let touched = self.check_shapes(revision, &mut clusters, &mut findings)?;

        // A route names its cluster by its index in the table, so the table is complete before the first route is made.
        let mut routes = RouteCompiler::new(options, patterns);
        // What these find is found again where it counts.
        let mut found_again = Findings::default();
        let [before, after] = [&revision.old, &revision.new].map(|forms| {
            let alone = ConnectionRules::LeaveOut;
            (!revision.whole).then(|| Bindings::new(forms, mesh, options, gateways, alone, &mut found_again))
        });
        let affected = after.iter().chain(&before).flat_map(hosts_of).collect::<BTreeSet<(TableId, Host)>>();
        let renewed: AHashSet<&ResourceKey> = revision.new.iter().map(|object| &object.key).collect();
        let objects = self.with_neighbours(&revision.new, &renewed, &affected, resources);
        let bindings = Bindings::new(&objects, mesh, options, gateways, revision.connections, &mut findings);
        self.pairs += bindings.pairs;
        self.is_cut |= bindings.is_cut;

        let mut changes = WantedChanges::default();
        let uses = bindings.uses();
        let is_renewed = |object: &Object| revision.whole || renewed.contains(&object.key);
        for targets in targets(&bindings, &uses, &routes, &mut clusters, is_renewed, &mut findings) {
            self.wanted.add(targets, &mut changes);
        }
        let mut of_connections = Targets::default();
        if revision.connections == ConnectionRules::Bind {
            findings.within(Unit::Connections, |findings| {
                for rule in bindings.ports.iter().flat_map(|port| &port.rules) {
                    rule.collect_clusters(&bindings, &mut clusters, &mut of_connections, findings);
                }
            });
            let earlier = std::mem::replace(&mut self.connection_targets, of_connections.clone());
            self.wanted.add(of_connections, &mut changes);
            self.wanted.remove(earlier, &mut changes);
        }
        if let Some(before) = &before {
            for targets in targets(before, &before.uses(), &routes, &mut clusters, |_| true, &mut found_again) {
                self.wanted.remove(targets, &mut changes);
            }
        }
        let built = self.build_clusters(&touched, &changes, &mut clusters, &mut findings);

        affected.iter().for_each(|(id, host)| self.withdraw(Unit::VirtualHost(*id, host.clone())));
        let mut work =
            Work { virtual_services: revision.new.len(), virtual_hosts: 0, clusters: built, whole: revision.whole };
        let mut making = VirtualHosts {
            bindings: &bindings,
            uses: &uses,
            routes: &mut routes,
            clusters: &mut clusters,
            table: &self.clusters,
            findings: &mut findings,
            total: 0,
            is_cut: false,
        };
        let mut make =
            |ports: &mut Vec<MadePort>, making: &mut VirtualHosts<'_, '_, '_, '_, '_>, id: TableId, host: &Host| {
                let bound = bindings.ports.get(id.port);
                let served = bound.and_then(|bound| Some((bound, bound.tables.get(id.table)?.get(host)?)));
                let virtual_host = served.map(|(bound, of_host)| making.virtual_host(id, bound, host, of_host));
                work.virtual_hosts += usize::from(virtual_host.is_some());
                if let Some(table) = ports.get_mut(id.port).and_then(|port| port.tables.get_mut(id.table)) {
                    table.set(host, virtual_host);
                }
            };
        if revision.whole {
            for (port, bound) in bindings.ports.iter().enumerate() {
                for (table, hosts) in bound.tables.iter().enumerate() {
                    let id = TableId { port, table };
                    hosts.keys().for_each(|host| make(&mut self.ports, &mut making, id, host));
                }
            }
        } else {
            affected.iter().for_each(|(id, host)| make(&mut self.ports, &mut making, *id, host));
        }
        for (made, bound) in self.ports.iter_mut().zip(&bindings.ports) {
            let all_of_it = revision.connections == ConnectionRules::Bind && bound.port.family != Family::Http;
            if revision.whole || all_of_it {
                listeners::make(made, bound, &mut making);
            } else if made.is_stale() {
                listeners::refresh(made, bound.port);
            }
        }
        self.routes += making.total;
        self.is_cut |= making.is_cut;
        let near_limit = self.is_cut || self.pairs > MAX_PAIRS / 2 || self.routes > MAX_ROUTES / 2;
        if !revision.whole && (near_limit || patterns.is_spent()) {
            return None;
        }
        self.keep_findings(findings, revision, &renewed, &changes);
        let same_clusters = !revision.whole && changes.ports.is_empty() && touched.is_empty();
        self.put_together(&mesh.settings, same_clusters);
        Some(work)
    }

    /// Looks which DestinationRules are for no service.
    fn report_rules(
        &mut self,
        rules: &DestinationRules<'_>,
        registry: &Registry<'_>,
        revision: &Revision<'_>,
        findings: &mut Findings,
    ) {
        if revision.whole {
            return rules.report_unknown_hosts(registry, findings);
        }
        for host in &revision.touched.hosts {
            for object in rules.of_host(host) {
                self.withdraw(Unit::Rule(object.key.clone()));
            }
            rules.report_unknown_host(host, registry, findings);
        }
    }

    /// The hosts in use that changes may concern. None if routes depend on what is another now.
    fn check_shapes(
        &mut self,
        revision: &Revision<'_>,
        clusters: &mut Clusters<'_>,
        findings: &mut Findings,
    ) -> Option<Vec<String>> {
        let touched = &revision.touched;
        let concerned: Vec<String> = if touched.workloads || !touched.wildcards.is_empty() {
            self.wanted.hosts().filter(|host| concerns(touched, host)).cloned().collect()
        } else {
            touched.hosts.iter().filter(|host| self.wanted.uses(host)).cloned().collect()
        };
        for host in &concerned {
            self.withdraw(Unit::Service(host.clone()));
            let shape = clusters.shape(host, findings);
            if self.wanted.shape(host) != Some(&shape) {
                return None;
            }
        }
        Some(concerned)
    }

    /// VirtualServices with all that have routes on a host that is affected, in order of creation.
    fn with_neighbours<'r>(
        &self,
        new: &[&'r Arc<Object>],
        renewed: &AHashSet<&ResourceKey>,
        affected: &BTreeSet<(TableId, Host)>,
        resources: &'r ResourceSet,
    ) -> Vec<&'r Arc<Object>> {
        let mut objects = new.to_vec();
        let mut seen = AHashSet::new();
        for (id, host) in affected {
            let table = self.ports.get(id.port).and_then(|port| port.tables.get(id.table));
            let sources = table.and_then(|table| table.get(host)).map(|host| host.sources.as_slice());
            for (key, _) in sources.unwrap_or_default() {
                // One that is gone is not in the set; one that changed is there already.
                if key.kind == Kind::VirtualService && !renewed.contains(key) && seen.insert(key) {
                    objects.extend(resources.get(key));
                }
            }
        }
        if objects.len() > new.len() {
            sort_by_creation(&mut objects);
        }
        objects
    }

    /// Builds the clusters of hosts that changed and of those that are wanted in other parts than before. Returns how many.
    fn build_clusters(
        &mut self,
        touched: &[String],
        changes: &WantedChanges,
        clusters: &mut Clusters<'_>,
        findings: &mut Findings,
    ) -> usize {
        for host in &changes.new {
            let shape = clusters.shape(host, findings);
            self.wanted.set_shape(host, shape);
        }
        let mut ports = changes.ports.clone();
        for host in touched {
            ports.extend(self.wanted.ports_of(host).map(|port| (host.clone(), port)));
        }
        let mut made = Vec::with_capacity(ports.len());
        let mut count = 0;
        for (host, port) in ports {
            self.withdraw(Unit::Clusters(host.clone(), port));
            let subsets: Vec<_> = self.wanted.subsets(&host, port).collect();
            let built = match subsets.is_empty() {
                false => clusters.build(&host, port, &subsets, findings),
                true => Vec::new(),
            };
            count += built.len();
            made.push(((host, port), built));
        }
        self.clusters.replace(made);
        count
    }

    /// Puts the findings of what was made in the place of those that it had.
    fn keep_findings(
        &mut self,
        findings: Findings,
        revision: &Revision<'_>,
        renewed: &AHashSet<&ResourceKey>,
        changes: &WantedChanges,
    ) {
        for object in revision.old.iter().chain(&revision.new) {
            self.withdraw(Unit::VirtualService(object.key.clone()));
        }
        if revision.connections == ConnectionRules::Bind {
            self.withdraw(Unit::Connections);
        }
        let mut fresh = Vec::new();
        for (unit, found) in findings.into_units() {
            let counts = match &unit {
                // Neighbours were bound with less than all that they have.
                Unit::VirtualService(key) => revision.whole || renewed.contains(key),
                Unit::Connections => revision.connections == ConnectionRules::Bind,
                _ => true,
            };
            if counts {
                fresh.push(unit.clone());
                if let Some(before) = self.findings.insert(unit.clone(), found) {
                    self.withdrawn.insert(unit, before);
                }
            }
        }
        for host in &changes.left {
            self.withdraw(Unit::Service(host.clone()));
        }
        let withdrawn = std::mem::take(&mut self.withdrawn);
        let is_same = |unit: &Unit| withdrawn.get(unit) == self.findings.get(unit);
        if revision.whole || !fresh.iter().chain(withdrawn.keys()).all(is_same) {
            self.diagnostics = Arc::new(sorted(&self.findings));
        }
    }

    fn put_together(&mut self, settings: &MeshSettings, same_clusters: bool) {
        let listeners = self.ports.iter().filter_map(|port| port.listener.clone());
        self.snapshot = if same_clusters {
            self.snapshot.with_listeners(listeners)
        } else {
            let (clusters, indices) = (self.clusters.clusters().to_vec(), self.clusters.indices());
            Snapshot::following(&self.snapshot, listeners, clusters, Some(indices), settings.clone())
        };
    }
}

fn concerns(touched: &Touched, host: &str) -> bool {
    let mut within = touched.workloads || touched.hosts.contains(host);
    if !within && !touched.wildcards.is_empty() {
        for_each_containing(host, |name| within |= touched.wildcards.iter().any(|wildcard| wildcard == name));
    }
    within
}

/// The hosts that VirtualServices have routes on.
fn hosts_of(bindings: &Bindings<'_>) -> Vec<(TableId, Host)> {
    let mut all = Vec::new();
    for (port, bound) in bindings.ports.iter().enumerate() {
        for (table, hosts) in bound.tables.iter().enumerate() {
            let served = hosts.iter().filter(|(_, host)| !host.uses.is_empty());
            all.extend(served.map(|(host, _)| (TableId { port, table }, host.clone())));
        }
    }
    all
}

/// What the routes of each VirtualService refer to, of those that `counts` takes.
fn targets(
    bindings: &Bindings<'_>,
    uses: &BTreeMap<Use, usize>,
    routes: &RouteCompiler<'_>,
    clusters: &mut Clusters<'_>,
    counts: impl Fn(&Object) -> bool,
    findings: &mut Findings,
) -> Vec<Targets> {
    let mut all: BTreeMap<usize, Targets> = BTreeMap::new();
    for binding in uses.keys().filter_map(|key| bindings.binding(*key)).filter(|binding| counts(binding.object)) {
        let targets = all.entry(binding.key.service).or_default();
        findings.within(Unit::VirtualService(binding.object.key.clone()), |findings| {
            routes.collect_clusters(binding, clusters, targets, findings);
        });
    }
    all.into_values().collect()
}
