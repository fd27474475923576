//! From the rules of a VirtualService to routes.

mod action;
mod headers;
mod matcher;
mod patterns;

use std::collections::BTreeMap;
use std::collections::hash_map::Entry;

use ahash::AHashMap;
use tidegate_core::Code;
use tidegate_resources::{HttpMatchRequest, HttpRoute, StringMatch, VirtualService};
use tidegate_snapshot::{Route, Source};

use crate::bindings::{Binding, Use};
use crate::cluster_table::ClusterTable;
use crate::clusters::{Clusters, Targets, Traffic, report};
use crate::compile::CompileOptions;
use crate::findings::Findings;
use crate::names::GatewayRef;
use action::{Compiled, compile_action, destinations, refusal};
use matcher::{Refused, compile_match};
pub(crate) use patterns::Patterns;

/// A route and where among its VirtualService's rules it comes from.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRoute {
    pub(crate) rule: usize,
    pub(crate) entry: Option<usize>,
    /// It takes every request that reaches it, and so stands behind all others of its host.
    pub(crate) catch_all: bool,
    pub(crate) route: Route,
}

/// A rule, by place, and one of its match entries; none for a rule without.
type Place = (usize, Option<usize>);

/// The entries of a VirtualService that apply to a port and Gateway.
#[derive(Debug, Default)]
struct Reachable {
    entries: Vec<Place>,
    /// The first entry that takes everything; none behind it is reached.
    end: Option<Place>,
    /// Rules of which no entry is reached for that reason.
    hidden: Vec<usize>,
}

/// Makes the routes of each VirtualService once for each Gateway and port that it is bound to.
#[derive(Debug)]
pub(crate) struct RouteCompiler<'a> {
    options: &'a CompileOptions,
    patterns: &'a mut Patterns,
    compiled: AHashMap<Use, Compilate>,
}

/// The routes of a use, and how many virtual hosts are still to come for them.
#[derive(Debug)]
struct Compilate {
    routes: Vec<CompiledRoute>,
    hosts_left: usize,
}

/// What the making of routes draws on.
struct Making<'m, 'c> {
    patterns: &'m mut Patterns,
    clusters: &'m mut Clusters<'c>,
    table: &'m ClusterTable,
    findings: &'m mut Findings,
}

/// Whether any rule of a VirtualService applies to a Gateway and port. One that has none makes no virtual host.
pub(crate) fn is_reachable(binding: &Binding<'_, '_>, options: &CompileOptions) -> bool {
    binding
        .spec
        .http
        .iter()
        .any(|rule| rule.r#match.is_empty() || rule.r#match.iter().any(|entry| applies(entry, binding, options)))
}

fn applies(entry: &HttpMatchRequest, binding: &Binding<'_, '_>, options: &CompileOptions) -> bool {
    Conditions {
        port: entry.port,
        gateways: &entry.gateways,
        source_labels: &entry.source_labels,
        source_namespace: &entry.source_namespace,
    }
    .hold(binding, options)
}

/// What is known of a match entry before there is a request or connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions<'c> {
    pub(crate) port: u32,
    pub(crate) gateways: &'c [String],
    pub(crate) source_labels: &'c BTreeMap<String, String>,
    pub(crate) source_namespace: &'c str,
}

impl Conditions<'_> {
    /// Whether the port fits, and the gateways or, only if none is named, the labels and namespace of the proxy that
    /// routes, which is this gateway.
    pub(crate) fn hold(&self, binding: &Binding<'_, '_>, options: &CompileOptions) -> bool {
        if self.port != 0 && self.port != u32::from(binding.key.port) {
            return false;
        }
        if !self.gateways.is_empty() {
            return self.gateways.iter().any(|reference| {
                matches!(GatewayRef::parse(reference, &binding.object.key.namespace),
                    GatewayRef::Gateway(name) if name == *binding.gateway)
            });
        }
        options.has_labels(self.source_labels)
            && (self.source_namespace.is_empty() || self.source_namespace == options.namespace)
    }
}

