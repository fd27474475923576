//! Secrets as Envoy's protobuf writes them.

use std::fmt::Write as _;

use envoy_types::pb::envoy::config::core::v3::DataSource;
use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret as Message, TlsCertificate,
};
use envoy_types::pb::google::protobuf::Any;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tidegate_core::SecretBytes;
use tidegate_sds::{Content, Payload};
use zeroize::Zeroize as _;

/// The only type of resource on this service.
pub(crate) const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// A resource of `name` with what a slot holds. A revocation list alone is a validation context without authorities,
/// which Tidegate reads and Envoy rejects.
///
/// Our own copy of the key is wiped; the encoded resource belongs to the gRPC stack, which does not wipe its buffers.
pub(crate) fn encode(name: &str, content: &Content) -> Any {
    let content = match content {
        Content::Certificate(material) => Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline(material.chain_pem().as_slice())),
            private_key: Some(inline(material.key_pem().as_slice())),
            ocsp_staple: material.ocsp_staple().map(inline),
            ..Default::default()
        }),
        Content::Trust(trust) => Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(inline(trust.authorities_pem().as_slice())),
            crl: trust.crl_pem().map(|pem| inline(pem.as_slice())),
            ..Default::default()
        }),
        Content::Crl(lists) => Type::ValidationContext(CertificateValidationContext {
            crl: Some(inline(lists.pem().as_slice())),
            ..Default::default()
        }),
    };
    let mut message = Message { name: name.to_owned(), r#type: Some(content) };
    let any = Any { type_url: TYPE_URL.to_owned(), value: message.encode_to_vec() };
    if let Some(Type::TlsCertificate(certificate)) = &mut message.r#type {
        wipe(certificate);
    }
    any
}

/// The version that clients see: the same for the same content, on every server and after a restart, so that a client
/// that reconnects need not be told what it has. It depends on public parts only: a key belongs to one leaf.
pub(crate) fn version(content: &Content) -> String {
    let mut hash = Sha256::new();
    let mut add = |part: Option<&[u8]>| {
        hash.update((part.map_or(u64::MAX, |part| part.len() as u64)).to_be_bytes());
        hash.update(part.unwrap_or_default());
    };
    match content {
        Content::Certificate(material) => {
            add(Some(b"certificate"));
            add(Some(material.chain_pem().as_slice()));
            add(material.ocsp_staple());
        }
        Content::Trust(trust) => {
            add(Some(b"trust"));
            add(Some(trust.authorities_pem().as_slice()));
            add(trust.crl_pem().map(SecretBytes::as_slice));
        }
        Content::Crl(lists) => {
            add(Some(b"revocation lists"));
            add(Some(lists.pem().as_slice()));
        }
    }
    short(hash)
}

/// The version of several resources together.
pub(crate) fn combined_version(versions: &str, next: &str) -> String {
    if versions.is_empty() {
        return next.to_owned();
    }
    short(Sha256::new().chain_update(versions).chain_update(next))
}

/// 128 bits of a digest, in hexadecimal.
fn short(hash: Sha256) -> String {
    hash.finalize()[..16].iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Why a resource that a provider sent is not even offered to the store.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("a resource of type {0}, where only secrets are expected")]
    Type(String),
    #[error("a resource that is no Secret: {0}")]
    NoSecret(String),
    #[error("holds nothing")]
    Empty,
    #[error("holds {0}, which Tidegate does not use")]
    NotUsed(&'static str),
    #[error("{0} is not inline: files and variables are the provider's own, not ours")]
    NotInline(&'static str),
    #[error("has no {0}")]
    Missing(&'static str),
}

/// A resource that arrived: its name, and what it holds or why that is of no use.
pub(crate) fn decode(mut any: Any) -> Result<(String, Result<Payload, PayloadError>), PayloadError> {
    if any.type_url != TYPE_URL {
        any.value.zeroize();
        return Err(PayloadError::Type(format!("{:.128}", any.type_url.escape_debug().to_string())));
    }
    let message = Message::decode(any.value.as_slice());
    any.value.zeroize();
    let message = message.map_err(|error| PayloadError::NoSecret(error.to_string()))?;
    let payload = match message.r#type {
        None => Err(PayloadError::Empty),
        Some(Type::TlsCertificate(certificate)) => certificate_payload(certificate),
        Some(Type::ValidationContext(context)) => trust_payload(context),
        Some(Type::SessionTicketKeys(mut keys)) => {
            keys.keys.iter_mut().for_each(wipe_source);
            Err(PayloadError::NotUsed("session ticket keys"))
        }
        Some(Type::GenericSecret(mut generic)) => {
            generic.secret.iter_mut().for_each(wipe_source);
            Err(PayloadError::NotUsed("a generic secret"))
        }
    };
    Ok((message.name, payload))
}

fn certificate_payload(mut certificate: TlsCertificate) -> Result<Payload, PayloadError> {
    let refused = if certificate.pkcs12.is_some() {
        Some("a PKCS #12 bundle")
    } else if certificate.private_key_provider.is_some() {
        Some("a private key provider")
    } else if certificate.password.is_some() {
        Some("a password")
    } else if certificate.tls_params.is_some() {
        Some("TLS parameters of its own")
    } else {
        None
    };
    let payload = match refused {
        Some(what) => Err(PayloadError::NotUsed(what)),
        None => (|| {
            Ok(Payload::Certificate {
                chain: required(certificate.certificate_chain.as_ref(), "certificate chain")?,
                key: required(certificate.private_key.as_ref(), "private key")?,
                ocsp_staple: bytes(certificate.ocsp_staple.as_ref(), "OCSP staple")?,
            })
        })(),
    };
    wipe(&mut certificate);
    payload
}

fn trust_payload(mut context: CertificateValidationContext) -> Result<Payload, PayloadError> {
    let trusted_ca = context.trusted_ca.take();
    let crl = context.crl.take();
    context.watched_directory = None;
    // Names to verify, pins, leniency: a Gateway or a DestinationRule says these, and what a provider asks for in vain
    // must not look as if it were enforced.
    if context != CertificateValidationContext::default() {
        return Err(PayloadError::NotUsed("more in its validation context than authorities and a revocation list"));
    }
    match (bytes(trusted_ca.as_ref(), "the list of authorities")?, bytes(crl.as_ref(), "the revocation list")?) {
        (Some(authorities), crl) => Ok(Payload::Trust { authorities, crl }),
        (None, Some(crl)) => Ok(Payload::Crl(crl)),
        (None, None) => Err(PayloadError::Missing("list of authorities")),
    }
}

fn inline(bytes: &[u8]) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes.to_vec())), ..Default::default() }
}

