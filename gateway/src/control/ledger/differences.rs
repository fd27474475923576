//! What differs between two views, and what a view refuses.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tidegate_core::ResourceKey;
use tidegate_mesh_bridge::files::{FileView, Offer, View};

/// Files that are not the same in two views, as they were and as they are. Both lists are sorted by path.
pub(super) fn changed_files<'f>(
    old: &'f [Arc<FileView>],
    new: &'f [Arc<FileView>],
) -> Vec<(Option<&'f FileView>, Option<&'f FileView>)> {
    let mut changed = Vec::new();
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changed,
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => {
                old.next();
                new.next();
                continue;
            }
            (Some(a), Some(b)) => Path::new(&*a.file).cmp(Path::new(&*b.file)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        changed.push((before.map(Arc::as_ref), after.map(Arc::as_ref)));
    }
}

/// The offers of a file without those at its beginning and end that stayed the same.
pub(super) fn changed_offers<'f>(old: Option<&'f FileView>, new: Option<&'f FileView>) -> (&'f [Offer], &'f [Offer]) {
    let offers = |file: Option<&'f FileView>| file.map(|file| file.offers.as_slice()).unwrap_or_default();
    let (mut old, mut new) = (offers(old), offers(new));
    let same = |(a, b): &(&Offer, &Offer)| Arc::ptr_eq(&a.object, &b.object);
    let begin = old.iter().zip(new).take_while(same).count();
    (old, new) = (&old[begin..], &new[begin..]);
    let end = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    (&old[..old.len() - end], &new[..new.len() - end])
}

/// The keys that a view names and refuses, with the file that refuses them.
pub(super) struct Rejections<'v>(pub(super) BTreeMap<&'v ResourceKey, &'v FileView>);

impl<'v> Rejections<'v> {
    pub(super) fn of(view: &'v View) -> Self {
        let mut rejections = BTreeMap::new();
        for file in &view.files {
            for key in &file.rejected {
                rejections.entry(key).or_insert(&**file);
            }
        }
        Self(rejections)
    }
}
