//! What a Snapshot asks of secrets: which names, for which hosts, and what fails without them.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_core::{Code, Diagnostic, Host, Origin, SecretName};
use tidegate_sds::SecretStore;
use tidegate_snapshot::{ClientValidation, Cluster, FilterChain, SecretRef, ServerTrust, Snapshot, Source};

use super::orders::Answers;
use super::prospects::Prospects;

/// Missing secrets that are told one by one.
const MAX_LISTED: usize = 1000;
/// Missing secrets for which it is looked what may have been meant.
const MAX_HELPED: usize = 10;
/// How a secret stands that nobody is at work for.
pub(super) const NOWHERE: &str = "no source has it";
/// Hosts that one finding names.
const HOSTS_NAMED: usize = 3;

/// One use of a secret.
#[derive(Clone, Copy)]
enum Use<'s> {
    /// A chain shows it.
    Certificate(&'s FilterChain),
    /// A chain verifies its clients with it.
    Authorities(&'s FilterChain),
    /// The gateway shows it to a cluster, or verifies the cluster with it.
    Cluster(&'s Cluster),
}

impl Use<'_> {
    /// What does not work as long as the secret is missing.
    fn consequence(self) -> String {
        match self {
            Self::Certificate(chain) => format!("handshakes for {} fail until it arrives", hosts(chain)),
            Self::Authorities(chain) => {
                format!("no client certificate for {} can be verified until it arrives", hosts(chain))
            }
            Self::Cluster(cluster) => format!("connections to {} fail until it arrives", cluster.name),
        }
    }
}

/// `a.com, b.com and 3 more`.
fn hosts(chain: &FilterChain) -> String {
    let names: Vec<&str> = chain.server_names.iter().map(Host::as_str).take(HOSTS_NAMED).collect();
    match chain.server_names.len().checked_sub(HOSTS_NAMED).filter(|rest| *rest > 0) {
        _ if names.is_empty() => "any host".to_owned(),
        Some(rest) => format!("{} and {rest} more", names.join(", ")),
        None => names.join(", "),
    }
}

/// Calls `each` with every reference to a secret, in the order of listeners, chains and clusters.
fn for_each<'s>(snapshot: &'s Snapshot, mut each: impl FnMut(&'s SecretRef, Use<'s>)) {
    for chain in snapshot.listeners().iter().flat_map(|listener| listener.filter_chains()) {
        let Some(tls) = &chain.tls else { continue };
        for certificate in &tls.certificates {
            each(certificate, Use::Certificate(chain));
        }
        if let Some(ClientValidation { ca: Some(authorities), .. }) = &tls.client_validation {
            each(authorities, Use::Authorities(chain));
        }
    }
    for cluster in snapshot.clusters() {
        let Some(tls) = &cluster.tls else { continue };
        if let Some(certificate) = &tls.certificate {
            each(certificate, Use::Cluster(cluster));
        }
        if let ServerTrust::Authorities(authorities) = &tls.trust {
            each(authorities, Use::Cluster(cluster));
        }
    }
}

/// What the Snapshot that is to serve asks for.
#[derive(Debug, Default)]
pub(super) struct References {
    /// Everything that is named, alternatives and revocation lists too.
    pub(super) names: BTreeSet<SecretName>,
    /// None before the first Snapshot.
    pub(super) answers: Option<Answers>,
    /// References that nothing answered when it was last looked. What once holds something goes on holding it, so that
    /// only these need another look.
    unmet: Vec<Unmet>,
}

#[derive(Debug)]
struct Unmet {
    names: Vec<SecretName>,
    source: Option<Source>,
    consequence: String,
}

impl References {
    /// `names` are those of the Snapshot.
    pub(super) fn of(snapshot: &Snapshot, names: BTreeSet<SecretName>, store: &SecretStore) -> Self {
        let mut references = Self { names, answers: Some(Answers::of(snapshot)), unmet: Vec::new() };
        for_each(snapshot, |secret, usage| {
            if store.resolve(&secret.names).is_none() {
                let (names, source) = (secret.names.clone(), secret.source.clone());
                references.unmet.push(Unmet { names, source, consequence: usage.consequence() });
            }
        });
        references
    }

    /// Forgets what has come since. Whether anything had.
    pub(super) fn settle(&mut self, store: &SecretStore) -> bool {
        let before = self.unmet.len();
        self.unmet.retain(|unmet| store.resolve(&unmet.names).is_none());
        self.unmet.len() < before
    }

