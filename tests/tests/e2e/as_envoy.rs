//! Details in which the gateway was held against Envoy 1.40 as Istio configures it, request by request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, Tidegate, client, raw, yaml};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Answers a request for `/n` with the bytes of answer n, whatever its body does, and ends the connection. Keeps the heads
/// that it has seen.
struct Backend {
    heads: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Backend {
    async fn start(answers: &'static [&'static str]) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = heads.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, answers, seen.clone()));
            }
        });
        (Self { heads, task }, address)
    }

    /// The last head, without what the gateway adds for every request.
    fn head(&self) -> String {
        self.heads.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

async fn answer(mut stream: TcpStream, answers: &[&str], heads: Arc<Mutex<Vec<String>>>) {
    let mut bytes = Vec::new();
    let end = loop {
        match bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            Some(end) => break end,
            None if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) => return,
            None => {}
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let number = head.split(' ').nth(1).and_then(|target| target[1..].parse::<usize>().ok()).unwrap_or(0);
    heads.lock().unwrap().push(head);
    let _ = stream.write_all(answers[number].as_bytes()).await;
    let _ = stream.shutdown().await;
    // A socket that is closed with unread bytes is reset.
    let _ = stream.read_to_end(&mut bytes).await;
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn start(answers: &'static [&'static str]) -> (Tidegate, SocketAddr, ConfigFolder, Backend) {
    let (backend, address) = Backend::start(answers).await;
    let port = free_port();
    let text = yaml::echo(port, address)
        + &yaml::virtual_service(
            "rewritten",
            "rewritten.test",
            "- rewrite: {authority: other.test}\n  route: [{destination: {host: echo.test}}]",
        );
    let folder = ConfigFolder::with(text);
    let tidegate = Options::default().arg("--access-log").arg("/dev/stdout").start(&folder).await;
    (tidegate, local(port), folder, backend)
}

/// Code, flags and details of the request for `target`.
async fn logged(tidegate: &Tidegate, target: &str) -> String {
    let needle = format!(" {target} HTTP/");
    let line = wait::until(&format!("a line with {needle}"), PATIENCE, || async {
        tidegate.stdout().lines().find(|line| line.contains(&needle)).map(str::to_owned)
    })
    .await;
    line.split(' ').skip(4).take(3).collect::<Vec<_>>().join(" ")
}

async fn exchange(address: SocketAddr, line: &str, fields: &str) -> String {
    let request = format!("{line} HTTP/1.1\r\nhost: echo.test\r\n{fields}\r\n");
    String::from_utf8(raw::exchange(address, request.as_bytes()).await).unwrap()
}

#[tokio::test]
async fn a_request_that_may_have_a_body_says_that_it_has_none() {
    let (_tidegate, address, _folder, backend) = start(&[OK]).await;
    for (method, says) in [("POST", true), ("PUT", true), ("OPTIONS", true), ("GET", false), ("DELETE", false)] {
        exchange(address, &format!("{method} /0"), "connection: close\r\n").await;
        assert_eq!(backend.head().contains("\r\ncontent-length: 0"), says, "{method}: {}", backend.head());
    }
}

#[tokio::test]
async fn backends_are_told_of_trailers_and_of_an_authority_that_was_replaced() {
    let (_tidegate, address, _folder, backend) = start(&[OK]).await;
    exchange(address, "GET /0", "connection: te, close\r\nte: gzip, trailers\r\n").await;
    assert!(backend.head().contains("\r\nte: trailers"), "{}", backend.head());
    exchange(address, "GET /0", "connection: te, close\r\nte: gzip\r\n").await;
    assert!(!backend.head().contains("\r\nte:"), "{}", backend.head());
    client::get(address, "rewritten.test", "/0").await;
    let head = backend.head();
    assert!(
        head.contains("\r\nhost: other.test") && head.contains("\r\nx-envoy-original-host: rewritten.test"),
        "{head}"
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_breaks_the_protocol() {
    let (tidegate, address, _folder, _backend) = start(&[
        OK,
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncont",
        "HTTP/1.1 204 No Content\r\ncontent-length: 9\r\n\r\n",
    ])
    .await;
    for (target, log) in [
        ("/1", "200 UPE upstream_reset_after_response_started{protocol_error}"),
        ("/2", "502 UPE upstream_reset_before_response_started{protocol_error}"),
        ("/3", "502 UPE upstream_reset_before_response_started{protocol_error}"),
    ] {
        let _ = client::try_get(address, "echo.test", target).await;
        assert_eq!(logged(&tidegate, target).await, log, "{target}");
    }
}

#[tokio::test]
async fn answers_without_a_body_are_framed_as_such() {
    let (_tidegate, address, _folder, _backend) = start(&[
        "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 203 x\r\ncontent-length: 7\r\n\r\n",
    ])
    .await;
    let answer = exchange(address, "GET /0", "connection: close\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 204 ") && !answer.contains("content-length"), "{answer}");
    let answer = exchange(address, "HEAD /1", "connection: close\r\n").await;
    assert!(answer.contains("\r\ntransfer-encoding: chunked\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = exchange(address, "HEAD /2", "connection: close\r\n").await;
    assert!(answer.contains("203 Non-Authoritative Information\r\n"), "{answer}");
    assert!(answer.contains("\r\ncontent-length: 7\r\n"), "{answer}");
    let answer = client::send_http2(address, "GET", "nobody.test", "/", &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.headers.get("content-length")), (404, None));
    let answer = client::get(address, "nobody.test", "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-length")), (404, "0"));
}

#[tokio::test]
async fn an_early_answer_ends_the_connection_and_says_so() {
    let (tidegate, address, _folder, _backend) = start(&["HTTP/1.1 413 x\r\ncontent-length: 3\r\n\r\nbig"]).await;
    let answer = exchange(address, "POST /0", "content-length: 100000\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("big"), "{answer}");
    assert!(
        answer.contains("\r\nconnection: close\r\n") && !answer.contains("x-envoy-upstream-service-time"),
        "{answer}"
    );
    assert_eq!(logged(&tidegate, "/0").await, "413 - via_upstream");
}

#[tokio::test]
async fn what_is_no_request_is_refused_in_words() {
    let (_tidegate, address, _folder, _backend) = start(&[OK]).await;
    for (fields, line, body) in [
        ("x : y\r\n", "400 Bad Request", "Bad Request"),
        ("transfer-encoding: gzip\r\n", "501 Not Implemented", "Not Implemented"),
        (
            &format!("x: {}\r\n", "x".repeat(62_000)),
            "431 Request Header Fields Too Large",
            "Request Header Fields Too Large",
        ),
    ] {
        let answer = exchange(address, "GET /0", fields).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {line}\r\n")) && answer.ends_with(body), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    let answer = exchange(address, "OPTIONS *", "connection: close\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn a_connection_that_a_client_of_proxies_gives_up_is_closed() {
    let (_tidegate, address, _folder, _backend) = start(&[OK]).await;
    let answer = exchange(address, "GET /0", "proxy-connection: close\r\n").await;
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
}
