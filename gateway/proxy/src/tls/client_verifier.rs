use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use tidegate_sds::{RevocationLists, TrustMaterial};
use tidegate_snapshot::{ClientValidation, Digest256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::peer_certificate::sha256;
use crate::certificate_names;
use crate::direct_chain::{self, Role};

/// Judges client certificates as a server's configuration says.
///
/// First the chain up to an authority, with dates and revocation; then the names; then the pins. All must fit, except
/// that a server with pins and no authorities judges by the pins alone, and one that accepts untrusted certificates by
/// nothing but the proof that the client has the key.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    mandatory: bool,
    accept_untrusted: bool,
    chain: Option<Chain>,
    subject_alt_names: Vec<String>,
    spki_hashes: Vec<Digest256>,
    certificate_hashes: Vec<Digest256>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The authorities, and what judges by them.
#[derive(Debug)]
struct Chain {
    verifier: Arc<dyn ClientCertVerifier>,
    roots: Arc<RootCertStore>,
    has_lists: bool,
}

/// Why clients cannot be judged.
#[derive(Debug, thiserror::Error)]
#[error("clients cannot be verified: {0}")]
pub(super) struct VerifierError(rustls::server::VerifierBuilderError);

impl ClientVerifier {
    /// # Errors
    /// No authority that can be used, or revocation lists that cannot be read.
    pub(super) fn new(
        mandatory: bool,
        validation: &ClientValidation,
        trust: Option<&TrustMaterial>,
        crls: Option<&RevocationLists>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, VerifierError> {
        let algorithms = provider.signature_verification_algorithms;
        let chain = match trust {
            None => None,
            Some(trust) => {
                let roots = trust.roots().clone();
                let lists = trust.crls().iter().chain(crls.map(RevocationLists::crls).unwrap_or_default());
                let has_lists = lists.clone().next().is_some();
                // As Envoy has it: where there are lists, every certificate of a chain has to be judged by one, and a
                // list whose time is over judges nothing.
                let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider)
                    .with_crls(lists.cloned())
                    .enforce_revocation_expiration();
                Some(Chain { verifier: builder.build().map_err(VerifierError)?, roots, has_lists })
            }
        };
        Ok(Self {
            mandatory,
            accept_untrusted: validation.accept_untrusted,
            chain,
            subject_alt_names: validation.subject_alt_names.clone(),
            spki_hashes: validation.spki_hashes.clone(),
            certificate_hashes: validation.certificate_hashes.clone(),
            algorithms,
        })
    }

    fn has_pins(&self) -> bool {
        !self.spki_hashes.is_empty() || !self.certificate_hashes.is_empty()
    }

    fn fits_pins(&self, leaf: &CertificateDer<'_>) -> Result<bool, Error> {
        if self.certificate_hashes.contains(&sha256(leaf)) {
            return Ok(true);
        }
        if self.spki_hashes.is_empty() {
            return Ok(false);
        }
        let (_, certificate) =
            X509Certificate::from_der(leaf).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        Ok(self.spki_hashes.contains(&sha256(certificate.tbs_certificate.subject_pki.raw)))
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.as_ref().map_or(&[], |chain| chain.verifier.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.accept_untrusted {
            return Ok(ClientCertVerified::assertion());
        }
        match &self.chain {
            Some(Chain { roots, has_lists: false, .. }) if direct_chain::is_odd(leaf) => {
                direct_chain::verify(leaf, Role::Client, roots, &self.algorithms, now)?;
            }
            Some(chain) => {
                chain.verifier.verify_client_cert(leaf, intermediates, now)?;
            }
            None if self.has_pins() => {}
            None => return Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)),
        }
        let named = self.subject_alt_names.is_empty() || certificate_names::matches_any(leaf, &self.subject_alt_names);
        if !named || (self.has_pins() && !self.fits_pins(leaf)?) {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        direct_chain::verify_tls12_signature_of_any(message, leaf, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        direct_chain::verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
