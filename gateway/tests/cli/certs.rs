//! `tidegate certs` and `validate` on Secrets; and that no key is shown by anything.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use crate::common::{Run, free_port, run, tidegate};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A certificate and its key, PEM.
struct Pair {
    chain: String,
    key: String,
    key_der: Vec<u8>,
}

impl Pair {
    fn of(host: &str) -> Self {
        Self::made(CertificateParams::new([host.to_owned()]).unwrap())
    }

    fn expired(host: &str) -> Self {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        Self::made(params)
    }

    fn made(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let chain = params.self_signed(&key).unwrap().pem();
        Self { chain, key: key.serialize_pem(), key_der: key.serialize_der() }
    }
}

fn secret(name: &str, chain: &str, key: &str) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\nstringData:\n"
    );
    for (entry, pem) in [("tls.crt", chain), ("tls.key", key)] {
        let _ = writeln!(text, "  {entry}: |");
        for line in pem.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

/// HTTPS on a port for hosts with the credentials of each.
fn gateway(port: u16, servers: &[(&str, &str)]) -> String {
    let mut text = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: istio-system}\n\
                    spec:\n  selector: {istio: ingressgateway}\n  servers:\n"
        .to_owned();
    for (host, credential) in servers {
        let _ = write!(
            text,
            "  - port: {{number: {port}, name: {credential}, protocol: HTTPS}}\n    hosts: [{host}]\n    tls: {{mode: \
             SIMPLE, credentialName: {credential}}}\n"
        );
    }
    text
}

/// A running gateway; killed when dropped.
struct Gateway {
    child: Child,
    home: tempfile::TempDir,
    admin: String,
}

