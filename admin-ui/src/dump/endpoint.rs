//! `EndpointsConfigDump`.

use serde_json::{Value, json};
use tidegate_snapshot::{Cluster, Discovery, EndpointAddress, Health, Locality, Snapshot, Workload};

use super::{DumpOptions, Node, Versioned, locality, set, typed};
use crate::{ClusterStatus, EndpointStatus};

pub(super) fn section<'a>(snapshot: &'a Snapshot, options: DumpOptions<'a>, versioned: Versioned) -> Node<'a> {
    let clusters = move || snapshot.clusters().iter().filter(move |cluster| options.names(&cluster.name));
    if clusters().next().is_none() {
        return Node::Object(Vec::new());
    }
    let resources = move || {
        let versioned = versioned.clone();
        clusters()
            .map(move |cluster| versioned.wrap("endpoint_config", Node::Leaf(assignment(cluster, options.clusters))))
    };
    Node::Object(vec![("dynamic_endpoint_configs", Node::list(resources))])
}

/// `envoy.config.endpoint.v3.ClusterLoadAssignment`. Endpoints of the Snapshot come from it; those of resolved names
/// are known at run time only.
fn assignment(cluster: &Cluster, live: &[ClusterStatus]) -> Value {
    let endpoints = match &cluster.discovery {
        Discovery::Static(endpoints) => by_locality(endpoints.iter().map(|endpoint| {
            let address = match &endpoint.address {
                EndpointAddress::Socket(address) => socket_address(&address.ip().to_string(), address.port()),
                EndpointAddress::Unix(path) => pipe(&path.to_string_lossy()),
            };
            let mut message = lb_endpoint(address, endpoint.health, endpoint.weight);
            set(&mut message, "metadata", workload(&endpoint.workload));
            (&endpoint.locality, message)
        })),
        Discovery::Dns(_) => {
            let found = live.binary_search_by(|status| status.name.as_str().cmp(&cluster.name));
            let endpoints = found.map_or(&[][..], |at| live[at].endpoints.as_slice());
            by_locality(endpoints.iter().map(|endpoint| {
                let mut message = lb_endpoint(address(endpoint), endpoint.health, endpoint.weight);
                if !endpoint.hostname.is_empty() {
                    message["endpoint"]["hostname"] = Value::String(endpoint.hostname.clone());
                }
                (&endpoint.locality, message)
            }))
        }
    };
    let mut message = json!({ "cluster_name": &*cluster.name });
    set(&mut message, "endpoints", (!endpoints.is_empty()).then_some(endpoints));
    typed("envoy.config.endpoint.v3.ClusterLoadAssignment", message)
}

fn lb_endpoint(address: Value, health: Health, weight: u32) -> Value {
    json!({
        "endpoint": { "address": address },
        "health_status": health_status(health),
        "load_balancing_weight": weight,
    })
}

pub(crate) fn health_status(health: Health) -> &'static str {
    match health {
        Health::Healthy => "HEALTHY",
        Health::Unhealthy => "UNHEALTHY",
    }
}

/// istiod's `workload;namespace;canonical name;canonical revision;cluster`.
fn workload(workload: &Workload) -> Option<Value> {
    if workload.name.is_empty() {
        return None;
    }
    let Workload { name, namespace, canonical_service, canonical_revision, cluster, .. } = workload;
    let text = format!("{name};{namespace};{canonical_service};{canonical_revision};{cluster}");
    Some(json!({ "filter_metadata": { "istio": { "workload": text } } }))
}

/// `LocalityLbEndpoints`: one for each locality, in order of first appearance.
pub(super) fn by_locality<'a>(endpoints: impl Iterator<Item = (&'a Locality, Value)>) -> Vec<Value> {
    // Endpoints of one cluster are in a handful of localities.
    let mut groups: Vec<(&Locality, Vec<Value>)> = Vec::new();
    for (place, endpoint) in endpoints {
        match groups.iter_mut().find(|(known, _)| *known == place) {
            Some((_, group)) => group.push(endpoint),
            None => groups.push((place, vec![endpoint])),
        }
    }
    let message = |(place, group): (&Locality, Vec<Value>)| {
        // Envoy always writes the locality here, empty or not.
        json!({ "locality": locality(place).unwrap_or_else(|| json!({})), "lb_endpoints": group })
    };
    groups.into_iter().map(message).collect()
}

pub(crate) fn socket_address(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

fn pipe(path: &str) -> Value {
    json!({ "pipe": { "path": path } })
}

/// `envoy.config.core.v3.Address` of an address as text.
pub(crate) fn address(endpoint: &EndpointStatus) -> Value {
    if let Some(path) = endpoint.address.strip_prefix("unix://") {
        return pipe(path);
    }
    match endpoint.address.parse::<std::net::SocketAddr>() {
        Ok(address) => socket_address(&address.ip().to_string(), address.port()),
        // Not resolved yet: `name:port`.
        Err(_) => match endpoint.address.rsplit_once(':') {
            Some((host, port)) => socket_address(host, port.parse().unwrap_or(0)),
            None => socket_address(&endpoint.address, 0),
        },
    }
}
