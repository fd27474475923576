//! Authorities and revocation lists.

use tidegate_core::{Origin, SecretName};
use tidegate_sds::{Content, ContentKind, Offer, Payload, SecretState, SourceKind, TrustMaterial};

use crate::support::{Authority, TODAY, UNTIL, World, bytes, offer, timestamp};

fn trust(authorities: &str, crl: Option<&str>) -> Payload {
    Payload::Trust { authorities: bytes(authorities), crl: crl.map(bytes) }
}

#[test]
fn a_bundle_rolls_over() {
    let world = World::new();
    let (a, b) = (Authority::root("a"), Authority::root("b"));
    for (at, authorities) in (1..).zip([a.pem(), a.pem() + &b.pem(), b.pem()]) {
        assert_eq!(world.store.offer(vec![offer("x-cacert", trust(&authorities, None))]), []);
        world.check("x-cacert", at, SecretState::Active);
    }
    let status = world.status("x-cacert");
    assert_eq!(status.content, Some(ContentKind::Trust));
    assert_eq!(status.facts.len(), 1);
    assert_eq!(&*status.facts[0].subject, "CN=b");
}

#[test]
fn a_broken_bundle_or_list_keeps_the_last_good() {
    let world = World::new();
    let (a, b) = (Authority::root("a"), Authority::root("b"));
    let crl = a.crl(&[1, 2], UNTIL);
    assert_eq!(world.store.offer(vec![offer("x-cacert", trust(&a.pem(), Some(&crl)))]), []);
    let damaged = crl.replace("MII", "MAI").replace("MIH", "MAH");
    let check = |payload: Payload, expected: &str| {
        let findings = world.store.offer(vec![offer("x-cacert", payload)]);
        assert!(findings[0].message.starts_with(expected), "{findings:?}");
        world.check("x-cacert", 1, SecretState::Refused);
    };
    check(trust("", None), "the list of authorities cannot be used: it is empty");
    check(
        trust(&(a.pem() + &a.pem().replace("MII", "MAI").replace("MIIB", "MAIB")), None),
        "certificate 2 of the list",
    );
    check(trust(&a.pem(), Some("garbage")), "the revocation list cannot be used: it has no line");
    check(trust(&a.pem(), Some(&damaged)), "revocation list 1 cannot be used");
    check(trust(&a.pem(), Some(&b.crl(&[], UNTIL))), "no revocation list is by any of these authorities");
    check(
        trust(&a.pem(), Some(&a.crl(&[], (2026, 5, 1)))),
        "revocation list 1 should have been replaced by 2026-05-01",
    );
    let namesake = Authority::root("a").crl(&[], UNTIL);
    check(trust(&a.pem(), Some(&namesake)), "revocation list 1 is not signed by the authority that it names");
    let leaf = a.issue(&["a.com"]).chain;
    check(trust(&leaf, None), "certificate 1 of the authorities is none of an authority (CA:FALSE)");
    world.store.offer(vec![offer("x-cacert", trust(&a.pem(), Some(&a.crl(&[3], UNTIL))))]);
    world.check("x-cacert", 2, SecretState::Active);
}

#[test]
fn a_list_of_an_authority_below_is_told_and_taken() {
    let world = World::new();
    let root = Authority::root("root");
    let below = root.intermediate("below");
    world.store.offer(vec![offer("x-cacert", trust(&root.pem(), None))]);
    let lists = root.crl(&[1], UNTIL) + &below.crl(&[2], UNTIL);
    let findings = world.store.offer(vec![offer("x-cacert", trust(&root.pem(), Some(&lists)))]);
    assert_eq!(findings[0].message, "revocation list 2 is by none of these authorities");
    world.check("x-cacert", 2, SecretState::Active);
}

#[test]
fn a_list_that_grows_old_is_told_and_serves_on() {
    let world = World::new();
    let a = Authority::root("a");
    world.store.offer(vec![offer("x-cacert", trust(&a.pem(), Some(&a.crl(&[], (2026, 7, 1)))))]);
    assert_eq!(world.tick((2026, 6, 30)), []);
    let findings = world.tick((2026, 7, 2));
    assert!(findings[0].message.starts_with("revocation list 1 should have been replaced by"), "{findings:?}");
    world.check("x-cacert", 1, SecretState::Active);
}

#[test]
fn expired_authorities_are_told() {
    let material = TrustMaterial::from_pem(bytes(Authority::root("a").pem()), None).unwrap();
    let content = Content::Trust(material);
    assert_eq!(content.flaws(&[], timestamp(TODAY)), []);
    let texts: Vec<String> = content.flaws(&[], timestamp((2041, 1, 1))).iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["every authority has expired, the last one on 2040-01-01T00:00:00Z"]);
}

#[test]
fn lists_stand_alone_in_a_file() {
    let world = World::new();
    let name = SecretName::file_crl("/crl.pem");
    let list = Authority::root("a").crl(&[7], UNTIL);
    let payload = Payload::Crl(bytes(list + "trailing words"));
    world.store.offer(vec![Offer::new(name.clone(), SourceKind::File, Origin::new("/crl.pem", 0, 0), payload)]);
    let current = world.store.get(&name).unwrap().current().unwrap();
    let Content::Crl(lists) = &current.content else { panic!("{current:?}") };
    assert_eq!(lists.crls().len(), 1);
    assert!(!String::from_utf8_lossy(lists.pem().as_slice()).contains("trailing"));
}
