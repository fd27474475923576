//! `VirtualService` (istio/api `virtual_service.proto`).

use std::collections::BTreeMap;

use crate::decode::{Bytes, Decode, Decoder, Enforcement, FieldSchema, Schema, enumeration, message};
use crate::duration::Duration;
use crate::node::Node;

message! {
    /// Routing of requests that are addressed to some hosts.
    pub struct VirtualService {
        /// Names, IPs or wildcards; empty makes it a delegate.
        pub hosts: Vec<String> => "hosts",
        /// `name`, `ns/name`, `./name` or `mesh`; empty means `mesh`.
        pub gateways: Vec<String> => "gateways",
        pub http: Vec<HttpRoute> => "http",
        pub tls: Vec<TlsRoute> => "tls",
        pub tcp: Vec<TcpRoute> => "tcp",
        /// `.`, `*` or namespaces; empty means the mesh's default.
        pub export_to: Vec<String> => "exportTo",
    }

    /// A service, by name, that traffic is sent to.
    pub struct Destination {
        pub host: String => "host",
        pub subset: String => "subset",
        pub port: Option<PortSelector> => "port",
    }

    /// One rule of `http`: the first one that matches takes the request.
    pub struct HttpRoute {
        pub name: String => "name",
        /// Entries are ORed; none matches everything.
        pub r#match: Vec<HttpMatchRequest> => "match",
        pub route: Vec<HttpRouteDestination> => "route",
        pub redirect: Option<Box<HttpRedirect>> => "redirect",
        pub direct_response: Option<Box<HttpDirectResponse>> => "directResponse",
        pub delegate: Option<Box<Delegate>> => "delegate" [pending],
        pub rewrite: Option<Box<HttpRewrite>> => "rewrite",
        pub timeout: Option<Duration> => "timeout",
        pub retries: Option<Box<HttpRetry>> => "retries" [pending],
        pub fault: Option<Box<HttpFaultInjection>> => "fault" [pending],
        pub mirror: Option<Box<Destination>> => "mirror" [pending],
        pub mirrors: Vec<HttpMirrorPolicy> => "mirrors" [pending],
        /// Deprecated in favour of `mirrorPercentage`; the CRD has it under both names.
        pub mirror_percent: Option<u32> => "mirrorPercent" | "mirror_percent" [pending],
        pub mirror_percentage: Option<Percent> => "mirrorPercentage" [pending],
        pub cors_policy: Option<Box<CorsPolicy>> => "corsPolicy" [pending],
        pub headers: Option<Box<Headers>> => "headers",
    }

    /// The VirtualService that a rule hands its requests to.
    pub struct Delegate {
        pub name: String => "name",
        /// Empty: the namespace of the root VirtualService.
        pub namespace: String => "namespace",
    }

    /// Changes to header fields on the way up and on the way back.
    pub struct Headers {
        pub request: Option<HeaderOperations> => "request",
        pub response: Option<HeaderOperations> => "response",
    }

    /// Removal comes first, then `set` (overwrite or create), then `add` (append).
    pub struct HeaderOperations {
        pub set: BTreeMap<String, String> => "set",
        pub add: BTreeMap<String, String> => "add",
        pub remove: Vec<String> => "remove",
    }

    /// One rule of `tls`.
    pub struct TlsRoute {
        pub r#match: Vec<TlsMatchAttributes> => "match",
        pub route: Vec<RouteDestination> => "route",
    }

    /// One rule of `tcp`.
    pub struct TcpRoute {
        pub r#match: Vec<L4MatchAttributes> => "match",
        pub route: Vec<RouteDestination> => "route",
    }

    /// Conditions on a request, all of which must hold.
    pub struct HttpMatchRequest {
        pub name: String => "name",
        pub uri: Option<StringMatch> => "uri",
        pub scheme: Option<StringMatch> => "scheme",
        pub method: Option<StringMatch> => "method",
        pub authority: Option<StringMatch> => "authority",
        /// Field name to condition; `StringMatch::Unset` asks for presence.
        pub headers: BTreeMap<String, StringMatch> => "headers",
        /// Port of the Gateway's server; zero is any.
        pub port: u32 => "port",
        pub source_labels: BTreeMap<String, String> => "sourceLabels",
        /// Replaces the VirtualService's own list for this entry.
        pub gateways: Vec<String> => "gateways",
        pub query_params: BTreeMap<String, StringMatch> => "queryParams",
        pub ignore_uri_case: bool => "ignoreUriCase",
        /// Conditions that must *not* hold; `StringMatch::Unset` asks for absence.
        pub without_headers: BTreeMap<String, StringMatch> => "withoutHeaders",
        pub source_namespace: String => "sourceNamespace",
        pub stat_prefix: String => "statPrefix" [pending],
    }

    /// A destination with its share of an HTTP rule's requests.
    pub struct HttpRouteDestination {
        pub destination: Option<Destination> => "destination",
        /// Relative to the sum over the rule's destinations.
        pub weight: i32 => "weight",
        pub headers: Option<Box<Headers>> => "headers",
    }

    /// A destination with its share of a TLS or TCP rule's connections.
    pub struct RouteDestination {
        pub destination: Option<Destination> => "destination",
        pub weight: i32 => "weight",
    }

    /// Conditions on a connection.
    pub struct L4MatchAttributes {
        pub destination_subnets: Vec<String> => "destinationSubnets"
            [ignored "it concerns sidecars, and this is a gateway"],
        pub port: u32 => "port",
        pub source_subnet: String => "sourceSubnet"
            [ignored "it concerns sidecars, and this is a gateway"],
        pub source_labels: BTreeMap<String, String> => "sourceLabels",
        pub gateways: Vec<String> => "gateways",
        pub source_namespace: String => "sourceNamespace",
    }

    /// Conditions on a TLS connection that is not terminated.
    pub struct TlsMatchAttributes {
        pub sni_hosts: Vec<String> => "sniHosts",
        pub destination_subnets: Vec<String> => "destinationSubnets"
            [ignored "it concerns sidecars, and this is a gateway"],
        pub port: u32 => "port",
        pub source_labels: BTreeMap<String, String> => "sourceLabels",
        pub gateways: Vec<String> => "gateways",
        pub source_namespace: String => "sourceNamespace",
    }

    /// Answers with a `location` instead of forwarding.
    pub struct HttpRedirect {
        /// Replaces the whole path.
        pub uri: String => "uri",
        pub authority: String => "authority",
        pub port: Option<u32> => "port",
        pub derive_port: Option<RedirectPortSelection> => "derivePort",
        pub scheme: String => "scheme",
        /// Zero means 301.
        pub redirect_code: u32 => "redirectCode",
        /// Replaces the prefix that the rule matched.
        pub prefix_rewrite: String => "prefixRewrite",
    }
    one of ("port", "derivePort");

    /// Answers with a fixed status and body.
    pub struct HttpDirectResponse {
        pub status: u32 => "status",
        pub body: Option<HttpBody> => "body",
    }

    /// Body of a direct response.
    pub struct HttpBody {
        pub string: Option<String> => "string",
        /// Base64 in the file.
        pub bytes: Option<Bytes> => "bytes",
    }
    one of ("string", "bytes");

    /// Changes path or authority before forwarding.
    pub struct HttpRewrite {
        /// Replaces the prefix that matched, or the whole path after an exact or regex match.
        pub uri: String => "uri",
        pub authority: String => "authority",
        pub uri_regex_rewrite: Option<RegexRewrite> => "uriRegexRewrite",
    }

    /// Replaces every occurrence of an RE2 expression in the path.
    pub struct RegexRewrite {
        pub r#match: String => "match",
        /// May hold `\1` to `\9`.
        pub rewrite: String => "rewrite",
    }

    /// When and how often a failed request is tried again.
    pub struct HttpRetry {
        pub attempts: i32 => "attempts",
        pub per_try_timeout: Option<Duration> => "perTryTimeout",
        /// Comma list of conditions and statuses.
        pub retry_on: String => "retryOn",
        pub retry_remote_localities: Option<bool> => "retryRemoteLocalities",
        pub retry_ignore_previous_hosts: Option<bool> => "retryIgnorePreviousHosts",
        pub backoff: Option<Duration> => "backoff",
    }

    /// Cross-origin resource sharing.
    pub struct CorsPolicy {
        /// Deprecated in favour of `allowOrigins`.
        pub allow_origin: Vec<String> => "allowOrigin",
        pub allow_origins: Vec<StringMatch> => "allowOrigins",
        pub allow_methods: Vec<String> => "allowMethods",
        pub allow_headers: Vec<String> => "allowHeaders",
        pub expose_headers: Vec<String> => "exposeHeaders",
        pub max_age: Option<Duration> => "maxAge",
        pub allow_credentials: Option<bool> => "allowCredentials",
        pub unmatched_preflights: UnmatchedPreflights => "unmatchedPreflights",
    }

    /// Delays and failures that are made on purpose.
    pub struct HttpFaultInjection {
        pub delay: Option<Delay> => "delay",
        pub abort: Option<Abort> => "abort",
    }

    /// A delay before forwarding.
    pub struct Delay {
        /// Deprecated in favour of `percentage`.
        pub percent: i32 => "percent",
        pub fixed_delay: Option<Duration> => "fixedDelay",
        pub exponential_delay: Option<Duration> => "exponentialDelay",
        pub percentage: Option<Percent> => "percentage",
    }
    one of ("fixedDelay", "exponentialDelay");

    /// An answer instead of forwarding.
    pub struct Abort {
        pub http_status: Option<i32> => "httpStatus",
        pub grpc_status: Option<String> => "grpcStatus",
        pub http2_error: Option<String> => "http2Error",
        pub percentage: Option<Percent> => "percentage",
    }
    one of ("httpStatus", "grpcStatus", "http2Error");

    /// A destination that gets a copy of requests.
    pub struct HttpMirrorPolicy {
        pub destination: Option<Destination> => "destination",
        pub percentage: Option<Percent> => "percentage",
    }

    /// Port of a service, by number.
    pub struct PortSelector {
        pub number: u32 => "number",
    }

    /// 0.0-100.0.
    pub struct Percent {
        pub value: f64 => "value",
    }
}

