//! Texts that mean harm, or that a machine made: bounded time, bounded memory, a clear finding, never a panic.

use std::time::{Duration, Instant};

use tidegate_core::Level;
use tidegate_resources::{ParseOptions, Parsed, parse, parse_bytes, validate};

fn read(text: &str) -> Parsed {
    parse("f.yaml", text, &ParseOptions::default())
}

/// Reads a text that must be refused, and says why it was. A minute is hundreds of times what it takes.
#[track_caller]
fn refused(text: &str) -> String {
    let start = Instant::now();
    let parsed = read(text);
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
    assert!(parsed.objects.is_empty());
    let first = parsed.diagnostics.first().expect("a finding");
    assert!(first.origin.position.line > 0);
    first.message.clone()
}

const HEAD: &str = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";

#[test]
fn alias_bombs_are_refused() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert_eq!(refused(&format!("{HEAD}{bomb}")), "aliases of this document copy more than 100000 values");

    let long = "x".repeat(1 << 20);
    let copies = "- *long\n".repeat(1000);
    let text = format!("{HEAD}a: &long {long}\nb:\n{copies}");
    assert_eq!(refused(&text), "aliases of this document copy more than 100000 values");
}

#[test]
fn an_alias_within_its_own_anchor_is_refused() {
    assert!(refused(&format!("{HEAD}a: &a [*a]\n")).contains("alias"));
    assert!(!refused(&format!("{HEAD}a: *nobody\n")).is_empty());
}

#[test]
fn depth_is_limited() {
    let flow = format!("{HEAD}a: {}\n", "[".repeat(100_000));
    assert!(!refused(&flow).is_empty());
    let closed = format!("{HEAD}a: {}1{}\n", "[".repeat(100), "]".repeat(100));
    assert_eq!(refused(&closed), "nested deeper than 64 levels");
    let block: String = (0..200).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    assert_eq!(refused(&block), "nested deeper than 64 levels");
    let lists = format!("a:\n  {}x\n", "- ".repeat(500));
    assert_eq!(refused(&lists), "nested deeper than 64 levels");
}

#[test]
fn a_hundred_thousand_documents_are_read() {
    let text: String = (0..100_000)
        .map(|index| format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: n{index}}}\n"))
        .collect();
    let start = Instant::now();
    let parsed = read(&text);
    assert_eq!(parsed.diagnostics, []);
    assert_eq!(parsed.objects.len(), 100_000);
    assert_eq!(parsed.objects[99_999].origin.position.line, 399_998);
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
}

#[test]
fn many_broken_documents_give_few_findings() {
    let text = "---\na: [\n".repeat(10_000);
    let parsed = read(&text);
    assert_eq!(parsed.diagnostics.len(), 21);
    assert_eq!(parsed.diagnostics[20].message, "9980 more documents of this file are no resources");
}

#[test]
fn a_config_map_is_as_large_as_kubernetes_stores_it() {
    let map = |bytes: usize| format!("{HEAD}data:\n  a: {}\n", "x".repeat(bytes));
    assert_eq!(read(&map(1 << 20)).objects.len(), 1);
    let message = refused(&map(8 << 20));
    assert!(message.ends_with("Kubernetes stores at most 1048576"), "{message}");
}

#[test]
fn long_lists_and_mappings_take_linear_time() {
    let start = Instant::now();
    let keys: String = (0..100_000).map(|index| format!("  k{index}: v\n")).collect();
    assert!(!read(&format!("{HEAD}data:\n{keys}")).objects.is_empty());
    let nulls = "- a:\n".repeat(100_000);
    read(&format!("{HEAD}binaryData:\n{nulls}"));
    let flow = format!("{HEAD}data: [{}]\n", "[a:],".repeat(50_000));
    read(&flow);
    let brackets = format!("{HEAD}data: [\n{}]\n", "a,\n".repeat(20_000));
    read(&brackets);
    assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
}

