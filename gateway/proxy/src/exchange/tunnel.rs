//! What a connection becomes when both sides have agreed to speak something else: a WebSocket.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http1_upstream::Upstream;
use crate::http1::Downstream;
use crate::request_context::RequestContext;
use crate::tcp::{Progress, Tunnel};

/// A request that was answered 101, and the connection that it goes on with.
pub(crate) struct Upgraded {
    upstream: Upstream,
    logged: Logged,
}

/// Counts and logs the request when its tunnel is over, or dropped.
struct Logged {
    context: Box<RequestContext>,
    progress: Progress,
}

impl Drop for Logged {
    fn drop(&mut self) {
        let (received, sent) = self.progress.get();
        self.context.log(self.context.response.status, received, sent);
    }
}

impl Upgraded {
    pub(super) fn new(upstream: Upstream, context: Box<RequestContext>) -> Self {
        Self { upstream, logged: Logged { context, progress: Progress::default() } }
    }

    /// Passes bytes on between `down` and the backend until both have said all. There is no limit of time: who needs one
    /// has it in the protocol inside, and TCP asks now and then whether the client is still there.
    pub(crate) async fn run(mut self, mut down: Downstream) {
        let early = down.input.split().to_vec();
        let tunnel = Tunnel::new(&mut down.io, &mut self.upstream, early, None, &self.logged.progress);
        tunnel.run(|| {}).await;
    }
}

impl AsyncRead for Upstream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = self.get_mut().poll_read(cx, out.initialize_unfilled())?;
        read.map(|read| {
            out.advance(read);
            Ok(())
        })
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_shutdown(cx)
    }
}
