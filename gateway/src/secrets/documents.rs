//! Secret and ConfigMap objects on their way into the store: only what differs is offered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_core::{Kind, ResourceKey, SecretBytes, SecretName};
use tidegate_resources::{Object, ResourceSet, Spec};
use tidegate_sds::sources::kubernetes::{self, Document, Entry};
use tidegate_sds::{Offer, Place};

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
        let beside: Vec<_> = touched.iter().filter_map(|key| self.dependent(key)).collect();
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

    /// The Secret whose offers change when the one of `key` comes or goes, if there is one.
    fn dependent(&self, key: &ResourceKey) -> Option<ResourceKey> {
        let name = kubernetes::dependent(&key.name).filter(|_| key.kind == Kind::Secret)?;
        let dependent = ResourceKey { name: name.into(), ..key.clone() };
        self.held.contains_key(&dependent).then_some(dependent)
    }

    /// What an object is offered as; nothing if it is gone, or holds no certificates.
    fn offers(&self, key: &ResourceKey) -> Vec<Offer> {
        let Some(object) = self.held.get(key) else { return Vec::new() };
        let document = Document { key: key.clone(), origin: object.origin.clone(), entries: entries(object) };
        kubernetes::offers(&document, |name| self.held.contains_key(&ResourceKey { name: name.into(), ..key.clone() }))
    }
}

/// The entries that may be certificates or keys.
fn entries(object: &Object) -> Vec<Entry> {
    let entry = |name: &str, bytes: SecretBytes, path: String| {
        let place = Place { origin: object.origin_of(&path), path: path.into() };
        Entry { name: name.into(), bytes, place }
    };
    match &object.spec {
        Spec::Secret(secret) => {
            let entries = secret.entries();
            entries.map(|(name, bytes)| entry(name, bytes.clone(), secret.entry_path(name))).collect()
        }
        // Only what may be authorities: other settings need not be copied.
        Spec::ConfigMap(map) => ["cacert", "ca.crt", "crl", "ca.crl"]
            .into_iter()
            .filter_map(|name| Some(entry(name, SecretBytes::new(map.get(name)?.to_vec()), map.entry_path(name))))
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use tidegate_resources::{ParseOptions, parse};
    use tidegate_sds::Payload;

    use super::*;

    /// Kind, name and entries.
    type Written<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

    fn set(objects: &[Written<'_>]) -> ResourceSet {
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

    /// Names with the kinds of what is offered, without what is no material.
    fn offered(changes: &Changes) -> Vec<(&str, &str)> {
        let kind = |payload: &Payload| match payload {
            Payload::Certificate { .. } => "pair",
            Payload::Trust { crl: None, .. } => "ca",
            Payload::Trust { .. } => "ca+crl",
            Payload::Crl(_) => "crl",
            Payload::Broken(_) => "broken",
            _ => "nothing",
        };
        let offers = changes.offers.iter().filter(|offer| !matches!(offer.payload, Payload::Nothing(_)));
        offers.map(|offer| (offer.name.as_str(), kind(&offer.payload))).collect()
    }

    fn check(objects: &[Written<'_>], expected: &[(&str, &str)]) {
        assert_eq!(offered(&Documents::default().update(&set(objects))), expected, "{objects:?}");
    }

    #[test]
    fn secrets_and_config_maps_are_offered_under_their_names() {
        check(&[("Secret", "web", &[("tls.crt", "c"), ("tls.key", "k")])], &[("kubernetes://ns/web", "pair")]);
        check(&[("ConfigMap", "roots", &[("ca.crt", "a"), ("crl", "r")])], &[("configmap://ns/roots", "ca+crl")]);
        check(&[("ConfigMap", "settings", &[("a", "b")])], &[]);
        let all: &[(&str, &str)] = &[("cert", "c"), ("key", "k"), ("cacert", "a")];
        check(&[("Secret", "web", all)], &[("kubernetes://ns/web", "pair"), ("kubernetes://ns/web-cacert", "ca")]);
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
        assert_eq!(offered(&changes), [("kubernetes://ns/a", "pair"), ("kubernetes://ns/a-cacert", "ca")]);
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
