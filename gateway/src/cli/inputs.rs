//! Configuration that a command reads once: files, folders, standard input.
//!
//! Files and folders come through the same source that `run` watches, so that what is judged here is what would be
//! served.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_compiler::{Compilation, CompileOptions};
use tidegate_core::{Code, Diagnostic, Level, Origin};
use tidegate_mesh_bridge::files::{FileSource, FileView, Limits, Offer, Root, Understanding};
use tidegate_resources::{MAX_FILE_BYTES, ParseOptions, ResourceSet, Skipped, parse_bytes, validate};

use crate::render::{SourceText, Texts};
use crate::run::ReadOptions;

/// Texts that are kept for snippets, in bytes altogether.
const MAX_TEXTS: usize = 64 << 20;

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    /// Sorted by path, standard input and other streams first.
    pub(crate) files: Vec<Arc<FileView>>,
    /// Files and folders that could not be read, and limits that were reached.
    pub(crate) unreadable: Vec<Diagnostic>,
    /// Texts of streams, which cannot be read again.
    streams: Texts,
}

/// Reads `paths`; `-` is standard input.
pub(crate) fn read(paths: &[PathBuf], mesh_config: Option<&Path>, namespace: &str) -> Inputs {
    let options = ParseOptions { default_namespace: namespace.into(), ..ParseOptions::default() };
    let mut inputs = Inputs::default();
    let mut roots = Vec::new();
    for path in paths {
        // Process substitution and other pipes: to be read once, from the beginning to the end.
        let is_stream = path.as_os_str() == "-"
            || fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir());
        if is_stream {
            inputs.stream(path, &options);
        } else if inputs.is_there(path) {
            roots.push(Root::resources(path));
        }
    }
    roots.extend(mesh_config.filter(|path| inputs.is_there(path)).map(Root::mesh_config));
    let view = FileSource::new(roots, Limits::default(), options).scan();
    inputs.files.extend(view.files);
    inputs.unreadable.extend(view.gaps.into_iter().map(|gap| gap.diagnostic));
    inputs.unreadable.extend(view.diagnostics);
    inputs
}

impl Inputs {
    /// Whether a path can be opened. The source would say so too, but with what `run` does about it.
    fn is_there(&mut self, path: &Path) -> bool {
        let Err(error) = fs::File::open(path) else { return true };
        let name = path.to_string_lossy();
        let message = format!("cannot read {name}: {error}");
        self.unreadable.push(Diagnostic::error(Code::ENVIRONMENT, Origin::new(&*name, 0, 0), message));
        false
    }

    fn stream(&mut self, path: &Path, options: &ParseOptions) {
        let name: Arc<str> = path.to_string_lossy().into();
        if self.streams.contains_key(&name) {
            return;
        }
        let mut bytes = Vec::new();
        // One byte more than is allowed tells that there is too much.
        let limit = MAX_FILE_BYTES as u64 + 1;
        let outcome = if path.as_os_str() == "-" {
            io::stdin().lock().take(limit).read_to_end(&mut bytes)
        } else {
            fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
        };
        if let Err(error) = outcome {
            let message = format!("cannot read {name}: {error}");
            self.unreadable.push(Diagnostic::error(Code::ENVIRONMENT, Origin::new(name, 0, 0), message));
            return;
        }
        let parsed = parse_bytes(&name, &bytes, options);
        let mut diagnostics = parsed.diagnostics;
        if bytes.trim_ascii().is_empty() {
            // Valid, as istioctl has it; and what a failed command before a pipe looks like.
            let finding = Diagnostic::warning(Code::ENVIRONMENT, Origin::new(name.clone(), 0, 0), "nothing came in")
                .help("see whether the command that should have written it failed");
            diagnostics.push(finding);
        }
        let mut offers = Vec::new();
        let mut rejected: Vec<_> = diagnostics
            .iter()
            .filter(|diagnostic| diagnostic.level == Level::Error)
            .filter_map(|diagnostic| diagnostic.key.clone())
            .collect();
        for object in parsed.objects {
            let findings = validate(&object);
            if findings.iter().any(|finding| finding.level == Level::Error) {
                rejected.push(object.key.clone());
            } else {
                offers.push(Offer { object: Arc::new(object), document: None });
            }
            diagnostics.extend(findings);
        }
        rejected.sort();
        rejected.dedup();
        self.files.push(Arc::new(FileView {
            file: name.clone(),
            offers,
            rejected,
            understanding: Understanding::Whole,
            skipped: parsed.skipped,
            diagnostics,
        }));
        self.streams.insert(name, SourceText::new(bytes));
    }

