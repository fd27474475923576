//! Which virtual hosts exist and whose routes they have: 1.3, 1.4, 2.1, 4.1, 4.2.

use super::*;

fn gateway(name: &str, namespace: &str, servers: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{istio: ingressgateway}}, servers: [{servers}]}}
"
    )
}

fn server(port: u16, hosts: &str) -> String {
    format!("{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: [{hosts}]}}")
}

fn service_in(namespace: &str, name: &str, rest: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{rest}}}
"
    )
}

fn hosts(compilation: &Compilation) -> Vec<String> {
    let mut all = Vec::new();
    for listener in compilation.snapshot.listeners() {
        for chain in listener.filter_chains() {
            let Some(table) = chain.route_table() else {
                all.push(chain.name.clone());
                continue;
            };
            all.extend(table.virtual_hosts().iter().map(|host| {
                assert_eq!(host.domains.len(), 1);
                format!("{} {}", table.name, host.name)
            }));
        }
    }
    all
}

#[test]
fn virtual_hosts_are_the_intersections_of_server_and_virtual_service_hosts() {
    let check = |server_hosts: &str, service_hosts: &str, expected: &[&str]| {
        let gateway = gateway("gw", "istio-system", &server(80, server_hosts));
        let service = virtual_service("v", &format!("hosts: [{service_hosts}], http: [{{{}}}]", to("a")));
        let compilation = compiled(&[&gateway, &service, SERVICES]);
        let expected: Vec<_> = expected.iter().map(|host| format!("http.80 {host}:80")).collect();
        assert_eq!(hosts(&compilation), expected, "{server_hosts} with {service_hosts}");
    };
    check("'*.foo.com'", "a.foo.com", &["a.foo.com"]);
    check("a.foo.com", "'*.foo.com'", &["a.foo.com"]);
    check("'*.foo.com'", "'*.com'", &["*.foo.com"]);
    check("'*'", "a.foo.com, '*.b.com'", &["a.foo.com", "*.b.com"]);
    check("'*'", "'*'", &["*"]);
    check("'*.foo.com', a.foo.com", "'*.foo.com'", &["a.foo.com", "*.foo.com"]);
    check("'*.foo.com'", "'*'", &["*.foo.com"]);
    check("A.Foo.com", "a.foo.COM", &["a.foo.com"]);
    check("'*'", "'::1'", &["[::1]"]);
    check("'*'", "reviews", &["reviews.default.svc.cluster.local"]);
    check("'*.foo.com'", "foo.com", &["blackhole"]);
}

#[test]
fn a_host_that_no_server_admits_is_reported() {
    let gateway = gateway("gw", "istio-system", &server(80, "'*.foo.com', 'other/b.com'"));
    let service = virtual_service("v", &format!("hosts: [a.foo.com, x.com, b.com], http: [{{{}}}]", to("a")));
    let compilation = compiled(&[&gateway, &service, SERVICES]);
    check_finding(&compilation, "IST0132", "spec.hosts[1]", "no server of Gateway istio-system/gw admits");
    check_finding(&compilation, "IST0132", "spec.hosts[2]", "only for VirtualServices of namespace `other`");
    assert_eq!(findings(&compilation).len(), 2);
    check(&compilation, "GET a.foo.com/", "80||a");
    check(&compilation, "GET x.com/", "404 NR");
}

#[test]
fn every_form_of_gateway_reference_binds_and_missing_ones_are_reported() {
    for reference in ["istio-system/gw", "gw.istio-system.svc.cluster.local", "gw.istio-system"] {
        let rest = format!("gateways: [{reference}], hosts: [a.com], http: [{{{}}}]", to("a"));
        let compilation = compiled(&[GATEWAY, &service_in("default", "v", &rest), SERVICES]);
        check(&compilation, "GET a.com/", "80||a");
    }
    for reference in ["gw", "./gw"] {
        let rest =
            format!("gateways: [{reference}], hosts: [a.com], http: [{{{}}}]", to("a.default.svc.cluster.local"));
        let own = service_in("istio-system", "v", &rest);
        check(&compiled(&[GATEWAY, &own, SERVICES]), "GET a.com/", "80||a");
        let other = compiled(&[GATEWAY, &service_in("default", "v", &rest), SERVICES]);
        check(&other, "GET a.com/", "404 NR");
        check_finding(&other, "IST0101", "spec.gateways[0]", "there is no Gateway default/gw");
    }
}

