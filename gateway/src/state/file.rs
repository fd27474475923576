//! The format: one header line, then JSON.
//!
//! `tidegate-state 1 <length of the rest in bytes, 16 hex digits> <SHA-256 of the rest>\n`

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tidegate_core::ResourceKey;
use tidegate_mesh_bridge::files::{Offer, RootContent, SourceDocument, reread};
use tidegate_resources::ParseOptions;

const MAGIC: &str = "tidegate-state 1 ";
/// `MAGIC`, 16 digits, a blank, 64 digits, a newline.
const HEADER_BYTES: usize = MAGIC.len() + 16 + 1 + 64 + 1;
/// More than the sources may hold, escaped; a file beyond it is none of ours.
const MAX_BYTES: u64 = 1 << 30;

/// Why a state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    #[error("it has {0} bytes, more than a state file can have")]
    TooLarge(u64),
    #[error("it was written in another format or by a newer version")]
    Format,
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("it is damaged: {0}")]
    Content(#[from] serde_json::Error),
}

#[derive(Serialize, Deserialize)]
struct Content<'a> {
    /// Hash of the Snapshot that was made of this.
    snapshot: Cow<'a, str>,
    files: Vec<FileContent<'a>>,
}

#[derive(Serialize, Deserialize)]
struct FileContent<'a> {
    file: Arc<str>,
    documents: Vec<Document<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Document<'a> {
    lines_before: u32,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    mesh_config: bool,
    /// The objects of the document that serve in this form.
    keys: Vec<Cow<'a, ResourceKey>>,
    text: Cow<'a, str>,
}

/// An object of a state file.
#[derive(Clone, Debug)]
pub(crate) struct SavedObject {
    pub(crate) file: Arc<str>,
    document: Arc<SourceDocument>,
}

/// What a state file held. Objects are parsed when they are asked for: a restart with a good folder needs none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Saved {
    /// Hash of the Snapshot that served it.
    pub(crate) snapshot: String,
    pub(crate) objects: BTreeMap<ResourceKey, SavedObject>,
}

impl Saved {
    /// What is to be saved of served objects: those whose document may be written.
    pub(crate) fn new<'a>(
        snapshot: String,
        served: impl Iterator<Item = (&'a ResourceKey, &'a Arc<str>, &'a Arc<SourceDocument>)>,
    ) -> Self {
        let objects = served
            .map(|(key, file, document)| (key.clone(), SavedObject { file: file.clone(), document: document.clone() }))
            .collect();
        Self { snapshot, objects }
    }

    /// Parses the objects with these keys; those that can no longer be read are left out.
    pub(crate) fn offers(&self, keys: &[&ResourceKey], options: &ParseOptions) -> BTreeMap<ResourceKey, Offer> {
        let mut wanted: BTreeMap<*const SourceDocument, (&SavedObject, Vec<&ResourceKey>)> = BTreeMap::new();
        for key in keys {
            if let Some(object) = self.objects.get(*key) {
                wanted.entry(Arc::as_ptr(&object.document)).or_insert((object, Vec::new())).1.push(key);
            }
        }
        let mut offers = BTreeMap::new();
        for (object, keys) in wanted.into_values() {
            for offer in reread(&object.file, &object.document, options) {
                if keys.contains(&&offer.object.key) {
                    offers.entry(offer.object.key.clone()).or_insert(offer);
                }
            }
        }
        offers
    }

    /// Reads a state file; none if there is none.
    ///
    /// # Errors
    /// It cannot be read or is not whole.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>, LoadError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let length = file.metadata()?.len();
        if length > MAX_BYTES {
            return Err(LoadError::TooLarge(length));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Self::decode(&bytes).map(Some)
    }

    fn decode(bytes: &[u8]) -> Result<Self, LoadError> {
        let (header, content) =
            bytes.split_at_checked(HEADER_BYTES).ok_or(LoadError::Damaged("it ends within its header"))?;
        let header = std::str::from_utf8(header).map_err(|_| LoadError::Format)?;
        let header = header.strip_prefix(MAGIC).and_then(|rest| rest.strip_suffix('\n')).ok_or(LoadError::Format)?;
        let (length, checksum) = header.split_once(' ').ok_or(LoadError::Format)?;
        if u64::from_str_radix(length, 16) != Ok(content.len() as u64) {
            return Err(LoadError::Damaged("its length is not the one that was written"));
        }
        if hex(&Sha256::digest(content)) != checksum {
            return Err(LoadError::Damaged("its checksum differs"));
        }
        let content: Content<'static> = serde_json::from_slice(content)?;
        let mut objects = BTreeMap::new();
        for file in content.files {
            for document in file.documents {
                let content = if document.mesh_config { RootContent::MeshConfig } else { RootContent::Resources };
                let source =
                    SourceDocument { lines_before: document.lines_before, content, text: document.text.into() };
                let source = Arc::new(source);
                for key in document.keys {
                    objects.insert(key.into_owned(), SavedObject { file: file.file.clone(), document: source.clone() });
                }
            }
        }
        Ok(Self { snapshot: content.snapshot.into_owned(), objects })
    }

    fn content(&self) -> Content<'_> {
        let mut files: BTreeMap<&Arc<str>, BTreeMap<(u32, *const SourceDocument), Document<'_>>> = BTreeMap::new();
        for (key, SavedObject { file, document }) in &self.objects {
            let entry = files.entry(file).or_default().entry((document.lines_before, Arc::as_ptr(document)));
            let saved = entry.or_insert_with(|| Document {
                lines_before: document.lines_before,
                mesh_config: document.content == RootContent::MeshConfig,
                keys: Vec::new(),
                text: Cow::Borrowed(&document.text),
            });
            saved.keys.push(Cow::Borrowed(key));
        }
        let files = files
            .into_iter()
            .map(|(file, documents)| FileContent { file: file.clone(), documents: documents.into_values().collect() });
        Content { snapshot: Cow::Borrowed(&self.snapshot), files: files.collect() }
    }

    /// Writes header and content to an empty file and flushes them to the disk.
    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        let mut writer = Checked { out: BufWriter::new(file), hasher: Sha256::new(), length: 0 };
        // The header's place; its content is known last.
        writer.out.write_all(&[b' '; HEADER_BYTES])?;
        serde_json::to_writer(&mut writer, &self.content())?;
        let Checked { mut out, hasher, length } = writer;
        out.seek(SeekFrom::Start(0))?;
        writeln!(out, "{MAGIC}{length:016x} {}", hex(&hasher.finalize()))?;
        out.flush()?;
        drop(out);
        file.sync_all()
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Counts and hashes what passes through.
struct Checked<W> {
    out: W,
    hasher: Sha256,
    length: u64,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
