use std::borrow::Cow;
use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// What BoringSSL's library of TLS adds to its reasons.
const SSL: u32 = 16 << 24;
/// What BoringSSL adds to an alert to make a reason of it.
const ALERT: u32 = 1000;

/// Why a connection could not be secured, as `%UPSTREAM_TRANSPORT_FAILURE_REASON%` shows it.
///
/// Scripts and people look for Envoy's words, which are BoringSSL's: `TLS_error:|<code>:SSL routines:OPENSSL_internal:
/// <REASON>:TLS_error_end`. Nothing of a certificate is quoted: it is a backend's, and the text goes to clients.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct TransportFailure(Cow<'static, str>);

impl TransportFailure {
    /// Envoy's words for a secret that has not arrived.
    pub(super) const NO_SECRET: Self = Self(Cow::Borrowed("TLS_error:Secret is not supplied by SDS:TLS_error_end"));
    pub(super) const NO_SERVER_NAME: Self =
        Self(Cow::Borrowed("TLS_error:there is no server name to verify:TLS_error_end"));
    pub(super) const UNUSABLE: Self =
        Self(Cow::Borrowed("TLS_error:the configured secrets cannot be used:TLS_error_end"));

    /// The failure of a handshake, or of a connection that was secured already.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        if let Some(error) = error.get_ref().and_then(|error| error.downcast_ref()) {
            return Self::of_tls(error);
        }
        Self(match error.kind() {
            io::ErrorKind::UnexpectedEof => "TLS_error:the connection was closed in the handshake:TLS_error_end".into(),
            _ => format!("TLS_error:{}:TLS_error_end", crate::failure::plain(error)).into(),
        })
    }

    fn of_tls(error: &Error) -> Self {
        let (reason, text): (u32, Cow<'_, str>) = match error {
            Error::AlertReceived(alert) => (ALERT + u32::from(u8::from(*alert)), alert_name(*alert)),
            Error::InvalidCertificate(error) => {
                (125, format!("CERTIFICATE_VERIFY_FAILED:{}", verification(error)).into())
            }
            Error::NoCertificatesPresented => (192, "PEER_DID_NOT_RETURN_A_CERTIFICATE".into()),
            // What is no TLS at all, such as an answer in plain text.
            Error::InvalidMessage(_) => (247, "WRONG_VERSION_NUMBER".into()),
            Error::PeerIncompatible(_) => (240, "UNSUPPORTED_PROTOCOL".into()),
            Error::NoApplicationProtocol => (ALERT + 120, alert_name(AlertDescription::NoApplicationProtocol)),
            Error::PeerMisbehaved(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. } => (223, "UNEXPECTED_MESSAGE".into()),
            _ => return Self("TLS_error:the handshake failed:TLS_error_end".into()),
        };
        let code = SSL + reason;
        Self(format!("TLS_error:|{code}:SSL routines:OPENSSL_internal:{text}:TLS_error_end").into())
    }
}

/// BoringSSL's name of an alert that was received.
fn alert_name(alert: AlertDescription) -> Cow<'static, str> {
    Cow::Borrowed(match alert {
        AlertDescription::UnexpectedMessage => "SSLV3_ALERT_UNEXPECTED_MESSAGE",
        AlertDescription::BadRecordMac => "SSLV3_ALERT_BAD_RECORD_MAC",
        AlertDescription::HandshakeFailure => "SSLV3_ALERT_HANDSHAKE_FAILURE",
        AlertDescription::BadCertificate => "SSLV3_ALERT_BAD_CERTIFICATE",
        AlertDescription::UnsupportedCertificate => "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        AlertDescription::CertificateRevoked => "SSLV3_ALERT_CERTIFICATE_REVOKED",
        AlertDescription::CertificateExpired => "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        AlertDescription::CertificateUnknown => "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        AlertDescription::IllegalParameter => "SSLV3_ALERT_ILLEGAL_PARAMETER",
        AlertDescription::UnknownCA => "TLSV1_ALERT_UNKNOWN_CA",
        AlertDescription::AccessDenied => "TLSV1_ALERT_ACCESS_DENIED",
        AlertDescription::DecodeError => "TLSV1_ALERT_DECODE_ERROR",
        AlertDescription::DecryptError => "TLSV1_ALERT_DECRYPT_ERROR",
        AlertDescription::ProtocolVersion => "TLSV1_ALERT_PROTOCOL_VERSION",
        AlertDescription::InsufficientSecurity => "TLSV1_ALERT_INSUFFICIENT_SECURITY",
        AlertDescription::InternalError => "TLSV1_ALERT_INTERNAL_ERROR",
        AlertDescription::UnrecognisedName => "TLSV1_UNRECOGNIZED_NAME",
        AlertDescription::CertificateRequired => "TLSV1_CERTIFICATE_REQUIRED",
        AlertDescription::NoApplicationProtocol => "TLSV1_ALERT_NO_APPLICATION_PROTOCOL",
        other => return format!("ALERT_{}", u8::from(other)).into(),
    })
}

/// OpenSSL's words for what is wrong with a certificate, as Envoy shows them.
fn verification(error: &CertificateError) -> Cow<'static, str> {
    let of_chain = match error {
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            return "verify cert failed: verify SAN list".into();
        }
        CertificateError::UnknownIssuer => "unable to get local issuer certificate",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "certificate is not yet valid",
        CertificateError::Revoked => "certificate revoked",
        CertificateError::UnknownRevocationStatus => "unable to get certificate CRL",
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "CRL has expired"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "unsupported certificate purpose"
        }
        CertificateError::BadSignature => "certificate signature failure",
        _ => return "verify cert failed".into(),
    };
    format!("verify cert failed: X509_verify_cert: certificate verification error at depth 0: {of_chain}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_envoys_words() {
        let check = |error: Error, expected: &str| {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(TransportFailure::of_io(&error).to_string(), format!("TLS_error:{expected}:TLS_error_end"));
        };
        check(
            Error::AlertReceived(AlertDescription::UnknownCA),
            "|268436504:SSL routines:OPENSSL_internal:TLSV1_ALERT_UNKNOWN_CA",
        );
        check(
            Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
            "|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER",
        );
        check(
            CertificateError::NotValidForName.into(),
            "|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: verify SAN list",
        );
        check(Error::AlertReceived(AlertDescription::Unknown(7)), "|268436463:SSL routines:OPENSSL_internal:ALERT_7");
    }
}
