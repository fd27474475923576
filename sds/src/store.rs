use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::SystemTime;

use ahash::AHashMap;
use parking_lot::{Mutex, RwLock};
use tidegate_core::{Diagnostic, Host, SecretName};
use tokio::sync::watch;

use crate::ledger::Outcome;
use crate::offer::{Offer, Payload, SourceKind};
use crate::status::{SecretGauge, SecretStatus};
use crate::{Challenges, Clock, SecretSlot, Timestamp};

/// Offers that are read before the generation moves. Ten thousand certificates that rotate at once are not seen all
/// at the end.
const BATCH: usize = 1024;

/// Offers for which another thread is worth its start.
const OFFERS_PER_THREAD: usize = 8;

/// All slots. Shared by the sources, which offer, and the data plane, which reads.
#[derive(Debug)]
pub struct SecretStore {
    slots: RwLock<AHashMap<SecretName, Arc<SecretSlot>>>,
    /// Shared by those who fill slots, exclusive for those who remove them: a slot that is being filled is in `slots`.
    removal: RwLock<()>,
    generation: AtomicU64,
    swaps: watch::Sender<u64>,
    changes: watch::Sender<u64>,
    challenges: Challenges,
    clock: Clock,
}

impl Default for SecretStore {
    fn default() -> Self {
        Self::with_clock(Clock::system())
    }
}

impl SecretStore {
    pub fn with_clock(clock: Clock) -> Self {
        Self {
            slots: RwLock::default(),
            removal: RwLock::default(),
            generation: AtomicU64::new(0),
            swaps: watch::Sender::new(0),
            changes: watch::Sender::new(0),
            challenges: Challenges::default(),
            clock,
        }
    }

    /// Takes offers in. The generation moves once for all of them (once for a thousand, if there are more). Gives back
    /// what is wrong with these names now: offers that were refused, and those that serve in spite of something. What
    /// was refused costs no other name.
    ///
    /// The same bytes as before are no news, and cost next to nothing if they are the same `Arc`s. Of several offers
    /// of one source for one name the last counts. Reads material on all cores; blocks for about 100 µs a certificate.
    pub fn offer(&self, offers: Vec<Offer>) -> Vec<Diagnostic> {
        let _filling = self.removal.read();
        let now = self.clock.now();
        let mut touched = Vec::with_capacity(offers.len());
        self.fill(offers, now, &mut touched);
        findings(&touched, now)
    }

    fn fill(&self, offers: Vec<Offer>, now: Timestamp, touched: &mut Vec<Arc<SecretSlot>>) {
        let mut outcome = Outcome::default();
        let mut unread = Vec::new();
        for offer in last_of_each(offers) {
            let slot = match (self.get(&offer.name), &offer.payload) {
                (Some(slot), _) => slot,
                (None, Payload::Nothing(_)) => continue,
                (None, _) => self.get_or_create(&offer.name),
            };
            let (settled, news) = slot.admit(offer, now);
            outcome |= settled;
            unread.extend(news.map(|offer| (slot.clone(), offer)));
            touched.push(slot);
        }
        while !unread.is_empty() {
            let rest = unread.split_off(unread.len().min(BATCH));
            outcome |= in_parallel(unread, |(slot, offer)| {
                let content = offer.payload.content(now);
                slot.settle(offer, content, now)
            });
            self.announce(std::mem::take(&mut outcome));
            unread = rest;
        }
        self.announce(outcome);
    }

    /// The sources that serve these names, whichever they are, no longer have them. What they hold serves on, as in
    /// Istio, and is told to be orphaned; if another source has the name too, it takes over.
    pub fn withdraw(&self, names: &[SecretName]) {
        self.take_back(None, names);
    }

    /// This source no longer has these names; what other sources have is not touched.
    pub fn withdraw_from(&self, source: SourceKind, names: &[SecretName]) {
        self.take_back(Some(source), names);
    }

    fn take_back(&self, source: Option<SourceKind>, names: &[SecretName]) {
        let _removing = self.removal.write();
        let mut outcome = Outcome::default();
        let mut successors = Vec::new();
        for name in names {
            let Some(slot) = self.get(name) else { continue };
            let (withdrawn, next) = slot.withdraw(source);
            outcome |= withdrawn;
            successors.extend(next);
            if slot.is_vacant() {
                self.slots.write().remove(name);
            }
        }
        self.announce(outcome);
        self.fill(successors, self.clock.now(), &mut Vec::new());
    }

    /// Tells which hosts show which certificate, so that offers can be held against them; replaces what was told.
    /// Gives back what is wrong with these names now. A name that no source has is [`Missing`] from now on.
    ///
    /// [`Missing`]: crate::SecretState::Missing
    pub fn expect_hosts(&self, hosts: BTreeMap<SecretName, Vec<Host>>) -> Vec<Diagnostic> {
        let _removing = self.removal.write();
        let now = self.clock.now();
        let mut outcome = Outcome::default();
        for slot in self.slots() {
            if !hosts.contains_key(slot.name()) {
                outcome |= slot.expect(Vec::new(), now);
                if slot.is_vacant() {
                    self.slots.write().remove(slot.name());
                }
            }
        }
        let mut touched = Vec::with_capacity(hosts.len());
        for (name, hosts) in hosts {
            let slot = self.get_or_create(&name);
            outcome |= slot.expect(hosts, now);
            touched.push(slot);
        }
        self.announce(outcome);
        findings(&touched, now)
    }

