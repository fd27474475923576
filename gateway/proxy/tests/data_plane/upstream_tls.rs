//! TLS towards backends: whom the gateway trusts, as whom it appears, and that no connection is shared between the two.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tidegate_core::{Kind, Origin, ResourceKey};
use tidegate_sds::{Offer, Payload, SecretStore, SourceKind};
use tidegate_snapshot::{
    CipherSuite, ClientTls, Forward, SecretRef, ServerTrust, TlsParameters, TlsVersion, UpstreamProtocol,
    UpstreamServerName,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::{Body, channel, full};
use crate::certificates::{self, Authority, Identity, offer, offer_trust};
use crate::client::{Answer, Client, get, once};
use crate::harness::{Config, Edge, destination, forward, prefix};
use crate::secure_backend::{self, Seen, leaf, lenient_server, numbered_leaf, server};

const CA: &str = "backend-cacert";
const OWN: &str = "own";
const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn secret(name: &str) -> SecretRef {
    let key = ResourceKey::local(Kind::DestinationRule, "default", "rule");
    SecretRef::new(vec![certificates::secret(name)], key, Origin::default())
}

/// Mode SIMPLE with the authorities in [`CA`] and SNI from the Host header.
fn simple() -> ClientTls {
    ClientTls {
        trust: ServerTrust::Authorities(secret(CA)),
        crl: None,
        certificate: None,
        server_name: UpstreamServerName::FromHost,
        subject_alt_names: Vec::new(),
        parameters: TlsParameters::default(),
    }
}

fn mutual() -> ClientTls {
    ClientTls { certificate: Some(secret(OWN)), ..simple() }
}

fn named(names: &[&str]) -> ClientTls {
    ClientTls { subject_alt_names: names.iter().map(|name| (*name).to_owned()).collect(), ..simple() }
}

/// One route to one backend over TLS.
fn to(backend: SocketAddr, protocol: UpstreamProtocol, tls: ClientTls) -> Config {
    let mut config = Config::new();
    let cluster = config.cluster_of("backend", &[backend], protocol);
    config.secure(&cluster, tls);
    config.route(forward(Forward::new(vec![destination(&cluster)])))
}

/// A store with the certificate of `authority` as [`CA`].
fn trusting(authority: &Authority) -> Arc<SecretStore> {
    let store = Arc::new(SecretStore::default());
    offer_trust(&store, CA, &[authority], None);
    store
}

fn describe(request: &Request<hyper::body::Incoming>, seen: &Seen) -> Body {
    full(format!(
        "connection: {}\nsni: {}\nalpn: {}\nversion: {:?}\nclient: {}\nresumed: {}\nhost: {}\n",
        seen.connection,
        seen.server_name.as_deref().unwrap_or("-"),
        seen.alpn.as_deref().unwrap_or("-"),
        request.version(),
        seen.client_certificate.as_ref().map_or("-".into(), |certificate| format!("{:x?}", &certificate[..])),
        seen.resumed,
        request.uri().authority().map_or_else(
            || request.headers()["host"].to_str().unwrap().to_owned(),
            |authority| authority.as_str().to_owned()
        ),
    ))
}

/// A backend that tells what it saw.
async fn telling(config: rustls::ServerConfig) -> SocketAddr {
    secure_backend::serve(config, |request, seen| async move { Response::new(describe(&request, &seen)) }).await
}

fn host(name: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")
}

fn failed(answer: &Answer, reason: &str) {
    let expected = format!(
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote \
         connection failure, transport failure reason: {reason}"
    );
    assert_eq!((answer.status, answer.text()), (503, expected.as_str()));
}

fn verify_failed(detail: &str) -> String {
    format!(
        "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: \
         {detail}:TLS_error_end"
    )
}

const UNKNOWN_ISSUER: &str =
    "X509_verify_cert: certificate verification error at depth 0: unable to get local issuer certificate";

#[tokio::test]
async fn protocols_follow_the_cluster_and_names_the_host() {
    let authority = Authority::new("ca");
    let pair = leaf(&authority, &["a.com", "b.com", "127.0.0.1"]);
    let store = trusting(&authority);
    for (protocol, alpn) in [(UpstreamProtocol::Http1, "http/1.1"), (UpstreamProtocol::Http2, "h2")] {
        let backend = telling(server(&pair, None, &["h2", "http/1.1"])).await;
        let edge = Edge::trusting(to(backend, protocol, simple()).snapshot(), &store).await;
        let version = if alpn == "h2" { "HTTP/2.0" } else { "HTTP/1.1" };
        for (name, sni) in [("a.com", "a.com"), ("B.com:8443", "b.com"), ("127.0.0.1:80", "-")] {
            let answer = once(edge.address(), host(name)).await;
            assert_eq!(answer.status, 200, "{answer:?} {}", answer.text());
            assert_eq!(answer.seen("alpn"), Some(alpn));
            assert_eq!(answer.seen("version"), Some(version));
            assert_eq!(answer.seen("sni"), Some(sni), "{name}");
            assert_eq!(answer.seen("host"), Some(name));
        }
        failed(&once(edge.address(), host("c.com")).await, &verify_failed("verify SAN list"));
        edge.await_request(&["response_code=\"503\"", "response_flags=\"URX,UF\""]).await;
        let endpoint = &edge.gateway.clusters()[0].endpoints[0];
        assert!(endpoint.cx_connect_fail >= 3 && endpoint.rq_success == 3, "{endpoint:?}");
    }
}

#[tokio::test]
async fn a_backend_that_does_not_know_alpn_speaks_what_is_configured() {
    let authority = Authority::new("ca");
    let pair = leaf(&authority, &["a.com"]);
    let store = trusting(&authority);
    for (protocol, version) in [(UpstreamProtocol::Http1, "HTTP/1.1"), (UpstreamProtocol::Http2, "HTTP/2.0")] {
        let backend = telling(server(&pair, None, &[])).await;
        let edge = Edge::trusting(to(backend, protocol, simple()).snapshot(), &store).await;
        let answer = get(edge.address(), "/").await;
        assert_eq!((answer.seen("alpn"), answer.seen("version")), (Some("-"), Some(version)));
    }
}

#[tokio::test]
async fn every_way_to_trust_is_obeyed() {
    let (own, other) = (Authority::new("own"), Authority::new("other"));
    let spiffe = "spiffe://cluster.local/ns/default/sa/backend";
    let store = Arc::new(SecretStore::default());
    offer_trust(&store, CA, &[&own], None);
    let good = leaf(&own, &["a.com", spiffe, "10.1.1.1"]);
    let wild = leaf(&own, &["*.a.com"]);
    let strange = leaf(&other, &["a.com", spiffe]);
    let fixed = |name: &str| ClientTls { server_name: UpstreamServerName::Fixed(name.into()), ..simple() };
    let unverified = || ClientTls { trust: ServerTrust::Unverified, ..simple() };
    let system = || ClientTls { trust: ServerTrust::System, ..simple() };
    let (sans, issuer) = (verify_failed("verify SAN list"), verify_failed(UNKNOWN_ISSUER));
    let cases: Vec<(&str, &Identity, ClientTls, &str, Option<&str>)> = vec![
        ("host", &good, simple(), "a.com", None),
        ("wildcard", &wild, simple(), "x.a.com", None),
        ("wildcard is one label", &wild, simple(), "a.com", Some(&sans)),
        ("stranger", &strange, simple(), "a.com", Some(&issuer)),
        ("fixed", &good, fixed("a.com"), "else.org", None),
        ("fixed other", &good, fixed("b.com"), "a.com", Some(&sans)),
        ("uri", &good, named(&["x", spiffe]), "else.org", None),
        ("address", &good, named(&["10.1.1.1"]), "else.org", None),
        ("dns", &good, named(&["A.com"]), "10.9.9.9", None),
        (
            "name of list is missing",
            &good,
            named(&["spiffe://cluster.local/ns/default/sa/other"]),
            "a.com",
            Some(&sans),
        ),
        ("list does not excuse the chain", &strange, named(&[spiffe]), "a.com", Some(&issuer)),
        ("unverified", &strange, unverified(), "else.org", None),
        ("the machine does not know our authority", &good, system(), "a.com", Some(&issuer)),
    ];
    for (case, pair, tls, name, failure) in cases {
        for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
            let backend = telling(server(pair, None, &["h2", "http/1.1"])).await;
            let edge = Edge::trusting(to(backend, protocol, tls.clone()).snapshot(), &store).await;
            let answer = once(edge.address(), host(name)).await;
            match failure {
                None => assert_eq!(answer.status, 200, "{case}: {}", answer.text()),
                Some(reason) => {
                    assert_eq!(answer.status, 503, "{case}");
                    assert!(answer.text().ends_with(reason), "{case}: {}", answer.text());
                }
            }
        }
    }
}

