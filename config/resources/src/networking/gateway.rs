//! `Gateway` (istio/api `gateway.proto`, and `ecdhCurves` of 1.32).

use std::collections::BTreeMap;

use crate::decode::{enumeration, message};

message! {
    /// A load balancer at the edge: what it listens to, for which hosts, with which TLS.
    pub struct Gateway {
        pub servers: Vec<Server> => "servers",
        /// Labels of the gateway workloads that this object configures, in every namespace; empty selects all.
        pub selector: BTreeMap<String, String> => "selector",
    }

    /// One port with the hosts that it serves.
    pub struct Server {
        pub port: Option<Port> => "port",
        /// IP address or `unix://` path; empty binds all addresses.
        pub bind: String => "bind",
        /// `dns`, `ns/dns`, `*/dns` or `./dns`; wildcards admitted.
        pub hosts: Vec<String> => "hosts",
        pub tls: Option<Box<ServerTlsSettings>> => "tls",
        /// Unused by Istio too.
        pub default_endpoint: String => "defaultEndpoint" [ignored "Istio reserves it and uses it nowhere"],
        /// Unique within the Gateway if it is set.
        pub name: String => "name",
    }

    /// Port of a server.
    pub struct Port {
        /// 1-65535.
        pub number: u32 => "number",
        /// HTTP, HTTPS, GRPC, GRPC-WEB, HTTP2, MONGO, REDIS, MYSQL, TCP or TLS; case is folded.
        pub protocol: String => "protocol",
        pub name: String => "name",
        /// Deprecated; Istio's webhook refuses it.
        pub target_port: u32 => "targetPort",
    }

    /// How a server terminates TLS.
    pub struct ServerTlsSettings {
        /// Answers every plaintext request of the server's hosts with 301 to https.
        pub https_redirect: bool => "httpsRedirect",
        pub mode: ServerTlsMode => "mode",
        pub server_certificate: String => "serverCertificate",
        pub private_key: String => "privateKey",
        pub ca_certificates: String => "caCertificates",
        pub ca_crl: String => "caCrl",
        pub credential_name: String => "credentialName",
        pub credential_names: Vec<String> => "credentialNames",
        pub ca_cert_credential_name: String => "caCertCredentialName",
        pub tls_certificates: Vec<TlsCertificate> => "tlsCertificates",
        pub subject_alt_names: Vec<String> => "subjectAltNames",
        pub verify_certificate_spki: Vec<String> => "verifyCertificateSpki",
        pub verify_certificate_hash: Vec<String> => "verifyCertificateHash",
        pub min_protocol_version: TlsProtocol => "minProtocolVersion",
        pub max_protocol_version: TlsProtocol => "maxProtocolVersion",
        pub cipher_suites: Vec<String> => "cipherSuites",
        pub ecdh_curves: Vec<String> => "ecdhCurves",
        pub insecure_skip_verify: Option<bool> => "insecureSkipVerify",
    }

    /// One certificate of `tlsCertificates`, by file.
    pub struct TlsCertificate {
        pub server_certificate: String => "serverCertificate",
        pub private_key: String => "privateKey",
        pub ca_certificates: String => "caCertificates"
            [ignored "clients are verified against `caCertificates` of `tls`, for all its certificates together"],
    }
}

enumeration! {
    /// `tls.mode` of a server.
    pub enum ServerTlsMode {
        #[default]
        Passthrough = "PASSTHROUGH",
        Simple = "SIMPLE",
        Mutual = "MUTUAL",
        AutoPassthrough = "AUTO_PASSTHROUGH",
        IstioMutual = "ISTIO_MUTUAL",
        OptionalMutual = "OPTIONAL_MUTUAL",
    }

    /// Version of TLS.
    pub enum TlsProtocol {
        #[default]
        Auto = "TLS_AUTO",
        V1_0 = "TLSV1_0",
        V1_1 = "TLSV1_1",
        V1_2 = "TLSV1_2",
        V1_3 = "TLSV1_3",
    }
}
