//! The format of the whole: one header line, then JSON.
//!
//! `tidegate-state 1 <length of the rest in bytes, 16 hex digits> <SHA-256 of the rest>\n`

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
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

#[derive(Deserialize)]
struct Content {
    /// Hash of the Snapshot that was made of this.
    snapshot: String,
    /// In a change: what does not serve any more.
    #[serde(default)]
    removed: Vec<ResourceKey>,
    files: Vec<FileContent>,
}

#[derive(Deserialize)]
struct FileContent {
    file: Arc<str>,
    documents: Vec<Document>,
}

#[derive(Deserialize)]
struct Document {
    lines_before: u32,
    #[serde(default)]
    mesh_config: bool,
    /// The objects of the document that serve in this form.
    keys: Vec<ResourceKey>,
    text: Box<str>,
}

/// What is to be written: everything, or what changed. Its JSON is that of [`Content`], made object by object: there may be
/// ten thousands.
#[derive(Clone, Debug)]
pub(crate) struct Saving {
    snapshot: String,
    is_whole: bool,
    /// None for what is not to be kept any more.
    objects: BTreeMap<ResourceKey, Option<SavedObject>>,
}

/// A key with what is saved under it.
type Entry<'a> = (&'a ResourceKey, &'a SavedObject);

impl Saving {
    /// Everything that is to be kept of served objects: those whose document may be written.
    pub(crate) fn new<'a>(
        snapshot: String,
        served: impl Iterator<Item = (&'a ResourceKey, &'a Arc<str>, &'a Arc<SourceDocument>)>,
    ) -> Self {
        let objects = served.map(|(key, file, document)| (key.clone(), Some(SavedObject::new(file, document))));
        Self { snapshot, is_whole: true, objects: objects.collect() }
    }

    /// What changed since what was given before. None for an object that does not serve any more, or may not be written.
    pub(crate) fn changes<'a>(
        snapshot: String,
        changed: impl Iterator<Item = (ResourceKey, Option<(&'a Arc<str>, &'a Arc<SourceDocument>)>)>,
    ) -> Self {
        let objects = changed.map(|(key, now)| (key, now.map(|(file, document)| SavedObject::new(file, document))));
        Self { snapshot, is_whole: false, objects: objects.collect() }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Both at once, `later` over this.
    pub(super) fn merged(mut self, later: Self) -> Self {
        if later.is_whole {
            return later;
        }
        self.snapshot = later.snapshot;
        for (key, object) in later.objects {
            if object.is_none() && self.is_whole {
                self.objects.remove(&key);
            } else {
                self.objects.insert(key, object);
            }
        }
        self
    }

    /// Writes header and content to an empty file and flushes them to the disk. Returns the content's checksum.
    pub(super) fn write(&self, file: &File) -> io::Result<Checksum> {
        let mut writer = Checked { out: BufWriter::new(file), hasher: Sha256::new(), length: 0 };
        // The header's place; its content is known last.
        writer.out.write_all(&[b' '; HEADER_BYTES])?;
        self.write_content(&mut writer)?;
        let Checked { mut out, hasher, length } = writer;
        let checksum = hex(&hasher.finalize());
        out.seek(SeekFrom::Start(0))?;
        writeln!(out, "{MAGIC}{length:016x} {checksum}")?;
        out.flush()?;
        drop(out);
        file.sync_all()?;
        Ok(Checksum(checksum))
    }

    pub(super) fn write_content(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{{\"snapshot\":{},", serde_json::to_string(&self.snapshot)?)?;
        if !self.is_whole {
            let removed: Vec<_> =
                self.objects.iter().filter(|(_, object)| object.is_none()).map(|(key, _)| key).collect();
            write!(out, "\"removed\":{},", serde_json::to_string(&removed)?)?;
        }
        write!(out, "\"files\":[")?;
        // In the order of files and of documents within them.
        let mut objects: Vec<Entry<'_>> =
            self.objects.iter().filter_map(|(key, object)| Some((key, object.as_ref()?))).collect();
        // Two forms of one document may begin at one line; they are told apart by address.
        objects.sort_by(|(a_key, a), (b_key, b)| {
            let place = |object: &SavedObject| (object.document.lines_before, Arc::as_ptr(&object.document));
            a.file.cmp(&b.file).then_with(|| place(a).cmp(&place(b))).then_with(|| a_key.cmp(b_key))
        });
        for (index, file) in objects.chunk_by(|(_, a), (_, b)| a.file == b.file).enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(out, "{separator}\n{{\"file\":{},\"documents\":[", serde_json::to_string(&file[0].1.file)?)?;
            for (index, objects) in file.chunk_by(|(_, a), (_, b)| Arc::ptr_eq(&a.document, &b.document)).enumerate() {
                let separator = if index == 0 { "" } else { "," };
                writeln!(out, "{separator}")?;
                serde_json::to_writer(&mut *out, &OneDocument(objects))?;
            }
            write!(out, "]}}")?;
        }
        write!(out, "]}}")
    }
}

/// SHA-256 of the content of a whole file, hexadecimal: what changes to it are bound to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Checksum(pub(super) String);

/// Objects of one document, as a [`Document`]. There is at least one.
struct OneDocument<'a>(&'a [Entry<'a>]);

impl Serialize for OneDocument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let source = &self.0[0].1.document;
        let mut fields = serializer.serialize_struct("Document", 4)?;
        fields.serialize_field("lines_before", &source.lines_before)?;
        fields.serialize_field("mesh_config", &(source.content == RootContent::MeshConfig))?;
        fields.serialize_field("keys", &Keys(self.0))?;
        fields.serialize_field("text", &source.text)?;
        fields.end()
    }
}

struct Keys<'a>(&'a [Entry<'a>]);

impl Serialize for Keys<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|(key, _)| *key))
    }
}

/// An object of a state file.
#[derive(Clone, Debug)]
pub(crate) struct SavedObject {
    pub(crate) file: Arc<str>,
    document: Arc<SourceDocument>,
}

impl SavedObject {
    fn new(file: &Arc<str>, document: &Arc<SourceDocument>) -> Self {
        Self { file: file.clone(), document: document.clone() }
    }
}

/// What a state file held. Objects are parsed when they are asked for: a restart with a good folder needs none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Saved {
    /// Hash of the Snapshot that served it.
    pub(crate) snapshot: String,
    pub(crate) objects: BTreeMap<ResourceKey, SavedObject>,
}

impl Saved {
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
    pub(super) fn load(path: &Path) -> Result<Option<(Self, Checksum)>, LoadError> {
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

    fn decode(bytes: &[u8]) -> Result<(Self, Checksum), LoadError> {
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
        let mut saved = Self::default();
        saved.apply(content)?;
        Ok((saved, Checksum(checksum.to_owned())))
    }

    /// Takes the JSON of a [`Content`] in.
    ///
    /// # Errors
    /// It is none; then nothing is taken in.
    pub(super) fn apply(&mut self, content: &[u8]) -> Result<(), serde_json::Error> {
        let content: Content = serde_json::from_slice(content)?;
        for key in &content.removed {
            self.objects.remove(key);
        }
        for file in content.files {
            for document in file.documents {
                let content = if document.mesh_config { RootContent::MeshConfig } else { RootContent::Resources };
                let source = SourceDocument { lines_before: document.lines_before, content, text: document.text };
                let source = Arc::new(source);
                for key in document.keys {
                    self.objects.insert(key, SavedObject::new(&file.file, &source));
                }
            }
        }
        self.snapshot = content.snapshot;
        Ok(())
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
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
