use std::sync::Arc;

use ahash::AHashMap;
use tidegate_snapshot::{ClusterIndex, Listener, Snapshot};

use crate::telemetry::AccessLogSink;
use crate::upstream::ClusterHandle;

/// A Snapshot with its runtime handles: the only thing that requests read. A request holds one until it ends.
#[derive(Debug)]
pub(crate) struct Published {
    snapshot: Arc<Snapshot>,
    /// By [`ClusterIndex`].
    clusters: Vec<Arc<ClusterHandle>>,
    listeners: AHashMap<Arc<str>, usize>,
    access_log: Option<Arc<AccessLogSink>>,
}

impl Published {
    /// `clusters` are in the order of the Snapshot's.
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        clusters: Vec<Arc<ClusterHandle>>,
        access_log: Option<Arc<AccessLogSink>>,
    ) -> Self {
        let listeners =
            snapshot.listeners().iter().enumerate().map(|(at, listener)| (listener.name.as_str().into(), at)).collect();
        Self { snapshot, clusters, listeners, access_log }
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn clusters(&self) -> &[Arc<ClusterHandle>] {
        &self.clusters
    }

    pub(crate) fn cluster(&self, index: ClusterIndex) -> Option<&Arc<ClusterHandle>> {
        self.clusters.get(index.0 as usize)
    }

    pub(crate) fn listener(&self, name: &str) -> Option<&Listener> {
        self.snapshot.listeners().get(*self.listeners.get(name)?)
    }
    /// Where requests are logged; none if they are not.
    pub(crate) fn access_log(&self) -> Option<&Arc<AccessLogSink>> {
        self.access_log.as_ref()
    }
}
