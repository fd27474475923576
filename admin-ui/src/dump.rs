//! The Snapshot in the shape of Envoy's `/config_dump`, so that istioctl, Kiali and scripts read it.
//!
//! It owns the translation from our model to `envoy.admin.v3.ConfigDump` and nothing else: what the model does not hold
//! is left out rather than made up. Fields are in snake case, durations are text in seconds and enumerations are names,
//! as Envoy prints them; every message behind an `Any` has its `@type`.
//!
//! A secret shows its certificates; its key is `[redacted]`, and is not even here to be shown.
//!
//! Source: Envoy, `envoy/admin/v3/config_dump.proto` and `config_dump_shared.proto`.

mod cluster;
mod endpoint;
mod listener;
mod mask;
mod node;
mod route;
mod secret;
mod transport_socket;

pub(crate) use endpoint::{address, health_status, socket_address};

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use tidegate_core::{Kind, ResourceKey};
use tidegate_snapshot::{Locality, Pattern, Snapshot};

use self::mask::Mask;
pub(crate) use self::node::Node;
use crate::backend::timestamp;
use crate::{ClusterStatus, NodeInfo, SecretStatus};

/// What a dump is made of besides the Snapshot.
#[derive(Clone, Copy, Debug)]
pub struct DumpOptions<'a> {
    pub node: &'a NodeInfo,
    /// When the Snapshot was published.
    pub updated: Option<SystemTime>,
    /// Adds the endpoints of every cluster.
    pub include_eds: bool,
    /// Clusters at run time, sorted by name: where the endpoints of resolved names come from.
    pub clusters: &'a [ClusterStatus],
    /// Secrets at run time, sorted by name.
    pub secrets: &'a [SecretStatus],
    /// Keeps only resources whose whole name it matches; the bootstrap stays.
    pub names: Option<&'a Pattern>,
}

impl<'a> DumpOptions<'a> {
    /// Everything but endpoints, without times.
    pub fn new(node: &'a NodeInfo) -> Self {
        Self { node, updated: None, include_eds: false, clusters: &[], secrets: &[], names: None }
    }
}

/// The whole dump: `{"configs": [...]}` with one section for the bootstrap, clusters, extensions, endpoints (if asked
/// for), listeners, routes and secrets, in this order.
pub fn config_dump(snapshot: &Snapshot, options: &DumpOptions<'_>) -> Value {
    whole(snapshot, options).to_value()
}

/// The elements of one repeated field of one section (`dynamic_active_clusters`), each trimmed to `mask`.
///
/// # Errors
/// No section has the field, it holds a single value, or the mask names a field that the elements cannot have.
pub fn config_dump_resource(
    snapshot: &Snapshot,
    options: &DumpOptions<'_>,
    resource: &str,
    mask: Option<&str>,
) -> Result<Value, DumpError> {
    Ok(one_resource(snapshot, options, resource, mask)?.to_value())
}

/// The sections that have the fields of `mask`, with those alone.
///
/// # Errors
/// No section has all the fields.
pub fn config_dump_masked(snapshot: &Snapshot, options: &DumpOptions<'_>, mask: &str) -> Result<Value, DumpError> {
    Ok(masked(snapshot, options, mask)?.to_value())
}

/// Why a part of the dump cannot be had; the texts are Envoy's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DumpError {
    #[error("{0} not found in config dump")]
    NotFound(String),
    #[error("{0} is not a repeated field. Use ?mask={0} to get only this field")]
    NotRepeated(String),
    #[error("FieldMask {0} could not be successfully used.")]
    Mask(String),
    #[error("FieldMask {0} could not be successfully applied to any configs.")]
    MaskOnNothing(String),
}

/// [`config_dump`] to be written.
pub(crate) fn whole<'a>(snapshot: &'a Snapshot, options: &DumpOptions<'a>) -> Node<'a> {
    let options = *options;
    let sections = move || Section::included(&options).map(move |section| section.build(snapshot, options));
    Node::Object(vec![("configs", Node::list(sections))])
}

