//! TLS of both sides: the server's from slots of the store, the client's from files.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_core::SecretName;
use tidegate_sds::{Content, Secret, SecretStore};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::authorization::Identity;

/// The largest file of PEM that is read.
const MAX_FILE: u64 = 1 << 20;

/// Why the server cannot shake hands now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("none of the server's certificates is there: {0}")]
    NoCertificate(String),
    #[error("none of the authorities for clients is there: {0}")]
    NoAuthorities(String),
    #[error("the authorities for clients cannot be used: {0}")]
    Authorities(#[from] rustls::server::VerifierBuilderError),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The server's certificate and whom it admits, as the store has them at each handshake.
#[derive(Debug)]
pub(crate) struct ServerIdentity {
    store: Arc<SecretStore>,
    certificate: Vec<SecretName>,
    client_authorities: Vec<SecretName>,
    /// Cuts off all connections of the server.
    kill: CancellationToken,
    built: Mutex<Option<Built>>,
    /// What was last said to prevent handshakes.
    told: Mutex<Option<String>>,
}

/// What a handshake needs.
pub(crate) struct Handshake {
    pub(crate) config: Arc<ServerConfig>,
    /// Cuts off the connection: when the server ends, and when the authorities that its client was verified with are
    /// no longer the server's. A client whose authority or certificate was revoked must not go on reading.
    pub(crate) kill: CancellationToken,
}

#[derive(Debug)]
struct Built {
    /// Of the store when this was found current.
    generation: u64,
    certificate: Arc<Secret>,
    authorities: Option<Arc<Secret>>,
    config: Arc<ServerConfig>,
    kill: CancellationToken,
}

impl Built {
    fn handshake(&self) -> Handshake {
        Handshake { config: self.config.clone(), kill: self.kill.clone() }
    }
}

impl ServerIdentity {
    pub(crate) fn new(
        store: Arc<SecretStore>,
        certificate: Vec<SecretName>,
        client_authorities: Vec<SecretName>,
        kill: CancellationToken,
    ) -> Self {
        Self { store, certificate, client_authorities, kill, built: Mutex::new(None), told: Mutex::new(None) }
    }

    /// Says what prevents handshakes, once for as long as it is the same.
    pub(crate) fn tell(&self, outcome: &Result<Handshake, IdentityError>) {
        let now = outcome.as_ref().err().map(ToString::to_string);
        let mut told = self.told.lock();
        if *told != now {
            match &now {
                Some(error) => tracing::warn!(error, "the SDS server turns TLS clients away"),
                None => tracing::info!("the SDS server takes TLS clients again"),
            }
            *told = now;
        }
    }

    /// Wakes when [`Self::handshake`] may find something else than before.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.store.subscribe()
    }

    /// For a handshake that begins now. Sessions are not resumed across a change of either secret. If other authorities
    /// than before are found, the connections from before are cut off.
    pub(crate) fn handshake(&self) -> Result<Handshake, IdentityError> {
        // Read first: what moves while the secrets are looked up is noticed the next time.
        let generation = self.store.generation();
        let mut built = self.built.lock();
        if let Some(built) = &*built
            && built.generation == generation
        {
            return Ok(built.handshake());
        }
        let authorities = if self.client_authorities.is_empty() {
            None
        } else {
            let found = self.find(&self.client_authorities, |content| matches!(content, Content::Trust(_)));
            if found.is_none()
                && let Some(earlier) = built.take()
            {
                earlier.kill.cancel();
            }
            Some(found.ok_or_else(|| IdentityError::NoAuthorities(list(&self.client_authorities)))?)
        };
        let certificate = self.find(&self.certificate, |content| matches!(content, Content::Certificate(_)));
        let certificate = certificate.ok_or_else(|| IdentityError::NoCertificate(list(&self.certificate)))?;
        let same_authorities = built.as_ref().is_some_and(|built| same(&built.authorities, &authorities));
        if let Some(built) = &mut *built
            && same_authorities
            && Arc::ptr_eq(&built.certificate, &certificate)
        {
            built.generation = generation;
            return Ok(built.handshake());
        }
        let config = Arc::new(server_config(&certificate, authorities.as_deref())?);
        let kill = match built.take() {
            Some(earlier) if same_authorities => earlier.kill,
            earlier => {
                if let Some(earlier) = earlier {
                    earlier.kill.cancel();
                }
                self.kill.child_token()
            }
        };
        Ok(built.insert(Built { generation, certificate, authorities, config, kill }).handshake())
    }

    fn find(&self, names: &[SecretName], wanted: impl Fn(&Content) -> bool) -> Option<Arc<Secret>> {
        let mut found = names.iter().filter_map(|name| self.store.get(name)?.current());
        found.find(|secret| wanted(&secret.content))
    }
}

