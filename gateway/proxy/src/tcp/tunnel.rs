//! Bytes in both directions between two streams.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// One read, and so what is kept of a direction whose reader is slow. TLS has records of this size.
const CHUNK: usize = 16 * 1024;
/// Reads of one direction before the other has its turn.
const TURN: usize = 8;
/// How late the metrics may be (Istio's `reportingInterval`).
const REPORT: Duration = Duration::from_secs(5);
/// As far in the future as timers go.
const NEVER: Duration = Duration::from_secs(86_400 * 365);

/// Why a tunnel is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Both sides have said all.
    Complete,
    /// This side reset its connection.
    Reset(Side),
    /// A connection failed in some other way.
    Broken,
    /// Nothing moved for too long.
    Idle,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Client,
    Upstream,
}

/// What ends a direction before its end.
struct Failure {
    /// It is the side that speaks which failed, not the one that hears.
    of_reader: bool,
    error: io::Error,
}

impl From<io::Error> for Failure {
    /// A failure to write.
    fn from(error: io::Error) -> Self {
        Self { of_reader: false, error }
    }
}

impl Failure {
    fn end(&self, reader: Side, writer: Side) -> End {
        match self.error.kind() {
            io::ErrorKind::ConnectionReset => End::Reset(if self.of_reader { reader } else { writer }),
            _ => End::Broken,
        }
    }
}

/// Two streams that are joined. Holds no buffer while nothing moves.
pub(crate) struct Tunnel<'a, C: ?Sized, U: ?Sized> {
    client: &'a mut C,
    upstream: &'a mut U,
    up: Direction,
    down: Direction,
    idle_timeout: Duration,
    progress: &'a Progress,
}

/// What a tunnel has carried so far; known also when the tunnel is dropped in the middle.
#[derive(Default, Debug)]
pub(crate) struct Progress {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Progress {
    /// Received from the client, sent to the client.
    pub(crate) fn get(&self) -> (u64, u64) {
        (self.received.load(Relaxed), self.sent.load(Relaxed))
    }

    fn set(&self, (received, sent): (u64, u64)) {
        self.received.store(received, Relaxed);
        self.sent.store(sent, Relaxed);
    }
}

/// What has gone one way.
#[derive(Default)]
struct Direction {
    /// Was read and not written yet.
    pending: Vec<u8>,
    written: usize,
    needs_flush: bool,
    phase: Phase,
    read_bytes: u64,
    written_bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Open,
    /// The reader has said all; the writer is told when it has all of it.
    Ending,
    Over,
}

impl<'a, C, U> Tunnel<'a, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin + ?Sized,
    U: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    /// `early` was read of the client already. Without a timeout a tunnel in which nothing moves never ends.
    pub(crate) fn new(
        client: &'a mut C,
        upstream: &'a mut U,
        early: Vec<u8>,
        idle_timeout: Option<Duration>,
        progress: &'a Progress,
    ) -> Self {
        let up = Direction { read_bytes: early.len() as u64, pending: early, ..Direction::default() };
        let idle_timeout = idle_timeout.unwrap_or(NEVER).min(NEVER);
        Self { client, upstream, up, down: Direction::default(), idle_timeout, progress }
    }

    /// Passes bytes on until the tunnel is over. Calls `report` some seconds after something moved, again and again.
    pub(crate) async fn run(mut self, mut report: impl FnMut()) -> End {
        let mut moved_at = Instant::now();
        let mut idle = pin!(sleep_until(moved_at + self.idle_timeout));
        let mut reporting = pin!(sleep_until(moved_at));
        let (mut seen, mut is_due) = ((0, 0), false);
        poll_fn(|cx| {
            let polled = self.poll(cx);
            let bytes = self.bytes();
            if bytes != seen {
                seen = bytes;
                self.progress.set(bytes);
                moved_at = Instant::now();
                if !is_due {
                    is_due = true;
                    reporting.as_mut().reset(moved_at + REPORT);
                }
            }
            match polled {
                Poll::Ready(Ok(())) => return Poll::Ready(End::Complete),
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => {}
            }
            if is_due && reporting.as_mut().poll(cx).is_ready() {
                is_due = false;
                report();
            }
            while idle.as_mut().poll(cx).is_ready() {
                let end = moved_at + self.idle_timeout;
                if end <= Instant::now() {
                    return Poll::Ready(End::Idle);
                }
                idle.as_mut().reset(end);
            }
            Poll::Pending
        })
        .await
    }

