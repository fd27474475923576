//! How the certificate of a backend is verified.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::TransportFailure;
use crate::certificate_names;
use crate::direct_chain::{self, Role};

/// A chain to one of `roots`, of which no certificate is revoked, and one of `names`; without names the certificate
/// must be valid for the server name.
///
/// With revocation lists there must be one, in force, for every issuer of the chain, as Envoy has it.
///
/// # Errors
/// There are no authorities, or a revocation list is none.
pub(super) fn verified(
    roots: Arc<RootCertStore>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    names: &[String],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TransportFailure> {
    let has_lists = !crls.is_empty();
    let builder = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone());
    let chain =
        builder.with_crls(crls).enforce_revocation_expiration().build().map_err(|_| TransportFailure::UNUSABLE)?;
    let algorithms = provider.signature_verification_algorithms;
    Ok(Arc::new(NamedVerifier { chain, roots, has_lists, algorithms, names: names.to_vec() }))
}

/// `insecureSkipVerify`: any certificate whose key the server holds.
pub(super) fn unverified(provider: &Arc<CryptoProvider>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Unverified { provider: provider.clone() })
}

/// Verifies the chain, and the server name or names in its place.
#[derive(Debug)]
struct NamedVerifier {
    chain: Arc<WebPkiServerVerifier>,
    /// Of `chain`, for certificates that it takes no part in.
    roots: Arc<RootCertStore>,
    has_lists: bool,
    algorithms: WebPkiSupportedAlgorithms,
    /// None for the server name.
    names: Vec<String>,
}

impl ServerCertVerifier for NamedVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.has_lists && direct_chain::is_odd(end_entity) {
            direct_chain::verify(end_entity, Role::Server, &self.roots, &self.algorithms, now)?;
            let own = [server_name.to_str().into_owned()];
            let names = if self.names.is_empty() { &own[..] } else { &self.names };
            return if certificate_names::matches_any(end_entity, names) {
                Ok(ServerCertVerified::assertion())
            } else {
                Err(CertificateError::NotValidForName.into())
            };
        }
        if self.names.is_empty() {
            return self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        }
        match self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: whoever comes so far has a good chain.
            Ok(_)
            | Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => {}
            Err(error) => return Err(error),
        }
        if certificate_names::matches_any(end_entity, &self.names) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::NotValidForName.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn issuer() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    fn leaf(issuer: &CertifiedIssuer<'static, KeyPair>, last_year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["a.com".into()]).unwrap();
        params.not_after = date_time_ymd(last_year, 1, 1);
        params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
    }

    /// A name that fits never stands in for a chain that does not, whatever the order in which the library looks.
    #[test]
    fn the_chain_is_verified_whatever_the_names() {
        let (own, other) = (issuer(), issuer());
        let (good, stranger, expired) = (leaf(&own, 4000), leaf(&other, 4000), leaf(&own, 2020));
        let provider = crate::tls_parameters::provider(&tidegate_snapshot::TlsParameters::default());
        let check = |certificate: &CertificateDer<'_>, names: &[&str], server_name: &'static str, fits: bool| {
            let mut roots = RootCertStore::empty();
            roots.add(own.der().clone()).unwrap();
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let verifier = verified(Arc::new(roots), Vec::new(), &names, &provider).unwrap();
            let name = ServerName::try_from(server_name).unwrap();
            let result = verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::now());
            assert_eq!(result.is_ok(), fits, "{names:?} {server_name} {result:?}");
        };
        for (names, server_name, fits) in [
            (&[][..], "a.com", true),
            (&[], "b.com", false),
            (&["a.com"], "a.com", true),
            (&["a.com"], "b.com", true),
            (&["x.com", "a.com"], "10.0.0.1", true),
            (&["b.com"], "a.com", false),
        ] {
            check(&good, names, server_name, fits);
            check(&stranger, names, server_name, false);
            check(&expired, names, server_name, false);
        }
    }
}
