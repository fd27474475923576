use std::fmt;

use http::{HeaderMap, HeaderName};

/// The headers of a message, however the data plane keeps them.
pub trait Headers: fmt::Debug {
    /// Calls `each` with every value of `name`, in the order in which they were sent.
    fn values<'a>(&'a self, name: &HeaderName, each: &mut dyn FnMut(&'a [u8]));

    /// The first value of `name`.
    fn first<'a>(&'a self, name: &HeaderName) -> Option<&'a [u8]> {
        let mut first = None;
        self.values(name, &mut |value| {
            first.get_or_insert(value);
        });
        first
    }
}

impl Headers for HeaderMap {
    fn values<'a>(&'a self, name: &HeaderName, each: &mut dyn FnMut(&'a [u8])) {
        self.get_all(name).iter().for_each(|value| each(value.as_bytes()));
    }
}

/// What selection sees of a request. All of it is canonical already: the path is normalized, the host folded.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Host header or `:authority` exactly as sent, with its port.
    pub authority: &'a str,
    /// Normalized path without query, begins with `/`.
    pub path: &'a str,
    /// What stands after `?`, none if there was no `?`.
    pub query: Option<&'a str>,
    pub headers: &'a dyn Headers,
}

/// The part of an authority that selects a virtual host: without port; an IPv6 address keeps its brackets.
///
/// `a.com:8080` gives `a.com`; `[::1]:80` gives `[::1]`. Case is kept: see [`crate::RouteTable::select_virtual_host`].
pub fn host_without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(at) if authority[at + 1..].bytes().all(|b| b.is_ascii_digit()) && !inside_brackets(authority, at) => {
            &authority[..at]
        }
        _ => authority,
    }
}

/// Whether the colon at `at` belongs to an address: of `[::1]`, or of an IPv6 address that lacks its brackets.
fn inside_brackets(authority: &str, at: usize) -> bool {
    match authority.rfind(']') {
        Some(close) => at < close,
        None => authority[..at].contains(':'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_is_cut_from_every_form_of_authority() {
        for (authority, host) in [
            ("a.com", "a.com"),
            ("a.com:8080", "a.com"),
            ("a.com:", "a.com"),
            ("[::1]", "[::1]"),
            ("[::1]:80", "[::1]"),
            ("::1", "::1"),
            ("a.com:x", "a.com:x"),
            ("", ""),
            (":80", ""),
        ] {
            assert_eq!(host_without_port(authority), host, "{authority}");
        }
    }
}
