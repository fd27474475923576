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
        Self { connections: Mutex::default(), max_idle, idle }
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
