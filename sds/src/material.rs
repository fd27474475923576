use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tidegate_core::SecretBytes;

/// What a slot holds.
#[derive(Debug)]
pub enum Content {
    Certificate(CertificateMaterial),
    Trust(TrustMaterial),
    Crl(RevocationLists),
}

/// A certificate with its chain and its key, ready to be shown in handshakes.
pub struct CertificateMaterial {
    certified: Arc<CertifiedKey>,
    chain_pem: SecretBytes,
    key_pem: SecretBytes,
}

/// Authorities, and the certificates that they revoked.
pub struct TrustMaterial {
    roots: Arc<RootCertStore>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    authorities_pem: SecretBytes,
    crl_pem: Option<SecretBytes>,
}

/// Revocation lists without authorities: `caCrl`.
pub struct RevocationLists {
    crls: Vec<CertificateRevocationListDer<'static>>,
}

/// Why bytes are no material.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    #[error("{what} is no PEM: {reason}")]
    NotPem { what: &'static str, reason: String },
    #[error("{what} holds no {wanted}")]
    Empty { what: &'static str, wanted: &'static str },
    #[error("the private key cannot be used: {0}")]
    BadKey(String),
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    #[error("certificate {number} cannot be used: {reason}")]
    BadCertificate { number: usize, reason: String },
    #[error("revocation list {number} cannot be used: {reason}")]
    BadCrl { number: usize, reason: String },
}

impl CertificateMaterial {
    /// Reads a chain (leaf first) and its key, both PEM.
    ///
    /// # Errors
    /// Bytes that cannot be shown in a handshake: see [`MaterialError`].
    pub fn from_pem(chain_pem: SecretBytes, key_pem: SecretBytes) -> Result<Self, MaterialError> {
        let chain = certificates(chain_pem.as_slice(), "the certificate chain")?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_slice()).map_err(|error| match error {
            rustls_pki_types::pem::Error::NoItemsFound => {
                MaterialError::Empty { what: "the private key", wanted: "private key" }
            }
            error => MaterialError::NotPem { what: "the private key", reason: error.to_string() },
        })?;
        let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|error| MaterialError::BadKey(error.to_string()))?;
        let certified = CertifiedKey::new(chain, signing);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch)) => {
                return Err(MaterialError::KeyMismatch);
            }
            Err(error) => return Err(MaterialError::BadKey(error.to_string())),
        }
        Ok(Self { certified: Arc::new(certified), chain_pem, key_pem })
    }

    /// What a handshake shows and signs with.
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// Leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    pub fn chain_pem(&self) -> &SecretBytes {
        &self.chain_pem
    }

    /// For those who are entitled to it: SDS clients.
    pub fn key_pem(&self) -> &SecretBytes {
        &self.key_pem
    }
}

impl fmt::Debug for CertificateMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateMaterial({} certificates, key redacted)", self.chain().len())
    }
}

impl TrustMaterial {
    /// Reads authorities and, if there are some, revocation lists, all PEM.
    ///
    /// # Errors
    /// Bytes that nothing can be verified with: see [`MaterialError`].
    pub fn from_pem(authorities_pem: SecretBytes, crl_pem: Option<SecretBytes>) -> Result<Self, MaterialError> {
        let mut roots = RootCertStore::empty();
        for (at, certificate) in
            certificates(authorities_pem.as_slice(), "the list of authorities")?.into_iter().enumerate()
        {
            roots
                .add(certificate)
                .map_err(|error| MaterialError::BadCertificate { number: at + 1, reason: error.to_string() })?;
        }
        let crls = crl_pem.as_ref().map(|pem| revocation_lists(pem.as_slice())).transpose()?.unwrap_or_default();
        Ok(Self { roots: Arc::new(roots), crls, authorities_pem, crl_pem })
    }

    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    pub fn crls(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.crls
    }

    pub fn authorities_pem(&self) -> &SecretBytes {
        &self.authorities_pem
    }

    pub fn crl_pem(&self) -> Option<&SecretBytes> {
        self.crl_pem.as_ref()
    }
}

impl fmt::Debug for TrustMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustMaterial({} authorities, {} revocation lists)", self.roots.len(), self.crls.len())
    }
}

impl RevocationLists {
    /// # Errors
    /// Bytes that are no revocation lists.
    pub fn from_pem(pem: &SecretBytes) -> Result<Self, MaterialError> {
        Ok(Self { crls: revocation_lists(pem.as_slice())? })
    }

    pub fn crls(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.crls
    }
}

impl fmt::Debug for RevocationLists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RevocationLists({})", self.crls.len())
    }
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| MaterialError::NotPem { what, reason: error.to_string() })?;
    if found.is_empty() { Err(MaterialError::Empty { what, wanted: "certificate" }) } else { Ok(found) }
}

fn revocation_lists(pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, MaterialError> {
    let what = "the revocation list";
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| MaterialError::NotPem { what, reason: error.to_string() })?;
    if found.is_empty() { Err(MaterialError::Empty { what, wanted: "revocation list" }) } else { Ok(found) }
}
