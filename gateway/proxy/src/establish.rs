//! What comes before the first request of a connection: the PROXY header, the ClientHello, the choice of a filter chain
//! and the TLS handshake; all of it within one limit of time, and with a bound on how many connections are there.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
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
        let Some(_slot) = Handshakes::begin(self.shared) else {
            self.listener.metrics.handshake_failed(HandshakeFailure::Overflow);
            return None;
        };
        let deadline = Instant::now() + self.shared.limits.handshake_timeout;
        let mut read = BytesMut::new();
        if self.published.snapshot().mesh().proxy_protocol {
            let header = timeout_at(deadline, proxy_protocol::read(&mut tcp)).await;
            match header.unwrap_or(Err(ProxyHeaderFailure::Timeout)) {
                Ok(None) => return None,
                Ok(Some((Proxied::Unchanged, rest))) => read = rest,
                Ok(Some((Proxied::From { source, destination }, rest))) => {
                    self.ends = self.ends.proxied(source, destination);
                    read = rest;
                }
                Err(failure) => {
                    self.listener.metrics.proxy_header_failed(failure);
                    return None;
                }
            }
        }
        let protocol = self.published.listener(&self.listener.name).map(|listener| listener.protocol);
        if protocol == Some(ListenerProtocol::Tls) {
            let metrics = self.listener.metrics.clone();
            let done = timeout_at(deadline, self.handshake(tcp, read)).await;
            return match done.unwrap_or(Err(HandshakeFailure::Timeout)) {
                Ok(established) => established,
                Err(failure) => {
                    metrics.handshake_failed(failure);
                    None
                }
            };
        }
        let client = ClientStream { read, io: Io::Tcp(tcp) };
        let connection = self.connection(None, None);
        Some(match protocol {
            Some(ListenerProtocol::Tcp) => Established::Tcp { client, connection, chain: 0 },
            _ => Established::Http(client, connection),
        })
    }

    fn connection(self, server_name: Option<Box<str>>, tls: Option<Box<TlsInfo>>) -> Arc<Connection> {
        Arc::new(Connection::new(self.listener, self.ends, server_name, tls))
    }

    /// Chooses the filter chain and terminates TLS if it does. Gives none if the client wanted nothing, or the answer to a
    /// challenge.
    async fn handshake(self, mut tcp: TcpStream, read: BytesMut) -> Result<Option<Established>, HandshakeFailure> {
        let Some(hello) = Hello::read(&mut tcp, read).await? else { return Ok(None) };
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
