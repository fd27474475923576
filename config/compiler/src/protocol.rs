/// The protocol that a port declares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Http,
    Http2,
    Grpc,
    GrpcWeb,
    Https,
    Tls,
    Tcp,
    Udp,
    /// Mongo, Redis, MySQL: opaque bytes.
    Opaque,
    /// Not declared.
    Unknown,
}

impl Protocol {
    /// A protocol by name, in any case (istio `protocol.Parse`).
    pub(crate) fn parse(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "http" | "http_proxy" => Self::Http,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "mongo" | "redis" | "mysql" => Self::Opaque,
            _ => Self::Unknown,
        }
    }

    /// The protocol of a Kubernetes port: `appProtocol` if it is set, else the prefix of the name up to the first `-`
    /// (istio `kube.ConvertProtocol`).
    pub(crate) fn of_service_port(name: &str, app_protocol: &str, transport: &str) -> Self {
        if transport.eq_ignore_ascii_case("udp") {
            return Self::Udp;
        }
        let text = match app_protocol {
            "" => name,
            "kubernetes.io/h2c" => return Self::Http2,
            "kubernetes.io/ws" => return Self::Http,
            "kubernetes.io/wss" => return Self::Https,
            declared => declared,
        };
        if text.get(..8).is_some_and(|head| head.eq_ignore_ascii_case("grpc-web")) {
            return Self::GrpcWeb;
        }
        Self::parse(text.split('-').next().unwrap_or(text))
    }

    /// The protocol of a ServiceEntry's port; an empty one means TCP.
    pub(crate) fn of_entry_port(protocol: &str) -> Self {
        if protocol.is_empty() { Self::Tcp } else { Self::parse(protocol) }
    }

    pub(crate) fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http) || self.is_http2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_declare_their_protocol_by_name_or_app_protocol() {
        let check = |name: &str, app: &str, expected: Protocol| {
            assert_eq!(Protocol::of_service_port(name, app, "TCP"), expected, "{name} {app}");
        };
        check("http", "", Protocol::Http);
        check("http-web", "", Protocol::Http);
        check("HTTP2-x", "", Protocol::Http2);
        check("grpc", "", Protocol::Grpc);
        check("grpc-web", "", Protocol::GrpcWeb);
        check("grpc-web-x", "", Protocol::GrpcWeb);
        check("grpc-webx", "", Protocol::GrpcWeb);
        check("web", "", Protocol::Unknown);
        check("", "", Protocol::Unknown);
        check("https-x", "", Protocol::Https);
        check("httpx", "", Protocol::Unknown);
        check("http", "grpc", Protocol::Grpc);
        check("http", "kubernetes.io/h2c", Protocol::Http2);
        check("x", "kubernetes.io/ws", Protocol::Http);
        check("grpc", "example.com/custom", Protocol::Unknown);
        assert_eq!(Protocol::of_service_port("http", "", "UDP"), Protocol::Udp);
        assert_eq!(Protocol::of_entry_port(""), Protocol::Tcp);
        assert_eq!(Protocol::of_entry_port("HTTP2"), Protocol::Http2);
    }
}
