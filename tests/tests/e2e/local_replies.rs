//! Answers that the gateway gives itself: status, body, flags in the access log.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::raw::Silent;
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{BOTH, ConfigFolder, EchoBackend, Tidegate, client, yaml};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

async fn start(text: &str) -> (Tidegate, SocketAddr, ConfigFolder) {
    let port = free_port();
    let folder = ConfigFolder::with(yaml::gateway("edge", port) + text);
    let options = Options::default().arg("--access-log").arg("/dev/stdout").arg("--access-log-format").arg("json");
    (options.start(&folder).await, local(port), folder)
}

/// The access log line of a path: its flags and details.
async fn flags(tidegate: &Tidegate, path: &str) -> (String, String) {
    let needle = format!("\"{path}\"");
    let line = wait::until(&format!("an access log line of {path}"), PATIENCE, || async {
        tidegate.stdout().lines().find(|line| line.contains(&needle)).map(str::to_owned)
    })
    .await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let text = |name: &str| line[name].as_str().unwrap_or("null").to_owned();
    (text("response_flags"), text("response_code_details"))
}

#[tokio::test]
async fn a_request_without_a_route_is_404_nr() {
    let (tidegate, address, _folder) = start("").await;
    let answer = client::get(address, "nobody.test", "/nr").await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (404, 0));
    assert_eq!(answer.header("server"), "istio-envoy");
    assert_eq!(flags(&tidegate, "/nr").await, ("NR".into(), "route_not_found".into()));
}

#[tokio::test]
async fn a_missing_cluster_is_503_nc() {
    let text = yaml::forward("v", "v.test", "nobody.test")
        + &yaml::virtual_service("s", "s.test", "- route: [{destination: {host: empty.test, subset: missing}}]")
        + &yaml::service_entry("empty", "empty.test", "HTTP", &[]);
    let (tidegate, address, _folder) = start(&text).await;
    for (host, path) in [("v.test", "/host"), ("s.test", "/subset")] {
        let answer = client::get(address, host, path).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (503, ""), "{path}");
        assert_eq!(flags(&tidegate, path).await, ("NC".into(), "cluster_not_found".into()));
    }
}

#[tokio::test]
async fn a_cluster_without_endpoints_is_503_uh() {
    let text = yaml::forward("v", "v.test", "empty.test") + &yaml::service_entry("empty", "empty.test", "HTTP", &[]);
    let (tidegate, address, _folder) = start(&text).await;
    let answer = client::get(address, "v.test", "/uh").await;
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (503, "no healthy upstream"));
    assert_eq!(answer.header("content-type"), "text/plain");
    assert_eq!(flags(&tidegate, "/uh").await, ("UH".into(), "no_healthy_upstream".into()));
}

#[tokio::test]
async fn a_refused_connection_is_503_uf() {
    let text = yaml::forward("v", "v.test", "dead.test")
        + &yaml::service_entry("dead", "dead.test", "HTTP", &[local(free_port())]);
    let (tidegate, address, _folder) = start(&text).await;
    let answer = client::get(address, "v.test", "/uf").await;
    assert_eq!(answer.status, 503);
    let text = answer.text();
    assert!(text.starts_with("upstream connect error or disconnect/reset before headers."), "{text}");
    assert!(text.contains("remote connection failure"), "{text}");
    let (flags, _) = flags(&tidegate, "/uf").await;
    // In the order of Envoy's flags; the retries of the default policy are used up.
    assert!(flags == "UF" || flags == "URX,UF", "{flags}");
}

#[tokio::test]
async fn a_backend_that_closes_before_it_answers_is_503_uc() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let closing = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 1024];
            let _ = stream.read(&mut bytes).await;
        }
    });
    let text = yaml::forward("v", "v.test", "closing.test")
        + &yaml::service_entry("closing", "closing.test", "HTTP", &[backend]);
    let (tidegate, address, _folder) = start(&text).await;
    let answer = client::get(address, "v.test", "/uc").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("connection termination"), "{}", answer.text());
    assert_eq!(flags(&tidegate, "/uc").await.0, "UC");
    closing.abort();
}

