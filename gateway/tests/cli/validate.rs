//! `tidegate validate`: what it accepts, what it says, how it ends.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common::{fixtures, run, run_with, shared};

/// A mistake that people make: the weight inside the destination.
const MISPLACED_WEIGHT: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: cart
spec:
  hosts: [cart.example.com]
  http:
  - route:
    - destination:
        host: cart
        weight: 75
";

const VALID: &str = "\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata:
  name: front
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*']
";

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn path(folder: &tempfile::TempDir, name: &str) -> String {
    folder.path().join(name).display().to_string()
}

#[test]
fn valid_files_are_named_as_istioctl_names_them() {
    let folder = folder(&[("a.yaml", VALID)]);
    let file = path(&folder, "a.yaml");
    let run = run(["validate", "-f", &file]);
    assert_eq!(run.stdout, format!("\"{file}\" is valid\n"));
    assert_eq!((run.stderr.as_str(), run.code), ("", Some(0)));
}

#[test]
fn rejected_objects_are_listed_in_istioctls_shape() {
    let folder = folder(&[("a.yaml", MISPLACED_WEIGHT)]);
    let run = run(["validate", "-f", &path(&folder, "a.yaml")]);
    assert_eq!(run.code, Some(79), "{run:?}");
    assert!(run.stderr.starts_with("Error: 1 error occurred:\n\t* VirtualService/default/cart: "), "{}", run.stderr);
    assert!(run.stderr.contains("weight"), "{}", run.stderr);
    assert!(run.stderr.contains("a.yaml:11:9)"), "{}", run.stderr);
    assert!(!run.stdout.contains("is valid"));
}

#[test]
fn snippets_show_the_line_and_the_mend() {
    let folder = folder(&[("a.yaml", MISPLACED_WEIGHT)]);
    let run = run(["validate", "-f", &path(&folder, "a.yaml"), "-o", "pretty"]);
    assert_eq!(run.code, Some(79));
    let out = &run.stdout;
    assert!(out.starts_with("error[IST0106]: "), "{out}");
    assert!(out.contains("a.yaml:11:9\n"), "{out}");
    assert!(out.contains("11 |         weight: 75\n"), "{out}");
    assert!(out.contains("   |         ^^^^^^ "), "{out}");
    assert!(out.contains("= help: ") && out.contains("beside `destination`"), "{out}");
    assert!(out.contains("= note: in VirtualService default/cart\n"), "{out}");
    assert!(!out.contains('\u{1b}'), "{out}");
}

#[test]
fn colours_are_there_on_demand_only() {
    let folder = folder(&[("a.yaml", MISPLACED_WEIGHT)]);
    let file = path(&folder, "a.yaml");
    let colored = run(["validate", "-f", &file, "--color", "always"]);
    assert!(colored.stdout.contains("\u{1b}["), "{}", colored.stdout);
    assert!(colored.stdout.contains("IST0106"));
    let plain = run(["validate", "-f", &file, "--color", "never", "-o", "pretty"]);
    assert!(!plain.stdout.contains('\u{1b}'));
}

#[test]
fn findings_have_the_fields_of_istioctl_analyze() {
    let folder = folder(&[("a.yaml", MISPLACED_WEIGHT)]);
    let file = path(&folder, "a.yaml");
    let run = run(["validate", "-f", &file, "-o", "json"]);
    assert_eq!(run.code, Some(79));
    let findings: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let finding = &findings[0];
    assert_eq!(finding["code"], "IST0106");
    assert_eq!(finding["level"], "Error");
    assert_eq!(finding["origin"], "VirtualService default/cart");
    assert_eq!(finding["reference"], format!("{file}:11:9"));
    assert_eq!((finding["line"].as_u64(), finding["column"].as_u64()), (Some(11), Some(9)));
    assert!(finding["message"].as_str().unwrap().contains("weight"));
    assert!(finding["help"].as_str().unwrap().contains("beside `destination`"));
}

#[test]
fn folders_are_read_to_their_leaves_without_hidden_files() {
    let folder = folder(&[
        ("a.yaml", VALID),
        ("deep/er/b.yml", MISPLACED_WEIGHT),
        (".hidden.yaml", "nonsense: ["),
        ("notes.txt", "not for us"),
    ]);
    let run = run(["validate", &folder.path().display().to_string(), "-o", "table"]);
    assert_eq!(run.code, Some(79));
    assert_eq!(run.stdout.lines().count(), 2, "{}", run.stdout);
    assert!(run.stdout.lines().nth(1).unwrap().contains("deep/er/b.yml:11:9"), "{}", run.stdout);
}

