//! Which clients are admitted, and what is said of them.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType, SerialNumber, date_time_ymd};
use sha2::{Digest, Sha256};
use tidegate_proxy::Limits;
use tidegate_sds::Payload;
use tidegate_snapshot::{
    AccessLog, AccessLogFormat, ClientCertDetails, ClientValidation, Digest256, ForwardClientCert, ServerTls, Template,
};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::backend::{echo, fixed};
use crate::certificates::{
    Authority, Identity, bytes, client_config, odd_client_config, offer, offer_flawed, offer_trust, secret, trust,
};
use crate::client::Client;
use crate::harness::Config;
use crate::tls_edge::{
    Server, TlsEdge, connect, connect_shared, get, is_answered, is_served, mutual, optional, snapshot, snapshot_with,
    validation,
};

fn judged(validation: ClientValidation) -> ServerTls {
    ServerTls { client_validation: Some(validation), ..mutual("a", "ca") }
}

/// A gateway with one server, a.com, that judges clients by `tls`.
async fn edge_with(tls: ServerTls) -> TlsEdge {
    TlsEdge::start(vec![Server::new("a", &["a.com"], fixed("a").await).tls(tls)]).await
}

async fn admits(edge: &TlsEdge, identity: Option<&Identity>) -> bool {
    is_served(edge.address(), "a.com", edge.client(identity)).await
}

/// webpki knows neither certificates of version 1 nor clients that call themselves authorities; openssl makes both.
#[tokio::test]
async fn certificates_as_openssl_makes_them_are_admitted_if_they_verify() {
    let edge = edge_with(mutual("a", "ca")).await;
    let (clients, strangers) = (Authority::new("clients"), Authority::new("clients"));
    let authority = |it: &mut CertificateParams| {
        it.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        it.key_usages = Vec::new();
    };
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["c".into()]).unwrap();
        authority(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        Identity { chain_pem: certificate.pem(), key_pem: key.serialize_pem() }
    };
    let pems = [clients.pem.as_str(), &self_signed.chain_pem].concat();
    offer(&edge.secrets, "ca", Payload::Trust { authorities: bytes(&pems), crl: None });
    let (good, of_stranger) = (clients.client("c"), strangers.client("c"));
    let with = |edit: fn(&mut CertificateParams)| {
        clients.client_with("c", |it| {
            authority(it);
            edit(it);
        })
    };
    let expired = clients.client_with("c", |it| it.not_after = date_time_ymd(2020, 1, 1));
    let early = clients.client_with("c", |it| it.not_before = date_time_ymd(2090, 1, 1));
    let mut failures = std::collections::HashMap::new();
    let own = |identity: &Identity| (identity.certificates().remove(0), identity.key());
    let old = |identity: &Identity| (clients.in_version_1(identity), identity.key());
    let invalid = Some("client_certificate_invalid");
    let outdated = Some("client_certificate_expired");
    for (case, (certificate, key), reason) in [
        ("version 1", old(&good), None),
        ("authority", own(&with(|_| {})), None),
        ("self-signed and trusted", own(&self_signed), None),
        ("version 1, signed by another key of that name", (strangers.in_version_1(&good), good.key()), invalid),
        ("version 1, of another's key", (clients.in_version_1(&good), of_stranger.key()), invalid),
        ("version 1, expired", old(&expired), outdated),
        ("version 1, not yet valid", old(&early), outdated),
        ("authority, expired", own(&with(|it| it.not_after = date_time_ymd(2020, 1, 1))), outdated),
        (
            "authority, for servers",
            own(&with(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
            invalid,
        ),
        (
            "authority, to sign certificates only",
            own(&with(|it| it.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign])),
            invalid,
        ),
    ] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let config = odd_client_config(&edge.authority, certificate.clone(), key.clone_key(), version);
            let served = is_served(edge.address(), "a.com", config).await;
            assert_eq!(served, reason.is_none(), "{case} {:?}", version.version);
        }
        if let Some(reason) = reason {
            *failures.entry(reason).or_insert(0_u64) += 2;
            edge.await_failure(reason, failures[reason]).await;
        }
    }
    // Nobody can say of them whether they are revoked.
    let version_1 = clients.in_version_1(&good);
    let edge = edge_with(mutual("a", "ca")).await;
    offer_trust(&edge.secrets, "ca", &[&clients], Some(&clients.revocation_list(&[], 2100)));
    let config = odd_client_config(&edge.authority, version_1, good.key(), &rustls::version::TLS13);
    assert!(!is_served(edge.address(), "a.com", config).await);
}

