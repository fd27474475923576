//! The listeners of a Snapshot with their filter chains.

use std::sync::Arc;

use ahash::AHashSet;
use tidegate_core::Host;
use tidegate_snapshot::{FilterChain, Listener, ListenerProtocol, NetworkFilter, ServerTls};

use crate::bindings::{Bindings, BoundPort};
use crate::gateways::{Family, GatewayPort, GatewayServer, Serving};
use crate::tables::MadePort;
use crate::tcp_routes::{BoundRule, RulePlace};
use crate::virtual_hosts::{VirtualHosts, closing};

/// The work on rules for connections, and what it is done with.
type Making<'s, 'b, 'a, 'c, 'o> = VirtualHosts<'s, 'b, 'a, 'c, 'o>;

/// Makes the listener of a port anew: all of it.
pub(crate) fn make(made: &mut MadePort, bound: &BoundPort<'_>, making: &mut Making<'_, '_, '_, '_, '_>) {
    let port = bound.port;
    let name = name_of(port);
    let (protocol, chains) = match port.family {
        Family::Http => (ListenerProtocol::Http, plaintext_chain(&name, port, made).into_iter().collect()),
        Family::Tls => (ListenerProtocol::Tls, tls_chains(bound, made, making)),
        Family::Opaque => (ListenerProtocol::Tcp, tcp_chain(&name, bound, making).into_iter().collect()),
    };
    made.listener = finish(made.listener.as_deref(), name, port, protocol, chains);
}

/// Makes the listener of a port anew after route tables changed, where all else of it is as it was.
pub(crate) fn refresh(made: &mut MadePort, port: &GatewayPort) {
    let name = name_of(port);
    let chains = match port.family {
        Family::Http => plaintext_chain(&name, port, made).into_iter().collect(),
        Family::Tls => renewed_chains(port, made),
        Family::Opaque => return,
    };
    let protocol = if port.family == Family::Http { ListenerProtocol::Http } else { ListenerProtocol::Tls };
    made.listener = finish(made.listener.as_deref(), name, port, protocol, chains);
}

fn name_of(port: &GatewayPort) -> String {
    match port.bind {
        Some(bind) => format!("{bind}_{}", port.number),
        None => format!("0.0.0.0_{}", port.number),
    }
}

/// None of a port that serves nothing.
fn finish(
    previous: Option<&Listener>,
    name: String,
    port: &GatewayPort,
    protocol: ListenerProtocol,
    chains: Vec<Arc<FilterChain>>,
) -> Option<Arc<Listener>> {
    if chains.is_empty() {
        return None;
    }
    let mut listener = Listener::following(previous, name, port.bind, port.number, protocol, chains);
    listener.sources = port.servers.iter().map(GatewayServer::source).collect();
    Some(Arc::new(listener))
}

fn plaintext_chain(name: &str, port: &GatewayPort, made: &mut MadePort) -> Option<Arc<FilterChain>> {
    let table = match port.bind {
        Some(bind) => format!("http.{}.{bind}", port.number),
        None => format!("http.{}", port.number),
    };
    let sources = || port.servers.iter().map(GatewayServer::source).collect();
    let table = made.tables.first_mut()?.route_table(&table, port.number, sources);
    Some(Arc::new(FilterChain::new(name.to_owned(), NetworkFilter::Http(table))))
}

fn tcp_chain(name: &str, bound: &BoundPort<'_>, making: &mut Making<'_, '_, '_, '_, '_>) -> Option<Arc<FilterChain>> {
    let server = bound.port.servers.first().filter(|server| matches!(server.serving, Serving::Tcp))?;
    let rule = bound.rules.first();
    let mut chain = FilterChain::new(name.to_owned(), NetworkFilter::Tcp(making.proxy(rule)));
    chain.sources = vec![server.source()];
    chain.sources.extend(rule.and_then(|rule| rule.source(making.bindings)));
    Some(Arc::new(chain))
}

/// The chains that a TLS listener has, with the route tables as they are now.
fn renewed_chains(port: &GatewayPort, made: &mut MadePort) -> Vec<Arc<FilterChain>> {
    let Some(listener) = &made.listener else { return Vec::new() };
    let mut chains = listener.filter_chains().to_vec();
    for (server, table) in port.servers.iter().zip(&made.table_of) {
        let Some(table) = *table else { continue };
        let at = made.chain_of.get(table).copied().flatten();
        let (Some(chain), Some(table)) = (at.and_then(|at| chains.get_mut(at)), made.tables.get_mut(table)) else {
            continue;
        };
        let made = table.route_table(&chain.name, port.number, || vec![server.source()]);
        if chain.route_table().is_some_and(|old| Arc::ptr_eq(old, &made)) {
            continue;
        }
        let mut renewed = FilterChain::clone(chain);
        renewed.filter = NetworkFilter::Http(made);
        *chain = Arc::new(renewed);
    }
    chains
}

