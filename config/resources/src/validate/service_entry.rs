//! ServiceEntry and WorkloadEntry.

use super::Report;
use super::names::{self, Protocol};
use crate::networking::{Location, Resolution, ServiceEntry, WorkloadEntry};

pub(super) fn check(entry: &ServiceEntry, report: &mut Report<'_>) {
    if let Some(selector) = &entry.workload_selector {
        report.selector("spec.workloadSelector.labels", &selector.labels);
        if !entry.endpoints.is_empty() {
            report.error("spec.endpoints", "`workloadSelector` and `endpoints` exclude each other");
        }
    }
    check_sizes(entry, report);
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        check_endpoint_sizes(endpoint, &format!("spec.endpoints[{index}]"), report);
    }
    check_hosts(entry, report);
    check_addresses(entry, report);
    check_ports(entry, report);
    match entry.resolution {
        Resolution::None => check_none(entry, report),
        Resolution::Static => {
            for (index, endpoint) in entry.endpoints.iter().enumerate() {
                check_workload_entry(endpoint, &format!("spec.endpoints[{index}]"), Some(entry), false, report);
            }
        }
        Resolution::Dns | Resolution::DnsRoundRobin => check_dns(entry, report),
        Resolution::DynamicDns => check_dynamic_dns(entry, report),
    }
    let is_ambiguous = |protocol: &str| !Protocol::parse(protocol).is_some_and(|p| p.is_http() || p.is_tls());
    if entry.resolution != Resolution::None
        && entry.hosts.len() > 1
        && let Some(index) = entry.ports.iter().position(|port| is_ambiguous(&port.protocol))
    {
        report.error_with_help(
            &format!("spec.ports[{index}]"),
            "several hosts cannot share a port that is neither HTTP nor TLS: nothing tells their traffic apart",
            "write one ServiceEntry for each host",
        );
    }
    report.export_to(&entry.export_to, true, false);
}

/// Longest lists that the CRD admits.
fn check_sizes(entry: &ServiceEntry, report: &mut Report<'_>) {
    check_count("spec.hosts", entry.hosts.len(), 256, report);
    check_count("spec.addresses", entry.addresses.len(), 256, report);
    check_count("spec.ports", entry.ports.len(), 256, report);
    check_count("spec.endpoints", entry.endpoints.len(), 4096, report);
    if let Some(selector) = &entry.workload_selector {
        check_count("spec.workloadSelector.labels", selector.labels.len(), 256, report);
    }
}

fn check_count(path: &str, count: usize, limit: usize, report: &mut Report<'_>) {
    if count > limit {
        report.error(path, format!("{count} entries are more than the {limit} that are allowed"));
    }
}

/// Longest texts and maps of an endpoint that the CRDs of both kinds admit.
fn check_endpoint_sizes(endpoint: &WorkloadEntry, path: &str, report: &mut Report<'_>) {
    let texts = [
        ("address", &endpoint.address, 256),
        ("network", &endpoint.network, 2048),
        ("locality", &endpoint.locality, 2048),
        ("serviceAccount", &endpoint.service_account, 253),
    ];
    for (field, text, limit) in texts {
        let length = text.chars().count();
        if length > limit {
            let message = format!("{length} characters are more than the {limit} that are allowed");
            report.error(&format!("{path}.{field}"), message);
        }
    }
    check_count(&format!("{path}.labels"), endpoint.labels.len(), 256, report);
    check_count(&format!("{path}.ports"), endpoint.ports.len(), 128, report);
    let abstract_socket = endpoint.address.strip_prefix("unix://@");
    if abstract_socket.is_some_and(|name| name.ends_with('/')) {
        let message = format!("`{}` ends with `/`, as no socket's name may", endpoint.address);
        report.error(&format!("{path}.address"), message);
    }
}

fn check_hosts(entry: &ServiceEntry, report: &mut Report<'_>) {
    if entry.hosts.is_empty() {
        report.error("spec", "a ServiceEntry needs at least one entry in `hosts`");
    }
    for (index, host) in entry.hosts.iter().enumerate() {
        let path = format!("spec.hosts[{index}]");
        if host == "*" {
            report.error(&path, "`*` is no host of a service");
        } else if let Err(why) = names::wildcard_domain(host) {
            report.error(&path, why);
        } else if entry.resolution != Resolution::DynamicDns && names::is_partial_wildcard(host) {
            report.warning(&path, format!("`{host}` is a partial wildcard, which matches nothing"));
        }
    }
}

