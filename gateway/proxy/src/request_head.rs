//! The bytes of an HTTP/1 request head: judged line by line as they come, and taken apart on the way.
//!
//! What two parsers could read differently is refused here, before anything acts on it.

use memchr::memchr;

use crate::Limits;
use crate::local_reply::LocalReply;
use crate::message::{RequestHead, Span};

/// How the body that follows a head is delimited (RFC 9112 section 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

/// What was learned of a head that is complete and may be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FramedHead {
    /// Bytes of the head with its empty line.
    pub(crate) length: usize,
    pub(crate) framing: Framing,
}

/// A head that is not complete yet remembers how far it was searched.
#[derive(Clone, Copy, Default)]
pub(crate) struct HeadScan {
    /// Start of the line that is not complete.
    line: usize,
    lines: usize,
    host: bool,
    length: Option<u64>,
    chunked: bool,
}

impl HeadScan {
    /// Looks at `bytes`, which begins as it began in earlier calls, and puts what it finds into `request`, which nothing
    /// else touches between the calls; none while the head is not complete. `Host` becomes the authority.
    ///
    /// # Errors
    /// The answer to a head that must not be served; the connection is closed after it.
    pub(crate) fn advance(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
        request: &mut RequestHead,
    ) -> Result<Option<FramedHead>, LocalReply> {
        loop {
            let Some(at) = memchr(b'\n', &bytes[self.line..]) else {
                return if bytes.len() - self.line > limits.max_header_bytes || bytes.len() > limits.max_header_bytes {
                    Err(self.too_large())
                } else if self.lines == 0 && bytes.len() > limits.max_request_line {
                    Err(LocalReply::URI_TOO_LONG)
                } else {
                    Ok(None)
                };
            };
            let end = self.line + at + 1;
            if end > limits.max_header_bytes {
                return Err(self.too_large());
            }
            let Some(line) = bytes[self.line..end - 1].strip_suffix(b"\r") else {
                return Err(LocalReply::BAD_REQUEST);
            };
            let start = std::mem::replace(&mut self.line, end);
            if self.lines == 0 {
                request.clear();
                request_line(line, limits, request)?;
            } else if line.is_empty() {
                let framed = self.finish(end)?;
                request.fields.adopt(&bytes[..end]);
                request.take_host();
                return Ok(Some(framed));
            } else if self.lines > limits.max_headers {
                return Err(LocalReply::TOO_MANY_HEADERS);
            } else {
                let (name, value) = self.field(line)?;
                let span = |part: Part| Span::new(start + part.0, part.1);
                request.fields.announce(span(name), span(value));
            }
            self.lines += 1;
        }
    }

    fn too_large(&self) -> LocalReply {
        if self.lines == 0 { LocalReply::URI_TOO_LONG } else { LocalReply::HEADERS_TOO_LARGE }
    }

    fn finish(&self, length: usize) -> Result<FramedHead, LocalReply> {
        if !self.host {
            return Err(LocalReply::MISSING_HOST);
        }
        let framing = match (self.chunked, self.length) {
            // RFC 9112 section 6.1: a request smuggling attempt as likely as not.
            (true, Some(_)) => return Err(LocalReply::LENGTH_AND_CHUNKS),
            (true, None) => Framing::Chunked,
            (false, length) => Framing::Length(length.unwrap_or(0)),
        };
        Ok(FramedHead { length, framing })
    }

    /// Where name and value stand in `line`.
    fn field(&mut self, line: &[u8]) -> Result<(Part, Part), LocalReply> {
        // A line that begins with white space is folded into the one before (obs-fold).
        let colon = memchr(b':', line).filter(|at| *at > 0).ok_or(LocalReply::BAD_REQUEST)?;
        let (name, rest) = (&line[..colon], line[colon + 1..].trim_ascii_start());
        let value_start = line.len() - rest.len();
        let value = rest.trim_ascii_end();
        if !is_name(name) || !is_value(&line[colon + 1..]) {
            return Err(LocalReply::BAD_REQUEST);
        }
        let is = |expected: &[u8]| name.eq_ignore_ascii_case(expected);
        if is(b"host") {
            only_once(&mut self.host)?;
        } else if is(b"content-length") {
            let length = decimal(value).ok_or(LocalReply::BAD_REQUEST)?;
            if self.length.replace(length).is_some() {
                return Err(LocalReply::BAD_REQUEST);
            }
        } else if is(b"transfer-encoding") {
            // Other codings would have to be undone, and a list of two is how parsers are set against each other.
            if std::mem::replace(&mut self.chunked, true) || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(LocalReply::UNKNOWN_CODING);
            }
        }
        Ok(((0, colon), (value_start, value.len())))
    }
}

