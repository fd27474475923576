//! Secrets as they are shown: everything but keys.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::backend::timestamp;

/// A secret at run time. No field can hold a key.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SecretStatus {
    /// `kubernetes://istio-system/webapp`.
    pub name: String,
    pub content: SecretContent,
    /// `Kubernetes`, `File`, `ACME` or `SDS`; empty while no source has it.
    pub source: String,
    /// The object that it is, `Secret istio-system/webapp`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// `file:line:column`, or what the source calls the place; empty if it has none.
    pub origin: String,
    pub state: SecretState,
    /// What there is to say about it, most severe first, each a sentence for people.
    pub remarks: Vec<String>,
    /// Counts what served under the name from 1; 0 while nothing did.
    pub version: u64,
    /// When what serves came into use.
    #[serde(serialize_with = "time")]
    pub rotated: Option<SystemTime>,
    /// Offers that were refused.
    pub failures: u64,
    /// Names that clients reach it by, sorted.
    pub hosts: Vec<String>,
    /// Of a chain the leaf; of authorities all.
    pub certificates: Vec<CertificateFacts>,
    /// The certificates in PEM.
    #[serde(skip)]
    pub certificates_pem: Option<PublicBytes>,
    /// Revocation lists in PEM.
    #[serde(skip)]
    pub crl_pem: Option<PublicBytes>,
}

/// Bytes that everybody may read.
pub type PublicBytes = Arc<[u8]>;

/// What a secret is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub enum SecretContent {
    /// Nothing has come yet, so that nobody knows.
    #[default]
    Unknown,
    /// A certificate with its chain and key.
    #[serde(rename = "Cert Chain")]
    CertificateChain,
    /// Authorities, and maybe what they revoked.
    #[serde(rename = "CA")]
    Authorities,
    #[serde(rename = "CRL")]
    RevocationLists,
}

impl SecretContent {
    /// istioctl's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::CertificateChain => "Cert Chain",
            Self::Authorities => "CA",
            Self::RevocationLists => "CRL",
        }
    }
}

/// How a secret stands. Whether it has expired is a matter of its dates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SecretState {
    /// Nothing usable has come yet: handshakes that need it fail.
    #[default]
    Warming,
    /// The latest that its source has serves.
    Active,
    /// Something newer was refused; the last good serves.
    Refused,
    /// Its source no longer has it; the last good serves.
    Orphaned,
}

impl SecretState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warming => "WARMING",
            Self::Active => "ACTIVE",
            Self::Refused => "REFUSED",
            Self::Orphaned => "ORPHANED",
        }
    }
}

/// One certificate.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CertificateFacts {
    /// RFC 4514 or what comes near it.
    pub subject: String,
    pub issuer: String,
    /// Hexadecimal, lower case, as istioctl and Envoy write it.
    pub serial_number: String,
    pub subject_alt_names: Vec<AlternativeName>,
    #[serde(serialize_with = "instant")]
    pub not_before: SystemTime,
    #[serde(serialize_with = "instant")]
    pub not_after: SystemTime,
    /// Of the whole certificate; hexadecimal, lower case.
    pub sha256: String,
    /// Kind and size of its key: `ECDSA P-256`.
    pub key: String,
}

impl CertificateFacts {
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Whole days until it expires, 0 once it has: Envoy's `days_until_expiration`.
    pub fn days_left(&self, now: SystemTime) -> u64 {
        self.not_after.duration_since(now).map_or(0, |left| left.as_secs() / DAY.as_secs())
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A subject alternative name; JSON as Envoy's: `{"dns": "a.com"}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum AlternativeName {
    #[serde(rename = "dns")]
    Dns(String),
    #[serde(rename = "uri")]
    Uri(String),
    #[serde(rename = "ip_address")]
    Ip(String),
    #[serde(rename = "email")]
    Email(String),
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn time<S: Serializer>(at: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => instant(at, serializer),
        None => serializer.serialize_none(),
    }
}

fn instant<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp(*at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_never_negative() {
        let at = |days: f64| SystemTime::UNIX_EPOCH + Duration::from_secs_f64(days * 86_400.0);
        let facts = CertificateFacts {
            subject: String::new(),
            issuer: String::new(),
            serial_number: String::new(),
            subject_alt_names: Vec::new(),
            not_before: at(10.0),
            not_after: at(100.0),
            sha256: String::new(),
            key: String::new(),
        };
        let check = |now: f64, valid: bool, days: u64| {
            assert_eq!((facts.is_valid_at(at(now)), facts.days_left(at(now))), (valid, days), "day {now}");
        };
        check(9.0, false, 91);
        check(10.0, true, 90);
        check(99.5, true, 0);
        check(100.5, false, 0);
    }
}
