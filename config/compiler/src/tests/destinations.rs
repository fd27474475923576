//! Which cluster a destination names, and weights: 2.3.

use super::*;

fn with_route(route: &str, more: &str) -> Compilation {
    let service = virtual_service("v", &format!("hosts: [a.com], http: [{{route: [{route}]}}]"));
    compiled(&[GATEWAY, &service, SERVICES, more])
}

#[test]
fn weights_are_relative_and_zero_takes_part_only_alone() {
    let check_weights = |route: &str, expected: &str| check(&with_route(route, GATEWAY), "GET a.com/", expected);
    let d = |host: &str, weight: &str| format!("{{destination: {{host: {host}}}{weight}}}");
    check_weights(&d("a", ""), "80||a");
    check_weights(&d("a", ", weight: 0"), "80||a");
    check_weights(&[d("a", ", weight: 1"), d("b", ", weight: 3")].join(","), "80||a@25.0 80||b@75.0");
    check_weights(&[d("a", ", weight: 100"), d("b", ", weight: 0")].join(","), "80||a");
    check_weights(&[d("a", ", weight: 50"), d("b", "")].join(","), "80||a");
    check_weights(
        &[d("a", ", weight: 1"), d("b", ", weight: 0"), d("c", ", weight: 1")].join(","),
        "80||a@50.0 80||c@50.0",
    );
}

#[test]
fn the_last_of_several_destinations_keeps_the_order_of_several() {
    let service = virtual_service(
        "v",
        "hosts: [a.com], http: [{headers: {request: {set: {x: rule}}}, route: [
          {destination: {host: a}, weight: 1, headers: {request: {set: {x: destination}}}}, {destination: {host: b}, weight: 0}]}]",
    );
    let compilation = compiled(&[GATEWAY, &service, SERVICES]);
    let route =
        &compilation.snapshot.listeners()[0].filter_chains()[0].route_table().unwrap().virtual_hosts()[0].routes()[0];
    // Of a single destination the route's operations come first; here the rule's must come last and win.
    let shown = serde_json::to_value(route).unwrap();
    assert_eq!(shown["request_headers"]["set"], serde_json::json!([["x", "destination"]]));
    assert_eq!(shown["action"]["forward"]["clusters"][0]["request_headers"]["set"], serde_json::json!([["x", "rule"]]));
}

#[test]
fn missing_hosts_ports_and_subsets_answer_503_and_are_reported() {
    let check_missing = |destination: &str, expected: &str, field: &str, part: &str| {
        let compilation = with_route(&format!("{{destination: {{{destination}}}}}"), GATEWAY);
        check(&compilation, "GET a.com/", expected);
        check_finding(&compilation, "IST0101", &format!("spec.http[0].route[0].destination.{field}"), part);
    };
    check_missing(
        "host: nowhere",
        "!80||nowhere",
        "host",
        "no service has the host `nowhere.default.svc.cluster.local`",
    );
    check_missing("host: a.default", "!80||a.default", "host", "no service has the host `a.default`");
    check_missing("host: a, port: {number: 81}", "!81||a", "port", "has no port 81; its ports: 80");
    check_missing("host: a, subset: v1", "!80|v1|a", "subset", "no DestinationRule");
    let help = with_route("{destination: {host: a.prod}}", GATEWAY);
    let finding = help.diagnostics.iter().find(|d| d.code.0 == "IST0101").unwrap();
    assert!(finding.help.as_deref().unwrap().contains("a.prod.svc.cluster.local"), "{finding:?}");
}

#[test]
fn a_port_that_is_not_named_is_the_only_one_or_the_listeners() {
    let services = "
apiVersion: v1
kind: Service
metadata: {name: one}
spec: {ports: [{name: http, port: 9080}]}
---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {ports: [{name: http, port: 9080}, {name: http-80, port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: neither}
spec: {ports: [{name: http, port: 9080}, {name: admin, port: 9081}]}
---
apiVersion: v1
kind: Service
metadata: {name: udp}
spec: {ports: [{name: http, port: 9080}, {name: dns, port: 80, protocol: UDP}]}
";
    let check_port = |host: &str, expected: &str| {
        check(&with_route(&format!("{{destination: {{host: {host}}}}}"), services), "GET a.com/", expected);
    };
    check_port("one", "9080||one");
    check_port("two", "80||two");
    check_port("neither", "!80||neither");
    check_port("udp", "9080||udp");
}

#[test]
fn short_names_are_of_the_virtual_services_namespace() {
    let other = "
apiVersion: v1
kind: Service
metadata: {name: a, namespace: other}
spec: {ports: [{name: http, port: 80}]}
";
    let service = virtual_service("v", &format!("hosts: [a.com], http: [{{{}}}]", to("a")))
        .replace("{name: v}", "{name: v, namespace: other}");
    let compilation = compiled(&[GATEWAY, &service, SERVICES, other]);
    check(&compilation, "GET a.com/", "80||a.other.svc.cluster.local");
}

#[test]
fn external_names_stand_for_their_target() {
    let alias = |name: &str, target: &str| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{type: ExternalName, externalName: {target}, ports: [{{name: http, port: 80}}]}}
"
        )
    };
    let (first, second) =
        (alias("alias", "a.default.svc.cluster.local"), alias("second", "alias.default.svc.cluster.local"));
    let ring = alias("ring", "ring.default.svc.cluster.local");
    let more = [first.as_str(), second.as_str(), ring.as_str(), &alias("away", "example.com")].join("\n---\n");
    check(&with_route("{destination: {host: alias}}", &more), "GET a.com/", "80||a");
    check(&with_route("{destination: {host: second}}", &more), "GET a.com/", "80||a");
    check(&with_route("{destination: {host: away}}", &more), "GET a.com/", "!80||example.com");
    // A ring ends nowhere and harms nobody.
    check(&with_route("{destination: {host: ring}}", &more), "GET a.com/", "80||ring");
}

#[test]
fn a_service_that_is_not_exported_here_is_missing() {
    let hidden = "
apiVersion: v1
kind: Service
metadata: {name: hidden, annotations: {networking.istio.io/exportTo: '.'}}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: shown, annotations: {networking.istio.io/exportTo: '., istio-system'}}
spec: {ports: [{name: http, port: 80}]}
";
    let compilation = with_route("{destination: {host: hidden}}", hidden);
    check(&compilation, "GET a.com/", "!80||hidden");
    check_finding(&compilation, "IST0101", "spec.http[0].route[0].destination.host", "does not export it");
    check(&with_route("{destination: {host: shown}}", hidden), "GET a.com/", "80||shown");
}

#[test]
fn only_clusters_that_routes_name_are_built_and_they_are_shared() {
    let first = virtual_service("v", &format!("hosts: [a.com], http: [{{{}}}]", to("a")));
    let second = virtual_service("w", &format!("hosts: [b.com], http: [{{{}}}]", to("a")));
    let compilation = compiled(&[GATEWAY, &first, &second, SERVICES]);
    let names: Vec<_> = compilation.snapshot.clusters().iter().map(|cluster| cluster.name.to_string()).collect();
    assert_eq!(names, ["outbound|80||a.default.svc.cluster.local"]);
}
