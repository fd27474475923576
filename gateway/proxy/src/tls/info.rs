use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::{CipherSuite, HandshakeKind, ProtocolVersion, ServerConnection};
use tidegate_snapshot::ServerTls;

use super::{PeerCertificate, ServerContext, ServerMaterial};
use crate::forwarded_client_cert::Element;

/// What a client's handshake came to.
#[derive(Debug)]
pub(crate) struct TlsInfo {
    context: Arc<ServerContext>,
    material: Arc<ServerMaterial>,
    pub(crate) version: Version,
    cipher: CipherSuite,
    pub(crate) alpn: Alpn,
    pub(crate) resumed: bool,
    /// What the client showed, now or in the session that it resumed.
    pub(crate) peer: Option<PeerCertificate>,
    /// What backends were last told of the client.
    pub(crate) forwarded: ArcSwapOption<Element>,
}

/// The protocol that ALPN settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Alpn {
    /// One side does not use ALPN.
    None,
    Http1,
    Http2,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

impl Version {
    pub(crate) const ALL: [Self; 2] = [Self::Tls12, Self::Tls13];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

impl TlsInfo {
    /// Of a session whose handshake is done, under `context` with `material`.
    pub(crate) fn new(session: &ServerConnection, context: Arc<ServerContext>, material: Arc<ServerMaterial>) -> Self {
        Self {
            context,
            material,
            version: match session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => Version::Tls12,
                _ => Version::Tls13,
            },
            cipher: session.negotiated_cipher_suite().map_or(CipherSuite::TLS_NULL_WITH_NULL_NULL, |it| it.suite()),
            alpn: match session.alpn_protocol() {
                None => Alpn::None,
                Some(b"h2") => Alpn::Http2,
                Some(b"http/1.1" | b"http/1.0") => Alpn::Http1,
                Some(_) => Alpn::Other,
            },
            resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            peer: session.peer_certificates().and_then(PeerCertificate::new),
            forwarded: ArcSwapOption::empty(),
        }
    }

    /// Name of the filter chain that the connection was accepted under.
    pub(crate) fn chain(&self) -> &str {
        self.context.chain()
    }

    /// How that chain terminated TLS.
    pub(crate) fn settings(&self) -> &ServerTls {
        self.context.settings()
    }

    /// URIs in the certificate that the gateway has.
    pub(crate) fn local_uri_sans(&self) -> &[String] {
        &self.material.uri_sans
    }

    /// By OpenSSL's name, as Envoy has it.
    pub(crate) fn cipher(&self) -> &'static str {
        match self.cipher {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
            CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
            other => other.as_str().unwrap_or_default(),
        }
    }
}