    /// Every finding about single files and objects, and one for each kind that is not served.
    pub(crate) fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all: Vec<_> = self.files.iter().flat_map(|file| file.diagnostics.iter().cloned()).collect();
        all.extend(kinds_not_served(self.files.iter().flat_map(|file| &file.skipped)));
        all
    }

    /// One set of what may be served. Of an object that is defined twice the first stays, in the order of paths.
    pub(crate) fn resources(&self) -> (ResourceSet, Vec<Diagnostic>) {
        let mut set = ResourceSet::new();
        let mut diagnostics = Vec::new();
        for offer in self.files.iter().flat_map(|file| &file.offers) {
            let object = &offer.object;
            if let Some(first) = set.get(&object.key) {
                let message = format!("this object is defined before, at {}", first.origin);
                let duplicate = Diagnostic::error(Code::DUPLICATE, object.origin.clone(), message)
                    .key(object.key.clone())
                    .help("remove one of them, or give it another name or namespace");
                diagnostics.push(duplicate);
            } else {
                set.insert(object.clone());
            }
        }
        (set, diagnostics)
    }

    /// The texts that `diagnostics` are about, as far as they can be had.
    pub(crate) fn texts(self, diagnostics: &[&Diagnostic]) -> Texts {
        texts(diagnostics, self.streams)
    }
}

/// Adds the files that `diagnostics` are about to `texts`, as far as they can be had.
pub(crate) fn texts(diagnostics: &[&Diagnostic], mut texts: Texts) -> Texts {
    let mut total = 0;
    for diagnostic in diagnostics {
        let file = &diagnostic.origin.file;
        if diagnostic.origin.position.line == 0 || texts.contains_key(file) || total >= MAX_TEXTS {
            continue;
        }
        let mut text = Vec::new();
        let room = (MAX_TEXTS - total) as u64;
        if fs::File::open(&**file).and_then(|file| file.take(room).read_to_end(&mut text)).is_ok() {
            let text = SourceText::new(text);
            total += text.len();
            texts.insert(file.clone(), text);
        }
    }
    texts
}

/// Compiles as `run` does.
pub(crate) fn compile(resources: &ResourceSet, options: &ReadOptions) -> Compilation {
    let options = CompileOptions {
        labels: options.labels.clone(),
        namespace: options.namespace.clone(),
        cluster_domain: options.cluster_domain.clone(),
        ..CompileOptions::default()
    };
    tidegate_compiler::compile(resources, &options)
}

/// One warning a kind, at its first document.
fn kinds_not_served<'a>(skipped: impl Iterator<Item = &'a Skipped>) -> Vec<Diagnostic> {
    let mut kinds: BTreeMap<(&str, &str), (usize, &Skipped)> = BTreeMap::new();
    for document in skipped {
        let entry = kinds.entry((&document.kind, &document.api_version)).or_insert((0, document));
        entry.0 += 1;
    }
    kinds
        .into_values()
        .map(|(count, first)| {
            let documents = if count == 1 { "one document is".to_owned() } else { format!("{count} documents are") };
            let message =
                format!("{documents} skipped: Tidegate does not serve {} ({})", first.kind, first.api_version);
            Diagnostic::warning(Code::KIND_NOT_SERVED, first.origin.clone(), message)
        })
        .collect()
}
