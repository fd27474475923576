//! One running gateway: from the options of a command line to the end of the process.

mod control_thread;
mod made_up;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Resource, Rlimit};
use tidegate_admin::{AdminServer, Backend, BindError, BoundServer, HealthServer, StatsServer};
use tidegate_core::{Lifecycle, Phase};
use tidegate_proxy::{DnsOptions, Gateway, GatewayOptions, Limits, PortOffset};
use tidegate_sds_wire::{SdsServer, ServerOptions};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::control_thread::{ControlThread, Input};
use crate::backend::{self, ProcessBackend};
use crate::control::StatusCell;
use crate::logging::{LogLevels, LogOptions};
use crate::secrets::{Secrets, SourceOptions};
use crate::shutdown::{Shutdown, Signals};
use crate::state;

/// Threads for everything that is not traffic: admin, metrics, name resolution.
const CONTROL_THREADS: usize = 2;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub(crate) enum ConfigSource {
    /// Files and folders (recursive), watched.
    Paths(Vec<PathBuf>),
    /// One backend for everything, without any YAML: `--to`.
    To {
        /// `host:port`, `ip:port`, or either with an `http://` or `h2c://` in front.
        target: String,
        /// The port that clients use.
        port: u16,
    },
}

/// Where the last accepted configuration is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum StateDir {
    /// `$XDG_STATE_HOME/tidegate`, else `~/.local/state/tidegate`; `/var/lib/tidegate` for root.
    #[default]
    Default,
    /// Nothing is kept: `--state-dir none`.
    None,
    Path(PathBuf),
}

/// What `MeshConfig.accessLogFile` and `accessLogEncoding` say is replaced by this, if it is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct AccessLogOverride {
    /// `/dev/stdout`, `/dev/stderr`, a file, or empty for no access log.
    pub(crate) path: String,
    pub(crate) json: bool,
}

/// How the configuration is read; `tidegate explain --config` and `run` share it.
#[derive(Clone, Debug)]
pub(crate) struct ReadOptions {
    /// `--mesh-config`.
    pub(crate) mesh_config: Option<PathBuf>,
    /// The gateway's own labels, which `Gateway.spec.selector` is matched against.
    pub(crate) labels: BTreeMap<String, String>,
    /// Namespace of the gateway workload.
    pub(crate) namespace: String,
    /// `cluster.local`, without a leading dot.
    pub(crate) cluster_domain: String,
    /// Set by `--access-log`.
    pub(crate) access_log: Option<AccessLogOverride>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            mesh_config: None,
            labels: BTreeMap::from([label("istio", "ingressgateway"), label("app", "istio-ingressgateway")]),
            namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            access_log: None,
        }
    }
}

/// What is bound once the gateway serves.
#[derive(Clone, Debug)]
pub(crate) struct Started {
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) stats: Option<SocketAddr>,
    pub(crate) health: Option<SocketAddr>,
    /// Hash of the first Snapshot, in the form that logs show.
    pub(crate) hash: String,
}

/// What is called when the gateway serves.
pub(crate) type OnStarted = Box<dyn FnOnce(&Started) + Send>;

/// Everything that `tidegate run` and `tidegate demo` can settle.
pub(crate) struct RunOptions {
    pub(crate) source: ConfigSource,
    pub(crate) read: ReadOptions,
    pub(crate) state_dir: StateDir,
    /// Where secrets come from beside the configuration.
    pub(crate) sources: SourceOptions,
    /// Who is given secrets by SDS, and where; none: nobody.
    pub(crate) sds_server: Option<ServerOptions>,
    /// Added to ports below 1024; none: 8000, only when the process may not bind them.
    pub(crate) port_offset: Option<u16>,
    /// Port 0 takes any; none runs without that server.
    pub(crate) admin_address: Option<SocketAddr>,
    pub(crate) stats_address: Option<SocketAddr>,
    pub(crate) health_address: Option<SocketAddr>,
    /// Threads that serve traffic; none: one per core.
    pub(crate) workers: Option<usize>,
    /// Who is asked for DNS endpoints; empty: whom the system asks.
    pub(crate) name_servers: Vec<SocketAddr>,
    /// From failing readiness to closing listeners.
    pub(crate) drain_delay: Duration,
    /// Cap on waiting for requests in flight after that.
    pub(crate) drain_timeout: Duration,
    pub(crate) log: LogOptions,
    /// Called once, on the control runtime, when the first Snapshot serves: prints a banner. Must not block for long.
    pub(crate) on_started: Option<OnStarted>,
}

