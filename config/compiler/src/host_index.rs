use std::collections::BTreeMap;
use std::ops::Bound;

use ahash::AHashMap;
use tidegate_core::Host;

/// Hosts, each with a value, that can be searched by overlap without comparing with every one of them.
#[derive(Debug, Default)]
pub(crate) struct HostIndex<T> {
    by_name: AHashMap<String, Vec<T>>,
    /// Names read backwards, so that the names under a domain are neighbours.
    backwards: BTreeMap<String, Host>,
}

fn backwards(text: &str) -> String {
    text.chars().rev().collect()
}

impl<T> HostIndex<T> {
    pub(crate) fn new() -> Self {
        Self { by_name: AHashMap::new(), backwards: BTreeMap::new() }
    }

    pub(crate) fn insert(&mut self, host: &Host, value: T) {
        match self.by_name.get_mut(host.as_str()) {
            Some(values) => values.push(value),
            None => {
                self.by_name.insert(host.as_str().to_owned(), vec![value]);
                self.backwards.insert(backwards(host.as_str()), host.clone());
            }
        }
    }

    /// Calls `found` with the intersection and value of every entry that overlaps `host`.
    pub(crate) fn overlapping(&self, host: &Host, mut found: impl FnMut(&Host, &T)) {
        // Entries that are `host` or contain it: their intersection is `host`.
        for_each_containing(host.as_str(), |name| {
            for value in self.by_name.get(name).into_iter().flatten() {
                found(host, value);
            }
        });
        // Entries strictly within a wildcard.
        let Some(suffix) = host.wildcard_suffix() else { return };
        let prefix = backwards(suffix);
        let range = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        for (name, inner) in self.backwards.range::<str, _>(range).take_while(|(name, _)| name.starts_with(&prefix)) {
            if name.len() > prefix.len() && inner != host {
                for value in self.by_name.get(inner.as_str()).into_iter().flatten() {
                    found(inner, value);
                }
            }
        }
    }
}

/// Longest name whose domains are looked at one by one. A DNS name has at most 253 characters; of a longer text only
/// itself and `*` count, so that a text of nothing but dots costs nothing.
const MAX_NAME: usize = 1024;

/// Calls `visit` with `name` itself and with every wildcard that contains it, the most specific first.
pub(crate) fn for_each_containing(name: &str, mut visit: impl FnMut(&str)) {
    visit(name);
    let domains = if name.len() <= MAX_NAME { name } else { "" };
    let mut wildcard = String::with_capacity(name.len() + 1);
    for (at, _) in domains.match_indices('.').filter(|(at, _)| *at > 0) {
        wildcard.clear();
        wildcard.push('*');
        wildcard.push_str(&name[at..]);
        if wildcard != name {
            visit(&wildcard);
        }
    }
    if !matches!(name, "*" | "") {
        visit("*");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The index finds what comparing each with each finds.
    #[test]
    fn overlaps_are_those_of_a_scan() {
        let names = [
            "*",
            "*.com",
            "*.foo.com",
            "*.a.foo.com",
            "a.foo.com",
            "b.a.foo.com",
            "foo.com",
            "evilfoo.com",
            "b.org",
            "*.org",
            "10.0.0.1",
            "::1",
            "com",
            "",
        ];
        let hosts: Vec<_> = names.iter().map(|name| Host::new_unchecked(name)).collect();
        let mut index = HostIndex::new();
        for (at, host) in hosts.iter().enumerate() {
            index.insert(host, at);
        }
        for host in &hosts {
            let mut found = Vec::new();
            index.overlapping(host, |intersection, at| found.push((*at, intersection.clone())));
            found.sort();
            let expected: Vec<_> =
                hosts.iter().enumerate().filter_map(|(at, other)| Some((at, host.intersection(other)?))).collect();
            assert_eq!(found, expected, "{host}");
        }
    }
}
