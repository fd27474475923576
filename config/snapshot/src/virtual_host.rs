use std::sync::Arc;

use ahash::AHashMap;
use serde::Serialize;
use smallvec::SmallVec;
use tidegate_core::{Host, Origin, ResourceKey};

use crate::hash::{KeptHash, PartHash};
use crate::listener::host_names;
use crate::{PathMatch, RequestView, Route};

/// The routes of a set of hosts.
#[derive(Clone, Debug, Serialize)]
pub struct VirtualHost {
    /// `<host>:<port>` as Istio names it.
    pub name: String,
    #[serde(serialize_with = "host_names")]
    pub domains: Vec<Host>,
    /// A server of this host has `httpsRedirect`: every plaintext request is answered 301 before routes are looked at.
    pub https_redirect: bool,
    routes: Vec<Route>,
    /// None for few routes: comparing them one by one takes no longer than a lookup, and ten thousand small virtual
    /// hosts need no tables.
    #[serde(skip)]
    index: Option<Box<RouteIndex>>,
    #[serde(skip)]
    hash: KeptHash,
    /// The Gateways that admit the host and the VirtualServices whose routes it has, oldest first.
    #[serde(skip)]
    pub sources: Vec<(ResourceKey, Origin)>,
}

impl VirtualHost {
    /// A virtual host with its routes in order of evaluation.
    pub fn new(name: String, mut domains: Vec<Host>, mut routes: Vec<Route>) -> Self {
        // There may be ten thousand of them for as long as the Snapshot serves.
        domains.shrink_to_fit();
        routes.shrink_to_fit();
        let index = (routes.len() > SCANNED).then(|| Box::new(RouteIndex::new(&routes)));
        let hash = KeptHash::default();
        Self { name, domains, https_redirect: false, routes, index, hash, sources: Vec::new() }
    }

    fn hash(&self) -> PartHash {
        self.hash.get(|| PartHash::of(self))
    }

    /// In order of evaluation.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The first route that matches. Costs no more for a thousand routes that differ by exact path, by prefix or by what
    /// a regex begins with than for a few; regexes that begin alike and case-insensitive paths are tried one by one.
    pub fn select_route(&self, request: &RequestView<'_>) -> Option<usize> {
        let Some(index) = &self.index else {
            return self.routes.iter().position(|route| route.matcher.evaluate(request).is_ok());
        };
        index.candidates(request.path).find_map(|(at, path_matches)| {
            let matcher = &self.routes[at].matcher;
            let matches =
                (path_matches || matcher.path.is_match(request.path)) && matcher.evaluate_but_path(request).is_ok();
            matches.then_some(at)
        })
    }
}

type NumbersByPath = AHashMap<Box<[u8]>, SmallVec<[u32; 2]>>;

/// Up to this many routes are compared one by one.
const SCANNED: usize = 4;

/// Route numbers by what they ask of the path. Lists are in ascending order.
#[derive(Clone, Debug, Default)]
struct RouteIndex {
    exact: NumbersByPath,
    prefixes: ByPrefix,
    /// Regular expressions by the text that all their matches begin with.
    regexes: ByPrefix,
    /// Whose paths must be compared one by one.
    others: Vec<u32>,
}

/// Route numbers by prefix of the path, by length of the prefix, ascending.
#[derive(Clone, Debug, Default)]
struct ByPrefix(Vec<(usize, NumbersByPath)>);

impl ByPrefix {
    fn insert(&mut self, prefix: &[u8], number: u32) {
        let at = match self.0.binary_search_by_key(&prefix.len(), |(length, _)| *length) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (prefix.len(), AHashMap::new()));
                at
            }
        };
        self.0[at].1.entry(prefix.into()).or_default().push(number);
    }

    /// Calls `each` with the routes whose prefix `path` has, one list for each prefix.
    fn find<'a>(&'a self, path: &[u8], mut each: impl FnMut(&'a [u32])) {
        for (length, by_prefix) in &self.0 {
            let Some(prefix) = path.get(..*length) else { break };
            if let Some(list) = by_prefix.get(prefix) {
                each(list);
            }
        }
    }
}

