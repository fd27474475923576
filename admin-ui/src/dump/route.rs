//! `RoutesConfigDump`.

use std::collections::HashSet;

use http::HeaderName;
use serde_json::{Map, Value, json};
use tidegate_core::Kind;
use tidegate_snapshot::{
    DirectResponse, Forward, HeaderMatch, HeaderOperations, HeaderValueTemplate, PathMatch, PathRewrite, QueryMatch,
    Redirect, RedirectPath, RedirectPort, Route, RouteAction, RouteMatch, RouteTable, Snapshot, StringMatch,
    VirtualHost, WeightedCluster,
};

use super::{DumpOptions, Node, Versioned, base64, config_path, duration, set};

pub(super) fn section<'a>(snapshot: &'a Snapshot, options: DumpOptions<'a>, versioned: Versioned) -> Node<'a> {
    let mut seen = HashSet::new();
    let mut tables = Vec::new();
    for listener in snapshot.listeners() {
        for table in listener.filter_chains().iter().filter_map(|chain| chain.route_table()) {
            // Chains may share a table.
            if options.names(&table.name) && seen.insert(table.name.as_str()) {
                tables.push((table, listener.port));
            }
        }
    }
    if tables.is_empty() {
        return Node::Object(Vec::new());
    }
    let resources = move || {
        let versioned = versioned.clone();
        tables.clone().into_iter().map(move |(table, port)| versioned.wrap("route_config", resource(table, port)))
    };
    Node::Object(vec![("dynamic_route_configs", Node::list(resources))])
}

/// `envoy.config.route.v3.RouteConfiguration`. Domains have no `host:port` twins: as at Istio's gateways, the port of
/// an authority is ignored.
fn resource(table: &RouteTable, port: u16) -> Node<'_> {
    let mut fields = vec![("name", Node::leaf(table.name.as_str()))];
    if !table.virtual_hosts().is_empty() {
        let hosts = move || table.virtual_hosts().iter().map(move |host| Node::Leaf(virtual_host(host, port)));
        fields.push(("virtual_hosts", Node::list(hosts)));
    }
    fields.push(("validate_clusters", Node::leaf(false)));
    fields.push(("ignore_port_in_host_matching", Node::leaf(true)));
    Node::Object(fields).typed("envoy.config.route.v3.RouteConfiguration")
}

fn virtual_host(host: &VirtualHost, port: u16) -> Value {
    let domains: Vec<_> = host.domains.iter().map(ToString::to_string).collect();
    let mut message = json!({ "name": host.name, "domains": domains });
    let routes: Vec<_> = host.routes().iter().map(|one| route(one, port)).collect();
    set(&mut message, "routes", (!routes.is_empty()).then_some(routes));
    set(&mut message, "require_tls", host.https_redirect.then_some("ALL"));
    set(&mut message, "include_request_attempt_count", Some(true));
    message
}

fn route(route: &Route, port: u16) -> Value {
    let mut message = json!({ "match": route_match(&route.matcher) });
    set(&mut message, "name", (!route.name.is_empty()).then_some(route.name.as_str()));
    let mut request = vec![&route.request_headers];
    let mut response = vec![&route.response_headers];
    match &route.action {
        RouteAction::Forward(forward) => {
            if let [only] = forward.clusters() {
                // A single destination's operations follow the rule's.
                request.push(&only.request_headers);
                response.push(&only.response_headers);
            }
            set(&mut message, "route", Some(forward_action(forward, &request)));
        }
        RouteAction::Redirect(one) => set(&mut message, "redirect", Some(redirect(one, port))),
        RouteAction::DirectResponse(one) => set(&mut message, "direct_response", Some(direct_response(one))),
    }
    // Fills the VIRTUAL SERVICE column of `istioctl proxy-config route`.
    if route.source.key.kind == Kind::VirtualService {
        let config = config_path(&route.source.key);
        set(&mut message, "metadata", config.map(|path| json!({ "filter_metadata": { "istio": { "config": path } } })));
    }
    operations(&mut message, "request", &request);
    operations(&mut message, "response", &response);
    message
}

