//! ACME challenges that are open now: what the issuer lays down here, every listener answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use ahash::AHashMap;
use parking_lot::RwLock;
use rustls::sign::CertifiedKey;

/// Answers of HTTP-01 (RFC 8555 section 8.3) and TLS-ALPN-01 (RFC 8737). Bounded by the orders that the issuer opens.
#[derive(Debug, Default)]
pub struct Challenges {
    /// Open challenges of both kinds, so that nobody takes a lock while there are none.
    open: AtomicUsize,
    tokens: RwLock<AHashMap<String, Arc<str>>>,
    certificates: RwLock<AHashMap<String, Arc<CertifiedKey>>>,
}

impl Challenges {
    /// `GET /.well-known/acme-challenge/<token>` is answered with `key_authorization`.
    pub fn open_http(&self, token: &str, key_authorization: &str) {
        let mut tokens = self.tokens.write();
        if tokens.insert(token.to_owned(), key_authorization.into()).is_none() {
            self.open.fetch_add(1, Relaxed);
        }
    }

    pub fn close_http(&self, token: &str) {
        if self.tokens.write().remove(token).is_some() {
            self.open.fetch_sub(1, Relaxed);
        }
    }

    /// A handshake for `domain` (lower case) that offers `acme-tls/1` and nothing else is answered with `certificate`.
    pub fn open_tls_alpn(&self, domain: &str, certificate: Arc<CertifiedKey>) {
        if self.certificates.write().insert(domain.to_owned(), certificate).is_none() {
            self.open.fetch_add(1, Relaxed);
        }
    }

    pub fn close_tls_alpn(&self, domain: &str) {
        if self.certificates.write().remove(domain).is_some() {
            self.open.fetch_sub(1, Relaxed);
        }
    }

    /// Whether any challenge is open: an atomic read.
    pub fn any(&self) -> bool {
        self.open.load(Relaxed) > 0
    }

    /// The key authorization for a token.
    pub fn http(&self, token: &str) -> Option<Arc<str>> {
        self.tokens.read().get(token).cloned()
    }

    /// The challenge certificate for a server name (lower case).
    pub fn tls_alpn(&self, domain: &str) -> Option<Arc<CertifiedKey>> {
        self.certificates.read().get(domain).cloned()
    }
}
