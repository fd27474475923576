//! Which DestinationRules apply to a service for this gateway, and what they say together.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use ahash::AHashMap;
use tidegate_core::{Code, Kind, Origin, ResourceKey};
use tidegate_resources::{
    ClientTlsSettings, ConnectionPoolSettings, DestinationRule, LoadBalancerSettings, MatchLabelsSelector, Object,
    ObjectChange, PortSelector, ResourceSet, SimpleLb, Spec, TrafficPolicy, creation_order,
};

use crate::compile::CompileOptions;
use crate::findings::{Findings, Unit};
use crate::host_index::for_each_containing;
use crate::mesh::Mesh;
use crate::names::expand_host;
use crate::registry::{Registry, Touched};
use crate::visibility::{is_private, visibility};

/// Istio's code for a DestinationRule whose host does not exist.
const UNKNOWN_HOST: Code = Code("IST0174");

#[derive(Clone, Copy, Debug)]
struct Rule<'a> {
    object: &'a Object,
    rule: &'a DestinationRule,
    /// To the gateway's namespace.
    visible: bool,
    private: bool,
}

/// A DestinationRule in the list of its host.
#[derive(Debug)]
struct Listed {
    object: Arc<Object>,
    /// To the gateway's namespace.
    visible: bool,
    private: bool,
}

impl Listed {
    fn rule(&self) -> Option<Rule<'_>> {
        let Spec::DestinationRule(rule) = &self.object.spec else { return None };
        Some(Rule { object: &self.object, rule, visible: self.visible, private: self.private })
    }
}

/// DestinationRules by host and namespace, in each the oldest first. It follows what changes in a set.
#[derive(Debug, Default)]
pub(crate) struct RuleIndex {
    by_host: AHashMap<String, BTreeMap<Arc<str>, Vec<Listed>>>,
}

impl RuleIndex {
    pub(crate) fn new(resources: &ResourceSet, mesh: &Mesh, options: &CompileOptions) -> Self {
        let mut index = Self::default();
        resources.iter_kind(Kind::DestinationRule).for_each(|object| index.add(object, mesh, options));
        index
    }

    /// Follows a change, and notes which hosts it may concern.
    pub(crate) fn follow(
        &mut self,
        change: &ObjectChange,
        mesh: &Mesh,
        options: &CompileOptions,
        touched: &mut Touched,
    ) {
        let forms = [&change.old, &change.new];
        for host in forms.into_iter().flatten().filter_map(|object| host_of(object, options)) {
            touched.rules = true;
            if host.starts_with('*') {
                touched.wildcards.push(host.clone());
            }
            touched.hosts.insert(host);
        }
        if let Some(old) = &change.old {
            self.remove(old, options);
        }
        if let Some(new) = &change.new {
            self.add(new, mesh, options);
        }
    }

    fn add(&mut self, object: &Arc<Object>, mesh: &Mesh, options: &CompileOptions) {
        let Spec::DestinationRule(rule) = &object.spec else { return };
        let namespace = &*object.key.namespace;
        let default = &mesh.destination_rule_export_to;
        let listed = Listed {
            object: object.clone(),
            visible: visibility(&rule.export_to, default, namespace, &options.namespace).is_some(),
            private: is_private(&rule.export_to, default, namespace),
        };
        let host = expand_host(&rule.host, namespace, &options.cluster_domain);
        let list = self.by_host.entry(host).or_default().entry(object.key.namespace.clone()).or_default();
        let at = list.partition_point(|other| creation_order(&other.object, object) != Ordering::Greater);
        list.insert(at, listed);
    }

    fn remove(&mut self, object: &Arc<Object>, options: &CompileOptions) {
        let Some(host) = host_of(object, options) else { return };
        let Entry::Occupied(mut of_host) = self.by_host.entry(host) else { return };
        if let Some(list) = of_host.get_mut().get_mut(&object.key.namespace) {
            list.retain(|listed| !Arc::ptr_eq(&listed.object, object));
            if list.is_empty() {
                of_host.get_mut().remove(&object.key.namespace);
            }
        }
        if of_host.get().is_empty() {
            of_host.remove();
        }
    }

    fn rules(&self, host: &str, namespace: &str) -> impl Iterator<Item = Rule<'_>> {
        let list = self.by_host.get(host).and_then(|of_host| of_host.get(namespace));
        list.into_iter().flatten().filter_map(Listed::rule)
    }

    fn hosts(&self) -> impl Iterator<Item = &String> {
        self.by_host.keys()
    }
}

