//! When to look: a thread that owns the [`FileSource`], woken by inotify, by request and by time.
//!
//! Three things make it safe to rely on: a pass over everything every few seconds finds what events missed; a folder
//! is looked at again after its watch was placed; and a file that is open for writing is left alone until it is
//! closed, so that half of a file is not mistaken for the whole.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::watch;

use super::source::{FileSource, Look, Progress};
use super::walk::FolderIdentity;
use super::{Root, View};

/// Files that are known to be open for writing; beyond it they are read as they are.
const MAX_WRITING: usize = 4096;

/// Files that are looked at by themselves; beyond it everything is.
const MAX_TOUCHED: usize = 256;

/// The times of a [`Watcher`].
#[derive(Clone, Copy, Debug)]
pub struct WatchTiming {
    /// Silence after which a change counts as done.
    pub quiet: Duration,
    /// Longest wait for that silence.
    pub max_delay: Duration,
    /// How long after its last write a file that stays open is left alone: longer than a slow writer pauses (a copy over
    /// a network, an editor on a busy machine), for half of a file may be valid and lack the other half's objects.
    pub hold: Duration,
    /// Time between two passes over everything.
    pub rescan: Duration,
    /// The same while something cannot be watched.
    pub poll: Duration,
}

impl Default for WatchTiming {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(20),
            max_delay: Duration::from_millis(100),
            hold: Duration::from_secs(3),
            rescan: Duration::from_secs(5),
            poll: Duration::from_secs(1),
        }
    }
}

/// Keeps a [`View`] of a source current. Dropping it stops the thread without waiting for it.
#[derive(Debug)]
pub struct Watcher {
    shared: Arc<Shared>,
    views: watch::Receiver<Option<Arc<View>>>,
    progress: Arc<Progress>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl Watcher {
    /// Takes the source over and begins with its first look. Where inotify is not to be had the source is looked at
    /// every [`WatchTiming::poll`] instead.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(source: FileSource, timing: WatchTiming) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, views) = watch::channel(None);
        let progress = source.progress();
        let thread = thread::Builder::new().name("config-files".into()).spawn({
            let shared = shared.clone();
            move || Looker::new(source, shared, timing).run(&sender)
        })?;
        Ok(Self { shared, views, progress, thread: Mutex::new(Some(thread)) })
    }

    /// The latest view; none before the first look is done. A view that equals the one before it is not sent again.
    pub fn views(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.views.clone()
    }

    /// Asks for a look now.
    pub fn rescan(&self) {
        self.shared.lock().asked = true;
        self.shared.wake.notify_all();
    }

