use std::time::Duration;

use http::Response;
use tidegate_snapshot::{Forward, UpstreamProtocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::backend::{self, Count, fixed, full, says};
use crate::client::{Client, get, once};
use crate::harness::{Config, Edge, destination, forward, nobody};

fn to(addresses: &[std::net::SocketAddr], protocol: UpstreamProtocol) -> Config {
    let mut config = Config::new();
    let cluster = config.cluster_of("a", addresses, protocol);
    config.route(forward(Forward::new(vec![destination(&cluster)])))
}

#[tokio::test]
async fn a_refused_connection_is_tried_elsewhere_whatever_the_method() {
    let well = backend::serve(|request| async move {
        let attempts = request.headers()["x-envoy-attempt-count"].to_str().unwrap().to_owned();
        Response::new(full(attempts))
    })
    .await;
    let edge = Edge::start(to(&[nobody(), nobody(), well], UpstreamProtocol::Http1).snapshot()).await;
    let mut most = 0;
    for _ in 0..12 {
        let answer = once(edge.address(), "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 3\r\n\r\nabc").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        most = most.max(answer.text().parse().unwrap());
    }
    assert_eq!(most, 3, "three tries reach the only host that is there");
    edge.await_request(&["response_code=\"200\"", "response_flags=\"-\""]).await;
    let clusters = edge.gateway.clusters();
    let failed: u64 = clusters[0].endpoints.iter().map(|endpoint| endpoint.cx_connect_fail).sum();
    assert!(failed >= 8, "{clusters:?}");
}

#[tokio::test]
async fn nothing_is_tried_again_once_the_backend_may_have_acted() {
    for (request, tries) in [
        ("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 0\r\n\r\n", 1),
        ("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n", 1),
    ] {
        let count = Count::default();
        let counter = count.clone();
        let backend = backend::raw(move |tcp, _| {
            counter.add();
            async move { drop(tcp) }
        })
        .await;
        let edge = Edge::start(to(&[backend, backend], UpstreamProtocol::Http1).snapshot()).await;
        assert_eq!(once(edge.address(), request).await.status, 503);
        assert_eq!(count.get(), tries, "{request}");
    }
    // A 503 of the backend's own is passed on.
    let unwell = says("HTTP/1.1 503 x\r\nContent-Length: 4\r\n\r\nmine").await;
    let edge = Edge::start(to(&[unwell, fixed("other").await], UpstreamProtocol::Http1).snapshot()).await;
    let mut own = 0;
    for _ in 0..4 {
        own += usize::from(get(edge.address(), "/").await.text() == "mine");
    }
    assert_eq!(own, 2);
}

#[tokio::test]
async fn a_pooled_connection_that_died_costs_an_idempotent_request_nothing() {
    // Each connection answers once, says that it stays, and closes when the second request comes.
    let requests = Count::default();
    let counter = requests.clone();
    let backend = backend::raw(move |mut tcp, _| {
        counter.add();
        async move {
            tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            let mut next = [0; 1024];
            let _ = tcp.read(&mut next).await;
        }
    })
    .await;
    let edge = Edge::start(Config::to(backend).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..5 {
        client.send("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
        assert_eq!(client.answer().await.text(), "ok");
        // Let the connection get back to its pool.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(client.answer().await.status, 503, "a POST is never sent twice");
}

#[tokio::test]
async fn refused_streams_are_tried_elsewhere() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    respond.send_reset(h2::Reason::REFUSED_STREAM);
                }
            });
        }
    });
    let edge = Edge::start(to(&[refusing, fixed("well").await], UpstreamProtocol::Http2).snapshot()).await;
    for _ in 0..6 {
        let answer = once(edge.address(), "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 3\r\n\r\nabc").await;
        assert_eq!(answer.text(), "well");
    }
    let edge = Edge::start(to(&[refusing], UpstreamProtocol::Http2).snapshot()).await;
    let answer = get(edge.address(), "/").await;
    let text =
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote reset";
    assert_eq!((answer.status, answer.text()), (503, text));
    edge.await_request(&["response_code=\"503\"", "response_flags=\"URX,UR\""]).await;
}

#[tokio::test]
async fn grpc_calls_that_are_unavailable_are_tried_again_and_then_passed_on() {
    let count = Count::default();
    let counter = count.clone();
    let backend = backend::serve(move |_| {
        counter.add();
        async {
            Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "14")
                .header("grpc-message", "mine")
                .body(full(""))
                .unwrap()
        }
    })
    .await;
    let edge = Edge::start(to(&[backend], UpstreamProtocol::Http2).snapshot()).await;
    let grpc = "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Type: application/grpc\r\nContent-Length: 3\r\n\r\nmsg";
    let answer = once(edge.address(), grpc).await;
    assert_eq!((answer.header("grpc-status"), answer.header("grpc-message")), (Some("14"), Some("mine")));
    assert_eq!(count.get(), 3);
}

#[tokio::test]
async fn a_connection_attempt_ends_with_the_routes_time() {
    // A full backlog: the kernel does not answer any more.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let mut fill = Vec::new();
    for _ in 0..4 {
        let tcp = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let _ = tcp.connect(&address.into());
        fill.push(tcp);
    }
    let start = std::time::Instant::now();
    let edge = Edge::start(Config::to(address).snapshot()).await;
    let answer = get(edge.address(), "/").await;
    let text = answer.text();
    assert!(answer.status == 503 && text.ends_with("reset reason: connection timeout"), "{answer:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
    let config = Config::to(address).edit(|forward| forward.timeout = Some(Duration::from_millis(300)));
    let edge = Edge::start(config.snapshot()).await;
    let start = std::time::Instant::now();
    assert_eq!(get(edge.address(), "/").await.status, 504);
    assert!(start.elapsed() < Duration::from_millis(1500), "{:?}", start.elapsed());
}
