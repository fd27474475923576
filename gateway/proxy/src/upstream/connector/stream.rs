use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use pingora_http::ResponseHeader;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::PoolKey;
use crate::upstream::{ConnectionGuard, HostState, Socket};

/// A secured connection to an endpoint, as Pingora wants its streams.
pub(crate) struct SecureStream {
    tls: TlsStream<Socket>,
    /// Carries the key of the connection to the requests on it.
    digest: Arc<ProxyDigest>,
    socket: Arc<SocketDigest>,
    http2: bool,
    _open: ConnectionGuard,
}

impl SecureStream {
    pub(super) fn new(tls: TlsStream<Socket>, key: Arc<PoolKey>, host: &HostState) -> pingora_error::Result<Self> {
        let socket = SocketDigest::from_raw_fd(tls.get_ref().0.as_raw_fd());
        let http2 = key.http2;
        // Any response will do: the digest is only a carrier.
        let digest = ProxyDigest::new(Box::new(ResponseHeader::build_no_case(200, Some(0))?), Some(Box::new(key)));
        Ok(Self { tls, digest: Arc::new(digest), socket: Arc::new(socket), http2, _open: host.connection_opened() })
    }
}

impl SecureStream {
    /// Our own address; none for Unix sockets.
    pub(crate) fn local_address(&self) -> Option<std::net::SocketAddr> {
        self.tls.get_ref().0.local_address()
    }
}

/// Says goodbye if that needs no waiting.
impl Drop for SecureStream {
    fn drop(&mut self) {
        let (socket, connection) = self.tls.get_mut();
        connection.send_close_notify();
        let mut now = Now(socket);
        while connection.wants_write() && connection.write_tls(&mut now).is_ok_and(|written| written > 0) {}
    }
}

/// Writes what can be written at once.
struct Now<'a>(&'a Socket);

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for SecureStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecureStream(http2: {})", self.http2)
    }
}

impl AsyncRead for SecureStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, out).map_err(|error| match error.kind() {
            // The backend closed without a goodbye. An answer that ends so may be cut (RFC 9112 section 9.8); a pooled
            // connection has died, which Pingora believes errors of the system only.
            io::ErrorKind::UnexpectedEof => Errno::CONNRESET.into(),
            _ => error,
        })
    }
}

impl AsyncWrite for SecureStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for SecureStream {
    async fn shutdown(&mut self) {
        // Nobody is left to tell when it fails.
        let _ = AsyncWriteExt::shutdown(&mut self.tls).await;
    }
}

impl UniqueID for SecureStream {
    /// The pool asks the system whose address a pooled connection has.
    fn id(&self) -> UniqueIDType {
        self.tls.get_ref().0.as_raw_fd()
    }
}

impl Ssl for SecureStream {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        Some(if self.http2 { ALPN::H2 } else { ALPN::H1 })
    }
}

impl GetTimingDigest for SecureStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for SecureStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        Some(self.digest.clone())
    }
}

impl GetSocketDigest for SecureStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

#[async_trait]
impl Peek for SecureStream {}
