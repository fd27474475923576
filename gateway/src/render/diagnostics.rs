//! Findings for people: istioctl's lists for pipes, snippets of the file for terminals, a table; and their JSON form.

use std::collections::HashMap;
use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Origin as Place, Renderer, Snippet};
use serde::Serialize;
use tidegate_core::{Diagnostic, Level, Origin};

use super::{Paint, SourceText, Table};

/// Longest line of a file that is shown; a longer one is only named.
const MAX_LINE: usize = 1000;
/// Snippets that are shown at once; nobody reads more.
const MAX_SNIPPETS: usize = 200;
/// Lines of context before and after.
const CONTEXT: (usize, usize) = (2, 1);

/// The JSON form of a finding. The first six fields are those of `istioctl analyze -o json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Finding {
    code: &'static str,
    level: &'static str,
    message: String,
    /// `VirtualService ns/name`; empty if the text never became an object.
    origin: String,
    /// `file:line:column`.
    reference: String,
    /// Where Istio's documentation has the code; empty for our own codes.
    documentation_url: String,
    file: Arc<str>,
    line: u32,
    column: u32,
    /// Path of the field.
    #[serde(skip_serializing_if = "String::is_empty")]
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

impl From<&Diagnostic> for Finding {
    fn from(diagnostic: &Diagnostic) -> Self {
        let code = diagnostic.code.0;
        let documentation_url = if code.starts_with("IST") {
            format!("https://istio.io/latest/docs/reference/config/analysis/{}/", code.to_ascii_lowercase())
        } else {
            String::new()
        };
        Self {
            code,
            level: diagnostic.level.as_str(),
            message: diagnostic.message.clone(),
            origin: diagnostic.key.as_ref().map(ToString::to_string).unwrap_or_default(),
            reference: diagnostic.origin.to_string(),
            documentation_url,
            file: diagnostic.origin.file.clone(),
            line: diagnostic.origin.position.line,
            column: diagnostic.origin.position.column,
            path: diagnostic.path.clone(),
            help: diagnostic.help.clone(),
        }
    }
}

/// Replaces what could steer a terminal. Values come from files and from the network.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// The entries of istioctl's error list: `Kind/namespace/name: message`, with the place and the mend after it.
fn istioctl_entry(diagnostic: &Diagnostic) -> String {
    let mut entry = String::new();
    if let Some(key) = &diagnostic.key {
        let _ = write!(entry, "{}/{}/{}: ", key.kind, key.namespace, key.name);
    }
    if !diagnostic.path.is_empty() {
        let _ = write!(entry, "{}: ", diagnostic.path);
    }
    entry.push_str(&diagnostic.message);
    if let Some(help) = &diagnostic.help {
        let _ = write!(entry, "; {help}");
    }
    let _ = write!(entry, " ({})", diagnostic.origin);
    printable(&entry)
}

/// A list in the shape of istioctl: a heading, then one indented star a finding.
pub(crate) fn istioctl_findings<'a>(diagnostics: impl IntoIterator<Item = &'a Diagnostic>, heading: &str) -> String {
    let mut out = format!("{heading}\n");
    for diagnostic in diagnostics {
        let _ = writeln!(out, "\t* {}", istioctl_entry(diagnostic));
    }
    out.push('\n');
    out
}

/// One row a finding: level, code, object, place, message.
pub(crate) fn findings_table(diagnostics: &[&Diagnostic], paint: Paint) -> String {
    let mut table = Table::default();
    let heading = |text: &str| paint.strong(text);
    table.row([heading("LEVEL"), heading("CODE"), heading("OBJECT"), heading("PLACE"), heading("MESSAGE")]);
    for diagnostic in diagnostics {
        let level = diagnostic.level.as_str();
        let level = match diagnostic.level {
            Level::Error => paint.error(level),
            Level::Warning => paint.warning(level),
            Level::Info => level.to_owned(),
        };
        let object = diagnostic.key.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
        let message = match diagnostic.path.as_str() {
            "" => diagnostic.message.clone(),
            path => format!("{path}: {}", diagnostic.message),
        };
        let place = paint.place(&printable(&diagnostic.origin.to_string()));
        table.row([level, diagnostic.code.to_string(), printable(&object), place, printable(&message)]);
    }
    table.render("")
}

