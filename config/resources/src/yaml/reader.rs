//! Events of the YAML parser to [`Node`]s.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use tidegate_core::Position;
use zeroize::{Zeroize, Zeroizing};

use super::Lines;
use super::mask::Masked;
use super::repair::Repair;
use super::scalar::resolve;
use crate::node::{Entry, Node, Value, shorten};

/// Collections within collections.
const MAX_DEPTH: usize = 64;
/// Values in one document, written or copied by aliases.
const MAX_NODES: usize = 4_000_000;
/// Values in one document that aliases copy.
const MAX_ALIASED_NODES: usize = 100_000;
/// A text this long counts as one more value.
const BYTES_PER_VALUE: usize = 256;
/// Duplicate keys and the like of one document that are reported.
const MAX_PROBLEMS: usize = 20;

/// Something wrong with the text itself, and where.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) position: Position,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Problem {
    fn new(position: Position, message: impl Into<String>) -> Self {
        Self { position, message: message.into(), help: None }
    }
}

/// One document of a stream.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) root: Node,
    /// Errors that let the document be read to its end.
    pub(crate) problems: Vec<Problem>,
}

/// A document that cannot be read to its end.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) problem: Problem,
    /// The entries of its root mapping that were complete before, which may tell what the document is.
    pub(crate) root: Option<Node>,
}

/// Reads the documents of a chunk: one, unless `...` lines divide it. Ends after the first syntax error.
pub(crate) fn documents(lines: &Lines<'_>) -> Vec<Result<Document, Broken>> {
    let mut repair = Repair::default();
    let masked = lines.may_be_secret.then(|| Masked::new(lines.chunk.text));
    let original = masked.as_ref().map_or(lines.chunk.text, |masked| &masked.text);
    let (mut found, mut error) = read(lines, original, masked.as_ref(), &repair);
    let mut repaired: Option<Zeroizing<String>> = None;
    while let Some(cause) = &error {
        let Some(text) = repair.apply(repaired.as_ref().map_or(original, |text| text), cause) else { break };
        if lines.may_be_secret {
            found.iter_mut().for_each(wipe);
        }
        (found, error) = read(lines, &text, masked.as_ref(), &repair);
        repaired = Some(text);
    }
    found
}

/// Wipes what was read of a document.
pub(crate) fn wipe(document: &mut Result<Document, Broken>) {
    match document {
        Ok(document) => document.root.wipe(),
        Err(broken) => broken.root.iter_mut().for_each(Node::wipe),
    }
}

/// Reads `text`, which is the chunk's, a masked or a repaired form of it. Gives the syntax error, if that is what ended
/// it, too.
fn read(
    lines: &Lines<'_>,
    text: &str,
    masked: Option<&Masked<'_>>,
    repair: &Repair,
) -> (Vec<Result<Document, Broken>>, Option<ScanError>) {
    let mut reader = Reader::new(lines, text, masked, repair);
    let mut found = Vec::new();
    while let Some(document) = reader.next_document() {
        let is_end = document.is_err();
        found.push(document);
        if is_end {
            break;
        }
    }
    let error = reader.error.take();
    (found, error)
}

struct Reader<'t, 'l> {
    parser: Parser<'t, StrInput<'t>>,
    lines: &'l Lines<'l>,
    masked: Option<&'l Masked<'l>>,
    repair: &'l Repair,
    error: Option<ScanError>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    aliased: usize,
    problems: Vec<Problem>,
}

impl Drop for Reader<'_, '_> {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// Text of a scalar.
struct Text<'t> {
    text: Cow<'t, str>,
    may_be_secret: bool,
}

impl Drop for Text<'_> {
    fn drop(&mut self) {
        if let (true, Cow::Owned(text)) = (self.may_be_secret, &mut self.text) {
            text.zeroize();
        }
    }
}

/// A collection that has begun.
struct Open {
    position: Position,
    anchor: usize,
    nodes_before: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<Entry>, key: Option<(Box<str>, Position, bool)>, merged: Vec<Node> },
}

