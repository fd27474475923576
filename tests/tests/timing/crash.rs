//! kill -9 at any moment, then a restart.

use std::path::Path;
use std::time::{Duration, Instant};

use tidegate_tests::process::{free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, EchoBackend, Options, client, yaml};

use crate::{alone, size};

fn version(number: usize) -> String {
    yaml::virtual_service(
        "probe",
        "probe.test",
        &format!("- directResponse: {{status: 200, body: {{string: v{number}}}}}"),
    )
}

/// What is kept for a restart, as text.
fn kept(folder: &Path) -> String {
    let files = ["last-good.state", "last-good.changes"];
    let bytes = files.map(|name| std::fs::read(folder.join(name)).unwrap_or_default()).concat();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn after_kill_9_the_same_hash_serves_within_a_second() {
    let _alone = alone().await;
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let state = tempfile::tempdir().unwrap();
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    folder.write("probe.yaml", version(0));
    let start = || Options::default().state(state.path()).spawn(&["--config".into(), folder.path().into()]);
    let mut tidegate = start();
    tidegate.ready().await;
    let mut slowest = Duration::ZERO;
    for round in 1..=size(16, 100) {
        // An accepted version, then a kill at some moment of the next one's journey.
        let (old, new) = (round * 2, round * 2 + 1);
        let accepted = tidegate.apply(&folder, "probe.yaml", version(old)).await;
        // Every other time the folder is broken at the restart, and what was kept serves.
        let damaged = round % 2 == 0;
        if damaged {
            // A burst of reloads is written once in 200 ms.
            wait::until("the accepted version to be on disk", Duration::from_secs(1), || async {
                kept(state.path()).contains(&format!("v{old}")).then_some(())
            })
            .await;
        }
        folder.write("probe.yaml", version(new));
        let moment = Duration::from_micros(u64::try_from(round).unwrap() * 7919 % 90_000);
        let _ = tokio::time::timeout(moment, std::future::pending::<()>()).await;
        tidegate.kill().await;
        if damaged {
            folder.write("gateway.yaml", "kind: [");
            folder.write("probe.yaml", "kind: [");
        }
        let begin = Instant::now();
        tidegate = start();
        tidegate.ready().await;
        let took = begin.elapsed();
        slowest = slowest.max(took);
        assert!(took < Duration::from_secs(1), "ready after {took:?}\n{}", tidegate.log());
        let hash = tidegate.hash().await;
        let found = client::get(local(port), "probe.test", "/").await.text();
        if found == format!("v{old}") {
            assert_eq!(hash, accepted, "round {round}");
        } else {
            assert_eq!(found, format!("v{new}"), "round {round}, damaged folder: {damaged}\n{}", tidegate.log());
        }
        if damaged {
            folder.write("gateway.yaml", yaml::echo(port, backend.address));
        }
        // However it came back, the newest text is what it ends up with.
        folder.write("probe.yaml", version(new));
        wait::until("the newest version", PATIENCE, || async {
            (client::get(local(port), "probe.test", "/").await.text() == format!("v{new}")).then_some(())
        })
        .await;
    }
    eprintln!("slowest restart {slowest:?}");
}
