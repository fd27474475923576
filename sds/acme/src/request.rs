use std::path::PathBuf;
use std::time::Duration;

use tidegate_core::{Host, Origin, ResourceKey, SecretName};

/// More names than this fit no certificate of the well-known authorities.
const MAX_NAMES: usize = 100;

/// How a name is proved to be ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum ChallengeKind {
    /// A token under `/.well-known/acme-challenge/` on port 80 (RFC 8555 section 8.3).
    #[default]
    Http01,
    /// A certificate in a handshake for `acme-tls/1` on port 443 (RFC 8737).
    TlsAlpn01,
}

impl ChallengeKind {
    /// The name that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            ChallengeKind::Http01 => "HTTP-01",
            ChallengeKind::TlsAlpn01 => "TLS-ALPN-01",
        }
    }
}

/// One certificate that is to be kept issued.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateRequest {
    /// The slot that the certificate is offered under.
    pub name: SecretName,
    /// Exact DNS names; case and order do not matter.
    pub dns_names: Vec<String>,
    /// `https` URL of the authority's directory.
    pub directory: String,
    /// Where the authority writes to if something is wrong.
    pub email: Option<String>,
    pub challenge: ChallengeKind,
    /// PEM file with the only authorities that vouch for the directory's own TLS; else those of the machine do.
    pub roots: Option<PathBuf>,
    /// Renew so long before the end; else at two thirds of the lifetime.
    pub renew_before: Option<Duration>,
    /// The object that asks for it.
    pub key: Option<ResourceKey>,
    pub origin: Origin,
}

impl CertificateRequest {
    /// Folds case and sorts, so that equal wishes compare equal.
    pub(crate) fn normalized(mut self) -> Self {
        for name in &mut self.dns_names {
            name.make_ascii_lowercase();
        }
        self.dns_names.sort();
        self.dns_names.dedup();
        self
    }

    /// Whether it asks for the same certificate of the same account. What is only told with it may differ.
    pub(crate) fn same_order(&self, other: &Self) -> bool {
        (&self.name, &self.dns_names, &self.directory, &self.email, self.challenge, &self.roots)
            == (&other.name, &other.dns_names, &other.directory, &other.email, other.challenge, &other.roots)
    }

    /// What no authority could ever fulfil.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.dns_names.is_empty() {
            return Err("it names no DNS name".into());
        }
        if self.dns_names.len() > MAX_NAMES {
            return Err(format!("it has {} DNS names; at most {MAX_NAMES} fit", self.dns_names.len()));
        }
        for name in &self.dns_names {
            if name.contains('*') {
                let kind = self.challenge.as_str();
                return Err(format!("`{name}`: {kind} cannot prove a wildcard (RFC 8555 wants DNS-01 for it)"));
            }
            Host::parse(name).map_err(|error| error.to_string())?;
            if name.parse::<std::net::IpAddr>().is_ok() {
                return Err(format!("`{name}` is an IP address; only DNS names are ordered"));
            }
        }
        if !self.directory.starts_with("https://") {
            return Err(format!("`{}`: the directory must be an https URL", self.directory));
        }
        Ok(())
    }
}
