use std::sync::Arc;

use instant_acme::KeyAuthorization;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tidegate_sds::SecretStore;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// Longer tokens than any authority sends are refused, as are characters that base64url does not have.
const MAX_TOKEN: usize = 256;

/// Challenges that one order laid down. Dropping it closes them, so a cancelled order leaves nothing behind.
pub(crate) struct OpenChallenges {
    store: Arc<SecretStore>,
    tokens: Vec<String>,
    domains: Vec<String>,
}

impl OpenChallenges {
    pub(crate) fn new(store: Arc<SecretStore>) -> Self {
        Self { store, tokens: Vec::new(), domains: Vec::new() }
    }

    /// HTTP-01.
    pub(crate) fn answer_http(&mut self, token: &str, authorization: &KeyAuthorization) -> Result<(), Failure> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(valid) {
            return Err(Failure::authority("it sent a challenge token that is no base64url text"));
        }
        self.tokens.push(token.to_owned());
        self.store.challenges().open_http(token, authorization.as_str());
        Ok(())
    }

    /// TLS-ALPN-01: a certificate of its own that carries the digest of the authorization (RFC 8737 section 3).
    pub(crate) fn answer_tls_alpn(&mut self, domain: &str, authorization: &KeyAuthorization) -> Result<(), Failure> {
        let certificate = challenge_certificate(domain, authorization.digest().as_ref())
            .map_err(|error| Failure::internal(format!("the challenge's certificate: {error}")))?;
        self.domains.push(domain.to_owned());
        self.store.challenges().open_tls_alpn(domain, Arc::new(certificate));
        Ok(())
    }
}

impl Drop for OpenChallenges {
    fn drop(&mut self) {
        for token in &self.tokens {
            self.store.challenges().close_http(token);
        }
        for domain in &self.domains {
            self.store.challenges().close_tls_alpn(domain);
        }
    }
}

fn challenge_certificate(domain: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let key = Zeroizing::new(KeyPair::generate().map_err(|error| error.to_string())?);
    let mut params = CertificateParams::new([domain.to_owned()]).map_err(|error| error.to_string())?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&*key).map_err(|error| error.to_string())?;
    let der = Zeroizing::new(key.serialize_der());
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice()));
    let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(|error| error.to_string())?;
    Ok(CertifiedKey::new(vec![certificate.der().clone()], signing))
}
