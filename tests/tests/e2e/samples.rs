//! Istio's own samples: everything in them is applied, or reported with its place.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use tidegate_tests::process::{Options, free_port, local};
use tidegate_tests::wait::{self, PATIENCE};
use tidegate_tests::{ConfigFolder, EchoBackend, Tidegate, client, shared, yaml};

const SERVED: [&str; 12] = [
    "Gateway",
    "VirtualService",
    "DestinationRule",
    "ServiceEntry",
    "WorkloadEntry",
    "Service",
    "EndpointSlice",
    "Endpoints",
    "Pod",
    "Namespace",
    "Secret",
    "ConfigMap",
];

/// A document of a file: its kind, whether that is served, and its first and last line.
#[derive(Debug)]
struct Document {
    kind: String,
    served: bool,
    first: u64,
    last: u64,
}

fn documents(text: &str) -> Vec<Document> {
    let mut documents = Vec::new();
    let mut first = 1;
    let mut kind = None;
    let mut version = String::new();
    let mut number = 0;
    for line in text.lines() {
        number += 1;
        if line == "---" || line.starts_with("--- ") {
            documents.extend(kind.take().map(|kind| document(kind, &version, first, number - 1)));
            first = number + 1;
        } else if let Some(found) = line.strip_prefix("kind:") {
            kind = Some(found);
        } else if let Some(found) = line.strip_prefix("apiVersion:") {
            found.clone_into(&mut version);
        }
    }
    documents.extend(kind.map(|kind| document(kind, &version, first, number)));
    documents
}

fn document(kind: &str, version: &str, first: u64, last: u64) -> Document {
    let plain = |text: &str| text.split('#').next().unwrap_or_default().trim().trim_matches('"').to_owned();
    let (kind, version) = (plain(kind), plain(version));
    let groups = ["v1", "networking.istio.io/", "discovery.k8s.io/"];
    let served = SERVED.contains(&kind.as_str()) && groups.iter().any(|group| version.starts_with(group));
    Document { kind, served, first, last }
}

/// A gateway whose folder gets one file after the other.
struct Rig {
    tidegate: Tidegate,
    folder: ConfigFolder,
    port: u16,
    turn: u32,
    _backend: EchoBackend,
}

impl Rig {
    async fn start() -> Self {
        let (port, backend) = (free_port(), EchoBackend::start("a").await);
        let folder = ConfigFolder::with(yaml::echo(port, backend.address));
        folder.write("marker.yaml", marker(0));
        let tidegate = Options::default().arg("--port-offset").arg("20000").start(&folder).await;
        Self { tidegate, folder, port, turn: 0, _backend: backend }
    }

    /// Serves `text` beside the rest, and gives `/config/status` once it has been read.
    async fn load(&mut self, text: &str) -> Value {
        self.turn += 1;
        self.folder.write("sample.yaml", text);
        // Written after the sample: when it serves, the sample has been read.
        self.folder.write("marker.yaml", marker(self.turn));
        let turn = self.turn.to_string();
        wait::until(&format!("marker {turn}\n{}", self.tidegate.log()), PATIENCE, || async {
            (client::get(local(self.port), "marker.test", "/").await.text() == turn).then_some(())
        })
        .await;
        assert_eq!(client::get(local(self.port), "echo.test", "/").await.status, 200);
        self.tidegate.status().await
    }
}

fn marker(turn: u32) -> String {
    yaml::virtual_service(
        "marker",
        "marker.test",
        &format!("- directResponse: {{status: 200, body: {{string: '{turn}'}}}}"),
    )
}

fn counts(status: &Value, field: &str) -> BTreeMap<String, u64> {
    let objects = status["objects"].as_array().unwrap().iter();
    objects.map(|count| (count["kind"].as_str().unwrap().to_owned(), count[field].as_u64().unwrap())).collect()
}

