//! What one look at files and folders sees.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tidegate_core::{Code, Level};
use tidegate_mesh_bridge::files::{FileSource, FileView, GapKind, Limits, Root, Understanding, View, reread};
use tidegate_resources::ParseOptions;

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n")
}

fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn source(dir: &TempDir) -> FileSource {
    source_of(vec![Root::resources(dir.path())])
}

fn source_of(roots: Vec<Root>) -> FileSource {
    FileSource::new(roots, Limits::default(), ParseOptions::default())
}

/// Names of the offered objects, in the order of the view.
fn names(view: &View) -> Vec<&str> {
    view.files.iter().flat_map(|file| &file.offers).map(|offer| &*offer.object.key.name).collect()
}

fn file<'v>(view: &'v View, dir: &TempDir, name: &str) -> &'v Arc<FileView> {
    view.file(dir.path().join(name).to_str().unwrap()).unwrap_or_else(|| panic!("{name} is not in {view:#?}"))
}

fn messages(view: &View) -> String {
    view.all_diagnostics().map(|finding| format!("{finding}\n")).collect()
}

#[test]
fn files_are_read_recursively_in_the_order_of_paths() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "b.yaml", namespace("b"));
    write(dir.path(), "a/z.yml", namespace("z"));
    write(dir.path(), "a/deep/er/y.YAML", namespace("w"));
    write(dir.path(), "c.json", r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"c"}}"#);
    write(dir.path(), "README.md", "not configuration");
    let view = source(&dir).scan();
    assert_eq!(names(&view), ["w", "z", "b", "c"]);
    assert_eq!(messages(&view), "");
    assert!(!view.blind);
}

#[test]
fn droppings_of_editors_are_not_read() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "a.yaml", namespace("a"));
    for dropping in [".#a.yaml", "#a.yaml#", "a.yaml~", ".a.yaml.swp", "4913", ".git/x.yaml", ".hidden.yaml"] {
        write(dir.path(), dropping, "{ broken: [");
    }
    let view = source(&dir).scan();
    assert_eq!(names(&view), ["a"]);
    assert_eq!(messages(&view), "");
}

#[test]
fn an_unchanged_file_keeps_its_view() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "a.yaml", namespace("a"));
    write(dir.path(), "b.yaml", namespace("b"));
    let mut source = source(&dir);
    let first = source.scan();
    write(dir.path(), "b.yaml", namespace("changed"));
    let second = source.scan();
    assert!(Arc::ptr_eq(file(&first, &dir, "a.yaml"), file(&second, &dir, "a.yaml")));
    assert_eq!(names(&second), ["a", "changed"]);
    assert!(!second.is_same(&first));
    // Written anew with the same content.
    write(dir.path(), "b.yaml", namespace("changed"));
    assert!(source.scan().is_same(&second));
}

#[test]
fn a_change_of_equal_length_within_a_tick_of_the_clock_is_seen() {
    let dir = TempDir::new().unwrap();
    let mut source = source(&dir);
    for round in 0..50 {
        let name = format!("n{round:02}");
        write(dir.path(), "a.yaml", namespace(&name));
        assert_eq!(names(&source.scan()), [name]);
    }
}

#[test]
fn a_deleted_file_is_no_longer_seen() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "a.yaml", namespace("a"));
    write(dir.path(), "b.yaml", namespace("b"));
    let mut source = source(&dir);
    source.scan();
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    let view = source.scan();
    assert_eq!(names(&view), ["b"]);
    assert!(view.gaps.is_empty());
    // The last one too: the folder is the one that it was in.
    fs::remove_file(dir.path().join("b.yaml")).unwrap();
    let view = source.scan();
    assert!(view.files.is_empty() && view.gaps.is_empty() && !view.blind);
}

