//! What survives a restart.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use tidegate_tests::process::{free_port, local};
use tidegate_tests::{ConfigFolder, EchoBackend, Options, client, yaml};

/// Reading as root knows no permissions.
fn is_root() -> bool {
    std::fs::read_dir("/proc/1/fd").is_ok()
}

#[tokio::test]
async fn the_last_accepted_configuration_is_served_when_the_folder_is_broken_or_gone() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let state = tempfile::tempdir().unwrap();
    let outer = ConfigFolder::new();
    let inner = outer.file("config");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("gateway.yaml"), yaml::echo(port, backend.address)).unwrap();
    let start = || Options::default().state(state.path()).spawn(&["--config".into(), inner.clone().into()]);
    let permit = |mode| std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(mode)).unwrap();

    let mut tidegate = start();
    tidegate.ready().await;
    let hash = tidegate.hash().await;
    tidegate.signal("TERM").await;
    assert!(tidegate.exited().await.success(), "{}", tidegate.log());
    drop(tidegate);

    for name in ["broken", "binary", "unreadable", "gone"] {
        match name {
            "broken" => std::fs::write(inner.join("gateway.yaml"), "kind: [").unwrap(),
            "binary" => std::fs::write(inner.join("gateway.yaml"), [0u8, 159, 146, 150].repeat(1000)).unwrap(),
            "unreadable" if is_root() => eprintln!("running as root: nothing is unreadable"),
            "unreadable" => permit(0o000),
            _ => {
                permit(0o755);
                std::fs::remove_dir_all(&inner).unwrap();
            }
        }
        let begin = Instant::now();
        let mut tidegate = start();
        tidegate.ready().await;
        let took = begin.elapsed();
        assert_eq!(tidegate.hash().await, hash, "{name}:\n{}", tidegate.log());
        assert_eq!(client::get(local(port), "echo.test", "/").await.header("x-backend"), "a", "{name}");
        assert!(took < Duration::from_secs(2), "{name}: {took:?}");
        let status = tidegate.status().await;
        assert!(status["serving_last_good"].is_string(), "{name}: nobody says so: {status}");
        tidegate.kill().await;
    }
}

#[tokio::test]
async fn the_same_folder_gives_the_same_hash_everywhere() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let one = ConfigFolder::with(yaml::echo(port, backend.address));
    let mut first = Options::default().start(&one).await;
    let hash = first.hash().await;
    first.kill().await;
    // The same objects in other files, in another order.
    let two = ConfigFolder::new();
    let text = yaml::echo(port, backend.address);
    for (number, document) in text.split("---\n").filter(|document| !document.is_empty()).enumerate() {
        two.write(&format!("{}.yaml", 9 - number), document);
    }
    let second = Options::default().without_state().start(&two).await;
    assert_eq!(second.hash().await, hash);
}

#[tokio::test]
async fn a_damaged_state_file_is_reported_and_not_loaded() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let state = tempfile::tempdir().unwrap();
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    let mut tidegate = Options::default().state(state.path()).start(&folder).await;
    let hash = tidegate.hash().await;
    tidegate.signal("TERM").await;
    tidegate.exited().await;
    let mut files = 0;
    for file in std::fs::read_dir(state.path()).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 0x20;
            }
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o077,
                0,
                "{} is private",
                path.display()
            );
            files += 1;
        }
    }
    assert!(files > 0, "nothing was kept in {}", state.path().display());
    let tidegate = Options::default().state(state.path()).start(&folder).await;
    assert_eq!(tidegate.hash().await, hash, "the folder is good");
    assert!(tidegate.log().contains("state"), "{}", tidegate.log());
}

#[tokio::test]
async fn without_any_configuration_it_is_not_ready_and_becomes_so() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let outer = ConfigFolder::new();
    let inner = outer.file("later");
    let mut tidegate = Options::default().spawn(&["--config".into(), inner.clone().into()]);
    tidegate.log_line("later").await;
    assert!(tidegate.is_running(), "{}", tidegate.log());
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("gateway.yaml"), yaml::echo(port, backend.address)).unwrap();
    tidegate.ready().await;
    tidegate_tests::wait::until("the first request", tidegate_tests::wait::PATIENCE, || async {
        client::try_get(local(port), "echo.test", "/").await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
}
