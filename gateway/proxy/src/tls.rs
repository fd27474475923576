//! TLS with clients: the ClientHello, the choice of a certificate and of what clients must show, and what is known of
//! a connection once its handshake is done.
//!
//! It owns the server side's library configuration, one per filter chain, made when the first handshake asks for it and
//! anew when one of its secrets changed. It does not own secrets, nor the choice of a filter chain.
//!
//! Invariants: a handshake shows a certificate and signs with its own key; a session is resumed only under the
//! configuration that made it, so what one filter chain trusts never opens another; without what is needed to judge
//! clients, none is admitted.

mod acme;
mod client_verifier;
mod failure;
mod hello;
mod info;
mod peer_certificate;
mod server_context;

pub(crate) use acme::challenge_config;
pub(crate) use failure::{FailedHandshake, HandshakeFailure};
pub(crate) use hello::{Alert, Hello, offers_only_acme, refuse};
pub(crate) use info::{Alpn, TlsInfo, Version};
pub(crate) use peer_certificate::{PeerCertificate, PeerFacts};
pub(crate) use server_context::{ServerContext, ServerMaterial, Unavailable};
