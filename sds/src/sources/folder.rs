//! Folders of PEM files, as people and kubelets lay them out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_core::{Code, Diagnostic, Level, Origin, SecretBytes};

use super::files::place;
use super::kubernetes::{CA_SUFFIX, Entry, Reader};
use super::read::ReadError;
use super::units::{RETRY, Unit, Units};
use super::watch::{Look, Watch};
use crate::offer::{Offer, Payload};
use crate::{SecretStore, SourceKind, pem};

/// Files that are looked at in all folders together.
const MAX_FILES: usize = 200_000;

/// Entries of a Secret that a sub-folder may hold as files, as kubelets mount them.
const ENTRIES: [&str; 9] =
    ["cert", "key", "tls.crt", "tls.key", "cacert", "ca.crt", "crl", "ca.crl", "tls.ocsp-staple"];

/// Endings of files beside each other, and the entries of a Secret that they are. Longer ones go first.
const ENDINGS: [(&str, &str); 6] = [
    ("-ca.crt", "ca.crt"),
    ("-ca.crl", "ca.crl"),
    (".crt", "tls.crt"),
    (".pem", "tls.crt"),
    (".key", "tls.key"),
    (".ocsp", "tls.ocsp-staple"),
];

/// Offers what folders hold as `kubernetes://<namespace>/<name>`, and again when it changes: at most a second later.
///
/// | files | are |
/// |---|---|
/// | `a.crt` or `a.pem`, with `a.key`; `a-ca.crt`, `a-ca.crl`, `a.ocsp` | Secret `a` of the default namespace |
/// | `a.pem` with certificate and key | the same |
/// | `a/tls.crt`, `a/tls.key`, `a/ca.crt` and what else a Secret has | the same |
/// | `ns/a/tls.crt` and so on | Secret `a` of namespace `ns` |
///
/// What begins with a dot is passed over. Of several folders the first that has a name counts. A folder that cannot be
/// listed withdraws nothing.
#[derive(Debug)]
pub struct FolderWatcher {
    watch: Watch<Folders>,
}

#[derive(Debug)]
struct Folders {
    store: Arc<SecretStore>,
    roots: Vec<PathBuf>,
    namespace: String,
    units: Units<FolderUnit>,
    /// Folders that were listed, to be watched.
    listed: BTreeSet<PathBuf>,
    findings: Vec<Diagnostic>,
}

/// One Secret made of files.
#[derive(Clone, PartialEq, Eq, Debug)]
struct FolderUnit {
    root: PathBuf,
    namespace: String,
    name: String,
    /// By the entry of a Secret that they are.
    files: BTreeMap<&'static str, PathBuf>,
    /// Another unit holds this one's authorities.
    has_ca_secret: bool,
}

impl FolderWatcher {
    /// Looks for the first time before it returns. A folder that does not exist yet is told in
    /// [`findings`](Self::findings), and looked for.
    ///
    /// # Errors
    /// The thread that watches cannot be started.
    pub fn start(store: Arc<SecretStore>, folders: Vec<PathBuf>, namespace: &str) -> io::Result<Self> {
        let folders = Folders {
            store,
            roots: folders,
            namespace: namespace.to_owned(),
            units: Units::new(),
            listed: BTreeSet::new(),
            findings: Vec::new(),
        };
        Watch::start("secret-folders", folders).map(|watch| Self { watch })
    }

    /// What is wrong with the folders themselves. What is wrong with secrets is told by the store.
    pub fn findings(&self) -> Vec<Diagnostic> {
        self.watch.read(|folders| folders.findings.clone())
    }

    /// Looks now, before it returns.
    pub fn rescan(&self) {
        self.watch.change(|_| ());
    }
}

