//! The store of objects.

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

/// Most objects of one run of a [`ResourceSet`]: what a change of one object copies.
const MAX_RUN: usize = 256;

/// Every object that is in use, by key. Iteration is in the order of keys (kind, cluster, namespace, name), whatever
/// order they came in.
///
/// Sets share what they have in common: a clone costs a few bytes for each hundred objects, a change copies one run of
/// at most 256 references, and [`ResourceSet::changes_since`] skips what is shared.
#[derive(Clone, Debug, Default)]
pub struct ResourceSet {
    /// Sorted by key; none is empty.
    runs: Vec<Arc<Vec<Arc<Object>>>>,
    len: usize,
}

/// What differs between two sets under one key. At least one of both is there.
#[derive(Clone, Debug)]
pub struct ObjectChange {
    pub old: Option<Arc<Object>>,
    pub new: Option<Arc<Object>>,
}

impl ResourceSet {
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores an object under its key and gives back the one that was there.
    pub fn insert(&mut self, object: impl Into<Arc<Object>>) -> Option<Arc<Object>> {
        let object = object.into();
        let at = self.run_of(&object.key);
        let Some(run) = self.runs.get_mut(at) else {
            self.runs.push(Arc::new(vec![object]));
            self.len += 1;
            return None;
        };
        let run = Arc::make_mut(run);
        match run.binary_search_by(|other| other.key.cmp(&object.key)) {
            Ok(place) => Some(std::mem::replace(&mut run[place], object)),
            Err(place) => {
                run.insert(place, object);
                self.len += 1;
                if run.len() > MAX_RUN {
                    let rest = run.split_off(MAX_RUN / 2);
                    self.runs.insert(at + 1, Arc::new(rest));
                }
                None
            }
        }
    }

    pub fn remove(&mut self, key: &ResourceKey) -> Option<Arc<Object>> {
        let at = self.run_of(key);
        let place = self.runs.get(at)?.binary_search_by(|other| other.key.cmp(key)).ok()?;
        let run = Arc::make_mut(&mut self.runs[at]);
        let removed = run.remove(place);
        if run.is_empty() {
            self.runs.remove(at);
        }
        self.len -= 1;
        Some(removed)
    }

    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Object>> {
        let run = self.runs.get(self.run_of(key))?;
        let place = run.binary_search_by(|other| other.key.cmp(key)).ok()?;
        run.get(place)
    }

    pub fn contains(&self, key: &ResourceKey) -> bool {
        self.get(key).is_some()
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.runs.iter().flat_map(|run| run.iter())
    }

    /// The objects of a kind, in the order of cluster, namespace, name.
    pub fn iter_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let (run, place) = self.begin_of(kind);
        let first = self.runs.get(run).map(|run| &run[place..]).unwrap_or_default();
        let others = self.runs.get(run + 1..).unwrap_or_default();
        first.iter().chain(others.iter().flat_map(|run| run.iter())).take_while(move |object| object.key.kind == kind)
    }

    /// How many objects of a kind there are. Does not look at them one by one.
    pub fn count(&self, kind: Kind) -> usize {
        // Runs of this kind alone are counted whole.
        let mut count = 0;
        for run in self.runs.iter().skip(self.begin_of(kind).0) {
            let begin = run.partition_point(|object| object.key.kind < kind);
            let end = run.partition_point(|object| object.key.kind <= kind);
            count += end - begin;
            if end < run.len() {
                break;
            }
        }
        count
    }

    /// What differs from an earlier set, in the order of keys. Objects are compared by identity, not by content. The
    /// cost is that of the runs that the two do not share.
    pub fn changes_since(&self, earlier: &ResourceSet) -> Vec<ObjectChange> {
        let mut changes = Vec::new();
        let (mut now, mut before) = (Cursor::default(), Cursor::default());
        loop {
            if now.place == 0
                && before.place == 0
                && let (Some(a), Some(b)) = (self.runs.get(now.run), earlier.runs.get(before.run))
                && Arc::ptr_eq(a, b)
            {
                now.run += 1;
                before.run += 1;
                continue;
            }
            match (now.get(self), before.get(earlier)) {
                (None, None) => return changes,
                (Some(new), Some(old)) if new.key == old.key => {
                    if !Arc::ptr_eq(new, old) {
                        changes.push(ObjectChange { old: Some(old.clone()), new: Some(new.clone()) });
                    }
                    now.advance(self);
                    before.advance(earlier);
                }
                (Some(new), old) if old.is_none_or(|old| new.key < old.key) => {
                    changes.push(ObjectChange { old: None, new: Some(new.clone()) });
                    now.advance(self);
                }
                (_, old) => {
                    changes.push(ObjectChange { old: old.cloned(), new: None });
                    before.advance(earlier);
                }
            }
        }
    }

    /// The objects of a kind in Istio's order of precedence: oldest first, then name, then namespace. An object
    /// without a timestamp counts as the oldest, so that files, which have none, go by name.
    pub fn by_creation(&self, kind: Kind) -> Vec<&Arc<Object>> {
        let mut objects: Vec<_> = self.iter_kind(kind).collect();
        sort_by_creation(&mut objects);
        objects
    }

    /// The run that has `key`, or should have it.
    fn run_of(&self, key: &ResourceKey) -> usize {
        let behind = self.runs.partition_point(|run| run.first().is_some_and(|first| first.key <= *key));
        behind.saturating_sub(1)
    }

    /// Where a kind begins; past the last run if there is none of it and of those behind it.
    fn begin_of(&self, kind: Kind) -> (usize, usize) {
        let run = self.runs.partition_point(|run| run.last().is_some_and(|last| last.key.kind < kind));
        let place = self.runs.get(run).map(|run| run.partition_point(|object| object.key.kind < kind));
        (run, place.unwrap_or_default())
    }
}

