//! From one file to its [`FileView`].

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tidegate_core::{Code, Diagnostic, Kind, Level, Origin, ResourceKey};
use tidegate_resources::{
    ParseOptions, Parsed, Skipped, parse as parse_text, parse_bytes, parse_mesh_config, validate,
};
use zeroize::Zeroizing;

use super::source::RootContent;
use super::walk::{Stamp, mend, origin};
use super::{FileView, Offer, SourceDocument, Understanding};

/// Errors of one file that name no object and are told one by one.
const MAX_UNREADABLE: usize = 20;
/// Findings of one file about objects that are told one by one.
const MAX_FINDINGS: usize = 10_000;
/// Documents with findings whose outcome is remembered; further ones are parsed with every change of their file.
const MAX_TROUBLED: usize = 1_000;

pub(super) struct Content {
    /// Wiped when dropped: there may be Secrets in it.
    pub(super) bytes: Zeroizing<Vec<u8>>,
    pub(super) hash: [u8; 32],
    /// Of the file that was opened, which may be another than the one that the walk saw.
    pub(super) stamp: Stamp,
}

/// Reads at most `limit` bytes.
///
/// # Errors
/// A diagnostic that names the file: it cannot be read, or it is larger than `limit`.
pub(super) fn content(path: &Path, limit: u64) -> Result<Content, Box<Diagnostic>> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot read the file: {error}");
        Box::new(Diagnostic::error(Code::ENVIRONMENT, origin(path), message).help(mend(&error)))
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let too_large = |length: String| {
        let limit = limit >> 20;
        let message = format!("the file has {length} and at most {limit} MiB are read");
        let help = "split it into several files, or move what is no configuration elsewhere";
        Box::new(Diagnostic::error(Code::SYNTAX, origin(path), message).help(help))
    };
    if metadata.len() > limit {
        return Err(too_large(format!("{} MiB", metadata.len() >> 20)));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default()));
    // It may grow while it is read.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(too_large("more".into()));
    }
    let hash = Sha256::digest(&*bytes).into();
    Ok(Content { bytes, hash, stamp: Stamp::of(&metadata) })
}

/// What was made of each document of a file, so that the next text of the file costs only what differs in it.
#[derive(Debug, Default)]
pub(super) struct Pieces(Vec<Piece>);

/// What was made of one document. A document that stands at the same line with the same text gives the same again.
#[derive(Debug)]
struct Piece {
    lines_before: u32,
    hash: [u8; 32],
    /// Place of its objects among the file's.
    offers: Range<usize>,
    /// Most documents have nothing of this.
    trouble: Option<Box<Trouble>>,
}

#[derive(Clone, Debug, Default)]
struct Trouble {
    rejected: Vec<ResourceKey>,
    /// Whether something in it does not even tell its name.
    unnamed: bool,
    skipped: Vec<Skipped>,
    diagnostics: Vec<Diagnostic>,
}

impl Trouble {
    fn is_empty(&self) -> bool {
        self.rejected.is_empty() && !self.unnamed && self.skipped.is_empty() && self.diagnostics.is_empty()
    }
}

/// Parses and validates. Whatever is wrong with the text becomes a diagnostic. `before` is what was made of the file's
/// last text.
pub(super) fn parse(
    file: Arc<str>,
    bytes: &[u8],
    content: RootContent,
    options: &ParseOptions,
    before: Option<(&FileView, &Pieces)>,
) -> (FileView, Pieces) {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text,
        _ => {
            let parsed = parse_bytes(&file, bytes, options);
            let refused = FileView {
                file,
                offers: Vec::new(),
                rejected: Vec::new(),
                understanding: Understanding::Not,
                skipped: Vec::new(),
                diagnostics: parsed.diagnostics,
            };
            return (refused, Pieces::default());
        }
    };
    let mut builder = Builder::new(file);
    for (lines_before, text) in documents(text, content) {
        let lines_before = lines_before.saturating_add(options.lines_before);
        let hash = Sha256::digest(text).into();
        match before.and_then(|(view, pieces)| Some((view, pieces.find(lines_before, hash)?))) {
            Some((view, piece)) => {
                let offers = view.offers.get(piece.offers.clone()).unwrap_or_default().to_vec();
                builder.add(lines_before, hash, offers, piece.trouble.clone());
            }
            None => {
                let options = ParseOptions { lines_before, ..options.clone() };
                let (offers, trouble) = document(&builder.view.file, text, content, &options);
                builder.add(lines_before, hash, offers, (!trouble.is_empty()).then(|| Box::new(trouble)));
            }
        }
    }
    builder.finish()
}

