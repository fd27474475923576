use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tidegate_core::{Code, Diagnostic, Origin, SecretName};
use tidegate_sds::{Content, Offer, Payload, SecretStore, SourceKind};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{Command, IssuerOptions, Report};
use crate::account::account_id;
use crate::archive::Archive;
use crate::certificate::{CertificateHead, Job, Managed};
use crate::failure::Failure;
use crate::leaf::{Pair, Validity};
use crate::order::{Attempt, OrderHead};
use crate::renewal_info::ask_window;
use crate::request::CertificateRequest;
use crate::schedule::{RENEWAL_INFO_FAILED, RENEWAL_INFO_SPREAD, Window, fraction, renewal_info_again};
use crate::state::{Shelf, remove_file};
use crate::status::CertificateStatus;

/// Orders of a credential that nobody asks for any more are kept so long.
const FORGOTTEN_ORDER: Duration = Duration::from_secs(7 * 24 * 60 * 60);

enum Outcome {
    Issued(Result<Pair, Failure>),
    /// None where the authority offers no renewal information.
    Asked(Result<Option<(Window, Duration)>, Failure>),
}

/// The task's state; nobody else touches it.
pub(super) struct Owner {
    store: Arc<SecretStore>,
    archive: Arc<Archive>,
    options: IssuerOptions,
    managed: BTreeMap<SecretName, Managed>,
    /// Requests that contradict another one.
    conflicts: Vec<Diagnostic>,
    jobs: JoinSet<Outcome>,
    /// What the jobs do, those too that were cancelled and have not ended yet.
    tasks: HashMap<Id, Task>,
    /// Accounts that are known to exist; until then one order at a time goes ahead and registers.
    registered: HashSet<String>,
    told: watch::Sender<Arc<Report>>,
}

/// What others must not do at the same time.
struct Task {
    name: SecretName,
    job: Job,
    account: String,
    dns_names: Vec<String>,
}