/// Findings about `sample.yaml`: level, code, line.
fn findings(status: &Value) -> Vec<&Value> {
    let all = status["diagnostics"].as_array().unwrap().iter();
    all.filter(|finding| finding["origin"].to_string().contains("sample.yaml")).collect()
}

fn line(finding: &Value) -> u64 {
    finding["origin"]["line"].as_u64().unwrap_or_else(|| panic!("no line in {finding}"))
}

#[tokio::test]
async fn every_sample_is_applied_or_reported_with_line_and_reason() {
    let mut files: Vec<(PathBuf, String)> = vec![("own".into(), OWN.to_owned())];
    if let Some(shared) = shared::folder() {
        let found = shared::yaml_files(&shared.join("samples"));
        assert!(found.len() > 50, "{} samples", found.len());
        files.extend(found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())));
    }
    let mut rig = Rig::start().await;
    let empty = rig.load("").await;
    let mut wrong = Vec::new();
    for (path, text) in files {
        let status = rig.load(&text).await;
        let findings = findings(&status);
        if let Some(vague) = findings.iter().find(|finding| finding["message"].as_str().unwrap_or_default().len() < 8) {
            wrong.push(format!("{}: no reason in {vague}", path.display()));
        }
        let mut expected = counts(&empty, "accepted");
        let mut rejected = 0;
        for document in documents(&text) {
            let mut about = findings.iter().filter(|finding| (document.first..=document.last).contains(&line(finding)));
            if !document.served {
                // One warning a kind may stand for all its objects.
                let kind = &document.kind;
                if !status["diagnostics"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .any(|f| f["code"] == "TG0003" && f["message"].to_string().contains(kind.as_str()))
                {
                    wrong.push(format!("{}:{}: {kind} is skipped silently", path.display(), document.first));
                }
            } else if about.any(|finding| finding["level"] == "Error") {
                rejected += 1;
            } else {
                *expected.entry(document.kind).or_default() += 1;
            }
        }
        let found = counts(&status, "accepted");
        for (kind, expected) in &expected {
            let found = found.get(kind).copied().unwrap_or_default();
            // A finding of the whole set (a conflict) is an error at an object that is accepted all the same.
            if found < *expected || found > *expected + rejected {
                wrong.push(format!(
                    "{}: {found} objects of kind {kind} are applied, {expected} have no error",
                    path.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn weights_inside_a_destination_are_refused_with_the_mend() {
    let own = yaml::virtual_service(
        "w",
        "w.test",
        "- route:\n  - destination: {host: echo.test, weight: 75}\n  - destination: {host: echo.test, weight: 25}",
    );
    let mut texts = vec![own];
    texts.extend(shared::folder().map(|shared| {
        std::fs::read_to_string(shared.join("samples/seeds/mesh-arena-weights-as-printed.yaml")).unwrap()
    }));
    let mut rig = Rig::start().await;
    for text in texts {
        let status = rig.load(&text).await;
        let finding = *findings(&status)
            .iter()
            .find(|finding| {
                finding["level"] == "Error" && finding["path"].as_str().unwrap_or_default().contains("destination")
            })
            .unwrap_or_else(|| panic!("not refused: {status}"));
        let wrong_line = text.lines().position(|line| line.contains("weight:")).unwrap() as u64 + 1;
        assert_eq!(line(finding), wrong_line, "{finding}");
        let help = finding["help"].as_str().unwrap_or_default();
        assert!(help.contains("weight") && help.contains("destination"), "the mend is missing: {finding}");
    }
}

/// One object of each fate: applied, refused, of a kind that is not served.
const OWN: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: good}
spec:
  hosts: [good.test]
  gateways: [edge]
  http: [{route: [{destination: {host: echo.test}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad}
spec:
  hosts: [bad.test]
  gateways: [edge]
  http: [{rout: [{destination: {host: echo.test}}]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec: {}
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec:
  ports: [{name: http, port: 80}]
";
