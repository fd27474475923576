use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, MutexGuard};
use tidegate_core::{Diagnostic, Host, SecretName};
use tracing::{debug, info};

use crate::ledger::{Ledger, Outcome, Reason, Refused};
use crate::offer::{Offer, Payload, SourceKind};
use crate::problem::MaterialError;
use crate::status::{SecretGauge, SecretStatus};
use crate::{Content, Timestamp, findings, proof};

/// One generation of a secret's material.
#[derive(Debug)]
pub struct Secret {
    /// Counts the swaps of the slot from 1. Never given twice, so that equal versions are equal material.
    pub version: u64,
    pub content: Content,
}

/// The place of one secret. Readers take what it holds now; it changes as a whole.
#[derive(Debug)]
pub struct SecretSlot {
    name: SecretName,
    current: ArcSwapOption<Secret>,
    /// Held during a swap and its proof, never while material is read from bytes. Readers of `current` do not need it.
    ledger: Mutex<Ledger>,
}

impl SecretSlot {
    pub(crate) fn new(name: SecretName) -> Self {
        Self { name, current: ArcSwapOption::empty(), ledger: Mutex::default() }
    }

    pub fn name(&self) -> &SecretName {
        &self.name
    }

    /// What serves now; none until something usable was offered.
    pub fn current(&self) -> Option<Arc<Secret>> {
        self.current.load_full()
    }

    /// Looks whether an offer is anything new, and gives it back if its bytes must be read. Cheap for the same bytes as before, above all for the same `Arc`s.
    pub(crate) fn admit(&self, offer: Offer, now: Timestamp) -> (Outcome, Option<Offer>) {
        let mut ledger = self.ledger.lock();
        if ledger.outranks(offer.source) {
            return (ledger.wait(offer), None);
        }
        let orphaned = ledger.orphaned;
        if let Some(serving) = &mut ledger.serving
            && serving.payload == offer.payload
            && (serving.source == offer.source || orphaned)
        {
            let source = offer.source;
            *serving = offer;
            let back_to_it = ledger.is_refused_from(source);
            if back_to_it {
                ledger.refused = None;
            }
            ledger.orphaned = false;
            return (Outcome::changed(orphaned || back_to_it), None);
        }
        if let Some(refused) = &mut ledger.refused
            && refused.offer.source == offer.source
            && refused.offer.payload == offer.payload
        {
            refused.offer = offer;
            return (self.rejudge_locked(&mut ledger, now), None);
        }
        let is_used = !ledger.hosts.is_empty()
            || ledger.serving.as_ref().is_some_and(|serving| orphaned || serving.source == offer.source);
        if matches!(offer.payload, Payload::Nothing(_)) && !is_used {
            let forgotten = ledger.is_refused_from(offer.source);
            if forgotten {
                ledger.refused = None;
            }
            return (Outcome::changed(forgotten), None);
        }
        (Outcome::default(), Some(offer))
    }

    /// Decides on an offer whose bytes were read.
    pub(crate) fn settle(&self, offer: Offer, content: Result<Content, MaterialError>, now: Timestamp) -> Outcome {
        let mut ledger = self.ledger.lock();
        // Another source may have come in between.
        if ledger.outranks(offer.source) {
            return ledger.wait(offer);
        }
        ledger.counters.offers += 1;
        let judged = content
            .map_err(Reason::Unusable)
            .map(Box::new)
            .and_then(|content| ledger.judge(self.current().as_deref().map(|secret| &secret.content), content, now));
        match judged {
            Ok(content) => self.take(&mut ledger, offer, *content, now),
            Err(reason) => {
                self.refuse(&mut ledger, offer, reason, now);
                Outcome::CHANGED
            }
        }
    }

    /// Judges again what was refused, and drops a staple that has expired.
    pub(crate) fn rejudge(&self, now: Timestamp) -> Outcome {
        self.rejudge_locked(&mut self.ledger.lock(), now)
    }

