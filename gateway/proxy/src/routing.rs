//! From a canonical request to what becomes of it. Every decision is asked of the Snapshot's own functions.

use std::time::Duration;

use http::HeaderValue;
use http::header::HOST;
use pingora_error::Result;
use pingora_http::RequestHeader;
use tidegate_core::ClusterName;
use tidegate_snapshot::{ClusterRef, FilterChain, Forward, RequestView, Route, RouteAction};

use crate::edge;
use crate::grpc_timeout::{self, GRPC_TIMEOUT};
use crate::header_operations::{apply_to_request, authority};
use crate::local_reply::{Client, LocalReply};
use crate::request_context::{RequestContext, Selected};

const ORIGINAL_PATH: &str = "x-envoy-original-path";
const EXPECTED_TIMEOUT: &str = "x-envoy-expected-rq-timeout-ms";
const DECORATOR_OPERATION: &str = "x-envoy-decorator-operation";

/// Routes `request` and prepares it for the backend, whose first host is picked.
///
/// # Errors
/// An answer that the gateway gives itself is no error: it comes back as `Some`. Errors are values that no header can
/// hold, which validation keeps out.
pub(crate) fn route(
    request: &mut RequestHeader,
    chain: &FilterChain,
    server_port: u16,
    context: &mut RequestContext,
) -> Result<Option<LocalReply>> {
    let selection = {
        let view = view(request, context);
        let (virtual_host, route) = chain.select(&view);
        let Some(virtual_host) = virtual_host else { return Ok(Some(LocalReply::NO_ROUTE)) };
        context.virtual_host = Some(virtual_host.clone());
        if virtual_host.https_redirect && view.scheme != "https" {
            let query = view.query.map(|query| format!("?{query}")).unwrap_or_default();
            let location = format!("https://{}{}{query}", view.authority, view.path);
            return Ok(Some(LocalReply::redirect(301, location)));
        }
        let Some(route) = route else { return Ok(Some(LocalReply::NO_ROUTE)) };
        match &virtual_host.routes()[route].action {
            RouteAction::Redirect(redirect) => {
                let matched = &virtual_host.routes()[route].matcher.path;
                let location = redirect.location(&view, matched, server_port);
                context.selected = Some(Selected::new(virtual_host.clone(), route));
                return Ok(Some(LocalReply::redirect(redirect.status, location)));
            }
            RouteAction::DirectResponse(response) => {
                context.selected = Some(Selected::new(virtual_host.clone(), route));
                return Ok(Some(LocalReply::direct_response(response.status, response.body.as_deref())));
            }
            RouteAction::Forward(forward) => {
                let mut selected = Selected::new(virtual_host.clone(), route);
                let chosen = forward.choose(fastrand::u64(..));
                let destination = forward.clusters().iter().position(|it| std::ptr::eq(it, chosen));
                selected.set_destination(destination.unwrap_or(0));
                selected
            }
        }
    };
    context.selected = Some(selection.clone());
    forward(request, &selection, context)
}

