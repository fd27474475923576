use std::{fmt, io};

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::upstream::TransportFailure;

/// Why a connection did not get past its handshake: the label of a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum HandshakeFailure {
    /// The client went before it was done.
    Closed,
    /// It took longer than it may.
    Timeout,
    /// Too many handshakes were under way.
    Overflow,
    /// The ClientHello is larger than is read.
    TooLarge,
    /// Bytes that are no TLS, or break its rules.
    Malformed,
    /// Its server name is nobody's here.
    NoFilterChain,
    /// The server has no certificate yet.
    NoCertificate,
    /// What clients are to be judged by is not there yet.
    NoAuthorities,
    /// A version that is not served.
    Version,
    /// No cipher suite, key exchange or signature scheme in common.
    NothingInCommon,
    /// No protocol of ALPN in common.
    Alpn,
    /// The client showed no certificate and must.
    CertificateMissing,
    /// The client's certificate, or one above it, is not valid now.
    CertificateExpired,
    CertificateRevoked,
    /// No authority that is trusted here stands behind the client's certificate.
    CertificateUntrusted,
    /// The client's certificate is trusted and not one of those that are admitted.
    CertificateNotAdmitted,
    /// The client's certificate is not usable in some other way.
    CertificateInvalid,
    /// The client ended the handshake: it does not accept what it was shown.
    RefusedByClient,
    Other,
}

impl HandshakeFailure {
    pub(crate) const ALL: [Self; 19] = [
        Self::Closed,
        Self::Timeout,
        Self::Overflow,
        Self::TooLarge,
        Self::Malformed,
        Self::NoFilterChain,
        Self::NoCertificate,
        Self::NoAuthorities,
        Self::Version,
        Self::NothingInCommon,
        Self::Alpn,
        Self::CertificateMissing,
        Self::CertificateExpired,
        Self::CertificateRevoked,
        Self::CertificateUntrusted,
        Self::CertificateNotAdmitted,
        Self::CertificateInvalid,
        Self::RefusedByClient,
        Self::Other,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Overflow => "overflow",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::NoFilterChain => "no_filter_chain",
            Self::NoCertificate => "no_certificate",
            Self::NoAuthorities => "no_authorities",
            Self::Version => "version",
            Self::NothingInCommon => "nothing_in_common",
            Self::Alpn => "alpn",
            Self::CertificateMissing => "client_certificate_missing",
            Self::CertificateExpired => "client_certificate_expired",
            Self::CertificateRevoked => "client_certificate_revoked",
            Self::CertificateUntrusted => "client_certificate_untrusted",
            Self::CertificateNotAdmitted => "client_certificate_not_admitted",
            Self::CertificateInvalid => "client_certificate_invalid",
            Self::RefusedByClient => "refused_by_client",
            Self::Other => "other",
        }
    }
}

/// A handshake that failed, with what a human may want to know of it.
#[derive(Debug)]
pub(crate) struct FailedHandshake {
    pub(crate) reason: HandshakeFailure,
    /// What the library or the system says; none if it was not them who gave up.
    source: Option<io::Error>,
}

impl FailedHandshake {
    /// `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`, in Envoy's words where it has some. Quotes nothing that a client sent.
    pub(crate) fn transport_failure(&self) -> String {
        match &self.source {
            Some(source) => TransportFailure::of_io(source).to_string(),
            None => format!("TLS_error:{}:TLS_error_end", self.reason.as_str()),
        }
    }
}

impl fmt::Display for FailedHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => source.fmt(f),
            None => f.write_str(self.reason.as_str()),
        }
    }
}

impl From<HandshakeFailure> for FailedHandshake {
    fn from(reason: HandshakeFailure) -> Self {
        Self { reason, source: None }
    }
}

impl From<Error> for FailedHandshake {
    fn from(error: Error) -> Self {
        Self { reason: (&error).into(), source: Some(io::Error::new(io::ErrorKind::InvalidData, error)) }
    }
}

impl From<io::Error> for FailedHandshake {
    fn from(error: io::Error) -> Self {
        Self { reason: (&error).into(), source: Some(error) }
    }
}

impl From<&Error> for HandshakeFailure {
    fn from(error: &Error) -> Self {
        match error {
            Error::InvalidMessage(_) | Error::InappropriateMessage { .. } | Error::PeerMisbehaved(_) => Self::Malformed,
            Error::InappropriateHandshakeMessage { .. } | Error::DecryptError | Error::PeerSentOversizedRecord => {
                Self::Malformed
            }
            Error::PeerIncompatible(reason) => incompatible(reason),
            Error::NoApplicationProtocol => Self::Alpn,
            Error::NoCertificatesPresented => Self::CertificateMissing,
            Error::InvalidCertificate(reason) => certificate(reason),
            Error::InvalidCertRevocationList(_) => Self::CertificateRevoked,
            Error::AlertReceived(AlertDescription::CloseNotify) => Self::Closed,
            Error::AlertReceived(_) => Self::RefusedByClient,
            _ => Self::Other,
        }
    }
}

impl From<&io::Error> for HandshakeFailure {
    fn from(error: &io::Error) -> Self {
        match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
            Some(error) => error.into(),
            None if error.kind() == io::ErrorKind::InvalidData => Self::Malformed,
            None => Self::Closed,
        }
    }
}

fn incompatible(reason: &PeerIncompatible) -> HandshakeFailure {
    use PeerIncompatible::{
        ServerDoesNotSupportTls12Or13, SupportedVersionsExtensionRequired, Tls12NotOffered, Tls12NotOfferedOrEnabled,
        Tls13RequiredForQuic,
    };
    match reason {
        ServerDoesNotSupportTls12Or13
        | SupportedVersionsExtensionRequired
        | Tls12NotOffered
        | Tls12NotOfferedOrEnabled
        | Tls13RequiredForQuic => HandshakeFailure::Version,
        _ => HandshakeFailure::NothingInCommon,
    }
}

fn certificate(reason: &CertificateError) -> HandshakeFailure {
    use CertificateError::{
        ApplicationVerificationFailure, Expired, ExpiredContext, ExpiredRevocationList, ExpiredRevocationListContext,
        NotValidYet, NotValidYetContext, Revoked, UnknownIssuer, UnknownRevocationStatus,
    };
    match reason {
        Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => {
            HandshakeFailure::CertificateExpired
        }
        Revoked | UnknownRevocationStatus | ExpiredRevocationList | ExpiredRevocationListContext { .. } => {
            HandshakeFailure::CertificateRevoked
        }
        UnknownIssuer => HandshakeFailure::CertificateUntrusted,
        ApplicationVerificationFailure => HandshakeFailure::CertificateNotAdmitted,
        _ => HandshakeFailure::CertificateInvalid,
    }
}
