//! Certificates: Envoy's `/certs`, and `/secrets` with what Envoy does not know.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::backend::timestamp;
use crate::dump::Node;
use crate::endpoint::{Admin, Parameters, Reply};
use crate::secret::{AlternativeName, CertificateFacts, SecretContent, SecretStatus};

/// `envoy.admin.v3.Certificates`: one element for each secret that holds certificates.
pub(crate) fn certs(admin: &Admin, _: &Parameters) -> Reply {
    let secrets = admin.backend.secrets();
    let now = SystemTime::now();
    let held = || secrets.iter().filter(|secret| !secret.certificates.is_empty());
    let certificates = Node::list(move || held().map(move |secret| Node::Leaf(certificate(secret, now))));
    Reply::json(&Node::Object(vec![("certificates", certificates)]))
}

fn certificate(secret: &SecretStatus, now: SystemTime) -> Value {
    let all: Vec<_> = secret.certificates.iter().map(|facts| details(facts, now)).collect();
    match secret.content {
        SecretContent::Authorities => json!({ "ca_cert": all, "cert_chain": [] }),
        _ => json!({ "ca_cert": [], "cert_chain": all }),
    }
}

/// `envoy.admin.v3.CertificateDetails`. Protobuf's JSON writes 64-bit numbers as text.
fn details(facts: &CertificateFacts, now: SystemTime) -> Value {
    let names = facts.subject_alt_names.iter().filter(|name| !matches!(name, AlternativeName::Email(_)));
    json!({
        // Envoy's word for what did not come from a file of its own.
        "path": "<inline>",
        "serial_number": facts.serial_number,
        "subject_alt_names": names.collect::<Vec<_>>(),
        "days_until_expiration": facts.days_left(now).to_string(),
        "valid_from": timestamp(facts.not_before),
        "expiration_time": timestamp(facts.not_after),
    })
}

/// `{"secrets": [...]}`, each a [`SecretStatus`].
pub(crate) fn secrets(admin: &Admin, parameters: &Parameters) -> Reply {
    let wanted: Vec<&str> = parameters.all("name").collect();
    let mut secrets = admin.backend.secrets();
    secrets.retain(|secret| wanted.is_empty() || wanted.contains(&secret.name.as_str()));
    Reply::json(&json_list(&secrets))
}

/// How the sources of secrets stand.
pub(crate) fn sources(admin: &Admin, _: &Parameters) -> Reply {
    Reply::json(&admin.backend.secret_sources())
}

/// Written one by one, so that ten thousand are never text at once.
fn json_list(secrets: &[SecretStatus]) -> Node<'_> {
    // A status is text and numbers, which always serialize.
    let list = move || secrets.iter().map(|secret| Node::Leaf(serde_json::to_value(secret).unwrap_or_default()));
    Node::Object(vec![("secrets", Node::list(list))])
}
