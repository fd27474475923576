//! Certificates for tests, made when they are needed.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use tidegate_core::{Origin, SecretBytes, SecretName};
use tidegate_sds::{Offer, Payload, SecretStore, SourceKind};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    pub(crate) der: CertificateDer<'static>,
}

/// A certificate with its chain and its key.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = ca_params(name);
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    /// Of a server called `hosts`.
    pub(crate) fn server(&self, hosts: &[&str]) -> Identity {
        self.issue(KeyPair::generate().unwrap(), hosts, |_| {})
    }

    /// Of a client that is allowed to be one.
    pub(crate) fn client(&self, name: &str) -> Identity {
        self.client_with(name, |_| {})
    }

    pub(crate) fn client_with(&self, name: &str, edit: impl FnOnce(&mut CertificateParams)) -> Identity {
        self.issue(KeyPair::generate().unwrap(), &[], |params| {
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            edit(params);
        })
    }

    pub(crate) fn issue(&self, key: KeyPair, hosts: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params =
            CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        edit(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity { chain_pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// The same certificate as one of X.509 version 1, which has no extensions.
    pub(crate) fn in_version_1(&self, identity: &Identity) -> CertificateDer<'static> {
        use rcgen::SigningKey;
        let der = identity.certificates().remove(0);
        let ([], certificate) = X509Certificate::from_der(&der).unwrap() else { panic!("more than a certificate") };
        let tbs = certificate.tbs_certificate.as_ref();
        let (mut at, end) = (header(tbs), tbs.len());
        let mut parts = Vec::new();
        while at < end {
            let length = header(&tbs[at..]) + length(&tbs[at..]);
            parts.push(&tbs[at..at + length]);
            at += length;
        }
        // Neither the version, which is 1 if it is not there, nor the extensions.
        parts.retain(|part| part[0] != 0xA0 && part[0] != 0xA3);
        let algorithm = parts[1];
        let tbs = sequence(&parts.concat());
        let signature = self.issuer.key().sign(&tbs).unwrap();
        let signature = [&[3, u8::try_from(signature.len() + 1).unwrap(), 0], signature.as_slice()].concat();
        sequence(&[&tbs, algorithm, &signature].concat()).into()
    }

    /// A list that revokes `serials` and is valid until the year `until`.
    pub(crate) fn revocation_list(&self, serials: &[u64], until: i32) -> String {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    /// What a client trusts that trusts this.
    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        Arc::new(roots)
    }
}

/// Bytes before the contents of a DER value.
fn header(der: &[u8]) -> usize {
    if der[1] < 0x80 { 2 } else { 2 + usize::from(der[1] & 0x7F) }
}

/// Bytes of the contents of a DER value.
fn length(der: &[u8]) -> usize {
    if der[1] < 0x80 {
        usize::from(der[1])
    } else {
        der[2..header(der)].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    }
}

fn sequence(contents: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(contents.len()).unwrap().to_be_bytes();
    [&[0x30, 0x82, high, low], contents].concat()
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params
}

impl Identity {
    pub(crate) fn certificates(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.chain_pem.as_bytes()).map(Result::unwrap).collect()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap()
    }

    pub(crate) fn payload(&self) -> Payload {
        Payload::Certificate { chain: bytes(&self.chain_pem), key: bytes(&self.key_pem), ocsp_staple: None }
    }
}

pub(crate) fn bytes(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

/// The name under which tests offer `name`.
pub(crate) fn secret(name: &str) -> SecretName {
    SecretName::kubernetes("istio-system", name)
}

/// Puts `payload` under [`secret`]`(name)`.
pub(crate) fn offer(store: &SecretStore, name: &str, payload: Payload) {
    let findings = store.offer(vec![Offer::new(secret(name), SourceKind::Kubernetes, Origin::default(), payload)]);
    assert!(findings.is_empty(), "{findings:?}");
}

/// As [`offer`], of something that the store has to say something about.
pub(crate) fn offer_flawed(store: &SecretStore, name: &str, payload: Payload) {
    let findings = store.offer(vec![Offer::new(secret(name), SourceKind::Kubernetes, Origin::default(), payload)]);
    assert!(!findings.is_empty());
}

/// Puts an authority, and maybe its revocation list, under [`secret`]`(name)`.
pub(crate) fn offer_trust(store: &SecretStore, name: &str, authorities: &[&Authority], crl: Option<&str>) {
    offer(store, name, trust(authorities, crl));
}

pub(crate) fn trust(authorities: &[&Authority], crl: Option<&str>) -> Payload {
    let pem: String = authorities.iter().map(|authority| authority.pem.as_str()).collect();
    Payload::Trust { authorities: bytes(&pem), crl: crl.map(bytes) }
}

/// As [`client_config`], of one version, for a certificate that rustls does not read.
pub(crate) fn odd_client_config(
    authority: &Authority,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    version: &'static rustls::SupportedProtocolVersion,
) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = provider.key_provider.load_private_key(key).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_client_cert_resolver(Arc::new(shown))
}

/// A client of TLS that trusts `authority`.
pub(crate) fn client_config(authority: &Authority, identity: Option<&Identity>) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority.roots());
    match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_auth_cert(identity.certificates(), identity.key()).unwrap(),
    }
}
