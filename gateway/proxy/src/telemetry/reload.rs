use std::time::SystemTime;

use tidegate_snapshot::SnapshotHash;

/// How the configuration in use came about, for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reloads {
    pub(super) hash: Option<SnapshotHash>,
    /// Snapshots published so far.
    pub(super) generation: u64,
    pub(super) last_success: Option<SystemTime>,
    pub(super) last_failed: bool,
    pub(super) successes: u64,
    pub(super) failures: u64,
}

impl Reloads {
    pub(super) fn succeeded(&mut self, hash: SnapshotHash, now: SystemTime) {
        self.hash = Some(hash);
        self.generation += 1;
        self.unchanged(now);
    }

    pub(super) fn unchanged(&mut self, now: SystemTime) {
        self.last_success = Some(now);
        self.last_failed = false;
        self.successes += 1;
    }

    pub(super) fn failed(&mut self) {
        self.last_failed = true;
        self.failures += 1;
    }
}
