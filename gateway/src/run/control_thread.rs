//! The thread of the one writer, and the order in which it finds something to serve.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use tidegate_core::Diagnostic;
use tidegate_mesh_bridge::files::{FileSource, Limits, Progress, View, WatchTiming, Watcher};
use tidegate_proxy::Gateway;
use tidegate_resources::ParseOptions;
use tidegate_snapshot::Snapshot;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{ConfigSource, RunOptions, made_up};
use crate::control::{Control, Publish, Reload, StatusCell, roots};
use crate::secrets::Secrets;
use crate::state::{Saved, StateFile, StateWriter};

/// How long the first look at the source may stand still before what was saved is served instead.
const PATIENCE: Duration = Duration::from_millis(400);
/// How often it is looked at whether it stands still.
const STEP: Duration = Duration::from_millis(50);
/// How often it is looked at whether what failed outside works by now.
const CHECK: Duration = Duration::from_millis(1500);
/// Time between two times at which news of secrets are told: one that changes all the time is told now and then.
const TELL_PAUSE: Duration = Duration::from_millis(200);
/// How often it is looked at how ACME and SDS servers get on.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked at whether a secret has expired, or has become valid.
const TICK: Duration = Duration::from_secs(10);
/// What threads get to end.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// What the writer reads.
pub(super) enum Input {
    Watched {
        watcher: Arc<Watcher>,
        names: Vec<String>,
    },
    /// One view that never changes.
    Fixed {
        view: Box<View>,
        name: String,
    },
}

impl Input {
    /// Starts to look at the source.
    ///
    /// # Errors
    /// `--to` is no address, or the thread cannot be started.
    pub(super) fn open(options: &RunOptions) -> anyhow::Result<Self> {
        match &options.source {
            ConfigSource::Paths(paths) => {
                let names = paths.iter().chain(&options.read.mesh_config);
                let names = names.map(|path: &PathBuf| path.display().to_string()).collect();
                let source = FileSource::new(roots(paths, &options.read), Limits::default(), ParseOptions::default());
                let watcher = Watcher::start(source, WatchTiming::default()).context("watching the configuration")?;
                Ok(Self::Watched { watcher: Arc::new(watcher), names })
            }
            ConfigSource::To { target, port } => {
                let name = format!("--to {target}");
                let yaml = made_up::yaml(target, *port)?;
                let mesh_config = roots(&[], &options.read);
                let mut view = FileSource::new(mesh_config, Limits::default(), ParseOptions::default()).scan();
                view.add_text(&name, &yaml, &ParseOptions::default());
                Ok(Self::Fixed { view: Box::new(view), name })
            }
        }
    }

    /// What people call the sources.
    pub(super) fn names(&self) -> Vec<String> {
        match self {
            Self::Watched { names, .. } => names.clone(),
            Self::Fixed { name, .. } => vec![name.clone()],
        }
    }
}

/// The running writer. Dropping it tells the thread to end; [`ControlThread::stop`] waits for that.
pub(super) struct ControlThread {
    cancel: CancellationToken,
    watcher: Option<Arc<Watcher>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl ControlThread {
    /// Starts the writer. `serving` gets the hash of the first Snapshot once it serves.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(super) fn start(
        options: &RunOptions,
        input: Input,
        gateway: Arc<Gateway>,
        secrets: Arc<Secrets>,
        status: StatusCell,
        serving: oneshot::Sender<String>,
    ) -> anyhow::Result<Self> {
        let cancel = CancellationToken::new();
        let runtime = Handle::current();
        let state_file = StateFile::locate(&options.state_dir, &options.source, &options.read);
        let writer = state_file.clone().map(StateWriter::start).transpose().context("starting the state's writer")?;
        let publisher = ToGateway { gateway, runtime: runtime.clone() };
        let control = Control::new(&options.read, publisher, secrets.clone(), status, writer);
        let first = First(Some(serving));
        let watcher = match &input {
            Input::Watched { watcher, .. } => Some(watcher.clone()),
            Input::Fixed { .. } => None,
        };
        let keeper = thread::Builder::new().name("secrets".into()).spawn({
            let (secrets, runtime, cancel) = (secrets.clone(), runtime.clone(), cancel.clone());
            let views = watcher.as_ref().map(|watcher| watcher.views());
            move || keep_secrets(&secrets, views, &runtime, &cancel)
        })?;
        let thread = thread::Builder::new().name("control".into()).spawn({
            let cancel = cancel.clone();
            let (mut control, mut first) = (control, first);
            move || {
                let follower = Follower {
                    control: &mut control,
                    first: &mut first,
                    secrets: &secrets,
                    news: secrets.news(),
                    runtime: &runtime,
                    cancel: &cancel,
                };
                match input {
                    Input::Watched { watcher, .. } => follower.follow(&watcher, state_file.as_ref()),
                    Input::Fixed { view, .. } => follower.stay(&view),
                }
            }
        })?;
        Ok(Self { cancel, watcher, threads: vec![keeper, thread] })
    }

