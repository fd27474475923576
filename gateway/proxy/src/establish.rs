//! What comes before the first request of a connection: the PROXY header, the ClientHello, the choice of a filter chain
//! and the TLS handshake; all of it within one limit of time, and with a bound on how many connections are there.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, BytesMut};
use http::HeaderMap;
use rustls::ServerConfig;
use tidegate_snapshot::{ListenerProtocol, NetworkFilter};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use crate::connection::{Connection, Ends};
use crate::listener::ListenerState;
use crate::proxy_protocol::{self, Proxied, ProxyHeaderFailure};
use crate::published::Published;
use crate::shared::{Handshakes, Shared};
use crate::stream::{ClientStream, Io};
use crate::telemetry::{RequestFacts, ResponseFlags};
use crate::tls::{self, Alert, HandshakeFailure, Hello, ServerContext, TlsInfo, Unavailable};

/// All of a usual ClientHello, and no more than [`Hello::read`] takes.
const FIRST_READ: usize = 4096;

/// A connection that is ready for what its filter chain does.
pub(crate) enum Established {
    Http(ClientStream, Arc<Connection>),
    Tcp {
        client: ClientStream,
        connection: Arc<Connection>,
        /// Place of the filter chain in the listener.
        chain: usize,
    },
}

/// A connection on its way.
pub(crate) struct Arrival<'a> {
    pub(crate) ends: Ends,
    pub(crate) listener: Arc<ListenerState>,
    pub(crate) published: &'a Published,
    pub(crate) shared: &'a Arc<Shared>,
}

