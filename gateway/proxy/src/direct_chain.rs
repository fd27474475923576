//! Certificates of two forms that webpki refuses, whoever signed them, and that OpenSSL and BoringSSL, and so Envoy,
//! take: those of X.509 version 1, which `openssl x509 -req` makes unless it is told of extensions (as in Istio's
//! tutorials), and those that say that they are authorities, which `openssl req -x509` makes.
//!
//! They are verified here, by narrower rules than webpki's: an authority that is trusted has signed the certificate
//! itself, with nothing in between. Where there are revocation lists they are left to webpki, which refuses them.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AlgorithmIdentifier, X509Version};

/// What the holder of a certificate does in the handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Client,
    Server,
}

/// Whether a certificate is for [`verify`] rather than for webpki. False for what is no certificate.
pub(crate) fn is_odd(leaf: &CertificateDer<'_>) -> bool {
    parse(leaf).is_ok_and(|certificate| certificate.version() == X509Version::V1 || certificate.is_ca())
}

/// Verifies dates, purpose and extensions of `leaf`, and that one of `roots` signed it.
///
/// Names are not looked at.
///
/// # Errors
/// What webpki would say.
pub(crate) fn verify(
    leaf: &CertificateDer<'_>,
    role: Role,
    roots: &RootCertStore,
    algorithms: &WebPkiSupportedAlgorithms,
    now: UnixTime,
) -> Result<(), Error> {
    let certificate = parse(leaf)?;
    let now = i64::try_from(now.as_secs()).map_err(|_| CertificateError::Expired)?;
    if now < certificate.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > certificate.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    verify_extensions(&certificate, role)?;
    if certificate.signature_algorithm != certificate.tbs_certificate.signature {
        return Err(CertificateError::BadEncoding.into());
    }
    let mut issuers = roots.roots.iter().filter(|anchor| has_issued(anchor, &certificate)).peekable();
    if issuers.peek().is_none() {
        return Err(CertificateError::UnknownIssuer.into());
    }
    match issuers.any(|anchor| has_signed(anchor, &certificate, algorithms)) {
        true => Ok(()),
        false => Err(CertificateError::BadSignature.into()),
    }
}

/// Verifies with the key of `leaf` what its holder signed in a handshake of TLS 1.3. Takes certificates of every
/// version, unlike rustls.
///
/// # Errors
/// It is not so, or `leaf` is no certificate.
pub(crate) fn verify_tls13_signature(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let certificate = parse(leaf)?;
    let key = SubjectPublicKeyInfoDer::from(certificate.public_key().raw);
    verify_tls13_signature_with_raw_key(message, &key, signed, algorithms)
}

/// As [`verify_tls13_signature`], of TLS 1.2.
///
/// # Errors
/// It is not so, or `leaf` is no certificate.
pub(crate) fn verify_tls12_signature_of_any(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    let certificate = parse(leaf)?;
    if certificate.version() != X509Version::V1 {
        return verify_tls12_signature(message, leaf, signed, algorithms);
    }
    let key = certificate.public_key();
    let mut candidates = algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme).flat_map(|it| it.1);
    let fits = candidates.any(|algorithm| {
        is_key_of(contents(key.raw).unwrap_or_default(), &algorithm.public_key_alg_id())
            && algorithm.verify_signature(&key.subject_public_key.data, message, signed.signature()).is_ok()
    });
    if fits { Ok(HandshakeSignatureValid::assertion()) } else { Err(CertificateError::BadSignature.into()) }
}

fn parse<'c>(leaf: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, Error> {
    match X509Certificate::from_der(leaf) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateError::BadEncoding.into()),
    }
}

/// Extensions that restrict in a way that is not understood here refuse the certificate, marked as critical or not.
fn verify_extensions(certificate: &X509Certificate<'_>, role: Role) -> Result<(), Error> {
    for extension in certificate.extensions() {
        let admitted = match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(_) | ParsedExtension::SubjectAlternativeName(_) => true,
            ParsedExtension::KeyUsage(usage) => usage.digital_signature(),
            ParsedExtension::ExtendedKeyUsage(usage) => {
                usage.any
                    || match role {
                        Role::Client => usage.client_auth,
                        Role::Server => usage.server_auth,
                    }
            }
            _ if extension.critical => return Err(CertificateError::UnhandledCriticalExtension.into()),
            ParsedExtension::ParseError { .. } => return Err(CertificateError::BadEncoding.into()),
            _ => true,
        };
        if !admitted {
            return Err(CertificateError::InvalidPurpose.into());
        }
    }
    Ok(())
}

