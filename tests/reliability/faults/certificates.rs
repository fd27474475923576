//! R3: certificates that change under new connections.

use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_tests::pki::{Authority, Leaf, tls_secret};
use tidegate_tests::sut::{HOST, Setup};
use tidegate_tests::tls::TlsOptions;

use super::{Rig, idle_p99, more, passed, plain};
use crate::Run;
use crate::outcome::Verdict;
use crate::probe::{Probe, Speaks};

pub(super) async fn rotation(run: Run) -> Verdict {
    let rounds = run.size(5, 300);
    let rig = Rig::start(run.sut, Setup::default()).await;
    let targets = vec![plain(&rig.proxy, Speaks::NewTls, 60), plain(&rig.proxy, Speaks::Http1, 100)];
    let p99_idle = idle_p99(targets.clone(), run).await;
    let authority = Authority::new("rotation");
    let file = rig.proxy.folder.path().join("config/gateway.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let (rest, _) = text.split_once("apiVersion: v1\nkind: Secret").unwrap();
    let secret = rig.proxy.folder.path().join("config/secret.yaml");
    let write = |path: &std::path::Path, text: &str| {
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, path).unwrap();
    };
    let probe = Probe::start(targets);
    let (mut slowest, mut unseen) = (Duration::ZERO, 0);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    for round in 0..rounds {
        ticks.tick().await;
        let pair = authority.sign(Leaf::new(&[HOST]).for_days(30));
        write(&secret, &tls_secret("istio-system", "bench", &pair));
        if round == 0 {
            write(&file, rest);
        }
        let written = Instant::now();
        while TlsOptions::to(HOST).leaf(rig.proxy.tls).await.ok().as_ref() != Some(&pair.der) {
            if written.elapsed() > Duration::from_secs(5) {
                unseen += 1;
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        slowest = slowest.max(written.elapsed());
    }
    let records = probe.finish().await;
    let pass = records.failed() == 0 && unseen == 0 && slowest <= run.target(Duration::from_secs(1));
    let fields = [("unseen", json!(unseen)), ("slowest_to_be_seen_ms", json!(slowest.as_millis() as u64))];
    let memory = rig.proxy.memory();
    Verdict { more: more(fields), ..passed(rounds, records, p99_idle, memory, pass) }
}
