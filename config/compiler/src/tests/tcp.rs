//! Rules for connections: 2.13.

use std::time::Duration;

use super::tls::{chains, explain_url, gateway, https, is_closing, listener};
use super::*;
use tidegate_snapshot::{FilterChain, ListenerProtocol, NetworkFilter, TcpProxy};

fn tcp(port: u16, hosts: &str) -> String {
    format!("{{port: {{number: {port}, name: tcp-{port}, protocol: TCP}}, hosts: [{hosts}]}}")
}

fn passthrough(name: &str, hosts: &str) -> String {
    format!("{{port: {{number: 443, name: {name}, protocol: TLS}}, hosts: [{hosts}], tls: {{mode: PASSTHROUGH}}}}")
}

fn with_servers(servers: &[String], services: &[String]) -> Compilation {
    let gateway = gateway("istio-system", "gw", &servers.join(", "));
    let mut documents = vec![gateway.as_str(), SERVICES];
    documents.extend(services.iter().map(String::as_str));
    compiled(&documents)
}

fn proxy(chain: &FilterChain) -> &TcpProxy {
    match &chain.filter {
        NetworkFilter::Tcp(proxy) => proxy,
        NetworkFilter::Http(_) => panic!("{} routes requests", chain.name),
    }
}

/// Names of the clusters of a port's only chain.
fn clusters(compilation: &Compilation, port: u16) -> Vec<String> {
    let chain = &listener(compilation, port).filter_chains()[0];
    let short = |name: &str| name.replace(".default.svc.cluster.local", "").replace("outbound|", "");
    proxy(chain).clusters().iter().map(|to| format!("{}@{}", short(to.cluster.name()), to.weight)).collect()
}

#[test]
fn a_tcp_server_forwards_to_the_weighted_destinations_of_its_rule() {
    let rules = "hosts: ['*'], tcp: [{route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 3}, \
                 {destination: {host: c}, weight: 0}]}]";
    let compilation = with_servers(&[tcp(31400, "'*'")], &[virtual_service("v", rules)]);
    let listener = listener(&compilation, 31400);
    assert_eq!((listener.protocol, listener.filter_chains().len()), (ListenerProtocol::Tcp, 1));
    let chain = &listener.filter_chains()[0];
    assert!(chain.tls.is_none() && chain.server_names.is_empty());
    assert_eq!(clusters(&compilation, 31400), ["80||a@1", "80||b@3"]);
    assert_eq!(chain.sources.len(), 2);
    assert_eq!(proxy(chain).source.as_ref().unwrap().key.name.as_ref(), "v");
    assert_eq!(compilation.snapshot.clusters().len(), 2);
    assert!(findings(&compilation).is_empty(), "{:?}", findings(&compilation));
    assert_eq!(explain_url(&compilation, "tcp://localhost:31400", None), "80||a@25.0 80||b@75.0");
}

#[test]
fn the_first_rule_that_applies_of_the_first_virtual_service_takes_all() {
    let skipped = virtual_service(
        "v1",
        &format!("hosts: ['*'], tcp: [{{match: [{{port: 1}}], {}}}, {{match: [{{gateways: [mesh]}}], {0}}}]", to("c")),
    );
    let first = virtual_service(
        "v2",
        &format!("hosts: ['*'], tcp: [{{match: [{{port: 2}}, {{port: 31400}}], {}}}, {{{}}}]", to("a"), to("b")),
    );
    let later = virtual_service("v3", &format!("hosts: ['*'], tcp: [{{{}}}]", to("c")));
    let compilation = with_servers(&[tcp(31400, "'*'")], &[later, first, skipped]);
    assert_eq!(clusters(&compilation, 31400), ["80||a@0"]);
    let fits_no_server = compilation.diagnostics.iter().filter(|d| d.message.contains("its conditions fit no server"));
    assert_eq!(fits_no_server.map(|d| d.path.as_str()).collect::<Vec<_>>(), ["spec.tcp[0]"]);
    check_finding(&compilation, "TG0006", "spec.tcp[1]", "VirtualService default/v2 at");
    check_finding(&compilation, "TG0006", "spec.tcp[0]", "VirtualService default/v2 at");
}

#[test]
fn a_tcp_server_has_its_port_alone() {
    let rule = virtual_service("v", &format!("hosts: ['*'], tcp: [{{{}}}]", to("a")));
    let second = tcp(31400, "b.com").replace("tcp-31400", "second");
    let mongo = tcp(27017, "'*'").replace("TCP", "MONGO");
    let compilation = with_servers(&[tcp(31400, "a.com"), second, mongo], &[rule]);
    assert_eq!(clusters(&compilation, 31400).len(), 1);
    assert_eq!(clusters(&compilation, 27017).len(), 1);
    check_finding(&compilation, "IST0145", "spec.servers[1].port", "already opaque TCP");
}

