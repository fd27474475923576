//! The thread that writes the state file.

use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Saving, StateFile};

/// Time between two writes, as a multiple of what the last one took: a burst of reloads costs the disk and the
/// processor a fifth of their time at most, and a small configuration is on the disk at once.
const PAUSE: u32 = 4;
/// The longest of these times.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Time after which a write that failed is tried again: a full disk becomes free without telling.
const RETRY: Duration = Duration::from_secs(5);

/// Writes what it was last given, off the serving path. Dropping it writes what is pending, within a second.
#[derive(Debug)]
pub(crate) struct StateWriter {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    slot: Mutex<Slot>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    next: Option<Arc<Saving>>,
    stopped: bool,
    ended: bool,
    /// Why the last write failed.
    error: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Slot> {
        // Every state of the slot is a valid one.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StateWriter {
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(file: StateFile) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let thread = thread::Builder::new().name("state".into()).spawn({
            let shared = shared.clone();
            move || write_all(&file, &shared)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has this written next, in place of what is not written yet.
    pub(crate) fn save(&self, saving: Saving) {
        self.shared.lock().next = Some(Arc::new(saving));
        self.shared.wake.notify_all();
    }

    /// Why the file is older than what serves, if it is because writing failed.
    pub(crate) fn error(&self) -> Option<String> {
        self.shared.lock().error.clone()
    }
}

impl Drop for StateWriter {
    fn drop(&mut self) {
        let mut slot = self.shared.lock();
        slot.stopped = true;
        self.shared.wake.notify_all();
        let deadline = Instant::now() + Duration::from_secs(1);
        while !slot.ended {
            let Some(rest) = deadline.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) else {
                return;
            };
            slot = self.shared.wake.wait_timeout(slot, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(slot);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was already printed.
            drop(thread.join());
        }
    }
}

struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.wake.notify_all();
    }
}

fn write_all(file: &StateFile, shared: &Shared) {
    let _ended = Ended(shared);
    let mut lock = None;
    let mut not_before = Instant::now();
    while let Some(saving) = next(shared, not_before) {
        let started = Instant::now();
        let result = write(file, &mut lock, &saving);
        not_before = Instant::now() + started.elapsed().saturating_mul(PAUSE).min(MAX_PAUSE);
        let mut slot = shared.lock();
        match result {
            Ok(()) => {
                if slot.error.take().is_some() {
                    tracing::debug!(file = %file.path().display(), "the state is written again");
                }
            }
            Err(error) => {
                let message = error.to_string();
                if slot.error.as_ref() != Some(&message) {
                    let file = file.path().display();
                    // The writer of configuration tells it to people, once and in the status.
                    tracing::debug!(%file, %error, "cannot keep the last good configuration; trying again");
                }
                slot.error = Some(message);
                if slot.stopped {
                    return;
                }
                slot.next.get_or_insert(saving);
                not_before = Instant::now() + RETRY;
            }
        }
    }
}

/// What to write, not before it is time unless the end has come; none at the end.
fn next(shared: &Shared, not_before: Instant) -> Option<Arc<Saving>> {
    let mut slot = shared.lock();
    loop {
        let rest = not_before.saturating_duration_since(Instant::now());
        if slot.next.is_none() {
            if slot.stopped {
                return None;
            }
            slot = shared.wake.wait(slot).unwrap_or_else(PoisonError::into_inner);
        } else if rest.is_zero() || slot.stopped {
            return slot.next.take();
        } else {
            slot = shared.wake.wait_timeout(slot, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn write(file: &StateFile, lock: &mut Option<File>, saving: &Saving) -> io::Result<()> {
    if lock.is_none() {
        *lock = Some(file.lock()?);
    }
    file.replace(saving)
}
