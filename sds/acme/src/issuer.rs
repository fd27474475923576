use std::path::PathBuf;
use std::sync::Arc;

use tidegate_core::Diagnostic;
use tidegate_sds::SecretStore;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, SystemClock};
use crate::request::CertificateRequest;
use crate::status::CertificateStatus;

mod owner;

use owner::Owner;

/// Requests that wait to be taken in; the sender waits, too.
const COMMANDS: usize = 4;

/// What an [`Issuer`] can be told at its start.
#[derive(Clone)]
pub struct IssuerOptions {
    pub clock: Arc<dyn Clock>,
    /// Orders and questions under way at once, over all authorities.
    pub concurrency: usize,
}

impl Default for IssuerOptions {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), concurrency: 4 }
    }
}

/// Keeps certificates issued: a task that orders, renews and offers them to the store, and keeps in its state directory
/// what a restart needs. Dropping it ends the task and closes its challenges; nothing of an order is lost.
#[derive(Debug)]
pub struct Issuer {
    commands: mpsc::Sender<Command>,
    report: watch::Receiver<Arc<Report>>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// What an [`Issuer`] has to tell.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Report {
    /// Sorted by name.
    pub statuses: Vec<CertificateStatus>,
    pub findings: Vec<Diagnostic>,
}

struct Command {
    requests: Vec<CertificateRequest>,
    done: oneshot::Sender<()>,
}

impl Issuer {
    /// Starts the task on the current tokio runtime. `state` is the folder of accounts, certificates and orders; it is
    /// made with the first request.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(store: Arc<SecretStore>, state: PathBuf, options: IssuerOptions) -> Self {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (told, report) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let owner = Owner::new(store, state, options, told);
        let task = tokio::spawn(owner.run(inbox, stop.clone()));
        Self { commands, report, stop, task: Some(task) }
    }

    /// Replaces what is to be issued: new requests begin, changed ones order anew while what they have serves on,
    /// missing ones end. Returns when the certificates of new requests that the state directory holds are offered to
    /// the store; no network is awaited. Cancel safe: once sent, the requests are taken in.
    pub async fn set_requests(&self, requests: Vec<CertificateRequest>) {
        let (done, taken_in) = oneshot::channel();
        // Both fail only when the task has ended, and then there is nobody to be told.
        if self.commands.send(Command { requests, done }).await.is_ok() {
            let _ = taken_in.await;
        }
    }

    /// Sorted by name.
    pub fn statuses(&self) -> Vec<CertificateStatus> {
        self.report.borrow().statuses.clone()
    }

    /// What is wrong now, at the places of the requests.
    pub fn findings(&self) -> Vec<Diagnostic> {
        self.report.borrow().findings.clone()
    }

    /// Wakes when statuses or findings change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Report>> {
        self.report.clone()
    }

    /// Ends the task and waits for its end. Orders in progress are resumed by the next start.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // A panic of the task was reported where it happened.
            let _ = task.await;
        }
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
