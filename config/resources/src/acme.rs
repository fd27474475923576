//! `AcmeCertificate` (`tidegate.io/v1alpha1`): a certificate that an ACME authority (RFC 8555) issues to the gateway.

use tidegate_core::ResourceKey;

use crate::decode::{enumeration, message};
use crate::duration::Duration;

/// The directory that is asked if an object names none.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

message! {
    /// A certificate to obtain and to keep renewed. It serves as the Secret `credentialName` of the object's namespace
    /// would.
    pub struct AcmeCertificate {
        /// What a Gateway's `credentialName` calls it; empty: the object's own name.
        pub credential_name: String => "credentialName",
        /// At least one; wildcards and addresses are refused.
        pub dns_names: Vec<String> => "dnsNames",
        /// URL of the authority's directory; empty: Let's Encrypt.
        pub server: String => "server",
        /// Where the authority may write to; empty: nowhere.
        pub email: String => "email",
        pub challenge: AcmeChallenge => "challenge",
        /// File with the authorities that vouch for the directory's own TLS; empty: those of the machine.
        pub ca_certificates: String => "caCertificates",
        /// How long before its end a certificate is renewed; none: a third of its lifetime.
        pub renew_before: Option<Duration> => "renewBefore",
    }
}

enumeration! {
    /// How the authority is shown that a name leads here.
    pub enum AcmeChallenge {
        /// A file below `http://<name>/.well-known/acme-challenge/` (RFC 8555, section 8.3).
        #[default]
        Http01 = "HTTP-01",
        /// A certificate in a handshake on port 443 (RFC 8737).
        TlsAlpn01 = "TLS-ALPN-01",
    }
}

impl AcmeCertificate {
    /// Name of the Secret that the certificate takes the place of, in the namespace of `key`, which is the object's own.
    pub fn credential_name<'a>(&'a self, key: &'a ResourceKey) -> &'a str {
        if self.credential_name.is_empty() { &key.name } else { &self.credential_name }
    }

    /// URL of the directory that is asked.
    pub fn directory(&self) -> &str {
        if self.server.is_empty() { LETS_ENCRYPT } else { &self.server }
    }
}
