//! Istio's rules for single objects, one line each: what is accepted, what is refused where.

use tidegate_core::Level;
use tidegate_resources::{ParseOptions, parse, validate};

/// Findings of validation as `path: message`, with `?` in front of warnings and `i` in front of notes.
fn findings(text: &str) -> Vec<String> {
    let parsed = parse("f.yaml", text, &ParseOptions::default());
    let errors: Vec<_> = parsed.diagnostics.iter().filter(|found| found.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{text}");
    let mark = |level| match level {
        Level::Error => "",
        Level::Warning => "? ",
        Level::Info => "i ",
    };
    let object = &parsed.objects[0];
    validate(object).iter().map(|found| format!("{}{}: {}", mark(found.level), found.path, found.message)).collect()
}

/// Whether exactly the given paths are refused (`? path` for a warning).
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found = findings(text);
    let paths: Vec<_> = found.iter().map(|found| found.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(paths, expected, "{found:#?}\n{text}");
}

fn object(kind: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: a}}\nspec:\n{spec}")
}

#[track_caller]
fn gateway(server: &str, expected: &[&str]) {
    check(&object("Gateway", &format!("servers:\n- {server}")), expected);
}

#[track_caller]
fn service(spec: &str, expected: &[&str]) {
    check(&object("VirtualService", spec), expected);
}

/// A rule of a VirtualService on a gateway.
#[track_caller]
fn rule(rule: &str, expected: &[&str]) {
    service(&format!("hosts: [a.b]\ngateways: [gw]\nhttp:\n- {rule}"), expected);
}

/// A condition of such a rule.
#[track_caller]
fn condition(condition: &str, expected: &[&str]) {
    rule(&format!("{{match: [{condition}], route: [{{destination: {{host: a}}}}]}}"), expected);
}

#[track_caller]
fn policy(policy: &str, expected: &[&str]) {
    check(&object("DestinationRule", &format!("host: a\ntrafficPolicy: {policy}")), expected);
}

#[track_caller]
fn entry(spec: &str, expected: &[&str]) {
    check(&object("ServiceEntry", spec), expected);
}

#[track_caller]
fn workload(spec: &str, expected: &[&str]) {
    check(&object("WorkloadEntry", spec), expected);
}

const HTTP: &str = "port: {number: 80, name: http, protocol: HTTP}";

#[test]
fn a_server_has_a_port_and_hosts() {
    for protocol in ["HTTP", "http", "HTTP2", "GRPC", "grpc-web", "TCP", "MONGO", "Redis", "MYSQL"] {
        gateway(&format!("{{port: {{number: 1, name: x, protocol: {protocol}}}, hosts: ['*']}}"), &[]);
    }
    gateway("{port: {number: 1, name: x, protocol: UDP}, hosts: ['*']}", &["? spec.servers[0].port.protocol"]);
    gateway(
        "{port: {number: 1, name: x, protocol: udp}, hosts: ['*'], tls: {}}",
        &["? spec.servers[0].port.protocol", "spec.servers[0].tls"],
    );
    for protocol in ["HBONE", "SMTP", "''"] {
        gateway(
            &format!("{{port: {{number: 1, name: x, protocol: {protocol}}}, hosts: ['*']}}"),
            &["spec.servers[0].port.protocol"],
        );
    }
    gateway("{hosts: ['*']}", &["spec.servers[0]"]);
    gateway(&format!("{{{HTTP}}}"), &["spec.servers[0]"]);
    gateway("{port: {number: 0, name: x, protocol: HTTP}, hosts: ['*']}", &["spec.servers[0].port.number"]);
    gateway("{port: {number: 65536, name: x, protocol: HTTP}, hosts: ['*']}", &["spec.servers[0].port.number"]);
    gateway("{port: {number: 1, protocol: HTTP}, hosts: ['*']}", &["spec.servers[0].port"]);
    gateway(
        "{port: {number: 1, name: x, protocol: HTTP, targetPort: 2}, hosts: ['*']}",
        &["spec.servers[0].port.targetPort"],
    );
    gateway("{port: {number: 0, name: x, protocol: HTTP}, bind: unix:///a/b, hosts: ['*']}", &[]);
    gateway(
        "{port: {number: 1, name: x, protocol: HTTP}, bind: unix:///a/b, hosts: ['*']}",
        &["spec.servers[0].port.number"],
    );
    gateway("{port: {number: 1, name: x, protocol: HTTP}, bind: '::1', hosts: ['*']}", &[]);
    gateway("{port: {number: 1, name: x, protocol: HTTP}, bind: localhost, hosts: ['*']}", &["spec.servers[0].bind"]);
    check(&object("Gateway", "servers: []"), &["spec"]);
    check(&object("Gateway", "servers: []").replace("name: a", "name: a.b"), &["metadata.name", "spec"]);
    let two = format!(
        "servers:\n- {{{HTTP}, hosts: ['*']}}\n- {{port: {{number: 81, name: http, protocol: HTTP}}, hosts: ['*']}}"
    );
    check(&object("Gateway", &two), &["spec.servers[1].port.name"]);
}

#[test]
fn hosts_of_a_server_are_full_names_with_an_optional_namespace() {
    for host in ["a.b", "'*'", "'*.b'", "ns/a.b", "'*/a.b'", "./a.b", "1.2.3.4", "'ns/*'"] {
        gateway(&format!("{{{HTTP}, hosts: [{host}]}}"), &[]);
    }
    for host in ["a", "'*a.b'", "a.*.b", "ns/a", "/a.b", "'-/a.b'", "'~/a.b'", "a_b.c", "'a.b:80'", "'::1'"] {
        gateway(&format!("{{{HTTP}, hosts: [{host}]}}"), &["spec.servers[0].hosts[0]"]);
    }
}

