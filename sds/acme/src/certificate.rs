use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::task::AbortHandle;

use crate::leaf::Pair;
use crate::request::CertificateRequest;
use crate::schedule::{Window, back_off, longest_renew_before, renew_at};
use crate::status::{CertificateState, CertificateStatus};

/// A certificate as it is kept; its key and its chain follow as PEM.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct CertificateHead {
    pub(crate) name: String,
    /// Where it was ordered.
    pub(crate) directory: String,
    /// For which names.
    pub(crate) dns_names: Vec<String>,
}

impl CertificateHead {
    pub(crate) fn of(request: &CertificateRequest) -> Self {
        Self {
            name: request.name.as_str().to_owned(),
            directory: request.directory.clone(),
            dns_names: request.dns_names.clone(),
        }
    }
}

/// One wished-for certificate and how far it is: the state machine of which [`crate::Issuer`] has one per request.
pub(crate) struct Managed {
    pub(crate) request: CertificateRequest,
    /// What no authority could fulfil.
    pub(crate) flaw: Option<String>,
    /// What was issued last and taken, and what it was ordered as.
    pub(crate) pair: Option<(Pair, CertificateHead)>,
    /// What was issued and not taken. The store may take it yet, when hosts or time change.
    pub(crate) candidate: Option<Pair>,
    pub(crate) window: Option<Window>,
    pub(crate) ask_window_at: SystemTime,
    pub(crate) failures: u32,
    pub(crate) last_error: Option<String>,
    pub(crate) help: Option<String>,
    /// Whether the state directory has `pair`, which else is fetched again.
    pub(crate) kept: bool,
    retry_at: SystemTime,
    pub(crate) issued_at: Option<SystemTime>,
    pub(crate) placed: Arc<AtomicU64>,
    pub(crate) running: Option<(Job, AbortHandle)>,
}

/// What a task does for a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Job {
    Issue,
    AskWindow,
}

impl Managed {
    pub(crate) fn new(request: CertificateRequest) -> Self {
        Self {
            flaw: request.check().err(),
            request,
            pair: None,
            candidate: None,
            window: None,
            ask_window_at: SystemTime::UNIX_EPOCH,
            failures: 0,
            last_error: None,
            help: None,
            kept: true,
            retry_at: SystemTime::UNIX_EPOCH,
            issued_at: None,
            placed: Arc::default(),
            running: None,
        }
    }

    /// Takes a changed request. What was issued stays; whatever failed for the old one is forgotten.
    pub(crate) fn change(&mut self, request: CertificateRequest) {
        if !self.request.same_order(&request) {
            self.stop();
            self.flaw = request.check().err();
            self.candidate = None;
            self.window = None;
            self.ask_window_at = SystemTime::UNIX_EPOCH;
            self.failures = 0;
            self.last_error = None;
            self.help = None;
            self.retry_at = SystemTime::UNIX_EPOCH;
        }
        self.request = request;
    }

    pub(crate) fn stop(&mut self) {
        if let Some((_, task)) = self.running.take() {
            task.abort();
        }
    }

    /// The certificate in use if it is the one that is asked for.
    pub(crate) fn fitting(&self) -> Option<&Pair> {
        let (pair, ordered) = self.pair.as_ref()?;
        (*ordered == CertificateHead::of(&self.request)).then_some(pair)
    }

    /// What was offered last.
    pub(crate) fn latest(&self) -> Option<&Pair> {
        self.candidate.as_ref().or(self.pair.as_ref().map(|(pair, _)| pair))
    }

    /// When the next order is due; none if never or if one is under way.
    pub(crate) fn next_attempt(&self) -> Option<SystemTime> {
        if self.flaw.is_some() || matches!(self.running, Some((Job::Issue, _))) {
            return None;
        }
        let due = match self.fitting() {
            Some(pair) if self.candidate.is_none() && self.kept => {
                let name = self.request.name.as_str();
                renew_at(pair.validity, self.request.renew_before, self.window, name)
            }
            _ => SystemTime::UNIX_EPOCH,
        };
        Some(due.max(self.retry_at))
    }

    /// When the authority is asked how soon it wants the certificate renewed.
    pub(crate) fn next_window(&self) -> Option<SystemTime> {
        (self.flaw.is_none() && self.running.is_none() && self.fitting().is_some()).then_some(self.ask_window_at)
    }

    pub(crate) fn succeeded(&mut self, pair: Pair, now: SystemTime) {
        self.pair = Some((pair, CertificateHead::of(&self.request)));
        self.candidate = None;
        self.window = None;
        self.ask_window_at = SystemTime::UNIX_EPOCH;
        self.failures = 0;
        self.last_error = None;
        self.help = None;
        self.kept = true;
        self.retry_at = SystemTime::UNIX_EPOCH;
        self.issued_at = Some(now);
    }

    pub(crate) fn failed(&mut self, error: String, retry_after: Option<Duration>, now: SystemTime) {
        self.failures = self.failures.saturating_add(1);
        self.last_error = Some(error);
        self.help = None;
        self.retry_at = now + back_off(self.request.name.as_str(), self.failures, retry_after);
    }

    pub(crate) fn status(&self) -> CertificateStatus {
        let validity = self.pair.as_ref().map(|(pair, _)| pair.validity);
        let ordering = matches!(self.running, Some((Job::Issue, _)));
        let state = match () {
            () if self.flaw.is_some() => CertificateState::Invalid,
            () if ordering => CertificateState::Ordering,
            () if self.candidate.is_some() => CertificateState::NotTaken,
            () if self.last_error.is_some() => CertificateState::Failed,
            () if self.pair.is_some() => CertificateState::Issued,
            () => CertificateState::Waiting,
        };
        CertificateStatus {
            name: self.request.name.clone(),
            key: self.request.key.clone(),
            origin: self.request.origin.clone(),
            dns_names: self.request.dns_names.clone(),
            directory: self.request.directory.clone(),
            challenge: self.request.challenge,
            state,
            not_before: validity.map(|validity| validity.not_before),
            not_after: validity.map(|validity| validity.not_after),
            issued_at: self.issued_at,
            next_attempt: self.next_attempt(),
            failures: self.failures,
            last_error: self.flaw.clone().or_else(|| self.last_error.clone()),
            help: self.help.clone(),
            orders: self.placed.load(Relaxed),
        }
    }

    /// The longest possible `renew_before` if the wished one is longer.
    pub(crate) fn capped_renew_before(&self) -> Option<Duration> {
        let wished = self.request.renew_before?;
        let longest = longest_renew_before(self.fitting()?.validity);
        (wished > longest).then_some(longest)
    }
}
