//! Decoding of one resource from its root mapping.

use std::sync::Arc;

use tidegate_core::{Code, Diagnostic, Kind, Level, ResourceKey, SecretBytes};
use zeroize::Zeroize;

use super::ParseOptions;
use crate::decode::{Decode, Decoder, Enforcement, FieldSchema, Schema};
use crate::node::{Node, shorten};
use crate::object::{Metadata, ObjectMeta, Spec, rfc3339_seconds};
use crate::pending;
use crate::spans::Spans;
use crate::validate::names;

/// Largest sum of the entries of a ConfigMap or Secret (Kubernetes, `MaxSecretSize`).
const MAX_DATA_BYTES: usize = 1 << 20;

/// Where `kubectl apply` keeps the whole object, which of a Secret is the keys once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What came of one root.
pub(super) struct Decoded {
    /// None if the object's name cannot be read.
    pub(super) key: Option<ResourceKey>,
    pub(super) metadata: Metadata,
    /// None if something is wrong.
    pub(super) spec: Option<Spec>,
    pub(super) spans: Spans,
    pub(super) diagnostics: Vec<Diagnostic>,
}

/// Name and namespace of an object that may be wrong otherwise.
pub(super) fn read_key(root: &Node, kind: Kind, options: &ParseOptions) -> Option<ResourceKey> {
    let metadata = root.get("metadata")?;
    let name = metadata.get("name")?.as_str().filter(|name| names::is_subdomain(name))?;
    let namespace = match metadata.get("namespace").and_then(Node::as_str) {
        _ if kind.is_cluster_scoped() => "",
        Some(namespace) if !namespace.is_empty() => namespace,
        _ => &options.default_namespace,
    };
    Some(ResourceKey { kind, cluster: options.cluster.clone(), namespace: namespace.into(), name: name.into() })
}

pub(super) fn decode(file: Arc<str>, root: &Node, kind: Kind, options: &ParseOptions) -> Decoded {
    let mut decoder = Decoder::new(file, root.position);
    decoder.set_root_keys(ROOT_KEYS);
    if kind == Kind::Secret {
        decoder.set_secret();
    }
    let key = read_key(root, kind, options);
    if let Some(key) = &key {
        decoder.set_key(key.clone());
    }
    let mut metadata = metadata(root, &mut decoder);
    if kind == Kind::Secret
        && let Some(mut applied) = metadata.annotations.remove(LAST_APPLIED)
    {
        applied.zeroize();
    }
    let spec = match kind {
        Kind::Gateway => with_spec(root, &mut decoder).map(Spec::Gateway),
        Kind::VirtualService => with_spec(root, &mut decoder).map(Spec::VirtualService),
        Kind::DestinationRule => with_spec(root, &mut decoder).map(Spec::DestinationRule),
        Kind::ServiceEntry => with_spec(root, &mut decoder).map(Spec::ServiceEntry),
        Kind::WorkloadEntry => with_spec(root, &mut decoder).map(Spec::WorkloadEntry),
        Kind::Service => with_spec(root, &mut decoder).map(Spec::Service),
        Kind::EndpointSlice => flat(root, &mut decoder).map(Spec::EndpointSlice),
        Kind::Endpoints => flat(root, &mut decoder).map(Spec::Endpoints),
        // Its status holds the addresses.
        Kind::Pod => flat(root, &mut decoder).map(Spec::Pod),
        Kind::Namespace => flat(root, &mut decoder).map(Spec::Namespace),
        Kind::Secret => flat(root, &mut decoder).map(Spec::Secret),
        Kind::ConfigMap => flat(root, &mut decoder).map(Spec::ConfigMap),
        Kind::ReferenceGrant => with_spec(root, &mut decoder).map(Spec::ReferenceGrant),
        Kind::AcmeCertificate => with_spec(root, &mut decoder).map(Spec::AcmeCertificate),
        // No document is looked up as one.
        Kind::MeshConfig => None,
    };
    if let Some(spec) = &spec {
        data_size(spec, &mut decoder);
    }
    if let Some(spec) = &spec {
        let name = key.as_ref().map_or("", |key| &*key.name);
        pending::values(name, spec, &mut decoder);
    }
    let is_sound = !decoder.has_errors();
    let (spans, diagnostics) = decoder.finish();
    Decoded { key, metadata, spec: spec.filter(|_| is_sound), spans, diagnostics }
}

/// Root keys of every kind that its own type does not name. A status that somebody's tool printed means nothing here.
const ROOT_KEYS: &[&str] = &["apiVersion", "kind", "metadata", "status"];