#[test]
fn tls_of_a_server_fits_its_protocol_and_mode() {
    let https = |tls: &str, expected: &[&str]| {
        gateway(&format!("{{port: {{number: 443, name: x, protocol: HTTPS}}, hosts: ['*'], tls: {tls}}}"), expected);
    };
    const TLS: &str = "spec.servers[0].tls";
    https("{mode: SIMPLE, credentialName: x}", &[]);
    https("{mode: SIMPLE, serverCertificate: a, privateKey: b}", &[]);
    https("{mode: SIMPLE, serverCertificate: a}", &[TLS]);
    https("{mode: SIMPLE}", &[TLS, TLS]);
    https("{mode: MUTUAL, serverCertificate: a, privateKey: b}", &[TLS]);
    https("{mode: MUTUAL, serverCertificate: a, privateKey: b, caCertificates: c}", &[]);
    https("{mode: OPTIONAL_MUTUAL, credentialName: x}", &[]);
    https("{mode: ISTIO_MUTUAL}", &[]);
    https("{mode: ISTIO_MUTUAL, credentialName: x}", &["spec.servers[0].tls.credentialName"]);
    https("{mode: SIMPLE, credentialName: x, credentialNames: [b]}", &[TLS]);
    https("{mode: SIMPLE, credentialNames: [a, b, c]}", &["? spec.servers[0].tls.credentialNames"]);
    https(
        "{mode: SIMPLE, tlsCertificates: [{serverCertificate: a, privateKey: b}, {serverCertificate: c, privateKey: d}]}",
        &[],
    );
    https("{mode: SIMPLE, tlsCertificates: [{serverCertificate: a}]}", &["spec.servers[0].tls.tlsCertificates[0]"]);
    https("{mode: SIMPLE, serverCertificate: a, privateKey: b, caCrl: c}", &["spec.servers[0].tls.caCrl"]);
    https("{mode: PASSTHROUGH}", &[]);
    https("{mode: PASSTHROUGH, credentialName: x}", &["? spec.servers[0].tls"]);
    https(
        "{mode: SIMPLE, credentialName: x, cipherSuites: [NOPE, AES128-SHA, AES128-SHA, '-ALL']}",
        &["? spec.servers[0].tls.cipherSuites[0]", "? spec.servers[0].tls.cipherSuites[2]"],
    );
    https(
        "{mode: SIMPLE, credentialName: x, minProtocolVersion: TLSV1_0}",
        &["? spec.servers[0].tls.minProtocolVersion"],
    );
    https("{mode: PASSTHROUGH, httpsRedirect: true}", &["? spec.servers[0].tls.httpsRedirect"]);
    gateway("{port: {number: 443, name: x, protocol: HTTPS}, hosts: ['*']}", &["spec.servers[0]"]);
    gateway(&format!("{{{HTTP}, hosts: ['*'], tls: {{httpsRedirect: true}}}}"), &[]);
    gateway(&format!("{{{HTTP}, hosts: ['*'], tls: {{mode: SIMPLE, credentialName: x}}}}"), &[TLS]);
    gateway("{port: {number: 1, name: x, protocol: TCP}, hosts: ['*'], tls: {mode: PASSTHROUGH}}", &[TLS]);
}

#[test]
fn hosts_of_a_virtual_service() {
    const ROUTE: &str = "http: [{route: [{destination: {host: a}}]}]";
    let hosts = |hosts: &str, gateways: &str, expected: &[&str]| {
        service(&format!("hosts: {hosts}\ngateways: {gateways}\n{ROUTE}"), expected);
    };
    hosts("[a, a.b, '*.c', 1.2.3.4, '::1']", "[]", &[]);
    hosts("['*']", "[gw]", &[]);
    hosts("['*']", "[]", &["spec.hosts[0]"]);
    hosts("['*']", "[gw, mesh]", &["spec.hosts[0]"]);
    hosts("[a.b, a.b]", "[gw]", &["spec.hosts[1]"]);
    hosts("['*.b', a.b]", "[gw]", &["spec.hosts[1]"]);
    hosts("[a.b, '*.b', '*.c.b']", "[gw]", &["spec.hosts[1]", "spec.hosts[2]"]);
    hosts("[b, '*.b']", "[gw]", &[]);
    hosts("[a_b]", "[gw]", &["spec.hosts[0]"]);
    hosts("['a.*.b']", "[gw]", &["spec.hosts[0]"]);
    hosts("['a.b:80']", "[gw]", &["spec.hosts[0]"]);
    hosts("[a.b]", "[ns/gw, other/gw]", &[]);
    hosts("[a.b]", "[gw.ns.svc.cluster.local]", &["? spec.gateways[0]"]);
    hosts("[a.b]", "[ns/]", &["spec.gateways[0]"]);
    hosts("[a.b]", "[a/b/c]", &["spec.gateways[0]"]);
    hosts("[a.b]", "[g_w]", &["spec.gateways[0]"]);
    service("hosts: [a.b]", &["spec"]);
    service("http: [{route: [{destination: {host: a}}]}]", &[]);
    service("gateways: [gw]\nhttp: [{route: [{destination: {host: a}}]}]", &["spec.gateways"]);
    service("hosts: [a]\nexportTo: ['.', '*']\nhttp: [{route: [{destination: {host: a}}]}]", &["spec.exportTo"]);
    service("hosts: [a]\nexportTo: ['.', default]\nhttp: [{route: [{destination: {host: a}}]}]", &["spec.exportTo[1]"]);
    service("hosts: [a]\nexportTo: ['~']\nhttp: [{route: [{destination: {host: a}}]}]", &["spec.exportTo[0]"]);
    service("hosts: [a]\nexportTo: ['.', other]\nhttp: [{route: [{destination: {host: a}}]}]", &[]);
}

