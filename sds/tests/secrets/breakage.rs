//! The ways in which people break a Secret: what serves stays, and the text names the object, the file and the line.

use tidegate_sds::{Payload, SecretState};

use crate::support::{Authority, FROM, Pair, UNTIL, World, certificate, offer, secret, sections};

/// A world in which `a` serves, and 31 others.
fn world(authority: &Authority) -> (World, Pair) {
    let world = World::new();
    let good = authority.issue(&["a.com"]);
    let mut offers = vec![good.offer("a")];
    offers.extend((0..31).map(|at| authority.issue(&[&format!("{at}.com")]).offer(&format!("other-{at}"))));
    assert_eq!(world.store.offer(offers), []);
    assert_eq!(world.expect(&[("a", &["a.com"])]), []);
    (world, good)
}

#[test]
fn every_kind_of_breakage_keeps_the_last_good_and_costs_no_other_secret() {
    let root = Authority::root("root");
    let authority = root.intermediate("intermediate");
    let other = authority.issue(&["a.com"]);
    let chain = sections(&other.chain);
    let rsa = Pair::by_openssl(&["-newkey", "rsa:2048"]);
    let with = |from, until| authority.issue_with(&["a.com"], from, until, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {});
    let expired = with((2025, 1, 1), (2026, 1, 1));
    let future = with((2026, 7, 1), UNTIL);
    let elsewhere = authority.issue(&["b.com"]);
    let huge = format!("{}{}", other.chain, "#".repeat(1 << 20));
    let many = other.chain.repeat(100);
    let half = &other.chain[..other.chain.len() / 2];
    let binary: Vec<u8> = (0..=255).cycle().take(2000).collect();
    let broken: Vec<(&str, Payload, &str, &str)> = vec![
        (
            "wrong key",
            certificate(&other.chain, &elsewhere.key),
            "10:3) data[\"tls.key\"]: the private key does not belong to the certificate",
            "openssl pkey -pubout",
        ),
        (
            "truncated",
            certificate(half, &other.key),
            "9:3) data[\"tls.crt\"]: the certificate chain cannot be used: a section has no end: it is cut off",
            "",
        ),
        (
            "truncated key",
            certificate(&other.chain, &other.key[..80]),
            "10:3) data[\"tls.key\"]: the private key",
            "cut off",
        ),
        ("expired", expired.payload(), "9:3) data[\"tls.crt\"]: the certificate expired on 2026-01-01T00:00:00Z", ""),
        ("not yet valid", future.payload(), "the certificate is not valid before 2026-07-01T00:00:00Z", ""),
        ("wrong host", elsewhere.payload(), "the certificate is not for a.com; its names are b.com", ""),
        ("empty", certificate("", ""), "the certificate chain cannot be used: it is empty", ""),
        ("binary", certificate(&binary, &binary), "the certificate chain cannot be used: it has no line", ""),
        ("no key", Payload::Broken("half of a pair: `tls.key` is missing".into()), "3:1) half of a pair", ""),
        ("reversed", certificate(format!("{}{}", chain[1], chain[0]), &other.key), "the chain is out of order", ""),
        ("swapped", certificate(&other.key, &other.chain), "it is a private key", "seem to be swapped"),
        ("RSA key", certificate(&other.chain, &rsa.key), "the private key does not belong to the certificate", ""),
        ("huge", certificate(&huge, &other.key), "bytes; more than 1048576 are not read", ""),
        ("endless chain", certificate(&many, &other.key), "bytes; more than 61440 are not read", ""),
        ("garbage", certificate("hello", "world"), "it has no line `-----BEGIN", ""),
        ("nothing", Payload::Nothing("it holds no certificate".into()), "it holds no certificate", ""),
        (
            "damaged",
            certificate(other.chain.replace("MII", "MAI"), &other.key),
            "certificate 1 of the certificate chain cannot be used: not an X.509 certificate",
            "",
        ),
    ];
    let (world, good) = world(&authority);
    let generation = world.store.generation();
    for (at, (kind, payload, message, help)) in (1..).zip(broken) {
        let findings = world.store.offer(vec![offer("a", payload)]);
        let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 1, "{kind}: {texts:?}");
        let text = &texts[0];
        assert!(text.starts_with("Error [TG0010] (Secret ns/a secrets.yaml:"), "{kind}: {text}");
        assert!(text.contains(message) && text.contains(help), "{kind}: {text}");
        assert!(text.contains("refused, version 1 (until 2027-01-01T00:00:00Z) serves on"), "{kind}: {text}");
        world.check("a", 1, SecretState::Refused);
        assert_eq!(world.leaf("a").unwrap(), good.leaf, "{kind}");
        assert_eq!(world.status("a").counters.failures, at, "{kind}");
        assert_eq!(world.texts(), texts, "{kind}");
    }
    assert_eq!(world.store.generation(), generation);
    for at in 0..31 {
        world.check(&format!("other-{at}"), 1, SecretState::Active);
    }
    assert_eq!(world.store.offer(vec![other.offer("a")]), []);
    world.check("a", 2, SecretState::Active);
    assert_eq!(world.texts(), [""; 0]);
}

