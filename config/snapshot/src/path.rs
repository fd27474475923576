//! Path normalization, as MeshConfig.pathNormalization asks for it.
//!
//! The rules are Istio's (`tests/integration/security/normalization_test.go`) and Envoy's (`PathUtil`): what comes out
//! routes, is seen by every policy, and is what the backend receives.

use std::borrow::Cow;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// How much of a path is made canonical. `Default` in MeshConfig means [`PathNormalization::Base`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PathNormalization {
    /// Only the fragment is removed.
    None,
    /// Decodes unreserved characters, escapes what no path may hold, resolves dot segments, turns `\` into `/`.
    #[default]
    Base,
    /// Base, then runs of `/` become one.
    MergeSlashes,
    /// Decodes `%2F` and `%5C` first, then as MergeSlashes.
    DecodeAndMergeSlashes,
}

/// The path cannot be normalized; the request is answered 400.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPath {
    #[error("the path holds an encoded or raw NUL")]
    Nul,
    #[error("the path does not start with `/`")]
    NotAbsolute,
}

/// Normalizes a request target in origin form; the query, from the first `?` on, is kept as it is.
///
/// # Errors
/// [`BadPath`] where Envoy answers 400: NUL in a normalized path, a path that does not begin with a slash.
pub fn normalize(target: &str, mode: PathNormalization) -> Result<Cow<'_, str>, BadPath> {
    let target = match target.find('#') {
        Some(at) => &target[..at],
        None => target,
    };
    if mode == PathNormalization::None {
        return Ok(Cow::Borrowed(target));
    }
    let (path, query) = match target.find('?') {
        Some(at) => target.split_at(at),
        None => (target, ""),
    };
    if !path.starts_with(['/', '\\']) {
        return Err(BadPath::NotAbsolute);
    }
    if is_canonical(path, mode) {
        return Ok(Cow::Borrowed(target));
    }
    let mut out = decode(path, mode == PathNormalization::DecodeAndMergeSlashes)?;
    out = remove_dot_segments(&out);
    if mode != PathNormalization::Base {
        out = merge_slashes(&out);
    }
    out.push_str(query);
    Ok(Cow::Owned(out))
}

/// The common case, told in one pass: nothing in `path` that any rule could change.
fn is_canonical(path: &str, mode: PathNormalization) -> bool {
    let mut previous = 0;
    for &byte in path.as_bytes() {
        match byte {
            b'%' | b'\\' => return false,
            byte if must_be_escaped(byte) => return false,
            b'.' if previous == b'/' => return false,
            b'/' if previous == b'/' && mode != PathNormalization::Base => return false,
            _ => {}
        }
        previous = byte;
    }
    true
}