#[test]
fn a_rule_does_exactly_one_thing() {
    const RULE: &str = "spec.http[0]";
    rule("{route: [{destination: {host: a}}]}", &[]);
    rule("{}", &[RULE]);
    rule("{redirect: {uri: /}}", &[]);
    rule("{directResponse: {status: 200}}", &[]);
    rule("{delegate: {name: x}}", &[]);
    rule("{delegate: {name: x}, route: [{destination: {host: a}}]}", &["spec.http[0].route"]);
    rule("{redirect: {uri: /}, route: [{destination: {host: a}}]}", &["spec.http[0].route"]);
    rule("{redirect: {uri: /}, rewrite: {uri: /}}", &["spec.http[0].rewrite"]);
    rule("{redirect: {uri: /}, directResponse: {status: 200}}", &["spec.http[0].directResponse"]);
    rule("{directResponse: {status: 200}, fault: {abort: {httpStatus: 500}}}", &["spec.http[0].fault"]);
    rule(
        "{route: [{destination: {host: a}}], mirror: {host: b}, mirrors: [{destination: {host: c}}]}",
        &["spec.http[0].mirrors"],
    );
    service("http: [{delegate: {name: x}, route: [{destination: {host: a}}]}]", &["spec.http[0].delegate"]);
}

#[test]
fn destinations_and_weights() {
    let routes = |routes: &str, expected: &[&str]| rule(&format!("{{route: {routes}}}"), expected);
    routes("[{destination: {host: a}, weight: 0}]", &[]);
    routes("[{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 250}]", &[]);
    routes("[{destination: {host: a}, weight: 1}, {destination: {host: b}}]", &[]);
    routes("[{destination: {host: a}}, {destination: {host: b}}]", &["spec.http[0].route"]);
    routes("[{destination: {host: a}, weight: -1}]", &["spec.http[0].route[0].weight"]);
    routes("[{weight: 1}]", &["spec.http[0].route[0]"]);
    routes("[{destination: {}}]", &["spec.http[0].route[0].destination"]);
    routes("[{destination: {host: '*'}}]", &["spec.http[0].route[0].destination.host"]);
    routes("[{destination: {host: 1.2.3.4}}]", &["spec.http[0].route[0].destination.host"]);
    routes("[{destination: {host: a, subset: 'x y'}}]", &["spec.http[0].route[0].destination.subset"]);
    routes("[{destination: {host: a, port: {number: 0}}}]", &["spec.http[0].route[0].destination.port.number"]);
    routes("[{destination: {host: a, port: {}}}]", &["spec.http[0].route[0].destination.port.number"]);
}

#[test]
fn conditions() {
    const MATCH: &str = "spec.http[0].match[0]";
    condition("{uri: {prefix: ''}}", &[]);
    condition("{uri: {exact: ''}}", &[]);
    condition("{uri: {regex: ''}}", &[&format!("{MATCH}.uri.regex")]);
    condition("{uri: {regex: '('}}", &[&format!("{MATCH}.uri.regex")]);
    condition(&format!("{{uri: {{regex: '{}'}}}}", "a".repeat(1025)), &[&format!("{MATCH}.uri.regex")]);
    condition("{method: {prefix: ''}}", &[&format!("{MATCH}.method.prefix")]);
    condition("{headers: {x: {}, y: {exact: ''}, ':path': {exact: a}, User-Agent: {regex: '.*Mobile.*'}}}", &[]);
    condition("{headers: {x: {prefix: ''}}}", &[&format!("{MATCH}.headers.x.prefix")]);
    condition("{headers: {x: {regex: '*'}}}", &[&format!("{MATCH}.headers.x.regex")]);
    condition("{withoutHeaders: {x: {regex: '*'}}}", &[]);
    condition("{headers: {'a b': {}}}", &[&format!("{MATCH}.headers[\"a b\"]")]);
    condition("{headers: {'@request.auth.claims.sub': {exact: x}}}", &[]);
    condition("{queryParams: {x: {exact: ''}, y: {}}}", &[]);
    condition("{port: 70000}", &[&format!("{MATCH}.port")]);
    condition("{sourceLabels: {'x y': a}}", &[&format!("{MATCH}.sourceLabels[\"x y\"]")]);
    condition("{sourceNamespace: 'a b'}", &[&format!("{MATCH}.sourceNamespace")]);
    service(
        "hosts: [a.b]\nhttp: [{match: [{headers: {'@request.auth.claims.sub': {exact: x}}}], route: [{destination: {host: a}}]}]",
        &[&format!("{MATCH}.headers[\"@request.auth.claims.sub\"]")],
    );
}

