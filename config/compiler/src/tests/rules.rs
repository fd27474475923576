//! DestinationRules: 3.1, 3.2, 3.3, 3.5, 3.7.

use super::*;
use tidegate_snapshot::{Cluster, LoadBalancing, UpstreamProtocol};

fn rule(namespace: &str, name: &str, rest: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{{rest}}}
"
    )
}

const HOST: &str = "a.default.svc.cluster.local";

fn with_rules(rules: &[String]) -> Compilation {
    with_service(rules, SERVICES, "")
}

fn with_service(rules: &[String], services: &str, subset: &str) -> Compilation {
    let service =
        virtual_service("v", &format!("hosts: [a.com], http: [{{route: [{{destination: {{host: a{subset}}}}}]}}]"));
    let mut documents = vec![GATEWAY, &service, services];
    documents.extend(rules.iter().map(String::as_str));
    compiled(&documents)
}

fn cluster<'c>(compilation: &'c Compilation, name: &str) -> &'c Cluster {
    let index = compilation.snapshot.cluster_index(name).expect(name);
    compilation.snapshot.cluster(index).unwrap()
}

fn balancing(rules: &[String]) -> LoadBalancing {
    cluster(&with_rules(rules), "outbound|80||a.default.svc.cluster.local").load_balancing
}

fn balanced(host: &str, by: &str, more: &str) -> String {
    format!("host: {host}, trafficPolicy: {{loadBalancer: {{simple: {by}}}}}{more}")
}

#[test]
fn the_search_goes_from_the_gateways_namespace_to_the_services_to_the_root() {
    use LoadBalancing::{LeastRequest, Random, RoundRobin};
    // The gateway lives in istio-system, which is the root namespace: there only private rules count as its own.
    let root_public = rule("istio-system", "root", &balanced(HOST, "RANDOM", ""));
    let root_private = rule("istio-system", "private", &balanced(HOST, "RANDOM", ", exportTo: ['.']"));
    let of_service = rule("default", "own", &balanced("a", "ROUND_ROBIN", ""));
    assert_eq!(balancing(&[]), LeastRequest);
    assert_eq!(balancing(std::slice::from_ref(&root_public)), Random);
    assert_eq!(balancing(&[root_public.clone(), of_service.clone()]), RoundRobin);
    assert_eq!(balancing(&[root_private, of_service.clone()]), Random);
    // A rule that the service's namespace keeps for itself does not end the search.
    let hidden = rule("default", "own", &balanced("a", "ROUND_ROBIN", ", exportTo: ['.']"));
    assert_eq!(balancing(&[root_public.clone(), hidden]), Random);
    // A third namespace has no say.
    assert_eq!(balancing(&[rule("other", "x", &balanced(HOST, "RANDOM", ""))]), LeastRequest);
    // A gateway outside the root namespace looks at home first.
    let service = virtual_service("v", &format!("hosts: [a.com], http: [{{{}}}]", to("a")));
    let at_home = rule("edge", "home", &balanced("'*.default.svc.cluster.local'", "RANDOM", ", exportTo: ['*']"));
    let resources = resources(&[GATEWAY, &service, SERVICES, &at_home, &of_service]);
    let options = CompileOptions { namespace: "edge".into(), ..CompileOptions::default() };
    let compilation = compile(&resources, &options);
    assert_eq!(cluster(&compilation, "outbound|80||a.default.svc.cluster.local").load_balancing, Random);
}

#[test]
fn within_a_namespace_the_most_specific_host_is_used_alone() {
    use LoadBalancing::{Random, RoundRobin};
    let wide = rule("default", "a-wide", &balanced("'*.svc.cluster.local'", "RANDOM", ""));
    let wider = rule("default", "a-wider", &balanced("'*.cluster.local'", "ROUND_ROBIN", ""));
    let all = rule("default", "a-all", &balanced("'*'", "ROUND_ROBIN", ""));
    let exact = rule("default", "z", &format!("host: {HOST}, subsets: [{{name: v1}}]"));
    assert_eq!(balancing(&[wider.clone(), wide.clone(), all.clone()]), Random);
    assert_eq!(balancing(&[all, wider]), RoundRobin);
    // No merging between hosts: the exact one has no policy, and none is taken from the wildcard.
    assert_eq!(balancing(&[wide, exact]), LoadBalancing::LeastRequest);
}

