//! What is in place before something is measured.

mod configuration;
mod selection;

pub(crate) use configuration::{Configuration, Layout, access_log_format, objects, virtual_services};
pub(crate) use selection::{Selection, Traffic};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

/// The first flight of a TLS 1.3 client that offers h2 and HTTP/1.1.
pub(crate) fn client_hello() -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = ServerName::try_from("h00001.bench.test").unwrap();
    let mut client = ClientConnection::new(config.into(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}
