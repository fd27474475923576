//! What a server tells of itself: its streams and what their clients said, and counters.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use crate::server::Peer;
use crate::subscription::{ResourceStatus, Subscriptions, Tally, Verdict};

/// NACKs that are kept for status, of all clients together.
const MAX_NACKS: usize = 64;

/// Refused names that are logged; after that they are only counted.
const MAX_LOGGED: usize = 1024;

/// The variant of the protocol that a stream speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Protocol {
    /// `StreamSecrets`.
    StateOfTheWorld,
    /// `DeltaSecrets`.
    Delta,
}

/// One stream of one client.
#[derive(Clone, Debug, Serialize)]
pub struct StreamStatus {
    /// The first part of the stream's nonces, in hexadecimal there.
    pub id: u64,
    /// Who the client is: `uid 1000`, a SPIFFE id, `anonymous`.
    pub identity: String,
    /// Where it connected from: `unix pid 123`, or an address.
    pub address: String,
    /// `node.id` of its first request.
    pub node: String,
    pub protocol: Protocol,
    #[serde(serialize_with = "crate::time::moment")]
    pub since: SystemTime,
    /// Names that it is subscribed to, and how many of them wait for content, may not be read, or hold content that the
    /// client rejected.
    pub names: usize,
    pub waiting: usize,
    pub refused: usize,
    pub rejected: usize,
    pub responses: u64,
    pub acks: u64,
    pub nacks: u64,
    /// Its names, sorted.
    pub resources: Vec<ResourceStatus>,
}

/// A client rejected a secret.
#[derive(Clone, Debug, Serialize)]
pub struct Nack {
    #[serde(serialize_with = "crate::time::moment")]
    pub at: SystemTime,
    pub identity: String,
    pub address: String,
    pub node: String,
    /// As the client calls the secret; empty if its answer was to no response that is remembered.
    pub name: String,
    /// The client's words, shortened.
    pub reason: String,
}

/// Counts since the server's start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ServerCounters {
    /// Connections that were taken.
    pub connections: u64,
    /// Connections that were closed at once: no rule is for the peer, or the limit is reached.
    pub connections_refused: u64,
    /// TLS handshakes that failed or took too long.
    pub handshake_failures: u64,
    pub streams: u64,
    /// Streams that were refused or ended because of a limit or a broken rule of the protocol.
    pub streams_refused: u64,
    pub responses: u64,
    pub acks: u64,
    pub nacks: u64,
    /// Names asked for that the client may not read; a name counts once in a stream.
    pub names_refused: u64,
    /// Streams and connections that are open now, and names subscribed to in them.
    pub streams_open: u64,
    pub connections_open: u64,
    pub subscriptions: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) handshake_failures: AtomicU64,
    pub(crate) streams: AtomicU64,
    pub(crate) streams_refused: AtomicU64,
    pub(crate) responses: AtomicU64,
    pub(crate) acks: AtomicU64,
    pub(crate) nacks: AtomicU64,
    pub(crate) names_refused: AtomicU64,
    pub(crate) streams_open: AtomicU64,
    pub(crate) connections_open: AtomicU64,
    pub(crate) subscriptions: AtomicU64,
}

/// A view of a server that outlives it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Monitor(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    counters: Counters,
    next_stream: AtomicU64,
    streams: Mutex<BTreeMap<u64, Arc<StreamRecord>>>,
    nacks: Mutex<VecDeque<Nack>>,
    logged: Mutex<HashSet<(String, Arc<str>)>>,
    activity: watch::Sender<u64>,
}

/// What is known of a stream, shared by the task that serves it and by those who look at it.
#[derive(Debug)]
pub(crate) struct StreamRecord {
    pub(crate) id: u64,
    pub(crate) peer: Arc<Peer>,
    protocol: Protocol,
    since: SystemTime,
    pub(crate) state: Mutex<StreamState>,
}

#[derive(Debug)]
pub(crate) struct StreamState {
    pub(crate) subscriptions: Subscriptions,
    pub(crate) node: Option<String>,
    responses: u64,
    acks: u64,
    nacks: u64,
    /// Refused names already counted.
    counted: HashSet<Arc<str>>,
    /// Names counted in the server's total.
    subscribed: u64,
}

impl Monitor {
    pub fn counters(&self) -> ServerCounters {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        let counters = &self.0.counters;
        ServerCounters {
            connections: of(&counters.connections),
            connections_refused: of(&counters.connections_refused),
            handshake_failures: of(&counters.handshake_failures),
            streams: of(&counters.streams),
            streams_refused: of(&counters.streams_refused),
            responses: of(&counters.responses),
            acks: of(&counters.acks),
            nacks: of(&counters.nacks),
            names_refused: of(&counters.names_refused),
            streams_open: of(&counters.streams_open),
            connections_open: of(&counters.connections_open),
            subscriptions: of(&counters.subscriptions),
        }
    }

    /// Every open stream, oldest first, with its names.
    pub fn streams(&self) -> Vec<StreamStatus> {
        // Copied first: no lock is held while another is waited for.
        let records: Vec<_> = self.0.streams.lock().values().cloned().collect();
        records.iter().map(|record| record.status()).collect()
    }

    /// The latest rejections by clients, oldest first; of streams that ended, too.
    pub fn nacks(&self) -> Vec<Nack> {
        self.0.nacks.lock().iter().cloned().collect()
    }

