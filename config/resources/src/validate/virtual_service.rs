//! VirtualService: hosts, gateways, TLS and TCP routes. HTTP routes are in their own module.

use super::{Report, headers, http_route, names, reachability};
use crate::networking::{
    Destination, L4MatchAttributes, RouteDestination, TlsMatchAttributes, TlsRoute, VirtualService,
};

pub(super) fn check(service: &VirtualService, report: &mut Report<'_>) {
    let is_delegate = service.hosts.is_empty();
    if is_delegate {
        let lists = [
            ("gateways", service.gateways.is_empty()),
            ("tls", service.tls.is_empty()),
            ("tcp", service.tcp.is_empty()),
        ];
        for (field, _) in lists.iter().filter(|(_, is_empty)| !is_empty) {
            report.error_with_help(
                &format!("spec.{field}"),
                format!("without `hosts` this is a delegate, which has no `{field}`"),
                "add `hosts` if it is not meant as a delegate",
            );
        }
    }
    check_gateways(&service.gateways, "spec.gateways", report);
    let on_mesh = service.gateways.is_empty() || is_on_mesh(service);
    if on_mesh {
        check_claims(service, report);
    }
    check_hosts(service, on_mesh, report);
    if service.http.is_empty() && service.tcp.is_empty() && service.tls.is_empty() {
        report.error("spec", "a VirtualService needs a rule in `http`, `tls` or `tcp`");
    }
    for (index, route) in service.http.iter().enumerate() {
        http_route::check(route, is_delegate, &format!("spec.http[{index}]"), report);
    }
    for (index, route) in service.tls.iter().enumerate() {
        check_tls_route(route, service, &format!("spec.tls[{index}]"), report);
    }
    for (index, route) in service.tcp.iter().enumerate() {
        let path = format!("spec.tcp[{index}]");
        for (index, condition) in route.r#match.iter().enumerate() {
            check_tcp_match(condition, &format!("{path}.match[{index}]"), report);
        }
        check_routes(&route.route, &path, report);
    }
    report.export_to(&service.export_to, false, false);
    reachability::check(service, report);
}

fn is_on_mesh(service: &VirtualService) -> bool {
    service.gateways.iter().any(|gateway| gateway == "mesh")
}

fn check_claims(service: &VirtualService, report: &mut Report<'_>) {
    for (rule, route) in service.http.iter().enumerate() {
        for (entry, condition) in route.r#match.iter().enumerate() {
            for (field, map) in [("headers", &condition.headers), ("withoutHeaders", &condition.without_headers)] {
                for name in map.keys().filter(|name| headers::is_claim(name)) {
                    report.error_with_help(
                        &format!("spec.http[{rule}].match[{entry}].{field}{}", names::step(name)),
                        "JWT claims can be matched on gateways only, and this VirtualService applies to the mesh",
                        "name a Gateway in `gateways`, and not `mesh`",
                    );
                }
            }
        }
    }
}

fn check_hosts(service: &VirtualService, on_mesh: bool, report: &mut Report<'_>) {
    let routes_by_sni = service.tls.iter().flat_map(|route| &route.r#match).any(|entry| !entry.sni_hosts.is_empty());
    let mut are_sound = true;
    for (index, host) in service.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        let result = match on_mesh {
            true => names::wildcard_domain(host),
            false => names::gateway_domain(host, routes_by_sni),
        };
        match result {
            Err(why) if !names::is_ip(host) => {
                report.error(&path, why);
                are_sound = false;
            }
            Ok(()) if on_mesh && host == "*" => {
                report.error_with_help(
                    &path,
                    "the host `*` is not allowed on the mesh",
                    "name a Gateway in `gateways`, and not `mesh`",
                );
                are_sound = false;
            }
            _ => {}
        }
    }
    if !are_sound {
        return;
    }
    for (index, earlier) in names::overlapping_hosts(&service.hosts) {
        let message = format!("`{}` and `{}` overlap", service.hosts[index], service.hosts[earlier]);
        report.error(&format!("spec.hosts[{index}]"), message);
    }
}

/// `name`, `ns/name` or `name.ns.svc...`.
pub(super) fn check_gateways(gateways: &[String], path: &str, report: &mut Report<'_>) {
    for (index, gateway) in gateways.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some((namespace, name)) = gateway.split_once('/') else {
            if let Some((name, rest)) = gateway.split_once('.') {
                let namespace = rest.split('.').next().unwrap_or_default();
                let message = format!("`{gateway}` is the old form of a Gateway's name; write `{namespace}/{name}`");
                report.warning(&path, message);
            }
            if let Err(why) = names::fqdn(gateway) {
                report.error(&path, why);
            }
            // Istio looks no further after a name without slash.
            return;
        };
        // `./name` is refused here, as in Istio, though it would be understood.
        const FORMS: &str = "write `name` for a Gateway of this namespace, and `namespace/name` for any other";
        if !names::is_dns_label(namespace) {
            report.error_with_help(&path, format!("`{namespace}` is no namespace"), FORMS);
        }
        if !names::is_dns_label(name) {
            report.error_with_help(&path, format!("`{name}` is no name of a Gateway"), FORMS);
        }
    }
}

