//! `/explain`: the data plane's own selection, for a request that is only described.

use http::uri::Uri;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tidegate_snapshot::ExplainRequest;

use crate::ListenerStatus;
use crate::endpoint::{Admin, Parameters, Reply};

/// Headers of one described request.
const MAX_HEADERS: usize = 100;

pub(crate) fn explain(admin: &Admin, parameters: &Parameters) -> Reply {
    match request(parameters, &admin.backend.listeners()) {
        Ok(request) => Reply::json(&admin.backend.snapshot().explain(&request)),
        Err(message) => Reply::bad_request(format!("{message}\n")),
    }
}

/// Reads the request that the parameters describe.
fn request(parameters: &Parameters, listeners: &[ListenerStatus]) -> Result<ExplainRequest, String> {
    if let Some(name) = parameters.unknown(&["url", "method", "header", "port"]).next() {
        return Err(format!("unknown parameter {name}; there are url, method, header, port"));
    }
    let url = parameters.get("url").ok_or("url is missing: /explain?url=http://host/path")?;
    // curl takes URLs without scheme too.
    let with_scheme = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let parsed: Uri = with_scheme.parse().map_err(|error| format!("`{url}` is no URL: {error}"))?;
    let scheme = match parsed.scheme_str() {
        Some(scheme @ ("http" | "https")) => scheme.to_owned(),
        _ => return Err(format!("`{url}` is neither http nor https")),
    };
    let authority = parsed.authority().filter(|authority| !authority.as_str().contains('@'));
    let authority = authority.ok_or_else(|| format!("`{url}` has no host, or has a user name"))?;
    let method = parameters.get("method").unwrap_or("GET");
    Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method"))?;
    let mut request = ExplainRequest {
        method: method.to_owned(),
        authority: authority.as_str().to_owned(),
        target: parsed.path_and_query().map_or("/", |target| target.as_str()).to_owned(),
        headers: HeaderMap::new(),
        port: port(parameters.get("port"), authority.port_u16(), &scheme, listeners)?,
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

/// The Gateway's port for a request: the one that is asked for; else the URL's, which may be one that is bound in place
/// of the Gateway's; else the scheme's; else the only listener's.
fn port(asked: Option<&str>, url: Option<u16>, scheme: &str, listeners: &[ListenerStatus]) -> Result<u16, String> {
    let serving = |port: u16| {
        let named = listeners.iter().find(|listener| listener.port == port);
        let bound = || listeners.iter().find(|l| l.bound.iter().any(|address| address.port() == port));
        named.or_else(bound).map(|listener| listener.port)
    };
    if let Some(asked) = asked {
        let asked = asked.parse().map_err(|_| format!("`{asked}` is no port"))?;
        return Ok(serving(asked).unwrap_or(asked));
    }
    let default = if scheme == "https" { 443 } else { 80 };
    let only = match listeners {
        [only] => Some(only.port),
        _ => None,
    };
    Ok(url.and_then(serving).or_else(|| serving(default)).or(only).unwrap_or(url.unwrap_or(default)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(port: u16, bound: u16) -> ListenerStatus {
        let bound = vec![std::net::SocketAddr::from(([0, 0, 0, 0], bound))];
        ListenerStatus { name: format!("0.0.0.0_{port}"), port, bound, ..ListenerStatus::default() }
    }

    #[test]
    fn the_port_is_the_one_that_the_gateway_names() {
        let two = [listener(80, 8080), listener(9000, 9000)];
        let one = [listener(8443, 8443)];
        let check = |asked: Option<&str>, url, scheme: &str, listeners: &[ListenerStatus], expected| {
            assert_eq!(port(asked, url, scheme, listeners), Ok(expected), "{asked:?} {url:?} {scheme}");
        };
        check(Some("8080"), None, "http", &two, 80);
        check(Some("9000"), Some(8080), "http", &two, 9000);
        check(Some("1"), None, "http", &two, 1);
        check(None, Some(8080), "http", &two, 80);
        check(None, Some(9000), "http", &two, 9000);
        check(None, Some(3000), "http", &two, 80);
        check(None, None, "http", &two, 80);
        check(None, None, "https", &two, 443);
        check(None, None, "http", &one, 8443);
        assert!(port(Some("http"), None, "http", &two).is_err());
    }
}
