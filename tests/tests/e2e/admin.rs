//! The admin interface, as tools written for Envoy and istioctl read it.

use serde_json::Value;
use tidegate_tests::process::{free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, EchoBackend, Tidegate, client, yaml};

async fn start() -> (Tidegate, std::net::SocketAddr, ConfigFolder, EchoBackend) {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let text = yaml::echo(port, backend.address)
        + &yaml::virtual_service(
            "more",
            "more.test",
            "- match: [{uri: {prefix: /a}, headers: {end-user: {exact: jason}}}]\n  rewrite: {uri: /b}\n  route: [{destination: {host: echo.test}}]\n\
             - match: [{uri: {exact: /go}}]\n  redirect: {uri: /went}\n\
             - match: [{uri: {exact: /say}}]\n  directResponse: {status: 200, body: {string: said}}",
        );
    let folder = ConfigFolder::with(text);
    (Tidegate::start(&folder).await, local(port), folder, backend)
}

/// The section of `/config_dump` whose `@type` ends in `name`.
fn section<'a>(dump: &'a Value, name: &str) -> &'a Value {
    let sections = dump["configs"].as_array().unwrap();
    let found = sections.iter().find(|section| section["@type"].as_str().unwrap_or_default().ends_with(name));
    found.unwrap_or_else(|| panic!("no {name} in {dump}"))
}

#[tokio::test]
async fn config_dump_has_envoys_shape_and_istios_names() {
    let (tidegate, address, _folder, backend) = start().await;
    let hash = tidegate.hash().await;
    let dump = tidegate.admin("/config_dump?include_eds").await.json();
    let bootstrap = section(&dump, ".BootstrapConfigDump");
    let id = bootstrap["bootstrap"]["node"]["id"].as_str().unwrap();
    assert!(id.starts_with("router~") && id.split('~').count() == 4, "{id}");
    assert!(bootstrap["bootstrap"]["node"]["metadata"]["ISTIO_VERSION"].is_string(), "{bootstrap}");

    let clusters = section(&dump, ".ClustersConfigDump");
    assert_eq!(clusters["version_info"], hash);
    let cluster = &clusters["dynamic_active_clusters"][0]["cluster"];
    assert_eq!(cluster["name"], "outbound|80||echo.test");
    assert!(cluster["@type"].as_str().unwrap().ends_with("envoy.config.cluster.v3.Cluster"));

    let listeners = section(&dump, ".ListenersConfigDump");
    let listener = &listeners["dynamic_listeners"][0];
    assert_eq!(listener["active_state"]["version_info"], hash);
    let text = listener.to_string();
    assert!(text.contains("envoy.filters.network.http_connection_manager"), "{text}");
    let route_name = format!("http.{}", address.port());
    assert!(text.contains(&format!("\"route_config_name\":\"{route_name}\"")), "{text}");

    let routes = section(&dump, ".RoutesConfigDump");
    let table = &routes["dynamic_route_configs"][0];
    assert_eq!(
        (table["version_info"].as_str(), table["route_config"]["name"].as_str()),
        (Some(hash.as_str()), Some(route_name.as_str()))
    );
    let hosts = table["route_config"]["virtual_hosts"].as_array().unwrap();
    let more = hosts.iter().find(|host| host["domains"].to_string().contains("more.test")).unwrap();
    let routes = more["routes"].as_array().unwrap();
    assert_eq!(routes[0]["match"]["prefix"], "/a");
    assert_eq!(routes[0]["match"]["headers"][0]["name"], "end-user");
    assert_eq!(routes[0]["route"]["cluster"], "outbound|80||echo.test");
    assert_eq!(
        routes[0]["metadata"]["filter_metadata"]["istio"]["config"],
        "/apis/networking.istio.io/v1/namespaces/default/virtual-service/more"
    );
    assert!(routes[1]["redirect"].is_object() && routes[2]["direct_response"]["status"] == 200, "{more}");

    let endpoints = section(&dump, ".EndpointsConfigDump").to_string();
    assert!(endpoints.contains(&format!("\"port_value\":{}", backend.address.port())), "{endpoints}");
    let without = tidegate.admin("/config_dump").await.text();
    assert!(!without.contains("EndpointsConfigDump"));
}

