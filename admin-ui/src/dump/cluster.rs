//! `ClustersConfigDump`.

use serde_json::{Value, json};
use tidegate_core::{ClusterName, Kind};
use tidegate_snapshot::{Cluster, Discovery, LoadBalancing, Snapshot, UpstreamProtocol};

use super::endpoint::{by_locality, socket_address};
use super::{DumpOptions, Node, Versioned, config_path, duration, set, transport_socket, typed};

pub(super) fn section<'a>(snapshot: &'a Snapshot, options: DumpOptions<'a>, versioned: Versioned) -> Node<'a> {
    let clusters = move || snapshot.clusters().iter().filter(move |cluster| options.names(&cluster.name));
    let mut fields = vec![versioned.version()];
    if clusters().next().is_some() {
        let resources = move || {
            let versioned = versioned.clone();
            clusters().map(move |cluster| versioned.wrap("cluster", Node::Leaf(resource(cluster, options))))
        };
        fields.push(("dynamic_active_clusters", Node::list(resources)));
    }
    Node::Object(fields)
}

/// `envoy.config.cluster.v3.Cluster`.
fn resource(cluster: &Cluster, options: DumpOptions<'_>) -> Value {
    let mut message = json!({ "name": &*cluster.name });
    match &cluster.discovery {
        // The registry finds the endpoints of Services and ServiceEntries alike, as istiod's EDS does; they are in
        // the endpoints section.
        Discovery::Static(_) => {
            set(&mut message, "type", Some("EDS"));
            set(&mut message, "eds_cluster_config", Some(json!({ "service_name": &*cluster.name })));
        }
        Discovery::Dns(targets) => {
            set(&mut message, "type", Some("STRICT_DNS"));
            set(&mut message, "respect_dns_ttl", Some(true));
            set(&mut message, "dns_lookup_family", Some("ALL"));
            let endpoints = by_locality(targets.iter().map(|target| {
                let endpoint = json!({
                    "endpoint": { "address": socket_address(&target.host, target.port) },
                    "load_balancing_weight": target.weight,
                });
                (&target.locality, endpoint)
            }));
            let assignment = json!({ "cluster_name": &*cluster.name, "endpoints": endpoints });
            set(&mut message, "load_assignment", Some(assignment));
        }
    }
    set(&mut message, "connect_timeout", Some(duration(cluster.connect_timeout)));
    let policy = match cluster.load_balancing {
        LoadBalancing::LeastRequest => "LEAST_REQUEST",
        LoadBalancing::RoundRobin => "ROUND_ROBIN",
        LoadBalancing::Random => "RANDOM",
    };
    set(&mut message, "lb_policy", Some(policy));
    let socket = cluster.tls.as_deref().map(|tls| transport_socket::upstream(tls, cluster.protocol, options));
    set(&mut message, "transport_socket", socket);
    set(&mut message, "typed_extension_protocol_options", protocol_options(cluster));
    set(&mut message, "metadata", Some(metadata(cluster)));
    typed("envoy.config.cluster.v3.Cluster", message)
}

/// Nothing for HTTP/1.1 without TLS, which is Envoy's default.
fn protocol_options(cluster: &Cluster) -> Option<Value> {
    const TYPE: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let from_host = cluster.tls.as_deref().and_then(transport_socket::from_host);
    let mut options = match cluster.protocol {
        UpstreamProtocol::Http1 if from_host.is_none() => return None,
        UpstreamProtocol::Http1 => json!({ "explicit_http_config": { "http_protocol_options": {} } }),
        UpstreamProtocol::Http2 => json!({ "explicit_http_config": { "http2_protocol_options": {} } }),
        UpstreamProtocol::AsDownstream => {
            json!({ "use_downstream_protocol_config": { "http_protocol_options": {}, "http2_protocol_options": {} } })
        }
    };
    set(&mut options, "upstream_http_protocol_options", from_host);
    Some(json!({ TYPE: typed(TYPE, options) }))
}

/// `config` fills the DESTINATION RULE column of `istioctl proxy-config cluster`.
fn metadata(cluster: &Cluster) -> Value {
    let service = &cluster.service;
    let mut istio = json!({
        "services": [{ "host": service.host, "name": service.name, "namespace": service.namespace }],
    });
    if let Ok(name) = cluster.name.parse::<ClusterName>() {
        set(&mut istio, "default_original_port", Some(name.port));
        set(&mut istio, "subset", (!name.subset.is_empty()).then_some(name.subset));
    }
    let rule = cluster.sources.iter().map(|(key, _)| key).find(|key| key.kind == Kind::DestinationRule);
    set(&mut istio, "config", rule.and_then(config_path));
    json!({ "filter_metadata": { "istio": istio } })
}
