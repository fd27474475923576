//! Which form of which object serves: the last good one of everything that the source still holds, or may hold.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tidegate_core::{Code, Diagnostic, Kind, Level, Origin, ResourceKey};
use tidegate_mesh_bridge::files::{FileView, Offer, SourceDocument, Understanding, View};
use tidegate_resources::{ParseOptions, ResourceSet};

use crate::state::Saved;

/// Bytes of documents that are kept beside the present ones, for objects that serve in an older form. Beyond it such
/// objects serve as well, and are not saved.
const MAX_OLD_DOCUMENTS: usize = 64 << 20;

/// Findings of one kind that are listed one by one.
const MAX_LISTED: usize = 1000;

/// Which objects a [`Ledger`] is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Scope {
    /// All of them; but a change of material alone changes nothing that is compiled.
    #[default]
    Everything,
    /// Those that hold certificates and keys, and nothing else.
    Material,
}

impl Scope {
    fn holds(self, kind: Kind) -> bool {
        self == Self::Everything || is_material(kind)
    }

    /// Whether another object of this kind makes another set.
    fn counts(self, kind: Kind) -> bool {
        (self == Self::Material) == is_material(kind)
    }
}

/// Whether objects of this kind go to the secret store and are not compiled.
pub(crate) fn is_material(kind: Kind) -> bool {
    matches!(kind, Kind::Secret | Kind::ConfigMap | Kind::AcmeCertificate)
}

/// Whether a change of such an object is one of what is kept on disk. Secrets are not kept.
fn is_saved(kind: Kind) -> bool {
    kind != Kind::Secret
}

/// The objects that serve, with where they came from. Pure: it reads views and no files.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    scope: Scope,
    /// Sorted by key.
    held: Vec<Held>,
    /// Documents of the last view that did not tell what they are, by file.
    unnamed: BTreeMap<Arc<str>, Vec<u64>>,
    /// Those of them that came while an object was missing, so that they may be it. A document that did not tell its
    /// name before either is not the one that is missing now.
    suspects: BTreeMap<Arc<str>, Vec<u64>>,
}

/// One object that serves.
#[derive(Clone, Debug)]
struct Held {
    file: Arc<str>,
    offer: Offer,
}

impl Held {
    fn key(&self) -> &ResourceKey {
        &self.offer.object.key
    }
}

/// Why an object that is not offered stays.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Why {
    /// Its present form, in this file, breaks a rule.
    Rejected(Arc<str>),
    /// Its file cannot be read, or not whole.
    BrokenFile(Arc<str>),
    /// Its file or a folder above it cannot be seen.
    Unseen(String),
}

/// What came of one view.
#[derive(Debug, Default)]
pub(crate) struct Resolution {
    pub(crate) set: ResourceSet,
    /// Whether `set` holds other objects than the last one, of those that the scope counts.
    pub(crate) changed: bool,
    /// Whether one of them stands in another place than in the last set.
    pub(crate) moved: bool,
    /// Whether something changed that is not compiled, and is saved.
    pub(crate) unsaved: bool,
    /// What the ledger has to say beyond the findings of the view.
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Keys that serve in an older form than the source's, or than could be seen. Sorted.
    pub(crate) last_good: Vec<ResourceKey>,
    /// Keys that the source names and that do not serve at all. Sorted.
    pub(crate) rejected: Vec<ResourceKey>,
    /// One sentence, if `last_good` is not empty.
    pub(crate) why_last_good: Option<String>,
}

impl Ledger {
    pub(crate) fn new(scope: Scope) -> Self {
        Self { scope, ..Self::default() }
    }

