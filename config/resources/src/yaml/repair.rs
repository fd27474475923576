//! Texts that Kubernetes' YAML reads and the parser here, which keeps to YAML 1.2, does not. They are rewritten and read
//! again; places stay those of the original. The texts may be Secrets: they are wiped in the end.

use saphyr_parser::{Event, Parser, ScanError};
use zeroize::Zeroizing;

/// Most columns by which a line is moved to the right.
const MAX_SHIFT: usize = 400;
/// Lines that are moved in one attempt.
const MAX_LINES: usize = 10_000;
/// Attempts on one chunk, and bytes that all of them together read; the first attempt is always made.
const MAX_ATTEMPTS: usize = 32;
const MAX_BYTES: usize = 16 << 20;

/// What was rewritten in a chunk.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Lines (from 1) that were moved to the right, sorted.
    moved: Vec<usize>,
    /// Columns by which they were moved: more than the deepest indentation of the original.
    shift: usize,
    has_replaced_surrogates: bool,
    attempts: usize,
}

impl Repair {
    /// The text without the cause of `error`; none if that cannot be mended.
    pub(super) fn apply(&mut self, text: &str, error: &ScanError) -> Option<Zeroizing<String>> {
        self.attempts += 1;
        let is_affordable = self.attempts * text.len() <= MAX_BYTES || self.attempts == 1;
        if self.attempts > MAX_ATTEMPTS || !is_affordable {
            return None;
        }
        if error.info().contains("indentation") {
            self.move_flow_lines(text, error.marker().line())
        } else if error.info().contains("Unicode") && !self.has_replaced_surrogates {
            self.has_replaced_surrogates = true;
            replace_surrogates(text)
        } else {
            None
        }
    }

    /// Column of the original text.
    pub(super) fn column(&self, line: usize, column: usize) -> usize {
        if self.moved.binary_search(&line).is_ok() { column.saturating_sub(self.shift) } else { column }
    }

    /// Lines of a `[...]` or `{...}` need not be indented more than what is around it.
    fn move_flow_lines(&mut self, text: &str, line: usize) -> Option<Zeroizing<String>> {
        let start = text.match_indices('\n').nth(line.checked_sub(2)?).map(|(index, _)| index + 1)?;
        let (before, after) = text.split_at(start);
        if self.shift == 0 {
            let indentations = text.lines().map(|line| line.bytes().take_while(|byte| *byte == b' ').count());
            self.shift = 1 + indentations.max().unwrap_or(0).min(MAX_SHIFT);
        }
        if self.moved.binary_search(&line).is_ok() || !ends_within_flow(before, self.shift) {
            return None;
        }
        let mut result = Zeroizing::new(String::with_capacity(text.len() + 8 * self.shift));
        result.push_str(before);
        let mut newly_moved = Vec::new();
        let mut rest = after;
        for line in line..line + MAX_LINES {
            let end = rest.find('\n').map_or(rest.len(), |index| index + 1);
            if self.moved.binary_search(&line).is_err() {
                result.extend(std::iter::repeat_n(' ', self.shift));
                newly_moved.push(line);
            }
            let (content, others) = rest.split_at(end);
            result.push_str(content);
            rest = others;
            // What comes after the closing bracket is somebody else's.
            if rest.is_empty() || content.contains([']', '}']) {
                break;
            }
        }
        result.push_str(rest);
        self.moved.extend(newly_moved);
        self.moved.sort_unstable();
        Some(result)
    }
}

/// Whether a text that is cut off ends between the brackets of a flow collection: then a bracket can close it. The
/// comment before the bracket ends what the bracket might continue otherwise.
fn ends_within_flow(text: &str, shift: usize) -> bool {
    let pad = " ".repeat(shift);
    let line = text.matches('\n').count() + 2;
    ["]", "}"].into_iter().any(|bracket| {
        let probe = Zeroizing::new(format!("{text}{pad}#\n{pad}{bracket}\n"));
        let mut parser = Parser::new_from_str(&probe);
        while let Some(Ok((event, span))) = parser.next_event() {
            let is_bracket = span.start.line() == line && span.start.col() == shift;
            if is_bracket && matches!(event, Event::SequenceEnd | Event::MappingEnd) {
                return true;
            }
        }
        false
    })
}

