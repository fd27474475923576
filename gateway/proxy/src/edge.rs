//! What an edge does to the head of every request before it is routed: refuses what is ambiguous, makes the rest
//! canonical, removes what only the mesh may say, and adds what backends are told of the client.
//!
//! Source: Envoy, "HTTP header manipulation" and "HTTP header sanitizing", with Istio's settings for gateways.

use std::net::{IpAddr, SocketAddr};

use http::HeaderName;
use smallvec::SmallVec;
use tidegate_snapshot::MeshSettings;

use crate::Limits;
use crate::forwarded_client_cert;
use crate::local_reply::LocalReply;
use crate::message::{Fields, Known, Protocol, RequestHead};
use crate::request_head::is_token;
use crate::telemetry::append_ip;
use crate::tls::TlsInfo;

/// Names that `Connection` may nominate.
const MAX_NOMINATIONS: usize = 16;

/// What is known of a request once its head is canonical.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Admitted {
    /// The client, as far as trusted proxies tell; port 0 if they do.
    pub(crate) client: SocketAddr,
    pub(crate) is_https: bool,
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
    request: &mut RequestHead,
    downstream: Downstream<'_>,
    mesh: &MeshSettings,
    limits: &Limits,
) -> Result<Admitted, LocalReply> {
    if request.protocol == Protocol::Http2 {
        check_size(request, limits)?;
        join_cookies(&mut request.fields);
    }
    if request.method == "CONNECT" {
        return Err(LocalReply::CONNECT);
    }
    settle_authority(request)?;
    let is_asterisk = request.target == "*" && request.method == "OPTIONS";
    if !is_asterisk {
        settle_path(request, mesh)?;
    }
    settle_connection(request)?;
    if is_asterisk {
        // After the connection's options: its connection stays.
        return Err(LocalReply::ASTERISK);
    }
    // What only the gateway or a mesh peer may say, apart from what says who the client is, which has its own rules.
    request.fields.retain(|known, _| !known.is_envoys() && known != Known::IstioAttributes);
    forwarded_client_cert::settle(&mut request.fields, downstream.tls, mesh);
    let client = client_address(&request.fields, downstream.peer, mesh.num_trusted_proxies);
    let is_https = tell_origin(&mut request.fields, downstream, client, mesh.num_trusted_proxies);
    Ok(Admitted { client, is_https })
}

/// HTTP/2's own limits on lists of headers are wider and answered differently.
fn check_size(request: &RequestHead, limits: &Limits) -> Result<(), LocalReply> {
    if request.target.len() > limits.max_request_line {
        return Err(LocalReply::URI_TOO_LONG);
    }
    if request.fields.len() > limits.max_headers
        || request.fields.size() + request.target.len() as u64 > limits.max_header_bytes as u64
    {
        return Err(LocalReply::HEADER_LIST_TOO_LARGE);
    }
    Ok(())
}

/// HTTP/2 may split cookies; nothing behind us should have to know (RFC 9113 section 8.2.3).
fn join_cookies(fields: &mut Fields) {
    let mut cookies = fields.all(Known::Cookie);
    let (Some(first), Some(second)) = (cookies.next(), cookies.next()) else { return };
    let mut joined = first.to_vec();
    for cookie in std::iter::once(second).chain(cookies) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie);
    }
    fields.set_known(Known::Cookie, &joined);
}

