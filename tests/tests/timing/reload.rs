//! Reloads under load: nothing fails, nothing is mixed, long streams live on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tidegate_tests::Protocol::{self, Http1, Http2};
use tidegate_tests::load::{self, Judge, Load, Source};
use tidegate_tests::peers::{HeldStreams, PythonBackend};
use tidegate_tests::process::{free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, EchoBackend, Tidegate, client, yaml};

use crate::{alone, size};

const SLOTS: usize = 8;

/// Generation `number` of `stamp.test`: a response header and a rewrite that carry the number, and the one backend whose
/// name belongs to it. An answer that mixes two Snapshots cannot agree with itself.
fn stamped(number: usize, backends: &[EchoBackend]) -> String {
    let slot = number % SLOTS;
    let http = format!(
        "- headers: {{response: {{set: {{x-generation: '{number}'}}}}}}\n  rewrite: {{uri: /generation/{number}}}\n  \
         route:\n  - destination: {{host: stamp.test}}\n    headers: {{request: {{set: {{x-generation-sent: '{number}'}}}}}}"
    );
    yaml::virtual_service("stamp", "stamp.test", &http)
        + &yaml::service_entry("stamp", "stamp.test", "HTTP", &[backends[slot].address])
}

/// Requires that all five marks of an answer are of one generation, and that generations do not run backwards.
fn one_generation(newest: Arc<AtomicU64>) -> Judge {
    Arc::new(move |answer| {
        if answer.status != 200 {
            return Err(format!("{} {:?}", answer.status, answer.text()));
        }
        let number: usize =
            answer.header("x-generation").parse().map_err(|_| format!("no generation in {answer:?}"))?;
        let target = answer.json()["target"].as_str().unwrap_or_default().to_owned();
        let sent = answer.received("x-generation-sent").unwrap_or_default();
        let expected = (format!("slot{}", number % SLOTS), format!("/generation/{number}"), number.to_string());
        let found = (answer.header("x-backend").to_owned(), target, sent);
        if found != expected {
            return Err(format!("mixed: generation {number} with {found:?}"));
        }
        newest.fetch_max(number as u64, Ordering::Relaxed);
        Ok(())
    })
}

