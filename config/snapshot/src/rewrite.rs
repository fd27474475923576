//! What a route does to the path, and where a redirect points.

use std::borrow::Cow;

use serde::Serialize;

use crate::{PathMatch, Pattern, PatternError, RequestView};

/// How the path that goes upstream differs from the one that matched. The query is never touched.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathRewrite {
    /// Puts `with` in place of what the route's prefix matched, the rest stays (`/foo` to `/` makes `/foo/x` `//x`);
    /// the whole path for a route that matched by exact value or regex.
    Matched {
        with: String,
    },
    Regex(RegexRewrite),
}

/// Replaces every occurrence of a pattern.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct RegexRewrite {
    pattern: Pattern,
    /// RE2's form, with `\1` to `\9` and `\0`.
    substitution: String,
    #[serde(skip)]
    replacement: String,
}

/// Why a regex rewrite cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegexRewriteError {
    #[error(transparent)]
    Pattern(#[from] PatternError),
    #[error("the rewrite refers to group \\{0}, and the match has {1} groups")]
    Group(usize, usize),
    #[error("a `\\` in the rewrite must be followed by a digit or another `\\`")]
    Escape,
}

impl RegexRewrite {
    /// # Errors
    /// A match that does not compile, or a rewrite with a group that the match lacks.
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, RegexRewriteError> {
        Self::with(Pattern::search(pattern)?, substitution)
    }

    /// [`RegexRewrite::new`] for a pattern that is compiled for search already.
    ///
    /// # Errors
    /// A rewrite with a group that the match lacks.
    pub fn with(pattern: Pattern, substitution: &str) -> Result<Self, RegexRewriteError> {
        let groups = pattern.regex().captures_len() - 1;
        let mut replacement = String::with_capacity(substitution.len() + 8);
        let mut chars = substitution.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some(digit) if digit.is_ascii_digit() => {
                        let group = digit as usize - '0' as usize;
                        if group > groups {
                            return Err(RegexRewriteError::Group(group, groups));
                        }
                        replacement.push_str("${");
                        replacement.push(digit);
                        replacement.push('}');
                    }
                    Some('\\') => replacement.push('\\'),
                    _ => return Err(RegexRewriteError::Escape),
                },
                '$' => replacement.push_str("$$"),
                c => replacement.push(c),
            }
        }
        Ok(Self { pattern, substitution: substitution.to_owned(), replacement })
    }

    pub fn pattern(&self) -> &Pattern {
        &self.pattern
    }

    /// As it was written, in RE2's form.
    pub fn substitution(&self) -> &str {
        &self.substitution
    }

    fn apply<'a>(&self, path: &'a str) -> Cow<'a, str> {
        match self.pattern.regex().replace_all(path.as_bytes(), self.replacement.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(path),
            // A pattern that works on bytes may cut a character in two.
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

impl PathRewrite {
    /// The new path for a `path` that `matched` has matched.
    pub fn apply<'a>(&'a self, matched: &PathMatch, path: &'a str) -> Cow<'a, str> {
        match self {
            Self::Regex(rewrite) => rewrite.apply(path),
            Self::Matched { with } => match matched {
                PathMatch::Prefix { value, .. } => {
                    let rest = path.get(value.len()..).unwrap_or_default();
                    Cow::Owned(format!("{with}{rest}"))
                }
                _ => Cow::Borrowed(with),
            },
        }
    }
}

/// A redirect, Istio's HTTPRedirect.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    pub path: RedirectPath,
    pub port: RedirectPort,
}

