//! Clients that do not mean well, or are no clients of TLS.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tidegate_proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::fixed;
use crate::client::Client;
use crate::harness::Config;
use crate::tls_edge::{Server, TlsEdge, connect, get, is_served};

async fn edge_with(limits: Limits) -> TlsEdge {
    TlsEdge::with(Config::new(), vec![Server::new("a", &["a.com"], fixed("a").await)], limits).await
}

fn quick() -> Limits {
    Limits { handshake_timeout: Duration::from_millis(500), ..Limits::default() }
}

/// A ClientHello as rustls writes it.
fn hello(edge: &TlsEdge, name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(edge.client(None)), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Records of a handshake that hold `message` in pieces of `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|piece| {
            let mut record = vec![22, 3, 1];
            record.extend((piece.len() as u16).to_be_bytes());
            record.extend(piece);
            record
        })
        .collect()
}

/// Sends `bytes` and says what comes back until the gateway closes.
async fn answer(edge: &TlsEdge, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    // The gateway may have closed before all of it was sent.
    let _ = tcp.write_all(bytes).await;
    let mut out = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut out)).await;
    let _ = read.expect("the gateway to close");
    out
}

fn is_alert(answer: &[u8]) -> bool {
    answer.first() == Some(&21)
}

#[tokio::test]
async fn what_is_no_tls_is_closed_at_once() {
    let edge = edge_with(Limits::default()).await;
    let begin = Instant::now();
    let mut count = 0;
    for garbage in [
        b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n".as_slice(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        &[0x80, 0x2e, 1, 0, 2, 0, 21, 0, 0, 0, 16],
        &[0; 100],
        &[0xff; 10_000],
        // A record that is no handshake, one of a message that is no ClientHello, one that is empty, one too large.
        &[23, 3, 3, 0, 1, 0],
        &[22, 3, 1, 0, 4, 2, 0, 0, 0],
        &[22, 3, 1, 0xff, 0xff, 1, 0, 0, 0],
        &records(&[1, 0, 0, 4, 3, 3, 0, 0], 100),
    ] {
        let answer = answer(&edge, garbage).await;
        assert!(answer.is_empty() || is_alert(&answer), "{garbage:?}: {answer:?}");
        count += 1;
        edge.await_failure("malformed", count).await;
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(is_served(edge.address(), "a.com", edge.client(None)).await);
}

#[tokio::test]
async fn who_connects_and_goes_has_failed_at_nothing() {
    let edge = edge_with(Limits::default()).await;
    for _ in 0..50 {
        drop(TcpStream::connect(edge.address()).await.unwrap());
    }
    edge.await_count("envoy_listener_downstream_cx_total{listener_address=\"127.0.0.1_443\"} ", 50).await;
    let is_gone = || edge.edge.gateway.listeners()[0].connections_active == 0;
    while !is_gone() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let metrics = edge.edge.metrics();
    let failed = |line: &&str| line.starts_with("tidegate_tls_handshake_failures_total{") && !line.ends_with(" 0");
    assert_eq!(metrics.lines().find(failed), None);
}

#[tokio::test]
async fn a_hello_may_come_in_any_pieces() {
    let edge = edge_with(Limits::default()).await;
    let whole = hello(&edge, "a.com");
    let message = whole[5..].to_vec();
    for bytes in [whole.clone(), records(&message, 1), records(&message, 7), records(&message, 100)] {
        for size in [1, 3, 1000] {
            let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            for piece in bytes.chunks(size) {
                tcp.write_all(piece).await.unwrap();
            }
            let mut first = [0];
            tcp.read_exact(&mut first).await.unwrap();
            // The answer is a handshake record: the ServerHello.
            assert_eq!(first, [22]);
        }
    }
    edge.await_failure("closed", 12).await;
}

#[tokio::test]
async fn a_hello_that_does_not_come_in_time_is_not_waited_for() {
    let edge = edge_with(quick()).await;
    let whole = hello(&edge, "a.com");
    let begin = Instant::now();
    for bytes in [&[][..], &whole[..1], &whole[..whole.len() - 1]] {
        assert!(answer(&edge, bytes).await.is_empty());
    }
    // The handshake that begins well and is then left.
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    tcp.write_all(&whole).await.unwrap();
    let mut out = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut out)).await;
    let _ = read.expect("the gateway to close");
    edge.await_failure("timeout", 4).await;
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_client_that_drips_bytes_has_no_more_time_than_others() {
    let edge = edge_with(quick()).await;
    let whole = hello(&edge, "a.com");
    let begin = Instant::now();
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    for byte in &whole {
        if tcp.write_all(&[*byte]).await.is_err() {
            break;
        }
        if begin.elapsed() > Duration::from_secs(5) {
            panic!("the gateway waits");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    edge.await_failure("timeout", 1).await;
}

#[tokio::test]
async fn a_huge_hello_is_refused_before_it_is_read_whole() {
    let edge = edge_with(Limits::default()).await;
    // One that says that it has 16 MiB.
    let mut message = vec![1, 0xff, 0xff, 0xff];
    message.resize(200_000, 0);
    let refused = answer(&edge, &records(&message, 16_384)).await;
    assert!(refused.is_empty() || is_alert(&refused));
    edge.await_failure("too_large", 1).await;
    // One whose many records make it larger than it is.
    let mut message = vec![1, 0, 0xf0, 0];
    message.resize(60_000, 0);
    let refused = answer(&edge, &records(&message, 20)).await;
    assert!(refused.is_empty() || is_alert(&refused));
    edge.await_failure("too_large", 2).await;
}

#[tokio::test]
async fn what_alpn_promised_has_to_come() {
    let edge = edge_with(Limits::default()).await;
    let mut config = edge.client(None);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = Client::over(connect(edge.address(), "a.com", config).await.unwrap());
    client.send(get("a.com")).await;
    assert!(client.is_closed().await);
    // And what is spoken is what ALPN said.
    let mut config = edge.client(None);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = Client::over(connect(edge.address(), "a.com", config).await.unwrap());
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 400);
    let mut config = edge.client(None);
    config.alpn_protocols = vec![b"spdy/3".to_vec()];
    assert!(connect(edge.address(), "a.com", config).await.is_err());
    edge.await_failure("alpn", 1).await;
}

#[tokio::test]
async fn too_many_handshakes_at_once_are_turned_away() {
    let limits = Limits { max_handshakes: 3, ..Limits::default() };
    let edge = edge_with(limits).await;
    let mut held = Vec::new();
    // Those that say nothing do not count.
    for _ in 0..10 {
        held.push(TcpStream::connect(edge.address()).await.unwrap());
    }
    assert!(is_served(edge.address(), "a.com", edge.client(None)).await);
    for _ in 0..3 {
        let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
        tcp.write_all(&[22]).await.unwrap();
        held.push(tcp);
    }
    edge.await_count("envoy_listener_downstream_cx_total{listener_address=\"127.0.0.1_443\"} ", 14).await;
    // Which of them has begun to be served is another question.
    let mut turned_away = false;
    for _ in 0..100 {
        if !is_served(edge.address(), "a.com", edge.client(None)).await {
            turned_away = true;
            break;
        }
    }
    assert!(turned_away);
    edge.await_failure("overflow", 1).await;
    held.clear();
    edge.await_failure("closed", 3).await;
    assert!(is_served(edge.address(), "a.com", edge.client(None)).await);
}

/// Below half of what is allowed a beginning may be slow; from there on it may not, and who waited already goes.
#[tokio::test]
async fn while_many_wait_a_beginning_has_less_time() {
    let limits = Limits {
        handshake_timeout: Duration::from_secs(600),
        max_handshakes: 4,
        busy_hello_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    for proxy_protocol in [false, true] {
        let mut config = Config::new();
        config.mesh.proxy_protocol = proxy_protocol;
        let servers = vec![Server::new("a", &["a.com"], fixed("a").await)];
        let edge = TlsEdge::with(config, servers, limits.clone()).await;
        let failure = |count| {
            let family = if proxy_protocol { "proxy_protocol_failures" } else { "tls_handshake_failures" };
            let series = format!("tidegate_{family}_total{{listener_address=\"127.0.0.1_443\",reason=\"timeout\"}} ");
            let edge = &edge;
            async move { edge.await_count(&series, count).await }
        };
        let whole = [if proxy_protocol { &b"PROXY UNKNOWN\r\n"[..] } else { &[] }, &hello(&edge, "a.com")].concat();
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
            tcp.write_all(&whole[..1]).await.unwrap();
            held.push(tcp);
        }
        // With two there are many. Whether the other goes, too, depends on which of two clocks is looked at first.
        failure(1).await;
        let mut closed = 0;
        for mut tcp in held {
            // Fails if the gateway has closed.
            let _ = tcp.write_all(&whole[1..]).await;
            let mut first = [0];
            match tcp.read_exact(&mut first).await {
                Ok(_) => assert_eq!(first, [22], "who is not too late is served"),
                Err(_) => closed += 1,
            }
        }
        assert!(closed >= 1, "who waited long before goes");
        let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
        tcp.write_all(&whole).await.unwrap();
        let mut first = [0];
        tcp.read_exact(&mut first).await.unwrap();
        assert_eq!(first, [22], "who says all at once is served");
        assert!(edge.edge.metrics().lines().all(|line| !line.contains("reason=\"overflow\"") || line.ends_with(" 0")));
    }
}

#[tokio::test]
async fn versions_of_old_are_told_that_they_are() {
    let edge = edge_with(Limits::default()).await;
    for minor in 0..=2 {
        // Version, random, no session, one suite, no compression, no extensions.
        let mut message = vec![1, 0, 0, 43, 3, minor];
        message.extend([7; 32]);
        message.extend([0, 0, 2, 0xc0, 0x09, 1, 0, 0, 0]);
        message[3] = (message.len() - 4) as u8;
        assert_eq!(answer(&edge, &records(&message, 1000)).await, [21, 3, 3, 0, 2, 2, 70]);
    }
    edge.await_failure("version", 3).await;
}

#[tokio::test]
async fn server_names_that_are_none_find_no_server() {
    let edge = edge_with(Limits::default()).await;
    let whole = hello(&edge, "a.com");
    let at = whole.windows(5).position(|five| five == b"a.com").unwrap();
    for name in [b"a\0com", b"a\ncom", b"a com", b"a.co.", b"\xffcomm", b"1.2.3"] {
        let mut bytes = whole.clone();
        bytes[at..at + 5].copy_from_slice(name);
        let answer = answer(&edge, &bytes).await;
        assert!(is_alert(&answer), "{name:?}: {answer:?}");
    }
    // Case makes no other name.
    let mut bytes = whole.clone();
    bytes[at..at + 5].copy_from_slice(b"A.Com");
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    tcp.write_all(&bytes).await.unwrap();
    let mut first = [0];
    tcp.read_exact(&mut first).await.unwrap();
    assert_eq!(first, [22]);
}

#[tokio::test]
async fn damaged_hellos_do_no_harm() {
    let edge = edge_with(quick()).await;
    let whole = hello(&edge, "a.com");
    let mut random = fastrand::Rng::with_seed(7);
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.truncate(random.usize(1..=bytes.len()));
        let address = edge.address();
        tries.spawn(async move {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            // The gateway may close before all of it was sent.
            let _ = tcp.write_all(&bytes).await;
            let mut out = Vec::new();
            let _ = tokio::time::timeout(Duration::from_secs(10), tcp.read_to_end(&mut out)).await.unwrap();
        });
    }
    tries.join_all().await;
    assert!(is_served(edge.address(), "a.com", edge.client(None)).await);
}
