//! Bodies of answers, in pieces: a dump of a large configuration is tens of megabytes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Bytes of one piece.
const PIECE: usize = 64 * 1024;
/// Pieces of a [`Streamed`] body that are written ahead of its client.
const AHEAD: usize = 4;

/// Text that grows without being copied and shrinks while it is sent.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    full: VecDeque<Bytes>,
    last: Vec<u8>,
    length: u64,
    /// Given back when the body was sent, or will never be.
    permit: Option<OwnedSemaphorePermit>,
}

impl Pieces {
    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Holds `permit` as long as the body lives.
    pub(crate) fn hold(&mut self, permit: OwnedSemaphorePermit) {
        self.permit = Some(permit);
    }
}

impl From<Vec<u8>> for Pieces {
    fn from(last: Vec<u8>) -> Self {
        Self { length: last.len() as u64, last, ..Self::default() }
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.last.len() + bytes.len() > PIECE && !self.last.is_empty() {
            self.full.push_back(std::mem::take(&mut self.last).into());
        }
        if self.last.capacity() == 0 {
            // A small answer takes no whole piece; a large one takes nothing else.
            self.last.reserve(if self.full.is_empty() { 512 } else { PIECE });
        }
        self.last.extend_from_slice(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.full.pop_front() {
            Some(piece) => piece,
            None => Bytes::from(std::mem::take(&mut self.last)),
        };
        self.length -= piece.len() as u64;
        Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.length == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}

/// Text that is sent while it is written, so that only a few pieces of it exist at a time.
#[derive(Debug)]
pub(crate) struct Streamed {
    pieces: mpsc::Receiver<Bytes>,
    _permit: OwnedSemaphorePermit,
}

impl Streamed {
    /// A body that holds `permit` as long as it lives, and where its text is written to.
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> (Self, PieceWriter) {
        let (sender, pieces) = mpsc::channel(AHEAD);
        (Self { pieces, _permit: permit }, PieceWriter { sender, piece: Vec::with_capacity(PIECE), is_closed: false })
    }
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.pieces.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// The writing end of a [`Streamed`] body. Writing blocks while the client is behind, and fails once it is gone.
#[derive(Debug)]
pub(crate) struct PieceWriter {
    sender: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
    is_closed: bool,
}

impl PieceWriter {
    fn send(&mut self) {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.is_closed |= !piece.is_empty() && self.sender.blocking_send(piece.into()).is_err();
    }
}

impl fmt::Write for PieceWriter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.is_closed {
            return Err(fmt::Error);
        }
        self.piece.extend_from_slice(text.as_bytes());
        if self.piece.len() >= PIECE {
            self.send();
        }
        Ok(())
    }
}

/// What is left goes with the end.
impl Drop for PieceWriter {
    fn drop(&mut self) {
        self.send();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_was_written_comes_out_in_order() {
        let mut pieces = Pieces::default();
        let mut expected = Vec::new();
        for n in 0..40_000_u32 {
            let text = format!("{n},");
            pieces.write_all(text.as_bytes()).unwrap();
            expected.extend_from_slice(text.as_bytes());
        }
        let large = vec![b'x'; 3 * PIECE];
        pieces.write_all(&large).unwrap();
        expected.extend_from_slice(&large);
        assert_eq!(pieces.len(), expected.len() as u64);
        let mut found = Vec::new();
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut pieces).poll_frame(&mut context) {
            found.extend_from_slice(&frame.into_data().unwrap());
            assert_eq!(pieces.size_hint().exact(), Some((expected.len() - found.len()) as u64));
        }
        assert!(found == expected && pieces.is_end_stream());
    }

    #[tokio::test]
    async fn a_streamed_body_holds_a_few_pieces_and_notices_that_its_client_left() {
        use std::fmt::Write;
        let permits = std::sync::Arc::new(tokio::sync::Semaphore::new(1));
        let (mut body, mut writer) = Streamed::new(permits.clone().try_acquire_owned().unwrap());
        let worker = tokio::task::spawn_blocking(move || {
            let mut written = 0_usize;
            while writer.write_str(&"x".repeat(1000)).is_ok() {
                written += 1000;
            }
            written
        });
        let mut found = 0;
        while found < 1_000_000 {
            let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
            found += frame.unwrap().unwrap().into_data().unwrap().len();
        }
        drop(body);
        let written = worker.await.unwrap();
        assert!(written <= found + (AHEAD + 2) * (PIECE + 1000), "{written} written, {found} read");
        assert_eq!(permits.available_permits(), 1);
    }
}