/// JSON writes characters beyond U+FFFF as two escapes (`\ud83d\ude00`), YAML as one. None if there are none.
fn replace_surrogates(text: &str) -> Option<Zeroizing<String>> {
    let unit = |text: &str| -> Option<u32> {
        let digits = text.strip_prefix("\\u")?.get(..4)?;
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok())?
    };
    let mut result = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    let mut is_changed = false;
    while let Some(index) = rest.find('\\') {
        result.push_str(&rest[..index]);
        rest = &rest[index..];
        let low = rest.get(6..).and_then(unit).filter(|low| (0xdc00..0xe000).contains(low));
        match (unit(rest).filter(|high| (0xd800..0xdc00).contains(high)), low) {
            (Some(high), Some(low)) => {
                let code = 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                result.push_str(&format!("\\U{code:08x}"));
                rest = &rest[12..];
                is_changed = true;
            }
            _ => {
                // An escaped character, which may be a backslash, stays what it is.
                let length = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                result.push_str(&rest[..length]);
                rest = &rest[length..];
            }
        }
    }
    result.push_str(rest);
    is_changed.then_some(result)
}

#[cfg(test)]
mod tests {
    use super::super::{Lines, chunks, documents};
    use crate::node::{Node, Value};
    use tidegate_core::Position;

    fn read(text: &str) -> Node {
        let chunk = chunks(text).next().unwrap();
        documents(&Lines::new(chunk)).pop().unwrap().unwrap().root
    }

    fn text(node: &Node) -> &str {
        node.as_str().unwrap()
    }

    #[test]
    fn flow_collections_may_close_at_the_indentation_of_their_key() {
        let root = read("a:\n  - args: [\n    \"x\", \"y\",\n  ]\n    other: 1\nb: [\n1,\n2\n]\nc: {\n\"d\": e\n}\n");
        let Value::Sequence(items) = &root.get("a").unwrap().value else { panic!() };
        let Value::Sequence(args) = &items[0].get("args").unwrap().value else { panic!() };
        assert_eq!(text(&args[1]), "y");
        assert!(items[0].get("other").is_some());
        let Value::Sequence(numbers) = &root.get("b").unwrap().value else { panic!() };
        assert_eq!(numbers[1].position, Position { line: 8, column: 1 });
        assert_eq!(text(root.get("c").unwrap().get("d").unwrap()), "e");
    }

    #[test]
    fn wrong_indentation_of_blocks_stays_an_error() {
        for bad in ["a:\n    b: 1\n  c: 2\n", "a:\n  - b\n c: 1\n", "- a\nb: 1\n", "a:\n  b: |\n    [\n c: 1\n"] {
            let chunk = chunks(bad).next().unwrap();
            assert!(documents(&Lines::new(chunk)).iter().any(Result::is_err), "{bad}");
        }
    }

    #[test]
    fn a_text_in_a_flow_list_may_end_with_a_colon() {
        let root = read("a: [1.2.3.4, 001:db8::, fe80::]\nb:\n- c:\n- d: \n");
        let Value::Sequence(items) = &root.get("a").unwrap().value else { panic!() };
        assert_eq!(items.iter().map(text).collect::<Vec<_>>(), ["1.2.3.4", "001:db8::", "fe80::"]);
        let Value::Sequence(items) = &root.get("b").unwrap().value else { panic!() };
        assert!(items[0].get("c").unwrap().is_null() && items[1].get("d").unwrap().is_null());
    }

    #[test]
    fn surrogate_pairs_of_json_are_characters() {
        assert_eq!(text(read(r#"{"a": "x\ud83d\ude00\\ud83dy\u00e9"}"#).get("a").unwrap()), "x\u{1f600}\\ud83dy\u{e9}");
        let chunk = chunks(r#"{"a": "\ud83d"}"#).next().unwrap();
        assert!(documents(&Lines::new(chunk)).iter().any(Result::is_err));
    }
}
