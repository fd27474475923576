//! What of an explanation is known before there is a request: filter chain, TLS, and where bytes go.

use std::net::IpAddr;

use serde::Serialize;
use tidegate_core::SecretName;

use super::{ExplainedCluster, Explanation, Outcome, Place, SecretStanding, places};
use crate::{
    ClientTls, FilterChain, Listener, ListenerProtocol, NetworkFilter, SecretRef, ServerTls, ServerTlsMode,
    ServerTrust, Snapshot, TcpProxy, TlsVersion, UpstreamServerName, host_without_port,
};

/// Server names of one chain that are shown.
const MAX_NAMES: usize = 20;

/// The server name that clients send for an authority: its host, unless that is an address (RFC 6066, section 3).
pub fn server_name_of(authority: &str) -> Option<String> {
    let host = host_without_port(authority);
    let is_address = host.starts_with('[') || host.parse::<IpAddr>().is_ok();
    (!is_address && !host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// What serves a connection.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedFilterChain {
    pub name: String,
    /// At most twenty; empty for any.
    pub server_names: Vec<String>,
    /// How many there are.
    pub server_name_count: usize,
    /// `SIMPLE`, `MUTUAL`, `OPTIONAL_MUTUAL`, `PASSTHROUGH`, `NONE` for plaintext, or `CLOSED` for a server that cannot
    /// be served as it is configured.
    pub tls_mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ExplainedTls>,
    pub configured_at: Vec<Place>,
}

/// How TLS is terminated.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedTls {
    /// `TLSv1.2`.
    pub min_version: TlsVersion,
    pub max_version: TlsVersion,
    pub alpn: Vec<String>,
    pub certificates: Vec<ExplainedSecret>,
    /// What a client's certificate is verified with; none if clients are asked for none, or all are accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_authorities: Option<ExplainedSecret>,
    /// What else a client's certificate has to fit, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub client_conditions: Vec<String>,
}

/// How connections to a cluster are secured.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedClientTls {
    /// SNI; none if it is the Host that goes upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Whose word on the backend's certificate counts; `file-root:system` are the machine's authorities. None if nobody
    /// is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorities: Option<ExplainedSecret>,
    /// One of these must be in the backend's certificate; empty if it must be valid for the server name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<String>,
    /// What the gateway shows of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<ExplainedSecret>,
}

impl From<&ClientTls> for ExplainedClientTls {
    fn from(tls: &ClientTls) -> Self {
        let system = || ExplainedSecret {
            names: vec![SecretName::system_roots().to_string()],
            configured_at: None,
            standing: None,
        };
        Self {
            server_name: match &tls.server_name {
                UpstreamServerName::Fixed(name) => Some(name.clone()),
                UpstreamServerName::FromHost => None,
            },
            authorities: match &tls.trust {
                ServerTrust::System => Some(system()),
                ServerTrust::Authorities(reference) => Some(reference.into()),
                ServerTrust::Unverified => None,
            },
            subject_alt_names: tls.subject_alt_names.clone(),
            certificate: tls.certificate.as_ref().map(Into::into),
        }
    }
}

/// A secret by the names that are tried in order.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedSecret {
    pub names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configured_at: Option<Place>,
    /// None if nobody knows: see [`Explanation::hold_against_secrets`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standing: Option<SecretStanding>,
}

impl From<&SecretRef> for ExplainedSecret {
    fn from(reference: &SecretRef) -> Self {
        let place = |source: &crate::Source| Place { object: source.key.to_string(), origin: source.origin.clone() };
        Self {
            names: reference.names.iter().map(ToString::to_string).collect(),
            configured_at: reference.source.as_ref().map(place),
            standing: None,
        }
    }
}

impl From<&ServerTls> for ExplainedTls {
    fn from(tls: &ServerTls) -> Self {
        let validation = tls.client_validation.as_ref();
        let mut conditions = Vec::new();
        if let Some(validation) = validation {
            if validation.accept_untrusted {
                conditions.push("any certificate is accepted".to_owned());
            }
            if !validation.subject_alt_names.is_empty() {
                conditions.push(format!("one of the names {}", validation.subject_alt_names.join(", ")));
            }
            let pins = validation.spki_hashes.len() + validation.certificate_hashes.len();
            if pins > 0 {
                conditions.push(format!("one of {pins} pinned digests"));
            }
            if let Some(crl) = &validation.crl {
                conditions.push(format!("not revoked by {crl}"));
            }
        }
        Self {
            min_version: tls.parameters.min_version,
            max_version: tls.parameters.max_version,
            alpn: tls.alpn.clone(),
            certificates: tls.certificates.iter().map(Into::into).collect(),
            client_authorities: validation.and_then(|validation| validation.ca.as_ref()).map(Into::into),
            client_conditions: conditions,
        }
    }
}

impl ExplainedFilterChain {
    fn new(chain: &FilterChain, listener: &Listener) -> Self {
        let tls_mode = match &chain.tls {
            Some(tls) => match tls.mode {
                ServerTlsMode::Simple => "SIMPLE",
                ServerTlsMode::Mutual => "MUTUAL",
                ServerTlsMode::OptionalMutual => "OPTIONAL_MUTUAL",
            },
            None if is_closed(chain, listener) => "CLOSED",
            None if listener.protocol == ListenerProtocol::Tls => "PASSTHROUGH",
            None => "NONE",
        };
        // A plaintext listener's only chain has no places of its own.
        let sources = if chain.sources.is_empty() { &listener.sources } else { &chain.sources };
        Self {
            name: chain.name.clone(),
            server_names: chain.server_names.iter().take(MAX_NAMES).map(ToString::to_string).collect(),
            server_name_count: chain.server_names.len(),
            tls_mode,
            tls: chain.tls.as_deref().map(Into::into),
            configured_at: places(sources),
        }
    }
}

