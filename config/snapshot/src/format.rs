//! Envoy's `%COMMAND%` operators, in access logs and in header values.
//!
//! Parsed once when configuration is compiled; the data plane supplies the facts. Source: Envoy, "Access logging",
//! command operators.

mod time;

use std::fmt;

use http::HeaderName;
use serde::{Serialize, Serializer};

pub use time::TimeFormat;

/// One operator. Its text form is what the user wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Operator {
    /// `%START_TIME%`, RFC 3339 in UTC with milliseconds.
    StartTime,
    /// `%START_TIME(%Y-%m-%d)%`.
    StartTimeAs(TimeFormat),
    /// `%REQ(X?Y):Z%`: request header or pseudo header X, else Y, cut after Z bytes.
    RequestHeader(HeaderOperand),
    /// `%RESP(X?Y):Z%`.
    ResponseHeader(HeaderOperand),
    Protocol,
    ResponseCode,
    ResponseFlags,
    ResponseCodeDetails,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    /// Milliseconds from the first byte of the request to the last byte of the response.
    Duration,
    /// Milliseconds to the last byte of the request.
    RequestDuration,
    /// Milliseconds to the first byte of the upstream's response.
    ResponseDuration,
    UpstreamHost,
    UpstreamCluster,
    UpstreamClusterRaw,
    UpstreamLocalAddress,
    DownstreamLocalAddress,
    DownstreamLocalPort,
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamDirectRemoteAddress,
    DownstreamDirectRemoteAddressWithoutPort,
    RequestedServerName,
    /// `TLSv1.3`.
    DownstreamTlsVersion,
    /// By OpenSSL's name.
    DownstreamTlsCipher,
    /// Of the client's certificate, RFC 2253.
    DownstreamPeerSubject,
    DownstreamPeerIssuer,
    /// All of them, comma-separated.
    DownstreamPeerUriSan,
    DownstreamPeerDnsSan,
    /// SHA-256 of the client's certificate, hexadecimal.
    DownstreamPeerFingerprint256,
    DownstreamPeerSerial,
    /// PEM, percent-encoded.
    DownstreamPeerCert,
    DownstreamPeerCertStart,
    DownstreamPeerCertStartAs(TimeFormat),
    DownstreamPeerCertEnd,
    DownstreamPeerCertEndAs(TimeFormat),
    /// Why the handshake with the client failed.
    DownstreamTransportFailureReason,
    /// URIs in the certificate that the gateway showed, comma-separated.
    DownstreamLocalUriSan,
    RouteName,
    VirtualHostName,
    Hostname,
    UpstreamRequestAttemptCount,
    /// One of Envoy's operators about what this gateway's requests do not have: traces, metadata of filters.
    Absent,
}

/// Beginnings of the names of such operators: those that Envoy 1.40 knows and nothing here fills.
const ABSENT: [&str; 43] = [
    "ACCESS_LOG_TYPE",
    "CEL",
    "CLUSTER_METADATA",
    "COMMON_DURATION",
    "CONNECTION_ID",
    "DOWNSTREAM_DIRECT_REMOTE_PORT",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_HEADER_BYTES",
    "DOWNSTREAM_LOCAL_",
    "DOWNSTREAM_PEER_",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_TLS_",
    "DOWNSTREAM_WIRE_BYTES",
    "DYNAMIC_METADATA",
    "EMIT_TIME",
    "ENVIRONMENT",
    "FILTER_CHAIN_NAME",
    "FILTER_STATE",
    "GRPC_STATUS",
    "LISTENER_METADATA",
    "METADATA",
    "PATH",
    "QUERY_PARAM",
    "REQUEST_HEADERS_BYTES",
    "RESPONSE_FLAGS_LONG",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "RESPONSE_TX_DURATION",
    "ROUNDTRIP_DURATION",
    "SPAN_ID",
    "STREAM_ID",
    "TLS_JA",
    "TRACE_ID",
    "TRAILER",
    "UNIQUE_ID",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_HEADER_BYTES",
    "UPSTREAM_METADATA",
    "UPSTREAM_P",
    "UPSTREAM_REMOTE_",
    "UPSTREAM_TLS_",
    "UPSTREAM_WIRE_BYTES",
];

/// Header names of an operator; `:method` and its kin are kept apart from real headers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderOperand {
    pub name: HeaderField,
    pub alternative: Option<HeaderField>,
    /// Longest value in bytes.
    pub max_length: Option<usize>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderField {
    Method,
    Path,
    Authority,
    Scheme,
    Name(HeaderName),
}

/// Why a text is no template.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    #[error("a `%` opens an operator and nothing closes it; write `%%` for a percent sign")]
    Unclosed,
    #[error("unknown operator `%{0}%`")]
    Unknown(String),
    #[error("`{0}` is no header name")]
    HeaderName(String),
}

/// A piece of a template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    Literal(String),
    Operator(Operator),
}

/// A text with operators. Serializes as it was written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

/// What a request's owner knows about it.
pub trait Facts {
    /// Appends the value of `operator`; false, with nothing appended, if there is none.
    fn append(&self, operator: &Operator, out: &mut String) -> bool;
}

