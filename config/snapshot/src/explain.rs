//! Why a request or a connection goes where it goes: the selection functions run again, with everything written down.

mod connection;
mod secrets;

use http::HeaderMap;
use serde::Serialize;
use tidegate_core::Origin;

pub use connection::{ExplainedClientTls, ExplainedFilterChain, ExplainedSecret, ExplainedTls, server_name_of};
pub use secrets::{SecretStanding, SecretState};

use crate::hints::hints;
use crate::{
    BadPath, Discovery, HeaderOperations, ListenerProtocol, NetworkFilter, RequestView, Route, RouteAction, Snapshot,
    host_without_port, normalize,
};

/// Servers of a TLS listener that are named where none of them is chosen.
const MAX_SERVERS: usize = 20;

/// A request to explain, as a client would send it; or a connection, of which only the fields down to the server name
/// count.
#[derive(Clone, Debug)]
pub struct ExplainRequest {
    pub method: String,
    /// `http` or `https`; `tls` or `tcp` for a connection whose bytes are unknown.
    pub scheme: String,
    /// Host header, with its port if it is not the scheme's.
    pub authority: String,
    /// What the client sends as SNI: see [`server_name_of`]. None if it sends none.
    pub server_name: Option<String>,
    /// Origin form: path and query.
    pub target: String,
    pub headers: HeaderMap,
    /// The port that a Gateway names.
    pub port: u16,
}

/// The whole decision. Its JSON form is stable: fields are added, never renamed.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub snapshot: String,
    pub request: ExplainedRequest,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<ExplainedPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter_chain: Option<ExplainedFilterChain>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_host: Option<ExplainedVirtualHost>,
    /// Every route of the virtual host up to the one that was taken, in order of evaluation.
    pub tried: Vec<TriedRoute>,
    pub outcome: Outcome,
    /// What to look at next, for people; empty if the request is served.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ExplainedRequest {
    pub method: String,
    pub authority: String,
    /// Host that selects the virtual host.
    pub host: String,
    pub target: String,
    /// Path and query after normalization.
    pub normalized: String,
    pub port: u16,
    pub scheme: String,
    /// SNI; none where there is no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ExplainedPart {
    pub name: String,
    pub configured_at: Vec<Place>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ExplainedVirtualHost {
    pub name: String,
    pub domains: Vec<String>,
    pub route_table: String,
    pub configured_at: Vec<Place>,
}

/// An object and where it stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Place {
    /// `VirtualService ns/name`.
    pub object: String,
    #[serde(serialize_with = "display")]
    pub origin: Origin,
}

fn display<S: serde::Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[derive(Clone, Debug, Serialize)]
pub struct TriedRoute {
    /// Place in the order of evaluation, from 0.
    pub index: usize,
    pub name: String,
    pub place: Place,
    pub matched: bool,
    /// Why it did not match; empty for the route that was taken.
    pub reason: String,
}

#[derive(Clone, Debug, Serialize)]
#[serde(tag = "action", rename_all = "camelCase")]
pub enum Outcome {
    #[serde(rename_all = "camelCase")]
    Forward {
        clusters: Vec<ExplainedCluster>,
        /// What goes upstream.
        path: String,
        authority: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        timeout_ms: Option<u64>,
        request_headers: HeaderOperations,
        response_headers: HeaderOperations,
    },
    Redirect {
        status: u16,
        location: String,
    },
    DirectResponse {
        status: u16,
    },
    /// The bytes of the connection are forwarded.
    #[serde(rename_all = "camelCase")]
    Proxy {
        clusters: Vec<ExplainedCluster>,
        #[serde(skip_serializing_if = "Option::is_none")]
        idle_timeout_ms: Option<u64>,
    },
    /// The connection is served; what its requests get is not asked.
    Accepted {
        reason: String,
    },
    /// The gateway answers by itself because nothing fits.
    LocalReply {
        status: u16,
        flags: &'static str,
        details: &'static str,
        reason: String,
    },
}

#[derive(Clone, Debug, Serialize)]
pub struct ExplainedCluster {
    pub name: String,
    /// Share of the requests in percent.
    pub percent: f64,
    pub found: bool,
    pub endpoints: Vec<ExplainedEndpoint>,
    pub configured_at: Vec<Place>,
    /// None for plaintext.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ExplainedClientTls>,
    /// Of this destination alone.
    #[serde(skip_serializing_if = "HeaderOperations::is_empty")]
    pub request_headers: HeaderOperations,
    #[serde(skip_serializing_if = "HeaderOperations::is_empty")]
    pub response_headers: HeaderOperations,
}

