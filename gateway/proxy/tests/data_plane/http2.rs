use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tidegate_snapshot::{Forward, UpstreamProtocol};
use tokio::net::TcpStream;

use crate::backend::{self, Body, channel, echo, full};
use crate::client::get;
use crate::harness::{Config, Edge, destination, forward, missing};

async fn connect(address: SocketAddr) -> SendRequest<Body> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (send, connection) = handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    send
}

fn request(path: &str) -> http::request::Builder {
    Request::builder().uri(format!("http://a.com{path}"))
}

async fn text(answer: Response<hyper::body::Incoming>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().into()).unwrap()
}

#[tokio::test]
async fn prior_knowledge_reaches_backends_of_both_versions() {
    let backend = echo("a").await;
    for (config, version) in [(Config::to(backend), "HTTP/1.1"), (Config::to_http2(backend), "HTTP/2.0")] {
        let edge = Edge::start(config.snapshot()).await;
        let mut client = connect(edge.address()).await;
        for round in 0..3 {
            let body = full(vec![b'x'; round * 100_000]);
            let sent = request("/a/../p?q")
                .method("POST")
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .header("te", "trailers")
                .header("x-envoy-internal", "true")
                .body(body)
                .unwrap();
            let answer = client.send_request(sent).await.unwrap();
            assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
            assert_eq!(answer.headers()["server"], "istio-envoy");
            assert!(!answer.headers().contains_key("connection"));
            let text = text(answer).await;
            let authority = if version == "HTTP/2.0" { "http://a.com" } else { "" };
            assert!(text.contains(&format!("request: POST {authority}/p?q {version}\n")), "{text:.300}");
            assert!(text.contains("cookie: a=1; b=2\n"), "{text:.300}");
            assert!(!text.contains("x-envoy-internal"));
            assert!(text.contains("te: trailers\n"));
            assert_eq!(text.len() - text.find("\n\n").unwrap() - 2, round * 100_000);
        }
    }
}

#[tokio::test]
async fn http1_clients_reach_http2_backends() {
    let edge = Edge::start(Config::to_http2(echo("a").await).snapshot()).await;
    let answer = get(edge.address(), "/p?q").await;
    assert_eq!(answer.seen("request"), Some("GET http://a.com/p?q HTTP/2.0"));
}

#[tokio::test]
async fn a_cluster_may_follow_the_client() {
    let mut config = Config::new();
    let cluster = config.cluster_of("a", &[echo("a").await], UpstreamProtocol::AsDownstream);
    let edge = Edge::start(config.route(forward(Forward::new(vec![destination(&cluster)]))).snapshot()).await;
    assert_eq!(get(edge.address(), "/").await.seen("request"), Some("GET / HTTP/1.1"));
    let answer = connect(edge.address()).await.send_request(request("/").body(full("")).unwrap()).await.unwrap();
    assert!(text(answer).await.contains("HTTP/2.0"));
}

/// A backend like a gRPC server's: answers message by message, and says how it went in trailers.
async fn grpc() -> SocketAddr {
    backend::serve(|request| async move {
        assert_eq!(request.version(), Version::HTTP_2);
        assert_eq!(request.headers()["te"], "trailers");
        let (send, body) = channel();
        let mut incoming = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = incoming.frame().await {
                if let Ok(data) = frame.into_data() {
                    let _ = send.send(Frame::data(data));
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "5".parse().unwrap());
            let _ = send.send(Frame::trailers(trailers));
        });
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    })
    .await
}

#[tokio::test]
async fn a_grpc_stream_runs_both_ways_and_ends_with_trailers() {
    let config = Config::to_http2(grpc().await).edit(|forward| forward.timeout = Some(Duration::from_millis(400)));
    let edge = Edge::start(config.snapshot()).await;
    let mut client = connect(edge.address()).await;
    let (send, body) = channel();
    let sent = request("/pkg.Service/Method")
        .method("POST")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let answer = client.send_request(sent).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let mut answers = answer.into_body();
    for round in 0..6u8 {
        // The client has not finished, so the route's time does not run.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let message = Bytes::from(vec![round; 5]);
        send.send(Frame::data(message.clone())).unwrap();
        assert_eq!(answers.frame().await.unwrap().unwrap().into_data().unwrap(), message);
    }
    drop(send);
    let trailers = answers.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "5");
    edge.await_request(&["request_protocol=\"grpc\"", "grpc_response_status=\"5\"", "response_code=\"200\""]).await;
}