/// [`config_dump_resource`] to be written.
pub(crate) fn one_resource<'a>(
    snapshot: &'a Snapshot,
    options: &DumpOptions<'a>,
    resource: &str,
    mask: Option<&'a str>,
) -> Result<Node<'a>, DumpError> {
    let not_found = || DumpError::NotFound(resource.to_owned());
    let (section, field) = Section::included(options)
        .find_map(|section| Some((section, section.fields().iter().find(|field| field.name == resource)?)))
        .ok_or_else(not_found)?;
    let Some(element) = field.element else { return Err(DumpError::NotRepeated(resource.to_owned())) };
    let mask = mask.map(|mask| Arc::new(Mask::parse(mask)));
    if let Some(mask) = mask.as_ref().filter(|mask| !mask.heads_are_among(element.fields)) {
        return Err(DumpError::Mask(mask.to_string()));
    }
    let Node::Object(fields) = section.build(snapshot, *options) else { return Ok(Node::Object(Vec::new())) };
    let Some(Node::List(elements)) = fields.into_iter().find(|(name, _)| *name == resource).map(|(_, list)| list)
    else {
        return Ok(Node::Object(Vec::new()));
    };
    let type_name: Arc<str> = format!("{}.{}", section.type_name(), element.type_name).into();
    let configs = move || {
        let (mask, type_name) = (mask.clone(), type_name.clone());
        elements().map(move |message| match &mask {
            None => message.typed(&type_name),
            Some(mask) => {
                let mut message = message.to_value();
                mask.trim(&mut message);
                Node::Leaf(typed(&type_name, message))
            }
        })
    };
    Ok(Node::Object(vec![("configs", Node::list(configs))]))
}

/// [`config_dump_masked`] to be written.
pub(crate) fn masked<'a>(
    snapshot: &'a Snapshot,
    options: &DumpOptions<'a>,
    mask: &'a str,
) -> Result<Node<'a>, DumpError> {
    let (options, parsed) = (*options, Arc::new(Mask::parse(mask)));
    let sections: Vec<_> = Section::included(&options)
        .filter(|section| {
            let names: Vec<_> = section.fields().iter().map(|field| field.name).collect();
            parsed.heads_are_among(&names)
        })
        .collect();
    if sections.is_empty() {
        return Err(DumpError::MaskOnNothing(mask.to_owned()));
    }
    let configs = move || {
        let parsed = parsed.clone();
        sections.clone().into_iter().map(move |section| {
            let mut message = section.build(snapshot, options).to_value();
            parsed.trim(&mut message);
            Node::Leaf(message)
        })
    };
    Ok(Node::Object(vec![("configs", Node::list(configs))]))
}

/// One message of the dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Section {
    Bootstrap,
    Clusters,
    Ecds,
    Endpoints,
    Listeners,
    Routes,
    Secrets,
}

/// A field of a section.
struct Field {
    name: &'static str,
    /// Its elements, if it is repeated.
    element: Option<Element>,
}

#[derive(Clone, Copy)]
struct Element {
    /// Within the section's message.
    type_name: &'static str,
    fields: &'static [&'static str],
}

const fn single(name: &'static str) -> Field {
    Field { name, element: None }
}

const fn repeated(name: &'static str, type_name: &'static str, fields: &'static [&'static str]) -> Field {
    Field { name, element: Some(Element { type_name, fields }) }
}

impl Section {
    /// In Envoy's order, which is that of their names in its tracker.
    const ALL: [Self; 7] =
        [Self::Bootstrap, Self::Clusters, Self::Ecds, Self::Endpoints, Self::Listeners, Self::Routes, Self::Secrets];

    fn included(options: &DumpOptions<'_>) -> impl Iterator<Item = Self> + use<> {
        let include_eds = options.include_eds;
        Self::ALL.into_iter().filter(move |section| include_eds || *section != Self::Endpoints)
    }