impl Look for Folders {
    fn look(&mut self) -> Option<Duration> {
        let mut walk = Walk { namespace: &self.namespace, ..Walk::default() };
        let mut unlisted = Vec::new();
        for root in &self.roots {
            if let Err(error) = walk.root(root) {
                unlisted.push(root.clone());
                walk.finding(
                    Level::Error,
                    root,
                    format!("the folder cannot be listed: {error}; what it held serves on"),
                );
            }
        }
        let mut units = walk.units;
        for known in self.units.known().filter(|known| unlisted.contains(&known.root)) {
            units.entry(known.id()).or_insert_with(|| known.clone());
        }
        let ca_secrets: Vec<_> = units.keys().filter(|(_, name)| name.ends_with(CA_SUFFIX)).cloned().collect();
        for (namespace, name) in ca_secrets {
            let of = name.strip_suffix(CA_SUFFIX).unwrap_or_default().to_owned();
            if let Some(unit) = units.get_mut(&(namespace, of)) {
                unit.has_ca_secret = true;
            }
        }
        self.findings = walk.findings;
        self.listed = walk.listed;
        self.units.update(units.into_values(), &self.store).then_some(RETRY)
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        self.listed.clone()
    }
}

/// One walk over the folders.
#[derive(Default)]
struct Walk<'a> {
    namespace: &'a str,
    units: BTreeMap<(String, String), FolderUnit>,
    listed: BTreeSet<PathBuf>,
    findings: Vec<Diagnostic>,
    files: usize,
}

impl Walk<'_> {
    fn root(&mut self, root: &Path) -> io::Result<()> {
        let mut beside: BTreeMap<String, BTreeMap<&'static str, PathBuf>> = BTreeMap::new();
        for (name, path, is_folder) in self.list(root)? {
            if is_folder {
                self.folder(root, &name, &path);
            } else if let Some((stem, entry)) = split(&name) {
                // `.crt` comes before `.pem` in the order of names.
                let files = beside.entry(stem.to_owned()).or_default();
                if let Some(first) = files.get(entry) {
                    let message = format!("{} is used in its place", first.display());
                    self.finding(Level::Info, &path, message);
                } else {
                    files.insert(entry, path);
                }
            }
        }
        for (name, files) in beside {
            self.add(root, self.namespace.to_owned(), name, files);
        }
        Ok(())
    }

    /// A Secret of the default namespace, or a namespace.
    fn folder(&mut self, root: &Path, name: &str, path: &Path) {
        let Some(inside) = self.list_told(path) else { return };
        let files = entries(&inside);
        if !files.is_empty() {
            self.add(root, self.namespace.to_owned(), name.to_owned(), files);
            return;
        }
        for (secret, path, is_folder) in inside {
            if !is_folder {
                continue;
            }
            let Some(inside) = self.list_told(&path) else { continue };
            let files = entries(&inside);
            if !files.is_empty() {
                self.add(root, name.to_owned(), secret, files);
            }
        }
    }

    fn add(&mut self, root: &Path, namespace: String, name: String, files: BTreeMap<&'static str, PathBuf>) {
        let unit = FolderUnit { root: root.to_owned(), namespace, name, files, has_ca_secret: false };
        match self.units.get(&unit.id()) {
            None => drop(self.units.insert(unit.id(), unit)),
            Some(first) => {
                let message = format!(
                    "Secret {}/{} is also in {}, which goes first",
                    unit.namespace,
                    unit.name,
                    first.first_path().display()
                );
                let path = unit.first_path().to_owned();
                self.finding(Level::Warning, &path, message);
            }
        }
    }

    fn list_told(&mut self, path: &Path) -> Option<Vec<(String, PathBuf, bool)>> {
        self.list(path)
            .map_err(|error| self.finding(Level::Error, path, format!("the folder cannot be listed: {error}")))
            .ok()
    }

    /// Names, paths and whether they are folders, sorted by name.
    fn list(&mut self, folder: &Path) -> io::Result<Vec<(String, PathBuf, bool)>> {
        let mut list = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let Ok(name) = entry.file_name().into_string() else {
                self.finding(Level::Warning, &path, "the name is no UTF-8; it is passed over".to_owned());
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            if self.files == MAX_FILES {
                let message = format!("there are more than {MAX_FILES} files; the rest is passed over");
                self.finding(Level::Error, folder, message);
                break;
            }
            self.files += 1;
            // Kubelets mount files as symbolic links: what counts is what they point to.
            let file_type = entry.file_type()?;
            let is_folder = if file_type.is_symlink() { path.is_dir() } else { file_type.is_dir() };
            list.push((name, path, is_folder));
        }
        self.listed.insert(folder.to_owned());
        list.sort_unstable();
        Ok(list)
    }

    fn finding(&mut self, level: Level, path: &Path, message: String) {
        let code = match level {
            Level::Error => Code::ENVIRONMENT,
            _ => Code::SHADOWED,
        };
        self.findings.push(Diagnostic::new(code, level, Origin::new(&*path.display().to_string(), 0, 0), message));
    }
}

