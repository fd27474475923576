//! Heads as the `h2` crate has them, from and to ours.

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::response_head::{MAX_FIELDS, Malformed};
use crate::edge;
use crate::message::{Fields, Known, RequestHead, Span};

/// HTTP/2 has no room for this request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Inexpressible;

/// Makes an HTTP/2 head of `request`, for a backend that is reached through TLS or not. What means something to one
/// HTTP/1 connection only is left out (RFC 9113 section 8.2.2).
pub(super) fn request(request: &RequestHead, is_secure: bool) -> Result<Request<()>, Inexpressible> {
    let mut head = Request::new(());
    *head.method_mut() = Method::from_bytes(request.method.as_bytes()).map_err(|_| Inexpressible)?;
    *head.version_mut() = Version::HTTP_2;
    *head.uri_mut() = uri(request, is_secure)?;
    *head.headers_mut() = headers(&request.fields)?;
    Ok(head)
}

fn uri(request: &RequestHead, is_secure: bool) -> Result<Uri, Inexpressible> {
    let scheme = if is_secure { Scheme::HTTPS } else { Scheme::HTTP };
    let mut text = BytesMut::with_capacity(request.authority.len() + request.target.len());
    text.put_slice(request.authority.as_bytes());
    text.put_slice(request.target.as_bytes());
    let mut authority = text.freeze();
    let target = authority.split_off(request.authority.len());
    let authority = Authority::from_maybe_shared(authority).map_err(|_| Inexpressible)?;
    let target = match PathAndQuery::from_maybe_shared(target) {
        Ok(target) => target,
        Err(_) => PathAndQuery::try_from(encode(&request.target)).map_err(|_| Inexpressible)?,
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority);
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).map_err(|_| Inexpressible)
}

/// Encodes what clients of HTTP/1 send as it is and no URI may hold (RFC 3986 section 2).
fn encode(target: &str) -> Vec<u8> {
    target.bytes().fold(Vec::with_capacity(target.len() + 16), |mut text, byte| {
        match byte {
            b'<' | b'>' | b'`' | b'"' | b'#' | b'\\' | b'^' | b'{' | b'|' | b'}' | ..=b' ' | 0x7f.. => {
                // Writing to memory does not fail.
                _ = write!(text, "%{byte:02X}");
            }
            _ => text.push(byte),
        }
        text
    })
}

fn headers(fields: &Fields) -> Result<HeaderMap, Inexpressible> {
    let mut headers = HeaderMap::with_capacity(fields.len());
    // The values share one piece of memory, which they are parts of.
    let mut values = BytesMut::with_capacity(fields.iter().map(|(_, value)| value.len()).sum());
    fields.iter().for_each(|(_, value)| values.put_slice(value));
    let mut values = values.freeze();
    for (known, name, value) in fields.iter_known() {
        let value = values.split_to(value.len());
        let (name, value) = match known {
            Known::Connection
            | Known::Host
            | Known::Http2Settings
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade => continue,
            // gRPC demands it, and it is the one value that HTTP/2 allows.
            Known::Te if headers.contains_key(http::header::TE) => continue,
            Known::Te if edge::accepts_trailers(std::iter::once(&*value)) => {
                (http::header::TE, HeaderValue::from_static("trailers"))
            }
            Known::Te => continue,
            known => (self::name(known, name)?, self::value(value)?),
        };
        headers.try_append(name, value).map_err(|_| Inexpressible)?;
    }
    Ok(headers)
}

fn name(known: Known, name: &[u8]) -> Result<HeaderName, Inexpressible> {
    match known {
        Known::Other | Known::Envoy => HeaderName::from_lowercase(name).map_err(|_| Inexpressible),
        // Names that are constants are neither looked at nor copied.
        known => Ok(HeaderName::from_static(known.as_str())),
    }
}

fn value(value: Bytes) -> Result<HeaderValue, Inexpressible> {
    HeaderValue::from_maybe_shared(value).map_err(|_| Inexpressible)
}

