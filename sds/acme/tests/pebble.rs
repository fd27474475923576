//! The issuer against pebble, which checks signatures, nonces and challenges as Let's Encrypt does, and injects faults.
//! `make acme` runs the whole matrix of faults (`TIDEGATE_ACME_MATRIX=1`); otherwise a few corners of it are enough.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use support::responder::Responder;
use support::{
    DAY, Helper, ManualClock, files, head_field, issued, leaf, names_of, only_file, options, request, told,
    with_certificate,
};
use tidegate_acme::{CertificateRequest, CertificateState, ChallengeKind, Clock, Issuer, Report};
use tidegate_sds::SecretStore;
use tidegate_tests::pebble::{Faults, NO_FAULTS, Pebble};
use tidegate_tests::process::free_port;
use tokio::task::JoinSet;

struct Rig {
    pebble: Pebble,
    store: Arc<SecretStore>,
    clock: ManualClock,
    folder: tempfile::TempDir,
    _responder: Responder,
}

impl Rig {
    async fn new(faults: Faults) -> Self {
        let store = Arc::new(SecretStore::default());
        let responder = Responder::start(&store, 0).await;
        let pebble = Pebble::start(responder.http.port(), responder.tls.port(), faults);
        let clock = ManualClock::at(SystemTime::now());
        Self { pebble, store, clock, folder: tempfile::tempdir().unwrap(), _responder: responder }
    }

    fn start(&self) -> Issuer {
        Issuer::start(self.store.clone(), self.folder.path().join("acme"), options(&self.clock))
    }

    fn request(&self, credential: &str, challenge: ChallengeKind) -> CertificateRequest {
        let host = format!("{credential}.example.com");
        let mut request = request(credential, &host, &self.pebble.directory, &self.pebble.roots);
        request.dns_names.push(format!("www.{host}"));
        request.email = Some("ops@example.com".into());
        request.challenge = challenge;
        request
    }
}

/// A certificate is issued, and renewed when the clock is moved.
async fn issue_and_renew(challenge: ChallengeKind, faults: Faults) {
    let started = Instant::now();
    let rig = Rig::new(faults).await;
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", challenge)]).await;
    let first = issued(&issuer, "shop").await;
    assert_eq!(names_of(&rig.store, "shop"), ["shop.example.com", "www.shop.example.com"]);
    let before = leaf(&rig.store, "shop");
    assert_eq!(with_certificate(&rig.store, "shop", |material| material.chain().len() > 1), Some(true));
    assert!(!rig.store.challenges().any());

    rig.clock.set(first.next_attempt.unwrap());
    let renewed = |report: &Report| report.statuses[0].issued_at > first.issued_at;
    let report = told(&issuer, "a renewal", renewed).await;
    assert_ne!(leaf(&rig.store, "shop"), before);
    assert_eq!((report.statuses[0].orders, report.statuses[0].failures), (2, 0), "{challenge:?} {faults:?}");
    assert!(!rig.store.challenges().any());
    issuer.shutdown().await;
    eprintln!("{challenge:?} {faults:?}: {:?}", started.elapsed());
}

#[tokio::test]
async fn http_01_issues_and_renews_with_nine_of_ten_nonces_refused() {
    issue_and_renew(ChallengeKind::Http01, Faults { nonce_reject: 90, ..NO_FAULTS }).await;
}

#[tokio::test]
async fn tls_alpn_01_issues_and_renews_with_half_of_the_nonces_refused_and_a_long_chain() {
    let faults = Faults { nonce_reject: 50, chain_length: 3, ..NO_FAULTS };
    issue_and_renew(ChallengeKind::TlsAlpn01, faults).await;
}

#[tokio::test]
async fn slow_validation_and_alternate_roots_do_no_harm() {
    issue_and_renew(ChallengeKind::Http01, Faults { sleep: 3, alternate_roots: 2, ..NO_FAULTS }).await;
}

#[tokio::test]
async fn authorizations_that_are_valid_already_need_no_challenge() {
    issue_and_renew(ChallengeKind::TlsAlpn01, Faults { authz_reuse: 100, ..NO_FAULTS }).await;
}

