use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use tidegate_core::{Host, SecretBytes};
use x509_parser::certificate::X509Certificate;
use x509_parser::x509::X509Version;

use crate::problem::{Flaw, MaterialError, Part, StapleFlaw};
use crate::revocation::ListFacts;
use crate::{CertificateFacts, KeyKind, Timestamp, Validity, chain, coverage, facts, ocsp, pem};

/// Largest chain that is shown. Clients refuse more (rustls at 64 KiB).
const MAX_CHAIN_BYTES: usize = 60 * 1024;

/// Names that a text about a certificate tells.
const MAX_NAMES_TOLD: usize = 4;

/// What a slot holds.
#[derive(Debug)]
pub enum Content {
    Certificate(CertificateMaterial),
    Trust(TrustMaterial),
    Crl(RevocationLists),
}

/// A certificate with its chain and its key, ready to be shown in handshakes.
pub struct CertificateMaterial {
    certified: Arc<CertifiedKey>,
    chain_pem: SecretBytes,
    key_pem: SecretBytes,
    facts: Box<CertificateFacts>,
    /// Of the chain's other certificates.
    issuers: Box<[Validity]>,
    /// Flaws that time and hosts do not change.
    flaws: Box<[Flaw]>,
    staple: Staple,
}

#[derive(Clone, Copy, Debug)]
enum Staple {
    None,
    Shown { until: Option<Timestamp> },
    LeftOut(StapleFlaw),
}

/// Authorities, and the certificates that they revoked.
pub struct TrustMaterial {
    roots: Arc<RootCertStore>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    authorities_pem: SecretBytes,
    crl_pem: Option<SecretBytes>,
    validities: Box<[Validity]>,
    flaws: Box<[Flaw]>,
    lists: ListFacts,
}

/// Revocation lists without authorities: `caCrl`.
pub struct RevocationLists {
    crls: Vec<CertificateRevocationListDer<'static>>,
    pem: SecretBytes,
    lists: ListFacts,
}

impl Content {
    /// What it is, in words.
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Certificate(_) => "a certificate",
            Self::Trust(_) => "authorities",
            Self::Crl(_) => "revocation lists",
        }
    }

    pub fn certificate(&self) -> Option<&CertificateMaterial> {
        match self {
            Self::Certificate(material) => Some(material),
            _ => None,
        }
    }

    pub fn trust(&self) -> Option<&TrustMaterial> {
        match self {
            Self::Trust(material) => Some(material),
            _ => None,
        }
    }

    /// What is wrong with it at a moment, for clients that ask for these hosts.
    pub fn flaws(&self, hosts: &[Host], now: Timestamp) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        match self {
            Self::Certificate(material) => material.flaws(hosts, now, &mut flaws),
            Self::Trust(material) => material.flaws(now, &mut flaws),
            Self::Crl(material) => material.lists.flaws(now, &mut flaws),
        }
        flaws
    }

    /// When it ceases to be good: of a certificate its own end, of authorities and lists the first end among them.
    pub fn end(&self) -> Option<Timestamp> {
        match self {
            Self::Certificate(material) => Some(material.facts.validity.not_after),
            Self::Trust(material) => material.validities.iter().map(|validity| validity.not_after).min(),
            Self::Crl(material) => material.lists.first_end(),
        }
    }
}

