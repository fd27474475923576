//! Kubernetes' own kinds: what the API server would not store and would mislead a gateway.

use tidegate_core::{Code, Level};

use super::Report;
use super::names::{self, Protocol};
use crate::kubernetes::{ConfigMap, EndpointSlice, Endpoints, IntOrString, Secret, Service, ServicePort, ServiceType};

/// Istio's `PortNameIsNotUnderNamingConvention`.
const PORT_NAME: Code = Code("IST0118");

/// Prefixes of port names that tell the protocol.
const PROTOCOLS: &[&str] =
    &["grpc", "grpc-web", "http", "http2", "https", "mongo", "mysql", "redis", "tcp", "tls", "udp"];

/// Values of `appProtocol` that are no plain protocol names.
const APP_PROTOCOLS: &[&str] = &["kubernetes.io/h2c", "kubernetes.io/ws", "kubernetes.io/wss"];

pub(super) fn check_service(service: &Service, report: &mut Report<'_>) {
    if !names::is_label(&report.object.key.name) {
        let message = format!("the name of a Service has no dots: `{}`", report.object.key.name);
        report.error("metadata.name", message);
    }
    if service.r#type == ServiceType::ExternalName && service.external_name.is_empty() {
        report.error("spec", "a Service of type ExternalName needs an `externalName`");
    }
    for index in names::repeated(service.ports.iter().map(|port| &port.name)) {
        if !service.ports[index].name.is_empty() {
            let message = format!("the port name `{}` stands twice", service.ports[index].name);
            report.error(&format!("spec.ports[{index}].name"), message);
        }
    }
    for (index, port) in service.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        check_number(port.port, &format!("{path}.port"), report);
        match &port.target_port {
            Some(IntOrString::Int(number)) => check_number(*number, &format!("{path}.targetPort"), report),
            Some(IntOrString::String(name)) if name.is_empty() => {
                report.error(&format!("{path}.targetPort"), "the name of a port may not be empty");
            }
            Some(IntOrString::String(name)) if name.bytes().all(|b| b.is_ascii_digit()) => {
                let message = format!("`\"{name}\"` is a name, and the name of a port has a letter");
                report.error_with_help(&format!("{path}.targetPort"), message, format!("remove the quotes: {name}"));
            }
            _ => {}
        }
        if !matches!(port.protocol.as_str(), "" | "TCP" | "UDP" | "SCTP") {
            let message = format!("`{}` is no protocol of a Service's port", port.protocol);
            let help = "write TCP, UDP or SCTP; `appProtocol` is for HTTP and the like";
            report.error_with_help(&format!("{path}.protocol"), message, help);
        }
        if port.name.is_empty() && service.ports.len() > 1 {
            report.error(&path, "every port of a Service with several needs a `name`");
        }
        if let Some(message) = undeclared_protocol(port) {
            report.push(
                PORT_NAME,
                Level::Info,
                &path,
                message,
                Some("name the port http, http-..., grpc, tcp ...".into()),
            );
        }
    }
}

/// What is wrong with a port that tells no protocol.
fn undeclared_protocol(port: &ServicePort) -> Option<String> {
    if port.protocol == "UDP" {
        return None;
    }
    if !port.app_protocol.is_empty() {
        let is_known =
            Protocol::parse(&port.app_protocol).is_some() || APP_PROTOCOLS.contains(&port.app_protocol.as_str());
        return (!is_known)
            .then(|| format!("appProtocol `{}` tells no protocol: HTTP/1.1 is assumed", port.app_protocol));
    }
    let is_known = PROTOCOLS
        .iter()
        .any(|protocol| port.name.strip_prefix(protocol).is_some_and(|rest| rest.is_empty() || rest.starts_with('-')));
    (!is_known).then(|| format!("the port name `{}` tells no protocol: HTTP/1.1 is assumed", port.name))
}

pub(super) fn check_endpoint_slice(slice: &EndpointSlice, report: &mut Report<'_>) {
    let takes_ips = match slice.address_type.as_str() {
        "IPv4" | "IPv6" => true,
        "FQDN" => false,
        "" => return report.error("addressType", "an EndpointSlice needs an `addressType`"),
        other => {
            let message = format!("`{other}` is no type of address");
            return report.error_with_help("addressType", message, "write IPv4, IPv6 or FQDN");
        }
    };
    for (index, endpoint) in slice.endpoints.iter().enumerate() {
        let path = format!("endpoints[{index}]");
        if endpoint.addresses.is_empty() {
            report.error(&path, "an endpoint needs at least one entry in `addresses`");
        }
        for (index, address) in endpoint.addresses.iter().enumerate() {
            let is_valid = if takes_ips { names::is_ip(address) } else { names::fqdn(address).is_ok() };
            if !is_valid {
                let message = format!("`{address}` is no {} address", slice.address_type);
                report.error(&format!("{path}.addresses[{index}]"), message);
            }
        }
    }
    for (index, port) in slice.ports.iter().enumerate() {
        if let Some(number) = port.port {
            check_number(number, &format!("ports[{index}].port"), report);
        }
    }
}

pub(super) fn check_endpoints(endpoints: &Endpoints, report: &mut Report<'_>) {
    for (index, subset) in endpoints.subsets.iter().enumerate() {
        let path = format!("subsets[{index}]");
        let lists = [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)];
        for (field, addresses) in lists {
            for (index, address) in addresses.iter().enumerate() {
                if !names::is_ip(&address.ip) {
                    report.error(&format!("{path}.{field}[{index}].ip"), format!("`{}` is no IP address", address.ip));
                }
            }
        }
        for (index, port) in subset.ports.iter().enumerate() {
            check_number(port.port.unwrap_or(0), &format!("{path}.ports[{index}].port"), report);
        }
    }
}

pub(super) fn check_secret(secret: &Secret, report: &mut Report<'_>) {
    check_entries("data", secret.data.keys(), report);
    check_entries("stringData", secret.string_data.keys(), report);
}

pub(super) fn check_config_map(map: &ConfigMap, report: &mut Report<'_>) {
    check_entries("data", map.data.keys(), report);
    check_entries("binaryData", map.binary_data.keys(), report);
    for name in map.binary_data.keys().filter(|name| map.data.contains_key(*name)) {
        let path = format!("binaryData{}", names::step(name));
        report.error(&path, format!("`{name}` stands in `data` and in `binaryData`"));
    }
}

fn check_entries<'n>(field: &str, entries: impl Iterator<Item = &'n String>, report: &mut Report<'_>) {
    for name in entries.filter(|name| !names::is_data_key(name)) {
        let message = format!("`{}` is no name for an entry", crate::node::shorten(name).escape_debug());
        let help = "a name has at most 253 letters, digits, `-`, `_` and `.`";
        report.error_with_help(&format!("{field}{}", names::step(name)), message, help);
    }
}

fn check_number(number: i32, path: &str, report: &mut Report<'_>) {
    if !(1..=65_535).contains(&number) {
        report.error(path, format!("port {number} is not in the range 1-65535"));
    }
}
