//! Rules under `http` of a VirtualService.

use super::virtual_service::{check_destination, check_gateways, check_required_destination, check_total};
use super::{Report, headers, names};
use crate::networking::{
    Abort, CorsPolicy, Delay, Headers, HttpDirectResponse, HttpFaultInjection, HttpMatchRequest, HttpRedirect,
    HttpRetry, HttpRewrite, HttpRoute, StringMatch,
};

const KIB: usize = 1024;

/// What `retryOn` may name beside status codes.
const RETRY_ON: &[&str] = &[
    "5xx",
    "cancelled",
    "connect-failure",
    "deadline-exceeded",
    "envoy-ratelimited",
    "gateway-error",
    "http3-post-connect-failure",
    "internal",
    "refused-stream",
    "reset",
    "reset-before-request",
    "resource-exhausted",
    "retriable-4xx",
    "retriable-headers",
    "retriable-status-codes",
    "unavailable",
];

const GRPC_STATUSES: &[&str] = &[
    "ABORTED",
    "ALREADY_EXISTS",
    "CANCELLED",
    "DATA_LOSS",
    "DEADLINE_EXCEEDED",
    "FAILED_PRECONDITION",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "OK",
    "OUT_OF_RANGE",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "UNAUTHENTICATED",
    "UNAVAILABLE",
    "UNIMPLEMENTED",
    "UNKNOWN",
];

