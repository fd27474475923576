//! The admin interface: Envoy's endpoints on 15000, merged metrics on 15020, the health probe on 15021.
//!
//! It owns the shapes that scripts and stock tools read (`istioctl proxy-config`, `curl .../config_dump | jq`,
//! Prometheus) and the rules that keep the port from being used by others than the operator (loopback, `Host`,
//! `Origin`, sizes, times, connection counts). It does not own what it shows: the compiled [`Snapshot`] is read as it
//! serves, and everything live comes through [`Backend`], which the binary implements over the data plane.
//!
//! Invariants: no request changes anything unless it is a POST; nothing is answered to a browser page of another site;
//! no answer holds key material; no handler runs on the data plane's threads.
//!
//! Names and JSON shapes are those of Envoy's `envoy.admin.v3` messages (snake case, as Envoy prints them) and of its
//! "Administration interface" page: <https://www.envoyproxy.io/docs/envoy/latest/operations/admin>.
//!
//! [`Snapshot`]: tidegate_snapshot::Snapshot

mod backend;
mod body;
mod certs;
mod config;
mod dump;
mod endpoint;
mod explain;
mod guard;
mod help;
mod log;
mod process;
mod routes;
mod secret;
mod server;
mod stats;
mod upstream;

pub use backend::{
    Backend, ClusterStatus, ConfigStatus, EndpointStatus, ListenerStatus, NodeInfo, ObjectCount, ReloadStatus,
};
pub use dump::{DumpError, DumpOptions, base64, config_dump, config_dump_masked, config_dump_resource};
pub use guard::AllowedHosts;
pub use secret::{AlternativeName, CertificateFacts, PublicBytes, SecretContent, SecretState, SecretStatus};
pub use server::{AdminServer, BindError, BoundServer, HealthServer, StatsServer};
