//! What becomes of requests to backends that speak HTTP/2, however these behave.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::timeout;

use crate::backend::{self, Count, full};
use crate::client::{Client, get, once};
use crate::harness::{Config, Edge};

const PATIENCE: Duration = Duration::from_secs(10);
/// Each has its own connections.
const WORKERS: usize = 2;
const GET: &str = "GET / HTTP/1.1\r\nHost: a.com\r\n\r\n";

/// A backend that does with every connection what `then` says.
async fn accept<F, R>(then: F) -> SocketAddr
where
    F: Fn(Connection<TcpStream, Bytes>) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    allowing(100, then).await
}

/// As [`accept`], with room for so many streams on each connection.
async fn allowing<F, R>(streams: u32, then: F) -> SocketAddr
where
    F: Fn(Connection<TcpStream, Bytes>) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let then = Arc::new(then);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let then = then.clone();
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                then(builder.max_concurrent_streams(streams).handshake(tcp).await.unwrap()).await;
            });
        }
    });
    address
}

/// A backend that does with every request what `then` says.
async fn serve<F>(then: F) -> SocketAddr
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) + Clone + Send + Sync + 'static,
{
    accept(move |mut connection| {
        let then = then.clone();
        async move {
            while let Some(Ok((request, respond))) = connection.accept().await {
                then(request, respond);
            }
        }
    })
    .await
}

fn head(fields: &[(&str, &str)]) -> Response<()> {
    fields.iter().fold(Response::builder(), |head, (name, value)| head.header(*name, *value)).body(()).unwrap()
}

async fn check(backend: SocketAddr, status: u16, text: &str, flags: &str) {
    let edge = Edge::start(Config::to_http2(backend).snapshot()).await;
    let answer = once(edge.address(), "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!((answer.status, answer.text().ends_with(text)), (status, true), "{answer:?}");
    let code = format!("response_code=\"{status}\"");
    edge.await_request(&[&code, &format!("response_flags=\"{flags}\"")]).await;
}

#[tokio::test]
async fn failures_have_envoys_words_and_flags() {
    let count = Count::default();
    let counter = count.clone();
    let resets = serve(move |_, mut respond| {
        counter.add();
        respond.send_reset(Reason::INTERNAL_ERROR);
    });
    check(resets.await, 503, "reset reason: remote reset", "UR").await;
    assert_eq!(count.get(), 1, "whoever resets a stream may have acted on it");

    let leaves = accept(|mut connection| async move { drop(connection.accept().await) });
    check(leaves.await, 503, "reset reason: connection termination", "UC").await;

    let protocol_error = "reset reason: protocol error";
    let no_http2 = backend::raw(|mut tcp, _| async move {
        tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        // To the end, so that nothing overtakes the answer.
        while matches!(tcp.read(&mut [0; 1024]).await, Ok(1..)) {}
    });
    check(no_http2.await, 502, protocol_error, "UPE").await;

    for fields in [
        &[("content-length", "5")][..],
        &[("content-length", "0"), ("content-length", "0")],
        &[("content-length", "+0")],
    ] {
        let lies = serve(move |_, mut respond| drop(respond.send_response(head(fields), true)));
        check(lies.await, 502, protocol_error, "UPE").await;
    }
    let many = serve(|_, mut respond| {
        let all: Vec<String> = (0..101).map(|number| format!("x-{number}")).collect();
        let fields: Vec<_> = all.iter().map(|name| (name.as_str(), "")).collect();
        let _ = respond.send_response(head(&fields), true);
    });
    check(many.await, 502, protocol_error, "UPE").await;
}

#[tokio::test]
async fn a_switch_of_protocols_that_nobody_asked_for_is_no_answer() {
    let switches = serve(|_, mut respond| {
        let _ = respond.send_informational(Response::builder().status(101).body(()).unwrap());
        let _ = respond.send_response(head(&[]), true);
    });
    check(switches.await, 502, "reset reason: protocol error", "UPE").await;
}

#[tokio::test]
async fn an_answer_that_is_cut_is_cut_for_the_client() {
    let backend = serve(|_, mut respond| {
        let mut send = respond.send_response(head(&[]), false).unwrap();
        send.send_data(Bytes::from_static(b"begun"), false).unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            send.send_reset(Reason::INTERNAL_ERROR);
        });
    })
    .await;
    let edge = Edge::start(Config::to_http2(backend).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(GET).await;
    assert!(client.try_answer(false).await.is_none());
    edge.await_request(&["response_code=\"200\"", "response_flags=\"UR\""]).await;
}

