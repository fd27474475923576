//! Field names that have a number, so that nobody compares bytes to find out which field it is.

macro_rules! known {
    ($($variant:ident = $name:literal,)*) => {
        /// A field name that is known by number: those of HPACK's static table, those that HTTP/2 has rules for, and those
        /// that a gateway reads or writes itself. Names are in lower case.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Known {
            $($variant,)*
        }

        impl Known {
            /// All of them, in their order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number of a name in lower case; none for names that have none.
            #[must_use]
            #[inline]
            pub fn of(name: &[u8]) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The name, in lower case.
            #[must_use]
            #[inline]
            pub fn name(self) -> &'static [u8] {
                NAMES[self as usize]
            }
        }

        static NAMES: [&[u8]; Known::ALL.len()] = [$($name,)*];
    };
}

known! {
    PseudoAuthority = b":authority",
    PseudoMethod = b":method",
    PseudoPath = b":path",
    PseudoScheme = b":scheme",
    PseudoStatus = b":status",
    PseudoProtocol = b":protocol",
    AcceptCharset = b"accept-charset",
    AcceptEncoding = b"accept-encoding",
    AcceptLanguage = b"accept-language",
    AcceptRanges = b"accept-ranges",
    Accept = b"accept",
    AccessControlAllowOrigin = b"access-control-allow-origin",
    Age = b"age",
    Allow = b"allow",
    Authorization = b"authorization",
    CacheControl = b"cache-control",
    ContentDisposition = b"content-disposition",
    ContentEncoding = b"content-encoding",
    ContentLanguage = b"content-language",
    ContentLength = b"content-length",
    ContentLocation = b"content-location",
    ContentRange = b"content-range",
    ContentType = b"content-type",
    Cookie = b"cookie",
    Date = b"date",
    Etag = b"etag",
    Expect = b"expect",
    Expires = b"expires",
    From = b"from",
    Host = b"host",
    IfMatch = b"if-match",
    IfModifiedSince = b"if-modified-since",
    IfNoneMatch = b"if-none-match",
    IfRange = b"if-range",
    IfUnmodifiedSince = b"if-unmodified-since",
    LastModified = b"last-modified",
    Link = b"link",
    Location = b"location",
    MaxForwards = b"max-forwards",
    ProxyAuthenticate = b"proxy-authenticate",
    ProxyAuthorization = b"proxy-authorization",
    Range = b"range",
    Referer = b"referer",
    Refresh = b"refresh",
    RetryAfter = b"retry-after",
    Server = b"server",
    SetCookie = b"set-cookie",
    StrictTransportSecurity = b"strict-transport-security",
    TransferEncoding = b"transfer-encoding",
    UserAgent = b"user-agent",
    Vary = b"vary",
    Via = b"via",
    WwwAuthenticate = b"www-authenticate",
    // Fields of one connection (RFC 9113 section 8.2.2), and what surrounds them.
    Connection = b"connection",
    KeepAlive = b"keep-alive",
    ProxyConnection = b"proxy-connection",
    Upgrade = b"upgrade",
    Te = b"te",
    Trailer = b"trailer",
    // What a gateway reads or writes.
    Forwarded = b"forwarded",
    XForwardedFor = b"x-forwarded-for",
    XForwardedProto = b"x-forwarded-proto",
    XForwardedHost = b"x-forwarded-host",
    XForwardedPort = b"x-forwarded-port",
    XForwardedClientCert = b"x-forwarded-client-cert",
    XRealIp = b"x-real-ip",
    XRequestId = b"x-request-id",
    Traceparent = b"traceparent",
    Tracestate = b"tracestate",
    B3 = b"b3",
    Baggage = b"baggage",
    Origin = b"origin",
    AccessControlRequestMethod = b"access-control-request-method",
    AccessControlRequestHeaders = b"access-control-request-headers",
    GrpcTimeout = b"grpc-timeout",
    GrpcStatus = b"grpc-status",
    GrpcMessage = b"grpc-message",
    Priority = b"priority",
    XEnvoyUpstreamServiceTime = b"x-envoy-upstream-service-time",
    XEnvoyDecoratorOperation = b"x-envoy-decorator-operation",
    XEnvoyExternalAddress = b"x-envoy-external-address",
    XEnvoyInternal = b"x-envoy-internal",
    XEnvoyAttemptCount = b"x-envoy-attempt-count",
    XEnvoyOriginalPath = b"x-envoy-original-path",
    XEnvoyExpectedRqTimeoutMs = b"x-envoy-expected-rq-timeout-ms",
}

impl Known {
    /// Whether the name begins with a colon (RFC 9113 section 8.3).
    #[must_use]
    #[inline]
    pub fn is_pseudo(self) -> bool {
        self <= Self::PseudoProtocol
    }

    /// Whether no message of HTTP/2 may have it, because it speaks of one connection of HTTP/1 (RFC 9113 section 8.2.2).
    /// `te` is none of them: it may say `trailers`.
    #[must_use]
    #[inline]
    pub fn is_connection_specific(self) -> bool {
        matches!(
            self,
            Self::Connection | Self::KeepAlive | Self::ProxyConnection | Self::TransferEncoding | Self::Upgrade
        )
    }

    /// The bit of this name in a set.
    #[inline]
    pub(crate) const fn bit(self) -> u128 {
        1 << self as u8
    }
}

const _: () = assert!(Known::ALL.len() <= 128, "a set of names is 128 bits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_belong_together() {
        for known in Known::ALL {
            assert_eq!(Known::of(known.name()), Some(*known));
            assert_eq!(known.is_pseudo(), known.name().starts_with(b":"));
            assert_eq!(known.name(), known.name().to_ascii_lowercase());
        }
        assert_eq!(Known::of(b"x-other"), None);
        assert_eq!(Known::of(b""), None);
    }
}
