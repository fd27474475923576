//! Our client against our server, and both against peers that misbehave.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::raw::{Raw, delta, request};
use common::{
    Authority, Running, client, folder, leaf, offer, provider, soon, trust, until_client, until_leaf, version,
};
use tidegate_core::SecretName;
use tidegate_sds::{Payload, SecretStore};
use tidegate_sds_wire::{
    Authorization, BindError, ClientTls, ConnectionState, Limits, NameState, ResourceState, SdsServer, ServerOptions,
    TcpOptions, TcpSecurity, UnixOptions,
};
use tonic::Code;

const WEB: &str = "kubernetes://ns/web";

fn unix(path: &std::path::Path) -> String {
    format!("unix://{}", path.display())
}

#[tokio::test]
async fn the_client_follows_a_rotation_and_what_comes_later() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let (theirs, authority) = (Arc::new(SecretStore::default()), Authority::new());
    let first = authority.server("a.example");
    offer(&theirs, WEB, first.payload());
    let server = Running::unix(&path, &theirs);
    let (client, ours) = client(provider("p", &unix(&path)), &["sds://p/kubernetes://ns/web", "sds://p/later"]);
    let (web, later) = ("sds://p/kubernetes://ns/web", "sds://p/later");
    until_leaf(&ours, web, &first.leaf).await;
    assert!(ours.get(&SecretName::new(later)).is_none());

    let second = authority.server("a.example");
    offer(&theirs, WEB, second.payload());
    until_leaf(&ours, web, &second.leaf).await;
    offer(&theirs, "later", trust(&authority.pem()));
    let status = until_client(&client, "what comes later", |status| {
        status.names.iter().all(|name| name.state == NameState::Accepted)
    })
    .await;
    assert_eq!(version(&ours, &SecretName::new(later)), 1);
    assert_eq!((status.state, status.acks, status.nacks), (ConnectionState::Connected, 3, 0));
    server.until("the server has every ACK", |monitor| monitor.counters().acks == 3).await;
    let stream = server.monitor.streams().remove(0);
    assert_eq!((stream.names, stream.waiting, stream.responses, stream.node.as_str()), (2, 0, 3, "tidegate"));
    client.stop().await;
    server.until("the stream ends with the client", |monitor| monitor.streams().is_empty()).await;
    server.stop().await;
}