const CORS_METHODS: &[&str] = &["*", "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

pub(super) fn check(route: &HttpRoute, is_delegate: bool, path: &str, report: &mut Report<'_>) {
    check_action(route, is_delegate, path, report);
    for (index, condition) in route.r#match.iter().enumerate() {
        check_match(condition, &format!("{path}.match[{index}]"), report);
    }
    if let Some(operations) = &route.headers {
        headers::check(operations, &format!("{path}.headers"), report);
    }
    if let Some(policy) = &route.cors_policy {
        check_cors(policy, &format!("{path}.corsPolicy"), report);
    }
    if let Some(fault) = &route.fault {
        check_fault(fault, &format!("{path}.fault"), report);
    }
    check_mirrors(route, path, report);
    if let Some(redirect) = &route.redirect {
        check_redirect(redirect, &route.r#match, &format!("{path}.redirect"), report);
    }
    if let Some(response) = &route.direct_response {
        check_direct_response(response, &format!("{path}.directResponse"), report);
    }
    if let Some(retries) = &route.retries {
        check_retries(retries, &format!("{path}.retries"), report);
    }
    if let Some(rewrite) = &route.rewrite {
        check_rewrite(rewrite, &format!("{path}.rewrite"), report);
    }
    check_authority(route.rewrite.as_deref(), route.headers.as_deref(), path, report);
    for (index, entry) in route.route.iter().enumerate() {
        let path = format!("{path}.route[{index}]");
        check_required_destination(entry.destination.as_ref(), &path, report);
        report.not_negative(&format!("{path}.weight"), entry.weight);
        if let Some(operations) = &entry.headers {
            headers::check(operations, &format!("{path}.headers"), report);
        }
    }
    check_total(route.route.iter().map(|entry| entry.weight), &format!("{path}.route"), report);
    report.duration(&format!("{path}.timeout"), route.timeout);
}

/// Exactly one of route, redirect, directResponse and delegate.
fn check_action(route: &HttpRoute, is_delegate: bool, path: &str, report: &mut Report<'_>) {
    let has_routes = !route.route.is_empty();
    if route.delegate.is_some() && !is_delegate {
        for (field, is_set) in [("redirect", route.redirect.is_some()), ("route", has_routes)] {
            if is_set {
                report.error(&format!("{path}.{field}"), format!("a rule with `delegate` has no `{field}`"));
            }
        }
        return;
    }
    if route.delegate.is_some() {
        report.error(&format!("{path}.delegate"), "a delegate cannot delegate further");
    }
    let own = match (&route.redirect, &route.direct_response) {
        (Some(_), _) => Some("redirect"),
        (None, Some(_)) => Some("directResponse"),
        (None, None) => None,
    };
    match own {
        Some(own) => {
            let others = [
                ("route", has_routes),
                ("fault", route.fault.is_some()),
                ("rewrite", route.rewrite.is_some()),
                ("directResponse", own == "redirect" && route.direct_response.is_some()),
            ];
            for (other, _) in others.iter().filter(|(_, is_set)| *is_set) {
                report.error(&format!("{path}.{other}"), format!("`{own}` and `{other}` exclude each other"));
            }
        }
        None if !has_routes => {
            report.error(path, "a rule needs `route`, `redirect` or `directResponse`");
        }
        None => {}
    }
    if route.mirror.is_some() && !route.mirrors.is_empty() {
        report.error(&format!("{path}.mirrors"), "`mirror` and `mirrors` exclude each other");
    }
}

fn check_match(condition: &HttpMatchRequest, path: &str, report: &mut Report<'_>) {
    for (name, matcher) in &condition.headers {
        let path = format!("{path}.headers{}", names::step(name));
        if let Err(why) = headers::condition_name(name) {
            report.error(&path, why);
        }
        check_string(matcher, &path, report);
    }
    for (name, matcher) in &condition.without_headers {
        let path = format!("{path}.withoutHeaders{}", names::step(name));
        if let Err(why) = headers::condition_name(name) {
            report.error(&path, why);
        }
        // `*` is no expression; it asks for presence.
        if *matcher != StringMatch::Regex("*".into()) {
            check_string(matcher, &path, report);
        }
    }
    for (name, matcher) in &condition.query_params {
        check_string(matcher, &format!("{path}.queryParams{}", names::step(name)), report);
    }
    // An empty prefix is fine for the path only.
    if let Some(StringMatch::Regex(pattern)) = &condition.uri {
        check_regex(pattern, &format!("{path}.uri.regex"), report);
    }
    let texts = [("scheme", &condition.scheme), ("method", &condition.method), ("authority", &condition.authority)];
    for (field, matcher) in texts {
        if let Some(matcher) = matcher {
            check_string(matcher, &format!("{path}.{field}"), report);
        }
    }
    if condition.port != 0 {
        report.port(&format!("{path}.port"), condition.port);
    }
    report.labels(&format!("{path}.sourceLabels"), &condition.source_labels);
    check_gateways(&condition.gateways, &format!("{path}.gateways"), report);
    if !condition.source_namespace.is_empty() && !names::is_dns_label(&condition.source_namespace) {
        let message = format!("`{}` is no namespace", condition.source_namespace);
        report.error(&format!("{path}.sourceNamespace"), message);
    }
}

fn check_string(matcher: &StringMatch, path: &str, report: &mut Report<'_>) {
    match matcher {
        StringMatch::Prefix(prefix) if prefix.is_empty() => {
            report.error_with_help(&format!("{path}.prefix"), "a prefix may not be empty", "`{}` matches any value");
        }
        StringMatch::Regex(pattern) => check_regex(pattern, &format!("{path}.regex"), report),
        _ => {}
    }
}

fn check_regex(pattern: &str, path: &str, report: &mut Report<'_>) {
    match pattern {
        "" => report.error(path, "a regular expression may not be empty"),
        _ => report.regex(path, pattern),
    }
}

fn check_mirrors(route: &HttpRoute, path: &str, report: &mut Report<'_>) {
    if let Some(percent) = route.mirror_percent {
        let path = format!("{path}.mirrorPercent");
        report.percent(&path, percent.into());
        report.deprecated(&path, "`mirrorPercent` is deprecated; use `mirrorPercentage`");
    }
    if let Some(percentage) = &route.mirror_percentage {
        report.percent(&format!("{path}.mirrorPercentage"), percentage.value);
    }
    if let Some(mirror) = &route.mirror {
        check_destination(mirror, &format!("{path}.mirror"), report);
    }
    for (index, mirror) in route.mirrors.iter().enumerate() {
        let path = format!("{path}.mirrors[{index}]");
        check_required_destination(mirror.destination.as_ref(), &path, report);
        if let Some(percentage) = &mirror.percentage {
            report.percent(&format!("{path}.percentage"), percentage.value);
        }
    }
}

fn check_redirect(redirect: &HttpRedirect, conditions: &[HttpMatchRequest], path: &str, report: &mut Report<'_>) {
    if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        report.error(path, "`uri` and `prefixRewrite` exclude each other");
    }
    let needs_prefix =
        |condition: &HttpMatchRequest| condition.uri.as_ref().is_some_and(|uri| !matches!(uri, StringMatch::Prefix(_)));
    if !redirect.prefix_rewrite.is_empty() && conditions.iter().any(needs_prefix) {
        let message = "`prefixRewrite` needs every `uri` condition of the rule to be a `prefix`";
        report.error(&format!("{path}.prefixRewrite"), message);
    }
    let texts = [&redirect.uri, &redirect.prefix_rewrite, &redirect.authority, &redirect.scheme];
    let has_port = redirect.port.is_some() || redirect.derive_port.is_some();
    if texts.iter().all(|text| text.is_empty()) && !has_port {
        report.error(path, "a redirect needs `uri`, `prefixRewrite`, `authority`, `scheme`, `port` or `derivePort`");
    }
    if redirect.redirect_code != 0 && !(300..=399).contains(&redirect.redirect_code) {
        let message = format!("{} is no status of a redirect", redirect.redirect_code);
        report.error_with_help(&format!("{path}.redirectCode"), message, "write 301, 302, 303, 307 or 308");
    }
    if !matches!(redirect.scheme.as_str(), "" | "http" | "https") {
        report.error(&format!("{path}.scheme"), format!("`{}` is not `http` or `https`", redirect.scheme));
    }
    // Port 0 passes, as in Istio.
    if let Some(port) = redirect.port.filter(|port| *port > 0) {
        report.port(&format!("{path}.port"), port);
    }
}

