//! The text of a file, as far as it may be shown.

use std::ops::Range;

use zeroize::Zeroize;

/// A run of base64's characters from which on it may be a part of a key.
const LONGEST_WORD: usize = 32;

/// The text of a file, with the places of its lines. Lines that may hold a key are not kept.
#[derive(Clone, Debug)]
pub(crate) struct SourceText {
    text: String,
    /// Bytes before each line.
    line_starts: Vec<usize>,
    /// Lines that are not shown, as they are or may be secret; sorted.
    hidden: Vec<Range<usize>>,
}

impl SourceText {
    /// Bytes that are no UTF-8 are replaced.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let mut whole =
            String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let hidden = hidden_lines(&whole);
        let mut text = String::with_capacity(whole.len());
        let mut parts = hidden.iter().peekable();
        for (number, line) in whole.split_inclusive('\n').enumerate() {
            while parts.next_if(|part| part.end <= number).is_some() {}
            if !parts.peek().is_some_and(|part| part.contains(&number)) {
                text.push_str(line);
            } else if line.ends_with('\n') {
                text.push('\n');
            }
        }
        whole.zeroize();
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, line_starts, hidden }
    }

    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Bytes before a line, which counts from 0.
    pub(super) fn line_start(&self, line: usize) -> Option<usize> {
        self.line_starts.get(line).copied()
    }

    /// The text of `lines`, which count from 0, without the last line's end; as many of them as there are.
    pub(super) fn lines(&self, lines: Range<usize>) -> Option<&str> {
        let start = self.line_start(lines.start)?;
        let end = self.line_starts.get(lines.end).map_or(self.text.len(), |next| next - 1);
        self.text.get(start..end)
    }

    /// Those of `lines` around `line` that may be shown; none if that line may not.
    pub(super) fn shown(&self, lines: Range<usize>, line: usize) -> Option<Range<usize>> {
        let mut shown = lines;
        for hidden in &self.hidden {
            if hidden.contains(&line) {
                return None;
            }
            if hidden.end <= line {
                shown.start = shown.start.max(hidden.end);
            } else {
                shown.end = shown.end.min(hidden.start);
                break;
            }
        }
        Some(shown)
    }
}

/// Documents that are Secrets or hold PEM, as whole: a broken document does not say which of its lines is which.
fn hidden_lines(text: &str) -> Vec<Range<usize>> {
    let mut hidden = Vec::new();
    let mut begin = 0;
    let mut secret = false;
    let mut count = 0;
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("---") {
            if secret {
                hidden.push(begin..number);
            }
            (begin, secret) = (number, false);
        }
        secret |= may_be_secret(line);
        count = number + 1;
    }
    if secret {
        hidden.push(begin..count);
    }
    hidden
}

fn may_be_secret(line: &str) -> bool {
    // However it is written: `kind: Secret`, `"kind":"Secret"`, in a list, misspelt.
    let is_kind = || {
        let line = line.to_ascii_lowercase();
        line.contains("kind") && line.contains("sec")
    };
    let is_symbol = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
    let has_run = || line.split(|c| !is_symbol(c)).any(|word| word.len() > LONGEST_WORD && !is_path(word));
    line.contains("-----BEGIN") || line.contains("LS0tLS1CRUdJTi") || is_kind() || has_run()
}

/// Paths and long names are shown: base64 has capitals and digits, and seldom slashes.
fn is_path(word: &str) -> bool {
    let longest = word.split('/').map(str::len).max().unwrap_or(0);
    longest <= LONGEST_WORD
        || !(word.bytes().any(|b| b.is_ascii_uppercase()) && word.bytes().any(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> SourceText {
        SourceText::new(text.as_bytes().to_vec())
    }

    #[test]
    fn documents_with_keys_are_not_kept() {
        let key = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg1234567890abcdef";
        for secret in [
            format!("apiVersion: v1\nkind: Secret\ndata:\n  tls.key: {key}"),
            format!("{{\"kind\":\"Secret\",\"data\":{{\"tls.key\":\"{key}\"}}}}"),
            format!("kind: Secrt\ndata:\n  tls.key: {key}"),
            format!("apiVersion: v1\nknd: X\ndata:\n  {key}\n  short"),
            "data: |\n  -----BEGIN PRIVATE KEY-----\n  short".to_owned(),
        ] {
            let source = text(&format!("a: 1\n---\n{secret}\n---\nb: 2\n"));
            assert!(!source.text.contains("MIGH") && !source.text.contains("short"), "{secret}");
            let last = source.line_starts.len() - 2;
            assert_eq!(source.lines(last..last + 1), Some("b: 2"));
            assert_eq!(source.lines(0..1), Some("a: 1"));
            assert_eq!(source.shown(0..4, 0), Some(0..1));
            assert_eq!(source.shown(0..4, 2), None);
            assert_eq!(source.shown(last - 3..last + 1, last), Some(last - 1..last + 1));
        }
    }

    #[test]
    fn what_is_no_secret_is_kept() {
        let yaml = "kind: VirtualService\nspec:\n  host: a-very-long-name-of-a-service.and-its-namespace.svc.cluster.local\n  \
                    regex: /api/v1/things/with/a/very/long/path/that/goes/on/Forever2\n";
        assert_eq!(text(yaml).text, yaml);
    }
}
