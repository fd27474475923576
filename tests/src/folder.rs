//! A folder of configuration, edited the way editors and deployment tools do it.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A temporary `--config` folder.
pub struct ConfigFolder {
    dir: TempDir,
}

impl Default for ConfigFolder {
    fn default() -> Self {
        Self::new()
    }
}

impl ConfigFolder {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A folder with one file, `gateway.yaml`.
    pub fn with(text: impl AsRef<[u8]>) -> Self {
        let folder = Self::new();
        folder.write("gateway.yaml", text);
        folder
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes beside the file and renames: readers see the old or the new content, never a part.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let temporary = self.file(&format!(".{}.tmp", name.replace('/', "-")));
        fs::write(&temporary, text).expect("a file in a temporary folder");
        fs::rename(&temporary, self.file(name)).expect("a rename in a temporary folder");
    }

    /// Truncates and writes the file itself, as a careless editor does.
    pub fn write_in_place(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.file(name), text).expect("a file in a temporary folder");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).expect("a file that was there");
    }
}
