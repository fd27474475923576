//! The faults, by the names and targets of the reliability catalogue.

mod certificates;
mod clients;
mod configuration;
mod conformance;
mod endpoints;
mod names;
mod panics;
mod process;
mod slowhttptest;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde_json::{Map, Value};
use tidegate_tests::sut::{HOST, Kind, Proxy, Setup, Site};

use crate::Run;
use crate::outcome::{Records, Verdict};
use crate::probe::{Probe, Speaks, Target, body};

pub(crate) struct Fault {
    pub(crate) name: &'static str,
    /// Of the catalogue.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) suts: &'static [Kind],
    /// Why `rel ci` leaves it out.
    pub(crate) kept_from_ci: Option<&'static str>,
    pub(crate) run: fn(Run) -> Pin<Box<dyn Future<Output = Verdict>>>,
}

const ALL: &[Kind] = &Kind::ALL;
const OURS: &[Kind] = &[Kind::Tidegate];

pub(crate) const FAULTS: &[Fault] = &[
    Fault {
        name: "reload",
        id: "R1",
        title: "configuration changes under load",
        suts: ALL,
        kept_from_ci: None,
        run: |run| Box::pin(configuration::reload(run)),
    },
    Fault {
        name: "converge",
        id: "R2",
        title: "time from a change to the first request on it",
        suts: ALL,
        kept_from_ci: None,
        run: |run| Box::pin(configuration::converge(run)),
    },
    Fault {
        name: "certs",
        id: "R3",
        title: "a new certificate each second",
        suts: OURS,
        kept_from_ci: None,
        run: |run| Box::pin(certificates::rotation(run)),
    },
    Fault {
        name: "kill9",
        id: "R6",
        title: "kill -9 and restart, during a change",
        suts: ALL,
        kept_from_ci: None,
        run: |run| Box::pin(process::kill9(run)),
    },
    Fault {
        name: "badconfig",
        id: "R8",
        title: "configurations that are wrong in many ways",
        suts: OURS,
        kept_from_ci: None,
        run: |run| Box::pin(configuration::bad(run)),
    },
    Fault {
        name: "slow",
        id: "R9",
        title: "clients that send a byte now and then",
        suts: ALL,
        kept_from_ci: None,
        run: |run| Box::pin(clients::slow(run)),
    },
    Fault {
        name: "idle",
        id: "R10",
        title: "idle connections",
        suts: ALL,
        kept_from_ci: None,
        run: |run| Box::pin(clients::idle(run)),
    },
    Fault {
        name: "churn",
        id: "R12",
        title: "endpoints that come and go",
        suts: OURS,
        kept_from_ci: None,
        run: |run| Box::pin(endpoints::churn(run)),
    },
    Fault {
        name: "dns",
        id: "R13",
        title: "name servers that fail, lie and say nothing",
        suts: OURS,
        kept_from_ci: None,
        run: |run| Box::pin(names::dns(run)),
    },
    Fault {
        name: "flap",
        id: "R18",
        title: "one of three backends refuses, resets and answers 503",
        suts: OURS,
        kept_from_ci: Some("needs outlier detection, which is not enforced yet"),
        run: |run| Box::pin(endpoints::flap(run)),
    },
    Fault {
        name: "rlimit",
        id: "R21",
        title: "no file descriptors left",
        suts: ALL,
        kept_from_ci: None,
        run: |run| Box::pin(process::rlimit(run)),
    },
    Fault {
        name: "panic",
        id: "R26",
        title: "bugs in requests and in reloads",
        suts: OURS,
        kept_from_ci: None,
        run: |run| Box::pin(panics::panic(run)),
    },
    Fault {
        name: "h2spec",
        id: "h2spec",
        title: "conformance of HTTP/2, h2c and TLS",
        suts: ALL,
        kept_from_ci: None,
        run: |run| Box::pin(conformance::h2spec(run)),
    },
];

/// Body of the site's backend.
const BODY: &str =
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";

/// `GET /` of the one backend.
fn plain(proxy: &Proxy, speaks: Speaks, rate: u32) -> Target {
    let address = if speaks == Speaks::NewTls { proxy.tls } else { proxy.plain };
    Target { address, host: HOST, path: "/", speaks, rate, judge: body(BODY) }
}

/// The 99th percentile of the same load while nothing happens.
async fn idle_p99(targets: Vec<Target>, run: Run) -> Duration {
    let probe = Probe::start(targets);
    tokio::time::sleep(Duration::from_secs(if run.is_quick() { 2 } else { 15 })).await;
    let records = probe.finish().await;
    assert_eq!(
        records.failed(),
        0,
        "failures before there is a fault: {:?}",
        records.0.iter().find(|r| r.outcome != crate::outcome::Outcome::Ok)
    );
    records.p99()
}

fn more(fields: impl IntoIterator<Item = (&'static str, Value)>) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A proxy and what stands behind it.
struct Rig {
    site: Site,
    proxy: Proxy,
}

impl Rig {
    async fn start(kind: Kind, setup: Setup) -> Self {
        Self::start_with(kind, |_| setup).await
    }

    /// With a setup that names the backend's port.
    async fn start_with(kind: Kind, setup: impl FnOnce(u16) -> Setup) -> Self {
        let site = Site::start().await;
        let setup = setup(site.backend);
        let proxy = Proxy::start(kind, &site, &setup).await;
        Self { site, proxy }
    }
}

fn passed(n: usize, records: Records, p99_idle: Duration, memory: u64, pass: bool) -> Verdict {
    Verdict { n, records, p99_idle, memory, pass, skipped: None, more: Map::new() }
}
