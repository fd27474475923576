//! Files that Gateways and DestinationRules name.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::RootCertStore;
use tidegate_core::{Origin, SecretBytes, SecretName, SecretSource};

use super::read::ReadError;
use super::units::{RETRY, Unit, Units};
use super::watch::{Look, Watch};
use crate::offer::{Offer, Payload, Place};
use crate::{CertificateFacts, SecretStore, SourceKind, pem};

/// How often the machine's authorities are read again.
const SYSTEM_ROOTS_AGE: Duration = Duration::from_secs(3600);

/// Reads the files behind names like `file-cert:/a.pem~/a.key`, and again when they change: at most a second later.
/// The two files of a pair are read as one; while they do not belong together what they held serves on.
#[derive(Debug)]
pub struct FileWatcher {
    watch: Watch<Files>,
}

#[derive(Debug)]
struct Files {
    store: Arc<SecretStore>,
    names: BTreeSet<SecretName>,
    units: Units<FileUnit>,
    /// When the machine's authorities were read.
    system_roots: Option<Instant>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct FileUnit {
    name: SecretName,
    content: FileContent,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum FileContent {
    Certificate { chain: PathBuf, key: PathBuf },
    Root(PathBuf),
    Crl(PathBuf),
}

impl FileWatcher {
    /// Begins with no names.
    ///
    /// # Errors
    /// The thread that watches cannot be started.
    pub fn start(store: Arc<SecretStore>) -> io::Result<Self> {
        let files = Files { store, names: BTreeSet::new(), units: Units::new(), system_roots: None };
        Watch::start("secret-files", files).map(|watch| Self { watch })
    }

    /// Replaces the names. New ones are read before this returns; names of other sources may be among them and are
    /// passed over. What is no longer named is withdrawn.
    pub fn set_names(&self, names: BTreeSet<SecretName>) {
        self.watch.change(|files| files.names = names);
    }

    /// Looks now, before it returns.
    pub fn rescan(&self) {
        self.watch.change(|_| ());
    }
}

impl Look for Files {
    fn look(&mut self) -> Option<Duration> {
        let units = self.names.iter().filter_map(FileUnit::of);
        let held = self.units.update(units, &self.store);
        self.look_at_system_roots();
        held.then_some(RETRY)
    }

    fn folders(&self) -> BTreeSet<PathBuf> {
        self.units.folders()
    }
}

impl Files {
    fn look_at_system_roots(&mut self) {
        let name = SecretName::system_roots();
        if !self.names.contains(&name) {
            if self.system_roots.take().is_some() {
                self.store.withdraw_from(SourceKind::File, &[name]);
            }
        } else if self.system_roots.is_none_or(|read| read.elapsed() > SYSTEM_ROOTS_AGE) {
            self.system_roots = Some(Instant::now());
            self.store.offer(vec![system_roots(name)]);
        }
    }
}

impl FileUnit {
    /// None for names of other sources.
    fn of(name: &SecretName) -> Option<Self> {
        let content = match name.source() {
            SecretSource::FileCertificate { chain, key } => {
                FileContent::Certificate { chain: chain.into(), key: key.into() }
            }
            SecretSource::FileRoot { path } => FileContent::Root(path.into()),
            SecretSource::FileCrl { path } => FileContent::Crl(path.into()),
            _ => return None,
        };
        Some(Self { name: name.clone(), content })
    }
}

impl Unit for FileUnit {
    type Id = SecretName;

    fn id(&self) -> SecretName {
        self.name.clone()
    }

    fn paths(&self) -> Vec<&Path> {
        match &self.content {
            FileContent::Certificate { chain, key } => vec![chain, key],
            FileContent::Root(path) | FileContent::Crl(path) => vec![path],
        }
    }

    fn offers(&self, read: Result<Vec<SecretBytes>, ReadError>) -> Vec<Offer> {
        let places: Vec<Place> = self.paths().into_iter().map(place).collect();
        let origin = places.first().map(|place| place.origin.clone()).unwrap_or_default();
        let payload = match (&self.content, read.as_deref()) {
            (FileContent::Certificate { .. }, Ok([chain, key])) => {
                Payload::Certificate { chain: chain.clone(), key: key.clone(), ocsp_staple: None }
            }
            (FileContent::Root(_), Ok([authorities])) => Payload::Trust { authorities: authorities.clone(), crl: None },
            (FileContent::Crl(_), Ok([lists])) => Payload::Crl(lists.clone()),
            (_, Ok(_)) => return Vec::new(),
            (_, Err(error)) => Payload::Broken(error.to_string()),
        };
        let mut offer = Offer::new(self.name.clone(), SourceKind::File, origin, payload);
        match &self.content {
            FileContent::Certificate { .. } => {
                offer.places.certificates = places.first().cloned();
                offer.places.key = places.get(1).cloned();
            }
            FileContent::Root(_) => offer.places.certificates = places.first().cloned(),
            FileContent::Crl(_) => offer.places.crl = places.first().cloned(),
        }
        vec![offer]
    }
}

/// The place that a file is, without a field or a line.
pub(super) fn place(path: &Path) -> Place {
    Place { path: "".into(), origin: Origin::new(&*path.display().to_string(), 0, 0) }
}

/// The machine's authorities, without those that cannot be used here: one odd root must not cost all others.
fn system_roots(name: SecretName) -> Offer {
    let found = rustls_native_certs::load_native_certs();
    let usable = |certificate: &_| {
        RootCertStore::empty().add(Clone::clone(certificate)).is_ok() && CertificateFacts::parse(certificate).is_ok()
    };
    let certificates: Vec<_> = found.certs.into_iter().filter(usable).collect();
    let payload = if certificates.is_empty() {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        Payload::Broken(match reasons.is_empty() {
            true => "this machine has no authorities; install ca-certificates or name a file".to_owned(),
            false => format!("the authorities of this machine cannot be read: {}", reasons.join("; ")),
        })
    } else {
        Payload::Trust { authorities: pem::encode(&certificates), crl: None }
    };
    Offer::new(name, SourceKind::File, Origin::new("system authorities", 0, 0), payload)
}
