//! The demo's own certificate, for `localhost`: nobody else vouches for it, so clients are told to trust it itself.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tidegate_sds::CertificateFacts;
use zeroize::Zeroizing;

/// The Secret that the Gateway's `credentialName` names; ours alone.
const SECRET: &str = "certificate.generated.yaml";
/// The certificate once more, for clients.
const CERTIFICATE: &str = "localhost.crt";
const DAY: Duration = Duration::from_secs(24 * 3600);
const LIFETIME: Duration = Duration::from_secs(90 * DAY.as_secs());
/// One that is older is made anew: from here on the gateway warns.
const LEFT: Duration = Duration::from_secs(31 * DAY.as_secs());

/// Makes the certificate and its key in `folder`, unless there is one that lasts. Gives back the certificate's path.
///
/// # Errors
/// A file cannot be written; the message names it.
pub(super) fn ensure(folder: &Path) -> anyhow::Result<PathBuf> {
    let (certificate, secret) = (folder.join(CERTIFICATE), folder.join(SECRET));
    let now = SystemTime::now();
    if !(lasts(&certificate, now + LEFT) && secret.is_file()) {
        let (chain, key) = make(now).context("making a certificate for localhost")?;
        write(&secret, yaml(&chain, &key).as_bytes(), 0o600)?;
        write(&certificate, chain.as_bytes(), 0o644)?;
    }
    Ok(certificate)
}

/// The Secret, as `kubectl create secret tls` would make it.
fn yaml(chain: &str, key: &str) -> Zeroizing<String> {
    let indented = |pem: &str| -> Zeroizing<String> {
        Zeroizing::new(pem.lines().flat_map(|line| ["    ", line.trim_end(), "\n"]).collect())
    };
    let (chain, key) = (indented(chain), indented(key));
    Zeroizing::new(format!(
        "# The demo's certificate and its key, made at the first start, and again when it expires soon.\n\
         apiVersion: v1\n\
         kind: Secret\n\
         metadata:\n\
         \x20 name: localhost\n\
         \x20 namespace: istio-system\n\
         type: kubernetes.io/tls\n\
         stringData:\n\
         \x20 tls.crt: |\n{}\
         \x20 tls.key: |\n{}",
        *chain, *key
    ))
}

/// Whether there is a certificate that is valid at `at`.
fn lasts(certificate: &Path, at: SystemTime) -> bool {
    let Ok(pem) = fs::read(certificate) else { return false };
    let Ok(der) = CertificateDer::from_pem_slice(&pem) else { return false };
    CertificateFacts::parse(&der).is_ok_and(|facts| facts.validity.contains(at.into()))
}

/// Certificate and key in PEM.
fn make(now: SystemTime) -> Result<(String, Zeroizing<String>), rcgen::Error> {
    let mut params = CertificateParams::new(["localhost".to_owned()])?;
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([0u16, 0, 0, 0, 0, 0, 0, 1])];
    params.subject_alt_names.extend(loopback.map(SanType::IpAddress));
    params.distinguished_name.push(DnType::CommonName, "tidegate demo");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = (now - DAY).into();
    params.not_after = (now + LIFETIME).into();
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), Zeroizing::new(key.serialize_pem())))
}

/// Whole or not at all: the gateway may be watching.
fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let temporary = path.with_extension("new");
    let result = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    result.with_context(|| format!("cannot write {}; choose another folder with --dir", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_certificate_that_lasts_is_kept_and_another_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = ensure(folder.path()).unwrap();
        let first = fs::read(&path).unwrap();
        assert_eq!(ensure(folder.path()).unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), first);
        let secret = folder.path().join(SECRET);
        assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!lasts(&path, SystemTime::now() + LIFETIME + DAY));
        fs::remove_file(secret).unwrap();
        ensure(folder.path()).unwrap();
        assert_ne!(fs::read(&path).unwrap(), first);
        fs::write(&path, "nothing").unwrap();
        ensure(folder.path()).unwrap();
        assert!(lasts(&path, SystemTime::now()));
    }
}
