//! Istio's metrics: names, labels, buckets, and what never becomes a label.

use std::collections::BTreeMap;

use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{Client, ConfigFolder, EchoBackend, Tidegate, client, yaml};

/// Istio's labels of HTTP metrics.
const LABELS: [&str; 26] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
    "le",
];

const BUCKETS: [&str; 20] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000", "60000",
    "300000", "600000", "1800000", "3600000", "+Inf",
];

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> &str {
        self.labels.iter().find(|(label, _)| label == name).map_or("", |(_, value)| value)
    }
}

/// Reads the text format strictly enough to notice what Prometheus would refuse.
fn parse(text: &str) -> Vec<Sample> {
    let mut types = BTreeMap::new();
    let mut samples = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "two TYPE lines for {name}");
        }
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, read_labels(labels)),
            None => (series, Vec::new()),
        };
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        assert!(types.contains_key(family) || types.contains_key(name), "no TYPE line before {line}");
        samples.push(Sample {
            name: name.to_owned(),
            labels,
            value: value.parse().unwrap_or_else(|_| panic!("{line}")),
        });
    }
    samples
}

fn read_labels(text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    let mut rest = text.strip_suffix('}').unwrap();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap();
        let mut value = String::new();
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next().unwrap() {
                (_, '\\') => value.push(letters.next().unwrap().1),
                (at, '"') => break at,
                (_, letter) => value.push(letter),
            }
        };
        labels.push((name.to_owned(), value));
        rest = after[end + 1..].trim_start_matches(',');
    }
    labels
}

/// The metrics once `requests` have been counted: that happens at the end of a request, after its answer.
async fn counted(tidegate: &Tidegate, requests: f64) -> String {
    wait::until(&format!("{requests} counted requests"), PATIENCE, || async {
        let text = tidegate.metrics().await;
        let samples = parse(&text);
        let sum: f64 = samples.iter().filter(|sample| sample.name == "istio_requests_total").map(|s| s.value).sum();
        (sum >= requests).then_some(text)
    })
    .await
}

#[tokio::test]
async fn requests_are_counted_with_istios_names_and_labels() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let text = yaml::echo(port, backend.address)
        .replace(", ports: {main:", ", labels: {app: ratings, version: v7}, ports: {main:")
        + &yaml::forward("u", "u.test", "empty.test")
        + &yaml::service_entry("empty", "empty.test", "HTTP", &[]);
    let folder = ConfigFolder::with(text);
    let tidegate = Options::default().start(&folder).await;
    for _ in 0..3 {
        client::get(local(port), "echo.test", "/").await;
    }
    client::send(local(port), "POST", "echo.test", "/", &[("x-echo-status", "500")], vec![b'x'; 20_000]).await;
    client::get(local(port), "nobody.test", "/").await;
    client::get(local(port), "u.test", "/").await;
    let headers = [("content-type", "application/grpc"), ("x-echo-header", "grpc-status=5")];
    client::send_http2(local(port), "POST", "echo.test", "/s/M", &headers, "").await;

    let text = counted(&tidegate, 7.0).await;
    let samples = parse(&text);
    let requests: Vec<&Sample> = samples.iter().filter(|sample| sample.name == "istio_requests_total").collect();
    let find = |code: &str, flags: &str, protocol: &str| {
        let found: Vec<&&Sample> = requests
            .iter()
            .filter(|s| {
                s.label("response_code") == code
                    && s.label("response_flags") == flags
                    && s.label("request_protocol") == protocol
            })
            .collect();
        assert_eq!(found.len(), 1, "{code} {flags} {protocol} in {requests:#?}");
        *found[0]
    };
    let plain = find("200", "-", "http");
    assert_eq!(plain.value, 3.0);
    let names: Vec<&str> = plain.labels.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, LABELS[..25]);
    for (label, value) in [
        ("reporter", "source"),
        ("destination_service", "echo.test"),
        ("destination_service_name", "echo.test"),
        ("destination_service_namespace", "default"),
        ("destination_app", "ratings"),
        ("destination_version", "v7"),
        ("destination_canonical_service", "ratings"),
        ("destination_canonical_revision", "v7"),
        ("connection_security_policy", "unknown"),
        ("source_principal", "unknown"),
        ("grpc_response_status", ""),
    ] {
        assert_eq!(plain.label(label), value, "{label}");
    }
    assert!(plain.labels.iter().all(|(name, value)| !value.is_empty() || name == "grpc_response_status"), "{plain:?}");
    assert_eq!(find("500", "-", "http").value, 1.0);
    assert_eq!(find("404", "NR", "http").label("destination_service"), "unknown");
    assert_eq!(find("503", "UH", "http").label("destination_service"), "empty.test");
    assert_eq!(find("200", "-", "grpc").label("grpc_response_status"), "5");

    for histogram in ["istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"] {
        let of = |s: &&Sample| s.label("response_code") == "200" && s.label("request_protocol") == "http";
        let buckets: Vec<&Sample> =
            samples.iter().filter(|s| s.name == format!("{histogram}_bucket")).filter(of).collect();
        let bounds: Vec<&str> = buckets.iter().map(|bucket| bucket.label("le")).collect();
        assert_eq!(bounds, BUCKETS, "{histogram}");
        assert!(buckets.is_sorted_by(|a, b| a.value <= b.value), "{histogram} is not cumulative");
        let only =
            |suffix: &str| samples.iter().filter(of).find(|s| s.name == format!("{histogram}{suffix}")).unwrap().value;
        assert_eq!((only("_count"), buckets[19].value), (3.0, 3.0), "{histogram}");
        assert!(only("_sum") > 0.0, "{histogram}");
        let labels: Vec<&str> = buckets[0].labels.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(labels, LABELS, "{histogram}");
    }
    let sent =
        samples.iter().find(|s| s.name == "istio_request_bytes_sum" && s.label("response_code") == "500").unwrap();
    assert!(sent.value >= 20_000.0, "request bytes are headers and body: {}", sent.value);
    let build = samples.iter().find(|sample| sample.name == "istio_build").unwrap();
    assert_eq!((build.label("component"), build.value), ("proxy", 1.0));
    let hash = tidegate.hash().await;
    assert!(samples.iter().any(|s| s.labels.iter().any(|(_, value)| *value == hash)), "the config hash is in no label");
    assert!(samples.iter().any(|s| s.name.contains("last_reload") && s.value == 1.0), "the last reload is not told");
}

