use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// One timer for all that a connection waits for. Moving its time back costs nothing until the earlier time has come.
#[derive(Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Resolves at `at` or later.
    pub(crate) fn poll_until(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        loop {
            if sleep.deadline() > at {
                sleep.as_mut().reset(at);
            }
            match sleep.as_mut().poll(cx) {
                Poll::Ready(()) if sleep.deadline() < at => sleep.as_mut().reset(at),
                polled => return polled,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_is_moved_fires_when_it_should() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timer = Timer::default();
        let pending = |timer: &mut Timer, until| {
            assert!(timer.poll_until(&mut Context::from_waker(std::task::Waker::noop()), until).is_pending());
        };
        pending(&mut timer, at(5));
        pending(&mut timer, at(50));
        poll_fn(|cx| timer.poll_until(cx, at(20))).await;
        assert_eq!(start.elapsed().as_secs(), 20);
        pending(&mut timer, at(100));
        poll_fn(|cx| timer.poll_until(cx, at(30))).await;
        assert_eq!(start.elapsed().as_secs(), 30);
    }
}