/// Sorts objects of one kind as [`ResourceSet::by_creation`] has them.
pub fn sort_by_creation(objects: &mut Vec<&Arc<Object>>) {
    let mut aged: Vec<_> = objects.iter().map(|object| (object.metadata.created(), *object)).collect();
    aged.sort_by(|(a_created, a), (b_created, b)| {
        a_created.cmp(b_created).then_with(|| precedence(a, b)).then_with(|| a.key.cmp(&b.key))
    });
    objects.clear();
    objects.extend(aged.into_iter().map(|(_, object)| object));
}

/// The order of [`ResourceSet::by_creation`] between two objects of one kind.
pub fn creation_order(a: &Object, b: &Object) -> std::cmp::Ordering {
    a.metadata.created().cmp(&b.metadata.created()).then_with(|| precedence(a, b)).then_with(|| a.key.cmp(&b.key))
}

fn precedence(a: &Object, b: &Object) -> std::cmp::Ordering {
    a.key.name.cmp(&b.key.name).then_with(|| a.key.namespace.cmp(&b.key.namespace))
}

/// A place in a set; `place` is within its run.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    run: usize,
    place: usize,
}

impl Cursor {
    fn get(self, set: &ResourceSet) -> Option<&Arc<Object>> {
        set.runs.get(self.run)?.get(self.place)
    }

    fn advance(&mut self, set: &ResourceSet) {
        self.place += 1;
        if set.runs.get(self.run).is_none_or(|run| self.place >= run.len()) {
            *self = Self { run: self.run + 1, place: 0 };
        }
    }
}

impl FromIterator<Arc<Object>> for ResourceSet {
    fn from_iter<I: IntoIterator<Item = Arc<Object>>>(objects: I) -> Self {
        // Builds everything at once, which matters for ten thousands; of equal keys the last stays, as with `insert`.
        let mut objects: Vec<_> = objects.into_iter().collect();
        objects.reverse();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects.dedup_by(|later, first| later.key == first.key);
        let len = objects.len();
        let runs = objects.chunks(MAX_RUN / 2).map(|run| Arc::new(run.to_vec())).collect();
        Self { runs, len }
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

    /// Whatever is done to a set, it is what a map would be, and the differences are those that a comparison finds.
    #[test]
    fn sets_and_their_differences_are_those_of_a_map() {
        use std::collections::BTreeMap;
        let mut random = 9u64;
        let mut next = |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        let template = set(&[("n1", "a", "~")]).iter().next().cloned().unwrap();
        let kinds = [Kind::VirtualService, Kind::Service, Kind::Secret];
        let mut now = ResourceSet::new();
        let mut map: BTreeMap<ResourceKey, Arc<Object>> = BTreeMap::new();
        for round in 0..60 {
            let (before, old) = (now.clone(), map.clone());
            for _ in 0..next(if round % 7 == 0 { 900 } else { 4 }) {
                let mut object = Object::clone(&template);
                object.key = ResourceKey::local(kinds[next(3) as usize], "n", &format!("o{}", next(700)));
                if next(3) == 0 {
                    let (a, b) = (now.remove(&object.key), map.remove(&object.key));
                    assert_eq!(a.is_some(), b.is_some());
                } else {
                    let object = Arc::new(object);
                    let key = object.key.clone();
                    assert_eq!(now.insert(object.clone()).is_some(), map.insert(key, object).is_some());
                }
            }
            assert!(now.iter().map(|o| &o.key).eq(map.keys()) && now.len() == map.len());
            assert!(now.iter().all(|object| now.get(&object.key).is_some_and(|it| Arc::ptr_eq(it, object))));
            for kind in Kind::ALL {
                let expected: Vec<_> = map.keys().filter(|key| key.kind == kind).collect();
                assert_eq!(now.iter_kind(kind).map(|object| &object.key).collect::<Vec<_>>(), expected);
                assert_eq!(now.count(kind), expected.len());
            }
            let found: Vec<_> = now.changes_since(&before).into_iter().map(|c| (c.old, c.new)).collect();
            let keys: std::collections::BTreeSet<_> = old.keys().chain(map.keys()).collect();
            let mut expected = Vec::new();
            for key in keys {
                let (a, b) = (old.get(key), map.get(key));
                if a.map(Arc::as_ptr) != b.map(Arc::as_ptr) {
                    expected.push((a.cloned(), b.cloned()));
                }
            }
            type Forms = (Option<Arc<Object>>, Option<Arc<Object>>);
            let pointers = |list: &[Forms]| -> Vec<_> {
                list.iter().map(|(a, b)| (a.as_ref().map(Arc::as_ptr), b.as_ref().map(Arc::as_ptr))).collect()
            };
            assert_eq!(pointers(&found), pointers(&expected), "round {round}");
            assert!(now.changes_since(&now.clone()).is_empty());
        }
    }
}