#[test]
fn a_folder_that_vanishes_is_a_gap_until_it_is_back() {
    let dir = TempDir::new().unwrap();
    let conf = dir.path().join("conf");
    write(&conf, "a.yaml", namespace("a"));
    let mut source = source_of(vec![Root::resources(&conf)]);
    source.scan();

    fs::rename(&conf, dir.path().join("away")).unwrap();
    let view = source.scan();
    assert!(view.blind && view.is_blank());
    assert_eq!(view.gaps[0].kind, GapKind::Unreadable);
    let inside = conf.join("a.yaml");
    assert!(view.gap_over(inside.to_str().unwrap()).is_some());
    assert!(messages(&view).contains("Error [TG0008]"), "{}", messages(&view));

    // The first half of a replacement, or a volume that is not mounted.
    fs::create_dir(&conf).unwrap();
    let view = source.scan();
    assert!(view.blind && !view.is_blank());
    assert_eq!(view.gaps[0].kind, GapKind::Empty);

    write(&conf, "b.yaml", namespace("b"));
    let view = source.scan();
    assert_eq!(names(&view), ["b"]);
    assert!(view.gaps.is_empty());
}

#[test]
fn a_kubernetes_volume_is_read_once_and_swapped_as_a_whole() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "..2026_01/gateway.yaml", namespace("old"));
    symlink("..2026_01", dir.path().join("..data")).unwrap();
    symlink("..data/gateway.yaml", dir.path().join("gateway.yaml")).unwrap();
    let mut source = source(&dir);
    assert_eq!(names(&source.scan()), ["old"]);

    write(dir.path(), "..2026_02/gateway.yaml", namespace("new"));
    symlink("..2026_02", dir.path().join("..data_tmp")).unwrap();
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    let view = source.scan();
    assert_eq!(names(&view), ["new"]);
    assert_eq!(messages(&view), "");
}

#[test]
fn symbolic_links_are_followed_and_loops_are_not() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "conf/a.yaml", namespace("a"));
    write(dir.path(), "shared/s.yaml", namespace("s"));
    let conf = dir.path().join("conf");
    symlink("../shared", conf.join("linked")).unwrap();
    symlink(".", conf.join("loop")).unwrap();
    symlink("../conf", dir.path().join("shared/back")).unwrap();
    symlink("self.yaml", conf.join("self.yaml")).unwrap();
    symlink("nowhere.yaml", conf.join("dangling.yaml")).unwrap();
    symlink("nowhere", conf.join("dangling")).unwrap();
    let view = source_of(vec![Root::resources(&conf)]).scan();
    assert_eq!(names(&view), ["a", "s"]);
    assert!(
        messages(&view).contains("loop) the symbolic link leads to a folder that contains it"),
        "{}",
        messages(&view)
    );
    let gaps: BTreeSet<_> = view.gaps.iter().map(|gap| gap.path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(gaps, BTreeSet::from(["dangling.yaml", "self.yaml"]));
}

#[test]
fn a_link_to_the_folder_above_is_not_followed() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "conf/a.yaml", namespace("a"));
    write(dir.path(), "other/b.yaml", namespace("b"));
    symlink("..", dir.path().join("conf/up")).unwrap();
    let view = source_of(vec![Root::resources(dir.path().join("conf"))]).scan();
    assert_eq!(names(&view), ["a"]);
    assert_eq!(view.diagnostics.len(), 1, "{view:?}");
}

#[test]
fn roots_within_roots_are_neither_read_twice_nor_empty() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "sub/a.yaml", namespace("a"));
    let sub = dir.path().join("sub");
    let file = sub.join("a.yaml");
    for roots in [[&file, &sub], [&sub, &file], [&dir.path().to_owned(), &sub], [&sub, &dir.path().to_owned()]] {
        let view = source_of(roots.map(Root::resources).into()).scan();
        assert_eq!(names(&view), ["a"], "{roots:?}");
        assert_eq!(messages(&view), "", "{roots:?}");
    }
}

#[test]
fn a_file_that_two_roots_name_is_read_once() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "a.yaml", namespace("a"));
    let roots = vec![Root::resources(dir.path()), Root::resources(dir.path().join("a.yaml"))];
    assert_eq!(names(&source_of(roots).scan()), ["a"]);
}

#[test]
fn one_broken_document_takes_nothing_from_its_neighbours() {
    let dir = TempDir::new().unwrap();
    let text = format!("{}---\nkind: [\n---\n{}", namespace("a"), namespace("b"));
    write(dir.path(), "a.yaml", text);
    let view = source(&dir).scan();
    assert_eq!(names(&view), ["a", "b"]);
    let file = file(&view, &dir, "a.yaml");
    assert!(matches!(&file.understanding, Understanding::Partly(unnamed) if unnamed.len() == 1), "{file:?}");
}

