//! Numbers of streams.

use std::fmt;

/// The number of a stream on its connection: 31 bits, odd where the client opened it, ascending (RFC 9113 section 5.1.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId(u32);

impl StreamId {
    /// The connection itself, in frames and events that are about all streams.
    pub const CONNECTION: Self = Self(0);

    /// Ignores the highest bit, as RFC 9113 section 4.1 asks.
    #[must_use]
    #[inline]
    pub const fn new(number: u32) -> Self {
        Self(number & 0x7fff_ffff)
    }

    #[must_use]
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    #[inline]
    pub(crate) const fn is_connection(self) -> bool {
        self.0 == 0
    }

    #[inline]
    pub(crate) const fn is_clients(self) -> bool {
        self.0 & 1 == 1
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
