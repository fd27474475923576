//! A state file is used whole or not at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tidegate_core::{Kind, ResourceKey};
use tidegate_mesh_bridge::files::{RootContent, SourceDocument};
use tidegate_resources::ParseOptions;

use super::file::LoadError;
use super::{Saving, StateFile, StateWriter};

fn namespace_key(name: &str) -> ResourceKey {
    ResourceKey::local(Kind::Namespace, "", name)
}

/// `count` namespaces, each in a document of its own that begins at line 10 times its number.
fn saved(snapshot: &str, count: u32) -> Saving {
    let file: Arc<str> = "conf/a.yaml".into();
    let objects: Vec<_> = (0..count)
        .map(|index| {
            let name = format!("n{index:03}");
            let text = format!("---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n");
            let document = SourceDocument {
                lines_before: index * 10,
                content: RootContent::Resources,
                text: text.into_boxed_str(),
            };
            (namespace_key(&name), file.clone(), Arc::new(document))
        })
        .collect();
    Saving::new(snapshot.into(), objects.iter().map(|(key, file, document)| (key, file, document)))
}

fn state_in(dir: &Path) -> StateFile {
    StateFile::at(dir.join("deep/er/last-good.state"))
}

/// Writes and waits until it is on the disk.
fn store(state: &StateFile, saved: Saving) {
    let writer = StateWriter::start(state.clone()).unwrap();
    writer.save(saved);
    drop(writer);
}

#[test]
fn what_is_written_is_read_back_with_its_places() {
    let dir = TempDir::new().unwrap();
    let state = state_in(dir.path());
    assert!(state.load().unwrap().is_none());
    store(&state, saved("abc", 20));
    let loaded = state.load().unwrap().unwrap();
    assert_eq!((loaded.snapshot.as_str(), loaded.objects.len()), ("abc", 20));
    let (first, last) = (namespace_key("n000"), namespace_key("n019"));
    let offers = loaded.offers(&[&first, &last], &ParseOptions::default());
    assert_eq!(offers.len(), 2);
    assert_eq!(offers[&last].object.origin.to_string(), "conf/a.yaml:192:1");
}

#[test]
fn nobody_else_may_read_it() {
    let dir = TempDir::new().unwrap();
    let state = state_in(dir.path());
    store(&state, saved("abc", 1));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(state.path()), 0o600);
    assert_eq!(mode(state.path().parent().unwrap()), 0o700);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let dir = TempDir::new().unwrap();
    let state = state_in(dir.path());
    store(&state, saved("abc", 40));
    let whole = fs::read(state.path()).unwrap();
    let samples = (0..200).chain((200..whole.len()).step_by(37)).chain([whole.len() - 1]);
    for length in samples {
        fs::write(state.path(), &whole[..length]).unwrap();
        assert!(state.load().is_err(), "cut to {length} of {} bytes", whole.len());
    }
    // As is a longer one.
    fs::write(state.path(), [whole.as_slice(), b"}"].concat()).unwrap();
    assert!(matches!(state.load(), Err(LoadError::Damaged(_))));
}

#[test]
fn a_changed_byte_anywhere_is_noticed() {
    let dir = TempDir::new().unwrap();
    let state = state_in(dir.path());
    store(&state, saved("abc", 40));
    let whole = fs::read(state.path()).unwrap();
    for at in (0..110).chain((110..whole.len()).step_by(53)) {
        for bit in [0, 3, 7] {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            fs::write(state.path(), &changed).unwrap();
            assert!(state.load().is_err(), "bit {bit} of byte {at}");
        }
    }
}

#[test]
fn what_is_no_state_is_refused_without_a_panic() {
    let dir = TempDir::new().unwrap();
    let state = state_in(dir.path());
    fs::create_dir_all(state.path().parent().unwrap()).unwrap();
    let empty = "tidegate-state 1 0000000000000000 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";
    let newer = empty.replace("state 1", "state 2");
    let inputs: [&[u8]; 6] = [b"", b"\n", &[0xff; 4096], &[b' '; 4096], empty.as_bytes(), newer.as_bytes()];
    for input in inputs {
        fs::write(state.path(), input).unwrap();
        assert!(state.load().is_err(), "{:?}", String::from_utf8_lossy(input));
    }
    fs::remove_file(state.path()).unwrap();
    fs::create_dir(state.path()).unwrap();
    assert!(matches!(state.load(), Err(LoadError::Read(_))));
    fs::remove_dir(state.path()).unwrap();
    let huge = fs::File::create(state.path()).unwrap();
    huge.set_len(1 << 31).unwrap();
    assert!(matches!(state.load(), Err(LoadError::TooLarge(_))));
}

