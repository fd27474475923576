//! Clients that leave, or do not take what they asked for: what a backend may then make the gateway hold.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use http::Request;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::backend;
use crate::client::Client;
use crate::harness::{Config, Edge};

/// Requests at once whose backends send interim answers for ever.
const STREAMS: u8 = 20;
const GET: &str = "GET / HTTP/1.1\r\nHost: a.com\r\n\r\n";

/// A backend that repeats `piece` behind `head`, as much as is read of it, and counts that.
async fn flood(head: &'static str, piece: Vec<u8>) -> (SocketAddr, Arc<AtomicUsize>) {
    let taken = Arc::new(AtomicUsize::new(0));
    let (counter, piece) = (taken.clone(), Arc::new(piece));
    let backend = backend::raw(move |mut tcp, _| {
        let (counter, piece) = (counter.clone(), piece.clone());
        async move {
            // What the socket itself holds should not be taken for what the gateway does.
            let socket = socket2::SockRef::from(&tcp);
            socket.set_send_buffer_size(16 * 1024).unwrap();
            let _ = tcp.write_all(head.as_bytes()).await;
            while tcp.write_all(&piece).await.is_ok() {
                counter.fetch_add(piece.len(), SeqCst);
            }
        }
    })
    .await;
    (backend, taken)
}

/// Resolves with a number that has not grown for a while.
async fn settled(number: &AtomicUsize) -> usize {
    let mut last = usize::MAX;
    for _ in 0..100 {
        let now = number.load(SeqCst);
        if now == last && now > 0 {
            return now;
        }
        last = now;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it grows for ever: {last}");
}

#[tokio::test]
async fn a_client_that_pipelined_and_left_is_missed() {
    let backend = backend::raw(|tcp, _| async move {
        std::future::pending::<()>().await;
        drop(tcp);
    })
    .await;
    let edge = Edge::start(Config::to(backend).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(format!("{GET}{GET}")).await;
    drop(client);
    edge.await_request(&["response_code=\"0\"", "response_flags=\"DC\""]).await;
}

#[tokio::test]
async fn an_answer_goes_on_when_a_closed_window_opens() {
    let (backend, _) = flood("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n", vec![b'x'; 4096]).await;
    let edge = Edge::start(Config::to(backend).snapshot()).await;
    let tcp = TcpStream::connect(edge.address()).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(0).initial_connection_window_size(10_000_000);
    let handshake = builder.handshake::<_, bytes::Bytes>(tcp);
    let (mut client, mut connection) = handshake.await.unwrap();
    let (open, opened) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            _ = &mut connection => return,
            _ = opened => {}
        }
        connection.set_initial_window_size(20_000).unwrap();
        let _ = connection.await;
    });
    let mut answers = Vec::new();
    for _ in 0..20 {
        client = client.ready().await.unwrap();
        let request = Request::get("http://a.com/").body(()).unwrap();
        answers.push(client.send_request(request, true).unwrap().0);
    }
    let mut bodies = Vec::new();
    for answer in answers {
        bodies.push(answer.await.unwrap().into_body());
    }
    open.send(()).unwrap();
    for body in &mut bodies {
        let mut length = 0;
        while length < 200_000 {
            let data = body.data().await.unwrap().unwrap();
            assert!(data.iter().all(|byte| *byte == b'x'));
            length += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
    }
    drop(bodies);
    edge.await_request(&["response_code=\"200\"", "response_flags=\"DR\""]).await;
}

#[tokio::test]
async fn interim_answers_wait_for_a_client_that_reads_nothing() {
    let interim = format!("HTTP/1.1 103 Early Hints\r\nx: {}\r\n\r\n", "y".repeat(50_000));
    let (backend, taken) = flood("", interim.into_bytes()).await;
    let edge = Edge::start(Config::to(backend).snapshot()).await;
    let mut tcp = TcpStream::connect(edge.address()).await.unwrap();
    socket2::SockRef::from(&tcp).set_recv_buffer_size(4096).unwrap();
    // Preface, SETTINGS, and some GETs without any compression.
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let block = b"\x82\x84\x86\x41\x05a.com";
    for number in 0..STREAMS {
        bytes.extend_from_slice(&[0, 0, block.len() as u8, 1, 5, 0, 0, 0, 2 * number + 1]);
        bytes.extend_from_slice(block);
    }
    tcp.write_all(&bytes).await.unwrap();
    settled(&taken).await;
    // A hundred of them are an error. What the sockets hold lets one or two streams come so far; the others wait.
    let metrics = edge.metrics();
    let failed = metrics.lines().find(|line| line.starts_with("istio_requests_total") && line.contains("\"UPE\""));
    let failed: usize = failed.and_then(|line| line.rsplit(' ').next()).map_or(0, |count| count.parse().unwrap());
    assert!(failed < usize::from(STREAMS) / 2, "{failed} of {STREAMS} got all of it");
}
