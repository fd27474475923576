use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use instant_acme::{CertificateIdentifier, Error};
use tidegate_core::{Code, Diagnostic, Origin, SecretName};
use tidegate_sds::{Content, Offer, Payload, SecretStore, SourceKind};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::account::{Session, account_id};
use crate::archive::Archive;
use crate::call::steady;
use crate::certificate::{CertificateHead, Job, Managed};
use crate::clock::{Clock, SystemClock};
use crate::failure::Failure;
use crate::leaf::Pair;
use crate::order::{Attempt, OrderHead};
use crate::request::CertificateRequest;
use crate::schedule::{RENEWAL_INFO_FAILED, Window, renewal_info_again};
use crate::state::{Shelf, remove_file};
use crate::status::CertificateStatus;

/// Orders of a credential that nobody asks for any more are kept so long.
const FORGOTTEN_ORDER: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Requests that wait to be taken in; the sender waits, too.
const COMMANDS: usize = 4;

/// What an [`Issuer`] can be told at its start.
#[derive(Clone)]
pub struct IssuerOptions {
    pub clock: Arc<dyn Clock>,
    /// Orders and questions under way at once, over all authorities.
    pub concurrency: usize,
}

impl Default for IssuerOptions {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), concurrency: 4 }
    }
}

/// Keeps certificates issued: a task that orders, renews and offers them to the store, and keeps in its state directory
/// what a restart needs. Dropping it ends the task and closes its challenges; nothing of an order is lost.
#[derive(Debug)]
pub struct Issuer {
    commands: mpsc::Sender<Command>,
    report: watch::Receiver<Arc<Report>>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// What an [`Issuer`] has to tell.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Report {
    /// Sorted by name.
    pub statuses: Vec<CertificateStatus>,
    pub findings: Vec<Diagnostic>,
}

struct Command {
    requests: Vec<CertificateRequest>,
    done: oneshot::Sender<()>,
}

impl Issuer {
    /// Starts the task on the current tokio runtime. `state` is the folder of accounts, certificates and orders; it is
    /// made with the first request.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(store: Arc<SecretStore>, state: PathBuf, options: IssuerOptions) -> Self {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (told, report) = watch::channel(Arc::default());
        let stop = CancellationToken::new();
        let owner = Owner {
            store,
            archive: Arc::new(Archive::new(state)),
            options,
            managed: BTreeMap::new(),
            conflicts: Vec::new(),
            jobs: JoinSet::new(),
            tasks: HashMap::new(),
            registered: HashSet::new(),
            told,
        };
        let task = tokio::spawn(owner.run(inbox, stop.clone()));
        Self { commands, report, stop, task: Some(task) }
    }

    /// Replaces what is to be issued: new requests begin, changed ones order anew while what they have serves on,
    /// missing ones end. Returns when the certificates of new requests that the state directory holds are offered to
    /// the store; no network is awaited. Cancel safe: once sent, the requests are taken in.
    pub async fn set_requests(&self, requests: Vec<CertificateRequest>) {
        let (done, taken_in) = oneshot::channel();
        // Both fail only when the task has ended, and then there is nobody to be told.
        if self.commands.send(Command { requests, done }).await.is_ok() {
            let _ = taken_in.await;
        }
    }

    /// Sorted by name.
    pub fn statuses(&self) -> Vec<CertificateStatus> {
        self.report.borrow().statuses.clone()
    }

    /// What is wrong now, at the places of the requests.
    pub fn findings(&self) -> Vec<Diagnostic> {
        self.report.borrow().findings.clone()
    }

    /// Wakes when statuses or findings change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Report>> {
        self.report.clone()
    }

    /// Ends the task and waits for its end. Orders in progress are resumed by the next start.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // A panic of the task was reported where it happened.
            let _ = task.await;
        }
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

enum Outcome {
    Issued(Result<Pair, Failure>),
    /// None where the authority offers no renewal information.
    Asked(Result<Option<(Window, Duration)>, Failure>),
}

