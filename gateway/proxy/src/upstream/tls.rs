//! TLS towards the endpoints of a cluster: whom it trusts, what it shows of itself, and the handshake.
//!
//! It owns one [`Trust`] for each cluster and generation of the secrets that the cluster names. It does not own
//! connections, which belong to whoever opens them, nor secrets, which belong to the store.
//!
//! Invariants: while no secret changes a connection costs one comparison here and no lock; everything that decides
//! whom a connection trusts or what it shows is behind the number of its trust, which is never used twice; TLS sessions
//! are resumed within one trust only.

mod failure;
mod identity;
mod roots;
mod verifier;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateRevocationListDer, DnsName, ServerName};
use smallvec::SmallVec;
use tidegate_core::SecretName;
use tidegate_sds::{Content, Secret, SecretStore};
use tidegate_snapshot::{ClientTls, ServerTrust, UpstreamServerName};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use self::identity::Identity;
use super::Socket;
use super::registry::Identities;
use crate::tls_parameters;

pub(crate) use failure::TransportFailure;
pub(crate) use roots::SystemRoots;

/// TLS sessions that a trust keeps to resume, by server name.
const SESSIONS: usize = 64;

/// What all clusters of a gateway share.
#[derive(Clone, Debug)]
pub(crate) struct TlsResources {
    pub(crate) secrets: Arc<SecretStore>,
    pub(crate) system_roots: Arc<SystemRoots>,
}

/// TLS of one cluster, in all Snapshots in which it is configured alike.
#[derive(Debug)]
pub(crate) struct ClusterTls {
    tls: Arc<ClientTls>,
    /// The host of the service: the server's name where nothing else says one.
    service_host: Box<str>,
    resources: TlsResources,
    identities: Arc<Identities>,
    trust: ArcSwapOption<Trust>,
    /// Held while a trust is made, so that one change of a secret makes one.
    making: Mutex<()>,
}

/// Everything that decides whom a connection trusts and as whom it appears.
#[derive(Debug)]
pub(crate) struct Trust {
    id: u64,
    /// The secrets were as they are here at this generation of the store, or a later one.
    generation: AtomicU64,
    secrets: Secrets,
    config: Arc<ClientConfig>,
}

/// Secrets that a trust was made of. They are compared by what they point to, which stays while it is held.
type Secrets = SmallVec<[(Role, SecretName, Arc<Secret>); 3]>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Authorities,
    RevocationLists,
    Certificate,
}

impl Trust {
    /// Never used twice by one gateway. Two connections of one trust to one address are alike if their server names
    /// and protocols are.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Secures `socket`. The caller limits the time.
    ///
    /// # Errors
    /// What went wrong, in Envoy's words.
    pub(crate) async fn handshake(
        &self,
        socket: Socket,
        server_name: ServerName<'static>,
        alpn: &[&[u8]],
    ) -> Result<TlsStream<Socket>, TransportFailure> {
        let connector = TlsConnector::from(self.config.clone());
        let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        connector.with_alpn(alpn).connect(server_name, socket).await.map_err(|error| TransportFailure::of_io(&error))
    }

    fn is_of(&self, secrets: &Secrets) -> bool {
        self.secrets.len() == secrets.len()
            && self.secrets.iter().zip(secrets).all(|(own, new)| own.1 == new.1 && Arc::ptr_eq(&own.2, &new.2))
    }
}

impl ClusterTls {
    pub(super) fn new(
        tls: Arc<ClientTls>,
        service_host: &str,
        resources: TlsResources,
        identities: Arc<Identities>,
    ) -> Self {
        if tls.trust == ServerTrust::System {
            // Now rather than in the way of the first request.
            resources.system_roots.get();
        }
        Self {
            tls,
            service_host: service_host.into(),
            resources,
            identities,
            trust: ArcSwapOption::empty(),
            making: Mutex::default(),
        }
    }

    /// Whether this was made of the same configuration.
    pub(super) fn is(&self, tls: &ClientTls, service_host: &str) -> bool {
        *self.tls == *tls && *self.service_host == *service_host
    }

    /// The trust as the secrets are now.
    ///
    /// # Errors
    /// A secret is missing, or cannot be used: no connection may be opened.
    pub(crate) fn trust(&self) -> Result<Arc<Trust>, TransportFailure> {
        // Read before the secrets: a change in between is seen again next time.
        let generation = self.resources.secrets.generation();
        let current = self.trust.load_full();
        if let Some(trust) = current.as_ref().filter(|trust| trust.generation.load(Relaxed) == generation) {
            return Ok(trust.clone());
        }
        let secrets = self.secrets()?;
        if let Some(trust) = current.filter(|trust| trust.is_of(&secrets)) {
            trust.generation.store(generation, Relaxed);
            return Ok(trust);
        }
        let _making = self.making.lock();
        // Another worker may have been faster.
        if let Some(trust) = self.trust.load_full().filter(|trust| trust.is_of(&secrets)) {
            return Ok(trust);
        }
        let config = Arc::new(self.config(&secrets)?);
        let id = self.identities.next();
        let trust = Arc::new(Trust { id, generation: generation.into(), secrets, config });
        self.trust.store(Some(trust.clone()));
        Ok(trust)
    }

