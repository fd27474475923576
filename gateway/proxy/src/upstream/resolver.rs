use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType;
use hickory_resolver::{TokioResolver, system_conf};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// Queries under way at one time, over all clusters.
const MAX_QUERIES: usize = 64;

/// Answers that are kept for clusters that name the same host.
const CACHE_SIZE: u64 = 1024;

/// How names are resolved.
#[derive(Clone, Debug, Default)]
pub struct DnsOptions {
    /// Name servers to ask over UDP and, for long answers, TCP. Empty: those of `/etc/resolv.conf`, and `/etc/hosts`
    /// before them; both files are read again when they change.
    pub name_servers: Vec<SocketAddr>,
}

/// Address family of a query.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Family; 2] = [Family::V4, Family::V6];

    fn record_type(self) -> RecordType {
        match self {
            Family::V4 => RecordType::A,
            Family::V6 => RecordType::AAAA,
        }
    }
}

/// What a query for one family of one name gave.
#[derive(Debug)]
pub(super) enum Answer {
    /// At least one address, good until then.
    Addresses { addresses: Vec<IpAddr>, valid_until: Instant },
    /// The name exists and has no address of the family.
    NoData,
    /// Everything else: no such name, no name server, a refusal, a timeout.
    Failed(String),
}

/// Asks name servers. One for all clusters.
#[derive(Debug)]
pub(super) struct Resolver {
    options: DnsOptions,
    current: Mutex<Option<Current>>,
    permits: Semaphore,
    pub(super) timing: Timing,
}

/// When names are asked for again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// Shortest time between two queries for one name, and the first pause after a failure.
    pub(super) min_refresh: Duration,
    /// Longest pause after a failure.
    pub(super) max_backoff: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { min_refresh: Duration::from_secs(1), max_backoff: Duration::from_secs(60) }
    }
}

#[derive(Debug)]
struct Current {
    resolver: TokioResolver,
    stamp: Stamp,
}

/// When the system's files were last written.
type Stamp = [Option<SystemTime>; 2];

impl Resolver {
    pub(super) fn new(options: DnsOptions) -> Self {
        Self { options, current: Mutex::default(), permits: Semaphore::new(MAX_QUERIES), timing: Timing::default() }
    }

    /// Asks for the addresses of one family. Never longer than the resolver's own timeouts after its turn has come.
    pub(super) async fn query(&self, host: &str, family: Family) -> Answer {
        // The semaphore is never closed; without a permit the query would only be less polite.
        let _permit = self.permits.acquire().await;
        let resolver = match self.current() {
            Ok(resolver) => resolver,
            Err(error) => return Answer::Failed(error.to_string()),
        };
        match resolver.lookup(host, family.record_type()).await {
            Ok(lookup) => {
                let addresses: Vec<IpAddr> = lookup
                    .answers()
                    .iter()
                    .filter_map(|record| record.data.ip_addr())
                    .filter(|address| address.is_ipv4() == (family == Family::V4))
                    .collect();
                if addresses.is_empty() {
                    return Answer::NoData;
                }
                Answer::Addresses { addresses, valid_until: lookup.valid_until() }
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(no))) if no.response_code == ResponseCode::NoError => {
                Answer::NoData
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(no))) => Answer::Failed(no.response_code.to_string()),
            Err(error) => Answer::Failed(error.to_string()),
        }
    }

    fn current(&self) -> Result<TokioResolver, NetError> {
        let stamp = match self.options.name_servers.is_empty() {
            true => ["/etc/resolv.conf", "/etc/hosts"].map(|path| fs::metadata(path).and_then(|it| it.modified()).ok()),
            false => [None, None],
        };
        let mut current = self.current.lock();
        if let Some(current) = &*current
            && current.stamp == stamp
        {
            return Ok(current.resolver.clone());
        }
        let resolver = self.build()?;
        *current = Some(Current { resolver: resolver.clone(), stamp });
        Ok(resolver)
    }

    fn build(&self) -> Result<TokioResolver, NetError> {
        let (config, mut options) = if self.options.name_servers.is_empty() {
            // Without a usable file the C library asks the local host; so do we.
            system_conf::read_system_conf().unwrap_or_else(|error| {
                tracing::warn!(%error, "no usable /etc/resolv.conf, asking 127.0.0.1");
                (name_servers([SocketAddr::from((Ipv4Addr::LOCALHOST, 53))]), ResolverOpts::default())
            })
        } else {
            let mut options = ResolverOpts::default();
            options.use_hosts_file = ResolveHosts::Never;
            (name_servers(self.options.name_servers.iter().copied()), options)
        };
        // Each family is asked for on its own: a slow or broken answer for one never holds back the other.
        options.ip_strategy = LookupIpStrategy::Ipv4Only;
        options.cache_size = CACHE_SIZE;
        // The semaphore bounds queries; the resolver would refuse what is above its own smaller bound.
        options.max_active_requests = options.max_active_requests.max(2 * MAX_QUERIES);
        // When to ask again after a failure is decided here and not by a zone's SOA.
        options.negative_max_ttl = Some(Duration::from_secs(1));
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()
    }
}

fn name_servers(addresses: impl IntoIterator<Item = SocketAddr>) -> ResolverConfig {
    let servers = addresses
        .into_iter()
        .map(|address| {
            let connections = [ProtocolConfig::Udp, ProtocolConfig::Tcp]
                .map(|protocol| {
                    let mut connection = ConnectionConfig::new(protocol);
                    connection.port = address.port();
                    connection
                })
                .into();
            NameServerConfig::new(address.ip(), true, connections)
        })
        .collect();
    ResolverConfig::from_name_servers(servers)
}

/// Whether this host has a route to an address. Sends nothing: connecting a UDP socket only looks the route up.
pub(super) fn has_route(address: IpAddr) -> bool {
    let (any, port) = (if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }, 9);
    UdpSocket::bind(any).and_then(|socket| socket.connect((address, port))).is_ok()
}
