//! TLS clients that say what they were shown.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Authority, Pair, soon};

/// An HTTP/1.1 connection over TLS, kept open.
pub(crate) struct Connection {
    stream: BufReader<TlsStream<TcpStream>>,
}

pub(crate) fn config(authority: &Authority, identity: Option<&Pair>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().into()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            use rustls_pki_types::pem::PemObject as _;
            let key = rustls_pki_types::PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![pair.leaf.clone().into()], key).unwrap()
        }
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, host: &str, config: ClientConfig) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        let name = host.to_owned().try_into().unwrap();
        let stream = soon("a handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The leaf that the handshake showed.
    pub(crate) fn leaf(&self) -> Vec<u8> {
        self.stream.get_ref().get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    /// One request; gives back the status line's code and the body.
    pub(crate) async fn get(&mut self, host: &str) -> std::io::Result<(u16, String)> {
        soon("an answer", self.exchange(host)).await
    }

    async fn exchange(&mut self, host: &str) -> std::io::Result<(u16, String)> {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).await?;
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        let ended = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let code = line.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(ended)?;
        let mut length = 0;
        loop {
            line.clear();
            if self.stream.read_line(&mut line).await? == 0 {
                return Err(ended());
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await?;
        Ok((code, String::from_utf8(body).unwrap()))
    }
}
