//! Files and folders of PEM, on a thread that may wait for a file system that does not answer.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tidegate_core::{Code, Diagnostic, Origin, SecretName};
use tidegate_sds::SecretStore;
use tidegate_sds::sources::{FileWatcher, FolderWatcher};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

/// How long new names are waited for. A disk answers in milliseconds; what takes longer is served without them.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked what is wrong with folders.
const LOOK: Duration = Duration::from_secs(1);

/// The thread's counterpart. The thread ends when this is dropped, at the latest when its file system answers.
#[derive(Debug)]
pub(super) struct Files {
    wanted: watch::Sender<Wanted>,
    shared: Arc<Shared>,
    runtime: Handle,
}

/// What is to be looked for.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// Counts changes of `names`.
    number: u64,
    names: BTreeSet<SecretName>,
    /// Counts looks that were asked for.
    rescans: u64,
}

#[derive(Debug)]
struct Shared {
    /// Number of the names that were read last.
    done: watch::Sender<u64>,
    findings: Mutex<Vec<Diagnostic>>,
}

impl Shared {
    fn findings(&self) -> MutexGuard<'_, Vec<Diagnostic>> {
        // A list that was being replaced is replaced again a second later.
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    /// Secrets of folders that name no namespace are of `namespace`.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(super) fn start(
        store: Arc<SecretStore>,
        folders: Vec<PathBuf>,
        namespace: &str,
        runtime: Handle,
    ) -> io::Result<Self> {
        let files = FileWatcher::start(store.clone())?;
        let (wanted, wishes) = watch::channel(Wanted::default());
        let shared = Arc::new(Shared { done: watch::Sender::new(0), findings: Mutex::default() });
        thread::Builder::new().name("secret-files".into()).spawn({
            let (shared, runtime, namespace) = (shared.clone(), runtime.clone(), namespace.to_owned());
            move || {
                let folders = (!folders.is_empty()).then(|| FolderWatcher::start(store, folders, &namespace));
                look(&files, folders, wishes, &shared, &runtime);
            }
        })?;
        Ok(Self { wanted, shared, runtime })
    }

    /// Looks for these names, and for no others. They and all folders are read when this returns, unless that takes
    /// longer than anybody should wait.
    pub(super) fn look_for(&self, names: &BTreeSet<SecretName>) {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            wanted.number += 1;
            wanted.names.clone_from(names);
            number = wanted.number;
        });
        let mut done = self.shared.done.subscribe();
        // Whoever is late already is not waited for once more.
        if *done.borrow() + 1 < number {
            return;
        }
        let read = self.runtime.block_on(async { timeout(PATIENCE, done.wait_for(|done| *done >= number)).await });
        if read.is_err() {
            tracing::warn!("files of secrets are not read in time; what needs them fails until they are");
        }
    }

    /// Has everything looked at now, without waiting for it.
    pub(super) fn rescan(&self) {
        self.wanted.send_modify(|wanted| wanted.rescans += 1);
    }

    /// What was wrong with folders when it was last looked. What is wrong with secrets is told by the store.
    pub(super) fn findings(&self) -> Vec<Diagnostic> {
        self.shared.findings().clone()
    }
}

fn look(
    files: &FileWatcher,
    folders: Option<io::Result<FolderWatcher>>,
    mut wishes: watch::Receiver<Wanted>,
    shared: &Shared,
    runtime: &Handle,
) {
    let (mut number, mut rescans) = (0, 0);
    loop {
        let wanted = wishes.borrow_and_update().clone();
        if wanted.number != number {
            number = wanted.number;
            files.set_names(wanted.names);
        }
        if wanted.rescans != rescans {
            rescans = wanted.rescans;
            files.rescan();
            if let Some(Ok(folders)) = &folders {
                folders.rescan();
            }
        }
        *shared.findings() = match &folders {
            None => Vec::new(),
            Some(Ok(folders)) => folders.findings(),
            Some(Err(error)) => {
                let message = format!("the folders cannot be watched: {error}");
                vec![Diagnostic::error(Code::ENVIRONMENT, Origin::new("--secrets", 0, 0), message)]
            }
        };
        shared.done.send_replace(number);
        if matches!(runtime.block_on(async { timeout(LOOK, wishes.changed()).await }), Ok(Err(_))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_and_folders_are_read_when_looking_returns() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::new(["a.com".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        let pairs = folder.path().join("pairs");
        fs::create_dir(&pairs).unwrap();
        for path in [folder.path().join("b"), pairs.join("a")] {
            fs::write(path.with_extension("crt"), &pem).unwrap();
            fs::write(path.with_extension("key"), key.serialize_pem()).unwrap();
        }
        let store = Arc::new(SecretStore::default());
        let missing = folder.path().join("nowhere");
        let files = Files::start(store.clone(), vec![pairs, missing], "ns", runtime.handle().clone()).unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let name = SecretName::file_certificate(&path("b.crt"), &path("b.key"));
        files.look_for(&BTreeSet::from([name.clone()]));
        for name in [name, SecretName::kubernetes("ns", "a")] {
            assert!(store.get(&name).is_some_and(|slot| slot.current().is_some()), "{name}");
        }
        assert_eq!(files.findings().len(), 1, "{:?}", files.findings());
    }
}