impl Pieces {
    fn find(&self, lines_before: u32, hash: [u8; 32]) -> Option<&Piece> {
        let at = self.0.binary_search_by_key(&lines_before, |piece| piece.lines_before).ok()?;
        self.0.get(at).filter(|piece| piece.hash == hash)
    }
}

/// A view that grows document by document.
struct Builder {
    view: FileView,
    pieces: Vec<Piece>,
    unnamed: Vec<u64>,
    /// Findings about documents that do not tell what they are, and the last that is not told.
    unreadable: usize,
    last: Option<Diagnostic>,
    /// Other findings.
    findings: usize,
    /// Remembered documents with findings.
    troubled: usize,
}

impl Builder {
    fn new(file: Arc<str>) -> Self {
        let view = FileView {
            file,
            offers: Vec::new(),
            rejected: Vec::new(),
            understanding: Understanding::Whole,
            skipped: Vec::new(),
            diagnostics: Vec::new(),
        };
        Self { view, pieces: Vec::new(), unnamed: Vec::new(), unreadable: 0, last: None, findings: 0, troubled: 0 }
    }

    fn add(&mut self, lines_before: u32, hash: [u8; 32], mut offers: Vec<Offer>, trouble: Option<Box<Trouble>>) {
        let begin = self.view.offers.len();
        self.view.offers.append(&mut offers);
        if let Some(trouble) = &trouble {
            self.view.rejected.extend_from_slice(&trouble.rejected);
            self.view.skipped.extend_from_slice(&trouble.skipped);
            if trouble.unnamed {
                let [a, b, c, d, e, f, g, h, ..] = hash;
                self.unnamed.push(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
            }
            for finding in &trouble.diagnostics {
                if is_unnamed(finding) {
                    self.unreadable += 1;
                    if self.unreadable > MAX_UNREADABLE {
                        self.last = Some(finding.clone());
                        continue;
                    }
                } else {
                    self.findings += 1;
                    if self.findings > MAX_FINDINGS {
                        continue;
                    }
                }
                self.view.diagnostics.push(finding.clone());
            }
        }
        self.troubled += usize::from(trouble.is_some());
        if trouble.is_some() && self.troubled > MAX_TROUBLED {
            return;
        }
        self.pieces.push(Piece { lines_before, hash, offers: begin..self.view.offers.len(), trouble });
    }

    fn finish(mut self) -> (FileView, Pieces) {
        let view = &mut self.view;
        if let Some(last) = self.last {
            let more = self.unreadable - MAX_UNREADABLE;
            let message = format!("{more} more findings about documents that are no resource, the last one here");
            view.diagnostics.push(Diagnostic::new(last.code, last.level, last.origin, message));
        }
        if let Some(more) = self.findings.checked_sub(MAX_FINDINGS).filter(|more| *more > 0) {
            let message = format!("{more} more findings about objects of this file");
            let origin = Origin::new(view.file.clone(), 0, 0);
            view.diagnostics.push(Diagnostic::warning(Code::SYNTAX, origin, message));
        }
        view.offers.shrink_to_fit();
        view.rejected.sort();
        view.rejected.dedup();
        self.unnamed.sort_unstable();
        self.unnamed.dedup();
        if !self.unnamed.is_empty() {
            view.understanding = Understanding::Partly(self.unnamed);
        }
        self.pieces.shrink_to_fit();
        (self.view, Pieces(self.pieces))
    }
}

/// Sorts one document into what may be served and what may not.
fn document(file: &Arc<str>, text: &str, content: RootContent, options: &ParseOptions) -> (Vec<Offer>, Trouble) {
    let read = AssertUnwindSafe(|| match content {
        RootContent::Resources => parse_text(file, text, options),
        RootContent::MeshConfig => {
            let (object, diagnostics) = parse_mesh_config(file, text);
            Parsed { objects: object.into_iter().collect(), diagnostics, ..Parsed::default() }
        }
    });
    // No text is known that makes the parser panic. One that does must cost its own document only.
    let Ok(Parsed { objects, skipped, mut diagnostics, .. }) = catch_unwind(read) else {
        let message = "reading the document failed inside Tidegate";
        let line = options.lines_before.saturating_add(1);
        let finding = Diagnostic::error(Code::SYNTAX, Origin::new(file.clone(), line, 1), message)
            .help("please report it with the document");
        return (Vec::new(), Trouble { unnamed: true, diagnostics: vec![finding], ..Trouble::default() });
    };
    let mut trouble = Trouble { skipped, ..Trouble::default() };
    for finding in &diagnostics {
        trouble.unnamed |= is_unnamed(finding);
        if finding.level == Level::Error {
            trouble.rejected.extend(finding.key.clone());
        }
    }
    let mut accepted = Vec::with_capacity(objects.len());
    for mut object in objects {
        // The document is kept whole; a second copy of each object's lines would cost as much again.
        object.source = Arc::default();
        // One name for all objects of a file.
        object.origin.file = file.clone();
        let mut findings = validate(&object);
        for finding in &mut findings {
            finding.key.get_or_insert_with(|| object.key.clone());
        }
        if findings.iter().any(|finding| finding.level == Level::Error) {
            trouble.rejected.push(object.key.clone());
        } else {
            accepted.push(Arc::new(object));
        }
        diagnostics.append(&mut findings);
    }
    trouble.diagnostics = diagnostics;
    let mut keys = accepted.iter().map(|object| &object.key).chain(&trouble.rejected);
    let has_secret = keys.any(|key| key.kind == Kind::Secret);
    // A Secret may be too broken to have become an object. Others name the kind, as a ReferenceGrant does.
    let may_hide_one = (trouble.unnamed || !trouble.rejected.is_empty()) && text.contains("Secret");
    let is_kept = !accepted.is_empty() && !has_secret && !may_hide_one;
    let kept = is_kept.then(|| {
        let text = text.trim_end().into();
        Arc::new(SourceDocument { lines_before: options.lines_before, content, text })
    });
    let offers = accepted.into_iter().map(|object| Offer { object, document: kept.clone() }).collect();
    (offers, trouble)
}

/// Whether a finding means that a document does not even tell which object it is: broken syntax, no `kind` or no name.
fn is_unnamed(finding: &Diagnostic) -> bool {
    finding.key.is_none() && (finding.level == Level::Error || finding.code == Code::SYNTAX)
}

/// The documents of a text with the number of lines before each, cut at `---` lines as the parser cuts them. Those
/// without a character of content are left out.
fn documents(text: &str, content: RootContent) -> impl Iterator<Item = (u32, &str)> {
    let mut rest = text;
    let mut line = 0u32;
    let cut = std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (mut end, mut lines) = (0, 0u32);
        for part in rest.split_inclusive('\n') {
            if end > 0 && content == RootContent::Resources && is_separator(part) {
                break;
            }
            end += part.len();
            lines = lines.saturating_add(1);
        }
        let (document, next) = rest.split_at(end);
        let lines_before = line;
        rest = next;
        line = line.saturating_add(lines);
        Some((lines_before, document))
    });
    // An empty text of mesh settings means all defaults.
    cut.filter(move |(_, document)| content == RootContent::MeshConfig || !is_blank(document))
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

fn is_blank(document: &str) -> bool {
    document.lines().all(|line| {
        let content = if is_separator(line) { &line[3..] } else { line };
        let content = content.trim_start();
        content.is_empty() || content.starts_with('#')
    })
}

/// Reads a kept document again. Places are those in the file that it came from.
pub fn reread(file: &Arc<str>, document: &Arc<SourceDocument>, options: &ParseOptions) -> Vec<Offer> {
    let options = ParseOptions { lines_before: document.lines_before, ..options.clone() };
    let (view, _) = parse(file.clone(), document.text.as_bytes(), document.content, &options, None);
    let offers = view.offers.into_iter();
    offers.map(|offer| Offer { document: Some(document.clone()), ..offer }).collect()
}