enumeration! {
    /// Port in the `location` of a redirect that names none.
    pub enum RedirectPortSelection {
        #[default]
        FromProtocolDefault = "FROM_PROTOCOL_DEFAULT",
        FromRequestPort = "FROM_REQUEST_PORT",
    }

    /// What becomes of a preflight whose origin is not allowed.
    pub enum UnmatchedPreflights {
        #[default]
        Unspecified = "UNSPECIFIED",
        Forward = "FORWARD",
        Ignore = "IGNORE",
    }
}

/// A condition on a text. `Unset` is the `{}` of the file: in header and query conditions it asks for presence.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum StringMatch {
    #[default]
    Unset,
    Exact(String),
    /// A plain string prefix, not by path segment.
    Prefix(String),
    /// RE2 syntax; must match the whole text.
    Regex(String),
}

impl Decode for StringMatch {
    const EXPECTS: &'static str = "a mapping with one of `exact`, `prefix`, `regex`";

    fn schema() -> Option<&'static Schema> {
        static SCHEMA: Schema = Schema {
            name: "StringMatch",
            fields: &[
                FieldSchema::of::<String>("exact"),
                FieldSchema::of::<String>("prefix"),
                FieldSchema::of::<String>("regex"),
            ],
        };
        Some(&SCHEMA)
    }

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        let entries = decoder.open::<Self>(node)?;
        let mut result = StringMatch::Unset;
        for entry in entries {
            let variant: fn(String) -> StringMatch = match &*entry.key {
                "exact" => StringMatch::Exact,
                "prefix" => StringMatch::Prefix,
                "regex" => StringMatch::Regex,
                _ => {
                    decoder.unknown_field(entry);
                    continue;
                }
            };
            let mut text: Option<String> = None;
            decoder.field(entry, Enforcement::Enforced, &mut text);
            if let Some(text) = text {
                result = variant(text);
            }
        }
        decoder.one_of(entries, &["exact", "prefix", "regex"]);
        decoder.close();
        Some(result)
    }
}
