//! PROXY protocol in front of every kind of listener.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tidegate_proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::echo;
use crate::client::{Answer, Client};
use crate::harness::{Config, Edge};
use crate::tls_edge::{Server, TlsEdge, get};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 4711 443\r\n";

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, family]);
    header.extend((body.len() as u16).to_be_bytes());
    header.extend(body);
    header
}

/// From 192.0.2.1:4711 to 198.51.100.1:443, and what else is said.
fn v2_from(more: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&[192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x67, 1, 0xbb], more].concat())
}

async fn edge_for(backend: SocketAddr, limits: Limits) -> Edge {
    let mut config = Config::to(backend);
    config.mesh.proxy_protocol = true;
    Edge::with_limits(config.snapshot(), limits).await
}

async fn after(address: SocketAddr, header: &[u8]) -> Option<Answer> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    // The gateway may close before it has read everything.
    let _ = tcp.write_all(&[header, get("a.com").as_bytes()].concat()).await;
    Client::over(tcp).try_answer(false).await
}

#[tokio::test]
async fn the_header_says_who_the_client_is() {
    let edge = edge_for(echo("a").await, Limits::default()).await;
    for (header, client) in [
        (V1.to_vec(), "192.0.2.1"),
        (v2_from(&[]), "192.0.2.1"),
        (v2_from(&[4, 0, 1, 9]), "192.0.2.1"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x20, 0, &[]), "127.0.0.1"),
        (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(), "2001:db8::1"),
    ] {
        let answer = after(edge.address(), &header).await.unwrap();
        assert_eq!((answer.status, answer.seen("x-forwarded-for")), (200, Some(client)));
        assert_eq!(answer.seen("x-envoy-external-address"), Some(client));
    }
}

#[tokio::test]
async fn a_connection_without_a_header_that_holds_is_closed() {
    let limits = Limits { handshake_timeout: Duration::from_millis(500), ..Limits::default() };
    let edge = edge_for(echo("a").await, limits).await;
    for bad in [
        b"".to_vec(),
        b"PROXY TCP4 192.0.2.1 198.51.100.1 4711\r\n".to_vec(),
        [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(),
        v2(0x21, 0x11, &[0; 11]),
        v2_from(&[4, 0, 9, 9]),
        v2(0x21, 0x11, &[0; 5000]),
        v2(0x22, 0x11, &[0; 12]),
    ] {
        assert!(after(edge.address(), &bad).await.is_none(), "{:?}", String::from_utf8_lossy(&bad));
    }
    // One that does not end is waited for no longer than others.
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    tcp.write_all(&V1[..20]).await.unwrap();
    assert_eq!(tcp.read(&mut [0]).await.unwrap(), 0);
    let count = |reason: &str| {
        let metrics = edge.metrics();
        let series =
            format!("tidegate_proxy_protocol_failures_total{{listener_address=\"127.0.0.1_0\",reason=\"{reason}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse::<u64>().ok()).unwrap()
    };
    assert_eq!((count("malformed"), count("too_large"), count("timeout")), (5, 2, 1));
}

#[tokio::test]
async fn without_the_protocol_a_header_is_no_request() {
    let edge = Edge::start(Config::to(echo("a").await).snapshot()).await;
    let answer = after(edge.address(), V1).await.unwrap();
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn tls_begins_after_the_header() {
    let mut config = Config::new();
    config.mesh.proxy_protocol = true;
    let servers = vec![Server::new("a", &["a.com"], echo("a").await)];
    let edge = TlsEdge::with(config, servers, Limits::default()).await;
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    tcp.write_all(V1).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(edge.client(None)));
    let stream = connector.connect(ServerName::try_from("a.com").unwrap(), tcp).await.unwrap();
    let mut client = Client::over(stream);
    for _ in 0..2 {
        client.send(get("a.com")).await;
        assert_eq!(client.answer().await.seen("x-forwarded-for"), Some("192.0.2.1"));
    }
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    tcp.write_all(&[22, 3, 1, 0, 100]).await.unwrap();
    assert_eq!(tcp.read(&mut [0]).await.unwrap_or(0), 0);
}
