//! The one writer of configuration: source -> resource set -> compile -> publish, and what is kept and told of it.
//!
//! It owns which form of which object serves (its [`Ledger`]), the count of generations, the status that the admin
//! interface shows and what is saved. It does not own reading (the bridge) nor serving (the data plane).
//!
//! Invariants: a Snapshot is published only if it differs from the one that serves; whatever is wrong with a source,
//! what it served before goes on serving; every finding is logged once, not with every reload.

mod access_log;
mod findings;
mod ledger;
mod offline;
mod status;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tidegate_admin::ObjectCount;
use tidegate_compiler::{Compilation, CompileOptions, Compiler};
use tidegate_core::{Code, Diagnostic, Level, Origin};
use tidegate_mesh_bridge::files::View;
use tidegate_resources::{ParseOptions, ResourceSet};
use tidegate_snapshot::{Snapshot, SnapshotHash};

use self::access_log::AccessLogObjects;
pub(crate) use self::findings::follow_up;
use self::findings::{FindingLog, Parts, Told};
pub(crate) use self::ledger::{Ledger, Scope};
use self::ledger::{Resolution, Unsaved};
pub(crate) use self::offline::{Offline, read_once, roots};
pub(crate) use self::status::StatusCell;
use crate::run::ReadOptions;
use crate::secrets::Secrets;
use crate::state::{Saved, Saving, StateWriter};

/// Where Snapshots go.
pub(crate) trait Publish {
    /// Serves `snapshot` from now on. Findings are about the host: ports that could not be bound.
    fn publish(&self, snapshot: Arc<Snapshot>) -> Vec<Diagnostic>;

    /// Whether everything that was published is in place by now: a port that was taken may have become free.
    fn is_settled(&self) -> bool;

    /// Tells metrics how the last reload went.
    fn reloaded(&self, reload: &Reload);
}

/// How one look at the source ended.
#[derive(Clone, Debug)]
pub(crate) struct Reload {
    pub(crate) at: SystemTime,
    /// Whether everything that was read serves.
    pub(crate) success: bool,
    /// Whether it brought a new generation.
    pub(crate) published: bool,
    pub(crate) took: Duration,
    pub(crate) generation: u64,
    pub(crate) hash: String,
}

/// What there is to tell of the last look at the source.
#[derive(Debug, Default)]
struct Seen {
    findings: Arc<Vec<Diagnostic>>,
    counts: Vec<ObjectCount>,
    why_last_good: Option<String>,
}

impl Seen {
    fn new(mut findings: Vec<Diagnostic>, resolution: &Resolution) -> Self {
        findings.extend(resolution.diagnostics.iter().cloned());
        let counts = status::counts(resolution);
        Self { findings: Arc::new(findings::sorted(findings)), counts, why_last_good: resolution.why_last_good.clone() }
    }
}

/// The writer. It blocks, and belongs on a thread of its own.
pub(crate) struct Control<P> {
    publisher: P,
    secrets: Arc<Secrets>,
    compiler: Compiler,
    compile_options: CompileOptions,
    parse_options: ParseOptions,
    access_log: Option<AccessLogObjects>,
    ledger: Ledger,
    serving: Option<SnapshotHash>,
    /// Whether the last view was given up in the middle: how much of it is in place is unknown.
    interrupted: bool,
    /// Whether the Snapshot that serves has a port; none before the first.
    listens: Option<bool>,
    generation: u64,
    /// Findings of the last look, of the compiler and the publisher about the set that serves, about secrets and about the
    /// state when they were last told.
    findings: Parts,
    told: Told,
    /// Objects that serve and are not saved, because a Secret stands beside them.
    left_out: usize,
    /// Whether an update left memory behind that nobody uses.
    untidy: bool,
    seen: Seen,
    log: FindingLog,
    status: StatusCell,
    state: Option<StateWriter>,
}

impl<P: Publish> Control<P> {
    pub(crate) fn new(
        read: &ReadOptions,
        publisher: P,
        secrets: Arc<Secrets>,
        status: StatusCell,
        state: Option<StateWriter>,
    ) -> Self {
        Self {
            publisher,
            secrets,
            compiler: Compiler::default(),
            compile_options: compile_options(read),
            parse_options: ParseOptions::default(),
            access_log: read.access_log.clone().map(AccessLogObjects::new),
            ledger: Ledger::default(),
            serving: None,
            interrupted: false,
            listens: None,
            generation: 0,
            findings: Parts::default(),
            told: Told::default(),
            left_out: 0,
            untidy: false,
            seen: Seen::default(),
            log: FindingLog::default(),
            status,
            state,
        }
    }

    /// Whether a Snapshot serves.
    pub(crate) fn is_serving(&self) -> bool {
        self.serving.is_some()
    }

