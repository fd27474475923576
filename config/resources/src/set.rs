//! The store of objects.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use tidegate_core::{Kind, ResourceKey};

use crate::object::Object;

/// What a source of configuration tells. `Init` begins a full list, `InitDone` ends it: objects that were not in it are
/// gone then, not before.
#[derive(Clone, Debug)]
pub enum ResourceEvent {
    Init,
    InitApply(Object),
    InitDone,
    Apply(Object),
    Delete(ResourceKey),
}

/// Every object that is in use, by key. Cheap to clone: objects are shared. Iteration is in the order of keys (kind,
/// cluster, namespace, name), whatever order they came in.
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    objects: BTreeMap<ResourceKey, Arc<Object>>,
}

impl ResourceSet {
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores an object under its key and gives back the one that was there.
    pub fn insert(&mut self, object: impl Into<Arc<Object>>) -> Option<Arc<Object>> {
        let object = object.into();
        match self.objects.entry(object.key.clone()) {
            Entry::Occupied(mut slot) => Some(slot.insert(object)),
            Entry::Vacant(slot) => {
                slot.insert(object);
                None
            }
        }
    }

    pub fn remove(&mut self, key: &ResourceKey) -> Option<Arc<Object>> {
        self.objects.remove(key)
    }

    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    pub fn contains(&self, key: &ResourceKey) -> bool {
        self.objects.contains_key(key)
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// The objects of a kind, in the order of cluster, namespace, name.
    pub fn iter_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let first = ResourceKey::local(kind, "", "");
        self.objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(_, object)| object)
    }

    /// The objects of a kind in Istio's order of precedence: oldest first, then name, then namespace. An object
    /// without a timestamp counts as the oldest, so that files, which have none, go by name.
    pub fn by_creation(&self, kind: Kind) -> Vec<&Arc<Object>> {
        let mut objects: Vec<_> = self.iter_kind(kind).map(|object| (object.metadata.created(), object)).collect();
        objects.sort_by(|(a_created, a), (b_created, b)| {
            let rest = |object: &Arc<Object>| (object.key.name.clone(), object.key.namespace.clone());
            a_created.cmp(b_created).then_with(|| rest(a).cmp(&rest(b))).then_with(|| a.key.cmp(&b.key))
        });
        objects.into_iter().map(|(_, object)| object).collect()
    }
}

impl FromIterator<Arc<Object>> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = Arc<Object>>>(objects: I) -> Self {
        let mut set = Self::new();
        for object in objects {
            set.insert(object);
        }
        set
    }
}

impl FromIterator<Object> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        objects.into_iter().map(Arc::new).collect()
    }
}
