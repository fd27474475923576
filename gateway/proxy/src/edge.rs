//! What an edge does to the head of every request before it is routed: refuses what is ambiguous, makes the rest
//! canonical, removes what only the mesh may say, and adds what backends are told of the client.
//!
//! Source: Envoy, "HTTP header manipulation" and "HTTP header sanitizing", with Istio's settings for gateways.

use std::net::{IpAddr, SocketAddr};

use http::header::{CONNECTION, COOKIE, HOST, HeaderName, TE, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Version};
use pingora_error::Result;
use pingora_http::RequestHeader;
use smallvec::SmallVec;
use tidegate_snapshot::MeshSettings;

use crate::Limits;
use crate::forwarded_client_cert;
use crate::local_reply::LocalReply;
use crate::request_head::is_token;
use crate::tls::TlsInfo;

pub(crate) const FORWARDED_FOR: &str = "x-forwarded-for";
pub(crate) const FORWARDED_PROTO: &str = "x-forwarded-proto";
pub(crate) const REQUEST_ID: &str = "x-request-id";
pub(crate) const EXTERNAL_ADDRESS: &str = "x-envoy-external-address";

/// Headers that say something only the gateway or a mesh peer may say, apart from `x-envoy-*` and what says who the
/// client is, which have their own rules.
const INTERNAL: [&str; 1] = ["x-istio-attributes"];

/// Nominations in `Connection` that Pingora still accepts.
const MAX_NOMINATIONS: usize = 16;

/// What is known of a request once its head is canonical.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Admitted {
    /// The client, as far as trusted proxies tell; port 0 if they do.
    pub(crate) client: SocketAddr,
    pub(crate) is_https: bool,
}

/// Why a head was not admitted: an answer for the client, or a failure of our own.
#[derive(Debug)]
pub(crate) enum Refusal {
    Reply(LocalReply),
    Error(Box<pingora_error::Error>),
}

impl From<LocalReply> for Refusal {
    fn from(reply: LocalReply) -> Self {
        Self::Reply(reply)
    }
}

impl From<Box<pingora_error::Error>> for Refusal {
    fn from(error: Box<pingora_error::Error>) -> Self {
        Self::Error(error)
    }
}

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Downstream<'a> {
    pub(crate) peer: SocketAddr,
    /// None if the connection is plaintext.
    pub(crate) tls: Option<&'a TlsInfo>,
}

/// Checks `request`, which came from `downstream`, and makes it canonical.
///
/// # Errors
/// The answer to a request that must not be served.
pub(crate) fn admit(
    request: &mut RequestHeader,
    downstream: Downstream<'_>,
    mesh: &MeshSettings,
    limits: &Limits,
) -> Result<Admitted, Refusal> {
    if request.version == Version::HTTP_2 {
        check_size(request, limits)?;
        join_cookies(request)?;
    }
    if request.method == Method::CONNECT {
        return Err(LocalReply::CONNECT.into());
    }
    settle_authority(request)?;
    settle_path(request, mesh)?;
    settle_connection(request)?;
    remove_internal(request);
    forwarded_client_cert::settle(request, downstream.tls, mesh)?;
    let client = client_address(&request.headers, downstream.peer, mesh.num_trusted_proxies);
    let is_https = tell_origin(request, downstream, client, mesh.num_trusted_proxies)?;
    Ok(Admitted { client, is_https })
}

/// Pingora's HTTP/2 has its own limits on lists of headers, which are wider and answered differently.
fn check_size(request: &RequestHeader, limits: &Limits) -> Result<(), LocalReply> {
    let target = request.uri.path_and_query().map_or(0, |path| path.as_str().len());
    if target > limits.max_request_line {
        return Err(LocalReply::URI_TOO_LONG);
    }
    let bytes: usize = request.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if request.headers.len() > limits.max_headers || bytes + target > limits.max_header_bytes {
        return Err(LocalReply::HEADERS_TOO_LARGE);
    }
    Ok(())
}

