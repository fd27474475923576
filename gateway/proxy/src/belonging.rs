//! Whether a request may be served on the connection that it came in on.

use tidegate_snapshot::{FilterChain, Listener, ListenerProtocol};

use crate::tls::TlsInfo;

/// Why a request is answered 421.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Misdirected {
    /// It is another filter chain's; requests for this connection's own may follow.
    Request,
    /// The connection was accepted under terms that are no longer the listener's: nothing may be served on it.
    Connection,
}

/// The filter chain that serves a request for `authority` on a connection with `tls`, in the present configuration.
///
/// With TLS that is the connection's own chain or none: what a chain asks of its clients was asked in the handshake, and
/// a client that could choose another chain afterwards would get around it.
///
/// # Errors
/// The request is answered 421.
pub(crate) fn filter_chain<'l>(
    listener: &'l Listener,
    tls: Option<&TlsInfo>,
    authority: &str,
) -> Result<&'l FilterChain, Misdirected> {
    match (tls, listener.protocol) {
        (None, ListenerProtocol::Http) => {
            listener.filter_chains().first().map(AsRef::as_ref).ok_or(Misdirected::Connection)
        }
        (Some(tls), ListenerProtocol::Tls) => {
            let chain = listener.chain_of_request(tls.chain(), authority).ok_or(Misdirected::Request)?;
            let present = chain.tls.as_deref().ok_or(Misdirected::Connection)?;
            let admitted = std::ptr::eq(present, tls.settings()) || present.admits_clients_of(tls.settings());
            if admitted { Ok(chain) } else { Err(Misdirected::Connection) }
        }
        // The port has changed its protocol under the connection.
        _ => Err(Misdirected::Connection),
    }
}
