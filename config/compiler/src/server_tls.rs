//! How servers terminate TLS. What cannot be kept to as it is written is refused: a restriction never becomes none.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tidegate_core::{Code, SecretName};
use tidegate_resources::{Object, ResourceSet, ServerTlsMode as Mode, ServerTlsSettings};
use tidegate_snapshot::{ClientValidation, Digest256, SecretRef, ServerTls, ServerTlsMode};

use crate::compile::CompileOptions;
use crate::findings::Findings;
use crate::secrets::{Field, Purpose, Secrets, is_path, shown};
use crate::tls_parameters::TlsDefaults;

/// Why a text names no file. It is not quoted: it may be a key.
pub(crate) const NO_PATH: &str = "this is no path of a file; what the file holds cannot stand here";

/// Most certificates of one server, each of its own key type.
const MAX_CERTIFICATES: usize = 2;

/// What is inside of TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Application {
    Http,
    Opaque,
}

/// Makes the TLS of servers.
#[derive(Debug)]
pub(crate) struct ServerTlsCompiler<'a> {
    secrets: Secrets<'a>,
    defaults: &'a TlsDefaults,
}

/// The `tls` block of a server.
#[derive(Clone, Copy)]
struct Block<'b> {
    object: &'b Object,
    path: &'b str,
    tls: &'b ServerTlsSettings,
}

impl<'a> ServerTlsCompiler<'a> {
    pub(crate) fn new(resources: &'a ResourceSet, defaults: &'a TlsDefaults, options: &'a CompileOptions) -> Self {
        Self { secrets: Secrets::new(resources, options), defaults }
    }

    /// The TLS of a server that terminates it, whose block stands at `path`. None if it cannot be served as it is
    /// written, which is reported.
    pub(crate) fn compile(
        &mut self,
        object: &Object,
        path: &str,
        tls: &ServerTlsSettings,
        application: Application,
        findings: &mut Findings,
    ) -> Option<ServerTls> {
        let block = Block { object, path, tls };
        // All of it is looked at, so that all that is wrong is told at once.
        let parameters = self.defaults.of_server(object, path, tls, findings);
        let certificates = self.certificates(block, findings);
        let mode = match tls.mode {
            Mode::Mutual => ServerTlsMode::Mutual,
            Mode::OptionalMutual => ServerTlsMode::OptionalMutual,
            _ => ServerTlsMode::Simple,
        };
        let client_validation = match mode {
            ServerTlsMode::Simple => {
                report_without_clients(block, findings);
                Some(None)
            }
            ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => self.client_validation(block, findings).map(Some),
        };
        let alpn: &[&str] = match application {
            Application::Http => &["h2", "http/1.1"],
            Application::Opaque => &[],
        };
        Some(ServerTls {
            mode,
            certificates: certificates?,
            client_validation: client_validation?,
            parameters: parameters?,
            alpn: alpn.iter().map(|protocol| (*protocol).to_owned()).collect(),
        })
    }

    /// At least one; of several those that may be read.
    fn certificates(&mut self, block: Block<'_>, findings: &mut Findings) -> Option<Vec<SecretRef>> {
        let Block { object, path, tls } = block;
        let mut named: Vec<(String, &str)> = Vec::new();
        if !tls.credential_name.is_empty() {
            named.push((format!("{path}.credentialName"), &tls.credential_name));
        } else {
            let names = tls.credential_names.iter().take(MAX_CERTIFICATES).enumerate();
            named.extend(names.map(|(at, name)| (format!("{path}.credentialNames[{at}]"), name.as_str())));
        }
        let mut certificates: Vec<SecretRef> = Vec::new();
        if !named.is_empty() {
            for (path, name) in &named {
                let field = Field { object, path };
                certificates.extend(self.secrets.of_gateway(field, name, Purpose::Certificate, findings));
            }
        } else if !tls.tls_certificates.is_empty() {
            for (at, pair) in tls.tls_certificates.iter().take(MAX_CERTIFICATES).enumerate() {
                let path = format!("{path}.tlsCertificates[{at}]");
                let files = (pair.server_certificate.as_str(), pair.private_key.as_str());
                certificates.extend(file_certificate(object, &path, files, findings));
            }
        } else {
            let files = (tls.server_certificate.as_str(), tls.private_key.as_str());
            certificates.extend(file_certificate(object, path, files, findings));
        }
        certificates.dedup();
        certificates.shrink_to_fit();
        (!certificates.is_empty()).then_some(certificates)
    }

