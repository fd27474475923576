use std::net::SocketAddr;
use std::time::Duration;

use http::Response;
use tidegate_snapshot::{DirectResponse, Forward, Redirect, RedirectPath, RedirectPort, RouteAction, UpstreamProtocol};

use crate::backend::{self, channel, fixed, full, says};
use crate::client::{Answer, Client, get, once};
use crate::harness::{Config, Edge, action, destination, endpoint, forward, missing, nobody, prefix};

/// Asks twice on one connection, so that the answer must have left it in order.
async fn answers(config: Config, request: &str) -> Answer {
    let edge = Edge::start(config.snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(request).await;
    let first = client.answer().await;
    client.send(request).await;
    let second = client.answer().await;
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    assert_ne!(first.header("connection"), Some("close"));
    first
}

const GET: &str = "GET /p?q HTTP/1.1\r\nHost: a.com\r\n\r\n";

#[tokio::test]
async fn without_a_route_or_host_the_answer_is_404() {
    let mut config = Config::new();
    config.hosts = vec!["b.com"];
    let answer = answers(config, GET).await;
    assert_eq!((answer.status, answer.text(), answer.header("server")), (404, "", Some("istio-envoy")));
    assert_eq!(answers(Config::new(), GET).await.status, 404);
}

#[tokio::test]
async fn a_missing_cluster_is_503_nc() {
    let config = Config::new().route(forward(Forward::new(vec![destination(&missing("outbound|80||nowhere"))])));
    let answer = answers(config, GET).await;
    assert_eq!((answer.status, answer.text()), (503, ""));
}

#[tokio::test]
async fn a_cluster_without_endpoints_is_503_uh() {
    let mut config = Config::new();
    let cluster = config.cluster("empty", &[]);
    let config = config.route(forward(Forward::new(vec![destination(&cluster)])));
    let answer = answers(config, GET).await;
    assert_eq!((answer.status, answer.text()), (503, "no healthy upstream"));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
}

#[tokio::test]
async fn a_grpc_client_may_shorten_its_time() {
    let silent = backend::raw(|_tcp, _| std::future::pending()).await;
    let echoed = backend::echo("a").await;
    let call = |timeout: &str| {
        format!(
            "POST /p HTTP/1.1\r\nHost: a.com\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\ngrpc-timeout: {timeout}\r\n\r\n"
        )
    };
    for (limit, timeout, told) in [(None, "50m", "50"), (Some(60_000), "50000u", "50"), (Some(60), "9H", "60")] {
        let config = |backend| {
            let mut config = Config::new();
            let cluster = config.cluster("backend", &[backend]);
            let mut to = Forward::new(vec![destination(&cluster)]);
            to.timeout = limit.map(Duration::from_millis);
            config.route(forward(to)).snapshot()
        };
        let edge = Edge::start(config(silent)).await;
        let answer = once(edge.address(), call(timeout)).await;
        assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("14")), "{timeout}");
        edge.publish(config(echoed)).await;
        let answer = once(edge.address(), call(timeout)).await;
        assert_eq!(answer.seen("x-envoy-expected-rq-timeout-ms"), Some(told));
        assert_eq!(answer.seen("grpc-timeout"), Some(&*format!("{told}m")));
    }
}

