//! R26: a bug in one request, or in one reload, costs that and nothing else.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use tidegate_tests::process::{binary, free_port, local, target};
use tidegate_tests::sut::{HOST, Setup};
use tidegate_tests::wait::{PATIENCE, until};
use tidegate_tests::{BOTH, Client, client, yaml};

use super::configuration::serves;
use super::endpoints::replace;
use super::{Rig, idle_p99, more, passed, plain};
use crate::Run;
use crate::outcome::Verdict;
use crate::probe::{Probe, Speaks};

/// What the log says of each panic.
const TOLD: &str = "a thread panicked";

async fn counted(rig: &Rig) -> u64 {
    let Some(admin) = rig.proxy.admin else { return 0 };
    let Ok(metrics) = client::try_get(admin, "localhost", "/stats/prometheus").await else { return 0 };
    let line = metrics.text().lines().find_map(|line| line.strip_prefix("tidegate_panics_total ").map(str::to_owned));
    line.and_then(|count| count.parse().ok()).unwrap_or_default()
}

/// R26: requests to one backend panic in a worker, over HTTP/1.1 and HTTP/2, and so does each reload that adds one port.
/// No other request may notice, not even one on the same HTTP/2 connection; each panic is counted, and told once
/// without what the client sent.
///
/// Panics can be injected into debug builds only: where `--binary` is none, the one of this checkout runs.
pub(super) async fn panic(run: Run) -> Verdict {
    let is_debug = |file: &PathBuf| file.parent().is_some_and(|folder| folder.ends_with("debug"));
    let binary = Some(binary()).filter(is_debug).unwrap_or_else(|| target().join("debug/tidegate"));
    if !binary.is_file() {
        return Verdict::skipped("only debug builds have panics to inject: `cargo build -p tidegate` makes one");
    }
    let (number, reloads) = (run.size(20, 2_000), run.size(3, 30));
    let (bad, port) = (local(free_port()), free_port());
    let documents =
        yaml::forward("bad", "bad.test", "bad.test") + &yaml::service_entry("bad", "bad.test", "HTTP", &[bad]);
    let injected = format!("TIDEGATE_INJECT_PANIC=request={bad},reload=0.0.0.0_{port}");
    let setup = Setup { documents, wrapper: vec!["env".into(), injected], binary: Some(binary), ..Setup::default() };
    let mut rig = Rig::start(run.sut, setup).await;
    let targets = vec![
        plain(&rig.proxy, Speaks::Http1, 200),
        plain(&rig.proxy, Speaks::Http2, 50),
        plain(&rig.proxy, Speaks::NewTls, 10),
    ];
    let p99_idle = idle_p99(targets.clone(), run).await;
    let probe = Probe::start(targets);
    let (mut answered, mut beside) = (0, 0);
    // Between other requests, not before them.
    let mut ticks = tokio::time::interval(Duration::from_millis(40));
    for at in 0..number {
        ticks.tick().await;
        let protocol = BOTH[at % 2];
        let mut client = Client::connect(protocol, rig.proxy.plain).await.unwrap();
        answered += usize::from(client.get("bad.test", "/secret-of-a-client").await.is_ok());
        if at % 2 == 1 {
            // HTTP/2: the connection's other streams are other requests.
            beside += usize::from(client.get(HOST, "/").await.is_err());
        }
    }
    let of_requests = counted(&rig).await;
    let mut stuck = 0;
    let broken = yaml::gateway("bad", port);
    for round in 1..=reloads {
        let before = counted(&rig).await;
        replace(&rig, "bad.yaml", &broken);
        until("a reload that panics", PATIENCE, || async { (counted(&rig).await > before).then_some(()) }).await;
        std::fs::remove_file(rig.proxy.folder.path().join("config/bad.yaml")).unwrap();
        rig.proxy.change(&rig.site, round);
        stuck += usize::from(serves(&rig, round, Duration::from_secs(20)).await.is_none());
    }
    let of_reloads = counted(&rig).await - of_requests;
    let records = probe.finish().await;
    let log = std::fs::read_to_string(rig.proxy.folder.path().join("err")).unwrap_or_default();
    let told = log.matches(TOLD).count();
    let leaked = log.contains("secret-of-a-client") || log.contains(&format!("injected for {bad}"));
    let clusters = client::get(rig.proxy.admin.unwrap(), "localhost", "/clusters").await.text();
    let of_bad = format!("{bad}::rq_active::");
    let active: Vec<_> = clusters.lines().filter_map(|line| line.split_once(&of_bad)).map(|(_, count)| count).collect();
    let is_quiet = active == ["0"];
    let alive = rig.proxy.is_running();
    let pass = alive
        && records.failed() == 0
        && answered == 0
        && beside == 0
        && stuck == 0
        && of_requests == number as u64
        && of_reloads >= reloads as u64
        && told as u64 == of_requests + of_reloads
        && !leaked
        && is_quiet;
    let fields = [
        ("build", json!("debug")),
        ("panics_of_requests", json!(of_requests)),
        ("panics_of_reloads", json!(of_reloads)),
        ("panics_told", json!(told)),
        ("client_bytes_in_log", json!(leaked)),
        ("streams_beside_lost", json!(beside)),
        ("reloads_stuck", json!(stuck)),
        ("counts_return_to_zero", json!(is_quiet)),
        ("alive", json!(alive)),
    ];
    let memory = rig.proxy.memory();
    Verdict { more: more(fields), ..passed(number + reloads, records, p99_idle, memory, pass) }
}
