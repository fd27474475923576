//! From a canonical request to what becomes of it. Every decision is asked of the Snapshot's own functions.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tidegate_snapshot::{ClusterRef, FilterChain, Forward, PathMatch, RequestView, Route, RouteAction, VirtualHost};

use crate::grpc_timeout;
use crate::header_operations::{apply_to_request, authority};
use crate::local_reply::{Client, LocalReply};
use crate::message::Known;
use crate::request_context::{RequestContext, Selected};

/// Routes the request of `context` and prepares it for the backend, whose first host is picked. The answer if the
/// gateway gives it itself.
pub(crate) fn route(chain: &FilterChain, server_port: u16, context: &mut RequestContext) -> Option<LocalReply> {
    let view = view(context);
    let (virtual_host, route) = chain.select(&view);
    let Some(virtual_host) = virtual_host else { return Some(LocalReply::NO_ROUTE) };
    let (selected, reply) = select(virtual_host, route, &view, server_port);
    context.virtual_host = Some(virtual_host.clone());
    let forwarded = selected.as_ref().filter(|_| reply.is_none()).cloned();
    context.selected = selected;
    match forwarded {
        Some(selected) => forward(&selected, context),
        None => reply,
    }
}

/// The route with the destination that was drawn, and the answer if the gateway gives it itself.
fn select(
    virtual_host: &Arc<VirtualHost>,
    route: Option<usize>,
    view: &RequestView<'_>,
    server_port: u16,
) -> (Option<Selected>, Option<LocalReply>) {
    if virtual_host.https_redirect && view.scheme != "https" {
        let query = view.query.map(|query| format!("?{query}")).unwrap_or_default();
        let location = format!("https://{}{}{query}", view.authority, view.path);
        return (None, Some(LocalReply::redirect(301, location)));
    }
    let Some(place) = route else { return (None, Some(LocalReply::NO_ROUTE)) };
    let mut selected = Selected::new(virtual_host.clone(), place);
    let route = &virtual_host.routes()[place];
    let reply = match &route.action {
        RouteAction::Redirect(redirect) => {
            Some(LocalReply::redirect(redirect.status, redirect.location(view, &route.matcher.path, server_port)))
        }
        RouteAction::DirectResponse(response) => {
            Some(LocalReply::direct_response(response.status, response.body.as_deref()))
        }
        RouteAction::Forward(forward) => {
            if forward.clusters().len() > 1 {
                let chosen = forward.choose(fastrand::u64(..));
                let destination = forward.clusters().iter().position(|it| std::ptr::eq(it, chosen));
                selected.set_destination(destination.unwrap_or(0));
            }
            None
        }
    };
    (Some(selected), reply)
}

fn forward(selected: &Selected, context: &mut RequestContext) -> Option<LocalReply> {
    let (Some(forward), Some(destination)) = (selected.forward(), selected.destination()) else {
        return Some(LocalReply::INTERNAL);
    };
    context.timeout = timeout(forward, context);
    context.cluster_name = Some(destination.cluster.name().clone());
    let ClusterRef::Found { index, .. } = destination.cluster else { return Some(LocalReply::NO_CLUSTER) };
    let cluster = context.published.as_ref().and_then(|published| published.cluster(index)).cloned();
    let Some(cluster) = cluster else { return Some(LocalReply::NO_CLUSTER) };
    context.picked = cluster.pick(&[]);
    context.cluster = Some(cluster);
    if context.picked.is_none() {
        return Some(LocalReply::NO_HEALTHY_UPSTREAM);
    }

    let fields = &mut context.request.fields;
    if let Some(timeout) = context.timeout {
        // Writing to memory does not fail.
        fields.set_with(Known::ExpectedTimeout, |text| _ = write!(text, "{}", timeout.as_millis()));
        if context.client == Client::Grpc {
            fields.set_known(Known::GrpcTimeout, grpc_timeout::write(timeout).as_bytes());
        }
    }
    let single = forward.clusters().len() == 1;
    if let Some((host, port)) = host_and_port(destination.cluster.name()) {
        let route = selected.route();
        let host = if single { host } else { &route.source.key.name };
        fields.set_with(Known::DecoratorOperation, |text| operation(route, host, port, text));
    }
    // Envoy evaluates the most specific first, and Istio puts the operations of a single destination on the route.
    let (rule, own) = (&selected.route().request_headers, &destination.request_headers);
    let ordered = if single { [rule, own] } else { [own, rule] };
    let new_authority = match &forward.authority {
        Some(authority) => Some(authority.to_string()),
        None if rule.is_empty() && own.is_empty() => None,
        None => authority(rule, context).or_else(|| authority(own, context)),
    };
    for operations in ordered.into_iter().filter(|operations| !operations.is_empty()) {
        apply_to_request(context, operations);
    }
    if let Some(rewrite) = &forward.path_rewrite {
        rewrite_path(rewrite, selected.route(), context);
    }
    if let Some(authority) = new_authority {
        let original = std::mem::replace(&mut context.request.authority, authority);
        context.request.fields.set("x-envoy-original-host", original.as_bytes());
    }
    None
}

