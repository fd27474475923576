use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use arc_swap::ArcSwap;
use tidegate_sds::SecretStore;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Limits;
use crate::listener::ListenerState;
use crate::published::Published;
use crate::telemetry::Metrics;

/// What all workers of a gateway read.
pub(crate) struct Shared {
    pub(crate) published: ArcSwap<Published>,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    /// What certificates, authorities and challenges are asked of.
    pub(crate) secrets: Arc<SecretStore>,
    /// Name of this machine.
    pub(crate) hostname: String,
    pub(crate) connections: Connections,
    /// Connections whose first request is not possible yet: PROXY headers and TLS handshakes.
    pub(crate) handshakes: Handshakes,
    /// Ends every connection at once, whatever it is doing.
    pub(crate) kill: CancellationToken,
}

impl Shared {
    /// What serves a new connection or request of `listener`. A listener that is gone serves its last ones from the
    /// last configuration that had it.
    pub(crate) fn published_for(&self, listener: &ListenerState) -> Arc<Published> {
        let now = self.published.load_full();
        match now.listener(&listener.name) {
            Some(_) => now,
            None => listener.last().unwrap_or(now),
        }
    }
}

/// How many handshakes are under way.
#[derive(Debug, Default)]
pub(crate) struct Handshakes(AtomicUsize);

impl Handshakes {
    /// Counts one more until the result is dropped; none beyond the limit.
    pub(crate) fn begin(shared: &Arc<Shared>) -> Option<HandshakeSlot> {
        let limit = shared.limits.max_handshakes;
        let count = &shared.handshakes.0;
        count.fetch_update(Relaxed, Relaxed, |count| (count < limit).then_some(count + 1)).ok()?;
        Some(HandshakeSlot(shared.clone()))
    }
}

pub(crate) struct HandshakeSlot(Arc<Shared>);

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        self.0.handshakes.0.fetch_sub(1, Relaxed);
    }
}

/// How many connections there are.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: AtomicUsize,
    closed: Notify,
}

impl Connections {
    /// Counts one more connection until the result is dropped; none beyond `limit`.
    pub(crate) fn open(shared: &Arc<Shared>) -> Option<OpenConnection> {
        let limit = shared.limits.max_connections;
        let open = &shared.connections.open;
        open.fetch_update(Relaxed, Relaxed, |count| (count < limit).then_some(count + 1)).ok()?;
        Some(OpenConnection(shared.clone()))
    }

    pub(crate) fn count(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Resolves when there are none.
    pub(crate) async fn none(&self) {
        loop {
            let closed = self.closed.notified();
            if self.count() == 0 {
                return;
            }
            closed.await;
        }
    }
}

pub(crate) struct OpenConnection(Arc<Shared>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if self.0.connections.open.fetch_sub(1, Relaxed) == 1 {
            self.0.connections.closed.notify_waiters();
        }
    }
}
