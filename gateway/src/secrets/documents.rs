//! Secret and ConfigMap objects on their way into the store: only what differs is offered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_core::{Kind, ResourceKey, SecretBytes, SecretName};
use tidegate_resources::{Object, ResourceSet, Spec};
use tidegate_sds::{Offer, Payload, Place, Places, SourceKind};

/// What the name of a Secret with authorities ends in.
const AUTHORITIES_SUFFIX: &str = "-cacert";

/// The objects that were offered, and the names that each was offered under.
#[derive(Debug, Default)]
pub(super) struct Documents {
    held: BTreeMap<ResourceKey, Arc<Object>>,
    offered: BTreeMap<ResourceKey, Vec<SecretName>>,
}

/// What one look at the objects brings.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) offers: Vec<Offer>,
    /// Names that no object has any more.
    pub(super) gone: Vec<SecretName>,
}

impl Documents {
    /// Takes the objects as they are now.
    pub(super) fn update(&mut self, set: &ResourceSet) -> Changes {
        let mut touched: BTreeSet<ResourceKey> = self.held.keys().filter(|key| !set.contains(key)).cloned().collect();
        for object in [Kind::Secret, Kind::ConfigMap].into_iter().flat_map(|kind| set.iter_kind(kind)) {
            if !self.held.get(&object.key).is_some_and(|held| Arc::ptr_eq(held, object)) {
                touched.insert(object.key.clone());
            }
        }
        for key in &touched {
            match set.get(key) {
                Some(object) => drop(self.held.insert(key.clone(), object.clone())),
                None => drop(self.held.remove(key)),
            }
        }
        // A Secret `x-cacert` takes a name from Secret `x`, or leaves it.
        let beside: Vec<_> = touched.iter().filter_map(|key| self.owner(key)).collect();
        touched.extend(beside);
        let mut changes = Changes::default();
        let mut lost = BTreeSet::new();
        for key in touched {
            let offers = self.offers(&key);
            let names: Vec<_> = offers.iter().map(|offer| offer.name.clone()).collect();
            let before = match names.as_slice() {
                [] => self.offered.remove(&key),
                _ => self.offered.insert(key, names),
            };
            lost.extend(before.into_iter().flatten());
            changes.offers.extend(offers);
        }
        for offer in &changes.offers {
            lost.remove(&offer.name);
        }
        changes.gone = lost.into_iter().collect();
        changes
    }

    /// Of a Secret `x-cacert` the Secret `x`, if there is one.
    fn owner(&self, key: &ResourceKey) -> Option<ResourceKey> {
        let name = key.name.strip_suffix(AUTHORITIES_SUFFIX).filter(|_| key.kind == Kind::Secret)?;
        let owner = ResourceKey { name: name.into(), ..key.clone() };
        self.held.contains_key(&owner).then_some(owner)
    }

    /// What an object is offered as; nothing if it is gone, or holds no certificates.
    fn offers(&self, key: &ResourceKey) -> Vec<Offer> {
        let Some(object) = self.held.get(key) else { return Vec::new() };
        let entries = Entries(object);
        let (namespace, name) = (&*key.namespace, &*key.name);
        let mut offers = Vec::new();
        let mut offer = |name, (payload, places)| {
            offers.push(Offer {
                name,
                source: SourceKind::Kubernetes,
                key: Some(key.clone()),
                origin: object.origin.clone(),
                places,
                payload,
            });
        };
        let authorities = entries.authorities();
        if key.kind == Kind::ConfigMap {
            offers_of(authorities, |found| offer(SecretName::config_map(namespace, name), found));
            return offers;
        }
        let pair = entries.pair();
        if let Some(found) = &authorities {
            let own = SecretName::kubernetes_ca(namespace, name);
            let literal = ResourceKey { name: format!("{name}{AUTHORITIES_SUFFIX}").into(), ..key.clone() };
            let is_taken = self.held.get(&literal).is_some_and(|object| Entries(object).authorities().is_some());
            // Nobody asks for the authorities of authorities.
            let is_asked_for = pair.is_some() || !name.ends_with(AUTHORITIES_SUFFIX);
            if is_asked_for && !is_taken {
                offer(own, found.clone());
            }
            if pair.is_none() {
                offer(SecretName::kubernetes(namespace, name), found.clone());
            }
        }
        offers_of(pair, |found| offer(SecretName::kubernetes(namespace, name), found));
        offers
    }
}

