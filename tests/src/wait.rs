//! Waiting for a condition, with a deadline, instead of for a length of time.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

/// Long enough for a loaded two-core machine and a debug build; nothing passes by taking this long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks `probe` every few milliseconds until it gives a value.
///
/// # Panics
/// With `what` if that does not happen within `deadline`.
pub async fn until<T, P, F>(what: &str, deadline: Duration, mut probe: P) -> T
where
    P: FnMut() -> F,
    F: Future<Output = Option<T>>,
{
    let start = Instant::now();
    let mut ticks = interval(Duration::from_millis(4));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(value) = probe().await {
            return value;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain for {what}");
    }
}

/// Runs `future`, and panics with `what` if it takes longer than [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} in vain for {what}"),
    }
}
