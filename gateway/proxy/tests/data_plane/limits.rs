use std::time::{Duration, Instant};

use tidegate_proxy::Limits;
use tokio::io::AsyncWriteExt;

use crate::backend::{self, Count, echo, full};
use crate::client::{Client, get, once};
use crate::harness::{Config, Edge};

/// A gateway before a backend that counts its requests.
async fn counting() -> (Edge, Count) {
    let count = Count::default();
    let counter = count.clone();
    let backend = backend::serve(move |_| {
        counter.add();
        async { http::Response::new(full("ok")) }
    })
    .await;
    (Edge::start(Config::to(backend).snapshot()).await, count)
}

#[tokio::test]
async fn a_backend_that_answers_and_reads_no_more_holds_nobody_for_ever() {
    let backend = backend::raw(|mut tcp, _| async move {
        let answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig";
        let _ = tokio::io::AsyncWriteExt::write_all(&mut tcp, answer).await;
        std::future::pending().await
    })
    .await;
    let limits = Limits { stall_timeout: Duration::from_millis(500), ..Limits::default() };
    let edge = Edge::with_limits(Config::to(backend).snapshot(), limits).await;
    let (mut read, mut write) = tokio::net::TcpStream::connect(edge.address()).await.unwrap().into_split();
    let upload = tokio::spawn(async move {
        let body = vec![b'x'; 20 << 20];
        let head = format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {}\r\n\r\n", body.len());
        let _ = tokio::io::AsyncWriteExt::write_all(&mut write, &[head.into_bytes(), body].concat()).await;
        write
    });
    let mut answer = Vec::new();
    while !answer.ends_with(b"big") {
        let read = tokio::io::AsyncReadExt::read_buf(&mut read, &mut answer);
        let count = tokio::time::timeout(Duration::from_secs(10), read).await.expect("an answer").unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 413 "));
    upload.abort();
}

#[tokio::test]
async fn ambiguous_requests_are_refused_and_nothing_after_them_is_served() {
    let (edge, count) = counting().await;
    let head = "GET / HTTP/1.1\r\nHost: a.com\r\n";
    let ghost = "GET /ghost HTTP/1.1\r\nHost: a.com\r\n\r\n";
    let bad = [
        format!("{head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde"),
        format!("{head}Content-Length: 5, 5\r\n\r\nabcde"),
        format!("{head}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("{head}X: a\nY: b\r\n\r\n"),
        format!("{head}X: a\r\n b\r\n\r\n"),
        format!("{head}X : a\r\n\r\n"),
        format!("{head}X: \0\r\n\r\n"),
        "GET / HTTP/1.1\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: a.com\r\nHost: a.com\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: a@b.com\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nHost: \r\n\r\n".into(),
        "GET http://b.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n".into(),
        "GET /%00 HTTP/1.1\r\nHost: a.com\r\n\r\n".into(),
        "GET /\x01 HTTP/1.1\r\nHost: a.com\r\n\r\n".into(),
        "GET  / HTTP/1.1\r\nHost: a.com\r\n\r\n".into(),
        "GET / HTTP/1.2\r\nHost: a.com\r\n\r\n".into(),
        "GET /\r\n\r\n".into(),
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a.com\r\n\r\n".into(),
        format!("{head}Connection: x-forwarded-for\r\n\r\n"),
    ];
    for request in &bad {
        let mut client = Client::connect(edge.address()).await;
        client.send(format!("{request}{ghost}")).await;
        let answer = client.try_answer(false).await.unwrap_or_else(|| panic!("no answer to {request:?}"));
        // As Envoy: a coding that nobody here undoes is told apart.
        let is_coded = request.contains("gzip") || request.matches("Transfer-Encoding").count() > 1;
        let status = if is_coded { 501 } else { 400 };
        assert_eq!((answer.status, answer.header("connection")), (status, Some("close")), "{request:?}");
        assert_eq!(answer.header("server"), Some("istio-envoy"), "{request:?}");
        assert!(client.is_closed().await, "{request:?}");
    }
    assert_eq!(count.get(), 0);
    assert_eq!(get(edge.address(), "/").await.text(), "ok");
    let listener = edge.gateway.listeners().remove(0);
    assert_eq!(listener.connections_total, bad.len() as u64 + 1);
}

#[tokio::test]
async fn malformed_chunks_end_the_request() {
    let (edge, count) = counting().await;
    for chunk in ["0x5\r\nabcde\r\n", "5\nabcde\r\n", "FFFFFFFFFFFFFFFF1\r\n", "3\r\nabcdef\r\n", "-1\r\n", "5 \r\n"] {
        let mut client = Client::connect(edge.address()).await;
        client
            .send(format!("POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\nGET /ghost HTTP/1.1\r\nHost: a.com\r\n\r\n"))
            .await;
        let answer = client.try_answer(false).await;
        assert!(answer.is_none_or(|answer| answer.status == 400), "{chunk:?}");
        assert!(client.is_closed().await);
    }
    // The backend may have seen the head of each, and no more.
    assert!(count.get() <= 6);
    assert_eq!(get(edge.address(), "/").await.text(), "ok");
}

#[tokio::test]
async fn old_and_unserved_protocols_are_told_so() {
    let (edge, count) = counting().await;
    assert_eq!(once(edge.address(), "GET / HTTP/1.0\r\nHost: a.com\r\n\r\n").await.status, 426);
    let connect = once(edge.address(), "CONNECT a.com:443 HTTP/1.1\r\nHost: a.com:443\r\n\r\n").await;
    assert_eq!((connect.status, connect.header("connection")), (405, Some("close")));
    let upgrade = "GET / HTTP/1.1\r\nHost: a.com\r\nConnection: Upgrade\r\nUpgrade: foo\r\n\r\n";
    assert_eq!(once(edge.address(), upgrade).await.status, 403);
    assert_eq!(count.get(), 0);
}

#[tokio::test]
async fn heads_are_bounded() {
    let backend = backend::says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let edge = Edge::start(Config::to(backend).snapshot()).await;
    let with = |fields: String| format!("GET / HTTP/1.1\r\nHost: a.com\r\n{fields}\r\n");
    let ask = async |request: String| once(edge.address(), request).await.status;
    assert_eq!(ask(with(format!("X: {}\r\n", "x".repeat(59_000)))).await, 200);
    assert_eq!(ask(with(format!("X: {}\r\n", "x".repeat(60 * 1024)))).await, 431);
    assert_eq!(ask(with("X: y\r\n".repeat(99))).await, 200);
    assert_eq!(ask(with("X: y\r\n".repeat(100))).await, 431);
    assert_eq!(ask(format!("GET /{} HTTP/1.1\r\nHost: a.com\r\n\r\n", "x".repeat(62_000))).await, 414);
    assert_eq!(ask(format!("{} / HTTP/1.1\r\nHost: a.com\r\n\r\n", "X".repeat(8000))).await, 400);
    // Nobody reads on behind the limit.
    let mut client = Client::connect(edge.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: a.com\r\n").await;
    let flood = async {
        // Fails once the gateway has closed.
        while client.tcp.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
    };
    tokio::time::timeout(Duration::from_secs(5), flood).await.expect("the gateway to close");
}

#[tokio::test]
async fn slow_heads_are_cut_and_idle_connections_closed() {
    let backend = echo("a").await;
    let limits = Limits {
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(600),
        ..Limits::default()
    };
    let edge = Edge::with_limits(Config::to(backend).snapshot(), limits).await;
    let start = Instant::now();
    let mut slow = Client::connect(edge.address()).await;
    slow.send("GET / HT").await;
    assert_eq!(slow.answer().await.status, 408);
    assert!(slow.is_closed().await);
    assert!((250..1500).contains(&start.elapsed().as_millis()));
    let start = Instant::now();
    let mut idle = Client::connect(edge.address()).await;
    assert!(idle.is_closed().await);
    assert!((500..1500).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    // HTTP/2 without its SETTINGS, and without any request.
    for bytes in ["PRI * HTTP/2.0\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let start = Instant::now();
        let mut stalled = Client::connect(edge.address()).await;
        stalled.send(bytes).await;
        while stalled.exactly(1).await.is_some() {}
        assert!(start.elapsed() < Duration::from_millis(1500), "{bytes:?} {:?}", start.elapsed());
    }
    // Between requests the time begins anew.
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        client.send("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
    }
}

#[tokio::test]
async fn connections_are_bounded() {
    let limits = Limits { max_connections: 2, ..Limits::default() };
    let edge = Edge::with_limits(Config::to(echo("a").await).snapshot(), limits).await;
    let mut first = Client::connect(edge.address()).await;
    let mut second = Client::connect(edge.address()).await;
    for client in [&mut first, &mut second] {
        client.send("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 200);
    }
    let mut third = Client::connect(edge.address()).await;
    assert!(third.is_closed().await);
    drop(first);
    // Its end has to be noticed.
    for _ in 0..100 {
        let mut fourth = Client::connect(edge.address()).await;
        if fourth.tcp.write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await.is_ok()
            && fourth.try_answer(false).await.is_some_and(|answer| answer.status == 200)
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place of a closed connection was not given to another");
}

#[tokio::test]
async fn a_client_that_stops_in_its_body_leaves_no_half_request_in_the_pool() {
    let (edge, _) = counting().await;
    for body in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n64\r\nhalf"] {
        let mut client = Client::connect(edge.address()).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: a.com\r\n{body}")).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(client);
        for _ in 0..5 {
            assert_eq!(get(edge.address(), "/").await.text(), "ok");
        }
    }
}
