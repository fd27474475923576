//! The compiled configuration and the pure functions that select over it.
//!
//! It owns the immutable model (listener, filter chain, route table, virtual host, route, cluster, endpoint) and every
//! decision that can be made from a model and a request alone: path normalization, virtual host and route selection,
//! rewrites, redirects, explanations. It does no I/O, knows no YAML and no sockets. Serving, `explain`, `config_dump`
//! and tests all call these functions; there is no second implementation of matching.
//!
//! Invariants: a value of these types is never changed after it was built; everything that a user configured is
//! serialized (and so hashed), places in files are not; a route names a cluster of its own Snapshot or says that it is
//! missing.

mod cluster;
mod explain;
mod format;
mod hash;
mod hints;
mod listener;
mod matching;
mod mesh;
mod path;
mod request;
mod rewrite;
mod route;
mod snapshot;
mod tcp;
mod tls;
mod virtual_host;

pub use cluster::{
    Cluster, DestinationService, Discovery, DnsTarget, Endpoint, EndpointAddress, Health, LoadBalancing, Locality,
    UpstreamProtocol, Workload,
};
pub use explain::{
    ExplainRequest, ExplainedClientTls, ExplainedFilterChain, ExplainedSecret, ExplainedTls, Explanation,
    SecretStanding, SecretState, TriedRoute, server_name_of,
};
pub use format::{Facts, FormatError, HeaderField, HeaderOperand, Operator, Part, Template, TimeFormat};
pub use listener::{FilterChain, Listener, ListenerProtocol, NetworkFilter};
pub use matching::{HeaderMatch, Mismatch, PathMatch, Pattern, PatternError, QueryMatch, RouteMatch, StringMatch};
pub use mesh::{
    AccessLog, AccessLogEncoding, AccessLogFormat, ClientCertDetails, ForwardClientCert, MeshSettings, ServerHeader,
};
pub use path::{BadPath, PathNormalization, normalize};
pub use request::{Headers, RequestView, host_without_port};
pub use rewrite::{PathRewrite, Redirect, RedirectPath, RedirectPort, RegexRewrite};
pub use route::{
    ClusterRef, DirectResponse, Forward, HeaderOperations, HeaderValueTemplate, Route, RouteAction, Source,
    WeightedCluster,
};
pub use snapshot::{ClusterIndex, Snapshot, SnapshotHash};
pub use tcp::{TcpDestination, TcpProxy};
pub use tls::{
    CipherSuite, ClientTls, ClientValidation, Digest256, KeyExchangeGroup, SecretRef, ServerTls, ServerTlsMode,
    ServerTrust, TlsParameters, TlsVersion, UpstreamServerName,
};
pub use virtual_host::{RouteTable, VirtualHost};
