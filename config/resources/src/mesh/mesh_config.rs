//! `MeshConfig`: settings of the whole mesh.

use std::collections::BTreeMap;

use super::ProxyConfig;
use crate::decode::{Untyped, enumeration, message};
use crate::duration::Duration;
use crate::networking::{
    ClientTlsSettings, ConnectionPoolSettings, HttpRetry, LocalityLoadBalancerSetting, OutlierDetection, TcpKeepalive,
    ZoneAwareLoadBalancerSetting,
};

message! {
    /// Settings of the whole mesh. An absent field means Istio's default, which its user applies.
    pub struct MeshConfig {
        /// 10 s if absent.
        pub connect_timeout: Option<Duration> => "connectTimeout",
        pub protocol_detection_timeout: Option<Duration> => "protocolDetectionTimeout" [pending],
        pub tcp_keepalive: Option<TcpKeepalive> => "tcpKeepalive" [pending],
        pub ingress_class: String => "ingressClass" [pending],
        pub ingress_service: String => "ingressService" [pending],
        pub ingress_controller_mode: IngressControllerMode => "ingressControllerMode" [pending],
        pub ingress_selector: String => "ingressSelector" [pending],
        pub enable_tracing: Option<bool> => "enableTracing" [pending],
        /// Empty: no access log; `/dev/stdout` is the usual value.
        pub access_log_file: String => "accessLogFile",
        pub access_log_format: String => "accessLogFormat",
        pub access_log_encoding: AccessLogEncoding => "accessLogEncoding",
        pub disable_envoy_listener_log: bool => "disableEnvoyListenerLog",
        pub default_config: Option<ProxyConfig> => "defaultConfig",
        /// Sidecars only.
        pub outbound_traffic_policy: Option<OutboundTrafficPolicy> => "outboundTrafficPolicy"
            [ignored "it concerns sidecars, and this is a gateway"],
        /// Sidecars only.
        pub inbound_traffic_policy: Option<InboundTrafficPolicy> => "inboundTrafficPolicy"
            [ignored "it concerns sidecars, and this is a gateway"],
        /// True if absent.
        pub enable_auto_mtls: Option<bool> => "enableAutoMtls" [pending],
        /// `cluster.local` if empty.
        pub trust_domain: String => "trustDomain",
        pub trust_domain_aliases: Vec<String> => "trustDomainAliases" [pending],
        pub default_service_export_to: Vec<String> => "defaultServiceExportTo",
        pub default_virtual_service_export_to: Vec<String> => "defaultVirtualServiceExportTo",
        pub default_destination_rule_export_to: Vec<String> => "defaultDestinationRuleExportTo",
        /// `istio-system` if empty.
        pub root_namespace: String => "rootNamespace",
        pub locality_lb_setting: Option<LocalityLoadBalancerSetting> => "localityLbSetting" [pending],
        pub zone_aware_lb_setting: Option<ZoneAwareLoadBalancerSetting> => "zoneAwareLbSetting" [pending],
        /// 60 s if absent.
        pub dns_refresh_rate: Option<Duration> => "dnsRefreshRate",
        pub h2_upgrade_policy: MeshH2UpgradePolicy => "h2UpgradePolicy",
        pub service_settings: Option<Untyped> => "serviceSettings" [pending],
        pub service_scope_configs: Option<Untyped> => "serviceScopeConfigs" [pending],
        /// True if absent.
        pub enable_prometheus_merge: Option<bool> => "enablePrometheusMerge" [pending],
        pub extension_providers: Option<Untyped> => "extensionProviders" [pending],
        pub default_providers: Option<DefaultProviders> => "defaultProviders" [pending],
        /// ORed selectors of the namespaces whose configuration is read; empty reads all.
        pub discovery_selectors: Vec<LabelSelector> => "discoverySelectors" [pending],
        pub path_normalization: Option<ProxyPathNormalization> => "pathNormalization",
        pub default_http_retry_policy: Option<HttpRetry> => "defaultHttpRetryPolicy" [pending],
        pub default_inbound_http_retry_policy: Option<HttpRetry> => "defaultInboundHttpRetryPolicy" [pending],
        pub default_traffic_policy: Option<DefaultTrafficPolicy> => "defaultTrafficPolicy",
        pub mesh_mtls: Option<TlsConfig> => "meshMTLS" [pending],
        pub tls_defaults: Option<TlsConfig> => "tlsDefaults",
        pub service_entry_visibility: Option<Untyped> => "serviceEntryVisibility" [pending],
        pub ca_certificates: Option<Untyped> => "caCertificates" [pending],
        pub ca: Option<Untyped> => "ca" [pending],
        pub certificates: Option<Untyped> => "certificates" [pending],
        pub config_sources: Option<Untyped> => "configSources" [pending],
        pub proxy_listen_port: Option<Untyped> => "proxyListenPort" [pending],
        pub proxy_inbound_listen_port: Option<Untyped> => "proxyInboundListenPort" [pending],
        pub proxy_http_port: Option<Untyped> => "proxyHttpPort" [pending],
        pub hbone_idle_timeout: Option<Untyped> => "hboneIdleTimeout" [pending],
        pub enable_envoy_access_log_service: Option<Untyped> => "enableEnvoyAccessLogService" [pending],
        pub inbound_cluster_stat_name: Option<Untyped> => "inboundClusterStatName" [pending],
        pub outbound_cluster_stat_name: Option<Untyped> => "outboundClusterStatName" [pending],
        pub verify_certificate_at_client: Option<Untyped> => "verifyCertificateAtClient" [pending],
    }

    /// What sidecars do with unknown destinations.
    pub struct OutboundTrafficPolicy {
        pub mode: OutboundTrafficPolicyMode => "mode",
        pub tls: Option<ClientTlsSettings> => "tls",
    }

    /// Where sidecars send inbound traffic.
    pub struct InboundTrafficPolicy {
        pub mode: InboundTrafficPolicyMode => "mode",
    }

    /// Telemetry providers that apply when nothing else is said.
    pub struct DefaultProviders {
        pub tracing: Vec<String> => "tracing",
        pub metrics: Vec<String> => "metrics",
        pub access_logging: Vec<String> => "accessLogging",
    }

    /// Kubernetes' label selector.
    pub struct LabelSelector {
        pub match_labels: BTreeMap<String, String> => "matchLabels",
        pub match_expressions: Vec<LabelSelectorRequirement> => "matchExpressions",
    }

    /// One expression of a label selector.
    pub struct LabelSelectorRequirement {
        pub key: String => "key",
        /// In, NotIn, Exists or DoesNotExist.
        pub operator: String => "operator",
        pub values: Vec<String> => "values",
    }

    /// How paths are normalized before routing.
    pub struct ProxyPathNormalization {
        pub normalization: NormalizationType => "normalization",
    }

    /// Blocks that fill a DestinationRule's absent ones.
    pub struct DefaultTrafficPolicy {
        pub connection_pool: Option<ConnectionPoolSettings> => "connectionPool",
        pub outlier_detection: Option<OutlierDetection> => "outlierDetection" [pending],
    }

    /// Versions, curves and suites of TLS.
    pub struct TlsConfig {
        pub min_protocol_version: TlsConfigProtocol => "minProtocolVersion",
        pub ecdh_curves: Vec<String> => "ecdhCurves",
        pub cipher_suites: Vec<String> => "cipherSuites",
    }
}

