//! From roots to the list of configuration files below them. Reads folders, never files.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tidegate_core::{Code, Diagnostic, Origin};

use super::source::{Progress, Root, RootContent};
use super::{Gap, GapKind, Limits};

/// What tells that a file is still the one that was read. Two writes within one tick of the file system's clock can
/// share it; the source re-reads files whose stamp is that young.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    pub(super) len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Nanoseconds since 1970 of the last change of content or inode.
    pub(super) fn last_change_nanos(&self) -> i128 {
        let nanos = |(seconds, nanos): (i64, i64)| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        nanos(self.modified).max(nanos(self.changed))
    }
}

/// What Kubernetes swaps to change all files of a volume at once (`AtomicWriter`).
const VOLUME_LINK: &str = "..data";

/// Device and inode of a folder: what changes when it is replaced.
pub(super) type FolderIdentity = (u64, u64);

#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
    pub(super) content: RootContent,
    /// Reached over a symbolic link.
    pub(super) linked: bool,
}

/// Everything that a walk found out.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Sorted by path, each file once.
    pub(super) files: Vec<Found>,
    pub(super) gaps: Vec<Gap>,
    pub(super) notes: Vec<Diagnostic>,
    /// Folders that were read, with their identity.
    pub(super) folders: Vec<(PathBuf, FolderIdentity)>,
    /// Per root: whether it could be seen, and its identity if it is a folder.
    pub(super) roots: Vec<RootSeen>,
    /// The `..data` links of Kubernetes volumes, and where they led.
    volumes: Vec<(PathBuf, PathBuf)>,
    /// Entries of the folders of one root, at most.
    pub(super) entries: usize,
}

impl Walk {
    /// Whether files may change together, by a link that is swapped.
    pub(super) fn has_volumes(&self) -> bool {
        !self.volumes.is_empty()
    }

    /// Whether a Kubernetes volume was swapped since the walk began: what was read may be of two versions.
    pub(super) fn is_overtaken(&self) -> bool {
        self.volumes.iter().any(|(link, target)| fs::read_link(link).ok().as_ref() != Some(target))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RootSeen {
    Not,
    File,
    Folder { identity: FolderIdentity, files: usize },
}

pub(super) fn walk(roots: &[Root], limits: &Limits, progress: &Progress) -> Walk {
    let mut walker = Walker {
        limits,
        progress,
        walk: Walk::default(),
        entries: 0,
        known_files: 0,
        stopped: false,
        folders: HashMap::new(),
        files: HashMap::new(),
    };
    for root in roots {
        let seen = walker.root(root);
        walker.walk.roots.push(seen);
    }
    let mut walk = walker.walk;
    walk.files.sort_by(|a, b| a.path.cmp(&b.path));
    walk
}

pub(super) fn origin(path: &Path) -> Origin {
    Origin::new(path.to_string_lossy(), 0, 0)
}

struct Walker<'a> {
    limits: &'a Limits,
    progress: &'a Progress,
    walk: Walk,
    entries: usize,
    /// Files and folders that were reached again, under another name or from another root.
    known_files: usize,
    /// The walk found more than it may look at.
    stopped: bool,
    /// Real paths by identity: a folder that is reached twice (two roots, a symlink loop) is read once.
    folders: HashMap<FolderIdentity, Vec<PathBuf>>,
    files: HashMap<FolderIdentity, Vec<PathBuf>>,
}

impl Walker<'_> {
    fn root(&mut self, root: &Root) -> RootSeen {
        self.progress.step();
        let what = match root.content {
            RootContent::Resources => "--config",
            RootContent::MeshConfig => "--mesh-config",
        };
        let metadata = match fs::metadata(&root.path) {
            Ok(metadata) => metadata,
            Err(error) => {
                self.gap(&root.path, format!("cannot read what {what} names: {error}"), mend(&error));
                return RootSeen::Not;
            }
        };
        if metadata.is_dir() && root.content == RootContent::Resources {
            return self.root_folder(&root.path, &metadata);
        }
        if metadata.is_file() {
            let linked = fs::symlink_metadata(&root.path).is_ok_and(|metadata| metadata.is_symlink());
            self.file(root.path.clone(), &metadata, root.content, linked);
            return RootSeen::File;
        }
        let expected = match root.content {
            RootContent::Resources => "a file or a folder",
            RootContent::MeshConfig => "a file",
        };
        self.gap(&root.path, format!("what {what} names is not {expected}"), format!("name {expected}"));
        RootSeen::Not
    }

    fn root_folder(&mut self, path: &Path, metadata: &Metadata) -> RootSeen {
        let (files, known_files, gaps) = (self.walk.files.len(), self.known_files, self.walk.gaps.len());
        (self.entries, self.stopped) = (0, false);
        let walked = self.folder(path, metadata, 0);
        self.walk.entries = self.walk.entries.max(self.entries);
        if !walked {
            // It lies within another root, and what it holds was counted there.
            return RootSeen::File;
        }
        if self.stopped {
            let message = format!("there are more than {} files and folders to look at", self.limits.entries);
            self.gap(path, message, "name the folder that holds configuration only".into());
        }
        let unseen = self.walk.gaps[gaps..].iter().any(|gap| gap.path == path);
        match self.walk.files.len() - files + self.known_files - known_files {
            0 if unseen => RootSeen::Not,
            files => RootSeen::Folder { identity: (metadata.dev(), metadata.ino()), files },
        }
    }

