//! Reading of scalars, lists and maps.

use std::collections::BTreeMap;
use std::fmt;

use tidegate_core::SecretBytes;
use zeroize::Zeroizing;

use super::{Decode, Decoder, Schema, Shape};
use crate::node::{Node, Value};
use crate::yaml;

impl Decode for String {
    const EXPECTS: &'static str = "a text";

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        let help = match &node.value {
            Value::String(text) => return Some(text.to_string()),
            Value::Number(text) => decoder.quoting(|| format!("quote it: \"{text}\"")),
            Value::Bool(_) => {
                Some("quote it; true, false, yes, no, on, off, y and n are booleans unless they are quoted".into())
            }
            Value::Sequence(items) if items.len() == 1 => Some("this field takes one text, not a list".into()),
            Value::Null => return decoder.wrong_type(node, Self::EXPECTS),
            _ => None,
        };
        decoder.bad_value(node, format!("expected {}, found {}", Self::EXPECTS, decoder.describe(node)), help)
    }
}

impl Decode for bool {
    const EXPECTS: &'static str = "true or false";

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        let help = match &node.value {
            Value::Bool(value) => return Some(*value),
            Value::String(text) if matches!(&**text, "true" | "false") => Some(format!("remove the quotes: {text}")),
            _ => None,
        };
        decoder.bad_value(node, format!("expected {}, found {}", Self::EXPECTS, decoder.describe(node)), help)
    }
}

macro_rules! integers {
    ($($type:ty => $expects:literal),+ $(,)?) => { $(
        impl Decode for $type {
            const EXPECTS: &'static str = $expects;

            fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
                match integer(node).and_then(|value| Self::try_from(value).ok()) {
                    Some(value) => Some(value),
                    None => bad_number(node, decoder, Self::EXPECTS),
                }
            }
        }
    )+ };
}

integers! {
    i32 => "a whole number",
    u32 => "a whole number from 0 to 4294967295",
    i64 => "a whole number",
    u64 => "a whole number that is not negative",
}

impl Decode for f64 {
    const EXPECTS: &'static str = "a number";

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        let number = match &node.value {
            Value::Number(text) => yaml::float(text).filter(|value| value.is_finite()),
            _ => None,
        };
        number.or_else(|| bad_number(node, decoder, Self::EXPECTS))
    }
}

fn integer(node: &Node) -> Option<i128> {
    match &node.value {
        Value::Number(text) => yaml::integer(text),
        _ => None,
    }
}

fn bad_number<'n, T>(node: &'n Node, decoder: &mut Decoder<'n>, expects: &str) -> Option<T> {
    let help = match &node.value {
        Value::String(text) if yaml::float(text).is_some() => decoder.quoting(|| format!("remove the quotes: {text}")),
        _ => None,
    };
    decoder.bad_value(node, format!("expected {expects}, found {}", decoder.describe(node)), help)
}

impl<T: Decode> Decode for Option<T> {
    const EXPECTS: &'static str = T::EXPECTS;
    const SHAPE: Shape = T::SHAPE;

    fn schema() -> Option<&'static Schema> {
        T::schema()
    }

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        T::decode(node, decoder).map(Some)
    }
}

impl<T: Decode> Decode for Box<T> {
    const EXPECTS: &'static str = T::EXPECTS;
    const SHAPE: Shape = T::SHAPE;

    fn schema() -> Option<&'static Schema> {
        T::schema()
    }

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        T::decode(node, decoder).map(Box::new)
    }
}

impl<T: Decode> Decode for Vec<T> {
    const EXPECTS: &'static str = "a list";
    const SHAPE: Shape = Shape::List;

    fn schema() -> Option<&'static Schema> {
        T::schema()
    }

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        match &node.value {
            Value::Sequence(items) => {
                let mut list: Vec<_> =
                    items.iter().enumerate().filter_map(|(index, item)| decoder.element(index, item)).collect();
                // Most lists have one element and were made for four; objects are kept for long.
                list.shrink_to_fit();
                Some(list)
            }
            _ => {
                let message = format!("expected a list, found {}", decoder.describe(node));
                decoder.bad_value(node, message, Some("begin each element with `- `".into()))
            }
        }
    }
}

impl<T: Decode> Decode for BTreeMap<String, T> {
    const EXPECTS: &'static str = "a mapping";
    const SHAPE: Shape = Shape::Map;