#[tokio::test]
async fn only_certificates_that_verify_are_admitted() {
    let edge = edge_with(mutual("a", "ca")).await;
    let lax = edge_with(optional("a", "ca")).await;
    let (clients, strangers) = (Authority::new("clients"), Authority::new("strangers"));
    for edge in [&edge, &lax] {
        let list = clients.revocation_list(&[7], 2100);
        offer_trust(&edge.secrets, "ca", &[&clients], Some(&list));
    }
    let with = |edit: fn(&mut CertificateParams)| clients.client_with("c", edit);
    let self_signed = {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["c".into()]).unwrap().self_signed(&key).unwrap();
        Identity { chain_pem: certificate.pem(), key_pem: key.serialize_pem() }
    };
    let bad = [
        ("client_certificate_untrusted", strangers.client("c")),
        ("client_certificate_untrusted", self_signed),
        ("client_certificate_expired", with(|it| it.not_after = date_time_ymd(2020, 1, 1))),
        ("client_certificate_expired", with(|it| it.not_before = date_time_ymd(2090, 1, 1))),
        ("client_certificate_invalid", with(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])),
        ("client_certificate_invalid", with(|it| it.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained))),
        ("client_certificate_revoked", with(|it| it.serial_number = Some(SerialNumber::from(7_u64)))),
    ];
    let good = with(|it| it.serial_number = Some(SerialNumber::from(8_u64)));
    for edge in [&edge, &lax] {
        assert!(admits(edge, Some(&good)).await);
        for (number, (reason, identity)) in bad.iter().enumerate() {
            assert!(!admits(edge, Some(identity)).await, "{number}");
            let same = bad[..=number].iter().filter(|(other, _)| other == reason).count();
            edge.await_failure(reason, same as u64).await;
        }
    }
    assert!(!admits(&edge, None).await);
    edge.await_failure("client_certificate_missing", 1).await;
    assert!(admits(&lax, None).await);

    // A list that is over judges nobody; a newer one does again.
    let edge = edge_with(mutual("a", "ca")).await;
    offer_flawed(&edge.secrets, "ca", trust(&[&clients], Some(&clients.revocation_list(&[], 2021))));
    assert!(!admits(&edge, Some(&good)).await);
    offer_trust(&edge.secrets, "ca", &[&clients], Some(&clients.revocation_list(&[], 2100)));
    assert!(admits(&edge, Some(&good)).await);
}

#[tokio::test]
async fn a_session_does_not_outlive_the_certificate_that_began_it() {
    let edge = edge_with(mutual("a", "ca")).await;
    let clients = Authority::new("clients");
    offer_trust(&edge.secrets, "ca", &[&clients], None);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let end = Duration::from_secs(now.as_secs() + 3);
    let identity = clients.client_with("c", |it| it.not_after = date_time_ymd(1970, 1, 1) + end);
    let config = Arc::new(edge.client(Some(&identity)));
    let visit = async || {
        let stream = connect_shared(edge.address(), "a.com", &config).await.unwrap();
        let resumed = stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        (resumed, is_answered(stream, "a.com").await)
    };
    assert_eq!(visit().await, (false, true));
    // Each visit gets tickets for the next; the first that is refused had one.
    let mut visits = 0;
    let last = loop {
        let (resumed, served) = visit().await;
        visits += 1;
        if !served {
            break resumed;
        }
        assert!(resumed && SystemTime::now() < UNIX_EPOCH + end + Duration::from_secs(2));
    };
    assert!(last && visits > 1, "{visits}");
    edge.await_failure("client_certificate_expired", 1).await;
}