#[tokio::test]
async fn a_refused_connection_is_503_uf_and_the_clients_connection_stays() {
    let edge = Edge::start(Config::to(nobody()).snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    for _ in 0..2 {
        client.send("POST /p HTTP/1.1\r\nHost: a.com\r\nContent-Length: 0\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 503);
        assert_eq!(
            answer.text(),
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote \
             connection failure, transport failure reason: delayed connect error: Connection refused"
        );
        assert_eq!(answer.header("connection"), None);
    }
    edge.await_request(&["response_code=\"503\"", "response_flags=\"URX,UF\""]).await;
}

#[tokio::test]
async fn a_backend_that_says_nothing_sensible_is_told_apart() {
    let check = async |backend: SocketAddr, status: u16, reason: &str, flags: &str| {
        let edge = Edge::start(Config::to(backend).snapshot()).await;
        let answer = get(edge.address(), "/").await;
        assert_eq!(answer.status, status, "{answer:?}");
        let text = format!("upstream connect error or disconnect/reset before headers. reset reason: {reason}");
        assert_eq!(answer.text(), text);
        edge.await_request(&[&format!("response_flags=\"{flags}\"")]).await;
    };
    check(says("").await, 503, "connection termination", "UC").await;
    check(says("HTTP/1.1 200 O").await, 502, "protocol error", "UPE").await;
    check(says("garbage\r\n\r\n").await, 502, "protocol error", "UPE").await;
    check(
        says("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab").await,
        502,
        "protocol error",
        "UPE",
    )
    .await;
    let coded = "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    check(says(coded).await, 502, "protocol error", "UPE").await;
    check(says("HTTP/1.1 101 Switching\r\nUpgrade: foo\r\n\r\n").await, 502, "protocol error", "UPE").await;
}

#[tokio::test]
async fn a_body_that_breaks_off_closes_the_clients_connection() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ] {
        let edge = Edge::start(Config::to(says(bytes).await).snapshot()).await;
        let mut client = Client::connect(edge.address()).await;
        client.send(GET).await;
        assert!(client.try_answer(false).await.is_none(), "{bytes}");
        edge.await_request(&["response_code=\"200\"", "response_flags=\"UPE\""]).await;
    }
}

#[tokio::test]
async fn a_route_timeout_is_504_ut() {
    let backend = backend::serve(|_| async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Response::new(full(""))
    })
    .await;
    let config = || Config::to(backend).edit(|forward| forward.timeout = Some(Duration::from_millis(200)));
    let start = std::time::Instant::now();
    let answer = answers(config(), GET).await;
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!((answer.status, answer.text()), (504, "upstream request timeout"));
    let edge = Edge::start(config().snapshot()).await;
    get(edge.address(), "/").await;
    edge.await_request(&["response_code=\"504\"", "response_flags=\"UT\""]).await;
    // A gRPC client is told in its own way, and HEAD gets no body.
    let grpc = "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
    let answer = once(edge.address(), grpc).await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, Some("14")));
    assert_eq!(answer.header("grpc-message"), Some("upstream request timeout"));
}

