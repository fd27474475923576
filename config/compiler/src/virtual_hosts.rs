//! The routes of each host, in order.

use std::collections::{BTreeMap, BTreeSet};

use ahash::{AHashMap, AHashSet};
use tidegate_core::{Code, Host, ResourceKey};
use tidegate_snapshot::{PathMatch, Route, RouteMatch, TcpProxy, VirtualHost};

use crate::bindings::{Bindings, BoundHost, BoundPort, Use};
use crate::cluster_table::ClusterTable;
use crate::clusters::Clusters;
use crate::findings::{Findings, Unit};
use crate::names::domain_of;
use crate::routes::{RouteCompiler, path_of};
use crate::tables::TableId;
use crate::tcp_routes::BoundRule;

/// Most routes of one Snapshot. A few objects with many hosts and wildcards multiply, and memory must not.
pub(crate) const MAX_ROUTES: usize = 1_000_000;

/// Makes virtual hosts with their routes.
pub(crate) struct VirtualHosts<'s, 'b, 'a, 'c, 'o> {
    pub(crate) bindings: &'b Bindings<'a>,
    pub(crate) uses: &'b BTreeMap<Use, usize>,
    pub(crate) routes: &'s mut RouteCompiler<'o>,
    pub(crate) clusters: &'s mut Clusters<'c>,
    pub(crate) table: &'s ClusterTable,
    pub(crate) findings: &'s mut Findings,
    /// Routes so far.
    pub(crate) total: usize,
    /// Whether they were more than there may be.
    pub(crate) is_cut: bool,
}

impl VirtualHosts<'_, '_, '_, '_, '_> {
    /// What is served for a host of table `id`.
    pub(crate) fn virtual_host(
        &mut self,
        id: TableId,
        port: &BoundPort<'_>,
        host: &Host,
        bound: &BoundHost,
    ) -> VirtualHost {
        let mut specific: Vec<Route> = Vec::new();
        let mut catch_all: Vec<Route> = Vec::new();
        let mut shadows = (bound.uses.len() > 1).then(Shadows::default);
        let mut seen = AHashSet::new();
        for key in &bound.uses {
            let Some(binding) = self.bindings.binding(*key) else { continue };
            let hosts = self.uses.get(key).copied().unwrap_or_default();
            let compiled = self.findings.within(Unit::VirtualService(binding.object.key.clone()), |findings| {
                self.routes.compile(binding, hosts, self.clusters, self.table, findings)
            });
            if self.total + compiled.len() > MAX_ROUTES {
                let message = format!(
                    "the configuration has more than {MAX_ROUTES} routes; those of this VirtualService for `{host}` are left out"
                );
                self.is_cut = true;
                self.findings.within(Unit::VirtualHost(id, host.clone()), |findings| {
                    findings.error(Code::ENVIRONMENT, binding.object, "spec.http", message);
                });
                continue;
            }
            self.total += compiled.len();
            for part in compiled {
                // Bound by two Gateways, a rule has its route once: a second could never be reached.
                if bound.uses.len() > 1 && !seen.insert((key.service, part.rule, part.entry)) {
                    continue;
                }
                if let Some(winner) = shadows.as_mut().and_then(|shadows| shadows.hide(&part.route, part.catch_all)) {
                    let message =
                        format!("on host `{host}` the rule is never reached: {winner} takes its requests before it");
                    let path = path_of(part.rule, part.entry);
                    self.findings.within(Unit::VirtualHost(id, host.clone()), |findings| {
                        findings.warning(Code::SHADOWED, binding.object, &path, message);
                    });
                }
                if part.catch_all { &mut catch_all } else { &mut specific }.push(part.route);
            }
        }
        specific.append(&mut catch_all);
        specific.shrink_to_fit();
        let mut virtual_host =
            VirtualHost::new(format!("{}:{}", domain_of(host), port.port.number), vec![domain_of(host)], specific);
        virtual_host.https_redirect = bound.https_redirect;
        virtual_host.sources = self.bindings.sources(port, bound);
        virtual_host
    }

    /// What a rule does with connections; those that no rule takes are closed.
    pub(crate) fn proxy(&mut self, rule: Option<&BoundRule>) -> TcpProxy {
        match rule {
            Some(rule) => self
                .findings
                .within(Unit::Connections, |findings| rule.proxy(self.bindings, self.clusters, self.table, findings)),
            None => closing(),
        }
    }
}

/// Closes its connections.
pub(crate) fn closing() -> TcpProxy {
    TcpProxy::new(String::new(), Vec::new(), None)
}

/// Finds routes that those of an older VirtualService hide: a path or prefix without other conditions takes everything
/// under it, and of several catch-all routes the first takes all.
#[derive(Default)]
struct Shadows {
    exact: AHashMap<String, Taker>,
    prefixes: AHashMap<String, Taker>,
    /// Lengths of the prefixes.
    lengths: BTreeSet<usize>,
    catch_all: Option<Taker>,
}

/// A VirtualService and how a message names its rule.
#[derive(Clone)]
struct Taker {
    key: ResourceKey,
    shown: String,
}

impl Shadows {
    /// Notes a route; gives back what hides it, if that belongs to another VirtualService. Within one it is the
    /// business of its own validation.
    fn hide(&mut self, route: &Route, catch_all: bool) -> Option<String> {
        let taker = || Taker {
            key: route.source.key.clone(),
            shown: format!("{} at {}", route.source.key, route.source.origin),
        };
        let by_other = |taker: &&Taker| taker.key != route.source.key;
        if catch_all {
            let hidden = self.catch_all.as_ref().filter(by_other).map(|taker| taker.shown.clone());
            if self.catch_all.is_none() {
                self.catch_all = Some(taker());
            }
            return hidden;
        }
        let hidden = match &route.matcher.path {
            PathMatch::Exact { value, ignore_case: false } => {
                self.exact.get(value).or_else(|| self.prefix_of(value)).filter(by_other)
            }
            PathMatch::Prefix { value, ignore_case: false } => self.prefix_of(value).filter(by_other),
            _ => None,
        };
        let hidden = hidden.map(|taker| taker.shown.clone());
        let only_path = RouteMatch { path: route.matcher.path.clone(), ..RouteMatch::default() };
        if route.matcher == only_path {
            match &route.matcher.path {
                PathMatch::Exact { value, ignore_case: false } => {
                    self.exact.entry(value.clone()).or_insert_with(taker);
                }
                PathMatch::Prefix { value, ignore_case: false } => {
                    self.lengths.insert(value.len());
                    self.prefixes.entry(value.clone()).or_insert_with(taker);
                }
                _ => {}
            }
        }
        hidden
    }

    /// Who takes every path that begins with `path`.
    fn prefix_of(&self, path: &str) -> Option<&Taker> {
        self.lengths.range(..=path.len()).find_map(|length| self.prefixes.get(path.get(..*length)?))
    }
}