#[derive(Clone, PartialEq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RedirectPath {
    #[default]
    Keep,
    /// Replaces the path; the request's query stays unless this one has a `?`.
    Full(String),
    /// Replaces what the route's prefix matched.
    Prefix(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum RedirectPort {
    /// None of the port fields is set.
    #[default]
    Unset,
    Explicit(u16),
    /// `derivePort: FROM_PROTOCOL_DEFAULT`: no port is written.
    FromProtocolDefault,
    /// `derivePort: FROM_REQUEST_PORT`: the port that the Gateway's server names.
    FromRequestPort,
}

impl Redirect {
    /// The `location` of an answer to `request`, which came in on the Gateway server's port `server_port` and was
    /// matched by `matched`.
    pub fn location(&self, request: &RequestView<'_>, matched: &PathMatch, server_port: u16) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme);
        let authority = self.authority.as_deref().unwrap_or(request.authority);
        let (host, own_port) = split_port(authority);
        let port = match self.port {
            RedirectPort::Explicit(port) => Some(port),
            RedirectPort::FromRequestPort => Some(server_port),
            RedirectPort::FromProtocolDefault | RedirectPort::Unset => None,
        };
        let keeps_port = self.port == RedirectPort::Unset
            // The client's port was the old scheme's default, and means nothing to the new one.
            && (self.authority.is_some() || scheme == request.scheme || own_port != default_port(request.scheme));
        let mut location = format!("{scheme}://{}", if keeps_port { authority } else { host });
        if let Some(port) = port.filter(|port| Some(*port) != default_port(scheme)) {
            location.push(':');
            location.push_str(&port.to_string());
        }
        let path: Cow<'_, str> = match &self.path {
            RedirectPath::Keep => Cow::Borrowed(request.path),
            RedirectPath::Full(path) => Cow::Borrowed(path),
            RedirectPath::Prefix(with) => {
                Cow::Owned(PathRewrite::Matched { with: with.clone() }.apply(matched, request.path).into_owned())
            }
        };
        location.push_str(&path);
        if let Some(query) = request.query.filter(|_| !path.contains('?')) {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

fn split_port(authority: &str) -> (&str, Option<u16>) {
    let host = crate::host_without_port(authority);
    (host, authority[host.len()..].strip_prefix(':').and_then(|port| port.parse().ok()))
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn prefix(value: &str) -> PathMatch {
        PathMatch::Prefix { value: value.into(), ignore_case: false }
    }

    #[test]
    fn a_prefix_rewrite_replaces_just_what_matched() {
        let check = |matched: PathMatch, with: &str, path: &str, expected: &str| {
            assert_eq!(PathRewrite::Matched { with: with.into() }.apply(&matched, path), expected);
        };
        check(prefix("/foo"), "/", "/foo/x", "//x");
        check(prefix("/foo/"), "/", "/foo/x", "/x");
        check(prefix("/"), "/v1/", "/x", "/v1/x");
        check(PathMatch::Prefix { value: "/foo".into(), ignore_case: true }, "/b", "/FOO/x", "/b/x");
        check(PathMatch::Exact { value: "/a".into(), ignore_case: false }, "/b", "/a", "/b");
        check(PathMatch::Regex(Pattern::full("/.*").unwrap()), "/b", "/a/c", "/b");
    }

    #[test]
    fn a_regex_rewrite_replaces_every_occurrence() {
        let check = |pattern: &str, with: &str, path: &str, expected: &str| {
            let rewrite = PathRewrite::Regex(RegexRewrite::new(pattern, with).unwrap());
            assert_eq!(rewrite.apply(&prefix("/"), path), expected);
        };
        check("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api", "/v1/api/instance/foo");
        check("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz");
        check("a", "$1", "/a", "/$1");
        check("(a)", r"\0\\", "/a", r"/a\");
        assert_eq!(RegexRewrite::new("a", r"\1"), Err(RegexRewriteError::Group(1, 0)));
        assert_eq!(RegexRewrite::new("a", r"\x"), Err(RegexRewriteError::Escape));
    }

    #[test]
    fn redirects_point_where_envoy_points_them() {
        let headers = HeaderMap::new();
        let check = |redirect: Redirect, authority: &str, expected: &str| {
            let request = RequestView {
                method: "GET",
                scheme: "http",
                authority,
                path: "/p/q",
                query: Some("a=b"),
                headers: &headers,
            };
            assert_eq!(redirect.location(&request, &prefix("/p"), 8080), expected, "{redirect:?}");
        };
        let base = Redirect {
            status: 301,
            scheme: None,
            authority: None,
            path: RedirectPath::Keep,
            port: RedirectPort::Unset,
        };
        let https = Redirect { scheme: Some("https".into()), ..base.clone() };
        check(https.clone(), "a.com", "https://a.com/p/q?a=b");
        check(https.clone(), "a.com:80", "https://a.com/p/q?a=b");
        check(https.clone(), "a.com:8080", "https://a.com:8080/p/q?a=b");
        // Only the default of the scheme that is left goes away.
        check(https.clone(), "a.com:443", "https://a.com:443/p/q?a=b");
        let same_scheme = Redirect { path: RedirectPath::Full("/new".into()), ..base.clone() };
        check(same_scheme, "a.com:80", "http://a.com:80/new?a=b");
        let with_port = |port| Redirect { port, ..https.clone() };
        check(with_port(RedirectPort::FromProtocolDefault), "a.com:8080", "https://a.com/p/q?a=b");
        check(with_port(RedirectPort::FromRequestPort), "a.com", "https://a.com:8080/p/q?a=b");
        check(with_port(RedirectPort::Explicit(443)), "a.com:8080", "https://a.com/p/q?a=b");
        check(Redirect { authority: Some("b.com".into()), ..base.clone() }, "a.com:81", "http://b.com/p/q?a=b");
        check(Redirect { authority: Some("b.com:90".into()), ..base.clone() }, "a.com", "http://b.com:90/p/q?a=b");
        let with_path = |path| Redirect { path, ..base.clone() };
        check(with_path(RedirectPath::Full("/new".into())), "a.com", "http://a.com/new?a=b");
        check(with_path(RedirectPath::Full("/new?x".into())), "a.com", "http://a.com/new?x");
        check(with_path(RedirectPath::Prefix("/r".into())), "a.com", "http://a.com/r/q?a=b");
        check(https.clone(), "[::1]:8443", "https://[::1]:8443/p/q?a=b");
    }
}
