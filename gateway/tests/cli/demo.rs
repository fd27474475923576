//! `tidegate demo` as a newcomer meets it: start, look, edit, end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{free_port, run, tidegate};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running demo; killed when dropped.
struct Demo {
    child: Child,
    port: u16,
    admin: String,
    banner: String,
    folder: tempfile::TempDir,
}

impl Demo {
    fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    fn start_in(folder: tempfile::TempDir) -> Self {
        let port = free_port();
        let mut child = tidegate()
            .args(["demo", "--port", &port.to_string(), "--dir"])
            .arg(folder.path())
            .args(["--admin-address", "0", "--stats-address", "0", "--health-address", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut banner = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        while !banner.contains("Ctrl-C") {
            assert_ne!(stdout.read_line(&mut banner).unwrap(), 0, "the demo ended after:\n{banner}");
        }
        let admin = banner.lines().find_map(|line| line.trim().strip_prefix("admin")).unwrap();
        let admin = admin.trim().trim_start_matches("http://").split('/').next().unwrap().to_owned();
        Self { child, port, admin, banner, folder }
    }

    /// Status and body of a GET, `headers` as `name: value` lines.
    fn get(&self, path: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\n{headers}\r\n", self.port)
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("no status in {answer:?}")), answer)
    }

    fn replace(&self, file: &str, from: &str, to: &str) {
        let path = self.folder.path().join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the demo does not end");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until `condition` holds.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_newcomer_sees_traffic_move() {
    let mut demo = Demo::start();
    for expected in ["/productpage", "curl ", "end-user: jason", "explain GET", "virtual-service.yaml"] {
        assert!(demo.banner.contains(expected), "{expected} is missing in\n{}", demo.banner);
    }

    let (status, page) = demo.get("/productpage", "");
    assert_eq!(status, 200, "{page}");
    assert!(page.contains("Jules Verne") && page.contains("reviews-v"), "{page}");
    assert_eq!(demo.get("/", "").0, 302);
    assert_eq!(demo.get("/static/page.css", "").0, 200);
    assert_eq!(demo.get("/nowhere", "").0, 404);

    // jason is on version 2, by header or by cookie, and only he.
    for headers in ["end-user: jason\r\n", "Cookie: demo-user=jason\r\n"] {
        let (_, page) = demo.get("/productpage", headers);
        assert!(page.contains("reviews-v2") && page.contains("black stars"), "{page}");
    }
    for _ in 0..20 {
        let (status, reviews) = demo.get("/reviews/0", "");
        assert_eq!(status, 200);
        assert!(!reviews.contains("reviews-v2"), "{reviews}");
    }
    let (status, answer) = demo.get("/productpage?user=jason", "");
    assert_eq!(status, 303);
    assert!(answer.to_ascii_lowercase().contains("set-cookie: demo-user=jason;"), "{answer}");

    // The page says where this gateway is to be asked: its admin port is not the usual one.
    let (_, page) = demo.get("/productpage", "");
    assert!(page.contains(&format!(" --admin {}", demo.admin)), "{page}");

    // The running gateway explains what the curl of the banner does.
    let url = format!("http://localhost:{}/reviews/0", demo.port);
    let explained = run(["explain", "GET", &url, "-H", "end-user: jason", "--admin", &demo.admin]);
    assert_eq!(explained.code, Some(0), "{explained:?}");
    assert!(explained.stdout.contains("✓ reviews-for-jason"), "{}", explained.stdout);
    assert!(explained.stdout.contains("outbound|9080|v2|reviews.default.svc.cluster.local"), "{}", explained.stdout);
    assert!(explained.stdout.contains("virtual-service.yaml:"), "{}", explained.stdout);

    // Files that are explained before they serve say the same, to the last character.
    let folder = demo.folder.path().display().to_string();
    let labelled = run(["explain", &url, "--admin", &demo.admin, "--labels", "istio=team-b"]);
    assert!(labelled.stderr.contains("--labels counts with --config only"), "{}", labelled.stderr);
    let as_json = |place: [&str; 2]| {
        run(["explain", &url, "-H", "end-user: jason", "-o", "json"].iter().copied().chain(place)).stdout
    };
    let running = as_json(["--admin", &demo.admin]);
    assert!(running.contains("reviews-for-jason"), "{running}");
    assert_eq!(as_json(["--config", &folder]), running);

    // An edit moves traffic; a broken one does not.
    demo.replace("virtual-service.yaml", "subset: v1", "subset: v3");
    until("everybody is on version 3", || (0..10).all(|_| demo.get("/reviews/0", "").1.contains("reviews-v3")));
    demo.replace("virtual-service.yaml", "weight: 90", "weigth: 90");
    let configuration = demo.folder.path().display().to_string();
    assert_eq!(run(["validate", "-f", &configuration]).code, Some(79));
    for _ in 0..20 {
        assert_eq!(demo.get("/reviews/0", "").0, 200);
    }
    let mut told = String::new();
    until("explain tells that an earlier form is served", || {
        told = run(["explain", &url, "--admin", &demo.admin]).stderr;
        told.contains("earlier form") && told.contains("did you mean `weight`?")
    });

    assert_eq!(demo.terminate(), Some(0));
}

#[test]
fn edits_survive_the_next_start() {
    let mut demo = Demo::start();
    demo.replace("virtual-service.yaml", "exact: jason", "exact: ann");
    assert_eq!(demo.terminate(), Some(0));
    let folder = std::mem::replace(&mut demo.folder, tempfile::tempdir().unwrap());

    let demo = Demo::start_in(folder);
    assert!(demo.banner.contains("kept as you edited them: virtual-service.yaml"), "{}", demo.banner);
    assert!(demo.get("/reviews/0", "end-user: ann\r\n").1.contains("reviews-v2"));
}

#[test]
fn a_gateway_that_the_user_edited_says_the_port() {
    let mut demo = Demo::start();
    assert_eq!(demo.terminate(), Some(0));
    let port = free_port();
    demo.replace("gateway.yaml", &format!("number: {}", demo.port), &format!("number: {port}"));
    let folder = std::mem::replace(&mut demo.folder, tempfile::tempdir().unwrap());

    let mut demo = Demo::start_in(folder);
    assert!(demo.banner.contains(&format!("http://localhost:{port}/productpage")), "{}", demo.banner);
    demo.port = port;
    let (status, page) = demo.get("/productpage", "");
    assert_eq!(status, 200);
    assert!(page.contains("reviews-v"), "{page}");
}

#[test]
fn a_port_in_use_is_told_with_the_way_out() {
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let run = run(["demo", "--port", &port.to_string(), "--dir", &folder.path().display().to_string()]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains(&port.to_string()) && run.stderr.contains("--port "), "{}", run.stderr);
    assert!(!Path::new(&folder.path().join("gateway.yaml")).exists());
}

#[test]
fn a_folder_in_use_is_told_with_the_way_out() {
    let demo = Demo::start();
    let folder = demo.folder.path().display().to_string();
    let run = run(["demo", "--port", &free_port().to_string(), "--dir", &folder]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains(&folder) && run.stderr.contains("--dir "), "{}", run.stderr);
    assert_eq!(demo.get("/reviews/0", "").0, 200);
}

#[test]
fn what_the_demo_writes_is_valid() {
    let mut demo = Demo::start();
    let folder = demo.folder.path().display().to_string();
    let run = run(["validate", "-x", "-f", &folder]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(!run.stdout.contains("warnings"), "{}", run.stdout);
    demo.terminate();
}

#[test]
fn https_has_a_certificate_that_the_banner_names() {
    let demo = Demo::start();
    let line = demo.banner.lines().find(|line| line.contains("--cacert")).unwrap_or_else(|| panic!("{}", demo.banner));
    let words: Vec<&str> = line.split_whitespace().collect();
    let after = |word: &str| words.iter().position(|w| *w == word).map(|at| words[at + 1]).unwrap();
    let certificate = fs::read_to_string(after("--cacert")).unwrap();
    assert!(
        certificate.starts_with("-----BEGIN CERTIFICATE-----") && !certificate.contains("PRIVATE"),
        "{certificate}"
    );
    let certs = run(["certs", "--admin", &demo.admin]);
    assert_eq!(certs.code, Some(0), "{certs:?}");
    assert!(certs.stdout.contains("kubernetes://istio-system/localhost") && certs.stdout.contains(" ok"), "{certs:?}");
    let explained = run(["explain", after(after("--cacert")), "--admin", &demo.admin]);
    assert_eq!(explained.code, Some(0), "{explained:?}");
}