    /// Walks a folder; false if that was done before.
    fn folder(&mut self, path: &Path, metadata: &Metadata, depth: usize) -> bool {
        if !first_visit(&mut self.folders, path, metadata) {
            return false;
        }
        self.unvisited_folder(path, metadata, depth);
        true
    }

    fn unvisited_folder(&mut self, path: &Path, metadata: &Metadata, depth: usize) {
        if depth > self.limits.depth {
            let message = format!("the folder lies more than {} folders deep and is not read", self.limits.depth);
            self.gap(path, message, "move it up, or name it with a --config of its own".into());
            return;
        }
        self.walk.folders.push((path.to_owned(), (metadata.dev(), metadata.ino())));
        let listing = match fs::read_dir(path) {
            Ok(listing) => listing,
            Err(error) => {
                self.gap(path, format!("cannot read the folder: {error}"), mend(&error));
                return;
            }
        };
        let mut names = Vec::new();
        for entry in listing {
            match entry {
                Ok(entry) => names.push(entry),
                Err(error) => self.gap(path, format!("cannot read the whole folder: {error}"), mend(&error)),
            }
            self.entries += 1;
            self.progress.step();
            if self.entries > self.limits.entries {
                self.stopped = true;
                return;
            }
        }
        let link = path.join(VOLUME_LINK);
        if let Ok(target) = fs::read_link(&link) {
            self.walk.volumes.push((link, target));
        }
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            let name = entry.file_name();
            if self.stopped {
                return;
            }
            if is_dropping(&name.to_string_lossy()) {
                continue;
            }
            self.entry(&path.join(&name), depth);
        }
    }

    fn entry(&mut self, path: &Path, depth: usize) {
        let Ok(own) = fs::symlink_metadata(path) else {
            // Gone between listing and looking: the same as if it had gone before.
            return;
        };
        let linked = own.is_symlink();
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if linked => {
                // What a link without a target would be is unknown; its name is the only hint.
                if has_config_extension(path) {
                    self.gap(path, format!("cannot follow the symbolic link: {error}"), mend(&error));
                }
                return;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                self.gap(path, format!("cannot look at it: {error}"), mend(&error));
                return;
            }
        };
        if metadata.is_dir() {
            if linked && leads_back(path) {
                let message = "the symbolic link leads to a folder that contains it and is not followed";
                let finding = Diagnostic::warning(Code::ENVIRONMENT, origin(path), message);
                self.walk.notes.push(finding.help("remove the link, or let it lead to a folder elsewhere"));
            } else if !self.folder(path, &metadata, depth + 1) {
                self.known_files += 1;
            }
        } else if !has_config_extension(path) {
        } else if metadata.is_file() {
            self.file(path.to_owned(), &metadata, RootContent::Resources, linked);
        } else {
            let message = "it is a pipe, socket or device, not a file, and is not read";
            self.walk.notes.push(Diagnostic::warning(Code::ENVIRONMENT, origin(path), message));
        }
    }

    fn file(&mut self, path: PathBuf, metadata: &Metadata, content: RootContent, linked: bool) {
        if first_visit(&mut self.files, &path, metadata) {
            self.walk.files.push(Found { path, stamp: Stamp::of(metadata), content, linked });
        } else {
            self.known_files += 1;
        }
    }

    fn gap(&mut self, path: &Path, message: String, help: String) {
        let diagnostic = Diagnostic::error(Code::ENVIRONMENT, origin(path), message).help(help);
        self.walk.gaps.push(Gap { path: path.to_owned(), kind: GapKind::Unreadable, diagnostic });
    }
}

/// Whether this file or folder was not reached before under another name. Some file systems give everything the same
/// inode number, so equal numbers are only a reason to compare real paths.
fn first_visit(visited: &mut HashMap<FolderIdentity, Vec<PathBuf>>, path: &Path, metadata: &Metadata) -> bool {
    let known = visited.entry((metadata.dev(), metadata.ino())).or_default();
    if known.is_empty() {
        known.push(path.to_owned());
        return true;
    }
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let own = real(path);
    if known.iter().any(|other| real(other) == own) {
        return false;
    }
    known.push(path.to_owned());
    true
}

/// Whether a link ends in a folder above itself: following it would read everything beside the folder.
fn leads_back(link: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    match (real(link), link.parent().and_then(real)) {
        (Some(target), Some(folder)) => folder.starts_with(target),
        _ => false,
    }
}

/// Files that editors and Kubernetes put beside those that people mean: hidden ones (`.x.yaml.swp`, `.#x.yaml`,
/// `..data`, `..2026_11_20`), emacs' `#x.yaml#`, backups `x.yaml~`, vim's probe `4913`.
pub(super) fn is_dropping(name: &str) -> bool {
    name.starts_with(['.', '#']) || name.ends_with('~') || name == "4913"
}

pub(super) fn has_config_extension(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

/// How to mend an error of the file system.
pub(super) fn mend(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "create it, or correct the path; `tidegate run` reads it as soon as it is there".into()
        }
        io::ErrorKind::PermissionDenied => {
            "give the user that Tidegate runs as the right to read it (and to enter its folders)".into()
        }
        _ => "see that the file system is mounted and healthy; `tidegate run` reads it again as soon as it can".into(),
    }
}
