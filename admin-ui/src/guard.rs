//! Who may ask: the rules that keep web pages and other machines' names away from the admin port.
//!
//! A page of `evil.example` can make a browser send requests to 127.0.0.1. It can read no answer of another origin, but
//! it can send simple POSTs (so a POST with a foreign `Origin` is refused), and it can point its own name at 127.0.0.1
//! (DNS rebinding; so a `Host` that is no name of this machine is refused).

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tidegate_snapshot::host_without_port;

use crate::endpoint::Reply;
use crate::server::ServerAddress;

/// The `Host` values that a server answers to, without port and in any case.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AllowedHosts {
    /// `localhost`, names below it, loopback addresses, the address that the client connected to, and these names.
    Loopback {
        /// Further names, for an admin port behind a proxy of the operator.
        also: Vec<String>,
    },
    Any,
}

impl Default for AllowedHosts {
    fn default() -> Self {
        Self::Loopback { also: Vec::new() }
    }
}

impl AllowedHosts {
    fn allows(&self, authority: &str, local: Option<IpAddr>) -> bool {
        let Self::Loopback { also } = self else { return true };
        let host = host_without_port(authority).to_ascii_lowercase();
        let name = host.strip_suffix('.').unwrap_or(&host);
        if name == "localhost" || name.ends_with(".localhost") {
            return true;
        }
        let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        match literal.parse::<IpAddr>() {
            Ok(ip) => {
                let ip = ip.to_canonical();
                ip.is_loopback() || local.is_some_and(|local| local.to_canonical() == ip)
            }
            Err(_) => also.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)),
        }
    }
}

/// Runs before every handler: refuses what may not ask, and marks every answer as neither to be sniffed nor kept.
pub(crate) async fn guard(State(hosts): State<AllowedHosts>, request: Request, next: Next) -> Response {
    let local = request.extensions().get::<ServerAddress>().map(|ServerAddress(local): &ServerAddress| *local);
    let mut response = match refusal(&hosts, &request, local) {
        Some(reply) => reply.into_response(),
        None => next.run(request).await,
    };
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-cache, max-age=0"),
        ("cross-origin-resource-policy", "same-origin"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        (
            "content-security-policy",
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
    ] {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

fn refusal(hosts: &AllowedHosts, request: &Request, local: Option<SocketAddr>) -> Option<Reply> {
    let host = match single(request.headers(), &HOST) {
        Ok(Some(host)) => host,
        Ok(None) if *hosts == AllowedHosts::Any => "",
        Ok(None) | Err(_) => return Some(Reply::text(StatusCode::BAD_REQUEST, "one Host header is required\n")),
    };
    let local = local.map(|local| local.ip());
    let authority = request.uri().authority().map_or(host, |authority| authority.as_str());
    if !hosts.allows(host, local) || !hosts.allows(authority, local) {
        return Some(Reply::text(
            StatusCode::FORBIDDEN,
            "the Host header names no address of this server: use 127.0.0.1 or localhost\n",
        ));
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    if !reads && is_cross_site(request.headers(), host) {
        return Some(Reply::text(StatusCode::FORBIDDEN, "requests from pages of other sites are refused\n"));
    }
    None
}

/// Whether a browser says that the request comes from a page that this server did not send.
fn is_cross_site(headers: &HeaderMap, host: &str) -> bool {
    let origin = match single(headers, &ORIGIN) {
        Ok(origin) => origin,
        Err(_) => return true,
    };
    let foreign = origin.is_some_and(|origin| {
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        !own.is_some_and(|own| own.eq_ignore_ascii_case(host))
    });
    let fetch_site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    foreign || fetch_site.is_some_and(|site| site != b"same-origin" && site != b"none")
}

/// The value of a header that may stand once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Ambiguous> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Ambiguous),
        (Some(_), Some(_)) => Err(Ambiguous),
    }
}

/// A header stands twice, or is no text.
struct Ambiguous;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        let loopback = AllowedHosts::Loopback { also: vec!["admin.example.com".into()] };
        let local: IpAddr = "10.0.0.7".parse().unwrap();
        for host in [
            "localhost",
            "LOCALHOST:15000",
            "localhost.:15000",
            "a.localhost",
            "127.0.0.1:40000",
            "127.9.9.9",
            "[::1]:15000",
            "[::ffff:127.0.0.1]",
            "10.0.0.7:15000",
            "Admin.Example.Com:443",
        ] {
            assert!(loopback.allows(host, Some(local)), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:15000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.8",
            "[::2]",
            "0.0.0.0",
            "notlocalhost",
        ] {
            assert!(!loopback.allows(host, Some(local)), "{host}");
        }
        assert!(AllowedHosts::Any.allows("evil.example", None));
    }

    #[test]
    fn pages_of_other_sites_are_told_apart() {
        let check = |headers: &[(&'static str, &'static str)], expected: bool| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(is_cross_site(&map, "127.0.0.1:15000"), expected, "{headers:?}");
        };
        check(&[], false);
        check(&[("origin", "http://127.0.0.1:15000")], false);
        check(&[("origin", "http://127.0.0.1:15000"), ("sec-fetch-site", "same-origin")], false);
        check(&[("origin", "http://127.0.0.1:8080")], true);
        check(&[("origin", "http://evil.example")], true);
        check(&[("origin", "null")], true);
        check(&[("origin", "http://127.0.0.1:15000"), ("origin", "http://evil.example")], true);
        check(&[("sec-fetch-site", "cross-site")], true);
        check(&[("sec-fetch-site", "same-site")], true);
    }
}