    fn client_validation(&mut self, block: Block<'_>, findings: &mut Findings) -> Option<ClientValidation> {
        let Block { object, path, tls } = block;
        let accept_untrusted = tls.insecure_skip_verify.unwrap_or(false);
        let ca = self.authorities(block, accept_untrusted, findings);
        let pins = pins(block, findings);
        if accept_untrusted {
            report_unverified(block, findings);
        }
        let has_crl = !tls.ca_crl.is_empty();
        if has_crl && !is_path(&tls.ca_crl) {
            findings.error(Code::SCHEMA, object, &format!("{path}.caCrl"), NO_PATH);
            return None;
        }
        let (ca, (spki_hashes, certificate_hashes)) = (ca?, pins?);
        if ca.is_none() && !accept_untrusted && spki_hashes.is_empty() && certificate_hashes.is_empty() {
            let message = format!("{} needs authorities; connections for the server's hosts are closed", tls.mode);
            findings.error(Code::SCHEMA, object, path, message);
            return None;
        }
        Some(ClientValidation {
            ca,
            crl: has_crl.then(|| SecretName::file_crl(&tls.ca_crl)),
            subject_alt_names: tls.subject_alt_names.clone(),
            spki_hashes,
            certificate_hashes,
            accept_untrusted,
        })
    }

    /// Authorities by `caCertCredentialName`, else those of the first credential, else those of a file. `Some(None)`
    /// where none are written; none if they may not be used, which is reported.
    #[expect(clippy::option_option, reason = "no authorities and no usable authorities differ")]
    fn authorities(
        &mut self,
        block: Block<'_>,
        accept_untrusted: bool,
        findings: &mut Findings,
    ) -> Option<Option<SecretRef>> {
        let Block { object, path, tls } = block;
        let mut named = |field: &str, name: &str, purpose| {
            let path = format!("{path}.{field}");
            self.secrets.of_gateway(Field { object, path: &path }, name, purpose, findings).map(Some)
        };
        if !tls.ca_cert_credential_name.is_empty() {
            return named("caCertCredentialName", &tls.ca_cert_credential_name, Purpose::Authorities);
        }
        let credential = match tls.credential_names.first() {
            _ if !tls.credential_name.is_empty() => Some(("credentialName", &tls.credential_name)),
            Some(first) => Some(("credentialNames[0]", first)),
            None => None,
        };
        if let Some((field, name)) = credential {
            // Nobody asks for authorities whose word does not count.
            return if accept_untrusted { Some(None) } else { named(field, name, Purpose::CredentialAuthorities) };
        }
        let of_pair = tls.tls_certificates.first().map(|pair| pair.ca_certificates.as_str());
        let (field, file) = match tls.ca_certificates.as_str() {
            "" => ("tlsCertificates[0].caCertificates", of_pair.unwrap_or_default()),
            file => ("caCertificates", file),
        };
        if file.is_empty() {
            return Some(None);
        }
        let path = format!("{path}.{field}");
        if !is_path(file) {
            findings.error(Code::SCHEMA, object, &path, NO_PATH);
            return None;
        }
        Some(Some(Field { object, path: &path }.reference(vec![SecretName::file_root(file)])))
    }
}

/// The certificate of two files, which stand beside each other in the block at `path`.
pub(crate) fn file_certificate(
    object: &Object,
    path: &str,
    (chain, key): (&str, &str),
    findings: &mut Findings,
) -> Option<SecretRef> {
    if chain.is_empty() || key.is_empty() {
        let message = "a certificate needs a file and a file for its key, or a credential";
        findings.error(Code::SCHEMA, object, path, message);
        return None;
    }
    if !is_path(chain) || !is_path(key) {
        findings.error(Code::SCHEMA, object, path, NO_PATH);
        return None;
    }
    if chain.contains('~') {
        let message = format!("`{}`: the path of a certificate cannot have a `~`", shown(chain));
        findings.error(Code::SCHEMA, object, path, message);
        return None;
    }
    Some(Field { object, path }.reference(vec![SecretName::file_certificate(chain, key)]))
}

