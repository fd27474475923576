//! One running gateway: from the options of a command line to the end of the process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::logging::LogOptions;

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

/// Everything that `tidegate run` and `tidegate demo` can settle.
pub(crate) struct RunOptions {
    pub(crate) source: ConfigSource,
    pub(crate) read: ReadOptions,
    pub(crate) state_dir: StateDir,
    /// Added to ports below 1024; none: 8000, only when the process may not bind them.
    pub(crate) port_offset: Option<u16>,
    /// Port 0 takes any; none runs without that server.
    pub(crate) admin_address: Option<SocketAddr>,
    pub(crate) stats_address: Option<SocketAddr>,
    pub(crate) health_address: Option<SocketAddr>,
    /// Threads that serve traffic; none: one per core.
    pub(crate) workers: Option<usize>,
    /// From failing readiness to closing listeners.
    pub(crate) drain_delay: Duration,
    /// Cap on waiting for requests in flight after that.
    pub(crate) drain_timeout: Duration,
    pub(crate) log: LogOptions,
    /// Called once, on the control runtime, when the first Snapshot serves: prints a banner. Must not block for long.
    pub(crate) on_started: Option<Box<dyn FnOnce(&Started) + Send>>,
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
            port_offset: None,
            admin_address: local(15000),
            stats_address: any(15020),
            health_address: any(15021),
            workers: None,
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
pub(crate) fn run(_options: RunOptions) -> anyhow::Result<()> {
    anyhow::bail!("the data plane is not wired yet")
}
