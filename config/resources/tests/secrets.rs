//! Secrets: what is read of them, and that nothing that is said or kept shows them.

use tidegate_core::{Code, Kind, Level, ResourceKey, SecretBytes};
use tidegate_resources::{Object, ParseOptions, Parsed, Secret, Spec, parse, validate};

/// Stands for a key in every form that a file may hold it.
const MARKER: &str = "kEyMaTeRiAl";

fn read(text: &str) -> Parsed {
    parse("s.yaml", text, &ParseOptions::default())
}

#[track_caller]
fn object(text: &str) -> Object {
    let mut parsed = read(text);
    assert_eq!(parsed.diagnostics, []);
    parsed.objects.remove(0)
}

fn secret(object: &Object) -> &Secret {
    match &object.spec {
        Spec::Secret(secret) => secret,
        other => panic!("{other:?}"),
    }
}

const WRITTEN: &str = "# a comment
apiVersion: v1
kind: Secret
metadata:
  name: a
type: kubernetes.io/tls
data:
  tls.key: c2VjcmV0
  ca.crt: b2xk
stringData:
  tls.crt: |
    first
    second
  ca.crt: new
";

#[test]
fn entries_come_from_both_fields_and_the_plain_text_wins() {
    let object = object(WRITTEN);
    let secret = secret(&object);
    let entries: Vec<_> = secret.entries().map(|(name, bytes)| (name, bytes.as_slice())).collect();
    assert_eq!(entries, [("ca.crt", &b"new"[..]), ("tls.crt", b"first\nsecond\n"), ("tls.key", b"secret")]);
    for (name, bytes) in secret.entries() {
        assert_eq!(secret.get(name), Some(bytes), "{name}");
    }
    assert_eq!(secret.get("other"), None);
}

#[test]
fn every_entry_has_a_place() {
    let object = object(WRITTEN);
    let secret = secret(&object);
    let check = |name: &str, path: &str, place: &str| {
        assert_eq!(secret.entry_path(name), path);
        assert_eq!(object.origin_of(path).to_string(), place);
    };
    check("tls.key", "data[\"tls.key\"]", "s.yaml:8:12");
    check("tls.crt", "stringData[\"tls.crt\"]", "s.yaml:12:5");
    check("ca.crt", "stringData[\"ca.crt\"]", "s.yaml:14:11");
    check("missing", "data", "s.yaml:7:1");
    let map =
        read("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  ca.crt: x\nbinaryData:\n  ca.crl: eA==\n");
    let Spec::ConfigMap(config) = &map.objects[0].spec else { panic!() };
    assert_eq!((config.get("ca.crt"), config.get("ca.crl")), (Some(&b"x"[..]), Some(&b"x"[..])));
    assert_eq!(map.objects[0].origin_of(&config.entry_path("ca.crl")).to_string(), "s.yaml:7:11");
}

#[test]
fn clones_share_their_bytes() {
    let object = object(WRITTEN);
    let copy = object.clone();
    let of = |object: &Object| secret(object).get("tls.key").map(|bytes| bytes.as_slice().as_ptr());
    assert_eq!(of(&object), of(&copy));
}

#[test]
fn names_of_entries_are_checked() {
    let check = |entries: &str, expected: &[&str]| {
        let parsed = read(&format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\nstringData: {entries}\n"));
        let found: Vec<_> = parsed.objects.iter().flat_map(validate).map(|found| found.path).collect();
        assert_eq!(found, expected, "{entries}");
    };
    check("{tls.crt: x, a_b-c.D: x, .x: x}", &[]);
    check("{'a b': x}", &["stringData[\"a b\"]"]);
    check("{'': x}", &["stringData[\"\"]"]);
    check("{..: x}", &["stringData[\"..\"]"]);
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: x}\nbinaryData: {a: eA==}\n";
    let found: Vec<_> = read(map).objects.iter().flat_map(validate).map(|found| found.path).collect();
    assert_eq!(found, ["binaryData.a"]);
}

