//! What changed since the whole was written, in a file beside it: a change costs its own size and not that of everything.
//!
//! One header line that says which whole the changes belong to, then one frame for each change:
//!
//! `tidegate-changes 1 <checksum of the whole>\n`
//! `<length of the JSON in bytes, 16 hex digits> <SHA-256 of the JSON>\n<JSON>\n`
//!
//! Frames are appended and flushed. A kill or power cut in the middle of one leaves a frame that is not whole: it and what
//! follows it does not count, which is the state before it. Changes that belong to another whole do not count at all: the
//! whole was replaced, and they are in it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::file::{Checksum, Saved, Saving, hex};

const MAGIC: &str = "tidegate-changes 1 ";
/// 16 digits, a blank, 64 digits, a newline.
const FRAME_HEADER: usize = 16 + 1 + 64 + 1;
/// Longest file that is read. The writer begins a new whole long before.
const MAX_BYTES: u64 = 1 << 30;

/// The file while it grows.
#[derive(Debug)]
pub(super) struct Changes {
    file: File,
    /// Bytes that are known to be whole.
    length: u64,
}

impl Changes {
    /// Begins anew, for changes of the whole with this checksum. What the file held is gone: it is in the whole.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn begin(path: &Path, whole: &Checksum) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        let header = format!("{MAGIC}{}\n", whole.0);
        file.write_all(header.as_bytes())?;
        file.sync_all()?;
        Ok(Self { file, length: header.len() as u64 })
    }

    /// Appends a change and flushes it to the disk.
    ///
    /// # Errors
    /// It could not be written. What was there before is whole, and the same change may be appended again.
    pub(super) fn append(&mut self, saving: &Saving) -> io::Result<()> {
        let mut content = Vec::new();
        saving.write_content(&mut content)?;
        let mut frame = format!("{:016x} {}\n", content.len(), hex(&Sha256::digest(&content))).into_bytes();
        frame.append(&mut content);
        frame.push(b'\n');
        // A change that failed may have left a part of it.
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length))?;
        self.file.write_all(&frame)?;
        self.file.sync_data()?;
        self.length += frame.len() as u64;
        Ok(())
    }

    /// Bytes of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }
}

/// Applies to the whole with this checksum what changed since. What is not whole does not count.
///
/// # Errors
/// The file is there and cannot be read.
pub(super) fn apply(path: &Path, whole: &Checksum, saved: &mut Saved) -> io::Result<()> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    let header = format!("{MAGIC}{}\n", whole.0);
    let Some(mut rest) = bytes.strip_prefix(header.as_bytes()) else { return Ok(()) };
    while let Some((content, next)) = frame(rest) {
        if saved.apply(content).is_err() {
            break;
        }
        rest = next;
    }
    if !rest.is_empty() {
        tracing::debug!(file = %path.display(), bytes = rest.len(), "the last saved change is not whole; it does not count");
    }
    Ok(())
}

/// The content of the first frame and what follows it; none if it is not whole.
fn frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(FRAME_HEADER)?;
    let (length, checksum) = std::str::from_utf8(header).ok()?.strip_suffix('\n')?.split_once(' ')?;
    let length = usize::from_str_radix(length, 16).ok()?;
    let (content, rest) = rest.split_at_checked(length)?;
    let rest = rest.strip_prefix(b"\n")?;
    (hex(&Sha256::digest(content)) == checksum).then_some((content, rest))
}
