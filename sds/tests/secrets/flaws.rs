//! Soft flaws of certificates, one by one.

use rcgen::{BasicConstraints, DnType, ExtendedKeyUsagePurpose, IsCa};
use tidegate_core::{Host, Level};
use tidegate_sds::{CertificateMaterial, Content, Payload, Timestamp};

use crate::support::{Authority, FROM, Pair, TODAY, UNTIL, World, bytes, offer, sections, timestamp};

fn flaws(pair: &Pair, hosts: &[&str]) -> Vec<String> {
    let hosts: Vec<Host> = hosts.iter().map(|host| Host::parse(host).unwrap()).collect();
    let content = Content::Certificate(pair.material().unwrap());
    content.flaws(&hosts, timestamp(TODAY)).iter().map(ToString::to_string).collect()
}

#[test]
fn a_good_certificate_has_none() {
    let root = Authority::root("root");
    let authority = root.intermediate("outer").intermediate("inner");
    let pair = authority.issue(&["a.com"]);
    assert_eq!(sections(&pair.chain).len(), 3);
    assert_eq!(flaws(&pair, &["a.com", "*"]), [""; 0]);
    let with_root = Pair { chain: pair.chain.clone() + &root.pem(), ..pair };
    assert_eq!(flaws(&with_root, &[]), [""; 0]);
}

#[test]
fn a_chain_is_put_in_order_and_told() {
    let authority = Authority::root("root").intermediate("outer").intermediate("inner");
    let pair = authority.issue(&["a.com"]);
    let parts = sections(&pair.chain);
    let check = |order: &[&str], expected: &[&str], length: usize| {
        let pair = Pair { chain: order.concat(), ..pair.clone() };
        assert_eq!(flaws(&pair, &[]), expected);
        let material = pair.material().unwrap();
        assert_eq!(material.chain().len(), length);
        assert_eq!(material.chain()[0].to_vec(), pair.leaf);
        // What is handed on is in the order that is served.
        let again = CertificateMaterial::from_pem(material.chain_pem().clone(), bytes(&pair.key)).unwrap();
        assert_eq!(again.chain(), material.chain());
    };
    let [leaf, inner, outer] = [parts[0].as_str(), &parts[1], &parts[2]];
    check(&[outer, inner, leaf], &["the chain is out of order"], 3);
    check(&[leaf, outer, inner], &["the chain is out of order"], 3);
    check(&[leaf, leaf, inner, outer], &["certificate 2 of the chain is there twice"], 3);
    let foreign = Authority::root("foreign").pem();
    check(&[leaf, inner, outer, &foreign], &["certificate 4 of the chain signs none of the others"], 4);
    check(&[leaf], &[], 1);
    // An authority of the same name with another key.
    let impostor = Authority::root("root").intermediate("outer").intermediate("inner");
    let wrong = sections(&impostor.issue(&["a.com"]).chain)[1].clone();
    check(&[leaf, &wrong], &["certificate 1 of the chain names an issuer that did not sign it"], 2);
}

