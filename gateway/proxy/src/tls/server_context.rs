use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoClientAuth, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tidegate_core::SecretName;
use tidegate_sds::{Content, Secret, SecretStore};
use tidegate_snapshot::{ClientValidation, SecretRef, ServerTls, ServerTlsMode};

use super::PeerFacts;
use super::client_verifier::ClientVerifier;
use crate::tls_parameters;

/// Tickets for later sessions that a client gets after a TLS 1.3 handshake: as many as BoringSSL sends.
const TICKETS: usize = 2;

/// How one filter chain terminates TLS. Lives as long as its configuration stays as it is, over Snapshots; costs next
/// to nothing before its first handshake.
#[derive(Debug)]
pub(crate) struct ServerContext {
    chain: Box<str>,
    settings: Arc<ServerTls>,
    built: ArcSwapOption<Built>,
    /// Held while a configuration is built, so that it is built once.
    building: Mutex<()>,
}

/// What handshakes use until a secret changes.
#[derive(Debug)]
struct Built {
    /// The store's generation under which the secrets were last seen to be these.
    generation: AtomicU64,
    /// What was found under the names; equal lists make equal configurations.
    secrets: Vec<Option<Arc<Secret>>>,
    result: Result<Arc<ServerMaterial>, Unavailable>,
}

/// What a server handshakes with.
#[derive(Debug)]
pub(crate) struct ServerMaterial {
    pub(crate) config: Arc<ServerConfig>,
    /// URIs that the server's own certificate names.
    pub(crate) uri_sans: Vec<String>,
}

/// Why a filter chain cannot terminate TLS now.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("nothing usable under {0}")]
    Certificate(SecretName),
    #[error("nothing to judge clients by under {0}")]
    Authorities(SecretName),
    #[error("{0}")]
    Unusable(String),
}

impl ServerContext {
    /// Of the filter chain called `chain`.
    pub(crate) fn new(chain: &str, settings: Arc<ServerTls>) -> Self {
        Self { chain: chain.into(), settings, built: ArcSwapOption::empty(), building: Mutex::default() }
    }

    /// Name of the filter chain.
    pub(crate) fn chain(&self) -> &str {
        &self.chain
    }

    pub(crate) fn settings(&self) -> &Arc<ServerTls> {
        &self.settings
    }

    /// What a handshake uses that begins now. While no secret changes this is one comparison.
    ///
    /// # Errors
    /// A secret is missing, or cannot be used for what it should: the handshake must fail.
    pub(crate) fn material(&self, store: &SecretStore) -> Result<Arc<ServerMaterial>, Unavailable> {
        // Read before the secrets: what changes in between is seen the next time.
        let generation = store.generation();
        if let Some(built) = &*self.built.load()
            && built.generation.load(Relaxed) == generation
        {
            return built.result.clone();
        }
        self.refresh(store, generation)
    }

    #[cold]
    fn refresh(&self, store: &SecretStore, generation: u64) -> Result<Arc<ServerMaterial>, Unavailable> {
        let _building = self.building.lock();
        let secrets = self.resolve(store);
        let earlier = self.built.load_full();
        if let Some(built) = &earlier
            && same(&built.secrets, &secrets)
        {
            built.generation.fetch_max(generation, Relaxed);
            return built.result.clone();
        }
        let result = self.build(&secrets);
        // Once for each new state, however many clients run into it.
        if let Err(error) = &result
            && earlier.is_none_or(|earlier| earlier.result.as_ref().err() != Some(error))
        {
            tracing::warn!(filter_chain = &*self.chain, %error, "TLS handshakes fail until the secret arrives");
        }
        let generation = AtomicU64::new(generation);
        self.built.store(Some(Arc::new(Built { generation, secrets, result: result.clone() })));
        result
    }

    /// What the secrets hold now, in the order of [`Self::references`].
    fn resolve(&self, store: &SecretStore) -> Vec<Option<Arc<Secret>>> {
        let find = |names: &[SecretName]| store.resolve(names).and_then(|slot| slot.current());
        let settings = &self.settings;
        let mut secrets: Vec<_> = settings.certificates.iter().map(|it| find(&it.names)).collect();
        if let Some(validation) = &settings.client_validation {
            secrets.push(validation.ca.as_ref().and_then(|ca| find(&ca.names)));
            secrets.push(validation.crl.as_ref().and_then(|crl| find(std::slice::from_ref(crl))));
        }
        secrets
    }