/// As `openssl req -x509` makes them: they call themselves authorities.
#[tokio::test]
async fn a_self_signed_backend_is_served_if_it_is_trusted_and_has_the_name() {
    let made = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Identity { chain_pem: params.self_signed(&key).unwrap().pem(), key_pem: key.serialize_pem() }
    };
    let (own, other) = (made("a.com"), made("a.com"));
    let store = Arc::new(SecretStore::default());
    offer(&store, CA, Payload::Trust { authorities: certificates::bytes(&own.chain_pem), crl: None });
    for (pair, tls, name, status) in [
        (&own, simple(), "a.com", 200),
        (&own, simple(), "b.com", 503),
        (&own, named(&["a.com"]), "b.com", 200),
        (&own, named(&["c.com"]), "a.com", 503),
        (&other, simple(), "a.com", 503),
        (&other, named(&["a.com"]), "a.com", 503),
    ] {
        let backend = telling(server(pair, None, &[])).await;
        let edge = Edge::trusting(to(backend, UpstreamProtocol::Http1, tls).snapshot(), &store).await;
        assert_eq!(once(edge.address(), host(name)).await.status, status, "{name}");
    }
}

#[tokio::test]
async fn a_revoked_backend_is_refused() {
    let authority = Authority::new("ca");
    let (good, bad) = (numbered_leaf(&authority, &["a.com"], 7), numbered_leaf(&authority, &["a.com"], 8));
    let store = Arc::new(SecretStore::default());
    offer_trust(&store, CA, &[&authority], Some(&authority.revocation_list(&[8], 2100)));
    let backend = telling(server(&good, None, &[])).await;
    let edge = Edge::trusting(to(backend, UpstreamProtocol::Http1, simple()).snapshot(), &store).await;
    assert_eq!(get(edge.address(), "/").await.status, 200);
    let backend = telling(server(&bad, None, &[])).await;
    edge.publish(to(backend, UpstreamProtocol::Http1, simple()).snapshot()).await;
    let revoked = "X509_verify_cert: certificate verification error at depth 0: certificate revoked";
    failed(&get(edge.address(), "/").await, &verify_failed(revoked));

    // The list in a secret of its own, which comes late.
    let store = trusting(&authority);
    let beside = ClientTls { crl: Some(certificates::secret("crl")), ..simple() };
    let edge = Edge::trusting(to(backend, UpstreamProtocol::Http1, beside).snapshot(), &store).await;
    assert!(get(edge.address(), "/").await.text().contains("Secret is not supplied by SDS"));
    let list = authority.revocation_list(&[8], 2100);
    offer(&store, "crl", Payload::Crl(certificates::bytes(&list)));
    failed(&get(edge.address(), "/").await, &verify_failed(revoked));
    // An outdated list says nothing of today.
    let store = Arc::new(SecretStore::default());
    let (authorities, crl) =
        (certificates::bytes(&authority.pem), certificates::bytes(&authority.revocation_list(&[], 2021)));
    let payload = Payload::Trust { authorities, crl: Some(crl) };
    // The store says so, and keeps it for want of a better one.
    let findings =
        store.offer(vec![Offer::new(certificates::secret(CA), SourceKind::Kubernetes, Origin::default(), payload)]);
    assert_eq!(findings.len(), 1);
    let edge = Edge::trusting(to(backend, UpstreamProtocol::Http1, simple()).snapshot(), &store).await;
    let outdated = "X509_verify_cert: certificate verification error at depth 0: CRL has expired";
    failed(&get(edge.address(), "/").await, &verify_failed(outdated));
}

