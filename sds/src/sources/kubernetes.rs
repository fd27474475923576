//! Secrets and ConfigMaps, entry by entry, as Istio reads them (`pilot/pkg/credentials/kube`).

use std::sync::Arc;

use tidegate_core::{Kind, Origin, ResourceKey, SecretBytes, SecretName};

use crate::offer::{Offer, Payload, Place, Places, SourceKind};

/// What a Secret's name ends in if it holds authorities for the clients of another one.
pub const CA_SUFFIX: &str = "-cacert";

/// Entries of a certificate and its key, by preference.
const PAIRS: [(&str, &str); 2] = [("cert", "key"), ("tls.crt", "tls.key")];
const AUTHORITIES: [&str; 2] = ["cacert", "ca.crt"];
const REVOCATION_LISTS: [&str; 2] = ["crl", "ca.crl"];
const OCSP_STAPLE: &str = "tls.ocsp-staple";

/// A Secret or a ConfigMap.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its kind says which it is.
    pub key: ResourceKey,
    pub origin: Origin,
    pub entries: Vec<Entry>,
}

/// An entry of `data` or `stringData`, decoded.
#[derive(Clone, Debug)]
pub struct Entry {
    /// As in `tls.crt`.
    pub name: Arc<str>,
    pub bytes: SecretBytes,
    /// As in `data["tls.crt"]`.
    pub place: Place,
}

/// Offers of one document.
///
/// A Secret `x` gives `kubernetes://ns/x` (`cert` and `key`, else `tls.crt` and `tls.key`; half of a pair is an error,
/// half of `cert` and `key` only if somebody uses the name)
/// and `kubernetes://ns/x-cacert` (`cacert`, else `ca.crt`; with `crl`, else `ca.crl`). A Secret that is itself named
/// `x-cacert` gives that name alone, and goes before the authorities in `x`: `has_secret` tells whether a Secret of
/// some name is in the document's namespace. If `x-cacert` comes or goes, `x` must be offered again: see
/// [`dependent`]. A ConfigMap gives `configmap://ns/name`. An entry that is empty counts as missing.
pub fn offers(document: &Document, has_secret: impl Fn(&str) -> bool) -> Vec<Offer> {
    let (namespace, name) = (&*document.key.namespace, &*document.key.name);
    let reader = Reader {
        source: SourceKind::Kubernetes,
        key: Some(&document.key),
        origin: &document.origin,
        entries: &document.entries,
    };
    match document.key.kind {
        Kind::ConfigMap => vec![reader.trust(SecretName::config_map(namespace, name))],
        _ => reader.secret(namespace, name, has_secret),
    }
}

/// The Secret, in the same namespace, whose offers change when the Secret `name` comes or goes.
pub fn dependent(name: &str) -> Option<&str> {
    name.strip_suffix(CA_SUFFIX)
}

/// Makes offers of entries.
pub(super) struct Reader<'a> {
    pub(super) source: SourceKind,
    pub(super) key: Option<&'a ResourceKey>,
    pub(super) origin: &'a Origin,
    pub(super) entries: &'a [Entry],
}

impl Reader<'_> {
    pub(super) fn secret(&self, namespace: &str, name: &str, has_secret: impl Fn(&str) -> bool) -> Vec<Offer> {
        if name.ends_with(CA_SUFFIX) {
            return vec![self.trust(SecretName::kubernetes(namespace, name))];
        }
        let mut offers = vec![self.certificate(SecretName::kubernetes(namespace, name))];
        if !has_secret(&format!("{name}{CA_SUFFIX}")) {
            offers.push(self.trust(SecretName::kubernetes_ca(namespace, name)));
        }
        offers
    }

    fn certificate(&self, name: SecretName) -> Offer {
        let whole = PAIRS.iter().find_map(|(chain, key)| Some((self.filled(chain)?, self.filled(key)?)));
        let Some((chain, key)) = whole else {
            let begun = PAIRS.iter().find(|(chain, key)| self.entry(chain).or(self.entry(key)).is_some());
            let payload = match begun {
                // Any Secret may have a `key` that is not ours; nobody else writes `tls.key`.
                Some((chain @ "cert", key)) => Payload::Nothing(self.half_pair(chain, key)),
                Some((chain, key)) => Payload::Broken(self.half_pair(chain, key)),
                None => Payload::Nothing(
                    "it holds no certificate: neither `tls.crt` and `tls.key` nor `cert` and `key`".to_owned(),
                ),
            };
            return self.offer(name, payload, Places::default());
        };
        let staple = self.filled(OCSP_STAPLE);
        let payload = Payload::Certificate {
            chain: chain.bytes.clone(),
            key: key.bytes.clone(),
            ocsp_staple: staple.map(|entry| entry.bytes.clone()),
        };
        let places = Places {
            certificates: Some(chain.place.clone()),
            key: Some(key.place.clone()),
            crl: None,
            ocsp_staple: staple.map(|entry| entry.place.clone()),
        };
        self.offer(name, payload, places)
    }

    pub(super) fn trust(&self, name: SecretName) -> Offer {
        let Some(authorities) = AUTHORITIES.iter().find_map(|entry| self.filled(entry)) else {
            let missing = "it holds no authorities: neither `cacert` nor `ca.crt`".to_owned();
            return self.offer(name, Payload::Nothing(missing), Places::default());
        };
        let crl = REVOCATION_LISTS.iter().find_map(|entry| self.filled(entry));
        let payload =
            Payload::Trust { authorities: authorities.bytes.clone(), crl: crl.map(|entry| entry.bytes.clone()) };
        let places = Places {
            certificates: Some(authorities.place.clone()),
            crl: crl.map(|entry| entry.place.clone()),
            ..Places::default()
        };
        self.offer(name, payload, places)
    }

    fn offer(&self, name: SecretName, payload: Payload, places: Places) -> Offer {
        let mut offer = Offer::new(name, self.source, self.origin.clone(), payload);
        offer.key = self.key.cloned();
        offer.places = places;
        offer
    }

    /// What is wrong with a pair of which something is there.
    fn half_pair(&self, chain: &str, key: &str) -> String {
        // A folder of PEM may have `shop.crt` where a Secret has `tls.crt`.
        let missing = |name: &str| match (self.source, name) {
            (SourceKind::File, "tls.crt") => {
                "the certificate (`NAME.crt`, `NAME.pem` or `tls.crt`) is missing".to_owned()
            }
            (SourceKind::File, "tls.key") => "the key (`NAME.key` or `tls.key`) is missing".to_owned(),
            _ => format!("`{name}` is missing"),
        };
        let state = |name: &str| match self.entry(name) {
            None => Some(missing(name)),
            Some(entry) if entry.bytes.is_empty() => Some(format!("`{name}` is empty")),
            Some(_) => None,
        };
        let troubles: Vec<String> = [state(chain), state(key)].into_iter().flatten().collect();
        format!("half of a pair: {}", troubles.join(" and "))
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| &*entry.name == name)
    }

    fn filled(&self, name: &str) -> Option<&Entry> {
        self.entry(name).filter(|entry| !entry.bytes.is_empty())
    }
}
