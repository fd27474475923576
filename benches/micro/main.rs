//! Micro-benchmarks of our own hot paths, and their instruction gates.
//!
//! `cargo bench --bench micro` measures wall time and allocations, `... -- selection` what has that in its name.
//! `cargo bench --bench micro -- gate` counts instructions under callgrind and compares them with `instructions.json`;
//! `gate --update` writes that table. `cargo test` runs everything once, the larger sizes left out.
//!
//! A fixture holds what a request or a reload finds in place, and checks before anything is measured that it does what
//! its name says.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "the tables are the output")]

mod configuration;
mod fixtures;
mod publish;
mod request;
mod selection;
mod workloads;

use std::path::Path;
use std::process::ExitCode;

use divan::{AllocProfiler, Divan};
use mimalloc::MiMalloc;
use tidegate_micro::{Gate, GateError, RUN};

use crate::fixtures::is_test;
use crate::workloads::{BOUNDS, WORKLOADS};

// The allocator of the binary.
#[global_allocator]
static ALLOCATOR: AllocProfiler<MiMalloc> = AllocProfiler::new(MiMalloc);

fn main() -> ExitCode {
    // Cargo adds `--bench` to whatever it is told.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let gate = Gate { table, workloads: WORKLOADS, bounds: BOUNDS };
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["gate", options @ ..] => check(&gate, options),
        [RUN, name, operations] => {
            let operations = operations.parse().expect("a number of operations");
            gate.run_workload(name, operations).map(|()| ExitCode::SUCCESS)
        }
        _ if is_test() => test(&gate, &arguments),
        _ => {
            divan::main();
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

/// Runs everything once. Options are those of other test programs, which have names to choose from; here there are none.
fn test(gate: &Gate, options: &[String]) -> Result<ExitCode, GateError> {
    if !options.iter().any(|option| option == "--list") {
        Divan::default().test_benches();
        WORKLOADS.iter().try_for_each(|workload| gate.run_workload(workload.name, 1))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `--update` writes what was counted into the table; other options are parts of names.
fn check(gate: &Gate, options: &[&str]) -> Result<ExitCode, GateError> {
    let (flags, wanted): (Vec<&str>, Vec<&str>) = options.iter().partition(|option| option.starts_with('-'));
    if let Some(unknown) = flags.iter().find(|flag| **flag != "--update") {
        return Err(GateError::UnknownOption((*unknown).to_owned()));
    }
    let counts = gate.measure(&wanted)?;
    if !flags.is_empty() {
        println!("{}\nwritten to {}", gate.update(&counts)?, gate.table.display());
        return Ok(ExitCode::SUCCESS);
    }
    let verdict = gate.compare(&counts)?;
    println!("{}", verdict.report);
    for failure in &verdict.failures {
        println!("failed: {failure}");
    }
    if verdict.failures.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("if the new cost is meant: make gate GATE_ARGS=--update, and say why in the commit");
    Ok(ExitCode::FAILURE)
}
