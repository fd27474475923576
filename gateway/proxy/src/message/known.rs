/// Names of fields that the gateway itself has something to do with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Known {
    /// Any other name.
    Other,
    Connection,
    ContentLength,
    ContentType,
    Cookie,
    Date,
    Expect,
    GrpcMessage,
    GrpcStatus,
    GrpcTimeout,
    Host,
    Http2Settings,
    KeepAlive,
    Location,
    ProxyConnection,
    Server,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    AttemptCount,
    DecoratorOperation,
    ExpectedTimeout,
    ExternalAddress,
    OriginalPath,
    PeerMetadata,
    PeerMetadataId,
    ServiceTime,
    /// Any other name that begins with `x-envoy-`.
    Envoy,
    ForwardedClientCert,
    ForwardedFor,
    ForwardedHost,
    ForwardedProto,
    IstioAttributes,
    RequestId,
}

impl Known {
    /// What `name`, in lower case, is.
    pub(crate) fn of(name: &[u8]) -> Self {
        match name {
            b"connection" => Self::Connection,
            b"content-length" => Self::ContentLength,
            b"content-type" => Self::ContentType,
            b"cookie" => Self::Cookie,
            b"date" => Self::Date,
            b"expect" => Self::Expect,
            b"grpc-message" => Self::GrpcMessage,
            b"grpc-status" => Self::GrpcStatus,
            b"grpc-timeout" => Self::GrpcTimeout,
            b"host" => Self::Host,
            b"http2-settings" => Self::Http2Settings,
            b"keep-alive" => Self::KeepAlive,
            b"location" => Self::Location,
            b"proxy-connection" => Self::ProxyConnection,
            b"server" => Self::Server,
            b"te" => Self::Te,
            b"trailer" => Self::Trailer,
            b"transfer-encoding" => Self::TransferEncoding,
            b"upgrade" => Self::Upgrade,
            b"x-forwarded-client-cert" => Self::ForwardedClientCert,
            b"x-forwarded-for" => Self::ForwardedFor,
            b"x-forwarded-host" => Self::ForwardedHost,
            b"x-forwarded-proto" => Self::ForwardedProto,
            b"x-istio-attributes" => Self::IstioAttributes,
            b"x-request-id" => Self::RequestId,
            _ if name.starts_with(b"x-envoy-") => match &name[b"x-envoy-".len()..] {
                b"attempt-count" => Self::AttemptCount,
                b"decorator-operation" => Self::DecoratorOperation,
                b"expected-rq-timeout-ms" => Self::ExpectedTimeout,
                b"external-address" => Self::ExternalAddress,
                b"original-path" => Self::OriginalPath,
                b"peer-metadata" => Self::PeerMetadata,
                b"peer-metadata-id" => Self::PeerMetadataId,
                b"upstream-service-time" => Self::ServiceTime,
                _ => Self::Envoy,
            },
            _ => Self::Other,
        }
    }

    /// The name; empty for the two that stand for several.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Other | Self::Envoy => "",
            Self::Connection => "connection",
            Self::ContentLength => "content-length",
            Self::ContentType => "content-type",
            Self::Cookie => "cookie",
            Self::Date => "date",
            Self::Expect => "expect",
            Self::GrpcMessage => "grpc-message",
            Self::GrpcStatus => "grpc-status",
            Self::GrpcTimeout => "grpc-timeout",
            Self::Host => "host",
            Self::Http2Settings => "http2-settings",
            Self::KeepAlive => "keep-alive",
            Self::Location => "location",
            Self::ProxyConnection => "proxy-connection",
            Self::Server => "server",
            Self::Te => "te",
            Self::Trailer => "trailer",
            Self::TransferEncoding => "transfer-encoding",
            Self::Upgrade => "upgrade",
            Self::AttemptCount => "x-envoy-attempt-count",
            Self::DecoratorOperation => "x-envoy-decorator-operation",
            Self::ExpectedTimeout => "x-envoy-expected-rq-timeout-ms",
            Self::ExternalAddress => "x-envoy-external-address",
            Self::OriginalPath => "x-envoy-original-path",
            Self::PeerMetadata => "x-envoy-peer-metadata",
            Self::PeerMetadataId => "x-envoy-peer-metadata-id",
            Self::ServiceTime => "x-envoy-upstream-service-time",
            Self::ForwardedClientCert => "x-forwarded-client-cert",
            Self::ForwardedFor => "x-forwarded-for",
            Self::ForwardedHost => "x-forwarded-host",
            Self::ForwardedProto => "x-forwarded-proto",
            Self::IstioAttributes => "x-istio-attributes",
            Self::RequestId => "x-request-id",
        }
    }

    /// Whether the name begins with `x-envoy-`.
    pub(crate) fn is_envoys(self) -> bool {
        matches!(
            self,
            Self::AttemptCount
                | Self::DecoratorOperation
                | Self::ExpectedTimeout
                | Self::ExternalAddress
                | Self::OriginalPath
                | Self::PeerMetadata
                | Self::PeerMetadataId
                | Self::ServiceTime
                | Self::Envoy
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_by_itself() {
        let mut names = 0;
        for number in 0..=255u8 {
            let Some(known) = ALL.iter().find(|known| **known as u8 == number) else { continue };
            names += 1;
            assert_eq!(Known::of(known.as_str().as_bytes()), *known);
            assert_eq!(known.is_envoys(), known.as_str().starts_with("x-envoy-"));
        }
        assert_eq!(names, ALL.len());
        assert_eq!(Known::of(b"x-envoy-retry-on"), Known::Envoy);
        assert_eq!(Known::of(b"x-envoy"), Known::Other);
        assert_eq!(Known::of(b""), Known::Other);
    }

    const ALL: [Known; 33] = [
        Known::Connection,
        Known::ContentLength,
        Known::ContentType,
        Known::Cookie,
        Known::Date,
        Known::Expect,
        Known::GrpcMessage,
        Known::GrpcStatus,
        Known::GrpcTimeout,
        Known::Host,
        Known::Http2Settings,
        Known::KeepAlive,
        Known::Location,
        Known::ProxyConnection,
        Known::Server,
        Known::Te,
        Known::Trailer,
        Known::TransferEncoding,
        Known::Upgrade,
        Known::AttemptCount,
        Known::DecoratorOperation,
        Known::ExpectedTimeout,
        Known::ExternalAddress,
        Known::OriginalPath,
        Known::PeerMetadata,
        Known::PeerMetadataId,
        Known::ServiceTime,
        Known::ForwardedClientCert,
        Known::ForwardedFor,
        Known::ForwardedHost,
        Known::ForwardedProto,
        Known::IstioAttributes,
        Known::RequestId,
    ];
}
