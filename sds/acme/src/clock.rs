use std::pin::Pin;
use std::time::{Duration, SystemTime};

/// Resolves when the time has come.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The time by which certificates are renewed. Tests bring their own, and move it.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> SystemTime;

    /// Resolves at `at` or a little later; at once if it has passed. Cancel safe.
    fn sleep_until(&self, at: SystemTime) -> Sleep;
}

/// The machine's time.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// A machine may have been asleep, or its clock set: nothing waits longer than this without another look.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep_until(&self, at: SystemTime) -> Sleep {
        Box::pin(async move {
            while let Ok(left) = at.duration_since(SystemTime::now())
                && !left.is_zero()
            {
                tokio::time::sleep(left.min(LOOK_AGAIN)).await;
            }
        })
    }
}
