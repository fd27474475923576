//! When a look is taken: every wait here is for a view, with a deadline.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidegate_mesh_bridge::files::{FileSource, Limits, Root, View, WatchTiming, Watcher};
use tidegate_resources::ParseOptions;
use tokio::sync::watch;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

/// A watcher whose pass over everything never helps: what the tests see comes from events.
struct Watched {
    watcher: Watcher,
    views: watch::Receiver<Option<Arc<View>>>,
}

impl Watched {
    fn new(path: &Path) -> Self {
        let timing = WatchTiming { rescan: Duration::from_secs(3600), ..WatchTiming::default() };
        Self::with(path, timing)
    }

    fn with(path: &Path, timing: WatchTiming) -> Self {
        let source = FileSource::new(vec![Root::resources(path)], Limits::default(), ParseOptions::default());
        let watcher = Watcher::start(source, timing).unwrap();
        let views = watcher.views();
        Self { watcher, views }
    }

    /// Waits until the objects have these names.
    async fn sees(&mut self, expected: &[&str]) {
        let wait = self.views.wait_for(|view| view.as_ref().is_some_and(|view| names(view) == expected));
        if timeout(DEADLINE, wait).await.is_err() {
            panic!("waited for {expected:?}, seen: {:?}", self.views.borrow());
        }
    }

    async fn until(&mut self, what: &str, condition: impl Fn(&View) -> bool) {
        let wait = self.views.wait_for(|view| view.as_deref().is_some_and(&condition));
        if timeout(DEADLINE, wait).await.is_err() {
            panic!("waited until {what}, seen: {:?}", self.views.borrow());
        }
    }
}

fn names(view: &View) -> Vec<&str> {
    view.files.iter().flat_map(|file| &file.offers).map(|offer| &*offer.object.key.name).collect()
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n")
}

fn replace(dir: &Path, name: &str, text: &str) {
    let temporary = dir.join(format!(".{name}.new"));
    fs::write(&temporary, text).unwrap();
    fs::rename(temporary, dir.join(name)).unwrap();
}

#[tokio::test]
async fn writes_renames_and_deletions_are_seen() {
    let dir = TempDir::new().unwrap();
    let path = dir.path();
    fs::write(path.join("a.yaml"), namespace("a1")).unwrap();
    let mut watched = Watched::new(path);
    watched.sees(&["a1"]).await;
    fs::write(path.join("a.yaml"), namespace("a2")).unwrap();
    watched.sees(&["a2"]).await;
    replace(path, "a.yaml", &namespace("a3"));
    watched.sees(&["a3"]).await;
    fs::write(path.join("b.yaml"), namespace("b")).unwrap();
    watched.sees(&["a3", "b"]).await;
    // As vim writes: the old file is renamed to a backup, a new one takes its name.
    fs::rename(path.join("a.yaml"), path.join("a.yaml~")).unwrap();
    fs::write(path.join("a.yaml"), namespace("a4")).unwrap();
    watched.sees(&["a4", "b"]).await;
    fs::remove_file(path.join("b.yaml")).unwrap();
    watched.sees(&["a4"]).await;
    watched.watcher.stop(DEADLINE);
}

#[tokio::test]
async fn a_file_is_not_read_while_it_is_being_written() {
    let dir = TempDir::new().unwrap();
    let path = dir.path();
    fs::write(path.join("a.yaml"), namespace("a1")).unwrap();
    let timing =
        WatchTiming { rescan: Duration::from_secs(3600), hold: Duration::from_secs(3600), ..WatchTiming::default() };
    let mut watched = Watched::with(path, timing);
    watched.sees(&["a1"]).await;

    // Truncated, and half of the new text: what was there stands while another file comes in.
    let mut file = fs::File::create(path.join("a.yaml")).unwrap();
    let text = namespace("a2");
    let (first, second) = text.split_at(20);
    file.write_all(first.as_bytes()).unwrap();
    fs::write(path.join("b.yaml"), namespace("b")).unwrap();
    watched.sees(&["a1", "b"]).await;
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    watched.sees(&["a2", "b"]).await;
}

#[tokio::test]
async fn a_file_that_stays_open_is_read_in_the_end() {
    let dir = TempDir::new().unwrap();
    let timing = WatchTiming { hold: Duration::from_millis(100), ..WatchTiming::default() };
    let mut watched = Watched::with(dir.path(), timing);
    watched.until("there is a view", |_| true).await;
    let mut file = fs::File::create(dir.path().join("a.yaml")).unwrap();
    file.write_all(namespace("a").as_bytes()).unwrap();
    watched.sees(&["a"]).await;
    drop(file);
}

