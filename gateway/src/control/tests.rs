//! Last good, from files to what is published.

mod following;

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tidegate_admin::ConfigStatus;
use tidegate_core::{Code, Diagnostic, Level};
use tidegate_mesh_bridge::files::{FileSource, Limits, Root};
use tidegate_resources::ParseOptions;
use tidegate_snapshot::Snapshot;

use super::{Control, Publish, Reload, StatusCell};
use crate::run::ReadOptions;
use crate::secrets::Secrets;
use crate::state::{Saved, StateFile, StateWriter};

/// Remembers what is published.
#[derive(Default)]
struct Recorder {
    snapshots: RefCell<Vec<Arc<Snapshot>>>,
    /// Whether the next publication panics.
    panics: Cell<bool>,
}

impl Publish for Recorder {
    fn publish(&self, snapshot: Arc<Snapshot>) -> Vec<Diagnostic> {
        assert!(!self.panics.take(), "a bug");
        self.snapshots.borrow_mut().push(snapshot);
        Vec::new()
    }

    fn is_settled(&self) -> bool {
        true
    }

    fn reloaded(&self, _: &Reload) {}
}

/// A folder and the writer over it.
struct Bench {
    dir: TempDir,
    source: FileSource,
    control: Control<Recorder>,
    status: StatusCell,
    saved: Option<Saved>,
}

impl Bench {
    fn new() -> Self {
        Self::in_dir(TempDir::new().unwrap(), None)
    }

    /// A process that starts over `dir/conf`, with `dir/state` if `state`.
    fn in_dir(dir: TempDir, state: Option<&StateFile>) -> Self {
        let conf = dir.path().join("conf");
        let source = FileSource::new(vec![Root::resources(conf)], Limits::default(), ParseOptions::default());
        let status = StatusCell::new(vec!["conf".into()]);
        let writer = state.map(|state| StateWriter::start(state.clone()).unwrap());
        let secrets = Arc::new(Secrets::new(Arc::default()));
        let control = Control::new(&ReadOptions::default(), Recorder::default(), secrets, status.clone(), writer);
        let saved = state.and_then(|state| state.load().unwrap());
        fs::create_dir_all(dir.path().join("conf")).unwrap();
        Self { dir, source, control, status, saved }
    }

    fn conf(&self) -> PathBuf {
        self.dir.path().join("conf")
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.conf().join(file), text).unwrap();
    }

    fn look(&mut self) -> Arc<ConfigStatus> {
        let view = self.source.scan();
        self.control.secrets.apply(&view, self.saved.as_ref());
        self.control.apply(&view, self.saved.take().as_ref());
        self.status.get()
    }

    fn publications(&self) -> usize {
        self.control.publisher.snapshots.borrow().len()
    }

    /// The hosts of all routes that serve, with the clusters that they name.
    fn hosts(&self) -> Vec<String> {
        let snapshots = self.control.publisher.snapshots.borrow();
        let Some(snapshot) = snapshots.last() else { return Vec::new() };
        let tables = snapshot.listeners().iter().flat_map(|listener| listener.filter_chains());
        let hosts = tables.flat_map(|chain| chain.route_table().unwrap().virtual_hosts());
        let mut names: Vec<_> = hosts.filter(|host| !host.routes().is_empty()).map(|host| host.name.clone()).collect();
        names.sort();
        names
    }
}

const GATEWAY: &str = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata:\n  name: g\nspec:\n  servers:\n  \
                       - port: {number: 80, name: http, protocol: HTTP}\n    hosts: ['*']\n";

fn route(name: &str) -> String {
    route_to(name, &format!("{name}.test"))
}

fn route_to(name: &str, host: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {name}\nspec:\n  \
         hosts: [{host}]\n  gateways: [g]\n  http:\n  - name: r\n    directResponse: {{status: 200}}\n"
    )
}

fn invalid(name: &str) -> String {
    route(name).replace("status: 200", "status: 9999")
}

fn undecodable(name: &str) -> String {
    route(name).replace("hosts:", "hots:")
}

fn has(status: &ConfigStatus, code: Code, level: Level) -> bool {
    status.diagnostics.iter().any(|finding| finding.code == code && finding.level == level)
}