impl RouteIndex {
    fn new(routes: &[Route]) -> Self {
        let mut index = Self::default();
        for (number, route) in (0u32..).zip(routes) {
            match &route.matcher.path {
                PathMatch::Exact { value, ignore_case: false } => {
                    index.exact.entry(value.as_bytes().into()).or_default().push(number);
                }
                PathMatch::Prefix { value, ignore_case: false } => index.prefixes.insert(value.as_bytes(), number),
                PathMatch::Regex(pattern) if !pattern.literal_prefix().is_empty() => {
                    index.regexes.insert(pattern.literal_prefix(), number);
                }
                _ => index.others.push(number),
            }
        }
        index
    }

    /// Numbers of the routes that may match `path`, ascending; true where the path is known to match.
    fn candidates<'a>(&'a self, path: &str) -> impl Iterator<Item = (usize, bool)> + use<'a> {
        let path = path.as_bytes();
        let mut lists: SmallVec<[(&'a [u32], bool); 8]> = SmallVec::new();
        if let Some(list) = self.exact.get(path) {
            lists.push((list, true));
        }
        self.prefixes.find(path, |list| lists.push((list, true)));
        self.regexes.find(path, |list| lists.push((list, false)));
        if !self.others.is_empty() {
            lists.push((&self.others, false));
        }
        std::iter::from_fn(move || {
            let (list, path_matches) =
                lists.iter_mut().filter(|(list, _)| !list.is_empty()).min_by_key(|(list, _)| list[0])?;
            let number = list[0];
            *list = &list[1..];
            Some((number as usize, *path_matches))
        })
    }
}

/// The virtual hosts of one or more servers that share a port.
#[derive(Clone, Debug)]
pub struct RouteTable {
    /// `http.80`, `https.443.<port name>.<gateway>.<namespace>`.
    pub name: String,
    virtual_hosts: Vec<Arc<VirtualHost>>,
    /// None for a table of few domains: ten thousand servers with one host each need no tables of tables.
    hosts: Option<Arc<HostIndex>>,
    hash: KeptHash,
}

/// Up to this many domains are compared one by one.
const SCANNED_DOMAINS: usize = 4;

/// Virtual host numbers by domain.
#[derive(Clone, Debug, Default)]
struct HostIndex {
    exact: AHashMap<Box<str>, u32>,
    /// `.foo.com` for `*.foo.com`.
    suffixes: AHashMap<Box<str>, u32>,
    any: Option<u32>,
}

impl HostIndex {
    fn new(virtual_hosts: &[Arc<VirtualHost>]) -> Self {
        let mut index = Self::default();
        for (number, virtual_host) in (0u32..).zip(virtual_hosts) {
            for domain in &virtual_host.domains {
                match domain.wildcard_suffix() {
                    Some("") => {
                        index.any.get_or_insert(number);
                    }
                    Some(suffix) => {
                        index.suffixes.entry(suffix.into()).or_insert(number);
                    }
                    None => {
                        index.exact.entry(domain.as_str().into()).or_insert(number);
                    }
                }
            }
        }
        index
    }

    fn find(&self, name: &str) -> Option<u32> {
        if let Some(number) = self.exact.get(name) {
            return Some(*number);
        }
        if !self.suffixes.is_empty() {
            // A suffix never is the whole name: `*.foo.com` does not match `.foo.com`.
            let mut dots = name.match_indices('.').filter(|(at, _)| *at > 0);
            if let Some(number) = dots.find_map(|(at, _)| self.suffixes.get(&name[at..])) {
                return Some(*number);
            }
        }
        self.any
    }
}

impl RouteTable {
    /// A table of virtual hosts; of several with the same domain the first has it.
    pub fn new(name: String, virtual_hosts: Vec<Arc<VirtualHost>>) -> Self {
        Self::following(None, name, virtual_hosts)
    }