#[test]
fn server_hosts_admit_by_namespace() {
    let check_admission = |host: &str, namespace: &str, admitted: bool| {
        let gateway = gateway("gw", "infra", &server(80, host));
        let rest = format!("gateways: [infra/gw], hosts: [a.com], http: [{{{}}}]", to("a.default.svc.cluster.local"));
        let compilation = compiled(&[&gateway, &service_in(namespace, "v", &rest), SERVICES]);
        check(&compilation, "GET a.com/", if admitted { "80||a" } else { "404 NR" });
    };
    check_admission("a.com", "x", true);
    check_admission("'*/a.com'", "x", true);
    check_admission("x/a.com", "x", true);
    check_admission("x/a.com", "z", false);
    check_admission("./a.com", "infra", true);
    check_admission("./a.com", "x", false);
    check_admission("'x/*'", "x", true);
}

#[test]
fn export_to_is_asked_for_the_namespace_of_the_gateway_workload() {
    let check_export = |export_to: &str, namespace: &str, bound: bool| {
        let rest = format!(
            "gateways: [istio-system/gw], hosts: [a.com], exportTo: [{export_to}], http: [{{{}}}]",
            to("a.default.svc.cluster.local")
        );
        let compilation = compiled(&[GATEWAY, &service_in(namespace, "v", &rest), SERVICES]);
        check(&compilation, "GET a.com/", if bound { "80||a" } else { "404 NR" });
        if !bound {
            check_finding(&compilation, "TG0005", "spec.exportTo", "not exported to the gateway's namespace");
        }
    };
    check_export("'*'", "app", true);
    check_export("'.'", "app", false);
    check_export("'.'", "istio-system", true);
    check_export("istio-system", "app", true);
    check_export("other", "app", false);
    check_export("'.', istio-system", "app", true);
}

#[test]
fn the_selector_is_matched_against_the_gateways_labels_in_every_namespace() {
    let check_selector = |selector: &str, selected: bool| {
        let gateway = format!(
            "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: gw, namespace: anywhere}}
spec: {{selector: {{{selector}}}, servers: [{}]}}
",
            server(80, "'*'")
        );
        let rest = format!("gateways: [anywhere/gw], hosts: [a.com], http: [{{{}}}]", to("a"));
        let compilation = compiled(&[&gateway, &service_in("default", "v", &rest), SERVICES]);
        assert_eq!(compilation.snapshot.listeners().len(), usize::from(selected), "{selector}");
        if !selected {
            check_finding(&compilation, "TG0005", "spec.selector", "does not select this gateway");
            check_finding(&compilation, "TG0005", "spec.gateways", "do not select this gateway");
        }
    };
    check_selector("istio: ingressgateway", true);
    check_selector("istio: ingressgateway, app: istio-ingressgateway", true);
    check_selector("", true);
    check_selector("istio: egressgateway", false);
    check_selector("istio: ingressgateway, team: x", false);
}

