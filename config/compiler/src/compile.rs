use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_core::Diagnostics;
use tidegate_resources::ResourceSet;
use tidegate_snapshot::Snapshot;

use crate::memory::Memory;
use crate::routes::Patterns;

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
    ///
    /// It is the same allocation as in the compilation before as long as nothing of it is another.
    pub diagnostics: Arc<Diagnostics>,
    /// What it took. Unlike all else this depends on what the [`Compiler`] has seen before.
    pub work: Work,
}

/// How much was made for a compilation, where the rest was taken over from the one before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// VirtualServices that were bound.
    pub virtual_services: usize,
    /// Virtual hosts whose routes were made.
    pub virtual_hosts: usize,
    pub clusters: usize,
    /// Whether nothing was taken over.
    pub whole: bool,
}

/// Compiles a set of resources for one gateway. Pure; equal for equal resources whatever order they came in.
pub fn compile(resources: &ResourceSet, options: &CompileOptions) -> Compilation {
    Compiler::default().compile(resources, options)
}

/// [`compile`] for one who compiles again and again: it makes anew what depends on what changed since, and takes over the
/// rest. What it gives back, but for [`Compilation::work`], does not depend on what it has seen before.
#[derive(Debug, Default)]
pub struct Compiler {
    patterns: Patterns,
    memory: Option<Memory>,
}

impl Compiler {
    /// As the function [`compile`].
    pub fn compile(&mut self, resources: &ResourceSet, options: &CompileOptions) -> Compilation {
        // Taken out, so that a panic leaves nothing half done behind.
        let before = self.memory.take().filter(|memory| memory.is_for(options));
        let followed = before.and_then(|memory| memory.follow(resources, &mut self.patterns));
        let memory = followed.unwrap_or_else(|| Memory::new(resources, options, &mut self.patterns));
        let compilation = memory.compilation();
        self.memory = memory.can_be_followed().then_some(memory);
        compilation
    }
}
