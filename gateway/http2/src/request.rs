//! Whether a list of fields is a request (RFC 9113 section 8.3), and what it asks for.

use crate::error::Malformed;
use crate::fields::{Fields, Letter, Marks, Span, TOKEN};
use crate::known::Known;

/// Registered methods have at most 17 letters; a longer one is an attack on logs.
const MAX_METHOD: usize = 32;

/// The head of a request. Of a malformed one, the parts that were understood before the mistake was found.
///
/// The parts are bytes and not text: a path may have bytes above 0x7f, which HTTP/1's parser lets through as well.
#[derive(Clone, Default, Debug)]
pub struct RequestHead {
    fields: Fields,
    method: Option<Span>,
    scheme: Option<Span>,
    authority: Option<Span>,
    path: Option<Span>,
    protocol: Option<Span>,
    content_length: Option<u64>,
}

impl RequestHead {
    /// A token in the case in which it came, at most 32 bytes. Empty in a malformed request that has none.
    #[must_use]
    #[inline]
    pub fn method(&self) -> &[u8] {
        self.part(self.method).unwrap_or_default()
    }

    /// None where CONNECT opens a tunnel.
    #[must_use]
    #[inline]
    pub fn scheme(&self) -> Option<&[u8]> {
        self.part(self.scheme)
    }

    /// Path and query as they came, beginning with a slash; `*` for OPTIONS. None where CONNECT opens a tunnel.
    #[must_use]
    #[inline]
    pub fn path(&self) -> Option<&[u8]> {
        self.part(self.path)
    }

    /// `:authority`, or `host` where there is none: host and port without user, in the case in which they came. None if the
    /// request has neither. `host` itself is not among the fields any more.
    #[must_use]
    #[inline]
    pub fn authority(&self) -> Option<&[u8]> {
        self.part(self.authority)
    }

    /// The protocol that CONNECT asks for (RFC 8441), where the settings allow it.
    #[must_use]
    pub fn protocol(&self) -> Option<&[u8]> {
        self.part(self.protocol)
    }

    /// What `content-length` says. The connection compares it with the body.
    #[must_use]
    #[inline]
    pub fn content_length(&self) -> Option<u64> {
        self.content_length
    }

    /// All other fields in the order in which they came; pieces of a cookie are one (RFC 9113 section 8.2.3).
    #[must_use]
    #[inline]
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Empties the head and keeps its memory.
    #[inline]
    pub fn clear(&mut self) {
        self.fields.clear();
        (self.method, self.scheme, self.authority, self.path, self.protocol) = (None, None, None, None, None);
        self.content_length = None;
    }

    #[inline]
    pub(crate) fn fields_mut(&mut self) -> &mut Fields {
        &mut self.fields
    }

    #[inline]
    fn part(&self, span: Option<Span>) -> Option<&[u8]> {
        span.map(|span| self.fields.bytes(span))
    }

    /// Sorts the decoded fields into parts and fields, and checks them.
    ///
    /// # Errors
    /// What is wrong first. The parts that came before it are set.
    pub(crate) fn judge(&mut self, connect_protocol: bool) -> Result<(), Malformed> {
        let mut is_late = false;
        let mut host = None;
        let mut cookies = 0;
        for at in 0..self.fields.entries().len() {
            let entry = self.fields.entries()[at];
            self.fields.check_marks(at)?;
            match entry.known {
                Some(known) if known.is_pseudo() => {
                    if is_late {
                        return Err(Malformed::LatePseudo);
                    }
                    self.pseudo(known, entry.value(), connect_protocol)?;
                    self.fields.hide(at);
                    continue;
                }
                Some(Known::Host) => {
                    if host.replace(entry.value()).is_some() {
                        return Err(Malformed::Host);
                    }
                    self.fields.hide(at);
                    self.fields.forget(Known::Host);
                }
                Some(Known::ContentLength) => {
                    let length = decimal(self.fields.bytes(entry.value())).ok_or(Malformed::ContentLength)?;
                    if self.content_length.replace(length).is_some() {
                        return Err(Malformed::ContentLength);
                    }
                }
                Some(Known::Cookie) => cookies += 1,
                Some(known) => check_connection_field(known, self.fields.bytes(entry.value()))?,
                None => {}
            }
            is_late = true;
        }
        if cookies > 1 {
            self.fields.join(Known::Cookie, b"; ");
        }
        self.check_authority(host)?;
        self.check_parts()
    }