/// SHA-256 digests of public keys and of certificates. None if some are written and none can be read: a pin that is lost
/// must not admit everybody.
fn pins(block: Block<'_>, findings: &mut Findings) -> Option<(Vec<Digest256>, Vec<Digest256>)> {
    let Block { object, path, tls } = block;
    let written = [
        ("verifyCertificateSpki", &tls.verify_certificate_spki),
        ("verifyCertificateHash", &tls.verify_certificate_hash),
    ];
    if tls.credential_name.is_empty() && tls.credential_names.is_empty() {
        for (field, _) in written.iter().filter(|(_, written)| !written.is_empty()) {
            let message = "it has an effect with `credentialName` or `credentialNames` only, as in Istio";
            findings.warning(Code::IGNORED, object, &format!("{path}.{field}"), message);
        }
        return Some((Vec::new(), Vec::new()));
    }
    let mut read = |field: &str, written: &[String], form: &str, parse: fn(&str) -> Option<Digest256>| {
        let mut digests = Vec::with_capacity(written.len());
        for (at, text) in written.iter().enumerate() {
            match parse(text) {
                Some(digest) => digests.push(digest),
                None => {
                    let message = format!("`{}` is not {form}; no certificate fits it", shown(text));
                    findings.error(Code::SCHEMA, object, &format!("{path}.{field}[{at}]"), message);
                }
            }
        }
        digests
    };
    let [(spki_field, spki), (hash_field, hash)] = written;
    let spki_hashes = read(spki_field, spki, "a SHA-256 digest in base64", parse_spki);
    let certificate_hashes = read(hash_field, hash, "a SHA-256 digest in hexadecimal digits", parse_hash);
    if spki_hashes.is_empty() && certificate_hashes.is_empty() && !(spki.is_empty() && hash.is_empty()) {
        let message = "none of the pins can be read; connections for the server's hosts are closed";
        findings.error(Code::SCHEMA, object, path, message);
        return None;
    }
    Some((spki_hashes, certificate_hashes))
}

/// `NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A=`
fn parse_spki(text: &str) -> Option<Digest256> {
    STANDARD.decode(text).ok()?.try_into().ok().map(Digest256)
}

/// `df6ff72fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049d1a`, with colons or without.
fn parse_hash(text: &str) -> Option<Digest256> {
    let digits: Vec<u8> = match text.len() {
        64 => text.bytes().collect(),
        // A colon after each two digits.
        95 => text.split(':').map(str::as_bytes).filter(|pair| pair.len() == 2).flatten().copied().collect(),
        _ => return None,
    };
    let mut digest = [0; 32];
    if digits.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(Digest256(digest))
}

/// Fields that verify clients, and whether they are set.
fn verifying(tls: &ServerTlsSettings) -> [(&'static str, bool); 4] {
    [
        ("subjectAltNames", !tls.subject_alt_names.is_empty()),
        ("verifyCertificateSpki", !tls.verify_certificate_spki.is_empty()),
        ("verifyCertificateHash", !tls.verify_certificate_hash.is_empty()),
        ("caCrl", !tls.ca_crl.is_empty()),
    ]
}

/// SIMPLE asks clients for no certificate.
fn report_without_clients(Block { object, path, tls }: Block<'_>, findings: &mut Findings) {
    let more = [
        ("caCertCredentialName", !tls.ca_cert_credential_name.is_empty()),
        ("caCertificates", !tls.ca_certificates.is_empty()),
        ("insecureSkipVerify", tls.insecure_skip_verify == Some(true)),
    ];
    for (field, _) in verifying(tls).into_iter().chain(more).filter(|(_, is_set)| *is_set) {
        let message = "SIMPLE asks clients for no certificate: it has no effect";
        findings.warning(Code::IGNORED, object, &format!("{path}.{field}"), message);
    }
}

fn report_unverified(Block { object, path, tls }: Block<'_>, findings: &mut Findings) {
    for (field, _) in verifying(tls).into_iter().filter(|(_, is_set)| *is_set) {
        let message = "`insecureSkipVerify` accepts every certificate: it has no effect";
        findings.warning(Code::IGNORED, object, &format!("{path}.{field}"), message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_in_istios_forms() {
        let hex = "df6ff72fe9116521268f6f2dd4966f51df479883fe7037b39f75916ac3049d1a";
        let colons: Vec<&str> = (0..32).map(|at| &hex[2 * at..2 * at + 2]).collect();
        assert_eq!(parse_hash(hex).unwrap().to_string(), hex);
        assert_eq!(parse_hash(&hex.to_uppercase()).unwrap().to_string(), hex);
        assert_eq!(parse_hash(&colons.join(":")).unwrap().to_string(), hex);
        for bad in ["", "00", &hex[1..], &colons.join(":")[1..], &hex.replace('d', "x"), &format!("{hex}:")] {
            assert!(parse_hash(bad).is_none(), "{bad}");
        }
        assert_eq!(parse_spki("NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A=").unwrap().0[..2], [0x36, 0xfa]);
        for bad in ["", "NvqY", "NvqYIYSbgK2vCJpQhObf77vv+bQWtc5ek5RIOwPiC9A", "????"] {
            assert!(parse_spki(bad).is_none(), "{bad}");
        }
    }
}
