//! Secrets as the admin interface and the metrics show them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use tidegate_admin::{AlternativeName, CertificateFacts, PublicBytes, SecretContent, SecretState, SecretStatus};
use tidegate_core::{SecretName, SecretSource};
use tidegate_sds::{Content, ContentKind, SecretGauge, SecretStore, SubjectName};
use tidegate_snapshot::SecretStanding;
use tidegate_snapshot::SecretState::{Missing, Serves};

use super::prospects::Prospects;
use super::references::NOWHERE;

/// What metrics tell of a secret.
pub(super) struct SecretFacts {
    pub(super) name: SecretName,
    pub(super) not_after: Option<SystemTime>,
    pub(super) rotated: Option<SystemTime>,
    pub(super) failures: u64,
    pub(super) version: u64,
}

impl SecretFacts {
    pub(super) fn of(gauge: SecretGauge<'_>) -> Self {
        Self {
            name: gauge.name.clone(),
            not_after: gauge.end.map(SystemTime::from),
            rotated: gauge.rotated.map(SystemTime::from),
            failures: gauge.counters.failures,
            version: gauge.version,
        }
    }
}

/// Every secret that the store has something of, and those of `missing`, sorted by name. `missing` says how they stand.
pub(super) fn all(store: &SecretStore, missing: &BTreeMap<SecretName, String>) -> Vec<SecretStatus> {
    let statuses = store.statuses();
    let known: BTreeSet<_> = statuses.iter().map(|status| status.name.clone()).collect();
    // Names that hosts are expected under, beside another that serves them, are no business of anybody's.
    let told = |status: &tidegate_sds::SecretStatus| {
        status.content.is_some() || status.refused.is_some() || missing.contains_key(&status.name)
    };
    let mut all: Vec<_> = statuses.into_iter().filter(told).map(|status| shown(store, status, missing)).collect();
    all.extend(missing.iter().filter(|(name, _)| !known.contains(*name)).map(|(name, state)| SecretStatus {
        name: name.to_string(),
        remarks: vec![state.clone()],
        ..SecretStatus::default()
    }));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// What there is to say about a secret that the store has something of, most severe first.
fn remarks(status: &tidegate_sds::SecretStatus) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(refused) = &status.refused {
        let since = humantime::format_rfc3339_seconds(SystemTime::from(refused.since));
        remarks.push(format!("{} since {since}: {}", refused.origin, refused.reasons.join("; ")));
    }
    if status.state == tidegate_sds::SecretState::Orphaned {
        remarks.push("its source no longer has it".into());
    }
    remarks.extend(status.flaws.iter().cloned());
    remarks
}

/// How the secret stands that a reference with these names means.
pub(super) fn standing(prospects: &Prospects<'_>, names: &[SecretName]) -> SecretStanding {
    let store = prospects.store();
    // The data plane goes by the machine's own authorities whether or not they were looked for.
    if let [name] = names
        && name.source() == SecretSource::SystemRoots
    {
        return SecretStanding { state: Serves, served_as: Some(name.to_string()), remarks: Vec::new() };
    }
    if let Some(slot) = store.resolve(names) {
        let remarks = store.status(slot.name()).map(|status| remarks(&status)).unwrap_or_default();
        return SecretStanding { state: Serves, served_as: Some(slot.name().to_string()), remarks };
    }
    let refused = names.iter().filter_map(|name| store.status(name)).find(|status| status.refused.is_some());
    let remarks = match refused {
        Some(refused) => remarks(&refused),
        None => vec![prospects.awaited(names).unwrap_or(NOWHERE).to_owned()],
    };
    SecretStanding { state: Missing, served_as: None, remarks }
}