enumeration! {
    /// Which Ingress objects are read.
    pub enum IngressControllerMode {
        #[default]
        Unspecified = "UNSPECIFIED",
        Off = "OFF",
        Default = "DEFAULT",
        Strict = "STRICT",
    }

    /// Form of the access log's lines.
    pub enum AccessLogEncoding {
        #[default]
        Text = "TEXT",
        Json = "JSON",
    }

    /// `outboundTrafficPolicy.mode`; a block without mode means `REGISTRY_ONLY`.
    pub enum OutboundTrafficPolicyMode {
        #[default]
        RegistryOnly = "REGISTRY_ONLY",
        AllowAny = "ALLOW_ANY",
        AllowAnyDynamicDns = "ALLOW_ANY_DYNAMIC_DNS",
    }

    /// `inboundTrafficPolicy.mode`.
    pub enum InboundTrafficPolicyMode {
        #[default]
        Passthrough = "PASSTHROUGH",
        Localhost = "LOCALHOST",
    }

    /// `h2UpgradePolicy` of the mesh.
    pub enum MeshH2UpgradePolicy {
        #[default]
        DoNotUpgrade = "DO_NOT_UPGRADE",
        Upgrade = "UPGRADE",
    }

    /// `pathNormalization.normalization`; `Default` means `Base`.
    pub enum NormalizationType {
        #[default]
        Default = "DEFAULT",
        None = "NONE",
        Base = "BASE",
        MergeSlashes = "MERGE_SLASHES",
        DecodeAndMergeSlashes = "DECODE_AND_MERGE_SLASHES",
    }

    /// Minimum version in `tlsDefaults` and `meshMTLS`.
    pub enum TlsConfigProtocol {
        #[default]
        Auto = "TLS_AUTO",
        V1_2 = "TLSV1_2",
        V1_3 = "TLSV1_3",
    }
}
