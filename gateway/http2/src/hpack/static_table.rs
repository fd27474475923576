//! The static table (RFC 7541 appendix A).

use crate::known::Known;
use Known::*;

/// Entries by index, which begins with 1: `ENTRIES[0]` has index 1.
pub(super) static ENTRIES: [(Known, &[u8]); 61] = TABLE;

const TABLE: [(Known, &[u8]); 61] = [
    (PseudoAuthority, b""),
    (PseudoMethod, b"GET"),
    (PseudoMethod, b"POST"),
    (PseudoPath, b"/"),
    (PseudoPath, b"/index.html"),
    (PseudoScheme, b"http"),
    (PseudoScheme, b"https"),
    (PseudoStatus, b"200"),
    (PseudoStatus, b"204"),
    (PseudoStatus, b"206"),
    (PseudoStatus, b"304"),
    (PseudoStatus, b"400"),
    (PseudoStatus, b"404"),
    (PseudoStatus, b"500"),
    (AcceptCharset, b""),
    (AcceptEncoding, b"gzip, deflate"),
    (AcceptLanguage, b""),
    (AcceptRanges, b""),
    (Accept, b""),
    (AccessControlAllowOrigin, b""),
    (Age, b""),
    (Allow, b""),
    (Authorization, b""),
    (CacheControl, b""),
    (ContentDisposition, b""),
    (ContentEncoding, b""),
    (ContentLanguage, b""),
    (ContentLength, b""),
    (ContentLocation, b""),
    (ContentRange, b""),
    (ContentType, b""),
    (Cookie, b""),
    (Date, b""),
    (Etag, b""),
    (Expect, b""),
    (Expires, b""),
    (From, b""),
    (Host, b""),
    (IfMatch, b""),
    (IfModifiedSince, b""),
    (IfNoneMatch, b""),
    (IfRange, b""),
    (IfUnmodifiedSince, b""),
    (LastModified, b""),
    (Link, b""),
    (Location, b""),
    (MaxForwards, b""),
    (ProxyAuthenticate, b""),
    (ProxyAuthorization, b""),
    (Range, b""),
    (Referer, b""),
    (Refresh, b""),
    (RetryAfter, b""),
    (Server, b""),
    (SetCookie, b""),
    (StrictTransportSecurity, b""),
    (TransferEncoding, b""),
    (UserAgent, b""),
    (Vary, b""),
    (Via, b""),
    (WwwAuthenticate, b""),
];

/// The first index with this name; 0 for names that the table does not have.
static INDEX: [u8; Known::ALL.len()] = index();

const fn index() -> [u8; Known::ALL.len()] {
    let mut of = [0; Known::ALL.len()];
    let mut at = TABLE.len();
    while at > 0 {
        at -= 1;
        of[TABLE[at].0 as usize] = at as u8 + 1;
    }
    of
}

/// The first index whose entry has this name, if there is one.
pub(super) fn name_index(known: Known) -> Option<usize> {
    match INDEX[known as usize] {
        0 => None,
        index => Some(usize::from(index)),
    }
}

/// The index of an entry of which name and value are used in requests.
pub(super) fn whole_index(known: Known, value: &[u8]) -> Option<u8> {
    match (known, value) {
        (PseudoMethod, b"GET") => Some(2),
        (PseudoMethod, b"POST") => Some(3),
        (PseudoPath, b"/") => Some(4),
        (PseudoScheme, b"http") => Some(6),
        (PseudoScheme, b"https") => Some(7),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_first_index() {
        for (at, (known, _)) in ENTRIES.iter().enumerate() {
            let first = ENTRIES.iter().position(|(name, _)| name == known).unwrap();
            assert_eq!(name_index(*known), Some(first + 1), "{at}");
        }
        assert_eq!(name_index(XRequestId), None);
        assert_eq!(name_index(WwwAuthenticate), Some(61));
        assert_eq!(name_index(ContentType), Some(31));
    }
}