fn check_direct_response(response: &HttpDirectResponse, path: &str, report: &mut Report<'_>) {
    if let Some(body) = &response.body {
        let size = body.string.as_ref().map_or(0, String::len) + body.bytes.as_ref().map_or(0, |bytes| bytes.0.len());
        if size > KIB * KIB {
            report.error(&format!("{path}.body"), "the body of a direct response may have 1 MB at most");
        } else if size > 100 * KIB {
            report.warning(&format!("{path}.body"), "the body of a direct response should have 100 KB at most");
        }
    }
    check_status(i64::from(response.status), &format!("{path}.status"), report);
}

/// 600 passes, as in Istio.
fn check_status(status: i64, path: &str, report: &mut Report<'_>) {
    if !(200..=600).contains(&status) {
        report.error(path, format!("status {status} is not in the range 200-599"));
    }
}

fn check_rewrite(rewrite: &HttpRewrite, path: &str, report: &mut Report<'_>) {
    if !rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_some() {
        report.error(path, "`uri` and `uriRegexRewrite` exclude each other");
    }
    if rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_none() && rewrite.authority.is_empty() {
        report.error(path, "a rewrite needs `uri`, `uriRegexRewrite` or `authority`");
    }
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        let path = format!("{path}.uriRegexRewrite");
        if regex.r#match.is_empty() || regex.rewrite.is_empty() {
            report.error(&path, "`uriRegexRewrite` needs both `match` and `rewrite`");
        } else {
            report.regex(&format!("{path}.match"), &regex.r#match);
        }
    }
}

/// The authority of a request can be set in one place.
fn check_authority(rewrite: Option<&HttpRewrite>, headers: Option<&Headers>, path: &str, report: &mut Report<'_>) {
    let operations = headers.and_then(|headers| headers.request.as_ref());
    let sets = operations.into_iter().flat_map(|operations| {
        let set = operations.set.iter().map(|entry| ("set", entry));
        let add = operations.add.iter().map(|entry| ("add", entry));
        set.chain(add).filter(|(_, (name, _))| headers::is_authority(name))
    });
    let mut current = rewrite.map_or("", |rewrite| rewrite.authority.as_str());
    for (kind, (name, value)) in sets {
        if !current.is_empty() {
            let path = format!("{path}.headers.request.{kind}{}", names::step(name));
            report.error(&path, format!("the authority is set already, to `{current}`"));
            return;
        }
        current = value;
    }
}

pub(super) fn check_retries(retries: &HttpRetry, path: &str, report: &mut Report<'_>) {
    report.not_negative(&format!("{path}.attempts"), retries.attempts);
    let has_settings =
        retries.per_try_timeout.is_some() || !retries.retry_on.is_empty() || retries.retry_remote_localities.is_some();
    if retries.attempts == 0 && has_settings {
        report.error_with_help(
            path,
            "retries are off (`attempts` is 0), so the other settings have no effect",
            "set `attempts`, or leave the other settings out",
        );
    }
    report.duration(&format!("{path}.perTryTimeout"), retries.per_try_timeout);
    report.duration(&format!("{path}.backoff"), retries.backoff);
    if retries.retry_on.is_empty() {
        return;
    }
    for condition in retries.retry_on.split(',') {
        if !RETRY_ON.contains(&condition) && !is_known_status(condition) {
            let message = format!("`{condition}` is no condition of retryOn");
            let help = format!("a comma list without spaces of status codes and {}", RETRY_ON.join(", "));
            report.error_with_help(&format!("{path}.retryOn"), message, help);
        }
    }
}