fn host_of(object: &Object, options: &CompileOptions) -> Option<String> {
    let Spec::DestinationRule(rule) = &object.spec else { return None };
    Some(expand_host(&rule.host, &object.key.namespace, &options.cluster_domain))
}

/// What applies to which service.
#[derive(Debug)]
pub(crate) struct DestinationRules<'a> {
    index: &'a RuleIndex,
    options: &'a CompileOptions,
    mesh: &'a Mesh,
}

/// Where the search for a service's rule looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Level {
    /// Every rule of the gateway's own namespace.
    Own,
    /// The rules of the root namespace that no other sees, for a gateway that lives there.
    OwnPrivate,
    /// What another namespace exports.
    Exported,
}

/// The DestinationRules of one service, merged.
#[derive(Debug, Default)]
pub(crate) struct EffectiveRule<'a> {
    pub(crate) sources: Vec<(ResourceKey, Origin)>,
    policy: Option<Policy<'a>>,
    subsets: BTreeMap<&'a str, EffectiveSubset<'a>>,
}

#[derive(Debug)]
pub(crate) struct EffectiveSubset<'a> {
    pub(crate) labels: &'a BTreeMap<String, String>,
    policy: Option<&'a TrafficPolicy>,
    /// The rule that defines it, and its place there.
    object: &'a Object,
    index: usize,
}

/// The blocks of a policy that one cluster is built with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blocks<'a> {
    pub(crate) load_balancer: Option<&'a LoadBalancerSettings>,
    pub(crate) connection_pool: Option<&'a ConnectionPoolSettings>,
    pub(crate) tls: Option<TlsBlock<'a>>,
}

/// A `tls` block and where it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlsBlock<'a> {
    pub(crate) settings: &'a ClientTlsSettings,
    pub(crate) object: &'a Object,
    subset: Option<usize>,
    port: Option<usize>,
}

impl TlsBlock<'_> {
    /// Such as `spec.subsets[0].trafficPolicy.portLevelSettings[1].tls`.
    pub(crate) fn path(&self) -> String {
        let subset = self.subset.map(|at| format!("subsets[{at}].")).unwrap_or_default();
        let port = self.port.map(|at| format!("portLevelSettings[{at}].")).unwrap_or_default();
        format!("spec.{subset}trafficPolicy.{port}tls")
    }
}

/// A policy and where it stands.
#[derive(Clone, Copy, Debug)]
struct Policy<'a> {
    policy: &'a TrafficPolicy,
    object: &'a Object,
    subset: Option<usize>,
}

impl<'a> Policy<'a> {
    fn tls(&self) -> Option<TlsBlock<'a>> {
        let settings = self.policy.tls.as_ref()?;
        Some(TlsBlock { settings, object: self.object, subset: self.subset, port: None })
    }

    fn port_blocks(&self, port: u16) -> Option<Blocks<'a>> {
        let fits = |selector: &PortSelector| selector.number == u32::from(port);
        let mut entries = self.policy.port_level_settings.iter().enumerate();
        let (at, entry) = entries.find(|(_, entry)| entry.port.as_ref().is_some_and(fits))?;
        Some(Blocks {
            load_balancer: entry.load_balancer.as_ref(),
            connection_pool: entry.connection_pool.as_ref(),
            tls: entry.tls.as_ref().map(|settings| TlsBlock {
                settings,
                object: self.object,
                subset: self.subset,
                port: Some(at),
            }),
        })
    }
}

impl<'a> DestinationRules<'a> {
    pub(crate) fn new(index: &'a RuleIndex, options: &'a CompileOptions, mesh: &'a Mesh) -> Self {
        Self { index, options, mesh }
    }

    /// Names the rules whose host is no service at all. A wildcard may wait for its services.
    pub(crate) fn report_unknown_hosts(&self, registry: &Registry<'_>, findings: &mut Findings) {
        self.index.hosts().for_each(|host| self.report_unknown_host(host, registry, findings));
    }

    /// The same for the rules of one host.
    pub(crate) fn report_unknown_host(&self, host: &str, registry: &Registry<'_>, findings: &mut Findings) {
        if host.starts_with('*') || registry.knows(host) {
            return;
        }
        for object in self.of_host(host) {
            let message = format!("no service has the host `{host}`: the rule applies to nothing");
            findings.within(Unit::Rule(object.key.clone()), |findings| {
                findings.warning(UNKNOWN_HOST, object, "spec.host", message);
            });
        }
    }

