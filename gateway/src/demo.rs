//! What `tidegate demo` shows: a small application in the manner of Istio's Bookinfo, and the configuration that puts
//! it behind the gateway.
//!
//! It owns the application's services (real HTTP servers on loopback, in this process), the page, and the files that
//! the user is meant to edit. It does not own the gateway: that is an ordinary `run` over the folder. The page asks the
//! other services *through* the gateway, so what the user configures is what the page shows.

mod backends;
mod caller;
mod certificate;
mod files;
mod page;
mod services;

pub(crate) use backends::Backends;
pub(crate) use files::{Folder, FolderError, Ports, Written};
