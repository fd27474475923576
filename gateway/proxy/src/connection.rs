use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use tokio::sync::Notify;

use crate::listener::ListenerState;
use crate::telemetry::RequestFacts;
use crate::tls::TlsInfo;

/// The ends of a connection; an IPv4 client of a dual-stack socket has its IPv4 form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    /// The client: the address that connected, or the one that a PROXY header names.
    pub(crate) peer: SocketAddr,
    /// The address that connected.
    pub(crate) direct_peer: SocketAddr,
    /// The address that was connected to, as far as the client knows.
    pub(crate) local: SocketAddr,
}

impl Ends {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr) -> Self {
        Self { peer: canonical(peer), direct_peer: canonical(peer), local: canonical(local) }
    }

    /// What a PROXY header says of the client's connection to the proxy.
    pub(crate) fn proxied(self, source: SocketAddr, destination: SocketAddr) -> Self {
        Self { peer: canonical(source), local: canonical(destination), ..self }
    }
}

/// What a connection and its requests know of each other.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) listener: Arc<ListenerState>,
    /// See [`Ends::peer`].
    pub(crate) peer: SocketAddr,
    /// See [`Ends::direct_peer`].
    pub(crate) direct_peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// What the client asked for as SNI, in lower case: a DNS name and nothing else.
    pub(crate) server_name: Option<Box<str>>,
    /// None on plaintext listeners, and where TLS is passed through.
    pub(crate) tls: Option<Box<TlsInfo>>,
    flags: AtomicU8,
    /// Wakes who serves an HTTP/2 connection that must go.
    leave: Notify,
}

/// Something came after HTTP/2's preface.
const HEARD: u8 = 1;
/// The connection must not serve further requests.
const LEAVING: u8 = 2;

impl Connection {
    pub(crate) fn new(
        listener: Arc<ListenerState>,
        ends: Ends,
        server_name: Option<Box<str>>,
        tls: Option<Box<TlsInfo>>,
    ) -> Self {
        Self {
            listener,
            peer: ends.peer,
            direct_peer: ends.direct_peer,
            local: ends.local,
            server_name,
            tls,
            flags: AtomicU8::new(0),
            leave: Notify::new(),
        }
    }

    /// Fills in what a log line says of the connection.
    pub(crate) fn describe<'a>(&'a self, facts: &mut RequestFacts<'a>) {
        facts.downstream_local_address = Some(self.local);
        facts.downstream_remote_address = Some(self.peer);
        facts.downstream_direct_remote_address = Some(self.direct_peer);
        facts.requested_server_name = self.server_name.as_deref();
        facts.tls = self.tls.as_deref();
    }

    /// Asks the connection to go: HTTP/1 is closed after the present answer, HTTP/2 gets GOAWAY.
    pub(crate) fn ask_to_leave(&self) {
        self.set(LEAVING);
        self.leave.notify_one();
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.has(LEAVING) || self.listener.is_draining()
    }

    /// Resolves once [`Self::ask_to_leave`] was called.
    pub(crate) async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    pub(crate) fn hear(&self) {
        self.set(HEARD);
    }

    pub(crate) fn was_heard(&self) -> bool {
        self.has(HEARD)
    }

    fn set(&self, flag: u8) {
        self.flags.fetch_or(flag, Relaxed);
    }

    fn has(&self, flag: u8) -> bool {
        self.flags.load(Relaxed) & flag != 0
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