fn offers_of(found: Option<(Payload, Places)>, offer: impl FnOnce((Payload, Places))) {
    if let Some(found) = found {
        offer(found);
    }
}

/// The entries of a Secret or ConfigMap.
struct Entries<'o>(&'o Object);

impl Entries<'_> {
    /// An entry that is not empty.
    fn get(&self, name: &str) -> Option<(SecretBytes, Place)> {
        let (bytes, path) = match &self.0.spec {
            Spec::Secret(secret) => (secret.get(name)?.clone(), secret.entry_path(name)),
            Spec::ConfigMap(map) => (SecretBytes::new(map.get(name)?.to_vec()), map.entry_path(name)),
            _ => return None,
        };
        let place = Place { origin: self.0.origin_of(&path), path: path.into() };
        (!bytes.is_empty()).then_some((bytes, place))
    }

    fn first(&self, names: [&str; 2]) -> Option<(SecretBytes, Place)> {
        names.iter().find_map(|name| self.get(name))
    }

    /// Certificate and key: `cert` and `key`, else `tls.crt` and `tls.key`.
    fn pair(&self) -> Option<(Payload, Places)> {
        let pairs = [("cert", "key"), ("tls.crt", "tls.key")].map(|(cert, key)| (self.get(cert), self.get(key)));
        let (staple, staple_place) = self.get("tls.ocsp-staple").unzip();
        for pair in pairs.clone() {
            if let (Some((chain, chain_place)), Some((key, key_place))) = pair {
                let places = Places {
                    certificates: Some(chain_place),
                    key: Some(key_place),
                    ocsp_staple: staple_place,
                    ..Places::default()
                };
                return Some((Payload::Certificate { chain, key, ocsp_staple: staple }, places));
            }
        }
        // Half of a pair. A key alone may be anybody's, of whatever use.
        let half = pairs.into_iter().find_map(|(chain, _)| chain)?;
        let reason = "there is a certificate and no key beside it: `tls.key` beside `tls.crt`, `key` beside `cert`";
        Some((Payload::Broken(reason.into()), Places { certificates: Some(half.1), ..Places::default() }))
    }

    /// Authorities: `cacert`, else `ca.crt`; with them `crl`, else `ca.crl`.
    fn authorities(&self) -> Option<(Payload, Places)> {
        let (authorities, place) = self.first(["cacert", "ca.crt"])?;
        let (crl, crl_place) = self.first(["crl", "ca.crl"]).unzip();
        let places = Places { certificates: Some(place), crl: crl_place, ..Places::default() };
        Some((Payload::Trust { authorities, crl }, places))
    }
}

#[cfg(test)]
mod tests {
    use tidegate_resources::{ParseOptions, parse};

    use super::*;

    /// A set of objects, each a kind, a name and entries.
    fn set(objects: &[(&str, &str, &[(&str, &str)])]) -> ResourceSet {
        let text: String = objects
            .iter()
            .map(|(kind, name, entries)| {
                let field = if *kind == "Secret" { "stringData" } else { "data" };
                let entries: String = entries.iter().map(|(name, value)| format!("  {name}: {value}\n")).collect();
                format!(
                    "---\napiVersion: v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: ns}}\n{field}:\n{entries}"
                )
            })
            .collect();
        let parsed = parse("f.yaml", &text, &ParseOptions::default());
        assert_eq!(parsed.diagnostics, []);
        parsed.objects.into_iter().collect()
    }

