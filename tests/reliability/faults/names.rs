//! R13: what name servers do.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate_tests::client;
use tidegate_tests::dns::{Mood, NameServer};
use tidegate_tests::sut::Setup;
use tidegate_tests::wait::{PATIENCE, until};

use super::{BODY, Rig, idle_p99, more, passed, plain};
use crate::Run;
use crate::outcome::Verdict;
use crate::probe::{Probe, Speaks, Target, body};

/// The site's backend answers on every loopback address: each of these is one more.
fn address(number: usize) -> Ipv4Addr {
    let number = u16::try_from(number + 2).unwrap_or(u16::MAX).to_be_bytes();
    Ipv4Addr::new(127, 1, number[0], number[1])
}

/// Names of what goes wrong, and how it does.
fn faults() -> [(&'static str, Mood); 9] {
    [
        ("servfail", Mood::Failure),
        ("timeout", Mood::Silent),
        ("nxdomain", Mood::NoSuchName),
        ("empty", Mood::Empty),
        ("ttl_0", Mood::Addresses(vec![address(0)], 0)),
        ("500_records", Mood::Addresses((0..500).map(address).collect(), 1)),
        ("truncated", Mood::CutOff),
        ("wrong_id", Mood::WrongIdentity),
        ("garbage", Mood::Garbage),
    ]
}

/// The addresses of the cluster, as the admin server shows them.
async fn known(rig: &Rig) -> Vec<Ipv4Addr> {
    let Some(admin) = rig.proxy.admin else { return Vec::new() };
    let Ok(clusters) = client::try_get(admin, "localhost", "/clusters").await else { return Vec::new() };
    let port = format!(":{}::cx_active", rig.site.backend);
    let lines = clusters.text();
    let found = lines.lines().filter(|line| line.contains("||dns.test::") && line.contains(&port));
    found.filter_map(|line| line.split("::").nth(1)?.split(':').next()?.parse().ok()).collect()
}

/// R13: whatever the name server does, the last good addresses serve, and 5 s after it answers again its answer does.
pub(super) async fn dns(run: Run) -> Verdict {
    let each = Duration::from_secs(run.size(2, 30) as u64);
    let server = NameServer::start(Mood::Addresses(vec![address(0)], 1)).await;
    let arguments = vec!["--name-server".into(), server.address.to_string()];
    let setup = |backend: u16| {
        let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: dns}\nspec:\n  \
                     hosts: [dns.test]\n  location: MESH_INTERNAL\n  resolution: DNS\n  \
                     ports: [{number: 80, name: http, protocol: HTTP}]\n  ";
        let endpoint = format!("endpoints: [{{address: backend.dns.test, ports: {{http: {backend}}}}}]\n---\n");
        let documents = tidegate_tests::yaml::forward("dns", "dns.test", "dns.test") + entry + &endpoint;
        Setup { documents, arguments: arguments.clone(), ..Setup::default() }
    };
    let rig = Rig::start_with(run.sut, setup).await;
    until("the first answer", PATIENCE, || async { (known(&rig).await == [address(0)]).then_some(()) }).await;
    let rest = plain(&rig.proxy, Speaks::Http1, 100);
    let target = Target { host: "dns.test", judge: body(BODY), rate: 200, ..rest.clone() };
    let targets = vec![target, rest];
    let p99_idle = idle_p99(targets.clone(), run).await;
    let probe = Probe::start(targets);
    let (mut lost, mut slow, mut most) = (Vec::new(), Vec::new(), 0.0f64);
    let mut recoveries: Vec<(&'static str, Value)> = Vec::new();
    let faults = faults();
    for (number, (name, mood)) in faults.iter().enumerate() {
        let questions = server.questions();
        let begin = Instant::now();
        server.set(mood.clone());
        while begin.elapsed() < each {
            if known(&rig).await.is_empty() {
                lost.push(*name);
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        most = most.max((server.questions() - questions) as f64 / begin.elapsed().as_secs_f64());
        let next = address(600 + number);
        server.set(Mood::Addresses(vec![next], 1));
        let begin = Instant::now();
        while known(&rig).await != [next] && begin.elapsed() < Duration::from_secs(90) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if begin.elapsed() > run.target(Duration::from_secs(5)) {
            slow.push(*name);
        }
        recoveries.push((name, json!(begin.elapsed().as_millis() as u64)));
    }
    let records = probe.finish().await;
    let pass = records.failed() == 0
        && lost.is_empty()
        && slow.is_empty()
        // Two families, each at most once a second, and again over TCP.
        && most <= 8.0
        && records.p99() <= p99_idle * 2 + run.slack();
    let fields = [
        ("addresses_lost", json!(lost)),
        ("slow_to_recover", json!(slow)),
        ("recovery_ms", Value::Object(more(recoveries))),
        ("questions_a_second", json!((most * 10.0).round() / 10.0)),
    ];
    let memory = rig.proxy.memory();
    Verdict { more: more(fields), ..passed(faults.len(), records, p99_idle, memory, pass) }
}
