//! Secrets between their sources and the store: what is offered, what is asked for, what is told.
//!
//! It owns the way of Secret documents into the store (past the compiler: a new certificate is no new configuration),
//! which sources look for which names, and the findings about secrets. It does not own material nor the decision what
//! serves (the store), nor the reading of files (the bridge, `tidegate-sds`).
//!
//! Two threads come here: the writer of configuration, before and after it compiles, and one that does nothing else, so
//! that a certificate does not wait for a large configuration to be compiled. Whoever comes takes the latest view; both
//! under one lock, so that an older view never follows a newer one.

mod documents;
mod files;
mod metrics;
mod offline;
mod orders;
mod prospects;
mod references;
mod sources;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use serde_json::json;
use tidegate_admin::SecretStatus;
use tidegate_core::{Diagnostic, SecretName};
use tidegate_mesh_bridge::files::View;
use tidegate_resources::{ParseOptions, ResourceSet};
use tidegate_sds::{SecretStore, SourceKind};
use tidegate_sds_wire::Monitor;
use tidegate_snapshot::{SecretStanding, Snapshot};
use tokio::runtime::Handle;
use tokio::sync::watch;

use self::documents::Documents;
pub(crate) use self::offline::{judge, standings};
use self::orders::Order;
use self::prospects::Prospects;
use self::references::References;
use self::sources::Sources;
pub(crate) use self::sources::{OwnSecret, SourceOptions};
use self::status::SecretFacts;
use crate::control::{Ledger, Scope};
use crate::state::Saved;

/// Everything that the process knows of secrets. Cheap to share.
#[derive(Debug)]
pub(crate) struct Secrets {
    store: Arc<SecretStore>,
    inner: Mutex<Inner>,
    /// The SDS server of this process, if it has one.
    sds_server: OnceLock<Monitor>,
    /// Moves when there may be something new to tell.
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    ledger: Ledger,
    documents: Documents,
    references: References,
    /// AcmeCertificates among the objects that were taken last.
    orders: Vec<Order>,
    /// None where nothing but objects is looked at.
    sources: Option<Sources>,
    /// What was wrong with them when it was last looked.
    source_findings: Vec<Diagnostic>,
    /// Whether the first view was taken, together with what was saved.
    begun: bool,
    /// Whether any objects were taken.
    taken: bool,
    /// The view that was taken last.
    view: Option<Arc<View>>,
}

impl Secrets {
    /// Secrets that come from objects alone.
    pub(crate) fn new(store: Arc<SecretStore>) -> Self {
        let inner = Inner {
            ledger: Ledger::new(Scope::Material),
            documents: Documents::default(),
            references: References::default(),
            orders: Vec::new(),
            sources: None,
            source_findings: Vec::new(),
            begun: false,
            taken: false,
            view: None,
        };
        Self { store, inner: Mutex::new(inner), sds_server: OnceLock::new(), news: watch::Sender::new(0) }
    }

