//! Header blocks into fields (RFC 7541 section 3).

use super::static_table::ENTRIES;
use super::table::{Found, Table};
use super::{HpackError, huffman, integer};
use crate::fields::{FIELD_OVERHEAD, Fields, Marks, Span, name_marks, value_marks};
use crate::known::Known;

/// The size that both sides' tables have before anything is said (RFC 9113 section 6.5.2).
const DEFAULT_SIZE: usize = 4096;

/// A header block as large as this many times the allowed size is an attack and not a large cookie.
const HOPELESS: usize = 4;

/// Whether a list of fields kept to its bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Excess {
    /// All fields are there.
    None,
    /// There were more fields, or larger ones, than allowed; the list lacks some. The tables of both sides agree.
    TooLarge,
    /// Decoding stopped, because even its work went beyond what is bearable: the connection must end.
    Hopeless,
}

/// What a list of fields may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// As RFC 9113 section 6.5.2 counts.
    pub(crate) size: usize,
    pub(crate) fields: usize,
}

/// The receiving end of a connection's compression.
#[derive(Debug)]
pub(crate) struct Decoder {
    table: Table,
    /// The largest size that the peer may choose for its table.
    allowed: usize,
    /// The allowed size went below what the table has: the next block must begin with a smaller one.
    must_shrink: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: Table::new(DEFAULT_SIZE), allowed: DEFAULT_SIZE, must_shrink: false }
    }
}

impl Decoder {
    /// Changes the size that the peer's table may have: our SETTINGS_HEADER_TABLE_SIZE, once acknowledged.
    pub(crate) fn allow(&mut self, size: usize) {
        self.allowed = size;
        self.must_shrink = self.table.max_size() > size;
    }

    /// The peer may use `size` before it acknowledged, if that is more than what is allowed now.
    pub(crate) fn allow_early(&mut self, size: usize) {
        self.allowed = self.allowed.max(size);
    }

    /// Bytes of memory that the table holds.
    pub(crate) fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// Decodes a whole block and appends its fields to `out`. Beyond `bounds` nothing is stored, whatever the block refers
    /// to; the table is kept up all the same.
    pub(crate) fn decode(&mut self, block: &[u8], out: &mut Fields, bounds: Bounds) -> Result<Excess, HpackError> {
        let mut at = self.size_updates(block)?;
        let mut excess = Excess::None;
        let mut size = 0;
        let mut fields = 0;
        while let Some(first) = block.get(at) {
            // A field is stored as long as everything before it was, and it fits too.
            let fits = |length: usize, size: usize| size + length + FIELD_OVERHEAD <= bounds.size;
            fields += 1;
            if fields > bounds.fields {
                excess = Excess::TooLarge;
            }
            if first & 0x80 != 0 {
                let index = integer::decode(block, &mut at, 7)?;
                let Found { known, name, value, marks } = self.entry(index)?;
                let length = known.map_or(name.len(), |known| known.name().len()) + value.len();
                if !fits(length, size) {
                    excess = Excess::TooLarge;
                }
                if excess == Excess::None {
                    out.push(known, name, value, marks);
                }
                size += length + FIELD_OVERHEAD;
            } else {
                let literal = self.literal(*first, block, &mut at, out)?;
                if !fits(literal.length, size) {
                    excess = Excess::TooLarge;
                }
                if excess == Excess::None {
                    out.push_placed(literal.known, literal.name, literal.value, literal.marks);
                } else {
                    out.arena().truncate(literal.start);
                }
                size += literal.length + FIELD_OVERHEAD;
            }
            if size > HOPELESS * bounds.size {
                return Ok(Excess::Hopeless);
            }
        }
        Ok(excess)
    }

    /// Changes of the table's size, which only a block's beginning may have, and at most two of them: the smallest that
    /// there was since the last block, and the last (RFC 7541 section 4.2).
    fn size_updates(&mut self, block: &[u8]) -> Result<usize, HpackError> {
        let mut at = 0;
        for _ in 0..2 {
            if block.get(at).is_none_or(|first| first & 0xe0 != 0x20) {
                break;
            }
            let size = integer::decode(block, &mut at, 5)?;
            if size > self.allowed {
                return Err(HpackError::TableSize);
            }
            self.table.resize(size);
            self.must_shrink = false;
        }
        if self.must_shrink { Err(HpackError::SizeUpdate) } else { Ok(at) }
    }