#[derive(Clone, Debug, Serialize)]
pub struct ExplainedEndpoint {
    /// `ip:port`, or `name:port` with `resolved: false` for a name that the data plane resolves.
    pub address: String,
    pub healthy: bool,
    pub weight: u32,
    pub workload: String,
    #[serde(serialize_with = "display")]
    pub origin: Origin,
}

fn places(sources: &[(tidegate_core::ResourceKey, Origin)]) -> Vec<Place> {
    sources.iter().map(|(key, origin)| Place { object: key.to_string(), origin: origin.clone() }).collect()
}

impl Snapshot {
    /// The Gateway port that a URL means: its own if a server listens there, or is bound there at +8000; the scheme's
    /// if it names none; else the only one that there is.
    pub fn port_of_url(&self, scheme: &str, url_port: Option<u16>) -> u16 {
        let listens = |port: u16| self.listeners().iter().any(|listener| listener.port == port);
        if let Some(port) = url_port {
            let named = port.checked_sub(8000).filter(|named| (1..1024).contains(named) && listens(*named));
            return if listens(port) { port } else { named.unwrap_or(port) };
        }
        let default = if matches!(scheme, "https" | "tls") { 443 } else { 80 };
        match self.listeners() {
            [only] if !listens(default) => only.port,
            _ => default,
        }
    }

    /// Explains what serving `request` would do, without randomness: a weighted route shows all its clusters. A Snapshot
    /// holds no secrets: [`Explanation::hold_against_secrets`] says what they make of it.
    pub fn explain(&self, request: &ExplainRequest) -> Explanation {
        let mut explanation = Explanation {
            snapshot: self.hash().to_string(),
            request: ExplainedRequest {
                method: request.method.clone(),
                authority: request.authority.clone(),
                host: host_without_port(&request.authority).to_ascii_lowercase(),
                target: request.target.clone(),
                normalized: String::new(),
                port: request.port,
                scheme: request.scheme.clone(),
                server_name: if matches!(request.scheme.as_str(), "https" | "tls") {
                    request.server_name.as_ref().map(|name| name.to_ascii_lowercase())
                } else {
                    None
                },
            },
            listener: None,
            filter_chain: None,
            virtual_host: None,
            tried: Vec::new(),
            outcome: Outcome::LocalReply {
                status: 404,
                flags: "NR",
                details: "route_not_found",
                reason: "no route of the virtual host matches".into(),
            },
            hints: Vec::new(),
        };
        explanation.outcome = self.explain_into(request, &mut explanation);
        explanation.hints = hints(self, &explanation);
        explanation
    }