/// Whether an entry that applies takes every request.
fn is_catch_all(entry: &HttpMatchRequest) -> bool {
    let any_path = match &entry.uri {
        None | Some(StringMatch::Unset) => true,
        Some(StringMatch::Prefix(prefix)) => prefix.is_empty() || prefix == "/",
        Some(StringMatch::Regex(regex)) => regex == ".*",
        Some(StringMatch::Exact(_)) => false,
    };
    any_path
        && entry.scheme.is_none()
        && entry.method.is_none()
        && entry.authority.is_none()
        && entry.headers.is_empty()
        && entry.without_headers.is_empty()
        && entry.query_params.is_empty()
}

fn reachable(binding: &Binding<'_, '_>, options: &CompileOptions) -> Reachable {
    let mut reachable = Reachable::default();
    for (number, rule) in binding.spec.http.iter().enumerate() {
        let entries: Vec<Place> = if rule.r#match.is_empty() {
            vec![(number, None)]
        } else {
            let applying = rule.r#match.iter().enumerate().filter(|(_, entry)| applies(entry, binding, options));
            applying.map(|(entry, _)| (number, Some(entry))).collect()
        };
        if reachable.end.is_some() {
            if !entries.is_empty() {
                reachable.hidden.push(number);
            }
            continue;
        }
        for place in entries {
            reachable.entries.push(place);
            if place.1.and_then(|entry| rule.r#match.get(entry)).is_none_or(is_catch_all) {
                reachable.end = Some(place);
                break;
            }
        }
    }
    reachable
}

pub(crate) fn path_of(rule: usize, entry: Option<usize>) -> String {
    match entry {
        Some(entry) => format!("spec.http[{rule}].match[{entry}]"),
        None => format!("spec.http[{rule}]"),
    }
}