impl RunOptions {
    /// The defaults of `tidegate run` over a source.
    pub(crate) fn new(source: ConfigSource) -> Self {
        let local = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let any = |port| Some(SocketAddr::from(([0, 0, 0, 0], port)));
        Self {
            source,
            read: ReadOptions::default(),
            state_dir: StateDir::Default,
            sources: SourceOptions::default(),
            sds_server: None,
            port_offset: None,
            admin_address: local(15000),
            stats_address: any(15020),
            health_address: any(15021),
            workers: None,
            name_servers: Vec::new(),
            drain_delay: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(45),
            log: LogOptions::default(),
            on_started: None,
        }
    }
}

/// Runs a gateway until a signal or `/quitquitquit` ends it. Blocks; builds its own runtimes, so it must not be called
/// from within one.
///
/// # Errors
/// What makes a start impossible: a bad option, an admin port in use. Bad configuration is never one of them: it is
/// reported, and the gateway serves what it can.
pub(crate) fn run(options: RunOptions) -> anyhow::Result<()> {
    let levels = LogLevels::install(&options.log)?;
    let lifecycle = Lifecycle::default();
    tell_panics(lifecycle.clone());
    raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control-io")
        .enable_all()
        .build()
        .context("starting the control runtime")?;
    let outcome = runtime.block_on(serve(options, levels, lifecycle));
    // A blocking task that hangs in a dead file system must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// The YAML that `--to` stands for; of a folder there is nothing to make up.
///
/// # Errors
/// The source is a folder, or the target is no address.
pub(crate) fn made_up_config(options: &RunOptions) -> anyhow::Result<String> {
    match &options.source {
        ConfigSource::To { target, port } => made_up::yaml(target, *port),
        ConfigSource::Paths(_) => anyhow::bail!("--print-config shows what --to makes up; --config makes nothing up"),
    }
}

/// Counts and logs every panic, in the form of the log and where the log goes.
///
/// Of its message only text that is in the program is told: what was formatted may hold what a client sent.
fn tell_panics(lifecycle: Lifecycle) {
    std::panic::set_hook(Box::new(move |panic| {
        lifecycle.panicked();
        let at = panic.location().map(ToString::to_string);
        let reason = panic.payload().downcast_ref::<&'static str>();
        tracing::error!(at, reason, "a thread panicked, and lost what it was at; please report it");
    }));
}

async fn serve(options: RunOptions, levels: LogLevels, lifecycle: Lifecycle) -> anyhow::Result<()> {
    let shutdown = Shutdown::default();
    // From here on a signal ends the process in order.
    let signals = Signals::catch().context("catching signals")?;
    let input = Input::open(&options)?;
    let acme_folder = state::acme_folder(&options.state_dir, &options.source, &options.read);
    let mut sources = options.sources.clone();
    let node = backend::admin_node(&options.read);
    sources.providers.iter_mut().for_each(|provider| provider.node_id.clone_from(&node.id));
    let secrets = Secrets::start(sources, &options.read.namespace, acme_folder, Handle::current())
        .context("starting to watch secrets")?;
    let secrets = Arc::new(secrets);
    let gateway_options = GatewayOptions { secrets: secrets.store().clone(), ..gateway_options(&options) };
    let gateway = Arc::new(Gateway::start(gateway_options, lifecycle.clone())?);
    let status = StatusCell::new(input.names());
    let backend = Arc::new(ProcessBackend::new(
        gateway.clone(),
        secrets.clone(),
        status.clone(),
        lifecycle.clone(),
        shutdown.clone(),
        levels,
        &options,
    ));
    let servers = Servers::start(&options, &backend, &lifecycle)?;
    servers.serve_sds(&options, &secrets)?;

    let (serving, first) = oneshot::channel();
    let control = ControlThread::start(&options, input, gateway.clone(), secrets.clone(), status, serving)?;
    let hang_up = {
        let (rescan, secrets, gateway) = (control.rescan(), secrets.clone(), gateway.clone());
        move || {
            rescan();
            secrets.rescan();
            gateway.reopen_logs();
        }
    };
    let obey = tokio::spawn(signals.obey(shutdown.clone(), hang_up));

    let mut delay = options.drain_delay;
    tokio::select! {
        // Nobody was ever told to come.
        () = shutdown.begun() => delay = Duration::ZERO,
        hash = first => {
            let hash = hash.context("the control thread ended before it could serve anything")?;
            tokio::select! {
                () = shutdown.begun() => delay = Duration::ZERO,
                () = any_port(&gateway) => {
                    lifecycle.advance(Phase::Live);
                    let started = servers.started(hash);
                    tracing::info!(
                        hash = started.hash,
                        admin = started.admin.map(tracing::field::display),
                        "ready: the first configuration serves"
                    );
                    if let Some(on_started) = options.on_started {
                        on_started(&started);
                    }
                    shutdown.begun().await;
                }
            }
        }
    }

    // Readiness fails now. As long as clients may still come the configuration is followed: endpoints go away.
    lifecycle.advance(Phase::Draining);
    tracing::info!(?delay, at_most = ?options.drain_timeout, "draining");
    tokio::time::sleep(delay).await;
    // It waits for threads, so it waits on one that may.
    tokio::task::spawn_blocking(move || control.stop()).await.context("stopping the control thread")?;
    gateway.drain(Duration::ZERO, options.drain_timeout).await;
    servers.stop().await;
    obey.abort();
    tracing::info!("stopped");
    Ok(())
}

/// Waits until one of the configured ports is bound. A gateway whose ports all belong to others is not ready: the others
/// would answer what it is sent. Without any port there is nothing to wait for: an empty folder is a configuration.
async fn any_port(gateway: &Gateway) {
    let mut told = false;
    loop {
        let listeners = gateway.listeners();
        if listeners.is_empty() || listeners.iter().any(|listener| listener.error.is_none()) {
            return;
        }
        if !told {
            tracing::warn!(ports = listeners.len(), "not ready: none of the configured ports could be bound");
            told = true;
        }
        tokio::time::sleep(PORT_POLL).await;
    }
}

/// Time between two looks at ports that are in use.
const PORT_POLL: Duration = Duration::from_millis(250);

/// Idle connections to backends that one worker keeps at most: each costs a file and some kilobytes at both ends.
const MAX_IDLE_UPSTREAM: usize = 16_384;

fn gateway_options(options: &RunOptions) -> GatewayOptions {
    let defaults = GatewayOptions::default();
    let workers = options.workers.unwrap_or(defaults.workers).max(1);
    let files = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    let limits = Limits {
        // A connection in use has one to a backend beside it; a sixteenth is left for files, listeners and servers.
        max_connections: defaults.limits.max_connections.min(files / 2 - files / 16),
        // Idle ones to backends may take a quarter of all, over all workers.
        max_idle_upstream: (files / 4 / workers).clamp(64, MAX_IDLE_UPSTREAM),
        ..defaults.limits
    };
    GatewayOptions {
        workers,
        limits,
        port_offset: options.port_offset.map_or(PortOffset::Auto, PortOffset::Fixed),
        node: backend::proxy_node(&options.read),
        dns: DnsOptions { name_servers: options.name_servers.clone() },
        ..defaults
    }
}

/// Raises the limit on open files as far as it goes: one connection through the gateway takes two of them.
fn raise_open_files() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(from = limit.current, to = limit.maximum, "raised the limit on open files"),
        Err(error) => tracing::warn!(limit = limit.current, %error, "cannot raise the limit on open files"),
    }
}