#[test]
fn header_operations() {
    let request = |operations: &str, expected: &[&str]| {
        rule(&format!("{{route: [{{destination: {{host: a}}}}], headers: {{request: {operations}}}}}"), expected);
    };
    const REQUEST: &str = "spec.http[0].headers.request";
    request("{set: {x: u, host: z}, add: {w: v}, remove: [u]}", &[]);
    request("{set: {':authority': z}}", &[]);
    request("{set: {':path': z}}", &[&format!("{REQUEST}.set[\":path\"]")]);
    request(
        "{remove: [host, ':path', '']}",
        &[&format!("{REQUEST}.remove[0]"), &format!("{REQUEST}.remove[1]"), &format!("{REQUEST}.remove[2]")],
    );
    request("{set: {x: '50%'}}", &[&format!("{REQUEST}.set.x")]);
    request("{set: {x: '50%%', y: '%PROTOCOL%'}}", &[]);
    request("{set: {host: a}, add: {':authority': b}}", &[&format!("{REQUEST}.add[\":authority\"]")]);
    rule(
        "{route: [{destination: {host: a}}], headers: {response: {set: {host: x}}}}",
        &["spec.http[0].headers.response.set.host"],
    );
    rule(
        "{route: [{destination: {host: a}}], rewrite: {authority: x}, headers: {request: {set: {Host: z}}}}",
        &[&format!("{REQUEST}.set.Host")],
    );
    rule(
        "{route: [{destination: {host: a}, headers: {request: {remove: [':x']}}}]}",
        &["spec.http[0].route[0].headers.request.remove[0]"],
    );
}

#[test]
fn redirects_direct_responses_and_rewrites() {
    let redirect = |redirect: &str, expected: &[&str]| rule(&format!("{{redirect: {redirect}}}"), expected);
    redirect("{authority: a, redirectCode: 308}", &[]);
    redirect("{derivePort: FROM_REQUEST_PORT}", &[]);
    redirect("{port: 0}", &[]);
    redirect("{}", &["spec.http[0].redirect"]);
    redirect("{redirectCode: 301}", &["spec.http[0].redirect"]);
    redirect("{uri: /, redirectCode: 200}", &["spec.http[0].redirect.redirectCode"]);
    redirect("{uri: /, redirectCode: 399}", &[]);
    redirect("{uri: /, scheme: ftp}", &["spec.http[0].redirect.scheme"]);
    redirect("{uri: /, port: 70000}", &["spec.http[0].redirect.port"]);
    redirect("{uri: /, prefixRewrite: /}", &["spec.http[0].redirect"]);
    rule("{match: [{uri: {prefix: /a}}, {port: 80}], redirect: {prefixRewrite: /}}", &[]);
    rule("{match: [{uri: {exact: /a}}], redirect: {prefixRewrite: /}}", &["spec.http[0].redirect.prefixRewrite"]);

    rule("{directResponse: {status: 600}}", &[]);
    rule("{directResponse: {status: 601}}", &["spec.http[0].directResponse.status"]);
    rule("{directResponse: {}}", &["spec.http[0].directResponse.status"]);
    let body = |bytes: usize| format!("{{directResponse: {{status: 200, body: {{string: {}}}}}}}", "x".repeat(bytes));
    rule(&body(100 << 10), &[]);
    rule(&body((100 << 10) + 1), &["? spec.http[0].directResponse.body"]);
    rule(&body((1 << 20) + 1), &["spec.http[0].directResponse.body"]);

    let rewrite = |rewrite: &str, expected: &[&str]| {
        rule(&format!("{{route: [{{destination: {{host: a}}}}], rewrite: {rewrite}}}"), expected);
    };
    rewrite("{uri: /, authority: x}", &[]);
    rewrite("{uriRegexRewrite: {match: a, rewrite: b}, authority: x}", &[]);
    rewrite("{}", &["spec.http[0].rewrite"]);
    rewrite("{uri: /, uriRegexRewrite: {match: a, rewrite: b}}", &["spec.http[0].rewrite"]);
    rewrite("{uriRegexRewrite: {match: a}}", &["spec.http[0].rewrite.uriRegexRewrite"]);
    rewrite("{uriRegexRewrite: {match: '[', rewrite: b}}", &["spec.http[0].rewrite.uriRegexRewrite.match"]);
}

#[test]
fn timeouts_retries_faults_mirrors_and_cors() {
    let with =
        |field: &str, expected: &[&str]| rule(&format!("{{route: [{{destination: {{host: a}}}}], {field}}}"), expected);
    with("timeout: 1ms", &[]);
    with("timeout: 0s", &["spec.http[0].timeout"]);
    with("timeout: 1.5ms", &["spec.http[0].timeout"]);
    with("retries: {attempts: 0}", &[]);
    with("retries: {attempts: -1}", &["spec.http[0].retries.attempts"]);
    with("retries: {attempts: 0, retryOn: 5xx}", &["spec.http[0].retries"]);
    with("retries: {attempts: 0, backoff: 1s}", &[]);
    with("retries: {attempts: 1, retryOn: '5xx,503,retriable-4xx,unavailable'}", &[]);
    with("retries: {attempts: 1, retryOn: '5xx, reset'}", &["spec.http[0].retries.retryOn"]);
    with("retries: {attempts: 1, retryOn: '599'}", &["spec.http[0].retries.retryOn"]);
    with("fault: {}", &["spec.http[0].fault"]);
    with("fault: {abort: {httpStatus: 199}}", &["spec.http[0].fault.abort.httpStatus"]);
    with("fault: {abort: {grpcStatus: NOT_FOUND}}", &[]);
    with("fault: {abort: {grpcStatus: '5'}}", &["spec.http[0].fault.abort.grpcStatus"]);
    with("fault: {abort: {http2Error: x}}", &["spec.http[0].fault.abort.http2Error"]);
    with("fault: {abort: {}}", &["? spec.http[0].fault.abort"]);
    with("fault: {delay: {fixedDelay: 5s, percentage: {value: 0.00001}}}", &["spec.http[0].fault.delay.percentage"]);
    with("fault: {delay: {exponentialDelay: 5s}}", &["spec.http[0].fault.delay.exponentialDelay"]);
    with("mirror: {host: b}, mirrorPercentage: {value: 101}", &["spec.http[0].mirrorPercentage"]);
    with("mirror: {host: b}, mirrorPercent: 50", &["? spec.http[0].mirrorPercent"]);
    with("mirror: {host: b}, mirror_percent: 50", &["? spec.http[0].mirrorPercent"]);
    with("mirrors: [{percentage: {value: 5}}]", &["spec.http[0].mirrors[0]"]);
    with("corsPolicy: {allowOrigins: [{exact: x}], allowMethods: [GET], allowHeaders: ['*'], maxAge: 24h}", &[]);
    with("corsPolicy: {allowOrigins: [{}]}", &["spec.http[0].corsPolicy.allowOrigins[0]"]);
    with("corsPolicy: {allowMethods: [get]}", &["spec.http[0].corsPolicy.allowMethods[0]"]);
    with("corsPolicy: {exposeHeaders: ['a b']}", &["spec.http[0].corsPolicy.exposeHeaders[0]"]);
    with("corsPolicy: {maxAge: 1.5s}", &["spec.http[0].corsPolicy.maxAge"]);
}

