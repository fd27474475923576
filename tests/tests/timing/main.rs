//! Promises about time and about load, one after the other: the machine is not shared with other tests of this program.
//!
//! `make soak` (`TIDEGATE_SOAK=1`) runs them at the sizes of the acceptance list.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod certificates;
mod convergence;
mod crash;
mod reload;

use tokio::sync::{Mutex, MutexGuard};

/// Holds the machine for one test.
async fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::const_new(());
    MACHINE.lock().await
}

/// `small` in `make test`, `full` in `make soak`.
fn size(small: usize, full: usize) -> usize {
    if std::env::var_os("TIDEGATE_SOAK").is_some() { full } else { small }
}
