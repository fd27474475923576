use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tidegate_core::SecretName;

use crate::Content;

/// One generation of a secret's material.
#[derive(Debug)]
pub struct Secret {
    /// Counts the swaps of the slot from 1.
    pub version: u64,
    pub content: Content,
}

/// The place of one secret. Readers take what it holds now; it changes as a whole.
#[derive(Debug)]
pub struct SecretSlot {
    name: SecretName,
    current: ArcSwapOption<Secret>,
}

impl SecretSlot {
    pub(crate) fn new(name: SecretName) -> Self {
        Self { name, current: ArcSwapOption::empty() }
    }

    pub fn name(&self) -> &SecretName {
        &self.name
    }

    /// What serves now; none until something usable was offered.
    pub fn current(&self) -> Option<Arc<Secret>> {
        self.current.load_full()
    }

    pub(crate) fn swap(&self, content: Content) {
        let version = self.current.load().as_ref().map_or(0, |secret| secret.version) + 1;
        self.current.store(Some(Arc::new(Secret { version, content })));
    }
}
