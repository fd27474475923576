//! Backends over TLS, and what they saw of the gateway.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rcgen::{KeyPair, SanType, SerialNumber};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::backend::Body;
use crate::certificates::{Authority, Identity};

/// A certificate for DNS names, addresses and URIs.
pub(crate) fn leaf(authority: &Authority, names: &[&str]) -> Identity {
    numbered_leaf(authority, names, 1)
}

/// One that can be revoked by its number.
pub(crate) fn numbered_leaf(authority: &Authority, names: &[&str], serial: u64) -> Identity {
    let (uris, plain): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
    authority.issue(KeyPair::generate().unwrap(), &plain, |params| {
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.serial_number = Some(SerialNumber::from(serial));
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A server that shows `identity`, and demands certificates of `clients` if that is set.
pub(crate) fn server(identity: &Identity, clients: Option<&Authority>, alpn: &[&str]) -> ServerConfig {
    let verifier = clients.map(|clients| {
        WebPkiClientVerifier::builder_with_provider(clients.roots(), provider()).build().unwrap() as Arc<_>
    });
    server_with(identity, verifier, alpn)
}

/// A server that is content with clients that show nothing.
pub(crate) fn lenient_server(identity: &Identity, clients: &Authority, alpn: &[&str]) -> ServerConfig {
    let verifier = WebPkiClientVerifier::builder_with_provider(clients.roots(), provider());
    server_with(identity, Some(verifier.allow_unauthenticated().build().unwrap()), alpn)
}

fn server_with(identity: &Identity, verifier: Option<Arc<dyn ClientCertVerifier>>, alpn: &[&str]) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(identity.certificates(), identity.key()).unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

/// Accepts TLS connections; `then` has each whose handshake succeeded, with its number, counted from 0.
pub(crate) async fn accept<F, R>(config: ServerConfig, then: F) -> SocketAddr
where
    F: Fn(TlsStream<TcpStream>, usize) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        for number in 0.. {
            let (tcp, _) = listener.accept().await.unwrap();
            let (acceptor, then) = (acceptor.clone(), then.clone());
            tokio::spawn(async move {
                match acceptor.accept(tcp).into_fallible().await {
                    Ok(stream) => then(stream, number).await,
                    // Closing with unread bytes would reset the connection, and so overtake the alert.
                    Err((_, mut tcp)) => {
                        let _ = tokio::io::copy(&mut tcp, &mut tokio::io::sink()).await;
                    }
                }
            });
        }
    });
    address
}

/// What a backend knows of the connection that a request came on.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Counted from 0 for each backend.
    pub(crate) connection: usize,
    pub(crate) server_name: Option<String>,
    pub(crate) alpn: Option<String>,
    pub(crate) client_certificate: Option<CertificateDer<'static>>,
    pub(crate) resumed: bool,
}

impl Seen {
    pub(crate) fn of(stream: &TlsStream<TcpStream>, connection: usize) -> Self {
        let tls = stream.get_ref().1;
        Self {
            connection,
            server_name: tls.server_name().map(str::to_owned),
            alpn: tls.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
            client_certificate: tls.peer_certificates().and_then(|chain| chain.first()).cloned(),
            resumed: tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
        }
    }
}

/// A backend over TLS that speaks HTTP/1.1 and HTTP/2.
pub(crate) async fn serve<F, R>(config: ServerConfig, handler: F) -> SocketAddr
where
    F: Fn(Request<Incoming>, Seen) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    accept(config, move |stream, number| {
        let (handler, seen) = (handler.clone(), Seen::of(&stream, number));
        async move {
            let service = service_fn(move |request| {
                let answer = handler(request, seen.clone());
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let builder = Builder::new(TokioExecutor::new());
            // Clients close as they like.
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        }
    })
    .await
}