impl Gateway {
    /// Starts over `conf` with everything that it says kept in files.
    fn start(conf: &str, more: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("conf")).unwrap();
        fs::write(home.path().join("conf/all.yaml"), conf).unwrap();
        Self::start_in(home, more)
    }

    fn start_in(home: tempfile::TempDir, more: &[&str]) -> Self {
        let admin = format!("127.0.0.1:{}", free_port());
        // In a folder of its own: lines about changes beside the configuration are changes beside it otherwise.
        fs::create_dir(home.path().join("said")).unwrap();
        let file = |name: &str| fs::File::create(home.path().join("said").join(name)).unwrap();
        let child = tidegate()
            .args(["run", "--config", "conf", "--state-dir", "state", "--admin-address", &admin])
            .args(["--stats-address", "none", "--health-address", "none", "--drain-delay", "0"])
            .args(more)
            .current_dir(home.path())
            .stdin(Stdio::null())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .unwrap();
        let mut gateway = Self { child, home, admin };
        gateway
            .until("it is ready", |gateway| gateway.said("stderr").contains("ready: the first configuration serves"));
        gateway
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    fn said(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path("said").join(name)).unwrap()).into_owned()
    }

    /// The last lines of the log.
    fn last_words(&self) -> String {
        let log = self.said("stderr");
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !condition(self) {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("ended with {status} before {what}:\n{}", self.said("stderr"));
            }
            assert!(start.elapsed() < PATIENCE, "never came true: {what}\n{}", self.last_words());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything that a GET of the admin port answers, as bytes.
    fn get(&self, path: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    fn certs(&self, arguments: &[&str]) -> Run {
        run(["certs", "--admin", &self.admin].iter().chain(arguments))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The rows of a table, cells apart.
fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect()).collect()
}

#[test]
fn certs_show_what_serves_and_what_is_wrong() {
    let (a, b) = (Pair::of("a.com"), Pair::expired("b.com"));
    let port = free_port();
    let conf = gateway(port, &[("a.com", "a"), ("b.com", "b"), ("c.com", "c")])
        + &secret("a", &a.chain, &a.key)
        + &secret("b", &b.chain, &b.key);
    let mut gateway = Gateway::start(&conf, &[]);
    let all = gateway.certs(&[]);
    assert_eq!(all.code, Some(79), "{}", all.stdout);
    let rows = rows(&all.stdout);
    assert_eq!(
        rows[0],
        [
            "RESOURCE NAME",
            "TYPE",
            "STATUS",
            "VALID CERT",
            "SERIAL NUMBER",
            "NOT AFTER",
            "NOT BEFORE",
            "SOURCE",
            "HOSTS",
            "DAYS LEFT",
            "STATE"
        ]
    );
    assert_eq!(rows[1][..4], ["kubernetes://istio-system/a", "Cert Chain", "ACTIVE", "true"]);
    assert_eq!((rows[1][7], rows[1][8]), ("Kubernetes", "a.com"));
    assert_eq!(rows[2][2..4], ["ACTIVE", "false"]);
    assert!(rows[2][10].starts_with("expired"), "{rows:?}");
    assert_eq!(rows[3][..3], ["kubernetes://istio-system/c", "-", "WARMING"]);
    assert!(rows[3][10].starts_with("missing"), "{rows:?}");

    let explain = |host: &str| {
        let url = format!("https://{host}:{port}/");
        let explained = run(["explain", &url, "--admin", &gateway.admin]);
        assert_eq!(explained.code, Some(0), "{}", explained.stderr);
        explained.stdout
    };
    let [good, expired, missing] = ["a.com", "b.com", "c.com"].map(explain);
    assert!(!good.contains("handshake fails") && !good.contains("missing"), "{good}");
    assert!(!expired.contains("handshake fails") && expired.contains("expired"), "{expired}");
    assert!(missing.contains("(missing: no source has it)") && missing.contains("handshake fails"), "{missing}");

    let one = gateway.certs(&["a"]);
    assert_eq!((one.code, one.stdout.lines().count()), (Some(0), 2), "{}", one.stdout);
    let json: serde_json::Value =
        serde_json::from_str(&gateway.certs(&["istio-system/a", "-o", "json"]).stdout).unwrap();
    assert_eq!(json[0]["certificates"][0]["subject_alt_names"][0]["dns"], "a.com");
    assert_eq!(json[0]["standing"], if rows[1][10].starts_with("ok") { "ok" } else { "expires_soon" });
    assert_eq!(json[0]["days_left"].to_string(), rows[1][9]);
    let of_b: serde_json::Value = serde_json::from_str(&gateway.certs(&["b", "-o", "json"]).stdout).unwrap();
    assert_eq!((&of_b[0]["state"], &of_b[0]["standing"]), (&"ACTIVE".into(), &"expired".into()));
    assert!(gateway.certs(&["-o", "yaml"]).stdout.contains("name: kubernetes://istio-system/a"));
    let nobody = gateway.certs(&["nobody"]);
    assert_eq!((nobody.code, nobody.stdout.as_str()), (Some(1), ""));
    assert!(nobody.stderr.contains("no secret is called nobody"), "{}", nobody.stderr);

    // What comes is shown, and what mends everything ends the findings.
    let (b, c) = (Pair::of("b.com"), Pair::of("c.com"));
    fs::write(gateway.path("conf/c.yaml"), secret("c", &c.chain, &c.key)).unwrap();
    gateway.until("c is there", |gateway| gateway.certs(&["c"]).code == Some(0));
    let mended = self::gateway(port, &[("a.com", "a"), ("b.com", "b"), ("c.com", "c")])
        + &secret("a", &a.chain, &a.key)
        + &secret("b", &b.chain, &b.key);
    fs::write(gateway.path("conf/all.yaml"), mended).unwrap();
    gateway.until("all is well", |gateway| gateway.certs(&[]).code == Some(0));
}

#[test]
fn a_folder_of_pem_pairs_is_a_source() {
    let pair = Pair::of("a.com");
    let home = tempfile::tempdir().unwrap();
    for (name, text) in [("pairs/a.crt", &pair.chain), ("pairs/a.key", &pair.key)] {
        let path = home.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::create_dir(home.path().join("conf")).unwrap();
    fs::write(home.path().join("conf/all.yaml"), gateway(free_port(), &[("a.com", "a")])).unwrap();
    let gateway = Gateway::start_in(home, &["--secrets", "pairs"]);
    let certs = gateway.certs(&[]);
    assert_eq!(certs.code, Some(0), "{}", certs.stdout);
    let rows = rows(&certs.stdout);
    assert_eq!((rows[1][0], rows[1][7]), ("kubernetes://istio-system/a", "File"));
}

#[test]
fn one_gateway_takes_its_secrets_from_another_by_sds() {
    let pair = Pair::of("a.com");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sds.sock");
    let alias = ["--sds-alias", "web=kubernetes://istio-system/a"];
    let server = ["--sds-socket", socket.to_str().unwrap()];
    let mut issuer = Gateway::start(&secret("a", &pair.chain, &pair.key), &[server, alias].concat());
    let provider = format!("edge=unix://{}", socket.display());
    let conf =
        gateway(free_port(), &[("a.com", "web")]).replace("credentialName: web", "credentialName: 'sds://edge/web'");
    let mut taker = Gateway::start(&conf, &["--sds-provider", &provider]);
    taker.until("the secret comes", |taker| taker.certs(&[]).code == Some(0));
    let certs = taker.certs(&[]).stdout;
    assert_eq!((rows(&certs)[1][0], rows(&certs)[1][7]), ("sds://edge/web", "SDS"), "{certs}");
    // It rotates, and is taken.
    let serial = |gateway: &Gateway, name: &str| {
        let json: serde_json::Value = serde_json::from_str(&gateway.certs(&[name, "-o", "json"]).stdout).unwrap();
        json[0]["certificates"][0]["serial_number"].clone()
    };
    let next = Pair::of("a.com");
    fs::write(issuer.path("conf/all.yaml"), secret("a", &next.chain, &next.key)).unwrap();
    issuer.until("it rotates there", |issuer| issuer.certs(&["-o", "json"]).stdout.contains("\"version\": 2"));
    taker.until("it rotates here", |taker| serial(taker, "web") == serial(&issuer, "a"));
    let status = String::from_utf8(issuer.get("/secrets/sources")).unwrap();
    assert!(status.contains("\"acks\""), "{status}");
    // Without its server it serves on, and says so.
    drop(issuer);
    taker.until("the loss is told", |taker| {
        String::from_utf8_lossy(&taker.get("/config/status")).contains("the SDS server edge")
    });
    assert_eq!(taker.certs(&[]).code, Some(0));
}

#[test]
fn sds_over_tls_shows_a_secret_that_files_hold() {
    let (server, web) = (Pair::of("sds.test"), Pair::of("a.com"));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (name, text) in [("sds.crt", &server.chain), ("sds.key", &server.key)] {
        fs::write(path(name), text).unwrap();
    }
    fs::write(path("rules"), "# everybody who can connect\nany kubernetes://istio-system/a\n").unwrap();
    let port = free_port();
    let (address, certificate) =
        (format!("127.0.0.1:{port}"), format!("file-cert:{}~{}", path("sds.crt"), path("sds.key")));
    let issuer = Gateway::start(
        &secret("a", &web.chain, &web.key),
        &["--sds-address", &address, "--sds-certificate", &certificate, "--sds-authorization", &path("rules")],
    );
    assert_eq!(issuer.certs(&[&certificate]).code, Some(0));
    let provider = format!("edge=https://{address},ca={},server-name=sds.test", path("sds.crt"));
    let conf = gateway(free_port(), &[("a.com", "a")])
        .replace("credentialName: a", "credentialName: 'sds://edge/kubernetes://istio-system/a'");
    let mut taker = Gateway::start(&conf, &["--sds-provider", &provider]);
    taker.until("the secret comes", |taker| taker.certs(&[]).code == Some(0));
    let metrics = String::from_utf8(issuer.get("/stats/prometheus")).unwrap();
    assert!(metrics.contains("tidegate_sds_streams_active 1\n"), "{metrics}");
}

#[test]
fn what_the_sds_server_lacks_is_told() {
    let certificate = "kubernetes://istio-system/none";
    let mut gateway = Gateway::start(
        &secret("a", "", ""),
        &["--sds-address", &format!("127.0.0.1:{}", free_port()), "--sds-certificate", certificate],
    );
    gateway.until("it is told", |gateway| {
        let status = String::from_utf8_lossy(&gateway.get("/config/status")).into_owned();
        status.contains("no source has kubernetes://istio-system/none; SDS clients cannot connect to TCP")
    });
}

#[test]
fn a_secret_alone_is_no_new_configuration() {
    let pair = Pair::of("a.com");
    let mut gateway =
        Gateway::start(&(gateway(free_port(), &[("a.com", "a")]) + &secret("a", &pair.chain, &pair.key)), &[]);
    let status = |gateway: &Gateway| {
        let answer = String::from_utf8(gateway.get("/config/status")).unwrap();
        let body: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        (body["generation"].clone(), body["hash"].clone())
    };
    let before = status(&gateway);
    let other = Pair::of("a.com");
    fs::write(gateway.path("conf/all.yaml"), {
        let conf = fs::read_to_string(gateway.path("conf/all.yaml")).unwrap();
        conf.split("---").next().unwrap().to_owned() + &secret("a", &other.chain, &other.key)
    })
    .unwrap();
    gateway.until("the second version serves", |gateway| {
        String::from_utf8(gateway.get("/secrets")).unwrap().contains("\"version\": 2")
    });
    assert_eq!(status(&gateway), before);
}

#[test]
fn keys_are_in_no_output_whatever_is_asked() {
    // One that serves, one that is refused after it, and one that never served: with a key that does not fit, a key
    // where the certificate belongs, and certificate and key in one entry.
    let (good, other, swapped, both) = (Pair::of("a.com"), Pair::of("a.com"), Pair::of("b.com"), Pair::of("c.com"));
    let port = free_port();
    let conf = gateway(port, &[("a.com", "a"), ("b.com", "b"), ("c.com", "c"), ("d.com", "d")])
        + &secret("a", &good.chain, &good.key)
        + &secret("b", &swapped.key, &swapped.chain)
        + &secret("c", &format!("{}{}", both.chain, both.key), &both.key);
    let trace = "trace,rustls=trace,hyper=trace,h2=trace,tonic=trace,notify=trace";
    let socket = tempfile::tempdir().unwrap();
    let socket = socket.path().join("sds.sock");
    let mut gateway = Gateway::start(&conf, &["--log-level", trace, "--sds-socket", socket.to_str().unwrap()]);
    fs::write(gateway.path("conf/a.yaml"), secret("d", &good.chain, &good.key).replace("tls.key: |", "tls.key: > |"))
        .unwrap();
    fs::write(
        gateway.path("conf/all.yaml"),
        conf.replace(&secret("a", &good.chain, &good.key), &secret("a", &good.chain, &other.key)),
    )
    .unwrap();
    gateway.until("the refusal is shown", |gateway| {
        String::from_utf8_lossy(&gateway.get("/secrets")).contains("does not belong")
    });
    let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
    for page in [
        "/",
        "/help",
        "/certs",
        "/secrets",
        "/secrets/sources",
        "/clusters",
        "/clusters?format=json",
        "/listeners",
        "/config_dump",
        "/config_dump?include_eds",
        "/config_dump?resource=dynamic_active_secrets",
        "/config/status",
        "/server_info",
        "/stats",
        "/stats?format=json",
        "/stats/prometheus",
        "/memory",
        "/logging",
        "/explain?url=https://a.com/",
    ] {
        seen.push((page.into(), gateway.get(page)));
    }
    let output = |run: Run| [run.stdout, run.stderr].concat().into_bytes();
    for format in ["table", "json", "yaml"] {
        seen.push((format!("certs -o {format}"), output(gateway.certs(&["-o", format]))));
    }
    let conf = gateway.path("conf");
    let conf = conf.to_str().unwrap();
    for arguments in [
        &["validate", "-x", "-f", conf, "-o", "plain"][..],
        &["validate", "-x", "-f", conf, "-o", "pretty"],
        &["validate", "-x", "-f", conf, "-o", "json"],
        &["validate", "-f", conf, "-o", "table"],
        &["explain", "https://a.com/", "--admin", &gateway.admin],
        &["explain", "https://a.com/", "--config", conf],
        &["explain", "https://a.com/", "--config", conf, "-o", "json"],
    ] {
        seen.push((arguments.join(" "), output(run(arguments))));
    }
    let stop = std::process::Command::new("kill").args(["-TERM", &gateway.child.id().to_string()]).status().unwrap();
    assert!(stop.success());
    gateway.child.wait().unwrap();
    for file in ["stdout", "stderr"] {
        seen.push((file.into(), fs::read(gateway.path("said").join(file)).unwrap()));
    }
    files(&gateway.path("state"), &mut seen);
    assert!(seen.iter().any(|(name, _)| name.ends_with(".state")), "the state is looked at, too");

    for (who, pair) in [("good", &good), ("other", &other), ("swapped", &swapped), ("both", &both)] {
        let lines = pair.key.lines().filter(|line| !line.starts_with("-----")).map(|line| line.as_bytes().to_vec());
        // PKCS #8 of a P-256 key has the secret number in the middle; base64 may begin anywhere.
        let middle = pair.key_der[20..60].to_vec();
        let needles = lines.chain([pair.key_der.clone(), middle]);
        for needle in needles.filter(|needle| needle.len() >= 16) {
            for (name, bytes) in &seen {
                let found = bytes.windows(needle.len()).any(|window| window == needle);
                assert!(!found, "{name} shows a part of the key of {who}");
            }
        }
    }
}

fn files(folder: &Path, seen: &mut Vec<(String, Vec<u8>)>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            files(&path, seen);
        } else {
            seen.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
}

#[test]
fn validate_judges_the_secrets_of_a_folder() {
    let (a, other, expired) = (Pair::of("a.com"), Pair::of("a.com"), Pair::expired("a.com"));
    let check = |text: String, arguments: &[&str], code: i32, expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("all.yaml"), text).unwrap();
        let run = run(["validate", "-f", folder.path().to_str().unwrap()].iter().chain(arguments));
        assert_eq!(run.code, Some(code), "{expected}: {}{}", run.stdout, run.stderr);
        let said = run.stdout + &run.stderr;
        assert!(said.contains(expected), "{expected} is not in {said}");
    };
    check(secret("a", &a.chain, &a.key), &[], 0, "");
    check(secret("a", &a.chain, &other.key), &[], 79, "does not belong to the certificate");
    check(secret("a", "nothing of use", &a.key), &[], 79, "Secret");
    check(secret("a", &expired.chain, &expired.key), &[], 0, "expired");
    let with = |servers: &[(&str, &str)], secrets: String| gateway(8443, servers) + &secrets;
    check(with(&[("b.com", "a")], secret("a", &a.chain, &a.key)), &["-x"], 0, "b.com");
    check(
        with(&[("b.com", "b")], secret("a", &a.chain, &a.key)),
        &["-x"],
        0,
        "none of these files has kubernetes://istio-system/b",
    );
}

