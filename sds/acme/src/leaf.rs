use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tidegate_core::SecretBytes;
use tidegate_sds::CertificateMaterial;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

/// The time in which a certificate holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Validity {
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

impl Validity {
    pub(crate) fn lifetime(self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// From here on a renewal that fails is an error: the last sixth.
    pub(crate) fn alarm_at(self) -> SystemTime {
        self.not_after - self.lifetime() / 6
    }
}

/// A certificate with its key as they are kept, and what renewal has to know of it.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// PEM, leaf first.
    pub(crate) chain: SecretBytes,
    /// PEM.
    pub(crate) key: SecretBytes,
    pub(crate) leaf: CertificateDer<'static>,
    pub(crate) validity: Validity,
    /// Lower case, sorted.
    pub(crate) dns_names: Vec<String>,
}

impl Pair {
    /// # Errors
    /// In words, what is wrong with the bytes: they are no certificate, or the key is another's.
    pub(crate) fn read(chain: SecretBytes, key: SecretBytes) -> Result<Self, String> {
        let material = CertificateMaterial::from_pem(chain.clone(), key.clone()).map_err(|error| error.to_string())?;
        let leaf = material.chain().first().cloned().ok_or("it holds no certificate")?;
        let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|error| format!("the certificate: {error}"))?;
        let validity = Validity {
            not_before: time(parsed.validity().not_before.timestamp()),
            not_after: time(parsed.validity().not_after.timestamp()),
        };
        let names = parsed.subject_alternative_name().map_err(|error| format!("the certificate's names: {error}"))?;
        let mut dns_names: Vec<String> = names
            .iter()
            .flat_map(|extension| &extension.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect();
        dns_names.sort();
        dns_names.dedup();
        Ok(Self { chain, key, leaf, validity, dns_names })
    }

    /// Key first, as the files of other servers have it.
    pub(crate) fn to_pem(&self) -> Zeroizing<String> {
        let mut pem = Zeroizing::new(String::with_capacity(self.key.len() + self.chain.len() + 2));
        for part in [&self.key, &self.chain] {
            // Both were read as PEM, which is ASCII where it matters.
            pem.push_str(&Zeroizing::new(String::from_utf8_lossy(part.as_slice()).into_owned()));
            if !pem.ends_with('\n') {
                pem.push('\n');
            }
        }
        pem
    }

    /// What [`Pair::to_pem`] gave.
    ///
    /// # Errors
    /// As [`Pair::read`].
    pub(crate) fn of_pem(pem: &str) -> Result<Self, String> {
        let chain = pem.find("-----BEGIN CERTIFICATE-----").ok_or("it holds no certificate")?;
        let (key, chain) = pem.split_at(chain);
        Self::read(chain.as_bytes().to_vec().into(), key.as_bytes().to_vec().into())
    }
}

/// Seconds since 1970; what lies before is 1970.
fn time(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
