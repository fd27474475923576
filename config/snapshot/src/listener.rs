use std::net::IpAddr;
use std::sync::Arc;

use ahash::AHashMap;
use serde::Serialize;
use tidegate_core::{Host, Origin, ResourceKey};

use crate::hash::{KeptHash, PartHash};
use crate::{RequestView, RouteTable, ServerTls, TcpProxy, VirtualHost, host_without_port};

/// How the bytes of a listener are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ListenerProtocol {
    /// Plaintext HTTP/1.1, and HTTP/2 by its preface. One filter chain.
    Http,
    /// TLS: the ClientHello's server name chooses the filter chain, which terminates or passes through.
    Tls,
    /// Opaque bytes. One filter chain.
    Tcp,
}

/// One address and port that the gateway accepts on.
#[derive(Clone, Debug)]
pub struct Listener {
    /// `<bind>_<port>` as Envoy names it: `0.0.0.0_80`.
    pub name: String,
    /// The server's `bind`; none accepts on every address of both families.
    pub bind: Option<IpAddr>,
    /// The port that the Gateway names. The port that is bound may be another (below 1024: +8000).
    pub port: u16,
    pub protocol: ListenerProtocol,
    filter_chains: Vec<Arc<FilterChain>>,
    by_server_name: Arc<ServerNames>,
    hash: KeptHash,
    /// The Gateway servers that made this listener, oldest first.
    pub sources: Vec<(ResourceKey, Origin)>,
}

/// What serves the connections of a listener that fit it.
#[derive(Clone, Debug)]
pub struct FilterChain {
    /// Unique in its listener. A server that terminates HTTPS has the name of its route table.
    pub name: String,
    /// Server names (SNI) that choose this chain; empty, or a `*` among them, for any connection.
    pub server_names: Vec<Host>,
    /// How TLS is terminated; none on plaintext listeners, and where TLS is passed through.
    pub tls: Option<Arc<ServerTls>>,
    pub filter: NetworkFilter,
    hash: KeptHash,
    /// The Gateway server, and for TCP the VirtualService.
    pub sources: Vec<(ResourceKey, Origin)>,
}

/// What reads the bytes of a connection once TLS is dealt with.
#[derive(Clone, Debug)]
pub enum NetworkFilter {
    Http(Arc<RouteTable>),
    Tcp(TcpProxy),
}

pub(crate) fn host_names<S: serde::Serializer>(hosts: &[Host], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(hosts.iter().map(Host::as_str))
}

/// Places of filter chains by server name. Where two chains have one name the first holds it.
#[derive(Clone, Debug, Default)]
struct ServerNames {
    exact: AHashMap<Box<str>, u32>,
    /// `*.example.com` under `example.com`.
    wildcard: AHashMap<Box<str>, u32>,
    any: Option<u32>,
}

impl ServerNames {
    fn new(chains: &[Arc<FilterChain>]) -> Self {
        let mut names = Self::default();
        for (at, chain) in (0u32..).zip(chains) {
            if chain.server_names.is_empty() {
                names.any.get_or_insert(at);
            }
            for host in &chain.server_names {
                let host = host.as_str();
                match host.strip_prefix("*.") {
                    Some(suffix) => drop(names.wildcard.entry(suffix.into()).or_insert(at)),
                    None if host == "*" => drop(names.any.get_or_insert(at)),
                    None => drop(names.exact.entry(host.into()).or_insert(at)),
                }
            }
        }
        names
    }

    fn find(&self, name: &str) -> Option<u32> {
        if let Some(at) = self.exact.get(name) {
            return Some(*at);
        }
        if !self.wildcard.is_empty() {
            let mut rest = name;
            while let Some((_, suffix)) = rest.split_once('.') {
                if let Some(at) = self.wildcard.get(suffix) {
                    return Some(*at);
                }
                rest = suffix;
            }
        }
        self.any
    }
}

impl Listener {
    /// `filter_chains` in the order in which they win a name that several have; at least one.
    pub fn new(
        name: String,
        bind: Option<IpAddr>,
        port: u16,
        protocol: ListenerProtocol,
        filter_chains: impl IntoIterator<Item: Into<Arc<FilterChain>>>,
    ) -> Self {
        Self::following(None, name, bind, port, protocol, filter_chains)
    }