#[test]
fn tls_and_tcp_routes() {
    let tls = |route: &str, expected: &[&str]| {
        service(&format!("hosts: [a.b, '*.c.d']\ngateways: [gw]\ntls: [{route}]"), expected)
    };
    tls("{match: [{sniHosts: [a.b, x.c.d, '*.y.c.d'], port: 443}], route: [{destination: {host: a}}]}", &[]);
    tls("{route: [{destination: {host: a}}]}", &["spec.tls[0]"]);
    tls("{match: [{port: 443}], route: [{destination: {host: a}}]}", &["spec.tls[0].match[0]"]);
    tls("{match: [{sniHosts: [other.b]}], route: [{destination: {host: a}}]}", &["spec.tls[0].match[0].sniHosts[0]"]);
    tls("{match: [{sniHosts: [1.2.3.4]}], route: [{destination: {host: a}}]}", &["? spec.tls[0].match[0].sniHosts[0]"]);
    tls(
        "{match: [{sniHosts: [a.b], destinationSubnets: [x]}], route: [{destination: {host: a}}]}",
        &["spec.tls[0].match[0].destinationSubnets[0]"],
    );
    tls("{match: [{sniHosts: [a.b]}]}", &["spec.tls[0]"]);
    let tcp = |route: &str, expected: &[&str]| service(&format!("hosts: [a.b]\ntcp: [{route}]"), expected);
    tcp("{route: [{destination: {host: a}}]}", &[]);
    tcp(
        "{match: [{destinationSubnets: [10.0.0.0/8], port: 1}], route: [{destination: {host: a}, weight: 1}, {destination: {host: b}, weight: 1}]}",
        &[],
    );
    tcp(
        "{match: [{destinationSubnets: [10.0.0.0/33]}], route: [{destination: {host: a}}]}",
        &["spec.tcp[0].match[0].destinationSubnets[0]"],
    );
    tcp("{match: []}", &["spec.tcp[0]"]);
}

#[test]
fn rules_that_nothing_reaches_are_named() {
    let rules = |rules: &str, expected: &[&str]| service(&format!("hosts: [a.b]\nhttp: {rules}"), expected);
    const TO: &str = "route: [{destination: {host: a}}]";
    rules(&format!("[{{{TO}}}, {{{TO}}}]"), &["? spec.http[1]"]);
    rules(&format!("[{{{TO}}}, {{match: [{{uri: {{prefix: /}}}}], {TO}}}]"), &["? spec.http[1]"]);
    rules(
        &format!("[{{match: [{{uri: {{exact: /a}}}}], {TO}}}, {{match: [{{name: x, uri: {{exact: /a}}}}], {TO}}}]"),
        &["? spec.http[1].match[0]", "? spec.http[1]"],
    );
    rules(
        &format!("[{{match: [{{uri: {{prefix: /a}}}}], {TO}}}, {{match: [{{uri: {{prefix: /a/b}}}}], {TO}}}]"),
        &["? spec.http[1].match[0]"],
    );
    rules(
        &format!(
            "[{{match: [{{uri: {{prefix: /a}}, headers: {{x: {{}}}}}}], {TO}}}, {{match: [{{uri: {{prefix: /a/b}}}}], {TO}}}]"
        ),
        &[],
    );
    rules(&format!("[{{match: [{{uri: {{prefix: /a/b}}}}], {TO}}}, {{match: [{{uri: {{prefix: /a}}}}], {TO}}}]"), &[]);
}

