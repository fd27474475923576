use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::tls_parameters;

/// A configuration that answers one challenge (RFC 8737): the certificate, the protocol, and nothing to resume.
///
/// # Errors
/// The library's defaults contradict each other; they do not.
pub(crate) fn challenge_config(certificate: Arc<CertifiedKey>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let parameters = tidegate_snapshot::TlsParameters::default();
    let mut config = ServerConfig::builder_with_provider(tls_parameters::provider(&parameters))
        .with_protocol_versions(&tls_parameters::versions(&parameters))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(certificate)));
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesServerCert for Always {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}
