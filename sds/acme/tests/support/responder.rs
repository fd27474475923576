//! A gateway of a few lines: answers challenges as the store has them.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tidegate_sds::SecretStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Listens on loopback until it is dropped.
pub(crate) struct Responder {
    pub(crate) http: SocketAddr,
    pub(crate) tls: SocketAddr,
    _tasks: JoinSet<()>,
}

impl Responder {
    /// `http_port` of zero takes any.
    pub(crate) async fn start(store: &Arc<SecretStore>, http_port: u16) -> Self {
        let http = TcpListener::bind(("127.0.0.1", http_port)).await.unwrap();
        let tls = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addresses = (http.local_addr().unwrap(), tls.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        let (store_of_http, store_of_tls) = (store.clone(), store.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = http.accept().await {
                connections.spawn(answer_http(stream, store_of_http.clone()));
            }
        });
        tasks.spawn(async move {
            let mut config =
                rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_no_client_auth()
                    .with_cert_resolver(Arc::new(ByName(store_of_tls)));
            config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
            let acceptor = TlsAcceptor::from(Arc::new(config));
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = tls.accept().await {
                let acceptor = acceptor.clone();
                connections.spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let _ = stream.shutdown().await;
                    }
                });
            }
        });
        Self { http: addresses.0, tls: addresses.1, _tasks: tasks }
    }
}

#[derive(Debug)]
struct ByName(Arc<SecretStore>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offers: Vec<&[u8]> = hello.alpn()?.collect();
        if offers != [b"acme-tls/1"] {
            return None;
        }
        self.0.challenges().tls_alpn(&hello.server_name()?.to_ascii_lowercase())
    }
}

async fn answer_http(mut stream: TcpStream, store: Arc<SecretStore>) {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(n) => head.extend_from_slice(&chunk[..n]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let answer = path.strip_prefix("/.well-known/acme-challenge/").and_then(|token| store.challenges().http(token));
    let (status, body) = match &answer {
        Some(text) => ("200 OK", text.as_ref()),
        None => ("404 Not Found", "no such challenge"),
    };
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}
