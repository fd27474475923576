//! What the tests of the issuer share: a clock that is moved, awaiting what the issuer tells, authorities to talk to.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod authority;
pub(crate) mod responder;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidegate_acme::{
    CertificateRequest, CertificateState, CertificateStatus, ChallengeKind, Clock, Issuer, IssuerOptions, Report, Sleep,
};
use tidegate_core::{Kind, Origin, ResourceKey, SecretName};
use tidegate_sds::{CertificateMaterial, Content, SecretStore};
use tokio::sync::watch;

/// Nothing that is awaited takes so long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// A clock that stands until it is moved.
#[derive(Clone)]
pub(crate) struct ManualClock(Arc<watch::Sender<SystemTime>>);

impl ManualClock {
    pub(crate) fn at(time: SystemTime) -> Self {
        Self(Arc::new(watch::Sender::new(time)))
    }

    pub(crate) fn set(&self, time: SystemTime) {
        self.0.send_replace(time);
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.send_modify(|time| *time += by);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        *self.0.borrow()
    }

    fn sleep_until(&self, at: SystemTime) -> Sleep {
        let mut time = self.0.subscribe();
        Box::pin(async move {
            if time.wait_for(|now| *now >= at).await.is_err() {
                std::future::pending().await
            }
        })
    }
}

pub(crate) fn days_ago(days: u32) -> SystemTime {
    SystemTime::now() - DAY * days
}

pub(crate) fn options(clock: &ManualClock) -> IssuerOptions {
    IssuerOptions { clock: Arc::new(clock.clone()), ..IssuerOptions::default() }
}

pub(crate) fn name(name: &str) -> SecretName {
    SecretName::kubernetes("ns", name)
}

/// `AcmeCertificate ns/<credential>` for one host.
pub(crate) fn request(credential: &str, host: &str, directory: &str, roots: &Path) -> CertificateRequest {
    CertificateRequest {
        name: name(credential),
        dns_names: vec![host.to_owned()],
        directory: directory.to_owned(),
        email: None,
        challenge: ChallengeKind::Http01,
        roots: Some(roots.to_owned()),
        renew_before: None,
        // The kind plays no part here.
        key: Some(ResourceKey::local(Kind::Secret, "ns", credential)),
        origin: Origin::new("acme.yaml", 7, 3),
    }
}

/// Waits until the issuer tells what is looked for.
pub(crate) async fn told(issuer: &Issuer, what: &str, found: impl Fn(&Report) -> bool) -> Arc<Report> {
    let mut reports = issuer.subscribe();
    match tokio::time::timeout(PATIENCE, reports.wait_for(|report| found(report))).await {
        Ok(report) => report.unwrap().clone(),
        Err(_) => panic!("{what} was not told in {PATIENCE:?}: {:#?}", issuer.subscribe().borrow()),
    }
}

/// Waits until a certificate is in a state, and gives its status.
pub(crate) async fn state(issuer: &Issuer, credential: &str, state: CertificateState) -> CertificateStatus {
    let wanted = name(credential);
    let of = |report: &Report| report.statuses.iter().find(|status| status.name == wanted).cloned();
    let what = format!("{credential} {}", state.as_str());
    let report = told(issuer, &what, |report| of(report).is_some_and(|status| status.state == state)).await;
    of(&report).unwrap()
}

/// Waits until a certificate that this process ordered serves.
pub(crate) async fn issued(issuer: &Issuer, credential: &str) -> CertificateStatus {
    let wanted = name(credential);
    let of = |report: &Report| report.statuses.iter().find(|status| status.name == wanted).cloned();
    let done = |status: CertificateStatus| status.state == CertificateState::Issued && status.issued_at.is_some();
    let report = told(issuer, "a certificate", |report| of(report).is_some_and(done)).await;
    of(&report).unwrap()
}

pub(crate) fn with_certificate<T>(
    store: &SecretStore,
    credential: &str,
    read: impl Fn(&CertificateMaterial) -> T,
) -> Option<T> {
    let secret = store.get(&name(credential))?.current()?;
    match &secret.content {
        Content::Certificate(material) => Some(read(material)),
        other => panic!("{other:?}"),
    }
}

/// DER of the leaf that serves.
pub(crate) fn leaf(store: &SecretStore, credential: &str) -> Option<Vec<u8>> {
    with_certificate(store, credential, |material| material.chain()[0].to_vec())
}

/// DNS names of the leaf that serves.
pub(crate) fn names_of(store: &SecretStore, credential: &str) -> Vec<String> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    let leaf = leaf(store, credential).expect("a certificate");
    let (_, parsed) = X509Certificate::from_der(&leaf).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    let dns = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    dns.collect()
}

/// Every file below a folder with its text. What another process removes meanwhile is left out.
pub(crate) fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else if let Ok(bytes) = std::fs::read(entry.path()) {
            found.push((entry.path().display().to_string(), String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    found.sort();
    found
}

/// This test binary once more, as a process that runs one of its tests and can be killed.
pub(crate) struct Helper(std::process::Child);

impl Helper {
    /// The test finds `told` in the variable.
    pub(crate) fn start(test: &str, variable: &str, told: &str) -> Self {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(variable, told);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        Self(command.spawn().unwrap())
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// For the process: ends it with the one that started it, whichever way that ends.
    pub(crate) fn end_with_parent() {
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(0);
        });
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The one file of a shelf of the state directory.
pub(crate) fn only_file(state: &Path, shelf: &str) -> (String, String) {
    let mut files = files(&state.join(shelf));
    assert_eq!(files.len(), 1, "{shelf}: {:?}", files.iter().map(|(name, _)| name).collect::<Vec<_>>());
    files.remove(0)
}

/// A text field of the first line of a state file.
pub(crate) fn head_field(text: &str, field: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let head: serde_json::Value = serde_json::from_str(line).expect("the first line of a state file is JSON");
    head[field].as_str().unwrap_or_default().to_owned()
}