#[tokio::test]
async fn nonsense_from_a_backend_is_502_upe() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let talking = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            use tokio::io::AsyncWriteExt as _;
            let mut bytes = [0; 1024];
            let _ = stream.read(&mut bytes).await;
            let _ = stream.write_all(b"I am no HTTP server\r\n\r\n").await;
        }
    });
    let text = yaml::forward("v", "v.test", "odd.test") + &yaml::service_entry("odd", "odd.test", "HTTP", &[backend]);
    let (tidegate, address, _folder) = start(&text).await;
    let answer = client::get(address, "v.test", "/upe").await;
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.text().contains("protocol error"), "{}", answer.text());
    assert_eq!(flags(&tidegate, "/upe").await.0, "UPE");
    talking.abort();
}

#[tokio::test]
async fn a_route_timeout_is_504_ut_and_in_time() {
    let silent = Silent::start().await;
    let text = yaml::virtual_service("v", "v.test", "- timeout: 0.3s\n  route: [{destination: {host: silent.test}}]")
        + &yaml::service_entry("silent", "silent.test", "HTTP", &[silent.address]);
    let (tidegate, address, _folder) = start(&text).await;
    for (path, protocol) in ["/ut1", "/ut2"].into_iter().zip(BOTH) {
        let start = Instant::now();
        let answer = client::send_over(protocol, address, "GET", "v.test", path, &[], "").await;
        let took = start.elapsed();
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (504, "upstream request timeout"));
        assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(3), "{took:?}");
        assert_eq!(flags(&tidegate, path).await, ("UT".into(), "response_timeout".into()));
    }
}

#[tokio::test]
async fn a_dripping_body_does_not_outlive_the_route_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let dripping = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 1024];
                let _ = stream.read(&mut bytes).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await;
                let mut ticks = tokio::time::interval(Duration::from_millis(20));
                while stream.write_all(b"x").await.is_ok() {
                    ticks.tick().await;
                }
            });
        }
    });
    let text = yaml::virtual_service("v", "v.test", "- timeout: 0.4s\n  route: [{destination: {host: drip.test}}]")
        + &yaml::service_entry("drip", "drip.test", "HTTP", &[backend]);
    let (_tidegate, address, _folder) = start(&text).await;
    let start = Instant::now();
    let outcome = client::try_get(address, "v.test", "/drip").await;
    assert!(outcome.is_err(), "a truncated answer must not look whole: {outcome:?}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    dripping.abort();
}

#[tokio::test]
async fn local_replies_to_grpc_are_grpc_statuses() {
    let text = yaml::forward("u", "u.test", "empty.test") + &yaml::service_entry("empty", "empty.test", "GRPC", &[]);
    let (_tidegate, address, _folder) = start(&text).await;
    for (host, status) in [("nobody.test", "12"), ("u.test", "14")] {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer = client::send_http2(address, "POST", host, "/s/M", &headers, "").await;
        assert_eq!((answer.status.as_u16(), answer.header("grpc-status")), (200, status), "{host}");
        assert!(answer.body.is_empty());
    }
}

#[tokio::test]
async fn head_has_no_body_and_the_connection_is_kept_after_a_local_reply() {
    let backend = EchoBackend::start("a").await;
    let text = yaml::forward("u", "u.test", "empty.test")
        + &yaml::service_entry("empty", "empty.test", "HTTP", &[])
        + &yaml::forward("a", "a.test", "a.test")
        + &yaml::service_entry("a", "a.test", "HTTP", &[backend.address]);
    let (_tidegate, address, _folder) = start(&text).await;
    let answer = client::send(address, "HEAD", "u.test", "/", &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (503, 0));
    let mut kept = client::Client::http1(address).await.unwrap();
    for (host, status) in [("u.test", 503), ("nobody.test", 404), ("a.test", 200), ("u.test", 503)] {
        assert!(kept.is_open().await, "closed before {host}");
        assert_eq!(kept.get(host, "/").await.unwrap().status, status);
    }
}