    #[inline]
    fn pseudo(&mut self, known: Known, value: Span, connect_protocol: bool) -> Result<(), Malformed> {
        let part = match known {
            Known::PseudoMethod => &mut self.method,
            Known::PseudoScheme => &mut self.scheme,
            Known::PseudoAuthority => &mut self.authority,
            Known::PseudoPath => &mut self.path,
            Known::PseudoProtocol if connect_protocol => &mut self.protocol,
            _ => return Err(Malformed::UnknownPseudo),
        };
        if part.replace(value).is_some() { Err(Malformed::DuplicatePseudo) } else { Ok(()) }
    }

    fn check_authority(&mut self, host: Option<Span>) -> Result<(), Malformed> {
        if let (Some(authority), Some(host)) = (self.part(self.authority), self.part(host))
            && !authority.eq_ignore_ascii_case(host)
        {
            return Err(Malformed::Host);
        }
        self.authority = self.authority.or(host);
        match self.authority() {
            Some(authority) if !is_authority(authority) => Err(Malformed::Authority),
            _ => Ok(()),
        }
    }

    /// RFC 9113 sections 8.3.1 and 8.5, RFC 8441 section 4.
    fn check_parts(&self) -> Result<(), Malformed> {
        let method = self.part(self.method).ok_or(Malformed::MissingPseudo)?;
        if !(1..=MAX_METHOD).contains(&method.len())
            || method.iter().any(|byte| TOKEN[usize::from(*byte)] == Letter::No)
        {
            return Err(Malformed::Method);
        }
        let is_connect = method == b"CONNECT";
        if is_connect && self.protocol.is_none() {
            let is_tunnel = self.scheme.is_none() && self.path.is_none() && self.authority.is_some();
            return if is_tunnel { Ok(()) } else { Err(Malformed::MissingPseudo) };
        }
        if self.protocol.is_some() && !is_connect {
            return Err(Malformed::UnknownPseudo);
        }
        let (Some(scheme), Some(path)) = (self.scheme(), self.path()) else {
            return Err(Malformed::MissingPseudo);
        };
        if !is_scheme(scheme) {
            return Err(Malformed::Scheme);
        }
        let is_path = path.first() == Some(&b'/') || path == b"*" && method == b"OPTIONS";
        if !is_path || path.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
            return Err(Malformed::Path);
        }
        Ok(())
    }
}

/// Checks trailers (RFC 9113 section 8.1) and takes out what a trailer must not say: how a message is framed, routed,
/// authorized or to be read (RFC 9110 section 6.5.1).
pub(crate) fn judge_trailers(fields: &mut Fields) -> Result<(), Malformed> {
    for at in 0..fields.entries().len() {
        let entry = fields.entries()[at];
        fields.check_marks(at)?;
        let Some(known) = entry.known else { continue };
        if known.is_pseudo() {
            return Err(Malformed::PseudoInTrailers);
        }
        check_connection_field(known, fields.bytes(entry.value()))?;
        if matches!(
            known,
            Known::ContentLength
                | Known::ContentEncoding
                | Known::ContentType
                | Known::ContentRange
                | Known::Host
                | Known::Te
                | Known::Trailer
                | Known::Authorization
                | Known::ProxyAuthorization
                | Known::Cookie
                | Known::Expect
                | Known::MaxForwards
                | Known::CacheControl
                | Known::Range
        ) {
            fields.hide(at);
            fields.forget(known);
        }
    }
    Ok(())
}

