use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// What bytes of a client go through: its socket, and TLS if the gateway terminates it.
#[derive(Debug)]
pub(crate) enum Io {
    Tcp(TcpStream),
    /// Boxed because plaintext connections should not pay for it.
    Tls(Box<TlsIo>),
}

/// A TLS session that says goodbye when it is dropped, as far as that needs no waiting: a client can then tell an end
/// from a cut.
pub(crate) struct TlsIo(TlsStream<TcpStream>);

/// A client's connection that is handed to whoever proxies its bytes.
#[derive(Debug)]
pub(crate) struct ClientStream {
    /// What the client has said already and is part of what it sends: the ClientHello where TLS is passed through.
    pub(crate) read: BytesMut,
    pub(crate) io: Io,
}

impl Io {
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Tcp(tcp) => tcp,
            Self::Tls(tls) => tls.0.get_ref().0,
        }
    }

    /// Makes the end of this connection a reset, without the goodbye of TLS.
    pub(crate) fn reset_on_drop(&self) {
        // Fails only for sockets that are closed already.
        let _ = SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO));
    }
}

impl From<TlsStream<TcpStream>> for Io {
    fn from(stream: TlsStream<TcpStream>) -> Self {
        Self::Tls(Box::new(TlsIo(stream)))
    }
}

impl AsRawFd for Io {
    fn as_raw_fd(&self) -> RawFd {
        self.tcp().as_raw_fd()
    }
}

impl fmt::Debug for TlsIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsIo({})", self.0.get_ref().0.as_raw_fd())
    }
}

impl Drop for TlsIo {
    fn drop(&mut self) {
        let (tcp, session) = self.0.get_mut();
        if SockRef::from(&*tcp).linger().is_ok_and(|linger| linger == Some(Duration::ZERO)) {
            // It is cut, which must not look like an end.
            return;
        }
        session.send_close_notify();
        while session.wants_write() {
            if !matches!(session.write_tls(&mut Try(tcp)), Ok(1..)) {
                return;
            }
        }
    }
}

/// Writes what the socket takes at once.
struct Try<'s>(&'s TcpStream);

impl io::Write for Try<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

macro_rules! delegate {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Tcp(tcp) => {
                let $io = Pin::new(tcp);
                $call
            }
            Self::Tls(tls) => {
                let $io = Pin::new(&mut tls.0);
                $call
            }
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_read(cx, out))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, io => io.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, io => io.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_shutdown(cx))
    }
}