/// What no path may hold as it is (RFC 3986 section 3.3) and clients send all the same. As Envoy, square brackets pass.
const fn must_be_escaped(byte: u8) -> bool {
    matches!(byte, 0..=b' ' | b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' | 0x7f..)
}

/// Decodes escapes of unreserved characters (RFC 3986 section 2.3), and of slashes if `slashes`; folds `\` to `/`; escapes
/// what must be.
fn decode(path: &str, slashes: bool) -> Result<String, BadPath> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    let is_special = |c: char| matches!(c, '%' | '\\') || u8::try_from(c).map_or(true, must_be_escaped);
    while let Some(at) = rest.find(is_special) {
        out.push_str(&rest[..at]);
        let offset = path.len() - rest.len() + at;
        match bytes[offset] {
            b'\\' => {
                out.push('/');
                rest = &rest[at + 1..];
            }
            0 => return Err(BadPath::Nul),
            byte if must_be_escaped(byte) => {
                let length = rest[at..].chars().next().map_or(1, char::len_utf8);
                for byte in &bytes[offset..offset + length] {
                    // Writing to a text cannot fail.
                    _ = write!(out, "%{byte:02X}");
                }
                rest = &rest[at + length..];
            }
            _ => {
                let decoded = bytes.get(offset + 1..offset + 3).and_then(hex_pair);
                match decoded {
                    Some(0) => return Err(BadPath::Nul),
                    Some(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') => {
                        out.push(char::from(byte));
                        rest = &rest[at + 3..];
                    }
                    Some(b'/' | b'\\') if slashes => {
                        out.push('/');
                        rest = &rest[at + 3..];
                    }
                    _ => {
                        out.push('%');
                        rest = &rest[at + 1..];
                    }
                }
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn hex_pair(pair: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    match pair {
        [high, low] => u8::try_from(digit(*high)? * 16 + digit(*low)?).ok(),
        _ => None,
    }
}

/// RFC 3986 section 5.2.4 over whole segments: `..` takes one segment away, an empty one too.
fn remove_dot_segments(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = path[1..].split('/').peekable();
    let mut ends_with_dots = false;
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." => ends_with_dots = last,
            ".." => {
                segments.pop();
                ends_with_dots = last;
            }
            _ => segments.push(part),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if ends_with_dots || segments.is_empty() {
        out.push('/');
    }
    out
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if !(c == '/' && out.ends_with('/')) {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mode: PathNormalization, target: &str, expected: &str) {
        assert_eq!(normalize(target, mode).as_deref(), Ok(expected), "{mode:?} {target}");
    }

    #[test]
    fn none_removes_only_the_fragment() {
        for path in ["/a/../b", "/%2E", "//", "/a\\b", "/a?b=/../c"] {
            check(PathNormalization::None, path, path);
        }
        check(PathNormalization::None, "/a#b?c", "/a");
    }

    #[test]
    fn base_resolves_segments_and_unreserved_escapes() {
        use PathNormalization::Base;
        check(Base, "/a/../b", "/b");
        check(Base, "/a/%2e%2E/b", "/b");
        check(Base, "/a/./b/.", "/a/b/");
        check(Base, "/a/b/..", "/a/");
        check(Base, "/..", "/");
        check(Base, "/app//../x", "/app/x");
        check(Base, "/app//../../admin", "/admin");
        check(Base, "/%7euser%30", "/~user0");
        check(Base, "/a%2fb%5cc", "/a%2fb%5cc");
        check(Base, "/a\\b", "/a/b");
        check(Base, "/a//b", "/a//b");
        check(Base, "/a%zz%2", "/a%zz%2");
        check(Base, "/a.b/..c/...", "/a.b/..c/...");
        check(Base, "/a/../b?x=/../y#f", "/b?x=/../y");
        check(Base, "/é/../ü", "/%C3%BC");
        check(Base, "/a\"b<c>{d}|^`[e]'?\"é", "/a%22b%3Cc%3E%7Bd%7D%7C%5E%60[e]'?\"é");
    }

    #[test]
    fn slashes_merge_and_decode_where_asked() {
        check(PathNormalization::MergeSlashes, "//a///b%2f/", "/a/b%2f/");
        check(PathNormalization::MergeSlashes, "/a//../b", "/a/b");
        check(PathNormalization::DecodeAndMergeSlashes, "/a%2f%5C..%2Fb", "/a/b");
        check(PathNormalization::DecodeAndMergeSlashes, "/%252fa", "/%252fa");
    }

    #[test]
    fn nul_and_relative_paths_are_refused() {
        assert_eq!(normalize("/a%00", PathNormalization::Base), Err(BadPath::Nul));
        assert_eq!(normalize("a", PathNormalization::Base), Err(BadPath::NotAbsolute));
        assert_eq!(normalize("*", PathNormalization::Base), Err(BadPath::NotAbsolute));
    }

    #[test]
    fn the_corpus_of_istio_holds() {
        let shared = std::env::var("TIDEGATE_SHARED")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").to_owned());
        let Ok(text) = std::fs::read_to_string(format!("{shared}/corpus/path_normalization.json")) else {
            println!("no corpus at {shared}: only our own cases ran");
            return;
        };
        let rows: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        let mut wrong = Vec::new();
        for row in &rows {
            let field = |name: &str| row[name].as_str().unwrap();
            let mode = match field("mode") {
                "NONE" => PathNormalization::None,
                "MERGE_SLASHES" => PathNormalization::MergeSlashes,
                "DECODE_AND_MERGE_SLASHES" => PathNormalization::DecodeAndMergeSlashes,
                _ => PathNormalization::Base,
            };
            let got = normalize(field("request"), mode).map_or("400".to_owned(), Cow::into_owned);
            if got != field("received") {
                wrong.push(format!("{row} got {got}"));
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    }
}