    /// Serves what an earlier process served, before the source could be looked at at all.
    pub(crate) fn serve_saved(&mut self, saved: &Saved) {
        let started = Instant::now();
        let set = self.ledger.serve_saved(saved, &self.parse_options);
        let missing = saved.objects.len() - self.ledger.len();
        tracing::warn!(
            objects = self.ledger.len(),
            missing,
            "the configuration cannot be read yet; serving what was saved"
        );
        let resolution = Resolution {
            last_good: saved.objects.keys().cloned().collect(),
            why_last_good: Some("the sources cannot be read; everything serves as it was saved".into()),
            set,
            changed: true,
            moved: true,
            ..Resolution::default()
        };
        self.update(&resolution, Vec::new(), started);
    }

    /// Takes a view in. `saved` is what an earlier process served; it is asked for what the view leaves open.
    ///
    /// A view in which nothing could be seen is no reason to serve nothing: until there is something to serve the
    /// process stays unready. An empty folder is a configuration.
    ///
    /// A panic costs this view and not the writer: what served before serves on, and the next view is published whatever
    /// of it seems to serve already.
    pub(crate) fn apply(&mut self, view: &View, saved: Option<&Saved>) {
        let (serving, generation) = (self.serving, self.generation);
        if catch_unwind(AssertUnwindSafe(|| self.take_in(view, saved))).is_ok() {
            return;
        }
        (self.serving, self.generation, self.interrupted) = (serving, generation, true);
        self.ledger.forget_saved();
        self.compiler = Compiler::default();
        self.findings.compiled = Arc::new(vec![failed_inside("taking the configuration in")]);
        // What it told before may be what it fails at.
        let _ = catch_unwind(AssertUnwindSafe(|| self.tell(false, Instant::now())));
    }

    fn take_in(&mut self, view: &View, saved: Option<&Saved>) {
        let started = Instant::now();
        let resolution = self.ledger.resolve(view, saved, &self.parse_options);
        let findings = findings::of_view(view);
        if view.is_blank() && resolution.set.is_empty() && !self.is_serving() {
            self.seen = Seen::new(findings, &resolution);
            self.tell(false, started);
            return;
        }
        self.update(&resolution, findings, started);
    }

    fn update(&mut self, resolution: &Resolution, findings: Vec<Diagnostic>, started: Instant) {
        let before = self.generation;
        self.untidy = true;
        self.seen = Seen::new(findings, resolution);
        if resolution.changed || self.interrupted || !self.is_serving() {
            let resolved = started.elapsed();
            let set = match &mut self.access_log {
                Some(access_log) => Cow::Owned(access_log.put_into(&resolution.set)),
                None => Cow::Borrowed(&resolution.set),
            };
            match compile_contained(&mut self.compiler, &set, &self.compile_options) {
                Ok(compilation) => {
                    let compiled = started.elapsed();
                    self.findings.compiled = compilation.diagnostics;
                    self.secrets.follow(&compilation.snapshot);
                    let (listened, listens) = (self.listens, !compilation.snapshot.listeners().is_empty());
                    self.publish(compilation.snapshot, resolution.moved, started);
                    self.listens = Some(listens);
                    if self.generation > before {
                        tracing::info!(
                            generation = self.generation,
                            hash = self.hash(),
                            objects = resolution.set.len(),
                            last_good = resolution.last_good.len(),
                            rejected = resolution.rejected.len(),
                            resolve_ms = milliseconds(resolved),
                            compile_ms = milliseconds(compiled - resolved),
                            publish_ms = milliseconds(started.elapsed() - compiled),
                            "configuration published"
                        );
                    }
                    // An empty file, or labels that no Gateway selects: nothing is wrong with any object.
                    if !listens && listened != Some(false) {
                        tracing::warn!(
                            labels = labels(&self.compile_options),
                            "no port is served: no Gateway with a server that can be served selects this gateway by its labels"
                        );
                    }
                    self.save();
                }
                Err(finding) => self.findings.compiled = Arc::new(vec![*finding]),
            }
        } else if resolution.unsaved {
            self.save();
        }
        self.tell(self.generation > before, started);
    }

    /// Tells what is new about secrets, which come and go and expire without a reload.
    pub(crate) fn tell_secrets(&mut self) {
        let findings = self.secrets.findings();
        if findings == self.findings.secrets {
            return;
        }
        self.findings.secrets = findings;
        let findings = self.findings();
        self.log.log(&findings);
        self.status.set_diagnostics(findings);
    }

    /// Looks whether what could not be done at the last publication is done by now, or what was has been lost since.
    pub(crate) fn check(&mut self) {
        if std::mem::take(&mut self.untidy) {
            tidy_memory();
        }
        // The time to write everything anew is when nothing happens.
        if self.ledger.is_saved() && self.is_serving() && self.state.as_ref().is_some_and(StateWriter::wants_whole) {
            self.save();
        }
        let bound = !self.findings.published.is_empty() && self.publisher.is_settled();
        if bound {
            self.findings.published.clear();
        }
        if bound || self.findings.state_error != self.state.as_ref().and_then(StateWriter::error) {
            self.tell(false, Instant::now());
        }
    }