    /// How the present look gets on.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Stops the thread and waits for it for at most `patience`: one that hangs in a dead file system is left behind.
    pub fn stop(&self, patience: Duration) {
        self.shared.stop();
        let deadline = Instant::now() + patience;
        let mut pending = self.shared.lock();
        while !pending.ended {
            let Some(rest) = deadline.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) else {
                return;
            };
            pending = self.shared.wake.wait_timeout(pending, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(pending);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic of the thread was already printed; there is nothing left to save.
            drop(thread.join());
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    wake: Condvar,
}

/// What happened since the last look.
#[derive(Debug, Default)]
struct Pending {
    /// First and latest event that was not looked at.
    dirty: Option<(Instant, Instant)>,
    /// What the events named.
    touched: Touched,
    /// Files that were written to and not closed since, with the time of the last write.
    writing: HashMap<PathBuf, Instant>,
    interest: Interest,
    asked: bool,
    stopped: bool,
    ended: bool,
}

/// What changed since the last look.
#[derive(Clone, Debug, Default)]
struct Touched {
    /// Entries of folders that are looked at. Absolute paths.
    entries: HashSet<PathBuf>,
    /// Whether it may be anything.
    all: bool,
}

impl Touched {
    fn everything() -> Self {
        Self { entries: HashSet::new(), all: true }
    }

    fn add(&mut self, path: PathBuf) {
        if !self.all && self.entries.len() < MAX_TOUCHED {
            self.entries.insert(path);
        } else {
            *self = Self::everything();
        }
    }
}

/// What to look at, and what to leave alone of it.
#[derive(Debug)]
struct Task {
    touched: Touched,
    /// Files that are being written.
    held: HashSet<PathBuf>,
}

/// Which events matter. Absolute paths.
#[derive(Debug, Default)]
struct Interest {
    /// Everything in these folders.
    folders: HashSet<PathBuf>,
    /// These and nothing beside them: roots, and the folders on the way to roots.
    names: HashSet<PathBuf>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Whatever a panicking holder left behind is a set of hints; the next pass over everything corrects it.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.wake.notify_all();
    }

    fn handle(&self, event: notify::Result<Event>) {
        let now = Instant::now();
        let mut pending = self.lock();
        if pending.note(event, now) {
            self.wake.notify_all();
        }
    }

    /// Sleeps until it is time to look. Returns at what, none if it is time to stop.
    fn wait(&self, timing: &WatchTiming, next_pass: Instant) -> Option<Task> {
        let mut pending = self.lock();
        loop {
            let now = Instant::now();
            if pending.stopped {
                return None;
            }
            let expired = pending.expire(timing, now);
            let settled = pending.settled_at(timing);
            if pending.asked || expired || now >= next_pass || settled.is_some_and(|at| now >= at) {
                let is_pass = pending.asked || expired || now >= next_pass;
                pending.asked = false;
                pending.dirty = None;
                let touched = std::mem::take(&mut pending.touched);
                let touched = if is_pass { Touched::everything() } else { touched };
                return Some(Task { touched, held: pending.held() });
            }
            let mut until = settled.map_or(next_pass, |at| at.min(next_pass));
            if let Some(oldest) = pending.writing.values().min() {
                until = until.min(*oldest + timing.hold);
            }
            let rest = until.saturating_duration_since(now);
            pending = self.wake.wait_timeout(pending, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Pending {
    /// Whether the event can mean a change.
    fn note(&mut self, event: notify::Result<Event>, now: Instant) -> bool {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, "watching the configuration failed; looking at all of it");
                self.asked = true;
                return true;
            }
        };
        if event.need_rescan() {
            self.asked = true;
            return true;
        }
        let mut news = false;
        for path in event.paths {
            let named = self.interest.names.contains(&path);
            let inside = path.parent().is_some_and(|parent| self.interest.folders.contains(parent));
            if !named && !inside && !self.interest.folders.contains(&path) {
                continue;
            }
            let touched = match event.kind {
                EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                    self.writing.remove(&path);
                    news = true;
                    path
                }
                // Everything else that only looks, our own reading before all.
                EventKind::Access(_) => continue,
                EventKind::Modify(ModifyKind::Data(_)) if self.writing.len() < MAX_WRITING => {
                    self.writing.insert(path.clone(), now);
                    path
                }
                _ => {
                    self.writing.remove(&path);
                    news = true;
                    path
                }
            };
            // A root, a folder itself, or something on the way to one.
            if named || !inside || self.interest.folders.contains(&touched) {
                self.touched = Touched::everything();
            } else {
                self.touched.add(touched);
            }
        }
        if news {
            let first = self.dirty.map_or(now, |(first, _)| first);
            self.dirty = Some((first, now));
        }
        // Even if there is nothing to look at yet, the time to wake up may be another.
        news || !self.writing.is_empty()
    }

    fn settled_at(&self, timing: &WatchTiming) -> Option<Instant> {
        self.dirty.map(|(first, last)| (last + timing.quiet).min(first + timing.max_delay))
    }

    /// Gives up on files that stay open; whether there was one.
    fn expire(&mut self, timing: &WatchTiming, now: Instant) -> bool {
        let before = self.writing.len();
        self.writing.retain(|_, last| now < *last + timing.hold);
        self.writing.len() < before
    }

    fn held(&self) -> HashSet<PathBuf> {
        self.writing.keys().cloned().collect()
    }
}

/// The thread's own state.
struct Looker {
    source: FileSource,
    shared: Arc<Shared>,
    timing: WatchTiming,
    notify: Option<RecommendedWatcher>,
    watched: HashMap<PathBuf, FolderIdentity>,
    /// Folders whose watch was refused.
    refused: HashSet<PathBuf>,
}

impl Looker {
    fn new(source: FileSource, shared: Arc<Shared>, timing: WatchTiming) -> Self {
        let handler = shared.clone();
        let notify = notify::recommended_watcher(move |event| handler.handle(event))
            .inspect_err(|error| {
                let interval = timing.poll;
                tracing::warn!(%error, ?interval, "the configuration cannot be watched; looking at it again and again");
            })
            .ok();
        Self { source, shared, timing, notify, watched: HashMap::new(), refused: HashSet::new() }
    }

