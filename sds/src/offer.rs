//! What sources have to offer.

use std::sync::Arc;

use tidegate_core::{Origin, ResourceKey, SecretBytes, SecretName};

use crate::problem::{MaterialError, Part};
use crate::{CertificateMaterial, Content, RevocationLists, Timestamp, TrustMaterial};

/// Where material comes from. Where several have the same name, the greater goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SourceKind {
    /// Files that a Gateway or a DestinationRule names, or a folder of PEM pairs.
    File,
    /// An SDS server elsewhere.
    Sds,
    /// A Secret or ConfigMap document.
    Kubernetes,
    /// Our own issuer: who asked for a certificate wants it rather than the placeholder that may be there.
    Acme,
}

impl SourceKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "File",
            Self::Sds => "SDS",
            Self::Kubernetes => "Kubernetes",
            Self::Acme => "ACME",
        }
    }
}

/// Material under a name, as a source has it.
#[derive(Clone, Debug)]
pub struct Offer {
    pub name: SecretName,
    pub source: SourceKind,
    /// The object, if it is one.
    pub key: Option<ResourceKey>,
    /// Where it begins.
    pub origin: Origin,
    /// Where its parts are, if that is known better.
    pub places: Places,
    pub payload: Payload,
}

/// Places of the parts of an offer, for findings. What is missing has the place of the offer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// Certificates: of a chain, or of authorities.
    pub certificates: Option<Place>,
    pub key: Option<Place>,
    pub crl: Option<Place>,
    pub ocsp_staple: Option<Place>,
}

/// Where a part of an offer was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Path of the field, as in `data["tls.key"]`; empty for files of PEM.
    pub path: Arc<str>,
    pub origin: Origin,
}

/// Bytes that are to become material; PEM everywhere.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Payload {
    Certificate {
        /// Leaf first.
        chain: SecretBytes,
        key: SecretBytes,
        /// DER.
        ocsp_staple: Option<SecretBytes>,
    },
    Trust {
        authorities: SecretBytes,
        crl: Option<SecretBytes>,
    },
    Crl(SecretBytes),
    /// The source has the name and nothing usable under it; says why.
    Broken(String),
    /// The source has something of this name that is not meant to be such material; says what is missing. Counts as
    /// broken if somebody uses the name, and as nothing otherwise.
    Nothing(String),
}

impl Offer {
    /// An offer that is no object and whose parts have no places of their own.
    pub fn new(name: SecretName, source: SourceKind, origin: Origin, payload: Payload) -> Self {
        Self { name, source, key: None, origin, places: Places::default(), payload }
    }

    /// Path and origin of a part.
    pub(crate) fn place(&self, part: Part) -> (&str, &Origin) {
        let place = match part {
            Part::Chain | Part::Authorities => &self.places.certificates,
            Part::Key => &self.places.key,
            Part::RevocationLists => &self.places.crl,
            Part::OcspStaple => &self.places.ocsp_staple,
            Part::Whole => &None,
        };
        match place {
            Some(place) => (&place.path, &place.origin),
            None => ("", &self.origin),
        }
    }
}

impl Payload {
    /// Whether there are bytes to read.
    pub(crate) fn has_material(&self) -> bool {
        !matches!(self, Self::Broken(_) | Self::Nothing(_))
    }

    /// Makes material of the bytes.
    pub(crate) fn content(&self, now: Timestamp) -> Result<Content, MaterialError> {
        match self {
            Self::Certificate { chain, key, ocsp_staple } => {
                let material = CertificateMaterial::from_pem(chain.clone(), key.clone())?;
                Ok(Content::Certificate(match ocsp_staple {
                    Some(staple) => material.with_staple(staple, now),
                    None => material,
                }))
            }
            Self::Trust { authorities, crl } => {
                TrustMaterial::from_pem(authorities.clone(), crl.clone()).map(Content::Trust)
            }
            Self::Crl(pem) => RevocationLists::from_pem(pem).map(Content::Crl),
            Self::Broken(reason) | Self::Nothing(reason) => Err(MaterialError::Source(reason.clone())),
        }
    }
}
