//! What grows: idle connections, virtual hosts, endpoints, routes that change.

use std::time::{Duration, Instant};

use tidegate_tests::client;
use tokio::io::AsyncWriteExt as _;

use crate::Options;
use crate::load::{self, Tool};
use crate::report::{Report, middle};
use tidegate_tests::machine::{Noise, pin};
use tidegate_tests::sut::{HOST, Kind, Proxy, Setup, Site};

fn mib(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

/// Memory at rest and with idle connections that had one request each.
pub(crate) async fn idle(options: &Options, site: &Site, report: &mut Report) {
    let mut rows = Vec::new();
    let counts: [usize; 2] = if options.rounds < 3 { [200, 1_000] } else { [1_000, 5_000] };
    for kind in &options.proxies {
        for tls in [false, true] {
            let proxy = Proxy::start(*kind, site, &Setup::default()).await;
            let rest = proxy.memory();
            let mut held = Vec::new();
            let mut sizes = Vec::new();
            for count in counts {
                while held.len() < count {
                    let mut stream = load::connect(&proxy, tls).await;
                    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
                    stream.write_all(request.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                    assert!(load::read_answer(&mut stream, &mut Vec::new()).await.unwrap());
                    held.push(stream);
                }
                // What the last requests used is given back a moment later.
                tokio::time::sleep(Duration::from_millis(1500)).await;
                sizes.push(proxy.memory());
            }
            let most = sizes[1];
            rows.push(vec![
                kind.name().to_owned(),
                if tls { "TLS" } else { "plain" }.to_owned(),
                mib(rest),
                mib(sizes[0]),
                mib(most),
                format!("{:.1}", most.saturating_sub(rest) as f64 / counts[1] as f64),
            ]);
        }
    }
    let with = counts.map(|count| format!("with {count}"));
    let columns = ["proxy", "connections", "RSS at rest MiB", &with[0], &with[1], "KiB each"];
    report.table("idle", "Idle keep-alive connections", &columns, &rows);
}

/// Start, memory and cost with many virtual hosts that share one backend.
pub(crate) async fn hosts(options: &Options, site: &Site, report: &mut Report) {
    let mut rows = Vec::new();
    for kind in &options.proxies {
        let mut first = None;
        for hosts in [10, 1_000, 10_000] {
            let setup = Setup { hosts, ..Setup::default() };
            let proxy = Proxy::start(*kind, site, &setup).await;
            let memory = proxy.memory();
            let figures = measure(options, site, &proxy).await;
            let cost = *first.get_or_insert(figures.0);
            rows.push(vec![
                kind.name().to_owned(),
                hosts.to_string(),
                format!("{:.2}", proxy.start.as_secs_f64()),
                mib(memory),
                mib(proxy.memory()),
                format!("{:.2}", figures.0),
                format!("{:+.0} %", (figures.0 / cost - 1.0) * 100.0),
                figures.1.to_string(),
            ]);
        }
    }
    let columns =
        ["proxy", "virtual hosts", "start s", "RSS MiB", "after load", "CPU-s/100k", "to 10 hosts", "noisy rounds"];
    report.table("hosts", "Virtual hosts with one shared backend", &columns, &rows);
}

/// A server and a certificate for each of many hosts: start, memory, and the cost of a full handshake with a request.
pub(crate) async fn certificates(options: &Options, site: &Site, report: &mut Report) {
    let mut rows = Vec::new();
    let mut first = None;
    for certificates in [10, 1_000, 10_000] {
        let setup = Setup { certificates, ..Setup::default() };
        let proxy = Proxy::start(Kind::Tidegate, site, &setup).await;
        let memory = proxy.memory();
        let tool = Tool::Handshakes { resume: false, hosts: certificates };
        tool.run(&proxy, Duration::from_secs(2)).await;
        let mut figures = Vec::new();
        for _ in 0..options.rounds.min(3) {
            let noise = Noise::begin(&proxy.pids(site));
            let mut measured = tool.run(&proxy, Duration::from_secs(options.seconds)).await;
            measured.noisy = noise.end();
            figures.push(measured);
        }
        let (median, ..) = middle(&figures);
        let cost = *first.get_or_insert(median.cpu);
        rows.push(vec![
            certificates.to_string(),
            format!("{:.2}", proxy.start.as_secs_f64()),
            mib(memory),
            mib(proxy.memory()),
            format!("{:.2}", median.cpu),
            format!("{:+.0} %", (median.cpu / cost - 1.0) * 100.0),
            format!("{:.0}", median.rate),
            figures.iter().filter(|figures| figures.noisy).count().to_string(),
        ]);
    }
    let columns = [
        "certificates",
        "start s",
        "RSS MiB",
        "after load",
        "CPU-s/100k handshakes",
        "to 10",
        "handshakes/s",
        "noisy rounds",
    ];
    report.table("certificates", "HTTPS servers with a certificate each (tidegate)", &columns, &rows);
}

pub(crate) async fn endpoints(options: &Options, site: &Site, report: &mut Report) {
    let mut rows = Vec::new();
    for kind in &options.proxies {
        for endpoints in [1, 1_000] {
            let proxy = Proxy::start(*kind, site, &Setup { endpoints, ..Setup::default() }).await;
            let memory = proxy.memory();
            let (cpu, noisy) = measure(options, site, &proxy).await;
            rows.push(vec![
                kind.name().to_owned(),
                endpoints.to_string(),
                format!("{:.2}", proxy.start.as_secs_f64()),
                mib(memory),
                mib(proxy.memory()),
                format!("{cpu:.2}"),
                noisy.to_string(),
            ]);
        }
    }
    let columns = ["proxy", "endpoints", "start s", "RSS MiB", "after load", "CPU-s/100k", "noisy rounds"];
    report.table("endpoints", "Endpoints of one cluster, least requests", &columns, &rows);
}

/// Median CPU of the plain load, and how many rounds were noisy.
async fn measure(options: &Options, site: &Site, proxy: &Proxy) -> (f64, usize) {
    // nginx and HAProxy serve in a child of the process that was started.
    let tool = Tool::Wrk { tls: false, path: "/", connections: 64 };
    let mut figures = Vec::new();
    tool.run(proxy, Duration::from_secs(1)).await;
    for _ in 0..options.rounds.min(3) {
        let noise = Noise::begin(&proxy.pids(site));
        let mut measured = tool.run(proxy, Duration::from_secs(options.seconds)).await;
        measured.noisy = noise.end();
        figures.push(measured);
    }
    (middle(&figures).0.cpu, figures.iter().filter(|figures| figures.noisy).count())
}

/// From a changed file to the first request that sees it, beside 5,000 routes.
pub(crate) async fn route_change(options: &Options, site: &Site, report: &mut Report) {
    let changes = if options.rounds < 3 { 5 } else { 30 };
    let mut rows = Vec::new();
    for kind in &options.proxies {
        let setup = Setup { hosts: 5_000, ..Setup::default() };
        let proxy = Proxy::start(*kind, site, &setup).await;
        let (mut times, mut lost) = (Vec::new(), 0);
        let before = proxy.cpu_of_all();
        for version in 1..=changes {
            proxy.change(site, version);
            let begin = Instant::now();
            let expected = format!("v{version}");
            // A new connection each time: old workers of nginx and HAProxy serve theirs to the end.
            let served = loop {
                let answer = client::try_get(proxy.plain, HOST, "/version").await;
                if answer.is_ok_and(|answer| answer.text().trim() == expected) {
                    break true;
                }
                if begin.elapsed() > Duration::from_secs(5) {
                    break false;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            };
            lost += usize::from(!served);
            times.push(begin.elapsed());
            if *kind != Kind::Tidegate {
                proxy.pids(site).into_iter().for_each(|pid| pin(pid, if pid == site.pid() { "1" } else { "0" }));
            }
        }
        let cpu = (proxy.cpu_of_all() - before).as_secs_f64() * 1e3 / changes as f64;
        times.sort();
        rows.push(vec![
            kind.name().to_owned(),
            format!("{:.0}", times[times.len() / 2].as_secs_f64() * 1e3),
            format!("{:.0}", times[(times.len() * 99 / 100).min(times.len() - 1)].as_secs_f64() * 1e3),
            format!("{cpu:.0}"),
            format!("{lost} of {changes}"),
        ]);
    }
    let columns = ["proxy", "p50 ms", "p99 ms", "CPU ms per change", "not served within 5 s"];
    report.table("change", "One route changed beside 5,000 virtual hosts, to the first request on it", &columns, &rows);
}
