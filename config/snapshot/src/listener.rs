use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use tidegate_core::{Host, Origin, ResourceKey};

use crate::{RequestView, RouteTable, VirtualHost};

/// How the bytes of a listener are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ListenerProtocol {
    /// Plaintext HTTP/1.1, and HTTP/2 by its preface.
    Http,
}

/// One address and port that the gateway accepts on.
#[derive(Clone, Debug, Serialize)]
pub struct Listener {
    /// `<bind>_<port>` as Envoy names it: `0.0.0.0_80`.
    pub name: String,
    /// The server's `bind`; none accepts on every address of both families.
    pub bind: Option<IpAddr>,
    /// The port that the Gateway names. The port that is bound may be another (below 1024: +8000).
    pub port: u16,
    pub protocol: ListenerProtocol,
    /// In order of specificity; never empty.
    pub filter_chains: Vec<FilterChain>,
    /// The Gateway servers that made this listener, oldest first.
    #[serde(skip)]
    pub sources: Vec<(ResourceKey, Origin)>,
}

/// What serves the connections of a listener that fit it.
#[derive(Clone, Debug, Serialize)]
pub struct FilterChain {
    pub name: String,
    /// Server names (SNI) that choose this chain; empty for any connection.
    #[serde(serialize_with = "host_names")]
    pub server_names: Vec<Host>,
    pub route_table: Arc<RouteTable>,
}

pub(crate) fn host_names<S: serde::Serializer>(hosts: &[Host], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(hosts.iter().map(Host::as_str))
}

impl Listener {
    /// The chain of a connection: exact server name, then the longest wildcard, then the chain for any.
    pub fn select_filter_chain(&self, server_name: Option<&str>) -> Option<&FilterChain> {
        let name = server_name.unwrap_or_default();
        self.filter_chains
            .iter()
            .filter_map(|chain| {
                if chain.server_names.is_empty() {
                    return Some((chain, None));
                }
                let host = chain.server_names.iter().filter(|host| host.matches(name)).min()?;
                Some((chain, Some(host)))
            })
            // `Host` orders specific ones first; a chain for any connection comes after all of them.
            .min_by_key(|(_, host)| (host.is_none(), *host))
            .map(|(chain, _)| chain)
    }
}

impl FilterChain {
    /// The virtual host of a request and the index of its route, as far as each exists.
    pub fn select<'a>(&'a self, request: &RequestView<'_>) -> (Option<&'a Arc<VirtualHost>>, Option<usize>) {
        let virtual_host = self.route_table.select_virtual_host(crate::host_without_port(request.authority));
        let route = virtual_host.and_then(|host| host.select_route(request));
        (virtual_host, route)
    }
}
