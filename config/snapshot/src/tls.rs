//! TLS as it is configured: which certificate a server shows, whom it admits, how a backend is verified.
//!
//! Secrets are named here, never held: their material changes without a new Snapshot.

use std::fmt;

use serde::Serialize;
use tidegate_core::{Origin, ResourceKey, SecretName};

use crate::Source;

/// A reference to a secret. Several names are tried in order; the first that its source knows is used.
///
/// Compares by its names: where it was written changes nothing of what is served.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct SecretRef {
    /// At least one.
    pub names: Vec<SecretName>,
    /// The field that names it.
    #[serde(skip)]
    pub source: Option<Source>,
}

impl SecretRef {
    pub fn new(names: Vec<SecretName>, key: ResourceKey, origin: Origin) -> Self {
        Self { names, source: Some(Source { key, origin }) }
    }
}

impl PartialEq for SecretRef {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

impl Eq for SecretRef {}

/// How a server terminates TLS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ServerTls {
    pub mode: ServerTlsMode,
    /// One, or two of different key types of which the client's abilities choose.
    pub certificates: Vec<SecretRef>,
    /// Set unless the mode is `Simple`.
    pub client_validation: Option<ClientValidation>,
    pub parameters: TlsParameters,
    /// Protocols by ALPN, preferred first; empty if the server takes whatever comes.
    pub alpn: Vec<String>,
}

impl ServerTls {
    /// Whether a client that `earlier` admitted needs no new handshake to be served under `self`: nothing is asked of
    /// clients now, or no more than then.
    pub fn admits_clients_of(&self, earlier: &ServerTls) -> bool {
        match self.mode {
            ServerTlsMode::Simple => true,
            _ if self.client_validation != earlier.client_validation => false,
            ServerTlsMode::Mutual => earlier.mode == ServerTlsMode::Mutual,
            ServerTlsMode::OptionalMutual => earlier.mode != ServerTlsMode::Simple,
        }
    }
}

/// What a terminating server asks of its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    /// No certificate.
    Simple,
    /// A certificate that verifies.
    Mutual,
    /// A certificate that verifies, or none.
    OptionalMutual,
}

/// Which client certificates a server accepts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ClientValidation {
    /// Authorities, with their revocation lists if the secret has some. Without them, or before they have arrived, no
    /// certificate verifies, unless `accept_untrusted` or a pin says otherwise.
    pub ca: Option<SecretRef>,
    /// Revocation lists in a file (`caCrl`).
    pub crl: Option<SecretName>,
    /// One of these must be, exactly, among the names (DNS, URI, IP, mail) of the certificate; empty admits all.
    pub subject_alt_names: Vec<String>,
    /// SHA-256 of public keys; with `certificate_hashes`, one of all must fit; both empty admit all.
    pub spki_hashes: Vec<Digest256>,
    /// SHA-256 of certificates.
    pub certificate_hashes: Vec<Digest256>,
    /// `insecureSkipVerify`: any certificate is accepted.
    pub accept_untrusted: bool,
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest256(pub [u8; 32]);

impl fmt::Display for Digest256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest256({self})")
    }
}

impl Serialize for Digest256 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Versions, cipher suites and key exchanges. Empty lists mean the library's own, which are the modern ones.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct TlsParameters {
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    /// Of TLS 1.2, preferred first. TLS 1.3 has its own, which cannot be configured (as in Envoy).
    pub cipher_suites: Vec<CipherSuite>,
    /// Preferred first.
    pub groups: Vec<KeyExchangeGroup>,
}

impl Default for TlsParameters {
    fn default() -> Self {
        Self {
            min_version: TlsVersion::V1_2,
            max_version: TlsVersion::V1_3,
            cipher_suites: Vec::new(),
            groups: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub enum TlsVersion {
    #[serde(rename = "TLSv1.2")]
    V1_2,
    #[serde(rename = "TLSv1.3")]
    V1_3,
}

/// Cipher suites of TLS 1.2 that are served, by OpenSSL's names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub enum CipherSuite {
    #[serde(rename = "ECDHE-ECDSA-AES128-GCM-SHA256")]
    EcdheEcdsaAes128Gcm,
    #[serde(rename = "ECDHE-ECDSA-AES256-GCM-SHA384")]
    EcdheEcdsaAes256Gcm,
    #[serde(rename = "ECDHE-ECDSA-CHACHA20-POLY1305")]
    EcdheEcdsaChacha20,
    #[serde(rename = "ECDHE-RSA-AES128-GCM-SHA256")]
    EcdheRsaAes128Gcm,
    #[serde(rename = "ECDHE-RSA-AES256-GCM-SHA384")]
    EcdheRsaAes256Gcm,
    #[serde(rename = "ECDHE-RSA-CHACHA20-POLY1305")]
    EcdheRsaChacha20,
}

impl CipherSuite {
    /// By OpenSSL's name; none for suites that are not served.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "ECDHE-ECDSA-AES128-GCM-SHA256" => Self::EcdheEcdsaAes128Gcm,
            "ECDHE-ECDSA-AES256-GCM-SHA384" => Self::EcdheEcdsaAes256Gcm,
            "ECDHE-ECDSA-CHACHA20-POLY1305" => Self::EcdheEcdsaChacha20,
            "ECDHE-RSA-AES128-GCM-SHA256" => Self::EcdheRsaAes128Gcm,
            "ECDHE-RSA-AES256-GCM-SHA384" => Self::EcdheRsaAes256Gcm,
            "ECDHE-RSA-CHACHA20-POLY1305" => Self::EcdheRsaChacha20,
            _ => return None,
        })
    }
}