impl Owner {
    pub(super) fn new(
        store: Arc<SecretStore>,
        state: PathBuf,
        options: IssuerOptions,
        told: watch::Sender<Arc<Report>>,
    ) -> Self {
        Self {
            store,
            archive: Arc::new(Archive::new(state)),
            options,
            managed: BTreeMap::new(),
            conflicts: Vec::new(),
            jobs: JoinSet::new(),
            tasks: HashMap::new(),
            registered: HashSet::new(),
            told,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Command>, stop: CancellationToken) {
        let mut swaps = self.store.subscribe();
        let mut tidied = false;
        loop {
            self.start_due();
            self.publish();
            let turn = self.next_turn();
            let clock = self.options.clock.clone();
            let wait = async {
                match turn {
                    Some(at) => clock.sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                command = inbox.recv() => match command {
                    Some(Command { requests, done }) => {
                        self.take_in(requests).await;
                        self.publish();
                        // Whoever does not wait does not mind.
                        let _ = done.send(());
                        if !tidied && !self.managed.is_empty() {
                            tidied = true;
                            self.tidy().await;
                        }
                    }
                    None => break,
                },
                Some(ended) = self.jobs.join_next_with_id() => self.take_outcome(ended).await,
                Ok(()) = swaps.changed() => self.look_at_candidates().await,
                () = wait => {}
            }
        }
        // Each is cancelled where it waits, and closes its challenges.
        self.jobs.shutdown().await;
        self.archive.rest().await;
    }

    fn now(&self) -> SystemTime {
        self.options.clock.now()
    }

    async fn take_in(&mut self, requests: Vec<CertificateRequest>) {
        self.conflicts.clear();
        let mut wished: BTreeMap<SecretName, CertificateRequest> = BTreeMap::new();
        for request in requests.into_iter().map(CertificateRequest::normalized) {
            match wished.get(&request.name) {
                Some(first) => {
                    let by = first.key.as_ref().map(|key| format!(" by {key}")).unwrap_or_default();
                    let message =
                        format!("{} is asked for{by} already ({}); this one is not used", request.name, first.origin);
                    let mut finding = Diagnostic::error(Code::CERTIFICATE_NOT_ISSUED, request.origin, message);
                    finding.key = request.key;
                    self.conflicts.push(finding);
                }
                None => {
                    wished.insert(request.name.clone(), request);
                }
            }
        }
        let gone: Vec<SecretName> = self.managed.keys().filter(|name| !wished.contains_key(name)).cloned().collect();
        for name in &gone {
            if let Some(mut managed) = self.managed.remove(name) {
                managed.stop();
            }
        }
        if !gone.is_empty() {
            self.store.withdraw_from(SourceKind::Acme, &gone);
        }
        for (name, request) in wished {
            match self.managed.get_mut(&name) {
                Some(managed) => {
                    let moved = managed.request.origin != request.origin || managed.request.key != request.key;
                    managed.change(request);
                    // Findings of the store are told where the object is now.
                    if moved && let Some(pair) = managed.latest().cloned() {
                        let request = managed.request.clone();
                        self.offer(&request, &pair).await;
                    }
                }
                None => {
                    let mut managed = Managed::new(request);
                    self.restore(&mut managed).await;
                    self.managed.insert(name, managed);
                }
            }
        }
    }

    /// Offers what an earlier process left, whatever its age.
    async fn restore(&mut self, managed: &mut Managed) {
        let id = managed.request.name.as_str();
        let record = match self.archive.read::<CertificateHead>(Shelf::Certificates, id).await {
            Ok(Some(record)) => record,
            Ok(None) => return,
            Err(failure) => return managed.failed(failure.to_string(), None, self.options.clock.now()),
        };
        match Pair::of_pem(&record.pem) {
            Ok(pair) => {
                self.offer(&managed.request, &pair).await;
                managed.pair = Some((pair, record.head));
                // Many that start together do not ask together.
                managed.ask_window_at = self.now() + RENEWAL_INFO_SPREAD.mul_f64(fraction(id, "question"));
            }
            Err(reason) => {
                if let Err(failure) = self.archive.set_aside(Shelf::Certificates, id, reason).await {
                    managed.failed(failure.to_string(), None, self.options.clock.now());
                }
            }
        }
    }

    /// Offers a pair; gives back why the store did not take it.
    async fn offer(&self, request: &CertificateRequest, pair: &Pair) -> Option<String> {
        let payload = Payload::Certificate { chain: pair.chain.clone(), key: pair.key.clone(), ocsp_staple: None };
        let mut offer = Offer::new(request.name.clone(), SourceKind::Acme, request.origin.clone(), payload);
        offer.key.clone_from(&request.key);
        let store = self.store.clone();
        // Preflight parses and signs.
        let findings = tokio::task::spawn_blocking(move || store.offer(vec![offer])).await.unwrap_or_default();
        if self.serves(&request.name, pair) {
            return None;
        }
        let reasons: Vec<String> = findings.into_iter().map(|finding| finding.message).collect();
        Some(if reasons.is_empty() { "another source holds its name".into() } else { reasons.join("; ") })
    }

    fn serves(&self, name: &SecretName, pair: &Pair) -> bool {
        self.store.get(name).and_then(|slot| slot.current()).is_some_and(|secret| match &secret.content {
            Content::Certificate(material) => material.chain().first() == Some(&pair.leaf),
            _ => false,
        })
    }

    async fn take_outcome(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Ok(outcome)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(Task { name, .. }) = self.tasks.remove(&id) else { return };
        let Some(managed) = self.managed.get_mut(&name) else { return };
        // A changed request may already run its next job.
        if managed.running.as_ref().is_none_or(|(_, task)| task.id() != id) {
            return;
        }
        let job = managed.running.take().map(|(job, _)| job);
        let now = self.options.clock.now();
        match outcome {
            Ok(Outcome::Issued(Ok(pair))) => {
                self.registered.insert(account_id(&managed.request));
                self.adopt(&name, pair).await;
            }
            Ok(Outcome::Issued(Err(failure))) => {
                if failure.is_of_the_order() {
                    self.registered.insert(account_id(&managed.request));
                }
                let help = failure.help(managed.request.challenge);
                self.note_failure(&name, failure.to_string(), failure.retry_after());
                if let Some(managed) = self.managed.get_mut(&name) {
                    managed.help = help;
                }
            }
            Ok(Outcome::Asked(Ok(Some((window, again))))) => {
                managed.window = Some(window);
                managed.ask_window_at = now + renewal_info_again(again);
            }
            Ok(Outcome::Asked(Ok(None))) => managed.ask_window_at = now + RENEWAL_INFO_FAILED * 4,
            Ok(Outcome::Asked(Err(failure))) => {
                tracing::debug!(secret = %name, error = %failure, "no renewal information");
                managed.ask_window_at = now + RENEWAL_INFO_FAILED;
            }
            Err(error) if job == Some(Job::Issue) => {
                self.note_failure(&name, format!("internal error: {error}"), None);
            }
            Err(_) => managed.ask_window_at = now + RENEWAL_INFO_FAILED,
        }
    }

    fn note_failure(&mut self, name: &SecretName, error: String, retry_after: Option<Duration>) {
        let now = self.now();
        if let Some(managed) = self.managed.get_mut(name) {
            managed.failed(error, retry_after, now);
            let next = managed.next_attempt().and_then(|next| next.duration_since(now).ok()).unwrap_or_default();
            tracing::warn!(
                secret = %name,
                failures = managed.failures,
                error = managed.last_error.as_deref().unwrap_or_default(),
                next_attempt_seconds = next.as_secs(),
                "certificate not issued"
            );
        }
    }

    /// Offers a new certificate. Only when it serves is it kept in place of the old one.
    async fn adopt(&mut self, name: &SecretName, pair: Pair) {
        let Some(managed) = self.managed.get(name) else { return };
        let request = managed.request.clone();
        match self.offer(&request, &pair).await {
            None => self.settle(name, pair).await,
            Some(reason) => {
                if let Some(managed) = self.managed.get_mut(name) {
                    managed.candidate = Some(pair);
                }
                self.note_failure(name, format!("the certificate that was issued is not taken: {reason}"), None);
            }
        }
    }

    /// A certificate serves: keeps it, and forgets its order.
    async fn settle(&mut self, name: &SecretName, pair: Pair) {
        let now = self.now();
        let Some(managed) = self.managed.get_mut(name) else { return };
        let end = humantime::format_rfc3339_seconds(pair.validity.not_after);
        tracing::info!(secret = %name, until = %end, "certificate issued");
        let pem = pair.to_pem();
        let head = CertificateHead::of(&managed.request);
        managed.succeeded(pair, now);
        let kept = self.archive.write(Shelf::Certificates, name.as_str(), head, pem).await;
        let result = match kept {
            Ok(()) => self.archive.remove(Shelf::Orders, name.as_str()).await,
            Err(failure) => Err(failure),
        };
        // It serves all the same; the order that stays lets the next start fetch it again.
        if let Err(failure) = result
            && let Some(managed) = self.managed.get_mut(name)
        {
            tracing::error!(secret = %name, error = %failure, "certificate not kept");
            managed.kept = false;
            managed.failed(failure.to_string(), None, now);
        }
    }

    /// The store judges refused certificates again when hosts change, and may have taken one.
    async fn look_at_candidates(&mut self) {
        let names: Vec<SecretName> = self
            .managed
            .iter()
            .filter(|(name, managed)| managed.candidate.as_ref().is_some_and(|pair| self.serves(name, pair)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in names {
            if let Some(pair) = self.managed.get_mut(&name).and_then(|managed| managed.candidate.take()) {
                self.settle(&name, pair).await;
            }
        }
    }

    fn start_due(&mut self) {
        let now = self.now();
        let mut due: Vec<(SystemTime, SecretName, Job)> = Vec::new();
        for (name, managed) in self.managed.iter().filter(|(_, managed)| managed.running.is_none()) {
            if let Some(at) = managed.next_attempt().filter(|at| *at <= now) {
                due.push((at, name.clone(), Job::Issue));
            } else if let Some(at) = managed.next_window().filter(|at| *at <= now) {
                due.push((at, name.clone(), Job::AskWindow));
            }
        }
        due.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, name, job) in due {
            if self.jobs.len() >= self.options.concurrency.max(1) {
                break;
            }
            if self.may_start(&name, job) {
                self.start_job(&name, job);
            }
        }
    }

    /// An account is registered by one order alone, and a name is proved by one order at a time: two would lay down
    /// each other's challenge certificates.
    fn may_start(&self, name: &SecretName, job: Job) -> bool {
        let Some(managed) = self.managed.get(name) else { return false };
        if job == Job::AskWindow {
            return true;
        }
        let account = account_id(&managed.request);
        let registered = self.registered.contains(&account);
        self.tasks.values().filter(|task| task.job == Job::Issue).all(|task| {
            let same_name = task.dns_names.iter().any(|name| managed.request.dns_names.contains(name));
            task.name != *name && !same_name && (registered || task.account != account)
        })
    }

    fn start_job(&mut self, name: &SecretName, job: Job) {
        let now = self.now();
        let Some(managed) = self.managed.get_mut(name) else { return };
        let request = managed.request.clone();
        let archive = self.archive.clone();
        let task = match job {
            Job::Issue => {
                let attempt = Attempt {
                    replaces: managed.window.and(managed.fitting()).map(|pair| pair.leaf.clone()),
                    request,
                    archive,
                    store: self.store.clone(),
                    now,
                    placed: managed.placed.clone(),
                };
                self.jobs.spawn(async move { Outcome::Issued(attempt.run().await) })
            }
            Job::AskWindow => {
                let Some(pair) = managed.fitting().cloned() else { return };
                self.jobs.spawn(async move { Outcome::Asked(ask_window(archive, request, pair).await) })
            }
        };
        let account = account_id(&managed.request);
        let dns_names = managed.request.dns_names.clone();
        self.tasks.insert(task.id(), Task { name: name.clone(), job, account, dns_names });
        managed.running = Some((job, task));
    }

    /// When there is something to do or to tell although nothing happens. What is due and could not start waits for
    /// the end of a job.
    fn next_turn(&self) -> Option<SystemTime> {
        let now = self.now();
        let times = self.managed.values().flat_map(|managed| {
            let validity = managed.pair.as_ref().map(|(pair, _)| pair.validity);
            let (end, alarm) = (validity.map(|validity| validity.not_after), validity.map(Validity::alarm_at));
            [managed.next_attempt(), managed.next_window(), end, alarm]
        });
        times.flatten().filter(|at| *at > now).min()
    }

    fn publish(&self) {
        let now = self.now();
        let statuses: Vec<CertificateStatus> = self.managed.values().map(Managed::status).collect();
        let mut findings = self.conflicts.clone();
        findings.extend(statuses.iter().filter_map(|status| status.finding(now)));
        for managed in self.managed.values() {
            if let Some(longest) = managed.capped_renew_before() {
                let longest = longest.as_secs() / 3600;
                let message =
                    format!("renewBefore is longer than most of the certificate's life; {longest} hours are used");
                let mut finding = Diagnostic::warning(Code::IGNORED, managed.request.origin.clone(), message);
                finding.key.clone_from(&managed.request.key);
                findings.push(finding);
            }
        }
        for damage in self.archive.damages() {
            findings.push(Diagnostic::warning(Code::ENVIRONMENT, Origin::default(), damage));
        }
        let report = Report { statuses, findings };
        self.told.send_if_modified(|told| {
            let changed = **told != report;
            if changed {
                *told = Arc::new(report);
            }
            changed
        });
    }

    /// Removes what is of no use to anybody: expired certificates and old orders that no request names.
    async fn tidy(&self) {
        let wished: HashSet<String> = self.managed.keys().map(|name| name.as_str().to_owned()).collect();
        let now = self.now();
        let tidied = self
            .archive
            .on_disk(move |archive| {
                let directory = archive.directory()?;
                for (path, record) in directory.all::<CertificateHead>(Shelf::Certificates) {
                    let expired = Pair::of_pem(&record.pem).is_ok_and(|pair| pair.validity.not_after <= now);
                    if expired && !wished.contains(&record.head.name) {
                        remove_file(&path)?;
                    }
                }
                for (path, record) in directory.all::<OrderHead>(Shelf::Orders) {
                    let created = SystemTime::UNIX_EPOCH + Duration::from_secs(record.head.created);
                    let old = now.duration_since(created).is_ok_and(|age| age > FORGOTTEN_ORDER);
                    if old && !wished.contains(&record.head.name) {
                        remove_file(&path)?;
                    }
                }
                Ok(())
            })
            .await;
        if let Err(error) = tidied {
            tracing::warn!(%error, "old acme state not removed");
        }
    }
}
