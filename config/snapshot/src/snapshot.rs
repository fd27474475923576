use std::fmt;
use std::io;
use std::sync::Arc;

use ahash::AHashMap;
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::{Cluster, Listener, MeshSettings};

/// Place of a cluster in its own Snapshot.
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

/// One whole compiled configuration.
#[derive(Clone, Debug)]
pub struct Snapshot {
    hash: SnapshotHash,
    listeners: Vec<Listener>,
    clusters: Vec<Arc<Cluster>>,
    by_name: AHashMap<Arc<str>, ClusterIndex>,
    mesh: MeshSettings,
}

impl Snapshot {
    /// Puts a Snapshot together: sorts listeners by name. `clusters` keep their order, since routes refer to it; the
    /// compiler sorts them by name before it makes routes.
    pub fn new(mut listeners: Vec<Listener>, clusters: Vec<Arc<Cluster>>, mesh: MeshSettings) -> Self {
        listeners.sort_by(|a, b| a.name.cmp(&b.name));
        let by_name = (0u32..).zip(&clusters).map(|(at, cluster)| (cluster.name.clone(), ClusterIndex(at))).collect();
        let mut hasher = HashWriter(Sha256::new());
        let content = Content { listeners: &listeners, clusters: Shared(&clusters), mesh: &mesh };
        // Serialization into a hasher can fail only if a type of the model refuses, and none does.
        #[expect(clippy::expect_used, reason = "no type of the model refuses to serialize")]
        serde_json::to_writer(&mut hasher, &content).expect("the model serializes");
        let hash = SnapshotHash(hasher.0.finalize().into());
        Self { hash, listeners, clusters, by_name, mesh }
    }

    /// A Snapshot that serves nothing.
    pub fn empty() -> Self {
        Self::new(Vec::new(), Vec::new(), MeshSettings::default())
    }

    pub fn hash(&self) -> SnapshotHash {
        self.hash
    }

    /// Sorted by name.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Indexed by [`ClusterIndex`].
    pub fn clusters(&self) -> &[Arc<Cluster>] {
        &self.clusters
    }

    pub fn cluster(&self, index: ClusterIndex) -> Option<&Arc<Cluster>> {
        self.clusters.get(index.0 as usize)
    }

    pub fn cluster_index(&self, name: &str) -> Option<ClusterIndex> {
        self.by_name.get(name).copied()
    }

    pub fn mesh(&self) -> &MeshSettings {
        &self.mesh
    }
}

#[derive(Serialize)]
struct Content<'a> {
    listeners: &'a [Listener],
    clusters: Shared<'a>,
    mesh: &'a MeshSettings,
}

struct Shared<'a>(&'a [Arc<Cluster>]);

impl Serialize for Shared<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Arc::as_ref))
    }
}

struct HashWriter(Sha256);

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