impl<'t, 'l> Reader<'t, 'l> {
    fn new(lines: &'l Lines<'l>, text: &'t str, masked: Option<&'l Masked<'l>>, repair: &'l Repair) -> Self {
        Self {
            parser: Parser::new_from_str(text),
            lines,
            masked,
            repair,
            error: None,
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            aliased: 0,
            problems: Vec::new(),
        }
    }

    fn next_document(&mut self) -> Option<Result<Document, Broken>> {
        // The budgets are the chunk's.
        self.wipe();
        self.anchors.clear();
        let mut root = None;
        loop {
            let (event, span) = match self.parser.next_event()? {
                Ok(next) => next,
                Err(error) => {
                    let problem = self.syntax_error(&error);
                    self.error = Some(error);
                    return Some(Err(self.broken(problem)));
                }
            };
            match self.take(event, span) {
                Ok(Step::Continue) => {}
                Ok(Step::Root(node)) => root = Some(node),
                Ok(Step::End) => {
                    let root = root.take()?;
                    return Some(Ok(Document { root, problems: std::mem::take(&mut self.problems) }));
                }
                Ok(Step::Stop) => return None,
                Err(problem) => return Some(Err(self.broken(problem))),
            }
        }
    }

    fn broken(&mut self, problem: Problem) -> Broken {
        let root = match self.open.first_mut() {
            Some(Open { position, content: Content::Mapping { entries, .. }, .. }) => {
                Some(Node { position: *position, value: Value::Mapping(std::mem::take(entries)) })
            }
            _ => None,
        };
        self.wipe();
        self.open.clear();
        Broken { problem, root }
    }

