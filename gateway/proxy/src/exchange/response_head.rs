//! The head of a backend's answer, judged as strictly as a request's: what it says of the body's end must mean one thing.

use memchr::memchr;

use crate::message::{Known, ResponseHead, Span};
use crate::request_head::{decimal, is_name, is_value};

/// Bytes of an answer's head at most (Envoy's `max_response_headers_kb`).
const MAX_BYTES: usize = 60 * 1024;
/// Fields of an answer at most (Envoy's `max_headers_count`).
pub(super) const MAX_FIELDS: usize = 100;

/// How the body of an answer is delimited (RFC 9112 section 6.3), the request's method set aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    /// By the connection's end.
    Close,
    Length(u64),
    Chunked,
}

/// What was learned of a head that is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FramedResponse {
    /// Bytes of the head with its empty line.
    pub(super) length: usize,
    pub(super) framing: Framing,
    /// The connection stays open after this answer, if the answer has another end than the connection's.
    pub(super) keeps: bool,
}

/// The backend broke the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Malformed;

/// Reads the head at the front of `bytes` into `response`; none while it is not complete. What concerns the connection
/// alone is left out of the fields, apart from `content-length`.
pub(super) fn read(bytes: &[u8], response: &mut ResponseHead) -> Result<Option<FramedResponse>, Malformed> {
    let Some(length) = end(bytes) else {
        return if bytes.len() > MAX_BYTES { Err(Malformed) } else { Ok(None) };
    };
    if length > MAX_BYTES {
        return Err(Malformed);
    }
    let head = &bytes[..length];
    let (mut line, mut rest) = take_line(head, 0).ok_or(Malformed)?;
    response.clear();
    let (status, is_http11) = status_line(&head[line.0..line.1]).ok_or(Malformed)?;
    response.status = status;
    loop {
        (line, rest) = take_line(head, rest).ok_or(Malformed)?;
        if line.0 == line.1 {
            break;
        }
        if response.fields.len() == MAX_FIELDS {
            return Err(Malformed);
        }
        field(head, line, response)?;
    }
    response.fields.adopt(head);
    let framing = framing(response)?;
    if status < 200 || status == 204 {
        // RFC 9110 section 8.6: there is no body to have a length. As Envoy: one of nothing is overlooked.
        if !matches!(framing, Framing::Close | Framing::Length(0)) {
            return Err(Malformed);
        }
        response.fields.remove_known(Known::ContentLength);
    }
    let keeps = keeps(response, is_http11);
    use Known::{Connection, KeepAlive, ProxyConnection, TransferEncoding};
    let keep_upgrade = status == 101;
    response.fields.retain(|known, _| match known {
        Connection | KeepAlive | ProxyConnection | TransferEncoding => false,
        Known::Upgrade => keep_upgrade,
        _ => true,
    });
    Ok(Some(FramedResponse { length, framing, keeps }))
}

/// Where the head ends: behind the first empty line.
fn end(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, b"\r\n\r\n").map(|at| at + 4)
}

/// Start and end of the line at `from` without its end, and where the next begins. Lines end with CR LF and nothing else.
fn take_line(head: &[u8], from: usize) -> Option<((usize, usize), usize)> {
    let feed = from + memchr(b'\n', &head[from..])?;
    (feed > from && head[feed - 1] == b'\r').then(|| ((from, feed - 1), feed + 1))
}