    fn rejudge_locked(&self, ledger: &mut MutexGuard<'_, Ledger>, now: Timestamp) -> Outcome {
        let mut outcome = Outcome::default();
        let current = self.current();
        let present = current.as_deref().map(|secret| &secret.content);
        if let Some(without) = present.and_then(Content::certificate).and_then(|it| it.without_expired_staple(now)) {
            self.show(ledger, Content::Certificate(without));
            outcome |= Outcome::SWAPPED;
        }
        let Some(refused) = ledger.refused.take_if(|refused| matches!(refused.reason, Reason::Worse(..))) else {
            return outcome;
        };
        let Refused { offer, reason, at } = *refused;
        let Reason::Worse(content, flaws) = reason else { return outcome };
        match ledger.judge(present, content, now) {
            Ok(content) => outcome |= self.take(ledger, offer, *content, now),
            Err(reason) => {
                let is_news = !matches!(&reason, Reason::Worse(_, now) if *now == flaws);
                ledger.refused = Some(Box::new(Refused { offer, reason, at }));
                outcome |= Outcome::changed(is_news);
            }
        }
        outcome
    }

    /// Replaces the hosts that clients ask for.
    pub(crate) fn expect(&self, hosts: Vec<Host>, now: Timestamp) -> Outcome {
        let mut ledger = self.ledger.lock();
        if ledger.hosts == hosts {
            return Outcome::default();
        }
        ledger.hosts = hosts;
        let mut outcome = Outcome::CHANGED;
        outcome |= self.rejudge_locked(&mut ledger, now);
        outcome
    }

    /// The source no longer has the name; without a source, the one that serves, or else was refused. Gives back the
    /// offer of another source that may now take over.
    pub(crate) fn withdraw(&self, source: Option<SourceKind>) -> (Outcome, Option<Offer>) {
        let mut ledger = self.ledger.lock();
        let refused = ledger.refused.as_ref().map(|refused| refused.offer.source);
        let serving = ledger.serving.as_ref().map(|serving| serving.source);
        let Some(source) = source.or(serving).or(refused) else { return (Outcome::default(), None) };
        let waiting = ledger.waiting.len();
        ledger.waiting.retain(|offer| offer.source != source);
        let mut changed = ledger.waiting.len() != waiting;
        if refused == Some(source) {
            ledger.refused = None;
            changed = true;
        }
        if serving != Some(source) || ledger.orphaned {
            return (Outcome::changed(changed), None);
        }
        ledger.orphaned = true;
        let next = ledger.next_waiting();
        info!(secret = %self.name, source = source.as_str(), "secret withdrawn, what it held serves on");
        (Outcome::CHANGED, next)
    }

    /// Whether nobody would miss the slot.
    pub(crate) fn is_vacant(&self) -> bool {
        self.ledger.lock().is_vacant()
    }

    /// Whether no source has it any more and no host is told to use it.
    pub(crate) fn is_unused_orphan(&self) -> bool {
        let ledger = self.ledger.lock();
        ledger.orphaned && ledger.hosts.is_empty() && ledger.refused.is_none()
    }

    pub(crate) fn findings(&self, now: Timestamp, into: &mut Vec<Diagnostic>) {
        findings::of(&self.name, &self.ledger.lock(), self.current().as_deref(), now, into);
    }

    /// Everything there is to tell, without keys. `now` says what has expired.
    pub(crate) fn status(&self, now: Timestamp) -> SecretStatus {
        SecretStatus::of(&self.name, &self.ledger.lock(), self.current().as_deref(), now)
    }