/// Whether a text is the number of a status that has a name (Go, `http.StatusText`).
fn is_known_status(text: &str) -> bool {
    let Ok(status) = text.parse::<i64>() else { return false };
    matches!(
        status,
        100..=103 | 200..=208 | 226 | 300..=305 | 307 | 308 | 400..=418 | 421..=426 | 428 | 429 | 431 | 451 |
        500..=508 | 510 | 511
    )
}

fn check_fault(fault: &HttpFaultInjection, path: &str, report: &mut Report<'_>) {
    if fault.abort.is_none() && fault.delay.is_none() {
        report.error(path, "a fault needs `abort`, `delay` or both");
    }
    if let Some(abort) = &fault.abort {
        check_abort(abort, &format!("{path}.abort"), report);
    }
    if let Some(delay) = &fault.delay {
        check_delay(delay, &format!("{path}.delay"), report);
    }
}

fn check_abort(abort: &Abort, path: &str, report: &mut Report<'_>) {
    check_fraction(abort.percentage.as_ref().map(|percentage| percentage.value), path, report);
    match (&abort.grpc_status, &abort.http2_error, abort.http_status) {
        (Some(status), _, _) if !GRPC_STATUSES.contains(&status.as_str()) => {
            let message = format!("`{status}` is no gRPC status");
            report.error_with_help(&format!("{path}.grpcStatus"), message, "write a name such as NOT_FOUND");
        }
        (_, Some(_), _) => report.error(&format!("{path}.http2Error"), "Istio does not support `http2Error`"),
        (_, _, Some(status)) => check_status(i64::from(status), &format!("{path}.httpStatus"), report),
        (None, None, None) => report.warning(path, "an abort without `httpStatus` or `grpcStatus` does nothing"),
        _ => {}
    }
}

fn check_delay(delay: &Delay, path: &str, report: &mut Report<'_>) {
    check_fraction(delay.percentage.as_ref().map(|percentage| percentage.value), path, report);
    report.duration(&format!("{path}.fixedDelay"), delay.fixed_delay);
    if delay.exponential_delay.is_some() {
        report.error(&format!("{path}.exponentialDelay"), "Istio does not support `exponentialDelay`");
    }
}

/// Zero, or 0.0001 to 100.
fn check_fraction(percentage: Option<f64>, path: &str, report: &mut Report<'_>) {
    if let Some(value) = percentage
        && value != 0.0
        && !(0.0001..=100.0).contains(&value)
    {
        report.error(&format!("{path}.percentage"), format!("{value} is neither 0 nor in the range 0.0001-100"));
    }
}

fn check_cors(policy: &CorsPolicy, path: &str, report: &mut Report<'_>) {
    for (index, origin) in policy.allow_origins.iter().enumerate() {
        let path = format!("{path}.allowOrigins[{index}]");
        match origin {
            StringMatch::Unset => report.error(&path, "an origin needs `exact`, `prefix` or `regex`"),
            StringMatch::Exact(text) | StringMatch::Prefix(text) if text.is_empty() => {
                report.error(&path, "an origin may not be empty");
            }
            StringMatch::Regex(pattern) => check_regex(pattern, &format!("{path}.regex"), report),
            _ => {}
        }
    }
    for (index, method) in policy.allow_methods.iter().enumerate() {
        if !CORS_METHODS.contains(&method.as_str()) {
            let help = format!("write one of {}", CORS_METHODS.join(", "));
            let path = format!("{path}.allowMethods[{index}]");
            report.error_with_help(&path, format!("`{method}` is no HTTP method"), help);
        }
    }
    for (field, names) in [("allowHeaders", &policy.allow_headers), ("exposeHeaders", &policy.expose_headers)] {
        for (index, name) in names.iter().enumerate() {
            if name != "*" && !headers::is_token(name) {
                report.error(&format!("{path}.{field}[{index}]"), format!("`{name}` is no name of a header"));
            }
        }
    }
    if let Some(age) = policy.max_age {
        let path = format!("{path}.maxAge");
        report.duration(&path, Some(age));
        if age.subsec_nanos() > 0 {
            report.error(&path, "`maxAge` counts whole seconds");
        }
    }
}
