//! Answers that the gateway gives itself, with Envoy's status, body, flag and details.
//!
//! Sources: Envoy, "Local reply modification" and `StreamInfo::ResponseCodeDetails`; what each says is a contract with
//! dashboards and scripts that were written for Istio.

use std::borrow::Cow;
use std::io::Write;

use bytes::Bytes;
use http::StatusCode;
use tidegate_snapshot::ServerHeader;

use crate::message::{Fields, Known, ResponseHead};
use crate::telemetry::ResponseFlags;

/// Istio's value of the `server` header at gateways.
pub(crate) const SERVER_NAME: &str = "istio-envoy";

/// Details of what a route answers by itself.
pub(crate) const DIRECT_RESPONSE: &str = "direct_response";

/// How an upstream failed before it answered: the part of the body that differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ResetReason {
    RemoteConnectionFailure,
    ConnectionTimeout,
    ConnectionTermination,
    RemoteReset,
    ProtocolError,
}

impl ResetReason {
    fn text(self) -> &'static str {
        match self {
            Self::RemoteConnectionFailure => "remote connection failure",
            Self::ConnectionTimeout => "connection timeout",
            Self::ConnectionTermination => "connection termination",
            Self::RemoteReset => "remote reset",
            Self::ProtocolError => "protocol error",
        }
    }

    fn detail(self) -> &'static str {
        match self {
            Self::RemoteConnectionFailure => "remote_connection_failure",
            Self::ConnectionTimeout => "connection_timeout",
            Self::ConnectionTermination => "connection_termination",
            Self::RemoteReset => "remote_reset",
            Self::ProtocolError => "protocol_error",
        }
    }

    fn flag(self) -> ResponseFlags {
        match self {
            Self::RemoteConnectionFailure | Self::ConnectionTimeout => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
            Self::ConnectionTermination => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            Self::RemoteReset => ResponseFlags::UPSTREAM_REMOTE_RESET,
            Self::ProtocolError => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
        }
    }
}

/// One answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LocalReply {
    pub(crate) status: u16,
    /// `text/plain`.
    pub(crate) body: Cow<'static, [u8]>,
    pub(crate) flags: ResponseFlags,
    /// `%RESPONSE_CODE_DETAILS%`.
    pub(crate) details: Cow<'static, str>,
    pub(crate) location: Option<String>,
}

