use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::time::{Instant, sleep_until};

use super::{Http2Connection, Room};
use crate::exchange::http1_upstream::{Key, Wanted};
use crate::upstream::{ConnectionOrigin, OpenError};

/// Turns of the past are swept out once there are more than these.
const MIN_SWEEP: usize = 64;

/// HTTP/2 connections of one worker by everything in which they differ.
///
/// A connection closes when nobody holds it: when the pool has let it go and its last stream has ended. Those that have
/// streams are held by these anyway and are not counted; of the others the pool holds so many, and each so long. One
/// task looks after all of them.
pub(in crate::exchange) struct Http2Pool {
    connections: Mutex<Connections>,
    turns: Mutex<Turns>,
    max_idle: usize,
    idle: Duration,
}

#[derive(Default)]
struct Connections {
    by_key: AHashMap<Key, SmallVec<[Arc<Pooled>; 1]>>,
    /// Connections without streams, the longest idle first.
    idle: BTreeMap<u64, (Instant, Arc<Pooled>)>,
    /// Number of the next that becomes idle.
    next: u64,
    /// There is a task that ends what was idle for too long.
    is_swept: bool,
}

struct Pooled {
    key: Key,
    connection: Http2Connection,
    usage: Mutex<Usage>,
}

/// Changes under the pool's lock only.
#[derive(Default)]
struct Usage {
    leases: usize,
    /// Place in [`Connections::idle`].
    idle: Option<u64>,
    /// The pool holds the connection for further requests.
    is_pooled: bool,
}

/// Who has this opens a connection.
type Turn = tokio::sync::Mutex<()>;

/// Held by who opens a connection for a key, while somebody waits for it or holds it.
#[derive(Default)]
struct Turns {
    by_key: AHashMap<Key, Weak<Turn>>,
    /// How many there were after the last sweep.
    swept: usize,
}

/// Room for one stream, which ends before this does: a connection without leases is idle.
pub(in crate::exchange) struct Lease {
    pool: Weak<Http2Pool>,
    pooled: Arc<Pooled>,
}

impl Lease {
    pub(super) fn connection(&self) -> &Http2Connection {
        &self.pooled.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.give_back(&self.pooled);
        }
    }
}

impl Pooled {
    fn room(&self) -> Room {
        let leases = self.usage.lock().leases;
        self.connection.room(leases)
    }
}

impl Http2Pool {
    /// Keeps at most `max_idle` connections without streams, each for `idle`.
    pub(in crate::exchange) fn new(max_idle: usize, idle: Duration) -> Self {
        Self { connections: Mutex::default(), turns: Mutex::default(), max_idle, idle }
    }

    /// Room on a connection that there is; none if a new connection is needed.
    pub(in crate::exchange) fn checkout(self: &Arc<Self>, wanted: &Wanted) -> Option<Lease> {
        self.find(&wanted.key())
    }

    /// Room on a new connection, or on one that another request has opened meanwhile. The caller limits the time.
    ///
    /// # Errors
    /// No connection, or one that could not be secured.
    pub(in crate::exchange) async fn open(
        self: &Arc<Self>,
        wanted: &Wanted,
    ) -> Result<(Lease, ConnectionOrigin), OpenError> {
        let key = wanted.key();
        let turn = self.turn(&key);
        let _turn = turn.lock().await;
        if let Some(lease) = self.find(&key) {
            return Ok((lease, ConnectionOrigin::Pooled));
        }
        let connection = Http2Connection::open(wanted).await?;
        Ok((self.insert(key, connection), ConnectionOrigin::New))
    }

