use std::fmt;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use crate::upstream::{ConnectionGuard, HostState, Socket};

/// A secured connection to an endpoint.
pub(crate) struct SecureStream {
    tls: TlsStream<Socket>,
    _open: ConnectionGuard,
}

impl SecureStream {
    pub(super) fn new(tls: TlsStream<Socket>, host: &HostState) -> Self {
        Self { tls, _open: host.connection_opened() }
    }

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
        f.write_str("SecureStream")
    }
}

impl AsyncRead for SecureStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_read(cx, out).map_err(|error| match error.kind() {
            // The backend closed without a goodbye. An answer that ends so may be cut (RFC 9112 section 9.8); a pooled
            // connection has died.
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
