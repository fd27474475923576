//! MeshConfig: 1.3 (defaults), 11.3, 15.

use super::*;
use tidegate_snapshot::{AccessLogFormat, MeshSettings, PathNormalization, ServerHeader};

fn mesh(settings: &str) -> String {
    let indented: String = settings.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{indented}"
    )
}

fn settings(text: &str) -> MeshSettings {
    compiled(&[&mesh(text)]).snapshot.mesh().clone()
}

#[test]
fn settings_that_are_absent_are_istios_defaults() {
    let settings = compiled(&[]).snapshot.mesh().clone();
    assert_eq!(settings.path_normalization, PathNormalization::Base);
    assert_eq!(settings.num_trusted_proxies, 0);
    assert!(settings.access_log.is_none());
    assert_eq!(settings.server_header, ServerHeader::Default);
}

#[test]
fn settings_that_are_present_are_taken() {
    let settings = settings(
        "pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}
defaultConfig:
  gatewayTopology: {numTrustedProxies: 2}
  proxyHeaders: {server: {value: edge}}
accessLogFile: /dev/stdout
accessLogFormat: '[%START_TIME%] %RESPONSE_CODE%'",
    );
    assert_eq!(settings.path_normalization, PathNormalization::DecodeAndMergeSlashes);
    assert_eq!(settings.num_trusted_proxies, 2);
    assert_eq!(settings.server_header, ServerHeader::Value("edge".into()));
    let log = settings.access_log.unwrap();
    assert_eq!(log.path, "/dev/stdout");
    let AccessLogFormat::Text(format) = log.format else { panic!() };
    assert_eq!(format.source(), "[%START_TIME%] %RESPONSE_CODE%\n");
}

#[test]
fn the_topology_says_what_stands_before_the_gateway_and_what_is_told_of_clients() {
    use tidegate_snapshot::{ClientCertDetails, ForwardClientCert};
    let default = compiled(&[]).snapshot.mesh().clone();
    assert!(!default.proxy_protocol);
    assert_eq!(default.forward_client_cert, ForwardClientCert::SanitizeSet);
    assert_eq!(default.client_cert_details, ClientCertDetails::default());
    let set = settings(
        "defaultConfig:
  gatewayTopology: {proxyProtocol: {}, forwardClientCertDetails: APPEND_FORWARD}
  proxyHeaders:
    forwardedClientCert: SANITIZE
    setCurrentClientCertDetails: {cert: false, chain: true}",
    );
    assert!(set.proxy_protocol);
    // The topology's setting is the gateway's.
    assert_eq!(set.forward_client_cert, ForwardClientCert::AppendForward);
    let details = ClientCertDetails { cert: false, chain: true, ..ClientCertDetails::default() };
    assert_eq!(set.client_cert_details, details);
    let headers = settings("defaultConfig:\n  proxyHeaders: {forwardedClientCert: ALWAYS_FORWARD_ONLY}");
    assert_eq!(headers.forward_client_cert, ForwardClientCert::AlwaysForwardOnly);
}

#[test]
fn access_logs_have_istios_default_formats() {
    let AccessLogFormat::Text(text) = settings("accessLogFile: /dev/stdout").access_log.unwrap().format else {
        panic!()
    };
    assert!(text.source().starts_with("[%START_TIME%] \"%REQ(:METHOD)% "));
    assert!(text.source().ends_with("%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"));
    let json = settings("accessLogFile: /dev/stdout\naccessLogEncoding: JSON").access_log.unwrap().format;
    let AccessLogFormat::Json(keys) = json else { panic!() };
    assert_eq!(keys.len(), 24);
    assert_eq!(keys[8].0, "connection_termination_details");
}

#[test]
fn a_format_that_cannot_be_used_is_reported_and_replaced() {
    // Envoy knows more operators than anything here fills: one of them is no reason to give a whole format up.
    let format = "accessLogFile: /dev/stdout\naccessLogFormat: '%STREAM_ID% %REQ(:METHOD)% %UPSTREAM_TLS_VERSION%'";
    let compilation = compiled(&[&mesh(format)]);
    let message = "not enforced yet: nothing fills STREAM_ID, UPSTREAM_TLS_VERSION";
    check_finding(&compilation, "TG0004", "accessLogFormat", message);
    let compilation = compiled(&[&mesh("accessLogFile: /dev/stdout\naccessLogFormat: '%NO_SUCH%'")]);
    check_finding(&compilation, "IST0106", "accessLogFormat", "unknown operator");
    let AccessLogFormat::Text(format) = &compilation.snapshot.mesh().access_log.as_ref().unwrap().format else {
        panic!()
    };
    assert!(format.source().contains("%ROUTE_NAME%"));
}

#[test]
fn export_defaults_and_connect_timeout_apply() {
    let service = virtual_service("v", &format!("hosts: [a.com], http: [{{{}}}]", to("a")));
    let hidden = compiled(&[GATEWAY, &service, SERVICES, &mesh("defaultVirtualServiceExportTo: ['.']")]);
    check(&hidden, "GET a.com/", "404 NR");
    let hidden = compiled(&[GATEWAY, &service, SERVICES, &mesh("defaultServiceExportTo: ['.']")]);
    check(&hidden, "GET a.com/", "!80||a");
    let slow = compiled(&[GATEWAY, &service, SERVICES, &mesh("connectTimeout: 3s")]);
    assert_eq!(slow.snapshot.clusters()[0].connect_timeout.as_secs(), 3);
    let default = compiled(&[GATEWAY, &service, SERVICES]);
    assert_eq!(default.snapshot.clusters()[0].connect_timeout.as_secs(), 10);
}