#[tokio::test]
async fn new_folders_are_watched() {
    let dir = TempDir::new().unwrap();
    let mut watched = Watched::new(dir.path());
    let deep = dir.path().join("x/y");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("a.yaml"), namespace("a1")).unwrap();
    watched.sees(&["a1"]).await;
    fs::write(deep.join("a.yaml"), namespace("a2")).unwrap();
    watched.sees(&["a2"]).await;
    fs::remove_dir_all(dir.path().join("x")).unwrap();
    watched.sees(&[]).await;
}

#[tokio::test]
async fn a_folder_that_is_replaced_or_comes_later_is_watched() {
    let dir = TempDir::new().unwrap();
    let conf = dir.path().join("not/yet/conf");
    let mut watched = Watched::new(&conf);
    watched.until("the folder is missed", View::is_blank).await;
    fs::create_dir_all(&conf).unwrap();
    fs::write(conf.join("a.yaml"), namespace("a")).unwrap();
    watched.sees(&["a"]).await;

    let next = dir.path().join("next");
    fs::create_dir(&next).unwrap();
    fs::write(next.join("b.yaml"), namespace("b")).unwrap();
    fs::rename(&conf, dir.path().join("old")).unwrap();
    watched.until("the folder is missed", View::is_blank).await;
    fs::rename(&next, &conf).unwrap();
    watched.sees(&["b"]).await;
    fs::write(conf.join("b.yaml"), namespace("b2")).unwrap();
    watched.sees(&["b2"]).await;
}

#[tokio::test]
async fn a_linked_root_and_a_kubernetes_volume_are_swapped() {
    let dir = TempDir::new().unwrap();
    let path = dir.path();
    for release in ["1", "2"] {
        fs::create_dir(path.join(release)).unwrap();
        fs::write(path.join(release).join("a.yaml"), namespace(&format!("r{release}"))).unwrap();
    }
    symlink("1", path.join("current")).unwrap();
    let mut watched = Watched::new(&path.join("current"));
    watched.sees(&["r1"]).await;
    symlink("2", path.join("next")).unwrap();
    fs::rename(path.join("next"), path.join("current")).unwrap();
    watched.sees(&["r2"]).await;

    let volume = TempDir::new().unwrap();
    let path = volume.path();
    for version in ["..v1", "..v2"] {
        fs::create_dir(path.join(version)).unwrap();
        fs::write(path.join(version).join("a.yaml"), namespace(&version[2..])).unwrap();
    }
    symlink("..v1", path.join("..data")).unwrap();
    symlink("..data/a.yaml", path.join("a.yaml")).unwrap();
    let mut watched = Watched::new(path);
    watched.sees(&["v1"]).await;
    symlink("..v2", path.join("..data_tmp")).unwrap();
    fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    fs::remove_dir_all(path.join("..v1")).unwrap();
    watched.sees(&["v2"]).await;
    // In place, behind the links.
    fs::write(path.join("..v2/a.yaml"), namespace("v3")).unwrap();
    watched.sees(&["v3"]).await;
}

#[tokio::test]
async fn a_single_file_is_watched_in_its_folder() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("gateway.conf");
    fs::write(&file, namespace("a")).unwrap();
    fs::write(dir.path().join("other.yaml"), namespace("other")).unwrap();
    let mut watched = Watched::new(&file);
    watched.sees(&["a"]).await;
    replace(dir.path(), "gateway.conf", &namespace("b"));
    watched.sees(&["b"]).await;
}

#[tokio::test]
async fn a_rescan_and_the_pass_over_everything_find_what_events_missed() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("a.yaml"), namespace("a")).unwrap();
    let deaf = WatchTiming {
        quiet: Duration::from_secs(3600),
        max_delay: Duration::from_secs(3600),
        rescan: Duration::from_secs(3600),
        ..WatchTiming::default()
    };
    let mut watched = Watched::with(dir.path(), deaf);
    watched.sees(&["a"]).await;
    fs::write(dir.path().join("a.yaml"), namespace("b")).unwrap();
    watched.watcher.rescan();
    watched.sees(&["b"]).await;

    let mut watched = Watched::with(dir.path(), WatchTiming { rescan: Duration::from_millis(50), ..deaf });
    watched.sees(&["b"]).await;
    fs::write(dir.path().join("a.yaml"), namespace("c")).unwrap();
    watched.sees(&["c"]).await;
}