    /// `secrets` as [`Self::resolve`] gives them.
    fn build(&self, secrets: &[Option<Arc<Secret>>]) -> Result<Arc<ServerMaterial>, Unavailable> {
        let settings = &*self.settings;
        let (certificates, rest) = secrets.split_at(settings.certificates.len());
        let shown: Vec<_> = certificates.iter().filter_map(|secret| certified(secret.as_deref()?)).collect();
        if shown.is_empty() {
            return Err(Unavailable::Certificate(first_name(settings.certificates.first())));
        }
        let provider = tls_parameters::provider(&settings.parameters);
        let unusable = |error: rustls::Error| Unavailable::Unusable(error.to_string());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&tls_parameters::versions(&settings.parameters))
            .map_err(unusable)?;
        let builder = match (settings.mode, &settings.client_validation) {
            (ServerTlsMode::Simple, _) => builder.with_client_cert_verifier(Arc::new(NoClientAuth)),
            (mode, Some(validation)) => {
                let verifier = client_verifier(mode, validation, rest, provider)?;
                builder.with_client_cert_verifier(Arc::new(verifier))
            }
            // The compiler never makes one; to admit everybody would be the wrong guess.
            (_, None) => return Err(Unavailable::Unusable("nothing says which clients are admitted".into())),
        };
        let uri_sans = shown[0].end_entity_cert().map(|leaf| PeerFacts::of(leaf).uri_sans).unwrap_or_default();
        let mut config = builder.with_cert_resolver(Arc::new(Shown(shown)));
        config.alpn_protocols = settings.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        // The server's order counts, as in Envoy.
        config.ignore_client_order = true;
        // Sessions live in tickets only, whose key is this configuration's own and ends with it: a ticket of another
        // filter chain, or from before a change of authorities, is not readable here.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
        config.send_tls13_tickets = TICKETS;
        Ok(Arc::new(ServerMaterial { config: Arc::new(config), uri_sans }))
    }
}

fn client_verifier(
    mode: ServerTlsMode,
    validation: &ClientValidation,
    secrets: &[Option<Arc<Secret>>],
    provider: Arc<CryptoProvider>,
) -> Result<ClientVerifier, Unavailable> {
    let content = |at: usize| secrets.get(at).and_then(Option::as_deref).map(|secret| &secret.content);
    let trust = match (&validation.ca, content(0)) {
        (None, _) => None,
        (Some(_), Some(Content::Trust(trust))) => Some(trust),
        (Some(ca), _) => return Err(Unavailable::Authorities(first_name(Some(ca)))),
    };
    let crls = match (&validation.crl, content(1)) {
        (None, _) => None,
        (Some(_), Some(Content::Crl(lists))) => Some(lists),
        // Nobody can be told from those who were revoked.
        (Some(crl), _) => return Err(Unavailable::Authorities(crl.clone())),
    };
    ClientVerifier::new(mode == ServerTlsMode::Mutual, validation, trust, crls, provider)
        .map_err(|error| Unavailable::Unusable(error.to_string()))
}

fn certified(secret: &Secret) -> Option<Arc<CertifiedKey>> {
    match &secret.content {
        Content::Certificate(material) => Some(material.certified().clone()),
        _ => None,
    }
}

fn first_name(reference: Option<&SecretRef>) -> SecretName {
    reference.and_then(|it| it.names.first()).cloned().unwrap_or_else(|| SecretName::new("no name"))
}

fn same(a: &[Option<Arc<Secret>>], b: &[Option<Arc<Secret>>]) -> bool {
    let equal = |a: &Option<Arc<Secret>>, b: &Option<Arc<Secret>>| match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b))
}

/// The certificates of a server, of which a client gets one that it can verify: the first, and so ECDSA before RSA.
#[derive(Debug)]
struct Shown(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let mut fitting = self.0.iter().filter(|it| it.key.choose_scheme(schemes).is_some());
        let first = fitting.next();
        let ecdsa = |it: &&Arc<CertifiedKey>| it.key.algorithm() == rustls::SignatureAlgorithm::ECDSA;
        let best = first.into_iter().chain(fitting).find(ecdsa).or(first);
        // Whoever fits none is told so by the library, which it does only if there is one to try.
        best.or_else(|| self.0.first()).cloned()
    }
}
