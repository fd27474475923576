//! What can be said of an AcmeCertificate before an authority is asked: whether its challenge can be answered, and whether
//! anybody names what it brings.

use std::collections::BTreeSet;

use tidegate_core::{Code, Diagnostic, Kind, Level, Origin, ResourceKey, SecretName};
use tidegate_resources::{AcmeChallenge, Object, ResourceSet, Spec};
use tidegate_snapshot::{ListenerProtocol, Snapshot};

use super::sources;

/// One AcmeCertificate.
#[derive(Clone, Debug)]
pub(super) struct Order {
    key: ResourceKey,
    name: SecretName,
    challenge: AcmeChallenge,
    challenge_origin: Origin,
    name_origin: Origin,
}

/// What the Snapshot serves of the kinds that answer challenges.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answers {
    http: bool,
    tls: bool,
}

impl Answers {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let has = |protocol| snapshot.listeners().iter().any(|listener| listener.protocol == protocol);
        Self { http: has(ListenerProtocol::Http), tls: has(ListenerProtocol::Tls) }
    }
}

pub(super) fn of(resources: &ResourceSet) -> Vec<Order> {
    resources.iter_kind(Kind::AcmeCertificate).filter_map(|object| order(object)).collect()
}

fn order(object: &Object) -> Option<Order> {
    let Spec::AcmeCertificate(certificate) = &object.spec else { return None };
    Some(Order {
        key: object.key.clone(),
        name: sources::issued_name(object)?,
        challenge: certificate.challenge,
        challenge_origin: object.origin_of("spec.challenge"),
        name_origin: object.origin_of("spec.credentialName"),
    })
}

/// `names` are all that anything asks for.
pub(super) fn findings(orders: &[Order], answers: Answers, names: &BTreeSet<SecretName>) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    for order in orders {
        let (is_answered, message, help) = match order.challenge {
            AcmeChallenge::Http01 => (
                answers.http,
                "no Gateway has an HTTP server, and HTTP-01 is answered there: the order fails",
                "add a server with `protocol: HTTP`, which the authority reaches as port 80, or use TLS-ALPN-01",
            ),
            AcmeChallenge::TlsAlpn01 => (
                answers.tls,
                "no Gateway has a TLS server, and TLS-ALPN-01 is answered there: the order fails",
                "add a server with `protocol: HTTPS`, which the authority reaches as port 443, or use HTTP-01",
            ),
        };
        if !is_answered {
            let finding = Diagnostic::warning(Code::CERTIFICATE_NOT_ISSUED, order.challenge_origin.clone(), message);
            findings.push(finding.key(order.key.clone()).path("spec.challenge").help(help));
        }
        if !names.contains(&order.name) {
            let message = format!("nothing names {}: it is issued and renewed for nobody", order.name);
            let finding =
                Diagnostic::new(Code::CERTIFICATE_NOT_ISSUED, Level::Info, order.name_origin.clone(), message);
            findings.push(finding.key(order.key.clone()).path("spec.credentialName"));
        }
    }
    findings
}
