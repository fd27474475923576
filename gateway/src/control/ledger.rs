//! Which form of which object serves: the last good one of everything that the source still holds, or may hold.

mod differences;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use tidegate_core::{Code, Diagnostic, Kind, Level, Origin, Position, ResourceKey};
use tidegate_mesh_bridge::files::{FileView, Offer, SourceDocument, Understanding, View};
use tidegate_resources::{ParseOptions, ResourceSet};

use self::differences::{Rejections, changed_files, changed_offers};
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
///
/// It follows views: what it looks at are the objects of files that are not those of the view before, and whatever serves
/// although no file offers it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    scope: Scope,
    /// Of the view that was taken in last; none before the first, and while one is being taken in.
    files: Option<Vec<Arc<FileView>>>,
    /// Sorted by key.
    held: Vec<Held>,
    /// The objects of `held`.
    set: ResourceSet,
    /// Keys of `held` that no file offers.
    staying: BTreeSet<ResourceKey>,
    /// All offers of keys that have more than one, in the order of paths.
    rivals: BTreeMap<ResourceKey, Vec<Held>>,
    /// Keys whose documents are others than when they were last asked for.
    unsaved: Unsaved,
    /// Documents of the last view that did not tell what they are, by file.
    unnamed: BTreeMap<Arc<str>, Vec<u64>>,
    /// Those of them that came while an object was missing, so that they may be it. A document that did not tell its
    /// name before either is not the one that is missing now.
    suspects: BTreeMap<Arc<str>, Vec<u64>>,
}

/// Which documents are not what was last taken to be saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Unsaved {
    All,
    These(BTreeSet<ResourceKey>),
}

impl Default for Unsaved {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
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

    /// Where it stands, for the order among offers of one key.
    fn place(&self) -> (&Path, Position) {
        (Path::new(&*self.file), self.offer.object.origin.position)
    }

    fn is(&self, other: &Self) -> bool {
        let document = |held: &Self| held.offer.document.as_ref().map(Arc::as_ptr);
        Arc::ptr_eq(&self.offer.object, &other.offer.object)
            && document(self) == document(other)
            && self.file == other.file
    }
}

/// Offers by key: of every key that a view may have changed.
type Lists = BTreeMap<ResourceKey, Vec<Held>>;