#[test]
fn destination_rules_name_a_host_and_subsets() {
    check(&object("DestinationRule", "host: a"), &[]);
    check(&object("DestinationRule", "host: '*.a.b'"), &[]);
    check(&object("DestinationRule", "subsets: []"), &["spec"]);
    check(&object("DestinationRule", "host: a_b"), &["spec.host"]);
    check(&object("DestinationRule", "host: a\nsubsets: [{name: x}, {name: x}]"), &["spec.subsets[1].name"]);
    check(&object("DestinationRule", "host: a\nsubsets: [{labels: {a: b}}]"), &["spec.subsets[0]"]);
    check(&object("DestinationRule", "host: a\nsubsets: [{name: a.b}]"), &["spec.subsets[0].name"]);
    check(
        &object("DestinationRule", "host: a\nsubsets: [{name: x, labels: {'a b': c}}]"),
        &["spec.subsets[0].labels[\"a b\"]"],
    );
    check(
        &object("DestinationRule", "host: a\nsubsets: [{name: x, trafficPolicy: {}}]"),
        &["spec.subsets[0].trafficPolicy"],
    );
    check(&object("DestinationRule", "host: a\nworkloadSelector: {matchLabels: {app: x}}"), &[]);
    check(&object("DestinationRule", "host: a\nworkloadSelector: {}"), &["? spec.workloadSelector.matchLabels"]);
    check(
        &object("DestinationRule", "host: a\nworkloadSelector: {matchLabels: {app: x}}\nexportTo: ['*']"),
        &["spec.exportTo"],
    );
    check(&object("DestinationRule", "host: a\nworkloadSelector: {matchLabels: {app: x}}\nexportTo: ['.']"), &[]);
}

#[test]
fn traffic_policies() {
    policy("{}", &["spec.trafficPolicy"]);
    policy("{connectionPool: {}}", &["spec.trafficPolicy.connectionPool"]);
    policy(
        "{connectionPool: {tcp: {maxConnections: -1, connectTimeout: 0s, idleTimeout: 0s}}}",
        &[
            "spec.trafficPolicy.connectionPool.tcp.maxConnections",
            "spec.trafficPolicy.connectionPool.tcp.connectTimeout",
        ],
    );
    policy(
        "{connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}",
        &["spec.trafficPolicy.connectionPool.http.useClientProtocol"],
    );
    policy(
        "{connectionPool: {http: {http2KeepAlive: {interval: 5s}}}}",
        &["spec.trafficPolicy.connectionPool.http.http2KeepAlive"],
    );
    policy(
        "{outlierDetection: {maxEjectionPercent: 101, minHealthPercent: -1}}",
        &[
            "spec.trafficPolicy.outlierDetection.maxEjectionPercent",
            "spec.trafficPolicy.outlierDetection.minHealthPercent",
        ],
    );
    policy("{outlierDetection: {consecutiveErrors: 5}}", &["? spec.trafficPolicy.outlierDetection.consecutiveErrors"]);
    policy(
        "{outlierDetection: {consecutiveLocalOriginFailures: 5}}",
        &["spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures"],
    );
    policy(
        "{outlierDetection: {outlierDetectionHttpErrorCodes: [99]}}",
        &["spec.trafficPolicy.outlierDetection.outlierDetectionHttpErrorCodes[0]"],
    );
    policy("{tls: {mode: MUTUAL}}", &["spec.trafficPolicy.tls", "spec.trafficPolicy.tls"]);
    policy("{tls: {mode: MUTUAL, credentialName: x}}", &[]);
    policy("{tls: {mode: SIMPLE, credentialName: x, caCertificates: z}}", &["spec.trafficPolicy.tls.credentialName"]);
    policy(
        "{tls: {mode: SIMPLE, insecureSkipVerify: true, caCertificates: z}}",
        &["spec.trafficPolicy.tls.insecureSkipVerify"],
    );
    policy("{tls: {mode: SIMPLE, credentialName: 'configmap://default/x'}}", &[]);
    policy("{tls: {mode: SIMPLE, credentialName: 'configmap://other/x'}}", &["spec.trafficPolicy.tls.credentialName"]);
    policy("{portLevelSettings: [{loadBalancer: {simple: RANDOM}}]}", &["spec.trafficPolicy.portLevelSettings[0]"]);
    policy("{portLevelSettings: [{port: {number: 80}}]}", &["spec.trafficPolicy.portLevelSettings[0]"]);
    policy("{tunnel: {targetHost: a.b, targetPort: 443}}", &[]);
    policy(
        "{tunnel: {protocol: GET, targetHost: 'a b', targetPort: 0}}",
        &[
            "spec.trafficPolicy.tunnel.protocol",
            "spec.trafficPolicy.tunnel.targetHost",
            "spec.trafficPolicy.tunnel.targetPort",
        ],
    );
    policy("{tunnel: {targetHost: a.b, targetPort: 443}, proxyProtocol: {version: V1}}", &["spec.trafficPolicy"]);
    policy("{retryBudget: {percent: 101}}", &["spec.trafficPolicy.retryBudget.percent"]);
}

