use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidegate_core::{Code, Diagnostic, Origin};
use tidegate_snapshot::{Listener, ListenerProtocol, Snapshot};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::PortOffset;
use crate::accept::accept;
use crate::listener::{ListenerState, ListenerStatus};
use crate::published::Published;
use crate::shared::Shared;
use crate::sockets::{self, Bound};
use crate::worker::Worker;

/// Pauses between tries to bind a port that is taken.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// The listeners of the Snapshot that serves and their sockets. Used by the control plane only.
pub(crate) struct Listeners {
    workers: Vec<Worker>,
    offset: PortOffset,
    shared: Arc<Shared>,
    control: Handle,
    entries: Mutex<BTreeMap<Arc<str>, Entry>>,
}

struct Entry {
    state: Arc<ListenerState>,
    bind: Option<IpAddr>,
    accepting: Accepting,
}

enum Accepting {
    /// Bound, and nobody accepts yet.
    Prepared(Bound),
    Running {
        address: SocketAddr,
        stop: CancellationToken,
        tasks: Vec<JoinHandle<()>>,
    },
    /// Not bound; a task tries again until the token ends it.
    Failed {
        error: String,
        stop: CancellationToken,
    },
}

impl Listeners {
    pub(crate) fn new(workers: Vec<Worker>, offset: PortOffset, shared: Arc<Shared>, control: Handle) -> Self {
        Self { workers, offset, shared, control, entries: Mutex::default() }
    }

    /// Binds what `snapshot` has and the gateway has not, without accepting; reports what cannot be bound, earlier
    /// failures included. Listeners that stay are not touched.
    pub(crate) fn bind(self: &Arc<Self>, snapshot: &Snapshot) -> Vec<Diagnostic> {
        let mut diagnostics = Vec::new();
        let mut entries = self.entries.lock();
        for listener in snapshot.listeners() {
            let failure = match entries.get(listener.name.as_str()) {
                Some(Entry { accepting: Accepting::Failed { error, .. }, .. }) => Some(error.clone()),
                Some(_) => None,
                None => {
                    let result = match self.holder(&entries, &listener.name, listener.bind, listener.port) {
                        // If that one is being removed, the next try finds the port free.
                        Some(other) => Err(format!("listener {other} of this gateway is bound there")),
                        None => self.open(listener.bind, listener.port).map_err(|error| error.to_string()),
                    };
                    let metrics = self.shared.metrics.listener(&listener.name);
                    let name: Arc<str> = listener.name.as_str().into();
                    let state = Arc::new(ListenerState::new(name.clone(), listener.port, metrics));
                    let (accepting, failure) = match result {
                        Ok(bound) => (Accepting::Prepared(bound), None),
                        Err(error) => {
                            let stop = CancellationToken::new();
                            self.control.spawn(self.clone().keep_trying(name.clone(), stop.clone()));
                            (Accepting::Failed { error: error.clone(), stop }, Some(error))
                        }
                    };
                    entries.insert(name, Entry { state, bind: listener.bind, accepting });
                    failure
                }
            };
            diagnostics.extend(failure.map(|error| bind_diagnostic(listener, &error)));
            if let Some(entry) = entries.get(listener.name.as_str()) {
                if listener.protocol == ListenerProtocol::Tls {
                    entry.state.metrics.show_tls();
                }
                if snapshot.mesh().proxy_protocol {
                    entry.state.metrics.show_proxy_headers();
                }
            }
        }
        diagnostics
    }

    /// Gives listeners that `snapshot` no longer has what their last requests are served from; to be called before
    /// requests see `snapshot`.
    pub(crate) fn keep_last(&self, snapshot: &Snapshot, present: &Arc<Published>) {
        let wanted: BTreeSet<&str> = snapshot.listeners().iter().map(|listener| listener.name.as_str()).collect();
        for entry in self.entries.lock().values().filter(|entry| !wanted.contains(&*entry.state.name)) {
            entry.state.retire(present.clone());
        }
    }

    /// Accepts on what [`Self::bind`] bound, and closes what `snapshot` no longer has. Returns when the sockets of
    /// those listeners are closed.
    pub(crate) async fn settle(&self, snapshot: &Snapshot) {
        let mut closing = Vec::new();
        {
            let mut entries = self.entries.lock();
            let wanted: BTreeSet<&str> = snapshot.listeners().iter().map(|listener| listener.name.as_str()).collect();
            let gone: Vec<Arc<str>> = entries.keys().filter(|name| !wanted.contains(&***name)).cloned().collect();
            for name in gone {
                let Some(entry) = entries.remove(&name) else { continue };
                tracing::info!(listener = %name, "listener removed");
                closing.extend(entry.close());
            }
            for entry in entries.values_mut() {
                self.run(entry);
            }
        }
        for task in closing {
            // A task that panicked has closed its socket, too.
            let _ = task.await;
        }
    }

    /// Stops accepting everywhere and asks all connections to go. Returns when the sockets are closed.
    pub(crate) async fn drain(&self) {
        let closing: Vec<_> = {
            let mut entries = self.entries.lock();
            entries.values_mut().flat_map(Entry::close_mut).collect()
        };
        for task in closing {
            let _ = task.await;
        }
    }

