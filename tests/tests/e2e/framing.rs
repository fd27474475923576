//! Backends that break HTTP: what a client sees of it, and that nobody gets bytes of somebody else's answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidegate_tests::process::{free_port, local};
use tidegate_tests::{BOTH, Client, ConfigFolder, EchoBackend, Tidegate, client, raw, yaml};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Answers a request for `/n` with the bytes of case n, and every other request with its own target. Connections are
/// kept, whatever was said on them.
struct Scripted {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Scripted {
    async fn start(answers: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = Arc::new(answers);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(speak(stream, answers.clone()));
            }
        });
        Self { address, task }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn speak(mut stream: TcpStream, answers: Arc<Vec<Vec<u8>>>) {
    let mut seen = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = seen.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
                return;
            }
        };
        let target = String::from_utf8_lossy(&seen[..end]).split(' ').nth(1).unwrap_or_default().to_owned();
        seen.drain(..end);
        let own = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{target}", target.len()).into_bytes();
        let answer = target[1..].parse::<usize>().ok().and_then(|number| answers.get(number)).unwrap_or(&own);
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

async fn start(answers: Vec<Vec<u8>>) -> (Tidegate, SocketAddr, ConfigFolder, Scripted) {
    let (port, backend) = (free_port(), Scripted::start(answers).await);
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    (Tidegate::start(&folder).await, local(port), folder, backend)
}

