//! The issuer against an authority of the test's own, which fails on demand, with a clock that is moved.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use support::authority::{Authority, Fault};
use support::{
    DAY, HOUR, Helper, MINUTE, ManualClock, days_ago, files, head_field, issued, leaf, name, names_of, only_file,
    options, request, state, told,
};
use tidegate_acme::{CertificateState, ChallengeKind, Clock, Issuer, IssuerOptions, Report};
use tidegate_core::{Code, Host, Level, Origin};
use tidegate_sds::SecretStore;

/// An authority, a store and a state directory.
struct Rig {
    authority: Authority,
    store: Arc<SecretStore>,
    folder: tempfile::TempDir,
    clock: ManualClock,
}

impl Rig {
    /// The clock stands `days` before now, so that what is issued after it was moved is valid by the store's clock.
    async fn new(days: u32) -> Self {
        let store = Arc::new(SecretStore::default());
        let authority = Authority::start(Some(store.clone())).await;
        let clock = ManualClock::at(days_ago(days));
        authority.issue_at(clock.now(), DAY * 90);
        Self { authority, store, folder: tempfile::tempdir().unwrap(), clock }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("acme")
    }

    fn start(&self) -> Issuer {
        Issuer::start(self.store.clone(), self.state(), options(&self.clock))
    }

    fn request(&self, credential: &str, host: &str) -> tidegate_acme::CertificateRequest {
        request(credential, host, &self.authority.url, &self.authority.roots)
    }

    fn issue_now(&self) {
        self.authority.issue_at(self.clock.now(), DAY * 90);
    }
}

#[tokio::test]
async fn a_certificate_is_ordered_served_kept_and_its_challenges_are_closed() {
    for challenge in [ChallengeKind::Http01, ChallengeKind::TlsAlpn01] {
        let rig = Rig::new(0).await;
        let issuer = rig.start();
        let mut request = rig.request("shop", "A.example.com");
        request.dns_names.push("b.example.com".into());
        request.challenge = challenge;
        request.email = Some("ops@example.com".into());
        issuer.set_requests(vec![request]).await;
        let status = issued(&issuer, "shop").await;
        assert_eq!((status.orders, status.failures, status.last_error), (1, 0, None));
        assert_eq!(names_of(&rig.store, "shop"), ["a.example.com", "b.example.com"]);
        assert!(!rig.store.challenges().any());
        assert_eq!(rig.authority.contacts(), [serde_json::json!(["mailto:ops@example.com"])]);
        assert!(files(&rig.state().join("orders")).is_empty());
        assert_eq!(issuer.findings(), []);
        issuer.shutdown().await;
    }
}

