use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tidegate_core::{Code, Diagnostic};
use tidegate_resources::ParseOptions;

use super::glance::Ground;
use super::read::{self, Content, Pieces};
use super::walk::{self, FolderIdentity, Found, RootSeen, Stamp, Walk, origin};
use super::{FileView, Gap, GapKind, Limits, View};

/// What a root holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RootContent {
    /// Kubernetes-shaped documents, in a file or anywhere below a folder.
    Resources,
    /// One file with the bare text of a MeshConfig.
    MeshConfig,
}

/// A path that the user named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    pub path: PathBuf,
    pub content: RootContent,
}

impl Root {
    /// A file or folder of `--config`.
    pub fn resources(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), content: RootContent::Resources }
    }

    /// The file of `--mesh-config`.
    pub fn mesh_config(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), content: RootContent::MeshConfig }
    }
}

/// Age below which a file's stamp does not yet prove that its content is the one that was read: file systems' clocks
/// tick every few milliseconds, some every second.
const SETTLED_NANOS: i128 = 50_000_000;

/// How a look gets on, for whoever waits for it on another thread.
#[derive(Debug, Default)]
pub struct Progress {
    steps: AtomicU64,
    parsing: AtomicBool,
}

impl Progress {
    /// Grows with every folder entry and file. If it stands still and nothing is parsed, the look hangs in the file
    /// system.
    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Whether a text that was read is being parsed, which takes as long as the text is long.
    pub fn is_parsing(&self) -> bool {
        self.parsing.load(Ordering::Relaxed)
    }

    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    fn set_parsing(&self, parsing: bool) {
        self.parsing.store(parsing, Ordering::Relaxed);
    }
}

/// Files and folders as a source. Blocking: belongs on a thread of its own.
#[derive(Debug)]
pub struct FileSource {
    roots: Vec<Root>,
    limits: Limits,
    options: ParseOptions,
    entries: BTreeMap<PathBuf, Entry>,
    /// Per root: the folder in which configuration was last seen.
    inhabited: Vec<Option<FolderIdentity>>,
    /// What single files are looked at against; none before the first look.
    pub(super) ground: Option<Ground>,
    progress: Arc<Progress>,
}

/// What is remembered about one file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    stamp: Stamp,
    /// Whether an equal stamp proves equal content.
    settled: bool,
    /// None if the file could not be read.
    hash: Option<[u8; 32]>,
    pub(super) view: Arc<FileView>,
    pieces: Arc<Pieces>,
}

/// What a look found out about files.
#[derive(Debug)]
pub(super) enum Entries {
    /// Of all of them, and per root the folder in which configuration was last seen.
    All(BTreeMap<PathBuf, Entry>, Vec<Option<FolderIdentity>>),
    /// Of some; none for files that are gone.
    Some(Vec<(PathBuf, Option<Entry>)>),
}

/// One look at the source that has not been accepted yet.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) entries: Entries,
    pub(super) view: View,
    pub(super) ground: Ground,
    /// Files that were read because they are new or changed.
    pub(super) read: Vec<PathBuf>,
    /// Folders that were read.
    pub(super) folders: Vec<(PathBuf, FolderIdentity)>,
    /// Real folders of files that were reached over symbolic links.
    pub(super) link_targets: Vec<PathBuf>,
}

impl Look {
    /// Whether it is a look at everything.
    pub(super) fn is_whole(&self) -> bool {
        matches!(self.entries, Entries::All(..))
    }
}

impl FileSource {
    /// A source over `roots`. Nothing is read yet.
    pub fn new(roots: Vec<Root>, limits: Limits, options: ParseOptions) -> Self {
        let inhabited = vec![None; roots.len()];
        Self { roots, limits, options, entries: BTreeMap::new(), inhabited, ground: None, progress: Arc::default() }
    }

    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// How the present look gets on, to be asked from another thread.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// Looks at everything: reads the files whose device, inode, length or times changed, parses those whose content
    /// changed, and returns the whole view. Files that did not change keep their [`FileView`] by pointer.
    pub fn scan(&mut self) -> View {
        let look = self.look(&HashSet::new());
        self.accept(look)
    }

    /// As [`FileSource::scan`] without remembering anything. Files in `held` (absolute paths) are being written: what
    /// was last accepted of them stands.
    pub(super) fn look(&self, held: &HashSet<PathBuf>) -> Look {
        // A volume that is swapped all the time is looked at as it is.
        for _ in 0..3 {
            let (look, is_overtaken) = self.look_once(held);
            if !is_overtaken {
                return look;
            }
        }
        self.look_once(held).0
    }

    /// A look, and whether something was swapped during it.
    fn look_once(&self, held: &HashSet<PathBuf>) -> (Look, bool) {
        let mut walk = walk::walk(&self.roots, &self.limits, &self.progress);
        let inhabited = self.look_for_emptied_roots(&mut walk);
        let mut entries = BTreeMap::new();
        let mut look = Look {
            entries: Entries::Some(Vec::new()),
            ground: Ground::default(),
            view: View {
                gaps: std::mem::take(&mut walk.gaps),
                diagnostics: std::mem::take(&mut walk.notes),
                ..View::default()
            },
            read: Vec::new(),
            folders: std::mem::take(&mut walk.folders),
            link_targets: Vec::new(),
        };
        let resources = self.roots.iter().zip(&walk.roots).filter(|(root, _)| root.content == RootContent::Resources);
        look.view.blind = resources.map(|(_, seen)| *seen).all(|seen| seen == RootSeen::Not);
        let mut budget = self.limits.total_bytes;
        for found in std::mem::take(&mut walk.files) {
            let path = found.path.clone();
            if found.linked
                && let Some(folder) = std::fs::canonicalize(&path).ok().as_deref().and_then(Path::parent)
            {
                look.link_targets.push(folder.to_owned());
            }
            let known = self.entries.get(&path);
            let entry = if !held.is_empty() && std::path::absolute(&path).is_ok_and(|path| held.contains(&path)) {
                known.cloned()
            } else {
                let (entry, read) = self.entry(found, known, &mut budget);
                if read {
                    look.read.push(path.clone());
                }
                Some(entry)
            };
            if let Some(entry) = entry {
                entries.insert(path, entry);
            }
        }
        look.view.files = entries.values().map(|entry| entry.view.clone()).collect();
        look.view.files.sort_by(|a, b| Path::new(&*a.file).cmp(Path::new(&*b.file)));
        let bytes = self.limits.total_bytes - budget;
        look.ground = Ground::of(&look, &walk, bytes, &self.limits);
        look.entries = Entries::All(entries, inhabited);
        (look, walk.is_overtaken())
    }