    fn take(&mut self, event: Event<'t>, span: Span) -> Result<Step, Problem> {
        let position = self.position(span);
        match event {
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => Ok(Step::Continue),
            Event::StreamEnd => Ok(Step::Stop),
            Event::DocumentEnd => Ok(Step::End),
            Event::Alias(anchor) => {
                let node = self.copy(anchor, position)?;
                self.place(node)
            }
            Event::Scalar(text, style, anchor, tag) => {
                let may_be_secret = self.lines.may_be_secret;
                let parsed = Text { text, may_be_secret };
                let text = self.masked.map_or(Cow::Borrowed(&*parsed.text), |masked| masked.restore(&parsed.text));
                let restored = Text { text, may_be_secret };
                let text = &*restored.text;
                let weight = 1 + text.len() / BYTES_PER_VALUE;
                self.count(weight, position)?;
                if anchor > 0 {
                    self.spend(weight, position)?;
                }
                let is_merge = style == ScalarStyle::Plain && text == "<<";
                let node = Node { position, value: scalar(text, style, tag.as_deref()) };
                if anchor > 0 {
                    self.anchors.insert(anchor, (node.clone(), weight));
                }
                self.place_scalar(node, text, is_merge)
            }
            Event::SequenceStart(anchor, _) => self.begin(position, anchor, Content::Sequence(Vec::new())),
            Event::MappingStart(anchor, _) => {
                let content = Content::Mapping { entries: Vec::new(), key: None, merged: Vec::new() };
                self.begin(position, anchor, content)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
        }
    }

    /// Wipes what is kept of the current document, if it may be a Secret.
    fn wipe(&mut self) {
        if !self.lines.may_be_secret {
            return;
        }
        self.anchors.values_mut().for_each(|(node, _)| node.wipe());
        for open in &mut self.open {
            match &mut open.content {
                Content::Sequence(items) => items.iter_mut().for_each(Node::wipe),
                Content::Mapping { entries, key, merged } => {
                    entries.iter_mut().for_each(|entry| entry.value.wipe());
                    key.iter_mut().for_each(|(key, _, _)| key.zeroize());
                    merged.iter_mut().for_each(Node::wipe);
                }
            }
        }
    }

    fn begin(&mut self, position: Position, anchor: usize, content: Content) -> Result<Step, Problem> {
        self.count(1, position)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(Problem::new(position, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.open.push(Open { position, anchor, nodes_before: self.nodes, content });
        Ok(Step::Continue)
    }

    fn end(&mut self) -> Result<Step, Problem> {
        let Some(open) = self.open.pop() else { return Ok(Step::Continue) };
        let value = match open.content {
            Content::Sequence(items) => Value::Sequence(items),
            Content::Mapping { entries, .. } if self.is_text_with_colon(open.position, &entries) => {
                let key = entries.first().map(|entry| &*entry.key).unwrap_or_default();
                Value::String(format!("{key}:").into())
            }
            Content::Mapping { entries, merged, .. } => Value::Mapping(self.finish_mapping(entries, merged)),
        };
        let node = Node { position: open.position, value };
        if open.anchor > 0 {
            let count = self.nodes - open.nodes_before + 1;
            // Keeping the anchored value costs as much as copying it.
            self.spend(count, open.position)?;
            self.anchors.insert(open.anchor, (node.clone(), count));
        }
        self.place(node)
    }

    /// Whether what the parser takes for a mapping is the text `a:` before a `,` or `]` of a flow list, as in
    /// `[2001:db8::]`: YAML 1.2 ends the text before the colon, the YAML that Kubernetes reads does not.
    fn is_text_with_colon(&self, position: Position, entries: &[Entry]) -> bool {
        let [entry] = entries else { return false };
        let in_list = matches!(self.open.last(), Some(Open { content: Content::Sequence(_), .. }));
        if !in_list || entry.position != position || !entry.value.is_null() {
            return false;
        }
        let rest = self.lines.rest_of_line(position);
        let after = rest.strip_prefix(&*entry.key).and_then(|rest| rest.strip_prefix(':'));
        after.is_some_and(|after| after.starts_with([',', ']', '}']))
    }

    fn place_scalar(&mut self, node: Node, text: &str, is_merge: bool) -> Result<Step, Problem> {
        if let Some(Open { content: Content::Mapping { key: key @ None, .. }, .. }) = self.open.last_mut() {
            *key = Some((text.into(), node.position, is_merge));
            return Ok(Step::Continue);
        }
        self.place(node)
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, mut node: Node) -> Result<Step, Problem> {
        let Some(open) = self.open.last_mut() else { return Ok(Step::Root(node)) };
        match &mut open.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping { entries, key, merged } => match key.take() {
                None => match node.value {
                    // An alias of a scalar.
                    Value::String(text) | Value::Number(text) => *key = Some((text, node.position, false)),
                    _ => {
                        if self.lines.may_be_secret {
                            node.wipe();
                        }
                        let is_template = self.lines.rest_of_line(node.position).contains("}}");
                        let message = "a key must be a text, not a list or a mapping".to_owned();
                        let help = is_template.then(|| TEMPLATE.to_owned());
                        return Err(Problem { position: node.position, message, help });
                    }
                },
                Some((_, _, true)) => merged.push(node),
                Some((key, position, false)) => entries.push(Entry { key, position, value: node }),
            },
        }
        Ok(Step::Continue)
    }

    /// Reports keys that stand twice and resolves `<<`: the mapping's own keys win, then the first merged mapping.
    fn finish_mapping(&mut self, mut entries: Vec<Entry>, merged: Vec<Node>) -> Vec<Entry> {
        let mut seen: HashMap<&str, Position> = HashMap::new();
        let mut duplicates = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let earlier = if entries.len() <= 12 {
                entries[..index].iter().find(|other| other.key == entry.key).map(|other| other.position)
            } else {
                let earlier = seen.get(&*entry.key).copied();
                seen.entry(&entry.key).or_insert(entry.position);
                earlier
            };
            if let Some(first) = earlier {
                duplicates.push((entry.position, shorten(&entry.key).into_owned(), first));
            }
        }
        for (position, key, first) in duplicates {
            if self.problems.len() < MAX_PROBLEMS {
                self.problems.push(Problem {
                    position,
                    message: format!("`{key}` stands twice in this mapping; the first is on line {}", first.line),
                    help: Some("keep one of them".into()),
                });
            }
        }
        if !merged.is_empty() {
            let mut keys: HashSet<Box<str>> = entries.iter().map(|entry| entry.key.clone()).collect();
            for node in merged.into_iter().flat_map(Node::into_mappings) {
                for mut entry in node {
                    if keys.insert(entry.key.clone()) {
                        entries.push(entry);
                    } else if self.lines.may_be_secret {
                        entry.value.wipe();
                    }
                }
            }
        }
        entries
    }

    fn copy(&mut self, anchor: usize, position: Position) -> Result<Node, Problem> {
        let count = self.anchors.get(&anchor).map_or(0, |(_, count)| *count);
        self.count(count, position)?;
        self.spend(count, position)?;
        // Looked up again, so that nothing is copied before the budget has been asked.
        match self.anchors.get(&anchor) {
            Some((node, _)) => Ok(Node { position, value: node.value.clone() }),
            None => Err(Problem::new(position, "this alias stands inside the value that it names")),
        }
    }

    fn spend(&mut self, nodes: usize, position: Position) -> Result<(), Problem> {
        self.aliased += nodes;
        if self.aliased > MAX_ALIASED_NODES {
            let message = format!("aliases of this document copy more than {MAX_ALIASED_NODES} values");
            return Err(Problem { position, message, help: Some("write the values out".into()) });
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, position: Position) -> Result<(), Problem> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let message = format!("this document holds more than {MAX_NODES} values");
            return Err(Problem { position, message, help: Some("divide it with `---` lines".into()) });
        }
        Ok(())
    }

