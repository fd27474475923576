//! What can be wrong with material: errors that make it useless, flaws that make it worse than other material.
//!
//! No text of this module ever quotes bytes that were offered: a key may stand where a certificate belongs.

use std::fmt;

use tidegate_core::Host;

use crate::{KeyKind, Timestamp, WeakDigest};

/// A part of an offer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    Chain,
    Key,
    Authorities,
    RevocationLists,
    OcspStaple,
    /// The offer as such.
    Whole,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chain => "the certificate chain",
            Self::Key => "the private key",
            Self::Authorities => "the list of authorities",
            Self::RevocationLists => "the revocation list",
            Self::OcspStaple => "the OCSP staple",
            Self::Whole => "the secret",
        })
    }
}

/// What bytes are that are not the PEM that was expected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    Nothing,
    /// Text or bytes without a section of PEM.
    NoSection,
    Der,
    Pkcs12,
    Utf16,
    /// PEM that was made base64 once more than its place asks.
    EncodedTwice,
    Certificate,
    PrivateKey,
    EncryptedKey,
    PublicKey,
    CertificateRequest,
    RevocationList,
    OtherSection,
    /// A section without its end.
    Unterminated,
    /// A section with a line that is no base64.
    BrokenBase64,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "it is empty",
            Self::NoSection => "it has no line `-----BEGIN ...-----`",
            Self::Der => "it is binary (DER)",
            Self::Pkcs12 => "it is a PKCS#12 or Java key store",
            Self::Utf16 => "it is UTF-16 text",
            Self::EncodedTwice => "it is base64 of a PEM text",
            Self::Certificate => "it is a certificate",
            Self::PrivateKey => "it is a private key",
            Self::EncryptedKey => "it is encrypted",
            Self::PublicKey => "it is a public key",
            Self::CertificateRequest => "it is a certificate signing request",
            Self::RevocationList => "it is a revocation list",
            Self::OtherSection => "its PEM sections are of other kinds",
            Self::Unterminated => "a section has no end: it is cut off",
            Self::BrokenBase64 => "a section is no base64: it is damaged",
        })
    }
}

/// Why bytes are no material. Such an offer is never taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MaterialError {
    #[error("{part} has {size} bytes; more than {limit} are not read")]
    TooLarge { part: Part, size: usize, limit: usize },
    #[error("{part} cannot be used: {found}")]
    NotPem { part: Part, found: Found },
    #[error("the private key cannot be used: {0}")]
    BadKey(String),
    #[error("the key of the certificate is {0}, which cannot be used")]
    UnsupportedKey(KeyKind),
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    #[error("certificate {number} of {part} cannot be used: {reason}")]
    BadCertificate { part: Part, number: usize, reason: String },
    #[error("revocation list {number} cannot be used: {reason}")]
    BadCrl { number: usize, reason: String },
    /// The source could not get at the material; in its words.
    #[error("{0}")]
    Source(String),
    #[error("it holds {offered}, and {serving} serves under this name")]
    OtherContent { offered: &'static str, serving: &'static str },
    #[error("a handshake with it failed: {0}")]
    Unproven(String),
}

impl MaterialError {
    /// Where the error is.
    pub fn part(&self) -> Part {
        match self {
            Self::TooLarge { part, .. } | Self::NotPem { part, .. } | Self::BadCertificate { part, .. } => *part,
            Self::BadKey(_) | Self::KeyMismatch => Part::Key,
            Self::UnsupportedKey(_) => Part::Chain,
            Self::BadCrl { .. } => Part::RevocationLists,
            Self::Source(_) | Self::OtherContent { .. } | Self::Unproven(_) => Part::Whole,
        }
    }

    /// How to mend it, if there is something to say beyond the error.
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::NotPem { part, found } => return help_with(*part, *found),
            Self::KeyMismatch => {
                "`openssl x509 -noout -pubkey` of the certificate and `openssl pkey -pubout` of the key must print the \
                 same; both come from the same request"
            }
            Self::BadKey(_) | Self::UnsupportedKey(_) => {
                "keys that can be used: RSA of 2048 to 8192 bits, ECDSA on P-256, P-384 or P-521, Ed25519"
            }
            Self::BadCertificate { .. } => "`openssl x509 -noout -text` shows where it is broken",
            Self::BadCrl { .. } => "`openssl crl -noout -text` shows where it is broken",
            _ => return None,
        };
        Some(help.to_owned())
    }
}

fn help_with(part: Part, found: Found) -> Option<String> {
    let help = match (part, found) {
        (Part::Key, Found::Certificate) | (Part::Chain, Found::PrivateKey) => {
            "certificate and private key seem to be swapped"
        }
        (Part::Key, Found::EncryptedKey) => "`openssl pkey -in KEY -out PLAIN` decrypts it",
        (Part::Key, Found::Der) => "`openssl pkey -inform der` makes PEM of it",
        (Part::RevocationLists, Found::Der) => "`openssl crl -inform der` makes PEM of it",
        (_, Found::Der) => "`openssl x509 -inform der` makes PEM of it",
        (_, Found::Pkcs12) => "`openssl pkcs12 -in STORE -nodes` makes PEM of it",
        (_, Found::EncodedTwice) => "in `data` it must be base64 once, in `stringData` and in files not at all",
        (_, Found::Utf16) => "save it as ASCII or UTF-8",
        (_, Found::CertificateRequest) => "an authority makes a certificate of it",
        _ => return None,
    };
    Some(help.to_owned())
}

