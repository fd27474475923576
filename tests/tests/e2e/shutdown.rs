//! The end of a process, and what its clients notice of it.

use std::time::{Duration, Instant};

use tidegate_tests::load::{self, Load, Source};
use tidegate_tests::process::{free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{BOTH, Client, ConfigFolder, EchoBackend, Options, client, raw, yaml};

async fn start(options: Options) -> (tidegate_tests::Tidegate, std::net::SocketAddr, ConfigFolder, EchoBackend) {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    (options.start(&folder).await, local(port), folder, backend)
}

#[tokio::test]
async fn readiness_fails_first_and_requests_in_flight_finish() {
    let (mut tidegate, address, _folder, backend) = start(Options::default().arg("--drain-delay").arg("1s")).await;
    let held: Vec<_> = BOTH
        .map(|protocol| {
            tokio::spawn(async move {
                let headers = [("x-echo-hold", "1")];
                client::send_over(protocol, address, "GET", "echo.test", "/", &headers, "").await
            })
        })
        .into();
    wait::until("two requests in flight", PATIENCE, || async { (backend.held() == 2).then_some(()) }).await;
    tidegate.signal("TERM").await;
    wait::until("readiness to fail", PATIENCE, || async { (!tidegate.is_ready().await).then_some(()) }).await;
    // During the delay new connections are served.
    assert_eq!(client::get(address, "echo.test", "/").await.status, 200);
    wait::until("the listener to close", PATIENCE, || async { (!raw::accepts(address).await).then_some(()) }).await;
    assert!(tidegate.is_running(), "it does not end before its requests do");
    backend.release();
    for request in held {
        assert_eq!(request.await.unwrap().status, 200);
    }
    assert!(tidegate.exited().await.success(), "{}", tidegate.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_for_a_client_that_honours_connection_close() {
    let (mut tidegate, address, _folder, _backend) = start(Options::default().arg("--drain-delay").arg("1s")).await;
    let source = |protocol| Source {
        address,
        host: "echo.test".into(),
        target: "/".into(),
        protocol,
        rate: 150,
        connections: 5,
        judge: load::status_200(),
    };
    let load = Load::start(BOTH.map(source));
    wait::until("load", PATIENCE, || async { (load.sent() > 200).then_some(()) }).await;
    tidegate.signal("TERM").await;
    wait::until("readiness to fail", PATIENCE, || async { (!tidegate.is_ready().await).then_some(()) }).await;
    // Each connection is used until an answer says `Connection: close`, or GOAWAY comes.
    let report = load.leave().await;
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(report.sent > 400, "only {} requests: the delay was not used", report.sent);
    assert!(tidegate.exited().await.success(), "{}", tidegate.log());
}

#[tokio::test]
async fn idle_and_kept_connections_are_told_to_go() {
    let (mut tidegate, address, _folder, _backend) = start(Options::default().arg("--drain-delay").arg("1s")).await;
    let mut one = Client::http1(address).await.unwrap();
    let mut idle = Client::http1(address).await.unwrap();
    for client in [&mut one, &mut idle] {
        assert_eq!(client.get("echo.test", "/").await.unwrap().status, 200);
    }
    tidegate.signal("TERM").await;
    wait::until("the listener to close", PATIENCE, || async { (!raw::accepts(address).await).then_some(()) }).await;
    let answer = one.get("echo.test", "/").await.unwrap();
    assert_eq!((answer.status.as_u16(), answer.header("connection")), (200, "close"));
    // The idle connection does not hold up the end: well before the cap of 45 s.
    assert!(tidegate.exited().await.success(), "{}", tidegate.log());
}

#[tokio::test]
async fn the_cap_ends_requests_that_never_end() {
    let options = Options::default().arg("--drain-timeout").arg("1s");
    let (mut tidegate, address, _folder, backend) = start(options).await;
    let held = tokio::spawn(async move { Client::http1(address).await?.send(hold()).await });
    wait::until("a request in flight", PATIENCE, || async { (backend.held() == 1).then_some(()) }).await;
    let begin = Instant::now();
    tidegate.signal("TERM").await;
    tidegate.exited().await;
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(900) && took < Duration::from_secs(8), "{took:?}");
    assert!(held.await.unwrap().is_err(), "the request was cut");
}

fn hold() -> http::Request<http_body_util::Full<bytes::Bytes>> {
    http::Request::get("/").header("host", "echo.test").header("x-echo-hold", "1").body(Default::default()).unwrap()
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (mut tidegate, address, _folder, backend) = start(Options::default().arg("--drain-delay").arg("30s")).await;
    let _held = tokio::spawn(async move { Client::http1(address).await?.send(hold()).await });
    wait::until("a request in flight", PATIENCE, || async { (backend.held() == 1).then_some(()) }).await;
    tidegate.signal("INT").await;
    wait::until("readiness to fail", PATIENCE, || async { (!tidegate.is_ready().await).then_some(()) }).await;
    let begin = Instant::now();
    tidegate.signal("INT").await;
    tidegate.exited().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn quitquitquit_is_a_post_and_ends_the_process() {
    let (mut tidegate, _address, _folder, _backend) = start(Options::default()).await;
    assert_eq!(tidegate.admin("/quitquitquit").await.status, 405);
    assert!(tidegate.is_running());
    assert_eq!(tidegate.admin_post("/quitquitquit").await.status, 200);
    assert!(tidegate.exited().await.success(), "{}", tidegate.log());
}
