//! The names in a certificate against those that are expected: `subjectAltNames` of servers and clients.
//!
//! Source: Envoy, `match_typed_subject_alt_names` with exact matchers, of which Istio makes one for each type of name.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Whether one of the alternative names (DNS, URI, IP, mail) in `leaf` is one of `expected`.
///
/// URIs and mail addresses must be equal to the byte. DNS names are compared without regard to case, and a name like
/// `*.example.com` in the certificate stands for names with one more label, as it does everywhere in TLS. The subject's
/// common name does not count. False for what is no certificate.
pub(crate) fn matches_any(leaf: &CertificateDer<'_>, expected: &[String]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return false };
    // An extension that comes twice or cannot be read is none.
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return false };
    names.value.general_names.iter().any(|name| expected.iter().any(|expected| matches(name, expected)))
}

fn matches(name: &GeneralName<'_>, expected: &str) -> bool {
    match name {
        GeneralName::DNSName(name) => dns_matches(name, expected),
        GeneralName::URI(uri) => *uri == expected,
        GeneralName::RFC822Name(mail) => *mail == expected,
        GeneralName::IPAddress(octets) => expected.parse().is_ok_and(|expected| ip(octets) == Some(expected)),
        _ => false,
    }
}

/// Whether a certificate's DNS name, which may begin with `*.`, stands for `expected`.
fn dns_matches(pattern: &str, expected: &str) -> bool {
    if pattern.eq_ignore_ascii_case(expected) {
        return true;
    }
    let Some(suffix) = pattern.strip_prefix("*.") else { return false };
    expected.split_once('.').is_some_and(|(first, rest)| {
        !first.is_empty() && first != "*" && rest.contains('.') && rest.eq_ignore_ascii_case(suffix)
    })
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    #[test]
    fn one_name_of_any_type_is_enough() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["*.example.com".into(), "one.org".into()]).unwrap();
        params.subject_alt_names.extend([
            SanType::URI("spiffe://cluster.local/ns/a/sa/b".try_into().unwrap()),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
            SanType::IpAddress("2001:db8::1".parse().unwrap()),
            SanType::Rfc822Name("ops@example.com".try_into().unwrap()),
        ]);
        params.distinguished_name.push(rcgen::DnType::CommonName, "common.org");
        let certificate = params.self_signed(&key).unwrap();
        let check = |expected: &str, fits: bool| {
            assert_eq!(matches_any(certificate.der(), &["no".into(), expected.into()]), fits, "{expected}");
        };
        for fits in [
            "one.org",
            "ONE.org",
            "a.example.com",
            "*.example.com",
            "spiffe://cluster.local/ns/a/sa/b",
            "10.0.0.1",
            "2001:db8:0::1",
            "ops@example.com",
        ] {
            check(fits, true);
        }
        for other in [
            "example.com",
            "a.b.example.com",
            ".example.com",
            "two.org",
            "common.org",
            "spiffe://cluster.local/ns/a/sa/B",
            "spiffe://cluster.local/ns/a/sa/b/",
            "10.0.0.2",
            "OPS@example.com",
            "",
        ] {
            check(other, false);
        }
        assert!(!matches_any(certificate.der(), &[]));
        assert!(!matches_any(&CertificateDer::from(vec![1, 2, 3]), &["one.org".into()]));
    }

    /// What a stranger calls a certificate is read before anybody has vouched for it.
    #[test]
    fn broken_certificates_name_nobody_and_harm_nobody() {
        let key = KeyPair::generate().unwrap();
        let good = CertificateParams::new(vec!["one.org".into()]).unwrap().self_signed(&key).unwrap();
        let good = good.der().to_vec();
        let expected = ["two.org".to_owned(), "10.0.0.1".to_owned()];
        for length in 0..good.len() {
            assert!(!matches_any(&CertificateDer::from(&good[..length]), &expected));
        }
        for _ in 0..20_000 {
            let mut bad = good.clone();
            for _ in 0..fastrand::usize(1..4) {
                let at = fastrand::usize(..bad.len());
                bad[at] = fastrand::u8(..);
            }
            assert!(!matches_any(&CertificateDer::from(bad), &expected));
        }
    }

    #[test]
    fn a_wildcard_of_a_top_level_domain_stands_for_nothing() {
        assert!(!dns_matches("*.com", "example.com"));
        assert!(!dns_matches("*", "localhost"));
        assert!(dns_matches("*.a.com", "x.A.com"));
    }
}