#[tokio::test]
async fn listeners_and_clusters_are_in_envoys_lines() {
    let (tidegate, address, _folder, backend) = start().await;
    client::get(address, "echo.test", "/").await;
    let listeners = tidegate.admin("/listeners").await.text();
    assert!(
        listeners.lines().any(|line| line.contains("::") && line.ends_with(&format!(":{}", address.port()))),
        "{listeners}"
    );
    let start = format!("outbound|80||echo.test::{}::", backend.address);
    // Counted at the end of the request, after its answer.
    for (name, value) in [("rq_total", "1"), ("rq_success", "1"), ("rq_active", "0"), ("health_flags", "healthy")] {
        let line = format!("{start}{name}::{value}");
        wait::until(&line, PATIENCE, || async {
            tidegate.admin("/clusters").await.text().lines().any(|found| found == line).then_some(())
        })
        .await;
    }
    let json = tidegate.admin("/clusters?format=json").await.json();
    assert_eq!(json["cluster_statuses"][0]["name"], "outbound|80||echo.test");
}

#[tokio::test]
async fn explain_says_what_the_request_path_does() {
    let (tidegate, address, _folder, _backend) = start().await;
    for (host, path, header, status, cluster) in [
        ("echo.test", "/x", "", 200, "outbound|80||echo.test"),
        ("more.test", "/a/1", "end-user:jason", 200, "outbound|80||echo.test"),
        ("more.test", "/a/1", "", 404, ""),
        ("nobody.test", "/", "", 404, ""),
    ] {
        let headers: Vec<(&str, &str)> = header.split_once(':').into_iter().collect();
        assert_eq!(
            client::send(address, "GET", host, path, &headers, "").await.status.as_u16(),
            status,
            "{host}{path}"
        );
        let header = if header.is_empty() { String::new() } else { format!("&header={}", header.replace(':', "%3A")) };
        let url = format!(
            "/explain?method=GET&url=http%3A%2F%2F{host}{}&port={}{header}",
            path.replace('/', "%2F"),
            address.port()
        );
        let answer = tidegate.admin(&url).await;
        assert_eq!(answer.status, 200, "{url}: {}", answer.text());
        let text = answer.text();
        assert_eq!(text.contains("outbound|80||echo.test"), !cluster.is_empty(), "{host}{path}: {text}");
        if status == 200 {
            assert!(text.contains("gateway.yaml"), "no place in {text}");
        }
    }
}