    fn explain_into(&self, request: &ExplainRequest, explanation: &mut Explanation) -> Outcome {
        let not_found =
            |reason: String| Outcome::LocalReply { status: 404, flags: "NR", details: "route_not_found", reason };
        let Some(listener) = self.listeners().iter().find(|listener| listener.port == request.port) else {
            let ports: Vec<_> = self.listeners().iter().map(|listener| listener.port.to_string()).collect();
            return Outcome::LocalReply {
                status: 0,
                flags: "-",
                details: "no_listener",
                reason: format!(
                    "no Gateway server listens on port {}; there are: {}",
                    request.port,
                    if ports.is_empty() { "none".into() } else { ports.join(", ") }
                ),
            };
        };
        let shown = if listener.protocol == ListenerProtocol::Tls { MAX_SERVERS } else { usize::MAX };
        let sources = listener.sources.get(..shown).unwrap_or(&listener.sources);
        explanation.listener = Some(ExplainedPart { name: listener.name.clone(), configured_at: places(sources) });
        let chain = match self.explain_chain(listener, &request.scheme, explanation) {
            Ok(chain) => chain,
            Err(outcome) => return *outcome,
        };
        if matches!(request.scheme.as_str(), "tls" | "tcp") {
            return self.explain_bytes(chain);
        }
        let table = match &chain.filter {
            NetworkFilter::Http(table) => table,
            NetworkFilter::Tcp(proxy) => return self.explain_proxy(proxy),
        };
        let normalized = match normalize(&request.target, self.mesh().path_normalization) {
            Ok(normalized) => normalized.into_owned(),
            Err(error @ (BadPath::Nul | BadPath::NotAbsolute)) => {
                return Outcome::LocalReply {
                    status: 400,
                    flags: "-",
                    details: "path_normalization_failed",
                    reason: error.to_string(),
                };
            }
        };
        explanation.request.normalized.clone_from(&normalized);
        if let Some(outcome) = connection::misdirection(listener, chain, &request.authority) {
            return outcome;
        }
        let Some(host) = table.select_virtual_host(&explanation.request.host) else {
            return not_found(format!("no virtual host of {} has the host", table.name));
        };
        explanation.virtual_host = Some(ExplainedVirtualHost {
            name: host.name.clone(),
            domains: host.domains.iter().map(ToString::to_string).collect(),
            route_table: table.name.clone(),
            configured_at: places(&host.sources),
        });
        let (path, query) = match normalized.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (normalized.as_str(), None),
        };
        let view = RequestView {
            method: &request.method,
            scheme: &request.scheme,
            authority: &request.authority,
            path,
            query,
            headers: &request.headers,
        };
        if host.https_redirect && request.scheme == "http" {
            return Outcome::Redirect { status: 301, location: format!("https://{}{normalized}", request.authority) };
        }
        let taken = host.select_route(&view);
        for (index, route) in host.routes().iter().enumerate().take(taken.map_or(usize::MAX, |taken| taken + 1)) {
            let mismatch = route.matcher.evaluate(&view).err();
            explanation.tried.push(TriedRoute {
                index,
                name: route.name.clone(),
                place: Place { object: route.source.key.to_string(), origin: route.source.origin.clone() },
                matched: mismatch.is_none(),
                reason: mismatch.map(|m| m.to_string()).unwrap_or_default(),
            });
        }
        match taken {
            Some(taken) => self.outcome(&host.routes()[taken], &view, listener.port),
            None if host.routes().is_empty() => not_found("the virtual host has no routes".into()),
            None => not_found("no route of the virtual host matches".into()),
        }
    }

    fn outcome(&self, route: &Route, request: &RequestView<'_>, port: u16) -> Outcome {
        match &route.action {
            RouteAction::Redirect(redirect) => Outcome::Redirect {
                status: redirect.status,
                location: redirect.location(request, &route.matcher.path, port),
            },
            RouteAction::DirectResponse(response) => Outcome::DirectResponse { status: response.status },
            RouteAction::Forward(forward) => {
                let total: u64 = forward.clusters().iter().map(|c| u64::from(c.weight)).sum();
                let single = forward.clusters().len() == 1;
                let clusters = forward
                    .clusters()
                    .iter()
                    .map(|weighted| {
                        let percent = if single { 100.0 } else { f64::from(weighted.weight) * 100.0 / total as f64 };
                        ExplainedCluster {
                            request_headers: weighted.request_headers.clone(),
                            response_headers: weighted.response_headers.clone(),
                            ..self.explained_cluster(weighted.cluster.name(), percent)
                        }
                    })
                    .collect();
                let path = match &forward.path_rewrite {
                    Some(rewrite) => rewrite.apply(&route.matcher.path, request.path).into_owned(),
                    None => request.path.to_owned(),
                };
                Outcome::Forward {
                    clusters,
                    path: match request.query {
                        Some(query) => format!("{path}?{query}"),
                        None => path,
                    },
                    authority: forward.authority.clone().unwrap_or_else(|| request.authority.to_owned()),
                    timeout_ms: forward.timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX)),
                    request_headers: route.request_headers.clone(),
                    response_headers: route.response_headers.clone(),
                }
            }
        }
    }

    fn explained_cluster(&self, name: &str, percent: f64) -> ExplainedCluster {
        let cluster = self.cluster_named(name);
        let endpoints = match cluster.map(|cluster| &cluster.discovery) {
            None => Vec::new(),
            Some(Discovery::Static(endpoints)) => endpoints
                .iter()
                .map(|endpoint| ExplainedEndpoint {
                    address: endpoint.address.to_string(),
                    healthy: endpoint.health == crate::Health::Healthy,
                    weight: endpoint.weight,
                    workload: endpoint.workload.name.clone(),
                    origin: endpoint.origin.clone(),
                })
                .collect(),
            Some(Discovery::Dns(targets)) => targets
                .iter()
                .map(|target| ExplainedEndpoint {
                    address: format!("{}:{}", target.host, target.port),
                    healthy: true,
                    weight: target.weight,
                    workload: target.workload.name.clone(),
                    origin: target.origin.clone(),
                })
                .collect(),
        };
        ExplainedCluster {
            name: name.to_owned(),
            percent,
            found: cluster.is_some(),
            endpoints,
            configured_at: cluster.map(|cluster| places(&cluster.sources)).unwrap_or_default(),
            tls: cluster.and_then(|cluster| cluster.tls.as_deref()).map(Into::into),
            request_headers: HeaderOperations::default(),
            response_headers: HeaderOperations::default(),
        }
    }
}
