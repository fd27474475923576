//! R12, R18: backends that come, go and fail.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_tests::sut::{HOST, Setup};
use tidegate_tests::{EchoBackend, yaml};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Rig, idle_p99, more, passed, plain};
use crate::Run;
use crate::outcome::Verdict;
use crate::probe::{Probe, Speaks, Target, ok};

pub(super) fn replace(rig: &Rig, name: &str, text: &str) {
    let folder = rig.proxy.folder.path().join("config");
    let temporary = folder.join(format!(".{name}"));
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(temporary, folder.join(name)).unwrap();
}

/// R12: endpoints of a cluster of 200 change; a removed one gets nothing 200 ms later.
pub(super) async fn churn(run: Run) -> Verdict {
    let rounds = run.size(40, 1_200);
    let backends = futures::future::join_all((0..20).map(|n| EchoBackend::start(["even", "odd"][n % 2]))).await;
    let members = |round: usize| -> Vec<SocketAddr> {
        // Half of them, another half each time.
        (0..10).map(|n| backends[(round * 3 + n) % backends.len()].address).collect()
    };
    let documents = yaml::forward("pool", "pool.test", "pool.test");
    let rig = Rig::start(run.sut, Setup { documents, ..Setup::default() }).await;
    let write = |addresses: &[SocketAddr]| {
        replace(&rig, "pool.yaml", &yaml::service_entry("pool", "pool.test", "HTTP", addresses));
    };
    write(&members(0));
    tidegate_tests::wait::until("the pool", tidegate_tests::wait::PATIENCE, || async {
        let answer = tidegate_tests::client::try_get(rig.proxy.plain, "pool.test", "/").await;
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
    let target = Target {
        address: rig.proxy.plain,
        host: "pool.test",
        path: "/",
        speaks: Speaks::Http1,
        rate: 500,
        judge: ok(),
    };
    let p99_idle = idle_p99(vec![target.clone()], run).await;
    let probe = Probe::start([target]);
    let mut late = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    for round in 1..=rounds {
        ticks.tick().await;
        let now = members(round);
        write(&now);
        if round % 10 == 0 {
            tokio::time::sleep(run.target(Duration::from_millis(200))).await;
            let count = || -> u64 {
                backends.iter().filter(|backend| !now.contains(&backend.address)).map(EchoBackend::requests).sum()
            };
            let before = count();
            tokio::time::sleep(Duration::from_millis(100)).await;
            late += count() - before;
        }
    }
    let records = probe.finish().await;
    let pass = records.failed() == 0 && late == 0;
    let memory = rig.proxy.memory();
    Verdict { more: more([("late_requests", json!(late))]), ..passed(rounds, records, p99_idle, memory, pass) }
}

/// What a flapping backend does with a connection.
const MOODS: [&str; 5] = ["serves", "resets", "half-closes", "garbage", "503"];

async fn moody(mood: Arc<AtomicU8>, posts: Arc<AtomicU64>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mood, posts) = (mood.clone(), posts.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                loop {
                    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                        if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    posts.fetch_add(u64::from(head.starts_with(b"POST")), Relaxed);
                    head.clear();
                    let answer: &[u8] = match MOODS[mood.load(Relaxed) as usize] {
                        "serves" => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                        "resets" => {
                            let _ = socket_reset(&stream);
                            return;
                        }
                        "half-closes" => return,
                        "garbage" => b"\x00\x01 what is this\r\n\r\n",
                        _ => b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
                    };
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A close that the other side sees as a reset.
fn socket_reset(stream: &tokio::net::TcpStream) -> std::io::Result<()> {
    stream.set_zero_linger()
}

/// R18: one of three backends changes its mood twice a second.
pub(super) async fn flap(run: Run) -> Verdict {
    let rounds = run.size(16, 240);
    let (mood, posts) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicU64::new(0)));
    let steady = Arc::new(AtomicU8::new(0));
    let backends = [
        moody(mood.clone(), posts.clone()).await,
        moody(steady.clone(), posts.clone()).await,
        moody(steady.clone(), posts.clone()).await,
    ];
    let documents = yaml::forward("flap", "flap.test", "flap.test")
        + &yaml::service_entry("flap", "flap.test", "HTTP", &backends)
        + "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: flap}\nspec:\n  host: flap.test\n  \
           trafficPolicy: {outlierDetection: {consecutive5xxErrors: 3, interval: 1s, baseEjectionTime: 2s, maxEjectionPercent: 50}}\n---\n";
    let rig = Rig::start(run.sut, Setup { documents, ..Setup::default() }).await;
    let steady_target = plain(&rig.proxy, Speaks::Http1, 50);
    let target = Target { host: "flap.test", judge: ok(), rate: 200, ..steady_target.clone() };
    let p99_idle = idle_p99(vec![target.clone(), steady_target.clone()], run).await;
    let probe = Probe::start([target, steady_target]);
    let begin = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    for round in 0..rounds {
        ticks.tick().await;
        mood.store((round % MOODS.len()) as u8, Relaxed);
    }
    let (took, records) = (begin.elapsed(), probe.finish().await);
    let pass = records.good() >= 0.9999;
    let memory = rig.proxy.memory();
    let fields = [("good_share", json!(records.good())), ("seconds", json!(took.as_secs())), ("host", json!(HOST))];
    Verdict { more: more(fields), ..passed(rounds, records, p99_idle, memory, pass) }
}