impl Fields {
    #[inline]
    pub(crate) fn check_marks(&self, at: usize) -> Result<(), Malformed> {
        let entry = &self.entries()[at];
        if entry.marks.has(Marks::BAD_NAME) {
            let is_pseudo = self.name(entry).first() == Some(&b':');
            return Err(if is_pseudo { Malformed::UnknownPseudo } else { Malformed::FieldName });
        }
        if entry.marks.has(Marks::BAD_VALUE) { Err(Malformed::FieldValue) } else { Ok(()) }
    }
}

/// RFC 9113 section 8.2.2.
#[inline]
pub(crate) fn check_connection_field(known: Known, value: &[u8]) -> Result<(), Malformed> {
    if known.is_connection_specific() {
        return Err(Malformed::ConnectionField);
    }
    if known == Known::Te && !value.eq_ignore_ascii_case(b"trailers") { Err(Malformed::Te) } else { Ok(()) }
}

/// Host and port: no user (RFC 9113 section 8.3.1), no path, nothing that could end a line or a word elsewhere.
fn is_authority(authority: &[u8]) -> bool {
    let is_fine = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]%".contains(byte);
    !authority.is_empty() && authority.iter().all(is_fine)
}

/// RFC 3986 section 3.1.
fn is_scheme(scheme: &[u8]) -> bool {
    scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
}