#[test]
fn a_panic_costs_one_view_and_the_next_one_serves() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &format!("{GATEWAY}{}", route("a")));
    let before = bench.look();
    bench.write("b.yaml", &route("b"));
    bench.control.publisher.panics.set(true);
    let status = bench.look();
    assert_eq!((status.generation, &status.hash), (1, &before.hash));
    assert!(has(&status, Code::ENVIRONMENT, Level::Error));
    assert_eq!(bench.hosts(), ["a.test:80"]);
    // Nothing is new in it, and it has not served yet.
    let status = bench.look();
    assert_eq!(status.generation, 2);
    assert!(!has(&status, Code::ENVIRONMENT, Level::Error));
    assert_eq!(bench.hosts(), ["a.test:80", "b.test:80"]);
    assert_eq!(bench.look().generation, 2);
}

#[test]
fn equal_content_publishes_nothing() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &format!("{GATEWAY}{}", route("a")));
    assert_eq!(bench.look().generation, 1);
    // The same bytes, a comment at the end, the same objects in another file.
    bench.write("a.yaml", &format!("{GATEWAY}{}", route("a")));
    assert_eq!(bench.look().generation, 1);
    assert_eq!(bench.publications(), 1);
    bench.write("a.yaml", &format!("{GATEWAY}{}# the end\n", route("a")));
    assert_eq!(bench.look().generation, 1);
    assert_eq!(bench.publications(), 1);
    // Lines that moved are told to whoever explains, and are no new generation.
    bench.write("a.yaml", &format!("# a comment\n{GATEWAY}{}", route("a")));
    assert_eq!(bench.look().generation, 1);
    assert_eq!(bench.publications(), 2);
    bench.write("a.yaml", &format!("{GATEWAY}{}", route("b")));
    assert_eq!(bench.look().generation, 2);
}

#[test]
fn a_rejected_object_keeps_its_last_good_form_and_the_others_move_on() {
    for broken in [invalid("a"), undecodable("a")] {
        let mut bench = Bench::new();
        bench.write("a.yaml", &format!("{GATEWAY}{}{}", route("a"), route("b")));
        assert!(bench.look().last_reload.as_ref().unwrap().success);
        bench.write("a.yaml", &format!("{GATEWAY}{broken}{}", route_to("b", "b2.test")));
        let status = bench.look();
        assert_eq!(bench.hosts(), ["a.test:80", "b2.test:80"], "{broken}");
        assert!(has(&status, Code::LAST_GOOD_KEPT, Level::Warning));
        assert!(status.serving_last_good.is_some());
        assert!(!status.last_reload.as_ref().unwrap().success);
        let kept = status.objects.iter().find(|count| count.kind == "VirtualService").unwrap();
        assert_eq!((kept.accepted, kept.last_good, kept.rejected), (1, 1, 0));
        // Mended.
        bench.write("a.yaml", &format!("{GATEWAY}{}{}", route_to("a", "a2.test"), route("b")));
        let status = bench.look();
        assert_eq!(bench.hosts(), ["a2.test:80", "b.test:80"]);
        assert_eq!(status.serving_last_good, None);
        assert!(status.last_reload.as_ref().unwrap().success);
    }
}

#[test]
fn a_reference_to_nothing_is_told_and_is_no_failed_reload() {
    let mut bench = Bench::new();
    let to_nothing = route("a").replace("directResponse: {status: 200}", "route: [{destination: {host: gone}}]");
    bench.write("a.yaml", &format!("{GATEWAY}{to_nothing}"));
    let status = bench.look();
    assert!(has(&status, Code::REFERENCE_NOT_FOUND, Level::Error), "{:?}", status.diagnostics);
    assert!(status.last_reload.as_ref().unwrap().success, "everything that was read serves");
}

#[test]
fn an_object_that_was_never_good_does_not_serve() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &format!("{GATEWAY}{}{}", invalid("a"), route("b")));
    let status = bench.look();
    assert_eq!(bench.hosts(), ["b.test:80"]);
    let count = status.objects.iter().find(|count| count.kind == "VirtualService").unwrap();
    assert_eq!((count.accepted, count.last_good, count.rejected), (1, 0, 1));
}

#[test]
fn a_broken_file_takes_nothing_away() {
    let broken: [&[u8]; 4] = [b"a: [", b"\0\0", b"{", b"\xff\xfe"];
    for broken in broken {
        let mut bench = Bench::new();
        bench.write("g.yaml", GATEWAY);
        bench.write("a.yaml", &format!("{}{}", route("a"), route("b")));
        bench.look();
        fs::write(bench.conf().join("a.yaml"), broken).unwrap();
        let status = bench.look();
        assert_eq!(bench.hosts(), ["a.test:80", "b.test:80"], "{broken:?}");
        assert!(has(&status, Code::LAST_GOOD_KEPT, Level::Warning), "{broken:?}");
        // And the next good content counts as a whole.
        bench.write("a.yaml", &route("b"));
        bench.look();
        assert_eq!(bench.hosts(), ["b.test:80"]);
    }
}

