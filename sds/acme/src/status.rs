use std::time::SystemTime;

use tidegate_core::{Code, Diagnostic, Level, Origin, ResourceKey, SecretName};

use crate::ChallengeKind;
use crate::leaf::Validity;

/// How it stands with one certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CertificateState {
    /// There is none yet, and no order is under way.
    Waiting,
    /// An order is under way; an earlier certificate may serve meanwhile.
    Ordering,
    /// Issued, and to be renewed in time.
    Issued,
    /// The last attempt failed; an earlier certificate may serve meanwhile.
    Failed,
    /// The authority issued a certificate that the store does not take; it says why.
    NotTaken,
    /// It asks for what no authority could fulfil, so nothing is attempted.
    Invalid,
}

impl CertificateState {
    /// One word for tables and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            CertificateState::Waiting => "waiting",
            CertificateState::Ordering => "ordering",
            CertificateState::Issued => "issued",
            CertificateState::Failed => "failed",
            CertificateState::NotTaken => "not-taken",
            CertificateState::Invalid => "invalid",
        }
    }
}

/// What is known of one certificate. No key material.
#[derive(Clone, PartialEq, Debug)]
pub struct CertificateStatus {
    pub name: SecretName,
    pub key: Option<ResourceKey>,
    pub origin: Origin,
    /// Lower case, sorted.
    pub dns_names: Vec<String>,
    pub directory: String,
    pub challenge: ChallengeKind,
    pub state: CertificateState,
    /// Validity of the certificate that was issued last and taken.
    pub not_before: Option<SystemTime>,
    pub not_after: Option<SystemTime>,
    /// When this process got it; none if it came from the state directory.
    pub issued_at: Option<SystemTime>,
    /// When the next order, or the next look at one in progress, is due. None while one is under way or never will be.
    pub next_attempt: Option<SystemTime>,
    /// Failures in a row.
    pub failures: u32,
    /// Why the last attempt failed, with what the authority said.
    pub last_error: Option<String>,
    /// Where to look because of it.
    pub help: Option<String>,
    /// Orders that this process placed.
    pub orders: u64,
}

impl CertificateStatus {
    /// What is to be told of it at `now`.
    pub(crate) fn finding(&self, now: SystemTime) -> Option<Diagnostic> {
        let error = self.last_error.as_deref();
        let validity = self.not_before.zip(self.not_after);
        let alarm = validity.map(|(not_before, not_after)| Validity { not_before, not_after }.alarm_at());
        let (level, message) = match (self.not_after, error) {
            (_, Some(error)) if self.state == CertificateState::Invalid => {
                (Level::Error, format!("no certificate can be ordered: {error}"))
            }
            (None, Some(error)) => (Level::Error, format!("no certificate yet: {error}")),
            (None, None) => return None,
            (Some(end), error) if end <= now => {
                let error = error.map(|error| format!(" and is not renewed: {error}")).unwrap_or_default();
                (Level::Error, format!("the certificate expired on {}; it serves on{error}", date(end)))
            }
            (Some(_), None) => return None,
            (Some(end), Some(error)) => {
                let level = if alarm.is_none_or(|alarm| now >= alarm) { Level::Error } else { Level::Warning };
                (level, format!("{error}; the certificate that is there holds until {}", date(end)))
            }
        };
        let mut finding = Diagnostic::new(Code::CERTIFICATE_NOT_ISSUED, level, self.origin.clone(), message);
        finding.key.clone_from(&self.key);
        finding.help.clone_from(&self.help);
        Some(finding)
    }
}

fn date(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}
