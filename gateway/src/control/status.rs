//! What the admin interface shows of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tidegate_admin::{ConfigStatus, ObjectCount, ReloadStatus};
use tidegate_core::{Diagnostic, Kind};

use super::ledger::Resolution;
use super::{Reload, Seen};

/// The status as the writer last left it. Cheap to clone and to read.
#[derive(Clone, Debug, Default)]
pub(crate) struct StatusCell(Arc<ArcSwap<ConfigStatus>>);

impl StatusCell {
    pub(crate) fn new(sources: Vec<String>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(ConfigStatus { sources, ..ConfigStatus::default() })))
    }

    pub(crate) fn get(&self) -> Arc<ConfigStatus> {
        self.0.load_full()
    }

    /// Shows other findings; nothing was reloaded.
    pub(super) fn set_diagnostics(&self, diagnostics: Arc<Vec<Diagnostic>>) {
        let last = ConfigStatus::clone(&self.get());
        self.0.store(Arc::new(ConfigStatus { diagnostics, ..last }));
    }

    pub(super) fn update(&self, reload: &Reload, seen: &Seen, diagnostics: Arc<Vec<Diagnostic>>) {
        let last = self.get();
        let published = if last.generation == reload.generation { last.published } else { Some(reload.at) };
        self.0.store(Arc::new(ConfigStatus {
            generation: reload.generation,
            hash: reload.hash.clone(),
            published,
            last_reload: Some(ReloadStatus {
                at: reload.at,
                success: reload.success,
                milliseconds: super::milliseconds(reload.took),
            }),
            serving_last_good: seen.why_last_good.clone(),
            sources: last.sources.clone(),
            objects: seen.counts.clone(),
            diagnostics,
        }));
    }
}

/// Objects by kind and standing.
pub(super) fn counts(resolution: &Resolution) -> Vec<ObjectCount> {
    let mut counts: BTreeMap<Kind, ObjectCount> = BTreeMap::new();
    let mut of_kind = |kind: Kind, add: &dyn Fn(&mut ObjectCount)| {
        add(counts.entry(kind).or_insert_with(|| ObjectCount { kind: kind.to_string(), ..ObjectCount::default() }));
    };
    for kind in Kind::ALL {
        match resolution.set.count(kind) {
            0 => {}
            objects => of_kind(kind, &|count| count.accepted += objects),
        }
    }
    for key in &resolution.last_good {
        of_kind(key.kind, &|count| {
            count.accepted = count.accepted.saturating_sub(1);
            count.last_good += 1;
        });
    }
    for key in &resolution.rejected {
        of_kind(key.kind, &|count| count.rejected += 1);
    }
    counts.into_values().collect()
}
