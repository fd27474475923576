//! Which route a request takes, over HTTP/1.1 and HTTP/2 with prior knowledge.

use std::collections::BTreeMap;

use tidegate_tests::process::{free_port, local};
use tidegate_tests::{BOTH, Client, ConfigFolder, EchoBackend, Tidegate, client, yaml};

/// Backends `a`, `b`, `c` as `a.test` and so on, the gateway `edge`, and what `routes` adds.
async fn start(routes: &str) -> (Tidegate, std::net::SocketAddr, ConfigFolder, Vec<EchoBackend>) {
    let port = free_port();
    let mut text = yaml::gateway("edge", port);
    let mut backends = Vec::new();
    for name in ["a", "b", "c"] {
        let backend = EchoBackend::start(name).await;
        text += &yaml::service_entry(name, &format!("{name}.test"), "HTTP", &[backend.address]);
        backends.push(backend);
    }
    let folder = ConfigFolder::with(text + routes);
    (Tidegate::start(&folder).await, local(port), folder, backends)
}

/// Sends each case over both protocols and compares who answered: a backend's name, or a status.
async fn check(
    address: std::net::SocketAddr,
    method: &str,
    host: &str,
    target: &str,
    headers: &[(&str, &str)],
    to: &str,
) {
    for protocol in BOTH {
        let answer = client::send_over(protocol, address, method, host, target, headers, "").await;
        let found = match answer.header("x-backend") {
            "" => answer.status.as_str().to_owned(),
            backend => backend.to_owned(),
        };
        assert_eq!(found, to, "{method} {host}{target} {headers:?} {protocol:?}");
    }
}

#[tokio::test]
async fn the_most_specific_host_wins_and_never_falls_through() {
    let routes = yaml::forward("exact", "shop.example.com", "a.test")
        + &yaml::forward("suffix", "*.example.com", "b.test")
        + &yaml::virtual_service(
            "narrow",
            "n.example.com",
            "- match: [{uri: {prefix: /only}}]\n  route: [{destination: {host: c.test}}]",
        );
    let (_tidegate, address, _folder, _backends) = start(&routes).await;
    for (host, to) in [
        ("shop.example.com", "a"),
        ("SHOP.Example.COM", "a"),
        ("shop.example.com:8443", "a"),
        ("x.example.com", "b"),
        ("x.y.example.com", "b"),
        ("n.example.com", "404"),
        ("example.com", "404"),
        ("evilexample.com", "404"),
        ("other.test", "404"),
    ] {
        check(address, "GET", host, "/", &[], to).await;
    }
    check(address, "GET", "n.example.com", "/only/this", &[], "c").await;
}

#[tokio::test]
async fn every_match_field_decides() {
    let http = "\
- match: [{uri: {exact: /exact}}]
  route: [{destination: {host: a.test}}]
- match: [{uri: {prefix: /Pre}, ignoreUriCase: true}]
  route: [{destination: {host: a.test}}]
- match: [{uri: {regex: '/v[0-9]+/.*'}}]
  route: [{destination: {host: a.test}}]
- match: [{method: {exact: DELETE}}]
  route: [{destination: {host: a.test}}]
- match: [{headers: {end-user: {exact: jason}, x-b: {prefix: be}}}]
  route: [{destination: {host: a.test}}]
- match: [{headers: {x-present: {}}}]
  route: [{destination: {host: a.test}}]
- match: [{uri: {prefix: /without}, withoutHeaders: {x-not: {exact: here}}}]
  route: [{destination: {host: a.test}}]
- match: [{queryParams: {debug: {exact: 'yes'}}}]
  route: [{destination: {host: a.test}}]
- match: [{queryParams: {page: {regex: '[0-9]+'}}}]
  route: [{destination: {host: a.test}}]
- match: [{authority: {exact: 'm.test:1234'}}]
  route: [{destination: {host: a.test}}]
- match: [{scheme: {exact: https}}]
  route: [{destination: {host: c.test}}]
- match:
  - uri: {prefix: /both}
    headers: {x-both: {exact: 'yes'}}
  - uri: {exact: /either}
  route: [{destination: {host: a.test}}]
- route: [{destination: {host: b.test}}]";
    let (_tidegate, address, _folder, _backends) = start(&yaml::virtual_service("m", "m.test", http)).await;
    for (method, target, headers, to) in [
        ("GET", "/exact", &[][..], "a"),
        ("GET", "/exact?q=1", &[], "a"),
        ("GET", "/exact/", &[], "b"),
        ("GET", "/Exact", &[], "b"),
        ("GET", "/pREfix", &[], "a"),
        ("GET", "/v12/x", &[], "a"),
        ("GET", "/v/x", &[], "b"),
        ("GET", "/a/v12/x", &[], "b"),
        ("DELETE", "/", &[], "a"),
        ("GET", "/", &[("end-user", "jason"), ("x-b", "berta")], "a"),
        ("GET", "/", &[("end-user", "jason")], "b"),
        ("GET", "/", &[("end-user", "Jason"), ("x-b", "berta")], "b"),
        ("GET", "/", &[("x-present", "anything")], "a"),
        ("GET", "/without", &[], "a"),
        ("GET", "/without", &[("x-not", "there")], "a"),
        ("GET", "/without", &[("x-not", "here")], "b"),
        ("GET", "/?debug=yes", &[], "a"),
        ("GET", "/?debug=no&debug=yes", &[], "b"),
        ("GET", "/?page=12", &[], "a"),
        ("GET", "/?page=1x", &[], "b"),
        ("GET", "/both", &[("x-both", "yes")], "a"),
        ("GET", "/both", &[], "b"),
        ("GET", "/either", &[], "a"),
        ("GET", "/", &[], "b"),
    ] {
        check(address, method, "m.test", target, headers, to).await;
    }
    check(address, "GET", "m.test:1234", "/", &[], "a").await;
}

