//! From a written file to the first request that it decides.

use std::time::{Duration, Instant};

use tidegate_tests::process::{free_port, local};
use tidegate_tests::wait::PATIENCE;
use tidegate_tests::{Client, ConfigFolder, EchoBackend, Tidegate, yaml};

use crate::{alone, size};

fn answer(version: usize) -> String {
    yaml::virtual_service(
        "probe",
        "probe.test",
        &format!("- directResponse: {{status: 200, body: {{string: v{version}}}}}"),
    )
}

/// Writes versions one after the other and measures each until the first request that sees it; sorted.
async fn measure(tidegate: &Tidegate, folder: &ConfigFolder, port: u16, rounds: usize) -> Vec<Duration> {
    let mut client = Client::http1(local(port)).await.unwrap();
    let mut times = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(2));
    for version in 1..=rounds {
        let expected = format!("v{version}");
        folder.write("probe.yaml", answer(version));
        let begin = Instant::now();
        loop {
            let found = client.get("probe.test", "/").await.unwrap();
            assert_eq!(found.status, 200);
            if found.text() == expected {
                break;
            }
            assert!(begin.elapsed() < PATIENCE, "version {version} never serves\n{}", tidegate.log());
            // A request every two milliseconds: the cores are the gateway's.
            ticks.tick().await;
        }
        times.push(begin.elapsed());
    }
    times.sort();
    times
}

#[tokio::test]
async fn a_write_is_served_within_200_milliseconds() {
    let _alone = alone().await;
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let mut text = yaml::echo(port, backend.address);
    for number in 0..9 {
        text += &yaml::forward(&format!("v{number}"), &format!("v{number}.test"), "echo.test");
    }
    let folder = ConfigFolder::with(text);
    folder.write("probe.yaml", answer(0));
    let tidegate = Tidegate::start(&folder).await;
    let times = measure(&tidegate, &folder, port, size(100, 1000)).await;
    let p99 = times[times.len() * 99 / 100 - 1];
    eprintln!(
        "{} writes: p50 {:?}, p99 {p99:?}, max {:?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
    assert!(p99 <= Duration::from_millis(200), "p99 {p99:?}");
}
