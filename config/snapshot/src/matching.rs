//! What a route asks of a request, and the one function that decides it.

use std::borrow::Cow;
use std::fmt;

use http::HeaderName;
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::ParserBuilder;
use regex_syntax::hir::literal::Extractor;
use serde::{Serialize, Serializer};

use crate::{Headers, RequestView};

/// Longest regular expression in bytes (Istio's validation).
const MAX_PATTERN: usize = 1024;
/// Largest compiled form in bytes, as validation has it: what `(a{1000}){1000}` exceeds.
const MAX_COMPILED: usize = 4 << 20;
/// Sizes that are tried, so that it is known about how large a compiled form is.
const COMPILED_CLASSES: [usize; 3] = [16 << 10, 256 << 10, MAX_COMPILED];
/// Most memory in bytes that one search may take for its states before it goes on with less.
const MAX_STATES: usize = 1 << 20;

/// A regular expression in RE2's syntax that must match the whole value. Runs in linear time.
///
/// Works on bytes, so a value that is no UTF-8 is compared and never skipped. Classes such as `\d` are ASCII, as RE2
/// has them, unless the expression itself needs Unicode (`\pL`, `[é]`).
#[derive(Clone)]
pub struct Pattern {
    source: String,
    regex: Regex,
    max_bytes: usize,
    literal_prefix: Box<[u8]>,
}

/// The text is no regular expression that may be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("the regular expression is longer than {MAX_PATTERN} bytes")]
    TooLong,
    #[error("the regular expression would need too much memory when compiled")]
    TooLarge,
    #[error("the regular expression does not compile: {0}")]
    Syntax(String),
}

impl Pattern {
    /// Compiles `source` for matches of the whole value.
    ///
    /// # Errors
    /// Over 1024 bytes, over 4 MiB compiled, or not RE2 syntax.
    pub fn full(source: &str) -> Result<Self, PatternError> {
        Self::full_translated(source, source)
    }

    /// [`Pattern::full`] for a `source` in RE2's syntax that reads `expression` in the syntax of the `regex` crate.
    /// The source is what is shown.
    ///
    /// # Errors
    /// As [`Pattern::full`].
    pub fn full_translated(source: &str, expression: &str) -> Result<Self, PatternError> {
        // A group of its own, so that `a|b` is anchored as a whole.
        let mut pattern = Self::build(source, expression, &format!("^(?:{expression})$"))?;
        pattern.literal_prefix = literal_prefix(expression);
        Ok(pattern)
    }

    /// Compiles `source` for a search anywhere in the value, as rewrites use it.
    ///
    /// # Errors
    /// As [`Pattern::full`].
    pub fn search(source: &str) -> Result<Self, PatternError> {
        Self::search_translated(source, source)
    }

    /// [`Pattern::search`] as [`Pattern::full_translated`] is to [`Pattern::full`].
    ///
    /// # Errors
    /// As [`Pattern::full`].
    pub fn search_translated(source: &str, expression: &str) -> Result<Self, PatternError> {
        Self::build(source, expression, expression)
    }

    /// `body` is the expression alone, `whole` with what stands around it.
    fn build(source: &str, body: &str, whole: &str) -> Result<Self, PatternError> {
        if source.len() > MAX_PATTERN {
            return Err(PatternError::TooLong);
        }
        // `a)(b` must not become valid by the group around it.
        let parses = |unicode: bool, limit: usize, text: &str| {
            RegexBuilder::new(text).unicode(unicode).size_limit(limit).dfa_size_limit(MAX_STATES).build()
        };
        let of_size = |limit: usize| {
            parses(false, limit, body)
                .and_then(|_| parses(false, limit, whole))
                .or_else(|_| parses(true, limit, body).and_then(|_| parses(true, limit, whole)))
        };
        let mut result = Err(PatternError::TooLarge);
        for max_bytes in COMPILED_CLASSES {
            match of_size(max_bytes) {
                Ok(regex) => result = Ok((regex, max_bytes)),
                Err(regex::Error::CompiledTooBig(_)) => continue,
                Err(other) => result = Err(PatternError::Syntax(last_line(&other.to_string()))),
            }
            break;
        }
        let (regex, max_bytes) = result?;
        Ok(Self { source: source.to_owned(), regex, max_bytes, literal_prefix: Box::default() })
    }