/// One chain for each server that terminates and for each set of server names that is passed through, in order of
/// precedence; none if that is none.
///
/// The hosts of a server that cannot be served are held by a chain that closes its connections: they would be served by
/// a server for a wider host otherwise, which may ask less of its clients.
fn tls_chains(
    bound: &BoundPort<'_>,
    made: &mut MadePort,
    making: &mut Making<'_, '_, '_, '_, '_>,
) -> Vec<Arc<FilterChain>> {
    let port = bound.port;
    made.chain_of.fill(None);
    let serves = |server: &GatewayServer| matches!(server.serving, Serving::Https(_) | Serving::Tls(_));
    if bound.rules.is_empty() && !port.servers.iter().any(serves) {
        return Vec::new();
    }
    let mut chains = Vec::with_capacity(port.servers.len());
    let mut names = AHashSet::new();
    let mut rules = bound.rules.iter().peekable();
    for (number, server) in port.servers.iter().enumerate() {
        // Without a name a chain would be for every connection.
        let server_names = || -> Option<Vec<Host>> {
            (!server.hosts.is_empty()).then(|| server.hosts.iter().map(|host| host.host.clone()).collect())
        };
        let mut of_server = std::iter::from_fn(|| rules.next_if(|rule| rule.server == number));
        match &server.serving {
            Serving::Https(tls) => {
                let Some(server_names) = server_names() else { continue };
                let name = unique(&mut names, server.chain_name("https", port.number), server);
                let Some(place) = made.table_of.get(number).copied().flatten() else { continue };
                let Some(table) = made.tables.get_mut(place) else { continue };
                let table = table.route_table(&name, port.number, || vec![server.source()]);
                if let Some(chain_of) = made.chain_of.get_mut(place) {
                    *chain_of = Some(chains.len());
                }
                chains.push(chain(name, server_names, Some(tls), NetworkFilter::Http(table), server));
            }
            Serving::Tls(tls) => {
                let rule = of_server.next();
                let Some(server_names) = server_names() else { continue };
                let name = unique(&mut names, server.chain_name("tls", port.number), server);
                let filter = NetworkFilter::Tcp(making.proxy(rule));
                let mut chain = chain(name, server_names, Some(tls), filter, server);
                chain.sources.extend(rule.and_then(|rule| rule.source(making.bindings)));
                chains.push(chain);
            }
            Serving::Passthrough => {
                for rule in of_server {
                    let name = unique(&mut names, rule.chain_name(port.number, making.bindings), server);
                    let filter = NetworkFilter::Tcp(making.proxy(Some(rule)));
                    let mut chain = chain(name, rule.server_names.clone(), None, filter, server);
                    chain.sources.extend(rule.source(making.bindings));
                    chains.push(chain);
                }
            }
            Serving::Nothing => {
                let Some(server_names) = server_names() else { continue };
                let name = unique(&mut names, server.chain_name("closed", port.number), server);
                chains.push(chain(name, server_names, None, NetworkFilter::Tcp(closing()), server));
            }
            Serving::Http | Serving::Tcp => {}
        }
    }
    chains.into_iter().map(Arc::new).collect()
}

fn chain(
    name: String,
    server_names: Vec<Host>,
    tls: Option<&Arc<ServerTls>>,
    filter: NetworkFilter,
    server: &GatewayServer,
) -> FilterChain {
    let mut chain = FilterChain::new(name, filter);
    chain.server_names = server_names;
    chain.tls = tls.map(Arc::clone);
    chain.sources = vec![server.source()];
    chain
}

/// Port names are unique in a Gateway that was validated; a name that is taken all the same gets the server's place.
fn unique(names: &mut AHashSet<String>, mut name: String, server: &GatewayServer) -> String {
    while !names.insert(name.clone()) {
        name = format!("{name}.{}", server.index);
    }
    name
}

impl GatewayServer {
    /// `https.443.<port name>.<gateway>.<namespace>`, as istiod names route tables.
    fn chain_name(&self, kind: &str, port: u16) -> String {
        format!("{kind}.{port}.{}.{}.{}", self.port_name, self.name.name, self.name.namespace)
    }
}

impl BoundRule {
    /// `passthrough.443.<virtual service>.<namespace>.<rule>.<entry>`.
    fn chain_name(&self, port: u16, bindings: &Bindings<'_>) -> String {
        let key = bindings.binding(self.key).map(|binding| &binding.object.key);
        let (name, namespace) = key.map(|key| (&*key.name, &*key.namespace)).unwrap_or_default();
        let (rule, entry) = match self.place {
            RulePlace::Tcp(rule) => (rule, 0),
            RulePlace::Tls(rule, entry) => (rule, entry),
        };
        format!("passthrough.{port}.{name}.{namespace}.{rule}.{entry}")
    }
}
