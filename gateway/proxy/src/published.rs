use std::sync::Arc;

use ahash::AHashMap;
use tidegate_snapshot::{ClusterIndex, Listener, ListenerProtocol, ServerTls, Snapshot};

use crate::telemetry::AccessLogSink;
use crate::tls::ServerContext;
use crate::upstream::ClusterHandle;

/// A Snapshot with its runtime handles: the only thing that requests read. A request holds one until it ends.
#[derive(Debug)]
pub(crate) struct Published {
    snapshot: Arc<Snapshot>,
    /// By [`ClusterIndex`].
    clusters: Vec<Arc<ClusterHandle>>,
    listeners: AHashMap<Arc<str>, usize>,
    /// By place of the listener and of its filter chain; a listener without TLS has none.
    tls: Vec<Vec<Option<Arc<ServerContext>>>>,
    access_log: Option<Arc<AccessLogSink>>,
}

impl Published {
    /// `clusters` are in the order of the Snapshot's. Filter chains whose TLS is what it was in `previous` keep their
    /// contexts, and with them the sessions that clients may resume.
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        clusters: Vec<Arc<ClusterHandle>>,
        access_log: Option<Arc<AccessLogSink>>,
        previous: Option<&Published>,
    ) -> Self {
        let listeners =
            snapshot.listeners().iter().enumerate().map(|(at, listener)| (listener.name.as_str().into(), at)).collect();
        let tls = snapshot.listeners().iter().map(|listener| server_contexts(listener, previous)).collect();
        Self { snapshot, clusters, listeners, tls, access_log }
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

    /// How the filter chain at `chain` of a listener terminates TLS; none if it does not.
    pub(crate) fn server_context(&self, listener: &str, chain: usize) -> Option<&Arc<ServerContext>> {
        self.tls.get(*self.listeners.get(listener)?)?.get(chain)?.as_ref()
    }

    /// Where requests are logged; none if they are not.
    pub(crate) fn access_log(&self) -> Option<&Arc<AccessLogSink>> {
        self.access_log.as_ref()
    }
}

fn server_contexts(listener: &Listener, previous: Option<&Published>) -> Vec<Option<Arc<ServerContext>>> {
    if listener.protocol != ListenerProtocol::Tls {
        return Vec::new();
    }
    let mut earlier: AHashMap<&str, &Arc<ServerContext>> = AHashMap::new();
    if let Some(published) = previous
        && let Some(at) = published.listeners.get(listener.name.as_str())
    {
        let chains = published.snapshot.listeners()[*at].filter_chains();
        let known = chains.iter().zip(&published.tls[*at]);
        earlier.extend(known.filter_map(|(chain, context)| Some((chain.name.as_str(), context.as_ref()?))));
    }
    let context = |name: &str, tls: &Arc<ServerTls>| match earlier.get(name) {
        Some(context) if Arc::ptr_eq(context.settings(), tls) || context.settings() == tls => (*context).clone(),
        _ => Arc::new(ServerContext::new(name, tls.clone())),
    };
    listener.filter_chains().iter().map(|chain| Some(context(&chain.name, chain.tls.as_ref()?))).collect()
}
