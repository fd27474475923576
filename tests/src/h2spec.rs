//! h2spec, the conformance suite of HTTP/2 (RFC 7540, RFC 7541), and how its report is read.
//!
//! A case has the address that h2spec itself has for it: `http2/3.5/2` is the second case of section 3.5, and
//! `h2spec http2/3.5/2` runs it alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Longer than all cases together, each of them running into h2spec's own timeout.
const PATIENCE: Duration = Duration::from_secs(420);

/// Time that h2spec waits for each thing that it expects, in seconds.
const TIMEOUT: &str = "2";

/// What h2spec is spoken to over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Plaintext with prior knowledge.
    H2c,
    Tls,
}

impl Transport {
    pub const ALL: [Transport; 2] = [Transport::H2c, Transport::Tls];

    pub fn name(self) -> &'static str {
        match self {
            Transport::H2c => "h2c",
            Transport::Tls => "tls",
        }
    }
}

/// How one case went.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Passed,
    Skipped,
    /// What was required, and what came instead.
    Failed(String),
}

/// One case of the suite.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// `http2/3.5/2`.
    pub id: String,
    pub title: String,
    pub outcome: Outcome,
}

/// Where `sh tests/setup.sh h2spec` puts it, else the one on the `PATH`; none if there is none.
pub fn binary() -> Option<PathBuf> {
    let own = crate::process::target().join("h2spec/h2spec");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let named = std::env::split_paths(&path).map(|folder| folder.join("h2spec"));
    std::iter::once(own).chain(named).find(|file| file.is_file())
}

/// Runs every case, the strict ones too.
///
/// # Panics
/// If h2spec cannot be run, hangs or writes no report.
pub async fn run(binary: &Path, address: SocketAddr, transport: Transport) -> Vec<Case> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let report = folder.path().join("report.xml");
    let mut command = Command::new(binary);
    command.args(["--strict", "--timeout", TIMEOUT, "--host", &address.ip().to_string()]);
    command.args(["--port", &address.port().to_string(), "--junit-report"]).arg(&report);
    if transport == Transport::Tls {
        command.args(["--tls", "--insecure"]);
    }
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("h2spec ends by itself").expect("h2spec starts");
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    let cases = cases(&text);
    assert!(!cases.is_empty(), "h2spec made no report: {}", String::from_utf8_lossy(&output.stdout));
    cases
}

/// The cases of a JUnit report as h2spec writes it.
pub fn cases(report: &str) -> Vec<Case> {
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    report
        .split("<testcase ")
        .skip(1)
        .filter_map(|text| {
            let (attributes, rest) = text.split_once('>')?;
            let section = attribute(attributes, "package")?;
            let number = numbers.entry(section.clone()).or_default();
            *number += 1;
            let id = format!("{section}/{number}");
            let body = rest.split("</testcase>").next().unwrap_or_default();
            let outcome = if let Some(why) = element(body, "failure").or_else(|| element(body, "error")) {
                Outcome::Failed(why)
            } else if body.contains("<skipped") {
                Outcome::Skipped
            } else {
                Outcome::Passed
            };
            Some(Case { id, title: attribute(attributes, "classname")?, outcome })
        })
        .collect()
}

fn attribute(attributes: &str, name: &str) -> Option<String> {
    let (_, rest) = attributes.split_once(&format!("{name}=\""))?;
    Some(unescape(rest.split('"').next()?))
}

/// The text of the first element of that name, on one line.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}"))?;
    let (_, rest) = rest.split_once('>')?;
    let inner = unescape(rest.split(&format!("</{name}>")).next()?);
    Some(inner.lines().map(str::trim).collect::<Vec<_>>().join("; "))
}

fn unescape(text: &str) -> String {
    let pairs = [("&lt;", "<"), ("&gt;", ">"), ("&#34;", "\""), ("&#39;", "'"), ("&#xA;", "\n"), ("&#x9;", "\t")];
    let text = pairs.iter().fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain));
    // Last: what it stood for must not be read again.
    text.replace("&amp;", "&")
}

/// Failures that are known, with the reason of each.
#[derive(Default, Debug)]
pub struct Accepted(BTreeMap<(String, String), String>);

impl Accepted {
    /// Lines of `TRANSPORT CASE reason`; empty lines and those that begin with `#` say nothing.
    ///
    /// # Errors
    /// The first line that has no reason, or another transport.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut known = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.splitn(3, ' ');
            let (Some(transport), Some(case), Some(reason)) = (words.next(), words.next(), words.next()) else {
                return Err(format!("no reason is given in {line:?}"));
            };
            if !Transport::ALL.iter().any(|it| it.name() == transport) {
                return Err(format!("no such transport in {line:?}"));
            }
            known.insert((transport.to_owned(), case.to_owned()), reason.to_owned());
        }
        Ok(Self(known))
    }

    pub fn reason(&self, transport: Transport, case: &str) -> Option<&str> {
        self.0.get(&(transport.name().to_owned(), case.to_owned())).map(String::as_str)
    }

    /// The cases that are accepted on a transport.
    pub fn cases(&self, transport: Transport) -> impl Iterator<Item = &str> {
        self.0.keys().filter(move |(on, _)| on == transport.name()).map(|(_, case)| case.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<testsuites>
  <testsuite name="3.5. HTTP/2 Connection Preface" package="http2/3.5" id="3.5" tests="2" failures="0" errors="1">
    <testcase package="http2/3.5" classname="Sends client connection preface" time="0.0004"></testcase>
    <testcase package="http2/3.5" classname="Sends &#34;invalid&#34; preface &amp;lt;" time="0.0005">
      <error>Connection closed
Error: not &lt;closed&gt;</error>
    </testcase>
  </testsuite>
  <testsuite name="4.1. Frame Format" package="http2/4.1" id="4.1" tests="1" skipped="1" failures="0" errors="0">
    <testcase package="http2/4.1" classname="Sends a frame" time="0"><skipped></skipped></testcase>
  </testsuite>
</testsuites>"#;

    #[test]
    fn a_report_is_read_case_by_case() {
        let case = |id: &str, title: &str, outcome| Case { id: id.into(), title: title.into(), outcome };
        let failed = Outcome::Failed("Connection closed; Error: not <closed>".into());
        let expected = vec![
            case("http2/3.5/1", "Sends client connection preface", Outcome::Passed),
            case("http2/3.5/2", "Sends \"invalid\" preface &lt;", failed),
            case("http2/4.1/1", "Sends a frame", Outcome::Skipped),
        ];
        assert_eq!(cases(REPORT), expected);
    }

    #[test]
    fn what_is_no_report_has_no_cases() {
        for text in ["", "<testsuites>", "<testcase ", "<testcase package=\"a\" classname=\"b\""] {
            assert_eq!(cases(text), [], "{text}");
        }
    }

    #[test]
    fn a_failure_is_accepted_on_its_transport_only() {
        let accepted = Accepted::parse("# known\n\nh2c http2/3.5/2 the port speaks HTTP/1.1 too\n").unwrap();
        assert_eq!(accepted.reason(Transport::H2c, "http2/3.5/2"), Some("the port speaks HTTP/1.1 too"));
        assert_eq!(accepted.reason(Transport::Tls, "http2/3.5/2"), None);
        assert_eq!(accepted.cases(Transport::H2c).collect::<Vec<_>>(), ["http2/3.5/2"]);
    }

    #[test]
    fn a_failure_without_a_reason_is_not_accepted() {
        assert!(Accepted::parse("h2c http2/3.5/2").is_err());
        assert!(Accepted::parse("quic http2/3.5/2 because").is_err());
    }
}