impl LocalReply {
    pub(crate) const BAD_REQUEST: Self =
        Self::fixed(400, "Bad Request", ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "http1.codec_error");
    pub(crate) const MISSING_HOST: Self = Self::fixed(400, "", ResponseFlags::NONE, "missing_host_header");
    pub(crate) const BAD_HOST: Self =
        Self::fixed(400, "Bad Request", ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "http.invalid_authority");
    pub(crate) const BAD_PATH: Self = Self::fixed(400, "", ResponseFlags::NONE, "path_normalization_failed");
    pub(crate) const UPGRADE_FAILED: Self = Self::fixed(403, "", ResponseFlags::NONE, "upgrade_failed");
    pub(crate) const NO_ROUTE: Self = Self::fixed(404, "", ResponseFlags::NO_ROUTE_FOUND, "route_not_found");
    /// `OPTIONS *` asks for the server as a whole, which has no routes.
    pub(crate) const ASTERISK: Self = Self::fixed(404, "", ResponseFlags::NONE, "absolute_path_rejected");
    pub(crate) const CONNECT: Self = Self::fixed(405, "", ResponseFlags::NONE, "connect_not_allowed");
    pub(crate) const HEADER_TIMEOUT: Self =
        Self::fixed(408, "request header timeout", ResponseFlags::NONE, "request_header_timeout");
    pub(crate) const STREAM_TIMEOUT: Self =
        Self::fixed(408, "stream timeout", ResponseFlags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout");
    pub(crate) const URI_TOO_LONG: Self = Self::fixed(414, "", ResponseFlags::NONE, "request_headers_too_large");
    /// RFC 9110 section 15.5.20.
    pub(crate) const MISDIRECTED: Self = Self::fixed(421, "", ResponseFlags::NONE, "misdirected_request");
    pub(crate) const LOW_VERSION: Self =
        Self::fixed(426, "Upgrade Required", ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR, "low_version");
    pub(crate) const HEADERS_TOO_LARGE: Self = Self::fixed(
        431,
        "Request Header Fields Too Large",
        ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
        "http1.headers_too_large",
    );
    /// As [`Self::HEADERS_TOO_LARGE`], over HTTP/2, whose streams Envoy resets.
    pub(crate) const HEADER_LIST_TOO_LARGE: Self = Self::fixed(
        431,
        "Request Header Fields Too Large",
        ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
        "http2.header_list_size_too_large",
    );
    pub(crate) const TOO_MANY_HEADERS: Self = Self::fixed(
        431,
        "Request Header Fields Too Large",
        ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
        "http1.too_many_headers",
    );
    /// A transfer coding other than `chunked`.
    pub(crate) const UNKNOWN_CODING: Self = Self::fixed(
        501,
        "Not Implemented",
        ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
        "http1.invalid_transfer_encoding",
    );
    pub(crate) const LENGTH_AND_CHUNKS: Self = Self::fixed(
        400,
        "Bad Request",
        ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
        "http1.content_length_and_chunked_not_allowed",
    );
    pub(crate) const INTERNAL: Self = Self::fixed(500, "", ResponseFlags::NONE, "internal_error");
    pub(crate) const NO_CLUSTER: Self = Self::fixed(503, "", ResponseFlags::NO_CLUSTER_FOUND, "cluster_not_found");
    pub(crate) const NO_HEALTHY_UPSTREAM: Self =
        Self::fixed(503, "no healthy upstream", ResponseFlags::NO_HEALTHY_UPSTREAM, "no_healthy_upstream");
    pub(crate) const REQUEST_TIMEOUT: Self =
        Self::fixed(504, "upstream request timeout", ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, "response_timeout");

    const fn fixed(status: u16, body: &'static str, flags: ResponseFlags, details: &'static str) -> Self {
        let body = Cow::Borrowed(body.as_bytes());
        Self { status, body, flags, details: Cow::Borrowed(details), location: None }
    }

    /// The upstream gave no answer. `transport_failure` says what the operating system said; `retried` that this was
    /// not the first try.
    pub(crate) fn upstream_reset(reason: ResetReason, transport_failure: Option<&str>, retried: bool) -> Self {
        let prefix = if retried { "retried and the latest reset reason" } else { "reset reason" };
        let mut body =
            format!("upstream connect error or disconnect/reset before headers. {prefix}: {}", reason.text());
        let mut details = format!("upstream_reset_before_response_started{{{}", reason.detail());
        if let Some(failure) = transport_failure {
            body.push_str(", transport failure reason: ");
            body.push_str(failure);
            details.push('|');
            // Details stand unquoted in text logs.
            details.extend(failure.chars().map(|c| if c.is_whitespace() { '_' } else { c }));
        }
        details.push('}');
        let status = if reason == ResetReason::ProtocolError { 502 } else { 503 };
        Self {
            status,
            body: Cow::Owned(body.into_bytes()),
            flags: reason.flag(),
            details: details.into(),
            location: None,
        }
    }

    /// The details if the head of a backend's answer was passed on before.
    pub(crate) fn details_after_start(&self) -> Cow<'static, str> {
        match self.details.strip_prefix("upstream_reset_before_response_started") {
            Some(reason) => format!("upstream_reset_after_response_started{reason}").into(),
            None => self.details.clone(),
        }
    }

    pub(crate) fn redirect(status: u16, location: String) -> Self {
        Self { location: Some(location), ..Self::fixed(status, "", ResponseFlags::NONE, DIRECT_RESPONSE) }
    }

    pub(crate) fn direct_response(status: u16, body: Option<&[u8]>) -> Self {
        let body = Cow::Owned(body.map(<[u8]>::to_vec).unwrap_or_default());
        Self { body, ..Self::fixed(status, "", ResponseFlags::NONE, DIRECT_RESPONSE) }
    }

    /// The answer to an authority that wants to see whether the gateway speaks for a name (RFC 8555 section 8.3).
    pub(crate) fn acme_challenge(key_authorization: &str) -> Self {
        let body = Cow::Owned(key_authorization.as_bytes().to_vec());
        Self { body, ..Self::fixed(200, "", ResponseFlags::NONE, "acme_challenge") }
    }

    /// The answer as it is sent: to a gRPC client 200 with a `grpc-status`, since it looks at nothing else.
    pub(crate) fn response(&self, client: Client, server: &ServerHeader) -> (ResponseHead, Bytes) {
        let (status, body) = match client {
            Client::Grpc => (200, &[][..]),
            Client::Http => (self.status, &*self.body),
        };
        let mut head = ResponseHead { status, ..ResponseHead::default() };
        let fields = &mut head.fields;
        match client {
            Client::Grpc => {
                fields.add("content-type", b"application/grpc");
                fields.add("grpc-status", grpc_status(self.status).as_bytes());
                if !self.body.is_empty() {
                    fields.add("grpc-message", grpc_message(&self.body).as_bytes());
                }
            }
            Client::Http => {
                if !body.is_empty() {
                    // Writing to memory does not fail.
                    fields.set_with(Known::ContentLength, |text| _ = write!(text, "{}", body.len()));
                    fields.add("content-type", b"text/plain");
                }
            }
        }
        if let Some(location) = self.location.as_deref().filter(|it| !it.bytes().any(|b| b < b' ' || b == 0x7f)) {
            fields.add("location", location.as_bytes());
        }
        match server {
            ServerHeader::Default | ServerHeader::PassThrough => fields.add("server", SERVER_NAME.as_bytes()),
            ServerHeader::Value(value) => fields.add("server", value.as_bytes()),
        }
        (head, Bytes::copy_from_slice(body))
    }

