//! What the admin interface asks of the process that it runs in.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};
use tidegate_core::Diagnostic;
use tidegate_snapshot::{Health, Locality, SecretStanding, Snapshot};

use crate::SecretStatus;

/// The running process, as the admin interface sees it. The binary implements it over the data plane and the control
/// loop.
///
/// Methods are called from blocking threads of the admin runtime and may take some milliseconds; none may wait for a
/// client. Those that ask for something ([`drain`](Self::drain), [`quit`](Self::quit)) start it and return at once.
pub trait Backend: Send + Sync + 'static {
    /// The Snapshot that requests are served from now.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// Writes all metrics in Prometheus' text format, each family with its HELP and TYPE lines. `out` may block for a
    /// slow client, so no lock may be held over a write; after its first error nothing more need be written.
    fn write_metrics(&self, out: &mut dyn fmt::Write);

    /// Every cluster that serves, sorted by name, with its endpoints as they are now (resolved names too).
    fn clusters(&self) -> Vec<ClusterStatus>;

    /// Every listener, sorted by name; one that could not be bound has no addresses.
    fn listeners(&self) -> Vec<ListenerStatus>;

    /// Every secret that a source has or that the Snapshot names, sorted by name, without any key.
    fn secrets(&self) -> Vec<SecretStatus>;

    /// How the secret stands that a reference with these names means, by the first that holds something. None if nobody
    /// knows.
    fn secret_standing(&self, names: &[String]) -> Option<SecretStanding>;

    /// How the sources of secrets stand that are not the configuration (SDS servers, ACME authorities), and who is given
    /// secrets; without keys. An object with a field for each.
    fn secret_sources(&self) -> serde_json::Value;

    /// How the configuration that serves came about and what was found in it.
    fn config_status(&self) -> ConfigStatus;

    /// Begins to drain all listeners. `graceful` keeps accepting during the drain delay; `skip_exit` (only together
    /// with `graceful`) tells connections to go away and never closes the listeners.
    fn drain(&self, graceful: bool, skip_exit: bool);

    /// Begins the same shutdown that SIGTERM begins.
    fn quit(&self);

    /// Logger names with their levels (`trace`, `debug`, `info`, `warning`, `error`, `off`), sorted by name.
    fn log_levels(&self) -> Vec<(String, String)>;

    /// Changes levels. `spec` is a level for all loggers (`debug`), or `name=level` pairs joined by commas
    /// (`http=debug,router=info`). Levels are `trace`, `debug`, `info`, `warn`, `error` and `off`: Envoy's other names
    /// were translated.
    ///
    /// # Errors
    /// A message for the user: an unknown logger, a level that is none. Nothing was changed then.
    fn set_log_level(&self, spec: &str) -> Result<(), String>;

    /// Who this gateway is.
    fn node(&self) -> NodeInfo;

    /// Opens access log files anew, after a rotation moved them away.
    fn reopen_logs(&self);
}

/// Who this gateway is: Envoy's `node`, as istiod and istioctl write it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeInfo {
    /// `router~<ip>~<name>.<namespace>~<namespace>.svc.<cluster domain>`; see [`NodeInfo::router_id`].
    pub id: String,
    /// The workload's name, `istio-ingressgateway`.
    pub name: String,
    pub namespace: String,
    /// Id of the cluster (network of machines) that the gateway runs in, `Kubernetes` by Istio's default.
    pub cluster_id: String,
    /// The gateway's own labels, by which Gateways select it.
    pub labels: BTreeMap<String, String>,
    pub locality: Locality,
    /// Version of Tidegate, `0.1.0`.
    pub version: String,
    /// Source revision of the build, empty if it is not known.
    pub revision: String,
    /// The process's start.
    pub started: Option<SystemTime>,
}

impl NodeInfo {
    /// Istio's id of a gateway: `router~10.0.0.7~gw-1.istio-system~istio-system.svc.cluster.local`.
    pub fn router_id(ip: &str, name: &str, namespace: &str, cluster_domain: &str) -> String {
        format!("router~{ip}~{name}.{namespace}~{namespace}.svc.{cluster_domain}")
    }
}

/// A cluster at run time.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ClusterStatus {
    /// `outbound|80|v1|reviews.default.svc.cluster.local`.
    pub name: String,
    /// Sorted by address.
    pub endpoints: Vec<EndpointStatus>,
}

/// An endpoint at run time. Counters count since the endpoint became known.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct EndpointStatus {
    /// `ip:port`, `[ip]:port` or `unix:///path`.
    pub address: String,
    /// The name that was resolved to the address; empty for none.
    pub hostname: String,
    pub health: Health,
    pub weight: u32,
    pub locality: Locality,
    pub cx_active: u64,
    pub cx_connect_fail: u64,
    pub cx_total: u64,
    pub rq_active: u64,
    /// 5xx answers, resets and timeouts.
    pub rq_error: u64,
    pub rq_success: u64,
    pub rq_timeout: u64,
    pub rq_total: u64,
}

/// A listener at run time.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ListenerStatus {
    /// `0.0.0.0_80`.
    pub name: String,
    /// The port that the Gateway names.
    pub port: u16,
    /// Where it really accepts (port 80 may be bound at 8080); empty when binding failed.
    pub bound: Vec<SocketAddr>,
    /// Why it could not be bound.
    pub error: Option<String>,
    pub connections_active: u64,
    pub connections_total: u64,
}

/// Where the serving configuration comes from and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConfigStatus {
    /// Counts published Snapshots of this process from 1; 0 before the first.
    pub generation: u64,
    /// Hash of the Snapshot that serves.
    pub hash: String,
    /// When that Snapshot was published.
    #[serde(serialize_with = "time")]
    pub published: Option<SystemTime>,
    pub last_reload: Option<ReloadStatus>,
    /// Why something older than the sources is served, in a sentence for people; none when the sources serve whole.
    pub serving_last_good: Option<String>,
    /// Folders and files that are read.
    pub sources: Vec<String>,
    /// Served objects by kind.
    pub objects: Vec<ObjectCount>,
    /// What the last reload found, most severe first.
    pub diagnostics: Arc<Vec<Diagnostic>>,
}

/// The last attempt to read the sources.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ReloadStatus {
    #[serde(serialize_with = "instant")]
    pub at: SystemTime,
    /// Whether everything that was read is served.
    pub success: bool,
    pub milliseconds: u64,
}

/// Objects of one kind.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ObjectCount {
    /// `VirtualService`.
    pub kind: String,
    /// Objects that serve in their present form.
    pub accepted: usize,
    /// Objects whose present form was rejected and that serve in an older one.
    pub last_good: usize,
    /// Objects that were rejected and do not serve.
    pub rejected: usize,
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn time<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => instant(at, serializer),
        None => serializer.serialize_none(),
    }
}

fn instant<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp(*at))
}

/// RFC 3339 in UTC with milliseconds, protobuf's JSON form of a timestamp.
pub(crate) fn timestamp(at: SystemTime) -> String {
    // The formatter panics before 1970, where a machine without a clock may be.
    humantime::format_rfc3339_millis(at.max(SystemTime::UNIX_EPOCH)).to_string()
}
