//! What the field's own tools say of us.

use tidegate_tests::pki::{Authority, KeyType, Leaf, tls_secret};
use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::{ConfigFolder, EchoBackend, Tidegate, peers, yaml};

use super::NAMESPACE;

struct Rig {
    _tidegate: Tidegate,
    folder: ConfigFolder,
    port: u16,
    _backend: EchoBackend,
}

async fn rig() -> Rig {
    let port = free_port();
    let authority = Authority::new("ca");
    let backend = EchoBackend::start("a").await;
    let server = yaml::server(port, "a", "HTTPS", &["a.test"], "{mode: SIMPLE, credentialNames: [ecdsa, rsa]}");
    let folder = ConfigFolder::with(
        yaml::gateway_of(&[server])
            + &yaml::forward("a", "a.test", "a.test")
            + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address])
            + &tls_secret(NAMESPACE, "ecdsa", &authority.sign(Leaf::new(&["a.test"]).for_days(90)))
            + &tls_secret(NAMESPACE, "rsa", &authority.sign(Leaf::new(&["a.test"]).key(KeyType::Rsa).for_days(90))),
    );
    // Not configuration: its name has no ending that is read.
    folder.write("ca.pem", authority.pem());
    let tidegate = Options::default().start(&folder).await;
    Rig { _tidegate: tidegate, folder, port, _backend: backend }
}

#[tokio::test]
async fn curl_and_openssl_are_content() {
    let rig = rig().await;
    let ca = rig.folder.file("ca.pem").display().to_string();
    let (to, url) = (format!("a.test:{}:127.0.0.1", rig.port), format!("https://a.test:{}/", rig.port));
    for flag in ["--http1.1", "--http2"] {
        let args = [
            "-sS",
            flag,
            "--noproxy",
            "*",
            "--cacert",
            &ca,
            "--resolve",
            &to,
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{http_version}",
            &url,
        ];
        let expected = if flag == "--http2" { "200 2" } else { "200 1.1" };
        assert_eq!(peers::run("curl", &args).await, expected);
    }
    let address = local(rig.port).to_string();
    let shown = peers::run(
        "openssl",
        &[
            "s_client",
            "-connect",
            &address,
            "-servername",
            "a.test",
            "-CAfile",
            &ca,
            "-verify_return_error",
            "-alpn",
            "h2",
        ],
    )
    .await;
    assert!(shown.contains("Verify return code: 0 (ok)"), "{shown}");
    assert!(shown.contains("ALPN protocol: h2"), "{shown}");
    assert!(!shown.contains("Early data was accepted"), "{shown}");
}

/// Mozilla's intermediate profile. The certificate itself is the test's own and not judged here.
#[tokio::test]
async fn sslyze_finds_mozillas_intermediate_profile_kept() {
    let rig = rig().await;
    let target = format!("a.test:{}{{127.0.0.1}}", rig.port);
    let report = peers::python_module("sslyze", &["--mozilla_config=intermediate", &target]).await;
    let verdict = report.lines().skip_while(|line| !line.contains("COMPLIANCE AGAINST")).collect::<Vec<_>>().join("\n");
    let wrong: Vec<&str> = verdict
        .lines()
        .filter(|line| line.trim_start().starts_with('*'))
        .filter(|line| {
            !line.contains("certificate_path_validation") && !line.contains("certificate_hostname_validation")
        })
        .collect();
    assert!(verdict.contains("a.test") && wrong.is_empty(), "{wrong:#?}\n{verdict}");
}

/// `make soak` only: testssl.sh takes minutes.
#[tokio::test]
async fn testssl_finds_nothing_above_low() {
    if std::env::var_os("TIDEGATE_SOAK").is_none() {
        eprintln!("testssl.sh takes minutes: `make soak` runs it");
        return;
    }
    let rig = rig().await;
    let out = rig.folder.file("testssl.out").display().to_string();
    let args = [
        "--quiet",
        "--color",
        "0",
        "--warnings",
        "off",
        "--ip",
        "127.0.0.1",
        "--add-ca",
        "ca.pem",
        "--jsonfile",
        &out,
        "--severity",
        "LOW",
    ];
    let ca = rig.folder.file("ca.pem").display().to_string();
    let args: Vec<&str> = args.iter().map(|arg| if *arg == "ca.pem" { ca.as_str() } else { arg }).collect();
    let url = format!("a.test:{}", rig.port);
    let _ = peers::run_long("testssl", &[&args[..], &[&url]].concat()).await;
    let found: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    // Things about the test's own certificate: nobody publishes it, and there is no revocation.
    let own = ["cert_", "DNS_", "OCSP", "CAA", "scanTime", "HSTS", "overall_grade", "security_headers", "banner"];
    let wrong: Vec<String> = found
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| ["MEDIUM", "HIGH", "CRITICAL", "FATAL"].iter().any(|level| finding["severity"] == *level))
        .filter(|finding| !own.iter().any(|own| finding["id"].as_str().unwrap_or_default().starts_with(own)))
        .map(ToString::to_string)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
