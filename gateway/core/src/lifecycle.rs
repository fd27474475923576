use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The states of the process that `/ready`, `/healthz/ready` and `/server_info` show, named as Envoy names them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Phase {
    /// No Snapshot serves yet.
    PreInitializing = 0,
    Live = 1,
    /// Readiness fails; listeners still accept until the drain delay has passed.
    Draining = 2,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::PreInitializing => "PRE_INITIALIZING",
            Phase::Live => "LIVE",
            Phase::Draining => "DRAINING",
        }
    }
}

/// The one place that says how far the process has come. Cheap to clone; moves forward only, apart from
/// `/healthcheck/ok`, which takes a forced failure back.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle(Arc<State>);

#[derive(Debug, Default)]
struct State {
    phase: AtomicU8,
    health_failed: AtomicU8,
    panics: AtomicU64,
}

impl Lifecycle {
    pub fn phase(&self) -> Phase {
        match self.0.phase.load(Ordering::Acquire) {
            0 => Phase::PreInitializing,
            1 => Phase::Live,
            _ => Phase::Draining,
        }
    }

    /// Moves to `phase` unless the process is already past it.
    pub fn advance(&self, phase: Phase) {
        self.0.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// Whether new traffic should be sent here.
    pub fn is_ready(&self) -> bool {
        self.phase() == Phase::Live && self.0.health_failed.load(Ordering::Acquire) == 0
    }

    /// What `/healthcheck/fail` (true) and `/healthcheck/ok` (false) ask for.
    pub fn force_unhealthy(&self, failed: bool) {
        self.0.health_failed.store(failed.into(), Ordering::Release);
    }

    /// Counts a panic of any thread or task. Each costs what it happened in, a request or a reload, and no more; but it
    /// is always a bug.
    pub fn panicked(&self) {
        self.0.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Panics since the start.
    pub fn panics(&self) -> u64 {
        self.0.panics.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draining_process_never_becomes_ready_again() {
        let lifecycle = Lifecycle::default();
        assert!(!lifecycle.is_ready());
        lifecycle.advance(Phase::Live);
        assert!(lifecycle.is_ready());
        lifecycle.force_unhealthy(true);
        assert!(!lifecycle.is_ready());
        lifecycle.force_unhealthy(false);
        assert!(lifecycle.is_ready());
        lifecycle.advance(Phase::Draining);
        lifecycle.advance(Phase::Live);
        assert_eq!(lifecycle.phase(), Phase::Draining);
        assert!(!lifecycle.is_ready());
    }
}
