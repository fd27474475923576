//! What runs leave behind: one line of JSON and the records of each, and a table of all.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::faults::FAULTS;
use crate::outcome::Records;

/// A folder of results. A run replaces the former one of the same fault, proxy and form.
pub(crate) struct Reports {
    folder: PathBuf,
}

/// Fields that every line has; the rest is told in words.
const COMMON: [&str; 14] = [
    "name",
    "id",
    "sut",
    "n",
    "requests",
    "failed",
    "failures",
    "p99_ms",
    "p99_idle_ms",
    "rss_kib",
    "pass",
    "skipped",
    "form",
    "seconds",
];

impl Reports {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Keeps a line, and one line for each request beside it.
    pub(crate) fn keep(&self, line: &Value, records: &Records) {
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        let name = format!("{}-{}-{}", text("name"), text("sut"), text("form"));
        fs::create_dir_all(&self.folder).unwrap();
        fs::write(self.folder.join(format!("{name}.json")), format!("{line}\n")).unwrap();
        fs::write(self.folder.join(format!("{name}.records")), records.lines()).unwrap();
    }

    /// One row for each run that is kept, in the order of the catalogue, as Markdown.
    pub(crate) fn table(&self) -> String {
        let mut text = String::from(
            "| fault | proxy | form | n | requests | failed | p99 (idle), ms | RSS, MiB | took | result |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for line in self.lines() {
            writeln!(text, "{}", row(&line)).unwrap();
        }
        text
    }

    fn lines(&self) -> Vec<Value> {
        let files = fs::read_dir(&self.folder).map(|files| files.filter_map(Result::ok)).into_iter().flatten();
        let mut paths: Vec<_> = files.map(|file| file.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        let mut lines: Vec<Value> = paths
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .filter_map(|text| serde_json::from_str(&text).ok())
            .collect();
        let place = |line: &Value| FAULTS.iter().position(|fault| line["name"] == fault.name);
        lines.sort_by_key(place);
        lines
    }
}

fn row(line: &Value) -> String {
    let word = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let result = match (&line["pass"], line["skipped"].as_str()) {
        (_, Some(why)) => format!("skipped: {why}"),
        (Value::Bool(true), _) => "pass".into(),
        _ => "**missed**".into(),
    };
    let rest: Vec<String> = line
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| !COMMON.contains(&name.as_str()) && !value.is_null())
        .map(|(name, value)| format!("{name} {}", brief(value)))
        .collect();
    let failures = match line["failures"].as_object() {
        Some(kinds) if !kinds.is_empty() => {
            format!(" ({})", kinds.iter().map(|(kind, n)| format!("{kind} {n}")).collect::<Vec<_>>().join(", "))
        }
        _ => String::new(),
    };
    let details = if rest.is_empty() { String::new() } else { format!(": {}", rest.join(", ")) };
    format!(
        "| {} {} | {} | {} | {} | {} | {}{failures} | {} ({}) | {} | {} s | {result}{details} |",
        word("id"),
        word("name"),
        word("sut"),
        word("form"),
        line["n"],
        line["requests"],
        line["failed"],
        line["p99_ms"],
        line["p99_idle_ms"],
        line["rss_kib"].as_u64().unwrap_or_default() / 1024,
        line["seconds"],
    )
    .replace('\n', " ")
}

/// A value as a cell can hold it: lists by their length, objects by their numbers.
fn brief(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().take(160).collect::<String>().replace('|', "/"),
        Value::Array(list) => list.len().to_string(),
        Value::Object(fields) => {
            let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name} {}", brief(value))).collect();
            fields.join(" ")
        }
        other => other.to_string(),
    }
}
