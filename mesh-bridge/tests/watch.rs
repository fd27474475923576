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
    // Renamed into its place: a file that is open when the look comes is left alone until an event says that it is closed.
    replace(dir.path(), "a.yaml", &namespace("b"));
    watched.watcher.rescan();
    watched.sees(&["b"]).await;

    let mut watched = Watched::with(dir.path(), WatchTiming { rescan: Duration::from_millis(50), ..deaf });
    watched.sees(&["b"]).await;
    replace(dir.path(), "a.yaml", &namespace("c"));
    watched.sees(&["c"]).await;
}

/// What events name is looked at alone. Whatever happens, that comes to what a look at everything comes to.
#[tokio::test]
async fn looks_at_single_files_agree_with_a_look_at_everything() {
    let dir = TempDir::new().unwrap();
    let path = dir.path();
    fs::create_dir(path.join("sub")).unwrap();
    fs::write(path.join("a.yaml"), namespace("a")).unwrap();
    let mut watched = Watched::new(path);
    watched.sees(&["a"]).await;
    let mut random = 11u64;
    let mut next = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    for step in 0..150 {
        for _ in 0..=next(2) {
            let folder = if next(3) == 0 { path.join("sub") } else { path.to_owned() };
            let file = folder.join(format!("{}.yaml", ["b", "c", "d", ".e", "f~"][next(5) as usize]));
            let text = namespace(&format!("n{step}-{}", next(3)));
            let _ = fs::create_dir(&folder);
            match next(10) {
                0 | 1 => drop(fs::remove_file(&file)),
                2 => drop(fs::rename(&file, folder.join("z.yaml"))),
                3 => drop(fs::hard_link(&file, folder.join("linked.yaml"))),
                4 => drop(symlink(&file, folder.join("soft.yaml"))),
                5 => drop(fs::write(folder.join("note.txt"), "x")),
                6 if next(3) == 0 => drop(fs::remove_dir_all(path.join("sub"))),
                7 => fs::write(&file, "kind: [").unwrap(),
                _ => fs::write(&file, text).unwrap(),
            }
        }
        // The last to be seen: what came before it has been seen then.
        replace(path, "mark.yaml", &namespace(&format!("mark{step}")));
        let everything = |view: &View| -> Vec<String> {
            view.files.iter().map(|file| format!("{} {:?} {:?}", file.file, file.offers, file.diagnostics)).collect()
        };
        let expected = FileSource::new(vec![Root::resources(path)], Limits::default(), ParseOptions::default()).scan();
        let (expected, gaps) = (everything(&expected), expected.gaps.len());
        let agrees = |view: &View| everything(view) == expected && view.gaps.len() == gaps;
        watched.until(&format!("step {step} is seen: {expected:#?}"), agrees).await;
    }
}

#[tokio::test]
async fn a_change_of_one_file_looks_at_that_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path();
    (0..300).for_each(|at| fs::write(path.join(format!("{at}.yaml")), namespace(&format!("n{at}"))).unwrap());
    let mut watched = Watched::new(path);
    watched.until("all are there", |view| view.files.len() == 300).await;
    // The watch was placed after the first look, so that there is a second.
    replace(path, "7.yaml", &namespace("changed"));
    watched.until("it is seen", |view| names(view).contains(&"changed")).await;
    let before = watched.watcher.progress().steps();
    for round in 0..3 {
        replace(path, "7.yaml", &namespace(&format!("again{round}")));
        watched.until("it is seen", |view| names(view).contains(&&*format!("again{round}"))).await;
    }
    let steps = watched.watcher.progress().steps() - before;
    assert!(steps <= 12, "{steps}");
    fs::remove_file(path.join("8.yaml")).unwrap();
    watched.until("it is gone", |view| view.files.len() == 299).await;
    assert!(watched.watcher.progress().steps() - before <= 12);
}