/// Texts of files by the name that origins have.
pub(crate) type Texts = HashMap<Arc<str>, SourceText>;

/// Findings as rustc prints them: the lines of the file, the place underlined, the mend below.
pub(crate) fn snippets(diagnostics: &[&Diagnostic], texts: &Texts, paint: Paint, width: usize) -> String {
    let renderer = if paint.is_colored() { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.term_width(width).decor_style(DecorStyle::Ascii);
    let mut out = String::new();
    for diagnostic in diagnostics.iter().take(MAX_SNIPPETS) {
        out.push_str(&renderer.render(&[group(diagnostic, texts)]));
        out.push_str("\n\n");
    }
    if let Some(more) = diagnostics.len().checked_sub(MAX_SNIPPETS).filter(|more| *more > 0) {
        // Writing into a String does not fail.
        let _ = writeln!(out, "... and {more} more; -o table and -o json list them all\n");
    }
    out
}

fn group<'a>(diagnostic: &'a Diagnostic, texts: &'a Texts) -> Group<'a> {
    let level = match diagnostic.level {
        Level::Error => annotate_snippets::Level::ERROR,
        Level::Warning => annotate_snippets::Level::WARNING,
        Level::Info => annotate_snippets::Level::INFO,
    };
    let title = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code.0);
    let origin = &diagnostic.origin;
    let mut group = match texts.get(&origin.file).and_then(|text| Excerpt::around(text, origin)) {
        Some(excerpt) => {
            let annotation = AnnotationKind::Primary.span(excerpt.marked);
            let annotation = match diagnostic.path.as_str() {
                "" => annotation,
                path => annotation.label(path),
            };
            title.element(
                Snippet::source(excerpt.text)
                    .line_start(excerpt.first_line)
                    .path(&*origin.file)
                    .fold(false)
                    .annotation(annotation),
            )
        }
        None => {
            let mut place = Place::path(&*origin.file);
            if origin.position.line > 0 {
                place = place.line(origin.position.line as usize);
                if origin.position.column > 0 {
                    place = place.char_column(origin.position.column as usize);
                }
            }
            title.element(place)
        }
    };
    if let Some(key) = &diagnostic.key {
        group = group.element(annotate_snippets::Level::NOTE.message(format!("in {key}")));
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(annotate_snippets::Level::HELP.message(help.as_str()));
    }
    group
}

/// Some lines of a file, with the part that a finding is about.
struct Excerpt<'a> {
    text: &'a str,
    first_line: usize,
    /// In bytes of `text`.
    marked: Range<usize>,
}

impl<'a> Excerpt<'a> {
    /// None if the origin has no line, the text no such line, or the lines are too long to show or may hold a key.
    fn around(source: &'a SourceText, origin: &Origin) -> Option<Self> {
        let line = (origin.position.line as usize).checked_sub(1)?;
        let shown = source.shown(line.saturating_sub(CONTEXT.0)..line + CONTEXT.1 + 1, line)?;
        let first = shown.start;
        let excerpt = source.lines(shown)?;
        if excerpt.lines().any(|line| line.len() > MAX_LINE) {
            return None;
        }
        let marked = marked_part(source.lines(line..line + 1)?.trim_end(), origin.position.column);
        let offset = source.line_start(line)? - source.line_start(first)?;
        Some(Self { text: excerpt, first_line: first + 1, marked: marked.start + offset..marked.end + offset })
    }
}

