//! HPACK, the compression of header fields (RFC 7541).

mod decoder;
mod encoder;
mod huffman;
mod integer;
mod static_table;
mod table;

pub(crate) use decoder::{Bounds, Decoder, Excess};
pub(crate) use encoder::{Encoder, Keep};

/// Why a header block cannot be decoded. Both sides' tables differ from then on, so the connection ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HpackError {
    #[error("it ends in the middle of a field")]
    Truncated,
    #[error("an integer is too large")]
    Integer,
    #[error("a string is not encoded as the Huffman code says")]
    Huffman,
    #[error("an index that neither table has")]
    Index,
    #[error("the table is to be larger than was allowed")]
    TableSize,
    #[error("the table's size changes at a place or as often as it may not, or does not change where it must")]
    SizeUpdate,
}