    fn type_name(self) -> &'static str {
        match self {
            Self::Bootstrap => "envoy.admin.v3.BootstrapConfigDump",
            Self::Clusters => "envoy.admin.v3.ClustersConfigDump",
            Self::Ecds => "envoy.admin.v3.EcdsConfigDump",
            Self::Endpoints => "envoy.admin.v3.EndpointsConfigDump",
            Self::Listeners => "envoy.admin.v3.ListenersConfigDump",
            Self::Routes => "envoy.admin.v3.RoutesConfigDump",
            Self::Secrets => "envoy.admin.v3.SecretsConfigDump",
        }
    }

    fn fields(self) -> &'static [Field] {
        const CLUSTER: &[&str] = &["version_info", "cluster", "last_updated", "error_state", "client_status"];
        const LISTENER: &[&str] =
            &["name", "active_state", "warming_state", "draining_state", "error_state", "client_status"];
        const ROUTES: &[&str] = &["version_info", "route_config", "last_updated", "error_state", "client_status"];
        const ENDPOINT: &[&str] = &["version_info", "endpoint_config", "last_updated", "error_state", "client_status"];
        const SECRET: &[&str] = &["name", "version_info", "last_updated", "secret", "error_state", "client_status"];
        const ECDS: &[&str] = &["version_info", "ecds_filter", "last_updated", "error_state", "client_status"];
        match self {
            Self::Bootstrap => const { &[single("bootstrap"), single("last_updated")] },
            Self::Clusters => {
                const {
                    &[
                        single("version_info"),
                        repeated("static_clusters", "StaticCluster", &["cluster", "last_updated"]),
                        repeated("dynamic_active_clusters", "DynamicCluster", CLUSTER),
                        repeated("dynamic_warming_clusters", "DynamicCluster", CLUSTER),
                    ]
                }
            }
            Self::Ecds => const { &[repeated("ecds_filters", "EcdsFilterConfig", ECDS)] },
            Self::Endpoints => {
                const {
                    &[
                        repeated(
                            "static_endpoint_configs",
                            "StaticEndpointConfig",
                            &["endpoint_config", "last_updated"],
                        ),
                        repeated("dynamic_endpoint_configs", "DynamicEndpointConfig", ENDPOINT),
                    ]
                }
            }
            Self::Listeners => {
                const {
                    &[
                        single("version_info"),
                        repeated("static_listeners", "StaticListener", &["listener", "last_updated"]),
                        repeated("dynamic_listeners", "DynamicListener", LISTENER),
                    ]
                }
            }
            Self::Routes => {
                const {
                    &[
                        repeated("static_route_configs", "StaticRouteConfig", &["route_config", "last_updated"]),
                        repeated("dynamic_route_configs", "DynamicRouteConfig", ROUTES),
                    ]
                }
            }
            Self::Secrets => {
                const {
                    &[
                        repeated("static_secrets", "StaticSecret", &["name", "last_updated", "secret"]),
                        repeated("dynamic_active_secrets", "DynamicSecret", SECRET),
                        repeated("dynamic_warming_secrets", "DynamicSecret", SECRET),
                    ]
                }
            }
        }
    }

    fn build<'a>(self, snapshot: &'a Snapshot, options: DumpOptions<'a>) -> Node<'a> {
        let versioned = Versioned {
            version: snapshot.hash().to_string().into(),
            updated: options.updated.map(|updated| timestamp(updated).into()),
        };
        let message = match self {
            Self::Bootstrap => {
                let mut message = json!({ "bootstrap": { "node": node(options.node) } });
                // The bootstrap is as old as the process.
                set(&mut message, "last_updated", options.node.started.map(timestamp));
                Node::Leaf(message)
            }
            Self::Clusters => cluster::section(snapshot, options, versioned),
            // There are no extension configurations.
            Self::Ecds => Node::Object(Vec::new()),
            Self::Endpoints => endpoint::section(snapshot, options, versioned),
            Self::Listeners => listener::section(snapshot, options, versioned),
            Self::Routes => route::section(snapshot, options, versioned),
            Self::Secrets => secret::section(options),
        };
        message.typed(self.type_name())
    }
}

/// What every dynamic resource says of itself.
#[derive(Clone)]
struct Versioned {
    version: Arc<str>,
    updated: Option<Arc<str>>,
}

impl Versioned {
    fn version<'a>(&self) -> (&'static str, Node<'a>) {
        ("version_info", Node::leaf(&*self.version))
    }

    /// A resource under `field` between its version and its time.
    fn wrap<'a>(&self, field: &'static str, resource: Node<'a>) -> Node<'a> {
        let mut fields = vec![self.version(), (field, resource)];
        fields.extend(self.updated.as_deref().map(|updated| ("last_updated", Node::leaf(updated))));
        Node::Object(fields)
    }
}

impl DumpOptions<'_> {
    fn names(&self, name: &str) -> bool {
        self.names.is_none_or(|pattern| pattern.is_match(name.as_bytes()))
    }
}

fn type_url(type_name: &str) -> String {
    format!("type.googleapis.com/{type_name}")
}

/// A message behind an `Any`: its type first, then its fields.
fn typed(type_name: &str, message: Value) -> Value {
    let mut typed = Map::new();
    typed.insert("@type".to_owned(), Value::String(type_url(type_name)));
    if let Value::Object(fields) = message {
        typed.extend(fields);
    }
    Value::Object(typed)
}

/// Sets a field that is left out when there is nothing to say.
fn set(message: &mut Value, field: &str, value: Option<impl Into<Value>>) {
    if let (Some(fields), Some(value)) = (message.as_object_mut(), value) {
        fields.insert(field.to_owned(), value.into());
    }
}

/// Protobuf's JSON form: seconds, with as many decimals as needed in threes.
fn duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    match nanos {
        0 => format!("{seconds}s"),
        _ if nanos.is_multiple_of(1_000_000) => format!("{seconds}.{:03}s", nanos / 1_000_000),
        _ if nanos.is_multiple_of(1_000) => format!("{seconds}.{:06}s", nanos / 1_000),
        _ => format!("{seconds}.{nanos:09}s"),
    }
}

