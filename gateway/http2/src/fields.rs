//! The fields of one message: every name and value in one arena, which is used again for the next message.

use crate::known::Known;

/// What RFC 7541 section 4.1 and RFC 9113 section 6.5.2 count for a field beyond its bytes.
pub(crate) const FIELD_OVERHEAD: usize = 32;

/// One field as it was received: name in lower case (if it is well-formed), value without blanks around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
    /// The number of the name, if it has one.
    pub known: Option<Known>,
    /// The peer asks that no intermediary puts it into a compression table (RFC 7541 section 7.1.3).
    pub never_indexed: bool,
}

/// A list of fields in the order in which they came. Trailers are one; a request's head has one inside.
///
/// Whoever needs the fields longer than an event lasts exchanges the list by [`std::mem::swap`] with an empty one of his
/// own, which costs no copy, and gives the memory back the same way.
#[derive(Clone, Default, Debug)]
pub struct Fields {
    arena: Vec<u8>,
    entries: Vec<Entry>,
    /// Size as RFC 9113 section 6.5.2 counts it.
    size: usize,
    /// Names that are there, by number.
    present: u128,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The name's place; not used where `known` says the name.
    name: Span,
    value: Span,
    pub(crate) known: Option<Known>,
    pub(crate) marks: Marks,
}

impl Entry {
    #[inline]
    pub(crate) fn value(&self) -> Span {
        self.value
    }
}

/// A place in the arena.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Span {
    at: u32,
    length: u32,
}

/// What is known of a field beside its bytes. Kept in compression tables too, so that a field is checked once and not with
/// each reference.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Marks(u8);

impl Marks {
    pub(crate) const BAD_NAME: Self = Self(1);
    pub(crate) const BAD_VALUE: Self = Self(2);
    pub(crate) const NEVER_INDEXED: Self = Self(4);
    /// Taken out of the list: `host`, which became the authority, and pieces of a cookie that were joined.
    pub(crate) const HIDDEN: Self = Self(8);

    #[must_use]
    #[inline]
    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    #[inline]
    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// What is said of the name alone.
    #[must_use]
    #[inline]
    pub(crate) fn name_only(self) -> Self {
        Self(self.0 & Self::BAD_NAME.0)
    }
}

impl<'a> Field<'a> {
    /// A field to send. The name may have capitals, which are sent as small letters.
    #[must_use]
    #[inline]
    pub fn new(name: &'a [u8], value: &'a [u8]) -> Self {
        Self { name, value, known: Known::of(name), never_indexed: false }
    }

    /// A field to send whose name is known by number, which saves looking for it.
    #[must_use]
    #[inline]
    pub fn known(known: Known, value: &'a [u8]) -> Self {
        Self { name: known.name(), value, known: Some(known), never_indexed: false }
    }
}

impl Fields {
    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Size in bytes as RFC 9113 section 6.5.2 counts it: names, values, and 32 for each field.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether a field of this name is there.
    #[must_use]
    #[inline]
    pub fn contains(&self, known: Known) -> bool {
        self.present & known.bit() != 0
    }

    /// The first value of this name.
    #[must_use]
    pub fn get(&self, known: Known) -> Option<&[u8]> {
        self.get_all(known).next()
    }

    /// The values of this name, in their order.
    pub fn get_all(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        let entries = if self.contains(known) { &self.entries[..] } else { &[] };
        entries
            .iter()
            .filter(move |entry| entry.known == Some(known) && !entry.marks.has(Marks::HIDDEN))
            .map(|entry| self.bytes(entry.value))
    }

    /// The fields in the order in which they came.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.entries.iter().filter(|entry| !entry.marks.has(Marks::HIDDEN)).map(|entry| Field {
            name: self.name(entry),
            value: self.bytes(entry.value),
            known: entry.known,
            never_indexed: entry.marks.has(Marks::NEVER_INDEXED),
        })
    }

    /// Empties the list and keeps its memory.
    #[inline]
    pub fn clear(&mut self) {
        self.arena.clear();
        self.entries.clear();
        self.size = 0;
        self.present = 0;
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.arena.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    #[inline]
    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        // Spans are made by `place` only, from what the arena has, and the arena shrinks by `clear` and `truncate` only.
        &self.arena[span.at as usize..(span.at + span.length) as usize]
    }

    #[inline]
    pub(crate) fn name(&self, entry: &Entry) -> &[u8] {
        match entry.known {
            Some(known) => known.name(),
            None => self.bytes(entry.name),
        }
    }

    #[inline]
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    #[inline]
    pub(crate) fn arena(&mut self) -> &mut Vec<u8> {
        &mut self.arena
    }

    /// The place of everything in the arena from `start` on. Arenas are bounded far below 4 GiB by the bound on blocks.
    #[inline]
    pub(crate) fn place(&self, start: usize) -> Span {
        Span { at: start as u32, length: (self.arena.len() - start) as u32 }
    }

    /// Adds a field whose bytes are in the arena already.
    #[inline]
    pub(crate) fn push_placed(&mut self, known: Option<Known>, name: Span, value: Span, marks: Marks) {
        let name_length = known.map_or(name.length as usize, |known| known.name().len());
        self.size += name_length + value.length as usize + FIELD_OVERHEAD;
        if let Some(known) = known {
            self.present |= known.bit();
        }
        self.entries.push(Entry { name, value, known, marks });
    }

    /// Adds a field, copying its bytes.
    #[inline]
    pub(crate) fn push(&mut self, known: Option<Known>, name: &[u8], value: &[u8], marks: Marks) {
        let start = self.arena.len();
        let mut name_span = Span::default();
        if known.is_none() {
            self.arena.extend_from_slice(name);
            name_span = self.place(start);
        }
        let start = self.arena.len();
        self.arena.extend_from_slice(value);
        let value = self.place(start);
        self.push_placed(known, name_span, value, marks);
    }

    /// Takes the field at `index` out of what is seen of the list.
    #[inline]
    pub(crate) fn hide(&mut self, index: usize) {
        self.entries[index].marks = self.entries[index].marks.with(Marks::HIDDEN);
    }

    /// Says that no field of this name is seen any more.
    #[inline]
    pub(crate) fn forget(&mut self, known: Known) {
        self.present &= !known.bit();
    }

    /// Joins all fields of this name into the first of them, `between` between their values.
    pub(crate) fn join(&mut self, known: Known, between: &[u8]) {
        let mut first = None;
        let start = self.arena.len();
        for index in 0..self.entries.len() {
            let entry = self.entries[index];
            if entry.known != Some(known) || entry.marks.has(Marks::HIDDEN) {
                continue;
            }
            if first.is_none() {
                first = Some((index, entry.marks));
            } else {
                self.arena.extend_from_slice(between);
                self.hide(index);
            }
            let value = entry.value.at as usize..(entry.value.at + entry.value.length) as usize;
            self.arena.extend_from_within(value);
        }
        if let Some((index, _)) = first {
            self.entries[index].value = self.place(start);
        }
    }
}