    /// Takes a view in. `saved` is what an earlier process served, for the first view of this one.
    pub(crate) fn resolve(&mut self, view: &View, saved: Option<&Saved>, options: &ParseOptions) -> Resolution {
        let mut diagnostics = Vec::new();
        self.suspect(view);
        if let Some(saved) = saved {
            let lost = self.recall(view, saved, options);
            if lost > 0 {
                let message = format!("{lost} objects that were saved cannot be read by this version and are gone");
                diagnostics.push(Diagnostic::warning(Code::LAST_GOOD_KEPT, Origin::new("--state-dir", 0, 0), message));
            }
        }
        let mut next = self.offered(view, &mut diagnostics);
        let previous = std::mem::take(&mut self.held);
        let mut kept: BTreeMap<Why, Vec<ResourceKey>> = BTreeMap::new();
        let scope = self.scope;
        let counts = |key: &ResourceKey| scope.counts(key.kind);
        // Keys that served before and serve now.
        let (mut common, mut common_uncounted) = (0, 0);
        let (mut changed, mut moved, mut unsaved) = (false, false, false);
        let mut rejected = Rejections::of(view);
        let mut old_documents = 0;
        let mut stay = Vec::new();
        let mut at = 0;
        for mut held in previous {
            // Both are sorted.
            while next.get(at).is_some_and(|now| now.key() < held.key()) {
                at += 1;
            }
            if let Some(now) = next.get(at).filter(|now| now.key() == held.key()) {
                let (now, before) = (&now.offer.object, &held.offer.object);
                if !counts(&before.key) {
                    common_uncounted += usize::from(is_saved(before.key.kind));
                    unsaved |= is_saved(before.key.kind) && !Arc::ptr_eq(now, before);
                    continue;
                }
                common += 1;
                if !Arc::ptr_eq(now, before) {
                    changed = true;
                    moved |= now.origin != before.origin || now.spans != before.spans;
                }
            } else if let Some(why) = self.fate(held.key(), &held.file, view, &rejected) {
                let kind = held.key().kind;
                common += usize::from(scope.counts(kind));
                common_uncounted += usize::from(!scope.counts(kind) && is_saved(kind));
                kept.entry(why).or_default().push(held.key().clone());
                old_documents += held.offer.document.as_ref().map_or(0, |document| document.text.len());
                if old_documents > MAX_OLD_DOCUMENTS {
                    held.offer.document = None;
                }
                stay.push(held);
            } else {
                changed |= counts(held.key());
                unsaved |= !counts(held.key()) && is_saved(held.key().kind);
            }
        }
        if !stay.is_empty() {
            next.append(&mut stay);
            next.sort_by(|a, b| a.key().cmp(b.key()));
        }
        changed |= common < next.iter().filter(|held| counts(held.key())).count();
        let uncounted = |held: &&Held| !counts(held.key()) && is_saved(held.key().kind);
        unsaved |= common_uncounted < next.iter().filter(uncounted).count();
        // Where nothing is missing nothing is suspected.
        self.suspects.retain(|file, _| kept.contains_key(&Why::BrokenFile(file.clone())));
        self.held = next;
        let set = self.set();
        let last_good = kept.values().flatten().cloned().collect::<std::collections::BTreeSet<_>>();
        rejected.0.retain(|key, _| self.find(key).is_none());
        let why_last_good = kept.keys().next().map(|why| why.sentence(last_good.len()));
        for (why, keys) in &kept {
            self.report(why, keys, &mut diagnostics);
        }
        Resolution {
            changed,
            moved,
            unsaved,
            set,
            diagnostics,
            last_good: last_good.into_iter().collect(),
            rejected: rejected.0.into_keys().cloned().collect(),
            why_last_good,
        }
    }

    /// Takes over everything that an earlier process served, to serve it before the source could be looked at.
    pub(crate) fn serve_saved(&mut self, saved: &Saved, options: &ParseOptions) -> ResourceSet {
        let keys: Vec<_> = saved.objects.keys().filter(|key| self.scope.holds(key.kind)).collect();
        self.take_over(saved, &keys, options);
        self.set()
    }

    /// Every object that serves with the document that it came from, as far as it may be saved.
    pub(crate) fn documents(&self) -> impl Iterator<Item = (&ResourceKey, &Arc<str>, &Arc<SourceDocument>)> {
        self.held.iter().filter_map(|held| Some((held.key(), &held.file, held.offer.document.as_ref()?)))
    }

