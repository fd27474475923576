use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SerialNumber, SignatureAlgorithm,
    date_time_ymd,
};
use tidegate_core::{Diagnostic, Host, Kind, Origin, ResourceKey, SecretBytes, SecretName};
use tidegate_sds::{
    CertificateMaterial, Clock, Offer, Payload, Place, Secret, SecretState, SecretStatus, SecretStore, SourceKind,
    Timestamp,
};

/// A year, a month and a day.
pub(crate) type Date = (i32, u8, u8);

/// Where the clock stands at first.
pub(crate) const TODAY: Date = (2026, 6, 1);
pub(crate) const FROM: Date = (2026, 1, 1);
pub(crate) const UNTIL: Date = (2027, 1, 1);

pub(crate) fn system_time((year, month, day): Date) -> SystemTime {
    date_time_ymd(year, month, day).into()
}

pub(crate) fn timestamp(date: Date) -> Timestamp {
    system_time(date).into()
}

/// A store whose time is ours.
pub(crate) struct World {
    pub(crate) store: Arc<SecretStore>,
    now: Arc<AtomicI64>,
}

impl World {
    pub(crate) fn new() -> Self {
        let now = Arc::new(AtomicI64::new(timestamp(TODAY).seconds()));
        let clock = Clock::new({
            let now = now.clone();
            move || Timestamp::from_seconds(now.load(Ordering::Relaxed)).into()
        });
        Self { store: Arc::new(SecretStore::with_clock(clock)), now }
    }

    /// Moves the clock and ticks.
    pub(crate) fn tick(&self, date: Date) -> Vec<Diagnostic> {
        self.now.store(timestamp(date).seconds(), Ordering::Relaxed);
        self.store.tick(system_time(date))
    }

    pub(crate) fn expect(&self, hosts: &[(&str, &[&str])]) -> Vec<Diagnostic> {
        let parse = |hosts: &[&str]| hosts.iter().map(|host| Host::parse(host).unwrap()).collect();
        let hosts: BTreeMap<_, _> = hosts.iter().map(|(name, hosts)| (secret(name), parse(hosts))).collect();
        self.store.expect_hosts(hosts)
    }

    pub(crate) fn current(&self, name: &str) -> Option<Arc<Secret>> {
        self.store.get(&secret(name)).and_then(|slot| slot.current())
    }

    /// The leaf that serves, in DER.
    pub(crate) fn leaf(&self, name: &str) -> Option<Vec<u8>> {
        let current = self.current(name)?;
        current.content.certificate().map(|material| material.chain()[0].to_vec())
    }

    pub(crate) fn status(&self, name: &str) -> SecretStatus {
        self.store.status(&secret(name)).unwrap()
    }

    #[track_caller]
    pub(crate) fn check(&self, name: &str, version: u64, state: SecretState) {
        let status = self.status(name);
        assert_eq!((status.version, status.state), (version, state), "{:?}", self.texts());
    }

    /// All findings as users see them.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.store.findings().iter().map(ToString::to_string).collect()
    }
}

/// `a` is Secret `a` of namespace `ns`.
pub(crate) fn secret(name: &str) -> SecretName {
    SecretName::kubernetes("ns", name)
}

/// An authority, with the certificates between it and a root.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    above: String,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        let issuer = CertifiedIssuer::self_signed(authority_params(name), key()).unwrap();
        Self { issuer, above: String::new() }
    }

    pub(crate) fn intermediate(&self, name: &str) -> Self {
        let issuer = CertifiedIssuer::signed_by(authority_params(name), key(), &self.issuer).unwrap();
        Self { above: format!("{}{}", issuer.pem(), self.above), issuer }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn issue(&self, hosts: &[&str]) -> Pair {
        self.issue_with(hosts, FROM, UNTIL, &PKCS_ECDSA_P256_SHA256, |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        hosts: &[&str],
        from: Date,
        until: Date,
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = params(hosts, from, until);
        change(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Pair { leaf: leaf.der().to_vec(), chain: format!("{}{}", leaf.pem(), self.above), key: key.serialize_pem() }
    }

    pub(crate) fn crl(&self, revoked: &[u64], next_update: Date) -> String {
        let revoked = revoked.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(FROM.0, FROM.1, FROM.2),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(FROM.0, FROM.1, FROM.2),
            next_update: date_time_ymd(next_update.0, next_update.1, next_update.2),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// A chain and its key, PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    /// DER.
    pub(crate) leaf: Vec<u8>,
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Pair {
    pub(crate) fn self_signed(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = key();
        let mut params = params(&["a.com"], FROM, UNTIL);
        change(&mut params);
        let leaf = params.self_signed(&key).unwrap();
        Self { leaf: leaf.der().to_vec(), chain: leaf.pem(), key: key.serialize_pem() }
    }

    /// Of `openssl req -x509` and these arguments: for keys that rcgen does not make.
    pub(crate) fn by_openssl(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = (folder.path().join("chain"), folder.path().join("key"));
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-nodes", "-subj", "/CN=a.com", "-days", "7300", "-addext"]);
        command.args(["subjectAltName=DNS:a.com", "-addext", "basicConstraints=critical,CA:FALSE"]);
        command.args(arguments).arg("-keyout").arg(&key).arg("-out").arg(&chain);
        let output = command.output().expect("openssl is needed: apt-get install openssl");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let read = |path| std::fs::read_to_string(path).unwrap();
        Self { leaf: Vec::new(), chain: read(chain), key: read(key) }
    }

    pub(crate) fn payload(&self) -> Payload {
        certificate(&self.chain, &self.key)
    }

    pub(crate) fn offer(&self, name: &str) -> Offer {
        offer(name, self.payload())
    }

    pub(crate) fn material(&self) -> Result<CertificateMaterial, tidegate_sds::MaterialError> {
        CertificateMaterial::from_pem(bytes(&self.chain), bytes(&self.key))
    }
}

pub(crate) fn certificate(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Payload {
    Payload::Certificate { chain: bytes(chain), key: bytes(key), ocsp_staple: None }
}

/// As of a document: with an object and places.
pub(crate) fn offer(name: &str, payload: Payload) -> Offer {
    let mut offer = Offer::new(secret(name), SourceKind::Kubernetes, Origin::new("secrets.yaml", 3, 1), payload);
    offer.key = Some(ResourceKey::local(Kind::Secret, "ns", name));
    let place = |path: &str, line| Some(Place { path: path.into(), origin: Origin::new("secrets.yaml", line, 3) });
    offer.places.certificates = place("data[\"tls.crt\"]", 9);
    offer.places.key = place("data[\"tls.key\"]", 10);
    offer
}

pub(crate) fn bytes(text: impl AsRef<[u8]>) -> SecretBytes {
    SecretBytes::new(text.as_ref().to_vec())
}

/// Certificates of a chain one by one.
pub(crate) fn sections(chain: &str) -> Vec<String> {
    let end = "-----END CERTIFICATE-----";
    chain.split_inclusive(end).map(|text| text.trim().to_owned() + "\n").filter(|text| text.contains(end)).collect()
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn params(hosts: &[&str], from: Date, until: Date) -> CertificateParams {
    let names: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = date_time_ymd(from.0, from.1, from.2);
    params.not_after = date_time_ymd(until.0, until.1, until.2);
    params
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = params(&[], (2020, 1, 1), (2040, 1, 1));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