/// Whether a chain holds the hosts of a server that cannot be served: nothing terminates TLS, and no rule passes it on.
fn is_closed(chain: &FilterChain, listener: &Listener) -> bool {
    let has_no_rule = matches!(&chain.filter, NetworkFilter::Tcp(proxy) if proxy.source.is_none());
    listener.protocol == ListenerProtocol::Tls && chain.tls.is_none() && has_no_rule
}

fn refused(flags: &'static str, details: &'static str, reason: String) -> Outcome {
    Outcome::LocalReply { status: 0, flags, details, reason }
}

/// The answer to a request whose host belongs to another server than its connection; none if it belongs here.
pub(super) fn misdirection(listener: &Listener, chain: &FilterChain, authority: &str) -> Option<Outcome> {
    if !listener.is_misdirected(&chain.name, authority) {
        return None;
    }
    let host = host_without_port(authority);
    let own = match listener.select_filter_chain(Some(host)) {
        Some(own) => own.name.as_str(),
        None => "no server of the port",
    };
    let reason = format!("the connection is of {}, and the host `{host}` is of {own}", chain.name);
    Some(Outcome::LocalReply { status: 421, flags: "-", details: "misdirected_request", reason })
}

impl Snapshot {
    /// The chain of a connection to `listener`, as serving selects it, or what becomes of the connection instead.
    pub(super) fn explain_chain<'s>(
        &self,
        listener: &'s Listener,
        scheme: &str,
        explanation: &mut Explanation,
    ) -> Result<&'s FilterChain, Box<Outcome>> {
        let server_name = explanation.request.server_name.as_deref();
        let is_encrypted = matches!(scheme, "https" | "tls");
        match listener.protocol {
            ListenerProtocol::Tls if !is_encrypted => {
                let reason =
                    format!("port {} speaks TLS, and this is plaintext: the connection is closed", listener.port);
                return Err(Box::new(refused("-", "tls_error", reason)));
            }
            ListenerProtocol::Http if is_encrypted => {
                let reason = format!("port {} speaks plaintext HTTP: a TLS handshake fails", listener.port);
                return Err(Box::new(refused("-", "tls_error", reason)));
            }
            _ => {}
        }
        let chain = match listener.protocol {
            ListenerProtocol::Tls => listener.select_filter_chain(server_name),
            ListenerProtocol::Http | ListenerProtocol::Tcp => listener.filter_chains().first().map(AsRef::as_ref),
        };
        let Some(chain) = chain else {
            let reason = match server_name {
                Some(name) => {
                    format!("no server of port {} has the server name `{name}`: the handshake fails", listener.port)
                }
                None => format!(
                    "no server of port {} is for connections without a server name: the handshake fails",
                    listener.port
                ),
            };
            return Err(Box::new(refused("NR", "filter_chain_not_found", reason)));
        };
        let explained = ExplainedFilterChain::new(chain, listener);
        if let Some(part) = explanation.listener.as_mut().filter(|_| listener.protocol == ListenerProtocol::Tls) {
            // The port may have ten thousand servers; this is the one that counts.
            part.configured_at.clone_from(&explained.configured_at);
        }
        explanation.filter_chain = Some(explained);
        if is_closed(chain, listener) {
            let reason = "the server that has the host cannot be served as it is configured: the connection is closed";
            return Err(Box::new(refused("NR", "server_not_served", reason.to_owned())));
        }
        Ok(chain)
    }

    /// Where a chain that routes no requests sends its bytes.
    pub(super) fn explain_proxy(&self, proxy: &TcpProxy) -> Outcome {
        if proxy.clusters().is_empty() {
            let reason = "no rule says where its bytes go: the connection is closed".to_owned();
            return refused("NR", "no_route", reason);
        }
        let total: u64 = proxy.clusters().iter().map(|to| u64::from(to.weight)).sum();
        let single = proxy.clusters().len() == 1 || total == 0;
        let clusters = proxy.clusters().iter().map(|to| {
            let percent = if single { 100.0 } else { f64::from(to.weight) * 100.0 / total as f64 };
            self.explained_cluster(to.cluster.name(), percent)
        });
        Outcome::Proxy {
            clusters: clusters.collect::<Vec<ExplainedCluster>>(),
            idle_timeout_ms: proxy.idle_timeout.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// What a connection gets of which only bytes are known.
    pub(super) fn explain_bytes(&self, chain: &FilterChain) -> Outcome {
        match &chain.filter {
            NetworkFilter::Tcp(proxy) => self.explain_proxy(proxy),
            NetworkFilter::Http(table) => {
                Outcome::Accepted { reason: format!("{} routes requests: explain one, by its URL", table.name) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_name_is_a_host_and_no_address() {
        for (authority, name) in [
            ("A.com:8443", Some("a.com")),
            ("a.com", Some("a.com")),
            ("10.0.0.1:443", None),
            ("[::1]:443", None),
            ("::1", None),
            ("", None),
        ] {
            assert_eq!(server_name_of(authority).as_deref(), name, "{authority}");
        }
    }
}