impl Arrival<'_> {
    /// None if the connection does not get that far; why is counted.
    pub(crate) async fn establish(mut self, mut tcp: TcpStream) -> Option<Established> {
        let protocol = self.published.listener(&self.listener.name).map(|listener| listener.protocol);
        let is_tls = protocol == Some(ListenerProtocol::Tls);
        let proxy_protocol = self.published.snapshot().mesh().proxy_protocol;
        let metrics = self.listener.metrics.clone();
        let deadline = Instant::now() + self.shared.limits.handshake_timeout;
        let mut read = BytesMut::new();
        let mut slot = None;
        if proxy_protocol || is_tls {
            // Who says nothing costs no more than its socket, and does not take the place of one that does.
            match timeout_at(deadline, first_bytes(&tcp)).await {
                Ok(Some(bytes)) => read = bytes,
                Ok(None) => return None,
                Err(_) => {
                    if proxy_protocol {
                        metrics.proxy_header_failed(ProxyHeaderFailure::Timeout);
                    } else {
                        metrics.handshake_failed(HandshakeFailure::Timeout);
                    }
                    return None;
                }
            }
            slot = Handshakes::begin(self.shared);
            if slot.is_none() {
                metrics.handshake_failed(HandshakeFailure::Overflow);
                return None;
            }
        }
        if proxy_protocol {
            let header = timeout_at(deadline, proxy_protocol::read(&mut tcp, read)).await;
            let (proxied, rest) = match header.unwrap_or(Err(ProxyHeaderFailure::Timeout)) {
                Ok(header) => header,
                Err(failure) => {
                    metrics.proxy_header_failed(failure);
                    return None;
                }
            };
            if let Proxied::From { source, destination } = proxied {
                self.ends = self.ends.proxied(source, destination);
            }
            // What waits for its first request holds no memory for it.
            read = if rest.is_empty() { BytesMut::new() } else { rest };
        }
        let established = if is_tls {
            let done = timeout_at(deadline, self.handshake(tcp, read)).await;
            done.unwrap_or(Err(HandshakeFailure::Timeout)).unwrap_or_else(|failure| {
                metrics.handshake_failed(failure);
                None
            })
        } else {
            let client = ClientStream { read, io: Io::Tcp(tcp) };
            let connection = self.connection(None, None);
            Some(match protocol {
                Some(ListenerProtocol::Tcp) => Established::Tcp { client, connection, chain: 0 },
                _ => Established::Http(client, connection),
            })
        };
        drop(slot);
        established
    }

    fn connection(self, server_name: Option<Box<str>>, tls: Option<Box<TlsInfo>>) -> Arc<Connection> {
        Arc::new(Connection::new(self.listener, self.ends, server_name, tls))
    }

    /// Chooses the filter chain and terminates TLS if it does. Gives none if a challenge was answered.
    async fn handshake(self, mut tcp: TcpStream, read: BytesMut) -> Result<Option<Established>, HandshakeFailure> {
        let hello = Hello::read(&mut tcp, read).await.inspect_err(|failure| self.log_unless_taken(*failure))?;
        let server_name = hello.server_name();
        let challenges = self.shared.secrets.challenges();
        if challenges.any()
            && tls::offers_only_acme(&hello)
            && let Some(certificate) = server_name.as_deref().and_then(|name| challenges.tls_alpn(name))
        {
            let config = tls::challenge_config(certificate).map_err(|error| HandshakeFailure::from(&error))?;
            // The authority has seen the certificate; dropping the stream says goodbye.
            drop(Io::from(complete(hello, tcp, config).await?));
            return Ok(None);
        }
        let listener = self.published.listener(&self.listener.name);
        let index = listener.and_then(|listener| listener.filter_chain_index(server_name.as_deref()));
        let found = listener.zip(index).and_then(|(listener, at)| Some((listener.filter_chains().get(at)?, at)));
        let Some((filter_chain, chain)) = found else {
            tls::refuse(&tcp, Alert::UnrecognizedName);
            self.log_no_filter_chain(server_name.as_deref());
            return Err(HandshakeFailure::NoFilterChain);
        };
        let is_tcp = matches!(filter_chain.filter, NetworkFilter::Tcp(_));
        let Some(context) = self.published.server_context(&self.listener.name, chain) else {
            if !is_tcp {
                tls::refuse(&tcp, Alert::InternalError);
                return Err(HandshakeFailure::Other);
            }
            let client = ClientStream { read: hello.raw, io: Io::Tcp(tcp) };
            let connection = self.connection(server_name, None);
            return Ok(Some(Established::Tcp { client, connection, chain }));
        };
        let (io, info) = self.terminate(hello, tcp, context).await?;
        let client = ClientStream { read: BytesMut::new(), io };
        let connection = self.connection(server_name, Some(Box::new(info)));
        Ok(Some(if is_tcp {
            Established::Tcp { client, connection, chain }
        } else {
            Established::Http(client, connection)
        }))
    }

    async fn terminate(
        &self,
        hello: Hello,
        tcp: TcpStream,
        context: &Arc<ServerContext>,
    ) -> Result<(Io, TlsInfo), HandshakeFailure> {
        let material = match context.material(&self.shared.secrets) {
            Ok(material) => material,
            Err(error) => {
                tls::refuse(&tcp, Alert::InternalError);
                return Err(match error {
                    Unavailable::Certificate(_) => HandshakeFailure::NoCertificate,
                    Unavailable::Authorities(_) => HandshakeFailure::NoAuthorities,
                    Unavailable::Unusable(_) => HandshakeFailure::Other,
                });
            }
        };
        let stream = complete(hello, tcp, material.config.clone()).await?;
        let info = TlsInfo::new(stream.get_ref().1, context.clone(), material);
        // A session can be resumed for longer than the certificate that it was begun with is valid.
        let judged = info.settings().client_validation.as_ref().is_some_and(|it| !it.accept_untrusted);
        if info.resumed && judged && info.peer.as_ref().is_some_and(|peer| peer.is_expired(SystemTime::now())) {
            return Err(HandshakeFailure::CertificateExpired);
        }
        self.listener.metrics.handshake_done(info.version, info.resumed);
        Ok((stream.into(), info))
    }

    /// What is no TLS has no server name: if no filter chain takes connections without one, Envoy logs that at the
    /// listener, and somebody who uses the wrong protocol finds it there.
    fn log_unless_taken(&self, failure: HandshakeFailure) {
        let listener = self.published.listener(&self.listener.name);
        if failure == HandshakeFailure::Malformed
            && listener.is_some_and(|listener| listener.filter_chain_index(None).is_none())
        {
            self.log_no_filter_chain(None);
        }
    }

    /// Envoy logs such connections at the listener.
    fn log_no_filter_chain(&self, server_name: Option<&str>) {
        if self.published.snapshot().mesh().disable_listener_log {
            return;
        }
        let Some(sink) = self.published.access_log() else { return };
        let headers = HeaderMap::new();
        let mut facts = RequestFacts::new(SystemTime::now(), "", "", &headers);
        facts.scheme = "";
        facts.duration = Some(Duration::ZERO);
        facts.flags = ResponseFlags::NO_ROUTE_FOUND;
        facts.response_code_details = Some("filter_chain_not_found");
        facts.downstream_local_address = Some(self.ends.local);
        facts.downstream_remote_address = Some(self.ends.peer);
        facts.downstream_direct_remote_address = Some(self.ends.direct_peer);
        facts.requested_server_name = server_name;
        facts.hostname = Some(&self.shared.hostname);
        sink.log(&facts);
    }
}

/// Waits for the first bytes of a client, and holds no memory for it before they come. None if it goes without a word,
/// as balancers do that look whether somebody listens: that is no failure.
async fn first_bytes(tcp: &TcpStream) -> Option<BytesMut> {
    loop {
        tcp.readable().await.ok()?;
        let mut bytes = BytesMut::with_capacity(FIRST_READ);
        match tcp.try_read_buf(&mut (&mut bytes).limit(FIRST_READ)) {
            Ok(1..) => return Some(bytes),
            // Readiness was a guess.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return None,
        }
    }
}

/// The rest of a handshake under `config`.
async fn complete(
    hello: Hello,
    tcp: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<TlsStream<TcpStream>, HandshakeFailure> {
    let Hello { accepted, raw } = hello;
    drop(raw);
    let handshake = StartHandshake::from_parts(accepted, tcp).into_stream(config);
    handshake.await.map_err(|error| HandshakeFailure::from(&error))
}
