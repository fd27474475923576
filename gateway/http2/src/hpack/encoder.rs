//! Fields into header blocks (RFC 7541 section 6).
//!
//! What a gateway answers repeats: the same names in every response, and for most of them the same values. So the encoder
//! remembers, for each name, the last value; what comes with the same value as before goes into the table, and is one byte
//! from then on. A value that changes every time is never inserted and costs no eviction. Strings are written as they are:
//! Huffman's code would save the peer a fifth of few bytes and cost us more than the bytes do.

use std::collections::VecDeque;

use super::integer;
use super::static_table::{self, ENTRIES};
use crate::fields::FIELD_OVERHEAD;
use crate::known::Known;

const DEFAULT_SIZE: usize = 4096;

/// Names that are remembered. A power of two.
const SLOTS: usize = 64;

/// How many places a name may have.
const PROBES: usize = 4;

/// Name and value together; what is longer repeats rarely enough.
const SLOT_BYTES: usize = 72;

/// Forms of literals (RFC 7541 section 6.2): bits of the prefix, and what is before it.
const INDEXED: (u32, u8) = (6, 0x40);
const NOT_INDEXED: (u32, u8) = (4, 0);
const NEVER_INDEXED: (u32, u8) = (4, 0x10);

/// Whether a field may be put into tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Keep {
    IfWorthIt,
    /// Here and by anybody who passes it on (RFC 7541 section 7.1.3).
    Never,
}

/// The sending end of a connection's compression.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// Remembered names; empty before the first field.
    slots: Vec<Slot>,
    /// Sizes of the entries that the peer's table has, oldest first.
    sizes: VecDeque<u16>,
    size: usize,
    max_size: usize,
    /// The smallest size since the last block, and that the last block was written with another size than `max_size`.
    announced: Option<usize>,
    /// Entries that were ever inserted; the number of an entry is what this was after its insertion.
    inserted: u32,
    /// How often there was no place for a name.
    crowded: u32,
}

#[derive(Clone, Debug)]
struct Slot {
    /// The number of the newest entry with this name; 0 if there was none.
    named: u32,
    /// The number of the entry with this name and the remembered value; 0 if it was not inserted.
    whole: u32,
    is_used: bool,
    known: Option<Known>,
    /// 0 where `known` says the name.
    name_length: u8,
    value_length: u8,
    bytes: [u8; SLOT_BYTES],
}

impl Slot {
    const EMPTY: Self = Self {
        named: 0,
        whole: 0,
        is_used: false,
        known: None,
        name_length: 0,
        value_length: 0,
        bytes: [0; SLOT_BYTES],
    };

    fn name(&self) -> &[u8] {
        &self.bytes[..usize::from(self.name_length)]
    }

    fn value(&self) -> &[u8] {
        &self.bytes[usize::from(self.name_length)..][..usize::from(self.value_length)]
    }

    /// Whether the slot is for this name, or free for it.
    #[inline]
    fn is_for(&self, known: Option<Known>, name: &[u8]) -> bool {
        !self.is_used || self.known == known && (known.is_some() || self.name() == name)
    }

    fn remember(&mut self, known: Option<Known>, name: &[u8], value: &[u8]) {
        let name = if known.is_some() { &[] } else { name };
        self.is_used = true;
        self.known = known;
        self.bytes[..name.len()].copy_from_slice(name);
        self.bytes[name.len()..name.len() + value.len()].copy_from_slice(value);
        // Both are below SLOT_BYTES, which the caller compared.
        self.name_length = name.len() as u8;
        self.value_length = value.len() as u8;
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            sizes: VecDeque::new(),
            size: 0,
            max_size: DEFAULT_SIZE,
            announced: None,
            inserted: 0,
            crowded: 0,
        }
    }
}

impl Encoder {
    /// Takes the peer's SETTINGS_HEADER_TABLE_SIZE. More than the default is not used: our answers repeat few fields.
    pub(crate) fn allow(&mut self, size: usize) {
        let size = size.min(DEFAULT_SIZE);
        if size == self.max_size {
            return;
        }
        self.announced = Some(self.announced.map_or(size, |least| least.min(size)));
        self.max_size = size;
        self.evict(size);
    }

