//! What a client's certificate says of it, in the forms that Envoy's logs and headers have.

use std::fmt::{self, Write};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use tidegate_snapshot::Digest256;
use x509_parser::asn1_rs::{Any, Oid, Tag};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

/// A client's certificates, leaf first. What they say is read when somebody asks.
pub(crate) struct PeerCertificate {
    chain: Vec<CertificateDer<'static>>,
    facts: OnceLock<Box<PeerFacts>>,
}

/// What a client's certificate says. Texts are printable ASCII but for the names, which are as they were written.
#[derive(Debug)]
pub(crate) struct PeerFacts {
    /// RFC 2253, as OpenSSL writes it.
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) uri_sans: Vec<String>,
    pub(crate) dns_sans: Vec<String>,
    /// SHA-256 of the certificate, hexadecimal in lower case.
    pub(crate) fingerprint: String,
    /// Hexadecimal in lower case.
    pub(crate) serial: String,
    pub(crate) not_before: Option<SystemTime>,
    pub(crate) not_after: Option<SystemTime>,
}

pub(super) fn sha256(bytes: &[u8]) -> Digest256 {
    Digest256(Sha256::digest(bytes).into())
}

impl PeerCertificate {
    /// None if there is no certificate.
    pub(super) fn new(chain: &[CertificateDer<'static>]) -> Option<Self> {
        (!chain.is_empty()).then(|| Self { chain: chain.to_vec(), facts: OnceLock::new() })
    }

    pub(crate) fn facts(&self) -> &PeerFacts {
        self.facts.get_or_init(|| Box::new(PeerFacts::of(&self.chain[0])))
    }

    /// Whether the certificate's time is over. False if it cannot be told.
    pub(crate) fn is_expired(&self, now: SystemTime) -> bool {
        self.facts().not_after.is_some_and(|end| end < now)
    }

    /// PEM with what headers cannot hold percent-encoded: Envoy's `urlEncodedPemEncodedPeerCertificate`.
    pub(crate) fn url_encoded_pem(&self) -> String {
        let mut out = String::new();
        url_encoded_pem(&self.chain[0], &mut out);
        out
    }

    /// As [`Self::url_encoded_pem`], of all that the client sent.
    pub(crate) fn url_encoded_chain(&self) -> String {
        let mut out = String::new();
        self.chain.iter().for_each(|certificate| url_encoded_pem(certificate, &mut out));
        out
    }
}

impl fmt::Debug for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerCertificate({})", self.facts().fingerprint)
    }
}

impl PeerFacts {
    pub(super) fn of(der: &CertificateDer<'_>) -> Self {
        let mut facts = Self {
            subject: String::new(),
            issuer: String::new(),
            uri_sans: Vec::new(),
            dns_sans: Vec::new(),
            fingerprint: sha256(der).to_string(),
            serial: String::new(),
            not_before: None,
            not_after: None,
        };
        // The handshake has verified it, so it is one; where anything was accepted there is nothing more to say.
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return facts };
        facts.subject = rfc2253(certificate.subject());
        facts.issuer = rfc2253(certificate.issuer());
        facts.serial = serial(certificate.raw_serial());
        facts.not_before = time(certificate.validity().not_before.timestamp());
        facts.not_after = time(certificate.validity().not_after.timestamp());
        if let Ok(Some(names)) = certificate.subject_alternative_name() {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => facts.uri_sans.push((*uri).to_owned()),
                    GeneralName::DNSName(name) => facts.dns_sans.push((*name).to_owned()),
                    _ => {}
                }
            }
        }
        facts
    }
}

fn time(seconds: i64) -> Option<SystemTime> {
    match u64::try_from(seconds) {
        Ok(seconds) => UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
        Err(_) => UNIX_EPOCH.checked_sub(Duration::from_secs(seconds.unsigned_abs())),
    }
}

