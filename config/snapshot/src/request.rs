use http::HeaderMap;

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
    pub headers: &'a HeaderMap,
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
