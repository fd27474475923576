//! PEM texts: reading sections, and telling what bytes are that are none.

use memchr::memmem;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use tidegate_core::SecretBytes;
use zeroize::{Zeroize as _, Zeroizing};

use crate::problem::{Found, MaterialError, Part};

/// Largest part of an offer, as of a Kubernetes Secret.
pub(crate) const MAX_PART_BYTES: usize = 1 << 20;

const CERTIFICATE: &str = "CERTIFICATE";
const CRL: &str = "X509 CRL";

/// A private key that is wiped when dropped.
pub(crate) struct Key(PrivateKeyDer<'static>);

impl Key {
    pub(crate) fn der(&self) -> &PrivateKeyDer<'static> {
        &self.0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

pub(crate) fn check_size(bytes: &[u8], part: Part) -> Result<(), MaterialError> {
    match bytes.len() {
        0..=MAX_PART_BYTES => Ok(()),
        size => Err(MaterialError::TooLarge { part, size, limit: MAX_PART_BYTES }),
    }
}

/// All certificates in their order; at least one.
pub(crate) fn certificates(text: &[u8], part: Part) -> Result<Vec<CertificateDer<'static>>, MaterialError> {
    sections(text, part)
}

/// All revocation lists; at least one.
pub(crate) fn revocation_lists(text: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, MaterialError> {
    sections(text, Part::RevocationLists)
}

/// The first private key.
pub(crate) fn private_key(text: &[u8]) -> Result<Key, MaterialError> {
    check_size(text, Part::Key)?;
    PrivateKeyDer::from_pem_slice(text)
        .map(Key)
        .map_err(|error| MaterialError::NotPem { part: Part::Key, found: found(text, &error) })
}

fn sections<T: PemObject>(text: &[u8], part: Part) -> Result<Vec<T>, MaterialError> {
    check_size(text, part)?;
    let all: Result<Vec<T>, pem::Error> = T::pem_slice_iter(text).collect();
    match all {
        Ok(all) if all.is_empty() => Err(MaterialError::NotPem { part, found: found(text, &pem::Error::NoItemsFound) }),
        Ok(all) => Ok(all),
        Err(error) => Err(MaterialError::NotPem { part, found: found(text, &error) }),
    }
}

/// What the bytes are, in words of ours: the library's error may quote them.
fn found(text: &[u8], error: &pem::Error) -> Found {
    match error {
        pem::Error::MissingSectionEnd { .. } | pem::Error::IllegalSectionStart { .. } => return Found::Unterminated,
        pem::Error::NoItemsFound => {}
        _ => return Found::BrokenBase64,
    }
    let has = |label: &str| memmem::find(text, format!("-----BEGIN {label}-----").as_bytes()).is_some();
    let labels: [(&[&str], Found); 6] = [
        (&["ENCRYPTED PRIVATE KEY"], Found::EncryptedKey),
        (&["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "DSA PRIVATE KEY"], Found::PrivateKey),
        (&["CERTIFICATE"], Found::Certificate),
        (&["X509 CRL"], Found::RevocationList),
        (&["CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"], Found::CertificateRequest),
        (&["PUBLIC KEY", "RSA PUBLIC KEY"], Found::PublicKey),
    ];
    if let Some((_, found)) = labels.iter().find(|(labels, _)| labels.iter().any(|label| has(label))) {
        return *found;
    }
    match text {
        _ if text.iter().all(u8::is_ascii_whitespace) => Found::Nothing,
        _ if memmem::find(text, b"-----BEGIN ").is_some() => Found::OtherSection,
        // The base64 of `-----BEGI`.
        [b'L', b'S', b'0', b't', b'L', b'S', b'1', b'C', b'R', b'U', b'd', b'J', ..] => Found::EncodedTwice,
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Found::Utf16,
        [0xfe, 0xed, 0xfe, 0xed, ..] => Found::Pkcs12,
        // PKCS#12 begins with version 3, a certificate with another SEQUENCE.
        [0x30, 0x82, _, _, 0x02, 0x01, 0x03, ..] => Found::Pkcs12,
        [0x30, 0x80..=0x83, ..] => Found::Der,
        _ => Found::NoSection,
    }
}

/// The certificates of a text as PEM, fit to be shown to everybody: the text itself if it holds nothing else and they
/// are in this order, otherwise a new one. People put private keys beside certificates.
pub(crate) fn public_text(text: &SecretBytes, in_order: bool, certificates: &[CertificateDer<'_>]) -> SecretBytes {
    if in_order && holds_only(text.as_slice(), CERTIFICATE) { text.clone() } else { encode(certificates) }
}

/// The same of revocation lists.
pub(crate) fn public_lists(text: &SecretBytes, lists: &[CertificateRevocationListDer<'_>]) -> SecretBytes {
    if holds_only(text.as_slice(), CRL) {
        text.clone()
    } else {
        encode_sections(CRL, lists.iter().map(|list| list.as_ref()))
    }
}

/// PEM of certificates.
pub(crate) fn encode(certificates: &[CertificateDer<'_>]) -> SecretBytes {
    encode_sections(CERTIFICATE, certificates.iter().map(|certificate| certificate.as_ref()))
}

fn encode_sections<'a>(label: &str, sections: impl Iterator<Item = &'a [u8]>) -> SecretBytes {
    let mut text = String::new();
    for section in sections {
        text.push_str(&format!("-----BEGIN {label}-----\n"));
        let mut rest = data_encoding::BASE64.encode(section);
        while !rest.is_empty() {
            let next = rest.split_off(rest.len().min(64));
            text.push_str(&rest);
            text.push('\n');
            rest = next;
        }
        text.push_str(&format!("-----END {label}-----\n"));
    }
    text.shrink_to_fit();
    SecretBytes::new(text.into_bytes())
}

/// Whether there is nothing but sections with this label.
fn holds_only(text: &[u8], label: &str) -> bool {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut rest = text.trim_ascii();
    while !rest.is_empty() {
        let Some(body) = rest.strip_prefix(begin.as_bytes()) else { return false };
        let Some(length) = memmem::find(body, end.as_bytes()) else { return false };
        if !body[..length].iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/= \t\r\n".contains(byte)) {
            return false;
        }
        rest = body[length + end.len()..].trim_ascii();
    }
    true
}

/// Copies bytes into room of exactly their size, and wipes the original.
pub(crate) fn exact(bytes: Zeroizing<Vec<u8>>) -> SecretBytes {
    SecretBytes::new(bytes.as_slice().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pem_is_named() {
        let check = |text: &[u8], expected: Found| {
            assert_eq!(
                certificates(text, Part::Chain).err(),
                Some(MaterialError::NotPem { part: Part::Chain, found: expected }),
                "{}",
                String::from_utf8_lossy(text)
            );
        };
        check(b"", Found::Nothing);
        check(b" \n", Found::Nothing);
        check(b"hello", Found::NoSection);
        check(b"\x30\x82\x01\x00\x30\x82", Found::Der);
        check(b"\x30\x82\x01\x00\x02\x01\x03\x30", Found::Pkcs12);
        check(b"\xff\xfe-\0-\0", Found::Utf16);
        check(b"LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t", Found::EncodedTwice);
        check(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", Found::PrivateKey);
        check(b"-----BEGIN CERTIFICATE-----\nAAAA\n", Found::Unterminated);
        check(b"-----BEGIN CERTIFICATE-----AAAA-----END CERTIFICATE-----", Found::Unterminated);
        check(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n", Found::BrokenBase64);
        check(b"-----BEGIN TRUSTED CERTIFICATE-----\nAAAA\n-----END TRUSTED CERTIFICATE-----\n", Found::OtherSection);
    }

    #[test]
    fn a_text_with_anything_but_certificates_is_written_anew() {
        let der = [CertificateDer::from(vec![7; 100])];
        let clean = encode(&der);
        assert_eq!(certificates(clean.as_slice(), Part::Chain).unwrap(), der);
        assert_eq!(public_text(&clean, true, &der), clean);
        for extra in ["-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n", "QUJD\n"] {
            for text in [[extra.as_bytes(), clean.as_slice()].concat(), [clean.as_slice(), extra.as_bytes()].concat()] {
                assert_eq!(public_text(&SecretBytes::new(text), true, &der), clean);
            }
        }
    }
}