/// A gRPC client may shorten the route's time, and has its own where the route has none.
fn timeout(forward: &Forward, context: &RequestContext) -> Option<Duration> {
    let is_grpc = context.client == Client::Grpc;
    let own = if is_grpc { grpc_timeout::read(&context.request.fields) } else { None };
    match (forward.timeout, own) {
        (Some(route), Some(own)) => Some(route.min(own)),
        (route, own) => route.or(own),
    }
}

fn rewrite_path(rewrite: &tidegate_snapshot::PathRewrite, route: &Route, context: &mut RequestContext) {
    let target = std::mem::take(&mut context.request.target);
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target.as_str(), ""),
    };
    let mut new = rewrite.apply(&route.matcher.path, path).into_owned();
    if !new.starts_with('/') {
        new.insert(0, '/');
    }
    new = escape(new);
    new.push_str(query);
    context.request.fields.set_known(Known::OriginalPath, target.as_bytes());
    context.request.target = new;
    context.original_path = Some(target);
}

/// Percent-encodes what a configured replacement may have put into a path and no request target may hold.
fn escape(path: String) -> String {
    use std::fmt::Write;
    let must_be = |c: char| c <= ' ' || matches!(c, '<' | '>' | '`' | '#' | '\x7f');
    if !path.contains(must_be) {
        return path;
    }
    path.chars().fold(String::with_capacity(path.len() + 8), |mut text, c| {
        if must_be(c) {
            // Writing to a text cannot fail.
            _ = write!(text, "%{:02X}", u32::from(c));
        } else {
            text.push(c);
        }
        text
    })
}

/// Host and port of `direction|port|subset|host`.
fn host_and_port(cluster: &str) -> Option<(&str, &str)> {
    let mut parts = cluster.splitn(4, '|');
    let (_, port, _, host) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((host, port))
}

/// What Istio calls the operation of a trace: `host:port` and the route's path; the virtual service's name where a
/// request may go to several hosts.
fn operation(route: &Route, host: &str, port: &str, out: &mut Vec<u8>) {
    let (path, any) = match &route.matcher.path {
        PathMatch::Exact { value, .. } => (value.as_str(), ""),
        PathMatch::Prefix { value, .. } if value.is_empty() => ("/", "*"),
        PathMatch::Prefix { value, .. } => (value.as_str(), "*"),
        PathMatch::Regex(pattern) => (pattern.source(), ""),
    };
    for part in [host, ":", port, path, any] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// What selection sees of a request.
fn view(context: &RequestContext) -> RequestView<'_> {
    let (path, query) = context.request.path_and_query();
    RequestView {
        method: &context.request.method,
        scheme: if context.admitted.is_some_and(|admitted| admitted.is_https) { "https" } else { "http" },
        authority: &context.request.authority,
        path,
        query,
        headers: &context.request,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_tell_their_host_and_port() {
        assert_eq!(host_and_port("outbound|80|v1|a.b.svc"), Some(("a.b.svc", "80")));
        assert_eq!(host_and_port("outbound|80||a"), Some(("a", "80")));
        assert_eq!(host_and_port("BlackHoleCluster"), None);
    }
}