#[test]
fn deletion_works_beside_a_document_that_was_always_broken() {
    let mut bench = Bench::new();
    let junk = "---\nthis: is no resource\n";
    bench.write("a.yaml", &format!("{GATEWAY}{}{}{junk}", route("a"), route("b")));
    bench.look();
    bench.write("a.yaml", &format!("{GATEWAY}{}{junk}", route("a")));
    bench.look();
    assert_eq!(bench.hosts(), ["a.test:80"]);
    // A document that broke just now may be the one that is missing, and stays so until it is mended.
    for text in [format!("{GATEWAY}---\nkind: [\n{junk}"), format!("{GATEWAY}---\nkind: [ \n{junk}")] {
        bench.write("a.yaml", &text);
        bench.look();
        assert_eq!(bench.hosts(), ["a.test:80"]);
    }
    bench.write("a.yaml", &format!("{GATEWAY}{junk}"));
    bench.look();
    assert!(bench.hosts().is_empty());
}

#[test]
fn a_file_that_becomes_empty_keeps_what_it_defined_and_a_comment_does_not() {
    let mut bench = Bench::new();
    bench.write("g.yaml", GATEWAY);
    bench.write("a.yaml", &route("a"));
    bench.look();
    for _ in 0..2 {
        bench.write("a.yaml", "");
        let status = bench.look();
        assert_eq!(bench.hosts(), ["a.test:80"]);
        assert!(status.serving_last_good.is_some());
        assert!(status.diagnostics.iter().any(|finding| finding.message.contains("has become empty")));
    }
    bench.write("a.yaml", &route_to("a", "a2.test"));
    assert_eq!(bench.look().serving_last_good, None);
    assert_eq!(bench.hosts(), ["a2.test:80"]);
    bench.write("a.yaml", "# nothing any more\n");
    bench.look();
    assert!(bench.hosts().is_empty());
    // What never held anything may be empty.
    bench.write("b.yaml", "");
    assert_eq!(bench.look().serving_last_good, None);
}

#[test]
fn a_deleted_file_deletes_and_a_vanished_folder_does_not() {
    let mut bench = Bench::new();
    bench.write("g.yaml", GATEWAY);
    bench.write("a.yaml", &route("a"));
    bench.write("b.yaml", &route("b"));
    bench.look();
    fs::remove_file(bench.conf().join("a.yaml")).unwrap();
    assert_eq!(bench.look().serving_last_good, None);
    assert_eq!(bench.hosts(), ["b.test:80"]);

    let away = bench.dir.path().join("away");
    fs::rename(bench.conf(), &away).unwrap();
    let status = bench.look();
    assert_eq!(bench.hosts(), ["b.test:80"]);
    assert!(has(&status, Code::ENVIRONMENT, Level::Error) && status.serving_last_good.is_some());
    fs::rename(&away, bench.conf()).unwrap();
    fs::remove_file(bench.conf().join("b.yaml")).unwrap();
    let status = bench.look();
    assert_eq!(bench.hosts(), [""; 0]);
    assert_eq!(status.serving_last_good, None);
}

#[test]
fn an_object_that_moves_between_files_never_stops_to_serve() {
    let mut bench = Bench::new();
    bench.write("g.yaml", GATEWAY);
    bench.write("a.yaml", &route("a"));
    bench.look();
    fs::rename(bench.conf().join("a.yaml"), bench.conf().join("z.yaml")).unwrap();
    assert_eq!(bench.look().generation, 1);
    assert_eq!(bench.hosts(), ["a.test:80"]);
    // Moved and broken at once.
    fs::remove_file(bench.conf().join("z.yaml")).unwrap();
    bench.write("b.yaml", &invalid("a"));
    bench.look();
    assert_eq!(bench.hosts(), ["a.test:80"]);
}

#[test]
fn of_two_objects_with_one_key_the_one_that_serves_stays() {
    let mut bench = Bench::new();
    bench.write("g.yaml", GATEWAY);
    bench.write("m.yaml", &route_to("a", "m.test"));
    bench.look();
    bench.write("a.yaml", &route_to("a", "a.test"));
    bench.write("z.yaml", &route_to("a", "z.test"));
    let status = bench.look();
    assert_eq!(bench.hosts(), ["m.test:80"]);
    let twice: Vec<_> = status.diagnostics.iter().filter(|finding| finding.code == Code::DUPLICATE).collect();
    assert_eq!(twice.len(), 2);
    assert!(twice[0].origin.file.ends_with("a.yaml") && twice[0].message.contains("m.yaml:2:1"), "{}", twice[0]);
    // The first in the order of paths takes over.
    fs::remove_file(bench.conf().join("m.yaml")).unwrap();
    bench.look();
    assert_eq!(bench.hosts(), ["a.test:80"]);
}