fn required(source: Option<&DataSource>, what: &'static str) -> Result<SecretBytes, PayloadError> {
    bytes(source, what)?.ok_or(PayloadError::Missing(what))
}

/// A copy of what a source holds, in exactly as much memory as it needs: [`SecretBytes`] wipes no spare room.
fn bytes(source: Option<&DataSource>, what: &'static str) -> Result<Option<SecretBytes>, PayloadError> {
    match source.and_then(|source| source.specifier.as_ref()) {
        None => Ok(None),
        Some(Specifier::InlineBytes(bytes)) => Ok(Some(SecretBytes::new(bytes.as_slice().to_vec()))),
        Some(Specifier::InlineString(text)) => Ok(Some(SecretBytes::new(text.as_bytes().to_vec()))),
        Some(Specifier::Filename(_) | Specifier::EnvironmentVariable(_)) => Err(PayloadError::NotInline(what)),
    }
}

fn wipe(certificate: &mut TlsCertificate) {
    [&mut certificate.private_key, &mut certificate.pkcs12, &mut certificate.password]
        .into_iter()
        .flatten()
        .for_each(wipe_source);
}

fn wipe_source(source: &mut DataSource) {
    match &mut source.specifier {
        Some(Specifier::InlineBytes(bytes)) => bytes.zeroize(),
        Some(Specifier::InlineString(text)) => text.zeroize(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(specifier: Specifier) -> Option<DataSource> {
        Some(DataSource { specifier: Some(specifier), ..Default::default() })
    }

    fn refused(content: Type) -> String {
        let message = Message { name: "x".to_owned(), r#type: Some(content) };
        let any = Any { type_url: TYPE_URL.to_owned(), value: message.encode_to_vec() };
        let (name, payload) = decode(any).expect("a Secret");
        assert_eq!(name, "x");
        payload.expect_err("refused").to_string()
    }

    #[test]
    fn authorities_pass_through_unchanged() {
        let context = CertificateValidationContext {
            trusted_ca: source(Specifier::InlineString("authorities".to_owned())),
            crl: source(Specifier::InlineBytes(b"list".to_vec())),
            ..Default::default()
        };
        let message = Message { name: "ca".to_owned(), r#type: Some(Type::ValidationContext(context)) };
        let (_, payload) =
            decode(Any { type_url: TYPE_URL.to_owned(), value: message.encode_to_vec() }).expect("a Secret");
        let Ok(Payload::Trust { authorities, crl }) = payload else { panic!("{payload:?}") };
        assert_eq!(authorities.as_slice(), b"authorities");
        assert_eq!(crl.expect("a list").as_slice(), b"list");
    }

    #[test]
    fn a_provider_cannot_make_us_read_files() {
        let certificate = TlsCertificate {
            certificate_chain: source(Specifier::InlineBytes(b"chain".to_vec())),
            private_key: source(Specifier::Filename("/etc/shadow".to_owned())),
            ..Default::default()
        };
        let reason = refused(Type::TlsCertificate(certificate));
        assert!(reason.contains("private key is not inline") && !reason.contains("shadow"), "{reason}");
    }

    #[test]
    fn what_would_not_be_enforced_is_refused() {
        let context = CertificateValidationContext {
            trusted_ca: source(Specifier::InlineString("authorities".to_owned())),
            verify_certificate_hash: vec!["ab".to_owned()],
            ..Default::default()
        };
        assert!(refused(Type::ValidationContext(context)).contains("more in its validation context"));
        assert!(refused(Type::TlsCertificate(TlsCertificate::default())).contains("no certificate chain"));
        assert!(refused(Type::GenericSecret(Default::default())).contains("generic secret"));
        assert!(refused(Type::ValidationContext(Default::default())).contains("no list of authorities"));
    }

    #[test]
    fn rubbish_is_refused_without_showing_it() {
        let error = decode(Any { type_url: TYPE_URL.to_owned(), value: b"\xff\xffprivate".to_vec() });
        let error = error.expect_err("no Secret").to_string();
        assert!(error.starts_with("a resource that is no Secret") && !error.contains("private"), "{error}");
        let other = decode(Any { type_url: "x".to_owned(), value: Vec::new() });
        assert_eq!(other.expect_err("another type"), PayloadError::Type("x".to_owned()));
    }
}