/// HTTP/2 may split cookies; nothing behind us should have to know (RFC 9113 section 8.2.3).
fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let mut cookies = request.headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else { return Ok(()) };
    let mut joined = first.as_bytes().to_vec();
    for cookie in std::iter::once(second).chain(cookies) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    request.insert_header(COOKIE, joined)
}

/// The authority of a request: `:authority`, else `Host`, exactly as sent. Empty if there is none.
pub(crate) fn authority(request: &RequestHeader) -> &str {
    match request.uri.authority() {
        Some(authority) => authority.as_str(),
        None => request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
    }
}

/// Turns absolute-form into origin-form, whose authority Pingora has compared with `Host`, and checks the authority.
fn settle_authority(request: &mut RequestHeader) -> Result<(), Refusal> {
    if request.version != Version::HTTP_2 && !request.raw_path().starts_with(b"/") && request.raw_path() != b"*" {
        let target = request.raw_path();
        let scheme = target.iter().position(|byte| *byte == b':').map(|at| &target[..at]).unwrap_or_default();
        if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
            return Err(LocalReply::BAD_PATH.into());
        }
        let rest = target.get(scheme.len() + 3..).unwrap_or_default();
        let path = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).map(|at| &rest[at..]).unwrap_or_default();
        let mut origin_form = Vec::with_capacity(path.len() + 1);
        if !path.starts_with(b"/") {
            origin_form.push(b'/');
        }
        origin_form.extend_from_slice(path);
        request.set_raw_path(&origin_form)?;
    }
    let authority = authority(request);
    if authority.is_empty() {
        return Err(LocalReply::MISSING_HOST.into());
    }
    if !is_authority(authority) {
        return Err(LocalReply::BAD_HOST.into());
    }
    Ok(())
}

/// A host name or address, and maybe a port; no user, nothing to be decoded.
fn is_authority(text: &str) -> bool {
    let host = tidegate_snapshot::host_without_port(text);
    let port = &text[host.len()..];
    if !(port.is_empty() || port == ":" || port[1..].parse::<u16>().is_ok()) {
        return false;
    }
    match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']').is_some_and(|it| it.parse::<std::net::Ipv6Addr>().is_ok()),
        None => {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
        }
    }
}

/// Normalizes the path; what comes out is what routes, is logged and is forwarded.
fn settle_path(request: &mut RequestHeader, mesh: &MeshSettings) -> Result<(), Refusal> {
    let Ok(target) = std::str::from_utf8(request.raw_path()) else { return Err(LocalReply::BAD_PATH.into()) };
    let normal = match tidegate_snapshot::normalize(target, mesh.path_normalization) {
        Ok(normal) if normal == target => None,
        Ok(normal) => Some(normal.into_owned()),
        Err(_) => return Err(LocalReply::BAD_PATH.into()),
    };
    if let Some(path) = normal {
        set_path(request, &path)?;
    }
    Ok(())
}

/// Replaces path and query, keeping the authority that an HTTP/2 request has in its URI.
pub(crate) fn set_path(request: &mut RequestHeader, path_and_query: &str) -> Result<()> {
    use pingora_error::{ErrorType::InvalidHTTPHeader, OrErr};
    if request.uri.authority().is_none() {
        return request.set_raw_path(path_and_query.as_bytes());
    }
    let mut parts = request.uri.clone().into_parts();
    parts.path_and_query = Some(path_and_query.parse().or_err(InvalidHTTPHeader, "a path that is none")?);
    request.set_uri(http::Uri::from_parts(parts).or_err(InvalidHTTPHeader, "a path that is none")?);
    Ok(())
}