/// Whether an authority has the name of the issuer. One that is trusted for some names only has issued nothing here.
fn has_issued(anchor: &TrustAnchor<'_>, certificate: &X509Certificate<'_>) -> bool {
    anchor.name_constraints.is_none() && contents(certificate.issuer().as_raw()) == Some(anchor.subject.as_ref())
}

fn has_signed(
    anchor: &TrustAnchor<'_>,
    certificate: &X509Certificate<'_>,
    algorithms: &WebPkiSupportedAlgorithms,
) -> bool {
    let key = anchor.subject_public_key_info.as_ref();
    let Some(bits) = key_bits(key) else { return false };
    let signed_with = |id: &[u8]| is_of(id, &certificate.signature_algorithm);
    algorithms.all.iter().any(|algorithm| {
        signed_with(&algorithm.signature_alg_id())
            && is_key_of(key, &algorithm.public_key_alg_id())
            && algorithm
                .verify_signature(bits, certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
                .is_ok()
    })
}

/// Whether `id`, the contents of an AlgorithmIdentifier, begins with the object identifier of `algorithm`.
fn is_of(id: &[u8], algorithm: &AlgorithmIdentifier<'_>) -> bool {
    const OBJECT_IDENTIFIER: u8 = 6;
    let oid = algorithm.algorithm.as_bytes();
    matches!(id, [OBJECT_IDENTIFIER, length, rest @ ..] if usize::from(*length) == oid.len() && rest.starts_with(oid))
}

/// Whether a key (the contents of a SubjectPublicKeyInfo) is of the algorithm whose identifier has the contents `id`.
fn is_key_of(key: &[u8], id: &[u8]) -> bool {
    split(key).is_some_and(|(tag, own, _)| tag == SEQUENCE && own == id)
}

/// The bits of a key, as those who verify want them.
fn key_bits(key: &[u8]) -> Option<&[u8]> {
    const BIT_STRING: u8 = 3;
    let (_, _, rest) = split(key)?;
    match split(rest)? {
        // No bits are left over at the end of a key.
        (BIT_STRING, [0, bits @ ..], []) => Some(bits),
        _ => None,
    }
}

const SEQUENCE: u8 = 0x30;

/// The contents of a DER sequence that fills `der`.
fn contents(der: &[u8]) -> Option<&[u8]> {
    match split(der)? {
        (SEQUENCE, contents, []) => Some(contents),
        _ => None,
    }
}

/// Tag and contents of the DER value that `der` begins with, and what follows.
fn split(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ ..=0x7F => (usize::from(short), rest),
        long @ 0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(long & 0x7F))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((*tag, contents, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    /// What a stranger calls a certificate is read before anybody has vouched for it.
    #[test]
    fn broken_certificates_verify_nowhere_and_harm_nobody() {
        let params = || {
            let mut params = CertificateParams::new(vec!["a.com".into()]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let issuer = CertifiedIssuer::self_signed(params(), KeyPair::generate().unwrap()).unwrap();
        let good = params().signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().to_vec();
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).unwrap();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let check = |der: &[u8]| {
            let der = CertificateDer::from(der);
            verify(&der, Role::Client, &roots, &algorithms, UnixTime::now())
        };
        assert!(is_odd(&CertificateDer::from(good.as_slice())));
        check(&good).unwrap();
        for length in 0..good.len() {
            assert!(check(&good[..length]).is_err());
        }
        let signed = X509Certificate::from_der(&good).unwrap().1.tbs_certificate.as_ref().to_vec();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                // A bit of what stands around the signed part may mean nothing.
                let is_signed = parse(&CertificateDer::from(bad.as_slice()))
                    .is_ok_and(|certificate| certificate.tbs_certificate.as_ref() == signed);
                assert!(is_signed || check(&bad).is_err(), "{at} {bit}");
                let _ = check(&bad);
            }
        }
        assert!(check(&[&good, &[0][..]].concat()).is_err());
        for der in [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 0x84, 255, 255, 255, 255], &[0x30, 0x81]] {
            assert_eq!(contents(der), None);
        }
        assert_eq!(contents(&[0x30, 1, 7]), Some(&[7][..]));
    }

    #[test]
    fn an_authority_for_some_names_only_admits_nobody_here() {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("a.com".into())],
            excluded_subtrees: Vec::new(),
        });
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec!["a.com".into()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let leaf = params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(issuer.der().clone()).unwrap();
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        let refused = verify(leaf.der(), Role::Server, &roots, &algorithms, UnixTime::now());
        assert_eq!(refused, Err(CertificateError::UnknownIssuer.into()));
    }
}