    /// The rules whose host is exactly this one.
    pub(crate) fn of_host(&self, host: &str) -> impl Iterator<Item = &'a Object> {
        let of_host = self.index.by_host.get(host);
        of_host.into_iter().flat_map(BTreeMap::values).flatten().map(|listed| &*listed.object)
    }

    /// What applies to a service: the rules of the gateway's own namespace, else those that the service's namespace
    /// exports, else those that the root namespace exports. The first of the three that has a host for the service
    /// ends the search, with its most specific host.
    pub(crate) fn effective(&self, host: &str, service_namespace: &str, findings: &mut Findings) -> EffectiveRule<'a> {
        let own = &*self.options.namespace;
        let root = &*self.mesh.root_namespace;
        let first = if own == root { Level::OwnPrivate } else { Level::Own };
        let levels = [(first, own), (Level::Exported, service_namespace), (Level::Exported, root)];
        self.report_unseen(host, service_namespace, findings);
        levels
            .into_iter()
            .find_map(|(level, namespace)| self.most_specific(level, namespace, host))
            .map(|rules| self.merge(&rules, findings))
            .unwrap_or_default()
    }

    /// Tells of rules for exactly `host` in namespaces that are not looked at: they may be meant for sidecars there, and
    /// whoever thinks that a gateway uses TLS because of one should know that it does not.
    fn report_unseen(&self, host: &str, service_namespace: &str, findings: &mut Findings) {
        let own = &*self.options.namespace;
        let root = &*self.mesh.root_namespace;
        let Some(of_host) = self.index.by_host.get(host) else { return };
        for (_, rules) in
            of_host.iter().filter(|(namespace, _)| ![own, service_namespace, root].contains(&&***namespace))
        {
            for rule in rules.iter().filter_map(Listed::rule) {
                let message = format!(
                    "it does not apply at this gateway: rules for `{host}` are looked for in `{own}` (the gateway's namespace), `{service_namespace}` (the service's) and `{root}` (the root namespace)"
                );
                let secures = rule.rule.traffic_policy.as_ref().is_some_and(|policy| policy.tls.is_some());
                let level = if secures { tidegate_core::Level::Warning } else { tidegate_core::Level::Info };
                findings.push(crate::findings::finding(
                    Code::IGNORED,
                    level,
                    rule.object,
                    "metadata.namespace",
                    message,
                ));
            }
        }
    }

    /// The rules of the most specific host of a level that contains `host`. A level whose most specific host belongs
    /// to rules that the gateway may not see has none.
    fn most_specific(&self, level: Level, namespace: &str, host: &str) -> Option<Vec<Rule<'a>>> {
        let mut found: Option<Vec<Rule<'a>>> = None;
        for_each_containing(host, |candidate| {
            if found.is_some() {
                return;
            }
            let rules = self.index.rules(candidate, namespace);
            let of_level: Vec<_> = rules
                .filter(|rule| match level {
                    Level::Own => true,
                    Level::OwnPrivate => rule.private,
                    Level::Exported => !rule.private,
                })
                .collect();
            if !of_level.is_empty() {
                found = Some(of_level);
            }
        });
        let mut rules = found?;
        if level == Level::Exported {
            rules.retain(|rule| rule.visible);
        }
        rules.retain(|rule| self.selects_gateway(rule));
        (!rules.is_empty()).then_some(rules)
    }

    /// A rule with a `workloadSelector` is for workloads of its own namespace that carry the labels.
    fn selects_gateway(&self, rule: &Rule<'_>) -> bool {
        let Some(selector) = &rule.rule.workload_selector else { return true };
        *rule.object.key.namespace == *self.options.namespace && self.options.has_labels(&selector.match_labels)
    }

    /// The oldest policy is used whole, subsets are joined, the oldest of a name stays. Rules that select this gateway
    /// go before those for every client; of several selectors the oldest rule's is taken.
    fn merge(&self, rules: &[Rule<'a>], findings: &mut Findings) -> EffectiveRule<'a> {
        let selector = rules.iter().find_map(|rule| rule.rule.workload_selector.as_ref());
        let is_chosen = |own: Option<&MatchLabelsSelector>| own.is_none() || own == selector;
        let mut chosen: Vec<_> = rules.iter().filter(|rule| is_chosen(rule.rule.workload_selector.as_ref())).collect();
        chosen.sort_by_key(|rule| rule.rule.workload_selector.is_none());
        let mut effective = EffectiveRule::default();
        let mut policy_of: Option<&Object> = None;
        let mut subset_of: BTreeMap<&str, &Object> = BTreeMap::new();
        for Rule { object, rule, .. } in chosen {
            effective.sources.push((object.key.clone(), object.origin.clone()));
            report_passthrough(rule.traffic_policy.as_deref(), object, "spec.trafficPolicy", findings);
            match (rule.traffic_policy.as_deref(), policy_of) {
                (Some(policy), None) => {
                    effective.policy = Some(Policy { policy, object, subset: None });
                    policy_of = Some(object);
                }
                (Some(_), Some(winner)) => {
                    let message = format!(
                        "the policy of {} at {} is used instead: of several DestinationRules for a host the oldest policy counts",
                        winner.key, winner.origin
                    );
                    findings.warning(Code::SHADOWED, object, "spec.trafficPolicy", message);
                }
                (None, _) => {}
            }
            for (at, subset) in rule.subsets.iter().enumerate() {
                if let Some(winner) = subset_of.get(subset.name.as_str()) {
                    let message =
                        format!("subset `{}` is already defined by {} at {}", subset.name, winner.key, winner.origin);
                    findings.warning(Code::SHADOWED, object, &format!("spec.subsets[{at}]"), message);
                    continue;
                }
                subset_of.insert(&subset.name, object);
                let path = format!("spec.subsets[{at}].trafficPolicy");
                report_passthrough(subset.traffic_policy.as_deref(), object, &path, findings);
                let policy = subset.traffic_policy.as_deref();
                let effective_subset = EffectiveSubset { labels: &subset.labels, policy, object, index: at };
                effective.subsets.insert(&subset.name, effective_subset);
            }
        }
        effective
    }

    /// The blocks for a port and subset: a port's entry replaces all blocks of its level as a unit; a subset's block
    /// replaces the service's block; absent blocks of the service come from the mesh's `defaultTrafficPolicy`.
    pub(crate) fn blocks(
        &self,
        rule: &EffectiveRule<'a>,
        subset: Option<&EffectiveSubset<'a>>,
        port: u16,
    ) -> Blocks<'a> {
        let policy = rule.policy.map(|it| it.policy);
        let mut blocks = Blocks {
            load_balancer: policy.and_then(|policy| policy.load_balancer.as_ref()),
            connection_pool: policy
                .and_then(|policy| policy.connection_pool.as_ref())
                .or(self.mesh.connection_pool.as_ref()),
            tls: rule.policy.and_then(|policy| policy.tls()),
        };
        if let Some(of_port) = rule.policy.and_then(|policy| policy.port_blocks(port)) {
            blocks = of_port;
        }
        if let Some(subset) = subset.and_then(EffectiveSubset::policy) {
            blocks.load_balancer = subset.policy.load_balancer.as_ref().or(blocks.load_balancer);
            blocks.connection_pool = subset.policy.connection_pool.as_ref().or(blocks.connection_pool);
            blocks.tls = subset.tls().or(blocks.tls);
            blocks = subset.port_blocks(port).unwrap_or(blocks);
        }
        blocks
    }
}

