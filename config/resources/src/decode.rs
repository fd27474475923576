//! From [`Node`]s to types, strictly: every error of a document is found, each with its place and path.

mod decoder;
mod macros;
mod scalar;
mod suggest;

pub(crate) use decoder::Decoder;
pub(crate) use macros::{enumeration, message};
pub use scalar::{Bytes, SecretText, Untyped};

use crate::node::Node;

/// A type that a [`Node`] can be read as.
pub(crate) trait Decode: Sized {
    /// What must stand in the file, as a noun phrase.
    const EXPECTS: &'static str;

    const SHAPE: Shape = Shape::One;

    /// Fields of the message that this is or holds, for suggestions.
    fn schema() -> Option<&'static Schema> {
        None
    }

    /// Reads `node`; reports to `decoder` and returns nothing if it cannot be read.
    fn decode<'n>(node: &'n Node, decoder: &mut Decoder<'n>) -> Option<Self>;
}

/// How many values of a message a field holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    One,
    List,
    Map,
}

/// Name and fields of a message.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [FieldSchema],
}

#[derive(Debug)]
pub(crate) struct FieldSchema {
    /// As in the file.
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) child: fn() -> Option<&'static Schema>,
}

impl FieldSchema {
    pub(crate) const fn of<T: Decode>(name: &'static str) -> Self {
        Self { name, shape: T::SHAPE, child: T::schema }
    }
}

/// What becomes of a field that is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Enforcement {
    Enforced,
    /// Read, and not acted on yet.
    Pending,
    /// Has no effect, for this reason.
    Ignored(&'static str),
}