    pub(crate) fn gauge(&self, read: &mut dyn FnMut(SecretGauge<'_>)) {
        let gauge = SecretGauge::of(&self.name, &self.ledger.lock(), self.current().as_deref());
        read(gauge);
    }

    /// Lets an offer serve. Certificates that replace others are proved; one that fails is taken back.
    fn take(&self, ledger: &mut Ledger, offer: Offer, content: Content, now: Timestamp) -> Outcome {
        let previous = self.current();
        let first = previous.is_none();
        let secret = self.show(ledger, content);
        if let (Some(previous), Content::Certificate(material)) = (previous, &secret.content) {
            if let Err(reason) = proof::prove(material) {
                self.current.store(Some(previous));
                self.refuse(ledger, offer, Reason::Unusable(MaterialError::Unproven(reason)), now);
                // A reader may have seen it: the swap back is one more.
                return Outcome::SWAPPED;
            }
            ledger.counters.proofs += 1;
            ledger.proved = Some(now);
        }
        ledger.counters.swaps += 1;
        ledger.rotated = Some(now);
        let source = offer.source;
        ledger.waiting.retain(|waiting| waiting.source != source);
        if let Some(earlier) = ledger.serving.replace(offer)
            && earlier.source != source
            && !ledger.orphaned
        {
            ledger.wait(earlier);
        }
        ledger.orphaned = false;
        ledger.refused.take_if(|refused| refused.offer.source <= source);
        if first {
            debug!(secret = %self.name, source = source.as_str(), "secret loaded");
        } else {
            info!(secret = %self.name, source = source.as_str(), version = secret.version, "secret rotated");
        }
        Outcome::SWAPPED
    }

    fn show(&self, ledger: &mut Ledger, content: Content) -> Arc<Secret> {
        ledger.version += 1;
        let secret = Arc::new(Secret { version: ledger.version, content });
        self.current.store(Some(secret.clone()));
        secret
    }

    fn refuse(&self, ledger: &mut Ledger, offer: Offer, reason: Reason, at: Timestamp) {
        ledger.counters.failures += 1;
        debug!(secret = %self.name, source = offer.source.as_str(), "secret refused");
        ledger.refused = Some(Box::new(Refused { offer, reason, at }));
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tidegate_core::{Origin, SecretBytes};

    use super::*;
    use crate::CertificateMaterial;

    fn offer(name: &SecretName) -> Offer {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["a.com".to_owned()]).unwrap().self_signed(&key).unwrap();
        let bytes = |text: String| SecretBytes::new(text.into_bytes());
        let payload = Payload::Certificate {
            chain: bytes(certificate.pem()),
            key: bytes(key.serialize_pem()),
            ocsp_staple: None,
        };
        Offer::new(name.clone(), SourceKind::File, Origin::default(), payload)
    }

    fn material(offer: &Offer) -> CertificateMaterial {
        match offer.payload.content(Timestamp::from_seconds(0)).unwrap() {
            Content::Certificate(material) => material,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_swap_that_fails_its_proof_is_undone_and_told() {
        let name = SecretName::kubernetes("ns", "a");
        let slot = SecretSlot::new(name.clone());
        let now = Timestamp::from_seconds(1_700_000_000);
        let first = offer(&name);
        slot.settle(first.clone(), Ok(Content::Certificate(material(&first))), now);
        let before = slot.current().unwrap();
        // What no check of bytes finds: a key that signs something else.
        let second = offer(&name);
        let broken = material(&second).with_key_of(&material(&first));
        let outcome = slot.settle(second.clone(), Ok(Content::Certificate(broken)), now);
        assert!(outcome.swapped, "who saw it must look again");
        assert!(Arc::ptr_eq(&slot.current().unwrap(), &before));
        let mut findings = Vec::new();
        slot.findings(now, &mut findings);
        assert!(findings[0].message.contains("a handshake with it failed"), "{findings:?}");
        // The version that was taken back is not given again.
        let third = offer(&name);
        slot.settle(third.clone(), Ok(Content::Certificate(material(&third))), now);
        assert_eq!(slot.current().unwrap().version, 3);
        let status = slot.status(now);
        assert_eq!((status.counters.failures, status.counters.proofs, status.proved), (1, 1, Some(now)));
    }
}