    /// Begins a block: says what changed of the table's size since the last one (RFC 7541 section 4.2).
    pub(crate) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(least) = self.announced.take() {
            if least < self.max_size {
                integer::encode(least, 5, 0x20, out);
            }
            integer::encode(self.max_size, 5, 0x20, out);
        }
    }

    /// Writes `:status`, three digits.
    pub(crate) fn status(&mut self, status: u16, out: &mut Vec<u8>) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digits = [status / 100 % 10, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
                return self.field(Some(Known::PseudoStatus), b":status", &digits, Keep::IfWorthIt, out);
            }
        };
        out.push(0x80 | index);
    }

    /// Writes a pseudo-header field of a request.
    pub(crate) fn part(&mut self, known: Known, value: &[u8], out: &mut Vec<u8>) {
        match static_table::whole_index(known, value) {
            Some(index) => out.push(0x80 | index),
            None => self.field(Some(known), known.name(), value, Keep::IfWorthIt, out),
        }
    }

    /// Writes a field whose name is in lower case; `known` is its number.
    pub(crate) fn field(&mut self, known: Option<Known>, name: &[u8], value: &[u8], keep: Keep, out: &mut Vec<u8>) {
        if keep == Keep::Never {
            return literal(NEVER_INDEXED, known, name, 0, value, out);
        }
        let is_long = name.len() + value.len() > SLOT_BYTES;
        if is_long || self.max_size == 0 || known.is_some_and(is_secret) {
            return literal(NOT_INDEXED, known, name, 0, value, out);
        }
        if self.slots.is_empty() {
            self.slots = vec![Slot::EMPTY; SLOTS];
        }
        let home = hash(known, name);
        let place = (0..PROBES).map(|step| (home + step) % SLOTS).find(|at| self.slots[*at].is_for(known, name));
        let Some(at) = place else {
            // Too many names share a place. Now and then one makes room, so that names of long ago do not stay for ever.
            self.crowded = self.crowded.wrapping_add(1);
            if self.crowded.is_multiple_of(8) {
                self.slots[home] = Slot::EMPTY;
            }
            return literal(NOT_INDEXED, known, name, 0, value, out);
        };
        let slot = &mut self.slots[at];
        let is_new = !slot.is_used;
        let is_same = !is_new && slot.value() == value;
        let oldest = self.inserted.wrapping_sub(self.sizes.len() as u32);
        // Numbers are compared by age, so that they may wrap; 0 is an entry that is always too old, or none.
        let alive = |number: u32| number != 0 && number.wrapping_sub(oldest).wrapping_sub(1) < self.sizes.len() as u32;
        if is_same && alive(slot.whole) {
            let index = ENTRIES.len() + 1 + self.inserted.wrapping_sub(slot.whole) as usize;
            return integer::encode(index, 7, 0x80, out);
        }
        let named = if alive(slot.named) { slot.named } else { 0 };
        let name_index = if named == 0 { 0 } else { ENTRIES.len() + 1 + self.inserted.wrapping_sub(named) as usize };
        if !is_same {
            slot.remember(known, name, value);
            slot.whole = 0;
        }
        // The first value of a name goes in at once, for its name's sake; a later one if it comes twice.
        let size = name.len() + value.len() + FIELD_OVERHEAD;
        let insert = (is_new || is_same) && size <= self.max_size;
        literal(if insert { INDEXED } else { NOT_INDEXED }, known, name, name_index, value, out);
        if insert {
            self.evict(self.max_size - size);
            self.sizes.push_back(size as u16);
            self.size += size;
            self.inserted = self.inserted.wrapping_add(1);
            self.slots[at].named = self.inserted;
            self.slots[at].whole = self.inserted;
        }
    }

    /// Bytes of memory that it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.sizes.capacity() * size_of::<u16>()
    }

    fn evict(&mut self, size: usize) {
        while self.size > size {
            let Some(oldest) = self.sizes.pop_front() else { break };
            self.size -= usize::from(oldest);
        }
    }
}

/// Fields that say who somebody is: they are not put into a table that other users' messages go through as well, where the
/// size of a message would tell whether a guess was right (RFC 7541 section 7.1).
fn is_secret(known: Known) -> bool {
    matches!(known, Known::SetCookie | Known::Cookie | Known::Authorization | Known::ProxyAuthorization)
}

/// Writes a field with its value spelled out, and its name too unless it has an index; 0 is none.
fn literal(form: (u32, u8), known: Option<Known>, name: &[u8], index: usize, value: &[u8], out: &mut Vec<u8>) {
    let (prefix, pattern) = form;
    let index = known.and_then(static_table::name_index).unwrap_or(index);
    integer::encode(index, prefix, pattern, out);
    if index == 0 {
        integer::encode(name.len(), 7, 0, out);
        out.extend_from_slice(name);
    }
    integer::encode(value.len(), 7, 0, out);
    out.extend_from_slice(value);
}

