//! Text to objects: which documents a text holds, which kinds they are, and what is wrong with them.

mod kinds;
mod mesh;
mod root;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use tidegate_core::{Code, Diagnostic, Kind, Level, Origin, Position, ResourceKey};

use self::kinds::Lookup;
use crate::node::{Node, Value, shorten};
use crate::object::Object;
use crate::redact::Scrub as _;
use crate::yaml::{self, Lines};

pub use self::mesh::parse_mesh_config;

/// Texts longer than this are refused before they are read.
pub const MAX_FILE_BYTES: usize = 64 << 20;

/// Longest source that an object keeps.
const MAX_SOURCE_BYTES: usize = 256 << 10;

/// Documents of one text that are reported one by one as no resources.
const MAX_UNREADABLE: usize = 20;

/// What every resource has.
const A_RESOURCE: &str = "a resource has apiVersion, kind and metadata";

/// How texts are read.
#[derive(Clone, Debug)]
pub struct ParseOptions {
    /// Namespace of objects that name none.
    pub default_namespace: Arc<str>,
    /// Cluster in the objects' keys; empty for files.
    pub cluster: Arc<str>,
    /// Lines of the file before the text, if the text is a document that was cut out of it.
    pub lines_before: u32,
}

impl Default for ParseOptions {
    fn default() -> Self {
        Self { default_namespace: "default".into(), cluster: "".into(), lines_before: 0 }
    }
}

/// What a text held.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// Objects without an error, in the order of the text. A ConfigMap `istio` with a key `mesh` is followed by the
    /// MeshConfig in it, whose key has the ConfigMap's namespace and name.
    pub objects: Vec<Object>,
    /// Documents of kinds that are not served.
    pub skipped: Vec<Skipped>,
    /// Findings, in the order of the text. One that is about an object whose name could be read carries its key, also
    /// if the object is not among `objects` because of it.
    pub diagnostics: Vec<Diagnostic>,
}

/// A document of a kind that is not served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skipped {
    pub kind: String,
    pub api_version: String,
    /// `name` or `namespace/name`, as written; empty if there is none.
    pub name: String,
    pub origin: Origin,
}

/// Reads a text of YAML documents (`---` between them) or JSON, also lists of objects (`kind: List`). Does not
/// [`validate`](crate::validate).
///
/// `file` is the name that findings carry. Every document stands for itself: a broken one takes nothing from the
/// others.
pub fn parse(file: &str, text: &str, options: &ParseOptions) -> Parsed {
    let file: Arc<str> = file.into();
    let mut parsed = Parsed::default();
    if text.len() > MAX_FILE_BYTES {
        parsed.diagnostics.push(too_large(file, text.len()));
        return parsed;
    }
    let mut context = Context { file, options, strings: HashMap::new(), parsed, unreadable: 0, unlisted_errors: 0 };
    for mut chunk in yaml::chunks(text) {
        chunk.lines_before = chunk.lines_before.saturating_add(options.lines_before);
        let lines = Lines::new(chunk);
        let before = context.parsed.diagnostics.len();
        let mut documents = yaml::documents(&lines);
        for document in &documents {
            match document {
                Ok(document) => context.document(&lines, &document.root, &document.problems),
                Err(broken) => context.broken(broken),
            }
        }
        if lines.may_be_secret {
            documents.iter_mut().for_each(yaml::wipe);
            context.scrub(before);
        }
    }
    context.finish()
}

/// As [`parse`], for bytes that may be anything: a text that is too large, binary or not UTF-8 gives one finding.
pub fn parse_bytes(file: &str, bytes: &[u8], options: &ParseOptions) -> Parsed {
    match text_of(file, bytes) {
        Ok(text) => parse(file, text, options),
        Err(diagnostic) => Parsed { diagnostics: vec![*diagnostic], ..Parsed::default() },
    }
}

/// Takes bytes as text, or says why they are none.
fn text_of<'b>(file: &str, bytes: &'b [u8]) -> Result<&'b str, Box<Diagnostic>> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(Box::new(too_large(file.into(), bytes.len())));
    }
    let error = |offset: usize, message: &str, help: &str| {
        let before = &bytes[..offset];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|byte| **byte != b'\n').count();
        let cut = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let origin = Origin::new(file, cut(line), cut(column));
        Err(Box::new(Diagnostic::error(Code::SYNTAX, origin, message).help(help)))
    };
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => error(0, "this file is UTF-16", "save it as UTF-8"),
        _ => match (bytes.iter().position(|byte| *byte == 0), std::str::from_utf8(bytes)) {
            (Some(offset), _) => error(offset, "this is a binary file (it holds a NUL byte)", "move it elsewhere"),
            (None, Ok(text)) => Ok(text),
            (None, Err(utf8)) => error(utf8.valid_up_to(), "this file is not UTF-8", "save it as UTF-8"),
        },
    }
}