#[tokio::test]
async fn older_routes_come_first_and_catch_alls_last() {
    let older = yaml::virtual_service(
        "older",
        "s.test",
        "- match: [{uri: {prefix: /a}}]\n  route: [{destination: {host: a.test}}]\n- route: [{destination: {host: c.test}}]",
    )
    .replace("{name: older}", "{name: older, creationTimestamp: '2020-01-01T00:00:00Z'}");
    let younger = yaml::virtual_service(
        "younger",
        "s.test",
        "- match: [{uri: {prefix: /a/b}}]\n  route: [{destination: {host: b.test}}]\n- match: [{uri: {prefix: /y}}]\n  route: [{destination: {host: b.test}}]\n- route: [{destination: {host: b.test}}]",
    )
    .replace("{name: younger}", "{name: younger, creationTimestamp: '2021-01-01T00:00:00Z'}");
    let (_tidegate, address, _folder, _backends) = start(&(younger + &older)).await;
    for (target, to) in [("/a/b", "a"), ("/a", "a"), ("/y", "b"), ("/", "c"), ("/other", "c")] {
        check(address, "GET", "s.test", target, &[], to).await;
    }
}

#[tokio::test]
async fn weights_split_traffic_and_weight_zero_gets_none() {
    let http = "\
- route:
  - {destination: {host: a.test}, weight: 75}
  - {destination: {host: b.test}, weight: 25}
  - {destination: {host: c.test}, weight: 0}";
    let (_tidegate, address, _folder, backends) = start(&yaml::virtual_service("w", "w.test", http)).await;
    let mut client = Client::http1(address).await.unwrap();
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..800 {
        let answer = client.get("w.test", "/").await.unwrap();
        *answers.entry(answer.header("x-backend").to_owned()).or_default() += 1;
    }
    // Six standard deviations of a binomial of 800 at 75 %: fails by chance less than once in 100 million runs.
    let a = answers["a"];
    assert!((527..=673).contains(&a) && answers["b"] == 800 - a, "{answers:?}");
    assert_eq!(backends[2].requests(), 0);
}

#[tokio::test]
async fn rewrites_change_what_the_backend_receives() {
    let http = "\
- match: [{uri: {prefix: /old/}}]
  rewrite: {uri: /new/, authority: inner.example.com}
  route: [{destination: {host: a.test}}]
- match: [{uri: {exact: /exact}}]
  rewrite: {uri: /whole}
  route: [{destination: {host: a.test}}]
- match: [{uri: {prefix: /r}}]
  rewrite: {uriRegexRewrite: {match: '/r/([a-z]+)/([a-z]+)', rewrite: '/\\2/\\1'}}
  route: [{destination: {host: a.test}}]
- route: [{destination: {host: a.test}}]";
    let (_tidegate, address, _folder, _backends) = start(&yaml::virtual_service("r", "r.test", http)).await;
    for (target, received, original) in [
        ("/old/x?q=%2F", "/new/x?q=%2F", Some("/old/x?q=%2F")),
        ("/exact?q", "/whole?q", Some("/exact?q")),
        ("/r/left/right", "/right/left", Some("/r/left/right")),
        ("/plain", "/plain", None),
    ] {
        let answer = client::get(address, "r.test", target).await;
        assert_eq!(answer.json()["target"], received, "{target}");
        assert_eq!(answer.received("x-envoy-original-path").as_deref(), original, "{target}");
        let host = if target.starts_with("/old") { "inner.example.com" } else { "r.test" };
        assert_eq!(answer.json()["host"], host, "{target}");
    }
}

