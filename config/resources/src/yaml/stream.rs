//! Cutting a stream into documents.

use std::fmt;

use tidegate_core::Position;

/// A piece of a stream between two `---` lines.
#[derive(Clone, Copy)]
pub(crate) struct Chunk<'t> {
    /// With the `---` line that begins it, if one does.
    pub(crate) text: &'t str,
    /// Number of lines before it in the stream.
    pub(crate) lines_before: u32,
}

impl Chunk<'_> {
    /// Whether a Secret may be in it: what was made of its text is wiped then. That the word stands somewhere is
    /// enough, so that it is seen in every notation, and in a document too broken to be read.
    pub(crate) fn may_be_secret(&self) -> bool {
        ["Secret", "secret", "SECRET"].iter().any(|word| self.text.contains(word))
    }
}

/// The text may be a Secret's.
impl fmt::Debug for Chunk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes after line {})", self.text.len(), self.lines_before)
    }
}

/// The pieces of a stream, in order; those with nothing but blank lines and comments are left out.
pub(crate) fn chunks(text: &str) -> impl Iterator<Item = Chunk<'_>> {
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 0u32;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let (mut end, mut lines) = (0, 0u32);
            for part in rest.split_inclusive('\n') {
                if end > 0 && is_separator(part) {
                    break;
                }
                end += part.len();
                lines += 1;
            }
            let chunk = Chunk { text: &rest[..end], lines_before: line };
            rest = &rest[end..];
            line = line.saturating_add(lines);
            if !is_blank(chunk.text) {
                return Some(chunk);
            }
        }
    })
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\n', '\r']))
}

fn is_blank(text: &str) -> bool {
    text.lines().all(|line| {
        let content = if is_separator(line) { &line[3..] } else { line };
        let content = content.trim_start();
        content.is_empty() || content.starts_with('#')
    })
}

/// A chunk with the places where its lines begin.
#[derive(Debug)]
pub(crate) struct Lines<'t> {
    pub(crate) chunk: Chunk<'t>,
    starts: Vec<usize>,
    is_ascii: bool,
    pub(crate) may_be_secret: bool,
}

impl<'t> Lines<'t> {
    pub(crate) fn new(chunk: Chunk<'t>) -> Self {
        let starts = std::iter::once(0).chain(chunk.text.match_indices('\n').map(|(index, _)| index + 1)).collect();
        Self { chunk, starts, is_ascii: chunk.text.is_ascii(), may_be_secret: chunk.may_be_secret() }
    }

    /// A line of the stream, without its end; empty if it is not in the chunk.
    pub(crate) fn line(&self, line: u32) -> &'t str {
        let text = self.range(line, line.saturating_add(1));
        text.strip_suffix('\n').unwrap_or(text)
    }

    /// What follows a place on its line. Empty for places far to the right of lines that are not ASCII: they would have to
    /// be searched.
    pub(crate) fn rest_of_line(&self, position: Position) -> &'t str {
        const SEARCHED: usize = 4096;
        let line = self.line(position.line);
        let column = position.column.saturating_sub(1) as usize;
        let index = match self.is_ascii {
            true => Some(column),
            false if column > SEARCHED => None,
            false => line.char_indices().nth(column).map(|(index, _)| index),
        };
        index.and_then(|index| line.get(index..)).unwrap_or_default()
    }

    /// The lines of the stream from `first` to before `end`, as far as they are in the chunk.
    pub(crate) fn range(&self, first: u32, end: u32) -> &'t str {
        let start = self.start(first);
        &self.chunk.text[start..self.start(end).max(start)]
    }

    fn start(&self, line: u32) -> usize {
        // Lines count from 1.
        let index = line.saturating_sub(self.chunk.lines_before.saturating_add(1)) as usize;
        self.starts.get(index).copied().unwrap_or(self.chunk.text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_at_separator_lines() {
        let cut = |text: &'static str| chunks(text).map(|c| (c.text, c.lines_before)).collect::<Vec<_>>();
        assert_eq!(cut("a: 1\n---\nb: 2\n--- # c\nc: 3"), [("a: 1\n", 0), ("---\nb: 2\n", 1), ("--- # c\nc: 3", 3)]);
        assert_eq!(cut("# licence\n\n---\n---\n\r\n--- \na: ----\n"), [("--- \na: ----\n", 5)]);
        assert_eq!(cut("\u{feff}a: 1"), [("a: 1", 0)]);
        assert_eq!(cut("---a: 1\n  ---\n"), [("---a: 1\n  ---\n", 0)]);
        assert_eq!(cut(""), []);
    }
}
