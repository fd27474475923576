use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::HeaderName;
use tidegate_snapshot::{EndpointAddress, Facts, HeaderField, HeaderOperand, Headers, Operator};

use super::ResponseFlags;
use super::text::{append_ip, append_number, append_socket_address};
use crate::tls::{PeerCertificate, PeerFacts, TlsInfo};

/// What there is to say about a request that has ended (or, in header values, about one that runs).
///
/// It borrows everything, so that making one costs nothing when nobody asks. What does not exist is `None`; an empty
/// text counts as missing, too.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestFacts<'a> {
    /// When the first byte of the request came.
    pub(crate) start: SystemTime,
    pub(crate) method: &'a str,
    /// `http` or `https`.
    pub(crate) scheme: &'a str,
    /// Host header or `:authority`, after rewrites.
    pub(crate) authority: &'a str,
    /// Path and query as the upstream got them, or would have.
    pub(crate) path: &'a str,
    /// Path and query from before a rewrite: `%REQ(X-ENVOY-ORIGINAL-PATH)%`. Wins over a header of that name.
    pub(crate) original_path: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2`.
    pub(crate) protocol: &'a str,
    /// Headers as the upstream got them, or would have.
    pub(crate) request_headers: &'a dyn Headers,
    /// Headers that the client got.
    pub(crate) response_headers: Option<&'a dyn Headers>,
    /// Status that the client got; 0 if none.
    pub(crate) response_code: u16,
    pub(crate) flags: ResponseFlags,
    /// `via_upstream`, `route_not_found`.
    pub(crate) response_code_details: Option<&'a str>,
    pub(crate) connection_termination_details: Option<&'a str>,
    pub(crate) upstream_transport_failure_reason: Option<&'a str>,
    /// What failed in the handshake with the client.
    pub(crate) downstream_transport_failure_reason: Option<&'a str>,
    /// Of the request's body.
    pub(crate) bytes_received: u64,
    /// Of the response's body.
    pub(crate) bytes_sent: u64,
    /// To the last byte of the response.
    pub(crate) duration: Option<Duration>,
    /// To the last byte of the request.
    pub(crate) request_duration: Option<Duration>,
    /// To the first byte of the upstream's response.
    pub(crate) response_duration: Option<Duration>,
    pub(crate) upstream_host: Option<&'a EndpointAddress>,
    pub(crate) upstream_cluster: Option<&'a str>,
    pub(crate) upstream_local_address: Option<SocketAddr>,
    pub(crate) downstream_local_address: Option<SocketAddr>,
    /// The client's, as far as trusted proxies tell it; port 0 if they do.
    pub(crate) downstream_remote_address: Option<SocketAddr>,
    /// The peer's of the connection.
    pub(crate) downstream_direct_remote_address: Option<SocketAddr>,
    pub(crate) requested_server_name: Option<&'a str>,
    /// Of the client's connection; none if that is plaintext.
    pub(crate) tls: Option<&'a TlsInfo>,
    pub(crate) route_name: Option<&'a str>,
    pub(crate) virtual_host_name: Option<&'a str>,
    /// Name of this machine.
    pub(crate) hostname: Option<&'a str>,
    /// Tries to send the request upstream; 0 if there was none.
    pub(crate) attempt_count: u32,
}

impl<'a> RequestFacts<'a> {
    /// Facts of a request of which only the head is known.
    pub(crate) fn new(start: SystemTime, method: &'a str, path: &'a str, request_headers: &'a dyn Headers) -> Self {
        Self {
            start,
            method,
            scheme: "http",
            authority: "",
            path,
            original_path: None,
            protocol: "",
            request_headers,
            response_headers: None,
            response_code: 0,
            flags: ResponseFlags::NONE,
            response_code_details: None,
            connection_termination_details: None,
            upstream_transport_failure_reason: None,
            downstream_transport_failure_reason: None,
            bytes_received: 0,
            bytes_sent: 0,
            duration: None,
            request_duration: None,
            response_duration: None,
            upstream_host: None,
            upstream_cluster: None,
            upstream_local_address: None,
            downstream_local_address: None,
            downstream_remote_address: None,
            downstream_direct_remote_address: None,
            requested_server_name: None,
            tls: None,
            route_name: None,
            virtual_host_name: None,
            hostname: None,
            attempt_count: 0,
        }
    }

    fn peer(&self) -> Option<&'a PeerFacts> {
        Some(self.tls?.peer.as_ref()?.facts())
    }

    fn append_request_header(&self, field: &HeaderField, out: &mut String) -> bool {
        match field {
            HeaderField::Method => text(Some(self.method), out),
            HeaderField::Path => text(Some(self.path), out),
            HeaderField::Authority => text(Some(self.authority), out),
            HeaderField::Scheme => text(Some(self.scheme), out),
            HeaderField::Name(name) if name == "x-envoy-original-path" && self.original_path.is_some() => {
                text(self.original_path, out)
            }
            HeaderField::Name(name) => header(Some(self.request_headers), name, out),
        }
    }

    fn append_response_header(&self, field: &HeaderField, out: &mut String) -> bool {
        match field {
            HeaderField::Name(name) => header(self.response_headers, name, out),
            HeaderField::Method | HeaderField::Path | HeaderField::Authority | HeaderField::Scheme => false,
        }
    }
}

impl Facts for RequestFacts<'_> {
    fn append(&self, operator: &Operator, out: &mut String) -> bool {
        match operator {
            Operator::StartTime => shown(Some(humantime::format_rfc3339_millis(self.start)), out),
            Operator::StartTimeAs(format) => format.append(self.start, out),
            Operator::Absent => false,
            Operator::RequestHeader(operand) => cut(operand, out, |field, out| self.append_request_header(field, out)),
            Operator::ResponseHeader(operand) => {
                cut(operand, out, |field, out| self.append_response_header(field, out))
            }
            Operator::Protocol => text(Some(self.protocol), out),
            Operator::ResponseCode => number(Some(self.response_code), out),
            Operator::ResponseFlags if self.flags.is_empty() => text(Some("-"), out),
            Operator::ResponseFlags => shown(Some(self.flags), out),
            Operator::ResponseCodeDetails => text(self.response_code_details, out),
            Operator::ConnectionTerminationDetails => text(self.connection_termination_details, out),
            // One word, as Envoy has it.
            Operator::UpstreamTransportFailureReason => {
                text(self.upstream_transport_failure_reason.map(|reason| reason.replace(' ', "_")).as_deref(), out)
            }
            Operator::DownstreamTransportFailureReason => {
                text(self.downstream_transport_failure_reason.map(|reason| reason.replace(' ', "_")).as_deref(), out)
            }
            Operator::BytesReceived => number(Some(self.bytes_received), out),
            Operator::BytesSent => number(Some(self.bytes_sent), out),
            Operator::Duration => milliseconds(self.duration, out),
            Operator::RequestDuration => milliseconds(self.request_duration, out),
            Operator::ResponseDuration => milliseconds(self.response_duration, out),
            Operator::UpstreamHost => match self.upstream_host {
                Some(EndpointAddress::Socket(host)) => {
                    append_socket_address(*host, out);
                    true
                }
                other => shown(other, out),
            },
            Operator::UpstreamCluster | Operator::UpstreamClusterRaw => text(self.upstream_cluster, out),
            Operator::UpstreamLocalAddress => address(self.upstream_local_address, out),
            Operator::DownstreamLocalAddress => address(self.downstream_local_address, out),
            Operator::DownstreamLocalPort => number(self.downstream_local_address.map(|it| it.port()), out),
            Operator::DownstreamRemoteAddress => address(self.downstream_remote_address, out),
            Operator::DownstreamRemoteAddressWithoutPort => ip(self.downstream_remote_address, out),
            Operator::DownstreamDirectRemoteAddress => address(self.downstream_direct_remote_address, out),
            Operator::DownstreamDirectRemoteAddressWithoutPort => ip(self.downstream_direct_remote_address, out),
            Operator::RequestedServerName => text(self.requested_server_name, out),
            Operator::DownstreamTlsVersion => text(self.tls.map(|tls| tls.version.as_str()), out),
            Operator::DownstreamTlsCipher => text(self.tls.map(TlsInfo::cipher), out),
            Operator::DownstreamPeerSubject => text(self.peer().map(|peer| &*peer.subject), out),
            Operator::DownstreamPeerIssuer => text(self.peer().map(|peer| &*peer.issuer), out),
            Operator::DownstreamPeerUriSan => list(self.peer().map(|peer| &*peer.uri_sans), out),
            Operator::DownstreamPeerDnsSan => list(self.peer().map(|peer| &*peer.dns_sans), out),
            Operator::DownstreamPeerFingerprint256 => text(self.peer().map(|peer| &*peer.fingerprint), out),
            Operator::DownstreamPeerSerial => text(self.peer().map(|peer| &*peer.serial), out),
            Operator::DownstreamPeerCert => {
                let certificate = self.tls.and_then(|tls| tls.peer.as_ref());
                shown(certificate.map(PeerCertificate::url_encoded_pem), out)
            }
            Operator::DownstreamPeerCertStart => time(self.peer().and_then(|peer| peer.not_before), out),
            Operator::DownstreamPeerCertEnd => time(self.peer().and_then(|peer| peer.not_after), out),
            Operator::DownstreamPeerCertStartAs(format) => {
                self.peer().and_then(|peer| peer.not_before).is_some_and(|at| format.append(at, out))
            }
            Operator::DownstreamPeerCertEndAs(format) => {
                self.peer().and_then(|peer| peer.not_after).is_some_and(|at| format.append(at, out))
            }
            Operator::DownstreamLocalUriSan => list(self.tls.map(TlsInfo::local_uri_sans), out),
            Operator::RouteName => text(self.route_name, out),
            Operator::VirtualHostName => text(self.virtual_host_name, out),
            Operator::Hostname => text(self.hostname, out),
            Operator::UpstreamRequestAttemptCount => number(Some(self.attempt_count), out),
        }
    }
}

/// Appends the first of the operand's headers that exists, cut to its longest length.
fn cut(operand: &HeaderOperand, out: &mut String, append: impl Fn(&HeaderField, &mut String) -> bool) -> bool {
    let start = out.len();
    let found =
        append(&operand.name, out) || operand.alternative.as_ref().is_some_and(|alternative| append(alternative, out));
    if let Some(max_length) = operand.max_length {
        let mut end = out.len().min(start.saturating_add(max_length));
        while !out.is_char_boundary(end) {
            end -= 1;
        }
        out.truncate(end);
    }
    found
}

/// The first value of a header; bytes that are no UTF-8 become U+FFFD.
fn header(headers: Option<&dyn Headers>, name: &HeaderName, out: &mut String) -> bool {
    let Some(value) = headers.and_then(|headers| headers.first(name)) else { return false };
    // Nearly all are text, which the check for that passes faster than the search for what is not.
    match std::str::from_utf8(value) {
        Ok(text) => out.push_str(text),
        Err(_) => out.push_str(&String::from_utf8_lossy(value)),
    }
    true
}

fn text(value: Option<&str>, out: &mut String) -> bool {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return false };
    out.push_str(value);
    true
}

/// Comma-separated.
fn list(values: Option<&[String]>, out: &mut String) -> bool {
    let Some(values) = values.filter(|values| !values.is_empty()) else { return false };
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(value);
    }
    true
}

fn time(value: Option<SystemTime>, out: &mut String) -> bool {
    shown(value.map(humantime::format_rfc3339_millis), out)
}

fn shown(value: Option<impl std::fmt::Display>, out: &mut String) -> bool {
    // Writing to a `String` does not fail.
    value.is_some_and(|value| write!(out, "{value}").is_ok())
}

fn number(value: Option<impl Into<u64>>, out: &mut String) -> bool {
    value.map(|value| append_number(value.into(), out)).is_some()
}

fn milliseconds(value: Option<Duration>, out: &mut String) -> bool {
    // Of more than u64 holds of them nobody will be asked.
    number(value.map(|value| u64::try_from(value.as_millis()).unwrap_or(u64::MAX)), out)
}

/// Addresses of IPv4 clients are shown as such on sockets of both families.
fn address(value: Option<SocketAddr>, out: &mut String) -> bool {
    value.map(|value| append_socket_address(SocketAddr::new(value.ip().to_canonical(), value.port()), out)).is_some()
}

fn ip(value: Option<SocketAddr>, out: &mut String) -> bool {
    value.map(|value| append_ip(value.ip().to_canonical(), out)).is_some()
}
