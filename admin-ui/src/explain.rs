//! `/explain`: the data plane's own selection, for a request that is only described.

use http::uri::Uri;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tidegate_snapshot::{ExplainRequest, Snapshot, server_name_of};

use crate::ListenerStatus;
use crate::endpoint::{Admin, Parameters, Reply};

/// Headers of one described request.
const MAX_HEADERS: usize = 100;

pub(crate) fn explain(admin: &Admin, parameters: &Parameters) -> Reply {
    let snapshot = admin.backend.snapshot();
    match request(parameters, &snapshot, &admin.backend.listeners()) {
        Ok(request) => {
            let mut explanation = snapshot.explain(&request);
            explanation.hold_against_secrets(|names| admin.backend.secret_standing(names));
            Reply::json(&explanation)
        }
        Err(message) => Reply::bad_request(format!("{message}\n")),
    }
}

/// Reads the request that the parameters describe.
fn request(
    parameters: &Parameters,
    snapshot: &Snapshot,
    listeners: &[ListenerStatus],
) -> Result<ExplainRequest, String> {
    if let Some(name) = parameters.unknown(&["url", "method", "header", "port", "sni"]).next() {
        return Err(format!("unknown parameter {name}; there are url, method, header, port, sni"));
    }
    let url = parameters.get("url").ok_or("url is missing: /explain?url=http://host/path")?;
    // curl takes URLs without scheme too.
    let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let parsed: Uri = with_scheme.parse().map_err(|error| format!("`{url}` is no URL: {error}"))?;
    let scheme = match parsed.scheme_str() {
        Some(scheme @ ("http" | "https" | "tls" | "tcp")) => scheme.to_owned(),
        _ => return Err(format!("`{url}` is none of http, https, tls and tcp")),
    };
    let authority = parsed.authority().filter(|authority| !authority.as_str().contains('@'));
    let authority = authority.ok_or_else(|| format!("`{url}` has no host, or has a user name"))?;
    let method = parameters.get("method").unwrap_or("GET");
    Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method"))?;
    let asked =
        parameters.get("port").map(|port| port.parse().map_err(|_| format!("`{port}` is no port"))).transpose()?;
    let port = asked.or(authority.port_u16()).map(|port| named_port(port, listeners));
    let mut request = ExplainRequest {
        method: method.to_owned(),
        authority: authority.as_str().to_owned(),
        // An empty one stands for a client that sends none.
        server_name: match parameters.get("sni") {
            None => server_name_of(authority.as_str()),
            Some(name) => Some(name.to_ascii_lowercase()).filter(|name| !name.is_empty()),
        },
        target: parsed.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        headers: HeaderMap::new(),
        port: snapshot.port_of_url(&scheme, port),
        scheme,
    };
    for header in parameters.all("header") {
        let (name, value) = header.split_once(':').ok_or_else(|| format!("`{header}` is not `name: value`"))?;
        let (name, value) = (name.trim(), value.trim());
        // As curl does: a Host header replaces the URL's host.
        if name.eq_ignore_ascii_case("host") {
            request.authority = value.to_owned();
            continue;
        }
        let name: HeaderName = name.parse().map_err(|_| format!("`{name}` is no header name"))?;
        let value = HeaderValue::from_str(value).map_err(|_| format!("the value of {name} is no header value"))?;
        if request.headers.len() >= MAX_HEADERS {
            return Err(format!("more than {MAX_HEADERS} headers"));
        }
        request.headers.append(name, value);
    }
    Ok(request)
}

/// The Gateway's port for one that is really bound, which may be another; any other port stays as it is.
fn named_port(port: u16, listeners: &[ListenerStatus]) -> u16 {
    let named = listeners.iter().any(|listener| listener.port == port);
    let bound = listeners.iter().find(|listener| listener.bound.iter().any(|address| address.port() == port));
    bound.filter(|_| !named).map_or(port, |listener| listener.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_those_that_gateways_name() {
        let listener = |port: u16, bound: u16| {
            let bound = vec![std::net::SocketAddr::from(([0, 0, 0, 0], bound))];
            ListenerStatus { name: format!("0.0.0.0_{port}"), port, bound, ..ListenerStatus::default() }
        };
        let listeners = [listener(80, 18080), listener(18080, 9000)];
        for (port, expected) in [(80, 80), (18080, 18080), (9000, 18080), (1, 1)] {
            assert_eq!(named_port(port, &listeners), expected, "{port}");
        }
    }
}