/// They are asked for in several streams, so that the work does not grow with the square of their number.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_secrets_come_from_one_provider_and_follow_its_rotations() {
    const SECRETS: usize = 1000;
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let (theirs, authority) = (Arc::new(SecretStore::default()), Authority::new());
    let names: Vec<_> = (0..SECRETS).map(|secret| format!("kubernetes://ns/{secret}")).collect();
    for name in &names {
        offer(&theirs, name, authority.server("a.example").payload());
    }
    let server = Running::unix(&path, &theirs);
    let ours: Vec<_> = names.iter().map(|name| format!("sds://p/{name}")).collect();
    let wanted: Vec<_> = ours.iter().map(String::as_str).collect();
    let (client, store) = client(provider("p", &unix(&path)), &wanted);
    until_client(&client, "all arrive", |status| status.acks == SECRETS as u64).await;
    server.until("all are acknowledged", |monitor| monitor.counters().acks == SECRETS as u64).await;
    let streams = server.monitor.streams();
    assert_eq!(streams.iter().map(|stream| stream.names).sum::<usize>(), SECRETS);
    assert!(streams.len() > 1 && streams.iter().all(|stream| stream.names < SECRETS / 4), "{}", streams.len());
    let last = authority.server("a.example");
    offer(&theirs, &names[SECRETS - 1], last.payload());
    until_leaf(&store, &ours[SECRETS - 1], &last.leaf).await;
    assert_eq!(client.status().connections, 1);
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn wanted_names_change_without_a_new_connection() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let (theirs, authority) = (Arc::new(SecretStore::default()), Authority::new());
    let (a, b) = (authority.server("a.example"), authority.server("b.example"));
    offer(&theirs, "a", a.payload());
    offer(&theirs, "b", b.payload());
    let server = Running::unix(&path, &theirs);
    let (client, ours) = client(provider("p", &unix(&path)), &["sds://p/nothing"]);
    server.until("it is subscribed", |monitor| monitor.counters().subscriptions == 1).await;
    client.want(&[SecretName::new("sds://p/a"), SecretName::new("sds://other/b"), SecretName::new("b")]);
    until_leaf(&ours, "sds://p/a", &a.leaf).await;
    client.want(&[SecretName::new("sds://p/b")]);
    until_leaf(&ours, "sds://p/b", &b.leaf).await;
    assert_eq!(leaf(&ours, "sds://p/a"), Some(a.leaf), "withdrawn, and serving on");
    server.until("only one is left", |monitor| monitor.counters().subscriptions == 1).await;
    client.want(&[]);
    until_client(&client, "it is idle", |status| status.state == ConnectionState::Idle).await;
    assert_eq!(client.status().connections, 1);
    server.until("it left", |monitor| monitor.counters().connections_open == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn the_client_comes_back_to_a_server_that_restarted_and_keeps_what_it_has_until_then() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let (theirs, authority) = (Arc::new(SecretStore::default()), Authority::new());
    let first = authority.server("a.example");
    offer(&theirs, "a", first.payload());
    let server = Running::unix(&path, &theirs);
    let (client, ours) = client(provider("p", &unix(&path)), &["sds://p/a"]);
    until_leaf(&ours, "sds://p/a", &first.leaf).await;
    server.stop().await;
    assert!(!path.exists(), "the socket goes with the server");
    let status = until_client(&client, "it notices", |status| status.state == ConnectionState::BackingOff).await;
    assert!(status.last_error.is_some());
    until_client(&client, "it tries again", |status| {
        status.last_error.as_ref().is_some_and(|error| error.contains("No such file"))
    })
    .await;
    assert_eq!(leaf(&ours, "sds://p/a"), Some(first.leaf));

    let second = authority.server("a.example");
    offer(&theirs, "a", second.payload());
    let server = Running::unix(&path, &theirs);
    until_leaf(&ours, "sds://p/a", &second.leaf).await;
    until_client(&client, "it is connected", |status| status.state == ConnectionState::Connected).await;
    server.stop().await;
}

#[tokio::test]
async fn a_name_that_a_client_may_not_read_looks_like_one_that_does_not_exist() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let (theirs, authority) = (Arc::new(SecretStore::default()), Authority::new());
    offer(&theirs, "kubernetes://public/a", authority.server("a.example").payload());
    offer(&theirs, "kubernetes://secret/a", authority.server("b.example").payload());
    let options = ServerOptions {
        unix: Some(UnixOptions::new(&path)),
        authorization: Authorization::from_text("same-user kubernetes://public/*").unwrap(),
        aliases: BTreeMap::from([("backdoor".to_owned(), SecretName::new("kubernetes://secret/a"))]),
        ..Default::default()
    };
    let server = Running::start(options, &theirs);
    let mut raw = Raw::unix(&path).await;
    let mut stream = raw.stream().await;
    let wanted = ["kubernetes://secret/a", "backdoor", "kubernetes://public/none", "kubernetes://public/a"];
    stream.send(request("", &wanted)).await;
    assert_eq!(stream.next_name().await, "kubernetes://public/a");
    offer(&theirs, "kubernetes://secret/a", authority.server("b.example").payload());
    offer(&theirs, "kubernetes://public/a", authority.server("a.example").payload());
    assert_eq!(stream.next_name().await, "kubernetes://public/a", "the other rotation is not told");
    assert_eq!(server.monitor.counters().names_refused, 2);
    let states: Vec<_> =
        server.monitor.streams().remove(0).resources.into_iter().map(|it| (it.name, it.state)).collect();
    assert_eq!(states.iter().filter(|(_, state)| *state == ResourceState::Refused).count(), 2, "{states:?}");

    let answer = raw.fetch(request("", &wanted)).await.unwrap();
    assert_eq!(answer.resources.len(), 1);
    assert_eq!(server.monitor.counters().names_refused, 4);
    drop((stream, raw));
    server.stop().await;
}

