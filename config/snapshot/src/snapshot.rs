use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::hash::{KeptHash, PartHash};
use crate::{Cluster, Listener, MeshSettings};

/// How the routes of a Snapshot call one of its clusters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClusterIndex(pub u32);

/// SHA-256 over everything that the Snapshot serves. Equal for equal resources on every gateway.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SnapshotHash([u8; 32]);

/// Sixteen hexadecimal digits: enough to tell Snapshots apart, short enough to read aloud.
impl fmt::Display for SnapshotHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SnapshotHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotHash({self})")
    }
}

impl Serialize for SnapshotHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One whole compiled configuration. Cheap to clone: its parts are shared.
#[derive(Clone, Debug)]
pub struct Snapshot {
    hash: SnapshotHash,
    listeners: Vec<Arc<Listener>>,
    clusters: Arc<Clusters>,
    mesh: MeshSettings,
}

/// The clusters of a Snapshot, with their hashes and the way to them.
#[derive(Debug, Default)]
struct Clusters {
    all: Vec<Arc<Cluster>>,
    hashes: Vec<PartHash>,
    hash: KeptHash,
    /// Places by index; none if index and place are one.
    places: Option<Arc<[u32]>>,
}

/// No cluster has the index.
const NOWHERE: u32 = u32::MAX;

impl Snapshot {
    /// Puts a Snapshot together: sorts listeners by name. `clusters` keep their order, since routes refer to it; the
    /// compiler sorts them by name before it makes routes.
    pub fn new(
        listeners: impl IntoIterator<Item: Into<Arc<Listener>>>,
        clusters: Vec<Arc<Cluster>>,
        mesh: MeshSettings,
    ) -> Self {
        Self::following(&Self::nothing(), listeners, clusters, None, mesh)
    }

    /// As [`Snapshot::new`], for one who made `previous` and changed little since: what is the same allocation there is
    /// not looked at again. The result does not depend on `previous`.
    ///
    /// `indices` says how routes call the clusters, in the order of `clusters`: a cluster keeps its index while others
    /// come and go, so that routes need not be made again. None if they are called by their places.
    pub fn following(
        previous: &Snapshot,
        listeners: impl IntoIterator<Item: Into<Arc<Listener>>>,
        clusters: Vec<Arc<Cluster>>,
        indices: Option<&[ClusterIndex]>,
        mesh: MeshSettings,
    ) -> Self {
        let clusters = Clusters::following(&previous.clusters, clusters, indices);
        Self::assemble(listeners.into_iter().map(Into::into).collect(), clusters, mesh)
    }

    /// The Snapshot with other listeners, and all else as it is.
    pub fn with_listeners(&self, listeners: impl IntoIterator<Item: Into<Arc<Listener>>>) -> Self {
        Self::assemble(listeners.into_iter().map(Into::into).collect(), self.clusters.clone(), self.mesh.clone())
    }

    fn assemble(mut listeners: Vec<Arc<Listener>>, clusters: Arc<Clusters>, mesh: MeshSettings) -> Self {
        listeners.sort_by(|a, b| a.name.cmp(&b.name));
        let of_listeners = PartHash::of_list(&"listeners", listeners.iter().map(|listener| listener.hash()));
        let of_clusters = clusters.hash.get(|| PartHash::of_list(&"clusters", clusters.hashes.iter().copied()));
        let of_mesh = PartHash::of(&mesh);
        let PartHash(hash) = PartHash::of_list(&"snapshot", [of_listeners, of_clusters, of_mesh].into_iter());
        Self { hash: SnapshotHash(hash), listeners, clusters, mesh }
    }

    /// A Snapshot that serves nothing.
    pub fn empty() -> Self {
        Self::new(Vec::<Arc<Listener>>::new(), Vec::new(), MeshSettings::default())
    }

    /// One without even a hash.
    fn nothing() -> Self {
        Self {
            hash: SnapshotHash([0; 32]),
            listeners: Vec::new(),
            clusters: Arc::default(),
            mesh: MeshSettings::default(),
        }
    }

    pub fn hash(&self) -> SnapshotHash {
        self.hash
    }

    /// Sorted by name.
    pub fn listeners(&self) -> &[Arc<Listener>] {
        &self.listeners
    }

    /// Sorted by name, as the compiler makes them. Routes call them by index: see [`Snapshot::place`].
    pub fn clusters(&self) -> &[Arc<Cluster>] {
        &self.clusters.all
    }

    /// The place among [`Snapshot::clusters`] of the cluster that routes of this Snapshot call `index`.
    pub fn place(&self, index: ClusterIndex) -> Option<usize> {
        let place = match &self.clusters.places {
            Some(places) => *places.get(index.0 as usize)?,
            None => index.0,
        };
        (place != NOWHERE).then_some(place as usize)
    }

