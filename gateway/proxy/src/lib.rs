//! The data plane: listeners, connections, the HTTP request path, upstreams, metrics and access logs.
//!
//! It owns sockets, worker threads and everything that happens to a request between its first byte and its log line.
//! It does not own decisions that follow from configuration and request alone: which virtual host, route, cluster and
//! path a request gets is asked of `tidegate-snapshot`. It knows no YAML, no Kubernetes and no command line.
//!
//! Invariants:
//! - a request reads one [`Published`](published::Published) and keeps it until it ends, so it never sees two Snapshots;
//! - publishing never closes a connection of a listener that stays; a listener that goes finishes what it has;
//! - a request is served on a connection only if the handshake asked of its client what the request's filter chain asks;
//! - nothing that a client or a backend sends makes a worker panic or keep memory without a bound;
//! - there is no lock on the path of a request.
//!
//! HTTP is our own: heads are one arena of text that is edited in place ([`message`]), a request runs through one exchange
//! whatever its client and its backend speak, and bodies pass through one buffer of the worker's thread. (An earlier form
//! stood on pingora-proxy and needed twice the CPU; `benches/README.md` has the figures.)

mod accept;
mod app;
mod belonging;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod certificate_names;
mod chunked;
mod client_stream;
mod connection;
mod decide;
mod direct_chain;
mod edge;
mod establish;
mod exchange;
mod failure;
mod forwarded_client_cert;
mod gateway;
mod grpc_timeout;
mod header_operations;
mod http1;
mod http2;
mod listener;
mod listeners;
mod local_reply;
mod message;
mod options;
mod proxy_protocol;
mod published;
mod request_context;
mod request_head;
mod respond;
mod retry;
mod routing;
mod serve;
mod shared;
mod sockets;
mod tcp;
mod telemetry;
mod tls;
mod tls_parameters;
mod upstream;
mod worker;

pub use gateway::{Gateway, StartError};
pub use listener::ListenerStatus;
pub use options::{GatewayOptions, Limits, PortOffset};
pub use telemetry::NodeInfo;
pub use upstream::{ClusterStatus, DnsOptions, DnsStatus, EndpointStatus};
