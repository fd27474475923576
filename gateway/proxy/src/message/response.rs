use http::StatusCode;

use super::Fields;
use super::request::write_field;

/// The head of an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResponseHead {
    /// 100 to 999; 0 while there is none.
    pub(crate) status: u16,
    pub(crate) fields: Fields,
}

impl ResponseHead {
    /// Forgets everything but the memory.
    pub(crate) fn clear(&mut self) {
        self.status = 0;
        self.fields.clear();
    }

    /// An interim answer, after which another follows on the same connection (1xx but 101).
    pub(crate) fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// Appends the head as HTTP/1.1 has it, in Envoy's form: names in lower case and the status' own reason.
    pub(crate) fn write_http1(&self, out: &mut Vec<u8>) {
        out.reserve(64 + self.fields.size() as usize);
        self.write_status_line(out);
        for (name, value) in self.fields.iter() {
            write_field(name, value, out);
        }
        out.extend_from_slice(b"\r\n");
    }

    fn write_status_line(&self, out: &mut Vec<u8>) {
        if self.status == 200 {
            return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        }
        let reason = match self.status {
            // The `http` crate has it without its hyphen (RFC 9110 section 15.3.4).
            203 => Some("Non-Authoritative Information"),
            status => StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()),
        };
        out.extend_from_slice(b"HTTP/1.1 ");
        let digits = [self.status / 100 % 10, self.status / 10 % 10, self.status % 10];
        out.extend(digits.map(|digit| b'0' + digit as u8));
        out.push(b' ');
        out.extend_from_slice(reason.unwrap_or("Unknown").as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_written_with_the_status_own_reason() {
        let check = |status: u16, line: &str| {
            let mut head = ResponseHead { status, ..ResponseHead::default() };
            head.fields.add("server", b"x");
            let mut out = Vec::new();
            head.write_http1(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("HTTP/1.1 {line}\r\nserver: x\r\n\r\n"));
        };
        check(200, "200 OK");
        check(503, "503 Service Unavailable");
        check(799, "799 Unknown");
    }
}
