use std::sync::Arc;
use std::time::Duration;

use tidegate_sds::SecretStore;

use crate::{DnsOptions, NodeInfo};

/// How a data plane is set up; fixed for its life.
#[derive(Clone, Debug)]
pub struct GatewayOptions {
    /// Worker threads; each has its own runtime, sockets and upstream pools. At least 1.
    pub workers: usize,
    pub port_offset: PortOffset,
    pub limits: Limits,
    pub node: NodeInfo,
    pub dns: DnsOptions,
    /// What listeners and clusters ask for the secrets that they name. Empty unless somebody offers.
    pub secrets: Arc<SecretStore>,
}

impl Default for GatewayOptions {
    /// One worker for each core.
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Self {
            workers,
            port_offset: PortOffset::Auto,
            limits: Limits::default(),
            node: NodeInfo::default(),
            dns: DnsOptions::default(),
            secrets: Arc::default(),
        }
    }
}

/// Where a Gateway server's port below 1024 is bound. Everything that is shown keeps the port that the Gateway names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PortOffset {
    /// At the port itself, or at +8000 if the process may not bind it.
    #[default]
    Auto,
    /// Always at port + offset; 0 binds the port itself.
    Fixed(u16),
}

/// What clients may use of the gateway. Defaults are Istio's where Istio has one, else Envoy's advice for edges.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Request line and headers together, in bytes: 431 beyond.
    pub max_header_bytes: usize,
    /// Number of header lines: 431 beyond.
    pub max_headers: usize,
    /// Method, target and version in bytes: 414 beyond.
    pub max_request_line: usize,
    /// From the first byte of a request head to its last (HTTP/1), or from the connection to HTTP/2's SETTINGS: 408, or
    /// the connection closes.
    pub header_timeout: Duration,
    /// A connection without a request is closed after this; HTTP/2 too.
    pub idle_timeout: Duration,
    /// A request whose client neither sends the body nor takes the response is given up after this, and so is the body
    /// that an HTTP/1 backend does not take. Does not apply to upgraded connections.
    pub stall_timeout: Duration,
    /// Streams that an HTTP/2 client may have open at once.
    pub max_concurrent_streams: u32,
    /// Connections over all listeners; further ones are closed at once.
    pub max_connections: usize,
    /// From the connection to the end of its TLS handshake, and of its PROXY header if there has to be one: Istio's.
    pub handshake_timeout: Duration,
    /// Handshakes and PROXY headers that have begun and are not done, over all listeners; further ones are closed when
    /// their first byte comes. Each holds some KiB, and 128 KiB at the very most.
    pub max_handshakes: usize,
    /// What comes before a handshake's cryptography, PROXY header and ClientHello, has no more than this from its first
    /// byte on while half of [`Self::max_handshakes`] or more are under way: who says one byte and then nothing must not
    /// keep others out for long.
    pub busy_hello_timeout: Duration,
    /// Idle connections to backends that one worker keeps; of HTTP/2 with TLS 1,024 at most.
    pub max_idle_upstream: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_header_bytes: 60 * 1024,
            max_headers: 100,
            max_request_line: 60 * 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(3600),
            stall_timeout: Duration::from_secs(300),
            max_concurrent_streams: 100,
            max_connections: 100_000,
            handshake_timeout: Duration::from_secs(15),
            max_handshakes: 10_000,
            busy_hello_timeout: Duration::from_secs(3),
            max_idle_upstream: 1024,
        }
    }
}