#[tokio::test]
async fn names_and_pins_narrow_down_who_is_admitted() {
    let clients = Authority::new("clients");
    let spiffe = "spiffe://cluster.local/ns/a/sa/b";
    let named = |uri: &'static str| {
        clients.client_with("c", move |it| it.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())])
    };
    let (right, wrong) = (named(spiffe), named("spiffe://cluster.local/ns/a/sa/bc"));
    let digest = |bytes: &[u8]| Digest256(Sha256::digest(bytes).into());
    let certificate = digest(&right.certificates()[0]);
    let der = right.certificates().remove(0);
    let spki = {
        use x509_parser::prelude::{FromDer, X509Certificate};
        digest(X509Certificate::from_der(&der).unwrap().1.tbs_certificate.subject_pki.raw)
    };
    let other = Digest256([7; 32]);
    let base = || validation("ca");
    for validation in [
        ClientValidation { subject_alt_names: vec!["x".into(), spiffe.into()], ..base() },
        ClientValidation { certificate_hashes: vec![other, certificate], ..base() },
        ClientValidation { spki_hashes: vec![spki], certificate_hashes: vec![other], ..base() },
        ClientValidation { ca: None, spki_hashes: vec![other, spki], ..base() },
        ClientValidation { ca: None, certificate_hashes: vec![certificate], ..base() },
    ] {
        let edge = edge_with(judged(validation.clone())).await;
        offer_trust(&edge.secrets, "ca", &[&clients], None);
        assert!(admits(&edge, Some(&right)).await, "{validation:?}");
        assert!(!admits(&edge, Some(&wrong)).await, "{validation:?}");
        assert!(!admits(&edge, None).await, "{validation:?}");
        edge.await_failure("client_certificate_not_admitted", 1).await;
    }
    // With nothing to judge by nobody is admitted; where anybody is, a certificate has to be shown all the same.
    let edge = edge_with(judged(ClientValidation { ca: None, ..base() })).await;
    assert!(!admits(&edge, Some(&right)).await);
    let edge = edge_with(judged(ClientValidation { ca: None, accept_untrusted: true, ..base() })).await;
    assert!(admits(&edge, Some(&Authority::new("strangers").client("c"))).await);
    assert!(!admits(&edge, None).await);
}

#[tokio::test]
async fn a_missing_revocation_list_admits_nobody() {
    let clients = Authority::new("clients");
    let tls = judged(ClientValidation { crl: Some(secret("crl")), ..validation("ca") });
    let edge = edge_with(tls).await;
    offer_trust(&edge.secrets, "ca", &[&clients], None);
    assert!(!admits(&edge, Some(&clients.client("c"))).await);
    edge.await_failure("no_authorities", 1).await;
    let list = crate::certificates::bytes(&clients.revocation_list(&[], 2100));
    offer(&edge.secrets, "crl", tidegate_sds::Payload::Crl(list));
    assert!(admits(&edge, Some(&clients.client("c"))).await);
}

/// A client with everything that a certificate can say of it.
fn rich(clients: &Authority) -> Identity {
    clients.client_with("Me, \"myself\" + I", |it| {
        it.distinguished_name.push(DnType::OrganizationName, "Ünited; ops");
        it.serial_number = Some(SerialNumber::from(0xabcd_u64));
        it.not_before = date_time_ymd(2020, 1, 2);
        it.not_after = date_time_ymd(2120, 3, 4);
        it.subject_alt_names = vec![
            SanType::URI("spiffe://cluster.local/ns/a/sa/b".try_into().unwrap()),
            SanType::URI("urn:x;URI=spiffe://evil,By=\"y\"".try_into().unwrap()),
            SanType::DnsName("c.example.com".try_into().unwrap()),
        ];
    })
}

const SUBJECT: &str = "O=\\C3\\9Cnited\\; ops,CN=Me\\, \\\"myself\\\" \\+ I";
const URIS: &str = "URI=spiffe://cluster.local/ns/a/sa/b;URI=\"urn:x;URI=spiffe://evil,By=\\\"y\\\"\"";