/// Where a name is looked for first.
fn hash(known: Option<Known>, name: &[u8]) -> usize {
    let number = match known {
        Some(known) => known as u64,
        None => {
            let mut end = [0; 8];
            let length = name.len().min(8);
            end[..length].copy_from_slice(&name[name.len() - length..]);
            u64::from_ne_bytes(end) ^ (name.len() as u64) << 56 | 0x100
        }
    };
    (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::Fields;
    use crate::hpack::decoder::{Bounds, Decoder, Excess};

    const WIDE: Bounds = Bounds { size: 1 << 20, fields: 1000 };

    fn encode(encoder: &mut Encoder, fields: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        encoder.begin(&mut out);
        for (name, value) in fields {
            encoder.field(Known::of(name), name, value, Keep::IfWorthIt, &mut out);
        }
        out
    }

    #[track_caller]
    fn check_decoded(decoder: &mut Decoder, block: &[u8], expected: &[(&[u8], &[u8])]) {
        let mut out = Fields::default();
        assert_eq!(decoder.decode(block, &mut out, WIDE), Ok(Excess::None));
        let seen: Vec<_> = out.iter().map(|field| (field.name, field.value)).collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_response_that_repeats_becomes_one_byte_a_field() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let fields: [(&[u8], &[u8]); 4] =
            [(b"server", b"tidegate"), (b"x-custom", b"1"), (b"content-type", b"text/html"), (b"x-other", b"")];
        let lengths: Vec<usize> = (0..3)
            .map(|_| {
                let block = encode(&mut encoder, &fields);
                check_decoded(&mut decoder, &block, &fields);
                block.len()
            })
            .collect();
        assert_eq!(lengths, [10 + 12 + 11 + 10, 4, 4]);
    }

    #[test]
    fn a_value_that_changes_every_time_is_not_inserted_again() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        for round in 0..1_000u32 {
            let value = round.to_string();
            let fields: [(&[u8], &[u8]); 2] = [(b"x-changing-time", value.as_bytes()), (b"server", b"t")];
            let block = encode(&mut encoder, &fields);
            check_decoded(&mut decoder, &block, &fields);
            if round > 0 {
                assert!(block.len() <= 2 + 1 + value.len() + 1, "{block:x?}");
            }
        }
        assert_eq!(encoder.inserted, 2);
    }

    #[test]
    fn a_peer_without_a_table_gets_literals_and_is_told_so_once() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let fields: [(&[u8], &[u8]); 1] = [(b"server", b"tidegate")];
        encode(&mut encoder, &fields);
        encoder.allow(0);
        encoder.allow(2000);
        encoder.allow(1000);
        let block = encode(&mut encoder, &fields);
        assert_eq!(block[..4], [0x20, 0x3f, 0xc9, 0x07]);
        decoder.allow(1000);
        check_decoded(&mut decoder, &block, &fields);
        encoder.allow(0);
        let block = encode(&mut encoder, &fields);
        assert_eq!(block[0], 0x20);
        check_decoded(&mut decoder, &block, &fields);
        let block = encode(&mut encoder, &fields);
        assert_eq!(block.len(), 11);
        check_decoded(&mut decoder, &block, &fields);
    }

    #[test]
    fn statuses_are_three_digits() {
        for status in 100..1000 {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            let mut out = Vec::new();
            encoder.status(status, &mut out);
            check_decoded(&mut decoder, &out, &[(b":status", status.to_string().as_bytes())]);
        }
    }

    #[test]
    fn random_fields_come_back_whatever_the_table_does() {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let names: Vec<Vec<u8>> = (0..150)
            .map(|at| match Known::ALL.get(at) {
                Some(known) => known.name().to_vec(),
                None => format!("x-{}-{at}", "n".repeat(at % 80)).into_bytes(),
            })
            .collect();
        for round in 0..5_000 {
            if round % 61 == 0 {
                let size = random.usize(..=5000);
                encoder.allow(size);
                decoder.allow(size.min(4096));
            }
            let values: Vec<Vec<u8>> = (0..12)
                .map(|_| match random.u8(..3) {
                    0 => b"same".to_vec(),
                    1 => random.u8(..9).to_string().into_bytes(),
                    _ => vec![b'v'; random.usize(..300)],
                })
                .collect();
            let fields: Vec<(&[u8], &[u8])> =
                values.iter().map(|value| (&names[random.usize(..names.len())][..], &value[..])).collect();
            let block = encode(&mut encoder, &fields);
            check_decoded(&mut decoder, &block, &fields);
        }
    }
}
