//! TLS with clients: which server a connection is for, and what may be asked on it.

use std::sync::Arc;

use http::StatusCode;
use rustls::version::{TLS12, TLS13};
use tidegate_snapshot::{ServerTls, TlsParameters, TlsVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::backend::{Count, echo, fixed, full, serve};
use crate::certificates::{Authority, client_config, offer, offer_trust};
use crate::client::Client;
use crate::harness::Config;
use crate::tls_edge::{
    Server, TlsEdge, connect, connect_shared, get, get2, http2, is_answered, is_served, mutual, optional, simple,
    snapshot,
};

#[tokio::test]
async fn https_serves_both_versions_of_http_by_alpn() {
    let edge = TlsEdge::start(vec![Server::new("a", &["a.com"], echo("a").await)]).await;
    for (alpn, is_http2) in [(vec![], false), (vec!["http/1.1"], false), (vec!["h2", "http/1.1"], true)] {
        let mut config = edge.client(None);
        config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
        let stream = connect(edge.address(), "a.com", config).await.unwrap();
        if is_http2 {
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let mut client = http2(stream).await;
            for _ in 0..3 {
                let (status, text) = get2(&mut client, "a.com").await;
                assert_eq!(status, StatusCode::OK);
                assert!(text.contains("x-forwarded-proto: https\n") && text.contains("host: a.com\n"), "{text}");
            }
            continue;
        }
        let mut client = Client::over(stream);
        for round in 0..3 {
            let body = vec![b'x'; round * 200_000];
            client
                .send(format!("POST /{round} HTTP/1.1\r\nHost: a.com\r\nContent-Length: {}\r\n\r\n", body.len()))
                .await;
            client.send(&body).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.seen("x-forwarded-proto")), (200, Some("https")));
            assert!(answer.body.ends_with(&body));
        }
    }
    edge.await_count("envoy_listener_downstream_cx_total{listener_address=\"127.0.0.1_443\"} ", 3).await;
}