    /// Starts the sources that the command line names. Files without a namespace have the gateway's; ACME's state is kept
    /// in `acme_folder`.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub(crate) fn start(
        options: SourceOptions,
        namespace: &str,
        acme_folder: Option<PathBuf>,
        runtime: Handle,
    ) -> io::Result<Self> {
        let secrets = Self::new(Arc::default());
        let sources = Sources::start(secrets.store.clone(), options, namespace, acme_folder, runtime)?;
        secrets.lock().sources = Some(sources);
        Ok(secrets)
    }

    /// Has files and folders looked at now, as SIGHUP asks for. Does not wait.
    pub(crate) fn rescan(&self) {
        if let Some(sources) = &self.lock().sources {
            sources.files().rescan();
        }
    }

    pub(crate) fn store(&self) -> &Arc<SecretStore> {
        &self.store
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked left a view half offered; the next look offers the rest.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what an earlier process served: no Secrets are among it, but what names them is.
    pub(crate) fn serve_saved(&self, saved: &Saved) {
        let mut inner = self.lock();
        inner.begun = true;
        let set = inner.ledger.serve_saved(saved, &ParseOptions::default());
        self.take(&mut inner, &set);
    }

    /// Offers what is new in a view. `saved` is what an earlier process served, for the first view of this one.
    pub(crate) fn apply(&self, view: &View, saved: Option<&Saved>) {
        self.apply_to(&mut self.lock(), view, saved);
    }

    fn apply_to(&self, inner: &mut Inner, view: &View, saved: Option<&Saved>) {
        let resolution = inner.ledger.resolve(view, saved, &ParseOptions::default());
        // What was saved is no change to the ledger, and was never taken.
        if resolution.changed || !inner.taken {
            self.take(inner, &resolution.set);
        }
    }

    /// Offers what is new in the latest view that `views` has. `saved` as in [`Self::apply`].
    pub(crate) fn refresh(&self, views: &watch::Receiver<Option<Arc<View>>>, saved: Option<&Saved>) {
        let mut inner = self.lock();
        inner.begun = true;
        self.take_latest(&mut inner, views, saved);
    }

    /// As [`Self::refresh`], for every view but the first.
    pub(crate) fn keep_up(&self, views: &watch::Receiver<Option<Arc<View>>>) {
        let mut inner = self.lock();
        if inner.begun {
            self.take_latest(&mut inner, views, None);
        }
    }

    fn take_latest(&self, inner: &mut Inner, views: &watch::Receiver<Option<Arc<View>>>, saved: Option<&Saved>) {
        let Some(view) = views.borrow().clone() else { return };
        if !inner.view.as_ref().is_some_and(|taken| Arc::ptr_eq(taken, &view)) {
            self.apply_to(inner, &view, saved);
            inner.view = Some(view);
        }
    }

    fn take(&self, inner: &mut Inner, set: &ResourceSet) {
        inner.taken = true;
        let started = Instant::now();
        let changes = inner.documents.update(set);
        let (offers, gone) = (changes.offers.len(), changes.gone.len());
        // What is wrong is asked of the store when it is told.
        drop(self.store.offer(changes.offers));
        self.store.withdraw_from(SourceKind::Kubernetes, &changes.gone);
        tracing::debug!(offers, gone, took = ?started.elapsed(), "secrets of objects offered");
        if let Some(sources) = &mut inner.sources {
            sources.issue(set);
        }
        inner.orders = orders::of(set);
        inner.references.settle(&self.store);
        self.tell();
    }

    /// Prepares for a Snapshot that is about to serve: sources look for what it names, certificates are held against its
    /// hosts.
    pub(crate) fn follow(&self, snapshot: &Snapshot) {
        let mut names = references::names(snapshot);
        let files = self.lock().sources.as_ref().map(|sources| {
            names.extend(sources.own().cloned());
            sources.files()
        });
        if let Some(files) = files {
            files.look_for(&names);
        }
        let mut inner = self.lock();
        if let Some(sources) = &inner.sources {
            sources.ask_for(&names);
        }
        drop(self.store.expect_hosts(references::expected_hosts(snapshot, &self.store)));
        inner.references = References::of(snapshot, names, &self.store);
        self.tell();
    }

    /// The store has changed: something may have come that was missing.
    pub(crate) fn settle(&self) {
        self.lock().references.settle(&self.store);
        self.tell();
    }

    /// Looks how sources get on. Cheap: to be called every second or so.
    pub(crate) fn look_at_sources(&self) {
        let mut inner = self.lock();
        let findings = inner.source_findings();
        if findings != inner.source_findings {
            inner.source_findings = findings;
            drop(inner);
            self.tell();
        }
    }

    /// Looks at what depends on time: what expires, what has become valid.
    pub(crate) fn tick(&self) {
        drop(self.store.tick(SystemTime::now()));
        // Nobody but an SDS client could still want a secret that no source has and nothing names.
        if self.sds_server.get().is_none() {
            let inner = self.lock();
            self.store.release(|name| inner.references.names.contains(name));
        }
        self.tell();
    }

    fn tell(&self) {
        self.news.send_modify(|news| *news += 1);
    }

    /// Wakes when there may be something new to tell.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Everything that is wrong with secrets now.
    pub(crate) fn findings(&self) -> Vec<Diagnostic> {
        let inner = self.lock();
        let mut findings = self.store.findings();
        findings.extend(inner.references.findings(&inner.prospects(&self.store)));
        findings.extend(inner.source_findings());
        if let Some(answers) = inner.references.answers {
            findings.extend(orders::findings(&inner.orders, answers, &inner.references.names));
        }
        findings
    }

    /// How the sources beside the configuration stand; no keys.
    pub(crate) fn source_status(&self) -> serde_json::Value {
        let mut status = self.lock().sources.as_ref().map(Sources::status).unwrap_or_else(|| json!({}));
        if let Some(server) = self.sds_server.get() {
            status["sds_server"] =
                json!({ "counters": server.counters(), "streams": server.streams(), "rejected": server.nacks() });
        }
        status
    }

    /// Has the SDS server shown with the sources. Only the first counts: a process has one.
    pub(crate) fn set_sds_server(&self, monitor: Monitor) {
        let _ = self.sds_server.set(monitor);
    }

    /// Every secret, sorted by name, without keys.
    pub(crate) fn status(&self) -> Vec<SecretStatus> {
        let inner = self.lock();
        let missing = inner.references.missing(&inner.prospects(&self.store));
        drop(inner);
        status::all(&self.store, &missing)
    }

    /// How the secret stands that a reference with these names means.
    pub(crate) fn standing(&self, names: &[String]) -> SecretStanding {
        let names: Vec<_> = names.iter().map(|name| SecretName::new(name)).collect();
        let inner = self.lock();
        status::standing(&inner.prospects(&self.store), &names)
    }

    /// Writes metrics of all secrets. Holds no lock while it writes.
    pub(crate) fn write_metrics(&self, out: &mut dyn std::fmt::Write) {
        let mut facts = Vec::new();
        self.store.for_each_gauge(|gauge| facts.push(SecretFacts::of(gauge)));
        let gauges = self.lock().sources.as_ref().map(Sources::gauges).unwrap_or_default();
        let counters = self.sds_server.get().map(Monitor::counters);
        // Whoever reads has left.
        let _ = metrics::write(&facts, SystemTime::now(), out)
            .and_then(|()| metrics::write_sources(&gauges, out))
            .and_then(|()| counters.map_or(Ok(()), |counters| metrics::write_sds_server(&counters, out)));
    }
}

impl Inner {
    fn prospects<'s>(&self, store: &'s SecretStore) -> Prospects<'s> {
        let awaited = self.sources.as_ref().map(|sources| sources.awaited(&self.references.names));
        Prospects::new(store, awaited.unwrap_or_default())
    }

    fn source_findings(&self) -> Vec<Diagnostic> {
        let names: &BTreeSet<_> = &self.references.names;
        self.sources.as_ref().map(|sources| sources.findings(names)).unwrap_or_default()
    }
}
