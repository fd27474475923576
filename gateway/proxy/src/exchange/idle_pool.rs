use std::hash::Hash;
use std::time::Duration;

use ahash::AHashMap;
use smallvec::SmallVec;
use tokio::time::Instant;

/// Idle connections of one worker, the one that was used last first; the one that was not used for longest makes room.
///
/// Every operation takes constant time but [`IdlePool::sweep`].
pub(super) struct IdlePool<K, C> {
    places: Vec<Place<K, C>>,
    /// Places that hold nothing, to be used again.
    free: Vec<u32>,
    by_key: AHashMap<K, SmallVec<[u32; 4]>>,
    /// The list of all that are idle, the oldest first.
    oldest: Option<u32>,
    newest: Option<u32>,
    count: usize,
    limit: usize,
}

struct Place<K, C> {
    held: Option<Idle<K, C>>,
    older: Option<u32>,
    newer: Option<u32>,
}

struct Idle<K, C> {
    key: K,
    connection: C,
    since: Instant,
}

impl<K: Eq + Hash + Clone, C> IdlePool<K, C> {
    /// Keeps at most `limit` connections.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            by_key: AHashMap::new(),
            oldest: None,
            newest: None,
            count: 0,
            limit,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The connection of `key` that was used last.
    pub(super) fn take(&mut self, key: &K) -> Option<C> {
        let place = *self.by_key.get(key)?.last()?;
        self.remove(place)
    }

    /// Keeps `connection` for `key`, and returns the one that had to go for it.
    pub(super) fn put(&mut self, key: K, connection: C, now: Instant) -> Option<C> {
        if self.limit == 0 {
            return Some(connection);
        }
        let gone = self.oldest.filter(|_| self.count >= self.limit).and_then(|oldest| self.remove(oldest));
        let held = Some(Idle { key: key.clone(), connection, since: now });
        let place = Place { held, older: self.newest, newer: None };
        let at = match self.free.pop() {
            Some(at) => {
                self.places[at as usize] = place;
                at
            }
            None => {
                self.places.push(place);
                // There are no more places than connections, which `limit` bounds.
                (self.places.len() - 1) as u32
            }
        };
        match self.newest {
            Some(newest) => self.places[newest as usize].newer = Some(at),
            None => self.oldest = Some(at),
        }
        self.newest = Some(at);
        self.by_key.entry(key).or_default().push(at);
        self.count += 1;
        gone
    }

    /// Takes out the connections that have been idle for longer than `idle`, and those of which `is_dead` says so.
    pub(super) fn sweep(&mut self, now: Instant, idle: Duration, mut is_dead: impl FnMut(&mut C) -> bool) -> Vec<C> {
        let mut is_over =
            |held: &mut Idle<K, C>| now.saturating_duration_since(held.since) > idle || is_dead(&mut held.connection);
        let gone: Vec<u32> = (0u32..)
            .zip(&mut self.places)
            .filter_map(|(at, place)| place.held.as_mut().is_some_and(&mut is_over).then_some(at))
            .collect();
        gone.into_iter().filter_map(|at| self.remove(at)).collect()
    }

    fn remove(&mut self, at: u32) -> Option<C> {
        let place = &mut self.places[at as usize];
        let held = place.held.take()?;
        let (older, newer) = (place.older.take(), place.newer.take());
        match older {
            Some(older) => self.places[older as usize].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.places[newer as usize].older = older,
            None => self.newest = older,
        }
        self.free.push(at);
        self.count -= 1;
        if let Some(all) = self.by_key.get_mut(&held.key) {
            // Nearly always the last.
            if let Some(found) = all.iter().rposition(|other| *other == at) {
                all.remove(found);
            }
            if all.is_empty() {
                self.by_key.remove(&held.key);
            }
        }
        Some(held.connection)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    #[test]
    fn the_last_one_used_is_taken_first_and_the_oldest_makes_room() {
        let now = Instant::now();
        let mut pool = IdlePool::new(3);
        assert_eq!(pool.put("a", 1, now), None);
        assert_eq!(pool.put("b", 2, now), None);
        assert_eq!(pool.put("a", 3, now), None);
        assert_eq!(pool.put("b", 4, now), Some(1));
        assert_eq!(pool.take(&"a"), Some(3));
        assert_eq!(pool.take(&"a"), None);
        assert_eq!((pool.take(&"b"), pool.take(&"b"), pool.take(&"b")), (Some(4), Some(2), None));
        assert!(pool.is_empty() && pool.by_key.is_empty() && pool.oldest.is_none() && pool.newest.is_none());
        assert_eq!(IdlePool::new(0).put("a", 1, now), Some(1));
    }

    #[test]
    fn what_is_old_or_dead_is_swept() {
        let start = Instant::now();
        let mut pool = IdlePool::new(10);
        for number in 0..6 {
            pool.put(number % 2, number, start + Duration::from_secs(number));
        }
        let mut gone = pool.sweep(start + IDLE + Duration::from_secs(2), IDLE, |number| *number == 4);
        gone.sort_unstable();
        assert_eq!(gone, [0, 1, 4]);
        assert_eq!((pool.take(&0), pool.take(&1), pool.take(&1)), (Some(2), Some(5), Some(3)));
        assert!(pool.is_empty());
    }

    /// Whatever is put and taken, the pool agrees with a list that is searched.
    #[test]
    fn random_use_agrees_with_a_plain_list() {
        let now = Instant::now();
        let mut random = fastrand::Rng::with_seed(3);
        let (mut pool, mut list) = (IdlePool::new(8), Vec::<(u8, i32)>::new());
        for number in 0..20_000 {
            let key = random.u8(..5);
            if random.bool() {
                let expected = (list.len() == 8).then(|| list.remove(0).1);
                list.push((key, number));
                assert_eq!(pool.put(key, number, now), expected);
            } else {
                let expected = list.iter().rposition(|(other, _)| *other == key).map(|at| list.remove(at).1);
                assert_eq!(pool.take(&key), expected);
            }
            assert_eq!(pool.count, list.len());
        }
        assert!(pool.places.len() <= 8);
    }
}
