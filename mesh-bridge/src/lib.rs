//! Where configuration comes from. Today that is files and folders ([`files`]); a Kubernetes API server and xDS come
//! beside it.
//!
//! It owns reading, watching and the question of what one look at a source saw. It does not own what is served: which
//! of the objects that were seen replace which of the objects in use is decided by the one writer in the binary.
//!
//! Invariant: a source never takes anything away because it could not look. What it could not see is named as a
//! [`files::Gap`], and whoever reads a [`files::View`] keeps what lies in a gap.

pub mod files;
