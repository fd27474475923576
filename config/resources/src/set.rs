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
        // Builds the tree at once, which matters for ten thousands; of equal keys the last stays, as with `insert`.
        Self { objects: objects.into_iter().map(|object| (object.key.clone(), object)).collect() }
    }
}

impl FromIterator<Object> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = Object>>(objects: I) -> Self {
        objects.into_iter().map(Arc::new).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ParseOptions, parse};

    fn set(objects: &[(&str, &str, &str)]) -> ResourceSet {
        let text: String = objects
            .iter()
            .map(|(namespace, name, created)| {
                format!(
                    "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}, \
                     creationTimestamp: {created}}}\nspec: {{}}\n"
                )
            })
            .collect();
        let parsed = parse("f", &text, &ParseOptions::default());
        assert_eq!(parsed.diagnostics, []);
        parsed.objects.into_iter().collect()
    }

    fn names<'s>(objects: impl IntoIterator<Item = &'s Arc<Object>>) -> Vec<String> {
        objects.into_iter().map(|object| format!("{}/{}", object.key.namespace, object.key.name)).collect()
    }

    #[test]
    fn precedence_goes_by_age_then_name_then_namespace() {
        let set = set(&[
            ("n2", "a", "~"),
            ("n1", "b", "~"),
            ("n1", "a", "~"),
            ("n1", "old", "2020-01-01T00:00:00Z"),
            ("n1", "older", "2020-01-01T00:30:00+01:00"),
            ("n1", "new", "2024-01-01T00:00:00Z"),
        ]);
        assert_eq!(names(set.by_creation(Kind::Service)), ["n1/a", "n2/a", "n1/b", "n1/older", "n1/old", "n1/new"]);
        assert_eq!(names(set.iter_kind(Kind::Service)), ["n1/a", "n1/b", "n1/new", "n1/old", "n1/older", "n2/a"]);
        assert_eq!(set.iter_kind(Kind::Endpoints).count(), 0);
        assert_eq!(set.iter_kind(Kind::Gateway).count(), 0);
    }

    #[test]
    fn an_object_replaces_the_one_with_its_key() {
        let mut set = set(&[("n1", "a", "~")]);
        let key = ResourceKey::local(Kind::Service, "n1", "a");
        let again = set.get(&key).cloned().unwrap();
        assert!(set.insert(again).is_some());
        assert_eq!(set.len(), 1);
        assert!(set.remove(&key).is_some());
        assert!(set.remove(&key).is_none() && set.is_empty());
    }
}
