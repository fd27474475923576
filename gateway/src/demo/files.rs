//! The folder of configuration: written once, then the user's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::backends::Backend;
use super::certificate;

/// The files that are there to be edited.
const ORIGINALS: [(&str, &str); 4] = [
    ("gateway.yaml", include_str!("assets/gateway.yaml")),
    ("virtual-service.yaml", include_str!("assets/virtual-service.yaml")),
    ("destination-rules.yaml", include_str!("assets/destination-rules.yaml")),
    ("services.yaml", include_str!("assets/services.yaml")),
];
/// Where the application listens this time; ours alone.
const GENERATED: &str = "backends.generated.yaml";
/// Remembers what was written, to tell files that the user has edited. Hidden, so no configuration.
const MEMORY: &str = ".tidegate-demo";
/// Locked by the process that uses the folder.
const LOCK: &str = ".tidegate-demo.lock";
/// No file of ours comes near; a larger one is the user's.
const MAX_FILE: u64 = 1 << 20;

/// The demo's folder, which one process at a time uses: two would overwrite each other's endpoints.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Held as long as this is.
    _lock: fs::File,
}

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error("another `tidegate demo` uses the folder {0}")]
    InUse(String),
    #[error("cannot use the folder {0}")]
    Unusable(String, #[source] io::Error),
}

/// Where the gateway listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ports {
    pub(crate) http: u16,
    pub(crate) https: u16,
}

impl Ports {
    fn fill(self, template: &str) -> String {
        template.replace("{{port}}", &self.http.to_string()).replace("{{https_port}}", &self.https.to_string())
    }
}

/// What became of the files.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// New, or brought up to date.
    pub(crate) written: Vec<&'static str>,
    /// Edited by the user, and so left alone.
    pub(crate) kept: Vec<&'static str>,
}

