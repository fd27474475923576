use serde::Serialize;

use crate::{PathNormalization, Template};

/// Mesh-wide settings that the data plane obeys, from MeshConfig and its `defaultConfig`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MeshSettings {
    pub path_normalization: PathNormalization,
    /// `defaultConfig.gatewayTopology.numTrustedProxies`: trusted hops in front of the gateway.
    pub num_trusted_proxies: u32,
    pub access_log: Option<AccessLog>,
    /// `disableEnvoyListenerLog`: connections that no filter chain takes are not logged.
    pub disable_listener_log: bool,
    pub server_header: ServerHeader,
    /// `defaultConfig.gatewayTopology.proxyProtocol`: every connection begins with a PROXY header, v1 or v2.
    pub proxy_protocol: bool,
    pub forward_client_cert: ForwardClientCert,
    pub client_cert_details: ClientCertDetails,
}

/// What becomes of `x-forwarded-client-cert`: Envoy's `forward_client_cert_details`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCert {
    /// Removed.
    Sanitize,
    /// Passed on as it came, from clients with a verified certificate only.
    ForwardOnly,
    /// What came and the client's certificate, for clients with a verified certificate only.
    AppendForward,
    /// What came is replaced by the client's certificate. Istio's default at gateways.
    #[default]
    SanitizeSet,
    /// Passed on as it came, whoever sent it.
    AlwaysForwardOnly,
}

/// Which facts of a client's certificate are told: Envoy's `set_current_client_cert_details`. By and Hash always are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ClientCertDetails {
    pub subject: bool,
    pub cert: bool,
    pub chain: bool,
    pub dns: bool,
    pub uri: bool,
}

impl Default for ClientCertDetails {
    /// As istiod configures gateways.
    fn default() -> Self {
        Self { subject: true, cert: true, chain: false, dns: true, uri: true }
    }
}

/// What becomes of the `server` response header.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub enum ServerHeader {
    /// Istio's default at gateways: `istio-envoy` replaces the backend's value.
    #[default]
    Default,
    Value(String),
    PassThrough,
}

/// Where and how requests are logged.
#[derive(Clone, Debug, Serialize)]
pub struct AccessLog {
    /// `/dev/stdout`, `/dev/stderr` or a file.
    pub path: String,
    pub format: AccessLogFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccessLogEncoding {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug, Serialize)]
pub enum AccessLogFormat {
    /// One line a request; ends with a newline.
    Text(Template),
    /// Keys in the order of writing. A value that is one single operator keeps its type; a missing one is null.
    Json(Vec<(String, Template)>),
}
