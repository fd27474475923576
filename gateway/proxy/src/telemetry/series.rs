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
use super::destination::DestinationNames;
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

/// One label set at the moment of a scrape.
#[derive(Debug)]
pub(super) struct Collected {
    pub(super) labels: Box<str>,
    shards: Vec<Arc<Series>>,
}

impl Collected {
    /// The sum of one of the histograms over all threads.
    pub(super) fn sum(&self, histogram: fn(&Series) -> &Histogram) -> Distribution {
        let mut sum = Distribution::default();
        self.shards.iter().for_each(|series| sum.add(histogram(series)));
        sum
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
    names: DestinationNames,
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
    // Requests are given what all workers share, so a worker's own share hangs on its thread. It caches and owns nothing.
    static THREAD: RefCell<ThreadSeries> = RefCell::default();
}

impl SeriesTable {
    pub(super) fn new(max_series: usize) -> Self {
        Self { entries: Mutex::default(), max_series, overflow: AtomicU64::new(0) }
    }

    /// Calls `record` with this thread's share of the series of `key`, whose destination is `destination`; counts an
    /// overflow if there is none and the table is full.
    pub(super) fn with(self: &Arc<Self>, key: SeriesKey, destination: &Arc<Destination>, record: impl FnOnce(&Series)) {
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
            match self.create(key, destination) {
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

    fn create(&self, key: SeriesKey, destination: &Arc<Destination>) -> Option<Arc<Series>> {
        let mut entries = self.entries.lock();
        if entries.len() >= self.max_series && !entries.contains_key(&key) {
            // Series that nothing can count in any more make room first.
            sweep(&mut entries, Instant::now(), Duration::ZERO);
            if entries.len() >= self.max_series {
                return None;
            }
        }
        let entry = entries.entry(key).or_insert_with(|| Entry {
            names: destination.names().clone(),
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

    /// Label sets as `render` writes them, sorted by label set, each once.
    pub(super) fn collect(&self, render: impl Fn(&SeriesKey, &DestinationNames) -> String) -> Vec<Collected> {
        // Counting goes on and only new series wait, so no more than pointers is copied under the lock.
        let copy = |(key, entry): (&SeriesKey, &Entry)| (*key, entry.names.clone(), entry.shards.clone());
        let entries: Vec<_> = self.entries.lock().iter().map(copy).collect();
        let mut all: Vec<Collected> = entries
            .into_iter()
            .map(|(key, names, shards)| Collected { labels: render(&key, &names).into(), shards })
            .collect();
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        // A destination that left and came back has two entries with the same labels.
        all.dedup_by(|later, earlier| {
            let same = later.labels == earlier.labels;
            if same {
                earlier.shards.append(&mut later.shards);
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

#[cfg(test)]
mod tests {
    use tidegate_snapshot::{DestinationService, Workload};

    use super::*;
    use crate::telemetry::{Destinations, RequestProtocol, ResponseFlags};

    fn service(name: &str) -> DestinationService {
        DestinationService { host: name.into(), name: name.into(), namespace: "default".into() }
    }

    fn count(table: &Arc<SeriesTable>, destination: &Arc<Destination>, code: u16) {
        let key = SeriesKey {
            destination: destination.id(),
            flags: ResponseFlags::NONE,
            code,
            protocol: RequestProtocol::Http,
        };
        table.with(key, destination, |series| series.duration.record(1));
    }

    fn counts(table: &SeriesTable) -> Vec<(String, u64)> {
        let all = table.collect(|key, names| format!("{} {}", names.service().name, key.code));
        all.into_iter().map(|it| (it.labels.to_string(), it.sum(|series| &series.duration).count())).collect()
    }

    #[test]
    fn a_series_goes_some_time_after_its_destination() {
        let (table, destinations) = (Arc::new(SeriesTable::new(10)), Destinations::default());
        let start = Instant::now();
        let a = destinations.intern(&service("a"), &Workload::default());
        count(&table, &a, 200);
        table.sweep(start + 2 * RETENTION);
        assert_eq!(table.len(), 1, "in use");
        drop(a);
        table.sweep(start);
        table.sweep(start + RETENTION / 2);
        assert_eq!(counts(&table), [("a 200".to_owned(), 1)]);

        // It comes back before it is forgotten: one line still.
        let a = destinations.intern(&service("a"), &Workload::default());
        count(&table, &a, 200);
        assert_eq!((table.len(), counts(&table)), (2, vec![("a 200".to_owned(), 2)]));
        table.sweep(start + RETENTION);
        assert_eq!(counts(&table), [("a 200".to_owned(), 1)]);
        assert!(THREAD.with_borrow(|thread| thread.series.len() == 2), "the thread has not noticed");
        (0..MISSES_BETWEEN_SWEEPS as u16).for_each(|code| count(&table, &a, 300 + code));
        assert!(THREAD.with_borrow(|thread| thread.series.values().all(|series| !series.retired.load(Relaxed))));
    }

    #[test]
    fn a_full_table_counts_what_it_cannot_hold_and_makes_room_when_it_can() {
        let (table, destinations) = (Arc::new(SeriesTable::new(2)), Destinations::default());
        let [a, b] = ["a", "b"].map(|name| destinations.intern(&service(name), &Workload::default()));
        [200, 201, 202, 202].into_iter().for_each(|code| count(&table, &a, code));
        count(&table, &b, 200);
        assert_eq!((table.len(), table.overflow()), (2, 3));
        count(&table, &a, 200);
        assert_eq!(counts(&table), [("a 200".to_owned(), 2), ("a 201".to_owned(), 1)]);
        drop(a);
        count(&table, &b, 200);
        assert_eq!((counts(&table), table.overflow()), (vec![("b 200".to_owned(), 1)], 3));
    }
}
