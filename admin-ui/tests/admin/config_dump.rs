//! `/config_dump` over a socket and as a function: what istioctl, Kiali and scripts look for is where they look.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_admin::{AllowedHosts, DumpOptions, config_dump};
use tidegate_snapshot::Snapshot;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{DNS, Servers, V1, V2, large_snapshot, node, section, snapshot};

fn names(dump: &Value) -> Vec<&str> {
    let configs = dump["configs"].as_array().unwrap();
    configs.iter().map(|config| config["@type"].as_str().unwrap().rsplit('.').next().unwrap()).collect()
}

fn whole() -> Value {
    config_dump(&snapshot(), &DumpOptions::new(&node()))
}

/// The routes of `book.example`.
fn routes(dump: &Value) -> Vec<Value> {
    let table = &section(dump, "RoutesConfigDump")["dynamic_route_configs"][0]["route_config"];
    table["virtual_hosts"][0]["routes"].as_array().unwrap().clone()
}

#[test]
fn sections_stand_in_envoys_order() {
    let mut expected = vec![
        "BootstrapConfigDump",
        "ClustersConfigDump",
        "EcdsConfigDump",
        "ListenersConfigDump",
        "RoutesConfigDump",
        "SecretsConfigDump",
    ];
    assert_eq!(names(&whole()), expected);
    let (snapshot, node) = (snapshot(), node());
    let with_endpoints = config_dump(&snapshot, &DumpOptions { include_eds: true, ..DumpOptions::new(&node) });
    expected.insert(3, "EndpointsConfigDump");
    assert_eq!(names(&with_endpoints), expected);
}

#[test]
fn every_resource_has_the_hash_as_its_version() {
    let (snapshot, dump) = (snapshot(), whole());
    let hash = snapshot.hash().to_string();
    let versions = [
        &section(&dump, "ClustersConfigDump")["version_info"],
        &section(&dump, "ClustersConfigDump")["dynamic_active_clusters"][2]["version_info"],
        &section(&dump, "ListenersConfigDump")["version_info"],
        &section(&dump, "ListenersConfigDump")["dynamic_listeners"][1]["active_state"]["version_info"],
        &section(&dump, "RoutesConfigDump")["dynamic_route_configs"][0]["version_info"],
    ];
    for version in versions {
        assert_eq!(version, hash.as_str());
    }
}

#[test]
fn the_bootstrap_tells_istioctl_who_this_is() {
    let dump = whole();
    let node = &section(&dump, "BootstrapConfigDump")["bootstrap"]["node"];
    assert_eq!(node["id"], "router~10.0.0.9~gw-1.istio-system~istio-system.svc.cluster.local");
    assert_eq!(node["cluster"], "istio-ingressgateway.istio-system");
    assert_eq!(node["metadata"]["ISTIO_VERSION"], "0.1.0");
    assert_eq!(node["metadata"]["LABELS"], json!({ "app": "istio-ingressgateway" }));
    assert_eq!(node["user_agent_build_version"]["version"]["minor_number"], 1);
    assert_eq!(node["locality"], json!({ "region": "eu" }));
}

