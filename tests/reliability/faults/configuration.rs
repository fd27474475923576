//! R1, R2, R8: what changes of configuration do to requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_tests::peers::{HeldStreams, PythonBackend};
use tidegate_tests::sut::{HOST, Kind, Setup};
use tidegate_tests::{client, yaml};

use super::{Rig, idle_p99, more, passed, plain};
use crate::Run;
use crate::outcome::{Outcome, Records, Verdict};
use crate::probe::{Judge, Probe, Speaks, Target};

/// Nothing older than the newest version but one that was seen to serve may answer.
fn versioned(newest: Arc<AtomicU64>) -> Judge {
    Arc::new(move |status, body| {
        let text = String::from_utf8_lossy(body);
        match (status, text.trim().strip_prefix('v').and_then(|number| number.parse::<u64>().ok())) {
            (200, Some(version)) if version + 1 >= newest.load(Relaxed) => Outcome::Ok,
            (200, Some(_)) => Outcome::WrongConfig,
            (200, None) => Outcome::WrongBody,
            (status, _) => Outcome::Status(status),
        }
    })
}

/// Changes that may be lost before the rest is not tried any more.
const GIVE_UP: usize = 10;

/// Waits until a new connection gets `version`.
pub(super) async fn serves(rig: &Rig, version: usize, patience: Duration) -> Option<Duration> {
    let begin = Instant::now();
    let expected = format!("v{version}");
    while begin.elapsed() < patience {
        let answer = client::try_get(rig.proxy.plain, HOST, "/version").await;
        if answer.is_ok_and(|answer| answer.text().trim() == expected) {
            return Some(begin.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    None
}

/// R1: 500 requests a second over HTTP/1.1, 50 over HTTP/2, 20 long streams (ours only), while the routes change.
pub(super) async fn reload(run: Run) -> Verdict {
    let changes = run.size(30, 1_000);
    let python = PythonBackend::start().await;
    let ours = run.sut == Kind::Tidegate;
    let documents = yaml::forward("held-ws", "held-ws.test", "held-ws.test")
        + &yaml::service_entry("held-ws", "held-ws.test", "HTTP", &[python.websocket])
        + &yaml::forward("held-grpc", "held-grpc.test", "held-grpc.test")
        + &yaml::service_entry("held-grpc", "held-grpc.test", "GRPC", &[python.grpc]);
    let rig = Rig::start(run.sut, Setup { hosts: 200, documents, ..Setup::default() }).await;
    // HAProxy and nginx take HTTP/2 over TLS only, in these versions.
    let plaintext_http2 = matches!(run.sut, Kind::Tidegate | Kind::Envoy);
    let newest = Arc::new(AtomicU64::new(0));
    let versions = Target { path: "/version", judge: versioned(newest.clone()), ..plain(&rig.proxy, Speaks::New, 50) };
    let mut targets = vec![plain(&rig.proxy, Speaks::Http1, 450), versions];
    if plaintext_http2 {
        targets.push(plain(&rig.proxy, Speaks::Http2, 50));
    }
    let p99_idle = idle_p99(targets.clone(), run).await;
    let held = match ours {
        true => Some(HeldStreams::open(rig.proxy.plain, "held-ws.test", "held-grpc.test", 10).await),
        false => None,
    };
    let before = rig.proxy.memory();
    let probe = Probe::start(targets);
    let (mut lost, mut made) = (0, 0);
    for version in 1..=changes {
        rig.proxy.change(&rig.site, version);
        made = version;
        if serves(&rig, version, run.patience()).await.is_none() {
            lost += 1;
        }
        if lost == GIVE_UP {
            break;
        }
        newest.store(version as u64, Relaxed);
    }
    let records = probe.finish().await;
    let broken = match held {
        Some(held) => held.finish().await.1.len(),
        None => 0,
    };
    let memory = rig.proxy.memory();
    let pass = records.failed() == 0
        && lost == 0
        && broken == 0
        && records.p99() <= p99_idle * 2 + run.slack()
        && memory <= before + before / 20 + 4096;
    let fields = [
        ("rss_before_kib", json!(before)),
        ("changes_never_served", json!(lost)),
        ("long_streams_broken", if ours { json!(broken) } else { json!(null) }),
    ];
    Verdict { more: more(fields), ..passed(made, records, p99_idle, memory, pass) }
}

/// R2: p99 of the time from a written change to the first request on it at most 200 ms.
pub(super) async fn converge(run: Run) -> Verdict {
    let changes = run.size(50, 500);
    let rig = Rig::start(run.sut, Setup { hosts: 1_000, ..Setup::default() }).await;
    let targets = vec![plain(&rig.proxy, Speaks::Http1, 100)];
    let p99_idle = idle_p99(targets.clone(), run).await;
    let probe = Probe::start(targets);
    let (mut times, mut lost) = (Vec::new(), 0);
    for version in 1..=changes {
        rig.proxy.change(&rig.site, version);
        let served = serves(&rig, version, run.patience()).await;
        lost += usize::from(served.is_none());
        times.push(served.unwrap_or(run.patience()));
        if lost == GIVE_UP {
            break;
        }
    }
    let records = probe.finish().await;
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let pass =
        records.failed() == 0 && lost == 0 && at(99) <= run.target(Duration::from_millis(200)).as_secs_f64() * 1e3;
    let fields =
        [("apply_p50_ms", json!(at(50))), ("apply_p99_ms", json!(at(99))), ("changes_never_served", json!(lost))];
    let memory = rig.proxy.memory();
    Verdict { more: more(fields), ..passed(times.len(), records, p99_idle, memory, pass) }
}

/// One of many ways to be wrong, each time with other text. `None` deletes the file.
fn broken(number: usize) -> Vec<u8> {
    let service =
        |http: &str| yaml::virtual_service(&format!("bad{}", number % 50), "bad.bench.test", http).into_bytes();
    let to = "route: [{destination: {host: one.bench.test}}]";
    match number % 12 {
        0 => service(&format!("- rout{number}: []")),
        1 => service(&format!("- match: [{{uri: {{regex: '({number}'}}}}]\n  {to}")),
        2 => service(&format!("- match: [{{uri: {{regex: '(a{{1,{}}}){{1,1000}}'}}}}]\n  {to}", number % 900 + 100)),
        3 => service(&format!("- route: [{{destination: {{host: one.bench.test}}, weight: -{number}}}]")),
        4 => service(&format!("- timeout: {number}\n  {to}")),
        // No text in any encoding; line ends and blanks alone would be an empty file, which is not wrong.
        5 => vec![0x80 | u8::try_from(number % 256).unwrap_or(0); 4096],
        6 => format!("kind: [VirtualService, {number}\n\tspec: x").into_bytes(),
        7 => service(&format!("- directResponse: {{status: {}}}", 1000 + number)),
        8 => format!("a: &a [x]\nb: &b [{}]\nc: [{}]\n", "*a,".repeat(100), "*b,".repeat(number % 500 + 500))
            .into_bytes(),
        9 => "x: ".repeat(number % 5_000 + 5_000).into_bytes(),
        10 => yaml::gateway("bad", 0).replace("number: 0", &format!("number: {}", 70_000 + number)).into_bytes(),
        _ => {
            let pair = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----";
            tidegate_tests::pki::secret("istio-system", "bench", &[("tls.crt", pair), ("tls.key", &number.to_string())])
                .into_bytes()
        }
    }
}

/// R8: nothing that is wrong replaces what is right; every finding names its file; others still change.
pub(super) async fn bad(run: Run) -> Verdict {
    let number = run.size(60, 1_000);
    let rig = Rig::start(run.sut, Setup { hosts: 200, ..Setup::default() }).await;
    let targets = vec![plain(&rig.proxy, Speaks::Http1, 200), plain(&rig.proxy, Speaks::NewTls, 10)];
    let p99_idle = idle_p99(targets.clone(), run).await;
    let config = rig.proxy.folder.path().join("config");
    let probe = Probe::start(targets);
    let (mut unnamed, mut stuck, mut slowest) = (0, 0, Duration::ZERO);
    let admin = rig.proxy.admin.unwrap();
    for at in 1..=number {
        let name = format!("bad-{at}.yaml");
        std::fs::write(config.join(&name), broken(at)).unwrap();
        let written = Instant::now();
        // More than any target; what is slower counts as unnamed.
        let named = loop {
            let status = client::try_get(admin, "localhost", "/config/status").await;
            if status.is_ok_and(|status| status.text().contains(&name)) {
                break true;
            }
            if written.elapsed() > Duration::from_secs(10) {
                break false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        slowest = slowest.max(written.elapsed());
        unnamed += usize::from(!named);
        if at % 20 == 0 {
            rig.proxy.change(&rig.site, at);
            stuck += usize::from(serves(&rig, at, Duration::from_secs(20)).await.is_none());
        }
        std::fs::remove_file(config.join(&name)).unwrap();
    }
    let records: Records = probe.finish().await;
    let pass = records.failed() == 0 && unnamed == 0 && stuck == 0 && slowest <= run.target(Duration::from_secs(1));
    let fields = [
        ("not_named", json!(unnamed)),
        ("others_stuck", json!(stuck)),
        ("slowest_to_be_named_ms", json!(slowest.as_millis() as u64)),
    ];
    let memory = rig.proxy.memory();
    Verdict { more: more(fields), ..passed(number, records, p99_idle, memory, pass) }
}