/// Settles which of the connection's options concern the request, removes what they nominate and keeps nothing but a
/// WebSocket's upgrade, so that no later step can be talked out of a header that we set.
fn settle_connection(request: &mut RequestHeader) -> Result<(), Refusal> {
    let mut upgrades = false;
    let mut nominated: SmallVec<[HeaderName; 4]> = SmallVec::new();
    let options = request.headers.get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    for option in options.map(<[u8]>::trim_ascii).filter(|option| !option.is_empty()) {
        if option.eq_ignore_ascii_case(b"upgrade") {
            upgrades = true;
        } else if !option.eq_ignore_ascii_case(b"close") && !option.eq_ignore_ascii_case(b"keep-alive") {
            // A quoted or decorated name is an attempt to get past a comparison of names.
            let name = option.iter().all(|byte| is_token(*byte)).then(|| HeaderName::from_bytes(option).ok()).flatten();
            let name = name.filter(|_| nominated.len() < MAX_NOMINATIONS).ok_or(LocalReply::BAD_REQUEST)?;
            if matches!(name.as_str(), "host" | "content-length" | FORWARDED_FOR | FORWARDED_PROTO | "x-forwarded-host")
            {
                return Err(LocalReply::BAD_REQUEST.into());
            }
            nominated.push(name);
        }
    }
    let is_http2 = request.version == Version::HTTP_2;
    let upgrade = request.headers.get(UPGRADE).filter(|_| upgrades && !is_http2);
    let websocket = match upgrade.map(|value| value.as_bytes()) {
        None => false,
        // Envoy takes a request to change to HTTP/2 for what it is without it.
        Some(protocol) if protocol.eq_ignore_ascii_case(b"h2c") => false,
        Some(protocol) if protocol.eq_ignore_ascii_case(b"websocket") => true,
        Some(_) => return Err(LocalReply::UPGRADE_FAILED.into()),
    };
    if websocket && has_body(&request.headers) {
        // Where the tunnel's first byte is would be anyone's guess.
        return Err(LocalReply::BAD_REQUEST.into());
    }
    for name in &nominated {
        request.remove_header(name);
    }
    if websocket {
        request.insert_header(CONNECTION, "Upgrade")?;
    } else {
        request.remove_header(&CONNECTION);
        request.remove_header(&UPGRADE);
        request.remove_header("http2-settings");
    }
    Ok(())
}

