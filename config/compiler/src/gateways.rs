//! Which Gateways are for this gateway, and how their servers share ports.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;

use ahash::AHashMap;
use tidegate_core::{Code, Kind, Origin, ResourceKey};
use tidegate_resources::{Gateway, Object, ResourceSet, Server, ServerTlsMode, Spec};
use tidegate_snapshot::ServerTls;

use crate::compile::CompileOptions;
use crate::findings::Findings;
use crate::host_index::HostIndex;
use crate::names::{GatewayName, ServerHost};
use crate::protocol::Protocol;
use crate::registry::port_number;
use crate::server_tls::{Application, ServerTlsCompiler};

/// A server of a selected Gateway.
#[derive(Clone, Debug)]
pub(crate) struct GatewayServer {
    pub(crate) gateway: Arc<Object>,
    pub(crate) name: GatewayName,
    pub(crate) index: usize,
    pub(crate) port_name: String,
    pub(crate) hosts: Vec<ServerHost>,
    pub(crate) https_redirect: bool,
    pub(crate) serving: Serving,
}

/// What a server does with a connection.
#[derive(Clone, Debug)]
pub(crate) enum Serving {
    /// Plaintext HTTP, beside others on its port.
    Http,
    /// Terminates TLS and routes requests.
    Https(Arc<ServerTls>),
    /// Terminates TLS and forwards bytes.
    Tls(Arc<ServerTls>),
    /// Forwards TLS by server name.
    Passthrough,
    /// Forwards plaintext bytes; has its port alone.
    Tcp,
    /// Cannot be served, which is reported. It holds its hosts so that no other server's rules apply to them.
    Nothing,
}

impl GatewayServer {
    pub(crate) fn source(&self) -> (ResourceKey, Origin) {
        (self.gateway.key.clone(), self.gateway.origin_of(&format!("spec.servers[{}]", self.index)))
    }
}

/// The servers of one port and address: one listener.
#[derive(Debug)]
pub(crate) struct GatewayPort {
    pub(crate) number: u16,
    pub(crate) bind: Option<IpAddr>,
    pub(crate) family: Family,
    /// Oldest Gateway first, in each the order of its servers.
    pub(crate) servers: Vec<GatewayServer>,
    /// The servers of one Gateway, which stand together; in the order of `servers`.
    pub(crate) runs: Vec<Run>,
}

/// Servers of one Gateway on one port.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) gateway: GatewayName,
    /// Places among the servers of the port.
    pub(crate) servers: Range<usize>,
    hosts: OnceCell<HostIndex<(usize, usize)>>,
}

impl Run {
    /// Hosts of the servers, each with the place of its server and its own in that. Made when it is first asked for.
    pub(crate) fn hosts(&self, servers: &[GatewayServer]) -> &HostIndex<(usize, usize)> {
        self.hosts.get_or_init(|| {
            let mut index = HostIndex::new();
            for (number, server) in servers.iter().enumerate().take(self.servers.end).skip(self.servers.start) {
                for (at, host) in server.hosts.iter().enumerate() {
                    index.insert(&host.host, (number, at));
                }
            }
            index
        })
    }
}

/// Runs of servers with one Gateway.
fn runs(servers: &[GatewayServer]) -> Vec<Run> {
    let mut begin = 0;
    let runs = servers.chunk_by(|a, b| a.name == b.name).filter_map(|run| {
        let servers = begin..begin + run.len();
        begin = servers.end;
        Some(Run { gateway: run.first()?.name.clone(), servers, hosts: OnceCell::new() })
    });
    runs.collect()
}

/// A Gateway and whether it is for this gateway.
#[derive(Debug)]
pub(crate) struct KnownGateway {
    pub(crate) selected: bool,
    /// Hosts of all its servers, whatever they speak and whether or not they were dropped.
    pub(crate) hosts: Vec<ServerHost>,
    admitted: OnceCell<HostIndex<ServerHost>>,
}

impl KnownGateway {
    /// Its hosts, to be searched. Made when it is first asked for.
    pub(crate) fn admitted(&self) -> &HostIndex<ServerHost> {
        self.admitted.get_or_init(|| {
            let mut index = HostIndex::new();
            self.hosts.iter().for_each(|host| index.insert(&host.host, host.clone()));
            index
        })
    }
}

#[derive(Debug)]
pub(crate) struct Gateways {
    pub(crate) known: BTreeMap<GatewayName, KnownGateway>,
    /// By port, then address.
    pub(crate) ports: Vec<GatewayPort>,
}

/// What the servers of a listener speak. Only servers of one family can share it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Family {
    Http,
    /// HTTPS and TLS: told apart by server name.
    Tls,
    /// TCP and its kin: one server has the listener alone.
    Opaque,
}