#[test]
fn standard_input_is_dash() {
    let good = run_with(["validate", "-f", "-"], Some(VALID));
    assert_eq!((good.stdout.as_str(), good.code), ("validation succeed\n", Some(0)));
    let nothing = run_with(["validate", "-f", "-"], Some("\n"));
    assert_eq!(nothing.code, Some(0));
    assert!(nothing.stdout.contains("nothing came in"), "{}", nothing.stdout);
    let table = run_with(["validate", "-f", "-", "-o", "table"], Some(VALID));
    assert_eq!((table.stdout.as_str(), table.stderr.as_str(), table.code), ("", "no findings\n", Some(0)));
    let bad = run_with(["validate", "-f", "-", "-o", "pretty"], Some(MISPLACED_WEIGHT));
    assert_eq!(bad.code, Some(79));
    assert!(bad.stdout.contains(" -:11:9\n") && bad.stdout.contains("weight: 75"), "{}", bad.stdout);
}

#[test]
fn exit_codes_tell_usage_data_and_findings_apart() {
    let folder =
        folder(&[("broken.yaml", "a: [1, 2\nb: }"), ("binary.yaml", "\0\u{1}\u{2}"), ("bad.yaml", MISPLACED_WEIGHT)]);
    let check = |arguments: &[&str], code: i32| {
        let run = run(arguments);
        assert_eq!(run.code, Some(code), "{arguments:?}: {run:?}");
        assert!(!run.stderr.is_empty(), "{arguments:?}");
    };
    check(&["validate"], 64);
    check(&["validate", "--no-such-flag"], 64);
    check(&["nonsense"], 64);
    check(&["validate", "-f", "/no/such/file.yaml"], 65);
    check(&["validate", "-f", &path(&folder, "broken.yaml")], 65);
    check(&["validate", "-f", &path(&folder, "binary.yaml")], 65);
    check(&["validate", "-f", &path(&folder, "broken.yaml"), "-f", &path(&folder, "bad.yaml")], 79);
}

#[test]
fn kinds_that_are_not_served_are_named_once() {
    let deployment = |name: &str| format!("apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\n");
    let text = format!("{}---\n{}---\n{VALID}", deployment("a"), deployment("b"));
    let folder = folder(&[("a.yaml", &text)]);
    let run = run(["validate", "-f", &path(&folder, "a.yaml")]);
    assert_eq!(run.code, Some(0));
    assert!(run.stdout.contains("a.yaml\" has warnings: \n\t* "), "{}", run.stdout);
    assert_eq!(run.stdout.matches("Deployment").count(), 1, "{}", run.stdout);
}

#[test]
fn references_are_checked_on_demand() {
    let text = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: cart
spec:
  hosts: [cart.example.com]
  gateways: [front]
  http:
  - route:
    - destination:
        host: no-such-service
";
    let folder = folder(&[("a.yaml", VALID), ("b.yaml", text)]);
    let arguments = ["validate".to_owned(), folder.path().display().to_string()];
    assert_eq!(run(&arguments).code, Some(0));
    assert_eq!(run(arguments.iter().map(String::as_str).chain(["--referential=false"])).code, Some(0));
    let run = run(arguments.iter().map(String::as_str).chain(["-x"]));
    assert_eq!(run.code, Some(79), "{run:?}");
    assert!(run.stderr.contains("no-such-service"), "{}", run.stderr);
    assert!(run.stderr.contains("b.yaml:1"), "{}", run.stderr);
}

#[test]
fn what_names_a_rejected_object_is_not_wrong_itself() {
    let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: default}\nspec:\n  \
                   selector: {istio: ingressgateway}\n  servers:\n  - port: {number: 80, name: http, protocol: HTTP}\n    \
                   hosts: [a.com]\n    nonsense: 1\n";
    let routes = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: default}\nspec: \
                  {hosts: [a.com], gateways: [edge], http: [{directResponse: {status: 200}}]}\n";
    let files = folder(&[("gateway.yaml", gateway), ("routes.yaml", routes)]);
    let run = run(["validate", "-x", "-o", "json", "-f", &path(&files, "")]);
    let findings: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let errors = findings.as_array().unwrap().iter().filter(|finding| finding["level"] == "Error").count();
    assert_eq!((run.code, errors), (Some(79), 1), "{findings:#}");
    assert!(findings.to_string().contains("Gateway default/edge is rejected ("), "{findings:#}");
    assert!(!findings.to_string().contains("there is no Gateway"), "{findings:#}");
}

