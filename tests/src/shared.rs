//! The facts and samples beside the checkout. Tests pass on their own fixtures where they are not there.

use std::path::{Path, PathBuf};

/// The folder that `TIDEGATE_SHARED` names, by default `../shared` beside the workspace; none if it does not exist.
pub fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("TIDEGATE_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"));
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("no shared folder at {}: only the project's own cases are run", folder.display());
    None
}

/// All YAML files below `folder`, sorted.
pub fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}
