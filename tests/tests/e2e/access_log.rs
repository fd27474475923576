//! Istio's access log, as text and as JSON.

use serde_json::Value;
use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, EchoBackend, Tidegate, client, raw, yaml};

const KEYS: [&str; 24] = [
    "start_time",
    "route_name",
    "method",
    "path",
    "protocol",
    "response_code",
    "response_flags",
    "response_code_details",
    "connection_termination_details",
    "bytes_received",
    "bytes_sent",
    "duration",
    "upstream_service_time",
    "x_forwarded_for",
    "user_agent",
    "request_id",
    "authority",
    "upstream_host",
    "upstream_cluster",
    "upstream_local_address",
    "downstream_local_address",
    "downstream_remote_address",
    "requested_server_name",
    "upstream_transport_failure_reason",
];

/// A gateway whose access log MeshConfig asks for.
async fn start(mesh: &str) -> (Tidegate, std::net::SocketAddr, ConfigFolder, EchoBackend) {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let text = yaml::echo(port, backend.address)
        + &yaml::virtual_service(
            "named",
            "named.test",
            "- name: my-route\n  rewrite: {uri: /inner}\n  route: [{destination: {host: echo.test}}]",
        );
    let folder = ConfigFolder::with(text);
    let indented: String = mesh.lines().map(|line| format!("    {line}\n")).collect();
    folder.write("mesh.yaml", format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{indented}"));
    (Options::default().start(&folder).await, local(port), folder, backend)
}

async fn line(tidegate: &Tidegate, needle: &str) -> String {
    wait::until(&format!("a line with {needle} in {}", tidegate.stdout()), PATIENCE, || async {
        tidegate.stdout().lines().find(|line| line.contains(needle)).map(str::to_owned)
    })
    .await
}

/// Splits a text line at spaces outside of quotes and brackets.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => fields.push(String::new()),
            letter => fields.last_mut().unwrap().push(letter),
        }
    }
    fields
}

#[tokio::test]
async fn text_lines_have_istios_default_format() {
    let (tidegate, address, _folder, backend) = start("accessLogFile: /dev/stdout").await;
    let headers = [("user-agent", "tester/1.0"), ("x-forwarded-for", "9.9.9.9")];
    let answer = client::send(address, "POST", "named.test", "/text?q=1", &headers, "hello").await;
    let line = line(&tidegate, "/text?q=1").await;
    let fields = fields(&line);
    assert_eq!(fields.len(), 22, "{line}");
    let time = fields[0].strip_prefix('[').and_then(|time| time.strip_suffix(']')).unwrap();
    assert!(
        time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T' && time.as_bytes()[19] == b'.',
        "{time}"
    );
    assert_eq!(fields[1], "POST /text?q=1 HTTP/1.1");
    assert_eq!(fields[2..7], ["200", "-", "via_upstream", "-", "-"]);
    assert_eq!(fields[7], "5", "bytes received are the body's: {line}");
    assert_eq!(fields[8], answer.body.len().to_string());
    assert!(fields[9].parse::<u64>().is_ok() && fields[10].parse::<u64>().is_ok(), "{line}");
    assert_eq!(fields[11..13], ["9.9.9.9,127.0.0.1", "tester/1.0"]);
    assert_eq!(Some(fields[13].clone()), answer.received("x-request-id"));
    assert_eq!(fields[14], "named.test");
    assert_eq!(fields[15], backend.address.to_string());
    assert_eq!(fields[16], "outbound|80||echo.test");
    assert!(fields[17].starts_with("127.0.0.1:"), "upstream local address: {line}");
    assert_eq!(fields[18], address.to_string());
    // Envoy's downstream remote address is the trusted client address.
    assert!(fields[19].starts_with("127.0.0.1:") || fields[19].starts_with("9.9.9.9:"), "{line}");
    assert_eq!(fields[20], "-");
    assert_eq!(fields[21], "my-route");
}

#[tokio::test]
async fn json_lines_have_istios_keys_and_types() {
    let (tidegate, address, _folder, backend) = start("accessLogFile: /dev/stdout\naccessLogEncoding: JSON").await;
    client::send(address, "GET", "echo.test", "/json", &[("user-agent", "t")], "").await;
    client::send_http2(address, "GET", "nobody.test", "/lost", &[], "").await;
    let line1: Value = serde_json::from_str(&line(&tidegate, "/json").await).unwrap();
    let mut keys: Vec<&str> = line1.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = KEYS.to_vec();
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected);
    assert_eq!(line1["response_code"], 200);
    assert_eq!((line1["method"].as_str(), line1["protocol"].as_str()), (Some("GET"), Some("HTTP/1.1")));
    assert!(line1["duration"].is_u64() && line1["bytes_sent"].is_u64() && line1["bytes_received"] == 0, "{line1}");
    assert_eq!(line1["upstream_host"], backend.address.to_string());
    assert_eq!(line1["requested_server_name"], Value::Null);
    let line2: Value = serde_json::from_str(&line(&tidegate, "/lost").await).unwrap();
    assert_eq!((line2["response_code"].as_u64(), line2["response_flags"].as_str()), (Some(404), Some("NR")));
    assert_eq!((line2["protocol"].as_str(), &line2["upstream_host"]), (Some("HTTP/2"), &Value::Null));
}

#[tokio::test]
async fn a_custom_format_is_followed() {
    let (tidegate, address, _folder, _backend) =
        start("accessLogFile: /dev/stdout\naccessLogFormat: 'custom %REQ(X-A)% %RESP(X-BACKEND)% %RESPONSE_CODE%'")
            .await;
    client::send(address, "GET", "echo.test", "/", &[("x-a", "b")], "").await;
    assert_eq!(line(&tidegate, "custom").await, "custom b a 200");
}

#[tokio::test]
async fn clients_cannot_forge_lines() {
    let (tidegate, address, _folder, _backend) = start("accessLogFile: /dev/stdout").await;
    let request =
        b"GET /forge HTTP/1.1\r\nhost: echo.test\r\nconnection: close\r\nuser-agent: a\x1b[2J\"\xff\x85b\r\n\r\n";
    raw::exchange(address, request).await;
    client::get(address, "echo.test", "/next").await;
    line(&tidegate, "/next").await;
    let stdout = tidegate.stdout();
    assert!(!stdout.contains('\u{1b}'), "a control byte got through: {stdout:?}");
    assert!(stdout.lines().all(|line| line.starts_with('[')), "{stdout:?}");
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_nothing_and_files_are_reopened() {
    let (tidegate, address, folder, _backend) = start("accessLogFile: /nonexistent/folder/access.log").await;
    assert_eq!(client::get(address, "echo.test", "/").await.status, 200);
    tidegate.log_line("/nonexistent/folder/access.log").await;
    let log = tidegate.home().join("access.log");
    let mesh = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: 'accessLogFile: {}'}}\n",
        log.display()
    );
    tidegate.apply(&folder, "mesh.yaml", mesh).await;
    let read = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
    let logged = |needle: &'static str| {
        let log = log.clone();
        async move {
            wait::until(needle, PATIENCE, || async {
                client::get(address, "echo.test", needle).await;
                read(&log).contains(needle).then_some(())
            })
            .await;
        }
    };
    logged("/first").await;
    std::fs::rename(&log, log.with_extension("old")).unwrap();
    tidegate.signal("HUP").await;
    logged("/second").await;
    assert!(!read(&log).contains("/first"));
}
