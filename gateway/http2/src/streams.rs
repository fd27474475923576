//! The streams that are open, and those that were a moment ago.

use std::collections::VecDeque;

use crate::stream_id::StreamId;

/// One open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    /// Bytes that we may send; below zero after the peer made its windows smaller.
    pub(crate) send_window: i32,
    /// Bytes that the peer may send.
    pub(crate) receive_window: i32,
    /// Bytes that came and that the application has not released.
    pub(crate) held: u32,
    /// Bytes that were released and that the peer was not told of.
    pub(crate) released: u32,
    /// What content-length says is still to come.
    pub(crate) expected: Option<u64>,
    pub(crate) remote: Half,
    pub(crate) local: Half,
    /// The application wanted to send more than this window, or that of the connection, allowed.
    pub(crate) is_blocked: bool,
    /// The request was malformed or too large: no service is due, and its end is no merit.
    pub(crate) is_bad: bool,
    /// We asked for a head only.
    pub(crate) is_head: bool,
}

impl Stream {
    /// Says whether a stream that was blocked is so no more, with this window of the connection.
    pub(crate) fn unblock(&mut self, connection_window: u32) -> bool {
        let opens = self.is_blocked && self.send_window > 0 && connection_window > 0;
        self.is_blocked &= !opens;
        opens
    }
}

/// One direction of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Half {
    /// Nothing was sent yet.
    Idle,
    /// The head was sent.
    Open,
    Ended,
}

/// How a stream ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// Both sides said all.
    Complete,
    ByPeer,
    /// We reset it: what is on its way is ignored.
    ByUs,
}

/// Open streams, found by number without hashing what is ordered anyway: numbers go up by two, so that the low bits of half
/// a number are a place of its own, unless a stream lives for very long.
#[derive(Default, Debug)]
pub(crate) struct Streams {
    slots: Vec<Stream>,
    /// Position in `slots` plus one, by number; 0 is free. The length is a power of two, at most half in use.
    index: Vec<u32>,
    /// Streams that ended lately, the newest last.
    ended: VecDeque<u32>,
}

/// Never fewer places than this, so that small connections do not grow step by step.
const LEAST_PLACES: usize = 16;

