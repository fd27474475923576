use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

use crate::app::HttpApp;
use crate::shared::Shared;

/// One thread with its own runtime, sockets and upstream pools. Nothing moves between workers.
pub(crate) struct Worker {
    pub(crate) handle: Handle,
    pub(crate) app: Arc<HttpApp>,
    stop: CancellationToken,
    thread: Option<thread::JoinHandle<()>>,
}

impl Worker {
    /// # Errors
    /// The system gives no thread or no event queue.
    pub(crate) fn start(number: usize, shared: &Arc<Shared>) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (send, receive) = mpsc::sync_channel(1);
        let stopped = stop.clone();
        let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                // The receiver waits for exactly one message.
                Err(error) => return drop(send.send(Err(error))),
            };
            let _ = send.send(Ok(runtime.handle().clone()));
            runtime.block_on(stopped.cancelled());
            // Tasks that are left end here; their sockets close.
        })?;
        let handle = receive.recv().map_err(|_| io::Error::other("the worker ended before it began"))??;
        Ok(Self { handle, app: Arc::new(HttpApp::new(shared.clone())), stop, thread: Some(thread) })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has said so.
            let _ = thread.join();
        }
    }
}