#[test]
fn kinds_that_are_not_served_are_told_once_for_each_kind() {
    let mut bench = Bench::new();
    let skipped = |api: &str, kind: &str| format!("---\napiVersion: {api}\nkind: {kind}\nmetadata:\n  name: x\n");
    bench.write("a.yaml", &[GATEWAY, &skipped("apps/v1", "Deployment").repeat(5)].concat());
    bench.write("b.yaml", &[skipped("apps/v1beta1", "Deployment"), skipped("v1", "ServiceAccount")].concat());
    let status = bench.look();
    let told: Vec<_> = status.diagnostics.iter().filter(|finding| finding.code == Code::KIND_NOT_SERVED).collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].message.starts_with("Deployment (apps/v1) is not served yet: 6 documents"), "{}", told[0]);
    assert!(status.last_reload.as_ref().unwrap().success);
}

#[test]
fn nothing_is_published_before_anything_could_be_read() {
    let mut bench = Bench::new();
    fs::remove_dir(bench.conf()).unwrap();
    let status = bench.look();
    assert!(!bench.control.is_serving());
    assert!(has(&status, Code::ENVIRONMENT, Level::Error));
    // An empty folder is a configuration.
    fs::create_dir(bench.conf()).unwrap();
    assert_eq!(bench.look().generation, 1);
    assert!(bench.control.is_serving());
}

fn state_in(dir: &Path) -> StateFile {
    StateFile::at(dir.join("state/last-good.state"))
}

/// Runs a process over a folder until its state is written, with an object that serves in an older form.
fn first_life() -> (TempDir, String) {
    let dir = TempDir::new().unwrap();
    let state = state_in(dir.path());
    let mut bench = Bench::in_dir(dir, Some(&state));
    bench.write("g.yaml", &format!("# licence\n{GATEWAY}"));
    bench.write("a.yaml", &format!("{}{}", route("a"), route("b")));
    bench.look();
    bench.write("a.yaml", &format!("# moved\n\n{}{}{}", invalid("a"), route("b"), route("c")));
    let hash = bench.look().hash.clone();
    assert_eq!(bench.hosts(), ["a.test:80", "b.test:80", "c.test:80"]);
    let Bench { dir, control, .. } = bench;
    drop(control);
    (dir, hash)
}

#[test]
fn a_restart_serves_the_same_hash_whatever_became_of_the_folder() {
    type Accident = fn(&Path);
    let accidents: [(&str, Accident); 5] = [
        ("nothing", |_| {}),
        ("missing", |conf| fs::remove_dir_all(conf).unwrap()),
        ("empty", |conf| {
            fs::remove_dir_all(conf).unwrap();
            fs::create_dir(conf).unwrap();
        }),
        ("broken", |conf| {
            fs::write(conf.join("a.yaml"), "a: [").unwrap();
            fs::write(conf.join("g.yaml"), b"\0").unwrap();
        }),
        ("rejected", |conf| {
            let text = [invalid("a"), undecodable("b"), invalid("c")].concat();
            fs::write(conf.join("a.yaml"), text).unwrap();
        }),
    ];
    for (what, accident) in accidents {
        let (dir, hash) = first_life();
        let conf = dir.path().join("conf");
        accident(&conf);
        let state = state_in(dir.path());
        let exists = conf.exists();
        let mut bench = Bench::in_dir(dir, Some(&state));
        if !exists {
            fs::remove_dir(&conf).unwrap();
        }
        let status = bench.look();
        assert_eq!(status.hash, hash, "{what}");
        assert!(status.serving_last_good.is_some(), "{what}");
        assert_eq!(bench.hosts(), ["a.test:80", "b.test:80", "c.test:80"], "{what}");
    }
}

#[test]
fn places_survive_a_restart() {
    let (dir, _) = first_life();
    let state = state_in(dir.path());
    fs::remove_dir_all(dir.path().join("conf")).unwrap();
    let mut bench = Bench::in_dir(dir, Some(&state));
    fs::remove_dir(bench.conf()).unwrap();
    bench.look();
    let places: Vec<_> =
        bench.control.ledger.documents().map(|(key, file, _)| (key.to_string(), file.clone())).collect();
    assert!(places.iter().any(|(key, file)| key == "VirtualService default/a" && file.ends_with("a.yaml")));
    let objects = bench.control.ledger.resolve(&bench.source.scan(), None, &ParseOptions::default()).set;
    let lines: Vec<_> =
        objects.iter().map(|object| (object.key.name.to_string(), object.origin.position.line)).collect();
    let expected = [("g", 2), ("a", 2), ("b", 15), ("c", 26)];
    assert_eq!(lines, expected.map(|(name, line)| (name.to_owned(), line)));
}

