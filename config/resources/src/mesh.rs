//! `MeshConfig` and `ProxyConfig` (istio/api `mesh/v1alpha1`). What a gateway honours is typed; the other known fields
//! are accepted and kept untyped.

mod mesh_config;
mod proxy_config;

pub use mesh_config::{
    AccessLogEncoding, DefaultProviders, DefaultTrafficPolicy, InboundTrafficPolicy, InboundTrafficPolicyMode,
    IngressControllerMode, LabelSelector, LabelSelectorRequirement, MeshConfig, MeshH2UpgradePolicy, NormalizationType,
    OutboundTrafficPolicy, OutboundTrafficPolicyMode, ProxyPathNormalization, TlsConfig, TlsConfigProtocol,
};
pub use proxy_config::{
    ConnectionSettings, ConnectionSettingsProfile, ForwardClientCertDetails, HeadersWithUnderscoresAction,
    MetadataExchangeHeaders, MetadataExchangeMode, PathWithEscapedSlashesAction, ProxyConfig, ProxyHeaderSwitch,
    ProxyHeaders, ProxyProtocolConfiguration, ProxyStatsMatcher, ServerHeader, SetCurrentClientCertDetails, Topology,
};