    pub fn is_match(&self, value: &[u8]) -> bool {
        self.regex.is_match(value)
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// What every value begins with that this matches, as far as that is plain from the expression: of `/v[12]/.*` it is
    /// `/v`. Empty for a pattern that is searched for.
    pub(crate) fn literal_prefix(&self) -> &[u8] {
        &self.literal_prefix
    }

    /// Bytes that its compiled form does not exceed, rounded up coarsely.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    pub(crate) fn regex(&self) -> &Regex {
        &self.regex
    }
}

/// What every match of an expression begins with; at most 100 bytes, and empty if it has nothing fixed there.
fn literal_prefix(expression: &str) -> Box<[u8]> {
    // As `Pattern::build` has it: classes are ASCII unless the expression needs more.
    let parse = |unicode: bool| ParserBuilder::new().unicode(unicode).utf8(false).build().parse(expression).ok();
    let Some(hir) = parse(false).or_else(|| parse(true)) else { return Box::default() };
    Extractor::new().extract(&hir).longest_common_prefix().unwrap_or_default().into()
}

/// The regex crate prints the expression with a caret over several lines and ends with the reason.
fn last_line(message: &str) -> String {
    message.lines().last().unwrap_or_default().trim_start_matches("error: ").trim().to_owned()
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.source)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

/// Istio's StringMatch. Compares bytes, case-sensitive.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StringMatch {
    Exact(String),
    Prefix(String),
    Regex(Pattern),
    /// `{}` or the regex `*`: the value is present, whatever it is.
    Present,
}

impl StringMatch {
    pub fn is_match(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(expected) => value == expected.as_bytes(),
            Self::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
            Self::Regex(pattern) => pattern.is_match(value),
            Self::Present => true,
        }
    }
}

impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(value) => write!(f, "exact `{value}`"),
            Self::Prefix(value) => write!(f, "prefix `{value}`"),
            Self::Regex(pattern) => write!(f, "regex `{}`", pattern.source()),
            Self::Present => f.write_str("present"),
        }
    }
}

/// What a route asks of the path. `ignore_case` folds ASCII only.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    Exact {
        value: String,
        ignore_case: bool,
    },
    /// A plain string prefix: `/foo` matches `/foobar`. `/` and the empty prefix match everything.
    Prefix {
        value: String,
        ignore_case: bool,
    },
    Regex(Pattern),
}

impl PathMatch {
    /// A prefix that every path has.
    pub fn any() -> Self {
        Self::Prefix { value: "/".into(), ignore_case: false }
    }

    pub fn is_match(&self, path: &str) -> bool {
        match self {
            Self::Exact { value, ignore_case: false } => path == value,
            Self::Exact { value, ignore_case: true } => path.eq_ignore_ascii_case(value),
            Self::Prefix { value, ignore_case: false } => path.starts_with(value.as_str()),
            Self::Prefix { value, ignore_case: true } => {
                path.as_bytes().get(..value.len()).is_some_and(|head| head.eq_ignore_ascii_case(value.as_bytes()))
            }
            Self::Regex(pattern) => pattern.is_match(path.as_bytes()),
        }
    }
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, value, ignore_case) = match self {
            Self::Exact { value, ignore_case } => ("exact", value.as_str(), *ignore_case),
            Self::Prefix { value, ignore_case } => ("prefix", value.as_str(), *ignore_case),
            Self::Regex(pattern) => ("regex", pattern.source(), false),
        };
        write!(f, "{kind} `{value}`{}", if ignore_case { " (ignoring case)" } else { "" })
    }
}

