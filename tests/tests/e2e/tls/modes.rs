//! Every mode of a server's `tls`, and TCP.

use tidegate_tests::pki::{Authority, KeyType, Leaf, secret, tls_secret};
use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::tls::{self, TlsOptions};
use tidegate_tests::tls_front::TlsFront;
use tidegate_tests::{ConfigFolder, EchoBackend, client, yaml};

use super::{NAMESPACE, secrets};

#[tokio::test]
async fn optional_client_certificates_are_verified_if_they_are_shown() {
    let port = free_port();
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let pair = servers.issue(&["a.test"]);
    let backend = EchoBackend::start("a").await;
    let server = yaml::server(port, "a", "HTTPS", &["a.test"], "{mode: OPTIONAL_MUTUAL, credentialName: a}");
    let text = yaml::gateway_of(&[server])
        + &yaml::forward("a", "a.test", "a.test")
        + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address])
        + &tls_secret(NAMESPACE, "a", &pair)
        + &secret(NAMESPACE, "a-cacert", &[("ca.crt", &clients.pem())]);
    let folder = ConfigFolder::with(text);
    let _tidegate = Options::default().start(&folder).await;
    let anonymous = TlsOptions::to("a.test").get(local(port), "a.test", "/").await.unwrap();
    assert_eq!((anonymous.status.as_u16(), anonymous.received("x-forwarded-client-cert")), (200, None));
    let known = TlsOptions::to("a.test").identity(&clients.issue(&["client.test", "spiffe://mesh/ns/x/sa/y"]));
    let answer = known.get(local(port), "a.test", "/").await.unwrap();
    let told = answer.received("x-forwarded-client-cert").unwrap_or_default();
    assert!(told.contains("URI=spiffe://mesh/ns/x/sa/y") && told.contains("DNS=client.test"), "{told}");
    let stranger = TlsOptions::to("a.test").identity(&servers.issue(&["client.test"]));
    assert!(stranger.get(local(port), "a.test", "/").await.is_err());
}

#[tokio::test]
async fn client_certificates_are_held_against_names_and_revocations() {
    let port = free_port();
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let pair = servers.issue(&["a.test"]);
    let backend = EchoBackend::start("a").await;
    let server = yaml::server(
        port,
        "a",
        "HTTPS",
        &["a.test"],
        "{mode: MUTUAL, credentialName: a, subjectAltNames: [good.test, 'spiffe://mesh/good']}",
    );
    let material = |revoked: &[u64]| {
        secret(
            NAMESPACE,
            "a",
            &[
                ("tls.crt", &pair.chain),
                ("tls.key", &pair.key),
                ("ca.crt", &clients.pem()),
                ("ca.crl", &clients.revoke(revoked)),
            ],
        )
    };
    let text = yaml::gateway_of(&[server])
        + &yaml::forward("a", "a.test", "a.test")
        + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address]);
    let folder = ConfigFolder::with(text);
    folder.write("secret.yaml", material(&[7]));
    let _tidegate = Options::default().start(&folder).await;
    let status = async |leaf: Leaf| {
        let options = TlsOptions::to("a.test").identity(&clients.sign(leaf));
        options.get(local(port), "a.test", "/").await.map(|answer| answer.status.as_u16())
    };
    assert_eq!(status(Leaf::new(&["good.test"])).await, Ok(200));
    assert_eq!(status(Leaf::new(&["x.test", "spiffe://mesh/good"])).await, Ok(200));
    assert!(status(Leaf::new(&["x.good.test"])).await.is_err(), "only exact names");
    assert!(status(Leaf::new(&["good.test"]).serial(7)).await.is_err(), "revoked");
    assert_eq!(status(Leaf::new(&["good.test"]).serial(8)).await, Ok(200));
    folder.write("secret.yaml", material(&[7, 8]));
    tidegate_tests::wait::until("the new revocation", tidegate_tests::wait::PATIENCE, || async {
        status(Leaf::new(&["good.test"]).serial(8)).await.is_err().then_some(())
    })
    .await;
}

#[tokio::test]
async fn passed_through_tls_shows_the_backends_certificate() {
    let port = free_port();
    let authority = Authority::new("backends");
    let echo = EchoBackend::start("echo").await;
    let (exact, wide) = (authority.issue(&["one.pass.test"]), authority.issue(&["*.pass.test"]));
    let exact = TlsFront::start(&exact, None, &["http/1.1"], echo.address).await;
    let wide = TlsFront::start(&wide, None, &["http/1.1"], echo.address).await;
    let route = |name: &str, host: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: ['{host}']\n  \
             gateways: [edge]\n  tls:\n  - match: [{{port: {port}, sniHosts: ['{host}']}}]\n    \
             route: [{{destination: {{host: {name}.backend.test, port: {{number: 80}}}}}}]\n---\n"
        )
    };
    let text = yaml::gateway_of(&[yaml::server(port, "tls", "TLS", &["*.pass.test"], "{mode: PASSTHROUGH}")])
        + &route("exact", "one.pass.test")
        + &route("wide", "*.pass.test")
        + &yaml::service_entry("exact", "exact.backend.test", "TLS", &[exact.address])
        + &yaml::service_entry("wide", "wide.backend.test", "TLS", &[wide.address]);
    let folder = ConfigFolder::with(text);
    let _tidegate = Options::default().start(&folder).await;
    for (name, front) in [("one.pass.test", &exact), ("two.pass.test", &wide), ("a.b.pass.test", &wide)] {
        let before = front.seen().len();
        let options =
            if name == "a.b.pass.test" { TlsOptions::to(name) } else { TlsOptions::to(name).trusting(&authority) };
        let answer = options.get(local(port), name, "/").await.unwrap();
        assert_eq!(answer.header("x-backend"), "echo");
        let seen = front.seen();
        assert_eq!(seen.len(), before + 1, "{name}");
        assert_eq!(seen[before].server_name.as_deref(), Some(name));
    }
    assert!(TlsOptions::to("pass.test").handshake(local(port)).await.is_err());
    assert!(TlsOptions::default().handshake(local(port)).await.is_err(), "no server name, no way");
}