    pub fn cluster(&self, index: ClusterIndex) -> Option<&Arc<Cluster>> {
        self.clusters.all.get(self.place(index)?)
    }

    /// The cluster with a name. For people: it looks at all of them.
    pub fn cluster_named(&self, name: &str) -> Option<&Arc<Cluster>> {
        self.clusters.all.iter().find(|cluster| *cluster.name == *name)
    }

    /// How routes call the cluster with a name. For people: it looks at all of them.
    pub fn cluster_index(&self, name: &str) -> Option<ClusterIndex> {
        let place = u32::try_from(self.clusters.all.iter().position(|cluster| *cluster.name == *name)?).ok()?;
        let index = match &self.clusters.places {
            Some(places) => u32::try_from(places.iter().position(|at| *at == place)?).ok()?,
            None => place,
        };
        Some(ClusterIndex(index))
    }

    pub fn mesh(&self) -> &MeshSettings {
        &self.mesh
    }
}

impl Clusters {
    fn following(previous: &Arc<Self>, all: Vec<Arc<Cluster>>, indices: Option<&[ClusterIndex]>) -> Arc<Self> {
        let is_same = all.len() == previous.all.len() && all.iter().zip(&previous.all).all(|(a, b)| Arc::ptr_eq(a, b));
        let places = indices.and_then(places);
        if is_same && places == previous.places {
            return previous.clone();
        }
        let mut known = previous.all.iter().zip(&previous.hashes).peekable();
        let hashes = all
            .iter()
            .map(|cluster| {
                // Both are sorted by name; where they are not, hashes are made that were known.
                while known.next_if(|(other, _)| other.name < cluster.name).is_some() {}
                match known.peek() {
                    Some((other, hash)) if Arc::ptr_eq(other, cluster) => **hash,
                    _ => PartHash::of(&**cluster),
                }
            })
            .collect();
        Arc::new(Self { all, hashes, hash: KeptHash::default(), places })
    }
}

/// Places by index; none if each index is its place.
fn places(indices: &[ClusterIndex]) -> Option<Arc<[u32]>> {
    if (0u32..).zip(indices).all(|(place, index)| index.0 == place) {
        return None;
    }
    let length = indices.iter().map(|index| index.0 as usize + 1).max().unwrap_or_default();
    let mut places = vec![NOWHERE; length];
    for (place, index) in (0u32..).zip(indices) {
        places[index.0 as usize] = place;
    }
    Some(places.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DestinationService, Discovery, LoadBalancing, UpstreamProtocol};

    fn cluster(name: &str) -> Arc<Cluster> {
        Arc::new(Cluster {
            name: name.into(),
            protocol: UpstreamProtocol::Http1,
            load_balancing: LoadBalancing::Random,
            connect_timeout: std::time::Duration::from_secs(1),
            tls: None,
            discovery: Discovery::Static(Vec::new()),
            service: DestinationService { host: name.into(), name: String::new(), namespace: String::new() },
            sources: Vec::new(),
        })
    }

    fn none() -> Vec<Arc<Listener>> {
        Vec::new()
    }

    #[test]
    fn a_cluster_keeps_its_index_while_others_come_and_go() {
        let [a, b, c] = ["a", "b", "c"].map(cluster);
        let first = Snapshot::new(none(), vec![a.clone(), c.clone()], MeshSettings::default());
        let all = vec![a.clone(), b.clone(), c.clone()];
        let indices = [0, 2, 1].map(ClusterIndex);
        let next = Snapshot::following(&first, none(), all.clone(), Some(&indices), MeshSettings::default());
        for index in 0..2 {
            let index = ClusterIndex(index);
            assert_eq!(next.cluster(index).map(|it| &it.name), first.cluster(index).map(|it| &it.name));
        }
        assert_eq!(next.cluster_index("b"), Some(ClusterIndex(2)));
        assert_eq!(next.clusters().iter().map(|it| &*it.name).collect::<Vec<_>>(), ["a", "b", "c"]);
        // What it is hashed to does not depend on how it came to be.
        assert_eq!(next.hash(), Snapshot::new(none(), all, MeshSettings::default()).hash());
        let last = Snapshot::following(&next, none(), vec![b], Some(&[ClusterIndex(2)]), MeshSettings::default());
        assert_eq!((last.cluster(ClusterIndex(0)), last.cluster(ClusterIndex(9))).0.map(|it| &it.name), None);
        assert_eq!(last.cluster(ClusterIndex(2)).map(|it| &*it.name), Some("b"));
        assert_eq!(
            last.hash(),
            Snapshot::new(none(), vec![cluster("b")], MeshSettings::default()).hash(),
            "hashes are of content, not of allocations"
        );
    }
}