#[test]
fn regular_expressions_that_explode_are_refused() {
    let check = |pattern: &str, expected: &str| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a}}\nspec:\n  hosts: [a.b]\n  \
             http:\n  - match:\n    - uri: {{regex: '{pattern}'}}\n    route:\n    - destination: {{host: a}}\n"
        );
        let object = read(&text).objects.remove(0);
        let start = Instant::now();
        let errors: Vec<_> = validate(&object).into_iter().filter(|found| found.level == Level::Error).collect();
        assert!(start.elapsed() < Duration::from_secs(60), "took {:?}", start.elapsed());
        assert_eq!(errors.len(), 1);
        assert_eq!(
            errors[0].to_string(),
            format!(
                "Error [IST0106] (VirtualService default/a f.yaml:8:20) spec.http[0].match[0].uri.regex: {expected}"
            )
        );
    };
    check(
        "((a{900}){900}){900}",
        "`((a{900}){900}){900}` is no regular expression: `{900}` repeats a repetition: 810000 times are more than \
         1000 (the syntax is RE2's)",
    );
    check("(\\pL{1000}\\pL{1000}\\pL{1000})*", "this regular expression is too large when compiled");
}

/// Everything the grammar has, to be mutated.
const FIXTURES: &[&str] = &[
    include_str!("fixtures/routing.yaml"),
    include_str!("fixtures/backends.yaml"),
    include_str!("fixtures/list.json"),
];

#[test]
fn fixtures_are_sound() {
    for fixture in FIXTURES {
        let parsed = read(fixture);
        let validated: Vec<_> = parsed.objects.iter().flat_map(validate).collect();
        let errors: Vec<_> =
            parsed.diagnostics.iter().chain(&validated).filter(|found| found.level == Level::Error).collect();
        assert!(errors.is_empty(), "{errors:#?}");
        assert!(parsed.objects.len() >= 3);
    }
}

#[test]
fn line_ends_of_windows_and_byte_order_marks_make_no_difference() {
    for fixture in FIXTURES {
        let plain = read(fixture);
        let other = read(&format!("\u{feff}{}", fixture.replace('\n', "\r\n")));
        assert_eq!(plain.objects.len(), other.objects.len());
        for (plain, other) in plain.objects.iter().zip(&other.objects) {
            assert_eq!((&plain.key, &plain.origin, &plain.spans), (&other.key, &other.origin, &other.spans));
        }
    }
}

#[test]
fn mutated_texts_never_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        // xorshift64: the same texts on every run.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let snippets: &[&[u8]] = &[
        b"\n",
        b"  ",
        b": ",
        b"- ",
        b"[",
        b"]",
        b"{",
        b"}",
        b"\"",
        b"'",
        b"&a ",
        b"*a",
        b"<<: ",
        b"---\n",
        b"...\n",
        b"|",
        b">",
        b"#",
        b"\t",
        b"%",
        b"!!str ",
        b"? ",
        b"null",
        b"\xc3\xa9",
        b"\xff",
        b"\0",
        b"\\u",
        b"1e999",
        b"-1",
        b"99999999999999999999",
        b"~",
        b"\r\n",
        b"\xef\xbb\xbf",
        b"@",
        b"`",
        b"\xf0\x9f\x98\x80",
        b",",
        b"::",
        b"%YAML 1.1\n",
    ];
    for round in 0..3000 {
        let mut bytes = FIXTURES[round % FIXTURES.len()].as_bytes().to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            match random(5) {
                0 if !bytes.is_empty() => bytes[at] = random(256) as u8,
                1 => {
                    let end = (at + random(40)).min(bytes.len());
                    bytes.drain(at..end);
                }
                2 => {
                    let snippet = snippets[random(snippets.len())];
                    bytes.splice(at..at, snippet.iter().copied());
                }
                3 => {
                    let end = (at + random(200)).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    let to = random(bytes.len() + 1);
                    bytes.splice(to..to, copy);
                }
                _ => bytes.truncate(at.max(1)),
            }
        }
        let parsed = parse_bytes("f.yaml", &bytes, &ParseOptions::default());
        for object in &parsed.objects {
            for found in validate(object) {
                assert!(found.origin.position.line > 0, "{found}");
            }
        }
        for found in &parsed.diagnostics {
            assert!(found.origin.position.line > 0, "{found}");
        }
    }
}
