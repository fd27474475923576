//! `ListenersConfigDump`.

use serde_json::{Map, Value, json};
use tidegate_snapshot::{
    AccessLog, AccessLogFormat, FilterChain, ForwardClientCert, Listener, ListenerProtocol, MeshSettings,
    NetworkFilter, PathNormalization, RouteTable, ServerHeader, Snapshot, TcpProxy,
};

use super::endpoint::socket_address;
use super::{DumpOptions, Node, Versioned, duration, set, transport_socket, typed};

/// istioctl knows HTTP listeners by this name.
const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
/// And TCP listeners by this one.
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
/// Istio's cluster without endpoints, which is where connections without a route go.
const BLACK_HOLE: &str = "BlackHoleCluster";

pub(super) fn section<'a>(snapshot: &'a Snapshot, options: DumpOptions<'a>, versioned: Versioned) -> Node<'a> {
    let listeners = move || snapshot.listeners().iter().filter(move |listener| options.names(&listener.name));
    let mut fields = vec![versioned.version()];
    if listeners().next().is_some() {
        let resources = move || {
            let versioned = versioned.clone();
            listeners().map(move |listener| {
                let state = versioned.wrap("listener", Node::Leaf(resource(listener, snapshot.mesh(), options)));
                Node::Object(vec![("name", Node::leaf(listener.name.as_str())), ("active_state", state)])
            })
        };
        fields.push(("dynamic_listeners", Node::list(resources)));
    }
    Node::Object(fields)
}

/// `envoy.config.listener.v3.Listener`, at the port that the Gateway names; `/listeners` has the one that is bound.
fn resource(listener: &Listener, mesh: &MeshSettings, options: DumpOptions<'_>) -> Value {
    let address = listener.bind.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string());
    let mut message = json!({ "name": listener.name, "address": socket_address(&address, listener.port) });
    if listener.bind.is_none() {
        // Both families are accepted.
        let both = json!([{ "address": socket_address("::", listener.port) }]);
        set(&mut message, "additional_addresses", Some(both));
    }
    let filters = listener_filters(listener, mesh);
    set(&mut message, "listener_filters", (!filters.is_empty()).then_some(filters));
    let chains = listener.filter_chains().iter().map(|chain| filter_chain(listener, chain, mesh, options));
    set(&mut message, "filter_chains", Some(chains.collect::<Vec<_>>()));
    set(&mut message, "traffic_direction", Some("OUTBOUND"));
    typed("envoy.config.listener.v3.Listener", message)
}

/// What reads a connection before its filter chain is chosen.
fn listener_filters(listener: &Listener, mesh: &MeshSettings) -> Vec<Value> {
    let mut filters = Vec::new();
    if mesh.proxy_protocol {
        let config = typed("envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol", json!({}));
        filters.push(json!({ "name": "envoy.filters.listener.proxy_protocol", "typed_config": config }));
    }
    if listener.protocol == ListenerProtocol::Tls {
        let config = typed("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector", json!({}));
        filters.push(json!({ "name": "envoy.filters.listener.tls_inspector", "typed_config": config }));
    }
    filters
}

fn filter_chain(listener: &Listener, chain: &FilterChain, mesh: &MeshSettings, options: DumpOptions<'_>) -> Value {
    let mut message = json!({});
    // A chain for any name has no match on names: Envoy knows no `*` there.
    if !chain.server_names.is_empty() && chain.server_names.iter().all(|name| name.as_str() != "*") {
        let names: Vec<_> = chain.server_names.iter().map(ToString::to_string).collect();
        set(&mut message, "filter_chain_match", Some(json!({ "server_names": names })));
    }
    let filter = match &chain.filter {
        NetworkFilter::Http(table) => json!({
            "name": HTTP_CONNECTION_MANAGER,
            "typed_config": http_connection_manager(listener, table, mesh),
        }),
        NetworkFilter::Tcp(proxy) => json!({ "name": TCP_PROXY, "typed_config": tcp_proxy(proxy, mesh) }),
    };
    set(&mut message, "filters", Some(json!([filter])));
    let socket = chain.tls.as_deref().map(|tls| transport_socket::downstream(tls, options));
    set(&mut message, "transport_socket", socket);
    set(&mut message, "name", (!chain.name.is_empty()).then_some(chain.name.as_str()));
    message
}

fn tcp_proxy(proxy: &TcpProxy, mesh: &MeshSettings) -> Value {
    let mut message = match proxy.clusters() {
        [] => json!({ "stat_prefix": BLACK_HOLE, "cluster": BLACK_HOLE }),
        [only] => json!({ "stat_prefix": &**only.cluster.name(), "cluster": &**only.cluster.name() }),
        several => {
            let clusters: Vec<_> =
                several.iter().map(|one| json!({ "name": &**one.cluster.name(), "weight": one.weight })).collect();
            json!({ "stat_prefix": proxy.name, "weighted_clusters": { "clusters": clusters } })
        }
    };
    // Zero switches it off.
    set(&mut message, "idle_timeout", Some(duration(proxy.idle_timeout.unwrap_or_default())));
    set(&mut message, "access_log", mesh.access_log.as_ref().map(|log| json!([access_log(log)])));
    typed("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", message)
}

fn http_connection_manager(listener: &Listener, table: &RouteTable, mesh: &MeshSettings) -> Value {
    let mut message = json!({
        "stat_prefix": format!("outbound_{}", listener.name),
        "rds": { "route_config_name": table.name },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": typed("envoy.extensions.filters.http.router.v3.Router", json!({})),
        }],
        "use_remote_address": true,
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
    });
    if mesh.num_trusted_proxies > 0 {
        set(&mut message, "xff_num_trusted_hops", Some(mesh.num_trusted_proxies));
    }
    set(&mut message, "normalize_path", Some(mesh.path_normalization != PathNormalization::None));
    match mesh.path_normalization {
        PathNormalization::None | PathNormalization::Base => {}
        PathNormalization::MergeSlashes => set(&mut message, "merge_slashes", Some(true)),
        PathNormalization::DecodeAndMergeSlashes => {
            set(&mut message, "merge_slashes", Some(true));
            set(&mut message, "path_with_escaped_slashes_action", Some("UNESCAPE_AND_FORWARD"));
        }
    }
    match &mesh.server_header {
        ServerHeader::Default => set(&mut message, "server_name", Some("istio-envoy")),
        ServerHeader::Value(value) => set(&mut message, "server_name", Some(value.as_str())),
        ServerHeader::PassThrough => set(&mut message, "server_header_transformation", Some("PASS_THROUGH")),
    }
    set(&mut message, "forward_client_cert_details", Some(json!(mesh.forward_client_cert)));
    if matches!(mesh.forward_client_cert, ForwardClientCert::SanitizeSet | ForwardClientCert::AppendForward) {
        set(&mut message, "set_current_client_cert_details", Some(json!(mesh.client_cert_details)));
    }
    set(&mut message, "access_log", mesh.access_log.as_ref().map(|log| json!([access_log(log)])));
    typed("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", message)
}

fn access_log(log: &AccessLog) -> Value {
    let format = match &log.format {
        AccessLogFormat::Text(template) => {
            json!({ "text_format_source": { "inline_string": template.source() } })
        }
        AccessLogFormat::Json(keys) => {
            let keys: Map<_, _> =
                keys.iter().map(|(key, value)| (key.clone(), Value::String(value.source().to_owned()))).collect();
            json!({ "json_format": keys })
        }
    };
    json!({
        "name": "envoy.access_loggers.file",
        "typed_config": typed(
            "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            json!({ "path": log.path, "log_format": format }),
        ),
    })
}