#[test]
fn plaintext_servers_of_one_port_share_a_table_and_others_on_it_are_dropped() {
    let first = gateway("a1", "x", &server(80, "one.com"));
    let second = gateway("b1", "x", &server(80, "two.com"));
    let third = gateway(
        "c1",
        "x",
        "{port: {number: 80, name: https, protocol: HTTPS}, hosts: [three.com], tls: {mode: SIMPLE, credentialName: c}}, \
         {port: {number: 81, name: tcp, protocol: TCP}, hosts: ['*']}, \
         {port: {number: 81, name: http, protocol: HTTP}, hosts: ['*']}",
    );
    let bind = |name: &str, gateway: &str| {
        service_in("default", name, &format!("gateways: [x/{gateway}], hosts: ['*'], http: [{{{}}}]", to("a")))
    };
    let compilation =
        compiled(&[&first, &second, &third, &bind("v1", "a1"), &bind("v2", "b1"), &bind("v3", "c1"), SERVICES]);
    assert_eq!(hosts(&compilation), ["http.80 one.com:80", "http.80 two.com:80", "0.0.0.0_81"]);
    check_finding(&compilation, "IST0145", "spec.servers[0].port", "port 80 is already plaintext HTTP");
    check_finding(&compilation, "IST0145", "spec.servers[2].port", "port 81 is already opaque TCP");
    assert_eq!(compilation.snapshot.listeners()[0].name, "0.0.0.0_80");
    assert_eq!(compilation.snapshot.listeners()[0].sources.len(), 2);
}

#[test]
fn servers_with_an_address_of_their_own_are_listeners_of_their_own() {
    let one = gateway(
        "gw",
        "istio-system",
        "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*'], bind: 10.1.1.1}, \
         {port: {number: 80, name: http2, protocol: HTTP2}, hosts: ['*'], bind: 10.1.1.2}, \
         {port: {number: 80, name: grpc, protocol: GRPC}, hosts: ['*'], bind: 10.1.1.1}, \
         {port: {number: 82, name: any, protocol: http}, hosts: ['*'], bind: 0.0.0.0}",
    );
    let service = virtual_service("v", &format!("hosts: [a.com], http: [{{{}}}]", to("a")));
    let compilation = compiled(&[&one, &service, SERVICES]);
    let names: Vec<_> = compilation.snapshot.listeners().iter().map(|listener| listener.name.as_str()).collect();
    assert_eq!(names, ["0.0.0.0_82", "10.1.1.1_80", "10.1.1.2_80"]);
    assert_eq!(hosts(&compilation), ["http.82 a.com:82", "http.80.10.1.1.1 a.com:80", "http.80.10.1.1.2 a.com:80"]);
    let unix = gateway("u", "x", "{port: {number: 90, name: h, protocol: HTTP}, hosts: ['*'], bind: 'unix:///s'}");
    let compilation = compiled(&[&unix]);
    assert!(compilation.snapshot.listeners().is_empty());
    check_finding(&compilation, "TG0004", "spec.servers[0].bind", "bound to an IP address only");
}

#[test]
fn a_port_without_virtual_services_answers_404() {
    let compilation = compiled(&[GATEWAY]);
    assert_eq!(hosts(&compilation), ["http.80 blackhole:80"]);
    check(&compilation, "GET a.com/", "404 NR");
    // And so does one whose VirtualServices have no rule for it.
    let other_port =
        virtual_service("v", "hosts: [a.com], http: [{match: [{port: 8080}], route: [{destination: {host: a}}]}]");
    assert_eq!(hosts(&compiled(&[GATEWAY, &other_port, SERVICES])), ["http.80 blackhole:80"]);
}

#[test]
fn the_most_specific_host_has_the_request_alone() {
    let wide = virtual_service("wide", &format!("hosts: ['*.foo.com'], http: [{{{}}}]", to("a")));
    let narrow = virtual_service(
        "narrow",
        "hosts: [x.foo.com], http: [{match: [{uri: {prefix: /only}}], route: [{destination: {host: b}}]}]",
    );
    let compilation = compiled(&[GATEWAY, &wide, &narrow, SERVICES]);
    check(&compilation, "GET x.foo.com/only", "80||b");
    check(&compilation, "GET x.foo.com/other", "404 NR");
    check(&compilation, "GET y.foo.com/other", "80||a");
    check(&compilation, "GET X.FOO.com:8443/only", "80||b");
}