    /// Leaves out references of which one name is not `wanted`.
    pub(super) fn keep(&mut self, wanted: impl Fn(&SecretName) -> bool) {
        self.unmet.retain(|unmet| unmet.names.iter().all(&wanted));
    }

    /// The names that nothing is known under and that something is asked for, with how they stand.
    pub(super) fn missing(&self, prospects: &Prospects<'_>) -> BTreeMap<SecretName, String> {
        let name = |unmet: &Unmet| {
            let state = prospects.awaited(&unmet.names).unwrap_or(NOWHERE);
            Some((unmet.names.first()?.clone(), state.to_owned()))
        };
        self.unmet.iter().filter_map(name).collect()
    }

    /// A warning at each field that names what is missing.
    pub(super) fn findings(&self, prospects: &Prospects<'_>) -> Vec<Diagnostic> {
        let mut findings: Vec<_> = self.unmet.iter().take(MAX_LISTED).map(|unmet| unmet.finding(prospects)).collect();
        for (unmet, finding) in self.unmet.iter().zip(&mut findings).take(MAX_HELPED) {
            if !unmet.is_refused(prospects.store()) {
                finding.help = prospects.help(&unmet.names);
            }
        }
        if let Some(rest) = self.unmet.len().checked_sub(MAX_LISTED).filter(|rest| *rest > 0) {
            let message = format!("{rest} more secrets are missing");
            findings.push(Diagnostic::warning(Code::REFERENCE_NOT_FOUND, Origin::default(), message));
        }
        findings
    }
}

impl Unmet {
    /// Whether something was offered that cannot be used.
    fn is_refused(&self, store: &SecretStore) -> bool {
        self.names.iter().any(|name| store.status(name).is_some_and(|status| status.refused.is_some()))
    }

    fn finding(&self, prospects: &Prospects<'_>) -> Diagnostic {
        let names: Vec<_> = self.names.iter().map(SecretName::as_str).collect();
        let names = names.join(" nor ");
        let message = if self.is_refused(prospects.store()) {
            format!("what was offered as {names} cannot be used; {}", self.consequence)
        } else {
            let awaited = prospects.awaited(&self.names).map(|state| format!(" yet: {state}")).unwrap_or_default();
            format!("{} {names}{awaited}; {}", prospects.nobody_has(&self.names), self.consequence)
        };
        let origin = self.source.as_ref().map(|source| source.origin.clone()).unwrap_or_default();
        let finding = Diagnostic::warning(Code::REFERENCE_NOT_FOUND, origin, message);
        match &self.source {
            Some(source) => finding.key(source.key.clone()),
            None => finding,
        }
    }
}

/// Every name that a Snapshot asks for, alternatives and revocation lists too.
pub(super) fn names(snapshot: &Snapshot) -> BTreeSet<SecretName> {
    let mut names = BTreeSet::new();
    for_each(snapshot, |secret, _| names.extend(secret.names.iter().cloned()));
    let chains = snapshot.listeners().iter().flat_map(|listener| listener.filter_chains());
    let servers = chains.filter_map(|chain| chain.tls.as_ref()?.client_validation.as_ref()?.crl.as_ref());
    let clusters = snapshot.clusters().iter().filter_map(|cluster| cluster.tls.as_ref()?.crl.as_ref());
    names.extend(servers.chain(clusters).cloned());
    names
}

/// Which hosts each certificate is shown for, so that it can be held against them. Of several names of a reference
/// those count up to the first that holds something: a name before it takes its place as soon as it holds something.
pub(super) fn expected_hosts(snapshot: &Snapshot, store: &SecretStore) -> BTreeMap<SecretName, Vec<Host>> {
    let mut expected: BTreeMap<SecretName, BTreeSet<Host>> = BTreeMap::new();
    for_each(snapshot, |secret, usage| {
        let Use::Certificate(chain) = usage else { return };
        for name in &secret.names {
            expected.entry(name.clone()).or_default().extend(chain.server_names.iter().cloned());
            if store.get(name).is_some_and(|slot| slot.current().is_some()) {
                break;
            }
        }
    });
    expected.into_iter().map(|(name, hosts)| (name, hosts.into_iter().collect())).collect()
}