#[test]
fn an_object_that_breaks_a_rule_is_named_and_not_offered() {
    let dir = TempDir::new().unwrap();
    let bad = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: v\nspec:\n  hosts: []\n";
    let worse = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: w\nspec:\n  hots: []\n";
    write(dir.path(), "a.yaml", format!("{}---\n{bad}---\n{worse}", namespace("a")));
    let view = source(&dir).scan();
    assert_eq!(names(&view), ["a"]);
    let file = file(&view, &dir, "a.yaml");
    let rejected: Vec<_> = file.rejected.iter().map(ToString::to_string).collect();
    assert_eq!(rejected, ["VirtualService default/v", "VirtualService default/w"]);
    assert_eq!(file.understanding, Understanding::Whole);
    assert!(file.diagnostics.iter().all(|finding| finding.origin.position.line > 0), "{:?}", file.diagnostics);
}

#[test]
fn what_is_no_text_is_refused_by_name() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "good.yaml", namespace("good"));
    write(dir.path(), "binary.yaml", b"\x7fELF\x00\x01\x02");
    write(dir.path(), "latin1.yaml", b"# caf\xe9\n");
    let view = source(&dir).scan();
    assert_eq!(names(&view), ["good"]);
    for name in ["binary.yaml", "latin1.yaml"] {
        let file = file(&view, &dir, name);
        assert_eq!(file.understanding, Understanding::Not, "{name}");
        assert!(file.diagnostics.iter().any(|d| d.level == Level::Error && d.help.is_some()), "{name}: {file:?}");
    }
}

#[test]
fn a_file_of_one_gibibyte_is_refused_without_being_read() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "good.yaml", namespace("good"));
    let huge = fs::File::create(dir.path().join("huge.yaml")).unwrap();
    huge.set_len(1 << 30).unwrap();
    let view = source(&dir).scan();
    assert_eq!(names(&view), ["good"]);
    let finding = &file(&view, &dir, "huge.yaml").diagnostics[0];
    assert_eq!((finding.code, finding.level), (Code::SYNTAX, Level::Error));
    assert!(finding.message.contains("1024 MiB"), "{finding}");
}

#[test]
fn all_files_together_are_bounded() {
    let dir = TempDir::new().unwrap();
    for name in ["a", "b", "c"] {
        write(dir.path(), &format!("{name}.yaml"), namespace(name));
    }
    let limits = Limits { total_bytes: namespace("a").len() as u64 * 2, ..Limits::default() };
    let mut source = FileSource::new(vec![Root::resources(dir.path())], limits, ParseOptions::default());
    let view = source.scan();
    assert_eq!(names(&view), ["a", "b"]);
    assert_eq!(file(&view, &dir, "c.yaml").understanding, Understanding::Not);
    assert!(source.scan().is_same(&view));
}

#[test]
fn a_walk_at_the_wrong_place_ends() {
    let dir = TempDir::new().unwrap();
    for index in 0..30 {
        write(dir.path(), &format!("f{index:02}/a.yaml"), namespace(&format!("n{index}")));
    }
    let limits = Limits { entries: 20, ..Limits::default() };
    let view = FileSource::new(vec![Root::resources(dir.path())], limits, ParseOptions::default()).scan();
    assert!(messages(&view).contains("more than 20"), "{}", messages(&view));

    let deep: String = (0..40).map(|_| "d/").collect();
    write(dir.path(), &format!("{deep}a.yaml"), namespace("deep"));
    let view = source(&dir).scan();
    assert!(messages(&view).contains("32 folders deep"), "{}", messages(&view));
}

#[test]
fn a_pipe_is_not_waited_for() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "a.yaml", namespace("a"));
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket.yaml")).unwrap();
    let view = source(&dir).scan();
    assert_eq!(names(&view), ["a"]);
    assert!(messages(&view).contains("not a file"), "{}", messages(&view));
}