#[tokio::test]
async fn pipelined_requests_and_requests_in_pieces_are_served_over_tls() {
    let edge = TlsEdge::start(vec![Server::new("a", &["a.com"], echo("a").await)]).await;
    let mut client = Client::over(edge.connect("a.com").await);
    client.send(format!("{0}{0}{0}", get("a.com"))).await;
    for _ in 0..3 {
        assert_eq!(client.answer().await.status, 200);
    }
    for byte in get("a.com").bytes() {
        client.send([byte]).await;
    }
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn the_server_name_chooses_the_server() {
    let servers = || async {
        vec![
            Server::new("exact", &["x.a.com"], fixed("exact").await),
            Server::new("wide", &["*.a.com"], fixed("wide").await),
            Server::new("other", &["other.org"], fixed("other").await),
        ]
    };
    let edge = TlsEdge::start(servers().await).await;
    for (name, expected) in [("x.a.com", "exact"), ("y.a.com", "wide"), ("other.org", "other")] {
        assert_eq!(edge.get(name, name).await.text(), expected, "{name}");
    }
    // A certificate's wildcard stands for one label; the server's for any number.
    assert!(connect(edge.address(), "z.y.a.com", edge.client(None)).await.is_err());
    for name in ["a.com", "evila.com", "unknown.org", "127.0.0.1"] {
        let refused = connect(edge.address(), name, edge.client(None)).await.unwrap_err().to_string();
        assert!(refused.contains("UnrecognisedName"), "{name}: {refused}");
    }
    edge.await_failure("no_filter_chain", 4).await;
}

#[tokio::test]
async fn a_server_for_any_name_takes_clients_without_one() {
    let any = fixed("any").await;
    let edge = TlsEdge::start(vec![
        Server::new("a", &["a.com"], fixed("a").await),
        Server { hosts: vec!["*"], ..Server::new("any", &["*"], any) },
    ])
    .await;
    offer(&edge.secrets, "any", edge.authority.server(&["b.com", "127.0.0.1"]).payload());
    assert_eq!(edge.get("b.com", "b.com").await.text(), "any");
    assert_eq!(edge.get("127.0.0.1", "127.0.0.1").await.text(), "any");
    assert_eq!(edge.get("a.com", "a.com").await.text(), "a");
}

/// The table of Gateway API's conformance test HTTPRouteHTTPSListenerDetectMisdirectedRequests.
#[tokio::test]
async fn requests_for_another_servers_host_are_misdirected() {
    let backend = fixed("served").await;
    let edge = TlsEdge::start(vec![
        Server { routed: vec!["example.org"], ..Server::new("any", &["*"], backend) },
        Server::new("second", &["second-example.org"], backend),
        Server::new("wildcard", &["*.wildcard.org"], backend),
        Server::new("fourth", &["fourth-example.wildcard.org"], backend),
    ])
    .await;
    offer(&edge.secrets, "any", edge.authority.server(&["example.org", "unknown-example.org"]).payload());
    for (name, host, status) in [
        ("example.org", "example.org", 200),
        ("example.org", "second-example.org", 421),
        ("example.org", "unknown-example.org", 404),
        ("second-example.org", "second-example.org", 200),
        ("second-example.org", "example.org", 421),
        ("second-example.org", "unknown-example.org", 421),
        ("third-example.wildcard.org", "third-example.wildcard.org", 200),
        ("third-example.wildcard.org", "fith-example.wildcard.org", 200),
        ("third-example.wildcard.org", "fourth-example.wildcard.org", 421),
        ("third-example.wildcard.org", "second-example.org", 421),
        ("third-example.wildcard.org", "unknown-example.org", 421),
        ("fourth-example.wildcard.org", "fourth-example.wildcard.org", 200),
        ("fourth-example.wildcard.org", "fith-example.wildcard.org", 421),
        ("unknown-example.org", "example.org", 200),
        ("unknown-example.org", "unknown-example.org", 404),
    ] {
        let mut client = Client::over(edge.connect(name).await);
        // Case and port make no other host; and the connection serves on.
        for host in [host.to_owned(), host.to_ascii_uppercase(), format!("{host}:443")] {
            client.send(get(&host)).await;
            assert_eq!(client.answer().await.status, status, "{name} {host}");
        }
        let mut config = edge.client(None);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut client = http2(connect(edge.address(), name, config).await.unwrap()).await;
        assert_eq!(get2(&mut client, host).await.0.as_u16(), status, "{name} {host}");
    }
}

#[tokio::test]
async fn coalescing_does_not_get_around_client_certificates() {
    let count = Count::default();
    let counted = count.clone();
    let secret = serve(move |_| {
        counted.add();
        async { http::Response::new(full("secret")) }
    })
    .await;
    let edge = TlsEdge::start(vec![
        Server::new("wide", &["*.a.com"], fixed("wide").await),
        Server::new("secret", &["secret.a.com"], secret).tls(mutual("wide", "ca")),
    ])
    .await;
    let clients = Authority::new("clients");
    offer_trust(&edge.secrets, "ca", &[&clients], None);
    let mut config = edge.client(None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    // The second connection resumes the session of the first.
    for round in 0..2 {
        let stream = connect_shared(edge.address(), "x.a.com", &config).await.unwrap();
        let mut client = http2(stream).await;
        assert_eq!(get2(&mut client, "x.a.com").await.1, "wide", "{round}");
        assert_eq!(get2(&mut client, "secret.a.com").await.0, StatusCode::MISDIRECTED_REQUEST);
        assert_eq!(get2(&mut client, "x.a.com").await.1, "wide");
    }
    let resumed =
        "tidegate_tls_handshakes_total{listener_address=\"127.0.0.1_443\",version=\"TLSv1.3\",resumed=\"true\"} ";
    edge.await_count(resumed, 1).await;
    assert!(!is_served(edge.address(), "secret.a.com", edge.client(None)).await);
    assert_eq!(count.get(), 0);
    assert!(is_served(edge.address(), "secret.a.com", edge.client(Some(&clients.client("c")))).await);
    assert_eq!(count.get(), 1);
    edge.await_failure("client_certificate_missing", 1).await;
}

#[tokio::test]
async fn tickets_open_nothing_but_the_server_that_gave_them() {
    let backend = fixed("served").await;
    let (secrets, authority) = (Arc::<tidegate_sds::SecretStore>::default(), Authority::new("servers"));
    offer(&secrets, "a", authority.server(&["a.com"]).payload());
    let clients = Authority::new("clients");
    offer_trust(&secrets, "ca", &[&clients], None);
    let mut config = Config::new();
    let open = crate::tls_edge::listener("open", &mut config, vec![Server::new("a", &["a.com"], backend)]);
    let server = Server::new("a", &["a.com"], backend).tls(mutual("a", "ca"));
    let closed = crate::tls_edge::listener("closed", &mut config, vec![server]);
    let edge = crate::harness::Edge::with_secrets(
        config.snapshot_of(vec![open, closed]),
        tidegate_proxy::Limits::default(),
        secrets.clone(),
    )
    .await;
    for version in [&TLS12, &TLS13] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(authority.roots())
            .with_no_client_auth();
        let config = Arc::new(config);
        let (open, closed) = (edge.address_of("open").unwrap(), edge.address_of("closed").unwrap());
        for round in 0..2 {
            let stream = connect_shared(open, "a.com", &config).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed), round == 1);
            assert!(is_answered(stream, "a.com").await);
        }
        // The client offers the ticket of the same name.
        if let Ok(stream) = connect_shared(closed, "a.com", &config).await {
            assert_ne!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
            assert!(!is_answered(stream, "a.com").await);
        }
    }
}

