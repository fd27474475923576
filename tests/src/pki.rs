//! Certificates made for one test: an authority, leaves of both key types, and what is wrong with them.

use std::fmt::Write as _;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, DnValue,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    date_time_ymd,
};

/// Which key a certificate has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyType {
    /// P-256.
    Ecdsa,
    /// 2048 bits.
    Rsa,
}

impl KeyType {
    /// A new key, for [`Authority::sign_for`].
    pub fn pair(self) -> KeyPair {
        self.generate()
    }

    fn generate(self) -> KeyPair {
        match self {
            KeyType::Ecdsa => KeyPair::generate(),
            KeyType::Rsa => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048),
        }
        .expect("a new key")
    }
}

/// An authority that signs.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, PEM.
#[derive(Clone)]
pub struct Pair {
    /// Leaf first.
    pub chain: String,
    pub key: String,
    /// The leaf.
    pub der: Vec<u8>,
}

/// What a leaf says.
pub struct Leaf {
    params: CertificateParams,
    key: KeyType,
}

impl Leaf {
    /// A server's and client's certificate for `names`: DNS names, addresses, or URIs (`spiffe://...`).
    pub fn new(names: &[&str]) -> Self {
        let plain: Vec<String> =
            names.iter().filter(|name| !name.contains("://")).map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(plain).expect("names that a certificate can have");
        for uri in names.iter().filter(|name| name.contains("://")) {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().expect("an ASCII URI")));
        }
        let name = names.first().copied().unwrap_or("nobody");
        params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(name.into()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Self { params, key: KeyType::Ecdsa }
    }

    pub fn key(mut self, key: KeyType) -> Self {
        self.key = key;
        self
    }

    /// Valid for one year, `year`.
    pub fn in_year(mut self, year: i32) -> Self {
        self.params.not_before = date_time_ymd(year, 1, 1);
        self.params.not_after = date_time_ymd(year + 1, 1, 1);
        self
    }

    /// Valid since yesterday, for `days`.
    pub fn for_days(mut self, days: u64) -> Self {
        let now = std::time::SystemTime::now();
        let day = std::time::Duration::from_secs(86_400);
        self.params.not_before = (now - day).into();
        self.params.not_after = (now + day * u32::try_from(days).expect("few days")).into();
        self
    }

    pub fn serial(mut self, number: u64) -> Self {
        self.params.serial_number = Some(SerialNumber::from(number));
        self
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, DnValue::Utf8String(name.into()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer =
            CertifiedIssuer::self_signed(params, KeyType::Ecdsa.generate()).expect("a self-signed certificate");
        Self { issuer }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn der(&self) -> Vec<u8> {
        self.issuer.der().to_vec()
    }

    /// A P-256 leaf for `names`, valid now.
    pub fn issue(&self, names: &[&str]) -> Pair {
        self.sign(Leaf::new(names))
    }

    pub fn sign(&self, leaf: Leaf) -> Pair {
        let key = leaf.key.generate();
        self.sign_for(leaf, &key)
    }

    /// As [`Self::sign`], for a key that exists.
    pub fn sign_for(&self, leaf: Leaf, key: &KeyPair) -> Pair {
        let certificate = leaf.params.signed_by(key, &self.issuer).expect("a signed certificate");
        Pair { chain: certificate.pem(), key: key.serialize_pem(), der: certificate.der().to_vec() }
    }

    /// A revocation list, PEM, of the certificates with these serial numbers.
    pub fn revoke(&self, serials: &[u64]) -> String {
        let revoked = serials
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: date_time_ymd(2025, 1, 1),
                reason_code: None,
                invalidity_date: None,
            })
            .collect();
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a signed list").pem().expect("PEM")
    }
}

/// A Secret document whose entries are given as text.
pub fn secret(namespace: &str, name: &str, entries: &[(&str, &str)]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\ntype: Opaque\nstringData:\n"
    );
    for (key, value) in entries {
        writeln!(text, "  {key}: |").expect("writing to a string");
        value.lines().for_each(|line| writeln!(text, "    {line}").expect("writing to a string"));
    }
    text + "---\n"
}

/// A `kubernetes.io/tls` Secret.
pub fn tls_secret(namespace: &str, name: &str, pair: &Pair) -> String {
    secret(namespace, name, &[("tls.crt", &pair.chain), ("tls.key", &pair.key)])
}
