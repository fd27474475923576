//! Counts what costs a peer little.

use crate::error::Flood;
use crate::settings::Limits;

/// WINDOW_UPDATE frames that need no reason: what a client sends before anything was answered.
const FREE_WINDOW_UPDATES: u64 = 5;

/// What a peer did on one connection. There is no clock in it: frames are compared with the work that was done for the peer,
/// so that a connection that lives for weeks is judged as one that lives for a second.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Counters {
    /// Streams that were opened.
    streams: u64,
    data_frames_sent: u64,
    window_updates: u64,
    priority_frames: u64,
    unknown_frames: u64,
    empty_frames: u32,
    premature_resets: u32,
}

impl Counters {
    #[inline]
    pub(crate) fn stream_opened(&mut self) {
        self.streams += 1;
    }

    #[inline]
    pub(crate) fn data_frame_sent(&mut self) {
        self.data_frames_sent += 1;
    }

    #[inline]
    pub(crate) fn stream_served(&mut self) {
        self.premature_resets = self.premature_resets.saturating_sub(1);
    }

    /// A stream ended before its answer began, or because of a mistake.
    pub(crate) fn premature_reset(&mut self, limits: &Limits) -> Result<(), Flood> {
        self.premature_resets += 1;
        within(self.premature_resets, limits.max_premature_resets, Flood::Resets)
    }

    pub(crate) fn priority_frame(&mut self, limits: &Limits) -> Result<(), Flood> {
        self.priority_frames += 1;
        within(self.priority_frames, self.per_stream(limits), Flood::Priority)
    }

    pub(crate) fn unknown_frame(&mut self, limits: &Limits) -> Result<(), Flood> {
        self.unknown_frames += 1;
        within(self.unknown_frames, self.per_stream(limits), Flood::UnknownFrames)
    }

    pub(crate) fn window_update(&mut self, limits: &Limits) -> Result<(), Flood> {
        self.window_updates += 1;
        let per_frame = u64::from(limits.max_window_updates_per_data_frame);
        let allowed = FREE_WINDOW_UPDATES + 2 * (self.streams + per_frame * self.data_frames_sent);
        within(self.window_updates, allowed, Flood::WindowUpdate)
    }

    /// A DATA frame with so many bytes of data.
    #[inline]
    pub(crate) fn data_frame(&mut self, length: usize, ends_stream: bool, limits: &Limits) -> Result<(), Flood> {
        if length > 0 {
            self.empty_frames = 0;
        } else if !ends_stream {
            self.empty_frames += 1;
        }
        within(self.empty_frames, limits.max_consecutive_empty_frames, Flood::EmptyFrames)
    }

    /// Forgets half of what was counted against the peer.
    pub(crate) fn forgive(&mut self) {
        self.premature_resets /= 2;
        self.window_updates /= 2;
        self.priority_frames /= 2;
        self.unknown_frames /= 2;
    }

    fn per_stream(&self, limits: &Limits) -> u64 {
        u64::from(limits.max_priority_frames_per_stream).saturating_mul(1 + self.streams)
    }
}

fn within<T: PartialOrd>(count: T, allowed: T, flood: Flood) -> Result<(), Flood> {
    if count <= allowed { Ok(()) } else { Err(flood) }
}
