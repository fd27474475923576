//! PEM texts: reading sections, and telling what bytes are that are none.

use memchr::memmem;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer,
    PrivateSec1KeyDer,
};
use tidegate_core::SecretBytes;
use zeroize::Zeroizing;

use crate::problem::{Found, MaterialError, Part};

/// Largest part of an offer, as of a Kubernetes Secret.
pub(crate) const MAX_PART_BYTES: usize = 1 << 20;

const CERTIFICATE: &str = "CERTIFICATE";
const CRL: &str = "X509 CRL";

/// A private key that is wiped when dropped.
pub(crate) struct Key {
    label: KeyLabel,
    der: Zeroizing<Vec<u8>>,
}

/// Kinds of sections that hold a private key.
#[derive(Clone, Copy)]
enum KeyLabel {
    Pkcs8,
    Pkcs1,
    Sec1,
}

impl KeyLabel {
    const ALL: [Self; 3] = [Self::Pkcs8, Self::Pkcs1, Self::Sec1];

    fn as_str(self) -> &'static str {
        match self {
            Self::Pkcs8 => "PRIVATE KEY",
            Self::Pkcs1 => "RSA PRIVATE KEY",
            Self::Sec1 => "EC PRIVATE KEY",
        }
    }
}

impl Key {
    pub(crate) fn der(&self) -> PrivateKeyDer<'_> {
        match self.label {
            KeyLabel::Pkcs8 => PrivatePkcs8KeyDer::from(self.der.as_slice()).into(),
            KeyLabel::Pkcs1 => PrivatePkcs1KeyDer::from(self.der.as_slice()).into(),
            KeyLabel::Sec1 => PrivateSec1KeyDer::from(self.der.as_slice()).into(),
        }
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

/// The first private key. Not read by the library, whose buffers keep copies of it.
pub(crate) fn private_key(text: &[u8]) -> Result<Key, MaterialError> {
    check_size(text, Part::Key)?;
    key_section(text).map_err(|found| MaterialError::NotPem { part: Part::Key, found })
}

fn key_section(text: &[u8]) -> Result<Key, Found> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    for at in memmem::find_iter(text, BEGIN) {
        let begins_line = at == 0 || matches!(text[at - 1], b'\n' | b'\r');
        let header = &text[at + BEGIN.len()..];
        let labelled = KeyLabel::ALL.into_iter().find_map(|label| {
            let rest = header.strip_prefix(label.as_str().as_bytes())?.strip_prefix(b"-----")?;
            Some((label, rest))
        });
        let Some((label, rest)) = labelled.filter(|_| begins_line) else { continue };
        let end = format!("-----END {}-----", label.as_str());
        let length = memmem::find(rest, end.as_bytes()).ok_or(Found::Unterminated)?;
        // The header ends its line.
        let body = match rest[..length].iter().find(|byte| !matches!(byte, b' ' | b'\t')) {
            Some(b'\n' | b'\r') => &rest[..length],
            _ => return Err(Found::Unterminated),
        };
        return decode(body).map(|der| Key { label, der });
    }
    Err(match found(text, &pem::Error::NoItemsFound) {
        // One of another kind.
        Found::PrivateKey => Found::OtherSection,
        found => found,
    })
}

/// Decodes base64 with white space in buffers that have all their room from the start, and are wiped.
fn decode(body: &[u8]) -> Result<Zeroizing<Vec<u8>>, Found> {
    // A header of the old way to encrypt a key.
    if memmem::find(body, b"ENCRYPTED").is_some() && body.contains(&b':') {
        return Err(Found::EncryptedKey);
    }
    let mut symbols = Zeroizing::new(Vec::with_capacity(body.len()));
    symbols.extend(body.iter().filter(|byte| !byte.is_ascii_whitespace()));
    let room = data_encoding::BASE64.decode_len(symbols.len()).map_err(|_| Found::BrokenBase64)?;
    let mut der = Zeroizing::new(vec![0; room]);
    let length = data_encoding::BASE64.decode_mut(&symbols, &mut der).map_err(|_| Found::BrokenBase64)?;
    der.truncate(length);
    Ok(der)
}

