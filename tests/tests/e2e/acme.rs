//! Certificates from an ACME authority that really looks for the challenges: pebble.

use tidegate_tests::pebble::{NO_FAULTS, Pebble};
use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::tls::TlsOptions;
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, EchoBackend, client, yaml};

/// `AcmeCertificate istio-system/<name>` for one host.
fn certificate(name: &str, host: &str, challenge: &str, pebble: &Pebble) -> String {
    format!(
        "apiVersion: tidegate.io/v1alpha1\n\
         kind: AcmeCertificate\n\
         metadata: {{name: {name}, namespace: istio-system}}\n\
         spec:\n  \
           dnsNames: [{host}]\n  \
           server: {}\n  \
           challenge: {challenge}\n  \
           email: ops@example.com\n  \
           caCertificates: {}\n\
         ---\n",
        pebble.directory,
        pebble.roots.display(),
    )
}

#[tokio::test]
async fn certificates_are_ordered_served_and_survive_a_restart_without_the_authority() {
    let (http, tls) = (free_port(), free_port());
    let mut pebble = Pebble::start(http, tls, NO_FAULTS);
    let backend = EchoBackend::start("a").await;
    let folder = ConfigFolder::with(
        yaml::gateway_of(&[
            yaml::server(http, "http", "HTTP", &["*"], "{httpsRedirect: true}"),
            yaml::https(tls, "shop", &["shop.acme.test"], "shop"),
            yaml::https(tls, "web", &["web.acme.test"], "web"),
        ]) + &yaml::forward("all", "*.acme.test", "a.test")
            + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address])
            + &certificate("shop", "shop.acme.test", "HTTP-01", &pebble)
            + &certificate("web", "web.acme.test", "TLS-ALPN-01", &pebble),
    );
    let state = tempfile::tempdir().unwrap();
    let mut tidegate = Options::default().state(state.path()).start(&folder).await;
    let mut leaves = Vec::new();
    for host in ["shop.acme.test", "web.acme.test"] {
        let leaf = || async { TlsOptions::to(host).leaf(local(tls)).await.ok() };
        leaves.push(wait::until(&format!("a certificate for {host}"), PATIENCE, leaf).await);
        let answer = TlsOptions::to(host).get(local(tls), host, "/").await.unwrap();
        assert_eq!(answer.status, 200, "{host}");
    }
    assert_ne!(leaves[0], leaves[1]);
    // What is no open challenge is redirected as everything else is.
    let answer = client::get(local(http), "shop.acme.test", "/.well-known/acme-challenge/other").await;
    assert_eq!(answer.status, 301);

    pebble.stop();
    tidegate.kill().await;
    let tidegate = Options::default().state(state.path()).start(&folder).await;
    for (host, leaf) in ["shop.acme.test", "web.acme.test"].into_iter().zip(&leaves) {
        assert_eq!(TlsOptions::to(host).leaf(local(tls)).await.as_ref(), Ok(leaf), "{host}");
    }
    let sources = tidegate.admin("/secrets/sources").await.text();
    assert!(sources.contains("kubernetes://istio-system/shop") && sources.contains("issued"), "{sources}");
    assert!(!tidegate.log().contains("PRIVATE KEY"), "a key in the log");
}