#[tokio::test]
async fn answers_that_are_no_http_are_502_and_never_shown() {
    let head = |line: &str| format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\nSECRET").into_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("two lengths", head("content-length: 6\r\ncontent-length: 7")),
        ("a length that is no number", head("content-length: six")),
        ("a negative length", head("content-length: -6")),
        ("an unknown coding", head("transfer-encoding: xchunked")),
        ("NUL in a value", head("content-length: 6\r\nx-a: b\0c")),
        ("no status", b"HTTP/1.1 OK\r\ncontent-length: 6\r\n\r\nSECRET".to_vec()),
        ("status 99", b"HTTP/1.1 99 Low\r\ncontent-length: 6\r\n\r\nSECRET".to_vec()),
        ("status 1000", b"HTTP/1.1 1000 High\r\ncontent-length: 6\r\n\r\nSECRET".to_vec()),
        ("HTTP/2 as text", b"HTTP/2 200 OK\r\ncontent-length: 6\r\n\r\nSECRET".to_vec()),
        ("another protocol", b"220 mail.example.com ESMTP SECRET\r\n\r\n".to_vec()),
        (
            "2 MiB of headers",
            [head("content-length: 6\r\nx-a: b"), Vec::new()].concat().replace_once(b"b\r\n\r\n", 2 << 20),
        ),
    ];
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    let (_tidegate, address, _folder, _backend) = start(cases.into_iter().map(|(_, answer)| answer).collect()).await;
    let mut wrong = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let request = format!("GET /{number} HTTP/1.1\r\nhost: echo.test\r\nconnection: close\r\n\r\n");
        let exchange = raw::exchange(address, request.as_bytes());
        let answer = tokio::time::timeout(Duration::from_secs(3), exchange).await.unwrap_or_else(|_| b"hangs".to_vec());
        let text = String::from_utf8_lossy(&answer);
        if !matches!(raw::status(&answer), Some(502 | 503)) || text.contains("SECRET") {
            wrong.push(format!("{name}: {:?}", text.chars().take(200).collect::<String>()));
        }
        let own = client::get(address, "echo.test", "/own").await;
        if own.text() != "/own" {
            wrong.push(format!("{name}: the next client got {own:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn chunks_override_a_length_and_the_length_goes() {
    // RFC 9112 section 6.3: the coding wins, and the length must not be forwarded.
    let both = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let (_tidegate, address, _folder, _backend) = start(vec![both.to_vec()]).await;
    let request = b"GET /0 HTTP/1.1\r\nhost: echo.test\r\nconnection: close\r\n\r\n";
    let answer = String::from_utf8(raw::exchange(address, request).await).unwrap().to_lowercase();
    if !answer.starts_with("http/1.1 502") {
        assert!(answer.ends_with("5\r\nhello\r\n0\r\n\r\n") && !answer.contains("content-length"), "{answer}");
    }
    assert_eq!(client::get(address, "echo.test", "/own").await.text(), "/own");
}

trait ReplaceOnce {
    /// Puts `size` letters before the end of the header block that `mark` finds.
    fn replace_once(self, mark: &[u8], size: usize) -> Vec<u8>;
}

impl ReplaceOnce for Vec<u8> {
    fn replace_once(mut self, mark: &[u8], size: usize) -> Vec<u8> {
        let at = self.windows(mark.len()).position(|window| window == mark).unwrap();
        self.splice(at..at, std::iter::repeat_n(b'x', size));
        self
    }
}

#[tokio::test]
async fn bytes_after_an_answer_reach_nobody() {
    let evil = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL";
    let cases: Vec<(&str, String)> = vec![
        ("after the length", format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok{evil}")),
        (
            "after the last chunk",
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{evil}"),
        ),
        ("after 204", format!("HTTP/1.1 204 No Content\r\n\r\n{evil}")),
        ("after 204 with a length", format!("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\nhello{evil}")),
        ("after 304", format!("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n{evil}")),
        ("after an empty answer", format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n{evil}")),
        ("after a refused upgrade", format!("HTTP/1.1 101 Switching Protocols\r\n\r\n{evil}")),
    ];
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).collect();
    let (_tidegate, address, _folder, _backend) =
        start(cases.into_iter().map(|(_, answer)| answer.into_bytes()).collect()).await;
    let mut kept = Client::http1(address).await.unwrap();
    for (number, name) in names.iter().enumerate() {
        for method in ["GET", "HEAD"] {
            let answer = client::send(address, method, "echo.test", &format!("/{number}"), &[], "").await;
            assert!(!answer.text().contains("EVIL"), "{name}: {answer:?}");
            // Other clients, on kept and on new connections, get their own answers.
            for turn in 0..6 {
                let target = format!("/own-{number}-{turn}");
                if !kept.is_open().await {
                    kept = Client::http1(address).await.unwrap();
                }
                assert_eq!(kept.get("echo.test", &target).await.unwrap().text(), target, "{method} {name}");
                assert_eq!(client::get(address, "echo.test", &target).await.text(), target, "{method} {name}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let cases = [
        ("a body shorter than its length", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello"),
        ("chunks without an end", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ("a broken chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"),
    ];
    for (name, answer) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = [0; 4096];
                let _ = stream.read(&mut bytes).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let port = free_port();
        let folder = ConfigFolder::with(yaml::echo(port, backend));
        let _tidegate = Tidegate::start(&folder).await;
        for protocol in BOTH {
            let mut client = Client::connect(protocol, local(port)).await.unwrap();
            let outcome = client.get("echo.test", "/").await;
            let whole = outcome.as_ref().is_ok_and(|answer| answer.status == 200);
            assert!(!whole, "{name}, {protocol:?}: {outcome:?}");
        }
        task.abort();
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_spoils_no_connection_to_the_backend() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    let _tidegate = Tidegate::start(&folder).await;
    for request in [
        "POST /half HTTP/1.1\r\nhost: echo.test\r\ncontent-length: 100\r\n\r\nhalf of it",
        "POST /half HTTP/1.1\r\nhost: echo.test\r\ntransfer-encoding: chunked\r\n\r\n64\r\nhalf of it",
        "POST /half HTTP/1.1\r\nhost: echo.test\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        for _ in 0..5 {
            let mut stream = TcpStream::connect(local(port)).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            drop(stream);
            let answer = client::get(local(port), "echo.test", "/whole").await;
            assert_eq!((answer.status.as_u16(), answer.json()["target"].as_str()), (200, Some("/whole")));
        }
    }
}

#[tokio::test]
async fn interim_answers_pass_and_are_bounded() {
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let cases = vec![format!("{early}{whole}").into_bytes(), format!("{}{whole}", early.repeat(20_000)).into_bytes()];
    let (tidegate, address, _folder, _backend) = start(cases).await;
    assert_eq!(client::get(address, "echo.test", "/0").await.text(), "ok");
    let memory = tidegate.memory().0;
    let _ = client::try_get(address, "echo.test", "/1").await;
    let grown = tidegate.memory().1.saturating_sub(memory);
    assert!(grown < 16 * 1024, "{grown} KiB");
    assert_eq!(client::get(address, "echo.test", "/own").await.text(), "/own");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_is_the_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
                    if !matches!(stream.read_buf(&mut seen).await, Ok(1..)) {
                        return;
                    }
                }
                let target = String::from_utf8_lossy(&seen).split(' ').nth(1).unwrap_or_default().to_owned();
                let answer = b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig";
                let _ = stream.write_all(answer).await;
                if target == "/drained" {
                    let _ = stream.shutdown().await;
                    let mut rest = Vec::new();
                    let _ = stream.read_to_end(&mut rest).await;
                }
                // Otherwise the rest is neither read nor refused.
                std::future::pending::<()>().await;
            });
        }
    });
    let port = free_port();
    let folder = ConfigFolder::with(yaml::echo(port, backend));
    let _tidegate = Tidegate::start(&folder).await;
    // Whether the backend goes on reading what it has answered already, or not, the answer is the client's.
    for (target, length) in [("/drained", 20 << 20), ("/unread", 64 << 10)] {
        for protocol in BOTH {
            let body = vec![b'x'; length];
            let answer = client::send_over(protocol, local(port), "POST", "echo.test", target, &[], body).await;
            assert_eq!((answer.status.as_u16(), answer.text().as_str()), (413, "big"), "{protocol:?} {target}");
        }
    }
    task.abort();
}
