use std::fmt;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

/// The certificate that the gateway shows to a backend that asks for one.
pub(super) struct Identity(Arc<CertifiedKey>);

impl Identity {
    pub(super) fn new(certified: Arc<CertifiedKey>) -> Self {
        Self(certified)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({} certificates, key redacted)", self.0.cert.len())
    }
}

impl ResolvesClientCert for Identity {
    /// The authorities that the backend hints at are not asked: it is the backend's to refuse.
    fn resolve(&self, _authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