#[tokio::test]
async fn the_same_metrics_are_on_the_admin_port() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    let tidegate = Options::default().start(&folder).await;
    client::get(local(port), "echo.test", "/").await;
    for text in [counted(&tidegate, 1.0).await, tidegate.admin("/stats/prometheus").await.text()] {
        assert!(parse(&text).iter().any(|sample| sample.name == "istio_requests_total"));
    }
    let answer = client::get(tidegate.stats, "localhost", "/stats/prometheus").await;
    assert!(answer.header("content-type").starts_with("text/plain"), "{}", answer.header("content-type"));
}

#[tokio::test]
async fn clients_cannot_make_labels() {
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let text =
        yaml::echo(port, backend.address).replace("hosts: ['echo.test']\n  gateways", "hosts: ['*']\n  gateways");
    let folder = ConfigFolder::with(text);
    let tidegate = Options::default().start(&folder).await;
    let mut client = Client::http1(local(port)).await.unwrap();
    client.get("first.test", "/").await.unwrap();
    let series = parse(&counted(&tidegate, 1.0).await).len();
    for number in 0..300 {
        let host = format!("evil{number}.example\"}}<b>");
        let request = http::Request::builder()
            .method(format!("M{number}").as_str())
            .uri(format!("/evil{number}?x={number}"))
            .header("host", if number % 2 == 0 { format!("evil{number}.example") } else { host })
            .header("user-agent", format!("evil{number}"))
            .body(Default::default())
            .unwrap();
        if client.send(request).await.is_err() || !client.is_open().await {
            client = Client::http1(local(port)).await.unwrap();
        }
    }
    let text = tidegate.metrics().await;
    let evil = text.lines().find(|line| line.contains("evil"));
    assert_eq!(evil, None);
    let grown = parse(&text).len() - series;
    // One more outcome (400) may have appeared: a counter and three histograms.
    assert!(grown <= 2 * (1 + 3 * 22), "{grown} new series");
}

/// Names of metrics in a query, each with the labels of its selector.
fn selectors(query: &str) -> Vec<(String, Vec<String>)> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find("istio_") {
        rest = &rest[at..];
        let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let selector = after.strip_prefix('{').and_then(|selector| selector.split('}').next()).unwrap_or_default();
        // Values hold `$variables`, no braces or quotes of their own; labels stand before `=`, `!=` and `=~`.
        let labels = selector.split('"').step_by(2).map(|part| part.trim_matches(|letter| !is_name(letter)).to_owned());
        found.push((name.to_owned(), labels.filter(|label| !label.is_empty()).collect()));
        rest = after;
    }
    found
}

#[tokio::test]
async fn istios_dashboards_find_their_metrics_and_labels() {
    let mut queries = vec![
        "sum(irate(istio_requests_total{reporter=\"source\",destination_service=~\"$service\",response_code!~\"5.*\"}[5m]))".to_owned(),
        "histogram_quantile(0.5, sum(rate(istio_request_bytes_bucket{source_workload=\"w\"}[1m])) by (le))".to_owned(),
    ];
    if let Some(shared) = tidegate_tests::shared::folder() {
        let text = std::fs::read(shared.join("corpus/istio_dashboard_queries.json")).unwrap();
        let dashboards: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let panels = dashboards.as_object().unwrap().values().filter_map(|panels| panels.as_array()).flatten();
        queries.extend(panels.filter_map(|panel| panel["expr"].as_str()).map(str::to_owned));
        assert!(queries.len() > 100, "{} queries", queries.len());
    }
    let (port, backend) = (free_port(), EchoBackend::start("a").await);
    let folder = ConfigFolder::with(yaml::echo(port, backend.address));
    let tidegate = Options::default().start(&folder).await;
    client::get(local(port), "echo.test", "/").await;
    let samples = parse(&counted(&tidegate, 1.0).await);
    // Of HTTP requests; TCP, DNS and istiod's own are not what this gateway reports.
    let ours = [
        "istio_requests_total",
        "istio_request_duration_milliseconds",
        "istio_request_bytes",
        "istio_response_bytes",
        "istio_build",
    ];
    let mut checked = 0;
    for query in &queries {
        for (name, labels) in selectors(query) {
            if !ours.iter().any(|our| name.starts_with(our)) {
                continue;
            }
            let sample =
                samples.iter().find(|sample| sample.name == name).unwrap_or_else(|| panic!("no {name} for {query}"));
            for label in labels {
                assert!(sample.labels.iter().any(|(found, _)| *found == label), "{name} has no {label}, as in {query}");
            }
            checked += 1;
        }
    }
    assert!(checked >= 2, "nothing was checked");
}