#[test]
fn a_write_that_fails_or_stops_half_way_leaves_the_old_file() {
    let dir = TempDir::new().unwrap();
    let state = state_in(dir.path());
    store(&state, saved("old", 3));
    // A process that was killed while it wrote left this.
    let new = state.path().with_extension("new");
    fs::write(&new, b"tidegate-state 1 half").unwrap();
    assert_eq!(state.load().unwrap().unwrap().snapshot, "old");
    // A folder in the place of the new file makes every write fail.
    fs::remove_file(&new).unwrap();
    fs::create_dir(&new).unwrap();
    let writer = StateWriter::start(state.clone()).unwrap();
    writer.save(saved("new", 3));
    let deadline = Instant::now() + Duration::from_secs(20);
    while writer.error().is_none() {
        assert!(Instant::now() < deadline, "the failure is not told");
        std::thread::yield_now();
    }
    assert_eq!(state.load().unwrap().unwrap().snapshot, "old");
    // What could not be written is written at the end, once it can be.
    fs::remove_dir(&new).unwrap();
    drop(writer);
    assert_eq!(state.load().unwrap().unwrap().snapshot, "new");
}

#[test]
fn two_processes_do_not_write_one_file() {
    let dir = TempDir::new().unwrap();
    let state = state_in(dir.path());
    let first = StateWriter::start(state.clone()).unwrap();
    first.save(saved("first", 1));
    let deadline = Instant::now() + Duration::from_secs(20);
    while state.load().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the first does not write");
        std::thread::yield_now();
    }
    let second = StateWriter::start(state.clone()).unwrap();
    second.save(saved("second", 1));
    drop(second);
    assert_eq!(state.load().unwrap().unwrap().snapshot, "first");
    drop(first);
    store(&state, saved("second", 1));
    assert_eq!(state.load().unwrap().unwrap().snapshot, "second");
}

#[test]
fn readers_see_whole_files_while_it_is_rewritten() {
    let dir = TempDir::new().unwrap();
    let state = state_in(dir.path());
    let lock = state.lock().unwrap();
    state.replace(&saved("0", 1)).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 1..60u32 {
                state.replace(&saved(&round.to_string(), round)).unwrap();
            }
        });
        while !writer.is_finished() {
            let loaded = state.load().unwrap().unwrap();
            assert_eq!(loaded.objects.len() as u32, loaded.snapshot.parse::<u32>().unwrap().max(1));
        }
    });
    drop(lock);
}

/// Waits until nothing is left to be written.
fn written(state: &StateFile, snapshot: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while state.load().unwrap().is_none_or(|saved| saved.snapshot != snapshot) {
        assert!(Instant::now() < deadline, "{snapshot} is not written");
        std::thread::yield_now();
    }
}

/// Namespace `n<number>` in another form, or gone.
fn change(snapshot: &str, number: u32, form: Option<&str>) -> Saving {
    let file: Arc<str> = "conf/b.yaml".into();
    let document = form.map(|form| {
        let text =
            format!("---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: n{number:03}\n  labels: {{a: {form}}}\n");
        Arc::new(SourceDocument { lines_before: 3, content: RootContent::Resources, text: text.into_boxed_str() })
    });
    let key = namespace_key(&format!("n{number:03}"));
    Saving::changes(snapshot.into(), std::iter::once((key, document.as_ref().map(|document| (&file, document)))))
}

/// Keys with the label that each object has.
fn labels(state: &StateFile) -> Vec<(String, String)> {
    let loaded = state.load().unwrap().unwrap();
    let keys: Vec<_> = loaded.objects.keys().collect();
    let offers = loaded.offers(&keys, &ParseOptions::default());
    let label = |offer: &tidegate_mesh_bridge::files::Offer| offer.object.metadata.labels.get("a").cloned();
    offers.iter().map(|(key, offer)| (key.name.to_string(), label(offer).unwrap_or_default())).collect()
}

fn expected(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, label)| ((*name).to_owned(), (*label).to_owned())).collect()
}

