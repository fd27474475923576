//! MeshConfig, from a file of its own or from the ConfigMap `istio`.

use std::sync::Arc;

use tidegate_core::{Code, Diagnostic, Kind, Origin, Position, ResourceKey};

use super::{MAX_FILE_BYTES, MAX_SOURCE_BYTES, too_large};
use crate::decode::{Decode, Decoder};
use crate::mesh::MeshConfig;
use crate::node::{Entry, Node, Value};
use crate::object::{Metadata, Object, Spec};
use crate::pending;
use crate::yaml::{self, Lines};

/// Name of the ConfigMap and of the key in it that hold the mesh's settings (Istio, `mesh.IstioMeshConfig`).
const CONFIG_MAP: &str = "istio";
const ENTRY: &str = "mesh";

/// Reads a file with mesh settings (`--mesh-config`). The object's paths have no `spec.` in front:
/// `defaultConfig.gatewayTopology`.
pub fn parse_mesh_config(file: &str, text: &str) -> (Option<Object>, Vec<Diagnostic>) {
    let file: Arc<str> = file.into();
    if text.len() > MAX_FILE_BYTES {
        return (None, vec![too_large(file, text.len())]);
    }
    let key = ResourceKey::local(Kind::MeshConfig, "", CONFIG_MAP);
    let origin = Origin { file, position: Position { line: 1, column: 1 } };
    let (mut object, diagnostics) = read(origin, key, text, |position| position);
    if let Some(object) = object.as_mut().filter(|_| text.len() <= MAX_SOURCE_BYTES) {
        object.source = text.into();
    }
    (object, diagnostics)
}

/// The settings in a ConfigMap, if it is the mesh's. Their places are lines of the file that the ConfigMap stands in,
/// as far as the text is written there line by line (`mesh: |`).
pub(super) fn in_config_map(
    lines: &Lines<'_>,
    root: &Node,
    object: &Object,
) -> Option<(Option<Object>, Vec<Diagnostic>)> {
    if object.key.kind != Kind::ConfigMap || &*object.key.name != CONFIG_MAP {
        return None;
    }
    let entry = root.get("data")?.entries().iter().find(|entry| &*entry.key == ENTRY)?;
    let text = entry.value.as_str()?;
    let key = ResourceKey { kind: Kind::MeshConfig, ..object.key.clone() };
    let origin = object.origin.at(entry.position);
    Some(match block_start(lines, entry, text) {
        Some(start) => read(origin, key, text, |position| Position {
            line: start.line.saturating_add(position.line - 1),
            column: start.column.saturating_add(position.column - 1),
        }),
        None => read(origin, key, text, |_| entry.position),
    })
}

/// Where the first character of a literal block's text stands in the file.
fn block_start(lines: &Lines<'_>, entry: &Entry, text: &str) -> Option<Position> {
    let header = lines.line(entry.position.line);
    let is_block = header.split_once(':').is_some_and(|(_, rest)| rest.trim_start().starts_with('|'));
    if !is_block {
        return None;
    }
    let first = entry.position.line.checked_add(1)?;
    // The first line with text tells how far the block is indented.
    let (index, line) = text.lines().enumerate().find(|(_, line)| !line.trim().is_empty())?;
    let written = lines.line(first.checked_add(u32::try_from(index).ok()?)?);
    let indent = written.strip_suffix('\r').unwrap_or(written).len().checked_sub(line.len())?;
    Some(Position { line: first, column: u32::try_from(indent).ok()?.checked_add(1)? })
}

fn read(
    origin: Origin,
    key: ResourceKey,
    text: &str,
    place: impl Fn(Position) -> Position,
) -> (Option<Object>, Vec<Diagnostic>) {
    let mut root: Option<Node> = None;
    let mut diagnostics = Vec::new();
    let report = |code: Code, problem: &yaml::Problem| {
        let mut diagnostic =
            Diagnostic::error(code, origin.at(place(problem.position)), problem.message.clone()).key(key.clone());
        diagnostic.help = problem.help.clone();
        diagnostic
    };
    for document in yaml::chunks(text).flat_map(|chunk| yaml::documents(&Lines::new(chunk))) {
        match document {
            Ok(document) => {
                diagnostics.extend(document.problems.iter().map(|problem| report(Code::SCHEMA, problem)));
                if root.is_some() {
                    let problem = yaml::Problem {
                        position: document.root.position,
                        message: "mesh settings are one document; this is a second one".into(),
                        help: None,
                    };
                    diagnostics.push(report(Code::SCHEMA, &problem));
                }
                root = root.or(Some(document.root));
            }
            Err(broken) => diagnostics.push(report(Code::SYNTAX, &broken.problem)),
        }
    }
    if !diagnostics.is_empty() {
        return (None, diagnostics);
    }
    let mut root = root.unwrap_or(Node { position: Position { line: 1, column: 1 }, value: Value::Null });
    if root.is_null() {
        // An empty text means Istio's defaults.
        root.value = Value::Mapping(Vec::new());
    }
    relocate(&mut root, &place);
    let mut decoder = Decoder::new(origin.file.clone(), root.position);
    decoder.set_key(key.clone());
    let spec = MeshConfig::decode(&root, &mut decoder).map(|mesh| Spec::MeshConfig(Box::new(mesh)));
    if let Some(spec) = &spec {
        pending::values(&key.name, spec, &mut decoder);
    }
    let is_sound = !decoder.has_errors();
    let (spans, diagnostics) = decoder.finish();
    let object = spec.filter(|_| is_sound).map(|spec| Object {
        key,
        metadata: Metadata::default(),
        api_version: "".into(),
        spec,
        origin,
        spans,
        source: "".into(),
    });
    (object, diagnostics)
}

fn relocate(node: &mut Node, place: &impl Fn(Position) -> Position) {
    node.position = place(node.position);
    match &mut node.value {
        Value::Sequence(items) => items.iter_mut().for_each(|item| relocate(item, place)),
        Value::Mapping(entries) => {
            for entry in entries {
                entry.position = place(entry.position);
                relocate(&mut entry.value, place);
            }
        }
        _ => {}
    }
}
