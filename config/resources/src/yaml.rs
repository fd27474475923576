//! YAML and JSON text to [`Node`]s, within hard limits.
//!
//! A stream is cut at its `---` lines before it is parsed, as `kubectl` does it, so that a document with broken syntax
//! takes nothing from its neighbours. Scalars are read as `sigs.k8s.io/yaml` (YAML 1.1) reads them, apart from single
//! letters: `yes`, `no`, `on`, `off`, `true` and `false` are booleans unless quoted, `y` and `n` are texts; `0x1F`,
//! `0b11`, `017` and `1_000` are numbers; timestamps are texts.

mod mask;
mod reader;
mod repair;
mod scalar;
mod stream;

pub(crate) use reader::{Broken, Problem, documents, wipe};
pub(crate) use scalar::{float, integer};
pub(crate) use stream::{Lines, chunks};