impl CertificateMaterial {
    /// Reads a chain and its key, both PEM. A chain that is out of order is put in order, leaf first.
    ///
    /// # Errors
    /// Bytes that cannot be shown in a handshake: see [`MaterialError`].
    pub fn from_pem(chain_pem: SecretBytes, key_pem: SecretBytes) -> Result<Self, MaterialError> {
        let written = pem::certificates(chain_pem.as_slice(), Part::Chain)?;
        let size = written.iter().map(|certificate| certificate.len()).sum();
        if size > MAX_CHAIN_BYTES {
            return Err(MaterialError::TooLarge { part: Part::Chain, size, limit: MAX_CHAIN_BYTES });
        }
        let parsed = parse_all(&written, Part::Chain)?;
        let key = pem::private_key(key_pem.as_slice())?;
        let signing = any_supported_type(&key.der()).map_err(|_| unusable(&parsed[0]))?;
        let leaf = match signing.public_key() {
            Some(public) => parsed.iter().position(|certificate| certificate.public_key().raw == public.as_ref()),
            None => return Err(MaterialError::BadKey("its public key cannot be told".to_owned())),
        };
        let order = chain::order(&parsed, leaf.ok_or(MaterialError::KeyMismatch)?);

        let mut flaws = order.flaws.clone();
        let in_order = || (1..).zip(order.places.iter().map(|place| &parsed[*place]));
        for (number, certificate) in in_order() {
            weaknesses(number, certificate, &mut flaws);
        }
        let facts = CertificateFacts::of(&parsed[order.places[0]]);
        if facts.is_authority {
            flaws.push(Flaw::AuthorityAsLeaf);
        }
        let issuers = in_order().skip(1).map(|(_, certificate)| facts::validity(certificate)).collect();
        let chain: Vec<_> = order.places.iter().map(|place| written[*place].clone()).collect();
        // Of version 1 is what `openssl x509 -req` makes without extensions. Only rustls's clients cannot read it.
        let is_old = parsed[order.places[0]].version() == X509Version::V1;
        if let Err(error) = ParsedCertificate::try_from(&chain[0])
            && !is_old
        {
            return Err(MaterialError::BadCertificate { part: Part::Chain, number: 1, reason: error.to_string() });
        }
        let chain_pem = pem::public_text(&chain_pem, order.is_as_written(written.len()), &chain);
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(chain, signing)),
            chain_pem,
            key_pem,
            facts: Box::new(facts),
            issuers,
            flaws: flaws.into(),
            staple: Staple::None,
        })
    }

    /// The same with a staple (DER), if it is a good answer about this certificate and has not expired. One that is not
    /// is left out, and is a flaw.
    #[must_use]
    pub fn with_staple(mut self, staple: &SecretBytes, now: Timestamp) -> Self {
        let serial = data_encoding::HEXLOWER.decode(self.facts.serial.as_bytes()).unwrap_or_default();
        self.staple = match ocsp::check(staple.as_slice(), &serial) {
            Ok(Some(until)) if until < now => Staple::LeftOut(StapleFlaw::Expired(until)),
            Ok(until) => Staple::Shown { until },
            Err(flaw) => Staple::LeftOut(flaw),
        };
        let shown = matches!(self.staple, Staple::Shown { .. });
        self.show(shown.then(|| staple.as_slice().to_vec()));
        self
    }

    /// The same without a staple that has expired; none if there is nothing to change.
    pub(crate) fn without_expired_staple(&self, now: Timestamp) -> Option<Self> {
        let Staple::Shown { until: Some(until) } = self.staple else { return None };
        if until >= now {
            return None;
        }
        let mut without = Self {
            certified: self.certified.clone(),
            chain_pem: self.chain_pem.clone(),
            key_pem: self.key_pem.clone(),
            facts: self.facts.clone(),
            issuers: self.issuers.clone(),
            flaws: self.flaws.clone(),
            staple: Staple::LeftOut(StapleFlaw::Expired(until)),
        };
        without.show(None);
        Some(without)
    }

    fn show(&mut self, ocsp: Option<Vec<u8>>) {
        let (cert, key) = (self.certified.cert.clone(), self.certified.key.clone());
        let mut certified = CertifiedKey::new(cert, key);
        certified.ocsp = ocsp;
        self.certified = Arc::new(certified);
    }

    /// A pair that does not fit, which nobody can make of bytes.
    #[cfg(test)]
    pub(crate) fn with_key_of(mut self, other: &Self) -> Self {
        self.certified = Arc::new(CertifiedKey::new(self.certified.cert.clone(), other.certified.key.clone()));
        self
    }

    /// What a handshake shows and signs with.
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// Leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// Facts of the leaf.
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// DER; none if there is no good one.
    pub fn ocsp_staple(&self) -> Option<&[u8]> {
        self.certified.ocsp.as_deref()
    }

    /// Leaf first, and nothing but certificates, whatever else the source had in that place.
    pub fn chain_pem(&self) -> &SecretBytes {
        &self.chain_pem
    }

    /// For those who are entitled to it: SDS clients.
    pub fn key_pem(&self) -> &SecretBytes {
        &self.key_pem
    }

    fn flaws(&self, hosts: &[Host], now: Timestamp, flaws: &mut Vec<Flaw>) {
        flaws.extend_from_slice(&self.flaws);
        let validities = std::iter::once(&self.facts.validity).chain(&self.issuers);
        for (number, validity) in (1..).zip(validities) {
            if validity.not_after < now {
                flaws.push(Flaw::Expired { number, at: validity.not_after });
            } else if now < validity.not_before {
                flaws.push(Flaw::NotYetValid { number, at: validity.not_before });
            }
        }
        if !hosts.is_empty() && !self.facts.is_for_servers {
            flaws.push(Flaw::NotForServers);
        }
        for host in hosts.iter().filter(|host| !coverage::covers(&self.facts.names, host)) {
            flaws.push(Flaw::HostNotCovered { host: host.clone(), names: told_names(&self.facts) });
        }
        match self.staple {
            Staple::LeftOut(flaw) => flaws.push(Flaw::Staple(flaw)),
            Staple::None | Staple::Shown { .. } => {}
        }
    }
}

impl fmt::Debug for CertificateMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateMaterial({} certificates, key redacted)", self.chain().len())
    }
}