    /// Names with the kinds of what is offered.
    fn offered(changes: &Changes) -> Vec<(&str, &str)> {
        let kind = |payload: &Payload| match payload {
            Payload::Certificate { .. } => "pair",
            Payload::Trust { crl: None, .. } => "ca",
            Payload::Trust { .. } => "ca+crl",
            Payload::Crl(_) => "crl",
            Payload::Broken(_) => "broken",
            _ => "nothing",
        };
        changes.offers.iter().map(|offer| (offer.name.as_str(), kind(&offer.payload))).collect()
    }

    fn check(objects: &[(&str, &str, &[(&str, &str)])], expected: &[(&str, &str)]) {
        assert_eq!(offered(&Documents::default().update(&set(objects))), expected, "{objects:?}");
    }

    #[test]
    fn entries_are_read_as_istio_reads_them() {
        let web = "kubernetes://ns/web";
        check(&[("Secret", "web", &[("tls.crt", "c"), ("tls.key", "k")])], &[(web, "pair")]);
        check(&[("Secret", "web", &[("cert", "c"), ("key", "k")])], &[(web, "pair")]);
        check(&[("Secret", "web", &[("tls.crt", "c")])], &[(web, "broken")]);
        // The generic pair counts only as a whole.
        check(&[("Secret", "web", &[("cert", "x"), ("tls.crt", "c"), ("tls.key", "k")])], &[(web, "pair")]);
        check(&[("Secret", "web", &[("key", "of an API")])], &[]);
        check(&[("Secret", "web", &[("password", "x")])], &[]);
        check(&[("ConfigMap", "roots", &[("ca.crt", "a"), ("crl", "r")])], &[("configmap://ns/roots", "ca+crl")]);
        check(&[("ConfigMap", "settings", &[("a", "b")])], &[]);
    }

    #[test]
    fn authorities_come_from_their_own_secret_before_the_pairs() {
        let all: &[(&str, &str)] = &[("cert", "c"), ("key", "k"), ("cacert", "a")];
        check(&[("Secret", "web", all)], &[("kubernetes://ns/web-cacert", "ca"), ("kubernetes://ns/web", "pair")]);
        check(
            &[("Secret", "web", all), ("Secret", "web-cacert", &[("ca.crt", "b"), ("ca.crl", "r")])],
            &[("kubernetes://ns/web", "pair"), ("kubernetes://ns/web-cacert", "ca+crl")],
        );
    }

    #[test]
    fn only_what_differs_is_offered() {
        let mut documents = Documents::default();
        let pair: &[(&str, &str)] = &[("cert", "c"), ("key", "k"), ("cacert", "a")];
        let first = set(&[("Secret", "a", pair), ("Secret", "b", pair)]);
        assert_eq!(documents.update(&first).offers.len(), 4);
        assert_eq!(documents.update(&first).offers.len(), 0);
        // A Secret for the authorities of `a` takes their name over, and gives it back.
        let mut second = first.clone();
        let taken = set(&[("Secret", "a-cacert", &[("cacert", "b")])]);
        second.insert(taken.iter().next().unwrap().clone());
        let changes = documents.update(&second);
        assert_eq!(offered(&changes), [("kubernetes://ns/a", "pair"), ("kubernetes://ns/a-cacert", "ca")]);
        assert_eq!(changes.gone, []);
        let changes = documents.update(&first);
        assert_eq!(offered(&changes), [("kubernetes://ns/a-cacert", "ca"), ("kubernetes://ns/a", "pair")]);
        assert_eq!(changes.gone, []);
        let mut third = first.clone();
        third.remove(&ResourceKey::local(Kind::Secret, "ns", "b"));
        let changes = documents.update(&third);
        assert_eq!(changes.gone, ["kubernetes://ns/b", "kubernetes://ns/b-cacert"].map(SecretName::new));
        assert!(changes.offers.is_empty());
    }

    #[test]
    fn places_are_those_of_the_entries() {
        let changes = Documents::default().update(&set(&[("Secret", "web", &[("tls.crt", "c"), ("tls.key", "k")])]));
        let places = &changes.offers[0].places;
        assert_eq!(places.key.as_ref().unwrap().origin.to_string(), "f.yaml:7:12");
        assert_eq!(&*places.key.as_ref().unwrap().path, "stringData[\"tls.key\"]");
    }
}