/// Key exchanges that are served, by Istio's names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub enum KeyExchangeGroup {
    #[serde(rename = "X25519")]
    X25519,
    #[serde(rename = "P-256")]
    P256,
    #[serde(rename = "P-384")]
    P384,
    #[serde(rename = "P-521")]
    P521,
    #[serde(rename = "X25519MLKEM768")]
    X25519MlKem768,
}

impl KeyExchangeGroup {
    /// By Istio's name; none for groups that are not served.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "X25519" => Self::X25519,
            "P-256" => Self::P256,
            "P-384" => Self::P384,
            "P-521" => Self::P521,
            "X25519MLKEM768" => Self::X25519MlKem768,
            _ => return None,
        })
    }
}

/// How connections to a cluster's endpoints are secured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ClientTls {
    pub trust: ServerTrust,
    /// Revocation lists in a file (`caCrl`).
    pub crl: Option<SecretName>,
    /// What the gateway shows of itself: mode MUTUAL.
    pub certificate: Option<SecretRef>,
    pub server_name: UpstreamServerName,
    /// One of these must be, exactly, among the names of the server's certificate. Empty: the certificate must be
    /// valid for the server name.
    pub subject_alt_names: Vec<String>,
    pub parameters: TlsParameters,
}

/// Whose word on a server's certificate counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum ServerTrust {
    /// The authorities that the machine trusts.
    System,
    Authorities(SecretRef),
    /// `insecureSkipVerify`: nobody's is asked.
    Unverified,
}

/// What is sent as SNI.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum UpstreamServerName {
    Fixed(String),
    /// The Host that goes upstream, without its port; none is sent for an address.
    FromHost,
}

#[cfg(test)]
mod tests {
    use tidegate_core::Kind;

    use super::*;

    fn server(mode: ServerTlsMode, ca: Option<&str>) -> ServerTls {
        ServerTls {
            mode,
            certificates: Vec::new(),
            client_validation: ca.map(|ca| ClientValidation {
                ca: Some(reference(ca, 1)),
                crl: None,
                subject_alt_names: Vec::new(),
                spki_hashes: Vec::new(),
                certificate_hashes: Vec::new(),
                accept_untrusted: false,
            }),
            parameters: TlsParameters::default(),
            alpn: Vec::new(),
        }
    }

    fn reference(name: &str, line: u32) -> SecretRef {
        let key = ResourceKey::local(Kind::Gateway, "ns", "gw");
        SecretRef::new(vec![SecretName::new(name)], key, Origin::new("gw.yaml", line, 1))
    }

    #[test]
    fn a_reference_is_its_names_wherever_it_stands() {
        assert_eq!(reference("a", 1), reference("a", 2));
        assert_ne!(reference("a", 1), reference("b", 1));
    }

    #[test]
    fn clients_are_asked_again_when_more_is_asked_of_them() {
        use ServerTlsMode::{Mutual, OptionalMutual, Simple};
        let check = |earlier: &ServerTls, now: &ServerTls, admits: bool| {
            assert_eq!(now.admits_clients_of(earlier), admits, "{:?} to {:?}", earlier.mode, now.mode);
        };
        let (simple, mutual, optional) =
            (server(Simple, None), server(Mutual, Some("a")), server(OptionalMutual, Some("a")));
        check(&simple, &simple, true);
        check(&simple, &mutual, false);
        check(&simple, &optional, false);
        check(&mutual, &simple, true);
        check(&mutual, &mutual, true);
        check(&mutual, &optional, true);
        check(&optional, &mutual, false);
        check(&optional, &optional, true);
        check(&mutual, &server(Mutual, Some("b")), false);
    }
}
