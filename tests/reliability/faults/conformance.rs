//! h2spec against the proxy's HTTP/2, over plaintext and TLS.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_tests::h2spec::{self, Accepted, Case, Outcome, Transport};
use tidegate_tests::sut::{Kind, Setup};
use tidegate_tests::{EchoBackend, yaml};

use super::{Rig, more, passed};
use crate::Run;
use crate::outcome::{Records, Verdict};

/// Failures of ours that are known. Peers have no such list.
const ACCEPTED: &str = include_str!("../h2spec-accepted.txt");

/// Every case of h2spec; one that fails and is not on the list of known failures is a failure.
pub(super) async fn h2spec(run: Run) -> Verdict {
    let Some(binary) = h2spec::binary() else {
        return Verdict::skipped("h2spec is not installed: `sh tests/setup.sh h2spec` installs it where Go is");
    };
    let accepted = match run.sut {
        Kind::Tidegate => Accepted::parse(ACCEPTED).expect("a list with reasons"),
        _ => Accepted::default(),
    };
    // Cases of requests that go wrong after their head race with a backend that answers heads: this one waits for the end.
    let backend = EchoBackend::start("whole").await;
    let documents = yaml::forward("any", "*", "whole.bench.test")
        + &yaml::service_entry("whole", "whole.bench.test", "HTTP", &[backend.address]);
    let rig = Rig::start(run.sut, Setup { documents, ..Setup::default() }).await;
    let (mut total, mut bad, mut new) = (0, 0, Vec::new());
    let mut transports = Vec::new();
    for transport in Transport::ALL {
        let address = if transport == Transport::Tls { rig.proxy.tls } else { rig.proxy.plain };
        if transport == Transport::H2c && !matches!(run.sut, Kind::Tidegate | Kind::Envoy) {
            transports.push((transport.name(), json!("takes HTTP/2 over TLS only, in this version")));
            continue;
        }
        let cases = h2spec::run(&binary, address, transport).await;
        total += cases.len();
        let failed = failures(&cases, transport, &accepted, &mut new);
        bad += failed.len();
        let passing = |case: &&Case| case.outcome == Outcome::Passed;
        let stale: Vec<_> = accepted
            .cases(transport)
            .filter(|known| cases.iter().filter(passing).any(|case| case.id == *known))
            .collect();
        let summary = json!({
            "cases": cases.len(),
            "passed": cases.iter().filter(passing).count(),
            "skipped": cases.iter().filter(|case| case.outcome == Outcome::Skipped).count(),
            "failures": failed,
            "accepted_but_pass": stale,
        });
        transports.push((transport.name(), summary));
    }
    let memory = rig.proxy.memory();
    let pass = new.is_empty();
    let fields = [("failed", json!(bad)), ("new_failures", json!(new))].into_iter().chain(transports);
    Verdict { more: more(fields), ..passed(total, Records::default(), Duration::ZERO, memory, pass) }
}

/// What failed, in the order of the sections. Those that nobody accepted go to `new`, too.
fn failures(cases: &[Case], transport: Transport, accepted: &Accepted, new: &mut Vec<String>) -> Vec<Value> {
    let mut list = Vec::new();
    for case in cases {
        let Outcome::Failed(why) = &case.outcome else { continue };
        let reason = accepted.reason(transport, &case.id);
        if reason.is_none() {
            new.push(format!("{} {}", transport.name(), case.id));
        }
        list.push(json!({"case": case.id, "title": case.title, "found": why, "accepted": reason}));
    }
    list
}
