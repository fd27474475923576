//! The small commands, and how all of them behave in a shell.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Stdio};

use crate::common::{run, tidegate};

#[test]
fn version_has_three_forms() {
    let short = run(["version", "--short"]);
    assert_eq!(short.stdout, format!("{}\n", env!("CARGO_PKG_VERSION")));
    let json: serde_json::Value = serde_json::from_str(&run(["version", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["clientVersion"]["version"], env!("CARGO_PKG_VERSION"));
    let yaml = run(["version", "-o", "yaml"]).stdout;
    assert!(yaml.starts_with("clientVersion:"), "{yaml}");
    assert!(run(["--version"]).stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let run = run(["completion", shell]);
        assert_eq!(run.code, Some(0));
        assert!(run.stdout.contains("explain"), "{shell}");
    }
    assert_eq!(run(["completion", "tcsh"]).code, Some(64));
}

#[test]
fn help_teaches_by_example() {
    for arguments in [
        vec!["--help"],
        vec!["run", "--help"],
        vec!["demo", "--help"],
        vec!["validate", "--help"],
        vec!["explain", "--help"],
        vec!["certs", "--help"],
    ] {
        let run = run(&arguments);
        assert_eq!(run.code, Some(0));
        assert!(run.stdout.contains("  tidegate "), "{arguments:?}: {}", run.stdout);
    }
    let nothing = run::<&str>([]);
    assert_eq!(nothing.code, Some(64));
    assert!(nothing.stderr.contains("Usage:"), "{nothing:?}");
}

#[test]
fn a_reader_that_leaves_ends_the_output_quietly() {
    for arguments in [["completion", "bash"], ["run", "--help"], ["validate", "shop"]] {
        let mut command = tidegate();
        let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn a_gateway_that_does_not_run_is_said_so_with_what_to_do() {
    // Port 1 of loopback: nobody listens there.
    let run = run(["explain", "http://localhost/", "--admin", "127.0.0.1:1"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("127.0.0.1:1") && run.stderr.contains("help:"), "{}", run.stderr);
    assert!(run.stdout.is_empty());
}

#[test]
fn an_admin_address_needs_a_port() {
    let run = run(["explain", "http://localhost/", "--admin", "localhost"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("`localhost` is no address: write HOST:PORT"), "{}", run.stderr);
}

#[test]
fn standard_input_cannot_be_watched() {
    let run = run(["run", "--config", "-", "--state-dir", "none"]);
    assert_eq!(run.code, Some(64));
    assert!(run.stderr.contains("standard input cannot be watched") && run.stderr.contains("help:"), "{}", run.stderr);
}

#[test]
fn options_of_the_environment_are_named_beside_a_usage_error() {
    let output = tidegate().args(["run", "--to", "127.0.0.1:1"]).env("TIDEGATE_CONFIG", "shop").output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("cannot be used with") && stderr.contains("has TIDEGATE_CONFIG"), "{stderr}");
}

#[test]
fn a_configuration_without_a_port_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec:\n  selector: {istio: team-a}\n  \
                servers:\n  - port: {number: 8080, name: http, protocol: HTTP}\n    hosts: ['*']\n";
    std::fs::write(folder.path().join("gateway.yaml"), yaml).unwrap();
    let (_, told) = run_until(&["--config", &folder.path().display().to_string()], "ready:");
    let warned = told.iter().any(|line| line.contains("no port is served") && line.contains("istio=ingressgateway"));
    assert!(warned, "{told:#?}");
}

#[test]
fn a_gateway_whose_only_port_is_taken_is_not_ready() {
    let occupant = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = occupant.local_addr().unwrap().port().to_string();
    let (mut gateway, told) = run_until(&["--to", "127.0.0.1:1", "--port", &port], "not ready:");
    assert!(told.iter().any(|line| line.contains(&port) && line.contains("in use")), "{told:#?}");
    assert!(!told.iter().any(|line| line.contains(" ready:") && !line.contains("not ready:")), "{told:#?}");
    drop(occupant);
    gateway.lines(" ready: the first");
}

/// A gateway that runs until this is dropped.
struct Gateway {
    process: Child,
    stderr: BufReader<ChildStderr>,
}

impl Gateway {
    /// Log lines up to the first that contains `last`.
    #[track_caller]
    fn lines(&mut self, last: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for line in self.stderr.by_ref().lines() {
            lines.push(line.unwrap());
            if lines.last().is_some_and(|line| line.contains(last)) {
                return lines;
            }
        }
        panic!("`{last}` was not logged: {lines:#?}");
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Starts `tidegate run` without servers for operators, and reads its log up to a line that contains `last`.
#[track_caller]
fn run_until(arguments: &[&str], last: &str) -> (Gateway, Vec<String>) {
    let mut process = tidegate()
        .args(["run", "--state-dir=none", "--admin-address=none", "--stats-address=none", "--health-address=none"])
        .args(arguments)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = BufReader::new(process.stderr.take().unwrap());
    let mut gateway = Gateway { process, stderr };
    let lines = gateway.lines(last);
    (gateway, lines)
}
