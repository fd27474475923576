use std::fmt::Write;
use std::time::Duration;

use instant_acme::{Error, Problem};

use crate::ChallengeKind;
use crate::state::StateError;
use crate::transport::TransportError;

/// Text of an authority is cut here before anybody sees it.
const MAX_TEXT: usize = 600;

/// Why a certificate was not issued, in words for the user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A problem document (RFC 7807).
    #[error("the authority refused {step}: {text}")]
    Refused { step: &'static str, text: String, kind: ProblemKind, retry_after: Option<Duration> },
    /// No answer, or none that is ACME.
    #[error("{step} failed: {text}")]
    Unreachable { step: &'static str, text: String, retry_after: Option<Duration> },
    /// The authority looked for the challenge and did not find it.
    #[error("the authority could not validate {0}")]
    Validation(String),
    /// The order is dead for a reason that is no challenge's.
    #[error("the authority gave the order up: {0}")]
    Ended(String),
    /// An answer that breaks the protocol.
    #[error("the authority does not keep to the protocol: {0}")]
    Authority(String),
    #[error("the authority takes longer than {} to {what}", humantime::format_duration(*limit))]
    Slow { what: &'static str, limit: Duration },
    #[error(transparent)]
    State(#[from] StateError),
    /// A certificate that is not what was ordered.
    #[error("what the authority issued cannot be used: {0}")]
    Misissued(String),
    #[error("internal error: {0}")]
    Internal(String),
}

/// Problems that are answered by something else than waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ProblemKind {
    AccountUnknown,
    BadNonce,
    RateLimited,
    AlreadyReplaced,
    /// The server's own trouble, which says nothing of what was asked.
    Server,
    Other,
}

impl Failure {
    pub(crate) fn authority(text: impl AsRef<str>) -> Self {
        Failure::Authority(plain(text.as_ref()))
    }

    pub(crate) fn internal(text: impl Into<String>) -> Self {
        Failure::Internal(text.into())
    }

    /// What instant-acme reports of a call.
    pub(crate) fn of_call(step: &'static str, error: Error, retry_after: Option<Duration>) -> Self {
        match error {
            Error::Api(problem) => {
                Failure::Refused { step, text: words(&problem), kind: problem_kind(&problem), retry_after }
            }
            Error::Json(error) => Failure::authority(format!("{step}: {error}")),
            Error::Str(text) => Failure::authority(format!("{step}: {text}")),
            Error::Other(error) => match error.downcast::<TransportError>() {
                Ok(error) => {
                    let text = plain(&error.to_string());
                    match *error {
                        TransportError::Status { status, .. } if status.is_client_error() => {
                            Failure::Refused { step, text, kind: ProblemKind::Other, retry_after }
                        }
                        _ => Failure::Unreachable { step, text, retry_after },
                    }
                }
                Err(error) => Failure::Unreachable { step, text: plain(&error.to_string()), retry_after },
            },
            error => Failure::Unreachable { step, text: plain(&error.to_string()), retry_after },
        }
    }

    /// What the authority told with `Retry-After`.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Failure::Refused { retry_after, .. } | Failure::Unreachable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Whether the order went wrong, so that nothing is wrong with the account.
    pub(crate) fn is_of_the_order(&self) -> bool {
        matches!(self, Failure::Validation(_) | Failure::Ended(_) | Failure::Misissued(_) | Failure::Slow { .. })
    }

    /// Where the user should look, if the failure says so.
    pub(crate) fn help(&self, challenge: ChallengeKind) -> Option<String> {
        let Failure::Validation(_) = self else { return None };
        let port = match challenge {
            ChallengeKind::Http01 => 80,
            ChallengeKind::TlsAlpn01 => 443,
        };
        Some(format!("the authority must reach port {port} of this gateway under each name"))
    }

    pub(crate) fn problem(&self) -> Option<ProblemKind> {
        match self {
            Failure::Refused { kind, .. } => Some(*kind),
            _ => None,
        }
    }
}

/// Whether a call is worth repeating at once with the nonce that came with the refusal.
pub(crate) fn is_bad_nonce(error: &Error) -> bool {
    matches!(error, Error::Api(problem) if problem_kind(problem) == ProblemKind::BadNonce)
}

fn problem_kind(problem: &Problem) -> ProblemKind {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    match kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or_default() {
        "accountDoesNotExist" => ProblemKind::AccountUnknown,
        "badNonce" => ProblemKind::BadNonce,
        "rateLimited" => ProblemKind::RateLimited,
        "alreadyReplaced" => ProblemKind::AlreadyReplaced,
        "serverInternal" => ProblemKind::Server,
        _ if problem.status.is_some_and(|status| status >= 500) => ProblemKind::Server,
        _ => ProblemKind::Other,
    }
}

/// The problem in one line: its detail, what it says of single names, and its type.
pub(crate) fn words(problem: &Problem) -> String {
    let mut text = problem.detail.clone().unwrap_or_else(|| "it gives no reason".into());
    for sub in &problem.subproblems {
        let name = sub.identifier.as_ref().map(|name| name.authorized(false).to_string()).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = write!(text, "; {name}: {}", sub.detail.as_deref().unwrap_or("no reason given"));
    }
    if let Some(kind) = &problem.r#type {
        let _ = write!(text, " ({})", kind.strip_prefix("urn:ietf:params:acme:error:").unwrap_or(kind));
    }
    plain(&text)
}

/// Text of strangers without control characters and of bounded length.
pub(crate) fn plain(text: &str) -> String {
    let mut plain: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect::<String>();
    if text.chars().nth(MAX_TEXT).is_some() {
        plain.push('…');
    }
    plain.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_told_in_words_without_control_characters() {
        let problem: Problem = serde_json::from_str(
            r#"{"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"policy\u001b[31m forbids","status":403,
                "subproblems":[{"type":"x","detail":"not for you","identifier":{"type":"dns","value":"a.com"}}]}"#,
        )
        .unwrap();
        let failure = Failure::of_call("the order", Error::Api(problem), None);
        assert_eq!(
            failure.to_string(),
            "the authority refused the order: policy [31m forbids; a.com: not for you (rejectedIdentifier)"
        );
        assert_eq!(failure.problem(), Some(ProblemKind::Other));
        assert!(plain(&"x".repeat(10_000)).chars().count() <= MAX_TEXT + 1);
    }
}
