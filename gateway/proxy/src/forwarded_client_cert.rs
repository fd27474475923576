//! `x-forwarded-client-cert`: what backends are told of the client's certificate.
//!
//! Source: Envoy, "HTTP header manipulation", x-forwarded-client-cert, with what istiod sets for gateways. Envoy does
//! not look at the values that it puts together; here a value that could be taken for the next key is quoted, and bytes
//! that no header may have are percent-encoded.

use std::fmt::Write;
use std::sync::Arc;

use http::HeaderValue;
use tidegate_snapshot::{ClientCertDetails, ForwardClientCert, MeshSettings};

use crate::message::{Fields, Known};
use crate::tls::TlsInfo;

/// An element that was made for a connection, and for which details.
#[derive(Debug)]
pub(crate) struct Element {
    details: ClientCertDetails,
    value: HeaderValue,
}

/// Makes the header of a request what its backend may see; `tls` is the client's connection if it has TLS.
///
/// Clients without a certificate have the header taken away, unless it is passed on from whoever sends it.
pub(crate) fn settle(fields: &mut Fields, tls: Option<&TlsInfo>, mesh: &MeshSettings) {
    let shown = tls.filter(|tls| tls.peer.is_some());
    match (mesh.forward_client_cert, shown) {
        (ForwardClientCert::AlwaysForwardOnly, _) | (ForwardClientCert::ForwardOnly, Some(_)) => {}
        (ForwardClientCert::Sanitize | ForwardClientCert::ForwardOnly, _) | (_, None) => {
            fields.remove_known(Known::ForwardedClientCert);
        }
        (ForwardClientCert::SanitizeSet, Some(tls)) => {
            fields.set_known(Known::ForwardedClientCert, element(tls, mesh.client_cert_details).as_bytes());
        }
        (ForwardClientCert::AppendForward, Some(tls)) => {
            let own = element(tls, mesh.client_cert_details);
            let mut all: Vec<u8> = Vec::new();
            for value in fields.all(Known::ForwardedClientCert) {
                all.extend_from_slice(value);
                all.push(b',');
            }
            all.extend_from_slice(own.as_bytes());
            fields.set_known(Known::ForwardedClientCert, &all);
        }
    }
}

/// The element of a connection's client, made once while its details stay what they are.
fn element(tls: &TlsInfo, details: ClientCertDetails) -> HeaderValue {
    if let Some(element) = &*tls.forwarded.load()
        && element.details == details
    {
        return element.value.clone();
    }
    // Every byte of it is printable ASCII.
    let value = HeaderValue::from_str(&compose(tls, details)).unwrap_or_else(|_| HeaderValue::from_static(""));
    tls.forwarded.store(Some(Arc::new(Element { details, value: value.clone() })));
    value
}

fn compose(tls: &TlsInfo, details: ClientCertDetails) -> String {
    let Some(peer) = &tls.peer else { return String::new() };
    let facts = peer.facts();
    let mut out = String::with_capacity(256);
    for uri in tls.local_uri_sans() {
        pair(&mut out, "By", uri);
    }
    pair(&mut out, "Hash", &facts.fingerprint);
    if details.cert {
        quoted(&mut out, "Cert", &peer.url_encoded_pem());
    }
    if details.chain {
        quoted(&mut out, "Chain", &peer.url_encoded_chain());
    }
    if details.subject {
        // RFC 2253 has escaped its quotes already.
        quoted(&mut out, "Subject", &facts.subject);
    }
    if details.uri {
        // The key is there even if there is no URI.
        if facts.uri_sans.is_empty() {
            pair(&mut out, "URI", "");
        }
        for uri in &facts.uri_sans {
            pair(&mut out, "URI", uri);
        }
    }
    if details.dns {
        for name in &facts.dns_sans {
            pair(&mut out, "DNS", name);
        }
    }
    out
}

fn key(out: &mut String, key: &str) {
    if !out.is_empty() {
        out.push(';');
    }
    out.push_str(key);
    out.push('=');
}

fn pair(out: &mut String, name: &str, value: &str) {
    key(out, name);
    let quotes = value.bytes().any(|byte| matches!(byte, b',' | b';' | b'"'));
    if quotes {
        out.push('"');
    }
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' if quotes => {
                out.push('\\');
                out.push(char::from(byte));
            }
            b'!'..=b'~' => out.push(char::from(byte)),
            // Writing to a text cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    if quotes {
        out.push('"');
    }
}

fn quoted(out: &mut String, name: &str, value: &str) {
    key(out, name);
    out.push('"');
    out.push_str(value);
    out.push('"');
}