    /// As [`Self::drain`], without waiting.
    pub(crate) fn abandon(&self) {
        for entry in self.entries.lock().values_mut() {
            entry.close_mut();
        }
    }

    /// Sorted by name.
    pub(crate) fn status(&self) -> Vec<ListenerStatus> {
        let entries = self.entries.lock();
        entries
            .values()
            .map(|entry| {
                let (bound, error) = match &entry.accepting {
                    Accepting::Prepared(bound) => (vec![bound.address], None),
                    Accepting::Running { address, .. } => (vec![*address], None),
                    Accepting::Failed { error, .. } => (Vec::new(), Some(error.clone())),
                };
                ListenerStatus {
                    name: entry.state.name.clone(),
                    port: entry.state.port,
                    bound,
                    error,
                    connections_active: entry.state.metrics.connections_active(),
                    connections_total: entry.state.metrics.connections_total(),
                }
            })
            .collect()
    }

    fn open(&self, bind: Option<IpAddr>, port: u16) -> io::Result<Bound> {
        sockets::bind(bind, port, self.offset, self.workers.len())
    }

    /// The other listener that is bound where a listener would be: sockets that share a port would share its
    /// connections by chance.
    fn holder(
        &self,
        entries: &BTreeMap<Arc<str>, Entry>,
        own: &str,
        bind: Option<IpAddr>,
        port: u16,
    ) -> Option<Arc<str>> {
        let wanted = sockets::candidates(port, self.offset).first().copied()?;
        let holds = |entry: &Entry| entry.bind == bind && entry.accepting.address().map(|it| it.port()) == Some(wanted);
        entries.iter().find(|(name, entry)| &***name != own && holds(entry)).map(|(name, _)| name.clone())
    }

    fn run(&self, entry: &mut Entry) {
        let Accepting::Prepared(_) = entry.accepting else { return };
        let stop = CancellationToken::new();
        let empty = Accepting::Running { address: SocketAddr::from(([0, 0, 0, 0], 0)), stop, tasks: Vec::new() };
        let Accepting::Prepared(bound) = std::mem::replace(&mut entry.accepting, empty) else { return };
        tracing::info!(listener = %entry.state.name, address = %bound.address, "listening");
        let Accepting::Running { address, stop, tasks } = &mut entry.accepting else { return };
        *address = bound.address;
        *tasks = self
            .workers
            .iter()
            .zip(bound.sockets)
            .map(|(worker, socket)| {
                worker.handle.spawn(accept(socket, entry.state.clone(), worker.app.clone(), stop.clone()))
            })
            .collect();
    }

    /// Binds a listener that could not be bound, once that becomes possible.
    async fn keep_trying(self: Arc<Self>, name: Arc<str>, stop: CancellationToken) {
        let mut pause = FIRST_RETRY;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
            pause = (pause * 2).min(LAST_RETRY);
            let mut entries = self.entries.lock();
            // Another listener of that name has its own task.
            if stop.is_cancelled() {
                return;
            }
            let Some(entry) = entries.get(&name) else { return };
            let (bind, port) = (entry.bind, entry.state.port);
            let taken = self.holder(&entries, &name, bind, port).is_some();
            let Some(entry) = entries.get_mut(&name) else { return };
            if taken {
                continue;
            }
            match self.open(bind, port) {
                Ok(bound) => {
                    entry.accepting = Accepting::Prepared(bound);
                    // What is not published yet starts to accept when it is.
                    if self.shared.published.load().listener(&name).is_some() {
                        self.run(entry);
                    }
                    return;
                }
                Err(error) => entry.accepting = Accepting::Failed { error: error.to_string(), stop: stop.clone() },
            }
        }
    }
}

impl Accepting {
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Prepared(bound) => Some(bound.address),
            Self::Running { address, .. } => Some(*address),
            Self::Failed { .. } => None,
        }
    }
}

impl Entry {
    fn close(mut self) -> Vec<JoinHandle<()>> {
        self.close_mut()
    }

    fn close_mut(&mut self) -> Vec<JoinHandle<()>> {
        self.state.drain();
        let closed = Accepting::Failed { error: "draining".into(), stop: CancellationToken::new() };
        match std::mem::replace(&mut self.accepting, closed) {
            Accepting::Prepared(_) => Vec::new(),
            Accepting::Running { stop, tasks, .. } => {
                stop.cancel();
                tasks
            }
            Accepting::Failed { stop, .. } => {
                stop.cancel();
                Vec::new()
            }
        }
    }
}

fn bind_diagnostic(listener: &Listener, error: &str) -> Diagnostic {
    let (key, origin) = match listener.sources.first() {
        Some((key, origin)) => (Some(key.clone()), origin.clone()),
        None => (None, Origin::default()),
    };
    let message = format!("port {} cannot be listened on: {error}", listener.port);
    let mut diagnostic = Diagnostic::error(Code::ENVIRONMENT, origin, message)
        .path("spec.servers.port.number")
        .help("stop what uses the port, or choose another port; it is tried again every few seconds");
    diagnostic.key = key;
    diagnostic
}
