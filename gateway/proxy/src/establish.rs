//! What comes before the first request of a connection: the PROXY header, the ClientHello, the choice of a filter chain
//! and the TLS handshake; all of it within one limit of time, and with a bound on how many connections are there.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::{BufMut, BytesMut};
use http::HeaderMap;
use rustls::ServerConfig;
use tidegate_snapshot::{ListenerProtocol, NetworkFilter};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::StartHandshake;
use tokio_rustls::server::TlsStream;

use crate::client_stream::{ClientStream, Io};
use crate::connection::{Connection, Ends};
use crate::listener::ListenerState;
use crate::proxy_protocol::{self, Proxied, ProxyHeaderFailure};
use crate::published::Published;
use crate::shared::{Handshakes, Shared};
use crate::telemetry::{RequestFacts, ResponseFlags};
use crate::tls::{self, Alert, FailedHandshake, HandshakeFailure, Hello, ServerContext, TlsInfo, Unavailable};

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

/// What is known of a handshake before it is done; the rest of it may never come.
#[derive(Default)]
struct Course {
    server_name: Option<Box<str>>,
    /// Place of the filter chain in the listener, once it is chosen.
    chain: Option<usize>,
}

impl Arrival<'_> {
    /// None if the connection does not get that far; why is counted and logged.
    pub(crate) async fn establish(mut self, mut tcp: TcpStream) -> Option<Established> {
        let protocol = self.published.listener(&self.listener.name).map(|listener| listener.protocol);
        let is_tls = protocol == Some(ListenerProtocol::Tls);
        let proxy_protocol = self.published.snapshot().mesh().proxy_protocol;
        let begun = Instant::now();
        let deadline = begun + self.shared.limits.handshake_timeout;
        let mut course = Course::default();
        let mut read = BytesMut::new();
        let mut slot = None;
        if proxy_protocol || is_tls {
            // Who says nothing costs no more than its socket, and does not take the place of one that does.
            match timeout_at(deadline, first_bytes(&tcp)).await {
                Ok(Some(bytes)) => read = bytes,
                Ok(None) => return None,
                Err(_) => {
                    if proxy_protocol {
                        self.proxy_header_failed(ProxyHeaderFailure::Timeout);
                    } else {
                        self.handshake_failed(&HandshakeFailure::Timeout.into(), &course, begun);
                    }
                    return None;
                }
            }
            slot = Handshakes::begin(self.shared);
            if slot.is_none() {
                self.handshake_failed(&HandshakeFailure::Overflow.into(), &course, begun);
                return None;
            }
        }
        if let Some(slot) = slot.as_ref().filter(|_| proxy_protocol) {
            let header = slot.hurry(deadline, proxy_protocol::read(&mut tcp, read)).await;
            let (proxied, rest) = match header.unwrap_or(Err(ProxyHeaderFailure::Timeout)) {
                Ok(header) => header,
                Err(failure) => {
                    self.proxy_header_failed(failure);
                    return None;
                }
            };
            if let Proxied::From { source, destination } = proxied {
                self.ends = self.ends.proxied(source, destination);
            }
            // What waits for its first request holds no memory for it.
            read = if rest.is_empty() { BytesMut::new() } else { rest };
        }
        if let Some(slot) = slot.as_ref().filter(|_| is_tls) {
            let hello = slot.hurry(deadline, Hello::read(&mut tcp, read)).await;
            let established = match hello.unwrap_or_else(|| Err(HandshakeFailure::Timeout.into())) {
                Ok(hello) => {
                    let done = timeout_at(deadline, self.handshake(hello, tcp, &mut course)).await;
                    done.unwrap_or_else(|_| Err(HandshakeFailure::Timeout.into()))
                }
                Err(failed) => Err(failed),
            };
            return established.unwrap_or_else(|failed| {
                self.handshake_failed(&failed, &course, begun);
                None
            });
        }
        let client = ClientStream { read, io: Io::Tcp(tcp) };
        let connection = self.connection(None, None);
        Some(match protocol {
            Some(ListenerProtocol::Tcp) => Established::Tcp { client, connection, chain: 0 },
            _ => Established::Http(client, connection),
        })
    }

    fn connection(&self, server_name: Option<Box<str>>, tls: Option<Box<TlsInfo>>) -> Arc<Connection> {
        Arc::new(Connection::new(self.listener.clone(), self.ends, server_name, tls))
    }

    /// Chooses the filter chain and terminates TLS if it does. Gives none if a challenge was answered.
    async fn handshake(
        &self,
        hello: Hello,
        tcp: TcpStream,
        course: &mut Course,
    ) -> Result<Option<Established>, FailedHandshake> {
        let server_name = hello.server_name();
        course.server_name.clone_from(&server_name);
        let challenges = self.shared.secrets.challenges();
        if challenges.any()
            && tls::offers_only_acme(&hello)
            && let Some(certificate) = server_name.as_deref().and_then(|name| challenges.tls_alpn(name))
        {
            let config = tls::challenge_config(certificate)?;
            // The authority has seen the certificate; dropping the stream says goodbye.
            drop(Io::from(complete(hello, tcp, config).await?));
            return Ok(None);
        }
        let listener = self.published.listener(&self.listener.name);
        let index = listener.and_then(|listener| listener.filter_chain_index(server_name.as_deref()));
        let found = listener.zip(index).and_then(|(listener, at)| Some((listener.filter_chains().get(at)?, at)));
        let Some((filter_chain, chain)) = found else {
            tls::refuse(&tcp, Alert::UnrecognizedName);
            return Err(HandshakeFailure::NoFilterChain.into());
        };
        course.chain = Some(chain);
        let is_tcp = matches!(filter_chain.filter, NetworkFilter::Tcp(_));
        let Some(context) = self.published.server_context(&self.listener.name, chain) else {
            if !is_tcp {
                tls::refuse(&tcp, Alert::InternalError);
                return Err(HandshakeFailure::Other.into());
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
    ) -> Result<(Io, TlsInfo), FailedHandshake> {
        let material = match context.material(&self.shared.secrets) {
            Ok(material) => material,
            Err(error) => {
                tls::refuse(&tcp, Alert::InternalError);
                let reason = match error {
                    Unavailable::Certificate(_) => HandshakeFailure::NoCertificate,
                    Unavailable::Authorities(_) => HandshakeFailure::NoAuthorities,
                    Unavailable::Unusable(_) => HandshakeFailure::Other,
                };
                return Err(reason.into());
            }
        };
        let stream = complete(hello, tcp, material.config.clone()).await?;
        let info = TlsInfo::new(stream.get_ref().1, context.clone(), material);
        // A session can be resumed for longer than the certificate that it was begun with is valid.
        let judged = info.settings().client_validation.as_ref().is_some_and(|it| !it.accept_untrusted);
        if info.resumed && judged && info.peer.as_ref().is_some_and(|peer| peer.is_expired(SystemTime::now())) {
            return Err(HandshakeFailure::CertificateExpired.into());
        }
        self.listener.metrics.handshake_done(info.version, info.resumed);
        Ok((stream.into(), info))
    }

    fn proxy_header_failed(&self, failure: ProxyHeaderFailure) {
        self.listener.metrics.proxy_header_failed(failure);
        let (client, listener) = (self.ends.direct_peer, &*self.listener.name);
        tracing::debug!(%client, listener, reason = failure.as_str(), "no PROXY header");
    }

    fn handshake_failed(&self, failed: &FailedHandshake, course: &Course, begun: Instant) {
        self.log_failed_handshake(failed, course, begun);
        self.listener.metrics.handshake_failed(failed.reason);
    }

    /// Envoy logs such connections at the listener, and those of filter chains for TCP with these, too; Istio asks for
    /// the lines without a filter chain only. Who must know why a partner is turned away needs them all.
    fn log_failed_handshake(&self, failed: &FailedHandshake, course: &Course, begun: Instant) {
        let (server_name, reason) = (course.server_name.as_deref(), failed.reason.as_str());
        let (client, name) = (self.ends.peer, &*self.listener.name);
        tracing::debug!(%client, listener = name, server_name, reason, error = %failed, "TLS handshake failed");
        let listener = self.published.listener(name);
        let chain = course.chain.and_then(|at| listener?.filter_chains().get(at));
        let is_tcp = chain.is_some_and(|chain| matches!(chain.filter, NetworkFilter::Tcp(_)));
        if self.published.snapshot().mesh().disable_listener_log && !is_tcp {
            return;
        }
        let Some(sink) = self.published.access_log() else { return };
        let is_for_nobody = match failed.reason {
            HandshakeFailure::NoFilterChain => true,
            // What is no TLS has no server name. Somebody who uses the wrong protocol finds that here.
            HandshakeFailure::Malformed => {
                chain.is_none() && listener.is_some_and(|it| it.filter_chain_index(None).is_none())
            }
            _ => false,
        };
        let headers = HeaderMap::new();
        let duration = begun.elapsed();
        let now = SystemTime::now();
        let mut facts = RequestFacts::new(now.checked_sub(duration).unwrap_or(now), "", "", &headers);
        facts.scheme = "";
        facts.duration = Some(duration);
        let details = format!("tls_error:{reason}");
        if is_for_nobody {
            facts.flags = ResponseFlags::NO_ROUTE_FOUND;
            facts.response_code_details = Some("filter_chain_not_found");
        } else {
            // Empty with Envoy, whose reason is in an operator that Istio's format does not have.
            facts.connection_termination_details = Some(&details);
        }
        let transport_failure = failed.transport_failure();
        if failed.reason != HandshakeFailure::NoFilterChain {
            facts.downstream_transport_failure_reason = Some(&transport_failure);
        }
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
) -> Result<TlsStream<TcpStream>, FailedHandshake> {
    let Hello { accepted, raw } = hello;
    drop(raw);
    let handshake = StartHandshake::from_parts(accepted, tcp).into_stream(config);
    Ok(handshake.await?)
}
