//! What to look at next when a request found nothing that serves it.

use crate::explain::Outcome;
use crate::{Explanation, Snapshot};

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
        Outcome::Forward { clusters, .. } => {
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
        Outcome::Redirect { .. } | Outcome::DirectResponse { .. } => {}
    }
    hints
}

fn no_virtual_host(snapshot: &Snapshot, explanation: &Explanation, hints: &mut Vec<String>) {
    let host = &explanation.request.host;
    let mut best: Option<(f64, String, u16)> = None;
    let tables = snapshot
        .listeners()
        .iter()
        .flat_map(|listener| listener.filter_chains().iter().map(move |chain| (listener.port, chain)))
        .filter_map(|(port, chain)| Some((port, chain.route_table()?)));
    let mut compared = 0;
    for (port, table) in tables {
        if port != explanation.request.port && table.select_virtual_host(host).is_some() {
            hints.push(format!("port {port} serves `{host}`"));
            continue;
        }
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

/// Routes that something other than the path kept away, which is what one most often overlooks.
fn nearest_route(explanation: &Explanation, hints: &mut Vec<String>) {
    let near = explanation.tried.iter().filter(|tried| !tried.reason.starts_with("path "));
    for route in near.take(MAX_ROUTES) {
        let name = if route.name.is_empty() { format!("#{}", route.index + 1) } else { format!("`{}`", route.name) };
        hints.push(format!("route {name} fits by its path, but {}", route.reason));
    }
}