#[tokio::test]
async fn sessions_end_with_the_authorities_that_they_were_begun_under() {
    let edge = TlsEdge::start(vec![Server::new("a", &["a.com"], fixed("a").await).tls(mutual("a", "ca"))]).await;
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    offer_trust(&edge.secrets, "ca", &[&old], None);
    let config = Arc::new(edge.client(Some(&old.client("c"))));
    let resumes = || async {
        let stream = connect_shared(edge.address(), "a.com", &config).await.unwrap();
        let resumed = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        (resumed, is_answered(stream, "a.com").await)
    };
    assert_eq!(resumes().await, (false, true));
    assert_eq!(resumes().await, (true, true));
    // A change that does not concern the server changes nothing; nor does the same configuration again.
    offer_trust(&edge.secrets, "unrelated", &[&new], None);
    edge.edge.publish(snapshot(vec![Server::new("a", &["a.com"], fixed("a").await).tls(mutual("a", "ca"))])).await;
    assert_eq!(resumes().await, (true, true));
    offer_trust(&edge.secrets, "ca", &[&old, &new], None);
    assert_eq!(resumes().await, (false, true));
    assert_eq!(resumes().await, (true, true));
    offer_trust(&edge.secrets, "ca", &[&new], None);
    assert_eq!(resumes().await, (false, false));
}

#[tokio::test]
async fn a_connection_that_was_asked_for_less_is_closed_when_more_is_asked() {
    let backend = fixed("a").await;
    let server = |tls: ServerTls| snapshot(vec![Server::new("a", &["a.com"], backend).tls(tls)]);
    let edge = TlsEdge::start(vec![Server::new("a", &["a.com"], backend).tls(optional("a", "ca"))]).await;
    let clients = Authority::new("clients");
    offer_trust(&edge.secrets, "ca", &[&clients], None);
    for is_http2 in [false, true] {
        edge.edge.publish(server(optional("a", "ca"))).await;
        let mut config = edge.client(None);
        config.alpn_protocols = if is_http2 { vec![b"h2".to_vec()] } else { vec![] };
        let stream = connect(edge.address(), "a.com", config).await.unwrap();
        if is_http2 {
            let mut client = http2(stream).await;
            assert_eq!(get2(&mut client, "a.com").await.0, StatusCode::OK);
            edge.edge.publish(server(simple("a"))).await;
            assert_eq!(get2(&mut client, "a.com").await.0, StatusCode::OK);
            edge.edge.publish(server(mutual("a", "ca"))).await;
            assert_eq!(get2(&mut client, "a.com").await.0, StatusCode::MISDIRECTED_REQUEST);
            // GOAWAY ends the client's use of the connection.
            let gone = async {
                while client.ready().await.is_ok() {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(5), gone).await.unwrap();
        } else {
            let mut client = Client::over(stream);
            client.send(get("a.com")).await;
            assert_eq!(client.answer().await.status, 200);
            edge.edge.publish(server(mutual("a", "ca"))).await;
            client.send(get("a.com")).await;
            let answer = client.answer().await;
            assert_eq!((answer.status, answer.header("connection")), (421, Some("close")));
            assert!(client.is_closed().await);
        }
    }
}

#[tokio::test]
async fn versions_are_served_as_configured() {
    let old = TlsParameters { max_version: TlsVersion::V1_2, ..TlsParameters::default() };
    let new = TlsParameters { min_version: TlsVersion::V1_3, ..TlsParameters::default() };
    let with = |parameters: &TlsParameters, name| ServerTls { parameters: parameters.clone(), ..simple(name) };
    let backend = fixed("served").await;
    let edge = TlsEdge::start(vec![
        Server::new("old", &["old.com"], backend).tls(with(&old, "old")),
        Server::new("new", &["new.com"], backend).tls(with(&new, "new")),
    ])
    .await;
    let client = |version| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(edge.authority.roots())
            .with_no_client_auth()
    };
    for (host, version, served) in
        [("old.com", &TLS12, true), ("old.com", &TLS13, false), ("new.com", &TLS12, false), ("new.com", &TLS13, true)]
    {
        assert_eq!(is_served(edge.address(), host, client(version)).await, served, "{host} {version:?}");
    }
    edge.await_failure("version", 2).await;
}

