//! R9, R10: clients that hold connections.

use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_tests::machine;
use tidegate_tests::sut::{HOST, Setup};
use tidegate_tests::tls::TlsOptions;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Rig, idle_p99, more, passed, plain};
use crate::Run;
use crate::outcome::Verdict;
use crate::probe::{Probe, Speaks};

/// R9: thousands of clients that send a byte of a request head, or of a body, every second. The rest must not notice;
/// heads must be cut at their deadline; memory must be bounded.
pub(super) async fn slow(run: Run) -> Verdict {
    let clients = run.size(500, 5_000);
    let rig = Rig::start(run.sut, Setup::default()).await;
    let targets = vec![plain(&rig.proxy, Speaks::Http1, 100)];
    let p99_idle = idle_p99(targets.clone(), run).await;
    let before = rig.proxy.memory();
    let probe = Probe::start(targets);
    let mut attackers = JoinSet::new();
    for number in 0..clients {
        let address = rig.proxy.plain;
        attackers.spawn(async move {
            let mut stream = TcpStream::connect(address).await.ok()?;
            // Never the end of a head; every third one a body that does not end.
            let head = if number % 3 == 0 {
                format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000000\r\n\r\n")
            } else {
                format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Slow: ")
            };
            stream.write_all(head.as_bytes()).await.ok()?;
            let begin = Instant::now();
            let mut byte = [0];
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            loop {
                tokio::select! {
                    _ = ticks.tick() => {
                        if stream.write_all(b"x").await.is_err() {
                            break;
                        }
                    }
                    read = stream.read(&mut byte) => {
                        if matches!(read, Ok(0) | Err(_)) {
                            break;
                        }
                    }
                }
                if begin.elapsed() > Duration::from_secs(40) {
                    return None;
                }
            }
            Some((number % 3 != 0, begin.elapsed()))
        });
    }
    let most = {
        let mut most = 0;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(if run.is_quick() { 14 } else { 30 }) {
            most = most.max(rig.proxy.memory());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        most
    };
    let records = probe.finish().await;
    let (mut cut, mut last) = (0, Duration::ZERO);
    while let Some(Ok(ended)) = attackers.try_join_next() {
        if let Some((true, after)) = ended {
            cut += 1;
            last = last.max(after);
        }
    }
    attackers.abort_all();
    let heads = clients - clients.div_ceil(3);
    let grown = most.saturating_sub(before);
    let pass = records.failed() == 0
        && records.p99() <= p99_idle * 3 + Duration::from_millis(5)
        && cut == heads
        && last <= Duration::from_secs(12)
        && grown <= 64 * 1024;
    let fields = [
        ("slow_heads", json!(heads)),
        ("slow_heads_cut", json!(cut)),
        ("last_cut_after_ms", json!(last.as_millis() as u64)),
        ("rss_grown_kib", json!(grown)),
    ];
    Verdict { more: more(fields), ..passed(clients, records, p99_idle, most, pass) }
}

/// R10: idle TLS connections, first HTTP/1.1, then HTTP/2: at most 25 KiB and 40 KiB each, and given back.
pub(super) async fn idle(run: Run) -> Verdict {
    // The limit on descriptors counts for both ends, the proxy being another process.
    let number = run.size(500, 8_000);
    let rig = Rig::start(run.sut, Setup::default()).await;
    let targets = vec![plain(&rig.proxy, Speaks::Http1, 200)];
    let p99_idle = idle_p99(targets.clone(), run).await;
    let rest = rig.proxy.memory();
    let probe = Probe::start(targets);
    let mut each = Vec::new();
    for options in [TlsOptions::to(HOST), TlsOptions::to(HOST).http2()] {
        let before = rig.proxy.memory();
        let mut held = Vec::new();
        let config = options.config();
        for _ in 0..number {
            let config = options.without_resumption(&config);
            let stream = tidegate_tests::tls::handshake(config, Some(HOST), rig.proxy.tls).await.unwrap();
            let protocol =
                if each.is_empty() { tidegate_tests::Protocol::Http1 } else { tidegate_tests::Protocol::Http2 };
            let mut client = tidegate_tests::Client::over(protocol, stream).await.unwrap();
            assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
            held.push(client);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        each.push(rig.proxy.memory().saturating_sub(before) as f64 / number as f64);
        drop(held);
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let records = probe.finish().await;
    let after = rig.proxy.pids(&rig.site).into_iter().filter(|pid| *pid != rig.site.pid()).map(machine::memory).sum();
    let pass = records.failed() == 0 && each[0] <= 25.0 && each[1] <= 40.0 && after <= rest + rest / 10 + 8 * 1024;
    let round = |value: f64| json!((value * 10.0).round() / 10.0);
    let fields =
        [("rss_at_rest_kib", json!(rest)), ("kib_each_tls_h1", round(each[0])), ("kib_each_tls_h2", round(each[1]))];
    Verdict { more: more(fields), ..passed(number, records, p99_idle, after, pass) }
}
