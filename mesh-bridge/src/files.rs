//! A folder (or files) of YAML and JSON as a source of configuration.
//!
//! [`FileSource`] looks: it walks the roots, reads what changed, parses and validates it, and returns a [`View`].
//! [`Watcher`] decides when to look, and at what: on inotify events once they have settled (at the files that they name, if
//! nothing else can have changed), on request and every few seconds, for events that were lost, at everything.

mod glance;
mod limits;
mod read;
mod source;
mod view;
mod walk;
mod watch;

pub use limits::Limits;
pub use read::reread;
pub use source::{FileSource, Progress, Root, RootContent};
pub use view::{FileView, Gap, GapKind, Offer, SourceDocument, Understanding, View};
pub use watch::{WatchTiming, Watcher};
