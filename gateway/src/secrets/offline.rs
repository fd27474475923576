//! Secrets of files that do not serve yet.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_core::{Code, Diagnostic, Kind, Origin, SecretName, SecretSource};
use tidegate_resources::ResourceSet;
use tidegate_sds::SecretStore;
use tidegate_sds::sources::{FileWatcher, FolderWatcher};
use tidegate_snapshot::{SecretStanding, SecretState, Snapshot};

use super::documents::Documents;
use super::orders::Answers;
use super::prospects::Prospects;
use super::references::{self, References};
use super::{orders, sources, status};

/// Said of a secret that a file names and that none of the files holds.
const NOT_AMONG_FILES: &str = "none of these files has it";

/// What is wrong with the certificates among `resources` and in `folders` of PEM, as the gateway would say when it starts
/// now. With the Snapshot that the resources make certificates are held against their hosts, what is missing is told, and
/// the files are looked at that it names. SDS servers belong to the machine that will serve, and are not asked.
pub(crate) fn judge(
    resources: &ResourceSet,
    snapshot: Option<&Snapshot>,
    folders: &[PathBuf],
    namespace: &str,
) -> Vec<Diagnostic> {
    let (store, mut findings) = offered(resources, snapshot, folders, namespace);
    findings.extend(store.findings());
    if let Some(snapshot) = snapshot {
        let issued = issued(resources);
        let mut references = References::of(snapshot, BTreeSet::new(), &store);
        references.keep(|name| is_among_files(name, &issued) || !paths(name).is_empty());
        findings.extend(references.findings(&Prospects::offline(&store)));
        let names = references::names(snapshot);
        findings.extend(orders::findings(&orders::of(resources), Answers::of(snapshot), &names));
    }
    findings
}

/// How the secrets stand that references in `snapshot` mean, as far as that is a matter of `resources`, which it is
/// made of.
pub(crate) fn standings(
    resources: &ResourceSet,
    snapshot: &Snapshot,
    folders: &[PathBuf],
    namespace: &str,
) -> impl Fn(&[String]) -> Option<SecretStanding> + use<> {
    let (store, _) = offered(resources, Some(snapshot), folders, namespace);
    let issued = issued(resources);
    move |names| {
        let names: Vec<_> = names.iter().map(|name| SecretName::new(name)).collect();
        let prospects = Prospects::offline(&store);
        if !names.iter().all(|name| is_among_files(name, &issued)) {
            return None;
        }
        let has_offer = names.iter().any(|name| store.status(name).is_some_and(|status| status.source.is_some()));
        if has_offer {
            return Some(status::standing(&prospects, &names));
        }
        // Secrets are seldom kept beside what names them.
        let remarks = vec![NOT_AMONG_FILES.to_owned()];
        Some(SecretStanding { state: SecretState::Unknown, served_as: None, remarks })
    }
}

/// A store with the Secrets among `resources`, of `folders`, and of files that the Snapshot names and this machine has;
/// and what is wrong with the folders themselves.
fn offered(
    resources: &ResourceSet,
    snapshot: Option<&Snapshot>,
    folders: &[PathBuf],
    namespace: &str,
) -> (Arc<SecretStore>, Vec<Diagnostic>) {
    let store = Arc::new(SecretStore::default());
    drop(store.offer(Documents::default().update(resources).offers));
    let mut findings = Vec::new();
    let failed = |option: &str, error: &io::Error| {
        let message = format!("secrets cannot be looked for: {error}");
        Diagnostic::error(Code::ENVIRONMENT, Origin::new(option, 0, 0), message)
    };
    // They watch until the end of this function; what they read first stays.
    let mut _folders = None;
    if !folders.is_empty() {
        match FolderWatcher::start(store.clone(), folders.to_vec(), namespace) {
            Ok(watcher) => {
                findings.extend(watcher.findings());
                _folders = Some(watcher);
            }
            Err(error) => findings.push(failed("--secrets", &error)),
        }
    }
    let Some(snapshot) = snapshot else { return (store, findings) };
    let here = |name: &SecretName| {
        let paths = paths(name);
        !paths.is_empty() && paths.iter().all(|path| path.exists())
    };
    let names: BTreeSet<_> = references::names(snapshot).into_iter().filter(here).collect();
    let mut _files = None;
    if !names.is_empty() {
        match FileWatcher::start(store.clone()) {
            Ok(watcher) => {
                watcher.set_names(names);
                _files = Some(watcher);
            }
            Err(error) => findings.push(failed("files of secrets", &error)),
        }
    }
    drop(store.expect_hosts(references::expected_hosts(snapshot, &store)));
    (store, findings)
}

/// The files that a name stands for; none if it is no name of files.
fn paths(name: &SecretName) -> Vec<&Path> {
    match name.source() {
        SecretSource::FileCertificate { chain, key } => vec![Path::new(chain), Path::new(key)],
        SecretSource::FileRoot { path } | SecretSource::FileCrl { path } => vec![Path::new(path)],
        _ => Vec::new(),
    }
}

/// What an authority will issue.
fn issued(resources: &ResourceSet) -> BTreeSet<SecretName> {
    resources.iter_kind(Kind::AcmeCertificate).filter_map(|object| sources::issued_name(object)).collect()
}

/// Whether a secret is one that the files should have.
fn is_among_files(name: &SecretName, issued: &BTreeSet<SecretName>) -> bool {
    let is_object = matches!(name.source(), SecretSource::Kubernetes { .. } | SecretSource::ConfigMap { .. });
    is_object && !issued.contains(name)
}
