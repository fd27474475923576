use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tidegate_snapshot::{DestinationService, Workload};

/// What metrics call one kind of destination: a service and the workload behind it.
///
/// Equal destinations are one value, over all clusters, endpoints and Snapshots that are in use at one time.
#[derive(Debug)]
pub(crate) struct Destination {
    id: u64,
    service: DestinationService,
    workload: Workload,
}

impl Destination {
    /// Never used twice by one [`Destinations`].
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn service(&self) -> &DestinationService {
        &self.service
    }

    pub(crate) fn workload(&self) -> &Workload {
        &self.workload
    }
}

/// All destinations in use. Used by the control plane only; holds none of them alive but the unknown one.
#[derive(Debug)]
pub(crate) struct Destinations {
    next_id: AtomicU64,
    hasher: RandomState,
    /// By hash: the model's types are compared, not hashed, since one of them has no `Hash`.
    by_hash: Mutex<AHashMap<u64, SmallVec<[Weak<Destination>; 1]>>>,
    unknown: Arc<Destination>,
}

impl Default for Destinations {
    fn default() -> Self {
        let service = DestinationService { host: String::new(), name: String::new(), namespace: String::new() };
        Self {
            next_id: AtomicU64::new(1),
            hasher: RandomState::new(),
            by_hash: Mutex::default(),
            unknown: Arc::new(Destination { id: 0, service, workload: Workload::default() }),
        }
    }
}

impl Destinations {
    /// The destination of requests that reached none.
    pub(crate) fn unknown(&self) -> &Arc<Destination> {
        &self.unknown
    }

    /// The one value for `service` and `workload`.
    pub(crate) fn intern(&self, service: &DestinationService, workload: &Workload) -> Arc<Destination> {
        let hash = self.hasher.hash_one((&service.host, &service.name, &service.namespace, workload));
        let mut by_hash = self.by_hash.lock();
        let slot = by_hash.entry(hash).or_default();
        if let Some(found) =
            slot.iter().filter_map(Weak::upgrade).find(|it| it.service == *service && it.workload == *workload)
        {
            return found;
        }
        slot.retain(|it| it.strong_count() > 0);
        let id = self.next_id.fetch_add(1, Relaxed);
        let destination = Arc::new(Destination { id, service: service.clone(), workload: workload.clone() });
        slot.push(Arc::downgrade(&destination));
        destination
    }

    /// Forgets destinations that nothing names any more.
    pub(crate) fn sweep(&self) {
        self.by_hash.lock().retain(|_, slot| {
            slot.retain(|it| it.strong_count() > 0);
            !slot.is_empty()
        });
    }
}
