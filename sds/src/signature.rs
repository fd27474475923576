//! Who signed what, with the algorithms that handshakes are verified with.

use rustls::crypto::aws_lc_rs;
use x509_parser::asn1_rs::ToDer as _;
use x509_parser::certificate::X509Certificate;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

/// Whether the key of `issuer` signed the certificate; none if the algorithm is not known here.
pub(crate) fn certificate_is_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> Option<bool> {
    let signature = &certificate.signature_value.data;
    let message = certificate.tbs_certificate.as_ref();
    verify(&certificate.signature_algorithm, signature, message, issuer.public_key())
}

/// Whether the key of `issuer` signed the list; none if the algorithm is not known here.
pub(crate) fn list_is_by(list: &CertificateRevocationList<'_>, issuer: &X509Certificate<'_>) -> Option<bool> {
    verify(&list.signature_algorithm, &list.signature_value.data, list.tbs_cert_list.as_ref(), issuer.public_key())
}

fn verify(
    algorithm: &AlgorithmIdentifier<'_>,
    signature: &[u8],
    message: &[u8],
    key: &SubjectPublicKeyInfo<'_>,
) -> Option<bool> {
    let (signature_id, key_id) = (content(algorithm)?, content(&key.algorithm)?);
    let known = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let algorithm = known.iter().find(|known| {
        known.signature_alg_id().as_ref() == signature_id && known.public_key_alg_id().as_ref() == key_id
    })?;
    Some(algorithm.verify_signature(&key.subject_public_key.data, message, signature).is_ok())
}

/// What is inside the SEQUENCE of an AlgorithmIdentifier.
fn content(algorithm: &AlgorithmIdentifier<'_>) -> Option<Vec<u8>> {
    let mut content = algorithm.algorithm.to_der_vec().ok()?;
    if let Some(parameters) = &algorithm.parameters {
        content.extend(parameters.to_der_vec().ok()?);
    }
    Some(content)
}