/// A gateway has no original destination that a request could be passed through to.
fn report_passthrough(policy: Option<&TrafficPolicy>, object: &Object, path: &str, findings: &mut Findings) {
    if policy.and_then(|policy| policy.load_balancer.as_ref()?.simple) == Some(SimpleLb::Passthrough) {
        let message = "PASSTHROUGH means nothing at a gateway; LEAST_REQUEST takes its place";
        findings.warning(Code::IGNORED, object, &format!("{path}.loadBalancer.simple"), message);
    }
}

impl<'a> EffectiveSubset<'a> {
    fn policy(&self) -> Option<Policy<'a>> {
        Some(Policy { policy: self.policy?, object: self.object, subset: Some(self.index) })
    }
}

impl EffectiveSubset<'_> {
    /// Says that no endpoint of a service that has some is in the subset.
    pub(crate) fn report_empty(&self, name: &str, host: &str, findings: &mut Findings) {
        let labels: Vec<_> = self.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let message =
            format!("no endpoint of `{host}` is in subset `{name}` ({}); requests get 503 (UH)", labels.join(","));
        findings.warning(Code::NO_ENDPOINTS, self.object, &format!("spec.subsets[{}].labels", self.index), message);
    }
}

impl<'a> EffectiveRule<'a> {
    pub(crate) fn subset(&self, name: &str) -> Option<&EffectiveSubset<'a>> {
        self.subsets.get(name)
    }

    pub(crate) fn subset_names(&self) -> impl Iterator<Item = &'a str> {
        self.subsets.keys().copied()
    }
}