/// The key or value that stands at `column` (from 1, in characters); the whole line if the column is unknown.
fn marked_part(line: &str, column: u32) -> Range<usize> {
    let text = line.trim_end();
    let Some(column) = (column as usize).checked_sub(1) else {
        return line.len() - line.trim_start().len()..text.len().max(line.len() - line.trim_start().len());
    };
    let start = line.char_indices().nth(column).map_or(line.len(), |(at, _)| at);
    let rest = text.get(start..).unwrap_or_default();
    let length = match rest.chars().next() {
        None => 0,
        Some(quote @ ('"' | '\'')) => rest[1..].find(quote).map_or(rest.len(), |at| at + 2),
        Some(_) => {
            let ends = [rest.find(": "), rest.find(" #"), rest.find([',', ']', '}'])];
            let end = ends.into_iter().flatten().filter(|at| *at > 0).min().unwrap_or(rest.len());
            rest[..end].trim_end().trim_end_matches(':').len().max(1)
        }
    };
    start..start + length
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_core::{Code, Kind, ResourceKey};

    fn marked(line: &str, column: u32) -> &str {
        &line[marked_part(line, column)]
    }

    #[test]
    fn the_key_or_value_at_the_column_is_marked() {
        assert_eq!(marked("    weight: 75", 5), "weight");
        assert_eq!(marked("    weight: 75", 13), "75");
        assert_eq!(marked("  http:", 3), "http");
        assert_eq!(marked("  hosts: [a.com, b.com] # two", 11), "a.com");
        assert_eq!(marked("  x: \"a: b\" # c", 6), "\"a: b\"");
        assert_eq!(marked("  ä: ö", 6), "ö");
        assert_eq!(marked("  a", 9), "");
        assert_eq!(marked("  a b", 0), "a b");
    }

    fn text(text: &str) -> SourceText {
        SourceText::new(text.as_bytes().to_vec())
    }

    fn diagnostic(line: u32, column: u32) -> Diagnostic {
        Diagnostic::error(Code::SCHEMA, Origin::new("a.yaml", line, column), "unknown field `weigth`")
            .key(ResourceKey::local(Kind::VirtualService, "default", "reviews"))
            .path("spec.http[0]")
            .help("did you mean `weight`?")
    }

    #[test]
    fn snippets_show_the_place_and_the_mend() {
        let texts = Texts::from([("a.yaml".into(), text("one\ntwo\nthree\n  weigth: 1\nfive\nsix\n"))]);
        let text = snippets(&[&diagnostic(4, 3)], &texts, Paint::new(false), 100);
        assert_eq!(
            text,
            "error[IST0106]: unknown field `weigth`
 --> a.yaml:4:3
  |
2 | two
3 | three
4 |   weigth: 1
  |   ^^^^^^ spec.http[0]
5 | five
  |
  = note: in VirtualService default/reviews
  = help: did you mean `weight`?

"
        );
    }

    #[test]
    fn the_first_and_the_last_line_are_shown_as_far_as_there_is_context() {
        for (content, line) in [("weigth: 1", 1), ("a\nweigth: 1\n", 2), ("a\r\nb\r\nweigth: 1\r\n", 3)] {
            let texts = Texts::from([("a.yaml".into(), text(content))]);
            let out = snippets(&[&diagnostic(line, 1)], &texts, Paint::new(false), 100);
            assert!(out.contains(&format!("{line} | weigth: 1\n")) && out.contains(" | ^^^^^^ "), "{out}");
        }
    }

    #[test]
    fn more_findings_than_anybody_reads_are_counted() {
        let finding = diagnostic(0, 0);
        let out = snippets(&vec![&finding; MAX_SNIPPETS + 3], &Texts::new(), Paint::new(false), 100);
        assert!(out.contains("... and 3 more;"), "{out}");
    }

    #[test]
    fn places_outside_the_text_are_only_named() {
        let long = format!("{}\n", "x".repeat(MAX_LINE + 1));
        let texts = Texts::from([("a.yaml".into(), text(&long))]);
        for (line, column) in [(0, 0), (1, 5), (99, 1)] {
            let text = snippets(&[&diagnostic(line, column)], &texts, Paint::new(false), 100);
            assert!(text.contains("--> a.yaml"), "{text}");
            assert!(!text.contains("xxx"), "{text}");
        }
    }

    #[test]
    fn lists_have_istioctls_shape() {
        assert_eq!(
            istioctl_findings([&diagnostic(4, 3)], "Error: 1 error occurred:"),
            "Error: 1 error occurred:\n\t* VirtualService/default/reviews: spec.http[0]: unknown field `weigth`; \
             did you mean `weight`? (a.yaml:4:3)\n\n"
        );
    }

    #[test]
    fn escape_sequences_in_values_do_not_reach_the_terminal() {
        assert_eq!(printable("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb c");
    }
}
