//! Envoy's configuration; its routes are in a file of their own, which it watches.
#![expect(clippy::unwrap_used, reason = "a harness fails by panicking")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::{HOST, Setup, Site, endpoint, host, replace};
use crate::process::{free_port, local};

/// Istio's default format.
const FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% \
    %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" \
    %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \
    \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

pub(super) fn configure(folder: &Path, site: &Site, setup: &Setup, plain: SocketAddr, tls: SocketAddr, version: usize) {
    let kind = |name: &str| format!("type.googleapis.com/envoy.{name}");
    let socket = |at: SocketAddr| json!({"socket_address": {"address": at.ip(), "port_value": at.port()}});
    let route = |prefix: String| json!({"match": {"prefix": prefix}, "route": {"cluster": "backend"}});
    let mut routes = vec![
        json!({"match": {"path": "/ws"}, "route": {"cluster": "websocket"}}),
        json!({"match": {"path": "/version"}, "direct_response": {"status": 200, "body": {"inline_string": format!("v{version}")}}}),
    ];
    routes.extend((0..setup.routes).map(|number| route(format!("/r{number}/"))));
    routes.push(route("/".into()));
    let mut hosts = vec![json!({"name": "main", "domains": [HOST, format!("{HOST}:*")], "routes": routes})];
    hosts.extend(
        (1..setup.hosts).map(|n| json!({"name": host(n), "domains": [host(n)], "routes": [route("/".into())]})),
    );
    let table = json!({
        "version_info": version.to_string(),
        "resources": [{"@type": kind("config.route.v3.RouteConfiguration"), "name": "main", "virtual_hosts": hosts}],
    });
    replace(&folder.join("routes.json"), &table.to_string());
    if version > 0 {
        return;
    }
    let log = json!([{"name": "file", "typed_config": {
        "@type": kind("extensions.access_loggers.file.v3.FileAccessLog"),
        "path": folder.join("access.log"),
        "log_format": {"text_format_source": {"inline_string": FORMAT}},
    }}]);
    let manager = json!({
        "@type": kind("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "bench",
        "use_remote_address": true,
        "generate_request_id": true,
        "normalize_path": true,
        "strip_any_host_port": true,
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "access_log": if setup.access_log { log } else { json!([]) },
        "rds": {"route_config_name": "main", "config_source": {"path_config_source": {"path": folder.join("routes.json")}}},
        "http_filters": [{"name": "router", "typed_config": {"@type": kind("extensions.filters.http.router.v3.Router")}}],
    });
    let filters = json!([{"name": "manager", "typed_config": manager}]);
    let certificate = json!({
        "certificate_chain": {"filename": site.file("server.crt")},
        "private_key": {"filename": site.file("server.key")},
    });
    let context = json!({
        "@type": kind("extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
        "common_tls_context": {"alpn_protocols": ["h2", "http/1.1"], "tls_certificates": [certificate]},
    });
    let limits =
        json!({"thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}]});
    let cluster = |name: &str, addresses: Vec<SocketAddr>| {
        let endpoints: Vec<Value> =
            addresses.into_iter().map(|address| json!({"endpoint": {"address": socket(address)}})).collect();
        json!({
            "name": name,
            "type": "STATIC",
            "lb_policy": "LEAST_REQUEST",
            "circuit_breakers": limits,
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        })
    };
    let endpoints = (0..setup.endpoints).map(|number| (endpoint(number), site.backend).into()).collect();
    let config = json!({
        "node": {"id": "bench", "cluster": "bench"},
        "admin": {"address": socket(local(free_port()))},
        "static_resources": {
            "listeners": [
                {"name": "plain", "address": socket(plain), "filter_chains": [{"filters": filters}]},
                {"name": "tls", "address": socket(tls), "filter_chains": [{
                    "filters": filters,
                    "transport_socket": {"name": "tls", "typed_config": context},
                }]},
            ],
            "clusters": [cluster("backend", endpoints), cluster("websocket", vec![local(site.websocket)])],
        },
    });
    fs::write(folder.join("envoy.json"), config.to_string()).unwrap();
}
