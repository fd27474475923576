//! Swaps: versions, generations, proof, last good in time.

use tidegate_core::SecretName;
use tidegate_sds::{Payload, SecretState, SourceKind};

use crate::support::{Authority, FROM, UNTIL, World, bytes, offer, secret, timestamp};

#[test]
fn a_rotation_moves_version_and_generation_and_is_proved() {
    let world = World::new();
    let authority = Authority::root("root").intermediate("intermediate");
    let mut swaps = world.store.subscribe();
    let first = authority.issue(&["a.com"]);
    world.store.offer(vec![first.offer("a")]);
    assert_eq!(world.store.generation(), 1);
    assert!(swaps.has_changed().unwrap());
    assert_eq!(*swaps.borrow_and_update(), 1);
    let status = world.status("a");
    assert_eq!((status.counters.proofs, status.proved), (0, None), "the first has nothing to fall back to");
    let algorithms =
        [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519, &rcgen::PKCS_RSA_SHA256];
    for algorithm in algorithms {
        let next = authority.issue_with(&["a.com"], FROM, UNTIL, algorithm, |_| {});
        world.store.offer(vec![next.offer("a")]);
        assert_eq!(world.leaf("a").unwrap(), next.leaf);
    }
    let status = world.status("a");
    assert_eq!((status.version, status.counters.swaps, status.counters.proofs), (5, 5, 4));
    assert_eq!(status.proved, Some(timestamp(crate::support::TODAY)));
    assert_eq!(world.store.generation(), 5);
}

/// Version 1 of X.509 has no extensions; it is what `openssl x509 -req` of Debian makes, and Istio's tutorials with it.
#[test]
fn a_certificate_without_extensions_serves_and_rotates() {
    let world = World::new();
    for version in 1..=2 {
        let folder = tempfile::tempdir().unwrap();
        let run = |arguments: &str| {
            let mut command = std::process::Command::new("openssl");
            let done = command.current_dir(folder.path()).args(arguments.split(' ')).output();
            let done = done.expect("openssl: apt-get install openssl");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        };
        run("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 3650");
        run("req -newkey rsa:2048 -nodes -keyout key -out csr -subj /CN=a.com");
        run("x509 -req -in csr -CA ca.crt -CAkey ca.key -set_serial 1 -out crt -days 3650");
        let read = |file: &str| bytes(std::fs::read_to_string(folder.path().join(file)).unwrap());
        let payload = Payload::Certificate { chain: read("crt"), key: read("key"), ocsp_staple: None };
        world.store.offer(vec![offer("a", payload)]);
        assert_eq!(world.status("a").version, version, "{:?}", world.texts());
    }
    assert_eq!(world.status("a").counters.proofs, 1);
}

#[test]
fn the_same_bytes_are_no_news() {
    let world = World::new();
    let pair = Authority::root("root").issue(&["a.com"]);
    let first = pair.offer("a");
    world.store.offer(vec![first.clone()]);
    let (generation, changes) = (world.store.generation(), *world.store.subscribe_changes().borrow());
    world.store.offer(vec![first.clone()]);
    world.store.offer(vec![pair.offer("a")]);
    assert_eq!(world.store.generation(), generation);
    assert_eq!(*world.store.subscribe_changes().borrow(), changes);
    let status = world.status("a");
    assert_eq!((status.version, status.counters.offers), (1, 1));
    // Nor is a refused offer that comes again with every reload.
    let broken = offer("a", Payload::Broken("nothing".into()));
    assert_eq!(world.store.offer(vec![broken.clone()]).len(), 1);
    assert_eq!(world.store.offer(vec![broken]).len(), 1, "told again");
    assert_eq!(world.status("a").counters.failures, 1, "counted once");
    // Going back to what serves mends it.
    assert_eq!(world.store.offer(vec![first]), []);
    world.check("a", 1, SecretState::Active);
}

#[test]
fn a_refused_offer_is_taken_when_its_time_comes() {
    let world = World::new();
    let authority = Authority::root("root");
    let next = authority.issue_with(&["a.com"], (2026, 7, 1), UNTIL, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {});
    world.store.offer(vec![authority.issue(&["a.com"]).offer("a")]);
    world.store.offer(vec![next.offer("a")]);
    assert_eq!(world.tick((2026, 6, 30)).len(), 1);
    world.check("a", 1, SecretState::Refused);
    assert_eq!(world.tick((2026, 7, 2)), []);
    world.check("a", 2, SecretState::Active);
    assert_eq!(world.leaf("a").unwrap(), next.leaf);
}