#[test]
fn an_acme_certificate_that_cannot_be_proved_or_is_named_by_nobody_is_told() {
    let acme = "apiVersion: tidegate.io/v1alpha1\nkind: AcmeCertificate\nmetadata: {name: shop, namespace: istio-system}\n\
                spec: {dnsNames: [a.com]}\n";
    let said = |gateway: &str| {
        let files = folder(&[("acme.yaml", acme), ("gateway.yaml", gateway)]);
        let run = run(["validate", "-x", "-o", "json", "-f", &path(&files, "")]);
        assert_eq!(run.code, Some(0), "{}", run.stdout);
        run.stdout
    };
    let gateway = |servers: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g, namespace: istio-system}}\nspec:\n  \
             selector: {{istio: ingressgateway}}\n  servers:\n{servers}"
        )
    };
    let https = "  - port: {number: 443, name: s, protocol: HTTPS}\n    hosts: [a.com]\n    tls: {mode: SIMPLE, \
                 credentialName: shop}\n";
    let http = "  - port: {number: 80, name: h, protocol: HTTP}\n    hosts: [a.com]\n";
    let alone = said(&gateway(https));
    assert!(alone.contains("HTTP-01 is answered there") && !alone.contains("for nobody"), "{alone}");
    let unnamed = said(&gateway(http));
    assert!(!unnamed.contains("HTTP-01") && unnamed.contains("for nobody"), "{unnamed}");
    let both = said(&gateway(&[https, http].concat()));
    assert!(!both.contains("HTTP-01") && !both.contains("for nobody"), "{both}");
}

#[test]
fn our_own_fixtures_are_valid() {
    let run = run(["validate", "shop"]);
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(fixtures().join("shop").is_dir());
}

#[test]
fn terminals_are_not_steered_by_what_files_say() {
    let text = VALID.replace("name: front", "name: \"a\\e[31mb\"");
    let folder = folder(&[("a.yaml", &text)]);
    for output in ["plain", "pretty", "table"] {
        let run = run(["validate", "-f", &path(&folder, "a.yaml"), "-o", output]);
        assert_eq!(run.code, Some(79), "{run:?}");
        assert!(!run.stdout.contains('\u{1b}') && !run.stderr.contains('\u{1b}'), "{run:?}");
    }
}

/// The kinds that Tidegate serves today; documents of others are skipped, whatever they say.
const SERVED: [&str; 5] = ["Gateway", "VirtualService", "DestinationRule", "ServiceEntry", "WorkloadEntry"];

/// Splits a file of the corpus: each document with whether it must be rejected.
fn corpus_documents(file: &Path) -> Vec<(String, bool)> {
    let text = fs::read_to_string(file).unwrap();
    let documents = format!("\n{text}").split("\n---").map(str::to_owned).collect::<Vec<_>>();
    documents
        .into_iter()
        .filter(|document| document.lines().any(|line| SERVED.iter().any(|kind| line == format!("kind: {kind}"))))
        .map(|document| {
            let rejected = document.lines().any(|line| line.starts_with("_err:"));
            // The value may go on over indented lines.
            let mut skipping = false;
            let kept = document.lines().filter(|line| {
                skipping = line.starts_with("_err:") || (skipping && line.starts_with(' '));
                !skipping
            });
            (kept.collect::<Vec<_>>().join("\n"), rejected)
        })
        .collect()
}

#[test]
fn accepts_and_rejects_what_istio_does() {
    let Some(shared) = shared() else { return };
    let corpus = shared.join("corpus/validate");
    let mut files: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.extend(fs::read_dir(corpus.join("one-of-each-kind")).unwrap().map(|entry| entry.unwrap().path()));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for file in &files {
        for (document, rejected) in corpus_documents(file) {
            let path = folder.path().join(format!("{:04}.yaml", expected.len()));
            fs::write(&path, &document).unwrap();
            expected.push((path.display().to_string(), rejected, file.clone(), document));
        }
    }
    assert!(expected.len() > 20, "the corpus has {} documents of our kinds", expected.len());
    let run = run(["validate", "-f", &folder.path().display().to_string(), "-o", "json"]);
    let findings: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let refused: BTreeSet<String> = findings
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["level"] == "Error" && finding["code"] != "TG0002")
        .map(|finding| finding["file"].as_str().unwrap().to_owned())
        .collect();
    let wrong: Vec<String> = expected
        .iter()
        .filter(|(path, rejected, ..)| refused.contains(path) != *rejected)
        .map(|(_, rejected, file, document)| {
            format!("{} must be {}:\n{document}", file.display(), if *rejected { "rejected" } else { "accepted" })
        })
        .collect();
    let agreement = 100 * (expected.len() - wrong.len()) / expected.len();
    eprintln!("{agreement} % of {} documents agree", expected.len());
    assert!(agreement >= 95, "{agreement} % of {} agree; not these:\n{}", expected.len(), wrong.join("\n---\n"));
}

#[test]
fn the_printed_slide_is_refused_with_its_mend() {
    let Some(shared) = shared() else { return };
    let file = shared.join("samples/seeds/mesh-arena-weights-as-printed.yaml").display().to_string();
    let run = run(["validate", "-f", &file, "-o", "json"]);
    assert_eq!(run.code, Some(79));
    let findings: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let errors: Vec<_> = findings.as_array().unwrap().iter().filter(|finding| finding["level"] == "Error").collect();
    assert!(!errors.is_empty());
    assert!(
        errors.iter().any(|finding| finding["help"].as_str().is_some_and(|help| help.contains("beside `destination`"))),
        "{findings}"
    );
}
