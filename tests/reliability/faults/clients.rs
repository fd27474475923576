//! R9, R10: clients that hold connections.

use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_tests::sut::{HOST, Kind, Setup};
use tidegate_tests::tls::TlsOptions;
use tidegate_tests::{Client, EchoBackend, Protocol, yaml};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::slowhttptest::{self, MODES};
use super::{Rig, idle_p99, more, passed, plain};
use crate::Run;
use crate::outcome::Verdict;
use crate::probe::{Probe, Speaks};

/// What slow clients may cost in memory, all together, KiB.
pub(super) const MEMORY: u64 = 64 * 1024;

/// R9: thousands of clients that send a byte of a request head, or of a body, every second. The rest must not notice;
/// heads must be cut at their deadline; memory must be bounded. The long form has slowhttptest do the same after our own
/// clients, in each of its modes.
pub(super) async fn slow(run: Run) -> Verdict {
    let clients = run.size(500, 5_000);
    // slowhttptest asks for the host that its URL names, which is an address.
    // Bodies go to a backend that waits for their end: one that answers heads would let slow bodies off at once.
    let patient = EchoBackend::start("patient").await;
    let rules = "- match: [{uri: {exact: /64k}}]\n  route: [{destination: {host: one.bench.test}}]\n\
                 - route: [{destination: {host: patient.bench.test}}]\n";
    let documents = yaml::virtual_service("any", "*", rules)
        + &yaml::service_entry("patient", "patient.bench.test", "HTTP", &[patient.address]);
    let rig = Rig::start(run.sut, Setup { documents, ..Setup::default() }).await;
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
                "POST / HTTP/1.1\r\nHost: patient.test\r\nContent-Length: 1000000\r\n\r\n".to_owned()
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
        while begin.elapsed() < Duration::from_secs(if run.is_quick() { 16 } else { 30 }) {
            most = most.max(rig.proxy.memory());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        most
    };
    let (mut cut, mut last) = (0, Duration::ZERO);
    while let Some(Ok(ended)) = attackers.try_join_next() {
        if let Some((true, after)) = ended {
            cut += 1;
            last = last.max(after);
        }
    }
    attackers.shutdown().await;
    let (mut tools, mut tools_pass) = (Vec::new(), true);
    if !run.is_quick() {
        for mode in MODES {
            settled(&rig, before).await;
            let Some(outcome) = slowhttptest::attack(&rig, mode, clients, before).await else {
                tools.push(("slowhttptest", json!("not installed: `sh tests/setup.sh rel` installs it")));
                tools_pass = false;
                break;
            };
            tools_pass &= outcome.pass;
            tools.push((mode.name, outcome.told));
        }
    }
    let records = probe.finish().await;
    let heads = clients - clients.div_ceil(3);
    let grown = most.saturating_sub(before);
    let pass = records.failed() == 0
        && records.p99() <= p99_idle * 3 + run.slack()
        && cut == heads
        && last <= Duration::from_secs(if run.is_quick() { 15 } else { 12 })
        && grown <= MEMORY
        && tools_pass;
    let fields = [
        ("own_heads", json!(heads)),
        ("own_heads_cut", json!(cut)),
        ("last_cut_after_ms", json!(last.as_millis() as u64)),
        ("rss_grown_kib", json!(grown)),
    ];
    Verdict { more: more(fields.into_iter().chain(tools)), ..passed(clients, records, p99_idle, most, pass) }
}

/// Connections to a proxy, and those that it has to its backend, with some for files.
fn within_descriptors(kind: Kind, wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let limit: usize = line.split_whitespace().nth(4).and_then(|hard| hard.parse().ok()).unwrap_or(usize::MAX);
    // Tidegate takes 7/16 of its descriptors for clients, HAProxy is configured for 9,500 connections.
    let most = if kind == Kind::Haproxy { 9_000 } else { limit / 2 - limit / 16 - 100 };
    wanted.min(most)
}

/// R10: idle TLS connections, first HTTP/1.1, then HTTP/2: at most 25 KiB and 40 KiB each, and given back.
pub(super) async fn idle(run: Run) -> Verdict {
    let wanted = run.size(500, 10_000);
    let number = within_descriptors(run.sut, wanted);
    let rig = Rig::start(run.sut, Setup::default()).await;
    let targets = vec![plain(&rig.proxy, Speaks::Http1, 200)];
    let p99_idle = idle_p99(targets.clone(), run).await;
    let rest = rig.proxy.memory();
    let probe = Probe::start(targets);
    let (mut each, mut closed) = (Vec::new(), 0);
    for (options, protocol) in
        [(TlsOptions::to(HOST), Protocol::Http1), (TlsOptions::to(HOST).http2(), Protocol::Http2)]
    {
        let mut held = Vec::new();
        let config = options.without_resumption(&options.config());
        for _ in 0..number {
            let stream = tidegate_tests::tls::handshake(config.clone(), Some(HOST), rig.proxy.tls).await.unwrap();
            let mut client = Client::over(protocol, stream).await.unwrap();
            assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
            held.push(client);
        }
        // What handshakes needed and idle connections do not is given back by then.
        tokio::time::sleep(Duration::from_secs(3)).await;
        // Against the beginning: what the first kind left behind counts for the second, too.
        each.push(rig.proxy.memory().saturating_sub(rest) as f64 / number as f64);
        for client in &mut held {
            closed += usize::from(!client.is_open().await);
        }
        drop(held);
        settled(&rig, rest).await;
    }
    let records = probe.finish().await;
    let after = rig.proxy.memory();
    // The targets are a release build's, with thousands; the quick form only sees that it does not get much worse.
    let most = if run.is_quick() { [40.0, 80.0] } else { [25.0, 40.0] };
    let pass = records.failed() == 0
        && closed == 0
        && each[0] <= most[0]
        && each[1] <= most[1]
        && after <= allowed_after(rest);
    let round = |value: f64| json!((value * 10.0).round() / 10.0);
    let fields = [
        ("rss_at_rest_kib", json!(rest)),
        ("kib_each_tls_h1", round(each[0])),
        ("kib_each_tls_h2", round(each[1])),
        ("closed_early", json!(closed)),
        ("limited_by_descriptors", json!(number < wanted)),
    ];
    Verdict { more: more(fields), ..passed(number, records, p99_idle, after, pass) }
}

/// 10 % above rest, and the 8 MiB that allocators and logs take on the way.
fn allowed_after(rest: u64) -> u64 {
    rest + rest / 10 + 8 * 1024
}

/// Waits until the memory of closed connections is given back, but not forever.
async fn settled(rig: &Rig, rest: u64) {
    let begin = Instant::now();
    while rig.proxy.memory() > allowed_after(rest) && begin.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