#[tokio::test]
async fn a_user_for_whom_no_rule_is_is_not_spoken_with() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let options = ServerOptions {
        unix: Some(UnixOptions::new(&path)),
        authorization: Authorization::from_text("uid:4000000000 *").unwrap(),
        ..Default::default()
    };
    let server = Running::start(options, &Arc::new(SecretStore::default()));
    let (client, _) = client(provider("p", &unix(&path)), &["sds://p/a"]);
    until_client(&client, "it is turned away", |status| status.last_error.is_some()).await;
    assert!(server.monitor.counters().connections_refused > 0);
    assert_eq!(server.monitor.counters().connections, 0);
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn the_incremental_variant_sends_what_changes_and_what_goes() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let (theirs, authority) = (Arc::new(SecretStore::default()), Authority::new());
    offer(&theirs, "a", authority.server("a.example").payload());
    let server = Running::unix(&path, &theirs);
    let mut raw = Raw::unix(&path).await;
    let mut stream = raw.delta().await;
    stream.send(delta(&["a", "b"], &[])).await;
    let first = stream.next().await;
    assert_eq!((first.resources.len(), first.resources[0].name.as_str()), (1, "a"));
    offer(&theirs, "b", authority.server("b.example").payload());
    assert_eq!(stream.next().await.resources[0].name, "b");
    offer(&theirs, "a", authority.server("a.example").payload());
    let rotated = stream.next().await;
    assert_ne!(rotated.resources[0].version, first.resources[0].version);

    theirs.withdraw(&[SecretName::new("a")]);
    theirs.release(|_| false);
    assert_eq!(stream.next().await.removed_resources, ["a"]);
    stream.send(delta(&[], &["a"])).await;
    server.until("it is unsubscribed", |monitor| monitor.counters().subscriptions == 1).await;

    let versions = std::collections::HashMap::from([("b".to_owned(), version_of(&server, "b"))]);
    drop(stream);
    let mut again = raw.delta().await;
    let mut reconnect = delta(&["b", "c"], &[]);
    reconnect.initial_resource_versions = versions;
    again.send(reconnect).await;
    offer(&theirs, "c", authority.server("c.example").payload());
    assert_eq!(again.next().await.resources[0].name, "c", "b is known");
    drop((again, raw));
    server.stop().await;
}

fn version_of(server: &Running, name: &str) -> String {
    let streams = server.monitor.streams();
    let mut resources = streams.iter().flat_map(|stream| &stream.resources);
    resources.find(|resource| resource.name == name).unwrap().version.clone()
}

#[tokio::test]
async fn what_the_store_refuses_is_rejected_with_its_reason_and_the_rest_is_taken() {
    use common::provider::{Provider, files, resource, tickets};

    let folder = folder();
    let path = folder.path().join("provider.sock");
    let mut provider_side = Provider::start(&path);
    let (client, ours) =
        client(provider("p", &unix(&path)), &["sds://p/a", "sds://p/b", "sds://p/files", "sds://p/tickets"]);
    let first = provider_side.request().await;
    assert_eq!(first.resource_names, ["a", "b", "files", "tickets"]);
    assert_eq!((first.version_info.as_str(), first.response_nonce.as_str()), ("", ""));

    let authority = Authority::new();
    let (a, b) = (authority.server("a.example"), authority.server("b.example"));
    provider_side.respond("1", "n1", vec![resource("a", &a), resource("unasked", &a)]).await;
    let ack = provider_side.request().await;
    assert_eq!((ack.version_info.as_str(), ack.response_nonce.as_str(), ack.error_detail), ("1", "n1", None));
    assert_eq!(leaf(&ours, "sds://p/a"), Some(a.leaf.clone()));
    assert!(ours.get(&SecretName::new("sds://p/unasked")).is_none());

    let mixed = common::Pair { chain: b.chain.clone(), key: a.key.clone(), leaf: b.leaf.clone() };
    provider_side.respond("2", "n2", vec![resource("a", &mixed), resource("b", &b)]).await;
    let nack = provider_side.request().await;
    let error = nack.error_detail.unwrap().message;
    assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("1", "n2"), "what it had is what it has");
    assert!(error.starts_with("a: ") && error.contains("key"), "{error}");
    assert!(!error.contains("BEGIN"), "{error}");
    assert_eq!((leaf(&ours, "sds://p/a"), leaf(&ours, "sds://p/b")), (Some(a.leaf.clone()), Some(b.leaf.clone())));
    let status = client.status();
    assert_eq!((status.acks, status.nacks), (1, 1));
    let states: Vec<_> = status.names.iter().map(|name| name.state).collect();
    assert_eq!(states, [NameState::Refused, NameState::Accepted, NameState::Waiting, NameState::Waiting]);

    provider_side.respond("3", "n3", vec![files("files"), tickets("tickets")]).await;
    let error = provider_side.request().await.error_detail.unwrap().message;
    assert!(error.contains("files: ") && error.contains("not inline"), "{error}");
    assert!(error.contains("tickets: ") && error.contains("session ticket keys"), "{error}");
    provider_side.respond("4", "n4", vec![resource("a", &a), resource("b", &b)]).await;
    let ack = provider_side.request().await;
    assert_eq!((ack.version_info.as_str(), ack.error_detail), ("4", None));
    client.stop().await;
}

