//! The dynamic table of a decoder (RFC 7541 section 2.3.2).

use std::collections::VecDeque;

use crate::fields::{FIELD_OVERHEAD, Marks};
use crate::known::Known;

/// Entries in the order of their insertion, their bytes one behind the other. Nothing is allocated before the first
/// insertion, and never more bytes than twice the table's size.
#[derive(Default, Debug)]
pub(super) struct Table {
    /// Bytes of names that are not known by number, and of values.
    bytes: Vec<u8>,
    /// How many of `bytes`, at their beginning, belong to no entry any more.
    dead: usize,
    /// Oldest first.
    entries: VecDeque<Entry>,
    size: usize,
    max_size: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name_length: u32,
    value_length: u32,
    /// Where the bytes begin, counted from the beginning of all bytes that ever were, modulo 2^32.
    at: u32,
    known: Option<Known>,
    marks: Marks,
}

impl Entry {
    fn length(&self) -> usize {
        let name = if self.known.is_none() { self.name_length } else { 0 };
        (name + self.value_length) as usize
    }

    fn size(&self) -> usize {
        (self.name_length + self.value_length) as usize + FIELD_OVERHEAD
    }
}

/// An entry as it is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    pub(super) known: Option<Known>,
    /// Empty where `known` says the name.
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    pub(super) marks: Marks,
}

impl Table {
    pub(super) fn new(max_size: usize) -> Self {
        Self { max_size, ..Self::default() }
    }

    pub(super) fn max_size(&self) -> usize {
        self.max_size
    }

    /// The entry that came `back` insertions before the newest one.
    #[inline]
    pub(super) fn get(&self, back: usize) -> Option<Found<'_>> {
        let entry = self.entries.get(self.entries.len().checked_sub(back + 1)?)?;
        let first = self.entries.front()?;
        let start = self.dead + entry.at.wrapping_sub(first.at) as usize;
        let name_length = if entry.known.is_none() { entry.name_length as usize } else { 0 };
        let value_at = start + name_length;
        Some(Found {
            known: entry.known,
            name: &self.bytes[start..value_at],
            value: &self.bytes[value_at..value_at + entry.value_length as usize],
            marks: entry.marks,
        })
    }

    /// Makes room and adds an entry; one that is larger than the table empties it and is not added (RFC 7541 section 4.4).
    pub(super) fn insert(&mut self, known: Option<Known>, name: &[u8], value: &[u8], marks: Marks) {
        let size = name.len() + value.len() + FIELD_OVERHEAD;
        self.shrink_to(self.max_size.saturating_sub(size));
        if size > self.max_size {
            return;
        }
        let stored = if known.is_none() { name } else { &[] };
        if self.bytes.len() + stored.len() + value.len() > 2 * self.max_size {
            self.bytes.drain(..self.dead);
            self.dead = 0;
        }
        let at = match self.entries.back() {
            Some(last) => last.at.wrapping_add(last.length() as u32),
            None => {
                self.bytes.clear();
                self.dead = 0;
                0
            }
        };
        self.bytes.extend_from_slice(stored);
        self.bytes.extend_from_slice(value);
        self.size += size;
        // Sizes of tables are bounded by `Settings`, so that lengths fit.
        let (name_length, value_length) = (name.len() as u32, value.len() as u32);
        self.entries.push_back(Entry { name_length, value_length, at, known, marks });
    }

    /// Changes the size that the table may have (RFC 7541 section 4.3).
    pub(super) fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.shrink_to(max_size);
        if self.entries.is_empty() {
            self.bytes = Vec::new();
            self.dead = 0;
        }
    }

    fn shrink_to(&mut self, size: usize) {
        while self.size > size {
            // The size is the sum of the entries'; while it is above anything, there is one.
            let Some(oldest) = self.entries.pop_front() else { break };
            self.size -= oldest.size();
            self.dead += oldest.length();
        }
    }

    /// Bytes of memory that it holds.
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_age_and_go_when_the_table_is_full() {
        let mut random = fastrand::Rng::with_seed(3);
        let mut table = Table::new(512);
        let mut model: VecDeque<(Vec<u8>, Vec<u8>)> = VecDeque::new();
        for round in 0..5_000 {
            if round % 97 == 0 {
                let size = random.usize(..=600);
                table.resize(size);
            }
            let name = if random.bool() { b"server".to_vec() } else { vec![b'n'; random.usize(1..60)] };
            let value: Vec<u8> =
                (0..random.usize(..if round % 50 == 0 { 700 } else { 60 })).map(|_| random.u8(..)).collect();
            table.insert(Known::of(&name), &name, &value, Marks::default());
            model.push_back((name, value));
            let size = |model: &VecDeque<(Vec<u8>, Vec<u8>)>| {
                model.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>()
            };
            while size(&model) > table.max_size() {
                model.pop_front();
            }
            assert_eq!(table.size(), size(&model));
            for (back, (name, value)) in model.iter().rev().enumerate() {
                let found = table.get(back).unwrap();
                let found_name = found.known.map_or(found.name, |known| known.name());
                assert_eq!((found_name, found.value), (&name[..], &value[..]));
            }
            assert!(table.get(model.len()).is_none());
            assert!(table.bytes.len() <= 2 * 600);
        }
    }
}
