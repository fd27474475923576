//! The tree that a YAML or JSON document is read into: values with the place where each was written.

use std::borrow::Cow;

use tidegate_core::Position;

/// A value and where it starts.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) position: Position,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
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

#[derive(Clone, Debug)]
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
}

/// The first characters of a text that may be long, for messages.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    const LIMIT: usize = 60;
    match text.char_indices().nth(LIMIT) {
        None => text.into(),
        Some((end, _)) => format!("{}…", &text[..end]).into(),
    }
}