#[test]
fn a_server_without_a_rule_closes_its_connections_and_says_so() {
    let tls = "{port: {number: 443, name: db, protocol: TLS}, hosts: [db.com], tls: {mode: SIMPLE, credentialName: d}}";
    let compilation = with_servers(&[tcp(31400, "'*'"), tls.to_owned()], &[]);
    assert!(clusters(&compilation, 31400).is_empty() && clusters(&compilation, 443).is_empty());
    check_finding(&compilation, "TG0005", "spec.servers[0]", "its connections are closed");
    check_finding(&compilation, "TG0005", "spec.servers[1]", "has a `tcp` rule for its hosts");
    assert_eq!(explain_url(&compilation, "tcp://x:31400", None), "0 NR");
    assert_eq!(explain_url(&compilation, "tls://db.com", None), "0 NR");
}

#[test]
fn a_tls_server_that_terminates_uses_tcp_rules() {
    let tls =
        "{port: {number: 443, name: db, protocol: TLS}, hosts: ['*.db.com'], tls: {mode: MUTUAL, credentialName: d}}";
    let rules = format!("hosts: [x.db.com], tcp: [{{match: [{{port: 443}}], {}}}]", to("a"));
    let compilation = with_servers(&[tls.to_owned()], &[virtual_service("v", &rules)]);
    assert_eq!(chains(&compilation, 443), ["tls.443.db.gw.istio-system [*.db.com]"]);
    assert_eq!(clusters(&compilation, 443), ["80||a@0"]);
    assert!(listener(&compilation, 443).filter_chains()[0].tls.as_ref().unwrap().client_validation.is_some());
    assert_eq!(explain_url(&compilation, "tls://y.db.com", None), "80||a");
}

#[test]
fn server_names_that_pass_through_are_those_of_the_rules() {
    let rules = format!(
        "hosts: ['*.foo.com', bar.com], tls: [
           {{match: [{{sniHosts: [a.foo.com, A.foo.com]}}, {{sniHosts: ['*.b.foo.com'], port: 443}}], {}}},
           {{match: [{{sniHosts: ['*.foo.com'], gateways: [istio-system/gw]}}], {}}},
           {{match: [{{sniHosts: [bar.com], port: 444}}], {}}}]",
        to("a"),
        to("b"),
        to("c")
    );
    // The hosts of the server are narrower than the server names, and no filter.
    let compilation = with_servers(&[passthrough("pass", "x.foo.com")], &[virtual_service("v", &rules)]);
    assert_eq!(
        chains(&compilation, 443),
        [
            "passthrough.443.v.default.0.0 [a.foo.com]",
            "passthrough.443.v.default.0.1 [*.b.foo.com]",
            "passthrough.443.v.default.1.0 [*.foo.com]",
        ]
    );
    assert!(listener(&compilation, 443).filter_chains().iter().all(|chain| chain.tls.is_none() && !is_closing(chain)));
    for (server_name, expected) in [
        ("a.foo.com", "80||a"),
        ("x.b.foo.com", "80||a"),
        ("x.y.foo.com", "80||b"),
        ("foo.com", "0 NR"),
        ("bar.com", "0 NR"),
    ] {
        assert_eq!(explain_url(&compilation, &format!("tls://{server_name}"), None), expected, "{server_name}");
    }
    check_finding(&compilation, "TG0005", "spec.tls[2].match[0]", "its conditions fit no server");
}

#[test]
fn of_several_rules_for_a_server_name_the_oldest_counts() {
    let rule = |name: &str, names: &str, service: &str| {
        let rules = format!("hosts: ['*.foo.com'], tls: [{{match: [{{sniHosts: [{names}]}}], {}}}]", to(service));
        virtual_service(name, &rules)
    };
    let compilation = with_servers(
        &[passthrough("pass", "'*.foo.com'"), passthrough("again", "a.foo.com")],
        &[rule("v2", "a.foo.com, b.foo.com", "b"), rule("v1", "a.foo.com", "a"), rule("v3", "a.foo.com", "c")],
    );
    assert_eq!(
        chains(&compilation, 443),
        ["passthrough.443.v1.default.0.0 [a.foo.com]", "passthrough.443.v2.default.0.0 [b.foo.com]"]
    );
    let shadowed: Vec<_> = findings(&compilation);
    assert_eq!(shadowed.len(), 2, "{shadowed:#?}");
    check_finding(&compilation, "TG0006", "spec.tls[0].match[0].sniHosts[0]", "go to VirtualService default/v1 at");
}

