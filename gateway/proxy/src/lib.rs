//! The data plane: listeners, connections, the HTTP request path on Pingora, upstreams, metrics and access logs.
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
//! Pingora is used as a library: `HttpProxy` serves requests on our own streams, accept loops and worker threads
//! (`Server`, `Service` and its listeners are not used). It logs through the `log` crate under `pingora_core`,
//! `pingora_proxy` and `h2`; those lines repeat what our metrics and access log say, so a binary should keep them at
//! `off` or behind `debug`.

mod accept;
mod app;
mod belonging;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod certificate_names;
mod chunked;
mod connection;
mod deadline;
mod direct_chain;
mod edge;
mod establish;
mod failure;
mod forwarded_client_cert;
mod gateway;
mod grpc_timeout;
mod header_operations;
mod http1;
mod http2;
mod http_proxy;
mod http_service;
mod listener;
mod listeners;
mod local_reply;
mod message;
mod options;
mod peer;
mod proxy_protocol;
mod published;
mod request_context;
mod request_head;
mod respond;
mod response_head;
mod retry;
mod routing;
mod serve;
mod shared;
mod sockets;
mod stream;
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
