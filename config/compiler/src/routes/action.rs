use std::sync::Arc;

use http::HeaderValue;
use tidegate_core::Code;
use tidegate_resources::{
    HttpDirectResponse, HttpRedirect, HttpRoute, HttpRouteDestination, RedirectPortSelection, RegexRewrite as Written,
};
use tidegate_snapshot::{
    DirectResponse, Forward, HeaderOperations, HeaderValueTemplate, PathRewrite, Redirect, RedirectPath, RedirectPort,
    RegexRewrite, RouteAction, WeightedCluster,
};

use super::Making;
use super::headers::compile_headers;
use super::patterns::{Patterns, Purpose};
use crate::bindings::Binding;
use crate::registry::port_number;

/// Longest body of a direct response in bytes.
const MAX_BODY: usize = 1 << 20;

/// What a rule does, for all its match entries alike.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub(super) action: RouteAction,
    pub(super) request_headers: HeaderOperations,
    pub(super) response_headers: HeaderOperations,
}

impl From<RouteAction> for Compiled {
    fn from(action: RouteAction) -> Self {
        Self { action, request_headers: HeaderOperations::default(), response_headers: HeaderOperations::default() }
    }
}

/// What answers for a rule that cannot be followed: it is neither widened nor passed over.
pub(super) fn refusal() -> RouteAction {
    RouteAction::DirectResponse(DirectResponse { status: 503, body: None })
}

/// The destinations that take part, with their places. One alone takes everything whatever its weight; of several
/// those of weight 0 take nothing. None for a rule that does not forward.
pub(super) fn destinations(rule: &HttpRoute) -> impl Iterator<Item = (usize, &HttpRouteDestination)> {
    let forwards = rule.redirect.is_none() && rule.direct_response.is_none() && rule.delegate.is_none();
    let several = rule.route.len() > 1;
    rule.route.iter().enumerate().filter(move |(_, route)| forwards && (!several || route.weight > 0))
}

/// Compiles the action of rule number `number`. Of several actions redirect goes first, then direct response.
pub(super) fn compile_action(
    binding: &Binding<'_, '_>,
    number: usize,
    rule: &HttpRoute,
    making: &mut Making<'_, '_>,
) -> Compiled {
    let path = format!("spec.http[{number}]");
    let object = binding.object;
    if let Some(redirect) = &rule.redirect {
        let headers = compile_headers(rule.headers.as_deref(), object, &path, making.findings);
        let action = compile_redirect(redirect).map_or_else(
            |status| {
                let message = format!("{status} is no status that a redirect can have; its requests get 404");
                making.findings.error(Code::SCHEMA, object, &format!("{path}.redirect.redirectCode"), message);
                RouteAction::DirectResponse(DirectResponse { status: 404, body: None })
            },
            RouteAction::Redirect,
        );
        return Compiled { action, request_headers: headers.request, response_headers: headers.response };
    }
    if let Some(response) = &rule.direct_response {
        let headers = compile_headers(rule.headers.as_deref(), object, &path, making.findings);
        let action = compile_direct_response(response).map_or_else(
            |reason| {
                making.findings.error(Code::SCHEMA, object, &format!("{path}.directResponse"), reason);
                refusal()
            },
            RouteAction::DirectResponse,
        );
        return Compiled { action, request_headers: headers.request, response_headers: headers.response };
    }
    if rule.delegate.is_some() {
        let message = "delegation is not enforced yet; what the rule takes is answered 503";
        making.findings.warning(Code::NOT_ENFORCED, object, &format!("{path}.delegate"), message);
        return refusal().into();
    }
    compile_forward(binding, &path, rule, making).unwrap_or_else(|(field, reason)| {
        let message = format!("{reason}; what the rule takes is answered 503");
        making.findings.error(Code::SCHEMA, object, &format!("{path}{field}"), message);
        refusal().into()
    })
}