fn shown(
    store: &SecretStore,
    status: tidegate_sds::SecretStatus,
    missing: &BTreeMap<SecretName, String>,
) -> SecretStatus {
    let mut remarks = remarks(&status);
    if status.content.is_none() && remarks.is_empty() {
        remarks.push(missing.get(&status.name).cloned().unwrap_or_else(|| NOWHERE.into()));
    }
    let secret = store.get(&status.name).and_then(|slot| slot.current());
    let (certificates_pem, crl_pem) = secret.map(|secret| public(&secret.content)).unwrap_or_default();
    SecretStatus {
        name: status.name.to_string(),
        content: match status.content {
            None => SecretContent::Unknown,
            Some(ContentKind::Certificate) => SecretContent::CertificateChain,
            Some(ContentKind::Trust) => SecretContent::Authorities,
            Some(ContentKind::Crl) => SecretContent::RevocationLists,
        },
        source: status.source.map(|source| source.as_str().to_owned()).unwrap_or_default(),
        object: status.key.map(|key| key.to_string()),
        origin: status.origin.to_string(),
        state: match status.state {
            tidegate_sds::SecretState::Missing => SecretState::Warming,
            tidegate_sds::SecretState::Active => SecretState::Active,
            tidegate_sds::SecretState::Refused => SecretState::Refused,
            tidegate_sds::SecretState::Orphaned => SecretState::Orphaned,
        },
        remarks,
        version: status.version,
        rotated: status.rotated.map(SystemTime::from),
        failures: status.counters.failures,
        hosts: status.hosts.iter().map(ToString::to_string).collect(),
        certificates: status.facts.iter().map(facts).collect(),
        certificates_pem,
        crl_pem,
    }
}

fn facts(facts: &tidegate_sds::CertificateFacts) -> CertificateFacts {
    let name = |name: &SubjectName| match name {
        SubjectName::Dns(name) => AlternativeName::Dns(name.to_string()),
        SubjectName::Uri(name) => AlternativeName::Uri(name.to_string()),
        SubjectName::Ip(address) => AlternativeName::Ip(address.to_string()),
        SubjectName::Email(name) => AlternativeName::Email(name.to_string()),
    };
    CertificateFacts {
        subject: facts.subject.to_string(),
        issuer: facts.issuer.to_string(),
        serial_number: facts.serial.to_string(),
        subject_alt_names: facts.names.iter().map(name).collect(),
        not_before: facts.validity.not_before.into(),
        not_after: facts.validity.not_after.into(),
        sha256: facts.fingerprint.to_string(),
        key: facts.key.to_string(),
    }
}

/// Certificates and revocation lists of a secret in PEM. Written anew from what was read, so that nothing else that
/// stood in the same file, such as a key, can come along.
fn public(content: &Content) -> (Option<PublicBytes>, Option<PublicBytes>) {
    let lists = |lists: &[CertificateRevocationListDer<'_>]| {
        (!lists.is_empty()).then(|| pem("X509 CRL", lists.iter().map(AsRef::as_ref)))
    };
    match content {
        Content::Certificate(material) => (Some(pem("CERTIFICATE", material.chain().iter().map(AsRef::as_ref))), None),
        Content::Trust(material) => {
            let authorities = CertificateDer::pem_slice_iter(material.authorities_pem().as_slice());
            let authorities: Vec<_> = authorities.filter_map(Result::ok).collect();
            (Some(pem("CERTIFICATE", authorities.iter().map(AsRef::as_ref))), lists(material.crls()))
        }
        Content::Crl(material) => (None, lists(material.crls())),
    }
}

/// RFC 7468.
fn pem<'d>(label: &str, sections: impl Iterator<Item = &'d [u8]>) -> PublicBytes {
    let mut text = String::new();
    for der in sections {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "-----BEGIN {label}-----");
        // A line of 64 characters is 48 bytes.
        for line in der.chunks(48) {
            text.push_str(&tidegate_admin::base64(line));
            text.push('\n');
        }
        let _ = writeln!(text, "-----END {label}-----");
    }
    Arc::from(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_is_read_back() {
        let sections = [vec![1u8; 100], vec![2u8; 48], Vec::new()];
        let text = pem("CERTIFICATE", sections.iter().map(Vec::as_slice));
        let read: Vec<_> = CertificateDer::pem_slice_iter(&text).map(|section| section.unwrap().to_vec()).collect();
        assert_eq!(read, sections);
        assert!(text.split(|byte| *byte == b'\n').all(|line| line.len() <= 64));
    }
}
