//! Request metrics by label set.
//!
//! Every worker thread has its own copy of a series and is its only writer; a thread finds its copy in a map of its own.
//! The table of all series is locked only when a thread meets a label set for the first time, and by scrapes.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use parking_lot::Mutex;

use super::Destination;
use super::histogram::{Distribution, Histogram};

/// How long a series stays after its destination has left every Snapshot: some scrapes still see its last values.
const RETENTION: Duration = Duration::from_secs(15 * 60);

/// How many misses a thread's map takes before it looks for retired series.
const MISSES_BETWEEN_SWEEPS: usize = 64;

/// What distinguishes the series of one gateway, small enough to hash in a few nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct SeriesKey {
    pub(super) destination: u64,
    pub(super) flags: super::ResponseFlags,
    pub(super) code: u16,
    pub(super) protocol: super::RequestProtocol,
}

/// One thread's share of one label set.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) duration: Histogram,
    pub(super) request_bytes: Histogram,
    pub(super) response_bytes: Histogram,
    /// The table has forgotten the series, so its thread may, too.
    retired: AtomicBool,
}

/// The sums of one label set over all threads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct SeriesTotals {
    pub(super) duration: Distribution,
    pub(super) request_bytes: Distribution,
    pub(super) response_bytes: Distribution,
}

impl SeriesTotals {
    fn add(&mut self, series: &Series) {
        self.duration.add(&series.duration);
        self.request_bytes.add(&series.request_bytes);
        self.response_bytes.add(&series.response_bytes);
    }

    fn merge(&mut self, other: &SeriesTotals) {
        self.duration.merge(&other.duration);
        self.request_bytes.merge(&other.request_bytes);
        self.response_bytes.merge(&other.response_bytes);
    }
}

/// All series of one gateway.
#[derive(Debug)]
pub(super) struct SeriesTable {
    entries: Mutex<AHashMap<SeriesKey, Entry>>,
    max_series: usize,
    /// Requests that were not counted because the table was full.
    overflow: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    /// Rendered once.
    labels: Arc<str>,
    destination: Weak<Destination>,
    gone_since: Option<Instant>,
    /// One for each thread that met the label set.
    shards: Vec<Arc<Series>>,
}

#[derive(Default)]
struct ThreadSeries {
    /// The table that the series belong to. A pointer that is held cannot be used for another table.
    owner: Weak<SeriesTable>,
    series: AHashMap<SeriesKey, Arc<Series>>,
    misses: usize,
}

thread_local! {
    // The one static of the crate: Pingora hands the same proxy object to a request wherever it runs, so a worker's own
    // state can hang on the thread only. It caches and owns nothing.
    static THREAD: RefCell<ThreadSeries> = RefCell::default();
}

impl SeriesTable {
    pub(super) fn new(max_series: usize) -> Self {
        Self { entries: Mutex::default(), max_series, overflow: AtomicU64::new(0) }
    }

    /// Calls `record` with this thread's share of the series of `key`; counts an overflow if there is none and the
    /// table is full. `labels` is asked for once in the life of a series.
    pub(super) fn with(
        self: &Arc<Self>,
        key: SeriesKey,
        destination: &Arc<Destination>,
        labels: impl FnOnce() -> String,
        record: impl FnOnce(&Series),
    ) {
        // The thread's map is gone only while the thread ends, when no request can run on it.
        let _ = THREAD.try_with(|thread| {
            let mut thread = thread.borrow_mut();
            if Weak::as_ptr(&thread.owner) != Arc::as_ptr(self) {
                *thread = ThreadSeries { owner: Arc::downgrade(self), ..ThreadSeries::default() };
            }
            if let Some(series) = thread.series.get(&key) {
                return record(series);
            }
            thread.misses += 1;
            if thread.misses >= MISSES_BETWEEN_SWEEPS {
                thread.misses = 0;
                thread.series.retain(|_, series| !series.retired.load(Relaxed));
            }
            match self.create(key, destination, labels) {
                Some(series) => {
                    record(&series);
                    thread.series.insert(key, series);
                }
                None => {
                    self.overflow.fetch_add(1, Relaxed);
                }
            }
        });
    }

    fn create(
        &self,
        key: SeriesKey,
        destination: &Arc<Destination>,
        labels: impl FnOnce() -> String,
    ) -> Option<Arc<Series>> {
        let mut entries = self.entries.lock();
        if entries.len() >= self.max_series && !entries.contains_key(&key) {
            // Series that nothing can count in any more make room first.
            sweep(&mut entries, Instant::now(), Duration::ZERO);
            if entries.len() >= self.max_series {
                return None;
            }
        }
        let entry = entries.entry(key).or_insert_with(|| Entry {
            labels: labels().into(),
            destination: Arc::downgrade(destination),
            gone_since: None,
            shards: Vec::new(),
        });
        let series = Arc::new(Series::default());
        entry.shards.push(series.clone());
        Some(series)
    }

    /// Forgets series whose destination left every Snapshot some time before `now`.
    pub(super) fn sweep(&self, now: Instant) {
        sweep(&mut self.entries.lock(), now, RETENTION);
    }

    pub(super) fn overflow(&self) -> u64 {
        self.overflow.load(Relaxed)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Label sets with their sums, sorted by label set, each once.
    pub(super) fn collect(&self) -> Vec<(Arc<str>, SeriesTotals)> {
        // Counting goes on and only new series wait, so no more than pointers is copied under the lock.
        let entries: Vec<_> =
            self.entries.lock().values().map(|entry| (entry.labels.clone(), entry.shards.clone())).collect();
        let mut all: Vec<(Arc<str>, SeriesTotals)> = entries
            .into_iter()
            .map(|(labels, shards)| {
                let mut totals = SeriesTotals::default();
                shards.iter().for_each(|series| totals.add(series));
                (labels, totals)
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        // A destination that left and came back has two entries with the same labels.
        all.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1.merge(&later.1);
            }
            same
        });
        all
    }
}

fn sweep(entries: &mut AHashMap<SeriesKey, Entry>, now: Instant, retention: Duration) {
    entries.retain(|_, entry| {
        if entry.destination.strong_count() > 0 {
            return true;
        }
        let gone_since = *entry.gone_since.get_or_insert(now);
        let keep = now.saturating_duration_since(gone_since) < retention;
        if !keep {
            entry.shards.iter().for_each(|series| series.retired.store(true, Relaxed));
        }
        keep
    });
}