#[test]
fn rules_of_one_host_are_merged_by_age() {
    let older = rule("default", "a", "host: a, subsets: [{name: v1, labels: {version: v1}}]");
    let middle =
        rule("default", "b", &balanced("a", "RANDOM", ", subsets: [{name: v1, labels: {version: other}}, {name: v2}]"));
    let younger = rule("default", "c", &balanced("a", "ROUND_ROBIN", ""));
    let rules = [younger, middle, older];
    let compilation = with_service(&rules, SERVICES, ", subset: v2");
    let cluster = cluster(&compilation, "outbound|80|v2|a.default.svc.cluster.local");
    assert_eq!(cluster.load_balancing, LoadBalancing::Random);
    assert_eq!(cluster.sources.len(), 4);
    check_finding(&compilation, "TG0006", "spec.subsets[0]", "already defined by DestinationRule default/a");
    check_finding(&compilation, "TG0006", "spec.trafficPolicy", "DestinationRule default/b");
}

#[test]
fn ports_and_subsets_replace_as_units_and_blocks() {
    let policy = "trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {connectTimeout: 1s}}";
    let check_policy = |rest: &str, subset: &str, expected: (LoadBalancing, u64)| {
        let rules = [rule("default", "r", &format!("host: a, {rest}"))];
        let compilation = with_service(&rules, SERVICES, subset);
        let name = if subset.is_empty() { "outbound|80||" } else { "outbound|80|v1|" };
        let cluster = cluster(&compilation, &format!("{name}{HOST}"));
        assert_eq!(
            (cluster.load_balancing, cluster.connect_timeout.as_millis()),
            (expected.0, u128::from(expected.1)),
            "{rest}"
        );
    };
    use LoadBalancing::{LeastRequest, Random, RoundRobin};
    check_policy(&format!("{policy}}}"), "", (Random, 1000));
    // A port's entry inherits nothing.
    let port = "portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {connectTimeout: 2s}}}]";
    check_policy(&format!("{policy}, {port}}}"), "", (LeastRequest, 2000));
    let other = "portLevelSettings: [{port: {number: 81}, connectionPool: {tcp: {connectTimeout: 2s}}}]";
    check_policy(&format!("{policy}, {other}}}"), "", (Random, 1000));
    // A subset replaces the blocks that it has.
    let subset = "subsets: [{name: v1, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}}]";
    check_policy(&format!("{policy}}}, {subset}"), ", subset: v1", (RoundRobin, 1000));
    check_policy(&format!("{policy}, {port}}}, {subset}"), ", subset: v1", (RoundRobin, 2000));
    let subset = "subsets: [{name: v1, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {connectTimeout: 3s}}}]}}]";
    check_policy(&format!("{policy}}}, {subset}"), ", subset: v1", (LeastRequest, 3000));
    check_policy("subsets: [{name: v1}]", ", subset: v1", (LeastRequest, 10_000));
}

#[test]
fn subsets_are_the_endpoints_with_their_labels() {
    let pods: String = ["v1", "v2"]
        .iter()
        .enumerate()
        .map(|(at, version)| {
            format!(
                "
---
apiVersion: v1
kind: Pod
metadata: {{name: a-{version}, labels: {{app: a, version: {version}}}}}
spec: {{containers: [{{name: c}}]}}
status: {{podIP: 10.0.0.{}}}
",
                at + 1
            )
        })
        .collect();
    let services = format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: a}}
spec: {{selector: {{app: a}}, ports: [{{name: http, port: 80}}]}}
{pods}"
    );
    let rules = [rule(
        "default",
        "r",
        "host: a, subsets: [{name: v1, labels: {version: v1}}, {name: none, labels: {version: v3}}, {name: all}]",
    )];
    let of = |subset: &str| {
        let compilation = with_service(&rules, &services, &format!(", subset: {subset}"));
        endpoints(&compilation, &format!("outbound|80|{subset}|{HOST}"))
    };
    assert_eq!(of("v1"), ["10.0.0.1:80"]);
    assert_eq!(of("all"), ["10.0.0.1:80", "10.0.0.2:80"]);
    assert!(of("none").is_empty());
    let empty = with_service(&rules, &services, ", subset: none");
    check_finding(&empty, "TG0009", "spec.subsets[1].labels", "(version=v3)");
    let missing = with_service(&rules, &services, ", subset: v9");
    check(&missing, "GET a.com/", "!80|v9|a");
    check_finding(&missing, "IST0101", "spec.http[0].route[0].destination.subset", "its subsets: all, none, v1");
}

#[test]
fn a_workload_selector_picks_rules_for_this_gateway() {
    let for_me = rule(
        "istio-system",
        "z",
        &balanced(HOST, "RANDOM", ", workloadSelector: {matchLabels: {istio: ingressgateway}}, exportTo: ['.']"),
    );
    let for_all = rule("istio-system", "a", &balanced(HOST, "ROUND_ROBIN", ", exportTo: ['.']"));
    let for_others = rule(
        "istio-system",
        "b",
        &balanced(HOST, "RANDOM", ", workloadSelector: {matchLabels: {app: x}}, exportTo: ['.']"),
    );
    assert_eq!(balancing(&[for_me.clone(), for_all.clone()]), LoadBalancing::Random);
    assert_eq!(balancing(&[for_others, for_all]), LoadBalancing::RoundRobin);
}