    pub(super) fn accept(&mut self, look: Look) -> View {
        match look.entries {
            Entries::All(entries, inhabited) => (self.entries, self.inhabited) = (entries, inhabited),
            Entries::Some(changed) => {
                for (path, entry) in changed {
                    match entry {
                        Some(entry) => drop(self.entries.insert(path, entry)),
                        None => drop(self.entries.remove(&path)),
                    }
                }
            }
        }
        self.ground = Some(look.ground.with_files(look.view.files.clone()));
        look.view
    }

    /// What is known of a file.
    pub(super) fn known(&self, path: &Path) -> Option<&Entry> {
        self.entries.get(path)
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A root folder in which nothing is left is a deletion only if it is the same folder that files were seen in.
    /// Otherwise it is what is left where a volume is not mounted, or the first half of a replacement.
    fn look_for_emptied_roots(&self, walk: &mut Walk) -> Vec<Option<FolderIdentity>> {
        let mut inhabited = self.inhabited.clone();
        for ((root, seen), inhabited) in self.roots.iter().zip(&mut walk.roots).zip(&mut inhabited) {
            match *seen {
                RootSeen::Folder { identity, files } if files > 0 => *inhabited = Some(identity),
                RootSeen::Folder { identity, .. } if *inhabited != Some(identity) => {
                    *seen = RootSeen::Not;
                    let message = "the folder holds no configuration (*.yaml, *.yml, *.json)";
                    let diagnostic = Diagnostic::warning(Code::ENVIRONMENT, origin(&root.path), message)
                        .help("put files into it; `tidegate run` reads them as soon as they are there");
                    walk.gaps.push(Gap { path: root.path.clone(), kind: GapKind::Empty, diagnostic });
                }
                _ => {}
            }
        }
        inhabited
    }

    /// What is known of one file now, and whether it was read for that.
    pub(super) fn entry(&self, found: Found, known: Option<&Entry>, budget: &mut u64) -> (Entry, bool) {
        self.progress.step();
        let file: Arc<str> = match known {
            Some(known) => known.view.file.clone(),
            None => found.path.to_string_lossy().into(),
        };
        let refused = |stamp, diagnostic| Entry {
            stamp,
            settled: false,
            hash: None,
            view: match known {
                // The same refusal again is no news.
                Some(known) if known.hash.is_none() && known.view.diagnostics.first() == Some(&diagnostic) => {
                    known.view.clone()
                }
                _ => Arc::new(FileView::unreadable(file.clone(), diagnostic)),
            },
            pieces: Arc::default(),
        };
        let Some(rest) = budget.checked_sub(found.stamp.len.min(self.limits.file_bytes)) else {
            let message = format!(
                "all files together exceed {} MiB, and this one is the first that does not fit",
                self.limits.total_bytes >> 20
            );
            let diagnostic = Diagnostic::error(Code::SYNTAX, origin(&found.path), message).help(
                "name only folders that hold configuration, or move objects that this gateway does not need away",
            );
            return (refused(found.stamp, diagnostic), false);
        };
        if let Some(known) = known
            && known.settled
            && known.stamp == found.stamp
        {
            *budget = rest;
            return (known.clone(), false);
        }
        let started = now_nanos();
        let content = match read::content(&found.path, self.limits.file_bytes) {
            Ok(content) => content,
            Err(diagnostic) => return (refused(found.stamp, *diagnostic), true),
        };
        // What a full disk and a writer that truncates first leave behind. Who means to remove everything deletes the file.
        if content.bytes.is_empty() && known.is_some_and(|known| known.hash != Some(content.hash)) {
            let message = "the file has become empty; `tidegate run` keeps what it defined before in use";
            let diagnostic = Diagnostic::warning(Code::SYNTAX, origin(&found.path), message)
                .help("delete the file to remove its objects, or leave a comment in it");
            return (refused(content.stamp, diagnostic), true);
        }
        *budget = rest;
        let Content { bytes, hash, stamp } = content;
        let whole = stamp.len == bytes.len() as u64;
        let settled = whole && stamp.last_change_nanos() + SETTLED_NANOS < started;
        let (view, pieces) = match known {
            Some(known) if known.hash == Some(hash) => (known.view.clone(), known.pieces.clone()),
            _ => {
                self.progress.set_parsing(true);
                let before = known.map(|known| (&*known.view, &*known.pieces));
                let (view, pieces) = read::parse(file, &bytes, found.content, &self.options, before);
                self.progress.set_parsing(false);
                (Arc::new(view), Arc::new(pieces))
            }
        };
        (Entry { stamp, settled, hash: Some(hash), view, pieces }, true)
    }
}

fn now_nanos() -> i128 {
    // A clock before 1970 makes every file young, which costs reads and nothing else.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i128::try_from(since.as_nanos()).unwrap_or(i128::MAX))
}