#[tokio::test]
async fn a_restart_serves_the_kept_certificate_before_any_network() {
    let mut rig = Rig::new(0).await;
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    issued(&issuer, "shop").await;
    issuer.shutdown().await;
    let first = leaf(&rig.store, "shop");

    rig.authority.go_down().await;
    rig.store = Arc::new(SecretStore::default());
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    assert_eq!(leaf(&rig.store, "shop"), first);
    let status = state(&issuer, "shop", CertificateState::Issued).await;
    assert_eq!((status.orders, status.issued_at), (0, None));
    assert!(status.next_attempt.unwrap() > rig.clock.now() + DAY * 50);
    issuer.shutdown().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_at_two_thirds_of_its_life_with_the_same_account() {
    let rig = Rig::new(65).await;
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    let first_issued = issued(&issuer, "shop").await;
    let first = leaf(&rig.store, "shop");
    let due = first_issued.next_attempt.unwrap();
    let start = rig.clock.now();
    assert!((start + DAY * 57..=start + DAY * 63).contains(&due), "{:?}", due.duration_since(start));

    rig.clock.set(due - Duration::from_secs(1));
    let told_now = issuer.statuses();
    assert_eq!((told_now[0].state, rig.authority.orders()), (CertificateState::Issued, 1));
    rig.clock.set(due);
    rig.issue_now();
    told(&issuer, "a renewal", |report| report.statuses[0].not_after > first_issued.not_after).await;
    assert_ne!(leaf(&rig.store, "shop"), first);
    assert_eq!((rig.authority.accounts(), rig.authority.orders()), (1, 2));
    issuer.shutdown().await;
}

#[tokio::test]
async fn the_authority_may_ask_for_an_early_renewal_and_hears_what_is_replaced() {
    let rig = Rig::new(20).await;
    let start = rig.clock.now();
    rig.authority.suggest(start + DAY * 10, start + DAY * 11);
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    let in_window = |at: Option<SystemTime>| at.is_some_and(|at| (start + DAY * 10..start + DAY * 11).contains(&at));
    let report = told(&issuer, "the window", |report| in_window(report.statuses[0].next_attempt)).await;
    rig.clock.set(report.statuses[0].next_attempt.unwrap());
    rig.issue_now();
    told(&issuer, "a renewal", |report| {
        report.statuses[0].orders == 2 && report.statuses[0].state == CertificateState::Issued
    })
    .await;
    assert_eq!(rig.authority.replaced(), [false, true]);
    issuer.shutdown().await;
}

#[tokio::test]
async fn an_authority_that_is_down_is_tried_with_growing_pauses_and_nothing_expired_is_served() {
    let mut rig = Rig::new(86).await;
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    let first = issued(&issuer, "shop").await;
    let end = first.not_after.unwrap();
    rig.authority.go_down().await;
    rig.clock.set(first.next_attempt.unwrap());
    let mut pauses = Vec::new();
    for failures in 1..=6 {
        let report = told(&issuer, "a failure", |report| report.statuses[0].failures == failures).await;
        let status = &report.statuses[0];
        let next = status.next_attempt.unwrap();
        pauses.push(next.duration_since(rig.clock.now()).unwrap());
        assert!(status.last_error.as_ref().unwrap().contains("cannot be reached"), "{status:?}");
        assert_eq!(report.findings[0].level, Level::Warning, "{:?}", report.findings);
        rig.clock.set(next);
    }
    let bounds = [(48, 72), (192, 288), (768, 1152), (2880, 4320), (2880, 4320), (2880, 4320)];
    for (pause, (low, high)) in pauses.iter().zip(bounds) {
        assert!((low..=high).contains(&pause.as_secs()), "{pauses:?}");
    }
    // Five days before the end it is an error, and the authority comes back.
    told(&issuer, "the last failure", |report| report.statuses[0].failures == 7).await;
    rig.clock.set(end - DAY * 5);
    told(&issuer, "an alarm", |report| report.findings.iter().any(|finding| finding.level == Level::Error)).await;
    told(&issuer, "one more failure", |report| report.statuses[0].failures >= 8).await;
    rig.issue_now();
    rig.authority.come_back().await;
    rig.clock.advance(HOUR * 2);
    let report = told(&issuer, "a renewal", |report| report.statuses[0].not_after > Some(end)).await;
    assert_eq!((report.statuses[0].failures, &report.findings), (0, &Vec::new()));
    assert!(rig.clock.now() < end);
    issuer.shutdown().await;
}

#[tokio::test]
async fn an_authority_that_limits_is_left_alone_as_long_as_it_asks() {
    let rig = Rig::new(0).await;
    let limit = Fault::Problem(429, "rateLimited", "too many certificates for example.com", Some("10800"));
    rig.authority.fail("/order", limit);
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    let status = state(&issuer, "shop", CertificateState::Failed).await;
    assert_eq!(status.next_attempt, Some(rig.clock.now() + HOUR * 3));
    let findings = issuer.findings();
    let finding = &findings[0];
    assert_eq!((finding.code, finding.level), (Code::CERTIFICATE_NOT_ISSUED, Level::Error));
    assert_eq!(finding.origin.to_string(), "acme.yaml:7:3");
    let words =
        "no certificate yet: the authority refused the order: too many certificates for example.com (rateLimited)";
    assert_eq!(finding.message, words);
    rig.clock.advance(HOUR * 3);
    issued(&issuer, "shop").await;
    assert_eq!(issuer.findings(), []);
    issuer.shutdown().await;
}

#[tokio::test]
async fn answers_that_are_no_acme_are_told_in_words_and_the_order_goes_on_where_it_was() {
    let rig = Rig::new(0).await;
    rig.authority.fail("/directory", Fault::Html(502));
    rig.authority.fail("/finalize", Fault::Problem(500, "serverInternal", "try later", None));
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    let status = state(&issuer, "shop", CertificateState::Failed).await;
    assert!(status.last_error.unwrap().ends_with(" answered 502 Bad Gateway"));
    rig.clock.advance(MINUTE * 2);
    let report = told(&issuer, "the second failure", |report| report.statuses[0].failures == 2).await;
    assert_eq!(
        report.statuses[0].last_error.as_deref(),
        Some("the authority refused the signing request: try later (serverInternal)")
    );
    rig.clock.advance(MINUTE * 10);
    issued(&issuer, "shop").await;
    assert_eq!(rig.authority.orders(), 1);
    issuer.shutdown().await;
}

#[tokio::test]
async fn a_pause_of_any_length_is_bounded() {
    let rig = Rig::new(0).await;
    rig.authority.fail("/order", Fault::Problem(429, "rateLimited", "go away", Some("18446744073709551615")));
    // The pause that comes with an order's state is instant-acme's to read.
    rig.authority.fail("/challenge", Fault::Problem(500, "serverInternal", "no", Some("18446744073709551615")));
    rig.authority.fail("/order/1", Fault::Problem(503, "serverInternal", "no", Some("18446744073709551615")));
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    for failures in 1..=3 {
        let report = told(&issuer, "a failure", |report| report.statuses[0].failures == failures).await;
        let next = report.statuses[0].next_attempt.unwrap();
        assert_eq!(next, rig.clock.now() + DAY * 7);
        rig.clock.set(next);
    }
    issued(&issuer, "shop").await;
    issuer.shutdown().await;
}

#[tokio::test]
async fn a_full_disk_orders_nothing_and_a_certificate_that_was_not_kept_is_fetched_again() {
    let rig = Rig::new(0).await;
    std::fs::write(rig.state(), "a file where the folder should be").unwrap();
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    let status = state(&issuer, "shop", CertificateState::Failed).await;
    assert!(status.last_error.unwrap().contains("cannot be created"));
    assert_eq!(rig.authority.requests(), 0);
    std::fs::remove_file(rig.state()).unwrap();

    // The order is kept, the certificate cannot be.
    rig.authority.hold();
    rig.clock.advance(MINUTE * 10);
    rig.authority.challenged(1).await;
    let folder = rig.state().join("certificates");
    std::fs::remove_dir(&folder).unwrap();
    rig.authority.release();
    let unkept = |report: &Report| report.statuses[0].not_after.is_some() && report.statuses[0].last_error.is_some();
    let report = told(&issuer, "a certificate that is not kept", unkept).await;
    assert!(report.findings[0].message.contains("cannot be written"), "{:?}", report.findings);
    let served = leaf(&rig.store, "shop");
    assert!(served.is_some());
    std::fs::create_dir(&folder).unwrap();
    rig.clock.set(report.statuses[0].next_attempt.unwrap());
    told(&issuer, "no findings", |report| report.findings.is_empty()).await;
    assert_eq!((rig.authority.orders(), leaf(&rig.store, "shop") == served), (1, true));
    only_file(&rig.state(), "certificates");
    issuer.shutdown().await;
}

#[tokio::test]
async fn an_authority_that_lost_its_books_gets_the_account_and_the_order_again() {
    let rig = Rig::new(0).await;
    rig.authority.fail("/finalize", Fault::Problem(500, "serverInternal", "try later", None));
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    state(&issuer, "shop", CertificateState::Failed).await;
    rig.authority.fail("/order/0", Fault::Problem(400, "accountDoesNotExist", "no such account", None));
    rig.clock.advance(MINUTE * 2);
    let status = issued(&issuer, "shop").await;
    assert_eq!((status.orders, rig.authority.orders(), rig.authority.accounts()), (2, 2, 1));
    issuer.shutdown().await;
}

#[tokio::test]
async fn a_changed_request_orders_anew_while_the_old_certificate_serves_and_a_removed_one_ends() {
    let rig = Rig::new(0).await;
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    issued(&issuer, "shop").await;
    let first = leaf(&rig.store, "shop");

    rig.authority.hold();
    issuer.set_requests(vec![rig.request("shop", "b.example.com")]).await;
    rig.authority.challenged(1).await;
    assert!(rig.store.challenges().any());
    assert_eq!(leaf(&rig.store, "shop"), first);
    assert_eq!(issuer.statuses()[0].state, CertificateState::Ordering);

    // The order is cancelled where it stands.
    issuer.set_requests(Vec::new()).await;
    told(&issuer, "an empty report", |report| report.statuses.is_empty()).await;
    let closed = async {
        while rig.store.challenges().any() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(support::PATIENCE, closed).await.expect("challenges are closed");
    assert_eq!(leaf(&rig.store, "shop"), first);

    rig.authority.release();
    issuer.set_requests(vec![rig.request("shop", "b.example.com")]).await;
    let report = told(&issuer, "the new name", |report| {
        report.statuses.first().is_some_and(|status| status.issued_at.is_some())
    })
    .await;
    assert_eq!(report.statuses[0].dns_names, ["b.example.com"]);
    assert_eq!(names_of(&rig.store, "shop"), ["b.example.com"]);
    issuer.shutdown().await;
}

#[tokio::test]
async fn an_object_that_moved_in_its_file_orders_nothing_and_findings_follow_it() {
    let rig = Rig::new(0).await;
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    issued(&issuer, "shop").await;
    let mut moved = rig.request("shop", "a.example.com");
    moved.origin = Origin::new("acme.yaml", 70, 3);
    issuer.set_requests(vec![moved]).await;
    assert_eq!(rig.store.status(&name("shop")).unwrap().origin.to_string(), "acme.yaml:70:3");
    assert_eq!(issuer.statuses()[0].origin.to_string(), "acme.yaml:70:3");
    assert_eq!((issuer.statuses()[0].state, rig.authority.orders()), (CertificateState::Issued, 1));
    issuer.shutdown().await;
}

#[tokio::test]
async fn damaged_state_is_set_aside_told_and_made_good() {
    let rig = Rig::new(0).await;
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    issued(&issuer, "shop").await;
    issuer.shutdown().await;
    for (path, text) in files(&rig.state()) {
        std::fs::write(path, &text[..text.len() / 2]).unwrap();
    }
    let store = Arc::new(SecretStore::default());
    let issuer = Issuer::start(store.clone(), rig.state(), options(&rig.clock));
    let mut request = rig.request("shop", "a.example.com");
    request.challenge = ChallengeKind::TlsAlpn01;
    // The rig's authority looks into the first store; what is under test is the state.
    let believing = Authority::start(None).await;
    request.directory.clone_from(&believing.url);
    request.roots = Some(believing.roots.clone());
    issuer.set_requests(vec![request, rig.request("other", "b.example.com")]).await;
    issued(&issuer, "shop").await;
    let damages = |report: &Report| -> Vec<String> {
        let of_state = report.findings.iter().filter(|finding| finding.code == Code::ENVIRONMENT);
        of_state.map(|finding| finding.message.clone()).collect()
    };
    let damaged = damages(&*told(&issuer, "damages", |report| damages(report).len() == 2).await);
    assert!(
        damaged.iter().any(|message| message.contains("/certificates/") && message.contains("is damaged")),
        "{damaged:?}"
    );
    assert!(damaged.iter().any(|message| message.contains("/accounts/")), "{damaged:?}");
    assert!(damaged.iter().all(|message| !message.contains("BEGIN")), "{damaged:?}");
    assert!(leaf(&store, "shop").is_some());
    issuer.shutdown().await;
}

#[tokio::test]
async fn an_expired_certificate_serves_on_after_a_restart_and_says_so() {
    let mut rig = Rig::new(100).await;
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    issued(&issuer, "shop").await;
    issuer.shutdown().await;
    rig.authority.go_down().await;

    rig.store = Arc::new(SecretStore::default());
    rig.clock.set(SystemTime::now());
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    assert!(leaf(&rig.store, "shop").is_some(), "expired but present serves");
    let report = told(&issuer, "a failure", |report| report.statuses[0].failures == 1).await;
    assert!(report.findings[0].message.contains("expired on"), "{:?}", report.findings);
    assert!(report.findings[0].message.contains("cannot be reached"), "{:?}", report.findings);
    assert_eq!(report.findings[0].level, Level::Error);
    issuer.shutdown().await;
}

#[tokio::test]
async fn a_certificate_for_other_names_is_refused_and_the_old_one_serves() {
    let rig = Rig::new(65).await;
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    let first = issued(&issuer, "shop").await;
    let old = leaf(&rig.store, "shop");
    rig.authority.misname(&["other.example.com"]);
    rig.clock.set(first.next_attempt.unwrap());
    let status = state(&issuer, "shop", CertificateState::Failed).await;
    let error = status.last_error.unwrap();
    assert!(error.contains("it is not for a.example.com"), "{error}");
    assert_eq!(leaf(&rig.store, "shop"), old);
    issuer.shutdown().await;
}

#[tokio::test]
async fn a_certificate_that_the_store_refuses_waits_for_the_hosts_to_change_and_is_not_ordered_again() {
    let rig = Rig::new(0).await;
    let expect = |hosts: &[&str]| {
        let hosts = hosts.iter().map(|host| Host::parse(host).unwrap()).collect();
        rig.store.expect_hosts(BTreeMap::from([(name("shop"), hosts)]));
    };
    expect(&["a.example.com", "b.example.com"]);
    let issuer = rig.start();
    let mut both = rig.request("shop", "a.example.com");
    both.dns_names.push("b.example.com".into());
    issuer.set_requests(vec![both]).await;
    issued(&issuer, "shop").await;
    let old = leaf(&rig.store, "shop");

    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    let status = state(&issuer, "shop", CertificateState::NotTaken).await;
    assert!(status.last_error.as_ref().unwrap().contains("b.example.com"), "{status:?}");
    assert_eq!(leaf(&rig.store, "shop"), old);
    rig.clock.set(status.next_attempt.unwrap());
    told(&issuer, "a second refusal", |report| report.statuses[0].failures == 2).await;
    assert_eq!(rig.authority.orders(), 2, "the certificate of the same order is fetched and offered again");

    expect(&["a.example.com"]);
    state(&issuer, "shop", CertificateState::Issued).await;
    assert_eq!(names_of(&rig.store, "shop"), ["a.example.com"]);
    assert!(files(&rig.state().join("orders")).is_empty());
    issuer.shutdown().await;
}

#[tokio::test]
async fn what_no_authority_could_fulfil_is_told_and_not_attempted() {
    let rig = Rig::new(0).await;
    let issuer = rig.start();
    let mut plain = rig.request("plain", "a.example.com");
    plain.directory = "http://localhost/directory".into();
    let mut nothing = rig.request("nothing", "a.example.com");
    nothing.dns_names.clear();
    let requests = vec![
        rig.request("wild", "*.example.com"),
        rig.request("address", "10.0.0.1"),
        plain,
        nothing,
        rig.request("good", "good.example.com"),
        rig.request("good", "again.example.com"),
    ];
    issuer.set_requests(requests).await;
    issued(&issuer, "good").await;
    let mut messages: Vec<String> = issuer.findings().into_iter().map(|finding| finding.message).collect();
    messages.sort();
    assert_eq!(messages.len(), 5, "{messages:?}");
    assert!(messages[0].contains("kubernetes://ns/good is asked for"), "{messages:?}");
    for (message, part) in
        messages[1..].iter().zip(["HTTP-01 cannot prove a wildcard", "IP address", "https URL", "no DNS name"])
    {
        assert!(message.contains(part), "{messages:?}");
    }
    assert_eq!(rig.authority.orders(), 1);
    assert_eq!(names_of(&rig.store, "good"), ["good.example.com"]);
    issuer.shutdown().await;
}

#[tokio::test]
async fn many_credentials_share_one_account_and_one_that_fails_costs_no_other() {
    let rig = Rig::new(0).await;
    let issuer = rig.start();
    let mut requests: Vec<_> =
        (0..12).map(|n| rig.request(&format!("c{n:02}"), &format!("host-{n}.example.com"))).collect();
    // Two that want the same name follow one another.
    requests.push(rig.request("c12", "host-3.example.com"));
    rig.authority.fail("/finalize/5", Fault::Problem(403, "unauthorized", "not this one", None));
    issuer.set_requests(requests).await;
    let report = told(&issuer, "twelve certificates and a failure", |report| {
        let count = |state| report.statuses.iter().filter(|status| status.state == state).count();
        count(CertificateState::Issued) == 12 && count(CertificateState::Failed) == 1
    })
    .await;
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert_eq!((rig.authority.accounts(), rig.authority.orders()), (1, 13));
    issuer.shutdown().await;
}

#[tokio::test]
async fn a_wish_to_renew_longer_before_the_end_than_a_certificate_lives_does_not_renew_for_ever() {
    let rig = Rig::new(0).await;
    let issuer = rig.start();
    let mut request = rig.request("shop", "a.example.com");
    request.renew_before = Some(DAY * 400);
    issuer.set_requests(vec![request]).await;
    let status = issued(&issuer, "shop").await;
    assert!(status.next_attempt.unwrap() >= rig.clock.now() + DAY * 14, "{status:?}");
    let report = told(&issuer, "a warning", |report| !report.findings.is_empty()).await;
    let message = "renewBefore is longer than most of the certificate's life; 1800 hours are used";
    assert_eq!(report.findings[0].message, message);
    issuer.shutdown().await;
}

#[tokio::test]
async fn keys_are_in_the_state_directory_and_the_store_and_nowhere_else() {
    let rig = Rig::new(0).await;
    let issuer = rig.start();
    issuer.set_requests(vec![rig.request("shop", "a.example.com")]).await;
    issued(&issuer, "shop").await;
    let shown = format!("{issuer:?} {:?} {:?} {:?}", issuer.statuses(), issuer.findings(), rig.store);
    let mut lines = 0;
    for (path, text) in files(&rig.state()) {
        let key: String =
            text.split("-----BEGIN PRIVATE KEY-----").nth(1).unwrap().split("-----END").next().unwrap().into();
        for line in key.lines().filter(|line| line.len() > 20) {
            lines += 1;
            assert!(!shown.contains(line));
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600, "{path}");
    }
    assert!(lines >= 4);
    issuer.shutdown().await;
}

const HELPER: &str = "TIDEGATE_ACME_TEST_HELPER";

/// Not a test but the process of the next one: it orders until it is killed.
#[tokio::test]
async fn a_process_that_orders_until_it_is_killed() {
    let Ok(told) = std::env::var(HELPER) else { return };
    let [directory, roots, state] = told.split('|').collect::<Vec<_>>().try_into().unwrap();
    Helper::end_with_parent();
    let store = Arc::new(SecretStore::default());
    let issuer = Issuer::start(store, PathBuf::from(state), IssuerOptions::default());
    issuer.set_requests(vec![request("shop", "a.example.com", directory, Path::new(roots))]).await;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_process_killed_in_the_middle_of_an_order_is_followed_by_one_that_ends_the_same_order() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("acme");
    let authority = Authority::start(None).await;
    authority.hold();
    for kills in 1..=2 {
        let told = format!("{}|{}|{}", authority.url, authority.roots.display(), state.display());
        let process = Helper::start("a_process_that_orders_until_it_is_killed", HELPER, &told);
        authority.challenged(kills).await;
        process.kill();
    }
    let order = only_file(&state, "orders").1;
    let account = only_file(&state, "accounts").1;
    assert!(head_field(&order, "url").ends_with("/order/0"), "{}", head_field(&order, "url"));

    authority.release();
    let store = Arc::new(SecretStore::default());
    let issuer = Issuer::start(store.clone(), state.clone(), IssuerOptions::default());
    issuer.set_requests(vec![request("shop", "a.example.com", &authority.url, &authority.roots)]).await;
    let status = issued(&issuer, "shop").await;
    assert_eq!((status.orders, authority.orders(), authority.accounts()), (0, 1, 1));
    assert_eq!(only_file(&state, "accounts").1, account);
    let (_, certificate) = only_file(&state, "certificates");
    let key = |text: &str| text.split("-----").nth(2).map(str::to_owned);
    assert!(key(&order).is_some() && key(&order) == key(&certificate), "the key is the order's");
    assert!(leaf(&store, "shop").is_some());
    issuer.shutdown().await;
}
