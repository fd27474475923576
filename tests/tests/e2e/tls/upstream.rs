//! TLS towards backends, as DestinationRules say.

use tidegate_tests::pki::{Authority, secret};
use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::tls_front::TlsFront;
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, EchoBackend, client, yaml};

use super::NAMESPACE;

fn rule(name: &str, host: &str, tls: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec:\n  host: {host}\n  \
         trafficPolicy: {{tls: {tls}}}\n---\n"
    )
}

#[tokio::test]
async fn backends_are_verified_as_the_rule_says() {
    let port = free_port();
    let (good, bad, clients) = (Authority::new("good"), Authority::new("bad"), Authority::new("clients"));
    let echo = EchoBackend::start("echo").await;
    let pair = good.issue(&["api.backend.test", "spiffe://mesh/api"]);
    let plain = TlsFront::start(&pair, None, &["http/1.1"], echo.address).await;
    let h2 = TlsFront::start(&pair, None, &["h2"], echo.address).await;
    let mutual = TlsFront::start(&pair, Some(&clients), &["http/1.1"], echo.address).await;
    let identity = clients.issue(&["gateway.test"]);
    let mut text = yaml::gateway("edge", port);
    let cases: [(&str, &TlsFront, &str, &str, u16); 9] = [
        ("simple", &plain, "HTTP", "{mode: SIMPLE, credentialName: good-ca, sni: api.backend.test}", 200),
        ("wrong-ca", &plain, "HTTP", "{mode: SIMPLE, credentialName: bad-ca, sni: api.backend.test}", 503),
        ("system", &plain, "HTTP", "{mode: SIMPLE, sni: api.backend.test}", 503),
        ("wrong-name", &plain, "HTTP", "{mode: SIMPLE, credentialName: good-ca, sni: other.test}", 503),
        (
            "san",
            &plain,
            "HTTP",
            "{mode: SIMPLE, credentialName: good-ca, sni: other.test, subjectAltNames: ['spiffe://mesh/api']}",
            200,
        ),
        (
            "wrong-san",
            &plain,
            "HTTP",
            "{mode: SIMPLE, credentialName: good-ca, sni: api.backend.test, subjectAltNames: [x.test]}",
            503,
        ),
        ("insecure", &plain, "HTTP", "{mode: SIMPLE, sni: other.test, insecureSkipVerify: true}", 200),
        ("h2", &h2, "HTTP2", "{mode: SIMPLE, credentialName: good-ca, sni: api.backend.test}", 200),
        ("mutual", &mutual, "HTTP", "{mode: MUTUAL, credentialName: client, sni: api.backend.test}", 200),
    ];
    for (name, front, protocol, tls, _) in &cases {
        let host = format!("{name}.test");
        text += &yaml::forward(name, &host, &host);
        text += &yaml::service_entry(name, &host, protocol, &[front.address]);
        text += &rule(name, &host, tls);
    }
    text += &secret(NAMESPACE, "good-ca", &[("ca.crt", &good.pem())]);
    text += &secret(NAMESPACE, "bad-ca", &[("ca.crt", &bad.pem())]);
    text += &secret(
        NAMESPACE,
        "client",
        &[("tls.crt", &identity.chain), ("tls.key", &identity.key), ("ca.crt", &good.pem())],
    );
    let folder = ConfigFolder::with(text);
    let tidegate = Options::default().arg("--access-log").arg("/dev/stdout").start(&folder).await;
    // Twice each and in turns: no pooled connection may serve another's trust.
    for _ in 0..2 {
        for (name, _, _, _, status) in &cases {
            let answer = client::get(local(port), &format!("{name}.test"), "/").await;
            assert_eq!(answer.status.as_u16(), *status, "{name}: {}\n{}", answer.text(), tidegate.log());
            if *status == 503 {
                assert!(answer.text().contains("TLS_error"), "{name}: {}", answer.text());
            }
        }
    }
    assert!(h2.seen().iter().all(|seen| seen.protocol.as_deref() == Some("h2")), "{:?}", h2.seen());
    assert!(mutual.seen().iter().all(|seen| seen.client.as_ref() == Some(&identity.der)));
    assert!(tidegate.stdout().contains(" URX,UF "), "{}", tidegate.stdout());

    // A new client certificate is shown on new connections.
    let next = clients.issue(&["gateway.test"]);
    let entries = [("tls.crt", next.chain.as_str()), ("tls.key", &next.key), ("ca.crt", &good.pem())];
    folder.write("next.yaml", "");
    let text = std::fs::read_to_string(folder.file("gateway.yaml")).unwrap();
    let (before, _) = text.split_once(&format!("metadata: {{name: client, namespace: {NAMESPACE}}}")).unwrap();
    let kept = before.rsplit_once("apiVersion: v1").unwrap().0.to_owned();
    folder.write("gateway.yaml", kept + &secret(NAMESPACE, "client", &entries));
    wait::until("the new client certificate", PATIENCE, || async {
        assert_eq!(client::get(local(port), "mutual.test", "/").await.status, 200);
        mutual.seen().iter().any(|seen| seen.client.as_ref() == Some(&next.der)).then_some(())
    })
    .await;
}
