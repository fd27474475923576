//! Metrics of TCP connections by label set.
//!
//! A connection finds its counters when it opens and when it closes, under a lock, and adds to them in between without.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use parking_lot::Mutex;

use super::destination::DestinationNames;
use super::{Destination, ResponseFlags};

/// How long counters stay after their destination has left every Snapshot: some scrapes still see their last values.
const RETENTION: Duration = Duration::from_secs(15 * 60);

/// What is counted of the connections of one label set. All only grow.
#[derive(Debug, Default)]
pub(crate) struct TcpCounters {
    opened: AtomicU64,
    closed: AtomicU64,
    /// To clients.
    sent: AtomicU64,
    /// From clients.
    received: AtomicU64,
}

impl TcpCounters {
    pub(crate) fn opened(&self) {
        self.opened.fetch_add(1, Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.closed.fetch_add(1, Relaxed);
    }

    /// Adds what a connection has carried since it told last.
    pub(crate) fn moved(&self, received: u64, sent: u64) {
        self.received.fetch_add(received, Relaxed);
        self.sent.fetch_add(sent, Relaxed);
    }

    pub(super) fn values(&self) -> [u64; 4] {
        [&self.opened, &self.closed, &self.sent, &self.received].map(|counter| counter.load(Relaxed))
    }
}

/// What tells label sets of TCP metrics apart: the destination's number and the flags.
pub(super) type TcpKey = (u64, ResponseFlags);

/// The counters of one gateway.
#[derive(Debug)]
pub(super) struct TcpTable {
    entries: Mutex<AHashMap<TcpKey, Entry>>,
    max: usize,
    /// What is counted for label sets that the table has no room for.
    overflow: Arc<TcpCounters>,
}

#[derive(Debug)]
struct Entry {
    names: DestinationNames,
    destination: Weak<Destination>,
    gone_since: Option<Instant>,
    counters: Arc<TcpCounters>,
}

impl TcpTable {
    pub(super) fn new(max: usize) -> Self {
        Self { entries: Mutex::default(), max, overflow: Arc::default() }
    }

    pub(super) fn counters(&self, destination: &Arc<Destination>, flags: ResponseFlags) -> Arc<TcpCounters> {
        let key = (destination.id(), flags);
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get(&key) {
            return entry.counters.clone();
        }
        if entries.len() >= self.max {
            sweep(&mut entries, Instant::now(), Duration::ZERO);
            if entries.len() >= self.max {
                return self.overflow.clone();
            }
        }
        let counters = Arc::<TcpCounters>::default();
        let entry = Entry {
            names: destination.names().clone(),
            destination: Arc::downgrade(destination),
            gone_since: None,
            counters: counters.clone(),
        };
        entries.insert(key, entry);
        counters
    }

    /// Forgets label sets whose destination left long ago.
    pub(super) fn sweep(&self, now: Instant) {
        sweep(&mut self.entries.lock(), now, RETENTION);
    }

    /// Connections that are missing in the metrics because there are too many label sets.
    pub(super) fn overflow(&self) -> u64 {
        self.overflow.values()[0]
    }

    /// Label sets as `render` writes them with their values (opened, closed, sent, received), sorted, each once.
    pub(super) fn collect(
        &self,
        render: impl Fn(ResponseFlags, &DestinationNames) -> String,
    ) -> Vec<(String, [u64; 4])> {
        let copy = |(key, entry): (&TcpKey, &Entry)| (key.1, entry.names.clone(), entry.counters.clone());
        let entries: Vec<_> = self.entries.lock().iter().map(copy).collect();
        let mut all: Vec<_> =
            entries.iter().map(|(flags, names, counters)| (render(*flags, names), counters.values())).collect();
        all.sort();
        // A destination that left and came back has two entries with the same labels.
        all.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1.iter_mut().zip(later.1).for_each(|(sum, value)| *sum += value);
            }
            same
        });
        all
    }
}

fn sweep(entries: &mut AHashMap<TcpKey, Entry>, now: Instant, retention: Duration) {
    entries.retain(|_, entry| {
        // Connections that are open hold their counters.
        if entry.destination.strong_count() > 0 || Arc::strong_count(&entry.counters) > 1 {
            entry.gone_since = None;
            return true;
        }
        now.saturating_duration_since(*entry.gone_since.get_or_insert(now)) < retention
    });
}

#[cfg(test)]
mod tests {
    use tidegate_snapshot::{DestinationService, Workload};

    use super::*;
    use crate::telemetry::Destinations;

    fn names(table: &TcpTable) -> Vec<(String, [u64; 4])> {
        table.collect(|flags, names| format!("{} {flags}", names.service().name))
    }

    #[test]
    fn counters_go_some_time_after_their_destination_and_its_last_connection() {
        let (table, destinations) = (TcpTable::new(2), Destinations::default());
        let service = DestinationService { host: "a".into(), name: "a".into(), namespace: "b".into() };
        let a = destinations.intern(&service, &Workload::default());
        let open = table.counters(&a, ResponseFlags::NONE);
        open.opened();
        open.moved(2, 3);
        table.counters(&a, ResponseFlags::NONE).moved(1, 0);
        table.counters(&a, ResponseFlags::NO_ROUTE_FOUND).closed();
        assert_eq!(names(&table), [("a -".into(), [1, 0, 3, 3]), ("a NR".into(), [0, 1, 0, 0])]);
        table.counters(&a, ResponseFlags::NO_HEALTHY_UPSTREAM).opened();
        assert_eq!((names(&table).len(), table.overflow()), (2, 1), "a full table counts what it cannot hold");

        drop(a);
        let start = Instant::now();
        table.sweep(start);
        table.sweep(start + RETENTION);
        assert_eq!(names(&table).len(), 1, "an open connection keeps its counters");
        drop(open);
        table.sweep(start + RETENTION);
        table.sweep(start + 2 * RETENTION);
        assert!(names(&table).is_empty());
    }
}
