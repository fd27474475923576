//! The binary: command line and wiring.
//!
//! It owns the arguments, the exit codes and what people read; everything that serves traffic is in the crates below.

mod backend;
mod cli;
mod control;
mod demo;
mod logging;
mod render;
mod run;
mod secrets;
mod shutdown;
mod state;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The one crypto provider in use. It is installed before anything can ask for one, so this cannot fail; if it ever
    // does, an earlier one is in place and works as well.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::main()
}