/// Status, and whether the version is 1.1.
fn status_line(line: &[u8]) -> Option<(u16, bool)> {
    let (version, rest) = (line.get(..9)?, &line[9..]);
    let is_http11 = match version {
        b"HTTP/1.1 " => true,
        b"HTTP/1.0 " => false,
        _ => return None,
    };
    let ([a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9'], reason) = rest.split_first_chunk()? else { return None };
    let is_reason = matches!(reason, []) || reason.first() == Some(&b' ') && is_value(reason);
    let digit = |byte: u8| u16::from(byte - b'0');
    is_reason.then(|| (digit(*a) * 100 + digit(*b) * 10 + digit(*c), is_http11))
}

fn field(head: &[u8], (start, end): (usize, usize), response: &mut ResponseHead) -> Result<(), Malformed> {
    let line = &head[start..end];
    // A line that begins with white space is folded into the one before (obs-fold).
    let colon = memchr(b':', line).filter(|at| *at > 0).ok_or(Malformed)?;
    if !is_name(&line[..colon]) || !is_value(&line[colon + 1..]) {
        return Err(Malformed);
    }
    let value = line[colon + 1..].trim_ascii_start();
    let value_start = start + line.len() - value.len();
    let value = Span::new(value_start, value.trim_ascii_end().len());
    response.fields.announce(Span::new(start, colon), value);
    Ok(())
}

fn framing(response: &ResponseHead) -> Result<Framing, Malformed> {
    let mut lengths = response.fields.all(Known::ContentLength);
    let length = lengths.next().map(|length| decimal(length).ok_or(Malformed)).transpose()?;
    if lengths.next().is_some() {
        return Err(Malformed);
    }
    let mut codings = response.fields.all(Known::TransferEncoding);
    match (codings.next(), codings.next(), length) {
        (None, _, Some(length)) => Ok(Framing::Length(length)),
        (None, _, None) => Ok(Framing::Close),
        (Some(coding), None, None) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        // Another coding, or chunks and a length: where the body ends would be a guess.
        _ => Err(Malformed),
    }
}

fn keeps(response: &ResponseHead, is_http11: bool) -> bool {
    let options = response.fields.all(Known::Connection).flat_map(|value| value.split(|byte| *byte == b','));
    let mut keeps = is_http11;
    for option in options.map(<[u8]>::trim_ascii) {
        if option.eq_ignore_ascii_case(b"close") {
            return false;
        }
        keeps |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    keeps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Option<(u16, Framing, bool)>, Malformed> {
        let mut response = ResponseHead::default();
        let read = read(text.as_bytes(), &mut response)?;
        Ok(read.map(|framed| {
            assert_eq!(framed.length, text.find("\r\n\r\n").unwrap() + 4);
            (response.status, framed.framing, framed.keeps)
        }))
    }

    #[test]
    fn heads_are_read_with_their_framing() {
        let ok = |text: &str, status, framing, keeps| {
            assert_eq!(check(text), Ok(Some((status, framing, keeps))), "{text:?}")
        };
        ok("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, Framing::Length(5), true);
        ok("HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n", 200, Framing::Chunked, true);
        ok("HTTP/1.1 204 \r\n\r\n", 204, Framing::Close, true);
        ok("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n", 200, Framing::Length(0), false);
        ok("HTTP/1.0 404 Not\tFound\r\nContent-Length: 1\r\n\r\n", 404, Framing::Length(1), false);
        ok("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", 200, Framing::Length(1), true);
        for part in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n\r"] {
            assert_eq!(check(part), Ok(None), "{part:?}");
        }
    }

    #[test]
    fn what_concerns_the_connection_is_left_out() {
        let mut response = ResponseHead::default();
        let text = "HTTP/1.1 200 OK\r\nX-A:  b \r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nUpgrade: h2\r\n\
                    Transfer-Encoding: chunked\r\n\r\n";
        read(text.as_bytes(), &mut response).unwrap().unwrap();
        let fields: Vec<_> = response.fields.iter().collect();
        assert_eq!(fields, [(&b"x-a"[..], &b"b"[..])]);
    }

    #[test]
    fn heads_that_are_none_are_refused() {
        for text in [
            "HTTP/1.1 99 x\r\n\r\n",
            "HTTP/1.1 1000 x\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n\r\n",
            "HTTP/1.1 000 OK\r\n\r\n",
            "HTTP/1.1 200OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA\r\n\r\n",
            "HTTP/1.1 200 OK\nA: b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(check(text), Err(Malformed), "{text:?}");
        }
        let many: String = (0..101).map(|number| format!("a{number}: b\r\n")).collect();
        assert_eq!(check(&format!("HTTP/1.1 200 OK\r\n{many}\r\n")), Err(Malformed));
        let long = "x".repeat(MAX_BYTES);
        assert_eq!(check(&format!("HTTP/1.1 200 OK\r\na: {long}\r\n\r\n")), Err(Malformed));
        assert_eq!(check(&format!("HTTP/1.1 200 OK\r\na: {long}")), Err(Malformed));
    }

    /// Random bytes never make it panic, and a head is the same however much of the body came with it.
    #[test]
    fn mutations_are_read_or_refused() {
        let seed = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\nX: y\r\n\r\nhello";
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let mut bytes = seed.to_vec();
            for _ in 0..random.usize(1..4) {
                let at = random.usize(..bytes.len());
                bytes[at] = *random.choice(b"\r\n :\0\t,;Hx09").unwrap();
            }
            let (mut one, mut two) = (ResponseHead::default(), ResponseHead::default());
            let Ok(Some(framed)) = read(&bytes, &mut one) else { continue };
            assert_eq!(read(&bytes[..framed.length], &mut two), Ok(Some(framed)));
            assert_eq!(one.fields.iter().collect::<Vec<_>>(), two.fields.iter().collect::<Vec<_>>());
        }
    }
}
