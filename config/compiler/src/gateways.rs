//! Which Gateways are for this gateway, and how their servers share ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use tidegate_core::{Code, Kind, Origin, ResourceKey};
use tidegate_resources::{Gateway, Object, ResourceSet, Server, Spec};

use crate::compile::CompileOptions;
use crate::findings::Findings;
use crate::names::{GatewayName, ServerHost};
use crate::protocol::Protocol;
use crate::registry::port_number;

/// A server of a selected Gateway.
#[derive(Clone, Debug)]
pub(crate) struct GatewayServer<'a> {
    pub(crate) gateway: &'a Object,
    pub(crate) name: GatewayName,
    pub(crate) index: usize,
    pub(crate) hosts: Vec<ServerHost>,
    pub(crate) https_redirect: bool,
}

impl GatewayServer<'_> {
    pub(crate) fn source(&self) -> (ResourceKey, Origin) {
        (self.gateway.key.clone(), self.gateway.origin_of(&format!("spec.servers[{}]", self.index)))
    }
}

/// The plaintext HTTP servers of one port and address: one listener with one route table.
#[derive(Debug)]
pub(crate) struct HttpPort<'a> {
    pub(crate) number: u16,
    pub(crate) bind: Option<IpAddr>,
    /// Oldest Gateway first, in each the order of its servers.
    pub(crate) servers: Vec<GatewayServer<'a>>,
}

/// A Gateway and whether it is for this gateway.
#[derive(Debug)]
pub(crate) struct KnownGateway {
    pub(crate) selected: bool,
    /// Hosts of all its servers, whatever they speak and whether or not they were dropped.
    pub(crate) hosts: Vec<ServerHost>,
}

#[derive(Debug)]
pub(crate) struct Gateways<'a> {
    pub(crate) known: BTreeMap<GatewayName, KnownGateway>,
    /// By port, then address.
    pub(crate) ports: Vec<HttpPort<'a>>,
}

/// What the servers of a listener speak. Only servers of one family can share it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Family {
    Http,
    /// HTTPS and TLS: told apart by server name.
    Tls,
    /// TCP and its kin: one server has the listener alone.
    Opaque,
}

impl Family {
    fn of(protocol: &str) -> Self {
        match Protocol::parse(protocol) {
            protocol if protocol.is_http() => Self::Http,
            Protocol::Https | Protocol::Tls => Self::Tls,
            _ => Self::Opaque,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "plaintext HTTP",
            Self::Tls => "TLS",
            Self::Opaque => "opaque TCP",
        }
    }
}

/// Who was first on a port and address.
#[derive(Debug)]
struct Holder<'a> {
    family: Family,
    object: &'a Object,
    index: usize,
    /// Place among the ports, for HTTP.
    port: Option<usize>,
}

impl<'a> Gateways<'a> {
    /// Selects the Gateways of every namespace whose labels this gateway carries, and merges their servers: oldest
    /// Gateway first, a server that contradicts an earlier one on its port and address is dropped.
    ///
    /// Servers that are not plaintext HTTP hold their port and make no listener: they are not enforced yet.
    pub(crate) fn select(resources: &'a ResourceSet, options: &CompileOptions, findings: &mut Findings) -> Self {
        let mut known = BTreeMap::new();
        let mut ports: Vec<HttpPort<'a>> = Vec::new();
        let mut holders: BTreeMap<(u16, String), Holder<'a>> = BTreeMap::new();
        for object in resources.by_creation(Kind::Gateway) {
            let Spec::Gateway(gateway) = &object.spec else { continue };
            let name = GatewayName { namespace: object.key.namespace.to_string(), name: object.key.name.to_string() };
            let selected = options.has_labels(&gateway.selector);
            let hosts = gateway.servers.iter().flat_map(|server| server_hosts(object, server)).collect();
            known.insert(name.clone(), KnownGateway { selected, hosts });
            if !selected {
                report_unselected(object, gateway, options, findings);
                continue;
            }
            for (index, server) in gateway.servers.iter().enumerate() {
                let Some(port) = &server.port else { continue };
                let Some(number) = port_number(port.number) else { continue };
                let Some(bind) = parse_bind(object, server, index, findings) else { continue };
                let family = Family::of(&port.protocol);
                let key = (number, bind.map(|ip| ip.to_string()).unwrap_or_default());
                let place = match holders.get(&key) {
                    None => {
                        let place = (family == Family::Http).then(|| {
                            ports.push(HttpPort { number, bind, servers: Vec::new() });
                            ports.len() - 1
                        });
                        holders.insert(key, Holder { family, object, index, port: place });
                        place
                    }
                    Some(holder) if holder.family == family && family != Family::Opaque => holder.port,
                    Some(holder) => {
                        report_conflict(object, index, family, holder, number, findings);
                        continue;
                    }
                };
                if let Some(port) = place.and_then(|place| ports.get_mut(place)) {
                    port.servers.push(GatewayServer {
                        gateway: object,
                        name: name.clone(),
                        index,
                        hosts: server_hosts(object, server).collect(),
                        https_redirect: server.tls.as_ref().is_some_and(|tls| tls.https_redirect),
                    });
                }
            }
        }
        ports.sort_by_key(|port| (port.number, port.bind));
        Self { known, ports }
    }
}

fn server_hosts<'s>(object: &'s Object, server: &'s Server) -> impl Iterator<Item = ServerHost> + 's {
    server.hosts.iter().map(|host| ServerHost::parse(host, &object.key.namespace))
}

/// The address of a server's `bind`; the addresses that mean all are the same as none. None if it can't be served.
#[expect(clippy::option_option, reason = "no address and no usable address differ")]
fn parse_bind(object: &Object, server: &Server, index: usize, findings: &mut Findings) -> Option<Option<IpAddr>> {
    if server.bind.is_empty() {
        return Some(None);
    }
    match server.bind.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => Some(None),
        Ok(address) => Some(Some(address)),
        Err(_) => {
            let message =
                format!("a server can be bound to an IP address only, not to `{}`; it is left out", server.bind);
            findings.warning(Code::NOT_ENFORCED, object, &format!("spec.servers[{index}].bind"), message);
            None
        }
    }
}

fn report_unselected(object: &Object, gateway: &Gateway, options: &CompileOptions, findings: &mut Findings) {
    let list = |labels: &BTreeMap<String, String>| {
        labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
    };
    let message = format!(
        "its selector ({}) does not select this gateway, whose labels are {}",
        list(&gateway.selector),
        list(&options.labels)
    );
    findings.info(Code::IGNORED, object, "spec.selector", message);
}

fn report_conflict(
    object: &Object,
    index: usize,
    family: Family,
    holder: &Holder<'_>,
    port: u16,
    findings: &mut Findings,
) {
    let place = holder.object.origin_of(&format!("spec.servers[{}]", holder.index));
    let message = format!(
        "port {port} is already {} by {} at {place}; this {} server is left out",
        holder.family.as_str(),
        holder.object.key,
        family.as_str()
    );
    let path = format!("spec.servers[{index}].port");
    findings.error(Code::CONFLICTING_GATEWAYS, object, &path, message);
}