/// Whether `te` has `trailers`, the one value that may go on to another hop.
pub(crate) fn accepts_trailers(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(http::header::TRANSFER_ENCODING)
        || headers.get(http::header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

fn remove_internal(request: &mut RequestHeader) {
    let is_internal = |name: &&HeaderName| name.as_str().starts_with("x-envoy-") || INTERNAL.contains(&name.as_str());
    let internal: SmallVec<[HeaderName; 4]> = request.headers.keys().filter(is_internal).cloned().collect();
    for name in &internal {
        request.remove_header(name);
    }
}

/// The client behind `trusted` proxies: the last but `trusted` of what they say, the peer if they say less.
fn client_address(headers: &HeaderMap, peer: SocketAddr, trusted: u32) -> SocketAddr {
    let Some(from_right) = (trusted as usize).checked_sub(1) else { return peer };
    let hops = headers.get_all(FORWARDED_FOR).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let hops: SmallVec<[&[u8]; 8]> = hops.map(<[u8]>::trim_ascii).collect();
    let hop = hops.iter().rev().nth(from_right).and_then(|hop| std::str::from_utf8(hop).ok());
    match hop.and_then(|hop| hop.parse::<IpAddr>().ok()) {
        Some(address) => SocketAddr::new(address.to_canonical(), 0),
        None => peer,
    }
}

/// Adds what the backend is told of the client's address and scheme, and returns whether the client used TLS.
fn tell_origin(
    request: &mut RequestHeader,
    downstream: Downstream<'_>,
    client: SocketAddr,
    trusted: u32,
) -> Result<bool> {
    let mut hops = String::with_capacity(48);
    for value in request.headers.get_all(FORWARDED_FOR) {
        // What is no text names no hop.
        if let Ok(value) = value.to_str() {
            hops.push_str(value);
            hops.push(',');
        }
    }
    hops.push_str(&downstream.peer.ip().to_string());
    request.insert_header(FORWARDED_FOR, hops)?;
    let proto = request.headers.get(FORWARDED_PROTO).filter(|_| trusted > 0).map(HeaderValue::as_bytes);
    let is_https = match proto {
        Some(b"https") => true,
        Some(b"http") => false,
        _ => {
            let scheme = if downstream.tls.is_some() { "https" } else { "http" };
            request.insert_header(FORWARDED_PROTO, HeaderValue::from_static(scheme))?;
            downstream.tls.is_some()
        }
    };
    request.insert_header(EXTERNAL_ADDRESS, client.ip().to_string())?;
    request.insert_header(REQUEST_ID, request_id())?;
    Ok(is_https)
}

/// A random UUID, version 4.
fn request_id() -> String {
    let random = fastrand::u128(..);
    let versioned = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{versioned:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)), 4711);

    fn request(target: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        request.set_version(Version::HTTP_11);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request.insert_header("host", "a.com").unwrap();
        }
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn admit_with(
        target: &str,
        headers: &[(&'static str, &str)],
        trusted: u32,
    ) -> Result<(RequestHeader, Admitted), LocalReply> {
        let mut request = request(target, headers);
        let mesh = MeshSettings { num_trusted_proxies: trusted, ..MeshSettings::default() };
        match admit(&mut request, Downstream { peer: PEER, tls: None }, &mesh, &Limits::default()) {
            Ok(admitted) => Ok((request, admitted)),
            Err(Refusal::Reply(reply)) => Err(reply),
            Err(Refusal::Error(error)) => panic!("{error}"),
        }
    }

    fn header<'a>(request: &'a RequestHeader, name: &str) -> Option<&'a str> {
        request.headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn clients_cannot_speak_for_the_mesh() {
        let spoofed = [
            ("x-envoy-retry-on", "5xx"),
            ("X-Envoy-Upstream-Rq-Timeout-Ms", "1"),
            ("x-envoy-internal", "true"),
            ("x-envoy-original-path", "/admin"),
            ("x-envoy-decorator-operation", "x"),
            ("x-envoy-external-address", "10.0.0.1"),
            ("x-forwarded-client-cert", "By=x"),
            ("x-istio-attributes", "x"),
            ("x-request-id", "mine"),
            ("x-forwarded-proto", "https"),
        ];
        let (request, admitted) = admit_with("/", &spoofed, 0).unwrap();
        let left: Vec<_> =
            request.headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with("x-")).collect();
        let mut sorted = left.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, ["x-envoy-external-address", "x-forwarded-for", "x-forwarded-proto", "x-request-id"]);
        assert_eq!(header(&request, EXTERNAL_ADDRESS), Some("192.0.2.7"));
        assert_eq!(header(&request, FORWARDED_FOR), Some("192.0.2.7"));
        assert_eq!(header(&request, FORWARDED_PROTO), Some("http"));
        assert!(!admitted.is_https);
        let id = header(&request, REQUEST_ID).unwrap();
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert!("89ab".contains(&id[19..20]), "{id}");
    }

    #[test]
    fn the_client_is_counted_from_the_right() {
        let check = |forwarded: &str, trusted: u32, client: &str| {
            let (request, admitted) = admit_with("/", &[("x-forwarded-for", forwarded)], trusted).unwrap();
            assert_eq!(admitted.client.ip().to_string(), client, "{forwarded} {trusted}");
            assert_eq!(header(&request, EXTERNAL_ADDRESS), Some(client));
            assert_eq!(header(&request, FORWARDED_FOR).unwrap(), format!("{forwarded},192.0.2.7"));
        };
        check("1.2.3.4, 10.0.0.1", 0, "192.0.2.7");
        check("1.2.3.4, 10.0.0.1", 1, "10.0.0.1");
        check("1.2.3.4, 10.0.0.1", 2, "1.2.3.4");
        check("1.2.3.4, 10.0.0.1", 3, "192.0.2.7");
        check("1.2.3.4, junk", 1, "192.0.2.7");
        check("::ffff:1.2.3.4", 1, "1.2.3.4");
    }

    #[test]
    fn a_trusted_proxy_tells_the_scheme() {
        let scheme = |proto: &str, trusted| {
            let (request, admitted) = admit_with("/", &[("x-forwarded-proto", proto)], trusted).unwrap();
            (admitted.is_https, header(&request, FORWARDED_PROTO).unwrap().to_owned())
        };
        assert_eq!(scheme("https", 1), (true, "https".into()));
        assert_eq!(scheme("https", 0), (false, "http".into()));
        assert_eq!(scheme("gopher", 1), (false, "http".into()));
    }

    #[test]
    fn what_a_client_says_of_certificates_goes() {
        let (request, _) = admit_with("/", &[("x-forwarded-client-cert", "URI=spiffe://x")], 0).unwrap();
        assert_eq!(header(&request, forwarded_client_cert::NAME), None);
    }

    #[test]
    fn paths_are_normalized_and_absolute_targets_lose_their_authority() {
        let path = |target: &str, host| {
            admit_with(target, &[("host", host)], 0)
                .map(|(request, _)| String::from_utf8(request.raw_path().into()).unwrap())
        };
        assert_eq!(path("/a/../%62?x=/../y", "a.com").unwrap(), "/b?x=/../y");
        assert_eq!(path("http://a.com/a/./b", "a.com").unwrap(), "/a/b");
        assert_eq!(path("http://a.com?q", "a.com").unwrap(), "/?q");
        assert_eq!(path("http://a.com", "a.com").unwrap(), "/");
        assert_eq!(path("/%00", "a.com"), Err(LocalReply::BAD_PATH));
        assert_eq!(path("ftp://a.com/", "a.com"), Err(LocalReply::BAD_PATH));
        assert_eq!(path("*", "a.com"), Err(LocalReply::BAD_PATH));
    }

    #[test]
    fn authorities_that_are_none_are_refused() {
        for host in ["a.com", "A.com:8080", "a.com.", "a_b", "127.0.0.1", "[::1]", "[::1]:80", "a.com:"] {
            assert!(admit_with("/", &[("host", host)], 0).is_ok(), "{host}");
        }
        for host in
            ["a@b", "a b", "a,b", "a/b", "a.com:x", "a.com:99999", "[::1", "::1]", "a\"b", "[::1]x", ":80", "a%2e"]
        {
            assert_eq!(admit_with("/", &[("host", host)], 0).err(), Some(LocalReply::BAD_HOST), "{host}");
        }
        assert_eq!(admit_with("/", &[("host", "")], 0).err(), Some(LocalReply::MISSING_HOST));
    }

    #[test]
    fn connection_options_cannot_take_away_what_the_gateway_sets() {
        let (request, _) = admit_with("/", &[("connection", "close, x-a, x-request-id"), ("x-a", "1")], 0).unwrap();
        assert_eq!((header(&request, "x-a"), header(&request, "connection")), (None, None));
        assert!(header(&request, REQUEST_ID).is_some());
        for options in ["x-forwarded-for", "Host", "\"x-a\"", ":authority", &["x"; 40].join(",")] {
            assert_eq!(
                admit_with("/", &[("connection", options)], 0).err(),
                Some(LocalReply::BAD_REQUEST),
                "{options}"
            );
        }
    }

    #[test]
    fn only_websockets_upgrade() {
        let upgrade = |connection: &str, upgrade: &str| {
            admit_with("/", &[("connection", connection), ("upgrade", upgrade)], 0)
                .map(|(request, _)| header(&request, "upgrade").map(str::to_owned))
        };
        assert_eq!(upgrade("keep-alive, Upgrade", "WebSocket"), Ok(Some("WebSocket".into())));
        assert_eq!(upgrade("Upgrade, HTTP2-Settings", "h2c"), Ok(None));
        assert_eq!(upgrade("Upgrade", "foo"), Err(LocalReply::UPGRADE_FAILED));
        assert_eq!(upgrade("keep-alive", "foo"), Ok(None));
        let with_body = [("connection", "upgrade"), ("upgrade", "websocket"), ("content-length", "3")];
        assert_eq!(admit_with("/", &with_body, 0).err(), Some(LocalReply::BAD_REQUEST));
    }
}