    /// As [`RouteTable::new`]; what an earlier table knows of the domains is taken over if they are the same.
    pub fn following(previous: Option<&RouteTable>, name: String, virtual_hosts: Vec<Arc<VirtualHost>>) -> Self {
        let domains: usize = virtual_hosts.iter().map(|host| host.domains.len()).sum();
        let alike = |previous: &&RouteTable| {
            let domains = |(a, b): (&Arc<VirtualHost>, &Arc<VirtualHost>)| Arc::ptr_eq(a, b) || a.domains == b.domains;
            previous.virtual_hosts.len() == virtual_hosts.len()
                && virtual_hosts.iter().zip(&previous.virtual_hosts).all(domains)
        };
        let hosts = match previous.filter(alike) {
            Some(previous) => previous.hosts.clone(),
            None => (domains > SCANNED_DOMAINS).then(|| Arc::new(HostIndex::new(&virtual_hosts))),
        };
        Self { name, virtual_hosts, hosts, hash: KeptHash::default() }
    }

    pub(crate) fn hash(&self) -> PartHash {
        self.hash.get(|| PartHash::of_list(&self.name, self.virtual_hosts.iter().map(|host| host.hash())))
    }

    /// In the order of the table's making.
    pub fn virtual_hosts(&self) -> &[Arc<VirtualHost>] {
        &self.virtual_hosts
    }

    /// The virtual host of a name without port, in any case: exact, then the longest wildcard, then `*`. The cost
    /// depends on the labels of the name and not on the number of hosts. No other virtual host is tried when this one
    /// has no route.
    pub fn select_virtual_host(&self, name: &str) -> Option<&Arc<VirtualHost>> {
        if !name.bytes().any(|b| b.is_ascii_uppercase()) {
            return self.select_folded(name);
        }
        self.select_folded(&name.to_ascii_lowercase())
    }