#[tokio::test]
async fn over_tls_the_names_in_a_certificate_say_what_may_be_read() {
    let folder = folder();
    let (servers, clients) = (Authority::new(), Authority::new());
    let theirs = Arc::new(SecretStore::default());
    let pair = servers.server("a.example");
    offer(&theirs, "kubernetes://edge/a", pair.payload());
    offer(&theirs, "kubernetes://other/a", servers.server("b.example").payload());
    offer(&theirs, "server", servers.server("sds.example").payload());
    offer(&theirs, "clients", trust(&clients.pem()));
    let options = ServerOptions {
        tcp: Some(TcpOptions {
            address: "127.0.0.1:0".parse().unwrap(),
            security: TcpSecurity::Tls {
                certificate: vec![SecretName::new("missing"), SecretName::new("server")],
                client_authorities: vec![SecretName::new("clients")],
            },
        }),
        authorization: Authorization::from_text("spiffe://td/ns/edge/sa/* kubernetes://edge/*").unwrap(),
        ..Default::default()
    };
    let server = Running::start(options, &theirs);
    let address = format!("https://127.0.0.1:{}", server.tcp.unwrap().port());
    let authorities = folder.path().join("ca.pem");
    std::fs::write(&authorities, servers.pem()).unwrap();
    let options = |spiffe: Option<&str>| {
        let mut options = provider("p", &address);
        let identity =
            spiffe.map(|spiffe| clients.client(spiffe).write(folder.path(), &spiffe.replace([':', '/'], "-")));
        options.tls =
            ClientTls { authorities: Some(authorities.clone()), identity, server_name: Some("sds.example".to_owned()) };
        options
    };
    let names = ["sds://p/kubernetes://edge/a", "sds://p/kubernetes://other/a"];

    let (edge, ours) = client(options(Some("spiffe://td/ns/edge/sa/gw")), &names);
    until_leaf(&ours, names[0], &pair.leaf).await;
    server.until("the other name is refused", |monitor| monitor.counters().names_refused == 1).await;
    assert_eq!(server.monitor.streams()[0].identity, "spiffe://td/ns/edge/sa/gw");

    let (stranger, _) = client(options(Some("spiffe://td/ns/other/sa/gw")), &names);
    until_client(&stranger, "a stranger is turned away", |status| status.last_error.is_some()).await;
    let (nobody, _) = client(options(None), &names);
    until_client(&nobody, "who shows nothing is turned away", |status| status.last_error.is_some()).await;
    server
        .until("and counted", |monitor| {
            monitor.counters().handshake_failures > 0 && monitor.counters().connections_refused > 0
        })
        .await;
    stranger.stop().await;
    nobody.stop().await;

    let mut wrong = options(Some("spiffe://td/ns/edge/sa/gw"));
    wrong.tls.server_name = Some("another.example".to_owned());
    let (deceived, _) = client(wrong, &names);
    let status = until_client(&deceived, "another server's name", |status| status.last_error.is_some()).await;
    assert!(status.last_error.as_ref().unwrap().contains("not valid for name"), "{:?}", status.last_error);

    // The server's own certificate and authorities rotate as any other.
    let successor = Authority::new();
    std::fs::write(&authorities, successor.pem()).unwrap();
    offer(&theirs, "server", successor.server("sds.example").payload());
    let (after, ours) = client(options(Some("spiffe://td/ns/edge/sa/new")), &names);
    until_leaf(&ours, names[0], &pair.leaf).await;
    assert_eq!(edge.status().connections, 1, "who is connected stays");
    deceived.stop().await;

    // Without their authority, clients are cut off and do not come back.
    offer(&theirs, "clients", trust(&Authority::new().pem()));
    server.until("former clients are gone", |monitor| monitor.counters().connections_open == 0).await;
    let failures = server.monitor.counters().handshake_failures;
    server.until("and turned away", |monitor| monitor.counters().handshake_failures > failures + 2).await;
    assert_eq!(server.monitor.counters().connections_open, 0);
    drop((edge, after));
    server.stop().await;
}