/// What a route asks of one header.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct HeaderMatch {
    #[serde(serialize_with = "display")]
    pub name: HeaderName,
    pub value: StringMatch,
    /// From `withoutHeaders`: the matcher must not hold. A missing header then counts as the empty text.
    pub invert: bool,
}

fn display<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl HeaderMatch {
    pub fn is_match(&self, headers: &dyn Headers) -> bool {
        let value = joined(headers, &self.name);
        match (&self.value, self.invert) {
            (StringMatch::Present, false) => value.is_some(),
            (StringMatch::Present, true) => value.is_none(),
            (matcher, false) => value.is_some_and(|value| matcher.is_match(&value)),
            (matcher, true) => !matcher.is_match(&value.unwrap_or_default()),
        }
    }
}

/// All values of a header joined by commas, as Envoy compares them.
fn joined<'a>(headers: &'a dyn Headers, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut joined: Option<Cow<'a, [u8]>> = None;
    headers.values(name, &mut |value| match &mut joined {
        None => joined = Some(Cow::Borrowed(value)),
        Some(all) => {
            let all = all.to_mut();
            all.push(b',');
            all.extend_from_slice(value);
        }
    });
    joined
}

/// What a route asks of one query parameter; the first of that name is compared, as it stands in the URL.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct QueryMatch {
    pub name: String,
    pub value: StringMatch,
}

impl QueryMatch {
    pub fn is_match(&self, query: Option<&str>) -> bool {
        first_parameter(query.unwrap_or_default(), &self.name)
            .is_some_and(|value| self.value.is_match(value.as_bytes()))
    }
}

/// The value of the first parameter called `name`; empty for `?name` and `?name=`.
fn first_parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name && !pair.is_empty()).then_some(value)
    })
}

/// Everything that one route asks of a request; all of it must hold. Ports, gateways and source labels were decided
/// when the route was compiled.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RouteMatch {
    pub path: PathMatch,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Box<StringMatch>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Box<StringMatch>>,
    /// Compared with the authority as sent, with port, case-sensitive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<Box<StringMatch>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryMatch>,
}

impl Default for RouteMatch {
    fn default() -> Self {
        Self {
            path: PathMatch::any(),
            scheme: None,
            method: None,
            authority: None,
            headers: Vec::new(),
            query: Vec::new(),
        }
    }
}

