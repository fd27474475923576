//! Reading small files that others may be writing.

use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use tidegate_core::SecretBytes;
use zeroize::Zeroizing;

use crate::pem;

/// Looks at files that change while they are read; after that they are left for the next time.
const ATTEMPTS: usize = 5;

/// What tells one state of a file from another. Behind a symbolic link it is the state of the file that it points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    file: (u64, u64),
}

/// Why a file was not read; names it.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is not a file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} has {size} bytes; more than {} are not read", path.display(), pem::MAX_PART_BYTES)]
    TooLarge { path: PathBuf, size: u64 },
    #[error("{} does not come to rest", path.display())]
    Unstable { path: PathBuf },
}

/// None for a file that is not there or cannot be looked at.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata))
}

/// Reads files that belong together: no one of them changed while any was read.
pub(super) fn read_together(paths: &[&Path]) -> Result<Vec<SecretBytes>, ReadError> {
    let stamps = || -> Vec<Option<Stamp>> { paths.iter().map(|path| stamp(path)).collect() };
    for _ in 0..ATTEMPTS {
        let before = stamps();
        let read: Result<Vec<_>, _> = paths.iter().map(|path| read(path)).collect();
        if stamps() == before {
            return read;
        }
    }
    let path = paths.first().map(|path| path.to_path_buf()).unwrap_or_default();
    Err(ReadError::Unstable { path })
}

fn read(path: &Path) -> Result<SecretBytes, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_owned(), source };
    // Looked at before it is opened: opening a pipe would wait for its writer.
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile { path: path.to_owned() });
    }
    let too_large = |size| ReadError::TooLarge { path: path.to_owned(), size };
    let limit = pem::MAX_PART_BYTES;
    if metadata.len() > limit as u64 {
        return Err(too_large(metadata.len()));
    }
    // All room at once: a buffer that grows leaves copies of a key behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit.min(metadata.len() as usize + 4096)));
    let file = File::open(path).map_err(failed)?;
    file.take(bytes.capacity() as u64).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > metadata.len() as usize {
        // It grew since; the stamps will differ.
        return Err(ReadError::Unstable { path: path.to_owned() });
    }
    Ok(pem::exact(bytes))
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
            file: (metadata.dev(), metadata.ino()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let check = |path: &Path, expected: &str| {
            let error = read_together(&[path]).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(&path.display().to_string()), "{error}");
        };
        check(&folder.path().join("none"), "cannot read");
        check(folder.path(), "is not a file");
        let large = folder.path().join("large");
        fs::write(&large, vec![b'a'; pem::MAX_PART_BYTES + 1]).unwrap();
        check(&large, "more than 1048576 are not read");
        fs::write(&large, vec![b'a'; pem::MAX_PART_BYTES]).unwrap();
        assert_eq!(read_together(&[&large]).unwrap()[0].len(), pem::MAX_PART_BYTES);
    }
}
