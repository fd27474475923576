//! A key must not be found in anything that is shown.

use std::fmt::Write as _;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tidegate_sds::{Payload, SecretState};

use crate::support::{Authority, Pair, World, bytes, certificate, offer};

/// Everything that a world shows of itself.
fn shown(world: &World) -> String {
    let mut shown = String::new();
    write!(shown, "{:?} {:#?} {:?}", world.store, world.store, world.store.findings()).unwrap();
    for finding in world.store.findings() {
        write!(shown, "{finding} {:?} {:?}", finding.message, finding.help).unwrap();
    }
    for status in world.store.statuses() {
        write!(shown, "{status:?} {status:#?}").unwrap();
    }
    for slot in world.store.slots() {
        write!(shown, "{slot:?} {:?}", slot.current()).unwrap();
        if let Some(material) = slot.current().as_ref().and_then(|secret| secret.content.certificate()) {
            shown.push_str(&String::from_utf8_lossy(material.chain_pem().as_slice()));
        }
        if let Some(material) = slot.current().as_ref().and_then(|secret| secret.content.trust()) {
            shown.push_str(&String::from_utf8_lossy(material.authorities_pem().as_slice()));
        }
    }
    world.store.for_each_gauge(|gauge| write!(shown, "{gauge:?}").unwrap());
    shown
}

#[test]
fn a_key_is_found_nowhere_however_it_was_offered() {
    let authority = Authority::root("root");
    let good = authority.issue(&["a.com"]);
    let pair = authority.issue(&["a.com"]);
    let key = &pair.key;
    let one_line = key.replace('\n', " ");
    let payloads = [
        pair.payload(),
        certificate(key, &pair.chain),
        certificate(key, key),
        certificate(pair.chain.clone() + key, key),
        certificate(key.clone() + &pair.chain, key),
        certificate(&good.chain, key),
        certificate(&one_line, &one_line),
        certificate(&pair.chain, &one_line),
        certificate(&pair.chain, key.replace("-----END", "-----")),
        certificate(&pair.chain, key.replace("PRIVATE KEY", "CERTIFICATE")),
        certificate(key.replace("PRIVATE KEY", "CERTIFICATE"), key),
        certificate(&pair.chain, data_encoding(key)),
        Payload::Trust { authorities: bytes(key), crl: None },
        Payload::Trust { authorities: bytes(authority.pem() + key), crl: Some(bytes(key)) },
        Payload::Trust { authorities: bytes(authority.pem() + key), crl: None },
        Payload::Crl(bytes(key.replace("PRIVATE KEY", "X509 CRL"))),
    ];
    let der = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let bytes_shown = format!("{:?}", &der.secret_der()[40..60]);
    let hexadecimal: String = der.secret_der()[40..60].iter().map(|byte| format!("{byte:02x}")).collect();
    // As a library's error would quote a line of PEM.
    let text_shown = format!("{:?}", &key.as_bytes()[40..60]);
    let lines: Vec<&str> = key.lines().filter(|line| !line.starts_with("-----")).collect();
    let needles: Vec<&str> = lines
        .iter()
        .flat_map(|line| [*line, &line[..line.len().min(24)]])
        .chain([
            bytes_shown.trim_matches(['[', ']']),
            text_shown.trim_matches(['[', ']']),
            &hexadecimal,
            "PRIVATE KEY-----\nM",
        ])
        .collect();
    // As the first and as the successor of something good.
    for first in [None, Some(good.payload())] {
        for (at, payload) in payloads.iter().enumerate() {
            let world = World::new();
            world.expect(&[("a", &["a.com"])]);
            world.store.offer(first.clone().into_iter().map(|payload| offer("a", payload)).collect());
            let findings = world.store.offer(vec![offer("a", payload.clone())]);
            let shown = format!("{} {findings:?} {payload:?}", shown(&world));
            for needle in &needles {
                assert!(!shown.contains(needle), "payload {at} shows a part of the key");
            }
        }
    }
}

#[test]
fn a_chain_with_a_key_in_it_serves_without_the_key() {
    let world = World::new();
    let pair = Authority::root("root").intermediate("intermediate").issue(&["a.com"]);
    let both = Pair { chain: format!("{}{}", pair.key, pair.chain), ..pair.clone() };
    world.store.offer(vec![both.offer("a")]);
    world.check("a", 1, SecretState::Active);
    let current = world.current("a").unwrap();
    let material = current.content.certificate().unwrap();
    let served: Vec<_> = CertificateDer::pem_slice_iter(material.chain_pem().as_slice()).map(Result::unwrap).collect();
    assert_eq!(served, material.chain());
}

#[test]
fn a_clean_chain_is_shared_with_its_source() {
    let pair = Authority::root("root").issue(&["a.com"]);
    let chain = bytes(&pair.chain);
    let material = tidegate_sds::CertificateMaterial::from_pem(chain.clone(), bytes(&pair.key)).unwrap();
    assert_eq!(material.chain_pem().as_slice().as_ptr(), chain.as_slice().as_ptr());
}

/// Base64 without line ends, as of a Secret that was encoded twice.
fn data_encoding(text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| (group << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            encoded.push(char::from(ALPHABET[(group >> (18 - 6 * at)) as usize & 63]));
        }
    }
    encoded
}