impl TrustMaterial {
    /// Reads authorities and, if there are some, revocation lists, all PEM.
    ///
    /// # Errors
    /// Bytes that nothing can be verified with: see [`MaterialError`].
    pub fn from_pem(authorities_pem: SecretBytes, crl_pem: Option<SecretBytes>) -> Result<Self, MaterialError> {
        let certificates = pem::certificates(authorities_pem.as_slice(), Part::Authorities)?;
        let parsed = parse_all(&certificates, Part::Authorities)?;
        let mut roots = RootCertStore::empty();
        let mut flaws = Vec::new();
        for (number, (certificate, parsed)) in (1..).zip(certificates.iter().zip(&parsed)) {
            roots.add(certificate.clone()).map_err(|error| MaterialError::BadCertificate {
                part: Part::Authorities,
                number,
                reason: error.to_string(),
            })?;
            // Old roots are of version 1, which has no way to say that they are authorities.
            if parsed.version() == X509Version::V3 && !parsed.is_ca() {
                flaws.push(Flaw::NotAnAuthority { number });
            }
        }
        let crls = crl_pem.as_ref().map(|pem| pem::revocation_lists(pem.as_slice())).transpose()?.unwrap_or_default();
        let lists = ListFacts::check(&crls, &parsed)?;
        Ok(Self {
            roots: Arc::new(roots),
            authorities_pem: pem::public_text(&authorities_pem, true, &certificates),
            crl_pem: crl_pem.map(|text| pem::public_lists(&text, &crls)),
            validities: parsed.iter().map(facts::validity).collect(),
            flaws: flaws.into(),
            crls,
            lists,
        })
    }

    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    pub fn crls(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.crls
    }

    /// Nothing but certificates, whatever else the source had in that place.
    pub fn authorities_pem(&self) -> &SecretBytes {
        &self.authorities_pem
    }

    pub fn crl_pem(&self) -> Option<&SecretBytes> {
        self.crl_pem.as_ref()
    }

    /// When the last of the authorities expires.
    pub(crate) fn last_end(&self) -> Option<Timestamp> {
        self.validities.iter().map(|validity| validity.not_after).max()
    }

    /// Facts of each authority, read again at each call.
    pub fn facts(&self) -> Vec<CertificateFacts> {
        let certificates = pem::certificates(self.authorities_pem.as_slice(), Part::Authorities).unwrap_or_default();
        certificates.iter().filter_map(|certificate| CertificateFacts::parse(certificate).ok()).collect()
    }

    fn flaws(&self, now: Timestamp, flaws: &mut Vec<Flaw>) {
        flaws.extend_from_slice(&self.flaws);
        if let Some(last) = self.last_end().filter(|last| *last < now) {
            flaws.push(Flaw::AuthoritiesExpired(last));
        }
        self.lists.flaws(now, flaws);
    }
}

impl fmt::Debug for TrustMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustMaterial({} authorities, {} revocation lists)", self.roots.len(), self.crls.len())
    }
}

impl RevocationLists {
    /// # Errors
    /// Bytes that are no revocation lists.
    pub fn from_pem(pem: &SecretBytes) -> Result<Self, MaterialError> {
        let crls = pem::revocation_lists(pem.as_slice())?;
        let lists = ListFacts::check(&crls, &[])?;
        Ok(Self { pem: pem::public_lists(pem, &crls), crls, lists })
    }

    pub fn crls(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.crls
    }

    /// Nothing but revocation lists, whatever else the source had in that place.
    pub fn pem(&self) -> &SecretBytes {
        &self.pem
    }
}

impl fmt::Debug for RevocationLists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RevocationLists({})", self.crls.len())
    }
}

fn parse_all<'a>(ders: &'a [CertificateDer<'_>], part: Part) -> Result<Vec<X509Certificate<'a>>, MaterialError> {
    let parse = |(number, der): (usize, &'a CertificateDer<'_>)| {
        facts::parse(der).map_err(|error| MaterialError::BadCertificate { part, number, reason: error.to_string() })
    };
    (1..).zip(ders).map(parse).collect()
}

/// Why a key that belongs to such a certificate could not be read.
fn unusable(certificate: &X509Certificate<'_>) -> MaterialError {
    match CertificateFacts::of(certificate).key {
        kind @ KeyKind::Other(_) => MaterialError::UnsupportedKey(kind),
        kind @ KeyKind::Rsa(bits) if !(2048..=8192).contains(&bits) => MaterialError::UnsupportedKey(kind),
        _ => MaterialError::BadKey("it is damaged, or of a kind that is not known".to_owned()),
    }
}

fn weaknesses(number: usize, certificate: &X509Certificate<'_>, flaws: &mut Vec<Flaw>) {
    if let Some(digest) = facts::weak_digest(certificate) {
        flaws.push(Flaw::WeakSignature { number, digest });
    }
    if let KeyKind::Rsa(bits) = KeyKind::of(certificate.public_key())
        && bits < 2048
    {
        flaws.push(Flaw::WeakKey { number, bits });
    }
}

fn told_names(facts: &CertificateFacts) -> String {
    let names: Vec<String> = facts.names.iter().take(MAX_NAMES_TOLD).map(ToString::to_string).collect();
    match facts.names.len() {
        0 => "none, as it has no subject alternative names (clients do not look at its common name)".to_owned(),
        all if all > MAX_NAMES_TOLD => format!("{} and {} more", names.join(", "), all - MAX_NAMES_TOLD),
        _ => names.join(", "),
    }
}