/// The admin, metrics and health servers, each where it is wanted.
struct Servers {
    admin: Option<SocketAddr>,
    stats: Option<SocketAddr>,
    health: Option<SocketAddr>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Servers {
    fn start(options: &RunOptions, backend: &Arc<ProcessBackend>, lifecycle: &Lifecycle) -> anyhow::Result<Self> {
        let backend = || -> Arc<dyn Backend> { backend.clone() };
        let bind = |address: Option<SocketAddr>, bind: fn(_, _, _) -> Result<BoundServer, BindError>| {
            address.map(|address| bind(address, backend(), lifecycle.clone())).transpose()
        };
        let admin = bind(options.admin_address, AdminServer::bind)?;
        let stats = bind(options.stats_address, StatsServer::bind)?;
        let health = bind(options.health_address, HealthServer::bind)?;
        let address = |server: &Option<BoundServer>| server.as_ref().map(BoundServer::local_addr);
        let servers = Self {
            admin: address(&admin),
            stats: address(&stats),
            health: address(&health),
            cancel: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        for server in [admin, stats, health].into_iter().flatten() {
            let cancel = servers.cancel.clone();
            servers.tasks.spawn(async move {
                let address = server.local_addr();
                if let Err(error) = server.serve(cancel).await {
                    tracing::error!(%address, %error, "an administrative server ended");
                }
            });
        }
        servers.tasks.close();
        Ok(servers)
    }

    /// # Errors
    /// A socket that cannot be had, or must not be.
    fn serve_sds(&self, options: &RunOptions, secrets: &Secrets) -> anyhow::Result<()> {
        let Some(server) = options.sds_server.clone() else { return Ok(()) };
        let server = SdsServer::bind(server, secrets.store().clone()).context("starting the SDS server")?;
        tracing::info!(
            socket = server.unix_path().map(|path| tracing::field::display(path.display())),
            address = server.tcp_address().map(tracing::field::display),
            "secrets are served by SDS"
        );
        secrets.set_sds_server(server.monitor());
        let cancel = self.cancel.clone();
        // Closed trackers take tasks as well.
        self.tasks.spawn(async move {
            if let Err(error) = server.serve(cancel).await {
                tracing::error!(%error, "the SDS server ended");
            }
        });
        Ok(())
    }

    fn started(&self, hash: String) -> Started {
        Started { admin: self.admin, stats: self.stats, health: self.health, hash }
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.tasks.wait().await;
    }
}
