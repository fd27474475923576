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
mod metrics;
mod references;
mod status;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tidegate_admin::SecretStatus;
use tidegate_core::Diagnostic;
use tidegate_mesh_bridge::files::View;
use tidegate_resources::{ParseOptions, ResourceSet};
use tidegate_sds::SecretStore;
use tidegate_snapshot::Snapshot;
use tokio::sync::watch;

use self::documents::Documents;
use self::references::References;
use self::status::SecretFacts;
use crate::control::{Ledger, Scope};
use crate::state::Saved;

/// Everything that the process knows of secrets. Cheap to share.
#[derive(Debug)]
pub(crate) struct Secrets {
    store: Arc<SecretStore>,
    inner: Mutex<Inner>,
    /// Moves when there may be something new to tell.
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    ledger: Ledger,
    documents: Documents,
    references: References,
    /// Whether the first view was taken, together with what was saved.
    begun: bool,
    /// The view that was taken last.
    view: Option<Arc<View>>,
}

impl Secrets {
    pub(crate) fn new(store: Arc<SecretStore>) -> Self {
        let inner = Inner {
            ledger: Ledger::new(Scope::Material),
            documents: Documents::default(),
            references: References::default(),
            begun: false,
            view: None,
        };
        Self { store, inner: Mutex::new(inner), news: watch::Sender::new(0) }
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
        if resolution.changed {
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
        let changes = inner.documents.update(set);
        // What is wrong is asked of the store when it is told.
        drop(self.store.offer(changes.offers));
        self.store.withdraw(&changes.gone);
        inner.references.settle(&self.store);
        self.tell();
    }

    /// Prepares for a Snapshot that is about to serve: sources look for what it names, certificates are held against its
    /// hosts.
    pub(crate) fn follow(&self, snapshot: &Snapshot) {
        let mut inner = self.lock();
        drop(self.store.expect_hosts(references::expected_hosts(snapshot, &self.store)));
        inner.references = References::of(snapshot, &self.store);
        self.tell();
    }

    /// Looks what has come, or has expired, since the last look.
    pub(crate) fn tick(&self) {
        if self.lock().references.settle(&self.store) {
            self.tell();
        }
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
        self.lock().references.findings(&self.store)
    }

    /// Every secret, sorted by name, without keys.
    pub(crate) fn status(&self) -> Vec<SecretStatus> {
        let missing = self.lock().references.missing();
        status::all(&self.store, &missing)
    }

    /// Writes metrics of all secrets. Holds no lock while it writes.
    pub(crate) fn write_metrics(&self, out: &mut dyn std::fmt::Write) {
        let facts: Vec<_> = self.store.slots().iter().map(|slot| SecretFacts::of(slot)).collect();
        // Whoever reads has left.
        let _ = metrics::write(&facts, SystemTime::now(), out);
    }
}