/// The task's state; nobody else touches it.
struct Owner {
    store: Arc<SecretStore>,
    archive: Arc<Archive>,
    options: IssuerOptions,
    managed: BTreeMap<SecretName, Managed>,
    /// Requests that contradict another one.
    conflicts: Vec<Diagnostic>,
    jobs: JoinSet<Outcome>,
    tasks: HashMap<Id, SecretName>,
    /// Accounts that are known to exist; until then one order at a time goes ahead and registers.
    registered: HashSet<String>,
    told: watch::Sender<Arc<Report>>,
}

impl Owner {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, stop: CancellationToken) {
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
                        if !std::mem::replace(&mut tidied, true) {
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
                Some(managed) => managed.change(request),
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
        match split(&record.pem) {
            Ok(pair) => {
                self.offer(&managed.request, &pair).await;
                managed.pair = Some((pair, record.head.directory));
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
            Content::Certificate(material) => *material.chain_pem() == pair.chain,
            _ => false,
        })
    }

    async fn take_outcome(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Ok(outcome)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(name) = self.tasks.remove(&id) else { return };
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
        let pem = join(&pair);
        let head = CertificateHead { name: name.as_str().to_owned(), directory: managed.request.directory.clone() };
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
            managed.last_error = Some(failure.to_string());
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
        let mut ordering = self.managed.values().filter(|other| matches!(other.running, Some((Job::Issue, _))));
        ordering.all(|other| {
            let same_account = account_id(&other.request) == account;
            let same_name = other.request.dns_names.iter().any(|name| managed.request.dns_names.contains(name));
            !(same_name || same_account && !registered)
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
        self.tasks.insert(task.id(), name.clone());
        managed.running = Some((job, task));
    }

    /// When there is something to do or to tell although nothing happens. What is due and could not start waits for
    /// the end of a job.
    fn next_turn(&self) -> Option<SystemTime> {
        let now = self.now();
        let times = self.managed.values().flat_map(|managed| {
            let status = managed.status();
            [managed.next_attempt(), managed.next_window(), status.not_after, status.alarm_at()]
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
        if self.managed.is_empty() {
            return;
        }
        let wished: HashSet<String> = self.managed.keys().map(|name| name.as_str().to_owned()).collect();
        let now = self.now();
        let tidied = self
            .archive
            .on_disk(move |archive| {
                let directory = archive.directory()?;
                for (path, record) in directory.all::<CertificateHead>(Shelf::Certificates) {
                    let expired = split(&record.pem).is_ok_and(|pair| pair.validity.not_after <= now);
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

async fn ask_window(
    archive: Arc<Archive>,
    request: CertificateRequest,
    pair: Pair,
) -> Result<Option<(Window, Duration)>, Failure> {
    let Some(session) = Session::existing(&archive, &request).await? else { return Ok(None) };
    let Ok(id) = CertificateIdentifier::try_from(&pair.leaf) else { return Ok(None) };
    let asked = steady!(&session.transport, "the renewal information", async {
        match session.account.renewal_info(&id).await {
            Ok(answer) => Ok(Some(answer)),
            Err(Error::Unsupported(_)) => Ok(None),
            Err(error) => Err(error),
        }
    })?;
    Ok(asked.map(|(info, again)| {
        let window = info.suggested_window;
        (Window { start: window.start.into(), end: window.end.into() }, again)
    }))
}

/// Key first, as the files of other servers have it.
fn join(pair: &Pair) -> Zeroizing<String> {
    let mut pem = Zeroizing::new(String::with_capacity(pair.key.len() + pair.chain.len() + 1));
    for part in [&pair.key, &pair.chain] {
        // Both were read as PEM, which is ASCII where it matters.
        pem.push_str(&Zeroizing::new(String::from_utf8_lossy(part.as_slice()).into_owned()));
        if !pem.ends_with('\n') {
            pem.push('\n');
        }
    }
    pem
}

fn split(pem: &str) -> Result<Pair, String> {
    let chain = pem.find("-----BEGIN CERTIFICATE-----").ok_or("it holds no certificate")?;
    let (key, chain) = pem.split_at(chain);
    Pair::read(chain.as_bytes().to_vec().into(), key.as_bytes().to_vec().into())
}
