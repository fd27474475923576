use std::collections::BTreeMap;

use tidegate_core::Diagnostics;
use tidegate_resources::ResourceSet;
use tidegate_snapshot::Snapshot;

use crate::bindings::Bindings;
use crate::clusters::Clusters;
use crate::destination_rules::DestinationRules;
use crate::findings::Findings;
use crate::gateways::Gateways;
use crate::listeners::listeners;
use crate::mesh::Mesh;
use crate::registry::Registry;
use crate::routes::{Patterns, RouteCompiler};
use crate::secrets::Secrets;
use crate::server_tls::ServerTlsCompiler;
use crate::virtual_hosts::VirtualHosts;

/// Who the gateway is. Two gateways with equal options compile equal resources to equal Snapshots.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CompileOptions {
    /// The gateway's own labels: `Gateway.selector`, `sourceLabels` and `workloadSelector` are matched against them.
    pub labels: BTreeMap<String, String>,
    /// Namespace of the gateway workload: what others export to it, it sees.
    pub namespace: String,
    /// Suffix of service names after `.svc.`, without dots at its ends.
    pub cluster_domain: String,
    /// What metrics call the cluster that endpoints are in.
    pub cluster_id: String,
}

impl Default for CompileOptions {
    /// Istio's stock ingress gateway.
    fn default() -> Self {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            labels: BTreeMap::from([label("app", "istio-ingressgateway"), label("istio", "ingressgateway")]),
            namespace: "istio-system".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
        }
    }
}

impl CompileOptions {
    /// Whether the gateway carries all of `selector`; an empty one selects it.
    pub(crate) fn has_labels(&self, selector: &BTreeMap<String, String>) -> bool {
        selector.iter().all(|(name, value)| self.labels.get(name) == Some(value))
    }
}

/// What [`compile`] gives back.
#[derive(Clone, Debug)]
pub struct Compilation {
    pub snapshot: Snapshot,
    /// Findings between objects, sorted by object and place: references that lead nowhere, conflicts of servers,
    /// rules and hosts that nothing reaches or binds. None of them means that an object was rejected.
    pub diagnostics: Diagnostics,
}

/// Compiles a set of resources for one gateway. Pure; equal for equal resources whatever order they came in.
pub fn compile(resources: &ResourceSet, options: &CompileOptions) -> Compilation {
    Compiler::default().compile(resources, options)
}

/// [`compile`] for one who compiles again and again: it keeps what is dear to make (regular expressions) from one
/// compilation to the next. What it gives back does not depend on what it has seen before.
#[derive(Debug, Default)]
pub struct Compiler {
    patterns: Patterns,
}

impl Compiler {
    /// As the function [`compile`].
    pub fn compile(&mut self, resources: &ResourceSet, options: &CompileOptions) -> Compilation {
        let mut findings = Findings::default();
        let mesh = Mesh::read(resources, &mut findings);
        let registry =
            Registry::new(resources, &mesh, &options.namespace, &options.cluster_domain, &options.cluster_id);
        let rules = DestinationRules::new(resources, &mesh, options);
        rules.report_unknown_hosts(&registry, &mut findings);
        let secrets = Secrets::new(resources, options);
        let mut clusters = Clusters::new(&registry, &rules, &mesh, &options.cluster_domain, secrets);

        let mut server_tls = ServerTlsCompiler::new(resources, &mesh.tls_defaults, options);
        let gateways = Gateways::select(resources, options, &mut server_tls, &mut findings);
        let bindings = Bindings::new(resources, &mesh, options, gateways, &mut findings);

        // A route names its cluster by its place in the table, so the table is complete before the first route is made.
        let mut routes = RouteCompiler::new(options, &mut self.patterns);
        let uses = bindings.uses();
        for binding in uses.keys().filter_map(|key| bindings.binding(*key)) {
            routes.collect_clusters(binding, &mut clusters, &mut findings);
        }
        for rule in bindings.ports.iter().flat_map(|port| &port.rules) {
            rule.collect_clusters(&bindings, &mut clusters, &mut findings);
        }
        let table = clusters.build(&mut findings);
        let listeners = listeners(VirtualHosts {
            bindings: &bindings,
            uses: &uses,
            routes: &mut routes,
            clusters: &mut clusters,
            table: &table,
            findings: &mut findings,
            total: 0,
        });
        self.patterns.end_generation();

        let snapshot = Snapshot::new(listeners, table.into_clusters(), mesh.settings.clone());
        Compilation { snapshot, diagnostics: findings.into_sorted() }
    }
}
