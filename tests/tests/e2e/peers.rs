//! Clients that others wrote, unmodified: websockets and grpcio from PyPI, curl, h2load.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tidegate_tests::peers::{self, HeldStreams, PythonBackend};
use tidegate_tests::process::{free_port, local};
use tidegate_tests::{ConfigFolder, EchoBackend, Tidegate, yaml};

/// Hosts `ws.test`, `grpc.test` (backends from PyPI) and `echo.test`.
async fn start() -> (Tidegate, SocketAddr, ConfigFolder, (EchoBackend, PythonBackend)) {
    let port = free_port();
    let backends = (EchoBackend::start("a").await, PythonBackend::start().await);
    let text = yaml::echo(port, backends.0.address)
        + &yaml::forward("ws", "ws.test", "ws.test")
        + &yaml::service_entry("ws", "ws.test", "HTTP", &[backends.1.websocket])
        + &yaml::forward("grpc", "grpc.test", "grpc.test")
        + &yaml::service_entry("grpc", "grpc.test", "GRPC", &[backends.1.grpc]);
    let folder = ConfigFolder::with(text);
    (Tidegate::start(&folder).await, local(port), folder, backends)
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

#[tokio::test]
async fn a_websocket_client_from_pypi_works() {
    let (_tidegate, address, _folder, _backends) = start().await;
    let port = address.port().to_string();
    let found = peers::run_script("websocket_calls.py", &["127.0.0.1", &port, "ws.test"]).await;
    let mut expected = json!({
        "subprotocol": "chat", "text": "hello", "fragmented": "fragmented", "ping": true,
        "close": [4001, "enough"], "many": true,
    });
    for size in [0, 1, 125, 126, 65535, 65536, 1_000_000] {
        expected[format!("binary_{size}")] = Value::Bool(true);
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_grpc_client_from_pypi_works() {
    let (_tidegate, address, _folder, _backends) = start().await;
    let found = peers::run_script("grpc_calls.py", &[&address.to_string(), "grpc.test"]).await;
    let expected = json!({
        "unary": "hello", "initial": "begin", "trailing": "end", "metadata": "p", "large": true,
        "server_stream": ["0", "1", "2", "3", "4"], "long_stream": 2000, "client_stream": "abc",
        "bidi": ["x", "y", "z"],
        // A client that cancels, or whose deadline passes, is gone at the backend too.
        "first": "first", "cancelled": "yes", "deadline": "DEADLINE_EXCEEDED", "after_deadline": "yes",
        "failure": ["FAILED_PRECONDITION", "asked to fail: 100 % of it"],
        "unimplemented": "UNIMPLEMENTED", "no_route": "UNIMPLEMENTED",
    });
    assert_eq!(found, expected);
}

#[tokio::test]
async fn long_streams_of_peers_stay_open_over_a_change() {
    let (tidegate, address, folder, _backends) = start().await;
    let held = HeldStreams::open(address, "ws.test", "grpc.test", 3).await;
    for status in [201, 202, 203] {
        let text = yaml::virtual_service("m", "m.test", &format!("- directResponse: {{status: {status}}}"));
        tidegate.apply(&folder, "marker.yaml", text).await;
    }
    assert_eq!(held.finish().await, (6, vec![]));
}

#[tokio::test]
async fn curl_works() {
    let (_tidegate, address, _folder, _backends) = start().await;
    let url = format!("http://{address}/a/../b?c=d");
    let common = ["-sS", "--fail", "--max-time", "20", "--noproxy", "*", "-H", "Host: echo.test"];
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let mut args = common.to_vec();
        args.extend([version, "--path-as-is", url.as_str()]);
        let report: Value = serde_json::from_str(&peers::run("curl", &args).await).unwrap();
        assert_eq!(report["target"], "/b?c=d", "{version}");
        let mut args = common.to_vec();
        args.extend([version, "-X", "PUT", "--data-binary", "some data", "-H", "Expect: 100-continue", url.as_str()]);
        let report: Value = serde_json::from_str(&peers::run("curl", &args).await).unwrap();
        assert_eq!((report["method"].as_str(), report["length"].as_u64()), (Some("PUT"), Some(9)), "{version}");
        let mut args = common.to_vec();
        args.extend([version, "-I", url.as_str()]);
        let head = peers::run("curl", &args).await.to_lowercase();
        assert!(head.contains(" 200") && head.contains("server: istio-envoy"), "{version}: {head}");
    }
    // An upgrade that the backend does not take up is a plain request.
    let mut args = common.to_vec();
    args.extend(["--http2", url.as_str()]);
    let report: Value = serde_json::from_str(&peers::run("curl", &args).await).unwrap();
    assert_eq!(report["backend"], "a");
}

#[tokio::test]
async fn h2load_sees_no_failure() {
    let (tidegate, address, folder, backends) = start().await;
    let url = format!("http://{address}/");
    for protocol in ["HTTP", "HTTP2"] {
        // h2load says `Host: 127.0.0.1:<port>` on HTTP/1.1, whatever else it is told.
        let text = yaml::forward("any", "127.0.0.1", "any.test")
            + &yaml::service_entry("any", "any.test", protocol, &[backends.0.address]);
        tidegate.apply(&folder, "any.yaml", text).await;
        for (option, bytes) in [("--h1", "0"), ("-m32", "0"), ("--h1", "100000"), ("-m32", "100000")] {
            let size = format!("x-echo-bytes: {bytes}");
            let output = peers::run("h2load", &["-n", "3000", "-c", "8", option, "-H", &size, &url]).await;
            let line =
                |start: &str| output.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{output}"));
            let requests: Vec<&str> = line("requests:").split(' ').collect();
            assert_eq!((number(requests[1]), number(requests[7])), (3000, 3000), "{protocol} {option}: {output}");
            assert!(line("requests:").contains(" 0 failed, 0 errored, 0 timeout"), "{protocol} {option}: {output}");
            assert!(line("status codes:").starts_with("status codes: 3000 2xx"), "{protocol} {option}: {output}");
        }
    }
}
