//! Secrets as the admin interface and the metrics show them.

use std::collections::BTreeSet;
use std::time::SystemTime;

use tidegate_admin::{SecretContent, SecretState, SecretStatus};
use tidegate_core::SecretName;
use tidegate_sds::{Content, SecretSlot, SecretStore};

/// What metrics tell of a secret.
pub(super) struct SecretFacts {
    pub(super) name: SecretName,
    pub(super) not_after: Option<SystemTime>,
    pub(super) rotated: Option<SystemTime>,
    pub(super) failures: u64,
    pub(super) version: u64,
}

impl SecretFacts {
    pub(super) fn of(slot: &SecretSlot) -> Self {
        let current = slot.current();
        Self {
            name: slot.name().clone(),
            not_after: None,
            rotated: None,
            failures: 0,
            version: current.map_or(0, |secret| secret.version),
        }
    }
}

/// Every secret that the store knows, and those of `missing` that it does not, sorted by name.
pub(super) fn all(store: &SecretStore, missing: &BTreeSet<SecretName>) -> Vec<SecretStatus> {
    let mut all: Vec<_> = store.slots().iter().map(|slot| status(slot)).collect();
    let unknown = missing.iter().filter(|name| store.get(name).is_none());
    all.extend(unknown.map(|name| SecretStatus {
        name: name.to_string(),
        remarks: vec!["no source has it".into()],
        ..SecretStatus::default()
    }));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn status(slot: &SecretSlot) -> SecretStatus {
    let current = slot.current();
    SecretStatus {
        name: slot.name().to_string(),
        content: match current.as_ref().map(|secret| &secret.content) {
            None => SecretContent::Unknown,
            Some(Content::Certificate(_)) => SecretContent::CertificateChain,
            Some(Content::Trust(_)) => SecretContent::Authorities,
            Some(Content::Crl(_)) => SecretContent::RevocationLists,
        },
        state: if current.is_some() { SecretState::Active } else { SecretState::Warming },
        version: current.map_or(0, |secret| secret.version),
        ..SecretStatus::default()
    }
}
