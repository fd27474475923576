//! `v1` Secret, ConfigMap and Namespace.

use std::collections::BTreeMap;
use std::fmt;

use tidegate_core::SecretBytes;

use super::Accepted;
use crate::decode::{Bytes, SecretText, message};
use crate::validate::names;

message! {
    /// Key material, wiped when the last owner of an entry drops it. `Debug` shows the names of the entries only.
    pub struct Secret redacted {
        /// Base64 in the file.
        pub data: BTreeMap<String, SecretBytes> => "data",
        /// Plain text in the file; wins over `data`.
        pub string_data: BTreeMap<String, SecretText> => "stringData",
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
    /// An entry, from `stringData` before `data` as the API server merges them.
    pub fn get(&self, name: &str) -> Option<&SecretBytes> {
        self.string_data.get(name).map(|text| &text.0).or_else(|| self.data.get(name))
    }

    /// Every entry once, as [`Self::get`] gives it; those of `stringData` first, each group by name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &SecretBytes)> {
        let texts = self.string_data.iter().map(|(name, text)| (name.as_str(), &text.0));
        let hidden = |name: &String| self.string_data.contains_key(name);
        let data = self.data.iter().filter(move |(name, _)| !hidden(name));
        texts.chain(data.map(|(name, bytes)| (name.as_str(), bytes)))
    }

    /// Path of an entry for [`Object::origin_of`](crate::Object::origin_of): `data["tls.crt"]`. The whole `data` if there
    /// is no such entry.
    pub fn entry_path(&self, name: &str) -> String {
        let field = if self.string_data.contains_key(name) { "stringData" } else { "data" };
        path_of(field, name, self.get(name).is_some())
    }
}

impl ConfigMap {
    /// An entry, from `data` before `binaryData` (the API server lets none stand in both).
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let bytes = || self.binary_data.get(name).map(|bytes| bytes.0.as_slice());
        self.data.get(name).map(String::as_bytes).or_else(bytes)
    }

    /// Path of an entry for [`Object::origin_of`](crate::Object::origin_of): `data["ca.crt"]`. The whole `data` if there
    /// is no such entry.
    pub fn entry_path(&self, name: &str) -> String {
        let is_binary = !self.data.contains_key(name) && self.binary_data.contains_key(name);
        path_of(if is_binary { "binaryData" } else { "data" }, name, self.get(name).is_some())
    }
}

fn path_of(field: &str, name: &str, is_there: bool) -> String {
    if is_there { format!("{field}{}", names::step(name)) } else { field.to_owned() }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A longer one may be a line of a key in the wrong place.
        let names: Vec<_> = self.entries().map(|(name, _)| if name.len() <= 40 { name } else { "..." }).collect();
        f.debug_struct("Secret").field("type", &self.r#type).field("entries", &names).finish_non_exhaustive()
    }
}
