//! `SecretsConfigDump`, from which `istioctl proxy-config secret` makes its table.

use serde_json::{Value, json};

use super::{DumpOptions, Node, base64, set, typed};
use crate::backend::timestamp;
use crate::secret::{SecretContent, SecretState, SecretStatus};

pub(super) fn section(options: DumpOptions<'_>) -> Node<'_> {
    let secrets = move |warming: bool| {
        let named = options.secrets.iter().filter(move |secret| options.names(&secret.name));
        named.filter(move |secret| (secret.state == SecretState::Warming) == warming)
    };
    let mut fields = Vec::new();
    for (name, warming) in [("dynamic_active_secrets", false), ("dynamic_warming_secrets", true)] {
        if secrets(warming).next().is_some() {
            fields.push((name, Node::list(move || secrets(warming).map(|secret| Node::Leaf(dynamic(secret))))));
        }
    }
    Node::Object(fields)
}

/// `SecretsConfigDump.DynamicSecret`.
fn dynamic(status: &SecretStatus) -> Value {
    let mut message = json!({ "name": status.name });
    set(&mut message, "version_info", (status.version > 0).then(|| status.version.to_string()));
    set(&mut message, "last_updated", status.rotated.map(timestamp));
    set(&mut message, "secret", Some(secret(status)));
    message
}

/// `envoy.extensions.transport_sockets.tls.v3.Secret`, its key hidden the way Envoy hides it.
fn secret(status: &SecretStatus) -> Value {
    let mut message = json!({ "name": status.name });
    let inline = |bytes: &[u8]| json!({ "inline_bytes": base64(bytes) });
    let certificates = status.certificates_pem.as_deref().map(inline);
    match status.content {
        SecretContent::CertificateChain => {
            let mut certificate = json!({});
            set(&mut certificate, "certificate_chain", certificates);
            set(&mut certificate, "private_key", Some(inline(b"[redacted]")));
            set(&mut message, "tls_certificate", Some(certificate));
        }
        SecretContent::Authorities | SecretContent::RevocationLists => {
            let mut validation = json!({});
            set(&mut validation, "trusted_ca", certificates);
            set(&mut validation, "crl", status.crl_pem.as_deref().map(inline));
            set(&mut message, "validation_context", Some(validation));
        }
        SecretContent::Unknown => {}
    }
    typed("envoy.extensions.transport_sockets.tls.v3.Secret", message)
}
