//! The YAML in `docs/` is what its readers copy: it must be taken as it stands.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};

use tidegate_core::Level;
use tidegate_resources::{ParseOptions, parse, validate};

fn pages() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect()
}

/// The blocks marked as YAML, each with the number of lines before it.
fn blocks(text: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    let mut open: Option<(u32, String)> = None;
    for (index, line) in (1..).zip(text.lines()) {
        match (&mut open, line) {
            (None, "```yaml") => open = Some((index, String::new())),
            (Some(_), "```") => found.extend(open.take()),
            (Some((_, block)), line) => {
                block.push_str(line);
                block.push('\n');
            }
            _ => {}
        }
    }
    found
}

#[test]
fn every_example_is_taken_without_a_warning() {
    let mut objects = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for (lines_before, block) in blocks(&text) {
            let options = ParseOptions { lines_before, ..ParseOptions::default() };
            let parsed = parse(&page.display().to_string(), &block, &options);
            let validated = parsed.objects.iter().flat_map(validate);
            let found: Vec<_> =
                parsed.diagnostics.iter().cloned().chain(validated).filter(|found| found.level > Level::Info).collect();
            assert!(found.is_empty() && parsed.skipped.is_empty(), "{found:#?} {:?}", parsed.skipped);
            objects += parsed.objects.len();
        }
    }
    assert!(objects > 10, "only {objects} objects");
}
