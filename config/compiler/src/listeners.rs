//! The listeners of a Snapshot with their filter chains.

use std::sync::Arc;

use ahash::AHashSet;
use tidegate_core::Host;
use tidegate_snapshot::{FilterChain, Listener, ListenerProtocol, NetworkFilter, ServerTls, TcpProxy};

use crate::bindings::BoundPort;
use crate::gateways::{Family, GatewayServer, Serving};
use crate::tcp_routes::{BoundRule, RulePlace};
use crate::virtual_hosts::VirtualHosts;

/// Makes a listener of every port that serves anything.
pub(crate) fn listeners(mut virtual_hosts: VirtualHosts<'_, '_, '_, '_, '_>) -> Vec<Listener> {
    let bindings = virtual_hosts.bindings;
    bindings.ports.iter().filter_map(|port| listener(port, &mut virtual_hosts)).collect()
}

fn listener(bound: &BoundPort<'_>, making: &mut VirtualHosts<'_, '_, '_, '_, '_>) -> Option<Listener> {
    let (number, bind) = (bound.port.number, bound.port.bind);
    let name = match bind {
        Some(bind) => format!("{bind}_{number}"),
        None => format!("0.0.0.0_{number}"),
    };
    let (protocol, chains) = match bound.port.family {
        Family::Http => (ListenerProtocol::Http, plaintext_chain(&name, bound, making).into_iter().collect()),
        Family::Tls => (ListenerProtocol::Tls, tls_chains(bound, making)),
        Family::Opaque => (ListenerProtocol::Tcp, tcp_chain(&name, bound, making).into_iter().collect()),
    };
    if chains.is_empty() {
        return None;
    }
    let mut listener = Listener::new(name, bind, number, protocol, chains);
    listener.sources = bound.port.servers.iter().map(GatewayServer::source).collect();
    Some(listener)
}

fn plaintext_chain(
    name: &str,
    bound: &BoundPort<'_>,
    making: &mut VirtualHosts<'_, '_, '_, '_, '_>,
) -> Option<FilterChain> {
    let table = match bound.port.bind {
        Some(bind) => format!("http.{}.{bind}", bound.port.number),
        None => format!("http.{}", bound.port.number),
    };
    let hosts = bound.tables.first()?;
    let table = making.route_table(table, bound, hosts, bound.port.servers.iter());
    Some(FilterChain::new(name.to_owned(), NetworkFilter::Http(Arc::new(table))))
}

fn tcp_chain(name: &str, bound: &BoundPort<'_>, making: &mut VirtualHosts<'_, '_, '_, '_, '_>) -> Option<FilterChain> {
    let server = bound.port.servers.first().filter(|server| matches!(server.serving, Serving::Tcp))?;
    let rule = bound.rules.first();
    let mut chain = FilterChain::new(name.to_owned(), NetworkFilter::Tcp(proxy(rule, making)));
    chain.sources = vec![server.source()];
    chain.sources.extend(rule.and_then(|rule| rule.source(making.bindings)));
    Some(chain)
}

fn proxy(rule: Option<&BoundRule>, making: &mut VirtualHosts<'_, '_, '_, '_, '_>) -> TcpProxy {
    match rule {
        Some(rule) => rule.proxy(making.bindings, making.clusters, making.table, making.findings),
        None => closing(),
    }
}

/// Closes its connections.
fn closing() -> TcpProxy {
    TcpProxy::new(String::new(), Vec::new(), None)
}

