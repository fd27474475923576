use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::backend;
use crate::client::Client;
use crate::harness::{Config, Edge};

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Accepts a WebSocket and sends everything back.
async fn tunnel() -> std::net::SocketAddr {
    backend::raw(|mut tcp, head| async move {
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        assert!(head.contains("sec-websocket-key: "), "{head}");
        tcp.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await
            .unwrap();
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

#[tokio::test]
async fn a_websocket_is_a_tunnel_that_outlives_the_routes_timeout() {
    let config = Config::to(tunnel().await).edit(|forward| forward.timeout = Some(Duration::from_millis(200)));
    let edge = Edge::start(config.snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(HANDSHAKE).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    for round in 0..4u8 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let frame = vec![round; 100_000];
        client.send(&frame).await;
        assert_eq!(client.exactly(frame.len()).await, Some(frame));
    }
    drop(client);
    edge.await_request(&["response_code=\"101\""]).await;
}

#[tokio::test]
async fn what_came_with_the_handshake_passes_only_after_the_switch() {
    let edge = Edge::start(Config::to(tunnel().await).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(format!("{HANDSHAKE}early")).await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(client.exactly(5).await.as_deref(), Some(&b"early"[..]));
    // A backend that refuses leaves an ordinary connection, on which the rest is the next request.
    let backend = backend::echo("a").await;
    edge.publish(Config::to(backend).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(format!("{HANDSHAKE}GET /next HTTP/1.1\r\nHost: a.com\r\n\r\n")).await;
    assert_eq!(client.answer().await.seen("request"), Some("GET /chat HTTP/1.1"));
    assert_eq!(client.answer().await.seen("request"), Some("GET /next HTTP/1.1"));
}

#[tokio::test]
async fn the_end_of_either_side_ends_the_tunnel() {
    let backend = backend::raw(|mut tcp, _| async move {
        tcp.write_all(b"HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nbye").await.unwrap();
        let mut one = [0];
        let _ = tcp.read(&mut one).await;
    })
    .await;
    let edge = Edge::start(Config::to(backend).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(HANDSHAKE).await;
    assert_eq!(client.answer().await.status, 101);
    assert_eq!(client.exactly(3).await.as_deref(), Some(&b"bye"[..]));
    client.send("x").await;
    assert!(client.is_closed().await);
}