fn too_large(file: Arc<str>, bytes: usize) -> Diagnostic {
    let message = format!("{} MiB is more than a file may have ({} MiB)", bytes >> 20, MAX_FILE_BYTES >> 20);
    Diagnostic::error(Code::SYNTAX, Origin::new(file, 1, 1), message).help("divide it into several files")
}

/// What is known while one text is read.
struct Context<'o> {
    file: Arc<str>,
    options: &'o ParseOptions,
    /// Names that many objects share.
    strings: HashMap<Box<str>, Arc<str>>,
    parsed: Parsed,
    /// Documents that are no resources, and of how many among them that is an error.
    unreadable: usize,
    unlisted_errors: usize,
}

impl Context<'_> {
    fn document(&mut self, lines: &Lines<'_>, root: &Node, problems: &[yaml::Problem]) {
        if root.is_null() {
            return;
        }
        if !matches!(root.value, Value::Mapping(_)) {
            let message = format!("expected a resource, found {}", describe(lines, root));
            self.unreadable(Level::Error, root.position, message, Some(A_RESOURCE.into()));
            return;
        }
        let before = self.parsed.objects.len();
        self.resource(lines, root, None, problems);
        if !problems.is_empty() {
            // The caller keeps the last good form of what the document holds.
            self.parsed.objects.truncate(before);
        }
    }

    /// Reads a mapping that is a resource or a list of them. `list` are the apiVersion and kind that the elements of
    /// an element may take from its list.
    fn resource(&mut self, lines: &Lines<'_>, root: &Node, list: Option<(&str, &str)>, problems: &[yaml::Problem]) {
        let text = |name: &str| root.get(name).and_then(Node::as_str).filter(|text| !text.is_empty());
        let Some(kind) = text("kind").or(list.map(|(_, kind)| kind).filter(|kind| !kind.is_empty())) else {
            self.report_problems(problems, None);
            self.no_kind(root);
            return;
        };
        let api_version = text("apiVersion").or(list.map(|(api_version, _)| api_version)).unwrap_or("");
        if let (Some(item_kind), Some(Value::Sequence(items))) =
            (kind.strip_suffix("List"), root.get("items").map(|items| &items.value))
        {
            self.report_problems(problems, None);
            // Elements of `kind: List` say what they are; those of `ServiceList` need not.
            let typed = Some(if item_kind.is_empty() { ("", "") } else { (api_version, item_kind) });
            for item in items {
                match item.value {
                    Value::Mapping(_) => self.resource(lines, item, typed, &[]),
                    _ => {
                        let message = format!("expected a resource, found {}", describe(lines, item));
                        self.unreadable(Level::Error, item.position, message, None);
                    }
                }
            }
            return;
        }
        let position = root.get("kind").map_or(root.position, |node| node.position);
        match kinds::lookup(api_version, kind) {
            Lookup::Served(kind) => self.object(lines, root, kind, api_version, list.is_some(), problems),
            Lookup::Unserved => {
                self.report_problems(problems, None);
                let metadata = |name: &str| root.get("metadata").and_then(|m| m.get(name)).and_then(Node::as_str);
                let name = match (metadata("namespace"), metadata("name")) {
                    (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
                    (_, name) => name.unwrap_or_default().to_owned(),
                };
                let mut skipped = Skipped {
                    kind: shorten(kind).into_owned(),
                    api_version: shorten(api_version).into_owned(),
                    name,
                    origin: self.origin(position),
                };
                skipped.scrub();
                self.parsed.skipped.push(skipped);
            }
            Lookup::Wrong { kind, message, help } => {
                let key = kind.and_then(|kind| root::read_key(root, kind, self.options));
                self.report_problems(problems, key.as_ref());
                let place = root.get("apiVersion").map_or(position, |node| node.position);
                let mut diagnostic = Diagnostic::error(Code::SCHEMA, self.origin(place), message).path("apiVersion");
                diagnostic.help = help;
                diagnostic.key = key;
                self.parsed.diagnostics.push(diagnostic);
            }
        }
    }

    /// Reports a mapping without `kind`: an error if something else of a resource is there, a warning if it is some other
    /// YAML that happens to lie in the folder, such as values of a chart.
    fn no_kind(&mut self, root: &Node) {
        let looks_like_a_resource = ["apiVersion", "metadata", "spec"].iter().any(|key| root.get(key).is_some());
        let level = if looks_like_a_resource { Level::Error } else { Level::Warning };
        let message = "this document has no `kind`: it is no resource";
        self.unreadable(level, root.position, message.into(), Some(A_RESOURCE.into()));
    }

    fn object(
        &mut self,
        lines: &Lines<'_>,
        root: &Node,
        kind: Kind,
        api_version: &str,
        is_element: bool,
        problems: &[yaml::Problem],
    ) {
        let decoded = root::decode(self.file.clone(), root, kind, self.options);
        self.report_problems(problems, decoded.key.as_ref());
        self.parsed.diagnostics.extend(decoded.diagnostics);
        let (Some(mut key), Some(spec)) = (decoded.key, decoded.spec) else { return };
        key.cluster = self.options.cluster.clone();
        key.namespace = self.share(&key.namespace);
        let object = Object {
            origin: self.origin(root.position),
            api_version: self.share(api_version),
            metadata: decoded.metadata,
            spans: decoded.spans,
            source: source(lines, root, kind, is_element).into(),
            key,
            spec,
        };
        let mesh = mesh::in_config_map(lines, root, &object);
        self.parsed.objects.push(object);
        if let Some((object, diagnostics)) = mesh {
            self.parsed.objects.extend(object);
            self.parsed.diagnostics.extend(diagnostics);
        }
    }

    /// Takes what may be of a key out of the findings from the given one on, unless they are about another object.
    fn scrub(&mut self, first: usize) {
        for finding in &mut self.parsed.diagnostics[first..] {
            if finding.key.as_ref().is_none_or(|key| key.kind == Kind::Secret) {
                finding.scrub();
            }
        }
    }

    fn report_problems(&mut self, problems: &[yaml::Problem], key: Option<&ResourceKey>) {
        for problem in problems {
            let mut diagnostic =
                Diagnostic::error(Code::SCHEMA, self.origin(problem.position), problem.message.clone());
            diagnostic.help = problem.help.clone();
            diagnostic.key = key.cloned();
            self.parsed.diagnostics.push(diagnostic);
        }
    }

    /// Reports a document with broken syntax: under the object's name if that was read before, so that the caller can
    /// keep the object's last good form.
    fn broken(&mut self, broken: &yaml::Broken) {
        let yaml::Problem { position, message, help } = broken.problem.clone();
        let text = |name: &str| broken.root.as_ref()?.get(name)?.as_str();
        let kind = kinds::lookup(text("apiVersion").unwrap_or_default(), text("kind").unwrap_or_default());
        let key = match (kind, &broken.root) {
            (Lookup::Served(kind), Some(root)) => root::read_key(root, kind, self.options),
            _ => None,
        };
        let Some(key) = key else { return self.unreadable(Level::Error, position, message, help) };
        let mut diagnostic = Diagnostic::error(Code::SYNTAX, self.origin(position), message).key(key);
        diagnostic.help = help;
        self.parsed.diagnostics.push(diagnostic);
    }

    /// Reports a document that is no resource.
    fn unreadable(&mut self, level: Level, position: Position, message: String, help: Option<String>) {
        self.unreadable += 1;
        if self.unreadable > MAX_UNREADABLE {
            self.unlisted_errors += usize::from(level == Level::Error);
            return;
        }
        let mut diagnostic = Diagnostic::new(Code::SYNTAX, level, self.origin(position), message);
        diagnostic.help = help;
        self.parsed.diagnostics.push(diagnostic);
    }

    fn origin(&self, position: Position) -> Origin {
        Origin { file: self.file.clone(), position }
    }

    fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(shared) = self.strings.get(text) {
            return shared.clone();
        }
        let shared: Arc<str> = text.into();
        self.strings.insert(text.into(), shared.clone());
        shared
    }

    fn finish(mut self) -> Parsed {
        let unlisted = self.unreadable.saturating_sub(MAX_UNREADABLE);
        if unlisted > 0 {
            let position = self.parsed.diagnostics.last().map(|last| last.origin.position).unwrap_or_default();
            let level = if self.unlisted_errors > 0 { Level::Error } else { Level::Warning };
            let message = format!("{unlisted} more documents of this file are no resources");
            self.parsed.diagnostics.push(Diagnostic::new(Code::SYNTAX, level, self.origin(position), message));
        }
        self.parsed
    }
}

/// The lines of an object: to the end of the chunk, or of its last value if it is an element of a list.
fn source<'t>(lines: &Lines<'t>, root: &Node, kind: Kind, is_element: bool) -> &'t str {
    // A second document behind `...` may be a Secret.
    let has_neighbours = || lines.chunk.text.lines().any(|line| line.starts_with("..."));
    if kind == Kind::Secret || (lines.may_be_secret && !is_element && has_neighbours()) {
        return "";
    }
    let end = if is_element { last_position(root).line.saturating_add(1) } else { u32::MAX };
    let text = lines.range(root.position.line, end).trim_end();
    if text.len() > MAX_SOURCE_BYTES { "" } else { text }
}

/// What stands at `node`, in words for a message that may quote it only if no Secret is near.
fn describe(lines: &Lines<'_>, node: &Node) -> Cow<'static, str> {
    if lines.may_be_secret { node.describe_type().into() } else { node.describe() }
}

/// Where the last value of a tree starts.
fn last_position(node: &Node) -> Position {
    match &node.value {
        Value::Sequence(items) => items.last().map_or(node.position, last_position),
        Value::Mapping(entries) => entries.last().map_or(node.position, |entry| last_position(&entry.value)),
        _ => node.position,
    }
}
