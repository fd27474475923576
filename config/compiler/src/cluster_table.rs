//! The clusters that routes name, and how they call them.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashMap;
use tidegate_snapshot::{Cluster, ClusterIndex, ClusterRef};

use crate::clusters::{Shape, Target, Targets};

/// Which clusters routes name, and which hosts they look at, with how many owners of routes do.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Subsets by host and port.
    ports: BTreeMap<(String, u16), BTreeMap<String, usize>>,
    hosts: AHashMap<String, HostUse>,
}

#[derive(Debug)]
struct HostUse {
    users: usize,
    shape: Option<Shape>,
}

/// What became of it when owners came and went.
#[derive(Debug, Default)]
pub(crate) struct WantedChanges {
    /// Hosts and ports whose subsets are others than before.
    pub(crate) ports: BTreeSet<(String, u16)>,
    /// Hosts that nobody looks at any more.
    pub(crate) left: Vec<String>,
    /// Hosts that nobody looked at before.
    pub(crate) new: Vec<String>,
}

impl Wanted {
    /// Counts an owner's targets.
    pub(crate) fn add(&mut self, targets: Targets, changes: &mut WantedChanges) {
        for (host, port, subset) in targets.wanted {
            let count = self.ports.entry((host.clone(), port)).or_default().entry(subset).or_default();
            *count += 1;
            if *count == 1 {
                changes.ports.insert((host, port));
            }
        }
        for host in targets.hosts {
            match self.hosts.get_mut(&host) {
                Some(used) => used.users += 1,
                None => {
                    changes.new.push(host.clone());
                    self.hosts.insert(host, HostUse { users: 1, shape: None });
                }
            }
        }
    }

    /// Takes back what [`Wanted::add`] counted of an owner. Adding comes first where one is replaced, so that what stays
    /// is not gone in between.
    pub(crate) fn remove(&mut self, targets: Targets, changes: &mut WantedChanges) {
        for (host, port, subset) in targets.wanted {
            let Entry::Occupied(mut subsets) = self.ports.entry((host, port)) else { continue };
            let Some(count) = subsets.get_mut().get_mut(&subset) else { continue };
            *count -= 1;
            if *count == 0 {
                changes.ports.insert(subsets.key().clone());
                subsets.get_mut().remove(&subset);
                if subsets.get().is_empty() {
                    subsets.remove();
                }
            }
        }
        for host in targets.hosts {
            let Some(used) = self.hosts.get_mut(&host) else { continue };
            used.users -= 1;
            if used.users == 0 {
                self.hosts.remove(&host);
                changes.left.push(host);
            }
        }
    }

    /// Hosts that routes look at.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = &String> {
        self.hosts.keys()
    }

    pub(crate) fn uses(&self, host: &str) -> bool {
        self.hosts.contains_key(host)
    }

    /// What routes were made with of a host.
    pub(crate) fn shape(&self, host: &str) -> Option<&Shape> {
        self.hosts.get(host)?.shape.as_ref()
    }

    pub(crate) fn set_shape(&mut self, host: &str, shape: Shape) {
        if let Some(used) = self.hosts.get_mut(host) {
            used.shape = Some(shape);
        }
    }

    /// Wanted subsets of a host and port, sorted; the empty one is the whole.
    pub(crate) fn subsets(&self, host: &str, port: u16) -> impl Iterator<Item = &String> {
        // A borrowed pair cannot look up a pair with an owned name, so the name is cloned.
        self.ports.get(&(host.to_owned(), port)).into_iter().flat_map(BTreeMap::keys)
    }

    /// Ports of a host that have clusters.
    pub(crate) fn ports_of(&self, host: &str) -> impl Iterator<Item = u16> {
        let range = (host.to_owned(), 0)..=(host.to_owned(), u16::MAX);
        self.ports.range(range).map(|((_, port), _)| *port)
    }
}

/// The clusters of a host and port.
pub(crate) type OfPort = ((String, u16), Vec<Arc<Cluster>>);

/// The clusters of a Snapshot, sorted by name, each with the index that routes call it by. It keeps that while others come
/// and go.
#[derive(Debug, Default)]
pub(crate) struct ClusterTable {
    clusters: Vec<Arc<Cluster>>,
    /// In the order of `clusters`.
    indices: Vec<ClusterIndex>,
    by_name: AHashMap<Arc<str>, ClusterIndex>,
    /// Names by host and port, sorted.
    by_port: AHashMap<(String, u16), Vec<Arc<str>>>,
    /// Indices that were given and are free.
    free: Vec<ClusterIndex>,
}

impl ClusterTable {
    /// Puts `made` in the place of whatever clusters the hosts and ports had.
    pub(crate) fn replace(&mut self, made: Vec<OfPort>) {
        if self.clusters.is_empty() {
            // Nobody calls any by an index yet, so that each can have its place for one.
            return self.fill(made);
        }
        for (port, clusters) in made {
            let before = self.by_port.remove(&port).unwrap_or_default();
            for name in before.iter().filter(|name| !clusters.iter().any(|cluster| cluster.name == **name)) {
                self.remove(name);
            }
            let names: Vec<_> = clusters.iter().map(|cluster| cluster.name.clone()).collect();
            clusters.into_iter().for_each(|cluster| self.put(cluster));
            if !names.is_empty() {
                self.by_port.insert(port, names);
            }
        }
    }

    fn fill(&mut self, made: Vec<OfPort>) {
        *self = Self::default();
        for (port, clusters) in made {
            if clusters.is_empty() {
                continue;
            }
            self.by_port.insert(port, clusters.iter().map(|cluster| cluster.name.clone()).collect());
            self.clusters.extend(clusters);
        }
        self.clusters.sort_by(|a, b| a.name.cmp(&b.name));
        self.indices = (0u32..).map(ClusterIndex).take(self.clusters.len()).collect();
        self.by_name = self.clusters.iter().map(|it| it.name.clone()).zip(self.indices.iter().copied()).collect();
    }

    fn put(&mut self, cluster: Arc<Cluster>) {
        match self.clusters.binary_search_by(|other| other.name.cmp(&cluster.name)) {
            Ok(at) => self.clusters[at] = cluster,
            Err(at) => {
                let next = u32::try_from(self.clusters.len() + self.free.len()).unwrap_or(u32::MAX);
                let index = self.free.pop().unwrap_or(ClusterIndex(next));
                self.by_name.insert(cluster.name.clone(), index);
                self.clusters.insert(at, cluster);
                self.indices.insert(at, index);
            }
        }
    }

    fn remove(&mut self, name: &str) {
        if let Ok(at) = self.clusters.binary_search_by(|other| (*other.name).cmp(name)) {
            self.clusters.remove(at);
            self.free.push(self.indices.remove(at));
            self.by_name.remove(name);
        }
    }

    pub(crate) fn reference(&self, target: &Target) -> ClusterRef {
        let name = target.name.to_string();
        match self.by_name.get_key_value(name.as_str()) {
            Some((name, index)) if target.problem.is_none() => {
                ClusterRef::Found { index: *index, name: Arc::clone(name) }
            }
            _ => ClusterRef::Missing { name: name.into() },
        }
    }

    /// Sorted by name.
    pub(crate) fn clusters(&self) -> &[Arc<Cluster>] {
        &self.clusters
    }

    /// In the order of [`ClusterTable::clusters`].
    pub(crate) fn indices(&self) -> &[ClusterIndex] {
        &self.indices
    }
}