fn check_addresses(entry: &ServiceEntry, report: &mut Report<'_>) {
    let takes_blocks = matches!(entry.resolution, Resolution::None | Resolution::Static);
    for (index, address) in entry.addresses.iter().enumerate() {
        let path = format!("spec.addresses[{index}]");
        if !names::is_ip_or_cidr(address) {
            report.error(&path, format!("`{address}` is no IP address and no CIDR block"));
        } else if address.contains('/') && !takes_blocks {
            report.error(&path, format!("resolution {} takes no CIDR blocks", entry.resolution));
        }
    }
}

fn check_ports(entry: &ServiceEntry, report: &mut Report<'_>) {
    let label = report.object.metadata.labels.get("networking.istio.io/enable-autoallocate-ip");
    let allocates =
        entry.resolution != Resolution::None && !label.is_some_and(|value| value.eq_ignore_ascii_case("false"));
    for index in names::repeated(entry.ports.iter().map(|port| &port.name)) {
        let message = format!("the port name `{}` stands twice", entry.ports[index].name);
        report.error(&format!("spec.ports[{index}].name"), message);
    }
    for index in names::repeated(entry.ports.iter().map(|port| port.number)) {
        let message = format!("the port {} stands twice", entry.ports[index].number);
        report.error(&format!("spec.ports[{index}].number"), message);
    }
    for (index, port) in entry.ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        if port.name.is_empty() {
            report.error(&path, "a port needs a `name`");
        } else if !names::is_dns_label(&port.name) {
            let message = format!("`{}` is no name of a port", port.name);
            report.error_with_help(&format!("{path}.name"), message, names::LABEL_FORM);
        }
        if !port.protocol.is_empty() && Protocol::parse(&port.protocol).is_none() {
            let message = format!("`{}` is no protocol", port.protocol);
            let help = "write one of HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TLS, TCP, MONGO, REDIS, MYSQL, UDP";
            report.error_with_help(&format!("{path}.protocol"), message, help);
        }
        report.port(&format!("{path}.number"), port.number);
        if port.target_port != 0 {
            report.port(&format!("{path}.targetPort"), port.target_port);
        }
        if entry.addresses.is_empty() && !allocates && matches!(port.protocol.as_str(), "" | "TCP") {
            report.warning(&path, "a TCP port needs `addresses`, unless one is allocated to the service");
        }
    }
}

fn check_none(entry: &ServiceEntry, report: &mut Report<'_>) {
    if !entry.endpoints.is_empty() {
        report.error_with_help(
            "spec.endpoints",
            "resolution NONE, the default, has no endpoints: traffic goes where the client sent it",
            "write `resolution: STATIC` or `resolution: DNS`",
        );
    }
    if entry.workload_selector.is_some() {
        report.warning("spec.workloadSelector", "resolution NONE, the default, has no workloads");
    }
}

fn check_dns(entry: &ServiceEntry, report: &mut Report<'_>) {
    if entry.endpoints.is_empty()
        && let Some((index, why)) =
            entry.hosts.iter().enumerate().find_map(|(index, host)| Some((index, names::fqdn(host).err()?)))
    {
        report.error_with_help(
            &format!("spec.hosts[{index}]"),
            format!("resolution {} resolves the host itself if there are no endpoints: {why}", entry.resolution),
            "add `endpoints` with names that can be resolved",
        );
    }
    if entry.resolution == Resolution::DnsRoundRobin && entry.endpoints.len() > 1 {
        report.error("spec.endpoints[1]", "resolution DNS_ROUND_ROBIN has one endpoint at most");
    }
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        let path = format!("spec.endpoints[{index}]");
        if !names::is_ip(&endpoint.address) && names::fqdn(&endpoint.address).is_err() {
            report.error(&path, format!("`{}` is no host name and no IP address", endpoint.address));
        }
        report.labels(&format!("{path}.labels"), &endpoint.labels);
        check_endpoint_ports(endpoint, &path, Some(entry), report);
    }
    let is_tcp = |protocol: &str| Protocol::parse(protocol).is_some_and(Protocol::is_tcp);
    if !entry.addresses.is_empty()
        && entry.hosts.len() > 1
        && let Some(index) = entry.ports.iter().position(|port| is_tcp(&port.protocol))
    {
        let message = "several hosts with addresses share a TCP port: nothing tells their traffic apart";
        report.warning(&format!("spec.ports[{index}]"), message);
    }
}

