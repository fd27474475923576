use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;

/// The authorities that the machine trusts, read when they are first asked for and then kept.
#[derive(Debug, Default)]
pub(crate) struct SystemRoots(OnceLock<Arc<RootCertStore>>);

impl SystemRoots {
    /// Reads files the first time. Empty if the machine has none, so that nothing verifies.
    pub(crate) fn get(&self) -> &Arc<RootCertStore> {
        self.0.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            let mut roots = RootCertStore::empty();
            let (usable, ignored) = roots.add_parsable_certificates(found.certs);
            if usable == 0 {
                let error = found.errors.first().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%error, "the machine trusts no authorities; no backend is verified with them");
            } else {
                tracing::debug!(usable, ignored, "read the authorities that the machine trusts");
            }
            Arc::new(roots)
        })
    }
}