/// Digits only: no sign, no list, nothing that two parsers could read differently.
pub(crate) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        sum.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::{name_marks, value_marks};

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let mut head = RequestHead::default();
        for (name, value) in fields {
            let known = Known::of(name.as_bytes());
            let name_is = if known.is_some() { Marks::default() } else { name_marks(name.as_bytes()) };
            let marks = name_is.with(value_marks(value.as_bytes()));
            head.fields.push(known, name.as_bytes(), value.as_bytes(), marks);
        }
        head
    }

    const GET: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/a?b"), (":authority", "h:80")];

    #[track_caller]
    fn check(fields: &[(&str, &str)], expected: Result<(), Malformed>) {
        assert_eq!(head(fields).judge(true), expected, "{fields:?}");
    }

    /// A GET with one more field, or one of its own replaced.
    #[track_caller]
    fn check_field(name: &str, value: &str, expected: Result<(), Malformed>) {
        let mut fields = GET.to_vec();
        match fields.iter_mut().find(|field| name.starts_with(':') && field.0 == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
        check(&fields, expected);
    }

    #[test]
    fn parts_are_told_from_fields() {
        let mut head =
            head(&[&GET[..], &[("accept", "*/*"), ("x-a", "1"), ("host", "H:80"), ("content-length", "5")]].concat());
        assert_eq!(head.judge(false), Ok(()));
        assert_eq!((head.method(), head.scheme(), head.path()), (&b"GET"[..], Some(&b"http"[..]), Some(&b"/a?b"[..])));
        assert_eq!((head.authority(), head.content_length()), (Some(&b"h:80"[..]), Some(5)));
        let names: Vec<_> = head.fields().iter().map(|field| field.name).collect();
        assert_eq!(names, [&b"accept"[..], b"x-a", b"content-length"]);
        assert!(!head.fields().contains(Known::Host));
    }

    #[test]
    fn host_stands_in_for_authority() {
        let mut only_host = head(&[&GET[..3], &[("host", "example")]].concat());
        assert_eq!(only_host.judge(false), Ok(()));
        assert_eq!(only_host.authority(), Some(&b"example"[..]));
        let mut none = head(&GET[..3]);
        assert_eq!((none.judge(false), none.authority().is_none()), (Ok(()), true));
        check_field("host", "other", Err(Malformed::Host));
        check(&[&GET[..], &[("host", "h:80"), ("host", "h:80")]].concat(), Err(Malformed::Host));
    }

    #[test]
    fn pseudo_fields_come_once_first_and_complete() {
        for left_out in 0..3 {
            let mut fields = GET.to_vec();
            fields.remove(left_out);
            check(&fields, Err(Malformed::MissingPseudo));
        }
        for twice in GET {
            check(&[&GET[..], &[twice]].concat(), Err(Malformed::DuplicatePseudo));
        }
        check(&[&GET[..3], &[("x", "y"), GET[3]]].concat(), Err(Malformed::LatePseudo));
        check(&[&GET[..], &[(":status", "200")]].concat(), Err(Malformed::UnknownPseudo));
        check(&[&GET[..], &[(":other", "200")]].concat(), Err(Malformed::UnknownPseudo));
        check(&[], Err(Malformed::MissingPseudo));
    }

    #[test]
    fn parts_have_their_forms() {
        for (name, value, expected) in [
            (":method", "GET / HTTP/1.1\r\nX:", Malformed::FieldValue),
            (":method", "GET / HTTP/1.1", Malformed::Method),
            (":method", "", Malformed::Method),
            (":scheme", "", Malformed::Scheme),
            (":scheme", "ht tp", Malformed::Scheme),
            (":scheme", "http://a/?", Malformed::Scheme),
            (":path", "", Malformed::Path),
            (":path", "a", Malformed::Path),
            (":path", "*", Malformed::Path),
            (":path", "/a b", Malformed::Path),
            (":path", "http://a/", Malformed::Path),
            (":path", "/a\r\nb", Malformed::FieldValue),
            (":authority", "", Malformed::Authority),
            (":authority", "user@host", Malformed::Authority),
            (":authority", "host/path", Malformed::Authority),
            (":authority", "ho st", Malformed::Authority),
        ] {
            check_field(name, value, Err(expected));
        }
        check_field(":method", &"M".repeat(33), Err(Malformed::Method));
        check_field(":authority", "[::1]:8443", Ok(()));
        check(&[(":method", "OPTIONS"), (":scheme", "https"), (":path", "*")], Ok(()));
    }

    #[test]
    fn fields_of_one_connection_are_refused() {
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
            check_field(name, "x", Err(Malformed::ConnectionField));
        }
        check_field("te", "trailers", Ok(()));
        check_field("te", "trailers, deflate", Err(Malformed::Te));
        check_field("X-Upper", "x", Err(Malformed::FieldName));
        check_field("x", "a\0b", Err(Malformed::FieldValue));
        check_field("x", " a", Err(Malformed::FieldValue));
    }

    #[test]
    fn content_length_is_one_number() {
        for value in ["", "+5", "-5", "5,5", "0x5", "5 5", "18446744073709551616"] {
            check_field("content-length", value, Err(Malformed::ContentLength));
        }
        check_field("content-length", "18446744073709551615", Ok(()));
        let twice = [("content-length", "5"), ("content-length", "5")];
        check(&[&GET[..], &twice].concat(), Err(Malformed::ContentLength));
    }

    #[test]
    fn connect_has_an_authority_and_nothing_else_unless_it_names_a_protocol() {
        let method = (":method", "CONNECT");
        check(&[method, GET[3]], Ok(()));
        check(&[method], Err(Malformed::MissingPseudo));
        check(&[method, GET[1], GET[3]], Err(Malformed::MissingPseudo));
        check(&[method, GET[2], GET[3]], Err(Malformed::MissingPseudo));
        let protocol = (":protocol", "websocket");
        check(&[method, GET[1], GET[2], GET[3], protocol], Ok(()));
        check(&[method, GET[3], protocol], Err(Malformed::MissingPseudo));
        check(&[&GET[..], &[protocol]].concat(), Err(Malformed::UnknownPseudo));
        let mut not_allowed = head(&[method, GET[1], GET[2], GET[3], protocol]);
        assert_eq!(not_allowed.judge(false), Err(Malformed::UnknownPseudo));
    }

    #[test]
    fn trailers_say_nothing_about_framing() {
        let mut trailers = head(&[("grpc-status", "0"), ("content-length", "5"), ("authorization", "x")]).fields;
        assert_eq!(judge_trailers(&mut trailers), Ok(()));
        let names: Vec<_> = trailers.iter().map(|field| field.name).collect();
        assert_eq!(names, [b"grpc-status"]);
        for (name, expected) in [(":path", Malformed::PseudoInTrailers), ("connection", Malformed::ConnectionField)] {
            assert_eq!(judge_trailers(&mut head(&[(name, "/")]).fields), Err(expected));
        }
    }
}
