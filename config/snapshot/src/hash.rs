//! How a Snapshot is hashed: each part by itself, and wholes by their parts.
//!
//! A part is a virtual host, a route table, a filter chain, a listener or a cluster. Its hash is kept beside it, and
//! parts are shared from one Snapshot to the next, so that a change costs the parts that it is in and the lists that
//! they stand in. Nothing of it depends on how a Snapshot came to be.

use std::fmt;
use std::io;
use std::sync::OnceLock;

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

/// SHA-256 of one part.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PartHash(pub(crate) [u8; 32]);

/// In a part, another part stands by its hash.
impl Serialize for PartHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl PartHash {
    /// Of everything that `part` serializes.
    pub(crate) fn of(part: &impl Serialize) -> Self {
        let mut hasher = HashWriter::default();
        // Serialization into a hasher can fail only if a type of the model refuses, and none does.
        #[expect(clippy::expect_used, reason = "no type of the model refuses to serialize")]
        serde_json::to_writer(&mut hasher, part).expect("the model serializes");
        hasher.finish()
    }

    /// Of a head and a list of parts, in their order.
    pub(crate) fn of_list(head: &impl Serialize, parts: impl Iterator<Item = PartHash>) -> Self {
        let mut hasher = HashWriter::default();
        hasher.update(&Self::of(head).0);
        parts.for_each(|part| hasher.update(&part.0));
        hasher.finish()
    }
}

/// A hash that is made when it is first asked for. A copy of its owner may be changed, so it starts without one.
#[derive(Default)]
pub(crate) struct KeptHash(OnceLock<PartHash>);

impl KeptHash {
    pub(crate) fn get(&self, make: impl FnOnce() -> PartHash) -> PartHash {
        *self.0.get_or_init(make)
    }
}

impl Clone for KeptHash {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl fmt::Debug for KeptHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeptHash")
    }
}

/// Gathers the many small writes of a serializer: a hasher takes whole blocks faster.
struct HashWriter {
    hasher: Sha256,
    pending: Vec<u8>,
}

/// Bytes that are gathered.
const PENDING: usize = 1024;

impl Default for HashWriter {
    fn default() -> Self {
        Self { hasher: Sha256::new(), pending: Vec::with_capacity(PENDING) }
    }
}

impl HashWriter {
    fn update(&mut self, bytes: &[u8]) {
        if self.pending.len() + bytes.len() > PENDING {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
        if bytes.len() > PENDING {
            self.hasher.update(bytes);
        } else {
            self.pending.extend_from_slice(bytes);
        }
    }

    fn finish(mut self) -> PartHash {
        self.hasher.update(&self.pending);
        PartHash(self.hasher.finalize().into())
    }
}

impl io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
