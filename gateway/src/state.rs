//! The last accepted configuration on disk: what a restart serves when the folder is gone or broken.
//!
//! One file in `--state-dir` holds the documents of every served object, in the form that serves (for an object whose
//! present form was rejected that is an older one), with the places that they came from. It is written off the serving
//! path, after the Snapshot was published: to a new file, flushed, renamed over the old one, and the folder flushed, so
//! that a kill or power cut at any moment leaves the old or the new one. A file that is not whole (length or checksum
//! differ) is not used at all. What changes after that is appended to a second file, change by change, until that has
//! grown as large as the first; a change of which the end is missing does not count.
//!
//! Secrets are not in it: a document that holds one is left out, whatever else it holds.

mod changes;
mod file;
mod location;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use file::{Saved, Saving};
pub(crate) use location::{StateFile, acme_folder};
pub(crate) use writer::StateWriter;
