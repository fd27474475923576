use std::sync::{Arc, Weak};
use std::time::Duration;

use ahash::AHashMap;
use parking_lot::Mutex;
use pingora_core::connectors::http::v2::ConnectionRef;
use pingora_core::protocols::http::v2::client::Http2Session;
use smallvec::SmallVec;
use tokio::time::{Instant, sleep_until};

use super::PoolKey;

/// HTTP/2 connections of one worker by everything in which they differ.
///
/// A connection closes when nobody holds it: when the pool has let it go and its last stream has ended.
pub(super) struct Http2Pool {
    connections: Mutex<Connections>,
    /// Held by who opens a connection for a key, while somebody waits for it or holds it.
    turns: Mutex<AHashMap<Arc<PoolKey>, Weak<Turn>>>,
    max_idle: usize,
    idle: Duration,
}

#[derive(Default)]
struct Connections {
    by_key: AHashMap<Arc<PoolKey>, SmallVec<[Arc<Pooled>; 1]>>,
    count: usize,
}

struct Pooled {
    connection: ConnectionRef,
    last_used: Mutex<Instant>,
}

/// Who has this opens a connection.
pub(super) type Turn = tokio::sync::Mutex<()>;

/// Held by a stream: tells the pool when its connection was last of use.
pub(super) struct Lease(Arc<Pooled>);

impl Drop for Lease {
    fn drop(&mut self) {
        *self.0.last_used.lock() = Instant::now();
    }
}

impl Pooled {
    fn is_gone(&self) -> bool {
        self.connection.is_closed() || self.connection.is_shutting_down()
    }

    fn expires_at(&self, idle: Duration) -> Instant {
        let since = if self.connection.is_idle() { *self.last_used.lock() } else { Instant::now() };
        since + idle
    }
}

impl Http2Pool {
    pub(super) fn new(max_idle: usize, idle: Duration) -> Self {
        Self { connections: Mutex::default(), turns: Mutex::default(), max_idle, idle }
    }

    /// The turn to open a connection for `key`. Who has waited for it looks for a stream first: a burst of requests
    /// then opens as many connections as their streams need, and not one for each.
    pub(super) fn turn(&self, key: &Arc<PoolKey>) -> Arc<Turn> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(key).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::<Turn>::default();
        turns.insert(key.clone(), Arc::downgrade(&turn));
        turn
    }

    /// A stream on a connection that has room; none if a new connection is needed.
    pub(super) async fn checkout(&self, key: &Arc<PoolKey>) -> Option<(Http2Session, Lease)> {
        let candidates: SmallVec<[Arc<Pooled>; 1]> = {
            let mut connections = self.connections.lock();
            connections.retain(key, |pooled| !pooled.is_gone());
            let all = connections.by_key.get(key)?;
            all.iter().filter(|pooled| pooled.connection.more_streams_allowed()).cloned().collect()
        };
        for pooled in candidates {
            // None and errors mean that the connection is full or goes away; the next may do.
            if let Ok(Some(stream)) = pooled.connection.spawn_stream().await {
                return Some((stream, Lease(pooled)));
            }
        }
        None
    }

    /// Keeps a connection for later requests, if there is room for one.
    pub(super) fn insert(this: &Arc<Self>, key: Arc<PoolKey>, connection: ConnectionRef) -> Lease {
        let pooled = Arc::new(Pooled { connection, last_used: Mutex::new(Instant::now()) });
        let kept = {
            let mut connections = this.connections.lock();
            if connections.count >= this.max_idle {
                connections.evict_longest_idle();
            }
            let kept = connections.count < this.max_idle;
            if kept {
                connections.by_key.entry(key.clone()).or_default().push(pooled.clone());
                connections.count += 1;
            }
            kept
        };
        if kept {
            tokio::spawn(watch(Arc::downgrade(this), key, Arc::downgrade(&pooled), this.idle));
        }
        Lease(pooled)
    }
}

impl Connections {
    fn retain(&mut self, key: &Arc<PoolKey>, keep: impl Fn(&Arc<Pooled>) -> bool) {
        let Some(all) = self.by_key.get_mut(key) else { return };
        let before = all.len();
        all.retain(|pooled| keep(pooled));
        self.count -= before - all.len();
        if all.is_empty() {
            self.by_key.remove(key);
        }
    }

