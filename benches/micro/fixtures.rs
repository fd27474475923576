//! What is in place before something is measured.

mod configuration;
mod http2;
mod selection;

pub(crate) use configuration::{Configuration, Layout, access_log_format, endpoints, objects, virtual_services};
pub(crate) use http2::Http2;
pub(crate) use selection::{Selection, ServerNames, Traffic};

use http::{HeaderName, HeaderValue};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tidegate_snapshot::{HeaderOperations, HeaderValueTemplate};

/// Whether nothing is measured: `cargo test` runs everything once, so that it does not rot.
pub(crate) fn is_test() -> bool {
    !std::env::args().any(|argument| argument == "--bench")
}

/// The sizes of a sweep; in a test those that do not take long.
pub(crate) fn sizes<const COUNT: usize>(all: [usize; COUNT]) -> Vec<usize> {
    all.into_iter().filter(|size| *size <= 1_000 || !is_test()).collect()
}

/// A usual request of a browser.
pub(crate) const REQUEST: &[u8] = b"GET /api/v1/items?page=2 HTTP/1.1\r\n\
    Host: h00001.bench.test\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-US,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    X-Team: storefront\r\n\r\n";

/// What a route with header operations does to a request: removes one, sets three, one of them there already, adds one.
pub(crate) fn header_operations() -> HeaderOperations {
    let pair = |(name, value): (&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValueTemplate::Literal(HeaderValue::from_static(value)))
    };
    HeaderOperations {
        remove: [HeaderName::from_static("accept-language")].into_iter().collect(),
        set: [("x-team", "shop"), ("x-gateway", "edge"), ("x-env", "production")].into_iter().map(pair).collect(),
        add: [("x-tag", "a")].into_iter().map(pair).collect(),
    }
}

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
