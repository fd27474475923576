//! Files and surroundings that nobody would write on purpose, or only on purpose: the process serves on and says what
//! is wrong.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tidegate_tests::process::{free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, EchoBackend, Options, Tidegate, client, yaml};

struct Rig {
    tidegate: Tidegate,
    folder: ConfigFolder,
    port: u16,
    _backend: EchoBackend,
}

impl Rig {
    async fn start() -> Self {
        let (port, backend) = (free_port(), EchoBackend::start("a").await);
        let folder = ConfigFolder::with(yaml::echo(port, backend.address));
        Self { tidegate: Tidegate::start(&folder).await, folder, port, _backend: backend }
    }

    /// Makes `name` in the folder with `make`; requires that the old configuration serves meanwhile and that a later
    /// change still arrives within `patience`.
    async fn serves_on(&mut self, name: &str, patience: Duration, make: impl FnOnce(&Path)) {
        make(&self.folder.file(name));
        let marker = yaml::virtual_service(
            "marker",
            "marker.test",
            &format!("- directResponse: {{status: 200, body: {{string: 'after {name}'}}}}"),
        );
        self.folder.write("marker.yaml", marker);
        let begin = Instant::now();
        wait::until(&format!("a change after {name}\n{}", tail(&self.tidegate.log())), patience, || async {
            assert_eq!(client::get(local(self.port), "echo.test", "/").await.status, 200, "while {name} is read");
            (client::get(local(self.port), "marker.test", "/").await.text() == format!("after {name}")).then_some(())
        })
        .await;
        eprintln!(
            "{name}: a later change is served after {:?}, memory {:?} KiB",
            begin.elapsed(),
            self.tidegate.memory()
        );
        assert!(self.tidegate.is_running());
    }

    fn remove(&self, name: &str) {
        let path = self.folder.file(name);
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
    }

    /// [`Rig::serves_on`], and requires that the log names the file. Gives what it says about it.
    async fn check(&mut self, name: &str, patience: Duration, make: impl FnOnce(&Path)) -> String {
        self.serves_on(name, patience, make).await;
        self.tidegate.log_line(name).await;
        let about: Vec<String> =
            self.tidegate.log().lines().filter(|line| line.contains(name)).map(str::to_owned).collect();
        self.remove(name);
        about.join("\n")
    }
}

fn accepted(status: &serde_json::Value, kind: &str) -> u64 {
    let mut counts = status["objects"].as_array().unwrap().iter();
    counts.find(|count| count["kind"] == kind).map_or(0, |count| count["accepted"].as_u64().unwrap())
}

fn tail(text: &str) -> &str {
    let mut at = text.len().saturating_sub(2000);
    while !text.is_char_boundary(at) {
        at += 1;
    }
    &text[at..]
}

fn says(log: &str, words: &[&str]) {
    let lower = log.to_lowercase();
    assert!(words.iter().any(|word| lower.contains(word)), "none of {words:?} in: {}", &log[..log.len().min(2000)]);
    assert!(log.len() < 20_000, "{} bytes of log", log.len());
}

#[tokio::test]
async fn files_that_are_too_big_or_no_text() {
    let mut rig = Rig::start().await;
    let log = rig.check("gibibyte.yaml", PATIENCE, |path| File::create(path).unwrap().set_len(1 << 30).unwrap()).await;
    says(&log, &["at most", "limit"]);
    let log = rig
        .check("binary.yaml", PATIENCE, |path| fs::write(path, [0, 159, 146, 150, 255].repeat(50_000)).unwrap())
        .await;
    says(&log, &["utf-8", "text", "binary"]);
    let utf16: Vec<u8> = "\u{feff}kind: Gateway\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let log = rig.check("utf16.yaml", PATIENCE, |path| fs::write(path, utf16).unwrap()).await;
    says(&log, &["utf-8", "text", "binary"]);
    let big =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: big}}\ndata:\n  blob: {}\n", "x".repeat(50 << 20));
    let log = rig.check("configmap50.yaml", PATIENCE, |path| fs::write(path, big).unwrap()).await;
    says(&log, &["at most", "limit"]);
    assert!(rig.tidegate.memory().1 < 400 * 1024, "peak memory {:?} KiB", rig.tidegate.memory());
}