/// The root mapping of a kind whose content stands under `spec`.
struct Root<T>(T);

impl<T: Decode> Root<T> {
    const SCHEMA: Schema = Schema {
        name: "this object",
        fields: &[
            FieldSchema::of::<String>("apiVersion"),
            FieldSchema::of::<String>("kind"),
            FieldSchema::of::<ObjectMeta>("metadata"),
            FieldSchema::of::<T>("spec"),
        ],
    };
}

impl<T: Decode + Default> Decode for Root<T> {
    const EXPECTS: &'static str = "a mapping";

    fn schema() -> Option<&'static Schema> {
        Some(&Self::SCHEMA)
    }

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        let entries = decoder.open::<Self>(node)?;
        let mut spec: Option<T> = None;
        let mut is_written = false;
        for entry in entries {
            match &*entry.key {
                "spec" => {
                    is_written |= !entry.value.is_null();
                    decoder.field(entry, Enforcement::Enforced, &mut spec);
                }
                _ => decoder.unknown_field(entry),
            }
        }
        decoder.close();
        if !is_written {
            decoder.bad_value::<()>(node, "`spec` is missing".into(), None);
        }
        spec.map(Root)
    }
}

fn with_spec<'n, T: Decode + Default>(root: &'n Node, decoder: &mut Decoder<'n>) -> Option<T> {
    flat::<Root<T>>(root, decoder).map(|Root(spec)| spec)
}

fn flat<'n, T: Decode>(root: &'n Node, decoder: &mut Decoder<'n>) -> Option<T> {
    T::decode(root, decoder)
}

/// Reads `metadata` and checks what makes a key of it.
fn metadata<'n>(root: &'n Node, decoder: &mut Decoder<'n>) -> Metadata {
    let mut meta = ObjectMeta::default();
    match root.entries().iter().find(|entry| &*entry.key == "metadata") {
        Some(entry) => decoder.field(entry, Enforcement::Enforced, &mut meta),
        None => {
            let help = Some("give it a `metadata` with a `name`".into());
            decoder.bad_value::<()>(root, "`metadata` is missing".into(), help);
            return Metadata::default();
        }
    }
    if meta.name.is_empty() && !decoder.has_errors() {
        let help = match meta.generate_name.is_empty() {
            true => "give the object a name",
            false => "`generateName` works with `kubectl create` only: give the object a name",
        };
        decoder.note(Code::SCHEMA, Level::Error, "metadata", "`metadata.name` is missing".into(), Some(help.into()));
    } else if !meta.name.is_empty() && !names::is_subdomain(&meta.name) {
        let message = format!("`{}` is no name for an object", shorten(&meta.name));
        let help = "a name has lower-case letters, digits, `-` and `.`, and begins and ends with a letter or digit";
        decoder.note(Code::SCHEMA, Level::Error, "metadata.name", message, Some(help.into()));
    }
    if !meta.namespace.is_empty() && !names::is_label(&meta.namespace) {
        let message = format!("`{}` is no name for a namespace", shorten(&meta.namespace));
        let help = "a namespace has lower-case letters, digits and `-`, and begins and ends with a letter or digit";
        decoder.note(Code::SCHEMA, Level::Error, "metadata.namespace", message, Some(help.into()));
    }
    if let Some(time) = meta.creation_timestamp.as_deref().filter(|time| rfc3339_seconds(time).is_none()) {
        let message = format!("`{}` is no time", shorten(time));
        let help = Some("write it as in 2006-01-02T15:04:05Z".into());
        decoder.note(Code::SCHEMA, Level::Error, "metadata.creationTimestamp", message, help);
    }
    Metadata {
        labels: meta.labels,
        annotations: meta.annotations,
        creation_timestamp: meta.creation_timestamp,
        generation: meta.generation,
        resource_version: meta.resource_version,
    }
}

/// Refuses what the API server would not store.
fn data_size(spec: &Spec, decoder: &mut Decoder<'_>) {
    let bytes: usize = match spec {
        Spec::ConfigMap(map) => {
            map.data.values().map(String::len).sum::<usize>()
                + map.binary_data.values().map(|b| b.0.len()).sum::<usize>()
        }
        Spec::Secret(secret) => {
            secret.data.values().map(SecretBytes::len).sum::<usize>()
                + secret.string_data.values().map(|text| text.0.len()).sum::<usize>()
        }
        _ => return,
    };
    if bytes > MAX_DATA_BYTES {
        let message = format!("the entries sum up to {bytes} bytes; Kubernetes stores at most {MAX_DATA_BYTES}");
        decoder.note(Code::SCHEMA, Level::Error, "data", message, None);
    }
}
