//! What survives a restart: accounts, certificates and orders in progress, one file each.
//!
//! A file is one line of JSON (what it is, and a checksum of the rest) and PEM after it, so that a certificate and its
//! key can never be of different generations, and `openssl` reads it. Files are 0600 in folders of 0700 and replaced
//! as a whole: written beside, flushed, renamed.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

const FORMAT: u32 = 1;
const MAX_FILE: u64 = 256 * 1024;
const TEMPORARY: &str = ".new-";

/// A kind of record; each has its folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shelf {
    Accounts,
    Certificates,
    Orders,
}

impl Shelf {
    const ALL: [Shelf; 3] = [Shelf::Accounts, Shelf::Certificates, Shelf::Orders];

    fn folder(self) -> &'static str {
        match self {
            Shelf::Accounts => "accounts",
            Shelf::Certificates => "certificates",
            Shelf::Orders => "orders",
        }
    }
}

/// The state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("ACME state {path} cannot be {verb}: {source}", path = path.display())]
    Io { path: PathBuf, verb: &'static str, source: io::Error },
    #[error("ACME state {path} is damaged: {reason}", path = path.display())]
    Damaged { path: PathBuf, reason: String },
}

/// A record as it is kept: facts, and PEM that holds a key.
pub(crate) struct Record<H> {
    pub(crate) head: H,
    pub(crate) pem: Zeroizing<String>,
}

#[derive(Serialize, Deserialize)]
struct Line<H> {
    tidegate: u32,
    sha256: String,
    #[serde(flatten)]
    head: H,
}

/// The folder of the state. Its methods block on the disk.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    root: PathBuf,
    written: AtomicU64,
}

impl StateDirectory {
    /// Makes the folders, closes them to others and removes what an interrupted write left.
    ///
    /// # Errors
    /// A folder that cannot be made or closed.
    pub(crate) fn open(root: &Path) -> Result<Self, StateError> {
        let prepare = |path: &Path| -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            fs::set_permissions(path, Permissions::from_mode(0o700))
        };
        prepare(root).map_err(|source| io_error(root, "created", source))?;
        for shelf in Shelf::ALL {
            let folder = root.join(shelf.folder());
            prepare(&folder).map_err(|source| io_error(&folder, "created", source))?;
            let entries = fs::read_dir(&folder).map_err(|source| io_error(&folder, "read", source))?;
            for entry in entries.flatten() {
                if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
                    // What stays is overwritten by nobody and read by nobody.
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        Ok(Self { root: root.to_owned(), written: AtomicU64::new(0) })
    }

    pub(crate) fn path(&self, shelf: Shelf, id: &str) -> PathBuf {
        self.root.join(shelf.folder()).join(format!("{}.pem", file_stem(id)))
    }

    /// The record of `id`, none if there is no file.
    ///
    /// # Errors
    /// A file that cannot be read, or that is not as it was written.
    pub(crate) fn read<H: DeserializeOwned>(&self, shelf: Shelf, id: &str) -> Result<Option<Record<H>>, StateError> {
        read_record(&self.path(shelf, id))
    }

    /// Every readable record of a shelf, for housekeeping.
    pub(crate) fn all<H: DeserializeOwned>(&self, shelf: Shelf) -> Vec<(PathBuf, Record<H>)> {
        let Ok(entries) = fs::read_dir(self.root.join(shelf.folder())) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        let records = paths.filter(|path| path.extension().is_some_and(|extension| extension == "pem"));
        records.filter_map(|path| Some((path.clone(), read_record(&path).ok()??))).collect()
    }

    /// Replaces the record of `id`; it is on the disk when this returns.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) fn write<H: Serialize>(&self, shelf: Shelf, id: &str, head: &H, pem: &str) -> Result<(), StateError> {
        let path = self.path(shelf, id);
        let line = Line { tidegate: FORMAT, sha256: checksum(pem.as_bytes()), head };
        let line = serde_json::to_string(&line).map_err(|error| io_error(&path, "written", error.into()))?;
        let number = self.written.fetch_add(1, Relaxed);
        let temporary = path.with_file_name(format!("{TEMPORARY}{}-{number}", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(line.as_bytes())?;
            file.write_all(b"\n")?;
            file.write_all(pem.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            // The rename itself is durable only with the folder.
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&temporary);
            io_error(&path, "written", source)
        })
    }

    pub(crate) fn remove(&self, shelf: Shelf, id: &str) -> Result<(), StateError> {
        remove_file(&self.path(shelf, id))
    }

    /// Moves a damaged file out of the way, over an earlier one; says where to.
    pub(crate) fn set_aside(&self, shelf: Shelf, id: &str) -> Result<PathBuf, StateError> {
        let path = self.path(shelf, id);
        let aside = path.with_extension("damaged");
        fs::rename(&path, &aside).map_err(|source| io_error(&path, "moved aside", source))?;
        Ok(aside)
    }
}

pub(crate) fn remove_file(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path, "removed", error)),
        _ => Ok(()),
    }
}