/// Start and length.
type Part = (usize, usize);

fn only_once(seen: &mut bool) -> Result<(), LocalReply> {
    if std::mem::replace(seen, true) { Err(LocalReply::BAD_REQUEST) } else { Ok(()) }
}

fn request_line(line: &[u8], limits: &Limits, request: &mut RequestHead) -> Result<(), LocalReply> {
    if line.len() > limits.max_request_line {
        return Err(LocalReply::URI_TOO_LONG);
    }
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(LocalReply::BAD_REQUEST);
    };
    // Registered methods have at most 17 letters; a longer one is an attack on logs.
    let method_is_fine = (1..=32).contains(&method.len()) && is_name(method);
    let target_is_fine = !target.is_empty() && target.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
    if !method_is_fine || !target_is_fine {
        return Err(LocalReply::BAD_REQUEST);
    }
    // Tokens are text. A target that is none is refused as a path, once the request has a log line.
    request.method.push_str(std::str::from_utf8(method).unwrap_or_default());
    request.target.push_str(std::str::from_utf8(target).unwrap_or_default());
    match version {
        b"HTTP/1.1" => Ok(()),
        b"HTTP/1.0" => Err(LocalReply::LOW_VERSION),
        _ => Err(LocalReply::BAD_REQUEST),
    }
}

/// Whether each byte may be part of a token.
static TOKEN: [bool; 256] = tokens();

