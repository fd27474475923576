//! What the edge takes from clients and what it adds: identity headers, limits, framing.

use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::{BOTH, ConfigFolder, EchoBackend, Tidegate, client, echo, frames, raw, yaml};

async fn start() -> (Tidegate, std::net::SocketAddr, ConfigFolder, EchoBackend) {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    (Tidegate::start(&folder).await, local(port), folder, backend)
}

#[tokio::test]
async fn identity_headers_of_clients_are_replaced() {
    let (_tidegate, address, _folder, _backend) = start().await;
    let forged = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-request-id", "mine"),
        ("x-envoy-internal", "true"),
        ("x-envoy-external-address", "6.6.6.6"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-max-retries", "9"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-original-path", "/forged"),
        ("x-envoy-decorator-operation", "forged"),
        ("x-envoy-peer-metadata", "forged"),
        ("x-envoy-peer-metadata-id", "forged"),
        ("x-kept", "yes"),
    ];
    for protocol in BOTH {
        let answer = client::send_over(protocol, address, "GET", "echo.test", "/", &forged, "").await;
        assert_eq!(answer.received("x-forwarded-for").as_deref(), Some("6.6.6.6,127.0.0.1"));
        assert_eq!(answer.received("x-forwarded-proto").as_deref(), Some("http"));
        assert_eq!(answer.received("x-envoy-external-address").as_deref(), Some("127.0.0.1"));
        assert_eq!(answer.received("x-kept").as_deref(), Some("yes"));
        let id = answer.received("x-request-id").unwrap();
        assert!(id.len() == 36 && id.as_bytes()[14] == b'4', "a UUIDv4, not {id}");
        for gone in ["x-envoy-internal", "x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-upstream-rq-timeout-ms"] {
            assert_eq!(answer.received(gone), None, "{gone}");
        }
        for (name, value) in [("x-envoy-original-path", "/forged"), ("x-envoy-decorator-operation", "forged")] {
            assert_ne!(answer.received(name).as_deref(), Some(value), "{name}");
        }
        assert_ne!(answer.received("x-envoy-peer-metadata").as_deref(), Some("forged"));
        assert_eq!(answer.header("server"), "istio-envoy");
        assert!(answer.header("x-envoy-upstream-service-time").parse::<u32>().is_ok());
        assert_eq!(answer.header("x-envoy-peer-metadata"), "");
    }
}

#[tokio::test]
async fn each_request_gets_an_id_of_its_own() {
    let (_tidegate, address, _folder, _backend) = start().await;
    let first = client::get(address, "echo.test", "/").await.received("x-request-id").unwrap();
    let second = client::get(address, "echo.test", "/").await.received("x-request-id").unwrap();
    assert_ne!(first, second);
}

#[tokio::test]
async fn trusted_hops_may_say_who_the_client_is() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    let mesh = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(mesh.path(), "defaultConfig: {gatewayTopology: {numTrustedProxies: 1}}\n").unwrap();
    let _tidegate = Options::default().mesh_config(mesh.path()).start(&folder).await;
    let headers = [("x-forwarded-for", "6.6.6.6, 9.9.9.9"), ("x-forwarded-proto", "https")];
    let answer = client::send(local(port), "GET", "echo.test", "/", &headers, "").await;
    assert_eq!(answer.received("x-envoy-external-address").as_deref(), Some("9.9.9.9"));
    assert_eq!(answer.received("x-forwarded-proto").as_deref(), Some("https"));
}

