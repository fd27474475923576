//! How connections to a cluster's endpoints are secured, as DestinationRules say (reference, 3.7).

use tidegate_core::{Code, SecretName};
use tidegate_resources::{ClientTlsMode, ClientTlsSettings};
use tidegate_snapshot::{ClientTls, SecretRef, ServerTrust, TlsParameters, UpstreamServerName};

use crate::destination_rules::TlsBlock;
use crate::findings::Findings;
use crate::secrets::{Field, Purpose, Secrets, is_path};
use crate::server_tls::{NO_PATH, file_certificate};
use crate::tls_parameters::TlsDefaults;

/// What stands for a secret that may not be used: no source has it, so that connections that need it fail. Istio has the
/// same form.
const REFUSED: &str = "invalid://refused";

/// The TLS of a cluster; none for plaintext. What cannot be kept to makes connections fail: they never get less secure.
pub(crate) fn client_tls(
    block: &TlsBlock<'_>,
    service_names: &[String],
    secrets: &Secrets<'_>,
    defaults: &TlsDefaults,
    findings: &mut Findings,
) -> Option<ClientTls> {
    let TlsBlock { settings: tls, object, .. } = *block;
    match tls.mode {
        ClientTlsMode::Simple | ClientTlsMode::Mutual => {}
        // Decoding says that ISTIO_MUTUAL is not enforced yet.
        ClientTlsMode::Disable | ClientTlsMode::IstioMutual => return None,
    }
    let path = block.path();
    let field = |name: &str| format!("{path}.{name}");
    let refused = |name: &str| Field { object, path: &field(name) }.reference(vec![SecretName::new(REFUSED)]);
    let of_credential = |purpose, findings: &mut Findings| {
        let path = field("credentialName");
        secrets
            .of_client(Field { object, path: &path }, &tls.credential_name, purpose, findings)
            .unwrap_or_else(|| refused("credentialName"))
    };
    let by_credential = !tls.credential_name.is_empty();
    let mut trust = if tls.insecure_skip_verify.unwrap_or(false) {
        ServerTrust::Unverified
    } else if by_credential {
        // A ConfigMap holds authorities alone, so there they are what it names and not what belongs to it.
        let is_map = tls.credential_name.starts_with("configmap://");
        let purpose = if is_map { Purpose::Authorities } else { Purpose::CredentialAuthorities };
        ServerTrust::Authorities(of_credential(purpose, findings))
    } else {
        file_trust(tls, Field { object, path: &field("caCertificates") }, findings)
    };
    let certificate = (tls.mode == ClientTlsMode::Mutual).then(|| {
        if by_credential {
            return of_credential(Purpose::Certificate, findings);
        }
        let files = (tls.client_certificate.as_str(), tls.private_key.as_str());
        let path = field("clientCertificate");
        file_certificate(object, &path, files, findings).unwrap_or_else(|| refused("clientCertificate"))
    });
    let parameters = defaults.of_clients().unwrap_or_else(|| {
        let message = "no handshake can keep to `tlsDefaults` of the mesh: connections fail";
        findings.error(Code::SCHEMA, object, &path, message);
        trust = ServerTrust::Authorities(refused("mode"));
        TlsParameters::default()
    });
    let has_crl = !by_credential && !tls.ca_crl.is_empty();
    if has_crl && !is_path(&tls.ca_crl) {
        findings.error(Code::SCHEMA, object, &field("caCrl"), NO_PATH);
        trust = ServerTrust::Authorities(refused("caCrl"));
    }
    let names = if tls.subject_alt_names.is_empty() { service_names } else { &tls.subject_alt_names };
    Some(ClientTls {
        trust,
        crl: (has_crl && is_path(&tls.ca_crl)).then(|| SecretName::file_crl(&tls.ca_crl)),
        certificate,
        server_name: match tls.sni.as_str() {
            "" => UpstreamServerName::FromHost,
            sni => UpstreamServerName::Fixed(sni.to_owned()),
        },
        subject_alt_names: names.to_vec(),
        parameters,
    })
}

fn file_trust(tls: &ClientTlsSettings, field: Field<'_>, findings: &mut Findings) -> ServerTrust {
    match tls.ca_certificates.as_str() {
        "" | "system" | "file-root:system" => ServerTrust::System,
        file if !is_path(file) => {
            findings.error(Code::SCHEMA, field.object, field.path, NO_PATH);
            ServerTrust::Authorities(field.reference(vec![SecretName::new(REFUSED)]))
        }
        file => {
            let reference: SecretRef = field.reference(vec![SecretName::file_root(file)]);
            ServerTrust::Authorities(reference)
        }
    }
}