    #[inline]
    fn entry(&self, index: usize) -> Result<Found<'_>, HpackError> {
        let above = index.checked_sub(1).ok_or(HpackError::Index)?;
        match ENTRIES.get(above) {
            Some((known, value)) => Ok(Found { known: Some(*known), name: &[], value, marks: Marks::default() }),
            None => self.table.get(above - ENTRIES.len()).ok_or(HpackError::Index),
        }
    }

    fn literal(&mut self, first: u8, block: &[u8], at: &mut usize, out: &mut Fields) -> Result<Literal, HpackError> {
        let (prefix, insert, marks) = match first >> 4 {
            4..=7 => (6, true, Marks::default()),
            0 => (4, false, Marks::default()),
            1 => (4, false, Marks::NEVER_INDEXED),
            // A change of the table's size between fields.
            _ => return Err(HpackError::SizeUpdate),
        };
        let start = out.arena().len();
        let index = integer::decode(block, at, prefix)?;
        let (known, name_span, name_bad) = if index == 0 {
            name(block, at, out)?
        } else {
            let Found { known, name, marks: name_is, .. } = self.entry(index)?;
            // Empty where the number says the name.
            out.arena().extend_from_slice(name);
            (known, out.place(start), name_is.name_only())
        };
        let value_start = out.arena().len();
        string(block, at, out.arena())?;
        let value_span = out.place(value_start);
        let value = out.bytes(value_span);
        let name = known.map_or_else(|| out.bytes(name_span), |known| known.name());
        let lasting = name_bad.with(value_marks(value));
        if insert {
            self.table.insert(known, name, value, lasting);
        }
        let length = name.len() + value.len();
        Ok(Literal { start, known, name: name_span, value: value_span, length, marks: marks.with(lasting) })
    }
}

struct Literal {
    /// Where the arena ended before.
    start: usize,
    known: Option<Known>,
    name: Span,
    value: Span,
    length: usize,
    marks: Marks,
}

/// A name that is spelled out. One that has a number leaves nothing in the arena.
fn name(block: &[u8], at: &mut usize, out: &mut Fields) -> Result<(Option<Known>, Span, Marks), HpackError> {
    let start = out.arena().len();
    string(block, at, out.arena())?;
    let span = out.place(start);
    let name = out.bytes(span);
    if let Some(known) = Known::of(name) {
        out.arena().truncate(start);
        return Ok((Some(known), Span::default(), Marks::default()));
    }
    let marks = name_marks(name);
    Ok((None, span, marks))
}

