use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tidegate_core::{Diagnostic, Lifecycle, Phase};
use tidegate_snapshot::Snapshot;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::GatewayOptions;
use crate::listener::ListenerStatus;
use crate::listeners::Listeners;
use crate::published::Published;
use crate::shared::{Connections, Handshakes, Shared};
use crate::telemetry::{AccessLogger, Metrics};
use crate::upstream::{ClusterRegistry, ClusterStatus};
use crate::worker::Worker;

/// How long the first answers for new DNS clusters are waited for before a Snapshot serves without them.
const WARM_UP: Duration = Duration::from_secs(2);
/// Least and longest time between two looks whether a request still has an old Snapshot.
const LET_GO: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(5));
/// How long access logs may take to be written at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// The running data plane. Dropping it closes everything at once: [`Gateway::drain`] first.
pub struct Gateway {
    shared: Arc<Shared>,
    registry: Arc<ClusterRegistry>,
    control: Handle,
    access_log: AccessLogger,
    lifecycle: Lifecycle,
    /// Held while a Snapshot is being published, so that two never mix.
    publishing: tokio::sync::Mutex<()>,
    listeners: Arc<Listeners>,
}

/// Why a data plane cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("a gateway must be started inside a tokio runtime, which then runs its DNS and control tasks")]
    NoRuntime,
    #[error("cannot start worker {number}")]
    Worker {
        number: usize,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the thread that writes access logs")]
    AccessLog(#[source] io::Error),
}

impl Gateway {
    /// Starts the workers. Nothing is listened on before the first Snapshot; see [`Gateway::publish`].
    ///
    /// DNS and the binding of sockets run on the caller's tokio runtime, which must outlive the gateway.
    ///
    /// # Errors
    /// There is no runtime, or the system gives no threads.
    pub fn start(options: GatewayOptions, lifecycle: Lifecycle) -> Result<Self, StartError> {
        let control = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let metrics = Arc::new(Metrics::new(&options.node, lifecycle.clone()));
        let access_log = AccessLogger::start(metrics.log_counters().clone()).map_err(StartError::AccessLog)?;
        let registry = ClusterRegistry::new(metrics.destinations().clone(), options.dns, control.clone())
            .with_secrets(options.secrets.clone());
        let registry = Arc::new(registry);
        let empty = Published::new(Arc::new(Snapshot::empty()), Vec::new(), None, None);
        let shared = Arc::new(Shared {
            published: ArcSwap::from_pointee(empty),
            limits: options.limits,
            metrics,
            secrets: options.secrets,
            hostname: hostname(),
            connections: Connections::default(),
            handshakes: Handshakes::default(),
            kill: CancellationToken::new(),
        });
        let workers = (0..options.workers.max(1))
            .map(|number| Worker::start(number, &shared).map_err(|source| StartError::Worker { number, source }))
            .collect::<Result<Vec<_>, _>>()?;
        let listeners = Arc::new(Listeners::new(workers, options.port_offset, shared.clone(), control.clone()));
        Ok(Self {
            shared,
            registry,
            control,
            access_log,
            lifecycle,
            publishing: tokio::sync::Mutex::default(),
            listeners,
        })
    }

    /// Serves `snapshot` from now on, and returns what the environment does not allow of it (a port that is taken).
    /// Everything else is served; what failed is tried again in the background.
    ///
    /// New clusters are warmed and new listeners bound first, then requests see all of it at once, then listeners that
    /// are gone stop accepting. Requests that run keep the Snapshot that they began with. Not cancel safe.
    pub async fn publish(&self, snapshot: Arc<Snapshot>) -> Vec<Diagnostic> {
        let _publishing = self.publishing.lock().await;
        let mut diagnostics = Vec::new();
        let previous = self.shared.published.load_full();
        let clusters = self.registry.prepare_after(previous.clusters(), &snapshot);
        self.registry.warm(&clusters.made, Instant::now() + WARM_UP).await;
        let sink = snapshot.mesh().access_log.as_ref().map(|settings| {
            let (sink, finding) = self.access_log.sink(settings);
            diagnostics.extend(finding);
            sink
        });
        let published = Arc::new(Published::new(snapshot, clusters.handles, sink, Some(&previous)));
        diagnostics.extend(self.listeners.bind(published.snapshot()));
        self.listeners.keep_last(published.snapshot(), &previous);
        self.shared.published.store(published.clone());
        self.shared.metrics.config_published(published.snapshot().hash());
        self.listeners.settle(published.snapshot()).await;
        self.control.spawn(let_go(previous, clusters.is_other.then(|| self.registry.clone())));
        self.lifecycle.advance(Phase::Live);
        diagnostics
    }

    /// What serves now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.published.load().snapshot().clone()
    }

    /// Listeners of the Snapshot that serves, sorted by name.
    pub fn listeners(&self) -> Vec<ListenerStatus> {
        self.listeners.status()
    }

    /// Clusters of the Snapshot that serves, in its order.
    pub fn clusters(&self) -> Vec<ClusterStatus> {
        self.shared.published.load().clusters().iter().map(|cluster| cluster.status()).collect()
    }

    /// Writes all metrics in Prometheus' text format. Holds no lock while it writes.
    pub fn write_metrics(&self, out: &mut dyn std::fmt::Write) {
        let published = self.shared.published.load_full();
        self.shared.metrics.write_prometheus(published.clusters(), out);
    }

    /// For metrics: the sources were read again and say what already serves.
    pub fn config_unchanged(&self) {
        self.shared.metrics.config_unchanged();
    }

    /// For metrics: the sources could not be used, wholly or in part.
    pub fn config_rejected(&self) {
        self.shared.metrics.config_rejected();
    }

    /// Opens access logs anew, after a rotation moved them away.
    pub fn reopen_logs(&self) {
        self.access_log.reopen();
    }

    /// Ends the gateway's life without failing requests: readiness goes, listeners accept for `delay` more, then
    /// connections are asked to leave (`Connection: close`, GOAWAY) and those that have not when `deadline` has passed
    /// are cut. Returns when the last is gone. A second call with a shorter deadline does not wait for the first.
    pub async fn drain(&self, delay: Duration, deadline: Duration) {
        self.lifecycle.advance(Phase::Draining);
        tokio::time::sleep(delay).await;
        let end = Instant::now() + deadline;
        self.listeners.drain().await;
        if tokio::time::timeout_at(end, self.shared.connections.none()).await.is_err() {
            tracing::warn!(connections = self.shared.connections.count(), "connections are cut, their time is over");
            self.shared.kill.cancel();
            // Tasks end as soon as they are polled once more.
            let _ = timeout(Duration::from_secs(1), self.shared.connections.none()).await;
        }
        self.access_log.flush(FLUSH).await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.listeners.abandon();
        self.shared.kill.cancel();
    }
}

/// Drops a Snapshot that does not serve any more once no request has it: to take apart what ten thousand routes were is
/// not the work of the request that happened to be the last. `registry` then forgets the clusters that went with it.
async fn let_go(published: Arc<Published>, registry: Option<Arc<ClusterRegistry>>) {
    let mut pause = LET_GO.0;
    while Arc::strong_count(&published) > 1 {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LET_GO.1);
    }
    drop(published);
    if let Some(registry) = registry {
        registry.retire();
    }
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned()).unwrap_or_default()
}
