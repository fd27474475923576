//! The bytes of an HTTP/1 answer's head, in Envoy's form.
//!
//! Pingora writes some names in title case, keeps the case of a backend's names, and says `Connection: keep-alive`, which
//! no HTTP/1.1 client has to be told. Envoy writes every name in lower case and mentions only a connection that closes.

use bytes::{BufMut, BytesMut};
use memchr::memmem;

const LINE_END: &[u8] = b"\r\n";

/// Appends `head`, the whole head of an answer, to `out` and returns its status. None, with `out` as it was, for bytes
/// that are no such head.
pub(crate) fn append(head: &[u8], out: &mut BytesMut) -> Option<u16> {
    let status = head.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    let status: u16 = std::str::from_utf8(status).ok()?.parse().ok()?;
    let mut rest = head.strip_suffix(LINE_END)?;
    out.reserve(head.len());
    let mut is_status_line = true;
    while !rest.is_empty() {
        let end = memmem::find(rest, LINE_END).map_or(rest.len(), |at| at + LINE_END.len());
        let (line, after) = rest.split_at(end);
        rest = after;
        if std::mem::replace(&mut is_status_line, false) {
            out.put_slice(line);
        } else if !line.eq_ignore_ascii_case(b"connection: keep-alive\r\n") {
            field(line, out);
        }
    }
    out.put_slice(LINE_END);
    Some(status)
}

fn field(line: &[u8], out: &mut BytesMut) {
    let name = memchr::memchr(b':', line).unwrap_or(line.len());
    let start = out.len();
    out.put_slice(line);
    out[start..start + name].make_ascii_lowercase();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, status: Option<u16>, expected: &str) {
        let mut out = BytesMut::from("before");
        assert_eq!(append(head.as_bytes(), &mut out), status, "{head:?}");
        assert_eq!(std::str::from_utf8(&out).unwrap(), format!("before{expected}"));
    }

    #[test]
    fn names_are_lower_case_and_values_as_they_were() {
        check(
            "HTTP/1.1 200 Fine Day\r\nContent-Type: Text/HTML\r\nX-MiXed:a: B\r\nDate: Now\r\n\r\n",
            Some(200),
            "HTTP/1.1 200 Fine Day\r\ncontent-type: Text/HTML\r\nx-mixed:a: B\r\ndate: Now\r\n\r\n",
        );
        check("HTTP/1.1 204 \r\n\r\n", Some(204), "HTTP/1.1 204 \r\n\r\n");
    }

    #[test]
    fn only_a_connection_that_changes_is_mentioned() {
        check(
            "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nA: b\r\n\r\n",
            Some(200),
            "HTTP/1.1 200 OK\r\na: b\r\n\r\n",
        );
        check(
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
            Some(200),
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n",
        );
        check(
            "HTTP/1.1 101 S\r\nConnection: Upgrade\r\n\r\n",
            Some(101),
            "HTTP/1.1 101 S\r\nconnection: Upgrade\r\n\r\n",
        );
    }

    #[test]
    fn what_is_no_head_is_left_alone() {
        for bytes in ["", "HTTP/1.1 200", "HTTP/1.1 2x0 OK\r\n\r\n", "body\r\n", "HTTP/1.1 200 OK\r\nA: b"] {
            check(bytes, None, "");
        }
    }
}
