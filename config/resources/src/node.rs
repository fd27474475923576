//! The tree that a YAML or JSON document is read into: values with the place where each was written.

use std::borrow::Cow;
use std::fmt;

use tidegate_core::Position;
use zeroize::Zeroize;

use crate::redact::is_pem;

/// A value and where it starts.
///
/// It may be a Secret's: `Debug` shows places and kinds of values, and no text.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) position: Position,
    pub(crate) value: Value,
}

#[derive(Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// The text of a number, as written.
    Number(Box<str>),
    String(Box<str>),
    Sequence(Vec<Node>),
    /// In the order of the file; a key may stand here twice (the reader has reported it).
    Mapping(Vec<Entry>),
}

#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) key: Box<str>,
    pub(crate) position: Position,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// The value under a key of a mapping; nothing if this is no mapping or the key is not there.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|entry| &*entry.key == key).map(|entry| &entry.value)
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Overwrites every text in the tree. For trees that may hold keys; others are simply dropped.
    pub(crate) fn wipe(&mut self) {
        match &mut self.value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(text) | Value::String(text) => text.zeroize(),
            Value::Sequence(items) => items.iter_mut().for_each(Node::wipe),
            Value::Mapping(entries) => {
                for entry in entries {
                    entry.key.zeroize();
                    entry.value.wipe();
                }
            }
        }
    }

    /// What stands here, in words for a message: `the number 5`, `a list`.
    pub(crate) fn describe(&self) -> Cow<'static, str> {
        match &self.value {
            Value::Null => "nothing (null)".into(),
            Value::Bool(value) => format!("the boolean `{value}`").into(),
            Value::Number(text) => format!("the number `{}`", shorten(text)).into(),
            Value::String(text) => format!("the text \"{}\"", shorten(text).escape_debug()).into(),
            Value::Sequence(_) => "a list".into(),
            Value::Mapping(_) => "a mapping".into(),
        }
    }

    /// As [`Self::describe`], without the value.
    pub(crate) fn describe_type(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing (null)",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("Null"),
            Value::Bool(value) => write!(f, "Bool({value})"),
            Value::Number(text) => write!(f, "Number({} bytes)", text.len()),
            Value::String(text) => write!(f, "String({} bytes)", text.len()),
            Value::Sequence(items) => f.debug_list().entries(items).finish(),
            Value::Mapping(entries) => f.debug_list().entries(entries).finish(),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("position", &self.position).field("value", &self.value).finish_non_exhaustive()
    }
}

/// The first characters of a text that may be long, for messages. Of PEM, which may be a key that strayed into another
/// field or file, nothing is shown.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    const LIMIT: usize = 60;
    if is_pem(text) {
        return "[PEM]".into();
    }
    match text.char_indices().nth(LIMIT) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}