impl Streams {
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.slots.iter_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.slots.iter()
    }

    #[inline]
    fn home(&self, id: StreamId) -> usize {
        (id.get() >> 1) as usize & (self.index.len() - 1)
    }

    /// The place of a stream in the index.
    #[inline]
    fn place(&self, id: StreamId) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.home(id);
        loop {
            match self.index[at] {
                0 => return None,
                slot if self.slots[slot as usize - 1].id == id => return Some(at),
                _ => at = (at + 1) & (self.index.len() - 1),
            }
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        let place = self.place(id)?;
        Some(&mut self.slots[self.index[place] as usize - 1])
    }

    #[inline]
    pub(crate) fn get(&self, id: StreamId) -> Option<&Stream> {
        Some(&self.slots[self.index[self.place(id)?] as usize - 1])
    }

    /// Adds a stream that is not there.
    pub(crate) fn insert(&mut self, stream: Stream) {
        if (self.slots.len() + 1) * 2 > self.index.len() {
            self.grow();
        }
        let mut at = self.home(stream.id);
        while self.index[at] != 0 {
            at = (at + 1) & (self.index.len() - 1);
        }
        self.slots.push(stream);
        self.index[at] = self.slots.len() as u32;
    }

    fn grow(&mut self) {
        let places = (self.index.len() * 2).max(LEAST_PLACES);
        self.index.clear();
        self.index.resize(places, 0);
        for slot in 0..self.slots.len() {
            let mut at = self.home(self.slots[slot].id);
            while self.index[at] != 0 {
                at = (at + 1) & (places - 1);
            }
            self.index[at] = slot as u32 + 1;
        }
    }

    /// Takes a stream out and remembers, for a while, how it ended.
    pub(crate) fn remove(&mut self, id: StreamId, ended: Ended, remembered: usize) -> Option<Stream> {
        let place = self.place(id)?;
        let slot = self.index[place] as usize - 1;
        self.free(place);
        let stream = self.slots.swap_remove(slot);
        if let Some(moved) = self.slots.get(slot) {
            // The last stream took the slot of this one: its place has the number that was the count of streams.
            let mut at = self.home(moved.id);
            let old = self.slots.len() as u32 + 1;
            while self.index[at] != old {
                at = (at + 1) & (self.index.len() - 1);
            }
            self.index[at] = slot as u32 + 1;
        }
        self.remember(id, ended, remembered);
        Some(stream)
    }

    /// Frees a place, and moves those behind it that would not be found any more (linear probing without tombstones).
    fn free(&mut self, mut hole: usize) {
        let mask = self.index.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.index[at];
            if slot == 0 {
                break;
            }
            let home = self.home(self.slots[slot as usize - 1].id);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.index[hole] = slot;
                hole = at;
            }
        }
        self.index[hole] = 0;
    }

    /// Remembers that a stream ended. A number has 31 bits of which the lowest is one, which leaves two for how.
    pub(crate) fn remember(&mut self, id: StreamId, ended: Ended, remembered: usize) {
        if self.ended.len() >= remembered {
            self.ended.pop_front();
        }
        let how = match ended {
            Ended::Complete => 0,
            Ended::ByPeer => 1,
            Ended::ByUs => 2,
        };
        self.ended.push_back((id.get() >> 1) << 2 | how);
    }

    /// How a stream ended, if that was lately.
    pub(crate) fn ended(&self, id: StreamId) -> Option<Ended> {
        let how = self.ended.iter().rev().find(|ended| **ended >> 2 == id.get() >> 1)?;
        Some(match how & 3 {
            0 => Ended::Complete,
            1 => Ended::ByPeer,
            _ => Ended::ByUs,
        })
    }

    /// Gives back memory that is not in use. What is remembered of ended streams stays.
    pub(crate) fn release(&mut self) {
        if self.slots.is_empty() {
            self.slots = Vec::new();
            self.index = Vec::new();
            self.ended.shrink_to_fit();
        }
    }

    /// Bytes of memory that it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.slots.capacity() * size_of::<Stream>() + (self.index.capacity() + self.ended.capacity()) * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn stream(id: u32, held: u32) -> Stream {
        Stream {
            id: StreamId::new(id),
            send_window: 0,
            receive_window: 0,
            held,
            released: 0,
            expected: None,
            remote: Half::Open,
            local: Half::Idle,
            is_blocked: false,
            is_bad: false,
            is_head: false,
        }
    }

    #[test]
    fn streams_are_found_whatever_came_and_went() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut streams = Streams::default();
        let mut model = BTreeMap::new();
        let mut next = 1;
        for round in 0..50_000u32 {
            if model.len() < 120 && random.u8(..100) < 52 {
                streams.insert(stream(next, round));
                model.insert(next, round);
                next += 2 * random.u32(1..40);
            } else if let Some(id) = model.keys().nth(random.usize(..model.len().max(1))).copied() {
                let removed = streams.remove(StreamId::new(id), Ended::ByUs, 64).unwrap();
                assert_eq!(Some(removed.held), model.remove(&id));
                assert_eq!(streams.ended(StreamId::new(id)), Some(Ended::ByUs));
            }
            assert_eq!(streams.len(), model.len());
            if round % 16 == 0 {
                for (id, held) in &model {
                    assert_eq!(streams.get(StreamId::new(*id)).map(|stream| stream.held), Some(*held));
                }
                assert!(streams.get(StreamId::new(next)).is_none());
            }
        }
        assert!(streams.capacity() < 32 * 1024);
    }

    #[test]
    fn only_so_many_ended_streams_are_remembered() {
        let mut streams = Streams::default();
        for id in (1..400).step_by(2) {
            streams.remember(StreamId::new(id), Ended::Complete, 50);
        }
        assert_eq!(streams.ended(StreamId::new(399)), Some(Ended::Complete));
        assert_eq!(streams.ended(StreamId::new(301)), Some(Ended::Complete));
        assert_eq!(streams.ended(StreamId::new(299)), None);
    }
}
