//! Secrets of files that do not serve yet.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_core::{Diagnostic, Kind, SecretName, SecretSource};
use tidegate_resources::ResourceSet;
use tidegate_sds::SecretStore;
use tidegate_snapshot::Snapshot;

use super::documents::Documents;
use super::prospects::Prospects;
use super::references::{self, References};
use super::sources;

/// What is wrong with the certificates among `resources`, as the gateway would say when it starts now. With the
/// Snapshot that they make certificates are held against their hosts, and what is missing among the objects is told;
/// files and SDS servers belong to the machine that will serve, and are not looked at.
pub(crate) fn judge(resources: &ResourceSet, snapshot: Option<&Snapshot>) -> Vec<Diagnostic> {
    let store = SecretStore::default();
    drop(store.offer(Documents::default().update(resources).offers));
    if let Some(snapshot) = snapshot {
        drop(store.expect_hosts(references::expected_hosts(snapshot, &store)));
    }
    let mut findings = store.findings();
    if let Some(snapshot) = snapshot {
        let issued: BTreeSet<SecretName> =
            resources.iter_kind(Kind::AcmeCertificate).filter_map(|object| sources::issued_name(object)).collect();
        let is_object = |name: &SecretName| {
            let kind = matches!(name.source(), SecretSource::Kubernetes { .. } | SecretSource::ConfigMap { .. });
            kind && !issued.contains(name)
        };
        let mut references = References::of(snapshot, BTreeSet::new(), &store);
        references.keep(is_object);
        findings.extend(references.findings(&Prospects::new(&store, BTreeMap::new())));
    }
    findings
}
