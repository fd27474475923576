//! Bytes that somebody damaged, and many hands at once.

use std::sync::Arc;
use std::thread;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use tidegate_sds::{CertificateFacts, CertificateMaterial, Payload, RevocationLists, SecretState, TrustMaterial};

use crate::support::{Authority, UNTIL, World, bytes, offer};

/// Numbers that are the same in every run (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % below as u64).unwrap()
    }

    /// Changes, cuts or doubles a few bytes.
    fn damage(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut damaged = bytes.to_vec();
        for _ in 0..=self.next(4) {
            let at = self.next(damaged.len());
            match self.next(4) {
                0 => damaged.truncate(at.max(1)),
                1 => damaged.insert(at, damaged[at]),
                _ => damaged[at] = u8::try_from(self.next(256)).unwrap(),
            }
        }
        damaged
    }
}

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    let contents = base64(der);
    format!("-----BEGIN {label}-----\n{contents}-----END {label}-----\n").into_bytes()
}

fn base64(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for line in der.chunks(48) {
        for chunk in line.chunks(3) {
            let group =
                chunk.iter().fold(0_u32, |group, byte| (group << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for at in 0..4 {
                let digit = char::from(ALPHABET[(group >> (18 - 6 * at)) as usize & 63]);
                text.push(if at <= chunk.len() { digit } else { '=' });
            }
        }
        text.push('\n');
    }
    text
}

#[test]
fn damaged_bytes_are_refused_or_taken_and_never_a_panic() {
    let root = Authority::root("root");
    let pair = root.intermediate("intermediate").issue(&["a.com", "10.0.0.1"]);
    let key = bytes(&pair.key);
    let chain: Vec<CertificateDer<'_>> =
        CertificateDer::pem_slice_iter(pair.chain.as_bytes()).map(Result::unwrap).collect();
    let list = CertificateRevocationListDer::from_pem_slice(root.crl(&[1, 2, 3], UNTIL).as_bytes()).unwrap();
    let authority = bytes(root.pem());
    let mut numbers = Numbers(3);
    for _ in 0..1500 {
        let which = numbers.next(chain.len());
        let damaged = numbers.damage(&chain[which]);
        let _ = CertificateFacts::parse(&damaged);
        let with_rest = [pem("CERTIFICATE", &damaged), pair.chain.clone().into_bytes()].concat();
        let _ = CertificateMaterial::from_pem(bytes(with_rest), key.clone());
        let _ = TrustMaterial::from_pem(bytes(pem("CERTIFICATE", &damaged)), None);
        let damaged = bytes(pem("X509 CRL", &numbers.damage(&list)));
        let _ = RevocationLists::from_pem(&damaged);
        let _ = TrustMaterial::from_pem(authority.clone(), Some(damaged));
        let _ = CertificateMaterial::from_pem(bytes(numbers.damage(pair.chain.as_bytes())), key.clone());
        let _ = CertificateMaterial::from_pem(bytes(&pair.chain), bytes(numbers.damage(pair.key.as_bytes())));
    }
}

#[test]
fn many_hands_leave_one_consistent_slot() {
    let world = World::new();
    let authority = Authority::root("root");
    let pairs: Vec<_> = (0..8).map(|_| authority.issue(&["a.com"])).collect();
    let other = &authority.issue(&["b.com"]);
    thread::scope(|scope| {
        for pair in &pairs {
            let store = Arc::clone(&world.store);
            scope.spawn(move || {
                for _ in 0..5 {
                    store.offer(vec![pair.offer("a"), other.offer("b")]);
                    store.offer(vec![offer("a", Payload::Broken("broken".into()))]);
                    store.withdraw(&[crate::support::secret("b")]);
                    store.release(|_| false);
                    store.statuses();
                }
            });
        }
    });
    let last = authority.issue(&["a.com"]);
    world.store.offer(vec![last.offer("a")]);
    let status = world.status("a");
    assert_eq!(status.state, SecretState::Active);
    assert_eq!((status.counters.swaps, status.counters.proofs), (status.version, status.version - 1));
    assert_eq!(world.leaf("a").unwrap(), last.leaf);
}
