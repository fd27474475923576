//! `v1` Secret, ConfigMap and Namespace.

use std::collections::BTreeMap;
use std::fmt;

use super::Accepted;
use crate::decode::{Bytes, message};

message! {
    /// Key material. `Debug` shows the names of the entries only.
    pub struct Secret redacted {
        /// Base64 in the file.
        pub data: BTreeMap<String, Bytes> => "data",
        /// Plain text in the file; wins over `data`.
        pub string_data: BTreeMap<String, String> => "stringData",
        pub r#type: String => "type",
        pub immutable: Accepted => "immutable",
    }

    /// Settings as text.
    pub struct ConfigMap {
        pub data: BTreeMap<String, String> => "data",
        pub binary_data: BTreeMap<String, Bytes> => "binaryData",
        pub immutable: Accepted => "immutable",
    }

    /// A namespace; its labels are in the metadata.
    pub struct Namespace {
        pub spec: Accepted => "spec",
    }
}

impl Secret {
    /// Bytes of an entry, from `stringData` before `data` as the API server merges them.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        match self.string_data.get(name) {
            Some(text) => Some(text.as_bytes()),
            None => self.data.get(name).map(|bytes| bytes.0.as_slice()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.data.keys().chain(self.string_data.keys()).collect();
        f.debug_struct("Secret").field("type", &self.r#type).field("entries", &names).finish_non_exhaustive()
    }
}