#[test]
fn nothing_that_is_said_about_a_broken_secret_quotes_it() {
    let base64 = format!("LS0tLS1CRUdJTi{MARKER}");
    let pem = format!("-----BEGIN PRIVATE KEY----- {MARKER}");
    let head = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n";
    let documents = [
        format!("{head}data: {base64}\n"),
        format!("{head}data: {pem}\n"),
        format!("{head}data: [{base64}]\n"),
        format!("{head}data: {{tls.key: [{base64}]}}\n"),
        format!("{head}data: {{tls.key: {{{base64}: x}}}}\n"),
        format!("{head}data: {{tls.key: '${MARKER}'}}\n"),
        format!("{head}data: {{tls.key: ={MARKER}}}\n"),
        format!("{head}data: {{tls.key: null, tls.crt: {MARKER}*}}\n"),
        format!("{head}stringData: {{tls.key: [{MARKER}]}}\n"),
        format!("{head}stringData: {MARKER}\n"),
        format!("{head}stringData:\n  tls.key: |\n{pem}\n  more\n"),
        format!("{head}stringData:\n  tls.key: \"{pem}\n"),
        format!("{head}stringData:\n  tls.key: {pem}: {MARKER}\n"),
        format!("{head}data: {{}}\n{}{MARKER}: x\n", "M".repeat(60)),
        format!("{head}immutable: {MARKER}\ntype: [{MARKER}]\n"),
        format!("{head}data:\n  tls.key: {MARKER}==\n  tls.key: {MARKER}==\n"),
        format!("apiVersion: v1\nkind: Secret\nmetadata: {MARKER}\n"),
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: a, labels: {MARKER}}}\n"),
        format!("apiVersion: v1\nkind: List\nitems: [{pem}, {base64}]\n"),
        format!("apiVersion: v1\nkind: SecretList\nitems: [{MARKER}]\n"),
        format!("{pem}\n"),
        format!("{base64}\n"),
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a}}\ndata: '{pem}'\n"),
        format!(
            "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: a}}\nspec:\n  servers: {base64}\n"
        ),
        format!("{head}data: {{a: 1{0}, b: 0x1}}\nstringData: {{a: 98765432109876543210, b: true}}\n", "0".repeat(4)),
    ];
    for document in documents {
        let parsed = read(&document);
        let validated = parsed.objects.iter().flat_map(validate);
        let found: Vec<_> = parsed.diagnostics.iter().cloned().chain(validated).collect();
        assert!(!found.is_empty(), "{document}");
        let said = format!("{parsed:?} {found:?} {}", found.iter().map(ToString::to_string).collect::<String>());
        assert!(!said.contains(MARKER) && !said.contains("98765432"), "{document}\n{said}");
    }
}

#[test]
fn a_broken_secret_is_named_with_its_place() {
    let parsed = read("apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: web}\ndata:\n  tls.key: '*'\n");
    assert!(parsed.objects.is_empty());
    let found = &parsed.diagnostics[0];
    assert_eq!(found.key, Some(ResourceKey::local(Kind::Secret, "web", "a")));
    assert_eq!((found.code, found.level), (Code::SCHEMA, Level::Error));
    assert_eq!(found.origin.to_string(), "s.yaml:5:12");
    let parsed = read("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {tls.key: 5}\n");
    let found = &parsed.diagnostics[0];
    assert_eq!((found.message.as_str(), found.help.as_deref()), ("expected a text, found a number", Some("quote it")));
}

#[test]
fn no_other_part_of_an_object_keeps_the_bytes() {
    let text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n  annotations:\n    \
         kubectl.kubernetes.io/last-applied-configuration: '{{\"data\":{{\"tls.key\":\"{MARKER}\"}}}}'\n    other: kept\n  \
         managedFields: [{{x: {MARKER}}}]\nstringData: {{tls.key: {MARKER}}}\n"
    );
    let object = object(&text);
    assert_eq!(object.metadata.annotations.keys().collect::<Vec<_>>(), ["other"]);
    assert_eq!(&*object.source, "");
    assert!(!format!("{object:?}").contains(MARKER));

    // Two documents of which `...` is the border.
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: web}}\n...\napiVersion: v1\nkind: Secret\nmetadata: {{name: \
         a}}\nstringData: {{tls.key: {MARKER}}}\n"
    );
    let parsed = read(&text);
    assert_eq!(parsed.objects.len(), 2, "{:?}", parsed.diagnostics);
    assert!(parsed.objects.iter().all(|object| !object.source.contains(MARKER)));
}