    fn run(mut self, views: &watch::Sender<Option<Arc<View>>>) {
        // Also when a panic unwinds: `stop` must not wait in vain.
        let _ended = Ended(self.shared.clone());
        let mut task = Task { touched: Touched::everything(), held: HashSet::new() };
        let mut passed = Instant::now();
        loop {
            let look = self.look(task);
            if look.is_whole() {
                passed = Instant::now();
            }
            let view = self.source.accept(look);
            views.send_if_modified(|last| {
                if last.as_deref().is_some_and(|last| last.is_same(&view)) {
                    return false;
                }
                *last = Some(Arc::new(view));
                true
            });
            let polling = self.notify.is_none() || !self.refused.is_empty();
            let pause = if polling { self.timing.poll } else { self.timing.rescan };
            // Looks at single files do not put the pass over everything off.
            match self.shared.wait(&self.timing, passed + pause) {
                Some(next) => task = next,
                None => return,
            }
        }
    }

    /// Looks until no folder is new to the watch and no file that was read is being written.
    fn look(&mut self, task: Task) -> Look {
        let Task { touched, mut held } = task;
        if !touched.all {
            for _ in 0..3 {
                let Some(look) = self.source.glance(&touched.entries, &held) else { break };
                let writing = self.shared.lock().held();
                if !is_torn(&look, &writing) {
                    return look;
                }
                held.extend(writing);
            }
        }
        let mut look = self.source.look(&held);
        // A folder that keeps being replaced must not keep us here; its events bring us back.
        for _ in 0..3 {
            let placed = self.place_watches(&look);
            let writing = self.shared.lock().held();
            if !placed && !is_torn(&look, &writing) {
                break;
            }
            held.extend(writing);
            look = self.source.look(&held);
        }
        look
    }

    /// Watches what the look saw, and nothing else. Returns whether a watch was placed, so that changes between the
    /// look and the watch would be missed.
    fn place_watches(&mut self, look: &Look) -> bool {
        let wanted = Wanted::of(self.source.roots(), look);
        let mut placed = false;
        {
            let mut pending = self.shared.lock();
            pending.interest = Interest { folders: wanted.inside, names: wanted.names };
        }
        let Some(notify) = &mut self.notify else { return false };
        let gone: Vec<_> = self
            .watched
            .iter()
            .filter(|(path, id)| wanted.folders.get(*path) != Some(*id))
            .map(|(p, _)| p.clone())
            .collect();
        for path in gone {
            self.watched.remove(&path);
            // The folder may be gone, and its watch with it.
            drop(notify.unwatch(&path));
        }
        self.refused.retain(|path| wanted.folders.contains_key(path));
        for (path, identity) in wanted.folders {
            if self.watched.contains_key(&path) {
                continue;
            }
            match notify.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.refused.remove(&path);
                    self.watched.insert(path, identity);
                    placed = true;
                }
                Err(error) => {
                    if self.refused.insert(path.clone()) {
                        let (folder, interval) = (path.display(), self.timing.poll);
                        tracing::warn!(%folder, %error, ?interval, "cannot watch a folder; looking at it again and again");
                    }
                }
            }
        }
        placed
    }
}

/// Whether a file was written while it was read.
fn is_torn(look: &Look, writing: &HashSet<PathBuf>) -> bool {
    look.read.iter().any(|path| std::path::absolute(path).is_ok_and(|path| writing.contains(&path)))
}

struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.wake.notify_all();
    }
}

/// What to watch for a look. Absolute paths.
#[derive(Default)]
struct Wanted {
    folders: HashMap<PathBuf, FolderIdentity>,
    inside: HashSet<PathBuf>,
    names: HashSet<PathBuf>,
}

impl Wanted {
    fn of(roots: &[Root], look: &Look) -> Self {
        let mut wanted = Self::default();
        for (path, identity) in &look.folders {
            let Ok(path) = std::path::absolute(path) else { continue };
            wanted.inside.insert(path.clone());
            wanted.folders.insert(path, *identity);
        }
        for path in &look.link_targets {
            if let Some(identity) = identity(path) {
                wanted.inside.insert(path.clone());
                wanted.folders.insert(path.clone(), identity);
            }
        }
        for root in roots {
            let Ok(path) = std::path::absolute(&root.path) else { continue };
            // The folder in which the root appears, disappears, and is swapped if it is a link; if that is missing
            // too, the nearest one that exists.
            for ancestor in path.ancestors().skip(1) {
                if let Some(identity) = identity(ancestor) {
                    wanted.folders.entry(ancestor.to_owned()).or_insert(identity);
                    break;
                }
            }
            wanted.names.extend(path.ancestors().map(Path::to_owned));
        }
        wanted
    }
}

fn identity(path: &Path) -> Option<FolderIdentity> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    metadata.is_dir().then(|| (metadata.dev(), metadata.ino()))
}
