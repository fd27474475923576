//! Versions, cipher suites and key exchanges, and what of them cannot be served.

use tidegate_core::Code;
use tidegate_resources::mesh::{TlsConfig, TlsConfigProtocol};
use tidegate_resources::{Object, ServerTlsSettings, TlsProtocol};
use tidegate_snapshot::{CipherSuite, KeyExchangeGroup, TlsParameters, TlsVersion};

use crate::findings::Findings;

/// Every suite that is served, in the order of preference for a list that admits all.
const ALL_SUITES: [CipherSuite; 6] = [
    CipherSuite::EcdheEcdsaAes128Gcm,
    CipherSuite::EcdheEcdsaChacha20,
    CipherSuite::EcdheRsaAes128Gcm,
    CipherSuite::EcdheRsaChacha20,
    CipherSuite::EcdheEcdsaAes256Gcm,
    CipherSuite::EcdheRsaAes256Gcm,
];

/// Suites that Istio admits and the TLS library has none of.
const OTHER_SUITES: [&str; 9] = [
    "AES128-GCM-SHA256",
    "AES128-SHA",
    "AES256-GCM-SHA384",
    "AES256-SHA",
    "DES-CBC3-SHA",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-SHA",
];

/// What OpenSSL's names exclude that no suite which is served has.
const ABSENT_GROUPS: [&str; 25] = [
    "3DES", "ADH", "AECDH", "CAMELLIA", "CBC", "DES", "DH", "DSS", "EXP", "EXPORT", "IDEA", "LOW", "MD5", "NULL",
    "PSK", "RC2", "RC4", "SEED", "SHA", "SHA1", "SRP", "SSLv2", "SSLv3", "aNULL", "eNULL",
];

/// Key exchanges that Istio admits and the TLS library has none of.
const OTHER_GROUPS: [&str; 3] = ["P-224", "P-521", "X25519Kyber768Draft00"];

/// A list that restricts what is served. Where nothing of it can be served, that must not become no restriction.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Restriction<T> {
    None,
    To(Vec<T>),
    NothingLeft,
}

/// The parameters that hold where an object says nothing: MeshConfig's `tlsDefaults`.
#[derive(Clone, Debug)]
pub(crate) struct TlsDefaults {
    min_version: TlsVersion,
    suites: Restriction<CipherSuite>,
    groups: Restriction<KeyExchangeGroup>,
}

impl Default for TlsDefaults {
    fn default() -> Self {
        Self { min_version: TlsVersion::V1_2, suites: Restriction::None, groups: Restriction::None }
    }
}

impl TlsDefaults {
    /// Reads `tlsDefaults` of a MeshConfig.
    pub(crate) fn new(object: &Object, config: &TlsConfig, findings: &mut Findings) -> Self {
        let path = "tlsDefaults";
        Self {
            min_version: match config.min_protocol_version {
                TlsConfigProtocol::Auto | TlsConfigProtocol::V1_2 => TlsVersion::V1_2,
                TlsConfigProtocol::V1_3 => TlsVersion::V1_3,
            },
            suites: suites(object, &format!("{path}.cipherSuites"), &config.cipher_suites, findings),
            groups: groups(object, &format!("{path}.ecdhCurves"), &config.ecdh_curves, findings),
        }
    }

    /// The parameters towards backends, none if no handshake could keep to them.
    pub(crate) fn of_clients(&self) -> Option<TlsParameters> {
        parameters((self.min_version, TlsVersion::V1_3), self.suites.clone(), self.groups.clone()).ok()
    }

    /// The parameters of a server whose `tls` stands at `path`; what it says goes before the defaults. None if no
    /// handshake could keep to them, which is reported.
    pub(crate) fn of_server(
        &self,
        object: &Object,
        path: &str,
        tls: &ServerTlsSettings,
        findings: &mut Findings,
    ) -> Option<TlsParameters> {
        let mut version = |field: &str, written, default| match written {
            TlsProtocol::Auto => default,
            TlsProtocol::V1_2 => TlsVersion::V1_2,
            TlsProtocol::V1_3 => TlsVersion::V1_3,
            TlsProtocol::V1_0 | TlsProtocol::V1_1 => {
                let message = format!("{written} is not implemented; TLS 1.2 takes its place");
                findings.warning(Code::NOT_ENFORCED, object, &format!("{path}.{field}"), message);
                TlsVersion::V1_2
            }
        };
        let min = version("minProtocolVersion", tls.min_protocol_version, self.min_version);
        let max = version("maxProtocolVersion", tls.max_protocol_version, TlsVersion::V1_3);
        let own = suites(object, &format!("{path}.cipherSuites"), &tls.cipher_suites, findings);
        let suites = if own == Restriction::None { self.suites.clone() } else { own };
        let own = groups(object, &format!("{path}.ecdhCurves"), &tls.ecdh_curves, findings);
        let groups = if own == Restriction::None { self.groups.clone() } else { own };
        match parameters((min, max), suites, groups) {
            Ok(parameters) => {
                if parameters.min_version > min {
                    let message = "none of the cipher suites of TLS 1.2 can be served: clients need TLS 1.3";
                    findings.warning(Code::NOT_ENFORCED, object, &field_or(tls, path), message);
                }
                Some(parameters)
            }
            Err(contradiction) => {
                let (field, reason) = match contradiction {
                    Contradiction::Versions => (
                        "maxProtocolVersion".to_owned(),
                        "the greatest version is less than the least (which `tlsDefaults` may set)",
                    ),
                    Contradiction::Suites => (
                        "cipherSuites".to_owned(),
                        "none of the cipher suites can be served, and TLS 1.3, which does without, is not allowed",
                    ),
                    Contradiction::Groups => ("ecdhCurves".to_owned(), "none of the key exchanges can be served"),
                };
                let message = format!("{reason}; connections for the server's hosts are closed");
                findings.error(Code::SCHEMA, object, &format!("{path}.{field}"), message);
                None
            }
        }
    }
}

