//! A real Envoy takes its secrets from our server, on a Unix socket, and follows their rotation.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::envoy::{Envoy, EnvoyOptions};
use common::tls::{Connection, config};
use common::{Authority, Pair, Running, folder, offer, soon, trust};
use tidegate_core::SecretName;
use tidegate_sds::SecretStore;
use tidegate_sds_wire::{ResourceState, ServerOptions, UnixOptions};

const HOST: &str = "webapp.example";
const NAME: &str = "kubernetes://istio-system/webapp";

/// Handshakes until one shows a leaf.
async fn until_shown(envoy: &Envoy, authority: &Authority, identity: Option<&Pair>, leaf: &[u8]) -> Connection {
    until_shown_for(HOST, envoy, authority, identity, leaf).await
}

async fn until_shown_for(
    host: &str,
    envoy: &Envoy,
    authority: &Authority,
    identity: Option<&Pair>,
    leaf: &[u8],
) -> Connection {
    soon("Envoy shows the certificate", async {
        loop {
            let opened = Connection::open(envoy.address, host, config(authority, identity)).await;
            match opened {
                Ok(connection) if connection.leaf() == leaf => return connection,
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await
}

/// Terminates with our secret, which rotates: the next handshake shows it, the open connection goes on.
async fn check_rotation(api_type: &str) {
    let folder = folder();
    let socket = folder.path().join("sds.sock");
    let store = Arc::new(SecretStore::default());
    let authority = Authority::new();
    let first = authority.server(HOST);
    offer(&store, NAME, first.payload());
    let server = Running::unix(&socket, &store);
    let envoy =
        Envoy::start(EnvoyOptions { socket: &socket, api_type, certificates: &[NAME], authorities: None }).await;

    let mut open = until_shown(&envoy, &authority, None, &first.leaf).await;
    assert_eq!(open.get(HOST).await.unwrap(), (200, "hello".to_owned()));
    let mut current = first.leaf.clone();
    for rotation in 1..=3_u64 {
        let next = authority.server(HOST);
        offer(&store, NAME, next.payload());
        server.until("Envoy acknowledges the rotation", |monitor| monitor.counters().acks > rotation).await;
        let mut fresh = until_shown(&envoy, &authority, None, &next.leaf).await;
        assert_eq!(fresh.get(HOST).await.unwrap().0, 200);
        assert_eq!(open.get(HOST).await.unwrap().0, 200, "the connection from before goes on");
        assert_eq!(open.leaf(), first.leaf);
        current = next.leaf;
    }
    let streams = server.monitor.streams();
    assert_eq!(streams.len(), 1, "{streams:?}");
    assert_eq!(streams[0].node, "router~127.0.0.1~envoy.test~test");
    assert_eq!(streams[0].resources[0].state, ResourceState::Acknowledged);
    assert_eq!((server.monitor.counters().nacks, server.monitor.counters().responses), (0, 4), "{}", envoy.log());
    server.stop().await;
    assert_eq!(open.get(HOST).await.unwrap().0, 200, "Envoy goes on without us");
    until_shown(&envoy, &authority, None, &current).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_follows_a_rotation_and_open_connections_go_on() {
    check_rotation("GRPC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_follows_a_rotation_by_the_incremental_variant() {
    check_rotation("DELTA_GRPC").await;
}

/// Aliases, a secret that comes late, and authorities for clients.
#[tokio::test(flavor = "multi_thread")]
async fn envoy_waits_for_a_secret_and_verifies_clients_with_our_authorities() {
    let folder = folder();
    let socket = folder.path().join("sds.sock");
    let store = Arc::new(SecretStore::default());
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let options = ServerOptions {
        unix: Some(UnixOptions::new(&socket)),
        aliases: BTreeMap::from([
            ("webapp".to_owned(), SecretName::new(NAME)),
            ("webapp-cacert".to_owned(), SecretName::kubernetes_ca("istio-system", "webapp")),
        ]),
        ..Default::default()
    };
    let server = Running::start(options, &store);
    offer(&store, "kubernetes://istio-system/webapp-cacert", trust(&strangers.pem()));
    let wanted = EnvoyOptions {
        socket: &socket,
        api_type: "GRPC",
        certificates: &["webapp"],
        authorities: Some("webapp-cacert"),
    };
    let envoy = Envoy::start(wanted).await;
    server.until("Envoy asks for both", |monitor| monitor.streams().len() == 2).await;
    let pair = servers.server(HOST);
    offer(&store, NAME, pair.payload());
    server.until("Envoy has both", |monitor| monitor.counters().acks == 2).await;

    let client = clients.client("spiffe://cluster.local/ns/a/sa/b");
    let refused =
        async |envoy: &Envoy| match Connection::open(envoy.address, HOST, config(&servers, Some(&client))).await {
            // In TLS 1.3 a client learns of it only when it reads.
            Ok(mut connection) => connection.get(HOST).await.is_err(),
            Err(_) => true,
        };
    let stranger = strangers.client("spiffe://x/y");
    let mut admitted = until_shown(&envoy, &servers, Some(&stranger), &pair.leaf).await;
    assert_eq!(admitted.get(HOST).await.unwrap().0, 200);
    assert!(refused(&envoy).await, "its authority is not there yet");
    offer(&store, "kubernetes://istio-system/webapp-cacert", trust(&clients.pem()));
    server.until("Envoy has the new authorities", |monitor| monitor.counters().acks == 3).await;
    soon("the client is admitted", async { while refused(&envoy).await {} }).await;
    server.stop().await;
}

/// Envoy cannot use Ed25519 and says so; the books show it, and the next rotation mends it.
#[tokio::test(flavor = "multi_thread")]
async fn what_envoy_rejects_is_on_the_books_and_its_last_good_serves_on() {
    let folder = folder();
    let socket = folder.path().join("sds.sock");
    let store = Arc::new(SecretStore::default());
    let authority = Authority::new();
    let first = authority.server(HOST);
    offer(&store, NAME, first.payload());
    let server = Running::unix(&socket, &store);
    let envoy =
        Envoy::start(EnvoyOptions { socket: &socket, api_type: "GRPC", certificates: &[NAME], authorities: None })
            .await;
    until_shown(&envoy, &authority, None, &first.leaf).await;
    offer(&store, NAME, authority.server_with(HOST, &rcgen::PKCS_ED25519).payload());
    server.until("Envoy rejects it", |monitor| monitor.counters().nacks == 1).await;
    let nack = server.monitor.nacks().remove(0);
    assert_eq!((nack.name.as_str(), nack.node.as_str()), (NAME, "router~127.0.0.1~envoy.test~test"));
    assert!(!nack.reason.is_empty() && !nack.reason.contains("PRIVATE KEY"), "{}", nack.reason);
    let resource = server.monitor.streams().remove(0).resources.remove(0);
    assert_eq!((resource.state, resource.reason.as_ref()), (ResourceState::Rejected, Some(&nack.reason)));
    until_shown(&envoy, &authority, None, &first.leaf).await;

    let mended = authority.server(HOST);
    offer(&store, NAME, mended.payload());
    until_shown(&envoy, &authority, None, &mended.leaf).await;
    server
        .until("Envoy takes it", |monitor| {
            monitor.streams().iter().all(|stream| stream.resources[0].state == ResourceState::Acknowledged)
        })
        .await;
    server.stop().await;
}

/// Envoy opens a stream for each secret; each rotates by itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_with_hundreds_of_hosts_follows_each_of_them() {
    const HOSTS: usize = 300;
    let folder = folder();
    let socket = folder.path().join("sds.sock");
    let store = Arc::new(SecretStore::default());
    let authority = Authority::new();
    let hosts: Vec<_> = (0..HOSTS).map(|host| format!("h{host}.example")).collect();
    let names: Vec<_> = hosts.iter().map(|host| format!("kubernetes://ns/{host}")).collect();
    for (host, name) in hosts.iter().zip(&names) {
        offer(&store, name, authority.server(host).payload());
    }
    let server = Running::unix(&socket, &store);
    let certificates: Vec<_> = names.iter().map(String::as_str).collect();
    let wanted = EnvoyOptions { socket: &socket, api_type: "GRPC", certificates: &certificates, authorities: None };
    let envoy = Envoy::start(wanted).await;
    server.until("Envoy has all", |monitor| monitor.counters().acks == HOSTS as u64).await;
    assert_eq!(server.monitor.counters().streams_open, HOSTS as u64);
    assert_eq!(server.monitor.counters().connections_open, 1);
    let rotated: Vec<_> = hosts.iter().map(|host| authority.server(host)).collect();
    for (name, pair) in names.iter().zip(&rotated) {
        offer(&store, name, pair.payload());
    }
    for at in [0, HOSTS / 2, HOSTS - 1] {
        let mut connection = until_shown_for(&hosts[at], &envoy, &authority, None, &rotated[at].leaf).await;
        assert_eq!(connection.get(&hosts[at]).await.unwrap().0, 200);
    }
    server.until("Envoy has all again", |monitor| monitor.counters().acks == 2 * HOSTS as u64).await;
    assert_eq!(server.monitor.counters().nacks, 0);
    server.stop().await;
}
