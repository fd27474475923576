//! Configured versions, cipher suites and key exchanges as the TLS library wants them; for servers and clients alike.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion, version};
use tidegate_snapshot::{CipherSuite, KeyExchangeGroup, TlsParameters, TlsVersion};

/// Suites in the order in which a server prefers them, which is Envoy's (BoringSSL's on machines that have instructions
/// for AES): AES-128 is as safe as the longer key within TLS, and costs less.
const PREFERRED: [SupportedCipherSuite; 9] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
];

/// The provider with the suites and groups that `parameters` allow, in their order; [`PREFERRED`] where they say
/// nothing. TLS 1.3 keeps all of its suites.
///
/// A list of groups that the library has none of leaves the library's own: the compiler reports what is not served.
pub(crate) fn provider(parameters: &TlsParameters) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = PREFERRED.to_vec();
    if !parameters.cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        provider.cipher_suites.extend(parameters.cipher_suites.iter().map(|suite| cipher(*suite)));
    }
    let groups: Vec<_> = parameters.groups.iter().filter_map(|group| key_exchange(*group)).collect();
    if !groups.is_empty() {
        provider.kx_groups = groups;
    }
    Arc::new(provider)
}

/// The versions from the least to the greatest that `parameters` allow; none if they contradict each other.
pub(crate) fn versions(parameters: &TlsParameters) -> Vec<&'static SupportedProtocolVersion> {
    [(TlsVersion::V1_3, &version::TLS13), (TlsVersion::V1_2, &version::TLS12)]
        .into_iter()
        .filter(|(version, _)| (parameters.min_version..=parameters.max_version).contains(version))
        .map(|(_, version)| version)
        .collect()
}

fn cipher(suite: CipherSuite) -> SupportedCipherSuite {
    match suite {
        CipherSuite::EcdheEcdsaAes128Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaAes256Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaChacha20 => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaAes128Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaAes256Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaChacha20 => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn key_exchange(group: KeyExchangeGroup) -> Option<&'static dyn SupportedKxGroup> {
    Some(match group {
        KeyExchangeGroup::X25519 => kx_group::X25519,
        KeyExchangeGroup::P256 => kx_group::SECP256R1,
        KeyExchangeGroup::P384 => kx_group::SECP384R1,
        KeyExchangeGroup::X25519MlKem768 => kx_group::X25519MLKEM768,
        // The library has none.
        KeyExchangeGroup::P521 => return None,
    })
}

#[cfg(test)]
mod tests {
    use rustls::{CipherSuite as Id, NamedGroup, ProtocolVersion};

    use super::*;

    #[test]
    fn what_is_not_configured_is_the_librarys() {
        let provider = provider(&TlsParameters::default());
        let ids = |suites: &[SupportedCipherSuite]| {
            let mut ids: Vec<_> = suites.iter().map(|suite| u16::from(suite.suite())).collect();
            ids.sort_unstable();
            ids
        };
        assert_eq!(ids(&provider.cipher_suites), ids(aws_lc_rs::DEFAULT_CIPHER_SUITES));
        let names: Vec<_> = versions(&TlsParameters::default()).iter().map(|it| it.version).collect();
        assert_eq!(names, [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2]);
    }

    #[test]
    fn lists_keep_their_order_and_tls13_its_suites() {
        let parameters = TlsParameters {
            max_version: TlsVersion::V1_2,
            cipher_suites: vec![CipherSuite::EcdheRsaAes256Gcm, CipherSuite::EcdheEcdsaAes128Gcm],
            groups: vec![KeyExchangeGroup::P521, KeyExchangeGroup::P384, KeyExchangeGroup::X25519],
            ..TlsParameters::default()
        };
        let provider = provider(&parameters);
        let old: Vec<Id> =
            provider.cipher_suites.iter().filter(|it| it.tls13().is_none()).map(|it| it.suite()).collect();
        assert_eq!(old, [Id::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, Id::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]);
        assert_eq!(provider.cipher_suites.len(), 5);
        let groups: Vec<NamedGroup> = provider.kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [NamedGroup::secp384r1, NamedGroup::X25519]);
        assert_eq!(versions(&parameters).len(), 1);
    }
}
