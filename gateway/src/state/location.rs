//! Where the state file is, and who may write it.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::changes;
use super::file::{Checksum, LoadError, Saved, Saving};
use crate::run::{ConfigSource, ReadOptions, StateDir};

/// The state file of one gateway.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The file that the options choose; none if nothing is to be kept. Gateways over different sources that share the
    /// default folder have different files; a folder that the user names belongs to one gateway.
    pub(crate) fn locate(dir: &StateDir, source: &ConfigSource, read: &ReadOptions) -> Option<Self> {
        let ConfigSource::Paths(paths) = source else {
            // What is made up from the command line needs no memory.
            return None;
        };
        let path = match dir {
            StateDir::None => return None,
            StateDir::Path(path) => path.join("last-good.state"),
            StateDir::Default => default_folder()?.join(format!("last-good-{}.state", fingerprint(paths, read))),
        };
        Some(Self { path })
    }

    #[cfg(test)]
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn load(&self) -> Result<Option<Saved>, LoadError> {
        let Some((mut saved, whole)) = Saved::load(&self.path)? else { return Ok(None) };
        changes::apply(&self.changes(), &whole, &mut saved)?;
        Ok(Some(saved))
    }

    /// The file of what changed since the whole was written.
    pub(super) fn changes(&self) -> PathBuf {
        self.beside("changes")
    }

    /// Takes the right to write the file, for as long as the returned handle lives; a killed process loses it.
    ///
    /// # Errors
    /// The folder cannot be made or written, or another process has the right.
    pub(super) fn lock(&self) -> io::Result<File> {
        let folder = self.folder();
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.beside("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::ResourceBusy, "another tidegate process writes it"))
            }
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Replaces the file as a whole, or leaves it as it was. Whoever calls it holds the lock. Returns the checksum of what
    /// was written, and what the system says of the file.
    pub(super) fn replace(&self, saving: &Saving) -> io::Result<(Checksum, Metadata)> {
        let new = self.beside("new");
        let result = self.write_new(&new, saving);
        if result.is_err() {
            // Gives a full disk its room back; if even that fails, the next write truncates it.
            drop(fs::remove_file(&new));
        }
        result
    }

    fn write_new(&self, new: &Path, saving: &Saving) -> io::Result<(Checksum, Metadata)> {
        let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(new)?;
        let checksum = saving.write(&file)?;
        let metadata = file.metadata()?;
        drop(file);
        fs::rename(new, &self.path)?;
        self.sync_folder()?;
        Ok((checksum, metadata))
    }

    /// Has new names in the folder survive a power cut.
    pub(super) fn sync_folder(&self) -> io::Result<()> {
        File::open(self.folder())?.sync_all()
    }

    fn folder(&self) -> &Path {
        // A path of this type always ends in a file name.
        self.path.parent().unwrap_or(Path::new("."))
    }

    fn beside(&self, extension: &str) -> PathBuf {
        self.path.with_extension(extension)
    }
}

/// The folder of what ACME needs to go on after a restart; none if nothing is to be kept. One for each gateway, as the
/// state file is.
pub(crate) fn acme_folder(dir: &StateDir, source: &ConfigSource, read: &ReadOptions) -> Option<PathBuf> {
    let ConfigSource::Paths(paths) = source else { return None };
    match dir {
        StateDir::None => None,
        StateDir::Path(path) => Some(path.join("acme")),
        StateDir::Default => Some(default_folder()?.join(format!("acme-{}", fingerprint(paths, read)))),
    }
}

/// `$XDG_STATE_HOME/tidegate`, `~/.local/state/tidegate`, or `/var/lib/tidegate` for root; none without a home.
fn default_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(state_home) = absolute("XDG_STATE_HOME") {
        return Some(state_home.join("tidegate"));
    }
    if rustix::process::geteuid().is_root() {
        return Some(PathBuf::from("/var/lib/tidegate"));
    }
    Some(absolute("HOME")?.join(".local/state/tidegate"))
}

/// Twelve hexadecimal digits that stand for the sources.
fn fingerprint(paths: &[PathBuf], read: &ReadOptions) -> String {
    let mut hasher = Sha256::new();
    for path in paths.iter().chain(&read.mesh_config) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        hasher.update(path.as_os_str().as_encoded_bytes());
        hasher.update([0]);
    }
    hasher.finalize()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}
