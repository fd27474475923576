//! TLS at the edge: what clients see of certificates, modes, server names and secrets.

mod abuse;
mod modes;
mod sample;
mod secrets;
mod server_names;
mod tools;
mod upstream;

use tidegate_tests::pki::{Authority, tls_secret};

/// The namespace of the gateway workload, where credentials are looked up.
const NAMESPACE: &str = "istio-system";

/// Secrets of one authority: `(credential, names)` each.
fn secrets(authority: &Authority, credentials: &[(&str, &[&str])]) -> String {
    credentials.iter().map(|(name, names)| tls_secret(NAMESPACE, name, &authority.issue(names))).collect()
}