    /// Makes room: the connection that has been of no use for longest goes. There may be none without streams.
    fn evict_longest_idle(&mut self) {
        let all = self.by_key.iter().flat_map(|(key, all)| all.iter().map(move |pooled| (key, pooled)));
        let idle = all.filter(|(_, pooled)| pooled.is_gone() || pooled.connection.is_idle());
        let longest = idle.min_by_key(|(_, pooled)| *pooled.last_used.lock());
        if let Some((key, pooled)) = longest.map(|(key, pooled)| (key.clone(), pooled.clone())) {
            self.retain(&key, |other| !Arc::ptr_eq(other, &pooled));
        }
    }
}

/// Lets a connection go once it was idle for `idle`, or is gone.
async fn watch(pool: Weak<Http2Pool>, key: Arc<PoolKey>, pooled: Weak<Pooled>, idle: Duration) {
    loop {
        let Some(at) = pooled.upgrade().map(|pooled| pooled.expires_at(idle)) else { return };
        sleep_until(at).await;
        let (Some(pool), Some(pooled)) = (pool.upgrade(), pooled.upgrade()) else { return };
        if pooled.is_gone() || pooled.expires_at(idle) <= Instant::now() {
            pool.connections.lock().retain(&key, |other| !Arc::ptr_eq(other, &pooled));
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use pingora_core::connectors::http::v2::{H2HandshakeSettings, handshake};
    use rustls::pki_types::ServerName;
    use tidegate_snapshot::EndpointAddress;
    use tokio::io::duplex;
    use tokio::task::JoinHandle;

    use super::*;

    const IDLE: Duration = Duration::from_secs(55);

    fn key(trust: u64) -> Arc<PoolKey> {
        Arc::new(PoolKey {
            address: EndpointAddress::Socket(([127, 0, 0, 1], 443).into()),
            trust,
            server_name: ServerName::try_from("a.com").unwrap(),
            http2: true,
        })
    }

    /// A connection with room for two streams, and a task that ends with it.
    async fn connect() -> (ConnectionRef, JoinHandle<()>) {
        let (near, far) = duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            while connection.accept().await.is_some() {}
        });
        let mut settings = H2HandshakeSettings::new();
        settings.max_streams = 2;
        (handshake(Box::new(near), settings).await.unwrap(), server)
    }

    fn count(pool: &Http2Pool) -> usize {
        let connections = pool.connections.lock();
        assert_eq!(connections.count, connections.by_key.values().map(SmallVec::len).sum::<usize>());
        connections.count
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_serves_its_own_key_while_it_has_room_and_closes_when_idle() {
        let pool = Arc::new(Http2Pool::new(10, IDLE));
        let (connection, server) = connect().await;
        let first = connection.spawn_stream().await.unwrap().unwrap();
        let lease = Http2Pool::insert(&pool, key(1), connection);
        assert!(pool.checkout(&key(2)).await.is_none(), "other trust");
        let second = pool.checkout(&key(1)).await.unwrap();
        assert!(pool.checkout(&key(1)).await.is_none(), "full");
        tokio::time::sleep(3 * IDLE).await;
        assert_eq!(count(&pool), 1, "in use");
        drop((first, lease));
        drop(second);
        tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
        drop(pool.checkout(&key(1)).await.unwrap());
        tokio::time::sleep(IDLE - Duration::from_secs(1)).await;
        assert_eq!(count(&pool), 1, "used a while ago");
        server.await.unwrap();
        assert_eq!(count(&pool), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_makes_room() {
        let pool = Arc::new(Http2Pool::new(2, IDLE));
        let mut servers = Vec::new();
        for trust in 0..3 {
            let (connection, server) = connect().await;
            drop(connection.spawn_stream().await.unwrap());
            drop(Http2Pool::insert(&pool, key(trust), connection));
            servers.push(server);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(count(&pool), 2);
        assert!(pool.checkout(&key(0)).await.is_none());
        servers.remove(0).await.unwrap();
        let held = (pool.checkout(&key(1)).await.unwrap(), pool.checkout(&key(2)).await.unwrap());
        // All are in use: one more is not kept, and serves who opened it.
        let (connection, server) = connect().await;
        let stream = connection.spawn_stream().await.unwrap().unwrap();
        let lease = Http2Pool::insert(&pool, key(3), connection);
        assert_eq!(count(&pool), 2);
        assert!(pool.checkout(&key(3)).await.is_none());
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop((stream, lease));
        server.await.unwrap();
        drop(held);
    }

    #[tokio::test]
    async fn a_connection_that_closed_is_forgotten() {
        let pool = Arc::new(Http2Pool::new(2, IDLE));
        let (connection, server) = connect().await;
        let stream = connection.spawn_stream().await.unwrap().unwrap();
        let lease = Http2Pool::insert(&pool, key(1), connection);
        drop((stream, lease));
        server.abort();
        while pool.checkout(&key(1)).await.is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(count(&pool), 0);
    }
}