    /// Something that has the sources looked at now.
    pub(super) fn rescan(&self) -> impl Fn() + Send + 'static {
        let watcher = self.watcher.clone();
        move || {
            if let Some(watcher) = &watcher {
                watcher.rescan();
            }
        }
    }

    /// Ends the writer: nothing is published any more, what is to be saved is saved.
    pub(super) fn stop(mut self) {
        self.cancel.cancel();
        if let Some(watcher) = &self.watcher {
            watcher.stop(STOP_PATIENCE);
        }
        for thread in std::mem::take(&mut self.threads) {
            // Bounded: it waits for nothing but `cancel` and the end of a publication. A panic was already printed.
            drop(thread.join());
        }
    }
}

impl Drop for ControlThread {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// The writer while it follows a source.
struct Follower<'a> {
    control: &'a mut Control<ToGateway>,
    first: &'a mut First,
    secrets: &'a Arc<Secrets>,
    news: watch::Receiver<u64>,
    runtime: &'a Handle,
    cancel: &'a CancellationToken,
}

/// What the writer waits for.
enum Event {
    /// Another view; false if there will be none any more.
    View(bool),
    Secrets,
    Nothing,
    Cancelled,
}

impl Follower<'_> {
    /// Serves what was saved if the source cannot be read, then every view of the source.
    fn follow(mut self, watcher: &Watcher, state_file: Option<&StateFile>) {
        let mut views = watcher.views();
        let mut saved = state_file.and_then(load);
        if let Some(found) = &saved
            && !self.runtime.block_on(first_view(&mut views, watcher.progress(), self.cancel))
            && !self.cancel.is_cancelled()
        {
            self.secrets.serve_saved(found);
            self.control.serve_saved(found);
            self.first.tell(self.control);
            saved = None;
        }
        loop {
            let view = views.borrow_and_update().clone();
            if let Some(view) = view {
                let saved = saved.take();
                // What is served finds its secrets.
                self.secrets.refresh(&views, saved.as_ref());
                self.control.apply(&view, saved.as_ref());
                self.first.tell(self.control);
            }
            if !self.wait(Some(&mut views)) {
                break;
            }
        }
        if !self.cancel.is_cancelled() {
            tracing::error!("nobody looks at the configuration any more; it stays as it is until a restart");
            self.wait(None);
        }
    }

    /// Serves one view.
    fn stay(mut self, view: &View) {
        self.secrets.apply(view, None);
        self.control.apply(view, None);
        self.first.tell(self.control);
        self.wait(None);
    }

    /// Tells what happens beside the configuration until there is another view; false if there will be none.
    fn wait(&mut self, mut views: Option<&mut watch::Receiver<Option<Arc<View>>>>) -> bool {
        let mut tell_at = tokio::time::Instant::now();
        loop {
            match self.runtime.block_on(event(views.as_deref_mut(), &mut self.news, tell_at, self.cancel)) {
                Event::View(alive) => return alive,
                Event::Cancelled => return false,
                Event::Nothing => self.control.check(),
                Event::Secrets => {
                    self.control.tell_secrets();
                    tell_at = tokio::time::Instant::now() + TELL_PAUSE;
                }
            }
        }
    }
}

/// Keeps secrets current beside the writer: a certificate does not wait until a large configuration is compiled.
fn keep_secrets(
    secrets: &Secrets,
    mut views: Option<watch::Receiver<Option<Arc<View>>>>,
    runtime: &Handle,
    cancel: &CancellationToken,
) {
    enum Wake {
        View(bool),
        Store,
        Time,
        Cancelled,
    }
    let mut changes = secrets.store().subscribe_changes();
    let mut ticked = Instant::now();
    loop {
        let wake = runtime.block_on(async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Wake::Cancelled,
                alive = changed(views.as_mut()) => Wake::View(alive),
                // The sender lives as long as the process.
                Ok(()) = changes.changed() => Wake::Store,
                () = tokio::time::sleep(LOOK) => Wake::Time,
            }
        });
        if matches!(wake, Wake::Cancelled) {
            return;
        }
        let is_over = matches!(wake, Wake::View(false));
        let ticks = ticked.elapsed() >= TICK;
        contained(|| {
            match (wake, &views) {
                (Wake::View(true), Some(views)) => secrets.keep_up(views),
                (Wake::Store, _) => secrets.settle(),
                (Wake::Time, _) => secrets.look_at_sources(),
                _ => {}
            }
            if ticks {
                secrets.tick();
            }
        });
        if ticks {
            ticked = Instant::now();
        }
        if is_over {
            // The writer says so.
            views = None;
        }
    }
}