fn route_match(matcher: &RouteMatch) -> Value {
    let mut message = json!({});
    match &matcher.path {
        PathMatch::Exact { value, ignore_case } => {
            set(&mut message, "path", Some(value.as_str()));
            set(&mut message, "case_sensitive", Some(!ignore_case));
        }
        PathMatch::Prefix { value, ignore_case } => {
            set(&mut message, "prefix", Some(value.as_str()));
            set(&mut message, "case_sensitive", Some(!ignore_case));
        }
        PathMatch::Regex(pattern) => set(&mut message, "safe_regex", Some(json!({ "regex": pattern.source() }))),
    }
    let pseudo = [(":method", &matcher.method), (":scheme", &matcher.scheme), (":authority", &matcher.authority)];
    let mut headers: Vec<_> =
        pseudo.into_iter().filter_map(|(name, value)| Some(valued(json!({ "name": name }), value.as_ref()?))).collect();
    headers.extend(matcher.headers.iter().map(header_match));
    set(&mut message, "headers", (!headers.is_empty()).then_some(headers));
    let query: Vec<_> = matcher.query.iter().map(query_match).collect();
    set(&mut message, "query_parameters", (!query.is_empty()).then_some(query));
    message
}

fn header_match(matcher: &HeaderMatch) -> Value {
    let mut message = valued(json!({ "name": matcher.name.as_str() }), &matcher.value);
    if matcher.invert {
        set(&mut message, "invert_match", Some(true));
        // A missing header is compared as the empty text.
        set(&mut message, "treat_missing_header_as_empty", (matcher.value != StringMatch::Present).then_some(true));
    }
    message
}

fn query_match(matcher: &QueryMatch) -> Value {
    valued(json!({ "name": matcher.name }), &matcher.value)
}

/// Adds what a value is compared with.
fn valued(mut message: Value, value: &StringMatch) -> Value {
    let matcher = match value {
        StringMatch::Exact(value) => json!({ "exact": value }),
        StringMatch::Prefix(value) => json!({ "prefix": value }),
        StringMatch::Regex(pattern) => json!({ "safe_regex": { "regex": pattern.source() } }),
        StringMatch::Present => {
            set(&mut message, "present_match", Some(true));
            return message;
        }
    };
    set(&mut message, "string_match", Some(matcher));
    message
}

/// `RouteAction`. A literal `host` among `request` becomes the authority that is written, as istiod does it.
fn forward_action(forward: &Forward, request: &[&HeaderOperations]) -> Value {
    let mut message = json!({});
    let authority = forward.authority.as_deref().or_else(|| request.iter().rev().find_map(|one| literal_host(one)));
    match forward.clusters() {
        [only] => set(&mut message, "cluster", Some(&**only.cluster.name())),
        several => {
            let several: Vec<_> = several.iter().map(|one| weighted(one, authority)).collect();
            set(&mut message, "weighted_clusters", Some(json!({ "clusters": several })));
        }
    }
    // Envoy's own default is 15 s.
    set(&mut message, "timeout", Some(duration(forward.timeout.unwrap_or_default())));
    match &forward.path_rewrite {
        None => {}
        Some(PathRewrite::Matched { with }) => set(&mut message, "prefix_rewrite", Some(with.as_str())),
        Some(PathRewrite::Regex(rewrite)) => {
            let rewrite = json!({
                "pattern": { "regex": rewrite.pattern().source() },
                "substitution": rewrite.substitution(),
            });
            set(&mut message, "regex_rewrite", Some(rewrite));
        }
    }
    set(&mut message, "host_rewrite_literal", authority);
    message
}