#[tokio::test]
async fn answers_without_bodies_leave_the_clients_connection_open() {
    let backend = serve(|request, mut respond| {
        let status: u16 = request.uri().path()[1..].parse().unwrap();
        let length = if request.method() == "HEAD" { &[("content-length", "7")][..] } else { &[] };
        let mut response = head(length);
        *response.status_mut() = status.try_into().unwrap();
        let _ = respond.send_response(response, true);
    })
    .await;
    let edge = Edge::start(Config::to_http2(backend).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    for (status, length) in [(200, Some("0")), (204, None), (304, None), (404, Some("0"))] {
        client.send(format!("GET /{status} HTTP/1.1\r\nHost: a.com\r\n\r\n")).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("content-length")), (status, length), "{answer:?}");
        assert_eq!(answer.header("transfer-encoding"), None);
    }
    client.send("HEAD /200 HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
    assert_eq!(client.answer_to_head().await.header("content-length"), Some("7"));
    client.send("GET /200 HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_body_in_many_pieces_arrives_whole_and_in_order() {
    const PIECES: usize = 5_000;
    let backend = serve(|_, mut respond| {
        let mut send = respond.send_response(head(&[]), false).unwrap();
        tokio::spawn(async move {
            for number in 0..PIECES {
                let piece = Bytes::from(format!("{number:0width$}", width = 5 + number % 97));
                offer(&mut send, piece, false).await;
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("x-end", "1".parse().unwrap());
            send.send_trailers(trailers).unwrap();
        });
    })
    .await;
    let edge = Edge::start(Config::to_http2(backend).snapshot()).await;
    let expected: String = (0..PIECES).map(|number| format!("{number:0width$}", width = 5 + number % 97)).collect();
    let answer = get(edge.address(), "/").await;
    assert!(answer.text() == expected, "{} of {} bytes", answer.body.len(), expected.len());
}

/// Sends `data` as flow control has room for it; how much that was before the stream ended or nothing moved any more.
async fn offer(send: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> usize {
    let mut sent = 0;
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let room = match timeout(Duration::from_secs(1), poll_fn(|cx| send.poll_capacity(cx))).await {
            Ok(Some(Ok(room))) => room.min(data.len()),
            _ => return sent,
        };
        send.send_data(data.split_to(room), end && data.is_empty()).unwrap();
        sent += room;
    }
    sent
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_its_own_stream_alone() {
    let (tell, mut told) = unbounded_channel();
    let connections = Count::default();
    let counter = connections.clone();
    let backend = accept(move |mut connection| {
        counter.add();
        let tell = tell.clone();
        async move {
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if request.uri().path() == "/" {
                    respond.send_response(head(&[]), true).unwrap();
                    continue;
                }
                let mut send = respond.send_response(head(&[]), false).unwrap();
                let tell = tell.clone();
                tokio::spawn(async move {
                    let _ = tell.send(offer(&mut send, vec![0; 64 << 20].into(), true).await);
                    poll_fn(|cx| send.poll_reset(cx)).await
                });
            }
        }
    })
    .await;
    let edge = Edge::start(Config::to_http2(backend).snapshot()).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut slow = Client::over(socket.connect(edge.address()).await.unwrap());
    slow.send("GET /large HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
    let sent = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    // The kernel's buffers towards the client, the window, and one read.
    assert!(sent < 16 << 20, "{sent} bytes were taken for a client that reads nothing");
    for _ in 0..10 {
        assert_eq!(get(edge.address(), "/").await.status, 200);
    }
    assert!(connections.get() <= WORKERS, "{}", connections.get());
}

#[tokio::test]
async fn uploads_that_wait_for_their_clients_take_no_window_of_others() {
    let backend = serve(|request, mut respond| {
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut length = 0;
            while let Some(Ok(data)) = body.data().await {
                length += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            let mut send = respond.send_response(head(&[]), false).unwrap();
            send.send_data(length.to_string().into(), true).unwrap();
        });
    })
    .await;
    let edge = Edge::start(Config::to_http2(backend).snapshot()).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut client = Client::connect(edge.address()).await;
        client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1000000\r\n\r\nbegun").await;
        waiting.push(client);
    }
    let mut upload = b"POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 3000000\r\n\r\n".to_vec();
    upload.resize(upload.len() + 3_000_000, b'x');
    let answer = timeout(PATIENCE, once(edge.address(), upload)).await.unwrap();
    assert_eq!(answer.text(), "3000000");
    let mut last = waiting.pop().unwrap();
    last.send(vec![b'x'; 1_000_000 - 5]).await;
    assert_eq!(last.answer().await.text(), "1000000");
    let chunked =
        "POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(once(edge.address(), chunked).await.text(), "5");
}

#[tokio::test]
async fn a_backend_that_takes_nothing_is_not_read_to_the_end_for() {
    let backend = serve(|request, respond| {
        tokio::spawn(async move {
            std::future::pending::<()>().await;
            drop((request, respond));
        });
    })
    .await;
    let edge = Edge::start(Config::to_http2(backend).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 100000000\r\n\r\n").await;
    let all = vec![0; 100_000_000];
    assert!(timeout(Duration::from_secs(1), client.send(&all)).await.is_err(), "all of it was taken");
}

#[tokio::test]
async fn the_end_of_a_request_reaches_its_stream_and_spares_the_connection() {
    let (tell, mut told) = unbounded_channel();
    let connections = Count::default();
    let counter = connections.clone();
    let backend = accept(move |mut connection| {
        counter.add();
        let tell = tell.clone();
        async move {
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if request.uri().path() == "/" {
                    respond.send_response(head(&[]), true).unwrap();
                    continue;
                }
                let tell = tell.clone();
                tokio::spawn(async move {
                    let _ = tell.send(poll_fn(|cx| respond.poll_reset(cx)).await.unwrap());
                    drop(request);
                });
            }
        }
    })
    .await;
    let config = Config::to_http2(backend).edit(|forward| forward.timeout = Some(Duration::from_millis(300)));
    let edge = Edge::start(config.snapshot()).await;
    let mut reset = async || timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..3 {
        client.send("GET /never HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
        assert_eq!(client.answer().await.status, 504);
        assert_eq!(reset().await, Reason::CANCEL);
    }
    edge.await_request(&["response_code=\"504\"", "response_flags=\"UT\""]).await;
    client.send("GET /never HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(client);
    assert_eq!(reset().await, Reason::CANCEL);
    edge.await_request(&["response_code=\"0\"", "response_flags=\"DC\""]).await;
    assert_eq!(get(edge.address(), "/").await.status, 200);
    assert!(connections.get() <= WORKERS, "{}", connections.get());
}

#[tokio::test]
async fn connections_that_died_idle_cost_idempotent_requests_nothing() {
    let backend = accept(|mut connection| async move {
        if let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_response(head(&[]), true).unwrap();
            // The answer leaves, and the next request meets the end.
            let _ = timeout(Duration::from_millis(20), poll_fn(|cx| connection.poll_accept(cx))).await;
        }
    })
    .await;
    let edge = Edge::start(Config::to_http2(backend).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..10 {
        client.send(GET).await;
        assert_eq!(client.answer().await.status, 200);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(10..30))).await;
    }
}

#[tokio::test]
async fn a_full_connection_is_joined_by_another() {
    let connections = Count::default();
    let counter = connections.clone();
    let backend = allowing(3, move |mut connection| {
        counter.add();
        async move {
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    let _ = respond.send_response(head(&[]), true);
                });
            }
        }
    })
    .await;
    let edge = Edge::start(Config::to_http2(backend).snapshot()).await;
    assert_eq!(get(edge.address(), "/").await.status, 200);
    let all = futures::future::join_all((0..9).map(|_| get(edge.address(), "/"))).await;
    assert!(all.iter().all(|answer| answer.status == 200), "{all:?}");
    assert!((2..=9).contains(&connections.get()), "{}", connections.get());
}