/// A configuration and requests made of the same few words: whatever `/explain` says, the request path does.
#[tokio::test]
async fn explain_agrees_with_traffic_on_any_request() {
    const WORDS: [&str; 6] = ["a", "b", "ab", "A", "a%2fb", "c"];
    let (port, mut backends, mut text) = (free_port(), Vec::new(), String::new());
    for name in ["one", "two", "three"] {
        let backend = EchoBackend::start(name).await;
        text += &yaml::service_entry(name, &format!("{name}.test"), "HTTP", &[backend.address]);
        backends.push(backend);
    }
    // A small linear congruential generator: the same cases in every run.
    let mut state = 7u64;
    let mut pick = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for (number, host) in ["a.test", "*.a.test", "b.a.test", "*"].into_iter().enumerate() {
        let mut http = String::new();
        for rule in 0..6 {
            let kind = ["prefix", "exact", "prefix"][pick(3)];
            let mut fields = vec![format!("uri: {{{kind}: '/{}'}}", WORDS[pick(6)])];
            if pick(3) == 0 {
                fields.push(format!(
                    "headers: {{x-h: {{{}: {}}}}}",
                    ["exact", "prefix", "regex"][pick(3)],
                    WORDS[pick(4)]
                ));
            }
            if pick(4) == 0 {
                fields.push(format!("queryParams: {{q: {{exact: {}}}}}", WORDS[pick(4)]));
            }
            if pick(5) == 0 {
                fields.push("method: {exact: POST}".into());
            }
            let to = ["one", "two", "three"][(rule + number) % 3];
            http += &format!("- match: [{{{}}}]\n  route: [{{destination: {{host: {to}.test}}}}]\n", fields.join(", "));
        }
        text += &yaml::virtual_service(&format!("v{number}"), host, &http);
    }
    let folder = ConfigFolder::with(yaml::gateway("edge", port) + &text);
    let tidegate = Tidegate::start(&folder).await;
    let mut reached = std::collections::BTreeMap::new();
    for _ in 0..300 {
        let host = ["a.test", "x.a.test", "b.a.test", "B.A.TEST:81", "other"][pick(5)];
        let query = if pick(2) == 0 { format!("?q={}", WORDS[pick(4)]) } else { String::new() };
        let target = format!("/{}{}{query}", WORDS[pick(6)], ["", "/", "/a", "//b"][pick(4)]);
        let header = WORDS[pick(4)];
        let method = ["GET", "GET", "POST"][pick(3)];
        let answer = client::send(local(port), method, host, &target, &[("x-h", header)], "").await;
        let url: String = format!("http://{host}{target}")
            .bytes()
            .map(
                |byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") },
            )
            .collect();
        let explained =
            tidegate.admin(&format!("/explain?method={method}&url={url}&port={port}&header=x-h%3A{header}")).await;
        let text = explained.text();
        let backend = answer.header("x-backend").to_owned();
        let named: Vec<&str> = ["one", "two", "three"]
            .into_iter()
            .filter(|name| text.contains(&format!("outbound|80||{name}.test")))
            .collect();
        let expected: Vec<&str> = if backend.is_empty() { vec![] } else { vec![&backend] };
        assert_eq!(named, expected, "{method} {host}{target} x-h={header}: {} and\n{text}", answer.status);
        *reached.entry(backend).or_insert(0) += 1;
    }
    assert_eq!(reached.len(), 4, "all backends and 404 were met: {reached:?}");
}

#[tokio::test]
async fn reading_is_get_and_changing_is_post_from_here() {
    let (tidegate, _address, _folder, _backend) = start().await;
    for path in [
        "/ready",
        "/server_info",
        "/config_dump",
        "/clusters",
        "/listeners",
        "/stats",
        "/stats/prometheus",
        "/help",
        "/certs",
    ] {
        assert_eq!(tidegate.admin(path).await.status, 200, "{path}");
    }
    assert_eq!(tidegate.admin("/ready").await.text().trim(), "LIVE");
    let info = tidegate.admin("/server_info").await.json();
    assert_eq!(info["state"], "LIVE");
    for path in ["/quitquitquit", "/drain_listeners", "/logging?level=debug", "/healthcheck/fail"] {
        assert_eq!(tidegate.admin(path).await.status, 405, "{path}");
    }
    let rebound = client::get(tidegate.admin, "evil.example", "/config_dump").await;
    assert!(rebound.status.is_client_error(), "DNS rebinding: {}", rebound.status);
    let crossed =
        client::send(tidegate.admin, "POST", "localhost", "/quitquitquit", &[("origin", "http://evil.example")], "")
            .await;
    assert!(crossed.status.is_client_error(), "cross-site: {}", crossed.status);
    let logging = tidegate.admin_post("/logging?level=debug").await;
    assert!(logging.text().contains("active loggers:"), "{}", logging.text());
    assert_eq!(tidegate.admin_post("/healthcheck/fail").await.status, 200);
    assert!(!tidegate.is_ready().await);
    assert_eq!(tidegate.admin_post("/healthcheck/ok").await.status, 200);
    assert!(tidegate.is_ready().await);
}

#[tokio::test]
async fn the_admin_interface_is_not_reachable_through_the_data_ports() {
    let (_tidegate, address, _folder, _backend) = start().await;
    for host in ["localhost", "127.0.0.1:15000", "127.0.0.1"] {
        for path in ["/config_dump", "/stats/prometheus", "/healthz/ready", "/quitquitquit"] {
            assert_eq!(client::get(address, host, path).await.status, 404, "{host}{path}");
        }
    }
}
