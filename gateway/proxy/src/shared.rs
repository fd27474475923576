use std::sync::Arc;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

use arc_swap::ArcSwap;
use tidegate_sds::SecretStore;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
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
pub(crate) struct Handshakes {
    count: AtomicUsize,
    /// Wakes who waits for half of the limit to be reached.
    busy: Notify,
}

impl Handshakes {
    /// Counts one more until the result is dropped; none beyond the limit.
    pub(crate) fn begin(shared: &Arc<Shared>) -> Option<HandshakeSlot> {
        let limit = shared.limits.max_handshakes;
        let Self { count, busy } = &shared.handshakes;
        let before = count.fetch_update(SeqCst, SeqCst, |count| (count < limit).then_some(count + 1)).ok()?;
        if before + 1 == busy_from(limit) {
            busy.notify_waiters();
        }
        Some(HandshakeSlot { shared: shared.clone(), begun: Instant::now() })
    }
}

/// Half of `limit`.
fn busy_from(limit: usize) -> usize {
    limit.div_ceil(2)
}

pub(crate) struct HandshakeSlot {
    shared: Arc<Shared>,
    begun: Instant,
}

impl HandshakeSlot {
    /// What `hello` gives; none if it takes until `deadline`, or too long while many wait. See
    /// [`Limits::busy_hello_timeout`]: when that begins to hold, it holds for who has waited longer already.
    pub(crate) async fn hurry<T>(&self, deadline: Instant, hello: impl Future<Output = T>) -> Option<T> {
        let late = async {
            sleep_until(self.begun + self.shared.limits.busy_hello_timeout).await;
            self.busy().await;
        };
        // Most have all they need at once, and no timer is set for them.
        tokio::select! {
            biased;
            done = hello => Some(done),
            () = sleep_until(deadline) => None,
            () = late => None,
        }
    }

    /// Resolves once half of all handshakes that there may be are under way.
    async fn busy(&self) {
        let Handshakes { count, busy } = &self.shared.handshakes;
        let mut reached = std::pin::pin!(busy.notified());
        // Before the count is looked at, so that nobody reaches it unnoticed in between.
        reached.as_mut().enable();
        if count.load(SeqCst) < busy_from(self.shared.limits.max_handshakes) {
            reached.await;
        }
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        self.shared.handshakes.count.fetch_sub(1, SeqCst);
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