#[test]
fn a_server_that_terminates_and_rules_that_pass_through_share_a_port_in_order() {
    let rules = format!(
        "hosts: ['*.com'], tls: [{{match: [{{sniHosts: [a.com, b.com]}}], {}}}], http: [{{{}}}]",
        to("a"),
        to("b")
    );
    let terminating = https("https", "a.com", "mode: SIMPLE, credentialName: x");
    let servers = [terminating, passthrough("pass", "'*.com'")];
    let compilation = with_servers(&servers, &[virtual_service("v", &rules)]);
    assert_eq!(
        chains(&compilation, 443),
        ["https.443.https.gw.istio-system [a.com]", "passthrough.443.v.default.0.0 [b.com]"]
    );
    check_finding(&compilation, "TG0006", "spec.tls[0].match[0].sniHosts[0]", "go to Gateway istio-system/gw at");
    assert_eq!(explain_url(&compilation, "https://a.com/", None), "80||b");
    assert_eq!(explain_url(&compilation, "https://b.com/", None), "80||a");
    assert_eq!(explain_url(&compilation, "tls://a.com", None), "accepted");
    assert_eq!(explain_url(&compilation, "http://a.com:443/", None), "0 -");
}

#[test]
fn a_passthrough_server_without_rules_resets_and_http_rules_do_not_help_it() {
    let rules = format!("hosts: [a.com], http: [{{{}}}]", to("a"));
    let compilation = with_servers(&[passthrough("pass", "a.com")], &[virtual_service("v", &rules)]);
    assert!(compilation.snapshot.listeners().is_empty());
    check_finding(&compilation, "TG0005", "spec.servers[0]", "has `tls` rules for its hosts");
    check_finding(&compilation, "TG0005", "spec.http", "pass TLS through");
    // What may be meant for sidecars is no mistake.
    let for_mesh = virtual_service("v", &rules).replace("[istio-system/gw]", "[istio-system/gw, mesh]");
    assert_eq!(findings(&with_servers(&[passthrough("pass", "a.com")], &[for_mesh])).len(), 1);
    // And `tls` rules do not help a server that routes requests.
    let rules = format!("hosts: [a.com], tls: [{{match: [{{sniHosts: [a.com]}}], {}}}]", to("a"));
    let simple = https("https", "a.com", "mode: SIMPLE, credentialName: x");
    let compilation = with_servers(&[simple], &[virtual_service("v", &rules)]);
    check_finding(&compilation, "TG0005", "spec.tls[0].match[0]", "passes TLS through");
    assert_eq!(explain_url(&compilation, "https://a.com/", None), "404 NR");
}

#[test]
fn server_names_outside_of_the_virtual_services_hosts_are_left_out() {
    let rules = format!("hosts: [a.com], tls: [{{match: [{{sniHosts: [b.com, a.com]}}], {}}}]", to("a"));
    let compilation = with_servers(&[passthrough("pass", "'*'")], &[virtual_service("v", &rules)]);
    assert_eq!(chains(&compilation, 443), ["passthrough.443.v.default.0.0 [a.com]"]);
    check_finding(&compilation, "IST0106", "spec.tls[0].match[0].sniHosts[0]", "not within the hosts");
}

#[test]
fn destinations_without_a_cluster_are_named_and_close_connections() {
    let rules = "hosts: ['*'], tcp: [{route: [{destination: {host: none}}]}]";
    let compilation = with_servers(&[tcp(31400, "'*'")], &[virtual_service("v", rules)]);
    check_finding(&compilation, "IST0101", "spec.tcp[0].route[0].destination.host", "connections are closed (NC)");
    assert_eq!(explain_url(&compilation, "tcp://x:31400", None), "!31400||none");
}

#[test]
fn the_idle_timeout_is_that_of_the_first_destination() {
    let idle = |policy: &str| {
        let rule = format!(
            "\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: d}}\nspec: {{host: a, trafficPolicy: {{{policy}}}}}\n"
        );
        let service = virtual_service(
            "v",
            "hosts: ['*'], tcp: [{route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 1}]}]",
        );
        let compilation = with_servers(&[tcp(31400, "'*'")], &[service, rule]);
        proxy(&listener(&compilation, 31400).filter_chains()[0]).idle_timeout
    };
    assert_eq!(idle("connectionPool: {tcp: {connectTimeout: 1s}}"), Some(Duration::from_secs(3600)));
    assert_eq!(idle("connectionPool: {tcp: {idleTimeout: 30s}}"), Some(Duration::from_secs(30)));
    assert_eq!(idle("connectionPool: {tcp: {idleTimeout: 0s}}"), None);
    let port = "connectionPool: {tcp: {idleTimeout: 30s}}, portLevelSettings: [{port: {number: 80}, connectionPool: {tcp: {idleTimeout: 7s}}}]";
    assert_eq!(idle(port), Some(Duration::from_secs(7)));
}
