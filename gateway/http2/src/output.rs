//! Bytes that wait to be written to the peer.

use crate::frame::{FrameHeader, flag, kind};
use crate::stream_id::StreamId;

/// Memory that is kept though little was written; more than that is given back.
const KEPT: usize = 16 * 1024;

#[derive(Default, Debug)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    /// How many of them were written.
    written: usize,
    /// How many were ever written.
    total: u64,
    replies: Replies,
}

/// Counts replies that were not written yet, without remembering where each of them is: those behind `mark` are counted
/// apart, and become all that is left when what was before is written. So none is forgotten early, and none is counted for
/// longer than what waited together with it.
#[derive(Default, Debug)]
struct Replies {
    before_mark: u32,
    behind_mark: u32,
    /// A place, in bytes that were ever put out.
    mark: u64,
}

impl Output {
    #[inline]
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    #[inline]
    pub(crate) fn waiting(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// The first `count` waiting bytes were written.
    pub(crate) fn advance(&mut self, count: usize) {
        let count = count.min(self.len());
        self.written += count;
        self.total += count as u64;
        if self.written == self.bytes.len() {
            // One small answer after a large one gives the memory back; large ones in a row keep it.
            if self.bytes.capacity() > KEPT && self.bytes.len() < self.bytes.capacity() / 4 {
                self.bytes = Vec::with_capacity(self.bytes.len().min(KEPT));
            }
            self.bytes.clear();
            self.written = 0;
            self.replies = Replies::default();
        } else if self.written >= KEPT && self.written * 2 >= self.bytes.len() {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        if self.replies.before_mark > 0 && self.total >= self.replies.mark {
            self.replies.before_mark = std::mem::take(&mut self.replies.behind_mark);
            self.replies.mark = self.end();
        }
    }

    /// Gives back memory that is not in use.
    pub(crate) fn release(&mut self) {
        if self.len() == 0 {
            self.bytes = Vec::new();
            self.written = 0;
        }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Replies to the peer that wait.
    #[inline]
    pub(crate) fn replies(&self) -> u32 {
        self.replies.before_mark + self.replies.behind_mark
    }

    fn end(&self) -> u64 {
        self.total + self.len() as u64
    }

    /// Appends a frame that answers something.
    pub(crate) fn reply(&mut self, kind: u8, flags: u8, stream: StreamId, payload: &[u8]) {
        self.frame(kind, flags, stream, payload);
        if self.replies.before_mark == 0 {
            self.replies.before_mark = 1;
            self.replies.mark = self.end();
        } else {
            self.replies.behind_mark += 1;
        }
    }

    #[inline]
    pub(crate) fn frame(&mut self, kind: u8, flags: u8, stream: StreamId, payload: &[u8]) {
        self.bytes.extend_from_slice(&FrameHeader { length: payload.len(), kind, flags, stream }.bytes());
        self.bytes.extend_from_slice(payload);
    }

    pub(crate) fn settings_ack(&mut self) {
        self.reply(kind::SETTINGS, flag::ACK, StreamId::CONNECTION, &[]);
    }

    pub(crate) fn window_update(&mut self, stream: StreamId, increment: u32) {
        self.frame(kind::WINDOW_UPDATE, 0, stream, &increment.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_counted_until_what_waited_with_them_is_written() {
        let mut output = Output::default();
        for _ in 0..10 {
            output.reply(kind::PING, flag::ACK, StreamId::CONNECTION, &[0; 8]);
        }
        assert_eq!((output.len(), output.replies()), (170, 10));
        output.advance(16);
        assert_eq!(output.replies(), 10);
        output.advance(1);
        assert_eq!(output.replies(), 9);
        output.frame(kind::DATA, 0, StreamId::new(1), &[0; 1000]);
        output.reply(kind::PING, flag::ACK, StreamId::CONNECTION, &[0; 8]);
        output.advance(153);
        assert_eq!(output.replies(), 1);
        output.advance(1009 + 17);
        assert_eq!((output.len(), output.replies()), (0, 0));
    }

    #[test]
    fn memory_of_what_was_written_is_given_back() {
        let mut output = Output::default();
        for _ in 0..100 {
            output.bytes().extend([7; 40_000]);
            output.advance(39_000);
        }
        output.advance(50_000);
        assert!(output.capacity() < 400_000);
        output.advance(usize::MAX);
        output.bytes().extend([7; 100]);
        output.advance(usize::MAX);
        assert!(output.capacity() <= KEPT);
        output.release();
        assert_eq!(output.capacity(), 0);
    }
}