/// What a backend sees in x-forwarded-client-cert of a client that sends `sent`.
async fn forwarded(edge: &TlsEdge, identity: Option<&Identity>, sent: &[&str]) -> Option<String> {
    let mut client = Client::over(connect(edge.address(), "a.com", edge.client(identity)).await.unwrap());
    let sent: String = sent.iter().map(|value| format!("X-Forwarded-Client-Cert: {value}\r\n")).collect();
    let mut seen = Vec::new();
    for _ in 0..2 {
        client.send(format!("GET / HTTP/1.1\r\nHost: a.com\r\n{sent}\r\n")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        let lines: Vec<_> = answer.text().lines().filter(|it| it.starts_with("x-forwarded-client-cert: ")).collect();
        assert!(lines.len() <= 1, "{lines:?}");
        seen.push(answer.seen("x-forwarded-client-cert").map(str::to_owned));
    }
    assert_eq!(seen[0], seen[1]);
    seen.remove(0)
}

#[tokio::test]
async fn backends_are_told_of_the_clients_certificate_as_configured() {
    let clients = Authority::new("clients");
    let identity = rich(&clients);
    let hash: String = Sha256::digest(&identity.certificates()[0]).iter().map(|byte| format!("{byte:02x}")).collect();
    let pem = identity.chain_pem.replace("\r\n", "\n");
    let pem = pem.replace('\n', "%0A").replace(' ', "%20").replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    let spoof = "By=x;URI=spiffe://evil";
    let full = format!("Hash={hash};Cert=\"{pem}\";Subject=\"{SUBJECT}\";{URIS};DNS=c.example.com");
    let nothing = ClientCertDetails { subject: false, cert: false, chain: false, dns: false, uri: false };
    let default = ClientCertDetails::default();
    let short = format!("Hash={hash}");
    let chain = format!("Hash={hash};Chain=\"{pem}\"");
    let with_chain = ClientCertDetails { chain: true, ..nothing };
    let both = format!("{spoof},Hash=00,{short}");
    use ForwardClientCert::{AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet};
    for (mode, details, with_certificate, without) in [
        (Sanitize, default, None, None),
        (SanitizeSet, default, Some(full.as_str()), None),
        (SanitizeSet, nothing, Some(&*short), None),
        (SanitizeSet, with_chain, Some(&*chain), None),
        (AppendForward, nothing, Some(&*both), None),
        (ForwardOnly, default, Some(spoof), None),
        (AlwaysForwardOnly, default, Some(spoof), Some(spoof)),
    ] {
        let mut config = Config::new();
        config.mesh.forward_client_cert = mode;
        config.mesh.client_cert_details = details;
        let servers = vec![Server::new("a", &["a.com"], echo("a").await).tls(optional("a", "ca"))];
        let edge = TlsEdge::with(config, servers, Limits::default()).await;
        offer_trust(&edge.secrets, "ca", &[&clients], None);
        let sent: &[&str] = if mode == AppendForward { &[spoof, "Hash=00"] } else { &[spoof] };
        assert_eq!(forwarded(&edge, Some(&identity), sent).await.as_deref(), with_certificate, "{mode:?} {details:?}");
        assert_eq!(forwarded(&edge, None, sent).await.as_deref(), without, "{mode:?}");
        if mode == AppendForward {
            assert_eq!(forwarded(&edge, Some(&identity), &[]).await, Some(short.clone()));
        }
    }
}

#[tokio::test]
async fn what_backends_are_told_follows_the_configuration_on_open_connections() {
    let clients = Authority::new("clients");
    let backend = echo("a").await;
    let with = |details| {
        let mut config = Config::new();
        config.mesh.client_cert_details = details;
        snapshot_with(config, vec![Server::new("a", &["a.com"], backend).tls(mutual("a", "ca"))])
    };
    let edge = TlsEdge::start(vec![Server::new("a", &["a.com"], backend).tls(mutual("a", "ca"))]).await;
    offer_trust(&edge.secrets, "ca", &[&clients], None);
    let identity = clients.client("c");
    let mut client = Client::over(connect(edge.address(), "a.com", edge.client(Some(&identity))).await.unwrap());
    let nothing = ClientCertDetails { subject: false, cert: false, chain: false, dns: false, uri: false };
    for (details, keys) in [
        (ClientCertDetails { subject: true, ..nothing }, "Subject=\"CN=c\""),
        (ClientCertDetails { uri: true, ..nothing }, "URI="),
    ] {
        edge.edge.publish(with(details)).await;
        client.send(get("a.com")).await;
        let answer = client.answer().await;
        let seen = answer.seen("x-forwarded-client-cert").unwrap();
        assert!(seen.starts_with("Hash=") && seen.ends_with(&format!(";{keys}")), "{seen}");
    }
}

#[tokio::test]
async fn the_gateways_own_uri_is_told_too() {
    let clients = Authority::new("clients");
    let mut config = Config::new();
    let nothing = ClientCertDetails { subject: false, cert: false, chain: false, dns: false, uri: true };
    config.mesh.client_cert_details = nothing;
    let servers = vec![Server::new("a", &["a.com"], echo("a").await).tls(mutual("a", "ca"))];
    let edge = TlsEdge::with(config, servers, Limits::default()).await;
    let own = edge.authority.issue(KeyPair::generate().unwrap(), &["a.com"], |it| {
        it.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/i/sa/gateway".try_into().unwrap()));
    });
    offer(&edge.secrets, "a", own.payload());
    offer_trust(&edge.secrets, "ca", &[&clients], None);
    let seen = forwarded(&edge, Some(&clients.client("c")), &[]).await.unwrap();
    assert!(seen.starts_with("By=spiffe://cluster.local/ns/i/sa/gateway;Hash="), "{seen}");
    assert!(seen.ends_with(";URI="), "{seen}");
}

#[tokio::test]
async fn access_logs_say_who_came_and_how() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut config = Config::new();
    let format = "%REQUESTED_SERVER_NAME%|%DOWNSTREAM_TLS_VERSION%|%DOWNSTREAM_TLS_CIPHER%|%DOWNSTREAM_PEER_SUBJECT%|\
                  %DOWNSTREAM_PEER_ISSUER%|%DOWNSTREAM_PEER_URI_SAN%|%DOWNSTREAM_PEER_DNS_SAN%|\
                  %DOWNSTREAM_PEER_FINGERPRINT_256%|%DOWNSTREAM_PEER_SERIAL%|%DOWNSTREAM_PEER_CERT_V_START%|\
                  %DOWNSTREAM_PEER_CERT_V_END(%Y)%|%RESPONSE_CODE%|%RESPONSE_FLAGS%|%RESPONSE_CODE_DETAILS%\n";
    config.mesh.access_log = Some(AccessLog {
        path: path.to_str().unwrap().into(),
        format: AccessLogFormat::Text(Template::parse(format).unwrap()),
    });
    let clients = Authority::new("clients");
    let servers = vec![Server::new("a", &["a.com"], fixed("a").await).tls(optional("a", "ca"))];
    let edge = TlsEdge::with(config, servers, Limits::default()).await;
    offer_trust(&edge.secrets, "ca", &[&clients], None);
    let identity = rich(&clients);
    for (identity, host) in [(Some(&identity), "a.com"), (None, "a.com"), (None, "b.com")] {
        let mut client = Client::over(connect(edge.address(), "a.com", edge.client(identity)).await.unwrap());
        client.send(get(host)).await;
        client.answer().await;
    }
    assert!(connect(edge.address(), "nobody.com", client_config(&edge.authority, None)).await.is_err());
    edge.await_failure("no_filter_chain", 1).await;
    // Somebody who does not speak TLS.
    let mut plain = TcpStream::connect(edge.address()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await.unwrap();
    edge.await_failure("malformed", 1).await;
    edge.edge.gateway.drain(std::time::Duration::ZERO, std::time::Duration::from_secs(5)).await;
    let log = std::fs::read_to_string(path).unwrap();
    let lines: Vec<Vec<&str>> = log.lines().map(|line| line.split('|').collect()).collect();
    let hash: String = Sha256::digest(&identity.certificates()[0]).iter().map(|byte| format!("{byte:02x}")).collect();
    let cipher = "TLS_AES_128_GCM_SHA256";
    // Quotes and backslashes do not reach a log as they are.
    let subject = SUBJECT.replace('\\', "\\x5C").replace('"', "\\x22");
    let uris = "spiffe://cluster.local/ns/a/sa/b,urn:x;URI=spiffe://evil,By=\\x22y\\x22";
    assert_eq!(
        lines[0],
        [
            "a.com",
            "TLSv1.3",
            cipher,
            &subject,
            "CN=clients",
            uris,
            "c.example.com",
            &hash,
            "abcd",
            "2020-01-02T00:00:00.000Z",
            "2120",
            "200",
            "-",
            "via_upstream"
        ]
    );
    let absent = |name, version, cipher, code, flags, details| {
        let mut line = vec![name, version, cipher];
        line.extend(["-"; 8]);
        line.extend([code, flags, details]);
        line
    };
    assert_eq!(lines[1], absent("a.com", "TLSv1.3", cipher, "200", "-", "via_upstream"));
    assert_eq!(lines[2], absent("a.com", "TLSv1.3", cipher, "421", "-", "misdirected_request"));
    assert_eq!(lines[3], absent("nobody.com", "-", "-", "0", "NR", "filter_chain_not_found"));
    assert_eq!(lines[4], absent("-", "-", "-", "0", "NR", "filter_chain_not_found"));
    assert_eq!(lines.len(), 5);
}

#[tokio::test]
async fn connections_of_no_server_are_not_logged_where_that_is_switched_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut config = Config::new();
    config.mesh.disable_listener_log = true;
    config.mesh.access_log = Some(AccessLog {
        path: path.to_str().unwrap().into(),
        format: AccessLogFormat::Text(Template::parse("%RESPONSE_FLAGS%\n").unwrap()),
    });
    let edge = TlsEdge::with(config, vec![Server::new("a", &["a.com"], fixed("a").await)], Limits::default()).await;
    assert!(connect(edge.address(), "nobody.com", edge.client(None)).await.is_err());
    edge.await_failure("no_filter_chain", 1).await;
    edge.edge.publish(snapshot(vec![])).await;
    edge.edge.gateway.drain(std::time::Duration::ZERO, std::time::Duration::from_secs(5)).await;
    assert_eq!(std::fs::read_to_string(path).unwrap(), "");
}