fn compile_forward(
    binding: &Binding<'_, '_>,
    path: &str,
    rule: &HttpRoute,
    making: &mut Making<'_, '_>,
) -> Result<Compiled, (&'static str, String)> {
    let object = binding.object;
    let operations = compile_headers(rule.headers.as_deref(), object, path, making.findings);
    let rewrite = rule.rewrite.as_ref();
    let mut authority =
        rewrite.map(|rewrite| rewrite.authority.clone()).filter(|host| !host.is_empty()).or(operations.authority);
    let single = rule.route.len() == 1;
    let mut weighted = Vec::with_capacity(rule.route.len());
    for (at, route) in destinations(rule) {
        let Some(destination) = &route.destination else {
            return Err((".route", "a destination is missing".into()));
        };
        let target = making.clusters.locate(destination, &object.key.namespace, binding.key.port, making.findings);
        let mut own =
            compile_headers(route.headers.as_deref(), object, &format!("{path}.route[{at}]"), making.findings);
        if let Some(host) = own.authority.take() {
            if single {
                authority.get_or_insert(host);
            } else if let Ok(value) = HeaderValue::from_str(&host) {
                own.request.set.push((http::header::HOST, HeaderValueTemplate::Literal(value)));
            }
        }
        weighted.push(WeightedCluster {
            cluster: making.table.reference(&target),
            weight: route.weight.try_into().unwrap_or(0),
            request_headers: own.request,
            response_headers: own.response,
        });
    }
    if weighted.is_empty() {
        let reason = match rule.route.len() {
            0 => "the rule has no `route`, `redirect` or `directResponse`",
            _ => "the weights of all destinations are 0",
        };
        return Err(("", reason.into()));
    }
    let (mut request_headers, mut response_headers) = (operations.request, operations.response);
    if let (false, [last]) = (single, &mut weighted[..]) {
        // One destination of several is left. Its operations still come before the rule's, and of a single destination
        // those of the route come first: so the two change places.
        std::mem::swap(&mut request_headers, &mut last.request_headers);
        std::mem::swap(&mut response_headers, &mut last.response_headers);
    }
    let mut forward = Forward::new(weighted);
    forward.timeout = rule.timeout.map(tidegate_resources::Duration::get).filter(|timeout| !timeout.is_zero());
    forward.authority = authority;
    forward.path_rewrite = match rewrite {
        Some(rewrite) => match &rewrite.uri_regex_rewrite {
            Some(regex) if rewrite.uri.is_empty() => {
                let rewrite = compile_regex_rewrite(regex, making.patterns);
                Some(PathRewrite::Regex(rewrite.map_err(|reason| (".rewrite.uriRegexRewrite", reason))?))
            }
            _ if rewrite.uri.is_empty() => None,
            _ => Some(PathRewrite::Matched { with: rewrite.uri.clone() }),
        },
        None => None,
    };
    Ok(Compiled { action: RouteAction::Forward(forward), request_headers, response_headers })
}

/// # Errors
/// Why it cannot be used, for people.
fn compile_regex_rewrite(regex: &Written, patterns: &mut Patterns) -> Result<RegexRewrite, String> {
    let pattern = patterns.get(Purpose::Search, &regex.r#match)?;
    RegexRewrite::with(pattern, &regex.rewrite).map_err(|error| error.to_string())
}

/// # Errors
/// The status, if Envoy cannot redirect with it.
fn compile_redirect(redirect: &HttpRedirect) -> Result<Redirect, u32> {
    let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let status = match redirect.redirect_code {
        0 | 301 => 301,
        302 => 302,
        303 => 303,
        307 => 307,
        308 => 308,
        other => return Err(other),
    };
    let path = match (set(&redirect.uri), set(&redirect.prefix_rewrite)) {
        (Some(uri), _) => RedirectPath::Full(uri),
        (None, Some(prefix)) => RedirectPath::Prefix(prefix),
        (None, None) => RedirectPath::Keep,
    };
    let port = match (redirect.port, redirect.derive_port) {
        (Some(port), _) => port_number(port).map_or(RedirectPort::Unset, RedirectPort::Explicit),
        (None, Some(RedirectPortSelection::FromProtocolDefault)) => RedirectPort::FromProtocolDefault,
        (None, Some(RedirectPortSelection::FromRequestPort)) => RedirectPort::FromRequestPort,
        (None, None) => RedirectPort::Unset,
    };
    Ok(Redirect { status, scheme: set(&redirect.scheme), authority: set(&redirect.authority), path, port })
}

/// # Errors
/// Why the response cannot be given.
fn compile_direct_response(response: &HttpDirectResponse) -> Result<DirectResponse, String> {
    let status = u16::try_from(response.status).ok().filter(|status| (200..=599).contains(status));
    let status = status
        .ok_or_else(|| format!("{} is no status that a response can have; its requests get 503", response.status))?;
    let body = response.body.as_ref().and_then(|body| match (&body.string, &body.bytes) {
        (Some(text), _) => Some(text.as_bytes()),
        (None, Some(bytes)) => Some(&*bytes.0),
        (None, None) => None,
    });
    if body.is_some_and(|body| body.len() > MAX_BODY) {
        return Err(format!("the body is longer than {MAX_BODY} bytes; its requests get 503"));
    }
    Ok(DirectResponse { status, body: body.map(Arc::from) })
}
