//! Several sources with one name, and many offers at once.

use std::sync::Arc;
use std::thread;

use tidegate_core::{Host, Origin};
use tidegate_sds::{Offer, SecretState, SourceKind};

use crate::support::{Authority, Pair, World, secret};

fn from(source: SourceKind, pair: &Pair) -> Offer {
    Offer::new(secret("a"), source, Origin::new(source.as_str(), 0, 0), pair.payload())
}

#[test]
fn the_greater_source_goes_first_and_the_lesser_takes_over() {
    let world = World::new();
    let authority = Authority::root("root");
    let [file, kubernetes, acme] = [(); 3].map(|()| authority.issue(&["a.com"]));
    let serves = |pair: &Pair| assert_eq!(world.leaf("a").unwrap(), pair.leaf, "{:?}", world.texts());

    world.store.offer(vec![from(SourceKind::Kubernetes, &kubernetes)]);
    serves(&kubernetes);
    world.store.offer(vec![from(SourceKind::Acme, &acme)]);
    serves(&acme);
    // A reload offers the Secret again; it waits.
    world.store.offer(vec![from(SourceKind::Kubernetes, &kubernetes), from(SourceKind::File, &file)]);
    serves(&acme);
    assert_eq!(
        world.texts(),
        [
            "Info [TG0006] (Kubernetes) secret `kubernetes://ns/a`: the name is also that of ACME (ACME), which goes \
             first",
            "Info [TG0006] (File) secret `kubernetes://ns/a`: the name is also that of ACME (ACME), which goes first",
        ]
    );
    world.store.withdraw_from(SourceKind::Acme, &[secret("a")]);
    serves(&kubernetes);
    world.store.withdraw_from(SourceKind::File, &[secret("a")]);
    serves(&kubernetes);
    assert_eq!(world.texts(), [""; 0]);
    world.store.withdraw_from(SourceKind::Kubernetes, &[secret("a")]);
    serves(&kubernetes);
    world.check("a", 3, SecretState::Orphaned);
    // Any source may take over an orphan.
    world.store.offer(vec![from(SourceKind::File, &file)]);
    serves(&file);
}

#[test]
fn a_broken_offer_of_a_greater_source_leaves_the_lesser_in_place() {
    let world = World::new();
    let authority = Authority::root("root");
    let (file, other) = (authority.issue(&["a.com"]), authority.issue(&["a.com"]));
    world.store.offer(vec![from(SourceKind::File, &file)]);
    let broken = Pair { key: other.key.clone(), ..file.clone() };
    world.store.offer(vec![from(SourceKind::Kubernetes, &broken)]);
    world.check("a", 1, SecretState::Refused);
    world.store.offer(vec![from(SourceKind::File, &other)]);
    assert_eq!(world.leaf("a").unwrap(), other.leaf);
    world.check("a", 2, SecretState::Refused);
    world.store.withdraw_from(SourceKind::Kubernetes, &[secret("a")]);
    world.check("a", 2, SecretState::Active);
}

#[test]
fn many_offers_are_one_generation_and_readers_never_see_a_mixed_pair() {
    let world = World::new();
    let authority = Authority::root("root");
    let rounds: Vec<Vec<Pair>> =
        (0..3).map(|_| (0..40).map(|at| authority.issue(&[&format!("{at}.com")])).collect()).collect();
    let offers = |round: &[Pair]| (0..).zip(round).map(|(at, pair)| pair.offer(&format!("s{at}"))).collect::<Vec<_>>();
    world.store.offer(offers(&rounds[0]));
    assert_eq!(world.store.generation(), 1);
    let reader = thread::spawn({
        let store = Arc::clone(&world.store);
        move || {
            let slot = store.get(&secret("s0")).unwrap();
            while store.generation() < 3 {
                let current = slot.current().unwrap();
                let material = current.content.certificate().unwrap();
                assert!(material.certified().keys_match().is_ok());
            }
        }
    });
    world.store.offer(offers(&rounds[1]));
    world.store.offer(offers(&rounds[2]));
    reader.join().unwrap();
    assert_eq!(world.store.generation(), 3);
    for (at, pair) in rounds[2].iter().enumerate() {
        assert_eq!(world.leaf(&format!("s{at}")).unwrap(), pair.leaf);
    }
    assert_eq!(world.store.statuses().len(), 40);
    let mut gauges = 0;
    world.store.for_each_gauge(|gauge| {
        assert_eq!((gauge.version, gauge.counters.swaps), (3, 3));
        gauges += 1;
    });
    assert_eq!(gauges, 40);
}

#[test]
fn of_several_offers_for_one_name_the_last_counts() {
    let world = World::new();
    let authority = Authority::root("root");
    let (first, last) = (authority.issue(&["a.com"]), authority.issue(&["a.com"]));
    world.store.offer(vec![first.offer("a"), authority.issue(&["b.com"]).offer("b"), last.offer("a")]);
    assert_eq!(world.leaf("a").unwrap(), last.leaf);
    world.check("a", 1, SecretState::Active);
}

#[test]
fn a_status_tells_everything_but_keys() {
    let world = World::new();
    let authority = Authority::root("root").intermediate("intermediate");
    world.store.offer(vec![authority.issue(&["a.com", "*.b.com", "10.0.0.1"]).offer("a")]);
    world.expect(&[("a", &["a.com"])]);
    let status = world.status("a");
    let names: Vec<String> = status.facts[0].names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["a.com", "*.b.com", "10.0.0.1"]);
    assert_eq!(&*status.facts[0].issuer, "CN=intermediate");
    assert_eq!(status.facts[0].fingerprint.to_string().len(), 64);
    assert_eq!(status.days_left, Some(214));
    assert_eq!(status.hosts, [Host::parse("a.com").unwrap()]);
    assert_eq!(status.source, Some(SourceKind::Kubernetes));
    assert_eq!(status.key.unwrap().to_string(), "Secret ns/a");
    assert_eq!(status.rotated, Some(crate::support::timestamp(crate::support::TODAY)));
}
