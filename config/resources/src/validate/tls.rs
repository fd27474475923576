//! TLS settings of servers and of clients.

use super::{Report, names};
use crate::networking::{ClientTlsMode, ClientTlsSettings, ServerTlsMode, ServerTlsSettings, TlsProtocol};

/// Suites of BoringSSL that TLS 1.2 and below may use (Istio, `security.ValidCipherSuites`).
const CIPHER_SUITES: &[&str] = &[
    "AES128-GCM-SHA256",
    "AES128-SHA",
    "AES256-GCM-SHA384",
    "AES256-SHA",
    "DES-CBC3-SHA",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-RSA-CHACHA20-POLY1305",
];

/// Key exchanges that Istio knows (`security.ValidECDHCurves`).
const ECDH_CURVES: &[&str] = &["P-224", "P-256", "P-384", "P-521", "X25519", "X25519Kyber768Draft00", "X25519MLKEM768"];

pub(super) fn check_server(tls: &ServerTlsSettings, path: &str, report: &mut Report<'_>) {
    if matches!(tls.min_protocol_version, TlsProtocol::V1_0 | TlsProtocol::V1_1) && tls.cipher_suites.is_empty() {
        let message = "TLS below 1.2 needs `cipherSuites`: the default suites do not fit it any more";
        report.warning(&format!("{path}.minProtocolVersion"), message);
    }
    check_suites_and_curves(&tls.cipher_suites, &tls.ecdh_curves, path, report);
    let credentials: [(&str, bool); 6] = [
        ("serverCertificate", !tls.server_certificate.is_empty()),
        ("privateKey", !tls.private_key.is_empty()),
        ("caCertificates", !tls.ca_certificates.is_empty()),
        ("tlsCertificates", !tls.tls_certificates.is_empty()),
        ("credentialName", !tls.credential_name.is_empty()),
        ("credentialNames", !tls.credential_names.is_empty()),
    ];
    match tls.mode {
        ServerTlsMode::IstioMutual => {
            for (field, _) in credentials.iter().filter(|(_, is_set)| *is_set) {
                let message = format!("ISTIO_MUTUAL uses the workload's certificate: it has no `{field}`");
                report.error(&format!("{path}.{field}"), message);
            }
            return;
        }
        ServerTlsMode::Passthrough | ServerTlsMode::AutoPassthrough => {
            let is_set = |(_, is_set): &(&str, bool)| *is_set;
            if !tls.ca_crl.is_empty() || credentials.iter().any(is_set) {
                let message = format!("{} does not terminate TLS: certificates have no effect", tls.mode);
                report.warning(path, message);
            }
        }
        _ => {}
    }
    let sources = [
        !tls.server_certificate.is_empty() && !tls.private_key.is_empty(),
        !tls.credential_name.is_empty(),
        !tls.credential_names.is_empty(),
        !tls.tls_certificates.is_empty(),
    ];
    if sources.iter().filter(|is_set| **is_set).count() > 1 {
        report.error(
            path,
            "`credentialName`, `credentialNames`, `tlsCertificates` and `serverCertificate` with `privateKey` exclude \
             each other",
        );
    }
    let terminates = matches!(tls.mode, ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual);
    if tls.credential_names.len() > 2 {
        report.warning(&format!("{path}.credentialNames"), "a server can have two certificates at most");
    }
    if terminates && (!tls.credential_name.is_empty() || !tls.credential_names.is_empty()) {
        // Istio returns here, so that it lets `caCrl` beside a credentialName pass in these modes.
        return;
    }
    if terminates {
        check_certificates(tls, path, report);
    }
    if !tls.ca_crl.is_empty() {
        if !tls.credential_name.is_empty() {
            report.error(&format!("{path}.caCrl"), "with `credentialName` the revocation list stands in the Secret");
        }
        if tls.mode == ServerTlsMode::Simple {
            report.error(&format!("{path}.caCrl"), "SIMPLE asks clients for no certificate: it has no `caCrl`");
        }
    }
}