#[tokio::test]
async fn the_time_of_a_route_begins_when_the_request_is_sent() {
    let backend = backend::echo("a").await;
    let config = Config::to(backend).edit(|forward| forward.timeout = Some(Duration::from_millis(300)));
    let edge = Edge::start(config.snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 5\r\n\r\n").await;
    for byte in ["s", "l", "o", "w", "!"] {
        tokio::time::sleep(Duration::from_millis(150)).await;
        client.send(byte).await;
    }
    let answer = client.answer().await;
    assert!(answer.text().ends_with("\n\nslow!"), "{answer:?}");
    assert_eq!(answer.seen("x-envoy-expected-rq-timeout-ms"), Some("300"));
}

#[tokio::test]
async fn a_body_that_drips_ends_with_the_routes_time() {
    let backend = backend::serve(|_| async {
        let (send, body) = channel();
        tokio::spawn(async move {
            while send.send(hyper::body::Frame::data("x".into())).is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Response::new(body)
    })
    .await;
    let config = Config::to(backend).edit(|forward| forward.timeout = Some(Duration::from_millis(300)));
    let edge = Edge::start(config.snapshot()).await;
    let start = std::time::Instant::now();
    let mut client = Client::connect(edge.address()).await;
    client.send(GET).await;
    assert!(client.try_answer(false).await.is_none());
    assert!((250..1000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    edge.await_request(&["response_code=\"200\"", "response_flags=\"UT\""]).await;
}

#[tokio::test]
async fn redirects_and_direct_responses_come_from_the_gateway() {
    let redirect = Redirect {
        status: 307,
        scheme: Some("https".into()),
        authority: Some("b.com".into()),
        path: RedirectPath::Prefix("/new".into()),
        port: RedirectPort::Unset,
    };
    let direct = |status, body: Option<&str>| {
        RouteAction::DirectResponse(DirectResponse { status, body: body.map(|body| body.as_bytes().into()) })
    };
    let config = || {
        Config::new()
            .route(action(prefix("/teapot"), direct(418, Some("short and stout"))))
            .route(action(prefix("/empty"), direct(204, None)))
            .route(action(prefix("/p"), RouteAction::Redirect(redirect.clone())))
    };
    let answer = answers(config(), GET).await;
    assert_eq!((answer.status, answer.header("location")), (307, Some("https://b.com/new?q")));
    let edge = Edge::start(config().snapshot()).await;
    let answer = get(edge.address(), "/teapot").await;
    assert_eq!((answer.status, answer.text()), (418, "short and stout"));
    assert_eq!(answer.header("content-type"), Some("text/plain"));
    let answer = get(edge.address(), "/empty").await;
    assert_eq!((answer.status, answer.header("content-length")), (204, None));
}

#[tokio::test]
async fn a_host_with_https_redirect_answers_301() {
    let mut config = Config::to(fixed("x").await);
    config.https_redirect = true;
    config.mesh.num_trusted_proxies = 1;
    let edge = Edge::start(config.snapshot()).await;
    let answer = get(edge.address(), "/p?q").await;
    assert_eq!((answer.status, answer.header("location")), (301, Some("https://a.com/p?q")));
    let behind_tls = "GET / HTTP/1.1\r\nHost: a.com\r\nX-Forwarded-Proto: https\r\n\r\n";
    assert_eq!(once(edge.address(), behind_tls).await.status, 200);
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_does_not_wait_for_it() {
    let edge = Edge::start(Config::new().snapshot()).await;
    let mut client = Client::connect(edge.address()).await;
    client.send("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1000000\r\n\r\nstart").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (404, Some("close")));
}

#[tokio::test]
async fn access_logs_have_istios_format() {
    use tidegate_snapshot::{AccessLog, AccessLogFormat, Template};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let format = "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% \
                  %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %REQ(:AUTHORITY)% %UPSTREAM_CLUSTER_RAW% \
                  %ROUTE_NAME% %UPSTREAM_HOST%\n";
    let with_log = |mut config: Config| {
        let format = AccessLogFormat::Text(Template::parse(format).unwrap());
        config.mesh.access_log = Some(AccessLog { path: path.to_string_lossy().into_owned(), format });
        config.snapshot()
    };
    let backend = fixed("four").await;
    let edge = Edge::start(with_log(Config::to(backend))).await;
    once(edge.address(), "POST /a?b HTTP/1.1\r\nHost: a.com\r\nContent-Length: 3\r\n\r\nabc").await;
    once(edge.address(), "BAD\r\n\r\n").await;
    edge.publish(with_log(Config::new())).await;
    get(edge.address(), "/none").await;
    edge.await_request(&["response_code=\"404\""]).await;
    edge.gateway.drain(Duration::ZERO, Duration::from_secs(1)).await;
    let log = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = log.lines().collect();
    // Workers do not wait for each other.
    lines.sort_unstable();
    let proxied = format!("POST /a?b HTTP/1.1 200 - via_upstream 3 4 a.com outbound|80||backend rule {backend}");
    let refused = "BAD - HTTP/1.1 400 DPE http1.codec_error 0 0 - - - -";
    assert_eq!(lines, [refused, "GET /none HTTP/1.1 404 NR route_not_found 0 0 a.com - - -", &proxied]);
}

#[tokio::test]
async fn unhealthy_endpoints_are_not_used() {
    use tidegate_snapshot::Health;
    let mut config = Config::new();
    let cluster = config.cluster_with(
        "a",
        vec![
            tidegate_snapshot::Endpoint { health: Health::Unhealthy, ..endpoint(nobody()) },
            endpoint(fixed("well").await),
        ],
        UpstreamProtocol::Http1,
    );
    let edge = Edge::start(config.route(forward(Forward::new(vec![destination(&cluster)]))).snapshot()).await;
    for _ in 0..5 {
        assert_eq!(get(edge.address(), "/").await.text(), "well");
    }
}