/// Changes beyond which everything that is held is put together anew.
const FEW: usize = 64;

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
        let lists = self.lists(view);
        let mut kept: BTreeMap<Why, Vec<ResourceKey>> = BTreeMap::new();
        let (mut changed, mut moved, mut unsaved) = (false, false, false);
        let mut rejected = Rejections::of(view);
        let mut old_documents = 0;
        let mut edits = Vec::new();
        for (key, offers) in lists {
            let before = self.find(&key).cloned();
            let mut after = self.choose(&key, offers, before.as_ref());
            if after.is_none()
                && let Some(held) = &before
                && let Some(why) = self.fate(&key, &held.file, view, &rejected)
            {
                let mut held = held.clone();
                kept.entry(why).or_default().push(key.clone());
                old_documents += held.offer.document.as_ref().map_or(0, |document| document.text.len());
                if old_documents > MAX_OLD_DOCUMENTS {
                    held.offer.document = None;
                }
                self.staying.insert(key.clone());
                after = Some(held);
            } else {
                self.staying.remove(&key);
            }
            let other = match (&before, &after) {
                (Some(before), Some(after)) => {
                    let (before, after) = (&before.offer.object, &after.offer.object);
                    let is_other = !Arc::ptr_eq(before, after);
                    moved |= is_other
                        && self.scope.counts(key.kind)
                        && (before.origin != after.origin || before.spans != after.spans);
                    is_other
                }
                (None, None) => continue,
                _ => true,
            };
            changed |= other && self.scope.counts(key.kind);
            unsaved |= other && !self.scope.counts(key.kind) && is_saved(key.kind);
            if !before.as_ref().zip(after.as_ref()).is_some_and(|(before, after)| before.is(after)) {
                edits.push((key, after));
            }
        }
        // Where nothing is missing nothing is suspected.
        self.suspects.retain(|file, _| kept.contains_key(&Why::BrokenFile(file.clone())));
        self.edit(edits);
        self.files = Some(view.files.clone());
        self.report_rivals(&mut diagnostics);
        let last_good = kept.values().flatten().cloned().collect::<BTreeSet<_>>();
        rejected.0.retain(|key, _| self.find(key).is_none());
        let why_last_good = kept.keys().next().map(|why| why.sentence(last_good.len()));
        for (why, keys) in &kept {
            self.report(why, keys, &mut diagnostics);
        }
        Resolution {
            changed,
            moved,
            unsaved,
            set: self.set.clone(),
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
        self.set.clone()
    }

    /// Every object that serves with the document that it came from, as far as it may be saved.
    pub(crate) fn documents(&self) -> impl Iterator<Item = (&ResourceKey, &Arc<str>, &Arc<SourceDocument>)> {
        self.held.iter().filter_map(|held| Some((held.key(), &held.file, held.offer.document.as_ref()?)))
    }

    /// As [`Ledger::documents`], of one object; none if it does not serve or may not be saved.
    pub(crate) fn document(&self, key: &ResourceKey) -> Option<(&Arc<str>, &Arc<SourceDocument>)> {
        let held = self.find(key)?;
        Some((&held.file, held.offer.document.as_ref()?))
    }

    /// Which documents changed since this was last asked.
    pub(crate) fn take_unsaved(&mut self) -> Unsaved {
        std::mem::take(&mut self.unsaved)
    }

    /// Whether no document changed since that was last asked.
    pub(crate) fn is_saved(&self) -> bool {
        self.unsaved == Unsaved::default()
    }

    /// Objects that serve and whose documents may not be saved.
    pub(crate) fn left_out(&self) -> usize {
        self.held.iter().filter(|held| held.offer.document.is_none()).count()
    }

    /// Has the next view looked at as a whole.
    #[cfg(test)]
    pub(super) fn forget_view(&mut self) {
        self.files = None;
    }

    /// Has all documents count as changed.
    pub(crate) fn forget_saved(&mut self) {
        self.unsaved = Unsaved::All;
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
        let mut edits = Vec::new();
        for (key, offer) in saved.offers(keys, options) {
            if let Some(object) = saved.objects.get(&key)
                && self.find(&key).is_none()
            {
                self.staying.insert(key.clone());
                edits.push((key, Some(Held { file: object.file.clone(), offer })));
            }
        }
        self.edit(edits);
    }

    /// The offers of every key that this view may have changed.
    fn lists(&mut self, view: &View) -> Lists {
        let mut lists = Lists::new();
        let scope = self.scope;
        let offers = |file: &'_ Arc<FileView>| {
            let file = file.clone();
            (0..file.offers.len()).filter_map(move |at| {
                let offer = file.offers.get(at).filter(|offer| scope.holds(offer.object.key.kind))?;
                Some(Held { file: file.file.clone(), offer: offer.clone() })
            })
        };
        // Taken out: should this go wrong, the next view is looked at as if it were the first.
        let Some(before) = self.files.take() else {
            self.rivals.clear();
            lists.extend(self.held.iter().map(|held| (held.key().clone(), Vec::new())));
            for held in view.files.iter().flat_map(offers) {
                lists.entry(held.key().clone()).or_default().push(held);
            }
            return lists;
        };
        for (old, new) in changed_files(&before, &view.files) {
            let (old_offers, new_offers) = changed_offers(old, new);
            for (file, offers, is_new) in [(old, old_offers, false), (new, new_offers, true)] {
                for offer in offers.iter().filter(|offer| scope.holds(offer.object.key.kind)) {
                    let list = self.list(&mut lists, &offer.object.key);
                    match file {
                        Some(file) if is_new => list.push(Held { file: file.file.clone(), offer: offer.clone() }),
                        _ => list.retain(|held| !Arc::ptr_eq(&held.offer.object, &offer.object)),
                    }
                }
            }
        }
        for key in &self.staying {
            self.list(&mut lists, key);
        }
        lists
    }

    /// The offers of a key, as they were before this view if it is not among `lists` yet.
    fn list<'l>(&self, lists: &'l mut Lists, key: &ResourceKey) -> &'l mut Vec<Held> {
        lists.entry(key.clone()).or_insert_with(|| match self.rivals.get(key) {
            Some(rivals) => rivals.clone(),
            None if self.staying.contains(key) => Vec::new(),
            None => self.find(key).cloned().into_iter().collect(),
        })
    }

    /// Which of several offers of a key serves: the one that served before, else the first in the order of paths.
    fn choose(&mut self, key: &ResourceKey, mut offers: Vec<Held>, before: Option<&Held>) -> Option<Held> {
        if offers.len() < 2 {
            self.rivals.remove(key);
            return offers.pop();
        }
        offers.sort_by(|a, b| a.place().cmp(&b.place()));
        let file = before.map(|held| &held.file);
        let winner = offers.iter().find(|offer| Some(&offer.file) == file).or(offers.first()).cloned();
        self.rivals.insert(key.clone(), offers);
        winner
    }

    /// Puts what serves now in the place of what did. Keys are in their order, each once.
    fn edit(&mut self, edits: Vec<(ResourceKey, Option<Held>)>) {
        if let Unsaved::These(keys) = &mut self.unsaved
            && self.scope == Scope::Everything
        {
            keys.extend(edits.iter().map(|(key, _)| key.clone()));
        }
        if edits.len() > FEW {
            let keys: BTreeSet<&ResourceKey> = edits.iter().map(|(key, _)| key).collect();
            self.held.retain(|held| !keys.contains(held.key()));
            self.held.extend(edits.into_iter().filter_map(|(_, held)| held));
            self.held.sort_by(|a, b| a.key().cmp(b.key()));
            self.set = self.held.iter().map(|held| held.offer.object.clone()).collect();
            return;
        }
        for (key, held) in edits {
            let at = self.held.binary_search_by(|held| held.key().cmp(&key));
            match (at, held) {
                (Ok(at), Some(held)) => {
                    self.set.insert(held.offer.object.clone());
                    self.held[at] = held;
                }
                (Err(at), Some(held)) => {
                    self.set.insert(held.offer.object.clone());
                    self.held.insert(at, held);
                }
                (Ok(at), None) => {
                    self.set.remove(&key);
                    self.held.remove(at);
                }
                (Err(_), None) => {}
            }
        }
    }

    /// Names the objects that are defined more than once.
    fn report_rivals(&self, diagnostics: &mut Vec<Diagnostic>) {
        let mut losers = Vec::new();
        for (key, offers) in &self.rivals {
            let Some(winner) = self.find(key) else { continue };
            let of_winner = |held: &&Held| Arc::ptr_eq(&held.offer.object, &winner.offer.object);
            let others = offers.iter().filter(|held| !of_winner(held));
            losers.extend(others.map(|loser| (&winner.offer.object, &loser.offer.object)));
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

/// Says how many findings were not listed.
fn more(count: usize, what: &str, diagnostics: &mut Vec<Diagnostic>) {
    if let Some(rest) = count.checked_sub(MAX_LISTED).filter(|rest| *rest > 0) {
        let message = format!("{rest} more {what}");
        diagnostics.push(Diagnostic::warning(Code::LAST_GOOD_KEPT, Origin::default(), message));
    }
}