#[test]
fn load_balancers() {
    let balancer = |balancer: &str, expected: &[&str]| policy(&format!("{{loadBalancer: {balancer}}}"), expected);
    const LB: &str = "spec.trafficPolicy.loadBalancer";
    balancer("{simple: LEAST_REQUEST}", &[]);
    balancer(
        "{consistentHash: {httpCookie: {name: x, attributes: [{name: a}, {name: a}]}}}",
        &[&format!("{LB}.consistentHash.httpCookie.attributes[1].name")],
    );
    balancer("{consistentHash: {httpCookie: {ttl: 0s}}}", &[&format!("{LB}.consistentHash.httpCookie")]);
    balancer(
        "{consistentHash: {useSourceIp: true, maglev: {tableSize: 4}}}",
        &[&format!("{LB}.consistentHash.maglev.tableSize")],
    );
    balancer(
        "{consistentHash: {useSourceIp: true, maglev: {tableSize: 5000011}}}",
        &[&format!("{LB}.consistentHash.maglev.tableSize")],
    );
    balancer("{consistentHash: {useSourceIp: true, maglev: {tableSize: 1009}}}", &[]);
    balancer(
        "{consistentHash: {useSourceIp: true, minimumRingSize: 5}}",
        &[&format!("? {LB}.consistentHash.minimumRingSize")],
    );
    balancer(
        "{warmup: {duration: 1s, minimumPercent: 101, aggression: 0}}",
        &[&format!("{LB}.warmup.minimumPercent"), &format!("{LB}.warmup.aggression")],
    );
    balancer("{localityLbSetting: {distribute: [{from: 'a/*', to: {'a/*': 50, 'b/*': 50}}]}}", &[]);
    balancer(
        "{localityLbSetting: {distribute: [{from: 'a/*', to: {'a/*': 50, 'b/*': 51}}]}}",
        &[&format!("{LB}.localityLbSetting.distribute[0].to")],
    );
    balancer(
        "{localityLbSetting: {distribute: [{from: 'a/*', to: {'a/*': 0, 'b/*': 100}}]}}",
        &[&format!("{LB}.localityLbSetting.distribute[0].to")],
    );
    balancer(
        "{localityLbSetting: {distribute: [{from: 'a/*', to: {b: 100}}, {from: a/b, to: {b: 100}}]}}",
        &[&format!("{LB}.localityLbSetting.distribute")],
    );
    balancer(
        "{localityLbSetting: {distribute: [{from: 'a/*/c', to: {b: 100}}]}}",
        &[&format!("{LB}.localityLbSetting.distribute")],
    );
    balancer("{localityLbSetting: {failover: [{from: a, to: b}]}}", &[&format!("? {LB}.localityLbSetting")]);
    policy(
        "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: a, to: a}]}}}",
        &[&format!("{LB}.localityLbSetting.failover[0]")],
    );
    balancer(
        "{localityLbSetting: {failover: [{from: a, to: b}], distribute: [{from: a, to: {b: 100}}]}}",
        &[&format!("{LB}.localityLbSetting")],
    );
    balancer("{localityLbSetting: {}, zoneAwareLbSetting: {}}", &[LB]);
}

#[test]
fn service_entries() {
    entry("hosts: [a.b]", &[]);
    entry("hosts: []", &["spec"]);
    entry("hosts: ['*']", &["spec.hosts[0]"]);
    entry("hosts: ['*.b']\nresolution: STATIC", &[]);
    entry("hosts: ['*x']", &["? spec.hosts[0]"]);
    entry("hosts: [a.b]\nworkloadSelector: {}\nresolution: STATIC", &["? spec.workloadSelector.labels"]);
    entry(
        "hosts: [a.b]\nworkloadSelector: {labels: {a: b}}\nresolution: STATIC\nendpoints: [{address: 1.1.1.1}]",
        &["spec.endpoints"],
    );
    entry("hosts: [a.b]\naddresses: [10.0.0.0/8]\nresolution: DNS", &["spec.addresses[0]"]);
    entry("hosts: [a.b]\naddresses: [x]", &["spec.addresses[0]"]);
    entry(
        "hosts: [a.b]\nresolution: STATIC\nports: [{number: 80, name: a}, {number: 80, name: b}]",
        &["spec.ports[1].number"],
    );
    entry(
        "hosts: [a.b]\nresolution: STATIC\nports: [{number: 80, name: a}, {number: 81, name: a}]",
        &["spec.ports[1].name"],
    );
    entry("hosts: [a.b]\nresolution: STATIC\nports: [{number: 80}]", &["spec.ports[0]"]);
    entry("hosts: [a.b]\nresolution: STATIC\nports: [{number: 80, name: a, protocol: X}]", &["spec.ports[0].protocol"]);
    entry(
        "hosts: [a.b]\nresolution: STATIC\nports: [{number: 80, name: a, protocol: UDP, targetPort: 70000}]",
        &["spec.ports[0].targetPort"],
    );
    entry("hosts: [a.b]\nports: [{number: 80, name: a, protocol: TCP}]", &["? spec.ports[0]"]);
    entry("hosts: [a.b]\nendpoints: [{address: 1.1.1.1}]", &["spec.endpoints"]);
    entry("hosts: [a.b]\nresolution: STATIC\nendpoints: [{address: a.b}]", &["spec.endpoints[0].address"]);
    entry("hosts: [a.b]\nresolution: STATIC\nendpoints: [{}]", &["spec.endpoints[0]"]);
    entry("hosts: [a.b]\nresolution: STATIC\nports: [{number: 80, name: a}]\nendpoints: [{address: 'unix:///x'}]", &[]);
    entry("hosts: [a.b]\nresolution: STATIC\nendpoints: [{address: 'unix:///x'}]", &["spec.endpoints[0].address"]);
    entry(
        "hosts: [a.b]\nresolution: STATIC\nports: [{number: 80, name: a}]\nendpoints: [{address: 1.1.1.1, ports: {b: 80}}]",
        &["spec.endpoints[0].ports.b"],
    );
    entry("hosts: ['*.b']\nresolution: DNS", &["spec.hosts[0]"]);
    entry("hosts: ['*.b']\nresolution: DNS\nendpoints: [{address: a.b}]", &[]);
    entry("hosts: [a.b]\nresolution: DNS\nendpoints: [{address: 'unix:///x'}]", &["spec.endpoints[0]"]);
    entry(
        "hosts: [a.b]\nresolution: DNS_ROUND_ROBIN\nendpoints: [{address: a.b}, {address: c.d}]",
        &["spec.endpoints[1]"],
    );
    entry("hosts: [a.b]\nresolution: DYNAMIC_DNS", &["spec.hosts[0]"]);
    entry("hosts: ['*.b']\nresolution: DYNAMIC_DNS\nports: [{number: 443, name: a, protocol: TLS}]", &[]);
    entry(
        "hosts: ['*.b']\nresolution: DYNAMIC_DNS\nports: [{number: 443, name: a, protocol: HTTPS}]",
        &["spec.ports[0]"],
    );
    entry(
        "hosts: ['*.b']\nresolution: DYNAMIC_DNS\naddresses: [1.1.1.1]\nendpoints: [{address: a}]",
        &["spec.addresses", "spec.endpoints"],
    );
    entry("hosts: [a.b, c.d]\nresolution: DNS\nports: [{number: 80, name: a, protocol: HTTP}]", &[]);
    entry("hosts: [a.b, c.d]\nresolution: DNS\nports: [{number: 80, name: a, protocol: TCP}]", &["spec.ports[0]"]);
    entry("hosts: [a.b]\nexportTo: ['~']", &[]);
    entry("hosts: [a.b]\nexportTo: ['~', '.']", &["spec.exportTo"]);
}