fn serial(bytes: &[u8]) -> String {
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len().saturating_sub(1));
    hex(&bytes[first..])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a text cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn url_encoded_pem(der: &[u8], out: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.reserve(der.len() * 3 / 2 + 96);
    out.push_str("-----BEGIN%20CERTIFICATE-----%0A");
    // 48 bytes make a line of 64 characters.
    for line in der.chunks(48) {
        for three in line.chunks(3) {
            let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
            for at in 0..4 {
                match ALPHABET[(bits >> (18 - 6 * at) & 63) as usize] {
                    _ if at > three.len() => out.push_str("%3D"),
                    b'+' => out.push_str("%2B"),
                    b'/' => out.push_str("%2F"),
                    character => out.push(char::from(character)),
                }
            }
        }
        out.push_str("%0A");
    }
    out.push_str("-----END%20CERTIFICATE-----%0A");
}

/// A name as OpenSSL's `XN_FLAG_RFC2253` writes it: last part first, what is special escaped, everything that is no
/// printable ASCII as the hexadecimal of its UTF-8.
fn rfc2253(name: &X509Name<'_>) -> String {
    let mut out = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (at, part) in parts.iter().rev().enumerate() {
        if at > 0 {
            out.push(',');
        }
        let attributes: SmallVec<[_; 2]> = part.iter().collect();
        for (at, attribute) in attributes.iter().rev().enumerate() {
            if at > 0 {
                out.push('+');
            }
            let known = short_name(attribute.attr_type());
            match known {
                Some(known) => out.push_str(known),
                None => out.push_str(&attribute.attr_type().to_id_string()),
            }
            out.push('=');
            match text(attribute.attr_value()).filter(|_| known.is_some()) {
                Some(text) => escape(&text, &mut out),
                None => dump(attribute.attr_value(), &mut out),
            }
        }
    }
    out
}

/// OpenSSL's short names of what subjects usually have.
fn short_name(oid: &Oid<'_>) -> Option<&'static str> {
    const NAMES: [(&[u64], &str); 20] = [
        (&[2, 5, 4, 3], "CN"),
        (&[2, 5, 4, 4], "SN"),
        (&[2, 5, 4, 5], "serialNumber"),
        (&[2, 5, 4, 6], "C"),
        (&[2, 5, 4, 7], "L"),
        (&[2, 5, 4, 8], "ST"),
        (&[2, 5, 4, 9], "street"),
        (&[2, 5, 4, 10], "O"),
        (&[2, 5, 4, 11], "OU"),
        (&[2, 5, 4, 12], "title"),
        (&[2, 5, 4, 13], "description"),
        (&[2, 5, 4, 15], "businessCategory"),
        (&[2, 5, 4, 17], "postalCode"),
        (&[2, 5, 4, 41], "name"),
        (&[2, 5, 4, 42], "GN"),
        (&[2, 5, 4, 43], "initials"),
        (&[2, 5, 4, 46], "dnQualifier"),
        (&[1, 2, 840, 113_549, 1, 9, 1], "emailAddress"),
        (&[0, 9, 2342, 19_200_300, 100, 1, 1], "UID"),
        (&[0, 9, 2342, 19_200_300, 100, 1, 25], "DC"),
    ];
    let wanted = oid.iter()?;
    let wanted: Vec<u64> = wanted.collect();
    NAMES.iter().find(|(oid, _)| *oid == wanted).map(|(_, name)| *name)
}

fn text(value: &Any<'_>) -> Option<String> {
    let bytes = value.data;
    let wide = |width: usize| -> Option<String> {
        if !bytes.len().is_multiple_of(width) {
            return None;
        }
        let codes = bytes.chunks(width).map(|code| code.iter().fold(0_u32, |code, byte| code << 8 | u32::from(*byte)));
        codes.map(char::from_u32).collect()
    };
    match value.tag() {
        Tag::Utf8String => String::from_utf8(bytes.to_vec()).ok(),
        Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::T61String | Tag::VisibleString => {
            Some(bytes.iter().map(|byte| char::from(*byte)).collect())
        }
        Tag::BmpString => wide(2),
        Tag::UniversalString => wide(4),
        _ => None,
    }
}

fn escape(text: &str, out: &mut String) {
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'#' if at == 0 => out.push_str("\\#"),
            b' ' if at == 0 || at == last => out.push_str("\\ "),
            b' '..=b'~' => out.push(char::from(byte)),
            // Writing to a text cannot fail.
            _ => drop(write!(out, "\\{byte:02X}")),
        }
    }
}