    /// As [`Listener::new`]; what an earlier listener knows of the server names is taken over if they are the same.
    pub fn following(
        previous: Option<&Listener>,
        name: String,
        bind: Option<IpAddr>,
        port: u16,
        protocol: ListenerProtocol,
        filter_chains: impl IntoIterator<Item: Into<Arc<FilterChain>>>,
    ) -> Self {
        let mut filter_chains: Vec<Arc<FilterChain>> = filter_chains.into_iter().map(Into::into).collect();
        filter_chains.shrink_to_fit();
        let alike = |previous: &&Listener| {
            let names =
                |(a, b): (&Arc<FilterChain>, &Arc<FilterChain>)| Arc::ptr_eq(a, b) || a.server_names == b.server_names;
            previous.filter_chains.len() == filter_chains.len()
                && filter_chains.iter().zip(&previous.filter_chains).all(names)
        };
        let by_server_name = match previous.filter(alike) {
            Some(previous) => previous.by_server_name.clone(),
            None => Arc::new(ServerNames::new(&filter_chains)),
        };
        let hash = KeptHash::default();
        Self { name, bind, port, protocol, filter_chains, by_server_name, hash, sources: Vec::new() }
    }

    pub fn filter_chains(&self) -> &[Arc<FilterChain>] {
        &self.filter_chains
    }

    pub(crate) fn hash(&self) -> PartHash {
        self.hash.get(|| {
            let head = (&self.name, self.bind, self.port, self.protocol);
            PartHash::of_list(&head, self.filter_chains.iter().map(|chain| chain.hash()))
        })
    }

    /// The chain of a connection, by the server name that its client sent: exact name, then the longest wildcard, then
    /// the chain for any. The name is compared without regard to case; a connection without one fits the chain for any
    /// only. The cost does not depend on the number of chains.
    pub fn select_filter_chain(&self, server_name: Option<&str>) -> Option<&FilterChain> {
        self.filter_chains.get(self.filter_chain_index(server_name)?).map(Arc::as_ref)
    }

    /// Place of [`Self::select_filter_chain`]'s choice among [`Self::filter_chains`].
    pub fn filter_chain_index(&self, server_name: Option<&str>) -> Option<usize> {
        let found = match server_name {
            None => self.by_server_name.any,
            Some(name) if name.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                self.by_server_name.find(&name.to_ascii_lowercase())
            }
            Some(name) => self.by_server_name.find(name),
        };
        found.map(|at| at as usize)
    }

    /// The chain that serves a request on a connection of the chain called `chain`; none if the request is misdirected
    /// and must be answered 421 (RFC 9110, 15.5.20).
    ///
    /// On a TLS listener that is a request whose host would have chosen another chain as its server name, or none: a
    /// client that reuses a connection for another host (RFC 9113, 9.1.1) must not get around what that host's server
    /// asks of its clients. Istio answers 404 instead, from the first server's routes. `authority` is the Host header
    /// as sent; its port has no say, and neither has a dot at the end of the name: `a.com.` is `a.com` to backends, so
    /// it belongs to the chain of `a.com`. The cost does not depend on the number of chains.
    pub fn chain_of_request(&self, chain: &str, authority: &str) -> Option<&FilterChain> {
        let found = match self.protocol {
            ListenerProtocol::Tls => {
                let host = host_without_port(authority);
                self.select_filter_chain(Some(host.strip_suffix('.').unwrap_or(host)))
            }
            ListenerProtocol::Http | ListenerProtocol::Tcp => self.filter_chains.first().map(Arc::as_ref),
        };
        found.filter(|found| self.protocol != ListenerProtocol::Tls || found.name == chain)
    }

    /// Whether [`Self::chain_of_request`] finds none.
    pub fn is_misdirected(&self, chain: &str, authority: &str) -> bool {
        self.chain_of_request(chain, authority).is_none()
    }
}

impl FilterChain {
    /// A chain for any connection, without TLS.
    pub fn new(name: String, filter: NetworkFilter) -> Self {
        Self { name, server_names: Vec::new(), tls: None, filter, hash: KeptHash::default(), sources: Vec::new() }
    }