    /// Received from the client, sent to the client.
    fn bytes(&self) -> (u64, u64) {
        (self.up.read_bytes, self.down.written_bytes)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let up = self.up.poll(cx, Pin::new(&mut *self.client), Pin::new(&mut *self.upstream));
        let up = up.map_err(|failure| failure.end(Side::Client, Side::Upstream))?;
        let down = self.down.poll(cx, Pin::new(&mut *self.upstream), Pin::new(&mut *self.client));
        let down = down.map_err(|failure| failure.end(Side::Upstream, Side::Client))?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Direction {
    /// Ready when the reader has said all and the writer knows.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut R>,
        mut to: Pin<&mut W>,
    ) -> Poll<Result<(), Failure>>
    where
        R: AsyncRead + ?Sized,
        W: AsyncWrite + ?Sized,
    {
        let mut turns = 0;
        while self.phase == Phase::Open {
            ready!(self.poll_write_pending(cx, to.as_mut()))?;
            if turns == TURN {
                // There may be more.
                cx.waker().wake_by_ref();
                return self.poll_flush(cx, to.as_mut()).map_err(Failure::from);
            }
            turns += 1;
            let mut chunk = [const { MaybeUninit::<u8>::uninit() }; CHUNK];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            match from.as_mut().poll_read(cx, &mut chunk) {
                Poll::Ready(Ok(())) if chunk.filled().is_empty() => self.phase = Phase::Ending,
                Poll::Ready(Ok(())) => {
                    self.read_bytes += chunk.filled().len() as u64;
                    self.write_at_once(cx, to.as_mut(), chunk.filled())?;
                }
                // A TLS peer that closes without a goodbye has closed all the same.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => self.phase = Phase::Ending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure { of_reader: true, error })),
                Poll::Pending => return self.poll_flush(cx, to.as_mut()).map_err(Failure::from),
            }
        }
        if self.phase == Phase::Ending {
            ready!(self.poll_write_pending(cx, to.as_mut()))?;
            ready!(to.poll_shutdown(cx))?;
            self.phase = Phase::Over;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what the writer takes; the rest is kept.
    fn write_at_once<W>(&mut self, cx: &mut Context<'_>, to: Pin<&mut W>, bytes: &[u8]) -> io::Result<()>
    where
        W: AsyncWrite + ?Sized,
    {
        let written = match to.poll_write(cx, bytes) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(written) => written?,
            Poll::Pending => 0,
        };
        self.written_bytes += written as u64;
        self.needs_flush |= written > 0;
        self.pending.extend_from_slice(&bytes[written..]);
        Ok(())
    }

    fn poll_write_pending<W>(&mut self, cx: &mut Context<'_>, mut to: Pin<&mut W>) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + ?Sized,
    {
        while self.written < self.pending.len() {
            let written = ready!(to.as_mut().poll_write(cx, &self.pending[self.written..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.written_bytes += written as u64;
            self.needs_flush = true;
        }
        if self.written > 0 {
            self.pending = Vec::new();
            self.written = 0;
        }
        Poll::Ready(Ok(()))
    }

    /// Pending in any case, since the direction is not over; an error is passed on.
    fn poll_flush<W>(&mut self, cx: &mut Context<'_>, to: Pin<&mut W>) -> Poll<io::Result<()>>
    where
        W: AsyncWrite + ?Sized,
    {
        if self.needs_flush {
            ready!(to.poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;
    use tokio::time::sleep;

    use super::*;

    /// A tunnel whose ends are pipes that hold `room` bytes.
    struct Ends {
        client: DuplexStream,
        upstream: DuplexStream,
        progress: Arc<Progress>,
        reports: Arc<Mutex<Vec<(u64, u64)>>>,
        end: JoinHandle<End>,
    }

    fn join(room: usize, early: &[u8], idle: Option<Duration>) -> Ends {
        let (client, mut near) = duplex(room);
        let (upstream, mut far) = duplex(room);
        let reports = Arc::<Mutex<Vec<(u64, u64)>>>::default();
        let progress = Arc::<Progress>::default();
        let (told, early, shared) = (reports.clone(), early.to_vec(), progress.clone());
        let end = tokio::spawn(async move {
            let tunnel = Tunnel::new(&mut near, &mut far, early, idle, &shared);
            tunnel.run(|| told.lock().push(shared.get())).await
        });
        Ends { client, upstream, progress, reports, end }
    }

    #[tokio::test]
    async fn every_byte_passes_whatever_the_room() {
        for room in [1, 7, CHUNK - 1, CHUNK, 100_000] {
            let mut ends = join(room, b"early ", None);
            let sent: Vec<u8> = (0..300_000u32).map(|at| (at % 253) as u8).collect();
            let upstream = tokio::spawn({
                let expected = [b"early ".as_slice(), &sent].concat();
                async move {
                    let mut all = Vec::new();
                    ends.upstream.read_to_end(&mut all).await.unwrap();
                    assert!(all == expected);
                    ends.upstream.write_all(&all).await.unwrap();
                }
            });
            let (mut read, mut write) = tokio::io::split(ends.client);
            let said = sent.clone();
            tokio::spawn(async move {
                write.write_all(&said).await.unwrap();
                write.shutdown().await.unwrap();
            });
            let mut back = Vec::new();
            read.read_to_end(&mut back).await.unwrap();
            upstream.await.unwrap();
            assert!(back.len() == sent.len() + 6 && back.ends_with(&sent), "{room}");
            assert_eq!(ends.end.await.unwrap(), End::Complete);
            assert_eq!(ends.progress.get(), (300_006, 300_006));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_moved_is_reported_while_the_tunnel_lives() {
        let mut ends = join(1024, b"", None);
        for round in 1..=3 {
            ends.client.write_all(b"abc").await.unwrap();
            let mut got = [0; 3];
            ends.upstream.read_exact(&mut got).await.unwrap();
            sleep(REPORT - Duration::from_millis(1)).await;
            assert_eq!(ends.reports.lock().len(), round - 1);
            sleep(Duration::from_millis(2)).await;
            assert_eq!(ends.reports.lock().last(), Some(&(3 * round as u64, 0)));
        }
        // Nothing moves, nothing is told.
        sleep(10 * REPORT).await;
        assert_eq!(ends.reports.lock().len(), 3);
        ends.client.write_all(b"de").await.unwrap();
        drop(ends.client);
        ends.upstream.read_to_end(&mut Vec::new()).await.unwrap();
        drop(ends.upstream);
        ends.end.await.unwrap();
        assert_eq!(ends.progress.get().0, 11);
    }

    #[tokio::test(start_paused = true)]
    async fn the_idle_time_begins_anew_with_every_byte() {
        let idle = Duration::from_secs(60);
        let mut ends = join(1024, b"", Some(idle));
        let start = Instant::now();
        for _ in 0..3 {
            sleep(idle - Duration::from_secs(1)).await;
            ends.upstream.write_all(b"x").await.unwrap();
            ends.client.read_u8().await.unwrap();
        }
        assert_eq!(ends.end.await.unwrap(), End::Idle);
        let took = start.elapsed();
        assert!(took >= 4 * idle - Duration::from_secs(3) && took < 4 * idle, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_tunnel_is_idle_too() {
        let mut ends = join(1024, b"", Some(Duration::from_secs(60)));
        ends.client.shutdown().await.unwrap();
        assert_eq!(ends.upstream.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(ends.end.await.unwrap(), End::Idle);
    }

    #[tokio::test]
    async fn a_side_that_takes_nothing_more_ends_the_tunnel() {
        let mut ends = join(16, b"", None);
        drop(ends.upstream);
        // Fails at some byte, since nobody reads.
        while ends.client.write_all(&[0; 64]).await.is_ok() {}
        assert_eq!(ends.end.await.unwrap(), End::Broken);
    }
}