/// Turns absolute-form into origin-form and checks the authority.
fn settle_authority(request: &mut RequestHead) -> Result<(), LocalReply> {
    if request.protocol != Protocol::Http2 && !request.target.starts_with('/') && request.target != "*" {
        let (scheme, rest) = request.target.split_once("://").ok_or(LocalReply::BAD_PATH)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(LocalReply::BAD_PATH);
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        // Two names for one request: RFC 9112 section 3.2.2 has the target win, and then who reads `Host` alone is misled.
        if !authority.eq_ignore_ascii_case(&request.authority) {
            return Err(LocalReply::BAD_REQUEST);
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        request.target = format!("{slash}{path}");
    }
    if request.authority.is_empty() {
        return Err(LocalReply::MISSING_HOST);
    }
    if !is_authority(&request.authority) {
        return Err(LocalReply::BAD_HOST);
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
fn settle_path(request: &mut RequestHead, mesh: &MeshSettings) -> Result<(), LocalReply> {
    let normal = match tidegate_snapshot::normalize(&request.target, mesh.path_normalization) {
        Ok(normal) if normal == request.target => None,
        Ok(normal) => Some(normal.into_owned()),
        Err(_) => return Err(LocalReply::BAD_PATH),
    };
    if let Some(path) = normal {
        request.target = path;
    }
    Ok(())
}

/// Settles which of the connection's options concern the request, removes what they nominate and keeps nothing but a
/// WebSocket's upgrade, so that no later step can be talked out of a header that we set.
fn settle_connection(request: &mut RequestHead) -> Result<(), LocalReply> {
    let fields = &mut request.fields;
    // What clients of proxies said before HTTP/1.1; Envoy obeys it still.
    request.closes = fields.get(Known::ProxyConnection).is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    if !fields.contains(Known::Connection) {
        fields.retain(|known, _| !is_hop_by_hop(known));
        return Ok(());
    }
    let (mut upgrades, mut closes) = (false, false);
    let mut nominated: SmallVec<[HeaderName; 4]> = SmallVec::new();
    let options = fields.all(Known::Connection).flat_map(|value| value.split(|b| *b == b','));
    for option in options.map(<[u8]>::trim_ascii).filter(|option| !option.is_empty()) {
        if option.eq_ignore_ascii_case(b"upgrade") {
            upgrades = true;
        } else if option.eq_ignore_ascii_case(b"close") {
            closes = true;
        } else if !option.eq_ignore_ascii_case(b"keep-alive") && !option.eq_ignore_ascii_case(b"te") {
            // (`te` has a rule of its own, and clients have to nominate it: RFC 9110 section 10.1.4.)
            // A quoted or decorated name is an attempt to get past a comparison of names.
            let name = option.iter().all(|byte| is_token(*byte)).then(|| HeaderName::from_bytes(option).ok()).flatten();
            let name = name.filter(|_| nominated.len() < MAX_NOMINATIONS).ok_or(LocalReply::BAD_REQUEST)?;
            let ours =
                [Known::Host, Known::ContentLength, Known::ForwardedFor, Known::ForwardedProto, Known::ForwardedHost];
            if ours.contains(&Known::of(name.as_str().as_bytes())) {
                return Err(LocalReply::BAD_REQUEST);
            }
            nominated.push(name);
        }
    }
    request.closes |= closes;
    let is_http2 = request.protocol == Protocol::Http2;
    let websocket = match fields.get(Known::Upgrade).filter(|_| upgrades && !is_http2) {
        None => false,
        // Envoy takes a request to change to HTTP/2 for what it is without it.
        Some(protocol) if protocol.eq_ignore_ascii_case(b"h2c") => false,
        Some(protocol) if protocol.eq_ignore_ascii_case(b"websocket") => true,
        Some(_) => return Err(LocalReply::UPGRADE_FAILED),
    };
    if websocket && has_body(fields) {
        // Where the tunnel's first byte is would be anyone's guess.
        return Err(LocalReply::BAD_REQUEST);
    }
    for name in &nominated {
        fields.remove(name.as_str());
    }
    if websocket {
        fields.set_known(Known::Connection, b"Upgrade");
        fields.retain(|known, _| !is_hop_by_hop(known) || matches!(known, Known::Connection | Known::Upgrade));
    } else {
        fields.retain(|known, _| !is_hop_by_hop(known));
    }
    Ok(())
}

/// What concerns the connection alone (RFC 9110 section 7.6.1) and not the framing. `te` stays: who sends the request on
/// decides what becomes of it.
fn is_hop_by_hop(known: Known) -> bool {
    use Known::{Connection, Http2Settings, KeepAlive, ProxyConnection, Upgrade};
    matches!(known, Connection | Upgrade | Http2Settings | KeepAlive | ProxyConnection)
}

/// Whether `te` has `trailers`, the one value that may go on to another hop.
pub(crate) fn accepts_trailers<'a>(te: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut codings = te.flat_map(|value| value.split(|byte| *byte == b','));
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

fn has_body(fields: &Fields) -> bool {
    fields.contains(Known::TransferEncoding) || fields.get(Known::ContentLength).is_some_and(|length| length != b"0")
}

/// The client behind `trusted` proxies: the last but `trusted` of what they say, the peer if they say less.
fn client_address(fields: &Fields, peer: SocketAddr, trusted: u32) -> SocketAddr {
    let Some(from_right) = (trusted as usize).checked_sub(1) else { return peer };
    let hops = fields.all(Known::ForwardedFor).flat_map(|value| value.split(|byte| *byte == b','));
    let hops: SmallVec<[&[u8]; 8]> = hops.map(<[u8]>::trim_ascii).collect();
    let hop = hops.iter().rev().nth(from_right).and_then(|hop| std::str::from_utf8(hop).ok());
    match hop.and_then(|hop| hop.parse::<IpAddr>().ok()) {
        Some(address) => SocketAddr::new(address.to_canonical(), 0),
        None => peer,
    }
}

/// Adds what the backend is told of the client's address and scheme, and returns whether the client used TLS.
fn tell_origin(fields: &mut Fields, downstream: Downstream<'_>, client: SocketAddr, trusted: u32) -> bool {
    let mut hops: SmallVec<[u8; 128]> = SmallVec::new();
    for value in fields.all(Known::ForwardedFor) {
        // What is no text names no hop.
        if value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
            hops.extend_from_slice(value);
            hops.push(b',');
        }
    }
    fields.set_with(Known::ForwardedFor, |text| {
        text.extend_from_slice(&hops);
        append_ip(downstream.peer.ip(), text);
    });
    let is_https = match fields.get(Known::ForwardedProto).filter(|_| trusted > 0) {
        Some(b"https") => true,
        Some(b"http") => false,
        _ => {
            let is_https = downstream.tls.is_some();
            fields.set_known(Known::ForwardedProto, if is_https { b"https" } else { b"http" });
            is_https
        }
    };
    fields.set_with(Known::ExternalAddress, |text| append_ip(client.ip(), text));
    fields.set_with(Known::RequestId, |text| text.extend_from_slice(&request_id()));
    is_https
}

/// A random UUID, version 4.
fn request_id() -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let random = fastrand::u128(..);
    let versioned = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let mut text = [b'-'; 36];
    let places = (0..36).filter(|place| !matches!(place, 8 | 13 | 18 | 23));
    for (digit, place) in places.enumerate() {
        text[place] = HEX[(versioned >> (124 - 4 * digit)) as usize & 0xf];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)), 4711);

    fn request(target: &str, headers: &[(&'static str, &str)]) -> RequestHead {
        let mut request = RequestHead { method: "GET".into(), target: target.into(), ..RequestHead::default() };
        request.authority = "a.com".into();
        for (name, value) in headers {
            match *name {
                "host" => request.authority = (*value).into(),
                name => request.fields.add(&name.to_ascii_lowercase(), value.as_bytes()),
            }
        }
        request
    }

    fn admit_with(
        target: &str,
        headers: &[(&'static str, &str)],
        trusted: u32,
    ) -> Result<(RequestHead, Admitted), LocalReply> {
        let mut request = request(target, headers);
        let mesh = MeshSettings { num_trusted_proxies: trusted, ..MeshSettings::default() };
        let admitted = admit(&mut request, Downstream { peer: PEER, tls: None }, &mesh, &Limits::default())?;
        Ok((request, admitted))
    }

    fn header<'a>(request: &'a RequestHead, name: &str) -> Option<&'a str> {
        request.fields.get_name(name).map(|value| std::str::from_utf8(value).unwrap())
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
        let left: Vec<_> = request
            .fields
            .iter()
            .map(|(name, _)| std::str::from_utf8(name).unwrap())
            .filter(|name| name.starts_with("x-"))
            .collect();
        let mut sorted = left.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, ["x-envoy-external-address", "x-forwarded-for", "x-forwarded-proto", "x-request-id"]);
        assert_eq!(header(&request, "x-envoy-external-address"), Some("192.0.2.7"));
        assert_eq!(header(&request, "x-forwarded-for"), Some("192.0.2.7"));
        assert_eq!(header(&request, "x-forwarded-proto"), Some("http"));
        assert!(!admitted.is_https);
        let id = header(&request, "x-request-id").unwrap();
        assert_eq!((id.len(), &id[14..15]), (36, "4"));
        assert!("89ab".contains(&id[19..20]), "{id}");
    }

    #[test]
    fn the_client_is_counted_from_the_right() {
        let check = |forwarded: &str, trusted: u32, client: &str| {
            let (request, admitted) = admit_with("/", &[("x-forwarded-for", forwarded)], trusted).unwrap();
            assert_eq!(admitted.client.ip().to_string(), client, "{forwarded} {trusted}");
            assert_eq!(header(&request, "x-envoy-external-address"), Some(client));
            assert_eq!(header(&request, "x-forwarded-for").unwrap(), format!("{forwarded},192.0.2.7"));
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
            (admitted.is_https, header(&request, "x-forwarded-proto").unwrap().to_owned())
        };
        assert_eq!(scheme("https", 1), (true, "https".into()));
        assert_eq!(scheme("https", 0), (false, "http".into()));
        assert_eq!(scheme("gopher", 1), (false, "http".into()));
    }

    #[test]
    fn what_a_client_says_of_certificates_goes() {
        let (request, _) = admit_with("/", &[("x-forwarded-client-cert", "URI=spiffe://x")], 0).unwrap();
        assert_eq!(header(&request, "x-forwarded-client-cert"), None);
    }

    #[test]
    fn paths_are_normalized_and_absolute_targets_lose_their_authority() {
        let path = |target: &str, host| admit_with(target, &[("host", host)], 0).map(|(request, _)| request.target);
        assert_eq!(path("/a/../%62?x=/../y", "a.com").unwrap(), "/b?x=/../y");
        assert_eq!(path("http://a.com/a/./b", "a.com").unwrap(), "/a/b");
        assert_eq!(path("http://a.com?q", "a.com").unwrap(), "/?q");
        assert_eq!(path("http://a.com", "a.com").unwrap(), "/");
        assert_eq!(path("/%00", "a.com"), Err(LocalReply::BAD_PATH));
        assert_eq!(path("ftp://a.com/", "a.com"), Err(LocalReply::BAD_PATH));
        assert_eq!(path("*", "a.com"), Err(LocalReply::BAD_PATH));
        let mut options = request("*", &[("connection", "close")]);
        options.method = "OPTIONS".into();
        let (from, limits) = (Downstream { peer: PEER, tls: None }, Limits::default());
        let refused = admit(&mut options, from, &MeshSettings::default(), &limits);
        assert_eq!((refused, options.closes), (Err(LocalReply::ASTERISK), true));
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
        assert!(header(&request, "x-request-id").is_some());
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