#[test]
fn what_may_not_be_read_is_a_gap_and_not_a_deletion() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "secret/a.yaml", namespace("a"));
    write(dir.path(), "b.yaml", namespace("b"));
    let mut source = source(&dir);
    source.scan();
    let folder = dir.path().join("secret");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(dir.path().join("b.yaml"), fs::Permissions::from_mode(0o000)).unwrap();
    let is_root = fs::read_dir(&folder).is_ok();
    let view = source.scan();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    if is_root {
        println!("root reads everything; nothing to see here");
        return;
    }
    assert!(view.gap_over(folder.join("a.yaml").to_str().unwrap()).is_some());
    assert_eq!(file(&view, &dir, "b.yaml").understanding, Understanding::Not);
}

#[test]
fn a_kept_document_gives_its_objects_back_at_their_places() {
    let dir = TempDir::new().unwrap();
    let mut text = fs::File::create(dir.path().join("a.yaml")).unwrap();
    writeln!(text, "# a comment\n{}---\n# another\n{}", namespace("a"), namespace("b")).unwrap();
    writeln!(text, "---\napiVersion: v1\nkind: List\nitems:\n- {}", namespace("c").trim().replace('\n', "\n  "))
        .unwrap();
    let view = source(&dir).scan();
    assert_eq!(names(&view), ["a", "b", "c"]);
    let file = file(&view, &dir, "a.yaml");
    for offer in &file.offers {
        let document = offer.document.as_ref().unwrap();
        let again = reread(&file.file, document, &ParseOptions::default());
        assert_eq!(again.len(), 1);
        let again = &again[0].object;
        assert_eq!((&again.key, &again.origin), (&offer.object.key, &offer.object.origin));
        assert_eq!(again.spans, offer.object.spans);
    }
}

#[test]
fn a_document_with_a_secret_is_not_kept() {
    let dir = TempDir::new().unwrap();
    let secret = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  key: hunter2\n";
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n",
        namespace("a").trim().replace('\n', "\n  "),
        secret.trim().replace('\n', "\n  ")
    );
    // Written so that no line tells what it is.
    let hidden = list.replace("kind: Secret", "kind:\n    Secret");
    assert_ne!(hidden, list);
    write(dir.path(), "a.yaml", format!("{secret}---\n{}---\n{list}---\n{hidden}", namespace("b")));
    let view = source(&dir).scan();
    let file = file(&view, &dir, "a.yaml");
    assert_eq!(names(&view), ["s", "b", "a", "s", "a", "s"], "{}", messages(&view));
    let kept: Vec<_> = file.offers.iter().map(|offer| offer.document.is_some()).collect();
    assert_eq!(kept, [false, true, false, false, false, false]);
}

#[test]
fn a_document_with_a_broken_secret_is_not_kept_and_one_that_names_the_kind_is() {
    let dir = TempDir::new().unwrap();
    let secret = "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  key: [hunter2]\n";
    let item = |text: &str| text.trim().replace('\n', "\n  ");
    let list = format!("apiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n", item(&namespace("a")), item(secret));
    let unnamed = list.replace("name: s", "labels: {}");
    let grant = "apiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nmetadata:\n  name: g\nspec:\n  from:\n  \
                 - {group: networking.istio.io, kind: Gateway, namespace: web}\n  to:\n  - group: ''\n    kind: Secret\n";
    write(dir.path(), "a.yaml", format!("{list}---\n{unnamed}---\n{grant}"));
    let view = source(&dir).scan();
    assert_eq!(names(&view), ["a", "a", "g"], "{}", messages(&view));
    let offers = &file(&view, &dir, "a.yaml").offers;
    assert_eq!(offers.iter().map(|offer| offer.document.is_some()).collect::<Vec<_>>(), [false, false, true]);
}

#[test]
fn mesh_settings_are_a_root_of_their_own() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "mesh.conf", "accessLogFile: /dev/stdout\n");
    let mesh = dir.path().join("mesh.conf");
    let mut source = source_of(vec![Root::mesh_config(&mesh)]);
    let view = source.scan();
    assert_eq!(messages(&view), "");
    assert_eq!(names(&view).len(), 1);
    fs::remove_file(&mesh).unwrap();
    let view = source.scan();
    assert!(view.gap_over(mesh.to_str().unwrap()).is_some());
}

