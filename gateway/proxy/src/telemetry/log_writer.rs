use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::access_log::LogCounters;

/// Lines that wait to be written.
const MAX_LINES: usize = 16_384;
/// Bytes of these lines.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// How long the writer lets lines gather. Requests then find it awake and need not wake it.
const GATHER: Duration = Duration::from_millis(10);
/// Most that is written at once.
const BATCH_BYTES: usize = 64 * 1024;
/// How long a reader that is not ready holds up a batch before it is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries to open a file, and between two complaints about one.
const RETRY: Duration = Duration::from_secs(10);

/// One destination of lines. Written by the writer's thread only.
#[derive(Debug)]
pub(super) struct LogFile {
    path: String,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: Option<File>,
    /// When to try or complain again.
    not_before: Option<Instant>,
}

impl LogFile {
    pub(super) fn new(path: &str) -> (Self, Option<io::Error>) {
        let (file, error) = match open(path) {
            Ok(file) => (Some(file), None),
            Err(error) => (None, Some(error)),
        };
        (Self { path: path.to_owned(), open: Mutex::new(Open { file, not_before: None }) }, error)
    }

    /// Opens the file anew; keeps the old one if that fails.
    fn reopen(&self) {
        match open(&self.path) {
            Ok(file) => self.open.lock().file = Some(file),
            Err(error) => tracing::warn!(path = self.path, %error, "cannot open the access log"),
        }
    }

    /// Writes whole lines; false if they are lost.
    fn write(&self, lines: &[u8], now: Instant) -> bool {
        let mut open = self.open.lock();
        let may_retry = open.not_before.is_none_or(|not_before| not_before <= now);
        if open.file.is_none() && may_retry {
            open.file = self::open(&self.path).ok();
        }
        let result = match &mut open.file {
            Some(file) => write_all(file, lines),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        let Err(error) = result else { return true };
        if may_retry {
            tracing::warn!(path = self.path, %error, "cannot write the access log; lines are lost");
            open.not_before = Some(now + RETRY);
        }
        false
    }
}

/// Like `Write::write_all`, with patience for a terminal or pipe that its owner has made non-blocking.
fn write_all(file: &mut File, mut lines: &[u8]) -> io::Result<()> {
    let mut patience = PATIENCE.as_millis() / GATHER.as_millis();
    while !lines.is_empty() {
        match file.write(lines) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => lines = &lines[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && patience > 0 => {
                patience -= 1;
                thread::sleep(GATHER);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open(path: &str) -> io::Result<File> {
    match path {
        // Their own descriptors, not /dev/stdout: a socket cannot be opened by path, a file would be opened at its start.
        // And not `io::stdout()`: while a reader is slow its lock would hold everyone else.
        "/dev/stdout" => io::stdout().as_fd().try_clone_to_owned().map(File::from),
        "/dev/stderr" => io::stderr().as_fd().try_clone_to_owned().map(File::from),
        _ => {
            // Opening a pipe for writing waits for its reader; opening it for both does not.
            let is_pipe = fs::metadata(path).is_ok_and(|it| it.file_type().is_fifo());
            match is_pipe {
                true => OpenOptions::new().read(true).write(true).open(path),
                false => OpenOptions::new().append(true).create(true).open(path),
            }
        }
    }
}

enum Message {
    Line {
        file: Arc<LogFile>,
        text: String,
    },
    /// Something other than a line changed.
    Wake,
}

/// The way of lines to the writer's thread. Bounded in lines and bytes; what does not fit is dropped and counted.
#[derive(Debug)]
pub(super) struct LogQueue {
    sender: SyncSender<Message>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bytes: AtomicUsize,
    counters: Arc<LogCounters>,
    reopen: AtomicBool,
    /// Lines that were taken from the queue and written or lost.
    done: watch::Sender<u64>,
}

impl LogQueue {
    /// Starts the writer's thread, which ends once the queue is dropped and empty.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(
        counters: Arc<LogCounters>,
        files: impl Fn() -> Vec<Arc<LogFile>> + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(MAX_LINES);
        let shared = Arc::new(Shared {
            bytes: AtomicUsize::new(0),
            counters,
            reopen: AtomicBool::new(false),
            done: watch::Sender::new(0),
        });
        let writer = shared.clone();
        // Nobody joins it: a log whose reader is stuck must not keep the process from ending. `flush` is the bounded wait.
        thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(&receiver, files))?;
        Ok(Self { sender, shared })
    }

    /// Hands a line over, or drops it. Never waits.
    pub(super) fn push(&self, file: &Arc<LogFile>, text: String) {
        let (shared, length) = (&self.shared, text.len());
        if shared.bytes.fetch_add(length, Ordering::Relaxed) + length > MAX_BYTES {
            shared.bytes.fetch_sub(length, Ordering::Relaxed);
            return shared.counters.dropped(1);
        }
        match self.sender.try_send(Message::Line { file: file.clone(), text }) {
            Ok(()) => shared.counters.queued(),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                shared.bytes.fetch_sub(length, Ordering::Relaxed);
                shared.counters.dropped(1);
            }
        }
    }

    /// Asks for all files to be opened anew, after the lines that were handed over before.
    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // A full queue means that the writer is awake.
        let _ = self.sender.try_send(Message::Wake);
    }

    /// Waits until everything that was handed over is written, but not longer than `limit`; false if that was too
    /// short. Cancel safe.
    pub(super) async fn flush(&self, limit: Duration) -> bool {
        let goal = self.shared.counters.queued_so_far();
        let mut done = self.shared.done.subscribe();
        tokio::time::timeout(limit, done.wait_for(|done| *done >= goal)).await.is_ok_and(|result| result.is_ok())
    }
}

impl Shared {
    fn run(&self, receiver: &Receiver<Message>, files: impl Fn() -> Vec<Arc<LogFile>>) {
        let mut batch = Batch { lines: Vec::with_capacity(BATCH_BYTES), file: None, count: 0 };
        while let Ok(first) = receiver.recv() {
            thread::sleep(GATHER);
            let mut next = Some(first);
            while let Some(message) = next {
                if let Message::Line { file, text } = message {
                    let same = batch.file.as_ref().is_some_and(|current| Arc::ptr_eq(current, &file));
                    if !same || batch.lines.len() + text.len() > BATCH_BYTES {
                        self.write(&mut batch);
                    }
                    batch.lines.extend_from_slice(text.as_bytes());
                    batch.count += 1;
                    batch.file = Some(file);
                    self.bytes.fetch_sub(text.len(), Ordering::Relaxed);
                }
                next = receiver.try_recv().ok();
            }
            self.write(&mut batch);
            if self.reopen.swap(false, Ordering::AcqRel) {
                files().iter().for_each(|file| file.reopen());
            }
        }
    }

    fn write(&self, batch: &mut Batch) {
        let Some(file) = batch.file.take() else { return };
        if !file.write(&batch.lines, Instant::now()) {
            self.counters.dropped(batch.count);
        }
        let count = std::mem::take(&mut batch.count);
        batch.lines.clear();
        // One huge line should not keep its memory.
        batch.lines.shrink_to(2 * BATCH_BYTES);
        self.done.send_modify(|done| *done += count);
    }
}

/// Lines of one file that are written together.
struct Batch {
    lines: Vec<u8>,
    file: Option<Arc<LogFile>>,
    count: u64,
}
