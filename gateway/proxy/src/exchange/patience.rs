use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::client::Client;
use super::http1_relay::RelayError;
use super::timer::Timer;

/// How long an exchange may go on: to its deadline, and no longer than `stall` without anything moving.
pub(super) struct Patience {
    stall: Duration,
    stalls_at: Instant,
    moved: bool,
    /// The client's tick when something was last known to move.
    tick: Option<u64>,
}

impl Patience {
    /// The patience of an exchange that begins at `start`.
    pub(super) fn new(start: Instant, stall: Duration) -> Self {
        Self { stall, stalls_at: start + stall, moved: false, tick: None }
    }

    /// Something has moved.
    pub(super) fn renew(&mut self) {
        self.moved = true;
    }

    /// Resolves when the time is over. `expires` is the deadline as it is now: it begins with the request's end.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        timer: &mut Timer,
        down: &impl Client,
        expires: Option<Instant>,
    ) -> Poll<RelayError> {
        if let Some(tick) = down.tick() {
            // Its connection looks at all of its requests at once.
            if self.tick != Some(tick) {
                if self.tick.is_some() && !std::mem::take(&mut self.moved) {
                    return Poll::Ready(RelayError::Stalled);
                }
                self.tick = Some(tick);
            }
            return match expires {
                Some(expires) => timer.poll_until(cx, expires).map(|()| RelayError::Expired),
                None => Poll::Pending,
            };
        }
        loop {
            let next = expires.map_or(self.stalls_at, |expires| expires.min(self.stalls_at));
            if timer.poll_until(cx, next).is_pending() {
                return Poll::Pending;
            }
            if expires.is_some_and(|expires| expires <= next) {
                return Poll::Ready(RelayError::Expired);
            }
            if !std::mem::take(&mut self.moved) {
                return Poll::Ready(RelayError::Stalled);
            }
            self.stalls_at = Instant::now() + self.stall;
        }
    }
}
