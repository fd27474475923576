use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A configured host: an exact name (or IP), a wildcard `*.suffix`, or `*`. Always lower case.
///
/// A wildcard is a *string suffix* match that starts at the dot: `*.foo.com` matches `a.foo.com` and `a.b.foo.com`,
/// never `foo.com` (Istio, `pkg/config/host`).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Host(Arc<str>);

/// The text is no host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    #[error("a host may not be empty")]
    Empty,
    #[error("`{0}`: `*` may stand only alone or as the whole first label (`*.example.com`)")]
    PartialWildcard(String),
    #[error("`{0}`: a label must be 1-63 characters of a-z, 0-9, `-` or `_`, and not start or end with `-`")]
    Label(String),
    #[error("`{0}` is longer than 253 characters")]
    TooLong(String),
}

impl Host {
    /// Parses an exact name, `*.suffix`, `*` or an IP address; folds case.
    ///
    /// # Errors
    /// Partial wildcards (`*foo.com`, `a.*.com`), empty and over-long names and labels.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.len() > 253 {
            return Err(HostError::TooLong(text.to_owned()));
        }
        if text == "*" || text.parse::<std::net::IpAddr>().is_ok() {
            return Ok(Self::new_unchecked(text));
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        if name.contains('*') {
            return Err(HostError::PartialWildcard(text.to_owned()));
        }
        for label in name.split('.') {
            let valid = !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            if !valid {
                return Err(HostError::Label(text.to_owned()));
            }
        }
        Ok(Self::new_unchecked(text))
    }

    /// Takes `text` as it is, folding case only: for names that validation has already seen.
    pub fn new_unchecked(text: &str) -> Self {
        Self(text.to_ascii_lowercase().into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    pub fn is_catch_all(&self) -> bool {
        &*self.0 == "*"
    }

    /// `.foo.com` of `*.foo.com`, the empty text of `*`, none for an exact host.
    pub fn wildcard_suffix(&self) -> Option<&str> {
        self.0.strip_prefix('*')
    }

    /// Whether every name that `self` matches is matched by `other`: `a.foo.com` and `*.a.foo.com` are within
    /// `*.foo.com`; a wildcard is never within an exact name.
    pub fn is_subset_of(&self, other: &Host) -> bool {
        match (self.wildcard_suffix(), other.wildcard_suffix()) {
            (None, None) => self == other,
            (None, Some(suffix)) => self.0.len() > suffix.len() && self.0.ends_with(suffix),
            (Some(own), Some(suffix)) => own.ends_with(suffix),
            (Some(_), None) => false,
        }
    }

    /// Whether one name exists that both match.
    pub fn overlaps(&self, other: &Host) -> bool {
        self.is_subset_of(other) || other.is_subset_of(self)
    }

    /// The narrower of two overlapping hosts, none if they do not overlap.
    pub fn intersection(&self, other: &Host) -> Option<Host> {
        if self.is_subset_of(other) {
            Some(self.clone())
        } else if other.is_subset_of(self) {
            Some(other.clone())
        } else {
            None
        }
    }

    /// Whether a lower-case name without port is matched.
    pub fn matches(&self, name: &str) -> bool {
        match self.wildcard_suffix() {
            None => &*self.0 == name,
            Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Most specific first: exact before wildcard, longer before shorter, then alphabetical.
impl Ord for Host {
    fn cmp(&self, other: &Self) -> Ordering {
        self.is_wildcard()
            .cmp(&other.is_wildcard())
            .then(other.0.len().cmp(&self.0.len()))
            .then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Host {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn intersection_is_the_narrower_host() {
        let check = |a: &str, b: &str, expected: Option<&str>| {
            for (x, y) in [(a, b), (b, a)] {
                assert_eq!(host(x).intersection(&host(y)).map(|h| h.to_string()).as_deref(), expected, "{x} and {y}");
            }
        };
        check("*.foo.com", "a.foo.com", Some("a.foo.com"));
        check("*.foo.com", "*.com", Some("*.foo.com"));
        check("*", "a.b", Some("a.b"));
        check("*", "*.b", Some("*.b"));
        check("*", "*", Some("*"));
        check("*.foo.com", "foo.com", None);
        check("a.foo.com", "b.foo.com", None);
        check("*.foo.com", "*.bar.com", None);
        check("*.foo.com", "evilfoo.com", None);
    }

    #[test]
    fn wildcards_match_one_or_more_labels() {
        assert!(host("*.foo.com").matches("a.b.foo.com"));
        assert!(!host("*.foo.com").matches("foo.com"));
        assert!(!host("*.foo.com").matches(".foo.com"));
        assert!(host("*").matches("x"));
    }

    #[test]
    fn specific_hosts_sort_first() {
        let mut hosts: Vec<_> = ["*", "*.com", "b.com", "*.foo.com", "a.com", "long.a.com"].map(host).into();
        hosts.sort();
        let names: Vec<_> = hosts.iter().map(Host::as_str).collect();
        assert_eq!(names, ["long.a.com", "a.com", "b.com", "*.foo.com", "*.com", "*"]);
    }

    #[test]
    fn partial_wildcards_and_bad_labels_are_refused() {
        for bad in ["", "*foo.com", "a.*.com", "a..b", "-a.com", "a b", "**.x", "*.*.x"] {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(host("A.Foo.COM").as_str(), "a.foo.com");
        assert!(Host::parse("::1").is_ok());
    }
}
