//! Small resources in, what a request gets out. One group of tests for each part of the rules.

mod bindings;
mod client_tls;
mod destinations;
mod following;
mod mesh;

mod ordering;
mod properties;
mod routes;
mod rules;
mod services;
mod tcp;
mod tls;

use std::fmt::Write as _;

use http::HeaderMap;
use tidegate_core::Level;
use tidegate_resources::{ParseOptions, ResourceSet, parse};
use tidegate_snapshot::{Discovery, ExplainRequest, Explanation};

use crate::{Compilation, CompileOptions, compile};

/// A Gateway `istio-system/gw` for every host on port 80.
const GATEWAY: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*']
";

/// Services `a`, `b` and `c` of namespace `default`, port 80, one endpoint each (10.0.0.1, .2, .3).
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: a, labels: {kubernetes.io/service-name: a}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.1]}]
ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: b, labels: {kubernetes.io/service-name: b}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.2]}]
ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: c}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: c, labels: {kubernetes.io/service-name: c}}
addressType: IPv4
endpoints: [{addresses: [10.0.0.3]}]
ports: [{name: http, port: 8080}]
";

/// A VirtualService of namespace `default` on `istio-system/gw`; `rest` goes under `spec` in flow style.
fn virtual_service(name: &str, rest: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec: {{gateways: [istio-system/gw], {rest}}}
"
    )
}

/// A rule without conditions to a service of the same namespace.
fn to(service: &str) -> String {
    format!("route: [{{destination: {{host: {service}}}}}]")
}

fn resources(documents: &[&str]) -> ResourceSet {
    let parsed = parse("test.yaml", &documents.join("\n---\n"), &ParseOptions::default());
    let errors: Vec<_> = parsed.diagnostics.iter().filter(|d| d.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert!(parsed.skipped.is_empty(), "{:?}", parsed.skipped);
    parsed.objects.into_iter().collect()
}

fn compiled(documents: &[&str]) -> Compilation {
    compile(&resources(documents), &CompileOptions::default())
}

/// `GET a.com/path` or `POST a.com:81/x?y`; port 80.
fn explain(compilation: &Compilation, request: &str, headers: &[(&'static str, &str)]) -> Explanation {
    explain_on(compilation, 80, request, headers)
}

fn explain_on(compilation: &Compilation, port: u16, request: &str, headers: &[(&'static str, &str)]) -> Explanation {
    let (method, url) = request.split_once(' ').unwrap();
    let (authority, target) = url.split_once('/').unwrap_or((url, ""));
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().unwrap());
    }
    compilation.snapshot.explain(&ExplainRequest {
        method: method.into(),
        scheme: "http".into(),
        authority: authority.into(),
        server_name: tidegate_snapshot::server_name_of(authority),
        target: format!("/{target}"),
        headers: map,
        port,
    })
}

/// The outcome in a few words: clusters (with percent if there are several, `!` before a missing one), `301 <location>`,
/// `direct 200`, `404 NR`.
fn outcome(explanation: &Explanation) -> String {
    let outcome = serde_json::to_value(&explanation.outcome).unwrap();
    let text = |key: &str| outcome[key].as_str().unwrap_or_default().to_owned();
    match &*text("action") {
        "forward" | "proxy" => {
            let clusters = outcome["clusters"].as_array().unwrap();
            let mut shown = String::new();
            for cluster in clusters {
                let found = if cluster["found"] == true { "" } else { "!" };
                let name = cluster["name"].as_str().unwrap();
                let short = name.replace(".default.svc.cluster.local", "").replace("outbound|", "");
                write!(shown, "{}{found}{short}", if shown.is_empty() { "" } else { " " }).unwrap();
                if clusters.len() > 1 {
                    write!(shown, "@{}", cluster["percent"]).unwrap();
                }
            }
            shown
        }
        "redirect" => format!("{} {}", outcome["status"], text("location")),
        "accepted" => "accepted".to_owned(),
        "directResponse" => format!("direct {}", outcome["status"]),
        _ => format!("{} {}", outcome["status"], text("flags")),
    }
}

/// Asserts what a request on port 80 gets.
#[track_caller]
fn check(compilation: &Compilation, request: &str, expected: &str) {
    check_with(compilation, request, &[], expected);
}

#[track_caller]
fn check_with(compilation: &Compilation, request: &str, headers: &[(&'static str, &str)], expected: &str) {
    let explanation = explain(compilation, request, headers);
    assert_eq!(outcome(&explanation), expected, "{request} {headers:?}: {explanation:#?}");
}

/// Addresses of a cluster's endpoints, `-` before an unhealthy one; names of a DNS cluster.
fn endpoints(compilation: &Compilation, cluster: &str) -> Vec<String> {
    let snapshot = &compilation.snapshot;
    let index = snapshot.cluster_index(cluster).unwrap_or_else(|| {
        panic!("no cluster {cluster} in {:?}", snapshot.clusters().iter().map(|c| &c.name).collect::<Vec<_>>())
    });
    match &snapshot.cluster(index).unwrap().discovery {
        Discovery::Static(endpoints) => endpoints
            .iter()
            .map(|e| {
                let sign = if e.health == tidegate_snapshot::Health::Healthy { "" } else { "-" };
                format!("{sign}{}", e.address)
            })
            .collect(),
        Discovery::Dns(targets) => targets.iter().map(|t| format!("{}:{}", t.host, t.port)).collect(),
    }
}

/// Codes, places and messages of diagnostics, without those of level Info.
fn findings(compilation: &Compilation) -> Vec<String> {
    let loud = compilation.diagnostics.iter().filter(|d| d.level > Level::Info);
    loud.map(|d| format!("{} {} {}", d.code, d.path, d.message)).collect()
}

/// Asserts that one diagnostic has the code, the path and a part of the message, and a line.
#[track_caller]
fn check_finding(compilation: &Compilation, code: &str, path: &str, part: &str) {
    let found = compilation.diagnostics.iter().any(|d| {
        d.code.0 == code && d.path == path && d.message.contains(part) && d.key.is_some() && d.origin.position.line > 0
    });
    assert!(found, "no {code} at {path} with `{part}` in {:#?}", compilation.diagnostics);
}