/// The first thing that a route asked and a request did not give.
#[derive(Clone, Copy, Debug)]
pub enum Mismatch<'a> {
    Path(&'a PathMatch),
    Scheme(&'a StringMatch),
    Method(&'a StringMatch),
    Authority(&'a StringMatch),
    Header(&'a HeaderMatch),
    Query(&'a QueryMatch),
}

impl RouteMatch {
    /// # Errors
    /// What does not match, if anything does not.
    pub fn evaluate<'a>(&'a self, request: &RequestView<'_>) -> Result<(), Mismatch<'a>> {
        if !self.path.is_match(request.path) {
            return Err(Mismatch::Path(&self.path));
        }
        self.evaluate_but_path(request)
    }

    /// [`RouteMatch::evaluate`] where an index has settled the path already.
    pub(crate) fn evaluate_but_path<'a>(&'a self, request: &RequestView<'_>) -> Result<(), Mismatch<'a>> {
        let fails = |matcher: &&StringMatch, value: &str| !matcher.is_match(value.as_bytes());
        if let Some(matcher) = self.method.as_deref().filter(|m| fails(m, request.method)) {
            return Err(Mismatch::Method(matcher));
        }
        if let Some(matcher) = self.scheme.as_deref().filter(|m| fails(m, request.scheme)) {
            return Err(Mismatch::Scheme(matcher));
        }
        if let Some(matcher) = self.authority.as_deref().filter(|m| fails(m, request.authority)) {
            return Err(Mismatch::Authority(matcher));
        }
        if let Some(matcher) = self.headers.iter().find(|m| !m.is_match(request.headers)) {
            return Err(Mismatch::Header(matcher));
        }
        if let Some(matcher) = self.query.iter().find(|m| !m.is_match(request.query)) {
            return Err(Mismatch::Query(matcher));
        }
        Ok(())
    }

    /// Whether every request matches: the route behind which others are unreachable.
    pub fn is_catch_all(&self) -> bool {
        let any_path = match &self.path {
            PathMatch::Prefix { value, .. } => value.is_empty() || value == "/",
            PathMatch::Regex(pattern) => pattern.source() == ".*",
            PathMatch::Exact { .. } => false,
        };
        any_path
            && self.scheme.is_none()
            && self.method.is_none()
            && self.authority.is_none()
            && self.headers.is_empty()
            && self.query.is_empty()
    }
}

impl fmt::Display for Mismatch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(expected) => write!(f, "path is not {expected}"),
            Self::Scheme(expected) => write!(f, "scheme is not {expected}"),
            Self::Method(expected) => write!(f, "method is not {expected}"),
            Self::Authority(expected) => write!(f, "authority is not {expected}"),
            Self::Header(HeaderMatch { name, value, invert }) => {
                write!(f, "header `{name}` is {}{value}", if *invert { "" } else { "not " })
            }
            Self::Query(QueryMatch { name, value }) => write!(f, "query parameter `{name}` is not {value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn regex(source: &str) -> StringMatch {
        StringMatch::Regex(Pattern::full(source).unwrap())
    }

    #[test]
    fn what_all_matches_begin_with_is_read_from_the_expression() {
        let check = |source: &str, prefix: &str| {
            let pattern = Pattern::full(source).unwrap();
            assert_eq!(String::from_utf8_lossy(pattern.literal_prefix()), prefix, "{source}");
        };
        check("/users/[0-9]+", "/users/");
        check("/v[12]/.*", "/v");
        check("/a(/.*)?", "/a");
        check("/ab|/ac", "/a");
        check("(?:/ab)+", "/ab");
        check(r"/a\.b/.*", "/a.b/");
        check("^/a$", "/a");
        check("/ab?", "/a");
        check("/é+", "/é");
        check(".*/a", "");
        check("(?i)/a", "/");
        check("/a|b", "");
        check("a*", "");
        check("", "");
        assert!(Pattern::full(&"/".repeat(1000)).unwrap().literal_prefix().len() <= 100);
        assert_eq!(Pattern::search("/a").unwrap().literal_prefix(), b"");
    }

    /// Selection leaves a route out if the path does not begin so: nothing may match that does not.
    #[test]
    fn no_match_begins_otherwise() {
        let pieces =
            ["/", "a", "b", "A", ".", ".*", "[ab]", "(?i)", "a?", "b*", "(a|/b)", "|", "(?:ab)+", "a{0,2}", "^", "\\b"];
        let letters = ["/", "a", "b", "A", "é"];
        let mut random = 11u64;
        let mut next = |bound: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % bound
        };
        let (mut matches, mut prefixes) = (0, 0);
        for _ in 0..2000 {
            let source: String = (0..1 + next(5)).map(|_| pieces[next(pieces.len())]).collect();
            let Ok(pattern) = Pattern::full(&source) else { continue };
            prefixes += usize::from(!pattern.literal_prefix().is_empty());
            for _ in 0..20 {
                let value: String = (0..next(6)).map(|_| letters[next(letters.len())]).collect();
                if pattern.is_match(value.as_bytes()) {
                    matches += 1;
                    assert!(value.as_bytes().starts_with(pattern.literal_prefix()), "{source} on {value}");
                }
            }
        }
        assert!(matches > 1000 && prefixes > 500, "{matches} {prefixes}");
    }

    #[test]
    fn regular_expressions_match_the_whole_value() {
        let check = |source: &str, value: &str, expected: bool| {
            assert_eq!(Pattern::full(source).unwrap().is_match(value.as_bytes()), expected, "{source} on {value}");
        };
        check("a|b", "b", true);
        check("a|b", "ab", false);
        check("a", "a\n", false);
        check("/users/[0-9]+", "/users/7", true);
        check("/users/[0-9]+", "/users/7/x", false);
        check(r"\d+", "١", false);
        check(r"^(.*?;)?(user=developer)(;.*)?$", "a=b;user=developer", true);
        check("[é]", "é", true);
    }

    #[test]
    fn hostile_expressions_are_refused() {
        assert_eq!(Pattern::full(&"a".repeat(1025)), Err(PatternError::TooLong));
        assert_eq!(Pattern::full("(a{1000}){1000}"), Err(PatternError::TooLarge));
        for bad in ["a)(b", "(", "*", r"(?=x)", r"(a)\1"] {
            assert!(matches!(Pattern::full(bad), Err(PatternError::Syntax(_))), "{bad}");
        }
    }

    #[test]
    fn header_rules_hold_for_missing_empty_and_repeated_values() {
        let check = |value: StringMatch, invert: bool, map: &HeaderMap, expected: bool| {
            let matcher = HeaderMatch { name: "x".parse().unwrap(), value: value.clone(), invert };
            assert_eq!(matcher.is_match(map), expected, "{value} invert={invert} on {map:?}");
        };
        let exact = |v: &str| StringMatch::Exact(v.into());
        let (none, foo, empty) = (headers(&[]), headers(&[("x", "foo")]), headers(&[("x", "")]));
        let two = headers(&[("x", "foo"), ("x", "bar")]);
        check(exact("foo"), false, &foo, true);
        check(exact("foo"), false, &none, false);
        check(exact("foo"), false, &two, false);
        check(exact("foo,bar"), false, &two, true);
        check(StringMatch::Prefix("foo".into()), false, &two, true);
        check(exact(""), false, &empty, true);
        check(exact(""), false, &none, false);
        check(StringMatch::Present, false, &empty, true);
        check(StringMatch::Present, false, &none, false);
        check(exact("foo"), true, &none, true);
        check(exact("foo"), true, &foo, false);
        check(exact(""), true, &none, false);
        check(StringMatch::Present, true, &none, true);
        check(StringMatch::Present, true, &foo, false);
        check(regex(".*"), true, &none, false);
    }

    #[test]
    fn values_that_are_no_text_are_compared_all_the_same() {
        let mut map = HeaderMap::new();
        map.append("x", http::HeaderValue::from_bytes(b"adm\xffin").unwrap());
        let matcher = HeaderMatch { name: "x".parse().unwrap(), value: regex("adm.in"), invert: false };
        assert!(matcher.is_match(&map));
    }

    #[test]
    fn the_first_query_parameter_of_a_name_is_compared() {
        let check = |value: StringMatch, query: Option<&str>, expected: bool| {
            let matcher = QueryMatch { name: "k".into(), value };
            assert_eq!(matcher.is_match(query), expected, "{matcher:?} on {query:?}");
        };
        let exact = |v: &str| StringMatch::Exact(v.into());
        check(exact("1"), Some("a=2&k=1&k=3"), true);
        check(exact("3"), Some("a=2&k=1&k=3"), false);
        check(exact(""), Some("k"), true);
        check(exact(""), Some("k="), true);
        check(exact(""), Some(""), false);
        check(StringMatch::Present, Some("kk=1"), false);
        check(StringMatch::Present, None, false);
        check(StringMatch::Prefix("a".into()), Some("k=abc"), true);
    }

    #[test]
    fn prefixes_are_plain_text_and_may_ignore_case() {
        let prefix = |value: &str, ignore_case| PathMatch::Prefix { value: value.into(), ignore_case };
        assert!(prefix("/foo", false).is_match("/foobar"));
        assert!(!prefix("/foo", false).is_match("/Foo"));
        assert!(prefix("/foo", true).is_match("/FOObar"));
        assert!(!prefix("/foo", true).is_match("/fo"));
        assert!(!prefix("/fo", true).is_match("/é"));
    }
}
