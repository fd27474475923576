use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use tidegate_core::{Code, Diagnostic, Origin};
use tidegate_snapshot::AccessLog;

use super::RequestFacts;
use super::log_line::LineFormat;
use super::log_writer::{LogFile, LogQueue};

/// Lines that were logged and lost.
#[derive(Debug, Default)]
pub(crate) struct LogCounters {
    queued: AtomicU64,
    dropped: AtomicU64,
}

impl LogCounters {
    pub(super) fn queued(&self) {
        self.queued.fetch_add(1, Relaxed);
    }

    pub(super) fn dropped(&self, lines: u64) {
        self.dropped.fetch_add(lines, Relaxed);
    }

    pub(super) fn queued_so_far(&self) -> u64 {
        self.queued.load(Relaxed)
    }

    pub(super) fn dropped_so_far(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

/// The access logs of one gateway: its files and the one thread that writes them.
#[derive(Debug)]
pub(crate) struct AccessLogger {
    queue: Arc<LogQueue>,
    files: Arc<Files>,
}

/// Open files by path, while a sink holds them.
type Files = Mutex<AHashMap<String, Weak<LogFile>>>;

/// Where the requests of one Snapshot are logged.
#[derive(Debug)]
pub(crate) struct AccessLogSink {
    format: LineFormat,
    file: Arc<LogFile>,
    queue: Arc<LogQueue>,
}

impl AccessLogger {
    /// Starts the writer's thread; it ends with the last sink.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(counters: Arc<LogCounters>) -> io::Result<Self> {
        let files: Arc<Files> = Arc::default();
        let open = files.clone();
        let queue = LogQueue::start(counters, move || open.lock().values().filter_map(Weak::upgrade).collect())?;
        Ok(Self { queue: Arc::new(queue), files })
    }

    /// The sink for a Snapshot's settings, and a finding if its file cannot be opened now. Lines are lost and counted
    /// until it can: it is tried again every 10 s and by [`AccessLogger::reopen`].
    pub(crate) fn sink(&self, settings: &AccessLog) -> (Arc<AccessLogSink>, Option<Diagnostic>) {
        let mut files = self.files.lock();
        let mut error = None;
        let file = files.get(&settings.path).and_then(Weak::upgrade).unwrap_or_else(|| {
            files.retain(|_, file| file.strong_count() > 0);
            let (file, failure) = LogFile::new(&settings.path);
            error = failure;
            let file = Arc::new(file);
            files.insert(settings.path.clone(), Arc::downgrade(&file));
            file
        });
        let finding = error.map(|error| {
            Diagnostic::warning(
                Code::ENVIRONMENT,
                Origin::default(),
                format!("the access log `{}` cannot be opened: {error}; requests are not logged", settings.path),
            )
            .path("accessLogFile")
            .help("create its folder or let the gateway write there; it is tried again every 10 s")
        });
        let sink = AccessLogSink { format: LineFormat::new(&settings.format), file, queue: self.queue.clone() };
        (Arc::new(sink), finding)
    }

    /// Opens all files anew, after a rotation moved them away. Returns at once.
    pub(crate) fn reopen(&self) {
        self.queue.reopen();
    }

    /// Waits until everything logged so far is written, but not longer than `limit`; false if that was too short.
    /// Cancel safe.
    pub(crate) async fn flush(&self, limit: Duration) -> bool {
        self.queue.flush(limit).await
    }
}

impl AccessLogSink {
    /// Logs a request. Never waits: a line that finds the queue full is dropped and counted.
    pub(crate) fn log(&self, facts: &RequestFacts<'_>) {
        // Istio's default line has some 400 bytes.
        let mut line = String::with_capacity(512);
        self.format.render(facts, &mut line);
        self.queue.push(&self.file, line);
    }
}
