use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use http_body_util::BodyExt;
use hyper::body::Frame;
use tidegate_snapshot::{
    Forward, HeaderOperations, HeaderValueTemplate, PathRewrite, RegexRewrite, ServerHeader, Template,
};

use crate::backend::{self, Count, channel, echo, fixed, full};
use crate::client::{Client, get, once};
use crate::harness::{Config, Edge, action, destination, forward, prefix};

fn literal(name: &'static str, value: &'static str) -> (HeaderName, HeaderValueTemplate) {
    (HeaderName::from_static(name), HeaderValueTemplate::Literal(HeaderValue::from_static(value)))
}

fn template(name: &'static str, value: &str) -> (HeaderName, HeaderValueTemplate) {
    (HeaderName::from_static(name), HeaderValueTemplate::Template(Template::parse(value).unwrap()))
}

#[tokio::test]
async fn a_get_is_proxied_and_the_backend_is_told_of_the_client() {
    let edge = Edge::start(Config::to(echo("a").await).snapshot()).await;
    let answer = once(
        edge.address(),
        "GET /x/../hello?q=1 HTTP/1.1\r\nHost: a.com:80\r\nX-Envoy-Retry-On: 5xx\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
    )
    .await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.seen("request"), Some("GET /hello?q=1 HTTP/1.1"));
    assert_eq!(answer.seen("host"), Some("a.com:80"));
    assert_eq!(answer.seen("x-forwarded-for"), Some("1.2.3.4,127.0.0.1"));
    assert_eq!(answer.seen("x-forwarded-proto"), Some("http"));
    assert_eq!(answer.seen("x-envoy-external-address"), Some("127.0.0.1"));
    assert_eq!(answer.seen("x-envoy-attempt-count"), Some("1"));
    assert_eq!(answer.seen("x-envoy-decorator-operation"), Some("backend:80/*"));
    assert_eq!(answer.seen("x-request-id").map(str::len), Some(36));
    assert_eq!(answer.seen("x-envoy-retry-on"), None);
    assert_eq!(answer.seen("x-envoy-expected-rq-timeout-ms"), None);
    assert_eq!(answer.header("server"), Some("istio-envoy"));
    assert!(answer.header("x-envoy-upstream-service-time").is_some());
    assert_eq!(answer.header("x-envoy-attempt-count"), None);
    edge.await_request(&["response_code=\"200\"", "response_flags=\"-\"", "destination_service=\"backend\""]).await;
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_pipelined_ones_in_order() {
    let edge = Edge::start(Config::to(echo("a").await).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    for round in 0..3 {
        client.send(format!("GET /{round} HTTP/1.1\r\nHost: a.com\r\n\r\n")).await;
        assert_eq!(client.answer().await.seen("request"), Some(&*format!("GET /{round} HTTP/1.1")));
    }
    let mut batch = String::new();
    for round in 0..100 {
        batch.push_str(&match round % 3 {
            0 => format!("GET /{round} HTTP/1.1\r\nHost: a.com\r\n\r\n"),
            1 => format!("POST /{round} HTTP/1.1\r\nHost: a.com\r\nContent-Length: 3\r\n\r\nabc"),
            _ => format!(
                "POST /{round} HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n"
            ),
        });
    }
    client.send(batch).await;
    for round in 0..100 {
        let answer = client.answer().await;
        let seen = answer.seen("request").unwrap();
        assert_eq!(seen.split(' ').nth(1), Some(&*format!("/{round}")), "{}", answer.text());
        assert_eq!(answer.text().ends_with("\n\nabc"), round % 3 != 0);
    }
}

#[tokio::test]
async fn a_client_that_wants_to_close_is_closed() {
    let edge = Edge::start(Config::to(fixed("x").await).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.text(), answer.header("connection")), ("x", Some("close")));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn bodies_stream_both_ways_without_waiting_for_their_end() {
    let backend = backend::serve(|request| async move {
        let (send, body) = channel();
        let mut incoming = request.into_body();
        tokio::spawn(async move {
            while let Some(Ok(frame)) = incoming.frame().await {
                let Ok(data) = frame.into_data() else { continue };
                let _ = send.send(Frame::data(Bytes::from(data.to_ascii_uppercase())));
            }
        });
        Response::new(body)
    })
    .await;
    let edge = Edge::start(Config::to(backend).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for (piece, upper) in [("one", "ONE"), ("three", "THREE")] {
        client.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        while client.line().await.unwrap().trim() != upper {}
    }
    client.send("0\r\n\r\n").await;
    while client.line().await.unwrap().trim() != "0" {}
    client.line().await.unwrap();
    // As Envoy: an answer that begins before its request has ended is the last on its connection.
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn large_bodies_arrive_whole() {
    let edge = Edge::start(Config::to(echo("a").await).snapshot()).await;
    let body: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..2 {
        client.send(format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        client.send(&body).await;
        assert!(client.answer().await.body.ends_with(&body));
    }
}

#[tokio::test]
async fn interim_answers_pass() {
    let edge = Edge::start(Config::to(echo("a").await).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 100);
    client.send("hi").await;
    assert!(client.answer().await.text().ends_with("\n\nhi"));
}

#[tokio::test]
async fn head_has_no_body_and_keeps_its_length() {
    let edge = Edge::start(Config::to(fixed("four").await).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
        let answer = client.answer_to_head().await;
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("4")));
    }
}

#[tokio::test]
async fn weights_divide_requests() {
    let mut config = Config::new();
    let a = config.cluster("a", &[fixed("a").await]);
    let b = config.cluster("b", &[fixed("b").await]);
    let (mut a, b) = (destination(&a), destination(&b));
    a.weight = 3;
    let edge = Edge::start(config.route(forward(Forward::new(vec![a, b]))).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    let mut count = 0;
    for _ in 0..400 {
        client.send("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
        count += usize::from(client.answer().await.text() == "a");
    }
    assert!((250..350).contains(&count), "{count} of 400");
}

#[tokio::test]
async fn a_head_is_written_as_envoy_writes_it() {
    let backend = backend::says("HTTP/1.0 200 Fine\r\nContent-Type: Text\r\nX-MiXed: A\r\n\r\nten").await;
    let edge = Edge::start(Config::to(backend).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
        let answer = client.answer().await;
        assert!(answer.head.starts_with("HTTP/1.1 200 OK\r\n"), "{}", answer.head);
        let names = answer.head.lines().skip(1).filter_map(|line| line.split_once(':')).map(|(name, _)| name);
        let mut names: Vec<&str> = names.collect();
        names.sort_unstable();
        let expected =
            ["content-type", "date", "server", "transfer-encoding", "x-envoy-upstream-service-time", "x-mixed"];
        assert_eq!(names, expected, "{}", answer.head);
        assert_eq!((answer.header("x-mixed"), answer.text()), (Some("A"), "ten"));
    }
}

#[tokio::test]
async fn header_operations_run_in_istios_order() {
    let backend = backend::serve(|request| async move {
        let seen =
            |name| request.headers().get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join("+");
        let text = format!(
            "a: {}\nb: {}\ngone: {}\nt: {}\nhost: {}\n",
            seen("a"),
            seen("b"),
            seen("gone"),
            seen("t"),
            seen("host")
        );
        Response::builder()
            .header("server", "mine")
            .header("r", "backend")
            .header("secret", "s")
            .body(full(text))
            .unwrap()
    })
    .await;
    let rule = HeaderOperations {
        remove: vec![HeaderName::from_static("gone")].into(),
        set: vec![literal("a", "rule"), template("t", "%REQ(:method)% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%")]
            .into(),
        add: vec![literal("b", "rule")].into(),
    };
    let own = HeaderOperations {
        set: vec![literal("a", "own"), literal("host", "own.com")].into(),
        add: vec![literal("b", "own")].into(),
        ..HeaderOperations::default()
    };
    let answers = HeaderOperations {
        remove: vec![HeaderName::from_static("secret")].into(),
        set: vec![literal("r", "rule"), template("code", "%RESPONSE_CODE%")].into(),
        ..HeaderOperations::default()
    };
    let build = |count: usize| {
        let mut config = Config::new();
        let cluster = config.cluster("a", &[backend]);
        let mut to = destination(&cluster);
        to.request_headers = own.clone();
        let mut route = forward(Forward::new(vec![to; count]));
        route.request_headers = rule.clone();
        route.response_headers = answers.clone();
        config.route(route).snapshot()
    };
    let edge = Edge::start(build(1)).await;
    let request = "GET / HTTP/1.1\r\nHost: a.com\r\nA: client\r\nB: client\r\nGone: x\r\n\r\n";
    let answer = once(edge.address(), request).await;
    assert_eq!(answer.text(), "a: own\nb: client+rule+own\ngone: \nt: GET 127.0.0.1\nhost: own.com\n");
    assert_eq!((answer.header("r"), answer.header("code"), answer.header("secret")), (Some("rule"), Some("200"), None));
    assert_eq!(answer.header("server"), Some("istio-envoy"));
    edge.publish(build(2)).await;
    let answer = once(edge.address(), request).await;
    assert_eq!(answer.text(), "a: rule\nb: client+own+rule\ngone: \nt: GET 127.0.0.1\nhost: own.com\n");
}

#[tokio::test]
async fn paths_and_authorities_are_rewritten() {
    let backend = echo("a").await;
    let rewritten = |rewrite: PathRewrite, path: &'static str| async move {
        let mut config = Config::new();
        let cluster = config.cluster("a", &[backend]);
        let mut to = Forward::new(vec![destination(&cluster)]);
        to.path_rewrite = Some(rewrite);
        to.authority = Some("new.com".into());
        let route = action(prefix("/old/"), tidegate_snapshot::RouteAction::Forward(to));
        let edge = Edge::start(config.route(route).snapshot()).await;
        let answer = get(edge.address(), path).await;
        assert_eq!(answer.seen("x-envoy-original-path"), Some(path));
        assert_eq!(answer.seen("host"), Some("new.com"));
        answer.seen("request").unwrap().to_owned()
    };
    let matched = |with: &str| PathRewrite::Matched { with: with.into() };
    assert_eq!(rewritten(matched("/"), "/old/x?y=/old/").await, "GET /x?y=/old/ HTTP/1.1");
    assert_eq!(rewritten(matched("/v2/"), "/old/").await, "GET /v2/ HTTP/1.1");
    let regex = PathRewrite::Regex(RegexRewrite::new("/old/([a-z]+)", r"/\1/new").unwrap());
    assert_eq!(rewritten(regex, "/old/abc").await, "GET /abc/new HTTP/1.1");
    let odd = PathRewrite::Regex(RegexRewrite::new("[0-9]", r"<\0 #>").unwrap());
    assert_eq!(rewritten(odd, "/old/a1").await, "GET /old/a%3C1%20%23%3E HTTP/1.1");
}

#[tokio::test]
async fn the_server_header_is_as_configured() {
    let backend =
        backend::serve(|_| async { Response::builder().header("server", "mine").body(full("x")).unwrap() }).await;
    for (setting, expected) in [
        (ServerHeader::PassThrough, "mine"),
        (ServerHeader::Value("acme".into()), "acme"),
        (ServerHeader::Default, "istio-envoy"),
    ] {
        let mut config = Config::to(backend);
        config.mesh.server_header = setting;
        let edge = Edge::start(config.snapshot()).await;
        assert_eq!(get(edge.address(), "/").await.header("server"), Some(expected));
    }
}

#[tokio::test]
async fn plaintext_connections_to_one_address_serve_every_cluster_that_has_it() {
    let connections = Count::default();
    let count = connections.clone();
    let backend = backend::raw(move |mut tcp, _| {
        count.add();
        async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            loop {
                tcp.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx").await.unwrap();
                let mut more = [0; 4096];
                if !matches!(tcp.read(&mut more).await, Ok(1..)) {
                    return;
                }
            }
        }
    })
    .await;
    let mut config = Config::new();
    let a = config.cluster("a", &[backend]);
    let b = config.cluster("b", &[backend]);
    let config = config
        .route(action(prefix("/a"), tidegate_snapshot::RouteAction::Forward(Forward::new(vec![destination(&a)]))))
        .route(forward(Forward::new(vec![destination(&b)])));
    let edge = Edge::start(config.snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    for path in ["/a", "/b", "/a", "/b"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a.com\r\n\r\n")).await;
        assert_eq!(client.answer().await.text(), "x");
    }
    assert_eq!(
        connections.get(),
        1,
        "nothing tells them apart; ten thousand services on one host need no ten thousand"
    );
}

#[tokio::test]
async fn an_interim_answer_is_no_answer() {
    let backend = backend::raw(|mut tcp, _| async move {
        let _ = tokio::io::AsyncWriteExt::write_all(&mut tcp, b"HTTP/1.1 100 Continue\r\n\r\n").await;
        std::future::pending().await
    })
    .await;
    let edge = Edge::start(Config::to(backend).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 100);
    drop(client);
    edge.await_request(&["response_code=\"0\"", "response_flags=\"DC\""]).await;
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_as_such() {
    let backend = backend::serve(|_| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Response::new(full(""))
    })
    .await;
    let edge = Edge::start(Config::to(backend).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(client);
    edge.await_request(&["response_code=\"0\"", "response_flags=\"DC\""]).await;
}
