use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use parking_lot::Mutex;
use pingora_proxy::Session;

use crate::deadline::Deadline;
use crate::listener::ListenerState;
use crate::stream::Parked;

/// What a connection and its requests know of each other.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) listener: Arc<ListenerState>,
    /// The address that connected; an IPv4 client of a dual-stack socket has its IPv4 form.
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Of the request that an HTTP/1 connection serves now.
    pub(crate) deadline: Deadline,
    flags: AtomicU8,
    parked: Mutex<Option<Parked>>,
}

/// The request head was accepted: Pingora may write to the client.
const ADMITTED: u8 = 1;
/// A local reply was written whole: the connection serves on although Pingora gives it up.
const KEPT: u8 = 2;
/// 101 was sent: bytes are not HTTP any more.
const TUNNEL: u8 = 4;
/// The body's framing broke.
const BAD_BODY: u8 = 8;
/// The request's time is over and its answer is being written.
const ANSWERING_EXPIRY: u8 = 16;
/// Something came after HTTP/2's preface.
const HEARD: u8 = 32;

impl Connection {
    pub(crate) fn new(listener: Arc<ListenerState>, peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            listener,
            peer: canonical(peer),
            local: canonical(local),
            deadline: Deadline::default(),
            flags: AtomicU8::new(0),
            parked: Mutex::default(),
        }
    }

    /// The connection that a request came in on; none only for streams that are not ours.
    pub(crate) fn of(session: &Session) -> Option<&Arc<Self>> {
        session.digest()?.proxy_digest.as_ref()?.user_data.as_ref()?.downcast_ref()
    }

    /// Before each HTTP/1 request.
    pub(crate) fn begin_request(&self) {
        self.flags.store(0, Relaxed);
        self.deadline.reset();
    }

    pub(crate) fn admit(&self) {
        self.set(ADMITTED);
    }

    pub(crate) fn is_admitted(&self) -> bool {
        self.has(ADMITTED)
    }

    /// The request has had its whole answer and the next one may follow, whatever Pingora does with its session.
    pub(crate) fn keep(&self) {
        self.set(KEPT);
    }

    pub(crate) fn is_kept(&self) -> bool {
        self.has(KEPT)
    }

    pub(crate) fn become_tunnel(&self) {
        self.set(TUNNEL);
    }

    pub(crate) fn is_tunnel(&self) -> bool {
        self.has(TUNNEL)
    }

    /// Of an expired request nothing is written any more but the answer that follows this.
    pub(crate) fn answer_expiry(&self) {
        self.set(ANSWERING_EXPIRY);
    }

    pub(crate) fn is_answering_expiry(&self) -> bool {
        self.has(ANSWERING_EXPIRY)
    }

    pub(crate) fn hear(&self) {
        self.set(HEARD);
    }

    pub(crate) fn was_heard(&self) -> bool {
        self.has(HEARD)
    }

    pub(crate) fn mark_bad_body(&self) {
        self.set(BAD_BODY);
    }

    pub(crate) fn has_bad_body(&self) -> bool {
        self.has(BAD_BODY)
    }

    /// Where an HTTP/1 stream leaves its socket when it is dropped.
    pub(crate) fn park(&self, socket: Parked) {
        *self.parked.lock() = Some(socket);
    }

    pub(crate) fn take_parked(&self) -> Option<Parked> {
        self.parked.lock().take()
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
