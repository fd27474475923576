//! Kubernetes' rules for names.

/// RFC 1123 label: lower-case letters, digits and `-`, at most 63, letter or digit at both ends.
pub(crate) fn is_label(text: &str) -> bool {
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// RFC 1123 subdomain: labels (of any length) with dots between, at most 253 characters.
pub(crate) fn is_subdomain(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_part = |part: &str| {
        let (first, last) = (part.bytes().next(), part.bytes().last());
        first.is_some_and(plain) && last.is_some_and(plain) && part.bytes().all(|b| plain(b) || b == b'-')
    };
    text.len() <= 253 && text.split('.').all(is_part)
}