#[tokio::test]
async fn plaintext_is_for_loopback_and_only_rules_for_everybody_admit_there() {
    let store = Arc::new(SecretStore::default());
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let tcp = |address: &str, security| ServerOptions {
        tcp: Some(TcpOptions { address: address.parse().unwrap(), security }),
        authorization: Authorization::from_text("any kubernetes://public/*").unwrap(),
        ..Default::default()
    };
    let exposed = SdsServer::bind(tcp("0.0.0.0:0", TcpSecurity::PlaintextOnLoopback), store.clone());
    assert!(matches!(exposed, Err(BindError::Plaintext(_))));
    assert!(SdsServer::bind(tcp("0.0.0.0:0", TcpSecurity::PlaintextAnywhere), store.clone()).is_ok());
    let nameless = TcpSecurity::Tls { certificate: Vec::new(), client_authorities: Vec::new() };
    assert!(matches!(SdsServer::bind(tcp("127.0.0.1:0", nameless), store.clone()), Err(BindError::NoCertificate(_))));

    let pair = Authority::new().server("a.example");
    offer(&store, "kubernetes://public/a", pair.payload());
    let server = Running::start(tcp("127.0.0.1:0", TcpSecurity::PlaintextOnLoopback), &store);
    let address = format!("http://{}", server.tcp.unwrap());
    let (client, ours) = client(provider("p", &address), &["sds://p/kubernetes://public/a"]);
    until_leaf(&ours, "sds://p/kubernetes://public/a", &pair.leaf).await;
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn limits_end_the_stream_that_breaks_them_and_no_other() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let theirs = Arc::new(SecretStore::default());
    let options = ServerOptions {
        unix: Some(UnixOptions::new(&path)),
        limits: Limits { names_per_stream: 2, names: 3, streams: 3, connections: 2, ..Limits::default() },
        ..Default::default()
    };
    let server = Running::start(options, &theirs);
    let mut raw = Raw::unix(&path).await;
    let mut good = raw.stream().await;
    good.send(request("", &["a"])).await;
    server.until("one name", |monitor| monitor.counters().subscriptions == 1).await;
    let mut greedy = raw.stream().await;
    greedy.send(request("", &["a", "b", "c"])).await;
    assert_eq!(greedy.end().await.code(), Code::ResourceExhausted);
    let mut other_type = request("", &["a"]);
    other_type.type_url = "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned();
    let mut wrong = raw.stream().await;
    wrong.send(other_type).await;
    assert_eq!(wrong.end().await.code(), Code::InvalidArgument);
    server.until("only the good one is left", |monitor| monitor.counters().streams_open == 1).await;

    let second = raw.stream().await;
    second.send(request("", &["b", "c"])).await;
    server.until("three names", |monitor| monitor.counters().subscriptions == 3).await;
    let mut third = raw.stream().await;
    third.send(request("", &["d"])).await;
    assert_eq!(third.end().await.code(), Code::ResourceExhausted, "all streams together have too many names");
    drop((greedy, wrong, third));
    server.until("two are left", |monitor| monitor.counters().streams_open == 2).await;
    let idle = raw.stream().await;
    idle.send(request("", &[])).await;
    server.until("three streams", |monitor| monitor.counters().streams_open == 3).await;
    // In one connection, HTTP/2 itself would make it wait.
    let mut second_connection = Raw::unix(&path).await;
    assert_eq!(second_connection.try_stream().await.unwrap_err().code(), Code::ResourceExhausted);
    server.until("two connections", |monitor| monitor.counters().connections_open == 2).await;
    let (client, _) = client(provider("p", &unix(&path)), &["sds://p/a"]);
    until_client(&client, "a third is turned away", |status| status.last_error.is_some()).await;
    client.stop().await;

    offer(&theirs, "a", Authority::new().server("a.example").payload());
    assert_eq!(good.next_name().await, "a", "who kept the limits is served");
    drop((good, second, idle, raw, second_connection));
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed() {
    use tokio::io::AsyncReadExt as _;

    let folder = folder();
    let path = folder.path().join("sds.sock");
    let options = ServerOptions {
        unix: Some(UnixOptions::new(&path)),
        limits: Limits { handshake: std::time::Duration::from_millis(20), ..Limits::default() },
        ..Default::default()
    };
    let server = Running::start(options, &Arc::new(SecretStore::default()));
    let mut silent = tokio::net::UnixStream::connect(&path).await.unwrap();
    let mut rest = Vec::new();
    let _ = soon("it is closed", silent.read_to_end(&mut rest)).await;
    server.until("and gone", |monitor| monitor.counters().connections_open == 0).await;
    server.stop().await;
}

#[tokio::test]
async fn rubbish_closes_its_own_connection_only() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let folder = folder();
    let path = folder.path().join("sds.sock");
    let theirs = Arc::new(SecretStore::default());
    let server = Running::unix(&path, &theirs);
    let mut raw = Raw::unix(&path).await;
    let mut stream = raw.stream().await;
    stream.send(request("", &["a"])).await;
    server.until("it is subscribed", |monitor| monitor.counters().subscriptions == 1).await;
    for rubbish in
        [&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], &[0xff; 4096], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff"]
    {
        let mut connection = tokio::net::UnixStream::connect(&path).await.unwrap();
        let _ = connection.write_all(rubbish).await;
        let _ = connection.shutdown().await;
        let mut rest = Vec::new();
        let _ = soon("it is closed", connection.read_to_end(&mut rest)).await;
    }
    server.until("only ours is left", |monitor| monitor.counters().connections_open == 1).await;
    offer(&theirs, "a", Authority::new().server("a.example").payload());
    assert_eq!(stream.next_name().await, "a");
    drop((stream, raw));
    server.stop().await;
}

