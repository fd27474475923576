use http::HeaderName;
use tidegate_snapshot::Headers;

use super::{Fields, Known};

/// What a client speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Protocol {
    #[default]
    Http11,
    Http2,
}

impl Protocol {
    /// As logs have it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// The head of a request. The authority is here and not among the fields, wherever it was sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestHead {
    pub(crate) protocol: Protocol,
    pub(crate) method: String,
    /// Path and query; what a client sent until [`crate::edge::admit`] has made it canonical. Empty if it was no text.
    pub(crate) target: String,
    /// `:authority`, else `Host`. Empty if there is none that is text.
    pub(crate) authority: String,
    /// The client said that it will send no other request on its connection.
    pub(crate) closes: bool,
    pub(crate) fields: Fields,
}

impl RequestHead {
    /// Forgets everything but the memory.
    pub(crate) fn clear(&mut self) {
        self.protocol = Protocol::Http11;
        self.method.clear();
        self.target.clear();
        self.authority.clear();
        self.closes = false;
        self.fields.clear();
    }

    /// Makes the value of `Host` the authority.
    pub(crate) fn take_host(&mut self) {
        let host = self.fields.get(Known::Host).and_then(|host| std::str::from_utf8(host).ok());
        // What is no ASCII is no host; the request is refused for having none.
        self.authority.push_str(host.filter(|host| host.is_ascii()).unwrap_or_default());
        self.fields.remove_known(Known::Host);
    }

    pub(crate) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    /// Whether it asks for a WebSocket, once it is canonical.
    pub(crate) fn is_upgrade(&self) -> bool {
        self.fields.contains(Known::Upgrade)
    }

    /// RFC 9110 section 9.2.2.
    pub(crate) fn is_idempotent(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
    }

    /// The path and what stands after `?`.
    pub(crate) fn path_and_query(&self) -> (&str, Option<&str>) {
        match self.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&self.target, None),
        }
    }

    /// Bytes of the head as metrics count them.
    pub(crate) fn size(&self) -> u64 {
        self.fields.size() + (self.target.len() + "host".len() + self.authority.len() + 4) as u64
    }

    /// Appends the head as HTTP/1.1 has it, framing and connection options as they are among the fields.
    pub(crate) fn write_http1(&self, out: &mut Vec<u8>) {
        out.reserve(64 + self.size() as usize);
        for part in [&self.method, " ", &self.target, " HTTP/1.1\r\nhost: ", &self.authority, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
        for (name, value) in self.fields.iter() {
            write_field(name, value, out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

pub(super) fn write_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

impl Headers for RequestHead {
    /// Of `host` the one value is the authority, as Envoy has it.
    fn values<'a>(&'a self, name: &HeaderName, each: &mut dyn FnMut(&'a [u8])) {
        if Known::of(name.as_str().as_bytes()) == Known::Host {
            return each(self.authority.as_bytes());
        }
        self.fields.values(name, each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_written_with_its_host_first() {
        let mut head = RequestHead { method: "GET".into(), target: "/a?b".into(), ..RequestHead::default() };
        head.authority = "a.com:80".into();
        head.fields.add("accept", b"*/*");
        head.fields.add("empty", b"");
        let mut out = Vec::new();
        head.write_http1(&mut out);
        assert_eq!(out, b"GET /a?b HTTP/1.1\r\nhost: a.com:80\r\naccept: */*\r\nempty: \r\n\r\n");
        assert_eq!(head.first(&http::header::HOST), Some(&b"a.com:80"[..]));
        assert_eq!(head.path_and_query(), ("/a", Some("b")));
    }
}