fn rule_of(spec: &VirtualService, place: Place) -> Option<(&HttpRoute, Option<&HttpMatchRequest>)> {
    let rule = spec.http.get(place.0)?;
    Some((rule, place.1.and_then(|entry| rule.r#match.get(entry))))
}

impl<'a> RouteCompiler<'a> {
    pub(crate) fn new(options: &'a CompileOptions, patterns: &'a mut Patterns) -> Self {
        Self { options, patterns, compiled: AHashMap::new() }
    }

    /// Notes the clusters that the routes of a binding will name, and reports destinations that have none.
    pub(crate) fn collect_clusters(
        &self,
        binding: Binding<'_, '_>,
        clusters: &mut Clusters<'_>,
        targets: &mut Targets,
        findings: &mut Findings,
    ) {
        let mut last = None;
        for place in reachable(&binding, self.options).entries {
            // The entries of a rule share its destinations.
            if last.replace(place.0) == Some(place.0) {
                continue;
            }
            let Some((rule, _)) = rule_of(binding.spec, place) else { continue };
            for (number, route) in destinations(rule) {
                let Some(destination) = &route.destination else { continue };
                let namespace = &binding.object.key.namespace;
                let target = clusters.locate(destination, namespace, binding.key.port, findings);
                targets.add(&target);
                if let Some(problem) = &target.problem {
                    let path = format!("spec.http[{}].route[{number}].destination", place.0);
                    report(problem, &target, destination, Traffic::Requests, (binding.object, &path), findings);
                }
            }
        }
    }

    /// The routes of a binding in order of evaluation, for one of the `hosts` virtual hosts that ask for them. They are
    /// made for the first and given away to the last.
    pub(crate) fn compile(
        &mut self,
        binding: Binding<'_, '_>,
        hosts: usize,
        clusters: &mut Clusters<'_>,
        table: &ClusterTable,
        findings: &mut Findings,
    ) -> Vec<CompiledRoute> {
        match self.compiled.entry(binding.key) {
            Entry::Occupied(mut entry) if entry.get().hosts_left > 1 => {
                entry.get_mut().hosts_left -= 1;
                return entry.get().routes.clone();
            }
            Entry::Occupied(entry) => return entry.remove().routes,
            Entry::Vacant(_) => {}
        }
        let reachable = reachable(&binding, self.options);
        report_hidden(&binding, &reachable, findings);
        let mut making = Making { patterns: self.patterns, clusters, table, findings };
        let mut routes = Vec::with_capacity(reachable.entries.len());
        let mut action: Option<(usize, Compiled)> = None;
        for place in reachable.entries {
            let Some((rule, entry)) = rule_of(binding.spec, place) else { continue };
            if action.as_ref().is_none_or(|(number, _)| *number != place.0) {
                action = Some((place.0, compile_action(&binding, place.0, rule, &mut making)));
            }
            let Some((_, compiled)) = &action else { continue };
            routes.extend(compile_route(&binding, place, rule, entry, compiled, &mut making));
        }
        if hosts > 1 {
            self.compiled.insert(binding.key, Compilate { routes: routes.clone(), hosts_left: hosts - 1 });
        }
        routes
    }
}

/// The route of one entry. None if the entry asks for something that no request can be known to have.
fn compile_route(
    binding: &Binding<'_, '_>,
    place: Place,
    rule: &HttpRoute,
    entry: Option<&HttpMatchRequest>,
    action: &Compiled,
    making: &mut Making<'_, '_>,
) -> Option<CompiledRoute> {
    let path = path_of(place.0, place.1);
    let (matcher, refused) = entry.map(|entry| compile_match(entry, making.patterns)).unwrap_or_default();
    let mut action = action;
    let denial;
    for Refused { field, reason, code, negated } in &refused {
        // A condition that cannot be evaluated never holds; its negation may hold or not, so the rule must neither be
        // followed nor skipped: what it would take is refused.
        let outcome = if *negated { "what the entry takes otherwise is answered 503" } else { "the entry is left out" };
        let message = format!("{reason}; {outcome}");
        let field = format!("{path}.{field}");
        match code {
            &Code::NOT_ENFORCED => making.findings.warning(*code, binding.object, &field, message),
            code => making.findings.error(*code, binding.object, &field, message),
        }
    }
    if refused.iter().any(|refused| !refused.negated) {
        return None;
    }
    if !refused.is_empty() {
        denial = Compiled::from(refusal());
        action = &denial;
    }
    let name = match entry.map(|entry| entry.name.as_str()).filter(|name| !name.is_empty()) {
        Some(entry) => format!("{}.{entry}", rule.name),
        None => rule.name.clone(),
    };
    Some(CompiledRoute {
        rule: place.0,
        entry: place.1,
        catch_all: entry.is_none_or(is_catch_all),
        route: Route {
            name,
            matcher,
            action: action.action.clone(),
            request_headers: action.request_headers.clone(),
            response_headers: action.response_headers.clone(),
            source: Source { key: binding.object.key.clone(), origin: binding.object.origin_of(&path) },
        },
    })
}

/// Rules behind a rule without `match` are named by the validation of the VirtualService itself.
fn report_hidden(binding: &Binding<'_, '_>, reachable: &Reachable, findings: &mut Findings) {
    let Some((rule, entry @ Some(number))) = reachable.end else { return };
    let place = binding.object.origin_of(&path_of(rule, entry));
    let is_narrow = |entry: &HttpMatchRequest| entry.port != 0 || !entry.gateways.is_empty();
    let narrow = binding.spec.http.get(rule).and_then(|rule| rule.r#match.get(number)).is_some_and(is_narrow);
    // Elsewhere the same rule may well be reached.
    let port = if narrow {
        format!(" on port {} of Gateway {}/{}", binding.key.port, binding.gateway.namespace, binding.gateway.name)
    } else {
        String::new()
    };
    for hidden in &reachable.hidden {
        let message = format!("the rule is never reached{port}: the rule at {place} takes every request before it");
        findings.warning(Code::UNREACHABLE_RULE, binding.object, &path_of(*hidden, None), message);
    }
}
