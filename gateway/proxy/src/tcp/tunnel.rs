//! Bytes in both directions between two streams.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
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
pub(super) enum End {
    /// Both sides have said all.
    Complete,
    /// One side broke off.
    Reset,
    /// Nothing moved for too long.
    Idle,
}

/// Two streams that are joined. Holds no buffer while nothing moves.
pub(super) struct Tunnel<'a, C: ?Sized, U: ?Sized> {
    client: &'a mut C,
    upstream: &'a mut U,
    up: Direction,
    down: Direction,
    idle_timeout: Duration,
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
    pub(super) fn new(client: &'a mut C, upstream: &'a mut U, early: Vec<u8>, idle_timeout: Option<Duration>) -> Self {
        let up = Direction { read_bytes: early.len() as u64, pending: early, ..Direction::default() };
        let idle_timeout = idle_timeout.unwrap_or(NEVER).min(NEVER);
        Self { client, upstream, up, down: Direction::default(), idle_timeout }
    }

    /// Passes bytes on until the tunnel is over. Tells `report` how many were received from and sent to the client since
    /// it was last told, some seconds after they moved and at the end.
    pub(super) async fn run(mut self, mut report: impl FnMut(u64, u64)) -> End {
        let mut moved_at = Instant::now();
        let mut idle = pin!(sleep_until(moved_at + self.idle_timeout));
        let mut reporting = pin!(sleep_until(moved_at));
        let (mut seen, mut reported, mut is_due) = ((0, 0), (0, 0), false);
        let end = poll_fn(|cx| {
            let polled = self.poll(cx);
            let bytes = self.bytes();
            if bytes != seen {
                seen = bytes;
                moved_at = Instant::now();
                if !is_due {
                    is_due = true;
                    reporting.as_mut().reset(moved_at + REPORT);
                }
            }
            match polled {
                Poll::Ready(Ok(())) => return Poll::Ready(End::Complete),
                Poll::Ready(Err(_)) => return Poll::Ready(End::Reset),
                Poll::Pending => {}
            }
            if is_due && reporting.as_mut().poll(cx).is_ready() {
                is_due = false;
                report(seen.0 - reported.0, seen.1 - reported.1);
                reported = seen;
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
        .await;
        let (received, sent) = self.bytes();
        report(received - reported.0, sent - reported.1);
        end
    }

    /// Received from the client, sent to the client.
    fn bytes(&self) -> (u64, u64) {
        (self.up.read_bytes, self.down.written_bytes)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let up = self.up.poll(cx, Pin::new(&mut *self.client), Pin::new(&mut *self.upstream))?;
        let down = self.down.poll(cx, Pin::new(&mut *self.upstream), Pin::new(&mut *self.client))?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Direction {
    /// Ready when the reader has said all and the writer knows.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, mut from: Pin<&mut R>, mut to: Pin<&mut W>) -> Poll<io::Result<()>>
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
                return self.poll_flush(cx, to.as_mut());
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
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return self.poll_flush(cx, to.as_mut()),
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
