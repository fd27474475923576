//! Names and facts that every other crate shares: resource keys, origins, diagnostics, host names, cluster names,
//! the process's lifecycle.
//!
//! It owns vocabulary only: no parsing of resources, no I/O, no configuration model. Nothing here depends on another
//! Tidegate crate.

mod cluster_name;
mod diagnostic;
mod host;
mod injection;
mod lifecycle;
mod resource;
mod secret;

pub use cluster_name::{ClusterName, Direction};
pub use diagnostic::{Code, Diagnostic, Diagnostics, Level};
pub use host::{Host, HostError};
pub use injection::panic_point;
pub use lifecycle::{Lifecycle, Phase};
pub use resource::{Kind, Origin, Position, ResourceKey};
pub use secret::{SecretBytes, SecretName, SecretSource};
