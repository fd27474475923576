//! What to look at next when a request found nothing that serves it.

use crate::explain::Outcome;
use crate::{Explanation, FilterChain, Listener, ListenerProtocol, NetworkFilter, Snapshot};

/// Names that are less alike than this are not suggested.
const LIKENESS: f64 = 0.75;
/// Hosts that are compared at most: hints are for people, and ten thousand hosts must not make them wait.
const MAX_COMPARED: usize = 20_000;

/// Gateways that one hint names.
const MAX_GATEWAYS: usize = 3;
/// Routes that almost matched, in hints.
const MAX_ROUTES: usize = 2;

/// Advice in the order of its worth; empty for a request that is served.
pub(crate) fn hints(snapshot: &Snapshot, explanation: &Explanation) -> Vec<String> {
    let mut hints = Vec::new();
    match &explanation.outcome {
        Outcome::Forward { clusters, .. } | Outcome::Proxy { clusters, .. } => {
            for cluster in clusters {
                if !cluster.found {
                    hints.push(format!(
                        "`{}` does not exist: is there a Service or ServiceEntry with that host and port, and a \
                         DestinationRule with that subset?",
                        cluster.name
                    ));
                } else if cluster.endpoints.is_empty() {
                    hints.push(format!(
                        "`{}` has no endpoints: do the labels of any Pod, EndpointSlice or WorkloadEntry fit?",
                        cluster.name
                    ));
                }
            }
        }
        Outcome::LocalReply { details: "misdirected_request", .. } => hints.push(
            "a client that opens a connection for that host gets its server; what reuses connections for hosts of \
             other servers (HTTP/2 with one certificate for all) gets 421 and opens one"
                .into(),
        ),
        Outcome::LocalReply { details: "filter_chain_not_found", .. } => no_filter_chain(snapshot, explanation, &mut hints),
        Outcome::LocalReply { details: "no_route", .. } => hints.push(
            "a VirtualService that names the Gateway must bring a rule for it: `tcp` where TLS is terminated or absent, \
             `tls` with `sniHosts` where it is passed through"
                .into(),
        ),
        Outcome::LocalReply { details: "server_not_served", .. } => {
            hints.push("`tidegate validate -x` says what is wrong with the server".into());
        }
        Outcome::LocalReply { details: "tls_error", .. } => {
            let is_encrypted = matches!(explanation.request.scheme.as_str(), "https" | "tls");
            let other = if is_encrypted { "http" } else { "https" };
            hints.push(format!("explain {other}://, or another port with --port"));
        }
        Outcome::LocalReply { .. } => {
            if explanation.virtual_host.is_none() {
                no_virtual_host(snapshot, explanation, &mut hints);
            } else if explanation.tried.is_empty() {
                hints.push(
                    "a Gateway admits this host, and no VirtualService that names the Gateway brings routes for it; \
                     `tidegate validate -x` says why one that you expect does not bind"
                        .into(),
                );
            } else {
                nearest_route(explanation, &mut hints);
            }
        }
        Outcome::Redirect { .. } | Outcome::DirectResponse { .. } | Outcome::Accepted { .. } => {}
    }
    hints
}

fn no_virtual_host(snapshot: &Snapshot, explanation: &Explanation, hints: &mut Vec<String>) {
    let host = &explanation.request.host;
    let mut best: Option<(f64, String, u16)> = None;
    let others = snapshot.listeners().iter().filter(|listener| listener.port != explanation.request.port);
    for listener in others.filter(|listener| serves(listener, host)) {
        hints.push(format!("port {} serves `{host}`", listener.port));
    }
    let tables = snapshot
        .listeners()
        .iter()
        .flat_map(|listener| listener.filter_chains().iter().map(move |chain| (listener.port, chain)))
        .filter_map(|(port, chain)| Some((port, chain.route_table()?)));
    let mut compared = 0;
    for (port, table) in tables {
        for domain in table.virtual_hosts().iter().flat_map(|virtual_host| &virtual_host.domains) {
            compared += 1;
            if compared > MAX_COMPARED {
                break;
            }
            let likeness = strsim::jaro_winkler(host, domain.as_str());
            if likeness >= LIKENESS && best.as_ref().is_none_or(|(best, ..)| likeness > *best) {
                best = Some((likeness, domain.to_string(), port));
            }
        }
    }
    if explanation.listener.is_none() {
        return;
    }
    let gateways = explanation.listener.iter().flat_map(|listener| &listener.configured_at);
    let mut gateways: Vec<_> = gateways.map(|place| format!("`{}`", place.object)).collect();
    gateways.dedup();
    gateways.truncate(MAX_GATEWAYS);
    if !gateways.is_empty() {
        hints.push(format!(
            "no VirtualService brings routes for `{host}`: one must name that host, or a wildcard over it, and {} among \
             its gateways; and the Gateway must admit the host",
            gateways.join(" or ")
        ));
    }
    if let Some((_, domain, port)) = best {
        hints.push(format!("the most similar host is `{domain}` (port {port})"));
    }
}

/// Whether a request for a host, by whoever asks for it by its own server name, finds a virtual host.
fn serves(listener: &Listener, host: &str) -> bool {
    let chain = match listener.protocol {
        ListenerProtocol::Tls => listener.select_filter_chain(Some(host)),
        ListenerProtocol::Http | ListenerProtocol::Tcp => listener.filter_chains().first().map(AsRef::as_ref),
    };
    chain.and_then(FilterChain::route_table).is_some_and(|table| table.select_virtual_host(host).is_some())
}

/// The server name that is most like the one that nobody has.
fn no_filter_chain(snapshot: &Snapshot, explanation: &Explanation, hints: &mut Vec<String>) {
    let Some(asked) = &explanation.request.server_name else {
        hints.push("clients send no server name for an IP address; a server with the host `*` would take them".into());
        return;
    };
    let listeners = || snapshot.listeners().iter().filter(|listener| listener.port == explanation.request.port);
    let names = listeners().flat_map(|listener| listener.filter_chains()).flat_map(|chain| &chain.server_names);
    let likeness = |name: &str| strsim::jaro_winkler(asked, name);
    let scored = names.take(MAX_COMPARED).map(|name| (likeness(name.as_str()), name));
    let best = scored.filter(|(likeness, _)| *likeness >= LIKENESS).max_by(|(a, _), (b, _)| a.total_cmp(b));
    if let Some((_, name)) = best {
        hints.push(format!("the most similar server name is `{name}`"));
    }
    hints.push("a server of a Gateway must have the host, or a wildcard over it (`tidegate validate -x` tells of servers that were left out)".into());
    let mut chains = listeners().flat_map(|listener| listener.filter_chains());
    if chains.any(|chain| chain.tls.is_none() && matches!(&chain.filter, NetworkFilter::Tcp(it) if it.source.is_some()))
    {
        hints.push(
            "where TLS is passed through, the name must be among the `sniHosts` of a `tls` rule as well: the server's \
             host alone does not take it"
                .into(),
        );
    }
}

/// Routes that something other than the path kept away, which is what one most often overlooks.
fn nearest_route(explanation: &Explanation, hints: &mut Vec<String>) {
    let near = explanation.tried.iter().filter(|tried| !tried.reason.starts_with("path "));
    for route in near.take(MAX_ROUTES) {
        let name = if route.name.is_empty() { format!("#{}", route.index + 1) } else { format!("`{}`", route.name) };
        hints.push(format!("route {name} fits by its path, but {}", route.reason));
    }
}
