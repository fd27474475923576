//! Certificates that change under new connections (R3), and authorities that roll (R4).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tidegate_tests::pki::{Authority, KeyType, Leaf, Pair, secret, tls_secret};
use tidegate_tests::process::{free_port, local};
use tidegate_tests::tls::{self, TlsOptions};
use tidegate_tests::{ConfigFolder, EchoBackend, Tidegate, yaml};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::{alone, size};

const NAMESPACE: &str = "istio-system";
const HOSTS: [(&str, KeyType); 3] =
    [("one.test", KeyType::Ecdsa), ("two.test", KeyType::Rsa), ("three.test", KeyType::Ecdsa)];
/// Connections at once to each host.
const CLIENTS: usize = 2;

/// A certificate's number is its serial, so that a client can say which one it saw.
fn pairs(authority: &Authority, rounds: usize) -> Vec<Vec<Pair>> {
    // Keys of RSA are dear in a debug build; a new certificate for one of a few keys rotates as well.
    let keys: Vec<_> = HOSTS.iter().map(|(_, key)| (0..4).map(|_| key.pair()).collect::<Vec<_>>()).collect();
    (0..=rounds)
        .map(|round| {
            HOSTS
                .iter()
                .zip(&keys)
                .map(|((host, _), keys)| {
                    authority.sign_for(Leaf::new(&[host]).serial(round as u64 + 1), &keys[round % keys.len()])
                })
                .collect()
        })
        .collect()
}