/// A panic costs one look at the secrets, of which the next comes soon. The process's hook has told it.
fn contained(work: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(work));
}

/// `views` is none where there will be no other; news of secrets are told from `tell_at` on.
async fn event(
    views: Option<&mut watch::Receiver<Option<Arc<View>>>>,
    news: &mut watch::Receiver<u64>,
    tell_at: tokio::time::Instant,
    cancel: &CancellationToken,
) -> Event {
    let news = async {
        tokio::time::sleep_until(tell_at).await;
        news.changed().await
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Event::Cancelled,
        alive = changed(views) => Event::View(alive),
        // The sender lives as long as the process.
        Ok(()) = news => Event::Secrets,
        () = tokio::time::sleep(CHECK) => Event::Nothing,
    }
}

/// Waits for another view; false if there will be none any more.
async fn changed(views: Option<&mut watch::Receiver<Option<Arc<View>>>>) -> bool {
    match views {
        Some(views) => views.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

/// Waits for the first view; false if the look at the source stands still or has ended, or `cancel`.
async fn first_view(
    views: &mut watch::Receiver<Option<Arc<View>>>,
    progress: &Progress,
    cancel: &CancellationToken,
) -> bool {
    let mut steps = progress.steps();
    let mut moved = Instant::now();
    while moved.elapsed() < PATIENCE {
        tokio::select! {
            () = cancel.cancelled() => return false,
            seen = timeout(STEP, views.wait_for(Option::is_some)) => {
                if let Ok(seen) = seen {
                    return seen.is_ok();
                }
            }
        }
        if progress.steps() != steps || progress.is_parsing() {
            (steps, moved) = (progress.steps(), Instant::now());
        }
    }
    false
}

fn load(file: &StateFile) -> Option<Saved> {
    let started = Instant::now();
    let path = file.path().display();
    match file.load() {
        Ok(Some(saved)) if !saved.objects.is_empty() => {
            let (objects, took) = (saved.objects.len(), started.elapsed());
            tracing::info!(file = %path, objects, hash = saved.snapshot, ?took, "found the last good configuration");
            Some(saved)
        }
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(file = %path, %error, "the saved configuration cannot be used; it is written anew");
            None
        }
    }
}

/// Who waits for the first Snapshot to serve.
struct First(Option<oneshot::Sender<String>>);

impl First {
    fn tell(&mut self, control: &Control<ToGateway>) {
        if control.is_serving()
            && let Some(waiting) = self.0.take()
        {
            // Nobody waits while the process already ends.
            drop(waiting.send(control.hash()));
        }
    }
}

/// The data plane, for a writer on a thread of its own.
struct ToGateway {
    gateway: Arc<Gateway>,
    runtime: Handle,
}

impl Publish for ToGateway {
    fn publish(&self, snapshot: Arc<Snapshot>) -> Vec<Diagnostic> {
        tidegate_core::panic_point("reload", |subject| snapshot.listeners().iter().any(|it| &*it.name == subject));
        self.runtime.block_on(self.gateway.publish(snapshot))
    }

    fn is_settled(&self) -> bool {
        self.gateway.listeners().iter().all(|listener| listener.error.is_none())
    }

    fn reloaded(&self, reload: &Reload) {
        if !reload.success {
            self.gateway.config_rejected();
        } else if !reload.published {
            // A publication was counted when it happened.
            self.gateway.config_unchanged();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_that_stands_still_is_not_waited_for() {
        let (sender, mut views) = watch::channel(None);
        let (progress, cancel) = (Progress::default(), CancellationToken::new());
        assert!(!first_view(&mut views, &progress, &cancel).await);
        // Nor is one that has ended.
        drop(sender);
        assert!(!first_view(&mut views, &progress, &cancel).await);
    }

    #[tokio::test]
    async fn a_view_that_is_there_is_taken() {
        let (_sender, mut views) = watch::channel(Some(Arc::new(View::default())));
        let (progress, cancel) = (Progress::default(), CancellationToken::new());
        assert!(first_view(&mut views, &progress, &cancel).await);
    }

    #[tokio::test]
    async fn the_end_of_the_process_ends_the_wait() {
        let (_sender, mut views) = watch::channel(None);
        let (progress, cancel) = (Progress::default(), CancellationToken::new());
        cancel.cancel();
        assert!(!first_view(&mut views, &progress, &cancel).await);
    }
}