/// Three namespaces, of which one changed twice, one is gone and a fourth has come since the whole was written.
fn changed(dir: &Path) -> StateFile {
    let state = state_in(dir);
    let writer = StateWriter::start(state.clone()).unwrap();
    assert!(writer.wants_whole());
    writer.save(saved("0", 3));
    assert!(!writer.wants_whole());
    let changes = [(1, Some("x")), (0, None), (7, Some("v")), (1, Some("z"))];
    for (step, (number, form)) in (1..).zip(changes) {
        // One by one, so that each is a frame of its own.
        written(&state, &(step - 1).to_string());
        writer.save(change(&step.to_string(), number, form));
    }
    drop(writer);
    state
}

#[test]
fn changes_are_read_back_over_the_whole() {
    let dir = TempDir::new().unwrap();
    let state = changed(dir.path());
    assert_eq!(state.load().unwrap().unwrap().snapshot, "4");
    assert_eq!(labels(&state), expected(&[("n001", "z"), ("n002", ""), ("n007", "v")]));
    let mode = fs::metadata(state.changes()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[test]
fn a_change_cut_anywhere_or_damaged_leaves_the_state_before_it() {
    let dir = TempDir::new().unwrap();
    let state = changed(dir.path());
    let all = fs::read(state.changes()).unwrap();
    let mut last = 0;
    for length in 0..=all.len() {
        fs::write(state.changes(), &all[..length]).unwrap();
        let loaded = state.load().unwrap().unwrap();
        let step: usize = loaded.snapshot.parse().unwrap();
        assert!(step == last || step == last + 1, "{length}: {last} then {step}");
        last = step;
        let present = ["n000", "n001", "n002", "n007"].map(|name| loaded.objects.contains_key(&namespace_key(name)));
        assert_eq!(present, [step < 2, true, true, step >= 3], "{length}");
    }
    assert_eq!(last, 4);
    for at in (0..all.len()).step_by(7) {
        let mut damaged = all.clone();
        damaged[at] ^= 4;
        fs::write(state.changes(), &damaged).unwrap();
        assert!(state.load().unwrap().unwrap().snapshot != "4", "byte {at}");
    }
}

#[test]
fn changes_of_another_whole_do_not_count() {
    let dir = TempDir::new().unwrap();
    let state = changed(dir.path());
    let changes = fs::read(state.changes()).unwrap();
    store(&state, saved("other", 2));
    fs::write(state.changes(), changes).unwrap();
    let loaded = state.load().unwrap().unwrap();
    assert_eq!((loaded.snapshot.as_str(), loaded.objects.len()), ("other", 2));
}

#[test]
fn what_waits_is_written_as_one() {
    let all = [
        saved("0", 3),
        change("1", 1, Some("x")),
        change("2", 0, None),
        change("3", 0, Some("w")),
        change("4", 2, None),
    ];
    let merged = |range: std::ops::Range<usize>| all[range].iter().cloned().reduce(Saving::merged).unwrap();
    for cut in 1..all.len() {
        let dir = TempDir::new().unwrap();
        let state = state_in(dir.path());
        let writer = StateWriter::start(state.clone()).unwrap();
        writer.save(merged(0..cut));
        written(&state, &(cut - 1).to_string());
        writer.save(merged(cut..all.len()));
        drop(writer);
        assert_eq!(state.load().unwrap().unwrap().snapshot, "4");
        assert_eq!(labels(&state), expected(&[("n000", "w"), ("n001", "x")]), "{cut}");
    }
}

#[test]
fn everything_is_written_anew_when_changes_have_grown_long_or_the_file_is_gone() {
    let dir = TempDir::new().unwrap();
    let state = state_in(dir.path());
    let writer = StateWriter::start(state.clone()).unwrap();
    writer.save(saved("0", 3));
    written(&state, "0");
    writer.save(change("1", 1, Some(&"x".repeat(300_000))));
    written(&state, "1");
    let deadline = Instant::now() + Duration::from_secs(20);
    let wanted = || {
        while !writer.wants_whole() {
            assert!(Instant::now() < deadline, "nothing is asked for");
            std::thread::yield_now();
        }
    };
    wanted();
    // What comes before it is still written.
    writer.save(change("2", 2, None));
    written(&state, "2");
    writer.save(saved("3", 3));
    written(&state, "3");
    assert!(!writer.wants_whole());
    fs::remove_file(state.path()).unwrap();
    writer.save(change("4", 2, None));
    wanted();
    assert!(writer.error().is_some());
    writer.save(saved("5", 3));
    drop(writer);
    assert_eq!(state.load().unwrap().unwrap().snapshot, "5");
}
