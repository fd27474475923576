//! Every other endpoint over a real socket, and who may ask.

use serde_json::{Value, json};
use tidegate_admin::{AdminServer, AllowedHosts};
use tidegate_core::Phase;
use tokio::net::TcpStream;

use crate::support::{Answer, DNS, Servers, V1, V2, ask, exchange};

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_lifecycle_on_all_three_ports() {
    let servers = Servers::start();
    let check = async |status: u16, state: &str| {
        for (server, path) in
            [(servers.admin, "/ready"), (servers.stats, "/healthz/ready"), (servers.health, "/healthz/ready")]
        {
            let answer = ask(server, "GET", path, &[]).await;
            assert_eq!((answer.status, answer.body.as_str()), (status, state), "{path}");
            assert_eq!(answer.headers["content-type"], "text/plain; charset=UTF-8");
        }
    };
    check(200, "LIVE\n").await;
    assert_eq!(servers.post("/healthcheck/fail").await.body, "OK\n");
    check(503, "DRAINING\n").await;
    assert_eq!(servers.post("/healthcheck/ok").await.body, "OK\n");
    check(200, "LIVE\n").await;
    servers.lifecycle.advance(Phase::Draining);
    check(503, "DRAINING\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_snapshot_the_state_is_pre_initializing() {
    let backend = crate::support::Fixture::new(tidegate_snapshot::Snapshot::empty());
    let server = AdminServer::bind(([127, 0, 0, 1], 0).into(), backend, tidegate_core::Lifecycle::default()).unwrap();
    let address = server.local_addr();
    let _serving = tokio::spawn(server.serve(tokio_util::sync::CancellationToken::new()));
    let answer = ask(address, "GET", "/ready", &[]).await;
    assert_eq!((answer.status, answer.body.as_str()), (503, "PRE_INITIALIZING\n"));
    let stats = ask(address, "GET", "/stats?filter=^(server\\.state|listener_manager\\.workers_started)$", &[]).await;
    assert_eq!(stats.body, "listener_manager.workers_started: 0\nserver.state: 2\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_info_has_envoys_fields() {
    let info = Servers::start().get("/server_info").await.json();
    assert_eq!(info["state"], "LIVE");
    assert_eq!(info["version"].as_str().unwrap().split('/').count(), 5);
    assert_eq!(info["node"]["id"], "router~10.0.0.9~gw-1.istio-system~istio-system.svc.cluster.local");
    assert_eq!(info["command_line_options"]["service_node"], info["node"]["id"]);
    assert!(info["uptime_current_epoch"].as_str().unwrap().ends_with('s'));
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_are_listed_line_by_line_and_as_json() {
    let servers = Servers::start();
    let text = servers.get("/clusters").await.body;
    for line in [
        format!("{DNS}::observability_name::{DNS}"),
        format!("{DNS}::default_priority::max_connections::4294967295"),
        format!("{DNS}::added_via_api::true"),
        format!("{DNS}::93.184.215.14:443::cx_active::1"),
        format!("{DNS}::93.184.215.14:443::rq_total::3"),
        format!("{DNS}::93.184.215.14:443::hostname::example.com"),
        format!("{DNS}::93.184.215.14:443::health_flags::healthy"),
        format!("{V1}::10.0.0.2:9080::health_flags::/failed_eds_health"),
        format!("{V1}::10.0.0.2:9080::zone::b"),
        format!("{V1}::10.0.0.2:9080::success_rate::-1"),
        format!("{V2}::/run/v2.sock::weight::1"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let first: Vec<_> = text.lines().map(|line| line.split("::").next().unwrap()).collect();
    assert!(first.is_sorted());

    let json = servers.get("/clusters?format=json").await.json();
    let statuses = json["cluster_statuses"].as_array().unwrap();
    assert_eq!(statuses[0]["name"], DNS);
    let host = &statuses[0]["host_statuses"][0];
    assert_eq!(host["address"]["socket_address"], json!({ "address": "93.184.215.14", "port_value": 443 }));
    assert_eq!(host["health_status"]["eds_health_status"], "HEALTHY");
    let stats = host["stats"].as_array().unwrap();
    assert!(stats.contains(&json!({ "name": "rq_total", "value": "3" })), "{stats:?}");
    assert!(stats.contains(&json!({ "name": "cx_active", "type": "GAUGE", "value": "1" })), "{stats:?}");
    assert_eq!(statuses[1]["host_statuses"][0]["health_status"]["eds_health_status"], "UNHEALTHY");
    assert_eq!(statuses[2]["host_statuses"][0]["address"]["pipe"]["path"], "/run/v2.sock");
    assert_eq!(servers.get("/clusters?format=xml").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_show_where_they_are_really_bound() {
    let servers = Servers::start();
    assert_eq!(servers.get("/listeners").await.body, "0.0.0.0_80::[::]:8080\n0.0.0.0_80::0.0.0.0:8080\n");
    let json = servers.get("/listeners?format=json").await.json();
    assert_eq!(
        json,
        json!({ "listener_statuses": [{
            "name": "0.0.0.0_80",
            "local_address": { "socket_address": { "address": "::", "port_value": 8080 } },
            "additional_local_addresses": [{ "socket_address": { "address": "0.0.0.0", "port_value": 8080 } }],
        }] })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_are_names_and_values_or_prometheus_text() {
    let servers = Servers::start();
    let text = servers.get("/stats").await.body;
    for line in [
        "server.state: 0",
        "listener_manager.workers_started: 1",
        "listener.0.0.0.0_80.downstream_cx_active: 2",
        "istio_requests_total{reporter=\"source\",response_code=\"200\"}: 7",
        "istio_requests_total{reporter=\"source\",response_code=\"503\"}: 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    let rq_total = format!("cluster.{DNS}.upstream_rq_total: 3");
    assert!(text.contains(&rq_total), "{text}");
    assert_eq!(
        servers.get("/stats?usedonly&filter=istio_requests").await.body,
        "istio_requests_total{reporter=\"source\",response_code=\"200\"}: 7\n"
    );
    let json = servers.get("/stats?format=json&filter=^server.state$").await.json();
    assert_eq!(json, json!({ "stats": [{ "name": "server.state", "value": 0 }] }));

    let direct = servers.get("/stats/prometheus").await;
    assert_eq!(direct.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    assert!(direct.body.starts_with("# HELP istio_requests_total"));
    for (server, path) in
        [(servers.admin, "/stats?format=prometheus"), (servers.stats, "/stats/prometheus"), (servers.stats, "/metrics")]
    {
        assert_eq!(ask(server, "GET", path, &[]).await.body, direct.body, "{path}");
    }
    let filtered = servers.get("/stats/prometheus?filter=build&usedonly").await.body;
    assert_eq!(filtered, "# HELP istio_build Version.\n# TYPE istio_build gauge\nistio_build{component=\"proxy\"} 1\n");
    assert_eq!(servers.get("/stats?filter=(").await.status, 400);
    assert_eq!(servers.get("/stats?format=xml").await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_endpoints_answer_in_envoys_shape() {
    let servers = Servers::start();
    assert_eq!(servers.get("/hot_restart_version").await.body, "disabled");
    let memory = servers.get("/memory").await.json();
    assert!(memory["total_physical_bytes"].as_str().unwrap().parse::<u64>().unwrap() > 0);
    let hash = servers.get("/snapshot/hash").await.body;
    assert_eq!(hash.len(), 17);
    let status = servers.get("/config/status").await.json();
    assert_eq!(status["hash"], hash.trim());
    assert_eq!(status["generation"], 4);
    assert_eq!(status["published"], "2023-11-14T22:13:20.000Z");
    assert_eq!(status["last_reload"]["success"], false);
    assert_eq!(status["serving_last_good"], "bookinfo.yaml does not parse");
    assert_eq!(status["diagnostics"][0]["code"], "IST0101");
    assert_eq!(status["diagnostics"][0]["origin"], json!({ "file": "bookinfo.yaml", "line": 30, "column": 3 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_lists_everything() {
    let servers = Servers::start();
    let help = servers.get("/help").await;
    assert!(help.body.starts_with("admin commands are:\n"));
    let home = servers.get("/").await;
    assert_eq!(home.headers["content-type"], "text/html; charset=UTF-8");
    assert!(home.headers["content-security-policy"].contains("default-src 'none'"));
    for path in ["/config_dump", "/clusters", "/explain"] {
        assert!(help.body.contains(&format!("  {path}: ")), "{path}");
        assert!(home.body.contains(&format!("<a href=\"{path}\">")), "{path}");
    }
    assert!(home.body.contains("<form method=\"post\" action=\"/quitquitquit\">"));
    let unknown = servers.get("/nothing%3Cscript%3E").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.starts_with("invalid path. admin commands are:\n"), "{}", unknown.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_need_a_post() {
    let servers = Servers::start();
    for path in [
        "/quitquitquit",
        "/drain_listeners?graceful",
        "/healthcheck/fail",
        "/healthcheck/ok",
        "/reopen_logs",
        "/logging?level=debug",
    ] {
        for method in ["GET", "HEAD", "PUT", "DELETE"] {
            let answer = ask(servers.admin, method, path, &[]).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.headers["allow"], "POST", "{method} {path}");
            if method != "HEAD" {
                assert_eq!(answer.body, format!("Method {method} not allowed, POST required."));
            }
        }
    }
    let read = ask(servers.admin, "DELETE", "/config_dump", &[]).await;
    assert_eq!((read.status, read.headers["allow"].as_str()), (405, "GET, HEAD, POST"));
    assert_eq!(servers.asked(), Vec::<String>::new());
    assert!(servers.lifecycle.is_ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_reach_the_process() {
    let servers = Servers::start();
    let check = async |path: &str, status: u16, body: &str, asked: &[&str]| {
        let answer = servers.post(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (status, body), "{path}");
        assert_eq!(servers.asked(), asked, "{path}");
    };
    check("/drain_listeners", 200, "OK\n", &["drain graceful=false skip_exit=false"]).await;
    check("/drain_listeners?graceful", 200, "OK\n", &["drain graceful=true skip_exit=false"]).await;
    check("/drain_listeners?graceful&skip_exit", 200, "OK\n", &["drain graceful=true skip_exit=true"]).await;
    check("/drain_listeners?skip_exit", 400, "skip_exit requires graceful\n", &[]).await;
    check("/drain_listeners?inboundonly&graceful", 200, "OK\n", &[]).await;
    check("/reopen_logs", 200, "OK\n", &["reopen"]).await;
    check("/quitquitquit", 200, "OK\n", &["quit"]).await;
    assert_eq!(servers.post("/drain_listeners?gracefull").await.status, 400);
    assert_eq!(servers.asked(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn log_levels_are_listed_and_changed_as_istioctl_does_it() {
    let servers = Servers::start();
    let list = "active loggers:\n  http: info\n  router: warning\n\n";
    assert_eq!(servers.get("/logging").await.body, list);
    assert_eq!(servers.post("/logging").await.body, list);
    for (path, asked) in [
        ("/logging?level=debug", "log debug"),
        ("/logging?http=warning", "log http=warn"),
        ("/logging?paths=http:debug,router:trace", "log http=debug,router=trace"),
    ] {
        let answer = servers.post(path).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, list), "{path}");
        assert_eq!(servers.asked(), [asked]);
    }
    for (path, error) in
        [("/logging?level=loud", "unknown logger level"), ("/logging?nobody=debug", "unknown logger name")]
    {
        let answer = servers.post(path).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.body.starts_with(&format!("error: {error}\n\nusage: ")), "{}", answer.body);
        assert!(answer.body.ends_with(list), "{}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_runs_the_selection_of_the_data_plane() {
    let servers = Servers::start();
    let explain = async |query: &str| servers.get(&format!("/explain?{query}")).await;
    let taken = |answer: &Answer| {
        let json = answer.json();
        let tried = json["tried"].as_array().unwrap();
        tried.last().filter(|last| last["matched"] == true).map(|last| last["index"].as_u64().unwrap())
    };
    let url = "url=http%3A%2F%2Fbook.example%2Freviews%3Fq%3D12%26p";
    let jason = explain(&format!("method=GET&{url}&header=end-user:%20jason")).await;
    assert_eq!(taken(&jason), Some(0), "{}", jason.body);
    assert_eq!(jason.json()["outcome"]["action"], "forward");
    assert_eq!(jason.json()["listener"]["name"], "0.0.0.0_80");
    assert_eq!(jason.json()["tried"][0]["place"]["origin"], "bookinfo.yaml:10:3");
    assert_eq!(taken(&explain(url).await), Some(7));
    // The bound port means the Gateway's; a Host header replaces the host.
    assert_eq!(taken(&explain("url=http://127.0.0.1:8080/tea&header=host:book.example").await), Some(5));
    assert_eq!(taken(&explain("url=book.example/tea&port=8080").await), Some(5));
    assert_eq!(explain("url=http://book.example/&port=1").await.json()["outcome"]["details"], "no_listener");
    // What a TLS client sends as its server name is the URL's host, or another one, or none.
    let server_name = async |query: &str| explain(query).await.json()["request"]["server_name"].clone();
    assert_eq!(server_name("url=https://Book.example:443/").await, "book.example");
    assert_eq!(server_name("url=https://book.example/&sni=other.example").await, "other.example");
    assert!(server_name("url=https://book.example/&sni=").await.is_null());
    assert!(server_name("url=http://book.example/").await.is_null());
    let connection = explain("url=tcp://book.example:8080").await.json();
    assert_eq!(connection["outcome"]["action"], "accepted");
    for bad in [
        "",
        "url=ftp://book.example/",
        "url=http://user@book.example/",
        "url=/reviews",
        "url=book.example&header=nothing",
        "url=book.example&port=http",
        "url=book.example&method=G%20T",
        "url=book.example&urll=x",
    ] {
        let answer = explain(bad).await;
        assert_eq!(answer.status, 400, "{bad}: {}", answer.body);
        assert!(!answer.body.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_name_no_address_of_this_machine_are_refused() {
    let servers = Servers::start();
    let status = async |host: &str| ask(servers.admin, "GET", "/ready", &[("Host", host)]).await.status;
    for host in ["localhost:15000", "127.0.0.1", "[::1]:15000"] {
        assert_eq!(status(host).await, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:15000", "localhost.evil.example", "10.9.9.9", ""] {
        assert_eq!(status(host).await, 403, "{host}");
    }
    let twice = ask(servers.admin, "GET", "/ready", &[("Host", "localhost"), ("Host", "evil.example")]).await;
    assert_eq!(twice.status, 400);
    let none = exchange(servers.admin, "GET /ready HTTP/1.0\r\n\r\n").await;
    assert_eq!(none.status, 400);
    let absolute = ask(servers.admin, "GET", "http://evil.example/ready", &[("Host", "localhost")]).await;
    assert_eq!(absolute.status, 403);
    // Scrapers and probes come under any name.
    for (server, path) in [(servers.stats, "/metrics"), (servers.health, "/healthz/ready")] {
        assert_eq!(ask(server, "GET", path, &[("Host", "gw.example")]).await.status, 200, "{path}");
    }
    let named = Servers::start_with(AllowedHosts::Loopback { also: vec!["admin.example".into()] });
    assert_eq!(ask(named.admin, "GET", "/ready", &[("Host", "admin.example")]).await.status, 200);
    let open = Servers::start_with(AllowedHosts::Any);
    assert_eq!(ask(open.admin, "GET", "/ready", &[("Host", "evil.example")]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_sites_change_nothing() {
    let servers = Servers::start();
    for headers in [
        [("Origin", "http://evil.example")],
        [("Origin", "null")],
        [("Origin", "http://localhost:3000")],
        [("Sec-Fetch-Site", "cross-site")],
    ] {
        let answer = ask(servers.admin, "POST", "/quitquitquit", &headers).await;
        assert_eq!(answer.status, 403, "{headers:?}");
    }
    assert_eq!(servers.asked(), Vec::<String>::new());
    let own = format!("http://{}", servers.admin);
    assert_eq!(ask(servers.admin, "POST", "/quitquitquit", &[("Origin", &own)]).await.status, 200);
    assert_eq!(servers.asked(), ["quit"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_marked_and_none_is_kept() {
    let servers = Servers::start();
    for path in ["/", "/ready", "/config_dump", "/nothing", "/stats/prometheus"] {
        let answer = servers.get(path).await;
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(answer.headers["cache-control"], "no-cache, max-age=0", "{path}");
        assert_eq!(answer.headers["cross-origin-resource-policy"], "same-origin", "{path}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{path}");
    }
    let head = ask(servers.admin, "HEAD", "/config_dump", &[]).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused() {
    let servers = Servers::start();
    let long = format!("/config_dump?name_regex={}", "a".repeat(100_000));
    let answer = ask(servers.admin, "GET", &long, &[]).await;
    assert!(matches!(answer.status, 414 | 431), "{}", answer.status);
    let many = "header=a:b&".repeat(101);
    let answer = servers.get(&format!("/explain?url=book.example&{many}")).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_end_when_they_are_told_to() {
    let servers = Servers::start();
    // An idle connection must not hold the server.
    let idle = TcpStream::connect(servers.admin).await.unwrap();
    assert_eq!(servers.get("/ready").await.status, 200);
    servers.cancel.cancel();
    for task in servers.tasks {
        let ended = tokio::time::timeout(std::time::Duration::from_secs(4), task).await;
        assert!(matches!(ended, Ok(Ok(Ok(())))), "{ended:?}");
    }
    assert!(TcpStream::connect(servers.admin).await.is_err());
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_told_with_its_mend() {
    let servers = Servers::start();
    let error = AdminServer::bind(servers.admin, servers.backend.clone(), servers.lifecycle.clone()).err().unwrap();
    let text = error.to_string();
    assert!(text.starts_with(&format!("cannot listen on {} for admin: ", servers.admin)), "{text}");
    assert!(text.ends_with("stop it, or choose another address"), "{text}");
    assert!(std::error::Error::source(&error).is_none(), "the cause would be printed twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_query_is_refused() {
    let servers = Servers::start();
    let answer = servers.get("/config_dump?name_regex=%ff%fe").await;
    // Percent signs that decode to no text become the replacement character, which matches nothing.
    assert_eq!(answer.status, 200, "{}", answer.body);
    let found: Value = answer.json();
    assert_eq!(found["configs"][1].get("dynamic_active_clusters"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_nobody_out() {
    let servers = Servers::start();
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(TcpStream::connect(servers.health).await.unwrap());
    }
    assert_eq!(ask(servers.health, "GET", "/healthz/ready", &[]).await.status, 200);
    // The oldest was closed, the newest was not.
    let mut byte = [0];
    let oldest = tokio::io::AsyncReadExt::read(&mut idle[0], &mut byte).await;
    assert!(matches!(oldest, Ok(0) | Err(_)), "{oldest:?}");
    let newest = idle.last_mut().unwrap();
    tokio::io::AsyncWriteExt::write_all(newest, b"GET /healthz/ready HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(tokio::io::AsyncReadExt::read(newest, &mut byte).await.unwrap(), 1);
}