fn sections<T: PemObject>(text: &[u8], part: Part) -> Result<Vec<T>, MaterialError> {
    check_size(text, part)?;
    let keyless = holds_key(text).then(|| without_keys(text));
    let readable = keyless.as_ref().map_or(text, |keyless| keyless.as_slice());
    let all: Result<Vec<T>, pem::Error> = T::pem_slice_iter(readable).collect();
    match all {
        Ok(all) if all.is_empty() => Err(MaterialError::NotPem { part, found: found(text, &pem::Error::NoItemsFound) }),
        Ok(all) => Ok(all),
        Err(error) => Err(MaterialError::NotPem { part, found: found(text, &error) }),
    }
}

/// Whether there is the header of a private key, wherever in the text.
pub(crate) fn holds_key(text: &[u8]) -> bool {
    memmem::find(text, KEY_END).is_some()
}

/// What all headers of private keys end in.
const KEY_END: &[u8] = b"PRIVATE KEY-----";

/// Cuts private keys out, so that the library does not read them: see [`private_key`].
fn without_keys(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut kept = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let Some(header) = memmem::find(rest, KEY_END) {
        let begin = memmem::rfind(&rest[..header], b"-----BEGIN ").unwrap_or(header);
        kept.extend_from_slice(&rest[..begin]);
        let body = &rest[header + KEY_END.len()..];
        // One that has no end goes on to the text's.
        rest = memmem::find(body, KEY_END).map_or(&[], |end| &body[end + KEY_END.len()..]);
    }
    kept.extend_from_slice(rest);
    kept
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
    fn certificates_are_read_around_keys() {
        let der = CertificateDer::from(vec![7; 100]);
        let certificate = String::from_utf8(encode(std::slice::from_ref(&der)).as_slice().to_vec()).unwrap();
        let key = "-----BEGIN EC PRIVATE KEY-----\nQUJD\n-----END EC PRIVATE KEY-----\n";
        let check = |text: String, expected: usize| {
            let read = certificates(text.as_bytes(), Part::Chain).unwrap();
            assert_eq!(read, vec![der.clone(); expected], "{text}");
            assert!(memmem::find(&without_keys(text.as_bytes()), b"QUJD").is_none());
        };
        check(format!("{key}{certificate}"), 1);
        check(format!("{certificate}{key}{certificate}{key}"), 2);
        check(format!("{certificate}-----BEGIN PRIVATE KEY-----\nQUJD\n"), 1);
        assert_eq!(
            certificates(key.as_bytes(), Part::Chain),
            Err(MaterialError::NotPem { part: Part::Chain, found: Found::PrivateKey })
        );
    }

    #[test]
    fn a_key_is_found_among_other_sections_and_a_damaged_one_is_named() {
        let check = |text: &str, expected: Result<&[u8], Found>| {
            let read = private_key(text.as_bytes());
            let expected = expected.map_err(|found| MaterialError::NotPem { part: Part::Key, found });
            assert_eq!(read.as_ref().map(|key| key.der.as_slice()), expected.as_ref().copied(), "{text}");
        };
        let key = "-----BEGIN PRIVATE KEY-----\r\nQU\r\nJD\r\n-----END PRIVATE KEY-----\r\n";
        check(key, Ok(b"ABC"));
        check(&format!("words\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{key}"), Ok(b"ABC"));
        check(&key.replace("PRIVATE", "EC PRIVATE"), Ok(b"ABC"));
        check(&key.replace("PRIVATE", "RSA PRIVATE"), Ok(b"ABC"));
        check(&key.replace("PRIVATE", "DSA PRIVATE"), Err(Found::OtherSection));
        check(&key.replace("PRIVATE", "ENCRYPTED PRIVATE"), Err(Found::EncryptedKey));
        check(&key.replace("QU", "Proc-Type: 4,ENCRYPTED\n\nQU"), Err(Found::EncryptedKey));
        check(&key.replace("\r\n", " "), Err(Found::Unterminated));
        check(&key.replace("END", "end"), Err(Found::Unterminated));
        check(&key.replace("QU", "Q!"), Err(Found::BrokenBase64));
        check(&key.replace("QU", "Q"), Err(Found::BrokenBase64));
        check(&format!("  {key}"), Err(Found::OtherSection));
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