fn same(a: &Option<Arc<Secret>>, b: &Option<Arc<Secret>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    }
}

fn list(names: &[SecretName]) -> String {
    names.iter().map(SecretName::as_str).collect::<Vec<_>>().join(", ")
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn server_config(certificate: &Secret, authorities: Option<&Secret>) -> Result<ServerConfig, IdentityError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match authorities.map(|secret| &secret.content) {
        Some(Content::Trust(trust)) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(trust.roots().clone(), provider())
                .with_crls(trust.crls().iter().cloned())
                .only_check_end_entity_revocation()
                .build()?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let Content::Certificate(material) = &certificate.content else {
        return Err(IdentityError::NoCertificate(String::new()));
    };
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(CertifiedKey::clone(material.certified())));
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The names in a client certificate that was verified.
pub(crate) fn identity_of(certificates: Option<&[CertificateDer<'_>]>) -> Identity {
    let Some(leaf) = certificates.and_then(<[_]>::first) else { return Identity::Anonymous };
    let (mut uris, mut dns) = (Vec::new(), Vec::new());
    if let Ok((_, certificate)) = X509Certificate::from_der(leaf)
        && let Ok(Some(names)) = certificate.subject_alternative_name()
    {
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                _ => {}
            }
        }
    }
    Identity::Certificate { uris, dns }
}

/// Why files do not make a client's TLS.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    #[error("cannot read {path}: {reason}")]
    Read { path: String, reason: String },
    #[error("{path} holds no usable {wanted}: {reason}")]
    Pem { path: String, wanted: &'static str, reason: String },
    #[error("the machine has no authorities to trust; name a file of them")]
    NoSystemRoots,
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// A client's TLS, read anew for each connection so that files may rotate.
pub(crate) async fn client_config(
    authorities: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<ClientConfig, FilesError> {
    let roots = match authorities {
        Some(path) => roots_of(path).await?,
        None => system_roots().await?,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let (chain_path, key_path) = (chain, key);
            let pem = read(chain_path).await?;
            let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
                .collect::<Result<_, _>>()
                .map_err(|error| unusable(chain_path, "certificate", &error))?;
            let pem = zeroize::Zeroizing::new(read(key_path).await?);
            let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unusable(key_path, "private key", &error))?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

async fn roots_of(path: &Path) -> Result<RootCertStore, FilesError> {
    let pem = read(path).await?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| unusable(path, "certificate", &error))?;
        roots.add(certificate).map_err(|error| unusable(path, "certificate", &error))?;
    }
    if roots.is_empty() { Err(unusable(path, "certificate", &"there is none")) } else { Ok(roots) }
}

async fn system_roots() -> Result<RootCertStore, FilesError> {
    // It reads many files.
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.map(|found| found.certs).unwrap_or_default());
    if roots.is_empty() { Err(FilesError::NoSystemRoots) } else { Ok(roots) }
}

async fn read(path: &Path) -> Result<Vec<u8>, FilesError> {
    let failed = |reason: String| FilesError::Read { path: path.display().to_string(), reason };
    let file = tokio::fs::File::open(path).await.map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).await.map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE { Err(failed(format!("it is larger than {MAX_FILE} bytes"))) } else { Ok(bytes) }
}

fn unusable(path: &Path, wanted: &'static str, reason: &dyn std::fmt::Display) -> FilesError {
    FilesError::Pem { path: path.display().to_string(), wanted, reason: reason.to_string() }
}
