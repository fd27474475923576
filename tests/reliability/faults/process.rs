//! R6, R21: what becomes of the process.

use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_tests::client;
use tidegate_tests::sut::{HOST, Kind, Setup};
use tokio::net::TcpStream;

use super::{Rig, more, passed, plain};
use crate::Run;
use crate::outcome::{Records, Verdict};
use crate::probe::{Probe, Speaks};

async fn hash(rig: &Rig) -> String {
    match rig.proxy.admin {
        Some(admin) => client::get(admin, "localhost", "/snapshot/hash").await.text(),
        None => String::new(),
    }
}

/// R6: killed at any time, also in the middle of a change; serves within a second of its restart, and serves what it
/// served or what was written, nothing else.
pub(super) async fn kill9(run: Run) -> Verdict {
    let number = run.size(5, 100);
    let mut rig = Rig::start(run.sut, Setup { hosts: 1_000, ..Setup::default() }).await;
    let (mut slowest, mut wrong) = (Duration::ZERO, 0);
    for version in 1..=number {
        let before = hash(&rig).await;
        let during = version % 2 == 0;
        if during {
            rig.proxy.change(&rig.site, version);
            // Anywhere between the first byte that is read and the last that is published.
            tokio::time::sleep(Duration::from_millis((version * 7 % 60) as u64)).await;
        }
        rig.proxy.kill();
        let begin = Instant::now();
        rig.proxy.restart().await;
        slowest = slowest.max(begin.elapsed());
        if run.sut == Kind::Tidegate {
            let after = hash(&rig).await;
            let body = client::get(rig.proxy.plain, HOST, "/version").await.text();
            wrong += usize::from(if during { !body.starts_with('v') } else { after != before });
        }
    }
    let pass = slowest <= run.target(Duration::from_secs(1)) && wrong == 0;
    let fields = [("slowest_restart_ms", json!(slowest.as_millis() as u64)), ("wrong_after_restart", json!(wrong))];
    let memory = rig.proxy.memory();
    Verdict { more: more(fields), ..passed(number, Records::default(), Duration::ZERO, memory, pass) }
}

/// R21: with 256 descriptors and more clients than that the process neither ends nor spins, and recovers.
pub(super) async fn rlimit(run: Run) -> Verdict {
    let clients = run.size(400, 2_000);
    let setup = Setup { wrapper: vec!["prlimit".into(), "--nofile=256:256".into()], ..Setup::default() };
    let mut rig = Rig::start(run.sut, setup).await;
    let mut held = Vec::new();
    for _ in 0..clients {
        if let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(rig.proxy.plain)).await
        {
            held.push(stream);
        }
    }
    let (cpu, begin) = (rig.proxy.cpu_of_all(), Instant::now());
    tokio::time::sleep(Duration::from_secs(if run.is_quick() { 2 } else { 20 })).await;
    let spinning = (rig.proxy.cpu_of_all() - cpu).as_secs_f64() / begin.elapsed().as_secs_f64();
    drop(held);
    let alive = rig.proxy.is_running();
    let recovered = Instant::now();
    while alive && client::try_get(rig.proxy.plain, HOST, "/").await.is_err() && recovered.elapsed().as_secs() < 20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let recovery = recovered.elapsed();
    let probe = Probe::start([plain(&rig.proxy, Speaks::Http1, 100)]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let records = probe.finish().await;
    let pass = alive && spinning <= 0.1 && recovery <= run.target(Duration::from_secs(5)) && records.failed() == 0;
    let fields = [
        ("alive", json!(alive)),
        ("cpu_while_starved", json!((spinning * 100.0).round() / 100.0)),
        ("recovery_ms", json!(recovery.as_millis() as u64)),
    ];
    let memory = rig.proxy.memory();
    Verdict { more: more(fields), ..passed(clients, records, Duration::ZERO, memory, pass) }
}