#[tokio::test]
async fn a_secret_of_another_kind_is_of_no_use() {
    let authority = Authority::new("ca");
    let pair = leaf(&authority, &["a.com"]);
    let backend = telling(server(&pair, None, &[])).await;
    let store = Arc::new(SecretStore::default());
    offer(&store, CA, pair.payload());
    let edge = Edge::trusting(to(backend, UpstreamProtocol::Http1, simple()).snapshot(), &store).await;
    let answer = get(edge.address(), "/").await;
    assert!(answer.status == 503 && answer.text().contains("the configured secrets cannot be used"), "{answer:?}");
}

#[tokio::test]
async fn an_expired_backend_is_refused() {
    let authority = Authority::new("ca");
    let expired = authority.issue(rcgen::KeyPair::generate().unwrap(), &["a.com"], |params| {
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let backend = telling(server(&expired, None, &[])).await;
    let edge = Edge::trusting(to(backend, UpstreamProtocol::Http1, simple()).snapshot(), &trusting(&authority)).await;
    let expired = "X509_verify_cert: certificate verification error at depth 0: certificate has expired";
    failed(&get(edge.address(), "/").await, &verify_failed(expired));
}

#[tokio::test]
async fn a_missing_secret_is_a_connection_failure_until_it_comes() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let backend = telling(server(&leaf(&authority, &["a.com"]), Some(&clients), &[])).await;
    let store = Arc::new(SecretStore::default());
    let edge = Edge::trusting(to(backend, UpstreamProtocol::Http1, mutual()).snapshot(), &store).await;
    let missing = |answer: Answer| {
        let text = "reset reason: remote connection failure, transport failure reason: TLS_error:Secret is not supplied \
                    by SDS:TLS_error_end";
        assert!(answer.status == 503 && answer.text().ends_with(text), "{}", answer.text());
    };
    missing(get(edge.address(), "/").await);
    edge.await_request(&["response_code=\"503\"", "response_flags=\"UF\""]).await;
    offer_trust(&store, CA, &[&authority], None);
    missing(get(edge.address(), "/").await);
    offer(&store, OWN, leaf(&clients, &["gateway"]).payload());
    assert_eq!(get(edge.address(), "/").await.status, 200);
}

#[tokio::test]
async fn what_is_no_tls_fails_in_envoys_words() {
    let authority = Authority::new("ca");
    let store = trusting(&authority);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let garbage = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let _ = tcp.write_all(b"220 mail.example.com ESMTP\r\n").await;
            let _ = tcp.read_to_end(&mut Vec::new()).await;
        }
    });
    let edge = Edge::trusting(to(garbage, UpstreamProtocol::Http1, simple()).snapshot(), &store).await;
    failed(
        &get(edge.address(), "/").await,
        "TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end",
    );
}

#[tokio::test]
async fn a_handshake_that_hangs_ends_with_the_connect_timeout() {
    let authority = Authority::new("ca");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let edge = Edge::trusting(to(address, UpstreamProtocol::Http1, simple()).snapshot(), &trusting(&authority)).await;
    let start = std::time::Instant::now();
    let answer = get(edge.address(), "/").await;
    assert!(answer.status == 503 && answer.text().ends_with("reset reason: connection timeout"), "{}", answer.text());
    // Three tries of one second each.
    assert!(start.elapsed() < Duration::from_secs(6));
    drop(listener);
}

#[tokio::test]
async fn versions_and_ciphers_are_what_is_configured() {
    let authority = Authority::new("ca");
    let pair = leaf(&authority, &["a.com"]);
    let store = trusting(&authority);
    let versions = Arc::new(Mutex::new(Vec::new()));
    let seen = versions.clone();
    let backend = secure_backend::accept(server(&pair, None, &[]), move |stream, _| {
        let tls = stream.get_ref().1;
        seen.lock().push((tls.protocol_version().unwrap(), tls.negotiated_cipher_suite().unwrap().suite()));
        async {}
    })
    .await;
    let only = |parameters| ClientTls { parameters, ..simple() };
    for parameters in [
        TlsParameters::default(),
        TlsParameters {
            max_version: TlsVersion::V1_2,
            cipher_suites: vec![CipherSuite::EcdheEcdsaAes256Gcm],
            ..TlsParameters::default()
        },
    ] {
        let config = to(backend, UpstreamProtocol::Http1, only(parameters));
        let edge = Edge::trusting(config.snapshot(), &store).await;
        assert_eq!(get(edge.address(), "/").await.status, 503, "the backend says nothing");
    }
    let versions = versions.lock();
    assert_eq!(versions.first().map(|it| it.0), Some(rustls::ProtocolVersion::TLSv1_3));
    let last = (rustls::ProtocolVersion::TLSv1_2, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384);
    assert_eq!(versions.last(), Some(&last));
}