    /// Looks again at what depends on time: offers that were refused until they are valid, staples that expired. Gives
    /// back [`findings`](Self::findings) at that time. To be called every minute or so.
    pub fn tick(&self, now: SystemTime) -> Vec<Diagnostic> {
        let now = now.into();
        let slots = self.slots();
        let mut outcome = Outcome::default();
        for slot in &slots {
            outcome |= slot.rejudge(now);
        }
        self.announce(outcome);
        findings(&slots, now)
    }

    /// Forgets secrets that no source has any more and that `is_used` does not claim either; those whose hosts were
    /// told stay. Returns how many it were.
    pub fn release(&self, is_used: impl Fn(&SecretName) -> bool) -> usize {
        let _removing = self.removal.write();
        let mut slots = self.slots.write();
        let before = slots.len();
        slots.retain(|name, slot| !slot.is_unused_orphan() || is_used(name));
        let released = before - slots.len();
        drop(slots);
        self.announce(Outcome::changed(released > 0));
        released
    }

    /// The slot of a name; none if no source ever had it and no host expects it.
    pub fn get(&self, name: &SecretName) -> Option<Arc<SecretSlot>> {
        self.slots.read().get(name).cloned()
    }

    fn get_or_create(&self, name: &SecretName) -> Arc<SecretSlot> {
        let mut slots = self.slots.write();
        slots.entry(name.clone()).or_insert_with(|| Arc::new(SecretSlot::new(name.clone()))).clone()
    }

    /// The first of several names that holds something.
    pub fn resolve(&self, names: &[SecretName]) -> Option<Arc<SecretSlot>> {
        let slots = self.slots.read();
        names.iter().filter_map(|name| slots.get(name)).find(|slot| slot.current().is_some()).cloned()
    }

    /// Sorted by name.
    pub fn slots(&self) -> Vec<Arc<SecretSlot>> {
        let mut slots: Vec<_> = self.slots.read().values().cloned().collect();
        slots.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        slots
    }

    /// Moves with every swap of any slot, so that one comparison tells a reader that nothing changed.
    pub fn generation(&self) -> u64 {
        // Not relaxed: who sees a new generation must see the new material, too, or it would keep the old one until the
        // next swap. It is the same instruction on x86-64.
        self.generation.load(Ordering::Acquire)
    }

    /// Wakes at every swap.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.swaps.subscribe()
    }

    /// Wakes whenever a status or a finding may be another: at swaps, refusals, withdrawals. Not as time passes.
    pub fn subscribe_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Everything wrong now, by name.
    pub fn findings(&self) -> Vec<Diagnostic> {
        findings(&self.slots(), self.clock.now())
    }

    pub fn status(&self, name: &SecretName) -> Option<SecretStatus> {
        self.get(name).map(|slot| slot.status(self.clock.now()))
    }

    /// Sorted by name.
    pub fn statuses(&self) -> Vec<SecretStatus> {
        let now = self.clock.now();
        self.slots().iter().map(|slot| slot.status(now)).collect()
    }

    /// Numbers of every secret, sorted by name, one after another.
    pub fn for_each_gauge(&self, mut read: impl FnMut(SecretGauge<'_>)) {
        self.slots().iter().for_each(|slot| slot.gauge(&mut read));
    }

    /// ACME's open challenges, which listeners answer.
    pub fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    fn announce(&self, outcome: Outcome) {
        if outcome.swapped {
            self.swaps.send_modify(|seen| *seen = self.generation.fetch_add(1, Ordering::AcqRel) + 1);
        }
        if outcome.swapped || outcome.changed {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }
}

fn findings(slots: &[Arc<SecretSlot>], now: Timestamp) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    slots.iter().for_each(|slot| slot.findings(now, &mut findings));
    findings
}

/// Leaves out what a later offer of the same source replaces.
fn last_of_each(mut offers: Vec<Offer>) -> Vec<Offer> {
    let mut last: AHashMap<(SecretName, SourceKind), usize> = AHashMap::with_capacity(offers.len());
    for (at, offer) in offers.iter().enumerate() {
        last.insert((offer.name.clone(), offer.source), at);
    }
    if last.len() < offers.len() {
        let mut at = 0..;
        offers.retain(|offer| at.next() == last.get(&(offer.name.clone(), offer.source)).copied());
    }
    offers
}

/// Does all of the work, on as many cores as it is worth.
fn in_parallel<T: Send>(work: Vec<T>, run: impl Fn(T) -> Outcome + Sync) -> Outcome {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = cores.min(work.len() / OFFERS_PER_THREAD);
    let queue = Mutex::new(work.into_iter());
    let drain = || {
        let mut outcome = Outcome::default();
        loop {
            let Some(next) = queue.lock().next() else { return outcome };
            outcome |= run(next);
        }
    };
    let mut outcome = Outcome::default();
    thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(drain)).collect();
        outcome |= drain();
        for helper in helpers {
            match helper.join() {
                Ok(done) => outcome |= done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    outcome
}