#[tokio::test]
async fn terminated_tls_and_plain_tcp_go_to_tcp_routes_by_weight() {
    let (tls_port, tcp_port) = (free_port(), free_port());
    let authority = Authority::new("ca");
    let (a, b) = (EchoBackend::start("a").await, EchoBackend::start("b").await);
    let route = |name: &str, host: &str, port: u16, destinations: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec:\n  hosts: ['{host}']\n  \
             gateways: [edge]\n  tcp:\n  - match: [{{port: {port}}}]\n    route: [{destinations}]\n---\n"
        )
    };
    let to =
        |host: &str, weight: u32| format!("{{destination: {{host: {host}, port: {{number: 80}}}}, weight: {weight}}}");
    let text = yaml::gateway_of(&[
        yaml::server(tls_port, "tls", "TLS", &["db.test"], "{mode: SIMPLE, credentialName: db}"),
        yaml::server(tcp_port, "tcp", "TCP", &["*"], ""),
    ]) + &route("tls", "db.test", tls_port, &to("a.test", 100))
        + &route("tcp", "*", tcp_port, &format!("{}, {}", to("a.test", 50), to("b.test", 50)))
        + &yaml::service_entry("a", "a.test", "TCP", &[a.address])
        + &yaml::service_entry("b", "b.test", "TCP", &[b.address])
        + &secrets(&authority, &[("db", &["db.test"])]);
    let folder = ConfigFolder::with(text);
    let tidegate = Options::default().start(&folder).await;
    let options = TlsOptions::to("db.test").trusting(&authority);
    assert_eq!(options.get(local(tls_port), "whatever.test", "/").await.unwrap().header("x-backend"), "a");
    let mut counts = [0, 0];
    for _ in 0..60 {
        let answer = client::get(local(tcp_port), "whatever.test", "/").await;
        counts[usize::from(answer.header("x-backend") == "b")] += 1;
    }
    assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
    let metrics = tidegate.metrics().await;
    assert!(metrics.contains("istio_tcp_connections_opened_total{"), "{metrics}");
}

#[tokio::test]
async fn the_certificate_fits_what_the_client_can_verify() {
    let port = free_port();
    let authority = Authority::new("ca");
    let rsa = authority.sign(Leaf::new(&["a.test"]).key(KeyType::Rsa));
    let ecdsa = authority.sign(Leaf::new(&["a.test"]));
    let backend = EchoBackend::start("a").await;
    let server = yaml::server(port, "a", "HTTPS", &["a.test"], "{mode: SIMPLE, credentialNames: [rsa, ecdsa]}");
    let text = yaml::gateway_of(&[server])
        + &yaml::forward("a", "a.test", "a.test")
        + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address])
        + &tls_secret(NAMESPACE, "rsa", &rsa)
        + &tls_secret(NAMESPACE, "ecdsa", &ecdsa);
    let folder = ConfigFolder::with(text);
    let _tidegate = Options::default().start(&folder).await;
    use rustls::SignatureScheme as Scheme;
    let only_rsa = TlsOptions::to("a.test").schemes(&[Scheme::RSA_PSS_SHA256, Scheme::RSA_PKCS1_SHA256]);
    assert_eq!(only_rsa.leaf(local(port)).await.unwrap(), rsa.der);
    let only_ecdsa = TlsOptions::to("a.test").schemes(&[Scheme::ECDSA_NISTP256_SHA256]);
    assert_eq!(only_ecdsa.leaf(local(port)).await.unwrap(), ecdsa.der);
    for versions in [tls::TLS12, tls::TLS13] {
        let stream = TlsOptions::to("a.test").versions(versions).handshake(local(port)).await.unwrap();
        assert!(tls::leaf(&stream).is_some());
    }
}

#[tokio::test]
async fn versions_are_limited_by_the_server() {
    let port = free_port();
    let authority = Authority::new("ca");
    let server = |name: &str, field: &str| {
        let host = format!("{name}.test");
        yaml::server(port, name, "HTTPS", &[&host], &format!("{{mode: SIMPLE, credentialName: c, {field}}}"))
    };
    let text = yaml::gateway_of(&[
        server("new", "minProtocolVersion: TLSV1_3"),
        server("old", "maxProtocolVersion: TLSV1_2"),
        server("suite", "maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-CHACHA20-POLY1305]"),
    ]) + &secrets(&authority, &[("c", &["*.test"])]);
    let folder = ConfigFolder::with(text);
    let _tidegate = Options::default().start(&folder).await;
    let version = async |name: &str, versions| {
        let stream = TlsOptions::to(name).versions(versions).handshake(local(port)).await?;
        Ok::<_, String>(stream.get_ref().1.protocol_version().unwrap())
    };
    let (tls12, tls13) = (tls::TLS12, tls::TLS13);
    assert!(version("new.test", tls12).await.is_err());
    assert_eq!(version("new.test", tls13).await, Ok(rustls::ProtocolVersion::TLSv1_3));
    assert!(version("old.test", tls13).await.is_err());
    assert_eq!(version("old.test", tls12).await, Ok(rustls::ProtocolVersion::TLSv1_2));
    let stream = TlsOptions::to("suite.test").handshake(local(port)).await.unwrap();
    let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256);
}