#[test]
fn clusters_carry_what_the_columns_of_istioctl_show() {
    let dump = whole();
    let clusters = section(&dump, "ClustersConfigDump")["dynamic_active_clusters"].as_array().unwrap();
    let named: Vec<_> = clusters.iter().map(|one| one["cluster"]["name"].as_str().unwrap()).collect();
    assert_eq!(named, [DNS, V1, V2]);
    let (dns, v1, v2) = (&clusters[0]["cluster"], &clusters[1]["cluster"], &clusters[2]["cluster"]);
    assert_eq!(v1["@type"], "type.googleapis.com/envoy.config.cluster.v3.Cluster");
    assert_eq!(v1["type"], "EDS");
    assert_eq!(v1["connect_timeout"], "10s");
    assert_eq!(v1["lb_policy"], "LEAST_REQUEST");
    assert_eq!(
        v1["metadata"]["filter_metadata"]["istio"],
        json!({
            "services": [
                { "host": "reviews.default.svc.cluster.local", "name": "reviews", "namespace": "default" }
            ],
            "default_original_port": 9080,
            "subset": "v1",
            "config": "/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews",
        })
    );
    assert!(v1.get("typed_extension_protocol_options").is_none());
    let options = &v2["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert_eq!(options["explicit_http_config"], json!({ "http2_protocol_options": {} }));
    assert_eq!(dns["type"], "STRICT_DNS");
    assert_eq!(dns["metadata"]["filter_metadata"]["istio"].get("config"), None);
    let address = &dns["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
    assert_eq!(address["socket_address"], json!({ "address": "example.com", "port_value": 443 }));
}

#[test]
fn listeners_lead_to_their_route_tables() {
    let dump = whole();
    let listeners = section(&dump, "ListenersConfigDump")["dynamic_listeners"].as_array().unwrap();
    assert_eq!(listeners[0]["name"], "0.0.0.0_80");
    let listener = &listeners[0]["active_state"]["listener"];
    assert_eq!(listener["address"]["socket_address"], json!({ "address": "0.0.0.0", "port_value": 80 }));
    assert_eq!(listener["additional_addresses"][0]["address"]["socket_address"]["address"], "::");
    assert_eq!(listener["traffic_direction"], "OUTBOUND");
    let filter = &listener["filter_chains"][0]["filters"][0];
    assert_eq!(filter["name"], "envoy.filters.network.http_connection_manager");
    let manager = &filter["typed_config"];
    assert_eq!(manager["rds"]["route_config_name"], "http.80");
    assert_eq!(manager["stat_prefix"], "outbound_0.0.0.0_80");
    assert_eq!(manager["xff_num_trusted_hops"], 2);
    assert_eq!(manager["normalize_path"], true);
    assert_eq!(manager["merge_slashes"], true);
    assert_eq!(manager["path_with_escaped_slashes_action"], "UNESCAPE_AND_FORWARD");
    assert_eq!(manager["server_name"], "istio-envoy");
    assert_eq!(
        manager["access_log"][0]["typed_config"]["log_format"]["json_format"],
        json!({ "method": "%REQ(:METHOD)%" })
    );
    let bound = &listeners[1]["active_state"]["listener"];
    assert_eq!(bound["address"]["socket_address"], json!({ "address": "127.0.0.1", "port_value": 9000 }));
    assert!(bound.get("additional_addresses").is_none());
}

#[test]
fn route_tables_hold_their_virtual_hosts() {
    let dump = whole();
    let tables = section(&dump, "RoutesConfigDump")["dynamic_route_configs"].as_array().unwrap();
    let named: Vec<_> = tables.iter().map(|one| one["route_config"]["name"].as_str().unwrap()).collect();
    assert_eq!(named, ["http.80", "http.9000.127.0.0.1"]);
    let hosts = tables[0]["route_config"]["virtual_hosts"].as_array().unwrap();
    assert_eq!(hosts[0]["name"], "book.example:80");
    assert_eq!(hosts[0]["domains"], json!(["book.example"]));
    assert!(hosts[0].get("require_tls").is_none());
    assert_eq!(hosts[1]["require_tls"], "ALL");
    assert!(hosts[1].get("routes").is_none());
}

#[test]
fn a_match_is_written_as_envoy_writes_it() {
    let jason = &routes(&whole())[0];
    assert_eq!(jason["name"], "jason");
    assert_eq!(
        jason["match"],
        json!({
            "prefix": "/reviews",
            "case_sensitive": true,
            "headers": [
                { "name": ":method", "string_match": { "exact": "GET" } },
                { "name": ":scheme", "string_match": { "safe_regex": { "regex": "https?" } } },
                { "name": ":authority", "string_match": { "prefix": "book" } },
                { "name": "end-user", "string_match": { "exact": "jason" } },
                { "name": "x-debug", "present_match": true, "invert_match": true },
                {
                    "name": "x-not",
                    "string_match": { "exact": "a" },
                    "invert_match": true,
                    "treat_missing_header_as_empty": true,
                },
            ],
            "query_parameters": [
                { "name": "q", "string_match": { "prefix": "1" } },
                { "name": "p", "present_match": true },
            ],
        })
    );
    assert_eq!(
        jason["metadata"]["filter_metadata"]["istio"]["config"],
        "/apis/networking.istio.io/v1/namespaces/default/virtual-service/bookinfo"
    );
}

#[test]
fn header_operations_keep_their_order_and_kind() {
    let routes = routes(&whole());
    assert_eq!(
        routes[0]["request_headers_to_add"],
        json!([
            { "header": { "key": "x-set", "value": "100%%" }, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD" },
            { "header": { "key": "x-add", "value": "%REQ(x-in)%" }, "append_action": "APPEND_IF_EXISTS_OR_ADD" },
        ])
    );
    assert_eq!(routes[0]["request_headers_to_remove"], json!(["x-drop"]));
    assert_eq!(routes[0]["route"]["host_rewrite_literal"], "inner.example");
}

#[test]
fn actions_are_written_as_envoy_writes_them() {
    let routes = routes(&whole());
    let check = |at: usize, field: &str, expected: Value| assert_eq!(routes[at][field], expected, "route {at}");
    check(0, "route", json!({ "cluster": V2, "timeout": "0s", "host_rewrite_literal": "inner.example" }));
    check(
        1,
        "route",
        json!({
            "weighted_clusters": {
                "clusters": [
                    { "name": V1, "weight": 90 },
                    {
                        "name": V2,
                        "weight": 10,
                        "host_rewrite_literal": "v2.example",
                        "response_headers_to_add": [{
                            "header": { "key": "x-version", "value": "v2" },
                            "append_action": "APPEND_IF_EXISTS_OR_ADD",
                        }],
                    },
                ],
            },
            "timeout": "1.500s",
            "prefix_rewrite": "/v",
        }),
    );
    check(
        2,
        "route",
        json!({
            "cluster": "outbound|80||nowhere.default.svc.cluster.local",
            "timeout": "0s",
            "regex_rewrite": { "pattern": { "regex": "^/a/(.*)$" }, "substitution": "/b/\\1" },
            "host_rewrite_literal": "b.example",
        }),
    );
    check(
        3,
        "redirect",
        json!({
            "scheme_redirect": "https",
            "host_redirect": "new.example",
            "port_redirect": 443,
            "prefix_rewrite": "/new",
            "response_code": "PERMANENT_REDIRECT",
        }),
    );
    check(4, "redirect", json!({ "port_redirect": 80, "path_redirect": "/there", "response_code": "FOUND" }));
    check(5, "direct_response", json!({ "status": 418, "body": { "inline_string": "teapot" } }));
    check(6, "direct_response", json!({ "status": 418, "body": { "inline_bytes": "//4=" } }));
    assert_eq!(routes[5]["match"], json!({ "path": "/tea", "case_sensitive": false }));
    assert_eq!(routes[2]["match"], json!({ "safe_regex": { "regex": "/a/.*" } }));
}

#[test]
fn an_empty_snapshot_makes_a_dump_without_resources() {
    let dump = config_dump(&Snapshot::empty(), &DumpOptions { include_eds: true, ..DumpOptions::new(&node()) });
    assert!(section(&dump, "ClustersConfigDump").get("dynamic_active_clusters").is_none());
    assert!(section(&dump, "EndpointsConfigDump").get("dynamic_endpoint_configs").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_come_with_include_eds_only() {
    let servers = Servers::start();
    let without = servers.get("/config_dump").await.json();
    assert!(!names(&without).contains(&"EndpointsConfigDump"));
    let dump = servers.get("/config_dump?include_eds").await.json();
    let assignments = section(&dump, "EndpointsConfigDump")["dynamic_endpoint_configs"].as_array().unwrap();
    let of = |at: usize| &assignments[at]["endpoint_config"];
    assert_eq!(of(0)["@type"], "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment");
    assert_eq!(of(0)["cluster_name"], DNS);
    // Resolved by the data plane.
    let resolved = &of(0)["endpoints"][0]["lb_endpoints"][0];
    assert_eq!(resolved["endpoint"]["hostname"], "example.com");
    assert_eq!(resolved["endpoint"]["address"]["socket_address"]["address"], "93.184.215.14");
    // One group for each locality.
    let groups = of(1)["endpoints"].as_array().unwrap();
    assert_eq!(groups[0]["locality"], json!({ "region": "eu", "zone": "a" }));
    let addresses: Vec<_> = groups[0]["lb_endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["endpoint"]["address"]["socket_address"]["address"].as_str().unwrap())
        .collect();
    assert_eq!(addresses, ["10.0.0.1", "2001:db8::1"]);
    assert_eq!(groups[1]["lb_endpoints"][0]["health_status"], "UNHEALTHY");
    assert_eq!(
        groups[0]["lb_endpoints"][0]["metadata"]["filter_metadata"]["istio"]["workload"],
        "reviews-v1;default;reviews;v1;Kubernetes"
    );
    assert_eq!(of(2)["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["pipe"]["path"], "/run/v2.sock");
    assert_eq!(
        section(&dump, "ClustersConfigDump")["dynamic_active_clusters"][0]["last_updated"],
        "2023-11-14T22:13:20.000Z"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_resource_can_be_dumped_alone() {
    let servers = Servers::start();
    let dump = servers.get("/config_dump?resource=dynamic_active_clusters").await.json();
    let configs = dump["configs"].as_array().unwrap();
    assert_eq!(configs.len(), 3);
    assert_eq!(configs[0]["@type"], "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.DynamicCluster");
    assert_eq!(configs[0]["cluster"]["name"], DNS);
    assert_eq!(servers.get("/config_dump?resource=static_listeners").await.json(), json!({}));

    let endpoints = "/config_dump?resource=dynamic_endpoint_configs";
    assert_eq!(servers.get(endpoints).await.status, 404);
    assert_eq!(servers.get(&format!("{endpoints}&include_eds")).await.json()["configs"].as_array().unwrap().len(), 3);

    let unknown = servers.get("/config_dump?resource=nothing").await;
    assert_eq!((unknown.status, unknown.body.as_str()), (404, "nothing not found in config dump"));
    let single = servers.get("/config_dump?resource=bootstrap").await;
    assert_eq!(single.status, 400);
    assert_eq!(single.body, "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field");
}

#[tokio::test(flavor = "multi_thread")]
async fn masks_keep_the_fields_they_name() {
    let servers = Servers::start();
    let dump = servers.get("/config_dump?resource=dynamic_active_clusters&mask=cluster.name,version_info").await.json();
    let first = &dump["configs"][0];
    assert_eq!(
        first["cluster"],
        json!({ "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": DNS })
    );
    assert!(first.get("version_info").is_some() && first.get("last_updated").is_none());

    assert_eq!(names(&servers.get("/config_dump?mask=bootstrap").await.json()), ["BootstrapConfigDump"]);
    let versions = servers.get("/config_dump?mask=version_info").await.json();
    assert_eq!(names(&versions), ["ClustersConfigDump", "ListenersConfigDump"]);

    for bad in ["/config_dump?mask=nothing", "/config_dump?resource=dynamic_listeners&mask=cluster.name"] {
        let answer = servers.get(bad).await;
        assert_eq!(answer.status, 400, "{bad}");
        assert!(answer.body.starts_with("FieldMask "), "{bad}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn name_regex_matches_whole_names() {
    let servers = Servers::start();
    let clusters = |dump: &Value| {
        let clusters = section(dump, "ClustersConfigDump").get("dynamic_active_clusters").cloned();
        clusters.map_or(0, |clusters| clusters.as_array().unwrap().len())
    };
    let dump = servers.get("/config_dump?name_regex=.*reviews.*").await.json();
    assert_eq!(clusters(&dump), 2);
    assert!(section(&dump, "RoutesConfigDump").get("dynamic_route_configs").is_none());
    assert!(section(&dump, "BootstrapConfigDump").get("bootstrap").is_some());
    assert_eq!(clusters(&servers.get("/config_dump?name_regex=reviews").await.json()), 0);
    let one = servers.get("/config_dump?resource=dynamic_listeners&name_regex=0.0.0.0_80").await.json();
    assert_eq!(one["configs"].as_array().unwrap().len(), 1);

    let bad = servers.get("/config_dump?name_regex=(").await;
    assert_eq!(bad.status, 400);
    assert!(bad.body.starts_with("Error while parsing name_regex from (: "), "{}", bad.body);
    let bomb = servers.get("/config_dump?name_regex=(a%7B1000%7D)%7B1000%7D").await;
    assert_eq!(bomb.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_dump_arrives_whole() {
    let servers = Servers::start_over(large_snapshot(1_000), AllowedHosts::default());
    let answer = servers.get("/config_dump?include_eds").await;
    assert!(answer.body.len() > 4_000_000, "{}", answer.body.len());
    assert_eq!(answer.headers["content-length"], answer.body.len().to_string());
    let node = node();
    let options = DumpOptions::new(&node);
    let dump = answer.json();
    let tables = |dump: &Value| section(dump, "RoutesConfigDump")["dynamic_route_configs"].as_array().unwrap().clone();
    let (served, made) = (tables(&dump), tables(&config_dump(&large_snapshot(1_000), &options)));
    assert_eq!(served[0]["route_config"], made[0]["route_config"]);
    assert_eq!(served[0]["route_config"]["virtual_hosts"].as_array().unwrap().len(), 1_002);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_hold_a_bounded_number_of_large_dumps() {
    let servers = Servers::start_over(large_snapshot(1_000), AllowedHosts::default());
    let mut waiting = Vec::new();
    for _ in 0..8 {
        let mut stream = TcpStream::connect(servers.admin).await.unwrap();
        stream.write_all(b"GET /config_dump HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        // The head is there, so the body is being sent.
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 1);
        waiting.push(stream);
    }
    let refused = servers.get("/config_dump").await;
    assert_eq!((refused.status, refused.headers["content-type"].as_str()), (503, "text/plain; charset=UTF-8"));
    assert_eq!(servers.get("/ready").await.status, 200);
    assert_eq!(servers.get("/config_dump?resource=static_clusters").await.status, 200);
    drop(waiting);
    // The server sees them gone at its own pace.
    let deadline = Instant::now() + Duration::from_secs(20);
    while servers.get("/config_dump").await.status != 200 {
        assert!(Instant::now() < deadline, "the place of a client that went away was not given back");
        tokio::task::yield_now().await;
    }
}