#[tokio::test]
async fn rotated_secrets_serve_the_next_request_and_not_one_fails() {
    let (a, b) = (Authority::new("a"), Authority::new("b"));
    let clients = Authority::new("clients");
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let store = Arc::new(SecretStore::default());
        offer_trust(&store, CA, &[&a], None);
        let first = leaf(&clients, &["first"]);
        offer(&store, OWN, first.payload());
        let of_a = telling(server(&leaf(&a, &["a.com"]), Some(&clients), &["h2", "http/1.1"])).await;
        let of_b = telling(server(&leaf(&b, &["a.com"]), Some(&clients), &["h2", "http/1.1"])).await;
        let edge = Edge::trusting(to(of_a, protocol, mutual()).snapshot(), &store).await;
        let mut client = Client::connect(edge.address()).await;
        let mut ask = async |text: &str| {
            client.send(host("a.com")).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 200, "{text}: {}", answer.text());
            answer
        };
        let before = ask("first").await;
        assert_eq!(ask("again").await.seen("connection"), before.seen("connection"), "pooled");

        // Another client certificate: another connection at once.
        let second = leaf(&clients, &["second"]);
        offer(&store, OWN, second.payload());
        let after = ask("second").await;
        assert_ne!(after.seen("connection"), before.seen("connection"));
        assert_eq!(after.seen("client"), Some(&*format!("{:x?}", &second.certificates()[0][..])));

        // A, then A and B, then B alone.
        offer_trust(&store, CA, &[&a, &b], None);
        ask("overlap").await;
        edge.publish(to(of_b, protocol, mutual()).snapshot()).await;
        ask("the new authority").await;
        offer_trust(&store, CA, &[&b], None);
        ask("the new authority alone").await;
        edge.publish(to(of_a, protocol, mutual()).snapshot()).await;
        client.send(host("a.com")).await;
        failed(&client.answer().await, &verify_failed(UNKNOWN_ISSUER));
    }
}

/// Two clusters on one endpoint, which differ in one thing only: no connection of one ever serves the other.
#[tokio::test]
async fn no_connection_is_shared_between_different_trust() {
    let (a, b, clients) = (Authority::new("a"), Authority::new("b"), Authority::new("clients"));
    let spiffe = "spiffe://cluster.local/ns/default/sa/backend";
    let pair = leaf(&a, &["a.com", "b.com", spiffe]);
    let store = Arc::new(SecretStore::default());
    offer_trust(&store, CA, &[&a], None);
    offer_trust(&store, "both-cacert", &[&a, &b], None);
    offer(&store, OWN, leaf(&clients, &["one"]).payload());
    offer(&store, "other", leaf(&clients, &["two"]).payload());
    let fixed = |name: &str| UpstreamServerName::Fixed(name.into());
    let base = || ClientTls { server_name: fixed("a.com"), ..mutual() };
    let cases: Vec<(&str, ClientTls)> = vec![
        ("the cluster alone", base()),
        ("authorities", ClientTls { trust: ServerTrust::Authorities(secret("both-cacert")), ..base() }),
        ("no verification", ClientTls { trust: ServerTrust::Unverified, ..base() }),
        ("names", ClientTls { subject_alt_names: vec![spiffe.into()], ..base() }),
        ("client certificate", ClientTls { certificate: Some(secret("other")), ..base() }),
        ("no client certificate", ClientTls { certificate: None, ..base() }),
        ("SNI", ClientTls { server_name: fixed("b.com"), ..base() }),
        ("SNI by host", ClientTls { server_name: UpstreamServerName::FromHost, ..base() }),
        (
            "version",
            ClientTls {
                parameters: TlsParameters { max_version: TlsVersion::V1_2, ..TlsParameters::default() },
                ..base()
            },
        ),
    ];
    for (case, other) in cases {
        for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
            let backend = telling(lenient_server(&pair, &clients, &["h2", "http/1.1"])).await;

            let mut config = Config::new();
            let one = config.cluster_of("one", &[backend], protocol);
            let two = config.cluster_of("two", &[backend], protocol);
            config.secure(&one, base());
            config.secure(&two, other.clone());
            let mut route = forward(Forward::new(vec![destination(&two)]));
            route.matcher.path = prefix("/two");
            let config = config.route(route).route(forward(Forward::new(vec![destination(&one)])));
            let edge = Edge::trusting(config.snapshot(), &store).await;

            // One client connection, so one worker, whose pools must keep them apart.
            let mut client = Client::connect(edge.address()).await;
            let mut connections = [BTreeSet::new(), BTreeSet::new()];
            for round in 0..6 {
                let path = ["/one", "/two"][round % 2];
                client.send(format!("GET {path} HTTP/1.1\r\nHost: b.com\r\n\r\n")).await;
                let answer = client.answer().await;
                assert_eq!(answer.status, 200, "{case}: {}", answer.text());
                connections[round % 2].insert(answer.seen("connection").unwrap().to_owned());
            }
            let [one, two] = &connections;
            assert!(one.is_disjoint(two), "{case} {protocol:?}: {one:?} {two:?}");
            // And what may be shared is.
            assert_eq!((one.len(), two.len()), (1, 1), "{case} {protocol:?}");
        }
    }
}

