//! The order of routes: 2.1 (4), 2.2.

use super::*;

fn dated(name: &str, created: &str, rules: &str) -> String {
    virtual_service(name, &format!("hosts: [a.com], http: [{rules}]"))
        .replace(&format!("name: {name}"), &format!("name: {name}, creationTimestamp: '{created}'"))
}

fn prefix(path: &str, service: &str) -> String {
    format!("{{match: [{{uri: {{prefix: {path}}}}}], {}}}", to(service))
}

#[test]
fn virtual_services_of_one_host_stand_in_order_of_age_with_catch_alls_behind() {
    let younger = dated("a-younger", "2024-02-01T00:00:00Z", &format!("{}, {}", prefix("/x", "b"), prefix("/", "b")));
    let older = dated("z-older", "2024-01-01T00:00:00Z", &format!("{}, {{{}}}", prefix("/y", "a"), to("a")));
    let compilation = compiled(&[GATEWAY, &younger, &older, SERVICES]);
    check(&compilation, "GET a.com/y", "80||a");
    check(&compilation, "GET a.com/x", "80||b");
    check(&compilation, "GET a.com/other", "80||a");
    let host = &compilation.snapshot.listeners()[0].filter_chains()[0].route_table().unwrap().virtual_hosts()[0];
    let paths: Vec<_> = host.routes().iter().map(|route| route.matcher.path.to_string()).collect();
    assert_eq!(paths, ["prefix `/y`", "prefix `/x`", "prefix `/`", "prefix `/`"]);
    check_finding(
        &compilation,
        "TG0006",
        "spec.http[1].match[0]",
        "never reached: VirtualService default/z-older at test.yaml:",
    );
}

#[test]
fn an_older_prefix_shadows_a_younger_longer_one() {
    let older = dated("older", "2024-01-01T00:00:00Z", &prefix("/a", "a"));
    let younger = dated("younger", "2024-02-01T00:00:00Z", &prefix("/a/b", "b"));
    let compilation = compiled(&[GATEWAY, &older, &younger, SERVICES]);
    check(&compilation, "GET a.com/a/b", "80||a");
    check_finding(&compilation, "TG0006", "spec.http[0].match[0]", "default/older");
    // The other way round both are reached.
    let older = dated("older", "2024-03-01T00:00:00Z", &prefix("/a", "a"));
    let compilation = compiled(&[GATEWAY, &older, &younger, SERVICES]);
    check(&compilation, "GET a.com/a/b", "80||b");
    check(&compilation, "GET a.com/a/c", "80||a");
    assert!(findings(&compilation).is_empty());
}

#[test]
fn without_timestamps_names_decide_then_namespaces() {
    let first = virtual_service("a", &format!("hosts: [a.com], http: [{{{}}}]", to("a")));
    let second = virtual_service("b", &format!("hosts: [a.com], http: [{{{}}}]", to("b")));
    check(&compiled(&[GATEWAY, &second, &first, SERVICES]), "GET a.com/", "80||a");
    let other = |namespace: &str, service: &str| {
        virtual_service(
            "same",
            &format!("hosts: [a.com], http: [{{{}}}]", to(&format!("{service}.default.svc.cluster.local"))),
        )
        .replace("name: same", &format!("name: same, namespace: {namespace}"))
    };
    check(&compiled(&[GATEWAY, &other("z", "b"), &other("x", "a"), SERVICES]), "GET a.com/", "80||a");
}

#[test]
fn private_and_named_exports_go_before_public_ones() {
    let public = dated("public", "2020-01-01T00:00:00Z", &format!("{{{}}}", to("a")));
    let named = dated("named", "2024-01-01T00:00:00Z", &format!("{{{}}}", to("b")))
        .replace("spec: {", "spec: {exportTo: [istio-system], ");
    let private = dated("private", "2024-01-01T00:00:00Z", &format!("{{{}}}", to("c.default.svc.cluster.local")))
        .replace("spec: {", "spec: {exportTo: ['.'], ")
        .replace("name: private,", "name: private, namespace: istio-system,");
    check(&compiled(&[GATEWAY, &public, SERVICES]), "GET a.com/", "80||a");
    check(&compiled(&[GATEWAY, &public, &named, SERVICES]), "GET a.com/", "80||b");
    check(&compiled(&[GATEWAY, &public, &named, &private, SERVICES]), "GET a.com/", "80||c");
}

#[test]
fn conditions_keep_a_route_from_being_catch_all() {
    let younger = dated("younger", "2024-02-01T00:00:00Z", &prefix("/x", "b"));
    for condition in [
        "headers: {k: {exact: v}}",
        "queryParams: {k: {}}",
        "method: {exact: GET}",
        "scheme: {exact: http}",
        "authority: {prefix: a}",
        "withoutHeaders: {k: {}}",
    ] {
        let older = dated(
            "older",
            "2024-01-01T00:00:00Z",
            &format!("{{match: [{{uri: {{prefix: /}}, {condition}}}], {}}}", to("a")),
        );
        let compilation = compiled(&[GATEWAY, &older, &younger, SERVICES]);
        let host = &compilation.snapshot.listeners()[0].filter_chains()[0].route_table().unwrap().virtual_hosts()[0];
        assert_eq!(host.routes()[0].source.key.name.as_ref(), "older", "{condition}");
    }
    let older = dated("older", "2024-01-01T00:00:00Z", &format!("{{match: [{{uri: {{regex: '.*'}}}}], {}}}", to("a")));
    check(&compiled(&[GATEWAY, &older, &younger, SERVICES]), "GET a.com/x", "80||b");
}

#[test]
fn rules_behind_a_catch_all_are_unreachable_and_reported() {
    let rules = format!("{}, {}, {{{}}}", prefix("/", "a"), prefix("/b", "b"), to("c"));
    let service = virtual_service("v", &format!("hosts: [a.com], http: [{rules}]"));
    let compilation = compiled(&[GATEWAY, &service, SERVICES]);
    check(&compilation, "GET a.com/b", "80||a");
    check_finding(&compilation, "IST0130", "spec.http[1]", "never reached");
    check_finding(&compilation, "IST0130", "spec.http[2]", "never reached");
    assert_eq!(compilation.snapshot.clusters().len(), 1);
}

#[test]
fn a_rule_that_one_port_does_not_reach_is_named_with_the_port() {
    let rules = format!("{{match: [{{port: 80}}], {}}}, {{{}}}", to("a"), to("b"));
    let service = virtual_service("v", &format!("hosts: [a.com], http: [{rules}]"));
    let compilation = compiled(&[GATEWAY, &service, SERVICES]);
    check(&compilation, "GET a.com/b", "80||a");
    check_finding(&compilation, "IST0130", "spec.http[1]", "never reached on port 80 of Gateway istio-system/gw");
}

#[test]
fn two_gateways_on_one_port_give_a_virtual_service_its_routes_once() {
    let second = GATEWAY.replace("name: gw,", "name: gw2,");
    let service = virtual_service("v", &format!("hosts: [a.com], http: [{}, {{{}}}]", prefix("/b", "b"), to("a")))
        .replace("gateways: [istio-system/gw]", "gateways: [istio-system/gw, istio-system/gw2, istio-system/gw]");
    let compilation = compiled(&[GATEWAY, &second, &service, SERVICES]);
    let host = &compilation.snapshot.listeners()[0].filter_chains()[0].route_table().unwrap().virtual_hosts()[0];
    assert_eq!(host.routes().len(), 2);
    assert_eq!(host.sources.len(), 3);
    assert!(findings(&compilation).is_empty(), "{:?}", findings(&compilation));
}
