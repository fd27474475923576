//! The books of a slot: what serves and whence, what was refused and why, who waits.

use std::mem::discriminant;
use std::ops::BitOrAssign;

use tidegate_core::Host;

use crate::offer::{Offer, SourceKind};
use crate::problem::{Flaw, MaterialError, Part};
use crate::{Content, Timestamp};

/// What an action did to a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Outcome {
    /// Readers would see something else.
    pub(crate) swapped: bool,
    /// The status or the findings are others.
    pub(crate) changed: bool,
}

impl Outcome {
    pub(crate) const CHANGED: Self = Self { swapped: false, changed: true };
    pub(crate) const SWAPPED: Self = Self { swapped: true, changed: true };

    pub(crate) fn changed(changed: bool) -> Self {
        Self { swapped: false, changed }
    }
}

impl BitOrAssign for Outcome {
    fn bitor_assign(&mut self, other: Self) {
        self.swapped |= other.swapped;
        self.changed |= other.changed;
    }
}

/// Everything about a slot but the material that serves.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Of what serves.
    pub(crate) serving: Option<Offer>,
    /// The source of what serves no longer has it.
    pub(crate) orphaned: bool,
    pub(crate) refused: Option<Box<Refused>>,
    /// Offers of sources that go behind the one that serves; one a source.
    pub(crate) waiting: Vec<Offer>,
    /// Names that clients ask for.
    pub(crate) hosts: Vec<Host>,
    /// The last version given.
    pub(crate) version: u64,
    pub(crate) counters: SecretCounters,
    pub(crate) rotated: Option<Timestamp>,
    pub(crate) proved: Option<Timestamp>,
}

/// What happened to a secret since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SecretCounters {
    /// Offers that differed from what was there.
    pub offers: u64,
    /// Offers that came to serve.
    pub swaps: u64,
    /// Offers that were refused.
    pub failures: u64,
    /// Handshakes with itself that succeeded.
    pub proofs: u64,
}

/// An offer that does not serve.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) offer: Offer,
    pub(crate) reason: Reason,
    pub(crate) at: Timestamp,
}

#[derive(Debug)]
pub(crate) enum Reason {
    Unusable(MaterialError),
    /// Flaws that what serves has not. The content may still be taken, when time or hosts change.
    Worse(Box<Content>, Vec<Flaw>),
}

impl Refused {
    pub(crate) fn part(&self) -> Part {
        match &self.reason {
            Reason::Unusable(error) => error.part(),
            Reason::Worse(_, flaws) => flaws.first().map_or(Part::Whole, Flaw::part),
        }
    }
}

impl Ledger {
    /// Whether what serves goes before this source's offers.
    pub(crate) fn outranks(&self, source: SourceKind) -> bool {
        self.serving.as_ref().is_some_and(|serving| !self.orphaned && serving.source > source)
    }

    pub(crate) fn is_refused_from(&self, source: SourceKind) -> bool {
        self.refused.as_ref().is_some_and(|refused| refused.offer.source == source)
    }

    /// Puts an offer behind the one that serves; one without material replaces the source's earlier one by nothing.
    pub(crate) fn wait(&mut self, offer: Offer) -> Outcome {
        let at = self.waiting.iter().position(|waiting| waiting.source == offer.source);
        match (at, offer.payload.has_material()) {
            (Some(at), true) => {
                self.waiting[at] = offer;
                Outcome::default()
            }
            (Some(at), false) => {
                self.waiting.remove(at);
                Outcome::CHANGED
            }
            (None, true) => {
                self.waiting.push(offer);
                Outcome::CHANGED
            }
            (None, false) => Outcome::default(),
        }
    }

    /// Takes out the offer that goes first among those that wait.
    pub(crate) fn next_waiting(&mut self) -> Option<Offer> {
        let at = (0..self.waiting.len()).max_by_key(|at| self.waiting[*at].source)?;
        Some(self.waiting.remove(at))
    }

    /// Whether an offer may replace what serves.
    ///
    /// # Errors
    /// Why not: it is something else, or has flaws that what serves has not.
    pub(crate) fn judge(
        &self,
        present: Option<&Content>,
        offered: Box<Content>,
        now: Timestamp,
    ) -> Result<Box<Content>, Reason> {
        let Some(present) = present else { return Ok(offered) };
        if discriminant(present) != discriminant(&*offered) {
            let error = MaterialError::OtherContent { offered: offered.describe(), serving: present.describe() };
            return Err(Reason::Unusable(error));
        }
        let mut flaws = offered.flaws(&self.hosts, now);
        flaws.retain(Flaw::blocks);
        if flaws.is_empty() {
            return Ok(offered);
        }
        let known = present.flaws(&self.hosts, now);
        flaws.retain(|flaw| !known.iter().any(|known| known.is_like(flaw)));
        if flaws.is_empty() { Ok(offered) } else { Err(Reason::Worse(offered, flaws)) }
    }

    /// Whether there is nothing left to know of the slot.
    pub(crate) fn is_vacant(&self) -> bool {
        self.serving.is_none() && self.refused.is_none() && self.hosts.is_empty()
    }
}