#[test]
fn a_change_in_a_file_leaves_the_other_documents_objects() {
    let dir = TempDir::new().unwrap();
    let text = |last: &str| format!("{}---\n{}---\nkind: [\n---\n{}", namespace("a"), namespace("b"), namespace(last));
    write(dir.path(), "a.yaml", text("c"));
    let mut source = source(&dir);
    let first = source.scan();
    write(dir.path(), "a.yaml", text("d"));
    let second = source.scan();
    assert_eq!(names(&second), ["a", "b", "d"]);
    let objects = |view: &View| file(view, &dir, "a.yaml").offers.iter().map(|o| o.object.clone()).collect::<Vec<_>>();
    let (first, second) = (objects(&first), objects(&second));
    assert!(Arc::ptr_eq(&first[0], &second[0]) && Arc::ptr_eq(&first[1], &second[1]));
}

#[test]
fn a_file_that_changes_piece_by_piece_is_seen_as_if_it_were_new() {
    let dir = TempDir::new().unwrap();
    let service =
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: v\nspec:\n  hosts: []\n";
    let pieces = [
        &*namespace("a"),
        &namespace("b"),
        &namespace("c"),
        "",
        "# a comment\n",
        "kind: [\n",
        "this: is none\n",
        service,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: d\n",
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n",
    ];
    let mut kept = source(&dir);
    // A fixed sequence without an obvious order (Knuth's multiplicative generator).
    let mut state = 1u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut documents: Vec<&str> = pieces.to_vec();
    for _ in 0..300 {
        let at = random(documents.len());
        match random(3) {
            0 => documents[at] = pieces[random(pieces.len())],
            1 if documents.len() > 3 => drop(documents.remove(at)),
            _ => documents.insert(at, pieces[random(pieces.len())]),
        }
        documents.truncate(20);
        write(dir.path(), "a.yaml", documents.join("---\n"));
        let (now, new) = (kept.scan(), source(&dir).scan());
        assert_eq!(messages(&now), messages(&new));
        let (now, new) = (file(&now, &dir, "a.yaml"), file(&new, &dir, "a.yaml"));
        assert_eq!(now.understanding, new.understanding);
        assert_eq!((&now.rejected, &now.skipped), (&new.rejected, &new.skipped));
        assert_eq!(now.offers.len(), new.offers.len());
        for (now, new) in now.offers.iter().zip(&new.offers) {
            assert_eq!((&now.object.key, &now.object.origin), (&new.object.key, &new.object.origin));
            assert_eq!(now.document, new.document);
        }
    }
}

#[test]
fn errors_without_a_name_are_told_up_to_a_number() {
    let dir = TempDir::new().unwrap();
    write(dir.path(), "a.yaml", format!("{}{}", "kind: [\n---\n".repeat(5000), namespace("a")));
    let view = source(&dir).scan();
    assert_eq!(names(&view), ["a"]);
    let file = file(&view, &dir, "a.yaml");
    assert_eq!(file.diagnostics.len(), 21);
    assert!(file.diagnostics[20].message.contains("4980 more"), "{}", file.diagnostics[20]);
}

#[test]
fn a_volume_that_is_swapped_meanwhile_is_never_seen_in_two_versions() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_owned();
    let versions = 40;
    for version in 0..versions {
        for name in ["a", "b", "c"] {
            write(&path, &format!("..v{version}/{name}.yaml"), namespace(&format!("{name}{version}")));
        }
    }
    for name in ["a", "b", "c"] {
        symlink(format!("..data/{name}.yaml"), path.join(format!("{name}.yaml"))).unwrap();
    }
    symlink("..v0", path.join("..data")).unwrap();
    let mut source = source(&dir);
    std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            for version in 1..versions {
                symlink(format!("..v{version}"), path.join("..data_tmp")).unwrap();
                fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
                // Kubernetes swaps once a minute; a hundred times a second is enough to be caught in the middle.
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        });
        while !swapper.is_finished() {
            let view = source.scan();
            let seen: BTreeSet<_> = names(&view).iter().map(|name| name[1..].to_owned()).collect();
            assert_eq!(seen.len(), 1, "{:?}", names(&view));
        }
    });
    assert_eq!(names(&source.scan()), ["a39", "b39", "c39"]);
}
