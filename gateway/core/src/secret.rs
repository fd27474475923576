//! Names of secrets and the bytes of keys.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

/// Name of a secret, in the form that Istio and Envoy use in SDS.
///
/// | form | holds |
/// |---|---|
/// | `kubernetes://ns/name` | certificate and key of a Secret |
/// | `kubernetes://ns/name-cacert` | certificates of authorities, and their revocation lists, for clients of `name` |
/// | `configmap://ns/name` | certificates of authorities |
/// | `file-cert:<chain>~<key>` | certificate and key in two files |
/// | `file-root:<path>` | certificates of authorities in a file; `file-root:system` those of the machine |
/// | `file-crl:<path>` | revocation lists in a file |
/// | `sds://<provider>` | whatever that provider sends |
///
/// Compares and orders by its text. Never holds key material.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SecretName(Arc<str>);

/// A [`SecretName`] taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecretSource<'n> {
    /// `name` ends in `-cacert` where authorities are meant.
    Kubernetes {
        namespace: &'n str,
        name: &'n str,
    },
    ConfigMap {
        namespace: &'n str,
        name: &'n str,
    },
    FileCertificate {
        chain: &'n str,
        key: &'n str,
    },
    FileRoot {
        path: &'n str,
    },
    /// The authorities that the machine trusts.
    SystemRoots,
    FileCrl {
        path: &'n str,
    },
    Sds {
        provider: &'n str,
    },
    /// A name that only its own source understands.
    Other,
}

impl SecretName {
    /// Any name, as it stands.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    pub fn kubernetes(namespace: &str, name: &str) -> Self {
        Self(format!("kubernetes://{namespace}/{name}").into())
    }

    /// The authorities that belong to a credential: `kubernetes://ns/name-cacert`.
    pub fn kubernetes_ca(namespace: &str, name: &str) -> Self {
        Self(format!("kubernetes://{namespace}/{name}-cacert").into())
    }

    pub fn config_map(namespace: &str, name: &str) -> Self {
        Self(format!("configmap://{namespace}/{name}").into())
    }

    pub fn file_certificate(chain: &str, key: &str) -> Self {
        Self(format!("file-cert:{chain}~{key}").into())
    }

    pub fn file_root(path: &str) -> Self {
        Self(format!("file-root:{path}").into())
    }

    pub fn system_roots() -> Self {
        Self("file-root:system".into())
    }

    pub fn file_crl(path: &str) -> Self {
        Self(format!("file-crl:{path}").into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn source(&self) -> SecretSource<'_> {
        let text = self.as_str();
        let in_namespace = |rest: &'_ str| rest.find('/');
        if let Some(rest) = text.strip_prefix("kubernetes://")
            && let Some(at) = in_namespace(rest)
        {
            return SecretSource::Kubernetes { namespace: &rest[..at], name: &rest[at + 1..] };
        }
        if let Some(rest) = text.strip_prefix("configmap://")
            && let Some(at) = in_namespace(rest)
        {
            return SecretSource::ConfigMap { namespace: &rest[..at], name: &rest[at + 1..] };
        }
        if let Some((chain, key)) = text.strip_prefix("file-cert:").and_then(|rest| rest.split_once('~')) {
            return SecretSource::FileCertificate { chain, key };
        }
        match text.strip_prefix("file-root:") {
            Some("system") => return SecretSource::SystemRoots,
            Some(path) => return SecretSource::FileRoot { path },
            None => {}
        }
        if let Some(path) = text.strip_prefix("file-crl:") {
            return SecretSource::FileCrl { path };
        }
        match text.strip_prefix("sds://") {
            Some(provider) => SecretSource::Sds { provider },
            None => SecretSource::Other,
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretName({})", self.0)
    }
}

impl Serialize for SecretName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// Bytes that may be a key: shared, wiped when the last owner drops them, never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SecretBytes(Arc<Zeroizing<Vec<u8>>>);

impl SecretBytes {
    /// Takes the bytes over. Spare room is not wiped, so it should have none.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<u8>> for SecretBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes redacted]", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_as_they_were_made() {
        let check = |name: SecretName, source: SecretSource<'_>| assert_eq!(name.source(), source, "{name}");
        check(SecretName::kubernetes("ns", "a"), SecretSource::Kubernetes { namespace: "ns", name: "a" });
        check(SecretName::kubernetes_ca("ns", "a"), SecretSource::Kubernetes { namespace: "ns", name: "a-cacert" });
        check(SecretName::config_map("ns", "a"), SecretSource::ConfigMap { namespace: "ns", name: "a" });
        check(
            SecretName::file_certificate("/c.pem", "/k.pem"),
            SecretSource::FileCertificate { chain: "/c.pem", key: "/k.pem" },
        );
        check(SecretName::file_root("/ca.pem"), SecretSource::FileRoot { path: "/ca.pem" });
        check(SecretName::system_roots(), SecretSource::SystemRoots);
        check(SecretName::file_crl("/crl.pem"), SecretSource::FileCrl { path: "/crl.pem" });
        check(SecretName::new("sds://vault"), SecretSource::Sds { provider: "vault" });
        check(SecretName::new("default"), SecretSource::Other);
    }

    #[test]
    fn bytes_are_not_shown() {
        assert_eq!(format!("{:?}", SecretBytes::new(b"-----BEGIN PRIVATE KEY-----".to_vec())), "[27 bytes redacted]");
    }
}
