use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_core::{Diagnostic, ResourceKey};
use tidegate_resources::{Object, ParseOptions, Skipped};

use super::{RootContent, read};

/// What one look at the source saw.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Sorted by path.
    pub files: Vec<Arc<FileView>>,
    /// What could not be seen. Absence from `files` means deletion only outside of these.
    pub gaps: Vec<Gap>,
    /// Findings about folders and limits, without those of gaps and of single files.
    pub diagnostics: Vec<Diagnostic>,
    /// Whether no root with resources could be seen, or none holds anything.
    pub blind: bool,
}

/// Why a path is a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapKind {
    /// It is missing or cannot be read.
    Unreadable,
    /// It is a folder without configuration, and not the one that configuration was seen in.
    Empty,
}

impl View {
    /// Adds a text as if it were a file of that name.
    pub fn add_text(&mut self, file: &str, text: &str, options: &ParseOptions) {
        let (view, _) = read::parse(file.into(), text.as_bytes(), RootContent::Resources, options, None);
        let at = self.files.partition_point(|other| Path::new(&*other.file) < Path::new(file));
        self.files.insert(at, Arc::new(view));
        self.blind = false;
    }

    /// Whether something is configured that could not be read, and nothing else was seen.
    pub fn is_blank(&self) -> bool {
        self.blind && self.gaps.iter().any(|gap| gap.kind == GapKind::Unreadable)
    }

    /// The gap that hides `file`, if one does.
    pub fn gap_over(&self, file: &str) -> Option<&Gap> {
        let path = Path::new(file);
        self.gaps.iter().find(|gap| path.starts_with(&gap.path))
    }

    /// The view of the file with exactly this path.
    pub fn file(&self, path: &str) -> Option<&Arc<FileView>> {
        let at = self.files.binary_search_by(|view| Path::new(&*view.file).cmp(Path::new(path))).ok()?;
        self.files.get(at)
    }

    /// Whether `other` saw the same: the same files by pointer, the same gaps and findings.
    pub fn is_same(&self, other: &View) -> bool {
        self.blind == other.blind
            && self.files.len() == other.files.len()
            && self.files.iter().zip(&other.files).all(|(a, b)| Arc::ptr_eq(a, b))
            && self.gaps == other.gaps
            && self.diagnostics == other.diagnostics
    }

    /// Every finding, folders before files.
    pub fn all_diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        let gaps = self.gaps.iter().map(|gap| &gap.diagnostic);
        gaps.chain(&self.diagnostics).chain(self.files.iter().flat_map(|file| &file.diagnostics))
    }
}

/// A file or folder that is configured or known to exist and cannot be seen now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The path and everything below it is unknown.
    pub path: PathBuf,
    pub kind: GapKind,
    pub diagnostic: Diagnostic,
}

/// One file, read, parsed and validated.
#[derive(Clone, Debug)]
pub struct FileView {
    /// As the user would name it: the root as it was given, and the path below it.
    pub file: Arc<str>,
    /// Objects that decode and keep every rule of their own kind, in order of writing.
    pub offers: Vec<Offer>,
    /// Objects that the file names and that are not acceptable; `diagnostics` says why. Sorted.
    pub rejected: Vec<ResourceKey>,
    pub understanding: Understanding,
    /// Documents of kinds that are not served.
    pub skipped: Vec<Skipped>,
    pub diagnostics: Vec<Diagnostic>,
}

/// An object that may be served.
#[derive(Clone, Debug)]
pub struct Offer {
    pub object: Arc<Object>,
    /// The text that it was read from. None if that holds a Secret too, which must not be written anywhere.
    pub document: Option<Arc<SourceDocument>>,
}

/// One document of a file, from its `---` line to the next; a list gives several objects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceDocument {
    /// Lines of the file before it.
    pub lines_before: u32,
    pub content: RootContent,
    pub text: Box<str>,
}

/// How far a file says which objects it holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Understanding {
    /// An object that is neither offered nor rejected is not in the file.
    Whole,
    /// Some documents do not even tell their names. They are here as hashes of their texts, stable within the process.
    Partly(Vec<u64>),
    /// The file could not be read.
    Not,
}

impl FileView {
    /// A file of which nothing is known but what went wrong.
    pub(crate) fn unreadable(file: Arc<str>, diagnostic: Diagnostic) -> Self {
        Self {
            file,
            offers: Vec::new(),
            rejected: Vec::new(),
            understanding: Understanding::Not,
            skipped: Vec::new(),
            diagnostics: vec![diagnostic],
        }
    }
}