fn write(folder: &ConfigFolder, pairs: &[Pair]) {
    for (number, pair) in pairs.iter().enumerate() {
        let name = format!("c{number}");
        folder.write(&format!("{name}.yaml"), tls_secret(NAMESPACE, &name, pair));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_every_second_fails_no_handshake() {
    let _alone = alone().await;
    let rounds = size(8, 300);
    let port = free_port();
    let authority = Arc::new(Authority::new("ca"));
    let pairs = pairs(&authority, rounds);
    let backend = EchoBackend::start("a").await;
    let servers: Vec<String> = HOSTS
        .iter()
        .enumerate()
        .map(|(number, (host, _))| yaml::https(port, &format!("s{number}"), &[host], &format!("c{number}")))
        .collect();
    let folder = ConfigFolder::with(
        yaml::gateway_of(&servers)
            + &yaml::forward("all", "*.test", "a.test")
            + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address]),
    );
    write(&folder, &pairs[0]);
    let tidegate = Tidegate::start(&folder).await;

    let stop = Arc::new(AtomicBool::new(false));
    let handshakes = Arc::new(AtomicU64::new(0));
    let failures = Arc::new(parking_lot::Mutex::new(Vec::new()));
    // The newest round that each host's clients saw, and when it was first seen.
    let seen: Arc<Vec<AtomicU64>> = Arc::new(HOSTS.iter().map(|_| AtomicU64::new(0)).collect());
    let leaves: Arc<Vec<Vec<Vec<u8>>>> =
        Arc::new(pairs.iter().map(|round| round.iter().map(|pair| pair.der.clone()).collect()).collect());
    let mut clients = JoinSet::new();
    for number in 0..HOSTS.len() * CLIENTS {
        let number = number % HOSTS.len();
        let options = TlsOptions::to(HOSTS[number].0).trusting(&authority);
        let (stop, handshakes, failures) = (stop.clone(), handshakes.clone(), failures.clone());
        let (seen, leaves) = (seen.clone(), leaves.clone());
        clients.spawn(async move {
            while !stop.load(Relaxed) {
                // The certificate verifies and its key has signed, or there is no handshake: a mixed pair would fail.
                let outcome = async {
                    let stream = options.handshake(local(port)).await?;
                    let leaf = tls::leaf(&stream).ok_or("no certificate")?;
                    let newest = seen[number].load(Relaxed) as usize;
                    let round = (newest.saturating_sub(2)..leaves.len()).find(|round| leaves[*round][number] == leaf);
                    let round = round.ok_or("a certificate of another host, or one that is gone for long")?;
                    seen[number].fetch_max(round as u64, Relaxed);
                    let mut client = tidegate_tests::Client::over(tidegate_tests::Protocol::Http1, stream).await?;
                    let answer = client.get(HOSTS[number].0, "/").await?;
                    if answer.status == 200 { Ok(()) } else { Err(format!("status {}", answer.status)) }
                };
                if let Err(failure) = outcome.await {
                    failures.lock().push(failure);
                }
                handshakes.fetch_add(1, Relaxed);
            }
        });
    }
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut slowest = Duration::ZERO;
    let (memory, begin) = (tidegate.memory().0, Instant::now());
    for (round, pairs) in pairs.iter().enumerate().skip(1) {
        ticks.tick().await;
        write(&folder, pairs);
        let written = Instant::now();
        let mut polls = interval(Duration::from_millis(2));
        while seen.iter().any(|newest| newest.load(Relaxed) < round as u64) {
            polls.tick().await;
            assert!(written.elapsed() < Duration::from_secs(10), "round {round} is never served:\n{}", tidegate.log());
        }
        slowest = slowest.max(written.elapsed());
    }
    stop.store(true, Relaxed);
    while clients.join_next().await.is_some() {}
    let failures = failures.lock();
    eprintln!(
        "{rounds} rotations of 3 certificates in {:?}: {} handshakes, {} failed, slowest to be seen {slowest:?}; memory {memory} -> {} KiB",
        begin.elapsed(),
        handshakes.load(Relaxed),
        failures.len(),
        tidegate.memory().0,
    );
    assert!(failures.is_empty(), "{:#?}", &failures[..failures.len().min(5)]);
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_rolls_refuses_the_old_clients_at_once() {
    let _alone = alone().await;
    let port = free_port();
    let (servers, old, new) = (Authority::new("servers"), Authority::new("old"), Authority::new("new"));
    let backend = EchoBackend::start("a").await;
    let server = yaml::server(port, "a", "HTTPS", &["a.test"], "{mode: MUTUAL, credentialName: a}");
    let folder = ConfigFolder::with(
        yaml::gateway_of(&[server])
            + &yaml::forward("a", "a.test", "a.test")
            + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address])
            + &tls_secret(NAMESPACE, "a", &servers.issue(&["a.test"])),
    );
    let trust = |authorities: &[&Authority]| {
        let pem: String = authorities.iter().map(|authority| authority.pem()).collect();
        folder.write("ca.yaml", secret(NAMESPACE, "a-cacert", &[("ca.crt", &pem)]));
    };
    trust(&[&old]);
    let _tidegate = Tidegate::start(&folder).await;
    let of_old = TlsOptions::to("a.test").identity(&old.issue(&["client.test"]));
    let of_new = TlsOptions::to("a.test").identity(&new.issue(&["client.test"]));
    // One configuration for all connections: its sessions would be resumed if that were allowed.
    let (resuming, name) = (of_old.config(), Some("a.test"));
    let get = async |config: &Arc<rustls::ClientConfig>| {
        let stream = tls::handshake(config.clone(), name, local(port)).await?;
        tidegate_tests::Client::over(tidegate_tests::Protocol::Http1, stream).await?.get("a.test", "/").await
    };
    let accepted = async |options: &TlsOptions| options.get(local(port), "a.test", "/").await.is_ok();
    assert!(get(&resuming).await.is_ok() && !accepted(&of_new).await);
    trust(&[&old, &new]);
    let overlap = Instant::now();
    while !accepted(&of_new).await {
        assert!(accepted(&of_old).await, "the old authority counts during the overlap");
        assert!(overlap.elapsed() < Duration::from_secs(2), "the new authority is not accepted");
    }
    assert!(get(&resuming).await.is_ok());
    trust(&[&new]);
    let removed = Instant::now();
    while get(&resuming).await.is_ok() || accepted(&of_old).await {
        assert!(accepted(&of_new).await);
        assert!(removed.elapsed() < Duration::from_secs(2), "the old authority is still accepted");
    }
    assert!(get(&resuming).await.is_err(), "nor by a resumed session");
    assert!(accepted(&of_new).await);
}