#[test]
fn a_refused_offer_is_taken_when_its_hosts_come() {
    let world = World::new();
    let authority = Authority::root("root");
    let (a, b) = (authority.issue(&["a.com"]), authority.issue(&["b.com"]));
    world.expect(&[("a", &["a.com"])]);
    world.store.offer(vec![a.offer("a")]);
    // The certificate comes before the Gateway's new host, as one edit of both may.
    assert_eq!(world.store.offer(vec![b.offer("a")]).len(), 1);
    assert_eq!(world.leaf("a").unwrap(), a.leaf);
    assert_eq!(world.expect(&[("a", &["b.com"])]), []);
    assert_eq!(world.leaf("a").unwrap(), b.leaf);
    // The host alone: what serves is told to be wrong, and serves on.
    let findings = world.expect(&[("a", &["c.com", "d.com"])]);
    assert!(
        findings[0].message.starts_with("the certificate is not for c.com, d.com; its names are b.com"),
        "{findings:?}"
    );
    world.check("a", 2, SecretState::Active);
}

#[test]
fn what_is_withdrawn_serves_on_and_is_told() {
    let world = World::new();
    let pair = Authority::root("root").issue(&["a.com"]);
    world.expect(&[("a", &["a.com"])]);
    world.store.offer(vec![pair.offer("a")]);
    world.store.withdraw(&[secret("a"), secret("unknown")]);
    world.check("a", 1, SecretState::Orphaned);
    assert_eq!(
        world.texts(),
        ["Warning [TG0013] (Secret ns/a secrets.yaml:3:1) its source no longer has it; version 1 (until \
          2027-01-01T00:00:00Z) serves on (put it back, or take the references to it away: nothing renews it any \
          more)"]
    );
    assert_eq!(world.store.release(|_| false), 0, "its hosts are served");
    world.store.offer(vec![pair.offer("a")]);
    world.check("a", 1, SecretState::Active);
    world.store.withdraw_from(SourceKind::Kubernetes, &[secret("a")]);
    world.expect(&[]);
    assert_eq!(world.store.release(|_| true), 0);
    assert_eq!(world.store.release(|_| false), 1);
    assert!(world.store.get(&secret("a")).is_none());
}

#[test]
fn a_slot_that_never_held_anything_goes_with_its_offer() {
    let world = World::new();
    world.store.offer(vec![offer("a", Payload::Broken("broken".into()))]);
    world.store.withdraw(&[secret("a")]);
    assert!(world.store.get(&secret("a")).is_none());
    world.store.offer(vec![offer("a", Payload::Nothing("not a certificate".into()))]);
    assert!(world.store.get(&secret("a")).is_none(), "nobody uses it");
    world.expect(&[("a", &["a.com"])]);
    world.store.offer(vec![offer("a", Payload::Nothing("not a certificate".into()))]);
    assert_eq!(world.texts().len(), 1, "now somebody does");
    world.expect(&[]);
    world.store.withdraw(&[secret("a")]);
    assert!(world.store.get(&secret("a")).is_none());
}

#[test]
fn expiry_is_told_at_thirty_days_and_at_seven() {
    let world = World::new();
    world.store.offer(vec![Authority::root("root").issue(&["a.com"]).offer("a")]);
    let check = |date, expected: &[&str]| {
        let findings = world.tick(date);
        let texts: Vec<_> = findings.iter().map(|finding| (finding.code.0, finding.message.as_str())).collect();
        assert_eq!(texts.iter().map(|(_, text)| *text).collect::<Vec<_>>(), expected, "{date:?}");
        assert!(texts.iter().all(|(code, _)| *code == "TG0012" || date > UNTIL));
    };
    check((2026, 12, 1), &[]);
    check((2026, 12, 2), &["the certificate expires in 30 days, on 2027-01-01T00:00:00Z"]);
    check((2026, 12, 25), &["the certificate expires in 7 days, on 2027-01-01T00:00:00Z: replace it now"]);
    check((2026, 12, 31), &["the certificate expires in 1 day, on 2027-01-01T00:00:00Z: replace it now"]);
    check(
        (2027, 1, 2),
        &["the certificate expired on 2027-01-01T00:00:00Z; it serves all the same, as there is nothing better"],
    );
}

#[test]
fn of_several_names_the_first_that_holds_something_is_used() {
    let world = World::new();
    let pair = Authority::root("root").issue(&["a.com"]);
    world.store.offer(vec![pair.offer("b"), offer("a", Payload::Broken("broken".into()))]);
    let resolve = |names: &[&str]| {
        let names: Vec<SecretName> = names.iter().map(|name| secret(name)).collect();
        world.store.resolve(&names).map(|slot| slot.name().to_string())
    };
    assert_eq!(resolve(&["a", "b"]).as_deref(), Some("kubernetes://ns/b"));
    assert_eq!(resolve(&["a", "c"]), None);
    world.store.offer(vec![pair.offer("a")]);
    assert_eq!(resolve(&["a", "b"]).as_deref(), Some("kubernetes://ns/a"));
}

#[test]
fn a_slot_does_not_change_its_kind() {
    let world = World::new();
    let authority = Authority::root("root");
    world.store.offer(vec![authority.issue(&["a.com"]).offer("a")]);
    let trust = Payload::Trust { authorities: bytes(authority.pem()), crl: None };
    let findings = world.store.offer(vec![offer("a", trust)]);
    assert!(findings[0].message.starts_with("it holds authorities, and a certificate serves under this name"));
    world.check("a", 1, SecretState::Refused);
}
