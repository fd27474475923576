//! What MeshConfig says, with Istio's defaults where it is silent.

use std::time::Duration;

use tidegate_core::{Code, Kind};
use tidegate_resources::mesh::{AccessLogEncoding as Encoding, ForwardClientCertDetails, MeshH2UpgradePolicy};
use tidegate_resources::{
    ConnectionPoolSettings, MeshConfig, NormalizationType, Object, ProxyConfig, ResourceSet, Spec,
};
use tidegate_snapshot::{
    AccessLog, AccessLogFormat, ClientCertDetails, ForwardClientCert, MeshSettings, PathNormalization, ServerHeader,
    Template,
};

use crate::findings::Findings;
use crate::tls_parameters::TlsDefaults;

/// Where the mesh's own configuration lives unless `rootNamespace` says otherwise.
const DEFAULT_ROOT: &str = "istio-system";

/// Istio's default text format.
const TEXT_FORMAT: &str = concat!(
    r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% "#,
    r"%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    r#""%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% "#,
    r#"%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "#,
    r#""%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% "#,
    r"%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n",
);

/// Keys of Istio's default JSON format.
const JSON_FORMAT: [(&str, &str); 24] = [
    ("start_time", "%START_TIME%"),
    ("route_name", "%ROUTE_NAME%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("connection_termination_details", "%CONNECTION_TERMINATION_DETAILS%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("duration", "%DURATION%"),
    ("upstream_service_time", "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("upstream_transport_failure_reason", "%UPSTREAM_TRANSPORT_FAILURE_REASON%"),
];

/// Mesh-wide settings: those that the data plane obeys, and those that shape compilation.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) settings: MeshSettings,
    pub(crate) connect_timeout: Duration,
    pub(crate) h2_upgrade: bool,
    pub(crate) root_namespace: String,
    pub(crate) service_export_to: Vec<String>,
    pub(crate) virtual_service_export_to: Vec<String>,
    pub(crate) destination_rule_export_to: Vec<String>,
    pub(crate) tls_defaults: TlsDefaults,
    /// `defaultTrafficPolicy.connectionPool`.
    pub(crate) connection_pool: Option<ConnectionPoolSettings>,
}

impl Mesh {
    /// Reads the MeshConfig of the set. That of a file (`--mesh-config`) goes before that of a ConfigMap, and the one in
    /// `istio-system` before those of other namespaces.
    pub(crate) fn read(resources: &ResourceSet, findings: &mut Findings) -> Self {
        let configs = resources.iter_kind(Kind::MeshConfig).filter_map(|object| match &object.spec {
            Spec::MeshConfig(config) => Some((&**object, &**config)),
            _ => None,
        });
        let mut configs: Vec<_> = configs.collect();
        configs.sort_by_key(|(object, _)| match &*object.key.namespace {
            "" => 0,
            DEFAULT_ROOT => 1,
            _ => 2,
        });
        let found = configs.first().copied();
        if let Some((used, _)) = found {
            for (object, _) in configs.iter().skip(1) {
                let message = format!("the mesh's settings at {} are used instead", used.origin);
                findings.warning(Code::IGNORED, object, "", message);
            }
        }
        let settings = found.map(|(object, config)| settings(object, config, findings)).unwrap_or_default();
        let config = found.map(|(_, config)| config);
        let root = config.map(|config| config.root_namespace.as_str()).filter(|name| !name.is_empty());
        let tls_defaults = found
            .and_then(|(object, config)| Some(TlsDefaults::new(object, config.tls_defaults.as_ref()?, findings)))
            .unwrap_or_default();
        Self {
            settings,
            tls_defaults,
            connect_timeout: config
                .and_then(|config| config.connect_timeout)
                .map(tidegate_resources::Duration::get)
                .filter(|timeout| !timeout.is_zero())
                .unwrap_or(Duration::from_secs(10)),
            h2_upgrade: config.is_some_and(|config| config.h2_upgrade_policy == MeshH2UpgradePolicy::Upgrade),
            root_namespace: root.unwrap_or(DEFAULT_ROOT).to_owned(),
            service_export_to: config.map(|c| c.default_service_export_to.clone()).unwrap_or_default(),
            virtual_service_export_to: config.map(|c| c.default_virtual_service_export_to.clone()).unwrap_or_default(),
            destination_rule_export_to: config
                .map(|c| c.default_destination_rule_export_to.clone())
                .unwrap_or_default(),
            connection_pool: config.and_then(|config| config.default_traffic_policy.as_ref()?.connection_pool.clone()),
        }
    }
}

fn settings(object: &Object, config: &MeshConfig, findings: &mut Findings) -> MeshSettings {
    let normalization = config.path_normalization.as_ref().map(|path| path.normalization).unwrap_or_default();
    let proxy = config.default_config.as_ref();
    let topology = proxy.and_then(|proxy| proxy.gateway_topology.as_ref());
    let server = proxy.and_then(|proxy| proxy.proxy_headers.as_ref()?.server.as_ref());
    MeshSettings {
        path_normalization: match normalization {
            NormalizationType::Default | NormalizationType::Base => PathNormalization::Base,
            NormalizationType::None => PathNormalization::None,
            NormalizationType::MergeSlashes => PathNormalization::MergeSlashes,
            NormalizationType::DecodeAndMergeSlashes => PathNormalization::DecodeAndMergeSlashes,
        },
        num_trusted_proxies: topology.map_or(0, |topology| topology.num_trusted_proxies),
        access_log: access_log(object, config, findings),
        server_header: match server {
            Some(server) if server.disabled == Some(true) => ServerHeader::PassThrough,
            Some(server) if !server.value.is_empty() => ServerHeader::Value(server.value.clone()),
            _ => ServerHeader::Default,
        },
        proxy_protocol: topology.is_some_and(|topology| topology.proxy_protocol.is_some()),
        forward_client_cert: forward_client_cert(proxy),
        client_cert_details: client_cert_details(proxy),
        disable_listener_log: config.disable_envoy_listener_log,
    }
}

/// The topology's setting is the one for gateways; `proxyHeaders` counts where it is silent (istio
/// `buildHTTPConnectionManager`).
fn forward_client_cert(proxy: Option<&ProxyConfig>) -> ForwardClientCert {
    let of_topology = proxy.and_then(|proxy| proxy.gateway_topology.as_ref()).map(|it| it.forward_client_cert_details);
    let of_headers = proxy.and_then(|proxy| proxy.proxy_headers.as_ref()).map(|it| it.forwarded_client_cert);
    let set = |details: &ForwardClientCertDetails| *details != ForwardClientCertDetails::Undefined;
    match of_topology.filter(set).or(of_headers).unwrap_or_default() {
        ForwardClientCertDetails::Undefined | ForwardClientCertDetails::SanitizeSet => ForwardClientCert::SanitizeSet,
        ForwardClientCertDetails::Sanitize => ForwardClientCert::Sanitize,
        ForwardClientCertDetails::ForwardOnly => ForwardClientCert::ForwardOnly,
        ForwardClientCertDetails::AppendForward => ForwardClientCert::AppendForward,
        ForwardClientCertDetails::AlwaysForwardOnly => ForwardClientCert::AlwaysForwardOnly,
    }
}

fn client_cert_details(proxy: Option<&ProxyConfig>) -> ClientCertDetails {
    let default = ClientCertDetails::default();
    let details = proxy.and_then(|proxy| proxy.proxy_headers.as_ref()?.set_current_client_cert_details.as_ref());
    let Some(details) = details else { return default };
    ClientCertDetails {
        subject: details.subject.unwrap_or(default.subject),
        cert: details.cert.unwrap_or(default.cert),
        chain: details.chain.unwrap_or(default.chain),
        dns: details.dns.unwrap_or(default.dns),
        uri: details.uri.unwrap_or(default.uri),
    }
}

fn access_log(object: &Object, config: &MeshConfig, findings: &mut Findings) -> Option<AccessLog> {
    if config.access_log_file.is_empty() {
        return None;
    }
    let custom = (!config.access_log_format.is_empty()).then_some(config.access_log_format.as_str());
    let format = match config.access_log_encoding {
        Encoding::Text => text_format(object, custom, findings),
        Encoding::Json => AccessLogFormat::Json(json_format(object, custom, findings)),
    };
    report_unfilled(object, &format, findings);
    Some(AccessLog { path: config.access_log_file.clone(), format })
}

/// Names the operators of a format of one's own that print `-` whatever happens.
fn report_unfilled(object: &Object, format: &AccessLogFormat, findings: &mut Findings) {
    let templates: Vec<&Template> = match format {
        AccessLogFormat::Text(template) => vec![template],
        AccessLogFormat::Json(entries) => entries.iter().map(|(_, template)| template).collect(),
    };
    let mut names: Vec<&str> = templates.into_iter().flat_map(Template::unfilled).collect();
    names.sort_unstable();
    names.dedup();
    if !names.is_empty() {
        let message = format!("not enforced yet: nothing fills {}", names.join(", "));
        findings.warning(Code::NOT_ENFORCED, object, "accessLogFormat", message);
    }
}

/// A template of our own, which parses; the empty template otherwise, so that nothing here can panic.
fn own(format: &str) -> Template {
    Template::parse(format).unwrap_or_default()
}

fn text_format(object: &Object, custom: Option<&str>, findings: &mut Findings) -> AccessLogFormat {
    let Some(custom) = custom else { return AccessLogFormat::Text(own(TEXT_FORMAT)) };
    let mut line = custom.to_owned();
    if !line.ends_with('\n') {
        line.push('\n');
    }
    AccessLogFormat::Text(Template::parse(&line).unwrap_or_else(|error| {
        refuse_format(object, &error, findings);
        own(TEXT_FORMAT)
    }))
}

fn json_format(object: &Object, custom: Option<&str>, findings: &mut Findings) -> Vec<(String, Template)> {
    let default = || JSON_FORMAT.iter().map(|(key, format)| ((*key).to_owned(), own(format))).collect();
    let Some(custom) = custom else { return default() };
    match custom_json_format(custom) {
        Ok(format) => format,
        Err(error) => {
            refuse_format(object, &error, findings);
            default()
        }
    }
}

/// Keys and templates of a JSON object whose values are texts.
fn custom_json_format(custom: &str) -> Result<Vec<(String, Template)>, String> {
    let value: serde_json::Value = serde_json::from_str(custom).map_err(|error| format!("it is no JSON: {error}"))?;
    let serde_json::Value::Object(entries) = value else { return Err("it is no JSON object".into()) };
    entries
        .into_iter()
        .map(|(key, value)| {
            let text = match value {
                serde_json::Value::String(text) => text,
                // Literals keep their JSON form; a nested object has no place in the flat line.
                serde_json::Value::Object(_) | serde_json::Value::Array(_) => {
                    return Err(format!("the value of `{key}` is nested, and only texts are served"));
                }
                literal => literal.to_string().replace('%', "%%"),
            };
            let template = Template::parse(&text).map_err(|error| format!("the value of `{key}`: {error}"))?;
            Ok((key, template))
        })
        .collect()
}

fn refuse_format(object: &Object, error: &dyn std::fmt::Display, findings: &mut Findings) {
    let message = format!("the access log's format cannot be used, Istio's default takes its place: {error}");
    findings.error(Code::SCHEMA, object, "accessLogFormat", message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_formats_parse() {
        assert_eq!(own(TEXT_FORMAT).source(), TEXT_FORMAT);
        for (key, format) in JSON_FORMAT {
            assert_eq!(own(format).source(), format, "{key}");
        }
    }

    #[test]
    fn a_custom_json_format_keeps_the_order_of_its_keys() {
        let format = custom_json_format(r#"{"b": "%RESPONSE_CODE%", "a": "x", "n": 1}"#).unwrap();
        let shown: Vec<_> = format.iter().map(|(key, template)| (key.as_str(), template.source())).collect();
        assert_eq!(shown, [("b", "%RESPONSE_CODE%"), ("a", "x"), ("n", "1")]);
        assert!(custom_json_format(r#"{"a": {"b": "c"}}"#).is_err());
        assert!(custom_json_format("[]").is_err());
        assert!(custom_json_format(r#"{"a": "%NO_SUCH%"}"#).is_err());
    }
}