#[tokio::test]
async fn hop_by_hop_headers_stay_on_their_hop() {
    let (_tidegate, address, _folder, _backend) = start().await;
    let request = "GET / HTTP/1.1\r\nhost: echo.test\r\nconnection: close, x-nominated\r\nx-nominated: secret\r\nkeep-alive: 5\r\nproxy-connection: x\r\nte: trailers, gzip\r\nx-end: y\r\n\r\n";
    let answer = raw::exchange(address, request.as_bytes()).await;
    assert_eq!(raw::status(&answer), Some(200), "{}", String::from_utf8_lossy(&answer));
    let report: serde_json::Value = serde_json::from_slice(raw::body(&answer)).unwrap();
    let names: Vec<&str> = report["headers"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    for gone in ["x-nominated", "keep-alive", "proxy-connection"] {
        assert!(!names.contains(&gone), "{gone} reached the backend: {names:?}");
    }
    assert!(names.contains(&"x-end") && names.contains(&"x-forwarded-for"), "{names:?}");
}

#[tokio::test]
async fn a_client_cannot_nominate_away_what_the_gateway_sets() {
    let (_tidegate, address, _folder, _backend) = start().await;
    let request = "GET / HTTP/1.1\r\nhost: echo.test\r\nconnection: close, x-forwarded-for, x-request-id\r\n\r\n";
    let answer = raw::exchange(address, request.as_bytes()).await;
    if raw::status(&answer) == Some(400) {
        return;
    }
    let report: serde_json::Value = serde_json::from_slice(raw::body(&answer)).unwrap();
    let names: Vec<&str> = report["headers"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    assert!(names.contains(&"x-forwarded-for") && names.contains(&"x-request-id"), "{names:?}");
}

/// A request with a header line between the host and the end, and its body.
fn post(line: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: echo.test\r\n{line}\r\n\r\n{body}")
}

fn get(target: &str, host: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n")
}

/// Ambiguous and broken requests: the status, and that nothing of them reaches the backend.
#[tokio::test]
async fn ambiguous_requests_are_refused() {
    let (_tidegate, address, _folder, backend) = start().await;
    let mut cases: Vec<(String, Vec<u8>, u16)> = Vec::new();
    let mut refuse = |name: &str, request: String, status: u16| cases.push((name.into(), request.into_bytes(), status));
    for length in ["+5", "0x5", "5,5", "5, 6", "", "18446744073709551616", "-1", "5 5", "5a"] {
        refuse(&format!("length {length:?}"), post(&format!("content-length: {length}"), "hello"), 400);
    }
    refuse("two lengths", post("content-length: 5\r\ncontent-length: 6", "hello!"), 400);
    refuse("a length and chunks", post("content-length: 5\r\ntransfer-encoding: chunked", "0\r\n\r\n"), 400);
    refuse("chunks and a length", post("transfer-encoding: chunked\r\ncontent-length: 5", "0\r\n\r\n"), 400);
    for coding in [
        "identity",
        "chunked, identity",
        "gzip, chunked",
        "xchunked",
        "chunked\x0b",
        "chunked, chunked",
        "\"chunked\"",
        "chunked;q=1",
    ] {
        refuse(
            &format!("coding {coding:?}"),
            post(&format!("transfer-encoding: {coding}"), "5\r\nhello\r\n0\r\n\r\n"),
            if coding.contains('\x0b') { 400 } else { 501 },
        );
    }
    let two = "transfer-encoding: identity\r\ntransfer-encoding: chunked";
    refuse("two codings", post(two, "5\r\nhello\r\n0\r\n\r\n"), 501);
    refuse("a coding after a space", post("transfer-encoding : chunked", "0\r\n\r\n"), 400);
    refuse("a folded coding", post("transfer-encoding:\r\n chunked", "0\r\n\r\n"), 501);
    for size in ["0x5", "FFFFFFFFFFFFFFFF1", "-1", "5 ", " 5", "+5", "", "g"] {
        let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
        refuse(&format!("chunk size {size:?}"), post("transfer-encoding: chunked", &body), 400);
    }
    refuse("chunk lines that end in LF", post("transfer-encoding: chunked", "5\nhello\n0\n\n"), 400);
    refuse("a chunk longer than its size", post("transfer-encoding: chunked", "5\r\nhelloXX0\r\n\r\n"), 400);
    refuse(
        "a long extension",
        post("transfer-encoding: chunked", &format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000))),
        400,
    );
    for host in [
        "",
        "a b",
        "a\tb",
        "a@echo.test",
        "echo.test:99999",
        "echo.test:80x",
        "a/b",
        "a?b",
        "a#b",
        "%65cho.test",
        "a,b",
        ":80",
        "*",
    ] {
        refuse(&format!("host {host:?}"), get("/", host), 400);
    }
    refuse("no host", "GET / HTTP/1.1\r\nx: y\r\n\r\n".into(), 400);
    refuse("two hosts", get("/", "echo.test\r\nhost: echo.test"), 400);
    for line in [
        "x-a : b",
        "x-a: b\r\n c",
        "x-a: b\0c",
        "x-a: b\rc",
        "x-a: b\nc: d",
        "x-a: \u{1}",
        "x-a: \u{7f}",
        ": b",
        "x(a: b",
        "no colon",
        "x-\u{e9}: b",
    ] {
        refuse(&format!("line {line:?}"), get("/", &format!("echo.test\r\n{line}")), 400);
    }
    for target in [
        "/a b",
        "/a#b c",
        "x",
        "*",
        "ftp://echo.test/",
        "http://other.test/",
        "http://u@echo.test/",
        "/a\u{1}",
        "/a\u{7f}",
        "/%00",
    ] {
        refuse(&format!("target {target:?}"), get(target, "echo.test"), 400);
    }
    for line in [
        "GET\t/\tHTTP/1.1",
        "GET  / HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / http/1.1",
        "GET /",
        "nonsense",
    ] {
        refuse(&format!("request line {line:?}"), format!("{line}\r\nhost: echo.test\r\n\r\n"), 400);
    }
    refuse("bare line feeds", "GET / HTTP/1.1\nhost: echo.test\n\n".into(), 400);
    refuse("HTTP/1.0", "GET / HTTP/1.0\r\nhost: echo.test\r\n\r\n".into(), 426);
    refuse("CONNECT", "CONNECT echo.test:80 HTTP/1.1\r\nhost: echo.test:80\r\n\r\n".into(), 405);
    refuse("a long target", get(&format!("/{}", "a".repeat(70_000)), "echo.test"), 414);
    let many: String = (0..101).map(|n| format!("\r\nx-h{n}: v")).collect();
    refuse("101 headers", get("/", &format!("echo.test{many}")), 431);
    refuse("61 KiB of headers", get("/", &format!("echo.test\r\nx-big: {}", "v".repeat(61 * 1024))), 431);
    refuse("33 nominations", get("/", &format!("echo.test\r\nconnection: close{}", ", x".repeat(33))), 400);

    let mut wrong = Vec::new();
    for (name, request, status) in &cases {
        let (first, closed) = wait_closed(address, request).await;
        // What cannot be read whole ends the connection; CONNECT is clear, and not to be had.
        if raw::status(&first) != Some(*status) || !(closed || *status == 405) {
            wrong.push(format!(
                "{name}: {:?}, closed: {closed}",
                String::from_utf8_lossy(&first[..first.len().min(60)])
            ));
        }
    }
    assert!(wrong.is_empty(), "of {} cases: {wrong:#?}", cases.len());
    assert_eq!(backend.requests(), 0, "something got through");
    assert_eq!(client::get(address, "echo.test", "/").await.status, 200, "a plain request still works");
}

