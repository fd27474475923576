//! What plaintext connections do, over TLS: bodies, answers that come early or late, clients that are slow or stop.

use std::time::{Duration, Instant};

use http::Response;
use http_body_util::BodyExt;
use hyper::body::Frame;
use tidegate_proxy::Limits;
use tokio::io::AsyncReadExt;

use crate::backend::{self, channel, fixed, full};
use crate::client::Client;
use crate::harness::Config;
use crate::tls_edge::{Server, TlsEdge, get};

async fn edge_for(backend: std::net::SocketAddr, limits: Limits) -> TlsEdge {
    TlsEdge::with(Config::new(), vec![Server::new("a", &["a.com"], backend)], limits).await
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_arrives() {
    // The backend answers without reading the body, and the gateway closes with bytes unread.
    let edge =
        edge_for(backend::says("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig").await, Limits::default())
            .await;
    for _ in 0..5 {
        let mut client = Client::over(edge.connect("a.com").await);
        client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1000000\r\n\r\nabc").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.text()), (413, "big"));
    }
}

#[tokio::test]
async fn slow_heads_are_cut_and_idle_connections_closed() {
    let limits = Limits {
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let edge = edge_for(fixed("a").await, limits).await;
    let mut client = Client::over(edge.connect("a.com").await);
    client.send("GET / HT").await;
    assert_eq!(client.answer().await.status, 408);
    assert!(client.is_closed().await);
    let mut stream = edge.connect("a.com").await;
    let begin = Instant::now();
    // With a goodbye, or this would be an error.
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    assert!(begin.elapsed() < Duration::from_secs(5));
    let mut client = Client::over(edge.connect("a.com").await);
    client.send(get("a.com")).await;
    assert_eq!(client.answer().await.status, 200);
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn bodies_stream_both_ways_without_waiting_for_their_end() {
    let backend = backend::serve(|request| async move {
        let (send, body) = channel();
        tokio::spawn(async move {
            let mut incoming = request.into_body();
            while let Some(Ok(frame)) = incoming.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                if send.send(Frame::data(data)).is_err() {
                    return;
                }
            }
        });
        Response::new(body)
    })
    .await;
    let edge = edge_for(backend, Limits::default()).await;
    let mut client = Client::over(edge.connect("a.com").await);
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut head = false;
    for piece in ["one", "three", "seven"] {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        if !std::mem::replace(&mut head, true) {
            while client.line().await.unwrap() != "\r\n" {}
        }
        assert_eq!(client.line().await.unwrap().trim(), format!("{:x}", piece.len()));
        assert_eq!(client.exactly(piece.len() + 2).await.unwrap(), format!("{piece}\r\n").into_bytes());
    }
    client.send("0\r\n\r\n").await;
    assert_eq!(client.line().await.unwrap(), "0\r\n");
    assert_eq!(client.line().await.unwrap(), "\r\n");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_slow_reader_gets_everything() {
    let backend = backend::serve(|_| async { Response::new(full(vec![b'x'; 20_000_000])) }).await;
    let edge = edge_for(backend, Limits::default()).await;
    let mut client = Client::over(edge.connect("a.com").await);
    client.send(get("a.com")).await;
    client.send(get("a.com")).await;
    while client.line().await.unwrap() != "\r\n" {}
    let mut left = 20_000_000;
    while left > 0 {
        let piece = client.exactly(left.min(1_000_000)).await.unwrap();
        assert!(piece.iter().all(|byte| *byte == b'x'));
        left -= piece.len();
        tokio::task::yield_now().await;
    }
    // The second request was there all the time, and was read while the first was answered.
    assert_eq!(client.answer().await.body.len(), 20_000_000);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_and_the_connection_serves_on() {
    let slow = backend::serve(|request| async move {
        if request.uri().path() == "/slow" {
            std::future::pending::<()>().await;
        }
        Response::new(full("quick"))
    })
    .await;
    let server = Server { timeout: Some(Duration::from_millis(200)), ..Server::new("a", &["a.com"], slow) };
    let edge = TlsEdge::start(vec![server]).await;
    let mut client = Client::over(edge.connect("a.com").await);
    for _ in 0..2 {
        client.send("GET /slow HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 504);
        client.send(get("a.com")).await;
        assert_eq!(client.answer().await.text(), "quick");
    }
}
