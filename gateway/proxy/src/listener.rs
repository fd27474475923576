use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::published::Published;
use crate::telemetry::ListenerMetrics;

/// A listener while it accepts or while one of its connections lives.
#[derive(Debug)]
pub(crate) struct ListenerState {
    /// `0.0.0.0_80`.
    pub(crate) name: Arc<str>,
    /// The port that the Gateway names.
    pub(crate) port: u16,
    pub(crate) metrics: Arc<ListenerMetrics>,
    /// True once connections should go away.
    drain: watch::Sender<bool>,
    /// What the listener's last requests are served from once no Snapshot has it any more.
    last: ArcSwapOption<Published>,
}

impl ListenerState {
    pub(crate) fn new(name: Arc<str>, port: u16, metrics: Arc<ListenerMetrics>) -> Self {
        Self { name, port, metrics, drain: watch::Sender::new(false), last: ArcSwapOption::empty() }
    }

    /// Changes to true when the listener drains.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.drain.subscribe()
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.drain.borrow()
    }

    /// Asks connections to go: HTTP/1 is closed after its next answer, HTTP/2 gets GOAWAY.
    pub(crate) fn drain(&self) {
        self.drain.send_replace(true);
    }

    /// The listener left the configuration; `last` is the last that had it.
    pub(crate) fn retire(&self, last: Arc<Published>) {
        self.last.store(Some(last));
    }

    pub(crate) fn last(&self) -> Option<Arc<Published>> {
        self.last.load_full()
    }
}

/// A listener as the admin server shows it.
#[derive(Clone, PartialEq, Debug)]
pub struct ListenerStatus {
    /// `0.0.0.0_80`.
    pub name: Arc<str>,
    /// The port that the Gateway names.
    pub port: u16,
    /// Where it accepts; empty if it could not be bound.
    pub bound: Vec<SocketAddr>,
    /// Why it is not bound, or not on every address that it should be.
    pub error: Option<String>,
    pub connections_active: u64,
    pub connections_total: u64,
}
