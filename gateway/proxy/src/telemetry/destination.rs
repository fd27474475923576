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
    names: DestinationNames,
}

/// The names of a destination, cheap to keep when it is gone.
#[derive(Clone, Debug)]
pub(super) struct DestinationNames {
    service: Arc<DestinationService>,
    /// None if nothing is known of it.
    workload: Option<Arc<Workload>>,
}

impl Destination {
    /// Never used twice by one [`Destinations`].
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn names(&self) -> &DestinationNames {
        &self.names
    }

    /// Whether this is the destination for `service` and `workload`.
    pub(crate) fn is(&self, service: &DestinationService, workload: &Workload) -> bool {
        *self.names.service == *service
            && match &self.names.workload {
                Some(own) => **own == *workload,
                None => *workload == Workload::default(),
            }
    }
}

impl DestinationNames {
    pub(super) fn service(&self) -> &DestinationService {
        &self.service
    }

    pub(super) fn workload(&self) -> Option<&Workload> {
        self.workload.as_deref()
    }
}

/// All destinations in use. Used by the control plane only; holds none of them alive but the unknown one.
#[derive(Debug)]
pub(crate) struct Destinations {
    next_id: AtomicU64,
    hasher: RandomState,
    /// By hash: the model's types are compared, not hashed, since one of them has no `Hash`.
    by_hash: Mutex<ByHash>,
    unknown: Arc<Destination>,
}

type ByHash = AHashMap<u64, SmallVec<[Weak<Destination>; 1]>>;

impl Default for Destinations {
    fn default() -> Self {
        let service = DestinationService { host: String::new(), name: String::new(), namespace: String::new() };
        Self {
            next_id: AtomicU64::new(1),
            hasher: RandomState::new(),
            by_hash: Mutex::default(),
            unknown: Arc::new(Destination {
                id: 0,
                names: DestinationNames { service: Arc::new(service), workload: None },
            }),
        }
    }
}

impl Destinations {
    /// The destination of requests that reached none.
    pub(crate) fn unknown(&self) -> &Arc<Destination> {
        &self.unknown
    }

    /// The one value for `service` and `workload`. It takes least memory if the one for the service and an unknown
    /// workload exists already.
    pub(crate) fn intern(&self, service: &DestinationService, workload: &Workload) -> Arc<Destination> {
        let mut by_hash = self.by_hash.lock();
        if let Some(found) = self.find(&by_hash, service, workload) {
            return found;
        }
        let names = if *workload == Workload::default() {
            DestinationNames { service: Arc::new(service.clone()), workload: None }
        } else {
            let service = match self.find(&by_hash, service, &Workload::default()) {
                Some(of_service) => of_service.names.service.clone(),
                None => Arc::new(service.clone()),
            };
            DestinationNames { service, workload: Some(Arc::new(workload.clone())) }
        };
        let destination = Arc::new(Destination { id: self.next_id.fetch_add(1, Relaxed), names });
        let slot = by_hash.entry(self.hash(service, workload)).or_default();
        slot.retain(|it| it.strong_count() > 0);
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

    fn find(&self, by_hash: &ByHash, service: &DestinationService, workload: &Workload) -> Option<Arc<Destination>> {
        let slot = by_hash.get(&self.hash(service, workload))?;
        slot.iter().filter_map(Weak::upgrade).find(|it| it.is(service, workload))
    }

    fn hash(&self, service: &DestinationService, workload: &Workload) -> u64 {
        self.hasher.hash_one((&service.host, &service.name, &service.namespace, workload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_destinations_are_one_while_they_are_in_use() {
        let all = Destinations::default();
        let service = |name: &str| DestinationService { host: name.into(), name: name.into(), namespace: "n".into() };
        let workload = |name: &str| Workload { name: name.into(), ..Workload::default() };
        let a = all.intern(&service("a"), &Workload::default());
        let a1 = all.intern(&service("a"), &workload("1"));
        assert!(Arc::ptr_eq(&a1, &all.intern(&service("a"), &workload("1"))));
        assert!(Arc::ptr_eq(&a.names.service, &a1.names.service));
        let others = [
            all.intern(&service("a"), &workload("2")),
            all.intern(&service("b"), &workload("1")),
            all.unknown().clone(),
        ];
        assert!(others.iter().all(|other| other.id() != a1.id()));

        let id = a1.id();
        drop((a, a1, others));
        all.sweep();
        assert!(all.by_hash.lock().is_empty());
        assert_ne!(all.intern(&service("a"), &workload("1")).id(), id, "identities are never used twice");
    }
}
