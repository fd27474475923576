//! When to look: a thread that is woken by inotify, by request and by time.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tracing::debug;

/// Time between two looks, as events may be missed and some file systems have none.
const POLL: Duration = Duration::from_secs(1);

/// A look may cost this part of the time at most; slower ones are made less often.
const LOOK_SHARE: u32 = 50;

/// Silence after which a change counts as done, and the longest wait for it.
const QUIET: Duration = Duration::from_millis(10);
const MAX_QUIET: Duration = Duration::from_millis(100);

/// Something that can be looked at again and again.
pub(super) trait Look: Send + 'static {
    /// Looks once. Gives back when to look again at the latest, if sooner than usual.
    fn look(&mut self) -> Option<Duration>;

    /// Folders to be watched, without those below them.
    fn folders(&self) -> BTreeSet<PathBuf>;
}

/// Looks until it is dropped, which does not wait for a look that is under way.
#[derive(Debug)]
pub(super) struct Watch<L> {
    look: Arc<Mutex<L>>,
    wake: SyncSender<Wake>,
}

enum Wake {
    Changed,
    Stop,
}

impl<L: Look> Watch<L> {
    /// Makes the first look before it returns.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(name: &str, mut look: L) -> io::Result<Self> {
        let soon = look.look();
        let look = Arc::new(Mutex::new(look));
        // Room for one: a change that is already announced need not be announced again.
        let (wake, woken) = sync_channel(1);
        let events = wake.clone();
        thread::Builder::new().name(name.to_owned()).spawn({
            let look = look.clone();
            move || run(&look, &woken, events, soon)
        })?;
        Ok(Self { look, wake })
    }

    /// Changes what is looked at, and looks, before it returns.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut L) -> R) -> R {
        let result = {
            let mut look = self.look.lock();
            let result = change(&mut look);
            look.look();
            result
        };
        // If it is full the thread will wake anyhow; it looks again, for what is held back and for new folders.
        let _ = self.wake.try_send(Wake::Changed);
        result
    }

    /// Reads what is known, without looking again.
    pub(super) fn read<R>(&self, read: impl FnOnce(&L) -> R) -> R {
        read(&self.look.lock())
    }
}

impl<L> Drop for Watch<L> {
    fn drop(&mut self) {
        // If it is full the thread wakes, and then finds that it is alone.
        let _ = self.wake.try_send(Wake::Stop);
    }
}

fn run<L: Look>(look: &Arc<Mutex<L>>, woken: &Receiver<Wake>, events: SyncSender<Wake>, soon: Option<Duration>) {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.is_ok_and(|event| !is_reading(event.kind)) {
            let _ = events.try_send(Wake::Changed);
        }
    })
    .inspect_err(|error| debug!(%error, "no file events, looking every second"))
    .ok();
    let mut watched = BTreeSet::new();
    let mut pause = soon.unwrap_or(POLL);
    loop {
        if let Some(watcher) = &mut watcher {
            let before = watched.len();
            rewatch(watcher, &mut watched, look.lock().folders());
            if watched.len() > before {
                // What changed between the look and the watch was not announced.
                pause = Duration::ZERO;
            }
        }
        match woken.recv_timeout(pause) {
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(Wake::Changed) => {
                let first = Instant::now();
                while first.elapsed() < MAX_QUIET {
                    match woken.recv_timeout(QUIET) {
                        Ok(Wake::Changed) => {}
                        Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                        Err(RecvTimeoutError::Timeout) => break,
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        // The owner is gone and its message found no room.
        if Arc::strong_count(look) == 1 {
            return;
        }
        let began = Instant::now();
        let soon = look.lock().look();
        pause = soon.unwrap_or_else(|| POLL.max(began.elapsed() * LOOK_SHARE));
    }
}

/// Opening and reading, which we do ourselves.
fn is_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn rewatch(watcher: &mut RecommendedWatcher, watched: &mut BTreeSet<PathBuf>, wanted: BTreeSet<PathBuf>) {
    for gone in watched.difference(&wanted) {
        // It may be gone itself.
        let _ = watcher.unwatch(gone);
    }
    watched.retain(|path| wanted.contains(path));
    for path in wanted {
        // A folder that cannot be watched (or is not there yet) is polled, and tried again at the next look.
        if !watched.contains(&path) && watcher.watch(&path, RecursiveMode::NonRecursive).is_ok() {
            watched.insert(path);
        }
    }
}
