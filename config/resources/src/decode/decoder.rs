//! The state of decoding one document.

use std::borrow::Cow;
use std::sync::Arc;

use tidegate_core::{Code, Diagnostic, Level, Origin, Position, ResourceKey};

use super::suggest;
use super::{Decode, Enforcement, Schema, Shape};
use crate::node::{Entry, Node, Value};
use crate::spans::{self, Segment, Spans};

/// More findings of one document than this are counted, not listed.
const MAX_FINDINGS: usize = 100;

/// Longest unknown field of a Secret that is named.
const MAX_SECRET_KEY: usize = 40;

/// Where the decoder stands in a document, and what it has found there.
pub(crate) struct Decoder<'n> {
    file: Arc<str>,
    key: Option<ResourceKey>,
    /// Where the document begins.
    root: Position,
    /// Steps from the root, each with the hash of the path that ends with it.
    path: Vec<(Segment<'n>, u64)>,
    /// Messages around the current place, each with the length of the path that leads to it.
    open: Vec<(&'static Schema, usize)>,
    places: Vec<(u64, Position)>,
    diagnostics: Vec<Diagnostic>,
    errors: usize,
    unlisted: usize,
    /// How many fields around the current place have said already that they are not enforced.
    reported: usize,
    /// Whether the document is a Secret, whose values no message may quote.
    is_secret: bool,
    /// Root keys that are no fields of the kind's own.
    root_keys: &'static [&'static str],
}

impl<'n> Decoder<'n> {
    pub(crate) fn new(file: Arc<str>, root: Position) -> Self {
        Self {
            file,
            key: None,
            root,
            path: Vec::new(),
            open: Vec::new(),
            places: Vec::new(),
            diagnostics: Vec::new(),
            errors: 0,
            unlisted: 0,
            reported: 0,
            is_secret: false,
            root_keys: &[],
        }
    }

    /// Names the object for every later finding.
    pub(crate) fn set_key(&mut self, key: ResourceKey) {
        self.key = Some(key);
    }

    /// Keeps every value out of messages.
    pub(crate) fn set_secret(&mut self) {
        self.is_secret = true;
    }

