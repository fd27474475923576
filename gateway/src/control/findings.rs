//! What is told of findings: in which order, and which of them again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidegate_core::{Code, Diagnostic, Level, Origin, ResourceKey};
use tidegate_mesh_bridge::files::View;
use tidegate_resources::Skipped;

/// Findings that are logged one by one with one reload.
const MAX_LOGGED: usize = 200;
/// Findings that are kept to be shown.
const MAX_KEPT: usize = 10_000;

/// The findings of a view, with the documents that are not served folded to one for each kind.
pub(crate) fn of_view(view: &View) -> Vec<Diagnostic> {
    let mut skipped: BTreeMap<&str, (usize, &Skipped)> = BTreeMap::new();
    for skip in view.files.iter().flat_map(|file| &file.skipped) {
        skipped.entry(&skip.kind).or_insert((0, skip)).0 += 1;
    }
    let skipped = skipped.into_values().map(|(count, first)| {
        let Skipped { kind, api_version, origin, .. } = first;
        let documents = if count == 1 { "1 document is".to_owned() } else { format!("{count} documents are") };
        let message = format!("{kind} ({api_version}) is not served yet: {documents} skipped, the first one here");
        Diagnostic::warning(Code::KIND_NOT_SERVED, origin.clone(), message)
    });
    view.all_diagnostics().cloned().chain(skipped).collect()
}

/// Says of objects that others name and that are not there why that is, if it is because they were rejected. It is no fault
/// of those that name them.
pub(crate) fn follow_up(findings: &mut [Diagnostic]) {
    let mut rejected: BTreeMap<String, (String, Origin)> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| finding.level == Level::Error) {
        if let Some(key) = &finding.key {
            let told = format!("there is no {key}");
            rejected.entry(told).or_insert_with(|| (key.to_string(), finding.origin.clone()));
        }
    }
    for finding in findings.iter_mut().filter(|finding| finding.code == Code::REFERENCE_NOT_FOUND) {
        if let Some((key, origin)) = rejected.get(&finding.message) {
            finding.message = format!("{key} is rejected ({origin})");
            finding.level = Level::Warning;
            finding.help = None;
        }
    }
}

/// Most severe first, then by place; equal ones once, and not more than people can use.
pub(super) fn sorted(mut findings: Vec<Diagnostic>) -> Vec<Diagnostic> {
    follow_up(&mut findings);
    findings.sort_by(|a, b| b.level.cmp(&a.level).then_with(|| a.origin.cmp(&b.origin)).then_with(|| a.cmp(b)));
    findings.dedup();
    if let Some(rest) = findings.len().checked_sub(MAX_KEPT).filter(|rest| *rest > 0) {
        findings.truncate(MAX_KEPT);
        let message = format!("{rest} more findings are left out");
        findings.push(Diagnostic::warning(Code::SYNTAX, Origin::default(), message));
    }
    findings
}

/// What makes a finding the same as one of the reload before. A line that moved is no news about an object.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Identity {
    code: Code,
    key: Option<ResourceKey>,
    origin: Origin,
    path: String,
    message: String,
}

impl Identity {
    fn of(finding: &Diagnostic) -> Self {
        let mut origin = finding.origin.clone();
        if finding.key.is_some() {
            origin.position = Default::default();
        }
        let (path, message) = (finding.path.clone(), finding.message.clone());
        Self { code: finding.code, key: finding.key.clone(), origin, path, message }
    }
}

/// Logs findings when they appear.
#[derive(Debug, Default)]
pub(super) struct FindingLog {
    known: BTreeSet<Identity>,
    last: Arc<Vec<Diagnostic>>,
}

/// What findings are told of: lists that are put together and sorted only when one of them is another.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    pub(super) seen: Arc<Vec<Diagnostic>>,
    pub(super) compiled: Arc<Vec<Diagnostic>>,
    pub(super) published: Vec<Diagnostic>,
    pub(super) secrets: Vec<Diagnostic>,
    pub(super) state_error: Option<String>,
}

impl Parts {
    fn is(&self, other: &Self) -> bool {
        let same = |a: &Arc<Vec<Diagnostic>>, b: &Arc<Vec<Diagnostic>>| Arc::ptr_eq(a, b) || a == b;
        Arc::ptr_eq(&self.compiled, &other.compiled)
            && self.published == other.published
            && self.secrets == other.secrets
            && self.state_error == other.state_error
            && same(&self.seen, &other.seen)
    }
}

/// Everything that is wrong, most severe first, with what it was put together of.
#[derive(Debug, Default)]
pub(super) struct Told(Option<(Parts, Arc<Vec<Diagnostic>>)>);

impl Told {
    /// The same allocation as the last time, if the parts are the same.
    pub(super) fn of(&mut self, parts: &Parts) -> Arc<Vec<Diagnostic>> {
        if let Some((_, findings)) = self.0.as_ref().filter(|(of, _)| of.is(parts)) {
            return findings.clone();
        }
        let lists = [&*parts.seen, &*parts.compiled, &parts.published, &parts.secrets];
        let mut findings: Vec<_> = lists.into_iter().flatten().cloned().collect();
        if let Some(error) = &parts.state_error {
            let message = format!("the last good configuration cannot be kept on disk: {error}");
            let finding = Diagnostic::warning(Code::ENVIRONMENT, Origin::new("--state-dir", 0, 0), message)
                .help("give it a folder of its own that can be written (--state-dir DIR), or switch it off (--state-dir none)");
            findings.push(finding);
        }
        let findings = Arc::new(sorted(findings));
        self.0 = Some((parts.clone(), findings.clone()));
        findings
    }
}

impl FindingLog {
    /// Logs those of `findings` that were not there the last time.
    pub(super) fn log(&mut self, findings: &Arc<Vec<Diagnostic>>) {
        if Arc::ptr_eq(&self.last, findings) {
            return;
        }
        self.last = findings.clone();
        let mut left_out = 0usize;
        let mut logged = 0usize;
        let mut known = BTreeSet::new();
        for finding in &**findings {
            let identity = Identity::of(finding);
            if !self.known.contains(&identity) && !known.contains(&identity) {
                if logged < MAX_LOGGED {
                    log(finding);
                    logged += 1;
                } else {
                    left_out += 1;
                }
            }
            known.insert(identity);
        }
        if left_out > 0 {
            tracing::warn!(
                findings = left_out,
                "more findings than fit here; /config/status of the admin port has them"
            );
        }
        let gone = self.known.difference(&known).count();
        if gone > 0 {
            tracing::info!(findings = gone, remaining = known.len(), "findings of the configuration are gone");
        }
        self.known = known;
    }
}

/// One line for one finding. The message is the finding's own: it is what its reader looks for.
fn log(finding: &Diagnostic) {
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: "tidegate::config",
                code = %finding.code,
                object = finding.key.as_ref().map(tracing::field::display),
                at = (!finding.origin.file.is_empty()).then(|| tracing::field::display(&finding.origin)),
                path = (!finding.path.is_empty()).then_some(&*finding.path),
                help = finding.help.as_deref(),
                "{}",
                finding.message
            )
        };
    }
    match finding.level {
        Level::Error => line!(error),
        Level::Warning => line!(warn),
        Level::Info => line!(info),
    }
}
