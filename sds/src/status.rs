//! What is told of secrets: to users, to metrics. No field can hold a key.

use tidegate_core::{Host, Origin, ResourceKey, SecretName};

use crate::findings::{refusal_texts, texts};
use crate::ledger::{Ledger, SecretCounters};
use crate::{CertificateFacts, Content, Secret, SourceKind, Timestamp};

/// How a secret stands.
#[derive(Clone, Debug)]
pub struct SecretStatus {
    pub name: SecretName,
    /// What serves; none while nothing does.
    pub content: Option<ContentKind>,
    /// Of what serves, or else of what was refused; none for a name that no source has.
    pub source: Option<SourceKind>,
    pub key: Option<ResourceKey>,
    pub origin: Origin,
    pub state: SecretState,
    /// Version of what serves; 0 while nothing does.
    pub version: u64,
    /// What is wrong with what serves, each a sentence.
    pub flaws: Vec<String>,
    /// Set if the latest offer was refused.
    pub refused: Option<Refusal>,
    /// Names that clients ask for.
    pub hosts: Vec<Host>,
    /// Of a certificate's leaf, or of all authorities.
    pub facts: Vec<CertificateFacts>,
    /// When a certificate expires, or the first of several authorities or lists does.
    pub end: Option<Timestamp>,
    /// Whole days until then, negative once it has passed.
    pub days_left: Option<i64>,
    /// When what serves came into use.
    pub rotated: Option<Timestamp>,
    /// When the gateway last made a handshake with itself for it. First loads are not proved, as there is nothing to
    /// fall back to.
    pub proved: Option<Timestamp>,
    pub counters: SecretCounters,
}

/// What a slot is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContentKind {
    Certificate,
    Trust,
    Crl,
}

/// Where a secret is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecretState {
    /// Nothing serves: no source has it, or none that can be used.
    Missing,
    /// The latest offer serves.
    Active,
    /// The latest offer was refused, an earlier one serves.
    Refused,
    /// No source has it any more, what it held serves.
    Orphaned,
}

/// Why the latest offer does not serve.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub source: SourceKind,
    pub origin: Origin,
    /// Sentences, the most telling first.
    pub reasons: Vec<String>,
    pub since: Timestamp,
}

/// Numbers of a secret, borrowed: for metrics of many.
#[derive(Clone, Copy, Debug)]
pub struct SecretGauge<'a> {
    pub name: &'a SecretName,
    /// 0 while nothing serves.
    pub version: u64,
    pub content: Option<ContentKind>,
    /// See [`SecretStatus::end`].
    pub end: Option<Timestamp>,
    pub rotated: Option<Timestamp>,
    pub state: SecretState,
    pub counters: SecretCounters,
}

impl ContentKind {
    fn of(content: &Content) -> Self {
        match content {
            Content::Certificate(_) => Self::Certificate,
            Content::Trust(_) => Self::Trust,
            Content::Crl(_) => Self::Crl,
        }
    }
}

impl SecretState {
    fn of(ledger: &Ledger, current: Option<&Secret>) -> Self {
        match (current, &ledger.refused) {
            (None, _) => Self::Missing,
            (Some(_), Some(_)) => Self::Refused,
            (Some(_), None) if ledger.orphaned => Self::Orphaned,
            (Some(_), None) => Self::Active,
        }
    }
}

impl SecretStatus {
    pub(crate) fn of(name: &SecretName, ledger: &Ledger, current: Option<&Secret>, now: Timestamp) -> Self {
        let content = current.map(|secret| &secret.content);
        let offer = ledger.serving.as_ref().or(ledger.refused.as_ref().map(|refused| &refused.offer));
        let end = content.and_then(Content::end);
        Self {
            name: name.clone(),
            content: content.map(ContentKind::of),
            source: offer.map(|offer| offer.source),
            key: offer.and_then(|offer| offer.key.clone()),
            origin: offer.map(|offer| offer.origin.clone()).unwrap_or_default(),
            state: SecretState::of(ledger, current),
            version: current.map_or(0, |secret| secret.version),
            flaws: content.map(|content| texts(&content.flaws(&ledger.hosts, now))).unwrap_or_default(),
            refused: ledger.refused.as_ref().map(|refused| Refusal {
                source: refused.offer.source,
                origin: refused.offer.place(refused.part()).1.clone(),
                reasons: refusal_texts(refused),
                since: refused.at,
            }),
            hosts: ledger.hosts.clone(),
            facts: match content {
                Some(Content::Certificate(material)) => vec![material.facts().clone()],
                Some(Content::Trust(material)) => material.facts(),
                Some(Content::Crl(_)) | None => Vec::new(),
            },
            end,
            days_left: end.map(|end| end.days_from(now)),
            rotated: ledger.rotated,
            proved: ledger.proved,
            counters: ledger.counters,
        }
    }
}

impl<'a> SecretGauge<'a> {
    pub(crate) fn of(name: &'a SecretName, ledger: &Ledger, current: Option<&Secret>) -> Self {
        Self {
            name,
            version: current.map_or(0, |secret| secret.version),
            content: current.map(|secret| ContentKind::of(&secret.content)),
            end: current.and_then(|secret| secret.content.end()),
            rotated: ledger.rotated,
            state: SecretState::of(ledger, current),
            counters: ledger.counters,
        }
    }
}