fn check_certificates(tls: &ServerTlsSettings, path: &str, report: &mut Report<'_>) {
    if tls.mode != ServerTlsMode::Simple && tls.ca_certificates.is_empty() {
        let message = format!("{} needs `caCertificates` or a credential", tls.mode);
        report.error(path, message);
    }
    if tls.tls_certificates.len() > 2 {
        report.warning(&format!("{path}.tlsCertificates"), "a server can have two certificates at most");
    }
    let mut needs = |path: &str, field: &str, value: &str| {
        if value.is_empty() {
            let message = format!("{} needs `{field}` or a credential", tls.mode);
            report.error(path, message);
        }
    };
    if tls.tls_certificates.is_empty() {
        needs(path, "serverCertificate", &tls.server_certificate);
        needs(path, "privateKey", &tls.private_key);
    }
    for (index, certificate) in tls.tls_certificates.iter().enumerate() {
        let path = format!("{path}.tlsCertificates[{index}]");
        needs(&path, "serverCertificate", &certificate.server_certificate);
        needs(&path, "privateKey", &certificate.private_key);
    }
}

/// Warns of names that nobody knows; what Istio knows and is not served here, the compiler tells.
pub(super) fn check_suites_and_curves(suites: &[String], curves: &[String], path: &str, report: &mut Report<'_>) {
    for (index, suite) in suites.iter().enumerate() {
        let path = || format!("{path}.cipherSuites[{index}]");
        // Operators such as `-ALL` are passed on unread.
        let is_operator = suite.chars().next().is_none_or(|first| !first.is_alphanumeric());
        if !is_operator && suite != "ALL" && !CIPHER_SUITES.contains(&suite.as_str()) {
            report.warning(&path(), format!("`{suite}` is no cipher suite; it is left out"));
        }
    }
    for (index, curve) in curves.iter().enumerate() {
        if !ECDH_CURVES.contains(&curve.as_str()) {
            let message = format!("`{curve}` is no key exchange; it is left out");
            report.warning(&format!("{path}.ecdhCurves[{index}]"), message);
        }
    }
    for (field, entries) in [("cipherSuites", suites), ("ecdhCurves", curves)] {
        for index in names::repeated(entries) {
            report.warning(&format!("{path}.{field}[{index}]"), format!("`{}` stands twice", entries[index]));
        }
    }
}

pub(super) fn check_client(tls: &ClientTlsSettings, path: &str, report: &mut Report<'_>) {
    if let Some(name) = tls.credential_name.strip_prefix("configmap://") {
        let mut parts = name.split('/');
        let (namespace, map) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let path = format!("{path}.credentialName");
        if namespace.is_empty() || map.is_empty() {
            report.error(&path, format!("`{}` is not of the form configmap://namespace/name", tls.credential_name));
        } else if namespace != report.namespace() {
            report.error(&path, "a ConfigMap for TLS must be in the namespace of the object that names it");
        }
    }
    let skips_verification = tls.insecure_skip_verify.unwrap_or(false);
    let verifies = !tls.ca_certificates.is_empty() || !tls.subject_alt_names.is_empty();
    let conflicts = match tls.mode {
        ClientTlsMode::Simple => verifies || !tls.credential_name.is_empty(),
        ClientTlsMode::Mutual => verifies,
        _ => false,
    };
    if skips_verification && conflicts {
        let message = "nothing is verified, so there is nothing for caCertificates, subjectAltNames or, in mode \
                       SIMPLE, credentialName to do";
        report.error(&format!("{path}.insecureSkipVerify"), message);
    }
    let has_mode = matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual);
    if has_mode && !tls.credential_name.is_empty() {
        let files = [&tls.client_certificate, &tls.ca_certificates, &tls.private_key, &tls.ca_crl];
        if files.iter().any(|file| !file.is_empty()) {
            report
                .error(&format!("{path}.credentialName"), "`credentialName` and certificate files exclude each other");
        }
        return;
    }
    if tls.mode == ClientTlsMode::Mutual {
        for (field, value) in [("clientCertificate", &tls.client_certificate), ("privateKey", &tls.private_key)] {
            if value.is_empty() {
                report.error(path, format!("MUTUAL needs `{field}` or a `credentialName`"));
            }
        }
    }
}
