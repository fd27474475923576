//! What ends the process, and what signals ask for besides.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit status of a process that was told twice to end.
const IMPATIENT: i32 = 130;

/// The process's end, as far as somebody asked for it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shutdown(CancellationToken);

impl Shutdown {
    /// Begins the end. Asking again changes nothing.
    pub(crate) fn begin(&self) {
        self.0.cancel();
    }

    /// Waits until somebody asks. Cancel safe.
    pub(crate) async fn begun(&self) {
        self.0.cancelled().await;
    }

    pub(crate) fn is_begun(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// The signals that a gateway obeys, caught from the moment that this exists.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// # Errors
    /// The handlers cannot be installed.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// SIGTERM and SIGINT begin the shutdown; the second of them ends the process at once. SIGHUP calls `hang_up`.
    /// Never returns; drop it to stop.
    pub(crate) async fn obey(mut self, shutdown: Shutdown, hang_up: impl Fn()) {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
                _ = self.hang_up.recv() => {
                    tracing::info!("reading the configuration again and reopening logs, as SIGHUP asks");
                    hang_up();
                    continue;
                }
            };
            if shutdown.is_begun() {
                tracing::warn!(signal = name, "ending at once");
                // State is written atomically and the kernel closes the rest: there is nothing to unwind for.
                std::process::exit(IMPATIENT);
            }
            tracing::info!(signal = name, "shutting down; once more ends at once");
            shutdown.begin();
        }
    }
}
