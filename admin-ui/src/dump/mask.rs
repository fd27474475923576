use std::fmt;

use serde_json::{Map, Value};

/// A `google.protobuf.FieldMask`: paths of fields to keep.
///
/// Wider than Envoy's: a path may go through repeated fields and nested `Any`s, since the dump is trimmed as JSON. A
/// field below the first that does not exist trims to nothing rather than failing, since JSON leaves out what is unset.
pub(super) struct Mask<'a> {
    paths: Vec<Vec<&'a str>>,
}

impl<'a> Mask<'a> {
    /// Paths are joined by commas, their parts by dots.
    pub(super) fn parse(text: &'a str) -> Self {
        let paths = text.split(',').map(str::trim).filter(|path| !path.is_empty());
        Self { paths: paths.map(|path| path.split('.').collect()).collect() }
    }

    /// Whether every path begins with one of `fields`; a mask without paths has none that could.
    pub(super) fn heads_are_among(&self, fields: &[&str]) -> bool {
        !self.paths.is_empty() && self.paths.iter().all(|path| path.first().is_some_and(|head| fields.contains(head)))
    }

    /// Removes every field that no path keeps; `@type` always stays.
    pub(super) fn trim(&self, message: &mut Value) {
        let paths: Vec<&[&str]> = self.paths.iter().map(Vec::as_slice).collect();
        trim(message, &paths);
    }
}

impl fmt::Display for Mask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self.paths.iter().map(|path| path.join(".")).collect();
        f.write_str(&paths.join(","))
    }
}

/// Recurses as deep as the longest path, which the length of a URL bounds, and never deeper than the message.
fn trim(value: &mut Value, paths: &[&[&str]]) {
    match value {
        Value::Array(elements) => elements.iter_mut().for_each(|element| trim(element, paths)),
        Value::Object(fields) => {
            let mut kept = Map::new();
            for (name, mut field) in std::mem::take(fields) {
                let below: Vec<&[&str]> = paths
                    .iter()
                    .filter_map(|path| path.split_first().filter(|(head, _)| **head == name).map(|(_, rest)| rest))
                    .collect();
                if name == "@type" || below.iter().any(|path| path.is_empty()) {
                    kept.insert(name, field);
                } else if !below.is_empty() && (field.is_object() || field.is_array()) {
                    trim(&mut field, &below);
                    kept.insert(name, field);
                }
            }
            *fields = kept;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_paths_of_a_mask_stay() {
        let check = |mask: &str, expected: Value| {
            let mut message = json!({
                "@type": "t",
                "a": { "@type": "u", "b": 1, "c": { "d": 2, "e": 3 } },
                "l": [{ "x": 1, "y": 2 }, { "y": 3 }],
                "z": 0,
            });
            Mask::parse(mask).trim(&mut message);
            assert_eq!(message, expected, "{mask}");
        };
        check("z", json!({ "@type": "t", "z": 0 }));
        check("a.b", json!({ "@type": "t", "a": { "@type": "u", "b": 1 } }));
        check("a.c.e, z", json!({ "@type": "t", "a": { "@type": "u", "c": { "e": 3 } }, "z": 0 }));
        check("a,a.b", json!({ "@type": "t", "a": { "@type": "u", "b": 1, "c": { "d": 2, "e": 3 } } }));
        check("l.x", json!({ "@type": "t", "l": [{ "x": 1 }, {}] }));
        check("z.deeper", json!({ "@type": "t" }));
    }

    #[test]
    fn a_mask_needs_fields_that_exist() {
        assert!(Mask::parse("a.b,c").heads_are_among(&["a", "c"]));
        assert!(!Mask::parse("a.b,d").heads_are_among(&["a", "c"]));
        assert!(!Mask::parse("").heads_are_among(&["a"]));
        assert!(!Mask::parse(".a").heads_are_among(&["a"]));
    }
}
