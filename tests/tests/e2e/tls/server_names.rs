//! Which server serves a connection, and that its requests stay with that server.

use tidegate_tests::pki::{Authority, secret};
use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::tls::TlsOptions;
use tidegate_tests::{ConfigFolder, EchoBackend, yaml};

use super::{NAMESPACE, secrets};

/// The listeners of Gateway API's test of misdirected requests.
async fn rig(
    port: u16,
    backends: &[EchoBackend; 4],
    authority: &Authority,
) -> (tidegate_tests::Tidegate, ConfigFolder) {
    let hosts: [(&str, &str); 4] = [
        ("any", "*"),
        ("second", "second-example.org"),
        ("wildcard", "*.wildcard.org"),
        ("fourth", "fourth-example.wildcard.org"),
    ];
    let routed = ["example.org", "second-example.org", "*.wildcard.org", "fourth-example.wildcard.org"];
    // A Gateway each: a wildcard's VirtualService would bind to the narrower server of its own Gateway, too.
    let mut text = String::new();
    for (number, backend) in backends.iter().enumerate() {
        let (gateway, host) = hosts[number];
        let service = format!("s{number}.test");
        let server = yaml::https(port, gateway, &[host], "cert");
        text += &yaml::gateway_of(&[server]).replace("{name: edge}", &format!("{{name: {gateway}}}"));
        text +=
            &yaml::forward(&format!("v{number}"), routed[number], &service).replace("[edge]", &format!("[{gateway}]"));
        text += &yaml::service_entry(&format!("s{number}"), &service, "HTTP", &[backend.address]);
    }
    text += &secrets(authority, &[("cert", &["example.org", "second-example.org", "*.wildcard.org"])]);
    let folder = ConfigFolder::with(text);
    let tidegate = Options::default().arg("--access-log").arg("/dev/stdout").start(&folder).await;
    (tidegate, folder)
}

async fn backends() -> [EchoBackend; 4] {
    [
        EchoBackend::start("first").await,
        EchoBackend::start("second").await,
        EchoBackend::start("wildcard").await,
        EchoBackend::start("fourth").await,
    ]
}

#[tokio::test]
async fn every_pair_of_server_name_and_host_has_its_outcome() {
    let (port, authority, backends) = (free_port(), Authority::new("ca"), backends().await);
    let (tidegate, _folder) = rig(port, &backends, &authority).await;
    let unknown = "unknown-example.org";
    let (third, fifth, fourth) =
        ("third-example.wildcard.org", "fith-example.wildcard.org", "fourth-example.wildcard.org");
    let second = "second-example.org";
    for (server_name, host, status, backend) in [
        ("example.org", "example.org", 200, "first"),
        ("example.org", second, 421, ""),
        ("example.org", unknown, 404, ""),
        (second, second, 200, "second"),
        (second, "example.org", 421, ""),
        (second, unknown, 421, ""),
        (third, third, 200, "wildcard"),
        (third, fifth, 200, "wildcard"),
        (third, fourth, 421, ""),
        (third, second, 421, ""),
        (third, unknown, 421, ""),
        (fourth, fourth, 200, "fourth"),
        (fourth, fifth, 421, ""),
        (unknown, "example.org", 200, "first"),
        (unknown, unknown, 404, ""),
    ] {
        for options in [TlsOptions::to(server_name), TlsOptions::to(server_name).http2()] {
            for written in [host.to_owned(), format!("{host}:{port}"), host.to_uppercase()] {
                let answer = options.get(local(port), &written, "/").await.unwrap();
                let found = (answer.status.as_u16(), answer.header("x-backend"));
                assert_eq!(found, (status, backend), "SNI {server_name}, host {written}");
            }
        }
    }
    let misdirected = tidegate.stdout().lines().filter(|line| line.contains("misdirected_request")).count();
    assert!(misdirected >= 8, "the access log names misdirected requests:\n{}", tidegate.stdout());
}

/// S11: a connection to a host that asks for nothing must not lead to one that asks for a certificate.
#[tokio::test]
async fn client_certificates_cannot_be_walked_around_by_reusing_a_connection() {
    let port = free_port();
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    let pair = servers.issue(&["*.bank.test"]);
    let (open, closed) = (EchoBackend::start("open").await, EchoBackend::start("closed").await);
    let mutual = yaml::server(port, "closed", "HTTPS", &["closed.bank.test"], "{mode: MUTUAL, credentialName: both}");
    let text = yaml::gateway_of(&[yaml::https(port, "open", &["open.bank.test"], "both"), mutual])
        + &yaml::forward("open", "open.bank.test", "open.test")
        + &yaml::service_entry("open", "open.test", "HTTP", &[open.address])
        + &yaml::forward("closed", "closed.bank.test", "closed.test")
        + &yaml::service_entry("closed", "closed.test", "HTTP", &[closed.address])
        + &secret(NAMESPACE, "both", &[("tls.crt", &pair.chain), ("tls.key", &pair.key), ("ca.crt", &clients.pem())]);
    let folder = ConfigFolder::with(text);
    let _tidegate = Options::default().start(&folder).await;

    for options in [TlsOptions::to("open.bank.test"), TlsOptions::to("open.bank.test").http2()] {
        let mut connection = options.connect(local(port)).await.unwrap();
        for _ in 0..2 {
            assert_eq!(connection.get("open.bank.test", "/").await.unwrap().header("x-backend"), "open");
            if !connection.is_open().await {
                connection = options.connect(local(port)).await.unwrap();
            }
            assert_eq!(connection.get("closed.bank.test", "/").await.unwrap().status, 421);
            if !connection.is_open().await {
                connection = options.connect(local(port)).await.unwrap();
            }
        }
    }
    assert_eq!(closed.requests(), 0, "nothing reached the backend behind client certificates");
    let anonymous = TlsOptions::to("closed.bank.test").get(local(port), "closed.bank.test", "/").await;
    assert!(anonymous.is_err(), "{anonymous:?}");
    let known = TlsOptions::to("closed.bank.test").identity(&clients.issue(&["client.test"]));
    let answer = known.get(local(port), "closed.bank.test", "/").await.unwrap();
    assert_eq!(answer.header("x-backend"), "closed");
    let stranger = TlsOptions::to("closed.bank.test").identity(&servers.issue(&["client.test"]));
    assert!(stranger.get(local(port), "closed.bank.test", "/").await.is_err());
}