#[test]
fn https_redirect_answers_for_every_host_of_its_server() {
    let redirecting = gateway(
        "gw",
        "istio-system",
        "{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.com, '*.b.com'], tls: {httpsRedirect: true}}, \
         {port: {number: 80, name: http-2, protocol: HTTP}, hosts: [c.com]}",
    );
    let service = virtual_service("v", &format!("hosts: [a.com, x.b.com, c.com], http: [{{{}}}]", to("a")));
    let compilation = compiled(&[&redirecting, &service, SERVICES]);
    check(&compilation, "GET a.com:8080/x?y=z", "301 https://a.com:8080/x?y=z");
    check(&compilation, "GET x.b.com/", "301 https://x.b.com/");
    check(&compilation, "GET no-service.b.com/p", "301 https://no-service.b.com/p");
    check(&compilation, "GET c.com/", "80||a");
    // One server of several with a host is enough.
    let second = gateway(
        "gw2",
        "istio-system",
        "{port: {number: 80, name: http, protocol: HTTP}, hosts: [c.com], tls: {httpsRedirect: true}}",
    );
    check(&compiled(&[&redirecting, &second, &service, SERVICES]), "GET c.com/", "301 https://c.com/");
}

#[test]
fn virtual_services_for_sidecars_are_told_apart() {
    let mesh = service_in("default", "m", &format!("hosts: [a], http: [{{{}}}]", to("a")));
    let compilation = compiled(&[GATEWAY, &mesh, SERVICES]);
    check_finding(&compilation, "TG0005", "spec.gateways", "applies to sidecars");
    assert!(findings(&compilation).is_empty());
    assert!(compilation.snapshot.clusters().is_empty());
}

#[test]
fn matches_may_ask_for_port_gateway_and_source() {
    let gateway = gateway(
        "gw",
        "istio-system",
        &format!("{}, {}", server(80, "'*'"), server(81, "'*'").replace("name: http", "name: h81")),
    );
    let rules = "
      {match: [{port: 81}], route: [{destination: {host: b}}]},
      {match: [{gateways: [mesh], uri: {prefix: /m}}], route: [{destination: {host: c}}]},
      {match: [{gateways: [istio-system/gw], sourceLabels: {no: way}, uri: {prefix: /g}}], route: [{destination: {host: c}}]},
      {match: [{sourceLabels: {istio: ingressgateway}, uri: {prefix: /own}}], route: [{destination: {host: c}}]},
      {match: [{sourceLabels: {app: other}, uri: {prefix: /}}], route: [{destination: {host: c}}]},
      {match: [{sourceNamespace: default}], route: [{destination: {host: c}}]},
      {match: [{sourceNamespace: istio-system, uri: {prefix: /ns}}], route: [{destination: {host: c}}]},
      {route: [{destination: {host: a}}]}";
    let service = virtual_service("v", &format!("hosts: [a.com], http: [{rules}]"));
    let compilation = compiled(&[&gateway, &service, SERVICES]);
    check(&compilation, "GET a.com/", "80||a");
    check(&compilation, "GET a.com/m", "80||a");
    check(&compilation, "GET a.com/g", "80||c");
    check(&compilation, "GET a.com/own", "80||c");
    check(&compilation, "GET a.com/ns", "80||c");
    assert_eq!(outcome(&explain_on(&compilation, 81, "GET a.com/g", &[])), "80||b");
}

#[test]
fn short_hosts_and_delegates_are_explained() {
    let short = virtual_service("v", &format!("hosts: [localhost], http: [{{{}}}]", to("a")));
    let compilation = compiled(&[GATEWAY, &short, SERVICES]);
    check_finding(&compilation, "TG0005", "spec.hosts[0]", "stands for `localhost.default.svc.cluster.local`");
    let delegate = service_in("default", "d", &format!("http: [{{{}}}]", to("a")));
    check_finding(&compiled(&[GATEWAY, &delegate, SERVICES]), "TG0004", "spec", "only a `delegate`");
}
