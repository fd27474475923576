//! What rules ask for and what they do: 2.2, 2.4 to 2.8.

use super::*;

fn with_rules(rules: &str) -> Compilation {
    compiled(&[GATEWAY, &virtual_service("v", &format!("hosts: [a.com], http: [{rules}]")), SERVICES])
}

/// One rule with a match that goes to `b`, everything else goes to `a`.
fn matching(entry: &str) -> Compilation {
    with_rules(&format!("{{match: [{{{entry}}}], {}}}, {{{}}}", to("b"), to("a")))
}

#[test]
fn every_condition_is_evaluated() {
    let check_match = |entry: &str, request: &str, headers: &[(&'static str, &str)], matches: bool| {
        let compilation = matching(entry);
        check_with(&compilation, request, headers, if matches { "80||b" } else { "80||a" });
    };
    check_match("uri: {exact: /x}", "GET a.com/x?q", &[], true);
    check_match("uri: {exact: /x}", "GET a.com/x/", &[], false);
    check_match("uri: {prefix: /x}", "GET a.com/xyz", &[], true);
    check_match("uri: {regex: '/x[0-9]+'}", "GET a.com/x12", &[], true);
    check_match("uri: {regex: '/x[0-9]+'}", "GET a.com/x12/y", &[], false);
    check_match("uri: {exact: /X}, ignoreUriCase: true", "GET a.com/x", &[], true);
    check_match("uri: {exact: /X}", "GET a.com/x", &[], false);
    check_match("uri: {prefix: ''}", "GET a.com/any", &[], true);
    check_match("scheme: {exact: http}", "GET a.com/", &[], true);
    check_match("scheme: {exact: https}", "GET a.com/", &[], false);
    check_match("method: {exact: POST}", "POST a.com/", &[], true);
    check_match("method: {exact: post}", "POST a.com/", &[], false);
    check_match("method: {regex: 'GET|HEAD'}", "GET a.com/", &[], true);
    check_match("authority: {exact: 'a.com:8443'}", "GET a.com:8443/", &[], true);
    check_match("authority: {exact: a.com}", "GET a.com:8443/", &[], false);
    check_match("authority: {exact: a.com}", "GET A.com/", &[], false);
    check_match("headers: {k: {exact: v}}", "GET a.com/", &[("k", "v")], true);
    check_match("headers: {k: {exact: v}}", "GET a.com/", &[("k", "v"), ("k", "w")], false);
    check_match("headers: {k: {exact: 'v,w'}}", "GET a.com/", &[("k", "v"), ("k", "w")], true);
    check_match("headers: {k: {}}", "GET a.com/", &[("k", "")], true);
    check_match("headers: {k: {}}", "GET a.com/", &[], false);
    check_match("headers: {k: {regex: '*'}}", "GET a.com/", &[("k", "x")], true);
    check_match("headers: {K-Upper: {prefix: v}}", "GET a.com/", &[("k-upper", "vw")], true);
    check_match("headers: {':authority': {prefix: a.}}", "GET a.com/", &[], true);
    check_match("headers: {':method': {exact: POST}}", "GET a.com/", &[], false);
    check_match("withoutHeaders: {k: {exact: v}}", "GET a.com/", &[], true);
    check_match("withoutHeaders: {k: {exact: v}}", "GET a.com/", &[("k", "v")], false);
    check_match("withoutHeaders: {k: {}}", "GET a.com/", &[("k", "x")], false);
    check_match("queryParams: {k: {exact: v}}", "GET a.com/?k=v&k=w", &[], true);
    check_match("queryParams: {k: {exact: ''}}", "GET a.com/?k", &[], true);
    check_match("queryParams: {k: {}}", "GET a.com/?l=k", &[], false);
    check_match("queryParams: {k: {prefix: v}}", "GET a.com/?k=vw", &[], true);
    check_match("uri: {prefix: /x}, headers: {k: {exact: v}}", "GET a.com/x", &[], false);
}

#[test]
fn entries_are_alternatives_and_the_first_rule_that_matches_wins() {
    let compilation = with_rules(&format!(
        "{{match: [{{uri: {{exact: /1}}}}, {{uri: {{exact: /2}}}}], {}}}, {{match: [{{uri: {{prefix: /}}, method: {{exact: GET}}}}], {}}}",
        to("b"),
        to("a")
    ));
    check(&compilation, "GET a.com/1", "80||b");
    check(&compilation, "GET a.com/2", "80||b");
    check(&compilation, "GET a.com/3", "80||a");
    check(&compilation, "POST a.com/3", "404 NR");
}

#[test]
fn routes_are_named_after_rule_and_match() {
    let compilation = with_rules(&format!(
        "{{name: rule, match: [{{name: entry, uri: {{exact: /1}}}}, {{uri: {{exact: /2}}}}], {}}}, {{{}}}",
        to("b"),
        to("a")
    ));
    let name = |request: &str| explain(&compilation, request, &[]).tried.last().unwrap().name.clone();
    assert_eq!(name("GET a.com/1"), "rule.entry");
    assert_eq!(name("GET a.com/2"), "rule");
    assert_eq!(name("GET a.com/3"), "");
    let place = &explain(&compilation, "GET a.com/1", &[]).tried[0].place;
    assert_eq!(place.object, "VirtualService default/v");
    assert!(place.origin.position.line > 0);
}

#[test]
fn claims_never_widen_a_rule() {
    // A claim that cannot be read never holds: the entry is left out.
    let positive = matching("uri: {prefix: /admin}, headers: {'@request.auth.claims.group': {exact: admin}}");
    check(&positive, "GET a.com/admin", "80||a");
    check_finding(&positive, "TG0004", "spec.http[0].match[0].headers[\"@request.auth.claims.group\"]", "left out");
    // Its negation may hold or not: nobody is let through, and nobody falls to the next rule.
    let negative = matching("uri: {prefix: /}, withoutHeaders: {'@request.auth.claims.group': {exact: banned}}");
    check(&negative, "GET a.com/anything", "direct 503");
    check_finding(&negative, "TG0004", "spec.http[0].match[0].withoutHeaders[\"@request.auth.claims.group\"]", "503");
    // A host all of whose rules are left out stays its own: a wider host does not take it over.
    let wide = virtual_service("wide", &format!("hosts: ['*.com'], http: [{{{}}}]", to("c")));
    let only = virtual_service(
        "only",
        "hosts: [x.com], http: [{match: [{headers: {'@request.auth.claims.g': {exact: a}}}], route: [{destination: {host: a}}]}]",
    );
    check(&compiled(&[GATEWAY, &wide, &only, SERVICES]), "GET x.com/", "404 NR");
}

#[test]
fn delegating_rules_are_refused_and_not_passed_over() {
    let compilation =
        with_rules(&format!("{{match: [{{uri: {{prefix: /d}}}}], delegate: {{name: x}}}}, {{{}}}", to("a")));
    check(&compilation, "GET a.com/d", "direct 503");
    check(&compilation, "GET a.com/", "80||a");
    check_finding(&compilation, "TG0004", "spec.http[0].delegate", "not enforced yet");
}

fn forwarded(compilation: &Compilation, request: &str) -> serde_json::Value {
    let outcome = serde_json::to_value(&explain(compilation, request, &[]).outcome).unwrap();
    assert_eq!(outcome["action"], "forward", "{outcome}");
    outcome
}

#[test]
fn rewrites_change_path_and_authority() {
    let check_rewrite = |entry: &str, rewrite: &str, request: &str, path: &str, authority: &str| {
        let compilation = with_rules(&format!("{{match: [{{{entry}}}], rewrite: {{{rewrite}}}, {}}}", to("a")));
        let outcome = forwarded(&compilation, request);
        assert_eq!(
            (outcome["path"].as_str(), outcome["authority"].as_str()),
            (Some(path), Some(authority)),
            "{rewrite}"
        );
    };
    check_rewrite("uri: {prefix: /foo}", "uri: /", "GET a.com/foo/x?y=1", "//x?y=1", "a.com");
    check_rewrite("uri: {exact: /foo}", "uri: /bar", "GET a.com/foo", "/bar", "a.com");
    check_rewrite("uri: {regex: '/f.*'}", "uri: /bar", "GET a.com/foo/x", "/bar", "a.com");
    check_rewrite("uri: {prefix: /foo}", "authority: b.com", "GET a.com:80/foo", "/foo", "b.com");
    let regex = r#"uriRegexRewrite: {match: "/([a-z]+)/v1", rewrite: "/v1/\\1"}"#;
    check_rewrite("uri: {prefix: /}", regex, "GET a.com/foo/v1", "/v1/foo", "a.com");
}

#[test]
fn the_host_upstream_has_one_setter_by_precedence() {
    let check_authority = |rule: &str, destination: &str, expected: &str| {
        let rules = format!("{{{rule}route: [{{destination: {{host: a}}{destination}}}]}}");
        assert_eq!(forwarded(&with_rules(&rules), "GET a.com/")["authority"], expected, "{rules}");
    };
    let in_route = "headers: {request: {set: {Host: route.com}}}, ";
    let in_destination = ", headers: {request: {set: {':authority': destination.com}}}";
    check_authority("", "", "a.com");
    check_authority("rewrite: {authority: rewrite.com}, ", in_destination, "rewrite.com");
    check_authority(&format!("rewrite: {{authority: rewrite.com}}, {in_route}"), "", "rewrite.com");
    check_authority(in_route, in_destination, "route.com");
    check_authority("", in_destination, "destination.com");
    check_authority("headers: {request: {add: {host: added.com}}}, ", "", "added.com");
    check_authority("headers: {request: {add: {host: added.com}, set: {host: set.com}}}, ", "", "set.com");
}

#[test]
fn a_destination_of_several_sets_the_host_for_itself() {
    let compilation = with_rules(
        "{route: [{destination: {host: a}, weight: 1, headers: {request: {set: {host: x.com}}}}, {destination: {host: b}, weight: 1}]}",
    );
    let route =
        &compilation.snapshot.listeners()[0].filter_chains()[0].route_table().unwrap().virtual_hosts()[0].routes()[0];
    let action = serde_json::to_value(&route.action).unwrap();
    assert_eq!(action["forward"]["clusters"][0]["request_headers"]["set"], serde_json::json!([["host", "x.com"]]));
    assert!(action["forward"].get("authority").is_none());
}

#[test]
fn header_operations_keep_their_kind_and_drop_pseudo_headers() {
    let compilation = with_rules(&format!(
        "{{headers: {{request: {{set: {{x-a: '1', ':path': /no}}, add: {{x-b: '%REQ(x-c)%'}}, remove: [x-d, host]}}, response: {{set: {{x-e: 'a%%b'}}}}}}, {}}}",
        to("a")
    ));
    let outcome = forwarded(&compilation, "GET a.com/");
    let expected = serde_json::json!({"remove": ["x-d"], "set": [["x-a", "1"]], "add": [["x-b", "%REQ(x-c)%"]]});
    assert_eq!(outcome["requestHeaders"], expected, "{outcome}");
    assert_eq!(outcome["responseHeaders"], serde_json::json!({"set": [["x-e", "a%b"]]}));
}

#[test]
fn a_header_whose_value_cannot_be_made_is_not_left_to_the_client() {
    let compilation = with_rules(&format!("{{headers: {{request: {{set: {{x-user: '%NO_SUCH%'}}}}}}, {}}}", to("a")));
    let outcome = forwarded(&compilation, "GET a.com/");
    assert_eq!(outcome["requestHeaders"], serde_json::json!({"remove": ["x-user"]}));
    check_finding(&compilation, "IST0106", "spec.http[0].headers.request.set.x-user", "unknown operator");
}

#[test]
fn timeouts_are_kept_and_absent_ones_are_none() {
    let with =
        |timeout: &str| forwarded(&with_rules(&format!("{{{timeout}{}}}", to("a"))), "GET a.com/")["timeoutMs"].clone();
    assert_eq!(with("timeout: 1.5s, "), 1500);
    assert_eq!(with(""), serde_json::Value::Null);
}

#[test]
fn redirects_are_compiled_with_all_their_fields() {
    let check_redirect = |entry: &str, redirect: &str, request: &str, expected: &str| {
        let compilation = with_rules(&format!("{{match: [{{{entry}}}], redirect: {{{redirect}}}}}"));
        check(&compilation, request, expected);
    };
    let any = "uri: {prefix: /p}";
    check_redirect(any, "uri: /new", "GET a.com/p/q?x=1", "301 http://a.com/new?x=1");
    check_redirect(any, "uri: /new, redirectCode: 308", "GET a.com/p", "308 http://a.com/new");
    check_redirect(any, "prefixRewrite: /r", "GET a.com/p/q", "301 http://a.com/r/q");
    check_redirect(any, "authority: b.com", "GET a.com:81/p", "301 http://b.com/p");
    check_redirect(any, "scheme: https", "GET a.com:8080/p", "301 https://a.com:8080/p");
    check_redirect(any, "scheme: https, port: 8443", "GET a.com/p", "301 https://a.com:8443/p");
    check_redirect(any, "scheme: https, derivePort: FROM_PROTOCOL_DEFAULT", "GET a.com:8080/p", "301 https://a.com/p");
    check_redirect(any, "scheme: https, derivePort: FROM_REQUEST_PORT", "GET a.com/p", "301 https://a.com:80/p");
    let bad = with_rules("{redirect: {uri: /x, redirectCode: 304}}");
    check(&bad, "GET a.com/", "direct 404");
    check_finding(&bad, "IST0106", "spec.http[0].redirect.redirectCode", "304");
}

#[test]
fn direct_responses_have_status_and_body() {
    let body = |response: &str| {
        let compilation = with_rules(&format!("{{directResponse: {{{response}}}}}"));
        let route = &compilation.snapshot.listeners()[0].filter_chains()[0].route_table().unwrap().virtual_hosts()[0]
            .routes()[0];
        serde_json::to_value(&route.action).unwrap()["directResponse"].clone()
    };
    assert_eq!(body("status: 418, body: {string: teapot}"), serde_json::json!({"status": 418, "body": "teapot"}));
    assert_eq!(body("status: 200, body: {bytes: aGk=}"), serde_json::json!({"status": 200, "body": "hi"}));
    assert_eq!(body("status: 503"), serde_json::json!({"status": 503, "body": null}));
    let broken = with_rules("{directResponse: {status: 42}}");
    check(&broken, "GET a.com/", "direct 503");
}

#[test]
fn a_rule_that_breaks_its_own_rules_costs_only_itself() {
    let check_broken = |rule: &str, path: &str| {
        let compilation = with_rules(&format!("{{match: [{{uri: {{prefix: /bad}}}}], {rule}}}, {{{}}}", to("a")));
        check(&compilation, "GET a.com/bad", "direct 503");
        check(&compilation, "GET a.com/", "80||a");
        check_finding(&compilation, "IST0106", path, "answered 503");
    };
    check_broken("name: nothing", "spec.http[0]");
    check_broken("route: [{destination: {host: a}, weight: 0}, {destination: {host: b}, weight: 0}]", "spec.http[0]");
    check_broken("route: [{weight: 1}]", "spec.http[0].route");
    check_broken(
        &format!("rewrite: {{uriRegexRewrite: {{match: '(', rewrite: x}}}}, {}", to("a")),
        "spec.http[0].rewrite.uriRegexRewrite",
    );
    let regex = matching("uri: {regex: '('}");
    check(&regex, "GET a.com/(", "80||a");
    check_finding(&regex, "IST0106", "spec.http[0].match[0].uri", "left out");
    let negated = matching("uri: {prefix: /x}, withoutHeaders: {k: {regex: '('}}");
    check(&negated, "GET a.com/x", "direct 503");
}