/// What comes as an answer, and whether the connection is closed after it without being asked.
async fn wait_closed(address: std::net::SocketAddr, request: &[u8]) -> (Vec<u8>, bool) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let end = tokio::time::timeout(std::time::Duration::from_secs(3), stream.read_to_end(&mut answer)).await;
    (answer, end.is_ok())
}

#[tokio::test]
async fn unusual_requests_that_are_clear_pass() {
    let (_tidegate, address, _folder, _backend) = start().await;
    let chunked = "transfer-encoding: chunked\r\nconnection: close";
    for (name, request) in [
        ("a tab before the length", post("content-length:\t5\r\nconnection: close", "hello")),
        ("Chunked", post("transfer-encoding: Chunked\r\nconnection: close", "5\r\nhello\r\n0\r\n\r\n")),
        ("a short extension", post(chunked, "5;a=b\r\nhello\r\n0\r\n\r\n")),
        ("zeros before the size", post(chunked, "0005\r\nhello\r\n0\r\n\r\n")),
        ("trailers", post(chunked, "5\r\nhello\r\n0\r\nx-checksum: 1\r\n\r\n")),
        ("forbidden trailers", post(chunked, "5\r\nhello\r\n0\r\ncontent-length: 3\r\nhost: evil\r\n\r\n")),
        (
            "a body that waits to be asked for",
            post("content-length: 5\r\nexpect: 100-continue\r\nconnection: close", "hello"),
        ),
    ] {
        let answer = raw::exchange(address, request.as_bytes()).await;
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains(&echo::sha256(b"hello")) && text.contains("\"host\":\"echo.test\""), "{name}: {text}");
    }
    for (name, target, host) in [
        ("an empty line first", "/", "echo.test"),
        ("a port", "/", "echo.test:8443"),
        ("an empty port", "/", "echo.test:"),
        ("the absolute form", "http://echo.test/", "echo.test"),
        ("a strange escape", "/%zz%", "echo.test"),
        ("what a path may not hold", "/<a>", "echo.test"),
        ("a tab and bytes of text in values", "/", "echo.test\r\nx-a: b\tc\u{e9}"),
    ] {
        let lead = if name.starts_with("an empty line") { "\r\n" } else { "" };
        let request = lead.to_owned() + &get(target, &format!("{host}\r\nconnection: close"));
        let answer = raw::exchange(address, request.as_bytes()).await;
        assert_eq!(raw::status(&answer), Some(200), "{name}: {}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn bodies_pass_unchanged_in_both_directions() {
    let (_tidegate, address, _folder, _backend) = start().await;
    for length in [0, 1, 65_535, 65_536, 3_000_000] {
        let body: Vec<u8> = (0..length).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for protocol in BOTH {
            let answer = client::send_over(protocol, address, "POST", "echo.test", "/", &[], body.clone()).await;
            assert_eq!(answer.json()["length"], length, "{protocol:?}");
            assert_eq!(answer.json()["sha256"], echo::sha256(&body), "{protocol:?} length={length}");
        }
        let asked = length.to_string();
        for protocol in BOTH {
            let headers = [("x-echo-bytes", asked.as_str())];
            let answer = client::send_over(protocol, address, "GET", "echo.test", "/", &headers, "").await;
            assert_eq!(answer.body.len(), length as usize, "{protocol:?}");
        }
    }
    let chunked = "POST / HTTP/1.1\r\nhost: echo.test\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n";
    let answer = raw::exchange(address, chunked.as_bytes()).await;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains(&echo::sha256(b"hello, world")), "{text}");
}

