//! Entries of Secrets and ConfigMaps.

use tidegate_core::{Kind, Origin, ResourceKey};
use tidegate_sds::sources::kubernetes::{Document, Entry, dependent, offers};
use tidegate_sds::{Payload, Place};

use crate::support::bytes;

fn document(kind: Kind, name: &str, entries: &[(&str, &str)]) -> Document {
    let entry = |(name, text): &(&str, &str)| Entry {
        name: (*name).into(),
        bytes: bytes(text),
        place: Place { path: format!("data[\"{name}\"]").into(), origin: Origin::new("s.yaml", 7, 3) },
    };
    Document {
        key: ResourceKey::local(kind, "ns", name),
        origin: Origin::new("s.yaml", 1, 1),
        entries: entries.iter().map(entry).collect(),
    }
}

/// Each offer as `name: what`, with the texts of the entries that were chosen.
fn described(document: &Document, others: &[&str]) -> Vec<String> {
    let text = |bytes: &tidegate_core::SecretBytes| String::from_utf8(bytes.as_slice().to_vec()).unwrap();
    offers(document, |name| others.contains(&name))
        .iter()
        .map(|offer| {
            assert_eq!(offer.key.as_ref(), Some(&document.key));
            let what = match &offer.payload {
                Payload::Certificate { chain, key, ocsp_staple } => {
                    format!("{} {} {}", text(chain), text(key), ocsp_staple.as_ref().map(text).unwrap_or_default())
                }
                Payload::Trust { authorities, crl } => {
                    format!("{} {}", text(authorities), crl.as_ref().map(text).unwrap_or_default())
                }
                Payload::Broken(reason) => format!("broken, {reason}"),
                Payload::Nothing(_) => "nothing".to_owned(),
                other => panic!("{other:?}"),
            };
            format!("{}: {}", offer.name, what.trim())
        })
        .collect()
}

#[test]
fn entries_are_chosen_as_istio_does() {
    let check = |entries: &[(&str, &str)], certificate: &str, trust: &str| {
        let expected = [format!("kubernetes://ns/x: {certificate}"), format!("kubernetes://ns/x-cacert: {trust}")];
        assert_eq!(described(&document(Kind::Secret, "x", entries), &[]), expected, "{entries:?}");
    };
    check(&[("tls.crt", "C"), ("tls.key", "K")], "C K", "nothing");
    check(&[("tls.crt", "C"), ("tls.key", "K"), ("ca.crt", "A"), ("ca.crl", "R")], "C K", "A R");
    check(&[("tls.crt", "C"), ("tls.key", "K"), ("ca.crt", "")], "C K", "nothing");
    check(&[("cert", "c"), ("key", "k"), ("tls.crt", "C"), ("tls.key", "K")], "c k", "nothing");
    check(&[("cert", "c"), ("key", ""), ("tls.crt", "C"), ("tls.key", "K")], "C K", "nothing");
    check(&[("cert", "c"), ("key", "k"), ("cacert", "a"), ("ca.crt", "A"), ("crl", "r")], "c k", "a r");
    check(&[("tls.crt", "C"), ("tls.key", "K"), ("tls.ocsp-staple", "O")], "C K O", "nothing");
    check(&[("cacert", "a")], "nothing", "a");
    check(&[("password", "p")], "nothing", "nothing");
    check(&[], "nothing", "nothing");
    check(&[("tls.crt", "C")], "broken, half of a pair: `tls.key` is missing", "nothing");
    check(&[("tls.crt", ""), ("tls.key", "K")], "broken, half of a pair: `tls.crt` is empty", "nothing");
    check(&[("key", "k")], "nothing", "nothing");
    check(
        &[("tls.crt", ""), ("tls.key", "")],
        "broken, half of a pair: `tls.crt` is empty and `tls.key` is empty",
        "nothing",
    );
}

#[test]
fn a_secret_of_its_own_for_authorities_goes_first() {
    let entries = [("tls.crt", "C"), ("tls.key", "K"), ("ca.crt", "A")];
    assert_eq!(described(&document(Kind::Secret, "x", &entries), &["x-cacert"]), ["kubernetes://ns/x: C K"]);
    let own = document(Kind::Secret, "x-cacert", &[("ca.crt", "B"), ("tls.crt", "C"), ("tls.key", "K")]);
    assert_eq!(described(&own, &["x"]), ["kubernetes://ns/x-cacert: B"]);
    assert_eq!(dependent("x-cacert"), Some("x"));
    assert_eq!(dependent("x"), None);
}

#[test]
fn a_config_map_holds_authorities() {
    let check = |entries: &[(&str, &str)], expected: &str| {
        let expected = format!("configmap://ns/x: {expected}");
        assert_eq!(described(&document(Kind::ConfigMap, "x", entries), &[]), [expected]);
    };
    check(&[("ca.crt", "A"), ("ca.crl", "R")], "A R");
    check(&[("mesh", "..")], "nothing");
}

#[test]
fn findings_have_the_place_of_the_entry() {
    let world = crate::support::World::new();
    let document = document(Kind::Secret, "x", &[("tls.crt", "C"), ("tls.key", "K")]);
    let findings = world.store.offer(offers(&document, |_| false));
    assert_eq!(
        findings[0].to_string(),
        "Error [IST0106] (Secret ns/x s.yaml:7:3) data[\"tls.crt\"]: the certificate chain cannot be used: it has no \
         line `-----BEGIN ...-----`; refused, nothing serves under its name"
    );
}
