//! Configuration texts of the tests: builders that show only what matters.

use std::fmt::Write as _;
use std::net::SocketAddr;

/// A Gateway `name` with one HTTP server for all hosts on `port`.
pub fn gateway(name: &str, port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\n\
         kind: Gateway\n\
         metadata: {{name: {name}}}\n\
         spec:\n  \
           selector: {{istio: ingressgateway}}\n  \
           servers:\n  \
           - port: {{number: {port}, name: http, protocol: HTTP}}\n    \
             hosts: ['*']\n\
         ---\n"
    )
}

/// A VirtualService of the gateway `edge`; `http` is the YAML of its `http` list, without indentation.
pub fn virtual_service(name: &str, host: &str, http: &str) -> String {
    let mut text = format!(
        "apiVersion: networking.istio.io/v1\n\
         kind: VirtualService\n\
         metadata: {{name: {name}}}\n\
         spec:\n  \
           hosts: ['{host}']\n  \
           gateways: [edge]\n  \
           http:\n"
    );
    for line in http.lines() {
        writeln!(text, "  {line}").expect("writing to a string");
    }
    text.push_str("---\n");
    text
}

/// A VirtualService that sends everything to the service of the same name as its host.
pub fn forward(name: &str, host: &str, service: &str) -> String {
    virtual_service(name, host, &format!("- route:\n  - destination: {{host: {service}}}"))
}

/// A ServiceEntry with static endpoints. `protocol` is Istio's: HTTP, HTTP2, GRPC.
pub fn service_entry(name: &str, host: &str, protocol: &str, endpoints: &[SocketAddr]) -> String {
    let mut text = format!(
        "apiVersion: networking.istio.io/v1\n\
         kind: ServiceEntry\n\
         metadata: {{name: {name}}}\n\
         spec:\n  \
           hosts: ['{host}']\n  \
           location: MESH_INTERNAL\n  \
           resolution: STATIC\n  \
           ports: [{{number: 80, name: main, protocol: {protocol}}}]\n  \
           endpoints:{}\n",
        if endpoints.is_empty() { " []" } else { "" }
    );
    for endpoint in endpoints {
        writeln!(text, "  - {{address: '{}', ports: {{main: {}}}}}", endpoint.ip(), endpoint.port())
            .expect("writing to a string");
    }
    text.push_str("---\n");
    text
}

/// Gateway `edge` on `port`, host `echo.test`, one HTTP backend.
pub fn echo(port: u16, backend: SocketAddr) -> String {
    gateway("edge", port)
        + &forward("echo", "echo.test", "echo.test")
        + &service_entry("echo", "echo.test", "HTTP", &[backend])
}

/// A Gateway `edge` whose servers are given as YAML list items, without indentation.
pub fn gateway_of(servers: &[String]) -> String {
    let mut text = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge}\nspec:\n  \
                    selector: {istio: ingressgateway}\n  servers:\n"
        .to_owned();
    for server in servers {
        for line in server.lines() {
            writeln!(text, "  {line}").expect("writing to a string");
        }
    }
    text + "---\n"
}

/// A server for [`gateway_of`]. `tls` is a flow mapping such as `{mode: SIMPLE, credentialName: a}`; empty for none.
pub fn server(port: u16, name: &str, protocol: &str, hosts: &[&str], tls: &str) -> String {
    let hosts: Vec<_> = hosts.iter().map(|host| format!("'{host}'")).collect();
    let tls = if tls.is_empty() { String::new() } else { format!("\n  tls: {tls}") };
    format!("- port: {{number: {port}, name: {name}, protocol: {protocol}}}\n  hosts: [{}]{tls}\n", hosts.join(", "))
}

/// An HTTPS server in mode SIMPLE.
pub fn https(port: u16, name: &str, hosts: &[&str], credential: &str) -> String {
    server(port, name, "HTTPS", hosts, &format!("{{mode: SIMPLE, credentialName: {credential}}}"))
}
