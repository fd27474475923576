//! `ProxyConfig`: settings of one proxy, as MeshConfig's `defaultConfig`.

use std::collections::BTreeMap;

use crate::decode::{Untyped, enumeration, message};
use crate::duration::Duration;

message! {
    /// Settings of one proxy. An absent field means Istio's default, which its user applies.
    pub struct ProxyConfig {
        /// Worker threads; 0 is one per core.
        pub concurrency: Option<i32> => "concurrency" [pending],
        /// 45 s if absent.
        pub drain_duration: Option<Duration> => "drainDuration",
        /// 5 s if absent.
        pub termination_drain_duration: Option<Duration> => "terminationDrainDuration",
        /// 15000 if zero.
        pub proxy_admin_port: i32 => "proxyAdminPort" [pending],
        /// 15020 if zero.
        pub status_port: i32 => "statusPort" [pending],
        pub gateway_topology: Option<Topology> => "gatewayTopology",
        pub proxy_headers: Option<ProxyHeaders> => "proxyHeaders",
        pub connection_settings: Option<ConnectionSettings> => "connectionSettings" [pending],
        pub hold_application_until_proxy_starts: Option<bool> => "holdApplicationUntilProxyStarts"
            [ignored "a gateway has no application beside it"],
        pub extra_stat_tags: Vec<String> => "extraStatTags" [pending],
        pub proxy_stats_matcher: Option<ProxyStatsMatcher> => "proxyStatsMatcher" [pending],
        pub ca_certificates_pem: Vec<String> => "caCertificatesPem" [pending],
        pub private_key_provider: Option<Untyped> => "privateKeyProvider" [pending],
        pub tracing: Option<Untyped> => "tracing" [pending],
        pub proxy_metadata: BTreeMap<String, String> => "proxyMetadata" [pending],
        pub runtime_values: BTreeMap<String, String> => "runtimeValues" [pending],
        pub image: Option<Untyped> => "image" [pending],
        pub config_path: Option<Untyped> => "configPath" [pending],
        pub binary_path: Option<Untyped> => "binaryPath" [pending],
        pub service_cluster: Option<Untyped> => "serviceCluster" [pending],
        pub tracing_service_name: Option<Untyped> => "tracingServiceName" [pending],
        pub discovery_address: Option<Untyped> => "discoveryAddress" [pending],
        pub discovery_refresh_delay: Option<Untyped> => "discoveryRefreshDelay" [pending],
        pub zipkin_address: Option<Untyped> => "zipkinAddress" [pending],
        pub statsd_udp_address: Option<Untyped> => "statsdUdpAddress" [pending],
        pub envoy_metrics_service_address: Option<Untyped> => "envoyMetricsServiceAddress" [pending],
        pub availability_zone: Option<Untyped> => "availabilityZone" [pending],
        pub control_plane_auth_policy: Option<Untyped> => "controlPlaneAuthPolicy" [pending],
        pub custom_config_file: Option<Untyped> => "customConfigFile" [pending],
        pub stat_name_length: Option<Untyped> => "statNameLength" [pending],
        pub proxy_bootstrap_template_path: Option<Untyped> => "proxyBootstrapTemplatePath" [pending],
        pub interception_mode: Option<Untyped> => "interceptionMode" [pending],
        pub sds: Option<Untyped> => "sds" [pending],
        pub envoy_access_log_service: Option<Untyped> => "envoyAccessLogService" [pending],
        pub envoy_metrics_service: Option<Untyped> => "envoyMetricsService" [pending],
        pub mesh_id: Option<Untyped> => "meshId" [pending],
        pub readiness_probe: Option<Untyped> => "readinessProbe" [pending],
        pub file_flush_interval: Option<Untyped> => "fileFlushInterval" [pending],
        pub file_flush_min_size_kb: Option<Untyped> => "fileFlushMinSizeKb" [pending],
        pub stats_compression: Option<Untyped> => "statsCompression" [pending],
    }

    /// What stands in front of the gateway.
    pub struct Topology {
        /// How many proxies before the gateway write `x-forwarded-for` that can be trusted.
        pub num_trusted_proxies: u32 => "numTrustedProxies",
        pub forward_client_cert_details: ForwardClientCertDetails => "forwardClientCertDetails",
        /// Present: every connection must start with a PROXY protocol header.
        pub proxy_protocol: Option<ProxyProtocolConfiguration> => "proxyProtocol",
    }

    /// Has no settings.
    pub struct ProxyProtocolConfiguration {}

    /// Which header fields the proxy writes.
    pub struct ProxyHeaders {
        pub forwarded_client_cert: ForwardClientCertDetails => "forwardedClientCert",
        pub set_current_client_cert_details: Option<SetCurrentClientCertDetails> => "setCurrentClientCertDetails",
        pub request_id: Option<ProxyHeaderSwitch> => "requestId" [pending],
        pub server: Option<ServerHeader> => "server",
        pub attempt_count: Option<ProxyHeaderSwitch> => "attemptCount" [pending],
        pub envoy_debug_headers: Option<ProxyHeaderSwitch> => "envoyDebugHeaders" [pending],
        pub metadata_exchange_headers: Option<MetadataExchangeHeaders> => "metadataExchangeHeaders" [pending],
        pub preserve_http1_header_case: Option<bool> => "preserveHttp1HeaderCase" [pending],
        pub x_forwarded_host: Option<ProxyHeaderSwitch> => "xForwardedHost" [pending],
        pub x_forwarded_port: Option<ProxyHeaderSwitch> => "xForwardedPort" [pending],
    }

    /// A header that can be switched: those on by default have `disabled`, those off by default `enabled`.
    pub struct ProxyHeaderSwitch {
        pub disabled: Option<bool> => "disabled",
        pub enabled: Option<bool> => "enabled",
    }

    /// The `server` field of responses.
    pub struct ServerHeader {
        pub disabled: Option<bool> => "disabled",
        pub value: String => "value",
    }

    /// Whether metadata is exchanged by header.
    pub struct MetadataExchangeHeaders {
        pub mode: MetadataExchangeMode => "mode",
    }

    /// What `x-forwarded-client-cert` says about the client's certificate.
    pub struct SetCurrentClientCertDetails {
        pub subject: Option<bool> => "subject",
        pub cert: Option<bool> => "cert",
        pub chain: Option<bool> => "chain",
        pub dns: Option<bool> => "dns",
        pub uri: Option<bool> => "uri",
    }

    /// Which of the proxy's own statistics are kept.
    pub struct ProxyStatsMatcher {
        pub inclusion_prefixes: Vec<String> => "inclusionPrefixes",
        pub inclusion_suffixes: Vec<String> => "inclusionSuffixes",
        pub inclusion_regexps: Vec<String> => "inclusionRegexps",
    }

    /// Buffers, times and limits of connections (1.31).
    pub struct ConnectionSettings {
        pub profile: ConnectionSettingsProfile => "profile",
        pub listener_per_connection_buffer_limit_bytes: Option<i32> => "listenerPerConnectionBufferLimitBytes",
        pub cluster_per_connection_buffer_limit_bytes: Option<i32> => "clusterPerConnectionBufferLimitBytes",
        pub http_idle_timeout: Option<Duration> => "httpIdleTimeout",
        pub http_max_connection_duration: Option<Duration> => "httpMaxConnectionDuration",
        pub http_drain_timeout: Option<Duration> => "httpDrainTimeout",
        pub http_request_timeout: Option<Duration> => "httpRequestTimeout",
        pub http_request_headers_timeout: Option<Duration> => "httpRequestHeadersTimeout",
        pub http_stream_idle_timeout: Option<Duration> => "httpStreamIdleTimeout",
        pub http_max_stream_duration: Option<Duration> => "httpMaxStreamDuration",
        pub http_max_concurrent_streams: Option<i32> => "httpMaxConcurrentStreams",
        pub http2_initial_stream_window_size: Option<i32> => "http2InitialStreamWindowSize",
        pub http2_initial_connection_window_size: Option<i32> => "http2InitialConnectionWindowSize",
        pub http_headers_with_underscores_action: HeadersWithUnderscoresAction => "httpHeadersWithUnderscoresAction",
        pub http_merge_slashes: Option<bool> => "httpMergeSlashes",
        pub http_path_with_escaped_slashes_action: PathWithEscapedSlashesAction => "httpPathWithEscapedSlashesAction",
        pub listener_connection_limit: Option<i32> => "listenerConnectionLimit",
        pub global_downstream_connection_limit: Option<i32> => "globalDownstreamConnectionLimit",
    }
}