fn check_tls_route(route: &TlsRoute, service: &VirtualService, path: &str, report: &mut Report<'_>) {
    if route.r#match.is_empty() {
        report.error(path, "a TLS rule needs at least one entry in `match`");
    }
    for (index, condition) in route.r#match.iter().enumerate() {
        check_tls_match(condition, service, &format!("{path}.match[{index}]"), report);
    }
    check_routes(&route.route, path, report);
}

fn check_tls_match(condition: &TlsMatchAttributes, service: &VirtualService, path: &str, report: &mut Report<'_>) {
    if condition.sni_hosts.is_empty() {
        report.error(path, "a TLS condition needs at least one entry in `sniHosts`");
    }
    for (index, host) in condition.sni_hosts.iter().enumerate() {
        check_sni_host(host, service, &format!("{path}.sniHosts[{index}]"), report);
    }
    check_connection(
        &condition.destination_subnets,
        condition.port,
        &condition.source_labels,
        &condition.gateways,
        path,
        report,
    );
}

fn check_sni_host(host: &str, service: &VirtualService, path: &str, report: &mut Report<'_>) {
    let result = match is_on_mesh(service) {
        true => names::wildcard_domain(host),
        false => names::gateway_domain(host, true),
    };
    match result {
        Err(_) if names::is_ip(host) => {
            report.warning(path, format!("`{host}` is an IP address; clients send names only"));
        }
        Err(why) => report.error(path, why),
        Ok(()) if !service.hosts.iter().any(|other| names::is_host_within(host, other)) => {
            report.error(path, format!("`{host}` is not within any of the VirtualService's hosts"));
        }
        Ok(()) => {}
    }
}

fn check_tcp_match(condition: &L4MatchAttributes, path: &str, report: &mut Report<'_>) {
    check_connection(
        &condition.destination_subnets,
        condition.port,
        &condition.source_labels,
        &condition.gateways,
        path,
        report,
    );
}

fn check_connection(
    subnets: &[String],
    port: u32,
    source_labels: &std::collections::BTreeMap<String, String>,
    gateways: &[String],
    path: &str,
    report: &mut Report<'_>,
) {
    for (index, subnet) in subnets.iter().enumerate() {
        if !names::is_ip_or_cidr(subnet) {
            let message = format!("`{subnet}` is no IP address and no CIDR block");
            report.error(&format!("{path}.destinationSubnets[{index}]"), message);
        }
    }
    if port != 0 {
        report.port(&format!("{path}.port"), port);
    }
    report.labels(&format!("{path}.sourceLabels"), source_labels);
    check_gateways(gateways, &format!("{path}.gateways"), report);
}

fn check_routes(routes: &[RouteDestination], path: &str, report: &mut Report<'_>) {
    if routes.is_empty() {
        report.error(path, "a rule needs at least one entry in `route`");
    }
    for (index, route) in routes.iter().enumerate() {
        let path = format!("{path}.route[{index}]");
        check_required_destination(route.destination.as_ref(), &path, report);
        report.not_negative(&format!("{path}.weight"), route.weight);
    }
    check_total(routes.iter().map(|route| route.weight), &format!("{path}.route"), report);
}

/// Several destinations must share something.
pub(super) fn check_total(weights: impl ExactSizeIterator<Item = i32>, path: &str, report: &mut Report<'_>) {
    let count = weights.len();
    let total: i64 = weights.map(i64::from).sum();
    if count > 1 && total == 0 {
        report.error_with_help(
            path,
            "the weights of these destinations sum up to 0",
            "give each entry its share as `weight`, beside its `destination`",
        );
    }
}

pub(super) fn check_required_destination(destination: Option<&Destination>, path: &str, report: &mut Report<'_>) {
    match destination {
        Some(destination) => check_destination(destination, &format!("{path}.destination"), report),
        None => report.error(path, "`destination` is missing"),
    }
}

pub(super) fn check_destination(destination: &Destination, path: &str, report: &mut Report<'_>) {
    let host = format!("{path}.host");
    match destination.host.as_str() {
        "" => report.error(path, "a destination needs a `host`"),
        "*" => report.error(&host, "a destination is one service, not `*`"),
        name => {
            if let Err(why) = names::wildcard_domain(name) {
                report.error(&host, why);
            }
        }
    }
    if !destination.subset.is_empty() && !names::is_dns_label(&destination.subset) {
        let message = format!("`{}` is no name of a subset", destination.subset);
        report.error_with_help(&format!("{path}.subset"), message, names::LABEL_FORM);
    }
    if let Some(port) = &destination.port {
        report.port(&format!("{path}.port.number"), port.number);
    }
}
