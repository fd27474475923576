//! Secured connections to backends: what makes one like another, how they are opened, and how Pingora gets those of its
//! own.
//!
//! Pingora's connector cannot verify lists of names, keeps no TLS sessions and does not tell authorities apart in its
//! pools, so the connections of upgrades with TLS are opened here, too, through the door that it has for protocols of
//! one's own. It pools them under our key.
//!
//! Invariant: a request gets a connection only if all of its [`PoolKey`] is that of the connection. Our own pools compare
//! the keys; Pingora's compares 64 bits of a keyed hash, so the key itself is compared once more when a request has its
//! connection ([`check`]).

mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use async_trait::async_trait;
use pingora_core::connectors::http::custom::{Connection, Connector};
use pingora_core::protocols::tls::CustomALPN;
use pingora_core::protocols::{ALPN, Digest};
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::{Error, ErrorType, OkOrErr, Result};
use pingora_http::ResponseHeader;
use rustls::pki_types::ServerName;
use tidegate_snapshot::EndpointAddress;
use tokio::time::timeout;

use super::tls::Trust;
use super::{HostState, Socket, TransportFailure};

pub(crate) use stream::SecureStream;

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";
/// The name under which Pingora hands connections over to us. It is never sent.
const OURS: &[u8] = b"tidegate";

/// Everything in which two secured connections may differ.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct PoolKey {
    address: EndpointAddress,
    /// [`Trust::id`]: the cluster, how it is secured, and the generation of every secret in that.
    trust: u64,
    /// What is sent as SNI, or verified in its place.
    server_name: ServerName<'static>,
    http2: bool,
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum OpenError {
    Connect(io::Error),
    Secure(TransportFailure),
}

/// What a request wants its connection to be.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    key: Arc<PoolKey>,
    trust: Arc<Trust>,
    host: Arc<HostState>,
}

impl Target {
    pub(crate) fn new(host: Arc<HostState>, trust: Arc<Trust>, server_name: ServerName<'static>, http2: bool) -> Self {
        let key = PoolKey { address: host.address().clone(), trust: trust.id(), server_name, http2 };
        Self { key: Arc::new(key), trust, host }
    }

    pub(crate) fn key(&self) -> &Arc<PoolKey> {
        &self.key
    }

    /// Makes `peer` one that [`TlsConnector`] connects, as the last step of its making.
    pub(crate) fn attach(&self, peer: &mut HttpPeer, hashes: &RandomState) {
        peer.group_key = hashes.hash_one(&*self.key);
        peer.options.alpn = ALPN::Custom(CustomALPN::new(OURS.to_vec()));
        // The one place of a peer that takes anything whatever. What it is meant for, to tell a connection's users
        // where it came from, is what we do with it.
        let target = self.clone();
        peer.options.proxy_digest_user_data_hook = Some(Arc::new(move |_, _| Some(Box::new(target.clone()))));
    }

    /// Opens a connection. The caller limits the time.
    ///
    /// # Errors
    /// No connection, or one that could not be secured.
    pub(crate) async fn open(&self) -> Result<SecureStream, OpenError> {
        let socket = Socket::connect(&self.key.address).await.map_err(OpenError::Connect)?;
        let protocol = if self.key.http2 { HTTP2 } else { HTTP1 };
        let secured = self.trust.handshake(socket, self.key.server_name.clone(), &[protocol]).await;
        let tls = secured.map_err(OpenError::Secure)?;
        SecureStream::new(tls, self.key.clone(), &self.host)
            .map_err(|_| OpenError::Connect(io::ErrorKind::Other.into()))
    }

    fn of(peer: &impl Peer) -> Result<Self> {
        let hook = peer.proxy_digest_user_data_hook().or_err(ErrorType::InternalError, "a peer without a target")?;
        let (request, ()) = http::Request::new(()).into_parts();
        let data = hook(&request, &ResponseHeader::build_no_case(200, Some(0))?);
        let target = data.and_then(|data| data.downcast::<Self>().ok());
        target.map(|target| *target).or_err(ErrorType::InternalError, "a peer without a target")
    }
}

/// Whether the connection that `digest` describes is one for `key`.
///
/// # Errors
/// It is not: two keys have one hash, and the request must not be sent.
pub(crate) fn check(key: &PoolKey, digest: Option<&Digest>) -> Result<()> {
    let proxy = digest.and_then(|digest| digest.proxy_digest.as_ref());
    let data = proxy.and_then(|proxy| proxy.user_data.as_ref());
    match data.and_then(|data| data.downcast_ref::<Arc<PoolKey>>()) {
        Some(own) if **own == *key => Ok(()),
        _ => Error::e_explain(ErrorType::InternalError, "a pooled connection of another trust"),
    }
}

/// Opens the secured connections that Pingora needs, which are HTTP/1's.
pub(crate) struct TlsConnector;

#[async_trait]
impl Connector for TlsConnector {
    /// There is none: what is given to Pingora are streams.
    type Session = ();

    async fn get_http_session<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Result<(Connection<()>, bool)> {
        let target = Target::of(peer)?;
        let opening = target.open();
        let opened = match peer.total_connection_timeout() {
            Some(limit) => timeout(limit, opening)
                .await
                .map_err(|_| Error::explain(ErrorType::ConnectTimedout, "connecting to an endpoint"))?,
            None => opening.await,
        };
        match opened {
            Ok(stream) => Ok((Connection::Stream(Box::new(stream)), false)),
            Err(OpenError::Connect(error)) => {
                let kind = match error.kind() {
                    io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                    io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => ErrorType::ConnectNoRoute,
                    _ => ErrorType::ConnectError,
                };
                Err(Error::because(kind, "connecting to an endpoint", error))
            }
            Err(OpenError::Secure(failure)) => {
                Err(Error::because(ErrorType::TLSHandshakeFailure, "securing a connection", failure))
            }
        }
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, _peer: &P) -> Option<()> {
        None
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        _session: (),
        _peer: &P,
        _idle_timeout: Option<Duration>,
    ) {
    }
}