    fn hash(&self) -> PartHash {
        #[derive(Serialize)]
        enum Filter<'a> {
            Http(PartHash),
            Tcp(&'a TcpProxy),
        }
        #[derive(Serialize)]
        struct Content<'a> {
            name: &'a str,
            #[serde(serialize_with = "host_names")]
            server_names: &'a [Host],
            tls: Option<&'a ServerTls>,
            filter: Filter<'a>,
        }
        self.hash.get(|| {
            let filter = match &self.filter {
                NetworkFilter::Http(table) => Filter::Http(table.hash()),
                NetworkFilter::Tcp(proxy) => Filter::Tcp(proxy),
            };
            let (name, server_names, tls) = (&*self.name, &*self.server_names, self.tls.as_deref());
            PartHash::of(&Content { name, server_names, tls, filter })
        })
    }

    /// The routes of HTTP; none if the chain proxies TCP.
    pub fn route_table(&self) -> Option<&Arc<RouteTable>> {
        match &self.filter {
            NetworkFilter::Http(table) => Some(table),
            NetworkFilter::Tcp(_) => None,
        }
    }

    /// The virtual host of a request and the index of its route, as far as each exists.
    pub fn select<'a>(&'a self, request: &RequestView<'_>) -> (Option<&'a Arc<VirtualHost>>, Option<usize>) {
        let table = self.route_table();
        let host = table.and_then(|table| table.select_virtual_host(crate::host_without_port(request.authority)));
        let route = host.and_then(|host| host.select_route(request));
        (host, route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(chains: &[(&str, &[&str])]) -> Listener {
        let chains = chains.iter().map(|(name, hosts)| {
            let mut chain =
                FilterChain::new((*name).into(), NetworkFilter::Tcp(TcpProxy::new(String::new(), vec![], None)));
            chain.server_names = hosts.iter().map(|host| Host::new_unchecked(host)).collect();
            chain
        });
        Listener::new("0.0.0.0_443".into(), None, 443, ListenerProtocol::Tls, chains)
    }

    #[test]
    fn the_most_specific_server_name_wins() {
        let listener = listener(&[
            ("wide", &["*.example.com"]),
            ("narrow", &["*.a.example.com"]),
            ("exact", &["x.a.example.com", "other.org"]),
            ("late", &["x.a.example.com"]),
        ]);
        let check = |name: Option<&str>, expected: Option<&str>| {
            let chain = listener.select_filter_chain(name).map(|chain| chain.name.as_str());
            assert_eq!(chain, expected, "{name:?}");
        };
        check(Some("x.a.example.com"), Some("exact"));
        check(Some("X.A.Example.com"), Some("exact"));
        check(Some("y.a.example.com"), Some("narrow"));
        check(Some("z.y.a.example.com"), Some("narrow"));
        check(Some("a.example.com"), Some("wide"));
        check(Some("example.com"), None);
        check(Some("evilexample.com"), None);
        check(Some("other.org"), Some("exact"));
        check(Some(""), None);
        check(None, None);
    }

    #[test]
    fn a_request_for_another_chain_is_misdirected() {
        let listener = listener(&[("any", &["*"]), ("one", &["one.org"]), ("wild", &["*.w.org"])]);
        let check = |chain: &str, authority: &str, misdirected: bool| {
            assert_eq!(listener.is_misdirected(chain, authority), misdirected, "{authority} on {chain}");
        };
        check("one", "one.org", false);
        check("one", "ONE.org:8443", false);
        check("one", "one.org.", false);
        check("one", "two.org", true);
        check("any", "two.org", false);
        check("any", "one.org", true);
        check("any", "One.org.:443", true);
        check("any", "a.w.org.", true);
        check("any", "two.org.", false);
        check("any", "", false);
        check("wild", "a.w.org", false);
        check("wild", "b.w.org", false);
        check("wild", "w.org", true);
        check("gone", "one.org", true);
    }

    #[test]
    fn without_a_chain_for_any_an_unknown_host_is_misdirected() {
        let listener = listener(&[("one", &["one.org"])]);
        assert!(listener.is_misdirected("one", "two.org") && listener.is_misdirected("one", ""));
        assert!(listener.chain_of_request("one", "one.org:1").is_some_and(|chain| chain.name == "one"));
    }

    #[test]
    fn plaintext_requests_are_never_misdirected() {
        let chain = FilterChain::new("http".into(), NetworkFilter::Tcp(TcpProxy::new(String::new(), vec![], None)));
        let listener = Listener::new("0.0.0.0_80".into(), None, 80, ListenerProtocol::Http, vec![chain]);
        assert!(!listener.is_misdirected("http", "any.org"));
    }

    #[test]
    fn a_chain_for_any_takes_what_is_left() {
        let listener = listener(&[("any", &["*"]), ("one", &["one.org"])]);
        let name = |server_name| listener.select_filter_chain(server_name).map(|chain| chain.name.as_str());
        assert_eq!((name(None), name(Some("two.org")), name(Some("one.org"))), (Some("any"), Some("any"), Some("one")));
    }
}