/// Of one cluster: other names, other connections.
#[tokio::test]
async fn no_connection_is_shared_between_hosts_that_are_verified() {
    let authority = Authority::new("ca");
    let pair = leaf(&authority, &["a.com", "b.com"]);
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let backend = telling(server(&pair, None, &["h2", "http/1.1"])).await;
        let edge = Edge::trusting(to(backend, protocol, simple()).snapshot(), &trusting(&authority)).await;
        let mut client = Client::connect(edge.address()).await;
        let mut seen = Vec::new();
        for name in ["a.com", "b.com", "a.com", "b.com"] {
            client.send(host(name)).await;
            let answer = client.answer().await;
            assert_eq!(answer.seen("sni"), Some(name));
            seen.push(answer.seen("connection").unwrap().to_owned());
        }
        assert!(seen[0] == seen[2] && seen[1] == seen[3] && seen[0] != seen[1], "{seen:?}");
    }
}

#[tokio::test]
async fn sessions_are_resumed_within_one_trust_only() {
    let authority = Authority::new("ca");
    let pair = leaf(&authority, &["a.com"]);
    let store = trusting(&authority);
    // Connections that serve one request each.
    let backend = secure_backend::serve(server(&pair, None, &[]), |request, seen| async move {
        let mut response = Response::new(describe(&request, &seen));
        response.headers_mut().insert("connection", "close".parse().unwrap());
        response
    })
    .await;
    let edge = Edge::trusting(to(backend, UpstreamProtocol::Http1, simple()).snapshot(), &store).await;
    let mut client = Client::connect(edge.address()).await;
    let mut ask = async || {
        client.send(host("a.com")).await;
        client.answer().await.seen("resumed").map(str::to_owned)
    };
    assert_eq!(ask().await.as_deref(), Some("false"));
    assert_eq!(ask().await.as_deref(), Some("true"));
    offer_trust(&store, CA, &[&authority, &Authority::new("new")], None);
    assert_eq!(ask().await.as_deref(), Some("false"), "another trust begins anew");
}

#[tokio::test]
async fn a_client_certificate_that_the_backend_wants_is_told_in_its_words() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let backend = telling(server(&leaf(&authority, &["a.com"]), Some(&clients), &[])).await;
    let edge = Edge::trusting(to(backend, UpstreamProtocol::Http1, simple()).snapshot(), &trusting(&authority)).await;
    let answer = get(edge.address(), "/").await;
    let text = "TLS_error:|268436572:SSL routines:OPENSSL_internal:TLSV1_CERTIFICATE_REQUIRED:TLS_error_end";
    assert!(answer.status == 503 && answer.text().ends_with(text), "{}", answer.text());
    let config = to(backend, UpstreamProtocol::Http2, simple());
    let edge = Edge::trusting(config.snapshot(), &trusting(&authority)).await;
    let answer = get(edge.address(), "/").await;
    assert!(answer.status == 503 && answer.text().ends_with(text), "{}", answer.text());
}

#[tokio::test]
async fn bodies_of_any_size_pass_both_ways() {
    let authority = Authority::new("ca");
    let pair = leaf(&authority, &["a.com"]);
    let store = trusting(&authority);
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let backend = secure_backend::serve(server(&pair, None, &["h2", "http/1.1"]), |request, _| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Response::new(full(body))
        })
        .await;
        let edge = Edge::trusting(to(backend, protocol, simple()).snapshot(), &store).await;
        let mut client = Client::connect(edge.address()).await;
        for length in [0, 1, 16_384, 100_000, 3_000_000] {
            let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            client.send(format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {length}\r\n\r\n")).await;
            client.send(&body).await;
            let answer = client.answer().await;
            assert_eq!(answer.status, 200);
            assert!(answer.body == body, "{protocol:?} {length}");
        }
    }
}

#[tokio::test]
async fn grpc_over_tls_has_its_trailers_and_its_te() {
    let authority = Authority::new("ca");
    let backend =
        secure_backend::serve(server(&leaf(&authority, &["a.com"]), None, &["h2"]), |request, _| async move {
            assert_eq!(request.uri().scheme_str(), Some("https"));
            assert_eq!(request.headers()["te"], "trailers");
            assert!(!request.headers().contains_key("host"));
            let (send, body) = channel();
            send.send(Frame::data(request.into_body().collect().await.unwrap().to_bytes())).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "5".parse().unwrap());
            send.send(Frame::trailers(trailers)).unwrap();
            Response::builder().header("content-type", "application/grpc").body(body).unwrap()
        })
        .await;
    let config = to(backend, UpstreamProtocol::AsDownstream, simple());
    let edge = Edge::trusting(config.snapshot(), &trusting(&authority)).await;
    let tcp = TcpStream::connect(edge.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::post("http://a.com/service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(full("message"))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["grpc-status"], "5");
        assert_eq!(body.to_bytes(), "message");
    }
    edge.await_request(&["request_protocol=\"grpc\"", "grpc_response_status=\"5\""]).await;
    let endpoint = &edge.gateway.clusters()[0].endpoints[0];
    assert_eq!((endpoint.cx_total, endpoint.rq_total), (1, 3), "calls share a connection: {endpoint:?}");
}

