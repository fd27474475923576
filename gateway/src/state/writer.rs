//! The thread that writes the state file.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::changes::Changes;
use super::file::Checksum;
use super::{Saving, StateFile};

/// Time between two writes, as a multiple of what the last one took: a burst of reloads costs the disk and the
/// processor a fifth of their time at most, and a small configuration is on the disk at once.
const PAUSE: u32 = 4;
/// The longest of these times.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Bytes up to which changes are not too long, however small the whole is.
const MIN_LONG: u64 = 256 << 10;
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
    next: Option<Saving>,
    /// Whether everything has been given since it was last needed.
    has_whole: bool,
    stopped: bool,
    ended: bool,
    /// Why the last write failed.
    error: Option<String>,
}

impl Slot {
    /// Adds to what is to be written.
    fn put(&mut self, saving: Saving) {
        self.next = Some(match self.next.take() {
            Some(before) => before.merged(saving),
            None => saving,
        });
    }
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

    /// Has this written next, together with what is not written yet. Changes are changes of what was given before.
    pub(crate) fn save(&self, saving: Saving) {
        let mut slot = self.shared.lock();
        slot.has_whole |= saving.is_whole();
        slot.put(saving);
        drop(slot);
        self.shared.wake.notify_all();
    }

    /// Whether the next thing to be saved must be everything: at first, and when changes have grown long.
    pub(crate) fn wants_whole(&self) -> bool {
        !self.shared.lock().has_whole
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
    let mut writing = Writing::default();
    let mut not_before = Instant::now();
    while let Some(saving) = next(shared, not_before) {
        let started = Instant::now();
        let result = writing.write(file, &saving);
        not_before = Instant::now() + started.elapsed().saturating_mul(PAUSE).min(MAX_PAUSE);
        let mut slot = shared.lock();
        if writing.wants_whole() {
            let comes_again = saving.is_whole() && result.is_err();
            slot.has_whole = comes_again || slot.next.as_ref().is_some_and(Saving::is_whole);
        }
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
                let later = slot.next.take();
                slot.put(saving);
                later.into_iter().for_each(|later| slot.put(later));
                not_before = Instant::now() + RETRY;
            }
        }
    }
}

/// What to write, not before it is time unless the end has come; none at the end.
fn next(shared: &Shared, not_before: Instant) -> Option<Saving> {
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

/// What is on the disk.
#[derive(Default)]
struct Writing {
    lock: Option<File>,
    /// Checksum of the whole that was written, and what the system says of it.
    whole: Option<(Checksum, Metadata)>,
    /// What changed since.
    changes: Option<Changes>,
}

impl Writing {
    fn write(&mut self, file: &StateFile, saving: &Saving) -> io::Result<()> {
        if self.lock.is_none() {
            self.lock = Some(file.lock()?);
        }
        if saving.is_whole() {
            (self.whole, self.changes) = (Some(file.replace(saving)?), None);
            return Ok(());
        }
        let identity = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        let present = fs::metadata(file.path()).ok();
        let whole = self.whole.as_ref().filter(|(_, whole)| present.as_ref().map(identity) == Some(identity(whole)));
        let Some((whole, _)) = whole else {
            (self.whole, self.changes) = (None, None);
            return Err(io::Error::other("the file is not there any more"));
        };
        let changes = match &mut self.changes {
            Some(changes) => changes,
            None => {
                let begun = Changes::begin(&file.changes(), whole)?;
                file.sync_folder()?;
                self.changes.insert(begun)
            }
        };
        changes.append(saving)
    }

    /// Whether everything is to be written next: there is nothing that could change, or what changed takes more room.
    fn wants_whole(&self) -> bool {
        match (&self.whole, &self.changes) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((_, whole)), Some(changes)) => changes.length() > whole.len().max(MIN_LONG),
        }
    }
}