impl Template {
    /// # Errors
    /// An operator that Envoy does not have or that is not closed.
    pub fn parse(source: &str) -> Result<Self, FormatError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = source;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let close = end_of_operator(rest).ok_or(FormatError::Unclosed)?;
            if close == 0 {
                literal.push('%');
            } else {
                if !literal.is_empty() {
                    parts.push(Part::Literal(std::mem::take(&mut literal)));
                }
                parts.push(Part::Operator(Operator::parse(&rest[..close])?));
            }
            rest = &rest[close + 1..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { source: source.to_owned(), parts })
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Operators of the text that are known and never filled, as written without arguments.
    pub fn unfilled(&self) -> Vec<&str> {
        let mut names = Vec::new();
        let mut rest = self.source.as_str();
        while let Some(at) = rest.find('%') {
            rest = &rest[at + 1..];
            let Some(close) = end_of_operator(rest) else { break };
            let operator = &rest[..close];
            let name = &operator[..operator.find(['(', ':']).unwrap_or(close)];
            if !name.is_empty() && Operator::parse(operator) == Ok(Operator::Absent) && !names.contains(&name) {
                names.push(name);
            }
            rest = &rest[close + 1..];
        }
        names
    }

    /// The text without operators, if there are none.
    pub fn as_literal(&self) -> Option<String> {
        match &self.parts[..] {
            [] => Some(String::new()),
            [Part::Literal(text)] => Some(text.clone()),
            _ => None,
        }
    }

    /// Appends the filled template; what is missing becomes `missing`.
    pub fn render(&self, facts: &impl Facts, missing: &str, out: &mut String) {
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.push_str(text),
                Part::Operator(operator) => {
                    if !facts.append(operator, out) {
                        out.push_str(missing);
                    }
                }
            }
        }
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