const fn tokens() -> [bool; 256] {
    let mut tokens = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let it = byte as u8;
        tokens[byte] = it.is_ascii_alphanumeric()
            || matches!(
                it,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    tokens
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// Whether `bytes` can be a field's name; not whether there are any.
pub(crate) fn is_name(bytes: &[u8]) -> bool {
    bytes.iter().fold(true, |all, byte| all & TOKEN[*byte as usize])
}

/// Visible characters, blanks and obs-text; no control characters (RFC 9110 section 5.5).
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    // Sixteen bytes at a time and without an early end, so that the compiler compares them all at once.
    let is_bad = |byte: &u8| (*byte < b' ') & (*byte != b'\t') | (*byte == 0x7f);
    let any_bad = |block: &[u8; 16]| block.iter().fold(false, |found, byte| found | is_bad(byte));
    let (blocks, rest) = bytes.as_chunks();
    !blocks.iter().any(any_bad) && !rest.iter().any(is_bad)
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

    fn scan(text: &str) -> Result<Option<FramedHead>, LocalReply> {
        HeadScan::default().advance(text.as_bytes(), &Limits::default(), &mut RequestHead::default())
    }

    fn get(fields: &str) -> String {
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    }

    #[test]
    fn heads_are_accepted_with_their_framing() {
        let check = |fields: &str, framing: Framing| {
            let text = get(fields);
            assert_eq!(scan(&text), Ok(Some(FramedHead { length: text.len(), framing })), "{fields:?}");
        };
        check("", Framing::Length(0));
        check("Content-Length: 5\r\n", Framing::Length(5));
        check("content-length:  5 \r\n", Framing::Length(5));
        check("Transfer-Encoding: Chunked\r\n", Framing::Chunked);
        check("X: caf\u{e9}\r\n", Framing::Length(0));
        check("X:\r\n", Framing::Length(0));
    }

    #[test]
    fn a_head_is_taken_apart() {
        let mut request = RequestHead::default();
        let text = "POST /a?b HTTP/1.1\r\nX-One:  1 \r\nHost: A.com:80\r\nEmpty:\r\nx-one: 2\r\n\r\n";
        HeadScan::default().advance(text.as_bytes(), &Limits::default(), &mut request).unwrap().unwrap();
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/a?b"));
        assert_eq!(request.authority, "A.com:80");
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let fields: Vec<_> = request.fields.iter().map(|(name, value)| (text(name), text(value))).collect();
        let expected = [("x-one", "1"), ("empty", ""), ("x-one", "2")];
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_head_may_come_in_pieces_and_the_rest_is_left() {
        let text = get("Content-Length: 3\r\n") + "abcGET";
        let mut scan = HeadScan::default();
        let limits = Limits::default();
        let head_length = text.len() - 6;
        let mut request = RequestHead::default();
        for end in 0..head_length {
            assert_eq!(scan.advance(&text.as_bytes()[..end], &limits, &mut request), Ok(None), "{end}");
        }
        let head = scan.advance(text.as_bytes(), &limits, &mut request).unwrap().unwrap();
        assert_eq!(head, FramedHead { length: head_length, framing: Framing::Length(3) });
    }

    /// What other parsers were seen to accept, and what else RFC 9112 calls an error.
    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: 5,5\r\n",
            "Content-Length: 5 5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: chunked\u{b}\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Host: b\r\n",
            "X: a\r\n folded\r\n",
            "X: a\n",
            "X: a\rb\r\n",
            "X: a\0b\r\n",
            ": a\r\n",
            "X\r\n",
            "X\u{e9}: a\r\n",
        ] {
            let reply = match fields {
                both if both.contains("Content-Length") && both.contains("Encoding") => LocalReply::LENGTH_AND_CHUNKS,
                coding if coding.starts_with("Transfer-Encoding: ") && !coding.contains('\u{b}') => {
                    LocalReply::UNKNOWN_CODING
                }
                _ => LocalReply::BAD_REQUEST,
            };
            assert_eq!(scan(&get(fields)), Err(reply), "{fields:?}");
        }
        for line in [
            "GET /",
            "GET / HTTP/1.2",
            "GET / HTTP/2.0",
            "GET  / HTTP/1.1",
            "G(T / HTTP/1.1",
            "GET /\t HTTP/1.1",
            "",
            " / HTTP/1.1",
        ] {
            assert_eq!(scan(&format!("{line}\r\nHost: a\r\n\r\n")), Err(LocalReply::BAD_REQUEST), "{line:?}");
        }
        assert_eq!(scan("GET / HTTP/1.0\r\n\r\n"), Err(LocalReply::LOW_VERSION));
        assert_eq!(scan("GET / HTTP/1.1\r\n\r\n"), Err(LocalReply::MISSING_HOST));
        assert_eq!(scan("GET / HTTP/1.1\nHost: a\n\n"), Err(LocalReply::BAD_REQUEST));
    }

    #[test]
    fn sizes_are_bounded_whether_or_not_the_line_ends() {
        let limits = Limits { max_header_bytes: 1000, max_headers: 3, max_request_line: 100, ..Limits::default() };
        let check = |text: String, reply: LocalReply| {
            assert_eq!(
                HeadScan::default().advance(text.as_bytes(), &limits, &mut RequestHead::default()),
                Err(reply),
                "{text:?}"
            );
        };
        let long = "a".repeat(1001);
        check(format!("GET /{} HTTP/1.1\r\n", "a".repeat(100)), LocalReply::URI_TOO_LONG);
        check(format!("GET /{}", "a".repeat(100)), LocalReply::URI_TOO_LONG);
        check(get(&format!("X: {long}\r\n")), LocalReply::HEADERS_TOO_LARGE);
        check(format!("GET / HTTP/1.1\r\nX: {long}"), LocalReply::HEADERS_TOO_LARGE);
        check(get("A: a\r\nB: b\r\nC: c\r\n"), LocalReply::TOO_MANY_HEADERS);
        assert!(
            HeadScan::default()
                .advance(get("A: a\r\nB: b\r\n").as_bytes(), &limits, &mut RequestHead::default())
                .unwrap()
                .is_some()
        );
    }
    /// Bytes that were changed at random are judged alike however they arrive.
    #[test]
    fn how_a_head_is_cut_into_pieces_changes_nothing() {
        let seeds = [
            get("Content-Length: 5\r\nX: y\r\n"),
            get("Transfer-Encoding: chunked\r\nConnection: close\r\n"),
            "\r\nPOST /a/b?c=d HTTP/1.1\r\nHost: a\r\n\r\nrest\r\n\r\n".to_owned(),
        ];
        let limits = Limits { max_header_bytes: 80, max_headers: 4, max_request_line: 40, ..Limits::default() };
        let mut random = fastrand::Rng::with_seed(7);
        for round in 0..20_000 {
            let mut bytes = seeds[round % seeds.len()].clone().into_bytes();
            for _ in 0..random.usize(..4) {
                let at = random.usize(..bytes.len());
                match random.u8(..3) {
                    0 => bytes[at] = random.u8(..),
                    1 => bytes.insert(at, *random.choice(b"\r\n :\0\t,;").unwrap()),
                    _ => drop(bytes.remove(at)),
                }
            }
            let whole = HeadScan::default().advance(&bytes, &limits, &mut RequestHead::default());
            let (mut scan, mut request) = (HeadScan::default(), RequestHead::default());
            let mut end = 0;
            let pieces = loop {
                end = (end + random.usize(1..12)).min(bytes.len());
                match scan.advance(&bytes[..end], &limits, &mut request) {
                    Ok(None) if end < bytes.len() => {}
                    result => break result,
                }
            };
            // The order in which two limits are hit may differ; that one is hit may not.
            let same = pieces == whole || matches!((&pieces, &whole), (Err(_), Err(_)));
            assert!(same, "{pieces:?} and {whole:?} for {:?}", String::from_utf8_lossy(&bytes));
        }
    }
}