    fn schema() -> Option<&'static Schema> {
        T::schema()
    }

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        let entries = decoder.mapping::<Self>(node)?;
        let mut map = BTreeMap::new();
        for entry in entries {
            if let Some(value) = decoder.map_value(entry) {
                map.insert(entry.key.to_string(), value);
            }
        }
        Some(map)
    }
}

/// Bytes that the file holds in base64. `Debug` shows their number only: they may be a key.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({} bytes)", self.0.len())
    }
}

impl Decode for Bytes {
    const EXPECTS: &'static str = "a text in base64";

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        base64_node(node, decoder).map(|mut bytes| Bytes(std::mem::take(&mut *bytes)))
    }
}

/// Base64 in the file.
impl Decode for SecretBytes {
    const EXPECTS: &'static str = Bytes::EXPECTS;

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        base64_node(node, decoder).map(|mut bytes| SecretBytes::new(std::mem::take(&mut *bytes)))
    }
}

/// Text of the file that may be a key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SecretText(pub SecretBytes);

impl Decode for SecretText {
    const EXPECTS: &'static str = "a text";

    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self> {
        match &node.value {
            Value::String(text) => Some(Self(SecretBytes::new(text.as_bytes().to_vec()))),
            Value::Null => decoder.wrong_type(node, Self::EXPECTS),
            Value::Number(_) | Value::Bool(_) => {
                let message = format!("expected {}, found {}", Self::EXPECTS, node.describe_type());
                decoder.bad_value(node, message, Some("quote it".into()))
            }
            _ => decoder.bad_value(node, format!("expected {}, found {}", Self::EXPECTS, node.describe_type()), None),
        }
    }
}

/// Reads base64. The value may be secret: no message quotes it, and what was decoded of a wrong one is wiped.
fn base64_node<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Zeroizing<Vec<u8>>> {
    let Some(text) = node.as_str() else {
        return decoder.bad_value(node, format!("expected {}", Bytes::EXPECTS), None);
    };
    let help = "`base64 -w0 FILE` makes base64; plain text has a field of its own (in a Secret, `stringData`)";
    base64(text).or_else(|| decoder.bad_value(node, "this is no base64".into(), Some(help.into())))
}

/// Decodes RFC 4648's standard alphabet with padding; line breaks are skipped, as Go's decoder does. The result is as
/// large as it must be from the beginning: growing would leave copies behind.
fn base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let symbols = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n' | b'=')).count();
    let mut bytes = Zeroizing::new(Vec::with_capacity(symbols * 3 / 4));
    let (mut buffer, mut bits, mut symbols, mut padding) = (0u32, 0u32, 0usize, 0usize);
    for byte in text.bytes() {
        let value = match byte {
            b'\r' | b'\n' => continue,
            b'=' => {
                padding += 1;
                continue;
            }
            _ if padding > 0 => return None,
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        symbols += 1;
        buffer = (buffer << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
            buffer &= (1 << bits) - 1;
        }
    }
    let expected_padding = match symbols % 4 {
        0 => 0,
        2 => 2,
        3 => 1,
        _ => return None,
    };
    (padding == expected_padding).then_some(bytes)
}

/// A known field that nothing acts on yet, as it stands in the file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Untyped(pub serde_json::Value);

impl Decode for Untyped {
    const EXPECTS: &'static str = "any value";

    fn decode<'n>(node: &'n Node, _: &mut Decoder<'n>) -> Option<Self> {
        Some(Untyped(json(node)))
    }
}

fn json(node: &Node) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Number(text) => match yaml::integer(text).and_then(|value| i64::try_from(value).ok()) {
            Some(value) => value.into(),
            None => yaml::float(text).map_or(Json::Null, Json::from),
        },
        Value::String(text) => Json::String(text.to_string()),
        Value::Sequence(items) => Json::Array(items.iter().map(json).collect()),
        Value::Mapping(entries) => {
            Json::Object(entries.iter().map(|entry| (entry.key.to_string(), json(&entry.value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_rfc_4648_with_padding() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(base64(text).as_ref().map(|bytes| bytes.as_slice()), expected.map(str::as_bytes), "{text}");
        };
        check("", Some(""));
        check("Zg==", Some("f"));
        check("Zm8=", Some("fo"));
        check("Zm9v", Some("foo"));
        check("Zm9v\nYmFy\n", Some("foobar"));
        check("Zg", None);
        check("Zg=", None);
        check("Z", None);
        check("Zm9v=", None);
        check("Z m9", None);
        check("Zg==Zg==", None);
    }
}