    fn select_folded(&self, name: &str) -> Option<&Arc<VirtualHost>> {
        if let Some(hosts) = &self.hosts {
            return self.virtual_hosts.get(hosts.find(name)? as usize);
        }
        // Domains sort by how specific they are; of equal ones the first is taken.
        let domains = self.virtual_hosts.iter().flat_map(|host| host.domains.iter().map(move |domain| (domain, host)));
        let matches = |domain: &Host| domain.is_catch_all() || domain.matches(name);
        domains.filter(|(domain, _)| matches(domain)).min_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, host)| host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DirectResponse, HeaderOperations, Mismatch, Pattern, RouteAction, RouteMatch, Source, StringMatch};
    use http::HeaderMap;
    use tidegate_core::Kind;

    fn route(path: PathMatch, method: Option<&str>) -> Route {
        Route {
            name: String::new(),
            matcher: RouteMatch {
                path,
                method: method.map(|m| Box::new(StringMatch::Exact(m.into()))),
                ..RouteMatch::default()
            },
            action: RouteAction::DirectResponse(DirectResponse { status: 200, body: None }),
            request_headers: HeaderOperations::default(),
            response_headers: HeaderOperations::default(),
            source: Source { key: ResourceKey::local(Kind::VirtualService, "default", "a"), origin: Origin::default() },
        }
    }

    fn virtual_host(routes: Vec<Route>) -> VirtualHost {
        VirtualHost::new("a:80".into(), vec![Host::new_unchecked("a")], routes)
    }

    fn request<'a>(path: &'a str, method: &'a str, headers: &'a HeaderMap) -> RequestView<'a> {
        RequestView { method, scheme: "http", authority: "a", path, query: None, headers }
    }

    fn paths() -> Vec<PathMatch> {
        let exact = |value: &str, ignore_case| PathMatch::Exact { value: value.into(), ignore_case };
        let prefix = |value: &str, ignore_case| PathMatch::Prefix { value: value.into(), ignore_case };
        let mut all = vec![prefix("/", false), prefix("", false)];
        for value in ["/a", "/a/b", "/a/bc", "/b", "/c/d/e"] {
            all.extend([exact(value, false), exact(value, true), prefix(value, false), prefix(value, true)]);
            for regex in
                [format!("{value}/[a-z]+"), format!("(?i){value}.*"), format!("{value}|/x"), format!("{value}c?/.*")]
            {
                all.push(PathMatch::Regex(Pattern::full(&regex).unwrap()));
            }
        }
        all
    }

    /// The index may only skip what cannot match: it agrees with trying one route after the other.
    #[test]
    fn the_index_selects_what_a_scan_selects() {
        let headers = HeaderMap::new();
        let paths = paths();
        let mut random = 7u64;
        let mut next = |bound: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % bound
        };
        for _ in 0..2000 {
            let count = next(12);
            let routes: Vec<_> =
                (0..count).map(|_| route(paths[next(paths.len())].clone(), [None, Some("POST")][next(2)])).collect();
            let host = virtual_host(routes);
            for path in ["/", "/a", "/A", "/a/b", "/a/bc/x", "/ab", "/c/d/e", "/C/D/E/f", "/x", "/b/zz"] {
                for method in ["GET", "POST"] {
                    let request = request(path, method, &headers);
                    let scanned = host.routes().iter().position(|r| r.matcher.evaluate(&request).is_ok());
                    assert_eq!(host.select_route(&request), scanned, "{method} {path} over {:?}", host.routes());
                }
            }
        }
    }

    #[test]
    fn earlier_routes_win_over_more_specific_later_ones() {
        let prefix = |value: &str| PathMatch::Prefix { value: value.into(), ignore_case: false };
        let host = virtual_host(vec![route(prefix("/a"), None), route(prefix("/a/b"), None), route(prefix("/"), None)]);
        let headers = HeaderMap::new();
        assert_eq!(host.select_route(&request("/a/b", "GET", &headers)), Some(0));
        assert_eq!(host.select_route(&request("/x", "GET", &headers)), Some(2));
        assert!(matches!(host.routes()[1].matcher.evaluate(&request("/x", "GET", &headers)), Err(Mismatch::Path(_))));
    }

    #[test]
    fn hosts_are_selected_by_specificity_whatever_their_order() {
        let hosts = ["*", "*.com", "*.foo.com", "a.foo.com", "[::1]", "127.0.0.1"];
        let table = |order: &[&str]| {
            let of = |name: &&str| {
                Arc::new(VirtualHost::new((*name).to_owned(), vec![Host::new_unchecked(name)], Vec::new()))
            };
            RouteTable::new("http.80".into(), order.iter().map(of).collect())
        };
        let reversed: Vec<_> = hosts.iter().rev().copied().collect();
        for table in [table(&hosts), table(&reversed)] {
            for (name, expected) in [
                ("a.foo.com", "a.foo.com"),
                ("A.FOO.com", "a.foo.com"),
                ("b.foo.com", "*.foo.com"),
                ("b.a.foo.com", "*.foo.com"),
                ("foo.com", "*.com"),
                (".foo.com", "*.com"),
                (".com", "*"),
                ("foo.org", "*"),
                ("", "*"),
                ("[::1]", "[::1]"),
                ("127.0.0.1", "127.0.0.1"),
            ] {
                assert_eq!(table.select_virtual_host(name).map(|h| h.name.as_str()), Some(expected), "{name}");
            }
        }
    }

    #[test]
    fn a_small_table_selects_what_an_index_selects() {
        let pool = ["*", "*.com", "*.foo.com", "a.foo.com", "foo.com", "*.a.foo.com", "x"];
        let names = ["a.foo.com", "b.foo.com", "b.a.foo.com", "foo.com", ".foo.com", ".com", "com", "x", "y", ""];
        for first in pool {
            for second in pool {
                for third in pool {
                    let hosts = [[first, second], [third, first]];
                    let made = hosts.iter().zip(["one", "two"]).map(|(domains, name)| {
                        let domains = domains.iter().map(|domain| Host::new_unchecked(domain)).collect();
                        Arc::new(VirtualHost::new(name.to_owned(), domains, Vec::new()))
                    });
                    let table = RouteTable::new("http.80".into(), made.collect());
                    assert!(table.hosts.is_none());
                    let index = HostIndex::new(table.virtual_hosts());
                    for name in names {
                        let scanned = table.select_virtual_host(name).map(|host| host.name.as_str());
                        let found = index.find(name).map(|at| table.virtual_hosts()[at as usize].name.as_str());
                        assert_eq!(scanned, found, "{name} in {hosts:?}");
                    }
                }
            }
        }
    }
}