#[tokio::test]
async fn a_stream_that_is_cancelled_ends_at_the_backend() {
    let authority = Authority::new("ca");
    let (ended, mut has_ended) = tokio::sync::mpsc::unbounded_channel();
    let backend = secure_backend::serve(server(&leaf(&authority, &["a.com"]), None, &["h2"]), move |request, _| {
        let ended = ended.clone();
        async move {
            let (send, body) = channel();
            send.send(Frame::data(Bytes::from_static(b"first"))).unwrap();
            tokio::spawn(async move {
                // Fails when the stream is reset.
                let failure = request.into_body().collect().await.err();
                let _ = ended.send(failure.is_some());
                drop(send);
            });
            Response::new(body)
        }
    })
    .await;
    let config = to(backend, UpstreamProtocol::Http2, simple());
    let edge = Edge::trusting(config.snapshot(), &trusting(&authority)).await;
    let tcp = TcpStream::connect(edge.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    let (send, body) = channel();
    send.send(Frame::data(Bytes::from_static(b"begun"))).unwrap();
    let response = sender.send_request(Request::post("http://a.com/").body(body).unwrap()).await.unwrap();
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
    drop((body, send));
    drop(sender);
    let failed = tokio::time::timeout(Duration::from_secs(10), has_ended.recv()).await.unwrap();
    assert_eq!(failed, Some(true));
}

#[tokio::test]
async fn a_websocket_over_tls_is_a_tunnel() {
    let authority = Authority::new("ca");
    let pair = leaf(&authority, &["a.com"]);
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let backend = secure_backend::accept(server(&pair, None, &["h2", "http/1.1"]), |mut stream, _| async move {
            let mut head = Vec::new();
            while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                if !matches!(stream.read_buf(&mut head).await, Ok(1..)) {
                    return;
                }
            }
            let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(switch).await.unwrap();
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
        .await;
        let edge = Edge::trusting(to(backend, protocol, simple()).snapshot(), &trusting(&authority)).await;
        let mut client = Client::connect(edge.address()).await;
        client.send(HANDSHAKE).await;
        assert_eq!(client.answer().await.status, 101);
        let frame = vec![7; 100_000];
        client.send(&frame).await;
        assert_eq!(client.exactly(frame.len()).await, Some(frame));
    }
}

#[tokio::test]
async fn a_pooled_connection_that_died_costs_an_idempotent_request_nothing() {
    let authority = Authority::new("ca");
    let backend =
        secure_backend::accept(server(&leaf(&authority, &["a.com"]), None, &[]), |mut stream, _| async move {
            let mut some = [0; 1024];
            if matches!(stream.read(&mut some).await, Ok(1..)) {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                let _ = stream.read(&mut some).await;
            }
        })
        .await;
    let edge = Edge::trusting(to(backend, UpstreamProtocol::Http1, simple()).snapshot(), &trusting(&authority)).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..5 {
        client.send(host("a.com")).await;
        assert_eq!(client.answer().await.text(), "ok");
    }
}

/// A backend that goes away gracefully takes no request with it.
#[tokio::test]
async fn goaway_moves_requests_to_another_connection() {
    let authority = Authority::new("ca");
    let backend =
        secure_backend::accept(server(&leaf(&authority, &["a.com"]), None, &["h2"]), |stream, number| async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut served = 0;
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                send.send_data(Bytes::from(number.to_string()), true).unwrap();
                served += 1;
                if served == 2 {
                    connection.graceful_shutdown();
                }
            }
        })
        .await;
    let edge = Edge::trusting(to(backend, UpstreamProtocol::Http2, simple()).snapshot(), &trusting(&authority)).await;
    let mut client = Client::connect(edge.address()).await;
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        client.send(host("a.com")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        seen.insert(answer.text().to_owned());
    }
    assert!(seen.len() >= 4, "{seen:?}");
}

#[tokio::test]
async fn tls_works_over_unix_sockets() {
    let authority = Authority::new("ca");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backend.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server(&leaf(&authority, &["a.com"]), None, &[])));
    tokio::spawn(async move {
        loop {
            let (unix, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(unix).await.unwrap();
                let mut some = [0; 1024];
                while matches!(stream.read(&mut some).await, Ok(1..)) {
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                }
            });
        }
    });
    let mut config = Config::new();
    let mut endpoint = crate::harness::endpoint(crate::harness::nobody());
    endpoint.address = tidegate_snapshot::EndpointAddress::Unix(path);
    let cluster = config.cluster_with("backend", vec![endpoint], UpstreamProtocol::Http1);
    config.secure(&cluster, simple());
    let config = config.route(forward(Forward::new(vec![destination(&cluster)])));
    let edge = Edge::trusting(config.snapshot(), &trusting(&authority)).await;
    for _ in 0..3 {
        assert_eq!(get(edge.address(), "/").await.text(), "ok");
    }
}