/// `WeightedCluster.ClusterWeight`; its operations are applied before the route's, whose authority wins.
fn weighted(cluster: &WeightedCluster, authority: Option<&str>) -> Value {
    let mut message = json!({ "name": &**cluster.cluster.name(), "weight": cluster.weight });
    if authority.is_none() {
        set(&mut message, "host_rewrite_literal", literal_host(&cluster.request_headers));
    }
    operations(&mut message, "request", &[&cluster.request_headers]);
    operations(&mut message, "response", &[&cluster.response_headers]);
    message
}

/// The authority that operations set, if it is a plain text.
fn literal_host(operations: &HeaderOperations) -> Option<&str> {
    operations.set.iter().rev().find_map(|(name, value)| match value {
        HeaderValueTemplate::Literal(value) if *name == http::header::HOST => value.to_str().ok(),
        _ => None,
    })
}

/// `<direction>_headers_to_add` and `_to_remove` of several operations in their order.
fn operations(message: &mut Value, direction: &str, several: &[&HeaderOperations]) {
    let mut added = Vec::new();
    let mut removed = Vec::new();
    for operations in several {
        removed.extend(operations.remove.iter().map(HeaderName::as_str));
        let set = operations.set.iter().map(|pair| (pair, "OVERWRITE_IF_EXISTS_OR_ADD"));
        let add = operations.add.iter().map(|pair| (pair, "APPEND_IF_EXISTS_OR_ADD"));
        for ((name, value), action) in set.chain(add) {
            let key = match (name, value) {
                // Written as `host_rewrite_literal`.
                (name, HeaderValueTemplate::Literal(_)) if direction == "request" && *name == http::header::HOST => {
                    continue;
                }
                (name, _) if direction == "request" && *name == http::header::HOST => ":authority",
                (name, _) => name.as_str(),
            };
            let value = match value {
                HeaderValueTemplate::Literal(value) => String::from_utf8_lossy(value.as_bytes()).replace('%', "%%"),
                HeaderValueTemplate::Template(template) => template.source().to_owned(),
            };
            added.push(json!({ "header": { "key": key, "value": value }, "append_action": action }));
        }
    }
    set(message, &format!("{direction}_headers_to_add"), (!added.is_empty()).then_some(added));
    set(message, &format!("{direction}_headers_to_remove"), (!removed.is_empty()).then_some(removed));
}

/// `RedirectAction`.
fn redirect(redirect: &Redirect, listener_port: u16) -> Value {
    let mut message = json!({});
    set(&mut message, "scheme_redirect", redirect.scheme.as_deref());
    set(&mut message, "host_redirect", redirect.authority.as_deref());
    let port = match redirect.port {
        RedirectPort::Unset => None,
        RedirectPort::Explicit(port) => Some(port),
        // Envoy has no such derivation: istiod writes the number, as we do here.
        RedirectPort::FromProtocolDefault => Some(if redirect.scheme.as_deref() == Some("https") { 443 } else { 80 }),
        RedirectPort::FromRequestPort => Some(listener_port),
    };
    set(&mut message, "port_redirect", port);
    match &redirect.path {
        RedirectPath::Keep => {}
        RedirectPath::Full(path) => set(&mut message, "path_redirect", Some(path.as_str())),
        RedirectPath::Prefix(prefix) => set(&mut message, "prefix_rewrite", Some(prefix.as_str())),
    }
    let code = match redirect.status {
        302 => "FOUND",
        303 => "SEE_OTHER",
        307 => "TEMPORARY_REDIRECT",
        308 => "PERMANENT_REDIRECT",
        _ => "MOVED_PERMANENTLY",
    };
    set(&mut message, "response_code", Some(code));
    message
}

/// `DirectResponseAction`.
fn direct_response(response: &DirectResponse) -> Value {
    let mut message = json!({ "status": response.status });
    let body = response.body.as_deref().map(|body| {
        let mut source = Map::new();
        match std::str::from_utf8(body) {
            Ok(text) => source.insert("inline_string".to_owned(), Value::String(text.to_owned())),
            Err(_) => source.insert("inline_bytes".to_owned(), Value::String(base64(body))),
        };
        Value::Object(source)
    });
    set(&mut message, "body", body);
    message
}