    /// The turn to open a connection for `key`. Who has waited for it looks for room first: a burst of requests then
    /// opens as many connections as their streams need, and not one for each.
    fn turn(&self, key: &Key) -> Arc<Turn> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.by_key.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        if turns.by_key.len() >= 2 * turns.swept.max(MIN_SWEEP) {
            turns.by_key.retain(|_, turn| turn.strong_count() > 0);
            turns.swept = turns.by_key.len();
        }
        let turn = Arc::<Turn>::default();
        turns.by_key.insert(key.clone(), Arc::downgrade(&turn));
        turn
    }

    fn find(self: &Arc<Self>, key: &Key) -> Option<Lease> {
        let mut connections = self.connections.lock();
        loop {
            let all = connections.by_key.get(key)?.iter();
            let (pooled, room) = all.map(|pooled| (pooled, pooled.room())).find(|(_, room)| *room != Room::Full)?;
            let pooled = pooled.clone();
            match room {
                Room::Gone => connections.remove(&pooled),
                Room::Free | Room::Full => return Some(connections.lease(pooled, self)),
            }
        }
    }

    /// Keeps a connection for later requests.
    fn insert(self: &Arc<Self>, key: Key, connection: Http2Connection) -> Lease {
        let usage = Usage { is_pooled: true, ..Usage::default() };
        let pooled = Arc::new(Pooled { key: key.clone(), connection, usage: Mutex::new(usage) });
        let mut connections = self.connections.lock();
        connections.by_key.entry(key).or_default().push(pooled.clone());
        if !std::mem::replace(&mut connections.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self), self.idle));
        }
        connections.lease(pooled, self)
    }

    fn give_back(&self, pooled: &Arc<Pooled>) {
        let mut connections = self.connections.lock();
        if !connections.end_lease(pooled) {
            return;
        }
        if pooled.connection.is_gone() {
            return connections.remove(pooled);
        }
        connections.rest(pooled);
        if connections.idle.len() > self.max_idle {
            let longest = connections.idle.first_key_value().map(|(_, (_, longest))| longest.clone());
            longest.iter().for_each(|longest| connections.remove(longest));
        }
    }

    /// Lets go what was idle for too long. Gives when to look again; none if there is nothing left to look after.
    fn expire(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut expired = Vec::new();
        let mut connections = self.connections.lock();
        while let Some((_, (since, pooled))) = connections.idle.first_key_value()
            && *since + self.idle <= now
        {
            let pooled = pooled.clone();
            connections.remove(&pooled);
            expired.push(pooled);
        }
        connections.is_swept = !connections.by_key.is_empty();
        // What becomes idle from now on has all of its time yet.
        let first = connections.idle.first_key_value().map_or(now, |(_, (since, _))| *since);
        connections.is_swept.then_some(first + self.idle)
    }
}

impl Connections {
    fn lease(&mut self, pooled: Arc<Pooled>, pool: &Arc<Http2Pool>) -> Lease {
        let mut usage = pooled.usage.lock();
        usage.leases += 1;
        if let Some(place) = usage.idle.take() {
            self.idle.remove(&place);
        }
        drop(usage);
        Lease { pool: Arc::downgrade(pool), pooled }
    }

    /// Whether the connection is the pool's alone now.
    fn end_lease(&mut self, pooled: &Pooled) -> bool {
        let mut usage = pooled.usage.lock();
        usage.leases -= 1;
        usage.leases == 0 && usage.is_pooled
    }

    fn rest(&mut self, pooled: &Arc<Pooled>) {
        pooled.usage.lock().idle = Some(self.next);
        self.idle.insert(self.next, (Instant::now(), pooled.clone()));
        self.next += 1;
    }

    fn remove(&mut self, pooled: &Arc<Pooled>) {
        let mut usage = pooled.usage.lock();
        usage.is_pooled = false;
        if let Some(place) = usage.idle.take() {
            self.idle.remove(&place);
        }
        let Some(all) = self.by_key.get_mut(&pooled.key) else { return };
        all.retain(|other| !Arc::ptr_eq(other, pooled));
        if all.is_empty() {
            self.by_key.remove(&pooled.key);
        }
    }
}