/// As an Envoy with a secret for each of its many hosts, when it starts.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_streams_may_begin_at_once_in_one_connection() {
    const STREAMS: usize = 8000;
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let theirs = Arc::new(SecretStore::default());
    offer(&theirs, "a", Authority::new().server("a.example").payload());
    let server = Running::unix(&path, &theirs);
    let raw = Raw::unix(&path).await;
    let opening = (0..STREAMS).map(|_| {
        let mut raw = raw.clone();
        tokio::spawn(async move {
            let mut stream = raw.subscribed(request("", &["a"])).await;
            assert_eq!(stream.next_name().await, "a");
            stream
        })
    });
    let opening: Vec<_> = opening.collect();
    let streams = futures::future::try_join_all(opening).await.unwrap();
    assert_eq!(server.monitor.counters().streams_open, STREAMS as u64);
    drop((streams, raw));
    server.stop().await;
}

#[tokio::test]
async fn a_response_that_is_too_large_is_not_taken_in() {
    use common::provider::{Provider, resource};

    let folder = folder();
    let path = folder.path().join("provider.sock");
    let mut provider_side = Provider::start(&path);
    let mut options = provider("p", &unix(&path));
    options.response_bytes = 1000;
    let (client, ours) = client(options, &["sds://p/a"]);
    provider_side.request().await;
    let mut pair = Authority::new().server("a.example");
    pair.chain = pair.chain.repeat(10);
    provider_side.respond("1", "n1", vec![resource("a", &pair)]).await;
    let status = until_client(&client, "it is refused", |status| {
        status.last_error.as_ref().is_some_and(|error| error.contains("OutOfRange"))
    })
    .await;
    assert_eq!(status.responses, 0);
    assert!(ours.get(&SecretName::new("sds://p/a")).is_none());
    client.stop().await;
}