enumeration! {
    /// How `x-forwarded-client-cert` of clients is treated.
    pub enum ForwardClientCertDetails {
        #[default]
        Undefined = "UNDEFINED",
        Sanitize = "SANITIZE",
        ForwardOnly = "FORWARD_ONLY",
        AppendForward = "APPEND_FORWARD",
        SanitizeSet = "SANITIZE_SET",
        AlwaysForwardOnly = "ALWAYS_FORWARD_ONLY",
    }

    /// When metadata is exchanged by header.
    pub enum MetadataExchangeMode {
        #[default]
        Undefined = "UNDEFINED",
        InMesh = "IN_MESH",
    }

    /// Bundle of defaults.
    pub enum ConnectionSettingsProfile {
        #[default]
        Sidecar = "SIDECAR",
        Edge = "EDGE",
    }

    /// Treatment of field names with an underscore.
    pub enum HeadersWithUnderscoresAction {
        #[default]
        Unspecified = "HEADERS_WITH_UNDERSCORES_UNSPECIFIED",
        Allow = "HEADERS_WITH_UNDERSCORES_ALLOW",
        RejectRequest = "HEADERS_WITH_UNDERSCORES_REJECT_REQUEST",
        DropHeader = "HEADERS_WITH_UNDERSCORES_DROP_HEADER",
    }

    /// Treatment of `%2F` and `%5C` in paths.
    pub enum PathWithEscapedSlashesAction {
        #[default]
        Unspecified = "PATH_WITH_ESCAPED_SLASHES_UNSPECIFIED",
        KeepUnchanged = "KEEP_UNCHANGED",
        RejectRequest = "REJECT_REQUEST",
        UnescapeAndRedirect = "UNESCAPE_AND_REDIRECT",
        UnescapeAndForward = "UNESCAPE_AND_FORWARD",
    }
}
