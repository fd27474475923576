//! TLS clients that say what they saw.

use std::net::SocketAddr;
use std::sync::{Arc, Once};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::client::{Client, Failure, Protocol, Response};
use crate::pki::{Authority, Pair};
use crate::wait;

/// How a client goes about TLS. By default it sends no server name, accepts any certificate and offers HTTP/1.1.
#[derive(Clone)]
pub struct TlsOptions {
    server_name: Option<String>,
    roots: Option<Arc<RootCertStore>>,
    identity: Option<Pair>,
    protocols: Vec<Vec<u8>>,
    versions: &'static [&'static rustls::SupportedProtocolVersion],
    schemes: Option<Vec<SignatureScheme>>,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self {
            server_name: None,
            roots: None,
            identity: None,
            protocols: vec![b"http/1.1".to_vec()],
            versions: rustls::ALL_VERSIONS,
            schemes: None,
        }
    }
}

/// For [`TlsOptions::versions`].
pub static TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
/// For [`TlsOptions::versions`].
pub static TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The first use of cryptography in a test.
pub fn provider() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Somebody else may have been first with the same.
        let _ = aws_lc_rs::default_provider().install_default();
    });
}

impl TlsOptions {
    /// Sends `name` as SNI.
    pub fn to(name: &str) -> Self {
        Self { server_name: Some(name.into()), ..Self::default() }
    }

    /// Requires a certificate of `authority` for the server name.
    pub fn trusting(mut self, authority: &Authority) -> Self {
        let mut roots = self.roots.as_deref().cloned().unwrap_or_else(RootCertStore::empty);
        roots.add(authority.der().into()).expect("an authority");
        self.roots = Some(Arc::new(roots));
        self
    }

    pub fn identity(mut self, pair: &Pair) -> Self {
        self.identity = Some(pair.clone());
        self
    }

    pub fn http2(mut self) -> Self {
        self.protocols = vec![b"h2".to_vec()];
        self
    }

    /// Offers these by ALPN.
    pub fn offering(mut self, protocols: &[&str]) -> Self {
        self.protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        self
    }

    pub fn versions(mut self, versions: &'static [&'static rustls::SupportedProtocolVersion]) -> Self {
        self.versions = versions;
        self
    }

    /// Says that only these signatures are understood.
    pub fn schemes(mut self, schemes: &[SignatureScheme]) -> Self {
        self.schemes = Some(schemes.to_vec());
        self
    }

    /// A configuration to be used for several connections, which then may resume each other's sessions.
    pub fn config(&self) -> Arc<ClientConfig> {
        provider();
        let crypto = Arc::new(aws_lc_rs::default_provider());
        let inner = self.roots.clone().map(|roots| {
            WebPkiServerVerifier::builder_with_provider(roots, crypto.clone()).build().expect("a verifier")
        });
        let verifier = Verifier { inner, crypto: crypto.clone(), schemes: self.schemes.clone() };
        let builder = ClientConfig::builder_with_provider(crypto)
            .with_protocol_versions(self.versions)
            .expect("versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.identity {
            Some(pair) => {
                let chain =
                    CertificateDer::pem_slice_iter(pair.chain.as_bytes()).map(|der| der.expect("PEM")).collect();
                let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
                builder.with_client_auth_cert(chain, key).expect("a client's certificate")
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = self.protocols.clone();
        config.resumption = Resumption::in_memory_sessions(64);
        config.enable_sni = self.server_name.is_some();
        Arc::new(config)
    }

    /// As `config`, with nothing to resume.
    pub fn without_resumption(&self, config: &Arc<ClientConfig>) -> Arc<ClientConfig> {
        let mut config = ClientConfig::clone(config);
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    /// A finished handshake.
    ///
    /// # Errors
    /// Refused connections and failed handshakes, in words.
    pub async fn handshake(&self, address: SocketAddr) -> Result<TlsStream<TcpStream>, Failure> {
        handshake(self.config(), self.server_name.as_deref(), address).await
    }

    /// An HTTP connection over TLS.
    ///
    /// # Errors
    /// See [`Self::handshake`].
    pub async fn connect(&self, address: SocketAddr) -> Result<Client, Failure> {
        let stream = self.handshake(address).await?;
        let protocol =
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 };
        Client::over(protocol, stream).await
    }

    /// `GET` over a new connection.
    ///
    /// # Errors
    /// See [`Self::handshake`].
    pub async fn get(&self, address: SocketAddr, host: &str, target: &str) -> Result<Response, Failure> {
        let answer = async { self.connect(address).await?.get(host, target).await };
        Box::pin(wait::within("an answer over TLS", answer)).await
    }

    /// The leaf that the server shows, DER.
    ///
    /// # Errors
    /// See [`Self::handshake`].
    pub async fn leaf(&self, address: SocketAddr) -> Result<Vec<u8>, Failure> {
        let stream = self.handshake(address).await?;
        leaf(&stream).ok_or_else(|| "the server showed no certificate".into())
    }
}

/// The leaf that the other side showed.
pub fn leaf(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    Some(stream.get_ref().1.peer_certificates()?.first()?.to_vec())
}

/// A handshake with a configuration that lives longer.
///
/// # Errors
/// Refused connections and failed handshakes, in words.
pub async fn handshake(
    config: Arc<ClientConfig>,
    server_name: Option<&str>,
    address: SocketAddr,
) -> Result<TlsStream<TcpStream>, Failure> {
    let name = match server_name {
        Some(name) => ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?,
        None => ServerName::IpAddress(address.ip().into()),
    };
    let connect = async {
        let tcp = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
        let _ = tcp.set_nodelay(true);
        TlsConnector::from(config).connect(name, tcp).await.map_err(|error| format!("handshake: {error}"))
    };
    wait::within("a handshake", connect).await
}

#[derive(Debug)]
struct Verifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    crypto: Arc<CryptoProvider>,
    schemes: Option<Vec<SignatureScheme>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.inner {
            Some(inner) => inner.verify_server_cert(leaf, chain, name, ocsp, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.crypto.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.crypto.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let all = || self.crypto.signature_verification_algorithms.supported_schemes();
        self.schemes.clone().unwrap_or_else(all)
    }
}
