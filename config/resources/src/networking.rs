//! Istio's `networking.istio.io` kinds, one file each. Field names and zero values are those of the protobuf messages
//! (istio/api, `networking/v1alpha3`); messages carry no prefix apart from those whose plain name says too little.
//!
//! A proto scalar is a plain value whose zero means "not set"; a wrapper or a message is an `Option`.

mod destination_rule;
mod gateway;
mod service_entry;
mod virtual_service;
mod workload_entry;

pub use destination_rule::{
    ClientTlsMode, ClientTlsSettings, ConnectionKeepalive, ConnectionPoolSettings, ConsistentHashLb, DestinationRule,
    Distribute, Failover, H2UpgradePolicy, HttpCookie, HttpCookieAttribute, HttpSettings, LoadBalancerSettings,
    LocalityLoadBalancerSetting, MagLev, MatchLabelsSelector, OutlierDetection, PortTrafficPolicy, ProxyProtocol,
    ProxyProtocolVersion, RetryBudget, RingHash, SimpleLb, Subset, TcpKeepalive, TcpSettings, TrafficPolicy,
    TunnelSettings, WarmupConfiguration, ZoneAwareLoadBalancerSetting,
};
pub use gateway::{Gateway, Port, Server, ServerTlsMode, ServerTlsSettings, TlsCertificate, TlsProtocol};
pub use service_entry::{Location, Resolution, ServiceEntry, ServicePort, WorkloadSelector};
pub use virtual_service::{
    Abort, CorsPolicy, Delay, Delegate, Destination, HeaderOperations, Headers, HttpBody, HttpDirectResponse,
    HttpFaultInjection, HttpMatchRequest, HttpMirrorPolicy, HttpRedirect, HttpRetry, HttpRewrite, HttpRoute,
    HttpRouteDestination, L4MatchAttributes, Percent, PortSelector, RedirectPortSelection, RegexRewrite,
    RouteDestination, StringMatch, TcpRoute, TlsMatchAttributes, TlsRoute, UnmatchedPreflights, VirtualService,
};
pub use workload_entry::WorkloadEntry;