#[tokio::test]
async fn a_certificate_that_arrives_later_serves_then() {
    let (secrets, authority) = (Arc::<tidegate_sds::SecretStore>::default(), Authority::new("servers"));
    let servers = vec![
        Server::new("late", &["late.com"], fixed("late").await),
        Server::new("closed", &["closed.com"], fixed("closed").await).tls(mutual("here", "ca")),
        Server::new("here", &["here.com"], fixed("here").await),
    ];
    offer(&secrets, "here", authority.server(&["here.com", "closed.com"]).payload());
    let edge =
        crate::harness::Edge::with_secrets(snapshot(servers), tidegate_proxy::Limits::default(), secrets.clone()).await;
    let edge = TlsEdge { edge, secrets, authority };
    let clients = Authority::new("clients");
    let identity = clients.client("c");
    assert!(is_served(edge.address(), "here.com", edge.client(None)).await);
    assert!(!is_served(edge.address(), "late.com", edge.client(None)).await);
    assert!(!is_served(edge.address(), "closed.com", edge.client(Some(&identity))).await);
    edge.await_failure("no_certificate", 1).await;
    edge.await_failure("no_authorities", 1).await;
    offer(&edge.secrets, "late", edge.authority.server(&["late.com"]).payload());
    offer_trust(&edge.secrets, "ca", &[&clients], None);
    assert!(is_served(edge.address(), "late.com", edge.client(None)).await);
    assert!(is_served(edge.address(), "closed.com", edge.client(Some(&identity))).await);
    assert!(!is_served(edge.address(), "closed.com", edge.client(None)).await);
}

#[tokio::test]
async fn certificates_rotate_under_connections_without_a_failed_handshake() {
    let edge = Arc::new(TlsEdge::start(vec![Server::new("a", &["a.com"], fixed("a").await)]).await);
    let mut kept = Client::over(edge.connect("a.com").await);
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (edge, done) = (edge.clone(), done.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(is_served(edge.address(), "a.com", edge.client(None)).await);
                    count += 1;
                }
                count
            })
        })
        .collect();
    for _ in 0..20 {
        let identity = edge.authority.server(&["a.com"]);
        offer(&edge.secrets, "a", identity.payload());
        let stream = edge.connect("a.com").await;
        assert_eq!(stream.get_ref().1.peer_certificates().unwrap()[0], identity.certificates()[0]);
        kept.send(get("a.com")).await;
        assert_eq!(kept.answer().await.status, 200);
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn of_two_certificates_a_client_gets_one_that_it_can_verify() {
    let tls = ServerTls {
        certificates: vec![crate::tls_edge::reference("rsa"), crate::tls_edge::reference("a")],
        ..simple("a")
    };
    let edge = TlsEdge::start(vec![Server::new("a", &["a.com"], fixed("a").await).tls(tls)]).await;
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    offer(&edge.secrets, "rsa", edge.authority.issue(rsa, &["a.com"], |_| {}).payload());
    let shown = |suites: &'static str| {
        let address = edge.address();
        let roots = edge.authority.roots();
        async move {
            let mut provider = rustls::crypto::aws_lc_rs::default_provider();
            provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).contains(suites));
            let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[&TLS12])
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let stream = connect(address, "a.com", config).await.unwrap();
            format!("{:?}", stream.get_ref().1.negotiated_cipher_suite().unwrap().suite())
        }
    };
    assert!(shown("ECDHE_RSA").await.contains("ECDHE_RSA"));
    assert!(shown("ECDHE_ECDSA").await.contains("ECDHE_ECDSA"));
    assert!(shown("ECDHE").await.contains("ECDHE_ECDSA"));
}

