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
        self.render(facts, &mut line);
        self.queue.push(&self.file, line);
    }

    /// Appends the line of a request.
    pub(crate) fn render(&self, facts: &RequestFacts<'_>, line: &mut String) {
        self.format.render(facts, line);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::time::{Instant, SystemTime};

    use http::HeaderMap;
    use tidegate_snapshot::{AccessLogFormat, Template};

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn logger() -> (AccessLogger, Arc<LogCounters>) {
        let counters = Arc::<LogCounters>::default();
        (AccessLogger::start(counters.clone()).unwrap(), counters)
    }

    fn settings(path: &Path) -> AccessLog {
        let format = AccessLogFormat::Text(Template::parse("%REQ(:PATH)%").unwrap());
        AccessLog { path: path.to_str().unwrap().to_owned(), format }
    }

    fn log(sink: &AccessLogSink, path: &str) {
        sink.log(&RequestFacts::new(SystemTime::UNIX_EPOCH, "GET", path, &HeaderMap::new()));
    }

    #[tokio::test]
    async fn lines_reach_the_file_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        fs::write(&path, "older\n").unwrap();
        let (logger, counters) = logger();
        let (sink, finding) = logger.sink(&settings(&path));
        assert!(finding.is_none());
        (0..5000).for_each(|number| log(&sink, &format!("/{number}")));
        assert!(logger.flush(SOON).await);
        let expected: String =
            std::iter::once("older\n".to_owned()).chain((0..5000).map(|n| format!("/{n}\n"))).collect();
        assert!(fs::read_to_string(&path).unwrap() == expected);
        assert_eq!((counters.queued_so_far(), counters.dropped_so_far()), (5000, 0));
    }

    #[tokio::test]
    async fn a_rotated_file_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let (logger, _) = logger();
        let (sink, _) = logger.sink(&settings(&path));
        let (same, _) = logger.sink(&settings(&path));
        assert!(Arc::ptr_eq(&sink.file, &same.file));
        log(&sink, "/one");
        assert!(logger.flush(SOON).await);
        fs::rename(&path, &rotated).unwrap();
        log(&sink, "/two");
        assert!(logger.flush(SOON).await);
        logger.reopen();
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        log(&sink, "/three");
        assert!(logger.flush(SOON).await);
        assert_eq!(fs::read_to_string(&rotated).unwrap(), "/one\n/two\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "/three\n");
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_is_reported_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("access.log");
        let (logger, counters) = logger();
        let (sink, finding) = logger.sink(&settings(&path));
        let finding = finding.unwrap();
        assert_eq!(finding.code, Code::ENVIRONMENT);
        assert!(finding.message.contains(path.to_str().unwrap()), "{finding}");
        log(&sink, "/lost");
        assert!(logger.flush(SOON).await);
        assert_eq!(counters.dropped_so_far(), 1);
        fs::create_dir(path.parent().unwrap()).unwrap();
        logger.reopen();
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        log(&sink, "/kept");
        assert!(logger.flush(SOON).await);
        assert_eq!(fs::read_to_string(&path).unwrap(), "/kept\n");
    }

    /// A pipe that nobody reads is the slowest log there is.
    #[tokio::test]
    async fn a_stuck_log_loses_lines_and_never_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo is part of coreutils");
        assert!(made.success());
        let (logger, counters) = logger();
        let (sink, finding) = logger.sink(&settings(&path));
        assert!(finding.is_none());
        let long = format!("/{}", "x".repeat(8000));
        let mut longest = Duration::ZERO;
        for _ in 0..20_000 {
            let start = Instant::now();
            log(&sink, &long);
            longest = longest.max(start.elapsed());
        }
        assert!(longest < Duration::from_secs(1), "{longest:?}");
        let (queued, dropped) = (counters.queued_so_far(), counters.dropped_so_far());
        assert_eq!(queued + dropped, 20_000);
        assert!(queued * 8001 <= 17 * 1024 * 1024, "{queued} lines wait or were written");
        assert!(!logger.flush(Duration::from_millis(20)).await);
    }
}
