//! One look at a configuration, without serving it.

use std::path::PathBuf;

use tidegate_compiler::{Compilation, Compiler};
use tidegate_core::Diagnostic;
use tidegate_mesh_bridge::files::{FileSource, Limits, Root};
use tidegate_resources::{ParseOptions, ResourceSet};
use tidegate_snapshot::Snapshot;

use super::access_log::AccessLogObjects;
use super::ledger::Ledger;
use super::{compile_contained, compile_options, findings};
use crate::run::ReadOptions;

/// What `run` would serve, and what it would say.
#[derive(Debug)]
pub(crate) struct Offline {
    pub(crate) snapshot: Snapshot,
    pub(crate) resources: ResourceSet,
    /// Most severe first.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Reads, validates and compiles files and folders just as `run` does at its start, without state.
pub(crate) fn read_once(paths: &[PathBuf], read: &ReadOptions) -> Offline {
    let parse_options = ParseOptions::default();
    let view = FileSource::new(roots(paths, read), Limits::default(), parse_options.clone()).scan();
    let resolution = Ledger::default().resolve(&view, None, &parse_options);
    let mut diagnostics = findings::of_view(&view);
    diagnostics.extend(resolution.diagnostics);
    let resources = match &read.access_log {
        Some(access_log) => AccessLogObjects::new(access_log.clone()).put_into(&resolution.set),
        None => resolution.set.clone(),
    };
    let snapshot = match compile_contained(&mut Compiler::default(), &resources, &compile_options(read)) {
        Ok(Compilation { snapshot, diagnostics: found, .. }) => {
            diagnostics.extend(found.iter().cloned());
            snapshot
        }
        Err(finding) => {
            diagnostics.push(*finding);
            Snapshot::empty()
        }
    };
    Offline { snapshot, resources, diagnostics: findings::sorted(diagnostics) }
}

/// The roots of a file source: `--config` and `--mesh-config`.
pub(crate) fn roots(paths: &[PathBuf], read: &ReadOptions) -> Vec<Root> {
    paths.iter().map(Root::resources).chain(read.mesh_config.iter().map(Root::mesh_config)).collect()
}
