//! [`EdgeStream`] as Tokio and Pingora see it.

use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Buf;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::{EdgeStream, Input, WRITE_BUFFER};
use crate::response_head;

impl AsyncRead for EdgeStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check()?;
        if this.swallows() {
            // The head was handed over whole: a parser that asks for more has not understood it.
            return Poll::Ready(Ok(()));
        }
        if this.connection.is_tunnel() {
            this.input = Input::Opaque;
        }
        if this.body_is_over() {
            return this.poll_closed(cx);
        }
        if !this.buffered.is_empty() {
            let mut buffered = std::mem::take(&mut this.buffered);
            let offered = buffered.len().min(out.remaining());
            let taken = this.account(&buffered[..offered])?;
            out.put_slice(&buffered[..taken]);
            buffered.advance(taken);
            if !buffered.is_empty() {
                this.buffered = buffered;
            }
            return Poll::Ready(Ok(()));
        }
        let before = out.filled().len();
        ready!(this.io_mut()?.poll_read(cx, out))?;
        let read = out.filled().len() - before;
        let taken = this.account(&out.filled()[before..])?;
        if taken < read {
            this.buffered.extend_from_slice(&out.filled()[before + taken..]);
            out.set_filled(before + taken);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for EdgeStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_write()?;
        if self.swallows() {
            return Poll::Ready(Ok(bytes.len()));
        }
        if self.output.len() + bytes.len() > WRITE_BUFFER {
            ready!(self.poll_drain(cx))?;
        }
        if self.answers && !bytes.is_empty() {
            // Pingora hands a head over in one piece.
            let status = response_head::append(bytes, &mut self.output);
            self.answers = status.is_some_and(|status| status < 200 && status != 101);
            if status.is_some() {
                return Poll::Ready(Ok(bytes.len()));
            }
        }
        if bytes.len() >= WRITE_BUFFER {
            return self.io_mut()?.poll_write(cx, bytes);
        }
        self.output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.answers
            && let Some(first) = slices.iter().find(|slice| !slice.is_empty())
        {
            return self.poll_write(cx, first);
        }
        let total = slices.iter().map(|slice| slice.len()).sum();
        if self.swallows() {
            return Poll::Ready(Ok(total));
        }
        if self.output.len() + total > WRITE_BUFFER {
            ready!(self.poll_drain(cx))?;
            if total >= WRITE_BUFFER {
                return self.io_mut()?.poll_write_vectored(cx, slices);
            }
        }
        for slice in slices {
            self.output.extend_from_slice(slice);
        }
        Poll::Ready(Ok(total))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_write()?;
        ready!(self.poll_drain(cx))?;
        // TLS may hold what the socket did not take.
        self.io_mut()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        // The serving loop decides how the connection ends; it gets the socket back.
        Poll::Ready(Ok(()))
    }
}

impl EdgeStream {
    /// Of an expired request only the answer that says so is still written.
    fn check_write(&self) -> io::Result<()> {
        if self.connection.is_answering_expiry() { Ok(()) } else { self.check() }
    }
}

#[async_trait]
impl Shutdown for EdgeStream {
    async fn shutdown(&mut self) {
        // Nobody is left to tell when it fails.
        let _ = AsyncWriteExt::shutdown(self).await;
    }
}

impl UniqueID for EdgeStream {
    fn id(&self) -> UniqueIDType {
        self.io.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }
}

impl Ssl for EdgeStream {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        None
    }
}

impl GetTimingDigest for EdgeStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for EdgeStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for EdgeStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

#[async_trait]
impl Peek for EdgeStream {}
