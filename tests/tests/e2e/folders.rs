//! Configuration that changes under a running gateway, well and badly.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;

use tidegate_tests::process::{free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, EchoBackend, Tidegate, client, yaml};

/// A gateway with `echo.test`, and what the tests change: `probe.yaml` with the host `probe.test`.
async fn start() -> (Tidegate, SocketAddr, ConfigFolder, EchoBackend) {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    folder.write("probe.yaml", probe("one"));
    (Tidegate::start(&folder).await, local(port), folder, backend)
}

fn probe(version: &str) -> String {
    yaml::virtual_service(
        "probe",
        "probe.test",
        &format!("- directResponse: {{status: 200, body: {{string: {version}}}}}"),
    )
}

/// Waits until `probe.test` answers with `version`.
async fn serves(address: SocketAddr, version: &str) {
    wait::until(&format!("probe.test to say {version}"), PATIENCE, || async {
        (client::get(address, "probe.test", "/").await.text() == version).then_some(())
    })
    .await;
}

#[tokio::test]
async fn every_way_of_writing_a_file_is_seen() {
    let (tidegate, address, folder, _backend) = start().await;
    serves(address, "one").await;
    folder.write("probe.yaml", probe("renamed"));
    serves(address, "renamed").await;
    folder.write_in_place("probe.yaml", probe("in-place"));
    serves(address, "in-place").await;
    std::fs::create_dir_all(folder.file("deep/er")).unwrap();
    std::fs::rename(folder.file("probe.yaml"), folder.file("deep/er/probe.yml")).unwrap();
    std::fs::write(folder.file("deep/er/probe.yml"), probe("moved")).unwrap();
    serves(address, "moved").await;
    std::fs::remove_dir_all(folder.file("deep")).unwrap();
    wait::until("the deleted object to be gone", PATIENCE, || async {
        (client::get(address, "probe.test", "/").await.status == 404).then_some(())
    })
    .await;
    folder.write("again.json", r#"{"apiVersion":"networking.istio.io/v1","kind":"VirtualService","metadata":{"name":"probe"},"spec":{"hosts":["probe.test"],"gateways":["edge"],"http":[{"directResponse":{"status":200,"body":{"string":"json"}}}]}}"#);
    serves(address, "json").await;
    for dropping in ["probe.yaml~", ".probe.yaml.swp", ".#probe.yaml", "4913", "notes.txt"] {
        folder.write_in_place(dropping, "not: [yaml");
    }
    let answer = tidegate.admin("/config/status").await;
    assert_eq!(answer.json()["diagnostics"].as_array().map(Vec::len), Some(0), "{}", answer.text());
}

#[tokio::test]
async fn a_kubernetes_volume_is_swapped_as_a_whole() {
    let port = free_port();
    let folder = ConfigFolder::new();
    let generation = |name: &str, version: &str| {
        let dir = folder.file(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("gateway.yaml"), yaml::gateway("edge", port)).unwrap();
        std::fs::write(dir.join("probe.yaml"), probe(version)).unwrap();
    };
    generation("..2026_01_01", "one");
    symlink("..2026_01_01", folder.file("..data")).unwrap();
    for name in ["gateway.yaml", "probe.yaml"] {
        symlink(format!("..data/{name}"), folder.file(name)).unwrap();
    }
    let tidegate = Tidegate::start(&folder).await;
    serves(local(port), "one").await;
    assert!(!tidegate.log().contains("TG0002"), "files are read twice:\n{}", tidegate.log());
    generation("..2026_01_02", "two");
    symlink("..2026_01_02", folder.file("..data_tmp")).unwrap();
    std::fs::rename(folder.file("..data_tmp"), folder.file("..data")).unwrap();
    std::fs::remove_dir_all(folder.file("..2026_01_01")).unwrap();
    serves(local(port), "two").await;
}

#[tokio::test]
async fn a_broken_file_takes_nothing_away_and_says_where_it_is_broken() {
    let (tidegate, address, folder, _backend) = start().await;
    serves(address, "one").await;
    let old = tidegate.hash().await;
    folder.write(
        "probe.yaml",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: probe\nspec: [\n",
    );
    let line = tidegate.log_line("TG0001").await;
    assert!(line.contains("probe.yaml:"), "{line}");
    serves(address, "one").await;
    assert_eq!(tidegate.hash().await, old);
    folder.write("probe.yaml", probe("mended"));
    serves(address, "mended").await;
}

#[tokio::test]
async fn a_rejected_object_keeps_its_last_good_form_and_others_move_on() {
    let (tidegate, address, folder, _backend) = start().await;
    serves(address, "one").await;
    // One file: the object `probe` with a typing error on line 10, and a new good object.
    let bad = probe("two").replace("directResponse", "directRespons")
        + &yaml::virtual_service("fresh", "fresh.test", "- directResponse: {status: 200, body: {string: fresh}}");
    folder.write("probe.yaml", &bad);
    wait::until("the good object beside it", PATIENCE, || async {
        (client::get(address, "fresh.test", "/").await.text() == "fresh").then_some(())
    })
    .await;
    serves(address, "one").await;
    let line = tidegate.log_line("directRespons").await;
    let at = bad.lines().position(|line| line.contains("directRespons:")).unwrap() + 1;
    assert!(line.contains(&format!("probe.yaml:{at}")), "line {at} is not in {line}");
    assert!(line.contains("directResponse"), "no did-you-mean in {line}");
    let status = tidegate.admin("/config/status").await.text();
    assert!(status.contains("TG0007") || status.contains("last_good"), "{status}");
    wait::until("a metric that tells of the failure", PATIENCE, || async {
        let metrics = tidegate.metrics().await;
        metrics.lines().any(|line| line == "tidegate_config_last_reload_successful 0").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_bad_object_at_the_start_costs_only_itself() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    folder.write(
        "bad.yaml",
        yaml::virtual_service("bad", "bad.test", "- route: [{destination: {host: a.test}, weight: -5}]"),
    );
    folder.write("unknown.yaml", "apiVersion: example.com/v1\nkind: Nonsense\nmetadata: {name: x}\n");
    folder.write("worse.yaml", "\t{{{");
    let tidegate = Tidegate::start(&folder).await;
    assert_eq!(client::get(local(port), "echo.test", "/").await.status, 200);
    assert_eq!(client::get(local(port), "bad.test", "/").await.status, 404);
    for needle in ["bad.yaml:", "worse.yaml:", "Nonsense"] {
        tidegate.log_line(needle).await;
    }
}

#[tokio::test]
async fn equal_content_publishes_nothing() {
    let (tidegate, address, folder, _backend) = start().await;
    serves(address, "one").await;
    let before = tidegate.status().await;
    // Another order of files, a comment, another layout: the same configuration.
    folder.write("z.yaml", probe("one").replace("---\n", "") + "# a comment\n");
    folder.remove("probe.yaml");
    folder.write("marker.yaml", yaml::virtual_service("marker", "marker.test", "- directResponse: {status: 201}"));
    wait::until("the marker", PATIENCE, || async {
        (client::get(address, "marker.test", "/").await.status == 201).then_some(())
    })
    .await;
    folder.remove("marker.yaml");
    wait::until("the first hash again", PATIENCE, || async {
        (tidegate.hash().await == before["hash"].as_str().unwrap_or_default()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_object_in_two_files_is_reported_with_both_places() {
    let (tidegate, address, folder, _backend) = start().await;
    serves(address, "one").await;
    folder.write("zz.yaml", probe("other"));
    let line = tidegate.log_line("TG0002").await;
    assert!(line.contains("zz.yaml:") && line.contains("probe.yaml:"), "{line}");
    serves(address, "one").await;
}

#[tokio::test]
async fn a_folder_that_vanishes_deletes_nothing_and_is_followed_when_it_is_back() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let outer = ConfigFolder::new();
    let inner = outer.file("inner");
    let fill = |version: &str| {
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("gateway.yaml"), yaml::echo(port, backend.address)).unwrap();
        std::fs::write(inner.join("probe.yaml"), probe(version)).unwrap();
    };
    fill("one");
    let mut tidegate = tidegate_tests::Options::default().spawn(&["--config".into(), inner.clone().into()]);
    tidegate.ready().await;
    serves(local(port), "one").await;
    std::fs::rename(&inner, outer.file("away")).unwrap();
    tidegate.log_line("inner").await;
    wait::until("a word about the lost folder", PATIENCE, || async {
        let status = tidegate.admin("/config/status").await.json();
        (!status["serving_last_good"].is_null()
            || status["diagnostics"].as_array().is_some_and(|list| !list.is_empty()))
        .then_some(())
    })
    .await;
    serves(local(port), "one").await;
    assert_eq!(client::get(local(port), "echo.test", "/").await.status, 200);
    fill("two");
    serves(local(port), "two").await;
}

#[tokio::test]
async fn listeners_come_and_go_without_touching_other_connections() {
    let (tidegate, address, folder, backend) = start().await;
    let mut kept = client::Client::http1(address).await.unwrap();
    let held =
        tokio::spawn(async move { client::send(address, "GET", "echo.test", "/", &[("x-echo-hold", "1")], "").await });
    wait::until("a request in flight", PATIENCE, || async { (backend.held() == 1).then_some(()) }).await;
    for _ in 0..5 {
        let extra = free_port();
        tidegate
            .apply(
                &folder,
                "extra.yaml",
                yaml::gateway("extra", extra) + &yaml::forward("x", "x.test", "echo.test").replace("[edge]", "[extra]"),
            )
            .await;
        assert_eq!(
            client::get(local(extra), "x.test", "/").await.status,
            200,
            "a new listener serves when the snapshot does"
        );
        assert_eq!(kept.get("echo.test", "/").await.unwrap().status, 200, "an old connection is kept");
        let old = tidegate.hash().await;
        folder.remove("extra.yaml");
        tidegate.hash_after(&old).await;
        wait::until("the listener to be gone", PATIENCE, || async {
            (!tidegate_tests::raw::accepts(local(extra)).await).then_some(())
        })
        .await;
        assert_eq!(kept.get("echo.test", "/").await.unwrap().status, 200, "an old connection is kept");
    }
    backend.release();
    assert_eq!(held.await.unwrap().status, 200);
}

#[tokio::test]
async fn folders_and_files_are_one_configuration_and_the_mesh_file_is_followed_too() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let (base, team) = (ConfigFolder::with(yaml::gateway("edge", port)), ConfigFolder::new());
    team.write("routes.yaml", yaml::forward("echo", "echo.test", "echo.test"));
    team.write("other.yaml", yaml::forward("other", "other.test", "echo.test"));
    base.write("nested.list", "not read: it is no YAML by its name");
    let services = ConfigFolder::with(yaml::service_entry("echo", "echo.test", "HTTP", &[backend.address]));
    let mesh = services.file("mesh.conf");
    std::fs::write(&mesh, "pathNormalization: {normalization: NONE}\n").unwrap();
    let source: Vec<std::ffi::OsString> = [base.path(), &team.file("routes.yaml"), services.path()]
        .iter()
        .flat_map(|path| ["--config".into(), path.into()])
        .collect();
    let mut tidegate = tidegate_tests::Options::default().mesh_config(&mesh).spawn(&source);
    tidegate.ready().await;
    let target = || async { client::get(local(port), "echo.test", "/a//b/../c").await.json()["target"].clone() };
    assert_eq!(target().await, "/a//b/../c");
    assert_eq!(client::get(local(port), "other.test", "/").await.status, 404, "only the file that was named is read");

    std::fs::write(&mesh, "pathNormalization: {normalization: MERGE_SLASHES}\n").unwrap();
    wait::until("merged slashes", PATIENCE, || async { (target().await == "/a/c").then_some(()) }).await;
    std::fs::write(&mesh, "pathNormalisation: {}\n").unwrap();
    let line = tidegate.log_line("pathNormalisation").await;
    assert!(line.contains("mesh.conf:1:1") && line.contains("pathNormalization"), "{line}");
    assert_eq!(target().await, "/a/c", "the last good form stays");
    team.write("routes.yaml", yaml::forward("echo", "echo.test", "echo.test") + &probe("watched"));
    serves(local(port), "watched").await;
}