    /// Wakes whenever a stream opens, ends, is answered or answers.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.activity.subscribe()
    }

    pub(crate) fn count(&self) -> &Counters {
        &self.0.counters
    }

    /// Wakes those who watch. Never with a lock of a stream held: they may look at streams while they hold the watch's.
    pub(crate) fn moved(&self) {
        self.0.activity.send_modify(|activity| *activity += 1);
    }

    /// Enters a stream into the list.
    pub(crate) fn open(&self, peer: Arc<Peer>, protocol: Protocol, max_names: usize) -> Arc<StreamRecord> {
        let id = self.0.next_stream.fetch_add(1, Relaxed) + 1;
        // Nonces of an earlier process must not be taken for ours by chance.
        let nonce_prefix = (u64::from(fastrand::u32(..)) << 32) | (id & 0xffff_ffff);
        let record = Arc::new(StreamRecord {
            id,
            peer,
            protocol,
            since: SystemTime::now(),
            state: Mutex::new(StreamState {
                subscriptions: Subscriptions::new(nonce_prefix, max_names),
                node: None,
                responses: 0,
                acks: 0,
                nacks: 0,
                counted: HashSet::new(),
                subscribed: 0,
            }),
        });
        self.0.counters.streams.fetch_add(1, Relaxed);
        self.0.counters.streams_open.fetch_add(1, Relaxed);
        self.0.streams.lock().insert(id, record.clone());
        self.moved();
        record
    }

    /// Takes a stream out of the list.
    pub(crate) fn close(&self, record: &StreamRecord) {
        if self.0.streams.lock().remove(&record.id).is_some() {
            self.0.counters.streams_open.fetch_sub(1, Relaxed);
            self.0.counters.subscriptions.fetch_sub(record.state.lock().subscribed, Relaxed);
            self.moved();
        }
    }

    /// A response left.
    pub(crate) fn responded(&self, state: &mut StreamState) {
        state.responses += 1;
        self.0.counters.responses.fetch_add(1, Relaxed);
    }

    /// Keeps the books after a request: the client's verdict, and which names it may not read. Says how many names all
    /// streams together have now.
    pub(crate) fn requested(&self, record: &StreamRecord, state: &mut StreamState, verdict: Option<Verdict>) -> u64 {
        let counters = &self.0.counters;
        match verdict {
            None => {}
            Some(Verdict::Accepted) => {
                state.acks += 1;
                counters.acks.fetch_add(1, Relaxed);
            }
            Some(Verdict::Rejected { name, reason }) => {
                state.nacks += 1;
                counters.nacks.fetch_add(1, Relaxed);
                self.rejected(record, state, &name, reason);
            }
        }
        let refused: Vec<_> =
            state.subscriptions.refused().filter(|name| !state.counted.contains(*name)).cloned().collect();
        for name in refused {
            counters.names_refused.fetch_add(1, Relaxed);
            self.log_refused(record, &name);
            state.counted.insert(name);
        }
        // A client that goes through names keeps no more of them than a stream may have.
        if state.counted.len() > state.subscriptions.limit() {
            state.counted.clear();
        }
        let names = state.subscriptions.len() as u64;
        let before = std::mem::replace(&mut state.subscribed, names);
        // Both are this stream's share, so that the total never falls below zero.
        counters.subscriptions.fetch_add(names, Relaxed);
        counters.subscriptions.fetch_sub(before, Relaxed) - before
    }

    fn rejected(&self, record: &StreamRecord, state: &StreamState, name: &str, reason: String) {
        let node = state.node.clone().unwrap_or_default();
        if name.is_empty() {
            // No answer to anything that is remembered: a client can say that as often as it likes.
            tracing::debug!(client = %record.peer.identity, node, reason, "an SDS client rejected an unknown response");
            return;
        }
        tracing::warn!(client = %record.peer.identity, address = %record.peer.address, node, secret = name, reason,
            "an SDS client rejected a secret");
        let mut nacks = self.0.nacks.lock();
        if nacks.len() == MAX_NACKS {
            nacks.pop_front();
        }
        nacks.push_back(Nack {
            at: SystemTime::now(),
            identity: record.peer.identity.to_string(),
            address: record.peer.address.clone(),
            node,
            name: name.to_owned(),
            reason,
        });
    }

    /// Once for each client and name: a client that reconnects asks again and again.
    fn log_refused(&self, record: &StreamRecord, name: &Arc<str>) {
        let mut logged = self.0.logged.lock();
        if logged.len() < MAX_LOGGED && logged.insert((record.peer.identity.to_string(), name.clone())) {
            drop(logged);
            tracing::warn!(client = %record.peer.identity, address = %record.peer.address, secret = ?name,
                "an SDS client may not read this secret");
        }
    }
}

impl StreamRecord {
    fn status(&self) -> StreamStatus {
        let state = self.state.lock();
        let Tally { names, waiting, refused, rejected } = state.subscriptions.tally();
        StreamStatus {
            id: self.id,
            identity: self.peer.identity.to_string(),
            address: self.peer.address.clone(),
            node: state.node.clone().unwrap_or_default(),
            protocol: self.protocol,
            since: self.since,
            names,
            waiting,
            refused,
            rejected,
            responses: state.responses,
            acks: state.acks,
            nacks: state.nacks,
            resources: state.subscriptions.resources(),
        }
    }
}
