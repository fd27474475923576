use std::io;

use bytes::{BufMut, BytesMut};
use rustls::server::{Accepted, Acceptor};
use rustls::{Error, PeerIncompatible};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::{FailedHandshake, HandshakeFailure};

/// The largest message of a handshake (RFC 8446 section 4 allows more, and nobody sends it), with its records' heads.
const MAX_BYTES: usize = 64 * 1024;
/// What is read at once: all of a usual ClientHello, and no more than rustls takes before it looks at it.
const READ: usize = 4096;
/// RFC 8737 section 6.2.
const ACME_ALPN: &[u8] = b"acme-tls/1";

/// The first message of a TLS client, understood and as it came.
pub(crate) struct Hello {
    pub(crate) accepted: Accepted,
    /// Every byte that was read.
    pub(crate) raw: BytesMut,
}

/// Alerts of RFC 8446 section 6.2 that are sent before there is a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Alert {
    DecodeError = 50,
    ProtocolVersion = 70,
    InternalError = 80,
    UnrecognizedName = 112,
}

impl Hello {
    /// Reads a ClientHello, however it is cut into records and segments; `raw` is what was read of it already, no more
    /// than 4096 bytes. Keeps at most 64 KiB. The caller limits the time.
    ///
    /// # Errors
    /// There is none, and none will come. The client has been told if TLS has a word for it.
    pub(crate) async fn read(tcp: &mut TcpStream, mut raw: BytesMut) -> Result<Self, FailedHandshake> {
        let mut acceptor = Acceptor::default();
        let mut fed = 0;
        loop {
            if fed == raw.len() {
                raw.reserve(READ);
                match tcp.read_buf(&mut (&mut raw).limit(READ)).await {
                    Ok(0) => return Err(HandshakeFailure::Closed.into()),
                    Err(error) => return Err(error.into()),
                    Ok(_) => {}
                }
            }
            if !could_be_hello(&raw) {
                refuse(tcp, Alert::DecodeError);
                return Err(HandshakeFailure::Malformed.into());
            }
            if raw.len() > MAX_BYTES {
                refuse(tcp, Alert::DecodeError);
                return Err(HandshakeFailure::TooLarge.into());
            }
            while fed < raw.len() {
                match acceptor.read_tls(&mut &raw[fed..]) {
                    Ok(read @ 1..) => fed += read,
                    // Its own bound, which is about ours.
                    Ok(0) | Err(_) => {
                        refuse(tcp, Alert::DecodeError);
                        return Err(HandshakeFailure::TooLarge.into());
                    }
                }
            }
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(Self { accepted, raw }),
                Ok(None) => {}
                Err(_) if is_outdated(&raw) => {
                    // What the library misses first is something that the old versions did not have.
                    refuse(tcp, Alert::ProtocolVersion);
                    return Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOfferedOrEnabled).into());
                }
                Err((error, mut alert)) => {
                    let mut bytes = Vec::new();
                    if alert.write_all(&mut bytes).is_ok() {
                        // The client learns it or it does not.
                        let _ = tcp.try_write(&bytes);
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// The server name, in lower case. rustls lets DNS names through and nothing else; an address counts as none.
    pub(crate) fn server_name(&self) -> Option<Box<str>> {
        self.accepted.client_hello().server_name().map(|name| name.to_ascii_lowercase().into())
    }
}

/// Whether bytes can become a record with a ClientHello: what is plainly something else need not be waited for.
fn could_be_hello(raw: &[u8]) -> bool {
    const HANDSHAKE: u8 = 22;
    raw.first().is_none_or(|kind| *kind == HANDSHAKE) && raw.get(1).is_none_or(|major| *major == 3)
}

/// Whether a ClientHello is of a version before TLS 1.2. One whose first record is too short to tell is not.
fn is_outdated(raw: &[u8]) -> bool {
    // Head of the record, head of the message, version.
    matches!(raw, [22, _, _, _, _, 1, _, _, _, 3, 0..=2, ..])
}

/// Whether a client wants nothing but to see the answer to a challenge (TLS-ALPN-01).
pub(crate) fn offers_only_acme(hello: &Hello) -> bool {
    let hello = hello.accepted.client_hello();
    let Some(mut protocols) = hello.alpn() else { return false };
    protocols.next() == Some(ACME_ALPN) && protocols.next().is_none()
}

/// Tells a client, as far as that needs no waiting, why its connection will be closed.
pub(crate) fn refuse(tcp: &TcpStream, alert: Alert) {
    const FATAL: u8 = 2;
    // A record of two bytes; its version is what all understand.
    let record = [21, 3, 3, 0, 2, FATAL, alert as u8];
    // The client learns it or it does not.
    let _: io::Result<usize> = tcp.try_write(&record);
}
