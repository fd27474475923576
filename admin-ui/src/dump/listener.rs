//! `ListenersConfigDump`.

use serde_json::{Map, Value, json};
use tidegate_snapshot::{
    AccessLog, AccessLogFormat, FilterChain, Listener, MeshSettings, PathNormalization, RouteTable, ServerHeader,
    Snapshot,
};

use super::endpoint::socket_address;
use super::{DumpOptions, Node, Versioned, set, typed};

/// istioctl knows HTTP listeners by this name.
const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";

pub(super) fn section<'a>(snapshot: &'a Snapshot, options: DumpOptions<'a>, versioned: Versioned) -> Node<'a> {
    let listeners = move || snapshot.listeners().iter().filter(move |listener| options.names(&listener.name));
    let mut fields = vec![versioned.version()];
    if listeners().next().is_some() {
        let resources = move || {
            let versioned = versioned.clone();
            listeners().map(move |listener| {
                let state = versioned.wrap("listener", Node::Leaf(resource(listener, snapshot.mesh())));
                Node::Object(vec![("name", Node::leaf(listener.name.as_str())), ("active_state", state)])
            })
        };
        fields.push(("dynamic_listeners", Node::list(resources)));
    }
    Node::Object(fields)
}

/// `envoy.config.listener.v3.Listener`, at the port that the Gateway names; `/listeners` has the one that is bound.
fn resource(listener: &Listener, mesh: &MeshSettings) -> Value {
    let address = listener.bind.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string());
    let mut message = json!({ "name": listener.name, "address": socket_address(&address, listener.port) });
    if listener.bind.is_none() {
        // Both families are accepted.
        let both = json!([{ "address": socket_address("::", listener.port) }]);
        set(&mut message, "additional_addresses", Some(both));
    }
    let chains: Vec<_> = listener.filter_chains().iter().map(|chain| filter_chain(listener, chain, mesh)).collect();
    set(&mut message, "filter_chains", Some(chains));
    set(&mut message, "traffic_direction", Some("OUTBOUND"));
    typed("envoy.config.listener.v3.Listener", message)
}

fn filter_chain(listener: &Listener, chain: &FilterChain, mesh: &MeshSettings) -> Value {
    let mut message = json!({});
    if !chain.server_names.is_empty() {
        let names: Vec<_> = chain.server_names.iter().map(ToString::to_string).collect();
        set(&mut message, "filter_chain_match", Some(json!({ "server_names": names })));
    }
    let filters: Vec<_> = chain
        .route_table()
        .map(|table| {
            json!({
                "name": HTTP_CONNECTION_MANAGER,
                "typed_config": http_connection_manager(listener, table, mesh),
            })
        })
        .into_iter()
        .collect();
    set(&mut message, "filters", Some(filters));
    set(&mut message, "name", (!chain.name.is_empty()).then_some(chain.name.as_str()));
    message
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