/// Stem and entry of a file's name; none for other files.
fn split(name: &str) -> Option<(&str, &'static str)> {
    let (stem, entry) = ENDINGS.iter().find_map(|(ending, entry)| Some((name.strip_suffix(ending)?, *entry)))?;
    (!stem.is_empty()).then_some((stem, entry))
}

fn entries(list: &[(String, PathBuf, bool)]) -> BTreeMap<&'static str, PathBuf> {
    let known = |name: &str| ENTRIES.into_iter().find(|entry| *entry == name);
    list.iter()
        .filter(|(_, _, is_folder)| !is_folder)
        .filter_map(|(name, path, _)| Some((known(name)?, path.clone())))
        .collect()
}

impl FolderUnit {
    fn first_path(&self) -> &Path {
        self.files.values().next().map_or(&self.root, PathBuf::as_path)
    }
}

impl Unit for FolderUnit {
    /// Namespace and name.
    type Id = (String, String);

    fn id(&self) -> Self::Id {
        (self.namespace.clone(), self.name.clone())
    }

    fn paths(&self) -> Vec<&Path> {
        self.files.values().map(PathBuf::as_path).collect()
    }

    fn offers(&self, read: Result<Vec<SecretBytes>, ReadError>) -> Vec<Offer> {
        let origin = place(self.first_path()).origin;
        let mut broken = None;
        let mut entries: Vec<Entry> = match read {
            Ok(read) => self
                .files
                .iter()
                .zip(read)
                .map(|((entry, path), bytes)| Entry { name: (*entry).into(), bytes, place: place(path) })
                .collect(),
            Err(error) => {
                broken = Some(error.to_string());
                Vec::new()
            }
        };
        let has = |name: &str| self.files.contains_key(name);
        // Certificate and key in one file.
        if has("tls.crt")
            && !has("tls.key")
            && let Some(both) =
                entries.iter().find(|entry| &*entry.name == "tls.crt" && pem::holds_key(entry.bytes.as_slice()))
        {
            let key = Entry { name: "tls.key".into(), ..both.clone() };
            entries.push(key);
        }
        let reader = Reader { source: SourceKind::File, key: None, origin: &origin, entries: &entries };
        let mut offers = reader.secret(&self.namespace, &self.name, |_| self.has_ca_secret);
        let has_authorities = has("cacert") || has("ca.crt");
        for offer in &mut offers {
            if let Some(reason) = &broken {
                if has_authorities || !offer.name.as_str().ends_with(CA_SUFFIX) {
                    offer.payload = Payload::Broken(reason.clone());
                }
            } else if let Payload::Broken(reason) = &offer.payload
                && !(has("tls.key") || has("key"))
            {
                // Any certificate may lie in a folder, as an authority's; it is a fault if somebody names it.
                offer.payload = Payload::Nothing(reason.clone());
            }
        }
        offers
    }
}