#[test]
fn validate_and_explain_look_into_folders_and_files_of_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let (a, other) = (Pair::of("a.com"), Pair::of("other.com"));
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    write("pairs/a.crt", &a.chain);
    write("pairs/a.key", &a.key);
    let (chain, key) = (write("f/chain.pem", &other.chain), write("f/key.pem", &other.key));
    let conf = write("all.yaml", &gateway(8443, &[("a.com", "a")]));
    let pairs = folder.path().join("pairs").display().to_string();
    let said = |arguments: &[&str]| {
        let run = run(arguments);
        assert_eq!(run.code, Some(0), "{arguments:?}: {}{}", run.stdout, run.stderr);
        run.stdout + &run.stderr
    };
    assert!(said(&["validate", "-x", "-f", &conf]).contains("--secrets DIR"), "where it may be is told");
    assert!(!said(&["validate", "-x", "-f", &conf, "--secrets", &pairs]).contains("a.com"));
    assert!(said(&["explain", "https://a.com:8443/", "--config", &conf]).contains("none of these files"));
    let explained = said(&["explain", "https://a.com:8443/", "--config", &conf, "--secrets", &pairs]);
    assert!(!explained.contains("none of these files") && !explained.contains("handshake fails"), "{explained}");
    // Files that a Gateway names.
    let files = |chain: &str, key: &str| {
        let tls = format!("serverCertificate: {chain}, privateKey: {key}");
        write("files.yaml", &gateway(8443, &[("a.com", "a")]).replace("credentialName: a", &tls))
    };
    assert!(said(&["validate", "-x", "-f", &files(&chain, &key)]).contains("is not for a.com"));
    assert!(said(&["validate", "-x", "-f", &files("/nowhere/chain.pem", &key)]).contains("this machine has no"));
}

#[test]
fn certs_without_a_gateway_says_what_to_do() {
    let run = run(["certs", "--admin", "127.0.0.1:1"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("127.0.0.1:1") && run.stderr.contains("help:"), "{}", run.stderr);
}