#[test]
fn without_a_last_good_the_text_tells_which_hosts_fail() {
    let world = World::new();
    let pair = Authority::root("root").issue(&["a.com"]);
    world.expect(&[("a", &["a.com", "*.b.com"])]);
    world.check("a", 0, SecretState::Missing);
    world.store.offer(vec![offer("a", certificate(&pair.chain, ""))]);
    world.check("a", 0, SecretState::Missing);
    assert_eq!(
        world.texts(),
        ["Error [IST0106] (Secret ns/a secrets.yaml:10:3) data[\"tls.key\"]: the private key cannot be used: it is \
          empty; refused, handshakes for a.com, *.b.com fail until it is mended"]
    );
    assert!(world.store.resolve(&[secret("a")]).is_none());
    world.store.offer(vec![pair.offer("a")]);
    world.check("a", 1, SecretState::Active);
}

#[test]
fn a_flawed_certificate_serves_if_there_is_nothing_better_and_says_so() {
    let world = World::new();
    let authority = Authority::root("root");
    let with = |hosts: &[&str], until| authority.issue_with(hosts, FROM, until, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {});
    let expired = with(&["a.com"], (2026, 5, 1));
    let findings = world.store.offer(vec![expired.offer("a")]);
    assert_eq!(
        findings[0].to_string(),
        "Warning [TG0011] (Secret ns/a secrets.yaml:9:3) data[\"tls.crt\"]: the certificate expired on \
         2026-05-01T00:00:00Z; it serves all the same, as there is nothing better (renew it)"
    );
    world.check("a", 1, SecretState::Active);
    assert_eq!(world.status("a").days_left, Some(-31));
    // Another one with the same flaw may replace it, one with a flaw of its own may not.
    let also_expired = with(&["a.com"], (2026, 5, 2));
    world.store.offer(vec![also_expired.offer("a")]);
    world.check("a", 2, SecretState::Active);
    world.expect(&[("a", &["a.com"])]);
    world.store.offer(vec![with(&["b.com"], (2026, 5, 2)).offer("a")]);
    world.check("a", 2, SecretState::Refused);
    world.store.offer(vec![authority.issue(&["a.com"]).offer("a")]);
    world.check("a", 3, SecretState::Active);
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    let check = |pair: Pair, expected: &str| {
        let world = World::new();
        let findings = world.store.offer(vec![pair.offer("a")]);
        assert!(findings[0].to_string().contains(expected), "{findings:?}");
    };
    check(Pair::by_openssl(&["-newkey", "rsa:1024"]), "the key of the certificate is RSA 1024, which cannot be used");
    let p224 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-224"];
    check(Pair::by_openssl(&p224), "the key of the certificate is ECDSA P-224, which cannot be used");
    let k256 = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"];
    check(Pair::by_openssl(&k256), "the key of the certificate is ECDSA secp256k1, which cannot be used");
    let mut encrypted = Pair::by_openssl(&["-newkey", "ed25519"]);
    encrypted.key = encrypted.key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    check(encrypted, "the private key cannot be used: it is encrypted");
}

#[test]
fn keys_that_can_be_used_serve() {
    let check = |pair: Pair, expected: &str| {
        let material = pair.material().unwrap();
        assert_eq!(material.facts().key.to_string(), expected);
    };
    check(Pair::by_openssl(&["-newkey", "rsa:2048"]), "RSA 2048");
    check(Pair::by_openssl(&["-newkey", "rsa:4096"]), "RSA 4096");
    for curve in ["P-256", "P-384", "P-521"] {
        let arguments = ["-newkey", "ec", "-pkeyopt", &format!("ec_paramgen_curve:{curve}")];
        check(Pair::by_openssl(&arguments), &format!("ECDSA {curve}"));
    }
    check(Pair::by_openssl(&["-newkey", "ed25519"]), "Ed25519");
    // As `openssl ecparam -genkey` and `openssl rsa -traditional` write them.
    let converted = |pair: Pair, arguments: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, &pair.key).unwrap();
        let output = std::process::Command::new("openssl").args(arguments).arg("-in").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Pair { key: String::from_utf8(output.stdout).unwrap(), ..pair }
    };
    let ec = Pair::by_openssl(&["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let mut ec = converted(ec, &["ec"]);
    assert!(ec.key.contains("EC PRIVATE KEY"));
    ec.key.insert_str(0, "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n");
    check(ec, "ECDSA P-256");
    let rsa = converted(Pair::by_openssl(&["-newkey", "rsa:2048"]), &["rsa", "-traditional"]);
    assert!(rsa.key.contains("RSA PRIVATE KEY"));
    check(rsa, "RSA 2048");
}
