use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;

/// JSON that is made while it is written: a dump of ten thousand hosts as one [`Value`] takes half a gigabyte.
pub(crate) enum Node<'a> {
    Leaf(Value),
    Object(Vec<(&'static str, Node<'a>)>),
    List(Box<List<'a>>),
}

/// Makes the elements of a list anew each time it is asked.
type List<'a> = dyn Fn() -> Box<dyn Iterator<Item = Node<'a>> + 'a> + 'a;

impl<'a> Node<'a> {
    pub(crate) fn list<I: Iterator<Item = Node<'a>> + 'a>(elements: impl Fn() -> I + 'a) -> Self {
        Self::List(Box::new(move || Box::new(elements())))
    }

    pub(super) fn leaf(value: impl Into<Value>) -> Self {
        Self::Leaf(value.into())
    }

    /// The whole of it at once.
    pub(super) fn to_value(&self) -> Value {
        // Only keys that are no text and types that refuse can fail, and there are neither.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The message behind an `Any`: `@type`, then its fields.
    pub(super) fn typed(self, type_name: &str) -> Self {
        match self {
            Self::Object(mut fields) => {
                fields.insert(0, ("@type", Self::leaf(super::type_url(type_name))));
                Self::Object(fields)
            }
            other => Self::Leaf(super::typed(type_name, other.to_value())),
        }
    }
}

impl Serialize for Node<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Leaf(value) => value.serialize(serializer),
            Self::Object(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, field) in fields {
                    map.serialize_entry(name, field)?;
                }
                map.end()
            }
            Self::List(elements) => serializer.collect_seq(elements()),
        }
    }
}
