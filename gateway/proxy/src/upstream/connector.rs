//! Secured connections for HTTP: how they are opened, and which request may have which.
//!
//! Pingora's own connector serves plaintext. It cannot verify lists of names, keeps no TLS sessions and does not tell
//! authorities apart in its pools, so connections with TLS are opened here, through the door that it has for protocols
//! of one's own. HTTP/1 connections are given to Pingora, which pools them under our key; HTTP/2 connections stay here.
//!
//! Invariant: a request gets a connection only if all of its [`PoolKey`] is that of the connection. The pool of HTTP/2
//! compares the keys; Pingora's compares 64 bits of a keyed hash, so the key itself is compared once more when a
//! request has its connection ([`check`]).

mod pool;
mod session;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use async_trait::async_trait;
use pingora_core::connectors::http::custom::{Connection, Connector};
use pingora_core::connectors::http::v2::{H2HandshakeSettings, handshake};
use pingora_core::protocols::tls::CustomALPN;
use pingora_core::protocols::{ALPN, Digest};
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::{Error, ErrorType, OkOrErr, OrErr, Result};
use pingora_http::ResponseHeader;
use rustls::pki_types::ServerName;
use tidegate_snapshot::EndpointAddress;
use tokio::time::timeout;

use self::pool::Http2Pool;
use super::tls::Trust;
use super::{HostState, Socket, TransportFailure};

pub(crate) use session::Http2Session;
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

/// Opens and pools the secured connections of one worker.
pub(crate) struct TlsConnector {
    pool: Arc<Http2Pool>,
}

impl TlsConnector {
    /// Keeps at most `max_idle` idle HTTP/2 connections, each for `idle`.
    pub(crate) fn new(max_idle: usize, idle: Duration) -> Self {
        Self { pool: Arc::new(Http2Pool::new(max_idle, idle)) }
    }

    /// A connection, and whether it is one that was there already.
    async fn connect(&self, target: Target, peer: &impl Peer) -> Result<(Connection<Http2Session>, bool)> {
        if !target.key.http2 {
            return Ok((self.open(target, peer).await?, false));
        }
        let turn = self.pool.turn(&target.key);
        let _turn = turn.lock().await;
        if let Some((stream, lease)) = self.pool.checkout(&target.key).await {
            return Ok((Connection::Session(Http2Session::new(stream, lease)), true));
        }
        Ok((self.open(target, peer).await?, false))
    }

    async fn open(&self, target: Target, peer: &impl Peer) -> Result<Connection<Http2Session>> {
        let socket = Socket::connect(&target.key.address).await.map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                std::io::ErrorKind::NetworkUnreachable | std::io::ErrorKind::HostUnreachable => {
                    ErrorType::ConnectNoRoute
                }
                _ => ErrorType::ConnectError,
            };
            Error::because(kind, "connecting to an endpoint", error)
        })?;
        let protocol = if target.key.http2 { HTTP2 } else { HTTP1 };
        let tls = target
            .trust
            .handshake(socket, target.key.server_name.clone(), &[protocol])
            .await
            .or_err(ErrorType::TLSHandshakeFailure, "securing a connection")?;
        let stream = Box::new(SecureStream::new(tls, target.key.clone(), &target.host)?);
        if !target.key.http2 {
            return Ok(Connection::Stream(stream));
        }
        // A server that chose no protocol has not heard of ALPN; that it speaks HTTP/2 is what the configuration says.
        let options = peer.get_peer_options();
        let mut settings = H2HandshakeSettings::new();
        settings.max_streams = options.map_or(1, |options| options.max_h2_streams);
        settings.stream_window_size = options.and_then(|options| options.h2_stream_window_size);
        settings.connection_window_size = options.and_then(|options| options.h2_connection_window_size);
        let connection = handshake(stream, settings).await?;
        // The task that drives the connection must have begun: one that finds all streams dropped when it begins waits
        // for ever (h2 0.4.20).
        tokio::task::yield_now().await;
        let stream = connection.spawn_stream().await?.or_err(ErrorType::H2Error, "the backend goes away at once")?;
        let lease = self.pool.insert(target.key, connection);
        Ok(Connection::Session(Http2Session::new(stream, lease)))
    }
}

#[async_trait]
impl Connector for TlsConnector {
    type Session = Http2Session;

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        peer: &P,
    ) -> Result<(Connection<Http2Session>, bool)> {
        let target = Target::of(peer)?;
        let connecting = self.connect(target, peer);
        match peer.total_connection_timeout() {
            Some(limit) => timeout(limit, connecting)
                .await
                .map_err(|_| Error::explain(ErrorType::ConnectTimedout, "connecting to an endpoint"))?,
            None => connecting.await,
        }
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Option<Http2Session> {
        let target = Target::of(peer).ok()?;
        if !target.key.http2 {
            return None;
        }
        let (stream, lease) = self.pool.checkout(&target.key).await?;
        Some(Http2Session::new(stream, lease))
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        session: Http2Session,
        _peer: &P,
        _idle_timeout: Option<Duration>,
    ) {
        drop(session);
    }
}
