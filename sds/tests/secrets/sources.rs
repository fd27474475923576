//! Files and folders: pairs are read as one, atomic swaps are seen, errors name the path.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_core::SecretName;
use tidegate_sds::sources::{FileWatcher, FolderWatcher};
use tidegate_sds::{SecretState, SecretStore};

use crate::support::{Authority, Pair, World, secret};

struct Files {
    world: World,
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { world: World::new(), folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn pair(&self, chain: &str, key: &str, pair: &Pair) {
        self.write(chain, &pair.chain);
        self.write(key, &pair.key);
    }

    fn certificate(&self, chain: &str, key: &str) -> SecretName {
        let text = |name: &str| self.path(name).display().to_string();
        SecretName::file_certificate(&text(chain), &text(key))
    }

    fn store(&self) -> &Arc<SecretStore> {
        &self.world.store
    }

    fn leaf(&self, name: &SecretName) -> Option<Vec<u8>> {
        let current = self.store().get(name)?.current()?;
        current.content.certificate().map(|material| material.chain()[0].to_vec())
    }

    /// Waits for a state of the store that the watching thread brings about.
    fn wait(&self, what: &str, is_there: impl Fn() -> bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut changes = self.store().subscribe_changes();
        let waited = runtime.block_on(async {
            let waiting = async {
                while !is_there() {
                    changes.changed().await.unwrap();
                }
            };
            tokio::time::timeout(Duration::from_secs(20), waiting).await
        });
        assert!(waited.is_ok(), "{what}: {:?}", self.world.texts());
    }
}

fn names(names: &[&SecretName]) -> BTreeSet<SecretName> {
    names.iter().copied().cloned().collect()
}

#[test]
fn named_files_are_read_at_once_and_again_when_they_change() {
    let files = Files::new();
    let authority = Authority::root("root");
    let (first, second) = (authority.issue(&["a.com"]), authority.issue(&["a.com"]));
    files.pair("a.pem", "a.key", &first);
    files.write("ca.pem", authority.pem());
    let name = files.certificate("a.pem", "a.key");
    let root = SecretName::file_root(&files.path("ca.pem").display().to_string());
    let watcher = FileWatcher::start(files.store().clone()).unwrap();
    watcher.set_names(names(&[&name, &root, &secret("not-a-file")]));
    assert_eq!(files.leaf(&name).unwrap(), first.leaf);
    assert!(files.store().get(&root).unwrap().current().is_some());
    assert!(files.store().get(&secret("not-a-file")).is_none());
    files.pair("a.pem", "a.key", &second);
    files.wait("the second pair", || files.leaf(&name).unwrap() == second.leaf);
    assert_eq!(files.store().status(&name).unwrap().counters.failures, 0, "the mixed pair was not offered");
    watcher.set_names(names(&[&name]));
    assert_eq!(files.store().status(&root).unwrap().state, SecretState::Orphaned);
}

#[test]
fn a_pair_is_never_mixed_while_its_files_are_replaced_one_after_the_other() {
    let files = Files::new();
    let authority = Authority::root("root");
    let (first, second) = (authority.issue(&["a.com"]), authority.issue(&["a.com"]));
    files.pair("a.pem", "a.key", &first);
    let name = files.certificate("a.pem", "a.key");
    let watcher = FileWatcher::start(files.store().clone()).unwrap();
    watcher.set_names(names(&[&name]));
    files.write("a.pem", &second.chain);
    watcher.rescan();
    files.write("a.key", &second.key);
    watcher.rescan();
    let status = files.store().status(&name).unwrap();
    assert_eq!((status.version, status.counters.failures), (2, 0));
    assert_eq!(files.leaf(&name).unwrap(), second.leaf);
    // A pair that stays mixed is told, with the path.
    files.write("a.key", &first.key);
    files.wait("the mixed pair is told", || files.store().status(&name).unwrap().state == SecretState::Refused);
    let text = &files.world.texts()[0];
    assert!(text.contains("the private key does not belong to the certificate"), "{text}");
    assert!(text.contains(&format!("({})", files.path("a.key").display())), "{text}");
    assert_eq!(files.leaf(&name).unwrap(), second.leaf);
}

#[test]
fn files_that_are_missing_are_named_and_taken_when_they_come() {
    let files = Files::new();
    let name = files.certificate("later/a.pem", "later/a.key");
    let watcher = FileWatcher::start(files.store().clone()).unwrap();
    watcher.set_names(names(&[&name]));
    let text = &files.world.texts()[0];
    assert!(text.contains(&format!("cannot read {}", files.path("later/a.pem").display())), "{text}");
    let pair = Authority::root("root").issue(&["a.com"]);
    files.pair("later/a.pem", "later/a.key", &pair);
    files.wait("the files come", || files.leaf(&name).is_some());
    assert_eq!(files.world.texts(), [""; 0]);
}

#[test]
fn files_of_authorities_and_lists_are_judged() {
    let files = Files::new();
    let authority = Authority::root("root");
    files.write("ca.pem", authority.pem());
    files.write("crl.pem", authority.crl(&[1], crate::support::UNTIL));
    let text = |name: &str| files.path(name).display().to_string();
    let (root, crl) = (SecretName::file_root(&text("ca.pem")), SecretName::file_crl(&text("crl.pem")));
    let watcher = FileWatcher::start(files.store().clone()).unwrap();
    watcher.set_names(names(&[&root, &crl]));
    assert_eq!(files.world.texts(), [""; 0]);
    files.write("crl.pem", "garbage");
    files.wait("garbage is told", || files.store().status(&crl).unwrap().state == SecretState::Refused);
    assert!(files.store().get(&crl).unwrap().current().is_some());
}

#[test]
fn authorities_of_the_machine_are_read() {
    let files = Files::new();
    let name = SecretName::system_roots();
    let watcher = FileWatcher::start(files.store().clone()).unwrap();
    watcher.set_names(names(&[&name]));
    let status = files.store().status(&name).unwrap();
    match status.refused {
        // A machine without any says so.
        Some(refused) => assert!(refused.reasons[0].contains("authorities"), "{refused:?}"),
        None => assert!(!status.facts.is_empty()),
    }
    watcher.set_names(names(&[]));
}

#[test]
fn a_folder_of_pairs_is_read() {
    let files = Files::new();
    let authority = Authority::root("root");
    let issue = |host: &str| authority.issue(&[host]);
    let (a, b, c, d, e) = (issue("a.com"), issue("b.com"), issue("c.com"), issue("d.com"), issue("e.com"));
    files.pair("a.crt", "a.key", &a);
    files.write("a-ca.crt", authority.pem());
    files.write("b.pem", b.chain.clone() + &b.key);
    files.pair("c/tls.crt", "c/tls.key", &c);
    files.write("c/ca.crt", authority.pem());
    files.pair("other/d/tls.crt", "other/d/tls.key", &d);
    files.pair(".hidden/tls.crt", ".hidden/tls.key", &e);
    files.pair("e.pem", "e.key", &e);
    files.write("lonely.crt", authority.pem());
    files.write("README", "words");
    let watcher = FolderWatcher::start(files.store().clone(), vec![files.folder.path().to_owned()], "ns").unwrap();
    let held: Vec<String> = files
        .store()
        .slots()
        .iter()
        .filter(|slot| slot.current().is_some())
        .map(|slot| slot.name().to_string())
        .collect();
    let expected = ["ns/a", "ns/a-cacert", "ns/b", "ns/c", "ns/c-cacert", "ns/e", "other/d"];
    assert_eq!(held, expected.map(|name| format!("kubernetes://{name}")));
    assert_eq!((files.world.texts(), watcher.findings()), (vec![], vec![]));
    // The file with both is shown without its key.
    let current = files.world.current("b").unwrap();
    let shown = current.content.certificate().unwrap().chain_pem().clone();
    assert!(!String::from_utf8_lossy(shown.as_slice()).contains("PRIVATE"));

    fs::remove_file(files.path("e.key")).unwrap();
    fs::remove_file(files.path("e.pem")).unwrap();
    files.pair("new/tls.crt", "new/tls.key", &e);
    watcher.rescan();
    files.world.check("e", 1, SecretState::Orphaned);
    files.world.check("new", 1, SecretState::Active);
    fs::remove_file(files.path("a.key")).unwrap();
    watcher.rescan();
    files.wait("half a pair is told", || files.world.status("a").state == SecretState::Refused);
    assert!(files.world.status("a").refused.unwrap().reasons[0].contains("the key (`NAME.key`"));
    assert_eq!(files.world.leaf("a").unwrap(), a.leaf);
}

#[test]
fn a_mount_of_a_kubelet_swaps_as_one() {
    let files = Files::new();
    let authority = Authority::root("root");
    let mount = files.path("webapp");
    let publish = |at: usize, pair: &Pair| {
        files.pair(&format!("webapp/..{at}/tls.crt"), &format!("webapp/..{at}/tls.key"), pair);
        let staged = mount.join("..data_tmp");
        symlink(format!("..{at}"), &staged).unwrap();
        fs::rename(staged, mount.join("..data")).unwrap();
    };
    let first = authority.issue(&["a.com"]);
    publish(0, &first);
    for file in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(file), mount.join(file)).unwrap();
    }
    let _watcher = FolderWatcher::start(files.store().clone(), vec![files.folder.path().to_owned()], "ns").unwrap();
    assert_eq!(files.world.leaf("webapp").unwrap(), first.leaf);
    for at in 1..6 {
        let next = authority.issue(&["a.com"]);
        publish(at, &next);
        let began = Instant::now();
        files.wait("the next pair", || files.world.leaf("webapp").unwrap() == next.leaf);
        assert!(began.elapsed() < Duration::from_secs(5));
        files.world.check("webapp", at as u64 + 1, SecretState::Active);
    }
    assert_eq!(files.world.status("webapp").counters.failures, 0);
}

