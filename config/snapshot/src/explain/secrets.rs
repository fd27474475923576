//! What an explanation is worth once it is known which secrets are there: a handshake without a certificate gets nowhere.

use serde::Serialize;

use super::{ExplainedSecret, Explanation, Outcome};

/// How the secret that a reference means stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SecretStanding {
    pub state: SecretState,
    /// Of the reference's names the one that serves; none if none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub served_as: Option<String>,
    /// What there is to say about it, each a sentence or part of one. If nothing serves: why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
}

/// Whether a secret serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SecretState {
    Serves,
    /// Nothing serves: what needs it fails.
    Missing,
    /// It may come from somewhere that was not looked at.
    Unknown,
}

impl ExplainedSecret {
    fn is_missing(&self) -> bool {
        self.standing.as_ref().is_some_and(|standing| standing.state == SecretState::Missing)
    }

    fn shown(&self) -> String {
        self.names.join(" nor ")
    }

    /// Why it is missing.
    fn why(&self) -> String {
        self.standing.as_ref().map(|standing| standing.remarks.join("; ")).unwrap_or_default()
    }
}

impl Explanation {
    /// Holds the explanation against the secrets that are there. `standing` gets the names of a reference in the order
    /// in which they are tried, and says nothing of what it does not know. A connection whose handshake fails for want
    /// of a secret is refused: nothing that comes after it remains in the explanation.
    pub fn hold_against_secrets(&mut self, standing: impl Fn(&[String]) -> Option<SecretStanding>) {
        let look = |secret: &mut ExplainedSecret| secret.standing = standing(&secret.names);
        if let Some(tls) = self.filter_chain.as_mut().and_then(|chain| chain.tls.as_mut()) {
            tls.certificates.iter_mut().chain(&mut tls.client_authorities).for_each(look);
        }
        if let Outcome::Forward { clusters, .. } | Outcome::Proxy { clusters, .. } = &mut self.outcome {
            for cluster in clusters {
                let Some(tls) = &mut cluster.tls else { continue };
                tls.authorities.iter_mut().chain(&mut tls.certificate).for_each(look);
                let missing = tls.authorities.iter().chain(&tls.certificate).find(|secret| secret.is_missing());
                if let Some(secret) = missing {
                    let (name, secret) = (&cluster.name, secret.shown());
                    self.hints.push(format!("connections to `{name}` fail (503, UF) until {secret} arrives"));
                }
            }
        }
        if let Some((details, reason)) = self.failing_handshake() {
            self.outcome = Outcome::LocalReply { status: 0, flags: "-", details, reason };
            self.virtual_host = None;
            self.tried.clear();
            self.hints = vec!["`tidegate certs` says how the secrets of a running gateway stand".to_owned()];
        }
    }

    /// Why no handshake succeeds, in the words of the data plane's metrics and in a sentence.
    fn failing_handshake(&self) -> Option<(&'static str, String)> {
        let tls = self.filter_chain.as_ref()?.tls.as_ref()?;
        if let Some(first) = tls.certificates.first()
            && tls.certificates.iter().all(ExplainedSecret::is_missing)
        {
            let reason = format!("the handshake fails until {} arrives: {}", first.shown(), first.why());
            return Some(("no_certificate", reason));
        }
        let authorities = tls.client_authorities.as_ref().filter(|authorities| authorities.is_missing())?;
        let (names, why) = (authorities.shown(), authorities.why());
        let reason = format!("no client can be verified, and the handshake fails, until {names} arrives: {why}");
        Some(("no_authorities", reason))
    }
}