    fn position(&self, span: Span) -> Position {
        self.at(span.start.line(), span.start.col())
    }

    fn at(&self, line: usize, column: usize) -> Position {
        let cut = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let column = self.repair.column(line, column);
        Position {
            line: self.lines.chunk.lines_before.saturating_add(cut(line)),
            column: cut(column).saturating_add(1),
        }
    }

    fn syntax_error(&self, error: &ScanError) -> Problem {
        let position = self.at(error.marker().line(), error.marker().col());
        let message = format!("this is neither YAML nor JSON: {}", error.info());
        let help = mend(error.info(), self.lines.rest_of_line(position));
        Problem { position, message, help: help.map(str::to_owned) }
    }
}

/// How a syntax error may be mended, by what the parser says and by the text at its place.
fn mend(info: &str, text: &str) -> Option<&'static str> {
    if text.contains("{{") {
        return Some(TEMPLATE);
    }
    match text.chars().next() {
        Some('*') if info.contains("anchor") => return Some("quote a text that begins with `*`: \"*.example.com\""),
        Some('@' | '`' | '%') => return Some("quote a text that begins with `@`, `%` or a back quote"),
        _ => {}
    }
    let mends = [
        ("tab", "indent with spaces"),
        ("escape", "in double quotes `\\` begins an escape: write the text in single quotes, or each `\\` twice"),
        ("quoted scalar", "a quote is not closed, here or in a line before"),
        ("flow", "a `{` or `[` is not closed, or a comma is missing"),
        ("illegal placement of ':'", "a `{` or `[` is not closed, or a text that holds `: ` is not quoted"),
        ("mapping values", "a text that holds `: ` must be quoted; or the indentation is wrong"),
    ];
    mends.iter().find(|(word, _)| info.contains(word)).map(|(_, mend)| *mend)
}

/// Advice for charts that were not rendered.
const TEMPLATE: &str = "this looks like a template: render it first, for example with `helm template`";

enum Step {
    Continue,
    /// The document's value is complete.
    Root(Node),
    /// The document is.
    End,
    /// The stream is.
    Stop,
}

impl Node {
    /// The mappings that `<<` names: this one, or those of this list.
    fn into_mappings(self) -> Vec<Vec<Entry>> {
        match self.value {
            Value::Mapping(entries) => vec![entries],
            Value::Sequence(items) => items.into_iter().flat_map(Node::into_mappings).collect(),
            _ => Vec::new(),
        }
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    match tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str()) {
        Some("str" | "binary") => Value::String(text.into()),
        Some("int" | "float" | "bool" | "null") => resolve(text),
        _ if style == ScalarStyle::Plain => resolve(text),
        _ => Value::String(text.into()),
    }
}