/// What else changes with generation `number`, in turns: weights, listeners, endpoints, mesh settings, broken files.
fn disturb(folder: &ConfigFolder, number: usize, ports: &[u16], backends: &[EchoBackend]) {
    match number % 10 {
        0 => {
            let weight = number % 100;
            let http = format!(
                "- route:\n  - {{destination: {{host: stable.test}}, weight: {weight}}}\n  - {{destination: {{host: pool.test}}, weight: {}}}",
                100 - weight
            );
            folder.write("weights.yaml", yaml::virtual_service("weights", "weights.test", &http));
        }
        1 => {
            let port = ports[number / 10 % ports.len()];
            folder.write(
                "listener.yaml",
                yaml::gateway("extra", port)
                    + &yaml::forward("extra", "extra.test", "stable.test").replace("[edge]", "[extra]"),
            );
        }
        2 | 5 => {
            let from = number / 3 % 4;
            let addresses: Vec<SocketAddr> =
                backends[from..=from + number % 4].iter().map(|backend| backend.address).collect();
            folder.write("pool.yaml", yaml::service_entry("pool", "pool.test", "HTTP", &addresses));
        }
        3 => folder.write("broken.yaml", "kind: [VirtualService\n\tnot: yaml"),
        4 => folder.write_in_place("listener.yaml", ""),
        6 => folder.write(
            "broken.yaml",
            yaml::virtual_service("bad", "bad.test", "- match: [{uri: {regex: '('}}]\n  rout: []"),
        ),
        7 => folder.write("broken.yaml", [0, 255, 1, 2].repeat(1000)),
        8 => {
            let routes: String = (0..number % 30)
                .map(|n| {
                    format!("- match: [{{uri: {{prefix: /r{n}}}}}]\n  route: [{{destination: {{host: pool.test}}}}]\n")
                })
                .collect();
            folder.write(
                "routes.yaml",
                yaml::virtual_service("many", "many.test", &(routes + "- route: [{destination: {host: stable.test}}]")),
            );
        }
        _ => folder.write("broken.yaml", ""),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_fail_no_request_and_mix_no_answer() {
    let _alone = alone().await;
    let reloads = size(150, 1000);
    let port = free_port();
    let address = local(port);
    let mut backends = Vec::new();
    for slot in 0..SLOTS {
        backends.push(EchoBackend::start(&format!("slot{slot}")).await);
    }
    let python = PythonBackend::start().await;
    let stable = EchoBackend::start("stable").await;
    let folder = ConfigFolder::with(
        yaml::gateway("edge", port)
            + &yaml::forward("stable", "stable.test", "stable.test")
            + &yaml::service_entry("stable", "stable.test", "HTTP", &[stable.address])
            + &yaml::forward("pool", "pool.test", "pool.test")
            + &yaml::forward("ws", "ws.test", "ws.test")
            + &yaml::service_entry("ws", "ws.test", "HTTP", &[python.websocket])
            + &yaml::forward("grpc", "grpc.test", "grpc.test")
            + &yaml::service_entry("grpc", "grpc.test", "GRPC", &[python.grpc]),
    );
    folder.write("pool.yaml", yaml::service_entry("pool", "pool.test", "HTTP", &[backends[0].address]));
    folder.write("weights.yaml", yaml::forward("weights", "weights.test", "stable.test"));
    folder.write("routes.yaml", yaml::forward("many", "many.test", "stable.test"));
    folder.write("stamp.yaml", stamped(0, &backends));
    let ports: Vec<u16> = (0..4).map(|_| free_port()).collect();
    let mut tidegate = Tidegate::start(&folder).await;
    let held = HeldStreams::open(address, "ws.test", "grpc.test", 10).await;

    let newest = Arc::<AtomicU64>::default();
    let source = |host: &str, target: &str, protocol, rate, connections, judge| Source {
        address,
        host: host.into(),
        target: target.into(),
        protocol,
        rate,
        connections,
        judge,
    };
    let load = Load::start([
        source("stamp.test", "/", Http1, 200, 8, one_generation(newest.clone())),
        source("stamp.test", "/", Http2, 50, 2, one_generation(newest.clone())),
        source("stable.test", "/", Http1, 100, 4, load::status_200()),
        source("pool.test", "/", Http1, 50, 2, load::status_200()),
        source("weights.test", "/", Http1, 50, 2, load::status_200()),
        source("many.test", "/r7", Http2, 50, 2, load::status_200()),
    ]);
    wait::until("load", PATIENCE, || async { (load.sent() > 200).then_some(()) }).await;
    let (memory, descriptors) = (tidegate.memory().0, tidegate.descriptors());
    let mut halfway = 0;
    let begin = Instant::now();
    for number in 1..=reloads {
        if number == reloads / 2 {
            halfway = tidegate.descriptors();
        }
        disturb(&folder, number, &ports, &backends);
        folder.write("stamp.yaml", stamped(number, &backends));
        wait::until(&format!("generation {number}"), PATIENCE, || async {
            (newest.load(Ordering::Relaxed) == number as u64).then_some(())
        })
        .await;
        if number % 10 == 1 {
            let extra = local(ports[number / 10 % ports.len()]);
            wait::until("the added listener", PATIENCE, || async {
                client::try_get(extra, "extra.test", "/").await.is_ok_and(|answer| answer.status == 200).then_some(())
            })
            .await;
        }
    }
    let took = begin.elapsed();
    let report = load.finish().await;
    eprintln!(
        "{reloads} reloads in {took:?}, {} requests ({:.0}/s), {} failed, p50 {:?}, p99 {:?}; memory {memory} -> {} KiB, files {descriptors} -> {halfway} -> {}",
        report.sent,
        report.sent as f64 / took.as_secs_f64(),
        report.failed,
        report.percentile(50),
        report.percentile(99),
        tidegate.memory().0,
        tidegate.descriptors(),
    );
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
    assert!(
        report.sent as f64 / took.as_secs_f64() > 400.0,
        "the load was not kept up: {} requests in {took:?}",
        report.sent
    );
    assert_eq!(held.finish().await, (20, vec![]), "long streams");
    assert!(tidegate.is_running());
    let after = tidegate.memory().0;
    assert!(after < memory * 3 / 2 + 20 * 1024, "memory grows with reloads: {memory} -> {after} KiB");
    // Pooled connections to the endpoints that came and went; what grows with every reload would show by now.
    let files = tidegate.descriptors();
    assert!(files < halfway + 40, "open files grow with reloads: {descriptors} -> {halfway} -> {files}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_change_under_load_and_removed_ones_get_nothing_more() {
    const CONNECTIONS: u32 = 6;
    let _alone = alone().await;
    let port = free_port();
    let mut backends = Vec::new();
    for slot in 0..6 {
        backends.push(EchoBackend::start(&format!("slot{slot}")).await);
    }
    let pool = |from: usize, count: usize| -> Vec<&EchoBackend> {
        (from..from + count).map(|slot| &backends[slot % backends.len()]).collect()
    };
    let text = |members: &[&EchoBackend]| {
        let addresses: Vec<SocketAddr> = members.iter().map(|backend| backend.address).collect();
        yaml::service_entry("pool", "pool.test", "HTTP", &addresses)
    };
    let folder = ConfigFolder::with(yaml::gateway("edge", port) + &yaml::forward("pool", "pool.test", "pool.test"));
    folder.write("pool.yaml", text(&pool(0, 2)));
    let tidegate = Tidegate::start(&folder).await;
    let load = Load::start([Source {
        address: local(port),
        host: "pool.test".into(),
        target: "/".into(),
        protocol: Protocol::Http1,
        rate: 300,
        connections: CONNECTIONS,
        judge: load::status_200(),
    }]);
    for round in 1..=size(60, 600) {
        let members = pool(round, 1 + round % 4);
        tidegate.apply(&folder, "pool.yaml", text(&members)).await;
        // Requests that began before may still be on their way; after one more on each connection none is.
        let settled = load.sent() + 2 * u64::from(CONNECTIONS);
        wait::until("requests in flight to end", PATIENCE, || async { (load.sent() >= settled).then_some(()) }).await;
        let removed: Vec<(&EchoBackend, u64)> = backends
            .iter()
            .filter(|backend| !members.iter().any(|member| member.address == backend.address))
            .map(|backend| (backend, backend.requests()))
            .collect();
        let later = load.sent() + 20;
        wait::until("more requests", PATIENCE, || async { (load.sent() >= later).then_some(()) }).await;
        for (backend, before) in removed {
            assert_eq!(backend.requests(), before, "a removed endpoint is still used in round {round}");
        }
    }
    let report = load.finish().await;
    eprintln!(
        "{} requests over changing endpoints, {} failed, p99 {:?}",
        report.sent,
        report.failed,
        report.percentile(99)
    );
    assert_eq!(report.failed, 0, "{:#?}", report.failures);
}
