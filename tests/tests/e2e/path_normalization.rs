//! What a backend receives of each path, by MeshConfig's mode, on a running gateway.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use serde_json::Value;
use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::raw::TargetBackend;
use tidegate_tests::{ConfigFolder, raw, shared, yaml};

/// Cases of our own: mode, request target, what the backend receives or `400`.
const OWN: &[(&str, &str, &str)] = &[
    ("NONE", "/a/../b#f", "/a/../b"),
    ("NONE", "/a//b", "/a//b"),
    ("DEFAULT", "/a/../b", "/b"),
    ("BASE", "/a/./b/%2e%2E/c", "/a/c"),
    ("BASE", "/%61%7E%2f", "/a~%2f"),
    ("BASE", "/a\\b", "/a/b"),
    ("BASE", "/a//b?x=//y/../%61", "/a//b?x=//y/../%61"),
    ("BASE", "/a%00b", "400"),
    ("MERGE_SLASHES", "///a//b", "/a/b"),
    ("MERGE_SLASHES", "/a%2F%2fb", "/a%2F%2fb"),
    ("DECODE_AND_MERGE_SLASHES", "/a%2F%5c%2fb/..%2fc", "/a/c"),
    ("DECODE_AND_MERGE_SLASHES", "/a%252fb", "/a%252fb"),
];

fn rows() -> Vec<(String, String, String)> {
    let mut rows: Vec<(String, String, String)> =
        OWN.iter().map(|(mode, request, received)| ((*mode).into(), (*request).into(), (*received).into())).collect();
    if let Some(shared) = shared::folder() {
        let text = std::fs::read(shared.join("corpus/path_normalization.json")).unwrap();
        let corpus: Vec<Value> = serde_json::from_slice(&text).unwrap();
        assert!(corpus.len() >= 345, "{} rows", corpus.len());
        let field = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
        rows.extend(corpus.iter().map(|row| (field(row, "mode"), field(row, "request"), field(row, "received"))));
    }
    rows
}

#[tokio::test]
async fn a_backend_receives_every_path_as_its_mode_says() {
    let mut modes: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for (mode, request, received) in rows() {
        modes.entry(mode).or_default().push((request, received));
    }
    let backend = TargetBackend::start().await;
    for (mode, rows) in modes {
        let port = free_port();
        let folder = ConfigFolder::with(yaml::echo(port, backend.address));
        let mesh = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(mesh.path(), format!("pathNormalization: {{normalization: {mode}}}\n")).unwrap();
        let _tidegate = Options::default().mesh_config(mesh.path()).start(&folder).await;
        let total = rows.len();
        let wrong: Vec<String> = futures::stream::iter(rows)
            .map(|(request, received)| async move {
                let bytes = format!("GET {request} HTTP/1.1\r\nHost: echo.test\r\nConnection: close\r\n\r\n");
                let answer = raw::exchange(local(port), bytes.as_bytes()).await;
                let found = match raw::status(&answer) {
                    Some(200) => String::from_utf8_lossy(raw::body(&answer)).into_owned(),
                    Some(status) => status.to_string(),
                    None => "no answer".into(),
                };
                (found != received).then(|| format!("{request} gives {found}, not {received}"))
            })
            .buffer_unordered(8)
            .filter_map(|wrong| async { wrong })
            .collect()
            .await;
        assert!(wrong.is_empty(), "{mode}: {} of {total} rows: {wrong:#?}", wrong.len());
    }
}