#[test]
fn deletions_while_the_process_was_away_are_deletions() {
    let (dir, _) = first_life();
    let state = state_in(dir.path());
    fs::write(dir.path().join("conf/a.yaml"), route("b")).unwrap();
    let mut bench = Bench::in_dir(dir, Some(&state));
    let status = bench.look();
    assert_eq!(bench.hosts(), ["b.test:80"]);
    assert_eq!(status.serving_last_good, None);
}

#[test]
fn what_was_saved_serves_before_the_folder_can_be_read() {
    let (dir, hash) = first_life();
    let state = state_in(dir.path());
    let mut bench = Bench::in_dir(dir, Some(&state));
    let saved = bench.saved.take().unwrap();
    bench.control.serve_saved(&saved);
    assert_eq!(bench.status.get().hash, hash);
    assert!(bench.status.get().serving_last_good.is_some());
    // The folder is there after all.
    bench.write("a.yaml", &format!("{}{}", route("a"), route("b")));
    let status = bench.look();
    assert_eq!(status.generation, 2);
    assert_eq!(bench.hosts(), ["a.test:80", "b.test:80"]);
    assert_eq!(status.serving_last_good, None);
}

#[test]
fn secrets_are_not_saved() {
    let dir = TempDir::new().unwrap();
    let state = state_in(dir.path());
    let mut bench = Bench::in_dir(dir, Some(&state));
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: s\nstringData:\n  password: hunter2\n";
    bench.write("a.yaml", &format!("{GATEWAY}{secret}{}", route("a")));
    bench.look();
    let Bench { dir, control, .. } = bench;
    drop(control);
    let text = fs::read_to_string(state.path()).unwrap();
    assert!(text.contains("a.test") && !text.contains("hunter2"), "{text}");
    drop(dir);
}

/// A ConfigMap with an authority.
fn roots() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    let lines: String = pem.lines().map(|line| format!("    {line}\n")).collect();
    format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: roots\ndata:\n  ca.crt: |\n{lines}")
}

#[test]
fn authorities_alone_are_no_new_configuration_and_are_saved() {
    let dir = TempDir::new().unwrap();
    let state = state_in(dir.path());
    let name = tidegate_core::SecretName::config_map("default", "roots");
    let mut bench = Bench::in_dir(dir, Some(&state));
    bench.write("a.yaml", &format!("{GATEWAY}{}", route("a")));
    bench.look();
    for version in 1..3 {
        bench.write("roots.yaml", &roots());
        let status = bench.look();
        assert_eq!((status.generation, bench.publications()), (1, 1));
        let slot = bench.control.secrets.store().get(&name).unwrap();
        assert_eq!(slot.current().unwrap().version, version);
    }
    let Bench { dir, control, .. } = bench;
    drop(control);
    assert!(state.load().unwrap().unwrap().objects.keys().any(|key| &*key.name == "roots"));
    // A restart whose folder is gone has them all the same.
    fs::rename(dir.path().join("conf"), dir.path().join("away")).unwrap();
    let mut bench = Bench::in_dir(dir, Some(&state));
    fs::remove_dir(bench.conf()).unwrap();
    let status = bench.look();
    assert_eq!(status.generation, 1, "{:?}", status.diagnostics);
    assert!(bench.control.secrets.store().get(&name).is_some_and(|slot| slot.current().is_some()));
}

#[test]
fn what_goes_wrong_with_a_secret_later_is_told_without_a_reload() {
    let mut bench = Bench::new();
    bench.write("a.yaml", &format!("{GATEWAY}{}", route("a")));
    let before = bench.look();
    let offer = tidegate_sds::Offer::new(
        tidegate_core::SecretName::new("sds://vault"),
        tidegate_sds::SourceKind::Sds,
        tidegate_core::Origin::new("vault", 0, 0),
        tidegate_sds::Payload::Broken("it holds nothing".into()),
    );
    drop(bench.control.secrets.store().offer(vec![offer]));
    bench.control.tell_secrets();
    let after = bench.status.get();
    assert!(has(&after, Code::SCHEMA, Level::Error), "{:?}", after.diagnostics);
    assert_eq!(after.last_reload, before.last_reload);
}
