//! Sources that this crate has itself: files that configuration names, folders of PEM pairs, and what Kubernetes
//! calls a Secret or a ConfigMap once somebody has read it. Each offers to the store; none decides.

mod files;
mod folder;
pub mod kubernetes;
mod read;
mod units;
mod watch;

pub use files::FileWatcher;
pub use folder::FolderWatcher;
