use std::fs;
use std::sync::Arc;

use tempfile::TempDir;
use tidegate_mesh_bridge::files::{FileSource, Limits, Root};
use tidegate_resources::ParseOptions;

use super::super::ledger::{Ledger, Resolution, Scope};

/// The same numbers each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Whatever happens to the files, following what changed comes to what looking at everything comes to.
#[test]
fn a_ledger_that_follows_changes_agrees_with_one_that_looks_at_everything() {
    let dir = TempDir::new().unwrap();
    let (conf, away) = (dir.path().join("conf"), dir.path().join("away"));
    fs::create_dir(&conf).unwrap();
    let mut source = FileSource::new(vec![Root::resources(&conf)], Limits::default(), ParseOptions::default());
    let mut random = Random(3);
    for scope in [Scope::Everything, Scope::Material] {
        let (mut follows, mut looks) = (Ledger::new(scope), Ledger::new(scope));
        for step in 0..400 {
            if away.exists() {
                fs::rename(&away, &conf).unwrap();
            }
            for _ in 0..random.below(3) {
                let file = conf.join(format!("{}.yaml", random.below(6)));
                let object = |random: &mut Random| {
                    let name = format!("o{}", random.below(8));
                    match random.below(12) {
                        0 => "---\nkind: {".to_owned(),
                        1 => "---\napiVersion: v1\nkind: Namespace\nmetadata: {}\n".to_owned(),
                        2 => format!(
                            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{nonsense: 1}}\n"
                        ),
                        3 => format!(
                            "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{a: 'b'}}\n"
                        ),
                        4 => format!(
                            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata: {{a: 'b'}}\n"
                        ),
                        5 => format!(
                            "---\n# moved\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n"
                        ),
                        _ => {
                            let port = 80 + random.below(3);
                            format!(
                                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
                            )
                        }
                    }
                };
                match random.below(8) {
                    0 => drop(fs::remove_file(&file)),
                    1 => {
                        let other = conf.join(format!("{}.yaml", random.below(6)));
                        drop(fs::rename(&file, &other));
                    }
                    // One document more: the others of the file stay.
                    2 | 3 => {
                        let text = fs::read_to_string(&file).unwrap_or_default();
                        fs::write(&file, text + &object(&mut random)).unwrap();
                    }
                    _ => {
                        let text: String = (0..1 + random.below(4)).map(|_| object(&mut random)).collect();
                        fs::write(&file, text).unwrap();
                    }
                }
            }
            if random.below(12) == 0 {
                fs::rename(&conf, &away).unwrap();
            }
            let view = source.scan();
            looks.forget_view();
            let a = follows.resolve(&view, None, &ParseOptions::default());
            let b = looks.resolve(&view, None, &ParseOptions::default());
            let told = |it: &Resolution| {
                let flags = (it.changed, it.moved, it.unsaved);
                let objects: Vec<_> = it.set.iter().map(Arc::as_ptr).collect();
                let lists = (it.diagnostics.clone(), it.last_good.clone(), it.rejected.clone());
                (flags, objects, lists, it.why_last_good.clone())
            };
            assert_eq!(told(&a), told(&b), "{scope:?} step {step}");
            let documents = |ledger: &Ledger| -> Vec<_> {
                ledger.documents().map(|(key, file, text)| (key.clone(), file.clone(), Arc::as_ptr(text))).collect()
            };
            assert_eq!(documents(&follows), documents(&looks), "{scope:?} step {step}");
            assert_eq!(follows.take_unsaved(), looks.take_unsaved(), "{scope:?} step {step}");
        }
    }
}