#[tokio::test]
async fn what_no_uri_may_hold_is_encoded() {
    let backend = backend::serve(|request| async move { Response::new(full(request.uri().to_string())) }).await;
    let edge = Edge::start(Config::to_http2(backend).snapshot()).await;
    let answer = get(edge.address(), "/<a>?b=`c`<").await;
    assert_eq!((answer.status, answer.text()), (200, "http://a.com/%3Ca%3E?b=%60c%60%3C"));
}

#[tokio::test]
async fn requests_that_were_given_up_leave_their_connections_as_they_were() {
    let backend = serve(|request, mut respond| {
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..10))).await;
            let Ok(mut send) = respond.send_response(head(&[]), false) else { return };
            offer(&mut send, vec![0; fastrand::usize(..200_000)].into(), true).await;
            drop(request);
        });
    })
    .await;
    let edge = Edge::start(Config::to_http2(backend).snapshot()).await;
    let address = edge.address();
    for _ in 0..5 {
        let leaving = (0..60).map(|_| async move {
            let mut client = Client::connect(address).await;
            client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 100000\r\n\r\n").await;
            client.send(vec![0; fastrand::usize(..=100_000)]).await;
            let _ = timeout(Duration::from_millis(fastrand::u64(..20)), client.try_answer(false)).await;
        });
        futures::future::join_all(leaving).await;
    }
    for _ in 0..100 {
        let endpoint = edge.gateway.clusters()[0].endpoints[0].clone();
        if endpoint.rq_active == 0 {
            assert!(endpoint.cx_total <= WORKERS as u64, "{endpoint:?}");
            assert_eq!(get(address, "/").await.status, 200);
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("requests are still counted: {:?}", edge.gateway.clusters()[0].endpoints[0]);
}