    /// What stands at `node`, in words for a message.
    pub(crate) fn describe(&self, node: &Node) -> Cow<'static, str> {
        if self.is_secret { node.describe_type().into() } else { node.describe() }
    }

    /// Advice that quotes a value.
    pub(crate) fn quoting(&self, help: impl FnOnce() -> String) -> Option<String> {
        (!self.is_secret).then(help)
    }

    /// Lets these keys stand at the root of the document.
    pub(crate) fn set_root_keys(&mut self, keys: &'static [&'static str]) {
        self.root_keys = keys;
    }

    /// Whether something was wrong so far.
    pub(crate) fn has_errors(&self) -> bool {
        self.errors > 0
    }

    pub(crate) fn finish(mut self) -> (Spans, Vec<Diagnostic>) {
        if self.unlisted > 0 {
            let count = self.unlisted;
            let position = self.diagnostics.last().map(|last| last.origin.position).unwrap_or_default();
            let level = if self.errors > 0 { Level::Error } else { Level::Warning };
            let mut diagnostic = Diagnostic::new(
                Code::SCHEMA,
                level,
                Origin { file: self.file.clone(), position },
                format!("{count} more findings in this document are not listed"),
            );
            diagnostic.key = self.key.clone();
            self.diagnostics.push(diagnostic);
        }
        (Spans::new(self.places), self.diagnostics)
    }

    /// Entries of a mapping; reports anything else.
    pub(crate) fn mapping<T: Decode>(&mut self, node: &'n Node) -> Option<&'n [Entry]> {
        match &node.value {
            Value::Mapping(entries) => Some(entries),
            _ => {
                let help = match T::SHAPE {
                    Shape::One if !self.is_secret => T::schema().and_then(|schema| suggest::mapping(node, schema)),
                    _ => None,
                };
                self.bad_value(node, format!("expected {}, found {}", T::EXPECTS, self.describe(node)), help)
            }
        }
    }

    /// Enters a message: entries of its mapping. Every `open` that succeeds is followed by a [`Self::close`].
    pub(crate) fn open<T: Decode>(&mut self, node: &'n Node) -> Option<&'n [Entry]> {
        let entries = self.mapping::<T>(node)?;
        if let Some(schema) = T::schema() {
            self.open.push((schema, self.path.len()));
        }
        Some(entries)
    }

    pub(crate) fn close(&mut self) {
        self.open.pop();
    }

    /// Reads the value of a field into `slot`; `null` leaves it as it is.
    pub(crate) fn field<T: Decode>(&mut self, entry: &'n Entry, enforcement: Enforcement, slot: &mut T) {
        self.enter(Segment::Key(&entry.key), place_of(entry));
        if !entry.value.is_null() {
            let quiet = self.report_enforcement(entry, enforcement);
            self.reported += usize::from(quiet);
            if let Some(value) = T::decode(&entry.value, self) {
                *slot = value;
            }
            self.reported -= usize::from(quiet);
        }
        self.leave();
    }

    /// Reads an element of a list.
    pub(crate) fn element<T: Decode>(&mut self, index: usize, node: &'n Node) -> Option<T> {
        self.enter(Segment::Index(index), node.position);
        let value = self.present(node);
        self.leave();
        value
    }

    /// Reads the value under a key of a map.
    pub(crate) fn map_value<T: Decode>(&mut self, entry: &'n Entry) -> Option<T> {
        self.enter(Segment::Key(&entry.key), place_of(entry));
        let value = self.present(&entry.value);
        self.leave();
        value
    }

    fn present<T: Decode>(&mut self, node: &'n Node) -> Option<T> {
        if node.is_null() { self.wrong_type(node, T::EXPECTS) } else { T::decode(node, self) }
    }

    fn enter(&mut self, segment: Segment<'n>, position: Position) {
        let parent = self.path.last().map_or(spans::ROOT, |(_, hash)| *hash);
        let hash = spans::extend(parent, segment);
        self.places.push((hash, position));
        self.path.push((segment, hash));
    }

    fn leave(&mut self) {
        self.path.pop();
    }

    /// Path of the current place, as users read it.
    pub(crate) fn path(&self) -> String {
        spans::display(&self.segments())
    }

    fn segments(&self) -> Vec<Segment<'n>> {
        self.path.iter().map(|(segment, _)| *segment).collect()
    }

    fn report_enforcement(&mut self, entry: &'n Entry, enforcement: Enforcement) -> bool {
        let (code, message) = match enforcement {
            Enforcement::Enforced => return false,
            Enforcement::Pending => (Code::NOT_ENFORCED, format!("`{}` is not enforced yet", entry.key)),
            Enforcement::Ignored(why) => (Code::IGNORED, format!("`{}` has no effect: {why}", entry.key)),
        };
        if self.reported == 0 {
            self.report(code, Level::Warning, entry.position, message, None);
        }
        true
    }

    /// Reports that more than one field of a group is set, at the second.
    pub(crate) fn one_of(&mut self, entries: &'n [Entry], group: &[&str]) {
        let mut set = entries.iter().filter(|entry| group.contains(&&*entry.key) && !entry.value.is_null());
        if let (Some(first), Some(second)) = (set.next(), set.next()) {
            let message = format!("`{}` and `{}` exclude each other", first.key, second.key);
            let help = format!("keep one of {}", suggest::list(group));
            self.report(Code::SCHEMA, Level::Error, second.position, message, Some(help));
        }
    }

    /// Reports a key that the innermost message does not have.
    pub(crate) fn unknown_field(&mut self, entry: &'n Entry) {
        if self.path.is_empty() && self.root_keys.contains(&&*entry.key) {
            return;
        }
        let segments = self.segments();
        let is_listed = self.diagnostics.len() < MAX_FINDINGS;
        let help = if is_listed { suggest::field(&entry.key, &self.open, &segments) } else { None };
        let holder = self.open.last().map_or("this object", |(schema, _)| schema.name);
        if self.is_secret && entry.key.len() > MAX_SECRET_KEY {
            // It may be a line of a key that lost its indentation.
            let message = format!("unknown field of {} characters in {holder}", entry.key.chars().count());
            return self.report(Code::SCHEMA, Level::Error, entry.position, message, None);
        }
        let message = format!("unknown field `{}` in {holder}", crate::node::shorten(&entry.key));
        self.enter(Segment::Key(&entry.key), entry.position);
        self.report(Code::SCHEMA, Level::Error, entry.position, message, help);
        self.leave();
    }

    /// Reports a value that is none of an enum's names.
    pub(crate) fn unknown_name<T>(&mut self, node: &'n Node, names: &[&str]) -> Option<T> {
        let help = match node.as_str() {
            Some(text) if !self.is_secret => suggest::name(text, names),
            _ => None,
        };
        let help = help.unwrap_or_else(|| format!("write one of {}", suggest::list(names)));
        let message = match node.as_str() {
            Some(text) if !self.is_secret => format!("unknown value `{}`", crate::node::shorten(text)),
            _ => format!("expected one of {}, found {}", suggest::list(names), self.describe(node)),
        };
        self.bad_value(node, message, Some(help))
    }

    /// Reports a value of another type than expected.
    pub(crate) fn wrong_type<T>(&mut self, node: &'n Node, expects: &str) -> Option<T> {
        let message = format!("expected {expects}, found {}", self.describe(node));
        let help = node.is_null().then(|| "give it a value, or take it out".to_owned());
        self.bad_value(node, message, help)
    }

    /// Reports a value that cannot be taken.
    pub(crate) fn bad_value<T>(&mut self, node: &'n Node, message: String, help: Option<String>) -> Option<T> {
        self.report(Code::SCHEMA, Level::Error, node.position, message, help);
        None
    }

    /// Reports something about a field that was read before.
    pub(crate) fn note(&mut self, code: Code, level: Level, path: &str, message: String, help: Option<String>) {
        if self.diagnostics.len() >= MAX_FINDINGS {
            // It is counted, and its place does not matter.
            return self.report(code, level, self.root, message, help);
        }
        let found = spans::ancestors(path)
            .rev()
            .find_map(|hash| self.places.iter().find(|(place, _)| *place == hash).map(|(_, position)| *position));
        let before = self.diagnostics.len();
        self.report(code, level, found.unwrap_or(self.root), message, help);
        if let Some(diagnostic) = self.diagnostics.get_mut(before) {
            path.clone_into(&mut diagnostic.path);
        }
    }

    /// Reports something about the current path.
    pub(crate) fn report(
        &mut self,
        code: Code,
        level: Level,
        position: Position,
        message: String,
        help: Option<String>,
    ) {
        self.errors += usize::from(level == Level::Error);
        if self.diagnostics.len() >= MAX_FINDINGS {
            self.unlisted += 1;
            return;
        }
        self.diagnostics.push(Diagnostic {
            code,
            level,
            key: self.key.clone(),
            origin: Origin { file: self.file.clone(), position },
            path: self.path(),
            message,
            help,
        });
    }
}

/// A scalar is shown where its value stands, anything larger where its name stands.
fn place_of(entry: &Entry) -> Position {
    match entry.value.value {
        Value::Mapping(_) | Value::Sequence(_) | Value::Null => entry.position,
        _ => entry.value.position,
    }
}
