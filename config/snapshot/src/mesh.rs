use serde::Serialize;

use crate::{PathNormalization, Template};

/// Mesh-wide settings that the data plane obeys, from MeshConfig and its `defaultConfig`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct MeshSettings {
    pub path_normalization: PathNormalization,
    /// `defaultConfig.gatewayTopology.numTrustedProxies`: trusted hops in front of the gateway.
    pub num_trusted_proxies: u32,
    pub access_log: Option<AccessLog>,
    pub server_header: ServerHeader,
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
