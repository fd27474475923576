//! Where the gateway listens, and the connections of listeners that go away.

use std::net::{Ipv6Addr, SocketAddr};

use tidegate_tests::process::{free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{Client, ConfigFolder, EchoBackend, Options, Tidegate, client, peers, raw, yaml};

#[tokio::test]
async fn ipv4_and_ipv6_are_served_unless_the_server_names_an_address() {
    let (port, bound, backend) = (free_port(), free_port(), EchoBackend::start("a").await);
    let text = yaml::echo(port, backend.address)
        + &yaml::gateway("bound", bound)
            .replace("name: http,", "name: http2nd,")
            .replace("    hosts:", "    bind: 127.0.0.2\n    hosts:")
        + &yaml::forward("b", "b.test", "echo.test").replace("[edge]", "[bound]");
    let folder = ConfigFolder::with(text);
    let _tidegate = Tidegate::start(&folder).await;
    assert_eq!(client::get(local(port), "echo.test", "/").await.status, 200);
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    match client::try_get(six, "echo.test", "/").await {
        Ok(answer) => {
            assert_eq!(answer.status, 200);
            assert_eq!(answer.received("x-forwarded-for").as_deref(), Some("::1"));
        }
        Err(error) => assert!(std::net::TcpListener::bind("[::1]:0").is_err(), "this machine has IPv6: {error}"),
    }
    let second: SocketAddr = ([127, 0, 0, 2], bound).into();
    assert_eq!(client::get(second, "b.test", "/").await.status, 200);
    assert!(!raw::accepts(local(bound)).await, "bound to one address only");
}

#[tokio::test]
async fn a_low_port_is_bound_higher_and_shown_as_named() {
    let backend = EchoBackend::start("a").await;
    // Whatever is free at +offset: the port that the Gateway names is 80 all the same.
    let bound = free_port();
    let folder = ConfigFolder::with(yaml::echo(80, backend.address));
    let offset = (bound - 80).to_string();
    let tidegate = Options::default().arg("--port-offset").arg(offset).start(&folder).await;
    assert_eq!(client::get(local(bound), "echo.test", "/").await.status, 200);
    let dump = tidegate.admin("/config_dump").await.text();
    assert!(dump.contains("\"http.80\""), "routes are named after the Gateway's port");
}

#[tokio::test]
async fn a_removed_listener_finishes_what_it_began() {
    let (port, extra) = (free_port(), free_port());
    let (backend, python) = (EchoBackend::start("a").await, peers::PythonBackend::start().await);
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    let removable = yaml::gateway("extra", extra)
        + &yaml::forward("x", "x.test", "echo.test").replace("[edge]", "[extra]")
        + &yaml::forward("ws", "ws.test", "ws.test").replace("[edge]", "[extra]")
        + &yaml::forward("grpc", "grpc.test", "grpc.test").replace("[edge]", "[extra]")
        + &yaml::service_entry("ws", "ws.test", "HTTP", &[python.websocket])
        + &yaml::service_entry("grpc", "grpc.test", "GRPC", &[python.grpc]);
    folder.write("extra.yaml", removable);
    let tidegate = Tidegate::start(&folder).await;
    let held = peers::HeldStreams::open(local(extra), "ws.test", "grpc.test", 2).await;
    let slow =
        tokio::spawn(
            async move { client::send(local(extra), "GET", "x.test", "/", &[("x-echo-hold", "1")], "").await },
        );
    wait::until("a request in flight", PATIENCE, || async { (backend.held() == 1).then_some(()) }).await;
    let mut kept = Client::http1(local(extra)).await.unwrap();
    assert_eq!(kept.get("x.test", "/").await.unwrap().status, 200);

    let old = tidegate.hash().await;
    folder.remove("extra.yaml");
    tidegate.hash_after(&old).await;
    wait::until("the listener to be closed", PATIENCE, || async { (!raw::accepts(local(extra)).await).then_some(()) })
        .await;
    backend.release();
    assert_eq!(slow.await.unwrap().status, 200, "a request in flight finishes");
    assert_eq!(held.finish().await, (4, vec![]), "streams go on");
    // A kept connection learns of it with its next answer; what that answer is, is the new configuration's business.
    if let Ok(answer) = kept.get("x.test", "/").await {
        assert_eq!(answer.header("connection"), "close", "{answer:?}");
    }
    assert_eq!(client::get(local(port), "echo.test", "/").await.status, 200);
}

#[tokio::test]
async fn two_hundred_listeners_come_and_go() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    let tidegate = Tidegate::start(&folder).await;
    let before = tidegate.descriptors();
    let ports: Vec<u16> = (0..200).map(|_| free_port()).collect();
    let text: String = ports.iter().map(|port| yaml::gateway(&format!("g{port}"), *port)).collect();
    tidegate.apply(&folder, "many.yaml", text).await;
    for port in &ports {
        assert_eq!(client::get(local(*port), "nobody.test", "/").await.status, 404);
    }
    let old = tidegate.hash().await;
    folder.remove("many.yaml");
    tidegate.hash_after(&old).await;
    wait::until("the sockets to be closed", PATIENCE, || async {
        (tidegate.descriptors() < before + 20).then_some(())
    })
    .await;
    assert_eq!(client::get(local(port), "echo.test", "/").await.status, 200);
}

#[tokio::test]
async fn to_one_backend_without_any_yaml() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let source = ["--to", &backend.address.to_string(), "--port", &port.to_string()].map(Into::into);
    let mut tidegate = Options::default().spawn(&source);
    tidegate.ready().await;
    for host in ["anything.test", "localhost", "127.0.0.1:1"] {
        let answer = client::get(local(port), host, "/x?y").await;
        assert_eq!((answer.header("x-backend"), answer.json()["target"].as_str()), ("a", Some("/x?y")), "{host}");
    }
    assert_eq!(client::send_http2(local(port), "POST", "h.test", "/", &[], "body").await.json()["length"], 4);
}
