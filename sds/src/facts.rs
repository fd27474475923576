//! What a certificate says of itself.

use std::fmt;
use std::net::IpAddr;

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

use crate::Timestamp;

/// Facts of one certificate, copied out of it. Texts hold no control characters.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CertificateFacts {
    /// As in `C=CH, O=Example, CN=a.example.com`; empty if the certificate has none.
    pub subject: Box<str>,
    pub issuer: Box<str>,
    /// Hexadecimal, lower case, whole bytes without leading zero bytes, as Envoy and istioctl write it.
    pub serial: Box<str>,
    /// Subject alternative names in the certificate's order.
    pub names: Box<[SubjectName]>,
    pub validity: Validity,
    pub key: KeyKind,
    /// SHA-256 of the whole certificate.
    pub fingerprint: Fingerprint,
    /// CA:TRUE of its basic constraints.
    pub is_authority: bool,
    /// Whether it may be shown by a server: no extended key usage, or one that includes servers.
    pub is_for_servers: bool,
    /// Name of the digest in its signature, if it is one that is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weak_digest: Option<WeakDigest>,
}

/// A name that a certificate is for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectName {
    /// Lower case; may be a wildcard.
    Dns(Box<str>),
    Ip(IpAddr),
    Uri(Box<str>),
    Email(Box<str>),
}

/// When a certificate counts; both ends belong to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Validity {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// Kind and size of a public key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyKind {
    /// Size of the modulus in bits.
    Rsa(u32),
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    Ed25519,
    /// Something else, in words.
    Other(Box<str>),
}

/// A SHA-256 digest, shown in lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// Digests that no signature should be made over any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum WeakDigest {
    #[serde(rename = "MD5")]
    Md5,
    #[serde(rename = "SHA-1")]
    Sha1,
}

/// The bytes are no certificate; says why in a few words.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an X.509 certificate: {0}")]
pub struct NotACertificate(String);

impl CertificateFacts {
    /// Reads one certificate.
    ///
    /// # Errors
    /// The bytes are no certificate, or have something behind it.
    pub fn parse(der: &[u8]) -> Result<Self, NotACertificate> {
        parse(der).map(|certificate| Self::of(&certificate))
    }

    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Self {
        let names = match certificate.subject_alternative_name() {
            Ok(Some(names)) => names.value.general_names.iter().filter_map(subject_name).collect(),
            _ => Box::default(),
        };
        let usage = certificate.extended_key_usage().ok().flatten();
        Self {
            subject: name(certificate.subject()),
            issuer: name(certificate.issuer()),
            serial: serial(certificate.raw_serial()),
            names,
            validity: validity(certificate),
            key: KeyKind::of(certificate.public_key()),
            fingerprint: Fingerprint(Sha256::digest(certificate.as_raw()).into()),
            is_authority: certificate.is_ca(),
            is_for_servers: usage.is_none_or(|usage| usage.value.any || usage.value.server_auth),
            weak_digest: weak_digest(certificate),
        }
    }
}

impl Validity {
    pub fn contains(&self, now: Timestamp) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

impl KeyKind {
    pub(crate) fn of(key: &SubjectPublicKeyInfo<'_>) -> Self {
        let algorithm = &key.algorithm.algorithm;
        if *algorithm == oid_registry::OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
            return match curve {
                Some(curve) if curve == oid_registry::OID_EC_P256 => Self::EcdsaP256,
                Some(curve) if curve == oid_registry::OID_NIST_EC_P384 => Self::EcdsaP384,
                Some(curve) if curve == oid_registry::OID_NIST_EC_P521 => Self::EcdsaP521,
                Some(curve) => Self::Other(format!("ECDSA {}", curve_name(&curve.to_id_string())).into()),
                None => Self::Other("ECDSA with parameters of its own".into()),
            };
        }
        if *algorithm == oid_registry::OID_SIG_ED25519 {
            return Self::Ed25519;
        }
        match key.parsed() {
            Ok(PublicKey::RSA(rsa)) => {
                let significant = rsa.modulus.iter().skip_while(|byte| **byte == 0).count();
                Self::Rsa(u32::try_from(significant * 8).unwrap_or(u32::MAX))
            }
            Ok(PublicKey::DSA(_)) => Self::Other("DSA".into()),
            _ => Self::Other(format!("algorithm {}", algorithm.to_id_string()).into()),
        }
    }
}

/// Names of curves that turn up and cannot be used.
fn curve_name(oid: &str) -> &str {
    match oid {
        "1.3.132.0.33" => "P-224",
        "1.3.132.0.10" => "secp256k1",
        "1.2.840.10045.3.1.1" => "P-192",
        "1.3.36.3.3.2.8.1.1.7" => "brainpoolP256r1",
        "1.3.36.3.3.2.8.1.1.11" => "brainpoolP384r1",
        "1.3.36.3.3.2.8.1.1.13" => "brainpoolP512r1",
        other => other,
    }
}

/// `RSA 2048`, `ECDSA P-256`.
impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa(bits) => write!(f, "RSA {bits}"),
            Self::EcdsaP256 => f.write_str("ECDSA P-256"),
            Self::EcdsaP384 => f.write_str("ECDSA P-384"),
            Self::EcdsaP521 => f.write_str("ECDSA P-521"),
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl Serialize for KeyKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The name without its kind.
impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Uri(text) | Self::Email(text) => f.write_str(text),
            Self::Ip(address) => write!(f, "{address}"),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for WeakDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA-1",
        })
    }
}

/// The parsed form, which borrows from the bytes.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, NotACertificate> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(NotACertificate("bytes follow it".into())),
        // The library's error may quote what it read; a private key may have been put here by mistake.
        Err(_) => Err(NotACertificate("its structure is broken".into())),
    }
}

pub(crate) fn validity(certificate: &X509Certificate<'_>) -> Validity {
    let validity = certificate.validity();
    Validity {
        not_before: Timestamp::from_seconds(validity.not_before.timestamp()),
        not_after: Timestamp::from_seconds(validity.not_after.timestamp()),
    }
}

/// The digest of the signature if it is a broken one. Nobody verifies the signature of a root, so its digest is none.
pub(crate) fn weak_digest(certificate: &X509Certificate<'_>) -> Option<WeakDigest> {
    if certificate.subject().as_raw() == certificate.issuer().as_raw() {
        return None;
    }
    match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.4" => Some(WeakDigest::Md5),
        // RSA, OIW's RSA, ECDSA, DSA.
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" => Some(WeakDigest::Sha1),
        _ => None,
    }
}

fn subject_name(name: &GeneralName<'_>) -> Option<SubjectName> {
    match name {
        GeneralName::DNSName(name) => Some(SubjectName::Dns(printable(&name.to_ascii_lowercase()))),
        GeneralName::URI(uri) => Some(SubjectName::Uri(printable(uri))),
        GeneralName::RFC822Name(mail) => Some(SubjectName::Email(printable(mail))),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| SubjectName::Ip(bytes.into())),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| SubjectName::Ip(bytes.into())),
            _ => None,
        },
        _ => None,
    }
}

fn name(name: &X509Name<'_>) -> Box<str> {
    printable(&name.to_string())
}

/// Escapes what would disturb a terminal or a log.
fn printable(text: &str) -> Box<str> {
    if text.chars().any(char::is_control) { text.escape_debug().to_string().into() } else { text.into() }
}

fn serial(raw: &[u8]) -> Box<str> {
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    let significant = &raw[zeros.min(raw.len().saturating_sub(1))..];
    data_encoding::HEXLOWER.encode(significant).into()
}