#[tokio::test]
async fn a_drain_ends_streams_and_cuts_off_who_stays() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let theirs = Arc::new(SecretStore::default());
    offer(&theirs, "a", Authority::new().server("a.example").payload());
    let options = ServerOptions {
        unix: Some(UnixOptions::new(&path)),
        limits: Limits { drain: std::time::Duration::from_millis(50), ..Limits::default() },
        ..Default::default()
    };
    let server = Running::start(options, &theirs);
    let mut raw = Raw::unix(&path).await;
    let mut stream = raw.stream().await;
    stream.send(request("", &["a"])).await;
    assert_eq!(stream.next_name().await, "a");
    // Connected, and not speaking HTTP/2.
    let _silent = tokio::net::UnixStream::connect(&path).await.unwrap();
    server.until("both are connected", |monitor| monitor.counters().connections_open == 2).await;
    let monitor = server.monitor.clone();
    server.stop().await;
    assert_eq!(stream.end().await.code(), Code::Unavailable);
    assert_eq!((monitor.counters().streams_open, monitor.counters().connections_open), (0, 0));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_server_whose_future_is_dropped_ends_at_once() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let theirs = Arc::new(SecretStore::default());
    let server = Running::unix(&path, &theirs);
    let mut raw = Raw::unix(&path).await;
    let mut stream = raw.stream().await;
    stream.send(request("", &["a"])).await;
    server.until("it is subscribed", |monitor| monitor.counters().subscriptions == 1).await;
    server.abort();
    server
        .until("all is gone", |monitor| {
            let counters = monitor.counters();
            (counters.connections_open, counters.streams_open) == (0, 0)
        })
        .await;
    assert_ne!(stream.end().await.code(), Code::Ok);
}

/// Who waits for something may look at everything meanwhile: no lock is held while he is woken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_may_be_looked_at_by_those_who_are_woken() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let (theirs, authority) = (Arc::new(SecretStore::default()), Authority::new());
    let pairs = [authority.server("a.example"), authority.server("b.example")];
    offer(&theirs, "a", pairs[0].payload());
    let server = Running::unix(&path, &theirs);
    let (client, _) = client(provider("p", &unix(&path)), &["sds://p/a"]);
    for rotation in 1..300_u64 {
        server
            .until("it has it", |monitor| {
                // Looked at as often as possible.
                monitor.streams().iter().any(|stream| stream.acks >= rotation)
            })
            .await;
        offer(&theirs, "a", pairs[usize::from(rotation % 2 == 1)].payload());
    }
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn a_tool_that_asks_and_listens_gets_its_answers() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let theirs = Arc::new(SecretStore::default());
    let authority = Authority::new();
    offer(&theirs, "a", authority.server("a.example").payload());
    offer(&theirs, "b", authority.server("b.example").payload());
    let server = Running::unix(&path, &theirs);
    let mut raw = Raw::unix(&path).await;
    let mut stream = raw.stream().await;
    stream.send(request("", &["a", "b", "c"])).await;
    stream.close();
    assert_eq!((stream.next_name().await.as_str(), stream.next_name().await.as_str()), ("a", "b"));
    assert_eq!(stream.end().await.code(), Code::Ok);

    let first = raw.fetch(request("", &["a", "b", "c"])).await.unwrap();
    assert_eq!(first.resources.len(), 2);
    assert_eq!(raw.fetch(request("", &["a", "b"])).await.unwrap().version_info, first.version_info);
    offer(&theirs, "b", authority.server("b.example").payload());
    assert_ne!(raw.fetch(request("", &["a", "b"])).await.unwrap().version_info, first.version_info);
    drop((stream, raw));
    server.stop().await;
}