#[tokio::test]
async fn methods_and_statuses_pass() {
    let (_tidegate, address, _folder, _backend) = start().await;
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT"] {
        assert_eq!(client::send(address, method, "echo.test", "/", &[], "").await.json()["method"], method);
    }
    let answer = client::send(address, "HEAD", "echo.test", "/", &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    for status in ["201", "204", "304", "404", "418", "500", "503"] {
        let answer = client::send(address, "GET", "echo.test", "/", &[("x-echo-status", status)], "").await;
        assert_eq!(answer.status.as_str(), status);
        assert_eq!(answer.header("x-backend"), "a", "{status} is the backend's");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_tidegate, address, _folder, backend) = start().await;
    let mut request = String::new();
    for number in 0..20 {
        let host = if number == 10 { "nobody.test" } else { "echo.test" };
        let close = if number == 19 { "connection: close\r\n" } else { "" };
        request += &format!("GET /{number} HTTP/1.1\r\nhost: {host}\r\n{close}\r\n");
    }
    let answer = String::from_utf8(raw::exchange(address, request.as_bytes()).await).unwrap();
    let statuses: Vec<&str> = answer.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
    let expected: Vec<&str> = (0..20).map(|number| if number == 10 { "404" } else { "200" }).collect();
    assert_eq!(statuses, expected);
    let targets: Vec<usize> = (0..20).filter_map(|number| answer.find(&format!("\"target\":\"/{number}\""))).collect();
    assert!(targets.len() == 19 && targets.is_sorted(), "{targets:?}");
    assert_eq!(backend.requests(), 19);
}

#[tokio::test]
async fn cookies_in_crumbs_become_one_header_for_http1_backends() {
    let (_tidegate, address, _folder, _backend) = start().await;
    // RFC 9113 section 8.2.3.
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    let answer = client::send_http2(address, "GET", "echo.test", "/", &crumbs, "").await;
    assert_eq!(answer.received("cookie").as_deref(), Some("a=1; b=2; c=3"));
}

#[tokio::test]
async fn a_host_beside_another_authority_decides_nothing() {
    let (_tidegate, address, _folder, backend) = start().await;
    let ask = async |authority: &str, host: &str| {
        let mut client = frames::Connection::open(address).await;
        let block = frames::header_block(authority, "/", &[(b"host", host.as_bytes())]);
        client.write(&frames::frame(frames::HEADERS, frames::END_HEADERS | frames::END_STREAM, 1, &block)).await;
        let ends = [frames::RST_STREAM, frames::GOAWAY, frames::DATA];
        let ended = |frame: &frames::Frame| {
            ends.contains(&frame.kind) || frame.kind == frames::HEADERS && frame.flags & frames::END_STREAM != 0
        };
        String::from_utf8_lossy(&client.find(ended).await.expect("an end").payload).into_owned()
    };
    // Refused, or the authority's route, and a backend that never hears of the other name.
    assert!(!ask("echo.test", "nobody.test").await.contains("nobody.test"));
    let before = backend.requests();
    ask("nobody.test", "echo.test").await;
    assert_eq!(backend.requests(), before, "the header chose the backend");
}

#[tokio::test]
async fn heads_of_answers_are_written_as_envoy_writes_them() {
    let (_tidegate, address, _folder, _backend) = start().await;
    for host in ["echo.test", "nobody.test"] {
        let request = format!(
            "GET / HTTP/1.1\r\nhost: {host}\r\n\r\nGET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        );
        let answer = String::from_utf8(raw::exchange(address, request.as_bytes()).await).unwrap();
        let heads: Vec<&str> =
            answer.split("HTTP/1.1 ").skip(1).map(|part| part.split("\r\n\r\n").next().unwrap()).collect();
        assert_eq!(heads.len(), 2, "{answer}");
        for head in &heads {
            let names = head.lines().skip(1).map(|line| line.split(':').next().unwrap());
            assert!(names.clone().all(|name| name == name.to_lowercase()), "{head}");
            assert_eq!(names.filter(|name| *name == "date" || *name == "server").count(), 2, "{head}");
        }
        assert!(!heads[0].contains("connection:") && heads[1].contains("connection: close"), "{heads:?}");
    }
}
