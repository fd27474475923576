//! Gateway.

use super::names::{self, Protocol};
use super::{Report, tls};
use crate::networking::{Gateway, Port, Server, ServerTlsMode};

pub(super) fn check(gateway: &Gateway, report: &mut Report<'_>) {
    if !names::is_dns_label(&report.object.key.name) {
        let message = format!("the name of a Gateway has no dots: `{}`", report.object.key.name);
        report.error("metadata.name", message);
    }
    if gateway.servers.is_empty() {
        report.error("spec", "a Gateway needs at least one entry in `servers`");
    }
    let port_names = gateway.servers.iter().map(|server| server.port.as_ref().map(|port| port.name.as_str()));
    for index in names::repeated(port_names) {
        if let Some(port) = &gateway.servers[index].port {
            let message = format!("the port name `{}` stands twice in this Gateway", port.name);
            report.error(&format!("spec.servers[{index}].port.name"), message);
        }
    }
    for (index, server) in gateway.servers.iter().enumerate() {
        let path = format!("spec.servers[{index}]");
        check_server(server, &path, report);
        let Some(port) = &server.port else { continue };
        let redirects = server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
        if redirects && !Protocol::parse(&port.protocol).is_some_and(Protocol::is_http) {
            report.warning(&format!("{path}.tls.httpsRedirect"), "httpsRedirect has an effect on HTTP servers only");
        }
    }
}

fn check_server(server: &Server, path: &str, report: &mut Report<'_>) {
    if server.hosts.is_empty() {
        report.error(path, "a server needs at least one entry in `hosts`");
    }
    for (index, host) in server.hosts.iter().enumerate() {
        check_host(host, &format!("{path}.hosts[{index}]"), report);
    }
    check_bind(server, path, report);
    if let Some(tls) = &server.tls {
        tls::check_server(tls, &format!("{path}.tls"), report);
    }
    let Some(port) = &server.port else {
        report.error(path, "a server needs a `port`");
        return;
    };
    if !check_port(port, &server.bind, path, report) {
        return;
    }
    let Some(protocol) = Protocol::parse(&port.protocol) else { return };
    if protocol == Protocol::Udp {
        // Istio's webhook knows the name and lets it pass.
        report.warning(&format!("{path}.port.protocol"), "a gateway does not serve UDP: this server has no effect");
    }
    match &server.tls {
        None if protocol.is_tls() => {
            let message = format!("a server with protocol {} needs `tls`", port.protocol);
            report.error_with_help(path, message, "for example `tls: {mode: SIMPLE, credentialName: <secret>}`");
        }
        Some(tls) if !protocol.is_tls() => {
            let is_passthrough = matches!(tls.mode, ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough);
            let has_files =
                [&tls.ca_certificates, &tls.private_key, &tls.server_certificate].iter().any(|file| !file.is_empty());
            if !protocol.is_http() {
                let message = format!("a server with protocol {} has no `tls`", port.protocol);
                report.error_with_help(&format!("{path}.tls"), message, "for TLS write protocol TLS or HTTPS");
            } else if !is_passthrough || has_files {
                let message = "`tls` of a plaintext HTTP server may hold `httpsRedirect` only";
                report.error_with_help(&format!("{path}.tls"), message, "for TLS write protocol HTTPS");
            }
        }
        _ => {}
    }
}

/// `dns`, `ns/dns`, `*/dns` or `./dns`.
fn check_host(host: &str, path: &str, report: &mut Report<'_>) {
    let name = match host.split_once('/') {
        None => host,
        Some((namespace, name)) => {
            if !matches!(namespace, "*" | ".") && !names::is_dns_label(namespace) {
                report.error(path, format!("`{namespace}` is no namespace; `*` is any and `.` the Gateway's own"));
            }
            name
        }
    };
    // An IPv6 address has no dot and is refused here, as in Istio.
    if name != "*" && !name.contains('.') {
        let message = format!("`{name}` is a short name; a server's host is a full domain name, a wildcard or `*`");
        report.error_with_help(path, message, format!("write it in full, such as `{name}.example.com`"));
    } else if names::is_partial_wildcard(name) {
        report.error_with_help(
            path,
            format!("`{name}` is a partial wildcard"),
            "a wildcard is a whole first label: `*.example.com`",
        );
    } else if let Err(why) = names::wildcard_domain(name)
        && !names::is_ip(name)
    {
        report.error(path, why);
    }
}

/// Whether the port is well-formed.
fn check_port(port: &Port, bind: &str, path: &str, report: &mut Report<'_>) -> bool {
    let before = report.found.len();
    if Protocol::parse(&port.protocol).is_none() {
        let message = match port.protocol.as_str() {
            "" => "a server's port needs a `protocol`".to_owned(),
            protocol => format!("`{protocol}` is no protocol of a server"),
        };
        let help = "write one of HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TLS, TCP, MONGO, REDIS, MYSQL";
        report.error_with_help(&format!("{path}.port.protocol"), message, help);
    }
    if port.number > 0 || !bind.starts_with("unix://") {
        report.port(&format!("{path}.port.number"), port.number);
    }
    if port.target_port > 0 {
        report.error(&format!("{path}.port.targetPort"), "targetPort has no effect on a Gateway");
    }
    if port.name.is_empty() {
        report.error(&format!("{path}.port"), "a server's port needs a `name`");
    }
    report.found.len() == before
}

fn check_bind(server: &Server, path: &str, report: &mut Report<'_>) {
    let bind = format!("{path}.bind");
    if let Some(socket) = server.bind.strip_prefix("unix://") {
        if let Err(why) = names::unix_address(socket) {
            report.error(&bind, why);
        }
        if server.port.as_ref().is_some_and(|port| port.number != 0) {
            report.error(&format!("{path}.port.number"), "the port of a unix socket is 0");
        }
    } else if !server.bind.is_empty() && !names::is_ip(&server.bind) {
        report.error(&bind, format!("`{}` is no IP address and no unix:// path", server.bind));
    }
}