/// What has no name or is no text: `#` and its DER.
fn dump(value: &Any<'_>, out: &mut String) {
    let length = value.data.len();
    let mut der = vec![value.tag().0 as u8];
    if length < 0x80 {
        der.push(length as u8);
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
        der.push(0x80 | bytes.len() as u8);
        der.extend_from_slice(&bytes);
    }
    der.extend_from_slice(value.data);
    out.push('#');
    out.push_str(&hex(&der).to_ascii_uppercase());
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SerialNumber};

    use super::*;

    #[test]
    fn names_are_written_as_openssl_writes_them() {
        // What `openssl req -multivalue-rdn -utf8 -subj` made of: /C=DE/ST= Bad\, place /L=#x/O=Ünited; "ops" <a>/
        // OU=A\\B+UID=u1/CN=Me/emailAddress=a@b.c/serialNumber=77/1.2.3.4.5=hello/DC=com/street=Road 1
        let der = "3081d5310b30090603550406130244453115301306035504080c0c204261642c20706c61636520310b30090603550407\
                   0c022378311b3019060355040a0c12c39c6e697465643b20226f707322203c613e311e300a060355040b0c03415c4230\
                   10060a0992268993f22c6401010c027531310b300906035504030c024d653114301206092a864886f70d010901160561\
                   40622e63310b3009060355040513023737310f300d06042a0304050c0568656c6c6f31133011060a0992268993f22c64\
                   01191603636f6d310f300d06035504090c06526f61642031";
        let der: Vec<u8> =
            (0..der.len()).step_by(2).map(|at| u8::from_str_radix(&der[at..at + 2], 16).unwrap()).collect();
        let (_, name) = X509Name::from_der(&der).unwrap();
        // By `openssl x509 -nameopt RFC2253`.
        assert_eq!(
            rfc2253(&name),
            r#"street=Road 1,DC=com,1.2.3.4.5=#0C0568656C6C6F,serialNumber=77,emailAddress=a@b.c,CN=Me,UID=u1+OU=A\\B,O=\C3\9Cnited\; \"ops\" \<a\>,L=\#x,ST=\ Bad\, place\ ,C=DE"#
        );
    }

    #[test]
    fn pem_is_encoded_for_headers() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.com".into()]).unwrap();
        // Lengths that end base64 with each number of fillers.
        for serial in [1_u64, 0x1234, 0x12_3456] {
            params.serial_number = Some(SerialNumber::from(serial));
            let certificate = params.self_signed(&key).unwrap();
            let pem = certificate.pem().replace("\r\n", "\n");
            let pem = pem.replace('\n', "%0A").replace(' ', "%20").replace('+', "%2B").replace('/', "%2F");
            let peer = PeerCertificate::new(&[certificate.der().clone()]).unwrap();
            assert_eq!(peer.url_encoded_pem(), pem.replace('=', "%3D"));
            assert_eq!(peer.url_encoded_chain(), peer.url_encoded_pem());
            assert_eq!(u64::from_str_radix(&peer.facts().serial, 16).unwrap(), serial);
        }
        assert!(PeerCertificate::new(&[]).is_none());
    }

    #[test]
    fn what_is_no_certificate_says_nothing() {
        let peer = PeerCertificate::new(&[CertificateDer::from(vec![1, 2, 3])]).unwrap();
        assert_eq!((&*peer.facts().subject, &*peer.facts().serial), ("", ""));
        assert_eq!(peer.facts().fingerprint.len(), 64);
        assert!(!peer.is_expired(SystemTime::now()));
    }
}
