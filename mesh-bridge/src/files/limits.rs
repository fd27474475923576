/// What a folder of configuration may ask of the process. Reaching a limit is an error that names the file; it never
/// takes away what was served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of one file. A file that is larger is not read at all.
    pub file_bytes: u64,
    /// Bytes of all files together. Files that do not fit any more, in path order, are not read.
    pub total_bytes: u64,
    /// Entries of all folders together, of any name: what bounds a walk that was started at the wrong place.
    pub entries: usize,
    /// Folders within folders.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_bytes: 32 << 20, total_bytes: 128 << 20, entries: 50_000, depth: 32 }
    }
}