    /// The name that is sent and, unless there is a list of names, verified. `host` is the Host header that goes
    /// upstream; without one, as for TCP, the service's host stands in.
    ///
    /// # Errors
    /// There is no name to verify. (With a list of names, or unverified, a name is only sent and may be missing.)
    pub(crate) fn server_name(&self, host: Option<&str>) -> Result<ServerName<'static>, TransportFailure> {
        let name = match &self.tls.server_name {
            UpstreamServerName::Fixed(name) => name.as_str(),
            UpstreamServerName::FromHost => {
                host.map_or(&*self.service_host, |host| tidegate_snapshot::host_without_port(host))
            }
        };
        let unbracketed = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        if let Ok(address) = unbracketed.parse::<IpAddr>() {
            return Ok(ServerName::IpAddress(address.into()));
        }
        match DnsName::try_from(name.trim_end_matches('.').to_ascii_lowercase()) {
            Ok(name) => Ok(ServerName::DnsName(name)),
            // An address is never sent, and the list of names does not look at it.
            Err(_) if !self.tls.subject_alt_names.is_empty() || self.tls.trust == ServerTrust::Unverified => {
                Ok(ServerName::IpAddress(IpAddr::from([0, 0, 0, 0]).into()))
            }
            Err(_) => Err(TransportFailure::NO_SERVER_NAME),
        }
    }

    fn secrets(&self) -> Result<Secrets, TransportFailure> {
        let mut secrets = Secrets::new();
        let mut take = |role, slot: Option<Arc<tidegate_sds::SecretSlot>>| {
            let found = slot.and_then(|slot| Some((slot.name().clone(), slot.current()?)));
            let (name, secret) = found.ok_or(TransportFailure::NO_SECRET)?;
            secrets.push((role, name, secret));
            Ok(())
        };
        let store = &self.resources.secrets;
        if let ServerTrust::Authorities(authorities) = &self.tls.trust {
            take(Role::Authorities, store.resolve(&authorities.names))?;
        }
        if let Some(crl) = &self.tls.crl {
            take(Role::RevocationLists, store.get(crl))?;
        }
        if let Some(certificate) = &self.tls.certificate {
            take(Role::Certificate, store.resolve(&certificate.names))?;
        }
        Ok(secrets)
    }

    fn config(&self, secrets: &Secrets) -> Result<ClientConfig, TransportFailure> {
        let unusable = |_| TransportFailure::UNUSABLE;
        let provider = tls_parameters::provider(&self.tls.parameters);
        let versions = tls_parameters::versions(&self.tls.parameters);
        let verifier = match &self.tls.trust {
            ServerTrust::Unverified => verifier::unverified(&provider),
            ServerTrust::System | ServerTrust::Authorities(_) => {
                let roots = match find(secrets, Role::Authorities) {
                    Some(Content::Trust(trust)) => trust.roots().clone(),
                    Some(_) => return Err(TransportFailure::UNUSABLE),
                    None => self.resources.system_roots.get().clone(),
                };
                let crls = revocation_lists(secrets)?;
                verifier::verified(roots, crls, &self.tls.subject_alt_names, &provider)?
            }
        };
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions);
        let builder = builder.map_err(unusable)?.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match find(secrets, Role::Certificate) {
            Some(Content::Certificate(certificate)) => {
                builder.with_client_cert_resolver(Arc::new(Identity::new(certificate.certified().clone())))
            }
            Some(_) => return Err(TransportFailure::UNUSABLE),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(config)
    }
}

fn find(secrets: &Secrets, role: Role) -> Option<&Content> {
    secrets.iter().find(|(own, ..)| *own == role).map(|(_, _, secret)| &secret.content)
}

/// Those that came with the authorities and those that are configured beside them.
fn revocation_lists(secrets: &Secrets) -> Result<Vec<CertificateRevocationListDer<'static>>, TransportFailure> {
    let mut lists = match find(secrets, Role::Authorities) {
        Some(Content::Trust(trust)) => trust.crls().to_vec(),
        _ => Vec::new(),
    };
    match find(secrets, Role::RevocationLists) {
        Some(Content::Crl(crl)) => lists.extend_from_slice(crl.crls()),
        Some(_) => return Err(TransportFailure::UNUSABLE),
        None => {}
    }
    Ok(lists)
}
