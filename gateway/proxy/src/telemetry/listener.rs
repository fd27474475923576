use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::proxy_protocol::ProxyHeaderFailure;
use crate::tls::{HandshakeFailure, Version};

/// Counters of one listener. They last as long as anyone holds them.
#[derive(Debug)]
pub(crate) struct ListenerMetrics {
    pub(super) name: Arc<str>,
    /// The listener has been one of TLS: its counters of TLS are shown.
    is_tls: AtomicBool,
    /// The listener has asked for PROXY headers: what failed of them is shown.
    wants_proxy_header: AtomicBool,
    cx_active: AtomicU64,
    cx_total: AtomicU64,
    cx_overflow: AtomicU64,
    /// By class: 0xx (no response), 1xx to 5xx.
    rq_by_class: [AtomicU64; 6],
    parse_errors: [AtomicU64; ParseError::ALL.len()],
    /// By version, then whether the session was resumed.
    handshakes: [[AtomicU64; 2]; Version::ALL.len()],
    handshake_failures: [AtomicU64; HandshakeFailure::ALL.len()],
    proxy_header_failures: [AtomicU64; ProxyHeaderFailure::ALL.len()],
}

/// Why the bytes of a client were refused before there was a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum ParseError {
    /// No HTTP.
    Malformed,
    /// A request line or header section beyond the limits.
    TooLarge,
    /// The head did not come in time.
    Timeout,
    /// A version that is not served.
    Version,
}

impl ParseError {
    pub(super) const ALL: [ParseError; 4] = [Self::Malformed, Self::TooLarge, Self::Timeout, Self::Version];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::Version => "version",
        }
    }
}

impl ListenerMetrics {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            is_tls: AtomicBool::default(),
            wants_proxy_header: AtomicBool::default(),
            cx_active: AtomicU64::default(),
            cx_total: AtomicU64::default(),
            cx_overflow: AtomicU64::default(),
            rq_by_class: Default::default(),
            parse_errors: Default::default(),
            handshakes: Default::default(),
            handshake_failures: Default::default(),
            proxy_header_failures: Default::default(),
        }
    }

    /// From now on the listener terminates or routes TLS.
    pub(crate) fn show_tls(&self) {
        self.is_tls.store(true, Relaxed);
    }

    /// From now on the listener asks for PROXY headers.
    pub(crate) fn show_proxy_headers(&self) {
        self.wants_proxy_header.store(true, Relaxed);
    }

    /// A listener without TLS has something to show, too, if it turned PROXY headers away for being too many.
    pub(super) fn is_tls(&self) -> bool {
        self.is_tls.load(Relaxed) || self.handshake_failures.iter().any(|count| count.load(Relaxed) > 0)
    }

    pub(super) fn wants_proxy_header(&self) -> bool {
        self.wants_proxy_header.load(Relaxed)
    }

    /// Counts an accepted connection, as open until the guard is dropped.
    pub(crate) fn connection_opened(self: &Arc<Self>) -> DownstreamGuard {
        self.cx_total.fetch_add(1, Relaxed);
        self.cx_active.fetch_add(1, Relaxed);
        DownstreamGuard(self.clone())
    }

    /// Counts a connection that was closed at once because of a limit.
    pub(crate) fn connection_refused(&self) {
        self.cx_overflow.fetch_add(1, Relaxed);
    }

    pub(crate) fn parse_error(&self, error: ParseError) {
        self.parse_errors[error as usize].fetch_add(1, Relaxed);
    }

    /// Counts a TLS handshake that the gateway and a client agree on.
    pub(crate) fn handshake_done(&self, version: Version, resumed: bool) {
        self.handshakes[version as usize][usize::from(resumed)].fetch_add(1, Relaxed);
    }

    pub(crate) fn handshake_failed(&self, failure: HandshakeFailure) {
        self.handshake_failures[failure as usize].fetch_add(1, Relaxed);
    }

    /// Counts a connection that was closed for want of a PROXY header.
    pub(crate) fn proxy_header_failed(&self, failure: ProxyHeaderFailure) {
        self.proxy_header_failures[failure as usize].fetch_add(1, Relaxed);
    }

    /// Full ones, and resumed ones.
    pub(super) fn handshakes(&self, version: Version) -> [u64; 2] {
        std::array::from_fn(|resumed| self.handshakes[version as usize][resumed].load(Relaxed))
    }

    pub(super) fn handshake_failures(&self, failure: HandshakeFailure) -> u64 {
        self.handshake_failures[failure as usize].load(Relaxed)
    }

    pub(super) fn proxy_header_failures(&self, failure: ProxyHeaderFailure) -> u64 {
        self.proxy_header_failures[failure as usize].load(Relaxed)
    }

    /// Counts a request that has ended with `code`; 0 if it had no response.
    pub(crate) fn request_finished(&self, code: u16) {
        self.rq_by_class[usize::from(code / 100).min(5)].fetch_add(1, Relaxed);
    }

    pub(crate) fn connections_active(&self) -> u64 {
        self.cx_active.load(Relaxed)
    }

    pub(crate) fn connections_total(&self) -> u64 {
        self.cx_total.load(Relaxed)
    }

    pub(super) fn connections_refused(&self) -> u64 {
        self.cx_overflow.load(Relaxed)
    }

    pub(super) fn parse_errors(&self, error: ParseError) -> u64 {
        self.parse_errors[error as usize].load(Relaxed)
    }

    /// By class of the response's status; the first are those without a response.
    pub(super) fn requests(&self) -> [u64; 6] {
        std::array::from_fn(|class| self.rq_by_class[class].load(Relaxed))
    }
}

/// An open connection of a client; see [`ListenerMetrics::connection_opened`].
#[derive(Debug)]
pub(crate) struct DownstreamGuard(Arc<ListenerMetrics>);

impl Drop for DownstreamGuard {
    fn drop(&mut self) {
        self.0.cx_active.fetch_sub(1, Relaxed);
    }
}
