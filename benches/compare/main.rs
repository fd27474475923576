//! Tidegate beside Envoy, HAProxy and nginx: `make compare`.
//!
//! Every proxy does what an edge does (access log to a file, metrics, a request id, x-forwarded-for) with one worker on
//! core 0; load generators, backend and this program are on core 1. Rounds are interleaved, so that a noisy minute hits
//! all alike; tables show medians. The figure to trust is CPU-seconds of the proxy for 100,000 requests.
//!
//! `cargo bench --bench compare -- [--quick] [--rounds N] [--out DIR] [case ...]`
#![expect(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "the tables are the output")]

mod features;
mod load;
mod report;
mod scale;

use std::path::PathBuf;
use std::time::Duration;

use self::load::{Figures, Tool};
use self::report::Report;
use tidegate_tests::machine::Noise;
use tidegate_tests::sut::{Kind, Proxy, Setup, Site};

/// What was asked for.
pub(crate) struct Options {
    rounds: usize,
    seconds: u64,
    out: PathBuf,
    cases: Vec<String>,
    proxies: Vec<Kind>,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self {
            rounds: 5,
            seconds: 4,
            out: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/compare"),
            cases: Vec::new(),
            proxies: Kind::ALL.to_vec(),
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
            match arg.as_str() {
                "--quick" => (options.rounds, options.seconds) = (2, 1),
                "--rounds" => options.rounds = value().parse().unwrap(),
                "--seconds" => options.seconds = value().parse().unwrap(),
                "--out" => options.out = value().into(),
                "--proxies" => {
                    options.proxies =
                        value().split(',').map(|name| Kind::parse(name).expect("a proxy's name")).collect();
                }
                "--bench" => {}
                case => options.cases.push(case.to_owned()),
            }
        }
        options
    }

    fn wants(&self, case: &str) -> bool {
        self.cases.is_empty()
            || self.cases.iter().any(|wanted| case == wanted || case.starts_with(&format!("{wanted}/")))
    }
}

/// One load on all proxies.
struct Case {
    name: &'static str,
    title: &'static str,
    tool: Tool,
}

const CASES: [Case; 11] = [
    Case { name: "h1", title: "HTTP/1.1, 100 B", tool: Tool::Wrk { tls: false, path: "/", connections: 64 } },
    Case { name: "h1-64k", title: "HTTP/1.1, 64 KiB", tool: Tool::Wrk { tls: false, path: "/64k", connections: 32 } },
    Case { name: "h1-rate", title: "HTTP/1.1, 100 B, 4,000/s open loop", tool: Tool::Rate { tls: false, rate: 4_000 } },
    Case {
        name: "tls",
        title: "HTTP/1.1 over TLS 1.3, 100 B",
        tool: Tool::Wrk { tls: true, path: "/", connections: 64 },
    },
    Case {
        name: "tls-64k",
        title: "HTTP/1.1 over TLS 1.3, 64 KiB",
        tool: Tool::Wrk { tls: true, path: "/64k", connections: 32 },
    },
    Case {
        name: "tls-rate",
        title: "HTTP/1.1 over TLS 1.3, 100 B, 4,000/s open loop",
        tool: Tool::Rate { tls: true, rate: 4_000 },
    },
    Case {
        name: "h2",
        title: "HTTP/2 over TLS 1.3, 100 B",
        tool: Tool::H2load { path: "/", clients: 16, streams: 16 },
    },
    Case {
        name: "h2-64k",
        title: "HTTP/2 over TLS 1.3, 64 KiB",
        tool: Tool::H2load { path: "/64k", clients: 8, streams: 8 },
    },
    Case {
        name: "handshake",
        title: "full TLS 1.3 handshake (P-256) and one request each",
        tool: Tool::Handshakes { resume: false, hosts: 1 },
    },
    Case {
        name: "resumed",
        title: "resumed TLS 1.3 handshake and one request each",
        tool: Tool::Handshakes { resume: true, hosts: 1 },
    },
    Case {
        name: "websocket",
        title: "WebSocket echo, 64 connections, 64 B messages",
        tool: Tool::WebSocket { connections: 64 },
    },
];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let options = Options::parse();
    tidegate_tests::tls::provider();
    std::fs::create_dir_all(&options.out).unwrap();
    let mut report = Report::begin(&options);
    let site = Site::start().await;
    if CASES.iter().any(|case| options.wants(case.name)) {
        loads(&options, &site, &mut report).await;
    }
    if options.wants("idle") {
        scale::idle(&options, &site, &mut report).await;
    }
    if options.wants("hosts") {
        scale::hosts(&options, &site, &mut report).await;
    }
    if options.wants("certificates") {
        scale::certificates(&options, &site, &mut report).await;
    }
    if options.wants("endpoints") {
        scale::endpoints(&options, &site, &mut report).await;
    }
    if options.wants("change") {
        scale::route_change(&options, &site, &mut report).await;
    }
    if options.wants("features") {
        features::run(&options, &site, &mut report).await;
    }
    report.finish();
}

async fn loads(options: &Options, site: &Site, report: &mut Report) {
    let mut proxies = Vec::new();
    for kind in &options.proxies {
        proxies.push(Proxy::start(*kind, site, &Setup::default()).await);
    }
    for case in CASES.iter().filter(|case| options.wants(case.name)) {
        let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); proxies.len()];
        for round in 0..=options.rounds {
            for (proxy, figures) in proxies.iter().zip(&mut figures) {
                let noise = Noise::begin(&proxy.pids(site));
                // The first round only warms.
                let seconds = if round == 0 { 1 } else { options.seconds };
                let mut measured = case.tool.run(proxy, Duration::from_secs(seconds)).await;
                measured.noisy = noise.end();
                if round > 0 {
                    figures.push(measured);
                }
            }
        }
        let rows = proxies.iter().map(Proxy::name).zip(figures).collect();
        report.load(case.name, case.title, rows);
    }
}