/// Replaces `fields` by `headers`, with `room` to put them together in.
///
/// # Errors
/// They are more than a backend may send.
pub(super) fn read(headers: &HeaderMap, fields: &mut Fields, room: &mut [u8]) -> Result<(), Malformed> {
    if headers.len() > MAX_FIELDS {
        return Err(Malformed);
    }
    fields.clear();
    let mut end = 0;
    let mut put = |bytes: &[u8]| {
        let span = Span::new(end, bytes.len());
        room.get_mut(end..end + bytes.len()).ok_or(Malformed)?.copy_from_slice(bytes);
        end += bytes.len();
        Ok(span)
    };
    for (name, value) in headers {
        fields.announce(put(name.as_str().as_bytes())?, put(value.as_bytes())?);
    }
    fields.adopt(&room[..end]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(edit: impl FnOnce(&mut RequestHead), is_secure: bool) -> Result<Request<()>, Inexpressible> {
        let mut head = RequestHead { method: "GET".into(), target: "/a?b".into(), ..RequestHead::default() };
        head.authority = "a.com:80".into();
        edit(&mut head);
        request(&head, is_secure)
    }

    #[test]
    fn a_request_has_its_authority_in_its_target_and_nothing_of_http1() {
        let head = check(
            |head| {
                head.fields.add("connection", b"x");
                head.fields.add("x-a", b"1");
                head.fields.add("transfer-encoding", b"chunked");
                head.fields.add("keep-alive", b"5");
                head.fields.add("x-a", b"");
                head.fields.add("upgrade", b"h2c");
                head.fields.add("http2-settings", b"AAA");
                head.fields.add("proxy-connection", b"close");
                head.fields.add("x-request-id", b"\xffid");
            },
            true,
        )
        .unwrap();
        assert_eq!(head.uri(), "https://a.com:80/a?b");
        let all: Vec<_> = head.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(all, [("x-a", &b"1"[..]), ("x-a", b""), ("x-request-id", b"\xffid")]);
        assert_eq!(check(|_| {}, false).unwrap().uri().scheme_str(), Some("http"));
    }

    #[test]
    fn te_says_trailers_or_nothing() {
        let te = |values: &[&str]| {
            let head = check(|head| values.iter().for_each(|value| head.fields.add("te", value.as_bytes())), true);
            let values: Vec<_> = head.unwrap().headers().get_all("te").iter().cloned().collect();
            values
        };
        assert_eq!(te(&["gzip, Trailers;"]), Vec::<HeaderValue>::new());
        assert_eq!(te(&["gzip, Trailers", "trailers"]), ["trailers"]);
        assert_eq!(te(&["gzip", "trailers"]), ["trailers"]);
    }

    #[test]
    fn targets_that_no_uri_may_be_are_encoded() {
        let target = |target: &str| check(|head| head.target = target.into(), true).map(|head| head.uri().to_string());
        assert_eq!(target("/<a>`b?q=\"<"), Ok("https://a.com:80/%3Ca%3E%60b?q=%22%3C".into()));
        assert_eq!(target("/{\"a\"}?^|"), Ok("https://a.com:80/{\"a\"}?^|".into()));
        assert_eq!(target(&format!("/{}", "a".repeat(70_000))), Err(Inexpressible));
        assert_eq!(check(|head| head.authority = "a b".into(), true).map(drop), Err(Inexpressible));
        assert_eq!(check(|head| head.method = "G T".into(), true).map(drop), Err(Inexpressible));
        assert_eq!(check(|head| head.fields.add("a b", b""), true).map(drop), Err(Inexpressible));
        assert_eq!(check(|head| head.fields.add("a", b"\n"), true).map(drop), Err(Inexpressible));
    }

    #[test]
    fn answers_are_read_within_their_limits() {
        let mut headers = HeaderMap::new();
        headers.append("content-length", HeaderValue::from_static("5"));
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        let mut fields = Fields::default();
        fields.add("of", b"another");
        read(&headers, &mut fields, &mut [0; 64]).unwrap();
        let all: Vec<_> = fields.iter().collect();
        assert_eq!(all, [(&b"content-length"[..], &b"5"[..]), (b"x-a", b"1"), (b"x-a", b"2")]);
        assert!(fields.contains(Known::ContentLength));
        assert_eq!(read(&headers, &mut fields, &mut [0; 20]), Err(Malformed));
        (0..MAX_FIELDS).for_each(|_| _ = headers.append("x-b", HeaderValue::from_static("")));
        assert_eq!(read(&headers, &mut fields, &mut [0; 4096]), Err(Malformed));
    }
}
