//! What is left in memory of keys that were read, used and replaced.
//!
//! Alone in its binary: it reads the memory of the process, which other tests would fill. The first keys are made by
//! another process.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use data_encoding::BASE64;
use memchr::memchr_iter;
use support::authority::Authority;
use support::{DAY, Helper, ManualClock, files, issued, options, request, told};
use tidegate_acme::{Clock, Issuer, IssuerOptions};
use tidegate_sds::SecretStore;
use tidegate_tests::memory::Needle;
use zeroize::Zeroizing;

/// The binary's: it moves what grows, where glibc often finds room behind it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Parts of the private number in the one key of a state file: of its base64, and of its DER.
fn needles(path: &Path) -> [Needle; 2] {
    let file = File::open(path).unwrap();
    let mut text = Zeroizing::new(vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()]);
    file.read_exact_at(&mut text, 0).unwrap();
    let lines: Vec<_> = memchr_iter(b'\n', &text).collect();
    // JSON, the header of PEM, and then 64 symbols of base64.
    let symbols = &text[lines[1] + 1..lines[2]];
    let mut der = Zeroizing::new(vec![0; 48]);
    BASE64.decode_mut(symbols, &mut der).unwrap();
    [Needle::new(&symbols[51..64]), Needle::new(&der[38..48])]
}

fn only(state: &Path, shelf: &str) -> PathBuf {
    fs::read_dir(state.join(shelf)).unwrap().next().unwrap().unwrap().path()
}

const HELPER: &str = "TIDEGATE_ACME_WIPED_HELPER";

/// Not a test but the process of the next one: makes an account and a certificate.
#[tokio::test]
async fn a_process_that_orders_until_it_is_killed() {
    let Ok(told) = std::env::var(HELPER) else { return };
    let [directory, roots, state] = told.split('|').collect::<Vec<_>>().try_into().unwrap();
    Helper::end_with_parent();
    let issuer = Issuer::start(Arc::default(), PathBuf::from(state), IssuerOptions::default());
    issuer.set_requests(vec![request("shop", "a.example.com", directory, Path::new(roots))]).await;
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn keys_that_were_read_used_and_replaced_leave_no_copy() {
    if std::env::var_os(HELPER).is_some() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("acme");
    let authority = Authority::start(None).await;
    let told_helper = format!("{}|{}|{}", authority.url, authority.roots.display(), state.display());
    let helper = Helper::start("a_process_that_orders_until_it_is_killed", HELPER, &told_helper);
    let deadline = std::time::Instant::now() + support::PATIENCE;
    let kept = || {
        fs::read_dir(state.join("certificates")).is_ok_and(|mut files| {
            files.any(|file| file.unwrap().path().extension().is_some_and(|extension| extension == "pem"))
        })
    };
    while !kept() {
        assert!(std::time::Instant::now() < deadline, "no certificate");
        tokio::task::yield_now().await;
    }
    helper.kill();
    let account = needles(&only(&state, "accounts"));
    let first = needles(&only(&state, "certificates"));
    let count = |[pem, der]: &[Needle; 2]| (pem.count(), der.count());
    assert_eq!((count(&account), count(&first)), ((0, 0), (0, 0)), "before");

    let store = Arc::new(SecretStore::default());
    let clock = ManualClock::at(SystemTime::now());
    let issuer = Issuer::start(store.clone(), state.clone(), options(&clock));
    issuer.set_requests(vec![request("shop", "a.example.com", &authority.url, &authority.roots)]).await;
    assert_eq!(count(&first).0, 1, "what the store has of the kept certificate");
    let due = issuer.statuses()[0].next_attempt.unwrap();
    authority.issue_at(SystemTime::now(), DAY * 200);
    clock.set(due);
    issued(&issuer, "shop").await;
    let second = needles(&only(&state, "certificates"));
    // The issuer's task may still hold what it works with when the certificate is there; what is left in freed memory
    // does not go away.
    let deadline = std::time::Instant::now() + support::PATIENCE;
    loop {
        let found = (count(&account).0, count(&first), count(&second).0);
        if found == (0, (0, 0), 1) {
            break;
        }
        let waited = std::time::Instant::now() >= deadline;
        assert!(!waited, "copies of the account's, the first and the second key after the renewal: {found:?}");
        tokio::task::yield_now().await;
    }
    issuer.set_requests(Vec::new()).await;
    told(&issuer, "nothing", |report| report.statuses.is_empty()).await;
    issuer.shutdown().await;
    store.release(|_| false);
    drop(store);
    assert_eq!((count(&account), count(&first), count(&second)), ((0, 0), (0, 0), (0, 0)), "in the end");
    assert!(!files(&state).is_empty() && clock.now() == due);
}