fn forward(
    request: &mut RequestHeader,
    selected: &Selected,
    context: &mut RequestContext,
) -> Result<Option<LocalReply>> {
    let (Some(forward), Some(destination)) = (selected.forward(), selected.destination()) else {
        return Ok(Some(LocalReply::INTERNAL));
    };
    context.timeout = timeout(forward, request, context.client);
    context.cluster_name = Some(destination.cluster.name().clone());
    let ClusterRef::Found { index, .. } = destination.cluster else { return Ok(Some(LocalReply::NO_CLUSTER)) };
    let cluster = context.published.as_ref().and_then(|published| published.cluster(index)).cloned();
    let Some(cluster) = cluster else { return Ok(Some(LocalReply::NO_CLUSTER)) };
    let picked = cluster.pick(&[]);
    context.cluster = Some(cluster);
    if picked.is_none() {
        return Ok(Some(LocalReply::NO_HEALTHY_UPSTREAM));
    }
    context.picked = picked;

    if let Some(timeout) = context.timeout {
        request.insert_header(EXPECTED_TIMEOUT, timeout.as_millis().to_string())?;
        if context.client == Client::Grpc {
            request.insert_header(GRPC_TIMEOUT, grpc_timeout::write(timeout))?;
        }
    }
    let operation = operation(selected.route(), destination.cluster.name(), forward.clusters().len() == 1);
    if let Some(operation) = operation {
        request.insert_header(DECORATOR_OPERATION, operation)?;
    }
    // Envoy evaluates the most specific first, and Istio puts the operations of a single destination on the route.
    let (rule, own) = (&selected.route().request_headers, &destination.request_headers);
    let ordered = if forward.clusters().len() == 1 { [rule, own] } else { [own, rule] };
    let new_authority = match &forward.authority {
        Some(authority) => HeaderValue::try_from(authority.as_str()).ok(),
        None => authority(rule, request, context).or_else(|| authority(own, request, context)),
    };
    for operations in ordered.into_iter().filter(|operations| !operations.is_empty()) {
        apply_to_request(request, operations, context)?;
    }
    if let Some(rewrite) = &forward.path_rewrite {
        rewrite_path(request, rewrite, selected.route(), context)?;
    }
    if let Some(authority) = new_authority {
        set_authority(request, authority)?;
    }
    Ok(None)
}

/// A gRPC client may shorten the route's time, and has its own where the route has none.
fn timeout(forward: &Forward, request: &RequestHeader, client: Client) -> Option<Duration> {
    let own = if client == Client::Grpc { grpc_timeout::read(&request.headers) } else { None };
    match (forward.timeout, own) {
        (Some(route), Some(own)) => Some(route.min(own)),
        (route, own) => route.or(own),
    }
}

fn rewrite_path(
    request: &mut RequestHeader,
    rewrite: &tidegate_snapshot::PathRewrite,
    route: &Route,
    context: &mut RequestContext,
) -> Result<()> {
    let target = String::from_utf8_lossy(request.raw_path()).into_owned();
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
    request.insert_header(ORIGINAL_PATH, target.as_str())?;
    edge::set_path(request, &new)?;
    context.original_path = Some(target);
    Ok(())
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

/// Puts `authority` where the request has its own.
fn set_authority(request: &mut RequestHeader, authority: HeaderValue) -> Result<()> {
    use pingora_error::{ErrorType::InvalidHTTPHeader, OrErr};
    if request.uri.authority().is_some() {
        let mut parts = request.uri.clone().into_parts();
        let text = authority.to_str().or_err(InvalidHTTPHeader, "an authority that is none")?;
        parts.authority = Some(text.parse().or_err(InvalidHTTPHeader, "an authority that is none")?);
        request.set_uri(http::Uri::from_parts(parts).or_err(InvalidHTTPHeader, "an authority that is none")?);
        if !request.headers.contains_key(HOST) {
            return Ok(());
        }
    }
    request.insert_header(HOST, authority)
}

/// What Istio calls the operation of a trace: `host:port` and the route's path; the virtual service's name where a
/// request may go to several hosts.
fn operation(route: &Route, cluster: &str, single: bool) -> Option<String> {
    use tidegate_snapshot::PathMatch;
    let (path, any) = match &route.matcher.path {
        PathMatch::Exact { value, .. } => (value.as_str(), ""),
        PathMatch::Prefix { value, .. } if value.is_empty() => ("/", "*"),
        PathMatch::Prefix { value, .. } => (value.as_str(), "*"),
        PathMatch::Regex(pattern) => (pattern.source(), ""),
    };
    let name: ClusterName = cluster.parse().ok()?;
    let host = if single { name.host.as_str() } else { &route.source.key.name };
    Some(format!("{host}:{}{path}{any}", name.port))
}

/// What selection sees of a request.
fn view<'a>(request: &'a RequestHeader, context: &RequestContext) -> RequestView<'a> {
    // Paths that are no text were refused.
    let target = std::str::from_utf8(request.raw_path()).unwrap_or_default();
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    RequestView {
        method: request.method.as_str(),
        scheme: if context.admitted.is_some_and(|admitted| admitted.is_https) { "https" } else { "http" },
        authority: edge::authority(request),
        path,
        query,
        headers: &request.headers,
    }
}
