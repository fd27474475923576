//! A server that terminates TLS and hands the bytes to a plaintext backend: what stands before most backends.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::pki::{Authority, Pair};
use crate::tls;

/// One accepted handshake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub server_name: Option<String>,
    /// The client's leaf, DER.
    pub client: Option<Vec<u8>>,
    pub protocol: Option<String>,
}

/// Runs until it is dropped.
pub struct TlsFront {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl TlsFront {
    /// Shows `pair`; requires clients to have a certificate of `clients`, if that is given.
    pub async fn start(pair: &Pair, clients: Option<&Authority>, protocols: &[&str], backend: SocketAddr) -> Self {
        tls::provider();
        let crypto = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(crypto.clone()).with_safe_default_protocol_versions();
        let builder = builder.expect("versions");
        let builder = match clients {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.der().into()).expect("an authority");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
            None => builder.with_no_client_auth(),
        };
        let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).map(|der| der.expect("PEM")).collect();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("PEM");
        let mut config = builder.with_single_cert(chain, key).expect("a pair");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a bound address");
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let log = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(forward(tcp, acceptor.clone(), backend, log.clone()));
            }
        });
        Self { address, seen, task }
    }

    /// Every handshake so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(tcp: TcpStream, acceptor: TlsAcceptor, backend: SocketAddr, log: Arc<Mutex<Vec<Seen>>>) {
    let Ok(mut stream) = acceptor.accept(tcp).await else { return };
    let connection = stream.get_ref().1;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    log.lock().push(Seen {
        server_name: connection.server_name().map(str::to_owned),
        client: connection.peer_certificates().and_then(|chain| Some(chain.first()?.to_vec())),
        protocol: connection.alpn_protocol().map(text),
    });
    let Ok(mut plain) = TcpStream::connect(backend).await else { return };
    // Either side may go first.
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
}