impl Family {
    fn of(protocol: Protocol) -> Self {
        match protocol {
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
    /// Place among the ports.
    port: usize,
    /// Hosts of TLS servers, with the server that has them.
    hosts: AHashMap<ServerHost, (&'a Object, usize)>,
}

/// Merges the servers of Gateways.
struct Merge<'m, 'a> {
    tls: &'m mut ServerTlsCompiler<'a>,
    findings: &'m mut Findings,
    ports: Vec<GatewayPort>,
    holders: BTreeMap<(u16, Option<IpAddr>), Holder<'a>>,
}

impl Gateways {
    /// Selects the Gateways of every namespace whose labels this gateway carries, and merges their servers: oldest
    /// Gateway first, a server that contradicts an earlier one on its port and address is dropped (reference, 4.2).
    pub(crate) fn select<'a>(
        resources: &'a ResourceSet,
        options: &CompileOptions,
        tls: &mut ServerTlsCompiler<'a>,
        findings: &mut Findings,
    ) -> Self {
        let mut known = BTreeMap::new();
        let mut merge = Merge { tls, findings, ports: Vec::new(), holders: BTreeMap::new() };
        for object in resources.by_creation(Kind::Gateway) {
            let Spec::Gateway(gateway) = &object.spec else { continue };
            let name = GatewayName { namespace: object.key.namespace.to_string(), name: object.key.name.to_string() };
            let selected = options.has_labels(&gateway.selector);
            let hosts = gateway.servers.iter().flat_map(|server| server_hosts(object, server)).collect();
            known.insert(name.clone(), KnownGateway { selected, hosts, admitted: OnceCell::new() });
            if !selected {
                report_unselected(object, gateway, options, merge.findings);
                continue;
            }
            for (index, server) in gateway.servers.iter().enumerate() {
                merge.add(object, &name, index, server);
            }
        }
        let mut ports = merge.ports;
        ports.sort_by_key(|port| (port.number, port.bind));
        ports.iter_mut().for_each(|port| port.runs = runs(&port.servers));
        Self { known, ports }
    }
}

impl<'a> Merge<'_, 'a> {
    fn add(&mut self, object: &'a Arc<Object>, name: &GatewayName, index: usize, server: &'a Server) {
        let Some(port) = &server.port else { return };
        let Some(number) = port_number(port.number) else { return };
        let Some(bind) = parse_bind(object, server, index, self.findings) else { return };
        let protocol = Protocol::parse(&port.protocol);
        if matches!(protocol, Protocol::Udp | Protocol::Unknown) {
            // Validation has said that it has no effect; so it takes the port from nobody.
            return;
        }
        let family = Family::of(protocol);
        let hosts: Vec<_> = server_hosts(object, server).collect();
        let ports = &mut self.ports;
        let holder = self.holders.entry((number, bind)).or_insert_with(|| {
            ports.push(GatewayPort { number, bind, family, servers: Vec::new(), runs: Vec::new() });
            Holder { family, object, index, port: ports.len() - 1, hosts: AHashMap::new() }
        });
        let is_first = std::ptr::eq(holder.object, &**object) && holder.index == index;
        if holder.family != family || (family == Family::Opaque && !is_first) {
            report_conflict(object, index, family, holder, number, self.findings);
            return;
        }
        if family == Family::Tls {
            let taken = hosts.iter().enumerate().find_map(|(at, host)| Some((at, host, holder.hosts.get(host)?)));
            if let Some((at, host, (winner, of_winner))) = taken {
                report_taken_host(object, (index, at), host, (winner, *of_winner), number, self.findings);
                return;
            }
            for host in &hosts {
                holder.hosts.insert(host.clone(), (object, index));
            }
        }
        let serving = serving(object, index, server, protocol, self.tls, self.findings);
        let https_redirect = family == Family::Http && server.tls.as_ref().is_some_and(|tls| tls.https_redirect);
        if let Some(place) = self.ports.get_mut(holder.port) {
            let (gateway, name, port_name) = (object.clone(), name.clone(), port.name.clone());
            place.servers.push(GatewayServer { gateway, name, index, port_name, hosts, https_redirect, serving });
        }
    }
}

fn serving<'a>(
    object: &'a Object,
    index: usize,
    server: &'a Server,
    protocol: Protocol,
    compiler: &mut ServerTlsCompiler<'a>,
    findings: &mut Findings,
) -> Serving {
    let application = match Family::of(protocol) {
        Family::Http => return Serving::Http,
        Family::Opaque => return Serving::Tcp,
        Family::Tls if protocol == Protocol::Https => Application::Http,
        Family::Tls => Application::Opaque,
    };
    let path = format!("spec.servers[{index}]");
    let Some(tls) = server.tls.as_deref() else {
        let message = "a TLS server needs `tls`; its connections are closed";
        findings.error(Code::SCHEMA, object, &path, message);
        return Serving::Nothing;
    };
    match tls.mode {
        ServerTlsMode::Passthrough => Serving::Passthrough,
        ServerTlsMode::IstioMutual | ServerTlsMode::AutoPassthrough => {
            let message = format!("{} is not enforced yet; connections for the server's hosts are closed", tls.mode);
            findings.warning(Code::NOT_ENFORCED, object, &format!("{path}.tls.mode"), message);
            Serving::Nothing
        }
        ServerTlsMode::Simple | ServerTlsMode::Mutual | ServerTlsMode::OptionalMutual => {
            match compiler.compile(object, &format!("{path}.tls"), tls, application, findings) {
                Some(tls) if application == Application::Http => Serving::Https(Arc::new(tls)),
                Some(tls) => Serving::Tls(Arc::new(tls)),
                None => Serving::Nothing,
            }
        }
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

fn report_taken_host(
    object: &Object,
    (index, at): (usize, usize),
    host: &ServerHost,
    (winner, of_winner): (&Object, usize),
    port: u16,
    findings: &mut Findings,
) {
    let place = winner.origin_of(&format!("spec.servers[{of_winner}]"));
    let message = format!(
        "on port {port} the host `{}` is already served by {} at {place}; this whole server is left out",
        host.host, winner.key
    );
    let path = format!("spec.servers[{index}].hosts[{at}]");
    findings.error(Code::CONFLICTING_GATEWAYS, object, &path, message);
}