#[test]
fn weaknesses_are_told() {
    let authority = Authority::root("root");
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let no_names = Pair::self_signed(|params| {
        params.subject_alt_names.clear();
        params.distinguished_name.push(DnType::CommonName, "a.com");
    });
    assert_eq!(
        flaws(&no_names, &["a.com"]),
        ["the certificate is not for a.com; its names are none, as it has no subject alternative names (clients do \
          not look at its common name)"]
    );
    let for_clients = authority.issue_with(&["a.com"], FROM, UNTIL, p256, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(flaws(&for_clients, &["a.com"]), ["the certificate's extended key usage does not include servers"]);
    assert_eq!(flaws(&for_clients, &[]), [""; 0], "as a client's certificate it is good");
    let authority_itself = Pair::self_signed(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(
        flaws(&authority_itself, &[]),
        ["the certificate is that of an authority (CA:TRUE), which strict clients refuse from a server"]
    );
}

#[test]
fn a_signature_over_sha_1_is_weak_unless_it_is_that_of_a_root() {
    let own = Pair::by_openssl(&["-newkey", "rsa:2048", "-sha1"]);
    // What openssl makes is valid from the second of its making.
    let now = Timestamp::from_seconds(Timestamp::from(std::time::SystemTime::now()).seconds() + 3600);
    let content = Content::Certificate(own.material().unwrap());
    assert_eq!(content.flaws(&[], now), [], "nobody verifies the signature of a self-signed one");

    let folder = tempfile::tempdir().unwrap();
    let (ca, ca_key) = (folder.path().join("ca"), folder.path().join("ca-key"));
    std::fs::write(&ca, &own.chain).unwrap();
    std::fs::write(&ca_key, &own.key).unwrap();
    let (ca, ca_key) = (ca.display().to_string(), ca_key.display().to_string());
    let signed =
        Pair::by_openssl(&["-newkey", "rsa:2048", "-sha1", "-CA", &ca, "-CAkey", &ca_key, "-subj", "/CN=other"]);
    let content = Content::Certificate(signed.material().unwrap());
    let texts: Vec<String> = content.flaws(&[], now).iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["the certificate is signed over SHA-1, which is broken"]);
}

#[test]
fn hosts_not_covered_are_one_text() {
    let pair = Authority::root("root").issue(&["a.com", "b.com", "c.com", "d.com", "e.com"]);
    let world = World::new();
    world.store.offer(vec![pair.offer("a")]);
    let findings = world.expect(&[("a", &["1.com", "2.com", "3.com", "4.com", "5.com", "6.com", "a.com"])]);
    assert_eq!(findings.len(), 1);
    assert_eq!(
        findings[0].message,
        "the certificate is not for 1.com, 2.com, 3.com, 4.com and 2 more; its names are a.com, b.com, c.com, d.com \
         and 1 more; it serves all the same, as there is nothing better"
    );
}

#[test]
fn a_staple_is_shown_until_it_expires_and_a_bad_one_never() {
    let world = World::new();
    let authority = Authority::root("root");
    let pair = authority.issue_with(&["a.com"], FROM, UNTIL, &rcgen::PKCS_ECDSA_P256_SHA256, |params| {
        params.serial_number = Some(rcgen::SerialNumber::from(0xabcd_u64));
    });
    let with = |staple: Vec<u8>| match pair.payload() {
        Payload::Certificate { chain, key, .. } => {
            Payload::Certificate { chain, key, ocsp_staple: Some(bytes(staple)) }
        }
        other => other,
    };
    let shown = || {
        let current = world.current("a").unwrap();
        current.content.certificate().unwrap().ocsp_staple().map(<[u8]>::to_vec)
    };
    let good = ocsp_response(&[0x00, 0xab, 0xcd], "20260701000000Z");
    assert_eq!(world.store.offer(vec![offer("a", with(good.clone()))]), []);
    assert_eq!(shown(), Some(good));
    let generation = world.store.generation();
    let findings = world.tick((2026, 7, 2));
    assert!(
        findings[0].message.starts_with("the OCSP staple is left out: it was valid until 2026-07-01"),
        "{findings:?}"
    );
    assert_eq!(shown(), None);
    assert_eq!((world.current("a").unwrap().version, world.store.generation()), (2, generation + 1));
    for (staple, expected) in [
        (b"garbage".to_vec(), "the OCSP staple is left out: it is no OCSP response"),
        (ocsp_response(&[1], "20300101000000Z"), "the OCSP staple is left out: it is about another certificate"),
    ] {
        let findings = world.store.offer(vec![offer("a", with(staple))]);
        assert_eq!(findings[0].message, expected);
        assert_eq!(findings[0].level, Level::Warning);
        assert_eq!(shown(), None);
        assert_eq!(world.leaf("a").unwrap(), pair.leaf);
    }
}

/// An OCSP response that says "good", with a signature that nobody has made.
fn ocsp_response(serial: &[u8], next_update: &str) -> Vec<u8> {
    let element = |tag: u8, parts: &[&[u8]]| -> Vec<u8> {
        let content = parts.concat();
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], length.as_slice(), content.as_slice()].concat()
    };
    let (sequence, octets, time) = (0x30, 0x04, 0x18);
    let produced = element(time, &[b"20260101000000Z"]);
    let id = element(
        sequence,
        &[&element(sequence, &[]), &element(octets, &[]), &element(octets, &[]), &element(0x02, &[serial])],
    );
    let next_update = element(0xa0, &[&element(time, &[next_update.as_bytes()])]);
    let single = element(sequence, &[&id, &[0x80, 0], &produced, &next_update]);
    let data = element(sequence, &[&element(0xa2, &[]), &produced, &element(sequence, &[&single])]);
    let basic = element(octets, &[&element(sequence, &[&data])]);
    let kind = [0x06, 9, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
    let bytes = element(0xa0, &[&element(sequence, &[&kind, &basic])]);
    element(sequence, &[&[0x0a, 1, 0], &bytes])
}
