//! A look at single files: what an event names, where nothing else can have changed by it.
//!
//! A folder may hold ten thousand files, and to look at each because one was written costs more than all else that a change
//! does. What an event names is looked at alone if that is certain to give what a look at everything gives: an ordinary file
//! in a folder that was read, far from any limit, where nothing is linked and nothing is missing. Everything else, and the
//! pass every few seconds, is a look at everything.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::{Entries, FileSource, Look, RootContent};
use super::walk::{Found, Stamp, Walk, has_config_extension, is_dropping};
use super::{FileView, Limits, View};

/// What the last look saw, as far as a look at single files depends on it.
#[derive(Clone, Debug, Default)]
pub(super) struct Ground {
    /// Whether single files may be looked at by themselves.
    is_plain: bool,
    /// Folders by their absolute path.
    folders: Arc<HashMap<PathBuf, PathBuf>>,
    files: Vec<Arc<FileView>>,
    blind: bool,
    /// No less than all files have together.
    bytes: u64,
    /// No less than the entries of any root.
    entries: usize,
}

impl Ground {
    /// Of a look at everything; `files` are not taken yet.
    pub(super) fn of(look: &Look, walk: &Walk, bytes: u64, limits: &Limits) -> Self {
        let folders: HashMap<_, _> =
            look.folders.iter().filter_map(|(path, _)| Some((std::path::absolute(path).ok()?, path.clone()))).collect();
        let View { gaps, diagnostics, blind, .. } = &look.view;
        let is_plain = gaps.is_empty()
            && diagnostics.is_empty()
            && look.link_targets.is_empty()
            && !walk.has_volumes()
            && folders.len() == look.folders.len();
        let ground = Self {
            is_plain,
            folders: Arc::new(folders),
            files: Vec::new(),
            blind: *blind,
            bytes,
            entries: walk.entries,
        };
        Self { is_plain: ground.is_plain && !ground.is_near(limits), ..ground }
    }

    /// With the files of the look, in the order of the view.
    pub(super) fn with_files(self, files: Vec<Arc<FileView>>) -> Self {
        Self { files, ..self }
    }

    fn is_near(&self, limits: &Limits) -> bool {
        self.bytes > limits.total_bytes / 2 || self.entries > limits.entries / 2
    }
}

impl FileSource {
    /// Looks at the files with these absolute paths, but not at those that are being written (`held`). None if everything
    /// must be looked at.
    pub(super) fn glance(&self, paths: &HashSet<PathBuf>, held: &HashSet<PathBuf>) -> Option<Look> {
        let ground = self.ground.as_ref().filter(|ground| ground.is_plain)?;
        let mut view = View { files: ground.files.clone(), blind: ground.blind, ..View::default() };
        let mut ground = Ground { files: Vec::new(), ..ground.clone() };
        let (mut entries, mut read, mut budget) = (Vec::new(), Vec::new(), u64::MAX);
        for absolute in paths.iter().filter(|path| !held.contains(*path)) {
            let folder = ground.folders.get(absolute.parent()?)?;
            let path = folder.join(absolute.file_name()?);
            let known = self.known(&path);
            let metadata = match fs::symlink_metadata(&path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // A folder, which takes more with it.
                    if ground.folders.contains_key(absolute) {
                        return None;
                    }
                    if known.is_some() {
                        set_file(&mut view, &path.to_string_lossy(), None);
                        entries.push((path, None));
                    }
                    continue;
                }
                Err(_) => return None,
            };
            if is_dropping(&absolute.file_name()?.to_string_lossy()) && !metadata.is_symlink() {
                continue;
            }
            if metadata.is_file() && !has_config_extension(&path) {
                continue;
            }
            // What has several names is read under one of them.
            if !metadata.is_file() || metadata.nlink() > 1 {
                return None;
            }
            ground.entries += usize::from(known.is_none());
            ground.bytes = ground.bytes.saturating_add(metadata.len());
            if ground.is_near(self.limits()) {
                return None;
            }
            let stamp = Stamp::of(&metadata);
            let found = Found { path: path.clone(), stamp, content: RootContent::Resources, linked: false };
            let (entry, was_read) = self.entry(found, known, &mut budget);
            if was_read {
                read.push(path.clone());
            }
            set_file(&mut view, &entry.view.file.clone(), Some(entry.view.clone()));
            entries.push((path, Some(entry)));
        }
        // An empty folder is told from one that is not mounted by a look at everything.
        if view.files.is_empty() {
            return None;
        }
        let entries = Entries::Some(entries);
        Some(Look { entries, view, ground, read, folders: Vec::new(), link_targets: Vec::new() })
    }
}

/// Puts what a file is now in the place of what it was.
fn set_file(view: &mut View, file: &str, now: Option<Arc<FileView>>) {
    let at = view.files.binary_search_by(|other| Path::new(&*other.file).cmp(Path::new(file)));
    match (at, now) {
        (Ok(at), Some(now)) => view.files[at] = now,
        (Ok(at), None) => drop(view.files.remove(at)),
        (Err(at), Some(now)) => view.files.insert(at, now),
        (Err(_), None) => {}
    }
}