#[test]
fn the_upstream_protocol_follows_port_and_policy() {
    use UpstreamProtocol::{AsDownstream, Http1, Http2};
    let check_protocol = |port: &str, policy: &str, mesh: &str, expected: UpstreamProtocol| {
        let service = format!(
            "\napiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{{port}, port: 80}}]}}\n"
        );
        let mut rules = Vec::new();
        if !policy.is_empty() {
            rules.push(rule(
                "default",
                "r",
                &format!("host: a, trafficPolicy: {{connectionPool: {{http: {{{policy}}}}}}}"),
            ));
        }
        if !mesh.is_empty() {
            rules.push(format!("\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {mesh}\n"));
        }
        let compilation = with_service(&rules, &service, "");
        assert_eq!(cluster(&compilation, &format!("outbound|80||{HOST}")).protocol, expected, "{port} {policy} {mesh}");
    };
    check_protocol("name: http", "", "", Http1);
    check_protocol("name: http2-x", "", "", Http2);
    check_protocol("name: grpc", "", "", Http2);
    check_protocol("name: grpc-web", "", "", Http2);
    check_protocol("name: x, appProtocol: kubernetes.io/h2c", "", "", Http2);
    check_protocol("name: http, appProtocol: grpc", "", "", Http2);
    check_protocol("name: https", "", "", Http1);
    check_protocol("name: tcp", "", "", Http1);
    check_protocol("name: unnamed", "", "", Http1);
    check_protocol("name: http", "h2UpgradePolicy: UPGRADE", "", Http2);
    check_protocol("name: unnamed", "h2UpgradePolicy: UPGRADE", "", Http2);
    check_protocol("name: http", "", "h2UpgradePolicy: UPGRADE", Http2);
    check_protocol("name: unnamed", "", "h2UpgradePolicy: UPGRADE", Http1);
    check_protocol("name: http", "h2UpgradePolicy: DO_NOT_UPGRADE", "h2UpgradePolicy: UPGRADE", Http1);
    check_protocol("name: http2", "h2UpgradePolicy: DO_NOT_UPGRADE", "", Http2);
    check_protocol("name: http", "useClientProtocol: true", "", AsDownstream);
    check_protocol("name: http2", "useClientProtocol: true", "", AsDownstream);
}

#[test]
fn every_simple_balancer_is_mapped() {
    use LoadBalancing::{LeastRequest, Random, RoundRobin};
    for (name, expected) in [
        ("UNSPECIFIED", LeastRequest),
        ("LEAST_CONN", LeastRequest),
        ("LEAST_REQUEST", LeastRequest),
        ("ROUND_ROBIN", RoundRobin),
        ("RANDOM", Random),
        ("PASSTHROUGH", LeastRequest),
    ] {
        assert_eq!(balancing(&[rule("default", "r", &balanced("a", name, ""))]), expected, "{name}");
    }
    let compilation = with_rules(&[rule("default", "r", &balanced("a", "PASSTHROUGH", ""))]);
    check_finding(&compilation, "TG0005", "spec.trafficPolicy.loadBalancer.simple", "means nothing at a gateway");
}

#[test]
fn a_rule_where_the_gateway_does_not_look_is_named() {
    let host = "a.default.svc.cluster.local";
    let secured = rule("team", "r", &format!("host: {host}, trafficPolicy: {{tls: {{mode: SIMPLE}}}}"));
    let compilation = with_rules(&[secured]);
    check_finding(&compilation, "TG0005", "metadata.namespace", "it does not apply at this gateway: rules for");
    assert!(compilation.snapshot.clusters().iter().all(|cluster| cluster.tls.is_none()));
    // Rules for sidecars of a team are usual; they are told of, and no reason to worry.
    let compilation = with_rules(&[rule("team", "r", &balanced(host, "RANDOM", ""))]);
    assert!(compilation.diagnostics.iter().any(|it| it.path == "metadata.namespace" && it.level == Level::Info));
    let looked_at =
        [rule("default", "r", &balanced("a", "RANDOM", "")), rule("istio-system", "r", &balanced(host, "RANDOM", ""))];
    for text in looked_at {
        assert!(!with_rules(&[text]).diagnostics.iter().any(|it| it.path == "metadata.namespace"));
    }
}

#[test]
fn a_rule_for_no_service_is_named() {
    let compilation = with_rules(&[rule("default", "r", &balanced("fake", "RANDOM", ""))]);
    check_finding(&compilation, "IST0174", "spec.host", "no service has the host `fake.default.svc.cluster.local`");
    assert!(findings(&with_rules(&[rule("default", "r", &balanced("'*.com'", "RANDOM", ""))])).is_empty());
}