    /// Publishes a Snapshot unless it is the one that serves. One that differs only in the places that it came from
    /// replaces the other without being a new generation.
    fn publish(&mut self, snapshot: Snapshot, moved: bool, started: Instant) {
        let hash = snapshot.hash();
        let redo = std::mem::take(&mut self.interrupted);
        if redo || self.serving != Some(hash) {
            self.serving = Some(hash);
            self.generation += 1;
            // Whoever sees the new Snapshot serve finds its status, without what publishing itself finds.
            self.findings.published.clear();
            let findings = self.findings();
            self.status.update(&self.reload(true, started), &self.seen, findings);
        } else if !moved {
            return;
        }
        self.findings.published = self.publisher.publish(Arc::new(snapshot));
    }

    /// Hash of the Snapshot that serves, in the form that logs show; empty for none.
    pub(crate) fn hash(&self) -> String {
        self.serving.map(|hash| hash.to_string()).unwrap_or_default()
    }

    fn save(&mut self) {
        let unsaved = self.ledger.take_unsaved();
        let Some(state) = &self.state else { return };
        let left_out = self.ledger.left_out();
        if left_out > 0 && left_out != self.left_out {
            tracing::info!(
                objects = left_out,
                "documents with Secrets are not saved: a restart without the folder lacks them"
            );
        }
        self.left_out = left_out;
        state.save(match unsaved {
            Unsaved::These(keys) if !state.wants_whole() => {
                let changed = keys.into_iter().map(|key| {
                    let now = self.ledger.document(&key);
                    (key, now)
                });
                Saving::changes(self.hash(), changed)
            }
            _ => Saving::new(self.hash(), self.ledger.documents()),
        });
    }

    /// Logs what is new and shows everything.
    fn tell(&mut self, published: bool, started: Instant) {
        self.findings.state_error = self.state.as_ref().and_then(StateWriter::error);
        self.findings.secrets = self.secrets.findings();
        let findings = self.findings();
        self.log.log(&findings);
        let reload = self.reload(published, started);
        self.publisher.reloaded(&reload);
        self.status.update(&reload, &self.seen, findings);
    }

    /// Everything that is wrong now, most severe first.
    fn findings(&mut self) -> Arc<Vec<Diagnostic>> {
        self.findings.seen = self.seen.findings.clone();
        self.told.of(&self.findings)
    }

    fn reload(&self, published: bool, started: Instant) -> Reload {
        let is_error = |finding: &&Diagnostic| finding.level == Level::Error;
        // That an object refers to nothing, or loses to another, is told, and everything that was read serves all the
        // same. Only what the compiler could not do at all is a failure.
        let not_compiled = self.findings.compiled.iter().filter(|finding| finding.code == Code::ENVIRONMENT);
        let is_bad = self
            .seen
            .findings
            .iter()
            .chain(&self.findings.published)
            .chain(&self.findings.secrets)
            .chain(not_compiled)
            .any(|finding| is_error(&finding));
        Reload {
            at: SystemTime::now(),
            success: !is_bad && self.seen.why_last_good.is_none(),
            published,
            took: started.elapsed(),
            generation: self.generation,
            hash: self.hash(),
        }
    }
}

/// Has the allocator return to the system what reading and compiling used.
///
/// mimalloc keeps freed memory for a second, and looks whether that is over when some page of its is freed. After a
/// reload of a large configuration its threads fall asleep before that, and the memory stays: a third of the whole.
/// Freeing a buffer of a page's size later is all that it needs; calling it directly would be unsafe code.
fn tidy_memory() {
    drop(std::hint::black_box(vec![1u8; 2 << 20]));
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn labels(options: &CompileOptions) -> String {
    let labels: Vec<_> = options.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    labels.join(",")
}

pub(crate) fn compile_options(read: &ReadOptions) -> CompileOptions {
    CompileOptions {
        labels: read.labels.clone(),
        namespace: read.namespace.clone(),
        cluster_domain: read.cluster_domain.clone(),
        ..CompileOptions::default()
    }
}

/// Compiles; a panic of the compiler costs this change and not the process.
fn compile_contained(
    compiler: &mut Compiler,
    set: &ResourceSet,
    options: &CompileOptions,
) -> Result<Compilation, Box<Diagnostic>> {
    catch_unwind(AssertUnwindSafe(|| compiler.compile(set, options))).map_err(|_| {
        // What it was in the middle of is unknown.
        *compiler = Compiler::default();
        Box::new(failed_inside("compiling the configuration"))
    })
}

fn failed_inside(what: &str) -> Diagnostic {
    let message = format!("{what} failed inside Tidegate; what served before serves on");
    let finding = Diagnostic::error(Code::ENVIRONMENT, Origin::default(), message);
    finding.help("please report it; take the last change back until then")
}
