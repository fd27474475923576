//! The arrows between the crates of this workspace, as the code map in ARCHITECTURE.md draws them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Each crate of ours and the crates of ours that it may use. The binary may use all.
const ARROWS: [(&str, &[&str]); 13] = [
    ("tidegate-core", &[]),
    ("tidegate-http2", &[]),
    ("tidegate-resources", &["tidegate-core"]),
    ("tidegate-snapshot", &["tidegate-core"]),
    ("tidegate-compiler", &["tidegate-core", "tidegate-resources", "tidegate-snapshot"]),
    ("tidegate-mesh-bridge", &["tidegate-core", "tidegate-resources", "tidegate-snapshot"]),
    ("tidegate-sds", &["tidegate-core"]),
    ("tidegate-sds-wire", &["tidegate-core", "tidegate-sds"]),
    ("tidegate-acme", &["tidegate-core", "tidegate-sds"]),
    ("tidegate-proxy", &["tidegate-core", "tidegate-http2", "tidegate-sds", "tidegate-snapshot"]),
    ("tidegate-admin", &["tidegate-core", "tidegate-resources", "tidegate-snapshot"]),
    ("tidegate-tests", &[]),
    ("tidegate-micro", &[]),
];

fn packages() -> Vec<Value> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice::<Value>(&output.stdout).unwrap()["packages"].as_array().unwrap().clone()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Dependencies of each package, without those that only its tests use.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let of = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap();
        all.iter()
            .filter(|dependency| dependency["kind"] != "dev")
            .map(|dependency| text(&dependency["name"]))
            .collect()
    };
    packages().iter().map(|package| (text(&package["name"]), of(package))).collect()
}

#[test]
fn crates_use_only_the_crates_that_the_code_map_allows() {
    let dependencies = dependencies();
    let arrows = BTreeMap::from(ARROWS);
    for (name, uses) in &dependencies {
        if name == "tidegate" {
            continue;
        }
        let allowed = arrows.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the code map"));
        for used in uses.iter().filter(|used| dependencies.contains_key(*used)) {
            assert!(allowed.contains(&used.as_str()), "{name} must not use {used}");
        }
    }
    assert!(dependencies.contains_key("tidegate") && dependencies.len() >= arrows.len(), "{dependencies:?}");
}

#[test]
fn the_data_plane_sees_no_yaml_and_the_pure_crates_do_no_io() {
    let dependencies = dependencies();
    let pure = ["tidegate-core", "tidegate-http2", "tidegate-snapshot", "tidegate-resources", "tidegate-compiler"];
    for name in pure {
        for used in &dependencies[name] {
            let io = ["tokio", "notify", "hyper", "hyper-util", "axum", "socket2", "hickory-resolver", "arc-swap"];
            assert!(!io.contains(&used.as_str()), "{name} must not use {used}");
        }
    }
    for name in ["tidegate-proxy", "tidegate-snapshot"] {
        for used in &dependencies[name] {
            assert!(!used.contains("yaml") && !used.contains("saphyr") && used != "kube", "{name} must not use {used}");
        }
    }
}

#[test]
fn names_and_licence_are_the_projects() {
    for package in packages() {
        let name = text(&package["name"]);
        assert!(name == "tidegate" || name.starts_with("tidegate-"), "{name}");
        assert_eq!(package["license"], "Apache-2.0", "{name}");
        assert_eq!(package["publish"], serde_json::json!([]), "{name} is not for a registry");
    }
}