#[tokio::test]
async fn revocation_lists_pass_from_store_to_store() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let (theirs, authority) = (Arc::new(SecretStore::default()), Authority::new());
    let list = authority.revokes_nothing();
    offer(&theirs, "crl", Payload::Crl(list.clone().into_bytes().into()));
    let both = Payload::Trust { authorities: authority.pem().into_bytes().into(), crl: Some(list.into_bytes().into()) };
    offer(&theirs, "trust", both);
    let server = Running::unix(&path, &theirs);
    let (client, ours) = client(provider("p", &unix(&path)), &["sds://p/crl", "sds://p/trust"]);
    until_client(&client, "both arrive", |status| status.names.iter().all(|name| name.state == NameState::Accepted))
        .await;
    let trust = ours.get(&SecretName::new("sds://p/trust")).unwrap().current().unwrap();
    assert_eq!(trust.content.trust().unwrap().crls().len(), 1);
    client.stop().await;
    server.stop().await;
}

#[tokio::test]
async fn an_ocsp_staple_comes_with_its_certificate_and_is_a_change_by_itself() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let (theirs, authority) = (Arc::new(SecretStore::default()), Authority::new());
    let pair = authority.server("a.example");
    offer(&theirs, "a", pair.payload());
    let server = Running::unix(&path, &theirs);
    let (client, ours) = client(provider("p", &unix(&path)), &["sds://p/a"]);
    until_leaf(&ours, "sds://p/a", &pair.leaf).await;
    let staple = authority.staple(&pair);
    let Payload::Certificate { chain, key, .. } = pair.payload() else { unreachable!() };
    offer(&theirs, "a", Payload::Certificate { chain, key, ocsp_staple: Some(staple.clone().into()) });
    let stapled = |store: &SecretStore| {
        let secret = store.get(&SecretName::new("sds://p/a"))?.current()?;
        secret.content.certificate()?.ocsp_staple().map(<[u8]>::to_vec)
    };
    let mut changes = ours.subscribe();
    soon("the staple arrives", changes.wait_for(|_| stapled(&ours).as_ref() == Some(&staple))).await.unwrap();
    client.stop().await;
    server.stop().await;
}

/// Everything that either side shows, prints or logs about a secret and its key.
#[tokio::test]
async fn no_key_is_shown() {
    let folder = folder();
    let path = folder.path().join("sds.sock");
    let log = common::Log::capture();
    let (theirs, authority) = (Arc::new(SecretStore::default()), Authority::new());
    let pair = authority.server("a.example");
    offer(&theirs, "a", pair.payload());
    let server = Running::unix(&path, &theirs);
    let (client, ours) = client(provider("p", &unix(&path)), &["sds://p/a"]);
    until_leaf(&ours, "sds://p/a", &pair.leaf).await;
    let mut raw = Raw::unix(&path).await;
    let mut stream = raw.stream().await;
    stream.send(request("", &["a"])).await;
    let nonce = stream.next().await.nonce;
    let mut nack = request(&nonce, &["a"]);
    nack.error_detail = Some(envoy_types::pb::google::rpc::Status {
        message: format!("cannot use {}", pair.key),
        ..Default::default()
    });
    stream.send(nack).await;
    server.until("the NACK is on the books", |monitor| !monitor.nacks().is_empty()).await;

    let mut shown = format!("{:?}{:?}{:?}{client:?}", server.monitor, server.monitor.streams(), client.status());
    shown += &format!("{:?}", server.monitor.nacks());
    shown += &serde_json::to_string(&server.monitor.streams()).unwrap();
    shown += &serde_json::to_string(&server.monitor.nacks()).unwrap();
    shown += &serde_json::to_string(&client.status()).unwrap();
    drop((stream, raw));
    client.stop().await;
    server.stop().await;
    shown += &log.text();
    assert!(shown.contains("an SDS client rejected a secret"), "the log is looked at, too");
    let lines = pair.key.lines().filter(|line| !line.starts_with("-----"));
    for line in lines {
        assert!(!shown.contains(line), "a line of the key is shown");
    }
}
