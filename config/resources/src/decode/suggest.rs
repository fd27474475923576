//! Guesses at what the writer of an unknown name meant.

use super::{Schema, Shape};
use crate::node::{Node, Value, shorten};
use crate::spans::Segment;

/// How a field that the innermost of `open` does not have may be mended.
///
/// `open` are the messages around the key, outermost first, each with the length of its path; `path` leads to the
/// innermost.
pub(super) fn field(key: &str, open: &[(&'static Schema, usize)], path: &[Segment<'_>]) -> Option<String> {
    let (schema, _) = open.last()?;
    let names = || schema.fields.iter().map(|field| field.name);
    if let Some(name) = names().find(|name| fold(name) == fold(key)) {
        return Some(format!("did you mean `{name}`?"));
    }
    let nearest = names().map(|name| (distance(key, name), name)).min();
    if let Some((1, name)) = nearest {
        return Some(format!("did you mean `{name}`?"));
    }
    if let Some(help) = outside(key, open, path).or_else(|| inside(key, schema)) {
        return Some(help);
    }
    match nearest {
        Some((distance, name)) if distance <= 2.max(key.chars().count() / 3) => Some(format!("did you mean `{name}`?")),
        _ if schema.fields.is_empty() => Some(format!("{} has no fields", schema.name)),
        _ if schema.fields.len() <= 16 => Some(format!("{} has {}", schema.name, list(&names().collect::<Vec<_>>()))),
        _ => None,
    }
}

/// The field of a message further out.
fn outside(key: &str, open: &[(&'static Schema, usize)], path: &[Segment<'_>]) -> Option<String> {
    let (levels, (_, depth)) = open
        .iter()
        .rev()
        .enumerate()
        .skip(1)
        .find(|(_, (schema, _))| schema.fields.iter().any(|field| field.name == key))?;
    let Some(Segment::Key(beside)) = path.get(*depth) else { return None };
    let place = match depth.checked_sub(1).map(|index| path[index]) {
        Some(Segment::Index(_)) => "in the same list entry".to_owned(),
        _ if levels == 1 => "one level up".to_owned(),
        _ => format!("{levels} levels up"),
    };
    Some(format!("`{key}` belongs beside `{beside}`, {place}"))
}

/// The field of a message that one of this message's fields holds.
fn inside(key: &str, schema: &Schema) -> Option<String> {
    let holder = schema
        .fields
        .iter()
        .find(|field| (field.child)().is_some_and(|child| child.fields.iter().any(|field| field.name == key)))?;
    let name = holder.name;
    Some(match holder.shape {
        Shape::One => format!("`{key}` belongs inside `{name}`"),
        Shape::List => format!("`{key}` belongs inside an entry of the list `{name}`"),
        Shape::Map => format!("`{key}` belongs inside an entry of `{name}`"),
    })
}

/// How a scalar that stands where a message should may be mended.
pub(super) fn mapping(node: &Node, schema: &Schema) -> Option<String> {
    let value = match &node.value {
        Value::String(text) => format!("\"{}\"", shorten(text).escape_debug()),
        Value::Number(text) => shorten(text).into_owned(),
        _ => return None,
    };
    match schema.fields {
        [only] => Some(format!("write `{{{}: {value}}}`", only.name)),
        _ if schema.name == "StringMatch" => Some(format!("write `{{exact: {value}}}`, or another of the three")),
        fields if fields.len() <= 16 => {
            let names: Vec<_> = fields.iter().map(|field| field.name).collect();
            Some(format!("{} has {}", schema.name, list(&names)))
        }
        _ => None,
    }
}

/// How a value that is none of `names` may be mended.
pub(super) fn name(text: &str, names: &[&str]) -> Option<String> {
    if let Some(name) = names.iter().find(|name| fold(name) == fold(text)) {
        return Some(format!("did you mean `{name}`?"));
    }
    let upper = text.to_ascii_uppercase();
    let (distance, name) = names.iter().map(|name| (distance(&upper, &name.to_ascii_uppercase()), name)).min()?;
    (distance <= 2.max(text.chars().count() / 3)).then(|| format!("did you mean `{name}`?"))
}

/// `a`, `b` or `c`.
pub(super) fn list(names: &[&str]) -> String {
    let quoted: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

/// What remains of a name when case, `_` and `-` do not count.
fn fold(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect()
}

/// Edits between two names. Long texts are not worth the time and count as far away.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 100 { usize::MAX } else { strsim::damerau_levenshtein(a, b) }
}