impl Folder {
    /// Makes the folder if need be and takes it for this process.
    ///
    /// # Errors
    /// It cannot be made or written, or another process has it.
    pub(crate) fn open(path: PathBuf) -> Result<Self, FolderError> {
        let name = || path.display().to_string();
        let lock = fs::create_dir_all(&path)
            .and_then(|()| fs::File::options().create(true).append(true).open(path.join(LOCK)))
            .map_err(|error| FolderError::Unusable(name(), error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(FolderError::InUse(name())),
            // A file system without locks: two demos in one folder are the user's business then.
            Err(fs::TryLockError::Error(_)) => {}
        }
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what is missing and what the user has not touched since it was written, and the endpoints of `backends`.
    ///
    /// # Errors
    /// A file cannot be written; the message names it.
    pub(crate) fn write(&self, ports: Ports, backends: &[Backend]) -> anyhow::Result<Written> {
        let mut memory = self.memory();
        let mut outcome = Written::default();
        for (name, template) in ORIGINALS {
            let text = ports.fill(template);
            let current = self.read(name);
            if current.is_edited(&text, memory.get(name)) {
                outcome.kept.push(name);
                continue;
            }
            if !matches!(&current, Current::Text(current) if *current == text) {
                self.replace(name, &text)?;
                outcome.written.push(name);
            }
            memory.insert(name.to_owned(), text);
        }
        self.replace(GENERATED, &workload_entries(backends))?;
        self.replace(MEMORY, &serde_json::to_string(&memory)?)?;
        Ok(outcome)
    }

    /// Whether the user has edited the Gateway, so that it may listen on other ports than those asked for.
    pub(crate) fn has_edited_gateway(&self, ports: Ports) -> bool {
        let (name, template) = ORIGINALS[0];
        self.read(name).is_edited(&ports.fill(template), self.memory().get(name))
    }

    /// Makes the demo's certificate, unless there is one that lasts. Gives back its path.
    ///
    /// # Errors
    /// A file cannot be written; the message names it.
    pub(crate) fn certificate(&self) -> anyhow::Result<PathBuf> {
        certificate::ensure(&self.path)
    }

    fn memory(&self) -> BTreeMap<String, String> {
        match self.read(MEMORY) {
            // Lost or damaged: every file that differs then counts as edited, which loses nothing.
            Current::Text(text) => serde_json::from_str(&text).unwrap_or_default(),
            _ => BTreeMap::new(),
        }
    }

    fn read(&self, name: &str) -> Current {
        let file = match fs::File::open(self.path.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Current::Missing,
            Err(_) => return Current::Foreign,
        };
        let mut text = String::new();
        match file.take(MAX_FILE + 1).read_to_string(&mut text) {
            Ok(length) if length as u64 <= MAX_FILE => Current::Text(text),
            _ => Current::Foreign,
        }
    }

    /// Whole or not at all: the gateway may be watching.
    fn replace(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path.join(name);
        let write = || -> io::Result<()> {
            let temporary = self.path.join(format!(".{name}.new"));
            let mut file = fs::File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().with_context(|| format!("cannot write {}; choose another folder with --dir", path.display()))
    }
}

enum Current {
    Missing,
    Text(String),
    /// Something that we never wrote: unreadable, too large, no text.
    Foreign,
}

impl Current {
    /// Whether this is neither what would be written now nor what was written last.
    fn is_edited(&self, text: &str, last_written: Option<&String>) -> bool {
        match self {
            Self::Missing => false,
            Self::Text(current) => current != text && last_written != Some(current),
            Self::Foreign => true,
        }
    }
}

/// One WorkloadEntry for each backend, where it listens now.
fn workload_entries(backends: &[Backend]) -> String {
    let mut text = String::from(
        "# Where the demo's services listen: ports that were free when it started. Written anew at each start.\n\
         # The Services in services.yaml select these by the label `app`, the subsets by the label `version`.\n",
    );
    for (at, backend) in backends.iter().enumerate() {
        if at > 0 {
            text.push_str("---\n");
        }
        let (app, version, address) = (backend.service.app(), backend.service.version(), backend.address);
        // Writing into a String does not fail.
        let _ = write!(
            text,
            "apiVersion: networking.istio.io/v1\n\
             kind: WorkloadEntry\n\
             metadata:\n\
             \x20 name: {app}-{version}\n\
             \x20 labels:\n\
             \x20   app: {app}\n\
             \x20   version: {version}\n\
             spec:\n\
             \x20 address: {}\n\
             \x20 ports:\n\
             \x20   http: {}\n\
             \x20 labels:\n\
             \x20   app: {app}\n\
             \x20   version: {version}\n",
            address.ip(),
            address.port(),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::services::Service;

    fn backends(port: u16) -> Vec<Backend> {
        vec![Backend { service: Service::ReviewsV2, address: ([127, 0, 0, 1], port).into() }]
    }

    fn ports(http: u16) -> Ports {
        Ports { http, https: http + 363 }
    }

    #[test]
    fn edited_files_are_kept_and_untouched_ones_follow_the_port() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path().join("a/demo")).unwrap();
        let first = folder.write(ports(8080), &backends(4001)).unwrap();
        assert_eq!(first.written.len(), ORIGINALS.len());
        let edited = "# mine\n";
        fs::write(folder.path().join("virtual-service.yaml"), edited).unwrap();
        fs::remove_file(folder.path().join("services.yaml")).unwrap();

        let second = folder.write(ports(8081), &backends(4002)).unwrap();
        assert_eq!(second.kept, ["virtual-service.yaml"]);
        assert_eq!(second.written, ["gateway.yaml", "services.yaml"]);
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(read("virtual-service.yaml"), edited);
        assert!(read("gateway.yaml").contains("number: 8081"));
        assert!(read(GENERATED).contains("http: 4002"));
    }

    #[test]
    fn one_process_at_a_time_has_the_folder() {
        let temporary = tempfile::tempdir().unwrap();
        let first = Folder::open(temporary.path().to_owned()).unwrap();
        assert!(matches!(Folder::open(temporary.path().to_owned()), Err(FolderError::InUse(_))));
        drop(first);
        Folder::open(temporary.path().to_owned()).unwrap();
        let file = temporary.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Folder::open(file), Err(FolderError::Unusable(..))));
    }

    #[test]
    fn a_lost_memory_overwrites_nothing() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = Folder::open(temporary.path().to_owned()).unwrap();
        folder.write(ports(8080), &backends(1)).unwrap();
        fs::write(folder.path().join(MEMORY), "{").unwrap();
        let second = folder.write(ports(9090), &backends(1)).unwrap();
        assert_eq!(second.kept, ["gateway.yaml", "virtual-service.yaml"]);
        assert!(second.written.is_empty());
    }

    #[test]
    fn files_that_are_no_text_are_kept() {
        let temporary = tempfile::tempdir().unwrap();
        fs::write(temporary.path().join("gateway.yaml"), [0xff, 0xfe]).unwrap();
        let folder = Folder::open(temporary.path().to_owned()).unwrap();
        assert_eq!(folder.write(ports(8080), &backends(1)).unwrap().kept, ["gateway.yaml"]);
    }
}