/// Why material is worse than it should be. It serves if there is nothing better: an offer is refused if it has a flaw
/// that what serves now has not.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Flaw {
    #[error("{} expired on {at}", certificate(*number))]
    Expired { number: usize, at: Timestamp },
    #[error("{} is not valid before {at}", certificate(*number))]
    NotYetValid { number: usize, at: Timestamp },
    #[error("the certificate is not for {host}; its names are {names}")]
    HostNotCovered { host: Host, names: String },
    #[error("the certificate's extended key usage does not include servers")]
    NotForServers,
    #[error("the chain is out of order")]
    ChainOutOfOrder,
    #[error("certificate {number} of the chain signs none of the others")]
    ChainUnrelated { number: usize },
    #[error("certificate {number} of the chain names an issuer that did not sign it")]
    ChainBroken { number: usize },
    #[error("certificate {number} of the chain is there twice")]
    ChainDuplicate { number: usize },
    #[error("{} is signed over {digest}, which is broken", certificate(*number))]
    WeakSignature { number: usize, digest: WeakDigest },
    #[error("{} has a key of {bits} bits, which is too short", certificate(*number))]
    WeakKey { number: usize, bits: u32 },
    #[error("the certificate is that of an authority (CA:TRUE), which strict clients refuse from a server")]
    AuthorityAsLeaf,
    #[error("the OCSP staple is left out: {0}")]
    Staple(StapleFlaw),
    #[error("every authority has expired, the last one on {0}")]
    AuthoritiesExpired(Timestamp),
    #[error("certificate {number} of the authorities is none of an authority (CA:FALSE)")]
    NotAnAuthority { number: usize },
    #[error("revocation list {number} is by none of these authorities")]
    CrlIssuerUnknown { number: usize },
    #[error("no revocation list is by any of these authorities")]
    CrlsForeign,
    #[error("revocation list {number} is not signed by the authority that it names")]
    CrlNotSigned { number: usize },
    #[error("revocation list {number} should have been replaced by {at}")]
    CrlExpired { number: usize, at: Timestamp },
}

/// Why a staple is not shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StapleFlaw {
    #[error("it is no OCSP response")]
    Unreadable,
    #[error("the responder gave no answer")]
    Unsuccessful,
    #[error("it is about another certificate")]
    OtherCertificate,
    #[error("it does not say that the certificate is good")]
    NotGood,
    #[error("it was valid until {0}")]
    Expired(Timestamp),
}

/// "the certificate" for the first, which is the one that people mean.
fn certificate(number: usize) -> String {
    match number {
        1 => "the certificate".to_owned(),
        number => format!("certificate {number} of the chain"),
    }
}

impl Flaw {
    /// Where the flaw is.
    pub fn part(&self) -> Part {
        match self {
            Self::Staple(_) => Part::OcspStaple,
            Self::AuthoritiesExpired(_) | Self::NotAnAuthority { .. } => Part::Authorities,
            Self::CrlIssuerUnknown { .. } | Self::CrlsForeign | Self::CrlNotSigned { .. } | Self::CrlExpired { .. } => {
                Part::RevocationLists
            }
            _ => Part::Chain,
        }
    }

    /// Whether an offer with this flaw may not replace material without it. A staple that is left out takes nothing
    /// from the pair; a list beside others may be that of an authority between these and the clients.
    pub fn blocks(&self) -> bool {
        !matches!(self, Self::Staple(_) | Self::CrlIssuerUnknown { .. })
    }

    /// Whether both are the same trouble for clients, whatever the moment and the certificate's number.
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::HostNotCovered { host, .. }, Self::HostNotCovered { host: other, .. }) => host == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// How to mend it, if there is something to say beyond the flaw.
    pub fn help(&self) -> Option<&'static str> {
        Some(match self {
            Self::Expired { .. } => "renew it",
            Self::NotYetValid { .. } => {
                "it is judged again when its time comes; if that should be now, look at the clocks of this machine and \
                 of the authority"
            }
            Self::HostNotCovered { .. } => {
                "have it issued for all hosts of the server (subject alternative names), or name a credential that is"
            }
            Self::NotForServers => "have it issued with the extended key usage `serverAuth`, or without any",
            Self::AuthorityAsLeaf => {
                "`openssl req -x509` makes authorities unless told `-addext basicConstraints=critical,CA:FALSE`"
            }
            Self::WeakSignature { .. } | Self::WeakKey { .. } => {
                "have it issued anew, signed over SHA-256 or better, with ECDSA on P-256 or RSA of 2048 bits or more"
            }
            Self::ChainOutOfOrder => "it is served in order: the certificate, then its issuer, and so on upwards",
            Self::ChainUnrelated { .. } => "leave it out; the chain goes from the certificate to its issuer upwards",
            Self::CrlIssuerUnknown { .. } => {
                "it counts for certificates of its issuer: good for an intermediate authority that clients send along"
            }
            Self::CrlsForeign => "no client could be verified with them",
            Self::CrlNotSigned { .. } => "certificates of that authority cannot be verified with it",
            _ => return None,
        })
    }
}