/// Much goes both ways at once on one stream: neither direction waits for the other.
#[tokio::test]
async fn both_directions_of_a_stream_flow_at_once() {
    let authority = Authority::new("ca");
    let backend =
        secure_backend::serve(server(&leaf(&authority, &["a.com"]), None, &["h2"]), |request, _| async move {
            let (send, body) = channel();
            tokio::spawn(async move {
                let mut request = request.into_body();
                while let Some(Ok(frame)) = request.frame().await {
                    if frame.is_data() && send.send(frame).is_err() {
                        return;
                    }
                }
            });
            Response::new(body)
        })
        .await;
    let config = to(backend, UpstreamProtocol::Http2, simple());
    let edge = Edge::trusting(config.snapshot(), &trusting(&authority)).await;
    let tcp = TcpStream::connect(edge.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    let (send, body) = channel();
    let response = sender.send_request(Request::post("http://a.com/").body(body).unwrap());
    let chunk = Bytes::from(vec![5; 16 * 1024]);
    for _ in 0..512 {
        send.send(Frame::data(chunk.clone())).unwrap();
    }
    drop(send);
    let response = tokio::time::timeout(Duration::from_secs(20), response).await.unwrap().unwrap();
    let whole = tokio::time::timeout(Duration::from_secs(20), response.into_body().collect()).await.unwrap().unwrap();
    assert_eq!(whole.to_bytes().len(), 512 * chunk.len());
}

/// A backend that answers early and wants no more has its answer passed on.
#[tokio::test]
async fn an_early_answer_is_passed_on() {
    let authority = Authority::new("ca");
    let identity = leaf(&authority, &["a.com"]);
    let backend = secure_backend::accept(server(&identity, None, &["h2"]), |stream, _| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            let early = Response::builder().status(103).body(()).unwrap();
            respond.send_informational(early).unwrap();
            let response = Response::builder().status(413).body(()).unwrap();
            let mut send = respond.send_response(response, false).unwrap();
            send.send_data(Bytes::from_static(b"too large"), true).unwrap();
            // Dropping an unread request resets its stream.
            drop(request);
        }
    })
    .await;
    let config = to(backend, UpstreamProtocol::Http2, simple());
    let edge = Edge::trusting(config.snapshot(), &trusting(&authority)).await;
    for _ in 0..3 {
        let mut client = Client::connect(edge.address()).await;
        client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1000000\r\n\r\n").await;
        client.send(vec![1; 100]).await;
        assert_eq!(client.answer().await.status, 103);
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (413, "too large"));
    }
}

#[tokio::test]
async fn a_routes_timeout_is_kept() {
    let authority = Authority::new("ca");
    let identity = leaf(&authority, &["a.com"]);
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let backend = secure_backend::serve(server(&identity, None, &["h2", "http/1.1"]), |_, _| async move {
            std::future::pending::<()>().await;
            unreachable!("nobody wakes it")
        })
        .await;
        let config = to(backend, protocol, simple()).edit(|forward| forward.timeout = Some(Duration::from_millis(300)));
        let edge = Edge::trusting(config.snapshot(), &trusting(&authority)).await;
        let start = std::time::Instant::now();
        assert_eq!(get(edge.address(), "/").await.status, 504);
        let tcp = TcpStream::connect(edge.address()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(Request::get("http://a.com/").body(full("")).unwrap()).await.unwrap();
        assert_eq!(response.status(), 504);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        edge.await_request(&["response_code=\"504\"", "response_flags=\"UT\""]).await;
    }
}

#[tokio::test]
async fn refused_tls_connections_are_tried_elsewhere() {
    let authority = Authority::new("ca");
    let well = telling(server(&leaf(&authority, &["a.com"]), None, &["h2", "http/1.1"])).await;
    let stranger = telling(server(&leaf(&Authority::new("other"), &["a.com"]), None, &["h2", "http/1.1"])).await;
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let mut config = Config::new();
        let cluster = config.cluster_of("backend", &[crate::harness::nobody(), stranger, well], protocol);
        config.secure(&cluster, simple());
        let config = config.route(forward(Forward::new(vec![destination(&cluster)])));
        let edge = Edge::trusting(config.snapshot(), &trusting(&authority)).await;
        for _ in 0..6 {
            let answer = once(edge.address(), "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 3\r\n\r\nabc").await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }
}

