//! Groups of files that make one secret: read together when one of them changes, held back while somebody is writing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidegate_core::{SecretBytes, SecretName};

use super::read::{ReadError, Stamp, read_together, stamp};
use crate::offer::{Offer, Payload};
use crate::{SecretStore, SourceKind, Timestamp};

/// How long files that no longer make a secret may do so before it is told: writers that replace one file after the
/// other leave a certificate with another one's key for a moment.
const HOLD: Duration = Duration::from_secs(1);

/// When to look again while something is held back.
pub(super) const RETRY: Duration = Duration::from_millis(50);

/// Files that make one secret.
pub(super) trait Unit: PartialEq {
    /// What stays the same when files come and go.
    type Id: Ord;

    fn id(&self) -> Self::Id;

    /// Files that exist or should, in the order in which [`offers`](Self::offers) gets their bytes.
    fn paths(&self) -> Vec<&Path>;

    /// Makes offers of the bytes, or of why they could not be read.
    fn offers(&self, read: Result<Vec<SecretBytes>, ReadError>) -> Vec<Offer>;
}

/// The units of a source, and what is known of each.
#[derive(Debug)]
pub(super) struct Units<U: Unit> {
    known: BTreeMap<U::Id, Known<U>>,
}

#[derive(Debug)]
struct Known<U> {
    unit: U,
    /// Of its files, as they were when it was last offered; none before.
    offered: Option<Vec<Option<Stamp>>>,
    /// Names that it offered.
    names: BTreeSet<SecretName>,
    /// Since when it is no secret any more.
    broken_since: Option<Instant>,
}

impl<U: Unit> Units<U> {
    pub(super) fn new() -> Self {
        Self { known: BTreeMap::new() }
    }

    /// Reads what changed and offers it; withdraws what is none of `units` any more. Tells whether something is held
    /// back, so that it must be looked at again soon.
    pub(super) fn update(&mut self, units: impl IntoIterator<Item = U>, store: &SecretStore) -> bool {
        let mut before = std::mem::take(&mut self.known);
        let (mut offers, mut held) = (Vec::new(), false);
        for unit in units {
            let (mut known, is_same) = match before.remove(&unit.id()) {
                Some(known) => {
                    let is_same = known.unit == unit;
                    (Known { unit, ..known }, is_same)
                }
                None => (Known::new(unit), true),
            };
            let stamps = known.unit.paths().into_iter().map(stamp).collect();
            if !is_same || known.broken_since.is_some() || known.offered.as_ref() != Some(&stamps) {
                let found = known.unit.offers(read_together(&known.unit.paths()));
                if known.holds_back(&found) {
                    held = true;
                } else {
                    known.broken_since = None;
                    known.offered = Some(stamps);
                    known.names.extend(found.iter().map(|offer| offer.name.clone()));
                    offers.extend(found);
                }
            }
            self.known.insert(known.unit.id(), known);
        }
        if !offers.is_empty() {
            store.offer(offers);
        }
        if !before.is_empty() {
            let kept: HashSet<&SecretName> = self.known.values().flat_map(|known| &known.names).collect();
            let gone = before.into_values().flat_map(|known| known.names).filter(|name| !kept.contains(name));
            store.withdraw_from(SourceKind::File, &gone.collect::<Vec<_>>());
        }
        held
    }

    /// The units that there were last time.
    pub(super) fn known(&self) -> impl Iterator<Item = &U> {
        self.known.values().map(|known| &known.unit)
    }

    /// Folders whose changes may be changes of units.
    pub(super) fn folders(&self) -> BTreeSet<PathBuf> {
        let paths = self.known().flat_map(Unit::paths);
        paths.filter_map(Path::parent).map(Path::to_owned).collect()
    }
}

impl<U> Known<U> {
    fn new(unit: U) -> Self {
        Self { unit, offered: None, names: BTreeSet::new(), broken_since: None }
    }

    /// Whether these offers should wait, as they are broken where there was something good, and not for long yet.
    fn holds_back(&mut self, offers: &[Offer]) -> bool {
        // At the first time there is nothing to protect, and somebody waits.
        if self.offered.is_none() || !offers.iter().any(is_broken) {
            return false;
        }
        self.broken_since.get_or_insert_with(Instant::now).elapsed() < HOLD
    }
}

fn is_broken(offer: &Offer) -> bool {
    match &offer.payload {
        Payload::Nothing(_) => false,
        payload => payload.content(Timestamp::from_seconds(0)).is_err(),
    }
}
