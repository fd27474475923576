//! Connections to a provider.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint, Uri};

use super::{ClientTls, ProviderAddress};
use crate::tls::{FilesError, client_config};

/// How long to connect may take, TLS and the start of HTTP/2 included.
const CONNECT: Duration = Duration::from_secs(10);

/// How often a silent connection is pinged, and how long the answer may take: as Istio's agent does.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    Files(#[from] FilesError),
    #[error("`{0}` is no name that a server could prove")]
    ServerName(String),
    #[error("{address}: {reason}")]
    Connect { address: String, reason: String },
    #[error("{address}: no connection within {seconds} s", seconds = CONNECT.as_secs())]
    TimedOut { address: String },
}

pub(super) async fn connect(address: &ProviderAddress, tls: &ClientTls) -> Result<Channel, ConnectError> {
    let dial = Arc::new(Dial::new(address, tls).await?);
    // The authority names nothing that the provider may go by; the connector knows where to go.
    let authority = match address {
        ProviderAddress::Unix(_) => "http://localhost".to_owned(),
        ProviderAddress::Tcp { host, port, .. } if host.contains(':') => format!("http://[{host}]:{port}"),
        ProviderAddress::Tcp { host, port, .. } => format!("http://{host}:{port}"),
    };
    let failed =
        |error: &(dyn Error + 'static)| ConnectError::Connect { address: address.to_string(), reason: chain(error) };
    let endpoint = Endpoint::from_shared(authority)
        .map_err(|error| failed(&error))?
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(16 << 10);
    let connecting = endpoint.connect_with_connector(tower::service_fn(move |_: Uri| {
        let dial = dial.clone();
        async move { dial.dial().await.map(TokioIo::new) }
    }));
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(connected) => connected.map_err(|error| failed(&error)),
        Err(_) => Err(ConnectError::TimedOut { address: address.to_string() }),
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// All that is needed to reach the provider.
struct Dial {
    address: ProviderAddress,
    tls: Option<(tokio_rustls::TlsConnector, ServerName<'static>)>,
}

impl Dial {
    async fn new(address: &ProviderAddress, tls: &ClientTls) -> Result<Self, ConnectError> {
        let connector = match address {
            ProviderAddress::Tcp { host, tls: true, .. } => {
                let identity = tls.identity.as_ref().map(|(chain, key)| (chain.as_path(), key.as_path()));
                let config = client_config(tls.authorities.as_deref(), identity).await?;
                let name = tls.server_name.as_ref().unwrap_or(host);
                let server = ServerName::try_from(name.clone()).map_err(|_| ConnectError::ServerName(name.clone()))?;
                Some((tokio_rustls::TlsConnector::from(Arc::new(config)), server))
            }
            _ => None,
        };
        Ok(Self { address: address.clone(), tls: connector })
    }

    async fn dial(&self) -> io::Result<Pin<Box<dyn Duplex>>> {
        let stream = match &self.address {
            ProviderAddress::Unix(path) => return Ok(Box::pin(UnixStream::connect(path).await?)),
            ProviderAddress::Tcp { host, port, .. } => TcpStream::connect((host.as_str(), *port)).await?,
        };
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::pin(stream)),
            Some((connector, server)) => Ok(Box::pin(connector.connect(server.clone(), stream).await?)),
        }
    }
}

/// An error with its sources: tonic's outermost one is `transport error`.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}