fn io_error(path: &Path, verb: &'static str, source: io::Error) -> StateError {
    StateError::Io { path: path.to_owned(), verb, source }
}

fn read_record<H: DeserializeOwned>(path: &Path) -> Result<Option<Record<H>>, StateError> {
    let damaged = |reason: String| StateError::Damaged { path: path.to_owned(), reason };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error(path, "read", error)),
    };
    let length = file.metadata().map_err(|source| io_error(path, "read", source))?.len();
    if length > MAX_FILE {
        return Err(damaged(format!("it is larger than {MAX_FILE} bytes")));
    }
    // With room for all from the start, no copy of the key stays behind where a buffer grew.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE).unwrap_or_default() + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|source| io_error(path, "read", source))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| damaged("it is no text".into()))?;
    let (line, pem) = text.split_once('\n').ok_or_else(|| damaged("it has one line only".into()))?;
    let line: Line<H> = serde_json::from_str(line).map_err(|error| damaged(format!("its first line: {error}")))?;
    if line.tidegate != FORMAT {
        return Err(damaged(format!("it is of format {}, not {FORMAT}", line.tidegate)));
    }
    if line.sha256 != checksum(pem.as_bytes()) {
        return Err(damaged("its checksum does not fit".into()));
    }
    Ok(Some(Record { head: line.head, pem: Zeroizing::new(pem.to_owned()) }))
}

fn checksum(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A readable file name for an id: what is not `a-z0-9.-` becomes `_`, and a piece of the digest keeps it apart.
fn file_stem(id: &str) -> String {
    let readable: String = id
        .trim_start_matches("kubernetes://")
        .trim_start_matches("https://")
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.' { c } else { '_' })
        .take(100)
        .collect();
    let digest = Sha256::digest(id);
    format!("{}.{}", readable.trim_start_matches('.'), hex(&digest[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Head {
        name: String,
        url: Option<String>,
    }

    fn head(name: &str) -> Head {
        Head { name: name.into(), url: Some("https://a/b".into()) }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_record_comes_back_as_it_was_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("acme");
        let state = StateDirectory::open(&root).unwrap();
        let id = "kubernetes://ns/Name";
        state.write(Shelf::Orders, id, &head("first"), "PEM\nkey\n").unwrap();
        state.write(Shelf::Orders, id, &head("second"), "PEM\nother\n").unwrap();
        let record: Record<Head> = StateDirectory::open(&root).unwrap().read(Shelf::Orders, id).unwrap().unwrap();
        assert_eq!((record.head, record.pem.as_str()), (head("second"), "PEM\nother\n"));
        let path = state.path(Shelf::Orders, id);
        assert!(path.to_string_lossy().contains("/orders/ns__ame."), "{path:?}");
        assert_eq!((mode(&root), mode(path.parent().unwrap()), mode(&path)), (0o700, 0o700, 0o600));
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        state.remove(Shelf::Orders, id).unwrap();
        state.remove(Shelf::Orders, id).unwrap();
        assert!(state.read::<Head>(Shelf::Orders, id).unwrap().is_none());
    }

    #[test]
    fn damage_of_any_kind_is_told_and_can_be_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(folder.path()).unwrap();
        let id = "kubernetes://ns/name";
        let path = state.path(Shelf::Certificates, id);
        state.write(Shelf::Certificates, id, &head("a"), "PEM\nkey\n").unwrap();
        let good = fs::read(&path).unwrap();
        let big = vec![b'x'; usize::try_from(MAX_FILE).unwrap() + 1];
        let cases: [&[u8]; 6] =
            [b"", b"{}\n", &good[..good.len() - 2], &[0xff, 0xfe, b'\n'], &big, b"{\"tidegate\":9,\"sha256\":\"\"}\n"];
        for bytes in cases {
            fs::write(&path, bytes).unwrap();
            let result = state.read::<Head>(Shelf::Certificates, id);
            assert!(matches!(result, Err(StateError::Damaged { .. })), "{} bytes", bytes.len());
        }
        let aside = state.set_aside(Shelf::Certificates, id).unwrap();
        assert!(aside.exists() && !path.exists());
        assert!(state.read::<Head>(Shelf::Certificates, id).unwrap().is_none());
        assert!(state.all::<Head>(Shelf::Certificates).is_empty());
    }

    #[test]
    fn what_an_interrupted_write_left_is_removed_and_never_read() {
        let folder = tempfile::tempdir().unwrap();
        StateDirectory::open(folder.path()).unwrap();
        let left = folder.path().join("orders/.new-1-1");
        fs::write(&left, "half").unwrap();
        StateDirectory::open(folder.path()).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn names_that_look_alike_have_files_of_their_own() {
        assert_ne!(file_stem("kubernetes://a/b_c"), file_stem("kubernetes://a_b/c"));
        assert!(!file_stem("../../etc/passwd").contains('/'));
        assert!(file_stem(&"x".repeat(5000)).len() < 130);
    }
}