#[tokio::test]
async fn connections_end_with_a_goodbye() {
    let edge = TlsEdge::start(vec![Server::new("a", &["a.com"], fixed("a").await)]).await;
    let mut stream = edge.connect("a.com").await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Without a goodbye rustls makes an error of the end.
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));

    let mut idle = edge.connect("a.com").await;
    idle.write_all(get("a.com").as_bytes()).await.unwrap();
    let mut head = [0; 15];
    idle.read_exact(&mut head).await.unwrap();
    let (answer, ()) = tokio::join!(
        async {
            let mut rest = Vec::new();
            idle.read_to_end(&mut rest).await
        },
        edge.edge.gateway.drain(std::time::Duration::ZERO, std::time::Duration::from_secs(5)),
    );
    assert!(answer.is_ok());
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel::<()>();
    let backend = crate::backend::raw(move |mut tcp, _| {
        begun.send(()).unwrap();
        let ended = ended.clone();
        async move {
            // Only the gateway's going ends this.
            let _ = tcp.read(&mut [0]).await;
            let _ = ended.send(());
        }
    })
    .await;
    let edge = TlsEdge::start(vec![Server::new("a", &["a.com"], backend)]).await;
    let mut stream = edge.connect("a.com").await;
    stream.write_all(get("a.com").as_bytes()).await.unwrap();
    begins.recv().await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    tokio::time::timeout(std::time::Duration::from_secs(5), ends.recv()).await.unwrap();
}

#[tokio::test]
async fn websockets_pass_through_tls() {
    let backend = crate::backend::raw(|mut tcp, _| async move {
        tcp.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await
            .unwrap();
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let edge = TlsEdge::start(vec![Server::new("a", &["a.com"], backend)]).await;
    let mut client = Client::over(edge.connect("a.com").await);
    client
        .send(
            "GET /chat HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: \
             dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        .await;
    assert_eq!(client.answer().await.status, 101);
    for round in 0..4u8 {
        let frame = vec![round; 50_000];
        client.send(&frame).await;
        assert_eq!(client.exactly(frame.len()).await, Some(frame));
    }
}

#[tokio::test]
async fn without_the_authority_nobody_is_trusted() {
    let edge = TlsEdge::start(vec![Server::new("a", &["a.com"], fixed("a").await)]).await;
    let stranger = Authority::new("stranger");
    assert!(connect(edge.address(), "a.com", client_config(&stranger, None)).await.is_err());
    edge.await_failure("refused_by_client", 1).await;
}

#[tokio::test]
async fn a_port_that_changes_to_tls_serves_no_plaintext_any_more() {
    let backend = fixed("a").await;
    let (secrets, authority) = (Arc::<tidegate_sds::SecretStore>::default(), Authority::new("servers"));
    offer(&secrets, "a", authority.server(&["a.com"]).payload());
    let mut plain = Config::to(backend);
    plain.listeners = vec![("127.0.0.1_443".into(), 0)];
    let edge =
        crate::harness::Edge::with_secrets(plain.snapshot(), tidegate_proxy::Limits::default(), secrets.clone()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(get("a.com")).await;
    assert_eq!(client.answer().await.status, 200);
    edge.publish(snapshot(vec![Server::new("a", &["a.com"], backend)])).await;
    client.send(get("a.com")).await;
    assert_eq!(client.answer().await.status, 421);
    assert!(client.is_closed().await);
    assert!(is_served(edge.address(), "a.com", client_config(&authority, None)).await);
}

#[tokio::test]
async fn ten_thousand_servers_share_a_port() {
    let backend = fixed("served").await;
    let servers = || {
        (0..10_000)
            .map(|number| {
                let host: &'static str = Box::leak(format!("host-{number}.com").into_boxed_str());
                Server { name: host, ..Server::new("shared", &[host], backend) }
            })
            .collect::<Vec<_>>()
    };
    let (secrets, authority) = (Arc::<tidegate_sds::SecretStore>::default(), Authority::new("servers"));
    offer(&secrets, "shared", authority.server(&["host-0.com", "host-5000.com", "host-9999.com"]).payload());
    let edge =
        crate::harness::Edge::with_secrets(snapshot(servers()), tidegate_proxy::Limits::default(), secrets).await;
    for _ in 0..2 {
        for host in ["host-0.com", "host-5000.com", "host-9999.com"] {
            assert!(is_served(edge.address(), host, client_config(&authority, None)).await, "{host}");
        }
        edge.publish(snapshot(servers())).await;
    }
}