#[tokio::test]
async fn yaml_that_explodes() {
    let mut rig = Rig::start().await;
    let mut bomb = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..10 {
        let references = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb += &format!("a{level}: &a{level} [{references}]\n");
    }
    let log = rig.check("laughs.yaml", PATIENCE, |path| fs::write(path, &bomb).unwrap()).await;
    says(&log, &["alias", "anchor", "limit", "expan"]);
    let deep = format!("kind: {}x{}\n", "[".repeat(200_000), "]".repeat(200_000));
    let log = rig.check("deep.yaml", PATIENCE, |path| fs::write(path, deep).unwrap()).await;
    says(&log, &["deep", "nest", "depth", "limit"]);
    let block: String = (0..3000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    let log = rig.check("steps.yaml", PATIENCE, |path| fs::write(path, block).unwrap()).await;
    says(&log, &["deep", "nest", "depth", "limit"]);
    assert!(rig.tidegate.memory().1 < 400 * 1024, "peak memory {:?} KiB", rig.tidegate.memory());
}

#[tokio::test]
async fn a_hundred_thousand_documents() {
    let mut rig = Rig::start().await;
    for (name, document) in [
        ("nothing.yaml", "---\n"),
        ("maps.yaml", "kind: ConfigMap\napiVersion: v1\nmetadata: {name: cNUMBER}\n---\n"),
        ("unknown.yaml", "kind: KindNUMBER\napiVersion: v1\nmetadata: {name: cNUMBER}\n---\n"),
        ("wrong.yaml", "kind: Service\napiVersion: v1\nmetadata: {name: cNUMBER}\nspec: {port: []}\n---\n"),
        ("garbage.yaml", "}NUMBER\n---\n"),
    ] {
        let many: String = (0..100_000).map(|number| document.replace("NUMBER", &number.to_string())).collect();
        let begin = Instant::now();
        rig.serves_on(name, PATIENCE * 3, |path| fs::write(path, many).unwrap()).await;
        let status = rig.tidegate.status().await;
        let applied = accepted(&status, "ConfigMap") == 100_000;
        let status = status.to_string();
        let log = rig.tidegate.log();
        let about = log.lines().filter(|line| line.contains(name)).count();
        eprintln!(
            "{name}: {:?}, {about} lines about it, {} bytes of status, {} bytes of log, memory {:?} KiB",
            begin.elapsed(),
            status.len(),
            log.len(),
            rig.tidegate.memory()
        );
        // Documents that are fine are served without a word; others are told of, and not a hundred thousand times.
        assert!(about > 0 || applied || name == "nothing.yaml", "{name} is neither served nor reported");
        assert!(log.len() < 1_000_000, "{} bytes of log", log.len());
        assert!(status.len() < 10_000_000, "{} bytes of status", status.len());
        rig.remove(name);
    }
    assert!(rig.tidegate.memory().1 < 1024 * 1024, "peak memory {:?} KiB", rig.tidegate.memory());
}

#[tokio::test]
async fn patterns_that_explode() {
    let mut rig = Rig::start().await;
    for (name, pattern) in [
        ("repeat.yaml", "(a{1000}){1000}".to_owned()),
        ("nested.yaml", "((((((((((x{20}){20}){20}){20}){20}){20}){20}){20}){20}){20})".to_owned()),
        ("long.yaml", "(a|b)".repeat(1000)),
        ("classes.yaml", "\\\\pL{900}".to_owned()),
        ("invalid.yaml", "(unclosed".to_owned()),
    ] {
        let text = yaml::virtual_service(
            "bomb",
            "bomb.test",
            &format!("- match: [{{uri: {{regex: \"{pattern}\"}}}}]\n  route: [{{destination: {{host: echo.test}}}}]"),
        );
        let log = rig.check(name, PATIENCE, |path| fs::write(path, text).unwrap()).await;
        says(&log, &["regex", "regular expression", "pattern"]);
        assert_eq!(client::get(local(rig.port), "bomb.test", "/").await.status, 404, "{name} serves");
    }
    // Linear time: a pattern that backtracks for years elsewhere.
    let text = yaml::virtual_service(
        "evil",
        "evil.test",
        "- match: [{uri: {regex: '/(a+)+$'}}]\n  route: [{destination: {host: echo.test}}]",
    );
    rig.tidegate.apply(&rig.folder, "evil.yaml", text).await;
    let begin = Instant::now();
    let target = format!("/{}b", "a".repeat(8000));
    assert_eq!(client::get(local(rig.port), "evil.test", &target).await.status, 404);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn things_in_the_folder_that_are_no_files() {
    let mut rig = Rig::start().await;
    rig.check("pipe.yaml", PATIENCE, |path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success()))
        .await;
    rig.check("dangling.yaml", PATIENCE, |path| symlink("nowhere", path).unwrap()).await;
    rig.check("itself.yaml", PATIENCE, |path| symlink("itself.yaml", path).unwrap()).await;
    let up = rig.folder.file("loop");
    symlink(".", &up).unwrap();
    fs::create_dir(rig.folder.file("folder.yaml")).unwrap();
    let text = yaml::virtual_service("last", "last.test", "- directResponse: {status: 204}");
    rig.tidegate.apply(&rig.folder, "last.yaml", text).await;
    assert!(!rig.tidegate.log().contains("TG0002"), "the loop is read again and again: {}", tail(&rig.tidegate.log()));
}

#[tokio::test]
async fn a_port_in_use_costs_only_that_listener_and_is_retried() {
    let (tidegate, port, folder) = {
        let rig = Rig::start().await;
        (rig.tidegate, rig.port, (rig.folder, rig._backend))
    };
    let busy = free_port();
    let occupant = TcpListener::bind(("0.0.0.0", busy)).unwrap();
    let occupant6 = TcpListener::bind(("::", busy)).ok();
    let text = yaml::gateway("second", busy) + &yaml::forward("s", "s.test", "echo.test").replace("[edge]", "[second]");
    tidegate.apply(&folder.0, "second.yaml", text).await;
    let line = tidegate.log_line("second.yaml:").await;
    assert!(line.contains("in use") && line.contains(&busy.to_string()), "{line}");
    assert_eq!(client::get(local(port), "echo.test", "/").await.status, 200);
    drop((occupant, occupant6));
    wait::until("the listener to be bound after all", PATIENCE * 2, || async {
        client::try_get(local(busy), "s.test", "/").await.is_ok_and(|answer| answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_admin_port_in_use_is_told_at_once() {
    let folder = ConfigFolder::with(yaml::gateway("edge", free_port()));
    let occupant = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupant.local_addr().unwrap().to_string();
    let output = Command::new(tidegate_tests::process::binary())
        .args(["run", "--config"])
        .arg(folder.path())
        .args(["--state-dir", "none", "--admin-address", &address])
        .args(["--stats-address", "127.0.0.1:0", "--health-address", "127.0.0.1:0"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains(&address) && error.contains("in use"), "{error}");
}

#[tokio::test]
async fn logs_and_state_that_cannot_be_written_stop_nothing() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    let pipe = folder.file("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // A full disk, a pipe that nobody reads, a folder, and a place below a file.
    for log in [Path::new("/dev/full"), &pipe, folder.path(), Path::new("/dev/null/access.log")] {
        let options = Options::default().arg("--access-log").arg(log).state(Path::new("/dev/null/state"));
        let mut tidegate = options.start(&folder).await;
        for _ in 0..300 {
            assert_eq!(client::get(local(port), "echo.test", "/").await.status, 200, "{}", log.display());
        }
        // A pipe may find its reader yet: until then lines wait, and are counted when they no longer fit.
        let told = if log == pipe { "/dev/null/state" } else { log.to_str().unwrap() };
        for needle in [told, "/dev/null/state"] {
            wait::until(&format!("a word about {needle}"), PATIENCE, || async {
                let told = tidegate.log() + &tidegate.admin("/config/status").await.text();
                told.contains(needle).then_some(())
            })
            .await;
        }
        tidegate.signal("TERM").await;
        tidegate.exited().await;
    }
}
