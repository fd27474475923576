//! `DestinationRule` (istio/api `destination_rule.proto`).

use std::collections::BTreeMap;

use crate::decode::{enumeration, message};
use crate::duration::Duration;
use crate::networking::PortSelector;

message! {
    /// What applies to traffic for a service after routing.
    pub struct DestinationRule {
        pub host: String => "host",
        pub traffic_policy: Option<Box<TrafficPolicy>> => "trafficPolicy",
        pub subsets: Vec<Subset> => "subsets",
        /// `.`, `*` or namespaces; empty means the mesh's default.
        pub export_to: Vec<String> => "exportTo",
        pub workload_selector: Option<MatchLabelsSelector> => "workloadSelector",
    }

    /// Workloads of the object's namespace, by labels (`istio.type.v1beta1.WorkloadSelector`).
    pub struct MatchLabelsSelector {
        pub match_labels: BTreeMap<String, String> => "matchLabels",
    }

    /// Policies of one service, port or subset.
    pub struct TrafficPolicy {
        pub load_balancer: Option<LoadBalancerSettings> => "loadBalancer",
        pub connection_pool: Option<ConnectionPoolSettings> => "connectionPool",
        pub outlier_detection: Option<OutlierDetection> => "outlierDetection" [pending],
        pub tls: Option<ClientTlsSettings> => "tls",
        pub port_level_settings: Vec<PortTrafficPolicy> => "portLevelSettings",
        pub tunnel: Option<TunnelSettings> => "tunnel" [pending],
        pub proxy_protocol: Option<ProxyProtocol> => "proxyProtocol" [pending],
        pub retry_budget: Option<RetryBudget> => "retryBudget" [pending],
    }

    /// Policies of one port; replace the service's four blocks as a unit.
    pub struct PortTrafficPolicy {
        pub port: Option<PortSelector> => "port",
        pub load_balancer: Option<LoadBalancerSettings> => "loadBalancer",
        pub connection_pool: Option<ConnectionPoolSettings> => "connectionPool",
        pub outlier_detection: Option<OutlierDetection> => "outlierDetection" [pending],
        pub tls: Option<ClientTlsSettings> => "tls",
    }

    /// TCP inside HTTP CONNECT or POST.
    pub struct TunnelSettings {
        /// CONNECT (also if empty) or POST.
        pub protocol: String => "protocol",
        pub target_host: String => "targetHost",
        pub target_port: u32 => "targetPort",
    }

    /// PROXY protocol header to the upstream.
    pub struct ProxyProtocol {
        pub version: ProxyProtocolVersion => "version",
    }

    /// Share of active requests that may be retries.
    pub struct RetryBudget {
        /// 0-100; 20 if absent.
        pub percent: Option<f64> => "percent",
        /// 3 if zero.
        pub min_retry_concurrency: u32 => "minRetryConcurrency",
        pub budget_interval: Option<Duration> => "budgetInterval",
    }

    /// The endpoints of a service that carry some labels.
    pub struct Subset {
        pub name: String => "name",
        pub labels: BTreeMap<String, String> => "labels",
        pub traffic_policy: Option<Box<TrafficPolicy>> => "trafficPolicy",
    }

    /// How an endpoint is picked.
    pub struct LoadBalancerSettings {
        pub simple: Option<SimpleLb> => "simple",
        pub consistent_hash: Option<ConsistentHashLb> => "consistentHash" [pending],
        pub locality_lb_setting: Option<LocalityLoadBalancerSetting> => "localityLbSetting" [pending],
        pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting> => "zoneAwareLbSetting" [pending],
        /// Deprecated in favour of `warmup`.
        pub warmup_duration_secs: Option<Duration> => "warmupDurationSecs" [pending],
        pub warmup: Option<WarmupConfiguration> => "warmup" [pending],
    }
    one of ("simple", "consistentHash");

    /// Soft affinity by a hash of one request attribute.
    pub struct ConsistentHashLb {
        pub http_header_name: Option<String> => "httpHeaderName",
        pub http_cookie: Option<HttpCookie> => "httpCookie",
        pub use_source_ip: Option<bool> => "useSourceIp",
        pub http_query_parameter_name: Option<String> => "httpQueryParameterName",
        pub ring_hash: Option<RingHash> => "ringHash",
        pub maglev: Option<MagLev> => "maglev",
        /// Deprecated in favour of `ringHash.minimumRingSize`.
        pub minimum_ring_size: u64 => "minimumRingSize",
    }
    one of ("httpHeaderName", "httpCookie", "useSourceIp", "httpQueryParameterName"), ("ringHash", "maglev");

    /// Ring hash of the consistent-hash policy.
    pub struct RingHash {
        pub minimum_ring_size: u64 => "minimumRingSize",
    }

    /// Maglev of the consistent-hash policy.
    pub struct MagLev {
        /// A prime below 5,000,011.
        pub table_size: u64 => "tableSize",
    }

    /// The cookie that is hashed.
    pub struct HttpCookie {
        pub name: String => "name",
        pub path: String => "path",
        /// Set: the proxy makes a missing cookie; zero makes a session cookie.
        pub ttl: Option<Duration> => "ttl",
        pub attributes: Vec<HttpCookieAttribute> => "attributes",
    }

    /// An attribute of a cookie that the proxy makes.
    pub struct HttpCookieAttribute {
        pub name: String => "name",
        pub value: String => "value",
    }

    /// Slow start of new endpoints.
    pub struct WarmupConfiguration {
        pub duration: Option<Duration> => "duration",
        /// 0-100; 10 if absent.
        pub minimum_percent: Option<f64> => "minimumPercent",
        /// At least 1; 1 if absent.
        pub aggression: Option<f64> => "aggression",
    }

    /// Limits towards one upstream cluster.
    pub struct ConnectionPoolSettings {
        pub tcp: Option<TcpSettings> => "tcp",
        pub http: Option<HttpSettings> => "http",
    }

    /// Settings of HTTP and TCP upstream connections.
    pub struct TcpSettings {
        pub max_connections: i32 => "maxConnections" [pending],
        pub connect_timeout: Option<Duration> => "connectTimeout",
        pub tcp_keepalive: Option<TcpKeepalive> => "tcpKeepalive" [pending],
        pub max_connection_duration: Option<Duration> => "maxConnectionDuration" [pending],
        /// Of TCP proxying; zero is none, absent 1 h. Idle HTTP connections do not obey it yet.
        pub idle_timeout: Option<Duration> => "idleTimeout",
    }

    /// SO_KEEPALIVE.
    pub struct TcpKeepalive {
        pub probes: u32 => "probes",
        pub time: Option<Duration> => "time",
        pub interval: Option<Duration> => "interval",
    }

    /// Settings of HTTP upstream connections.
    pub struct HttpSettings {
        pub http1_max_pending_requests: i32 => "http1MaxPendingRequests" [pending],
        pub http2_max_requests: i32 => "http2MaxRequests" [pending],
        pub max_requests_per_connection: i32 => "maxRequestsPerConnection" [pending],
        pub max_retries: i32 => "maxRetries" [pending],
        pub idle_timeout: Option<Duration> => "idleTimeout" [pending],
        pub h2_upgrade_policy: H2UpgradePolicy => "h2UpgradePolicy",
        pub use_client_protocol: bool => "useClientProtocol",
        pub max_concurrent_streams: i32 => "maxConcurrentStreams" [pending],
        pub http2_keep_alive: Option<ConnectionKeepalive> => "http2KeepAlive" [pending],
    }

    /// HTTP/2 PING.
    pub struct ConnectionKeepalive {
        pub interval: Option<Duration> => "interval",
        pub timeout: Option<Duration> => "timeout",
    }

    /// When an endpoint is taken out for a while.
    pub struct OutlierDetection {
        /// Deprecated; Istio ignores it.
        pub consecutive_errors: i32 => "consecutiveErrors",
        pub split_external_local_origin_errors: bool => "splitExternalLocalOriginErrors",
        pub consecutive_local_origin_failures: Option<u32> => "consecutiveLocalOriginFailures",
        pub consecutive_gateway_errors: Option<u32> => "consecutiveGatewayErrors",
        pub consecutive_5xx_errors: Option<u32> => "consecutive5xxErrors",
        pub interval: Option<Duration> => "interval",
        pub base_ejection_time: Option<Duration> => "baseEjectionTime",
        pub max_ejection_percent: i32 => "maxEjectionPercent",
        pub min_health_percent: i32 => "minHealthPercent",
        pub outlier_detection_http_error_codes: Vec<u32> => "outlierDetectionHttpErrorCodes",
    }

    /// TLS towards the upstream.
    pub struct ClientTlsSettings {
        pub mode: ClientTlsMode => "mode",
        pub client_certificate: String => "clientCertificate",
        pub private_key: String => "privateKey",
        pub ca_certificates: String => "caCertificates",
        pub credential_name: String => "credentialName",
        pub subject_alt_names: Vec<String> => "subjectAltNames",
        pub sni: String => "sni",
        pub insecure_skip_verify: Option<bool> => "insecureSkipVerify",
        pub ca_crl: String => "caCrl",
    }

    /// Preference of near endpoints.
    pub struct LocalityLoadBalancerSetting {
        pub distribute: Vec<Distribute> => "distribute",
        pub failover: Vec<Failover> => "failover",
        pub failover_priority: Vec<String> => "failoverPriority",
        pub enabled: Option<bool> => "enabled",
    }

    /// Shares of traffic from one locality to others.
    pub struct Distribute {
        /// `region/zone/subzone`, each may be `*`.
        pub from: String => "from",
        /// Locality to percentage; the sum is 100.
        pub to: BTreeMap<String, u32> => "to",
    }

    /// Where a region's traffic goes when the region fails.
    pub struct Failover {
        pub from: String => "from",
        pub to: String => "to",
    }

    /// Envoy's zone-aware routing within the region tiers.
    pub struct ZoneAwareLoadBalancerSetting {
        pub enabled: Option<bool> => "enabled",
        pub failover: Vec<Failover> => "failover",
        pub failover_priority: Vec<String> => "failoverPriority",
        pub min_cluster_size: Option<u64> => "minClusterSize",
    }
}

enumeration! {
    /// `loadBalancer.simple`.
    pub enum SimpleLb {
        #[default]
        Unspecified = "UNSPECIFIED",
        LeastConn = "LEAST_CONN",
        Random = "RANDOM",
        Passthrough = "PASSTHROUGH",
        RoundRobin = "ROUND_ROBIN",
        LeastRequest = "LEAST_REQUEST",
    }

    /// `connectionPool.http.h2UpgradePolicy`; `Default` is the mesh's.
    pub enum H2UpgradePolicy {
        #[default]
        Default = "DEFAULT",
        DoNotUpgrade = "DO_NOT_UPGRADE",
        Upgrade = "UPGRADE",
    }

    /// `tls.mode` of a DestinationRule: a block without mode means no TLS.
    pub enum ClientTlsMode {
        #[default]
        Disable = "DISABLE",
        Simple = "SIMPLE",
        Mutual = "MUTUAL",
        IstioMutual = "ISTIO_MUTUAL",
    }

    /// Version of the PROXY protocol.
    pub enum ProxyProtocolVersion {
        #[default]
        V1 = "V1",
        V2 = "V2",
    }
}