#[tokio::test]
async fn the_whole_matrix_of_faults() {
    if std::env::var_os("TIDEGATE_ACME_MATRIX").is_none() {
        eprintln!("TIDEGATE_ACME_MATRIX is not set: `make acme` runs this");
        return;
    }
    let mut cases = Vec::new();
    for challenge in [ChallengeKind::Http01, ChallengeKind::TlsAlpn01] {
        for nonce_reject in [0, 5, 50, 90] {
            for sleep in [0, 15] {
                for authz_reuse in [0, 100] {
                    for (alternate_roots, chain_length) in [(0, 1), (2, 3)] {
                        let faults = Faults { nonce_reject, authz_reuse, alternate_roots, chain_length, sleep };
                        cases.push((challenge, faults));
                    }
                }
            }
        }
    }
    // Most of a case is pebble's sleep.
    let mut running = JoinSet::new();
    for (challenge, faults) in cases {
        if running.len() == 4 {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(issue_and_renew(challenge, faults));
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test]
async fn a_pebble_that_restarted_and_lost_everything_gets_the_account_again() {
    let mut rig = Rig::new(NO_FAULTS).await;
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", ChallengeKind::Http01)]).await;
    let first = issued(&issuer, "shop").await;
    rig.pebble.restart();
    rig.clock.set(first.next_attempt.unwrap());
    let renewed = |report: &Report| report.statuses[0].issued_at > first.issued_at;
    let report = told(&issuer, "a renewal", renewed).await;
    assert_eq!(report.statuses[0].failures, 0);
    issuer.shutdown().await;
}

#[tokio::test]
async fn a_name_that_cannot_be_validated_is_told_with_the_authoritys_words_and_tried_again() {
    let rig = Rig::new(NO_FAULTS).await;
    let issuer = rig.start();
    // Nobody answers for a store that is not the responder's.
    let elsewhere = Issuer::start(Arc::default(), rig.folder.path().join("elsewhere"), options(&rig.clock));
    elsewhere.set_requests(vec![rig.request("shop", ChallengeKind::Http01)]).await;
    let status = support::state(&elsewhere, "shop", CertificateState::Failed).await;
    let error = status.last_error.unwrap();
    assert!(error.starts_with("the authority could not validate "), "{error}");
    assert!(error.contains("shop.example.com: Non-200 status code"), "{error}");
    assert_eq!(status.help.as_deref(), Some("the authority must reach port 80 of this gateway under each name"));
    assert!(error.contains("(unauthorized)"), "{error}");
    assert!(files(&rig.folder.path().join("elsewhere/orders")).is_empty(), "a dead order is not kept");
    assert!(status.next_attempt.unwrap() < rig.clock.now() + DAY);
    elsewhere.shutdown().await;
    issuer.shutdown().await;
}

const HELPER: &str = "TIDEGATE_ACME_PEBBLE_HELPER";

/// Not a test but the process of the next one: it orders and answers until it is killed.
#[tokio::test]
async fn a_process_that_orders_until_it_is_killed() {
    let Ok(told) = std::env::var(HELPER) else { return };
    let [directory, roots, state, port] = told.split('|').collect::<Vec<_>>().try_into().unwrap();
    Helper::end_with_parent();
    let store = Arc::new(SecretStore::default());
    let _responder = Responder::start(&store, port.parse().unwrap()).await;
    let clock = ManualClock::at(SystemTime::now());
    let issuer = Issuer::start(store, PathBuf::from(state), options(&clock));
    issuer.set_requests(vec![request("shop", "shop.example.com", directory, Path::new(roots))]).await;
    std::future::pending::<()>().await;
}

/// Files of a shelf are seen as they come: another process writes them, so there is nothing to await but the clock.
fn await_order(state: &Path) -> String {
    let deadline = Instant::now() + support::PATIENCE;
    while Instant::now() < deadline {
        for (path, text) in files(&state.join("orders")) {
            if path.ends_with(".pem") && !head_field(&text, "url").is_empty() {
                return head_field(&text, "url");
            }
        }
        std::thread::yield_now();
    }
    panic!("no order was placed");
}

#[tokio::test]
async fn processes_killed_while_they_order_leave_one_account_and_the_certificate_comes() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("acme");
    let [http, tls] = [free_port(), free_port()];
    let pebble = Pebble::start(http, tls, Faults { sleep: 2, ..NO_FAULTS });
    let told = format!("{}|{}|{}|{http}", pebble.directory, pebble.roots.display(), state.display());
    let process = Helper::start("a_process_that_orders_until_it_is_killed", HELPER, &told);
    await_order(&state);
    process.kill();
    let account = head_field(&only_file(&state, "accounts").1, "url");
    assert!(!account.is_empty());

    let store = Arc::new(SecretStore::default());
    let _responder = Responder::start(&store, http).await;
    let clock = ManualClock::at(SystemTime::now());
    let issuer = Issuer::start(store.clone(), state.clone(), options(&clock));
    let wish = request("shop", "shop.example.com", &pebble.directory, &pebble.roots);
    issuer.set_requests(vec![wish]).await;
    // pebble may have looked for the challenge while nobody answered: then the order is dead, and the next attempt
    // places another.
    let done = |report: &Report| {
        let status = &report.statuses[0];
        matches!(status.state, CertificateState::Issued | CertificateState::Failed) && status.failures <= 1
    };
    let report = support::told(&issuer, "an end of the first attempt", done).await;
    if report.statuses[0].state == CertificateState::Failed {
        clock.set(report.statuses[0].next_attempt.unwrap());
    }
    issued(&issuer, "shop").await;
    assert_eq!(head_field(&only_file(&state, "accounts").1, "url"), account);
    assert_eq!(names_of(&store, "shop"), ["shop.example.com"]);
    issuer.shutdown().await;
}