#[tokio::test]
async fn redirects_and_direct_responses_are_answered_here() {
    let http = "\
- match: [{uri: {prefix: /gone}}]
  redirect: {uri: /here, authority: new.example.com, redirectCode: 308}
- match: [{uri: {prefix: /scheme}}]
  redirect: {scheme: https}
- match: [{uri: {prefix: /teapot}}]
  directResponse: {status: 418, body: {string: short and stout}}
  headers: {response: {set: {x-pot: tea}}}
- match: [{uri: {prefix: /empty}}]
  directResponse: {status: 204}";
    let (_tidegate, address, _folder, backends) = start(&yaml::virtual_service("d", "d.test", http)).await;
    let answer = client::get(address, "d.test", "/gone/x?q=1").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (308, "http://new.example.com/here?q=1"));
    assert!(answer.body.is_empty());
    let answer = client::get(address, "d.test", "/scheme/x?q=1").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (301, "https://d.test/scheme/x?q=1"));
    let answer = client::get(address, "d.test", "/teapot").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (418, "short and stout"));
    assert_eq!((answer.header("content-type"), answer.header("x-pot")), ("text/plain", "tea"));
    assert_eq!(client::get(address, "d.test", "/empty").await.status, 204);
    assert!(backends.iter().all(|backend| backend.requests() == 0));
}

#[tokio::test]
async fn https_redirect_answers_301_before_any_route() {
    let port = free_port();
    let gateway =
        yaml::gateway("edge", port).replace("    hosts: ['*']", "    hosts: ['*']\n    tls: {httpsRedirect: true}");
    let backend = EchoBackend::start("a").await;
    let text = gateway
        + &yaml::forward("v", "v.test", "a.test")
        + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address]);
    let folder = ConfigFolder::with(text);
    let _tidegate = Tidegate::start(&folder).await;
    let answer = client::get(local(port), "v.test", "/x?y=1").await;
    assert_eq!(answer.status, 301);
    assert_eq!(answer.header("location"), "https://v.test/x?y=1");
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn header_operations_run_in_istios_order() {
    let http = "\
- headers:
    request:
      remove: [x-gone]
      set: {x-set: new, host: set.example.com}
      add: {x-add: two}
    response:
      remove: [x-internal]
      set: {x-route: rule}
      add: {x-many: second}
  route:
  - destination: {host: a.test}
    headers:
      request: {set: {x-destination: 'yes'}}
      response: {set: {x-from: destination}}";
    let (_tidegate, address, _folder, _backends) = start(&yaml::virtual_service("h", "h.test", http)).await;
    let headers = [
        ("x-gone", "1"),
        ("x-set", "old"),
        ("x-add", "one"),
        ("x-echo-header", "x-internal=secret"),
        ("x-echo-header", "x-many=first"),
    ];
    for protocol in BOTH {
        let answer = client::send_over(protocol, address, "GET", "h.test", "/", &headers, "").await;
        assert_eq!(answer.received("x-gone"), None);
        assert_eq!(answer.received("x-set").as_deref(), Some("new"));
        assert_eq!(answer.received("x-add").as_deref(), Some("one,two"));
        assert_eq!(answer.received("x-destination").as_deref(), Some("yes"));
        assert_eq!(answer.json()["host"], "set.example.com");
        assert_eq!(
            (answer.header("x-internal"), answer.header("x-route"), answer.header("x-from")),
            ("", "rule", "destination")
        );
        let many: Vec<_> = answer.headers.get_all("x-many").iter().collect();
        assert_eq!(many, ["first", "second"]);
    }
}

#[tokio::test]
async fn a_virtual_service_of_another_gateway_or_namespace_does_not_bind() {
    let routes = yaml::forward("elsewhere", "e.test", "a.test").replace("gateways: [edge]", "gateways: [other]")
        + &yaml::forward("hidden", "hidden.test", "a.test")
            .replace("gateways: [edge]", "gateways: [edge]\n  exportTo: ['.']")
        + &yaml::forward("mesh", "mesh.test", "a.test").replace("gateways: [edge]\n", "\n")
        + &yaml::forward("seen", "seen.test", "a.test");
    let (_tidegate, address, _folder, _backends) = start(&routes).await;
    for (host, to) in [("e.test", "404"), ("hidden.test", "404"), ("mesh.test", "404"), ("seen.test", "a")] {
        check(address, "GET", host, "/", &[], to).await;
    }
}

#[tokio::test]
async fn one_listener_serves_the_gateways_of_one_port_and_another_port_its_own() {
    let backend = EchoBackend::start("a").await;
    let (one, two) = (free_port(), free_port());
    let text = yaml::gateway("edge", one)
        + &yaml::gateway("second", two)
        + &yaml::gateway("same", one).replace("hosts: ['*']", "hosts: [same.test]")
        + &yaml::forward("e", "e.test", "a.test")
        + &yaml::forward("s", "s.test", "a.test").replace("[edge]", "[second]")
        + &yaml::forward("m", "same.test", "a.test").replace("[edge]", "[same]")
        + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address]);
    let folder = ConfigFolder::with(text);
    let _tidegate = Tidegate::start(&folder).await;
    for (port, host, to) in [
        (one, "e.test", "a"),
        (one, "s.test", "404"),
        (one, "same.test", "a"),
        (two, "s.test", "a"),
        (two, "e.test", "404"),
        (two, "same.test", "404"),
    ] {
        check(local(port), "GET", host, "/", &[], to).await;
    }
}