#[tokio::test]
async fn local_replies_are_grpcs_for_grpc() {
    let config = Config::new().route(forward(Forward::new(vec![destination(&missing("outbound|80||x"))])));
    let edge = Edge::start(config.snapshot()).await;
    let mut client = connect(edge.address()).await;
    let sent = request("/s/m").method("POST").header("content-type", "application/grpc").body(full("")).unwrap();
    let answer = client.send_request(sent).await.unwrap();
    assert_eq!((answer.status(), &answer.headers()["grpc-status"]), (StatusCode::OK, &"14".parse().unwrap()));
    let plain = client.send_request(request("/").body(full("")).unwrap()).await.unwrap();
    assert_eq!(plain.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_unary_call_that_takes_too_long_is_answered_in_time() {
    let backend = backend::serve(|_| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Response::new(full(""))
    })
    .await;
    for config in [Config::to_http2(backend), Config::to(backend)] {
        let config = config.edit(|forward| forward.timeout = Some(Duration::from_millis(300)));
        let edge = Edge::start(config.snapshot()).await;
        let mut client = connect(edge.address()).await;
        let start = std::time::Instant::now();
        let sent = request("/s/m").method("POST").header("content-type", "application/grpc").body(full("msg")).unwrap();
        let answer = client.send_request(sent).await.unwrap_or_else(|e| panic!("{e} after {:?}", start.elapsed()));
        assert_eq!(answer.headers()["grpc-message"], "upstream request timeout");
        assert!((250..1000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
        let answer = client.send_request(request("/").body(full("")).unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        edge.await_request(&["response_code=\"504\"", "response_flags=\"UT\""]).await;
    }
}

#[tokio::test]
async fn an_answer_that_drips_is_reset_at_the_routes_time() {
    let backend = backend::serve(|_| async {
        let (send, body) = channel();
        tokio::spawn(async move {
            while send.send(Frame::data("x".into())).is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Response::new(body)
    })
    .await;
    let config = Config::to_http2(backend).edit(|forward| forward.timeout = Some(Duration::from_millis(300)));
    let edge = Edge::start(config.snapshot()).await;
    let mut client = connect(edge.address()).await;
    let start = std::time::Instant::now();
    let answer = client.send_request(request("/").body(full("")).unwrap()).await.unwrap();
    assert!(answer.into_body().collect().await.is_err());
    assert!((250..1200).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    edge.await_request(&["response_code=\"200\"", "response_flags=\"UT\""]).await;
    // Other streams of the connection live on.
    let answer = client.send_request(request("/").body(full("")).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn heads_are_bounded_on_http2_too() {
    let edge = Edge::start(Config::to(echo("a").await).snapshot()).await;
    let mut client = connect(edge.address()).await;
    let mut many = request("/");
    for n in 0..101 {
        many = many.header(format!("x-{n}"), "y");
    }
    let answer = client.send_request(many.body(full("")).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let large = request("/").header("x", "y".repeat(61 * 1024)).body(full("")).unwrap();
    let answer = client.send_request(large).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let connect = Request::builder().method("CONNECT").uri("a.com:443").body(full("")).unwrap();
    let answer = client.send_request(connect).await.unwrap();
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.headers()["server"], "istio-envoy");
    let answer = client.send_request(request("/").body(full("")).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn many_streams_share_few_upstream_connections() {
    let connections = backend::Count::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = connections.clone();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            count.add();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        respond.send_response(Response::new(()), true).unwrap();
                    });
                }
            });
        }
    });
    let edge = Edge::start(Config::to_http2(address).snapshot()).await;
    let client = connect(edge.address()).await;
    let calls = (0..50).map(|_| {
        let mut client = client.clone();
        async move { client.send_request(request("/").body(full("")).unwrap()).await.unwrap().status() }
    });
    assert!(futures::future::join_all(calls).await.iter().all(|status| *status == StatusCode::OK));
    let first = connections.get();
    let mut client = client.clone();
    client.send_request(request("/").body(full("")).unwrap()).await.unwrap();
    assert_eq!(connections.get(), first, "a new connection although there are idle ones");
}
