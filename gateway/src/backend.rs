//! The process as the admin interface sees it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidegate_admin::{Backend, ClusterStatus, ConfigStatus, EndpointStatus, ListenerStatus, NodeInfo, SecretStatus};
use tidegate_core::{Lifecycle, Phase};
use tidegate_proxy::Gateway;
use tidegate_snapshot::{Locality, SecretStanding, Snapshot};
use tokio::runtime::Handle;

use crate::control::StatusCell;
use crate::logging::LogLevels;
use crate::run::{ReadOptions, RunOptions};
use crate::secrets::Secrets;
use crate::shutdown::Shutdown;

/// Istio's name of the only cluster there is.
const CLUSTER_ID: &str = "Kubernetes";

/// The admin interface's way to everything that runs.
pub(crate) struct ProcessBackend {
    gateway: Arc<Gateway>,
    secrets: Arc<Secrets>,
    status: StatusCell,
    lifecycle: Lifecycle,
    shutdown: Shutdown,
    levels: LogLevels,
    node: NodeInfo,
    drain_delay: Duration,
    drain_timeout: Duration,
    runtime: Handle,
}

impl ProcessBackend {
    /// Must be called on the control runtime.
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        secrets: Arc<Secrets>,
        status: StatusCell,
        lifecycle: Lifecycle,
        shutdown: Shutdown,
        levels: LogLevels,
        options: &RunOptions,
    ) -> Self {
        Self {
            gateway,
            secrets,
            status,
            lifecycle,
            shutdown,
            levels,
            node: admin_node(&options.read),
            drain_delay: options.drain_delay,
            drain_timeout: options.drain_timeout,
            runtime: Handle::current(),
        }
    }
}

impl Backend for ProcessBackend {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.gateway.snapshot()
    }

    fn write_metrics(&self, out: &mut dyn std::fmt::Write) {
        self.gateway.write_metrics(out);
        self.secrets.write_metrics(out);
    }

    fn clusters(&self) -> Vec<ClusterStatus> {
        self.gateway.clusters().into_iter().map(cluster).collect()
    }

    fn listeners(&self) -> Vec<ListenerStatus> {
        self.gateway.listeners().into_iter().map(listener).collect()
    }

    fn secrets(&self) -> Vec<SecretStatus> {
        self.secrets.status()
    }

    fn secret_standing(&self, names: &[String]) -> Option<SecretStanding> {
        Some(self.secrets.standing(names))
    }

    fn secret_sources(&self) -> serde_json::Value {
        self.secrets.source_status()
    }

    fn config_status(&self) -> ConfigStatus {
        ConfigStatus::clone(&self.status.get())
    }

    fn drain(&self, graceful: bool, skip_exit: bool) {
        self.lifecycle.advance(Phase::Draining);
        if skip_exit {
            return;
        }
        let (gateway, deadline) = (self.gateway.clone(), self.drain_timeout);
        let delay = if graceful { self.drain_delay } else { Duration::ZERO };
        self.runtime.spawn(async move { gateway.drain(delay, deadline).await });
    }

    fn quit(&self) {
        self.shutdown.begin();
    }

    fn log_levels(&self) -> Vec<(String, String)> {
        self.levels.list()
    }

    fn set_log_level(&self, spec: &str) -> Result<(), String> {
        self.levels.set(spec)
    }

    fn node(&self) -> NodeInfo {
        self.node.clone()
    }

    fn reopen_logs(&self) {
        self.gateway.reopen_logs();
    }
}

/// The workload's name: the pod's without its hashes would be better, and is not known outside Kubernetes.
fn workload(read: &ReadOptions) -> String {
    let label = |name: &str| read.labels.get(name).filter(|value| !value.is_empty()).cloned();
    label("app").or_else(|| label("istio")).unwrap_or_else(|| "tidegate".to_owned())
}

/// The node in metrics: the source of every request.
pub(crate) fn proxy_node(read: &ReadOptions) -> tidegate_proxy::NodeInfo {
    tidegate_proxy::NodeInfo {
        name: workload(read),
        namespace: read.namespace.clone(),
        cluster: CLUSTER_ID.into(),
        labels: read.labels.clone(),
    }
}

pub(crate) fn admin_node(read: &ReadOptions) -> NodeInfo {
    let name = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME")).unwrap_or_else(|_| workload(read));
    let ip = std::env::var("INSTANCE_IP").unwrap_or_else(|_| "127.0.0.1".into());
    NodeInfo {
        id: NodeInfo::router_id(&ip, &name, &read.namespace, &read.cluster_domain),
        name: workload(read),
        namespace: read.namespace.clone(),
        cluster_id: CLUSTER_ID.into(),
        labels: read.labels.clone(),
        locality: Locality::default(),
        version: env!("CARGO_PKG_VERSION").into(),
        revision: option_env!("TIDEGATE_GIT_REVISION").unwrap_or_default().into(),
        started: Some(SystemTime::now()),
    }
}

fn listener(listener: tidegate_proxy::ListenerStatus) -> ListenerStatus {
    ListenerStatus {
        name: listener.name.to_string(),
        port: listener.port,
        bound: listener.bound,
        error: listener.error,
        connections_active: listener.connections_active,
        connections_total: listener.connections_total,
    }
}

fn cluster(cluster: tidegate_proxy::ClusterStatus) -> ClusterStatus {
    let endpoints = cluster.endpoints.into_iter().map(|endpoint| EndpointStatus {
        address: endpoint.address.to_string(),
        hostname: endpoint.hostname.map(|name| name.to_string()).unwrap_or_default(),
        health: endpoint.health,
        weight: endpoint.weight,
        locality: endpoint.locality,
        cx_active: endpoint.cx_active,
        cx_connect_fail: endpoint.cx_connect_fail,
        cx_total: endpoint.cx_total,
        rq_active: endpoint.rq_active,
        rq_error: endpoint.rq_error,
        rq_success: endpoint.rq_success,
        rq_timeout: endpoint.rq_timeout,
        rq_total: endpoint.rq_total,
    });
    ClusterStatus { name: cluster.name.to_string(), endpoints: endpoints.collect() }
}