/// Secrets change all the time and no request notices.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_that_rotate_under_load_cost_no_request() {
    let (authority, clients) = (Authority::new("ca"), Authority::new("clients"));
    let identity = leaf(&authority, &["a.com"]);
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let store = trusting(&authority);
        offer(&store, OWN, leaf(&clients, &["gateway"]).payload());
        let backend = telling(server(&identity, Some(&clients), &["h2", "http/1.1"])).await;
        let edge = Arc::new(Edge::trusting(to(backend, protocol, mutual()).snapshot(), &store).await);
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let load: Vec<_> = (0..8)
            .map(|_| {
                let (address, stop) = (edge.address(), stop.clone());
                tokio::spawn(async move {
                    let mut client = Client::connect(address).await;
                    let mut served = 0;
                    while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                        client.send(host("a.com")).await;
                        let answer = client.answer().await;
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        let others: Vec<Authority> = (0..4).map(|_| Authority::new("other")).collect();
        for round in 0..20 {
            offer(&store, OWN, leaf(&clients, &["gateway"]).payload());
            offer_trust(&store, CA, &[&others[round % 4], &authority], None);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.store(true, std::sync::atomic::Ordering::SeqCst);
        for client in load {
            assert!(client.await.unwrap() > 0);
        }
    }
}

#[tokio::test]
async fn a_burst_of_requests_shares_the_connection_that_the_first_opens() {
    let authority = Authority::new("ca");
    let backend = telling(server(&leaf(&authority, &["a.com"]), None, &["h2"])).await;
    let config = to(backend, UpstreamProtocol::Http2, simple());
    let edge = Edge::trusting(config.snapshot(), &trusting(&authority)).await;
    let tcp = TcpStream::connect(edge.address()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    let calls = (0..50).map(|_| {
        let mut sender = sender.clone();
        async move {
            let response = sender.send_request(Request::get("http://a.com/").body(full("")).unwrap()).await.unwrap();
            assert_eq!(response.status(), 200);
        }
    });
    futures::future::join_all(calls).await;
    let endpoint = &edge.gateway.clusters()[0].endpoints[0];
    assert_eq!((endpoint.cx_total, endpoint.rq_total), (1, 50), "{endpoint:?}");
}

#[tokio::test]
async fn refused_streams_and_unavailable_calls_are_tried_elsewhere_with_their_bodies() {
    let authority = Authority::new("ca");
    let identity = leaf(&authority, &["a.com"]);
    let refusing = secure_backend::accept(server(&identity, None, &["h2"]), |stream, _| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    })
    .await;
    let unavailable = secure_backend::serve(server(&identity, None, &["h2"]), |_, _| async move {
        let response = Response::builder().header("content-type", "application/grpc").header("grpc-status", "14");
        response.body(full("")).unwrap()
    })
    .await;
    let well = secure_backend::serve(server(&identity, None, &["h2"]), |request, _| async move {
        Response::new(full(request.into_body().collect().await.unwrap().to_bytes()))
    })
    .await;
    for unwell in [refusing, unavailable] {
        let mut config = Config::new();
        let cluster = config.cluster_of("backend", &[unwell, well], UpstreamProtocol::Http2);
        config.secure(&cluster, simple());
        let config = config.route(forward(Forward::new(vec![destination(&cluster)])));
        let edge = Edge::trusting(config.snapshot(), &trusting(&authority)).await;
        for _ in 0..6 {
            let grpc =
                "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Type: application/grpc\r\nContent-Length: 3\r\n\r\nmsg";
            let answer = once(edge.address(), grpc).await;
            assert_eq!((answer.status, answer.text()), (200, "msg"), "{answer:?}");
        }
    }
}

/// Whatever a backend answers to whatever request arrives over TLS as it arrives without, in both protocols.
#[tokio::test]
async fn exchanges_over_tls_are_those_in_plaintext() {
    async fn answer(request: Request<hyper::body::Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let response = Response::builder().header("x-method", parts.method.as_str());
        let response = response.header("x-target", parts.uri.path_and_query().unwrap().as_str());
        let response = response.header("x-length", body.len().to_string());
        let cookies: Vec<_> = parts.headers.get_all("cookie").iter().map(|value| value.to_str().unwrap()).collect();
        let response = response.header("x-cookies", cookies.join("; "));
        let forbidden = ["connection", "keep-alive", "x-hop", "proxy-connection", "te", "upgrade"];
        let leaked: Vec<_> = forbidden.iter().filter(|name| parts.headers.contains_key(**name)).copied().collect();
        let response = response.header("x-leaked", leaked.join(","));
        match parts.uri.path() {
            "/204" => response.status(204).body(full("")),
            "/304" => response.status(304).header("etag", "\"x\"").body(full("")),
            "/404" => response.status(404).body(full("not here")),
            // hyper would send a body that answers a HEAD over HTTP/2.
            "/length" if parts.method == "HEAD" => response.header("content-length", "10").body(full("")),
            "/stream" if parts.method == "HEAD" => response.body(full("")),
            "/length" => response.header("content-length", "10").body(full("0123456789")),
            "/stream" => {
                let (send, body) = channel();
                for part in ["one", "two", "three"] {
                    send.send(Frame::data(Bytes::from_static(part.as_bytes()))).unwrap();
                }
                response.body(body)
            }
            _ => response.body(full(body)),
        }
        .unwrap()
    }
    let authority = Authority::new("ca");
    let identity = leaf(&authority, &["a.com"]);
    let plain = crate::backend::serve(answer).await;
    let secure =
        secure_backend::serve(server(&identity, None, &["h2", "http/1.1"]), |request, _| answer(request)).await;
    let chunked = "4\r\nabcd\r\n3\r\nefg\r\n0\r\n\r\n";
    let requests = [
        "GET /?a=%20b&c HTTP/1.1\r\nHost: a.com\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n".to_owned(),
        "HEAD /length HTTP/1.1\r\nHost: a.com\r\n\r\n".into(),
        "HEAD /stream HTTP/1.1\r\nHost: a.com\r\n\r\n".into(),
        "GET /length HTTP/1.1\r\nHost: a.com\r\n\r\n".into(),
        "GET /stream HTTP/1.1\r\nHost: a.com\r\n\r\n".into(),
        "GET /204 HTTP/1.1\r\nHost: a.com\r\n\r\n".into(),
        "GET /304 HTTP/1.1\r\nHost: a.com\r\n\r\n".into(),
        "DELETE /404 HTTP/1.1\r\nHost: a.com\r\n\r\n".into(),
        "OPTIONS / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 0\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\n\r\n"
            .into(),
        format!("POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
        format!("PUT / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 70000\r\n\r\n{}", "z".repeat(70_000)),
    ];
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let mut seen = Vec::new();
        for (backend, tls) in [(plain, None), (secure, Some(simple()))] {
            let mut config = Config::new();
            let cluster = config.cluster_of("backend", &[backend], protocol);
            if let Some(tls) = tls {
                config.secure(&cluster, tls);
            }
            let config = config.route(forward(Forward::new(vec![destination(&cluster)])));
            let edge = Edge::trusting(config.snapshot(), &trusting(&authority)).await;
            let mut client = Client::connect(edge.address()).await;
            let mut answers = Vec::new();
            for request in &requests {
                client.send(request).await;
                let answer = client.try_answer(request.starts_with("HEAD")).await;
                let line = request.lines().next().unwrap();
                let answer = answer.unwrap_or_else(|| panic!("no answer to {line}, {protocol:?}, {}", seen.len()));
                let names = ["content-length", "transfer-encoding", "etag", "x-method", "x-target", "x-length"];
                let names = names.iter().chain(&["x-cookies", "x-leaked", "server", "connection"]);
                let headers: Vec<_> = names.map(|name| (*name, answer.header(name).map(str::to_owned))).collect();
                answers.push((line, answer.status, headers, answer.body.len()));
            }
            seen.push(answers);
        }
        for (plain, secure) in seen[0].iter().zip(&seen[1]) {
            assert_eq!(plain, secure, "{protocol:?}");
        }
    }
}
