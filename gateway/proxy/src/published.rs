use std::sync::Arc;

use ahash::AHashMap;
use tidegate_snapshot::{ClusterIndex, FilterChain, Listener, ListenerProtocol, ServerTls, Snapshot};

use crate::telemetry::AccessLogSink;
use crate::tls::ServerContext;
use crate::upstream::ClusterHandle;

/// A Snapshot with its runtime handles: the only thing that requests read. A request holds one until it ends.
#[derive(Debug)]
pub(crate) struct Published {
    snapshot: Arc<Snapshot>,
    /// In the order of the Snapshot's.
    clusters: Vec<Arc<ClusterHandle>>,
    listeners: AHashMap<Arc<str>, usize>,
    /// By place of the listener and of its filter chain; a listener without TLS has none.
    tls: Vec<ServerContexts>,
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
        let tls = snapshot.listeners().iter().map(|listener| server_contexts(listener, previous)).collect::<Vec<_>>();
        Self { snapshot, clusters, listeners, tls, access_log }
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn clusters(&self) -> &[Arc<ClusterHandle>] {
        &self.clusters
    }

    pub(crate) fn cluster(&self, index: ClusterIndex) -> Option<&Arc<ClusterHandle>> {
        self.clusters.get(self.snapshot.place(index)?)
    }

    pub(crate) fn listener(&self, name: &str) -> Option<&Listener> {
        self.snapshot.listeners().get(*self.listeners.get(name)?).map(Arc::as_ref)
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

/// By place of the filter chain.
type ServerContexts = Arc<[Option<Arc<ServerContext>>]>;

fn server_contexts(listener: &Arc<Listener>, previous: Option<&Published>) -> ServerContexts {
    if listener.protocol != ListenerProtocol::Tls {
        return Arc::default();
    }
    let before = previous.and_then(|published| {
        let at = *published.listeners.get(listener.name.as_str())?;
        Some((published.snapshot.listeners().get(at)?, published.tls.get(at)?))
    });
    if let Some((before, contexts)) = before
        && Arc::ptr_eq(before, listener)
    {
        return contexts.clone();
    }
    // Most chains stand where they stood.
    let in_place = |at: usize, chain: &Arc<FilterChain>| {
        let (before, contexts) = before?;
        let known = before.filter_chains().get(at)?;
        let alike = Arc::ptr_eq(known, chain) || (known.name == chain.name && is_same(&known.tls, &chain.tls));
        alike.then(|| contexts.get(at)?.clone()).flatten()
    };
    let mut by_name: Option<AHashMap<&str, &Arc<ServerContext>>> = None;
    let mut moved = |name: &str, tls: &Arc<ServerTls>| {
        let by_name = by_name.get_or_insert_with(|| {
            let known = before.into_iter().flat_map(|(before, known)| before.filter_chains().iter().zip(&**known));
            known.filter_map(|(chain, context)| Some((chain.name.as_str(), context.as_ref()?))).collect()
        });
        match by_name.get(name) {
            Some(context) if Arc::ptr_eq(context.settings(), tls) || context.settings() == tls => (*context).clone(),
            _ => Arc::new(ServerContext::new(name, tls.clone())),
        }
    };
    let chains = listener.filter_chains().iter().enumerate();
    chains.map(|(at, chain)| in_place(at, chain).or_else(|| Some(moved(&chain.name, chain.tls.as_ref()?)))).collect()
}

/// Whether two filter chains have one and the same TLS.
fn is_same(a: &Option<Arc<ServerTls>>, b: &Option<Arc<ServerTls>>) -> bool {
    a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b))
}