#[test]
fn a_folder_that_vanishes_withdraws_nothing() {
    let files = Files::new();
    let pair = Authority::root("root").issue(&["a.com"]);
    files.pair("folder/a.crt", "folder/a.key", &pair);
    let folder = files.path("folder");
    let watcher = FolderWatcher::start(files.store().clone(), vec![folder.clone()], "ns").unwrap();
    fs::rename(&folder, files.path("elsewhere")).unwrap();
    watcher.rescan();
    assert_ne!(files.world.status("a").state, SecretState::Orphaned);
    assert!(watcher.findings()[0].message.starts_with("the folder cannot be listed"));
    fs::rename(files.path("elsewhere"), &folder).unwrap();
    watcher.rescan();
    files.world.check("a", 1, SecretState::Active);
    assert_eq!(watcher.findings(), []);
}

#[test]
fn of_two_folders_the_first_that_has_a_name_counts() {
    let files = Files::new();
    let authority = Authority::root("root");
    let (first, second) = (authority.issue(&["a.com"]), authority.issue(&["a.com"]));
    files.pair("one/a.crt", "one/a.key", &first);
    files.pair("two/a.crt", "two/a.key", &second);
    let folders = vec![files.path("one"), files.path("two")];
    let watcher = FolderWatcher::start(files.store().clone(), folders, "ns").unwrap();
    assert_eq!(files.world.leaf("a").unwrap(), first.leaf);
    assert!(watcher.findings()[0].message.contains("which goes first"));
}