#[test]
fn lists_flow_forms_and_anchors_give_the_same_bytes() {
    let bytes = |text: &str| {
        let object = object(text);
        secret(&object).get("tls.key").cloned()
    };
    let expected = Some(SecretBytes::new(b"secret\n".to_vec()));
    let head = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n";
    assert_eq!(bytes(&format!("{head}stringData:\n  tls.key: |\n    secret\n")), expected);
    assert_eq!(bytes(&format!("{head}stringData: {{\n\"tls.key\": \"secret\\n\"\n}}\n")), expected);
    assert_eq!(bytes(&format!("{head}data: {{x: &k c2VjcmV0Cg==, tls.key: *k}}\n")), expected);
    assert_eq!(bytes(&format!("{head}data:\n  tls.key: |\n    c2Vj\n    cmV0Cg==\n")), expected);
    assert_eq!(
        bytes(
            r#"{"apiVersion":"v1","kind":"SecretList","items":[{"metadata":{"name":"a"},"data":{"tls.key":"c2VjcmV0Cg=="}}]}"#
        ),
        expected
    );
}

/// A sequence without an obvious order (Knuth's multiplicative generator).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit.max(1)
    }
}

#[test]
fn however_a_secret_is_broken_it_is_not_quoted() {
    const KEY: &str = "Q3J5cHRvZ3JhcGh5SXNGdW5CdXRLZXlzQXJlTm90Rm9yU2hvd0luZ0FueVdoZXJl";
    let documents = [
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\n  labels: {{x: z}}\ndata:\n  tls.key: {KEY}\n  b: {KEY}\n"
        ),
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: a\nstringData:\n  tls.key: |\n    -----BEGIN PRIVATE KEY-----\n    \
             {KEY}\n    {KEY}\n    -----END PRIVATE KEY-----\n  tls.crt: \"{KEY}\"\n"
        ),
        format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Secret\", \"metadata\": {{\"name\": \"a\"}}, \"data\": {{\"k\": \"{KEY}\"}}}}\n"
        ),
        format!(
            "apiVersion: v1\nkind: List\nitems:\n- kind: Secret\n  apiVersion: v1\n  metadata: {{name: a}}\n  data: {{k: {KEY}}}\n"
        ),
    ];
    let snippets = [
        "\n", "  ", ":", ": ", "- ", "\"", "'", "[", "]", "{", "}", ",", "#", "&a ", "*a", "|", "? ", "<<: ", "---\n",
        "!!int ",
    ];
    let mut random = Random(1);
    let mut broken = 0;
    for round in 0..20_000 {
        let mut text = documents[round % documents.len()].clone();
        for _ in 0..=random.below(3) {
            let at = random.below(text.len());
            match random.below(3) {
                0 => text.replace_range(at..(at + 1 + random.below(12)).min(text.len()), ""),
                1 => text.insert_str(at, snippets[random.below(snippets.len())]),
                _ => {
                    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
                    let (from, to) = (random.below(lines.len()), random.below(lines.len()));
                    let mut lines = lines;
                    let line = lines.remove(from);
                    lines.insert(to.min(lines.len()), line);
                    text = lines.join("\n");
                }
            }
            if text.is_empty() {
                break;
            }
        }
        let parsed = read(&text);
        broken += usize::from(!parsed.diagnostics.is_empty());
        let found = parsed.objects.iter().flat_map(validate).chain(parsed.diagnostics.iter().cloned());
        let mut said = format!("{:?}{:?}", parsed.skipped, parsed.objects);
        for finding in found {
            said.push_str(&finding.to_string());
        }
        for at in 0..KEY.len() - 16 {
            assert!(!said.contains(&KEY[at..at + 16]), "{text}\n=>\n{said}");
        }
    }
    assert!(broken > 5_000, "{broken}");
}