    fn set(&self) -> ResourceSet {
        self.held.iter().map(|held| held.offer.object.clone()).collect()
    }

    fn find(&self, key: &ResourceKey) -> Option<&Held> {
        let at = self.held.binary_search_by(|held| held.key().cmp(key)).ok()?;
        self.held.get(at)
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    /// Finds the documents that may be what is missing: those that are new to this view, and those that were suspect
    /// before and are still there.
    fn suspect(&mut self, view: &View) {
        let mut unnamed = BTreeMap::new();
        let mut suspects = BTreeMap::new();
        for file in &view.files {
            let Understanding::Partly(now) = &file.understanding else { continue };
            let before = self.unnamed.get(&file.file).map(Vec::as_slice).unwrap_or_default();
            let suspect = self.suspects.get(&file.file).map(Vec::as_slice).unwrap_or_default();
            let is_suspect = |document: &&u64| !before.contains(document) || suspect.contains(document);
            let found: Vec<u64> = now.iter().filter(is_suspect).copied().collect();
            if !found.is_empty() {
                suspects.insert(file.file.clone(), found);
            }
            unnamed.insert(file.file.clone(), now.clone());
        }
        (self.unnamed, self.suspects) = (unnamed, suspects);
    }

    /// Parses of what was saved that which this view leaves open. Returns how many objects could not be read.
    fn recall(&mut self, view: &View, saved: &Saved, options: &ParseOptions) -> usize {
        let mut offers: BTreeMap<&ResourceKey, usize> = BTreeMap::new();
        for offer in view.files.iter().flat_map(|file| &file.offers) {
            *offers.entry(&offer.object.key).or_default() += 1;
        }
        let rejected = Rejections::of(view);
        let needed: Vec<_> = saved
            .objects
            .iter()
            .filter(|(key, object)| match offers.get(key) {
                _ if !self.scope.holds(key.kind) => false,
                // Of several the one that served before stays.
                Some(count) => *count > 1,
                None => self.fate(key, &object.file, view, &rejected).is_some(),
            })
            .map(|(key, _)| key)
            .collect();
        self.take_over(saved, &needed, options);
        needed.iter().filter(|key| self.find(key).is_none()).count()
    }

    fn take_over(&mut self, saved: &Saved, keys: &[&ResourceKey], options: &ParseOptions) {
        for (key, offer) in saved.offers(keys, options) {
            if let Some(object) = saved.objects.get(&key)
                && let Err(at) = self.held.binary_search_by(|held| held.key().cmp(&key))
            {
                // Keys come in their order, so this is the end in all but odd cases.
                self.held.insert(at, Held { file: object.file.clone(), offer });
            }
        }
    }

    /// The objects that the view offers, sorted by key. Of several with one key the one that served before stays, else
    /// the first in the order of paths.
    fn offered(&self, view: &View, diagnostics: &mut Vec<Diagnostic>) -> Vec<Held> {
        let files = view.files.iter();
        let mut offers: Vec<_> =
            files.flat_map(|file| file.offers.iter().map(move |offer| (&file.file, offer))).collect();
        offers.retain(|(_, offer)| self.scope.holds(offer.object.key.kind));
        offers.sort_by(|(_, a), (_, b)| a.object.key.cmp(&b.object.key));
        let mut chosen = Vec::with_capacity(offers.len());
        let mut losers = Vec::new();
        for same in offers.chunk_by(|(_, a), (_, b)| a.object.key == b.object.key) {
            let mut winner = 0;
            if same.len() > 1 {
                let before = self.find(&same[0].1.object.key).map(|held| &held.file);
                winner = same.iter().position(|(file, _)| Some(*file) == before).unwrap_or_default();
                let others = same.iter().enumerate().filter(|(at, _)| *at != winner);
                losers.extend(others.map(|(_, (_, loser))| (&same[winner].1.object, &loser.object)));
            }
            let (file, offer) = same[winner];
            chosen.push(Held { file: file.clone(), offer: offer.clone() });
        }
        for (winner, object) in losers.iter().take(MAX_LISTED) {
            let alike = winner.spec == object.spec && winner.metadata == object.metadata;
            let level = if alike { Level::Warning } else { Level::Error };
            let message =
                format!("the object is defined twice; the one at {} serves, this one does not", winner.origin);
            let finding = Diagnostic::new(Code::DUPLICATE, level, object.origin.clone(), message)
                .key(object.key.clone())
                .help("remove one of them, or give it another name or namespace");
            diagnostics.push(finding);
        }
        more(losers.len(), "objects are defined twice", diagnostics);
        chosen
    }

    /// Why an object that no file offers stays; none if it is gone.
    fn fate(&self, key: &ResourceKey, file: &Arc<str>, view: &View, rejected: &Rejections<'_>) -> Option<Why> {
        if let Some(by) = rejected.0.get(key) {
            return Some(Why::Rejected(by.file.clone()));
        }
        if let Some(view) = view.file(file) {
            return match &view.understanding {
                Understanding::Whole => None,
                Understanding::Not => Some(Why::BrokenFile(file.clone())),
                Understanding::Partly(_) => self.suspects.contains_key(file).then(|| Why::BrokenFile(file.clone())),
            };
        }
        if let Some(gap) = view.gap_over(file) {
            return Some(Why::Unseen(gap.path.to_string_lossy().into_owned()));
        }
        // Nothing could be looked at: that may be a wrong path on the command line as well as a lost volume.
        let gap = view.gaps.first().filter(|_| view.blind)?;
        Some(Why::Unseen(gap.path.to_string_lossy().into_owned()))
    }

    fn report(&self, why: &Why, keys: &[ResourceKey], diagnostics: &mut Vec<Diagnostic>) {
        match why {
            Why::Rejected(by) => {
                for key in keys.iter().take(MAX_LISTED) {
                    let Some(held) = self.find(key) else { continue };
                    let message = format!("its form in {by} is rejected; this earlier form stays in use");
                    let origin = held.offer.object.origin.clone();
                    diagnostics.push(Diagnostic::warning(Code::LAST_GOOD_KEPT, origin, message).key(key.clone()));
                }
                more(keys.len(), "objects stay in their earlier form", diagnostics);
            }
            Why::BrokenFile(_) | Why::Unseen(_) => {
                let place = match why {
                    Why::Rejected(file) | Why::BrokenFile(file) => &**file,
                    Why::Unseen(path) => path,
                };
                let origin = Origin::new(Path::new(place).to_string_lossy(), 0, 0);
                diagnostics.push(Diagnostic::warning(Code::LAST_GOOD_KEPT, origin, why.sentence(keys.len())));
            }
        }
    }
}

impl Why {
    fn sentence(&self, objects: usize) -> String {
        let (objects, stay) = match objects {
            1 => ("1 object".to_owned(), "stays"),
            several => (format!("{several} objects"), "stay"),
        };
        match self {
            Why::Rejected(file) => format!("{objects} {stay} in an earlier form because {file} is wrong"),
            Why::BrokenFile(file) => format!("{objects} {stay} as last read because {file} cannot be read whole"),
            Why::Unseen(path) => format!("{objects} {stay} as last seen because {path} cannot be read"),
        }
    }
}

/// The keys that a view names and refuses, with the file that refuses them.
struct Rejections<'v>(BTreeMap<&'v ResourceKey, &'v FileView>);

impl<'v> Rejections<'v> {
    fn of(view: &'v View) -> Self {
        let mut rejections = BTreeMap::new();
        for file in &view.files {
            for key in &file.rejected {
                rejections.entry(key).or_insert(&**file);
            }
        }
        Self(rejections)
    }
}

/// Says how many findings were not listed.
fn more(count: usize, what: &str, diagnostics: &mut Vec<Diagnostic>) {
    if let Some(rest) = count.checked_sub(MAX_LISTED).filter(|rest| *rest > 0) {
        let message = format!("{rest} more {what}");
        diagnostics.push(Diagnostic::warning(Code::LAST_GOOD_KEPT, Origin::default(), message));
    }
}