#[test]
fn workload_entries() {
    workload("{address: 1.1.1.1, ports: {http: 80}, labels: {app: x}}", &[]);
    workload("{address: a.b}", &[]);
    workload("{address: 'unix://@x'}", &[]);
    workload("{network: net}", &["? spec"]);
    workload("{}", &["spec"]);
    workload("{address: 'a b'}", &["spec.address"]);
    workload("{address: 'unix://x'}", &["spec.address"]);
    workload("{address: 'unix:///x/'}", &["spec.address"]);
    workload("{address: 'unix://@x/'}", &["spec.address"]);
    workload("{address: 'unix:///x', ports: {a: 1}}", &["spec.ports"]);
    workload("{address: .}", &["spec.address"]);
    workload("{address: 1.1.1.1, ports: {a_b: 80, c: 0}}", &["spec.ports.a_b", "spec.ports.c"]);
    workload("{address: 1.1.1.1, labels: {app: 'x y'}}", &["spec.labels.app"]);
    // Limits of the CRD.
    let name = "x".repeat(63);
    workload(&format!("{{address: 1.1.1.1, ports: {{{}: 1}}}}", &name[1..]), &[]);
    workload(&format!("{{address: 1.1.1.1, ports: {{{name}: 1}}}}"), &[&format!("spec.ports.{name}")]);
    for (field, limit) in [("locality", 2048), ("serviceAccount", 253)] {
        workload(&format!("{{address: 1.1.1.1, {field}: {}}}", "x".repeat(limit)), &[]);
        workload(&format!("{{address: 1.1.1.1, {field}: {}}}", "x".repeat(limit + 1)), &[&format!("spec.{field}")]);
    }
    let ports: String = (1..=129).map(|number| format!("p{number}: {number}, ")).collect();
    workload(&format!("{{address: 1.1.1.1, ports: {{{ports}}}}}"), &["spec.ports"]);
    entry(
        &format!(
            "hosts: [a.b]\nresolution: STATIC\nendpoints: [{{address: 1.1.1.1, serviceAccount: {}}}]",
            "x".repeat(254)
        ),
        &["spec.endpoints[0].serviceAccount"],
    );
}

#[test]
fn metadata_and_kubernetes_kinds() {
    let annotated = |annotation: &str| {
        object("DestinationRule", "host: a")
            .replace("{name: a}", &format!("{{name: a, annotations: {{{annotation}: 'true'}}}}"))
    };
    check(&annotated("anything.test/x"), &[]);
    check(&annotated("internal.istio.io/parents"), &["metadata.annotations[\"internal.istio.io/parents\"]"]);
    check(&annotated("istio.io/dry-run"), &["metadata.annotations[\"istio.io/dry-run\"]"]);
    check(
        &object("DestinationRule", "host: a").replace("{name: a}", "{name: a, labels: {x: 'y z'}}"),
        &["metadata.labels.x"],
    );

    let service = |spec: &str, expected: &[&str]| {
        check(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}\n"), expected)
    };
    service("{ports: [{name: http, port: 80, targetPort: web}]}", &[]);
    service("{ports: [{name: http-web, port: 80}, {name: grpc, port: 81, appProtocol: kubernetes.io/h2c}]}", &[]);
    service("{ports: [{port: 80}]}", &["i spec.ports[0]"]);
    service("{ports: [{name: web, port: 80}]}", &["i spec.ports[0]"]);
    service("{ports: [{name: http, port: 0}]}", &["spec.ports[0].port"]);
    service("{ports: [{name: http, port: 80}, {name: http, port: 81}]}", &["spec.ports[1].name"]);
    service("{ports: [{name: http, port: 80, protocol: HTTP}]}", &["spec.ports[0].protocol"]);
    service("{type: ExternalName}", &["spec"]);

    let slice = |rest: &str, expected: &[&str]| {
        check(
            &format!("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a}}\n{rest}\n"),
            expected,
        );
    };
    slice("addressType: IPv4\nendpoints: [{addresses: [1.1.1.1]}]\nports: [{port: 80}]", &[]);
    slice("endpoints: []", &["addressType"]);
    slice("addressType: IPv4\nendpoints: [{addresses: [a.b]}, {}]", &["endpoints[0].addresses[0]", "endpoints[1]"]);
    slice("addressType: FQDN\nendpoints: [{addresses: [a.b]}]\nports: [{port: 0}]", &["ports[0].port"]);
}