/// Appends a string (RFC 7541 section 5.2) to `out`.
fn string(block: &[u8], at: &mut usize, out: &mut Vec<u8>) -> Result<(), HpackError> {
    let is_huffman = block.get(*at).ok_or(HpackError::Truncated)? & 0x80 != 0;
    let length = integer::decode(block, at, 7)?;
    let bytes = block.get(*at..*at + length).ok_or(HpackError::Truncated)?;
    *at += length;
    if is_huffman {
        return huffman::decode(bytes, out);
    }
    out.extend_from_slice(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Bounds = Bounds { size: 10_000, fields: 100 };

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
    }

    #[track_caller]
    fn check(decoder: &mut Decoder, hex: &str, table_size: usize, expected: &[(&str, &str)]) {
        let mut out = Fields::default();
        assert_eq!(decoder.decode(&bytes(hex), &mut out, WIDE), Ok(Excess::None));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let seen: Vec<_> = out.iter().map(|field| (text(field.name), text(field.value))).collect();
        let seen: Vec<_> = seen.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        assert_eq!(seen, expected);
        assert_eq!(decoder.table.size(), table_size);
        assert_eq!(out.size(), expected.iter().map(|(name, value)| name.len() + value.len() + 32).sum());
    }

    /// RFC 7541 appendix C.2.
    #[test]
    fn single_fields_of_the_rfc() {
        let new = Decoder::default;
        let custom = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
        check(&mut new(), custom, 55, &[("custom-key", "custom-header")]);
        check(&mut new(), "040c 2f73 616d 706c 652f 7061 7468", 0, &[(":path", "/sample/path")]);
        check(&mut new(), "1008 7061 7373 776f 7264 0673 6563 7265 74", 0, &[("password", "secret")]);
        check(&mut new(), "82", 0, &[(":method", "GET")]);
    }

    /// RFC 7541 appendices C.3 and C.4.
    #[test]
    fn requests_of_the_rfc() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let huffman = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        for blocks in [plain, huffman] {
            let mut decoder = Decoder::default();
            let host = (":authority", "www.example.com");
            let first = [(":method", "GET"), (":scheme", "http"), (":path", "/"), host];
            check(&mut decoder, blocks[0], 57, &first);
            check(&mut decoder, blocks[1], 110, &[&first[..], &[("cache-control", "no-cache")]].concat());
            let third = [(":method", "GET"), (":scheme", "https"), (":path", "/index.html"), host];
            check(&mut decoder, blocks[2], 164, &[&third[..], &[("custom-key", "custom-value")]].concat());
        }
    }

    /// RFC 7541 appendices C.5 and C.6: a table of 256 bytes, from which entries go.
    #[test]
    fn responses_of_the_rfc() {
        let plain = [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 \
             474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 \
             666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 \
             3630 303b 2076 6572 7369 6f6e 3d31",
        ];
        let huffman = [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 \
             63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 \
             b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ];
        for blocks in [plain, huffman] {
            let mut decoder = Decoder::default();
            decoder.table.resize(256);
            let date = "Mon, 21 Oct 2013 20:13:21 GMT";
            let location = ("location", "https://www.example.com");
            let cache = ("cache-control", "private");
            check(&mut decoder, blocks[0], 222, &[(":status", "302"), cache, ("date", date), location]);
            check(&mut decoder, blocks[1], 222, &[(":status", "307"), cache, ("date", date), location]);
            let third = [
                (":status", "200"),
                cache,
                ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
                location,
                ("content-encoding", "gzip"),
                ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
            ];
            check(&mut decoder, blocks[2], 215, &third);
        }
    }

    #[track_caller]
    fn check_error(decoder: &mut Decoder, hex: &str, error: HpackError) {
        assert_eq!(decoder.decode(&bytes(hex), &mut Fields::default(), WIDE), Err(error), "{hex}");
    }

    #[test]
    fn what_the_rfc_forbids_is_an_error() {
        for (hex, error) in [
            ("80", HpackError::Index),
            ("be", HpackError::Index),
            ("ff ff ff 7f", HpackError::Index),
            ("7f 00 01 61", HpackError::Index),
            ("40", HpackError::Truncated),
            ("40 05 61", HpackError::Truncated),
            ("40 01 61", HpackError::Truncated),
            ("04 7f ff ff ff 7f 61", HpackError::Integer),
            ("82 3f 00", HpackError::SizeUpdate),
            ("20 20 20", HpackError::SizeUpdate),
            ("3f e2 1f", HpackError::TableSize),
            ("04 81 00", HpackError::Huffman),
            ("04 84 ff ff ff ff", HpackError::Huffman),
        ] {
            check_error(&mut Decoder::default(), hex, error);
        }
        check(&mut Decoder::default(), "20 3f e1 1f 82", 0, &[(":method", "GET")]);
    }

    #[test]
    fn a_table_that_was_made_smaller_must_be_seen_to_be_smaller() {
        let mut decoder = Decoder::default();
        decoder.allow(100);
        check_error(&mut decoder, "82", HpackError::SizeUpdate);
        check_error(&mut decoder, "3f 46 82", HpackError::TableSize);
        check(&mut decoder, "3f 45 82", 0, &[(":method", "GET")]);
        check(&mut decoder, "82", 0, &[(":method", "GET")]);
    }

    /// CVE-2026-105297's kind: a large entry, and one byte for each reference to it.
    #[test]
    fn references_to_large_entries_are_counted_before_they_are_copied() {
        let mut decoder = Decoder::default();
        let mut block = bytes("40 01 61 7f a1 1e");
        block.extend([b'v'; 4000]);
        let bounds = Bounds { size: 16_384, fields: 1000 };
        let mut out = Fields::default();
        assert_eq!(decoder.decode(&block, &mut out, bounds), Ok(Excess::None));
        out.clear();
        assert_eq!(decoder.decode(&[0xbe; 5], &mut out, bounds), Ok(Excess::TooLarge));
        assert_eq!((out.len(), out.size()), (4, 4 * 4033));
        out.clear();
        assert_eq!(decoder.decode(&[0xbe; 10_000], &mut out, bounds), Ok(Excess::Hopeless));
        assert!(out.size() <= 16_384 && out.capacity() < 40_000, "{}", out.capacity());
        out.clear();
        assert_eq!(decoder.decode(&[0x82; 11], &mut out, Bounds { size: 1000, fields: 10 }), Ok(Excess::TooLarge));
        assert_eq!(out.len(), 10);
    }

    #[test]
    fn fields_keep_their_marks_in_the_table() {
        let mut decoder = Decoder::default();
        let mut out = Fields::default();
        // "X": "a", then a good name with a bad value, both inserted and referred to; then a good value with the bad name.
        let block = bytes("40 01 58 01 61  40 01 78 01 0a  be bf  7e 01 61");
        assert_eq!(decoder.decode(&block, &mut out, WIDE), Ok(Excess::None));
        let marks: Vec<_> = out
            .entries()
            .iter()
            .map(|entry| (entry.marks.has(Marks::BAD_NAME), entry.marks.has(Marks::BAD_VALUE)))
            .collect();
        assert_eq!(marks, [(true, false), (false, true), (false, true), (true, false), (false, false)]);
    }

    #[test]
    fn random_blocks_never_panic_and_stay_in_bounds() {
        let mut random = fastrand::Rng::with_seed(11);
        let mut decoder = Decoder::default();
        for _ in 0..20_000 {
            let block: Vec<u8> = (0..random.usize(..60)).map(|_| random.u8(..)).collect();
            let mut out = Fields::default();
            let bounds = Bounds { size: 500, fields: 5 };
            let _ = decoder.decode(&block, &mut out, bounds);
            assert!(out.size() <= 500 && out.len() <= 5);
        }
    }
}
