//! The time that a request may take, kept while Pingora does the work.
//!
//! Pingora knows a limit for each read and none for a request. A route's timeout is a limit for the whole of it, so the
//! future that serves the request is wrapped in one that watches the clock.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// When a request must be over. Set by the request path once the client has sent all of its request.
#[derive(Debug)]
pub(crate) struct Deadline {
    base: Instant,
    /// Nanoseconds after `base` plus one; 0 for none.
    at: AtomicU64,
    expired: std::sync::atomic::AtomicBool,
}

impl Default for Deadline {
    fn default() -> Self {
        Self { base: Instant::now(), at: AtomicU64::new(0), expired: false.into() }
    }
}

impl Deadline {
    pub(crate) fn set(&self, at: Option<Instant>) {
        let nanoseconds = at.map_or(0, |at| {
            let after = at.saturating_duration_since(self.base).as_nanos();
            u64::try_from(after).unwrap_or(u64::MAX - 1) + 1
        });
        self.at.store(nanoseconds, Relaxed);
    }

    pub(crate) fn get(&self) -> Option<Instant> {
        let nanoseconds = self.at.load(Relaxed).checked_sub(1)?;
        self.base.checked_add(Duration::from_nanos(nanoseconds))
    }

    /// Whether the watching future has given the request up.
    pub(crate) fn is_expired(&self) -> bool {
        self.expired.load(Relaxed)
    }

    /// For the next request of the same connection.
    pub(crate) fn reset(&self) {
        self.at.store(0, Relaxed);
        self.expired.store(false, Relaxed);
    }
}

/// How long a request whose stream fails may take to notice before it is dropped all the same.
const NOTICE: Duration = Duration::from_secs(5);

/// What is done when a request's time is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum OnExpiry {
    /// The connection's stream fails from now on, which makes Pingora give up and ask for an answer to send.
    FailStream,
    /// The request's future is dropped, which resets the HTTP/2 stream; a grace period lets Pingora's own timers,
    /// which can still answer, come first.
    Drop { grace: Duration },
}

/// Serves a request until its [`Deadline`]. Yields none if the request was dropped.
pub(crate) struct WithDeadline<'a, F: ?Sized> {
    inner: Pin<Box<F>>,
    clock: &'a Deadline,
    on_expiry: OnExpiry,
    armed: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl<'a, F: Future + ?Sized> WithDeadline<'a, F> {
    pub(crate) fn new(inner: Pin<Box<F>>, clock: &'a Deadline, on_expiry: OnExpiry) -> Self {
        Self { inner, clock, on_expiry, armed: None, sleep: None }
    }
}

impl<F: Future + ?Sized> Future for WithDeadline<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            if let Poll::Ready(output) = this.inner.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let clock = this.clock;
            let at = clock.get();
            if at != this.armed && !clock.is_expired() {
                this.armed = at;
                let grace = match this.on_expiry {
                    OnExpiry::FailStream => Duration::ZERO,
                    OnExpiry::Drop { grace } => grace,
                };
                this.sleep = at.map(|at| Box::pin(tokio::time::sleep_until(at + grace)));
            }
            match this.sleep.as_mut().map(|sleep| sleep.as_mut().poll(cx)) {
                Some(Poll::Ready(())) => {
                    let was_expired = clock.expired.swap(true, Relaxed);
                    if was_expired || this.on_expiry != OnExpiry::FailStream {
                        return Poll::Ready(None);
                    }
                    // The stream fails now: let the request see it.
                    this.sleep = Some(Box::pin(tokio::time::sleep(NOTICE)));
                }
                _ => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_is_set_while_the_request_runs_ends_it() {
        let clock = Arc::new(Deadline::default());
        let inner = {
            let clock = clock.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                clock.set(Some(Instant::now() + Duration::from_secs(2)));
                std::future::pending::<()>().await;
            }
        };
        let start = Instant::now();
        let grace = Duration::from_millis(100);
        let ended = WithDeadline::new(Box::pin(inner), &clock, OnExpiry::Drop { grace }).await;
        assert_eq!(ended, None);
        assert_eq!(start.elapsed().as_millis() / 10, 310);
        assert!(clock.is_expired());
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_stream_lets_the_request_end_by_itself() {
        let clock = Arc::new(Deadline::default());
        clock.set(Some(Instant::now() + Duration::from_secs(2)));
        let inner = std::future::poll_fn({
            let clock = clock.clone();
            move |_| if clock.is_expired() { Poll::Ready(7) } else { Poll::Pending }
        });
        assert_eq!(WithDeadline::new(Box::pin(inner), &clock, OnExpiry::FailStream).await, Some(7));
        clock.reset();
        clock.set(Some(Instant::now()));
        let deaf = std::future::pending::<()>();
        assert_eq!(WithDeadline::new(Box::pin(deaf), &clock, OnExpiry::FailStream).await, None);
    }
}
