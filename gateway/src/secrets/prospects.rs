//! What is known of secrets that nobody has: who is at work for them, and what else may have been meant.

use std::collections::BTreeMap;

use tidegate_core::{SecretName, SecretSource};
use tidegate_sds::{Content, SecretStore};

/// Names that are less alike than this are not suggested.
const LIKENESS: f64 = 0.9;
/// Names that are compared for one suggestion: it must cost nothing that anybody notices.
const MAX_COMPARED: usize = 20_000;
/// Letters that a misspelt name has more or less.
const MAX_LENGTHENED: usize = 3;

/// What a Secret's name ends in if it holds authorities for the clients of another one.
const CA_SUFFIX: &str = tidegate_sds::sources::kubernetes::CA_SUFFIX;

/// What may still come, and what is there instead.
#[derive(Debug)]
pub(super) struct Prospects<'s> {
    store: &'s SecretStore,
    /// Names that a source is at work for; each with a sentence that says how it stands, of which `it` is the secret.
    awaited: BTreeMap<SecretName, String>,
    /// Names in the store that hold something.
    held: Vec<SecretName>,
    /// Whether files are looked at, not what a running gateway has.
    is_offline: bool,
}

impl<'s> Prospects<'s> {
    pub(super) fn new(store: &'s SecretStore, awaited: BTreeMap<SecretName, String>) -> Self {
        let slots = store.slots();
        let held = slots.iter().filter(|slot| slot.current().is_some()).take(MAX_COMPARED);
        Self { store, awaited, held: held.map(|slot| slot.name().clone()).collect(), is_offline: false }
    }

    /// Of files, before a gateway serves them.
    pub(super) fn offline(store: &'s SecretStore) -> Self {
        Self { is_offline: true, ..Self::new(store, BTreeMap::new()) }
    }

    /// Who has not got it: what a name follows in a sentence.
    pub(super) fn nobody_has(&self, names: &[SecretName]) -> &'static str {
        let is_object = names.iter().any(|name| parts(name).is_some());
        match (self.is_offline, is_object) {
            (false, _) => "no source has",
            (true, true) => "none of these files has",
            (true, false) => "this machine has no",
        }
    }

    pub(super) fn store(&self) -> &SecretStore {
        self.store
    }

    /// Who is at work for the first of these names that anybody is at work for, in a sentence.
    pub(super) fn awaited(&self, names: &[SecretName]) -> Option<&str> {
        names.iter().find_map(|name| self.awaited.get(name)).map(String::as_str)
    }

    /// How a reference that found nothing may be mended, if there is something to go by.
    pub(super) fn help(&self, names: &[SecretName]) -> Option<String> {
        if self.awaited(names).is_some() {
            return None;
        }
        let help = names.iter().find_map(|name| self.help_for_authorities(name)).or_else(|| self.did_you_mean(names));
        let is_elsewhere = self.is_offline && names.iter().any(|name| parts(name).is_some());
        help.or_else(|| {
            is_elsewhere.then(|| "if it comes from `run --secrets DIR`, give --secrets DIR here, too".into())
        })
    }

    /// The Secret is there, and lacks the authorities.
    fn help_for_authorities(&self, name: &SecretName) -> Option<String> {
        let SecretSource::Kubernetes { namespace, name } = name.source() else { return None };
        let of = name.strip_suffix(CA_SUFFIX)?;
        let beside = self.store.get(&SecretName::kubernetes(namespace, of))?.current()?;
        matches!(beside.content, Content::Certificate(_))
            .then(|| format!("add `ca.crt` to Secret {namespace}/{of}, or a Secret {namespace}/{name}"))
    }

    fn did_you_mean(&self, names: &[SecretName]) -> Option<String> {
        let asked: Vec<_> = names.iter().filter_map(parts).collect();
        let mut best: Option<(f64, bool, (&str, &str))> = None;
        for candidate in self.held.iter().chain(self.awaited.keys()).filter_map(parts) {
            for wanted in &asked {
                let alike = candidate.is_config_map == wanted.is_config_map
                    && candidate.name.ends_with(CA_SUFFIX) == wanted.name.ends_with(CA_SUFFIX)
                    && candidate.name.len().abs_diff(wanted.name.len()) <= MAX_LENGTHENED;
                if !alike {
                    continue;
                }
                let likeness = strsim::jaro_winkler(wanted.name, candidate.name);
                let is_near = asked.iter().any(|wanted| wanted.namespace == candidate.namespace);
                if likeness >= LIKENESS && best.is_none_or(|(most, near, _)| (is_near, likeness) > (near, most)) {
                    best = Some((likeness, is_near, (candidate.namespace, candidate.name)));
                }
            }
        }
        let (_, is_near, (namespace, name)) = best?;
        // Of authorities the name is made of that of the credential.
        let name = name.strip_suffix(CA_SUFFIX).unwrap_or(name);
        Some(if is_near {
            format!("did you mean `{name}`?")
        } else {
            format!("`{name}` is in namespace {namespace}, which is not looked into for this")
        })
    }
}

