//! Places of an object's fields, compactly.

use tidegate_core::Position;

/// Path of a field to its place: 16 bytes a field, sorted by a hash of the path.
///
/// A path is written as in `spec.http[0].match[1].uri`; a map's key that is no plain word is written `headers["x.y"]`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spans(Box<[(u64, Position)]>);

impl Spans {
    pub(crate) fn new(mut places: Vec<(u64, Position)>) -> Self {
        places.sort_unstable_by_key(|(hash, position)| (*hash, position.line, position.column));
        places.dedup_by_key(|(hash, _)| *hash);
        Self(places.into_boxed_slice())
    }

    /// Place of the field at `path`, or of its nearest known ancestor; none if not even that is known.
    pub fn find(&self, path: &str) -> Option<Position> {
        let place = |hash: u64| self.0.binary_search_by_key(&hash, |(hash, _)| *hash).ok();
        ancestors(path).rev().find_map(place).map(|index| self.0[index].1)
    }

    /// Number of fields with a known place.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One step of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Segment<'a> {
    Key(&'a str),
    Index(usize),
}

/// Hash of the empty path.
pub(crate) const ROOT: u64 = 0xcbf2_9ce4_8422_2325;

/// Hash of a path with one more step (FNV-1a over the step, separated by its type).
pub(crate) fn extend(hash: u64, segment: Segment<'_>) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    match segment {
        Segment::Key(key) => key.bytes().fold(step(hash, b'.'), step),
        Segment::Index(index) => index.to_le_bytes().into_iter().fold(step(hash, b'['), step),
    }
}

/// Hashes of a written path's ancestors and of itself, outermost first.
pub(crate) fn ancestors(path: &str) -> impl DoubleEndedIterator<Item = u64> {
    let hashes: Vec<u64> = Segments(path)
        .scan(ROOT, |hash, segment| {
            *hash = extend(*hash, segment);
            Some(*hash)
        })
        .collect();
    hashes.into_iter()
}

/// Writes a path as users read it.
pub(crate) fn display(segments: &[Segment<'_>]) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for segment in segments {
        // Writing to a String cannot fail.
        let _ = match segment {
            Segment::Index(index) => write!(text, "[{index}]"),
            Segment::Key(key) if !is_plain(key) => write!(text, "[\"{}\"]", key.escape_debug()),
            Segment::Key(key) if text.is_empty() => write!(text, "{key}"),
            Segment::Key(key) => write!(text, ".{key}"),
        };
    }
    text
}

fn is_plain(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// The steps of a written path. A text that is no path ends the iteration early.
struct Segments<'a>(&'a str);

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        let rest = self.0.strip_prefix('.').unwrap_or(self.0);
        if rest.is_empty() {
            return None;
        }
        let Some(inner) = rest.strip_prefix('[') else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            self.0 = &rest[end..];
            return Some(Segment::Key(&rest[..end]));
        };
        if let Some(quoted) = inner.strip_prefix('"') {
            let end = quoted.find("\"]")?;
            self.0 = &quoted[end + 2..];
            return Some(Segment::Key(&quoted[..end]));
        }
        let end = inner.find(']')?;
        self.0 = &inner[end + 1..];
        inner[..end].parse().ok().map(Segment::Index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spans(paths: &[(&[Segment<'_>], u32)]) -> Spans {
        let hash = |path: &[Segment<'_>]| path.iter().fold(ROOT, |hash, segment| extend(hash, *segment));
        Spans::new(paths.iter().map(|(path, line)| (hash(path), Position { line: *line, column: 1 })).collect())
    }

    #[test]
    fn a_path_finds_its_place_or_its_nearest_ancestors() {
        use Segment::{Index, Key};
        let spans = spans(&[
            (&[Key("spec")], 1),
            (&[Key("spec"), Key("http"), Index(0)], 2),
            (&[Key("spec"), Key("http"), Index(0), Key("headers"), Key("x.y")], 3),
            (&[Key("spec"), Key("http"), Index(0), Key("headers"), Key("end-user")], 4),
        ]);
        let line = |path: &str| spans.find(path).map(|position| position.line);
        assert_eq!(line("spec"), Some(1));
        assert_eq!(line("spec.hosts[3]"), Some(1));
        assert_eq!(line("spec.http[0].match[1].uri"), Some(2));
        assert_eq!(line("spec.http[0].headers[\"x.y\"].exact"), Some(3));
        assert_eq!(line("spec.http[0].headers.end-user"), Some(4));
        assert_eq!(line("metadata.name"), None);
        assert_eq!(line("spec.http[x].y"), Some(1));
        assert_eq!(line(""), None);
    }

    #[test]
    fn written_paths_quote_keys_that_are_no_words() {
        use Segment::{Index, Key};
        assert_eq!(display(&[Key("spec"), Key("http"), Index(2), Key("x.y"), Key("a-b")]), "spec.http[2][\"x.y\"].a-b");
    }
}