    /// The answer to bytes that never became a request: HTTP/1.1, after which the connection is closed.
    pub(crate) fn raw(&self) -> String {
        let reason =
            StatusCode::from_u16(self.status).ok().and_then(|code| code.canonical_reason()).unwrap_or_default();
        let date = httpdate();
        let content_type = if self.body.is_empty() { "" } else { "content-type: text/plain\r\n" };
        format!(
            "HTTP/1.1 {} {reason}\r\ncontent-length: {}\r\n{content_type}date: {date}\r\nserver: {SERVER_NAME}\r\n\
             connection: close\r\n\r\n{}",
            self.status,
            self.body.len(),
            String::from_utf8_lossy(&self.body),
        )
    }
}

fn httpdate() -> String {
    httpdate::fmt_http_date(std::time::SystemTime::now())
}

/// What kind of answer a client understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Client {
    Http,
    Grpc,
}

impl Client {
    /// By the request's `content-type`: `application/grpc` alone or followed by `+`, as Envoy has it.
    pub(crate) fn of(fields: &Fields) -> Self {
        let content_type = fields.get(Known::ContentType).unwrap_or_default();
        match content_type.strip_prefix(b"application/grpc") {
            Some([] | [b'+', ..]) => Self::Grpc,
            _ => Self::Http,
        }
    }
}

pub(crate) fn may_have_body(status: u16) -> bool {
    status >= 200 && status != 204 && status != 304
}

/// Envoy's `Grpc::Utility::httpToGrpcStatus`.
fn grpc_status(status: u16) -> &'static str {
    match status {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502..=504 => "14",
        _ => "2",
    }
}

/// Percent-encodes what a gRPC message may not hold as it is.
fn grpc_message(body: &[u8]) -> String {
    use std::fmt::Write;
    body.iter().fold(String::with_capacity(body.len()), |mut text, byte| {
        match byte {
            b' '..=b'~' if *byte != b'%' => text.push(char::from(*byte)),
            // Writing to a text cannot fail.
            _ => _ = write!(text, "%{byte:02X}"),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(reply: &LocalReply, client: Client) -> (ResponseHead, Bytes) {
        reply.response(client, &ServerHeader::Default)
    }

    fn value<'a>(head: &'a ResponseHead, name: &str) -> Option<&'a str> {
        head.fields.get_name(name).map(|value| std::str::from_utf8(value).unwrap())
    }

    #[test]
    fn replies_say_what_envoy_says() {
        let (header, body) = response(&LocalReply::NO_ROUTE, Client::Http);
        assert_eq!((header.status, value(&header, "content-length")), (404, None));
        assert!(body.is_empty() && value(&header, "content-type").is_none());
        assert_eq!(value(&header, "server"), Some("istio-envoy"));

        let (header, body) = response(&LocalReply::NO_HEALTHY_UPSTREAM, Client::Http);
        assert_eq!((header.status, &*body), (503, &b"no healthy upstream"[..]));
        assert_eq!(value(&header, "content-type"), Some("text/plain"));

        let reply = LocalReply::upstream_reset(
            ResetReason::RemoteConnectionFailure,
            Some("delayed connect error: Connection refused"),
            true,
        );
        assert_eq!(
            String::from_utf8_lossy(&reply.body),
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote \
             connection failure, transport failure reason: delayed connect error: Connection refused"
        );
        assert_eq!(
            reply.details,
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        assert_eq!((reply.status, reply.flags.to_string().as_str()), (503, "UF"));
        assert_eq!(LocalReply::upstream_reset(ResetReason::ProtocolError, None, false).status, 502);
    }

    #[test]
    fn a_grpc_client_gets_a_grpc_status() {
        let check = |reply: LocalReply, status: &str, message: Option<&str>| {
            let (header, body) = response(&reply, Client::Grpc);
            assert_eq!((header.status, body.len()), (200, 0));
            assert_eq!(value(&header, "content-type"), Some("application/grpc"));
            assert_eq!(value(&header, "grpc-status"), Some(status));
            assert_eq!(value(&header, "grpc-message"), message);
        };
        check(LocalReply::NO_ROUTE, "12", None);
        check(LocalReply::NO_HEALTHY_UPSTREAM, "14", Some("no healthy upstream"));
        check(LocalReply::direct_response(418, Some(b"50% \xff")), "2", Some("50%25 %FF"));
    }

    #[test]
    fn grpc_is_told_by_the_content_type() {
        for (content_type, client) in [
            ("application/grpc", Client::Grpc),
            ("application/grpc+proto", Client::Grpc),
            ("application/grpc; x", Client::Http),
            ("application/grpc-web", Client::Http),
            ("text/plain", Client::Http),
        ] {
            let mut fields = Fields::default();
            fields.add("content-type", content_type.as_bytes());
            assert_eq!(Client::of(&fields), client, "{content_type}");
        }
    }
}