/// One chain for each server that terminates and for each set of server names that is passed through, in order of
/// precedence; none if that is none.
///
/// The hosts of a server that cannot be served are held by a chain that closes its connections: they would be served by
/// a server for a wider host otherwise, which may ask less of its clients.
fn tls_chains(bound: &BoundPort<'_>, making: &mut VirtualHosts<'_, '_, '_, '_, '_>) -> Vec<FilterChain> {
    let serves = |server: &GatewayServer<'_>| matches!(server.serving, Serving::Https(_) | Serving::Tls(_));
    if bound.rules.is_empty() && !bound.port.servers.iter().any(serves) {
        return Vec::new();
    }
    let mut chains = Vec::with_capacity(bound.port.servers.len());
    let mut names = AHashSet::new();
    let mut rules = bound.rules.iter().peekable();
    for (number, server) in bound.port.servers.iter().enumerate() {
        // Without a name a chain would be for every connection.
        let server_names = || -> Option<Vec<Host>> {
            (!server.hosts.is_empty()).then(|| server.hosts.iter().map(|host| host.host.clone()).collect())
        };
        let mut of_server = std::iter::from_fn(|| rules.next_if(|rule| rule.server == number));
        match &server.serving {
            Serving::Https(tls) => {
                let Some(server_names) = server_names() else { continue };
                let name = unique(&mut names, server.chain_name("https", bound.port.number), server);
                let hosts = bound.table_of.get(number).copied().flatten().and_then(|at| bound.tables.get(at));
                let Some(hosts) = hosts else { continue };
                let table = making.route_table(name.clone(), bound, hosts, std::iter::once(server));
                let filter = NetworkFilter::Http(Arc::new(table));
                chains.push(chain(name, server_names, Some(tls), filter, server));
            }
            Serving::Tls(tls) => {
                let rule = of_server.next();
                let Some(server_names) = server_names() else { continue };
                let name = unique(&mut names, server.chain_name("tls", bound.port.number), server);
                let filter = NetworkFilter::Tcp(proxy(rule, making));
                let mut chain = chain(name, server_names, Some(tls), filter, server);
                chain.sources.extend(rule.and_then(|rule| rule.source(making.bindings)));
                chains.push(chain);
            }
            Serving::Passthrough => {
                for rule in of_server {
                    let name = unique(&mut names, rule.chain_name(bound.port.number, making), server);
                    let filter = NetworkFilter::Tcp(proxy(Some(rule), making));
                    let mut chain = chain(name, rule.server_names.clone(), None, filter, server);
                    chain.sources.extend(rule.source(making.bindings));
                    chains.push(chain);
                }
            }
            Serving::Nothing => {
                let Some(server_names) = server_names() else { continue };
                let name = unique(&mut names, server.chain_name("closed", bound.port.number), server);
                chains.push(chain(name, server_names, None, NetworkFilter::Tcp(closing()), server));
            }
            Serving::Http | Serving::Tcp => {}
        }
    }
    chains
}

fn chain(
    name: String,
    server_names: Vec<Host>,
    tls: Option<&Arc<ServerTls>>,
    filter: NetworkFilter,
    server: &GatewayServer<'_>,
) -> FilterChain {
    let mut chain = FilterChain::new(name, filter);
    chain.server_names = server_names;
    chain.tls = tls.map(Arc::clone);
    chain.sources = vec![server.source()];
    chain
}

/// Port names are unique in a Gateway that was validated; a name that is taken all the same gets the server's place.
fn unique(names: &mut AHashSet<String>, mut name: String, server: &GatewayServer<'_>) -> String {
    while !names.insert(name.clone()) {
        name = format!("{name}.{}", server.index);
    }
    name
}

impl GatewayServer<'_> {
    /// `https.443.<port name>.<gateway>.<namespace>`, as istiod names route tables.
    fn chain_name(&self, kind: &str, port: u16) -> String {
        format!("{kind}.{port}.{}.{}.{}", self.port_name, self.name.name, self.name.namespace)
    }
}

impl BoundRule {
    /// `passthrough.443.<virtual service>.<namespace>.<rule>.<entry>`.
    fn chain_name(&self, port: u16, making: &VirtualHosts<'_, '_, '_, '_, '_>) -> String {
        let key = making.bindings.binding(self.key).map(|binding| &binding.object.key);
        let (name, namespace) = key.map(|key| (&*key.name, &*key.namespace)).unwrap_or_default();
        let (rule, entry) = match self.place {
            RulePlace::Tcp(rule) => (rule, 0),
            RulePlace::Tls(rule, entry) => (rule, entry),
        };
        format!("passthrough.{port}.{name}.{namespace}.{rule}.{entry}")
    }
}
