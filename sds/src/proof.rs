//! Proof that material works: a handshake of the gateway with itself, in memory.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key};
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureAlgorithm, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::CertificateMaterial;

/// Flights of a handshake are four at most; more means that it does not come to an end.
const MAX_FLIGHTS: usize = 8;

/// Shows the material to a client that trusts its leaf and nothing else, over each version of TLS that its key can
/// sign for.
///
/// # Errors
/// Why the handshake failed, in a few words.
pub(crate) fn prove(material: &CertificateMaterial) -> Result<(), String> {
    // What rustls's client cannot read (X.509 version 1) it can verify the signatures of in TLS 1.3 only.
    let versions: &[&'static SupportedProtocolVersion] = match material.certified().key.algorithm() {
        _ if ParsedCertificate::try_from(&material.chain()[0]).is_err() => &[&TLS13],
        SignatureAlgorithm::RSA | SignatureAlgorithm::ECDSA | SignatureAlgorithm::ED25519 => &[&TLS13, &TLS12],
        _ => &[&TLS13],
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    versions.iter().try_for_each(|version| handshake(material, version, &provider).map_err(|error| error.to_string()))
}

fn handshake(
    material: &CertificateMaterial,
    version: &'static SupportedProtocolVersion,
    provider: &Arc<CryptoProvider>,
) -> Result<(), Error> {
    let shown = SingleCertAndKey::from(material.certified().clone());
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    server.send_tls13_tickets = 0;
    let verifier = OneLeaf { leaf: material.chain()[0].clone(), provider: provider.clone() };
    let mut client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    client.resumption = rustls::client::Resumption::disabled();

    let mut server = ServerConnection::new(Arc::new(server))?;
    let name = ServerName::try_from("tidegate.invalid").map_err(|_| Error::General("no server name".to_owned()))?;
    let mut client = ClientConnection::new(Arc::new(client), name)?;
    let mut wire = Vec::new();
    for _ in 0..MAX_FLIGHTS {
        wire.clear();
        // Writing to a Vec cannot fail.
        while client.wants_write() && client.write_tls(&mut wire).is_ok() {}
        let mut flight = wire.as_slice();
        while !flight.is_empty() {
            server.read_tls(&mut flight).map_err(unread)?;
            server.process_new_packets()?;
        }
        wire.clear();
        while server.wants_write() && server.write_tls(&mut wire).is_ok() {}
        let mut flight = wire.as_slice();
        while !flight.is_empty() {
            client.read_tls(&mut flight).map_err(unread)?;
            client.process_new_packets()?;
        }
        if !client.is_handshaking() && !server.is_handshaking() {
            return match client.peer_certificates() {
                Some(chain) if chain == material.chain() => Ok(()),
                _ => Err(Error::General("another chain was shown".to_owned())),
            };
        }
    }
    Err(Error::General("it did not come to an end".to_owned()))
}

fn unread(error: std::io::Error) -> Error {
    Error::General(error.to_string())
}

/// Trusts one certificate. Signatures are verified as for everybody.
struct OneLeaf {
    leaf: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for OneLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneLeaf")
    }
}

impl ServerCertVerifier for OneLeaf {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *end_entity == self.leaf {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        if ParsedCertificate::try_from(certificate).is_err()
            && let Ok((_, certificate)) = X509Certificate::from_der(certificate)
        {
            let key = SubjectPublicKeyInfoDer::from(certificate.public_key().raw);
            return verify_tls13_signature_with_raw_key(message, &key, signature, algorithms);
        }
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