fn check_dynamic_dns(entry: &ServiceEntry, report: &mut Report<'_>) {
    for (index, host) in entry.hosts.iter().enumerate() {
        if !host.starts_with('*') {
            report.error(&format!("spec.hosts[{index}]"), "resolution DYNAMIC_DNS is for wildcard hosts only");
        }
    }
    if !entry.addresses.is_empty() {
        report.error("spec.addresses", "resolution DYNAMIC_DNS has no `addresses`");
    }
    if !entry.endpoints.is_empty() {
        report.error("spec.endpoints", "resolution DYNAMIC_DNS has no `endpoints`");
    }
    for (index, port) in entry.ports.iter().enumerate() {
        let protocol = Protocol::parse(&port.protocol);
        if !matches!(protocol, Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tls)) {
            let message = "resolution DYNAMIC_DNS is for the protocols HTTP, HTTP2, GRPC and TLS only";
            report.error(&format!("spec.ports[{index}]"), message);
        }
    }
    let waypoint = report.object.metadata.labels.get("istio.io/use-waypoint");
    let uses_waypoint = waypoint.is_some_and(|value| !value.is_empty() && !value.eq_ignore_ascii_case("none"));
    if entry.location == Location::MeshInternal && uses_waypoint {
        report.error("spec.location", "resolution DYNAMIC_DNS with a waypoint is for MESH_EXTERNAL only");
    }
}

/// A WorkloadEntry as an object of its own.
pub(super) fn check_workload(entry: &WorkloadEntry, report: &mut Report<'_>) {
    check_endpoint_sizes(entry, "spec", report);
    check_workload_entry(entry, "spec", None, true, report);
}

/// A WorkloadEntry, or an endpoint of `service`.
fn check_workload_entry(
    entry: &WorkloadEntry,
    path: &str,
    service: Option<&ServiceEntry>,
    takes_names: bool,
    report: &mut Report<'_>,
) {
    let address = entry.address.as_str();
    let address_path = format!("{path}.address");
    if address.is_empty() {
        if entry.network.is_empty() {
            report.error(path, "an endpoint needs an `address`");
            return;
        }
        report.warning(path, format!("there is no `address`: only the network `{}` is known", entry.network));
    } else if let Some(socket) = address.strip_prefix("unix://") {
        if let Err(why) = names::unix_address(socket) {
            report.error(&address_path, why);
        }
        if !entry.ports.is_empty() {
            report.error(&format!("{path}.ports"), "a unix socket has no ports");
        }
        if service.is_some_and(|service| service.ports.len() != 1) {
            report.error(&address_path, "a unix socket needs a ServiceEntry with exactly one port");
        }
    } else if !names::is_ip(address) {
        if !takes_names {
            let message = format!("`{address}` is no IP address, which resolution STATIC needs");
            report.error_with_help(&address_path, message, "write `resolution: DNS` for names");
        } else if names::fqdn(address).is_err() {
            report.error(&address_path, format!("`{address}` is no host name and no IP address"));
        }
    }
    check_endpoint_ports(entry, path, service, report);
    report.labels(&format!("{path}.labels"), &entry.labels);
}

fn check_endpoint_ports(endpoint: &WorkloadEntry, path: &str, service: Option<&ServiceEntry>, report: &mut Report<'_>) {
    for (name, number) in &endpoint.ports {
        let path = format!("{path}.ports{}", names::step(name));
        if service.is_some_and(|service| !service.ports.iter().any(|port| port.name == *name)) {
            report.error(&path, format!("the ServiceEntry has no port `{name}`"));
        }
        // The CRD wants less than the 63 characters that names have elsewhere.
        if !names::is_dns_label(name) || name.len() >= 63 {
            report.error(&path, format!("`{name}` is no name of a port: letters, digits and `-`, at most 62 of them"));
        }
        report.port(&path, *number);
    }
}