/// None if every part is unknown.
pub(crate) fn locality(locality: &Locality) -> Option<Value> {
    let mut parts = Map::new();
    for (name, part) in [("region", &locality.region), ("zone", &locality.zone), ("sub_zone", &locality.subzone)] {
        if !part.is_empty() {
            parts.insert(name.to_owned(), Value::String(part.clone()));
        }
    }
    (!parts.is_empty()).then_some(Value::Object(parts))
}

/// RFC 4648 with padding: protobuf's JSON form of bytes.
pub fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            if at <= chunk.len() {
                let six = (word >> (18 - 6 * at)) & 63;
                out.push(char::from(ALPHABET[six as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

/// Where istioctl and Kiali look for the object behind a resource.
fn config_path(key: &ResourceKey) -> Option<String> {
    let kind = match key.kind {
        Kind::Gateway => "gateway",
        Kind::VirtualService => "virtual-service",
        Kind::DestinationRule => "destination-rule",
        Kind::ServiceEntry => "service-entry",
        Kind::WorkloadEntry => "workload-entry",
        // Objects of other groups are not looked up by this path.
        _ => return None,
    };
    Some(format!("/apis/{}/v1/namespaces/{}/{kind}/{}", key.kind.group(), key.namespace, key.name))
}

/// `<app>.<namespace>`, as istio's injector writes it.
pub(crate) fn service_cluster(node: &NodeInfo) -> String {
    let app = node.labels.get("app").map_or(node.name.as_str(), String::as_str);
    format!("{app}.{}", node.namespace)
}

/// `envoy.config.core.v3.Node`.
pub(crate) fn node(node: &NodeInfo) -> Value {
    let mut metadata = json!({
        "NAME": node.name,
        "NAMESPACE": node.namespace,
        "WORKLOAD_NAME": node.labels.get("app").unwrap_or(&node.name),
        "CLUSTER_ID": node.cluster_id,
        "LABELS": node.labels,
        // istioctl prints it as the version of the proxy.
        "ISTIO_VERSION": node.version,
    });
    if !node.revision.is_empty() {
        set(&mut metadata, "ISTIO_PROXY_SHA", Some(node.revision.as_str()));
    }
    let mut message = json!({
        "id": node.id,
        "cluster": service_cluster(node),
        "metadata": metadata,
        "user_agent_name": "tidegate",
        "user_agent_build_version": build_version(node),
    });
    set(&mut message, "locality", locality(&node.locality));
    message
}

fn build_version(node: &NodeInfo) -> Value {
    let (numbers, label) = match node.version.split_once('-') {
        Some((numbers, label)) => (numbers, Some(label)),
        None => (node.version.as_str(), None),
    };
    let mut numbers = numbers.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let mut metadata = json!({
        "build.type": if cfg!(debug_assertions) { "DEBUG" } else { "RELEASE" },
        "ssl.version": "aws-lc",
    });
    set(&mut metadata, "build.label", label);
    if !node.revision.is_empty() {
        set(&mut metadata, "revision.sha", Some(node.revision.as_str()));
    }
    json!({
        "version": { "major_number": next(), "minor_number": next(), "patch": next() },
        "metadata": metadata,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_protobuf_writes_them() {
        for (millis, expected) in [(0, "0s"), (10_000, "10s"), (250, "0.250s"), (1_500, "1.500s")] {
            assert_eq!(duration(Duration::from_millis(millis)), expected);
        }
        assert_eq!(duration(Duration::from_micros(1)), "0.000001s");
        assert_eq!(duration(Duration::from_nanos(1_000_000_001)), "1.000000001s");
    }

    #[test]
    fn bytes_are_written_as_base64() {
        for (bytes, expected) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"\xff\xfe\xfd\xfc", "//79/A==")]
        {
            assert_eq!(base64(bytes), expected);
        }
    }

    #[test]
    fn versions_are_split_into_numbers_and_label() {
        let node = NodeInfo { version: "1.22.3-rc.1".into(), ..NodeInfo::default() };
        let version = build_version(&node);
        assert_eq!(version["version"], json!({ "major_number": 1, "minor_number": 22, "patch": 3 }));
        assert_eq!(version["metadata"]["build.label"], "rc.1");
        let odd = NodeInfo { version: "dev".into(), ..NodeInfo::default() };
        assert_eq!(build_version(&odd)["version"]["major_number"], 0);
    }

    #[test]
    fn objects_are_named_as_istiod_names_them() {
        let path = |kind| config_path(&ResourceKey::local(kind, "default", "reviews"));
        assert_eq!(
            path(Kind::VirtualService).as_deref(),
            Some("/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews")
        );
        assert_eq!(
            path(Kind::DestinationRule).as_deref(),
            Some("/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews")
        );
        assert_eq!(path(Kind::Service), None);
    }
}
