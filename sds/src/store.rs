use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;
use parking_lot::RwLock;
use tidegate_core::{Diagnostic, Host, Origin, ResourceKey, SecretBytes, SecretName};
use tokio::sync::watch;

use crate::{CertificateMaterial, Challenges, Content, RevocationLists, SecretSlot, TrustMaterial};

/// Where material comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SourceKind {
    /// A Secret or ConfigMap document.
    Kubernetes,
    /// Files that a Gateway or a DestinationRule names, or a folder of PEM pairs.
    File,
    Acme,
    /// An SDS server elsewhere.
    Sds,
}

/// Material under a name, as a source has it.
#[derive(Clone, Debug)]
pub struct Offer {
    pub name: SecretName,
    pub source: SourceKind,
    /// The object, if it is one.
    pub key: Option<ResourceKey>,
    /// Where it begins.
    pub origin: Origin,
    /// Where its parts are, if that is known better.
    pub places: Places,
    pub payload: Payload,
}

impl Offer {
    /// An offer that is no object and whose parts have no places of their own.
    pub fn new(name: SecretName, source: SourceKind, origin: Origin, payload: Payload) -> Self {
        Self { name, source, key: None, origin, places: Places::default(), payload }
    }
}

/// Places of the parts of an offer, for findings. What is missing has the place of the offer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// Certificates: of a chain, or of authorities.
    pub certificates: Option<Place>,
    pub key: Option<Place>,
    pub crl: Option<Place>,
    pub ocsp_staple: Option<Place>,
}

/// Where a part of an offer was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Path of the field, as in `data["tls.key"]`; empty for files of PEM.
    pub path: Arc<str>,
    pub origin: Origin,
}

/// Bytes that are to become material; PEM everywhere.
#[derive(Clone, Debug)]
pub enum Payload {
    Certificate {
        /// Leaf first.
        chain: SecretBytes,
        key: SecretBytes,
        /// DER.
        ocsp_staple: Option<SecretBytes>,
    },
    Trust {
        authorities: SecretBytes,
        crl: Option<SecretBytes>,
    },
    Crl(SecretBytes),
    /// The source has the name and nothing usable under it; says why.
    Broken(String),
}

/// All slots. Shared by the sources, which offer, and the data plane, which reads.
#[derive(Debug)]
pub struct SecretStore {
    slots: RwLock<AHashMap<SecretName, Arc<SecretSlot>>>,
    generation: watch::Sender<u64>,
    challenges: Challenges,
}

impl Default for SecretStore {
    fn default() -> Self {
        Self { slots: RwLock::default(), generation: watch::Sender::new(0), challenges: Challenges::default() }
    }
}

impl SecretStore {
    /// Takes offers in, all of them before the generation moves once. Gives back what is wrong with those that were
    /// refused, and with those that were taken in spite of something. What was refused costs no other name.
    pub fn offer(&self, offers: Vec<Offer>) -> Vec<Diagnostic> {
        let mut findings = Vec::new();
        let mut swapped = false;
        for offer in offers {
            let content = match offer.payload {
                Payload::Certificate { chain, key, .. } => {
                    CertificateMaterial::from_pem(chain, key).map(Content::Certificate)
                }
                Payload::Trust { authorities, crl } => TrustMaterial::from_pem(authorities, crl).map(Content::Trust),
                Payload::Crl(pem) => RevocationLists::from_pem(&pem).map(Content::Crl),
                Payload::Broken(reason) => {
                    findings.push(Diagnostic::error(tidegate_core::Code::SCHEMA, offer.origin, reason));
                    continue;
                }
            };
            match content {
                Ok(content) => {
                    let mut slots = self.slots.write();
                    let slot = slots.entry(offer.name.clone()).or_insert_with(|| Arc::new(SecretSlot::new(offer.name)));
                    slot.swap(content);
                    swapped = true;
                }
                Err(error) => {
                    findings.push(Diagnostic::error(tidegate_core::Code::SCHEMA, offer.origin, error.to_string()))
                }
            }
        }
        if swapped {
            self.generation.send_modify(|generation| *generation += 1);
        }
        findings
    }

    /// The sources no longer have these names. What they hold serves on, as in Istio, and is told to be orphaned.
    pub fn withdraw(&self, names: &[SecretName]) {
        let _ = names;
    }

    /// Tells which hosts show which certificate, so that an offer can be held against them; replaces what was told.
    pub fn expect_hosts(&self, hosts: BTreeMap<SecretName, Vec<Host>>) -> Vec<Diagnostic> {
        let _ = hosts;
        Vec::new()
    }

    /// The slot of a name; none if no source ever had it.
    pub fn get(&self, name: &SecretName) -> Option<Arc<SecretSlot>> {
        self.slots.read().get(name).cloned()
    }

    /// The first of several names that holds something.
    pub fn resolve(&self, names: &[SecretName]) -> Option<Arc<SecretSlot>> {
        let slots = self.slots.read();
        names.iter().filter_map(|name| slots.get(name)).find(|slot| slot.current().is_some()).cloned()
    }

    /// Sorted by name.
    pub fn slots(&self) -> Vec<Arc<SecretSlot>> {
        let mut slots: Vec<_> = self.slots.read().values().cloned().collect();
        slots.sort_by(|a, b| a.name().cmp(b.name()));
        slots
    }

    /// Moves with every swap of any slot, so that one comparison tells a reader that nothing changed.
    pub fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// Wakes at every swap.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// ACME's open challenges, which listeners answer.
    pub fn challenges(&self) -> &Challenges {
        &self.challenges
    }
}
