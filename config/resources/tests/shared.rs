//! What users and Istio itself write: everything in `shared/` is applied, skipped or reported with its line.
//!
//! The folder is `$TIDEGATE_SHARED`, or `../shared` beside the workspace. Without it these tests have nothing to read
//! and say so; the crate's own fixtures do not need it.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests fail and speak as tests do")]

use std::path::{Path, PathBuf};

use tidegate_core::{Diagnostic, Kind, Level};
use tidegate_resources::{ParseOptions, Parsed, parse, parse_bytes, validate};

fn shared() -> Option<PathBuf> {
    let folder = match std::env::var_os("TIDEGATE_SHARED") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    if !folder.is_dir() {
        println!("no folder {}: set TIDEGATE_SHARED to run this test on it", folder.display());
        return None;
    }
    Some(folder)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "json") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Errors of parsing and of validation.
fn errors(parsed: &Parsed) -> Vec<Diagnostic> {
    let validated = parsed.objects.iter().flat_map(validate);
    parsed.diagnostics.iter().cloned().chain(validated).filter(|found| found.level == Level::Error).collect()
}

#[test]
fn the_validation_corpus_is_accepted_and_rejected_as_by_istio() {
    let Some(shared) = shared() else { return };
    let mut judged = 0;
    for path in files(&shared.join("corpus/validate")) {
        let text = std::fs::read_to_string(&path).unwrap();
        for document in text.split("\n---\n") {
            let should_fail = document.lines().any(|line| line.starts_with("_err:"));
            let document: String =
                document.lines().filter(|line| !line.starts_with("_err:")).flat_map(|line| [line, "\n"]).collect();
            let parsed = parse("document.yaml", &document, &ParseOptions::default());
            let errors = errors(&parsed);
            if parsed.objects.is_empty() && errors.is_empty() {
                // Another kind, or comments only.
                continue;
            }
            judged += 1;
            let verdict = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            assert_eq!(should_fail, !errors.is_empty(), "{}\n{document}\n{verdict}", path.display());
            for error in &errors {
                assert!(error.origin.position.line > 0, "{error}");
            }
        }
    }
    assert!(judged > 30, "only {judged} documents were of our kinds");
}

#[test]
fn every_sample_is_applied_or_skipped_or_reported_with_its_line() {
    let Some(shared) = shared() else { return };
    for path in files(&shared.join("samples")) {
        let bytes = std::fs::read(&path).unwrap();
        let name = path.display().to_string();
        let parsed = parse_bytes(&name, &bytes, &ParseOptions::default());
        let found = parsed.objects.len() + parsed.skipped.len() + parsed.diagnostics.len();
        assert!(found > 0, "{name} came to nothing");
        for object in &parsed.objects {
            assert!(object.origin.position.line > 0, "{}", object.key);
        }
        for skipped in &parsed.skipped {
            assert!(skipped.origin.position.line > 0 && !skipped.kind.is_empty(), "{skipped:?}");
        }
        let refused = name.ends_with("mesh-arena-weights-as-printed.yaml");
        let errors = errors(&parsed);
        assert_eq!(refused, !errors.is_empty(), "{name}: {errors:#?}");
        for found in parsed.diagnostics.iter().chain(&errors) {
            assert!(found.origin.position.line > 0, "{found}");
        }
    }
}

#[test]
fn documents_that_may_be_secrets_are_read_as_all_others() {
    let Some(shared) = shared() else { return };
    let mut compared = 0;
    for folder in ["corpus", "samples"] {
        for path in files(&shared.join(folder)) {
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            for document in text.split("\n---\n").filter(|document| !document.to_lowercase().contains("secret")) {
                // The word in a comment is enough for the other way of reading.
                let plain = parse("f.yaml", &format!("{document}\n# ......\n"), &ParseOptions::default());
                let careful = parse("f.yaml", &format!("{document}\n# Secret\n"), &ParseOptions::default());
                let key = |parsed: &Parsed| -> Vec<_> {
                    let object = |object: &tidegate_resources::Object| {
                        (object.key.clone(), object.spec.clone(), object.spans.clone(), object.origin.clone())
                    };
                    parsed.objects.iter().map(object).collect()
                };
                assert_eq!(key(&plain), key(&careful), "{}\n{document}", path.display());
                let places = |parsed: &Parsed| -> Vec<_> {
                    parsed
                        .diagnostics
                        .iter()
                        .map(|found| (found.code, found.key.clone(), found.origin.clone()))
                        .collect()
                };
                assert_eq!(places(&plain), places(&careful), "{}\n{document}", path.display());
                compared += plain.objects.len();
            }
        }
    }
    assert!(compared > 100, "only {compared} objects were compared");
}

#[test]
fn a_weight_inside_destination_is_refused_with_the_mend() {
    let Some(shared) = shared() else { return };
    let text = std::fs::read_to_string(shared.join("samples/seeds/mesh-arena-weights-as-printed.yaml")).unwrap();
    let parsed = parse("weights.yaml", &text, &ParseOptions::default());
    assert!(parsed.objects.is_empty());
    let errors = errors(&parsed);
    let lines: Vec<_> = errors.iter().map(|error| error.origin.position.line).collect();
    assert_eq!(lines, [14, 18]);
    for error in &errors {
        assert_eq!(error.help.as_deref(), Some("`weight` belongs beside `destination`, in the same list entry"));
        assert_eq!(error.key.as_ref().map(|key| key.kind), Some(Kind::VirtualService));
    }
    assert_eq!(errors[0].path, "spec.http[0].route[0].destination.weight");
}
