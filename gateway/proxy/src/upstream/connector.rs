//! Secured connections to backends: what makes one like another, and how they are opened.
//!
//! Invariant: a request gets a connection only if all of its [`PoolKey`] is that of the connection.

mod stream;

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tidegate_snapshot::EndpointAddress;

use super::tls::Trust;
use super::{ClusterTls, HostState, Socket, TransportFailure};

pub(crate) use stream::SecureStream;

const HTTP1: &[u8] = b"http/1.1";
const HTTP2: &[u8] = b"h2";

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
    /// A connection to `host` for a request with this authority, as `tls` wants it.
    ///
    /// # Errors
    /// A secret is missing, or there is no name to verify.
    pub(crate) fn new(
        authority: &str,
        tls: &ClusterTls,
        host: &Arc<HostState>,
        http2: bool,
    ) -> Result<Self, TransportFailure> {
        let (trust, server_name) = (tls.trust()?, tls.server_name(Some(authority))?);
        let key = PoolKey { address: host.address().clone(), trust: trust.id(), server_name, http2 };
        Ok(Self { key: Arc::new(key), trust, host: host.clone() })
    }

    pub(crate) fn key(&self) -> &Arc<PoolKey> {
        &self.key
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
        Ok(SecureStream::new(tls, &self.host))
    }
}