async fn sweep(pool: Weak<Http2Pool>, idle: Duration) {
    let mut next = Instant::now() + idle;
    loop {
        sleep_until(next).await;
        let Some(again) = pool.upgrade().and_then(|pool| pool.expire()) else { return };
        next = again;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use h2::client::ResponseFuture;
    use http::Request;
    use tidegate_snapshot::EndpointAddress;
    use tokio::io::duplex;
    use tokio::task::JoinHandle;

    use super::*;

    const IDLE: Duration = Duration::from_secs(55);

    fn key(port: u16) -> Key {
        Key::Plain(EndpointAddress::Socket(([127, 0, 0, 1], port).into()))
    }

    /// A connection with room for two streams, and a task that ends with it.
    async fn connect() -> (Http2Connection, JoinHandle<()>) {
        let (near, far) = duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            let connection = builder.max_concurrent_streams(2).handshake::<_, Bytes>(far);
            let mut connection = connection.await.unwrap();
            let mut open = Vec::new();
            while let Some(Ok(stream)) = connection.accept().await {
                open.push(stream);
            }
        });
        let connection = Http2Connection::over(near, None, None).await.unwrap();
        // What the backend allows has come.
        while connection.sender.lock().current_max_send_streams() != 2 {
            tokio::task::yield_now().await;
        }
        (connection, server)
    }

    /// A stream that ends with this.
    fn begin(lease: Lease) -> (ResponseFuture, Lease) {
        let (response, _) = lease.send(Request::get("http://a.com/").body(()).unwrap(), true).unwrap();
        (response, lease)
    }

    /// All connections, and the idle ones among them.
    fn counts(pool: &Http2Pool) -> (usize, usize) {
        let connections = pool.connections.lock();
        let all = || connections.by_key.values().flatten();
        assert!(all().all(|pooled| pooled.usage.lock().is_pooled));
        assert_eq!(all().filter(|pooled| pooled.usage.lock().idle.is_some()).count(), connections.idle.len());
        (all().count(), connections.idle.len())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_serves_its_own_key_while_it_has_room_and_closes_when_idle() {
        let pool = Arc::new(Http2Pool::new(10, IDLE));
        let (connection, server) = connect().await;
        let first = begin(pool.insert(key(1), connection));
        assert!(pool.find(&key(2)).is_none(), "another backend");
        let second = begin(pool.find(&key(1)).unwrap());
        assert!(pool.find(&key(1)).is_none(), "full");
        tokio::time::sleep(3 * IDLE).await;
        assert_eq!(counts(&pool), (1, 0), "in use");
        drop(first);
        drop(second);
        tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
        drop(pool.find(&key(1)).unwrap());
        tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
        assert_eq!(counts(&pool), (1, 1), "used a while ago");
        server.await.unwrap();
        assert_eq!(counts(&pool), (0, 0));
        assert!(!pool.connections.lock().is_swept, "nothing is left to look after");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_makes_room() {
        let pool = Arc::new(Http2Pool::new(2, IDLE));
        let mut servers = Vec::new();
        for port in 0..3 {
            let (connection, server) = connect().await;
            drop(begin(pool.insert(key(port), connection)));
            servers.push(server);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(counts(&pool), (2, 2));
        assert!(pool.find(&key(0)).is_none());
        servers.remove(0).await.unwrap();
        let held = (pool.find(&key(1)).unwrap(), pool.find(&key(2)).unwrap());
        // All are in use, and one more is there for as long as it is, too.
        let (connection, server) = connect().await;
        let stream = begin(pool.insert(key(3), connection));
        assert_eq!(counts(&pool), (3, 0));
        drop(stream);
        assert_eq!(counts(&pool), (3, 1));
        drop(held.1);
        drop(held.0);
        assert_eq!(counts(&pool), (2, 2), "the first that became idle went");
        assert!(pool.find(&key(3)).is_none());
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_connections_that_were_evicted_leave_no_tasks() {
        let pool = Arc::new(Http2Pool::new(3, IDLE));
        let mut servers = Vec::new();
        for port in 0..1000 {
            let (connection, server) = connect().await;
            drop(begin(pool.insert(key(port), connection)));
            servers.push(server);
            assert!(counts(&pool).0 <= 3);
        }
        for server in servers.drain(..997) {
            server.await.unwrap();
        }
        // Three servers, the three tasks of their clients, and the one that looks after them.
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 7);
        tokio::time::sleep(IDLE + Duration::from_secs(1)).await;
        assert_eq!(counts(&pool), (0, 0));
        assert!(!pool.connections.lock().is_swept);
        // And it begins anew when there is something to look after.
        let (connection, server) = connect().await;
        drop(pool.insert(key(1), connection));
        server.await.unwrap();
    }

    #[tokio::test]
    async fn turns_of_the_past_are_forgotten() {
        let pool = Http2Pool::new(1, IDLE);
        let held = pool.turn(&key(0));
        for port in 1..10_000 {
            drop(pool.turn(&key(port)));
            assert!(pool.turns.lock().by_key.len() <= 2 * MIN_SWEEP);
        }
        assert!(Arc::ptr_eq(&held, &pool.turn(&key(0))));
    }

    #[tokio::test]
    async fn a_connection_that_closed_is_forgotten() {
        let pool = Arc::new(Http2Pool::new(2, IDLE));
        let (connection, server) = connect().await;
        drop(begin(pool.insert(key(1), connection)));
        server.abort();
        while pool.find(&key(1)).is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(counts(&pool), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_comes_is_asked_and_ended_if_it_does_not_answer() {
        let pool = Arc::new(Http2Pool::new(2, IDLE));
        let (connection, _server) = connect().await;
        let (_, lease) = begin(pool.insert(key(1), connection));
        for _ in 0..3 {
            lease.suspect(lease.reads());
            tokio::time::sleep(Duration::from_secs(400)).await;
            assert!(pool.find(&key(1)).is_some(), "it has answered");
        }
        let reads = lease.reads();
        assert!(reads > 3, "{reads}");
        lease.suspect(reads);
        tokio::time::sleep(Duration::from_secs(10)).await;
        lease.suspect(lease.reads());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(lease.reads(), reads + 1, "it is not asked too often");
        let (near, far) = duplex(64 * 1024);
        let connection = Http2Connection::over(near, None, None).await.unwrap();
        let (response, lease) = begin(pool.insert(key(2), connection));
        lease.suspect(lease.reads() + 1);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(pool.find(&key(2)).is_some(), "something came meanwhile");
        lease.suspect(lease.reads());
        lease.suspect(lease.reads());
        assert!(response.await.unwrap_err().is_io(), "what waits for it ends with it");
        assert!(pool.find(&key(2)).is_none());
        drop((lease, far));
        assert_eq!(counts(&pool), (1, 0), "the first is in use");
    }
}