/// The list of the server if it has one, else the whole block: then the list is the mesh's.
fn field_or(tls: &ServerTlsSettings, path: &str) -> String {
    if tls.cipher_suites.is_empty() { path.to_owned() } else { format!("{path}.cipherSuites") }
}

/// Why no handshake can keep to parameters.
enum Contradiction {
    Versions,
    Suites,
    Groups,
}

fn parameters(
    (min, max_version): (TlsVersion, TlsVersion),
    suites: Restriction<CipherSuite>,
    groups: Restriction<KeyExchangeGroup>,
) -> Result<TlsParameters, Contradiction> {
    if min > max_version {
        return Err(Contradiction::Versions);
    }
    let groups = match groups {
        Restriction::None => Vec::new(),
        Restriction::To(groups) => groups,
        Restriction::NothingLeft => return Err(Contradiction::Groups),
    };
    let (min_version, cipher_suites) = match suites {
        Restriction::None => (min, Vec::new()),
        Restriction::To(suites) => (min, suites),
        // TLS 1.3 has suites of its own.
        Restriction::NothingLeft if max_version == TlsVersion::V1_3 => (TlsVersion::V1_3, Vec::new()),
        Restriction::NothingLeft => return Err(Contradiction::Suites),
    };
    Ok(TlsParameters { min_version, max_version, cipher_suites, groups })
}

/// The suites of a list by OpenSSL's names, with the operators `ALL`, `!X` and `-X` as far as they can be understood. An
/// exclusion that cannot be leaves no suite: to pass over it would offer what it excludes.
fn suites(object: &Object, path: &str, written: &[String], findings: &mut Findings) -> Restriction<CipherSuite> {
    if written.is_empty() {
        return Restriction::None;
    }
    let mut suites: Vec<CipherSuite> = Vec::new();
    let mut excluded: Vec<CipherSuite> = Vec::new();
    let mut understood = true;
    for (at, entry) in written.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let mut add = |suite| {
            if !suites.contains(&suite) && !excluded.contains(&suite) {
                suites.push(suite);
            }
        };
        if let Some(suite) = CipherSuite::parse(entry) {
            add(suite);
        } else if entry == "ALL" {
            ALL_SUITES.into_iter().for_each(add);
        } else if let Some(name) = entry.strip_prefix(['!', '-']) {
            let gone = match CipherSuite::parse(name) {
                Some(suite) => vec![suite],
                None if name == "ALL" => ALL_SUITES.to_vec(),
                None if ABSENT_GROUPS.contains(&name) || OTHER_SUITES.contains(&name) => continue,
                None => {
                    understood = false;
                    let message = format!(
                        "`{entry}` excludes suites in a way that is not understood; none of TLS 1.2 is offered"
                    );
                    findings.error(Code::NOT_ENFORCED, object, &path, message);
                    continue;
                }
            };
            suites.retain(|suite| !gone.contains(suite));
            if entry.starts_with('!') {
                excluded.extend(gone);
            }
        } else if OTHER_SUITES.contains(&entry.as_str()) {
            let message = format!("the suite `{entry}` is not implemented; it is left out");
            findings.warning(Code::NOT_ENFORCED, object, &path, message);
        } else if !entry.starts_with(|first: char| first.is_alphanumeric()) {
            let message = format!("the operator `{entry}` is not implemented; the order is that of the list");
            findings.warning(Code::NOT_ENFORCED, object, &path, message);
        }
        // Names that Istio does not know either are reported by validation.
    }
    if suites.is_empty() || !understood { Restriction::NothingLeft } else { Restriction::To(suites) }
}

fn groups(object: &Object, path: &str, written: &[String], findings: &mut Findings) -> Restriction<KeyExchangeGroup> {
    if written.is_empty() {
        return Restriction::None;
    }
    let mut groups = Vec::new();
    for (at, entry) in written.iter().enumerate() {
        if OTHER_GROUPS.contains(&entry.as_str()) {
            let message = format!("the key exchange `{entry}` is not implemented; it is left out");
            findings.warning(Code::NOT_ENFORCED, object, &format!("{path}[{at}]"), message);
        } else if let Some(group) = KeyExchangeGroup::parse(entry)
            && !groups.contains(&group)
        {
            groups.push(group);
        }
    }
    if groups.is_empty() { Restriction::NothingLeft } else { Restriction::To(groups) }
}