/// A name of an object.
struct Parts<'n> {
    is_config_map: bool,
    namespace: &'n str,
    name: &'n str,
}

fn parts(name: &SecretName) -> Option<Parts<'_>> {
    match name.source() {
        SecretSource::Kubernetes { namespace, name } => Some(Parts { is_config_map: false, namespace, name }),
        SecretSource::ConfigMap { namespace, name } => Some(Parts { is_config_map: true, namespace, name }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::{Origin, SecretBytes};
    use tidegate_sds::{Offer, Payload, SourceKind};

    use super::*;

    fn check(held: &[&str], awaited: &[&str], asked: &[&str], expected: Option<&str>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::new(["a.com".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let bytes = |text: String| SecretBytes::new(text.into_bytes());
        let store = SecretStore::default();
        let offer = |name: &&str| {
            let payload = if name.ends_with("-cacert") || name.starts_with("configmap") {
                Payload::Trust { authorities: bytes(pem.clone()), crl: None }
            } else {
                Payload::Certificate { chain: bytes(pem.clone()), key: bytes(key.serialize_pem()), ocsp_staple: None }
            };
            Offer::new(SecretName::new(name), SourceKind::Kubernetes, Origin::default(), payload)
        };
        drop(store.offer(held.iter().map(offer).collect()));
        assert_eq!(store.slots().iter().filter(|slot| slot.current().is_some()).count(), held.len());
        let awaited = awaited.iter().map(|name| (SecretName::new(name), "somebody has not got it yet".to_owned()));
        let prospects = Prospects::new(&store, awaited.collect());
        let asked: Vec<_> = asked.iter().map(|name| SecretName::new(name)).collect();
        assert_eq!(prospects.help(&asked).as_deref(), expected, "{asked:?} among {held:?}");
    }

    #[test]
    fn a_misspelt_name_is_compared_with_what_is_there() {
        let held = ["kubernetes://ns/shop-credential", "kubernetes://ns/web", "configmap://ns/shop-credentail"];
        let asked = ["kubernetes://ns/shop-credentail"];
        check(&held, &[], &asked, Some("did you mean `shop-credential`?"));
        check(&held, &[], &["kubernetes://ns/blog"], None);
        check(&[], &held[..1], &asked, Some("did you mean `shop-credential`?"));
        let of_two = ["kubernetes://gw/shop", "kubernetes://ns/shop"];
        let elsewhere = Some("`shop` is in namespace certs, which is not looked into for this");
        check(&["kubernetes://certs/shop", "kubernetes://certs/web"], &[], &of_two, elsewhere);
        check(&["kubernetes://certs/shop", "kubernetes://ns/shopp"], &[], &of_two, Some("did you mean `shopp`?"));
    }

    #[test]
    fn authorities_that_a_secret_lacks_are_told_to_be_added() {
        let help = "add `ca.crt` to Secret ns/partners, or a Secret ns/partners-cacert";
        check(&["kubernetes://ns/partners"], &[], &["kubernetes://ns/partners-cacert"], Some(help));
        let misspelt = ["kubernetes://ns/partnres-cacert"];
        check(&["kubernetes://ns/partners-cacert"], &[], &misspelt, Some("did you mean `partners`?"));
    }

    #[test]
    fn what_somebody_is_at_work_for_needs_no_help() {
        check(&["kubernetes://ns/shop-1"], &["kubernetes://ns/shop-2"], &["kubernetes://ns/shop-2"], None);
    }
}
