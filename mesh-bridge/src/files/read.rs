//! From one file to its [`FileView`].

use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tidegate_core::{Code, Diagnostic, Level, Origin};
use tidegate_resources::{ParseOptions, Parsed, parse_bytes, parse_mesh_config, validate};

use super::source::RootContent;
use super::walk::{Stamp, mend, origin};
use super::{FileView, Offer, SourceDocument, Understanding};

pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
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
        let message = format!("cannot read the file: {error}; what it defined before stays in use");
        Box::new(Diagnostic::error(Code::ENVIRONMENT, origin(path), message).help(mend(&error)))
    };
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let too_large = |length: String| {
        let limit = limit >> 20;
        let message =
            format!("the file has {length} and at most {limit} MiB are read; what it defined before stays in use");
        let help = "split it into several files, or move what is no configuration elsewhere";
        Box::new(Diagnostic::error(Code::SYNTAX, origin(path), message).help(help))
    };
    if metadata.len() > limit {
        return Err(too_large(format!("{} MiB", metadata.len() >> 20)));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    // It may grow while it is read.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(too_large("more".into()));
    }
    let hash = Sha256::digest(&bytes).into();
    Ok(Content { bytes, hash, stamp: Stamp::of(&metadata) })
}

/// Parses and validates. Whatever is wrong with the text becomes a diagnostic.
pub(super) fn parse(file: Arc<str>, bytes: &[u8], content: RootContent, options: &ParseOptions) -> FileView {
    let read = AssertUnwindSafe(|| match content {
        RootContent::Resources => parse_bytes(&file, bytes, options),
        RootContent::MeshConfig => match std::str::from_utf8(bytes) {
            Ok(text) => {
                let (object, diagnostics) = parse_mesh_config(&file, text);
                Parsed { objects: object.into_iter().collect(), diagnostics, ..Parsed::default() }
            }
            // Says what is wrong with the bytes.
            Err(_) => parse_bytes(&file, bytes, options),
        },
    });
    // No text is known that makes the parser panic. One that does must cost its own file only.
    let Ok(parsed) = catch_unwind(read) else {
        let message = "reading the file failed inside Tidegate; what it defined before stays in use";
        let diagnostic = Diagnostic::error(Code::SYNTAX, Origin::new(file.clone(), 0, 0), message)
            .help("please report it with the file; find the document that causes it by leaving documents out");
        return FileView::unreadable(file, diagnostic);
    };
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => accept(file, &Documents::of(text, content), parsed),
        _ => {
            let refused = accept(file, &Documents::of("", content), parsed);
            FileView { understanding: Understanding::Not, ..refused }
        }
    }
}

/// Sorts what was parsed into what may be served and what may not.
fn accept(file: Arc<str>, documents: &Documents<'_>, parsed: Parsed) -> FileView {
    let Parsed { objects, skipped, mut diagnostics, .. } = parsed;
    let mut rejected = Vec::new();
    let mut unnamed = Vec::new();
    for finding in diagnostics.iter().filter(|finding| finding.level == Level::Error) {
        match &finding.key {
            Some(key) => rejected.push(key.clone()),
            None => unnamed.push(documents.hash_at(finding.origin.position.line)),
        }
    }
    let mut offers = Vec::with_capacity(objects.len());
    let mut shared: HashMap<usize, Option<Arc<SourceDocument>>> = HashMap::new();
    for mut object in objects {
        // The document is kept whole; a second copy of each object's lines would cost as much again.
        object.source = Arc::default();
        let mut findings = validate(&object);
        for finding in &mut findings {
            finding.key.get_or_insert_with(|| object.key.clone());
        }
        if findings.iter().any(|finding| finding.level == Level::Error) {
            rejected.push(object.key.clone());
        } else {
            let at = documents.index_at(object.origin.position.line);
            let document = shared.entry(at).or_insert_with(|| documents.get(at).map(Arc::new)).clone();
            offers.push(Offer { object: Arc::new(object), document });
        }
        diagnostics.append(&mut findings);
    }
    rejected.sort();
    rejected.dedup();
    unnamed.sort_unstable();
    unnamed.dedup();
    let understanding = if unnamed.is_empty() { Understanding::Whole } else { Understanding::Partly(unnamed) };
    FileView { file, offers, rejected, understanding, skipped, diagnostics }
}

/// A text cut at its `---` lines, as the parser cuts it.
struct Documents<'t> {
    content: RootContent,
    text: &'t str,
    /// Lines before each document, and the byte at which it begins; the first is (0, 0).
    starts: Vec<(u32, usize)>,
}

impl<'t> Documents<'t> {
    fn of(text: &'t str, content: RootContent) -> Self {
        let mut starts = vec![(0, 0)];
        let mut begin = 0;
        if content == RootContent::Resources {
            for (lines_before, line) in (0..).zip(text.split_inclusive('\n')) {
                if begin > 0 && is_separator(line) {
                    starts.push((lines_before, begin));
                }
                begin += line.len();
            }
        }
        Self { content, text, starts }
    }

    /// The document that a line (from 1) lies in.
    fn index_at(&self, line: u32) -> usize {
        self.starts.partition_point(|(before, _)| *before < line).saturating_sub(1)
    }

    fn text_of(&self, index: usize) -> &'t str {
        let begin = self.starts.get(index).map_or(self.text.len(), |(_, begin)| *begin);
        let end = self.starts.get(index + 1).map_or(self.text.len(), |(_, begin)| *begin);
        &self.text[begin..end]
    }

    fn hash_at(&self, line: u32) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.text_of(self.index_at(line)).hash(&mut hasher);
        hasher.finish()
    }

    /// The document to keep; none if it may hold a Secret.
    fn get(&self, index: usize) -> Option<SourceDocument> {
        let text = self.text_of(index);
        // Crude on purpose: the Secret may stand in a list, or be too broken to have become an object.
        if text.lines().any(|line| line.contains("kind") && line.contains("Secret")) {
            return None;
        }
        let lines_before = self.starts.get(index).map_or(0, |(before, _)| *before);
        Some(SourceDocument { lines_before, content: self.content, text: text.trim_end().into() })
    }
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

/// Reads a kept document again. Places are those in the file that it came from.
pub fn reread(file: &Arc<str>, document: &Arc<SourceDocument>, options: &ParseOptions) -> Vec<Offer> {
    let options = ParseOptions { lines_before: document.lines_before, ..options.clone() };
    let view = parse(file.clone(), document.text.as_bytes(), document.content, &options);
    let offers = view.offers.into_iter();
    offers.map(|offer| Offer { document: Some(document.clone()), ..offer }).collect()
}
