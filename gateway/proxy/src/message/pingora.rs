//! From Pingora's heads and back, for what is served through Pingora: HTTP/2, upgrades and HTTP/2 backends.

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};
use pingora_error::{ErrorType::InvalidHTTPHeader, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};

use super::{Fields, Known, Protocol, RequestHead, ResponseHead};

impl RequestHead {
    /// Takes what `header` says.
    pub(crate) fn read(&mut self, header: &RequestHeader) {
        self.clear();
        self.protocol = if header.version == Version::HTTP_2 { Protocol::Http2 } else { Protocol::Http11 };
        self.method.push_str(header.method.as_str());
        self.target.push_str(std::str::from_utf8(header.raw_path()).unwrap_or_default());
        match header.uri.authority() {
            Some(authority) => self.authority.push_str(authority.as_str()),
            None => {
                let host = header.headers.get(HOST).and_then(|host| host.to_str().ok());
                self.authority.push_str(host.unwrap_or_default());
            }
        }
        read(&header.headers, &mut self.fields);
        self.fields.remove_known(Known::Host);
    }

    /// Makes `header`, which this was read from, say what is here.
    ///
    /// # Errors
    /// Something that no header may hold, which nothing that was validated has.
    pub(crate) fn write(&self, header: &mut RequestHeader) -> Result<()> {
        let has_host = header.headers.contains_key(HOST);
        clear(&header.headers.keys().cloned().collect::<Vec<_>>(), |name| drop(header.remove_header(name)));
        if header.uri.authority().is_some() {
            let mut parts = header.uri.clone().into_parts();
            parts.path_and_query = Some(self.target.parse().or_err(InvalidHTTPHeader, "a path that is none")?);
            parts.authority = Some(self.authority.parse().or_err(InvalidHTTPHeader, "an authority that is none")?);
            header.set_uri(Uri::from_parts(parts).or_err(InvalidHTTPHeader, "a path that is none")?);
            if has_host {
                header.insert_header(HOST, self.authority.as_str())?;
            }
        } else {
            header.set_raw_path(self.target.as_bytes())?;
            header.insert_header(HOST, self.authority.as_str())?;
        }
        for (name, value) in self.fields.iter() {
            header.append_header(self::name(name)?, self::value(value)?)?;
        }
        Ok(())
    }
}

impl ResponseHead {
    /// Takes what `header` says.
    pub(crate) fn read(&mut self, header: &ResponseHeader) {
        self.clear();
        self.status = header.status.as_u16();
        read(&header.headers, &mut self.fields);
    }

    /// Makes `header`, which this was read from, say what is here.
    ///
    /// # Errors
    /// As [`RequestHead::write`].
    pub(crate) fn write(&self, header: &mut ResponseHeader) -> Result<()> {
        clear(&header.headers.keys().cloned().collect::<Vec<_>>(), |name| drop(header.remove_header(name)));
        for (name, value) in self.fields.iter() {
            header.append_header(self::name(name)?, self::value(value)?)?;
        }
        Ok(())
    }

    /// A header of Pingora's that says what is here.
    ///
    /// # Errors
    /// As [`RequestHead::write`].
    pub(crate) fn to_pingora(&self) -> Result<ResponseHeader> {
        let mut header = ResponseHeader::build(self.status, Some(self.fields.len()))?;
        self.write(&mut header)?;
        Ok(header)
    }
}

fn read(headers: &HeaderMap, fields: &mut Fields) {
    for (name, value) in headers {
        fields.add(name.as_str(), value.as_bytes());
    }
}

fn clear(names: &[HeaderName], mut remove: impl FnMut(&HeaderName)) {
    names.iter().for_each(&mut remove);
}

fn name(name: &[u8]) -> Result<HeaderName> {
    HeaderName::from_bytes(name).or_err(InvalidHTTPHeader, "a name that is none")
}

fn value(value: &[u8]) -> Result<HeaderValue> {
    HeaderValue::from_bytes(value).or_err(InvalidHTTPHeader, "a value that is none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_both_protocols_come_back_as_they_were_changed() {
        let mut header = RequestHeader::build("POST", b"/a?b", None).unwrap();
        header.insert_header("host", "a.com").unwrap();
        header.append_header("x-a", "1").unwrap();
        header.append_header("x-a", "2").unwrap();
        let mut head = RequestHead::default();
        head.read(&header);
        assert_eq!((head.method.as_str(), head.target.as_str(), head.authority.as_str()), ("POST", "/a?b", "a.com"));
        head.target = "/c".into();
        head.authority = "b.com".into();
        head.fields.set("x-a", b"3");
        head.write(&mut header).unwrap();
        assert_eq!((header.raw_path(), &header.headers["host"]), (&b"/c"[..], &HeaderValue::from_static("b.com")));
        assert_eq!(header.headers.get_all("x-a").iter().collect::<Vec<_>>(), ["3"]);

        let mut header = RequestHeader::build("GET", b"/", None).unwrap();
        header.set_uri("https://a.com/x".parse().unwrap());
        header.set_version(Version::HTTP_2);
        head.read(&header);
        assert_eq!((head.protocol, head.authority.as_str()), (Protocol::Http2, "a.com"));
        head.authority = "b.com".into();
        head.target = "/y".into();
        head.write(&mut header).unwrap();
        assert_eq!(header.uri.to_string(), "https://b.com/y");
        assert!(!header.headers.contains_key("host"));
    }
}
