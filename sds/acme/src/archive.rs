use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;

use crate::failure::Failure;
use crate::state::{Record, Shelf, StateDirectory, StateError};

/// More damaged files than this are set aside without being listed.
const MAX_DAMAGES: usize = 100;

/// The state directory for asynchronous callers. Made at its first use, so that whoever orders nothing has none. A
/// damaged file is set aside and told, and then it is as if it had never been.
#[derive(Debug)]
pub(crate) struct Archive {
    root: PathBuf,
    directory: OnceLock<StateDirectory>,
    damages: Mutex<Vec<String>>,
    /// Work on the disk, which goes on when whoever wanted it is cancelled.
    works: TaskTracker,
}

impl Archive {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, directory: OnceLock::new(), damages: Mutex::default(), works: TaskTracker::new() }
    }

    /// What was found damaged since the start, in words.
    pub(crate) fn damages(&self) -> Vec<String> {
        self.damages.lock().clone()
    }

    pub(crate) async fn read<H>(self: &Arc<Self>, shelf: Shelf, id: &str) -> Result<Option<Record<H>>, Failure>
    where
        H: DeserializeOwned + Send + 'static,
    {
        let id = id.to_owned();
        self.on_disk(move |archive| archive.read_or_set_aside(shelf, &id)).await
    }

    pub(crate) async fn write<H>(
        self: &Arc<Self>,
        shelf: Shelf,
        id: &str,
        head: H,
        pem: zeroize::Zeroizing<String>,
    ) -> Result<(), Failure>
    where
        H: Serialize + Send + 'static,
    {
        let id = id.to_owned();
        self.on_disk(move |archive| archive.directory()?.write(shelf, &id, &head, &pem)).await
    }

    pub(crate) async fn remove(self: &Arc<Self>, shelf: Shelf, id: &str) -> Result<(), Failure> {
        let id = id.to_owned();
        self.on_disk(move |archive| archive.directory()?.remove(shelf, &id)).await
    }

    /// For a record whose bytes are as written and make no sense all the same.
    pub(crate) async fn set_aside(self: &Arc<Self>, shelf: Shelf, id: &str, reason: String) -> Result<(), Failure> {
        let id = id.to_owned();
        self.on_disk(move |archive| {
            let path = archive.directory()?.path(shelf, &id);
            archive.tell_damage(shelf, &id, &StateError::Damaged { path, reason })
        })
        .await
    }

    /// Runs where blocking on the disk is allowed.
    pub(crate) async fn on_disk<T, F>(self: &Arc<Self>, work: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&Archive) -> Result<T, StateError> + Send + 'static,
    {
        let archive = self.clone();
        match self.works.spawn_blocking(move || work(&archive)).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(Failure::internal(format!("reading or writing state: {error}"))),
        }
    }

    /// Waits for the end of what is being read and written.
    pub(crate) async fn rest(&self) {
        self.works.close();
        self.works.wait().await;
    }

    pub(crate) fn directory(&self) -> Result<&StateDirectory, StateError> {
        match self.directory.get() {
            Some(directory) => Ok(directory),
            None => {
                let directory = StateDirectory::open(&self.root)?;
                Ok(self.directory.get_or_init(|| directory))
            }
        }
    }

    fn read_or_set_aside<H: DeserializeOwned>(&self, shelf: Shelf, id: &str) -> Result<Option<Record<H>>, StateError> {
        match self.directory()?.read(shelf, id) {
            Err(error @ StateError::Damaged { .. }) => {
                self.tell_damage(shelf, id, &error)?;
                Ok(None)
            }
            result => result,
        }
    }

    fn tell_damage(&self, shelf: Shelf, id: &str, error: &StateError) -> Result<(), StateError> {
        let aside = self.directory()?.set_aside(shelf, id)?;
        tracing::warn!(%error, aside = %aside.display(), "damaged acme state set aside");
        let mut damages = self.damages.lock();
        if damages.len() < MAX_DAMAGES {
            damages.push(format!("{error}; it is kept as {} and not used", aside.display()));
        }
        Ok(())
    }
}