impl Operator {
    fn parse(text: &str) -> Result<Self, FormatError> {
        let (name, operand) = match text.find('(') {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        if let Some(operand) = operand {
            let close = operand.find(')').ok_or_else(|| FormatError::Unknown(text.to_owned()))?;
            let max_length = match operand[close + 1..].strip_prefix(':') {
                Some(length) => Some(length.parse().map_err(|_| FormatError::Unknown(text.to_owned()))?),
                None if close + 1 == operand.len() => None,
                None => return Err(FormatError::Unknown(text.to_owned())),
            };
            let header = |max_length| HeaderOperand::parse(&operand[..close], max_length);
            return match name {
                "REQ" => Ok(Self::RequestHeader(header(max_length)?)),
                "RESP" => Ok(Self::ResponseHeader(header(max_length)?)),
                "START_TIME" if operand[..close].is_empty() => Ok(Self::StartTime),
                "START_TIME" if max_length.is_none() => TimeFormat::parse(&operand[..close])
                    .map(Self::StartTimeAs)
                    .ok_or_else(|| FormatError::Unknown(text.to_owned())),
                "DOWNSTREAM_PEER_CERT_V_START" | "DOWNSTREAM_PEER_CERT_V_END" if max_length.is_none() => {
                    let format = TimeFormat::parse(&operand[..close]);
                    let format = format.ok_or_else(|| FormatError::Unknown(text.to_owned()))?;
                    Ok(if name.ends_with("START") {
                        Self::DownstreamPeerCertStartAs(format)
                    } else {
                        Self::DownstreamPeerCertEndAs(format)
                    })
                }
                _ if is_absent(name) => Ok(Self::Absent),
                _ => Err(FormatError::Unknown(text.to_owned())),
            };
        }
        Ok(match name {
            "START_TIME" => Self::StartTime,
            "PROTOCOL" => Self::Protocol,
            "RESPONSE_CODE" => Self::ResponseCode,
            "RESPONSE_FLAGS" => Self::ResponseFlags,
            "RESPONSE_CODE_DETAILS" => Self::ResponseCodeDetails,
            "CONNECTION_TERMINATION_DETAILS" => Self::ConnectionTerminationDetails,
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Self::UpstreamTransportFailureReason,
            "BYTES_RECEIVED" => Self::BytesReceived,
            "BYTES_SENT" => Self::BytesSent,
            "DURATION" => Self::Duration,
            "REQUEST_DURATION" => Self::RequestDuration,
            "RESPONSE_DURATION" => Self::ResponseDuration,
            "UPSTREAM_HOST" => Self::UpstreamHost,
            "UPSTREAM_CLUSTER" => Self::UpstreamCluster,
            "UPSTREAM_CLUSTER_RAW" => Self::UpstreamClusterRaw,
            "UPSTREAM_LOCAL_ADDRESS" => Self::UpstreamLocalAddress,
            "DOWNSTREAM_LOCAL_ADDRESS" => Self::DownstreamLocalAddress,
            "DOWNSTREAM_LOCAL_PORT" => Self::DownstreamLocalPort,
            "DOWNSTREAM_REMOTE_ADDRESS" => Self::DownstreamRemoteAddress,
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Self::DownstreamRemoteAddressWithoutPort,
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Self::DownstreamDirectRemoteAddress,
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Self::DownstreamDirectRemoteAddressWithoutPort,
            "REQUESTED_SERVER_NAME" => Self::RequestedServerName,
            "DOWNSTREAM_TLS_VERSION" => Self::DownstreamTlsVersion,
            "DOWNSTREAM_TLS_CIPHER" => Self::DownstreamTlsCipher,
            "DOWNSTREAM_PEER_SUBJECT" => Self::DownstreamPeerSubject,
            "DOWNSTREAM_PEER_ISSUER" => Self::DownstreamPeerIssuer,
            "DOWNSTREAM_PEER_URI_SAN" => Self::DownstreamPeerUriSan,
            "DOWNSTREAM_PEER_DNS_SAN" => Self::DownstreamPeerDnsSan,
            "DOWNSTREAM_PEER_FINGERPRINT_256" => Self::DownstreamPeerFingerprint256,
            "DOWNSTREAM_PEER_SERIAL" => Self::DownstreamPeerSerial,
            "DOWNSTREAM_PEER_CERT" => Self::DownstreamPeerCert,
            "DOWNSTREAM_PEER_CERT_V_START" => Self::DownstreamPeerCertStart,
            "DOWNSTREAM_PEER_CERT_V_END" => Self::DownstreamPeerCertEnd,
            "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Self::DownstreamTransportFailureReason,
            "DOWNSTREAM_LOCAL_URI_SAN" => Self::DownstreamLocalUriSan,
            "ROUTE_NAME" => Self::RouteName,
            "VIRTUAL_HOST_NAME" => Self::VirtualHostName,
            "HOSTNAME" => Self::Hostname,
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Self::UpstreamRequestAttemptCount,
            _ if is_absent(text) => Self::Absent,
            _ => return Err(FormatError::Unknown(text.to_owned())),
        })
    }

    /// Whether JSON logs show the value as a number.
    pub fn is_number(&self) -> bool {
        matches!(
            self,
            Self::ResponseCode
                | Self::BytesReceived
                | Self::BytesSent
                | Self::Duration
                | Self::RequestDuration
                | Self::ResponseDuration
                | Self::DownstreamLocalPort
                | Self::UpstreamRequestAttemptCount
        )
    }
}

/// Where the `%` is that closes an operator; its operand, in brackets, may have some of its own.
fn end_of_operator(text: &str) -> Option<usize> {
    let named = text.find(|c: char| !(c.is_ascii_uppercase() || c == '_')).unwrap_or(text.len());
    let operand = match text[named..].strip_prefix('(') {
        Some(operand) if named > 0 => named + 1 + operand.find(')')?,
        _ => 0,
    };
    text[operand..].find('%').map(|at| operand + at)
}

fn is_absent(name: &str) -> bool {
    ABSENT.iter().any(|absent| name.starts_with(absent))
}

impl HeaderOperand {
    fn parse(text: &str, max_length: Option<usize>) -> Result<Self, FormatError> {
        let (name, alternative) = match text.split_once('?') {
            Some((name, alternative)) => (name, Some(HeaderField::parse(alternative)?)),
            None => (text, None),
        };
        Ok(Self { name: HeaderField::parse(name)?, alternative, max_length })
    }
}

impl HeaderField {
    fn parse(text: &str) -> Result<Self, FormatError> {
        Ok(match &*text.to_ascii_lowercase() {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" | "host" => Self::Authority,
            ":scheme" => Self::Scheme,
            name => Self::Name(name.parse().map_err(|_| FormatError::HeaderName(text.to_owned()))?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;
    impl Facts for Fixed {
        fn append(&self, operator: &Operator, out: &mut String) -> bool {
            match operator {
                Operator::ResponseCode => out.push_str("200"),
                Operator::RequestHeader(h) if h.name == HeaderField::Path => out.push_str("/p"),
                _ => return false,
            }
            true
        }
    }

    #[test]
    fn templates_keep_literals_and_fill_operators() {
        let check = |template: &str, expected: &str| {
            let mut out = String::new();
            Template::parse(template).unwrap().render(&Fixed, "-", &mut out);
            assert_eq!(out, expected, "{template}");
        };
        check("", "");
        check("plain", "plain");
        check("100%% of %RESPONSE_CODE%", "100% of 200");
        check("\"%REQ(:PATH)%\" %REQ(X-A?:METHOD):12% %DURATION%", "\"/p\" - -");
        check("%START_TIME()%", "-");
        check("%START_TIME(%Y-%m)%%RESPONSE_CODE%", "-200");
        check("%DOWNSTREAM_TLS_VERSION% %DYNAMIC_METADATA(istio.mixer:status)% %FILTER_STATE(a:PLAIN):9%", "- - -");
        check("(%RESPONSE_CODE%)", "(200)");
    }

    #[test]
    fn operators_that_do_not_exist_are_refused() {
        for bad in
            ["%", "50% off", "%NO_SUCH%", "%REQ(a b)%", "%REQ(x%", "%REQ(x)y%", "%START_TIME(%Q)%", "%START_TIME(%Y%"]
        {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