/// Checks a name: a token (RFC 9110 section 5.6.2) without capitals.
pub(crate) fn name_marks(name: &[u8]) -> Marks {
    if !name.is_empty() && name.iter().all(|byte| TOKEN[usize::from(*byte)] == Letter::Lower) {
        Marks::default()
    } else {
        Marks::BAD_NAME
    }
}

/// Checks a value: no control characters but tabs, and no blanks at its ends (RFC 9113 section 8.2.1; RFC 9110 section 5.5).
#[inline]
pub(crate) fn value_marks(value: &[u8]) -> Marks {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if blank(value.first()) || blank(value.last()) || !has_only_field_bytes(value) {
        Marks::BAD_VALUE
    } else {
        Marks::default()
    }
}

/// Whether a value is one word: no control characters, and no blanks anywhere.
pub(crate) fn is_word(value: &[u8]) -> bool {
    value.iter().all(|byte| *byte > b' ' && *byte != 0x7f)
}

#[inline]
pub(crate) fn has_only_field_bytes(value: &[u8]) -> bool {
    const LOW: u64 = u64::from_ne_bytes([0x20; 8]);
    const DELETE: u64 = u64::from_ne_bytes([0x7f; 8]);
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const TOPS: u64 = u64::from_ne_bytes([0x80; 8]);
    let (eights, rest) = value.as_chunks::<8>();
    let mut suspect = 0;
    for eight in eights {
        let word = u64::from_ne_bytes(*eight);
        let delete = word ^ DELETE;
        // The top bit of each byte that is below a blank, or is DEL. A borrow may mark a byte too much, never too few.
        suspect |= (word.wrapping_sub(LOW) & !word | delete.wrapping_sub(ONES) & !delete) & TOPS;
    }
    suspect == 0 && rest.iter().all(|byte| is_field_byte(*byte)) || value.iter().all(|byte| is_field_byte(*byte))
}

#[inline]
fn is_field_byte(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f || byte == b'\t'
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Letter {
    No,
    Lower,
    Upper,
}

/// Bytes of tokens (RFC 9110 section 5.6.2); capitals apart.
pub(crate) static TOKEN: [Letter; 256] = token();

const fn token() -> [Letter; 256] {
    let mut table = [Letter::No; 256];
    let mut byte = 0;
    while byte < 256 {
        let letter = byte as u8;
        if letter.is_ascii_uppercase() {
            table[byte] = Letter::Upper;
        } else if letter.is_ascii_lowercase() || letter.is_ascii_digit() {
            table[byte] = Letter::Lower;
        }
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = Letter::Lower;
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_byte_by_byte_whatever_their_length() {
        for length in 1..40 {
            for at in 0..length {
                for byte in 0..=255u8 {
                    let mut value = vec![b'x'; length];
                    value[at] = byte;
                    let edge = at == 0 || at + 1 == length;
                    let blank = byte == b' ' || byte == b'\t';
                    let good = if blank { !edge } else { byte >= b' ' && byte != 0x7f };
                    assert_eq!(value_marks(&value) == Marks::default(), good, "{value:?}");
                }
            }
        }
        assert_eq!(value_marks(b""), Marks::default());
    }

    #[test]
    fn names_are_lower_case_tokens() {
        for (name, good) in [
            (&b"x-a"[..], true),
            (b"a.b_c~1", true),
            (b"", false),
            (b"X", false),
            (b"a b", false),
            (b":path", false),
            (b"a:b", false),
            (b"caf\xe9", false),
            (b"a\0", false),
        ] {
            assert_eq!(name_marks(name) == Marks::default(), good, "{name:?}");
        }
    }

    #[test]
    fn pieces_of_a_cookie_become_one() {
        let mut fields = Fields::default();
        for (name, value) in [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3")] {
            fields.push(Known::of(name.as_bytes()), name.as_bytes(), value.as_bytes(), Marks::default());
        }
        fields.join(Known::Cookie, b"; ");
        let seen: Vec<_> = fields.iter().map(|field| (field.name, field.value)).collect();
        assert_eq!(seen, [(&b"cookie"[..], &b"a=1; b=2; c=3"[..]), (b"x", b"y")]);
        assert_eq!(fields.get(Known::Cookie), Some(&b"a=1; b=2; c=3"[..]));
        assert_eq!(fields.len(), 2);
    }
}
